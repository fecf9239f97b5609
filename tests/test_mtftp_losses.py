"""
No image of MTFTP has a hole, and none takes long: hundreds of runs at 5 % loss, and with bursts of loss.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from castd.dialects import mtftp_cast
from castd.request import Peer
from castd.testing import Network, pattern
from tests.support.clients.mtftp import Atftp, Client
from tests.support.quick import slowBut
from tests.support.stage import MtftpStage

#: Runs of each kind.
RUNS = int(os.environ.get("CASTD_LOSSES", "4"))
SEED = int(os.environ.get("CASTD_SEED", "1"))
MEBIBYTE = pattern(1 << 20)
SMALL = pattern((1 << 17) + 7)
#: Lengths of bursts of loss, and the share of the time that they take.  Seconds.
SHORTEST, LONGEST, SHARE = 0.02, 0.3, 0.05


class Bursts:
    """Loses all that comes from or goes to each client, in bursts."""

    def __init__(self, network: Network, seed: int) -> None:
        self._network, self._seed = network, seed
        self._wires: dict[str, Iterator[tuple[float, float]]] = {}
        self._next: dict[str, tuple[float, float]] = {}

    def _bursts(self, host: str) -> Iterator[tuple[float, float]]:
        """Return when each burst begins and ends."""
        chance, now = Random(f"{self._seed} {host}"), 0.0
        pause = (SHORTEST + LONGEST) / 2 * (1 - SHARE) / SHARE
        while True:
            began = now + chance.expovariate(1 / pause)
            now = began + chance.uniform(SHORTEST, LONGEST)
            yield began, now

    def __call__(self, source: Peer, destination: Peer, datagram: bytes) -> bool:
        host = destination[0] if source[0] == "10.0.0.1" else source[0]
        now = self._network.seconds()
        wire = self._wires.setdefault(host, self._bursts(host))
        burst = self._next.get(host) or next(wire)
        while burst[1] <= now:
            burst = next(wire)
        self._next[host] = burst
        return burst[0] <= now


def play(content: bytes, count: int, seed: int, loss: float, bursts: bool = False) -> tuple[float, list[Any]]:
    """
    Let so many atftp read a file at the same time.

    @return: seconds until the last one has it, and the clients.
    """
    network = Network(seed, loss, latency=0.0002, capture=False)
    if bursts:
        network.losing(Bursts(network, seed))
    with MtftpStage({"linux": content}, network=network, jitter=True, gather=0.1, gatherLimit=0.15):
        clients = [Atftp(network.host(f"10.0.0.{10 + number}"), "linux") for number in range(count)]
        for client in clients:
            client.begin()
        network.run(lambda: all(client.over for client in clients), limit=900, datagrams=500_000)
    return network.seconds(), clients


def lostRequest(client: Client) -> bool:
    """Return whether it died of its own request, which atftp does not repeat."""
    return client.failed == "request lost"


def wrong(clients: list[Any], content: bytes) -> int:
    """Return how many have an image that is not the file."""
    return sum(client.done and client.octets != content for client in clients)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("bursts", [False, True], ids=["5 %", "bursts"])
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed == SEED, range(SEED, SEED + RUNS)))
def test_noHole(seed: int, bursts: bool, count: int) -> None:
    """Each has the file, octet for octet, but for one whose request was lost."""
    _, clients = play(SMALL, count, seed, loss=0.01 if bursts else 0.05, bursts=bursts)
    assert wrong(clients, SMALL) == 0
    assert [client.failed for client in clients if not client.done and not lostRequest(client)] == []


@pytest.mark.slow
@pytest.mark.parametrize(("count", "limit"), [(1, 60.0), (4, 120.0)])
def test_seconds(count: int, limit: float) -> None:
    """A mebibyte at 5 % loss: one has it within a minute, four have it within two."""
    seconds, clients = play(MEBIBYTE, count, SEED, 0.05)
    assert [client.octets == MEBIBYTE for client in clients] == [True] * count
    assert seconds <= limit


@pytest.mark.slow
@pytest.mark.parametrize("bursts", [False, True], ids=["5 %", "bursts"])
def test_holesAreSeen(monkeypatch: pytest.MonkeyPatch, bursts: bool) -> None:
    """If the next block followed the second copy of each already, these runs would show wrong images."""
    monkeypatch.setattr(mtftp_cast, "COPIES_ALONE", 1)
    monkeypatch.setattr(mtftp_cast, "REMINDERS", range(0))
    _, clients = play(SMALL, 4, SEED, loss=0.05, bursts=bursts)
    assert wrong(clients, SMALL) > 0
