"""
What a SLAM server must do, case by case: the listener with its dialect, its cast and its wire on a virtual network.

Unless a case says otherwise: a file of 5925 octets in five blocks of 1451, transaction 1700000000.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs

from castd.cast.sweep import LONGEST_BURST
from castd.config import yaml
from castd.config.config import build
from castd.config.plugin import collect
from castd.dialects import slam
from castd.errors import ConfigError, Declined
from castd.options import HostPort
from castd.packets.slam import LARGEST, pack
from castd.request import Local, Peer, Request, hostPort
from castd.server.listener import Listener
from castd.service.service import kinds
from castd.testing import BytesContent, Network, RecordingClient, SentDatagram, memorySite, pattern
from tests.support.clients.slam_client import Etherboot, Ipxe
from tests.support.stage import HOST, SlamStage, Stage

FILE = pattern(5925)
HEADER = bytes.fromhex("a06553f100572545ab")
GROUP = ("239.255.1.1", 10000)
MOMENT = 0.02


@pytest.fixture(autouse=True)
def _transaction(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The transaction of the cases, where they do not ask for the real one."""
    if "real" not in request.fixturenames:
        monkeypatch.setattr(slam, "transaction", lambda content: 1700000000)


@pytest.fixture
def real() -> None:
    """This case is about real transactions."""


@pytest.fixture
def stage() -> Iterator[SlamStage]:
    stage = SlamStage(FILE)
    yield stage
    stage.listener.stop()
    assert all(content.closes == 1 for content in stage.site.contents), "each content is closed once"


def data(*numbers: int, header: bytes = HEADER, file: bytes = FILE, block: int = 1451) -> list[tuple[Peer, bytes]]:
    return [(GROUP, header + pack(number) + file[number * block : (number + 1) * block]) for number in numbers]


def ping(client: RecordingClient, header: bytes = HEADER) -> tuple[Peer, bytes]:
    return (client.address, header)


def client(stage: SlamStage, number: int = 2, port: int = 0) -> RecordingClient:
    return RecordingClient(stage.network.host(f"10.0.0.{number}"), port)


def say(stage: SlamStage, who: RecordingClient, wire: str | bytes, seconds: float = MOMENT) -> list[tuple[Peer, bytes]]:
    """Send a list and -> what the server says to it."""
    stage.sent()
    who.send(bytes.fromhex(wire) if isinstance(wire, str) else wire, stage.server)
    stage.network.advance(seconds)
    return stage.sent()


def numbers(sent: list[tuple[Peer, bytes]], header: bytes = HEADER) -> list[int]:
    """Return the blocks among this, in order."""
    found = []
    for where, datagram in sent:
        if where == GROUP:
            assert datagram.startswith(header)
            rest = datagram[len(header) :]
            length = rest[0] >> 5
            found.append(int.from_bytes(rest[:length], "big") & (1 << 8 * length - 3) - 1)
    return found


def works(stage: SlamStage, number: int = 99) -> None:
    """The server still serves: SL-01 with a fresh client."""
    who = client(stage, number)
    stage.network.advance(0.1)  # the last blocks cannot be on their way any more
    sent = say(stage, who, "202100", 1.0)
    assert data(0)[0] in sent
    assert ping(who) in sent


def test_SL01_firstList(stage: SlamStage) -> None:
    """SL-01: every client's first list brings block 0 to the group, then a question to where the list came from."""
    who = client(stage)
    assert say(stage, who, "202100") == [*data(0), ping(who)]


def test_SL02_wholeFile(stage: SlamStage) -> None:
    """SL-02: all five blocks, the last one short, then the question."""
    who = client(stage)
    sent = say(stage, who, "202500")
    assert sent == [*data(0, 1, 2, 3, 4), ping(who)]
    assert len(sent[4][1]) == len(HEADER) + 1 + 121


def test_SL03_clipped(stage: SlamStage) -> None:
    """SL-03: what the file does not have is not sent, and the server lives on."""
    who = client(stage)
    assert say(stage, who, "232400") == [*data(3, 4), ping(who)]
    works(stage)


def test_SL04_twoRuns(stage: SlamStage) -> None:
    """SL-04: all runs of a list are served, in order."""
    who = client(stage)
    assert say(stage, who, "2021222200") == [*data(0, 3, 4), ping(who)]


