"""A service file becomes a server, on a network in memory: what it serves, to whom, and how it ends."""

import errno
import json
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from zope.interface import implementer
from zope.interface.verify import verifyObject

from castd.config import yaml
from castd.config.config import build
from castd.config.plugin import Collected, collect
from castd.config.warnings import warningsOf
from castd.errors import ConfigError, Forbidden, NotFound, Unavailable
from castd.files import athand
from castd.interfaces import IContentSink, ISite
from castd.request import Local, Request
from castd.service import service
from castd.service.bootstrap import Stopper
from castd.service.service import Server, compose, kinds
from castd.testing import Host, Network, RecordingClient
from tests.support.disks import result

SERVER, CLIENT = "10.0.0.1", "10.0.0.9"

COLLECTED = collect()


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    folder = tmp_path / "boot"
    folder.mkdir()
    (folder / "hello.txt").write_bytes(b"hello\n")
    (tmp_path / "in").mkdir()
    return tmp_path


START = "castd: 1\ncontent: [{directory: {path: boot}}]\n"
ANY = "access: [{allow: any}]\n"
TFTP = "transports:\n  tftp: {port: 69}\n"
PROXY = "  proxydhcp: {{interface: {at}, rules: [{{boot: hello.txt, ipxe: true, by: {by}}}]}}\n"


def made(folder: Path, network: Network, text: str) -> Server:
    """A server on the host SERVER of this network."""
    config = build(yaml.parse(text.encode(), "x.yaml"), folder / "x.yaml", kinds(COLLECTED))
    host = network.host(SERVER)
    return compose(config, COLLECTED, host, host, random.Random(0))


