"""
A service from outside, whole: the echo of C{examples/echo}, which sends no files, with all that castd does for one.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from castd import plugins
from castd.cli import doctor as command
from castd.cli.check import serviceWarnings
from castd.cli.main import main
from castd.config.plugin import Collected, ServiceMaker, collect
from castd.doctor.findings import Finding, Subject
from castd.errors import ConfigError
from castd.interfaces import ICastTransport, IPortService, IServiceFile, ITransportMaker, ServicePort
from castd.server.listener import Listener
from castd.server.service_port import ServiceListener
from castd.service.service import Server, compose, read
from castd.testing import Network, RecordingClient
from tests.support.disks import result
from tests.support.log import observed
from tests.support.server import statusOf

EXAMPLE = Path(__file__).parent.parent / "examples" / "echo"
SERVER = "10.0.0.1"
START = "castd: 1\ncontent: [{directory: {path: boot}}]\nlimits: {drain: 1 s}\ntransports:\n"
ECHO = START + "  echo: {}\n"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collected]:
    """What is found when the folder of the example is on the path; it is forgotten afterwards."""
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(EXAMPLE / "castd" / "plugins")])
    yield collect()
    sys.modules.pop("castd.plugins.castd_echo", None)


class Case:
    """A server on a network in memory, and a client."""

    def __init__(self, folder: Path, collected: Collected, text: str = ECHO, host: Any = None) -> None:
        self.folder, self.collected = folder, collected
        self.network = Network()
        self.host = host or self.network.host(SERVER)
        (folder / "boot").mkdir(exist_ok=True)
        (folder / "boot" / "file").write_bytes(b"!")
        self.write(text)
        self.server = self.composed()
        self.client = RecordingClient(self.network.host("10.0.0.9"))

    def composed(self, host: Any = None) -> Server:
        there = host or self.host
        return compose(read(self.folder / "x.yaml", self.collected), self.collected, there, there, random.Random(0))

    def start(self) -> Case:
        self.server.privilegedStartService()
        self.server.startService()
        return self

    def write(self, text: str) -> None:
        (self.folder / "x.yaml").write_text(text)

    def ask(self, datagram: bytes, port: int = 7) -> list[bytes]:
        """Send a datagram.  -> the answers."""
        self.client.send(datagram, (SERVER, port))
        self.network.advance(0.01)
        return [each.datagram for each in self.client.take()]


def test_checked(collected: Collected, tmp_path: Path) -> None:
    """castd check says which port of a service cannot be had now, with the remedy, once for each port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        case = Case(tmp_path, collected, START + f"  echo: {{interface: 127.0.0.1, port: {port}}}\n")
        ((_, service),) = case.server.portServices
        where = f"{tmp_path}/x.yaml:5: transports.echo"
        why = "is taken now, by a castd that runs or another program; inetd may have an echo of its own"
        assert list(serviceWarnings(case.server)) == [f"{where}: port {port} {why}"]
        (at,) = service.ports
        service.ports = (at, at, at._replace(host="192.0.2.9"), at._replace(host="192.0.2.8", required=False))
        gone = f"{where}: no interface of this machine has the address 192.0.2.9"
        assert list(serviceWarnings(case.server)) == [f"{where}: port {port} {why}", gone]
    service.ports = (at,)
    assert list(serviceWarnings(case.server)) == []


