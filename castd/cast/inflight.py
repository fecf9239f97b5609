"""
Remember which blocks were sent lately, to find out which of them a list of missing blocks cannot account for yet, and
how many were lost.
"""

from __future__ import annotations

from collections import deque

from castd.cast.blockset import intersection, merged
from castd.cast.events import Ranges

#: The loss is not estimated from fewer blocks than this: a receiver that asks for four blocks at a time paces itself.
MIN_SAMPLE = 32
#: The pace is halved if a larger part of the blocks was lost than the first figure, and raised by a tenth if a smaller
#: part was lost than the second.
HIGH_LOSS, LOW_LOSS = 0.2, 0.02
#: The smallest pace, as a part of the configured rate.
MIN_PACE = 0.1


class InFlight:
    """
    Remembers the blocks that may still be on their way.

    @ivar flightTime: a list may have been sent before a block arrived that was sent within this time.  Seconds.
    """

    __slots__ = ("_sent", "flightTime")

    def __init__(self, flightTime: float) -> None:
        self.flightTime = flightTime
        self._sent: deque[tuple[float, range]] = deque()

    def sent(self, run: range, now: float) -> None:
        """Note that blocks were sent."""
        self._sent.append((now, run))
        while self._sent and self._sent[0][0] <= now - self.flightTime:
            self._sent.popleft()

    def crossing(self, askedAt: float | None, now: float) -> Ranges:
        """
        Find the blocks that may have been on their way when a list was sent that arrives now.

        @param askedAt: the instant of the question that the list answers: blocks sent before that had arrived.
            L{None}: the list answers no question.
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
    Estimates the loss between one question and the next, and adapts the pace of the cast to it.

    @ivar pace: the part of the configured rate to send at, L{MIN_PACE} to 1.
    """

    __slots__ = ("_beforeQuestion", "_sinceQuestion", "pace")

    def __init__(self) -> None:
        self.pace = 1.0
        self._sinceQuestion: list[range] = []
        self._beforeQuestion: Ranges = ()

    def sent(self, run: range) -> None:
        """Note that blocks were sent."""
        self._sinceQuestion.append(run)

    def asked(self) -> None:
        """Note that a question was sent: its answer says which of the blocks sent since the last question were lost."""
        enough = sum(map(len, self._sinceQuestion)) >= MIN_SAMPLE
        self._beforeQuestion = merged(self._sinceQuestion) if enough else ()
        self._sinceQuestion.clear()

    def answered(self, lacking: Ranges) -> None:
        """Adapt the pace to an answer, which lists the blocks that the receiver lacks."""
        sent = sum(map(len, self._beforeQuestion))
        if not sent:
            return
        lost = sum(map(len, intersection(lacking, self._beforeQuestion))) / sent
        if lost > HIGH_LOSS:
            self.pace = max(self.pace / 2, MIN_PACE)
        elif lost < LOW_LOSS:
            self.pace = min(self.pace * 1.1, 1.0)
