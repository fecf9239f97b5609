"""
Sweep: the server asks, and each answer is a list of what is lacking.

All lists are one: what anybody lacks goes out in ascending order, each block once a sweep, and everybody hears it.
When nothing is left to send, one receiver is asked, and what it lacks is the next sweep.  Each block is thus repeated
until the one that is asked has it, and never once more for a list that was out of date: that is as little as can be
sent without a code.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import count as counter

from zope.interface import implementer

from castd import outcomes
from castd.cast.blockset import BlockBitmap, common, first, without
from castd.cast.events import (
    Action,
    Announce,
    Event,
    Leave,
    PeerState,
    Ranges,
    RequestBlocks,
    SendBlocks,
)
from castd.cast.inflight import InFlight, LossEstimator
from castd.cast.policy import RetransmitPolicy
from castd.cast.pollqueue import PolledMember, PollQueue
from castd.interfaces import IPaced
from castd.pacing import TokenBucket
from castd.request import Peer

#: A list and a block that pass each other on the way do so within this time.  Seconds.
FLIGHT = 0.03
#: Who has left all questions unanswered, and a group that has just emptied, are kept for so long: a receiver that
#: speaks again by its own timer finds the same file.  Seconds.
LINGER = 20.0
#: Receivers that are remembered at the most.
ROOM = 4096
#: The longest burst.  A receiver's network card holds some 32 to 64 frames.
LONGEST_BURST = 16
#: Who asks for the same blocks again and again waits so long, twice as long each time ...
PAUSE = 0.25
#: ... and after so many pauses is left alone for a minute.
PAUSES, MUTED = 8, 60.0
#: Nobody has said anything for so long: whoever still lacks something may as well think that nothing is going on.
QUIET = 2.0
#: Blocks a second for all receivers together that have never answered a question, whose addresses may be forged, and
#: how many at once after a pause: more than fit any client's list of single blocks.
UNVALIDATED_RATE, UNVALIDATED_DEPTH = 64.0, 1024.0
#: While more than this have never answered, they are asked at shorter intervals, down to the second: most are forged.
CROWD, SHORTEST_STEP = 16, 0.01


@implementer(IPaced)
class Sweep:
    """
    The cast of protocols in which receivers list what they lack.

    @ivar highestSent: the highest number ever sent, -1 before the first.
    @ivar asked, unanswered: questions, and those that nobody answered in time, for the counters.
    """

    def __init__(
        self,
        policy: RetransmitPolicy,
        count: int | None = None,
        flight: float = FLIGHT,
        linger: float = LINGER,
        room: int = ROOM,
    ) -> None:
        """
        @param count: the blocks of the content; L{None}: a code, whose numbers never end.
        """
        self.policy = policy
        self.count = count
        self.linger = linger
        self.highestSent = -1
        self.asked = self.unanswered = 0
        self._step = policy.repeat.first
        self._roll = PollQueue(room)
        self._union = BlockBitmap(count)
        self._flights = InFlight(flight)
        self._gauge = LossEstimator()
        self._unvalidated = TokenBucket(UNVALIDATED_RATE, UNVALIDATED_DEPTH)
        self._late: list[tuple[float, int, PolledMember]] = []
        self._ticket = counter()
        self._bursts = 0
        self._behalf: Peer | None = None
        self._master: PolledMember | None = None  # the last one that answered
        self._term = 0  # blocks of its turn
        self._question: PolledMember | None = None  # the one that is being waited for
        self._questionUntil = 0.0
        self._spokeAt = 0.0
        self._keep: range | None = None
        self._heardAt: float | None = None

    @property
    def pace(self) -> float:
        return self._gauge.pace

    def statistics(self) -> Mapping[str, int]:
        return {}

    # What goes in.

    def members(self) -> int:
        return len(self._roll)

    def join(self, peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        if instead is not None and (old := self._roll.get(instead)) is not None:
            self._part(old, outcomes.REPLACED)
        receiver = self._roll.get(peer)
        if receiver is None:
            if (oldest := self._roll.crowded()) is not None:
                self._part(oldest, outcomes.SILENT)
            receiver = PolledMember(peer, self.policy, self._bursts)
            self._roll.add(receiver)
            self._list(receiver, wants, now)
            if not wants:
                # No block need go out any more, and then it is never asked: it is looked at again in a while.
                receiver.putOff((), now + self.linger)
                self._remember(receiver)
        else:
            self._list(receiver, wants, now)

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        receiver = self._roll.get(peer)
        if receiver is None:
            return
        if isinstance(event, RequestBlocks):
            self._list(receiver, event.ranges, now)
        elif isinstance(event, Leave):
            self._heardAt = now
            early = event.outcome == outcomes.DONE and any(map(self._union.holds, receiver.asked))
            self._part(receiver, outcomes.EARLY if early else event.outcome)

    def late(self, now: float) -> None:
        """It asks when everything has gone out, and counts from there."""

    def heard(self, peer: Peer) -> bool:
        receiver = self._roll.get(peer)
        return receiver is not None and receiver.heard

    def peerState(self, peer: Peer) -> PeerState | None:
        receiver = self._roll.get(peer)
        if receiver is None:
            return None
        turn = receiver is self._master or receiver is self._question
        return PeerState(turn, receiver.asked[0] if receiver.asked else None, self.highestSent)

    def _list(self, receiver: PolledMember, ranges: Ranges, now: float) -> None:
        """It lacks these, and nothing else that it has ever named."""
        self._heardAt = now
        asked = receiver.askedAt
        if asked is not None:
            self._answered(receiver, ranges)
        late = common(ranges, self._flights.crossed(asked, now))
        if ranges and ranges == receiver.asked:
            if self._repeated(receiver, bool(late), now):
                return
        elif receiver.paused or receiver.repeats:
            receiver.paused, receiver.repeats = False, 0
            self._roll.place(receiver)
        self._enrol(receiver, bool(ranges), asked is not None, now)
        receiver.asked = ranges
        receiver.putOff(late, now + self._flights.flight if late else None)
        self._remember(receiver)
        self._add(receiver, without(ranges, late), now)
        self._behalf = receiver.peer

    def _add(self, receiver: PolledMember, ranges: Ranges, now: float) -> None:
        """
        Add what a receiver lacks to what is sent.

        Six octets can ask for a whole file, in anybody's name.  Who is real hears some blocks, is asked, answers, and
        then gets all that it lacks; whoever is forged never hears the question.
        """
        if not receiver.heard:
            ranges = first(ranges, int(self._unvalidated.available(now)))
            self._unvalidated.spend(sum(map(len, ranges)), now)
        for run in ranges:
            self._union.add(run)

    def _enrol(self, receiver: PolledMember, lacks: bool, answers: bool, now: float) -> None:
        """It is asked again, unless it has just said that it lacks nothing: it would say so for ever."""
        receiver.idle = 0 if lacks else receiver.idle + 1
        if answers and not lacks:
            self._roll.hush(receiver, now + self.linger)
        elif receiver.peer in self._roll.quiet and (lacks or receiver.idle > 1):
            self._roll.place(receiver)
        elif receiver.peer in self._roll.fresh and receiver.asked and not answers:
            self._roll.fresh.move_to_end(receiver.peer, last=False)  # it repeats itself: forgers seldom do

    def _answered(self, receiver: PolledMember, ranges: Ranges) -> None:
        """The answer to a question: its sender is no forged address, and is asked before others."""
        if receiver is self._question:
            self._question = None
            self._gauge.answered(ranges)
        receiver.askedAt = None
        receiver.failed = 0
        if not receiver.heard:
            receiver.heard = True
            self._roll.place(receiver)
        if self._master is not receiver:
            self._master, self._term = receiver, 0

    def _repeated(self, receiver: PolledMember, late: bool, now: float) -> bool:
        """
        The very same list once more.  -> must it wait?

        A receiver that names the same blocks although they went out hears no multicast, and would make the server send
        for ever.  It waits longer each time, and in the end is left alone for a while; nobody else is held up by it.
        """
        if receiver.paused:
            return True
        deaf = self.policy.deafAfterRepeats
        if deaf is None or late or any(map(self._union.holds, receiver.asked)):
            return False  # not all of it has gone out, or it may be under way: this proves nothing
        receiver.repeats += 1
        times = receiver.repeats - deaf
        if times < 0:
            return False
        receiver.paused = True
        self._roll.remove(receiver)
        if times < PAUSES:
            receiver.putOff(receiver.asked, now + PAUSE * 2**times)
        else:
            receiver.putOff((), now + MUTED)
        self._remember(receiver)
        return True

    def _remember(self, receiver: PolledMember) -> None:
        if receiver.lateAt is not None:
            heappush(self._late, (receiver.lateAt, next(self._ticket), receiver))

    def _part(self, receiver: PolledMember, outcome: str) -> None:
        if receiver is self._question:
            self._question = None
        if receiver is self._master:
            self._master = None
        self._roll.part(receiver, outcome)
        if not self._roll:
            self._union.clear()

    # What comes out.

    def poll(self, now: float) -> Action | None:
        self._mature(now)
        if not self._union:
            self._give(now)
            self._expire(now)
        return self._roll.pay() or self._send(now) or self._ask(now) or self._speak(now)

    def _mature(self, now: float) -> None:
        """What was put off is due."""
        while self._late and self._late[0][0] <= now:
            due, _, receiver = heappop(self._late)
            if receiver.lateAt != due or self._roll.get(receiver.peer) is not receiver:
                continue
            late = receiver.late
            receiver.putOff((), None)
            self._add(receiver, late, now)
            if receiver.paused:
                receiver.paused = False
                if late:
                    self._roll.place(receiver)
                else:  # a minute has passed: it begins anew, if it is still there
                    receiver.asked = ()
                    self._roll.hush(receiver, now + self.linger)
            elif not late and receiver.peer in self._roll.fresh and not self._askable(receiver):
                self._part(receiver, outcomes.SILENT)

    def _send(self, now: float) -> SendBlocks | None:
        if not self._union:
            return None
        run, again = self._union.take(LONGEST_BURST)
        self._sent(run, now)
        self._gauge.sent(run)
        self._term += len(run)
        assert self._behalf is not None
        return SendBlocks(run, self._behalf, again)

    def _sent(self, run: range, now: float) -> None:
        self._bursts += 1
        self._spokeAt = now
        self._keep = run[-1:]
        self.highestSent = max(self.highestSent, run[-1])
        self._flights.sent(run, now)

    def _give(self, now: float) -> None:
        """A question that was not answered in time is over."""
        receiver = self._question
        if receiver is None or now < self._questionUntil:
            return
        self._question = None
        self.unanswered += 1
        receiver.failed += 1
        if receiver is self._master:
            self._master = None
        if receiver.failed >= self.policy.maxFailedTurns:
            self._roll.hush(receiver, now + self.linger)
        else:
            self._roll.place(receiver)

    def _expire(self, now: float) -> None:
        """Who was quiet for long is gone."""
        while (receiver := self._roll.quietest) is not None and receiver.goneAt <= now:
            self._part(receiver, outcomes.SILENT)

    def _next(self) -> PolledMember | None:
        """-> who is to be asked: the one that answered last, while its turn lasts, then round."""
        master = self._master
        if master is None or not self._askable(master):
            return next(filter(self._askable, self._roll.candidates()), None)
        limit = self.policy.turnBudget
        if limit is None or not self.count or self._term <= limit * self.count:
            return master
        return next((each for each in self._roll.candidates() if each is not master and self._askable(each)), master)

    def _askable(self, receiver: PolledMember) -> bool:
        """
        It is not made to wait, and since it came a block went out that it could hear.

        Etherboot may give up if it is asked in words that no block has taught it before.  Who asks for nothing twice
        believes in another file, and only the question can tell it so.
        """
        if receiver.paused or receiver.peer in self._roll.quiet:
            return False
        return self._bursts > receiver.joinedAt or receiver.idle > 1

    def _ask(self, now: float) -> Announce | None:
        if self._union or self._question is not None or (receiver := self._next()) is None:
            return None
        if receiver is not self._master:
            self._term = 0
        self._question = receiver
        receiver.askedAt = now
        step = self._step
        if not receiver.heard:
            step = max(step / (1 + len(self._roll.fresh) // CROWD), min(step, SHORTEST_STEP))
        self._questionUntil = now + step
        self._gauge.asked()
        self.asked += 1
        return Announce(receiver.peer, True, receiver.heard)

    def _speak(self, now: float) -> SendBlocks | None:
        """While somebody is being asked the others must not think that nothing is going on, and all speak at once."""
        due = self._speakAt()
        if due is None or now < due or self._keep is None or self._question is None:
            return None
        self._sent(self._keep, now)
        return SendBlocks(self._keep, self._question.peer, again=True)

    def _speakAt(self) -> float | None:
        """-> when a block is to be sent only to show life."""
        if (
            self.policy.keepAliveInterval is None
            or self._question is None
            or self._keep is None
            or self._heardAt is None
        ):
            return None
        due = self._spokeAt + self.policy.keepAliveInterval
        return due if due < self._heardAt + QUIET else None

    def deadline(self, now: float) -> float | None:
        if self._roll.owed or self._union:
            return now
        times: list[float] = []
        if self._question is not None:
            times.append(self._questionUntil)
            if (due := self._speakAt()) is not None:
                times.append(due)
        elif self._next() is not None:
            return now
        if self._late:
            times.append(self._late[0][0])
        if (receiver := self._roll.quietest) is not None:
            times.append(receiver.goneAt)
        if not self._roll and self._heardAt is not None and self._heardAt + self.linger > now:
            times.append(self._heardAt + self.linger)
        return max(min(times), now) if times else None
