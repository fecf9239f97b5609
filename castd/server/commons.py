"""
What all transports of one server share, apart from where files come from: time, chance, ports, limits, memory.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from castd.group_pool import GroupPool
from castd.net.timers import Timers
from castd.options import Limits
from castd.pacing import Pacer
from castd.server.admission import Admission
from castd.server.blockcache import BlockCache

#: Barred (address, name) pairs remembered at once; beyond, the oldest is forgotten.
MOST_BARRED = 4096


class Commons:
    """
    The part of L{ISite<castd.interfaces.ISite>} that is the same for the server and for a test.

    @ivar predecessor: the process that this one takes over from, while it still serves somebody, a
        L{castd.upgrade.predecessor.Predecessor}; L{None}: there is none.
    @ivar barring: told of each address that is barred; for the process that takes over.
    @ivar requestPorts: the ports that requests come to, each with how many listen at it, so that two of
        them are never made to answer each other.
    """

    def __init__(self, reactor: Any, random: Random, ports: Any, limits: Limits) -> None:
        self.reactor = reactor
        self.random = random
        self.ports = ports
        self.limits = limits
        self.pacer = None if limits.rate is None else Pacer(limits.rate)
        self.timers = Timers(reactor, ports.readArrived)
        self.blockCache = BlockCache(limits.memory)
        self.admission = Admission(limits)
        self.groupPool = GroupPool()
        self.requestPorts: Counter[int] = Counter()
        self.predecessor: Any = None
        self.barring: Callable[[str, str, float, str], object] | None = None
        self._barred: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()

    def adjust(self, limits: Limits) -> None:
        """Other limits hold from now on.  A rate that is new or gone is so for casts that begin now."""
        self.limits = limits
        if limits.rate is None:
            self.pacer = None
        elif self.pacer is None:
            self.pacer = Pacer(limits.rate)
        else:
            self.pacer.adjust(limits.rate)
        self.blockCache.limit = limits.memory
        self.admission.adjust(limits)

    def bar(self, host: str, name: str, seconds: float, why: str) -> None:
        """Refuse this name to this address for so long; see L{castd.interfaces.ISite.bar}."""
        if self.barring is not None:
            self.barring(host, name, seconds, why)
        self._barred.pop((host, name), None)
        if seconds <= 0:
            return
        self._barred[host, name] = (self.reactor.seconds() + seconds, why)
        if len(self._barred) > MOST_BARRED:
            self._barred.popitem(last=False)

    def bars(self) -> Iterator[tuple[str, str, float, str]]:
        """-> what was barred so far, as L{bar} takes it."""
        now = self.reactor.seconds()
        return ((*at, until - now, why) for at, (until, why) in self._barred.items() if until > now)

    def barred(self, host: str, name: str) -> str | None:
        """-> why this name is refused to this address, L{None}: it is not."""
        if not self._barred:
            return None
        until, why = self._barred.get((host, name), (0.0, ""))
        if self.reactor.seconds() < until:
            return why
        self._barred.pop((host, name), None)
        return None
