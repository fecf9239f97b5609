"""
Bound the time of a turn: the delay before the first block, and what each turn may cost.
"""

from __future__ import annotations

from castd.cast.members import Member
from castd.cast.policy import RetransmitPolicy

#: Blocks that a turn may cost however short the file is: repetitions of a file of one block are no burden.
MIN_TURN_BUDGET = 64


class JoinDelay:
    """
    Delays the first block as long as machines keep coming.

    @ivar until: the instant up to which the first block waits; L{None}: it does not wait.
    """

    __slots__ = ("_latest", "_policy", "until")

    def __init__(self, policy: RetransmitPolicy) -> None:
        self._policy = policy
        self.until: float | None = None
        self._latest = 0.0

    def extend(self, now: float) -> None:
        """Delay the first block, or delay it further, as a member has come."""
        if not self._policy.joinDelay:
            return
        if self.until is None:
            self._latest = now + self._policy.maxJoinDelay
        self.until = min(now + self._policy.joinDelay, self._latest)


class TurnLimits:
    """
    Tells when one turn of one master is to end.

    @ivar blocks: the blocks that were sent in this turn, repetitions among them.
    @ivar progressAt: the instant when the turn began, or when its master last asked for something new.
    """

    __slots__ = ("_checkpoint", "blocks", "progressAt")

    def __init__(self, now: float) -> None:
        self.blocks = 0
        self.progressAt = now
        self._checkpoint = (now, 0)  # an instant, and the block that the master wanted then

    def endsAt(self, policy: RetransmitPolicy, master: Member, alone: bool) -> float:
        """
        Find out when the turn ends if its master asks for nothing new.

        @param alone: the master is the only member.
        @return: an instant.
        """
        if alone and not master.failedTurns:
            # Nobody waits for it, and nothing speaks against it.
            lone = policy.loneProgressTimeout
            return self.progressAt + (policy.progressTimeout if lone is None else lone)
        measured = policy.measuredProgressTimeout
        if measured is not None and master.rto.smoothedRtt is not None and master.rto.repeats >= policy.minRepeats:
            return self.progressAt + measured
        return self.progressAt + policy.progressTimeout

    def overspent(self, policy: RetransmitPolicy, count: int, wanted: int | None, now: float) -> bool:
        """
        Find out whether the turn has cost the others too much: a hostile or very slow master loses it.

        @param count: the blocks of the file.
        @param wanted: the block that the master wants next; L{None}: it has not asked for any.
        """
        if policy.turnBudget is not None and self.blocks > max(policy.turnBudget * count, MIN_TURN_BUDGET):
            return True
        if policy.minTurnProgress is None or wanted is None:
            return False
        share, seconds = policy.minTurnProgress
        since, start = self._checkpoint
        if now - since < seconds:
            return False
        self._checkpoint = (now, wanted)
        return wanted - start < share * count