def test_SL05_endsInAReceivedRun(stage: SlamStage) -> None:
    """SL-05: a list that ends in a received run is as good as any."""
    who = client(stage)
    assert say(stage, who, "212121212100") == [*data(1, 3), ping(who)]


def test_SL06_disconnect(stage: SlamStage) -> None:
    """SL-06: who leaves hears nothing more, and the next one is asked without waiting."""
    one, two = client(stage, 2), client(stage, 3)
    say(stage, one, "202500", 0.0)
    assert say(stage, two, "202500", 0.002)[-1] == ping(one)
    began = stage.network.seconds()
    one.send(b"\0", stage.server)
    stage.network.run(lambda: two.inbox, limit=0.05)
    # Its own list crossed the blocks, and they come once more before it is asked: 30 ms, not 100.
    assert stage.network.seconds() - began < 0.04
    stage.network.advance(1.0)
    assert all(where != one.address for where, _ in stage.sent()[-20:] if where != GROUP)
    assert len(one.take()) == 1


def test_SL07_disconnectOfAStranger(stage: SlamStage) -> None:
    """SL-07: the farewell of somebody unknown is ignored."""
    assert say(stage, client(stage), "00") == []
    assert stage.casts() == []
    works(stage)


@pytest.mark.parametrize("wire", ["252100", "202000"], ids=["SL-08", "SL-09"])
def test_SL08_SL09_asksForNothing(stage: SlamStage, wire: str) -> None:
    """SL-08, SL-09: a block behind the end, and a run of no blocks, bring nothing to the group and harm nobody."""
    assert numbers(say(stage, client(stage), wire, 3.0)) == []
    works(stage)


def test_SL10_clippedToTheFile(stage: SlamStage) -> None:
    """SL-10: six octets that ask for half a gigabyte are worth the file, once."""
    who = client(stage)
    assert say(stage, who, "209fffffff00") == [*data(0, 1, 2, 3, 4), ping(who)]


def test_SL11_noEnd(stage: SlamStage) -> None:
    """SL-11: a list without its NUL is served."""
    who = client(stage)
    assert say(stage, who, "2021") == [*data(0), ping(who)]


def test_SL12_longForms(stage: SlamStage) -> None:
    """SL-12: integers longer than needed are read."""
    who = client(stage)
    assert say(stage, who, "4000400100") == [*data(0), ping(who)]


def test_SL13_receivedOnly(stage: SlamStage) -> None:
    """SL-13: a list of received blocks only asks for nothing."""
    assert numbers(say(stage, client(stage), "2500", 3.0)) == []
    works(stage)


@pytest.mark.parametrize(
    "wire",
    [b"", b"\xff", b"\xe0" * 4, b"\x3f" * 1472, random.Random(14).randbytes(65507)],
    ids=["empty", "ff", "e0", "3f", "random"],
)
def test_SL14_rubbish(stage: SlamStage, wire: bytes) -> None:
    """SL-14: rubbish, from a stranger and from a member, brings no block to the group."""
    who = client(stage)
    assert numbers(say(stage, who, wire, 1.0)) == []
    works(stage)
    say(stage, who, "202100", 1.0)
    assert numbers(say(stage, who, wire, 0.4)) == []
    works(stage, 98)


def test_SL15_turnsToRubbish(stage: SlamStage) -> None:
    """SL-15: what was readable of a list is served."""
    who = client(stage)
    assert say(stage, who, "2021ff") == [*data(0), ping(who)]


def test_SL16_listWhileAnotherIsServed() -> None:
    """SL-16: a list that comes meanwhile joins the sweep: blocks still to come are not sent a second time."""
    file = pattern(300 * 1451 - 7)
    stage = SlamStage(file, rate=1e6)
    one, two = client(stage, 2), client(stage, 3)
    everything = b"\x20" + pack(300) + b"\0"
    first = numbers(say(stage, one, everything, 0.2), header := stage.casts()[0].wire.status)
    assert 64 < len(first) < 300
    rest = numbers(say(stage, two, everything, 1.5), header)
    assert sorted(set(first + rest)) == list(range(300))
    assert rest[: 300 - len(first)] == list(range(len(first), 300))
    again = rest[300 - len(first) :]
    assert all(again.count(number) <= 1 for number in first)
    # A burst may have been on its way out when the list came.
    assert max(again) <= first[-1] + LONGEST_BURST + 1
    assert one.inbox
    assert two.inbox


