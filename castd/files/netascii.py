"""
Convert contents and uploads to and from netascii (RFC 764).

L{NetasciiContent} is a content in netascii: its size is known and any part of it can be read, as retransmissions need.
L{NetasciiUpload} converts what is written to it to native text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import partial
from itertools import accumulate
from typing import TypeAlias

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import ContentChanged, Refused
from castd.files.threads import DiskThreads, RunInThread
from castd.interfaces import IContent, IUpload
from castd.packets.netascii import Decoder, encode, growth

#: Octets of the file that are converted together.
PIECE = 1 << 16
#: Octets of the largest file that is measured in the reactor's thread; it takes some milliseconds.
AT_ONCE = 8 << 20
#: Files whose index is cached: a few hundred octets for each MiB.
REMEMBERED = 64

#: The offset at which each piece of the file begins in netascii, and the end of the last one.
Index: TypeAlias = Sequence[int]


def measure(content: IContent) -> Index:
    """
    Read a whole content to find the offset of each of its pieces in netascii.

    @raise ContentChanged: as reading it does.
    """
    lengths = (content.read(offset, PIECE) for offset in range(0, content.size, PIECE))
    return list(accumulate((len(piece) + growth(bytes(piece)) for piece in lengths), initial=0))


@implementer(IContent)
class NetasciiContent:
    """
    Reads a content, converted to netascii.
    """

    def __init__(self, content: IContent, index: Index) -> None:
        """
        @param content: the content to convert; it is closed with this one.
        @param index: the result of L{measure} for it.
        """
        self._content, self._index = content, index
        self.name = content.name
        self.size = index[-1]
        self.version: Hashable = ("netascii", content.version)
        self._number, self._piece = -1, b""

    def read(self, offset: int, length: int) -> bytes:
        """As L{IContent.read}; offset and length are those in netascii."""
        end = min(offset + length, self.size)
        found = []
        while offset < end:
            number = bisect_right(self._index, offset) - 1
            start = offset - self._index[number]
            part = self._converted(number)[start : start + end - offset]
            found.append(part)
            offset += len(part)
        return found[0] if len(found) == 1 else b"".join(found)

    def readInto(self, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """As L{IContent.readInto}; the octets are copied."""
        data = memoryview(self.read(offset, sum(map(len, buffers))))
        for buffer in buffers:
            # Slices of unequal length would change the size of a bytearray instead of failing.
            if len(data) < len(buffer):
                raise ContentChanged(why="more was asked for than the file has")
            buffer[:], data = data[: len(buffer)], data[len(buffer) :]

    def _converted(self, number: int) -> bytes:
        """Convert one piece; the last result is kept, since its blocks are read one after the other."""
        if number != self._number:
            piece = encode(bytes(self._content.read(number * PIECE, PIECE)))
            if len(piece) != self._index[number + 1] - self._index[number]:
                raise ContentChanged(why="the file was written to while it was being sent")
            self._number, self._piece = number, piece
        return self._piece

    def close(self) -> None:
        """As L{IContent.close}."""
        self._content.close()


class NetasciiConverter:
    """
    Makes a L{NetasciiContent} of each content.

    Each version of a file is measured once for all requests, a large one in a thread: so clients cannot keep the disk
    busy by requesting an image in netascii again and again.
    """

    def __init__(self, thread: RunInThread | None = None, atOnce: int = AT_ONCE, remembered: int = REMEMBERED) -> None:
        """
        @param thread: runs the measurement of large files.
        @param atOnce: octets of the largest file that is measured in the reactor's thread.
        @param remembered: how many indexes are cached.
        """
        self._thread, self._atOnce, self._most = thread or DiskThreads(), atOnce, remembered
        self._known: OrderedDict[Hashable, Index] = OrderedDict()
        self._waiting: dict[Hashable, list[Deferred[Index]]] = {}

    def convert(self, content: IContent) -> Deferred[IContent]:
        """
        Convert a content to netascii.

        @param content: the content to convert; it is closed with the result, or if this fails.
        @return: a Deferred of a L{NetasciiContent}; fails with L{ContentChanged}.
        """
        asked: Deferred[IContent] = Deferred()
        self._index(content).addBoth(_answer, content, asked)
        return asked

    def _index(self, content: IContent) -> Deferred[Index]:
        version = content.version
        if version in self._known:
            self._known.move_to_end(version)
            return succeed(self._known[version])
        waiting: Deferred[Index] = Deferred()
        if version in self._waiting:
            self._waiting[version].append(waiting)
            return waiting
        self._waiting[version] = [waiting]
        measuring = (
            self._thread(partial(measure, content)) if content.size > self._atOnce else maybeDeferred(measure, content)
        )
        measuring.addBoth(self._measured, version)
        return waiting

    def _measured(self, result: Index | Failure, version: Hashable) -> None:
        if not isinstance(result, Failure):
            self._known[version] = result
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        for waiting in self._waiting.pop(version):
            waiting.callback(result)


def _answer(result: Index | Failure, content: IContent, asked: Deferred[IContent]) -> None:
    """
    Fire the Deferred of a caller with its content.  If the caller has cancelled it the content is closed only now, as
    the thread was still reading it.
    """
    if isinstance(result, Failure) or asked.called:
        content.close()
    if not asked.called:
        asked.callback(result if isinstance(result, Failure) else NetasciiContent(content, result))


@implementer(IUpload)
class NetasciiUpload:
    """
    Writes an upload, converted from netascii to native text.
    """

    def __init__(self, upload: IUpload) -> None:
        """
        @param upload: gets the native text; it is committed and aborted with this one.
        """
        self._upload, self._decoder = upload, Decoder()

    def write(self, data: bytes) -> Deferred[None] | None:
        """As L{IUpload.write}; the octets are netascii."""
        return self._upload.write(self._decoder.feed(data))

    def commit(self) -> Deferred[None]:
        """As L{IUpload.commit}; a CR at the end of the data is written first."""
        try:
            self._upload.write(self._decoder.finish())
        except Refused:
            return fail()
        return self._upload.commit()

    def abort(self) -> None:
        """As L{IUpload.abort}."""
        self._upload.abort()
