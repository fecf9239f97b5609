"""
The test kit itself: what it delivers, when, to whom, and that it says so when a run does not end.
"""

import errno
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from castd import testing as kit
from castd.dialects.tftp import Dialect, Options
from castd.errors import ContentChanged, Exists, Forbidden, Full, NotFound, Refused
from castd.files.chains import SinkChain
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.interfaces import IContent, IContentSink, IDatagramPort, IPorts, ISite, IUpload
from castd.request import Local, Peer, Request
from castd.server.listener import Listener
from castd.testing import (
    BytesContent,
    LimitExceeded,
    MemorySink,
    Network,
    NoJitterRandom,
    RecordingClient,
    memorySite,
    pattern,
)
from tests.support.log import observed


class Heard(DatagramProtocol):
    """Writes down by which door each datagram came."""

    noisy = False

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def datagramFrom(self, datagram: bytes, peer: Peer, local: Local) -> None:
        self.log.append(("from", datagram, peer, local.host, local.broadcast))

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        self.log.append(("peer", datagram, addr))

    def strangerReceived(self, datagram: bytes, peer: Peer) -> None:
        self.log.append(("stranger", datagram, peer))

    def peerUnreachable(self, peer: Peer) -> None:
        self.log.append(("unreachable", peer))

    def stopProtocol(self) -> None:
        self.log.append(("stopped",))


def test_whatItProvides() -> None:
    """Hosts, ports, contents, sinks and sites provide their interfaces."""
    network = Network()
    host = network.host("10.0.0.1")
    sink = MemorySink({})
    assert verifyObject(IPorts, host)
    assert verifyObject(IDatagramPort, host.listenUDP(0, Heard()))
    assert verifyObject(IContent, BytesContent("f", b""))
    assert verifyObject(IContentSink, sink)
    assert verifyObject(IUpload, sink.begin("f", ("10.0.0.2", 1), None))
    assert verifyObject(ISite, memorySite(network))


def test_aListenerIsToldWhereItWasAsked() -> None:
    """A listener on the wildcard of a host with two addresses learns which was asked, and can answer from it."""
    network = Network(latency=0.25)
    server, heard = network.host("10.0.0.1", "10.1.0.1"), Heard()
    port = server.listen(69, heard)
    client = RecordingClient(network.host("10.0.0.9"), 2000)
    client.send(b"hello", ("10.1.0.1", 69))
    assert network.run() == 0.25
    assert heard.log == [("from", b"hello", ("10.0.0.9", 2000), "10.1.0.1", False)]
    port.writeFrom(b"yes", client.address, Local("10.1.0.1", 69))
    assert client.expect() == (b"yes", ("10.1.0.1", 69), 0.5)


def test_anUnboundPortSpeaksFromTheNearAddress() -> None:
    """Without a word about it, a datagram leaves from the address in the receiver's subnet."""
    network = Network()
    port = network.host("10.0.0.1", "10.1.0.1").listenUDP(69, Heard())
    for address in ("10.0.0.9", "10.1.0.9"):
        client = RecordingClient(network.host(address))
        port.write(b"x", client.address)
        assert client.expect().source == (address[:-1] + "1", 69)


def test_aLentPortTellsItsPeerFromStrangers() -> None:
    """A port lent for one peer hears others as strangers: another port of the same machine is one."""
    network = Network()
    heard = Heard()
    client, other = RecordingClient(network.host("10.0.0.9")), RecordingClient(network.host("10.0.0.9"))
    port = network.host("10.0.0.1").openPort(heard, Local("10.0.0.1", 69), client.address)
    for box in (client, other):
        box.send(b"x", port.address)
    network.run()
    assert heard.log == [("peer", b"x", client.address), ("stranger", b"x", other.address)]
    port.write(b"to its peer")
    assert client.expect().datagram == b"to its peer"


