"""
A file of lines that is appended to, rotates by itself or is rotated by others, and survives a full disk.
"""

from __future__ import annotations

import contextlib
import os

from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from castd.observe.format import asJSON


class LineFile:
    """
    One file, and those before it: C{name.1} is the last one, C{name.2} the one before it.

    @ivar lost: lines that could not be written, as the disk was full; the file goes on when it is not.
    """

    def __init__(self, path: str, size: int | None = None, keep: int = 5) -> None:
        """
        @param size: octets from which a new file is begun; L{None}: others see to that, see L{reopen}.
        @param keep: how many are kept beside it.
        @raise OSError: it cannot be opened for appending.
        """
        self.path, self.lost = os.path.abspath(path), 0
        self._most, self._keep = size, keep
        self._torn = False
        self._fd = self._opened()
        self._size = os.fstat(self._fd).st_size

    def write(self, text: str) -> None:
        """Append a line, or several that belong together; each ends with its own line feed."""
        if self._fd < 0:
            return
        line = text.encode("utf-8", "backslashreplace")
        # One write for each: whoever reads along, or writes to it too, never sees half of one.
        whole = b"\n" + line if self._torn else line
        if self._most is not None and self._size and self._size + len(whole) > self._most:
            self.rotate()
        try:
            written = os.write(self._fd, whole)
        except OSError:
            written = 0
        self._size += written
        self._torn = 0 < written < len(whole) or (self._torn and not written)
        self.lost += written < len(whole)

    def rotate(self) -> None:
        """
        Begin a new file, or go on in the one that somebody else has begun.  Where that cannot be done the old one goes
        on; it is tried again after as many octets.
        """
        self._size = 0
        with contextlib.suppress(OSError):
            if self._current():
                self._shift()
            self.reopen()

    def _current(self) -> bool:
        """Is ours still the one of this name?  In an upgrade two processes write to it, and each would rotate it."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _shift(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        if self._keep:
            os.replace(self.path, f"{self.path}.1")
        else:
            os.unlink(self.path)

    def reopen(self) -> None:
        """
        After the file was renamed by who rotates logs: go on in a new one.

        @raise OSError: it cannot be opened; the old one is kept.
        """
        fresh = self._opened()
        self.close()
        self._fd, self._torn = fresh, False
        self._size = os.fstat(fresh).st_size

    def close(self) -> None:
        """Nothing is written any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)


@implementer(ILogObserver)
class JSONFile(LineFile):
    """
    The events of castd alone, in a file of their own.
    """

    def __call__(self, event: LogEvent) -> None:
        if "event" in event:
            self.write(asJSON(event) or "")
