"""
A plugin that raises, in each of its methods in turn: one transfer may end, the server does not, the log says it once.

What escapes from a protocol comes out of the virtual network and fails the test, though the real ports survive it.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogEvent
from zope.interface import implementer

from castd.client.client import fetch, send
from castd.client.transfer import ClientTransfer, TransferError
from castd.client.urls import parseUrl
from castd.dialects import mtftp, multicast, sbroadcast, slam, tftp
from castd.errors import NotFound
from castd.interfaces import IContestedUpload
from castd.packets.tftp import buildData, buildError
from castd.receive.group import SbroadcastDownload
from castd.receive.options import RequestedOptions
from castd.request import Peer, Request
from castd.server.listener import Listener
from castd.server.upload_protocol import UploadProtocol
from castd.service.logs import textLog
from castd.testing import BytesContent, MemorySink, Network, ReceivedFile, memorySite, pattern
from tests.support.clients.tftp import rrq, say, wrq
from tests.support.faults import Breaker, Plugin, everyMethod
from tests.support.log import observed
from tests.support.quick import slowBut
from tests.support.server import START, TFTP, Case, Client
from tests.support.stage import GroupStage, TftpStage

SERVER, DEAF, UNLUCKY = "10.0.0.1", "10.0.0.99", "10.0.0.98"
DATA = pattern(20_000)
#: The methods of which the quick tests have a case.
QUICK = ("IContent.read", "ICast.poll", "IWire.receive", "IUpload.write")
#: Tracebacks that one bug may be worth in a minute: seven transports may have it, in two places each.
TRACEBACKS = 14


class Bug(Exception):
    """Of a plugin."""


class Exit(SystemExit):
    """Of a plugin that calls C{sys.exit}."""


#: What a plugin raises; the last two end a program or a generator, and are no C{Exception} either.
KINDS = (Bug, Exit, KeyboardInterrupt, GeneratorExit)


class Source:
    """A source of files whose contents are plugins."""

    def __init__(self, breaker: Breaker) -> None:
        self.opened: list[BytesContent] = []
        self._breaker = breaker

    def lookup(self, name: str, peer: Peer) -> Any:
        self._breaker.called("IContentSource.lookup")
        if name != "file":
            raise NotFound
        self.opened.append(BytesContent(name, DATA, 1))
        return Plugin(self._breaker, self.opened[-1])


class Stage:
    """All transports on a virtual network, made of plugins."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.network = Network(seed=3)
        self.events: list[LogEvent] = []
        self.log = io.StringIO()
        self.source = Source(self.breaker)
        self.written: dict[str, bytes] = {}
        sink: Any = Plugin(self.breaker, MemorySink(self.written, "overwrite"))
        site: Any = memorySite(self.network, host=SERVER, uploads=sink)
        site.source = self.source
        self.site = site
        both = self._listener(multicast, "multicast", 69)
        both.share(self._listener(tftp, "tftp", 69))
        subnet = self._listener(sbroadcast, "sbroadcast", 71, subnets=["10.0.0.0/24"])
        subnet.share(self._listener(tftp, "behind", 71))
        self.listeners = [
            both,
            self._listener(tftp, "single", 70, single_port=True),
            subnet,
            self._listener(mtftp, "mtftp", 1759, files={"file": "239.255.1.1:3001"}),
            self._listener(slam, "slam", 10000, file="file", group="239.255.1.2:10000"),
        ]
        for each in self.listeners:
            site.ports.listen(each.port, each)
        self.ports = len(site.ports.openPorts())
        self._lost: Counter[str] = Counter()
        self.network.losing(self._loses)
        self._clients = 0
        self._begun: list[Deferred[Any]] = []

    def _loses(self, source: Peer, destination: Peer, datagram: bytes) -> bool:
        """
        Of the group nothing reaches the deaf one, nor do the first of the subnet's broadcasts; later its own data comes
        to their port.  Of the unlucky one's answers the first is lost.
        """
        self._lost[destination[0] if destination[0] == UNLUCKY else f"{destination}"] += 1
        return (
            destination == (DEAF, 1758)
            or (destination == (DEAF, 247) and self._lost[f"{destination}"] <= 6)
            or (destination[0] == UNLUCKY and self._lost[UNLUCKY] == 1)
        )

    def _listener(self, module: Any, name: str, port: int, **options: Any) -> Listener:
        given = {key.replace("_", "-"): value for key, value in options.items()}
        made = module.Options.model_validate({"port": port, **given})
        return Listener(self.site, name, made, Plugin(self.breaker, module.Dialect(made)))  # type: ignore[arg-type]

    def clients(self) -> dict[str, list[Any]]:
        """One of each kind begins.  -> for each its result, once there is one."""
        self._lost.clear()
        # For a moment the sockets are full.
        self.site.ports.room = 3
        self.network.callLater(0.01, setattr, self.site.ports, "room", None)
        return {
            "unlucky": self._fetch("tftp", "file", RequestedOptions(blksize=512), host=UNLUCKY),
            "lockstep": self._fetch("tftp", "file", RequestedOptions(blksize=1428)),
            "window": self._fetch("tftp", "file", RequestedOptions(blksize=1428, windowsize=4)),
            "desk": self._fetch("tftp", "file", RequestedOptions(), port=70),
            "nothing": self._fetch("tftp", "nothing", RequestedOptions()),
            "member": self._fetch("tftm", "file", RequestedOptions(blksize=1428)),
            "another": self._fetch("tftm", "file", RequestedOptions(blksize=1428)),
            "deaf": self._fetch("tftm", "file", RequestedOptions(blksize=1428), host=DEAF),
            "subnet": self._subnet(self._host()),
            "deaf subnet": self._subnet(self.network.host(DEAF)),
            "passes": self._fetch("mtftp", "file;group=239.255.1.1:3001", RequestedOptions(), port=1759),
            "lists": self._fetch("slam", "239.255.1.2:10000", RequestedOptions(), port=10000),
            "upload": self._send("log"),
            "broken off": self._send("never", 0.01),
        }

    def _host(self) -> Any:
        self._clients += 1
        return self.network.host(f"10.0.0.{10 + self._clients % 80}")

    def _fetch(self, scheme: str, path: str, requested: RequestedOptions, port: int = 69, host: str = "") -> list[Any]:
        sink = ReceivedFile()
        machine = self.network.host(host) if host else self._host()
        begun = fetch(machine, parseUrl(f"{scheme}://{SERVER}:{port}/{path}"), sink, requested)
        return self._told(begun, lambda: bytes(sink.data) == DATA)

    def _subnet(self, host: Any) -> list[Any]:
        sink = ReceivedFile()
        begun = ClientTransfer(host, SbroadcastDownload("file", "255.255.255.0"), (SERVER, 71), sink, None).start()
        return self._told(begun, lambda: bytes(sink.data) == DATA)

    def _send(self, name: str, seconds: float | None = None) -> list[Any]:
        url = parseUrl(f"tftp://{SERVER}/{name}")
        begun = send(
            self._host(), url, len(DATA), lambda start, length: DATA[start : start + length], RequestedOptions()
        )
        if seconds is not None:
            self.network.callLater(seconds, begun.cancel)
        return self._told(begun, lambda: self.written.get(name) == DATA)

    def _told(self, begun: Deferred[Any], whole: Callable[[], bool]) -> list[Any]:
        """Return a list that will hold C{True}, for a file that is whole, or why there is none."""
        results: list[Any] = []
        self._begun.append(begun)

        def failed(failure: Any) -> None:
            failure.trap(TransferError)
            results.append(str(failure.value))

        begun.addCallbacks(lambda report: results.append(True if whole() else "told that all is well"), failed)
        return results

    def served(self) -> dict[str, object]:
        """Everybody has come to an end.  -> how."""
        results = self.clients()
        # Some clients would ask for ever.
        self.network.callLater(300, self._giveUp)
        self.network.run(lambda: all(results.values()), limit=600)
        self.network.run(limit=600)
        return {name: result[0] for name, result in results.items()}

    def _giveUp(self) -> None:
        for each in self._begun:
            each.cancel()
        self._begun.clear()

    def left(self) -> dict[str, int]:
        """Return what is held though nobody is served."""
        admission = self.site.admission
        found = {
            "casts": admission.casts,
            "looking": admission.looking,
            "receivers": admission.receivers.total(),
            "living": sum(len(list(each.casts())) for each in self.listeners),
            "alarms": len(self.site.timers._targets),
            "groups": len(self.site.groupPool._allocated),
            "ports": len(self.site.ports.openPorts()) - self.ports,
            "uploads": len(self.site.uploads.open),
            "contents": sum(each.closes != 1 for each in self.source.opened),
            "timers": len(self.network.getDelayedCalls()),
        }
        return {name: many for name, many in found.items() if many}


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    with observed(made.events.append, textLog(made.log)):
        yield made


