"""
Convert contents and uploads to and from netascii (RFC 764).

L{NetasciiContent} is a content in netascii: its size is known and any part of it can be read, as retransmissions need.
L{NetasciiUpload} converts what is written to it to native text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import ContentChanged, Refused, Unanswered
from castd.files.threads import DiskThreads, RunInThread
from castd.interfaces import IAwaitedContent, IContent, IContestedUpload, IUpload
from castd.packets.netascii import Decoder, encode, growth

T = TypeVar("T")

#: Octets of the file that are converted together.
PIECE = 1 << 16
#: Octets of the largest file that is measured in the reactor's thread, if it need not be waited for; it takes a
#: millisecond.
AT_ONCE = 1 << 20
#: Files whose index is cached: a few hundred octets for each MiB.
REMEMBERED = 64
#: Files that are measured at once, or wait for that; beyond that a request is dropped.
MOST_MEASURED = 16

#: The offset at which each piece of the file begins in netascii, and the end of the last one.
Index: TypeAlias = Sequence[int]


class Abandoned(Exception):
    """Nobody waits for a measurement any more."""


def measure(content: IContent, index: list[int] | None = None, isAbandoned: Callable[[], bool] = bool) -> Index:
    """
    Read a whole content to find the offset of each of its pieces in netascii.

    @param index: the offsets that are known already; the others are added.
    @param isAbandoned: asked before each piece whether to stop.
    @raise Abandoned: it was stopped.
    @raise ContentChanged: as reading it does.
    """
    index = [0] if index is None else index
    for offset in range((len(index) - 1) * PIECE, content.size, PIECE):
        if isAbandoned():
            raise Abandoned
        piece = bytes(content.read(offset, PIECE))
        index.append(index[-1] + len(piece) + growth(piece))
    return index


def measureAtHand(content: IAwaitedContent) -> Index | None:
    """
    As L{measure}, for what can be read without waiting.

    @return: L{None}: the content has to be waited for.
    """
    index = [0]
    for offset in range(0, content.size, PIECE):
        piece = bytearray(min(PIECE, content.size - offset))
        if not content.readAtHand([piece], offset):
            return None
        index.append(index[-1] + len(piece) + growth(bytes(piece)))
    return index


@implementer(IAwaitedContent)
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
        return self._gather(offset, length, lambda number: bytes(self._content.read(number * PIECE, PIECE)))

    def readInto(self, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """As L{IContent.readInto}; the octets are copied."""
        _fill(buffers, self.read(offset, sum(map(len, buffers))))

    def readAtHand(self, buffers: Sequence[bytearray | memoryview], offset: int) -> bool:
        """As L{IAwaitedContent.readAtHand}; of a content that is none, everything is at hand."""
        try:
            _fill(buffers, self._gather(offset, sum(map(len, buffers)), self._pieceAtHand))
        except BlockingIOError:
            return False
        return True

    def fetch(self, buffers: Sequence[bytearray | memoryview], offset: int) -> Deferred[None]:
        """As L{IAwaitedContent.fetch}."""
        return Deferred.fromCoroutine(self._fetch(buffers, offset))

    def inBackground(self, function: Callable[[], T]) -> Deferred[T]:
        """As L{IAwaitedContent.inBackground}."""
        content = self._content
        return content.inBackground(function) if IAwaitedContent.providedBy(content) else maybeDeferred(function)

    async def _fetch(self, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        content, length = self._content, sum(map(len, buffers))
        pieces = {}
        if IAwaitedContent.providedBy(content):
            for number in self._piecesOf(offset, length):
                piece = bytearray(min(PIECE, content.size - number * PIECE))
                await content.fetch([piece], number * PIECE)
                pieces[number] = bytes(piece)
        _fill(buffers, self._gather(offset, length, pieces.__getitem__))

    def _pieceAtHand(self, number: int) -> bytes:
        """@raise BlockingIOError: the piece has to be waited for."""
        content = self._content
        if not IAwaitedContent.providedBy(content):
            return bytes(content.read(number * PIECE, PIECE))
        piece = bytearray(min(PIECE, content.size - number * PIECE))
        if not content.readAtHand([piece], number * PIECE):
            raise BlockingIOError
        return bytes(piece)

    def _piecesOf(self, offset: int, length: int) -> range:
        """Return the numbers of the pieces that a part in netascii is of."""
        end = min(offset + length, self.size)
        if offset >= end:
            return range(0)
        return range(bisect_right(self._index, offset) - 1, bisect_right(self._index, end - 1))

    def _gather(self, offset: int, length: int, read: Callable[[int], bytes]) -> bytes:
        """Return a part in netascii; C{read} returns the octets of the file in the piece of a number."""
        end = min(offset + length, self.size)
        found = []
        for number in self._piecesOf(offset, length):
            start = self._index[number]
            found.append(self._converted(number, read)[max(0, offset - start) : end - start])
        return found[0] if len(found) == 1 else b"".join(found)

    def _converted(self, number: int, read: Callable[[int], bytes]) -> bytes:
        """Convert one piece; the last result is kept, since its blocks are read one after the other."""
        if number != self._number:
            piece = encode(read(number))
            if len(piece) != self._index[number + 1] - self._index[number]:
                raise ContentChanged(why="the file was written to while it was being sent")
            self._number, self._piece = number, piece
        return self._piece

    def close(self) -> None:
        """As L{IContent.close}."""
        self._content.close()


def _fill(buffers: Sequence[bytearray | memoryview], octets: bytes) -> None:
    """
    Copy octets into buffers.

    @raise ContentChanged: there are too few.
    """
    data = memoryview(octets)
    for buffer in buffers:
        # Slices of unequal length would change the size of a bytearray instead of failing.
        if len(data) < len(buffer):
            raise ContentChanged(why="more was asked for than the file has")
        buffer[:], data = data[: len(buffer)], data[len(buffer) :]


class _Measurement:
    """
    Holds the measurement of one version of a file, and who waits for it.

    @ivar index: the offsets that are known so far.
    @ivar asked: who waits, each with his content.
    """

    __slots__ = ("asked", "index")

    def __init__(self, index: list[int]) -> None:
        self.index = index
        self.asked: dict[Deferred[IContent], IContent] = {}

    def isAbandoned(self) -> bool:
        """Return whether nobody waits any more.  In any thread."""
        return all(asked.called for asked in list(self.asked))


class NetasciiConverter:
    """
    Makes a L{NetasciiContent} of each content.

    Each version of a file is measured once for all requests, in a thread unless it is small and in memory: so clients
    cannot keep the disk busy by requesting an image in netascii again and again.  A measurement that nobody waits for
    any more stops, and the next one goes on where it was.
    """

    def __init__(self, thread: RunInThread | None = None, atOnce: int = AT_ONCE, remembered: int = REMEMBERED) -> None:
        """
        @param thread: runs the measurement of large files that are no L{IAwaitedContent}; L{None}: a thread of its own.
        @param atOnce: octets of the largest file that is measured in the reactor's thread.
        @param remembered: how many indexes are cached.
        """
        self._thread, self._atOnce, self._most = thread or DiskThreads(1), atOnce, remembered
        self._known: OrderedDict[Hashable, Index] = OrderedDict()
        self._begun: OrderedDict[Hashable, list[int]] = OrderedDict()
        self._measured: dict[Hashable, _Measurement] = {}

    def convert(self, content: IContent) -> Deferred[IContent]:
        """
        Convert a content to netascii.

        @param content: the content to convert; it is closed with the result, or if this fails.
        @return: a Deferred of a L{NetasciiContent}; fails with L{ContentChanged}, or L{Unanswered}: too many files are
            being measured.
        """
        version = content.version
        try:
            index = self._known.get(version) or self._measureAtOnce(content)
        except BaseException:
            # It may be a plugin's.
            content.close()
            return fail()
        if index is not None:
            self._remember(version, index)
            return succeed(NetasciiContent(content, index))
        measurement = self._measured.get(version)
        asked: Deferred[IContent] = Deferred()
        if measurement is not None:
            measurement.asked[asked] = content
            return asked
        if len(self._measured) >= MOST_MEASURED:
            content.close()
            return fail(Unanswered(why=f"{MOST_MEASURED} files are being measured for netascii"))
        measurement = self._measured[version] = _Measurement(self._begun.pop(version, [0]))
        measurement.asked[asked] = content
        self._measure(measurement, content)
        return asked

    def _measureAtOnce(self, content: IContent) -> Index | None:
        """Measure a small file; L{None}: it is large, or has to be waited for."""
        if content.size > self._atOnce:
            return None
        return measureAtHand(content) if IAwaitedContent.providedBy(content) else measure(content)

    def _measure(self, measurement: _Measurement, content: IContent) -> None:
        work = partial(measure, content, measurement.index, measurement.isAbandoned)
        thread = content.inBackground if IAwaitedContent.providedBy(content) else self._thread
        maybeDeferred(thread, work).addBoth(self._ended, measurement, content)

    def _ended(self, result: Index | Failure, measurement: _Measurement, measured: IContent) -> None:
        """Answer those who wait; if only those have gone who had waited when it stopped, measure on for the others."""
        version = measured.version
        if isinstance(result, Failure) and result.check(Abandoned) and not measurement.isAbandoned():
            self._measure(measurement, next(each for asked, each in measurement.asked.items() if not asked.called))
            return
        del self._measured[version]
        if not isinstance(result, Failure):
            self._remember(version, result)
        elif result.check(Abandoned):
            self._begun[version] = measurement.index
            if len(self._begun) > self._most:
                self._begun.popitem(last=False)
        for asked, content in measurement.asked.items():
            # Content whose caller has cancelled is closed only now, as the thread may have been reading it.
            if isinstance(result, Failure) or asked.called:
                content.close()
            if not asked.called:
                asked.callback(result if isinstance(result, Failure) else NetasciiContent(content, result))

    def _remember(self, version: Hashable, index: Index) -> None:
        self._known[version] = index
        self._known.move_to_end(version)
        if len(self._known) > self._most:
            self._known.popitem(last=False)


@implementer(IContestedUpload)
class NetasciiUpload:
    """
    Writes an upload, converted from netascii to native text.
    """

    def __init__(self, upload: IUpload) -> None:
        """
        @param upload: gets the native text; it is committed and aborted with this one.
        """
        self._upload, self._decoder = upload, Decoder()
        self._contest = upload if IContestedUpload.providedBy(upload) else None

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

    @property
    def contested(self) -> bool:
        """As L{IContestedUpload.contested}."""
        return self._contest is not None and self._contest.contested

    def claim(self) -> None:
        """As L{IContestedUpload.claim}."""
        if self._contest is not None:
            self._contest.claim()

    def whenReplaced(self, function: Callable[[], object]) -> None:
        """As L{IContestedUpload.whenReplaced}."""
        if self._contest is not None:
            self._contest.whenReplaced(function)
