"""
IBM's subnet broadcast.  The ids are those of docs/transports/sbroadcast.md.
"""

from itertools import pairwise
from typing import Any, ClassVar

import pytest

from castd.dialects import sbroadcast
from castd.dialects.sbroadcast import IdentifierPool, Options, subnetOf
from castd.packets.multicast import parseBdata
from castd.packets.tftp import Data, Oack, buildAck
from castd.receive.group import SbroadcastDownload
from castd.testing import Network, RecordingClient, pattern
from tests.support.clients.multicast import Member, value
from tests.support.clients.tftp import hear, rrq
from tests.support.stage import GroupStage
from tests.support.vectors import vectors

KERNEL = pattern(24)
MASK = "255.255.255.0"
ASKED = {"blksize": 8, "tsize": 0, "sbroadcast": MASK}


class Subnets(GroupStage):
    """The cases' network: C1 and C2 in one subnet, C3 in another, the server elsewhere."""

    HOSTS: ClassVar = {1: "10.1.2.5", 2: "10.1.2.6", 3: "10.1.3.5", 4: "10.1.2.7"}

    def member(self, number: int, port: int = 2000, name: str = "kernel", **options: object) -> Member:
        """This client asks; its OACK is taken."""
        request = rrq(name, **(options or ASKED))
        client, packet, tid = self.ask(request, self.client(port, self.HOSTS[number]))
        return Member(self, client, packet, tid)

    def sbid(self, member: Member) -> int:
        return int(member.value.split(",")[1])


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Any:
    """The stage, with the options that a test names."""
    options = {"subnets": ["10.1.2.0/24", "10.1.3.0/24"], **getattr(request, "param", {})}
    network = Network(seed=1, latency=0.0002)
    files = {"kernel": KERNEL, "other": KERNEL[1:], "large": pattern(2000)}
    with Subnets(files, options=options, kind=sbroadcast, network=network) as made:
        yield made


def serving(stage: Subnets, upTo: int = 1) -> Member:
    """C1 is master and has asked for blocks up to this one."""
    first = stage.member(1)
    assert first.ack(*range(upTo)) == list(range(1, upTo + 1))
    return first


def gaps(instants: list[float]) -> list[float]:
    return [later - sooner for sooner, later in pairwise(instants)]


def test_BC01_theFirst(stage: Subnets) -> None:
    """The first request: an OACK with port, identifier and mastership; nothing is broadcast yet."""
    first = stage.member(1)
    sbid = stage.sbid(first)
    assert first.oack == Oack((("blksize", "8"), ("tsize", "24"), ("sbroadcast", f"247,{sbid},1")))
    assert 0 < sbid < 1 << 32
    assert stage.heard(0.2) == []


def test_BC02_theFirstBlock(stage: Subnets) -> None:
    """ACK 0 brings BDATA 1 with the identifier to the subnet's broadcast address, from the OACK's port."""
    first = stage.member(1)
    first.client.send(buildAck(0), first.tid)
    (block,) = stage.heard()
    assert block.source == ("10.1.2.255", 247)
    assert block.datagram == b"\0\7\0\1" + stage.sbid(first).to_bytes(4, "big") + KERNEL[:8]
    assert stage.network.capture is not None
    assert stage.network.capture[-1].source == first.tid


def test_BC02_everybodyOfTheSubnetHears(stage: Subnets) -> None:
    """Whoever listens at port 247 in the subnet hears it, and nobody in another one."""
    ears = [RecordingClient(stage.network.host(Subnets.HOSTS[number]), 247) for number in (1, 2, 3)]
    first = stage.member(1)
    first.ack(0)
    assert [len(ear.take()) for ear in ears] == [1, 1, 0]


def test_BC03_toTheLastBlock(stage: Subnets) -> None:
    """ACK 1, 2, 3 bring BDATA 2, 3, 4, the last without data."""
    first = serving(stage)
    assert first.ack(1, 2) == [2, 3]
    first.client.send(buildAck(3), first.tid)
    (last,) = stage.heard()
    assert parseBdata(last.datagram).payload == b""


def test_BC04_theEnd(stage: Subnets) -> None:
    """ACK 4: C1 is done, and the group is closed."""
    first = serving(stage, 4)
    assert first.ack(4) == []
    stage.over()
    assert [event["outcome"] for event in stage.told("received")] == ["done"]


