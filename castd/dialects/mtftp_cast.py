"""
The cast of MTFTP: one pass over the file after the other, each with a master of its own.

A L{Turn<castd.cast.turn.Turn>} whose protocol has no word for "you are in".  The one greeting there is is block 1 to
the master alone, right before block 1 to the group; a listener is told nothing.  So what the clients do decides the
rest (docs/transports/mtftp.md has the reasons):

 - Who asks while somebody has the turn is I{remembered}, and made master once the pass is over.
 - Who asks while the master is silent takes its place at once: some clients never come back.
 - A group is never silent for 0.25 s as long as anybody is here; iPXE would leave, and its fallback is broken.
 - Who has heard the last block and has not said that it is done may fall back to plain TFTP with a hole in what it
   has.  Other transports are warned (L{Bar}).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from castd import outcomes
from castd.cast.events import (
    Action,
    Announce,
    Bar,
    Event,
    Ranges,
    SendBlocks,
)
from castd.cast.instep import State
from castd.cast.members import Member
from castd.cast.policy import AdaptiveTimeout, FixedTimeouts, MinProgress, RetransmitPolicy
from castd.cast.turn import NEVER, Turn
from castd.request import Peer

#: Repetitions to a master that never acknowledged anything, to one that was remembered and may be gone since, and of
#: the last block, which some acknowledge once and leave.
UNHEARD, PROMOTED, CLOSING = 5, 2, 5
#: A master that was silent for so long loses its turn to whoever asks.  Seconds.
ALIVE = 0.5
#: After so long each repetition is followed by the next block, for atftp, which never repeats a lost ACK.  Seconds.
AHEAD = 1.0
#: A block is not sent twice within this time, whoever asks for it again; nor is a promotion faster.  Seconds.
GUARD = 0.08
#: Requests kept at once: as many as can be tried one after the other before the last one expires.
MOST_REMEMBERED = 128
#: A request that comes so soon after the last block may have crossed it.  Seconds.
CROSSING = 0.1
#: An iPXE that hears nothing repeats its request once and leaves half a second later; who stays has heard something.
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


NEVER_YET = -NEVER
#: The first block that goes to the group only.
SECOND = range(1, 2)


class MtftpMember(Member):
    """
    A client, as its requests show it.

    @ivar askedAt: the instant of its last request.
    @ivar hears: nothing speaks against that it hears the group: it asked only once, or has acknowledged what it was
        sent there.
    @ivar early: it asked before the first block of this pass.
    @ivar whole: every block has gone out since it asked.
    @ivar passed: the last block has gone out since it asked.
    """

    __slots__ = ("askedAt", "early", "hears", "passed", "whole")

    def __init__(self, peer: Peer, wants: Ranges, repeat: AdaptiveTimeout | FixedTimeouts, askedAt: float) -> None:
        super().__init__(peer, wants, repeat, waited=False)
        self.askedAt = askedAt
        self.hears = True
        self.early = self.whole = self.passed = False

    def endangered(self, now: float) -> bool:
        """-> whether it may have heard the last block and lack others."""
        return self.passed and (self.hears or now >= self.askedAt + DEAF_STAYS)


class MtftpCast(Turn):
    """
    See the module.
    """

    def __init__(self, policy: RetransmitPolicy, count: int, remember: float = 30.0) -> None:
        """
        @param remember: seconds until a remembered request expires, while no pass makes progress.
        """
        super().__init__(policy, count)
        self.count: int = count
        self._remember = remember
        self._next: deque[Action] = deque()
        self._successor: Member | None = None
        self._lifeAt = 0.0  # the master said anything, or got the turn
        self._heardAt = 0.0  # a master said anything
        self._passedAt = NEVER_YET  # the last block went out
        self._reached = 0  # the blocks before this one have gone out in this pass

    # Who asks.

    def join(self, peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        self._forget(now)
        member = self._members.get(peer)
        former = None
        if isinstance(member, MtftpMember):
            # Who hears nothing at all repeats its request.
            member.hears = member.passed = False
            member.askedAt = now
            self._members.last(member)
        else:
            # The same machine from another port: it has restarted, and has one place, not two.
            former = next((each for each in self._members if each.peer[0] == peer[0]), None)
            member = MtftpMember(peer, wants, self.policy.repeat, now)
            self._members.add(member)
            self._hold(now)
        self._warn(member, 0.0)
        if now < self._passedAt + CROSSING:
            self._endanger(member, now)
        master = self._master
        if member is master:
            self._asksAgain(member, wants, now)
        elif master is None or former is master or self._absent(master, now):
            self._crown(member, outcomes.REPLACED if former is master else outcomes.SILENT, now)
        else:
            member.waited = True
            if len(self._members) > MOST_REMEMBERED + 1:
                self._part(member, outcomes.SILENT, now)
        if former is not None and former is not master:
            self._part(former, outcomes.REPLACED, now)

    def _asksAgain(self, member: Member, wants: Ranges, now: float) -> None:
        """The master: its answer was lost, or it starts over."""
        self._lifeAt = now
        if member.heard:
            member.heard = member.waited = False
            self._give(member, now)
        elif self._state is State.WAITING and now >= self._sentAt + GUARD:
            self._sayAgain()

    def _absent(self, master: Member, now: float) -> bool:
        """May whoever asks take its place?  Of the last block one acknowledgement is all that some clients send."""
        if master.heard and self._closing:
            return master.alarm.repeats > 0
        return now >= self._lifeAt + ALIVE

    def _crown(self, member: Member, outcome: str, now: float) -> None:
        """It has the turn now, in front of all who are remembered: it is there."""
        member.waited = False
        self._successor = member
        if self._master is None:
            self._elect(now)
        else:
            self._part(self._master, outcome, now, self._want)
        self._successor = None

    def successor(self, now: float) -> Member | None:
        """Who takes over, else the one that has been remembered for longest."""
        return self._successor or next(iter(self._members), None)

    def _forget(self, now: float) -> None:
        """
        Requests expire; but not as long as a master is heard: whoever listens to a long pass has to say nothing.
        """
        while True:
            oldest = next((each for each in self._members if each is not self._master), None)
            if not isinstance(oldest, MtftpMember) or now < max(oldest.askedAt, self._heardAt) + self._remember:
                return
            self._part(oldest, outcomes.SILENT, now)

    def _give(self, member: Member, now: float) -> None:
        self._lifeAt, self._reached = now, 0
        super()._give(member, now)

    # What is heard.

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        if self._master is not None and peer == self._master.peer:
            self._lifeAt = self._heardAt = now
        super().hear(peer, event, now)

    def _hearMaster(self, member: Member, ranges: Ranges, now: float) -> None:
        if isinstance(member, MtftpMember) and ranges[0].start > 1:
            member.hears = True
        super()._hearMaster(member, ranges, now)
        if self._state is State.WAITING and ranges == self._want and now >= self._sentAt + GUARD:
            self._sayAgain()

    def _serve(self, ranges: Ranges, now: float) -> None:
        if ranges[0].start > self._reached:
            # It jumps over what it has heard as a listener; other listeners may not have heard that.
            for each in self._askers():
                each.early = False
        super()._serve(ranges, now)

    def _sayAgain(self) -> None:
        self._pending, self._again, self._state = list(self._want), True, State.SENDING

    # How patient it is.

    @property
    def _closing(self) -> bool:
        """The last block is being served."""
        return bool(self._want) and self._want[-1].stop == self.count

    def _tries(self, member: Member) -> int | None:
        """-> repetitions after which it is given up, L{None}: time decides."""
        if not member.heard:
            return PROMOTED if member.waited else UNHEARD
        return CLOSING if self._closing else None

    def _interval(self, member: Member) -> float:
        """One that may be gone is not waited for any longer than it is repeated to."""
        return GUARD if member.waited and not member.heard else super()._interval(member)

    def _givenUpAt(self, member: Member) -> float:
        tries = self._tries(member)
        if tries is None:
            return super()._givenUpAt(member)
        return self.alarmAt if member.alarm.repeats >= tries else NEVER

    def repetition(self) -> list[range]:
        """
        The block, and in the end the next one behind it, never that one alone.

        A master that was never heard gets block 2 with its last two repetitions: its first ACK may be the lost one, and
        who was made master by block 1 has that.
        """
        assert self._master is not None
        number, master = self._want[0].start, self._master
        silent = self.alarmAt >= self._term.progressAt + AHEAD if master.heard else master.alarm.repeats >= UNHEARD - 1
        return [range(number, min(number + 2, self.count))] if silent else list(self._want)

    # What comes out.

    def poll(self, now: float) -> Action | None:
        self._forget(now)
        if not self._next:
            # What this queues goes first: a warning is about somebody who may be gone by the next action.
            action = super().poll(now)
            while isinstance(action, Announce):
                action = super().poll(now)
            if isinstance(action, SendBlocks) and not action.numbers.start:
                self._next.append(Announce(action.peer, True, action.again))
            if action is not None:
                self._next.append(action)
        return self._next.popleft() if self._next else None

    def _send(self, now: float) -> SendBlocks:
        burst = super()._send(now)
        if burst.numbers.start == 0 and not burst.again:
            for each in self._askers():
                each.early = True
        self._reached = burst.numbers.stop
        if self._reached == self.count and self.count > 1:
            self._passed(now)
        return burst

    # Who is left with a hole.

    def _askers(self) -> Iterator[MtftpMember]:
        return (each for each in self._members if isinstance(each, MtftpMember))

    def _passed(self, now: float) -> None:
        """The last block goes out: from now on a fallback of anybody who has heard it is dangerous."""
        self._passedAt = now
        for each in self._askers():
            each.whole = each.whole or each.early
            self._endanger(each, now)

    def _endanger(self, member: MtftpMember, now: float) -> None:
        member.passed = True
        if member.endangered(now):
            self._warn(member, self._remember + BARRED)

    def _warn(self, member: MtftpMember, seconds: float) -> None:
        self._next.append(Bar(member.peer, seconds, BARRED_BECAUSE))

    def _part(self, member: Member, outcome: str, now: float, wants: Ranges = ()) -> None:
        if isinstance(member, MtftpMember):
            lost = outcome in (outcomes.SILENT, outcomes.CLOSED)
            if member.endangered(now):
                # As long as the group talks to others it stays, and may leave later.  A host that says that the port is
                # closed runs no iPXE, which never says so.
                stays = self._remember if len(self._members) > 1 else 0.0
                self._warn(member, stays + BARRED if outcome == outcomes.SILENT else 0.0)
            if lost and member.whole and not member.heard:
                outcome = outcomes.UNCONFIRMED  # it has heard everything, as far as anybody can tell
            elif lost and member.heard and member is self._master and self._want == (SECOND,):
                outcome = outcomes.UNHEARD  # block 1 came to it alone
        super()._part(member, outcome, now, wants)
