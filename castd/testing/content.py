"""
Provides files in memory: contents that a site serves, and sinks for its uploads.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from castd.errors import ContentChanged, Exists, Forbidden, Full, NotFound, Refused
from castd.files import names
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
        self._over = False

    def write(self, data: bytes) -> None:
        """As L{IUpload.write}."""
        self._checkOpen()
        self._data += data
        try:
            self._sink.checkSize(len(self._data))
        except Full:
            self.abort()
            raise

    def commit(self) -> Deferred[None]:
        """As L{IUpload.commit}."""
        try:
            self._checkOpen()
            self.abort()
            # What has the name now may have come since the upload began.
            self._sink.checkPolicy(self._name)
        except Refused:
            return fail()
        self._sink.files[self._name] = bytes(self._data)
        return succeed(None)

    def abort(self) -> None:
        """As L{IUpload.abort}."""
        if not self._over:
            self._over = True
            self._sink.forget(self._name)

    def _checkOpen(self) -> None:
        if self._over:
            raise Refused("Upload is over")


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
        self._begun: dict[str, MemoryUpload] = {}

    def begin(self, name: str, peer: Peer, size: int | None) -> MemoryUpload:
        """As L{IContentSink.begin}; a client that uploads this name already begins anew."""
        name = names.text(names.parts(name))
        busy = self.open.get(name)
        if busy is not None and busy != peer:
            raise Forbidden("busy", f"{busy[0]} is uploading this file")
        self.checkPolicy(name)
        self.checkSize(size or 0)
        if busy is not None:
            self._begun[name].abort()
        self.open[name] = peer
        self._begun[name] = upload = MemoryUpload(self, name)
        return upload

    def forget(self, name: str) -> None:
        """Forget the upload of this name, which has ended."""
        self.open.pop(name, None)
        self._begun.pop(name, None)

    def checkPolicy(self, name: str) -> None:
        """
        Check a name against the policy.

        @raise Exists: the policy is C{"create"}, and there is such a file.
        @raise NotFound: the policy is C{"existing"}, and there is none.
        """
        if self.policy == "create" and name in self.files:
            raise Exists
        if self.policy == "existing" and name not in self.files:
            raise NotFound

    def checkSize(self, size: int) -> None:
        """
        Check the size of an upload against the limit.

        @raise Full: the upload is too large.
        """
        if self.largest is not None and size > self.largest:
            raise Full
