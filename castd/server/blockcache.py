"""
Cache blocks of files with their headers, laid out one behind the other as they go to the kernel.

A I{chunk} is filled by one scattered read, and its headers are written into the gaps; then each block is a slice of it,
and a window is sent by one call.  All casts of the same file with the same headers and block size share chunks: for
many machines that boot one image each block is read and laid out once.  Memory is bounded in octets; a cast keeps a
reference to the chunk that it is sending, even if the cache drops that chunk.

A chunk whose octets have to be waited for (L{IAwaitedContent}) is read in a thread.  Meanwhile all who ask for it get
L{ChunkAwaited}, and go on when it is there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from twisted.python.failure import Failure

from castd import native
from castd.interfaces import IAwaitedContent, IContent, IEqualHeadersWire, IWire

if TYPE_CHECKING:
    from castd.server.prepared import PreparedSteps

#: The most datagrams and octets in a chunk: two windows of 64 usual blocks, so that a receiver in step leaves the fast
#: path for no window.
MOST_BLOCKS, MOST_OCTETS = 256, 256 << 10
#: So many it may have however many casts there are: what the kernel takes in one call (one datagram; UDP_SEGMENT of
#: older kernels).
SHORT_BLOCKS, SHORT_OCTETS = 64, 65507
#: Octets of memory that a block takes besides its own, mainly for its step on the fast path; for blocks of 8 octets
#: this is nearly everything.
BLOCK_COST = 256
#: Octets of memory that a chunk takes besides its blocks.  A client chooses the block size, and so may have one of each
#: size laid out of a file of some octets.
CHUNK_COST = 1200


class Chunk:
    """
    Holds consecutive blocks, laid out with their headers.

    @ivar start: number of the first block.
    @ivar stop: number of the block after the last.
    @ivar step: octets of a datagram with a full block.
    @ivar image: all datagrams, one behind the other.
    @ivar cost: octets of memory, about.
    @ivar fetched: its octets had to be waited for.
    @ivar prepared: steps on the fast path through this chunk, by start and stride, see L{castd.server.prepared}.
    """

    __slots__ = ("cost", "fetched", "image", "prepared", "start", "step", "stop")

    def __init__(self, start: int, stop: int, step: int, image: memoryview) -> None:
        self.start = start
        self.stop = stop
        self.step = step
        self.image = image
        self.cost = len(image) + BLOCK_COST * (stop - start) + CHUNK_COST
        self.fetched = False
        self.prepared: dict[tuple[int, int], PreparedSteps] = {}

    def slice(self, start: int, stop: int) -> memoryview:
        """Return the datagrams of blocks C{start} to C{stop} - 1, all of which must be in this chunk."""
        return self.image[(start - self.start) * self.step : (stop - self.start) * self.step]


def _headers(wire: IWire, start: int, stop: int) -> bytes:
    """Return the headers of these blocks, one behind the other."""
    if IEqualHeadersWire.providedBy(wire):
        return wire.headers(start, stop)
    return b"".join(map(wire.header, range(start, stop)))


class _Blocks:
    """
    Says what a chunk is to have, before its octets are read: blocks whose headers have one length.

    @ivar headers: of all blocks, one behind the other.
    @ivar offset: of the first block in the file.
    @ivar octets: of the file, in all blocks.
    """

    __slots__ = ("blocksize", "headers", "octets", "offset", "start", "stop")

    def __init__(self, wire: IWire, content: IContent, start: int, stop: int) -> None:
        self.headers = _headers(wire, start, stop)
        self.start, self.stop, self.blocksize = start, stop, wire.blocksize
        self.offset = start * wire.blocksize
        self.octets = min(stop * wire.blocksize, content.size) - self.offset

    @property
    def gap(self) -> int:
        """Octets of each header."""
        return len(self.headers) // (self.stop - self.start)

    def chunk(self, image: memoryview) -> Chunk:
        """Return the chunk with these datagrams."""
        return Chunk(self.start, self.stop, self.gap + self.blocksize, image)


class Layout(Protocol):
    """
    Lays out one chunk.

    @ivar buffers: where the octets of the file belong, in their order.
    """

    buffers: Sequence[bytearray | memoryview]

    def chunk(self) -> Chunk:
        """Return the chunk, once the buffers are filled."""


class GapLayout:
    """Has the octets of the file read into the gaps between the headers, one buffer for each block."""

    def __init__(self, blocks: _Blocks) -> None:
        gap, blocksize, headers = blocks.gap, blocks.blocksize, blocks.headers
        step = gap + blocksize
        self._blocks = blocks
        self._image = memoryview(bytearray(len(headers) + blocks.octets))
        for octet in range(gap):
            self._image[octet::step] = headers[octet::gap]
        # The last block of a file may be empty; it needs no buffer.
        self.buffers: Sequence[bytearray | memoryview] = [
            self._image[at : at + blocksize] for at in range(gap, len(self._image), step)
        ]

    def chunk(self) -> Chunk:
        """As L{Layout.chunk}."""
        return self._blocks.chunk(self._image.toreadonly())


class CompiledLayout:
    """
    Has the octets of the file read at once, and copied between the headers by compiled code (L{castd.native}).  That
    takes half of the time: neither has the image to be cleared before, nor is there a buffer for each block.
    """

    def __init__(self, blocks: _Blocks, room: memoryview) -> None:
        """
        @param room: memory for the octets of the file, which is not used for anything else until L{chunk} has returned.
        """
        self._blocks = blocks
        self._content = room[: blocks.octets]
        self.buffers: Sequence[bytearray | memoryview] = [self._content] if blocks.octets else []

    def chunk(self) -> Chunk:
        """As L{Layout.chunk}."""
        blocks = self._blocks
        image = native.layOut(blocks.headers, self._content, blocks.stop - blocks.start, blocks.blocksize)
        return blocks.chunk(memoryview(image))


class ChunkReader(Protocol):
    """Waits for a chunk."""

    def chunkRead(self, awaited: AwaitedChunk, result: Chunk | Failure) -> None:
        """Go on with a chunk that was read; or with the failure to read it, mostly ContentChanged."""


class AwaitedChunk:
    """
    Stands for a chunk that is being read.

    @ivar readers: those who wait for it.
    @ivar result: the chunk, or why it could not be read; L{None}: it is being read.
    """

    __slots__ = ("readers", "result")

    def __init__(self) -> None:
        self.readers: dict[ChunkReader, None] = {}
        self.result: Chunk | Failure | None = None


class ChunkAwaited(Exception):
    """
    The octets of a chunk have to be waited for.

    @ivar awaited: where to wait.
    """

    def __init__(self, awaited: AwaitedChunk) -> None:
        super().__init__()
        self.awaited = awaited


def _bounds(wire: IWire, number: int, most: Callable[[int], int]) -> tuple[int, int]:
    """
    Return where the chunk of a block starts and stops: all of its headers have one length.

    @param most: -> the most blocks of a chunk, a power of two, by the octets of a datagram; so a chunk can be halved
        until it ends where headers get longer (SLAM's do at blocks 32 and 8192).
    """
    if IEqualHeadersWire.providedBy(wire):
        return _aligned(wire, number, most(wire.headerLength + wire.blocksize))
    length = most(len(wire.header(number)) + wire.blocksize)
    while True:
        start, stop = _aligned(wire, number, length)
        if length == 1 or len(wire.header(start)) == len(wire.header(stop - 1)):
            return start, stop
        length >>= 1


def _aligned(wire: IWire, number: int, length: int) -> tuple[int, int]:
    """Return where a chunk of so many blocks starts and stops that has this one."""
    start = number - number % length
    return start, start + length if wire.count is None else min(start + length, wire.count)


class Readers(Protocol):
    """
    Describes what is known of those who read chunks.

    @ivar casts: how many casts there are.
    """

    casts: int


class NoReaders:
    """Counts no casts."""

    casts = 0


NO_READERS: Final = NoReaders()


class BlockCache:
    """
    Keeps chunks; the least recently used is dropped first.

    @ivar limit: octets of memory that the chunks may take; the chunk asked for last is kept in any case.
    @ivar octets: octets of memory that the chunks take, about, with the memory that they are read into.
    @ivar compiled: compiled code lays out chunks that can be read at once.
    """

    def __init__(self, limit: int, readers: Readers = NO_READERS) -> None:
        self.limit = limit
        self.octets = 0
        self.compiled = native.NATIVE
        self._readers = readers
        self._room = memoryview(b"")
        self._chunks: OrderedDict[Hashable, Chunk] = OrderedDict()
        self._awaited: dict[Hashable, AwaitedChunk] = {}

    def adjust(self, limit: int) -> None:
        """Use another limit from now on; what is beyond it is dropped."""
        self.limit = limit
        self._shrink()

    def chunk(self, wire: IWire, content: IContent, number: int) -> Chunk:
        """
        Find the chunk of a block, or lay it out.

        @raise ChunkAwaited: it has to be waited for.
        @raise ContentChanged: the file has changed.
        """
        key, start, stop = self._place(wire, content, number)
        chunk = self._chunks.get(key)
        if chunk is None:
            return self._layOut(key, wire, content, start, stop)
        self._chunks.move_to_end(key)
        if chunk.fetched:
            self.readAhead(wire, content, stop)
        return chunk

    def _place(self, wire: IWire, content: IContent, number: int) -> tuple[Hashable, int, int]:
        """Return the key of the chunk of a block, and where it starts and stops."""
        start, stop = _bounds(wire, number, self._mostBlocks)
        return (content.version, wire.headerKey, wire.blocksize, start, stop), start, stop

    def _mostBlocks(self, step: int) -> int:
        """
        Return how many blocks a chunk has at most whose datagrams have C{step} octets, a power of two.

        Each cast may be in another chunk, which it keeps even if the cache drops it, and may have another one read
        ahead.  All of these are to fit into the memory, or what was read ahead would be dropped before it is used.
        """
        share = (self.limit - MOST_OCTETS) // max(1, 2 * self._readers.casts)
        fitting = min(MOST_BLOCKS, MOST_OCTETS // step, (share - CHUNK_COST) // (step + BLOCK_COST))
        return 1 << max(1, fitting, min(SHORT_BLOCKS, SHORT_OCTETS // step)).bit_length() - 1

    def _layOut(self, key: Hashable, wire: IWire, content: IContent, start: int, stop: int) -> Chunk:
        """Lay out a chunk that is not in the cache.  Raises as L{chunk}."""
        awaited = self._awaited.get(key)
        if awaited is None:
            blocks = _Blocks(wire, content, start, stop)
            layout = self._layout(blocks)
            if not IAwaitedContent.providedBy(content):
                content.readInto(layout.buffers, blocks.offset)
                return self._keep(key, layout.chunk())
            if content.readAtHand(layout.buffers, blocks.offset):
                return self._keep(key, layout.chunk())
            # A thread that still reads must not meet another chunk in its memory.
            layout = GapLayout(blocks)
            awaited = AwaitedChunk()
            content.fetch(layout.buffers, blocks.offset).addBoth(self._fetched, key, layout, awaited)
            # Only now: what a plugin returns that is no Deferred would be waited for by all who come later.
            if awaited.result is None:
                self._awaited[key] = awaited
        if isinstance(awaited.result, Failure):
            awaited.result.raiseException()
        if isinstance(awaited.result, Chunk):
            return awaited.result
        raise ChunkAwaited(awaited)

    def _layout(self, blocks: _Blocks) -> Layout:
        """Return what lays out a chunk that can be read at once."""
        if not self.compiled:
            return GapLayout(blocks)
        if blocks.octets > len(self._room):
            self.octets += blocks.octets - len(self._room)
            self._room = memoryview(bytearray(blocks.octets))
        return CompiledLayout(blocks, self._room)

    def _fetched(self, result: Failure | None, key: Hashable, layout: Layout, awaited: AwaitedChunk) -> None:
        """Keep a chunk that was read, and hand it to those who wait for it."""
        self._awaited.pop(key, None)
        if isinstance(result, Failure):
            awaited.result = result
        else:
            awaited.result = self._keep(key, layout.chunk())
            awaited.result.fetched = True
        readers, awaited.readers = awaited.readers, {}
        for reader in readers:
            reader.chunkRead(awaited, awaited.result)

    def readAhead(self, wire: IWire, content: IContent, number: int) -> None:
        """
        Begin to read the chunk that begins with this block, since the one before it had to be waited for; if there is
        one.
        """
        if wire.count is not None and number >= wire.count:
            return
        # Whatever is raised, whoever needs the chunk meets it again; who has another one already does not.
        with suppress(BaseException):
            key, start, stop = self._place(wire, content, number)
            if key not in self._chunks:
                self._layOut(key, wire, content, start, stop)

    def _keep(self, key: Hashable, chunk: Chunk) -> Chunk:
        """Add a chunk, and drop the least recently used ones if there are too many."""
        self._chunks[key] = chunk
        self.octets += chunk.cost
        self._shrink()
        return chunk

    def _shrink(self) -> None:
        while self.octets > self.limit and len(self._chunks) > 1:
            _, old = self._chunks.popitem(last=False)
            self.octets -= old.cost
