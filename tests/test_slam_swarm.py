"""
Two hundred receivers and one sweep: blocks sent for each block of the file, beside what no repair without a code can go
below.

A megabyte here; C{CASTD_SWARM_MB=50} in the environment is for runs by hand, which take minutes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from tests.support.clients.slam_client import Etherboot, Ipxe
from tests.support.quick import slowBut
from tests.support.slam_hall import Hall, floor, image

pytestmark = pytest.mark.slow

RECEIVERS = 200
SIZE = int(float(os.environ.get("CASTD_SWARM_MB", "1")) * (1 << 20))
CROWDS: dict[str, list[Callable[[int], Etherboot | Ipxe]]] = {
    "ipxe": [Ipxe],
    "etherboot": [Etherboot],
    "mixed": [Ipxe, Etherboot],
}


def swarm(crowd: str, loss: float, over: float, capsys: pytest.CaptureFixture[str]) -> Hall:
    """
    All get the file.

    @param over: the part of the pass over which they join; the first one begins it a second after it was switched on.
    """
    hall = Hall(image(SIZE), loss=loss, seed=3)
    kinds = CROWDS[crowd]
    hall.sit(Ipxe(0), 0.0)
    for number in range(1, RECEIVERS):
        hall.sit(
            kinds[number % len(kinds)](number), 1.0 + hall.chance.random() * over * SIZE / hall.rate if over else 0.0
        )
    hall.run(2.0, until=lambda: len(hall.clients) == RECEIVERS)
    hall.run(4000.0 * max(1, SIZE >> 20), until=hall.finished)
    clients = hall.clients.values()
    assert [client.failed for client in clients if client.failed] == []
    assert all(client.done for client in clients)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{crowd}, {SIZE} octets, loss {loss:.0%}, joining over {over:.0%} of the pass: "
            f"{hall.ratio:.3f} sent, floor {floor(RECEIVERS, loss):.3f}, {hall.now:.1f} s, "
            f"{hall.sweep.questions} questions"
        )
    return hall


@pytest.mark.parametrize("crowd", slowBut(lambda crowd: crowd == "mixed", CROWDS))
def test_withoutLoss(crowd: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without loss the file is sent once and hardly a block more."""
    assert swarm(crowd, 0.0, 0.0, capsys).ratio <= 1.05


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("crowd", CROWDS)
def test_withLoss(crowd: str, loss: float, capsys: pytest.CaptureFixture[str]) -> None:
    """With loss hardly a block is sent that nobody lacks."""
    assert swarm(crowd, loss, 0.0, capsys).ratio <= 1.1 * floor(RECEIVERS, loss)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("crowd", CROWDS)
def test_joining(crowd: str, loss: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Who joins during the first tenth costs that tenth once for all, and a little."""
    most = 1.1 * floor(RECEIVERS, loss) if loss else 1.05
    assert swarm(crowd, loss, 0.1, capsys).ratio <= most + 0.15
