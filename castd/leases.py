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


class Leases:
    """
    The groups of one server, whatever transport they belong to.
    """

    def __init__(self) -> None:
        self._taken: set[Place] = set()
        self._restUntil: dict[Place, float] = {}

    def take(self, places: Iterable[Place], now: float) -> Place | None:
        """-> the first of these that is free, taken from now on; L{None}: none is."""
        for place in places:
            if place not in self._taken and self._restUntil.get(place, now) <= now:
                self._restUntil.pop(place, None)
                self._taken.add(place)
                return place
        return None

    def give(self, place: Place, now: float) -> None:
        """The group has ended; the address rests."""
        self._taken.discard(place)
        self._restUntil = {other: until for other, until in self._restUntil.items() if until > now}
        self._restUntil[place] = now + REST


@dataclass(frozen=True, slots=True)
class Means:
    """
    What a dialect is handed to begin a cast with, so that it stays pure.

    @ivar now: the instant.
    @ivar chance: where all chance comes from.
    @ivar leases: the group addresses in use.
    """

    now: float
    chance: Random
    leases: Leases
