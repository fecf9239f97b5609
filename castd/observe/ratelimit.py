"""
Limits the rate of the log: each fault once a minute, and a bounded number of lines in all.

Anybody who can send a datagram can cause a line in the log, and must not be able to fill a disk with such lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import ILogObserver, LogEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.observe.format import MESSAGE_KEY, Observer, asMessage


@dataclass(slots=True)
class _Repeated:
    """A fault that was passed on, and how many equal faults have come since."""

    first: LogEvent
    more: int = 0


@implementer(ILogObserver)
class RateLimiter:
    """
    Passes events on to another observer, but equal faults only once a minute, with a summary of how many there were.

    Faults are equal if they are events of one kind, transport, file and reason, or tracebacks that end in the same
    line, whatever their text is.  Events without a reason (of all that succeeds, and of every transfer that has ended)
    are passed on, up to a number in a minute that only an attacker reaches; from there on only one event of each kind,
    transport and outcome is.  Time is taken from the events.
    """

    #: Length of the period in which equal faults are passed on once.  Seconds.
    WINDOW = 60.0
    #: The most different faults in a period; further ones (invented file names) differ by their kinds only.
    MAX_FAULTS = 256
    #: The most events without a reason in a period: 4,096 machines that fetch five files each.
    MAX_LINES = 20_000

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._since = 0.0
        self._lines = 0
        self._seen: dict[tuple[object, ...], _Repeated] = {}

    def __call__(self, event: LogEvent) -> None:
        now = event.get("log_time", 0.0)
        if not self._since <= now < self._since + self.WINDOW:
            self.flush(now)
        fault = _faultKey(event)
        if fault is None:
            self._lines += 1
            if self._lines <= self.MAX_LINES:
                self._observer(event)
                return
            fault = event.get("event") or event.get("log_namespace"), event.get("transport"), event.get("outcome")
        if fault not in self._seen and len(self._seen) >= self.MAX_FAULTS:
            fault = fault[:2]
        seen = self._seen.get(fault)
        if seen is not None:
            seen.more += 1
            return
        self._seen[fault] = _Repeated(event)
        self._observer(event)

    def flush(self, now: float | None = None) -> None:
        """
        Pass on a summary of each fault that was held back, and begin a new period.

        The first event after a period calls this; at the end of a log it has to be called.

        @param now: the time of the summaries; L{None}: each has the time of its fault.
        """
        seen, self._seen, self._lines = self._seen, {}, 0
        self._since = self._since if now is None else now
        for each in seen.values():
            if each.more:
                at = each.first.get("log_time", 0.0) if now is None else now
                self._observer(_summary(each.first, each.more, at))


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
    return *source, event.get("name"), why


def _summary(event: LogEvent, more: int, now: float) -> LogEvent:
    """Return the first of several equal events once more, with the number of those that came after it."""
    line = f"{asMessage(event)} (and {more} more like it)"
    kept = {key: value for key, value in event.items() if key != "log_failure"}
    return {**kept, "log_time": now, "log_format": f"{{{MESSAGE_KEY}}}", MESSAGE_KEY: line, "more": more}
