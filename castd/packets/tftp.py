"""
Read and build TFTP's packets: RFC 1350, and the options of RFC 2347.

C{parse} is all that reads a transfer port, C{parseRequest} all that reads a request port.  Both return a frozen value
or raise L{WireError}, whatever the octets are.  What senders really put on the wire is in C{docs/transports/tftp.md}.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from castd.errors import Unsupported, WireError

RRQ, WRQ, DATA, ACK, ERROR, OACK = 1, 2, 3, 4, 5, 6

#: Requests longer than this are refused; RFC 2347 speaks of 512, some clients send more.
LARGEST_REQUEST = 2048
#: An ERROR's text is cut to this.
LARGEST_TEXT = 200
LARGEST_BLKSIZE = 65464

Options: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TftpRequest:
    """
    An RRQ or WRQ.

    @ivar write: it is a WRQ.
    @ivar name: UTF-8 with surrogate escapes: every octet of the wire comes back by C{encode("utf-8",
        "surrogateescape")}.
    @ivar mode: as sent, any case.
    @ivar options: (name, value) as sent, ISO 8859-1; of a name sent twice only the first.
    """

    write: bool
    name: str
    mode: str
    options: Options = ()


@dataclass(frozen=True, slots=True)
class Data:
    """One block; C{number} is the 16 bits of the wire."""

    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """An acknowledgement; C{number} is the 16 bits of the wire."""

    number: int


@dataclass(frozen=True, slots=True)
class Error:
    """An error; it ends the transfer and is never answered (RFC 1350 section 7, CVE-2024-2169)."""

    code: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Oack:
    """The options that were accepted."""

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
    Read what came to a request port.

    @return: L{None} for anything but an RRQ or WRQ: such packets are never answered, or two servers could be made to
        talk to each other for ever.
    @raise WireError: fewer than two octets.
    @raise Unsupported: a request without a terminated name and mode, with an empty name, or too long.
    """
    kind = opcode(datagram)
    if kind not in (RRQ, WRQ):
        return None
    if len(datagram) > LARGEST_REQUEST:
        raise Unsupported(why="request too long")
    return _asked(datagram)


@lru_cache(256)
def _asked(datagram: bytes) -> TftpRequest:
    """Read a request, or recall it: a hall of like machines asks alike, to the octet."""
    fields = datagram[2:].split(b"\0")
    # The last piece is what follows the last NUL: padding or an unterminated tail, never a field.
    if len(fields) < 3 or not fields[0]:
        raise Unsupported(why="request without a terminated file name and mode")
    return TftpRequest(
        write=datagram[1] == WRQ,
        name=fields[0].decode("utf-8", "surrogateescape"),
        mode=fields[1].decode("latin-1"),
        options=_options(fields[2:-1]),
    )


def _options(fields: list[bytes]) -> Options:
    """
    Pair names and values.  An empty name ends the list (padding), a name without a value is ignored, the first of two
    counts.
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
    Read what came to a transfer port.

    @raise WireError: too short, or an opcode that has no place there (requests included).
    """
    kind = opcode(datagram)
    if kind == ERROR:
        # Accepted down to two octets: curl sends four, and a lost code is no reason to go on (taken as 0).
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


def buildRequest(ask: TftpRequest) -> bytes:
    """-> the RRQ or WRQ; its strings hold no NUL."""
    strings = [ask.name.encode("utf-8", "surrogateescape"), ask.mode.encode("latin-1")]
    for name, value in ask.options:
        strings += [name.encode("latin-1"), value.encode("latin-1")]
    return bytes((0, WRQ if ask.write else RRQ)) + b"".join(string + b"\0" for string in strings)


def buildData(number: int, payload: bytes) -> bytes:
    """-> a DATA packet; the number is cut to 16 bits."""
    return dataHeader(number) + payload


def dataHeader(number: int) -> bytes:
    """-> the four octets before a block; the number is cut to 16 bits."""
    return bytes((0, DATA, number >> 8 & 255, number & 255))


def buildAck(number: int) -> bytes:
    """-> an ACK; the number is cut to 16 bits."""
    return bytes((0, ACK, number >> 8 & 255, number & 255))


def buildError(code: int, text: str) -> bytes:
    """-> an ERROR; the text becomes printable ASCII of at most 200 octets, with its final NUL."""
    clean = "".join(letter if " " <= letter <= "~" else "?" for letter in text[:LARGEST_TEXT])
    return bytes((0, ERROR, code >> 8 & 255, code & 255)) + clean.encode("ascii") + b"\0"


@lru_cache(256)
def buildOack(options: Options) -> bytes:
    """-> an OACK with these options, in this order."""
    return b"\0\6" + b"".join(text.encode("latin-1") + b"\0" for option in options for text in option)


def wire(number: int, rollover: int = 0) -> int:
    """
    Find the 16 bits that stand for block C{number} (1, 2, ...): after 65535 comes C{rollover}, 0 or 1.
    """
    return number if number <= 0xFFFF else rollover + (number - 0x10000) % (0x10000 - rollover)


def unwrap(short: int, near: int, rollover: int = 0) -> int:
    """
    Find the block number nearest to C{near} that stands as C{short} on the wire; -1 if there is none.

    Number 0 is the ACK of the request or OACK: before any wrap it comes back as 0.
    """
    if near <= 0x7FFF:
        return short
    period = 0x10000 - rollover
    if short < rollover:
        return -1
    # Both lines of a wrapped count run through rollover + k*period; 0x10000 is the first wrapped number.
    base = 0x10000 + short - rollover
    number = base + (near - base + period // 2) // period * period
    # The first lap counts 1..65535; with rollover 1 it is as long as the others, with 0 its number 0 is the ACK of
    # nothing.
    return number if number >= 0 else number + period
