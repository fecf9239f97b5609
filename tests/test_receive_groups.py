"""
The receiving halves of the group options, against the real server on a virtual network: everybody gets the file.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.cast.policy import RetransmitPolicy
from castd.client.client import fetch
from castd.client.report import Report
from castd.client.transfer import ClientTransfer
from castd.client.urls import parseUrl
from castd.dialects import sbroadcast as subnets
from castd.errors import Refused, WireError
from castd.packets.multicast import (
    Multicast,
    Subnet,
    bdataHeader,
    parseBdata,
    parseMulticast,
    parseSubnet,
)
from castd.packets.tftp import buildAck, buildError
from castd.receive.base import OffsetBlock
from castd.receive.group import MulticastDownload, SbroadcastDownload
from castd.receive.options import BadOffer, RequestedOptions
from castd.testing import Network, ReceivedFile, pattern
from tests.support.stage import GroupStage
from tests.support.vectors import vectors

FILE = pattern(30_000)


def getters(stage: GroupStage, count: int, start: int = 10) -> tuple[list[ReceivedFile], list[Any]]:
    """So many machines fetch C{f} by C{tftm}."""
    sinks, results = [ReceivedFile() for _ in range(count)], []
    for index, sink in enumerate(sinks):
        host = stage.network.host(f"10.0.0.{start + index}")
        url = parseUrl("tftm://10.0.0.1/f")
        fetch(host, url, sink, RequestedOptions(blksize=1428)).addBoth(results.append)
    return sinks, results


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.1])
def test_everybodyGetsTheFile(loss: float) -> None:
    """Six clients at once, whatever is lost: each ends with a report and the right octets."""
    network = Network(seed=4, loss=loss, latency=0.0003)
    with GroupStage({"f": FILE}, network=network, options={"gather": 0.2}) as stage:
        sinks, results = getters(stage, 6)
        network.run(lambda: len(results) == 6, limit=120)
        assert [bytes(sink.data) == FILE for sink in sinks] == [True] * 6
        assert all(isinstance(result, Report) for result in results)
        network.advance(60)
        stage.over()


def test_onePassServesAll() -> None:
    """Without loss the file goes to the group once."""
    with GroupStage({"f": FILE}, options={"gather": 0.2}) as stage:
        _, results = getters(stage, 6)
        stage.network.run(lambda: len(results) == 6, limit=60)
        assert stage.blocks() == list(range(1, len(FILE) // 1428 + 2))


def test_repeatsBeforeUnicast() -> None:
    """Requests that were repeated before a server has answered without a group count like those of its own."""
    half = MulticastDownload("f", RequestedOptions())
    half.begin(0.0)
    now = half.deadline(0.0)
    assert now is not None
    half.poll(now)
    assert half.repeats == 1
    block, _ = half.receive(b"\0\3\0\1" + bytes(512), now)
    assert block is not None
    assert (half.blocks, half.repeats) == (1, 1)
    later = half.deadline(now)
    assert later is not None
    half.poll(later)
    assert half.repeats == 2


def test_whoHearsNoGroup() -> None:
    """A client that the group's data does not reach gets the file by unicast."""
    network = Network(seed=4, latency=0.0003)
    network.losing(lambda source, to, datagram: to[1] == 1758)
    with GroupStage({"f": FILE}, network=network) as stage:
        sinks, results = getters(stage, 1)
        network.run(lambda: results, limit=60)
        assert bytes(sinks[0].data) == FILE
        assert [event["why"] for event in stage.told("moved")] == ["deaf"]


@pytest.mark.parametrize("size", [0, 1427, 1428, 1_500_000])
def test_whereThereIsNoGroup(size: int) -> None:
    """Where the server declines, or the file is empty, it is an ordinary transfer."""
    content = pattern(size)
    for clients in ("any", "192.0.2.0/24"):
        with GroupStage({"f": content}, options={"clients": clients}) as stage:
            sinks, results = getters(stage, 1)
            stage.network.run(lambda results=results: results, limit=60)
            assert bytes(sinks[0].data) == content


def test_aServerThatDies() -> None:
    """A client whose server falls silent gives up; a listener asks again first."""
    with GroupStage({"f": FILE}, options={"gather": 1}) as stage:
        _, results = getters(stage, 2)
        stage.network.advance(0.5)
        stage.network.losing(lambda source, to, datagram: source[0] == "10.0.0.1")
        stage.network.run(lambda: len(results) == 2, limit=200)
        assert not any(isinstance(result, Report) for result in results)


