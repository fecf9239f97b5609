"""
CastProtocol: the DatagramProtocol of one cast.  Datagrams become events, the pump is the only sender, one alarm wakes
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
)
from castd.cast.policy import RetransmitPolicy
from castd.cast.turn import Turn
from castd.errors import ContentChanged, UnknownPeer, UnknownTid, WireError
from castd.interfaces import IContent, IDialect, IGroupWire, ILiveTransfer, IPaced, ISite, IWire, LiveReceiver
from castd.request import Peer, Request
from castd.server import eventlog
from castd.server.audience import CastOwner, Receiver
from castd.server.fallback import Fallbacks
from castd.server.fastpath import FastPath
from castd.server.sender import CastSender
from castd.server.sendqueue import SendQueue

_log = Logger(namespace="castd")

#: Closed ports that a receiver's host reports in a row until it is taken for gone: one may be a restart's.
CLOSED_PORTS = 2
#: The part of an interval by which an alarm may come late.
JITTER = 0.1


def letGo(content: IContent, transport: str) -> None:
    """Close it; a source that fails at that keeps nobody."""
    try:
        content.close()
    except Exception:
        _log.failure("{transport}: a content failed to close", event="fault", transport=transport)


@implementer(ILiveTransfer)
class CastProtocol(FastPath):
    """
    Carries one cast, and beside it the casts of those who turned out to hear no multicast.

    @ivar name, fileName, size, group, opened: see L{ILiveTransfer}.
    @ivar receivers: who is here.
    @ivar full: full sockets; C{joined}: how many receivers came in all.
    @ivar beside: of the blocks, those by unicast beside the group; C{moved}: receivers served so, by reason.
    @ivar over: nobody is left; it is closed.
    @ivar entry, key: where the listener keeps it.
    @cvar largest: octets of the longest datagram that receivers send; SLAM's lists fit an Ethernet frame.
    """

    largest = 2048
    entry: Any = None
    key: Any = None

    def __init__(
        self,
        site: ISite,
        home: CastOwner,
        name: str,
        dialect: IDialect,
        wire: IWire,
        content: IContent,
        pacers: tuple[Any, ...] = (),
    ) -> None:
        """
        @param name: of the transport, for events.
        @param pacers: the cast's own and the site's, if they have a rate.
        """
        self._main = CastSender(self, wire.cast(wire.policy, wire.count))
        turn = self._main.cast
        super().__init__(site, wire, content, turn if isinstance(turn, Turn) and wire.stride and not pacers else None)
        self.home = home
        self.name = name
        self.fileName: str = content.name
        self.size: int | None = content.size
        self.group: Peer | None = wire.group
        self.dialect: Any = dialect
        self.pacers = pacers
        self.receivers: dict[Peer, Receiver] = {}
        self.full = self.beside = self.joined = 0
        self.moved: Counter[str] = Counter()
        self.opened = self._seconds()
        self.over = False
        self._fallbacks = Fallbacks()
        self._fallbacksFirst = False
        self._queue = SendQueue(self)
        own = [pacer for pacer in pacers if pacer is not site.pacer]
        self._paced = own[0] if own and IPaced.providedBy(turn) else None
        self._rate: float = 0.0 if self._paced is None else self._paced.rate

    @property
    def main(self) -> Any:
        """The cast of the group, or of the one receiver."""
        return self._main.cast

    @property
    def kind(self) -> str:
        """As L{ILiveTransfer.kind}."""
        return "unicast" if self.group is None else "group"

    def liveReceivers(self) -> Sequence[LiveReceiver]:
        """As L{ILiveTransfer.liveReceivers}."""
        sent, count = self.progress()[0], self.wire.count
        return [
            LiveReceiver(peer, receiver.request.name, sent - receiver.before[0], count, receiver.since)
            for peer, receiver in self.receivers.items()
        ]

    @property
    def joinable(self) -> bool:
        """Is the group itself still alive, apart from those who go on by unicast?"""
        try:
            return not self.over and (self._main.cast.members() > 0 or self._lingers(self._seconds()))
        except Exception:
            self._fail()
            return False

    def _lingers(self, now: float) -> bool:
        """Nobody is here, but somebody may come back, and must find the same file."""
        return not self.home.draining and self._main.cast.deadline(now) is not None

    # Who comes.

    def join(self, request: Request, instead: Peer | None = None) -> None:
        """This request belongs here; C{instead} is the member whose place it takes."""
        now = self._seconds()
        self._fallbacks.drop(request.peer)
        receiver = self.receivers.get(request.peer)
        if receiver is None and instead is not None:
            receiver = self.receivers.pop(instead, None)
        if receiver is None:
            receiver = Receiver(request, now, (self.blocks, self.repeats, self.octets))
            self.joined += 1
        receiver.request = request
        self.receivers[request.peer] = receiver
        try:
            self._leaveFastPath()
            self._main.cast.join(request.peer, now, self.wire.first(request), instead)
        except Exception:
            self._fail()
        self.pump()

    def repeated(self, request: Request, dialect: IDialect) -> bool:
        """
        A member asks once more.

        @return: True: its own request again, answered as it stands.  False: its machine has restarted, or wants another
            file: its part here is to be replaced.
        """
        receiver = self.receivers.get(request.peer)
        if receiver is None or dialect is not self.dialect or not request.repeats(receiver.request):
            return False
        if request.peer in self._fallbacks or (self.wire.group is None and self.heard(request.peer)):
            return False
        self.join(request)
        return True

    def heard(self, peer: Peer) -> bool:
        """Has this member acknowledged anything?"""
        return self._steps > 0 or peer in self._fallbacks or bool(self._main.cast.heard(peer))

    # What is heard.

    def strangerReceived(self, datagram: bytes, addr: Any) -> None:
        """From the transport: not from the peer that the port was lent for."""
        self._hear(datagram, addr)

    def _hear(self, datagram: bytes, peer: Peer) -> None:
        if self.over:
            return
        try:
            self._take(datagram, peer)
        except Exception:
            self._fail()

    def _take(self, datagram: bytes, peer: Peer) -> None:
        self._leaveFastPath()
        try:
            event = self.wire.receive(datagram, peer, self._standing(peer))
        except WireError as error:
            self.home.malformed(datagram, peer, error)
            return
        except UnknownPeer:
            if self.home.mayAnswerStranger(peer) and (answer := self.dialect.refuse(None, UnknownTid())) is not None:
                self._queue.put(answer, peer)
            return
        if event is None:
            return
        if isinstance(event, NewRequest):
            self.home.castAsked(datagram, peer)
            return
        if (receiver := self.receivers.get(peer)) is not None:
            receiver.closed = 0
        self._tell(peer, event)
        self.pump()

    def _standing(self, peer: Peer) -> PeerState | None:
        fallback = self._fallbacks.get(peer)
        if fallback is None:
            return self._main.cast.peerState(peer)
        peerState = fallback.cast.peerState(peer)
        # It may hear the group after all, and acknowledge what was sent there.
        top = getattr(self._main.cast, "top", -1)
        return peerState if peerState is None or peerState.top >= top else replace(peerState, top=top)

    def _tell(self, peer: Peer, event: Event) -> None:
        """To whom decides for this peer."""
        if (fallback := self._fallbacks.get(peer)) is None:
            self._main.cast.hear(peer, event, self._seconds())
        else:
            self._fallbacks.hear(fallback, peer, event, self._seconds())

    def _fail(self) -> None:
        """A fault of ours, or of a plugin's: its traceback is logged, this cast ends, the server goes on."""
        _log.failure("{transport}: a cast failed", event="fault", transport=self.name)
        self._dropFastPath()
        self.end(outcomes.FAILED)

    def peerUnreachable(self, peer: Peer | None = None) -> None:
        """
        From the transport: a host says that the port is closed.  C{None}: the one peer's.

        Believed when it is said twice in a row: a client may open its port anew between two blocks.
        """
        if peer is None and self.receivers:
            peer = next(iter(self.receivers))
        if peer is not None and (receiver := self.receivers.get(peer)) is not None:
            receiver.closed += 1
            if receiver.closed >= CLOSED_PORTS:
                # Not from here: the pump may be at work below us.
                self.site.timers.set(self, self._seconds())

    def _leaveClosed(self) -> None:
        for peer, receiver in list(self.receivers.items()):
            if receiver.closed >= CLOSED_PORTS:
                self._tell(peer, Leave(outcomes.CLOSED))

    # What goes out.

    def timerExpired(self) -> None:
        """The alarm rings."""
        try:
            self._leaveFastPath()
            self._leaveClosed()
        except Exception:
            self._fail()
        self.pump()

    def pump(self) -> None:
        """Send what is due, and set the alarm: after every stimulus, always the same way."""
        if self.over:
            return
        try:
            self._pump(self._seconds())
        except ContentChanged:
            self.end(outcomes.CHANGED)
        except Exception:
            self._fail()

    def _pump(self, now: float) -> None:
        if self._paced is not None:
            # Who loses much is sent less.
            self._paced.rate = self._rate * self._main.cast.pace  # type: ignore[attr-defined]
        due = self._sendDue(now) if self._queue.flush() is None else None
        if not self.receivers and not self._lingers(now):
            self._close()
            return
        if (rest := self._queue.rest) is not None:
            # A greeting that the socket did not take: the cast waits for its answer, and knows nothing of it.
            due = now + rest if due is None else min(due, now + rest)
        elif self._main.idle and due is not None:
            # So that a crowd does not fall into step.
            self._slack = 1 + JITTER * self.site.random.random()
            due = now + (due - now) * self._slack
        self.site.timers.set(self, due)
        if self._turn is not None and self._main.idle:
            if self.blocks:
                self._enterFastPath()
            elif self._queue.rest is None:
                self._awaitFirst()

    def _sendDue(self, now: float) -> float | None:
        """-> the instant of what is due next."""
        beside = self.beside
        if self._fallbacksFirst:
            self._fallbacks.pump(now)
        sent = self.blocks
        due = self._main.pump(now)
        if self.pacers:
            # The group has one half of the rate, those beside it the other.
            self._fallbacksFirst = self.blocks > sent or (self._fallbacksFirst and self.beside == beside)
        if not self._fallbacks:
            return due
        # Also if they were first: the main cast may just have moved somebody aside.
        fallback = self._fallbacks.pump(now)
        return fallback if due is None or (fallback is not None and fallback < due) else due

    def unsendable(self, error: OSError) -> None:
        """From a delivery: a burst could not be sent."""
        self._queue.unsendable(error, next(iter(self.receivers), ("nobody", 0)))

    def announce(self, action: Announce) -> int:
        """-> datagrams sent, at least one for the sake of the budget."""
        receiver = self.receivers.get(action.peer)
        sent = 1
        if receiver is not None:
            for datagram, address in self.wire.announce(receiver.request, action.master, action.heard):
                self._queue.put(datagram, address)
                sent += 1
        return sent

    # Who leaves.

    def gone(self, delivery: CastSender, action: Left, now: float) -> None:
        """From a delivery: a receiver's part has ended; or it goes on by unicast."""
        receiver = self.receivers.get(action.peer)
        if receiver is None:
            return
        if action.outcome == outcomes.DEAF and delivery is self._main:
            self._moveAside(receiver, action, now)
            return
        self.receivers.pop(action.peer)
        self._fallbacks.drop(action.peer)
        self._told(receiver, self._outcome(action), now, action.heard)

    def warned(self, action: Bar) -> None:
        """From a delivery: other transports are not to serve this receiver what it is getting here."""
        if (receiver := self.receivers.get(action.peer)) is not None:
            self.site.bar(action.peer[0], receiver.request.name, action.seconds, action.why)

    def _moveAside(self, receiver: Receiver, action: Left, now: float) -> None:
        known = self.wire.policy
        # None of a group's rules: it is a transfer of its own.
        policy = RetransmitPolicy(repeat=known.repeat, unheard=None if action.heard else known.unheard)
        target = self.wire.unicastAddress(action.peer) if IGroupWire.providedBy(self.wire) else action.peer
        turn = Turn(policy, self.wire.count)
        # A listener that never had the turn is told that it has it.
        turn.join(action.peer, now, action.wants)
        self._fallbacks.add(action.peer, CastSender(self, turn, target, announces=not action.wants), now)
        self.moved[action.outcome] += 1
        eventlog.moved(self, receiver.request)
        self.home.castLeft(self, receiver.request, outcomes.DEAF)
        self.site.timers.set(self, now)

    def _outcome(self, action: Left) -> str:
        """A client that never sends its last acknowledgement has everything, as far as anybody can tell."""
        count = self.wire.count
        missing = count is None or not action.wants or action.wants[-1].stop < count
        # Of one that never said a word nobody can tell anything: it may be a forgery, or a firewall.
        if action.outcome in (outcomes.SILENT, outcomes.CLOSED) and not missing and action.heard:
            return outcomes.UNCONFIRMED
        return action.outcome

    def _told(self, receiver: Receiver, outcome: str, now: float, heard: bool = True) -> None:
        """One farewell, one event.  Who fell silent without ever speaking may be somebody's forgery: no farewell."""
        request = receiver.request
        if heard or outcome != outcomes.SILENT:
            for datagram, address in self._farewell(request, outcome):
                self._queue.put(datagram, address)
        eventlog.left(self, receiver, outcome, now)
        self.home.castLeft(self, request, outcome)

    def _farewell(self, request: Request, outcome: str) -> list[tuple[bytes, Peer]]:
        try:
            return list(self.wire.farewell(request, outcome))
        except Exception:
            # It keeps neither the others from theirs nor this cast from closing.
            _log.failure("{transport}: a farewell failed", event="fault", transport=self.name)
            return []

    def replace(self, peer: Peer) -> None:
        """The machine behind this peer has restarted: its part here is over."""
        if (receiver := self.receivers.pop(peer, None)) is None:
            return
        now = self._seconds()
        self._fallbacks.drop(peer)
        # It would take a greeting that was kept for a full socket for an answer to what it has asked since.
        self._queue.forget(peer)
        try:
            self._leaveFastPath()
            self._main.cast.hear(peer, Leave(outcomes.REPLACED), now)
        except Exception:
            self._fail()
        self._told(receiver, outcomes.REPLACED, now)
        self.pump()

    def settle(self) -> None:
        """A stop begins: a cast without receivers only waits for somebody to come back."""
        if not self.receivers:
            self.end(outcomes.STOPPED)

    def end(self, outcome: str) -> None:
        """Tell everybody and close."""
        self._leaveFastPath()
        now = self._seconds()
        receivers, self.receivers = self.receivers, {}
        for receiver in receivers.values():
            self._told(receiver, outcome, now)
        self._close()

    def _close(self) -> None:
        if self.over:
            return
        self.over = True
        if self.wire.group is not None:
            eventlog.closed(self)
        self._dropFastPath()
        self._chunk = None
        self.site.timers.set(self, None)
        try:
            self.wire.close(self._seconds())
        except Exception:
            _log.failure("{transport}: a cast failed to close", event="fault", transport=self.name)
        letGo(self.content, self.name)
        self.home.castClosed(self)
        self._main.release()
        self._queue.release()
