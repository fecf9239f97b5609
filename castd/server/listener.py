"""
Listener: the DatagramProtocol of a request port.  Datagrams of members go to their cast, all else is a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import outcomes
from castd.errors import Busy, Refused, WireError
from castd.group_pool import Place
from castd.interfaces import ICastTransport, IContent, IDialect, ISite, ISuccessor, IUpgradable
from castd.request import Local, Peer, Request
from castd.server.cast_protocol import CastProtocol, letGo
from castd.server.opening import Opening
from castd.server.refusals import Refusals
from castd.server.room import PortDialect
from castd.server.sessions import Served, Sessions
from castd.server.upload_protocol import UploadProtocol

_log = Logger(namespace="castd")


@implementer(ICastTransport, IUpgradable)
class Listener(DatagramProtocol):
    """
    Serves one or several dialects at one address.

    @ivar counts: datagrams that led to nothing, by reason.
    """

    noisy = False

    def __init__(self, site: ISite, name: str, options: Any, dialect: IDialect) -> None:
        self.site: Any = site
        self.interface: str = options.interface
        self.port: int = options.port
        self._refusals = Refusals(site)
        self.counts = self._refusals.counts
        self._entries = [PortDialect(name, options, dialect)]
        self._sessions = Sessions(site)
        self._opening = Opening(site, self, self._sessions, self._refusals)
        self._drained: Deferred[None] | None = None

    # Life.

    def startProtocol(self) -> None:
        self._refusals.transport = self.transport
        self.site.requestPorts[self.port] += 1

    def stopProtocol(self) -> None:
        self.site.requestPorts -= Counter([self.port])

    def share(self, other: Any) -> bool:
        """Take over the dialects of another listener that is configured at this address, behind our own."""
        if not isinstance(other, Listener) or (other.interface, other.port) != (self.interface, self.port):
            return False
        self._entries += other._entries
        return True

    def casts(self) -> Iterator[Served]:
        return iter(self._sessions.living)

    def become(self, other: Any) -> None:
        """Serve what C{other} would; dialects with equal options keep their groups, and casts under way go on."""
        self._entries = [
            next((ours for ours in self._entries if (ours.name, ours.options) == (entry.name, entry.options)), entry)
            for entry in other._entries
        ]
        self._sessions.successor = self._drained = None

    def drain(self) -> Deferred[None]:
        """No new requests; -> fires when the last cast has ended."""
        if self._drained is None:
            self._drained = Deferred()
            for cast in list(self._sessions.living):
                cast.settle()
            self._checkDrained()
        return self._drained

    def stop(self) -> None:
        """Tell the receivers, end all casts."""
        for cast in list(self._sessions.living):
            cast.end(outcomes.STOPPED)

    def _checkDrained(self) -> None:
        if self._drained is None or self._sessions.living or self._drained.called:
            return
        # What was read before the heir took over is answered, be it by the heir.
        if self._sessions.successor is None or not self._sessions.looking:
            self._drained.callback(None)

    # Another process takes over.

    @property
    def at(self) -> tuple[str, int]:
        """Interface and port."""
        return self.interface, self.port

    def requestPortPeers(self) -> Iterable[Peer]:
        return tuple(self._sessions.here)

    def groups(self) -> Iterable[Place]:
        casts = (cast for cast in self._sessions.living if isinstance(cast, CastProtocol))
        return [cast.wire.group for cast in casts if cast.wire.group is not None]

    def handOver(self, successor: ISuccessor) -> Deferred[None]:
        self._sessions.successor = successor
        return self.drain()

    # Datagrams.

    def datagramFrom(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """
        From the transport: a datagram at the request port, with the address it was sent to.
        """
        member = self._sessions.here.get(peer)
        try:
            if member is not None:
                member.datagramReceived(datagram, peer)
            elif self.site.predecessor is not None and self.site.predecessor.serves(self.at, peer):
                self.site.predecessor.forward(self.at, datagram, peer, local)
            elif self._plausible(peer, local):
                self._ask(datagram, peer, local)
        except Exception:
            # A fault of a dialect's reading must not close the port for the others.
            self.counts["fault"] += 1
            _log.failure("{transport}: a datagram failed", event="fault", transport=self._entries[0].name)

    def peerUnreachable(self, peer: Peer | None = None) -> None:
        """From the transport: a host says that the port is closed that we answered to."""
        if peer is not None and (member := self._sessions.here.get(peer)) is not None:
            member.peerUnreachable(peer)
        elif peer is not None and self.site.predecessor is not None and self.site.predecessor.serves(self.at, peer):
            self.site.predecessor.forwardUnreachable(self.at, peer)

    def _plausible(self, peer: Peer, local: Local) -> bool:
        """No answer to port 0, nor to ourselves: two request ports could feed each other for ever."""
        if self._closing():
            return False
        if peer[1] == 0 or (peer[0] == local.host and self.site.requestPorts[peer[1]]):
            self.counts["implausible"] += 1
            return False
        return True

    def _closing(self) -> bool:
        """Nobody new is looked at; counted.  An heir has what may not join a group of ours handed back to it."""
        closing = self.draining and self._sessions.successor is None
        if closing:
            self.counts["draining"] += 1
        return closing

    def _ask(self, datagram: bytes, peer: Peer, local: Local, first: int = 0) -> tuple[int, Request] | None:
        """Find the dialect whose request this is, from the C{first} on, and serve it."""
        found = self._read(datagram, peer, local, first)
        if found is None:
            return None
        index, request = found
        if local.broadcast and not getattr(self._entries[index].options, "broadcast", False):
            self.counts["broadcast"] += 1
        elif not self._again(self._entries[index], request, datagram):
            self._admit(index, request, datagram)
        return found

    def _read(self, datagram: bytes, peer: Peer, local: Local, first: int) -> tuple[int, Request] | None:
        for index, entry in enumerate(self._entries[first:], first):
            try:
                request = entry.dialect.request(datagram, peer, local)
            except WireError as error:
                self.malformed(datagram, peer, error)
                return None
            except Refused as error:
                self._refusals.refuse(entry, None, peer, local, error)
                return None
            if request is not None:
                return index, request
        self.counts["stray"] += 1
        return None

    def _again(self, entry: PortDialect, request: Request, datagram: bytes) -> bool:
        """
        A peer that is served already asks once more.

        @return: True if that was a repetition.  False: it is new to us, or the machine behind it has restarted.
        """
        cast = self._sessions.serving(request.peer)
        if cast is None:
            return self._sessions.looks(request.peer)
        if not self.site.admission.mayRepeat(request.peer[0], self.site.reactor.seconds()):
            self.counts["repetitions"] += 1
            return True
        if cast.repeated(request, entry.dialect) or self._declinedBefore(cast, entry, request, datagram):
            return True
        cast.replace(request.peer)
        return False

    def _declinedBefore(self, cast: Served, entry: PortDialect, request: Request, datagram: bytes) -> bool:
        """
        Is it a repetition as that dialect reads it which serves the peer, after this one had declined?  If that were
        taken for a restart, the answer to the first request, when it was only late, would lead to a port that is dead.
        """
        if not isinstance(cast, CastProtocol) or cast.dialect is entry.dialect:
            return False
        with suppress(WireError, Refused):
            asked = cast.dialect.request(datagram, request.peer, request.local)
            return asked is not None and cast.repeated(asked, cast.dialect)
        return False

    def _admit(self, index: int, request: Request, datagram: bytes) -> None:
        if self._closing():
            return
        entry, host = self._entries[index], request.peer[0]
        limit = self.site.admission.crowded(host, self.site.reactor.seconds())
        if limit is not None:
            self._refusals.crowded(entry, request, limit)
            return
        # The protocols that warn have no options: what comes with some is their client, falling back.
        why = self.site.barred(host, request.name) if request.options else None
        if why is not None:
            self._refusals.refuse(entry, request, request.peer, request.local, Busy(why=why))
        elif request.write:
            self._receive(index, request, datagram)
        else:
            self._sessions.look(request.peer)
            looked: Deferred[IContent] = self.site.lookup(request)
            # The dialects as they are now: a reload may exchange them before the file is found.
            entries = self._entries[index:]
            looked.addCallbacks(self._found, self._missing, (entries, request, datagram), {}, (entry, request))
            looked.addErrback(self._fault, entry, request)

    # Answers.

    def _missing(self, failure: Failure, entry: PortDialect, request: Request) -> None:
        self._sessions.looked(request.peer)
        failure.trap(Refused)
        self._refusals.refuse(entry, request, request.peer, request.local, failure.value)
        self._checkDrained()

    def _fault(self, failure: Failure, entry: PortDialect, request: Request) -> None:
        """A fault of a source, or of what began with what it gave: the look-up may have ended before."""
        if self._sessions.looks(request.peer):
            self._sessions.looked(request.peer)
        _log.failure(
            "{transport}: a request for {name} failed",
            failure,
            event="fault",
            transport=entry.name,
            name=request.name,
        )
        self._refusals.refuse(entry, request, request.peer, request.local, Refused("Internal error"))
        self._checkDrained()

    def _found(self, content: IContent, entries: Sequence[PortDialect], request: Request, datagram: bytes) -> None:
        """The file is there: join who is under way with it, or begin."""
        self._sessions.looked(request.peer)
        taken = False
        try:
            taken = not self._closing() and self._opening.offer(content, entries, request, datagram)
        finally:
            if not taken:
                letGo(content, entries[0].name)
        self._checkDrained()

    def _receive(self, index: int, request: Request, datagram: bytes) -> None:
        """A write request."""
        entry = self._entries[index]
        uploadReceiver = entry.dialect.uploadReceiver(request)
        if uploadReceiver is None:
            self._ask(datagram, request.peer, request.local, index + 1)
            return
        if self._sessions.successor is not None:
            self._sessions.successor.returnRequest(datagram, request.peer, request.local)
            return
        try:
            self._opening.receive(entry, request, uploadReceiver)
        except Refused as error:
            self._refusals.refuse(entry, request, request.peer, request.local, error)
        except (CannotListenError, OSError) as error:
            self._refusals.portless(entry, request, error)

    # Who is here.

    @property
    def draining(self) -> bool:
        """Nobody new is taken in."""
        return self._drained is not None

    def castAsked(self, datagram: bytes, peer: Peer) -> None:
        """A member sent a request, to its cast's port or to ours."""
        cast = self._sessions.serving(peer)
        if isinstance(cast, CastProtocol) and peer in cast.receivers:
            self._ask(datagram, peer, cast.receivers[peer].request.local)

    def castLeft(self, cast: CastProtocol, request: Request, outcome: str) -> None:
        """A receiver's part has ended; a deaf one goes on, and its machine is remembered."""
        if outcome == outcomes.DEAF:
            self._sessions.deafen(request.peer[0])
        else:
            self._sessions.leave(cast, request.peer)

    def castClosed(self, cast: CastProtocol) -> None:
        """Nobody is left."""
        self._opening.close(cast)
        if self._sessions.successor is not None and cast.wire.group is not None:
            self._sessions.successor.groupEnded(cast.wire.group)
        self._ended(cast)

    def uploaded(self, upload: UploadProtocol) -> None:
        """An upload is over."""
        self._sessions.leave(upload, upload.request.peer)
        self._ended(upload)

    def _ended(self, cast: Served) -> None:
        self._sessions.end(cast)
        cast.transport.stopListening()  # type: ignore[union-attr]
        self._checkDrained()

    def mayAnswerStranger(self, peer: Peer) -> bool:
        return self.site.admission.mayAnswerStranger(peer[0], self.site.reactor.seconds())  # type: ignore[no-any-return]

    def malformed(self, datagram: bytes, peer: Peer, error: WireError) -> None:
        self._refusals.malformed(datagram, peer, error)

    def served(self) -> Iterable[str]:
        """-> the names of the transports at this port."""
        return [entry.name for entry in self._entries]