def test_examined(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """castd doctor looks at the ports of a service, and tells of one that cannot be made; those of castd's own once."""
    seen: list[Subject] = []

    def noted(subject: Subject, machine: object) -> Iterator[tuple[str, list[Finding]]]:
        seen.append(subject)
        return iter(())

    monkeypatch.setattr(command, "runChecks", noted)
    proxy = "  proxydhcp: {interface: 10.0.0.1, rules: [{boot: file}]}\n"
    (tmp_path / "x.yaml").write_text(START + "  tftp: {}\n  echo: {port: 7007}\n  other: {use: echo}\n" + proxy)

    def examined() -> str:
        words = ["doctor", str(tmp_path / "x.yaml"), "--control", str(tmp_path / "none")]
        return CliRunner().invoke(main, words).output

    assert "can be read" in examined()
    assert [(name, at.host, at.port) for name, at in seen.pop().servicePorts] == [("echo", "", 7007), ("other", "", 7)]
    for error, told in (
        (ConfigError("port: it is odd"), "x.yaml:6: transports.echo.port: it is odd"),
        (ValueError("odd"), "x.yaml:6: transports.echo: it cannot be made: ValueError('odd')"),
    ):
        monkeypatch.setattr(ServiceMaker, "makeTransport", Mock(side_effect=error))
        assert told in examined()
        assert seen.pop().servicePorts == []


def test_seams(collected: Collected, tmp_path: Path) -> None:
    """Everything that goes through a seam keeps to its interface."""
    assert collected.faults == []
    assert isinstance(collected.transports["echo"], ServiceMaker)
    assert verifyObject(ITransportMaker, collected.transports["echo"])
    case = Case(tmp_path, collected)
    ((entry, service),) = case.server.portServices
    assert entry.name == "echo"
    assert verifyObject(IPortService, service)
    assert verifyObject(ICastTransport, ServiceListener("echo", service, service.ports[0]))


def test_answers(collected: Collected, tmp_path: Path) -> None:
    """It is told what comes to its port, with the address that it was sent to, and answers from there."""
    case = Case(tmp_path, collected).start()
    assert case.ask(b"hello") == [b"hello"]
    assert case.ask(b"x" * 513) == []
    status = statusOf(case.server)
    assert status["services"] == {"echo": {"answered": 1}}
    assert [each["address"] for each in status["addresses"]] == ["*:7"]
    assert case.server.unready() is None
    assert case.server.stopService().called
    assert case.ask(b"hello") == []


def test_reload(collected: Collected, tmp_path: Path) -> None:
    """After a reload the socket is the same, other options hold, and what the service counts goes on."""
    case = Case(tmp_path, collected).start()
    (before,) = case.host.openPorts()
    assert case.ask(b"hello") == [b"hello"]
    case.write(START + "  echo: {longest: 4}\n")
    assert result(case.server.reread()) == ()
    assert case.host.openPorts() == (before,)
    assert case.ask(b"hello") == []
    assert case.ask(b"hell") == [b"hell"]
    assert case.server.portServices[0][1].counts == {"answered": 2}
    case.write(START + "  echo: {port: 77}\n")
    assert result(case.server.reread()) == ()
    assert case.ask(b"hello", 77) == [b"hello"]
    assert case.ask(b"hello") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("  echo: {after: nobody}\n", "x.yaml:5: transports.echo.after: no transport is called nobody"),
        ("  echo: {port: 69}\n  tftp: {}\n", "x.yaml:6: transports.tftp: cannot share *:69 with 'echo'"),
        ("  tftp: {}\n  echo: {port: 69}\n", "x.yaml:6: transports.echo: cannot share *:69 with 'tftp'"),
        ("  echo: {longest: -1}\n", "x.yaml:5: transports.echo.longest: -1"),
    ],
)
def test_faults(collected: Collected, tmp_path: Path, text: str, fault: str) -> None:
    """What is wrong is told with file, line and key, at a start and at a reload, which then changes nothing."""
    case = Case(tmp_path, collected).start()
    case.write(START + text)
    with pytest.raises(ConfigError) as caught:
        case.composed()
    assert len(caught.value.faults) == 1
    assert fault in caught.value.faults[0]
    assert fault in result(case.server.reread())[0]
    assert case.ask(b"hello") == [b"hello"]


def test_otherMake(collected: Collected, tmp_path: Path) -> None:
    """A reload does not make a service of a transport, nor a transport of a service, at one port."""
    case = Case(tmp_path, collected).start()
    case.write(START + "  tftp: {port: 7}\n")
    assert "another kind of plugin" in result(case.server.reread())[0]
    assert case.ask(b"hello") == [b"hello"]


