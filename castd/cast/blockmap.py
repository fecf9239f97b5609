"""
Draw which blocks each member of a group has, lacks or may have received, as a row of cells.

A member says what it lacks.  What was sent to the group after it said so (or after it joined) may have arrived or not:
that is a state of its own, as no server can know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from castd.cast.blockset import RunLog, total
from castd.cast.events import Ranges


@dataclass(frozen=True, slots=True)
class Holding:
    """
    What is known of the blocks of one member.

    @ivar lacks: the blocks that it lacks by what it has said last; it has all others.
    @ivar since: how many runs had been sent when it began to listen to them: blocks in later runs it may have by now.
        L{None}: it does not hear what is sent to the group.
    """

    lacks: Ranges
    since: int | None

    @property
    def lacking(self) -> int:
        """How many blocks it lacks."""
        return total(self.lacks)


class CellState(Enum):
    """The state of the blocks of one cell; the values are the letters of the map."""

    HAS = "#"  # the member has all of them
    SENT = "+"  # those that it lacked have been sent since; it may have them
    PARTLY = "-"  # it has some of them, or some were sent
    LACKS = "."  # it has none, and none has been sent


def cells(count: int, width: int) -> list[range]:
    """Divide so many blocks into at most C{width} cells of about the same size, in order."""
    width = min(count, width)
    return [range(count * at // width, count * (at + 1) // width) for at in range(width)]


class GroupMap:
    """
    Draws the maps of the members of one group.

    @ivar cells: the blocks of each cell.
    """

    def __init__(self, sentRuns: RunLog, count: int, width: int) -> None:
        """
        @param count: how many blocks the content has.
        @param width: the most cells.
        """
        self.cells = cells(count, width)
        self._count = count
        self._log = sentRuns
        self._bounds: list[tuple[int, int]] = []

    def measure(self) -> Iterator[None]:
        """Look at one cell after the other, each with one more item; to be exhausted before L{draw}."""
        for cell in self.cells:
            self._bounds.append(self._log.bounds(cell))
            yield None

    def draw(self, holding: Holding) -> str:
        """Return the map of a member: the value of a L{CellState} for each cell."""
        lacking = _lackingIn(self.cells, holding.lacks, self._count)
        states = (
            _stateOf(len(cell), lacks, bounds, holding.since)
            for cell, lacks, bounds in zip(self.cells, lacking, self._bounds, strict=True)
        )
        return "".join(state.value for state in states)


def _stateOf(size: int, lacking: int, bounds: tuple[int, int], since: int | None) -> CellState:
    """
    @param size: how many blocks the cell has.
    @param lacking: how many of them the member lacks.
    @param bounds: as of L{RunLog.bounds}.
    """
    if not lacking:
        return CellState.HAS
    least, most = bounds
    if since is not None and least > since:
        return CellState.SENT
    noneSent = since is None or most <= since
    return CellState.LACKS if noneSent and lacking == size else CellState.PARTLY


def _lackingIn(cells: Sequence[range], lacks: Ranges, count: int) -> list[int]:
    """Return how many blocks of each cell are in these ranges."""
    found, width = [0] * len(cells), len(cells)
    for run in lacks:
        if run.start >= count:
            break
        # The cell that a block is in, or the one before or behind it, as cells differ by a block in size.
        at = max(0, run.start * width // count - 1)
        while at < width and cells[at].start < run.stop:
            found[at] += max(0, min(cells[at].stop, run.stop) - max(cells[at].start, run.start))
            at += 1
    return found
