"""
Prepare the exchanges through a chunk of a file that a receiver in step goes through, as two lists: the answers to come,
and the datagrams that follow each of them.

They depend on the file, the headers, the block size and the window only, so all receivers of that file share them; the
chunk keeps them.  L{castd.server.fastpath} takes them.
"""

from __future__ import annotations

from castd.interfaces import IEqualStepsWire, IWire
from castd.native import StepLists
from castd.server.blockcache import Chunk

#: Prepared steps kept with a chunk: receivers that lost nothing share one for each window size.  Those that begin
#: elsewhere, by losses or by design, have their own.
MOST_PREPARED = 4


class PreparedSteps(StepLists):
    """
    The steps through one chunk, shared by all receivers that take the same ones.

    @ivar start: number of the first block of the first step.
    @ivar stop: number of the block after the last step.
    @ivar stride: blocks of a step.
    @ivar gap: octets of the header before a block.
    """

    __slots__ = ("gap", "start", "stop", "stride")

    def __init__(self, start: int, stride: int, gap: int) -> None:
        self.start = self.stop = start
        self.stride = stride
        self.gap = gap
        self.answers = []
        self.images = []

    def after(self, start: int) -> PreparedSteps | None:
        """Return the steps from block C{start} on; L{None}: no step begins there."""
        skipped, rest = divmod(start - self.start, self.stride)
        if skipped < 0 or rest or skipped >= len(self.images):
            return None
        made = PreparedSteps(start, self.stride, self.gap)
        made.stop = self.stop
        made.answers, made.images = self.answers[skipped:], self.images[skipped:]
        return made

    def numbers(self, steps: int, end: int) -> range:
        """Return the blocks of the first so many steps; C{end} is the count of all blocks of the file."""
        return range(self.start, min(self.start + steps * self.stride, end))

    def last(self, steps: int, end: int) -> range:
        """Return the blocks of the last of so many steps."""
        start = self.start + (steps - 1) * self.stride
        return range(start, min(start + self.stride, end))


#: No step is prepared: the receiver is not on the fast path.
NO_STEPS = PreparedSteps(0, 0, 0)


def _prepare(wire: IWire, chunk: Chunk, start: int) -> PreparedSteps:
    if IEqualStepsWire.providedBy(wire):
        return _prepareEqual(wire, chunk, start)
    made = PreparedSteps(start, wire.stride, chunk.step - wire.blocksize)
    while (expected := wire.expectedAnswer(start)) is not None and expected[1] <= chunk.stop:
        answer, stop = expected
        made.answers.append(answer)
        made.images.append(chunk.slice(start, stop))
        start = stop
    made.stop = start
    made.answers.append(None)
    return made


def _prepareEqual(wire: IEqualStepsWire, chunk: Chunk, start: int) -> PreparedSteps:
    """Prepare all steps by two slices: a lone receiver takes each of them but once, so they have to be cheap."""
    stride, step = wire.stride, chunk.step
    made = PreparedSteps(start, stride, step - wire.blocksize)
    # A window that goes on in the next chunk is none of this one's; the last window of the file may be shorter.
    made.stop = chunk.stop if chunk.stop == wire.count else chunk.stop - (chunk.stop - start) % stride
    made.answers = [*wire.expectedAnswers(start, made.stop), None]
    first, end = (start - chunk.start) * step, (made.stop - chunk.start) * step
    made.images = [chunk.image[at : at + stride * step] for at in range(first, end, stride * step)]
    return made


def preparedSteps(wire: IWire, chunk: Chunk, start: int) -> PreparedSteps:
    """
    Return the steps through a chunk that begin with block C{start}; L{NO_STEPS}: there is none.
    """
    if not chunk.start <= start < chunk.stop:
        return NO_STEPS
    key = (start, wire.stride)
    found = chunk.prepared.get(key)
    if found is None:
        # After a loss a receiver goes on at any step: those that follow are mostly prepared.
        alike = (each.after(start) for (_, stride), each in chunk.prepared.items() if stride == wire.stride)
        found = next(filter(None, alike), None) or _prepare(wire, chunk, start)
        if len(chunk.prepared) < MOST_PREPARED:
            chunk.prepared[key] = found
    return found if found.images else NO_STEPS
