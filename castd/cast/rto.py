"""
The retransmission timeout of one receiver, from its measured answering times (RFC 6298).
"""

from __future__ import annotations

from castd.cast.policy import AdaptiveTimeout, FixedTimeouts

#: A receiver whose timeout is longer than this is measured at every answer.  Seconds.
CONVERGED = 0.2


class RtoEstimator:
    """
    Tells when to repeat to one receiver.

    With L{AdaptiveTimeout} the interval follows its answering time as in RFC 6298: smoothed time plus four deviations,
    within floor and ceiling, growing with each unanswered repetition. With L{FixedTimeouts} it follows a table.
    Seconds.

    @ivar repeats: repetitions since the last progress.
    @ivar smoothedRtt: the smoothed answering time (SRTT of RFC 6298), L{None} until there was one.
    """

    __slots__ = ("_backoffs", "_deviation", "_repeat", "_timeout", "repeats", "smoothedRtt")

    def __init__(self, repeat: AdaptiveTimeout | FixedTimeouts) -> None:
        self._repeat = repeat
        self.repeats = self._backoffs = 0
        self.smoothedRtt: float | None = None
        self._deviation = 0.0
        self._timeout = repeat.first if isinstance(repeat, AdaptiveTimeout) else 0.0

    def sample(self, seconds: float) -> None:
        """
        Take into account an answer that came so long after what it answers; never call it for something that was
        repeated (Karn).

        The answer may have been lost and said again by the receiver's own slow timer, so one answer counts for no more
        than twice the interval: times that have really become longer are learned within a few.  An answer may be late
        for many reasons, but is never early: one far below what was taken for usual halves that at once.
        """
        if self.smoothedRtt is None:
            self.smoothedRtt, self._deviation = seconds, seconds / 2
        elif seconds < self.smoothedRtt / 2:
            self.smoothedRtt /= 2
            self._deviation = min(self._deviation, self.smoothedRtt / 2)
        else:
            error = min(seconds, 2 * self._timeout) - self.smoothedRtt
            self.smoothedRtt += error / 8
            self._deviation += (abs(error) - self._deviation) / 4
        if isinstance(self._repeat, AdaptiveTimeout):
            self._backoffs = 0
            limit = self.smoothedRtt + 4 * self._deviation
            self._timeout = min(max(limit, self._repeat.floor), self._repeat.ceiling)

    @property
    def converged(self) -> bool:
        """Is there little more to learn about the answering time?"""
        return isinstance(self._repeat, FixedTimeouts) or self._timeout <= CONVERGED

    def backOff(self) -> None:
        """Count a repetition, and lengthen the interval."""
        self.repeats += 1
        self._backoffs += 1

    def answered(self) -> None:
        """
        Count repetitions from 0 again, as what was sent is answered at last.

        The interval stays as long as it has grown until something is answered that was not repeated: an answering time
        that has become longer would never be measured otherwise (Karn).
        """
        self.repeats = 0

    def reset(self) -> None:
        """Begin with something new: no repetition yet, and the interval as it was measured."""
        self.repeats = self._backoffs = 0

    def interval(self) -> float:
        """-> seconds from now until the next repetition is due."""
        repeat = self._repeat
        if isinstance(repeat, FixedTimeouts):
            return repeat.steps[min(self.repeats, len(repeat.steps) - 1)]
        # The exponent is bounded: after so many tries every growth has met its ceiling.
        grown = self._timeout * repeat.growth ** min(self._backoffs, 64)
        return grown if grown < repeat.ceiling else repeat.ceiling
