"""
How much the log says: each fault once a minute, and nothing more often than a disk can bear.

Whoever can send a datagram can make something happen that is worth a line; nobody may fill a disk with it.
"""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.observe.format import LINE, Observer, sentence


@implementer(ILogObserver)
class RateLimiter:
    """
    Passes events on to another observer, but the same fault only once a minute, and then how often it was.

    The same are events of one kind, transport, file and reason, and tracebacks that end in the same line, whatever they
    are about.  What has no reason (all that goes well, and every transfer that has ended) is passed on, up to a number
    in a minute that only somebody who means it reaches; beyond, it is told apart by kind, transport and outcome.  Its
    only clock is that of the events.
    """

    #: Seconds.
    WINDOW = 60.0
    #: Faults told apart; beyond (somebody asks for one invented name after the other), only their kinds are.
    MOST = 256
    #: Lines without a reason, in a minute: a hall of 4,096 machines that fetch five files each.
    LINES = 20_000

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._since = 0.0
        self._lines = 0
        self._seen: dict[tuple[object, ...], tuple[LogEvent, list[int]]] = {}

    def __call__(self, event: LogEvent) -> None:
        now = event.get("log_time", 0.0)
        if not self._since <= now < self._since + self.WINDOW:
            self.flush(now)
        fault = _fault(event)
        if fault is None:
            self._lines += 1
            if self._lines <= self.LINES:
                self._observer(event)
                return
            fault = event.get("event") or event.get("log_namespace"), event.get("transport"), event.get("outcome")
        if fault not in self._seen and len(self._seen) >= self.MOST:
            fault = fault[:2]
        _, more = self._seen.setdefault(fault, (event, [-1]))
        more[0] += 1
        if not more[0]:
            self._observer(event)

    def flush(self, now: float | None = None) -> None:
        """
        Say what was held back, and begin a new minute.  To be called at the end, too; between, events do it.

        @param now: the time of the lines; L{None}: that of the fault they are about.
        """
        seen, self._seen, self._lines = self._seen, {}, 0
        self._since = self._since if now is None else now
        for event, (more,) in seen.values():
            if more:
                self._observer(_summary(event, more, event.get("log_time", 0.0) if now is None else now))


def _fault(event: LogEvent) -> tuple[object, ...] | None:
    """What makes a fault the same as another: kind and transport first; L{None}: it is none."""
    kind = event.get("event")
    failure, why = event.get("log_failure"), event.get("why")
    if kind == "received" or (failure is None and why is None):
        return None
    whose = kind or event.get("log_namespace"), event.get("transport")
    if isinstance(failure, Failure):
        # By its innermost line: its text, and the name it is about, may be a client's, and different each time.
        return *whose, failure.type, *(frame[1:3] for frame in failure.frames[-1:])
    return *whose, event.get("name"), why


def _summary(event: LogEvent, more: int, now: float) -> LogEvent:
    """The first of its kind once more, with how many there were after it."""
    line = f"{sentence(event)} (and {more} more like it)"
    kept = {key: value for key, value in event.items() if key != "log_failure"}
    return {**kept, "log_time": now, "log_format": f"{{{LINE}}}", LINE: line, "more": more}