def test_noLongSilence(stage: Subnets) -> None:
    """As long as members are there a subnet is never silent for more than 3 s, also if timers are late."""
    first = serving(stage, 4)
    stage.member(2)
    stage.heard()
    times = [stage.network.seconds()]
    first.ack(4)
    while stage.casts():
        times += [letter.time for letter in stage.heard(0.1)]
    times.append(stage.network.seconds())
    assert times[-1] - times[0] > 8
    assert max(gaps(times)) <= 2.6


def test_BC05_aSecond(stage: Subnets) -> None:
    """The same request while C1 is master: OACK without mastership, same identifier, same port."""
    first = serving(stage)
    second = stage.member(2)
    assert second.value == f"247,{stage.sbid(first)},0"
    assert second.tid == first.tid


def test_BC06_aConfirmation(stage: Subnets) -> None:
    """A listener's ACK 0 gets no answer and no block, however often it comes."""
    serving(stage)
    second = stage.member(2)
    second.client.send(buildAck(0), second.tid)
    second.client.send(buildAck(0), second.tid)
    assert stage.heard() == []
    stage.network.advance(1.5)
    assert second.told() == []


def test_BC07_theNextMaster(stage: Subnets) -> None:
    """When C1 is done C2 gets an OACK with the one option alone, in full."""
    first = serving(stage, 4)
    second = stage.member(2)
    second.ack(0)
    first.ack(4)
    assert second.told() == [Oack((("sbroadcast", f"247,{stage.sbid(first)},1"),))]


def promoted(stage: Subnets) -> Member:
    first = serving(stage, 4)
    second = stage.member(2)
    second.ack(0)
    first.ack(4)
    second.told()
    return second


def test_BC08_fromTheStart(stage: Subnets) -> None:
    """ACK 0 of the new master brings BDATA 1."""
    assert promoted(stage).ack(0) == [1]


def test_BC09_jumping(stage: Subnets) -> None:
    """ACK 2 after ACK 0 brings BDATA 3."""
    assert promoted(stage).ack(0, 2) == [1, 3]


def test_BC10_ascending(stage: Subnets) -> None:
    """ACK 1 after ACK 2 is ignored."""
    second = promoted(stage)
    assert second.ack(0, 2) == [1, 3]
    second.client.send(buildAck(1), second.tid)
    assert 2 not in stage.blocks()


def test_BC11_aListenerThatHasEverything(stage: Subnets) -> None:
    """A listener's ACK 4 after block 4 was sent: done, and never master."""
    first = serving(stage, 4)
    second = stage.member(2)
    second.ack(4)
    assert [event["outcome"] for event in stage.told("received")] == ["done"]
    first.ack(4)
    assert second.told() == []


def test_BC12_aListenersError(stage: Subnets) -> None:
    """A listener's ERROR 0: removed, without an answer."""
    serving(stage)
    second = stage.member(2)
    second.error()
    stage.network.advance(0.5)
    assert second.told() == []
    assert [event["outcome"] for event in stage.told("received")] == ["aborted"]


def test_BC13_anotherSubnet(stage: Subnets) -> None:
    """A client of another subnet: another identifier, another port, master of its own group, its own broadcasts."""
    first = serving(stage)
    third = stage.member(3)
    assert third.value.endswith(",1")
    assert stage.sbid(third) != stage.sbid(first)
    assert third.tid != first.tid
    third.client.send(buildAck(0), third.tid)
    assert ("10.1.3.255", 247) in [letter.source for letter in stage.heard()]


def test_BC14_aLargerWish(stage: Subnets) -> None:
    """blksize 512 while the group has 8: it joins with 8."""
    first = serving(stage)
    second = stage.member(2, blksize=512, sbroadcast=MASK)
    assert second.oack == Oack((("blksize", "8"), ("sbroadcast", f"247,{stage.sbid(first)},0")))