def complaints(folder: Path, network: Network, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        made(folder, network, text)
    return list(raised.value.faults)


@pytest.mark.parametrize(
    ("text", "fault", "wrong"),
    [
        (f"castd: 1\ncontent: [{{directory: {{path: none}}}}]\n{ANY}{TFTP}", "No such file", False),
        (f"{START}{ANY}{TFTP}uploads: [{{directory: {{path: none}}}}]\n", "No such file", False),
        (f"{START}{ANY}{TFTP}metrics: {{listen: rubbish}}\n", "nor an endpoint of Twisted", True),
        (f"{START}{ANY}{TFTP}control: {{path: /{'x' * 108}}}\n", "longer than", True),
        (f"{START}{ANY}{TFTP}{PROXY.format(at='10.0.0.8', by='tftp')}", "no interface of this machine", False),
        (f"{START}{ANY}{TFTP}{PROXY.format(at=SERVER, by='none')}", "no transport is called none", True),
        (f"{START}{ANY}{TFTP}{PROXY.format(at='10.0.0.8', by='none')}", "no interface of this machine", True),
    ],
    ids=["content", "uploads", "metrics", "control", "service", "wrong service", "service, both"],
)
def test_wrongOrMissing(boot: Path, network: Network, text: str, fault: str, wrong: bool) -> None:
    """What may be there later is told from what is wrong in the file, for whoever starts castd again."""
    with pytest.raises(ConfigError, match=fault) as raised:
        made(boot, network, text)
    assert isinstance(raised.value, Unavailable) is not wrong


def start(server: Server) -> Server:
    """As twistd does."""
    server.privilegedStartService()
    server.startService()
    return server


def read(name: str, mode: str = "octet") -> bytes:
    return b"\0\1" + name.encode() + b"\0" + mode.encode() + b"\0"


def asked(name: str, host: str = CLIENT, mode: str = "octet", write: bool = False) -> Request:
    return Request((host, 2000), Local(SERVER, 69), name, mode, write)


def test_serves(boot: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """A file that is named reaches the client that asks for it; the address is logged once it is bound."""
    start(made(boot, network, START + ANY + TFTP))
    client = RecordingClient(network.host(CLIENT))
    client.send(read("hello.txt"), (SERVER, 69))
    assert client.expect().datagram == b"\0\3\0\1hello\n"
    said = [(each["transport"], each["address"]) for each in events if each.get("event") == "listening"]
    assert said == [("tftp", "*:69")]


def test_noSocketBefore(boot: Path, network: Network) -> None:
    """Whatever is composed, no port is open before it is started."""
    server = made(boot, network, START + ANY + TFTP)
    assert network.bound == {}
    start(server)
    assert server.site.requestPorts == {69: 1}
    assert [port for _, port in network.bound] == [69]


def test_startAlone(boot: Path, network: Network) -> None:
    """Without a privileged phase the port is bound all the same."""
    made(boot, network, START + ANY + TFTP).startService()
    assert [port for _, port in network.bound] == [69]


def test_site(boot: Path, network: Network) -> None:
    """The site keeps to its interface."""
    assert verifyObject(ISite, made(boot, network, START + ANY + TFTP).site)


def test_threadsTakeShortTurns(boot: Path, network: Network) -> None:
    """While a server runs no thread keeps the interpreter for Python's usual 5 ms from that of the reactor."""
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        made(boot, network, START + ANY + TFTP).startService()
        assert sys.getswitchinterval() == pytest.approx(0.0002)
    finally:
        sys.setswitchinterval(before)


def found(server: Server, request: Request) -> Any:
    """What the site answers at once: content, or the exception."""
    results: list[Any] = []
    maybeDeferred(server.site.lookup, request).addBoth(results.append)
    (result,) = results
    return result if hasattr(result, "read") else result.value


def test_lookup(boot: Path, network: Network) -> None:
    """Sources are asked in order, netascii is made where it was asked for, and what is nowhere is NotFound."""
    (boot / "more").mkdir()
    (boot / "more" / "hello.txt").write_bytes(b"other\n")
    (boot / "more" / "late.txt").write_bytes(b"late\n")
    sources = START.replace("}}]", "}}, {directory: {path: more}}]")
    server = made(boot, network, sources + ANY + TFTP)
    assert bytes(found(server, asked("hello.txt")).read(0, 99)) == b"hello\n"
    assert bytes(found(server, asked("late.txt")).read(0, 99)) == b"late\n"
    assert bytes(found(server, asked("hello.txt", mode="netascii")).read(0, 99)) == b"hello\r\n"
    assert isinstance(found(server, asked("none")), NotFound)


def test_access(boot: Path, network: Network) -> None:
    """Access rules come first; without them everybody may read."""
    ruled = made(boot, network, START + "access: [{allow: 10.0.0.9, names: ['*.txt']}]\n" + TFTP)
    assert found(ruled, asked("hello.txt")).size == 6
    assert isinstance(found(ruled, asked("hello.txt", host="10.0.0.8")), Forbidden)
    assert isinstance(found(ruled, asked("none.efi")), Forbidden)
    assert found(made(boot, network, START + TFTP), asked("hello.txt")).size == 6


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (START + ANY + TFTP, "uploads are off"),
        (START + "uploads: [{directory: {path: in}}]\n" + TFTP, "uploads need an access rule"),
        (START + "uploads: [{directory: {path: in}}]\naccess: [{allow: any, for: read}]\n" + TFTP, "no access rule"),
    ],
)
def test_noUploads(boot: Path, network: Network, text: str, why: str) -> None:
    """Uploads need a place and a rule that allows them."""
    with pytest.raises(Forbidden, match=why):
        made(boot, network, text).site.sink(asked("a", write=True))


