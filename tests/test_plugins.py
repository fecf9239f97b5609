"""
A transport from outside, whole: the fountain of C{examples/fountain}, found in a folder of somebody else, composed from
a service file, and heard by several receivers at once.
"""

import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import capturedLogs, formatEvent
from zope.interface import implementer
from zope.interface.verify import verifyClass, verifyObject

from castd import plugins
from castd.cli.options import knownScheme
from castd.client import schemes
from castd.client.client import fetch
from castd.client.report import Report, TransferError
from castd.client.urls import UrlError, parseUrl
from castd.config import yaml
from castd.config.config import build
from castd.config.plugin import Collected, ContentSourceMaker, ServiceMaker, TransportMaker, collect
from castd.config.warnings import warningsOf
from castd.doctor.findings import Subject
from castd.doctor.firewall import samples
from castd.errors import ConfigError, NotFound, Refused, WireError
from castd.group_pool import GroupPool, OpenContext
from castd.interfaces import (
    ICastTransport,
    IContent,
    IContentSource,
    IDialect,
    IGroupTransferHalf,
    IListeningPort,
    IPaced,
    IServiceFile,
    ITransportMaker,
    IWire,
    ServicePort,
)
from castd.options import ListenOptions, ServiceOptions, Settings
from castd.request import Local, Peer, Request
from castd.server.listener import Listener
from castd.service.service import Server, compose, kinds
from castd.testing import BytesContent, Host, Network, NoJitterRandom, ReceivedFile, memorySite, pattern
from tests.support.disks import result
from tests.support.doctor import FakeMachine

EXAMPLE = Path(__file__).parent.parent / "examples" / "fountain"
SERVER: Peer = ("10.0.0.1", 7777)
GROUP: Peer = ("239.255.9.9", 7777)


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collected]:
    """What is found when the folder of the example is on the path; it is forgotten afterwards, its URL scheme too."""
    monkeypatch.setattr(schemes, "_SCHEMES", dict(schemes._SCHEMES))
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(EXAMPLE / "castd" / "plugins")])
    yield collect()
    sys.modules.pop("castd.plugins.castd_fountain", None)


@pytest.fixture
def module(collected: Collected) -> Any:
    """The plugin's module, imported as its announcement names it."""
    return sys.modules["castd.plugins.castd_fountain"]


class Client(DatagramProtocol):
    """
    One receiver on the virtual network.

    @ivar finished: the instant at which it had the file.
    """

    def __init__(self, receiver: Any, host: Host, hears: bool = True) -> None:
        self.receiver, self.host = receiver, host
        self.finished: float | None = None
        self.spokeAt = host.seconds()
        self.said: list[bytes] = []
        self.port = host.listenUDP(GROUP[1], self)
        if hears:
            self.port.joinGroup(GROUP[0])
        self.say(receiver.buildReport())

    def say(self, datagram: bytes) -> None:
        self.said.append(datagram)
        self.port.write(datagram, SERVER)
        self.wait()

    def wait(self) -> None:
        self.spokeAt = self.host.seconds()
        self.host.callLater(1.0, self.again)

    def again(self) -> None:
        """A second without a word from anybody: say it again."""
        if self.finished is None and self.host.seconds() >= self.spokeAt + 1.0:
            self.say(self.receiver.buildReport())

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        answer = self.receiver.receive(datagram)
        if self.receiver.data is not None and self.finished is None:
            self.finished = self.host.seconds()
        self.spokeAt = self.host.seconds()
        if answer is not None:
            self.say(answer)


def serve(collected: Collected, network: Network, data: bytes, **options: Any) -> Any:
    """Return the transport that the announcement makes, listening on the network."""
    site = memorySite(network, {"image": data})
    maker = collected.transports["fountain"]
    made: Any = maker.makeTransport("fountain", maker.options(file="image", **options), site)
    site.ports.listen(made.port, made)
    return made


def numbers(network: Network) -> int:
    """Return how many numbers the server has sent."""
    return sum(each.destination == GROUP for each in network.capture or ())


def test_collected(collected: Collected) -> None:
    """The folder of the example announces one transport, without a fault, and the stock ones are still there."""
    assert collected.faults == []
    fountain = collected.transports["fountain"]
    assert verifyObject(ITransportMaker, fountain)
    assert collected.origins[ITransportMaker, "fountain"].startswith(str(EXAMPLE))
    assert "tftp" in collected.transports


