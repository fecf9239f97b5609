"""
Allocate group addresses: no two groups get the same address and port, and a new group does not get those of an old one
whose datagrams may still arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from ipaddress import IPv4Network
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, overload

if TYPE_CHECKING:
    from random import Random

#: A group's address and port.
Group: TypeAlias = tuple[str, int]

#: A group of a pool that is in use elsewhere is looked at again after so long.  Seconds.
LOOK_AGAIN = 1.0
#: How long an address of a pool is not allocated again after its group has ended: late datagrams must not reach the
#: next group.  Seconds.
REUSE_DELAY = 30.0


@dataclass(slots=True)
class _Reservation:
    """
    The use of a group that the service file fixes.

    @ivar use: identifies the file and its blocks, see L{GroupPool.isFree}.
    @ivar reuseDelay: how long after the last cast no other use may have the group.  Seconds.
    @ivar casts: how many casts send to the group now.
    @ivar until: the instant up to which no other use may have the group, once there are no casts.
    """

    use: str
    reuseDelay: float
    casts: int = 0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class GroupRange(Sequence[Group]):
    """
    The groups with the addresses of a network, at one port, from the lowest address on.

    @ivar network: multicast addresses.
    """

    network: IPv4Network
    port: int

    def __len__(self) -> int:
        return self.network.num_addresses

    @overload
    def __getitem__(self, at: int) -> Group: ...
    @overload
    def __getitem__(self, at: slice) -> list[Group]: ...
    def __getitem__(self, at: int | slice) -> Group | list[Group]:
        if isinstance(at, slice):
            return [self[each] for each in range(len(self))[at]]
        return str(self.network[at]), self.port


class _Vacancies:
    """
    Finds the lowest group of a pool that is free, without asking for each that is not.

    @ivar never: the lowest place in the pool that was never asked for; all above it were not, either.
    @ivar free: places below it that are free, or were when they were put here: a heap.
    @ivar later: the instants at which other places are to be looked at again: a heap.
    """

    __slots__ = ("free", "later", "never")

    def __init__(self) -> None:
        self.never = 0
        self.free: list[int] = []
        self.later: list[tuple[float, int]] = []

    def places(self, size: int, now: float) -> Iterator[int]:
        """Yield places that may be free, the lowest first; each is taken out, and has to be put back if it is not."""
        while self.later and self.later[0][0] <= now:
            heappush(self.free, heappop(self.later)[1])
        while self.free:
            yield heappop(self.free)
        while self.never < size:
            self.never += 1
            yield self.never - 1

    def lookAgain(self, place: int, when: float) -> None:
        """Look at this place again, from this instant on."""
        heappush(self.later, (when, place))


class GroupPool:
    """
    Keeps account of the groups of one server, for all its ports and transports.

    Groups of a pool are allocated and released.  A group that the service file fixes is reserved for a I{use}, one file
    in blocks of one size; each cast that sends this to the group makes a reservation.  A group that was released, or
    whose last reservation has ended, is quarantined for a while.
    """

    def __init__(self) -> None:
        self._allocated: set[Group] = set()
        self._quarantinedUntil: dict[Group, float] = {}
        self._vacancies: dict[Sequence[Group], _Vacancies] = {}
        self._poolOf: dict[Group, tuple[_Vacancies, int]] = {}
        self._reserved: dict[Group, _Reservation] = {}

    def isFree(self, group: Group, use: str | None, now: float) -> bool:
        """
        Find out whether a group may be reserved for a use now.

        @param use: identifies one file and its blocks, also in another process; L{None}: a use that differs from all
            others.
        """
        reserved = self._reserved.get(group)
        if reserved is not None and not reserved.casts and reserved.until <= now:
            del self._reserved[group]
            reserved = None
        return group not in self._allocated and (reserved is None or reserved.use == use)

    def reserve(self, group: Group, use: str, reuseDelay: float) -> None:
        """
        Reserve a group for a cast.  L{isFree} must have returned C{True} for this use.

        @param reuseDelay: how long after the last such cast no other use may have the group.  Seconds.
        """
        self._reserved.setdefault(group, _Reservation(use, reuseDelay)).casts += 1

    def unreserve(self, group: Group, now: float) -> None:
        """End the reservation that one cast has made."""
        reserved = self._reserved[group]
        reserved.casts -= 1
        reserved.until = now + reserved.reuseDelay

    def reservations(self, now: float) -> list[tuple[Group, str, float]]:
        """
        List the groups that are reserved or quarantined, for L{quarantine} in another process.

        @return: the group, its use, and for how many seconds it would be quarantined if its casts ended now.
        """
        return [
            (group, reserved.use, reserved.reuseDelay if reserved.casts else reserved.until - now)
            for group, reserved in self._reserved.items()
            if reserved.casts or reserved.until > now
        ]

    def quarantine(self, group: Group, use: str, seconds: float, now: float) -> None:
        """
        Keep a group for this use for so many seconds, as a process that has ended has sent it to that group.

        @param use: as for L{isFree}.
        """
        self._reserved[group] = _Reservation(use, seconds, until=now + seconds)

    def allocate(self, groups: Sequence[Group], now: float) -> Group | None:
        """
        Allocate the first of these groups that is free.  The cost does not grow with the groups that are taken.

        @param groups: the groups of one pool, hashable, and equal at each call for that pool: a L{GroupRange}, a tuple.
        @return: the group, or L{None} if none is free.
        """
        vacancies = self._vacancies.setdefault(groups, _Vacancies())
        taken: list[tuple[int, float]] = []
        found = None
        for place in vacancies.places(len(groups), now):
            group = groups[place]
            restsUntil = self._quarantinedUntil.get(group, now)
            if restsUntil <= now and self.isFree(group, None, now):
                self._quarantinedUntil.pop(group, None)
                self._allocated.add(group)
                self._poolOf[group] = vacancies, place
                found = group
                break
            taken.append((place, restsUntil if restsUntil > now else now + LOOK_AGAIN))
        for place, until in taken:
            vacancies.lookAgain(place, until)
        return found

    def release(self, group: Group, now: float) -> None:
        """Release an allocated group, and quarantine it for L{REUSE_DELAY}."""
        self._allocated.discard(group)
        # In the order in which their rest ends, but for those that another process has released.
        for other, until in list(islice(self._quarantinedUntil.items(), 2)):
            if until <= now:
                del self._quarantinedUntil[other]
        self._quarantinedUntil.pop(group, None)
        self._quarantinedUntil[group] = now + REUSE_DELAY
        if (pool := self._poolOf.pop(group, None)) is not None:
            pool[0].lookAgain(pool[1], now + REUSE_DELAY)

    def putBack(self, group: Group) -> None:
        """Put back a group that was allocated and never used: it is free at once."""
        self._allocated.discard(group)
        vacancies, place = self._poolOf.pop(group)
        heappush(vacancies.free, place)

    def quarantined(self, now: float) -> list[tuple[Group, float]]:
        """Return the released groups in quarantine, each with the seconds left, for L{adopt} in another process."""
        return [(group, until - now) for group, until in self._quarantinedUntil.items() if until > now]

    def adopt(self, allocated: Iterable[Group], quarantined: Iterable[tuple[Group, float]], now: float) -> None:
        """
        Take over what another process has allocated and quarantined.

        @param allocated: groups that it still uses; L{release} is to be called when one of them ends.
        @param quarantined: what L{quarantined} has returned there.
        """
        self._allocated.update(allocated)
        self._quarantinedUntil.update({group: now + seconds for group, seconds in quarantined})


class BorrowedGroups(GroupPool):
    """
    Finds out which group a pool would allocate: what is allocated here is put back when it is released, as if it had
    never been used.
    """

    def __init__(self, groups: GroupPool) -> None:
        super().__init__()
        self._groups = groups

    def isFree(self, group: Group, use: str | None, now: float) -> bool:
        """As L{GroupPool.isFree}."""
        return self._groups.isFree(group, use, now)

    def allocate(self, groups: Sequence[Group], now: float) -> Group | None:
        """As L{GroupPool.allocate}."""
        return self._groups.allocate(groups, now)

    def release(self, group: Group, now: float) -> None:
        """Put a group back, without a quarantine."""
        self._groups.putBack(group)


class OpenContext(NamedTuple):
    """
    Holds what a dialect needs to begin a cast, so that the dialect stays pure.

    @ivar now: the instant.
    @ivar random: the source of all randomness.
    @ivar groupPool: allocates group addresses.
    """

    now: float
    random: Random
    groupPool: GroupPool
