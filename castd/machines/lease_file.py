"""
Read the lease file of a DHCP server when it has changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from castd.machines.leases import Lease, parseLeases
from castd.machines.options import LeaseFileOptions

#: Octets that are read of a lease file: those at its end, where the newest leases are.
MOST_OCTETS = 16 << 20


class _FileVersion(NamedTuple):
    """
    Holds what every change of a file's content changes: nobody can set the time of the inode's last change, as C{cp -p}
    sets that of the content.
    """

    inode: int
    size: int
    mtime: int
    ctime: int


class LeaseFile:
    """
    Reads one lease file when it has changed.  The methods are called in one thread at a time.
    """

    def __init__(self, options: LeaseFileOptions) -> None:
        self._options = options
        self._version: _FileVersion | None = None
        self._leases: Mapping[str, Lease] = {}

    def read(self) -> Mapping[str, Lease]:
        """
        Return the leases by address.

        @raise OSError: the file cannot be read.
        """
        with Path(self._options.path).open("rb") as file:
            status = os.fstat(file.fileno())
            version = _FileVersion(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if version != self._version:
                head = file.readline(4096)
                skipped = max(0, status.st_size - MOST_OCTETS)
                file.seek(skipped)
                # Columns stand in the first line; of the line that is cut nothing is read.
                text = (head + file.readline() if skipped else b"") + file.read(MOST_OCTETS)
                self._leases = parseLeases(text.decode("utf-8", "replace"), self._options.format)
                self._version = version
        return self._leases
