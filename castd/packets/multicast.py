"""
Parse the group options of TFTP, RFC 2090's C{multicast} and IBM's C{sbroadcast}; parse and build BDATA, the data packet
of C{sbroadcast}.

The value of either option in an OACK has three fields with commas between them, the last of which says whether the
client is the master.  In later OACKs the first two may be empty: they have not changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address

from castd.errors import WireError

#: The opcode of BDATA.  No public text has the number; 7 is the first that was unused (docs/transports/sbroadcast.md).
BDATA = 7
#: The port that C{sbroadcast} data comes to unless the server names another (IANA subntbcst_tftp).
SBROADCAST_PORT = 247
#: The most blocks of a file in a group: receivers place them by their number of 16 bits alone, so it does not wrap.
MOST_BLOCKS = 65535

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_SBID = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Multicast:
    """
    Holds the value of C{multicast} in an OACK (RFC 2090).

    @ivar group: address and port; L{None}: as in the OACK before.
    @ivar master: this client is the master: it acknowledges.
    """

    group: tuple[str, int] | None
    master: bool


@dataclass(frozen=True, slots=True)
class Subnet:
    """
    Holds the value of C{sbroadcast} in an OACK.

    @ivar port: the port that data is sent to; L{None}: as in the OACK before.
    @ivar sbid: the identifier in each data packet of the group; L{None}: as in the OACK before.
    @ivar master: this client is the master: it acknowledges.
    """

    port: int | None
    sbid: int | None
    master: bool


@dataclass(frozen=True, slots=True)
class Bdata:
    """
    Holds one data packet of C{sbroadcast}.

    @ivar number: the number of the block, 16 bits.
    @ivar sbid: the identifier of the group, 32 bits.
    @ivar payload: the octets of the block.
    """

    number: int
    sbid: int
    payload: bytes


def parseMulticast(value: str) -> Multicast:
    """
    Parse the value of C{multicast} in an OACK; blanks around the fields are accepted.

    @raise WireError: there are not three fields, only one of address and port, no multicast address, no port number, or
        another flag than 0 and 1.
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
    Parse the value of C{sbroadcast} in an OACK; blanks around the fields are accepted.

    @param listener: the flag of a client that is not the master.
    @param master: the flag of the master.
    @raise WireError: there are not three fields, the port or the identifier is out of range, or the flag is neither of
        these.
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
    """Return the eight octets before the payload: opcode, number, identifier; the number is cut to 16 bits."""
    return opcode.to_bytes(2, "big") + (number & 0xFFFF).to_bytes(2, "big") + sbid.to_bytes(4, "big")


def parseBdata(datagram: bytes, opcode: int = BDATA) -> Bdata:
    """
    Parse a BDATA packet.

    @raise WireError: the datagram is too short, or has another opcode.
    """
    if len(datagram) < 8 or int.from_bytes(datagram[:2], "big") != opcode:
        raise WireError("no BDATA")
    return Bdata(int.from_bytes(datagram[2:4], "big"), int.from_bytes(datagram[4:8], "big"), bytes(datagram[8:]))
