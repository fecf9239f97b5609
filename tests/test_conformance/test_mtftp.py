"""
What an MTFTP server must do, case by case: the real listener, dialect and cast on a virtual network.

Unless a case says otherwise: C{linux} of 1300 octets in three blocks, on 239.255.1.1:3001, asked for at port 1759, and
no gathering.  C{U1} is block 1 to a client alone, C{G2} block 2 to the group.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError
from zope.interface.verify import verifyObject

from castd.dialects import mtftp
from castd.dialects.mtftp import REUSE_DELAY
from castd.dialects.mtftp_cast import MOST_REMEMBERED
from castd.interfaces import IDialect, IWire
from castd.options import HostPort, Limits
from castd.packets.dhcp import option43
from castd.packets.tftp import TftpRequest, buildRequest
from castd.request import Local
from castd.testing import BytesContent, Network, RecordingClient, pattern
from tests.support.clients.mtftp import GROUP, LINUX, SERVER, Atftp, Efi, Ipxe, R, ack, block, opened, summary
from tests.support.stage import HOST, MtftpStage
from tests.support.vectors import vectors

TEN = pattern(9 * 512 + 100)


@pytest.fixture
def stage() -> Iterator[MtftpStage]:
    with MtftpStage() as stage:
        yield stage


@pytest.fixture
def ten() -> Iterator[MtftpStage]:
    """A file of ten blocks."""
    with MtftpStage({"linux": TEN}) as stage:
        yield stage


def serves(stage: MtftpStage, number: int = 77) -> None:
    """The file is idle, and a fresh client is served."""
    assert stage.casts() == []
    client = stage.client(number)
    assert summary(stage.say(client, R)) == ["U1", "G1"]
    stage.say(client, *(ack(number) for number in range(1, 11)))


def test_MT01_request(stage: MtftpStage) -> None:
    """MT-01: block 1 to the client first, then to the group, both from the request port and alike."""
    client = stage.client()
    assert stage.say(client, R) == [(client.address, block(1)), (GROUP, block(1))]


FAR = "10.1.0.1"


def twoNetworks() -> Network:
    """Return a network whose server has an address in each of two."""
    network = Network(latency=0.0005)
    network.host(f"{HOST}/16", f"{FAR}/16")
    return network


def test_MT01_otherNetwork() -> None:
    """MT-01: who asks another address of the server is answered from there, whoever receives the file elsewhere."""
    network = twoNetworks()
    with MtftpStage(network=network) as stage:
        one, two = opened(stage, 2, 1), RecordingClient(network.host("10.1.0.2/16"), 2000)
        stage.sightings()
        two.send(R, (FAR, SERVER[1]))
        network.advance(0.005)
        sent = [each for each in stage.sightings() if each.destination in (two.address, GROUP)]
        assert [(each.source[0], each.destination, each.datagram) for each in sent] == [
            (FAR, two.address, block(1)),
            (FAR, GROUP, block(1)),
        ]
        assert stage.say(one, ack(2)) == [(GROUP, block(3))]
        assert len(stage.casts()) == 2


def test_M13_otherAddressOfOneNetwork() -> None:
    """
    Who asks another address that the server has in the same network hears the transfer that is under way: an iPXE takes
    packets from where the first one came, and a second transfer would leave it with a hole.
    """
    network = Network(latency=0.0005)
    network.host(f"{HOST}/16", "10.0.0.9/16")
    with MtftpStage(network=network) as stage:
        opened(stage, 2, 1)
        two = stage.client(3)
        stage.sightings()
        two.send(R, ("10.0.0.9", SERVER[1]))
        network.advance(0.005)
        assert [each for each in stage.sightings() if each.destination == two.address] == []
        assert len(stage.casts()) == 1


def test_MT02_ack(stage: MtftpStage) -> None:
    """MT-02: ACK 1 brings block 2 to the group, and nothing to the client."""
    client = opened(stage)
    assert stage.say(client, ack(1)) == [(GROUP, block(2))]


def test_MT03_duplicate(stage: MtftpStage) -> None:
    """MT-03: the same ACK once more, at once, brings nothing."""
    client = opened(stage, 2, 1)
    assert stage.say(client, ack(1), seconds=0.05) == []


def test_MT04_last(stage: MtftpStage) -> None:
    """MT-04: the last block is the short one."""
    client = opened(stage, 2, 1)
    ((where, datagram),) = stage.say(client, ack(2))
    assert (where, datagram, len(datagram)) == (GROUP, block(3), 280)


def test_MT05_end(stage: MtftpStage) -> None:
    """MT-05: the last ACK ends it without a word, and the file can be had again."""
    client = opened(stage, 2, 1, 2)
    assert stage.say(client, ack(3), seconds=1) == []
    assert [event["outcome"] for event in stage.told("received")] == ["done"]
    serves(stage)


def test_MT06_jump(stage: MtftpStage) -> None:
    """MT-06: a client that has more than was sent to it is believed."""
    client = opened(stage)
    assert stage.say(client, ack(2)) == [(GROUP, block(3))]


def test_MT07_jumpToTheEnd(stage: MtftpStage) -> None:
    """MT-07: a client that has everything at once is done."""
    client = opened(stage)
    assert stage.say(client, ack(3), seconds=1) == []
    serves(stage)


def test_MT08_beyond(stage: MtftpStage) -> None:
    """MT-08: an ACK of a block that the file has not is ignored."""
    client = opened(stage)
    assert stage.say(client, ack(50)) == []
    assert stage.say(client, ack(1)) == [(GROUP, block(2))]


def test_MT09_another(stage: MtftpStage) -> None:
    """MT-09: who asks while another is served is not answered until that is over."""
    one = opened(stage)
    stage.network.advance(0.02)
    two = stage.client(3)
    assert stage.say(two, R) == []
    assert summary(stage.say(one, ack(1)) + stage.say(one, ack(2))) == ["G2", "G3"]
    assert two.inbox == []
    assert stage.say(one, ack(3)) == [(two.address, block(1)), (GROUP, block(1))]


def test_MT10_stranger(stage: MtftpStage) -> None:
    """MT-10: the ACK of somebody who never asked is ignored."""
    opened(stage)
    assert stage.say(stage.client(3), ack(1)) == []


def test_MT11_silentOpening(stage: MtftpStage) -> None:
    """
    MT-11: both copies are repeated at 80 and 160 ms and then every 200 ms, five times, and then never again.

    With the last two comes block 2: what is missing may be one lost ACK, which atftp never repeats.
    """
    client = stage.client()
    client.send(R, SERVER)
    log = stage.wait(30)
    times = [time - log[0][0] for time, where, _ in log if where == client.address]
    assert times == pytest.approx([0.0, 0.08, 0.16, 0.36, 0.56, 0.76], abs=0.002)
    assert summary([(where, datagram) for _, where, datagram in log]) == [*["U1", "G1"] * 5, "G2", "U1", "G1", "G2"]
    serves(stage)


def test_MT12_silentMaster(stage: MtftpStage) -> None:
    """MT-12: a block is repeated to the group alone, never 0.25 s apart, and not for ever."""
    client = opened(stage)
    client.send(ack(1), SERVER)
    log = stage.wait(30)
    assert {where for _, where, _ in log} == {GROUP}
    times = [time for time, _, datagram in log if datagram == block(2)]
    assert max(later - time for time, later in pairwise(times)) < 0.25
    assert 9.5 < times[-1] < 10.1
    serves(stage)


def test_MT13_newPort(stage: MtftpStage) -> None:
    """MT-13: a machine that asks from another port has restarted; its old port counts for nothing."""
    old = opened(stage, 2, 1)
    new = stage.client(2, 2001)
    assert stage.say(new, R) == [(new.address, block(1)), (GROUP, block(1))]
    assert stage.say(old, ack(2)) == []
    assert stage.say(new, ack(1)) == [(GROUP, block(2))]


def test_MT14_askedAgain(stage: MtftpStage) -> None:
    """MT-14: a request that comes again has both copies again, but not twice within the guard time."""
    client = opened(stage)
    assert stage.say(client, R, seconds=0.05) == []
    stage.wait(0.15)  # two repetitions are out, the next is 200 ms away
    assert stage.say(client, R, R) == []
    stage.network.advance(0.07)
    assert summary(stage.say(client, R, R)) == ["U1", "G1"]


def test_MT14_afterAcks(stage: MtftpStage) -> None:
    """MT-14: and one that has acknowledged and asks again starts over, whoever waits."""
    client = opened(stage, 2, 1)
    stage.say(stage.client(3), R)
    assert stage.say(client, R) == [(client.address, block(1)), (GROUP, block(1))]


def test_MT15_takeover(stage: MtftpStage) -> None:
    """MT-15: a master that has been silent for a second loses its place to whoever asks."""
    opened(stage, 2, 1)
    stage.network.advance(1)
    two = stage.client(3)
    assert stage.say(two, R) == [(two.address, block(1)), (GROUP, block(1))]


def test_MT16_error(stage: MtftpStage) -> None:
    """MT-16: the master's ERROR ends it, and the group hears nothing of it."""
    client = opened(stage)
    assert stage.say(client, bytes.fromhex("00050000544654502041626f7274656400"), seconds=1) == []
    serves(stage)


