"""
DHCP packets and PXE's options: what was recorded is read and built again to the octet, and no octets are a fault.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.errors import WireError
from castd.packets import dhcp, pxe
from castd.packets.dhcp import DhcpPacket
from tests.support.vectors import vectors

RECORDED = [*vectors("proxydhcp", "datagrams"), *vectors("proxydhcp", "answers")]


@pytest.mark.parametrize("each", RECORDED)
def test_recorded(each: dict[str, Any]) -> None:
    """Each recorded packet is built anew from what was read of it, and has the fields that a reader found in it."""
    datagram = bytes.fromhex(each["hex"])
    packet = dhcp.parse(datagram)
    if each["id"] not in ("Q-07", "Q-08"):  # an option in parts, and options in the field of the file
        assert dhcp.build(packet) == datagram.ljust(300, b"\0")
    decoded = each["decoded"]
    assert packet.xid.hex() == decoded["xid"]
    assert packet.hardwareAddress == decoded["chaddr"]
    assert str(packet.siaddr) == decoded.get("siaddr", "0.0.0.0")
    kinds = {"DISCOVER": 1, "OFFER": 2, "REQUEST": 3, "ACK": 5, "INFORM": 8}
    assert packet.messageType == kinds[dict(decoded["options"])[53]]


@pytest.mark.parametrize("each", vectors("proxydhcp", "option43"))
def test_option43(each: dict[str, Any]) -> None:
    """Option 43 is read as listed, and what cannot be read is refused."""
    value = bytes.fromhex(each["hex"])
    if not each["valid"]:
        with pytest.raises(WireError):
            pxe.bootItem(value)
        return
    suboptions = pxe.parseSuboptions(value)
    assert list(suboptions) == [int(text.split()[0]) for text in each["decoded"] if text != "255 end"]
    plain = pxe.buildSuboptions(suboptions.items())
    assert plain == value.replace(b"\0\0\6", b"\6").replace(b"\0\xff", b"\xff") if each["id"] == "V-11" else True
    assert pxe.parseSuboptions(plain) == suboptions


def test_builtAsRecorded() -> None:
    """The menu and MTFTP's sub-options are built as those that were shown to clients."""
    by = {each.values[0]["id"]: bytes.fromhex(each.values[0]["hex"]) for each in vectors("proxydhcp", "option43")}
    items = [(b"\x80\0", "First boot"), (b"\x80\1", "Second boot")]
    menu = pxe.menuSuboptions(IPv4Address("10.66.0.2"), items, 5, "F8 for more", None)
    assert pxe.buildSuboptions(menu) == by["V-04"]
    mtftp = pxe.mtftpSuboptions(("239.255.1.1", 3001), 1759, 2, 2)
    assert pxe.buildSuboptions([*mtftp, (6, b"\x08")]) == by["V-03"]
    assert dhcp.option43(("239.255.1.1", 3001), 1759, 2, 2) == b"\x2b\x15" + by["V-09"]


addresses = st.builds(IPv4Address, st.integers(0, 2**32 - 1))
packets = st.builds(
    DhcpPacket,
    op=st.integers(0, 255),
    htype=st.integers(0, 255),
    hlen=st.integers(0, 255),
    xid=st.binary(min_size=4, max_size=4),
    chaddr=st.binary(min_size=16, max_size=16),
    hops=st.integers(0, 255),
    secs=st.integers(0, 65535),
    flags=st.integers(0, 65535),
    ciaddr=addresses,
    yiaddr=addresses,
    siaddr=addresses,
    giaddr=addresses,
    sname=st.binary(max_size=63).filter(lambda name: b"\0" not in name),
    file=st.binary(max_size=127).filter(lambda name: b"\0" not in name),
    options=st.dictionaries(st.integers(1, 254).filter(lambda code: code != 52), st.binary(max_size=600), max_size=6),
)


@given(packets)
def test_roundTrip(packet: DhcpPacket) -> None:
    """What is built is read as it was, also options that need several parts."""
    assert dhcp.parse(dhcp.build(packet)) == packet


@given(st.binary(max_size=400), st.binary(max_size=300))
def test_anything(head: bytes, options: bytes) -> None:
    """Whatever octets come are a packet or a WireError, and what can be asked of a packet has an answer."""
    for datagram in (head, head.ljust(236, b"\0")[:236] + bytes([99, 130, 83, 99]) + options):
        try:
            packet = dhcp.parse(datagram)
        except WireError:
            continue
        assert packet.messageType in range(256)
        assert len(packet.hardwareAddress) <= 47
        assert 548 <= dhcp.largestReply(packet) <= 1472
        assert len(dhcp.build(packet)) >= 300


@given(st.binary(max_size=300))
def test_values(value: bytes) -> None:
    """Whatever stands in an option, reading it raises nothing but WireError."""
    try:
        suboptions = pxe.parseSuboptions(value)
        assert sum(map(len, suboptions.values())) <= len(value)
        assert pxe.bootItem(value) in (None, suboptions.get(71))
    except WireError:
        pass
    assert all(0 <= number <= 0xFFFF for number in pxe.architectures(value, value))
    assert b"".join(pxe.userClasses(value)) in value or len(pxe.userClasses(value)) > 1
    assert isinstance(pxe.ipxeFeatures(value), frozenset)
    uuid = pxe.machineUuid(value)
    assert uuid is None or len(uuid) == 36


