"""
Parse and build DHCP packets (RFC 2131, RFC 2132), as far as a server needs them that hands out no addresses.

What PXE puts into the options is in L{castd.packets.pxe}.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from castd.errors import WireError
from castd.packets import pxe

#: Ports of servers and relays, of clients, and of PXE boot servers.
SERVER_PORT, CLIENT_PORT, BOOT_PORT = 67, 68, 4011
BOOTREQUEST, BOOTREPLY = 1, 2
#: The flag of a client that can receive broadcasts only.
BROADCAST = 0x8000

# Values of option 53.
DISCOVER, OFFER, REQUEST, ACK, INFORM = 1, 2, 3, 5, 8

# Options.
VENDOR_OPTION = 43
OVERLOAD = 52
MESSAGE_TYPE = 53
SERVER_ID = 54
LARGEST_MESSAGE = 57
VENDOR_CLASS = 60
TFTP_SERVER = 66
BOOT_FILE = 67
USER_CLASS = 77
RELAY_INFORMATION = 82
ARCHITECTURE = 93
MACHINE_ID = 97
IPXE = 175
#: A sub-option of option 82.
LINK_SELECTION = 5
_PAD, _END = 0, 255

#: Octets of C{sname}, and of C{file} with the zero behind a name.
SNAME, FILE = 64, 128
#: Octets of the shortest packet (BOOTP's), and of the longest for a client that does not say more: 576 less the headers
#: of IP and UDP.
SHORTEST, LONGEST = 300, 548
#: Octets of the longest packet for a client that takes more: EDK II drops what is longer.
LARGEST = 1472

_COOKIE = bytes([99, 130, 83, 99])
#: op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, cookie.
_HEADER = struct.Struct("!BBBB4sHH4s4s4s4s16s64s128s4s")
_NOWHERE = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class DhcpPacket:
    """
    One DHCP packet.

    @ivar op: BOOTREQUEST or BOOTREPLY.
    @ivar xid: 4 octets, which are not unique: Raspberry Pis all have the same.
    @ivar chaddr: 16 octets.
    @ivar sname, file: without the zeros behind them; empty where they hold options.
    @ivar options: values by code, in their order; the parts of an option that comes several times are joined
        (RFC 3396), and those in C{file} and C{sname} are among them (option 52).
    """

    op: int
    htype: int
    hlen: int
    xid: bytes
    chaddr: bytes
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = _NOWHERE
    yiaddr: IPv4Address = _NOWHERE
    siaddr: IPv4Address = _NOWHERE
    giaddr: IPv4Address = _NOWHERE
    sname: bytes = b""
    file: bytes = b""
    options: Mapping[int, bytes] = field(default_factory=dict)

    def option(self, code: int) -> bytes:
        """Return the value of an option; empty if the packet does not have it."""
        return self.options.get(code, b"")

    @property
    def messageType(self) -> int:
        """The value of option 53; 0: it is absent, as in BOOTP, or malformed."""
        value = self.option(MESSAGE_TYPE)
        return value[0] if len(value) == 1 else 0

    @property
    def hardwareAddress(self) -> str:
        """The hardware address with colons, C{52:54:00:66:00:10}; 16 octets where firmware puts its UUID there."""
        return self.chaddr[: min(self.hlen, 16)].hex(":")


def parse(datagram: bytes) -> DhcpPacket:
    """
    Parse a packet.

    @raise WireError: it is too short, has no cookie (BOOTP), or an option's length runs beyond its end.
    """
    if len(datagram) < _HEADER.size:
        raise WireError(f"a DHCP packet of {len(datagram)} octets")
    op, htype, hlen, hops, xid, secs, flags, ci, yi, si, gi, chaddr, sname, file, cookie = _HEADER.unpack_from(datagram)
    if cookie != _COOKIE:
        raise WireError("no cookie of DHCP")
    options: dict[int, bytes] = {}
    _collect(datagram[_HEADER.size :], options)
    overload = _overload(options)
    if overload & 1:
        _collect(file, options)
    if overload & 2:
        _collect(sname, options)
    return DhcpPacket(
        op=op,
        htype=htype,
        hlen=hlen,
        xid=xid,
        chaddr=chaddr,
        hops=hops,
        secs=secs,
        flags=flags,
        ciaddr=IPv4Address(ci),
        yiaddr=IPv4Address(yi),
        siaddr=IPv4Address(si),
        giaddr=IPv4Address(gi),
        sname=b"" if overload & 2 else sname.partition(b"\0")[0],
        file=b"" if overload & 1 else file.partition(b"\0")[0],
        options=options,
    )


def _overload(options: Mapping[int, bytes]) -> int:
    """Return which fields hold options, too: 1 C{file}, 2 C{sname}, 3 both (RFC 2132 section 9.3)."""
    value = options.get(OVERLOAD)
    if value is None:
        return 0
    if value not in (b"\1", b"\2", b"\3"):
        raise WireError(f"option overload {value.hex()}")
    return value[0]


def _collect(area: bytes, options: dict[int, bytes]) -> None:
    """Add the options of one area of a packet; a part of an option that is there already is joined to it."""
    at = 0
    while at < len(area) and area[at] != _END:
        code = area[at]
        if code == _PAD:
            at += 1
            continue
        end = at + 2 + area[at + 1] if at + 1 < len(area) else len(area) + 1
        if end > len(area):
            raise WireError(f"option {code} runs beyond the packet")
        options[code] = options.get(code, b"") + area[at + 2 : end]
        at = end


def build(packet: DhcpPacket) -> bytes:
    """
    Build a packet, its options in their order, with zeros up to BOOTP's length.

    C{sname} and C{file} are cut to their fields with a zero behind them; an option of more than 255 octets is sent in
    parts (RFC 3396).
    """
    header = _HEADER.pack(
        packet.op & 255,
        packet.htype & 255,
        packet.hlen & 255,
        packet.hops & 255,
        packet.xid,
        packet.secs & 0xFFFF,
        packet.flags & 0xFFFF,
        packet.ciaddr.packed,
        packet.yiaddr.packed,
        packet.siaddr.packed,
        packet.giaddr.packed,
        packet.chaddr,
        packet.sname[: SNAME - 1],
        packet.file[: FILE - 1],
        _COOKIE,
    )
    options = b"".join(part for code, value in packet.options.items() for part in _parts(code, value))
    return (header + options + bytes([_END])).ljust(SHORTEST, b"\0")


def _parts(code: int, value: bytes) -> Iterator[bytes]:
    for start in range(0, len(value) or 1, 255):
        part = value[start : start + 255]
        yield bytes([code & 255, len(part)]) + part


def selectedLink(packet: DhcpPacket) -> IPv4Address | None:
    """Return the address that a relay names for the client's link, in option 82 (RFC 3527); L{None}: it names none."""
    area, at = packet.option(RELAY_INFORMATION), 0
    while at + 2 <= len(area):
        code, end = area[at], at + 2 + area[at + 1]
        if code == LINK_SELECTION and end - at == 6 and end <= len(area):
            return IPv4Address(area[at + 2 : end])
        at = end
    return None