def test_SL17_twoInTheSameInstant(stage: SlamStage) -> None:
    """SL-17: two lists of the whole file in one instant cost at most what the second could not have heard."""
    one, two = client(stage, 2), client(stage, 3)
    say(stage, one, "202500", 0.0)
    sent = say(stage, two, "202500", 0.5)
    assert sorted(set(numbers(sent))) == [0, 1, 2, 3, 4]
    assert len(numbers(sent)) <= 10


def test_SL18_noAnswer(stage: SlamStage) -> None:
    """SL-18: after 100 ms without an answer the next one is asked; nobody is asked in vain more than three times."""
    one, two = client(stage, 2), client(stage, 3)
    say(stage, one, "202500", 0.0)
    say(stage, two, "202500", 0.4)
    asked = [each for each in stage.network.capture or [] if each.datagram == HEADER]
    assert {asked[0].destination, asked[1].destination} == {one.address, two.address}
    assert 0.09 <= asked[1].time - asked[0].time <= 0.12
    stage.network.advance(10.0)
    before = len(stage.network.capture or [])
    stage.network.advance(5.0)
    assert len(stage.network.capture or []) == before
    assert len(one.take()) == 3


def test_SL19_lateAnswer(stage: SlamStage) -> None:
    """SL-19: an answer half a second late is served like a fresh list."""
    who = client(stage)
    say(stage, who, "202100", 0.5)
    assert say(stage, who, "212400")[:5] == [*data(1, 2, 3, 4), ping(who)]


def test_SL20_whereTheListCameFrom(stage: SlamStage) -> None:
    """SL-20: each question goes to the port that its list came from."""
    one, two = client(stage, 2, 10000), client(stage, 3, 45678)
    sent = say(stage, one, "202100", 0.0) + say(stage, two, "202100", 1.0)
    assert {where for where, datagram in sent if datagram == HEADER} == {("10.0.0.2", 10000), ("10.0.0.3", 45678)}


def test_SL21_source(stage: SlamStage) -> None:
    """SL-21: everything comes from the server's port, and group data goes one hop."""
    say(stage, client(stage), "202500")
    sources = {each.source for each in stage.network.capture or [] if each.source[0] == HOST}
    assert sources == {(HOST, 10000)}
    assert stage.port.group is not None
    assert stage.port.group[0] == 1


def test_SL22_questionIsTheHeader(stage: SlamStage) -> None:
    """SL-22: a question is exactly what every block begins with."""
    who = client(stage)
    sent = say(stage, who, "202500")
    assert sent[-1] == (who.address, HEADER)
    assert all(datagram.startswith(HEADER) for _, datagram in sent)


def test_SL21_twoNetworks() -> None:
    """SL-21: lists that come to another address are answered from there, by that interface, with the same header."""
    network, far = Network(latency=0.0005), "10.1.0.1"
    network.host(f"{HOST}/16", f"{far}/16")
    stage = Stage(network, memorySite(network, {"image": FILE}, host=f"{HOST}/16"), (slam, {"file": "image"}))
    one = RecordingClient(network.host("10.0.0.2/16"))
    two = RecordingClient(network.host("10.1.0.2/16"))
    for who, host in ((one, HOST), (two, far), (one, HOST)):
        stage.sightings()
        who.send(bytes.fromhex("202100"), (host, 10000))
        network.advance(0.05)
        sent = [each for each in stage.sightings() if each.source[1] == 10000]
        assert {each.source for each in sent} == {(host, 10000)}
        assert [(each.destination, each.datagram) for each in sent][-2:] == [*data(0), ping(who)]
        assert stage.port.group == (1, host, True, False)
    stage.listener.stop()


