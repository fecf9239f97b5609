"""
Provides virtual time: a sequence of events, with limits to their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol, TypeAlias, TypeVar

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from castd.request import Local, Peer

T = TypeVar("T")

#: Cancelled timers are removed once there are so many of them, and they are more than half of all.
_MANY = 1000


class LimitExceeded(AssertionError):
    """The error that a run has exceeded its limit of virtual time or of datagrams."""


class DatagramReceiver(Protocol):
    """An object that datagrams are delivered to."""

    def receive(self, datagram: bytes, source: Peer, local: Local | None) -> None:
        """As L{castd.testing.ports.VirtualPort.receive}."""


#: One event: its instant, a serial number, and the datagram that arrives or the timer that expires.
_Arrival: TypeAlias = tuple[float, int, DatagramReceiver, bytes, Peer, Local | None]
_Timer: TypeAlias = tuple[float, int, DelayedCall]


class Timeline(Clock):
    """
    A L{Clock} for thousands of timers and millions of datagrams.

    Twisted's C{Clock} sorts all calls at each new one.  Here timers are in a heap, and datagrams, which nearly always
    arrive in the order in which they were posted, in a queue beside it.

    @ivar sent: how many datagrams were sent; counted by L{Network<castd.testing.Network>}, limited here.
    @ivar delivered: how many datagrams were delivered to a receiver.
    """

    def __init__(self) -> None:
        super().__init__()
        self._arrivals: deque[_Arrival] = deque()
        self._heap: list[_Arrival | _Timer] = []
        self._dead = 0
        self._serial = count()
        self.sent = self.delivered = 0

    def post(self, when: float, receiver: DatagramReceiver, datagram: bytes, source: Peer, local: Local | None) -> None:
        """Call C{receiver.receive(datagram, source, local)} at that instant."""
        event = (when, next(self._serial), receiver, datagram, source, local)
        arrivals = self._arrivals
        if not arrivals or when >= arrivals[-1][0]:
            arrivals.append(event)
        else:
            heappush(self._heap, event)

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall:
        """As L{IReactorTime.callLater}."""
        if delay < 0:
            raise ValueError(f"{delay} seconds from now is in the past")
        call = DelayedCall(self.rightNow + delay, callable, args, kw, self._cancelled, self._push, self.seconds)
        self._push(call)
        return call

    def _push(self, call: DelayedCall) -> None:
        heappush(self._heap, (call.time, next(self._serial), call))

    def _cancelled(self, call: DelayedCall) -> None:
        self._dead += 1
        if self._dead > _MANY and self._dead * 2 > len(self._heap):
            self._heap = [
                event for event in self._heap if len(event) != 3 or (not event[2].cancelled and event[2] is not call)
            ]
            heapify(self._heap)
            self._dead = 0

    def getDelayedCalls(self) -> list[DelayedCall]:
        """As L{IReactorTime.getDelayedCalls}."""
        found = dict.fromkeys(event[2] for event in self._heap if len(event) == 3 and event[2].active())
        return sorted(found, key=DelayedCall.getTime)

    # The passing of time

    def advance(self, amount: float) -> None:
        """Let so many seconds pass; each event happens at its own instant, not at the end."""
        end = self.rightNow + amount
        self._runUntil(end, None, 1_000_000)
        self.rightNow = end

    def run(self, until: Callable[[], object] | None = None, limit: float = 120.0, datagrams: int = 1_000_000) -> float:
        """
        Let time pass until C{until()} is true; without C{until}, until no datagram is under way and no timer runs.

        @param limit: the most virtual seconds.
        @param datagrams: the most datagrams that may be sent.
        @return: the virtual seconds that have passed.
        @raise LimitExceeded: a limit is exceeded, or no event is left before C{until} is true.
        """
        start = self.rightNow
        if self._runUntil(start + limit, until, datagrams):
            return self.rightNow - start
        if self._arrivals or self._heap:
            self.rightNow = start + limit
            raise LimitExceeded(f"no end within {limit} virtual seconds ({self.sent} datagrams sent in all)")
        if until is not None:
            raise LimitExceeded(f"everything is silent since {self.rightNow:.3f} s, and it has not come true")
        return self.rightNow - start

    def result(self, deferred: Deferred[T] | T, limit: float = 120.0, datagrams: int = 1_000_000) -> T:
        """
        Let time pass until C{deferred} has fired; the limits are those of L{run}.

        @param deferred: or the result itself, as of L{ISite.lookup<castd.interfaces.ISite.lookup>}.
        @return: the result of C{deferred}; its failure is raised.
        """
        if not isinstance(deferred, Deferred):
            return deferred
        outcome: list[T | Failure] = []
        deferred.addBoth(outcome.append)
        if not outcome:
            self.run(lambda: outcome, limit, datagrams)
        value = outcome[0]
        if isinstance(value, Failure):
            value.raiseException()
        return value

    def _runUntil(self, end: float, until: Callable[[], object] | None, budget: int) -> bool:
        """Process the events up to C{end}.  -> whether C{until} is true; without C{until}, whether no event is left."""
        arrivals = self._arrivals
        most = self.sent + budget
        while not (until and until()):
            heap = self._heap
            # Serial numbers are unique, so the fields behind them are never compared.
            if arrivals and not (heap and heap[0] < arrivals[0]):  # type: ignore[operator]
                if arrivals[0][0] > end:
                    return False
                when, _, receiver, datagram, source, local = arrivals.popleft()
            elif heap:
                if heap[0][0] > end:
                    return False
                event = heappop(heap)
                if len(event) == 3:
                    self._expire(event[0], event[2])
                    continue
                when, _, receiver, datagram, source, local = event
            else:
                return until is None
            self.rightNow = when
            self.delivered += 1
            receiver.receive(datagram, source, local)
            if self.sent > most:
                raise LimitExceeded(f"more than {budget} datagrams within {self.rightNow:.3f} virtual seconds")
        return True

    def _expire(self, when: float, call: DelayedCall) -> None:
        """Call a timer that is due, unless it was cancelled, called or delayed meanwhile."""
        if call.cancelled:
            self._dead = max(0, self._dead - 1)
        elif call.called or call.time != when:
            return
        elif call.delayed_time > 0:
            call.activate_delay()
            self._push(call)
        else:
            self.rightNow = max(self.rightNow, when)
            call.called = 1
            call.func(*call.args, **call.kw)
