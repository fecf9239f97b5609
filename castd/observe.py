"""
What the log says: one line for each transfer, each fault once a minute, and the same events as JSON for machines.

Transports only emit structured events through C{twisted.logger}; all of this observes them, so that transports from
elsewhere are logged alike.  What a client sends never reaches a terminal as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Any

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, eventAsText, formatEvent, formatTime
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.names import printable
from castd.outcomes import MEANING

Observer = Callable[[LogEvent], None]

#: Where an event carries its finished line; by its prefix it is no field of the event.
_LINE = "log_castd"


def sentence(event: LogEvent) -> str:
    """
    An event in one line for people.

    A transfer that has ended (C{event="received"}) says who, what, how it ended, how much in what time, and what had
    to be repeated; all other events say what their own format says.
    """
    if _LINE in event:
        return str(event[_LINE])
    return printable(_transfer(event) if event.get("event") == "received" else formatEvent(event))


def _transfer(event: Mapping[str, Any]) -> str:
    outcome = event.get("outcome", "")
    seconds, octets = event.get("seconds") or 0.0, event.get("octets") or 0
    said = [f"{event.get('transport', '-')}: {_place(event.get('peer'))}"]
    said.append(f" wrote {event.get('name')}" if event.get("write") else f" {event.get('name')}")
    said.append(f": {MEANING.get(outcome, outcome)}")
    if octets:
        said.append(f", {amount(octets)} in {seconds:.3g} s")
        said.append(f" ({amount(octets / seconds)}/s)" if seconds else "")
    if repeats := event.get("repeats"):
        said.append(f", {repeats} {'block' if repeats == 1 else 'blocks'} repeated")
    return "".join(said)


def _place(peer: Any) -> str:
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer)


def amount(octets: float) -> str:
    """Octets as people read them: C{42.1 KiB}."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if octets < 1000 or unit == "GiB":
            break
        octets /= 1024
    return f"{octets:.0f} {unit}" if unit == "B" or octets >= 100 else f"{octets:.1f} {unit}"


def asText(event: LogEvent) -> str | None:
    """
    An event as text for a log file, of castd or of anybody else: with its time, where it comes from, and its traceback.
    """
    if "event" in event and "log_failure" not in event:
        # What a storm of transfers brings: the same as below, for a third of the time.
        when = _second(int(event.get("log_time", 0)))
        return f"{when} [{event.get('log_namespace', '-')}#{_level(event)}] {sentence(event)}\n"
    text = eventAsText(event)
    # The lines of a traceback are the only ones that a message may have; a client's are shown as \x0a.
    return "\n    ".join(printable(line.expandtabs(4)) for line in text.split("\n")).rstrip() + "\n" if text else None


@lru_cache(4)
def _second(second: int) -> str:
    return formatTime(second)


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def asJSON(event: LogEvent) -> str | None:
    """
    An event as one line of JSON: C{time}, C{level} and C{event} with all its fields; those of others have C{system} and
    C{message} instead.
    """
    told: dict[str, Any] = {"time": _instant(event.get("log_time", 0.0)), "level": _level(event)}
    if "event" in event:
        told.update((key, _plain(value)) for key, value in event.items() if not key.startswith("log_"))
    else:
        told.update(system=event.get("log_namespace"), message=printable(formatEvent(event)))
    if isinstance(failure := event.get("log_failure"), Failure):
        told["traceback"] = [printable(line) for line in failure.getTraceback().expandtabs(4).splitlines()]
    return json.dumps({key: value for key, value in told.items() if value is not None}) + "\n"


def _instant(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    """What JSON has a word for.  Text is shown as in the other log, so that a name is one name everywhere."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return printable(value if isinstance(value, str) else str(value))


def textLog(stream: IO[Any]) -> Limiter:
    """The log for people: C{asText}, each fault once a minute."""
    return Limiter(FileLogObserver(stream, asText))


def jsonLog(stream: IO[Any]) -> Limiter:
    """The same log as lines of JSON."""
    return Limiter(FileLogObserver(stream, asJSON))


@implementer(ILogObserver)
class JSONFile:
    """
    The events of castd alone, all of them, in a file of their own.

    @ivar lost: lines that could not be written, as the disk was full; the log goes on when it is not.
    """

    def __init__(self, path: str) -> None:
        """@raise OSError: it cannot be opened for appending."""
        self.path, self.lost = os.path.abspath(path), 0
        self._torn = False
        self._fd = self._opened()

    def __call__(self, event: LogEvent) -> None:
        if "event" not in event or self._fd < 0:
            return
        line = (asJSON(event) or "").encode()
        # One write for each line: whoever reads along, or writes to it too, never sees half of one.
        whole = b"\n" + line if self._torn else line
        try:
            written = os.write(self._fd, whole)
        except OSError:
            written = 0
        self._torn = 0 < written < len(whole) or (self._torn and not written)
        self.lost += written < len(whole)

    def reopen(self) -> None:
        """
        After the file was renamed by who rotates logs: go on in a new one.

        @raise OSError: it cannot be opened; the old one is kept.
        """
        fresh = self._opened()
        self.close()
        self._fd, self._torn = fresh, False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)


@implementer(ILogObserver)
class Limiter:
    """
    Passes events on to another observer, but the same fault only once a minute, and then how often it was.

    The same are events of one kind, transport, file and reason; what has no reason (all that goes well, and every
    transfer that has ended) is always passed on.  Its only clock is that of the events.
    """

    #: Seconds.
    WINDOW = 60.0
    #: Faults told apart; beyond (somebody asks for one invented name after the other), only their kinds are.
    MOST = 256

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._since = 0.0
        self._seen: dict[tuple[object, ...], list[Any]] = {}

    def __call__(self, event: LogEvent) -> None:
        now = event.get("log_time", 0.0)
        if not self._since <= now < self._since + self.WINDOW:
            self.flush(now)
        fault = _fault(event)
        if fault is None:
            self._observer(event)
            return
        if fault not in self._seen and len(self._seen) >= self.MOST:
            fault = fault[:2]
        held = self._seen.setdefault(fault, [event, -1])
        held[1] += 1
        if not held[1]:
            self._observer(event)

    def flush(self, now: float | None = None) -> None:
        """
        Say what was held back, and begin a new minute.  To be called at the end, too; between, events do it.

        @param now: the time of the lines; L{None}: that of the fault they are about.
        """
        seen, self._seen = self._seen, {}
        self._since = self._since if now is None else now
        for event, more in seen.values():
            if more:
                self._observer(_summary(event, more, event.get("log_time", 0.0) if now is None else now))


def _fault(event: LogEvent) -> tuple[object, ...] | None:
    """What makes a fault the same as another: kind and transport first; L{None}: it is none."""
    kind = event.get("event")
    failure, why = event.get("log_failure"), event.get("why")
    if kind == "received" or (failure is None and why is None):
        return None
    where: tuple[object, ...] = ()
    if isinstance(failure, Failure):
        # By its innermost line: its text may be a client's, and different each time.
        where = (failure.type, *(frame[1:3] for frame in failure.frames[-1:]))
    return kind or event.get("log_namespace"), event.get("transport"), event.get("name"), why, *where


def _summary(event: LogEvent, more: int, now: float) -> LogEvent:
    """The first of its kind once more, with how many there were after it."""
    line = f"{sentence(event)} (and {more} more like it)"
    kept = {key: value for key, value in event.items() if key != "log_failure"}
    return {**kept, "log_time": now, "log_format": f"{{{_LINE}}}", _LINE: line, "more": more}