@pytest.mark.parametrize("vector", vectors("mtftp", "rrq"))
def test_MT17_MT19_MT20_requests(vector: dict[str, Any]) -> None:
    """MT-17, 19, 20: every recorded request is served, options or not, in any case, in mode octet and no other."""
    name = vector["filename"].replace("\\", "/").lstrip("/")
    with MtftpStage({name: LINUX}, groups={vector["filename"]: "239.255.1.1:3001"}) as stage:
        client = stage.client()
        sent = stage.say(client, bytes.fromhex(vector["hex"]))
        served = [(client.address, block(1)), (GROUP, block(1))]
        assert sent == ([] if vector["mode"] == "netascii" else served)


def test_MT18_unknown(stage: MtftpStage) -> None:
    """MT-18: a file that is none of this port's is not answered, and never looked for."""
    assert stage.say(stage.client(), bytes.fromhex("00016e6f7065006f6374657400"), seconds=1) == []
    assert stage.site.lookups == []


def test_MT18_errors() -> None:
    """MT-18, 19: where it is set, the answer is an ERROR."""
    with MtftpStage(errors=True) as stage:
        client = stage.client()
        assert summary(stage.say(client, bytes.fromhex("00016e6f7065006f6374657400"))) == ["ERROR 1"]
        assert summary(stage.say(client, bytes.fromhex("00016c696e7578006e6574617363696900"))) == ["ERROR 4"]