def healthy(results: dict[str, object]) -> None:
    """All have what they asked for."""
    wanted = {"nothing": "ERROR 1: File not found", "broken off": "cancelled"}
    assert results == {name: wanted.get(name, True) for name in results}


@pytest.mark.slow
def test_everythingIsCalled(stage: Stage) -> None:
    """Without a bug all are served, and every method of the seams is called."""
    for name in ("ICast.none", "IWire.none"):
        stage.breaker.fail(name, Bug)
        healthy(stage.served())
        assert stage.left() == {}
    assert set(everyMethod()) - stage.breaker.calls.keys() == set()


@pytest.mark.slow
@pytest.mark.parametrize("times", slowBut(lambda times: times is not None, [1, None]), ids=["once", "ever"])
@pytest.mark.parametrize("name", slowBut(lambda name: name.endswith(QUICK), everyMethod()))
@pytest.mark.parametrize("kind", slowBut(lambda kind: kind in (Bug, Exit), KINDS))
def test_aMethodRaises(stage: Stage, kind: type[BaseException], name: str, times: int | None) -> None:
    """
    Each transfer ends whole or with a word, one traceback says why, and once it is mended all are served again; also if
    what is raised would end a program.
    """
    stage.breaker.fail(name, partial(kind, f"a bug in {name}"), float("inf") if times is None else times)
    results = stage.served()
    assert stage.breaker.hits > 0
    assert "told that all is well" not in results.values()
    bugs = [each for each in stage.events if "log_failure" in each]
    assert {str(each["log_failure"].value) for each in bugs} == {f"a bug in {name}"}
    assert {each.get("event") for each in bugs} == {"fault"}
    assert 1 <= stage.log.getvalue().count("Traceback") <= TRACEBACKS
    stage.breaker.lift()
    # What only that very method gives back is the plugin's own loss.
    lost = {"IContent.close": "contents", "IWire.close": "groups", "IUpload.abort": "uploads"}.get(name)
    assert {what for what in stage.left() if what != lost} == set()
    healthy(stage.served())


