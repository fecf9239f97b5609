"""The admin ports, on a real server in a process of its own: metrics, readiness, the control socket."""

import errno
import hashlib
import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import assume, example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.cli import control, main
from castd.errors import Unavailable
from castd.observe import web
from castd.observe.metrics import MAX_TRANSPORTS, CountedEntry, Counters, MetricsPage
from castd.observe.web import MetricsSite
from castd.service import admin
from castd.service.admin import AdminPort, ControlConnection, ControlFactory
from castd.service.recorders import LONGEST
from castd.slices import Slices
from castd.testing import Network
from tests.support.jobs import eventually, free, running, until
from tests.support.log import observed
from tests.support.server import START, TFTP, Case, pageOf

BODY = bytes(1500)


class Running:
    """A server with its file, its page and its socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None
        self.clients: list[socket.socket] = []
        self.port, self.web = free(socket.SOCK_DGRAM, socket.SOCK_STREAM)
        self.control = folder / "run" / "control"
        (folder / "boot").mkdir()
        (folder / "run").mkdir()
        (folder / "boot" / "file").write_bytes(BODY)

    def write(self, more: str = "") -> None:
        (self.folder / "x.yaml").write_text(
            "castd: 1\ncontent: [{directory: {path: boot}}]\n"
            f"metrics: {{listen: '127.0.0.1:{self.web}'}}\n"
            f"transports: {{tftp: {{port: {self.port}, interface: 127.0.0.1}}}}\n{more}"
        )

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def castd(self, command: str, *options: str) -> Result:
        return CliRunner(env={"COLUMNS": "200"}).invoke(main.main, [command, "--control", str(self.control), *options])

    def ask(self, name: bytes) -> tuple[socket.socket, bytes, Any]:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.clients.append(client)
        client.settimeout(20)
        client.sendto(b"\0\1" + name + b"\0octet\0", ("127.0.0.1", self.port))
        return (client, *client.recvfrom(600))


@contextmanager
def serving(folder: Path, more: str = "") -> Iterator[Running]:
    made = Running(folder)
    made.write(more)
    command = ("-m", "castd", "serve", "-c", folder / "x.yaml")
    with running(*command, RUNTIME_DIRECTORY=str(folder / "run")) as process:
        until(process, "listens at")
        made.process = process
        yield made
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)
    for client in made.clients:
        client.close()


@pytest.mark.loopback
def test_metrics(tmp_path: Path) -> None:
    """What has happened is counted, what is under way is shown, and no label is a file name or an address."""
    with serving(tmp_path) as server:
        assert server.get("healthz") == (200, "alive\n")
        assert server.get("readyz") == (200, "ready\n")
        fresh = server.get("metrics")[1]
        assert 'castd_casts{kind="group",transport="tftp"} 0.0' in fresh
        assert 'castd_received_total{outcome="done",transport="tftp",write="false"} 0.0' in fresh
        (build,) = re.findall(r"^castd_build_info{(.*)} 1.0$", fresh, re.MULTILINE)
        assert re.sub(r'"[^"]+"', '""', build) == 'python="",reactor="",twisted="",version=""'
        assert 'reactor="EPollReactor"' in build
        client, block, peer = server.ask(b"file")
        status, shown = server.get("metrics")
        assert (status, 'castd_casts{kind="unicast",transport="tftp"} 1.0' in shown) == (200, True)
        for _ in range(2):
            client.sendto(b"\0\4" + block[2:4], peer)
            block = client.recv(600)
        client.sendto(b"\0\4" + block[2:4], peer)
        assert server.ask(b"secret-name")[1][:4] == b"\0\5\0\1"
        wanted = 'castd_received_total{outcome="done",transport="tftp",write="false"} 1.0'
        until = time.monotonic() + 20
        refused = 'castd_refused_total{code="1",transport="tftp"} 1.0'
        while not {wanted, refused} <= set((shown := server.get("metrics")[1]).splitlines()):
            assert time.monotonic() < until, shown
        assert re.search(r"^castd_kept_ports [1-9][0-9]*\.0$", shown, re.MULTILINE)
        assert 'castd_octets_total{transport="tftp"} 1500.0' in shown
        assert 'castd_receivers{transport="tftp"} 0.0' in shown
        assert "process_open_fds" in shown
        # The profile of U-Boot has that name.
        series = [line.replace('"u-boot"', "") for line in shown.splitlines() if not line.startswith("#")]
        assert not [line for line in series if any(word in line for word in ("secret", "127.0.0.1", "boot"))]
        (tmp_path / "boot").rename(tmp_path / "gone")
        assert server.get("readyz") == (503, "content[0] is not there\n")
        client.close()


@implementer(IStreamServerEndpoint)
class Taken:
    """An endpoint whose address is in use."""

    def listen(self, factory: object) -> Deferred[Any]:
        return fail(CannotListenError("0.0.0.0", 9147, OSError(errno.EADDRINUSE, "Address already in use")))


def test_inItsOwnWay() -> None:
    """Where the address of a metrics port contains that of the open one, a reload that cannot bind it says so."""
    before = AdminPort("127.0.0.1:9147", "x.yaml:3: metrics.listen", Taken(), Factory, False)
    port = AdminPort("0.0.0.0:9147", "x.yaml:3: metrics.listen", Taken(), Factory, False)
    fault = "x.yaml:3: metrics.listen: 0.0.0.0:9147: Address already in use"
    for open_, cure in (
        (None, ""),
        (before, "; if it is castd's own port at 127.0.0.1:9147: take another number, or restart castd"),
    ):
        with pytest.raises(Unavailable) as caught:
            port.bind(open_)
        assert caught.value.faults == (fault + cure,)


@pytest.mark.slow
@pytest.mark.loopback
def test_removedControl(tmp_path: Path) -> None:
    """A reload by SIGHUP makes the control socket again where its file was removed with the folder."""
    with serving(tmp_path) as server:
        eventually(server.control.exists, "the control socket", 20)
        shutil.rmtree(server.control.parent)
        server.control.parent.mkdir()
        assert server.castd("status").exit_code == 1
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        eventually(server.control.exists, "the control socket", 20)
        assert server.castd("status").exit_code == 0


@pytest.mark.slow
@pytest.mark.loopback
def test_rotatedBySignal(tmp_path: Path) -> None:
    """SIGUSR1 begins a new log, also under castd serve, or opens that of a program that has renamed the old one."""
    with serving(tmp_path, "logging: {json: events}\n") as server:
        log = tmp_path / "events"
        for old in ("events.1", "renamed"):
            if old == "renamed":
                log.rename(tmp_path / old)
            server.process.send_signal(signal.SIGUSR1)
            eventually(lambda old=old: log.exists() and (tmp_path / old).exists(), "a new log", 20)
        assert server.ask(b"none")[1][:4] == b"\0\5\0\1"
        eventually(lambda: '"refused"' in log.read_text(), "the event", 20)
    assert sorted(each.name for each in tmp_path.glob("events*")) == ["events", "events.1"]


@pytest.mark.slow
@pytest.mark.loopback
def test_control(tmp_path: Path) -> None:
    """`castd status` shows who receives what, `castd reload` puts a file in force or says what is wrong with it."""
    with serving(tmp_path) as server:
        mode = server.control.stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        client, _, _ = server.ask(b"file")
        told = server.castd("status", "--json")
        found = json.loads(told.stdout)
        (address,) = found["addresses"]
        (cast,) = address["casts"]
        (receiver,) = cast["receivers"]
        assert (told.exit_code, found["state"], address["transports"]) == (0, "serving", ["tftp"])
        assert (cast["kind"], cast["name"], cast["size"]) == ("unicast", "file", 1500)
        assert (receiver["peer"], receiver["sent"], receiver["needed"]) == (
            f"127.0.0.1:{client.getsockname()[1]}",
            1,
            3,
        )
        table = server.castd("status").stdout
        assert f"127.0.0.1:{client.getsockname()[1]}" in table
        assert "1/3" in table
        assert server.castd("reload").exit_code == 0
        server.write("limits: {casts: 0}\n")
        refused = server.castd("reload")
        assert (refused.exit_code, refused.stderr) == (1, f"{tmp_path}/x.yaml:5: limits.casts: 0 is not at least 1\n")
        shown = server.get("metrics")[1]
        assert 'castd_reloads_total{ok="true"} 1.0' in shown
        assert 'castd_reloads_total{ok="false"} 1.0' in shown
        server.write(f"control: {{path: {tmp_path}/other}}\n")
        assert server.castd("reload").exit_code == 0
        server.control = tmp_path / "other"
        assert server.castd("status").exit_code == 0
        for nonsense in (b"{}\n", b"no\n", b'{"do": "harm"}\n'):
            with socket.socket(socket.AF_UNIX) as asker:
                asker.settimeout(20)
                asker.connect(str(server.control))
                asker.sendall(nonsense)
                assert b"ask for one of status, reload" in asker.recv(4096)
        client.close()


@pytest.mark.slow
@pytest.mark.loopback
def test_page(tmp_path: Path) -> None:
    """
    On loopback there is a page, for who asks by the names of loopback; a reload switches it on and off, and no
    connection is lost by that.
    """
    with serving(tmp_path) as server:
        assert server.get("")[0] == 200
        elsewhere = urllib.request.Request(f"http://127.0.0.1:{server.web}/", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(elsewhere, timeout=20)
        text = (tmp_path / "x.yaml").read_text()
        (tmp_path / "x.yaml").write_text(text.replace(f":{server.web}'", f":{server.web}', page: false"))
        assert server.castd("reload").exit_code == 0
        for path in ("", "status.json", "page.css", "page.js"):
            assert server.get(path) == (404, "there is no page here: metrics.page in the service file is off\n")
        assert server.get("metrics")[0] == 200
        (tmp_path / "x.yaml").write_text(text.replace(f":{server.web}'", f":{server.web}', page: true"))
        assert server.castd("reload").exit_code == 0
        digest = hashlib.sha256((tmp_path / "x.yaml").read_bytes()).hexdigest()

        def isInForce() -> bool:
            told = json.loads(server.get("status.json")[1])
            return told["server"]["sha256"] == digest

        eventually(isInForce, "the digest of the new file", 20)
        eventually(lambda: digest in server.get("")[1], "the page with this digest", 20)


@pytest.mark.slow
@pytest.mark.loopback
def test_pageElsewhere(tmp_path: Path) -> None:
    """At an address that others reach there is no page unless the service file says so; then any name will do."""
    made = Running(tmp_path)
    made.write()
    text = (tmp_path / "x.yaml").read_text().replace(f"'127.0.0.1:{made.web}'", f"'0.0.0.0:{made.web}'")
    (tmp_path / "x.yaml").write_text(text)
    command = ("-m", "castd", "serve", "-c", tmp_path / "x.yaml")
    with running(*command, RUNTIME_DIRECTORY=str(tmp_path / "run")) as process:
        until(process, "listens at")
        assert made.get("")[0] == 404
        assert made.get("metrics")[0] == 200
        (tmp_path / "x.yaml").write_text(text.replace(f":{made.web}'", f":{made.web}', page: true"))
        assert made.castd("reload").exit_code == 0
        named = urllib.request.Request(f"http://127.0.0.1:{made.web}/", headers={"Host": "boot.example"})
        with urllib.request.urlopen(named, timeout=20) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)


def test_nobodyThere(tmp_path: Path) -> None:
    """Where no server listens the commands say so, with status 1."""
    for command in ("status", "reload"):
        result = CliRunner().invoke(main.main, [command, "--control", str(tmp_path / "none")])
        assert (result.exit_code, "no answer" in result.stderr) == (1, True)


def test_whatToDo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That no server answers is said with what to do: no socket, one that was left, one of another user."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    for name, why in (("none", "No such file or directory"), ("left", "Connection refused")):
        with pytest.raises(click.ClickException) as raised:
            control.ask(str(tmp_path / name), "status")
        assert raised.value.message == (
            f"{tmp_path}/{name}: no answer: {why}: castd does not run, or its socket is elsewhere (--control PATH)"
        )

    def shut(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(control.socket, "socket", shut)
    with pytest.raises(click.ClickException) as raised:
        control.ask("control", "status")
    assert raised.value.message == (
        "control: no answer: Permission denied: ask as root, or as the user that castd runs as"
    )


def test_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is looked for where systemd's RuntimeDirectory is."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/a:/run/b")
    assert control._defaultPath() == "/run/a/control"
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert control._defaultPath() == "/run/castd/control"


def test_present() -> None:
    """
    What is in the service file has its counters, at 0, before the first event: an increase from nothing to 1 would not
    be seen.  A proxydhcp has its own counters, and neither a transport nor a service of a plugin has these.
    """
    entries = [CountedEntry("tftp"), CountedEntry("echo", "echo")]
    counters = Counters(lambda: entries)
    page = pageOf(counters).decode()
    for line in (
        'castd_received_total{outcome="silent",transport="tftp",write="true"} 0.0',
        'castd_refused_total{code="0",transport="tftp"} 0.0',
        'castd_seconds_bucket{le="0.01",transport="tftp"} 0.0',
        'castd_reloads_total{ok="false"} 0.0',
        "castd_faults_total 0.0",
    ):
        assert line in page
    assert "castd_pxe_answers_total{" not in page
    assert 'code="other"' not in page
    counters({"event": "refused", "transport": "tftp", "code": 1})
    entries.append(CountedEntry("pxe", "proxydhcp"))
    page = pageOf(counters).decode()
    assert 'castd_refused_total{code="1",transport="tftp"} 1.0' in page
    assert 'castd_pxe_answers_total{arch="efi-x64",kind="discover",transport="pxe"} 0.0' in page
    assert 'castd_refused_total{code="1",transport="pxe"}' not in page
    assert 'transport="echo"' not in page
    # What is gone from the file keeps its counters.
    entries.clear()
    assert 'castd_refused_total{code="1",transport="tftp"} 1.0' in pageOf(counters).decode()


def test_withheldErrors() -> None:
    """A refusal that a limit kept from its machine counts as no answer, not as the ERROR that was not sent."""
    counters = Counters()
    for more in ({}, {"limit": "limits.errors"}, {"limit": "limits.errors-per-peer"}):
        counters({"event": "refused", "transport": "tftp", "code": 1, **more})
    page = pageOf(counters).decode()
    assert 'castd_refused_total{code="1",transport="tftp"} 1.0' in page
    assert 'castd_crowded_total{transport="tftp"} 2.0' in page


def test_bounded() -> None:
    """However many names events carry, the labels are bounded; what is no word of ours is `other`."""
    counters = Counters()
    for number in range(MAX_TRANSPORTS + 50):
        counters({"event": "refused", "transport": f"t{number}", "code": 99, "name": "secret"})
    counters({"event": "received", "transport": "t1", "outcome": "invented", "octets": 5, "group": None})
    counters({"event": "closed", "transport": "t1", "octets": 70, "lost": 2, "repeats": 3})
    counters({"event": "unheard-of"})
    counters({"log_format": "not ours"})
    page = pageOf(counters).decode()
    assert page.count("castd_refused_total{") == MAX_TRANSPORTS + 1
    assert 'castd_refused_total{code="other",transport="other"} 50.0' in page
    assert 'castd_received_total{outcome="other",transport="t1",write="false"} 1.0' in page
    assert 'castd_octets_total{transport="t1"} 75.0' in page
    assert 'castd_masters_lost_total{transport="t1"} 2.0' in page
    assert "secret" not in page


class Link(StringTransport):
    """
    A transport in memory that is closed at once.

    @ivar aborting: the server has closed it.
    """

    aborting = False

    def abortConnection(self) -> None:
        self.aborting = True
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def loseConnection(self) -> None:
        self.disconnecting = True


def connected(factory: Any) -> Link:
    """A connection to this factory."""
    link, made = Link(), factory.buildProtocol(None)
    link.protocol = made
    made.makeConnection(link)
    return link


def control16() -> tuple[Any, bytes, int, list[Deferred[object]]]:
    """A control socket that answers when the test says so: factory, question, the most connections, its answers."""
    asked: list[Deferred[object]] = []

    def answer(_: object) -> Deferred[object]:
        asked.append(Deferred())
        return asked[-1]

    return (
        ControlFactory(Clock(), {"status": answer}, Slices(Clock())),
        b'{"do": "status"}\n',
        admin.MOST_CONNECTIONS,
        asked,
    )


QUESTION_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.integers(-2, 2)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(["10.0.0.9", "10.0.0.1:69", "fe80::1%eth0", "blksize=8", "52:54:00:66:00:10", "file", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
QUESTION_KEYS = (
    *("address", "name", "since", "failed", "limit", "merged", "client", "write", "mode", "options", "to", "seconds"),
    "other",
)


def test_anyQuestion(tmp_path: Path) -> None:
    """Whatever is asked at the control socket gets an answer, or is told to be wrong: it is no fault of castd."""
    (tmp_path / "boot").mkdir()
    network, events = Network(), list[LogEvent]()
    case = Case(tmp_path, network, f"recorder: {{directory: {tmp_path}}}\n{START}{TFTP}")
    right = {"client": "10.0.0.9", "name": "file", "options": ["blksize=8"], "seconds": 1}

    @given(
        st.sampled_from(["history", "explain", "record", "status", "upgrade"]),
        st.sets(st.sampled_from(sorted(right))),
        st.dictionaries(st.sampled_from(QUESTION_KEYS), QUESTION_VALUES, max_size=3),
    )
    @example("history", set(), {"since": "monday"})
    @example("history", set(), {"limit": 1 << 70})
    @example("history", set(), {"address": "\ud800"})
    @example("explain", set(right), {"options": [{"a=": 1}]})
    @example("explain", set(right), {"name": "\ud800"})
    @example("explain", set(right), {"mode": "\u20ac"})
    @example("record", set(), {"since": 10**400})
    def ask(command: str, some: set[str], other: dict[str, object]) -> None:
        about = {**{key: right[key] for key in some}, **other}
        factory = ControlFactory(network, case.server.admin._answers, case.server.site.slices)
        link, line = connected(factory), json.dumps({**about, "do": command}).encode()
        assume(len(line) <= ControlConnection.MAX_LENGTH)
        link.protocol.dataReceived(line + b"\n")
        network.advance(LONGEST + 1)
        answer = json.loads(link.value())
        assert isinstance(answer, dict)
        assert answer.get("error") != "a fault of castd, see its log"

    with observed(events.append):
        ask()
    assert [event for event in events if event.get("event") == "fault"] == []
    case.server.stopService()


@pytest.mark.parametrize(
    "fault", [ValueError("no"), UnicodeEncodeError("ascii", "é", 0, 1, "no"), json.JSONDecodeError("no", "", 0)]
)
def test_faultWhileAnswering(fault: ValueError) -> None:
    """What castd itself does wrong while it answers is told as its fault, and logged with its traceback."""
    events = list[LogEvent]()

    def answer(_: object) -> NoReturn:
        raise fault

    link = connected(ControlFactory(Clock(), {"status": answer}, Slices(Clock())))
    with observed(events.append):
        link.protocol.dataReceived(b'{"do": "status"}\n')
    assert json.loads(link.value()) == {"error": "a fault of castd, see its log"}
    assert [event["log_failure"].value for event in events if event.get("event") == "fault"] == [fault]


def page32() -> tuple[Any, bytes, int, list[Deferred[object]]]:
    """A metrics address whose readiness is known when the test says so."""
    asked: list[Deferred[Any]] = []

    def unready() -> Deferred[Any]:
        asked.append(Deferred())
        return asked[-1]

    site = MetricsSite(MetricsPage(lambda: succeed(b""), unready))
    site.reactor = Clock()  # type: ignore[assignment]
    return site, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", web.MOST_CONNECTIONS, asked


@pytest.mark.parametrize("port", [control16, page32])
@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost"], ids=["silent", "half a question"])
def test_idleOnesLeave(port: Callable[[], Any], said: bytes) -> None:
    """Who connects and asks nothing keeps nobody out: the oldest of them leaves, and not who waits for an answer."""
    factory, question, most, asked = port()
    first = connected(factory)
    first.protocol.dataReceived(question)
    idle = [connected(factory) for _ in range(most - 1)]
    for each in idle:
        each.protocol.dataReceived(said)
    late = connected(factory)
    late.protocol.dataReceived(question)
    assert [each.aborting for each in idle] == [True] + [False] * (most - 2)
    for each in asked:
        each.callback(None)
    assert all(b"ready" in link.value() or b"null" in link.value() for link in (first, late))


@pytest.mark.parametrize("port", [control16, page32])
def test_nobodyIdle(port: Callable[[], Any]) -> None:
    """Where all wait for answers the newcomer has to go; who has been answered and does not leave counts as idle."""
    factory, question, most, asked = port()
    links = [connected(factory) for _ in range(most)]
    for each in links:
        each.protocol.dataReceived(question)
    late = connected(factory)
    assert (late.aborting, any(each.aborting for each in links)) == (True, False)
    asked[3].callback(None)
    assert not connected(factory).aborting
    assert [number for number, each in enumerate(links) if each.aborting] == [3]


def test_forgottenWhenClosed() -> None:
    """A connection that is closed makes room."""
    for factory, _, most, _ in (control16(), page32()):
        for _ in range(3 * most):
            link = connected(factory)
            link.protocol.connectionLost(Failure(ConnectionDone()))
            assert not link.aborting


@pytest.mark.parametrize("length", [b"Content-Length: 8", b"Content-Length: 99999999", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_noBody(method: bytes, length: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with a body is refused before that is read: it takes neither time nor room on the disk."""
    begun: list[object] = []
    monkeypatch.setattr("twisted.web.http._getContentFile", begun.append)
    link = connected(MetricsSite(MetricsPage(lambda: succeed(b""), lambda: succeed(None))))
    form = b"Content-Type: application/x-www-form-urlencoded\r\nExpect: 100-continue\r\n"
    headers = b" /healthz HTTP/1.1\r\nHost: x\r\n" + form + length
    link.protocol.dataReceived(method + headers + b"\r\n\r\n8\r\na=1&b=23\r\n")
    assert (link.value()[:12], link.value().count(b"HTTP/"), link.disconnecting) == (b"HTTP/1.1 413", 1, True)
    link.protocol.connectionLost(Failure(ConnectionDone()))
    assert not begun