def test_warnings(collected: Collected, tmp_path: Path) -> None:
    """A warning has the line of its key."""
    case = Case(tmp_path, collected, START + "  echo:\n    port: 7\n    longest: 0\n")
    (warning,) = case.server.warnings()
    assert warning.endswith("x.yaml:7: transports.echo.longest: only empty datagrams are sent back")


def test_taken(collected: Collected, tmp_path: Path) -> None:
    """A port that is taken is a fault with the service's own advice; one that is not required is not."""
    case = Case(tmp_path, collected)
    RecordingClient(case.network.host(SERVER), 7)
    with pytest.raises(ConfigError, match="inetd may have an echo"):
        case.server.privilegedStartService()
    ((_, service),) = case.server.portServices
    optional: Any = service
    optional.ports = (service.ports[0]._replace(required=False),)
    lax = Case(tmp_path, collected)
    ((address,), events) = (lax.server.addresses, [])
    RecordingClient(lax.network.host(SERVER), 7)
    address.required = False
    with observed(events.append):
        lax.start()
    assert [each["event"] for each in events if each.get("event") in ("unopened", "listening")] == ["unopened"]
    assert lax.server.unready() is None
    assert lax.server.stopService().called


def test_openedByAReload(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is not required, and was taken at the start, is opened by the first reload that can."""
    case = Case(tmp_path, collected)
    module = sys.modules[type(case.server.portServices[0][1]).__module__]
    monkeypatch.setattr(module, "ServicePort", partial(ServicePort, required=False))
    case.server = case.composed()
    other = RecordingClient(case.host, 7)
    events: list[Any] = []
    with observed(events.append):
        case.start()
        assert result(case.server.reread()) == ()
        assert case.server.unready() is None
        # The new file needs it.
        monkeypatch.setattr(module, "ServicePort", ServicePort)
        (fault,) = result(case.server.reread())
        assert "*:7 is taken" in fault
        monkeypatch.setattr(module, "ServicePort", partial(ServicePort, required=False))
        other.port.stopListening()
        RecordingClient(case.host, 71)
        case.write(ECHO + "  tftp: {port: 71}\n")
        (fault,) = result(case.server.reread())
        assert "*:71 is taken" in fault
        assert (SERVER, 7) not in case.network.bound
        case.write(ECHO)
        for _ in range(2):
            assert result(case.server.reread()) == ()
            assert case.ask(b"hello") == [b"hello"]
    told = [each["event"] for each in events if each.get("event") in ("unopened", "listening")]
    assert told == ["unopened", "listening"]
    assert case.server.stopService().called


def faulty(fault: type[BaseException]) -> Any:
    """Return a method that raises this."""

    def fail(*_: object) -> None:
        raise fault("of the service")

    return fail


@pytest.mark.parametrize("fault", [ValueError, SystemExit, KeyboardInterrupt])
def test_fault(
    collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    """An exception of the service is logged with its traceback, and the port goes on."""
    case = Case(tmp_path, collected).start()
    ((_, service),) = case.server.portServices
    monkeypatch.setattr(type(service), "datagramFrom", faulty(fault))
    events: list[Any] = []
    with observed(events.append):
        assert case.ask(b"hello") == []
    assert [each["event"] for each in events if "log_failure" in each] == ["fault"]
    monkeypatch.undo()
    assert case.ask(b"hello") == [b"hello"]


@pytest.mark.parametrize("method", ["drain", "stop", "closed"])
@pytest.mark.parametrize("fault", [ValueError, SystemExit])
def test_faultAtTheEnd(
    collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException], method: str
) -> None:
    """A service that fails to stop is logged, and its port is closed all the same, by a reload and by a stop."""
    case = Case(tmp_path, collected, ECHO + "  tftp: {}\n").start()
    ((_, service),) = case.server.portServices
    monkeypatch.setattr(type(service), method, faulty(fault))
    events: list[Any] = []
    with observed(events.append):
        case.write(START + "  tftp: {}\n")
        assert result(case.server.reread()) == ()
        case.network.advance(0.1)
        assert [port for host, port in case.network.bound if host == SERVER] == [69]
        case.write(ECHO)
        assert result(case.server.reread()) == ()
        assert case.server.stopService().called
    assert [port for host, port in case.network.bound if host == SERVER] == []
    assert {each["event"] for each in events if "log_failure" in each} == {"fault"}


def test_faultOfAReload(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that ends the program while a service file is put in force makes that reload fail, and nothing else."""
    case = Case(tmp_path, collected).start()
    monkeypatch.setattr(type(case.server.portServices[0][1]), "configure", faulty(SystemExit))
    assert result(case.server.reread()) == ("a fault of castd or of a plugin, see the log",)
    assert case.ask(b"hello") == [b"hello"]


def test_configuredInSteps(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may look at its file in steps, also find a fault in one; what else it returns counts for nothing."""
    case = Case(tmp_path, collected).start()
    made = type(case.server.portServices[0][1])
    looked: list[str] = []

    def inSteps(self: Any, file: IServiceFile) -> Iterator[None]:
        for each in file.transports:
            looked.append(each.name)
            yield
        if not self.options.longest:
            raise ConfigError("longest: it is too short")

    monkeypatch.setattr(made, "configure", inSteps)
    assert result(case.server.reread()) == ()
    case.write(ECHO.replace("echo: {}", "echo: {longest: 0}") + "  tftp: {}\n")
    assert result(case.server.reread()) == (f"{tmp_path}/x.yaml:5: transports.echo.longest: it is too short",)
    assert looked == ["echo", "echo", "tftp"]
    monkeypatch.setattr(made, "configure", lambda *_: (each for each in "ab"))
    assert result(case.server.reread()) == ()
    monkeypatch.setattr(made, "configure", lambda *_: True)
    assert result(case.server.reread()) == ()


@pytest.mark.parametrize("fault", [ValueError, SystemExit])
def test_faultAsAReloadIsUndone(
    collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    """A service that fails to close leaves the ports of a file that is refused as they were: open, or closed again."""
    case = Case(tmp_path, collected, START + "  echo: {}\n").start()
    RecordingClient(case.host, 71)
    before = dict(case.network.bound)
    monkeypatch.setattr(type(case.server.portServices[0][1]), "closed", faulty(fault))
    # The first makes room for the second, and the next two are opened, before the last is found to be taken.
    more = "  b: {use: echo, port: 8}\n  c: {use: tftp}\n  d: {use: tftp, port: 71}\n"
    case.write(START + "  echo: {interface: 10.0.0.1}\n" + more)
    (refusal,) = result(case.server.reread())
    assert "*:71 is taken" in refusal
    assert case.network.bound.keys() == before.keys()
    assert case.ask(b"hello") == [b"hello"]


@pytest.mark.parametrize("method", ["inherit", "opened"])
@pytest.mark.parametrize("fault", [ValueError, SystemExit])
def test_faultOnceInForce(
    collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException], method: str
) -> None:
    """
    A service that fails to take over is logged, as the file is in force by then: the other addresses are those of that
    file, and the datagrams come to the service that it names.
    """
    case = Case(tmp_path, collected, ECHO + "  tftp: {}\n").start()
    ((_, before),) = case.server.portServices
    events: list[Any] = []
    with monkeypatch.context() as patched, observed(events.append):
        patched.setattr(type(before), method, faulty(fault))
        case.write(START + "  echo: {}\n  more: {use: tftp, port: 70}\n")
        assert result(case.server.reread()) == ()
    case.network.advance(0.1)
    assert sorted(port for host, port in case.network.bound if host == SERVER) == [7, 70]
    assert [each.address for each in case.server.addresses] == ["*:7", "*:70"]
    listener: Any = case.server.addresses[0].transport
    assert [listener.service] == [service for _, service in case.server.portServices] != [before]
    assert [each["event"] for each in events if "log_failure" in each] == ["fault"]
    assert result(case.server.reread()) == ()
    assert case.ask(b"hello") == [b"hello"]
    assert case.server.stopService().called


def test_aTransportFailsToTakeOver(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport that fails to take over keeps no other address from what a reload has put in force."""
    case = Case(tmp_path, collected, START + "  tftp: {}\n  gone: {use: tftp, port: 70}\n").start()
    monkeypatch.setattr(Listener, "become", faulty(ValueError))
    case.write(START + "  tftp: {}\n  more: {use: tftp, port: 71}\n")
    events: list[Any] = []
    with observed(events.append):
        assert result(case.server.reread()) == ()
    case.network.advance(0.1)
    assert sorted(port for host, port in case.network.bound if host == SERVER) == [69, 71]
    assert [each["address"] for each in events if "log_failure" in each] == ["*:69"]


@pytest.mark.parametrize("end", [None, Failure(ValueError("of the service"))])
def test_wantedAgain(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Any) -> None:
    """A port that is wanted again while its service drains stays open, whenever and however that drain ends."""
    case = Case(tmp_path, collected, ECHO + "  tftp: {}\n").start()
    drained: Deferred[None] = Deferred()
    with monkeypatch.context() as patched:
        patched.setattr(type(case.server.portServices[0][1]), "drain", lambda _: drained)
        case.write(START + "  tftp: {}\n")
        assert result(case.server.reread()) == ()
    case.write(ECHO + "  tftp: {}\n")
    assert result(case.server.reread()) == ()
    events: list[Any] = []
    with observed(events.append):
        drained.callback(end)
        case.network.advance(1)
    assert case.ask(b"hello") == [b"hello"]
    assert [each.address for each in case.server.addresses] == ["*:7", "*:69"]
    assert [each["event"] for each in events if each.get("event") in ("fault", "closed-port")] == ["fault"] * bool(end)
    case.write(START + "  tftp: {}\n")
    assert result(case.server.reread()) == ()
    case.network.advance(0.1)
    assert case.ask(b"hello") == []
    assert case.server.stopService().called


def test_handedOverWhileItDrains(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is no longer wanted is closed once it is drained, also where a process wanted to take it over."""
    case = Case(tmp_path, collected, ECHO + "  tftp: {}\n").start()
    address = next(each for each in case.server.addresses if each.address == "*:7")
    drained: Deferred[None] = Deferred()
    with monkeypatch.context() as patched:
        patched.setattr(type(case.server.portServices[0][1]), "drain", lambda _: drained)
        case.write(START + "  tftp: {}\n")
        assert result(case.server.reread()) == ()
    successor: Any = None
    address.handOver(successor)
    address.resume()
    drained.callback(None)
    assert address.port is None
    assert case.server.stopService().called


def test_stopWhereADrainFails(collected: Collected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that cannot be drained is stopped all the same, and the log says what has failed."""
    case = Case(tmp_path, collected).start()
    monkeypatch.setattr(type(case.server.portServices[0][1]), "drain", lambda _: fail(ValueError("of the service")))
    events: list[Any] = []
    with observed(events.append):
        assert case.server.stopService().called
    assert ["draining failed" in each["log_format"] for each in events if each.get("event") == "fault"] == [True]
    assert (SERVER, 7) not in case.network.bound


def test_handedOver(collected: Collected, tmp_path: Path) -> None:
    """A process that takes over reads the port; if it dies, the one before goes on."""
    case = Case(tmp_path, collected).start()
    (address,) = case.server.addresses
    successor: Any = None
    assert address.handOver(successor).called
    after = case.composed(case.host.successor())
    after.privilegedStartService()
    assert case.ask(b"early") == []
    (taken,) = after.addresses
    assert taken.port is not None
    taken.port.resume(True)
    case.network.advance(0.01)
    assert [each.datagram for each in case.client.take()] == [b"early"]
    taken.port.pause(True)
    address.resume()
    assert case.ask(b"hello") == [b"hello"]