@given(st.lists(st.tuples(st.integers(1, 254), st.binary(max_size=255)), max_size=5, unique_by=lambda each: each[0]))
def test_suboptions(suboptions: list[tuple[int, bytes]]) -> None:
    """Options within an option are read as they were built."""
    assert pxe.parseSuboptions(pxe.buildSuboptions(suboptions)) == dict(suboptions)


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4))
def test_userClasses(classes: list[bytes]) -> None:
    """Counted user classes are told apart (RFC 3004)."""
    assert pxe.userClasses(b"".join(bytes([len(each)]) + each for each in classes)) == tuple(classes)


@pytest.mark.parametrize(
    ("value", "octets"),
    [(b"\xff\0", 1472), (b"\5\xc0", 1472), (b"\2\x80", 640), (b"\0\1", 548), (b"", 548), (b"\5", 548)],
)
def test_largestReply(value: bytes, octets: int) -> None:
    """A reply is as long as option 57 allows, but never longer than EDK II takes, nor shorter than the RFC allows."""
    assert dhcp.largestReply(DhcpPacket(1, 1, 6, b"\0" * 4, bytes(16), options={57: value})) == octets


def _plain(**fields: Any) -> DhcpPacket:
    return DhcpPacket(1, 1, 6, b"\0" * 4, bytes(16), **fields)


@pytest.mark.parametrize("features", [None, (), ("tftp",), tuple(pxe.IPXE_FEATURES)])
def test_discover(features: tuple[str, ...] | None) -> None:
    """What a machine asks with is read as what was put into it."""
    uuid = bytes(range(17))
    made = dhcp.discover(b"\x02castd", 7, b"\1\2\3\4", relay=IPv4Address("10.0.0.1"), features=features, uuid=uuid)
    packet = dhcp.parse(dhcp.build(made))
    assert packet == made
    assert (packet.messageType, packet.hardwareAddress, packet.xid) == (1, "02:63:61:73:74:64", b"\1\2\3\4")
    assert (packet.giaddr, packet.flags, packet.option(97)) == (IPv4Address("10.0.0.1"), 0x8000, uuid)
    assert pxe.architectures(packet.option(93), b"") == pxe.architectures(b"", packet.option(60)) == (7,)
    assert pxe.isIpxe(packet.options) is (features is not None)
    assert pxe.ipxeFeatures(packet.option(175)) == {pxe.IPXE_FEATURES[each] for each in features or ()}


def test_withoutCookie() -> None:
    """A packet of BOOTP, which has no cookie of DHCP, is none of DHCP."""
    octets = dhcp.build(_plain())
    assert dhcp.parse(octets).options == {}
    with pytest.raises(WireError, match="cookie"):
        dhcp.parse(octets[:236] + bytes(4) + octets[240:])


def test_namesAreCut() -> None:
    """A name that is longer than its field is cut so that a zero is left behind it: firmware looks for that."""
    octets = dhcp.build(_plain(sname=b"s" * 100, file=b"f" * 200))
    assert octets[44:108] == b"s" * 63 + b"\0"
    assert octets[108:236] == b"f" * 127 + b"\0"


@pytest.mark.parametrize("size", [0, 1, 255, 256, 510, 511])
def test_parts(size: int) -> None:
    """
    An option of more than 255 octets is sent in parts that are full but for the last one (RFC 3396); none is empty but
    that of an empty option.
    """
    value = bytes(number % 251 for number in range(size))
    parts = [value[start : start + 255] for start in range(0, size, 255)] or [b""]
    sent = b"".join(bytes([43, len(part)]) + part for part in parts)
    assert dhcp.build(_plain(options={43: value}))[240:].rstrip(b"\0") == sent + b"\xff"


def _received(options: bytes) -> DhcpPacket:
    """A packet with these octets for options."""
    return dhcp.parse(dhcp.build(_plain())[:240] + options)


def test_padded() -> None:
    """Zeros between options are none, what follows the end counts for nothing, and the end may be missing."""
    read = _received(b"\0\0\x35\1\1\0\x0c\2ab\0\xff\x36\1x")
    assert read.options == {53: b"\1", 12: b"ab"}
    assert _received(b"\x35\1\1").options == {53: b"\1"}
    assert _received(b"").options == {}


@pytest.mark.parametrize("options", [b"\x35", b"\x35\1", b"\x35\1\1\x0c", b"\x35\1\1\x0c\3ab"])
def test_beyondTheEnd(options: bytes) -> None:
    """An option whose length, or whose value, is not all there makes a packet unreadable."""
    with pytest.raises(WireError, match="beyond"):
        _received(options)


@pytest.mark.parametrize("overload", [1, 2, 3])
def test_overload(overload: int) -> None:
    """Options in C{file} and C{sname} follow those of the packet, and parts are joined in that order."""
    fields = {1: b"\x0c\1b\xff", 2: b"\x0c\1c\xff"}
    packet = DhcpPacket(1, 1, 6, b"\0" * 4, bytes(16), options={52: bytes([overload]), 12: b"a"})
    octets = bytearray(dhcp.build(packet))
    octets[44:48], octets[108:112] = fields[2], fields[1]
    read = dhcp.parse(bytes(octets))
    assert read.options[12] == b"a" + (b"b" if overload & 1 else b"") + (b"c" if overload & 2 else b"")
    assert bool(read.file) is not bool(overload & 1)
    assert bool(read.sname) is not bool(overload & 2)


@pytest.mark.parametrize("value", [b"", b"\0", b"\4", b"\1\1"])
def test_wrongOverload(value: bytes) -> None:
    """Another value of option 52 makes a packet unreadable."""
    with pytest.raises(WireError, match="overload"):
        dhcp.parse(dhcp.build(DhcpPacket(1, 1, 6, b"\0" * 4, bytes(16), options={52: value})))
