"""
Limit what groups need to limit: the delay before the first block, and the length of a turn while other members wait.
"""

from __future__ import annotations

from castd.cast.policy import RetransmitPolicy

#: Blocks that may be sent in a turn, however short the file is: a few repetitions of a short file do no harm.
MIN_TURN_BUDGET = 64


class JoinDelay:
    """
    Delays the first block while members keep joining.

    @ivar until: the instant up to which the first block waits; L{None}: it does not wait.
    """

    __slots__ = ("_latest", "_policy", "until")

    def __init__(self, policy: RetransmitPolicy) -> None:
        self._policy = policy
        self.until: float | None = None
        self._latest = 0.0

    def extend(self, now: float) -> None:
        """Delay the first block, or delay it further, as a member has joined."""
        if self.until is None:
            self._latest = now + self._policy.maxJoinDelay
        self.until = min(now + self._policy.joinDelay, self._latest)

    def halfway(self, now: float) -> float | None:
        """
        Return the instant at which the announcement of a listener that joins now is repeated, half of the delay later;
        L{None}: the first block is sent before that.
        """
        instant = now + self._policy.joinDelay / 2
        return instant if self.until is not None and instant < self.until else None


class TurnBudget:
    """
    Finds out when the turn of a master has taken too many blocks or too much time from the other members.
    """

    __slots__ = ("_checkpoint", "_policy")

    def __init__(self, policy: RetransmitPolicy, now: float) -> None:
        """@param now: the instant when the turn begins."""
        self._policy = policy
        self._checkpoint = (now, 0)  # an instant, and the block that the master wanted then

    def overspent(self, blocks: int, count: int, wanted: int | None, now: float) -> bool:
        """
        Find out whether a hostile or very slow master is to lose its turn.

        @param blocks: how many blocks were sent in this turn, with repetitions.
        @param count: how many blocks the file has.
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
