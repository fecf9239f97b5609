"""
Writes log files that rotate by themselves or are rotated by other programs, and that survive a full disk.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from castd.files.private import openOwn


class LineFile:
    """
    A file that lines are appended to, with older files beside it: C{name.1}, before that C{name.2}.

    @ivar lost: how many lines could not be written since they were told last, see L{LineSink}: the disk was full.
    @ivar followsName: before lines are written, go on in the file that has the name now, if another process has begun
        one; for a process that nobody tells of it.
    """

    def __init__(self, path: str, size: int | None = None, keep: int = 5) -> None:
        """
        @param size: octets from which on a new file is begun; L{None}: other programs rotate the file, see L{reopen}.
        @param keep: how many older files are kept.
        @raise OSError: the file cannot be opened for appending, or it was planted by somebody else, see L{openOwn}.
        """
        self.path, self.lost = os.path.abspath(path), 0
        self.followsName = False
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
        self._follow()
        line = _encode(text)
        if self._isFull(len(line) + self._torn):
            self.rotate()
        if self._append([line]):
            return True
        self.lost += 1
        return False

    def writeMany(self, lines: Sequence[str]) -> int:
        """
        Append several lines with one call, or with one for each file that is begun, as L{write} would begin it.

        @return: how many are written; the others are not counted as lost, and nothing of them is left in the file.
        """
        if self._fd < 0 or self._torn:
            return 0
        self._follow()
        octets, done = [_encode(line) for line in lines], 0
        while done < len(octets):
            if self._isFull(len(octets[done])):
                self.rotate()
            some = octets[done : done + self._fitting(octets[done:])]
            written = self._append(some)
            done += written
            if written < len(some):
                break
        return done

    def _isFull(self, octets: int) -> bool:
        """Return whether a new file is to be begun before so many octets."""
        return self._maxSize is not None and self._size > 0 and self._size + octets > self._maxSize

    def _fitting(self, lines: Sequence[bytes]) -> int:
        """Return how many of these lines go into the file that is open: at least one."""
        if self._maxSize is None:
            return len(lines)
        ends = accumulate((len(line) for line in lines), initial=self._size)
        return max(1, sum(end <= self._maxSize for end in ends) - 1)

    def _append(self, lines: Sequence[bytes]) -> int:
        """
        Append lines.  It is one call, of whole lines: a process that reads the file, or writes to it too, never meets
        half a line.

        @return: how many are written; the next one left nothing, or is C{_torn}.
        """
        ends = list(accumulate(map(len, lines), initial=int(self._torn)))
        try:
            written = os.write(self._fd, b"\n" * self._torn + b"".join(lines))
        except OSError:
            written = 0
        whole = bisect_right(ends, written, lo=1) - 1
        rest = written - ends[whole] if whole else written
        if whole:
            self._size += ends[whole]
            self._torn = False
        if rest and not self._cut(rest):
            self._size += rest
            self._torn = True
        return whole

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

    def _follow(self) -> None:
        """Go on in the file that has the name, as L{followsName} says; if that fails, in the one that is open."""
        if self.followsName:
            with contextlib.suppress(OSError):
                if not self._isOurs():
                    self.reopen()

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


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
