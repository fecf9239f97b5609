"""
Decide what is sent in protocols where the server asks, and each receiver answers with a list of the blocks it lacks.

Theory of operation
===================

All lists are merged: the blocks that any member lacks are sent in ascending order, each once a sweep, and all members
receive them.  When all are sent, members are asked, and the blocks that they lack are the next sweep.  So each block
is repeated until all members that are asked have it, and never for a list that was out of date: less cannot be sent
without an erasure code.

A I{question} is an L{Announce} with C{master} set.  Up to C{_width} questions are open at once.  The width grows with
each answer that is of use, so receivers that lost different blocks are all asked at the same time; it shrinks with each
one that names only what others named, so of many receivers in the same state few are asked.  The I{master}, the member
that answered last, is asked first; the others follow one after the other.  Members that never gave an answer may be
forged: they are asked one at a time, also while blocks are sent, so that they can prove themselves meanwhile.

A list is the I{answer} if it comes in the time for it, and if it can be true: it does not lack what its sender had by
its last answer, and what it lacks no more was sent meanwhile.  One that is the same as the last, and comes after the
question much sooner than its sender has ever answered, is a copy.  An answer replaces all that its sender has listed
before.  A list that is no answer draws little, whoever it comes from, since it may be forged (L{Allowance}); but its
sender is asked soon: one that has answered before is asked at once, instead of waiting until its question is over, and
one that has not may leave one more question unanswered.

Blocks that were sent so shortly before a list arrived that they may have crossed it are not sent for it.  Its sender
will be asked again, and lists them if they were lost.  Of one that never gave an answer they are I{deferred}: they are
sent if no newer list shows that they have arrived.

States
======

They follow from what is still to do, and are not stored:

 - I{sending}: blocks that a member lacks are still to be sent;
 - I{asking}: all of them are sent, and members have been asked;
 - I{idle}: all of them are sent, and there is no member to ask.

What happens in each::

             list                       answer                    Leave                       time is over
    sending  its blocks are added       its blocks are added      the member is removed       the question is closed
    asking   lacks some: sending        sending, or the next      of one that is asked:       the next member
                                        member is asked           the next member is asked    is asked
    idle     sending, or asking         -                         the member is removed       -

Questions stay open while blocks are sent.  Where there is no member any more, no block is lacking, and the cast is kept
for a while.

Instants
========

Everything that happens by itself happens at one of these; C{deadline} gives the next one:

 - C{PolledMember.answerDueAt}: a question is over without an answer.
 - C{_nextValidation}: the next member that never gave an answer may be asked.
 - C{_keepAliveAt()}: while a member is being asked, a block is sent once more, so that the other members do not take
   the group for silent and all send lists at once.
 - C{PolledMember.deferredUntil}: deferred blocks are added to what is sent; a paused member is served again; a member
   that could not be asked so far is removed.
 - C{PolledMember.removeAt}: a silent member is removed.
 - C{_heardAt + linger}: a cast without members is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count as counter
from typing import NamedTuple

from zope.interface import implementer

from castd import outcomes
from castd.cast.allowance import Allowance
from castd.cast.blockmap import Holding
from castd.cast.blockset import BlockBitmap, RunLog, difference, intersection, total
from castd.cast.events import Action, Announce, Event, Leave, PeerState, Ranges, RequestBlocks, SendBlocks
from castd.cast.inflight import MEMORY, InFlight, LossEstimator
from castd.cast.policy import RetransmitPolicy
from castd.cast.pollqueue import CROWD, PolledMember, PollQueue, Question
from castd.interfaces import IMappedCast, IPaced
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
#: The fewest and the most questions that are open at once to members that have answered before.
MIN_WIDTH, MAX_WIDTH = 2, 16
#: Members that have answered before are asked for so long after their last list, however many questions were lost.
#: Seconds.
PATIENCE = 1.0
#: A receiver whose lists have so often shown no block received is not taken for a slow one.
VAIN_LISTS = 3
#: The most questions of one receiver that a late list may answer.
MOST_QUESTIONS = 8
#: A member that may draw nothing now is asked again after this time.  Seconds.
STARVED = 0.25
#: The shortest time between two questions to members that never gave an answer: a crowd of them is mostly forged.
#: Seconds.
MIN_ASKING_INTERVAL = 0.01
#: Lists with so few blocks end with them, and lists with so many runs may have been cut: they do not show that the
#: receiver has the blocks after the last one.
SHORT_LIST, LONG_LIST = 4, 300


class Answered(NamedTuple):
    """
    Holds the questions that a list may be the answer to.

    @ivar first: the earliest one: what was sent since need not have reached the receiver.
    @ivar last: the latest one.
    """

    first: Question
    last: Question


@implementer(IPaced, IMappedCast)
class Sweep:
    """
    Decides what is sent in protocols where receivers list the blocks that they lack.

    @ivar highestSent: the highest number ever sent, -1 before the first.
    @ivar questions: how many questions were sent.
    """

    def __init__(
        self,
        policy: RetransmitPolicy,
        count: int | None = None,
        flightTime: float = FLIGHT_TIME,
        linger: float = LINGER,
        maxMembers: int = MAX_MEMBERS,
        chance: Callable[[], float] | None = None,
    ) -> None:
        """
        @param count: how many blocks the content has; L{None}: an erasure code, whose numbers never end.
        @param flightTime: see L{FLIGHT_TIME}; C{linger}: see L{LINGER}; C{maxMembers}: see L{MAX_MEMBERS}.
        @param chance: returns random numbers, from 0 to less than 1: receivers have to prove that they receive what is
            sent to the group, see L{Allowance}; L{None}: each answer in time is believed.
        """
        self.policy = policy
        self.count = count
        self.linger = linger
        self.highestSent = -1
        self.questions = 0
        self._answerTime = policy.repeat.first
        self._queue = PollQueue(maxMembers)
        self._lacking = BlockBitmap(count)
        self._inFlight = InFlight(flightTime)
        self._loss = LossEstimator()
        self._allowance = Allowance(chance)
        self._judges = chance is not None and count is not None
        # An entry whose instant is no longer that of its member is out of date: a later entry counts.
        self._deferred: list[tuple[float, int, PolledMember]] = []
        self._ordinals = counter()
        self._lastLister: Peer | None = None  # blocks are sent on its behalf
        self._master: PolledMember | None = None  # the last one that answered
        self._width = MIN_WIDTH
        self._validating: PolledMember | None = None  # the member without an answer that was asked last
        self._nextValidation = 0.0
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

    # What each member has.

    def recordSent(self) -> None:
        """Do nothing: a sweep knows when each block was sent, as it has to judge lists by that."""

    @property
    def sentRuns(self) -> RunLog:
        """The runs that were sent."""
        return self._lacking

    def holding(self, peer: Peer) -> Holding | None:
        receiver = self._queue.get(peer)
        if receiver is None or self.count is None:
            return None
        wanted = receiver.wanted
        if receiver.listedAt == float("-inf"):
            return Holding((range(self.count),), receiver.listensFrom)
        if wanted and (total(wanted) <= SHORT_LIST or len(wanted) > LONG_LIST):
            # What comes after the last one that it lists it may lack as well.
            return Holding((*wanted, range(wanted[-1].stop, self.count)), receiver.listensFrom)
        return Holding(wanted, receiver.listedRun)

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
            sent = self._lacking.runs
            receiver = PolledMember(peer, self.policy, sent, sent - self._inFlight.runs(now - MEMORY))
            self._queue.add(receiver)
        self._listReceived(receiver, wants, now)
        self._limitWaiting(receiver, now)

    def _limitWaiting(self, receiver: PolledMember, now: float) -> None:
        """Have a new receiver removed after a while: it is asked only after a block, and none may be sent."""
        if receiver.peer in self._queue.new and receiver.deferredUntil is None and not self._lacking:
            receiver.defer((), now + self.linger)
            self._schedule(receiver)

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        receiver = self._queue.get(peer)
        if receiver is None:
            return
        if isinstance(event, RequestBlocks):
            self._listReceived(receiver, event.ranges, now)
            self._limitWaiting(receiver, now)
        elif isinstance(event, Leave):
            self._heardAt = now
            self._widen(True)
            if receiver is self._validating:
                self._nextValidation = now
            self._remove(receiver, event.outcome)

    def burstDelayed(self, now: float) -> None:
        """Do nothing: a question is sent after all blocks, and the time for its answer begins then."""

    def heard(self, peer: Peer) -> bool:
        receiver = self._queue.get(peer)
        return receiver is not None and receiver.heard

    def peerState(self, peer: Peer) -> PeerState | None:
        receiver = self._queue.get(peer)
        if receiver is None:
            return None
        turn = receiver is self._master or peer in self._queue.asked
        return PeerState(turn, receiver.wanted[0] if receiver.wanted else None, self.highestSent)

    def _listReceived(self, receiver: PolledMember, ranges: Ranges, now: float) -> None:
        """Handle a list: its sender lacks these blocks, and no others that it has listed before."""
        if receiver.proof.guesses:
            return  # until its pause is over
        answered = self._answered(receiver, ranges, now)
        answers = answered is not None
        if not answers:
            self._allowance.listed(now)
            if not receiver.repeats.allow(1, now):
                return
        self._heardAt = receiver.listedAt = now
        crossing = intersection(ranges, self._inFlight.crossing(answered.last.run if answered else None, now))
        unchanged = bool(ranges) and ranges == receiver.wanted
        paused = unchanged and self._mustPause(receiver, bool(crossing), now)
        self._noteProgress(receiver, ranges)
        if answered and self._questionAnswered(receiver, ranges, answered.first, now):
            self._exclude(receiver, now)
            return
        if paused:
            self._queue.dequeue(receiver)
            return
        if not unchanged and (receiver.paused or receiver.unchangedRequests):
            receiver.paused, receiver.unchangedRequests = False, 0
            self._queue.enqueue(receiver)
        self._requeue(receiver, bool(ranges), answers, now)
        waits = crossing if not receiver.heard else ()
        receiver.defer(waits, now + self._inFlight.flightTime if waits else None)
        self._schedule(receiver)
        if answers or not receiver.heard:
            self._draw(receiver, difference(ranges, crossing), answers, now)
            self._lastLister = receiver.peer

    def _draw(self, receiver: PolledMember, ranges: Ranges, answers: bool, now: float) -> None:
        """
        Add blocks that a receiver lacks to those that are sent, as many as it may draw.

        Six octets with a forged address can ask for a whole file.  A real receiver is asked, answers, and then gets
        what it lacks; a forged one never gets the question.
        """
        fresh = tuple(part for run in ranges for part in self._lacking.absent(run))
        if answers:
            self._widen(bool(fresh) or not receiver.wanted)
        if not fresh:
            return
        granted = self._allowance.forAnswer(receiver.proof, fresh, now) if answers else None
        if granted is not None:
            receiver.grantedAt = now
        if answers and granted is None:
            receiver.paused = True  # else it would be asked at once, and again
            self._queue.dequeue(receiver)
            receiver.defer((), now + STARVED)
            self._schedule(receiver)
            return
        for run in self._allowance.forUnasked(fresh, now) if granted is None else granted:
            self._lacking.add(run)

    def _widen(self, useful: bool) -> None:
        """Ask more members at once after an answer that was of use, and fewer after one that was not."""
        self._width = min(self._width + 1, MAX_WIDTH) if useful else max(self._width - 1, MIN_WIDTH)

    def _requeue(self, receiver: PolledMember, lacks: bool, answers: bool, now: float) -> None:
        """
        Put the sender of a list into the queue in which it will be asked again, unless it has just answered that it
        lacks nothing: it would give the same answer for ever.
        """
        queue = self._queue
        receiver.emptyLists = 0 if lacks else receiver.emptyLists + 1
        if answers and not lacks:
            queue.setSilent(receiver, now + self.linger)
        elif receiver.peer in queue.silent and not answers and (lacks or receiver.emptyLists > 1):
            queue.enqueue(receiver)
        elif receiver.peer in queue.new and receiver.emptyLists > 1:
            # It knows another version of the file, and only a question makes it start over.
            queue.enqueue(receiver)
        elif lacks and not answers:
            receiver.failedTurns = max(receiver.failedTurns - 1, 0)
            queue.prefer(receiver)  # it repeats its list, which a forged sender seldom does
            if receiver.heard and receiver.peer in queue.asked:
                queue.enqueue(receiver)  # it is there, and the answer to another question will tell more

    # Answers.

    def _answered(self, receiver: PolledMember, ranges: Ranges, now: float) -> Answered | None:
        """
        Find the question that a list answers.

        A list that cannot be true does not close the question of a receiver that has proved itself: it may be forged,
        and the true one may follow.  A list that may have been sent before the blocks by which its sender is to prove
        itself does not disprove anything.

        @return: L{None}: the list is no answer.
        """
        if self._isCopy(receiver, ranges, now):
            return None
        answered = self._mayAnswer(receiver, ranges) if receiver.questions else None
        if receiver.peer not in self._queue.asked or answered is None:
            return None
        proof = receiver.proof
        gained = self._gained(receiver, ranges)
        if proof.complete and gained is None:
            return None
        early = proof.stake and answered.first.at < receiver.grantedAt
        return None if early and total(gained or ()) < proof.due else answered

    def _isCopy(self, receiver: PolledMember, ranges: Ranges, now: float) -> bool:
        """
        Return whether a list is the same as the last one, and comes too soon after each question to answer it.

        The last one was answered with a burst, and the question after that is still under way: taken for its answer, a
        copy would draw the burst again.  The receiver may have been slow before, though: so the next list that comes
        as soon is an answer.
        """
        if not receiver.questions or ranges != receiver.wanted:
            return False
        seconds = now - receiver.questions[0].at
        early = seconds < receiver.rto.shortestRtt / 2
        if early:
            receiver.rto.answeredWithin(seconds)
        return early

    def _mayAnswer(self, receiver: PolledMember, ranges: Ranges) -> Answered:
        """
        Find the questions that a list can be the answer to, and forget those that draw no list any more.

        A receiver may answer more slowly than it is asked, and then several times at once.  Were each list taken for
        the answer to the last question, the receiver would seem to name what it cannot know.  So a list is no answer to
        a question if its sender has got most of what was sent to it only after that question, and before the next; and
        none to the next if its sender lacks most of that.
        """
        questions = receiver.questions
        first = last = 0
        for number in range(1, len(questions)) if receiver.vainLists < VAIN_LISTS else ():
            before, after = questions[number - 1].run, questions[number].run
            sent = difference(self._inFlight.between(before, after), self._inFlight.between(-1, before))
            sent = intersection(receiver.wanted, sent)
            if total(intersection(ranges, sent)) * 2 > total(sent):
                break
            first, last = number if sent else first, number
        if receiver.vainLists >= VAIN_LISTS:
            first = last = len(questions) - 1  # it hears nothing, so its lists cannot tell
        answered = Answered(questions[first], questions[last])
        # A list that its sender may have sent by itself may be followed by the answer.
        unasked = ranges == receiver.wanted or (total(ranges) == 1 and not receiver.known)
        del questions[: first + (not unasked)]
        return answered

    def _gained(self, receiver: PolledMember, ranges: Ranges) -> Ranges | None:
        """
        Return the blocks that a receiver lacks no more since the last list of it that was believed.

        @return: L{None}: the list cannot be true.  It lacks blocks again, or was sent less than it has got.
        """
        known = receiver.known
        if not known or not self._judges:
            return ()
        begun = (range(known[-1].stop),)
        if intersection(difference(ranges, known), begun):
            return None
        gained = difference(known, ranges)
        if ranges and (total(ranges) <= SHORT_LIST or len(ranges) > LONG_LIST):
            gained = intersection(gained, (range(ranges[-1].stop),))
        allSent = all(self._lacking.allSent(run, receiver.knownRun) for run in gained)
        return gained if allSent else None

    def _questionAnswered(self, receiver: PolledMember, ranges: Ranges, question: Question, now: float) -> bool:
        """
        Handle the answer to a question: the address of its sender is not forged, and it is asked before others.

        @return: whether its answers are guessed.
        """
        gained = self._gained(receiver, ranges)
        if gained is None:
            receiver.proof.contradicted()
        else:
            receiver.proof.answered(total(gained))
        # Blocks and questions may overtake each other on their way.
        flying = self._inFlight.runs(question.at - self._inFlight.flightTime)
        receiver.known, receiver.knownRun = ranges, min(question.run, self._lacking.runs - flying)
        if not receiver.questions:
            receiver.rto.sample(now - question.at)
        receiver.rto.answered()
        receiver.failedTurns = 0
        self._loss.answered(ranges, receiver.joinedRun)
        if receiver is self._validating:
            self._nextValidation = now
        receiver.heard = receiver.heard or gained is not None
        self._queue.enqueue(receiver)
        if receiver.heard:
            self._master = receiver
        return receiver.proof.guesses

    def _noteProgress(self, receiver: PolledMember, ranges: Ranges) -> None:
        """Note whether a list shows that its sender has received any block that was sent since its list before."""
        if difference(receiver.wanted, ranges):
            receiver.vainLists = 0
            receiver.progressed = True
        elif any(self._lacking.anySent(run, receiver.listedRun) for run in receiver.wanted):
            receiver.vainLists += 1
        receiver.wanted, receiver.listedRun = ranges, self._lacking.runs

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
        if not any(self._lacking.anySent(run, receiver.listedRun) for run in receiver.wanted):
            return False  # nothing was sent since it said so before
        receiver.unchangedRequests += 1
        times = receiver.unchangedRequests - deaf
        if times < 0:
            return False
        receiver.paused = True
        if times < MAX_PAUSES:
            receiver.defer(receiver.wanted, now + FIRST_PAUSE * 2**times)
        else:
            receiver.defer((), now + MUTE_TIME)
        self._schedule(receiver)
        return True

    def _exclude(self, receiver: PolledMember, now: float) -> None:
        """
        Neither ask nor hear a receiver for a while, as it seems to guess its answers: each time twice as long.

        It may be a real one that was unlucky, so the first pause is short.
        """
        receiver.paused = True
        self._queue.dequeue(receiver)
        # The exponent is bounded, as the pause has reached its longest before.
        receiver.defer((), now + min(FIRST_PAUSE * 2 ** min(receiver.proof.exclusions, MAX_PAUSES), MUTE_TIME))
        receiver.proof.exclusions += 1
        self._schedule(receiver)

    def _schedule(self, receiver: PolledMember) -> None:
        """Have L{_resume} deal with a receiver at its C{deferredUntil}."""
        if receiver.deferredUntil is not None:
            heappush(self._deferred, (receiver.deferredUntil, next(self._ordinals), receiver))

    def _remove(self, receiver: PolledMember, outcome: str) -> None:
        if receiver is self._master:
            self._master = None
        if receiver is self._validating:
            self._validating = None
        self._queue.remove(receiver, self._outcome(receiver, outcome))
        if not self._queue:
            self._lacking.clear()

    def _outcome(self, receiver: PolledMember, outcome: str) -> str:
        """
        Return the outcome of a receiver that leaves, or that is removed.

        A receiver that gives up says the same as one that is complete; so one that never received anything is told
        apart, and one that has not been sent all that it lacks.
        """
        if outcome not in (outcomes.DONE, outcomes.SILENT, outcomes.CLOSED):
            return outcome
        deaf = self.policy.deafAfterRepeats
        if deaf is not None and receiver.vainLists >= deaf and not receiver.progressed:
            return outcomes.UNHEARD
        if outcome == outcomes.DONE:
            sent = all(self._lacking.allSent(run, receiver.listensFrom) for run in receiver.wanted)
            return outcome if sent else outcomes.EARLY
        done = receiver.heard and receiver.progressed and receiver.vainLists == 0
        return outcomes.UNCONFIRMED if done and self._sentSince(receiver) else outcome

    def _sentSince(self, receiver: PolledMember) -> bool:
        """Return whether all that a receiver lacked by its last list was sent since, to the end of the file."""
        wanted = receiver.wanted
        if not wanted or self.count is None:
            return not wanted
        rest = (range(wanted[-1].stop, self.count),) if total(wanted) <= SHORT_LIST else ()
        after = receiver.listedRun
        return all(self._lacking.allSent(run, after) for run in wanted) and all(
            self._lacking.allSent(run, receiver.listensFrom) for run in rest
        )

    # Actions.

    def poll(self, now: float) -> Action | None:
        self._resume(now)
        self._endQuestions(now)
        if not self._lacking:
            self._removeSilent(now)
        return (
            self._queue.nextNotice() or self._validate(now) or self._send(now) or self._ask(now) or self._keepAlive(now)
        )

    def _resume(self, now: float) -> None:
        """Deal with the receivers whose C{deferredUntil} has come."""
        while self._deferred and self._deferred[0][0] <= now:
            due, _, receiver = heappop(self._deferred)
            if receiver.deferredUntil != due or self._queue.get(receiver.peer) is not receiver:
                continue
            deferred = receiver.deferred
            receiver.defer((), None)
            if receiver.paused:
                self._endPause(receiver, now)
            elif not deferred and receiver.peer in self._queue.new:
                self._remove(receiver, outcomes.SILENT)
                continue
            self._draw(receiver, deferred, False, now)
            self._limitWaiting(receiver, now)

    def _endPause(self, receiver: PolledMember, now: float) -> None:
        receiver.paused = False
        receiver.proof.mistakes = 0
        deaf = self.policy.deafAfterRepeats
        if deaf is not None and receiver.unchangedRequests >= deaf + MAX_PAUSES:
            # The last pause is over: it begins anew, if it sends another list.
            receiver.wanted, receiver.unchangedRequests = (), 0
            self._queue.setSilent(receiver, now + self.linger)
        else:
            self._queue.enqueue(receiver)

    def _send(self, now: float) -> SendBlocks | None:
        if not self._lacking:
            return None
        run, again = self._lacking.nextRun(LONGEST_BURST)
        self._noteSent(run, now)
        self._loss.sent(run, self._lacking.runs)
        assert self._lastLister is not None
        return SendBlocks(run, self._lastLister, again)

    def _noteSent(self, run: range, now: float) -> None:
        self._queue.blockSent()
        self._sentAt = now
        self._lastBlock = run[-1:]
        self.highestSent = max(self.highestSent, run[-1])
        self._inFlight.sent(run, self._lacking.runs, now)

    def _endQuestions(self, now: float) -> None:
        """Give up the questions that were not answered in time."""
        asked = self._queue.asked
        for receiver in [each for each in asked.values() if each.answerDueAt <= now] if asked else ():
            receiver.failedTurns += 1
            if receiver.heard:
                receiver.rto.backOff()
            if receiver is self._master:
                self._master = None
            if receiver.failedTurns < self.policy.maxFailedTurns:
                self._queue.neglect(receiver)
                continue
            receiver.known = ()  # it may have restarted
            receiver.proof.reset()
            if receiver.heard and now < receiver.listedAt + PATIENCE:
                self._queue.neglect(receiver)
            else:
                self._queue.setSilent(receiver, now + self.linger)

    def _removeSilent(self, now: float) -> None:
        """Remove silent members whose C{removeAt} has come."""
        while (receiver := self._queue.longestSilent) is not None and receiver.removeAt <= now:
            self._remove(receiver, outcomes.SILENT)

    def _validate(self, now: float) -> Announce | None:
        """Ask the next member that never gave an answer, if it is time for it."""
        if now < self._nextValidation or (receiver := self._queue.nextUnvalidated()) is None:
            return None
        first, last = receiver.wanted[:1], receiver.wanted[-1:]
        if any(self._lacking.intersects(range(max(run.start, self._lacking.next), run.stop)) for run in first + last):
            return None  # what it lacks will be sent soon
        interval = self._answerTime if self._master is None else MIN_ASKING_INTERVAL
        interval = max(interval / (1 + len(self._queue.unvalidated) // CROWD), min(interval, MIN_ASKING_INTERVAL))
        self._validating = receiver
        self._nextValidation = now + interval
        return self._question(receiver, now)

    def _ask(self, now: float) -> Announce | None:
        """Ask the next member that has answered before, if not too many have a question open."""
        receiver = self._nextToAsk()
        return None if receiver is None else self._question(receiver, now)

    def _nextToAsk(self) -> PolledMember | None:
        """Return the member that has answered before and is to be asked now: the master, or else the next one."""
        queue = self._queue
        if not queue.validated or sum(each.heard for each in queue.asked.values()) >= self._width:
            return None
        if self._master is not None and self._master.peer in queue.validated:
            return self._master
        return next(iter(queue.validated.values()))

    def _question(self, receiver: PolledMember, now: float) -> Announce:
        late = [each for each in receiver.questions if each.at > now - MEMORY]
        receiver.questions = late[1 - MOST_QUESTIONS :]
        receiver.questions.append(Question(now, self._lacking.runs))
        receiver.answerDueAt = now + receiver.rto.interval()
        self._queue.setAsked(receiver)
        if not self._lacking:
            self._loss.asked()
        self.questions += 1
        return Announce(receiver.peer, True, receiver.heard)

    def _keepAlive(self, now: float) -> SendBlocks | None:
        """Send a block once more while a member is being asked, if none was sent for C{keepAliveInterval}."""
        due = self._keepAliveAt(now)
        if due is None or now < due or self._lastBlock is None:
            return None
        self._lacking.noteSent(self._lastBlock)
        self._noteSent(self._lastBlock, now)
        return SendBlocks(self._lastBlock, next(iter(self._queue.asked)), again=True)

    def _keepAliveAt(self, now: float) -> float | None:
        """Return the instant at which a block is sent only to show that the group is alive; L{None}: it is not sent."""
        interval = self.policy.keepAliveInterval
        if interval is None or not self._queue.asked or self._lastBlock is None or self._heardAt is None:
            return None
        if self._allowance.flooded(now):
            return None  # those who did not speak yet do so only in silence
        due = self._sentAt + interval
        return due if due < self._heardAt + KEEP_ALIVE_LIMIT else None

    def deadline(self, now: float) -> float | None:
        queue = self._queue
        if queue.hasNotices or self._lacking or self._nextToAsk() is not None:
            return now
        times = [each.answerDueAt for each in queue.asked.values()]
        if (alive := self._keepAliveAt(now)) is not None:
            times.append(alive)
        if queue.unvalidated:
            times.append(self._nextValidation)
        if self._deferred:
            times.append(self._deferred[0][0])
        if (receiver := queue.longestSilent) is not None:
            times.append(receiver.removeAt)
        if not queue and self._heardAt is not None and self._heardAt + self.linger > now:
            times.append(self._heardAt + self.linger)
        return max(min(times), now) if times else None
