"""
What was sent lately, and what that says about the lists that come: which blocks they could not know of, and how many of
those that went out were lost.
"""

from __future__ import annotations

from collections import deque

from castd.cast.blockset import common, joined
from castd.cast.events import Ranges

#: A sweep shorter than this says nothing of the loss: a receiver that asks for four blocks at a time paces itself.
TELLING = 32
#: The share of a sweep that was lost, above which the pace is halved and below which it is raised by a tenth.
LOSSY, CLEAN = 0.2, 0.02
#: The pace is never less than this part of the rate that was configured.
SLOWEST = 0.1


class InFlight:
    """
    Blocks that may still be on their way.

    @ivar flight: a list and a block that pass each other do so within this time.  Seconds.
    """

    __slots__ = ("_flying", "flight")

    def __init__(self, flight: float) -> None:
        self.flight = flight
        self._flying: deque[tuple[float, range]] = deque()

    def sent(self, run: range, now: float) -> None:
        """These went out."""
        self._flying.append((now, run))
        while self._flying and self._flying[0][0] <= now - self.flight:
            self._flying.popleft()

    def crossed(self, asked: float | None, now: float) -> Ranges:
        """
        -> the blocks that a list which comes now may have missed on its way.

        @param asked: the instant of the question that it answers: it knows of all that was sent before.
        """
        found: list[range] = []
        since = now - self.flight if asked is None else max(asked, now - self.flight)
        for sentAt, run in reversed(self._flying):
            if sentAt <= since:
                break
            found.append(run)
        return joined(found)


class LossEstimator:
    """
    How much is lost between one question and the next, and how fast it may go therefore.

    @ivar pace: the part of the configured rate that the receivers seem to bear, L{SLOWEST} to 1.
    """

    __slots__ = ("_lap", "_shown", "pace")

    def __init__(self) -> None:
        self.pace = 1.0
        self._lap: list[range] = []
        self._shown: Ranges = ()

    def sent(self, run: range) -> None:
        """These went out."""
        self._lap.append(run)

    def asked(self) -> None:
        """The answer will tell what was lost of all that was sent since the last question."""
        self._shown = joined(self._lap) if sum(map(len, self._lap)) >= TELLING else ()
        self._lap.clear()

    def answered(self, lacking: Ranges) -> None:
        """So this is what the one that was asked lacks."""
        sent = sum(map(len, self._shown))
        if not sent:
            return
        lost = sum(map(len, common(lacking, self._shown))) / sent
        if lost > LOSSY:
            self.pace = max(self.pace / 2, SLOWEST)
        elif lost < CLEAN:
            self.pace = min(self.pace * 1.1, 1.0)
