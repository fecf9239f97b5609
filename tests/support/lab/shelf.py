"""The files that castd serves in these tests: the sizes where servers stumble, always with the same content."""

from __future__ import annotations

import random
from pathlib import Path

SIZES = (0, 1, 511, 512, 513, 1024 * 1024)
ROLLOVER = 65536 * 512 + 1000
"""Octets whose blocks of 512 need numbers beyond 65535."""


class Shelf:
    """
    A directory of files, known by heart.

    @ivar root: the directory to serve.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, bytes] = {}
        for size in SIZES:
            self.sized(size)

    def sized(self, size: int) -> str:
        """@return: the name of the file that has as many octets."""
        name = f"size-{size}"
        if name not in self._known:
            self.add(name, random.Random(size).randbytes(size))
        return name

    def add(self, name: str, data: bytes) -> str:
        (self.root / name).write_bytes(data)
        self._known[name] = data
        return name

    def __getitem__(self, name: str) -> bytes:
        return self._known[name]
