"""
Which group addresses are in use, and which may not be used again yet: never two groups on one address and port.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from random import Random

#: A group's address and port.
Place: TypeAlias = tuple[str, int]

#: How long an address is left alone after its group has ended: late datagrams must not reach the next.  Seconds.
REST = 30.0


@dataclass(slots=True)
class _Fixed:
    """
    What is sent to a fixed group, by how many casts, how long nothing else may be once there are none, and until when.
    """

    use: str
    rest: float
    casts: int = 0
    until: float = 0.0


class GroupPool:
    """
    The groups of one server, whatever port and transport they belong to: those of a pool, which are taken and given
    back, and those that the service file fixes, which casts of the same file may enter.
    """

    def __init__(self) -> None:
        self._taken: set[Place] = set()
        self._restUntil: dict[Place, float] = {}
        self._fixed: dict[Place, _Fixed] = {}

    def free(self, place: Place, use: str | None, now: float) -> bool:
        """
        May this be sent to a fixed group now?

        @param use: what tells one file and its blocks from another, also to another process; L{None}: unlike any.
        """
        here = self._fixed.get(place)
        if here is not None and not here.casts and here.until <= now:
            del self._fixed[place]
            here = None
        return place not in self._taken and (here is None or here.use == use)

    def enter(self, place: Place, use: str, rest: float) -> None:
        """
        A cast sends this to a fixed group that is L{free} for it.

        @param rest: how long nothing else may be sent there after the last such cast.  Seconds.
        """
        self._fixed.setdefault(place, _Fixed(use, rest)).casts += 1

    def leave(self, place: Place, now: float) -> None:
        """It has ended."""
        here = self._fixed[place]
        here.casts -= 1
        here.until = now + here.rest

    def used(self, now: float) -> list[tuple[Place, str, float]]:
        """-> the fixed groups, what was sent there, and the seconds that it rests, or will; for L{rest} elsewhere."""
        return [
            (place, here.use, here.rest if here.casts else here.until - now)
            for place, here in self._fixed.items()
            if here.casts or here.until > now
        ]

    def rest(self, place: Place, use: str, seconds: float, now: float) -> None:
        """Another process has sent this to a fixed group, and is no more."""
        self._fixed[place] = _Fixed(use, seconds, until=now + seconds)

    def take(self, places: Iterable[Place], now: float) -> Place | None:
        """-> the first of these that is free, taken from now on; L{None}: none is."""
        for place in places:
            if self.free(place, None, now) and self._restUntil.get(place, now) <= now:
                self._restUntil.pop(place, None)
                self._taken.add(place)
                return place
        return None

    def give(self, place: Place, now: float) -> None:
        """The group has ended; the address rests."""
        self._taken.discard(place)
        self._restUntil = {other: until for other, until in self._restUntil.items() if until > now}
        self._restUntil[place] = now + REST

    def told(self, now: float) -> list[tuple[Place, float]]:
        """-> the addresses that rest, each with the seconds that are left; for L{heed} of another process."""
        return [(place, until - now) for place, until in self._restUntil.items() if until > now]

    def heed(self, taken: Iterable[Place], resting: Iterable[tuple[Place, float]], now: float) -> None:
        """Another process still has these groups, or had; a group of it that ends is given back here with L{give}."""
        self._taken.update(taken)
        self._restUntil.update({place: now + seconds for place, seconds in resting})


@dataclass(frozen=True, slots=True)
class OpenContext:
    """
    What a dialect is handed to begin a cast with, so that it stays pure.

    @ivar now: the instant.
    @ivar chance: where all chance comes from.
    @ivar groupPool: the group addresses in use.
    """

    now: float
    chance: Random
    groupPool: GroupPool
