"""
Timers: whatever fails, they go on expiring.
"""

from __future__ import annotations

from twisted.internet.task import Clock

from castd.net.timers import Timers


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