def test_SL17_twoAddressesOfOneLink() -> None:
    """SL-17: clients of one link that ask two addresses of the server share the sweep, as they all hear it."""
    network, second = Network(latency=0.0005), "10.0.0.99"
    network.host(f"{HOST}/16", f"{second}/16")
    stage = Stage(network, memorySite(network, {"image": FILE}, host=f"{HOST}/16"), (slam, {"file": "image"}))
    for number, host in ((2, HOST), (3, second)):
        RecordingClient(network.host(f"10.0.0.{number}/16")).send(bytes.fromhex("202500"), (host, 10000))
    network.advance(0.05)
    sent = [(each.destination, each.datagram) for each in stage.sightings() if each.destination == GROUP]
    assert sent[:5] == data(0, 1, 2, 3, 4)
    assert len(list(stage.listener.casts())) == 1
    stage.listener.stop()


@pytest.mark.parametrize("size", [1451, 2902, 1451 * 1450, 5925])
def test_SL23_neverAWholeLastBlock(size: int) -> None:
    """SL-23: no file is an exact multiple of its blocks, or Etherboot would wait for ever."""
    block = slam.blockSize(size, 1500)
    assert size % block
    assert block >= 1449
    assert slam.blockSize(2902, 1500) == 1450


@pytest.mark.parametrize(("mtu", "block"), [(9000, 1451), (1500, 1451), (1400, 1351), (68, 64)])
def test_noFragments(mtu: int, block: int) -> None:
    """A block with the largest header fits what Etherboot accepts, and the MTU, unless that carries hardly anything."""
    assert slam.blockSize((1 << 20) + 1, mtu) == block


def test_SL24_oneOctet(monkeypatch: pytest.MonkeyPatch) -> None:
    """SL-24: a file of one octet is one block of one octet."""
    monkeypatch.setattr(slam, "transaction", lambda content: 7)
    stage = SlamStage(b"x")
    who = client(stage)
    header = bytes.fromhex("272145ab")
    assert say(stage, who, "202100") == [(GROUP, header + b"\x20x"), (who.address, header)]


def test_SL25_emptyFile() -> None:
    """SL-25: of an empty file nothing is said on the wire, and the log says why."""
    stage = SlamStage(b"")
    with capturedLogs() as logs:
        assert say(stage, client(stage), "202100", 5.0) == []
    assert [event for event in logs if event.get("event") == "declined" and "empty" in event["why"]]
    assert stage.casts() == []


def test_SL26_missingFile() -> None:
    """SL-26: while the file is missing nothing is sent, and the log says so; once it is there lists are served."""
    stage = SlamStage(None)
    who = client(stage)
    with capturedLogs() as logs:
        assert say(stage, who, "202100", 5.0) == []
    assert [event for event in logs if event.get("event") == "refused"]
    stage.files["image"] = FILE
    assert say(stage, who, "202100") == [*data(0), ping(who)]


class Huge(BytesContent):
    """A file whose size alone matters."""

    def __init__(self, size: int) -> None:
        super().__init__("huge", b"")
        self.size = size


def test_SL27_hugeFile() -> None:
    """SL-27: half a gigabyte is refused with the reason, unless the operator means it; then its length is right."""
    request = Request(("10.0.0.2", 1), Local(HOST, 10000), "huge")
    options = slam.Options(file="huge")
    with pytest.raises(Declined, match="32 bits"):
        slam.Dialect(options).open(request, Huge(1 << 29))
    assert slam.Dialect(options).open(request, Huge((1 << 29) - 1)).status == bytes.fromhex("a06553f100 9fffffff 45ab")
    assert list(options.unfit({"huge": (1 << 29) - 1}.get)) == []
    assert ["512 MiB" in each for each in options.unfit({"huge": 1 << 29}.get)] == [True]
    meant = slam.Options(file="huge", large=True)
    assert list(meant.unfit({"huge": 1 << 29}.get)) == []
    assert slam.Dialect(meant).open(request, Huge(1 << 29)).status == bytes.fromhex("a06553f100 a020000000 45ab")


def test_nobodyIsWaitedForAtAStop(stage: SlamStage) -> None:
    """A stop ends as soon as the last receiver has left: the group is not kept for one that may come back."""
    who = client(stage)
    say(stage, who, "202500")
    drained: list[None] = []
    stage.listener.drain().addCallback(drained.append)
    stage.network.advance(0.01)
    assert drained == []
    say(stage, who, "00")
    assert drained == [None]


