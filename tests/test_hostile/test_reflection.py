"""
What is sent to an address that never proved itself, and to groups for its sake: the table of docs/security.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from castd.cast.allowance import UNVALIDATED_DEPTH, UNVALIDATED_RATE
from castd.packets.slam import buildList
from castd.packets.tftp import buildAck
from castd.request import Peer
from castd.testing import pattern
from tests.support.clients.tftp import rrq
from tests.support.hostile import PORTS, QUICK, SEED, SERVER, Honest, Tally, rounds, standing
from tests.support.lab.forging import forgedAnswer
from tests.support.noise import REQUESTS, SEEDS, mutated
from tests.support.quick import slowBut

pytestmark = pytest.mark.fuzz

#: Of IPv4 and UDP.
HEADERS = 28
VICTIMS = [f"10.0.0.{60 + number}" for number in range(20)]


class Bound(NamedTuple):
    """
    What one forged request draws at the most, of this transport.

    @ivar datagrams: to the address that it was forged for; C{octets}: of the largest of them.
    @ivar factor: octets drawn for each one forged, headers counted on both sides.
    @ivar group: datagrams to a group or broadcast address.
    """

    datagrams: int
    octets: int
    factor: float
    group: int


BOUNDS = {
    "tftp": Bound(4, 516, 52, 0),
    "multicast": Bound(7, 80, 8, 0),
    "sbroadcast": Bound(7, 80, 7, 0),
    "single-port": Bound(4, 516, 52, 0),
    "mtftp": Bound(6, 516, 78, 8),
    "slam": Bound(3, 21, 4, 1024),
    "proxydhcp": Bound(1, 300, 1.2, 0),
}


def row(kind: str, bound: Bound) -> str:
    """The line of the table in docs/security.md."""
    return f"| {kind} | {bound.datagrams} of {bound.octets} | {bound.factor:g} | {bound.group} |"


@pytest.mark.parametrize("kind", PORTS)
def test_oneRequest(kind: str) -> None:
    """One forged request draws no more than the table says, neither to its victim nor to any group."""
    bound = BOUNDS[kind]
    for request in REQUESTS[kind]:
        with standing(SEED, faults=0.0) as ground:
            network = ground.network
            tally = network.tallies[VICTIMS[0]] = Tally()
            network.forge(request, (VICTIMS[0], 2000), (SERVER, PORTS[kind]))
            ground.over()
            assert 0 < tally.datagrams <= bound.datagrams, request
            assert tally.largest <= bound.octets, request
            assert tally.octets + HEADERS * tally.datagrams <= bound.factor * (len(request) + HEADERS), request
            assert sum(each.datagrams for each in network.grouped.values()) <= bound.group, request


def test_theTable() -> None:
    """The figures of this page are those of docs/security.md."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert [row(kind, bound) for kind, bound in BOUNDS.items() if row(kind, bound) not in text] == []
    assert [drawnRow(kind, drawn) for kind, drawn in DRAWN.items() if drawnRow(kind, drawn) not in text] == []


class Drawn(NamedTuple):
    """
    What a request and twenty answers draw that are forged in one name, to the port that was asked.

    @ivar datagrams, octets: to that address; C{groupDatagrams}, C{groupOctets}: to groups.  Octets with headers.
    """

    datagrams: int
    octets: int
    groupDatagrams: int
    groupOctets: int


#: Octets of the file, of which windows of 64 blocks are asked for where there are windows.
FORGED_FILE = 3_000_000
FORGED_ANSWERS = 20
DRAWN = {
    "tftp": Drawn(4, 300, 0, 0),
    "multicast": Drawn(7, 500, 0, 0),
    "sbroadcast": Drawn(7, 500, 0, 0),
    "single-port": Drawn(2000, 3_000_000, 0, 0),
    "mtftp": Drawn(14, 7700, 110, 60_000),
    "slam": Drawn(10, 500, 1100, 1_650_000),
    "proxydhcp": Drawn(1, 350, 0, 0),
}


def drawnRow(kind: str, drawn: Drawn) -> str:
    """The line of the table in docs/security.md."""
    return f"| {kind} | {drawn.datagrams:,}; {drawn.octets:,} | {drawn.groupDatagrams:,}; {drawn.groupOctets:,} |"