def test_BC15_aSmallerWish(stage: Subnets) -> None:
    """blksize 256 while the group has 512: its own group; a third with 300 finds that one, one with 600 the old."""
    first = stage.member(1, name="large", blksize=512, sbroadcast=MASK)
    second = stage.member(2, name="large", blksize=256, sbroadcast=MASK)
    assert second.oack == Oack((("blksize", "256"), ("sbroadcast", f"247,{stage.sbid(second)},1")))
    assert stage.sbid(second) != stage.sbid(first)
    third = stage.member(4, name="large", blksize=300, sbroadcast=MASK)
    assert stage.sbid(third) == stage.sbid(second)
    fourth = stage.member(4, 2001, name="large", blksize=600, sbroadcast=MASK)
    assert stage.sbid(fourth) == stage.sbid(first)


@pytest.mark.parametrize("stage", [{"caps": [{"clients": "10.1.2.6", "blksize": 256}]}], indirect=True)
def test_aCapOfSomeClients(stage: Subnets) -> None:
    """A client with a cap does not join a group of larger blocks, whatever it asks for; others may join its own."""
    first = stage.member(1, name="large", blksize=512, sbroadcast=MASK)
    second = stage.member(2, name="large", blksize=1468, sbroadcast=MASK)
    assert second.oack == Oack((("blksize", "256"), ("sbroadcast", f"247,{stage.sbid(second)},1")))
    assert stage.sbid(second) != stage.sbid(first)
    third = stage.member(4, name="large", blksize=300, sbroadcast=MASK)
    assert stage.sbid(third) == stage.sbid(second)


def test_noFragments(stage: Subnets) -> None:
    """The largest block and its header of 8 octets fill what Ethernet carries, no more."""
    first = stage.member(1, name="large", blksize=65464, sbroadcast=MASK)
    assert first.oack.options[0] == ("blksize", "1464")
    first.client.send(buildAck(0), first.tid)
    assert [len(letter.datagram) for letter in stage.heard()] == [1500 - 28]


def test_BC16_noWish(stage: Subnets) -> None:
    """A request without blksize joins a group of 512; its OACK has no blksize.  It does not join one of 8."""
    first = stage.member(1, name="large", blksize=512, sbroadcast=MASK)
    second = stage.member(2, name="large", sbroadcast=MASK)
    assert second.oack == Oack((("sbroadcast", f"247,{stage.sbid(first)},0"),))
    small = stage.member(1, 2001)
    other = stage.member(2, 2001, sbroadcast=MASK)
    assert stage.sbid(other) != stage.sbid(small)


@pytest.mark.parametrize(
    "mask", ["", "24", "255.0.255.0", "255.255.255.254", "255.255.255.255", "0.0.0.0", "255.0.0.0", "255.255.255.0 "]
)
def test_BC17_noMask(stage: Subnets, mask: str) -> None:
    """What is no mask of a subnet: the option is left out, unicast."""
    member = stage.member(1, blksize=8, sbroadcast=mask)
    assert member.oack == Oack((("blksize", "8"),))
    assert [event["why"] for event in stage.told("declined")] == ["mask"]


def test_BC17_anotherMaskThanTheSubnets(stage: Subnets) -> None:
    """A mask that is not that of the configured subnet: left out, and told."""
    member = stage.member(1, blksize=8, sbroadcast="255.255.255.128")
    assert member.oack == Oack((("blksize", "8"),))
    assert [event["why"] for event in stage.told("declined")] == ["other-mask"]


def test_BC18_theBroadcastAddress(stage: Subnets) -> None:
    """A request from the broadcast address: the option is left out."""
    packet = stage.ask(rrq("kernel", **ASKED), stage.client(2000, "10.1.2.255"))[1]
    assert packet == Oack((("blksize", "8"), ("tsize", "24")))


@pytest.mark.parametrize("vector", vectors("sbroadcast", "masks"))
def test_masks(vector: dict[str, Any]) -> None:
    """Which masks are believed, and what follows from them."""
    if not vector["accepted"]:
        with pytest.raises(ValueError, match=r"."):
            subnetOf(vector["client"], vector["mask"])
        return
    found = subnetOf(vector["client"], vector["mask"])
    assert (str(found.network_address), found.prefixlen) == (vector["subnet"], vector["prefix"])
    assert str(found.broadcast_address) == vector["broadcast"]


