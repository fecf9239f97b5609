"""
Find out which members receive what is sent to the group.  For others a switch, a firewall or the client itself may drop
it; those are called I{deaf}.
"""

from __future__ import annotations

from collections import deque
from typing import Generic

from castd.cast.members import M, Members
from castd.cast.policy import MIN_RTO, RetransmitPolicy, ShortTurn

#: A member that asks for the first block after so many blocks were sent since it joined has received none of them.
MISSED_BLOCKS = 16
#: Limits how long a member that was a listener has for the first answer of its turn: it was alive a moment ago, as it
#: has answered its announcement.  It may have lost only that block: with a loss of 5 % in each direction one in a
#: million is taken for deaf by mistake.
DEAF_TURN = ShortTurn(6, 0.05)
#: The same for a member that has answered its announcement within L{PROMPT} seconds.
PROMPT, PROMPT_DEAF_TURN = 0.005, ShortTurn(15, MIN_RTO)
#: How much longer than its answer to the announcement that to a block may take, and the longest interval.  Seconds.
SLOWER, LONGEST_INTERVAL = 1.5, 0.12
#: A master that has received blocks in its turn is taken for deaf only after so many copies of one block, and not
#: within the time of L{DEAF_TURN}: a file has thousands of blocks, and losses come in bursts.
COPIES = 7
#: A group that was heard may be cut off for a moment, as by a switch that learns its routes anew.  Members that have no
#: turn meanwhile are not moved for it.  Eight deaf ones whose turns follow each other take 2.1 s.  Seconds.
INTERRUPTION = 3.0


def deafTurn(seconds: float) -> ShortTurn:
    """
    Return the limit of a turn in which a member is to show that it hears the group.

    Where an answer takes more than 50 ms, the block would else be sent again to each member that hears it.  Where it
    takes more than L{LONGEST_INTERVAL} the block is sent again all the same, once in each such interval: a deaf member
    is to hold up the others for no longer.

    @param seconds: how long it has taken to answer its announcement.
    """
    if seconds < PROMPT:
        return PROMPT_DEAF_TURN
    interval = min(SLOWER * seconds, LONGEST_INTERVAL)
    return ShortTurn(DEAF_TURN.repeats, interval) if interval > DEAF_TURN.interval else DEAF_TURN


class Reachability(Generic[M]):
    """
    Infers from the requests of the members whether they hear the group (docs/decisions/group-reachability.md).

    @ivar groupHeard: at least one member has heard the group.
    """

    __slots__ = ("_found", "_foundInRow", "_policy", "_rowBegan", "_unchecked", "groupHeard")

    def __init__(self, policy: RetransmitPolicy) -> None:
        self.groupHeard = False
        self._policy = policy
        self._found = 0  # how many members were found to be deaf
        # The hosts of those that were found since a master last received a block: one machine may have many ports.
        self._foundInRow: set[str] = set()
        self._rowBegan = 0.0
        self._unchecked: deque[M] = deque()  # members that joined before the first block, and may have had no turn

    def joined(self, member: M) -> None:
        """Note a new member."""
        if self._policy.reachabilityCheckAfter is not None and member.highestSentAtJoin < 0:
            self._unchecked.append(member)

    def received(self) -> None:
        """Note that a master has received a block that was sent in its turn: at this moment the group is heard."""
        if self._foundInRow:
            self._foundInRow.clear()

    def seemsDeaf(self, member: M, sent: int) -> bool:
        """
        Find out whether a master that asks for the first block has received nothing since it joined, though other
        members hear the group.

        @param sent: how many of the blocks were sent, once or more often.
        """
        if self._policy.foundPerAssumedDeaf is None or not self.groupHeard:
            return False
        return member.highestSentAtJoin < 0 and not member.hearsGroup and sent > MISSED_BLOCKS

    def assumedDeaf(self, members: Members[M], found: M, allSent: bool, now: float) -> list[M]:
        """
        Note that a member was found to be deaf, and choose others that are to go on by unicast with it.

        To be deaf is a property of a machine, so each is found by itself.  But that takes a while, and in a large hall
        that nothing reaches the last ones would give up before.  So their number grows with that of those found.

        A switch may also forget a group in the middle of a pass.  That members have heard it counts no more when enough
        were found, at as many hosts, and for L{INTERRUPTION} no master has received a block.

        @param found: the member that was found.
        @param allSent: every block has been sent: one that has received everything acknowledges the last block at once.
        @return: members that are not known to hear the group now.
        """
        self._found += 1
        share = self._policy.foundPerAssumedDeaf
        if share is None:
            return []
        host = found.peer[0]
        another = host not in self._foundInRow
        if not self._foundInRow:
            self._rowBegan = now
        self._foundInRow.add(host)
        inRow = len(self._foundInRow)
        others = [each for each in members if each is not found]
        if self.groupHeard and another and inRow >= share and now >= self._rowBegan + INTERRUPTION:
            # Those first that have never shown that they hear.
            return sorted(others, key=lambda each: each.hearsGroup)[: inRow // share]
        if self.groupHeard and not allSent:
            return []
        return [each for each in others if not each.hearsGroup][: self._found // share]

    def nextToCheck(self, members: Members[M], now: float) -> M | None:
        """Return the member that is to get a turn now, only to show that it hears the group; L{None}: there is none."""
        first = self._firstUnchecked(members)
        return first if first is not None and now >= self._checkedAt(first) else None

    def nextCheckAt(self, members: Members[M]) -> float:
        """Return the instant from which on L{nextToCheck} returns a member; infinite: there is none to check."""
        first = self._firstUnchecked(members)
        return float("inf") if first is None else self._checkedAt(first)

    def _checkedAt(self, member: M) -> float:
        after = self._policy.reachabilityCheckAfter
        return float("inf") if after is None else member.joinedAt + after

    def _firstUnchecked(self, members: Members[M]) -> M | None:
        """Return the member that is to be checked next, as soon as it has waited long enough."""
        unchecked = self._unchecked
        # A member that has repeated its request since then counts as one that joined later, and may lack the beginning.
        while unchecked and (
            unchecked[0].turns
            or unchecked[0].highestSentAtJoin >= 0
            or members.get(unchecked[0].peer) is not unchecked[0]
        ):
            unchecked.popleft()
        return unchecked[0] if unchecked else None
