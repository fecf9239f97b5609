"""
The fast path of a cast: a lone receiver that says what was foreseen gets what lies ready (see L{castd.lane}).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from castd.cast.turn import Turn
from castd.errors import ContentChanged
from castd.interfaces import IContent, ISite, IWire
from castd.lane import Lane, lane
from castd.layout import Chunk
from castd.request import Peer


class Stepping(DatagramProtocol):
    """
    The half of a L{castd.protocol.CastProtocol} that all blocks in the lane go through.  It is a base class, not a
    part, so that a block costs no call more.

    @ivar blocks, repeats, octets: datagrams with blocks, those that were repetitions, octets of them.
    @ivar due, queued: see L{castd.alarms.Ringable}.
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
        self.queued: tuple[float, int] | None = None
        self._seconds: Callable[[], float] = self.site.reactor.seconds
        self._turn = turn
        self._chunk: Chunk | None = None
        self._lane: Lane | None = None
        self._answer: bytes | None = None
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
            lane, steps, now = self._lane, self._steps, self._seconds()
            try:
                self._burst(lane.images[steps])  # type: ignore[union-attr]
            except OSError:
                self._hear(datagram, addr)
                return
            self._steps = steps = steps + 1
            self._answer = lane.answers[steps]  # type: ignore[union-attr]
            self._steppedAt = now
            self.due = now + self._interval
        elif self._lane is None or not self._foreseen(self._lane, datagram):
            self._hear(datagram, addr)

    def _foreseen(self, lane: Lane, datagram: bytes) -> bool:
        try:
            return self._firstStep(lane, datagram)
        except Exception:
            self._fail()
            return True

    def _enterLane(self) -> None:
        """Everything is out and waits for an answer: lay ready what follows, if it can be foreseen."""
        sentAt = self._turn.inStep(self._stop)  # type: ignore[union-attr]
        if sentAt is None or self._chunk is None:
            return
        self._lane = lane(self.wire, self._chunk, self._stop)
        if self._lane is not None:
            self._steppedAt = sentAt
            step = self._chunk.step
            self._burst = self.transport.burst(step, step * self._lane.stride)  # type: ignore[union-attr]

    def _firstStep(self, old: Lane, datagram: bytes) -> bool:
        """
        Is this the answer that begins a lane, or leads from the last step of one into the next chunk's?  Then that step
        is taken, for a sixth of what it would cost to ask the cast; and the answer is measured, for all in this lane.
        """
        if not self._steps:
            following: Lane | None = old
            if datagram != old.answers[0]:
                return False
        elif self._steps < len(old.images):
            return False
        else:
            ahead = self.wire.ahead(old.stop)
            if ahead is None or datagram != ahead[0]:
                return False
            following = self._nextLane(old)
        try:
            if following is None:
                return False
            self._burst(following.images[0])
        except OSError:
            return False  # the cast will meet the same, and decide
        now = self._seconds()
        if self._steps:
            self._stepped(old)
        interval = self._turn.measured(now - self._steppedAt) * self._slack  # type: ignore[union-attr]
        self._interval, self._lane, self._answer = interval, following, following.answers[1]
        self._steps, self._steppedAt = 1, now
        self.site.alarms.set(self, now + interval)
        return True

    def _nextLane(self, old: Lane) -> Lane | None:
        try:
            following = lane(self.wire, self.chunk(old.stop), old.stop)
        except ContentChanged:
            return None
        return following if following is not None and following.gap == old.gap else None

    def _stepped(self, lane: Lane) -> None:
        """Count what went out by the steps taken."""
        numbers, octets = self._taken(lane)
        self.sent(numbers.start, len(numbers), octets, False)

    def _taken(self, lane: Lane) -> tuple[range, int]:
        """-> the blocks that went out by the steps taken, and their octets."""
        numbers, blocksize = lane.numbers(self._steps, self.wire.count), self.wire.blocksize
        return numbers, min(numbers.stop * blocksize, self.content.size) - numbers.start * blocksize

    def sofar(self) -> tuple[int, int, int]:
        """-> C{blocks}, C{repeats} and C{octets} with the steps that nobody was told of yet; no lane is left for it."""
        if self._lane is None or not self._steps:
            return self.blocks, self.repeats, self.octets
        numbers, octets = self._taken(self._lane)
        return self.blocks + len(numbers), self.repeats, self.octets + octets

    def _leaveLane(self) -> None:
        """Tell the cast how far it went."""
        lane, steps = self._lane, self._steps
        if lane is None or self._turn is None:
            return
        if steps:
            self._stepped(lane)
            self._turn.followed(lane.last(steps, self.wire.count), self._steppedAt)
        self._lane = self._answer = None
        self._steps = 0

    def chunk(self, number: int) -> Chunk:
        """
        -> the wire image that block C{number} is in.

        @raise ContentChanged: the file is not what it was.
        """
        chunk = self._chunk
        if chunk is None or not chunk.start <= number < chunk.stop:
            chunk = self._chunk = self.site.layouts.chunk(self.wire, self.content, number)
        return chunk

    def sent(self, start: int, count: int, octets: int, again: bool) -> None:
        """From a delivery: so much went out."""
        self.blocks += count
        self.octets += octets
        self._stop = start + count
        if again:
            self.repeats += count
