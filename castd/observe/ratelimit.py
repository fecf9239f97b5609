"""
Limits the rate of the log: each fault of each machine once a minute, and a bounded number of lines in all.

Anybody who can send a datagram can cause a line in the log, and must not be able to fill a disk with such lines, nor to
keep the lines of others out of it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from twisted.logger import ILogObserver, LogEvent, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.networks import networkOf
from castd.observe.format import MESSAGE_KEY, Observer, addressOf, asMessage
from castd.outcomes import DONE

#: Calls a function after so many seconds.  -> whether it will.
Later: TypeAlias = Callable[[float, Callable[[], object]], bool]

#: Networks remembered in which a machine was served.
MOST_SERVED = 8192
#: The most summaries that are passed on at once: a minute may end with hundreds, and transfers wait for them.
MOST_TOLD = 32


@dataclass(slots=True)
class _Repeated:
    """A fault that was passed on, and how many equal faults have come since."""

    first: LogEvent
    more: int = 0


@implementer(ILogObserver)
class RateLimiter:
    """
    Passes events on to another observer, but equal faults only once a minute, with a summary of how many there were.

    Faults are equal if they are events of one kind, transport, machine, file and reason, or tracebacks that end in the
    same line, whatever their text is.  Events without a reason (of all that succeeds, and of every transfer that has
    ended) are passed on, up to a number in a minute that only an attacker reaches.  What is beyond these bounds is left
    out, and counted in one line.

    Each bound holds twice: for machines that were served and their neighbours (24 bits of the address, 64 in IPv6), and
    for all others.  So whoever forges addresses does not keep the lines of a hall out of the log.  Time is taken from
    the events.

    @ivar omitted: how many events were left out in all, up to the end of the last period.
    """

    #: Length of the period in which equal faults are passed on once.  Seconds.
    WINDOW = 60.0
    #: The most different faults in a period.
    MAX_FAULTS = 256
    #: The most events without a reason in a period: 4,096 machines that fetch five files each.
    MAX_LINES = 20_000

    def __init__(self, observer: Observer, later: Later | None = None) -> None:
        """
        @param later: has the summaries passed on when the period ends; L{None}: the next event after it does that.
        """
        self.omitted = 0
        self._observer = observer
        self._later = later
        self._since = 0.0
        self._served: OrderedDict[str, None] = OrderedDict()
        # Whether the machine was served, or is a neighbour.
        self._lines = {True: 0, False: 0}
        self._seen: dict[bool, dict[tuple[object, ...], _Repeated]] = {True: {}, False: {}}
        self._leftOut: Counter[str] = Counter()
        # Make the summaries of periods that are over, which are still to be passed on.
        self._untold: deque[Callable[[], LogEvent]] = deque()
        self._due = False

    def __call__(self, event: LogEvent) -> None:
        now = event.get("log_time", 0.0)
        if not self._since <= now < self._since + self.WINDOW:
            self._endPeriod(now)
            self._tell()
        known, fault = self._isKnown(event), _faultKey(event)
        if fault is None:
            self._lines[known] += 1
            passed = self._lines[known] <= self.MAX_LINES
            if not passed:
                self._leftOut["received"] += 1
        else:
            passed = self._isFirst(self._seen[known], fault, event)
        if passed:
            self._observer(event)
            return
        if not self._due and self._later is not None:
            self._due = self._later(self._since + self.WINDOW - now, self._periodEnded)

    def _isKnown(self, event: LogEvent) -> bool:
        """Return whether an event is about a machine that was served or is a neighbour of one, or about the server."""
        address = addressOf(event.get("peer"))
        if address is None:
            return True
        try:
            network = networkOf(address.partition("%")[0])
        except ValueError:
            return False
        served = self._served
        if event.get("event") == "received" and event.get("outcome") == DONE:
            served[network] = None
            served.move_to_end(network)
            if len(served) > MOST_SERVED:
                served.popitem(last=False)
        return network in served

    def _isFirst(self, seen: dict[tuple[object, ...], _Repeated], fault: tuple[object, ...], event: LogEvent) -> bool:
        """Return whether a fault is to be passed on, and count it if not."""
        if (before := seen.get(fault)) is not None:
            before.more += 1
        elif len(seen) >= self.MAX_FAULTS:
            self._leftOut[str(fault[0])] += 1
        else:
            seen[fault] = _Repeated(event)
            return True
        return False

    def _periodEnded(self) -> None:
        self._due = False
        if any(each.more for seen in self._seen.values() for each in seen.values()) or self._leftOut:
            self._endPeriod(self._since + self.WINDOW)
        self._tell()

    def _tell(self) -> None:
        """Pass some summaries on, and have the others passed on when the event loop has done what else is due."""
        for _ in range(min(MOST_TOLD, len(self._untold))):
            self._observer(self._untold.popleft()())
        if self._untold and (self._later is None or not self._later(0.0, self._tell)):
            self._tellAll()

    def _tellAll(self) -> None:
        while self._untold:
            self._observer(self._untold.popleft()())

    def flush(self, now: float | None = None) -> None:
        """
        Pass on a summary of each fault that was held back, and begin a new period; at the end of a log this has to be
        called.

        @param now: the time of the summaries; L{None}: each has the time of its fault.
        """
        self._endPeriod(now)
        self._tellAll()

    def _endPeriod(self, now: float | None) -> None:
        """Begin a new period.  Each fault that was held back has a summary, as L{flush} passes it on."""
        repeated = [each for seen in self._seen.values() for each in seen.values() if each.more]
        leftOut = self._leftOut
        self._seen, self._lines, self._leftOut = {True: {}, False: {}}, {True: 0, False: 0}, Counter()
        last = self._since + self.WINDOW if now is None else now
        self._since = self._since if now is None else now
        for one in repeated:
            at = one.first.get("log_time", 0.0) if now is None else now
            self._untold.append(partial(_summary, one.first, one.more, at))
        if leftOut:
            self.omitted += leftOut.total()
            self._untold.append(partial(_leftOut, leftOut, last))


def _faultKey(event: LogEvent) -> tuple[object, ...] | None:
    """Return a key that equal faults have in common, kind and transport first; L{None}: the event is no fault."""
    kind = event.get("event")
    failure, why = event.get("log_failure"), event.get("why")
    if kind == "received" or (failure is None and why is None):
        return None
    source = kind or event.get("log_namespace"), event.get("transport")
    if isinstance(failure, Failure):
        # Only the innermost line: text and file name may come from a client, and differ each time.
        return *source, failure.type, *(frame[1:3] for frame in failure.frames[-1:])
    # What there is too much of is no matter of one file: a machine that asks for fifty has one line.
    name = None if kind == "crowded" else event.get("name")
    return *source, addressOf(event.get("peer")), name, why, event.get("limit")


def _summary(event: LogEvent, more: int, now: float) -> LogEvent:
    """Return the first of several equal events once more, with the number of those that came after it."""
    line = f"{asMessage(event)} (and {more} more like it)"
    kept = {key: value for key, value in event.items() if key != "log_failure"}
    return {**kept, "log_time": now, "log_format": f"{{{MESSAGE_KEY}}}", MESSAGE_KEY: line, "more": more}


def _leftOut(kinds: Counter[str], now: float) -> LogEvent:
    """Return the event that counts what was left out of the log, by kind."""
    return {
        "event": "left-out",
        "log_time": now,
        "log_level": LogLevel.warn,
        "log_namespace": "castd",
        "log_format": "{count} lines were left out of the log, since there were too many: {kinds}",
        "count": kinds.total(),
        "kinds": ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()),
    }