@pytest.mark.parametrize("vector", vectors("mtftp", "invalid"))
def test_MT21_MT22_MT23_invalid(stage: MtftpStage, vector: dict[str, Any]) -> None:
    """MT-21, 22, 23: what says nothing brings nothing, from a stranger and from the master alike."""
    master = opened(stage, 2, 1)
    hostile = bytes.fromhex(vector["hex"])
    assert stage.say(stage.client(3), hostile) == []
    assert stage.say(master, hostile) == []
    assert stage.say(master, ack(2)) == [(GROUP, block(3))]


def test_MT22_noise(stage: MtftpStage) -> None:
    """MT-22: nor do the largest datagram there is, and fragments of packets."""
    master = opened(stage, 2, 1)
    noise = [b"\0\1", b"\0\4", b"\0\3\0\1" + bytes(512), b"\0\6x\0y\0", pattern(65507), b"\0\1" + pattern(65000)]
    assert stage.say(stage.client(3), *noise) == []
    assert stage.say(master, *noise) == []
    assert stage.say(master, ack(2)) == [(GROUP, block(3))]


def test_MT24_noTransfer(stage: MtftpStage) -> None:
    """MT-24: an ACK without a transfer is not answered."""
    assert stage.say(stage.client(), ack(1), seconds=1) == []


def test_MT25_multiple() -> None:
    """MT-25: a file of whole blocks ends with an empty one."""
    data = pattern(1024)
    with MtftpStage({"linux": data}) as stage:
        client = opened(stage)
        assert stage.say(client, ack(1)) == [(GROUP, block(2, data))]
        assert stage.say(client, ack(2)) == [(GROUP, bytes.fromhex("00030003"))]
        assert stage.say(client, ack(3), seconds=1) == []


def test_MT26_empty() -> None:
    """MT-26: an empty file is one empty block."""
    with MtftpStage({"linux": b""}) as stage:
        client = stage.client()
        assert stage.say(client, R) == [(client.address, bytes.fromhex("00030001")), (GROUP, bytes.fromhex("00030001"))]
        assert stage.say(client, ack(1), seconds=1) == []


@pytest.mark.parametrize("vector", vectors("mtftp", "geometry"))
def test_MT27_MT28_MT29_geometry(vector: dict[str, Any]) -> None:
    """MT-27, 28, 29: blocks of every size of file; one with more than 65535 of them is not served."""
    size = vector["file_bytes"]
    with MtftpStage({"linux": bytes(size)}) as stage:
        client = stage.client()
        if not vector["servable"]:
            assert stage.say(client, R, seconds=1) == []
            assert list(stage.options.unfit({"linux": size}.get)) != []
            return
        assert list(stage.options.unfit({"linux": size}.get)) == []
        last = vector["last_block_wire_number"]
        sent = stage.say(client, R)
        if last > 1:
            sent = stage.say(client, ack(last - 1))
        expected = b"\0\3" + last.to_bytes(2, "big") + bytes(vector["last_block_bytes"])
        assert sent[-1] == (GROUP, expected)
        assert stage.say(client, ack(last), seconds=1) == []


def test_MT30_twoFilesOneGroup() -> None:
    """MT-30: two files on one group and port are refused, in one transport and in two."""
    with pytest.raises(ValidationError, match="receivers could not tell them apart"):
        mtftp.Options.model_validate({"files": {"a": "239.255.1.1:3001", "b": "239.255.1.1:3001"}})
    one = mtftp.Options.model_validate({"files": {"a": "239.255.1.1:3001"}})
    two = mtftp.Options.model_validate({"files": {"b": "239.255.1.1:3001"}, "port": 75})
    assert [name for name, _ in mtftp.Options.clashes([("one", one), ("two", two)])] == ["two"]


@pytest.mark.parametrize(
    "place", ["10.0.0.1:3001", "239.255.1.1:0", "239.255.1.1:65536", "239.255.1.1", "224.0.0.5:3001", "x", ""]
)
def test_MT31_badGroup(place: str) -> None:
    """MT-31: what is no group and port is refused."""
    with pytest.raises(ValidationError):
        mtftp.Options.model_validate({"files": {"linux": place}})


@pytest.mark.parametrize("name", ["/linux", "//linux", "\\linux", "./linux"])
def test_MT32_spellings(stage: MtftpStage, name: str) -> None:
    """MT-32: slashes before a name mean nothing, whichever way they lean."""
    client = stage.client()
    sent = stage.say(client, buildRequest(TftpRequest(False, name, "octet")))
    assert sent == [(client.address, block(1)), (GROUP, block(1))]


