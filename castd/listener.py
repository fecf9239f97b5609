"""
Listener: the DatagramProtocol of a request port.  Datagrams of members go to their cast, all else is a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import outcomes, telling
from castd.errors import Busy, Declined, Refused, WireError
from castd.interfaces import ICastTransport, IContent, IDialect, IGroupWire, ISite
from castd.leases import Means
from castd.pace import Pacer
from castd.protocol import CastProtocol
from castd.request import Local, Peer, Request, show
from castd.room import Desk, Room
from castd.uploader import UploadProtocol

_log = Logger(namespace="castd")

#: How long a receiver that hears no multicast is served by unicast without another try.  Seconds.
DEAF_FOR = 300.0
#: Addresses remembered for that; beyond, the oldest is forgotten.
MOST_DEAF = 4096
#: How long a member that never spoke is waited for before its machine may take its place from another port.  Seconds.
STALE = 1.0


@implementer(ICastTransport)
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
        self.counts: Counter[str] = Counter()
        self._rooms = [Room(name, options, dialect)]
        self._members: dict[Peer, CastProtocol | UploadProtocol] = {}
        self._here: dict[Peer, CastProtocol | UploadProtocol] = {}
        self._living: dict[CastProtocol | UploadProtocol, None] = {}
        self._pending: set[Peer] = set()
        self._deaf: dict[str, float] = {}
        self._drained: Deferred[None] | None = None

    # Life.

    def startProtocol(self) -> None:
        self.site.requestPorts[self.port] += 1

    def stopProtocol(self) -> None:
        self.site.requestPorts -= Counter([self.port])

    def share(self, other: Any) -> bool:
        """Take over the dialects of another listener that is configured at this address, behind our own."""
        if not isinstance(other, Listener) or (other.interface, other.port) != (self.interface, self.port):
            return False
        self._rooms += other._rooms
        return True

    def casts(self) -> Iterator[CastProtocol | UploadProtocol]:
        return iter(self._living)

    def become(self, other: Any) -> None:
        """Serve what C{other} would; dialects with equal options keep their groups, and casts under way go on."""
        self._rooms = [
            next((ours for ours in self._rooms if (ours.name, ours.options) == (room.name, room.options)), room)
            for room in other._rooms
        ]
        self._drained = None

    def drain(self) -> Deferred[None]:
        """No new requests; -> fires when the last cast has ended."""
        if self._drained is None:
            self._drained = Deferred()
            for cast in list(self._living):
                cast.settle()
            self._checkDrained()
        return self._drained

    def stop(self) -> None:
        """Tell the receivers, end all casts."""
        for cast in list(self._living):
            cast.end(outcomes.STOPPED)

    def _checkDrained(self) -> None:
        if self._drained is not None and not self._living and not self._drained.called:
            self._drained.callback(None)

    # Datagrams.

    def datagramFrom(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """
        From the transport: a datagram at the request port, with the address it was sent to.
        """
        member = self._here.get(peer)
        try:
            if member is not None:
                member.datagramReceived(datagram, peer)
            elif self._plausible(peer, local):
                self._ask(datagram, peer, local)
        except Exception:
            # A fault of a dialect's reading must not close the port for the others.
            self.counts["fault"] += 1
            _log.failure("{transport}: a datagram failed", event="fault", transport=self._rooms[0].name)

    def peerUnreachable(self, peer: Peer | None = None) -> None:
        """From the transport: a host says that the port is closed that we answered to."""
        if peer is not None and (member := self._here.get(peer)) is not None:
            member.peerUnreachable(peer)

    def _plausible(self, peer: Peer, local: Local) -> bool:
        """No answer to port 0, nor to ourselves: two request ports could feed each other for ever."""
        if self._closing():
            return False
        if peer[1] == 0 or (peer[0] == local.host and self.site.requestPorts[peer[1]]):
            self.counts["implausible"] += 1
            return False
        return True

    def _closing(self) -> bool:
        """Nobody new is taken in; counted."""
        if self.draining:
            self.counts["draining"] += 1
        return self.draining

    def _ask(self, datagram: bytes, peer: Peer, local: Local, first: int = 0) -> tuple[int, Request] | None:
        """Find the dialect whose request this is, from the C{first} on, and serve it."""
        found = self._read(datagram, peer, local, first)
        if found is None:
            return None
        index, request = found
        if local.broadcast and not getattr(self._rooms[index].options, "broadcast", False):
            self.counts["broadcast"] += 1
        elif not self._again(self._rooms[index], request):
            self._admit(index, request, datagram)
        return found

    def _read(self, datagram: bytes, peer: Peer, local: Local, first: int) -> tuple[int, Request] | None:
        for index, room in enumerate(self._rooms[first:], first):
            try:
                request = room.dialect.request(datagram, peer, local)
            except WireError as error:
                self.malformed(datagram, peer, error)
                return None
            except Refused as error:
                self._refuse(room, None, peer, local, error)
                return None
            if request is not None:
                return index, request
        self.counts["stray"] += 1
        return None

    def _again(self, room: Room, request: Request) -> bool:
        """
        A peer that is served already asks once more.

        @return: True if that was a repetition.  False: it is new to us, or the machine behind it has restarted.
        """
        cast = self._members.get(request.peer)
        if cast is None:
            return request.peer in self._pending
        if not self.site.gate.mayRepeat(request.peer[0], self.site.reactor.seconds()):
            self.counts["repetitions"] += 1
            return True
        if cast.repeated(request, room.dialect):
            return True
        cast.replace(request.peer)
        return False

    def _admit(self, index: int, request: Request, datagram: bytes) -> None:
        if self._closing():
            return
        room, host = self._rooms[index], request.peer[0]
        limit = self.site.gate.crowded(host, self.site.reactor.seconds())
        if limit is not None:
            self.counts[limit] += 1
            _log.info(
                "{transport}: {peer} is not answered: {why} is reached",
                event="crowded",
                transport=room.name,
                peer=show(request.peer),
                why=limit,
            )
            return
        # The protocols that warn have no options: what comes with some is their client, falling back.
        why = self.site.barred(host, request.name) if request.options else None
        if why is not None:
            self._refuse(room, request, request.peer, request.local, Busy(why=why))
        elif request.write:
            self._receive(index, request, datagram)
        else:
            self._pending.add(request.peer)
            self.site.gate.looking += 1
            looked: Deferred[IContent] = self.site.lookup(request)
            # The dialects as they are now: a reload may exchange them before the file is found.
            rooms = self._rooms[index:]
            looked.addCallbacks(self._found, self._missing, (rooms, request, datagram), {}, (room, request))
            looked.addErrback(self._fault, room, request)

    # Answers.

    def _missing(self, failure: Failure, room: Room, request: Request) -> None:
        self._looked(request)
        failure.trap(Refused)
        self._refuse(room, request, request.peer, request.local, failure.value)

    def _looked(self, request: Request) -> None:
        """A look-up has ended."""
        self._pending.discard(request.peer)
        self.site.gate.looking -= 1

    def _fault(self, failure: Failure, room: Room, request: Request) -> None:
        """A fault of a source, or of what began with what it gave: the look-up may have ended before."""
        if request.peer in self._pending:
            self._looked(request)
        _log.failure(
            "{transport}: a request for {name} failed",
            failure,
            event="fault",
            transport=room.name,
            name=request.name,
        )
        self._refuse(room, request, request.peer, request.local, Refused("Internal error"))

    def _refuse(self, room: Room, request: Request | None, peer: Peer, local: Local, error: Any) -> None:
        """One ERROR, never repeated; none for what was broadcast."""
        name = request.name if request is not None else "an unreadable request"
        _log.info(
            "{transport}: {peer} is refused {name}: {why}",
            event="refused",
            transport=room.name,
            peer=show(peer),
            name=name,
            code=error.code,
            why=str(error),
        )
        answer = room.dialect.refuse(request, error)
        if answer is None or local.broadcast:
            return
        if self.site.gate.mayError(peer[0], self.site.reactor.seconds()):
            self._say(answer, peer, local)
        else:
            self.counts["errors"] += 1

    def _say(self, datagram: bytes, peer: Peer, local: Local) -> None:
        try:
            self.transport.writeFrom(datagram, peer, local)  # type: ignore[union-attr]
        except OSError:
            # As good as lost on the way: the client asks again.
            self.counts["unsent"] += 1

    def _found(self, content: IContent, rooms: Sequence[Room], request: Request, datagram: bytes) -> None:
        """The file is there: join who is under way with it, or begin."""
        self._looked(request)
        taken = False
        try:
            taken = not self._closing() and self._offer(content, rooms, request, datagram)
        finally:
            if not taken:
                content.close()

    def _offer(self, content: IContent, rooms: Sequence[Room], request: Request, datagram: bytes) -> bool:
        """Ask one dialect after the other.  -> whether one has taken the content."""
        peer, local = request.peer, request.local
        for room in rooms:
            try:
                # The same datagram as another dialect understands it.
                asked = request if room is rooms[0] else room.dialect.request(datagram, peer, local)
                if asked is None or (local.broadcast and not getattr(room.options, "broadcast", False)):
                    continue
                if not self._join(room, asked, content):
                    self._begin(room, asked, content)
                return True
            except Declined as error:
                self._declined(room, request, error)
            except Refused as error:
                self._refuse(room, request, peer, local, error)
                return False
            except (CannotListenError, OSError) as error:
                self._portless(room, request, error)
                return False
        return False

    def _portless(self, room: Room, request: Request, error: Exception) -> None:
        """
        No port could be had, or none that reaches the peer.  As with any other limit it gets no answer, and asks again;
        an ERROR would make some clients give up.
        """
        self.counts["no port"] += 1
        _log.warn(
            "{transport}: {peer} is not answered: {why}",
            event="crowded",
            transport=room.name,
            peer=show(request.peer),
            why=f"no port for it: {error}",
        )

    def _declined(self, room: Room, request: Request, error: Declined) -> None:
        self.counts[error.reason] += 1
        _log.info(
            "{transport}: {peer} is not served here: {why}: {name}",
            event="declined",
            transport=room.name,
            peer=show(request.peer),
            name=request.name,
            why=error.reason,
        )

    def _join(self, room: Room, request: Request, content: IContent) -> bool:
        dialect = room.dialect
        casts = [
            cast
            for cast in room.shared.get(dialect.key(request, content), ())
            if cast.joinable and dialect.fits(request, cast.wire)
        ]
        if not casts:
            return False
        # Where several fit, the one with the largest blocks.
        cast = max(casts, key=lambda cast: cast.wire.blocksize)
        self._notDeaf(request)
        now = self.site.reactor.seconds()
        instead = next(
            (
                peer
                for peer, receiver in cast.receivers.items()
                if dialect.same(request, receiver.request) and not cast.heard(peer) and now - receiver.since >= STALE
            ),
            None,
        )
        if instead is not None:
            self._forget(cast, instead)
        self._enter(room, cast, request)
        content.close()
        cast.join(request, instead)
        return True

    def _notDeaf(self, request: Request) -> None:
        until = self._deaf.get(request.peer[0])
        if until is not None:
            if self.site.reactor.seconds() < until:
                raise Declined("deaf")
            del self._deaf[request.peer[0]]

    def _notTaken(self, wire: Any, content: IContent) -> None:
        """
        After a reload another file may be meant for a fixed group; it waits for the end of the one that is on it, since
        receivers that hear two start over for ever (SLAM), or mix them.
        """
        wanted = (wire.headers, content.version)
        there = [cast for cast in self._living if isinstance(cast, CastProtocol) and cast.wire.group == wire.group]
        if any((cast.wire.headers, cast.content.version) != wanted for cast in there):
            raise Declined("group in use for another file")

    def _begin(self, room: Room, request: Request, content: IContent) -> None:
        site = self.site
        wire = room.dialect.open(request, content, Means(site.reactor.seconds(), site.random, site.leases))
        try:
            if wire.group is not None:
                self._notDeaf(request)
                if not room.dialect.ownPort:
                    self._notTaken(wire, content)
            cast = self._housed(room, request, wire, content)
        except BaseException:
            wire.close(site.reactor.seconds())
            raise
        telling.opened(cast, room.beside(cast))
        room.shared.setdefault(cast.key, []).append(cast)
        self._living[cast] = None
        site.gate.casts += 1
        self._enter(room, cast, request)
        cast.join(request)

    def _housed(self, room: Room, request: Request, wire: Any, content: IContent) -> CastProtocol:
        """-> a cast with a port that is ready for it."""
        options = room.options
        pacers = [] if options.rate is None else [Pacer(options.rate)]
        if IGroupWire.providedBy(wire) and wire.pacer is not None:
            pacers.append(wire.pacer)
        if self.site.pacer is not None:
            pacers.append(self.site.pacer)
        cast = CastProtocol(self.site, self, room.name, room.dialect, wire, content, tuple(pacers))
        cast.room, cast.key = room, room.dialect.key(request, content)
        port = self._port(room, cast, request, wire)
        if wire.group is not None:
            loopback = getattr(options, "loopback", True)
            broadcast = IGroupWire.providedBy(wire) and wire.broadcast
            try:
                port.setGroup(options.ttl, request.local.host, loopback, broadcast)
            except OSError:
                cast.transport.stopListening()  # type: ignore[union-attr]
                raise
        return cast

    def _port(self, room: Room, protocol: Any, request: Request, wire: Any = None) -> Any:
        """A port of its own, or this one."""
        if room.dialect.ownPort:
            peer = request.peer if wire is None or wire.group is None else None
            return self.site.ports.lend(protocol, request.local, peer, getattr(room.options, "ports", None))
        protocol.makeConnection(Desk(self.transport, request))
        return self.transport

    def _receive(self, index: int, request: Request, datagram: bytes) -> None:
        """A write request."""
        room = self._rooms[index]
        intake = room.dialect.intake(request)
        if intake is None:
            self._ask(datagram, request.peer, request.local, index + 1)
            return
        try:
            upload = self.site.sink(request).begin(request.name, request.peer, intake.size)
        except Refused as error:
            self._refuse(room, request, request.peer, request.local, error)
            return
        protocol = UploadProtocol(self.site, room.name, request, intake, upload, self._uploaded)
        try:
            self._port(room, protocol, request)
        except (CannotListenError, OSError) as error:
            upload.abort()
            self._portless(room, request, error)
            return
        self._living[protocol] = None
        self.site.gate.casts += 1
        self._enter(room, protocol, request)
        protocol.begin()

    # Who is here.

    def _enter(self, room: Room, cast: CastProtocol | UploadProtocol, request: Request) -> None:
        self._members[request.peer] = cast
        if not room.dialect.ownPort:
            self._here[request.peer] = cast
        self.site.gate.enter(request.peer[0])

    def _forget(self, cast: CastProtocol | UploadProtocol, peer: Peer) -> None:
        if self._members.get(peer) is cast:
            del self._members[peer]
            self._here.pop(peer, None)
        self.site.gate.leave(peer[0])

    @property
    def draining(self) -> bool:
        """Nobody new is taken in."""
        return self._drained is not None

    def castAsked(self, datagram: bytes, peer: Peer) -> None:
        """A member sent a request, to its cast's port or to ours."""
        cast = self._members.get(peer)
        if isinstance(cast, CastProtocol) and peer in cast.receivers:
            self._ask(datagram, peer, cast.receivers[peer].request.local)

    def castLeft(self, cast: CastProtocol, request: Request, outcome: str) -> None:
        """A receiver's part has ended; a deaf one goes on, and its machine is remembered."""
        if outcome == outcomes.DEAF:
            self._deaf[request.peer[0]] = self.site.reactor.seconds() + DEAF_FOR
            if len(self._deaf) > MOST_DEAF:
                del self._deaf[next(iter(self._deaf))]
        else:
            self._forget(cast, request.peer)

    def castClosed(self, cast: CastProtocol) -> None:
        """Nobody is left."""
        casts = cast.room.shared[cast.key]
        casts.remove(cast)
        if not casts:
            del cast.room.shared[cast.key]
        self._ended(cast)

    def _uploaded(self, upload: UploadProtocol) -> None:
        self._forget(upload, upload.request.peer)
        self._ended(upload)

    def _ended(self, cast: CastProtocol | UploadProtocol) -> None:
        self._living.pop(cast, None)
        self.site.gate.casts -= 1
        cast.transport.stopListening()  # type: ignore[union-attr]
        self._checkDrained()

    def mayAnswerStranger(self, peer: Peer) -> bool:
        return self.site.gate.mayAnswerStranger(peer[0], self.site.reactor.seconds())  # type: ignore[no-any-return]

    def malformed(self, datagram: bytes, peer: Peer, error: WireError) -> None:
        """Counted; shown at debug level only, since anybody can send it."""
        self.counts["malformed"] += 1
        _log.debug(
            "{peer} sent {octets} octets that say nothing: {why}",
            event="malformed",
            peer=show(peer),
            octets=len(datagram),
            why=str(error),
        )

    def served(self) -> Iterable[str]:
        """-> the names of the transports at this port."""
        return [room.name for room in self._rooms]
