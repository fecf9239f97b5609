"""
Reachability by itself: what the requests of members, and the blocks that were sent, say of who hears the group.
"""

from __future__ import annotations

import pytest

from castd.cast.members import Member, Members
from castd.cast.policy import FixedTimeouts, RetransmitPolicy
from castd.cast.reachability import INTERRUPTION, MISSED_BLOCKS, Reachability

POLICY = RetransmitPolicy(deafAfterRepeats=2, foundPerAssumedDeaf=2, reachabilityCheckAfter=5.0)


def member(number: int, highestSentAtJoin: int = -1, joinedAt: float = 0.0, hears: bool = False) -> Member:
    peer = (f"10.0.0.{number}", 2000)
    made = Member(peer, (), FixedTimeouts((1.0,)), False, highestSentAtJoin, joinedAt)
    made.hearsGroup = hears
    return made


def hall(*present: Member) -> Members[Member]:
    members: Members[Member] = Members()
    for each in present:
        members.add(each)
    return members


@pytest.mark.parametrize(
    ("groupHeard", "highestSentAtJoin", "hears", "sent", "seemsDeaf"),
    [
        (True, -1, False, MISSED_BLOCKS + 1, True),
        (True, -1, False, MISSED_BLOCKS, False),
        (True, 0, False, MISSED_BLOCKS + 1, False),
        (True, -1, True, MISSED_BLOCKS + 1, False),
        (False, -1, False, MISSED_BLOCKS + 1, False),
    ],
    ids=("missed all", "missed few", "came later", "heard", "nobody hears"),
)
def test_whoSeemsDeaf(groupHeard: bool, highestSentAtJoin: int, hears: bool, sent: int, seemsDeaf: bool) -> None:
    """One that was there before the first block, and has none of many that others have heard."""
    reachability: Reachability[Member] = Reachability(POLICY)
    reachability.groupHeard = groupHeard
    assert reachability.seemsDeaf(member(1, highestSentAtJoin, hears=hears), sent) == seemsDeaf
    assert not Reachability(RetransmitPolicy(deafAfterRepeats=2)).seemsDeaf(member(1), sent)


def test_whoIsAssumedDeaf() -> None:
    """With the second and third that are found one goes that is not known to hear, with the fourth two."""
    reachability: Reachability[Member] = Reachability(POLICY)
    found, hears, *others = member(1), member(2, hears=True), member(3), member(4), member(5)
    members = hall(found, hears, *others)
    gone = [reachability.assumedDeaf(members, found, False, 0.0) for _ in range(4)]
    assert gone == [[], others[:1], others[:1], others[:2]]


def test_whereTheGroupIsHeard() -> None:
    """Where a member hears the group others are assumed to be deaf only when everything was sent."""
    reachability: Reachability[Member] = Reachability(POLICY)
    reachability.groupHeard = True
    found, other = member(1), member(2)
    members = hall(found, other)
    gone = [reachability.assumedDeaf(members, found, allSent, 9.0) for allSent in (False, False, True)]
    assert gone == [[], [], [other]]
    assert Reachability(RetransmitPolicy(deafAfterRepeats=2)).assumedDeaf(members, found, True, 9.0) == []


def test_whereTheGroupIsHeardNoMore() -> None:
    """When several machines in a row were found, and no master has received a block for a while, others go, too."""
    reachability: Reachability[Member] = Reachability(POLICY)
    reachability.groupHeard = True
    first, second, other = (member(number, hears=True) for number in range(1, 4))
    deaf = member(4)
    members = hall(first, second, other, deaf)

    def found(*each: tuple[Member, float]) -> list[list[Member]]:
        return [reachability.assumedDeaf(members, one, False, now) for one, now in each]

    assert found((first, 1.0), (second, 2.0), (second, 2.0 + INTERRUPTION)) == [[], [], []]
    assert found((other, 2.0 + INTERRUPTION)) == [[deaf]]
    reachability.received()
    assert found((first, 4.0), (second, 3.9 + INTERRUPTION)) == [[], []]
    reachability.received()
    assert found(*[(first, float(now)) for now in range(10, 20)]) == [[]] * 10, "one machine with many ports"


def test_whoIsToBeChecked() -> None:
    """The first that has had no turn since it joined, before the first block, when it has waited long enough."""
    reachability: Reachability[Member] = Reachability(POLICY)
    led, gone, again, waits, late = member(1), member(2), member(3), member(4, joinedAt=1.0), member(5, 0)
    members = hall(led, again, waits, late)
    for each in (led, gone, again, waits, late):
        reachability.joined(each)
    led.turns, again.highestSentAtJoin = 1, 0
    assert reachability.nextCheckAt(members) == 6.0
    assert (reachability.nextToCheck(members, 5.9), reachability.nextToCheck(members, 6.0)) == (None, waits)
    waits.turns = 1
    assert (reachability.nextToCheck(members, 9.0), reachability.nextCheckAt(members)) == (None, float("inf"))
