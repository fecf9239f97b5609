"""
Makes the datagrams of attackers: those of all vectors of the six protocols, answers in mid-transfer, and mutations.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from castd.packets.dhcp import DhcpPacket, build
from castd.packets.slam import DISCONNECT, FIRST_LIST, Header, SlamData, buildList
from castd.packets.tftp import buildAck, buildData, buildError, buildOack
from tests.support.clients.tftp import rrq, wrq
from tests.support.vectors import FOLDER

MASK = "255.255.255.0"
#: The block numbers that attackers use most.
NUMBERS = (0, 1, 2, 3, 16, 32, 65535)
_MID = [
    *(buildAck(number) for number in NUMBERS),
    *(buildData(number, bytes(length)) for number in (0, 1, 2, 65535) for length in (0, 8, 511, 512, 513, 1000)),
    *(buildError(code, "enough") for code in (0, 5, 8)),
]
_OFFERS = [
    buildOack((("blksize", "512"), ("tsize", "40000"), ("multicast", "239.255.0.1,1758,1"))),
    buildOack((("multicast", ",,1"),)),
    buildOack((("multicast", "239.255.0.9,69,0"),)),
    buildOack((("tsize", "9" * 19),)),
    buildOack((("blksize", "512"), ("sbroadcast", "247,77,1"))),
    buildOack((("sbroadcast", "1,4294967295,0"),)),
]
_HEADER = Header(77, 40_000, 1451)


def recorded(protocol: str) -> Iterator[bytes]:
    """Return every datagram in the vectors of this protocol."""
    yield from _hex(json.loads((FOLDER / f"{protocol}.json").read_text()))


def _hex(value: Any, key: str = "") -> Iterator[bytes]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _hex(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _hex(each, key)
    elif isinstance(value, str) and key in ("hex", "request_hex", "reply_hex", "header_hex"):
        yield bytes.fromhex(value)


def _requests(name: str) -> dict[str, list[bytes]]:
    return {
        "tftp": [
            rrq(name),
            rrq(name, blksize=512, windowsize=16, tsize=0),
            rrq(name, mode="netascii"),
            rrq(name, rollover=1, timeout=1, utimeout=20000),
            rrq(name, blksize=8, windowsize=65535),
            wrq("up", blksize=1000, windowsize=4),
            wrq("up"),
        ],
        "multicast": [
            rrq(name, multicast=""),
            rrq(name, blksize=1428, tsize=0, multicast=""),
            rrq(name, blksize=8, timeout=1, multicast=""),
        ],
        "sbroadcast": [
            rrq(name, sbroadcast=MASK),
            rrq(name, blksize=1464, tsize=0, sbroadcast=MASK),
            rrq(name, blksize=512, sbroadcast="255.255.0.0"),
        ],
        "mtftp": [rrq(name), rrq("/" + name)],
        "slam": [
            FIRST_LIST,
            DISCONNECT,
            bytes.fromhex("209fffffff00"),
            *(buildList([range(at, at + 4)], 40) for at in (0, 4, 20, 36)),
            buildList([range(at, at + 1) for at in range(0, 40, 2)]),
            _HEADER.build(),
            SlamData(_HEADER, 3, bytes(1451)).build(),
        ],
        "proxydhcp": [_asked({}), _asked({93: b"\0\0", 97: bytes(17)}), _asked({77: b"iPXE", 93: b"\0\0"})],
    }


def _asked(options: dict[int, bytes]) -> bytes:
    """Return a REQUEST to port 4011, as short as it can be."""
    given = {53: b"\3", 60: b"PXEClient", 93: b"\0\7", **options}
    packet = DhcpPacket(1, 1, 6, b"\0\0\0\1", bytes.fromhex("525400010203").ljust(16, b"\0"), options=given)
    return build(packet).rstrip(b"\0")


#: Datagrams by the protocol of the port that they go to.
SEEDS: dict[str, list[bytes]] = {
    "tftp": [*recorded("tftp"), *_MID],
    "multicast": [*recorded("rfc2090"), *_MID, *_OFFERS],
    "sbroadcast": [*recorded("sbroadcast"), *_MID, *_OFFERS],
    "mtftp": [*recorded("mtftp"), *_MID],
    "slam": [*recorded("slam")],
    "proxydhcp": [*recorded("proxydhcp")],
}
for _name in ("f", "large", "empty", "boot/x"):
    for _kind, _said in _requests(_name).items():
        SEEDS[_kind] += _said
SEEDS["single-port"] = SEEDS["tftp"]

#: First requests of an attacker, each of which gets an answer.
REQUESTS = {**_requests("large"), "slam": [FIRST_LIST, bytes.fromhex("209fffffff00")]}
REQUESTS["single-port"] = REQUESTS["tftp"]


def mutated(chance: random.Random, datagram: bytes, others: list[bytes]) -> bytes:
    """Return the datagram with a few octets changed, cut off or doubled, or with the end of another one."""
    octets = bytearray(datagram)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
        at = chance.randrange(len(octets) + 1)
        match chance.randrange(6):
            case 0 if octets:
                octets[min(at, len(octets) - 1)] = chance.randrange(256)
            case 1 if octets:
                octets[min(at, len(octets) - 1)] ^= 1 << chance.randrange(8)
            case 2:
                del octets[at:]
            case 3:
                octets[at:at] = octets[: chance.randrange(64)]
            case 4:
                octets[at:at] = bytes(chance.choice((1, 2, 600, 3000)))
            case _:
                octets[at:] = chance.choice(others)[at:]
    return bytes(octets)


def answer(chance: random.Random, datagram: bytes, kind: str) -> bytes:
    """Return an answer that is mostly valid, so that a hunt gets deep into transfers."""
    if kind == "slam":
        start = chance.randrange(28)
        return buildList([range(start, start + 4)], 28)
    match datagram[:2]:
        case b"\0\3":
            return b"\0\4" + datagram[2:4]
        case b"\0\4":
            number = int.from_bytes(datagram[2:4], "big") + 1
            return buildData(number & 0xFFFF, bytes(chance.choice((512, 1000, 1000, 17))))
        case b"\0\6" if b"multicast" in datagram or b"sbroadcast" in datagram:
            return buildAck(chance.randrange(30))
        case _:
            return chance.choice((buildAck(0), buildData(1, bytes(1000))))


def noise(chance: random.Random, kind: str) -> bytes:
    """Return one datagram to send to a port of this protocol."""
    what = chance.random()
    if what < 0.1:
        return chance.randbytes(chance.choice((0, 1, 2, 3, 4, 5, 20, 516, 1472)))
    if what < 0.35:
        number = chance.choice((0, 1, chance.randrange(40), chance.randrange(65536)))
        if kind != "slam":
            return buildAck(number)
        return buildList([range(number % 40, number % 40 + chance.randrange(1, 9))], chance.choice((0, 40)))
    seeds = SEEDS[kind if what < 0.95 else chance.choice(tuple(SEEDS))]
    return mutated(chance, chance.choice(seeds), seeds)
