"""
Wire images: how much memory they may take, and the steps that are prepared through them.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface import directlyProvides, implementer_only

from castd.cast.policy import RetransmitPolicy
from castd.dialects import slam
from castd.dialects.tftp import Wire
from castd.interfaces import IAwaitedContent, IEqualHeadersWire, IEqualStepsWire
from castd.packets.options import AgreedOptions
from castd.packets.slam import Header
from castd.request import Local
from castd.server.blockcache import MOST_OCTETS, SHORT_OCTETS, BlockCache, Chunk, ChunkAwaited
from castd.server.prepared import NO_STEPS, preparedSteps
from castd.testing import BytesContent, pattern
from tests.support.quick import slowBut

SIZE = 1 << 21


class Readers:
    """So many casts."""

    def __init__(self, casts: int) -> None:
        self.casts = casts


@pytest.mark.parametrize("windowsize", [1, 16])
@pytest.mark.parametrize("blksize", slowBut(lambda blksize: blksize > 64, [8, 64, 512, 1468, 65464]))
def test_memoryIsBounded(blksize: int, windowsize: int) -> None:
    """Whatever the block size, images and lanes take about the memory that they may, and no multiple of it."""
    limit = 1 << 19
    content = BytesContent("f", bytes(SIZE))
    wire = Wire(AgreedOptions(blksize=blksize, windowsize=windowsize), SIZE, RetransmitPolicy())
    blockCache = BlockCache(limit)
    tracemalloc.start()
    try:
        number = 0
        while number < min(wire.count, 8192):
            chunk = blockCache.chunk(wire, content, number)
            preparedSteps(wire, chunk, number)
            number = chunk.stop
        assert tracemalloc.get_traced_memory()[0] < 1.3 * limit
    finally:
        tracemalloc.stop()


def test_memoryOfShortFiles() -> None:
    """So do those of a file of some octets, which a client may ask for in every block size that there is."""
    limit, content = 1 << 19, BytesContent("f", bytes(100))
    blockCache = BlockCache(limit)
    tracemalloc.start()
    try:
        for blksize in range(200, 1400):
            wire = Wire(AgreedOptions(blksize=blksize), content.size, RetransmitPolicy())
            preparedSteps(wire, blockCache.chunk(wire, content, 0), 0)
        assert 0.7 * limit < tracemalloc.get_traced_memory()[0] < 1.3 * limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("blksize", [64, 512, 900, 1400])
@pytest.mark.parametrize("count", [1, 32, 33, 100, 8200])
def test_headersThatGetLonger(blksize: int, count: int) -> None:
    """SLAM's headers get longer at blocks 32 and 8192: each block is laid out with its own, whatever the block size."""
    content = BytesContent("f", pattern(blksize * count - 3))
    wire = slam.Wire(Header(1, content.size, blksize), ("239.255.1.1", 10000), Local("127.0.0.1", 10000))
    blockCache, number = BlockCache(1 << 26), 0
    while number < wire.count:
        chunk = blockCache.chunk(wire, content, number)
        assert chunk.start == number
        for block in {number, chunk.stop - 1}:
            payload = content.read(block * blksize, min(blksize, content.size - block * blksize))
            assert chunk.slice(block, block + 1) == wire.header(block) + payload
        number = chunk.stop
    assert number == count


@pytest.mark.slow
def test_preparedStepsAreBounded() -> None:
    """Every receiver finds its steps, whatever window it has and wherever it begins, but only a few are kept."""
    content = BytesContent("f", bytes(SIZE))
    chunk = BlockCache(1 << 20).chunk(Wire(AgreedOptions(blksize=512), SIZE, RetransmitPolicy()), content, 0)
    for windowsize in range(1, 65):
        wire = Wire(AgreedOptions(blksize=512, windowsize=windowsize), SIZE, RetransmitPolicy())
        for start in range(chunk.stop - windowsize + 1):
            found = preparedSteps(wire, chunk, start)
            assert found is not NO_STEPS
            assert found.numbers(1, wire.count) == range(start, start + windowsize)
    assert len(chunk.prepared) <= 4


