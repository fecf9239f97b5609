"""
What a fetched file is written to: a copy that nobody sees until it is complete, or a stream.
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

#: Octets read at once where a file is read again.
PIECE = 1 << 20


class PartialFile:
    """
    A file beside the one that it will replace; until L{commit} the old one stays as it was.

    @ivar target: the file that it will replace.
    """

    def __init__(self, target: Path) -> None:
        """
        @raise OSError: no file can be made there.
        """
        # Through a symbolic link: the link stays, what it points to is replaced.
        self.target = Path(os.path.realpath(target))
        number, name = tempfile.mkstemp(".part", f".{self.target.name[:200]}.", self.target.parent)
        self._path = Path(name)
        self._file = os.fdopen(number, "w+b")
        self._hash = hashlib.sha256()
        self._inOrder = True
        self._closed = False

    def write(self, data: bytes) -> None:
        """Write the octets that come next."""
        self._file.write(data)
        self._hash.update(data)

    def writeAt(self, offset: int, data: bytes) -> None:
        """Write octets at their offset."""
        self._file.seek(offset)
        self._file.write(data)
        self._inOrder = False

    def sha256(self) -> str:
        """-> the checksum of all that was written, in hexadecimal digits."""
        if self._inOrder:
            return self._hash.hexdigest()
        self._file.seek(0)
        return checksum(self._file)

    def commit(self) -> None:
        """
        Put the complete file into its place, with the mode of the file that it replaces.

        @raise OSError: it cannot be done; the old file is still there.
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
        """Remove the file, unless it was committed."""
        if not self._closed:
            self._closed = True
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._path.unlink()


class OutputStream:
    """
    A file that can only be written from the start to the end: a pipe, a terminal, a device.
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
        """Keep octets at their offset until the file is complete."""
        if self._kept is None:
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self._kept.seek(offset)
        self._kept.write(data)

    def sha256(self) -> str:
        """-> the checksum of all that was written, in hexadecimal digits."""
        if self._kept is None:
            return self._hash.hexdigest()
        self._kept.seek(0)
        return checksum(self._kept)

    def commit(self) -> None:
        """Write what was kept: the file is complete."""
        if self._kept is not None:
            self._kept.seek(0)
            shutil.copyfileobj(self._kept, self._stream, PIECE)
        self._stream.flush()

    def abort(self) -> None:
        """Throw away what was kept; what was written cannot be called back."""
        if self._kept is not None:
            self._kept.close()


def checksum(file: io.BufferedIOBase) -> str:
    """-> SHA-256 of the rest of an open file, in hexadecimal digits."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    """-> the mask of this process; the only way to learn it is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
