"""
Serve the files in a ZIP archive: a source of content that is no directory.

It is one file, as a plugin of somebody else may be: the announcement, the options, the source and its contents.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from pydantic import Field
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from castd.config.plugin import ContentSourceMaker
from castd.errors import Busy, ConfigError, ContentChanged, Forbidden, NotFound
from castd.files import names
from castd.interfaces import IContent, IContentSource, ISite
from castd.options import FilePath, Settings, Size
from castd.request import Peer

zip_ = ContentSourceMaker("zip", __name__, "The files in a ZIP archive")


class Options(Settings):
    """The options of an archive."""

    file: FilePath = Field(description="the archive; it may be replaced while castd runs")
    largest: Size = Field(16 << 20, description="octets of the largest file in it that is served")


@implementer(IContent)
class Member:
    """Reads one file of an archive, which was unpacked into memory."""

    def __init__(self, name: str, data: bytes, version: tuple[str, int, int, int, int, int]) -> None:
        self.name, self.size, self.version, self._data = name, len(data), version, data

    def read(self, offset: int, length: int) -> bytes:
        """Return a part of it, fewer octets only at its end."""
        return self._data[offset : offset + length]

    def readInto(self, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """Fill these buffers; castd asks for no more than C{size} has."""
        for buffer in buffers:
            if offset + len(buffer) > self.size:
                raise ContentChanged
            buffer[:] = self._data[offset : offset + len(buffer)]
            offset += len(buffer)

    def close(self) -> None:
        """Nothing is open any more."""


@implementer(IContentSource)
class Archive:
    """Opens files by their names in an archive."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def lookup(self, name: str, peer: Peer) -> Deferred[IContent]:
        """Look for a file, in a thread: the loop must not wait for a disk, nor for what is unpacked."""
        # This parses what the client has sent, and raises what it should: Forbidden for "../x", for instance.
        plain = names.text(names.parts(name))
        return deferToThread(partial(self._open, name, plain))

    def _open(self, name: str, plain: str) -> Member:
        path = Path(self._options.file)
        try:
            # Opened for each request: the next one gets a replaced archive.
            with path.open("rb") as file, ZipFile(file) as archive:
                found = archive.getinfo(plain)
                if found.file_size > self._options.largest:
                    raise Forbidden(why=f"larger than {self._options.largest} octets")
                # Of the archive that is open: another one may be at the path by now.
                status = os.fstat(file.fileno())
                version = plain, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                return Member(name, archive.read(found), version)
        except KeyError:
            raise NotFound from None
        except (OSError, BadZipFile) as error:
            # Not "not found", at which clients give up: it may be being replaced.
            raise Busy(why=str(error)) from None


def makeSource(options: Options, site: ISite) -> Archive:
    """Make a source, as the announcement promises."""
    try:
        ZipFile(options.file).close()
    except (OSError, BadZipFile) as error:
        raise ConfigError(f"file: {options.file}: {error}") from None
    return Archive(options)
