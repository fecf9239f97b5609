"""
Bound what strangers can make a PXE server do: rates, repetitions, and what is remembered of machines.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

#: Machines that are told apart at once; of the others the one that asked longest ago is forgotten.
MOST_MACHINES = 4096
#: Files that were refused to machines, of which a line was written.
MOST_REFUSALS = 1024
#: Seconds over which the answers to one machine are counted, and those to all.
MACHINE_WINDOW, SERVER_WINDOW = 4.0, 1.0
#: Seconds within which a repetition is the same request, read twice.
SAME_REQUEST = 0.05
#: The most seconds that a request waits for its turn.
LONGEST_WAIT = 0.1

_Key = TypeVar("_Key", bound=Hashable)


class Window:
    """Allows so many things within so many seconds, wherever these seconds begin."""

    __slots__ = ("_taken", "count", "seconds")

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds
        self._taken: deque[float] = deque()

    def next(self, now: float) -> float:
        """Return the instant at which the next thing is allowed: C{now} or later."""
        while len(self._taken) > self.count:
            self._taken.popleft()
        if len(self._taken) < self.count:
            return now
        return max(now, self._taken[0] + self.seconds)

    def take(self, at: float) -> None:
        """Note a thing that happens at this instant, which is not before that of an earlier call."""
        self._taken.append(at)


class Recent(Generic[_Key]):
    """Remembers until when something lasts, for a bounded number of keys."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._until: OrderedDict[_Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def begin(self, key: _Key, now: float, seconds: float) -> bool:
        """Let this last so long from now on.  -> C{False}: it lasts already, and nothing has changed."""
        if self._until.get(key, now) > now:
            return False
        self._until.pop(key, None)
        self._until[key] = now + seconds
        if len(self._until) > self._most:
            self._until.popitem(last=False)
        return True

    def last(self, now: float) -> _Key | None:
        """Return what has begun last and lasts now; L{None}: nothing does."""
        return next((key for key, until in reversed(self._until.items()) if until > now), None)

    def lasting(self, now: float) -> int:
        """Return how many last now."""
        return sum(until > now for until in self._until.values())


class AnswerLimits:
    """
    Says whether a request is answered, and when.
    """

    def __init__(self, answers: float, answersPerMachine: float) -> None:
        """
        @param answers: the most a second to all machines together.
        @param answersPerMachine: the most a second to one machine, on the average of four.
        """
        self._perMachine = max(1, int(answersPerMachine * MACHINE_WINDOW))
        self._server = Window(max(1, int(answers * SERVER_WINDOW)), SERVER_WINDOW)
        self._machines: OrderedDict[bytes, Window] = OrderedDict()
        self._requests: Recent[Hashable] = Recent(MOST_MACHINES)

    def adjust(self, answers: float, answersPerMachine: float) -> None:
        """Use other limits from now on; what was answered before counts."""
        self._server.count = max(1, int(answers * SERVER_WINDOW))
        self._perMachine = max(1, int(answersPerMachine * MACHINE_WINDOW))
        for window in self._machines.values():
            window.count = self._perMachine

    def isNew(self, request: Hashable, now: float) -> bool:
        """Return whether this is no repetition within an instant, as a second card or a bridge makes it."""
        return self._requests.begin(request, now, SAME_REQUEST)

    def machineMay(self, machine: bytes, now: float) -> bool:
        """Return whether one more answer may go to this hardware address, and count it."""
        window = self._machines.pop(machine, None) or Window(self._perMachine, MACHINE_WINDOW)
        self._machines[machine] = window
        if len(self._machines) > MOST_MACHINES:
            self._machines.popitem(last=False)
        if window.next(now) > now:
            return False
        window.take(now)
        return True

    def turn(self, now: float) -> float | None:
        """Return how many seconds an answer has to wait for the others; L{None}: longer than a client should wait."""
        at = self._server.next(now)
        if at - now > LONGEST_WAIT:
            return None
        self._server.take(at)
        return at - now

    @property
    def remembered(self) -> int:
        """How many machines and requests are remembered."""
        return max(len(self._machines), len(self._requests))
