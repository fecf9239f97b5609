"""
The fast path of a cast: a lone receiver that says what was foreseen gets what lies ready (see L{castd.server.lane}).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from castd.cast.turn import Turn
from castd.errors import ContentChanged
from castd.interfaces import IContent, ISite, IWire
from castd.request import Peer
from castd.server.blockcache import Chunk
from castd.server.lane import PreparedSteps, preparedSteps


class FastPath(DatagramProtocol):
    """
    The half of a L{castd.server.cast_protocol.CastProtocol} that all blocks in the lane go through.  It is a base
    class, not a part, so that a block costs no call more.

    @ivar blocks, repeats, octets: datagrams with blocks, those that were repetitions, octets of them.
    @ivar due, heapEntry: see L{castd.net.timers.TimerTarget}.
    """

    noisy = False

    def __init__(self, site: ISite, wire: IWire, content: IContent, turn: Turn | None) -> None:
        """
        @param turn: the cast that is told of the steps when the lane is left; L{None}: there is never a lane.
        """
        self.site: Any = site
        self.wire: Any = wire
        self.content: Any = content
        self.blocks = self.repeats = self.octets = 0
        self.due: float | None = None
        self.heapEntry: tuple[float, int] | None = None
        self._seconds: Callable[[], float] = self.site.reactor.seconds
        self._turn = turn
        self._chunk: Chunk | None = None
        self._prepared: PreparedSteps | None = None
        self._answer: bytes | None = None  # what a settled receiver says next
        self._begins: bytes | None = None  # how one that was greeted answers
        self._burst: Any = None
        self._steps = 0
        self._steppedAt = self._interval = 0.0
        self._slack = 1.0
        self._stop = 0

    @abstractmethod
    def _hear(self, datagram: bytes, peer: Peer) -> None:
        """All that was not foreseen."""

    @abstractmethod
    def _fail(self) -> None:
        """A fault of ours, or of a plugin's, which has just been raised."""

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """From the transport: somebody's datagram at this cast's port."""
        if datagram == self._answer:
            # The lane; all of Python's part in a lockstep block lies in these lines.
            preparedSteps, steps, now = self._prepared, self._steps, self._seconds()
            try:
                self._burst(preparedSteps.images[steps])  # type: ignore[union-attr]
            except OSError:
                self._hear(datagram, addr)
                return
            self._steps = steps = steps + 1
            self._answer = preparedSteps.answers[steps]  # type: ignore[union-attr]
            self._steppedAt = now
            self.due = now + self._interval
        elif not self._foreseen(datagram):
            self._hear(datagram, addr)

    def _foreseen(self, datagram: bytes) -> bool:
        try:
            if self._prepared is not None:
                return self._measuredStep(self._prepared, datagram)
            return datagram == self._begins and self._begin()
        except Exception:
            self._fail()
            return True

    def _awaitFirst(self) -> None:
        """
        Somebody was greeted: the answer begins a lane, if nothing else comes before it.  Not where it asks for a
        window: a socket that takes a part of that is the cast's concern.
        """
        ahead = self.wire.ahead(0) if self.wire.stride == 1 else None
        if ahead is not None and self._turn.announced():  # type: ignore[union-attr]
            self._begins = ahead[0]

    def _begin(self) -> bool:
        """
        The greeting is answered: the first blocks go out, for a fraction of what it would cost to ask the cast.

        @return: whether they did.
        """
        self._begins = None
        try:
            first = preparedSteps(self.wire, self.chunk(0), 0)
        except ContentChanged:
            return False
        if first is None:
            return False
        self._burst = self._burstFor(first)
        try:
            self._burst(first.images[0])
        except OSError:
            return False  # the cast will meet the same, and decide
        now = self._seconds()
        turn: Any = self._turn
        self._stands(first, 1, now, turn.begun(first.numbers(1, self.wire.count), now))
        return True

    def _stands(self, preparedSteps: PreparedSteps, steps: int, now: float, interval: float) -> None:
        """So many steps of this lane are taken, the last one now; without an answer the alarm rings."""
        self._prepared, self._steps, self._steppedAt = preparedSteps, steps, now
        self._interval = interval * self._slack
        self.site.timers.set(self, now + self._interval)

    def _enterFastPath(self) -> None:
        """Everything is out and waits for an answer: lay ready what follows, if it can be foreseen."""
        sentAt = self._turn.inStep(self._stop)  # type: ignore[union-attr]
        if sentAt is None or self._chunk is None:
            return
        self._prepared = preparedSteps(self.wire, self._chunk, self._stop)
        if self._prepared is not None:
            self._steppedAt = sentAt
            self._burst = self._burstFor(self._prepared)

    def _burstFor(self, preparedSteps: PreparedSteps) -> Callable[[Any], object]:
        step = self._chunk.step  # type: ignore[union-attr]
        return self.transport.burstWriter(step, step * preparedSteps.stride)  # type: ignore[no-any-return,union-attr]

    def _measuredStep(self, old: PreparedSteps, datagram: bytes) -> bool:
        """
        Is this the answer foreseen, in a lane or from its last step into the next chunk's?  Then that step is taken,
        for a sixth of what it would cost to ask the cast; and the answer is measured, for all that follow in this lane
        if there is little more to learn.
        """
        following: PreparedSteps | None = old
        steps = self._steps
        if steps < len(old.images):
            if datagram != old.answers[steps]:
                return False
        else:
            ahead = self.wire.ahead(old.stop)
            if ahead is None or datagram != ahead[0]:
                return False
            following, steps = self._nextLane(old), 0
        try:
            if following is None:
                return False
            self._burst(following.images[steps])
        except OSError:
            return False  # the cast will meet the same, and decide
        now = self._seconds()
        if following is not old:
            self._stepped(old)
        turn: Any = self._turn
        self._stands(following, steps + 1, now, turn.measured(now - self._steppedAt))
        self._answer = following.answers[steps + 1] if turn.settled else None
        return True

    def _nextLane(self, old: PreparedSteps) -> PreparedSteps | None:
        try:
            following = preparedSteps(self.wire, self.chunk(old.stop), old.stop)
        except ContentChanged:
            return None
        return following if following is not None and following.gap == old.gap else None

    def _stepped(self, preparedSteps: PreparedSteps) -> None:
        """Count what went out by the steps taken."""
        numbers, octets = self._taken(preparedSteps)
        self.sent(numbers.start, len(numbers), octets, False)

    def _taken(self, preparedSteps: PreparedSteps) -> tuple[range, int]:
        """-> the blocks that went out by the steps taken, and their octets."""
        numbers, blocksize = preparedSteps.numbers(self._steps, self.wire.count), self.wire.blocksize
        return numbers, min(numbers.stop * blocksize, self.content.size) - numbers.start * blocksize

    def progress(self) -> tuple[int, int, int]:
        """-> C{blocks}, C{repeats} and C{octets}, with the steps on the fast path that the cast was not told of yet."""
        if self._prepared is None or not self._steps:
            return self.blocks, self.repeats, self.octets
        numbers, octets = self._taken(self._prepared)
        return self.blocks + len(numbers), self.repeats, self.octets + octets

    def _leaveFastPath(self) -> None:
        """Tell the cast how far it went."""
        self._begins = None
        preparedSteps, steps = self._prepared, self._steps
        if preparedSteps is None or self._turn is None:
            return
        if steps:
            self._stepped(preparedSteps)
            self._turn.followed(preparedSteps.last(steps, self.wire.count), self._steppedAt)
        self._dropFastPath()

    def _dropFastPath(self) -> None:
        self._prepared = self._answer = self._begins = self._burst = None
        self._steps = 0

    def chunk(self, number: int) -> Chunk:
        """
        -> the wire image that block C{number} is in.

        @raise ContentChanged: the file is not what it was.
        """
        chunk = self._chunk
        if chunk is None or not chunk.start <= number < chunk.stop:
            chunk = self._chunk = self.site.blockCache.chunk(self.wire, self.content, number)
        return chunk

    def sent(self, start: int, count: int, octets: int, again: bool) -> None:
        """From a delivery: so much went out."""
        self.blocks += count
        self.octets += octets
        self._stop = start + count
        if again:
            self.repeats += count
