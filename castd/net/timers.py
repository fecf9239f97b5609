"""
Run the timers of all casts, uploads and request ports by one timer of the reactor.

Resetting a C{DelayedCall} costs a microsecond, as much as all Python code for a lockstep block; and nearly every timer
is postponed before it expires.  So a target that postpones its timer only sets its own attribute; the heap is updated
when the old instant comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from castd.net.faults import logFault

NEVER = float("inf")
#: The most timers that expire at once, before the reactor reads ports and handles signals; and how long that may last,
#: since to end a transfer takes a third of a millisecond, and thousands may end at one instant.  Seconds.
MOST_EXPIRED, LONGEST_EXPIRY = 64, 0.003


class TimerTarget(Protocol):
    """
    Describes an object that has a timer.

    @ivar due: the instant at which the timer expires; L{None}: it is not set.  The target may set it to a later instant
        or to L{None} at any time; for an earlier one it must call L{Timers.set}.
    @ivar heapEntry: the entry in the heap of L{Timers}, which alone sets it; L{None}: there is none.
    """

    due: float | None
    heapEntry: tuple[float, int] | None

    def timerExpired(self) -> object:
        """Handle the timer, whose instant has come.  C{due} is L{None} now."""


def useMonotonicClock(reactor: IReactorTime) -> None:
    """Make the reactor use the monotonic clock: with C{time.time}, setting back the clock would delay every timer."""
    reactor.seconds = time.monotonic  # type: ignore[method-assign]


class Timers:
    """
    Runs the timers of many targets, by a lazy heap and one delayed call.

    The heap has numbers only, not targets: a target without a timer is freed at once, though its entry stays in the
    heap until its instant.
    """

    def __init__(self, reactor: IReactorTime, before: Callable[[], object] | None = None) -> None:
        """
        @param before: called before timers expire, to read datagrams that have arrived.  The reactor runs timers before
            it reads, so after a busy moment an answer may be in its socket when the timer for it expires.
        """
        self._reactor = reactor
        self._before = before
        self._heap: list[tuple[float, int]] = []
        self._targets: dict[int, TimerTarget] = {}
        self._numbers = count()
        self._call: IDelayedCall | None = None
        self._callAt = NEVER

    def seconds(self) -> float:
        """Return the present instant."""
        return self._reactor.seconds()

    def __len__(self) -> int:
        """Return how many entries the heap has, with those of targets that have no timer any more."""
        return len(self._heap)

    def tidy(self) -> None:
        """Forget timers that are no longer set, and the reactor's, which may outlast them, if there are no others."""
        self._refreshTop()
        if not self._heap and self._call is not None and self._call.active():
            self._call.cancel()
            self._callAt = NEVER

    def set(self, target: TimerTarget, instant: float | None) -> None:
        """Set the timer of a target to expire at this instant; L{None}: never."""
        target.due = instant
        if target.heapEntry is not None:
            if instant is not None and target.heapEntry[0] <= instant:
                return
            del self._targets[target.heapEntry[1]]
            target.heapEntry = None
        if instant is None:
            return
        target.heapEntry = (instant, next(self._numbers))
        self._targets[target.heapEntry[1]] = target
        heappush(self._heap, target.heapEntry)
        if instant < self._callAt:
            self._schedule()

    def _schedule(self) -> None:
        """Set the reactor's timer for the top of the heap, unless it is set for that or for an earlier instant."""
        self._refreshTop()
        if not self._heap:
            return
        instant = self._heap[0][0]
        if self._callAt <= instant:
            return
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._callAt = instant
        self._call = self._reactor.callLater(max(0.0, instant - self._reactor.seconds()), self._expire)

    def _refreshTop(self) -> None:
        """
        Update the top of the heap, so that the reactor's timer is set for a target that still has a timer; else each of
        many small transfers that have ended would wake the reactor once more.
        """
        heap, targets = self._heap, self._targets
        while heap:
            instant, number = heap[0]
            target = targets.get(number)
            if target is None:
                heappop(heap)
            elif target.due is None:
                heappop(heap)
                del targets[number]
                target.heapEntry = None
            elif target.due > instant:
                target.heapEntry = (target.due, number)
                heapreplace(heap, target.heapEntry)
            else:
                return

    def _expire(self) -> None:
        if self._before is not None:
            try:
                self._before()
            except BaseException:
                logFault("reading before the timers failed")
        # As long as it is so no timer that is set asks for a delayed call of its own.
        self._callAt = -NEVER
        now = self._reactor.seconds()
        # Only timers that are due now, and not too many: one that expires and is set to expire at once waits for the
        # next call, so that the reactor reads and handles signals before.
        last, anew = next(self._numbers), list[tuple[float, int]]()
        expired = 0
        self._refreshTop()
        while self._heap and self._heap[0][0] <= now and expired < MOST_EXPIRED:
            entry = heappop(self._heap)
            if entry[1] > last:
                anew.append(entry)
            else:
                expired += 1
                self._expireOne(self._targets.pop(entry[1]))
                if self._reactor.seconds() >= now + LONGEST_EXPIRY:
                    break
            self._refreshTop()
        for entry in anew:
            heappush(self._heap, entry)
        self._callAt = NEVER
        self._schedule()

    @staticmethod
    def _expireOne(target: TimerTarget) -> None:
        target.heapEntry = target.due = None
        try:
            target.timerExpired()
        except BaseException:
            # A fault of one target must not stop the timers of the others.
            logFault("a timer failed")
