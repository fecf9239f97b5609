"""
CastProtocol: the DatagramProtocol of one cast.  Datagrams become events, the pump is the only sender, one alarm wakes
it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import Any

from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from castd import outcomes, telling
from castd.audience import Home, Receiver
from castd.cast.events import Ask, Gone, Greet, Leave, Warn
from castd.cast.turn import Turn
from castd.delivery import FULL, REST, Delivery
from castd.errors import ContentChanged, UnknownPeer, UnknownTid, WireError
from castd.interfaces import IContent, IDialect, IGroupWire, IPaced, ISite, IWire
from castd.lane import Lane, lane
from castd.layout import Chunk
from castd.request import Peer, Request, show

_log = Logger(namespace="castd")

#: Closed ports that a receiver's host reports in a row until it is taken for gone: one may be a restart's.
CLOSED_PORTS = 2
#: The part of an interval by which an alarm may come late.
JITTER = 0.1


class CastProtocol(DatagramProtocol):
    """
    Carries one cast, and beside it the casts of those who turned out to hear no multicast.

    @ivar receivers: who is here.
    @ivar blocks, repeats, octets, full: datagrams with blocks, those that were repetitions, octets of them, full
        sockets.
    @ivar joined: how many receivers came in all.
    @ivar beside: of the blocks, those by unicast beside the group; C{moved}: receivers served so, by reason.
    @ivar due, queued: see L{castd.alarms.Ringable}.
    @ivar over: nobody is left; it is closed.
    @ivar room, key: where the listener keeps it.
    @cvar largest: octets of the longest datagram that receivers send; SLAM's lists fit an Ethernet frame.
    """

    noisy = False
    largest = 2048
    room: Any = None
    key: Any = None

    def __init__(
        self,
        site: ISite,
        home: Home,
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
        self.site: Any = site
        self.home = home
        self.name = name
        self.dialect: Any = dialect
        self.wire: Any = wire
        self.content: Any = content
        self.pacers = pacers
        self.receivers: dict[Peer, Receiver] = {}
        self.blocks = self.repeats = self.octets = self.full = self.beside = 0
        self.moved: Counter[str] = Counter()
        self.joined = 0
        self.opened = self.site.reactor.seconds()
        self.due: float | None = None
        self.queued: tuple[float, int] | None = None
        self.over = False
        self._kept: deque[tuple[bytes, Peer]] = deque()
        self._seconds = self.site.reactor.seconds
        self._main = Delivery(self, self.wire.cast(self.wire.patience, self.wire.count))
        self._asides: dict[Peer, Delivery] = {}
        own = [pacer for pacer in pacers if pacer is not site.pacer]
        self._paced = own[0] if own and IPaced.providedBy(self._main.cast) else None
        self._rate: float = 0.0 if self._paced is None else self._paced.rate
        self._chunk: Chunk | None = None
        self._complained: set[int | None] = set()
        # In the lane (castd.lane): the steps taken are told to the cast when it is left.
        turn = self._main.cast
        self._turn = turn if isinstance(turn, Turn) and self.wire.stride and not pacers else None
        self._lane: Lane | None = None
        self._answer: bytes | None = None
        self._steps = 0
        self._steppedAt = self._interval = 0.0
        self._slack = 1.0
        self._stop = 0

    @property
    def main(self) -> Any:
        """The cast of the group, or of the one receiver."""
        return self._main.cast

    @property
    def joinable(self) -> bool:
        """Is the group itself still alive, apart from those who go on by unicast?"""
        return not self.over and (self._main.cast.members() > 0 or self._lingers(self._seconds()))

    def _lingers(self, now: float) -> bool:
        """Nobody is here, but somebody may come back, and must find the same file."""
        return not self.home.draining and self._main.cast.deadline(now) is not None

    # Who comes.

    def join(self, request: Request, instead: Peer | None = None) -> None:
        """This request belongs here; C{instead} is the member whose place it takes."""
        now = self._seconds()
        self._asides.pop(request.peer, None)
        receiver = self.receivers.get(request.peer)
        if receiver is None and instead is not None:
            receiver = self.receivers.pop(instead, None)
        if receiver is None:
            receiver = Receiver(request, now, (self.blocks, self.repeats, self.octets))
            self.joined += 1
        receiver.request = request
        self.receivers[request.peer] = receiver
        self._leaveLane()
        try:
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
        if request.peer in self._asides or (self.wire.group is None and self.heard(request.peer)):
            return False
        self.join(request)
        return True

    def heard(self, peer: Peer) -> bool:
        """Has this member acknowledged anything?"""
        return self._steps > 0 or peer in self._asides or bool(self._main.cast.heard(peer))

    # What is heard.

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
        elif self._lane is None or not self._firstStep(self._lane, datagram):
            self._hear(datagram, addr)

    def strangerReceived(self, datagram: bytes, addr: Any) -> None:
        """From the transport: not from the peer that the port was lent for."""
        self._hear(datagram, addr)

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
        numbers = lane.numbers(self._steps, self.wire.count)
        blocksize = self.wire.blocksize
        octets = min(numbers.stop * blocksize, self.content.size) - numbers.start * blocksize
        self.sent(numbers.start, len(numbers), octets, False)

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

    def _hear(self, datagram: bytes, peer: Peer) -> None:
        if self.over:
            return
        self._leaveLane()
        delivery = self._asides.get(peer, self._main)
        try:
            event = self.wire.receive(datagram, peer, delivery.cast.standing(peer))
        except WireError as error:
            self.home.malformed(datagram, peer, error)
            return
        except UnknownPeer:
            if self.home.mayAnswerStranger(peer) and (answer := self.dialect.refuse(None, UnknownTid())) is not None:
                self._write(answer, peer)
            return
        if event is None:
            return
        if isinstance(event, Ask):
            self.home.castAsked(datagram, peer)
            return
        if (receiver := self.receivers.get(peer)) is not None:
            receiver.closed = 0
        try:
            delivery.cast.hear(peer, event, self._seconds())
        except Exception:
            self._fail()
        self.pump()

    def _fail(self) -> None:
        """A fault of ours, or of a plugin's: its traceback is logged, this cast ends, the server goes on."""
        _log.failure("{transport}: a cast failed", event="fault", transport=self.name)
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
                self.site.alarms.set(self, self._seconds())

    def _leaveClosed(self, now: float) -> None:
        for peer, receiver in list(self.receivers.items()):
            if receiver.closed >= CLOSED_PORTS:
                self._asides.get(peer, self._main).cast.hear(peer, Leave(outcomes.CLOSED), now)

    # What goes out.

    def wake(self) -> None:
        """The alarm rings."""
        self._leaveLane()
        self._leaveClosed(self._seconds())
        self.pump()

    def pump(self) -> None:
        """Send what is due, and set the alarm: after every stimulus, always the same way."""
        if self.over:
            return
        now = self._seconds()
        if self._paced is not None:
            # Who loses much is sent less.
            self._paced.rate = self._rate * self._main.cast.pace  # type: ignore[attr-defined]
        try:
            due = self._flush(now) if self._kept else None
            if due is None:
                due = self._main.pump(now)
                # Only now: the main cast may just have moved somebody aside.
                for aside in list(self._asides.values()) if self._asides else ():
                    instant = aside.pump(now)
                    due = instant if due is None or (instant is not None and instant < due) else due
        except ContentChanged:
            self.end(outcomes.CHANGED)
            return
        except Exception:
            self._fail()
            return
        if not self.receivers and not self._lingers(now):
            self._close()
            return
        if self._main.idle and due is not None:
            # So that a crowd does not fall into step.
            self._slack = 1 + JITTER * self.site.random.random()
            due = now + (due - now) * self._slack
        self.site.alarms.set(self, due)
        if self._turn is not None and self._main.idle and self.blocks:
            self._enterLane()

    def _flush(self, now: float) -> float | None:
        """Greetings that a full socket did not take.  -> the instant to try again at, L{None}: all are out."""
        while self._kept:
            datagram, address = self._kept.popleft()
            if not self._write(datagram, address, first=True):
                return now + REST
        return None

    def _write(self, datagram: bytes, address: Peer, first: bool = False) -> bool:
        """-> False: the socket is full, the datagram is kept."""
        try:
            self.transport.write(datagram, address)  # type: ignore[union-attr, arg-type]
        except OSError as error:
            if error.errno in FULL:
                self.full += 1
                (self._kept.appendleft if first else self._kept.append)((datagram, address))
                return False
            self.unsendable(error, address)
        return True

    def unsendable(self, error: OSError, address: Peer | None = None) -> None:
        """For the network it is a lost datagram; for the operator one line for each kind of fault."""
        if isinstance(error, ConnectionRefusedError):
            self.peerUnreachable(address)
        elif error.errno not in self._complained:
            self._complained.add(error.errno)
            _log.warn(
                "{transport}: cannot send to {peer}: {why}",
                event="unsendable",
                transport=self.name,
                peer=show(address or next(iter(self.receivers), ("nobody", 0))),
                why=str(error),
            )

    def greet(self, action: Greet) -> int:
        """-> datagrams sent, at least one for the sake of the budget."""
        receiver = self.receivers.get(action.peer)
        sent = 1
        if receiver is not None and action.peer not in self._asides:
            for datagram, address in self.wire.greet(receiver.request, action.master, action.heard):
                self._write(datagram, address)
                sent += 1
        return sent

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

    # Who leaves.

    def gone(self, delivery: Delivery, action: Gone, now: float) -> None:
        """From a delivery: a receiver's part has ended; or it goes on by unicast."""
        receiver = self.receivers.get(action.peer)
        if receiver is None:
            return
        if action.outcome == outcomes.DEAF and delivery is self._main:
            self._moveAside(receiver, action, now)
            return
        self.receivers.pop(action.peer)
        self._asides.pop(action.peer, None)
        self._told(receiver, self._outcome(action), now, action.heard)

    def warned(self, action: Warn) -> None:
        """From a delivery: other transports are not to serve this receiver what it is getting here."""
        if (receiver := self.receivers.get(action.peer)) is not None:
            self.site.bar(action.peer[0], receiver.request.name, action.seconds, action.why)

    def _moveAside(self, receiver: Receiver, action: Gone, now: float) -> None:
        patience = replace(
            self.wire.patience,
            silence=31.0,
            alone=None,
            unheard=None,
            brief=None,
            terms=1,
            keep=None,
            gather=0.0,
            deaf=None,
        )
        target = self.wire.aside(action.peer) if IGroupWire.providedBy(self.wire) else action.peer
        aside = self._asides[action.peer] = Delivery(self, Turn(patience, self.wire.count), target)
        aside.cast.join(action.peer, now, action.wants)
        self.moved[action.outcome] += 1
        telling.moved(self, receiver.request)
        self.home.castLeft(self, receiver.request, outcomes.DEAF)
        self.site.alarms.set(self, now)

    def _outcome(self, action: Gone) -> str:
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
                self._write(datagram, address)
        telling.left(self, receiver, outcome, now)
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
        self._leaveLane()
        now = self._seconds()
        self._asides.pop(peer, None)
        self._main.cast.hear(peer, Leave(outcomes.REPLACED), now)
        self._told(receiver, outcomes.REPLACED, now)
        self.pump()

    def settle(self) -> None:
        """A stop begins: a cast without receivers only waits for somebody to come back."""
        if not self.receivers:
            self.end(outcomes.STOPPED)

    def end(self, outcome: str) -> None:
        """Tell everybody and close."""
        self._leaveLane()
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
            telling.closed(self)
        self._lane = self._answer = self._chunk = None
        self.site.alarms.set(self, None)
        try:
            self.wire.close(self._seconds())
        except Exception:
            _log.failure("{transport}: a cast failed to close", event="fault", transport=self.name)
        self.content.close()
        self.home.castClosed(self)
