"""
Opening: a file that was found, or an upload that was asked for, gets its cast: one that may be joined, or a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

from twisted.internet.error import CannotListenError

from castd.errors import Declined, Elsewhere, Refused
from castd.group_pool import OpenContext
from castd.interfaces import IContent, IGroupWire, ITransferHalf
from castd.pacing import Pacer
from castd.request import Peer, Request
from castd.server import eventlog
from castd.server.audience import CastOwner
from castd.server.cast_protocol import CastProtocol, letGo
from castd.server.refusals import Refusals
from castd.server.room import ListeningTransport, PortDialect
from castd.server.sessions import Sessions
from castd.server.upload_protocol import UploadProtocol

#: How long a member that never spoke is waited for before its machine may take its place from another port.  Seconds.
STALE = 1.0


def _use(wire: Any, content: IContent) -> str:
    """-> what tells the blocks on a fixed group from those of another file, or of the same one in other words."""
    return blake2b(repr((wire.headers, content.version)).encode(), digest_size=16).hexdigest()


class SessionOwner(CastOwner, Protocol):
    """What the opening asks of the listener, beside what a cast does."""

    transport: Any

    @property
    def at(self) -> tuple[str, int]:
        """Interface and port."""

    def uploaded(self, upload: UploadProtocol) -> None:
        """An upload is over."""


class Opening:
    """
    Joins and begins casts for one request port.
    """

    def __init__(self, site: Any, home: SessionOwner, sessions: Sessions, refusals: Refusals) -> None:
        """
        @param home: the listener that the casts answer to.
        """
        self._site = site
        self._home = home
        self._sessions = sessions
        self._refusals = refusals

    def offer(self, content: IContent, entries: Sequence[PortDialect], request: Request, datagram: bytes) -> bool:
        """Ask one dialect after the other.  -> whether one has taken the content."""
        peer, local = request.peer, request.local
        for entry in entries:
            try:
                # The same datagram as another dialect understands it.
                asked = request if entry is entries[0] else entry.dialect.request(datagram, peer, local)
                if asked is None or (local.broadcast and not getattr(entry.options, "broadcast", False)):
                    continue
                if self._join(entry, asked, content):
                    return True
                if self._sessions.successor is not None:
                    # Nothing begins here any more.
                    self._sessions.successor.returnRequest(datagram, peer, local)
                    return False
                self._begin(entry, asked, content)
                return True
            except Elsewhere as error:
                self._site.predecessor.joinGroup(self._home.at, error.group, datagram, peer, local)
                return False
            except Declined as error:
                self._refusals.declined(entry, request, error)
            except Refused as error:
                self._refusals.refuse(entry, request, peer, local, error)
                return False
            except (CannotListenError, OSError) as error:
                self._refusals.portless(entry, request, error)
                return False
        return False

    def _join(self, entry: PortDialect, request: Request, content: IContent) -> bool:
        dialect = entry.dialect
        casts = [
            cast
            for cast in entry.shared.get(dialect.key(request, content), ())
            if cast.joinable and dialect.fits(request, cast.wire)
        ]
        if not casts:
            return False
        # Where several fit, the one with the largest blocks.
        cast = max(casts, key=lambda cast: cast.wire.blocksize)
        self._notDeaf(request)
        instead = self._silentTwin(entry, cast, request)
        if instead is not None:
            self._sessions.leave(cast, instead)
        self._sessions.enter(cast, request.peer, not dialect.ownPort)
        letGo(content, entry.name)
        cast.join(request, instead)
        return True

    def _silentTwin(self, entry: PortDialect, cast: CastProtocol, request: Request) -> Peer | None:
        """-> the member that is the same machine, has never spoken, and had the time for it."""
        now = self._site.reactor.seconds()
        return next(
            (
                peer
                for peer, receiver in cast.receivers.items()
                if entry.dialect.same(request, receiver.request)
                and not cast.heard(peer)
                and now - receiver.since >= STALE
            ),
            None,
        )

    def _notDeaf(self, request: Request) -> None:
        if self._sessions.deaf(request.peer[0]):
            raise Declined("deaf")

    def _notTaken(self, wire: Any, content: IContent) -> None:
        """
        After a reload another file may be meant for a fixed group, perhaps from another port; it waits for the end of
        the one that is on it, since receivers that hear two start over for ever (SLAM), or mix them.  A cast without
        receivers makes room.

        @raise Elsewhere: the process that we take over from is on it.
        """
        if self._site.predecessor is not None and wire.group in self._site.predecessor.groups:
            raise Elsewhere(wire.group)
        groupPool, use, now = self._site.groupPool, _use(wire, content), self._site.reactor.seconds()
        if not groupPool.free(wire.group, use, now):
            for cast in [cast for cast in self._sessions.living if isinstance(cast, CastProtocol)]:
                if cast.wire.group == wire.group:
                    cast.settle()
            if not groupPool.free(wire.group, use, now):
                raise Declined("group in use for another file")

    def _begin(self, entry: PortDialect, request: Request, content: IContent) -> None:
        site = self._site
        wire = entry.dialect.open(request, content, OpenContext(site.reactor.seconds(), site.random, site.groupPool))
        try:
            if wire.group is not None:
                self._notDeaf(request)
                if not entry.dialect.ownPort:
                    self._notTaken(wire, content)
            cast = self._housed(entry, request, wire, content)
        except BaseException:
            wire.close(site.reactor.seconds())
            raise
        if wire.group is not None and not entry.dialect.ownPort:
            site.groupPool.enter(wire.group, _use(wire, content), getattr(wire, "rest", 0.0))
        eventlog.opened(cast, entry.beside(cast))
        entry.shared.setdefault(cast.key, []).append(cast)
        self._sessions.begin(cast)
        self._sessions.enter(cast, request.peer, not entry.dialect.ownPort)
        cast.join(request)

    def close(self, cast: CastProtocol) -> None:
        """Nobody is left; it cannot be joined any more."""
        entry = cast.entry
        entry.shared[cast.key].remove(cast)
        if not entry.shared[cast.key]:
            del entry.shared[cast.key]
        if cast.wire.group is not None and not entry.dialect.ownPort:
            self._site.groupPool.leave(cast.wire.group, self._site.reactor.seconds())

    def _housed(self, entry: PortDialect, request: Request, wire: Any, content: IContent) -> CastProtocol:
        """-> a cast with a port that is ready for it."""
        options = entry.options
        pacers = [] if options.rate is None else [Pacer(options.rate)]
        if IGroupWire.providedBy(wire) and wire.pacer is not None:
            pacers.append(wire.pacer)
        if self._site.pacer is not None:
            pacers.append(self._site.pacer)
        cast = CastProtocol(self._site, self._home, entry.name, entry.dialect, wire, content, tuple(pacers))
        cast.entry, cast.key = entry, entry.dialect.key(request, content)
        port = self._port(entry, cast, request, wire)
        if wire.group is not None:
            loopback = getattr(options, "loopback", True)
            broadcast = IGroupWire.providedBy(wire) and wire.broadcast
            try:
                port.setGroup(options.ttl, request.local.host, loopback, broadcast)
            except OSError:
                cast.transport.stopListening()  # type: ignore[union-attr]
                raise
        return cast

    def _port(self, entry: PortDialect, protocol: Any, request: Request, wire: Any = None) -> Any:
        """A port of its own, or this one."""
        if entry.dialect.ownPort:
            peer = request.peer if wire is None or wire.group is None else None
            return self._site.ports.openPort(protocol, request.local, peer, getattr(entry.options, "ports", None))
        protocol.makeConnection(ListeningTransport(self._home.transport, request))
        return self._home.transport

    def receive(self, entry: PortDialect, request: Request, uploadReceiver: ITransferHalf) -> None:
        """
        Begin an upload.

        @raise Refused: the place for it says no.
        @raise CannotListenError, OSError: no port could be had.
        """
        upload = self._site.sink(request).begin(request.name, request.peer, uploadReceiver.size)
        protocol = UploadProtocol(self._site, entry.name, request, uploadReceiver, upload, self._home.uploaded)
        try:
            self._port(entry, protocol, request)
        except BaseException:
            upload.abort()
            raise
        self._sessions.begin(protocol)
        self._sessions.enter(protocol, request.peer, not entry.dialect.ownPort)
        protocol.begin()
