"""What a supervisor is told, over real sockets of the test's own; and sockets that it has bound."""

import errno
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from castd.config import yaml
from castd.config.config import build
from castd.config.plugin import collect
from castd.net import activation
from castd.net.activation import passedSockets, takeVariables
from castd.net.ports import PROBE, Ports
from castd.observe.sdnotify import ServiceNotifier, ServiceWatch, watchdogPeriod
from castd.service.service import Server, compose, kinds
from castd.testing import Network, RecordingClient
from tests.support.disks import Later
from tests.support.fakes import Hearer, Reactor
from tests.support.quick import slowBut

ROOT = Path(__file__).parent.parent
SERVER = "10.0.0.1"
COLLECTED = collect()


class Supervisor:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(30)

    def take(self) -> list[dict[str, str]]:
        """What was said so far."""
        self.socket.setblocking(False)
        said = []
        while True:
            try:
                said.append(self._read())
            except BlockingIOError:
                return said

    def until(self, field: str) -> dict[str, str]:
        """Wait for a datagram with this field."""
        while True:
            said = self._read()
            if field in said:
                return said

    def _read(self) -> dict[str, str]:
        lines = self.socket.recv(4096).decode().split("\n")
        return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(str(tmp_path / "notify"))
    yield made
    made.socket.close()


@pytest.fixture
def network() -> Network:
    return Network()


def serving(folder: Path, network: Network, supervisor: Supervisor, period: float | None) -> Server:
    (folder / "boot").mkdir()
    (folder / "boot" / "hello.txt").write_bytes(b"hello\n")
    text = b"castd: 1\ncontent: [{directory: {path: boot}}]\ntransports: {tftp: , b: {use: tftp, port: 70}}\n"
    host = network.host(SERVER)
    server = compose(build(yaml.parse(text, "x"), folder / "x", kinds(COLLECTED)), COLLECTED, host, host)
    server.setServiceManager(ServiceNotifier(supervisor.address, lambda: 12.5), period)
    return server


@pytest.mark.parametrize("address", ["{}/notify", "@castd-test-{}"])
def test_notices(tmp_path: Path, address: str) -> None:
    """Fields arrive as lines of one datagram, at a path or an abstract name; a line break in a value ends nothing."""
    supervisor = Supervisor(address.format(tmp_path if address[0] == "{" else os.getpid()))
    notifier = ServiceNotifier(supervisor.address, lambda: 12.5)
    notifier.notify("READY=1", "STATUS=one\nTWO=2")
    notifier.reloading()
    assert supervisor.take() == [
        {"READY": "1", "STATUS": "one TWO=2"},
        {"RELOADING": "1", "MONOTONIC_USEC": "12500000", "STATUS": "reloading"},
    ]
    notifier.close()
    notifier.notify("READY=1")
    assert supervisor.take() == []
    supervisor.socket.close()


