"""
Remember which blocks were sent lately, to find out which of them a list of missing blocks cannot account for yet, and
how many were lost.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile

from castd.cast.blockset import intersection, merged, total
from castd.cast.events import Ranges

#: The loss is not estimated from fewer blocks than this: a receiver that asks for four blocks at a time paces itself.
MIN_SAMPLE = 32
#: It is that of the last so many bursts: a sweep through a large file has a hundred times as many, which would be
#: looked through at once, and one into which receivers keep coming has no end.
MOST_BURSTS = 1024
#: The pace is halved if a larger part of the blocks was lost than the first figure, and raised by a tenth if a smaller
#: part was lost than the second.
HIGH_LOSS, LOW_LOSS = 0.2, 0.02
#: The smallest pace, as a part of the configured rate.
MIN_PACE = 0.1
#: How long blocks are remembered: longer than any answer is waited for.  Seconds.
MEMORY = 0.5


class InFlight:
    """
    Remembers the blocks that may still be on their way.

    @ivar flightTime: a list may have been sent before a block arrived that was sent within this time.  Seconds.
    """

    __slots__ = ("_memory", "_sent", "flightTime")

    def __init__(self, flightTime: float) -> None:
        self.flightTime = flightTime
        self._memory = max(flightTime, MEMORY)
        self._sent: deque[tuple[float, int, range]] = deque()

    def sent(self, run: range, ordinal: int, now: float) -> None:
        """Note that a run of blocks was sent, the one with this ordinal."""
        self._sent.append((now, ordinal, run))
        self._forget(now)

    def runs(self, since: float) -> int:
        """Return how many runs of blocks were sent after this instant, within L{MEMORY} before the last one."""
        return sum(1 for _ in takewhile(lambda entry: entry[0] > since, reversed(self._sent)))

    def _forget(self, now: float) -> None:
        while self._sent and self._sent[0][0] <= now - self._memory:
            self._sent.popleft()

    def between(self, first: int, last: int | None = None) -> Ranges:
        """
        Return the blocks that were sent after the run with the first ordinal, and not after the one with the last;
        within L{MEMORY} before the last of all.
        """
        later = takewhile(lambda entry: entry[1] > first, reversed(self._sent))
        return merged([run for _, ordinal, run in later if last is None or ordinal <= last])

    def crossing(self, askedAfter: int | None, now: float) -> Ranges:
        """
        Find the blocks that may have been on their way when a list was sent that arrives now.

        @param askedAfter: the ordinal of the last run before the question that the list answers: those blocks had
            arrived, and of later ones the list need not know, however long the receiver took to answer.  L{None}: the
            list answers no question.
        """
        if askedAfter is not None:
            return self.between(askedAfter)
        return merged(
            [run for at, _, run in takewhile(lambda entry: entry[0] > now - self.flightTime, reversed(self._sent))]
        )


def _noBursts() -> deque[tuple[int, range]]:
    """Return what holds the last bursts, each with its number."""
    return deque(maxlen=MOST_BURSTS)


class LossEstimator:
    """
    Estimates the loss between one round of questions and the next, and adapts the pace of the cast to it.

    @ivar pace: the part of the configured rate to send at, L{MIN_PACE} to 1.
    """

    __slots__ = ("_beforeQuestion", "_sinceQuestion", "pace")

    def __init__(self) -> None:
        self.pace = 1.0
        self._sinceQuestion = _noBursts()
        self._beforeQuestion = _noBursts()

    def sent(self, run: range, burst: int) -> None:
        """Note that blocks were sent, in the burst with this number."""
        self._sinceQuestion.append((burst, run))

    def asked(self) -> None:
        """
        Note that a question was sent: its answer says which of the blocks were lost that were sent since the question
        before.  Several questions without a block between them are one.
        """
        if self._sinceQuestion:
            self._beforeQuestion, self._sinceQuestion = self._sinceQuestion, _noBursts()

    def answered(self, lacking: Ranges, joinedAt: int) -> None:
        """
        Adapt the pace to the first answer, which lists the blocks that the receiver lacks.

        @param joinedAt: the number of the last burst before the receiver joined: it could not hear that one.
        """
        sample = merged(run for burst, run in self._beforeQuestion if burst > joinedAt)
        self._beforeQuestion = _noBursts()
        sent = total(sample)
        if sent < MIN_SAMPLE:
            return
        lost = total(intersection(lacking, sample)) / sent
        if lost > HIGH_LOSS:
            self.pace = max(self.pace / 2, MIN_PACE)
        elif lost < LOW_LOSS:
            self.pace = min(self.pace * 1.1, 1.0)