@pytest.mark.usefixtures("real")
def test_SL28_replacedFile() -> None:
    """SL-28: a file replaced while it is sent is sent to the end; the new one comes after 20 s of quiet."""
    stage = SlamStage(FILE)
    one, two = client(stage, 2), client(stage, 3)
    old = say(stage, one, "202100")[-1][1]
    stage.files["image"] = bytes(reversed(FILE))
    assert sorted(set(numbers(say(stage, two, "202500", 0.05), old))) == [0, 1, 2, 3, 4]
    for who in (one, two):
        say(stage, who, "00")
    stage.network.advance(15.0)
    assert numbers(say(stage, one, "212100"), old) == [1]
    say(stage, one, "00")
    stage.network.advance(21.0)
    new = say(stage, one, "202100")
    assert new[-1][1] != old
    assert new[0][1] == new[-1][1] + b"\x20" + bytes(reversed(FILE))[:1451]
    headers = {datagram[: len(old)] for where, datagram in new if where == GROUP}
    assert headers == {new[-1][1]}


@pytest.mark.usefixtures("real")
def test_SL28_otherFileAfterAReload() -> None:
    """SL-28: a reload that puts another file on the group waits, too, until the one under way has ended."""
    stage = SlamStage(FILE)
    stage.files["other"] = bytes(reversed(FILE))
    one, two = client(stage, 2), client(stage, 3)
    old = say(stage, one, "202100")[-1][1]
    options = slam.Options(file="other")
    stage.listener.become(Listener(stage.site, "slam", options, slam.Dialect(options)))
    with capturedLogs() as logs:
        assert {datagram for _, datagram in say(stage, two, "202500", 0.1)} <= {old}
    assert [event["why"] for event in logs if event.get("event") == "declined"] == ["group in use for another file"]
    assert numbers(say(stage, one, "212100"), old) == [1]
    say(stage, one, "00")
    stage.network.advance(21.0)
    new = say(stage, two, "202100")
    assert new[0][1] == new[-1][1] + b"\x20" + bytes(reversed(FILE))[:1451]


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("version", [(1, 2, 3, -(10**18)), (1, 2, 3, 1 << 70), "x" * 100, ()])
def test_SL29_transactionFits(version: Any) -> None:
    """SL-29: whatever a version is made of, its transaction has 32 bits, the same each time and another for another."""
    one = slam.transaction(BytesContent("a", FILE, version or None))
    assert one == slam.transaction(BytesContent("b", FILE, version or None))
    assert one != slam.transaction(BytesContent("a", FILE, (version, "newer")))
    assert 0 <= one < 1 << 32 <= LARGEST


def test_SL30_oneFileOneGroup() -> None:
    """SL-30: two files on one group, and two groups on one port, are refused when they are configured."""
    one = slam.Options(file="a")
    group = slam.Options(file="b", port=10001)
    port = slam.Options(file="b", group=HostPort("239.255.1.1", 10001))
    right = slam.Options(file="b", port=10001, group=HostPort("239.255.1.1", 10001))
    assert [name for name, why in slam.Options.clashes([("one", one), ("two", group)]) if "group" in why] == ["two"]
    assert [name for name, why in slam.Options.clashes([("one", one), ("two", port)]) if "port" in why] == ["two"]
    assert list(slam.Options.clashes([("one", one), ("two", right)])) == []
    here, there = (
        slam.Options(file=each, interface=f"10.0.0.{each}", group=HostPort(f"239.1.1.{each}", 1)) for each in "12"
    )
    assert list(slam.Options.clashes([("one", here), ("two", there)])) == []


def test_SL30_inTheServiceFile() -> None:
    """SL-30: the complaint has the line of the key that is wrong."""
    text = """castd: 1
content: [{directory: {path: /tmp}}]
access: [{allow: any}]
transports:
  slam: {port: 10000, file: a}
  other:
    use: slam
    port: 10001
    file: b
    group: 239.255.1.1:10000
"""
    with pytest.raises(ConfigError) as found:
        build(yaml.parse(text.encode(), "x.yaml"), Path("x.yaml"), kinds(collect()))
    why = "239.255.1.1:10000 is that of 'slam' already: receivers of both would start over for ever"
    assert found.value.faults == (f"x.yaml:10: transports.other.group: {why}",)


