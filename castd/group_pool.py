"""
Allocate group addresses: no two groups get the same address and port, and a new group does not get those of an old one
whose datagrams may still arrive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from random import Random

#: A group's address and port.
Group: TypeAlias = tuple[str, int]

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

    def allocate(self, groups: Iterable[Group], now: float) -> Group | None:
        """
        Allocate the first of these groups that is free.

        @return: the group, or L{None} if none is free.
        """
        for group in groups:
            if self.isFree(group, None, now) and self._quarantinedUntil.get(group, now) <= now:
                self._quarantinedUntil.pop(group, None)
                self._allocated.add(group)
                return group
        return None

    def release(self, group: Group, now: float) -> None:
        """Release an allocated group, and quarantine it for L{REUSE_DELAY}."""
        self._allocated.discard(group)
        self._quarantinedUntil = {other: until for other, until in self._quarantinedUntil.items() if until > now}
        self._quarantinedUntil[group] = now + REUSE_DELAY

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


@dataclass(frozen=True, slots=True)
class OpenContext:
    """
    Holds what a dialect needs to begin a cast, so that the dialect stays pure.

    @ivar now: the instant.
    @ivar random: the source of all randomness.
    @ivar groupPool: allocates group addresses.
    """

    now: float
    random: Random
    groupPool: GroupPool
