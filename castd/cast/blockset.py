"""
Sets of block numbers: as runs, and as an octet a block where they are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from castd.cast.events import Ranges


def joined(runs: Iterable[range]) -> Ranges:
    """-> the same numbers as ascending runs that do not touch; empty ones left out."""
    found: list[range] = []
    for run in sorted(runs, key=lambda run: run.start):
        if found and run.start <= found[-1].stop:
            if run.stop > found[-1].stop:
                found[-1] = range(found[-1].start, run.stop)
        elif run:
            found.append(run)
    return tuple(found)


def common(one: Sequence[range], other: Sequence[range]) -> Ranges:
    """-> the numbers in both; each ascending and without overlaps."""
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


def without(one: Sequence[range], other: Sequence[range]) -> Ranges:
    """-> the numbers of the first that are not in the second; each ascending and without overlaps."""
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


def first(runs: Sequence[range], most: int) -> Ranges:
    """-> the first so many numbers of ascending runs."""
    found: list[range] = []
    for run in runs:
        if most <= 0:
            break
        found.append(run[:most])
        most -= len(found[-1])
    return tuple(found)


class BlockBitmap:
    """
    The numbers that anybody lacks, given out in ascending order and from the beginning again.

    An octet a number: marking a run, and finding the next one, are then single operations over memory, which is what
    makes long lists of many receivers cheap; a file of half a gigabyte costs 370 kB twice.

    @ivar cursor: the sweep goes on here.
    """

    __slots__ = ("_ends", "_left", "_sent", "_wanted", "cursor")

    def __init__(self, count: int | None = None) -> None:
        """
        @param count: how many numbers there are; L{None}: they never end, and memory grows with the highest one.
        """
        self._wanted = bytearray(count or 0)
        self._sent = bytearray(count or 0)
        self._ends = count is not None
        self._left = 0
        self.cursor = 0

    def __len__(self) -> int:
        return self._left

    def add(self, run: range) -> None:
        """Somebody lacks these; of numbers that have an end, none beyond it."""
        if run.stop > len(self._wanted):
            if self._ends:
                run = range(run.start, len(self._wanted))
            more = bytes(max(run.stop - len(self._wanted), 0))
            self._wanted += more
            self._sent += more
        self._left += len(run) - self._wanted.count(1, run.start, run.stop)
        self._wanted[run.start : run.stop] = b"\1" * len(run)

    def holds(self, run: range) -> bool:
        """Are any of these still to be given out?"""
        return self._wanted.find(1, run.start, run.stop) >= 0

    def take(self, most: int) -> tuple[range, bool]:
        """
        The next run of the sweep.  Not to be called when there is none.

        @param most: not longer than this.
        @return: the run, and whether its blocks were given out before: either all of them or none.
        """
        start = self._wanted.find(1, self.cursor)
        if start < 0:
            start = self._wanted.find(1)
        end = self._wanted.find(0, start, start + most)
        stop = end if end >= 0 else min(start + most, len(self._wanted))
        before = self._sent[start]
        change = self._sent.find(1 - before, start, stop)
        run = range(start, change if change >= 0 else stop)
        self._wanted[run.start : run.stop] = bytes(len(run))
        self._sent[run.start : run.stop] = b"\1" * len(run)
        self._left -= len(run)
        self.cursor = run.stop
        return run, bool(before)

    def clear(self) -> None:
        """Nobody lacks anything any more."""
        self._wanted = bytearray(len(self._wanted))
        self._left = 0
