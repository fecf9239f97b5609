"""
Find the names in directories that differ from another only by case.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping
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
        self._kept: OrderedDict[_Key, Mapping[str, str]] = OrderedDict()
        self._names = 0
        self._lock = Lock()

    def find(self, directory: int, name: bytes) -> bytes | None:
        """
        Return the first name, in the order of their letters, that differs from this one only by case; L{None}: none.

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
        found = names.get(os.fsdecode(name).casefold())
        return None if found is None else os.fsencode(found)

    def _keep(self, key: _Key, names: Mapping[str, str]) -> None:
        with self._lock:
            self._names += len(names) - len(self._kept.pop(key, ()))
            self._kept[key] = names
            for old in [each for each in self._kept if each[:2] == key[:2] and each != key]:
                self._names -= len(self._kept.pop(old))
            while self._names > self._most and len(self._kept) > 1:
                self._names -= len(self._kept.popitem(last=False)[1])


def _namesOf(fd: int) -> Mapping[str, str]:
    """Return the names of a directory by their form without case; of several the first in the order of letters."""
    found: dict[str, str] = {}
    for number, name in enumerate(os.listdir(fd)):
        folded = name.casefold()
        if name < found.get(folded, name + "\0"):
            found[folded] = name
        if not number % SLICE:
            time.sleep(0)
    return found
