"""
Limit what groups need to limit: the delay before the first block, the length of a turn while other members wait, and
for how long the members at one address may let those at others wait.
"""

from __future__ import annotations

from castd.cast.policy import MIN_RTO, RetransmitPolicy

#: Blocks that may be sent in a turn, however short the file is: a few repetitions of a short file do no harm.
MIN_TURN_BUDGET = 64
#: For how long it is remembered what an address has cost, from the end of its last turn on, and of how many addresses:
#: a group that always has members does not end, and its machines boot again.  Seconds, and addresses.
COSTS_LAST, MOST_CHARGED = 300.0, 4096


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


def mostBlocks(policy: RetransmitPolicy, count: int | None) -> float:
    """
    Return how many blocks may be sent in one turn, and to the members at one address; infinite: any number.

    @param count: how many blocks the file has; L{None}: it is not known.
    """
    budget = policy.turnBudget
    return float("inf") if budget is None or not count else max(budget * count, MIN_TURN_BUDGET)


class TurnBudget:
    """
    Finds out when the turn of a master has taken too many blocks or too much time from the other members.

    @ivar mostBlocks: how many blocks may be sent in the turn; infinite: any number.
    """

    __slots__ = ("_checkpoint", "_count", "_slowest", "mostBlocks")

    def __init__(self, policy: RetransmitPolicy, count: int, now: float) -> None:
        """
        @param count: how many blocks the file has.
        @param now: the instant when the turn begins.
        """
        self.mostBlocks = mostBlocks(policy, count)
        self._slowest = policy.minTurnProgress
        self._count = count
        self._checkpoint = (now, 0)  # an instant, and the block that the master wanted then

    @property
    def checksAt(self) -> float:
        """The instant at which the progress is looked at next; infinite: it is not."""
        return float("inf") if self._slowest is None else self._checkpoint[0] + self._slowest.seconds

    def overspent(self, blocks: int, wanted: int | None, now: float) -> bool:
        """
        Find out whether a hostile or very slow master is to lose its turn.

        @param blocks: how many blocks were sent in this turn, with repetitions.
        @param wanted: the block that the master wants next; L{None}: it has not asked for any.
        """
        if blocks > self.mostBlocks:
            return True
        slowest = self._slowest
        if slowest is None or wanted is None:
            return False
        since, start = self._checkpoint
        if now - since < slowest.seconds:
            return False
        self._checkpoint = (now, wanted)
        return wanted - start < slowest.share * self._count


class AddressCosts:
    """
    Counts what the members at each address have cost those at others, over all their turns: one machine may have many
    ports, and stall in each turn just as long as the rules for a turn allow.

    The first turn of an address may cost more: a slow machine with one port is cut short by the rules for a turn.

    An address is forgotten when another gets a turn L{COSTS_LAST} after its own last one ended, and the first of more
    than L{MOST_CHARGED}.

    @ivar seconds: for how long the masters at an address have let others wait, by its host; one with nothing is left
        out.
    """

    __slots__ = ("_blocks", "_budget", "_firstTurn", "_mostBlocks", "_turns", "seconds")

    def __init__(self, policy: RetransmitPolicy, count: int | None) -> None:
        """@param count: how many blocks the file has; L{None}: it is not known."""
        assert policy.addressBudget is not None
        self._budget = policy.addressBudget
        self._mostBlocks = mostBlocks(policy, count)
        slowest = policy.minTurnProgress
        self._firstTurn = self._budget if slowest is None else max(self._budget, slowest.seconds)
        self.seconds: dict[str, float] = {}
        self._blocks: dict[str, int] = {}
        # How many turns each address had, and when the last one began, or ended, in that order.
        self._turns: dict[str, tuple[int, float]] = {}

    def turnBegins(self, host: str, now: float) -> None:
        """Note that a member at an address gets the turn."""
        turns, _ = self._turns.pop(host, (0, now))
        self._turns[host] = turns + 1, now
        while (first := next(iter(self._turns))) != host and (
            self._turns[first][1] + COSTS_LAST <= now or len(self._turns) > MOST_CHARGED
        ):
            del self._turns[first]
            self.seconds.pop(first, None)
            self._blocks.pop(first, None)

    def waited(self, host: str, seconds: float) -> None:
        """Charge an address for a time in which its master has asked for nothing new while others waited."""
        self.seconds[host] = self.seconds.get(host, 0.0) + seconds

    def turnEnds(self, host: str, blocks: int, now: float) -> None:
        """Charge an address for the blocks that were sent in a turn, which ends."""
        self._blocks[host] = self._blocks.get(host, 0) + blocks
        turns, _ = self._turns.pop(host, (0, now))
        self._turns[host] = turns, now

    def left(self, host: str) -> float:
        """
        Return the seconds that the masters at an address may still let others wait; 0: none.

        What is left is nothing if it is no longer than the waiting that is not charged: it would never be spent, and a
        turn of that length is lost before an answer can come.
        """
        if self._blocks.get(host, 0) > self._mostBlocks:
            return 0.0
        left = self._budget - self.seconds.get(host, 0.0)
        return left if left > MIN_RTO else 0.0

    def leftOfTurn(self, host: str) -> float:
        """Return the seconds that the master, which is at this address, may still let others wait in its turn."""
        if self._turns.get(host, (0, 0.0))[0] > 1:
            return self.left(host)
        return max(0.0, self._firstTurn - self.seconds.get(host, 0.0))
