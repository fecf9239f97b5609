"""
Keeps captures of transfers that failed in a folder, bounded by count and size, and by time.

What strangers cause cannot displace the captures of machines that have answered: each kind has half of the room.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime

from castd.files.private import openOwn

#: The captures of one machine in a period, and of all machines of one kind.
MOST_OF_MACHINE, MOST_OF_KIND = 3, 60
#: Length of the period.  Seconds.
PERIOD = 60.0

#: The names of captures; no other file of the folder is ever removed.
_NAME = re.compile(r"\d{8}T\d{9}Z-[0-9a-z_.%-]{1,80}-(?:heard|unheard)\.pcapng", re.ASCII | re.IGNORECASE)
#: How many characters of it are the time.
_TIME = len("20261126T031502123Z")
_UNHEARD = "-unheard.pcapng"
_UNFIT = re.compile(r"[^0-9A-Za-z.]", re.ASCII)


class CaptureRate:
    """
    Bounds how many captures are written in a period, of each machine and in all.

    Machines that have answered nothing count apart from those that have: a request of such a machine may be forged.
    """

    def __init__(self) -> None:
        self._since = float("-inf")
        self._written: dict[bool, Counter[str]] = {}

    def allows(self, address: str, heard: bool, now: float) -> bool:
        """Return whether a capture of this machine may be written now, and count it if so."""
        if not self._since <= now < self._since + PERIOD:
            self._since, self._written = now, {True: Counter(), False: Counter()}
        written = self._written[heard]
        if written[address] >= MOST_OF_MACHINE or written.total() >= MOST_OF_KIND:
            return False
        written[address] += 1
        return True


class CaptureFolder:
    """
    A folder of captures.  Its methods wait for the disk.

    @ivar path: the folder.
    """

    def __init__(self, path: str, files: int, size: int) -> None:
        """
        @param files: the most captures.
        @param size: the most octets of all captures.
        """
        self.path = path
        self._files, self._size = files, size

    def write(self, name: str, capture: bytes) -> str:
        """
        Write a capture, and remove the oldest of its kind that are too many.

        @return: its path.
        @raise OSError: it cannot be written; nothing of it is left then.
        """
        path = os.path.join(self.path, name)
        # First, so that a full disk gets room.
        self._makeRoom(name, len(capture))
        fd = openOwn(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
        try:
            with open(fd, "wb", buffering=0) as file:
                _writeAll(file.fileno(), capture)
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        return path

    def _makeRoom(self, wanted: str, octets: int) -> None:
        """@param wanted: the name that a capture of so many octets will get."""
        unheard = wanted.endswith(_UNHEARD)
        # Closed here: a disk that fails meanwhile would leave it open.
        with os.scandir(self.path) as entries:
            found = [
                (entry.name, entry.stat(follow_symlinks=False).st_size)
                for entry in entries
                if _NAME.fullmatch(entry.name) and entry.name.endswith(_UNHEARD) == unheard and _isFile(entry)
            ]
        # What seems to be later was written when the clock was ahead, or it is behind now.  In the order of their times
        # each new capture would be the oldest of a full folder, and would give way to the next one.
        found.sort(key=lambda each: (each[0][:_TIME] <= wanted[:_TIME], each))
        count, size = len(found) + 1, sum(each for _, each in found) + octets
        for name, each in found:
            if count <= self._files // 2 and size <= self._size // 2:
                return
            with suppress(FileNotFoundError):  # another process has removed it
                os.unlink(os.path.join(self.path, name))
            count, size = count - 1, size - each


def _isFile(entry: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _writeAll(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def captureName(when: float, address: str, port: int, outcome: str, heard: bool) -> str:
    """Return the name of a capture: time in UTC, address and port, how it ended, whether the machine has answered."""
    told = datetime.fromtimestamp(when, UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]
    host, word = _UNFIT.sub("_", address)[:50], _UNFIT.sub("_", outcome)[:20]
    return f"{told}Z-{host}-{port}-{word}-{'heard' if heard else 'unheard'}.pcapng"
