"""
Writes log files that rotate by themselves or are rotated by other programs, and that survive a full disk.
"""

from __future__ import annotations

import contextlib
import os

from castd.files.private import openOwn


class LineFile:
    """
    A file that lines are appended to, with older files beside it: C{name.1}, before that C{name.2}.

    @ivar lost: how many lines could not be written since L{tellLost} was last called: the disk was full.
    """

    def __init__(self, path: str, size: int | None = None, keep: int = 5) -> None:
        """
        @param size: octets from which on a new file is begun; L{None}: other programs rotate the file, see L{reopen}.
        @param keep: how many older files are kept.
        @raise OSError: the file cannot be opened for appending, or it was planted by somebody else, see L{openOwn}.
        """
        self.path, self.lost = os.path.abspath(path), 0
        self._maxSize, self._keep = size, keep
        # Whether the last line was written in part.
        self._torn = False
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def write(self, text: str) -> bool:
        """
        Append one line, or several that belong together; each ends with a line feed.

        @return: whether they are written; else they are counted as lost, and nothing of them is left in the file.
        """
        if self._fd < 0:
            return False
        line = text.encode("utf-8", "backslashreplace")
        # One write for each line: a process that reads the file, or writes to it too, never meets half a line.
        whole = b"\n" + line if self._torn else line
        if self._maxSize is not None and self._size and self._size + len(whole) > self._maxSize:
            self.rotate()
        try:
            written = os.write(self._fd, whole)
        except OSError:
            written = 0
        if written == len(whole):
            self._size += written
            self._torn = False
            return True
        self.lost += 1
        if written and not self._cut(written):
            self._size += written
            self._torn = True
        return False

    def _cut(self, octets: int) -> bool:
        """Cut off the last octets of the file, which this process has written.  -> whether that could be done."""
        try:
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if os.fstat(self._fd).st_size != end:
                return False  # another process has written behind them
            os.ftruncate(self._fd, end - octets)
        except OSError:
            return False
        return True

    def tellLost(self) -> int:
        """Return C{lost}, and count from 0 again."""
        lost, self.lost = self.lost, 0
        return lost

    def rotate(self) -> None:
        """
        Begin a new file, or continue in the one that another process has begun.

        If that fails, the old file is continued, and rotation is tried again after C{size} more octets.
        """
        self._size = 0
        with contextlib.suppress(OSError):
            if self._isOurs():
                self._moveOld()
            self.reopen()

    def _isOurs(self) -> bool:
        """
        Return whether the open file still has its name: during an upgrade two processes write to it and rotate it.
        """
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
        Continue in a new file, after a program that rotates logs has renamed this one.

        @raise OSError: the new file cannot be opened; the old one is continued.
        """
        fresh = self._open()
        self.close()
        self._fd, self._torn = fresh, False
        self._size = os.fstat(fresh).st_size

    def close(self) -> None:
        """Close the file; nothing is written any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        return openOwn(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY)
