"""
The cast of MTFTP: one pass over the file after the other, each with a master of its own.

A L{Turn<castd.cast.turn>} whose protocol has no word for "you are in".  The one announcement there is is block 1 to the
master alone, right before block 1 to the group; a listener is told nothing.  So what the clients do decides the rest
(docs/transports/mtftp.md has the reasons):

 - Who asks while somebody has the turn is I{remembered}, and made master once the pass is over.
 - Who asks while the master is silent takes its place at once: some clients never come back.
 - A group is never silent for 0.25 s as long as anybody is here; iPXE would leave, and its fallback is broken.
 - Who has heard the last block and has not said that it is done may fall back to plain TFTP with a hole in what it
   has.  Other transports are warned (L{Bar}).
"""

from __future__ import annotations

from collections import deque

from castd import outcomes
from castd.cast.events import Action, Announce, Bar, Event, Ranges, RequestBlocks, SendBlocks
from castd.cast.members import Member
from castd.cast.policy import AdaptiveTimeout, FixedTimeouts, MinProgress, RetransmitPolicy
from castd.cast.turn import NEVER, GenericTurn, TurnState
from castd.request import Peer

#: Repetitions to a master that never acknowledged anything, to one that was remembered and may be gone since, and of
#: the last block, which some acknowledge once and leave.
UNHEARD_REPEATS, PROMOTED_REPEATS, LAST_BLOCK_REPEATS = 5, 2, 5
#: A master that was silent for so long loses its turn to whoever asks.  Seconds.
ALIVE = 0.5
#: After so long each repetition is followed by the next block, for atftp, which never repeats a lost ACK.  Seconds.
NEXT_BLOCK_AFTER = 1.0
#: A block is not sent twice within this time, whoever asks for it again; nor is a promotion faster.  Seconds.
MIN_REPEAT_INTERVAL = 0.08
#: Requests kept at once: as many as can be tried one after the other before the last one expires.
MOST_REMEMBERED = 128
#: A request that comes so soon after the last block may have crossed it.  Seconds.
CROSSING = 0.1
#: An iPXE that hears nothing repeats its request once and leaves half a second later; who stays has heard something.
#: Seconds.
DEAF_STAYS = 1.0
#: How long another transport is warned of who has left a pass with the last block heard.  Seconds.
BARRED = 10.0
BARRED_BECAUSE = (
    "it left MTFTP after the last block had gone out, without having it all; "
    "iPXE would start an image with a hole, so its fallback is refused for a moment"
)

#: Every packet restarts iPXE's timer of 0.25 s, so no step may be longer than 0.2 s and its jitter.  2 s without
#: progress cost the turn while others wait, 10 s if nobody does.
POLICY = RetransmitPolicy(
    repeat=FixedTimeouts((0.08, 0.08, 0.2)),
    progressTimeout=2.0,
    loneProgressTimeout=10.0,
    maxRepeatsUnheard=None,
    maxFailedTurns=1,
    minTurnProgress=MinProgress(0.01, 10.0),
)

#: The first block that goes to the group only.
SECOND_BLOCK = range(1, 2)


class MtftpMember(Member):
    """
    A client, as its requests show it.

    @ivar hearsGroup: nothing speaks against that it hears the group: it asked only once, or has acknowledged what it
        was sent there.
    @ivar askedAt: the instant of its last request.
    @ivar sinceFirstBlock: it asked before the first block of this pass, and the pass has left nothing out.
    @ivar allSent: every block has gone out since it asked.
    @ivar lastBlockSent: the last block has gone out since it asked.
    """

    __slots__ = ("allSent", "askedAt", "lastBlockSent", "sinceFirstBlock")

    def __init__(self, peer: Peer, wants: Ranges, repeat: AdaptiveTimeout | FixedTimeouts, askedAt: float) -> None:
        super().__init__(peer, wants, repeat, waited=False)
        self.askedAt = askedAt
        self.hearsGroup = True
        self.sinceFirstBlock = self.allSent = self.lastBlockSent = False

    def mayLackBlocks(self, now: float) -> bool:
        """-> whether it may have heard the last block and lack others."""
        return self.lastBlockSent and (self.hearsGroup or now >= self.askedAt + DEAF_STAYS)


