"""
TFTP: who may say what to which port, and how it all ends.  The ids are those of docs/transports/tftp.md.
"""

from ipaddress import IPv4Network
from typing import Any

import pytest

from castd.dialects import multicast, sbroadcast, tftp
from castd.packets.tftp import Data, Error, Oack, buildAck, buildError
from castd.request import Local
from castd.testing import Network, RecordingClient, memorySite, pattern
from tests.support.clients.tftp import F, ackedTo, data, download, hear, isError, rrq, say, wrq
from tests.support.stage import HOST, SERVER, Stage, TftpStage


def test_TC30_anAckFromAnotherPort() -> None:
    """ACK 1 from a foreign port: ERROR 5 to that port, and the transfer goes on."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        stranger = stage.client(2001)
        say(stranger, 1, tid)
        assert isError(hear(stranger), 5)
        stage.quiet(client)
        assert ackedTo(client, 1, tid) == data(2)


def test_TC31_anErrorFromAnotherPort() -> None:
    """An ERROR from a foreign port is ignored and gets no answer."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        stranger = stage.client(2001)
        stranger.send(buildError(0, "stop"), tid)
        stage.quiet(stranger)
        assert ackedTo(client, 1, tid) == data(2)


@pytest.mark.parametrize("code", [0, 8])
def test_TC32_aSizeProbe(code: int) -> None:
    """ERROR 0 or 8 from the peer after the OACK: closed, nothing sent, told as a size probe."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq(tsize=0, blksize=1468))
        client.send(buildError(code, "User aborted the transfer"), tid)
        stage.quiet(client, 40)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["probe"]


@pytest.mark.parametrize("code", [1, 3, 7])
def test_refusedOffer(code: int) -> None:
    """Another ERROR after the OACK is no size probe: the client has given up."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq(tsize=0, blksize=1468))
        client.send(buildError(code, "Disk full"), tid)
        stage.quiet(client, 40)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["aborted"]