def test_anAnswerThatIsNoJSON(events: list[dict[str, Any]]) -> None:
    """What a plugin counts may be anything: whoever asks is told of a fault, on the socket and on the page."""
    link = connected(ControlFactory(Clock(), {"status": lambda _: {"count": object()}}, Slices(Clock())))
    link.protocol.dataReceived(b'{"do": "status"}\n')
    assert json.loads(link.value()) == {"error": "a fault of castd, see its log"}
    broken = connected(MetricsSite(MetricsPage(lambda: succeed(b""), lambda: 1 / 0)))  # type: ignore[arg-type, return-value]
    broken.protocol.dataReceived(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert broken.value().startswith(b"HTTP/1.1 500 ")
    assert [each["event"] for each in events if "log_failure" in each] == ["fault", "fault"]


@pytest.mark.slow
@pytest.mark.loopback
def test_manyIdle(tmp_path: Path) -> None:
    """Against idle connections, more than each admin port may have, status, metrics and readiness answer at once."""
    with serving(tmp_path) as server, ExitStack() as stack:
        for family, address, most in (
            (socket.AF_UNIX, str(server.control), admin.MOST_CONNECTIONS),
            (socket.AF_INET, ("127.0.0.1", server.web), web.MOST_CONNECTIONS),
        ):
            for _ in range(most + 4):
                idle = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                idle.settimeout(20)
                idle.connect(address)
        began = time.monotonic()
        assert server.castd("status").exit_code == 0
        assert [server.get(page)[0] for page in ("metrics", "readyz", "healthz")] == [200] * 3
        assert time.monotonic() - began < 10
