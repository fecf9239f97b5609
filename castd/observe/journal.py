"""
Sends log events to systemd's journal in its native protocol, so that they keep their fields: C{journalctl
CASTD_OUTCOME=silent}.

An event is one datagram: C{NAME=value} lines; before a value of several lines stands its length, 64 bits
little-endian, instead of the C{=} (systemd: Native Journal Protocol).
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from functools import lru_cache

from twisted.logger import ILogObserver, LogEvent, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.files.names import printable
from castd.observe.format import asMessage, fieldsOf, textLines

#: The socket of journald.
SOCKET = "/run/systemd/journal/socket"
#: The syslog priority of each level: the smaller the worse.
PRIORITY = {LogLevel.debug: 7, LogLevel.info: 6, LogLevel.warn: 4, LogLevel.error: 3, LogLevel.critical: 2}
#: The most octets of one value: an event has to fit into a datagram.
MAX_VALUE = 16384


def isJournal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Return whether this descriptor is connected to the journal (C{JOURNAL_STREAM}, systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


@implementer(ILogObserver)
class JournalObserver:
    """
    Sends events to the journal.

    @ivar lost: how many events journald has not accepted since the last one that it did: it is restarting, or does not
        keep up.  The next event that it accepts has this number in C{CASTD_LOST}.
    @ivar lostInAll: how many it has not accepted since the start.
    """

    def __init__(self, address: str = SOCKET) -> None:
        """
        @param address: the socket of journald.
        @raise OSError: the socket does not exist.
        """
        self._address = address
        self.lost = self.lostInAll = 0
        os.stat(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def __call__(self, event: LogEvent) -> None:
        message = b"".join(_encode(name, value) for name, value in fields(event))
        if self.lost:
            message += _encode("CASTD_LOST", str(self.lost))
        try:
            self._socket.sendto(message, self._address)
        except OSError:
            # Lost and counted: a server must not wait for its log.
            self.lost += 1
            self.lostInAll += 1
        else:
            self.lost = 0

    def close(self) -> None:
        """Close the socket; nothing is sent any more."""
        self._socket.close()


def fields(event: LogEvent) -> Iterator[tuple[str, str]]:
    """
    Return the fields of a journal entry: those that journald defines, and those of the event, such as C{CASTD_PEER}.
    """
    yield "MESSAGE", _message(event)
    yield "PRIORITY", str(PRIORITY.get(event.get("log_level", LogLevel.info), 6))
    yield "SYSLOG_IDENTIFIER", "castd"
    yield "CASTD_LOGGER", str(event.get("log_namespace", "-"))
    if "event" in event:
        for name, value in fieldsOf(event):
            yield _fieldName(name), _showValue(value)


def _message(event: LogEvent) -> str:
    if not isinstance(event.get("log_failure"), Failure):
        return asMessage(event)
    return "\n    ".join(textLines(event, bare=True))


def _showValue(value: object) -> str:
    return printable(f"{value:.6g}" if isinstance(value, float) else str(value))


@lru_cache(256)
def _fieldName(name: str) -> str:
    """
    Return the name of a field for journald: capitals, digits and underscores behind C{CASTD_}, at most 64 characters.
    """
    return "CASTD_" + re.sub("[^A-Z0-9]", "_", name.upper())[:58]


def _encode(name: str, value: str) -> bytes:
    """Return one field in the encoding of the protocol."""
    data = value.encode("utf-8", "backslashreplace")[:MAX_VALUE]
    if b"\n" in data:
        return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%s=%s\n" % (name.encode(), data)
