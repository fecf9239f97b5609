"""
Timers: whatever fails, they go on expiring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from castd.net.timers import LONGEST_EXPIRY, MOST_EXPIRED, Timers
from tests.support.log import observed


class Sleeper:
    """Counts how often it was woken."""

    def __init__(self) -> None:
        self.due: float | None = None
        self.heapEntry: tuple[float, int] | None = None
        self.woken = 0

    def timerExpired(self) -> None:
        self.woken += 1


def test_readingFails() -> None:
    """A fault while arrived datagrams are read first keeps no timer from expiring."""

    def read() -> None:
        raise OSError("no such thing")

    clock, sleeper = Clock(), Sleeper()
    timers = Timers(clock, read)
    for instant in (1, 2):
        timers.set(sleeper, instant)
        clock.advance(1)
    assert sleeper.woken == 2


@pytest.mark.parametrize("fault", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_noProgramEndsHere(fault: type[BaseException]) -> None:
    """What would end a program, raised by a target, by reading, or by who observes the log, stops no timer."""

    def fail(*_: object) -> None:
        raise fault

    class Faulty(Sleeper):
        def timerExpired(self) -> None:
            fail()

    clock, faulty, sleeper = Clock(), Faulty(), Sleeper()
    timers = Timers(clock, fail)
    with observed(fail):
        for instant in (1, 2):
            timers.set(faulty, instant)
            timers.set(sleeper, instant)
            clock.advance(1)
    assert sleeper.woken == 2


def expiredBeforeEachRead(clock: Clock, sleepers: Sequence[Sleeper]) -> list[int]:
    """Let timers expire at one instant, each once.  -> how many had, each time that ports were read."""
    reads: list[int] = []
    timers = Timers(clock, lambda: reads.append(sum(each.woken for each in sleepers)))
    for each in sleepers:
        timers.set(each, 1.0)
    clock.advance(1.0)
    while clock.getDelayedCalls():
        clock.advance(0)
    assert [each.woken for each in sleepers] == [1] * len(sleepers)
    return reads


def test_manyAtOnce() -> None:
    """Of thousands of timers that expire at one instant some do, then ports are read; none is late for long."""
    sleepers = [Sleeper() for _ in range(10 * MOST_EXPIRED)]
    assert expiredBeforeEachRead(Clock(), sleepers) == list(range(0, 10 * MOST_EXPIRED, MOST_EXPIRED))


def test_notForLong() -> None:
    """Timers whose targets take long expire for some milliseconds, then ports are read; in the end all have."""
    few, clock = 8, Clock()

    class Slow(Sleeper):
        def timerExpired(self) -> None:
            super().timerExpired()
            clock.rightNow += 1.01 * LONGEST_EXPIRY / few

    assert expiredBeforeEachRead(clock, [Slow() for _ in range(5 * few)]) == list(range(0, 5 * few, few))


def test_setAgainWhileOthersExpire() -> None:
    """
    A timer that is set to expire at once waits for the next turn, however often that is; one that another target has
    postponed or removed does not expire, and for what is done in this turn the reactor is asked for no call.
    """
    clock, order, calls = Clock(), list[str](), list[float]()
    callLater = clock.callLater

    def noted(delay: float, *args: Any) -> IDelayedCall:
        calls.append(clock.seconds() + delay)
        return callLater(delay, *args)

    clock.callLater = noted  # type: ignore[method-assign]
    timers = Timers(clock)

    class Named(Sleeper):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def timerExpired(self) -> None:
            super().timerExpired()
            order.append(self.name)
            if self.name == "again" and self.woken < 3:
                timers.set(self, clock.seconds())
                timers.set(later, 5.0)
                timers.set(gone, None)

    again, later, gone, last = map(Named, ("again", "later", "gone", "last"))
    for each in (again, later, gone, last):
        timers.set(each, 1.0)
    clock.advance(4.0)
    assert order == ["again", "last", "again", "again"]
    clock.advance(1.0)
    assert order[4:] == ["later"]
    assert calls == [1.0, 4.0, 4.0, 5.0]


def test_tidied() -> None:
    """When no timer is set the reactor's is gone as well, and comes back with the next one."""
    clock, one, other = Clock(), Sleeper(), Sleeper()
    timers = Timers(clock, None)
    timers.set(one, 30)
    timers.set(other, 40)
    timers.set(one, None)
    timers.tidy()
    assert len(timers) == 1
    timers.set(other, None)
    timers.tidy()
    assert len(timers) == 0
    assert clock.getDelayedCalls() == []
    timers.set(one, 50)
    timers.set(other, 60)
    timers.tidy()
    clock.advance(50)
    assert (one.woken, other.woken) == (1, 0)
    clock.advance(10)
    assert other.woken == 1
