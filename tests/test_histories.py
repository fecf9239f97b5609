"""The service file says where the history lies; it outlives a reload, an upgrade and the end of the process."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sqlite3
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from castd.cli import control as control_
from castd.cli import history as command
from castd.cli import main
from castd.observe.eventstore import Found, Query, Store
from castd.observe.history import DELAY
from castd.service import histories
from castd.service.histories import Histories
from castd.testing import Network
from tests.support.disks import Later
from tests.support.jobs import eventually, running, until
from tests.support.server import START, TFTP, Case, Client, statusOf

pytestmark = pytest.mark.loopback


def castd(*arguments: str | Path) -> str:
    return CliRunner().invoke(main.main, [str(each) for each in arguments]).stdout


def found(server: Case, **query: str | bool) -> list[Found]:
    answers: list[list[Found]] = []
    server.server.histories.find(Query.read(query)).addCallback(answers.append)
    return answers[0]


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "file").write_bytes(bytes(2000))
    return tmp_path


def test_inAThread(folder: Path, network: Network) -> None:
    """What is written and looked for is so in the thread, also in memory: the event loop does not wait for it."""
    case = Case(folder, network, START + TFTP)
    work = Later()
    case.server.histories.close()
    case.server.histories.thread = work
    case.server.histories.open(case.server.config)
    Client(network).finish()
    network.advance(5)
    answers: list[list[Found]] = []
    case.server.histories.find(Query.read({})).addCallback(answers.append)
    assert answers == []
    work.run()
    assert [[each["event"] for each in found] for found in answers] == [["received"]]


def test_withoutSetting(folder: Path, network: Network) -> None:
    """Without a setting the last events are in memory, and no file is made."""
    case = Case(folder, network, START + TFTP)
    Client(network).finish()
    network.advance(5)
    assert Client(network, name="none").code == 1
    assert [each["event"] for each in found(case)] == ["listening", "started", "received", "refused"]
    assert [each["name"] for each in found(case, failed=True)] == ["none"]
    assert sorted(os.listdir(folder)) == ["boot", "x.yaml"]
    case.server.stopService()


def test_reload(folder: Path, network: Network) -> None:
    """A reload that leaves the setting as it is goes on in the file; another path begins another file."""
    kept = "history: {path: kept.sqlite}\n"
    case = Case(folder, network, START + TFTP + kept)
    Client(network).finish()
    network.advance(5)
    assert case.reload(START + TFTP + kept) == ()
    assert [each["event"] for each in found(case)] == ["listening", "started", "received", "reloaded"]
    assert case.reload(START + TFTP + "history: {path: other.sqlite}\n") == ()
    assert [each["event"] for each in found(case)] == ["reloaded"]
    case.server.stopService()
    assert castd("history", "--file", folder / "kept.sqlite").count("\n") == 4


def test_lostSinceTheStart(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many events were lost counts from the start: those before a reload, and those as its file was closed."""
    case = Case(folder, network, START + TFTP + "history: {path: kept.sqlite}\n")

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def lost() -> int:
        return statusOf(case.server)["history"]["lost"]  # type: ignore[no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(Store, "add", full)
        network.advance(5)
        assert lost() == 2
        assert Client(network, name="none").code == 1
        assert case.reload(START + TFTP + "history: {path: other.sqlite}\n") == ()
    assert lost() == 3
    network.advance(5)
    assert case.reload(START + TFTP + "history: {path: other.sqlite, age: 1 d}\n") == ()
    assert lost() == 3
    case.server.stopService()


def test_notThere(folder: Path, network: Network) -> None:
    """A file that cannot be opened is a fault with file, line and reason; the history before it goes on."""
    case = Case(folder, network, START + TFTP)
    assert case.reload(START + TFTP + "history: {path: none/x.sqlite}\n") == (
        f"{folder}/x.yaml:5: history.path: {folder}/none/x.sqlite: No such file or directory",
    )
    assert [each["event"] for each in found(case)] == ["listening", "started", "refused-reload"]
    case.server.stopService()


def test_slowDisk() -> None:
    """A disk that does not answer does not hold up the end of the process for longer than two seconds."""
    clock = Clock()
    kept = Histories(clock)
    kept._history = histories.History(clock, lambda function: Deferred(), histories.Store(None, 1.0, 1 << 20))
    kept({"event": "refused", "log_level": LogLevel.info, "log_time": 1.0})
    closed: list[None] = []
    kept.close().addCallback(closed.append)
    clock.advance(histories.PATIENCE - 0.1)
    assert closed == []
    clock.advance(DELAY)
    assert closed == [None]