@pytest.mark.parametrize(
    "error", [b"\0\5", b"\0\5\0", b"\0\5\0\x11", b"\0\5\0\0", b"\0\5\1\0no end", b"\0\5\0\x09text\0"]
)
def test_TC33_oddErrors(error: bytes) -> None:
    """An ERROR of 2, 3 or 4 octets, or with a code above 8, from the peer: closed, nothing sent."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        assert ackedTo(client, 1, tid) == data(2)
        client.send(error, tid)
        stage.quiet(client, 40)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["aborted"]


def test_TC34_anErrorToTheRequestPort() -> None:
    """An ERROR to the request port gets no answer: two servers could be made to talk to each other for ever."""
    with TftpStage() as stage:
        client = stage.client()
        for error in (b"\0\5", b"\0\5\0\4", buildError(4, "no"), buildError(5, "who")):
            client.send(error, SERVER)
        stage.quiet(client, 40)
        assert stage.site.dropped == {"stray": 4}


@pytest.mark.parametrize(
    "packet",
    [
        b"\0\3\0\1abc",
        buildAck(0),
        buildAck(1),
        b"\0\6blksize\x00512\0",
        b"\0\0",
        b"\0\7\0\1",
        b"\1\0f\0octet\0",
        b"",
        b"\0",
    ],
    ids=repr,
)
def test_TC35_strayPackets(packet: bytes) -> None:
    """DATA, ACK, OACK, opcode 0, 7, 256, and less than an opcode, to the request port: no answer, and it is counted."""
    with TftpStage() as stage:
        client = stage.client()
        client.send(packet, SERVER)
        stage.quiet(client, 40)
        assert stage.site.dropped["stray"] == (len(packet) > 1)
        assert len(stage.told("malformed")) == (len(packet) < 2)


@pytest.mark.parametrize(
    "request_", [b"\0\1", b"\0\1foobar", b"\0\1foobar\0", b"\0\1foobar\0octet", b"\0\1\0octet\0", b"\0\2f\0"]
)
def test_TC36_malformedRequests(request_: bytes) -> None:
    """A request without NUL, without mode, with an empty name: ERROR 4 from the address that was asked, once."""
    with TftpStage() as stage:
        client, packet, source = stage.ask(request_)
        assert isError(packet, 4)
        assert source == SERVER
        stage.quiet(client, 40)


@pytest.mark.parametrize("mode", ["mail", "image", "", "octet "])
def test_TC37_unknownModes(mode: str) -> None:
    """mail, image, or anything else that is no mode: ERROR 4."""
    with TftpStage() as stage:
        assert isError(stage.ask(rrq(mode=mode))[1], 4)


def test_TC38_binaryIsOctet() -> None:
    """binary, as RFC 783 called it, is octet."""
    with TftpStage() as stage:
        assert stage.ask(rrq(mode="BINARY"))[1] == data(1)


def test_TC41_aMissingFile() -> None:
    """A missing file: ERROR 1, once."""
    with TftpStage() as stage:
        client, packet, _ = stage.ask(rrq("missing"))
        assert isError(packet, 1)
        stage.quiet(client, 40)
        stage.over()
        assert [event["code"] for event in stage.told("refused")] == [1]


@pytest.mark.parametrize("options", [{}, {"blksize": 1432, "tsize": 0}])
def test_TC42_equalRequests(options: dict[str, int]) -> None:
    """The same request three times within a second from one port: one transfer, its first answer from the same port."""
    with TftpStage() as stage:
        client, first, tid = stage.ask(rrq(**options))
        for _ in range(2):
            stage.network.advance(0.25)
            assert stage.ask(rrq(**options), client)[1:] == (first, tid)
        assert len(list(stage.listener.casts())) == 1
        stage.quiet(client, 0.4)


def test_TC42_equalRequestsBeforeTheFirstAnswer() -> None:
    """Requests that arrive while the file is still being looked up begin no second transfer."""
    with TftpStage() as stage:
        client = stage.client()
        for _ in range(3):
            client.send(rrq(), SERVER)
        stage.network.advance(0.01)
        assert len({letter.source for letter in client.take()}) == 1
        assert len(list(stage.listener.casts())) == 1


@pytest.mark.parametrize("name", ["f", "g"])
def test_TC43_aRestartedClient(name: str) -> None:
    """A request from a port that has a transfer at block 5: a new transfer from a new port, the old one is dropped."""
    content = pattern(10_000)
    with TftpStage({"f": content, "g": content}) as stage:
        client, _, old = stage.ask(rrq())
        for number in range(1, 5):
            assert ackedTo(client, number, old) == data(number + 1, content)
        _, packet, new = stage.ask(rrq(name), client)
        assert packet == data(1, content)
        assert new != old
        assert len(list(stage.listener.casts())) == 1
        say(client, 5, old)
        stage.quiet(client, 0.5)
        assert ackedTo(client, 1, new) == data(2, content)
        assert [event["outcome"] for event in stage.told("received")] == ["replaced"]


@pytest.mark.parametrize("request_", [rrq("g"), rrq(blksize=1000), rrq(mode="netascii")])
def test_anotherRequestBeforeAnyAck(request_: bytes) -> None:
    """A client that has acknowledged nothing and asks for something else gets that, from a new port."""
    with TftpStage({"f": pattern(1300), "g": b"other"}) as stage:
        client, first, old = stage.ask(rrq())
        _, second, new = stage.ask(request_, client)
        assert (first, new != old) == (data(1), True)
        assert second != first or b"netascii" in request_
        assert len(list(stage.listener.casts())) == 1
        assert [event["outcome"] for event in stage.told("received")] == ["replaced"]


@pytest.mark.parametrize("address", ["255.255.255.255", "10.0.0.255"])
def test_TC44_broadcastRequests(address: str) -> None:
    """A broadcast request gets no answer unless switched on; then never an ERROR, and from a unicast address."""
    for on in (False, True):
        with TftpStage(options={"broadcast": on}) as stage:
            client = stage.client()
            client.port.setBroadcastAllowed(True)
            for request in (rrq("missing"), rrq(mode="mail"), b"\0\1", wrq()):
                client.send(request, (address, 69))
                stage.quiet(client, 5)
            client.send(rrq(), (address, 69))
            if not on:
                stage.quiet(client, 40)
                continue
            letter = client.expect()
            assert letter.datagram[4:] == data(1).payload
            assert letter.source[0] == "10.0.0.1"
            assert ackedTo(client, 1, letter.source) == data(2)


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("options", [{"multicast": ""}, {"sbroadcast": "255.255.255.0"}])
def test_TC44_broadcastRequestsForAGroup(options: dict[str, str], on: bool) -> None:
    """A group is not for whoever asks by broadcast: the option is left out, if plain TFTP answers such a request."""
    network = Network(seed=1, latency=0.0002)
    network.host(HOST)
    groups = ((sbroadcast, {"subnets": ["10.0.0.0/24"]}), (multicast, {}))
    with Stage(network, memorySite(network, {"f": F}), *groups, (tftp, {"broadcast": on}), port=69) as stage:
        client = RecordingClient(network.host("10.0.0.9"), 2000)
        client.port.setBroadcastAllowed(True)
        for name in ("missing", "f"):
            client.send(rrq(name, blksize=512, **options), ("255.255.255.255", 69))
        network.advance(0.5)
        assert [hear(client) for _ in client.inbox] == [Oack((("blksize", "512"),))] * on
        assert stage.site.dropped == ({} if on else {"broadcast": 2})


def test_TC45_theSecondAddress() -> None:
    """A request to the second address of the host is answered from that address: data, options and errors alike."""
    with TftpStage() as stage:
        for port, request in enumerate((rrq(), rrq(blksize=1000), rrq("missing"), wrq()), 2000):
            client = stage.client(port)
            client.send(request, ("10.1.0.1", 69))
            assert client.expect().source[0] == "10.1.0.1"


@pytest.mark.slow
def test_TC60_aCrowd() -> None:
    """1000 clients ask for one file within one second: all are served, and no first answer takes 15 s."""
    content = pattern(1300)
    with TftpStage({"f": content}) as stage:
        crowd = [Reader(stage.network, f"10.0.{4 + index // 200}.{1 + index % 200}") for index in range(1000)]
        for index, reader in enumerate(crowd):
            stage.network.callLater(index / 1000, reader.begin)
        stage.network.run(lambda: all(reader.done for reader in crowd), limit=120)
        assert all(reader.octets == content for reader in crowd)
        assert max(reader.first - reader.asked for reader in crowd) < 15
        stage.over()
        assert len(stage.told("received")) == 1000
        assert stage.network.seconds() < 3


class Reader(RecordingClient):
    """Reads the file as soon as blocks come, and says how long it had to wait."""

    def __init__(self, network: Network, address: str) -> None:
        super().__init__(network.host(f"{address}/16"), 2000)
        self.octets = b""
        self.asked = self.first = 0.0
        self.done = False

    def begin(self) -> None:
        self.asked = self.host.seconds()
        self.send(rrq(), SERVER)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.first = self.first or self.host.seconds()
        number = int.from_bytes(datagram[2:4], "big")
        if number == len(self.octets) // 512 + 1:
            self.octets += datagram[4:]
        self.send(buildAck(number), addr)
        self.done = len(datagram) < 516


def test_TC61_aRequestFromOurselves() -> None:
    """A request whose source is the server's own request port gets no answer; nor does one from port 0."""
    with TftpStage() as stage:
        stage.port.write(rrq(), SERVER)
        stage.port.write(b"\0\1", SERVER)
        stage.listener.datagramFrom(rrq(), ("10.0.0.9", 0), Local("10.0.0.1", 69))
        stage.network.advance(40)
        assert stage.network.sent == 2
        assert stage.site.dropped == {"implausible": 3}
        stage.over()


