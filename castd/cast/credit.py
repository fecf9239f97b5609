"""
What goes out for receivers that have proved nothing yet: enough to be asked after, too little to be worth a forgery.
"""

from __future__ import annotations

from castd.cast.blockset import first
from castd.cast.events import Ranges

#: Blocks a second for all such lists together, and how many at once after a pause: more than fit any client's list of
#: single blocks.
RATE, DEPTH = 64.0, 1024.0


class Credit:
    """
    A token bucket of blocks.

    Six octets can ask for a whole file, in anybody's name.  Who is real hears some blocks, is asked, answers, and then
    gets all that it lacks; whoever is forged never hears the question.
    """

    __slots__ = ("_level", "_since")

    def __init__(self) -> None:
        self._level, self._since = DEPTH, 0.0

    def grant(self, ranges: Ranges, now: float) -> Ranges:
        """-> the blocks of these that may go out now: the first ones."""
        self._level = min(DEPTH, self._level + (now - self._since) * RATE)
        self._since = now
        granted = first(ranges, int(self._level))
        self._level -= sum(map(len, granted))
        return granted
