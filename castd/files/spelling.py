"""
Find the names in directories that differ from another only by case.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TypeAlias

#: Names of all directories that are kept.
MOST_KEPT = 1_000_000
#: A directory is listed again until its last change is so many seconds ago: within that time another change might not
#: change its time.
SETTLED = 2.0
#: After so many names the thread lets others run.
SLICE = 1000

#: Device, inode, time of the last change in nanoseconds.
_Key: TypeAlias = tuple[int, int, int]
#: The names of a directory, by their form without case; those of one form in the order of their letters.
_Names: TypeAlias = Mapping[str, Sequence[str]]


class Spellings:
    """
    Keeps the names of directories, by their form without case, as long as the directories do not change.

    A directory of many names is listed once, and not for each request that misses.  The methods may be called in
    several threads at once, and wait for the disk.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        """
        @param most: names of all directories that are kept; the directory used last is kept in any case.
        """
        self._most = most
        self._kept: OrderedDict[_Key, _Names] = OrderedDict()
        self._names = 0
        self._lock = Lock()

    def find(self, directory: int, name: bytes) -> Sequence[bytes]:
        """
        Return the names that differ from this one only by case, in the order of their letters.

        @param directory: descriptor of the directory, open for reading.
        @raise OSError: it cannot be listed.
        """
        status = os.fstat(directory)
        key = status.st_dev, status.st_ino, status.st_mtime_ns
        with self._lock:
            names = self._kept.get(key)
            if names is not None:
                self._kept.move_to_end(key)
        if names is None:
            names = _namesOf(directory)
            if status.st_mtime < time.time() - SETTLED:
                self._keep(key, names)
        return [os.fsencode(each) for each in names.get(os.fsdecode(name).casefold(), ())]

    def _keep(self, key: _Key, names: _Names) -> None:
        with self._lock:
            self._names += _count(names) - _count(self._kept.pop(key, {}))
            self._kept[key] = names
            for old in [each for each in self._kept if each[:2] == key[:2] and each != key]:
                self._names -= _count(self._kept.pop(old))
            while self._names > self._most and len(self._kept) > 1:
                self._names -= _count(self._kept.popitem(last=False)[1])


def _count(names: _Names) -> int:
    return sum(map(len, names.values()))


def _namesOf(fd: int) -> _Names:
    """Return the names of a directory by their form without case."""
    found: dict[str, list[str]] = {}
    for number, name in enumerate(sorted(os.listdir(fd))):
        found.setdefault(name.casefold(), []).append(name)
        if not number % SLICE:
            time.sleep(0)
    return found
