"""
Simulates many receivers around one cast, by numbers of blocks only, without packets.

L{Hall} checks, with every action, what must hold for any cast: the turn belongs to one member, no block is sent that no
receiver asked for, no member leaves twice, and a cast never asks to be polled at once without a reason.
"""

import random
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from castd import outcomes
from castd.cast.events import (
    Announce,
    Event,
    Leave,
    Left,
    RequestBlocks,
    SendBlocks,
)
from castd.cast.policy import RetransmitPolicy
from castd.interfaces import ICast
from castd.request import Peer

#: Seconds from one end to the other.
LATENCY = 0.001


@dataclass
class Habits:
    """
    How a receiver behaves.

    @ivar window: blocks it asks for at once.
    @ivar deaf: the receiver hears datagrams to itself, never to the group.
    @ivar confirms: the receiver answers an announcement that does not give it the turn.
    @ivar leaves: the receiver leaves at once when it has everything, also without the turn.
    @ivar repeats: the receiver repeats its request after a silence of so many seconds.
    @ivar eager: the request asks for the first blocks, as a plain TFTP request does.
    """

    window: int = 1
    deaf: bool = False
    confirms: bool = True
    leaves: bool = True
    repeats: float = 1.5
    eager: bool = False


@dataclass
class Receiver:
    """
    One simulated receiver.

    @ivar lacks: blocks that the receiver has not heard.
    @ivar master: the receiver believes that it has the turn.
    @ivar here: the cast counts the receiver as a member, by the actions that were seen.
    @ivar wanted: the last request for blocks that reached the cast.
    @ivar served: the blocks of C{wanted} that were sent already.
    @ivar restarted: the receiver has begun anew; the cast cannot tell whether it had heard what was sent before.
    @ivar spoke: the last instant at which the receiver sent or heard a datagram of its own.
    """

    peer: Peer
    habits: Habits
    lacks: set[int]
    master: bool = False
    here: bool = False
    dead: bool = False
    restarted: bool = False
    ended: str | None = None
    wanted: range = range(0)
    served: set[int] = field(default_factory=set)
    spoke: float = 0.0

    def wish(self) -> Event:
        """Return the event that the receiver would send now."""
        if not self.lacks:
            return Leave(outcomes.DONE)
        first = min(self.lacks)
        return RequestBlocks((range(first, min(first + self.habits.window, self.end)),))

    end: int = 0


