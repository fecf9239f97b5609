"""
Connect one cast to a port: translate its datagrams to events and its actions to datagrams, and set its timer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import outcomes
from castd.cast.blockmap import GroupMap, Holding
from castd.cast.events import (
    Announce,
    Bar,
    Event,
    Leave,
    Left,
    NewRequest,
    PeerState,
    Ranges,
    RequestBlocks,
    SendBlocks,
)
from castd.cast.lateturn import LateTurn
from castd.cast.policy import RetransmitPolicy
from castd.cast.turn import Turn
from castd.errors import ContentChanged, UnknownPeer, UnknownTid, WireError
from castd.interfaces import (
    IBoundedCast,
    ICast,
    IContent,
    IDialect,
    IGroupWire,
    IMappedCast,
    IMappedTransfer,
    IPaced,
    ISite,
    ITransferProtocol,
    IWire,
    LiveReceiver,
    MemberMap,
)
from castd.net.faults import askPlugin
from castd.pacing import Pacer, RateLimit
from castd.request import Peer, Request
from castd.server import eventlog
from castd.server.blockcache import AwaitedChunk, Chunk, ChunkAwaited
from castd.server.fallback import Fallbacks
from castd.server.fastpath import FastPath
from castd.server.sender import CastSender, SendQueue

if TYPE_CHECKING:
    from castd.server.listener import Listener
    from castd.server.port_dialect import PortDialect

_log = Logger(namespace="castd")

#: How often in a row a receiver's host must report a closed port until the receiver counts as closed: one report may
#: come from a restart.
CLOSED_PORTS = 2
#: Receivers by unicast are held back in favour of a group that was sent a block so lately.  Seconds.
GROUP_FIRST = 0.002
#: A disk that does not answer a read for so many seconds ends the cast: its receivers have given up by then.
READ_TIMEOUT = 60.0
#: Blocks, repetitions and octets before anything is sent.
NO_PROGRESS = 0, 0, 0
#: The most datagrams sent at once, before the reactor reads, runs other casts and handles signals.
SLICE = 64
#: A receiver that leaves counts as so many: its event takes a third of a millisecond, and a hall may leave at once.
LEAVING = 8
#: The most receivers that a cast dismisses at once when it ends.
MOST_DISMISSED = 8
#: Octets of the longest list of blocks: SLAM's fit an Ethernet frame.
LONGEST_LIST = 2048
#: Octets of the longest datagram of a receiver that sends no lists: an ACK, or an ERROR with its text.  With the header
#: of C{bytes} these are 512, the most that CPython takes from its own memory for small objects; a longer buffer, which
#: is shortened to the four octets of an ACK, costs a tenth of all that is not the kernel's of a block.
LONGEST_ANSWER = 479


def closeContent(content: IContent, transport: str) -> None:
    """Close a content; a failure is a fault of its source and is only logged."""
    try:
        content.close()
    except BaseException:
        _log.failure("{transport}: a content failed to close", event="fault", transport=transport)


def _mayBeUnasked(wire: IWire, pacers: Sequence[RateLimit]) -> bool:
    """Return whether a receiver that answers as predicted can be served without a cast, see L{castd.cast.lateturn}."""
    kind: object = wire.cast
    return kind is Turn and wire.group is None and wire.stride > 0 and not pacers and wire.policy.forOne


class Receiver:
    """
    Holds what a cast protocol knows of one receiver.

    @ivar request: its last request.
    @ivar since: the instant of its first request.
    @ivar progressBefore: blocks, repeats and octets of the cast at that instant.
    @ivar closedReports: how often its port was reported closed since it has last sent anything.
    @ivar closedEarly: when the first of these reports came it could not have received everything.
    @ivar displacedFor: the limit for which it has to leave; C{""}: it has not to.
    @ivar error: code and text of the ERROR that it has sent; L{None}: it has sent none.
    """

    __slots__ = ("closedEarly", "closedReports", "displacedFor", "error", "progressBefore", "request", "since")

    def __init__(self, request: Request, since: float, progressBefore: tuple[int, int, int]) -> None:
        self.request = request
        self.since = since
        self.progressBefore = progressBefore
        self.closedReports = 0
        self.closedEarly = False
        self.displacedFor = ""
        self.error: tuple[int, str] | None = None


@implementer(IMappedTransfer, ITransferProtocol)
class CastProtocol(FastPath):
    """
    Sends what one cast decides, and what the casts of those receivers decide that do not hear its group.

    A subclass may extend L{dismiss}, which is called for each receiver that leaves, and L{close}, which is called at
    the end; nobody else calls them: to remove a receiver there are L{replace} and L{displace}, to end the cast L{end}.

    @ivar name, fileName, size, group, opened: see L{ILiveTransfer}.
    @ivar entry: the dialect at the listener that it belongs to.
    @ivar key: only a request with an equal key may join, see L{IDialect.key<castd.interfaces.IDialect.key>}.
    @ivar pacers: those of the cast, its group and the site, if they have a rate.
    @ivar receivers: the present receivers by peer, also those served by unicast.
    @ivar joined: how many receivers there were in all.
    @ivar full: how often the socket was full.
    @ivar fallbackBlocks: how many of C{blocks} were sent by unicast beside the group.
    @ivar fallbackReasons: how many receivers went on by unicast, by reason.
    @ivar ended: the cast has ended, and is closed, or will be as soon as all receivers are dismissed.
    """

    def __init__(
        self,
        site: ISite,
        listener: Listener,
        entry: PortDialect,
        key: Hashable,
        wire: IWire,
        content: IContent,
        pacers: tuple[RateLimit, ...] = (),
    ) -> None:
        super().__init__(site, wire, content)
        self.listener = listener
        self.entry = entry
        self.key = key
        self.name = entry.name
        self.fileName: str = content.name
        self.size: int | None = content.size
        self.group: tuple[str, int] | None = wire.group
        self.opened = self._seconds()
        self.pacers = pacers
        self.receivers: dict[Peer, Receiver] = {}
        self.full = self.joined = self.fallbackBlocks = 0
        self.fallbackReasons: dict[str, int] = {}
        self.ended = self._closed = False
        self._closing: Deferred[None] | None = None  # while receivers are dismissed in slices
        self._sender: CastSender | None = None  # see _main
        self._fallbacks: Fallbacks | None = None  # made for the first one
        self._fallbacksFirst = False
        self._groupBlocks = 0  # blocks that were sent to the group when receivers by unicast were last served
        self._groupSentAt = 0.0  # the instant at which the last of them was found to be sent
        self._queue = SendQueue()
        self._unsentAt, self._unsentWhy = float("-inf"), ""
        # The chunks that are being read for it, and since when it waits for each.
        self._awaited: dict[AwaitedChunk, float] = {}
        if not _mayBeUnasked(wire, pacers):
            self._makeCast()
        # The pacer of this cast alone, its configured rate, and the cast that adapts it to the losses.
        self._paced: tuple[Pacer, float, IPaced] | None = None
        for own in pacers:
            if isinstance(own, Pacer) and own is not site.pacer and IPaced.providedBy(cast := self._main.cast):
                self._paced = own, own.rate, cast
                break
        if self.group is not None and IMappedCast.providedBy(cast := self._main.cast):
            cast.recordSent()

    @property
    def kind(self) -> str:
        """As L{ILiveTransfer.kind}."""
        return "unicast" if self.group is None else "group"

    def liveReceivers(self) -> Sequence[LiveReceiver]:
        """As L{ILiveTransfer.liveReceivers}."""
        sent, count = self.progress()[0], self.wire.count
        return [
            LiveReceiver(peer, receiver.request.name, sent - receiver.progressBefore[0], count, receiver.since)
            for peer, receiver in self.receivers.items()
        ]

    def mapMembers(self, width: int, most: int) -> Iterator[MemberMap | None]:
        """As L{IMappedTransfer.mapMembers}."""
        cast, count = self._main.cast, self.wire.count
        self._leaveFastPath()
        if self.group is None or not count or not IMappedCast.providedBy(cast) or cast.sentRuns is None:
            return
        drawn = GroupMap(cast.sentRuns, count, width)
        yield from drawn.measure()
        for peer in list(islice(self.receivers, most)):
            if (holding := self._holding(peer)) is not None:
                yield MemberMap(peer, holding.lacking, drawn.draw(holding))

    def _holding(self, peer: Peer) -> Holding | None:
        """Return what is known of the blocks of a receiver; L{None}: it has left, or its cast does not tell."""
        fallback = self._fallback(peer)
        cast = self._main.cast if fallback is None else fallback.cast
        self._leaveFastPath()
        found: Holding | None = cast.holding(peer) if IMappedCast.providedBy(cast) else None
        return found if found is None or fallback is None else replace(found, since=None)

    @property
    def largest(self) -> int:
        """Octets of the longest datagram that receivers send."""
        return LONGEST_ANSWER if self.wire.stride else LONGEST_LIST

    @property
    def _main(self) -> CastSender:
        """What sends for the cast of the group, or of the one receiver, which is made when it is first asked."""
        return self._makeCast() if self._sender is None else self._sender

    def _makeCast(self) -> CastSender:
        """Make the cast, in the state that it would have if it had been there from the beginning."""
        late, self._late = self._late, None
        cast = self.wire.cast(self.wire.policy, self.wire.count) if late is None else late.make()
        self._sender = CastSender(cast)
        if isinstance(cast, Turn) and self.wire.stride and not self.pacers:
            self._turn = cast
        return self._sender

    def _sendRest(self, numbers: range) -> None:
        """As L{FastPath._sendRest}."""
        self._main.load(SendBlocks(numbers, next(iter(self.receivers)), False))
        self._main.held = False  # the blocks before have left
        self.pump()

    def _askedTurn(self) -> Turn | None:
        if self._late is not None:
            self._makeCast()
        return self._turn

    @property
    def mainCast(self) -> ICast:
        """The cast of the group, or of the one receiver."""
        return self._main.cast

    @property
    def joinable(self) -> bool:
        """Whether the main cast can be joined: it has members, or lingers without any."""
        try:
            return not self.ended and (self._main.cast.memberCount() > 0 or self._lingers(self._seconds()))
        except BaseException:
            self._fail()
            return False

    def _lingers(self, now: float) -> bool:
        """Return whether the cast is kept without receivers, as one may come back and must find the same file."""
        return not self.listener.draining and self._main.cast.deadline(now) is not None

    # Receivers join.

    def isFull(self, peer: Peer) -> bool:
        """Return whether there is no room for a receiver that asks: L{IBoundedCast.isFull}."""
        cast = self._main.cast
        return bool(IBoundedCast.providedBy(cast) and cast.isFull(peer, self._seconds()))

    def turnsAway(self, peer: Peer) -> bool:
        """Turn away a receiver that asks, if there is no room for it.  -> whether it is turned away."""
        cast, now = self._main.cast, self._seconds()
        try:
            if not IBoundedCast.providedBy(cast) or not cast.isFull(peer, now):
                return False
            cast.turnAway(peer, now)
        except BaseException:
            self._fail()
        return True

    def join(self, request: Request, replaced: Peer | None = None) -> None:
        """Let the peer of this request join; C{replaced} is the member that it replaces."""
        now = self._seconds()
        self._dropFallback(request.peer)
        receiver = self.receivers.get(request.peer)
        if receiver is None and replaced is not None:
            receiver = self.receivers.pop(replaced, None)
        first = not self.joined
        if receiver is None:
            receiver = Receiver(request, now, NO_PROGRESS if first else self.progress())
            self.joined += 1
        receiver.request = request
        self.receivers[request.peer] = receiver
        try:
            wants = self.wire.requestedBlocks(request)
            if first and self._sender is None and not wants:
                self._joinUnasked(request, now)
                return
            self._leaveFastPath()
            self._main.cast.join(request.peer, now, wants, replaced)
        except BaseException:
            self._fail()
        self.pump()

    def _joinUnasked(self, request: Request, now: float) -> None:
        """Announce the only receiver, and wait for its answer, without a cast."""
        late = self._late = LateTurn(self.wire.policy, self.wire.count, request.peer, now)
        for datagram, address in self.wire.announce(request, True, False):
            self._queue.put(self, datagram, address)
        self._wait(late.deadline(), now, True, late)

    def answerAgain(self, request: Request, dialect: IDialect) -> bool:
        """
        Answer a member's request once more, if it is a repetition.

        @return: C{True}: it was a repetition, and was answered by the present state.  C{False}: the machine has
            restarted, or wants another file: its part in this cast is to be ended by L{replace}.
        """
        receiver = self.receivers.get(request.peer)
        if self.ended or receiver is None or dialect is not self.entry.dialect:
            return False
        if not request.repeats(receiver.request):
            return False
        if self._fallback(request.peer) is not None or (self.group is None and self.heard(request.peer)):
            return False
        if self.group is None and self._sender is not None and self._sender.held:
            return True  # its first block is about to leave
        # The file was looked for at the first request only.
        self.join(replace(request, trace=receiver.request.trace))
        return True

    def heard(self, peer: Peer) -> bool:
        """Return whether this member has acknowledged anything."""
        alone = self.group is None and self._steps > 0
        if self._late is not None:
            return alone
        return alone or self._fallback(peer) is not None or bool(self._main.cast.heard(peer))

    def begunBy(self, request: Request) -> bool:
        """Return whether this is once more the request that has begun the part of a member."""
        receiver = self.receivers.get(request.peer)
        return receiver is not None and request.repeats(receiver.request)

    def repeatLater(self, instant: float) -> None:
        """Repeat nothing to the only receiver before this instant, unless it answers."""
        due = self.due
        if not self._main.unsent and due is not None and self._seconds() < due < instant:
            self.site.timers.set(self, instant)

    def position(self, peer: Peer) -> tuple[int, int]:
        """Return the number of the block that the only receiver has asked for last, and of the last one sent."""
        self._leaveFastPath()
        cast = self._main.cast
        state, sent = cast.peerState(peer), cast.highestSent
        return sent + 1 if state is None or state.serving is None else state.serving.start, sent

    def clientWaits(self) -> bool:
        """Return whether the only receiver cannot go on now: its blocks are being read from a slow disk."""
        return bool(self._awaited)

    # Datagrams come in.

    def readArrived(self) -> None:
        """Receive what has arrived at the port of the cast."""
        self.transport.readArrived()

    def strangerReceived(self, datagram: bytes, addr: Peer) -> None:
        """Handle a datagram that is not from the peer that the port was opened for."""
        self._slowPath(datagram, addr)

    def _slowPath(self, datagram: bytes, peer: Peer) -> None:
        if self.ended:
            return
        try:
            self._receive(datagram, peer)
        except BaseException:
            self._fail()

    def _receive(self, datagram: bytes, peer: Peer) -> None:
        try:
            event = self._read(datagram, peer)
        except WireError as error:
            eventlog.malformed(peer, datagram, error)
            return
        except UnknownPeer:
            if self.site.admission.mayAnswerStranger(peer[0], self._seconds()):
                answer = self.entry.dialect.refuse(None, UnknownTid())
                if answer is not None:
                    self._queue.put(self, answer, peer)
            return
        if event is None:
            return
        receiver = self.receivers.get(peer)
        if not isinstance(event, RequestBlocks):
            if isinstance(event, NewRequest):
                self.listener.requestFromMember(datagram, peer)
                return
            if receiver is not None and event.code is not None:
                receiver.error = event.code, event.text
        if receiver is not None:
            receiver.closedReports = 0
        if self._late is not None and receiver is not None:
            self._leaveUnasked(receiver)
            return
        self._hear(peer, event)
        self.pump()

    def _read(self, datagram: bytes, peer: Peer) -> Event | None:
        """
        Parse a datagram, and leave the fast path; unless there is no cast yet, nor need there be one, as the only
        receiver has everything.

        @raise WireError, UnknownPeer: as L{IWire.receive}.
        """
        if self._late is None:
            self._leaveFastPath()
        try:
            event = self.wire.receive(datagram, peer, self._peerState(peer))
        except BaseException:
            self._leaveFastPath()
            raise
        if self._late is not None and not (self._steps and isinstance(event, Leave) and event.outcome == outcomes.DONE):
            self._leaveFastPath()
            if self._late is not None:
                self._makeCast()
        return event

    def _leaveUnasked(self, receiver: Receiver) -> None:
        """Let the only receiver go, which has everything, without a cast."""
        prepared, steps = self._prepared, self._steps
        self._countSteps(prepared)
        self._dropFastPath()
        del self.receivers[receiver.request.peer]
        lacks = prepared.last(steps, self._end).start
        ending = eventlog.Ending(outcomes.DONE, self._steppedAt, lacks=lacks, sent=1)
        self.dismiss(receiver, ending, self._seconds())
        self.close()

    def _peerState(self, peer: Peer) -> PeerState | None:
        if self._late is not None:
            last = self._prepared.last(self._steps, self._end) if self._steps else None
            return self._late.peerState(last) if peer == self._late.peer else None
        fallback = self._fallback(peer)
        if fallback is None:
            return self._main.cast.peerState(peer)
        peerState = fallback.cast.peerState(peer)
        if peerState is None:
            return None
        # It may receive blocks from the group after all, and acknowledge them.
        highestSent = self._main.cast.highestSent
        return peerState if peerState.highestSent >= highestSent else replace(peerState, highestSent=highestSent)

    def _hear(self, peer: Peer, event: Event) -> None:
        """Pass an event to the cast that decides for this peer."""
        if isinstance(event, Leave):
            # While a datagram is kept for a full socket the cast is not polled, and the place would not be free.
            self._queue.discard(peer)
        if self.group is not None and self.site.deafMachines.until:
            self._noteHearing(peer, event)
        if self._fallbacks is not None and (fallback := self._fallbacks.get(peer)) is not None:
            self._fallbacks.hear(fallback, peer, event, self._seconds())
        else:
            self._main.hear(peer, event, self._seconds())

    def _noteHearing(self, peer: Peer, event: Event) -> None:
        """Forget that a machine is deaf if it has received a block that was sent to the group only."""
        request = event.ranges if isinstance(event, RequestBlocks) else ()
        fallback = self._fallback(peer)
        sent = -1 if fallback is None else fallback.cast.highestSent
        if request and request[0].start > sent + 1 and self.site.deafMachines.forget(peer[0]):
            eventlog.hearsAfterAll(self, peer)

    def _masterHeard(self, peer: Peer) -> None:
        """As L{FastPath._masterHeard}: its port is not closed."""
        if (receiver := self.receivers.get(peer)) is not None:
            receiver.closedReports = 0

    def _fail(self) -> None:
        """Log the traceback of a fault of castd or of a plugin, and end this cast; the server goes on."""
        _log.failure("{transport}: a cast failed", event="fault", transport=self.name)
        self._dropFastPath()
        self.end(outcomes.FAILED)

    def peerUnreachable(self, peer: Peer) -> None:
        """
        Count that a host reports the port of a receiver as closed (ICMP port unreachable).

        The receiver is removed after L{CLOSED_PORTS} reports in a row: a client may open its port anew between two
        blocks.
        """
        if self._steps:
            # Answers have come on the fast path since, so reports before them do not count.
            self._leaveFastPath()
            if self.group is None:
                for each in self.receivers.values():
                    each.closedReports = 0
        if (receiver := self.receivers.get(peer)) is not None:
            if not receiver.closedReports:
                receiver.closedEarly = not self._mayHaveAll(peer)
            receiver.closedReports += 1
            if (turn := self._groupTurn()) is not None:
                turn.announceAgainNow(peer, self._seconds())
            if turn is not None or receiver.closedReports >= CLOSED_PORTS:
                # It is removed by the timer, as this may be called from within pump.
                self.site.timers.set(self, self._seconds())

    def _groupTurn(self) -> Turn | None:
        """Return the cast of a group of the TFTP family; L{None}: it is another one."""
        cast: object = None if self.group is None else self._main.cast
        return cast if isinstance(cast, Turn) else None

    def _mayHaveAll(self, peer: Peer) -> bool:
        """Return whether a receiver of a group may have received everything, as far as is known."""
        turn = self._groupTurn()
        return turn is not None and turn.mayHaveAll(peer)

    def _removeClosed(self) -> None:
        for peer, receiver in list(self.receivers.items()):
            if receiver.closedReports >= CLOSED_PORTS:
                self._hear(peer, Leave(outcomes.CLOSED))

    # What is sent.

    def timerExpired(self) -> None:
        """Handle the timer: send what is due."""
        try:
            if self._stillWaits():
                return
            self._leaveFastPath()
            self._removeClosed()
        except BaseException:
            self._fail()
        self.pump()

    def pump(self) -> None:
        """
        Poll the casts, send what they say, and set the timer.  This is called after every datagram and timer that is
        not of the fast path.
        """
        if self.ended:
            return
        try:
            self._pump(self._seconds())
        except ContentChanged as error:
            self.end(outcomes.CHANGED, str(error))
        except BaseException:
            self._fail()

    def _pump(self, now: float) -> None:
        if self._paced is not None:
            pacer, rate, cast = self._paced
            pacer.rate = rate * cast.pace
        queue = self._queue
        due = self._sendDue(now) if not queue.kept or queue.flush(self) else None
        if not self.receivers and not self._lingers(now):
            self.close()
            return
        self._wait(due, now, not self._main.unsent, self._turn)

    def _wait(self, due: float | None, now: float, idle: bool, turn: Turn | LateTurn | None) -> None:
        """
        Set the timer, and prepare for the answer that is expected.

        @param due: the instant at which the casts go on; L{None}: when a datagram arrives.
        @param idle: nothing is left to send.
        @param turn: the cast, or what stands in for it; L{None}: answers are not predicted.
        """
        queue = self._queue
        if queue.kept:
            # An announcement is kept for a full socket; the cast does not know that, and waits for the answer to it.
            again = now + queue.rest
            due = again if due is None else min(due, again)
        elif idle and due is not None:
            self._drawJitter()
            due = now + (due - now) * self._jitter
        self.site.timers.set(self, due)
        if turn is not None and idle and not self._fallbacks:
            if self.blocks and isinstance(turn, Turn):
                self._enterFastPath(turn)
            elif not queue.kept:
                self._predictFirstAnswer(turn)

    def _sendDue(self, now: float) -> float | None:
        """Run the casts.  -> the instant to go on at; L{None}: when a datagram arrives."""
        fallbackBlocks = self.fallbackBlocks
        if self._fallbacksFirst and self._fallbacks is not None:
            self._fallbacks.run(self._run, now)
        sent = self.blocks
        due = self._run(self._main, now)
        if self.pacers:
            # The group gets one half of the rate, the receivers by unicast the other.
            stalled = self._fallbacksFirst and self.fallbackBlocks == fallbackBlocks
            self._fallbacksFirst = self.blocks > sent or stalled
        if not self._fallbacks:
            return due
        # Also if they were first: the main cast may just have moved a receiver to unicast.
        share = self._fallbackShare(now)
        fallback = self._fallbacks.run(self._run, now, share)
        if fallback is not None and share is not None:
            fallback = max(fallback, self._groupSentAt + GROUP_FIRST)
        return fallback if due is None or (fallback is not None and fallback < due) else due

    def _fallbackShare(self, now: float) -> int | None:
        """
        Find out how many receivers by unicast may be served now: one for each block of the group, as long as the group
        goes on; else some that are deaf would slow down all that hear, on a busy machine.

        @return: L{None}: all, as the group waits for its master, or is over.
        """
        blocks = self.blocks - self.fallbackBlocks
        share, self._groupBlocks = blocks - self._groupBlocks, blocks
        if share:
            self._groupSentAt = now
        elif now >= self._groupSentAt + GROUP_FIRST or not self._main.cast.memberCount():
            return None
        return share

    def _run(self, sender: CastSender, now: float) -> float | None:
        """
        Do what a cast has decided, up to L{SLICE} datagrams.

        @return: the instant to go on at; L{None}: when a datagram arrives.
        @raise ContentChanged: the file has changed.
        """
        budget = SLICE
        while budget > 0:
            if sender.unsent:
                wait = sender.blockedUntil(self.pacers, now)
                if wait is not None:
                    return wait
                try:
                    sent = sender.send(self, budget, now)
                except ChunkAwaited as unread:
                    return self._awaitChunk(unread.awaited, now)
                if sent == 0:
                    self.full += 1
                    return sender.restUntil
                if sender.unicastTo is not None:
                    self.fallbackBlocks += sent
                budget -= sent
                continue
            action = sender.cast.poll(now)
            if action is None:
                return sender.cast.deadline(now)
            if isinstance(action, SendBlocks):
                sender.load(action)
            elif isinstance(action, Announce):
                budget -= self._announce(action)
            elif isinstance(action, Left):
                self._receiverLeft(sender, action, now)
                budget -= LEAVING
            elif isinstance(action, Bar):
                self._bar(action)
        return now

    def _awaitChunk(self, awaited: AwaitedChunk, now: float) -> float:
        """
        Wait for blocks that are being read from a slow disk.

        @return: the instant at which the cast is to end if they have not come.
        @raise ContentChanged: they have not come for L{READ_TIMEOUT} seconds.
        """
        until = self._awaited.setdefault(awaited, now) + READ_TIMEOUT
        awaited.readers[self] = None
        if now >= until:
            raise ContentChanged(why="the disk does not answer")
        return until

    def chunkRead(self, awaited: AwaitedChunk, result: Chunk | Failure) -> None:
        """As L{ChunkReader.chunkRead<castd.server.blockcache.ChunkReader.chunkRead>}: send the blocks."""
        self._awaited.pop(awaited, None)
        if isinstance(result, Chunk):
            self._holdChunk(result)
            self.site.blockCache.readAhead(self.wire, self.content, result.stop)
            self.pump()
        elif result.check(ContentChanged):
            self.end(outcomes.CHANGED, str(result.value))
        else:
            _log.failure("{transport}: a file cannot be read", result, event="fault", transport=self.name)
            self.end(outcomes.FAILED)

    def _announce(self, action: Announce) -> int:
        """Send an announcement to a receiver.  -> how many datagrams count against the budget, at least one."""
        receiver = self.receivers.get(action.peer)
        sent = 1
        if receiver is not None:
            for datagram, address in self.wire.announce(receiver.request, action.master, action.heard):
                self._queue.put(self, datagram, address)
                sent += 1
        return sent

    def _bar(self, action: Bar) -> None:
        """Keep other transports from serving this file to a receiver."""
        if (receiver := self.receivers.get(action.peer)) is not None:
            self.site.bar(action.peer[0], receiver.request.name, action.seconds, action.why)

    def unsendable(self, error: OSError, address: Peer) -> None:
        """As L{BlockOutput.unsendable<castd.server.sender.BlockOutput.unsendable>}."""
        self._queue.unsendable(self, error, address)

    def unsent(self, why: str) -> None:
        """As L{DatagramSender.unsent<castd.server.sender.DatagramSender.unsent>}."""
        self._unsentAt, self._unsentWhy = self._seconds(), why

    def whyUnsent(self, lastBlockAt: float) -> str:
        """
        Return why this machine could not send what it has tried to send last; C{""}: it was sent.

        @param lastBlockAt: the instant at which the last block was sent, or could not be.
        """
        return self._unsentWhy if self._unsentAt >= lastBlockAt else ""

    # Receivers that do not hear the group.

    def _fallback(self, peer: Peer) -> CastSender | None:
        """Return the sender of a receiver that goes on by unicast; L{None}: it does not."""
        return None if self._fallbacks is None else self._fallbacks.get(peer)

    def _dropFallback(self, peer: Peer) -> None:
        if self._fallbacks is not None:
            self._fallbacks.drop(peer)

    def _moveToUnicast(self, receiver: Receiver, action: Left, now: float) -> None:
        policy = self.wire.policy
        # It is a transfer of its own, without the rules of a group.
        unheard = None if action.heard else policy.maxRepeatsUnheard
        plain = RetransmitPolicy(repeat=policy.repeat, maxRepeatsUnheard=unheard)
        target = self.wire.unicastAddress(action.peer) if IGroupWire.providedBy(self.wire) else action.peer
        turn = self.wire.cast(plain, self.wire.count)
        # It is told that it has the turn, whatever it was told before: a listener does not acknowledge blocks.
        turn.join(action.peer, now, action.wants)
        if self._fallbacks is None:
            self._fallbacks = Fallbacks()
        self._fallbacks.add(action.peer, CastSender(turn, target), now)
        self.fallbackReasons[action.outcome] = self.fallbackReasons.get(action.outcome, 0) + 1
        # Another that goes on by unicast has heard blocks, or was only assumed to hear none.
        seconds = self.entry.deafFor if action.deaf else 0.0
        if seconds:
            self.site.deafMachines.remember(action.peer[0], seconds, now)
        eventlog.movedToUnicast(self, receiver.request, action.deaf, seconds)
        self.site.timers.set(self, now)

    # Receivers leave.

    def _receiverLeft(self, sender: CastSender, action: Left, now: float) -> None:
        """Remove a receiver as its cast has decided; or let it go on by unicast, if it does not hear the group."""
        receiver = self.receivers.get(action.peer)
        if receiver is None:
            return
        if action.outcome == outcomes.DEAF and sender is self._main:
            self._moveToUnicast(receiver, action, now)
            return
        self.receivers.pop(action.peer)
        self._dropFallback(action.peer)
        outcome = self._outcome(receiver, action)
        seen = self._ending(sender, outcome, action.wants, action.repeated, action.copies)
        self.dismiss(receiver, seen._replace(heard=action.heard, removed=action.outcome), now)

    def _ending(self, sender: CastSender, outcome: str, wants: Ranges, repeated: int, copies: int) -> eventlog.Ending:
        """
        Gather what was seen of a receiver that leaves.

        @param wants: the blocks that it still lacks, as far as it had asked for them.
        @param repeated, copies: as of L{Left}.
        """
        lastBlockAt = max(self._steppedAt, sender.sentAt)
        if not wants or not isinstance(sender.cast, Turn):
            return eventlog.Ending(outcome, lastBlockAt)
        return eventlog.Ending(outcome, lastBlockAt, lacks=wants[0].start, sent=copies, repeated=repeated)

    def _outcome(self, receiver: Receiver, action: Left) -> str:
        """
        Return the outcome; UNCONFIRMED for a receiver that lacks no more than the acknowledgement of the last block.
        """
        if action.outcome not in (outcomes.SILENT, outcomes.CLOSED):
            return action.outcome
        # Many listeners of a group say nothing at all, and leave without a word when they have everything.
        if action.sent and not (action.outcome == outcomes.CLOSED and receiver.closedEarly):
            return outcomes.UNCONFIRMED
        count = self.wire.count
        missing = count is None or not action.wants or action.wants[-1].stop < count
        # Of any other that has never sent anything this is not known: its request may be forged, or a firewall drops
        # the rest.
        return action.outcome if missing or not action.heard else outcomes.UNCONFIRMED

    def dismiss(self, receiver: Receiver, ending: eventlog.Ending, now: float) -> None:
        """
        Send a receiver that is removed its farewell, and log its outcome.  One that has sent nothing but its request
        gets no farewell when it is silent: the request may be forged.
        """
        request, outcome = receiver.request, ending.outcome
        removed = ending.removed or outcome
        if ending.heard or removed != outcomes.SILENT:
            for datagram, address in self._farewell(request, removed):
                self._queue.put(self, datagram, address)
        # Whatever of it a plugin cannot tell, the receiver has left.
        told = partial(eventlog.receiverLeft, self, receiver, ending, now)
        askPlugin(told, None, f"{self.name}: the end of a transfer cannot be told")
        self.listener.receiverLeft(self, request, outcome)

    def _farewell(self, request: Request, outcome: str) -> list[tuple[bytes, Peer]]:
        try:
            return list(self.wire.farewell(request, outcome))
        except BaseException:
            # The others still get their farewells, and the cast is closed.
            _log.failure("{transport}: a farewell failed", event="fault", transport=self.name)
            return []

    def _statistics(self) -> Mapping[str, int]:
        try:
            return self._main.cast.statistics()
        except BaseException:
            # A cast without its counters closes all the same.
            _log.failure("{transport}: the statistics of a cast failed", event="fault", transport=self.name)
            return {}

    def replace(self, peer: Peer) -> None:
        """End the part of this peer in the cast, as its machine has restarted."""
        if (receiver := self.receivers.pop(peer, None)) is None:
            return
        now = self._seconds()
        sender = self._fallback(peer) or self._main
        ending = eventlog.Ending(outcomes.REPLACED, max(self._steppedAt, sender.sentAt))
        self._dropFallback(peer)
        # The machine would take an announcement that is kept for a full socket for the answer to its new request.
        self._queue.discard(peer)
        try:
            self._leaveFastPath()
            cast = sender.cast
            peerState = cast.peerState(peer)
            if peerState is not None and peerState.serving is not None and isinstance(cast, Turn):
                wants, repeated, copies = (peerState.serving,), cast.repeatedRequests(peer), cast.copiesSent(peer)
                ending = self._ending(sender, outcomes.REPLACED, wants, repeated, copies)
                ending = ending._replace(heard=cast.heard(peer))
            if self._mayHaveAll(peer):
                # A listener leaves without a word, and its machine may have gone on to the next file.
                ending = ending._replace(outcome=outcomes.UNCONFIRMED, removed=outcomes.REPLACED)
            self._main.hear(peer, Leave(outcomes.REPLACED), now)
        except BaseException:
            self._fail()
        self.dismiss(receiver, ending, now)
        self.pump()

    def displace(self, peer: Peer, limit: str) -> None:
        """
        Remove a receiver that has sent nothing but its request, as its place is needed; it is sent nothing more.

        @param limit: the limit that is reached.
        """
        if (receiver := self.receivers.get(peer)) is not None:
            receiver.displacedFor = limit
        try:
            self._leaveFastPath()
            self._hear(peer, Leave(outcomes.SILENT))
        except BaseException:
            self._fail()
        self.pump()

    def endIfIdle(self) -> None:
        """End a cast without receivers that only waits for one to come back, as the server is about to stop."""
        if not self.receivers:
            self.end(outcomes.STOPPED)

    def end(self, outcome: str, why: str = "") -> Deferred[None] | None:
        """
        Send all receivers a farewell with this outcome, and close the cast.  Of many receivers each is dismissed in
        slices; nothing else is sent meanwhile.

        @param why: what the log says of the reason beside the outcome; C{""}: nothing.
        @return: fires when the cast is closed; L{None}: it is.
        """
        if self.ended:
            return self._closing
        self._leaveFastPath()
        self.ended = True
        self.site.timers.set(self, None)
        sentAt = self._steppedAt if self._sender is None else max(self._steppedAt, self._sender.sentAt)
        steps = self._dismissAll(eventlog.Ending(outcome, sentAt, why=why))
        if len(self.receivers) > MOST_DISMISSED:
            self._closing = self.site.slices.run(steps)
            return self._closing
        for _ in steps:
            pass
        return None

    def _dismissAll(self, ending: eventlog.Ending) -> Iterator[None]:
        """Dismiss one receiver after the other, and close the cast."""
        for peer, receiver in list(self.receivers.items()):
            # It may have been replaced meanwhile, as its machine has restarted.
            if self.receivers.pop(peer, None) is None:
                continue
            try:
                self.dismiss(receiver, ending, self._seconds())
            except BaseException:
                # The others get their farewells, and the cast is closed.
                _log.failure("{transport}: a receiver could not be dismissed", event="fault", transport=self.name)
            yield None
        self.close()

    def close(self) -> None:
        """Close the cast, which has no receivers any more, and its port."""
        if self._closed:
            return
        self.ended = self._closed = True
        if self.group is not None:
            told = partial(eventlog.groupClosed, self, self._statistics())
            askPlugin(told, None, f"{self.name}: the end of a group cannot be told")
        self._dropFastPath()
        self._chunk = None
        for awaited in self._awaited:
            awaited.readers.pop(self, None)
        self._awaited.clear()
        self.site.timers.set(self, None)
        try:
            self.wire.close(self._seconds())
        except BaseException:
            _log.failure("{transport}: a cast failed to close", event="fault", transport=self.name)
        closeContent(self.content, self.name)
        self.listener.castClosed(self)
