"""
TFTP as the operator has configured it: switches, caps and rates, and the other address family.
"""

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from castd.dialects.tftp import Dialect, Options
from castd.errors import Forbidden
from castd.options import Limits
from castd.pacing import BURST
from castd.packets.tftp import Data, Oack
from castd.server.listener import Listener
from castd.testing import Network, RecordingClient, memorySite, pattern
from tests.support.clients.tftp import PLAIN, Simulated, ackedTo, data, download, rrq, say, wrq
from tests.support.stage import SERVER, TftpStage


@pytest.mark.parametrize(("address", "blksize"), [("10.0.0.1", 1468), ("fd00::1", 1448)])
def test_whatFitsTheInterface(address: str, blksize: int) -> None:
    """Without a configured cap the block size is what fits the interface unfragmented, in either address family."""
    network = Network()
    site = memorySite(network, {"f": pattern(5000)}, host=address)
    options = Options(port=69)
    site.ports.listen(69, Listener(site, "tftp", options, Dialect(options)))
    client = RecordingClient(network.host("fd00::9" if ":" in address else "10.0.0.9"))
    client.send(rrq(blksize=65464), (address, 69))
    letter = client.expect()
    assert letter.datagram == b"\0\6blksize\0%d\0" % blksize
    say(client, 0, letter.source)
    assert client.expect().datagram[4:] == pattern(5000)[:blksize]


def test_optionsThatSomeClientsCannotBear() -> None:
    """An option that is not granted to some clients is left out for them, and granted to the others."""
    without = [{"clients": "10.0.0.9", "options": ["BLKSIZE", "tsize"]}]
    with TftpStage(options={"without": without}) as stage:
        assert stage.ask(rrq(blksize=1000, tsize=0))[1] == data(1)
        other = stage.client(2000, "10.0.0.10")
        assert stage.ask(rrq(blksize=1000), other)[1] == Oack((("blksize", "1000"),))


CAPS = [
    {"clients": ["10.0.0.8/29", "fd00::/64"], "blksize": 1228},
    {"clients": "10.0.0.9", "windowsize": 8},
    {"clients": "10.0.0.10", "blksize": 1400, "windowsize": 2},
    {"clients": "10.0.0.11", "blksize": 256},
]


@pytest.mark.parametrize(
    ("client", "asked", "granted"),
    [
        ("10.0.0.7", {"blksize": 1468, "windowsize": 16}, {"blksize": 1468, "windowsize": 16}),
        ("10.0.0.8", {"blksize": 1468, "windowsize": 16}, {"blksize": 1228, "windowsize": 16}),
        ("10.0.0.8", {"blksize": 1024}, {"blksize": 1024}),
        ("10.0.0.8", {"blksize2": 4096}, {"blksize2": 1024}),
        ("10.0.0.9", {"blksize": 1468, "windowsize": 16}, {"blksize": 1228, "windowsize": 8}),
        ("10.0.0.9", {"blksize": 1468, "windowsize": 4}, {"blksize": 1228, "windowsize": 4}),
        # Of two caps on one value the smaller one counts, whatever their order.
        ("10.0.0.10", {"blksize": 1468, "windowsize": 16}, {"blksize": 1228, "windowsize": 2}),
        ("10.0.0.11", {"blksize": 1468}, {"blksize": 256}),
    ],
)
def test_capsOfSomeClients(client: str, asked: dict[str, int], granted: dict[str, int]) -> None:
    """Clients of a network with a cap are granted no more, in reads and in uploads; others what they ask for."""
    wanted = Oack(tuple((name, str(value)) for name, value in granted.items()))
    with TftpStage({"f": pattern(5000)}, options={"caps": CAPS}, uploads=True) as stage:
        assert stage.ask(rrq(**asked), stage.client(2000, client))[1] == wanted
        assert stage.ask(wrq("up", **asked), stage.client(2001, client))[1] == wanted


def test_aCapIsNoOption() -> None:
    """A client with a cap that asks for no block size gets the 512 octets of RFC 1350, and no OACK."""
    with TftpStage({"f": pattern(5000)}, options={"caps": CAPS}) as stage:
        assert stage.ask(rrq(), stage.client(2000, "10.0.0.11"))[1] == Data(1, pattern(5000)[:512])


def test_portsForAFirewall() -> None:
    """Transfer ports lie in the configured range, and are used again."""
    with TftpStage(options={"ports": "30000-30002"}) as stage:
        clients = [stage.client(2000 + number) for number in range(3)]
        tids = [stage.ask(rrq(), client)[2] for client in clients]
        assert sorted(tid[1] for tid in tids) == [30000, 30001, 30002]
        stage.network.advance(40)
        for client in clients:
            client.take()
        assert stage.ask(rrq(), stage.client(3000))[2][1] in range(30000, 30003)


