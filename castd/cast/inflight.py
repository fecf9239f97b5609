"""
Remember what was sent lately, and what that says about the lists that come: which blocks they could not know of, and
how many of those that went out were lost.
"""

from __future__ import annotations

from collections import deque

from castd.cast.blockset import intersection, merged
from castd.cast.events import Ranges

#: A sweep shorter than this says nothing of the loss: a receiver that asks for four blocks at a time paces itself.
MIN_SAMPLE = 32
#: The share of a sweep that was lost, above which the pace is halved and below which it is raised by a tenth.
HIGH_LOSS, LOW_LOSS = 0.2, 0.02
#: The pace is never less than this part of the rate that was configured.
MIN_PACE = 0.1


class InFlight:
    """
    The blocks that may still be on their way.

    @ivar flightTime: a list and a block that pass each other do so within this time.  Seconds.
    """

    __slots__ = ("_sent", "flightTime")

    def __init__(self, flightTime: float) -> None:
        self.flightTime = flightTime
        self._sent: deque[tuple[float, range]] = deque()

    def sent(self, run: range, now: float) -> None:
        """Take note of blocks that went out."""
        self._sent.append((now, run))
        while self._sent and self._sent[0][0] <= now - self.flightTime:
            self._sent.popleft()

    def crossing(self, askedAt: float | None, now: float) -> Ranges:
        """
        Find the blocks that a list which comes now may have missed on its way.

        @param askedAt: the instant of the question that it answers: it knows of all that was sent before.
        """
        found: list[range] = []
        since = now - self.flightTime if askedAt is None else max(askedAt, now - self.flightTime)
        for sentAt, run in reversed(self._sent):
            if sentAt <= since:
                break
            found.append(run)
        return merged(found)


class LossEstimator:
    """
    Estimates how much is lost between one question and the next, and how fast the cast may send therefore.

    @ivar pace: the part of the configured rate that the receivers seem to bear, L{MIN_PACE} to 1.
    """

    __slots__ = ("_beforeQuestion", "_sinceQuestion", "pace")

    def __init__(self) -> None:
        self.pace = 1.0
        self._sinceQuestion: list[range] = []
        self._beforeQuestion: Ranges = ()

    def sent(self, run: range) -> None:
        """Take note of blocks that went out."""
        self._sinceQuestion.append(run)

    def asked(self) -> None:
        """Take note of a question: its answer tells what was lost of all that was sent since the one before."""
        enough = sum(map(len, self._sinceQuestion)) >= MIN_SAMPLE
        self._beforeQuestion = merged(self._sinceQuestion) if enough else ()
        self._sinceQuestion.clear()

    def answered(self, lacking: Ranges) -> None:
        """Adapt the pace to an answer: the blocks that the one that was asked lacks."""
        sent = sum(map(len, self._beforeQuestion))
        if not sent:
            return
        lost = sum(map(len, intersection(lacking, self._beforeQuestion))) / sent
        if lost > HIGH_LOSS:
            self.pace = max(self.pace / 2, MIN_PACE)
        elif lost < LOW_LOSS:
            self.pace = min(self.pace * 1.1, 1.0)
