"""
Find the names in directories that differ from another only by case.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import TypeAlias

#: Names of all directories that are kept.
MOST_KEPT = 1_000_000
#: Octets and names of the largest directory that is listed to tell an operator of a name in another case: some 25,000
#: files on ext4; other file systems give other sizes.
LARGEST_LISTED, MOST_LISTED = 1 << 20, 25_000
#: A directory is listed again until its last change is so many seconds ago: within that time another change might not
#: change its time.
SETTLED = 2.0
#: After so many names the thread lets others run.
SLICE = 1000

#: Device, inode, time of the last change in nanoseconds.
_Key: TypeAlias = tuple[int, int, int]
#: The names of a directory, by their form without case.
_Names: TypeAlias = Mapping[str, Sequence[str]]


def withoutCase(name: str) -> str:
    """
    Return the form that a name has in common with all that differ from it only by case: character by character, as the
    patterns of access rules ignore case.  C{str.casefold} would find C{config} for a name with the ligature C{fi}, of
    which a rule for C{config/**} knows nothing.
    """
    return name.lower() if name.isascii() else "".join(map(_characterWithoutCase, name))


@lru_cache(4096)
def _characterWithoutCase(character: str) -> str:
    forms = character.casefold(), character.lower(), character
    return next(form for form in forms if len(form) == 1)


class Spellings:
    """
    Keeps the names of directories, by their form without case, as long as the directories do not change.

    A directory of many names is listed once, and not for each request that misses.  The methods may be called in
    several threads at once, and wait for the disk.
    """

    def __init__(self, most: int = MOST_KEPT, largest: int | None = None) -> None:
        """
        @param most: names of all directories that are kept; the directory used last is kept in any case.
        @param largest: nothing is found in a directory of more names, and no more of it is read; L{None}: no bound.
        """
        self._most, self._largest = most, largest
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
            names = _namesOf(directory, self._largest)
            if status.st_mtime < time.time() - SETTLED:
                self._keep(key, names)
        return [os.fsencode(each) for each in sorted(names.get(withoutCase(os.fsdecode(name)), ()))]

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


def spelled(directory: int, part: bytes, spellings: Spellings | None) -> bytes | None:
    """
    Return a name in a directory: this one, or one that differs from it only by case.  Waits for the disk.

    @param directory: its descriptor, open for reading.
    @param spellings: finds the latter, unless the directory is too large; L{None}: only this name is meant.
    @return: L{None}: there is none, or the directory is too large.
    @raise OSError: the disk has failed.
    """
    with suppress(FileNotFoundError):
        os.stat(part, dir_fd=directory, follow_symlinks=False)
        return part
    if spellings is None or os.stat(directory).st_size > LARGEST_LISTED:
        return None
    return next(iter(spellings.find(directory, part)), None)


def _namesOf(fd: int, largest: int | None) -> _Names:
    """Return the names of a directory by their form without case; none if there are more than so many."""
    found: dict[str, list[str]] = {}
    listed = os.listdir(fd) if largest is None else _namesUpTo(fd, largest)
    # Not sorted: to sort 300,000 names is one call, and no other thread runs meanwhile.
    for number, name in enumerate(listed):
        found.setdefault(withoutCase(name), []).append(name)
        if not number % SLICE:
            time.sleep(0)
    return found


def _namesUpTo(fd: int, most: int) -> list[str]:
    """Return the names of a directory; none, and no more than so many are read, if there are more."""
    with os.scandir(fd) as entries:
        found = [entry.name for entry in islice(entries, most + 1)]
    return [] if len(found) > most else found