def paced(count: int, size: int, **stage: Any) -> tuple[float, int, int]:
    """So many clients read a file of this size each.  -> virtual seconds, octets sent, blocks that were repeated."""
    with TftpStage({"f": pattern(size)}, **stage) as made:
        clients = [Simulated(made.network.host(f"10.0.0.{20 + number}"), PLAIN, "f", SERVER) for number in range(count)]
        for client in clients:
            client.begin()
        made.network.run(lambda: all(client.over for client in clients), limit=100)
        made.network.advance(0.01)
        assert all(bytes(client.octets) == pattern(size) for client in clients)
        told = made.told("received")
        return made.network.seconds(), sum(event["octets"] for event in told), sum(event["repeats"] for event in told)


def test_aRateIsKept() -> None:
    """A cast sends no more octets a second than its rate, after a first burst, and no less either."""
    seconds, octets, _ = paced(1, 400_000, options={"rate": "100 kB/s"})
    assert seconds == pytest.approx((octets - BURST) / 100_000, rel=0.02)


@pytest.mark.slow
def test_theRateOfAll() -> None:
    """The rate of the whole server is shared by all casts: however many they are, together they send no more."""
    for count in (1, 4, 16):
        seconds, octets, _ = paced(count, 400_000 // count, limits=Limits(rate="100 kB/s"))
        assert seconds == pytest.approx((octets - BURST) / 100_000, rel=0.04)


@pytest.mark.parametrize("first", [0, 1])
def test_aRateIsShared(first: int) -> None:
    """A client with windows of 64 and one in lockstep share a rate: neither is ever kept waiting for the other."""
    with TftpStage({"f": pattern(1_000_000)}, limits=Limits(rate="250 kB/s"), options={"windowsize": 64}) as made:
        habits = [replace(PLAIN, options=(*PLAIN.options, ("windowsize", "64"))), PLAIN]
        clients = [
            Simulated(made.network.host(f"10.0.0.{20 + at}"), habits[at], "f", SERVER) for at in (first, 1 - first)
        ]
        for client in clients:
            client.begin()
        got, longest = [0, 0], 0
        still = [0, 0]
        for _ in range(40):
            made.network.advance(0.1)
            for at, client in enumerate(clients):
                still[at] = 0 if len(client.octets) > got[at] else still[at] + 1
                got[at] = len(client.octets)
            longest = max(longest, *still)
        assert longest <= 1, "tenths of a second without a block"
        assert min(got) > sum(got) / 8


def test_waitingForThePacerRepeatsNothing() -> None:
    """A block that had to wait for the pacer is not repeated for that: nothing was lost."""
    assert paced(4, 100_000, limits=Limits(rate="100 kB/s"))[2] == 0


@pytest.mark.parametrize(("timeout", "silence"), [(0.5, 31.0), (1.0, 5.0)])
def test_howPatientItIs(timeout: float, silence: float) -> None:
    """The first interval and the silence after which a client is given up are the configured ones."""
    with TftpStage(options={"timeout": timeout, "silence": silence}) as stage:
        client, _, tid = stage.ask(rrq())
        assert ackedTo(client, 1, tid) == data(2)
        client.take()
        start = stage.network.seconds()
        stage.network.run(lambda: stage.told("received"), limit=100)
        assert stage.network.seconds() - start == pytest.approx(silence, abs=0.05)
    with TftpStage(options={"timeout": timeout}) as stage:
        client, _, _ = stage.ask(rrq())
        start = stage.network.seconds()
        client.expect(2)
        assert stage.network.seconds() - start == pytest.approx(timeout, abs=0.01)


def test_aClosedPort() -> None:
    """A client whose machine says that the port is closed, twice, is gone at once, and not only after its silence."""
    with TftpStage({"f": pattern(10_000)}) as stage:
        client, _, tid = stage.ask(rrq())
        assert ackedTo(client, 1, tid) == data(2, pattern(10_000))
        client.port.stopListening()
        stage.network.advance(5)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["closed"]


@pytest.mark.slow
def test_onePortForAll() -> None:
    """With a single port, reads and writes of many clients run side by side on it, and end."""
    with TftpStage({"f": pattern(5000)}, options={"singlePort": True}, uploads=True) as stage:
        writer = stage.client(3000)
        assert stage.ask(wrq(blksize=600), writer)[2] == SERVER
        for number in range(10):
            client = stage.client(2000 + number, f"10.0.0.{20 + number}")
            octets, _ = download(stage, client, rrq(blksize=1000, windowsize=2))
            assert octets == pattern(5000)
        writer.send(b"\0\3\0\1short", SERVER)
        assert writer.expect().datagram == b"\0\4\0\1"
        assert stage.site.files["up"] == b"short"
        stage.network.advance(60)
        stage.over()


def test_requestsThatAreNotLetIn() -> None:
    """What the access rules refuse is refused to that client only."""

    def access(request: Any) -> None:
        if ipaddress.ip_address(request.peer[0]) in ipaddress.ip_network("10.0.0.8/31"):
            raise Forbidden

    with TftpStage(access=access) as stage:
        assert stage.ask(rrq())[1].code == 2
        assert isinstance(stage.ask(rrq(), stage.client(2000, "10.0.0.10"))[1], Data)
