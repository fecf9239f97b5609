"""
Who may have how much: the limits on what a stranger can make grow, bounded themselves.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from castd.options import Limits

#: Addresses remembered at once; beyond, the one heard longest ago is forgotten, which can only be to its favour.
REMEMBERED = 65536


class Allowance:
    """
    So many a second for each address, with a second's worth in hand: a token bucket each.
    """

    def __init__(self, rate: float, depth: float | None = None) -> None:
        """
        @param rate: times a second.
        @param depth: how many may come at once; a second's worth, and at least one, if not given.
        """
        self._rate = rate
        self._depth = max(1.0, rate if depth is None else depth)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, host: str, now: float) -> bool:
        """-> whether it may have one now; if so it has."""
        level, since = self._buckets.pop(host, (self._depth, now))
        level = min(self._depth, level + (now - since) * self._rate)
        allowed = level >= 1
        self._buckets[host] = (level - 1 if allowed else level, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed


class Admission:
    """
    The limits of one site, shared by all its transports.

    @ivar casts: transfers and groups under way; C{looking}: requests whose file is being looked for;
        C{receivers}: those who receive.
    """

    #: ERROR 5 to foreign transfer ids, a second, in all (docs/transports/tftp.md).
    STRANGERS = 5.0

    def __init__(self, limits: Limits) -> None:
        self.casts = self.looking = 0
        self.receivers: Counter[str] = Counter()
        self._held = 0
        self.adjust(limits)

    def adjust(self, limits: Limits) -> None:
        """Other limits hold from now on; who is here counts on, what addresses had in hand is forgotten."""
        self._limits = limits
        self._new = Allowance(limits.newPerPeer)
        self._again = Allowance(limits.newPerPeer)
        self._errors = Allowance(limits.errors)
        self._errorsPerPeer = Allowance(limits.errorsPerPeer)
        self._strangers = Allowance(self.STRANGERS)

    def crowded(self, host: str, now: float) -> str | None:
        """-> the limit that keeps a new receiver at this address out, in plain words; L{None}: it may come in."""
        limits = self._limits
        if self.casts + self.looking >= limits.casts:
            return "limits.casts"
        if self._held >= limits.receivers:
            return "limits.receivers"
        if self.receivers[host] >= limits.perPeer:
            return "limits.per-peer"
        if not self._new.take(host, now):
            return "limits.new-per-peer"
        return None

    def mayRepeat(self, host: str, now: float) -> bool:
        """
        May a receiver's repeated request be answered once more?  As often as a new one: what was forged must not bring
        its victim more by being sent twice.
        """
        return self._again.take(host, now)

    def enter(self, host: str) -> None:
        """A receiver came."""
        self.receivers[host] += 1
        self._held += 1

    def leave(self, host: str) -> None:
        """A receiver left."""
        self._held -= 1
        self.receivers[host] -= 1
        if self.receivers[host] <= 0:
            del self.receivers[host]

    def mayError(self, host: str, now: float) -> bool:
        """May an ERROR go to this address?"""
        return self._errorsPerPeer.take(host, now) and self._errors.take("", now)

    def mayAnswerStranger(self, host: str, now: float) -> bool:
        """May an ERROR 5 go to this foreign transfer id?"""
        return self._strangers.take("", now) and self.mayError(host, now)