def test_portsAreChosenByChanceAndNeverTwice() -> None:
    """Lent ports lie in the dynamic range and differ; another seed gives others."""
    chosen = []
    for seed in (1, 2):
        host = Network(seed=seed).host("10.0.0.1")
        ports = [host.openPort(Heard(), Local("10.0.0.1", 69)).getHost().port for _ in range(200)]
        assert len(set(ports)) == 200
        assert min(ports) >= 49152
        chosen.append(ports)
    assert chosen[0] != chosen[1]


def test_portsOfARange() -> None:
    """A port lent from a range lies in it; when all are taken it is said."""
    host = Network().host("10.0.0.1")
    ports = [host.openPort(Heard(), Local("10.0.0.1", 69), None, range(30000, 30003)) for _ in range(3)]
    assert sorted(port.getHost().port for port in ports) == [30000, 30001, 30002]
    with pytest.raises(CannotListenError):
        host.openPort(Heard(), Local("10.0.0.1", 69), None, range(30000, 30003))
    ports[1].stopListening()
    assert host.openPort(Heard(), Local("10.0.0.1", 69), None, range(30000, 30003)).getHost() == ports[1].getHost()


def test_aTakenPortCannotBeListenedAt() -> None:
    """Binding twice, or to an address that the host has not, fails as with Twisted; a closed port is free again."""
    host = Network().host("10.0.0.1")
    port = host.listen(69, Heard())
    for interface in ("", "10.0.0.1", "10.0.0.2"):
        with pytest.raises(CannotListenError):
            host.listen(69, Heard(), interface)
    port.stopListening()
    host.listen(69, Heard())


def test_aClosedPortHearsAndSaysNothing() -> None:
    """What is under way to a port that closes is lost; its protocol is told once that it has stopped; writing fails."""
    network = Network()
    heard = Heard()
    port = network.host("10.0.0.1").listenUDP(69, heard)
    RecordingClient(network.host("10.0.0.9")).send(b"x", port.address)
    port.stopListening()
    port.stopListening()
    network.run()
    assert heard.log == [("stopped",)]
    with pytest.raises(OSError, match="Bad file"):
        port.write(b"x", ("10.0.0.9", 1))


def test_nobodyThereIsSaidOnlyByAMachineThatIsThere() -> None:
    """A closed port of a machine is reported as unreachable; an address without a machine swallows everything."""
    network = Network()
    network.host("10.0.0.9")
    heard = Heard()
    port = network.host("10.0.0.1").listen(69, heard)
    port.write(b"x", ("10.0.0.9", 7))
    port.write(b"x", ("10.0.0.10", 7))
    network.run()
    assert heard.log == [("unreachable", ("10.0.0.9", 7))]
    assert network.strayed == 2


def test_groupsAreHeardByThoseWhoJoined() -> None:
    """A group datagram reaches all who joined at that port number, the sender's own machine only if it says so."""
    network = Network()
    server = network.host("10.0.0.1").listenUDP(69, Heard())
    boxes = [RecordingClient(network.host(f"10.0.0.{number}"), 1758) for number in (1, 8, 9)]
    stranger = RecordingClient(network.host("10.0.0.10"), 1758)
    for box in boxes:
        box.port.joinGroup("239.1.1.1")
    server.setGroup(1, "", False, False)
    server.write(b"a", ("239.1.1.1", 1758))
    network.run()
    assert [len(box.take()) for box in (*boxes, stranger)] == [0, 1, 1, 0]
    server.setGroup(1, "", True, False)
    boxes[2].port.leaveGroup("239.1.1.1")
    server.write(b"b", ("239.1.1.1", 1758))
    network.run()
    assert [len(box.take()) for box in (*boxes, stranger)] == [1, 1, 0, 0]
    assert network.sent == 2


