"""
Notice machines that were told what to boot and never fetched it.

It is for the log only: a direct answer names no address, so the first fetch of a name counts for the machine that has
waited longest for it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import islice, takewhile

#: Seconds that a machine has to begin its fetch.
FETCH_TIMEOUT = 30.0
#: The most machines that are waited for.
MOST_AWAITED = 1024


@dataclass(frozen=True, slots=True)
class Awaited:
    """
    One machine that was told what to boot.

    @ivar machine: its hardware address.
    @ivar name: the name of the file in the content.
    @ivar host: its address; L{None}: not known.
    @ivar form: the form of the answer.
    @ivar since: the instant of the last answer.
    """

    machine: str
    name: str
    host: str | None
    form: str
    since: float


class AwaitedFetches:
    """Holds the machines that are to fetch a file, the one that was answered longest ago first."""

    def __init__(self) -> None:
        self._awaited: OrderedDict[str, Awaited] = OrderedDict()
        #: How many are waited for, by the name of the file: most requests to a server are for other files.
        self._names: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._awaited)

    def add(self, told: Awaited) -> None:
        """Wait for a machine's fetch; an answer that it got before counts no more."""
        if told.machine in self._awaited:
            self._remove(told.machine)
        elif len(self._awaited) >= MOST_AWAITED:
            self._remove(next(iter(self._awaited)))
        self._awaited[told.machine] = told
        self._names[told.name] += 1

    def _remove(self, machine: str) -> Awaited:
        removed = self._awaited.pop(machine)
        self._names[removed.name] -= 1
        if not self._names[removed.name]:
            del self._names[removed.name]
        return removed

    def fetched(self, host: str, name: str) -> Awaited | None:
        """Return the machine that a request for a file is from, and wait for it no more; L{None}: it is from none."""
        if name not in self._names:
            return None
        same = [each for each in self._awaited.values() if each.name == name and each.host in (None, host)]
        found = next((each for each in same if each.host == host), same[0] if same else None)
        return None if found is None else self._remove(found.machine)

    def clear(self) -> None:
        """Wait for nobody any more."""
        self._awaited.clear()
        self._names.clear()

    def expired(self, now: float, most: int) -> list[Awaited]:
        """Return the machines whose time is over, so many at the most, and wait for them no more."""
        over = takewhile(lambda each: each.since + FETCH_TIMEOUT <= now, self._awaited.values())
        found = list(islice(over, most))
        for each in found:
            self._remove(each.machine)
        return found

    def deadline(self) -> float | None:
        """Return the instant at which to call L{expired}; L{None}: nobody is waited for."""
        first = next(iter(self._awaited.values()), None)
        return None if first is None else first.since + FETCH_TIMEOUT
