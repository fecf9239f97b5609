"""
Serve a request port: pass datagrams of members to their casts, and read all others as requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import outcomes
from castd.errors import Busy, Refused, Unanswered, WireError
from castd.files.threads import asDeferred, whenAll
from castd.interfaces import ICastTransport, IContent, IDialect, ISite, ISuccessor, IUpgradable
from castd.machines.known import KnownMachine
from castd.net.faults import logFault
from castd.networks import isMany
from castd.options import ListenOptions
from castd.pacing import TICK
from castd.profiles.table import Profile
from castd.request import Local, Peer, Request, hostPort
from castd.server import eventlog
from castd.server.cast_protocol import CastProtocol, closeContent
from castd.server.port_dialect import PortDialect
from castd.server.recorded import noteRequest
from castd.server.refusals import Refusals
from castd.server.sessions import Opener, Session, Sessions, inTime
from castd.server.shedding import Shedding
from castd.server.upload_protocol import UploadProtocol
from castd.server.waiting_writes import WaitingWrites

_log = Logger(namespace="castd")

#: How long the next answer of a client is waited for whose request has come once more: longer than a busy machine
#: mostly stalls, too short for a client that has restarted to notice.  Seconds.
COPY_WAIT = 0.1

T = TypeVar("T")


class _Doubt:
    """
    Judges a request that may be a late copy when its client has had time to go on.

    @ivar due, heapEntry: see L{castd.net.timers.TimerTarget}.
    """

    __slots__ = ("_judge", "due", "heapEntry")

    def __init__(self, judge: Callable[[], None]) -> None:
        self.due: float | None = None
        self.heapEntry: tuple[float, int] | None = None
        self._judge = judge

    def timerExpired(self) -> None:
        self._judge()


@implementer(ICastTransport, IUpgradable)
class Listener(DatagramProtocol):
    """
    Serves one or several dialects at one address.

    @ivar interface, port: see L{ICastTransport}.
    @ivar refusals: refuses the requests that are not served.
    """

    noisy = False
    #: The L{IListeningPort<castd.interfaces.IListeningPort>} while it is connected.
    transport: Any = None

    def __init__(self, site: ISite, name: str, options: ListenOptions, dialect: IDialect) -> None:
        self.site = site
        self.interface: str = options.interface
        self.port: int = options.port
        self._entries = [PortDialect(name, options, dialect)]
        self._sessions = Sessions(site)
        self.refusals = Refusals(site, self._send)
        self._opener = Opener(site, self, self._sessions)
        self._shedding = Shedding(site, self._sessions, lambda: self._entries[0].name)
        self._drained: Deferred[None] | None = None
        # Peers whose request may be a late copy, until their next answer tells.
        self._doubted: set[Peer] = set()
        self._writes = WaitingWrites(site)
        # Requests of peers that have asked for another file while one was looked up for them.
        self._askedAnew: dict[Peer, tuple[bytes, Local]] = {}

    # Start, reload and stop.

    def startProtocol(self) -> None:
        self.site.requestPorts[self.port] += 1
        self._admitReceivers()

    def _admitReceivers(self) -> None:
        """
        Let receivers on this machine bind the number of the port to a group, if and only if one has that number; the
        socket may be that of another process before, or the service file another one.
        """
        if self.transport is not None:
            self.transport.admitReceivers(any(entry.sharesNumber for entry in self._entries))

    def stopProtocol(self) -> None:
        self.site.requestPorts -= Counter([self.port])
        self._shedding.tell(self.site.reactor.seconds())

    def share(self, other: object) -> bool:
        """Take over the dialects of another listener that is configured at this address; they are asked last."""
        if not isinstance(other, Listener) or other.at != self.at:
            return False
        self._entries += other._entries
        return True

    def casts(self) -> Iterator[Session]:
        """Return the casts and uploads that are under way."""
        return iter(self._sessions.underWay)

    def become(self, other: Listener) -> None:
        """
        Serve the dialects of another listener; those with equal options keep their groups, and casts under way go on.
        """
        self._entries = [
            next((ours for ours in self._entries if (ours.name, ours.options) == (entry.name, entry.options)), entry)
            for entry in other._entries
        ]
        self._sessions.successor = self._drained = None
        self._admitReceivers()

    def drain(self) -> Deferred[None]:
        """As L{ICastTransport.drain}."""
        if self._drained is None:
            self._drained = Deferred()
            for session in list(self._sessions.underWay):
                session.endIfIdle()
            self._checkDrained()
        return self._drained

    @property
    def draining(self) -> bool:
        """Whether no new requests are served."""
        return self._drained is not None

    def stop(self) -> Deferred[None]:
        """As L{ICastTransport.stop}."""
        return Deferred.fromCoroutine(self._endAll(list(self._sessions.underWay)))

    async def _endAll(self, sessions: Sequence[Session]) -> None:
        """End these casts and uploads, in slices: each receiver takes a third of a millisecond."""
        pause, closing = self.site.slices.pauses(), list[Deferred[None]]()
        for session in sessions:
            if (waiting := pause()) is not None:
                await waiting
            if session in self._sessions.underWay:  # its peer may have ended it
                try:
                    ended = session.end(outcomes.STOPPED)
                except BaseException:
                    logFault("a transfer could not be ended")
                else:
                    if ended is not None:
                        closing.append(ended)
        await whenAll(closing)

    def _checkDrained(self) -> None:
        if self._drained is None or self._sessions.underWay or self._drained.called:
            return
        # Requests that were read before the successor took over are still answered, by this process or by the
        # successor.
        waiting = self._sessions.lookingUp or self._doubted or self._writes.waiting
        if self._sessions.successor is None or not waiting:
            self._drained.callback(None)

    @property
    def dialects(self) -> Sequence[PortDialect]:
        """The dialects at this port, in the order in which they are asked."""
        return self._entries

    @property
    def opener(self) -> Opener:
        """What begins the casts of this port."""
        return self._opener

    def serves(self, host: str) -> bool:
        """Return whether a receiver at this address is being served here that has answered."""
        return self._sessions.serves(host)

    # Another process takes over.

    @property
    def at(self) -> tuple[str, int]:
        """Interface and port."""
        return self.interface, self.port

    def requestPortPeers(self) -> Iterable[Peer]:
        """Return the members whose datagrams come to the request port itself."""
        return tuple(self._sessions.onPort)

    def groups(self) -> Iterable[tuple[str, int]]:
        """Return the groups that casts of this listener send to."""
        casts = (session for session in self._sessions.underWay if isinstance(session, CastProtocol))
        return [cast.group for cast in casts if cast.group is not None]

    def handOver(self, successor: ISuccessor) -> Deferred[None]:
        """As L{IUpgradable.handOver}."""
        self._sessions.successor = successor
        return self.drain()

    # Datagrams at the request port.

    def datagramFrom(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """
        Handle a datagram at the request port; C{local} is the address that it was sent to.
        """
        member = self._sessions.onPort.get(peer)
        try:
            if member is not None:
                member.datagramReceived(datagram, peer)
            elif self.site.predecessor is not None and self.site.predecessor.serves(self.at, peer):
                self.site.predecessor.forward(self.at, datagram, peer, local)
            elif self._plausible(peer, local) and not self._shedding.drops(peer, local):
                began = self.site.reactor.seconds() if self._sessions.onPort else None
                self._requested(datagram, peer, local)
                if began is not None:
                    self._shedding.time.spend(began, self.site.reactor.seconds())
        except BaseException:
            # A fault of one dialect must not close the port for the others.
            self._logFault()

    def _logFault(self) -> None:
        """Log the exception that is being handled, a fault of castd or of a plugin."""
        _log.failure("{transport}: a datagram failed", event="fault", transport=self._entries[0].name)

    def _requested(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """Handle a datagram that may be a request: its peer is served at another port, or not at all."""
        if self.site.recorder is not None:
            self.site.recorder.requested(datagram, peer, local)
        session = self._sessions.members.get(peer)
        unheard = None if session is None or session.heard(peer) else session
        if session is not None:
            # What the peer has sent before, perhaps the last ACK of the file before this one.
            session.readArrived()
            if self.site.recorder is not None:
                noteRequest(session, datagram, peer, local)
        self._serve(datagram, peer, local, unheard=unheard)

    def drop(self, reason: str) -> None:
        """Count a datagram that is dropped without a word in the log, by one of L{outcomes.DROPPED}."""
        self.site.dropped[reason] += 1

    def peerUnreachable(self, peer: Peer) -> None:
        """Pass on that a host reports the port of a peer as closed (ICMP port unreachable)."""
        if (member := self._sessions.onPort.get(peer)) is not None:
            member.peerUnreachable(peer)
        elif self.site.predecessor is not None and self.site.predecessor.serves(self.at, peer):
            self.site.predecessor.forwardUnreachable(self.at, peer)

    def _plausible(self, peer: Peer, local: Local) -> bool:
        """
        Return whether a peer may be answered: not port 0, nor a request port of this server, as the two could loop, nor
        many machines at once.
        """
        if self._closing():
            return False
        own = peer[0] == local.host and self.site.requestPorts.get(peer[1])
        if peer[1] == 0 or own or isMany(peer[0], local.broadcasts):
            self.drop(outcomes.IMPLAUSIBLE)
            return False
        return True

    def _closing(self) -> bool:
        """
        Find out whether new requests are ignored, and count this one if so.  They are not ignored if there is a
        successor: one that cannot join a group of this process is returned to it.
        """
        closing = self.draining and self._sessions.successor is None
        if closing:
            self.drop(outcomes.DRAINING)
        return closing

    def _serve(self, datagram: bytes, peer: Peer, local: Local, first: int = 0, unheard: Session | None = None) -> None:
        """
        Find the dialect that this request is for, beginning with number C{first}, and serve it.

        @param unheard: the transfer of the peer, if nothing had been read of the peer since its request until now.
        """
        found = self._read(datagram, peer, local, first)
        if found is None:
            return
        index, request = found
        if _isCopy(request, unheard) or self._answeredAgain(self._entries[index], request, datagram):
            return
        if request.write:
            self._writes.add(request, partial(self._admitWrite, self._entries[index], request, datagram))
        else:
            self._admit(index, request, datagram)

    def _read(self, datagram: bytes, peer: Peer, local: Local, first: int) -> tuple[int, Request] | None:
        """Find the first dialect that this request is for; one that answers no broadcasts leaves them to the next."""
        reason = outcomes.STRAY
        for index, entry in enumerate(self._entries[first:], first):
            try:
                request = entry.dialect.request(datagram, peer, local)
            except WireError as error:
                eventlog.malformed(peer, datagram, error)
                return None
            except Refused as error:
                self.refusals.refuse(entry, None, peer, local, error)
                return None
            if request is None:
                continue
            if not local.broadcast or entry.broadcast:
                return index, request
            reason = outcomes.BROADCAST
        self.drop(reason)
        return None

    def _answeredAgain(self, entry: PortDialect, request: Request, datagram: bytes) -> bool:
        """
        Answer a request of a peer that is served already.

        @return: C{True}: it was a repetition.  C{False}: the peer is new, or its machine has restarted.
        """
        session = self._sessions.members.get(request.peer)
        if session is None:
            if request.peer in self._sessions.lookingUp:
                self._askedWhileLookedUp(request, datagram)
                return True
            return request.peer in self._writes.waiting and self._writes.repeats(request)
        if not self.site.admission.mayRepeat(request.peer[0], self.site.reactor.seconds()):
            self.drop(outcomes.REPETITIONS)
            return True
        if session.answerAgain(request, entry.dialect) or self._declinedBefore(session, entry, request, datagram):
            return True
        if self._mayGoOn(session, request, datagram):
            return True
        session.replace(request.peer)
        return False

    def _askedWhileLookedUp(self, request: Request, datagram: bytes) -> None:
        """
        Note a request of a peer whose file is being looked up.  If it asks for another one it has restarted: what is
        looked up is not for it any more, and it is served when that is found.
        """
        if request.repeats(self._sessions.lookingUp[request.peer]):
            self._askedAnew.pop(request.peer, None)
        else:
            self._askedAnew[request.peer] = datagram, request.local

    def hasAskedAnew(self, peer: Peer) -> bool:
        """Return whether a peer has asked for something else while its file was looked up."""
        return peer in self._askedAnew

    def _serveAnew(self, peer: Peer, failure: Failure | None = None) -> bool:
        """
        Serve the request of a peer that came while its file was looked up, if it has asked for another one.

        @param failure: why nothing was found.  A request that could not be answered may have waited for half a minute:
            whoever waits still asks again.
        @return: whether there is one, so that the peer has no use for what was found.
        """
        anew = self._askedAnew.pop(peer, None)
        if anew is None or (failure is not None and failure.check(Unanswered)):
            return False
        datagram, local = anew
        self._serve(datagram, peer, local)
        return True

    def _mayGoOn(self, session: Session, request: Request, datagram: bytes) -> bool:
        """
        Wait for the next answer of a client if this may be a late copy of the request that began its transfer, which
        the network has made: a client that has restarted does not go on.

        @return: whether it is waited for; its answer, or L{COPY_WAIT}, decides.
        """
        peer, clock = request.peer, self.site.reactor
        if not session.begunBy(request) or (isinstance(session, CastProtocol) and session.group is not None):
            # Whoever is in a group asks again when it hears nothing of it.
            return False
        if session.clientWaits():
            # A client that has restarted asks again.
            self.drop(outcomes.COPIES)
            return True
        if peer not in self._doubted:
            before = session.position(peer)
            self._doubted.add(peer)
            judge = partial(self._judgeCopy, session, before, datagram, peer, request.local)
            # Not by a delayed call for each: a busy server finds hundreds of copies at once, and would judge all of
            # them in one turn of the reactor.
            self.site.timers.set(_Doubt(judge), clock.seconds() + COPY_WAIT)
            # A block that came now would confuse a client that has restarted.
            session.repeatLater(clock.seconds() + COPY_WAIT + TICK)
        return True

    def _judgeCopy(
        self, session: Session, position: tuple[int, int], datagram: bytes, peer: Peer, local: Local
    ) -> None:
        """
        Serve a request that may be a copy, unless its client has gone on with the transfer, or has asked for another.

        @param position: that of the transfer when the request came.
        """
        self._doubted.discard(peer)
        try:
            if self._sessions.members.get(peer) is session:
                session.readArrived()
            member = self._sessions.members.get(peer)
            asked, sent = session.position(peer)
            # If it is over without another block, its last ACK was sent before the request, perhaps.
            wentOn = asked != position[0] if member is session else sent != position[1]
            if wentOn or member not in (session, None):
                self.drop(outcomes.COPIES)
                return
            session.replace(peer)
            self._serve(datagram, peer, local)
        except BaseException:
            self._logFault()
        finally:
            self._checkDrained()

    def _declinedBefore(self, session: Session, entry: PortDialect, request: Request, datagram: bytes) -> bool:
        """
        Answer a repeated request by the dialect that serves the peer, if this dialect has declined the first one.  Else
        it would count as a restart, and a late answer to the first request would lead the client to a closed port.

        @return: whether it was a repetition.
        """
        if not isinstance(session, CastProtocol) or session.entry.dialect is entry.dialect:
            return False
        dialect = session.entry.dialect
        with suppress(WireError, Refused):
            asked = dialect.request(datagram, request.peer, request.local)
            return asked is not None and session.answerAgain(asked, dialect)
        return False

    def _admitWrite(self, entry: PortDialect, request: Request, datagram: bytes) -> None:
        """Admit a write request, which may have waited for others to be read."""
        try:
            if entry in self._entries:
                self._admit(self._entries.index(entry), request, datagram)
            else:
                # A reload has exchanged the dialects.
                self._serve(datagram, request.peer, request.local)
        finally:
            self._checkDrained()

    def _admit(self, index: int, request: Request, datagram: bytes) -> None:
        if self._closing():
            return
        entry = self._entries[index]
        profiles, byMachine = self.site.profiles, False
        found: Sequence[Profile] = ()
        if entry.profiled and profiles is not None and (found := profiles.matching(request, entry.name)):
            byMachine = profiles.byMachine and any(each.byMachine for each in found)
            request = request if byMachine else self._applyProfiles(request, found)
        if self.site.showsRequests:
            eventlog.requested(entry.name, request)
        limit = self.site.admission.crowded(request.peer, self.site.reactor.seconds(), request.local.networks)
        if limit is not None:
            self.refusals.crowded(entry, request, limit)
        elif byMachine:
            self._findMachine(entry, request, datagram, found)
        else:
            self._begin(index, request, datagram)

    def _applyProfiles(
        self, request: Request, found: Sequence[Profile], machine: KnownMachine | None = None
    ) -> Request:
        """Return a request with what is done differently for its client, and count it."""
        profiles = self.site.profiles
        if profiles is None:
            return request
        request, applied = profiles.apply(request, found, machine)
        self.site.profileHits.add(applied)
        return request

    def _findMachine(self, entry: PortDialect, request: Request, datagram: bytes, found: Sequence[Profile]) -> None:
        """Find out which machine asks, since some of the profiles that may be for the request depend on it."""
        self._sessions.beginLookup(request)
        machine = asDeferred(self.site.machines.machineOf(request.peer, request.local.host))
        machine.addCallback(self._machineFound, entry, request, datagram, found)
        machine.addErrback(self._requestFailed, entry, request)

    def _machineFound(
        self, machine: KnownMachine, entry: PortDialect, request: Request, datagram: bytes, found: Sequence[Profile]
    ) -> None:
        self._sessions.endLookup(request.peer)
        if self._serveAnew(request.peer):
            pass
        elif entry not in self._entries:
            # A reload has exchanged the dialects, and perhaps the profiles.
            self._serve(datagram, request.peer, request.local)
        elif not self._closing():
            self._begin(self._entries.index(entry), self._applyProfiles(request, found, machine), datagram)
        self._checkDrained()

    def _begin(self, index: int, request: Request, datagram: bytes) -> None:
        """Look up the file of a request that may be served, or begin its upload."""
        entry, host = self._entries[index], request.peer[0]
        # Protocols that bar clients have no options: a request with options is of such a client that falls back.
        why = self.site.barred(host, request.name) if request.options else None
        if why is not None and not self.serves(host):
            self.refusals.refuse(entry, request, request.peer, request.local, Busy(why=why))
        elif request.write:
            self._beginUpload(index, request, datagram)
        else:
            if self.site.attempts.sizes:
                self.site.attempts.asked(host, request.name)
            self._lookUp(index, request, datagram)

    def _lookUp(self, index: int, request: Request, datagram: bytes) -> None:
        entry = self._entries[index]
        # The dialects as they are now: a reload may exchange them before the file is found.
        entries = self._entries[index:]
        try:
            found = self.site.lookup(request)
        except Refused as error:
            # Boot loaders ask for many names that do not exist; a Failure would cost a tenth of such a request.
            self._refuseLookup(entry, request, error)
            return
        except BaseException:
            self._requestFailed(Failure(), entry, request)
            return
        if isinstance(found, Deferred):
            self._sessions.beginLookup(request)
            found = inTime(found, self.site.reactor).addBoth(self._lookedUp, request)
            found.addCallbacks(self._found, self._notFound, (entries, request, datagram), {}, (entry, request))
            found.addErrback(self._requestFailed, entry, request)
            return
        # As nearly always: a Deferred would cost as much as the look-up.
        try:
            self._found(found, entries, request, datagram)
        except BaseException:
            self._requestFailed(Failure(), entry, request)

    # Results of look-ups, and uploads.

    def _lookedUp(self, result: T, request: Request) -> T:
        self._sessions.endLookup(request.peer)
        return result

    def _notFound(self, failure: Failure, entry: PortDialect, request: Request) -> None:
        """Refuse a request for which there is no file; or for which that cannot be found out, by a fault."""
        if not isinstance(failure.value, Refused):
            self._requestFailed(failure, entry, request)
            return
        if self._serveAnew(request.peer, failure):
            self._checkDrained()
            return
        self._refuseLookup(entry, request, failure.value)

    def _refuseLookup(self, entry: PortDialect, request: Request, error: Refused) -> None:
        """Refuse a request for which there is no file."""
        self.refusals.refuseRequest(entry, request, error)
        self._checkDrained()

    def _requestFailed(self, failure: Failure, entry: PortDialect, request: Request) -> None:
        """Log a fault of a source or of the cast that was begun, and refuse the request."""
        if request.peer in self._sessions.lookingUp:
            self._sessions.endLookup(request.peer)
        _log.failure(
            "{transport}: a request for {name} failed",
            failure,
            event="fault",
            transport=entry.name,
            peer=hostPort(request.peer),
            name=request.name,
            write=request.write,
        )
        if not self._serveAnew(request.peer):
            self.refusals.refuse(entry, request, request.peer, request.local, Refused("Internal error"))
        self._checkDrained()

    def _found(self, content: IContent, entries: Sequence[PortDialect], request: Request, datagram: bytes) -> None:
        """Join a cast of the file that was found, or begin one."""
        taken = False
        try:
            if not (self._askedAnew and self._serveAnew(request.peer)):
                taken = not self._closing() and self._opener.offer(content, entries, request, datagram)
        finally:
            if not taken:
                closeContent(content, entries[0].name)
        self._checkDrained()

    def _beginUpload(self, index: int, request: Request, datagram: bytes) -> None:
        entry = self._entries[index]
        if not entry.dialect.ownPort and self.site.requestPorts[request.peer[1]]:
            # Another server, perhaps: by one more forged request it would send us a whole file.
            self.drop(outcomes.IMPLAUSIBLE)
            return
        uploadReceiver = entry.dialect.uploadReceiver(request)
        if uploadReceiver is None:
            self._serve(datagram, request.peer, request.local, index + 1)
            return
        if self._sessions.successor is not None:
            self._sessions.successor.returnRequest(datagram, request.peer, request.local)
            return
        self._sessions.beginLookup(request)
        self._writes.beginning()
        begun = self._opener.upload(entry, request, uploadReceiver, datagram)
        begun.addBoth(self._uploadBegun, request).addErrback(self._uploadRefused, entry, request)
        begun.addErrback(self._requestFailed, entry, request)

    def _uploadBegun(self, result: T, request: Request) -> T | None:
        self._lookedUp(result, request)
        self._writes.begun()
        anew = self._serveAnew(request.peer, result if isinstance(result, Failure) else None)
        self._checkDrained()
        # Why the place of a file could not be made is of no use for who asks for another one.
        return None if anew else result

    def _uploadRefused(self, failure: Failure, entry: PortDialect, request: Request) -> Failure | None:
        if isinstance(failure.value, Refused):
            self.refusals.refuseRequest(entry, request, failure.value)
        elif isinstance(failure.value, CannotListenError | OSError):
            self.refusals.noPort(entry, request, failure.value)
        else:
            return failure
        return None

    # Called by casts and uploads.

    def requestFromMember(self, datagram: bytes, peer: Peer) -> None:
        """Serve a request that a member has sent, to the port of its cast or to the request port."""
        session = self._sessions.members.get(peer)
        if isinstance(session, UploadProtocol):
            self._serve(datagram, peer, session.request.local)
        elif session is not None and peer in session.receivers:
            self._serve(datagram, peer, session.receivers[peer].request.local)

    def receiverLeft(self, cast: CastProtocol, request: Request, outcome: str) -> None:
        """Remove a receiver whose transfer has ended with this outcome."""
        self._sessions.leave(cast, request.peer)
        # Of a group the port is no secret: each member knows it.
        if outcome in outcomes.ANSWERED and cast.group is None and cast.entry.dialect.ownPort:
            self.site.admission.known.add(request.peer[0])

    def castClosed(self, cast: CastProtocol) -> None:
        """Forget a cast that has ended, and close its port."""
        self._opener.forget(cast)
        if self._sessions.successor is not None and cast.group is not None:
            self._sessions.successor.groupEnded(cast.group)
        self._sessions.end(cast)
        cast.transport.stopListening()
        self._checkDrained()

    def uploadLeft(self, upload: UploadProtocol) -> None:
        """Forget the client of an upload that is over, and close its port; its file may still be being stored."""
        peer = upload.request.peer
        self._sessions.leave(upload, peer)
        if upload.heard(peer) and not upload.onRequestPort:
            self.site.admission.known.add(peer[0])
        upload.transport.stopListening()

    def uploadEnded(self, upload: UploadProtocol) -> None:
        """Forget an upload whose client has left, and whose file is stored or not."""
        self._sessions.end(upload)
        self._checkDrained()

    def _send(self, datagram: bytes, peer: Peer, local: Local) -> bool:
        """Return whether a datagram was sent from the request port."""
        if self.transport is None:
            return False
        try:
            self.transport.writeFrom(datagram, peer, local)
        except OSError:
            return False
        return True


def _isCopy(request: Request, unheard: Session | None) -> bool:
    """
    Return whether a request is a copy of the one that began a transfer, and was sent before the answer to that arrived:
    the client repeats its request until it has one, and its first ACK may be read before the last copy.

    @param unheard: as in L{Listener._serve}.
    """
    return unheard is not None and unheard.heard(request.peer) and unheard.begunBy(request)
