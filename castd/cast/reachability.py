"""
Who hears what is sent to the group, and who seems to hear nothing: a switch, a firewall or the client itself drops it.
"""

from __future__ import annotations

from collections import deque

from castd.cast.members import Member, Members
from castd.cast.policy import RetransmitPolicy, ShortTurn

#: Who was here for so many blocks and asks for the first has heard none, or not even its greeting.
MISSED = 16
#: How often that one is sent the first block until it is taken for deaf, and the seconds between.  It may have lost
#: just that: with 5 % lost each way one in a million is taken for deaf by mistake.
TRIED = ShortTurn(6, 0.05)


class Reachability:
    """
    What the members' wants have told of that so far.

    @ivar proved: somebody hears the group.
    """

    def __init__(self, policy: RetransmitPolicy) -> None:
        self.proved = False
        self._policy = policy
        self._inVain = 0  # how many in a row have asked for the first block in vain
        self._untried: deque[Member] = deque()  # who is here since the beginning, and may have had no turn

    def came(self, member: Member) -> None:
        """A member is new."""
        if self._policy.reachabilityCheckAfter is not None and member.since < 0:
            self._untried.append(member)

    def shown(self, member: Member) -> None:
        """It has asked for something behind the first block."""
        member.hears = self.proved = True
        self._inVain = 0

    def nothing(self, member: Member, top: int) -> bool:
        """
        Others hear the group; this one, that is here since the beginning, asks for the first block.

        @param top: the highest number that was sent.
        """
        if self._policy.allDeafAfterMembers is None or not self.proved:
            return False
        return member.since < 0 and not member.hears and top >= MISSED

    def missed(self, member: Member, over: bool) -> bool:
        """
        It has asked for the first block, and did not get it however often it was sent.

        Where that is true of the first few, and of nobody the contrary is known, nothing that is sent to this group
        arrives anywhere; where it is true of twice as many in a row when everything has been sent, part of the hall
        hears nothing.  The others would give up long before their turns had come.

        @param over: everything has been sent.
        @return: all who have not shown that they hear are to go on by unicast; who has everything says so at once.
        """
        self._inVain += not member.failed
        limit = self._policy.allDeafAfterMembers
        if limit is None:
            return False
        return over and self._inVain >= 2 * limit if self.proved else self._inVain >= limit

    def overdue(self, members: Members, now: float) -> Member | None:
        """-> who is to show now that it hears."""
        untried = self._untried
        # Who has asked again since then lacks the beginning, as who came late does.
        while untried and (untried[0].turns or untried[0].since >= 0 or members.get(untried[0].peer) is not untried[0]):
            untried.popleft()
        prove = self._policy.reachabilityCheckAfter or 0.0
        return untried[0] if untried and now >= untried[0].cameAt + prove else None
