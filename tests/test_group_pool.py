"""
Whose group is whose.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from castd.group_pool import LOOK_AGAIN, REUSE_DELAY, Group, GroupPool, GroupRange

PLACE, OTHER = ("239.255.1.1", 3001), ("239.255.1.2", 3001)


def test_pool() -> None:
    """A group of a pool is nobody else's while it is taken, nor for a while after."""
    groupPool = GroupPool()
    assert [groupPool.allocate((PLACE, OTHER), 0.0) for _ in range(3)] == [PLACE, OTHER, None]
    groupPool.release(PLACE, 10.0)
    assert groupPool.allocate((PLACE, OTHER), 10.0 + REUSE_DELAY - 0.1) is None
    assert groupPool.allocate((PLACE, OTHER), 10.0 + REUSE_DELAY) == PLACE


def test_anotherPool() -> None:
    """A group that was released rests for every pool that has it, also in another process and by another clock."""
    there, here = GroupPool(), GroupPool()
    assert there.allocate((PLACE,), 0.0) == PLACE
    there.release(PLACE, 10.0)
    assert there.allocate((PLACE, OTHER), 11.0) == OTHER
    here.adopt((OTHER,), there.quarantined(20.0), 1000.0)
    rest = REUSE_DELAY - 10.0
    assert [here.allocate((PLACE, OTHER), 1000.0 + later) for later in (0.0, rest - 0.1)] == [None, None]
    assert here.allocate((PLACE, OTHER), 1000.0 + rest) == PLACE


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


@given(
    st.lists(
        st.tuples(st.sampled_from(["allocate", "release", "reserve", "unreserve"]), st.integers(0, 20)), max_size=60
    )
)
def test_lowest(steps: list[tuple[str, int]]) -> None:
    """Whatever was taken and given back, in whatever order, the lowest group that is free is allocated."""
    addresses = GroupRange(IPv4Network("239.255.1.0/30"), 3001)
    pool, now = GroupPool(), 0.0
    allocated: list[Group] = []
    resting: dict[Group, float] = {}
    reserved: list[Group] = []
    everReserved = False
    for action, amount in steps:
        now += amount
        if action == "allocate":
            free = [each for each in addresses if each not in (*allocated, *reserved) and resting.get(each, 0) <= now]
            found = pool.allocate(addresses, now)
            if found is not None:
                assert found in free
                allocated.append(found)
            if not everReserved:
                assert found == (free[0] if free else None)
        elif action == "release" and allocated:
            group = allocated.pop(amount % len(allocated))
            pool.release(group, now)
            resting[group] = now + REUSE_DELAY
        elif action == "reserve" and pool.isFree(group := addresses[amount % 4], "a", now):
            pool.reserve(group, "a", 0.0)
            reserved.append(group)
            everReserved = True
        elif action == "unreserve" and reserved:
            pool.unreserve(reserved.pop(), now)


def test_afterFixed() -> None:
    """A group of the pool that a fixed one had is found again within a second of its end."""
    addresses, pool = GroupRange(IPv4Network("239.255.1.0/31"), 3001), GroupPool()
    pool.reserve(addresses[0], "a", 0.0)
    assert pool.allocate(addresses, 0.0) == addresses[1]
    assert pool.allocate(addresses, 0.5) is None
    pool.unreserve(addresses[0], 0.6)
    assert pool.allocate(addresses, 0.5 + LOOK_AGAIN) == addresses[0]


def test_range() -> None:
    """The groups of a network have its addresses in order, at one port."""
    addresses = GroupRange(IPv4Network("239.255.1.0/30"), 3001)
    assert list(addresses) == [(f"239.255.1.{place}", 3001) for place in range(4)]
    assert addresses[1:3] == [addresses[1], addresses[2]]


class Counted(GroupPool):
    """A pool that counts how often it has looked at a group."""

    looks = 0

    def isFree(self, group: Group, use: str | None, now: float) -> bool:
        self.looks += 1
        return super().isFree(group, use, now)


def test_flat() -> None:
    """Where thousands of groups are taken, one more costs the same as the first."""
    addresses, pool = GroupRange(IPv4Network("239.192.0.0/16"), 3001), Counted()
    for number in range(5000):
        pool.allocate(addresses, number / 100)
    assert pool.looks == 5000
    for place in range(5000):
        pool.release(addresses[place], 60.0)
    assert pool.allocate(addresses, 61.0) == addresses[5000]
    assert pool.allocate(addresses, 60.0 + REUSE_DELAY) == addresses[0]
    assert pool.looks == 5002