@pytest.mark.parametrize(
    "host", ["10.0.0.255", "10.1.255.255", "255.255.255.255", "224.0.0.1", "239.255.0.1", "ff02::1"]
)
@pytest.mark.parametrize("asked", [rrq(), rrq("missing"), b"\0\1"], ids=["file", "missing", "malformed"])
def test_aRequestFromMany(host: str, asked: bytes) -> None:
    """A request whose forged source is a broadcast address or a group gets no answer: all machines would hear it."""
    networks = (IPv4Network("10.0.0.0/24"), IPv4Network("10.1.0.0/16"), IPv4Network("10.0.0.254/31"))
    with TftpStage() as stage:
        stage.listener.datagramFrom(asked, (host, 2000), Local("10.0.0.1", 69, networks=networks))
        stage.network.advance(40)
        assert stage.network.sent == 0
        stage.listener.datagramFrom(asked, ("10.0.0.254", 2000), Local("10.0.0.1", 69, networks=networks))
        assert stage.network.sent == 1
        # Reserved, but Linux takes it for the address of one machine.
        stage.listener.datagramFrom(asked, ("240.0.0.7", 2000), Local("10.0.0.1", 69, networks=networks))
        assert stage.network.sent == 2


# Limits against forged addresses.


@pytest.mark.slow
def test_errorsAreLimited() -> None:
    """A storm of bad requests gets 20 ERRORs a second for one address, 200 for all of them together."""
    with TftpStage() as stage:
        boxes = [stage.client(host=f"10.0.0.{100 + number}") for number in range(30)]
        for _ in range(100):
            for box in boxes:
                box.send(rrq("missing", mode="mail"), SERVER)
        stage.network.advance(0.001)
        counts = [len(box.take()) for box in boxes]
        assert max(counts) <= 20
        assert sum(counts) <= 200
        stage.network.advance(1)
        boxes[0].send(rrq(mode="mail"), SERVER)
        assert isError(hear(boxes[0]), 4)


