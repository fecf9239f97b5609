"""
Formats log events: as a message of one line, as text for people, as JSON for machines.

Transports only emit structured events through C{twisted.logger}.  All of this package is made from these events, so
that a plugin's transport is logged like castd's own.  Text that a client sends is escaped before it reaches a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeAlias

from twisted.logger import LogEvent, eventAsText, formatEvent, formatTime
from twisted.python.failure import Failure

from castd.files.names import printable
from castd.outcomes import MEANING
from castd.request import hostPort
from castd.verdicts import remark

#: Receives events: an L{ILogObserver<twisted.logger.ILogObserver>}, or a function.
Observer: TypeAlias = Callable[[LogEvent], object]

#: The key of a formatted message in an event.  The prefix C{log_} keeps it out of the fields of the event.
MESSAGE_KEY = "log_castd"


def asMessage(event: LogEvent) -> str:
    """
    Format the message of an event on one line, without time and system.

    The message of a transfer that has ended (C{event="received"}) has receiver, file, outcome, octets, seconds and
    repetitions; any other event has the message of its own format.  Behind it stands the verdict, if there is one.
    """
    if MESSAGE_KEY in event:
        return str(event[MESSAGE_KEY])
    told = _transferMessage(event) if event.get("event") == "received" else formatEvent(event)
    return printable(told + remark(event.get("verdict"), event.get("cause"), event.get("cure")))


def _transferMessage(event: LogEvent) -> str:
    outcome = event.get("outcome", "")
    seconds, octets = event.get("seconds") or 0.0, event.get("octets") or 0
    peer = event.get("peer")
    parts = [f"{event.get('transport', '-')}: {hostPort(peer) if isinstance(peer, tuple) else peer}"]
    parts.append(f" wrote {event.get('name')}" if event.get("write") else f" {event.get('name')}")
    parts.append(f": {MEANING.get(outcome, outcome)}")
    if event.get("size") == 0:
        parts.append(", an empty file")
    if octets:
        parts.append(f", {showOctets(octets)} in {seconds:.3g} s")
        parts.append(f" ({showOctets(octets / seconds)}/s)" if seconds else "")
    if repeats := event.get("repeats"):
        parts.append(f", {repeats} {'block' if repeats == 1 else 'blocks'} repeated")
    if event.get("write") and event.get("size") not in (None, octets):
        parts.append(f"; {event['size']} octets were announced, {octets} came")
    return "".join(parts)


def showOctets(octets: float) -> str:
    """Write a number of octets for people: C{42.1 KiB}."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if octets < 1000 or unit == "GiB":
            break
        octets /= 1024
    return f"{octets:.0f} {unit}" if unit == "B" or octets >= 100 else f"{octets:.1f} {unit}"


def showSpan(seconds: float | None) -> str:
    """Write a duration as C{4:05} or C{3:04:05}; C{""}: it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def asText(event: LogEvent) -> str | None:
    """
    Format any event, of castd or of other code, for a log file: with its time, its system and its traceback.

    @return: L{None}: the event has no text.
    """
    if "event" in event and "log_failure" not in event:
        # A storm of transfers brings many of these: the same text as below, in a third of the time.
        when = _showSecond(int(event.get("log_time", 0)))
        return f"{when} [{event.get('log_namespace', '-')}#{levelName(event)}] {asMessage(event)}\n"
    text = "\n    ".join(textLines(event))
    return f"{text}\n" if text else None


def textLines(event: LogEvent, bare: bool = False) -> list[str]:
    """
    Return the lines of any event: more than one only for a traceback, whose line feeds alone are kept; those of a
    client's text are shown as C{\\x0a}.

    @param bare: without time and system, which whoever gets the lines adds.
    """
    text = eventAsText(event, includeTimestamp=not bare, includeSystem=not bare)
    return [printable(line.expandtabs(4)) for line in text.rstrip().split("\n")]


@lru_cache(4)
def _showSecond(second: int) -> str:
    return formatTime(second)


def levelName(event: LogEvent) -> str:
    """Return the level of an event: C{debug}, C{info}, C{warn}, C{error} or C{critical}; C{info} if it has none."""
    found = event.get("log_level")
    return "info" if found is None else str(found.name)


def asJSON(event: LogEvent) -> str | None:
    """
    Format any event as one line of JSON.

    An event of castd has C{time}, C{level} and all its fields, C{event} among them; an event of other code has
    C{system} and C{message} instead of fields.
    """
    members: dict[str, object] = {"time": showInstant(event.get("log_time", 0.0)), "level": levelName(event)}
    if "event" in event:
        for key, value in fieldsOf(event):
            members[key] = _jsonValue(value)
    else:
        if (system := event.get("log_namespace")) is not None:
            members["system"] = system
        members["message"] = printable(formatEvent(event))
    if isinstance(failure := event.get("log_failure"), Failure):
        members["traceback"] = [printable(line) for line in failure.getTraceback().expandtabs(4).splitlines()]
    return json.dumps(members) + "\n"


def fieldsOf(event: LogEvent) -> Iterator[tuple[str, object]]:
    """
    Return the fields of an event of castd; those without a value are left out.  Behind C{peer}, its address and port
    stand apart, so that a machine can be looked for: C{peer_address}, C{peer_port}.
    """
    for key, value in event.items():
        if value is None or key.startswith("log_"):
            continue
        yield key, value
        if key == "peer" and (address := addressOf(value)) is not None:
            yield "peer_address", address
            yield "peer_port", str(value).rpartition(":")[2]


def addressOf(peer: object) -> str | None:
    """Return the address in C{10.0.0.9:2000} or C{[fd00::9]:2000}; L{None}: this is no such text."""
    return peer.rpartition(":")[0].strip("[]") or None if isinstance(peer, str) else None


def showInstant(when: float) -> str:
    """Write a time, seconds since 1970, as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")


def _jsonValue(value: object) -> object:
    """
    Return a value that JSON can hold. Text is escaped as in the text log, so that a name is the same in both logs.
    """
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list | tuple):
        return [_jsonValue(each) for each in value]
    return printable(str(value))
