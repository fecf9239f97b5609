"""
Serve receivers by unicast that do not hear their group, each by a cast of its own at the group's port.

There may be hundreds, so only the casts are run for which something is due.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from castd.cast.events import Event
from castd.request import Peer
from castd.server.sender import CastSender

#: The value of C{CastSender.due} while the sender is being run.
RUNNING = -1.0


class Fallbacks:
    """
    Keeps the senders of these receivers, by peer and in the order in which they are due.
    """

    __slots__ = ("_heap", "_ordinals", "_senders")

    def __init__(self) -> None:
        self._senders: dict[Peer, CastSender] = {}
        # An entry whose instant is no longer that of its sender is out of date: a later entry counts.
        self._heap: list[tuple[float, int, CastSender]] = []
        self._ordinals = count()

    def __len__(self) -> int:
        return len(self._senders)

    def __contains__(self, peer: object) -> bool:
        return peer in self._senders

    def get(self, peer: Peer) -> CastSender | None:
        """Return the sender of this receiver; L{None}: it is not served by unicast."""
        return self._senders.get(peer)

    def add(self, peer: Peer, sender: CastSender, now: float) -> None:
        """Serve this receiver by a cast of its own from now on."""
        self._senders[peer] = sender
        self._schedule(sender, now)

    def drop(self, peer: Peer) -> None:
        """Remove this receiver, if it is one of these."""
        if (sender := self._senders.pop(peer, None)) is not None:
            sender.due = None

    def hear(self, sender: CastSender, peer: Peer, event: Event, now: float) -> None:
        """Pass an event to the cast of a receiver, which is due then."""
        sender.hear(peer, event, now)
        self._schedule(sender, now)

    def run(
        self, each: Callable[[CastSender, float], float | None], now: float, most: int | None = None
    ) -> float | None:
        """
        Run the senders that are due.

        @param each: runs one sender, and returns the instant to go on at; L{None}: when a datagram arrives.
        @param most: how many may be run; L{None}: all.
        @return: the instant at which the next sender is due; L{None}: when a datagram arrives.
        @raise ContentChanged: the file has changed.
        """
        heap = self._heap
        later: list[tuple[CastSender, float | None]] = []
        while heap and heap[0][0] <= now:
            if most is not None and len(later) >= most:
                break
            instant, _, sender = heappop(heap)
            if sender.due == instant:
                sender.due = RUNNING
                later.append((sender, each(sender, now)))
        # Scheduled only now, since a sender that has sent its share may be due again at once.
        for sender, due in later:
            if sender.due == RUNNING and due is not None:
                self._schedule(sender, due)
        while heap and heap[0][2].due != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def _schedule(self, sender: CastSender, instant: float) -> None:
        sender.due = instant
        heappush(self._heap, (instant, next(self._ordinals), sender))