def test_broadcastsStayInTheirSubnet() -> None:
    """A broadcast needs leave to be sent, reaches the subnet that it names, and a listener is told what it was."""
    network = Network()
    heard = Heard()
    network.host("10.0.0.1").listen(69, heard)
    near, far = RecordingClient(network.host("10.0.0.8"), 69), RecordingClient(network.host("10.0.1.8"), 69)
    caller = RecordingClient(network.host("10.0.0.9"), 2000)
    with pytest.raises(PermissionError):
        caller.send(b"x", ("255.255.255.255", 69))
    caller.port.setBroadcastAllowed(True)
    caller.send(b"x", ("10.0.0.255", 69))
    network.run()
    assert heard.log == [("from", b"x", ("10.0.0.9", 2000), "10.0.0.1", True)]
    assert (len(near.take()), len(far.take())) == (1, 0)
    caller.send(b"x", ("255.255.255.255", 69))
    network.run()
    assert (len(near.take()), len(far.take())) == (1, 1)


def test_lossIsWhatWasAskedForAndRepeatable() -> None:
    """One seed loses the same datagrams twice; the share lost is the share asked for."""

    def run(seed: int) -> list[bytes]:
        network = Network(seed=seed, loss=0.2)
        client = RecordingClient(network.host("10.0.0.9"))
        port = network.host("10.0.0.1").listenUDP(69, Heard())
        for number in range(5000):
            port.write(b"%d" % number, client.address)
        network.run()
        assert network.lost + len(client.inbox) == 5000
        return [letter.datagram for letter in client.inbox]

    assert run(1) == run(1) != run(2)
    assert 0.18 < 1 - len(run(1)) / 5000 < 0.22


def test_duplicatesAndDisorder() -> None:
    """Datagrams can come twice, and out of their order, but never altered."""
    network = Network(seed=4, duplicate=0.1, reorder=0.2)
    client = RecordingClient(network.host("10.0.0.9"))
    port = network.host("10.0.0.1").listenUDP(69, Heard())
    for number in range(1000):
        port.write(b"%d" % number, client.address)
        network.advance(0.0001)
    network.run()
    came = [int(letter.datagram) for letter in client.inbox]
    assert set(came) == set(range(1000))
    assert 1050 < len(came) < 1150
    assert came != sorted(came)
    assert [letter.time for letter in client.inbox] == sorted(letter.time for letter in client.inbox)


def test_oneDirectionCanBeWorseThanTheOther() -> None:
    """A link's faults hold for its direction; a predicate sees each datagram, and can be taken away."""
    network = Network()
    network.link("10.0.0.1", "10.0.0.9", loss=1.0)
    one, two = RecordingClient(network.host("10.0.0.1")), RecordingClient(network.host("10.0.0.9"))
    one.send(b"gone", two.address)
    two.send(b"there", one.address)
    network.run()
    assert (len(one.take()), len(two.take())) == (1, 0)
    network.link("10.0.0.1", "10.0.0.9", loss=0.0, latency=2.0)
    found = network.losing(lambda source, destination, datagram: datagram == b"b")
    for datagram in (b"a", b"b"):
        one.send(datagram, two.address)
    assert network.run() == 2.0
    found()
    one.send(b"b", two.address)
    network.run()
    assert [letter.datagram for letter in two.take()] == [b"a", b"b"]


def test_socketsCanBeFullOrBroken() -> None:
    """A full socket raises BlockingIOError, a burst says how much it took; an errno fails every write."""
    network = Network()
    host = network.host("10.0.0.1")
    client = RecordingClient(network.host("10.0.0.9"))
    port = host.openPort(Heard(), Local("10.0.0.1", 69), client.address)
    host.room = 2
    assert port.writeBurst(b"aabbccd", 2) == 4
    with pytest.raises(BlockingIOError):
        port.write(b"x")
    host.room = None
    assert port.writeBurst(b"ccd", 2) == 3
    network.run()
    assert [letter.datagram for letter in client.take()] == [b"aa", b"bb", b"cc", b"d"]
    host.errno = errno.ENETUNREACH
    with pytest.raises(OSError, match="unreachable"):
        port.writeBurst(b"aabb", 2)


