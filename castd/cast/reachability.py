"""
Find out who hears what is sent to the group, and who seems to hear nothing: a switch, a firewall or the client itself
drops it.
"""

from __future__ import annotations

from collections import deque
from typing import Generic

from castd.cast.members import M, Members
from castd.cast.policy import RetransmitPolicy, ShortTurn

#: Who was here for so many blocks and asks for the first has heard none, or not even its announcement.
MISSED_BLOCKS = 16
#: The turn of such a member: how often it is sent the first block until it is taken for deaf.  It may have lost just
#: that: with 5 % lost each way one in a million is taken for deaf by mistake.
DEAF_TURN = ShortTurn(6, 0.05)


class Reachability(Generic[M]):
    """
    Keeps what the requests of the members have told of that so far (docs/decisions/group-reachability.md).

    @ivar groupHeard: somebody hears the group.
    """

    __slots__ = ("_inVain", "_policy", "_unchecked", "groupHeard")

    def __init__(self, policy: RetransmitPolicy) -> None:
        self.groupHeard = False
        self._policy = policy
        self._inVain = 0  # how many in a row have asked for the first block in vain
        self._unchecked: deque[M] = deque()  # who is here since the beginning, and may have had no turn

    def joined(self, member: M) -> None:
        """Take note of a new member."""
        if self._policy.reachabilityCheckAfter is not None and member.highestSentAtJoin < 0:
            self._unchecked.append(member)

    def foundHearing(self) -> None:
        """Take note that some member has asked for something behind the first block: it hears the group."""
        self.groupHeard = True
        self._inVain = 0

    def seemsDeaf(self, member: M, highestSent: int) -> bool:
        """
        Find out whether a master that asks for the first block has heard nothing since the beginning, though others
        hear the group.

        @param highestSent: the highest number that was sent.
        """
        if self._policy.allDeafAfterMembers is None or not self.groupHeard:
            return False
        return member.highestSentAtJoin < 0 and not member.hearsGroup and highestSent >= MISSED_BLOCKS

    def firstBlockMissed(self, member: M, allSent: bool) -> bool:
        """
        Take note that a member has asked for the first block, and did not get it however often it was sent.

        Where that is true of the first few, and of nobody the contrary is known, nothing that is sent to this group
        arrives anywhere; where it is true of twice as many in a row when everything has been sent, part of the hall
        hears nothing.  The others would give up long before their turns had come.

        @param allSent: every block has been sent.
        @return: whether all who have not shown that they hear are to go on by unicast; who has everything says so at
            once.
        """
        self._inVain += not member.failedTurns
        limit = self._policy.allDeafAfterMembers
        if limit is None:
            return False
        return allSent and self._inVain >= 2 * limit if self.groupHeard else self._inVain >= limit

    def nextToCheck(self, members: Members[M], now: float) -> M | None:
        """-> the member that is to have a turn now, only to show that it hears the group; L{None}: nobody."""
        after = self._policy.reachabilityCheckAfter
        if after is None:
            return None
        unchecked = self._unchecked
        # Who has asked again since then lacks the beginning, as who came late does.
        while unchecked and (
            unchecked[0].turns
            or unchecked[0].highestSentAtJoin >= 0
            or members.get(unchecked[0].peer) is not unchecked[0]
        ):
            unchecked.popleft()
        return unchecked[0] if unchecked and now >= unchecked[0].joinedAt + after else None