@pytest.mark.parametrize("ttl", [1, 7])
def test_MT33_ttl(ttl: int) -> None:
    """MT-33: group data has the TTL that is set, 1 by default, and the way out of the address that was asked."""
    with MtftpStage(**({} if ttl == 1 else {"ttl": ttl})) as stage:
        opened(stage)
        assert stage.port.group == (ttl, "10.0.0.1", True, False)


@pytest.mark.slow
def test_MT34_manyTransfers() -> None:
    """MT-34: two thousand transfers leave no port behind and nothing in memory."""
    with MtftpStage(limits=Limits(newPerPeer=1e6)) as stage:
        for number in range(2000):
            stage.network.capture = []
            stage._seen = 0
            client = stage.client(2 + number % 3, 2000 + number)
            client.send(R, SERVER)
            for each in (1, 2, 3):
                stage.network.advance(0.002)
                client.send(ack(each), SERVER)
            stage.network.advance(0.002)
            client.port.stopListening()
        assert stage.casts() == []
        assert len(stage.site.ports.openPorts()) == 1
        assert (stage.site.admission.casts, sum(stage.site.admission.receivers.values())) == (0, 0)


def play(stage: MtftpStage, *clients: Any, apart: float = 0.0, limit: float = 60.0) -> None:
    """Let these clients begin one after the other, and all end."""
    for number, client in enumerate(clients):
        stage.network.callLater(number * apart, client.begin)
    stage.network.run(lambda: all(client.over for client in clients), limit=limit)


def machine(stage: MtftpStage, number: int, kind: Any, name: str = "linux", group: Any = GROUP) -> Any:
    return kind(stage.network.host(f"10.0.0.{number}/16"), name, SERVER, group)


def test_MT35_eachBlockOnce(ten: MtftpStage) -> None:
    """MT-35: to an iPXE, which acknowledges both copies of block 1, each block is sent to the group once."""
    client = machine(ten, 2, Ipxe)
    play(ten, client)
    assert (client.done, client.octets) == (True, TEN)
    ten.network.advance(1)
    assert summary(ten.sent()) == ["U1", *(f"G{number}" for number in range(1, 11))]


@pytest.mark.parametrize("kind", [Efi, Atftp], ids=["MT-36", "MT-37"])
def test_MT36_MT37_clients(ten: MtftpStage, kind: Any) -> None:
    """MT-36, 37: EFI 1.10, which wants both copies from the request port, and atftp, which wants its own first."""
    client = machine(ten, 2, kind)
    play(ten, client)
    assert (client.done, client.octets, client.asked) == (True, TEN, 1)


def test_MT38_longAck(stage: MtftpStage) -> None:
    """MT-38: what follows the number of an ACK is ignored."""
    client = opened(stage)
    assert stage.say(client, bytes.fromhex("00040001ff")) == [(GROUP, block(2))]


def test_MT39_ackZero(stage: MtftpStage) -> None:
    """MT-39: ACK 0 asks for block 1, which is not sent again within the guard time."""
    client = opened(stage)
    assert stage.say(client, ack(0), seconds=0.05) == []
    stage.wait(0.15)
    stage.network.advance(0.08)
    assert summary(stage.say(client, ack(0))) == ["U1", "G1"]


def test_MT40_twoFiles() -> None:
    """MT-40: two files on two groups go out at the same time, each to its own master."""
    groups = {"linux": "239.255.1.1:3001", "initrd": "239.255.1.2:3002"}
    with MtftpStage({"linux": LINUX, "initrd": TEN}, groups=groups) as stage:
        one = machine(stage, 2, Ipxe)
        two = machine(stage, 3, Efi, "initrd", ("239.255.1.2", 3002))
        three = machine(stage, 4, Ipxe, "initrd", ("239.255.1.2", 3002))
        play(stage, one, two, three)
        assert [each.done for each in (one, two, three)] == [True] * 3
        assert (one.octets, two.octets, three.octets) == (LINUX, TEN, TEN)


def test_MT40_twoNetworks() -> None:
    """MT-40: the blocks of two files for two networks leave each by its own interface, to the end."""
    network, groups = twoNetworks(), {"linux": "239.255.1.1:3001", "initrd": "239.255.1.2:3002"}
    with MtftpStage({"linux": LINUX, "initrd": TEN}, groups=groups, network=network) as stage:
        one, two = opened(stage, 2, 1), RecordingClient(network.host("10.1.0.2/16"), 2000)
        two.send(buildRequest(TftpRequest(False, "initrd", "octet")), (FAR, SERVER[1]))
        network.advance(0.005)
        assert stage.port.group == (1, FAR, True, False)
        assert stage.say(one, ack(2)) == [(GROUP, block(3))]
        assert stage.port.group == (1, HOST, True, False)
        two.send(ack(1), (FAR, SERVER[1]))
        network.advance(0.005)
        assert stage.port.group == (1, FAR, True, False)


