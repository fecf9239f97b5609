"""
What the log says: one line for each transfer, and the same events as JSON for machines.

Transports only emit structured events through C{twisted.logger}; all of this looks at them, so that transports from
elsewhere are logged alike.  What a client sends never reaches a terminal as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeAlias

from twisted.logger import LogEvent, eventAsText, formatEvent, formatTime
from twisted.python.failure import Failure

from castd.files.names import printable
from castd.outcomes import MEANING

#: Takes an event.
Observer: TypeAlias = Callable[[LogEvent], object]

#: Where an event carries its finished line; by its prefix it is no field of the event.
LINE = "log_castd"


def sentence(event: LogEvent) -> str:
    """
    An event in one line for people.

    A transfer that has ended (C{event="received"}) says who, what, how it ended, how much in what time, and what had
    to be repeated; all other events say what their own format says.
    """
    if LINE in event:
        return str(event[LINE])
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
    if event.get("write") and event.get("size") not in (None, octets):
        said.append(f"; {event['size']} octets were announced, {octets} came")
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
        return f"{when} [{event.get('log_namespace', '-')}#{level(event)}] {sentence(event)}\n"
    text = eventAsText(event)
    # The lines of a traceback are the only ones that a message may have; a client's are shown as \x0a.
    return "\n    ".join(printable(line.expandtabs(4)) for line in text.split("\n")).rstrip() + "\n" if text else None


@lru_cache(4)
def _second(second: int) -> str:
    return formatTime(second)


def level(event: LogEvent) -> str:
    """-> C{debug}, C{info}, C{warn}, C{error} or C{critical}; an event without one is for information."""
    found = event.get("log_level")
    return "info" if found is None else str(found.name)


def asJSON(event: LogEvent) -> str | None:
    """
    An event as one line of JSON: C{time}, C{level} and C{event} with all its fields; those of others have C{system} and
    C{message} instead.
    """
    told: dict[str, Any] = {"time": _instant(event.get("log_time", 0.0)), "level": level(event)}
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
