"""
What one member of a group costs does not depend on how many there are.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from castd import outcomes
from castd.cast.events import Announce, Leave, Left
from castd.cast.members import ASSUMED_RTT, Member, Members
from castd.cast.policy import AdaptiveTimeout, RetransmitPolicy
from castd.cast.turn import Turn
from castd.request import Peer


def peerOf(number: int) -> Peer:
    return f"10.0.{number >> 8}.{number & 255}", 2000


def member(number: int) -> Member:
    return Member(peerOf(number), (), AdaptiveTimeout(), waited=True)


def drained(cast: Turn, now: float) -> list[object]:
    actions: list[object] = []
    while (action := cast.poll(now)) is not None:
        actions.append(action)
    return actions


def leave(size: int) -> int:
    """Return how many functions were entered, generators resumed, while all members of a group left at once."""
    cast, calls = Turn(RetransmitPolicy(), 1000), 0
    for number in range(size):
        cast.join(peerOf(number), 0.0)
        drained(cast, 0.0)

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for number in range(size):
            cast.hear(peerOf(number), Leave(outcomes.DONE), 0.1)
    finally:
        sys.setprofile(before)
    assert sum(isinstance(each, Left) for each in drained(cast, 0.1)) == size
    return calls


def test_allLeave() -> None:
    """Two thousand that leave at once cost as much each as a hundred do."""
    assert leave(2000) / 2000 <= 1.1 * leave(100) / 100


@pytest.mark.parametrize("again", [0, 3])
def test_notices(again: int) -> None:
    """A member has one announcement queued, in the place of its last one; its farewell takes the place of that."""
    members: Members[Member] = Members()
    three = [member(number) for number in range(3)]
    for each in three:
        members.add(each)
        members.announce(each, False)
    for _ in range(again):
        members.announce(three[0], True)
    members.remove(three[1], outcomes.DONE)
    told = []
    while members.hasNotices:
        told.append(members.nextNotice())
    assert members.nextNotice() is None
    first = Announce(three[0].peer, bool(again), False)
    second, last = Announce(three[2].peer, False, False), Left(three[1].peer, outcomes.DONE, (), False, False)
    assert told == ([second, first, last] if again else [first, second, last])


def test_farewellsTellOfRepetitions() -> None:
    """A farewell says how often its member has repeated the request for what it lacks, and for nothing else."""
    blocks, others = (range(4, 5),), (range(5, 6),)
    told = list[int]()
    for wants in (blocks, others, ()):
        members: Members[Member] = Members()
        members.add(leaves := member(1))
        for ranges in (others, blocks, blocks, blocks):
            leaves.asksAgain(ranges)
        members.remove(leaves, outcomes.SILENT, wants)
        farewell = members.nextNotice()
        assert isinstance(farewell, Left)
        told.append(farewell.repeated)
    assert told == [3, 0, 0]


def test_whoAsksInVain() -> None:
    """
    Who was busy acknowledges all copies of a block, one after the other: so many requests say nothing, and each one
    after that counts if its block was sent long enough before.
    """
    asks, before, ranges = member(1), (range(4, 5),), (range(5, 6),)
    asks.wanted = before
    for _ in range(2):
        asks.rto.backOff()
    assert not asks.asksInVain(ranges, 1.0)
    asks.wanted, asks.servedAt = ranges, 1.0
    assert [asks.asksInVain(ranges, 2.0) for _ in range(4)] == [False, False, True, False]
    asks.servedAt = 2.0
    assert [asks.asksInVain(ranges, now) for now in (2.0 + ASSUMED_RTT / 2, 2.0 + ASSUMED_RTT)] == [False, True]
    assert asks.unchangedRequests == 2


def test_aFarewellOfWhoIsBack() -> None:
    """Who has joined again, from the same port or from a new one, gets no farewell that was still queued."""
    members: Members[Member] = Members()
    first, second = member(1), member(2)
    for each in (first, second):
        members.add(each)
    members.remove(first, outcomes.REPLACED)
    members.add(again := member(1))
    assert not members.hasNotices
    members.announce(again, False)
    members.remove(again, outcomes.REPLACED)
    members.announce(second, True)
    members.changePeer(second, again.peer)
    assert not members.hasNotices
    members.announce(second, True)
    assert members.nextNotice() == Announce(again.peer, True, False)
    assert members.nextNotice() is None
