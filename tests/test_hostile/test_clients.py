"""
The client's halves against servers that are not what they seem: castd get and put end, one way or the other.
"""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import MulticastJoinError

from castd.cast.policy import RetransmitPolicy
from castd.client.client import fetch, send
from castd.client.transfer import ClientTransfer, Report, TransferError
from castd.client.urls import parseUrl
from castd.errors import CastdError, WireError
from castd.packets.slam import LARGEST, Header
from castd.packets.tftp import buildOack
from castd.receive import slam
from castd.receive.group import SbroadcastDownload
from castd.receive.options import RequestedOptions
from castd.request import Peer
from castd.testing import Network, ReceivedFile, RecordingClient
from castd.testing.ports import VirtualPort
from tests.support.hostile import DATAGRAMS, LARGE, PORTS, QUICK, SEED, SERVER, rounds, standing
from tests.support.noise import SEEDS, noise
from tests.support.quick import slowBut

pytestmark = pytest.mark.fuzz

CLIENT = "10.0.0.9"
KINDS = ("tftp", "put", "multicast", "sbroadcast", "mtftp", "slam")


class Nowhere:
    """Keeps nothing, and counts."""

    def __init__(self) -> None:
        self.octets = 0

    def write(self, data: bytes) -> None:
        self.octets += len(data)

    def writeAt(self, offset: int, data: bytes) -> None:
        self.octets += len(data)


def begun(network: Network, kind: str, sink: Any) -> Deferred[Report]:
    """A client that has asked."""
    host = network.host(CLIENT)
    if kind == "sbroadcast":
        half = SbroadcastDownload("large", "255.255.255.0", RequestedOptions(blksize=1464))
        return ClientTransfer(host, half, (SERVER, 69), sink, None).start()
    scheme = {"multicast": "tftm", "put": "tftp"}.get(kind, kind)
    url = parseUrl(f"{scheme}://{SERVER}:{PORTS.get(kind, 69)}/{'' if kind == 'slam' else 'large'}")
    if kind == "put":
        return send(host, url, len(LARGE), lambda start, length: LARGE[start : start + length])
    return fetch(host, url, sink)


class Impostor:
    """
    A server that says anything, from the port that was asked, from one of its own, to the client and to its group.

    @ivar said: datagrams to the client; C{heard}: of the client.
    """

    def __init__(self, seed: int, kind: str) -> None:
        self.network, self.chance, self.kind = Network(seed, latency=0.0002), random.Random(seed), kind
        self.network.host(f"{SERVER}/24")
        self.said = 0
        self.results: list[Any] = []
        self.sink = Nowhere()
        self.asked = begun(self.network, kind, self.sink)
        self.asked.addBoth(self.results.append)
        self.protocol = "tftp" if kind == "put" else kind

    @property
    def heard(self) -> int:
        assert self.network.capture is not None
        return sum(each.source[0] == CLIENT for each in self.network.capture)

    def speak(self, most: int) -> int:
        """Until the client has had enough, and at most so many datagrams.  -> how many."""
        chance, network = self.chance, self.network
        sources = [(SERVER, PORTS.get(self.kind, 69)), (SERVER, 3000), (SERVER, 3001), ("10.0.0.99", 69)]
        while self.said < most and not self.results:
            ports = network.host(CLIENT).openPorts()
            source = sources[0] if chance.random() < 0.7 else chance.choice(sources)
            self.said += 1
            self._deliver(noise(chance, self.protocol), source, chance.choice(ports))
            if chance.random() < 0.1:
                network.advance(chance.choice((0.001, 0.02, 0.3)))
        return self.said

    def _deliver(self, datagram: bytes, source: Peer, port: Any) -> None:
        if not port.closed:
            port.receive(datagram, source, None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in QUICK, KINDS))
