"""
Let write requests wait while others are read.
"""

from __future__ import annotations

from collections.abc import Callable

from castd.interfaces import ISite
from castd.net.faults import logFault
from castd.pacing import TokenBucket
from castd.request import Peer, Request
from castd.slices import SLICE

#: Write requests that wait at one port while others are read.  Beyond that the oldest is begun before the next is read.
MOST_WRITES = 4096
#: Uploads of one port whose place is being made at once, before others are begun that wait; and how long these wait for
#: a disk that may not answer.  Seconds.
MOST_BEGINNING, BEGINNING_WAIT = 32, 0.01


class WaitingWrites:
    """
    Lets write requests wait until what else has come is read.  To begin an upload and to make its place takes the loop
    ten times as long as to read a request, so of thousands at once a download would wait for all that came before it.

    As long as there is time they are begun at once; those that wait have one slice in each turn of the reactor.

    @ivar waiting: what waits, by peer: the request, and what begins its upload.
    @ivar due, heapEntry: see L{castd.net.timers.TimerTarget}.
    """

    #: The part of the time in which writes are begun at once, and how much of it a pause leaves.  Seconds.
    SHARE, SAVED = 0.25, SLICE

    def __init__(self, site: ISite) -> None:
        self.due: float | None = None
        self.heapEntry: tuple[float, int] | None = None
        self._site = site
        self._time = TokenBucket(self.SHARE, self.SAVED)
        self.waiting: dict[Peer, tuple[Request, Callable[[], object]]] = {}
        self._beginning = 0

    def repeats(self, request: Request) -> bool:
        """Return whether this is a request that waits, sent again; another one of its peer waits no longer."""
        waiting = self.waiting.get(request.peer)
        if waiting is None or request.repeats(waiting[0]):
            return waiting is not None
        del self.waiting[request.peer]
        return False

    def add(self, request: Request, begin: Callable[[], object]) -> None:
        """Have the upload of a request begun, now or later; if that raises later it is logged here."""
        now = self._site.reactor.seconds()
        if not self.waiting and self._time.available(now) > 0:
            begin()
            self._time.spend(self._site.reactor.seconds() - now, now)
            return
        if len(self.waiting) >= MOST_WRITES:
            self._beginOldest()
        self.waiting[request.peer] = request, begin
        if self.due is None:
            self._site.timers.set(self, now)

    def timerExpired(self) -> None:
        """Begin some of those that wait: in any case one, as the others may wait for a disk that does not answer."""
        clock = self._site.reactor.seconds
        until = clock() + SLICE
        while self.waiting:
            self._beginOldest()
            if self._beginning >= MOST_BEGINNING or clock() >= until:
                break
        if self.waiting:
            self._site.timers.set(self, clock() + (BEGINNING_WAIT if self._beginning >= MOST_BEGINNING else 0))

    def beginning(self) -> None:
        """Note that the place of an upload is being made."""
        self._beginning += 1

    def begun(self) -> None:
        """Note that an upload has begun, or was refused."""
        self._beginning -= 1
        if self.waiting and self._beginning < MOST_BEGINNING:
            self._site.timers.set(self, self._site.reactor.seconds())

    def _beginOldest(self) -> None:
        _, begin = self.waiting.pop(next(iter(self.waiting)))
        try:
            begin()
        except BaseException:
            logFault("a write request failed")
