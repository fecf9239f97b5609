"""
Parse and build SLAM's packets: packed integers, the header, lists of missing blocks.

There is no specification; this code agrees octet by octet with Etherboot's client and C{mini-slamd} of 2002 and with
iPXE's client of 2008 and later.  No octet says what kind of packet a datagram is; only direction and destination do:
lists and the disconnect go to the server, status requests to one client, data to the group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from castd.errors import WireError

#: The port that lists come to, where nothing says another.
PORT = 10000
#: The only group and port that iPXE listens to.
IPXE_GROUP = ("239.255.1.1", 10000)
#: The largest packed integer: seven octets, three bits of which are the length.
LARGEST = (1 << 53) - 1
#: The largest packed integer that clients built for 32 bits can read.  They do not read the transaction, which may be
#: larger.
LARGEST_32 = (1 << 29) - 1
#: Octets of the longest list that any client sends, and of the largest datagram that Etherboot accepts.
LARGEST_DATAGRAM = 1472
#: Octets of the largest header that both clients can keep: three integers of seven octets.
LARGEST_HEADER = 21
#: The datagram of a client that leaves.
DISCONNECT = b"\0"
#: The first list of every client, before it has received a header: no block received, one missing.
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
    Parse the integer that begins at offset C{at}; longer forms than needed are accepted, as all decoders do.

    @return: its value, and the offset after it.
    @raise WireError: there is no integer, or it ends after the datagram.
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
    Holds the header of every packet of the server.  A status request has nothing else.

    Clients compare its octets: they start over at any difference, even if only the form of an integer differs.

    @ivar transaction: identifies this version of this file, at most 53 bits.
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
        """Return the octets of a status request."""
        return pack(self.transaction) + pack(self.size) + pack(self.blocksize)


@dataclass(frozen=True, slots=True)
class SlamData:
    """
    Holds one data packet, which goes to the group.

    @ivar number: the number of the block, from 0.
    """

    header: Header
    number: int
    payload: bytes

    def build(self) -> bytes:
        """Return the datagram."""
        return self.header.build() + pack(self.number) + self.payload


def parseHeader(datagram: bytes) -> tuple[Header, int]:
    """
    Parse the header of a packet of the server.

    @return: the header, and the offset after it.
    @raise WireError: it is cut short, or the size of the file or of a block is 0.
    """
    transaction, at = unpack(datagram, 0)
    size, at = unpack(datagram, at)
    blocksize, at = unpack(datagram, at)
    if not size or not blocksize:
        raise WireError("a header of nothing")
    return Header(transaction, size, blocksize), at


def isHeader(datagram: bytes) -> bool:
    """
    Return whether a datagram is a status request: three integers and nothing else.  A list of any client ends in NUL.
    """
    try:
        return len(datagram) <= LARGEST_HEADER and parseHeader(datagram)[1] == len(datagram)
    except WireError:
        return False


def parseData(datagram: bytes, known: Header | None = None, octets: bytes = b"") -> SlamData:
    """
    Parse a data packet.

    @param known: a header that the packet may have, and C{octets}, its form on the wire: such a header is not parsed.
    @raise WireError: it does not agree with its header: the number is too high, or the payload has another length than
        that block.
    """
    if known is not None and datagram.startswith(octets):
        header, at = known, len(octets)
    else:
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
    Parse what a client sends: alternating runs of received and of missing blocks, then a NUL.

    As much is read as possible: the NUL may be missing, a list with an error counts up to there, and an empty run asks
    for nothing.  The blocks are not checked against the file, see L{clip}.

    @return: the missing blocks, ascending, with adjacent runs merged; L{None}: the client disconnects.
    @raise WireError: the datagram is empty, is longer than any client's list, does not begin with an integer, or is a
        status request: of two servers that took those for lists each would ask the other for ever.
    """
    if not 0 < len(datagram) <= LARGEST_DATAGRAM:
        raise WireError(f"a list of {len(datagram)} octets")
    if datagram[0] < 0x20:
        return None
    if isHeader(datagram):
        raise WireError("a status request, not a list")
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
    Build the list that asks for these blocks, as Etherboot does; runs that do not fit are left out.

    @param missing: the runs of missing blocks, ascending, not adjacent.
    @param end: how many blocks the file has: a last run of received blocks up to there is written, too.
    @param room: octets that the list may have, with its NUL.
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
    """Return the part of these runs that lies in a file of so many blocks."""
    return tuple(range(run.start, min(run.stop, count)) for run in missing if run.start < count)
