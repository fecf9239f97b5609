"""Tell which files and sockets a test opened and left open, whatever else this process closes meanwhile."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress


def openFiles() -> list[str]:
    """Return what each descriptor of this process leads to: a path, or C{socket:[…]} and the like with its number."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


class Descriptors:
    """
    What this process has open now, to be compared with later.

    A bare count is no measure: what an earlier test left to the garbage collector is closed at any time, so that a
    count falls, or hides a descriptor that is left.
    """

    def __init__(self) -> None:
        self._before = Counter(openFiles())

    def left(self) -> list[str]:
        """Return what is open now and was not then."""
        return sorted((Counter(openFiles()) - self._before).elements())
