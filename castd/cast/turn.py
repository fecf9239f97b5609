"""
Decide what is sent in protocols where the receivers ask by themselves, and one at a time is served.

Theory of operation
===================

One member, the I{master}, has the turn; all others are I{listeners}.  The master asks for blocks (L{RequestBlocks}),
and they are sent to the group, where all members receive them.  When the master leaves, or makes no progress for too
long, the turn passes to another member.  Unicast is the same with one member.

Only the master is served.  A request of a listener only shows that it is alive: if it were answered with blocks, two
receivers could make the server alternate between them for ever.  A listener that goes on asking is told again that it
does not have the turn.

Each request of the master is served once.  The first request of its turn may ask for any blocks; a later one is
compared with the request that is being served, by its first block:

 - a later block: this is progress; the new request is served instead;
 - the very same blocks: this is a duplicate, which never causes a block (Sorcerer's Apprentice, RFC 1123, section
   4.2.3.1), with one exception: a window is sent again, once, if the duplicate says that its first block was lost;
 - an earlier block, or the same one with another end: the new request is ignored.  So within its turn a receiver cannot
   go back, nor ask for more or less of what it has just asked for.

States
======

 - L{EMPTY<TurnState.EMPTY>}: there is no member.
 - L{ANNOUNCED<TurnState.ANNOUNCED>}: the master was told that it has the turn, and has not yet asked for blocks.
 - L{SENDING<TurnState.SENDING>}: blocks that the master asked for are still to be sent.
 - L{WAITING<TurnState.WAITING>}: all of them are sent, and the master is to answer.

What happens in each::

               join                  RequestBlocks of           Leave of        repeatAt
                                     the master                 the master
    EMPTY      the master:           -                          -               not set
               ANNOUNCED (1)
    ANNOUNCED  a listener            SENDING                    next turn (2)   announced again
    SENDING    a listener            a later one: is served     next turn       not looked at
                                     instead
    WAITING    a listener            a later one: SENDING (3);  next turn       SENDING what repetition() says
                                     the same window: SENDING
                                     again, once, if it is lost

 1. SENDING at once, if the request itself asks for blocks (C{wants}).  The master is announced in both cases.
 2. ANNOUNCED (or SENDING) with the next master; EMPTY if there is no other member.
 3. WAITING, if all blocks that it asks for are on their way.

In ANNOUNCED and WAITING the turn is lost at C{turnEndsAt}, or when its budget is spent (L{TurnBudget}) or that of the
address of the master (L{AddressCosts}): the master is removed after C{maxFailedTurns}, and else has another turn after
all members that are not suspect.  Announcements and farewells are always sent before blocks.  A listener is announced
as such when it joins.

A member that joins again has repeated its request.  A master that has sent anything else since has restarted: it goes
to the end of the order, and is announced as a listener.  A master that has not is answered again: announced, and in
WAITING sent its blocks again.  A listener is announced again.

Instants
========

Everything that happens by itself happens at one of these; C{deadline} gives the next one:

 - C{repeatAt}: the announcement (ANNOUNCED) or the blocks (WAITING) are repeated; infinite when there were enough
   repetitions to a member that has never answered.
 - C{turnEndsAt(master)}: the master, silent or without progress, loses its turn.
 - C{_budgetEndsAt(master)}: the address of the master has spent its budget, and the master loses its turn.
 - L{JoinDelay.until<castd.cast.limits.JoinDelay>}: the first block may be sent, as no member has joined for a while.
 - C{Member.announceAt}: the announcement of a listener that has said nothing is repeated: once within the delay of the
   first block, and then as often as its protocol has listeners confirm it.
 - C{_blocksSentAt + longestSilence()}: a block is sent only to show that the group is alive, as some clients start an
   incomplete image when their group is silent.

Two more are checked when something else happens: C{minTurnProgress} at the end of each of its intervals, and
C{reachabilityCheckAfter} when the master makes progress.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Generic, NamedTuple

from zope.interface import implementer

from castd import outcomes
from castd.cast.blockmap import Holding
from castd.cast.blockset import RunLog
from castd.cast.events import Action, Event, Leave, PeerState, Ranges, RequestBlocks, SendBlocks
from castd.cast.limits import AddressCosts, JoinDelay, TurnBudget
from castd.cast.members import ListenerTimers, M, Member, Members
from castd.cast.policy import MIN_RTO, RetransmitPolicy, ShortTurn
from castd.cast.reachability import COPIES, DEAF_TURN, Reachability, deafTurn
from castd.cast.window import ROUNDING, SendWindow
from castd.interfaces import IMappedCast
from castd.request import Peer

#: A request that arrives so soon after a repetition of the announcement has crossed it on the way.  Seconds.
CROSSING = 0.05
#: The shortest time between two corrections, or two announcements, of one listener.  Seconds.
MIN_NOTICE_INTERVAL = 1.0
NEVER = float("inf")


class TurnState(Enum):
    """Names the four states; the module docstring describes them."""

    EMPTY = "empty"
    ANNOUNCED = "announced"
    SENDING = "sending"
    WAITING = "waiting"


class MasterTerms(NamedTuple):
    """
    Says how the master of a group may be served by the fast path, one block for each of its answers.

    @ivar peer: its address.
    @ivar start: the number after the block that it is to acknowledge next.
    @ivar sentAt: the instant at which that block was sent.
    @ivar until: an instant from which on the cast must be asked what follows an answer.
    @ivar most: the most blocks that may be sent before the cast must be asked again.
    """

    peer: Peer
    start: int
    sentAt: float
    until: float
    most: float


@implementer(IMappedCast)
class GenericTurn(ABC, Generic[M]):
    """
    Serves members one at a time.  The subclass chooses the class of the members.

    A protocol that needs rules of its own overrides hooks: L{newMember}, L{successor}, L{turnGiven}, L{repetition},
    L{announcesAgain}, L{interval}, L{turnEndsAt}, L{longestSilence} and L{leaving}; and the methods of L{ICast}.  It
    may read all attributes below, and call L{giveTurn}, L{passTurn}, L{remove}, L{sendAgain}, L{delayFirstBlock} and
    L{memberListens}.  Nothing else is promised.

    @ivar policy: the timeouts and limits of the cast.
    @ivar count: how many blocks the content has.
    @ivar highestSent: the highest number ever sent, -1 before the first.
    @ivar sentRuns: see L{IMappedCast}.
    @ivar members: the members, in the order of their turns.
    @ivar master: the member that has the turn; L{None}: there is no member.
    @ivar state: see the module docstring.
    @ivar serving: the blocks that the master has asked for last; empty before it has asked for any.
    @ivar sentAt: the instant at which the last of these, or the announcement of the master, was sent.
    @ivar repeatAt: the instant at which that is repeated.
    @ivar progressed: the master has received blocks that it asked for in this turn.
    @ivar progressAt: the instant at which the turn began, or at which the master last asked for something new.
    """

    def __init__(self, policy: RetransmitPolicy, count: int | None = None) -> None:
        """
        @param count: how many blocks the content has.
        """
        self.policy = policy
        self.count = count
        self.highestSent = -1
        self._skipped = 0  # blocks below that which were never sent: a master had them already
        self.sentRuns: RunLog | None = None
        self.members: Members[M] = Members()
        self.master: M | None = None
        self.state = TurnState.EMPTY
        self.serving: Ranges = ()
        self.sentAt = 0.0
        self.repeatAt: float = NEVER
        self.progressAt = 0.0
        self._turns = self._masters = self._passes = self._lostTurns = 0
        # For groups alone; a transfer by unicast has none of these three.
        mayBeDeaf = (policy.deafAfterRepeats, policy.foundPerAssumedDeaf, policy.reachabilityCheckAfter)
        self._reachability: Reachability[M] | None = None if mayBeDeaf == (None, None, None) else Reachability(policy)
        self._joinDelay: JoinDelay | None = JoinDelay(policy) if policy.joinDelay else None
        self._listeners: ListenerTimers[M] = ListenerTimers()
        self._budget: TurnBudget | None = None
        self._costs = None if policy.addressBudget is None else AddressCosts(policy, count)
        self._checking = False  # the master got its turn early, only to show that it hears the group
        self.progressed = False
        self._deafTurn = DEAF_TURN  # limits the turn while the master may be deaf
        self._pending: list[range] = []  # blocks that are still to be sent
        self._repeating = False  # the pending blocks, or those that were sent last, are a repetition
        self._copies = 0  # how often the first block of serving was sent since the master asked for it
        self._timed = True  # the answer to the pending blocks is to be measured
        self._window = SendWindow()  # what was sent in this turn, and what the requests of the master say of it
        self._blocksSentAt = 0.0  # the instant of the last burst
        self._turnBlocks = 0  # blocks sent in this turn, with repetitions

    # Hooks.

    @abstractmethod
    def newMember(self, peer: Peer, wants: Ranges, now: float) -> M:
        """
        Hook: make a member for a receiver that joins.

        @param wants: the blocks that its request itself asks for.
        """

    def successor(self, now: float) -> M | None:
        """
        Hook: choose who gets the turn next, when a turn has ended.

        @return: a member, or L{None} if there is none.  By default the oldest that is not suspect, else the oldest;
            those whose address has spent its budget come after all others, the one that has cost least first.
        """
        costs, members = self._costs, self.members
        if costs is None or not costs.seconds:
            return next((member for member in members if not member.suspect), None) or next(iter(members), None)
        within = [member for member in members if costs.left(member.peer[0]) > 0.0]
        if within:
            return next((member for member in within if not member.suspect), within[0])
        return min(members, key=lambda member: costs.seconds.get(member.peer[0], 0.0), default=None)

    def turnGiven(self, member: M, now: float) -> None:
        """Hook: note that a member gets the turn; called before it is announced.  By default nothing is done."""

    def repetition(self) -> list[range]:
        """
        Hook: choose the blocks to send when the master does not answer, in L{WAITING<TurnState.WAITING>}.

        @return: runs of numbers, at least one.  By default all blocks that the master has asked for last.
        """
        return list(self.serving)

    def announcesAgain(self, member: M) -> bool:
        """
        Hook: choose whether the master is announced again together with the blocks of L{repetition}.

        @return: by default it is not.
        """
        return False

    def interval(self, member: M) -> float:
        """
        Hook: choose how long to wait for the answer to what is sent now, before it is repeated.

        @return: seconds.  By default the interval of L{RtoEstimator<castd.cast.rto.RtoEstimator>}, or of a short turn.
        """
        short = self._shortTurn(member)
        if short is not None:
            return short.interval
        return member.rto.interval(self._servesOneBlock)

    def turnEndsAt(self, member: M) -> float:
        """
        Hook: choose when the master loses its turn, if it asks for nothing new.  It is called at each poll and
        deadline.

        @return: an instant.  By default the policy decides (C{progressTimeout} and similar fields, C{shortTurn}).
        """
        policy = self.policy
        if short := self._shortTurn(member):
            return self.progressAt + short.repeats * short.interval
        if len(self.members) == 1 and (member.heard or not member.failedTurns):
            # No other member waits; one that has lost a turn and never answered has had its time.
            return self.progressAt + policy.lonePatience(member.heard)
        measured, rto = policy.measuredProgressTimeout, member.rto
        if measured is None or rto.smoothedRtt is None or rto.repeats < policy.minRepeats:
            return self.progressAt + policy.progressTimeout
        return self.progressAt + (policy.progressTimeout if self._onlySuspectsWait(member) else measured)

    def _onlySuspectsWait(self, member: M) -> bool:
        """
        Return whether a member that has lost a turn need not yield sooner than others, as none of those who wait is
        known to live: a switch that restarts silences all.
        """
        return member.failedTurns > 0 and all(each.suspect for each in self.members if each is not member)

    def longestSilence(self) -> float | None:
        """
        Hook: choose how long the group may be sent nothing before a block is sent only to show that it is alive.  It is
        called at each poll and deadline.

        @return: seconds; L{None}: for ever.  By default C{keepAliveInterval} of the policy.
        """
        return self.policy.keepAliveInterval

    def leaving(self, member: M, outcome: str, now: float) -> str:
        """
        Hook: note that a member is about to be removed, and choose its outcome.

        @param outcome: one of the words of L{castd.outcomes}.
        @return: the outcome for its farewell.  By default the same.
        """
        return outcome

    # Requests.

    def memberCount(self) -> int:
        return len(self.members)

    def repeatedRequests(self, peer: Peer) -> int:
        """Return how often a member has repeated its last request, for the log."""
        member = self.members.get(peer)
        return 0 if member is None else member.repeatedFor(self.serving)

    def copiesSent(self, peer: Peer) -> int:
        """Return how often the first block was sent that the master has asked for last; 0: this is another member."""
        return self._copies if self.master is not None and self.master.peer == peer else 0

    def heard(self, peer: Peer) -> bool:
        member = self.members.get(peer)
        return member is not None and member.heard

    def statistics(self) -> Mapping[str, int]:
        """
        Return the counters for the event C{closed}: C{lost}, turns that a silent master lost; C{masters}, members that
        had a turn; C{changes}, how often the turn passed on; C{passes}, turns in which blocks were sent.
        """
        return {
            "lost": self._lostTurns,
            "masters": self._masters,
            "changes": max(0, self._turns - 1),
            "passes": self._passes,
        }

    def peerState(self, peer: Peer) -> PeerState | None:
        member = self.members.get(peer)
        if member is None:
            return None
        turn = member is self.master
        serving = range(self.serving[0].start, self.serving[-1].stop) if turn and self.serving else None
        return PeerState(turn, serving, self.highestSent)

    def recordSent(self) -> None:
        if self.count is not None:
            self.sentRuns = RunLog(self.count)

    def holding(self, peer: Peer) -> Holding | None:
        member = self.members.get(peer)
        if member is None or self.count is None:
            return None
        asked = (member is self.master and self.serving) or member.wanted
        return Holding((range(asked[0].start if asked else 0, self.count),), member.joinedRun)

    def mayHaveAll(self, peer: Peer) -> bool:
        """
        Return whether a member of a group may have received everything: all that it lacked, by what it has asked for
        last, has been sent since it joined.
        """
        member = self.members.get(peer)
        return member is not None and self._mayHaveAll(member)

    def _mayHaveAll(self, member: M) -> bool:
        """As L{mayHaveAll}."""
        sent, count = self.sentRuns, self.count
        turn = member is self.master
        if sent is None or not count or not self._allSent or (turn and self._pending):
            return False
        asked = (turn and self.serving) or member.wanted
        return sent.allSent(range(asked[0].start if asked else 0, count), member.joinedRun)

    def memberListens(self, member: M) -> None:
        """Note that what is sent from now on may be received by this member."""
        if self.sentRuns is not None:
            member.joinedRun = self.sentRuns.runs

    def join(self, peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        member, moved = self.members.get(peer), False
        if member is None and instead is not None and (member := self.members.get(instead)) is not None:
            self.members.changePeer(member, peer)
            member.requested, moved = wants, True
        if member is not None:
            self._joinedAgain(member, wants, now, moved)
            return
        member = self.newMember(peer, wants, now)
        self.memberListens(member)
        self.members.add(member)
        if self._reachability is not None:
            self._reachability.joined(member)
        self.delayFirstBlock(now)
        if self.master is None:
            self.giveTurn(member, now)
        else:
            self._announceListener(member, now)

    def _joinedAgain(self, member: M, wants: Ranges, now: float, moved: bool) -> None:
        """
        Answer a repeated request by the present state; a master that was heard since its first one has restarted.

        @param moved: it has come from another port than those before, which was sent nothing yet.
        """
        member.highestSentAtJoin, member.hearsGroup = self.highestSent, False
        member.suspect, member.failedTurns = False, 0  # it lives, and may be another one than before
        self.memberListens(member)
        if member.wanted and member.wanted[0].start > 0:
            member.wanted = ()  # what it had before it may lack now
        if member is not self.master:
            member.heard = False
            self._announceListener(member, now)
        elif member.heard:
            member.heard = member.confirmed = False
            member.requested = wants
            self.members.moveToEnd(member)
            self.passTurn(now)
            if self.master is not member:
                self._announceListener(member, now)  # else it would not hear what is sent before its turn
        elif self._announcedJustNow(member, now) and not moved:
            pass  # the repetition of the announcement was sent already: a second OACK makes atftp give up
        else:
            self.members.announce(member, True)
            if self.state is TurnState.ANNOUNCED:
                # This announcement replaces the next repetition.
                self.sentAt, self.repeatAt = now, now + self.interval(member)
            elif self.state is TurnState.WAITING and self.serving:
                self.sendAgain()

    def _announcedJustNow(self, member: M, now: float) -> bool:
        """Return whether the announcement of the master was repeated so lately that a request may have crossed it."""
        return self.state is TurnState.ANNOUNCED and member.rto.repeats > 0 and now < self.sentAt + CROSSING

    def _announceListener(self, member: M, now: float) -> None:
        self.members.announce(member, False)
        member.announcements, member.announceAt = 0, None
        early = None if self._joinDelay is None or self.highestSent >= 0 else self._joinDelay.halfway(now)
        if early is not None:
            self._listeners.set(member, early)
        elif self.policy.maxListenerRepeats:
            self._listeners.set(member, now + MIN_NOTICE_INTERVAL)

    def delayFirstBlock(self, now: float) -> None:
        """Delay the first block, if it has not been sent, for more members to join, as one has just joined."""
        if self.highestSent < 0 and self._joinDelay is not None:
            self._joinDelay.extend(now)

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        member = self.members.get(peer)
        if member is None:
            return
        if isinstance(event, Leave):
            wants = self.serving if member is self.master and self.state is TurnState.WAITING else ()
            self.remove(member, event.outcome, now, wants)
        elif isinstance(event, RequestBlocks):
            member.announceAt = None
            if member is self.master:
                self._masterRequests(member, event.ranges, now)
            else:
                self._listenerRequests(member, event.ranges, now)

    def _listenerRequests(self, member: M, ranges: Ranges, now: float) -> None:
        """Note that a listener is alive, and tell it now and then that it does not have the turn."""
        member.heard, member.suspect = True, False
        self._noteHearing(member, ranges)
        if ranges and self._removedAsDeaf(member, ranges, now):
            return
        if not member.confirmed or not ranges:
            member.confirmed = True
        elif member.corrections < self.policy.maxCorrections and now - member.correctedAt >= MIN_NOTICE_INTERVAL:
            member.corrections += 1
            member.correctedAt = now
            self.members.announce(member, False)
            member.confirmed = True

    def _masterRequests(self, member: M, ranges: Ranges, now: float) -> None:
        """Serve a request of the master, if it is new; an empty one only confirms the announcement."""
        member.heard = member.confirmed = True
        member.suspect = False
        if not ranges or self._removedAsDeaf(member, ranges, now):
            return
        self._noteHearing(member, ranges)
        reachability = self._reachability
        if self.state is TurnState.ANNOUNCED:
            self._chargeWaiting(member, now)
            self._announcementAnswered(member, ranges[0].start, now)
            self._serve(member, ranges, now)
        elif ranges[0].start > self.serving[0].start:
            self._progress(member, ranges[0].start, now)
            if reachability is not None and (other := reachability.nextToCheck(self.members, now)) is not None:
                self.members.announce(member, False)
                self._checking = True
                self.giveTurn(other, now)
                return
            if self._costs is not None and now - self.progressAt > MIN_RTO:
                self._chargeWaiting(member, now)
            if self._servesOneBlock:
                self._serve(member, ranges, now)
            else:
                self._serveWindow(member, ranges, now)
        elif ranges == self.serving and self.state is TurnState.WAITING:
            self._sameRequestAgain(member, now)

    def _sameRequestAgain(self, master: M, now: float) -> None:
        """Send a window again for a duplicate request, if that says that its first block was lost."""
        master.asksAgain(self.serving)
        if not self._servesOneBlock and self._window.firstLost(self.serving[0].start, now, master.rto.shortestRtt):
            self.sendAgain()
            self._timed = True

    def _progress(self, master: M, number: int, now: float) -> None:
        """Note that the master asks for a later block than before."""
        seconds = self._window.measured(number, now, master.rto.shortestRtt)
        if seconds is not None:
            master.rto.sample(seconds)
        elif self._repeating and self.state is TurnState.WAITING and self._servesOneBlock:
            # No sample (Karn), but it tells whether the repetition was needed.
            master.rto.repeatedBlockAnswered(now - self.sentAt)
        if self._repeating and not self._servesOneBlock and number < self._window.sentStop:
            master.rto.reset()  # a part of the window was lost: no longer round-trip time has caused the repetition
        else:
            master.rto.answered()
        master.failedTurns = 0
        self.progressed = True
        if self._reachability is not None:
            self._reachability.received()

    def _announcementAnswered(self, master: M, number: int, now: float) -> None:
        """Note that the master has answered its announcement, and asks for this block."""
        seconds, spacing = now - self.sentAt, self.sentAt - self.progressAt
        repeated = master.rto.repeats > 0 or spacing > 0
        if repeated:
            self._window.announcedAgain(number, spacing, seconds)
        else:
            master.rto.answeredWithin(seconds)
        self._deafTurn = DEAF_TURN if repeated else deafTurn(seconds)
        master.rto.reset()

    @property
    def _servesOneBlock(self) -> bool:
        """Whether the master has asked for one block, not for a window, nor for nothing yet."""
        return len(self.serving) == 1 and len(self.serving[0]) == 1

    def _noteHearing(self, member: M, ranges: Ranges) -> None:
        """Note that a member hears the group if it asks for a block after the first one."""
        if not member.hearsGroup and ranges and ranges[0].start > 0:
            member.hearsGroup = True
            if self._reachability is not None:
                self._reachability.groupHeard = True

    def _serve(self, master: M, ranges: Ranges, now: float) -> None:
        """Begin to send the blocks that the master has asked for."""
        self.serving, self._pending = ranges, list(ranges)
        self.state = TurnState.SENDING
        self._repeating, self._timed = False, True
        self._copies = 0
        self.progressAt = now
        if ranges != master.wanted:
            master.wanted, master.servedAt = ranges, NEVER

    def _serveWindow(self, master: M, ranges: Ranges, now: float) -> None:
        """Begin to send those blocks of the next window that the master lacks, by what its request says."""
        start = self._window.advanced(self.serving[0].start, ranges[0].start, now, master.rto.shortestRtt)
        self._serve(master, ranges, now)
        self._pending = [range(max(run.start, start), run.stop) for run in ranges if run.stop > start]
        if not self._pending:
            # Those that it lacks are on their way.
            self.state, self.repeatAt = TurnState.WAITING, now + self.interval(master)

    def sendAgain(self) -> None:
        """Send again the blocks that the master has asked for last, as a repetition."""
        self._repeatRuns(list(self.serving), timer=False)

    def _repeatRuns(self, runs: list[range], timer: bool) -> None:
        self._window.sentAgain(timer)
        self._pending, self._repeating, self.state = runs, True, TurnState.SENDING
        self._timed = False

    def burstDelayed(self, now: float) -> None:
        """Begin now to wait for the answer to a burst that has waited for the disk, a pacer or the socket."""
        if self.state is TurnState.WAITING and self.master is not None:
            self._window.delayed(now)
            self.sentAt = self._blocksSentAt = self.master.servedAt = now
            self.repeatAt = now + self.interval(self.master)
            if not self._repeating:
                self.progressAt = now

    # Members that do not receive what is sent to the group.

    def _removedAsDeaf(self, member: M, ranges: Ranges, now: float) -> bool:
        """
        Remove a receiver that asks again and again for blocks that were sent after it asked: it hears no multicast.

        @return: whether it was removed.
        """
        limit = self.policy.deafAfterRepeats
        if limit is None or not member.asksInVain(ranges, now) or member.unchangedRequests < limit:
            return False
        if member is self.master and self.progressed and not self._outOfReach(member, now):
            return False
        self._removeDeaf(member, ranges, now)
        return True

    def _outOfReach(self, member: M, now: float) -> bool:
        """Return whether a master that has received blocks in this turn was sent one often enough in vain."""
        seconds = DEAF_TURN.repeats * DEAF_TURN.interval
        return member.rto.repeats + 1 >= COPIES and now >= self.progressAt + seconds

    def _removeDeaf(self, member: M, ranges: Ranges, now: float) -> None:
        """Remove a member that does not hear the group, and others that are assumed not to hear it either."""
        reachability = self._reachability
        gone = [] if reachability is None else reachability.assumedDeaf(self.members, member, self._allSent, now)
        for other in gone:
            self.members.remove(other, self.leaving(other, outcomes.DEAF, now))
        self.members.remove(member, self.leaving(member, outcomes.DEAF, now), ranges, deaf=not member.hearsGroup)
        if self.master is member or self.master in gone:
            self.passTurn(now)

    def _seemsDeaf(self, member: M) -> bool:
        """Return whether the master asks for the first block and has received nothing, though others hear the group."""
        if self._reachability is None or self.state is TurnState.ANNOUNCED:
            return False
        return self._reachability.seemsDeaf(member, self.highestSent + 1 - self._skipped)

    @property
    def _allSent(self) -> bool:
        """Whether every block has been sent."""
        return self.count is not None and self.highestSent >= self.count - 1

    # The turn.

    def remove(self, member: M, outcome: str, now: float, wants: Ranges = ()) -> None:
        """
        Remove a member, and queue its farewell; the turn of a master passes on.

        @param wants: the blocks that it still lacks, as far as it has asked for them.
        """
        # One that has left closes its port after any block, if that was all that it lacked.  One that is silent, though
        # a block was sent to it again and again, may be dead; but the last one may be all that it has not acknowledged.
        inVain = outcome == outcomes.SILENT and bool(member.wanted) and member.wanted[-1].stop != self.count
        sent = outcome in (outcomes.SILENT, outcomes.CLOSED) and not inVain and self._mayHaveAll(member)
        self.members.remove(member, self.leaving(member, outcome, now), wants, copies=self._copies, sent=sent)
        if member is self.master:
            self.passTurn(now)

    def announceAgainNow(self, peer: Peer, now: float) -> None:
        """
        Announce a master again at once, if it has not answered and others wait: its port was reported closed, which a
        second report is to confirm.  Listeners that have everything leave without a word, many at a time.
        """
        master = self.master
        if master is None or master.peer != peer or self.state is not TurnState.ANNOUNCED or len(self.members) == 1:
            return
        if self.repeatAt < NEVER:
            self.repeatAt = now

    def passTurn(self, now: float) -> None:
        """End the turn, and give the next one to the L{successor}."""
        self._chargeTurn(now)
        self.master, self.state, self.repeatAt, self._pending = None, TurnState.EMPTY, NEVER, []
        self._checking = False
        chosen = self.successor(now)
        if chosen is not None:
            self.giveTurn(chosen, now)

    def giveTurn(self, member: M, now: float) -> None:
        """Make a member the master, also in place of another one, and queue its announcement."""
        self._chargeTurn(now)
        if self._costs is not None:
            self._costs.turnBegins(member.peer[0], now)
        self.turnGiven(member, now)
        self.master = member
        self.state = TurnState.ANNOUNCED
        self.serving, self._repeating, self.progressed = (), False, False
        if self._turns:
            self._window = SendWindow()
        self.sentAt = now
        self.progressAt, self._turnBlocks = now, 0
        if self.count and (self.policy.turnBudget is not None or self.policy.minTurnProgress is not None):
            self._budget = TurnBudget(self.policy, self.count, now)
        self._turns += 1
        self._masters += not member.turns
        member.turns += 1
        member.rto.reset()
        member.announceAt = None
        self.members.announce(member, True)
        self.repeatAt = now + self.interval(member)
        if member.requested:
            self._serve(member, member.requested, now)

    def _failTurn(self, member: M, now: float) -> None:
        """End the turn of a master that was silent for too long, or has spent the budget of its turn."""
        if self.state is TurnState.WAITING and self._seemsDeaf(member):
            self._removeDeaf(member, self.serving, now)
            return
        member.failedTurns += 1
        member.suspect = True
        self._lostTurns += 1
        if member.failedTurns >= self.policy.maxFailedTurns:
            self.remove(member, outcomes.SILENT, now, self.serving if self.state is TurnState.WAITING else ())
            return
        self.passTurn(now)
        if self.master is not member and (member.heard or member.failedTurns == 1):
            self.members.announce(member, False)

    def _chargeWaiting(self, member: M, now: float) -> None:
        """Charge the address of the master for the time since it last asked for anything new, if others wait."""
        waited = now - self.progressAt
        if self._costs is not None and waited > MIN_RTO and len(self.members) > 1:
            self._costs.waited(member.peer[0], waited)

    def _chargeTurn(self, now: float) -> None:
        """Charge the address of the master, if there is one, for its turn, which ends."""
        if self._costs is not None and self.master is not None:
            self._chargeWaiting(self.master, now)
            self._costs.turnEnds(self.master.peer[0], self._turnBlocks, now)

    def _budgetEndsAt(self, member: M) -> float:
        """Return when the master has spent the budget of its address; infinite: nobody waits who has not."""
        costs, host = self._costs, member.peer[0]
        if costs is None or host not in costs.seconds:
            return NEVER
        others = (other.peer[0] for other in self.members if other.peer[0] != host)
        return self.progressAt + costs.leftOfTurn(host) if any(costs.left(other) > 0.0 for other in others) else NEVER

    @property
    def _turnBudget(self) -> TurnBudget | None:
        """The budget of the turn of the master; L{None}: the turn is not limited, or nobody else waits."""
        return self._budget if len(self.members) > 1 else None

    def _overspent(self, now: float) -> bool:
        if (budget := self._turnBudget) is None:
            return False
        return budget.overspent(self._turnBlocks, self.serving[0].start if self.serving else None, now)

    def _shortTurn(self, member: M) -> ShortTurn | None:
        """
        Find out whether the turn of this member is a short one.

        Many listeners leave without a datagram when they have everything, so the first turn of a member after the last
        block is short; so is that of a member that seems to be deaf, or is only to show that it is not; and that of one
        that was a listener, until it has answered the first block that it asks for.
        """
        if self.policy.shortTurn is None:
            return None
        if self._seemsDeaf(member) or self._mayBeDeaf(member):
            return self._deafTurn
        if self._checking and self.state is TurnState.ANNOUNCED:
            return self.policy.shortTurn
        if len(self.members) == 1:
            return None
        unproved = member.waited and not member.failedTurns and member.rto.smoothedRtt is None
        return self.policy.shortTurn if self._allSent and unproved and self.state is TurnState.ANNOUNCED else None

    def _mayBeDeaf(self, member: M) -> bool:
        """Return whether a master that was a listener is to show, while others wait, that it hears the group."""
        if self._reachability is None or self.state is TurnState.ANNOUNCED or self.progressed:
            return False
        return member.turns + member.waited > 1 and not member.failedTurns and len(self.members) > 1

    # Actions.

    def poll(self, now: float) -> Action | None:
        while True:
            if (notice := self.members.nextNotice()) is not None:
                return notice
            delayed = self._firstBlockDelayed(now)
            if self.state is TurnState.SENDING and not delayed:
                return self._send(now)
            if not self._elapsed(now):
                return self._keepAlive(now)

    def _firstBlockDelayed(self, now: float) -> bool:
        delay = self._joinDelay
        if delay is None or delay.until is None:
            return False
        if now < delay.until:
            return True
        delay.until = None
        if self.state is TurnState.SENDING:
            self.progressAt = now  # the delay does not count as time without progress
        return False

    def _send(self, now: float) -> SendBlocks:
        numbers = self._pending.pop(0)
        if not self._pending:
            self.state = TurnState.WAITING
        assert self.master is not None
        self._window.sent(numbers, now, not self._timed)
        self.sentAt = self._blocksSentAt = now
        self.master.servedAt = min(self.master.servedAt, now)
        self.repeatAt = now + self.interval(self.master)
        self._copies += numbers.start == self.serving[0].start
        self._passes += not self._turnBlocks
        self._turnBlocks += len(numbers)
        self._skipped += max(0, numbers[0] - self.highestSent - 1)
        self.highestSent = max(self.highestSent, numbers[-1])
        if self.sentRuns is not None:
            self.sentRuns.noteSent(numbers)
        return SendBlocks(numbers, self.master.peer, self._repeating)

    def _elapsed(self, now: float) -> bool:
        """
        Do what is due at one of the instants in the module docstring.

        @return: whether anything was due: C{poll} is to start again.
        """
        member = self.master
        if member is None:
            return False
        if self.state in (TurnState.ANNOUNCED, TurnState.WAITING):
            end = self.turnEndsAt(member)
            if self._costs is not None:
                end = min(end, self._budgetEndsAt(member))
            if now >= end or self._overspent(now):
                self._failTurn(member, now)
                return True
            if now >= self.repeatAt:
                self._repeat(member, now)
                return True
        return self._announceUnconfirmed(now)

    def _repeat(self, member: M, now: float) -> None:
        limit = self.policy.maxRepeatsUnheard
        if limit is not None and not member.heard and (member.failedTurns or member.rto.repeats >= limit):
            self.repeatAt = NEVER  # enough for an address that never answered: nothing is sent until its turn ends
            return
        member.rto.backOff()
        if self.state is TurnState.ANNOUNCED:
            self.members.announce(member, True)
            self.sentAt, self.repeatAt = now, now + self.interval(member)
            return
        if self.announcesAgain(member):
            self.members.announce(member, True)
        self._repeatRuns(self.repetition(), timer=True)

    def _announceUnconfirmed(self, now: float) -> bool:
        """
        Announce a listener again that has said nothing: once while the first block is delayed, as a listener that has
        lost its only announcement misses the whole pass; and then where its protocol has it confirm that.

        @return: whether one was due.
        """
        member = self._listeners.due(now)
        if member is None:
            return False
        limit = self.policy.maxListenerRepeats
        if self.highestSent < 0 or member.announcements < limit:
            self.members.announce(member, member is self.master)
        member.announcements += 1
        if member.announcements < limit:
            self._listeners.set(member, now + MIN_NOTICE_INTERVAL)
        return True

    def _keepAlive(self, now: float) -> SendBlocks | None:
        """Send a block once more to a group that was sent nothing for L{longestSilence}."""
        seconds = self.longestSilence()
        if seconds is None or self.highestSent < 0 or self.master is None or now < self._blocksSentAt + seconds:
            return None
        self._blocksSentAt = now
        numbers = self.serving[-1][-1:] if self.serving else range(self.highestSent, self.highestSent + 1)
        if self.sentRuns is not None:
            self.sentRuns.noteSent(numbers)
        return SendBlocks(numbers, self.master.peer, again=True)

    def deadline(self, now: float) -> float | None:
        if self.members.hasNotices:
            return now
        member = self.master
        if member is None:
            return None
        announceAt = self._listeners.next
        if self.state is TurnState.SENDING:
            until = None if self._joinDelay is None else self._joinDelay.until
            if until is not None and announceAt is not None:
                until = min(until, announceAt)
            return now if until is None else max(until, now)
        times = [self.turnEndsAt(member), self.repeatAt]
        if self._costs is not None:
            times.append(self._budgetEndsAt(member))
        if announceAt is not None:
            times.append(announceAt)
        silence = self.longestSilence()
        if silence is not None and self.highestSent >= 0:
            times.append(self._blocksSentAt + silence)
        return max(min(times), now)

    # The fast path (castd.server.fastpath): while the only member, or the master of a group, answers as predicted it is
    # served without polling the cast; these methods keep the state of the cast up to date.

    def _onlyMember(self) -> M | None:
        """Return the only member, if no announcement or farewell is queued; L{None}: there are others, or none."""
        return None if self.members.hasNotices or len(self.members) > 1 else self.master

    def mayBeginFastPath(self) -> bool:
        """Return whether the fast path may begin with the answer to the announcement of the only member."""
        member = self._onlyMember()
        return (
            member is not None
            and self.state is TurnState.ANNOUNCED
            and self.highestSent < 0
            and (self._joinDelay is None or self._joinDelay.until is None)
            and not member.wanted
        )

    def fastPathBegun(self, numbers: range, now: float) -> float:
        """
        Note that the only member has answered its announcement, and that these blocks were sent for it.  The time of
        that answer is not measured: a client sends it when it is ready for the data.

        @return: seconds after which the blocks are to be repeated if no answer arrives.
        """
        assert self.master is not None
        member = self.master
        member.heard = member.confirmed = True
        member.suspect = False
        self._announcementAnswered(member, numbers.start, now)
        self._serve(member, (numbers,), now)
        self._send(now)
        return member.rto.interval(self._servesOneBlock)

    def mayEnterFastPath(self, stop: int) -> float | None:
        """
        Find out whether the only member may be served by the fast path from now on.

        @param stop: the number after the last block that was sent.
        @return: the instant at which that block was sent; L{None}: the fast path may not be entered.
        """
        member = self._onlyMember()
        if self.state is not TurnState.WAITING or member is None or not member.heard or self._repeating:
            return None
        if self._window.often:
            return None  # its next ACK is not that of the last block
        return self._window.timedAt if stop == self.highestSent + 1 else None

    @property
    def rttConverged(self) -> bool:
        """Whether the round-trip time of the only member is known so well that its next answers need no measurement."""
        assert self.master is not None
        return self.master.rto.converged

    def answerMeasured(self, seconds: float) -> float:
        """
        Note the time that the only member has taken to answer a step of the fast path.

        @param seconds: from the step to its answer.
        @return: seconds after which a step is to be repeated if no answer arrives.
        """
        assert self.master is not None
        rto = self.master.rto
        rto.sample(seconds)
        rto.answered()
        self.master.failedTurns = 0
        return rto.interval(self._servesOneBlock)

    def fastPathLeft(self, numbers: range, now: float) -> None:
        """Note that the only member was served by the fast path up to these blocks, which were sent at C{now}."""
        assert self.master is not None
        self.serving = self.master.wanted = (numbers,)
        self._copies = 1
        self._window.followed(numbers, now)
        self.sentAt = self.progressAt = now
        self.repeatAt = now + self.master.rto.interval(self._servesOneBlock)
        self.highestSent = numbers.stop - 1

    # The fast path of a group.  Only the master is served by it; all that listeners send leaves it.  So much depends on
    # the answers of a master that the state is the same, to the last bit, as if each of them had been heard and polled
    # for: tests/test_cast/test_turn_followed.py.

    def mayFollowMaster(self) -> MasterTerms | None:
        """
        Find out whether the master may be served by the fast path from now on: it has asked for one block, which was
        sent once and is to be measured, and it is known to hear the group.

        @return: L{None}: it may not.
        """
        member = self.master
        if self.state is not TurnState.WAITING or member is None or self.members.hasNotices or self._repeating:
            return None
        rto = member.rto
        if not (self.progressed and member.hearsGroup and self._servesOneBlock) or rto.smoothedRtt is None:
            return None
        if member.failedTurns or rto.repeats or self._listeners.next is not None:
            return None
        if self._joinDelay is not None and self._joinDelay.until is not None:
            return None
        number = self.serving[0].start
        sentAt = self._window.timedBlock(number)
        if sentAt is None or self._turnMayEnd(member) <= self.progressAt + rto.longest:
            return None
        return MasterTerms(member.peer, number + 1, sentAt, self._askedAgainAt(), self._turnBlocksLeft())

    def _turnMayEnd(self, member: M) -> float:
        """Return the first instant at which anything but a repetition is due, if the master is silent from now on."""
        end = self.turnEndsAt(member)
        if self._costs is not None:
            end = min(end, self._budgetEndsAt(member))
        silence = self.longestSilence()
        return end if silence is None else min(end, self._blocksSentAt + silence)

    def _askedAgainAt(self) -> float:
        """Return the first instant from which on an answer of the master may end its turn."""
        until = NEVER if self._reachability is None else self._reachability.nextCheckAt(self.members)
        budget = self._turnBudget
        return until if budget is None else min(until, budget.checksAt - ROUNDING)

    def _turnBlocksLeft(self) -> float:
        """Return how many blocks may still be sent in this turn; infinite: any number."""
        budget = self._turnBudget
        return NEVER if budget is None else budget.mostBlocks - self._turnBlocks

    def masterAnswered(self, answers: Iterable[float]) -> tuple[float, float]:
        """
        Note the times that the master has taken to answer steps of the fast path.

        @param answers: seconds from each step to its answer.
        @return: seconds after which the last step is to be repeated if no answer arrives, and the least that this may
            become by further answers.
        """
        assert self.master is not None
        rto = self.master.rto
        rto.sample(*answers)
        return rto.interval(True), rto.shortest

    def masterFollowed(self, numbers: range, now: float) -> None:
        """
        Note that the master was served these blocks by the fast path, one by one, and L{masterAnswered} was told of
        each answer.

        @param now: the instant at which the last of them was sent.
        """
        master, last = self.master, numbers[-1:]
        assert master is not None
        master.heard = master.confirmed = True
        master.unchangedRequests = master.duplicates = 0
        master.wanted, master.servedAt = (last,), now
        self.serving, self._copies = master.wanted, 1
        self._window.sentOneByOne(last, now)
        self.sentAt = self.progressAt = self._blocksSentAt = now
        self.repeatAt = now + master.rto.interval(True)
        self._turnBlocks += len(numbers)
        self.highestSent = max(self.highestSent, last.start)
        if self._reachability is not None:
            self._reachability.received()
        if self.sentRuns is not None:
            self.sentRuns.noteEach(numbers)


class Turn(GenericTurn[Member]):
    """Decides what is sent in protocols of the TFTP family."""

    def newMember(self, peer: Peer, wants: Ranges, now: float) -> Member:
        waited = self.master is not None
        return Member(peer, wants, self.policy.repeat, waited, highestSentAtJoin=self.highestSent, joinedAt=now)
