"""
Fallbacks: receivers that go on by unicast beside their group, each with a cast of its own at the group's port.

There may be hundreds, so only those are looked at for whom something is due.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from castd.cast.events import Event
from castd.request import Peer
from castd.server.sender import CastSender

#: In place of an instant: this one is being run.
RUNNING = -1.0


class Fallbacks:
    """
    The senders of these receivers, by peer and in the order in which they are due.
    """

    __slots__ = ("_heap", "_ordinals", "_senders")

    def __init__(self) -> None:
        self._senders: dict[Peer, CastSender] = {}
        # An entry whose instant is no longer its sender's says nothing: a later one counts.
        self._heap: list[tuple[float, int, CastSender]] = []
        self._ordinals = count()

    def __len__(self) -> int:
        return len(self._senders)

    def __contains__(self, peer: object) -> bool:
        return peer in self._senders

    def get(self, peer: Peer) -> CastSender | None:
        """-> the sender of this receiver; L{None}: it does not go on by unicast."""
        return self._senders.get(peer)

    def add(self, peer: Peer, sender: CastSender, now: float) -> None:
        """Serve this receiver by a cast of its own from now on."""
        self._senders[peer] = sender
        self._schedule(sender, now)

    def drop(self, peer: Peer) -> None:
        """Forget this receiver, if it is here."""
        if (sender := self._senders.pop(peer, None)) is not None:
            sender.due = None

    def hear(self, sender: CastSender, peer: Peer, event: Event, now: float) -> None:
        """Tell its cast what a receiver said, and run it the next time."""
        sender.cast.hear(peer, event, now)
        self._schedule(sender, now)

    def run(self, each: Callable[[CastSender, float], float | None], now: float) -> float | None:
        """
        Run those that are due.

        @param each: runs one, and gives the instant at which it goes on; L{None}: when something arrives.
        @return: the instant at which the next of all is due; L{None}: when something arrives.
        @raise ContentChanged: the file is not what it was.
        """
        heap, later = self._heap, []
        while heap and heap[0][0] <= now:
            instant, _, sender = heappop(heap)
            if sender.due == instant:
                sender.due = RUNNING
                later.append((sender, each(sender, now)))
        # Only now: one that has sent its share may want to go on at once.
        for sender, due in later:
            if sender.due == RUNNING and due is not None:
                self._schedule(sender, due)
        while heap and heap[0][2].due != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def _schedule(self, sender: CastSender, instant: float) -> None:
        sender.due = instant
        heappush(self._heap, (instant, next(self._ordinals), sender))
