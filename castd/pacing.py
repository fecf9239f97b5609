"""
How fast may it go: a token bucket that says when, and never sleeps.
"""

from __future__ import annotations

#: The largest burst that a kernel takes in one call (a UDP datagram's worth of segments).
BURST = 65_536
#: A finer wake is noise to a reactor and, with floats, a way to spin.
TICK = 0.001
#: What one cast sends before others have their turn, as time at the full rate.  Seconds.
SHARE = 0.005
#: As much as is due after a wake that came this late is made up for; what was missed beyond is lost.
LATE = 0.01


class Pacer:
    """
    A bucket of octets that fills at a rate.  As long as anything is in it a burst may go, whole; what it takes too much
    is owed. So bursts need not be cut to fit, and over time the rate is exact.

    @ivar rate: octets a second.
    @ivar depth: octets that may go at once after a pause.
    """

    def __init__(self, rate: float, burst: int = BURST, parent: Pacer | None = None) -> None:
        """
        @param burst: octets of the largest burst; the bucket is deeper where the rate needs it, as timers are late.
        @param parent: shared with others; a burst goes when both allow it, and both are charged.
        @raise ValueError: the rate is none.
        """
        if not rate > 0:
            raise ValueError(f"a rate must be more than 0, not {rate}")
        self.rate, self.parent = rate, parent
        self._burst = burst
        self.depth: float = max(burst, rate * LATE)
        self._level, self._filled = self.depth, float("-inf")

    def adjust(self, rate: float) -> None:
        """Another rate holds from now on; what is owed stays owed."""
        self.rate, self.depth = rate, max(self._burst, rate * LATE)

    @property
    def share(self) -> float:
        """Octets that one of those who wait may send before it is the next one's turn; less than a block is one."""
        return self.rate * SHARE

    def next(self, now: float) -> float:
        """
        -> the instant the next burst may go: C{now}, or at least a millisecond later.
        """
        self._fill(now)
        when = now if self._level > 0 else now + max(TICK, -self._level / self.rate)
        return when if self.parent is None else max(when, self.parent.next(now))

    def spend(self, octets: int, now: float) -> None:
        """So much went out."""
        self._fill(now)
        self._level -= octets
        if self.parent is not None:
            self.parent.spend(octets, now)

    def _fill(self, now: float) -> None:
        if now > self._filled:
            self._level = min(self.depth, self._level + (now - self._filled) * self.rate)
        # Also if the clock was set back: to wait until it is there again might be for hours.
        self._filled = now
