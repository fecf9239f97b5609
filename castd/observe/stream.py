"""
Writes lines to a stream that others read, such as standard error, and never waits for them.

Whoever started castd may not read what it writes: a pipe that is full would stop the server, as would a terminal whose
output is held (Ctrl-S).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TextIO

#: Octets that a pipe is to hold, so that a reader may be late for a moment: the most that Linux allows to everybody.
PIPE_SIZE = 1 << 20
#: Octets that a pipe takes at once if it counts as writable (PIPE_BUF).
PIECE = 4096
#: How long a full stream is waited for: its reader may only be slow.  After that it is not waited for again before it
#: has taken something.  Seconds.
PATIENCE = 0.01
#: Octets of a line that a stream has taken in part, and that are written first when it takes more.
MAX_REST = 1 << 20

#: Writes as many of these octets as it can without waiting.  -> how many; raises OSError.
_Write = Callable[[bytes], int]


class LineStream:
    """
    Writes lines to a stream without waiting for its reader.

    @ivar lost: how many lines could not be written since they were told last, see L{LineSink}.
    """

    def __init__(self, stream: TextIO) -> None:
        self.lost = 0
        self._rest = b""
        self._stuck = False
        self._joins = True  # several lines may be written with one call
        self._opened: int | None = None
        self._stream = stream
        self._fd = -1
        self._write = self._writer()

    def _writer(self) -> _Write:
        """Choose how to write without waiting, by the kind of the file."""
        try:
            self._fd = self._stream.fileno()
            mode = os.fstat(self._fd).st_mode
        except (OSError, ValueError):
            return self._toText  # no file, as in a test
        if stat.S_ISSOCK(mode):
            self._joins = self._isByteStream()
            return self._toSocket
        if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
            return lambda octets: os.write(self._fd, octets)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        with contextlib.suppress(OSError):
            # Opened anew, as the flag would hold for all who share the open file: a shell, another process.
            self._opened = os.open(
                f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            )
        return self._toPolled if self._opened is None else self._toOpened

    def _isByteStream(self) -> bool:
        """Return whether a socket is a stream of octets: each line is a datagram of its own otherwise."""
        with socket.socket(fileno=os.dup(self._fd)) as connected:
            return connected.type == socket.SOCK_STREAM

    def _toText(self, octets: bytes) -> int:
        self._stream.write(octets.decode("utf-8", "replace"))
        self._stream.flush()
        return len(octets)

    def _toSocket(self, octets: bytes) -> int:
        with socket.socket(fileno=os.dup(self._fd)) as connected:
            return connected.send(octets, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _toOpened(self, octets: bytes) -> int:
        assert self._opened is not None
        return os.write(self._opened, octets)

    def _toPolled(self, octets: bytes) -> int:
        """Write to a pipe of somebody else, which cannot be opened anew."""
        if not self._writable(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self._fd, octets[:PIECE])

    def _writable(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return any(event & select.POLLOUT for _, event in poll.poll(seconds * 1000))

    def write(self, text: str) -> bool:
        """
        Write one line, or several that belong together; each ends with a line feed.

        @return: whether they are written, or will be as soon as more is; else they are counted as lost.
        """
        line = text.encode("utf-8", "backslashreplace")
        until = 0.0 if self._stuck else time.monotonic() + PATIENCE
        if self._rest and self._writeRest(until):
            self.lost += 1
            return False
        self._rest = line
        left = self._writeRest(until)
        if left == len(line) or left > MAX_REST:
            self._rest = b""
            self.lost += 1
            return False
        return True

    def writeMany(self, lines: Sequence[str]) -> int:
        """
        Write several lines with few calls: as many with each as a pipe takes whole or not at all, so that others who
        write to it never get between the parts of a line.

        @return: how many are written, or will be as soon as more is; the others are not counted as lost.
        """
        done = 0
        for piece in _pieces([line.encode("utf-8", "backslashreplace") for line in lines]):
            if self._rest or not self._joins:
                break
            written = self._writePiece(piece)
            done += written
            if written < len(piece):
                break
        return done

    def _writePiece(self, lines: Sequence[bytes]) -> int:
        """Write lines with one call.  -> how many are written; of the last one the rest may be kept."""
        ends = list(accumulate(map(len, lines)))
        self._rest = b"".join(lines)
        written = ends[-1] - self._writeRest(0.0 if self._stuck else time.monotonic() + PATIENCE)
        done = bisect_right(ends, written)
        if done < len(ends) and written > (ends[done - 1] if done else 0):
            done += 1  # of this line a part is written
            self._rest = self._rest[: ends[done - 1] - written]
        else:
            self._rest = b""
        return done

    def _writeRest(self, until: float) -> int:
        """Write what is kept, and wait until this instant at the most.  -> how many octets are left."""
        while self._rest:
            try:
                written = self._write(self._rest)
            except BlockingIOError:
                if not self._mayWait(until):
                    break
                continue
            except OSError:
                # Nobody will ever read it: the other end is closed.
                self._stuck = True
                break
            self._stuck = False
            self._rest = self._rest[written:]
        return len(self._rest)

    def _mayWait(self, until: float) -> bool:
        """Wait for a slow reader.  -> whether the stream takes something."""
        seconds = until - time.monotonic()
        if seconds > 0 and self._writable(seconds):
            return True
        self._stuck = True
        return False

    def close(self) -> None:
        """Release what was opened; the stream itself stays open."""
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None
            self._write = self._toPolled


def _pieces(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Divide lines into pieces of at most L{PIECE} octets; a longer line is a piece of its own."""
    piece: list[bytes] = []
    octets = 0
    for line in lines:
        if piece and octets + len(line) > PIECE:
            yield piece
            piece, octets = [], 0
        piece.append(line)
        octets += len(line)
    if piece:
        yield piece
