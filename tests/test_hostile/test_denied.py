"""
Who is denied gets not one octet of content, whatever it says and whoever else is served.
"""

from __future__ import annotations

from typing import Any

import pytest

from castd.files.access import Rule, Rules
from castd.packets.tftp import Error, parse
from castd.request import Request
from tests.support.hostile import DATAGRAMS, PORTS, QUICK, SEED, SERVER, Honest, Tally, standing
from tests.support.noise import noise
from tests.support.quick import slowBut

pytestmark = pytest.mark.fuzz

DENIED = "10.0.0.66"


def rules() -> Any:
    """Return what a site asks: this one address may nothing, all others everything."""
    ruled = Rules([Rule(deny=DENIED), Rule(allow="any")])

    def check(request: Request) -> None:
        ruled.check(request.peer[0], request.name, write=request.write)

    return check


class Heard(Tally):
    """What the denied one was sent, read."""

    __slots__ = ("packets",)

    def __init__(self) -> None:
        super().__init__()
        self.packets: list[bytes] = []

    def note(self, datagram: bytes, now: float) -> None:
        super().note(datagram, now)
        self.packets.append(datagram)


@pytest.mark.slow
@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in QUICK, PORTS))
def test_nothingButErrors(kind: str) -> None:
    """A denied address that says everything to every port that is open is sent ERRORs, or nothing at all."""
    with standing(SEED, access=rules()) as ground:
        network, chance = ground.network, ground.chance
        heard = network.tallies[DENIED] = Heard()
        honest = Honest(ground, kind, "10.0.0.150")
        for count in range(min(DATAGRAMS, 20_000)):
            ports = [port.address for port in ground.site.ports.openPorts()]
            where = (SERVER, PORTS[kind]) if count % 2 else chance.choice(ports)
            network.forge(noise(chance, kind), (DENIED, 2000 + count % 3), where)
            if count % 8 == 0:
                network.advance(0.005)
        network.run(lambda: honest.result is not None, limit=300)
        assert honest.right
        ground.over()
        assert all(isinstance(parse(each), Error) for each in heard.packets), heard.kinds
        assert kind in ("mtftp", "slam", "proxydhcp") or heard.packets


@pytest.mark.slow
@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in QUICK, PORTS))
def test_noGroupForTheDenied(kind: str) -> None:
    """Nothing goes to any group for the sake of an address that is denied."""
    with standing(SEED, access=rules()) as ground:
        network, chance = ground.network, ground.chance
        network.tallies[DENIED] = Tally()
        for count in range(min(DATAGRAMS, 20_000)):
            network.forge(noise(chance, kind), (DENIED, 2000), (SERVER, PORTS[kind]))
            if count % 8 == 0:
                network.advance(0.05)
        ground.over()
        assert network.grouped == {}
