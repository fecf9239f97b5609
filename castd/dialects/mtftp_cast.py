"""
Decide what MTFTP sends: one pass over the file after the other, each with a master of its own.

This is a L{Turn<castd.cast.turn>} whose protocol has no packet that tells a client that it is a member.  The only
announcement is block 1, sent to the master alone right before block 1 to the group; a listener is sent nothing.  So the
rules follow what real clients do (docs/transports/mtftp.md has the reasons):

 - A client that asks while another one has the turn is I{remembered}, and becomes master when the pass is over.
 - A client that asks while the master is silent becomes master at once: some masters never come back.
 - While there is any member, the group is never silent for 0.25 s: iPXE would leave, and its fallback is broken.
 - When many wait most may be forged.  Each has the turn for a moment then, and is asked by block 1 alone: of the group
   an iPXE that has just come would hear block 1 again and again, and never ask a second time, by which it is known.
   EFI's client, which answers nothing before it has heard both, gets both when it asks again.
 - A client that has received the last block and has not acknowledged it may fall back to plain TFTP while it lacks
   other blocks.  Other transports are told not to serve it (L{Bar}).
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from zope.interface import implementer

from castd import outcomes
from castd.cast.events import Action, Announce, Bar, Event, PeerState, Ranges, RequestBlocks, SendBlocks
from castd.cast.members import Member
from castd.cast.policy import MIN_RTO, AdaptiveTimeout, FixedTimeouts, MinProgress, RetransmitPolicy
from castd.cast.rto import RtoEstimator
from castd.cast.turn import NEVER, GenericTurn, TurnState
from castd.interfaces import IBoundedCast
from castd.repetitions import SOONEST_REPETITION, Repetitions
from castd.request import Peer

#: Repetitions to a master that never acknowledged anything; to one that was remembered and may have left since; and of
#: the last block, which some clients acknowledge once before they leave.
UNHEARD_REPEATS, PROMOTED_REPEATS, LAST_BLOCK_REPEATS = 5, 2, 5
#: A master that was silent for so long loses its turn to the next client that asks.  Seconds.
REPLACE_AFTER = 0.5
#: So many copies of a block are sent alone before one that the next block follows, for atftp, which never acknowledges
#: one block twice in a row.  A master that hears the next block and no copy of this one ends with a hole, so they are
#: many, and lie so far apart that no burst of loss takes them all.
COPIES_ALONE = 7
#: The repetitions, counted from 1, that block 1 goes before, to the master alone: atftp acknowledges it, and then the
#: block in flight once more.  They are no more than 2 s have, as the address of the master may be forged.
REMINDERS = range(2, 15)
#: A block is not sent twice within this time, even if a client asks for it again; nor is a remembered client promoted
#: faster.  Seconds.
MIN_REPEAT_INTERVAL = 0.08
#: Clients remembered at once: as many as can have their turns, one after the other, before the last one expires.
MOST_REMEMBERED = 128
#: With more members than so many the group is crowded, as a flood makes it in a moment: most of them may be forged, so
#: nobody has the turn for long who has not answered: one copy of block 1 in each turn, and so many in all.  The
#: machines of a hall seldom are so many at one file, and longer turns serve them better where datagrams are lost.
CROWD, CROWD_COPIES = MOST_REMEMBERED - 16, 2
#: How long a crowd is taken for one when its members have had their turns: by then a flood of 2,000 requests a second
#: has filled the list again.  Seconds.
CROWD_STAYS = 0.06
#: How long is waited for an answer after each handful of those who are asked when a pass is over.  Seconds.
HANDFUL = 0.005
#: For how long it is remembered who has asked in a crowd without being kept, so as to be known when asking again; and
#: the most that are remembered at once.  iPXE repeats its request after 0.25 s, EFI's client after its delay (option
#: 43.5, most often 2 s) and 0.1 s.  Seconds, and clients.
ASKED_FOR, MOST_ASKED = 10.0, 8192
#: How long the group may be silent in a crowd while somebody waits who may have listened to a pass.  Seconds.
LONGEST_SILENCE = 0.15
#: A request that comes so soon after the last block was sent may have crossed it on the way.  Seconds.
CROSSING = 0.1
#: An iPXE that receives nothing repeats its request once and leaves half a second later; one that stays longer receives
#: something.  Seconds.
DEAF_STAYS = 1.0
#: How long other transports do not serve a client that has left a pass after it could receive the last block: so long
#: from its request, and at least so long from when it was given up.  iPXE asks them 0.25 s after the last packet that
#: it has heard.  Seconds.
BARRED, LEAVING = 10.0, 2.0
BARRED_BECAUSE = (
    "it left MTFTP after the last block had gone out, without having it all; "
    "iPXE would start an image with a hole, so its fallback is refused for a moment"
)

#: Every packet restarts iPXE's timer of 0.25 s, so no interval may be longer than 0.2 s plus its jitter.  A master
#: loses the turn after 2 s without progress while other clients wait, after 10 s if none does.
POLICY = RetransmitPolicy(
    repeat=FixedTimeouts((0.08, 0.08, 0.2)),
    progressTimeout=2.0,
    loneProgressTimeout=10.0,
    maxRepeatsUnheard=None,
    maxFailedTurns=1,
    minTurnProgress=MinProgress(0.01, 10.0),
)
#: The repetitions to a master that is known to answer within L{MIN_RTO}: the first two soon, as most often one datagram
#: was lost; L{COPIES_ALONE} over 0.41 s, of which a burst of loss of 0.3 s leaves three; then as slow as for all.
QUICK = FixedTimeouts((MIN_RTO, 0.04, 0.1, 0.15, 0.05, 0.05, 0.04, 0.2))
#: How the time is measured in which a master answers.
ANSWERS = AdaptiveTimeout(floor=MIN_RTO)

#: The first block that goes to the group only.
SECOND_BLOCK = range(1, 2)


class MtftpMember(Member):
    """
    Holds what the cast knows of one client.

    @ivar hearsGroup: the client may receive what is sent to the group: it has asked only once, or has acknowledged a
        block that was sent there.
    @ivar askedAt: the instant of its last request.
    @ivar askedTwice: it has asked again, not only in a copy, which few do who forge a name for each request.
    @ivar copies: how often block 1 was sent to it in turns in a crowd, in which it has not answered.
    @ivar turnAt: the instant at which it was given its last turn.
    @ivar sinceFirstBlock: it asked before the first block of this pass, and the pass has left out no block.
    @ivar allSent: every block has been sent since it asked.
    @ivar lastBlockSent: the last block has been sent since it asked, and not only when it had acknowledged all others.
    @ivar answers: the estimator of the time in which it answers as master.
    """

    __slots__ = ("allSent", "answers", "askedAt", "askedTwice", "copies", "lastBlockSent", "sinceFirstBlock", "turnAt")

    def __init__(self, peer: Peer, wants: Ranges, repeat: AdaptiveTimeout | FixedTimeouts, askedAt: float) -> None:
        super().__init__(peer, wants, repeat, waited=False)
        self.askedAt = askedAt
        self.hearsGroup = True
        self.sinceFirstBlock = self.allSent = self.lastBlockSent = self.askedTwice = False
        self.copies, self.turnAt = 0, -NEVER
        self.answers = RtoEstimator(ANSWERS)

    @property
    def quick(self) -> bool:
        """Whether it was measured to answer within L{MIN_RTO}."""
        return self.answers.smoothedRtt is not None and self.answers.interval() <= MIN_RTO

    def mayLackBlocks(self, now: float) -> bool:
        """Return whether it may have received the last block while it lacks others."""
        return self.lastBlockSent and (self.hearsGroup or now >= self.askedAt + DEAF_STAYS)


@implementer(IBoundedCast)
class MtftpCast(GenericTurn[MtftpMember]):
    """
    Decides what is sent to the group of one file; the module docstring has the rules.

    @ivar count: the blocks of the file.
    """

    count: int

    def __init__(self, policy: RetransmitPolicy, count: int, remember: float = 30.0, clientPort: int = 0) -> None:
        """
        @param remember: seconds until a remembered request expires, while no pass makes progress.
        @param clientPort: the port of the group, which EFI's client asks from; 0: it is not known.
        """
        super().__init__(policy, count)
        self._remember, self._clientPort = remember, clientPort
        self._sentOnce = False  # what was sent last is no repetition
        self._actions: deque[Action] = deque()
        self._takesOver: MtftpMember | None = None  # becomes master before all remembered clients
        self._masterAliveAt = 0.0  # the master got the turn, or has sent anything
        self._heardAt = -NEVER  # any master has sent anything
        self._groupSentAt = -NEVER  # a block was sent to the group
        self._withheld = False  # block 1 was sent to the master alone
        self._remindedAt = 0  # the repetition of the block in flight that the master was last reminded with
        self._passEndedAt = -NEVER  # the last block was sent
        self._reached = 0  # the blocks before this one have been sent in this pass
        self._crowded, self._crowdedUntil = False, -NEVER
        self._questions = 0  # turns in a crowd, one after the other, in which nobody has answered
        self._asked: Repetitions[Peer] = Repetitions(ASKED_FOR, MOST_ASKED)  # who was not kept in a crowd

    # Requests.

    def newMember(self, peer: Peer, wants: Ranges, now: float) -> MtftpMember:
        return MtftpMember(peer, wants, self.policy.repeat, now)

    def join(self, peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        self._expireRequests(now)
        member = self.members.get(peer)
        former = None
        if member is not None:
            # It repeats its request, so it may receive nothing at all.
            member.hearsGroup = member.lastBlockSent = False
            if now >= member.askedAt + SOONEST_REPETITION:
                member.askedTwice = True
            member.askedAt = now
            self.members.moveToEnd(member)
        else:
            # The same machine from another port has restarted: the new member replaces the former one.
            former = next((each for each in self.members if each.peer[0] == peer[0]), None)
            member = self.newMember(peer, wants, now)
            member.askedTwice = self._asked.asksAgain(peer, now)
            self._asked.discard(peer)
            if former is not None and former is not self.master:
                self.remove(former, outcomes.REPLACED, now)  # before it is found that there are too many
            self.members.add(member)
            self._noteCrowd(now)
            self.delayFirstBlock(now)
        self.memberListens(member)
        self._bar(member, 0.0)
        if now < self._passEndedAt + CROSSING:
            self._lastBlockHeard(member, now)
        master = self.master
        if member is master:
            self._masterAsksAgain(member, now)
        elif master is None or former is master or self._mayBeReplaced(master, now):
            self._takeOver(member, outcomes.REPLACED if former is master else outcomes.SILENT, now)
        else:
            member.waited = True
            if len(self.members) > MOST_REMEMBERED + 1:
                self._forgetOne(member, now)

    def _noteCrowd(self, now: float) -> None:
        """Note whether there are so many members that most may be forged, or were a moment ago."""
        if len(self.members) > CROWD:
            self._crowdedUntil = now + CROWD_STAYS
        self._crowded = now < self._crowdedUntil

    def _forgetOne(self, latest: MtftpMember, now: float) -> None:
        """
        Remove one of too many members: the latest, or, if that one has asked before, the last one that has not, as the
        flood of names that fills the list asks once for each.
        """
        gone = latest
        if latest.askedTwice:
            waiting = (each for each in self.members if each is not self.master and not each.askedTwice)
            *_, gone = latest, *waiting
        self._asked.add(gone.peer, gone.askedAt)
        self.remove(gone, outcomes.SILENT, now)

    def isFull(self, peer: Peer, now: float) -> bool:
        """As L{IBoundedCast.isFull}: who asks again has room, and so has a machine that has restarted."""
        if len(self.members) <= MOST_REMEMBERED or self._asked.asksAgain(peer, now):
            return False
        master = self.master
        if master is None or self._mayBeReplaced(master, now):
            return False
        return peer[0] not in [each.peer[0] for each in self.members]

    def turnAway(self, peer: Peer, now: float) -> None:
        """As L{IBoundedCast.turnAway}."""
        self._asked.add(peer, now)

    def _masterAsksAgain(self, master: MtftpMember, now: float) -> None:
        """Answer a master that repeats its request: the answer was lost, or the master starts over."""
        self._masterAliveAt = now
        if master.heard:
            master.heard = master.waited = False
            self.giveTurn(master, now)
        elif self.state is TurnState.WAITING and now >= self.sentAt + MIN_REPEAT_INTERVAL:
            self.sendAgain()

    def _mayBeReplaced(self, master: MtftpMember, now: float) -> bool:
        """
        Find out whether a client that asks now becomes master instead.  Some clients acknowledge the last block only
        once, so a master that was sent that again may have left.  In a crowd a master that has answered is not replaced
        by whoever asks: the next one is chosen when its time is over.
        """
        if master.heard and self._crowded:
            return False
        if master.heard and self._servesLastBlock:
            return master.rto.repeats > 0
        return now >= self._masterAliveAt + REPLACE_AFTER

    def _takeOver(self, member: MtftpMember, outcome: str, now: float) -> None:
        """
        Give the turn to a member before all remembered ones, as it has just asked and so is alive.

        @param outcome: the outcome of the master that it replaces, if there is one.
        """
        member.waited = False
        self._takesOver = member
        if self.master is None:
            self.passTurn(now)
        else:
            self.remove(self.master, outcome, now, self.serving)
        self._takesOver = None

    def successor(self, now: float) -> MtftpMember | None:
        """
        Choose the member that takes over, else the one that has been remembered for the longest time; in a crowd those
        first who have asked again.
        """
        if self._takesOver is not None:
            return self._takesOver
        first = next((each for each in self.members if each.askedTwice), None) if self._crowded else None
        return first or next(iter(self.members), None)

    def turnGiven(self, member: MtftpMember, now: float) -> None:
        """Begin a pass."""
        pause = now >= self._masterAliveAt + MIN_REPEAT_INTERVAL
        self._questions = 1 if pause or not self._crowded else self._questions + 1
        self._masterAliveAt, self._reached = now, 0
        member.turnAt = now

    def _passOn(self, now: float) -> None:
        """
        In a crowd give the turn to the next one if the master has not answered one copy of block 1 for a moment.
        """
        master = self.master
        if master is None or master.heard or not self._crowded:
            return
        if self.state is not TurnState.WAITING or now < self.repeatAt:
            return
        master.copies += 1
        if master.copies >= CROWD_COPIES:
            self.remove(master, outcomes.SILENT, now)
            return
        master.waited, master.askedTwice = True, False
        self.members.moveToEnd(master)
        self.passTurn(now)

    def peerState(self, peer: Peer) -> PeerState | None:
        """
        As L{ICast.peerState<castd.interfaces.ICast.peerState>}.  Who has had a turn in a crowd, and answers when it is
        over, has the turn as long as nobody else has answered.
        """
        state = super().peerState(peer)
        if state is None or state.turn or self._answersLate(peer) is None:
            return state
        return replace(state, turn=True)

    def _answersLate(self, peer: Peer) -> MtftpMember | None:
        """Return the member of this address if it had a turn in a crowd, and nobody has answered since."""
        member, master = self.members.get(peer), self.master
        if member is None or not member.copies or master is None or member is master or master.heard:
            return None
        return member

    def _expireRequests(self, now: float) -> None:
        """
        Remove members whose requests are old, unless a master was heard since: a listener sends nothing during a pass,
        however long that is.
        """
        while True:
            oldest = next((each for each in self.members if each is not self.master), None)
            if oldest is None or now < max(oldest.askedAt, self._heardAt) + self._remember:
                return
            self.remove(oldest, outcomes.SILENT, now)

    # Acknowledgements.

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        self._noteCrowd(now)
        master = self.master
        if master is None or peer != master.peer:
            late = self._answersLate(peer)
            if late is None or not isinstance(event, RequestBlocks):
                super().hear(peer, event, now)
                return
            self.giveTurn(late, now)
            master = late
        self._masterAliveAt = self._heardAt = now
        self._questions = 0
        if not isinstance(event, RequestBlocks) or not event.ranges:
            super().hear(peer, event, now)
            return
        start = event.ranges[0].start
        if self._sentOnce and self.state is TurnState.WAITING and start > self.serving[0].start > 0:
            # The answer to the first block is not measured: it comes when the client is ready for the others.
            master.answers.sample(now - self.sentAt)
        if start > 1:
            master.hearsGroup = True
        if start > self._reached:
            # It skips blocks that it has received as a listener; other listeners may lack them.
            for each in self.members:
                each.sinceFirstBlock = False
        super().hear(peer, event, now)
        again = self.state is TurnState.WAITING and event.ranges == self.serving
        if again and now >= self.sentAt + MIN_REPEAT_INTERVAL:
            self.sendAgain()

    # Timeouts.

    @property
    def _servesLastBlock(self) -> bool:
        return bool(self.serving) and self.serving[-1].stop == self.count

    def _maxRepeats(self, master: MtftpMember) -> int | None:
        """Return repetitions after which the master loses its turn; L{None}: it loses the turn by a timeout."""
        if not master.heard:
            return max(0, PROMOTED_REPEATS - master.copies) if master.waited else UNHEARD_REPEATS
        return LAST_BLOCK_REPEATS if self._servesLastBlock else None

    def _countsCopies(self, member: MtftpMember) -> bool:
        """Return whether this may be EFI's client, which leaves at the third copy of a block."""
        return member.peer[1] == self._clientPort

    def interval(self, member: MtftpMember) -> float:
        """
        Choose the interval: the shortest one for a remembered client, which may have left; those of L{QUICK} for a
        master that answers quickly, unless it counts copies, or has left after the last block.
        """
        if not member.heard and self._crowded:
            return self._crowdInterval(member)
        if member.waited and not member.heard:
            return MIN_REPEAT_INTERVAL
        if member.quick and not self._servesLastBlock and not self._countsCopies(member):
            return QUICK.steps[min(member.rto.repeats, len(QUICK.steps) - 1)]
        return super().interval(member)

    def _crowdInterval(self, member: MtftpMember) -> float:
        """
        Choose how long a member of a crowd has the turn that has not answered: a moment.

        Those who may have listened to a pass are asked as soon as it is over, one, then two, then four at once and so
        on, and again when all have been: else the group would have to be kept alive for them, one after the other, for
        seconds, and an iPXE that comes meanwhile would hear it and never ask a second time.  Nor are all asked at once,
        as each iPXE that is acknowledges all blocks from then on.
        """
        if not self._mayHaveListened(member) or self._needsBoth(member):
            return MIN_RTO
        other = next((each for each in self.members if each is not member), None)
        if other is None or not self._mayHaveListened(other) or member.turnAt < other.turnAt + MIN_REPEAT_INTERVAL:
            return MIN_REPEAT_INTERVAL
        return 0.0 if self._questions & (self._questions + 1) else HANDFUL

    def longestSilence(self) -> float | None:
        """
        Choose how long the group may be silent while others wait for a master that does not answer: so short that an
        iPXE among them, which leaves after 0.25 s, hears something although two datagrams were lost.  Not with EFI's
        client as master, which leaves at the third copy of a block.
        """
        master = self.master
        if master is None or len(self.members) == 1 or self._countsCopies(master):
            return None
        # Of a master that never answered the turn is short, and block 1 goes to it alone with each copy.
        awaited = self.state is TurnState.WAITING and master.heard and self.serving[0].start > 0
        return MIN_REPEAT_INTERVAL if awaited else None

    def turnEndsAt(self, member: MtftpMember) -> float:
        """Choose the instant after the last allowed repetition, or that of the timeout where those are not limited."""
        repeats = self._maxRepeats(member)
        if repeats is None:
            return super().turnEndsAt(member)
        return self.repeatAt if member.rto.repeats >= repeats else NEVER

    def repetition(self) -> list[range]:
        """
        Choose the block that was asked for; after L{COPIES_ALONE} copies of it the next one, too, but never that one
        alone: once for so many copies where atftp is reminded of the block, as it hardly ever needs it then, else each
        time.

        A master that was never heard gets block 2 with its last two repetitions: if its first ACK was lost, it already
        has block 1.
        """
        assert self.master is not None
        number, master = self.serving[0].start, self.master
        if master.heard:
            beyond = master.rto.repeats - COPIES_ALONE
            longer = beyond >= 0 and (not self._mayRemind(number) or beyond % (COPIES_ALONE + 1) == 0)
        else:
            longer = master.rto.repeats >= UNHEARD_REPEATS - 1
        return [range(number, min(number + 2, self.count))] if longer else list(self.serving)

    def _mayRemind(self, number: int) -> bool:
        """
        Find out whether block 1 may go to the master alone before this block is repeated.

        atftp never acknowledges one block twice in a row, so it has to hear another one in between to repeat an ACK
        that was lost.  Of block 1 alone nobody else hears, it has it for sure, and its ACK says nothing here.  It is
        not sent to one that has not acknowledged a block of the group, for it may hear none; nor before the last block,
        whose ACK is the end of every client.
        """
        assert self.master is not None
        return number > SECOND_BLOCK.start and not self._servesLastBlock and not self._countsCopies(self.master)

    def _goesAlone(self, burst: SendBlocks) -> bool:
        """Return whether block 1 goes to the master alone before this burst: to tell it so, or to remind it."""
        number = burst.numbers.start
        if not number or not burst.again or self.master is None:
            return not number
        repeats = self.master.rto.repeats
        if repeats not in REMINDERS or repeats == self._remindedAt or not self._mayRemind(number):
            return False
        self._remindedAt = repeats  # not again before a block that only keeps the group alive
        return True

    # Actions.

    def poll(self, now: float) -> Action | None:
        self._expireRequests(now)
        self._noteCrowd(now)
        if not self._actions:
            self._passOn(now)
            # Actions queued by this call come first: a Bar may be about a member that the next action removes.
            action = super().poll(now)
            while isinstance(action, Announce):
                action = super().poll(now)
            if isinstance(action, SendBlocks):
                self._burst(self._withFirst(action), now)
            elif action is not None:
                self._actions.append(action)
        return self._actions.popleft() if self._actions else None

    def _burst(self, burst: SendBlocks, now: float) -> None:
        """Have blocks sent to the group, and block 1 to the master alone where it is due; in a crowd that only."""
        if self._goesAlone(burst):
            self._actions.append(Announce(burst.peer, True, self.heard(burst.peer)))
        self._withheld = self._mayWithhold(burst, now)
        if self._withheld:
            self._sentOnce = True
        else:
            self._sent(burst, now)
            self._actions.append(burst)

    def _withFirst(self, burst: SendBlocks) -> SendBlocks:
        """Return block 2 with block 1 before it, if that was withheld from the group: others may listen."""
        return replace(burst, numbers=range(2)) if self._withheld and burst.numbers == SECOND_BLOCK else burst

    def _mayWithhold(self, burst: SendBlocks, now: float) -> bool:
        """
        Find out whether block 1 goes to the master alone: in a crowd, before it has answered, unless somebody who may
        have listened to a pass waits for the group, or the master needs both copies.
        """
        master = self.master
        if burst.numbers.start or not self._crowded or master is None or master.heard:
            return False
        if self._needsBoth(master):
            return False
        if now < self._groupSentAt + LONGEST_SILENCE:
            return True
        return not any(not each.copies and self._mayHaveListened(each) for each in self.members)

    def _needsBoth(self, member: MtftpMember) -> bool:
        """
        Return whether a member of a crowd is sent block 1 alone and to the group: it has asked again, and may be EFI's
        client, which answers neither before it has heard both.
        """
        return member.askedTwice and self._countsCopies(member)

    def _mayHaveListened(self, member: MtftpMember) -> bool:
        """Return whether a member may have heard something of a pass, as a master was heard since it asked."""
        return member.askedAt <= self._heardAt

    def _sent(self, burst: SendBlocks, now: float) -> None:
        """Note which blocks of the pass have been sent."""
        self._sentOnce, self._groupSentAt = not burst.again, now
        if not burst.again:
            self._remindedAt = 0
        if burst.numbers.start == 0 and not burst.again:
            for each in self.members:
                each.sinceFirstBlock = True
        self._reached = burst.numbers.stop
        if self._reached == self.count and self.count > 1:
            # From now on a client that has received the last block must not fall back: it may lack others.
            self._passEndedAt = now
            for each in self.members:
                each.allSent = each.allSent or each.sinceFirstBlock
                if each.lastBlockSent or each is not self.master:
                    # A master has acknowledged all others, so it lacks none.
                    self._lastBlockHeard(each, now)

    # Clients that may lack blocks.

    def _lastBlockHeard(self, member: MtftpMember, now: float) -> None:
        member.lastBlockSent = True
        if member.mayLackBlocks(now):
            self._bar(member, self._remember + BARRED)

    def _bar(self, member: MtftpMember, seconds: float) -> None:
        self._actions.append(Bar(member.peer, seconds, BARRED_BECAUSE))

    def leaving(self, member: MtftpMember, outcome: str, now: float) -> str:
        """Bar a client that may lack blocks from other transports, and refine the outcome of a silent one."""
        lost = outcome in (outcomes.SILENT, outcomes.CLOSED)
        if member.mayLackBlocks(now):
            # While the group serves others the client goes on listening, and may leave later.  A host that reports the
            # port as closed does not run iPXE, which never does that.
            stays = self._remember if len(self.members) > 1 else 0.0
            rest = max(member.askedAt + BARRED - now, LEAVING)
            self._bar(member, stays + rest if outcome == outcomes.SILENT else 0.0)
        if lost and member.allSent and not member.heard:
            return outcomes.UNCONFIRMED  # it has probably received everything
        if lost and member.heard and member is self.master and self.serving == (SECOND_BLOCK,):
            return outcomes.UNHEARD  # it has acknowledged block 1 only, which was sent to it alone
        return outcome