def test_BC19_theNameIsCopied(stage: Subnets) -> None:
    """SBROADCAST is answered as SBROADCAST, in later OACKs, too."""
    first = stage.member(1, SBROADCAST=MASK, blksize=8)
    assert first.oack.options[1][0] == "SBROADCAST"
    second = stage.member(2, SBROADCAST=MASK, blksize=8)
    second.ack(0)
    first.ack(0, 1, 2, 3, 4)
    assert second.told()[-1].options[0][0] == "SBROADCAST"


def test_BC20_netascii(stage: Subnets) -> None:
    """netascii is served by unicast."""
    packet = stage.ask(rrq("kernel", mode="netascii", **ASKED), stage.client(2000, "10.1.2.5"))[1]
    assert packet == Oack((("blksize", "8"),))
    assert [event["why"] for event in stage.told("declined")] == ["netascii"]


def test_BC21_tooManyBlocks(stage: Subnets) -> None:
    """A file of 65536 blocks is served by unicast."""
    stage.site.files["big"] = bytes(65535 * 8)
    assert [name for name, _ in stage.member(1, name="big", **ASKED).oack.options] == ["blksize", "tsize"]
    assert [event["why"] for event in stage.told("declined")] == ["too-many-blocks"]


@pytest.mark.parametrize("stage", [{"subnets": ["10.1.9.0/24"]}], indirect=True)
def test_BC22_notConfigured(stage: Subnets) -> None:
    """A client of a subnet that the service file does not name: the option is left out."""
    assert [name for name, _ in stage.member(1).oack.options] == ["blksize", "tsize"]
    assert [event["why"] for event in stage.told("declined")] == ["outside"]


def test_BC23_aMasterThatNeverSpeaks(stage: Subnets) -> None:
    """No BDATA ever; the OACK again at growing intervals; after 3 s the mastership passes on."""
    first = stage.member(1)
    second = stage.member(2)
    second.ack(0)
    start = stage.network.seconds()
    assert stage.heard(2.9) == []
    letters = first.client.take()
    between = gaps([letter.time for letter in letters])
    assert len(letters) >= 3
    assert between == sorted(between)
    assert second.told() == []
    stage.network.advance(start + 3.1 - stage.network.seconds())
    assert (first.roles(), second.roles()) == (["0"], ["1"])


def test_BC24_aMasterDies(stage: Subnets) -> None:
    """The block in flight is repeated at growing intervals; C2 is master after the time of a master that is known."""
    first = serving(stage, 2)
    second = stage.member(2)
    second.ack(0)
    start = stage.network.seconds()
    first.client.send(buildAck(2), first.tid)
    heard = stage.heard(1.3)
    letters = [letter for letter in heard if letter.datagram[3] == 3]
    assert len(letters) >= 6
    # The next one, after a while, for masters that do not acknowledge the same block again and again.
    assert {letter.datagram[3] for letter in heard} == {3, 4}
    between = gaps([letter.time for letter in letters])
    assert between == sorted(between)
    oack = second.client.take()[0]
    assert 1.0 <= oack.time - start <= 1.3


def test_BC25_aListenerThatAsks(stage: Subnets) -> None:
    """A listener's ACK 2: OACK without mastership, at most once a second and three times."""
    first = stage.member(1, name="large", **ASKED)
    first.ack(*range(4))
    second = stage.member(2, name="large", **ASKED)
    second.ack(0)
    roles = []
    for number in range(4, 24):
        first.ack(number)
        second.client.send(buildAck(2), second.tid)
        stage.heard(0.25)
        roles.append(len(second.roles()))
    assert sum(roles[:4]) == 1
    assert sum(roles) == 3


def test_BC26_aDuplicate(stage: Subnets) -> None:
    """ACK 1 twice brings BDATA 2 once."""
    first = serving(stage)
    first.client.send(buildAck(1), first.tid)
    first.client.send(buildAck(1), first.tid)
    assert stage.blocks() == [2]


def test_BC27_stoppedEarly(stage: Subnets) -> None:
    """ACK 4 at the very start: removed, told as stopped early.  An ACK above the last block is ignored."""
    first = stage.member(1)
    assert first.ack(5) == []
    assert stage.told("received") == []
    assert first.ack(4) == []
    assert [event["outcome"] for event in stage.told("received")] == ["early"]
    stage.over()


