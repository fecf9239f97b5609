"""
Represent sets of block numbers: as ascending ranges (runs), or, for long lists, as one octet for each block.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from castd.cast.events import Ranges


def merged(runs: Iterable[range]) -> Ranges:
    """Return the same numbers as ascending runs that are not adjacent; empty runs are left out."""
    found: list[range] = []
    for run in sorted(runs, key=lambda run: run.start):
        if found and run.start <= found[-1].stop:
            if run.stop > found[-1].stop:
                found[-1] = range(found[-1].start, run.stop)
        elif run:
            found.append(run)
    return tuple(found)


def intersection(one: Sequence[range], other: Sequence[range]) -> Ranges:
    """Return the numbers in both; the runs of each are ascending and do not overlap."""
    found: list[range] = []
    left = right = 0
    while left < len(one) and right < len(other):
        start, stop = max(one[left].start, other[right].start), min(one[left].stop, other[right].stop)
        if start < stop:
            found.append(range(start, stop))
        if one[left].stop < other[right].stop:
            left += 1
        else:
            right += 1
    return tuple(found)


def difference(one: Sequence[range], other: Sequence[range]) -> Ranges:
    """Return the numbers of the first that are not in the second; the runs of each are ascending and do not overlap."""
    found: list[range] = []
    at = 0
    for run in one:
        start = run.start
        while at < len(other) and other[at].stop <= start:
            at += 1
        inside = at
        while inside < len(other) and other[inside].start < run.stop:
            if other[inside].start > start:
                found.append(range(start, other[inside].start))
            start = other[inside].stop
            inside += 1
        if start < run.stop:
            found.append(range(start, run.stop))
    return tuple(found)


def firstNumbers(runs: Sequence[range], most: int) -> Ranges:
    """Return the lowest C{most} numbers of ascending runs."""
    found: list[range] = []
    for run in runs:
        if most <= 0:
            break
        found.append(run[:most])
        most -= len(found[-1])
    return tuple(found)


def total(ranges: Ranges) -> int:
    """Return how many numbers there are in these runs."""
    return sum(map(len, ranges))


#: Of a run of no more numbers all are looked at, each time.
FEW = 256


class RunLog:
    """
    Counts the runs that were sent, and keeps for each number the count up to the last run that had it, in eight octets:
    at 5,000 blocks a second a group that always has members has counted to 2^32 after ten days.

    @ivar runs: how many runs were sent.
    """

    __slots__ = ("_least", "_leastOf", "_sentIn", "runs")

    def __init__(self, count: int = 0) -> None:
        """@param count: how many numbers there are."""
        self._sentIn = array("Q", [0]) * count
        self.runs = 0
        # The long run whose least count was last looked for, with the runs that were sent by then, and that count.
        self._leastOf: tuple[int, range] | None = None
        self._least = 0

    def allSent(self, run: range, after: int = 0) -> bool:
        """Return whether each number of this run was in one of the runs after the first C{after} ones."""
        if len(run) <= FEW:
            numbers = self._sentIn[run.start : run.stop]
            return len(numbers) == len(run) and min(numbers, default=after + 1) > after
        # To look at each number of a long run takes 40 ns, and a hall that leaves asks for each receiver.
        if run.stop > len(self._sentIn) or self._sentIn[run.start] <= after or self._sentIn[run.stop - 1] <= after:
            return False
        asked = self.runs, run
        if asked != self._leastOf:
            self._leastOf, self._least = asked, self.bounds(run)[0]
        return self._least > after

    def anySent(self, run: range, after: int = 0) -> bool:
        """Return whether any number of this run was in one of the runs after the first C{after} ones."""
        return max(self._sentIn[run.start : run.stop], default=0) > after

    def noteSent(self, run: range) -> None:
        """Count a run that is sent."""
        self.runs += 1
        if len(run) == 1:
            self._sentIn[run.start] = self.runs
        else:
            self._sentIn[run.start : run.stop] = array("Q", [self.runs]) * len(run)

    def noteEach(self, numbers: range) -> None:
        """Count these numbers as so many runs of one, in their order."""
        first = self.runs + 1
        self.runs += len(numbers)
        self._sentIn[numbers.start : numbers.stop] = array("Q", range(first, self.runs + 1))

    def bounds(self, run: range) -> tuple[int, int]:
        """Return the least and the highest count that is kept for a number of this run; 0 if it was never sent."""
        numbers = self._sentIn[run.start : run.stop]
        return min(numbers, default=0), max(numbers, default=0)


class BlockBitmap(RunLog):
    """
    Collects the numbers that any receiver lacks, and returns them in ascending order, over and over.

    There is one octet for each number.  Marking a run and finding the next one are then single operations on memory, so
    long lists of many receivers are cheap.  Beside it stands the count of runs up to the last that had the number, in
    eight octets; for a file of half a gigabyte all of it takes 3.7 MB.

    @ivar cursor: the number at which the search for the next run begins.
    """

    __slots__ = ("_bounded", "_remaining", "_sent", "_wanted", "cursor")

    def __init__(self, count: int | None = None) -> None:
        """
        @param count: how many numbers there are; L{None}: they never end, and memory grows with the highest number.
        """
        super().__init__(count or 0)
        self._wanted = bytearray(count or 0)
        self._sent = bytearray(count or 0)
        self._bounded = count is not None
        self._remaining = self.cursor = 0

    def __len__(self) -> int:
        return self._remaining

    def add(self, run: range) -> None:
        """Add a run of numbers that a receiver lacks; numbers from C{count} on are ignored."""
        if run.stop > len(self._wanted):
            if self._bounded:
                run = range(run.start, len(self._wanted))
            more = bytes(max(run.stop - len(self._wanted), 0))
            self._wanted += more
            self._sent += more
            self._sentIn.extend(more)
        self._remaining += len(run) - self._wanted.count(1, run.start, run.stop)
        self._wanted[run.start : run.stop] = b"\1" * len(run)

    def intersects(self, run: range) -> bool:
        """Return whether any number of this run is in the set."""
        return self._wanted.find(1, run.start, run.stop) >= 0

    @property
    def next(self) -> int:
        """The first number of the next run; -1: the set is empty."""
        start = self._wanted.find(1, self.cursor)
        return start if start >= 0 else self._wanted.find(1)

    def absent(self, run: range) -> Ranges:
        """Return the part of this run that is not in the set, as ascending runs."""
        found: list[range] = []
        start = self._wanted.find(0, run.start, run.stop)
        while start >= 0:
            end = self._wanted.find(1, start, run.stop)
            stop = end if end >= 0 else min(run.stop, len(self._wanted))
            found.append(range(start, stop))
            start = self._wanted.find(0, stop, run.stop)
        if not self._bounded and run.stop > len(self._wanted):
            found.append(range(max(run.start, len(self._wanted)), run.stop))
        return tuple(found)

    def nextRun(self, most: int) -> tuple[range, bool]:
        """
        Remove the next run, from the cursor on, and return it.  The set must not be empty.

        @param most: numbers of the longest run.
        @return: the run, and whether its numbers were returned before: either all of them or none.
        """
        start = self.next
        end = self._wanted.find(0, start, start + most)
        stop = end if end >= 0 else min(start + most, len(self._wanted))
        before = self._sent[start]
        change = self._sent.find(1 - before, start, stop)
        run = range(start, change if change >= 0 else stop)
        self._wanted[run.start : run.stop] = bytes(len(run))
        self._sent[run.start : run.stop] = b"\1" * len(run)
        self.noteSent(run)
        self._remaining -= len(run)
        self.cursor = run.stop
        return run, bool(before)

    def clear(self) -> None:
        """Remove all numbers."""
        self._wanted = bytearray(len(self._wanted))
        self._remaining = 0