@pytest.mark.parametrize("kind", PORTS)
def test_forgedConversation(kind: str) -> None:
    """A request and twenty answers that are forged in one name draw no more than the table says."""
    drawn = DRAWN[kind]
    request = rrq("large", blksize=1468, windowsize=64) if kind in ("tftp", "single-port") else REQUESTS[kind][0]
    with standing(SEED, faults=0.0, files={"large": pattern(FORGED_FILE)}) as ground:
        network = ground.network
        tally = network.tallies[VICTIMS[0]] = Tally()
        network.forge(request, (VICTIMS[0], 2000), (SERVER, PORTS[kind]))
        network.advance(0.05)
        for number in range(FORGED_ANSWERS):
            network.forge(forgedAnswer(kind, number), (VICTIMS[0], 2000), (SERVER, PORTS[kind]))
            network.advance(0.02)
        network.advance(40)
        ground.over()
        assert tally.datagrams <= drawn.datagrams
        assert tally.octets + HEADERS * tally.datagrams <= drawn.octets
        groups = network.grouped.values()
        assert sum(each.datagrams for each in groups) <= drawn.groupDatagrams
        assert sum(each.octets + HEADERS * each.datagrams for each in groups) <= drawn.groupOctets


@pytest.mark.slow
@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in QUICK, PORTS))
def test_forgedAddresses(kind: str) -> None:
    """
    Addresses in whose names everything is said, and that never answer, are sent no more datagrams than were forged for
    them and what the table has for each transfer, and ERRORs no faster than the limit.
    """
    bound = BOUNDS[kind]
    for seed, datagrams in rounds():
        with standing(seed, faults=0.0) as ground:
            network, chance = ground.network, ground.chance
            forged = dict.fromkeys(VICTIMS, 0)
            for victim in VICTIMS:
                network.tallies[victim] = Tally()
            for count in range(datagrams):
                victim = chance.choice(VICTIMS)
                said = mutated(chance, chance.choice(SEEDS[kind]), SEEDS[kind])
                network.forge(said, (victim, 2000 + count % 2), (SERVER, PORTS[kind]))
                forged[victim] += 1
                if count % 50 == 0:
                    network.advance(chance.choice((0.01, 0.5)))
            ground.over()
            where = f"{kind}, seed {seed}"
            for victim, tally in network.tallies.items():
                limits = ground.site.limits
                # What was forged is answered once each at the most; a transfer is repeated, to one port of 64.
                lasting = ground.network.seconds() / 15 + 2
                repeats = (bound.datagrams - 1) * min(forged[victim], limits.perPeer * lasting)
                if kind != "single-port":
                    assert tally.datagrams <= forged[victim] + repeats, (where, victim, tally.kinds)
                assert tally.largest <= 1472, where
                errors = [time for time, head in tally.log if head == b"\0\5"]
                most = round(2 * limits.errorsPerPeer) + 1
                assert all(late - early > 1 for early, late in zip(errors, errors[most:], strict=False)), where


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", slowBut(lambda kind: kind in QUICK, ["tftp", "multicast", "sbroadcast", "single-port"])
)
def test_errorStorm(kind: str) -> None:
    """However many bad requests come, an address gets twenty ERRORs a second and all together two hundred."""
    with standing(SEED, faults=0.0) as ground:
        network, limits, bad = ground.network, ground.site.limits, rrq("nothere", multicast="", sbroadcast="x")
        for victim in VICTIMS:
            network.tallies[victim] = Tally()
        for count in range(6000):
            victim = VICTIMS[0] if count < 2000 else VICTIMS[count % 20]
            network.forge(bad, (victim, 2000 + count), (SERVER, PORTS[kind]))
            network.advance(0.001)
            if count == 1999:
                assert network.tallies[VICTIMS[0]].datagrams <= 3 * limits.errorsPerPeer
        told = sum(each.datagrams for each in network.tallies.values())
        assert 2 * limits.errors < told <= 2 * limits.errorsPerPeer + 6 * limits.errors
        ground.over()