def test_strangersAreAnsweredFiveTimesASecond() -> None:
    """ERROR 5 goes to foreign ports at most five times a second in all."""
    with TftpStage() as stage:
        _, _, tid = stage.ask(rrq())
        strangers = [stage.client(3000 + number) for number in range(20)]
        for stranger in strangers:
            say(stranger, 1, tid)
        stage.network.advance(0.01)
        assert sum(len(stranger.take()) for stranger in strangers) == 5


def test_oneAddressHasSixtyFourTransfers() -> None:
    """Beyond 64 transfers, or 50 new ones a second, an address is not answered, and is again when there is room."""
    with TftpStage() as stage:
        boxes = [stage.client(3000 + number) for number in range(120)]
        for box in boxes[:60]:
            box.send(rrq(), SERVER)
        stage.network.advance(0.01)
        assert sum(bool(box.take()) for box in boxes) == 50
        stage.network.advance(1)
        for box in boxes[60:]:
            box.send(rrq(), SERVER)
        stage.network.advance(0.01)
        assert len(list(stage.listener.casts())) == 64
        stage.network.advance(40)
        assert isinstance(stage.ask(rrq(), stage.client(4000))[1], Data)


def test_beforeAnAnswerThereIsLittle() -> None:
    """Until a peer has answered it is sent its first answer and three repetitions, whatever it asked for."""
    for options in ({}, {"blksize": 1468, "windowsize": 64}, {"windowsize": 64, "timeout": 1}):
        with TftpStage({"f": pattern(200_000)}) as stage:
            client = stage.client()
            client.send(rrq(**options), SERVER)
            stage.network.advance(100)
            assert len(client.take()) == 4
            stage.over()


# What a transfer port makes of nonsense from its own peer.


@pytest.mark.parametrize(
    "noise",
    [
        *(
            b"",
            b"\0",
            b"\0\4",
            b"\0\4\0",
            b"\0\3\0",
            b"\0\3\0\1abc",
            b"\0\6blksize\x00512\0",
            b"\0\7\0\1",
            b"\xff" * 2000,
        ),
        *(rrq(), rrq("missing"), rrq(mode="mail"), wrq()),
    ],
    ids=lambda noise: noise[:8].hex(),
)
@pytest.mark.parametrize("begun", [False, True])
def test_nonsenseOnATransferPort(noise: bytes, begun: bool) -> None:
    """What is malformed or out of place at a transfer port is dropped and counted; the transfer and its timer go on."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        if begun:
            assert ackedTo(client, 1, tid) == data(2)
            assert ackedTo(client, 2, tid) == data(3)
        for _ in range(3):
            client.send(noise, tid)
            stage.network.advance(0.004)
        assert client.take() == []
        assert len(stage.told("malformed")) == 3
        assert len(stage.casts()) == 1
        assert hear(client, 1.2) == data(3 if begun else 1)
        if not begun:
            assert ackedTo(client, 1, tid) == data(2)


@pytest.mark.parametrize("request_", [rrq(), rrq("missing"), wrq()], ids=["same", "other", "write"])
def test_aStrangersRequestOnATransferPort(request_: bytes) -> None:
    """A request to the port of somebody else's transfer is dropped and counted, too: it is for the request port."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        stranger = stage.client(2001)
        stranger.send(request_, tid)
        stage.quiet(stranger, 0.5)
        assert len(stage.told("malformed")) == 1
        assert ackedTo(client, 1, tid) == data(2)