def test_noServer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no server answers, its usual file is read; where there is none, that is said."""
    monkeypatch.setattr(command, "DEFAULT_FILE", str(tmp_path / "usual.sqlite"))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    asked = ["history", "--control", str(tmp_path / "control")]
    said = CliRunner().invoke(main.main, asked)
    assert (said.exit_code, "no answer" in said.stderr) == (1, True)
    histories.Store(str(tmp_path / "usual.sqlite"), 1.0, 1 << 20).close()
    said = CliRunner().invoke(main.main, asked)
    assert (said.exit_code, said.stdout, said.stderr.splitlines()[-1]) == (0, "", "nothing")
    (tmp_path / "usual.sqlite").write_bytes(b"x" * 5000)
    said = CliRunner().invoke(main.main, asked)
    assert (said.exit_code, "file is not a database" in said.stderr) == (1, True)


@pytest.mark.parametrize("answer", [b'{"error": "the history is closed"}\n', b"", b"no JSON\n"])
def test_serverThatFails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """Where a server listens and does not tell its history, that is said; the usual file may be that of another."""
    histories.Store(str(tmp_path / "usual.sqlite"), 1.0, 1 << 20).close()
    monkeypatch.setattr(command, "DEFAULT_FILE", str(tmp_path / "usual.sqlite"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "control"))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        said = CliRunner().invoke(main.main, ["history", "--control", str(tmp_path / "control")])
        serving.join(20)
    assert (said.exit_code, said.stdout, str(tmp_path / "usual.sqlite") in said.stderr) == (1, "", False)


def test_closedToThisUser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control socket that this user may not use is a fault, and no reason to read a file."""
    histories.Store(str(tmp_path / "usual.sqlite"), 1.0, 1 << 20).close()
    monkeypatch.setattr(command, "DEFAULT_FILE", str(tmp_path / "usual.sqlite"))

    def connect(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(control_.socket.socket, "connect", connect)
    said = CliRunner().invoke(main.main, ["history", "--control", "x"])
    assert (said.exit_code, "ask as root" in said.stderr) == (1, True)


@pytest.mark.parametrize("client", ["pc7", "10.0.0", "10.0.0.0/24", "52:54:00"])
def test_noMachine(client: str) -> None:
    """What names no machine is wrong usage: "nothing" would mean that the machine has never asked."""
    said = CliRunner().invoke(main.main, ["history", "--client", client])
    assert (said.exit_code, f"{client} is neither an address nor a MAC" in said.stderr) == (2, True)


def ask(port: int, name: bytes) -> bytes:
    """Ask for a file of one block, and acknowledge it.  -> the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.sendto(b"\0\1" + name + b"\0octet\0", ("127.0.0.1", port))
        datagram, peer = client.recvfrom(600)
        client.sendto(b"\0\4\0\1", peer)
        return datagram


@pytest.mark.slow
def test_process(folder: Path) -> None:
    """A process that is killed has lost at most what came in the last half second; the next one goes on."""
    (folder / "boot" / "small").write_bytes(b"x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "x.yaml").write_text(
        f"{START}transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\ncontrol: {{path: control}}\n"
    )
    state = {"STATE_DIRECTORY": str(folder)}
    with running("-m", "castd", "serve", folder / "x.yaml", **state) as process:
        until(process, "listens at")
        assert ask(port, b"small") == b"\0\3\0\1x"
        assert ask(port, b"none")[:4] == b"\0\5\0\1"
        # The event of a file that is not there waits for a name like it, and the answer does not.
        asked = ("history", "--control", folder / "control")
        eventually(lambda: "none:" in castd(*asked, "--client", "127.0.0.1"), "the refusal", 20)
        lines = castd(*asked, "--client", "127.0.0.1")
        assert (lines.count("\n"), "small: complete" in lines, "none: File not found" in lines) == (2, True, True)
        process.kill()
        process.wait(timeout=30)
    assert castd("history", "--file", folder / histories.FILE, "--client", "127.0.0.1") == lines
    with running("-m", "castd", "serve", folder / "x.yaml", **state) as process:
        until(process, "listens at")
        assert ask(port, b"gone")[:4] == b"\0\5\0\1"
        eventually(lambda: "gone" in castd(*asked), "the refusal", 20)
        told = castd(*asked, "--failed", "--json").splitlines()
        assert [json.loads(line)["name"] for line in told] == ["none", "gone"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
