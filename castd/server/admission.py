"""
Admission: the limits on what strangers can make the server do and remember.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from castd.options import Limits
from castd.pacing import TokenBucket

#: Addresses remembered at once; beyond, the one heard longest ago is forgotten, which can only be to its favour.
REMEMBERED = 65536


class AddressLimit:
    """
    A limit that holds for each address by itself: so many a second, and a second's worth, at least one, at once.
    """

    def __init__(self, rate: float) -> None:
        """
        @param rate: times a second.
        """
        self._rate = rate
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allow(self, host: str, now: float) -> bool:
        """Take one from what this address may have now.  -> whether there was one."""
        bucket = self._buckets.pop(host, None) or _bucket(self._rate)
        self._buckets[host] = bucket
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket.allow(1, now)


def _bucket(rate: float) -> TokenBucket:
    """-> a bucket that holds a second's worth, and at least one."""
    return TokenBucket(rate, max(1.0, rate))


class Admission:
    """
    The limits of one site, shared by all its transports.

    @ivar casts: how many casts and uploads are under way.
    @ivar looking: how many requests wait for their file to be looked up.
    @ivar receivers: how many receivers there are at each address.
    """

    #: ERROR 5 to foreign transfer ids, a second, in all (docs/transports/tftp.md).
    STRANGERS = 5.0

    def __init__(self, limits: Limits) -> None:
        self.casts = self.looking = 0
        self.receivers: Counter[str] = Counter()
        self._held = 0
        self.adjust(limits)

    def adjust(self, limits: Limits) -> None:
        """Use other limits from now on; who is served counts on, what addresses have used up is forgotten."""
        self._limits = limits
        self._new = AddressLimit(limits.newPerPeer)
        self._again = AddressLimit(limits.newPerPeer)
        self._errors = _bucket(limits.errors)
        self._errorsPerPeer = AddressLimit(limits.errorsPerPeer)
        self._strangers = _bucket(self.STRANGERS)

    def crowded(self, host: str, now: float) -> str | None:
        """-> the key of the limit that keeps a new receiver at this address out; L{None}: it may come in."""
        limits = self._limits
        if self.casts + self.looking >= limits.casts:
            return "limits.casts"
        if self._held >= limits.receivers:
            return "limits.receivers"
        if self.receivers[host] >= limits.perPeer:
            return "limits.per-peer"
        if not self._new.allow(host, now):
            return "limits.new-per-peer"
        return None

    def mayRepeat(self, host: str, now: float) -> bool:
        """
        -> whether the repeated request of a receiver may be answered once more.

        As often as a new one: what was forged must not bring its victim more by being sent twice.
        """
        return self._again.allow(host, now)

    def enter(self, host: str) -> None:
        """Count a receiver that came."""
        self.receivers[host] += 1
        self._held += 1

    def leave(self, host: str) -> None:
        """Count a receiver that left."""
        self._held -= 1
        self.receivers[host] -= 1
        if self.receivers[host] <= 0:
            del self.receivers[host]

    def mayError(self, host: str, now: float) -> bool:
        """-> whether an ERROR may go to this address."""
        return self._errorsPerPeer.allow(host, now) and self._errors.allow(1, now)

    def mayAnswerStranger(self, host: str, now: float) -> bool:
        """-> whether an ERROR 5 may go to this foreign transfer id."""
        return self._strangers.allow(1, now) and self.mayError(host, now)
