"""
Where a fetched file goes: a copy that nobody sees until it is complete, or a stream.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

#: Octets read at once where a file is read again.
PIECE = 1 << 20


class PartialFile:
    """
    A file beside the one it is to become; until L{commit} the old one stays as it was.
    """

    def __init__(self, target: Path) -> None:
        """
        @raise OSError: there can be no file.
        """
        # Through a symbolic link: the link stays, what it points to is replaced.
        self.target = Path(os.path.realpath(target))
        number, name = tempfile.mkstemp(".part", f".{self.target.name[:200]}.", self.target.parent)
        self._path: Path | None = Path(name)
        self._file: Any = os.fdopen(number, "w+b")
        self._hash: Any = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """The next octets."""
        self._file.write(data)
        self._hash.update(data)

    def writeAt(self, offset: int, data: bytes) -> None:
        """These octets, there."""
        self._file.seek(offset)
        self._file.write(data)
        self._hash = None

    def sha256(self) -> str:
        """-> the checksum of all that was written, in hexadecimal digits."""
        if self._hash is None:
            self._file.seek(0)
            return checksum(self._file)
        return str(self._hash.hexdigest())

    def commit(self) -> None:
        """
        It is complete: put it into its place, with the mode of the file that it replaces.

        @raise OSError: it cannot be done; the old file is still there.
        """
        assert self._path is not None
        self._file.flush()
        try:
            mode = self.target.stat().st_mode & 0o7777
        except FileNotFoundError:
            mode = 0o666 & ~_umask()
        os.chmod(self._file.fileno(), mode)
        self._path.replace(self.target)
        self._path = None
        self._file.close()

    def abort(self) -> None:
        """Leave nothing behind, unless it was committed."""
        if self._path is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._path.unlink()
            self._path = None


class OutputStream:
    """
    Something that can only be written to from the start to the end: a pipe, a terminal, a device.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._kept: Any = None

    def write(self, data: bytes) -> None:
        """The next octets."""
        self._stream.write(data)
        self._hash.update(data)

    def writeAt(self, offset: int, data: bytes) -> None:
        """These octets, there: they are kept until there are no gaps any more."""
        if self._kept is None:
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self._kept.seek(offset)
        self._kept.write(data)

    def sha256(self) -> str:
        """-> the checksum of all that was written."""
        if self._kept is None:
            return self._hash.hexdigest()
        self._kept.seek(0)
        return checksum(self._kept)

    def commit(self) -> None:
        """It is complete."""
        if self._kept is not None:
            self._kept.seek(0)
            shutil.copyfileobj(self._kept, self._stream, PIECE)
        self._stream.flush()

    def abort(self) -> None:
        """What has gone out cannot be called back."""
        if self._kept is not None:
            self._kept.close()


def checksum(file: Any) -> str:
    """-> SHA-256 of what follows in this file, in hexadecimal digits."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    """The only way to learn it is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
