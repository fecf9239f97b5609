"""
Cache blocks of files with their headers, laid out one behind the other as they go to the kernel.

A I{chunk} is filled by one scattered read, and its headers are written into the gaps; then each block is a slice of it,
and a window is sent by one call.  All casts of the same file with the same headers and block size share chunks: for
many machines that boot one image each block is read and laid out once.  Memory is bounded in octets; a cast keeps a
reference to the chunk that it is sending, even if the cache drops that chunk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

from castd.interfaces import IContent, IWire

if TYPE_CHECKING:
    from castd.server.fastpath import PreparedSteps

#: The most datagrams in a chunk, as many as the kernel takes in one call (UDP_SEGMENT, older kernels).
MOST_BLOCKS = 64
#: The most octets in a chunk: one UDP datagram's worth, the kernel's limit for one call.
MOST_OCTETS = 65507
#: Octets of memory that a block takes besides its own, mainly for its step on the fast path; for blocks of 8 octets
#: this is nearly everything.
BLOCK_COST = 256


def chunkLength(step: int) -> int:
    """
    Return how many blocks a chunk has at most whose datagrams have C{step} octets: a power of two, so that a chunk can
    be halved until it ends where headers get longer (SLAM's do at blocks 32 and 8192).
    """
    fitting = max(1, min(MOST_BLOCKS, MOST_OCTETS // step))
    return 1 << fitting.bit_length() - 1


class Chunk:
    """
    Holds consecutive blocks, laid out with their headers.

    @ivar start: number of the first block.
    @ivar stop: number of the block after the last.
    @ivar step: octets of a datagram with a full block.
    @ivar image: all datagrams, one behind the other.
    @ivar cost: octets of memory, about.
    @ivar prepared: steps on the fast path through this chunk, by start and stride, see L{castd.server.fastpath}.
    """

    __slots__ = ("cost", "image", "prepared", "start", "step", "stop")

    def __init__(self, start: int, stop: int, step: int, image: memoryview) -> None:
        self.start = start
        self.stop = stop
        self.step = step
        self.image = image
        self.cost = len(image) + BLOCK_COST * (stop - start)
        self.prepared: dict[tuple[int, int], PreparedSteps] = {}

    def slice(self, start: int, stop: int) -> memoryview:
        """Return the datagrams of blocks C{start} to C{stop} - 1, all of which must be in this chunk."""
        return self.image[(start - self.start) * self.step : (stop - self.start) * self.step]


def layOut(wire: IWire, content: IContent, start: int, stop: int) -> Chunk:
    """
    Lay out the blocks C{start} to C{stop} - 1, whose headers must have one length.

    @raise ContentChanged: the file has changed.
    """
    headers = [wire.header(number) for number in range(start, stop)]
    gap, blocksize = len(headers[0]), wire.blocksize
    step = gap + blocksize
    octets = min(stop * blocksize, content.size) - start * blocksize
    image = memoryview(bytearray((stop - start) * gap + octets))
    buffers = []
    for index, header in enumerate(headers):
        offset = index * step
        image[offset : offset + gap] = header
        buffers.append(image[offset + gap : offset + step])
    # The last block of a file may be empty; it needs no buffer.
    content.readInto([buffer for buffer in buffers if len(buffer)], start * blocksize)
    return Chunk(start, stop, step, image.toreadonly())


def _bounds(wire: IWire, number: int) -> tuple[int, int]:
    """Return where the chunk of a block starts and stops: all of its headers have one length."""
    length, count = chunkLength(len(wire.header(number)) + wire.blocksize), wire.count
    while True:
        start = number - number % length
        stop = start + length if count is None else min(start + length, count)
        if length == 1 or len(wire.header(start)) == len(wire.header(stop - 1)):
            return start, stop
        length >>= 1


class BlockCache:
    """
    Keeps chunks; the least recently used is dropped first.

    @ivar limit: octets of memory that the chunks may take; the chunk asked for last is kept in any case.
    @ivar octets: octets of memory that the chunks take, about.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.octets = 0
        self._chunks: OrderedDict[Hashable, Chunk] = OrderedDict()

    def chunk(self, wire: IWire, content: IContent, number: int) -> Chunk:
        """
        Find the chunk of a block, or lay it out.

        @raise ContentChanged: the file has changed.
        """
        start, stop = _bounds(wire, number)
        key = (content.version, wire.headerKey, wire.blocksize, start)
        chunk = self._chunks.get(key)
        if chunk is not None:
            self._chunks.move_to_end(key)
            return chunk
        chunk = layOut(wire, content, start, stop)
        self._chunks[key] = chunk
        self.octets += chunk.cost
        while self.octets > self.limit and len(self._chunks) > 1:
            _, old = self._chunks.popitem(last=False)
            self.octets -= old.cost
        return chunk
