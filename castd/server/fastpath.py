"""
Serve the only receiver of a cast from prepared lists while its answers are as predicted: the fast path.

Theory of operation.  Most of a TFTP transfer is one exchange over and over: the one receiver acknowledges all that was
sent, and the next blocks go out, one of them in lockstep, a window of them with C{windowsize} (RFC 7440).  A receiver
that does just that is I{in step}.  Its next datagram is known before it comes, to the octet: an ACK has nothing in it
but the number of the last block.  The wire predicts it (C{IWire.expectedAnswer}).

Therefore, while a receiver is in step, the exchanges through a chunk of the file (L{castd.server.blockcache}) are
prepared (L{castd.server.prepared}): the answers to come, and the datagrams that follow each of them.  A step is then a
comparison of the datagram with the answer and one send, in L{FastPath.datagramReceived}; nothing is parsed, no event is
made, and the cast (L{castd.cast.turn.Turn}) is not asked.  Where the compiled loop is built (L{castd.native}), it takes
such a step without a line of Python, and keeps the state that this module works with: L{StepState}.

The master of a group (RFC 2090) is served in the same way while the others only listen, with two
differences: each of its answers is measured, since what the cast decides for the others depends on it; and its cast
says beforehand up to when, and how far, it may be followed (L{MasterTerms<castd.cast.turn.MasterTerms>}).  The times of
its answers are only noted (L{MasterSteps<castd.native.steps.MasterSteps>}), and the cast is told of them later: at the
end of a chunk, when the fast path is left, and when the shortest interval that they may amount to has gone by.

How a receiver gets onto the fast path:

 - After its OACK (C{_predictFirstAnswer}): its answer takes the first step.
 - Whenever its cast has sent everything that was asked for and waits for the answer (C{_enterFastPath}).

While it is there:

 - The timer is postponed with each step.  If it expires, an answer is missing, and the cast decides what to repeat.
 - Until the round-trip time is known well (C{Turn.rttConverged}) each answer is measured (C{_measuredStep}); from then
   on C{_expected} is set, and a step is the comparison and the send only.
 - At the end of a chunk the steps through the next one follow, if the answer is the one that was expected.

What leaves the fast path (C{_leaveFastPath}): any other datagram, the timer, a full socket, a new request, the end of
the file, the end of the cast. C{Turn.fastPathLeft} then tells the cast which blocks were sent last and when, so that it
has the state that it would have if it had sent them all itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from castd.cast.lateturn import LateTurn
from castd.cast.policy import MIN_RTO
from castd.cast.turn import MasterTerms, Turn
from castd.errors import ContentChanged
from castd.interfaces import IContent, IDatagramPort, ISite, IWire
from castd.native import MasterSteps, StepState
from castd.request import Peer
from castd.server.blockcache import Chunk, ChunkAwaited
from castd.server.prepared import NO_STEPS, PreparedSteps, preparedSteps

#: The largest random delay that is added to an interval, as a part of the interval.
JITTER = 0.1


def _nothingPrepared(image: memoryview) -> None:
    """@raise BlockingIOError: always, as no step is prepared."""
    raise BlockingIOError


class FastPath(StepState, DatagramProtocol):
    """
    Takes the prepared steps for L{CastProtocol<castd.server.cast_protocol.CastProtocol>}.  It is a base class and not
    an object of its own, so that a block needs no additional call.

    @ivar blocks: how many datagrams with blocks were sent.
    @ivar repeats: how many of C{blocks} were repetitions.
    @ivar octets: octets of file content in C{blocks}.
    @ivar firstBlockAt: the instant at which the first block was ready to be sent; L{None}: none was.
    @ivar due, heapEntry: see L{castd.net.timers.TimerTarget}.
    """

    # A cast has more attributes than the 30 that CPython 3.11 keeps without a dictionary; with these in slots a block
    # costs a twentieth less, and a small file as well.
    __slots__ = (
        "_chunk",
        "_end",
        "_firstAnswer",
        "_jitter",
        "_late",
        "_nextBlock",
        "_terms",
        "_turn",
        "blocks",
        "content",
        "firstBlockAt",
        "heapEntry",
        "octets",
        "repeats",
        "site",
        "wire",
    )

    noisy = False
    #: The L{IDatagramPort} while it is connected.  Twisted's own declaration allows only Twisted's transports.
    transport: Any = None

    def __init__(self, site: ISite, wire: IWire, content: IContent) -> None:
        self.site = site
        self.wire = wire
        self.content = content
        self.blocks = self.repeats = self.octets = 0
        self.due = None
        self.firstBlockAt: float | None = None
        self.heapEntry: tuple[float, int] | None = None
        self._seconds = site.reactor.seconds
        # The cast that is told of the steps when the fast path is left, and what stands in for it until it is made.
        # Without both there is no fast path.
        self._turn: Turn | None = None
        self._late: LateTurn | None = None
        self._end = wire.count or 0  # blocks of the file; a code has no fast path
        self._chunk: Chunk | None = None
        self._prepared: PreparedSteps = NO_STEPS
        self._steps = 0
        self._expected = None  # until answers need not be measured any more
        self._firstAnswer: bytes | None = None  # the answer to an OACK that takes the first step
        self._terms: MasterTerms | None = None  # how the master of a group is served; None: it is not
        self._master = None
        self._sendStep = _nothingPrepared
        self._steppedAt = self._interval = 0.0
        self._jitter = 1.0  # factor of the interval of the timer
        self._nextBlock = 0  # the number after the last block that was sent

    @abstractmethod
    def _slowPath(self, datagram: bytes, peer: Peer) -> None:
        """Parse a datagram that was not predicted, and let the cast decide."""

    def stepRefused(self, datagram: bytes, peer: Peer) -> None:
        """As L{StepState.stepRefused}."""
        self._slowPath(datagram, peer)

    @abstractmethod
    def _askedTurn(self) -> Turn | None:
        """Return the cast that is to be told of the steps, made now if there was none; L{None}: there is no such."""

    @abstractmethod
    def _sendRest(self, numbers: range) -> None:
        """Send these blocks, which the cast has sent as far as it knows, as soon as the socket takes them."""

    @abstractmethod
    def timerExpired(self) -> None:
        """Go on, since the timer has rung; see L{castd.net.timers.TimerTarget}."""

    @abstractmethod
    def _masterHeard(self, peer: Peer) -> None:
        """Note that the master of a group, at this address, has answered steps of the fast path."""

    @abstractmethod
    def _fail(self) -> None:
        """Log the exception that is being handled, a fault of castd or of a plugin, and end this cast."""

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """Handle a datagram at this cast's port."""
        if datagram == self._expected:
            # The fast path: for a lockstep block no other Python code is run than these lines.
            prepared, steps, seconds, send = self._prepared, self._steps, self._seconds, self._sendStep
            now = seconds()
            try:
                send(prepared.images[steps])
            except OSError:
                self._slowPath(datagram, addr)
                return
            self._steps = steps = steps + 1
            self._expected = prepared.answers[steps]
            self._steppedAt = now
            self.due = now + self._interval
        elif self._master is not None and self._notedStep(self._master, datagram, addr):
            pass
        elif not self._tryStep(datagram, addr):
            self._slowPath(datagram, addr)

    def _notedStep(self, master: MasterSteps, datagram: bytes, addr: Peer) -> bool:
        """
        Take a step for the master of a group, if this is its predicted answer, and only note how long that took.

        @return: whether nothing is left to do.
        """
        prepared, steps = self._prepared, self._steps
        if steps >= master.stop or datagram != prepared.answers[steps] or addr != master.peer:
            return False
        now = self._seconds()
        seconds = now - self._steppedAt
        if seconds > master.longest or now >= master.until:
            return False
        try:
            self._sendStep(prepared.images[steps])
        except OSError:
            self._slowPath(datagram, addr)
            return True
        master.drawn = master.draw()
        master.noted.append(seconds)
        self._steps = steps + 1
        self._steppedAt = now
        self.due = now + self._interval
        return True

    def _tryStep(self, datagram: bytes, addr: Peer) -> bool:
        """Return whether this datagram was the predicted one, and its step is taken."""
        turn = self._turn or self._late
        if turn is None:
            return False
        try:
            if self._terms is not None and isinstance(turn, Turn):
                return addr == self._terms.peer and self._masterStep(turn, self._terms, datagram)
            if self._prepared is not NO_STEPS:
                return self._measuredStep(turn, self._prepared, datagram)
            return datagram == self._firstAnswer and self._firstStep(turn)
        except BaseException:
            self._fail()
            return True

    def _predictFirstAnswer(self, turn: Turn | LateTurn) -> None:
        """
        Predict the answer to an OACK that was just sent: it takes the first step, if no other datagram arrives before.
        """
        alone = self.wire.group is None and self.wire.stride > 0
        expected = self.wire.expectedAnswer(0) if alone else None
        if expected is not None and turn.mayBeginFastPath():
            self._firstAnswer = expected[0]

    def _firstStep(self, turn: Turn | LateTurn) -> bool:
        """
        Send the first blocks after the answer to the OACK, for a fraction of what it would cost to ask the cast.  If
        the socket takes only a part of a window, the cast goes on where that ends.

        @return: whether any were sent.
        """
        self._firstAnswer = None
        try:
            first = preparedSteps(self.wire, self.chunk(0), 0)
        except (ContentChanged, ChunkAwaited):
            return False
        if first is NO_STEPS:
            return False
        image, step, numbers = first.images[0], first.gap + self.wire.blocksize, first.numbers(1, self._end)
        try:
            taken = self.transport.writeBurst(image, step)
        except OSError:
            return False  # the cast will meet the same, and decide
        if not taken:
            return False
        now = self._seconds()
        interval = turn.fastPathBegun(numbers, now)
        if taken < len(image):
            self._askedTurn()
            self._steppedAt = now
            self.sent(0, taken // step, taken // step * self.wire.blocksize, False)
            self._sendRest(numbers[taken // step :])
            return True
        if first.stride > 1:
            self._drawJitter()  # as where the cast is asked; for one block that of the OACK's timer serves
        self._stepTaken(first, 1, now, interval)
        self._sendStep = self._stepSender(first)
        return True

    def _drawJitter(self) -> None:
        """Choose by how much the next timer is late, so that those of many casts do not expire at the same instants."""
        self._jitter = 1.0 + JITTER * self.site.random.random()

    def _stepTaken(self, prepared: PreparedSteps, steps: int, now: float, interval: float) -> None:
        """Note that so many of these steps were taken, the last one now, and set the timer for a missing answer."""
        self._prepared, self._steps, self._steppedAt = prepared, steps, now
        self._interval = interval * self._jitter
        self.site.timers.set(self, now + self._interval)

    def _enterFastPath(self, turn: Turn) -> None:
        """Prepare the next steps, if the answers can be predicted: everything was sent, and an answer is awaited."""
        if self.wire.group is not None:
            self._followMaster(turn)
            return
        sentAt = turn.mayEnterFastPath(self._nextBlock)
        if sentAt is None or self._chunk is None:
            return
        self._prepared = preparedSteps(self.wire, self._chunk, self._nextBlock)
        if self._prepared is not NO_STEPS:
            self._steppedAt = sentAt
            self._sendStep = self._stepSender(self._prepared)

    def _followMaster(self, turn: Turn) -> None:
        """Prepare the next steps of the master of a group, if its answers can be predicted."""
        terms = turn.mayFollowMaster()
        if terms is None or self._chunk is None:
            return
        prepared = preparedSteps(self.wire, self._chunk, terms.start)
        if prepared is not NO_STEPS:
            self._terms, self._prepared, self._steppedAt = terms, prepared, terms.sentAt
            self._master = MasterSteps(terms.peer, terms.until, MIN_RTO, self.site.random.random)
            self._sendStep = self._stepSender(prepared)

    def _stepSender(self, prepared: PreparedSteps) -> Callable[[memoryview], object]:
        """Return the function that sends the datagrams of a step; see L{IDatagramPort.burstWriter}."""
        transport: IDatagramPort = self.transport
        step = prepared.gap + self.wire.blocksize
        return transport.burstWriter(step, step * prepared.stride, self.wire.group)

    def _measuredStep(self, turn: Turn | LateTurn, old: PreparedSteps, datagram: bytes) -> bool:
        """
        Take a step, also from the last one of a chunk into the next chunk, if this is the predicted answer, for a sixth
        of what it would cost to ask the cast.  The time of the answer is measured; once C{Turn.rttConverged} is true
        the further answers in this chunk are not.

        @return: whether the step was taken.
        """
        following = self._sendPredicted(old, datagram)
        if following is NO_STEPS:
            return False
        now, steps = self._seconds(), self._steps
        self._stepTaken(following, steps, now, turn.answerMeasured(now - self._steppedAt))
        self._expected = following.answers[steps] if turn.rttConverged else None
        return True

    def _masterStep(self, turn: Turn, terms: MasterTerms, datagram: bytes) -> bool:
        """
        Take a step for the master of a group, also from the last one of a chunk into the next chunk, if this is its
        predicted answer, and the cast need not be asked.  The further answers in this chunk are only noted.

        @return: whether the step was taken.
        """
        old, now, master = self._prepared, self._seconds(), self._master
        seconds = now - self._steppedAt
        if seconds > MIN_RTO or now >= terms.until or old.start + self._steps - terms.start >= terms.most:
            return False
        following = self._sendPredicted(old, datagram)
        if following is NO_STEPS or master is None:
            return False
        master.drawn = master.draw()
        master.noted.append(seconds)
        self._steppedAt, self._prepared = now, following
        master.stop = int(min(len(following.images), terms.start + terms.most - following.start))
        self._masterDue(turn, master)
        self.site.timers.set(self, now + self._interval)
        return True

    def _masterDue(self, turn: Turn, master: MasterSteps) -> float:
        """
        Tell the cast of the answers that were noted.

        @return: the instant at which the answer to the last step is missing.
        """
        noted, master.noted = master.noted, []
        interval, self._interval = turn.masterAnswered(noted)
        return self._steppedAt + interval * (1.0 + JITTER * master.drawn)

    def _stillWaits(self) -> bool:
        """
        Return whether the timer has rung before the answer of a master is missing; then it is set again.  While answers
        are only noted it is set for the earliest instant that may turn out to be that one.
        """
        turn, master = self._turn, self._master
        if turn is None or master is None or not master.stop:
            return False
        due, now = self._masterDue(turn, master), self._seconds()
        if now >= due:
            return False
        # Never later than a step that is only noted would set it, since that does not tell L{Timers}.
        self.site.timers.set(self, min(due, now + self._interval))
        return True

    def _sendPredicted(self, old: PreparedSteps, datagram: bytes) -> PreparedSteps:
        """
        Send what follows this datagram, if it is the predicted answer, and count the step.

        @return: the prepared steps that the step is one of: the same, or those through the next chunk; L{NO_STEPS}:
            nothing was sent.
        """
        steps, following = self._steps, old
        if steps < len(old.images):
            if datagram != old.answers[steps]:
                return NO_STEPS
        else:
            following, steps = self._stepsAfter(old, datagram), 0
        try:
            if following is NO_STEPS:
                return NO_STEPS
            self._sendStep(following.images[steps])
        except OSError:
            return NO_STEPS  # the cast will meet the same, and decide
        if following is not old:
            self._countSteps(old)
        self._steps = steps + 1
        return following

    def _stepsAfter(self, old: PreparedSteps, datagram: bytes) -> PreparedSteps:
        """
        Return the steps through the next chunk, if this answer to the last step of a chunk is the predicted one, and
        the same function can send them, else L{NO_STEPS}.
        """
        expected = self.wire.expectedAnswer(old.stop)
        if expected is None or datagram != expected[0]:
            return NO_STEPS
        try:
            following = preparedSteps(self.wire, self.chunk(old.stop), old.stop)
        except (ContentChanged, ChunkAwaited):
            return NO_STEPS
        return following if following.gap == old.gap else NO_STEPS

    def _countSteps(self, prepared: PreparedSteps) -> None:
        """Count the blocks that were sent by the steps taken."""
        numbers, octets = self._sentBySteps(prepared)
        self.sent(numbers.start, len(numbers), octets, False)

    def _sentBySteps(self, prepared: PreparedSteps) -> tuple[range, int]:
        """Return the blocks that were sent by the steps taken, and their octets."""
        numbers, blocksize = prepared.numbers(self._steps, self._end), self.wire.blocksize
        return numbers, min(numbers.stop * blocksize, self.content.size) - numbers.start * blocksize

    def progress(self) -> tuple[int, int, int]:
        """
        Return C{blocks}, C{repeats} and C{octets}, with the steps on the fast path that the cast was not told of yet.
        """
        if not self._steps:
            return self.blocks, self.repeats, self.octets
        numbers, octets = self._sentBySteps(self._prepared)
        return self.blocks + len(numbers), self.repeats, self.octets + octets

    def _leaveFastPath(self) -> None:
        """Tell the cast which steps were taken."""
        self._firstAnswer = None
        prepared, steps = self._prepared, self._steps
        if prepared is NO_STEPS or (turn := self._askedTurn()) is None:
            return
        if steps:
            self._countSteps(prepared)
            if self._terms is None or self._master is None:
                turn.fastPathLeft(prepared.last(steps, self._end), self._steppedAt)
            else:
                self._masterDue(turn, self._master)
                turn.masterFollowed(range(self._terms.start, self._nextBlock), self._steppedAt)
                self._masterHeard(self._terms.peer)
        self._dropFastPath()

    def _dropFastPath(self) -> None:
        """Drop the prepared steps."""
        self._prepared = NO_STEPS
        self._expected = self._firstAnswer = self._terms = self._master = None
        self._sendStep = _nothingPrepared
        self._steps = 0

    def chunk(self, number: int) -> Chunk:
        """
        Return the chunk that block C{number} is in.

        @raise ChunkAwaited: it has to be waited for.
        @raise ContentChanged: the file has changed.
        """
        chunk = self._chunk
        if chunk is None or not chunk.start <= number < chunk.stop:
            chunk = self.site.blockCache.chunk(self.wire, self.content, number)
            self._holdChunk(chunk)
        return chunk

    def _holdChunk(self, chunk: Chunk) -> None:
        """Send blocks of this chunk from now on."""
        self._chunk = chunk
        if self.firstBlockAt is None:
            self.firstBlockAt = self._seconds()

    def sent(self, start: int, count: int, octets: int, again: bool) -> None:
        """Count blocks that were sent, the first of which is C{start}."""
        self.blocks += count
        self.octets += octets
        self._nextBlock = start + count
        if again:
            self.repeats += count
