"""
Parse and build TFTP's packets: those of RFC 1350, with the options of RFC 2347.

C{parse} is for datagrams at a transfer port, C{parseRequest} for those at a request port.  For any octets they return a
frozen value or raise an error that they document.  C{docs/transports/tftp.md} says what real implementations send.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import TypeAlias

from castd.errors import NO_NAME, Unsupported, WireError

RRQ, WRQ, DATA, ACK, ERROR, OACK = 1, 2, 3, 4, 5, 6

#: Octets of the longest request that is not refused; RFC 2347 allows 512, some clients send more.
LARGEST_REQUEST = 2048
#: Octets that the text of an ERROR is cut to.
LARGEST_TEXT = 200
#: Octets of a DATA packet before its block.
DATA_HEADER = 4
#: Octets of the headers of IPv4 and UDP, and of a DATA packet: what a block has less than the MTU.
BLOCK_HEADERS = 20 + 8 + DATA_HEADER
#: Octets of the largest block (RFC 2348).
LARGEST_BLKSIZE = 65464

#: Name and value of each option.
Options: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TftpRequest:
    """
    Holds an RRQ or WRQ.

    @ivar write: it is a WRQ.
    @ivar name: the file name, UTF-8 with surrogate escapes: C{encode("utf-8", "surrogateescape")} gives every octet as
        it was sent.
    @ivar mode: as sent, in any case.
    @ivar options: (name, value) as sent, ISO 8859-1; of a name that was sent twice only the first.
    """

    write: bool
    name: str
    mode: str
    options: Options = ()


@dataclass(frozen=True, slots=True)
class Data:
    """Holds a DATA packet; C{number} is the 16 bits on the wire."""

    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """Holds an ACK; C{number} is the 16 bits on the wire."""

    number: int


@dataclass(frozen=True, slots=True)
class Error:
    """Holds an ERROR, which ends the transfer and is never answered (RFC 1350 section 7, CVE-2024-2169)."""

    code: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Oack:
    """Holds an OACK: the options that the server has accepted."""

    options: Options


Packet: TypeAlias = Data | Ack | Error | Oack


def opcode(datagram: bytes) -> int:
    """
    Read the opcode of a datagram.

    @raise WireError: fewer than two octets.
    """
    if len(datagram) < 2:
        raise WireError("shorter than an opcode")
    return datagram[0] << 8 | datagram[1]


def parseRequest(datagram: bytes) -> TftpRequest | None:
    """
    Parse a datagram that came to a request port.

    @return: L{None} for anything but an RRQ or WRQ: such packets are never answered, as a forged one could make two
        servers answer each other for ever.
    @raise WireError: the datagram has fewer than two octets.
    @raise Unsupported: the request has no terminated name and mode, an empty name, or too many octets.
    """
    kind = opcode(datagram)
    if kind not in (RRQ, WRQ):
        return None
    if len(datagram) > LARGEST_REQUEST:
        raise Unsupported(why="request too long")
    return _parsedRequest(datagram)


@lru_cache(256)
def _parsedRequest(datagram: bytes) -> TftpRequest:
    """Parse a request; the result is cached, as many machines of one type send the same octets."""
    name, _, rest = datagram[2:].partition(b"\0")
    parsed = _parsedRest(rest)
    if parsed is None:
        raise Unsupported(why="request without a terminated file name and mode")
    if not name:
        raise Unsupported(why=NO_NAME)
    return TftpRequest(datagram[1] == WRQ, name.decode("utf-8", "surrogateescape"), *parsed)


@lru_cache(256)
def _parsedRest(octets: bytes) -> tuple[str, Options] | None:
    """
    Parse what follows the name in a request; the result is cached, as it is the same for whatever name.

    @return: mode and options; L{None}: the mode is not terminated.
    """
    # The last piece is what follows the last NUL: padding or an unterminated field, which is ignored.
    mode, *fields = octets.split(b"\0")
    return (mode.decode("latin-1"), _options(fields[:-1])) if fields else None


def _options(fields: list[bytes]) -> Options:
    """
    Pair names and values.  An empty name ends the list (padding), a name without a value is ignored, and of options
    with one name the first counts.
    """
    found: dict[str, tuple[str, str]] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=False):
        if not name:
            break
        text = name.decode("latin-1")
        found.setdefault(text.lower(), (text, value.decode("latin-1")))
    return tuple(found.values())


def parse(datagram: bytes) -> Packet:
    """
    Parse a datagram that came to a transfer port.

    @raise WireError: it is too short, or has another opcode than these four, such as that of a request.
    """
    kind = opcode(datagram)
    if kind == ERROR:
        # Accepted with two octets or more: curl sends four, and an ERROR without a code (taken as 0) ends it as well.
        code = int.from_bytes(datagram[2:4], "big") if len(datagram) >= 4 else 0
        return Error(code, datagram[4:].split(b"\0", 1)[0].decode("latin-1"))
    if kind == OACK:
        return Oack(_options(datagram[2:].split(b"\0")[:-1]))
    if kind not in (DATA, ACK):
        raise WireError(f"opcode {kind} on a transfer port")
    if len(datagram) < 4:
        raise WireError("shorter than a block number")
    number = datagram[2] << 8 | datagram[3]
    return Ack(number) if kind == ACK else Data(number, bytes(datagram[4:]))


def buildRequest(request: TftpRequest) -> bytes:
    """Return the RRQ or WRQ.  The strings of the request must not have a NUL."""
    strings = [request.name.encode("utf-8", "surrogateescape"), request.mode.encode("latin-1")]
    for name, value in request.options:
        strings += [name.encode("latin-1"), value.encode("latin-1")]
    return bytes((0, WRQ if request.write else RRQ)) + b"".join(string + b"\0" for string in strings)


def buildData(number: int, payload: bytes) -> bytes:
    """Return a DATA packet; the number is cut to 16 bits."""
    return dataHeader(number) + payload


#: Opcode and block number.  To lay out a file such a header is built for each of its blocks.
_TWO_NUMBERS = Struct(">HH")


def dataHeader(number: int) -> bytes:
    """Return the four octets of a DATA packet before the payload; the number is cut to 16 bits."""
    return _TWO_NUMBERS.pack(DATA, number & 0xFFFF)


def _headerTable() -> memoryview:
    """Return the headers of the DATA packets 0 to 65535, one behind the other."""
    table = bytearray(_TWO_NUMBERS.pack(DATA, 0) * 0x10000)
    table[2::4] = b"".join(bytes((high,)) * 256 for high in range(256))
    table[3::4] = bytes(range(256)) * 256
    return memoryview(bytes(table))


_HEADERS = _headerTable()


def dataHeaders(first: int, count: int, rollover: int = 0) -> bytes:
    """
    Return the headers of C{count} DATA packets, one behind the other: a piece of a table, as a file has many blocks.

    @param first: the block of the first, 1, 2, ...; after 65535 comes C{rollover}, as for L{wire}.
    """
    start, wanted = DATA_HEADER * wire(first, rollover), DATA_HEADER * count
    headers, again = bytes(_HEADERS[start : start + wanted]), DATA_HEADER * rollover
    while len(headers) < wanted:
        headers += _HEADERS[again : again + wanted - len(headers)]
    return headers


def buildAck(number: int) -> bytes:
    """Return an ACK; the number is cut to 16 bits."""
    return _TWO_NUMBERS.pack(ACK, number & 0xFFFF)


@lru_cache(64)
def buildError(code: int, text: str) -> bytes:
    """Return an ERROR; the text becomes printable ASCII of at most L{LARGEST_TEXT} octets, then a NUL."""
    clean = "".join(letter if " " <= letter <= "~" else "?" for letter in text[:LARGEST_TEXT])
    return bytes((0, ERROR, code >> 8 & 255, code & 255)) + clean.encode("ascii") + b"\0"


@lru_cache(256)
def buildOack(options: Options) -> bytes:
    """Return an OACK with these options, in this order."""
    return b"\0\6" + b"".join(text.encode("latin-1") + b"\0" for option in options for text in option)


def wire(number: int, rollover: int = 0) -> int:
    """
    Compute the 16 bits that stand for block C{number} (1, 2, ...): after 65535 comes C{rollover}, 0 or 1.
    """
    return number if number <= 0xFFFF else rollover + (number - 0x10000) % (0x10000 - rollover)


def unwrap(short: int, near: int, rollover: int = 0) -> int:
    """
    Compute the block number nearest to C{near} that the 16 bits C{short} stand for; -1 if there is none.

    Number 0 is the ACK of the request or OACK: before any wrap the result for it is 0.
    """
    if near <= 0x7FFF:
        return short
    period = 0x10000 - rollover
    if short < rollover:
        return -1
    # Wrapped numbers have this period; 0x10000 is the first of them, and stands as rollover on the wire.
    base = 0x10000 + short - rollover
    number = base + (near - base + period // 2) // period * period
    # Numbers before the first wrap are 1 to 65535; with rollover 0, number 0 acknowledges no block.
    return number if number >= 0 else number + period
