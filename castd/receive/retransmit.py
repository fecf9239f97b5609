"""
When to repeat what the one peer of a transfer has not answered, and when to give it up.
"""

from __future__ import annotations

from castd.cast.policy import RetransmitPolicy
from castd.cast.rto import RtoEstimator


class RetransmitTimer:
    """
    One peer is to answer.  Nothing is due before the first L{begin}; the jitter is the shell's.

    Only what is new counts: L{heard} is for progress, never for a datagram that was ignored, or a peer that says the
    wrong thing often enough would keep us from repeating the right one.

    @ivar repeats: repetitions in all.
    @ivar asked: the instant at which the last question, or its repetition, went out.
    """

    __slots__ = (
        "_alarm",
        "_clean",
        "_due",
        "_everHeard",
        "_policy",
        "_quietSince",
        "asked",
        "repeats",
    )

    def __init__(self, policy: RetransmitPolicy) -> None:
        self._policy = policy
        self._alarm = RtoEstimator(policy.repeat)
        self._everHeard = self._clean = False
        self._quietSince = self._due = self.asked = float("inf")
        self.repeats = 0

    def begin(self, now: float) -> None:
        """The opening goes out; the peer's own repetition of what led to it changes nothing any more."""
        if self._quietSince > now:
            self._quietSince = now
            self.ask(now)

    @property
    def measured(self) -> float | None:
        """The smoothed answering time in seconds, if there is one."""
        return self._alarm.smoothedRtt

    @property
    def interval(self) -> float:
        """Seconds between the last question and its repetition."""
        return self._alarm.interval()

    def heed(self, timeout: float | None, now: float) -> None:
        """An interval was agreed on: what was measured before it is forgotten."""
        if timeout is not None:
            self._policy = self._policy.withTimeout(timeout)
            self._alarm = RtoEstimator(self._policy.repeat)
            self._due = now + timeout

    def ask(self, now: float, first: bool = True) -> None:
        """
        Something went out that wants an answer.

        @param first: it never went out before, so that the answer tells the answering time (Karn).
        """
        self.asked = now
        self._clean = first
        self._due = now + self._alarm.interval()

    def heard(self, now: float) -> None:
        """The peer has made progress."""
        if self._clean:
            self._alarm.sample(now - self.asked)
        self._clean = False
        self._everHeard = True
        self._alarm.answered()
        self._quietSince = now
        self._due = now + self._alarm.interval()

    def met(self) -> None:
        """The peer is there, if without progress: it is no forgery, and worth all repetitions."""
        self._everHeard = True

    def again(self, now: float) -> None:
        """The question is repeated now."""
        self._alarm.backOff()
        self.repeats += 1
        self.ask(now, first=False)

    def due(self, now: float) -> bool:
        """It is time to repeat the question."""
        return self._mayRepeat and now >= self._due

    def over(self, now: float) -> bool:
        """The peer has been silent for too long."""
        return self._alarm.repeats >= self._policy.minRepeats and now >= self._quietSince + self._policy.progressTimeout

    def deadline(self) -> float:
        """-> the instant of the next L{due} or L{over}."""
        end = self._quietSince + self._policy.progressTimeout
        if not self._mayRepeat:
            return end
        return self._due if self._alarm.repeats < self._policy.minRepeats else min(self._due, end)

    @property
    def _mayRepeat(self) -> bool:
        """Who has sent nothing but a request may be somebody else's forgery: it gets a few repetitions only."""
        limit = self._policy.maxRepeatsUnheard
        return self._everHeard or limit is None or self._alarm.repeats < max(limit, self._policy.minRepeats)
