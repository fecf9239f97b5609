"""
Whose group is whose.
"""

from __future__ import annotations

from castd.group_pool import REUSE_DELAY, GroupPool

PLACE, OTHER = ("239.255.1.1", 3001), ("239.255.1.2", 3001)


def test_pool() -> None:
    """A group of a pool is nobody else's while it is taken, nor for a while after."""
    groupPool = GroupPool()
    assert [groupPool.allocate((PLACE, OTHER), 0.0) for _ in range(3)] == [PLACE, OTHER, None]
    groupPool.release(PLACE, 10.0)
    assert groupPool.allocate((PLACE, OTHER), 10.0 + REUSE_DELAY - 0.1) is None
    assert groupPool.allocate((PLACE, OTHER), 10.0 + REUSE_DELAY) == PLACE


def test_fixed() -> None:
    """A fixed group is for casts of one file, and rests when the last has ended; the same file need not wait."""
    groupPool = GroupPool()
    assert groupPool.isFree(PLACE, "a", 0.0)
    groupPool.reserve(PLACE, "a", 5.0)
    assert groupPool.isFree(PLACE, "a", 0.0)
    groupPool.reserve(PLACE, "a", 5.0)
    assert groupPool.isFree(OTHER, "b", 0.0)
    groupPool.unreserve(PLACE, 1.0)
    assert not groupPool.isFree(PLACE, "b", 100.0)
    groupPool.unreserve(PLACE, 100.0)
    assert [groupPool.isFree(PLACE, use, 104.9) for use in "ab"] == [True, False]
    assert groupPool.isFree(PLACE, "b", 105.0)


def test_poolAndFixed() -> None:
    """After a reload a fixed group may be one of the pool's: whoever was there first has it."""
    groupPool = GroupPool()
    groupPool.reserve(PLACE, "a", 0.0)
    assert groupPool.allocate((PLACE, OTHER), 0.0) == OTHER
    assert not groupPool.isFree(OTHER, "b", 0.0)
    groupPool.unreserve(PLACE, 1.0)
    assert groupPool.allocate((PLACE,), 1.0) == PLACE


def test_ofAnotherProcess() -> None:
    """What another process sent to a fixed group rests here as long as it would there, at another clock's time."""
    there, here = GroupPool(), GroupPool()
    there.reserve(PLACE, "a", 35.0)
    assert there.reservations(7.0) == [(PLACE, "a", 35.0)]
    there.unreserve(PLACE, 10.0)
    there.reserve(OTHER, "b", 35.0)
    assert there.reservations(15.0) == [(PLACE, "a", 30.0), (OTHER, "b", 35.0)]
    for place, use, seconds in there.reservations(15.0):
        here.quarantine(place, use, seconds, 1000.0)
    assert [here.isFree(PLACE, use, 1029.9) for use in "ab"] == [True, False]
    assert here.isFree(PLACE, "b", 1030.0)
    assert here.reservations(1030.0) == [(OTHER, "b", 5.0)]
