"""
Define the timeouts and limits of a cast: when it repeats what was not answered, and when it gives a receiver up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

#: The shortest retransmission timeout.  RFC 6298, section 2.4, asks for a second; then every lost block would delay a
#: whole group by that.  In a LAN an answer takes less than a millisecond, or some more if the client is busy; a block
#: that is repeated too early costs one datagram, and all clients can handle duplicates (docs/transports/tftp.md).
#: Seconds.
MIN_RTO = 0.02
#: The least that is waited beyond the smoothed round-trip time, however steady that is: the clock granularity G of RFC
#: 6298, section 2, and kGranularity of RFC 9002, section 6.2.1.  A single block that is lost now and then is repeated
#: after the probe timeout of RFC 9002, which has no other floor (L{castd.cast.rto}).  Clients and timers are late by
#: about a millisecond.  Seconds.
GRANULARITY = 0.002
#: Longer than the timer by which a client repeats its acknowledgement that does not answer a duplicate: BusyBox's of
#: 100 ms, which each duplicate starts anew.  Seconds.
CLIENT_TIMER = 0.12


@dataclass(frozen=True, slots=True)
class AdaptiveTimeout:
    """
    Sets retransmission timeouts from the measured round-trip time: smoothed time plus four deviations (RFC 6298).
    Seconds.

    @ivar first: the timeout before anything was measured.
    @ivar floor: the shortest timeout.
    @ivar growth: the factor from one unanswered repetition to the next.
    @ivar ceiling: the longest timeout.
    @ivar quickRepeats: a single block is repeated so often before its receiver is given L{CLIENT_TIMER} to repeat its
        acknowledgement by itself; L{None}: it is not given that, as others wait.
    """

    first: float = 1.0
    floor: float = MIN_RTO
    growth: float = 2.0
    ceiling: float = 8.0
    quickRepeats: int | None = 2


@dataclass(frozen=True, slots=True)
class FixedTimeouts:
    """
    Sets retransmission timeouts from a table.  Seconds.

    @ivar steps: the timeout before each repetition; the last one holds for all further repetitions.
    """

    steps: tuple[float, ...]

    @property
    def first(self) -> float:
        """The timeout before the first repetition."""
        return self.steps[0]


class ShortTurn(NamedTuple):
    """
    Limits a turn in which the master is not expected to answer.

    @ivar repeats: the turn is lost after so many intervals without an answer.
    @ivar interval: from one repetition to the next.  Seconds.
    """

    repeats: int
    interval: float


class MinProgress(NamedTuple):
    """
    Defines the slowest progress with which a master keeps its turn.

    @ivar share: the part of the blocks of the file, 0 to 1, by which its requests must advance ...
    @ivar seconds: ... within this time.
    """

    share: float
    seconds: float


#: Where an interval was negotiated, a peer may be without progress for so many intervals, and for so many seconds at
#: least.
TIMEOUT_INTERVALS, MIN_NEGOTIATED_TIMEOUT = 6, 15.0


@dataclass(frozen=True, slots=True)
class RetransmitPolicy:
    """
    Holds the timeouts and limits of a cast or a transfer.  L{None} switches a rule off.

    A member that does not receive what is sent to the group is called I{deaf}.

    @ivar repeat: the timeouts after which what was not answered is repeated.
    @ivar progressTimeout: a receiver that asks for nothing new for so long loses its turn; in a transfer with one peer
        it is given up.  Seconds.
    @ivar unheardTimeout: the same, if that is sooner, for one that has sent nothing but its request: whoever forges an
        address must not choose how long it is remembered; L{None}: no sooner.  Seconds.
    @ivar measuredProgressTimeout: the same for a master whose round-trip time was measured, while others wait; if it
        has lost a turn, only while one of them is not suspect.  Seconds.
    @ivar minRepeats: so many repetitions must have been sent as well before C{measuredProgressTimeout} counts; in an
        upload or a download, before C{progressTimeout} does.
    @ivar loneProgressTimeout: replaces C{progressTimeout} while a master is the only member, if it has lost no turn or
        has answered before.  Seconds.
    @ivar maxRepeatsUnheard: repetitions to a peer that has sent nothing but its request, as its address may be forged;
        after them nothing is sent to it until its turn is lost, and in any later turn only the announcement.
    @ivar shortTurn: limits the first turn that a member gets after the last block was sent, and the turn in which a
        member is only to show that it hears the group.
    @ivar maxFailedTurns: a member that has lost so many turns is removed.
    @ivar keepAliveInterval: a group with members is sent a block at least so often, even if no member needs one.
        Seconds.
    @ivar joinDelay: the first block is delayed until no member has joined for so long ...  Seconds.
    @ivar maxJoinDelay: ... but no longer than this after the first member has joined.  Seconds.
    @ivar deafAfterRepeats: a receiver is deaf if it has repeated its request so often, unchanged, although the blocks
        were sent each time.
    @ivar foundPerAssumedDeaf: with each member that is found to be deaf others go on by unicast that are not known to
        hear the group, as they may give up before their turns: one for so many that were found until then; only if no
        member is known to hear, or everything was sent, or nobody has heard the group for a while.
    @ivar reachabilityCheckAfter: a member that has joined before the first block, and has had no turn for so long, gets
        one in the middle of a pass, to show that it hears the group: a deaf one would give up.  Seconds.
    @ivar maxCorrections: how often a member that asks for blocks without having the turn is told that it does not have
        it; once a second at most.
    @ivar maxListenerRepeats: how often the announcement of a listener is repeated, once a second, until it is
        confirmed.
    @ivar addressBudget: so long may the members at one address let those at others wait, over all their turns; then
        their turns come after those of all others.  So do they when C{turnBudget} is spent by them together.  Seconds.
    @ivar turnBudget: the most blocks sent in one turn, as a multiple of the blocks of the file.
    @ivar minTurnProgress: a master that advances more slowly while others wait loses its turn.
    @ivar forOne: all rules are off that make a difference for one receiver and are for groups.
    @ivar firstDeadline: so long after a lone receiver has joined something is to be done if it does not answer its
        announcement: that is repeated, or the receiver given up.  Seconds.
    """

    repeat: AdaptiveTimeout | FixedTimeouts = AdaptiveTimeout()
    progressTimeout: float = 31.0
    unheardTimeout: float | None = None
    measuredProgressTimeout: float | None = None
    minRepeats: int = 0
    loneProgressTimeout: float | None = None
    maxRepeatsUnheard: int | None = 3
    shortTurn: ShortTurn | None = None
    maxFailedTurns: int = 1
    keepAliveInterval: float | None = None
    joinDelay: float = 0.0
    maxJoinDelay: float = 0.0
    deafAfterRepeats: int | None = None
    foundPerAssumedDeaf: int | None = None
    reachabilityCheckAfter: float | None = None
    maxCorrections: int = 3
    maxListenerRepeats: int = 0
    addressBudget: float | None = None
    turnBudget: float | None = None
    minTurnProgress: MinProgress | None = None
    forOne: bool = field(init=False, repr=False, compare=False)
    firstDeadline: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        forGroups = (
            self.shortTurn, self.keepAliveInterval, self.deafAfterRepeats, self.foundPerAssumedDeaf,
            self.reachabilityCheckAfter, self.addressBudget, self.turnBudget, self.minTurnProgress,
        )  # fmt: skip
        object.__setattr__(self, "forOne", not self.joinDelay and all(rule is None for rule in forGroups))
        longest = self.repeat.ceiling if isinstance(self.repeat, AdaptiveTimeout) else self.repeat.first
        object.__setattr__(self, "firstDeadline", min(self.lonePatience(False), self.repeat.first, longest))

    def withTimeout(self, timeout: float | None) -> RetransmitPolicy:
        """
        Apply a negotiated interval (RFC 2349's C{timeout}): exactly that until a round-trip time was measured, then
        never longer, since the interval only says how long the peer waits itself (docs/transports/tftp.md).  The longer
        time without progress that goes with it is only for a peer that has answered.

        @param timeout: seconds; L{None}: no interval was negotiated.
        @return: the policy of that transfer.
        """
        if timeout is None:
            return self
        known = self.repeat if isinstance(self.repeat, AdaptiveTimeout) else AdaptiveTimeout()
        repeat = replace(known, first=timeout, floor=min(known.floor, timeout), ceiling=timeout)
        negotiated = max(TIMEOUT_INTERVALS * timeout, MIN_NEGOTIATED_TIMEOUT)
        return replace(self, repeat=repeat, progressTimeout=negotiated, unheardTimeout=self.patience(False))

    def patience(self, heard: bool) -> float:
        """
        Return how long a peer may be without progress.  Seconds.

        @param heard: it has sent something since its request.
        """
        if heard or self.unheardTimeout is None:
            return self.progressTimeout
        return min(self.progressTimeout, self.unheardTimeout)

    def lonePatience(self, heard: bool) -> float:
        """As L{patience}, for a receiver that is alone, and has lost no turn or has answered before."""
        return self.patience(heard) if self.loneProgressTimeout is None else self.loneProgressTimeout