def test_nobody(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    """Without a supervisor, or with one that has gone, nothing is said, and one line logged."""
    for address in (None, "", "vsock:2:1", str(tmp_path / "none")):
        notifier = ServiceNotifier(address)
        notifier.notify("READY=1")
        notifier.close()
    assert [(each["event"], each["told"]) for each in events] == [("unsaid", "READY=1")]


def test_stopDuringAReload(tmp_path: Path, network: Network, supervisor: Supervisor) -> None:
    """A reload is begun and ended for the supervisor, but after STOPPING nothing is said of it."""
    server, later = serving(tmp_path, network, supervisor, None), Later()
    server.privilegedStartService()
    server.startService()
    network.advance(0)
    supervisor.take()
    server.thread = later
    for stops in (False, True):
        server.reread()
        assert [each.get("RELOADING") for each in supervisor.take()] == ["1"]
        if stops:
            RecordingClient(network.host("10.0.0.9")).send(b"\0\1hello.txt\0octet\0", (SERVER, 69))
            network.advance(0.1)
            server.stopService()
        later.run()
        assert [sorted(each)[-1] for each in supervisor.take()] == (["STOPPING"] if stops else ["STATUS"])
    network.advance(60)


def test_life(tmp_path: Path, network: Network, supervisor: Supervisor) -> None:
    """READY comes once the ports are open and the reactor runs, STOPPING with the time that draining may take."""
    server = serving(tmp_path, network, supervisor, None)
    server.privilegedStartService()
    server.startService()
    assert supervisor.take() == []
    network.advance(0)
    assert supervisor.take() == [{"READY": "1", "STATUS": "serving: 0 transfers, 0 receivers"}]
    client = RecordingClient(network.host("10.0.0.9"))
    client.send(b"\0\1hello.txt\0octet\0", (SERVER, 69))
    block = client.expect()
    server.stopService()
    assert supervisor.take() == [
        {"STOPPING": "1", "STATUS": "draining: 1 transfers, 1 receivers", "EXTEND_TIMEOUT_USEC": "25000000"}
    ]
    client.send(b"\0\4\0\1", block.source)
    network.advance(60)
    assert supervisor.take() == []
    assert network.getDelayedCalls() == []


def test_fed(tmp_path: Path, network: Network, supervisor: Supervisor) -> None:
    """The watchdog is fed at half of its time, with how things stand, while draining too, and not after the end."""
    server = serving(tmp_path, network, supervisor, 10.0)
    server.startService()
    network.advance(35.1)
    fed = [each for each in supervisor.take() if "WATCHDOG" in each]
    assert fed == [{"WATCHDOG": "1", "STATUS": "serving: 0 transfers, 0 receivers"}] * 8
    RecordingClient(network.host("10.0.0.9")).send(b"\0\1hello.txt\0octet\0", (SERVER, 69))
    network.advance(0.5)
    server.stopService()
    network.advance(11)
    fed = [each for each in supervisor.take() if "WATCHDOG" in each]
    assert fed == [{"WATCHDOG": "1", "STATUS": "draining: 1 transfers, 1 receivers"}] * 2
    network.advance(60)
    assert network.getDelayedCalls() == []
    assert len(supervisor.take()) == 2


def test_fedTooOften(tmp_path: Path, network: Network, supervisor: Supervisor) -> None:
    """A period too short for any service manager costs a hundred feedings a second, and not all of the time."""
    server = serving(tmp_path, network, supervisor, 1e-6)
    server.startService()
    network.advance(0.055)
    assert sum("WATCHDOG" in each for each in supervisor.take()) == 6
    server.stopService()
    network.advance(10)


class Port:
    """A port whose life is in the test's hands."""

    def __init__(self) -> None:
        self.asked: list[Deferred[None]] = []
        self.error: OSError | None = None

    def probe(self) -> Deferred[None]:
        """As IListeningPort."""
        if self.error is not None:
            raise self.error
        self.asked.append(Deferred())
        return self.asked[-1]


def test_deaf(network: Network, supervisor: Supervisor, events: list[dict[str, Any]]) -> None:
    """
    A listener that heard before and hears no more keeps the watchdog hungry, until it hears again; one that never
    heard (a firewall) or cannot be asked (its interface is down) does not.
    """
    a, b, never = Port(), Port(), Port()
    ports = [("a", a), ("b", b), ("never", never)]
    watch = ServiceWatch(network, ServiceNotifier(supervisor.address), 4.0, lambda: ports, lambda: "well")

    def fed() -> int:
        return sum("WATCHDOG" in each for each in supervisor.take())

    watch.start()
    network.advance(0.5)
    assert fed() == 1
    a.asked[0].callback(None)
    b.asked[0].callback(None)
    network.advance(2)
    assert fed() == 0
    a.asked[1].callback(None)
    assert fed() == 0
    b.asked[1].callback(None)
    assert fed() == 1
    network.advance(2)
    a.asked[2].callback(None)
    network.advance(2)
    a.asked[3].callback(None)
    assert fed() == 0
    assert [(each["event"], each["address"]) for each in events] == [("deaf", "b")]
    b.asked[2].callback(None)
    assert fed() == 1
    b.error = OSError("no route")
    network.advance(2)
    a.asked[4].callback(None)
    assert fed() == 1
    ports.remove(("b", b))
    watch.stop()
    network.advance(60)
    assert fed() == 0


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "\u0663"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "9" * 400}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": "1"}, 1e-6),
    ],
)
def test_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    """The watchdog is ours if it is meant for this process, and for nobody if that is unreadable."""
    assert watchdogPeriod(environ, 7) == seconds