class MtftpCast(GenericTurn[MtftpMember]):
    """
    The cast of one file on its group, see the module.

    @ivar count: the blocks of the file.
    """

    count: int

    def __init__(self, policy: RetransmitPolicy, count: int, remember: float = 30.0) -> None:
        """
        @param remember: seconds until a remembered request expires, while no pass makes progress.
        """
        super().__init__(policy, count)
        self._remember = remember
        self._actions: deque[Action] = deque()
        self._takesOver: MtftpMember | None = None  # the successor, in front of all who are remembered
        self._lifeAt = 0.0  # the master said anything, or got the turn
        self._heardAt = 0.0  # a master said anything
        self._passEndedAt = -NEVER  # the last block went out
        self._reached = 0  # the blocks before this one have gone out in this pass

    # Who asks.

    def newMember(self, peer: Peer, wants: Ranges, now: float) -> MtftpMember:
        return MtftpMember(peer, wants, self.policy.repeat, now)

    def join(self, peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        self._expireRequests(now)
        member = self.members.get(peer)
        former = None
        if member is not None:
            # Who hears nothing at all repeats its request.
            member.hearsGroup = member.lastBlockSent = False
            member.askedAt = now
            self.members.moveToEnd(member)
        else:
            # The same machine from another port: it has restarted, and has one place, not two.
            former = next((each for each in self.members if each.peer[0] == peer[0]), None)
            member = self.newMember(peer, wants, now)
            self.members.add(member)
            self.delayFirstBlock(now)
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
                self.remove(member, outcomes.SILENT, now)
        if former is not None and former is not master:
            self.remove(former, outcomes.REPLACED, now)

    def _masterAsksAgain(self, master: MtftpMember, now: float) -> None:
        """Answer a master that repeats its request: the answer was lost, or the master starts over."""
        self._lifeAt = now
        if master.heard:
            master.heard = master.waited = False
            self.giveTurn(master, now)
        elif self.state is TurnState.WAITING and now >= self.sentAt + MIN_REPEAT_INTERVAL:
            self.sendAgain()

    def _mayBeReplaced(self, master: MtftpMember, now: float) -> bool:
        """May whoever asks take its place?  Of the last block one acknowledgement is all that some clients send."""
        if master.heard and self._servesLastBlock:
            return master.rto.repeats > 0
        return now >= self._lifeAt + ALIVE

    def _takeOver(self, member: MtftpMember, outcome: str, now: float) -> None:
        """
        Give the turn to a member in front of all who are remembered: it is there.

        @param outcome: of the master before, if there is one.
        """
        member.waited = False
        self._takesOver = member
        if self.master is None:
            self.passTurn(now)
        else:
            self.remove(self.master, outcome, now, self.serving)
        self._takesOver = None

    def successor(self, now: float) -> MtftpMember | None:
        """Choose who takes over, else the one that has been remembered for longest."""
        return self._takesOver or next(iter(self.members), None)

    def turnGiven(self, member: MtftpMember, now: float) -> None:
        """Begin a pass."""
        self._lifeAt, self._reached = now, 0

    def _expireRequests(self, now: float) -> None:
        """
        Forget old requests; but not as long as a master is heard: whoever listens to a long pass has to say nothing.
        """
        while True:
            oldest = next((each for each in self.members if each is not self.master), None)
            if oldest is None or now < max(oldest.askedAt, self._heardAt) + self._remember:
                return
            self.remove(oldest, outcomes.SILENT, now)

    # What is heard.

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        master = self.master
        if master is None or peer != master.peer:
            super().hear(peer, event, now)
            return
        self._lifeAt = self._heardAt = now
        if not isinstance(event, RequestBlocks) or not event.ranges:
            super().hear(peer, event, now)
            return
        start = event.ranges[0].start
        if start > 1:
            master.hearsGroup = True
        if start > self._reached:
            # It jumps over what it has heard as a listener; other listeners may not have heard that.
            for each in self.members:
                each.sinceFirstBlock = False
        super().hear(peer, event, now)
        again = self.state is TurnState.WAITING and event.ranges == self.serving
        if again and now >= self.sentAt + MIN_REPEAT_INTERVAL:
            self.sendAgain()

    # How patient it is.

    @property
    def _servesLastBlock(self) -> bool:
        return bool(self.serving) and self.serving[-1].stop == self.count

    def _maxRepeats(self, master: MtftpMember) -> int | None:
        """-> repetitions after which the master is given up, L{None}: time decides."""
        if not master.heard:
            return PROMOTED_REPEATS if master.waited else UNHEARD_REPEATS
        return LAST_BLOCK_REPEATS if self._servesLastBlock else None

    def interval(self, member: MtftpMember) -> float:
        """Wait for one that may be gone no longer than it is repeated to."""
        return MIN_REPEAT_INTERVAL if member.waited and not member.heard else super().interval(member)

    def turnEndsAt(self, member: MtftpMember) -> float:
        """Count repetitions, where that decides."""
        repeats = self._maxRepeats(member)
        if repeats is None:
            return super().turnEndsAt(member)
        return self.repeatAt if member.rto.repeats >= repeats else NEVER

    def repetition(self) -> list[range]:
        """
        Repeat the block, and in the end the next one behind it, never that one alone.

        A master that was never heard gets block 2 with its last two repetitions: its first ACK may be the lost one, and
        who was made master by block 1 has that.
        """
        assert self.master is not None
        number, master = self.serving[0].start, self.master
        if master.heard:
            silent = self.repeatAt >= self.progressAt + NEXT_BLOCK_AFTER
        else:
            silent = master.rto.repeats >= UNHEARD_REPEATS - 1
        return [range(number, min(number + 2, self.count))] if silent else list(self.serving)

    # What comes out.

    def poll(self, now: float) -> Action | None:
        self._expireRequests(now)
        if not self._actions:
            # What this queues goes first: a warning is about somebody who may be gone by the next action.
            action = super().poll(now)
            while isinstance(action, Announce):
                action = super().poll(now)
            if isinstance(action, SendBlocks):
                self._sent(action, now)
                if not action.numbers.start:
                    self._actions.append(Announce(action.peer, True, action.again))
            if action is not None:
                self._actions.append(action)
        return self._actions.popleft() if self._actions else None

    def _sent(self, burst: SendBlocks, now: float) -> None:
        """Take note of how far the pass has come."""
        if burst.numbers.start == 0 and not burst.again:
            for each in self.members:
                each.sinceFirstBlock = True
        self._reached = burst.numbers.stop
        if self._reached == self.count and self.count > 1:
            # From now on a fallback of anybody who has heard the last block is dangerous.
            self._passEndedAt = now
            for each in self.members:
                each.allSent = each.allSent or each.sinceFirstBlock
                self._lastBlockHeard(each, now)

    # Who is left with a hole.

    def _lastBlockHeard(self, member: MtftpMember, now: float) -> None:
        member.lastBlockSent = True
        if member.mayLackBlocks(now):
            self._bar(member, self._remember + BARRED)

    def _bar(self, member: MtftpMember, seconds: float) -> None:
        self._actions.append(Bar(member.peer, seconds, BARRED_BECAUSE))

    def leaving(self, member: MtftpMember, outcome: str, now: float) -> str:
        """Warn other transports of a client that may lack blocks, and say what can be told of a silent one."""
        lost = outcome in (outcomes.SILENT, outcomes.CLOSED)
        if member.mayLackBlocks(now):
            # As long as the group talks to others it stays, and may leave later.  A host that says that the port is
            # closed runs no iPXE, which never says so.
            stays = self._remember if len(self.members) > 1 else 0.0
            self._bar(member, stays + BARRED if outcome == outcomes.SILENT else 0.0)
        if lost and member.allSent and not member.heard:
            return outcomes.UNCONFIRMED  # it has heard everything, as far as anybody can tell
        if lost and member.heard and member is self.master and self.serving == (SECOND_BLOCK,):
            return outcomes.UNHEARD  # block 1 came to it alone
        return outcome