def discover(
    address: bytes,
    architecture: int,
    xid: bytes = bytes(4),
    *,
    relay: IPv4Address = _NOWHERE,
    userClass: bytes = b"",
    features: Iterable[str] | None = None,
    uuid: bytes = b"",
) -> DhcpPacket:
    """
    Return the DHCPDISCOVER of a machine that boots, as UEFI or iPXE sends it.

    @param address: its Ethernet address.
    @param features: of iPXE, words of L{IPXE_FEATURES<castd.packets.pxe.IPXE_FEATURES>}; L{None}: it is no iPXE.
    @param uuid: option 97; empty: it has none.
    """
    options = {
        MESSAGE_TYPE: bytes([DISCOVER]),
        LARGEST_MESSAGE: LARGEST.to_bytes(2, "big"),
        ARCHITECTURE: architecture.to_bytes(2, "big"),
        VENDOR_CLASS: pxe.PXE_CLIENT + b":Arch:%05d:UNDI:003000" % architecture,
    }
    if userClass:
        options[USER_CLASS] = userClass
    if features is not None:
        listed = pxe.buildSuboptions([(pxe.IPXE_FEATURES[each], b"\1") for each in features])
        # iPXE ends this list by its length alone.
        options[IPXE] = listed.removesuffix(b"\xff")
    if uuid:
        options[MACHINE_ID] = uuid
    chaddr = address.ljust(16, b"\0")
    return DhcpPacket(BOOTREQUEST, 1, 6, xid, chaddr, flags=BROADCAST, giaddr=relay, options=options)


def largestReply(packet: DhcpPacket) -> int:
    """Return octets of the longest reply that a client takes: what its option 57 says, but 548 to 1472."""
    value = packet.option(LARGEST_MESSAGE)
    said = int.from_bytes(value, "big") if len(value) == 2 else LONGEST
    return max(LONGEST, min(said, LARGEST))


def option43(group: tuple[str, int], server: int, listen: int, silence: int) -> bytes:
    """
    Build option 43 for MTFTP, its code and length included.

    @param group, server, listen, silence: as L{pxe.mtftpSuboptions<castd.packets.pxe.mtftpSuboptions>}.
    """
    suboptions = pxe.buildSuboptions(pxe.mtftpSuboptions(group, server, listen, silence))
    return bytes([VENDOR_OPTION, len(suboptions)]) + suboptions