def test_MT41_otherFile() -> None:
    """MT-41: a client that asks for another file from the same port has left the first one."""
    groups = {"linux": "239.255.1.1:3001", "initrd": "239.255.1.2:3002"}
    with MtftpStage({"linux": LINUX, "initrd": TEN}, groups=groups) as stage:
        client = opened(stage, 2, 1)
        sent = stage.say(client, buildRequest(TftpRequest(False, "initrd", "octet")), seconds=0.05)
        assert sent == [(client.address, block(1, TEN)), (("239.255.1.2", 3002), block(1, TEN))]
        assert [event["outcome"] for event in stage.told("received")] == ["replaced"]


@pytest.mark.parametrize("vector", vectors("mtftp", "dhcp_option_43"))
def test_MT42_dhcp(vector: dict[str, Any]) -> None:
    """MT-42: option 43 with its ports the low octet first."""
    group = (vector["mcast_ip"], vector["client_port"])
    made = option43(group, vector["server_port"], vector["timeout_s"], vector["delay_s"])
    assert made.hex() == vector["option_hex"]


def test_MT43_replaced(ten: MtftpStage) -> None:
    """MT-43: a file that is replaced meanwhile goes out as it was; the new one when nobody can hold half of the old."""
    one = opened(ten)
    ten.site.files["linux"] = bytes(len(TEN))
    two = ten.client(3)
    ten.say(two, R)
    for number in range(1, 10):
        assert ten.say(one, ack(number)) == [(GROUP, block(number + 1, TEN))]
    assert ten.say(one, ack(10)) == [(two.address, block(1, TEN)), (GROUP, block(1, TEN))]
    assert ten.say(two, ack(10)) == []
    assert ten.say(one, R, seconds=REUSE_DELAY) == []
    assert ten.say(one, R)[-1] == (GROUP, block(1, bytes(5000)))


def test_MT44_unsigned() -> None:
    """MT-44: numbers above 32767 are no negative ones."""
    with MtftpStage({"linux": bytes(512 * 0x9000)}) as stage:
        client = opened(stage)
        assert stage.say(client, ack(0x7FFF))[0][1][:4] == bytes.fromhex("00038000")
        assert stage.say(client, ack(0x8000))[0][1][:4] == bytes.fromhex("00038001")


def test_MT45_lostBlock(ten: MtftpStage) -> None:
    """MT-45: an iPXE that loses a block has it again before it leaves."""
    lost: list[bytes] = []

    def loses(source: Any, destination: Any, datagram: bytes) -> bool:
        if datagram == block(2, TEN) and not lost:
            lost.append(datagram)
            return True
        return False

    ten.network.losing(loses)
    client = machine(ten, 2, Ipxe)
    play(ten, client)
    assert (lost != [], client.done, client.octets) == (True, True, TEN)


def test_MT46_listener(stage: MtftpStage) -> None:
    """MT-46: an iPXE that comes in the middle hears the rest, gets block 1 when its time comes, and is done."""
    one = opened(stage)
    late = machine(stage, 3, Ipxe)
    late.begin()
    stage.network.advance(0.01)
    assert {where for where, _ in stage.say(one, ack(1)) + stage.say(one, ack(2))} == {GROUP}
    stage.say(one, ack(3))
    stage.network.run(lambda: late.over, limit=1)
    assert (late.done, late.octets, late.asked) == (True, LINUX, 1)


def remembered(stage: MtftpStage) -> RecordingClient:
    """B has asked while A was served; A is done.  -> B."""
    one = opened(stage)
    two = stage.client(3)
    stage.say(two, R)
    for number in range(1, 10):
        stage.say(one, ack(number))
    stage.sent()
    one.send(ack(10), SERVER)
    return two


def test_MT47_promotion(ten: MtftpStage) -> None:
    """MT-47: who asked in the middle is made master within 0.2 s, jumps over what it has, and is done."""
    two = remembered(ten)
    log = ten.wait(0.2)
    assert [each[1:] for each in log][:2] == [(two.address, block(1, TEN)), (GROUP, block(1, TEN))]
    for number in (1, 2, 3):
        assert ten.say(two, ack(number)) == [(GROUP, block(number + 1, TEN))]
    assert ten.say(two, ack(10), seconds=1) == []
    assert [event["outcome"] for event in ten.told("received")] == ["done", "done"]


def test_MT48_gone(ten: MtftpStage) -> None:
    """MT-48: one who is gone costs three copies, then the next one is made master, and then the file is idle."""
    two = remembered(ten)
    three = ten.client(4)
    three.send(R, SERVER)
    log = [(time, where, datagram) for time, where, datagram in ten.wait(5) if where != GROUP]
    assert [where for _, where, _ in log] == [two.address] * 3 + [three.address] * 3
    times = [time - log[0][0] for time, _, _ in log]
    assert times == pytest.approx([0, 0.08, 0.16, 0.24, 0.32, 0.4], abs=0.002)
    assert ten.casts() == []


