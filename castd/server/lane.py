"""
The lane: what a receiver in step will say, and what it gets for it, laid ready.

Most of a transfer is the same exchange over and over: the one receiver acknowledges what was sent, and the next blocks
go out. Its datagram is known before it comes, to the octet; so within a chunk the answers and the images that follow
them stand in two lists, and a block costs a comparison and a send.  Whatever else comes, or does not come, leaves the
lane: the cast is told how far it went, and decides.  Where a chunk ends as foreseen the lane of the next one follows,
and the cast is only told.
"""

from __future__ import annotations

from castd.interfaces import IWire
from castd.server.blockcache import Chunk

#: Lanes kept with a chunk: those who lost nothing share one for each window size.  Who comes with others, by losses or
#: by design, pays for his own.
MOST_LANES = 4


class PreparedSteps:
    """
    The steps through one chunk; shared by all receivers that take the same ones.

    @ivar start: number of the first block of the first step.
    @ivar stride: blocks of a step.
    @ivar answers: what is to be said before each step, and C{None} behind the last.
    @ivar images: what goes out at each step.
    @ivar gap: octets of the header before a block.
    @ivar stop: number of the block after the last step.
    """

    __slots__ = ("answers", "gap", "images", "start", "stop", "stride")

    def __init__(self, wire: IWire, chunk: Chunk, start: int) -> None:
        self.start = start
        self.stride: int = wire.stride
        self.gap: int = chunk.step - wire.blocksize
        self.answers: list[bytes | None] = []
        self.images: list[memoryview] = []
        while (ahead := wire.ahead(start)) is not None and ahead[1] <= chunk.stop:
            answer, stop = ahead
            self.answers.append(answer)
            self.images.append(chunk.slice(start, stop))
            start = stop
        self.stop = start
        self.answers.append(None)

    def numbers(self, steps: int, count: int) -> range:
        """-> the blocks of the first so many steps; C{count} is where the file ends."""
        return range(self.start, min(self.start + steps * self.stride, count))

    def last(self, steps: int, count: int) -> range:
        """-> the blocks of the last of so many steps."""
        start = self.start + (steps - 1) * self.stride
        return range(start, min(start + self.stride, count))


def preparedSteps(wire: IWire, chunk: Chunk, start: int) -> PreparedSteps | None:
    """
    -> the lane that begins with block C{start}; L{None} if there is no step in this chunk.
    """
    if not chunk.start <= start < chunk.stop:
        return None
    key = (start, wire.stride)
    found = chunk.prepared.get(key)
    if found is None:
        found = PreparedSteps(wire, chunk, start)
        if len(chunk.prepared) < MOST_LANES:
            chunk.prepared[key] = found
    return found if found.images else None