def test_SL30_everyTransportOnce() -> None:
    """SL-30: of many transports with one group, or one port, each gets one complaint, which names the first."""
    many = [(f"t{number}", slam.Options.model_validate({"file": "a", "port": 10000 + number})) for number in range(40)]
    told = "group: 239.255.1.1:10000 is that of 't0' already: receivers of both would start over for ever"
    assert list(slam.Options.clashes(many)) == [(f"t{number}", told) for number in range(1, 40)]


def _options(interface: str, group: str) -> slam.Options:
    return slam.Options.model_validate({"file": "a", "interface": interface, "group": group})


@pytest.mark.parametrize(
    ("interfaces", "clashing"),
    [
        (("10.0.0.1", "10.0.0.2", "10.0.0.1", ""), {2: 0, 3: 0}),
        (("", "10.0.0.1", "10.0.0.2"), {1: 0, 2: 0}),
        (("10.0.0.2", "", "10.0.0.1", "10.0.0.2"), {1: 0, 2: 1, 3: 0}),
    ],
)
def test_SL30_sharedPorts(interfaces: Sequence[str], clashing: Mapping[int, int]) -> None:
    """SL-30: a port at the wildcard is that of each interface; at two interfaces it is two ports."""
    named = [
        (f"t{number}", _options(interface or "any", f"239.255.1.{number + 1}:10000"))
        for number, interface in enumerate(interfaces)
    ]
    why = "port: 10000 is that of 't{}' already, and stands for one file only"
    assert dict(slam.Options.clashes(named)) == {f"t{which}": why.format(other) for which, other in clashing.items()}


@pytest.mark.slow
def test_SL31_forgedSources(stage: SlamStage) -> None:
    """SL-31: a thousand forged sources are remembered and asked within bounds, and the real client is served."""
    forgers = [(f"10.9.{number >> 8}.{number & 255}", 4000) for number in range(1000)]
    for forger in forgers:
        stage.listener.datagramFrom(bytes.fromhex("202100"), forger, Local(HOST, 10000))
    real = stage.play(Ipxe(1))
    began = stage.network.seconds()
    stage.network.run(stage.played, limit=20.0)
    assert real.client.done
    assert real.client.image == FILE
    seconds = stage.network.seconds() - began
    assert len(asked(stage, forgers)) <= 1 + 101 * seconds
    stage.network.advance(120.0)
    assert len(asked(stage, forgers)) <= 3 * len(forgers)
    assert stage.casts() == []
    assert not stage.listener._sessions.onPort


def asked(stage: SlamStage, among: list[tuple[str, int]]) -> list[SentDatagram]:
    """Return the questions that went to these."""
    known = set(among)
    return [each for each in stage.network.capture or [] if each.datagram == HEADER and each.destination in known]


def test_SL32_ipxe() -> None:
    """SL-32: a client that asks for four blocks at a time is never kept waiting."""
    stage = SlamStage(pattern(1 << 20), latency=0.0002)
    player = stage.play(Ipxe(1))
    seconds = stage.network.run(stage.played, limit=10.0)
    assert player.client.done
    assert player.client.image == pattern(1 << 20)
    assert player.client.doubles == 0
    assert player.client.lists == 1 + (723 - 1 + 3) // 4
    assert seconds < 1.2
    times = [each.time for each in stage.network.capture or []]
    assert max(after - before for before, after in itertools.pairwise(times)) < 0.01


def test_SL33_etherbootThatDropsEveryThirdBlock() -> None:
    """SL-33: of the second list only what it names is sent."""
    stage = SlamStage(pattern(300_000))
    player = stage.play(Etherboot(1))
    seen = 0

    def every(source: Peer, destination: Peer, datagram: bytes) -> bool:
        nonlocal seen
        seen += len(datagram) > 100
        return len(datagram) > 100 and seen % 3 == 0

    stop = stage.network.losing(every)
    stage.network.run(lambda: player.client.lists == 3, limit=10.0)
    stop()
    missing = {number for number, have in enumerate(player.client.have) if not have}
    assert len(missing) > 60
    stage.sent()
    stage.network.run(stage.played, limit=10.0)
    header = player.client.header
    assert sorted(numbers(stage.sent(), header)) == sorted(missing)
    assert player.client.image == pattern(300_000)


