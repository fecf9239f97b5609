"""
Sends and receives a sequence of numbered blocks, without requests and timers: RFC 1350, windows as in RFC 7440
section 4.

Blocks are counted 1, 2, ... without a wrap here; the 16 bits on the wire stand for the number nearest to the expected
one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from castd.cast.window import SendWindow
from castd.errors import ContentChanged, Unsupported, WireError
from castd.packets.options import AgreedOptions
from castd.packets.tftp import DATA_HEADER, Data, buildData, dataHeader, unwrap, wire
from castd.receive.retransmit import RetransmitTimer

#: Octets at an offset: C{read(offset, length)}, fewer than C{length} only at the end.
Read: TypeAlias = Callable[[int, int], bytes]


class BlockReceiver:
    """
    Receives blocks in order, and decides when an ACK is due: at the end of a window, at the end of the file, at a gap.

    No block is kept, so that no datagram of a peer costs memory.

    @ivar stored: the number of the last block that was received in order.
    @ivar acked: the number of the last block that was acknowledged.
    @ivar final: the block C{stored} was the last one of the file.
    @ivar gapAcked: with windows, an unexpected block was answered since the last one was stored.
    @ivar rollover: the number after 65535.
    """

    __slots__ = ("_terms", "acked", "final", "gapAcked", "rollover", "stored")

    def __init__(self, terms: AgreedOptions) -> None:
        self._terms = terms
        self.acked = 0
        self.gapAcked = False
        self.stored = 0
        self.final = False
        self.rollover = terms.rollover

    def receive(self, data: Data, ackAgain: bool = True) -> tuple[bytes | None, bool]:
        """
        Receive a block.

        @param ackAgain: whether a block that is stored already may be acknowledged again now.
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
            return None, (ackAgain or number > self.stored) and self._ackDueAgain(number)
        self.stored = number
        self.gapAcked = False
        self.final = len(data.payload) < self._terms.blksize
        return (
            data.payload,
            not self.final and number - self.acked >= self._terms.windowsize,
        )

    def expected(self) -> tuple[bytes, int] | None:
        """Return header and octets of the next DATA, if it is not the last one; L{None}: none comes any more."""
        if self.final:
            return None
        return dataHeader(wire(self.stored + 1, self.rollover)), DATA_HEADER + self._terms.blksize

    def advance(self) -> bool:
        """Receive the block that is L{expected}.  -> whether an ACK is due now."""
        self.stored += 1
        self.gapAcked = False
        return self.stored - self.acked >= self._terms.windowsize

    def _ackDueAgain(self, number: int) -> bool:
        """
        Return whether the last ACK is due again for a block that is not the next one.

        Without windows, only the last block is acknowledged again, each time it comes.  With windows, any unexpected
        block shows a gap or a lost ACK.  Only the first one is answered: the rest of its window shows the same.
        """
        if self._terms.windowsize == 1 or self.final:
            return number == self.stored
        acked, self.gapAcked = self.gapAcked, True
        return not acked

    def acknowledge(self) -> int:
        """
        Return the 16 bits of the ACK for all blocks received.  The sender's next window begins behind it.
        """
        self.acked = self.stored
        return wire(self.stored, self.rollover)


class BlockSender:
    """
    Sends a sequence of blocks, a window at a time.

    A duplicate ACK never causes a block (RFC 1123 section 4.2.3.1), with one exception: a receiver that misses the
    first block of a window can only repeat its last ACK, and is answered once.  L{castd.cast.window} finds out which
    ACKs say so.

    @ivar done: the last block was acknowledged.
    @ivar base: the first block that was not acknowledged.
    """

    __slots__ = ("_acks", "_last", "_read", "_resent", "_size", "_terms", "base", "done")

    def __init__(self, terms: AgreedOptions, size: int, read: Read) -> None:
        self._terms = terms
        self._size = size
        self._read = read
        # The last block is shorter than the others, if need be empty: so the receiver detects the end of the file.
        self._last = size // terms.blksize + 1
        self._acks = SendWindow()
        self._resent = False
        self.base = 1
        self.done = False

    def window(self, now: float) -> list[bytes]:
        """
        Return the DATA from C{base} on, as many as one window has.

        @raise ContentChanged: the file has become shorter.
        """
        return self._send(self.base, now)

    def _send(self, start: int, now: float, again: bool = False) -> list[bytes]:
        """Return the DATA from this block on to the end of the window."""
        numbers = range(start, min(self.base + self._terms.windowsize, self._last + 1))
        self._resent = again
        if numbers:
            self._acks.sent(numbers, now, again)
        return [self._data(number) for number in numbers]

    def _data(self, number: int) -> bytes:
        start = (number - 1) * self._terms.blksize
        # No more than that: a file that grows, as a log does, ends where it ended at the begin.
        length = min(self._terms.blksize, self._size - start)
        payload = self._read(start, length)
        if len(payload) != length:
            # The receiver would take a short block in the middle for the end of the file.
            raise ContentChanged
        return buildData(wire(number, self._terms.rollover), payload)

    def resend(self, now: float) -> list[bytes]:
        """Return the DATA of the window once more, which was not acknowledged in time."""
        self._acks.sentAgain(timer=True)
        return self._send(self.base, now, again=True)

    def acknowledged(self, short: int, now: float, timer: RetransmitTimer) -> list[bytes]:
        """
        Receive an ACK.

        @param short: the 16 bits of the block number.
        @param timer: is told of progress, with the round-trip time that the ACK gives.
        @return: the DATA to send now.
        """
        number = unwrap(short, self.base, self._terms.rollover) + 1
        if self.base < number <= self._acks.sentStop:
            return self._progress(number, now, timer)
        isWindow = self._acks.sentStop - self.base > 1
        if number == self.base and isWindow and self._acks.firstLost(number, now, timer.shortestRoundTrip):
            self._acks.sentAgain(timer=False)
            return self._send(self.base, now)
        return []

    def _progress(self, number: int, now: float, timer: RetransmitTimer) -> list[bytes]:
        """Return the DATA to send after an ACK of blocks of the window; C{number} is the block that it asks for."""
        lossShown = self._resent and number < self._acks.sentStop
        timer.answered(now, self._acks.measured(number, now, timer.shortestRoundTrip), lossShown)
        start = self._acks.advanced(self.base, number, now, timer.shortestRoundTrip)
        self.base = number
        self.done = number > self._last
        return self._send(start, now)
