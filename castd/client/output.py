"""
Writes a fetched file: to a temporary file that replaces the target once it is complete, or to a stream.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

#: Octets that are read at once, to compute a checksum or to copy.
PIECE = 1 << 20
#: Octets that are kept for a file until they are written, at once.
BUFFER = 1 << 16


class PartialFile:
    """
    A temporary file beside its target, which L{commit} replaces; until then the target stays as it was.

    @ivar target: the file that is replaced.
    """

    def __init__(self, target: Path) -> None:
        """
        @raise OSError: no file can be made in the folder of the target.
        """
        # A symbolic link stays, and the file that it points to is replaced.
        self.target = Path(os.path.realpath(target))
        number, name = tempfile.mkstemp(".part", f".{self.target.name[:200]}.", self.target.parent)
        self._path = Path(name)
        self._file = io.BufferedRandom(io.FileIO(number, "w+"), BUFFER)
        self._at = 0  # where the next octets of the file go without a seek, which empties the buffer
        self._hash = hashlib.sha256()
        self._inOrder = True
        self._closed = False

    def write(self, data: bytes) -> None:
        """Write the octets that come next."""
        self._file.write(data)
        self._at += len(data)
        self._hash.update(data)

    def writeAt(self, offset: int, data: bytes) -> None:
        """Write octets at their offset."""
        if offset != self._at:
            self._file.seek(offset)
        self._file.write(data)
        self._at = offset + len(data)
        self._inOrder = False

    def sha256(self) -> str:
        """Return SHA-256 of all that was written, in hexadecimal digits."""
        if self._inOrder:
            return self._hash.hexdigest()
        self._file.seek(0)
        return checksum(self._file)

    def commit(self) -> None:
        """
        Replace the target by this file, which is complete, and give it the mode of the target.

        @raise OSError: the target cannot be replaced; the old file is still there.
        """
        self._file.flush()
        try:
            mode = self.target.stat().st_mode & 0o7777
        except FileNotFoundError:
            mode = 0o666 & ~_umask()
        os.chmod(self._file.fileno(), mode)
        self._path.replace(self.target)
        self._closed = True
        self._file.close()

    def abort(self) -> None:
        """Remove the temporary file, unless it was committed."""
        if not self._closed:
            self._closed = True
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._path.unlink()


class OutputStream:
    """
    An output that can be written only from the start to the end: a pipe, a terminal, a device.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._kept: io.BufferedRandom | None = None

    def write(self, data: bytes) -> None:
        """Write the octets that come next."""
        self._stream.write(data)
        self._hash.update(data)

    def writeAt(self, offset: int, data: bytes) -> None:
        """Keep octets in a temporary file until the file is complete."""
        if self._kept is None:
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self._kept.seek(offset)
        self._kept.write(data)

    def sha256(self) -> str:
        """Return SHA-256 of all that was written, in hexadecimal digits."""
        if self._kept is None:
            return self._hash.hexdigest()
        self._kept.seek(0)
        return checksum(self._kept)

    def commit(self) -> None:
        """Write the octets that were kept to the stream: the file is complete."""
        if self._kept is not None:
            self._kept.seek(0)
            shutil.copyfileobj(self._kept, self._stream, PIECE)
        self._stream.flush()

    def abort(self) -> None:
        """Discard the octets that were kept; those that went to the stream cannot be undone."""
        if self._kept is not None:
            self._kept.close()


def checksum(file: io.BufferedIOBase) -> str:
    """Return SHA-256 of the rest of an open file, in hexadecimal digits."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    """Return the umask of this process; a process can read its umask only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
