"""
Compute the retransmission timeout of one receiver from its measured round-trip times (RFC 6298).
"""

from __future__ import annotations

from castd.cast.policy import CLIENT_TIMER, GRANULARITY, MIN_RTO, AdaptiveTimeout, FixedTimeouts

#: A receiver whose timeout is longer than this is measured at every answer.  Seconds.
CONVERGED = 0.2
#: A longer time that is no sample is not taken for a round trip: the answer may have been lost, and repeated by the
#: receiver's own timer, which is 0.25 s with iPXE and longer with all others.  A sample may be that as well, but the
#: next one shows it.  Seconds.
LONGEST_RTT = 0.2
#: What is waited for a single block beyond the round-trip time is divided and multiplied by these when a repetition was
#: needed, and when it was not.
SOONER, LATER = 4, 2
#: The factor from one probe for a single block to the next (RFC 9002, section 6.2.1).
PROBE_GROWTH = 2.0


class RtoEstimator:
    """
    Computes the interval after which what was sent to one receiver is repeated.  Seconds.

    With L{AdaptiveTimeout} the interval is computed as in RFC 6298: smoothed round-trip time plus four deviations,
    within floor and ceiling, growing with each unanswered repetition.  With L{FixedTimeouts} it is taken from a table.

    A single block is another matter than a window: a duplicate costs one datagram, and its acknowledgement draws
    nothing.  So when repetitions have shown that blocks are lost, single blocks are I{probed} for: they are repeated
    after the probe timeout of RFC 9002, section 6.2, which has no floor but its granularity.  That is only done where
    more blocks are lost than answers are late: a machine that is often busy for some milliseconds would be sent heaps
    of duplicates.

    @ivar repeats: repetitions since the last progress.
    @ivar probing: single blocks are repeated after the probe timeout.
    @ivar smoothedRtt: the smoothed round-trip time (SRTT of RFC 6298); L{None} before the first measurement.
    @ivar shortestRtt: the shortest time in which anything was answered; 0: nothing was measured, nor answered within
        L{LONGEST_RTT}.
    """

    __slots__ = (
        "_backoffs",
        "_deviation",
        "_probe",
        "_quickRepeats",
        "_repeat",
        "_slack",
        "_timeout",
        "probing",
        "repeats",
        "shortestRtt",
        "smoothedRtt",
    )

    def __init__(self, repeat: AdaptiveTimeout | FixedTimeouts) -> None:
        self._repeat = repeat
        self.repeats = self._backoffs = 0
        self.smoothedRtt: float | None = None
        self.shortestRtt = 0.0
        self._deviation = 0.0
        self._timeout = repeat.first if isinstance(repeat, AdaptiveTimeout) else 0.0
        self._probe = 0.0  # the timeout of a single block
        self._slack = MIN_RTO  # the least that is waited for a single block beyond the round-trip time
        self.probing = False
        self._quickRepeats = repeat.quickRepeats if isinstance(repeat, AdaptiveTimeout) else None

    def sample(self, *answers: float) -> None:
        """
        Add measured round-trip times to the estimate, one after the other.  It must not be called for something that
        was repeated (Karn).

        The first answer may have been lost, and repeated by the receiver's own slow timer; so one measurement counts
        for no more than twice the interval.  If the times really have become longer, a few measurements are enough.  An
        answer may be late for many reasons but cannot be early: one below half of the estimate halves it at once.

        @param answers: seconds from what was sent to its answer.
        """
        if not answers:
            return
        repeat, shortest = self._repeat, self.shortestRtt or float("inf")
        floor, ceiling = (repeat.floor, repeat.ceiling) if isinstance(repeat, AdaptiveTimeout) else (0.0, float("inf"))
        smoothed, deviation, timeout = self.smoothedRtt, self._deviation, self._timeout
        for seconds in answers:
            if 0 < seconds < shortest:
                shortest = seconds
            if smoothed is None:
                smoothed, deviation = seconds, seconds / 2
            elif seconds < smoothed / 2:
                smoothed /= 2
                deviation = min(deviation, smoothed / 2)
            else:
                error = (seconds if seconds < 2 * timeout else 2 * timeout) - smoothed
                smoothed += error / 8
                deviation += (abs(error) - deviation) / 4
            variation = 4 * deviation
            # Without min and max: a group has a sample for each of its blocks.
            limit = smoothed + (variation if variation > GRANULARITY else GRANULARITY)
            timeout = limit if limit > floor else floor
            if timeout > ceiling:
                timeout = ceiling
        self.smoothedRtt, self._deviation, self._timeout = smoothed, deviation, timeout
        if shortest < float("inf"):
            self.shortestRtt = shortest
        if isinstance(repeat, AdaptiveTimeout):
            self._backoffs = 0
            if self.probing and smoothed is not None:
                self._probe = smoothed + max(variation, self._slack)

    def answeredWithin(self, seconds: float) -> None:
        """
        Note that something was answered within this time, which is no sample: the receiver may have been busy first.
        """
        if 0 < seconds < (self.shortestRtt or LONGEST_RTT):
            self.shortestRtt = seconds

    @property
    def converged(self) -> bool:
        """Whether more measurements would hardly change the interval."""
        return isinstance(self._repeat, FixedTimeouts) or (self._timeout <= CONVERGED and not self.probing)

    @property
    def shortest(self) -> float:
        """The shortest interval that there may be while everything is answered that was sent once."""
        repeat = self._repeat
        if isinstance(repeat, FixedTimeouts):
            return repeat.steps[0]
        return min(GRANULARITY if self.probing else repeat.floor, repeat.ceiling)

    @property
    def longest(self) -> float:
        """The longest interval that there may be."""
        repeat = self._repeat
        return max(repeat.steps) if isinstance(repeat, FixedTimeouts) else repeat.ceiling

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
        """
        Count repetitions from 0 again, and use the interval as it was measured: something new is sent, or the answer
        to what was repeated has shown that some of it was lost, so that the repetition was due.
        """
        self.repeats = self._backoffs = 0

    def repeatedBlockAnswered(self, seconds: float) -> None:
        """
        Find out from the answer to a single block, which was repeated, whether to probe for the next ones.

        An answer a round-trip time after a repetition is one to that: the block, or the acknowledgement before, was
        lost.  Else the receiver was busy, or does not answer a duplicate and has repeated its acknowledgement by
        itself.

        @param seconds: from the last repetition to the answer.
        """
        rtt = self.smoothedRtt
        if rtt is None or isinstance(self._repeat, FixedTimeouts):
            return
        variation = max(4 * self._deviation, GRANULARITY)
        if rtt / 2 <= seconds <= rtt + variation:
            self._slack = max(self._slack / SOONER, GRANULARITY)
        else:
            self._slack = min(self._slack * LATER, MIN_RTO)
            if self._quickRepeats is not None and self.repeats >= self._quickRepeats:
                self._quickRepeats = 1
        self.probing = self._slack < MIN_RTO
        self._probe = rtt + max(variation, self._slack)

    def interval(self, single: bool = False) -> float:
        """
        Return seconds from now until the next repetition is due.

        @param single: it is that of a single block.
        """
        repeat = self._repeat
        if isinstance(repeat, FixedTimeouts):
            return repeat.steps[min(self.repeats, len(repeat.steps) - 1)]
        waits = single and self._quickRepeats is not None and self.repeats >= self._quickRepeats
        # The exponent is bounded, as the interval has reached its ceiling long before.
        if single and self.probing and not waits:
            grown = self._probe * PROBE_GROWTH ** min(self._backoffs, 64)
        else:
            grown = self._timeout * repeat.growth ** min(self._backoffs, 64)
        if waits and grown < CLIENT_TIMER:
            grown = CLIENT_TIMER
        return grown if grown < repeat.ceiling else repeat.ceiling
