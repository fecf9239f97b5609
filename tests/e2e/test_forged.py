"""
Forged datagrams at a running castd: whoever has read a file himself learns nothing that helps to speak for another.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

import pytest

from castd.testing import pattern
from tests.support.lab.castd import Alone, Peer, served

pytestmark = pytest.mark.e2e

ATTACKER, VICTIM = "127.0.0.2", "127.0.0.3"
LARGE = pattern(2_500_000)
WINDOW = 64
ROUNDS = 10
#: What is forged in one round: a request and so many ACKs, one for each window.
ACKS = 20
#: Octets that a request alone draws: its OACK and three repetitions (docs/security.md).
OACKS = 4 * 80


@pytest.fixture(scope="module")
def castd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("forged")
    (folder / "root").mkdir()
    (folder / "root" / "large").write_bytes(LARGE)
    (folder / "root" / "small").write_bytes(LARGE[:5000])
    made = Alone(folder, {"content": [{"directory": {"path": str(folder / "root")}}]})
    yield made
    made.end()


class Learner(Peer):
    """
    A client that reads a file from the attacker's address.

    @ivar learnt: the ports that it was answered from.
    """

    def __init__(self, castd: Alone, name: str) -> None:
        super().__init__(castd.port, name)
        self.socket.bind((ATTACKER, 0))

    @property
    def learnt(self) -> int:
        return int(self._server[1])


def learn(castd: Alone, transfers: int) -> list[int]:
    """Read a file so many times, one after the other.  -> the ports that castd has used for that."""
    ports = []
    for _ in range(transfers):
        learner = Learner(castd, "small")
        served([learner])
        assert bytes(learner.data) == LARGE[:5000]
        ports.append(learner.learnt)
    return ports


def ask(name: str) -> bytes:
    return b"\0\1" + name.encode() + b"\0octet\0blksize\0001468\0windowsize\000%d\0" % WINDOW


def drawn(victim: socket.socket, seconds: float) -> int:
    """Return octets of the datagrams that arrive at this address, until none has come for so long."""
    octets = 0
    while select.select([victim], [], [], seconds)[0]:
        octets += len(victim.recv(65535))
    return octets


def test_forgedAcknowledgements(castd: Alone) -> None:
    """Ten times: an attacker learns ports by transfers of its own, then asks and acknowledges in the victim's name."""
    totals = []
    for _ in range(ROUNDS):
        ports = learn(castd, 3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as victim:
            victim.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            victim.bind((VICTIM, 0))
            victim.sendto(ask("large"), ("127.0.0.1", castd.port))
            octets = drawn(victim, 0.05)
            for number in range(ACKS):
                for port in ports:
                    victim.sendto(b"\0\4" + (WINDOW * number).to_bytes(2, "big"), ("127.0.0.1", port))
                octets += drawn(victim, 0.002)
            totals.append(octets)
    *most, luckiest = sorted(totals)
    assert luckiest > 0
    # The kernel may draw a number again that it has drawn before: once in ten thousand rounds.
    assert max(most) <= OACKS


def test_forgedErrors(castd: Alone) -> None:
    """Ten times: an attacker sends ERRORs in the name of a client to each port that it knows; the client is served."""
    whole = []
    for _ in range(ROUNDS):
        ports = learn(castd, 3)
        client = Peer(castd.port, "large")
        client.socket.bind((VICTIM, 0))
        client.turn()
        for _ in range(200):
            client.turn()
            for port in ports:
                client.socket.sendto(b"\0\5\0\0enough\0", ("127.0.0.1", port))
        until = time.monotonic() + 10
        while not client.done and time.monotonic() < until:
            select.select([client.socket], [], [], 0.05)
            client.turn()
        client.socket.close()
        whole.append(bytes(client.data) == LARGE)
    # As above: a number may be drawn again.
    assert sum(whole) >= ROUNDS - 1
