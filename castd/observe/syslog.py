"""
Sends lines to the system's log, as the C library does by C{syslog(3)}, but without waiting for whoever reads it: the
library waits while the socket is full, and with it the server would.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from twisted.logger import ILogObserver, LogEvent, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.observe.format import asMessage, textLines
from castd.observe.journal import PRIORITY

#: The socket of the system's log (C{_PATH_LOG} of the C library).
SOCKET: Final = "/dev/log"
#: The facility of programs that are no part of the system (C{LOG_USER}).
FACILITY: Final = 1 << 3
#: Errors of a socket that is full: its reader does not keep up.
_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS})


class SyslogSocket:
    """
    Sends datagrams to the system's log.  It stays connected, as a later C{chroot} takes the name away.
    """

    def __init__(self, address: str = SOCKET) -> None:
        self._address = address
        self._socket = self._connected()

    def _connected(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        with suppress(OSError):  # nobody keeps a log yet: the next datagram tries again
            made.connect(self._address)
        return made

    def send(self, datagram: bytes) -> bool:
        """Send a datagram.  -> whether it was taken."""
        try:
            self._socket.send(datagram)
        except OSError as error:
            if error.errno in _FULL:
                return False
        else:
            return True
        # Whoever reads the log has been started since, perhaps again.
        self._socket.close()
        self._socket = self._connected()
        with suppress(OSError):
            self._socket.send(datagram)
            return True
        return False


@implementer(ILogObserver)
class SyslogObserver:
    """
    Writes events to the system's log, a datagram for each line.

    @ivar lost: how many lines were not taken since the last one that was; the next one is preceded by their number.
    @ivar lostInAll: how many were not taken since this observer was made.
    """

    def __init__(self, prefix: str, log: SyslogSocket) -> None:
        """
        @param prefix: stands before each line: the name of the program.
        """
        self._prefix, self._log = prefix, log
        self.lost = self.lostInAll = 0

    def __call__(self, event: LogEvent) -> None:
        when, namespace = event.get("log_time", 0.0), event.get("log_namespace", "-")
        priority = PRIORITY.get(event.get("log_level", LogLevel.info), 6)
        for line in _lines(event):
            if self.lost:
                text = f"{self.lost} lines before this one were lost: the system's log did not take them"
                if not self._send(PRIORITY[LogLevel.warn], when, f"[{namespace}] {text}"):
                    self._count()
                    continue
                self.lost = 0
            if not self._send(priority, when, f"[{namespace}] {line}"):
                self._count()

    def _count(self) -> None:
        self.lost += 1
        self.lostInAll += 1

    def _send(self, priority: int, when: float, line: str) -> bool:
        stamp = time.strftime("%b %e %H:%M:%S", time.localtime(when))
        text = f"<{FACILITY | priority}>{stamp} {self._prefix}: {line}"
        return self._log.send(text.encode("utf-8", "backslashreplace"))


def _lines(event: LogEvent) -> Iterator[str]:
    """Return the sentence of an event, or the lines of its traceback; nothing in them breaks out of a line."""
    if not isinstance(event.get("log_failure"), Failure):
        yield asMessage(event)
        return
    first, *more = textLines(event, bare=True)
    yield first
    for line in more:
        yield f"\t{line}"
