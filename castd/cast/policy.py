"""
When a cast repeats what was not answered, and how long it waits: plain frozen values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

#: The shortest retransmission timeout.  RFC 6298, section 2.4, asks for a second, which every lost block would cost a
#: whole group.  In a LAN an answer takes less than a millisecond, and a busy client or a timer delays it by some; a
#: block that is repeated too early costs one datagram, which each client has to bear anyway (docs/transports/tftp.md).
#: Seconds.
MIN_RTO = 0.02


@dataclass(frozen=True, slots=True)
class AdaptiveTimeout:
    """
    Retransmission timeouts that follow the measured answering time: smoothed time plus four deviations (RFC 6298).
    Seconds.

    @ivar first: the timeout before anything was measured.
    @ivar floor: the shortest timeout.
    @ivar growth: the factor from one unanswered repetition to the next.
    @ivar ceiling: the longest timeout.
    """

    first: float = 1.0
    floor: float = MIN_RTO
    growth: float = 2.0
    ceiling: float = 8.0


@dataclass(frozen=True, slots=True)
class FixedTimeouts:
    """
    Retransmission timeouts of a fixed table.  Seconds.

    @ivar steps: the timeout before each repetition; the last one goes on for ever.
    """

    steps: tuple[float, ...]

    @property
    def first(self) -> float:
        """The timeout before the first repetition."""
        return self.steps[0]


class ShortTurn(NamedTuple):
    """
    A turn in which little is tried.

    @ivar repeats: the turn is lost after so many intervals without an answer.
    @ivar interval: from one repetition to the next.  Seconds.
    """

    repeats: int
    interval: float


class MinProgress(NamedTuple):
    """
    The slowest master that keeps its turn.

    @ivar share: the part of the blocks of the file, 0 to 1, by which its requests advance at least ...
    @ivar seconds: ... within this time.
    """

    share: float
    seconds: float


#: Where an interval was agreed on, a peer may make no progress for so many of them, and for so many seconds at least.
TIMEOUT_INTERVALS, MIN_NEGOTIATED_TIMEOUT = 6, 15.0


@dataclass(frozen=True, slots=True)
class RetransmitPolicy:
    """
    How patient a cast is.  L{None} switches a rule off.

    @ivar repeat: when to repeat what was not answered.
    @ivar progressTimeout: a receiver that asks for nothing new for so long loses its turn; in a transfer with one peer
        it is given up.  Seconds.
    @ivar measuredProgressTimeout: the same for a master whose answering time was measured, while others wait.  Seconds.
    @ivar minRepeats: so many repetitions must have gone out, too, before C{measuredProgressTimeout} counts; in an
        upload or a download, before C{progressTimeout} does.
    @ivar loneProgressTimeout: takes the place of C{progressTimeout} while a master that has lost no turn is the only
        member.  Seconds.
    @ivar maxRepeatsUnheard: repetitions to a peer that has sent nothing but its request, whose address may be forged;
        after them nothing is sent to it until its turn is lost, and in any later turn only the announcement.
    @ivar shortTurn: limits the first turn that a member gets once the last block has been sent, and the turn in which
        a member is only to show that it hears the group.
    @ivar maxFailedTurns: a member that has lost so many turns is gone.
    @ivar keepAliveInterval: a group with members is sent a block at least so often, needed or not.  Seconds.
    @ivar joinDelay: the first block waits until nobody has joined for so long ...  Seconds.
    @ivar maxJoinDelay: ... but no longer than this after the first member came.  Seconds.
    @ivar deafAfterRepeats: a receiver that has repeated its request so often, unchanged, although the blocks went out
        each time, hears nothing of the group.
    @ivar allDeafAfterMembers: when so many members have asked for the first block in vain, until they were taken for
        deaf or fell silent, and nobody has asked for another block, all members are taken for deaf.
    @ivar reachabilityCheckAfter: a member that is here since the beginning, and has had no turn for so long, gets one
        in the middle of a pass, to show that it hears the group: one that hears nothing would give up.  Seconds.
    @ivar maxCorrections: how often a member that asks for blocks without having the turn is told that it has not; once
        a second at most.
    @ivar maxListenerRepeats: how often a listener's announcement is repeated, once a second, while it is not confirmed.
    @ivar turnBudget: blocks that one turn may cost, as a multiple of the blocks of the file.
    @ivar minTurnProgress: a master that advances more slowly while others wait loses its turn.
    """

    repeat: AdaptiveTimeout | FixedTimeouts = AdaptiveTimeout()
    progressTimeout: float = 31.0
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
    allDeafAfterMembers: int | None = None
    reachabilityCheckAfter: float | None = None
    maxCorrections: int = 3
    maxListenerRepeats: int = 0
    turnBudget: float | None = None
    minTurnProgress: MinProgress | None = None

    def withTimeout(self, timeout: float | None) -> RetransmitPolicy:
        """
        Apply the interval of RFC 2349's C{timeout}: exactly that until something was measured, then never longer,
        since the peer has only said how long it waits itself (docs/transports/tftp.md).

        @param timeout: seconds; L{None}: none was agreed on.
        @return: the policy of that transfer.
        """
        if timeout is None:
            return self
        known = self.repeat if isinstance(self.repeat, AdaptiveTimeout) else AdaptiveTimeout()
        repeat = replace(known, first=timeout, floor=min(known.floor, timeout), ceiling=timeout)
        return replace(self, repeat=repeat, progressTimeout=max(TIMEOUT_INTERVALS * timeout, MIN_NEGOTIATED_TIMEOUT))