@pytest.mark.loopback
@pytest.mark.parametrize("interface", ["127.0.0.1", ""])
def test_probe(interface: str) -> None:
    """A listening port answers its probe when it is read, its protocol knows nothing of that; a closed one at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    heard = Hearer()
    ports = Ports(Reactor(), random.Random(0))
    port = ports.listen(number, heard, interface)
    answers: list[object] = []
    port.probe().addCallback(answers.append)
    assert answers == []
    port.readable()
    assert answers == [None]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        port.probe().addCallback(answers.append)
        client.sendto(b"a request", ("127.0.0.1", number))
        client.sendto(PROBE, ("127.0.0.1", number))
        port.readable()
    assert heard.heard == [b"a request"]
    port.probe().addCallback(answers.append)
    port.stopListening()
    port.stopListening()
    assert (answers, heard.stopped) == ([None] * 3, 1)


def datagram(host: str = "127.0.0.1", family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((host, 0))
    return made


@pytest.mark.loopback
def test_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datagram sockets are found by the address they are bound to; everything else is named and left alone."""
    any4, one, stream = datagram("0.0.0.0"), datagram(), socket.socket()
    numbers = [any4.getsockname()[1], one.getsockname()[1]]
    first = 600
    made = [any4, one, stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    for at, each in enumerate(made):
        os.dup2(each.fileno(), first + at)
        each.close()
    monkeypatch.setattr(activation, "LISTEN_FDS_START", first)
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "5", "LISTEN_FDNAMES": "a:b:c:d:e", "PATH": "/bin"}
    found, stored, faults = passedSockets(environ, 7)
    assert stored == {}
    assert list(found) == [("", numbers[0]), ("127.0.0.1", numbers[1])]
    assert faults == [
        f"descriptor {first + 2} (c) was passed and is of no use: no datagram socket of IPv4 or IPv6",
        f"descriptor {first + 3} (d) was passed and is of no use: not bound",
        f"descriptor {first + 4} (e) was passed and is of no use: Bad file descriptor",
    ]
    assert environ == {"PATH": "/bin"}
    assert not any(os.get_inheritable(each.fileno()) for each in found.values())
    for each in found.values():
        each.close()
    for left in (2, 3):
        os.close(first + left)


