"""
Random, mutated and replayed datagrams against every kind of port, while honest clients of every transport are served.
"""

from __future__ import annotations

import tracemalloc

import pytest

from castd.packets.tftp import buildAck
from castd.testing import Mailbox
from tests.test_hostile.ground import LARGE, PORTS, SERVER, TRANSPORTS, standing
from tests.test_hostile.hunts import DATAGRAMS, ROUND, SEED, Hunt, emptied, rounds
from tests.test_hostile.words import noise
from tests.tftp import rrq

pytestmark = pytest.mark.fuzz


#: Kinds of ends that a hunt of some length comes to.
ENDS = {
    "tftp": {"done", "probe", "aborted", "silent"},
    "multicast": {"done", "aborted", "silent"},
    "sbroadcast": {"done", "aborted", "silent"},
    "single-port": {"done", "probe", "aborted", "silent"},
    "mtftp": {"done", "aborted", "silent"},
    "slam": {"done", "silent"},
}


@pytest.mark.parametrize("kind", PORTS)
def test_noise(kind: str) -> None:
    """
    No traceback, no table above its limit, no memory that grows from round to round, and every honest client of every
    transport has its file in the end.
    """
    sizes: list[int] = []
    ends: set[str] = set()
    tracemalloc.start()
    try:
        for seed, datagrams in rounds():
            with standing(seed) as ground:
                hunt = Hunt(ground, kind)
                hunt.run(datagrams)
                hunt.finish()
                ends |= set(ground.ends[TRANSPORTS.get(kind, kind)])
            del ground, hunt
            emptied()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert DATAGRAMS < ROUND or ends >= ENDS[kind], ends
    # The first round fills what is kept for all; after it there is nothing to keep.
    assert max(sizes) < sizes[0] + 200_000, sizes


@pytest.mark.parametrize("kind", ["tftp", "single-port"])
def test_inStep(kind: str) -> None:
    """A client in lockstep, at whose very port others throw noise, is sent each block once, in order, at once."""
    with standing(SEED, faults=0.0) as ground:
        network, chance = ground.network, ground.chance
        hunt = Hunt(ground, kind)
        client, octets, number = Mailbox(network.host("10.0.0.200"), 4000), b"", 0
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
