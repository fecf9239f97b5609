"""
What an honest client has said, said again: by others, from its own address, and after its end.
"""

from __future__ import annotations

import pytest

from castd.request import Peer
from tests.support.hostile import PORTS, SEED, SERVER, STRANGERS, Ground, Honest, Tally, standing

pytestmark = pytest.mark.fuzz

FIRST, SECOND = "10.0.0.150", "10.0.0.151"
Tape = list[tuple[Peer, Peer, bytes]]


def recorded(ground: Ground, kind: str) -> Tape:
    """A whole conversation of a first client, which is over."""
    first = Honest(ground, kind, FIRST)
    ground.network.run(lambda: first.result is not None, limit=60)
    ground.network.advance(60)
    assert first.right
    tape = list(ground.network.tape)
    assert tape
    assert {source[0] for source, _, _ in tape} == {FIRST}
    return tape


def served(ground: Ground, kind: str, tape: Tape, source: Peer | None = None) -> None:
    """While a second client is served the tape is played again and again, in and out of order."""
    second = Honest(ground, kind, SECOND)
    network, chance = ground.network, ground.chance
    for lap in range(3):
        said = list(tape) if not lap else chance.sample(tape, len(tape))
        for origin, destination, datagram in said:
            network.forge(datagram, source or origin, destination)
            if second.result is None:
                # To where the second one is served, too.
                network.forge(datagram, source or origin, network.tape[-1][1])
            network.advance(chance.choice((0.0, 0.0005, 0.01)))
    network.run(lambda: second.result is not None, limit=300)
    assert second.right, (kind, second.result)
    ground.over()


@pytest.mark.parametrize("kind", PORTS)
def test_fromAnotherAddress(kind: str) -> None:
    """Played by a stranger who hears the answers, a conversation disturbs nobody."""
    with standing(SEED) as ground:
        ground.network.strangers.update(STRANGERS)
        served(ground, kind, recorded(ground, kind), (STRANGERS[0], 2000))


@pytest.mark.parametrize("kind", PORTS)
def test_fromItsOwnAddress(kind: str) -> None:
    """Played in the name of the client that it was recorded from, after its end, a conversation disturbs nobody."""
    with standing(SEED) as ground:
        served(ground, kind, recorded(ground, kind))


@pytest.mark.parametrize("kind", PORTS)
def test_echoed(kind: str) -> None:
    """A client each of whose datagrams comes twice more, at once and late, gets its file, and the server lets go."""
    with standing(SEED, faults=0.0) as ground:
        network, client, played = ground.network, Honest(ground, kind, SECOND), 0
        for _ in range(4000):
            network.advance(0.001)
            fresh, played = list(network.tape)[played:], len(network.tape)
            for source, destination, datagram in fresh + fresh[:1]:
                network.forge(datagram, source, destination)
            if client.result is not None:
                break
        network.run(lambda: client.result is not None, limit=60)
        assert client.right, (kind, client.result)
        ground.over()


@pytest.mark.parametrize("kind", ["tftp", "multicast", "sbroadcast"])
def test_toAnAddressThatIsSilent(kind: str) -> None:
    """
    Where each transfer has a port of its own, a conversation played once more draws no more than its request alone:
    whoever cannot see the answers does not know where the rest of it should go.
    """
    with standing(SEED, faults=0.0) as ground:
        tape = recorded(ground, kind)
        victim = ground.network.tallies["10.0.0.66"] = Tally()
        ground.network.grouped.clear()
        for _, destination, datagram in tape:
            ground.network.forge(datagram, ("10.0.0.66", 2000), destination)
            ground.network.forge(datagram, ("10.0.0.66", 2000), (SERVER, PORTS[kind]))
            ground.network.advance(0.01)
        ground.over()
        assert 0 < victim.datagrams <= 9
        assert not ground.network.grouped
