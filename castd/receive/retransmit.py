"""
Decides when to repeat a datagram that the peer of a transfer has not answered, and when to give the peer up.
"""

from __future__ import annotations

from castd.cast.policy import RetransmitPolicy
from castd.cast.rto import RtoEstimator


class RetransmitTimer:
    """
    The retransmission timer of a transfer with one peer.  No repetition is due before the first L{start}; the protocol
    that drives the half adds jitter.

    Only progress restarts the timer: call L{progressed} for a datagram that brings something new, never for one that
    was ignored.  Otherwise a peer could prevent the repetition that it needs, by sending useless datagrams.

    @ivar sentAt: the instant at which the last datagram that needs an answer, or its repetition, was sent.
    """

    __slots__ = (
        "_dueAt",
        "_estimator",
        "_everHeard",
        "_policy",
        "_progressAt",
        "_sample",
        "sentAt",
    )

    def __init__(self, policy: RetransmitPolicy) -> None:
        self._policy = policy
        self._estimator = RtoEstimator(policy.repeat)
        self._everHeard = self._sample = False
        self._progressAt = self._dueAt = self.sentAt = float("inf")

    def start(self, now: float) -> None:
        """Start the timer with the opening datagram; do nothing if the timer runs already."""
        if self._progressAt > now:
            self._progressAt = now
            self.sent(now)

    @property
    def roundTrip(self) -> float | None:
        """The smoothed round-trip time in seconds; L{None}: nothing was measured."""
        return self._estimator.smoothedRtt

    @property
    def shortestRoundTrip(self) -> float:
        """The shortest round-trip time that was measured, in seconds; 0: nothing was measured."""
        return self._estimator.shortestRtt

    @property
    def progressAt(self) -> float:
        """The instant at which the peer last made progress, or of L{start}."""
        return self._progressAt

    @property
    def interval(self) -> float:
        """Seconds between a datagram and its repetition."""
        return self._estimator.interval()

    def setTimeout(self, timeout: float | None, now: float) -> None:
        """Use the interval that was agreed on (RFC 2349), and forget all measurements; L{None}: none was agreed on."""
        if timeout is not None:
            self._policy = self._policy.withTimeout(timeout)
            self._estimator = RtoEstimator(self._policy.repeat)
            self._dueAt = now + timeout

    def sent(self, now: float, first: bool = True) -> None:
        """
        Note that a datagram was sent that needs an answer.

        @param first: the datagram was not sent before, so its answer gives a sample of the round trip (Karn).
        """
        self.sentAt = now
        self._sample = first
        self._dueAt = now + self._estimator.interval()

    def progressed(self, now: float) -> None:
        """Note that the peer has made progress, by its answer to what was sent last."""
        self.answered(now, now - self.sentAt if self._sample else None)

    def answered(self, now: float, seconds: float | None, lossShown: bool = False) -> None:
        """
        Note that the peer has made progress.

        @param seconds: the round-trip time that its answer gives; L{None}: it gives no sample.
        @param lossShown: the answer has shown that a part of what was repeated was lost.  So the repetition was due,
            and ends no longer interval.
        """
        if seconds is not None:
            self._estimator.sample(seconds)
        self._sample = False
        self._everHeard = True
        if lossShown:
            self._estimator.reset()
        else:
            self._estimator.answered()
        self._progressAt = now
        self._dueAt = now + self._estimator.interval()

    def exchanged(self, now: float) -> None:
        """As L{progressed}, and then L{sent} for something new; each block of an upload in lockstep does both."""
        estimator = self._estimator
        if self._sample:
            estimator.sample(now - self.sentAt)
        estimator.answered()
        self._sample = self._everHeard = True
        self._progressAt = self.sentAt = now
        self._dueAt = now + estimator.interval()

    def heardPeer(self, now: float) -> None:
        """
        Note that the peer has answered, but without progress.  Its address is not forged, so it gets all repetitions.
        """
        if self._sample:
            self._estimator.sample(now - self.sentAt)
        self._sample = False
        self._everHeard = True

    def repeated(self, now: float) -> None:
        """Note that the last datagram is sent again."""
        self._estimator.backOff()
        self.sent(now, first=False)

    def due(self, now: float) -> bool:
        """Return whether a repetition is due."""
        return self._mayRepeat and now >= self._dueAt

    def exhausted(self, now: float) -> bool:
        """Return whether the peer is to be given up."""
        return self._estimator.repeats >= self._policy.minRepeats and now >= self._end

    def deadline(self) -> float:
        """Return the instant at which L{due} or L{exhausted} becomes true."""
        if not self._mayRepeat:
            return self._end
        return self._dueAt if self._estimator.repeats < self._policy.minRepeats else min(self._dueAt, self._end)

    @property
    def _end(self) -> float:
        """The instant at which the peer is given up, unless it makes progress."""
        return self._progressAt + self._policy.patience(self._everHeard)

    @property
    def _mayRepeat(self) -> bool:
        """Whether a repetition is allowed: a peer that has sent only a request may be forged, and gets only a few."""
        limit = self._policy.maxRepeatsUnheard
        return self._everHeard or limit is None or self._estimator.repeats < max(limit, self._policy.minRepeats)
