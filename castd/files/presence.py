"""
Tell whether directories are there, without waiting for their disks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from castd.files import athand
from castd.files.root import closeFd
from castd.files.threads import DiskThreads, RunInThread, allWithin

#: A disk that does not answer within so many seconds is not waited for.
PATIENCE = 0.25


class Presence:
    """
    Tells whether one directory is there.
    """

    def __init__(self, path: str, clock: IReactorTime, thread: RunInThread | None = None) -> None:
        """
        @param thread: runs what waits for the disk; L{None}: a thread of its own.
        """
        self.path = path
        self._seconds = clock.seconds
        self._thread = thread or DiskThreads(1)
        self._there = True
        self._asked: list[Deferred[None]] = []
        self._since: float | None = None

    def fault(self) -> str | None:
        """Return what is wrong with the directory, by the last L{look}; L{None}: it is there."""
        if self._since is not None and self._seconds() >= self._since + PATIENCE:
            return "does not answer"
        return None if self._there else "is not there"

    def look(self) -> Deferred[None]:
        """Look for the directory, unless somebody is looking.  -> fires when that is known."""
        looked: Deferred[None] = Deferred()
        self._asked.append(looked)
        if self._since is None:
            self._since = self._seconds()
            there = _isThereAtHand(self.path)
            if there is not None:
                self._looked(there)
            else:
                self._thread(partial(os.path.isdir, self.path)).addBoth(self._looked)
        return looked

    def _looked(self, there: bool | Failure) -> None:
        self._since, self._there = None, there is True
        asked, self._asked = self._asked, []
        for each in asked:
            if not each.called:
                each.callback(None)


def _isThereAtHand(path: str) -> bool | None:
    """Return whether there is a directory, by what the kernel has in memory; L{None}: the disk has to be asked."""
    try:
        fd = athand.openat2(os.fsencode(path), os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    if fd is None:
        return None
    closeFd(fd)
    return True


def lookAt(presences: Iterable[Presence], clock: IReactorTime) -> Deferred[None]:
    """Look for several directories.  -> fires when all is known, but after L{PATIENCE} seconds at the latest."""
    return allWithin([each.look() for each in presences], PATIENCE, clock)
