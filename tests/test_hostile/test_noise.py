"""
Random, mutated and replayed datagrams against every kind of port, while honest clients of every transport are served.
"""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from castd.config.plugin import ServiceMaker, TransportMaker
from castd.packets.tftp import buildAck
from castd.plugins import castd_stock
from castd.testing import RecordingClient
from tests.support.clients.tftp import rrq
from tests.support.hostile import (
    DATAGRAMS,
    LARGE,
    PORTS,
    QUICK,
    ROUND,
    SEED,
    SERVER,
    TRANSPORTS,
    Hunt,
    emptied,
    rounds,
    standing,
)
from tests.support.noise import noise
from tests.support.quick import slowBut

pytestmark = pytest.mark.fuzz


#: Kinds of ends that a hunt of some length comes to.
ENDS = {
    "tftp": {"done", "probe", "aborted", "silent"},
    "multicast": {"done", "aborted", "silent"},
    "sbroadcast": {"done", "aborted", "silent"},
    "single-port": {"done", "probe", "aborted", "silent"},
    "mtftp": {"done", "aborted", "silent"},
    "slam": {"done", "silent"},
    # It transfers nothing itself.
    "proxydhcp": set(),
}


def test_everyTransport() -> None:
    """Every transport that comes with castd takes part in the attacks."""
    stock = {maker.name for maker in vars(castd_stock).values() if isinstance(maker, TransportMaker | ServiceMaker)}
    assert {TRANSPORTS.get(kind, kind) for kind in PORTS} == stock


@pytest.mark.slow
@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in QUICK, PORTS))
def test_noise(kind: str) -> None:
    """
    No traceback, no table above its limit, nothing that is left from round to round, and every honest client of every
    transport has its file in the end.
    """
    held: list[int] = []
    ends: set[str] = set()
    for seed, datagrams in rounds():
        ends |= hunted(kind, seed, datagrams)
        emptied()
        held.append(sys.getallocatedblocks())
    assert DATAGRAMS < ROUND or ends >= ENDS[kind], ends
    # The first rounds fill what is kept for all; after them there is nothing to keep.
    assert max(held) < max(held[:2]) + 2000, held


def hunted(kind: str, seed: int, datagrams: int) -> set[str]:
    """One round.  -> how transfers have ended in it."""
    with standing(seed) as ground:
        hunt = Hunt(ground, kind)
        hunt.run(datagrams)
        hunt.finish()
        return set(ground.ends[TRANSPORTS.get(kind, kind)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", PORTS)
def test_memory(kind: str) -> None:
    """The memory that is in use after a round is that after the one before it, to the octet almost."""
    sizes: list[int] = []
    tracemalloc.start()
    try:
        for seed in range(SEED, SEED + 5):
            hunted(kind, seed, 1500)
            emptied()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(sizes) < sizes[1] + 30_000, sizes


@pytest.mark.parametrize("kind", ["tftp", "single-port"])
def test_inStep(kind: str) -> None:
    """A client in lockstep, at whose very port others throw noise, is sent each block once, in order, at once."""
    with standing(SEED, faults=0.0) as ground:
        network, chance = ground.network, ground.chance
        hunt = Hunt(ground, kind)
        client, octets, number = RecordingClient(network.host("10.0.0.200"), 4000), b"", 0
        client.send(rrq("large", blksize=512), (SERVER, PORTS[kind]))
        letter = client.expect()
        tid = letter.source
        while not number or len(letter.datagram) == 516:
            client.send(buildAck(number), tid)
            for _ in range(5):
                network.forge(noise(chance, kind), chance.choice(hunt.sources), tid)
            number += 1
            letter = client.expect()
            assert letter.datagram[:4] == b"\0\3" + number.to_bytes(2, "big")
            octets += letter.datagram[4:]
        client.send(buildAck(number), tid)
        assert octets == LARGE
        ground.over()
