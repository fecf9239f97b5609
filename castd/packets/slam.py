"""
Read and build SLAM's packets: packed integers, the header, lists of missing blocks.

There was never a specification; what follows agrees with Etherboot's client and C{mini-slamd} of 2002 and with iPXE's
client of 2008 and later, octet by octet.  Nothing says what kind of packet a datagram is: direction and destination do.
Lists and the disconnect go to the server, status requests to one client, data to the group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from castd.errors import WireError

#: The largest integer of the wire: seven octets, three bits of them the length.
LARGEST = (1 << 53) - 1
#: The largest integer that clients built for 32 bits can read; the transaction is skipped unread and may be larger.
LARGEST_32 = (1 << 29) - 1
#: The longest list that any client sends, and the largest datagram that Etherboot takes.
LARGEST_DATAGRAM = 1472
#: Three integers of seven octets: what both clients keep of a header.
LARGEST_HEADER = 21
#: What a client says when it leaves.
DISCONNECT = b"\0"
#: What every client says first, before it has seen a header: no block received, one missing.
FIRST_LIST = b"\x20\x21\0"


def pack(value: int) -> bytes:
    """
    Build the shortest form of an integer: big-endian, the number of octets in the top three bits of the first.

    @raise ValueError: negative, or above L{LARGEST}.
    """
    if not 0 <= value <= LARGEST:
        raise ValueError(f"{value} is not a number of at most 53 bits")
    length = (value.bit_length() + 10) // 8
    return (length << 8 * length - 3 | value).to_bytes(length, "big")


def unpack(datagram: bytes, at: int) -> tuple[int, int]:
    """
    Read the integer that begins at C{at}; longer forms than needed are accepted, as all decoders do.

    @return: its value, and where the next thing begins.
    @raise WireError: there is no integer, or it runs past the end.
    """
    length = datagram[at] >> 5 if at < len(datagram) else 0
    if not length:
        raise WireError("no integer where one was due")
    end = at + length
    if end > len(datagram):
        raise WireError("an integer runs past the end")
    return int.from_bytes(datagram[at:end], "big") & (1 << 8 * length - 3) - 1, end


@dataclass(frozen=True, slots=True)
class Header:
    """
    What every packet of the server begins with, and a status request consists of.

    Clients compare its octets: any difference, were it another form of the same numbers, makes them start over.

    @ivar transaction: names this version of this file, at most 53 bits.
    @ivar size: octets of the file, not 0.
    @ivar blocksize: octets of each block but the last, not 0.
    """

    transaction: int
    size: int
    blocksize: int

    @property
    def count(self) -> int:
        """The number of blocks."""
        return -(-self.size // self.blocksize)

    def build(self) -> bytes:
        """-> the octets of a status request."""
        return pack(self.transaction) + pack(self.size) + pack(self.blocksize)


@dataclass(frozen=True, slots=True)
class SlamData:
    """
    One block of the file, as it goes to the group.

    @ivar number: of the block, from 0.
    """

    header: Header
    number: int
    payload: bytes

    def build(self) -> bytes:
        """-> the datagram."""
        return self.header.build() + pack(self.number) + self.payload


def parseHeader(datagram: bytes) -> tuple[Header, int]:
    """
    Read the header of a packet of the server.

    @return: it, and where what follows begins.
    @raise WireError: cut short, or of a file or blocks without octets.
    """
    transaction, at = unpack(datagram, 0)
    size, at = unpack(datagram, at)
    blocksize, at = unpack(datagram, at)
    if not size or not blocksize:
        raise WireError("a header of nothing")
    return Header(transaction, size, blocksize), at


def parseData(datagram: bytes) -> SlamData:
    """
    Read a datagram of the group.

    @raise WireError: no block of its own header: the number too high, or not as many octets as that block has.
    """
    header, at = parseHeader(datagram)
    number, at = unpack(datagram, at)
    if number >= header.count:
        raise WireError(f"block {number} of {header.count}")
    payload = datagram[at:]
    if len(payload) != min(header.blocksize, header.size - number * header.blocksize):
        raise WireError(f"block {number} has {len(payload)} octets")
    return SlamData(header, number, payload)


def parseList(datagram: bytes) -> tuple[range, ...] | None:
    """
    Read what a client sends: runs of received and of missing blocks by turns, then a NUL.

    As much is read as can be: a list without its NUL counts, one that turns to rubbish counts up to there, and an empty
    run asks for nothing.  Nothing is known here of the file: blocks that it does not have are among them (L{clip}).

    @return: the missing blocks, ascending, runs that touch made one; L{None}: the client disconnects.
    @raise WireError: empty, longer than any client's, or not beginning with an integer.
    """
    if not 0 < len(datagram) <= LARGEST_DATAGRAM:
        raise WireError(f"a list of {len(datagram)} octets")
    if datagram[0] < 0x20:
        return None
    number, at = unpack(datagram, 0)
    missing: list[range] = []
    while at < len(datagram) and datagram[at] >= 0x20:
        try:
            length, at = unpack(datagram, at)
            _append(missing, number, length)
            received, at = unpack(datagram, at)
        except WireError:
            break
        number += length + received
    return tuple(missing)


def _append(missing: list[range], number: int, length: int) -> None:
    if length and missing and missing[-1].stop == number:
        missing[-1] = range(missing[-1].start, number + length)
    elif length:
        missing.append(range(number, number + length))


def buildList(missing: Iterable[range], end: int = 0, room: int = LARGEST_DATAGRAM) -> bytes:
    """
    Build the list that asks for these blocks, as Etherboot does; as many runs as fit.

    @param missing: ascending, not touching.
    @param end: blocks of the file: a last run of received ones up to there is named as well.
    @param room: octets that the list may have, its NUL among them.
    """
    built, number = bytearray(), 0
    for run in missing:
        pair = pack(run.start - number) + pack(len(run))
        if len(built) + len(pair) >= room:
            return bytes(built) + b"\0"
        built += pair
        number = run.stop
    tail = pack(max(end - number, 0)) if end > number or not built else b""
    return bytes(built + (tail if len(built) + len(tail) < room else b"")) + b"\0"


def clip(missing: Iterable[range], count: int) -> tuple[range, ...]:
    """-> the part of these runs that lies in a file of so many blocks."""
    return tuple(range(run.start, min(run.stop, count)) for run in missing if run.start < count)
