"""
Find out which members receive what is sent to the group.  For others a switch, a firewall or the client itself may drop
it; those are called I{deaf}.
"""

from __future__ import annotations

from collections import deque
from typing import Generic

from castd.cast.members import M, Members
from castd.cast.policy import RetransmitPolicy, ShortTurn

#: A member that asks for the first block after so many blocks were sent since it joined has received none of them.
MISSED_BLOCKS = 16
#: Limits the turn of such a member: how often it is sent the first block until it is taken for deaf.  It may have lost
#: only that block: with a loss of 5 % in each direction one in a million is taken for deaf by mistake.
DEAF_TURN = ShortTurn(6, 0.05)


class Reachability(Generic[M]):
    """
    Infers from the requests of the members whether they hear the group (docs/decisions/group-reachability.md).

    @ivar groupHeard: at least one member hears the group.
    """

    __slots__ = ("_inVain", "_policy", "_unchecked", "groupHeard")

    def __init__(self, policy: RetransmitPolicy) -> None:
        self.groupHeard = False
        self._policy = policy
        self._inVain = 0  # how many members in a row have asked for the first block in vain
        self._unchecked: deque[M] = deque()  # members that joined before the first block, and may have had no turn

    def joined(self, member: M) -> None:
        """Note a new member."""
        if self._policy.reachabilityCheckAfter is not None and member.highestSentAtJoin < 0:
            self._unchecked.append(member)

    def foundHearing(self) -> None:
        """Note that a member has asked for a block after the first one: it hears the group."""
        self.groupHeard = True
        self._inVain = 0

    def seemsDeaf(self, member: M, highestSent: int) -> bool:
        """
        Find out whether a master that asks for the first block has received nothing since it joined, though other
        members hear the group.

        @param highestSent: the highest number that was sent.
        """
        if self._policy.allDeafAfterMembers is None or not self.groupHeard:
            return False
        return member.highestSentAtJoin < 0 and not member.hearsGroup and highestSent >= MISSED_BLOCKS

    def firstBlockMissed(self, member: M, allSent: bool) -> bool:
        """
        Note that a member has asked for the first block, and did not receive it however often it was sent.

        If this happens to the first few members (C{allDeafAfterMembers}) and no member is known to hear the group, then
        nothing that is sent to the group arrives.  If it happens to twice as many in a row after everything was sent,
        then a part of the network does not receive it.  The other members there would give up before their turns.

        @param allSent: every block has been sent.
        @return: whether all members that are not known to hear the group are to go on by unicast.  One of them that has
            received everything will acknowledge the last block at once.
        """
        self._inVain += not member.failedTurns
        limit = self._policy.allDeafAfterMembers
        if limit is None:
            return False
        return allSent and self._inVain >= 2 * limit if self.groupHeard else self._inVain >= limit

    def nextToCheck(self, members: Members[M], now: float) -> M | None:
        """Return the member that is to get a turn now, only to show that it hears the group; L{None}: there is none."""
        after = self._policy.reachabilityCheckAfter
        if after is None:
            return None
        unchecked = self._unchecked
        # A member that has repeated its request since then counts as one that joined later, and may lack the beginning.
        while unchecked and (
            unchecked[0].turns
            or unchecked[0].highestSentAtJoin >= 0
            or members.get(unchecked[0].peer) is not unchecked[0]
        ):
            unchecked.popleft()
        return unchecked[0] if unchecked and now >= unchecked[0].joinedAt + after else None