def test_interfaces(collected: Collected, module: Any) -> None:
    """Everything that goes through a seam keeps to its interface."""
    options = module.Options(file="image")
    dialect = module.Dialect(options)
    assert verifyObject(IDialect, dialect)
    content = BytesContent("image", b"image")
    request = Request(("10.0.0.2", 7777), Local(*SERVER), "image", detail=module.ALL)
    assert verifyObject(IWire, dialect.open(request, content, OpenContext(0.0, random.Random(0), GroupPool())))
    assert verifyClass(IPaced, module.Spring)
    assert verifyObject(IGroupTransferHalf, module.Download(GROUP, 1.0))
    transport = collected.transports["fountain"].makeTransport("fountain", options, memorySite(Network()))
    assert isinstance(transport, Listener)
    assert verifyObject(ICastTransport, transport)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("fountain", {"file": "image"}),
        ("slam", {"file": "image"}),
        ("mtftp", {"files": {"image": None}}),
        ("tftp", {}),
        ("tftp", {"singlePort": True}),
        ("multicast", {}),
        ("sbroadcast", {"subnets": ("10.0.0.0/24",)}),
    ],
)
def test_transferPorts(collected: Collected, module: Any, kind: str, options: dict[str, Any]) -> None:
    """Where a dialect has no ports of its own its options say so: castd doctor looks at that port in firewalls."""
    maker = collected.transports[kind]
    made = maker.options.model_validate(options)
    assert isinstance(made, ListenOptions)
    dialect = sys.modules[type(made).__module__].Dialect(made)
    assert made.transferPorts() == (None if dialect.ownPort else range(made.port, made.port + 1))


def test_inFirewalls(collected: Collected) -> None:
    """castd doctor looks for the rules that drop what comes to a plugin's ports, and for no others."""
    text = "castd: 1\ncontent: [{directory: {path: /}}]\ntransports: {fountain: {file: image}}\n"
    about = Subject(build(yaml.parse(text.encode(), "x.yaml"), Path("x.yaml"), kinds(collected)))
    asked, sent = samples(about, FakeMachine())
    assert (asked.dport, sent.sport) == (range(7777, 7778), range(7777, 7778))


