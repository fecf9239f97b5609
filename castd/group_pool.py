"""
Allocate group addresses: never two groups on one address and port, nor a new one there while datagrams of an old one
may still be on their way.
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
#: next.  Seconds.
REUSE_DELAY = 30.0


@dataclass(slots=True)
class _Reservation:
    """
    The use of a group that the service file fixes.

    @ivar use: what is sent there.
    @ivar reuseDelay: how long nothing else may be sent there after the last cast.  Seconds.
    @ivar casts: how many casts send there now.
    @ivar until: the instant up to which nothing else may be sent there, once there are none.
    """

    use: str
    reuseDelay: float
    casts: int = 0
    until: float = 0.0


class GroupPool:
    """
    Knows the groups of one server, whatever port and transport they belong to.

    Groups of a pool are allocated and released.  Groups that the service file fixes are reserved for a use, which means
    one file in blocks of one size, by each of the casts that send it there.  A group that was released, or whose last
    reservation has ended, is quarantined for a while.
    """

    def __init__(self) -> None:
        self._allocated: set[Group] = set()
        self._quarantinedUntil: dict[Group, float] = {}
        self._reserved: dict[Group, _Reservation] = {}

    def isFree(self, group: Group, use: str | None, now: float) -> bool:
        """
        Find out whether a group may be reserved for a use now.

        @param use: what tells one file and its blocks from another, also to another process; L{None}: unlike any.
        """
        reserved = self._reserved.get(group)
        if reserved is not None and not reserved.casts and reserved.until <= now:
            del self._reserved[group]
            reserved = None
        return group not in self._allocated and (reserved is None or reserved.use == use)

    def reserve(self, group: Group, use: str, reuseDelay: float) -> None:
        """
        Reserve a group for a cast; it L{isFree} for that use.

        @param reuseDelay: how long nothing else may be sent there after the last such cast.  Seconds.
        """
        self._reserved.setdefault(group, _Reservation(use, reuseDelay)).casts += 1

    def unreserve(self, group: Group, now: float) -> None:
        """End the reservation of one cast."""
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
        """Let nothing but this use have a group for so long: another process, which is no more, has sent it there."""
        self._reserved[group] = _Reservation(use, seconds, until=now + seconds)

    def allocate(self, groups: Iterable[Group], now: float) -> Group | None:
        """
        Allocate the first of these groups that is free.

        @return: it, or L{None} if none is.
        """
        for group in groups:
            if self.isFree(group, None, now) and self._quarantinedUntil.get(group, now) <= now:
                self._quarantinedUntil.pop(group, None)
                self._allocated.add(group)
                return group
        return None

    def release(self, group: Group, now: float) -> None:
        """Take an allocated group back, and quarantine it for L{REUSE_DELAY}."""
        self._allocated.discard(group)
        self._quarantinedUntil = {other: until for other, until in self._quarantinedUntil.items() if until > now}
        self._quarantinedUntil[group] = now + REUSE_DELAY

    def quarantined(self, now: float) -> list[tuple[Group, float]]:
        """-> the released groups that are quarantined, each with the seconds that are left; for L{adopt} elsewhere."""
        return [(group, until - now) for group, until in self._quarantinedUntil.items() if until > now]

    def adopt(self, allocated: Iterable[Group], quarantined: Iterable[tuple[Group, float]], now: float) -> None:
        """
        Take over what another process has allocated and quarantined.

        @param allocated: groups that it still uses; each is given back with L{release} when it ends.
        @param quarantined: what its L{quarantined} has told.
        """
        self._allocated.update(allocated)
        self._quarantinedUntil.update({group: now + seconds for group, seconds in quarantined})


@dataclass(frozen=True, slots=True)
class OpenContext:
    """
    What a dialect is given to begin a cast with, so that it stays pure.

    @ivar now: the instant.
    @ivar random: where all randomness comes from.
    @ivar groupPool: the group addresses in use.
    """

    now: float
    random: Random
    groupPool: GroupPool
