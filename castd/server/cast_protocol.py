"""
CastProtocol: the DatagramProtocol of one cast.

Datagrams become events, the cast decides, its actions become datagrams; and one timer wakes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import Logger
from zope.interface import implementer

from castd import outcomes
from castd.cast.events import (
    Announce,
    Bar,
    Event,
    Leave,
    Left,
    NewRequest,
    PeerState,
    SendBlocks,
)
from castd.cast.policy import RetransmitPolicy
from castd.cast.turn import Turn
from castd.errors import ContentChanged, UnknownPeer, UnknownTid, WireError
from castd.interfaces import (
    ICast,
    IContent,
    IDatagramPort,
    IDialect,
    IGroupWire,
    IListeningPort,
    ILiveTransfer,
    IPaced,
    ISite,
    ITransferProtocol,
    IWire,
    LiveReceiver,
    Octets,
)
from castd.pacing import Pacer, RateLimit
from castd.request import Local, Peer, Request
from castd.server import eventlog
from castd.server.fallback import Fallbacks
from castd.server.fastpath import FastPath
from castd.server.sender import CastSender, SendQueue

if TYPE_CHECKING:
    from castd.server.listener import Listener, PortDialect

_log = Logger(namespace="castd")

#: Closed ports that a receiver's host reports in a row until it is taken for gone: one may be a restart's.
CLOSED_PORTS = 2
#: The part of an interval by which a timer may ring late.
JITTER = 0.1
#: The most datagrams sent in one go, before reading, other casts and signals get their share of the reactor.
SLICE = 64


def closeContent(content: IContent, transport: str) -> None:
    """Close a content; a source that fails at that is logged, and keeps nobody from going on."""
    try:
        content.close()
    except Exception:
        _log.failure("{transport}: a content failed to close", event="fault", transport=transport)


class Receiver:
    """
    One receiver of a cast, with what the event of its end needs.

    @ivar since: the instant it asked.
    @ivar progressBefore: blocks, repeats and octets of the cast at that instant.
    @ivar closedReports: times that its port was reported closed since it was heard last.
    """

    __slots__ = ("closedReports", "progressBefore", "request", "since")

    def __init__(self, request: Request, since: float, progressBefore: tuple[int, int, int]) -> None:
        self.request = request
        self.since = since
        self.progressBefore = progressBefore
        self.closedReports = 0


@implementer(ILiveTransfer, ITransferProtocol)
class CastProtocol(FastPath):
    """
    Carries one cast, and beside it the casts of those receivers that turned out to hear no multicast.

    @ivar name, fileName, size, group, opened: see L{ILiveTransfer}.
    @ivar entry: the dialect at the listener that it belongs to.
    @ivar key: what a request must match to join.
    @ivar pacers: the cast's own, its group's and the site's, if they have a rate.
    @ivar receivers: who receives it now, also by unicast.
    @ivar joined: how many receivers there were in all.
    @ivar full: times that the socket was full.
    @ivar fallbackBlocks: of C{blocks}, those that went out by unicast beside the group.
    @ivar fallbackReasons: receivers that went on by unicast, by reason.
    @ivar ended: nobody is left, and it is closed.
    @cvar largest: octets of the longest datagram that receivers send; SLAM's lists fit an Ethernet frame.
    """

    largest = 2048

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
        cast = wire.cast(wire.policy, wire.count)
        turn = cast if isinstance(cast, Turn) and wire.stride and not pacers else None
        super().__init__(site, wire, content, turn)
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
        self.fallbackReasons: Counter[str] = Counter()
        self.ended = False
        self._main = CastSender(cast)
        self._fallbacks: Fallbacks | None = None  # made for the first one
        self._fallbacksFirst = False
        self._queue = SendQueue()
        # Its own rate, and what judges how much of it the receivers can take.
        own = next((pacer for pacer in pacers if isinstance(pacer, Pacer) and pacer is not site.pacer), None)
        self._paced = (own, own.rate, cast) if own is not None and IPaced.providedBy(cast) else None

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

    @property
    def mainCast(self) -> ICast:
        """The cast of the group, or of the one receiver."""
        return self._main.cast

    @property
    def joinable(self) -> bool:
        """Whether the group itself is still alive, apart from those who go on by unicast."""
        try:
            return not self.ended and (self._main.cast.memberCount() > 0 or self._lingers(self._seconds()))
        except Exception:
            self._fail()
            return False

    def _lingers(self, now: float) -> bool:
        """-> whether it stays without receivers, since one may come back and must find the same file."""
        return not self.listener.draining and self._main.cast.deadline(now) is not None

    # Receivers join.

    def join(self, request: Request, replaced: Peer | None = None) -> None:
        """Let the peer of this request join; C{replaced} is the member whose place it takes."""
        now = self._seconds()
        self._dropFallback(request.peer)
        receiver = self.receivers.get(request.peer)
        if receiver is None and replaced is not None:
            receiver = self.receivers.pop(replaced, None)
        if receiver is None:
            receiver = Receiver(request, now, (self.blocks, self.repeats, self.octets))
            self.joined += 1
        receiver.request = request
        self.receivers[request.peer] = receiver
        try:
            self._leaveFastPath()
            self._main.cast.join(request.peer, now, self.wire.requestedBlocks(request), replaced)
        except Exception:
            self._fail()
        self.pump()

    def answerAgain(self, request: Request, dialect: IDialect) -> bool:
        """
        Answer a member's request once more, if it is a repetition.

        @return: True: it was its own request again, and was answered as it stands.  False: its machine has restarted,
            or wants another file: its part here is to be replaced.
        """
        receiver = self.receivers.get(request.peer)
        if receiver is None or dialect is not self.entry.dialect or not request.repeats(receiver.request):
            return False
        if self._fallback(request.peer) is not None or (self.group is None and self.heard(request.peer)):
            return False
        self.join(request)
        return True

    def heard(self, peer: Peer) -> bool:
        """-> whether this member has acknowledged anything."""
        return self._steps > 0 or self._fallback(peer) is not None or bool(self._main.cast.heard(peer))

    # Datagrams come in.

    def strangerReceived(self, datagram: bytes, addr: Peer) -> None:
        """Take a datagram from the transport that is not from the peer that the port was opened for."""
        self._slowPath(datagram, addr)

    def _slowPath(self, datagram: bytes, peer: Peer) -> None:
        if self.ended:
            return
        try:
            self._receive(datagram, peer)
        except Exception:
            self._fail()

    def _receive(self, datagram: bytes, peer: Peer) -> None:
        self._leaveFastPath()
        try:
            event = self.wire.receive(datagram, peer, self._peerState(peer))
        except WireError as error:
            self.listener.countMalformed(datagram, peer, error)
            return
        except UnknownPeer:
            if self.listener.mayAnswerStranger(peer):
                answer = self.entry.dialect.refuse(None, UnknownTid())
                if answer is not None:
                    self._queue.put(self, answer, peer)
            return
        if event is None:
            return
        if isinstance(event, NewRequest):
            self.listener.requestFromMember(datagram, peer)
            return
        if (receiver := self.receivers.get(peer)) is not None:
            receiver.closedReports = 0
        self._hear(peer, event)
        self.pump()

    def _peerState(self, peer: Peer) -> PeerState | None:
        fallback = self._fallback(peer)
        if fallback is None:
            return self._main.cast.peerState(peer)
        peerState = fallback.cast.peerState(peer)
        if peerState is None:
            return None
        # It may hear the group after all, and acknowledge what was sent there.
        return replace(peerState, highestSent=max(peerState.highestSent, self._main.cast.highestSent))

    def _hear(self, peer: Peer, event: Event) -> None:
        """Tell an event to the cast that decides for this peer."""
        if self._fallbacks is not None and (fallback := self._fallbacks.get(peer)) is not None:
            self._fallbacks.hear(fallback, peer, event, self._seconds())
        else:
            self._main.cast.hear(peer, event, self._seconds())

    def _fail(self) -> None:
        """End this cast by a fault of castd or of a plugin: its traceback is logged, the server goes on."""
        _log.failure("{transport}: a cast failed", event="fault", transport=self.name)
        self._dropFastPath()
        self.end(outcomes.FAILED)

    def peerUnreachable(self, peer: Peer | None = None) -> None:
        """
        Note that a host reports a port as closed; C{None}: that of the one peer.

        Believed when it is said twice in a row: a client may open its port anew between two blocks.
        """
        if peer is None and self.receivers:
            peer = next(iter(self.receivers))
        if peer is not None and (receiver := self.receivers.get(peer)) is not None:
            receiver.closedReports += 1
            if receiver.closedReports >= CLOSED_PORTS:
                # Not from here: the pump may be at work below us.
                self.site.timers.set(self, self._seconds())

    def _removeClosed(self) -> None:
        for peer, receiver in list(self.receivers.items()):
            if receiver.closedReports >= CLOSED_PORTS:
                self._hear(peer, Leave(outcomes.CLOSED))

    # Datagrams go out.

    def timerExpired(self) -> None:
        """Go on, since the timer has rung."""
        try:
            self._leaveFastPath()
            self._removeClosed()
        except Exception:
            self._fail()
        self.pump()

    def pump(self) -> None:
        """Send what is due, and set the timer: after every stimulus, always the same way."""
        if self.ended:
            return
        try:
            self._pump(self._seconds())
        except ContentChanged:
            self.end(outcomes.CHANGED)
        except Exception:
            self._fail()

    def _pump(self, now: float) -> None:
        if self._paced is not None:
            # Receivers that lose much are sent less.
            pacer, rate, cast = self._paced
            pacer.rate = rate * cast.pace
        queue = self._queue
        due = self._sendDue(now) if not queue.kept or queue.flush(self) else None
        if not self.receivers and not self._lingers(now):
            self._close()
            return
        idle = not self._main.unsent
        if queue.kept:
            # A greeting that the socket did not take: the cast waits for its answer, and knows nothing of it.
            again = now + queue.rest
            due = again if due is None else min(due, again)
        elif idle and due is not None:
            # So that a crowd does not fall into step.
            self._jitter = 1 + JITTER * self.site.random.random()
            due = now + (due - now) * self._jitter
        self.site.timers.set(self, due)
        turn = self._turn
        if turn is not None and idle:
            if self.blocks:
                self._enterFastPath(turn)
            elif not queue.kept:
                self._foreseeFirstAnswer(turn)

    def _sendDue(self, now: float) -> float | None:
        """-> the instant at which the next thing is due."""
        fallbackBlocks = self.fallbackBlocks
        if self._fallbacksFirst and self._fallbacks is not None:
            self._fallbacks.run(self._run, now)
        sent = self.blocks
        due = self._run(self._main, now)
        if self.pacers:
            # The group has one half of the rate, the receivers beside it the other.
            stalled = self._fallbacksFirst and self.fallbackBlocks == fallbackBlocks
            self._fallbacksFirst = self.blocks > sent or stalled
        if not self._fallbacks:
            return due
        # Also if they were first: the main cast may just have moved a receiver to unicast.
        fallback = self._fallbacks.run(self._run, now)
        return fallback if due is None or (fallback is not None and fallback < due) else due

    def _run(self, sender: CastSender, now: float) -> float | None:
        """
        Do what a cast has decided, for the length of a slice.

        @return: the instant to go on at; L{None}: when something arrives.
        @raise ContentChanged: the file is not what it was.
        """
        budget = SLICE
        while budget > 0:
            if sender.unsent:
                wait = sender.blockedUntil(self.pacers, now)
                if wait is not None:
                    return wait
                sent = sender.send(self, budget, now)
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
                budget -= self._announce(action) if sender.announces else 1
            elif isinstance(action, Left):
                self._receiverLeft(sender, action, now)
            else:
                self._bar(action)
        return now

    def _announce(self, action: Announce) -> int:
        """Tell a receiver that it is in.  -> datagrams sent, at least one for the sake of the budget."""
        receiver = self.receivers.get(action.peer)
        sent = 1
        if receiver is not None:
            for datagram, address in self.wire.announce(receiver.request, action.master, action.heard):
                self._queue.put(self, datagram, address)
                sent += 1
        return sent

    def _bar(self, action: Bar) -> None:
        """Keep other transports from serving a receiver what it is getting here."""
        if (receiver := self.receivers.get(action.peer)) is not None:
            self.site.bar(action.peer[0], receiver.request.name, action.seconds, action.why)

    def unsendable(self, error: OSError) -> None:
        """Report that a burst could not be sent."""
        self._queue.unsendable(self, error, next(iter(self.receivers), ("nobody", 0)))

    # Receivers that hear no multicast.

    def _fallback(self, peer: Peer) -> CastSender | None:
        """-> the sender of a receiver that goes on by unicast; L{None}: it does not."""
        return None if self._fallbacks is None else self._fallbacks.get(peer)

    def _dropFallback(self, peer: Peer) -> None:
        if self._fallbacks is not None:
            self._fallbacks.drop(peer)

    def _moveToUnicast(self, receiver: Receiver, action: Left, now: float) -> None:
        policy = self.wire.policy
        # None of a group's rules: it is a transfer of its own.
        unheard = None if action.heard else policy.maxRepeatsUnheard
        plain = RetransmitPolicy(repeat=policy.repeat, maxRepeatsUnheard=unheard)
        target = self.wire.unicastAddress(action.peer) if IGroupWire.providedBy(self.wire) else action.peer
        turn = Turn(plain, self.wire.count)
        # A listener that never had the turn is told that it has it.
        turn.join(action.peer, now, action.wants)
        if self._fallbacks is None:
            self._fallbacks = Fallbacks()
        self._fallbacks.add(action.peer, CastSender(turn, target, announces=not action.wants), now)
        self.fallbackReasons[action.outcome] += 1
        eventlog.movedToUnicast(self, receiver.request)
        self.listener.receiverLeft(self, receiver.request, outcomes.DEAF)
        self.site.timers.set(self, now)

    # Receivers leave.

    def _receiverLeft(self, sender: CastSender, action: Left, now: float) -> None:
        """A receiver's part has ended, says its cast; or it goes on by unicast."""
        receiver = self.receivers.get(action.peer)
        if receiver is None:
            return
        if action.outcome == outcomes.DEAF and sender is self._main:
            self._moveToUnicast(receiver, action, now)
            return
        self.receivers.pop(action.peer)
        self._dropFallback(action.peer)
        self._dismiss(receiver, self._outcome(action), now, action.heard)

    def _outcome(self, action: Left) -> str:
        """A client that never sends its last acknowledgement has everything, as far as anybody can tell."""
        count = self.wire.count
        missing = count is None or not action.wants or action.wants[-1].stop < count
        # Of one that never said a word nobody can tell anything: it may be a forgery, or a firewall.
        if action.outcome in (outcomes.SILENT, outcomes.CLOSED) and not missing and action.heard:
            return outcomes.UNCONFIRMED
        return action.outcome

    def _dismiss(self, receiver: Receiver, outcome: str, now: float, heard: bool = True) -> None:
        """
        Say farewell to a receiver and log how it ended.  Who fell silent without ever speaking may be somebody's
        forgery: no farewell.
        """
        request = receiver.request
        if heard or outcome != outcomes.SILENT:
            for datagram, address in self._farewell(request, outcome):
                self._queue.put(self, datagram, address)
        eventlog.receiverLeft(self, receiver, outcome, now)
        self.listener.receiverLeft(self, request, outcome)

    def _farewell(self, request: Request, outcome: str) -> list[tuple[bytes, Peer]]:
        try:
            return list(self.wire.farewell(request, outcome))
        except Exception:
            # It keeps neither the others from theirs nor this cast from closing.
            _log.failure("{transport}: a farewell failed", event="fault", transport=self.name)
            return []

    def _statistics(self) -> Mapping[str, int]:
        try:
            return self._main.cast.statistics()
        except Exception:
            # A cast without its counters closes all the same.
            _log.failure("{transport}: the statistics of a cast failed", event="fault", transport=self.name)
            return {}

    def replace(self, peer: Peer) -> None:
        """End the part of this peer: the machine behind it has restarted."""
        if (receiver := self.receivers.pop(peer, None)) is None:
            return
        now = self._seconds()
        self._dropFallback(peer)
        # It would take a greeting that was kept for a full socket for an answer to what it has asked since.
        self._queue.discard(peer)
        try:
            self._leaveFastPath()
            self._main.cast.hear(peer, Leave(outcomes.REPLACED), now)
        except Exception:
            self._fail()
        self._dismiss(receiver, outcomes.REPLACED, now)
        self.pump()

    def endIfIdle(self) -> None:
        """End a cast without receivers, that only waits for one to come back: the server is about to stop."""
        if not self.receivers:
            self.end(outcomes.STOPPED)

    def end(self, outcome: str) -> None:
        """Say farewell to all receivers and close."""
        self._leaveFastPath()
        now = self._seconds()
        receivers, self.receivers = self.receivers, {}
        for receiver in receivers.values():
            self._dismiss(receiver, outcome, now)
        self._close()

    def _close(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self.group is not None:
            eventlog.groupClosed(self, self._statistics())
        self._dropFastPath()
        self._chunk = None
        self.site.timers.set(self, None)
        try:
            self.wire.close(self._seconds())
        except Exception:
            _log.failure("{transport}: a cast failed to close", event="fault", transport=self.name)
        closeContent(self.content, self.name)
        self.listener.castClosed(self)


@implementer(IDatagramPort)
class ListeningTransport:
    """
    The transport of a cast or upload that lives on the listening port: the port itself, answering from the address that
    was asked.
    """

    def __init__(self, port: IListeningPort, request: Request) -> None:
        self._port = port
        self._local = request.local
        self._peer = request.peer

    def write(self, datagram: Octets, address: Peer | None = None) -> None:
        self._port.writeFrom(datagram, address or self._peer, self._local)

    def writeFrom(self, datagram: Octets, address: Peer, local: Local) -> None:
        self._port.writeFrom(datagram, address, local)

    def writeBurst(self, image: Octets, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        return self._port.writeBurst(image, step, address or self._peer, local or self._local)

    def burstWriter(self, step: int, most: int) -> Callable[[Octets], None]:
        def send(image: Octets) -> None:
            if self._port.writeBurst(image, step, self._peer, self._local) < len(image):
                raise BlockingIOError

        return send

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        self._port.setGroup(ttl, interface, loopback, broadcast)

    def getHost(self) -> IPv4Address | IPv6Address:
        return self._port.getHost()

    def stopListening(self) -> None:
        """Leave the port open: it is the listener's."""