def test_timersRingAtTheirTime() -> None:
    """Timers ring in order, each at its own instant, and may be moved either way, cancelled, and set by others."""
    network = Network()
    rung: list[tuple[str, float]] = []
    ring = lambda name: rung.append((name, network.seconds()))  # noqa: E731
    network.callLater(5, ring, "moved back").reset(1)
    network.callLater(1, ring, "moved on").reset(5)
    network.callLater(2, ring, "never").cancel()
    network.callLater(3, lambda: network.callLater(1, ring, "grandchild"))
    twice = network.callLater(4, ring, "there and back")
    twice.reset(2)
    twice.delay(4)
    assert len(network.getDelayedCalls()) == 4
    network.advance(100)
    assert rung == [("moved back", 1), ("grandchild", 4), ("moved on", 5), ("there and back", 6)]
    assert network.seconds() == 100


def test_cancelledTimersTakeNoRoom() -> None:
    """A timer set and cancelled for each of a million datagrams does not fill the memory."""
    network = Network()
    for _ in range(20_000):
        network.callLater(60, print).cancel()
    assert len(network._heap) < 3000
    network.run()


def test_chatterFails() -> None:
    """Two sides that answer each other for ever fail by the count of datagrams, and so does waiting by the clock."""
    network = Network()

    class Echo(DatagramProtocol):
        noisy = False

        def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
            assert self.transport is not None
            self.transport.write(datagram, addr)

    one = network.host("10.0.0.1").listenUDP(1, Echo())
    network.host("10.0.0.2").listenUDP(2, Echo())
    one.write(b"x", ("10.0.0.2", 2))
    with pytest.raises(LimitExceeded, match="more than 1000 datagrams"):
        network.run(datagrams=1000)
    with pytest.raises(LimitExceeded, match="no end within 3"):
        network.run(limit=3)
    with pytest.raises(LimitExceeded, match="silent"):
        Network().run(lambda: False)


def test_resultsOfDeferreds() -> None:
    """A Deferred's result comes out, its failure is raised, and one that never fires is chatter."""
    network = Network()
    later: Deferred[str] = Deferred()
    network.callLater(3, later.callback, "here")
    assert network.result(later) == "here"
    assert network.seconds() == 3
    with pytest.raises(NotFound):
        network.result(fail(NotFound()))
    with pytest.raises(LimitExceeded):
        network.result(Deferred())


def test_captureHoldsWhatWasSent() -> None:
    """The capture has every datagram as it was sent, the lost ones too, unless it was switched off."""
    network = Network(loss=1.0)
    box = RecordingClient(network.host("10.0.0.9"), 2000)
    box.send(b"x", ("10.0.0.1", 69))
    assert network.capture == [(0.0, ("10.0.0.9", 2000), ("10.0.0.1", 69), b"x")]
    assert Network(capture=False).capture is None


def test_steadyChance() -> None:
    """Chance without jitter still chooses: numbers are drawn, shares of an interval are not."""
    chance = NoJitterRandom(3)
    assert (chance.random(), chance.uniform(2, 5)) == (0.0, 2.0)
    assert len({chance.randrange(1000) for _ in range(100)}) > 80


def test_contentInMemory() -> None:
    """Reading gives slices and fills buffers; equal octets have one version; a cut file is a changed one."""
    data = pattern(1300)
    content = BytesContent("f", data)
    assert bytes(content.read(1024, 512)) == data[1024:]
    image = bytearray(100)
    content.readInto([memoryview(image)[:40], memoryview(image)[60:]], 7)
    assert image == data[7:47] + bytes(20) + data[47:87]
    assert content.version == BytesContent("other", data).version != BytesContent("f", data[1:]).version
    content.cut = 1299
    with pytest.raises(ContentChanged):
        content.read(1024, 512)
    with pytest.raises(ContentChanged):
        content.readInto([memoryview(bytearray(1300))], 0)


