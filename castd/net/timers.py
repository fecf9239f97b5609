"""
One timer of the reactor for all casts and uploads.

Setting a C{DelayedCall} anew costs a microsecond, as much as all of Python's part in a lockstep block; and nearly every
timer is put off before it expires.  So a target that puts its timer off only writes the instant into itself; the heap
learns of it when the old instant comes.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger(namespace="castd")

NEVER = float("inf")


class TimerTarget(Protocol):
    """
    Whoever has a timer.

    @ivar due: the instant at which the timer expires; L{None}: it is not set.  It may be written freely to a later
        instant or to None; for an earlier one call L{Timers.set}.
    @ivar heapEntry: written by L{Timers} only: the entry in its heap; L{None}: there is none.
    """

    due: float | None
    heapEntry: tuple[float, int] | None

    def timerExpired(self) -> object:
        """The instant has come.  C{due} is L{None} now."""


class Timers:
    """
    Timers of many targets, in a lazy heap over one delayed call.

    The heap knows numbers only: a target that has left is forgotten at once, though its entry stays until its time.
    """

    def __init__(self, reactor: IReactorTime, before: Callable[[], object] | None = None) -> None:
        """
        @param before: called before any timer expires: reads what has arrived.  The reactor runs timers first, so after
            a busy moment an answer may lie in its socket while the timer expires that waits for it.
        """
        self._reactor = reactor
        self._before = before
        self._heap: list[tuple[float, int]] = []
        self._targets: dict[int, TimerTarget] = {}
        self._numbers = count()
        self._call: IDelayedCall | None = None
        self._callAt = NEVER

    def __len__(self) -> int:
        """-> how many entries the heap has; those of targets that have left stay until their time."""
        return len(self._heap)

    def set(self, target: TimerTarget, instant: float | None) -> None:
        """Let the timer of this target expire at this instant; L{None}: never."""
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
        Bring the top of the heap up to date, so that the reactor's timer is set for a target that still waits: in a
        storm of small files every one that has ended would wake the reactor once more.
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
            except Exception:
                _log.failure("reading before the alarms failed", event="fault")
        # Not before: what was set meanwhile needs no call of its own.
        self._callAt = NEVER
        now = self._reactor.seconds()
        # Only what stands there now: a target whose timer expires and is set to expire at once waits for the next
        # round, so that reading and signals get their share.
        expired: list[TimerTarget] = []
        self._refreshTop()
        while self._heap and self._heap[0][0] <= now:
            _, number = heappop(self._heap)
            target = self._targets.pop(number)
            target.heapEntry = target.due = None
            expired.append(target)
            self._refreshTop()
        for target in expired:
            try:
                target.timerExpired()
            except Exception:
                # Whoever it was, the others' timers go on.
                _log.failure("an alarm failed", event="fault")
        self._schedule()
