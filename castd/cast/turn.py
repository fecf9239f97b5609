"""
Turn: the receivers speak by themselves, and one at a time has the say.

Four states over few variables.  I{Empty}: nobody is here.  I{Greeted}: the master was told that it has the turn and has
not yet said what it lacks.  I{Sending}: blocks it asked for are still to go out.  I{Waiting}: all are out, and it is to
answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from zope.interface import implementer

from castd import outcomes
from castd.cast.events import (
    Action,
    Event,
    Leave,
    PeerState,
    Ranges,
    RequestBlocks,
    SendBlocks,
)
from castd.cast.instep import InStep, State
from castd.cast.limits import JoinDelay, TurnLimits
from castd.cast.members import Member, Members
from castd.cast.policy import RetransmitPolicy, ShortTurn
from castd.cast.reachability import TRIED, Reachability
from castd.interfaces import ICast
from castd.request import Peer

#: A request that comes so soon after our own repetition of the greeting has crossed it.  Seconds.
CROSSING = 0.05
#: The shortest time between two corrections, or two greetings, of one listener.  Seconds.
POLITE = 1.0
NEVER = float("inf")


@implementer(ICast)
class Turn(InStep):
    """
    The cast of the TFTP family.

    @ivar highestSent: the highest number ever sent, -1 before the first.
    @ivar alarmAt: the instant at which the greeting or the blocks are repeated.
    """

    def __init__(self, policy: RetransmitPolicy, count: int | None = None) -> None:
        """
        @param count: the blocks of the content.
        """
        self.policy = policy
        self.count = count
        self.highestSent = -1
        self._turns = self._masters = self._passes = self._lost = 0
        self._hearing = Reachability(policy)
        self._trying = False  # this turn was given before its time, to one that is to show that it hears
        self._members = Members()
        self._master: Member | None = None
        self._state = State.EMPTY
        self._want: Ranges = ()
        self._pending: list[range] = []
        self._again = False  # what is going out, or was the last to go out, is a repetition
        self._restarted = False  # the window was already sent again for a want that came twice
        self._sentAt = 0.0  # the last burst of this want, or the greeting
        self.alarmAt: float = NEVER
        self._term = TurnLimits(0.0)
        self._spokeAt = 0.0  # anything went to the group
        self._gathering = JoinDelay(policy)

    # What goes in.

    def members(self) -> int:
        return len(self._members)

    def heard(self, peer: Peer) -> bool:
        """Has this member said anything since it asked?"""
        member = self._members.get(peer)
        return member is not None and member.heard

    def statistics(self) -> Mapping[str, int]:
        """
        Count for the closing event: C{lost}, turns that a silent master lost; C{masters}, members that had a turn;
        C{changes}, how often the turn passed on; C{passes}, turns in which blocks were asked for.
        """
        return {
            "lost": self._lost,
            "masters": self._masters,
            "changes": max(0, self._turns - 1),
            "passes": self._passes,
        }

    def join(self, peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        member = self._members.get(peer)
        if member is None and instead is not None and (member := self._members.get(instead)) is not None:
            self._members.rename(member, peer)
            member.wants = wants
        if member is not None:
            self._asksAgain(member, wants, now)
            return
        waited = self._master is not None
        member = Member(peer, wants, self.policy.repeat, waited, since=self.highestSent, cameAt=now)
        self._members.add(member)
        self._hearing.came(member)
        self._hold(now)
        if self._master is None:
            self._give(member, now)
        else:
            self._announceListener(member, now)

    def _asksAgain(self, member: Member, wants: Ranges, now: float) -> None:
        """Never heard, or a listener: the first answer again, as it stands.  A master that was heard has restarted."""
        member.since, member.hears = self.highestSent, False
        if member is not self._master:
            member.heard = False
            self._announceListener(member, now)
        elif member.heard:
            member.heard = member.confirmed = False
            member.wants = wants
            self._members.last(member)
            self._elect(now)
        elif self._state is State.ANNOUNCED and member.alarm.repeats and now < self._sentAt + CROSSING:
            pass  # answered before it came: a second OACK makes atftp give up
        else:
            self._members.announce(member, True)
            if self._state is State.ANNOUNCED:
                # The answer that it asks for is the repetition.
                self.alarmAt = now + self._interval(member)
            elif self._state is State.WAITING and self._want:
                self._pending, self._again, self._state = list(self._want), True, State.SENDING

    def _announceListener(self, member: Member, now: float) -> None:
        self._members.announce(member, False)
        member.announcements, member.announceAt = 0, now + POLITE if self.policy.maxListenerRepeats else None

    def _hold(self, now: float) -> None:
        """Somebody has come: the first block may wait for more."""
        if self.highestSent < 0:
            self._gathering.came(now)

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        member = self._members.get(peer)
        if member is None:
            return
        if isinstance(event, Leave):
            wants = self._want if member is self._master and self._state is State.WAITING else ()
            self._part(member, event.outcome, now, wants)
        elif isinstance(event, RequestBlocks):
            member.announceAt = None
            if member is self._master:
                self._hearMaster(member, event.ranges, now)
            else:
                self._hearListener(member, event.ranges, now)

    def _hearListener(self, member: Member, ranges: Ranges, now: float) -> None:
        """A want out of turn shows life; answering it with blocks would let two receivers ping-pong."""
        member.heard, member.suspect = True, False
        if ranges and self._deaf(member, ranges, now):
            return
        if not member.confirmed or not ranges:
            member.confirmed = True
        elif member.corrections < self.policy.maxCorrections and now - member.corrected >= POLITE:
            member.corrections += 1
            member.corrected = now
            self._members.announce(member, False)
            member.confirmed = True

    def _hearMaster(self, member: Member, ranges: Ranges, now: float) -> None:
        member.heard = member.confirmed = True
        member.suspect = False
        if not ranges or self._deaf(member, ranges, now):
            return
        if not member.hears and ranges[0].start > 0:
            self._hearing.shown(member)
        if self._state is State.ANNOUNCED:
            member.alarm.reset()
            self._serve(ranges, now)
        elif ranges[0].start > self._want[0].start:
            if self._state is State.WAITING and not self._again:
                member.alarm.sample(now - self._sentAt)
            member.alarm.answered()
            member.failed = 0
            if (
                self.policy.reachabilityCheckAfter is not None
                and (other := self._hearing.overdue(self._members, now)) is not None
            ):
                self._members.announce(member, False)
                self._trying = True
                self._give(other, now)
            else:
                self._serve(ranges, now)
        elif ranges == self._want and self._state is State.WAITING:
            self._hearTwice()

    def _serve(self, ranges: Ranges, now: float) -> None:
        assert self._master is not None
        self._want, self._pending = ranges, list(ranges)
        self._state = State.SENDING
        self._again = self._restarted = False
        self._term.progressAt = now
        if ranges != self._master.asked:
            self._master.asked, self._master.servedAt = ranges, NEVER

    def _hearTwice(self) -> None:
        """
        The very want that was served comes again.

        Blocks are never sent for that (Sorcerer's Apprentice, RFC 1123 4.2.3.1), but a window is, once: its first block
        may be the lost one.
        """
        if not self._restarted and sum(map(len, self._want)) > 1:
            self._restarted = self._again = True
            self._pending, self._state = list(self._want), State.SENDING

    def _deaf(self, member: Member, ranges: Ranges, now: float) -> bool:
        """A receiver that asks again and again for what went out after it asked hears no multicast: it leaves."""
        if (
            self.policy.deafAfterRepeats is None
            or not member.misses(ranges, now)
            or member.repeats < self.policy.deafAfterRepeats
        ):
            return False
        if ranges[0].start == 0:
            self._missed(member)
        self._part(member, outcomes.DEAF, now, ranges)
        return True

    def _missed(self, member: Member) -> bool:
        """
        It has asked for the first block in vain.

        @return: the group does not reach those who are not known to hear it: they go on by unicast, as should this one.
        """
        if not self._hearing.missed(member, self._over):
            return False
        for other in [other for other in self._members if other is not member and not other.hears]:
            self._members.part(other, outcomes.DEAF)
        return True

    def _heardNothing(self, member: Member) -> bool:
        """The master asks for the first block, though others hear the group."""
        return self._state is not State.ANNOUNCED and self._hearing.nothing(member, self.highestSent)

    def _unreached(self, member: Member) -> bool:
        """Is the master, that loses its turn, to go on by unicast?"""
        if self._state is not State.WAITING:
            return False
        if self._heardNothing(member):
            self._missed(member)
            return True
        return not self._hearing.proved and self._missed(member)

    @property
    def _over(self) -> bool:
        """Everything has been sent."""
        return self.count is not None and self.highestSent >= self.count - 1

    def late(self, now: float) -> None:
        """
        What was let go has left only now: it waited for the pacer or for the socket, and its answer is to be waited for
        from here.
        """
        if self._state is State.WAITING and self._master is not None:
            self._sentAt = self._spokeAt = self._master.servedAt = now
            self.alarmAt = now + self._interval(self._master)
            if not self._again:
                self._term.progressAt = now

    # Whose turn it is.

    def _part(self, member: Member, outcome: str, now: float, wants: Ranges = ()) -> None:
        self._members.part(member, outcome, wants)
        if member is self._master:
            self._elect(now)

    def _elect(self, now: float) -> None:
        self._master, self._state, self.alarmAt, self._pending = None, State.EMPTY, NEVER, []
        self._trying = False
        chosen = self.successor(now)
        if chosen is not None:
            self._give(chosen, now)

    def successor(self, now: float) -> Member | None:
        """
        Hook: who gets the turn next.  The oldest that is not suspect, else the oldest suspect, for its next term.
        """
        return next((member for member in self._members if not member.suspect), None) or next(iter(self._members), None)

    def _give(self, member: Member, now: float) -> None:
        self._master = member
        self._state = State.ANNOUNCED
        self._want, self._again, self._restarted = (), False, False
        self._sentAt = now
        self._term = TurnLimits(now)
        self._turns += 1
        self._masters += not member.turns
        member.turns += 1
        member.alarm.reset()
        member.announceAt = None
        self._members.announce(member, True)
        self.alarmAt = now + self._interval(member)
        if member.wants:
            self._serve(member.wants, now)

    def peerState(self, peer: Peer) -> PeerState | None:
        member = self._members.get(peer)
        if member is None:
            return None
        turn = member is self._master
        serving = range(self._want[0].start, self._want[-1].stop) if turn and self._want else None
        return PeerState(turn, serving, self.highestSent)

    # What comes out.

    def poll(self, now: float) -> Action | None:
        while True:
            if (due := self._members.pay()) is not None:
                return due
            held = self._held(now)
            if self._state is State.SENDING and not held:
                return self._send(now)
            if not self._ring(now):
                return self._speak(now)

    def _held(self, now: float) -> bool:
        gathering = self._gathering
        if gathering.until is None:
            return False
        if now < gathering.until:
            return True
        gathering.until = None
        if self._state is State.SENDING:
            self._term.progressAt = now  # the time of gathering is nobody's fault
        return False

    def _send(self, now: float) -> SendBlocks:
        numbers = self._pending.pop(0)
        if not self._pending:
            self._state = State.WAITING
        assert self._master is not None
        self._sentAt = self._spokeAt = now
        self._master.servedAt = min(self._master.servedAt, now)
        self.alarmAt = now + self._interval(self._master)
        self._passes += not self._term.blocks
        self._term.blocks += len(numbers)
        again = self._again
        self.highestSent = max(self.highestSent, numbers[-1])
        return SendBlocks(numbers, self._master.peer, again)

    def _ring(self, now: float) -> bool:
        """-> True if something became due that C{poll} is to look at."""
        member = self._master
        if member is None:
            return False
        if self._state in (State.ANNOUNCED, State.WAITING):
            if now >= self._givenUpAt(member) or self._overspent(now):
                self._fail(member, now)
                return True
            if now >= self.alarmAt:
                self._repeat(member, now)
                return True
        return self._confirmations(now)

    def _repeat(self, member: Member, now: float) -> None:
        limit = self.policy.maxRepeatsUnheard
        if limit is not None and not member.heard and (member.failed or member.alarm.repeats >= limit):
            self.alarmAt = NEVER  # enough for an address that never answered: its time runs on in silence
            return
        member.alarm.backOff()
        if self._state is State.ANNOUNCED:
            self._members.announce(member, True)
            self._sentAt, self.alarmAt = now, now + self._interval(member)
            return
        self._pending, self._again, self._restarted = self.repetition(), True, True
        self._state = State.SENDING

    def repetition(self) -> list[range]:
        """Hook: what is sent when the master does not answer."""
        return list(self._want)

    def _brief(self, member: Member) -> ShortTurn | None:
        """
        Many listeners leave without a word when they have everything, so the first turn after the end is short; so is
        that of one who seems to hear nothing, or is only to show whether it does.
        """
        if self.policy.shortTurn is None:
            return None
        if self._heardNothing(member):
            return TRIED
        if self._trying and self._state is State.ANNOUNCED:
            return self.policy.shortTurn
        if len(self._members) == 1:
            return None
        unproved = member.waited and not member.failed and member.alarm.smoothedRtt is None
        return self.policy.shortTurn if self._over and unproved and self._state is State.ANNOUNCED else None

    def _interval(self, member: Member) -> float:
        brief = self._brief(member)
        return brief.interval if brief else member.alarm.interval()

    def _givenUpAt(self, member: Member) -> float:
        if brief := self._brief(member):
            return self._term.progressAt + brief.repeats * brief.interval
        return self._term.givenUpAt(self.policy, member, alone=len(self._members) == 1)

    def _overspent(self, now: float) -> bool:
        if len(self._members) == 1 or not self.count:
            return False
        return self._term.overspent(self.policy, self.count, self._want[0].start if self._want else None, now)

    def _fail(self, member: Member, now: float) -> None:
        if self._unreached(member):
            self._part(member, outcomes.DEAF, now, self._want)
            return
        member.failed += 1
        member.suspect = True
        self._lost += 1
        if member.failed >= self.policy.maxFailedTurns:
            self._part(member, outcomes.SILENT, now, self._want if self._state is State.WAITING else ())
            return
        self._elect(now)
        if self._master is not member and (member.heard or member.failed == 1):
            self._members.announce(member, False)

    def _confirmations(self, now: float) -> bool:
        """A listener whose protocol has it confirm its greeting is greeted again, a few times."""
        for member in self._members if self.policy.maxListenerRepeats else ():
            if member.announceAt is not None and now >= member.announceAt:
                member.announcements += 1
                member.announceAt = now + POLITE if member.announcements < self.policy.maxListenerRepeats else None
                self._members.announce(member, member is self._master)
                return True
        return False

    def _speak(self, now: float) -> SendBlocks | None:
        """A group with members is never silent for long: some clients start an incomplete image then."""
        keep = self.policy.keepAliveInterval
        if keep is None or self.highestSent < 0 or self._master is None or now < self._spokeAt + keep:
            return None
        self._spokeAt = now
        numbers = self._want[-1] if self._want else range(self.highestSent, self.highestSent + 1)
        return SendBlocks(numbers[-1:], self._master.peer, again=True)

    def deadline(self, now: float) -> float | None:
        if self._members.owed:
            return now
        member = self._master
        if member is None:
            return None
        if self._state is State.SENDING:
            return max(self._gathering.until or now, now)
        times = [self._givenUpAt(member), self.alarmAt]
        if self.policy.keepAliveInterval is not None and self.highestSent >= 0:
            times.append(self._spokeAt + self.policy.keepAliveInterval)
        if self.policy.maxListenerRepeats:
            times.extend(member.announceAt for member in self._members if member.announceAt is not None)
        return max(min(times), now)