def test_uploads(boot: Path, network: Network) -> None:
    """An upload goes to the first sink with a place for its name; in netascii it is kept as native text."""
    uploads = "uploads: [{directory: {path: boot, under: boot}}, {directory: {path: in}}]\n"
    site = made(boot, network, START + ANY + uploads + TFTP).site
    sink = site.sink(asked("a.txt", mode="netascii", write=True))
    assert verifyObject(IContentSink, sink)
    upload = result(sink.begin("a.txt", (CLIENT, 2000), None))
    upload.write(b"one\r\ntwo\r\n")
    (part,) = (boot / "in").iterdir()
    assert part.name.startswith(".castd-")
    result(upload.commit())
    (file,) = (boot / "in").iterdir()
    assert file.read_bytes() == b"one\ntwo\n"
    result(sink.begin("b.txt", (CLIENT, 2000), None)).abort()
    assert list((boot / "in").iterdir()) == [file]
    with pytest.raises(NotFound):
        result(sink.begin("nowhere/a.txt", (CLIENT, 2000), None))


def test_eventFile(boot: Path, network: Network) -> None:
    """With logging.json the events go to a file, from the first port that is bound until the last has closed."""
    text = START + ANY + "logging: {json: events.json}\n" + TFTP
    server = made(boot, network, text)
    assert not (boot / "events.json").exists()
    start(server)
    client = RecordingClient(network.host(CLIENT))
    client.send(read("hello.txt"), (SERVER, 69))
    client.send(b"\0\4\0\1", client.expect().source)
    network.advance(0.1)
    assert stopped(server)
    events = [json.loads(line) for line in (boot / "events.json").read_text().splitlines()]
    assert events[0]["event"] == "listening"
    assert [(each["name"], each["outcome"]) for each in events if each["event"] == "received"] == [
        ("hello.txt", "done")
    ]


def test_noEventFile(boot: Path, network: Network) -> None:
    """An event file that cannot be opened is told like a port that cannot be had."""
    server = made(boot, network, START + ANY + "logging: {json: none/events.json}\n" + TFTP)
    with pytest.raises(ConfigError, match=r"x\.yaml:4: logging\.json: .*none/events\.json: No such file"):
        server.privilegedStartService()
    assert network.bound == {}


class Taken:
    """Ports that cannot be had."""

    storing = False
    idle = 0

    def __init__(self, host: Host, refused: dict[int, int]) -> None:
        self.host = host
        self.refused = refused

    def listen(self, port: int, protocol: Any, interface: str = "") -> Any:
        """As IPorts."""
        if port in self.refused:
            raise CannotListenError(interface, port, OSError(self.refused[port], "refused"))
        return self.host.listen(port, protocol, interface)

    def freezeStore(self, frozen: bool) -> None:
        """As IPorts."""

    def reconcileStore(self) -> tuple[Any, ...]:
        """As IPorts."""
        return ()


