"""
The clients of MTFTP in all weathers, alone, together and mixed: who is done has the file, and nobody gets a wrong one.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from castd.packets.tftp import Data, Error, buildAck, parse
from castd.request import Peer
from castd.testing import Network, SentDatagram, pattern
from castd.testing.ports import VirtualPort
from tests.support.clients.mtftp import GROUP, SERVER, Atftp, Client, Efi, Ipxe
from tests.support.matrix import WEATHERS, Weather, compare
from tests.support.quick import slowBut
from tests.support.stage import MtftpStage

CONTENT = pattern(100_000)
COUNT = len(CONTENT) // 512 + 1
RUNS = Path(__file__).parent / "runs-mtftp.txt"
GATHER = {"gather": 0.1, "gatherLimit": 0.15}

CROWDS: dict[str, tuple[Any, ...]] = {
    "1 iPXE": (Ipxe,),
    "6 iPXE": (Ipxe,) * 6,
    "1 EFI": (Efi,),
    "6 EFI": (Efi,) * 6,
    "1 atftp": (Atftp,),
    "6 atftp": (Atftp,) * 6,
    "mixed": (Ipxe, Efi, Atftp) * 3,
}


def play(crowd: tuple[Any, ...], weather: Weather, seed: int = 3, apart: float = 0.05) -> tuple[MtftpStage, list[Any]]:
    """Let them begin one after the other, and everything end."""
    network = Network(seed, weather.loss, weather.duplicate, weather.reorder, latency=0.0005)
    with MtftpStage({"linux": CONTENT}, network=network, jitter=True, plain=True, **GATHER) as stage:
        clients = [kind(network.host(f"10.0.0.{10 + index}"), "linux") for index, kind in enumerate(crowd)]
        for index, client in enumerate(clients):
            network.callLater(index * apart, client.begin)
        network.run(lambda: all(client.over for client in clients), limit=900, datagrams=200_000)
        network.run(lambda: not stage.casts(), limit=900)
    return stage, clients


def excused(client: Client) -> bool:
    """
    Done, or gone for a reason that no server can do anything about.

    atftp does not repeat its request; EFI's client leaves for plain TFTP, unharmed, when it hears a pass begin while it
    is in the middle of one, or a block three times.
    """
    return client.done or (client.kind, client.failed) in (("atftp", "request lost"), ("EFI", "tftp"))


def number(sent: SentDatagram) -> int:
    """Return the number of a block."""
    return int.from_bytes(sent.datagram[2:4], "big")


@pytest.mark.slow
@pytest.mark.parametrize("name", slowBut(lambda name: name.startswith("1 "), CROWDS))
def test_runs(name: str) -> None:
    """The table's seconds and datagrams, for this crowd in every weather, where all were served who could be."""

    def run(weather: Weather) -> tuple[float, int] | None:
        stage, clients = play(CROWDS[name], weather)
        if not all(map(excused, clients)):
            return None
        return stage.network.seconds(), stage.network.sent

    compare(f"mtftp: {name}", run, RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed == 0, range(4)))
@pytest.mark.parametrize("weather", WEATHERS, ids=lambda weather: weather.name)
@pytest.mark.parametrize("name", slowBut(lambda name: name == "mixed", ["6 iPXE", "6 EFI", "6 atftp", "mixed"]))
def test_neverWrong(name: str, weather: Weather, seed: int) -> None:
    """
    Whoever is done has the file, octet for octet.

    An iPXE that leaves after it has heard the last block is refused by plain TFTP, if the server knows of it: its one
    request was not lost.  One client only cannot be helped: an atftp that believes itself master after the server gave
    it up does not look for what it lacks; up to 5 % loss none is given up that is alive.
    """
    stage, clients = play(CROWDS[name], weather, seed, apart=0.02 * seed)
    wrong = [client.kind for client in clients if client.done and client.octets != CONTENT]
    assert [kind for kind in wrong if kind != "atftp" or weather.loss <= 0.05] == []
    known = {event["peer"].partition(":")[0] for event in stage.told("received") if event["transport"] == "mtftp"}
    for client in clients:
        heard = client.host.addresses[0] in known
        if isinstance(client, Ipxe) and client.hazard and client.asked == 1 and heard:
            assert all(isinstance(parse(answer), Error) for answer in client.fallback)


