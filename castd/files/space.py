"""
Keep space free on the disks that uploads are written to.

What uploads have announced and not yet written is set aside, on each disk for all directories on it: so no number of
uploads at once leaves less free than they may.
"""

from __future__ import annotations

import os
from threading import Lock
from weakref import WeakValueDictionary

from castd.errors import Full

_lock = Lock()


class _Disk:
    """
    Counts the octets that are set aside on one disk; it is forgotten with the last claim.
    """

    __slots__ = ("__weakref__", "setAside")

    def __init__(self) -> None:
        self.setAside = 0


_disks: WeakValueDictionary[int, _Disk] = WeakValueDictionary()


class SpaceClaim:
    """
    Sets space aside for one upload.  The methods may be called in several threads, but not two of one claim at once.
    """

    def __init__(self, device: int, directory: int, keepFree: int) -> None:
        """
        @param device: the device number of the disk.
        @param directory: descriptor of a directory on it.
        @param keepFree: octets to leave free.
        """
        with _lock:
            self._disk = _disks.setdefault(device, _Disk())
        self._directory, self._keepFree = directory, keepFree
        self._claimed = 0

    def setAside(self, octets: int) -> None:
        """
        Set so many octets aside, and look whether the disk has them.  This may wait for the disk.

        @raise Full: it has not.
        @raise OSError: it cannot be asked.
        """
        total = self._change(max(0, octets - self._claimed))
        space = os.fstatvfs(self._directory)
        if space.f_bavail * space.f_frsize < total + self._keepFree:
            raise Full(why="too little space left")

    def written(self, octets: int) -> None:
        """Note that so many octets were written: the disk has less free by as many."""
        self._change(-min(octets, self._claimed))

    def release(self) -> None:
        """Set nothing aside any more."""
        self._change(-self._claimed)

    def _change(self, octets: int) -> int:
        """Set more or less aside.  -> how much is for all uploads to this disk."""
        self._claimed += octets
        with _lock:
            self._disk.setAside += octets
            return self._disk.setAside
