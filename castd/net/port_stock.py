"""
Keep ports for unicast transfers that were bound before they are needed, each for one transfer.

The number of a transfer's port is, with the number of the client's port, all that a forger does not know.  So a number
that any peer has seen is never given to another peer: a used port is closed.  To bind a new one takes about as long as
to send ten blocks; so some are bound in advance, a few at a time between other work.

A stranger can find out which numbers are bound, by sending to all of them: a closed port is answered by an ICMP error.
So what waits in the stock is bound anew every L{LIFETIME} seconds, and a server that serves nobody has no stock.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: The most ports in stock, for all local addresses together; fewer where descriptors are scarce.
MOST_STOCK = 512
#: How many ports are bound in advance at first, for each local address and range.
FIRST_STOCK = 16
#: How many ports are bound at a time, and the seconds from one time to the next.
BATCH, BATCH_INTERVAL = 4, 0.005
#: Seconds after which a port that nobody has used is bound anew.  Linux sends 1000 ICMP errors a second at the most, so
#: in that time a stranger can try a third of the 28,232 numbers.
LIFETIME = 10.0
#: Seconds without a transfer after which the stock is given up.
UNUSED_FOR = 60.0
#: Seconds until the stock is filled again, after a port could not be bound.
RETRY_AFTER = 1.0


@lru_cache(1)
def mostStock() -> int:
    """
    Return the most ports that are kept: with two descriptors each they may have an eighth of all, as files need some.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_STOCK if limit == resource.RLIM_INFINITY else max(1, min(MOST_STOCK, limit // 16))


class Closable(Protocol):
    """Describes what is kept in stock."""

    def close(self) -> object:
        """Close the sockets."""


T = TypeVar("T", bound=Closable)


class _Shelf(Generic[T]):
    """
    The stock for one local address and range of numbers.

    @ivar bind: binds one port.
    @ivar most: the most ports that are kept here.
    @ivar ports: the ports, with the instants at which they were bound, oldest first.
    @ivar wanted: how many ports are to be kept.
    @ivar taken: how many ports were taken in the present period of L{LIFETIME} seconds.
    @ivar usedAt: the instant at which a port was last taken.
    """

    __slots__ = ("bind", "most", "ports", "taken", "usedAt", "wanted")

    def __init__(self, bind: Callable[[], T], most: int) -> None:
        self.bind = bind
        self.most = most
        self.ports: deque[tuple[float, T]] = deque()
        self.wanted = min(FIRST_STOCK, most)
        self.taken = 0
        self.usedAt = 0.0


class PortStock(Generic[T]):
    """
    Keeps ports for the next transfers, for several local addresses and ranges of port numbers.

    As many are kept as were taken lately: a stock that was found empty is doubled, one that is used little shrinks.
    """

    def __init__(self, clock: IReactorTime, most: Callable[[], int] = mostStock) -> None:
        """
        @param most: -> the most ports in all.
        """
        self._clock = clock
        self._most = most
        self._shelves: dict[Hashable, _Shelf[T]] = {}
        self._call: IDelayedCall | None = None
        # The instants of that call, of the end of the present period, and before which nothing is bound.
        self._callAt = self._periodEnd = self._retryAt = 0.0

    def __len__(self) -> int:
        """Return how many ports are in stock."""
        return sum(len(shelf.ports) for shelf in self._shelves.values())

    def take(self, key: Hashable, bind: Callable[[], T], most: int) -> T:
        """
        Return a port that nobody has used: one from the stock, or a new one.

        @param key: the local address and the range of numbers.
        @param bind: binds a port there.
        @param most: the most ports that are kept for this key.
        @raise OSError: as C{bind}.
        """
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = _Shelf(bind, most)
        shelf.usedAt = now = self._clock.seconds()
        shelf.taken += 1
        if shelf.ports:
            port = shelf.ports.popleft()[1]
        else:
            shelf.wanted = min(shelf.most, 2 * shelf.wanted) if shelf.taken > shelf.wanted else shelf.wanted
            port = bind()
        self._wake(now)
        return port

    def _wake(self, now: float) -> None:
        """Have the stock filled soon, as a port was taken."""
        at = max(now + BATCH_INTERVAL, self._retryAt)
        if self._call is None:
            self._periodEnd = now + LIFETIME
            self._schedule(at, now)
        elif self._callAt > at:
            self._call.cancel()
            self._schedule(at, now)

    def _schedule(self, instant: float, now: float) -> None:
        self._callAt = instant
        self._call = self._clock.callLater(instant - now, self._work)

    def _work(self) -> None:
        """Close what is too old, and bind a few ports where some are lacking."""
        self._call = None
        now = self._clock.seconds()
        if now >= self._periodEnd:
            self._periodEnd = now + LIFETIME
            self._adjust(now)
        self._closeOld(now)
        if self._shelves:
            self._schedule(self._fill(now), now)

    def _adjust(self, now: float) -> None:
        """Choose anew how many ports are kept, by how many were taken; give up a stock that nobody uses."""
        for key, shelf in list(self._shelves.items()):
            if now >= shelf.usedAt + UNUSED_FOR:
                _close(shelf)
                del self._shelves[key]
                continue
            shelf.wanted = max(min(FIRST_STOCK, shelf.most), min(shelf.wanted, 2 * shelf.taken))
            shelf.taken = 0

    def _closeOld(self, now: float) -> None:
        for shelf in self._shelves.values():
            while shelf.ports and now >= shelf.ports[0][0] + LIFETIME:
                shelf.ports.popleft()[1].close()

    def _fill(self, now: float) -> float:
        """Bind up to L{BATCH} ports.  -> the instant of the next call of L{_work}."""
        room = self._most() - len(self)
        left = min(BATCH, room)
        for shelf in self._shelves.values():
            while left > 0 and len(shelf.ports) < shelf.wanted:
                try:
                    shelf.ports.append((now, shelf.bind()))
                except OSError:
                    # Not told: whoever needs a port is told, if it cannot be bound then.
                    self._retryAt = now + RETRY_AFTER
                    return self._retryAt
                left -= 1
        if left <= 0 < room:
            return now + BATCH_INTERVAL
        return max(now + BATCH_INTERVAL, min(self._oldest() + LIFETIME, self._periodEnd))

    def _oldest(self) -> float:
        """Return the instant at which the oldest port was bound; infinity if there is none."""
        return min((shelf.ports[0][0] for shelf in self._shelves.values() if shelf.ports), default=float("inf"))

    def clear(self) -> None:
        """Close all ports in stock, and bind no more until the next one is taken."""
        for shelf in self._shelves.values():
            _close(shelf)
        self._shelves.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None


def _close(shelf: _Shelf[T]) -> None:
    while shelf.ports:
        shelf.ports.popleft()[1].close()
