"""
BufferedSystemRandom: the system's random numbers, fetched in larger pieces.
"""

from __future__ import annotations

import os
from random import Random
from struct import unpack

#: Octets asked of the system at a time; a call for each number would cost more than the rest of a request.
PIECE = 4096
#: The largest integer that a float holds exactly, as bits; and numbers of 64 bits.
_BITS = 53
_LONG = 8


class BufferedSystemRandom(Random):
    """
    Draws numbers as unpredictable as those of C{random.SystemRandom}: with the client's port, the server's port is a
    transfer's only secret.
    """

    _pool = b""
    _used = 0

    def __init__(self) -> None:
        super().__init__()
        self._floats: list[float] = []

    def _octets(self, count: int) -> bytes:
        if self._used + count > len(self._pool):
            self._pool, self._used = os.urandom(max(PIECE, count)), 0
        self._used += count
        return self._pool[self._used - count : self._used]

    def random(self) -> float:
        """-> a float from 0 up to 1."""
        if not self._floats:
            # Each timer takes one, so they are made a few hundred at a time.
            longs = unpack(f"={PIECE // _LONG}Q", os.urandom(PIECE))
            self._floats = [(each >> 64 - _BITS) / (1 << _BITS) for each in longs]
        return self._floats.pop()

    def getrandbits(self, k: int, /) -> int:
        """-> an integer of C{k} random bits."""
        count = (k + 7) // 8
        return int.from_bytes(self._octets(count), "big") >> (count * 8 - k)

    def seed(self, *args: object, **kwargs: object) -> None:
        """Do nothing: there is nothing to seed."""