@pytest.mark.parametrize("blksize", [8, 512, 1024, 1428, 1432, 1468])
def test_thePatternTellsBlocksApart(blksize: int) -> None:
    """No two blocks within a window of 64 are alike, whatever their size."""
    data = pattern(blksize * 256)
    blocks = [data[start : start + blksize] for start in range(0, len(data), blksize)]
    assert all(len(set(blocks[start : start + 64])) == 64 for start in range(192))


def test_aSiteInMemory() -> None:
    """Names are found whatever their slashes, refused upwards, looked up anew each time, and asked for by the rules."""
    network = Network()
    asked = []
    site = memorySite(network, {"boot/x": b"one"}, access=asked.append)

    def lookup(name: str) -> object:
        return network.result(site.lookup(Request(("10.0.0.9", 2000), Local("10.0.0.1", 69), name)))

    first = lookup("/boot//x")
    assert first.version == lookup("boot\\x").version
    site.files["boot/x"] = b"two"
    assert lookup("./boot/x").version != first.version
    assert len(site.contents) == len(asked) == 3
    with pytest.raises(Forbidden):
        lookup("boot/../x")
    with pytest.raises(NotFound):
        lookup("x")
    with pytest.raises(Forbidden):
        site.sink(asked[0])
    site.bar("10.0.0.9", "x", 5, "old block")
    assert (site.barred("10.0.0.9", "x"), site.barred("10.0.0.8", "x")) == ("old block", None)
    network.advance(5)
    assert site.barred("10.0.0.9", "x") is None


@pytest.mark.parametrize(
    ("policy", "name", "size", "refusal"),
    [
        ("create", "old", None, Exists),
        ("create", "new", 11, Full),
        ("create", "open", None, Forbidden),
        ("create", "../new", None, Forbidden),
        ("existing", "new", None, NotFound),
        ("overwrite", "old", 10, None),
        ("create", "new", 10, None),
    ],
)
def test_aSinkInMemory(policy: str, name: str, size: int | None, refusal: type[Refused] | None) -> None:
    """The policies of uploads; nothing is seen before commit, nothing is left after abort."""
    files = {"old": b"before"}
    sink = MemorySink(files, policy, largest=10)
    if policy == "create":
        sink.begin("open", ("10.0.0.8", 1), None)
    if refusal is not None:
        with pytest.raises(refusal):
            sink.begin(name, ("10.0.0.9", 1), size)
        return
    broken = sink.begin(name, ("10.0.0.9", 1), size)
    broken.write(b"123")
    broken.abort()
    upload = sink.begin(name, ("10.0.0.9", 1), size)
    upload.write(b"1234567890")
    assert files.get(name) != b"1234567890"
    upload.commit()
    assert files[name] == b"1234567890"
    with pytest.raises(Full):
        sink.begin("more", ("10.0.0.9", 1), None).write(b"12345678901")


def test_aSinkLikeThatOfFiles(tmp_path: Path) -> None:
    """The sink in memory and that of a directory answer alike: whose name it is, and what follows the end."""
    directory = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), policy="create", keepFree=0), maybeDeferred)
    inMemory: dict[str, bytes] = {}

    def refusal(failure: Failure) -> tuple[object, object]:
        return failure.type, getattr(failure.value, "text", None)

    def told(sink: IContentSink, appear: Callable[[], object]) -> list[object]:
        """
        Return what the steps of some uploads come to.

        @param appear: lets a file be there whose name is C{new}.
        """
        seen: list[object] = []

        def begin(name: str, peer: Peer) -> Any:
            found: list[object] = []
            begun = maybeDeferred(sink.begin, name, peer, None)
            begun.addCallbacks(found.append, lambda why: seen.append(refusal(why)))
            return found[0] if found else None

        def step(call: Callable[..., object], *arguments: bytes) -> None:
            maybeDeferred(call, *arguments).addCallbacks(seen.append, lambda why: seen.append(refusal(why)))

        one, other = ("10.0.0.8", 1), ("10.0.0.9", 1)
        former = begin("/a//b", one)
        begin("a/b", other)
        again = begin("a/b", one)
        step(former.write, b"1")
        former.abort()
        step(again.write, b"22")
        step(again.commit)
        step(again.commit)
        step(again.write, b"3")
        begin("a\\b", other)
        aborted = begin("new", one)
        aborted.abort()
        aborted.abort()
        step(aborted.commit)
        overtaken = begin("new", one)
        appear()
        step(overtaken.commit)
        begin("..", one)
        begin("", one)
        return seen

    (tmp_path / "a").mkdir()
    onDisk = told(SinkChain([directory]), (tmp_path / "new").touch)
    assert told(MemorySink(inMemory), lambda: inMemory.setdefault("new", b"")) == onDisk
    assert inMemory == {"a/b": b"22", "new": b""}
    assert (tmp_path / "a" / "b").read_bytes() == b"22"


