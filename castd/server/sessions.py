"""
Keep account of the casts, uploads and members of a request port, and begin casts and uploads.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from castd import outcomes
from castd.errors import Declined, Elsewhere, Refused, Unanswered, WireError
from castd.files.threads import asDeferred
from castd.group_pool import OpenContext
from castd.interfaces import (
    IContent,
    IDatagramPort,
    IGroupWire,
    ISite,
    ISuccessor,
    ITransferHalf,
    ITransferProtocol,
    IUpload,
    IWire,
)
from castd.pacing import Pacer, RateLimit
from castd.request import Peer, Request
from castd.server import eventlog
from castd.server.cast_protocol import CastProtocol, closeContent
from castd.server.listening_transport import ListeningTransport
from castd.server.recorded import RecordedCast, RecordedUpload, noteRequest
from castd.server.upload_protocol import UploadProtocol

if TYPE_CHECKING:
    from castd.server.listener import Listener
    from castd.server.port_dialect import PortDialect

_log = Logger(namespace="castd")

#: How long ago a member that has sent nothing else must have asked before its machine, asking from another port,
#: replaces it.  Seconds.
STALE = 1.0
#: A request whose file has not been found for so many seconds is dropped: no client waits longer for its first answer.
LOOKUP_TIMEOUT = 30.0

T = TypeVar("T")

Session = CastProtocol | UploadProtocol


class Sessions:
    """
    Keeps the casts and uploads of a port, their members, and the peers whose file is being looked up.  It reports each
    change to the site's admission, which counts them for the whole server.

    @ivar underWay: the casts and uploads, in the order in which they began.
    @ivar members: the peers that are served, each with its cast or upload.
    @ivar onPort: those of C{members} whose datagrams come to the request port itself.
    @ivar lookingUp: the peers whose file is being looked up, each with its request.
    @ivar successor: the process that reads the port now; changes of C{onPort} are reported to it.  L{None}: this
        process reads the port.
    """

    def __init__(self, site: ISite) -> None:
        self._site = site
        self.underWay: dict[Session, None] = {}
        self.members: dict[Peer, Session] = {}
        self.onPort: dict[Peer, Session] = {}
        self.lookingUp: dict[Peer, Request] = {}
        self.successor: ISuccessor | None = None

    def begin(self, session: Session) -> None:
        """Add a cast or upload that begins."""
        self.underWay[session] = None
        self._site.admission.casts += 1

    def end(self, session: Session) -> None:
        """Remove a cast or upload that has ended."""
        self.underWay.pop(session, None)
        self._site.admission.casts -= 1

    def enter(self, session: Session, peer: Peer, onPort: bool) -> None:
        """Add a member; C{onPort}: its datagrams come to the request port itself."""
        self.members[peer] = session
        if onPort:
            self.onPort[peer] = session
            if self.successor is not None:
                self.successor.peerJoined(peer)
        self._site.admission.enter(session, peer, self._site.reactor.seconds())

    def leave(self, session: Session, peer: Peer) -> None:
        """Remove a member of a session, unless the peer is a member of another session by now."""
        if self.members.get(peer) is session:
            del self.members[peer]
            if self.onPort.pop(peer, None) is not None and self.successor is not None:
                self.successor.peerLeft(peer)
        self._site.admission.leave(session, peer)

    def serves(self, host: str) -> bool:
        """Return whether a receiver at this address is being served that has answered."""
        return any(
            peer[0] == host and isinstance(session, CastProtocol) and session.heard(peer)
            for peer, session in self.members.items()
        )

    # Peers whose file is being looked up.

    def beginLookup(self, request: Request) -> None:
        """Add a peer whose file is being looked up."""
        self.lookingUp[request.peer] = request
        self._site.admission.beginLookup(request.peer[0])

    def endLookup(self, peer: Peer) -> None:
        """Remove a peer whose look-up has ended."""
        self.lookingUp.pop(peer, None)
        self._site.admission.endLookup(peer[0])


def inTime(found: Deferred[T], clock: IReactorTime) -> Deferred[T]:
    """Let a Deferred fail with L{Unanswered} if it has not fired within L{LOOKUP_TIMEOUT} seconds."""
    if not found.called or found.paused:
        found.addBoth(_inTime, clock.callLater(LOOKUP_TIMEOUT, _cancel, found))
    return found


def _cancel(found: Deferred[T]) -> None:
    """Cancel a Deferred of a plugin, so that it fires in any case: what is to cancel it may fail."""
    try:
        found.cancel()
    except BaseException:
        _log.failure("a look-up could not be cancelled", event="fault")
        waited: Deferred[T] = found
        while waited.called and isinstance(waited.result, Deferred):
            waited = waited.result
        if not waited.called:
            waited.errback(CancelledError())


def _inTime(result: T, timeout: IDelayedCall) -> T | Failure:
    """Return a result; or, if it comes of the timeout, what the request is refused with."""
    if timeout.active():
        timeout.cancel()
        return result
    if isinstance(result, Failure):
        return Failure(Unanswered(why=f"its file is not found or opened within {LOOKUP_TIMEOUT:.0f} s"))
    return result


class Opener:
    """
    Begins casts and uploads for one request port, and lets requests join casts.
    """

    def __init__(self, site: ISite, listener: Listener, sessions: Sessions) -> None:
        self._site = site
        self._listener = listener
        self._refusals = listener.refusals
        self._sessions = sessions

    def offer(self, content: IContent, entries: Sequence[PortDialect], request: Request, datagram: bytes) -> bool:
        """
        Offer a file that was found to one dialect after the other, until one serves it.

        @param entries: the dialect that has read the request, and those after it.
        @return: whether a cast has taken over the content; if not, the caller closes the content.
        """
        peer, local = request.peer, request.local
        for entry in entries:
            try:
                # Another dialect reads the same datagram by its own rules.
                asked = request if entry is entries[0] else entry.dialect.request(datagram, peer, local)
                if asked is None or (local.broadcast and not entry.broadcast):
                    continue
                if asked is not request:
                    asked = asked.readAgain(request)
                key = entry.dialect.key(asked, content)
                if self._join(entry, key, asked, content, datagram):
                    return True
                if self._sessions.successor is not None:
                    # After a hand-over this process begins no casts.
                    self._sessions.successor.returnRequest(datagram, peer, local)
                    return False
                self._begin(entry, key, asked, content, datagram)
                return True
            except WireError as error:
                eventlog.malformed(peer, datagram, error)
                return False
            except Elsewhere as error:
                if self._site.predecessor is not None:
                    self._site.predecessor.joinGroup(self._listener.at, error.group, datagram, peer, local)
                return False
            except Declined as error:
                self._refusals.declined(entry, request, error)
            except Refused as error:
                self._refusals.refuse(entry, request, peer, local, error)
                return False
            except (CannotListenError, OSError) as error:
                self._refusals.noPort(entry, request, error)
                return False
        return False

    def _join(self, entry: PortDialect, key: Hashable, request: Request, content: IContent, datagram: bytes) -> bool:
        """Let a request join a cast, if there is one that it fits.  -> whether it has joined."""
        dialect = entry.dialect
        cast = joinable(entry, key, request)
        if cast is None:
            return False
        if cast.turnsAway(request.peer):
            self._listener.drop(outcomes.FULL)
            closeContent(content, entry.name)
            return True
        self.declineDeaf(request)
        replaced = self._staleMember(entry, cast, request)
        if replaced is not None:
            self._sessions.leave(cast, replaced)
        self._sessions.enter(cast, request.peer, not dialect.ownPort)
        closeContent(content, entry.name)
        if self._site.recorder is not None:
            noteRequest(cast, datagram, request.peer, request.local)
        cast.join(request, replaced)
        return True

    def _staleMember(self, entry: PortDialect, cast: CastProtocol, request: Request) -> Peer | None:
        """
        Return the member of the same machine that has sent nothing since its request, at least L{STALE} seconds ago.
        """
        now = self._site.reactor.seconds()
        return next(
            (
                peer
                for peer, receiver in cast.receivers.items()
                if entry.dialect.sameMachine(request, receiver.request)
                and not cast.heard(peer)
                and now - receiver.since >= STALE
            ),
            None,
        )

    def declineDeaf(self, request: Request) -> None:
        """@raise Declined: the machine has lately received nothing of a group."""
        if self._site.deafMachines.knows(request.peer[0], self._site.reactor.seconds()):
            raise Declined("deaf")

    def _claimFixedGroup(self, group: tuple[str, int], use: str) -> None:
        """
        Make sure that no other file is sent to a group that the service file fixes.

        After a reload the group may belong to another file, perhaps at another port; that file is not served before the
        casts of the old one have ended, since receivers of both start over for ever (SLAM) or mix them.  A cast without
        receivers is ended.

        @raise Elsewhere: the previous process still sends to the group.
        @raise Declined: a cast sends another file to the group.
        """
        if self._site.predecessor is not None and group in self._site.predecessor.groups:
            raise Elsewhere(group)
        groupPool, now = self._site.groupPool, self._site.reactor.seconds()
        if not groupPool.isFree(group, use, now):
            for cast in [cast for cast in self._sessions.underWay if isinstance(cast, CastProtocol)]:
                if cast.group == group:
                    cast.endIfIdle()
            if not groupPool.isFree(group, use, now):
                raise Declined("group in use for another file")

    def _begin(self, entry: PortDialect, key: Hashable, request: Request, content: IContent, datagram: bytes) -> None:
        """
        Begin a cast for this request.

        @raise Declined, Elsewhere, Refused: the dialect does not serve it.
        @raise CannotListenError, OSError: no port can be opened.
        """
        site, dialect = self._site, entry.dialect
        wire = dialect.open(request, content, OpenContext(site.reactor.seconds(), site.random, site.groupPool))
        group, use = wire.group, ""
        try:
            if group is not None:
                self.declineDeaf(request)
                if not dialect.ownPort:
                    use = groupUse(wire, content)
                    self._claimFixedGroup(group, use)
            cast = self._castWithPort(entry, key, request, wire, content)
        except BaseException:
            wire.close(site.reactor.seconds())
            raise
        if group is not None:
            if not dialect.ownPort:
                site.groupPool.reserve(group, use, wire.reuseDelay)
            eventlog.groupOpened(cast, entry.differenceFrom(cast))
        elif wire.count is not None and wire.count > eventlog.MOST_COUNTED:
            eventlog.rollover(cast, request)
        entry.shared.setdefault(cast.key, []).append(cast)
        self._sessions.begin(cast)
        self._sessions.enter(cast, request.peer, not dialect.ownPort)
        if site.recorder is not None:
            noteRequest(cast, datagram, request.peer, request.local)
        cast.join(request)

    def forget(self, cast: CastProtocol) -> None:
        """Remove a cast that has ended from those that can be joined."""
        shared = cast.entry.shared
        shared[cast.key].remove(cast)
        if not shared[cast.key]:
            del shared[cast.key]
        if cast.wire.group is not None and not cast.entry.dialect.ownPort:
            self._site.groupPool.unreserve(cast.wire.group, self._site.reactor.seconds())

    def _castWithPort(
        self, entry: PortDialect, key: Hashable, request: Request, wire: IWire, content: IContent
    ) -> CastProtocol:
        """Return a cast that is connected to its port."""
        options = entry.options
        grouped = wire if IGroupWire.providedBy(wire) else None
        pacers: list[RateLimit] = [] if options.rate is None else [Pacer(options.rate)]
        if grouped is not None and grouped.pacer is not None:
            pacers.append(grouped.pacer)
        if self._site.pacer is not None:
            pacers.append(self._site.pacer)
        made = self._site, self._listener, entry, key, wire, content, tuple(pacers)
        recorder = self._site.recorder
        cast = CastProtocol(*made) if recorder is None else RecordedCast(recorder, request, *made)
        port = self._openPort(entry, cast, request, request.peer if wire.group is None else None)
        if wire.group is not None:
            broadcast = grouped is not None and grouped.broadcast
            try:
                port.setGroup(options.ttl, request.local.host, entry.loopback, broadcast)
            except OSError:
                cast.transport.stopListening()
                raise
        return cast

    def _openPort(
        self, entry: PortDialect, protocol: ITransferProtocol, request: Request, peer: Peer | None
    ) -> IDatagramPort:
        """
        Connect a protocol to a port of its own, or to the listener's.

        @param peer: the only peer of the protocol; L{None}: it has several.
        """
        if entry.dialect.ownPort:
            return self._site.ports.openPort(protocol, request.local, peer, entry.ports)
        port = ListeningTransport(self._listener.transport, request)
        protocol.makeConnection(port)
        return port

    def upload(
        self, entry: PortDialect, request: Request, uploadReceiver: ITransferHalf, datagram: bytes
    ) -> Deferred[None]:
        """
        Begin an upload.

        @return: fires when it has begun; fails with Refused: the access rules or the sink refuse it; or with
            CannotListenError or OSError: no port can be opened.
        """
        return inTime(maybeDeferred(self._beginUpload, request, uploadReceiver), self._site.reactor).addCallback(
            self._receive, entry, request, uploadReceiver, datagram
        )

    def _beginUpload(self, request: Request, uploadReceiver: ITransferHalf) -> Deferred[IUpload]:
        return asDeferred(self._site.sink(request).begin(request.name, request.peer, uploadReceiver.size))

    def _receive(
        self, upload: IUpload, entry: PortDialect, request: Request, uploadReceiver: ITransferHalf, datagram: bytes
    ) -> None:
        """
        Receive an upload whose place was made, unless the client has asked for something else in the meantime, or the
        server has been told to stop.
        """
        if self._listener.hasAskedAnew(request.peer):
            upload.abort()
            return
        if self._listener.draining:
            upload.abort()
            if self._sessions.successor is not None:
                self._sessions.successor.returnRequest(datagram, request.peer, request.local)
            return
        listener = self._listener
        left, ended, requested = listener.uploadLeft, listener.uploadEnded, listener.requestFromMember
        made = self._site, entry.name, request, uploadReceiver, upload, left, ended, requested
        recorder = self._site.recorder
        protocol = UploadProtocol(*made) if recorder is None else RecordedUpload(recorder, *made)
        try:
            self._openPort(entry, protocol, request, request.peer)
        except BaseException:
            upload.abort()
            raise
        self._sessions.begin(protocol)
        self._sessions.enter(protocol, request.peer, not entry.dialect.ownPort)
        if recorder is not None:
            noteRequest(protocol, datagram, request.peer, request.local)
        protocol.begin()


def joinable(entry: PortDialect, key: Hashable, request: Request) -> CastProtocol | None:
    """Return the cast that a request fits; of several the one with the largest blocks; L{None}: none."""
    shared = entry.shared.get(key)
    if shared is None:
        return None
    casts = [cast for cast in shared if cast.joinable and entry.dialect.fits(request, cast.wire)]
    return max(casts, key=lambda cast: cast.wire.blocksize, default=None)


def groupUse(wire: IWire, content: IContent) -> str:
    """Return text that identifies the file and the form of its blocks, for L{GroupPool<castd.group_pool.GroupPool>}."""
    return blake2b(repr((wire.headerKey, content.version)).encode(), digest_size=16).hexdigest()
