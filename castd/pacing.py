"""
How much may go out, and when: token buckets that are told the instant, and never sleep.
"""

from __future__ import annotations

from typing import Protocol

#: The largest burst that a kernel takes in one call (a UDP datagram's worth of segments).
BURST = 65_536
#: A finer wake is noise to a reactor and, with floats, a way to spin.
TICK = 0.001
#: What one cast sends before others have their turn, as time at the full rate.  Seconds.
SHARE = 0.005
#: As much as is due after a wake that came this late is made up for; what was missed beyond is lost.
LATE = 0.01


class RateLimit(Protocol):
    """
    What bounds how fast a cast sends: a L{Pacer}, or a part in one that several groups share.
    """

    @property
    def share(self) -> float:
        """Octets that one of those who wait may send before it is the next one's turn; less than a block is one."""

    def next(self, now: float) -> float:
        """-> the instant the next burst may go: C{now}, or at least a millisecond later."""

    def spend(self, octets: float, now: float) -> None:
        """Charge a burst that went out."""


class TokenBucket:
    """
    A bucket that is full at first, fills with tokens at a steady rate, and holds no more than its depth.

    Who is limited uses it in one of two ways.  L{allow} takes tokens only if enough are there, so that the bucket is
    never below empty: what a stranger can make the server do.  L{spend} takes them in any case, so that the bucket may
    be in debt, which is paid off before anything else is L{available}: what goes out as a whole, such as a burst.

    @ivar rate: tokens a second.
    @ivar depth: tokens that may be taken at once after a pause.
    """

    __slots__ = ("_filledAt", "_level", "depth", "rate")

    def __init__(self, rate: float, depth: float) -> None:
        self.rate, self.depth = rate, depth
        self._level, self._filledAt = depth, float("-inf")

    def available(self, now: float) -> float:
        """-> the tokens that are in the bucket; less than 0: its debt."""
        self._fill(now)
        return self._level

    def allow(self, tokens: float, now: float) -> bool:
        """Take so many tokens, if the bucket has them all.  -> whether it had."""
        self._fill(now)
        if self._level < tokens:
            return False
        self._level -= tokens
        return True

    def spend(self, tokens: float, now: float) -> None:
        """Take so many tokens, and leave the bucket in debt where it has fewer."""
        self._fill(now)
        self._level -= tokens

    def _fill(self, now: float) -> None:
        if now > self._filledAt:
            self._level = min(self.depth, self._level + (now - self._filledAt) * self.rate)
        # Also if the clock was set back: to wait until it is there again might be for hours.
        self._filledAt = now


class Pacer(TokenBucket):
    """
    A bucket of octets that tells when the next burst may go.

    As long as anything is in it a burst may go, whole; what it takes too much is owed.  So bursts need not be cut to
    fit, and over time the rate is exact.
    """

    __slots__ = ("_burst", "parent")

    def __init__(self, rate: float, burst: int = BURST, parent: Pacer | None = None) -> None:
        """
        @param rate: octets a second.
        @param burst: octets of the largest burst; the bucket is deeper where the rate needs it, as timers are late.
        @param parent: shared with others; a burst goes when both allow it, and both are charged.
        @raise ValueError: the rate is none.
        """
        if not rate > 0:
            raise ValueError(f"a rate must be more than 0, not {rate}")
        super().__init__(rate, max(burst, rate * LATE))
        self.parent = parent
        self._burst = burst

    def adjust(self, rate: float) -> None:
        """Change the rate from now on; what is owed stays owed."""
        self.rate, self.depth = rate, max(self._burst, rate * LATE)

    @property
    def share(self) -> float:
        """Octets that one of those who wait may send before it is the next one's turn; less than a block is one."""
        return self.rate * SHARE

    def next(self, now: float) -> float:
        """
        Find out when the next burst may go.

        @return: C{now}, or an instant at least a millisecond later.
        """
        self._fill(now)
        when = now if self._level > 0 else now + max(TICK, -self._level / self.rate)
        return when if self.parent is None else max(when, self.parent.next(now))

    def spend(self, octets: float, now: float) -> None:
        """Charge a burst that went out, here and to the parent."""
        self._fill(now)
        self._level -= octets
        if self.parent is not None:
            self.parent.spend(octets, now)
