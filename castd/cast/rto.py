"""
Compute the retransmission timeout of one receiver from its measured round-trip times (RFC 6298).
"""

from __future__ import annotations

from castd.cast.policy import GRANULARITY, AdaptiveTimeout, FixedTimeouts

#: A receiver whose timeout is longer than this is measured at every answer.  Seconds.
CONVERGED = 0.2


class RtoEstimator:
    """
    Computes the interval after which what was sent to one receiver is repeated.  Seconds.

    With L{AdaptiveTimeout} the interval is computed as in RFC 6298: smoothed round-trip time plus four deviations,
    within floor and ceiling, growing with each unanswered repetition.  With L{FixedTimeouts} it is taken from a table.

    @ivar repeats: repetitions since the last progress.
    @ivar smoothedRtt: the smoothed round-trip time (SRTT of RFC 6298); L{None} before the first measurement.
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
        Add a measured round-trip time to the estimate.  It must not be called for something that was repeated (Karn).

        The first answer may have been lost, and repeated by the receiver's own slow timer; so one measurement counts
        for no more than twice the interval.  If the times really have become longer, a few measurements are enough.  An
        answer may be late for many reasons but cannot be early: one below half of the estimate halves it at once.

        @param seconds: from what was sent to its answer.
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
            limit = self.smoothedRtt + max(4 * self._deviation, GRANULARITY)
            self._timeout = min(max(limit, self._repeat.floor), self._repeat.ceiling)

    @property
    def converged(self) -> bool:
        """Whether more measurements would hardly change the interval."""
        return isinstance(self._repeat, FixedTimeouts) or self._timeout <= CONVERGED

    def backOff(self) -> None:
        """Count a repetition, and make the interval longer."""
        self.repeats += 1
        self._backoffs += 1

    def answered(self) -> None:
        """
        Count repetitions from 0 again, as what was repeated is answered.

        The interval stays as long as it has become until something is answered that was not repeated; else a round-trip
        time that has become longer would never be measured (Karn).
        """
        self.repeats = 0

    def reset(self) -> None:
        """Count repetitions from 0 again, and use the interval as it was measured: something new is sent."""
        self.repeats = self._backoffs = 0

    def interval(self) -> float:
        """Return seconds from now until the next repetition is due."""
        repeat = self._repeat
        if isinstance(repeat, FixedTimeouts):
            return repeat.steps[min(self.repeats, len(repeat.steps) - 1)]
        # The exponent is bounded, as the interval has reached its ceiling long before.
        grown = self._timeout * repeat.growth ** min(self._backoffs, 64)
        return grown if grown < repeat.ceiling else repeat.ceiling
