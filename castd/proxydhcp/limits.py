"""
Bound what strangers can make a PXE server do: rates, repetitions, and what is remembered of machines.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from castd.repetitions import Repetitions

#: Machines that are told apart at once; of the others the one that asked longest ago is forgotten.
MOST_MACHINES = 4096
#: Machines that were not answered, of which that is known; and for how many seconds: ROMs of PXE and EDK II repeat a
#: DISCOVER after 4, 8 and 16 s and then give up (PXE 2.1), iPXE after 1 to 10 s; a REQUEST is repeated sooner.
MOST_WAITING, WAITS = MOST_MACHINES, 20.0
#: The part of all answers that machines may have that ask for the first time, as long as there are not enough for all.
FIRST_PART = 0.5
#: Files that were refused to machines, of which a line was written.
MOST_REFUSALS = 1024
#: Seconds over which the answers to one machine are counted, and those to all.
MACHINE_WINDOW, SERVER_WINDOW = 4.0, 1.0
#: Seconds within which a repetition is the same request, read twice.
SAME_REQUEST = 0.05
#: The most seconds that a request waits for its turn.
LONGEST_WAIT = 0.1

#: In place of an address: all of them.
_ANYWHERE = ""

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

    def used(self, now: float) -> int:
        """Return how many things there were within the seconds before this instant, up to C{count}."""
        return min(self.count, sum(at + self.seconds > now for at in self._taken))

    def take(self, at: float) -> None:
        """Note a thing that happens at this instant, which is not before that of an earlier call."""
        self._taken.append(at)
        if len(self._taken) > self.count:
            self._taken.popleft()


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
        self._server = Window(1, SERVER_WINDOW)
        self._first = Window(1, SERVER_WINDOW)
        self._limitServer(answers)
        self._waiting: Repetitions[Hashable] = Repetitions(WAITS, MOST_WAITING)
        self._shortUntil = 0.0
        self._machines: OrderedDict[Hashable, Window] = OrderedDict()
        self._requests: Recent[Hashable] = Recent(MOST_MACHINES)

    def adjust(self, answers: float, answersPerMachine: float) -> None:
        """Use other limits from now on; what was answered before counts."""
        self._limitServer(answers)
        self._perMachine = max(1, int(answersPerMachine * MACHINE_WINDOW))
        for window in self._machines.values():
            window.count = self._perMachine

    def isNew(self, request: Hashable, now: float) -> bool:
        """Return whether this is no repetition within an instant, as a second card or a bridge makes it."""
        return self._requests.begin(request, now, SAME_REQUEST)

    def _limitServer(self, answers: float) -> None:
        self._server.count = max(1, int(answers * SERVER_WINDOW))
        self._first.count = max(1, int(answers * SERVER_WINDOW * FIRST_PART))

    def machineMay(self, machine: bytes, address: Hashable, now: float) -> bool:
        """
        Return whether one more answer may go to a machine, and count it.

        Answers to other addresses are those of somebody who uses the hardware address of the machine: they do not count
        for one that has an address, and for one without they use up no more than half.

        @param machine: its hardware address.
        @param address: the address that it asks from; L{None}: it has none yet, and the answer goes to everybody.
        """
        nowhere = self._window((machine, None))
        if address is None:
            others = min(self._window((machine, _ANYWHERE)).used(now), self._perMachine // 2)
            windows = [nowhere]
        else:
            others = self._window((machine, address)).used(now)
            windows = [self._window((machine, address)), self._window((machine, _ANYWHERE))]
        if nowhere.used(now) + others >= self._perMachine:
            return False
        for window in windows:
            window.take(now)
        return True

    def _window(self, whose: Hashable) -> Window:
        window = self._machines.pop(whose, None) or Window(self._perMachine, MACHINE_WINDOW)
        self._machines[whose] = window
        if len(self._machines) > MOST_MACHINES:
            self._machines.popitem(last=False)
        return window

    def turn(self, machine: Hashable, now: float) -> float | None:
        """
        Return how many seconds an answer has to wait for the others; L{None}: longer than a client should wait.

        While there are not enough answers for all, a part of them is for machines that have asked before and were not
        answered: most names that are forged ask once.
        """
        first = not self._waiting.asksAgain(machine, now)
        at = self._server.next(now)
        enough = not first or now >= self._shortUntil or self._first.next(now) <= now
        if at - now > LONGEST_WAIT or not enough:
            self._shortUntil = now + SERVER_WINDOW
            self._waiting.add(machine, now)
            return None
        self._waiting.discard(machine)
        self._server.take(at)
        if first:
            self._first.take(at)
        return at - now

    @property
    def remembered(self) -> int:
        """How many machines and requests are remembered, of each kind at the most."""
        return max(len(self._machines), len(self._requests), len(self._waiting))