def test_anObserverThatFails() -> None:
    """A site in memory serves a request whose observer fails, as a server does."""
    site = memorySite(Network(), files={"x": b"1"})

    def fail(request: Request) -> None:
        raise RuntimeError("observer")

    site.observers.append(fail)
    events: list[LogEvent] = []
    with observed(events.append):
        found = site.lookup(Request(("10.0.0.9", 1), Local("10.0.0.1", 69), "x"))
    assert isinstance(found, BytesContent)
    assert [event["log_failure"].type for event in events] == [RuntimeError]


def test_theExampleOfTheKitRuns() -> None:
    """What the kit's own documentation shows does what it says."""
    example = "\n".join(line[4:] for line in kit.__doc__.splitlines() if line.startswith("    "))
    names = {**vars(kit), "Listener": Listener, "Options": Options, "Dialect": Dialect}
    exec(example, names)
    assert names["received"].datagram == b"\0\3\0\1" + pattern(512)


def test_sharedPorts() -> None:
    """A port bound to the broadcast address of an interface hears broadcasts there alone; one of a group that group."""
    network = Network()
    server = network.host("10.0.0.1/24", "10.1.0.1/24")
    heard: list[tuple[str, bytes, str]] = []

    class Ear:
        def __init__(self, name: str) -> None:
            self.name = name

        def makeConnection(self, port: Any) -> None:
            self.port = port

        def doStop(self) -> None:
            pass

        def datagramFrom(self, datagram: bytes, peer: Any, local: Any) -> None:
            heard.append((self.name, datagram, local.host))
            if self.name != "wild":
                self.port.writeFrom(b"answer", ("255.255.255.255", 68), local)

    for name, port, place in (
        ("wild", 67, ""),
        ("near", 67, "255.255.255.255%10.0.0.1"),
        ("far", 67, "255.255.255.255%10.1.0.1"),
        ("group", 4011, "239.255.1.1%10.0.0.1"),
    ):
        server.listen(port, Ear(name), place)
    client = RecordingClient(network.host("10.0.0.9/24"), 68)
    client.port.setBroadcastAllowed(True)
    client.send(b"one", ("10.0.0.1", 67))
    network.advance(0.1)
    assert [each[:2] for each in heard] == [("wild", b"one")]
    client.take()
    heard.clear()
    client.send(b"all", ("255.255.255.255", 67))
    client.send(b"some", ("239.255.1.1", 4011))
    network.advance(0.1)
    assert ("near", b"all", "10.0.0.1") in heard
    assert ("group", b"some", "10.0.0.1") in heard
    assert "far" not in {name for name, _, _ in heard}
    assert ("10.0.0.1", 67) in {each.source for each in client.take()}
    with pytest.raises(CannotListenError):
        server.listen(67, Ear("again"), "255.255.255.255%10.0.0.1")
    with pytest.raises(CannotListenError):
        server.listen(67, Ear("nowhere"), "255.255.255.255%10.9.0.1")
    assert server.reached("10.0.0.1") == (IPv4Network("10.0.0.0/24"),)
    assert server.reached("10.9.0.1") is None