class Hall:
    """The cast under test, its receivers, and the lossy path between them."""

    def __init__(self, cast: ICast, policy: RetransmitPolicy, blocks: int, group: bool, chance: random.Random) -> None:
        self.cast, self.policy, self.blocks, self.group, self.chance = cast, policy, blocks, group, chance
        self.now = 0.0
        self.loss = self.duplicate = 0.0
        self.delay = 0.0  # seconds that a datagram to the cast takes longer, at the most
        self.everLossy = False
        self.receivers: dict[Peer, Receiver] = {}
        self.top = -1
        self.sound = True
        self._under: list[tuple[float, int, Peer, Event | None]] = []
        self._serial = count()

    # From receivers to the cast; None is a request.

    def post(self, receiver: Receiver, event: Event | None) -> None:
        """Send an event of a receiver to the cast; it may be lost, or arrive twice."""
        receiver.spoke = self.now
        for copy in range(1 + (self.chance.random() < self.duplicate)):
            if self.chance.random() >= self.loss:
                when = self.now + LATENCY * (1 + copy * 3 * self.chance.random())
                if self.delay:
                    when += self.delay * self.chance.random()
                heappush(self._under, (when, next(self._serial), receiver.peer, event))

    def ask(self, habits: Habits) -> Receiver:
        """Add a receiver, and send its request."""
        peer = (f"10.0.{len(self.receivers) >> 8}.{len(self.receivers) & 255}", 2000)
        receiver = Receiver(peer, habits, set(range(self.blocks)), end=self.blocks)
        self.receivers[peer] = receiver
        self.post(receiver, None)
        return receiver

    def _arrives(self, peer: Peer, event: Event | None) -> None:
        receiver = self.receivers[peer]
        if event is None:
            wants = (range(1),) if receiver.habits.eager else ()
            receiver.here = True
            if wants:
                receiver.wanted, receiver.served = wants[0], set()
            self.cast.join(peer, self.now, wants)
        else:
            if isinstance(event, RequestBlocks) and event.ranges:
                # A cast may serve the newer of two requests, whichever came first, so both count.
                low = min(receiver.wanted.start, event.ranges[0].start) if receiver.wanted else event.ranges[0].start
                receiver.wanted = range(low, max(receiver.wanted.stop, event.ranges[0].stop))
            self.cast.hear(peer, event, self.now)

    # From the cast to receivers.

    def drain(self) -> None:
        """Poll the cast until it has no action, check each action, and pass it to the receivers."""
        self.sound = False
        self._drain()
        self.sound = True

    def _drain(self) -> None:
        for _ in range(200):
            action = self.cast.poll(self.now)
            if action is None:
                break
            self._check(action)
            self._heard(action)
        else:
            raise AssertionError("two hundred actions without a pause")
        turns = [
            peer for peer in self.receivers if (peerState := self.cast.peerState(peer)) is not None and peerState.turn
        ]
        assert len(turns) <= 1, f"several masters: {turns}"
        assert bool(turns) == bool(self.cast.memberCount()), "members, and nobody has the turn"
        assert self.cast.memberCount() == sum(receiver.here for receiver in self.receivers.values())
        deadline = self.cast.deadline(self.now)
        assert deadline is None or deadline > self.now, "to be polled at once, and nothing to do"
        assert (deadline is None) == (not self.cast.memberCount()), "members that nobody will ever look after"

    def _check(self, action: object) -> None:
        if isinstance(action, Left):
            assert self.receivers[action.peer].here, f"{action.peer} was told farewell twice"
        elif isinstance(action, Announce):
            assert self.receivers[action.peer].here, f"{action.peer} is no member and was greeted"
            peerState = self.cast.peerState(action.peer)
            assert peerState is not None
            assert not action.master or peerState.turn
        elif isinstance(action, SendBlocks):
            receiver = self.receivers[action.peer]
            peerState = self.cast.peerState(action.peer)
            assert receiver.here
            assert peerState is not None
            assert peerState.turn, "blocks for one without the turn"
            assert 0 <= action.numbers.start < action.numbers.stop <= self.blocks
            wanted = set(receiver.wanted)
            if not action.again:
                assert set(action.numbers) <= wanted, f"nobody wanted {action.numbers}"
                assert action.numbers.start >= receiver.wanted.start
            elif self.policy.keepAliveInterval is None:
                assert set(action.numbers) <= wanted, f"nobody wanted {action.numbers} again"
            else:
                # A group sends the block after it as well, to who may have lost its answer to a copy of this one.
                assert action.numbers.stop - 1 <= max(self.top, action.numbers.start + 1)
            self.top = max(self.top, action.numbers[-1])

    def _heard(self, action: object) -> None:
        if isinstance(action, Left):
            receiver = self.receivers[action.peer]
            receiver.here = False
            receiver.wanted, receiver.served = range(0), set()
            # A member that is removed for its silence does not learn it, and asks again by its own timer.
            receiver.ended = action.outcome if action.outcome in (outcomes.DONE, outcomes.DEAF) else None
            if action.outcome == outcomes.DEAF:
                excused = receiver.habits.deaf or receiver.restarted or self.everLossy
                assert excused, "a receiver that hears everything was taken for deaf"
        elif isinstance(action, Announce):
            self._announced(self.receivers[action.peer], action.master)
        elif isinstance(action, SendBlocks):
            for receiver in self.receivers.values():
                if receiver.peer == action.peer or self.group:
                    self._blocks(receiver, action.numbers)

    def _announced(self, receiver: Receiver, master: bool) -> None:
        if receiver.dead or self.chance.random() < self.loss:
            return
        receiver.master = master
        receiver.spoke = self.now
        if master:
            if not receiver.habits.eager or receiver.lacks != set(range(self.blocks)):
                self.post(receiver, receiver.wish())
        elif receiver.habits.confirms:
            self.post(receiver, RequestBlocks(()) if receiver.lacks else receiver.wish())

    def _blocks(self, receiver: Receiver, numbers: range) -> None:
        if receiver.dead or receiver.ended or (receiver.habits.deaf and self.group):
            return
        came = {number for number in numbers if self.chance.random() >= self.loss}
        if not came:
            return
        new = came & receiver.lacks
        receiver.lacks -= came
        if receiver.master or not self.group:
            # Once for each burst, as a receiver answers the last block of a window or a gap, and only for new blocks.
            if new:
                self.post(receiver, receiver.wish())
        elif not receiver.lacks and new and receiver.habits.leaves:
            self.post(receiver, receiver.wish())

    # Time.

    def pass_(self, seconds: float, steps: int = 200_000) -> None:
        """Let time pass: events arrive, the cast is polled at its deadlines, and receivers repeat."""
        end = self.now + seconds
        for _ in range(steps):
            self.drain()
            due = [end]
            if self._under:
                due.append(self._under[0][0])
            if (deadline := self.cast.deadline(self.now)) is not None:
                due.append(deadline)
            due.extend(self._policy(receiver) for receiver in self._waiting())
            self.now = max(self.now, min(due))
            while self._under and self._under[0][0] <= self.now:
                _, _, peer, event = heappop(self._under)
                self._arrives(peer, event)
                self.drain()
            for receiver in self._waiting():
                if self._policy(receiver) <= self.now:
                    self._asksAgain(receiver)
            if self.now >= end:
                self.drain()
                return
        raise AssertionError(f"no end of talk within {seconds} s")

    def _waiting(self) -> list[Receiver]:
        return [receiver for receiver in self.receivers.values() if not receiver.dead and receiver.ended is None]

    def _policy(self, receiver: Receiver) -> float:
        return receiver.spoke + receiver.habits.repeats

    def _asksAgain(self, receiver: Receiver) -> None:
        """Repeat the last request for blocks; the first request if nothing was heard, or it is no member."""
        if receiver.here and (receiver.master or not self.group or receiver.lacks != set(range(self.blocks))):
            self.post(receiver, receiver.wish())
        else:
            self.post(receiver, None)

    def finish(self) -> None:
        """Stop all losses, and check that every live receiver ends with C{done}, and the cast is empty at the end."""
        self.loss = self.duplicate = 0.0
        self.pass_(60.0)
        for receiver in self.receivers.values():
            # Not every cast serves members that hear no multicast by unicast; they give up and must delay no other.
            receiver.dead |= self.group and receiver.habits.deaf
        for _ in range(400):
            if not self._waiting() and not self.cast.memberCount():
                break
            self.pass_(5.0)
        left = {receiver.peer: (receiver.here, len(receiver.lacks)) for receiver in self._waiting()}
        assert not left, f"after {self.now:.0f} s these are not done: {left}"
        assert self.cast.memberCount() == 0
        assert self.cast.deadline(self.now) is None