@pytest.mark.loopback
def test_theirInterfaceHasGone(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A kept socket whose interface does not exist any more is known by its name, and bound anew later; that of a socket
    unit is of no use.  The start goes on.
    """
    first = 600
    for at in range(2):
        made = datagram()
        os.dup2(made.fileno(), first + at)
        made.close()

    def gone(sock: socket.socket) -> str:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(activation, "boundHost", gone)
    monkeypatch.setattr(activation, "LISTEN_FDS_START", first)
    names = "castd.255.255.255.255%10.0.0.5.67:unit"
    found, stored, faults = passedSockets({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": names}, 7)
    assert (found, list(stored)) == ({}, [("255.255.255.255%10.0.0.5", 67)])
    assert faults == [f"descriptor {first + 1} (unit) was passed and is of no use: No such device"]
    for each in stored.values():
        each.close()


def test_toldBefore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody took out of the environment is found where the system keeps it; what is there is taken out."""
    began = tmp_path / "environ"
    began.write_bytes(b"PATH=/bin\0LISTEN_PID=7\0LISTEN_FDS=2\0LISTEN_FDNAMES=a:b\0")
    monkeypatch.setenv("LISTEN_FDNAMES", "c:d")
    for name in ("LISTEN_PID", "LISTEN_FDS"):
        monkeypatch.delenv(name, raising=False)
    assert takeVariables(began) == {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "c:d"}
    assert "LISTEN_FDNAMES" not in os.environ
    assert takeVariables(tmp_path / "none") == {"LISTEN_PID": "", "LISTEN_FDS": "", "LISTEN_FDNAMES": ""}


def test_notPassed() -> None:
    """What was passed to another process, or not at all, is nobody's business."""
    assert passedSockets({"LISTEN_PID": "8", "LISTEN_FDS": "2"}, 7) == ({}, {}, [])
    for count in ("", "x", "-1", "0", "\u00b2", "\u0663", "9" * 5000):
        assert passedSockets({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7) == ({}, {}, [])
    assert passedSockets({}) == ({}, {}, [])


@pytest.mark.loopback
def test_bothFamilies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket of IPv6 that takes IPv4 as well is told how to be made right."""
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", 0))
    monkeypatch.setattr(activation, "LISTEN_FDS_START", made.fileno())
    found, _, (fault,) = passedSockets({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7)
    assert found == {}
    assert fault.endswith(
        "(unknown) was passed and is of no use: takes IPv4 as well: set BindIPv6Only=ipv6-only in the socket unit"
    )
    made.close()


@pytest.mark.loopback
def test_givenBack() -> None:
    """An adopted socket that is listened at no more is kept open, and can be had again, without what came meanwhile."""
    made = datagram()
    number = made.getsockname()[1]
    ports = Ports(Reactor(), random.Random(0), {("127.0.0.1", number): made})
    assert ports.unclaimed() == [("127.0.0.1", number)]
    ports.listen(number, Hearer(), "127.0.0.1").stopListening()
    assert ports.unclaimed() == [("127.0.0.1", number)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"late", ("127.0.0.1", number))
        heard = Hearer()
        port = ports.listen(number, heard, "127.0.0.1")
        assert ports.unclaimed() == []
        client.sendto(b"timely", ("127.0.0.1", number))
        port.readable()
    assert heard.heard == [b"timely"]
    port.stopListening()
    made.close()


@pytest.mark.loopback
@pytest.mark.parametrize(("unit", "file"), [("127.0.0.1", ""), ("", "127.0.0.1")])
def test_anotherAddressWasPassed(unit: str, file: str) -> None:
    """Where a socket unit and the service file differ, the fault names the unit's address, not another program."""
    with datagram(unit) as made:
        number = made.getsockname()[1]
        ports = Ports(Reactor(), random.Random(0), {(unit, number): made})
        with pytest.raises(CannotListenError) as failed:
            ports.listen(number, Hearer(), file)
    assert str(failed.value.socketError) == f"the socket unit has {unit or '*'}:{number}: make both the same"


LAUNCH = """
import os, sys
for at, number in enumerate(map(int, sys.argv[1].split(","))):
    os.dup2(number, 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(at + 1), WATCHDOG_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""

COMMANDS = {
    "castd": ("-m", "castd", "serve"),
    "twistd": ("-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=", "castd"),
    # As a plugin of anybody's would: this takes what the environment says of passed sockets.
    "plugins": (
        "-c",
        "import twisted.internet.endpoints; from twisted.scripts.twistd import run; run()",
        "--nodaemon",
        "--pidfile=",
        "castd",
    ),
}


@pytest.mark.slow
@pytest.mark.loopback
@pytest.mark.parametrize("command", slowBut(lambda command: command == "castd", COMMANDS))
def test_activated(tmp_path: Path, supervisor: Supervisor, command: str) -> None:
    """
    Under a parent that binds, takes notifications and passes sockets, castd serves from the socket that fits its
    service file, answers the request that came before it, names the socket that nobody wants, and says how it goes.
    """
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "hello.txt").write_bytes(b"hello\n")
    asked, other, client = datagram(), datagram(), datagram()
    client.settimeout(30)
    number = asked.getsockname()[1]
    (tmp_path / "x.yaml").write_text(
        f"castd: 1\ncontent: [{{directory: {{path: boot}}}}]\n"
        f"transports: {{tftp: {{port: {number}, interface: 127.0.0.1}}}}\n"
    )
    client.sendto(b"\0\1hello.txt\0octet\0", asked.getsockname())
    # Above what the launcher puts there.
    high = [os.dup(each.fileno()) for each in (asked, other) for _ in range(10)]
    descriptors = (high[9], high[19])
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": "400000"}
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH, ",".join(map(str, descriptors)), *COMMANDS[command], "-c", tmp_path / "x.yaml"],
        cwd=ROOT,
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
    ) as process:
        for each in high:
            os.close(each)
        try:
            assert supervisor.until("READY")["STATUS"].startswith("serving: ")
            block, peer = client.recvfrom(600)
            client.sendto(b"\0\4\0\1", peer)
            assert block == b"\0\3\0\1hello\n"
            for _ in range(4):
                supervisor.until("WATCHDOG")
            process.send_signal(signal.SIGTERM)
            supervisor.until("STOPPING")
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    where = f"127.0.0.1:{other.getsockname()[1]}"
    assert f"{where} was passed, and no transport listens there" in said
    for each in (asked, other, client):
        each.close()
