"""
Sends and receives a sequence of numbered blocks, without requests and timers: RFC 1350, windows as in RFC 7440
section 4.

Blocks are counted 1, 2, ... without a wrap here; the 16 bits on the wire stand for the number nearest to the expected
one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from castd.errors import ContentChanged, Unsupported, WireError
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Data, buildData, unwrap, wire

#: Octets at an offset: C{read(offset, length)}, fewer than C{length} only at the end.
Read: TypeAlias = Callable[[int, int], bytes]


class BlockReceiver:
    """
    Receives blocks in order, and decides when an ACK is due: at the end of a window, at the end of the file, at a gap.

    No block is kept, so that no datagram of a peer costs memory.

    @ivar stored: the number of the last block that was received in order.
    @ivar final: the block C{stored} was the last one of the file.
    @ivar rollover: the number after 65535.
    """

    __slots__ = ("_acked", "_gapAcked", "_terms", "final", "rollover", "stored")

    def __init__(self, terms: AgreedOptions) -> None:
        self._terms = terms
        self._acked = 0
        self._gapAcked = False
        self.stored = 0
        self.final = False
        self.rollover = terms.rollover

    def receive(self, data: Data) -> tuple[bytes | None, bool]:
        """
        Receive a block.

        @return: (its payload if it is the next one, whether an ACK is due now).
        @raise WireError: no block can have this number.
        @raise Unsupported: the block has more octets than were agreed on.
        """
        number = unwrap(data.number, self.stored + 1, self.rollover)
        if number < 1:
            raise WireError(f"DATA {data.number} is no block")
        if len(data.payload) > self._terms.blksize:
            raise Unsupported(why=f"a block of {len(data.payload)} octets where {self._terms.blksize} were agreed on")
        if number != self.stored + 1 or self.final:
            return None, self._ackDueAgain(number)
        self.stored = number
        self._gapAcked = False
        self.final = len(data.payload) < self._terms.blksize
        return (
            data.payload,
            not self.final and number - self._acked >= self._terms.windowsize,
        )

    def _ackDueAgain(self, number: int) -> bool:
        """
        Return whether the last ACK is due again for a block that is not the next one.

        Without windows, only the last block is acknowledged again, each time it comes.  With windows, any unexpected
        block shows a gap or a lost ACK.  Only the first one is answered: the rest of its window shows the same.
        """
        if self._terms.windowsize == 1 or self.final:
            return number == self.stored
        acked, self._gapAcked = self._gapAcked, True
        return not acked

    def acknowledge(self) -> int:
        """
        Return the 16 bits of the ACK for all blocks received.  The sender's next window begins behind it.
        """
        self._acked = self.stored
        return wire(self.stored, self.rollover)


class BlockSender:
    """
    Sends a sequence of blocks, a window at a time.

    A duplicate ACK never causes a block (RFC 1123 section 4.2.3.1), with one exception: a receiver that misses the
    first block of a window can only repeat its last ACK, and is answered once.

    @ivar done: the last block was acknowledged.
    @ivar base: the first block that was not acknowledged.
    @ivar fresh: no block of the last window had been sent before.
    """

    __slots__ = (
        "_highest",
        "_last",
        "_next",
        "_read",
        "_resent",
        "_size",
        "_terms",
        "base",
        "done",
        "fresh",
    )

    def __init__(self, terms: AgreedOptions, size: int, read: Read) -> None:
        self._terms = terms
        self._size = size
        self._read = read
        # The last block is shorter than the others, if need be empty: so the receiver detects the end of the file.
        self._last = size // terms.blksize + 1
        self._resent = False
        self.base = self._next = 1
        self._highest = 0
        self.done = False
        self.fresh = True

    def window(self) -> list[bytes]:
        """
        Return the DATA from C{base} on, as many as one window has.

        @raise ContentChanged: the file has become shorter.
        """
        self._next = min(self.base + self._terms.windowsize, self._last + 1)
        self.fresh = self.base > self._highest
        self._highest = max(self._highest, self._next - 1)
        return [self._data(number) for number in range(self.base, self._next)]

    def _data(self, number: int) -> bytes:
        start = (number - 1) * self._terms.blksize
        payload = self._read(start, self._terms.blksize)
        if len(payload) != min(self._terms.blksize, self._size - start):
            # The receiver would take a short block in the middle for the end of the file.
            raise ContentChanged
        return buildData(wire(number, self._terms.rollover), payload)

    def resend(self) -> list[bytes]:
        """Return the DATA of the window once more, which was not acknowledged in time."""
        self._resent = True
        return self.window()

    def acknowledged(self, short: int) -> tuple[bool, list[bytes]]:
        """
        Receive an ACK.

        @param short: the 16 bits of the block number.
        @return: (whether the ACK is progress, the DATA to send now).
        """
        number = unwrap(short, self.base, self._terms.rollover)
        if self.base <= number < self._next:
            self.base = number + 1
            self._resent = False
            self.done = number == self._last
            return True, [] if self.done else self.window()
        if number == self.base - 1 and self._terms.windowsize > 1 and not self._resent:
            return False, self.resend()
        return False, []
