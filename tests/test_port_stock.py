"""
Ports in stock, with a clock of the test's: each is handed out once, bound while nothing else is done, and never old.
"""

from __future__ import annotations

import errno
from itertools import count

import pytest
from twisted.internet.task import Clock

from castd.net.port_stock import (
    BATCH,
    BATCH_INTERVAL,
    FIRST_STOCK,
    LIFETIME,
    RETRY_AFTER,
    UNUSED_FOR,
    PortStock,
)

KEY = ("10.0.0.1", None)


class Bound:
    """A port in name only."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Bench:
    """
    A stock, and all that was bound for it.

    @ivar bound: all ports, in the order in which they were bound.
    @ivar error: raised in place of binding.
    """

    def __init__(self, most: int = 512) -> None:
        self.clock = Clock()
        self.stock: PortStock[Bound] = PortStock(self.clock, lambda: most)
        self.bound: list[Bound] = []
        self.error: OSError | None = None
        self._numbers = count(1)

    def bind(self) -> Bound:
        if self.error is not None:
            raise self.error
        self.bound.append(Bound(next(self._numbers)))
        return self.bound[-1]

    def take(self, key: object = KEY, most: int = 512) -> Bound:
        port = self.stock.take(key, self.bind, most)
        assert not port.closed
        return port

    def rest(self, seconds: float) -> None:
        """Let time pass, in small steps."""
        for _ in range(round(seconds / BATCH_INTERVAL)):
            self.clock.advance(BATCH_INTERVAL)

    @property
    def open(self) -> int:
        return sum(not port.closed for port in self.bound)


def test_eachOnce() -> None:
    """However ports are taken, from the stock or without one, nobody gets a number that another one has had."""
    bench = Bench()
    numbers = []
    for pause in (0, 0, 0.1, 0, 0.005, 12.0, 0.02, 0, 70.0, 0):
        numbers += [bench.take().number for _ in range(30)]
        bench.rest(pause)
    assert len(set(numbers)) == len(numbers) == 300


def test_boundBetweenOtherWork() -> None:
    """What is taken is bound anew a few at a time, so that nobody waits for it."""
    bench = Bench()
    bench.take()
    assert len(bench.stock) == 0
    sizes = []
    for _ in range(6):
        bench.clock.advance(BATCH_INTERVAL)
        sizes.append(len(bench.stock))
    assert sizes == [BATCH, 2 * BATCH, 3 * BATCH, FIRST_STOCK, FIRST_STOCK, FIRST_STOCK]
    before = len(bench.bound)
    assert bench.take() is bench.bound[1]
    assert len(bench.bound) == before


def test_neverOld() -> None:
    """No port waits so long that a stranger can find it by trying all numbers; new ones take the place of old ones."""
    bench = Bench()
    bench.take()
    bench.rest(LIFETIME / 2)
    for _ in range(5):
        early = [port for port in bench.bound if not port.closed][1:]
        bench.rest(LIFETIME)
        assert early
        assert all(port.closed for port in early)
        assert len(bench.stock) == FIRST_STOCK


def test_givenUp() -> None:
    """A server that serves nobody keeps no port, and is not woken for any."""
    bench = Bench()
    mine = bench.take()
    bench.rest(UNUSED_FOR + 2 * LIFETIME)
    assert len(bench.stock) == 0
    assert bench.open == 1
    assert not mine.closed
    assert bench.clock.getDelayedCalls() == []


def test_growsAndShrinks() -> None:
    """A stock that was found empty is doubled, up to its bound; one that is used little shrinks again."""
    bench = Bench()
    for _ in range(20):
        for _ in range(100):
            bench.take(most=128)
        bench.rest(0.5)
    assert len(bench.stock) == 128
    for _ in range(4):
        bench.take(most=128)
        bench.rest(LIFETIME)
    assert len(bench.stock) == FIRST_STOCK


def test_bounded() -> None:
    """All local addresses and ranges together have no more than the bound, and a small range has its share alone."""
    bench = Bench(most=40)
    for key in range(10):
        bench.take(key)
    bench.rest(1.0)
    assert len(bench.stock) == 40
    small = Bench()
    small.take(most=2)
    none = Bench()
    none.take(most=0)
    for each, kept in ((small, 2), (none, 0)):
        each.rest(1.0)
        assert len(each.stock) == kept


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRINUSE, errno.EACCES, errno.ENOMEM])
def test_cannotBind(number: int) -> None:
    """While nothing can be bound it is tried once a second, and whoever needs a port is told."""
    bench = Bench()
    bench.take()
    bench.error = OSError(number, "no")
    bench.rest(0.1)
    assert len(bench.stock) == 0
    with pytest.raises(OSError, match="no"):
        bench.take()
    bench.error = None
    bench.clock.advance(RETRY_AFTER)
    assert len(bench.stock) == BATCH
    assert bench.take() is bench.bound[1]


def test_cleared() -> None:
    """What is in stock can be let go of at any time; who has a port keeps it, and the next one is bound as at first."""
    bench = Bench()
    mine = bench.take()
    bench.rest(1.0)
    bench.stock.clear()
    assert (len(bench.stock), bench.open, mine.closed) == (0, 1, False)
    assert bench.clock.getDelayedCalls() == []
    bench.take()
    bench.rest(1.0)
    assert len(bench.stock) == FIRST_STOCK
