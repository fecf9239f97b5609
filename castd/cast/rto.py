"""
The retransmission timeout of one receiver, from its measured answering times (RFC 6298).
"""

from __future__ import annotations

from castd.cast.policy import AdaptiveTimeout, FixedTimeouts

#: Who is waited for longer than this is measured at every answer.  Seconds.
SETTLED = 0.2


class RtoEstimator:
    """
    When to repeat to one receiver.

    With L{AdaptiveTimeout} the interval follows its answering time as in RFC 6298: smoothed time plus four deviations,
    within floor and ceiling, growing with each unanswered repetition. With L{FixedTimeouts} it follows a table.
    Seconds.

    @ivar tries: repetitions since the last progress.
    @ivar measured: the smoothed answering time, L{None} until there was one.
    """

    __slots__ = ("_deviation", "_grown", "_repeat", "_timeout", "measured", "tries")

    def __init__(self, repeat: AdaptiveTimeout | FixedTimeouts) -> None:
        self._repeat = repeat
        self.tries = self._grown = 0
        self.measured: float | None = None
        self._deviation = 0.0
        self._timeout = repeat.first if isinstance(repeat, AdaptiveTimeout) else 0.0

    def sample(self, seconds: float) -> None:
        """
        An answer came so long after what it answers; never call it for something that was repeated (Karn).

        It may have been lost and said again by the receiver's own slow timer, so one answer counts for no more than
        twice the interval: times that have really become longer are learned within a few.  An answer may be late for
        many reasons, but is never early: one far below what was taken for usual halves that at once.
        """
        if self.measured is None:
            self.measured, self._deviation = seconds, seconds / 2
        elif seconds < self.measured / 2:
            self.measured /= 2
            self._deviation = min(self._deviation, self.measured / 2)
        else:
            error = min(seconds, 2 * self._timeout) - self.measured
            self.measured += error / 8
            self._deviation += (abs(error) - self._deviation) / 4
        if isinstance(self._repeat, AdaptiveTimeout):
            self._grown = 0
            limit = self.measured + 4 * self._deviation
            self._timeout = min(max(limit, self._repeat.floor), self._repeat.ceiling)

    @property
    def settled(self) -> bool:
        """Is there little more to learn about its answering time?"""
        return isinstance(self._repeat, FixedTimeouts) or self._timeout <= SETTLED

    def repeated(self) -> None:
        """Something went out again."""
        self.tries += 1
        self._grown += 1

    def progress(self) -> None:
        """
        What was repeated is answered at last.  The interval stays as long as it has grown until something is answered
        that was not repeated: an answering time that has become longer would never be measured otherwise (Karn).
        """
        self.tries = 0

    def restart(self) -> None:
        """A new question altogether."""
        self.tries = self._grown = 0

    def interval(self) -> float:
        """-> seconds from now until the next repetition is due."""
        repeat = self._repeat
        if isinstance(repeat, FixedTimeouts):
            return repeat.steps[min(self.tries, len(repeat.steps) - 1)]
        # The exponent is bounded: after so many tries every growth has met its ceiling.
        grown = self._timeout * repeat.growth ** min(self._grown, 64)
        return grown if grown < repeat.ceiling else repeat.ceiling
