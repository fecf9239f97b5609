"""
Decide what is sent in protocols where the server asks, and each receiver answers with a list of the blocks it lacks.

Theory of operation
===================

All lists are merged: the blocks that any member lacks are sent in ascending order, each once a sweep, and all members
receive them.  When all are sent, one member is asked, and the blocks that it lacks are the next sweep.  So each block
is repeated until the member that is asked has it, and never for a list that was out of date: less cannot be sent
without an erasure code.

A I{list} replaces all that its sender has listed before.  Blocks that were sent so shortly before a list arrived that
they may have crossed it are I{deferred}, not dropped: they are sent if no newer list shows that they have arrived.

A I{question} is an L{Announce} with C{master} set.  The I{master} is the member that answered last; it is asked again
before others until its turn has cost enough (C{turnBudget}).  Only an answer proves that an address is not forged, so
for members that never gave one little is sent (L{UNVALIDATED_RATE}), and they are asked after those that did.

States
======

They follow from what is still to do, and are not stored:

 - I{sending}: blocks that a member lacks are still to be sent;
 - I{asking}: all of them are sent, and a member has been asked;
 - I{idle}: all of them are sent, and there is no member to ask.

What happens in each::

             list                       answer                    Leave                       time is over
    sending  its blocks are added       its blocks are added      the member is removed       -
    asking   lacks some: sending        sending, or the next      of the one asked:           the next member
                                        member is asked           the next member is asked    is asked
    idle     sending, or asking         -                         the member is removed       -

A question stays open while blocks are sent; the time for its answer ends only in I{asking}.  Where there is no member
any more, no block is lacking, and the cast is kept for a while.

Instants
========

Everything that happens by itself happens at one of these; C{deadline} gives the next one:

 - C{_answerDueAt}: the question is over without an answer.
 - C{_keepAliveAt()}: while a member is being asked, a block is sent once more, so that the other members do not take
   the group for silent and all send lists at once.
 - C{PolledMember.deferredUntil}: deferred blocks are added to what is sent; a paused member is served again; a member
   that could not be asked so far is removed.
 - C{PolledMember.removeAt}: a silent member is removed.
 - C{_heardAt + linger}: a cast without members is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import count as counter

from zope.interface import implementer

from castd import outcomes
from castd.cast.blockset import BlockBitmap, difference, firstNumbers, intersection
from castd.cast.events import Action, Announce, Event, Leave, PeerState, Ranges, RequestBlocks, SendBlocks
from castd.cast.inflight import InFlight, LossEstimator
from castd.cast.policy import RetransmitPolicy
from castd.cast.pollqueue import PolledMember, PollQueue
from castd.interfaces import IPaced
from castd.pacing import TokenBucket
from castd.request import Peer

#: A list may have been sent before a block arrived that was sent within this time.  Seconds.
FLIGHT_TIME = 0.03
#: How long silent members, and a cast without members, are kept: a receiver whose own timer makes it send a list again
#: finds the same file.  Seconds.
LINGER = 20.0
#: The most members.
MAX_MEMBERS = 4096
#: Blocks of the longest burst.  A receiver's network card holds some 32 to 64 frames.
LONGEST_BURST = 16
#: The first pause of a member that asks for the same blocks again and again; each further one is twice as long
#: (seconds) ...
FIRST_PAUSE = 0.25
#: ... and after so many pauses the member is paused for a minute.
MAX_PAUSES, MUTE_TIME = 8, 60.0
#: If no member has sent anything for so long, no block is sent any more only to show that the group is alive.  Seconds.
KEEP_ALIVE_LIMIT = 2.0
#: Blocks a second for all receivers together that have never answered a question, whose addresses may be forged, and
#: how many at once after a pause: more than fit any client's list of single blocks.
UNVALIDATED_RATE, UNVALIDATED_DEPTH = 64.0, 1024.0
#: Unvalidated members have less time to answer for each so many of them, down to the second figure (seconds), as most
#: are forged.
CROWD, MIN_ANSWER_TIME = 16, 0.01


@implementer(IPaced)
class Sweep:
    """
    Decides what is sent in protocols where receivers list the blocks that they lack.

    @ivar highestSent: the highest number ever sent, -1 before the first.
    @ivar questions, unanswered: how many questions were sent, and how many of them were not answered in time.
    """

    def __init__(
        self,
        policy: RetransmitPolicy,
        count: int | None = None,
        flightTime: float = FLIGHT_TIME,
        linger: float = LINGER,
        maxMembers: int = MAX_MEMBERS,
    ) -> None:
        """
        @param count: how many blocks the content has; L{None}: an erasure code, whose numbers never end.
        @param flightTime: see L{FLIGHT_TIME}; C{linger}: see L{LINGER}; C{maxMembers}: see L{MAX_MEMBERS}.
        """
        self.policy = policy
        self.count = count
        self.linger = linger
        self.highestSent = -1
        self.questions = self.unanswered = 0
        self._answerTime = policy.repeat.first
        self._queue = PollQueue(maxMembers)
        self._lacking = BlockBitmap(count)
        self._inFlight = InFlight(flightTime)
        self._loss = LossEstimator()
        self._unvalidated = TokenBucket(UNVALIDATED_RATE, UNVALIDATED_DEPTH)
        # An entry whose instant is no longer that of its member is out of date: a later entry counts.
        self._deferred: list[tuple[float, int, PolledMember]] = []
        self._ordinals = counter()
        self._bursts = 0
        self._lastLister: Peer | None = None  # blocks are sent on its behalf
        self._master: PolledMember | None = None  # the last one that answered
        self._masterBlocks = 0  # blocks sent in its turn
        self._asked: PolledMember | None = None  # its answer is awaited
        self._answerDueAt = 0.0
        self._sentAt = 0.0  # the instant of the last burst
        self._lastBlock: range | None = None
        self._heardAt: float | None = None  # the instant at which any member sent anything

    @property
    def pace(self) -> float:
        """The part of the configured rate to send at, adapted to the losses of the receivers."""
        return self._loss.pace

    def statistics(self) -> Mapping[str, int]:
        """Return no counters: a sweep has none beyond those that the event of its end has in any case."""
        return {}

    # Requests and lists.

    def memberCount(self) -> int:
        return len(self._queue)

    def join(self, peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        if instead is not None and (old := self._queue.get(instead)) is not None:
            self._remove(old, outcomes.REPLACED)
        receiver = self._queue.get(peer)
        if receiver is None:
            if (oldest := self._queue.toEvict()) is not None:
                self._remove(oldest, outcomes.SILENT)
            receiver = PolledMember(peer, self.policy, self._bursts)
            self._queue.add(receiver)
            self._listReceived(receiver, wants, now)
            if not wants:
                # It is asked only after a block was sent, and that may not happen: then it is removed in a while.
                receiver.defer((), now + self.linger)
                self._schedule(receiver)
        else:
            self._listReceived(receiver, wants, now)

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        receiver = self._queue.get(peer)
        if receiver is None:
            return
        if isinstance(event, RequestBlocks):
            self._listReceived(receiver, event.ranges, now)
        elif isinstance(event, Leave):
            self._heardAt = now
            early = event.outcome == outcomes.DONE and any(map(self._lacking.intersects, receiver.wanted))
            self._remove(receiver, outcomes.EARLY if early else event.outcome)

    def burstDelayed(self, now: float) -> None:
        """Do nothing: a question is sent after all blocks, and the time for its answer begins then."""

    def heard(self, peer: Peer) -> bool:
        receiver = self._queue.get(peer)
        return receiver is not None and receiver.heard

    def peerState(self, peer: Peer) -> PeerState | None:
        receiver = self._queue.get(peer)
        if receiver is None:
            return None
        turn = receiver is self._master or receiver is self._asked
        return PeerState(turn, receiver.wanted[0] if receiver.wanted else None, self.highestSent)

    def _listReceived(self, receiver: PolledMember, ranges: Ranges, now: float) -> None:
        """Handle a list: its sender lacks these blocks, and no others that it has listed before."""
        self._heardAt = now
        askedAt = receiver.askedAt
        if askedAt is not None:
            self._questionAnswered(receiver, ranges)
        crossing = intersection(ranges, self._inFlight.crossing(askedAt, now))
        if ranges and ranges == receiver.wanted:
            if self._mustPause(receiver, bool(crossing), now):
                return
        elif receiver.paused or receiver.unchangedRequests:
            receiver.paused, receiver.unchangedRequests = False, 0
            self._queue.enqueue(receiver)
        self._requeue(receiver, bool(ranges), askedAt is not None, now)
        receiver.wanted = ranges
        receiver.defer(crossing, now + self._inFlight.flightTime if crossing else None)
        self._schedule(receiver)
        self._addLacking(receiver, difference(ranges, crossing), now)
        self._lastLister = receiver.peer

    def _addLacking(self, receiver: PolledMember, ranges: Ranges, now: float) -> None:
        """
        Add blocks that a receiver lacks to those that are sent.

        Six octets with a forged address can ask for a whole file, so an unvalidated receiver gets a few blocks only.  A
        real one receives them, is asked, answers, and then gets all that it lacks; a forged one never gets the
        question.
        """
        if not receiver.heard:
            ranges = firstNumbers(ranges, int(self._unvalidated.available(now)))
            self._unvalidated.spend(sum(map(len, ranges)), now)
        for run in ranges:
            self._lacking.add(run)

    def _requeue(self, receiver: PolledMember, lacks: bool, answers: bool, now: float) -> None:
        """
        Put the sender of a list into the queue in which it will be asked again, unless it has just answered that it
        lacks nothing: it would give the same answer for ever.
        """
        receiver.emptyLists = 0 if lacks else receiver.emptyLists + 1
        if answers and not lacks:
            self._queue.setSilent(receiver, now + self.linger)
        elif receiver.peer in self._queue.silent and (lacks or receiver.emptyLists > 1):
            self._queue.enqueue(receiver)
        elif receiver.peer in self._queue.unvalidated and receiver.wanted and not answers:
            self._queue.enqueueFirst(receiver)  # it repeats its list, which a forged sender seldom does

    def _questionAnswered(self, receiver: PolledMember, ranges: Ranges) -> None:
        """Handle an answer to a question: the address of its sender is not forged, and it is asked before others."""
        if receiver is self._asked:
            self._asked = None
            self._loss.answered(ranges)
        receiver.askedAt = None
        receiver.failedTurns = 0
        if not receiver.heard:
            receiver.heard = True
            self._queue.enqueue(receiver)
        if self._master is not receiver:
            self._master, self._masterBlocks = receiver, 0

    def _mustPause(self, receiver: PolledMember, crossing: bool, now: float) -> bool:
        """
        Pause a receiver that sends the very same list again and again.

        A receiver that lists the same blocks although they were sent does not hear the group, and would make the server
        send for ever.  Its pauses get longer each time, and the last one is a minute; no other receiver waits for it.

        @param crossing: some of these blocks were sent so shortly before that they may have crossed the list.
        @return: whether the receiver is paused.
        """
        if receiver.paused:
            return True
        deaf = self.policy.deafAfterRepeats
        if deaf is None or crossing or any(map(self._lacking.intersects, receiver.wanted)):
            return False  # some blocks are not sent yet, or may not have arrived yet: this proves nothing
        receiver.unchangedRequests += 1
        times = receiver.unchangedRequests - deaf
        if times < 0:
            return False
        receiver.paused = True
        self._queue.dequeue(receiver)
        if times < MAX_PAUSES:
            receiver.defer(receiver.wanted, now + FIRST_PAUSE * 2**times)
        else:
            receiver.defer((), now + MUTE_TIME)
        self._schedule(receiver)
        return True

    def _schedule(self, receiver: PolledMember) -> None:
        """Have L{_resume} deal with a receiver at its C{deferredUntil}."""
        if receiver.deferredUntil is not None:
            heappush(self._deferred, (receiver.deferredUntil, next(self._ordinals), receiver))

    def _remove(self, receiver: PolledMember, outcome: str) -> None:
        if receiver is self._asked:
            self._asked = None
        if receiver is self._master:
            self._master = None
        self._queue.remove(receiver, outcome)
        if not self._queue:
            self._lacking.clear()

    # Actions.

    def poll(self, now: float) -> Action | None:
        self._resume(now)
        if not self._lacking:
            self._endQuestion(now)
            self._removeSilent(now)
        return self._queue.nextNotice() or self._send(now) or self._ask(now) or self._keepAlive(now)

    def _resume(self, now: float) -> None:
        """Deal with the receivers whose C{deferredUntil} has come."""
        while self._deferred and self._deferred[0][0] <= now:
            due, _, receiver = heappop(self._deferred)
            if receiver.deferredUntil != due or self._queue.get(receiver.peer) is not receiver:
                continue
            deferred = receiver.deferred
            receiver.defer((), None)
            self._addLacking(receiver, deferred, now)
            if receiver.paused:
                receiver.paused = False
                if deferred:
                    self._queue.enqueue(receiver)
                else:  # the last pause is over: it begins anew, if it sends another list
                    receiver.wanted = ()
                    self._queue.setSilent(receiver, now + self.linger)
            elif not deferred and receiver.peer in self._queue.unvalidated and not self._mayAsk(receiver):
                self._remove(receiver, outcomes.SILENT)

    def _send(self, now: float) -> SendBlocks | None:
        if not self._lacking:
            return None
        run, again = self._lacking.nextRun(LONGEST_BURST)
        self._noteSent(run, now)
        self._loss.sent(run)
        self._masterBlocks += len(run)
        assert self._lastLister is not None
        return SendBlocks(run, self._lastLister, again)

    def _noteSent(self, run: range, now: float) -> None:
        self._bursts += 1
        self._sentAt = now
        self._lastBlock = run[-1:]
        self.highestSent = max(self.highestSent, run[-1])
        self._inFlight.sent(run, now)

    def _endQuestion(self, now: float) -> None:
        """Give up a question that was not answered in time."""
        receiver = self._asked
        if receiver is None or now < self._answerDueAt:
            return
        self._asked = None
        self.unanswered += 1
        receiver.failedTurns += 1
        if receiver is self._master:
            self._master = None
        if receiver.failedTurns >= self.policy.maxFailedTurns:
            self._queue.setSilent(receiver, now + self.linger)
        else:
            self._queue.enqueue(receiver)

    def _removeSilent(self, now: float) -> None:
        """Remove silent members whose C{removeAt} has come."""
        while (receiver := self._queue.longestSilent) is not None and receiver.removeAt <= now:
            self._remove(receiver, outcomes.SILENT)

    def _nextToAsk(self) -> PolledMember | None:
        """Return the member to ask: the master while its turn budget lasts, else the next one in the queues."""
        master = self._master
        if master is None or not self._mayAsk(master):
            return next(filter(self._mayAsk, self._queue.candidates()), None)
        limit = self.policy.turnBudget
        if limit is None or not self.count or self._masterBlocks <= limit * self.count:
            return master
        return next((each for each in self._queue.candidates() if each is not master and self._mayAsk(each)), master)

    def _mayAsk(self, receiver: PolledMember) -> bool:
        """
        Find out whether a member may be asked: it is not paused, and a block was sent since it joined.

        Etherboot may give up if it gets a question with a header that it has not yet seen in a block.  A member that
        has sent two lists without a block knows another version of the file, and only a question makes it start over.
        """
        if receiver.paused or receiver.peer in self._queue.silent:
            return False
        return self._bursts > receiver.burstsAtJoin or receiver.emptyLists > 1

    def _ask(self, now: float) -> Announce | None:
        if self._lacking or self._asked is not None or (receiver := self._nextToAsk()) is None:
            return None
        if receiver is not self._master:
            self._masterBlocks = 0
        self._asked = receiver
        receiver.askedAt = now
        seconds = self._answerTime
        if not receiver.heard:
            seconds = max(seconds / (1 + len(self._queue.unvalidated) // CROWD), min(seconds, MIN_ANSWER_TIME))
        self._answerDueAt = now + seconds
        self._loss.asked()
        self.questions += 1
        return Announce(receiver.peer, True, receiver.heard)

    def _keepAlive(self, now: float) -> SendBlocks | None:
        """Send a block once more while a member is being asked, if none was sent for C{keepAliveInterval}."""
        due = self._keepAliveAt()
        if due is None or now < due or self._lastBlock is None or self._asked is None:
            return None
        self._noteSent(self._lastBlock, now)
        return SendBlocks(self._lastBlock, self._asked.peer, again=True)

    def _keepAliveAt(self) -> float | None:
        """Return the instant at which a block is sent only to show that the group is alive; L{None}: it is not sent."""
        if (
            self.policy.keepAliveInterval is None
            or self._asked is None
            or self._lastBlock is None
            or self._heardAt is None
        ):
            return None
        due = self._sentAt + self.policy.keepAliveInterval
        return due if due < self._heardAt + KEEP_ALIVE_LIMIT else None

    def deadline(self, now: float) -> float | None:
        if self._queue.hasNotices or self._lacking:
            return now
        times: list[float] = []
        if self._asked is not None:
            times.append(self._answerDueAt)
            if (due := self._keepAliveAt()) is not None:
                times.append(due)
        elif self._nextToAsk() is not None:
            return now
        if self._deferred:
            times.append(self._deferred[0][0])
        if (receiver := self._queue.longestSilent) is not None:
            times.append(receiver.removeAt)
        if not self._queue and self._heardAt is not None and self._heardAt + self.linger > now:
            times.append(self._heardAt + self.linger)
        return max(min(times), now) if times else None