@pytest.mark.slow
def test_lossSlowsTheServer() -> None:
    """Where a receiver of long lists loses much, the server sends more slowly, though never less than a tenth."""
    stage = SlamStage(pattern(3_000_000))
    player = stage.play(Etherboot(1))
    turns = itertools.count()
    stage.network.losing(
        lambda source, destination, datagram: source[0] == HOST and len(datagram) > 100 and next(turns) % 3 == 0
    )
    rates = []
    while not player.client.over:
        stage.network.advance(0.05)
        rates += [cast.pacers[0].rate for cast in stage.casts()]
    assert player.client.image == pattern(3_000_000)
    assert rates[0] == 12e6
    assert 12e5 <= min(rates) <= 3e6, "it was halved more than once"


def test_SL34_ownData() -> None:
    """SL-34: with a receiver on the server's own machine, its own blocks are not read as lists."""
    stage = SlamStage(FILE)
    stage.network.host(HOST).addresses += ("10.0.0.77",)
    who = client(stage)
    for _, datagram in say(stage, who, "202500"):
        for source in ((HOST, 10000), ("10.0.0.77", 10000)):
            for local in (Local(*GROUP, broadcast=True), Local(HOST, 10000, broadcast=True)):
                stage.listener.datagramFrom(datagram, source, local)
        stage.listener.datagramFrom(datagram, (HOST, 10000), Local(HOST, 10000))
    assert list(stage.casts()[0].receivers) == [who.address]


def test_SL35_longestList() -> None:
    """SL-35: 735 runs in one list are 735 blocks."""
    file = pattern(1471 * 1451 - 5)
    stage = SlamStage(file)
    sent = say(stage, client(stage), b"\x21\x21" * 735 + b"\0", 0.5)
    assert numbers(sent, stage.casts()[0].wire.status)[:735] == list(range(1, 1470, 2))


def test_SL36_longNumbers() -> None:
    """SL-36: the numbers of blocks 31, 32, 8191 and 8192 have the lengths that they must have."""
    file = pattern(8200 * 1451 - 5)
    stage = SlamStage(file)
    sent = say(stage, client(stage), b"\x3f\x22\x5f\xdd" + bytes.fromhex("2100"), 0.05)
    sent += say(stage, client(stage, 3), bytes.fromhex("5fff2200"), 0.05)
    header = stage.casts()[0].wire.status
    wires = {datagram[: len(header) + 3] for where, datagram in sent if where == GROUP}
    for number, wire in ((31, "3f"), (32, "4020"), (8191, "5fff"), (8192, "602000")):
        expected = header + bytes.fromhex(wire) + file[number * 1451 : (number + 1) * 1451]
        assert (GROUP, expected) in sent, number
        assert expected[: len(header) + 3] in wires


def test_SL37_sendError(stage: SlamStage) -> None:
    """SL-37: a network that is down is one line in the log and no busy loop; when it is up again all goes on."""
    who = client(stage)
    stage.host.errno = errno.ENETUNREACH
    with capturedLogs() as logs:
        assert say(stage, who, "202500", 5.0) == []
    (event,) = [event for event in logs if event.get("event") == "unsendable"]
    assert event["peer"] == hostPort(GROUP)
    assert len(stage.network.getDelayedCalls()) < 5
    stage.host.errno = 0
    assert say(stage, who, "202500", 0.2)[:5] == data(0, 1, 2, 3, 4)


def test_SL37_fullSocket(stage: SlamStage) -> None:
    """SL-37: a full socket is waited for, and nothing is skipped."""
    who = client(stage)
    stage.host.room = 2
    assert say(stage, who, "202500") == data(0, 1)
    stage.host.room = None
    stage.network.advance(0.2)
    assert stage.sent()[:4] == [*data(2, 3, 4), ping(who)]


def test_SL38_emptyRunFirst(stage: SlamStage) -> None:
    """SL-38: a run of no blocks before a real one is passed over."""
    who = client(stage)
    assert say(stage, who, "2020232200") == [*data(3, 4), ping(who)]


def test_SL39_trueAnswer(stage: SlamStage) -> None:
    """SL-39: what the answer to a question names is sent again at once, however lately it was sent."""
    who = client(stage)
    stage.network.link(latency=0.0001)
    say(stage, who, "202100", 0.001)
    assert say(stage, who, "212400", 0.001) == [*data(1, 2, 3, 4), ping(who)]
    assert say(stage, who, "222100", 0.001) == [*data(2), ping(who)]