@pytest.mark.parametrize("windowsize", [1, 4])
def test_stepsThatFollowAreShared(windowsize: int) -> None:
    """Who goes on at a step that was prepared for others gets the very answers and images that follow."""
    content = BytesContent("f", pattern(SIZE))
    wire = Wire(AgreedOptions(blksize=512, windowsize=windowsize), SIZE, RetransmitPolicy())
    chunk, anew = (BlockCache(1 << 20).chunk(wire, content, 64) for _ in range(2))
    whole = preparedSteps(wire, chunk, 64)
    for start in (64, 64 + windowsize, 64 + windowsize // 2, 64 + 5 * windowsize, 128 - windowsize):
        found, expected = preparedSteps(wire, chunk, start), preparedSteps(wire, anew, start)
        anew.prepared.clear()
        assert (found.start, found.stop, found.stride, found.gap) == (start, expected.stop, windowsize, 4)
        assert (found.answers, found.images) == (expected.answers, expected.images)
        skipped, rest = divmod(start - 64, windowsize)
        assert rest or all(each is other for each, other in zip(found.images, whole.images[skipped:], strict=True))


@implementer_only(IEqualHeadersWire)
class AskedWire(Wire):
    """A wire that is asked for each answer."""


@pytest.mark.parametrize("rollover", [0, 1])
@pytest.mark.parametrize("windowsize", [1, 3, 16])
@pytest.mark.parametrize("count", slowBut(lambda count: count > 9, [1, 2, 17, 200, 65_540, 131_080]))
def test_stepsAtOnce(count: int, windowsize: int, rollover: int) -> None:
    """The steps that are prepared at once are those that a wire is asked for one by one, behind a wrap too."""
    content = BytesContent("f", pattern(8 * count - 3))
    terms = AgreedOptions(blksize=8, windowsize=windowsize, rollover=rollover)
    wires = [kind(terms, content.size, RetransmitPolicy()) for kind in (Wire, AskedWire)]
    assert [IEqualStepsWire.providedBy(wire) for wire in wires] == [True, False]
    starts = {0, 1, windowsize, 129, 65_535 - windowsize, 65_535, 65_536, 131_070, count - windowsize, count - 1}
    for start in (each for each in starts if 0 <= each < count):
        chunks = [BlockCache(1 << 20).chunk(wire, content, start) for wire in wires]
        made, asked = (preparedSteps(wire, chunk, start) for wire, chunk in zip(wires, chunks, strict=True))
        assert (made.start, made.stop, made.stride, made.gap) == (asked.start, asked.stop, asked.stride, asked.gap)
        assert (made.answers, made.images) == (asked.answers, asked.images)


@pytest.mark.parametrize("blksize", [8, 512, 1020, 1468, 65464])
@pytest.mark.parametrize("casts", [1, 2, 16, 64, 65, 128, 512])
def test_chunksAreLongForFew(blksize: int, casts: int) -> None:
    """Two chunks of each cast fit into the memory, or they are as short as those of a crowd."""
    content = BytesContent("f", bytes(SIZE))
    wire = Wire(AgreedOptions(blksize=blksize), SIZE, RetransmitPolicy())
    blockCache = BlockCache(32 << 20, Readers(casts))
    chunk = blockCache.chunk(wire, content, 0)
    assert len(chunk.image) <= MOST_OCTETS
    if casts == 1:
        assert chunk.stop == 256 or 2 * len(chunk.image) > MOST_OCTETS
    assert 2 * casts * chunk.cost + MOST_OCTETS <= blockCache.limit or len(chunk.image) <= SHORT_OCTETS


@pytest.mark.parametrize("windowsize", [1, 2])
def test_whoSharesChunks(windowsize: int) -> None:
    """Lockstep and all windows share chunks."""
    short, long = BytesContent("s", bytes(20_000)), BytesContent("l", bytes(SIZE))
    blockCache = BlockCache(1 << 26)

    def found(content: BytesContent, windowsize: int) -> object:
        terms = AgreedOptions(blksize=1468, windowsize=windowsize)
        return blockCache.chunk(Wire(terms, content.size, RetransmitPolicy()), content, 0)

    assert found(short, windowsize) is found(short, 64)
    assert found(long, windowsize) is found(long, 64)


class Disk(BytesContent):
    """A content that has to be waited for, until C{read} is called with what C{fetch} was given."""

    def __init__(self, data: bytes) -> None:
        super().__init__("f", data)
        self.asked: list[tuple[Deferred[None], Any, int]] = []

    def readAtHand(self, buffers: Any, offset: int) -> bool:
        if offset:
            self.readInto(buffers, offset)
        return bool(offset)

    def fetch(self, buffers: Any, offset: int) -> Deferred[None]:
        asked: Deferred[None] = Deferred()
        self.asked.append((asked, buffers, offset))
        return asked

    def inBackground(self, function: Callable[[], Any]) -> Deferred[Any]:
        raise AssertionError("nobody asks for that")


class NeverAtHand(Disk):
    """
    One whose reads all have to be waited for.

    @ivar octets: how many were read.
    """

    def __init__(self, size: int) -> None:
        super().__init__(bytes(size))
        self.version = object()
        self.octets = 0
        directlyProvides(self, IAwaitedContent)

    def readAtHand(self, buffers: Any, offset: int) -> bool:
        return False

    def answer(self) -> None:
        """Finish all reads that were asked for."""
        asked, self.asked = self.asked, []
        for answer, buffers, offset in asked:
            self.octets += sum(map(len, buffers))
            self.readInto(buffers, offset)
            answer.callback(None)


@pytest.mark.parametrize("blksize", [1020, 1468, 32748, 65464])
@pytest.mark.parametrize(("casts", "limit"), [(2, 1 << 20), (8, 4 << 20), (55, 32 << 20)])
def test_whatIsReadAheadIsUsed(blksize: int, casts: int, limit: int) -> None:
    """Casts that take turns, each with a file of its own on a slow disk, have each chunk read once."""
    blockCache = BlockCache(limit, Readers(casts))
    size = 6 * MOST_OCTETS
    wire = Wire(AgreedOptions(blksize=blksize), size, RetransmitPolicy())
    files = {NeverAtHand(size): 0 for _ in range(casts)}  # and where each cast goes on
    while min(files.values()) < wire.count:
        for file, number in files.items():
            with suppress(ChunkAwaited):
                blockCache.chunk(wire, file, number)
            file.answer()
            files[file] = blockCache.chunk(wire, file, number).stop
            file.answer()  # what is read ahead
    assert [file.octets for file in files] == [size] * casts


@pytest.mark.parametrize("windowsize", [1, 16])
def test_nothingIsOverwritten(windowsize: int) -> None:
    """What a transfer still sends, and what a thread still reads, stays as it is while other chunks are laid out."""
    content = Disk(pattern(SIZE))
    directlyProvides(content, IAwaitedContent)
    wire = Wire(AgreedOptions(blksize=1468, windowsize=windowsize), SIZE, RetransmitPolicy())
    blockCache = BlockCache(1)
    with pytest.raises(ChunkAwaited) as waiting:
        blockCache.chunk(wire, content, 0)

    def isRight(held: memoryview, start: int) -> bool:
        numbers = range(start, start + len(held) // 1472)
        return held == b"".join(wire.header(each) + content.data[each * 1468 : (each + 1) * 1468] for each in numbers)

    held = {start: blockCache.chunk(wire, content, start).slice(start, start + 16) for start in range(256, 1024, 128)}
    ((asked, buffers, offset),) = content.asked
    content.readInto(buffers, offset)
    held |= {start: blockCache.chunk(wire, content, start).slice(start, start + 16) for start in range(1024, 1280, 128)}
    asked.callback(None)
    found = waiting.value.awaited.result
    assert isinstance(found, Chunk)
    held[0] = found.slice(0, 16)
    assert all(isRight(image, start) for start, image in held.items())


class Failing(NeverAtHand):
    """
    One of a plugin that fails before it has begun to read, behind the first chunk or everywhere: it raises, or it
    returns nothing to wait for.
    """

    def __init__(self, first: bool, raises: bool = True) -> None:
        super().__init__(SIZE)
        self.first, self.raises = first, raises

    def fetch(self, buffers: Any, offset: int) -> Deferred[None]:
        if not offset and not self.first:
            return super().fetch(buffers, offset)
        if self.raises:
            raise ZeroDivisionError
        nothing: Any = None
        return nothing


class Waiting:
    """One who waits for chunks, and asks for the next one."""

    def __init__(self, blockCache: BlockCache, wire: Wire, content: Failing) -> None:
        self.blockCache, self.wire, self.content = blockCache, wire, content
        self.got: list[Any] = []

    def wait(self) -> None:
        with pytest.raises(ChunkAwaited) as waiting:
            self.blockCache.chunk(self.wire, self.content, 0)
        waiting.value.awaited.readers[self] = None

    def chunkRead(self, awaited: object, result: Any) -> None:
        self.got.append(result)
        self.blockCache.readAhead(self.wire, self.content, result.stop)


def test_whatIsReadAheadFails() -> None:
    """A content that fails while a chunk is read ahead keeps nobody from the chunk that has come."""
    blockCache, content = BlockCache(1 << 20), Failing(False)
    wire = Wire(AgreedOptions(), SIZE, RetransmitPolicy())
    waiting = [Waiting(blockCache, wire, content) for _ in range(2)]
    for each in waiting:
        each.wait()
    content.answer()
    chunk = blockCache.chunk(wire, content, 0)
    assert [each.got for each in waiting] == [[chunk], [chunk]]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            blockCache.chunk(wire, content, chunk.stop)


@pytest.mark.parametrize(("raises", "fault"), [(True, ZeroDivisionError), (False, AttributeError)])
def test_aReadThatCannotBegin(raises: bool, fault: type[Exception]) -> None:
    """A content that fails before it reads is asked again by the next one who needs the chunk."""
    blockCache, content = BlockCache(1 << 20), Failing(True, raises)
    wire = Wire(AgreedOptions(), SIZE, RetransmitPolicy())
    for _ in range(2):
        with pytest.raises(fault):
            blockCache.chunk(wire, content, 0)
    content.first = False
    with pytest.raises(ChunkAwaited):
        blockCache.chunk(wire, content, 0)
    content.answer()
    assert blockCache.chunk(wire, content, 0).stop == 256
