"""
Reads captures in pcapng, block by block as the draft describes them, and by tshark: neither shares code with castd.
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path
from typing import NamedTuple

from tests.support.link import summary
from tests.support.needs import run


class Seen(NamedTuple):
    """One packet: its ends, its first octets, how many octets it had without headers, its comment."""

    time: float
    outgoing: bool
    source: tuple[str, int]
    target: tuple[str, int]
    head: bytes
    octets: int
    comment: str


def options(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        code, length = struct.unpack_from("<HH", data)
        if not code:
            break
        found[code] = data[4 : 4 + length]
        data = data[4 + length + -length % 4 :]
    return found


def readCapture(data: bytes) -> tuple[str, list[Seen]]:
    """Return the comment of the first section, and all packets."""
    comments, packets = [], []
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        body, data = data[8 : length - 4], data[length:]
        if kind == 0x0A0D0D0A:
            comments.append(options(body[16:]).get(1, b"").decode())
        elif kind == 6:
            packets.append(_packet(body))
    return comments[0], packets


def _packet(body: bytes) -> Seen:
    _, high, low, captured, original = struct.unpack_from("<IIIII", body)
    packet, more = body[20 : 20 + captured], options(body[20 + captured + -captured % 4 :])
    wide = packet[0] >> 4 == 6
    start, size = (40, 16) if wide else (20, 4)
    source, target = (str(ipaddress.ip_address(packet[at : at + size])) for at in (start - 2 * size, start - size))
    ports = struct.unpack_from("!HH", packet, start)
    outgoing = struct.unpack("<I", more[2])[0] & 3 == 2
    return Seen(
        ((high << 32) + low) / 1e6,
        outgoing,
        (source, ports[0]),
        (target, ports[1]),
        packet[start + 8 :],
        original - start - 8,
        more.get(1, b"").decode(),
    )


def told(packets: list[Seen]) -> list[str]:
    """Return each packet in few words, with C{>} before what the server has sent."""
    return [("> " if each.outgoing else "< ") + summary(each.head) for each in packets]


def byTshark(path: Path, *fields: str) -> list[tuple[str, ...]]:
    """Return a row for each packet, the sums of IP and UDP looked at."""
    words = ["-n", "-r", str(path), "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-T", "fields"]
    words += [word for field in fields for word in ("-e", field)]
    shown = run("tshark", *words, "-E", "occurrence=f", check=True).stdout
    return [tuple(line.split("\t")) for line in shown.splitlines()]
