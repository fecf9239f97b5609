"""
Limit rates with token buckets.  Each call is given the instant; nothing here reads a clock or sleeps.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

#: The largest burst that a kernel takes in one call (a UDP datagram's worth of segments).
BURST = 65_536
#: The shortest wait until the next burst.  A shorter one is below what the timers of a reactor resolve, and with
#: rounded floats might wait for ever in steps of 0.  Seconds.
TICK = 0.001
#: How long one cast may send at the full rate before the next cast sends.  Seconds.
SHARE = 0.005
#: A timer may be late by this much without loss of rate; what could have been sent before that is not made up for.
#: Seconds.
LATE = 0.01
#: Addresses remembered at once; beyond that, the one without requests for the longest time is forgotten, which makes no
#: limit stricter.
REMEMBERED = 65536


class RateLimit(Protocol):
    """
    Limits how fast a cast sends: a L{Pacer}, or the use of one that several groups share.
    """

    @property
    def share(self) -> float:
        """Octets that one cast may send before the next cast sends; one block may be sent in any case."""

    def next(self, now: float) -> float:
        """Return the instant at which the next burst may be sent: C{now}, or at least L{TICK} later."""

    def spend(self, octets: float, now: float) -> None:
        """Charge a burst that was sent."""


class TokenBucket:
    """
    Counts tokens: the bucket is full at first, fills at a steady rate, and holds no more than its depth.

    It can be used in two ways.  L{allow} takes tokens only if there are enough, so the number never falls below 0: for
    what unknown clients can make the server do.  L{spend} takes tokens in any case, so the number may fall below 0, and
    nothing is L{available} until that is made up for: for what is sent as a whole, such as a burst.

    @ivar rate: tokens a second.
    @ivar depth: tokens in the full bucket: how many can be taken at once after a pause.
    """

    __slots__ = ("_filledAt", "_level", "depth", "rate")

    def __init__(self, rate: float, depth: float) -> None:
        self.rate, self.depth = rate, depth
        self._level, self._filledAt = depth, float("-inf")

    def available(self, now: float) -> float:
        """Return the tokens that are in the bucket; below 0: so many were taken too many."""
        self._fill(now)
        return self._level

    def allow(self, tokens: float, now: float) -> bool:
        """Take so many tokens, if the bucket has them all.  -> whether they were taken."""
        self._fill(now)
        if self._level < tokens:
            return False
        self._level -= tokens
        return True

    def spend(self, tokens: float, now: float) -> None:
        """Take so many tokens, also if the bucket has fewer."""
        self._fill(now)
        self._level -= tokens

    def _fill(self, now: float) -> None:
        if now > self._filledAt:
            self._level = min(self.depth, self._level + (now - self._filledAt) * self.rate)
        # Also if the clock was set back: else the bucket would not fill until it is there again, perhaps for hours.
        self._filledAt = now


def bucketOf(rate: float) -> TokenBucket:
    """Return a bucket that holds a second's worth, and at least one."""
    return TokenBucket(rate, max(1.0, rate))


class AddressLimit:
    """
    Limits how often something is done for each address: so many times a second; after a pause a second's worth at once,
    at least one.
    """

    def __init__(self, rate: float) -> None:
        """
        @param rate: times a second.
        """
        self._rate = rate
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allow(self, host: str, now: float) -> bool:
        """Count one for this address, if its limit allows that now.  -> whether it does."""
        bucket = self._buckets.pop(host, None) or bucketOf(self._rate)
        self._buckets[host] = bucket
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket.allow(1, now)

    def exhausted(self, host: str, now: float) -> bool:
        """Return whether nothing is left for this address."""
        bucket = self._buckets.get(host)
        return bucket is not None and bucket.available(now) < 1


class Pacer(TokenBucket):
    """
    Limits the rate of bursts: a bucket of octets that says when the next burst may be sent.

    A whole burst may be sent as long as any token is left; what it takes beyond that is made up for by a longer wait.
    So bursts need not be cut, and over time the rate is exact.
    """

    __slots__ = ("_burst",)

    def __init__(self, rate: float, burst: int = BURST) -> None:
        """
        @param rate: octets a second.
        @param burst: octets of the largest burst; the bucket is deeper where the rate needs it, as timers are late.
        @raise ValueError: the rate is not more than 0.
        """
        if not rate > 0:
            raise ValueError(f"a rate must be more than 0, not {rate}")
        super().__init__(rate, max(burst, rate * LATE))
        self._burst = burst

    def adjust(self, rate: float) -> None:
        """Change the rate; the number of tokens stays."""
        self.rate, self.depth = rate, max(self._burst, rate * LATE)

    @property
    def share(self) -> float:
        """Octets that one cast may send before the next cast sends; one block may be sent in any case."""
        return self.rate * SHARE

    def next(self, now: float) -> float:
        """
        Find out when the next burst may be sent.

        @return: C{now}, or an instant at least L{TICK} later.
        """
        self._fill(now)
        return now if self._level > 0 else now + max(TICK, -self._level / self.rate)

    def spend(self, octets: float, now: float) -> None:
        """Charge a burst that was sent."""
        self._fill(now)
        self._level -= octets