def test_cannotListen(boot: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """
    All ports that cannot be had are told at once, with the reason and their lines; none stays open, and of none is
    said that it listens.
    """
    transports = (
        "transports:\n"
        "  tftp: {port: 69}\n"
        "  a: {use: tftp, port: 1069}\n"
        "  b: {use: tftp, port: 1070, interface: 10.0.0.1}\n"
        "  c: {use: tftp, port: 1071, interface: '::1'}\n"
    )
    server = made(boot, network, START + ANY + transports)
    refused = {69: errno.EACCES, 1070: errno.EADDRINUSE, 1071: errno.EADDRNOTAVAIL}
    server.site.ports = Taken(network.host(SERVER), refused)
    with pytest.raises(ConfigError) as raised:
        server.privilegedStartService()
    assert raised.value.faults == (
        (
            "x.yaml:5: transports.tftp: *:69 is not permitted: "
            "a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE"
        ),
        "x.yaml:7: transports.b: 10.0.0.1:1070 is taken: another program listens there already",
        "x.yaml:8: transports.c: [::1]:1071 is not ours: no interface of this machine has this address",
    )
    network.advance(0)
    assert network.bound == {}
    assert told(events) == []


def test_addressTakenAway(boot: Path, network: Network) -> None:
    """While no interface has the address of a port no request comes, and castd says so; not of the wildcard."""
    text = "transports:\n  tftp: {port: 69, interface: 10.0.0.1}\n  lab: {use: tftp, port: 6969}\n"
    server = start(made(boot, network, START + ANY + text))
    host = network.host(SERVER)
    assert server.unready() is None
    addresses, host.addresses = host.addresses, ("10.0.0.2",)
    assert server.unready() == "no interface has the address of 10.0.0.1:69"
    host.addresses = addresses
    assert server.unready() is None


def told(events: list[dict[str, Any]]) -> list[Any]:
    """What was said of ports."""
    return [each["event"] for each in events if each.get("event") in ("listening", "unopened")]


def test_saidOnceAllIsWell(boot: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """
    A port is bound while that is permitted, but that it listens is said when nothing can fail any more, as the change
    of the user; and that castd goes on without another one, too.
    """
    server = made(boot, network, START + ANY + TFTP + "  a: {use: tftp, port: 1069}\n")
    server.addresses[1].required = False
    server.site.ports = Taken(network.host(SERVER), {1069: errno.EADDRINUSE})
    server.privilegedStartService()
    assert ([port for _, port in network.bound], told(events)) == ([69], [])
    server.startService()
    assert told(events) == ["listening", "unopened"]


def test_startAloneFails(boot: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """Without a privileged phase all ports are bound, or none."""
    server = made(boot, network, START + ANY + TFTP + "  a: {use: tftp, port: 1069}\n")
    server.site.ports = Taken(network.host(SERVER), {1069: errno.EADDRINUSE})
    with pytest.raises(ConfigError, match="is taken"):
        server.startService()
    network.advance(0)
    assert network.bound == {}
    assert told(events) == []


@implementer(IReactorCore, IReactorFromThreads)
class Stoppable:
    """A reactor that can be stopped once."""

    def __init__(self) -> None:
        self.stopped = 0
        self.said: list[tuple[object, ...]] = []

    def stop(self) -> None:
        self.stopped += 1
        if self.stopped > 1:
            raise ReactorNotRunning

    def callFromThread(self, function: Callable[..., object], *about: object) -> None:
        self.said.append(about)


@pytest.fixture
def signals() -> Iterator[None]:
    """The handlers of signals are as before at the end."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("first", ["signal", "other process"])
def test_stoppedOnce(boot: Path, network: Network, first: str) -> None:
    """
    After an upgrade both processes may get a signal, and tell each other to stop: whatever comes first counts, also
    while the reactor is still to hear of it.
    """
    reactor, handled = Stoppable(), list[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: handled.append(number))
    stopper = Stopper(cast(IReactorCore, reactor), made(boot, network, START + ANY + TFTP))
    stopper.install()
    for each in (first, "signal", "other process", "signal"):
        if each == "signal":
            signal.raise_signal(signal.SIGTERM)
        else:
            stopper.stop()
    assert (reactor.stopped, handled) == ((0, [signal.SIGTERM]) if first == "signal" else (1, []))
    assert reactor.said[0] == ("SIGTERM", first == "signal")
    assert {told for _, told in reactor.said[1:]} == {False}


@pytest.mark.parametrize("why", ["", "Function not implemented"])
def test_openedInThreads(
    boot: Path, network: Network, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Where no file can be opened from memory the log says so at the start, and why."""
    monkeypatch.setattr(athand, "refusal", lambda: why)
    start(made(boot, network, START + ANY + TFTP))
    assert [each["why"] for each in events if each["event"] == "unused-openat2"] == [why] * bool(why)


def test_sharing(boot: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """Two transports at one address are one port, asked in the order of the file."""
    server = start(made(boot, network, START + ANY + "transports: {a: {use: tftp}, b: {use: tftp}}\n"))
    (address,) = server.addresses
    assert [entry.name for entry in address.entries] == ["a", "b"]
    assert [each["transport"] for each in events if each.get("event") == "listening"] == ["a", "b"]
    assert [each.name for each in address.transport.dialects] == ["a", "b"]


def test_groupAlone(boot: Path, network: Network) -> None:
    """A group transport with no plain one behind it is worth a warning; with one it is not."""
    alone = made(boot, network, START + ANY + "transports: {multicast: {interface: 10.0.0.1}}\n")
    (warning,) = warningsOf(alone.config)
    assert warning.startswith("x.yaml:4: transports.multicast: no tftp follows at its address")
    both = "transports: {multicast: {interface: 10.0.0.1}, tftp: {interface: 10.0.0.1}}\n"
    assert list(warningsOf(made(boot, network, START + ANY + both).config)) == []


@pytest.mark.parametrize(
    ("tftp", "told"),
    [
        ("ports: 30000-30099", "by 50 datagrams on average"),
        ("ports: 30000-34094", "by 2048 datagrams on average"),
        ("ports: 30000-34095", None),
    ],
)
def test_narrowPorts(boot: Path, network: Network, tftp: str, told: str | None) -> None:
    """A range of few ports is worth a warning, which tells how soon a forger hits the port of a transfer."""
    config = made(boot, network, START + ANY + f"transports: {{tftp: {{{tftp}}}}}\n").config
    if told is None:
        assert list(warningsOf(config)) == []
    else:
        (warning,) = warningsOf(config)
        assert warning.startswith("x.yaml:4: transports.tftp: ports: a forger hits the port of a transfer ")
        assert told in warning


@pytest.mark.parametrize(
    ("interface", "why"),
    [("any", None), ("10.0.0.1", "a port of one address hears no broadcasts"), ('"::"', "IPv6 has no broadcasts")],
)
def test_broadcastsAtOneAddress(boot: Path, network: Network, interface: str, why: str | None) -> None:
    """TC44: who switches broadcasts on where none can be heard is told so, and what would hear them."""
    tftp = f"transports: {{tftp: {{interface: {interface}, broadcast: true}}}}\n"
    warnings = list(warningsOf(made(boot, network, START + ANY + tftp).config))
    if why is None:
        assert warnings == []
    else:
        at = interface.strip('"')
        assert warnings == [f"x.yaml:4: transports.tftp: broadcast: changes nothing at {at}: {why}; interface: any"]


@pytest.mark.parametrize("options", ["slam: {file: image", "mtftp: {files: {image: null}"])
@pytest.mark.parametrize("interface", ["::", "::1", "2001:db8::5"])
def test_onlyIPv4(boot: Path, network: Network, options: str, interface: str) -> None:
    """A transport whose protocol has IPv4 alone is refused at an address of IPv6, where it would send nothing."""
    with pytest.raises(ConfigError) as refused:
        made(boot, network, START + ANY + f'transports: {{{options}, interface: "{interface}"}}}}\n')
    (fault,) = refused.value.faults
    kind = options.partition(":")[0]
    assert fault.startswith(f"x.yaml:4: transports.{kind}.interface: {interface} is an address of IPv6, which ")


@pytest.mark.parametrize("options", ["multicast: {", "sbroadcast: {subnets: [10.0.0.0/24], "])
def test_noGroupsOfIPv6(boot: Path, network: Network, options: str) -> None:
    """A transport that leaves all requests at an address of IPv6 to unicast is told of."""
    kind = options.partition(":")[0]
    service = f'transports: {{{options}interface: "::"}}, tftp: {{interface: "::"}}}}\n'
    (warning,) = warningsOf(made(boot, network, START + ANY + service).config)
    assert warning.startswith(f"x.yaml:4: transports.{kind}: interface: :: is an address of IPv6, which ")


class Loner:
    """A transport that shares with nobody."""

    interface = ""
    port = 69

    def share(self, other: object) -> bool:
        """Never."""
        return False

    def __getattr__(self, name: str) -> Any:
        """Whatever else a transport has, it does nothing."""
        return lambda *_: None


def test_noSharing(boot: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that cannot share an address are a complaint at the second; the file is wrong, whatever else is missing."""
    monkeypatch.setattr("castd.config.plugin.TransportMaker.makeTransport", lambda *_: Loner())
    text = (
        f"{START}{ANY}transports:\n  a: {{use: tftp}}\n  b: {{use: tftp}}\nuploads: [{{directory: {{path: none}}}}]\n"
    )
    with pytest.raises(ConfigError) as raised:
        made(boot, network, text)
    assert not isinstance(raised.value, Unavailable)
    told = "x.yaml:6: transports.b: cannot share *:69 with 'a': give one of them another port"
    assert (raised.value.faults[0], len(raised.value.faults)) == (told, 2)


def test_notThere(boot: Path, network: Network) -> None:
    """Every directory that is not there is told at its line, all at once."""
    (boot / "file").write_text("")
    text = (
        "castd: 1\n"
        "content:\n"
        "  - directory:\n"
        "      under: images\n"
        "      path: none\n"
        "  - directory: {path: file}\n"
        "uploads: [{directory: {path: nowhere}}]\n"
    )
    faults = complaints(boot, network, text + TFTP)
    assert [fault.partition(f"{boot}")[0] for fault in faults[:3]] == [
        "x.yaml:5: content[0].directory.path: ",
        "x.yaml:6: content[1].directory.path: ",
        "x.yaml:7: uploads[0].directory.path: ",
    ]
    assert faults[3:] == []


def stopped(server: Server) -> list[object]:
    """Return filled when it has stopped."""
    done: list[object] = []
    stopping = server.stopService()
    assert isinstance(stopping, Deferred)
    stopping.addBoth(done.append)
    return done


def test_stopIdle(boot: Path, network: Network) -> None:
    """A server with nothing to do stops at once, and closes its port."""
    server = start(made(boot, network, START + ANY + TFTP))
    assert stopped(server)
    assert network.bound == {}


def test_drain(boot: Path, network: Network) -> None:
    """A stop takes no more requests, lets a transfer end, and then closes everything."""
    server = start(made(boot, network, START + ANY + TFTP))
    client, late = RecordingClient(network.host(CLIENT)), RecordingClient(network.host("10.0.0.8"))
    client.send(read("hello.txt"), (SERVER, 69))
    block = client.expect()
    done = stopped(server)
    late.send(read("hello.txt"), (SERVER, 69))
    network.advance(0.1)
    assert (done, late.inbox) == ([], [])
    client.send(b"\0\4\0\1", block.source)
    network.run(lambda: done, limit=1.0)
    assert network.rightNow < 2
    assert {port for host, port in network.bound if host == SERVER} == set()


def test_drainLimit(boot: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """A transfer that does not end within limits.drain is told so, and ended; that is no fault."""
    server = start(made(boot, network, START + ANY + "limits: {drain: 2 s}\n" + TFTP))
    client = RecordingClient(network.host(CLIENT))
    client.send(read("hello.txt"), (SERVER, 69))
    client.expect()
    begun = network.rightNow
    done = stopped(server)
    network.run(lambda: done, limit=5.0)
    assert network.rightNow - begun == pytest.approx(2.0)
    network.advance(0.1)
    assert client.take()[-1].datagram[:4] == b"\0\5\0\0"
    assert {port for host, port in network.bound if host == SERVER} == set()
    assert [each for each in events if each.get("event") == "fault"] == []


def test_broken(boot: Path, tmp_path: Path) -> None:
    """Plugins that failed are told beside a file with faults: one of them may be why a name is unknown."""
    (tmp_path / "x.yaml").write_text(START + "transports: {fountain: }\n")
    with pytest.raises(ConfigError) as raised:
        service.read(tmp_path / "x.yaml", Collected(faults=["plugins/fountain.py: cannot be imported: no"]))
    assert raised.value.faults[-2:] == (
        (
            f"{tmp_path}/x.yaml:3: transports.fountain: nothing here is called fountain"
            " (a name of your own needs its kind: use: tftp)"
        ),
        "plugins/fountain.py: cannot be imported: no",
    )