def test_BC28_askingAgain(stage: Subnets) -> None:
    """A listener's repeated request: its OACK again, whole; it is listed once."""
    serving(stage)
    second = stage.member(2)
    second.ack(0)
    second.client.send(rrq("kernel", **ASKED), stage.server)
    stage.network.advance(0.01)
    assert second.told() == [second.oack]
    (cast,) = stage.listener.casts()
    assert len(cast.receivers) == 2


def test_BC29_theAddressIsNotCompared() -> None:
    """A client takes a block by identifier and source port, whichever of the server's addresses it comes from."""
    member = SbroadcastDownload("kernel", MASK)
    member.begin(0.0)
    member.receive(b"\0\6blksize\x008\0tsize\x0024\0sbroadcast\x00247,7,1\0", 0.0)
    member.tid = ("10.0.0.1", 4000)
    assert member.receiveFromGroup(b"\0\7\0\1\0\0\0\7" + KERNEL[:8], ("192.0.2.1", 4000), 0.1)[0] is not None
    assert member.receiveFromGroup(b"\0\7\0\2\0\0\0\7" + KERNEL[8:16], ("10.0.0.1", 4001), 0.2)[0] is None


@pytest.mark.parametrize("stage", [{"opcode": 10, "masterFlag": "M", "listenerFlag": "L"}], indirect=True)
def test_BC30_guessesCanBeChanged(stage: Subnets) -> None:
    """Another opcode, and other words for the roles, are used as configured."""
    first = stage.member(1)
    assert first.value.endswith(",M")
    assert stage.member(2).value.endswith(",L")
    first.client.send(buildAck(0), first.tid)
    assert stage.heard()[0].datagram[:4] == b"\0\x0a\0\1"


def test_BC31_aLargeIdentifier(stage: Subnets) -> None:
    """An identifier above 2147483647 is printed as unsigned decimal and sent as four octets."""
    stage.site.random.getrandbits = lambda bits: 0xFFFFFFFF
    first = stage.member(1)
    assert first.value == "247,4294967295,1"
    first.client.send(buildAck(0), first.tid)
    assert stage.heard()[0].datagram[4:8] == b"\xff\xff\xff\xff"


def test_BC32_twoFiles(stage: Subnets) -> None:
    """Two files in one subnet: different identifiers, different ports."""
    first, second = stage.member(1), stage.member(2, name="other", **ASKED)
    assert stage.sbid(first) != stage.sbid(second)
    assert first.tid != second.tid


@pytest.mark.parametrize("vector", vectors("sbroadcast", "sequences"))
def test_sequences(vector: dict[str, Any], stage: Subnets) -> None:
    """Each written exchange, octet for octet."""
    sbids = iter((305419896, 305419897))
    stage.site.random.getrandbits = lambda bits: next(sbids)
    stage.site.files["kernel"] = bytes(range(24))
    clients: dict[str, RecordingClient] = {}
    tid, seen = stage.server, 0
    for step in vector["steps"]:
        if "event" in step:
            stage.over()
            continue
        assert stage.network.capture is not None
        if step["from"].startswith("C"):
            assert len(stage.network.capture) == seen, stage.network.capture[seen:]
            name, _, host = step["from"].partition(" ")
            if name not in clients:
                clients[name] = stage.client(2000, host or Subnets.HOSTS[int(name[1:])])
            clients[name].send(bytes.fromhex(step["hex"]), stage.server if step["to"] == "server:69" else tid)
            stage.network.advance(0.001)
            seen += 1
        else:
            sighting = stage.network.capture[seen]
            seen += 1
            assert sighting.datagram.hex() == step["hex"]
            broadcast = step["to"].endswith(":247")
            assert sighting.destination == (
                ("10.1.2.255", 247) if broadcast else clients[step["to"].partition(" ")[0]].address
            )
            tid = sighting.source


# What has no number.


def test_unconfirmedOacksAreRepeated(stage: Subnets) -> None:
    """A listener that does not confirm gets its OACK again each second, three times, and stays listed."""
    first = stage.member(1, name="large", **ASKED)
    first.ack(0)
    second = stage.member(2, name="large", **ASKED)
    start = stage.network.seconds()
    for number in range(1, 40):
        first.ack(number)
        stage.network.advance(0.2)
    letters = second.client.take()
    assert [round(letter.time - start) for letter in letters] == [1, 2, 3]
    (cast,) = stage.listener.casts()
    assert len(cast.receivers) == 2