@pytest.mark.parametrize("seed", slowBut(lambda seed: seed == 0, range(3)))
@pytest.mark.parametrize("weather", [WEATHERS[0], WEATHERS[4], WEATHERS[5]], ids=lambda weather: weather.name)
@pytest.mark.parametrize("name", slowBut(lambda name: name.startswith("1 "), CROWDS))
def test_allAreServed(name: str, weather: Weather, seed: int) -> None:
    """As long as nothing is lost, all are served, in whatever order they come."""
    _, clients = play(CROWDS[name], weather, seed, apart=0.03 * seed)
    assert [(client.kind, client.failed) for client in clients if not excused(client)] == []


@pytest.mark.parametrize("weather", WEATHERS, ids=lambda weather: weather.name)
@pytest.mark.parametrize("name", slowBut(lambda name: name.startswith("1 "), CROWDS))
def test_rules(name: str, weather: Weather) -> None:
    """
    What holds for all that a server ever sends, whatever the weather.

    From the request port alone; nothing but block 1 to one client, right before that to the group, or before a block
    beyond the second that went to the group before; nothing but DATA of 512 octets to the group, the last one shorter;
    no number beyond the end; and never 0.25 s without a packet while somebody is served.
    """
    stage, _ = play(CROWDS[name], weather)
    said = [each for each in stage.network.capture or () if each.source == SERVER]
    for each in said:
        packet = parse(each.datagram)
        assert isinstance(packet, Data)
        assert 1 <= packet.number <= COUNT
        assert packet.payload == CONTENT[(packet.number - 1) * 512 : packet.number * 512]
        assert each.destination == GROUP or packet.number == 1
    seen = set()
    for before, after in pairwise(said):
        seen.add(before.datagram)
        if before.destination != GROUP:
            assert after.destination == GROUP
            assert after.datagram == before.datagram or (number(after) > 2 and after.datagram in seen)
    group = [each for each in said if each.destination == GROUP]
    silences = [(before, after) for before, after in pairwise(group) if after.time - before.time >= 0.25]
    for before, after in silences:
        # Then nobody was there any more: what follows is the start of another pass.
        assert parse(after.datagram) == Data(1, CONTENT[:512]), (before.time, after.time)


class QuietNetwork(Network):
    """A network whose hosts report no closed ports, as iPXE does not."""

    def _bounce(self, sender: VirtualPort, destination: Peer) -> None:
        pass


@pytest.mark.slow
def test_theLastAckIsLost() -> None:
    """
    A master that has the file leaves, and its last ACK is lost.  Those who wait until it is given up lose datagrams,
    but not so many one after the other that one of them takes the group for silent.
    """
    network = QuietNetwork(seed=1, latency=0.0005)
    lost = []

    def loses(source: Peer, to: Peer, datagram: bytes) -> bool:
        if datagram == buildAck(COUNT) and not lost:
            lost.append(source)
        return bool(lost) and (source == lost[0] or (source == SERVER and network.random.random() < 0.05))

    with MtftpStage({"linux": CONTENT}, network=network, jitter=True, plain=True, **GATHER) as stage:
        clients = [Ipxe(network.host(f"10.0.0.{10 + index}"), "linux") for index in range(30)]
        for index, client in enumerate(clients):
            network.callLater(index * 0.01, client.begin)
        network.losing(loses)
        network.run(lambda: all(client.over for client in clients), limit=900, datagrams=200_000)
        network.run(lambda: not stage.casts(), limit=900)
    assert [client.failed for client in clients] == [""] * 30
    assert {client.octets for client in clients} == {CONTENT}
