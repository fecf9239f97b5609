"""While 5,000 requests a second are forged at a running castd, who was never served gets a first answer within 2 s."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.clients.tftp import rrq
from tests.support.jobs import eventually
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER
from tests.support.lab.forging import Client, attacker, flood, routed
from tests.support.lab.hall import Hall

pytestmark = [pytest.mark.e2e, pytest.mark.root]

RATE, FIRST = 5000, 2.0
CLIENTS, PROMISED = 9, 5
"""How many ask, and how many must be answered in time: a machine that does much else may be late for some."""
PATIENCE = 4.0


def test_firstAnswer(hall: Hall, serve: Serve, shelf: Shelf) -> None:
    """Most clients have a file of one block within two seconds, in which they ask twice."""
    name = shelf.add("one-block", b"x" * 300)
    serve(tftp={"port": 69, "interface": SERVER})
    routed(hall.hosts["server"])
    stranger = attacker(hall)
    addresses = [f"10.77.3.{number}" for number in range(1, CLIENTS + 1)]
    honest = hall.host("honest", *addresses)
    with flood(stranger, (SERVER, 69), RATE, [rrq(shelf.sized(1024 * 1024), timeout=255)]):
        eventually(lambda: stranger.counters().sent > 2 * RATE, "a flood", 30)
        took = [Client(honest, address, (SERVER, 69), "tftp", rrq(name)).fetch(PATIENCE) for address in addresses]
    assert sum(each is not None and each <= FIRST for each in took) >= PROMISED, took
