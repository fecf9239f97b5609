"""
Draw random numbers from the system, many octets at a time.
"""

from __future__ import annotations

import os
from random import Random
from struct import unpack

#: Octets read from the system at a time; a call for each number would cost more than the rest of a request.
PIECE = 4096
#: Random bits of a float: those of its mantissa; and the least float that is drawn, but 0.
_BITS, _UNIT = 53, 2.0**-53
#: Octets of an integer of 64 bits.
_LONG = 8


class BufferedSystemRandom(Random):
    """
    Draws numbers as unpredictable as those of C{random.SystemRandom}: the port numbers of client and server are the
    only secret of a transfer.
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
        """Return a float from 0 up to 1."""
        if not self._floats:
            # Each timer needs one, so a few hundred are made at a time.
            longs = unpack(f"={PIECE // _LONG}Q", os.urandom(PIECE))
            self._floats = [(each >> 64 - _BITS) * _UNIT for each in longs]
        return self._floats.pop()

    def getrandbits(self, k: int, /) -> int:
        """Return an integer of C{k} random bits."""
        count = (k + 7) // 8
        return int.from_bytes(self._octets(count), "big") >> (count * 8 - k)

    def seed(self, *args: object, **kwargs: object) -> None:
        """Do nothing: there is nothing to seed."""
