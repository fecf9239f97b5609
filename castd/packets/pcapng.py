"""
Writes UDP datagrams as a pcapng capture (draft-ietf-opsawg-pcapng), with IP and UDP headers made for them.

castd knows addresses, ports, instants and the first octets of each datagram.  The rest of the headers says nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

#: Packets begin with the IP header (LINKTYPE_RAW).
_LINKTYPE_RAW = 101
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_END, _COMMENT, _FLAGS, _APPLICATION = 0, 1, 2, 4
_INBOUND, _OUTBOUND = 1, 2
_UDP = 17
#: The most octets of the text of an option: its length has 16 bits.
MOST_TEXT = 65532


class Captured(NamedTuple):
    """
    One datagram, as far as it is kept.

    @ivar time: seconds since 1970.
    @ivar outgoing: the server has sent it.
    @ivar source, target: numeric address and port; a zone (C{%eth0}) is ignored.
    @ivar head: its first octets, without IP and UDP headers.
    @ivar octets: how many it had.
    @ivar comment: what Wireshark shows of it beside.
    """

    time: float
    outgoing: bool
    source: tuple[str, int]
    target: tuple[str, int]
    head: bytes
    octets: int
    comment: str = ""


def section(packets: Iterable[Captured], comment: str, application: str) -> bytes:
    """
    Return a capture with these datagrams.  Captures can be joined by writing one behind the other.

    @param comment: of the capture, and of its last packet, where Wireshark shows it in the list.
    """
    options = _text(_COMMENT, comment) + _text(_APPLICATION, application) + _option(_END)
    blocks = [
        _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + options),
        _block(_INTERFACE, struct.pack("<HHI", _LINKTYPE_RAW, 0, 0)),
    ]
    listed = list(packets)
    for nth, each in enumerate(listed, 1):
        blocks.append(_packet(each, (comment if nth == len(listed) else "") or each.comment))
    return b"".join(blocks)


def _packet(packet: Captured, comment: str) -> bytes:
    headers = _headers(packet)
    micros = round(packet.time * 1e6)
    captured = headers + packet.head
    fields = (0, micros >> 32, micros & 0xFFFFFFFF, len(captured), len(headers) + packet.octets)
    flags = _option(_FLAGS, struct.pack("<I", _OUTBOUND if packet.outgoing else _INBOUND))
    return _block(
        _PACKET, struct.pack("<IIIII", *fields) + _padded(captured) + _text(_COMMENT, comment) + flags + _option(_END)
    )


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


def _text(code: int, text: str) -> bytes:
    """Return an option with a text; nothing for an empty one."""
    return _option(code, text.encode("utf-8", "backslashreplace")[:MOST_TEXT]) if text else b""


def _option(code: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)


def _headers(packet: Captured) -> bytes:
    """Return the headers of IP (RFC 791, RFC 8200) and UDP (RFC 768) for a datagram."""
    source, target = _hosts(packet.source[0], packet.target[0])
    octets = 8 + packet.octets
    # What a sum of the datagram begins with: a header of its own (RFC 768, RFC 8200 section 8.1).
    pseudo = source.packed + target.packed + struct.pack("!II", octets, _UDP)
    udp = struct.pack("!HHH", packet.source[1], packet.target[1], octets)
    whole = len(packet.head) == packet.octets
    if whole:
        checksum = _complement(pseudo + udp + packet.head) or 0xFFFF
    elif source.version == 4:
        checksum = 0  # there is none
    else:
        # IPv6 has no datagram without a sum: as in captures where the network card completes it.
        checksum = _sum(pseudo) or 0xFFFF
    return _ipHeader(source, target, octets) + udp + struct.pack("!H", checksum)


def _ipHeader(source: IPv4Address | IPv6Address, target: IPv4Address | IPv6Address, octets: int) -> bytes:
    addresses = source.packed + target.packed
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, octets, _UDP, 64) + addresses
    before = struct.pack("!BBHHHBB", 0x45, 0, 20 + octets, 0, 0x4000, 64, _UDP)
    return before + struct.pack("!H", _complement(before + addresses)) + addresses


def _hosts(source: str, target: str) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    """Return two addresses of one family; one that is not known, a wildcard, follows the other."""
    first, second = _host(source), _host(target)
    if first.version == second.version:
        return first, second
    wide, narrow = (first, second) if isinstance(first, IPv6Address) else (second, first)
    if not int(wide):
        wide = IPv4Address(0)
    else:
        narrow = IPv6Address(f"::ffff:{narrow}" if int(narrow) else 0)
    return (wide, narrow) if isinstance(first, IPv6Address) else (narrow, wide)


def _host(text: str) -> IPv4Address | IPv6Address:
    """Return an address; that of an IPv4 client at an IPv6 socket (C{::ffff:10.0.0.5}) is IPv4."""
    found = ip_address(text.partition("%")[0] or "0.0.0.0")
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _complement(data: bytes) -> int:
    """Return the checksum of the internet protocols (RFC 1071)."""
    return 0xFFFF - _sum(data)


def _sum(data: bytes) -> int:
    even = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