def test_oneWhoHearsNoBroadcast(stage: Subnets) -> None:
    """A master that repeats itself hears no broadcasts: its blocks go to its own address, at the data port."""
    first = stage.member(1)
    ear = RecordingClient(stage.network.host(Subnets.HOSTS[1]), 247)
    stage.network.losing(lambda source, to, datagram: to[1] == 247 and not stage.told("moved"))
    for wait in (0.25, 0.5, 0.3):
        first.client.send(buildAck(0), first.tid)
        stage.network.advance(wait)
    assert parseBdata(ear.expect().datagram).payload == KERNEL[:8]
    stage.network.capture.clear()
    stage._seen = 0
    for number in range(1, 4):
        ear.take()
        first.client.send(buildAck(number), first.tid)
        assert parseBdata(ear.expect().datagram).number == number + 1
    assert {sighting.destination for sighting in stage.network.capture if sighting.datagram[1] == 7} == {
        ("10.1.2.5", 247)
    }
    first.client.send(buildAck(4), first.tid)
    stage.over()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [{"packets": "100/s"}], indirect=True)
def test_thePaceOfASubnet(stage: Subnets) -> None:
    """However fast the masters are, the groups of a subnet together send no more than so many packets a second."""
    stage.site.files["a"], stage.site.files["b"] = pattern(4000), pattern(4001)
    members = [stage.member(1, name="a", **ASKED), stage.member(2, name="b", **ASKED)]
    begin = stage.network.seconds()
    numbers = [0, 0]
    sent = 0
    while stage.network.seconds() < begin + 3:
        for index, member in enumerate(members):
            member.client.send(buildAck(numbers[index]), member.tid)
        for letter in stage.heard(0.002):
            sent += 1
            sbids = [stage.sbid(member) for member in members]
            block = parseBdata(letter.datagram)
            index = sbids.index(block.sbid)
            numbers[index] = max(numbers[index], block.number)
    assert 250 < sent < 340


def test_identifiersRest() -> None:
    """An identifier is not used again for ten minutes after its group's end; 0 never is."""

    class Chance:
        def __init__(self, *numbers: int) -> None:
            self.numbers = list(numbers)

        def getrandbits(self, bits: int) -> int:
            return self.numbers.pop(0)

    sbids = IdentifierPool()
    assert sbids.allocate(Chance(0, 5), 0.0) == 5
    assert sbids.allocate(Chance(5, 6), 0.0) == 6
    sbids.release(5, 10.0)
    assert sbids.allocate(Chance(5, 7), 609.0) == 7
    assert sbids.allocate(Chance(5), 611.0) == 5


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"subnets": []},
        {"subnets": ["10.0.0.0/8"]},
        {"subnets": ["10.0.0.0/31"]},
        {"subnets": ["fd00::/64"]},
        {"subnets": ["239.1.0.0/16"]},
        {"subnets": ["127.0.0.0/24"]},
        {"subnets": ["10.1.2.0/24"], "opcode": 3},
        {"subnets": ["10.1.2.0/24"], "masterFlag": "0"},
        {"subnets": ["10.1.2.0/24"], "masterFlag": "a,b"},
    ],
    ids=repr,
)
def test_options(fault: dict[str, Any]) -> None:
    """Subnets must be named, and be some; opcodes of TFTP and flags that say nothing are refused."""
    with pytest.raises(ValueError, match=r"."):
        Options(**fault)


def test_bothOptions(stage: Subnets) -> None:
    """multicast and sbroadcast in one request: the one that stands here is granted, the other left out."""
    member = stage.member(1, blksize=8, multicast="", sbroadcast=MASK)
    assert [name for name, _ in member.oack.options] == ["blksize", "sbroadcast"]
    assert value(member.oack).endswith(",1")


def test_plainClients(stage: Subnets) -> None:
    """Who does not ask for it is served as ever."""
    client, _, tid = stage.ask(rrq("kernel", blksize=8), stage.client(2000, "10.1.2.9"))
    client.send(buildAck(0), tid)
    assert hear(client) == Data(1, KERNEL[:8])
