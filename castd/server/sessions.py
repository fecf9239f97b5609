"""
Who is served at a request port, and who is being looked after.
"""

from __future__ import annotations

from typing import Any

from castd.interfaces import ISuccessor
from castd.request import Peer
from castd.server.cast_protocol import CastProtocol
from castd.server.upload_protocol import UploadProtocol

#: How long a receiver that hears no multicast is served by unicast without another try.  Seconds.
DEAF_FOR = 300.0
#: Addresses remembered for that; beyond, the oldest is forgotten.
MOST_DEAF = 4096

Served = CastProtocol | UploadProtocol


class Sessions:
    """
    The casts of a port, their members, and those whose file is being looked for; each change is told to the gate, which
    counts them for the whole server.

    @ivar living: the casts under way, in the order in which they began.
    @ivar here: of the members, those whose datagrams come to the request port itself.
    @ivar successor: the process that reads the port by now; L{None}: this one does.
    """

    def __init__(self, site: Any) -> None:
        self._site: Any = site
        self.living: dict[Served, None] = {}
        self.here: dict[Peer, Served] = {}
        self.successor: ISuccessor | None = None
        self._members: dict[Peer, Served] = {}
        self._looking: set[Peer] = set()
        self._deaf: dict[str, float] = {}

    def serving(self, peer: Peer) -> Served | None:
        """-> the cast that this peer is a member of."""
        return self._members.get(peer)

    def begin(self, cast: Served) -> None:
        """A cast is there."""
        self.living[cast] = None
        self._site.admission.casts += 1

    def end(self, cast: Served) -> None:
        """A cast is over."""
        self.living.pop(cast, None)
        self._site.admission.casts -= 1

    def enter(self, cast: Served, peer: Peer, here: bool) -> None:
        """This peer is a member from now on; C{here}: on the request port itself."""
        self._members[peer] = cast
        if here:
            self.here[peer] = cast
            if self.successor is not None:
                self.successor.peerJoined(peer)
        self._site.admission.enter(peer[0])

    def leave(self, cast: Served, peer: Peer) -> None:
        """A member's part has ended; it may be another cast's by now."""
        if self._members.get(peer) is cast:
            del self._members[peer]
            if self.here.pop(peer, None) is not None and self.successor is not None:
                self.successor.peerLeft(peer)
        self._site.admission.leave(peer[0])

    def look(self, peer: Peer) -> None:
        """Its file is being looked for."""
        self._looking.add(peer)
        self._site.admission.looking += 1

    def looks(self, peer: Peer) -> bool:
        """Is its file being looked for?"""
        return peer in self._looking

    @property
    def looking(self) -> bool:
        """Is anybody's file being looked for?"""
        return bool(self._looking)

    def looked(self, peer: Peer) -> None:
        """The look-up has ended."""
        self._looking.discard(peer)
        self._site.admission.looking -= 1

    def deafen(self, host: str) -> None:
        """This machine hears no multicast."""
        self._deaf[host] = self._site.reactor.seconds() + DEAF_FOR
        if len(self._deaf) > MOST_DEAF:
            del self._deaf[next(iter(self._deaf))]

    def deaf(self, host: str) -> bool:
        """Was it found to hear no multicast, not long ago?"""
        until = self._deaf.get(host)
        if until is not None and self._site.reactor.seconds() >= until:
            del self._deaf[host]
            return False
        return until is not None
