"""
One cast on its way: actions become datagrams, as fast as pace and socket allow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from castd.cast.events import Announce, Bar, Left, SendBlocks
from castd.interfaces import ICast
from castd.net.backoff import FULL, Backoff
from castd.pacing import TICK
from castd.request import Peer

if TYPE_CHECKING:
    from castd.server.cast_protocol import CastProtocol

#: The most datagrams sent in one go, before reading, other casts and signals get their share of the reactor.
SLICE = 64


class CastSender:
    """
    A cast, and what of its last burst has not gone out yet.

    @ivar cast: decides.
    @ivar fallback: the one peer that everything goes to, for a receiver that hears no multicast; L{None}: as the wire
        says.
    @ivar announces: its receivers are told that they have the turn; one that goes on by unicast may know already.
    @ivar due: for L{castd.server.fallback}: the instant of its next L{pump}.
    """

    __slots__ = (
        "_again",
        "_backoff",
        "_late",
        "_peer",
        "_restUntil",
        "_sentAt",
        "_unsent",
        "announces",
        "cast",
        "due",
        "fallback",
        "owner",
    )

    def __init__(self, owner: CastProtocol, cast: ICast, fallback: Peer | None = None, announces: bool = True) -> None:
        self.owner = owner
        self.cast = cast
        self.fallback = fallback
        self.announces = announces
        self.due: float | None = None
        self._unsent = range(0)
        self._again = self._late = False
        self._peer: Peer | None = None
        self._backoff: Backoff | None = None
        self._restUntil = 0.0
        self._sentAt = float("-inf")

    def release(self) -> None:
        """It is over.  In a circle with its owner all that belongs to both would wait for Python's collector."""
        self.owner = None  # type: ignore[assignment]

    @property
    def idle(self) -> bool:
        """Nothing waits for the pacer or the socket."""
        return not self._unsent

    def pump(self, now: float) -> float | None:
        """
        Send what is due.

        @return: the instant to go on at, L{None}: when something arrives.
        @raise ContentChanged: the file is not what it was.
        """
        owner = self.owner
        budget = SLICE
        while budget > 0:
            if self._unsent:
                wait = self._pace(now)
                if wait is not None:
                    self._late = True
                    return wait
                sent = self._send(budget, now)
                if sent == 0:
                    return self._restUntil
                budget -= sent
                continue
            action = self.cast.poll(now)
            if action is None:
                return self.cast.deadline(now)
            if isinstance(action, SendBlocks):
                self._unsent, self._peer, self._again = action.numbers, action.peer, action.again
                self._late = False
            elif isinstance(action, Announce):
                budget -= owner.announce(action) if self.announces else 1
            elif isinstance(action, Left):
                owner.gone(self, action, now)
            elif isinstance(action, Bar):
                owner.warned(action)
        return now

    def _pace(self, now: float) -> float | None:
        """
        -> the instant at which the pacers and a full socket allow the next block, L{None}: now.

        All who share a pacer are told the same instant.  Who has just had its share comes later, or the first of them
        would be the first again, and whatever never waits for an answer would have it all.
        """
        wait = self._restUntil
        for pacer in self.owner.pacers:
            wait = max(wait, pacer.next(now))
        if wait <= now:
            return None
        return wait + TICK if self._sentAt == now else wait

    def _send(self, budget: int, now: float) -> int:
        """-> datagrams sent; 0: the socket is full."""
        owner = self.owner
        start = self._unsent.start
        assert self._peer is not None
        address: Any = self.fallback or owner.wire.address(self._peer)
        payload = owner.wire.payload(start)
        try:
            if payload is not None:
                image: Any = owner.wire.header(start) + payload
                step = len(image)
                sent = self._hand(image, step, address)
                count = 1 if sent else 0
            else:
                chunk = owner.chunk(start)
                step = chunk.step
                for pacer in owner.pacers:
                    budget = min(budget, max(1, int(pacer.share / step)))
                stop = min(self._unsent.stop, chunk.stop, start + budget)
                image = chunk.slice(start, stop)
                sent = self._hand(image, step, address)
                count = stop - start if sent >= len(image) else sent // step
        except BlockingIOError:
            count = sent = 0
        if count:
            self._backoff = None
            self._sentAt = now
            self._unsent = self._unsent[count:]
            if self._late and not self._unsent:
                self.cast.burstDelayed(now)
            owner.sent(start, count, sent - count * (step - owner.wire.blocksize), self._again)
            if self.fallback is not None:
                owner.beside += count
            for pacer in owner.pacers:
                pacer.spend(sent, now)
            return count
        self._late = True
        self._backoff = self._backoff or Backoff()
        self._restUntil = now + self._backoff.refused()
        owner.full += 1
        return 0

    def _hand(self, image: Any, step: int, address: Any) -> int:
        """-> octets that the transport has taken; a network that is down has taken them all."""
        try:
            transport: Any = self.owner.transport
            return transport.writeBurst(image, step, address)  # type: ignore[no-any-return]
        except OSError as error:
            if error.errno in FULL:
                return 0
            self.owner.unsendable(error)
            return len(image)
