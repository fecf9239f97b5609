"""What castd writes as a capture, others read: each address, port, instant, length and comment, with right sums."""

from __future__ import annotations

import tempfile
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from castd.packets.pcapng import Captured, section
from tests.support.captures import byTshark, readCapture
from tests.support.needs import need

ports = st.integers(1, 65535)
# A mapped address is written as the one of IPv4 that it stands for.
wide = st.ip_addresses(v=6).filter(lambda each: each.ipv4_mapped is None)
hosts = st.one_of(st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(wide, wide))


@st.composite
def captured(draw: st.DrawFn) -> Captured:
    source, target = draw(hosts)
    whole = draw(st.binary(max_size=600))
    kept = draw(st.integers(0, len(whole)))
    micros = draw(st.integers(0, 2**42))
    ends = (str(source), draw(ports)), (str(target), draw(ports))
    comment = draw(st.sampled_from(["", "refused: why\u2026"]))
    return Captured(micros / 1e6, draw(st.booleans()), *ends, whole[:kept], len(whole), comment)


@pytest.mark.slow
@given(st.lists(captured(), max_size=5), st.text(st.characters(exclude_categories=["Cs"])))
def test_readBack(packets: list[Captured], comment: str) -> None:
    """
    A reader that follows the draft gets back what was captured; the comment is at the file and, before its own, at the
    last packet.
    """
    said, seen = readCapture(section(packets, comment, "castd"))
    assert said == comment
    assert [each[1:6] for each in seen] == [each[1:6] for each in packets]
    assert [each.time for each in seen] == pytest.approx([each.time for each in packets], abs=1e-6)
    own = [each.comment for each in packets]
    assert [each.comment for each in seen] == [*own[:-1], *(comment or each for each in own[-1:])]


def expected(packet: Captured) -> tuple[str, ...]:
    """What tshark is to say of a packet; of sums: 1 right, 2 not looked at, 3 there is none."""
    wide = ":" in packet.source[0]
    whole = len(packet.head) == packet.octets
    return (
        str(packet.source[1]),
        str(packet.target[1]),
        str(8 + packet.octets),
        str((40 if wide else 20) + 8 + packet.octets),
        str((40 if wide else 20) + 8 + len(packet.head)),
        "" if wide else "1",
        "1" if whole else "2" if wide else "3",
    )


@pytest.mark.slow
@settings(max_examples=5, deadline=None, phases=[Phase.generate])
@given(st.lists(captured(), min_size=1, max_size=30))
def test_tshark(packets: list[Captured]) -> None:
    """tshark reads it, finds every sum right that is there, and no fault."""
    need("tshark")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.pcapng")
        path.write_bytes(section(packets, "the [end] ü", "castd"))
        seen = byTshark(
            path, "udp.srcport", "udp.dstport", "udp.length", "frame.len", "frame.cap_len",
            "ip.checksum.status", "udp.checksum.status",
        )  # fmt: skip
        assert seen == [expected(each) for each in packets]
        (*_, last) = byTshark(path, "frame.comment")
        assert last == ("the [end] ü",)


@pytest.mark.parametrize(
    ("source", "target", "seen"),
    [
        ("0.0.0.0", "fd00::9", ("::", "fd00::9")),
        ("::", "10.0.0.9", ("0.0.0.0", "10.0.0.9")),
        ("10.0.0.9", "::", ("10.0.0.9", "0.0.0.0")),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.9", ("10.0.0.1", "10.0.0.9")),
        ("fe80::1%eth0", "fe80::2%3", ("fe80::1", "fe80::2")),
        ("", "10.0.0.9", ("0.0.0.0", "10.0.0.9")),
        # Python 3.13 writes it otherwise than those before.
        ("10.0.0.9", "fd00::9", (str(IPv6Address("::ffff:10.0.0.9")), "fd00::9")),
    ],
)
def test_addresses(source: str, target: str, seen: tuple[str, str]) -> None:
    """Both ends are of one family; an address that is not known is zero, of the family of the other."""
    packet = Captured(1.0, False, (source, 1), (target, 2), b"x", 1)
    _, (only,) = readCapture(section([packet], "", "castd"))
    assert (only.source[0], only.target[0]) == seen
