"""
Tell addresses that have shown themselves from those that may be forged, and divide a rate between them.

Whoever forges addresses can use as many as he likes, so a limit for each address does not stop him, and a limit for all
together shuts out everybody.  So the limits for all are divided: strangers get one half, and cannot take the other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import IntEnum
from ipaddress import IPv4Network

from castd.networks import networkOf, networksOf
from castd.pacing import REMEMBERED, AddressLimit, bucketOf


class Rank(IntEnum):
    """
    Ranks addresses, the best known first.

    C{SERVED}: a transfer of this address has ended well, at a port that only it could know.  C{NEAR}: it is on the link
    of the interface that was asked, where forged addresses are often filtered.  C{STRANGE}: all others.
    """

    SERVED = 0
    NEAR = 1
    STRANGE = 2


class KnownAddresses:
    """Remembers the addresses that were served."""

    def __init__(self) -> None:
        self._served: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._served)

    def add(self, host: str) -> None:
        """Note that this address was served."""
        self._served[host] = None
        self._served.move_to_end(host)
        if len(self._served) > REMEMBERED:
            self._served.popitem(last=False)

    def rank(self, host: str, networks: tuple[IPv4Network, ...]) -> Rank:
        """
        Rank an address.

        @param networks: those on the link of the interface that was asked.
        """
        if host in self._served:
            return Rank.SERVED
        near = host.startswith("fe80:") or host in networksOf(networks)
        return Rank.NEAR if near else Rank.STRANGE


class DividedLimit:
    """
    Limits how often something is done for all addresses together.

    A quarter is for those that were served, a quarter for neighbours and half for strangers; who is better known may
    use the parts of those behind it, too.  A network of strangers (C{/24}, or C{/64} in IPv6) gets half of their part.
    """

    #: The parts of the ranks.
    PARTS: Sequence[float] = (0.25, 0.25, 0.5)

    def __init__(self, rate: float) -> None:
        """
        @param rate: times a second, for all together.
        """
        self._buckets = [bucketOf(rate * part) for part in self.PARTS]
        self._networks = AddressLimit(rate * self.PARTS[Rank.STRANGE] / 2)

    def allow(self, host: str, rank: Rank, now: float) -> bool:
        """Count one, if there is any left for an address of this rank.  -> whether there is."""
        if rank is Rank.STRANGE and not self._networks.allow(networkOf(host), now):
            return False
        return any(bucket.allow(1, now) for bucket in self._buckets[rank:])

    def exhausted(self, rank: Rank, now: float) -> bool:
        """Return whether nothing is left for any address of this rank."""
        return all(bucket.available(now) < 1 for bucket in self._buckets[rank:])