@pytest.mark.parametrize("identifies", [True, False])
def test_identifiesMachines(collected: Collected, identifies: bool) -> None:
    """A service that knows machines makes rules for them useful, whatever its name is."""

    class Options(ServiceOptions):
        identifiesMachines = identifies

    class Maker(ServiceMaker):
        options = Options

    made = kinds(collected)
    knowing = replace(made, transports={**made.transports, "hearer": Maker("hearer", "nowhere", "")})
    text = "castd: 1\ncontent: [{directory: {path: /}}]\nmachines: {trusted: true}\n"
    text += "access: [{allow: any, arch: [bios]}]\ntransports: {tftp: {}, hearer: {}}\n"
    told = list(warningsOf(build(yaml.parse(text.encode(), "x.yaml"), Path("x.yaml"), knowing)))
    assert any("no architecture is known" in each for each in told) is not identifies


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_delivers(collected: Collected, module: Any, loss: float) -> None:
    """Six receivers get the file whole, and no more is sent than the unluckiest of them needs, and a quarter."""
    network, data = Network(seed=5, loss=loss), pattern(100_001)
    made = serve(collected, network, data, blksize=500)
    clients = [Client(module.Receiver(), network.host(f"10.0.0.{number}")) for number in range(2, 8)]
    network.run(lambda: all(client.finished for client in clients), limit=60.0)
    assert [client.receiver.data == data for client in clients] == [True] * 6
    blocks = -(-len(data) // 500)
    assert blocks <= numbers(network) <= blocks / (1 - loss) * 1.25
    network.run(lambda: not list(made.casts()), limit=60.0)
    assert list(made.casts()) == []


def test_logsNoCount(collected: Collected, module: Any) -> None:
    """The log of a group whose numbers do not end speaks of no number of blocks."""
    network, data = Network(seed=5), pattern(10_001)
    with capturedLogs() as events:
        made = serve(collected, network, data, blksize=500)
        client = Client(module.Receiver(), network.host("10.0.0.2"))
        network.run(lambda: client.finished, limit=60.0)
        network.run(lambda: not list(made.casts()), limit=60.0)
    texts = [formatEvent(event) for event in events if event.get("event") in ("opened", "closed")]
    assert texts[0] == f"fountain: group {GROUP[0]}:{GROUP[1]} opened: image, blocks of 500"
    assert " blocks sent, " in texts[1]
    assert "None" not in "".join(texts)


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_fetched(collected: Collected, module: Any, loss: float) -> None:
    """C{castd get} fetches the file by a URL of the scheme that the example registers."""
    network, data = Network(seed=6, loss=loss), pattern(100_001)
    serve(collected, network, data, blksize=500)
    url = parseUrl(f"fountain://{SERVER[0]}")
    assert knownScheme(url).download is module.download
    sink, results = ReceivedFile(), []
    machine: Any = network.host("10.0.0.2")
    fetch(machine, url, sink).addBoth(results.append)
    network.run(lambda: bool(results), limit=60.0)
    (report,) = results
    assert isinstance(report, Report)
    assert (sink.data, report.octets, report.size, report.blocks) == (data, 100_001, 100_001, 201)
    network.run(lambda: not machine.openPorts(), limit=60.0)


def test_fetchedFromNobody(collected: Collected) -> None:
    """A server that never answers is given up; a URL that names no group is refused."""
    network, results = Network(), []
    machine: Any = network.host("10.0.0.2")
    fetch(machine, parseUrl("fountain://10.0.0.77/239.255.9.8:9000"), ReceivedFile()).addErrback(results.append)
    network.run(lambda: bool(results), limit=60.0)
    assert results[0].check(TransferError)
    assert results[0].value.outcome == "silent"
    fetch(machine, parseUrl("fountain://10.0.0.77/10.0.0.5:9000"), ReceivedFile()).addErrback(results.append)
    assert results[1].check(UrlError)


def test_schemeOfAnOutsider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme that castd does not know is looked for among the transports from outside; unknown, it is a fault."""
    monkeypatch.setattr(schemes, "_SCHEMES", dict(schemes._SCHEMES))
    with pytest.raises(UrlError, match=f"known are {', '.join(sorted(schemes._SCHEMES))}"):
        knownScheme(parseUrl("fountain://10.0.0.1"))
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(EXAMPLE / "castd" / "plugins")])
    assert knownScheme(parseUrl("fountain://10.0.0.1")).port == 7777
    sys.modules.pop("castd.plugins.castd_fountain", None)


def test_onceForAll(collected: Collected, module: Any) -> None:
    """What one receiver asks for repairs the others, each of which has lost something else."""
    network, data = Network(seed=1), pattern(500_000)
    lost = {f"10.0.0.{number}": range(10 * number, 10 * number + 10) for number in range(2, 8)}
    network.losing(
        lambda source, target, datagram: (
            datagram.startswith(b"FD") and int.from_bytes(datagram[16:20], "big") in lost.get(target[0], ())
        )
    )
    serve(collected, network, data, blksize=5000, rate="1 MB/s")
    clients = [Client(module.Receiver(), network.host(host)) for host in lost]
    network.run(lambda: all(client.finished for client in clients), limit=20.0)
    assert all(client.receiver.data == data for client in clients)
    # A hundred blocks; the first burst of fourteen was out when the others came; ten were lost by each of the six.
    assert 110 <= numbers(network) <= 100 + 14 + 10 + 10


def test_lateJoiner(collected: Collected, module: Any) -> None:
    """One that comes in the middle needs a file's worth of numbers, but none of those that it has missed."""
    network, data = Network(seed=2), pattern(1_000_000)
    serve(collected, network, data, blksize=5000, rate="1 MB/s")
    first = Client(module.Receiver(), network.host("10.0.0.2"))
    network.advance(0.5)
    assert first.finished is None
    late = Client(module.Receiver(), network.host("10.0.0.3"))
    network.run(lambda: bool(first.finished and late.finished), limit=20.0)
    assert late.receiver.data == first.receiver.data == data
    sent = [int.from_bytes(each.datagram[16:20], "big") for each in network.capture or () if each.destination == GROUP]
    assert len(sent) == len(set(sent)) <= 1.6 * 200


def test_outcomes(collected: Collected, module: Any) -> None:
    """Who has enough is done, although not every number that was asked for has gone out; the dumb one is silent."""
    seen: list[tuple[str, str]] = []
    network = Network(seed=3, loss=0.1)
    made = serve(collected, network, pattern(20_000), blksize=500, redundancy=4.0)
    left = made.receiverLeft
    made.receiverLeft = lambda cast, request, outcome: (
        seen.append((request.peer[0], outcome)),
        left(cast, request, outcome),
    )
    clients = [Client(module.Receiver(), network.host(f"10.0.0.{number}")) for number in (2, 3)]
    dumb = network.host("10.0.0.4").listenUDP(GROUP[1], DatagramProtocol())
    dumb.write(module.report(0, module.ALL, 0), SERVER)
    network.run(lambda: len(seen) == 3, limit=120.0)
    assert all(client.finished for client in clients)
    assert dict(seen) == {"10.0.0.2": "done", "10.0.0.3": "done", "10.0.0.4": "silent"}


@pytest.mark.slow
def test_deaf(collected: Collected, module: Any) -> None:
    """One that hears no multicast, and asks every second, is sent the file some ten times in two minutes, no more."""
    network = Network(seed=4)
    serve(collected, network, pattern(50_000), blksize=500)
    Client(module.Receiver(), network.host("10.0.0.2"), hears=False)
    network.advance(600.0)
    assert numbers(network) <= 5 * 13 * 110


SERVICE = """\
castd: 1
content: [{directory: {path: boot}}]
access: [{allow: any}]
transports:
  fountain: {file: rootfs.img, group: "239.255.9.9:7777", redundancy: 0.15}
"""


def made(folder: Path, collected: Collected, network: Network, text: str) -> Server:
    (folder / "boot").mkdir()
    (folder / "boot" / "rootfs.img").write_bytes(pattern(30_000))
    config = build(yaml.parse(text.encode(), "x.yaml"), folder / "x.yaml", kinds(collected))
    host = network.host(SERVER[0])
    return compose(config, collected, host, host, NoJitterRandom(0))


def test_fromServiceFile(collected: Collected, module: Any, tmp_path: Path) -> None:
    """A service file names it like any other, and it serves a file of a directory."""
    network = Network(loss=0.05)
    server = made(tmp_path, collected, network, SERVICE)
    server.privilegedStartService()
    server.startService()
    client = Client(module.Receiver(), network.host("10.0.0.2"))
    network.run(lambda: client.finished is not None, limit=30.0)
    assert client.receiver.data == pattern(30_000)
    server.stopService()


def test_complaint(collected: Collected, tmp_path: Path) -> None:
    """A wrong option of an outsider's transport is told like one of ours: file, line, path."""
    with pytest.raises(ConfigError) as raised:
        made(tmp_path, collected, Network(), SERVICE.replace("0.15", "9"))
    (fault,) = raised.value.faults
    assert fault.startswith("x.yaml:5: transports.fountain.redundancy: 9 ")


class OldDialect:
    """A dialect of an older castd: its listeners told no local address, and knew no C{ownPort}."""

    name = "old"

    def __init__(self, options: ListenOptions) -> None: ...
    def request(self, datagram: bytes, peer: Peer) -> None: ...
    def key(self, request: Request, content: IContent) -> None: ...
    def fits(self, request: Request, wire: IWire) -> None: ...
    def sameMachine(self, request: Request, other: Request) -> None: ...
    def open(self, request: Request, content: IContent, context: OpenContext) -> None: ...
    def uploadReceiver(self, request: Request) -> None: ...
    def refuse(self, request: Request | None, error: Refused) -> None: ...


class OldService:
    """A service of an older castd, which cannot tell its counts before it is used."""

    ports = ()

    @property
    def counts(self) -> Mapping[str, int]:
        return {"answered": self.absent}  # type: ignore[attr-defined]

    def configure(self, file: IServiceFile) -> None: ...
    def opened(self, at: ServicePort, port: IListeningPort) -> None: ...
    def closed(self, at: ServicePort) -> None: ...
    def datagramFrom(self, at: ServicePort, datagram: bytes, peer: Peer, local: Local) -> None: ...
    def inherit(self, other: object) -> None: ...
    def drain(self) -> None: ...
    def stop(self) -> None: ...


class UnmarkedService(OldService):
    """A service that is complete, and does not say that it is one."""

    def warnings(self) -> tuple[()]:
        return ()


DIRECTORY = "castd: 1\ncontent: [{directory: {path: boot}}]\ntransports: {old: {port: 7}}\n"
TRANSPORT, SOURCE = "x.yaml:3: transports.old: ", "x.yaml:2: content[0].old: "


@pytest.mark.parametrize(
    ("promised", "fault"),
    [
        (
            {"Dialect": OldDialect},
            (
                f"{TRANSPORT}tests.test_plugins.OldDialect is no IDialect of this castd: it has no ownPort; "
                "request(datagram, peer, local): implementation doesn't allow enough arguments"
            ),
        ),
        (
            {"makeService": lambda *_: OldService()},
            f"{TRANSPORT}tests.test_plugins.OldService is no IPortService of this castd: it has no warnings",
        ),
        (
            {"makeService": lambda *_: None},
            f"{TRANSPORT}builtins.NoneType is no IPortService of this castd: it has no ",
        ),
        (
            {"makeService": lambda *_: UnmarkedService()},
            f"{TRANSPORT}what outside_old.makeService makes is not marked by @implementer(IPortService)",
        ),
        (
            {"makeSource": lambda *_: Local("10.0.0.1", 69)},
            f"{SOURCE}castd.request.Local is no IContentSource of this castd: it has no lookup",
        ),
    ],
)
def test_ofAnotherCastd(promised: dict[str, Any], fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was written for another castd is a fault of the service file: each datagram would be one otherwise."""
    outside = ModuleType("outside_old")
    outside.__dict__.update({"Options": ListenOptions, **promised})
    monkeypatch.setitem(sys.modules, "outside_old", outside)
    collected, text = collect(), DIRECTORY
    if "makeSource" in promised:
        collected.sources["old"] = ContentSourceMaker("old", "outside_old", "from elsewhere")
        text = "castd: 1\ncontent: [{old: {port: 7}}]\ntransports: {tftp: {}}\n"
    else:
        kind = TransportMaker if "Dialect" in promised else ServiceMaker
        collected.transports["old"] = kind("old", "outside_old", "from elsewhere")
    with pytest.raises(ConfigError) as raised:
        made(tmp_path, collected, Network(), text)
    assert len(raised.value.faults) == 1
    assert raised.value.faults[0].startswith(fault)


class ShelfOptions(Settings):
    """Of a source that calls something else than a directory C{path}."""

    path: str = "top/left"


@implementer(IContentSource)
class Shelf:
    """A source without files."""

    def lookup(self, name: str, peer: Peer) -> IContent:
        raise NotFound


def test_readyWithAnySource(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether castd is ready depends on its own directories, whatever a plugin calls its options."""
    outside = ModuleType("outside_shelf")
    outside.__dict__.update({"Options": ShelfOptions, "makeSource": lambda *_: Shelf()})
    monkeypatch.setitem(sys.modules, "outside_shelf", outside)
    collected = collect()
    collected.sources["shelf"] = ContentSourceMaker("shelf", "outside_shelf", "from elsewhere")
    text = "castd: 1\ncontent: [{shelf: {}}, {directory: {path: boot}}]\ntransports: {tftp: {}}\n"
    server = made(tmp_path, collected, Network(), text)
    server.privilegedStartService()
    server.startService()
    assert ready(server) is None
    (tmp_path / "boot").rename(tmp_path / "gone")
    assert ready(server) == "content[1] is not there"
    server.stopService()


def ready(server: Server) -> str | None:
    """Return why a server is not ready, as C{/readyz} says it."""
    result(server.lookAtDisks())
    return server.unready()


@given(st.binary(max_size=40))
def test_reportsOfAnybody(datagram: bytes) -> None:
    """Whatever comes, it is a report or a WireError; and what was built is read again."""
    module = _module()
    try:
        assert module.report(*module.parseReport(datagram)) == datagram
    except WireError:
        assert len(datagram) != 14 or datagram[:2] != b"FR"


@given(st.integers(0, 3000), st.sampled_from([8, 100, 1400]), st.integers(0, 1 << 32))
def test_decoder(size: int, blksize: int, seed: int) -> None:
    """Any numbers, in any order: once nothing is lacking it is the file, and a few too many have always been enough."""
    module, chance = _module(), random.Random(seed)
    data = chance.randbytes(size)
    content = BytesContent("image", data)
    wire = module.Wire(content, 1, module.Options(file="image", blksize=blksize), Local("127.0.0.1", 6565))
    decoder = module.Decoder(size, blksize)
    heard = 0
    while decoder.lacking:
        number = chance.randrange(1 << 20)
        decoder.add(number, wire.payload(number))
        heard += 1
        assert heard <= decoder.count + 64
    assert decoder.content() == data


def _module() -> Any:
    """Hypothesis has no use for fixtures that are made once for many examples."""
    name = "castd_fountain_of_the_example"
    if name not in sys.modules:
        from importlib.util import module_from_spec, spec_from_file_location

        spec = spec_from_file_location(name, EXAMPLE / "castd" / "plugins" / "castd_fountain.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        with patch.dict(schemes._SCHEMES):
            spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
