"""
One timer of the reactor for all casts.

Setting a C{DelayedCall} anew costs a microsecond, as much as all of Python's part in a lockstep block; and nearly every
alarm is put off before it rings.  So an owner that puts its alarm off only writes the instant into itself; the heap
learns of it when the old instant comes.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger(namespace="castd")

NEVER = float("inf")


class TimerTarget(Protocol):
    """
    Who has an alarm.

    @ivar due: the instant to be woken at, L{None}: not.  It may be written freely to a later instant or to None; who
        wants to be woken sooner calls L{Timers.set}.
    @ivar queued: belongs to L{Timers}: how it stands in the heap, L{None}: it does not.
    """

    due: float | None
    queued: tuple[float, int] | None

    def wake(self) -> Any: ...


class Timers:
    """
    A lazy heap of alarms over one delayed call.

    The heap knows numbers only: who has left is forgotten at once, though its place in the heap stays until its time.
    """

    def __init__(self, reactor: IReactorTime, before: Callable[[], object] | None = None) -> None:
        """
        @param before: called before anybody is woken: reads what has arrived.  The reactor runs timers first, so after
            a busy moment an answer may lie in its socket while the alarm rings that waits for it.
        """
        self._reactor: Any = reactor
        self._before = before
        self._heap: list[tuple[float, int]] = []
        self._owners: dict[int, TimerTarget] = {}
        self._ticket = count()
        self._call: IDelayedCall | None = None
        self._callAt = NEVER

    def __len__(self) -> int:
        """How many places of the heap are taken; the places of those who have left are, until their time."""
        return len(self._heap)

    def set(self, owner: TimerTarget, instant: float | None) -> None:
        """Wake C{owner} at this instant; L{None}: never mind."""
        owner.due = instant
        if owner.queued is not None:
            if instant is not None and owner.queued[0] <= instant:
                return
            del self._owners[owner.queued[1]]
            owner.queued = None
        if instant is None:
            return
        owner.queued = (instant, next(self._ticket))
        self._owners[owner.queued[1]] = owner
        heappush(self._heap, owner.queued)
        if instant < self._callAt:
            self._arm()

    def _arm(self) -> None:
        self._settle()
        if not self._heap:
            return
        instant = self._heap[0][0]
        if self._callAt <= instant:
            return
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._callAt = instant
        self._call = self._reactor.callLater(max(0.0, instant - self._reactor.seconds()), self._ring)

    def _settle(self) -> None:
        """
        Bring the top of the heap up to date, so that the timer is set for somebody who still waits: in a storm of small
        files every one that has ended would wake the reactor once more.
        """
        heap, owners = self._heap, self._owners
        while heap:
            instant, ticket = heap[0]
            owner = owners.get(ticket)
            if owner is None:
                heappop(heap)
            elif owner.due is None:
                heappop(heap)
                del owners[ticket]
                owner.queued = None
            elif owner.due > instant:
                owner.queued = (owner.due, ticket)
                heapreplace(heap, owner.queued)
            else:
                return

    def _ring(self) -> None:
        if self._before is not None:
            try:
                self._before()
            except Exception:
                _log.failure("reading before the alarms failed", event="fault")
        # Not before: what was set meanwhile needs no timer of its own.
        self._callAt = NEVER
        now = self._reactor.seconds()
        # Only what stands there now: an owner that is woken and wants to be woken at once waits for the next round, so
        # that reading and signals get their share.
        rung: list[TimerTarget] = []
        self._settle()
        while self._heap and self._heap[0][0] <= now:
            _, ticket = heappop(self._heap)
            owner = self._owners.pop(ticket)
            owner.queued = owner.due = None
            rung.append(owner)
            self._settle()
        for owner in rung:
            try:
                owner.wake()
            except Exception:
                # Whoever it was, the others' alarms go on.
                _log.failure("an alarm failed", event="fault")
        self._arm()