def test_sbroadcast() -> None:
    """Three machines of one subnet and one of another get the file by broadcasts of their own subnets."""
    network = Network(seed=4, loss=0.02, latency=0.0003)
    options = {"subnets": ["10.1.2.0/24", "10.1.3.0/24"], "gather": 0.2}
    with GroupStage({"f": FILE}, network=network, kind=subnets, options=options) as stage:
        sinks, results = [], []
        for host in ("10.1.2.5", "10.1.2.6", "10.1.2.7", "10.1.3.5"):
            sinks.append(ReceivedFile())
            collector = SbroadcastDownload("f", "255.255.255.0")
            machine: Any = network.host(host)
            ClientTransfer(machine, collector, ("10.0.0.1", 69), sinks[-1], None).start().addBoth(results.append)
        network.run(lambda: len(results) == 4, limit=120)
        assert [bytes(sink.data) == FILE for sink in sinks] == [True] * 4
        assert stage.told("moved") == []


# What it says, step by step.

OACK = b"\0\6blksize\0008\0tsize\00020\0multicast\000239.255.0.1,1758,%d\0"


def member(master: bool) -> MulticastDownload:
    made = MulticastDownload("f", RequestedOptions(blksize=8))
    made.begin(0.0)
    made.receive(OACK % master, 0.0)
    made.tid = ("10.0.0.1", 4000)
    return made


def block(number: int, size: int = 8) -> bytes:
    return b"\0\3" + number.to_bytes(2, "big") + bytes([number]) * size


def test_theMasterJumps() -> None:
    """A master acknowledges what precedes its first gap: over what it heard before, never down."""
    one = member(False)
    assert one.receiveFromGroup(block(2), one.tid, 0.1) == (OffsetBlock(8, b"\2" * 8), [])
    assert one.receive(OACK % 1, 0.2) == (None, [buildAck(0)])
    assert one.receiveFromGroup(block(1), one.tid, 0.3) == (OffsetBlock(0, b"\1" * 8), [buildAck(2)])
    assert one.receiveFromGroup(block(3, 4), one.tid, 0.4) == (OffsetBlock(16, b"\3" * 4), [])
    assert one.complete
    assert one.deadline(0.4) is None  # while the last block is being stored
    assert one.receive(OACK % 1, 0.45) == (None, [])
    assert one.stored(0.5) == [buildAck(3)]
    assert one.receive(OACK % 1, 0.6) == (None, [buildAck(3)])


def test_onlyTheServerIsHeard() -> None:
    """A block from another address or port than that of the OACK is not the group's; nor is a wrong number."""
    one = member(True)
    assert one.receiveFromGroup(block(1), ("10.0.0.1", 4001), 0.1) == (None, [])
    assert one.receiveFromGroup(block(1), ("10.0.0.2", 4000), 0.1) == (None, [])
    for datagram in (block(0), block(4), block(1, 4), block(3, 8)):
        with pytest.raises(WireError):
            one.receiveFromGroup(datagram, one.tid, 0.1)


def test_demotion() -> None:
    """Who is told that it is not the master any more confirms that, and acknowledges no more blocks."""
    one = member(True)
    assert one.receive(OACK % 0, 0.1) == (None, [buildAck(0)])
    assert one.receiveFromGroup(block(1), one.tid, 0.2)[1] == []
    assert one.deadline(0.2) == 15.2


def test_aBlockToItAlone() -> None:
    """A block that comes to the member alone, as to one that hears no group, is one like any other."""
    one = member(True)
    assert one.receive(block(1), 0.1) == (OffsetBlock(0, b"\1" * 8), [buildAck(1)])


def test_aListenerGivesUp() -> None:
    """A listener that hears nothing sends its request again three times, 15 s apart, and then gives up."""
    one = member(False)
    first = one.begin(0.0)
    now, said = 0.0, []
    while one.outcome is None:
        now = one.deadline(now) or now
        said.append((now, one.poll(now)))
    assert said == [(15.0, first), (30.0, first), (45.0, first), (60.0, [])]
    assert (one.outcome, one.deadline(60.0)) == ("silent", None)


def test_emptyFieldsOfALaterOack() -> None:
    """What is empty in a later OACK of C{sbroadcast} has not changed."""
    one = SbroadcastDownload("f", "255.255.255.0")
    one.begin(0.0)
    assert one.group == ("", 247)
    for value, answer in ((b"4000,77,0", 0), (b",,1", 1)):
        assert one.receive(b"\0\6sbroadcast\0" + value + b"\0", 0.1) == (None, [buildAck(0)])
        assert (one.group, one.master) == (("", 4000), bool(answer))
    data = bdataHeader(1, 77) + bytes(512)
    assert one.receiveFromGroup(data, ("10.0.0.1", 4001), 0.2) == (OffsetBlock(0, bytes(512)), [buildAck(1)])


def test_theServersError() -> None:
    """An ERROR of the server is the end."""
    one = member(True)
    one.receive(buildError(0, "stop"), 0.1)
    assert one.outcome == "aborted"