def test_impostors(kind: str) -> None:
    """
    Whatever a forged server says, a transfer ends with a report or with an error that has a name, within the time that
    silence is borne; it says no more than it hears and its timer allows, keeps nothing open, and takes little memory.
    """
    outcomes: set[str] = set()
    for seed, datagrams in rounds():
        left, turn = datagrams, 0
        while left > 0:
            turn += 1
            impostor = Impostor(seed * 10_000 + turn, kind)
            left -= max(1, impostor.speak(min(left, 400)))
            impostor.network.run(lambda: impostor.results, limit=120)  # noqa: B023
            impostor.network.advance(60)
            where = f"{kind}, seed {seed}, turn {turn}"
            result = impostor.results[0]
            error = getattr(result, "value", None)
            assert isinstance(result, Report) or isinstance(error, CastdError), (where, result)
            outcomes.add(error.outcome if isinstance(error, TransferError) else "done")
            assert not impostor.network.host(CLIENT).openPorts(), where
            assert not impostor.network.getDelayedCalls(), where
            assert impostor.heard <= 17 * (impostor.said + 40), where
    assert DATAGRAMS < 2000 or outcomes >= {"done" if kind != "put" else "aborted"}, outcomes


@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in QUICK, KINDS))
def test_memory(kind: str) -> None:
    """What a forged server can make a client take is less than 20 MB, however large the file it tells of."""
    tracemalloc.start()
    try:
        for turn in range(40):
            tracemalloc.clear_traces()
            impostor = Impostor(SEED * 1000 + turn, kind)
            impostor.network.capture = None
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            impostor.speak(100)
            assert tracemalloc.get_traced_memory()[1] - before < 20_000_000, f"{kind}, turn {turn}"
            impostor.asked.cancel()
    finally:
        tracemalloc.stop()


class Offered:
    """A C{tftm} client that has asked, and a server that grants it whatever group."""

    def __init__(self) -> None:
        self.network = Network(1, latency=0.0002)
        self.server = RecordingClient(self.network.host(SERVER), 69)
        self.results: list[Any] = []
        begun(self.network, "multicast", Nowhere()).addBoth(self.results.append)
        self.client = self.server.expect().source

    def grant(self, value: str) -> str:
        """Return how it ended."""
        self.server.send(buildOack((("multicast", value),)), self.client)
        self.network.advance(0.1)
        return str(self.results[0].value)


def test_aPortThatIsTaken() -> None:
    """A group whose port is not to be had here ends the transfer with the reason, and the server is told."""
    offered = Offered()
    RecordingClient(offered.network.host(CLIENT), 1758)
    assert "cannot listen to 239.255.0.1, port 1758" in offered.grant("239.255.0.1,1758,1")
    assert offered.server.expect().datagram[:4] == b"\0\5\0\0"


def test_notLetIn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that the system does not let us into ends the transfer with the reason, and nothing is left unhandled."""
    offered = Offered()
    monkeypatch.setattr(VirtualPort, "joinGroup", lambda *_: fail(MulticastJoinError("no such device")))
    assert "cannot join the group: no such device" in offered.grant("239.255.0.1,1758,1")


@pytest.mark.parametrize("size", [LARGEST, 65 << 20])
def test_moreBlocksThanAnybodyHas(size: int) -> None:
    """A SLAM header that tells of 2**53 octets in blocks of one takes no memory and is not believed."""
    half = slam.SlamDownload(RetransmitPolicy())
    half.begin(0.0)
    with pytest.raises(WireError):
        half.receive(Header(1, size, 1).build(), 0.1)
    assert half.receive(Header(1, 10, 4).build(), 0.2) == (None, [bytes.fromhex("202300")])


@pytest.mark.parametrize("kind", ["tftp", "put", "multicast", "sbroadcast"])
def test_strangersBesideTheServer(kind: str) -> None:
    """What others than the server say to a client's port does not spoil its transfer, and few of them are answered."""
    with standing(SEED, faults=0.0) as ground:
        network, chance, copy = ground.network, ground.chance, ReceivedFile()
        network.honest.add(CLIENT)
        results: list[Any] = []
        begun(network, kind, copy).addBoth(results.append)
        for _ in range(min(DATAGRAMS, 20_000)):
            for port in network.host(CLIENT).openPorts():
                stranger = ("10.0.0.99", chance.randrange(1024, 65536))
                network.forge(chance.choice(SEEDS["tftp"]), stranger, port.address)
            network.advance(0.0005)
            if results:
                break
        network.run(lambda: results, limit=60)
        assert isinstance(results[0], Report), results
        assert copy.data == LARGE if kind != "put" else ground.uploads.files["large"] == LARGE
        assert sum(destination[0] == "10.0.0.99" for _, destination, _ in network.tape) <= 20
        ground.over()
