"""
Drop requests unread while the server has no room, or no time, for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twisted.logger import Logger

from castd.interfaces import ISite
from castd.request import Local, Peer
from castd.server.admission import RequestTime
from castd.server.sessions import Sessions
from castd.verdicts import Facts, verdictFields

_log = Logger(namespace="castd")


class Shedding:
    """
    Drops the requests that arrive at one request port in a flood, and logs once a second how many.

    @ivar time: divides the time of the port, where receivers are served through it.
    @ivar due, heapEntry: see L{castd.net.timers.TimerTarget}.
    """

    def __init__(self, site: ISite, sessions: Sessions, transport: Callable[[], str]) -> None:
        """@param transport: returns the name that the port has in the log."""
        self._site = site
        self._sessions = sessions
        self._transport = transport
        self.time = RequestTime()
        # How many were dropped since that was last logged, by the reason and the limit.
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._toldAt = float("-inf")
        self.due: float | None = None
        self.heapEntry: tuple[float, int] | None = None

    def drops(self, peer: Peer, local: Local) -> bool:
        """Drop a datagram, if it is no member's and there is no room for a request of its address, or no time."""
        now, admission = self._site.reactor.seconds(), self._site.admission
        if peer in self._sessions.members:
            return False
        if limit := admission.sheds(peer, now, local.networks):
            self._drop("the server is full", limit, now)
        elif self._sessions.onPort and not self._hasTime(peer, local, now):
            self._drop("requests take more than half of the time", "", now)
        else:
            return False
        return True

    def _hasTime(self, peer: Peer, local: Local, now: float) -> bool:
        """Return whether there is time for a request; of those who are turned away it is noted who they are."""
        admission = self._site.admission
        rank = admission.known.rank(peer[0], local.networks)
        if self.time.allows(rank, admission.asksAgain(peer, rank, now), now):
            return True
        admission.turnAway(peer, rank, now)
        return False

    def _drop(self, why: str, limit: str, now: float) -> None:
        self._dropped[why, limit] += 1
        if now >= self._toldAt + 1:
            self.tell(now)
        elif self.due is None:
            self._site.timers.set(self, self._toldAt + 1)

    def timerExpired(self) -> None:
        """Log how many requests were dropped since the last time: a flood may have ended."""
        self.tell(self._site.reactor.seconds())

    def tell(self, now: float) -> None:
        """Log how many requests were dropped, and why."""
        dropped, self._dropped, self._toldAt = self._dropped, Counter(), now
        self._site.timers.set(self, None)
        for (why, limit), requests in dropped.items():
            _log.info(
                "{transport}: {requests} requests are not answered: {why}",
                event="crowded",
                transport=self._transport(),
                requests=requests,
                why=why,
                **({"limit": limit} if limit else {}),
                **verdictFields(Facts("crowded", why=why, limit=limit)),
            )