def test_theLastAckNeverCame() -> None:
    """Who never acknowledges the last block has everything, as far as anybody can tell: told as unconfirmed."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        ackedTo(client, 1, tid)
        assert ackedTo(client, 2, tid) == data(3)
        stage.network.advance(60)
        stage.over()
        assert [event["outcome"] for event in stage.told("received")] == ["unconfirmed"]


def test_aFullSocketLosesNothing() -> None:
    """What a full socket did not take goes out when there is room, in its order."""
    with TftpStage({"f": pattern(20_000)}) as stage:
        client, _, tid = stage.ask(rrq(blksize=100, windowsize=16))
        host = stage.network.host("10.0.0.1")
        host.room = 3
        say(client, 0, tid)
        stage.network.advance(0.002)
        assert len(client.inbox) == 3
        host.room = None
        stage.network.advance(0.5)
        numbers = [int.from_bytes(letter.datagram[2:4], "big") for letter in client.inbox]
        assert numbers[:16] == list(range(1, 17))


@pytest.mark.parametrize("size", [0, 100, 1300])
@pytest.mark.parametrize("fate", ["lost", "full", "twice", "late"])
def test_theAnswerToAnOack(size: int, fate: str) -> None:
    """ACK 0 gets block 1, once: again a second after it was lost, when there is room, not for a second ACK 0."""
    content = pattern(size)
    with TftpStage({"f": content}) as stage:
        client, _, tid = stage.ask(rrq(blksize=512))
        host = stage.network.host("10.0.0.1")
        if fate == "late":
            stage.network.advance(0.9)
        if fate == "full":
            host.room = 0
            say(client, 0, tid)
            stage.quiet(client, 0.004)
            host.room = None
            first = hear(client, 0.1)
        elif fate == "lost":
            host.errno = 101
            say(client, 0, tid)
            stage.quiet(client, 0.9)
            host.errno = 0
            first = hear(client, 0.3)
        else:
            first = ackedTo(client, 0, tid)
            if fate == "twice":
                say(client, 0, tid)
                stage.quiet(client, 0.9)
        assert first == data(1, content)
        for number in range(1, size // 512 + 1):
            assert ackedTo(client, number, tid) == data(number + 1, content)
        say(client, size // 512 + 1, tid)
        stage.over()
        (told,) = stage.told("received")
        lost = int(fate == "lost")
        assert (told["outcome"], told["octets"]) == ("done", size + lost * min(size, 512))
        assert (told["blocks"], told["repeats"]) == (size // 512 + 1 + lost, lost)


def test_aNetworkThatIsDown() -> None:
    """A send that fails is a datagram lost on its way: the transfer goes on when the network does."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        host = stage.network.host("10.0.0.1")
        host.errno = 101
        say(client, 1, tid)
        stage.network.advance(0.5)
        assert client.take() == []
        host.errno = 0
        assert hear(client, 3) == data(2)


def test_singlePort() -> None:
    """All from port 69: reading, restarting and ending work from the listening port itself."""
    with TftpStage(options={"singlePort": True}) as stage:
        client, packet, tid = stage.ask(rrq(blksize=500))
        assert tid == SERVER
        assert packet == Oack((("blksize", "500"),))
        assert ackedTo(client, 0, tid) == data(1, blksize=500)
        assert stage.ask(rrq(), client)[1:] == (data(1), SERVER)
        octets, _ = download(stage, stage.client(2001), rrq())
        assert octets == pattern(1300)
        client.send(buildError(0, "enough"), SERVER)
        stage.over()


def test_theServerStops() -> None:
    """When the server stops, each receiver is told so with ERROR 0, and nothing is left."""
    with TftpStage() as stage:
        clients = [stage.ask(rrq(), stage.client(2000 + number))[0] for number in range(3)]
        stage.listener.stop()
        assert all(isError(hear(client), 0) for client in clients)
        stage.over()


def test_draining() -> None:
    """A draining listener takes no new request, and is done when the last transfer is."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq())
        drained = stage.listener.drain()
        other = stage.client(2001)
        other.send(rrq(), SERVER)
        stage.quiet(other)
        assert not drained.called
        for number in (1, 2, 3):
            say(client, number, tid)
            stage.network.advance(0.001)
        stage.network.result(drained)
        stage.over()


def test_anErrorSaysNoMoreThanItMust() -> None:
    """The text of an ERROR is printable, bounded, and names no path of the server."""
    with TftpStage() as stage:
        for number, request in enumerate((rrq("missing/\x1b[2Jfile"), rrq("../etc/passwd"), rrq(mode="mail"), wrq())):
            packet = stage.ask(request, stage.client(2000 + number))[1]
            assert isinstance(packet, Error)
            assert packet.text.isprintable()
            assert "/" not in packet.text
