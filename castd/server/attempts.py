"""
Remember what machines have done before, as far as it tells why they fail: a size that was asked for, a file that was
fetched again and again, a first block that was sent in vain.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from castd.net.timers import Timers

#: A machine that has asked for the size of a file is to ask for the file within so many seconds.
SIZE_TIME = 30.0
#: A machine that fetches a file once more begins at least so many seconds after the end of the last time: it has tried
#: to use the file meanwhile.
AGAIN_AFTER = 5.0
#: A file that was not fetched for so many seconds is forgotten.
AGAIN_WITHIN = 900.0
#: Attempts of a machine count together if the next one ends at most so many seconds after the last.
VAIN_WITHIN = 60.0
#: Machines, each with a file, that are remembered at once of either kind; beyond that the oldest is forgotten.
MOST = 4096

#: The address of a machine, and the name of a file.
_Key = tuple[str, str]


class _Fetched(NamedTuple):
    """How often a file was fetched, since when, and when the last time ended."""

    times: int
    since: float
    last: float


class Attempts:
    """
    Remembers attempts by the address of the machine and the name of the file.

    @ivar sizes: who has asked for a size, with the instant at which that is reported, and what reports it; empty:
        L{asked} need not be called.
    @ivar due, heapEntry: see L{castd.net.timers.TimerTarget}.
    """

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self.sizes: OrderedDict[_Key, tuple[float, Callable[[], object]]] = OrderedDict()
        self._fetched: OrderedDict[_Key, _Fetched] = OrderedDict()
        # How often a first block was sent in vain, and when the last attempt ended.
        self._inVain: OrderedDict[_Key, tuple[int, float]] = OrderedDict()
        self.due: float | None = None
        self.heapEntry: tuple[float, int] | None = None

    def asked(self, host: str, name: str) -> None:
        """Note that a machine has asked for a file."""
        if self.sizes.pop((host, name), None) is not None:
            self._setTimer()

    def sizeAsked(self, host: str, name: str, now: float, report: Callable[[], object]) -> None:
        """
        Note that a machine has asked for the size of a file only.

        @param report: called if it does not ask for the file within L{SIZE_TIME}.
        """
        self.sizes.pop((host, name), None)
        self.sizes[host, name] = now + SIZE_TIME, report
        if len(self.sizes) > MOST:
            self.sizes.popitem(last=False)
        self._setTimer()

    def _setTimer(self) -> None:
        first = next(iter(self.sizes.values()), None)
        self._timers.set(self, None if first is None else first[0])

    def timerExpired(self) -> None:
        """Report the machines that have not come back."""
        now = self._timers.seconds()
        while self.sizes and next(iter(self.sizes.values()))[0] <= now:
            self.sizes.popitem(last=False)[1][1]()
        self._setTimer()

    def fetched(self, host: str, name: str, since: float, now: float) -> tuple[int, float]:
        """
        Note that a machine has fetched a file whole.

        @param since: the instant of its request.
        @return: how often it has, one time after the other, and within how many seconds.
        """
        self._inVain.pop((host, name), None)
        before = self._fetched.pop((host, name), None)
        if before is None or now > before.last + AGAIN_WITHIN:
            made = _Fetched(1, since, now)
        elif since < before.last + AGAIN_AFTER:
            # Several at once, as from machines behind one address.
            made = _Fetched(before.times, before.since, max(now, before.last))
            self._keep((host, name), made)
            return 1, now - since
        else:
            made = _Fetched(before.times + 1, before.since, now)
        self._keep((host, name), made)
        return made.times, now - made.since

    def sentInVain(self, host: str, name: str, times: int, now: float) -> int:
        """
        Note that a machine has answered, and was sent the first block of a file so often in vain, in one attempt.

        @return: how often, in this attempt and in those before it.
        """
        before, last = self._inVain.pop((host, name), (0, now))
        sent = times if now > last + VAIN_WITHIN else before + times
        self._inVain[host, name] = sent, now
        if len(self._inVain) > MOST:
            self._inVain.popitem(last=False)
        return sent

    def _keep(self, key: _Key, fetched: _Fetched) -> None:
        self._fetched[key] = fetched
        if len(self._fetched) > MOST:
            self._fetched.popitem(last=False)

    def forgetSizes(self) -> None:
        """Report no machine any more that has asked for a size: another process will see whether it comes back."""
        self.sizes.clear()
        self._setTimer()