@pytest.mark.slow
def test_MT49_forged(stage: MtftpStage) -> None:
    """MT-49: of 500 forged requests a bounded number is kept, and they keep the group busy for 30 s at most."""
    one = opened(stage, 2, 1)
    for number in range(300, 800):
        stage.client(number).send(R, SERVER)
    stage.network.advance(0.01)
    (cast,) = stage.listener.casts()
    assert len(cast.receivers) == MOST_REMEMBERED + 1
    stage.say(one, ack(2))
    stage.say(one, ack(3))
    log = stage.wait(120)
    assert log[-1][0] < 30.5
    assert len(log) < 6 * MOST_REMEMBERED
    serves(stage)


# What is beside the cases.


def test_gathering() -> None:
    """The first block waits a moment for others, is on its way within 0.2 s, and a promotion does not wait."""
    with MtftpStage(gather=0.1, gatherLimit=0.15) as stage:
        one, two = stage.client(), stage.client(3)
        one.send(R, SERVER)
        stage.network.callLater(0.09, two.send, R, SERVER)
        log = stage.wait(0.2)
        assert [(time, where) for time, where, _ in log] == [(0.15, one.address), (0.15, GROUP)]
        for number in (1, 2):
            stage.say(one, ack(number))
        assert stage.say(one, ack(3)) == [(two.address, block(1)), (GROUP, block(1))]


def test_nothingTwiceInAGroup() -> None:
    """Sixteen iPXE that start together have the file, and it was sent once."""
    with MtftpStage({"linux": TEN}, gather=0.1, gatherLimit=0.15) as stage:
        clients = [machine(stage, number, Ipxe) for number in range(2, 18)]
        play(stage, *clients, apart=0.003)
        assert all(client.octets == TEN for client in clients)
        assert [name for name in summary(stage.sent()) if name[0] == "G"] == [f"G{number}" for number in range(1, 11)]


def test_theLastAckIsLost(stage: MtftpStage) -> None:
    """Whoever asks then is served at once, and the one that is done counts as that."""
    one = opened(stage, 2, 1)
    stage.say(one, ack(2), seconds=0.1)
    two = stage.client(3)
    assert stage.say(two, R) == [(two.address, block(1)), (GROUP, block(1))]
    assert [event["outcome"] for event in stage.told("received")] == ["unconfirmed"]


def losing(stage: MtftpStage, *lost: bytes) -> None:
    """Lose each of these datagrams, once."""
    left = list(lost)

    def loses(source: Any, destination: Any, datagram: bytes) -> bool:
        if datagram in left:
            left.remove(datagram)
            return True
        return False

    stage.network.losing(loses)


def test_lostAck(ten: MtftpStage) -> None:
    """
    An atftp never acknowledges one block twice in a row.  It is sent block 1, which it acknowledges, and then the block
    whose ACK was lost; the group hears only the latter.
    """
    losing(ten, ack(4))
    client = machine(ten, 2, Atftp)
    play(ten, client)
    assert (client.done, client.octets) == (True, TEN)
    assert ten.network.seconds() < 2.1
    told = summary(ten.sent())
    assert told[4:10] == ["G4", "G4", "U1", "G4", "G5", "G6"]


def test_lostReminders(ten: MtftpStage) -> None:
    """
    Where that fails, the next block follows the eighth copy.  The seven before it take 0.4 s at least, so that no burst
    of loss that clients survive can take them all.
    """
    losing(ten, ack(4))
    client = machine(ten, 2, Atftp)
    ten.network.losing(lambda source, destination, datagram: client.gap > 1 and datagram == block(1, TEN))
    play(ten, client)
    assert (client.done, client.octets) == (True, TEN)
    sent = [each for each in ten.network.capture or () if each.source == SERVER]
    told = summary([(each.destination, each.datagram) for each in sent])
    assert told[4:21] == ["G4", "G4", *["U1", "G4"] * 6, "G5", "G6", "G7"]
    alone = [each.time for each in sent if each.datagram == block(4, TEN)][:7]
    assert 0.4 <= alone[-1] - alone[0] < 0.5
    assert max(later - time for time, later in pairwise(alone)) < 0.2


@pytest.mark.parametrize(
    ("port", "answers", "told"),
    [
        (2000, 0.0, ["G4", "G4", *["U1", "G4"] * 6, "G5", *["U1", "G4"] * 2]),
        (2000, 0.03, ["G4", "G4", *["U1", "G4"] * 6, "G5", "U1", "G4"]),
        (GROUP[1], 0.0, [*["G4"] * 8, "G5", "G4", "G5"]),
    ],
    ids=["quick", "slow", "EFI"],
)
def test_repetitions(ten: MtftpStage, port: int, answers: float, told: list[str]) -> None:
    """
    Only who is known to answer quickly is sent a block again sooner than after 80 ms, and never EFI's client, which
    asks from the port of the group, counts the copies of a block, and hears no other one.
    """
    client = ten.client(2, port)
    client.send(R, SERVER)
    for number in (1, 2, 3):
        ten.network.advance(0.001 + answers)
        client.send(ack(number), SERVER)
    log = ten.wait(1.4)
    sent = summary([(where, datagram) for _, where, datagram in log])
    assert sent[: len(told)] == told
    times = [time - log[0][0] for time, where, datagram in log if datagram == block(4, TEN)][:8]
    quick = [0, 0.02, 0.06, 0.16, 0.31, 0.36, 0.41, 0.45]
    slow = [0, 0.08, 0.16, 0.36, 0.56, 0.76, 0.96, 1.16]
    assert times == pytest.approx(quick if told[2] == "U1" and not answers else slow, abs=0.002)


