"""
Provides files in memory: contents that a site serves, and sinks for its uploads.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from castd.errors import Busy, ContentChanged, Exists, Full, NotFound, Refused
from castd.interfaces import IContent, IContentSink, IUpload
from castd.request import Peer


def pattern(size: int) -> bytes:
    """
    Return C{size} octets in which no two neighbouring blocks are equal, whatever the block size, so that a block in the
    wrong place shows.
    """
    unit = bytes((3 + 7 * index + index // 251) & 255 for index in range(64_251))
    return (unit * (size // len(unit) + 1))[:size]


@implementer(IContent)
class BytesContent:
    """
    A content in memory.

    @ivar data: the octets of the content.
    @ivar closes: how often C{close} was called; once is right.
    @ivar cut: octets that can still be read, to simulate a file that was truncated after it was opened.
    """

    def __init__(self, name: str, data: bytes, version: Hashable = None) -> None:
        self.name = name
        self.size = len(data)
        self.version = blake2b(data, digest_size=8).hexdigest() if version is None else version
        self.closes = 0
        self.cut = len(data)
        self.data = data
        self._view = memoryview(data)

    def read(self, offset: int, length: int) -> memoryview:
        """As L{IContent.read}; returns a slice and copies nothing."""
        if min(offset + length, self.size) > self.cut:
            raise ContentChanged
        return self._view[offset : offset + length]

    def readInto(self, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """As L{IContent.readInto}."""
        for buffer in buffers:
            if offset + len(buffer) > self.cut:
                raise ContentChanged
            buffer[:] = self._view[offset : offset + len(buffer)]
            offset += len(buffer)

    def close(self) -> None:
        """As L{IContent.close}."""
        self.closes += 1


class ReceivedFile:
    """
    A file in memory that L{castd.client.client.fetch} writes to.

    @ivar data: the octets that have come, and zeros in the gaps.
    """

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        """Append octets to the file."""
        self.data += data

    def writeAt(self, offset: int, data: bytes) -> None:
        """Write octets at this offset."""
        end = offset + len(data)
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[offset:end] = data


@implementer(IUpload)
class MemoryUpload:
    """One upload into a L{MemorySink}."""

    def __init__(self, sink: MemorySink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        """As L{IUpload.write}."""
        self._data += data
        self._sink.checkSize(len(self._data))

    def commit(self) -> Deferred[None]:
        """As L{IUpload.commit}."""
        self._sink.open.pop(self._name, None)
        self._sink.files[self._name] = bytes(self._data)
        return succeed(None)

    def abort(self) -> None:
        """As L{IUpload.abort}."""
        self._sink.open.pop(self._name, None)


class UploadedFiles(Protocol):
    """A mapping of names to files, to which uploads are added."""

    def __contains__(self, name: object, /) -> bool: ...
    def __getitem__(self, name: str, /) -> object: ...
    def __setitem__(self, name: str, data: bytes, /) -> None: ...


@implementer(IContentSink)
class MemorySink:
    """
    A content sink that adds uploads to a mapping.

    @ivar files: all files by name, with the complete uploads.
    @ivar policy: C{"create"}: a name that exists is refused; C{"overwrite"}; C{"existing"}: only names that exist.
    @ivar largest: the most octets of one upload; L{None}: no limit.
    @ivar open: the uploads that are under way.
    """

    def __init__(self, files: UploadedFiles, policy: str = "create", largest: int | None = None) -> None:
        self.files = files
        self.policy = policy
        self.largest = largest
        self.open: dict[str, Peer] = {}

    def begin(self, name: str, peer: Peer, size: int | None) -> MemoryUpload:
        """As L{IContentSink.begin}."""
        refusal: Refused | None = None
        if name in self.open:
            refusal = Busy()
        elif self.policy == "create" and name in self.files:
            refusal = Exists()
        elif self.policy == "existing" and name not in self.files:
            refusal = NotFound()
        if refusal is not None:
            raise refusal
        self.checkSize(size or 0)
        self.open[name] = peer
        return MemoryUpload(self, name)

    def checkSize(self, size: int) -> None:
        """
        Check the size of an upload against the limit.

        @raise Full: the upload is too large.
        """
        if self.largest is not None and size > self.largest:
            raise Full
