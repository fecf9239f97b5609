"""
Read what the group options of TFTP say, RFC 2090's C{multicast} and IBM's C{sbroadcast}, and the data of the latter.

Both options are answered by three fields with commas between them, the last of which tells whether the client is the
master.  In later answers the first two may be empty: what was said before holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address

from castd.errors import WireError

#: The opcode of BDATA.  The number is in no public text; 7 is the first that was free (docs/transports/sbroadcast.md).
BDATA = 7

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_SBID = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Multicast:
    """
    The value of C{multicast} in an OACK (RFC 2090).

    @ivar group: address and port; L{None}: as before.
    @ivar master: this client acknowledges.
    """

    group: tuple[str, int] | None
    master: bool


@dataclass(frozen=True, slots=True)
class Subnet:
    """
    The value of C{sbroadcast} in an OACK.

    @ivar port: data goes to it; L{None}: as before.
    @ivar sbid: what data of this group carries; L{None}: as before.
    @ivar master: this client acknowledges.
    """

    port: int | None
    sbid: int | None
    master: bool


@dataclass(frozen=True, slots=True)
class Bdata:
    """
    One block of C{sbroadcast}.

    @ivar number: the 16 bits of the wire.
    @ivar sbid: identifies the group.
    """

    number: int
    sbid: int
    payload: bytes


def parseMulticast(value: str) -> Multicast:
    """
    Read what a server granted; blanks around the fields are accepted.

    @raise WireError: not three fields, half an address, no multicast address, no port, or another flag than 0 and 1.
    """
    address, number, flag = _fields(value)
    master = _flag(flag, "0", "1")
    if not address and not number:
        return Multicast(None, master)
    port = _port(number)
    try:
        group = IPv4Address(address)
    except ValueError:
        raise WireError(f"{address!r} is not an IPv4 address") from None
    if not group.is_multicast or port is None:
        raise WireError(f"{value!r} names no group and port")
    return Multicast((address, port), master)


def parseSubnet(value: str, listener: str = "0", master: str = "1") -> Subnet:
    """
    Read what a server granted; blanks around the fields are accepted.

    @raise WireError: not three fields, a port or an identifier out of range, or another flag than these.
    """
    number, text, flag = _fields(value)
    if text and not _SBID.fullmatch(text):
        raise WireError(f"{text!r} is not an identifier")
    sbid = int(text) if text else None
    if sbid is not None and sbid > 0xFFFFFFFF:
        raise WireError(f"{text} is more than 32 bits")
    return Subnet(_port(number), sbid, _flag(flag, listener, master))


def _fields(value: str) -> list[str]:
    fields = [field.strip(" ") for field in value.split(",")]
    if len(fields) != 3:
        raise WireError(f"{value!r} has not three fields")
    return fields


def _flag(text: str, listener: str, master: str) -> bool:
    if text not in (listener, master):
        raise WireError(f"{text!r} says nothing about the mastership")
    return text == master


def _port(text: str) -> int | None:
    if not text:
        return None
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise WireError(f"{text!r} is not a port")
    return int(text)


def bdataHeader(number: int, sbid: int, opcode: int = BDATA) -> bytes:
    """-> the eight octets before a block: opcode, number, identifier; the number is cut to 16 bits."""
    return opcode.to_bytes(2, "big") + (number & 0xFFFF).to_bytes(2, "big") + sbid.to_bytes(4, "big")


def buildBdata(number: int, sbid: int, payload: bytes, opcode: int = BDATA) -> bytes:
    """-> BDATA; the number is cut to 16 bits."""
    return bdataHeader(number, sbid, opcode) + payload


def parseBdata(datagram: bytes, opcode: int = BDATA) -> Bdata:
    """
    Read a block.

    @raise WireError: too short, or another opcode.
    """
    if len(datagram) < 8 or int.from_bytes(datagram[:2], "big") != opcode:
        raise WireError("no BDATA")
    return Bdata(int.from_bytes(datagram[2:4], "big"), int.from_bytes(datagram[4:8], "big"), bytes(datagram[8:]))