@pytest.mark.slow
@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in QUICK, PORTS))
def test_requestStorm(kind: str) -> None:
    """
    A thousand requests a second in the name of one address draw what 64 transfers do, or fifty answers a second.
    """
    bound = BOUNDS[kind]
    with standing(SEED, faults=0.0) as ground:
        network, limits = ground.network, ground.site.limits
        request = REQUESTS[kind][0]
        many, one = network.tallies[VICTIMS[0]], network.tallies[VICTIMS[1]] = Tally(), Tally()
        for count in range(3000):
            network.forge(request, (VICTIMS[0], 2000 + count), (SERVER, PORTS[kind]))
            network.forge(request, (VICTIMS[1], 2000), (SERVER, PORTS[kind]))
            network.advance(0.001)
        network.advance(8)
        if kind == "proxydhcp":
            # Answers are counted by the machine that the request names, and the address that it asks from.
            assert 0 < many.datagrams <= 8
            assert 0 < one.datagrams <= 8
        else:
            assert 0 < many.datagrams <= limits.perPeer * bound.datagrams
            assert 0 < one.datagrams <= 4 * limits.newPerPeer + 2 * bound.datagrams
        ground.over()


@pytest.mark.parametrize("kind", ["tftp", "multicast", "sbroadcast"])
@pytest.mark.slow
def test_blindAnswers(kind: str) -> None:
    """
    Whoever cannot see the answers cannot acknowledge them: with each transfer at a port of its own, drawn at random,
    ten thousand guesses draw no block, start no group, and keep nothing alive.
    """
    with standing(SEED, faults=0.0) as ground:
        network, chance = ground.network, ground.chance
        tally = network.tallies[VICTIMS[0]] = Tally()
        victim: Peer = (VICTIMS[0], 2000)
        request = REQUESTS[kind][1]
        for count in range(10_000):
            if count % 1000 == 0:
                network.forge(request, victim, (SERVER, PORTS[kind]))
            # Those that happen to be right are no guesses: each port is one of 16384.
            port = chance.randrange(49152, 65536)
            if not any(each.address[1] == port for each in ground.site.ports.openPorts()):
                network.forge(buildAck(count % 4), victim, (SERVER, port))
            network.forge(buildAck(count % 4), victim, (SERVER, PORTS[kind]))
            if count % 10 == 0:
                network.advance(0.01)
        ground.over()
        assert tally.kinds[b"\0\3"] == tally.kinds[b"\0\7"] == 0
        assert network.grouped == {}


@pytest.mark.slow
def test_groupsWithoutProof() -> None:
    """
    However often lists of a long file are forged in the names of many who never answer a question, SLAM's group gets a
    thousand blocks and then 64 a second: no stream is kept alive, and the addresses are asked ten times a second.
    """
    large = pattern(6_000_000)
    with standing(SEED, faults=0.0, files={"large": large}) as ground:
        network, chance = ground.network, ground.chance
        for victim in VICTIMS:
            network.tallies[victim] = Tally()
        for count in range(1200):
            start, length = chance.randrange(4000), chance.choice((1, 4, 1000, 1 << 40))
            source = (VICTIMS[count % 20], 2000 + count)
            network.forge(buildList([range(start, start + length)]), source, (SERVER, PORTS["slam"]))
            network.advance(0.05)
        group = sum(each.datagrams for each in network.grouped.values())
        assert 1000 < group <= UNVALIDATED_DEPTH + 62 * UNVALIDATED_RATE, group
        assert sum(each.datagrams for each in network.tallies.values()) <= 62 * 100
        ground.over()


@pytest.mark.slow
def test_forgedListsBesideAClient() -> None:
    """A SLAM client that answers is served in full and in time while lists are forged in the names of others."""
    with standing(SEED, faults=0.0) as ground:
        network, chance = ground.network, ground.chance
        for victim in VICTIMS:
            network.tallies[victim] = Tally()
        honest: Honest | None = None
        for count in range(2000):
            source = (VICTIMS[count % 20], 2000 + count)
            network.forge(buildList([range(chance.randrange(28), 1 << 40)]), source, (SERVER, PORTS["slam"]))
            network.advance(0.005)
            if count == 1000:
                honest = Honest(ground, "slam", "10.0.0.150")
        assert honest is not None
        assert honest.right
        ground.over()
