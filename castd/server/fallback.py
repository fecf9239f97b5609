"""
Asides: those who go on by unicast beside their group, each with a cast of its own at the group's port.

There may be hundreds, so only those are looked at for whom something is due.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count

from castd.cast.events import Event
from castd.request import Peer
from castd.server.sender import CastSender

#: In place of an instant: it is being pumped.
AT_WORK = -1.0


class Fallbacks:
    """
    By peer; and in the order in which they are due.
    """

    __slots__ = ("_heap", "_here", "_ordinals")

    def __init__(self) -> None:
        self._here: dict[Peer, CastSender] = {}
        # An entry whose instant is no longer its delivery's says nothing: a later one counts.
        self._heap: list[tuple[float, int, CastSender]] = []
        self._ordinals = count()

    def __len__(self) -> int:
        return len(self._here)

    def __contains__(self, peer: object) -> bool:
        return peer in self._here

    def get(self, peer: Peer) -> CastSender | None:
        return self._here.get(peer)

    def add(self, peer: Peer, delivery: CastSender, now: float) -> None:
        """From now on it is served by itself."""
        self._here[peer] = delivery
        self._due(delivery, now)

    def drop(self, peer: Peer) -> None:
        """It is over, if there was one."""
        if (gone := self._here.pop(peer, None)) is not None:
            gone.due = None

    def hear(self, delivery: CastSender, peer: Peer, event: Event, now: float) -> None:
        """Something arrived from one of them."""
        delivery.cast.hear(peer, event, now)
        self._due(delivery, now)

    def pump(self, now: float) -> float | None:
        """
        Send what is due.

        @return: the instant to go on at, L{None}: when something arrives.
        @raise ContentChanged: the file is not what it was.
        """
        heap, later = self._heap, []
        while heap and heap[0][0] <= now:
            instant, _, delivery = heappop(heap)
            if delivery.due == instant:
                delivery.due = AT_WORK
                later.append((delivery, delivery.pump(now)))
        # Only now: one that has sent its share may want to go on at once.
        for delivery, due in later:
            if delivery.due == AT_WORK and due is not None:
                self._due(delivery, due)
        while heap and heap[0][2].due != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def _due(self, delivery: CastSender, instant: float) -> None:
        delivery.due = instant
        heappush(self._heap, (instant, next(self._ordinals), delivery))
