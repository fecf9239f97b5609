"""
Tell whether directories are there and can be searched, without waiting for their disks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from castd.files import athand
from castd.files.root import closeFd
from castd.files.threads import DiskThreads, RunInThread, Waiters, allWithin
from castd.slices import Slices

#: A disk that does not answer within so many seconds is not waited for.
PATIENCE = 0.25
#: The most directories that are looked for at once: each takes up to a tenth of a millisecond.
MOST_AT_ONCE = 32
#: What is wrong with a directory that cannot be found, or whose disk has failed.
MISSING = "is not there"


class Presence:
    """
    Tells whether one directory is there, and can be searched: else each request for a file in it is refused.
    """

    def __init__(self, path: str, clock: IReactorTime, thread: RunInThread | None = None) -> None:
        """
        @param thread: runs what waits for the disk; L{None}: a thread of its own.
        """
        self.path = path
        self._seconds = clock.seconds
        self._thread = thread or DiskThreads(1)
        self._found: str | None = None
        self._asked: Waiters[None] = Waiters()
        self._since: float | None = None

    def fault(self) -> str | None:
        """Return what is wrong with the directory, by the last L{look}; L{None}: nothing."""
        return "does not answer" if self._hangs() else self._found

    def look(self) -> Deferred[None]:
        """
        Look for the directory, unless somebody is looking.  -> fires when that is known; at once if the last look has
        waited for L{PATIENCE} seconds.
        """
        if self._hangs():
            return succeed(None)
        looked = self._asked.add()
        if self._since is None:
            self._since = self._seconds()
            if _isFineAtHand(self.path):
                self._looked(None)
            else:
                self._thread(partial(_faultOf, self.path)).addBoth(self._looked)
        return looked

    def _hangs(self) -> bool:
        return self._since is not None and self._seconds() >= self._since + PATIENCE

    def _looked(self, found: str | Failure | None) -> None:
        self._since, self._found = None, MISSING if isinstance(found, Failure) else found
        self._asked.fire(None)


def _isFineAtHand(path: str) -> bool:
    """Return whether nothing is wrong, by what the kernel has in memory; C{False}: something is, or who knows."""
    try:
        fd = athand.openat2(_inside(path), os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    if fd is None:
        return False
    closeFd(fd)
    return True


def _faultOf(path: str) -> str | None:
    """Return what is wrong with a directory.  This waits for the disk."""
    try:
        os.stat(_inside(path))
    except PermissionError:
        return "cannot be searched"
    except OSError:
        return MISSING
    return None


def _inside(path: str) -> bytes:
    """Return a path that leads to the same directory, and only who may search it can go."""
    return os.fsencode(path) + b"/."


def lookAt(presences: Sequence[Presence], clock: IReactorTime, slices: Slices | None = None) -> Deferred[None]:
    """
    Look for several directories.

    @param slices: looks for more than L{MOST_AT_ONCE} in slices; L{None}: they are looked for at once.
    @return: fires when all is known, but L{PATIENCE} seconds after the last one was looked for at the latest.
    """
    waited = list[Deferred[None]]()

    def look() -> Iterator[None]:
        for each in presences:
            looked = each.look()
            if not looked.called:
                waited.append(looked)
            yield None

    if slices is not None and len(presences) > MOST_AT_ONCE:
        return slices.run(look()).addCallback(lambda _: allWithin(waited, PATIENCE, clock))
    for _ in look():
        pass
    return allWithin(waited, PATIENCE, clock)