@pytest.mark.parametrize("value", ["x", "10.0.0.1,1758,1", "239.255.0.1,1758", "239.255.0.1,1758,2"])
def test_anOfferThatIsNone(value: str) -> None:
    """A value that cannot be read ends it with ERROR 8."""
    one = MulticastDownload("f", RequestedOptions(blksize=8))
    one.begin(0.0)
    with pytest.raises(BadOffer):
        one.receive(b"\0\6multicast\0" + value.encode() + b"\0", 0.0)


# The packets.


@pytest.mark.parametrize("vector", vectors("rfc2090", "multicast_values"))
def test_multicastValues(vector: dict[str, Any]) -> None:
    """How a server's value is read."""
    if "error" in vector:
        with pytest.raises(WireError):
            parseMulticast(vector["value"])
        return
    group = (vector["addr"], vector["port"]) if vector["addr"] else None
    assert parseMulticast(vector["value"]) == Multicast(group, vector["master"])


@pytest.mark.parametrize("vector", vectors("sbroadcast", "sbroadcast_values"))
def test_sbroadcastValues(vector: dict[str, Any]) -> None:
    """How a server's value is read."""
    if "error" in vector:
        with pytest.raises(WireError):
            parseSubnet(vector["value"])
        return
    assert parseSubnet(vector["value"]) == Subnet(vector["port"], vector["sbid"], vector["master"])


@pytest.mark.parametrize(
    "vector", [param for param in vectors("sbroadcast", "packets") if param.values[0].get("hex", "").startswith("0007")]
)
def test_bdata(vector: dict[str, Any]) -> None:
    """Data packets, octet for octet; what is shorter than its header is none."""
    datagram = bytes.fromhex(vector["hex"])
    if not vector["well_formed"]:
        with pytest.raises(WireError):
            parseBdata(datagram)
        return
    told = vector["decoded"]
    found = parseBdata(datagram)
    assert (found.number, found.sbid, found.payload.hex()) == (told["block"], told["sbid"], told["data_hex"])
    assert bdataHeader(found.number, found.sbid) + found.payload == datagram


@given(st.integers(0, 65535), st.integers(0, 0xFFFFFFFF), st.binary(max_size=32), st.integers(7, 65535))
def test_bdataThereAndBack(number: int, sbid: int, payload: bytes, opcode: int) -> None:
    """What was built is read back, whatever the opcode."""
    found = parseBdata(bdataHeader(number, sbid, opcode) + payload, opcode)
    assert (found.number, found.sbid, found.payload) == (number, sbid, payload)


@pytest.mark.parametrize("number", ["1", "65535"])
def test_ports(number: str) -> None:
    """Every port that there is can be that of a group."""
    assert parseMulticast(f"239.0.0.1,{number},0") == Multicast(("239.0.0.1", int(number)), False)
    assert parseSubnet(f"{number},7,0") == Subnet(int(number), 7, False)


@pytest.mark.parametrize("number", ["0", "65536", "-1", "+80", "8_0", "0x50", "\u0661", "000080"])
def test_noPorts(number: str) -> None:
    """Nothing else can, whatever Python would read as a number."""
    with pytest.raises(WireError):
        parseMulticast(f"239.0.0.1,{number},0")
    with pytest.raises(WireError):
        parseSubnet(f"{number},7,0")


def test_otherOpcodes() -> None:
    """What has another opcode than the one that was agreed on is no data packet."""
    with pytest.raises(WireError):
        parseBdata(bdataHeader(1, 2, 8) + b"payload")


@given(st.text(max_size=40), st.binary(max_size=40))
def test_anythingAtAll(text: str, datagram: bytes) -> None:
    """Whatever comes is read or is a WireError."""
    for read in (parseMulticast, parseSubnet):
        try:
            read(text)
        except WireError:
            continue
    try:
        assert len(parseBdata(datagram).payload) == len(datagram) - 8
    except WireError:
        assert len(datagram) < 8 or datagram[:2] != b"\0\7"


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=30)), max_size=30))
def test_aMemberSurvivesAnything(talk: list[tuple[bool, bytes]]) -> None:
    """A member of a group raises nothing but what its shell expects, and never speaks when it is not the master."""
    one = member(False)
    for index, (unicast, datagram) in enumerate(talk):
        now = index * 0.01
        try:
            said = one.receive(datagram, now)[1] if unicast else one.receiveFromGroup(datagram, one.tid, now)[1]
        except (WireError, Refused):
            continue
        assert said == [] or unicast


def test_patienceOfTheRequest() -> None:
    """A request that nobody answers is repeated, and given up in the end."""
    one = MulticastDownload("f", RequestedOptions(), RetransmitPolicy(maxRepeatsUnheard=None, progressTimeout=5.0))
    first = one.begin(0.0)
    now, said = 0.0, 0
    while one.outcome is None:
        now = one.deadline(now) or now
        said += one.poll(now) == first
    assert (one.outcome, said >= 2, now) == ("silent", True, 5.0)