def test_aBusyMaster(ten: MtftpStage) -> None:
    """A master that is busy for a moment and then acknowledges each copy is sent each block after that once."""
    client = opened(ten, 2, 1, 2, 3, 4)
    ten.sent()
    ten.network.advance(0.03)
    for _ in range(3):
        client.send(ack(5), SERVER)
        ten.network.advance(0.005)
    assert summary(ten.sent()) == ["G5", "G6"]
    client.send(ack(6), SERVER)
    ten.network.advance(0.005)
    assert summary(ten.sent()) == ["G7"]


def test_noReminderOfTheDeaf(ten: MtftpStage) -> None:
    """Who has acknowledged nothing that went to the group alone, such as a forged address, is sent block 1 no more."""
    client = opened(ten, 2, 1)
    assert {where for _, where, _ in ten.wait(30)} == {GROUP}
    assert client.inbox


def test_theFirstAckIsLost(ten: MtftpStage) -> None:
    """The same for the first ACK: the last repetition to a client that was never heard has block 2 behind it."""
    lost = [b""]
    ten.network.losing(lambda source, destination, datagram: datagram == ack(1) and bool(lost) and lost.pop() == b"")
    client = machine(ten, 2, Atftp)
    play(ten, client)
    assert (client.done, client.octets) == (True, TEN)


def test_slowMasterWhileOthersWait(ten: MtftpStage) -> None:
    """A remembered client waits 2 s for a master that makes no progress, not 10."""
    opened(ten, 2, 1)
    two = ten.client(3)
    two.send(R, SERVER)
    log = [time for time, where, _ in ten.wait(5) if where == two.address]
    assert 1.9 < log[0] < 2.1


def test_notHere(stage: MtftpStage) -> None:
    """A file that is in the service file and nowhere else is not answered; the client goes to plain TFTP."""
    del stage.site.files["linux"]
    assert stage.say(stage.client(), R, seconds=1) == []
    assert [event["code"] for event in stage.told("refused")] == [1]


def test_clients() -> None:
    """Who is in none of the networks is not answered."""
    with MtftpStage(clients="10.0.0.0/30") as stage:
        assert stage.say(stage.client(9), R) == []
        assert summary(stage.say(stage.client(2), R)) == ["U1", "G1"]


def test_changed() -> None:
    """A file that is cut while it is sent ends the transfer without a word: an ERROR would end iPXE's boot."""
    content = BytesContent("linux", pattern(400 * 512))
    with MtftpStage({"linux": content}) as stage:
        client = opened(stage, 2, 1)
        content.cut = 0
        assert stage.say(client, ack(390), seconds=1) == []
        assert [event["outcome"] for event in stage.told("received")] == ["changed"]


def test_fullSocket(ten: MtftpStage) -> None:
    """What a full socket does not take goes out later, in the same order."""
    ten.site.ports.room = 0
    client = ten.client()
    assert ten.say(client, R) == []
    ten.site.ports.room = None
    assert summary(ten.say(client, seconds=0.05)) == ["U1", "G1"]


# Falling back with a hole.


def fallen(stage: MtftpStage, repeats: int = 1) -> RecordingClient:
    """B has asked so many times while A was served, everything has gone out, and B answers nothing.  -> B."""
    one = opened(stage)
    two = stage.client(3)
    for _ in range(repeats):
        stage.say(two, R)
    for number in (1, 2, 3):
        stage.say(one, ack(number))
    return two


def fallsBack(stage: MtftpStage, host: int, name: str = "linux") -> int:
    """Return the opcode that plain TFTP answers with."""
    box = stage.client(host, 2002)
    options = (("blksize", "1432"), ("tsize", "0"))
    box.send(buildRequest(TftpRequest(False, name, "octet", options)), (SERVER[0], 69))
    letter = box.expect()
    box.port.stopListening()
    return letter.datagram[1]


OACK, ERROR = 6, 5


def test_fallback() -> None:
    """Who heard the last block and not all of it is refused by plain TFTP for ten seconds: no image with a hole."""
    with MtftpStage({"linux": LINUX, "other": TEN}, plain=True) as stage:
        fallen(stage)
        assert fallsBack(stage, 3) == ERROR
        assert fallsBack(stage, 3, "other") == OACK
        assert fallsBack(stage, 4) == OACK
        (refused,) = stage.told("refused")
        assert "hole" in refused["why"]
        stage.network.advance(9)
        assert fallsBack(stage, 3) == ERROR
        stage.network.advance(2)
        assert fallsBack(stage, 3) == OACK


def test_fallbackOfOneThatHeardNothing() -> None:
    """Who repeats its request hears nothing of the group, and is served by plain TFTP."""
    with MtftpStage(plain=True) as stage:
        fallen(stage, repeats=2)
        assert fallsBack(stage, 3) == OACK


