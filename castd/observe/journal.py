"""
systemd's journal, spoken to in its own protocol, so that an event arrives with its fields: C{journalctl
CASTD_OUTCOME=silent}.

An event is one datagram: C{NAME=value} lines; a value of several lines has its length, 64 bits little-endian, before
it instead of the C{=} (systemd: Native Journal Protocol).
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.files.names import printable
from castd.observe.format import sentence

#: Where it listens.
SOCKET = "/run/systemd/journal/socket"
#: As syslog counts: the smaller the worse.
PRIORITY = {LogLevel.debug: 7, LogLevel.info: 6, LogLevel.warn: 4, LogLevel.error: 3, LogLevel.critical: 2}
#: Octets of one value: an event has to fit into a datagram.
MOST = 16384


def here(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """-> whether what is written to this descriptor goes to the journal anyway (C{JOURNAL_STREAM}, systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


@implementer(ILogObserver)
class Journal:
    """
    Passes events on to the journal.

    @ivar lost: events that it did not take since the last one that it took: it is restarted, or does not keep up.
        The next one that it takes says so.
    """

    def __init__(self, address: str = SOCKET) -> None:
        """@raise OSError: there is none."""
        self._address = address
        self.lost = 0
        os.stat(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def __call__(self, event: LogEvent) -> None:
        told = b"".join(_field(name, value) for name, value in fields(event))
        if self.lost:
            told += _field("CASTD_LOST", str(self.lost))
        try:
            self._socket.sendto(told, self._address)
        except OSError:
            # A server does not wait for its log.
            self.lost += 1
        else:
            self.lost = 0

    def close(self) -> None:
        """Nothing is said any more."""
        self._socket.close()


def fields(event: LogEvent) -> Iterator[tuple[str, str]]:
    """What the journal is told: its own fields, and those of the event by their names, C{CASTD_PEER}."""
    yield "MESSAGE", _message(event)
    yield "PRIORITY", str(PRIORITY.get(event.get("log_level", LogLevel.info), 6))
    yield "SYSLOG_IDENTIFIER", "castd"
    yield "CASTD_LOGGER", str(event.get("log_namespace", "-"))
    if "event" in event:
        for name, value in event.items():
            if value is not None and not name.startswith("log_"):
                yield f"CASTD_{_name(name)}", _plain(value)


def _message(event: LogEvent) -> str:
    if not isinstance(event.get("log_failure"), Failure):
        return sentence(event)
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    return "\n    ".join(printable(line.expandtabs(4)) for line in text.rstrip().split("\n"))


def _plain(value: Any) -> str:
    return printable(f"{value:.6g}" if isinstance(value, float) else str(value))


def _name(name: str) -> str:
    """Capitals, digits and underscores, 64 at most: all that a field's name may have."""
    return re.sub("[^A-Z0-9]", "_", name.upper())[:58]


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")[:MOST]
    if b"\n" in data:
        return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%s=%s\n" % (name.encode(), data)
