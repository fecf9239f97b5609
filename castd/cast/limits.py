"""
What only groups need to limit: the delay before the first block, and what a turn may cost those who wait.
"""

from __future__ import annotations

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
        if self.until is None:
            self._latest = now + self._policy.maxJoinDelay
        self.until = min(now + self._policy.joinDelay, self._latest)


class TurnBudget:
    """
    Tells when the turn of one master has cost the other members too much.
    """

    __slots__ = ("_checkpoint", "_policy")

    def __init__(self, policy: RetransmitPolicy, now: float) -> None:
        """@param now: the instant when the turn begins."""
        self._policy = policy
        self._checkpoint = (now, 0)  # an instant, and the block that the master wanted then

    def overspent(self, blocks: int, count: int, wanted: int | None, now: float) -> bool:
        """
        Find out whether a hostile or very slow master is to lose its turn.

        @param blocks: the blocks that were sent in this turn, repetitions among them.
        @param count: the blocks of the file.
        @param wanted: the block that the master wants next; L{None}: it has not asked for any.
        """
        budget, slowest = self._policy.turnBudget, self._policy.minTurnProgress
        if budget is not None and blocks > max(budget * count, MIN_TURN_BUDGET):
            return True
        if slowest is None or wanted is None:
            return False
        since, start = self._checkpoint
        if now - since < slowest.seconds:
            return False
        self._checkpoint = (now, wanted)
        return wanted - start < slowest.share * count
