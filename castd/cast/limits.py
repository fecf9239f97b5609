"""
The time of a turn: the gathering before the first, and what each one has cost so far.
"""

from __future__ import annotations

from castd.cast.members import Member
from castd.cast.policy import RetransmitPolicy

#: Blocks that a turn may cost however short the file is: repetitions of a file of one block are no burden.
SHORT_TERM = 64


class JoinDelay:
    """
    As long as machines keep coming, the first block waits for them.

    @ivar until: the instant up to which it waits, L{None}: it does not.
    """

    __slots__ = ("_limit", "_policy", "until")

    def __init__(self, policy: RetransmitPolicy) -> None:
        self._policy = policy
        self.until: float | None = None
        self._limit = 0.0

    def came(self, now: float) -> None:
        """Somebody has come."""
        if not self._policy.joinDelay:
            return
        if self.until is None:
            self._limit = now + self._policy.maxJoinDelay
        self.until = min(now + self._policy.joinDelay, self._limit)


class TurnLimits:
    """
    One turn of one master.

    @ivar blocks: what it has cost.
    @ivar progressAt: the instant when it began, or its master asked for something new.
    """

    __slots__ = ("_mark", "blocks", "progressAt")

    def __init__(self, now: float) -> None:
        self.blocks = 0
        self.progressAt = now
        self._mark = (now, 0)

    def givenUpAt(self, policy: RetransmitPolicy, master: Member, alone: bool) -> float:
        """
        @param alone: nobody else is here.
        @return: the instant at which it ends if its master says nothing new.
        """
        if alone and not master.failed:
            # Nobody waits for it, and nothing speaks against it.
            return self.progressAt + (
                policy.progressTimeout if policy.loneProgressTimeout is None else policy.loneProgressTimeout
            )
        known = policy.measuredProgressTimeout is not None and master.alarm.smoothedRtt is not None
        if known and master.alarm.repeats >= policy.minRepeats:
            return self.progressAt + (policy.measuredProgressTimeout or 0.0)
        return self.progressAt + policy.progressTimeout

    def overspent(self, policy: RetransmitPolicy, count: int, asked: int | None, now: float) -> bool:
        """
        One turn may cost the others only so much: a hostile or very slow master loses it.

        @param count: the blocks of the file.
        @param asked: the block that the master wants next, L{None}: it has not asked for any.
        """
        if policy.turnBudget is not None and self.blocks > max(policy.turnBudget * count, SHORT_TERM):
            return True
        if policy.minTurnProgress is None or asked is None:
            return False
        share, seconds = policy.minTurnProgress
        since, start = self._mark
        if now - since < seconds:
            return False
        self._mark = (now, asked)
        return asked - start < share * count
