"""
Writes log files that rotate by themselves, or are rotated by others, and survive a full disk.
"""

from __future__ import annotations

import contextlib
import os

from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from castd.observe.format import asJSON


class LineFile:
    """
    A file that lines are appended to, and the older ones that it replaced: C{name.1}, before that C{name.2}.

    @ivar lost: how many lines could not be written because the disk was full; once there is room the file goes on.
    """

    def __init__(self, path: str, size: int | None = None, keep: int = 5) -> None:
        """
        @param size: octets from which on a new file is begun; L{None}: others rotate it, see L{reopen}.
        @param keep: how many older files are kept.
        @raise OSError: it cannot be opened for appending.
        """
        self.path, self.lost = os.path.abspath(path), 0
        self._maxSize, self._keep = size, keep
        # Whether the last line was written in part.
        self._torn = False
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def write(self, text: str) -> None:
        """Append a line, or several that belong together; each ends with its own line feed."""
        if self._fd < 0:
            return
        line = text.encode("utf-8", "backslashreplace")
        # One write for each line: whoever reads along, or writes to the file too, never sees half of one.
        whole = b"\n" + line if self._torn else line
        if self._maxSize is not None and self._size and self._size + len(whole) > self._maxSize:
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
        Begin a new file, or go on in the one that somebody else has begun.

        Where that cannot be done the old file is written on, and rotation is tried again after as many octets.
        """
        self._size = 0
        with contextlib.suppress(OSError):
            if self._isOurs():
                self._moveOld()
            self.reopen()

    def _isOurs(self) -> bool:
        """-> whether the open file still has this name: in an upgrade two processes write to it, and both rotate it."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _moveOld(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        if self._keep:
            os.replace(self.path, f"{self.path}.1")
        else:
            os.unlink(self.path)

    def reopen(self) -> None:
        """
        Go on in a new file, after whoever rotates logs has renamed this one.

        @raise OSError: it cannot be opened; the old one is written on.
        """
        fresh = self._open()
        self.close()
        self._fd, self._torn = fresh, False
        self._size = os.fstat(fresh).st_size

    def close(self) -> None:
        """Write nothing any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)


@implementer(ILogObserver)
class JSONFile(LineFile):
    """
    Writes the events of castd, and nobody else's, to a file as lines of JSON.
    """

    def __call__(self, event: LogEvent) -> None:
        if "event" in event:
            self.write(asJSON(event) or "")