@implementer(IContestedUpload)
class Contested:
    """
    An upload whose name nobody else has, that raises in one of its methods.

    @ivar aborts: how often it was aborted.
    """

    def __init__(self, faulty: str, fault: type[BaseException]) -> None:
        self.contested = False
        self.aborts = 0
        self._faulty, self._fault = faulty, fault

    def begin(self, name: str, peer: Peer, size: int | None) -> Any:
        """As L{IContentSink.begin}: this very upload."""
        return self

    def _called(self, name: str) -> None:
        if name == self._faulty:
            raise self._fault("a bug")

    def write(self, data: bytes) -> None:
        self._called("write")

    def commit(self) -> Deferred[None]:
        self._called("commit")
        return succeed(None)

    def abort(self) -> None:
        self.aborts += 1
        self._called("abort")

    def claim(self) -> None:
        self._called("claim")

    def whenReplaced(self, function: Callable[[], object]) -> None:
        self._called("whenReplaced")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("faulty", ["whenReplaced", "claim", "write", "commit"])
def test_aContestedUploadRaises(kind: type[BaseException], faulty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that raises, from its very beginning on, ends: it is aborted, and its place and its port are free."""
    stage = TftpStage({}, uploads=True)
    upload = Contested(faulty, kind)
    monkeypatch.setattr(stage.site, "sink", lambda request: upload)
    with observed(stage.events.append):
        client = stage.client()
        client.send(wrq("x"), stage.server)
        stage.network.advance(0.01)
        for letter in client.take():
            client.send(buildData(1, b"all"), letter.source)
        stage.network.advance(60)
    assert [str(event["log_failure"].value) for event in stage.told("fault")] == ["a bug"]
    assert upload.aborts == 1
    stage.events.clear()
    stage.over()


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize(("attribute", "wrong"), [("blocksize", None), ("blocksize", "1428"), ("count", "2")])
def test_whatTheEndIsToSay(group: bool, attribute: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire whose attribute has a wrong type fails again in what its end is to say; its cast ends all the same."""
    stage = (GroupStage if group else TftpStage)({"f": pattern(2000), "g": b"all"})
    module: Any = multicast if group else tftp
    opened = module.Dialect.open

    def wronged(dialect: Any, request: Request, content: Any, context: Any) -> Any:
        wire = opened(dialect, request, content, context)
        if request.name == "f":
            setattr(wire, attribute, wrong)
        return wire

    monkeypatch.setattr(module.Dialect, "open", wronged)
    with observed(stage.events.append):
        for port in range(2000, 2003):
            stage.client(port).send(rrq("f", **({"multicast": ""} if group else {"blksize": 512})), stage.server)
            stage.network.advance(0.5)
        stage.network.advance(200)
    assert stage.told("fault")
    assert (stage.site.admission.receivers.total(), list(stage.listener.casts())) == (0, [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("faulty", ["locate", "grantedOptions"])
@pytest.mark.parametrize("end", ["done", "silent", "stopped"])
def test_whatAnEventIsToSay(kind: type[BaseException], faulty: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot tell a path, or options, costs the event of a transfer that field, and keeps nobody's place."""

    def fault(*_: object) -> Any:
        raise kind("a bug")

    def lookup(request: Request) -> Any:
        request.trace.places.append(("castd.yaml:3", fault))
        request.trace.found = True
        return known(request)

    stage = TftpStage({"f": b"all of it"})
    known = stage.site.lookup
    with observed(stage.events.append):
        if faulty == "locate":
            monkeypatch.setattr(stage.site, "lookup", lookup)
        else:
            monkeypatch.setattr(tftp.Wire, "grantedOptions", fault)
        client, _, tid = stage.ask(rrq(blksize=512))
        if end == "done":
            say(client, 0, tid)
            say(client, 1, tid)
        elif end == "stopped":
            stage.listener.stop()
        stage.network.advance(60)
    assert {str(event["log_failure"].value) for event in stage.told("fault")} == {"a bug"}
    assert [event["outcome"] for event in stage.told("received")] == [end]
    assert stage.site.admission.receivers.total() == 0
    stage.events.clear()
    stage.over()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("faulty", ["size", "terms", "error"])
def test_whatTheEventOfAnUploadIsToSay(kind: type[BaseException], faulty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half that cannot tell its size, options or error at the end costs the event that field, and keeps no place."""

    def fault(_: object) -> Any:
        raise kind("a bug")

    stage = TftpStage(uploads=True)
    with observed(stage.events.append):
        client, _, tid = stage.ask(wrq("new"))
        (upload,) = stage.listener.casts()
        assert isinstance(upload, UploadProtocol)
        # A half as it is, but for what it cannot tell: its class is that of no other half.
        own = type("Half", (type(upload.half),), {faulty: property(fault, lambda *_: None)})
        monkeypatch.setattr(upload.half, "__class__", own)
        client.send(buildError(0, "enough"), tid)
        stage.network.advance(60)
    assert {str(event["log_failure"].value) for event in stage.told("fault")} == {"a bug"}
    assert [event["outcome"] for event in stage.told("received")] == ["aborted"]
    assert stage.site.admission.receivers.total() == 0
    assert list(stage.listener.casts()) == []
    stage.events.clear()
    stage.over()


class Stubborn:
    """A source that never answers, and whose Deferreds cannot be cancelled."""

    def __init__(self, fault: type[BaseException], nested: bool) -> None:
        self._fault, self._nested = fault, nested

    def lookup(self, name: str, peer: Peer) -> Deferred[BytesContent]:
        found: Deferred[BytesContent] = Deferred(self._refuse)
        return succeed(None).addCallback(lambda _: found) if self._nested else found

    def _refuse(self, _: object) -> None:
        raise self._fault("not now")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nested", [False, True])
def test_whatCannotBeCancelled(events: list[dict[str, Any]], kind: type[BaseException], nested: bool) -> None:
    """A source that fails as its look-up is cancelled keeps no place: the request is let go like any other."""
    stage = TftpStage(source=Stubborn(kind, nested))
    stage.client(2000).send(rrq(), stage.server)
    stage.network.advance(29)
    assert stage.site.admission.looking == 1
    stage.network.advance(2)
    assert stage.site.admission.looking == 0
    assert [each["event"] for each in events if each.get("event") in ("fault", "crowded")] == ["fault", "crowded"]


@pytest.mark.parametrize("kind", KINDS)
def test_faultyObserver(tmp_path: Path, events: list[dict[str, Any]], kind: type[BaseException]) -> None:
    """Who observes requests and fails costs the request nothing."""

    def fail(_: object) -> None:
        raise kind("of an observer")

    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "file").write_bytes(DATA)
    network = Network()
    case = Case(tmp_path, network, START + TFTP)
    case.server.site.observers.append(fail)
    assert Client(network).finish() == DATA
    assert [each["event"] for each in events if "log_failure" in each] == ["fault"]
    assert case.server.site.admission.looking == 0