def test_fallbackBeforeTheEnd() -> None:
    """Who leaves before the last block has gone out is served: it starts over with nothing."""
    with MtftpStage(plain=True) as stage:
        one = opened(stage)
        stage.say(stage.client(3), R)
        stage.say(one, ack(1))
        assert fallsBack(stage, 3) == OACK


def test_notAFallback() -> None:
    """Who said that it has everything may ask plain TFTP for it; and the warned one may ask again by MTFTP."""
    with MtftpStage(plain=True) as stage:
        two = fallen(stage)
        assert fallsBack(stage, 2) == OACK
        stage.network.advance(1)
        assert summary(stage.say(two, R)) == ["U1", "G1"]
        assert fallsBack(stage, 3) == OACK


def test_fallbackOfOneThatRepeatedItsRequest() -> None:
    """Who repeats its request and then acknowledges what only the group was sent hears the group after all."""
    with MtftpStage(plain=True) as stage:
        two = fallen(stage, repeats=2)
        stage.say(two, ack(1))
        stage.say(two, ack(2))
        assert fallsBack(stage, 3) == ERROR


def test_requestCrossesTheLastBlock(stage: MtftpStage) -> None:
    """A request that comes right behind the last block may be of one that has heard it."""
    with MtftpStage(plain=True) as stage:
        one = opened(stage, 2, 1)
        stage.say(one, ack(2))
        stage.say(stage.client(3), R)
        assert fallsBack(stage, 3) == ERROR


def test_aLongPass() -> None:
    """Whoever asks in the middle of a pass is remembered to its end, however long that takes."""
    with MtftpStage({"linux": TEN}, remember=5) as stage:
        one = opened(stage)
        two = stage.client(3)
        stage.say(two, R)
        for number in range(1, 10):
            stage.say(one, ack(number), seconds=1.5 if number < 9 else 0.1)
        assert stage.network.seconds() > 12
        assert stage.say(one, ack(10)) == [(two.address, block(1, TEN)), (GROUP, block(1, TEN))]


def test_fallbackOfAClosedPort() -> None:
    """A host that says that the client's port is closed runs no iPXE: what it asks of plain TFTP it gets."""
    with MtftpStage(plain=True) as stage:
        two = fallen(stage)
        two.port.stopListening()
        stage.network.advance(0.3)
        assert stage.casts() == []
        assert fallsBack(stage, 3) == OACK


def test_aSwitchDropsTheGroup(ten: MtftpStage) -> None:
    """An iPXE that no group reaches acknowledges its own block, then leaves; the log says what to look at."""
    ten.network.losing(lambda source, destination, datagram: source == SERVER and destination[1] == GROUP[1])
    client = machine(ten, 2, Ipxe)
    client.begin()
    ten.network.advance(15)
    assert (client.failed, client.hazard) == ("tftp", False)
    assert [event["outcome"] for event in ten.told("received")] == ["unheard"]


def test_fallbackOfOneThatStayed() -> None:
    """Who repeats its request and is still there a second later has heard something: without it, it would have left."""
    with MtftpStage({"linux": TEN}, plain=True) as stage:
        one = opened(stage)
        two = stage.client(3)
        stage.say(two, R, R)
        for number in range(1, 10):
            stage.say(one, ack(number), seconds=0.2)
        stage.say(one, ack(10))
        assert fallsBack(stage, 3) == ERROR


# The seams.


def test_seams() -> None:
    """Dialect and wire provide what they say; options compare by what they say, so that a reload keeps equal ones."""
    files = {"linux": None, "/initrd": "239.255.1.2:3002"}
    options = mtftp.Options.model_validate({"files": files})
    assert options.files == (("linux", GROUP), ("initrd", ("239.255.1.2", 3002)))
    assert hash(options) == hash(mtftp.Options.model_validate(options.model_dump(mode="json")))
    dialect = mtftp.Dialect(options)
    assert verifyObject(IDialect, dialect)
    request = dialect.request(R, ("10.0.0.2", 2000), Local("10.0.0.1", 1759))
    assert request is not None
    assert verifyObject(IWire, dialect.open(request, BytesContent("linux", LINUX)))


@pytest.mark.parametrize("files", [None, [], {}, {"": None}, {"../x": None}, {"a": None, "/a": "239.255.1.2:3002"}])
def test_badFiles(files: object) -> None:
    """No files, names that are none, and a name twice are refused."""
    with pytest.raises(ValidationError):
        mtftp.Options.model_validate({"files": files})


def test_manyFiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group of a port is compared with no more than a few others, however many files there are."""
    compared = [0]

    class Group(HostPort):
        def __eq__(self, other: object) -> bool:
            compared[0] += 1
            return tuple.__eq__(self, other)

        def __hash__(self) -> int:
            return tuple.__hash__(self)

    endpoint = mtftp.groupEndpoint
    monkeypatch.setattr(mtftp, "groupEndpoint", lambda place: Group(*endpoint(place)))
    files = {f"file{number}": f"239.1.{number // 250}.{number % 250}:3001" for number in range(2000)}
    assert len(mtftp.readFiles(files)) == 2000
    assert compared[0] < 2000
