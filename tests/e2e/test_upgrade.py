"""
A new castd takes over from a running one, under load: nobody who asks is refused, kept waiting or cut off.

Every client of the load asks once and never again.  On the loopback interface nothing gets lost, so whoever is not
answered was forgotten by castd.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.jobs import eventually, free
from tests.support.lab.castd import TREE, command

pytestmark = pytest.mark.e2e

ADDRESS, ANOTHER = "127.0.0.1", "127.0.0.2"
CLIENT = Path(__file__).parents[1] / "support" / "clients" / "slam_client.py"
SMALL = bytes(range(256)) * 10
LARGE = os.urandom(1000 * 512 + 100)
IMAGE = os.urandom(2 << 20)
PATIENCE = 30.0
"""Seconds that anything may take; a limit for what hangs, and nothing that is measured."""
CROWD, PERIOD = 16, 0.1
"""Clients at once, and seconds that each waits before it is the next: more than a hundred requests a second."""


def rrq(name: str, *options: str) -> bytes:
    return b"\0\1" + b"\0".join(text.encode() for text in (name, "octet", *options)) + b"\0"


def udp(address: str = ADDRESS) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 0))
    made.settimeout(PATIENCE)
    return made


def hears(group: tuple[str, int]) -> socket.socket:
    """Return a socket that has joined this group."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(group)
    membership = socket.inet_aton(group[0]) + socket.inet_aton(ADDRESS)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("8s", membership))
    made.settimeout(PATIENCE)
    return made


class Running:
    """castd, through all the processes that it is one after the other."""

    def __init__(self, folder: Path, code: Path | None = None) -> None:
        """
        @param code: the folder that its code is imported from; None: as L{command} has it.
        """
        self.folder, self.control, self.log = folder, folder / "control", folder / "log"
        self.command = command() if code is None else [sys.executable, "-m", "castd"]
        self.place: dict[str, Any] = {"cwd": TREE}
        if code is not None:
            self.place = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(code)}}
        (folder / "boot").mkdir()
        (folder / "drop").mkdir()
        for name, body in (("small", SMALL), ("large", LARGE), ("image", IMAGE)):
            (folder / "boot" / name).write_bytes(body)
        one, other, single, mtftp, slam, group, *more = free(*[socket.SOCK_DGRAM] * 8, socket.SOCK_STREAM)
        self.multicast, self.data, self.web = more
        self.plain, self.single, self.mtftp, self.slam = (one, other), single, mtftp, slam
        self.groups = {"mtftp": ("239.255.1.1", group), "slam": ("239.255.1.2", slam)}
        self.write()
        with self.log.open("wb") as log:
            self.first = subprocess.Popen(
                [*self.command, "serve", "-c", str(folder / "castd.yaml")], stdout=log, stderr=log, **self.place
            )
        eventually(lambda: self.said("slam listens at") or self.first.poll() is not None, "castd to listen", PATIENCE)
        eventually(self.control.exists, "the control socket", PATIENCE)
        self.pids = [self.first.pid]

    def write(self, **more: Any) -> None:
        places = {name: f"{host}:{port}" for name, (host, port) in self.groups.items()}
        service = {
            "castd": 1,
            "content": [{"directory": {"path": "boot"}}],
            "uploads": [{"directory": {"path": "drop", "policy": "overwrite"}}],
            "access": [{"allow": "any"}],
            "limits": {"per-peer": 4096, "new-per-peer": "10000/s", "drain": "60 s"},
            "metrics": {"listen": f"{ADDRESS}:{self.web}"},
            "control": {"path": str(self.control)},
            "transports": {
                "one": {"use": "tftp", "port": self.plain[0], "interface": ADDRESS},
                "other": {"use": "tftp", "port": self.plain[1], "interface": ADDRESS},
                "single": {"use": "tftp", "port": self.single, "interface": ADDRESS, "single-port": True},
                "mtftp": {"port": self.mtftp, "interface": ADDRESS, "files": {"large": places["mtftp"]}},
                "slam": {
                    "port": self.slam,
                    "interface": ADDRESS,
                    "file": "image",
                    "group": places["slam"],
                    "rate": "250 kB/s",
                },
                "multicast": {
                    "port": self.multicast,
                    "interface": ADDRESS,
                    "groups": "239.255.7.0/31",
                    "data-port": self.data,
                    "clients": "any",
                },
            },
            **more,
        }
        (self.folder / "castd.yaml").write_text(yaml.safe_dump(service, sort_keys=False))

    def said(self, words: str) -> int:
        """Return how often the log says that."""
        return self.log.read_text().count(words)

    def castd(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *words, "--control", str(self.control)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            **self.place,
        )

    def upgrade(self, *busy: Any) -> None:
        """Upgrade it, while these go on with a block now and then."""
        with subprocess.Popen(
            [*self.command, "upgrade", "--control", str(self.control)], stderr=subprocess.PIPE, text=True, **self.place
        ) as upgrading:
            while upgrading.poll() is None:
                for each in busy:
                    each.take(1)
                time.sleep(PERIOD)
            assert upgrading.stderr is not None
            assert (upgrading.returncode, upgrading.stderr.read()) == (0, "")

    def status(self) -> dict[str, Any]:
        """As ``castd status`` has it; the socket itself moves from one process to the next."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.castd("status", "--json")
            if answer.stdout or time.monotonic() > deadline:
                found: dict[str, Any] = json.loads(answer.stdout)
                if found["pid"] not in self.pids:
                    self.pids.append(found["pid"])
                return found

    def alone(self) -> None:
        """Wait until the process before has ended."""
        eventually(lambda: self.status()["before"] is None, "the old process to end", PATIENCE)

    def end(self) -> None:
        """By SIGTERM, and whatever is left then by force."""
        if self.control.exists():
            with suppress(Exception):
                self.status()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            with suppress(Exception):
                eventually(lambda: not any(map(alive, self.pids)), "castd to end", PATIENCE)
        self.first.wait(PATIENCE)


def alive(pid: int) -> bool:
    """Is it running?  Whom nobody buries is dead all the same."""
    try:
        return state(pid) != "Z"
    except FileNotFoundError:
        return False


def state(pid: int) -> str:
    """Return the letter that the kernel has for the state of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def castd(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.end()
    for sign in ("Traceback", "Unhandled", "event=fault"):
        assert sign not in running.log.read_text()


class Fetch:
    """One small transfer; it asks once."""

    def __init__(self, port: int) -> None:
        self.port, self.body, self.began = port, b"", time.monotonic()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.sendto(rrq("small"), (ADDRESS, port))

    def hear(self) -> str | None:
        """Return what came of it; None: it goes on."""
        datagram, peer = self.socket.recvfrom(600)
        if datagram[:2] != b"\0\3":
            return f"{self.port}: {datagram!r}"
        if int.from_bytes(datagram[2:4]) == len(self.body) // 512 + 1:
            self.body += datagram[4:]
        self.socket.sendto(b"\0\4" + datagram[2:4], peer)
        if len(datagram) == 516:
            return None
        return "" if self.body == SMALL else f"{self.port}: a wrong file of {len(self.body)} octets"


class Load:
    """A steady load of small transfers at several ports, in a thread of its own."""

    def __init__(self, ports: tuple[int, ...]) -> None:
        self.ports, self.done, self.faults, self.longest = ports, 0, [], 0.0
        self._over = False
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run)

    faults: list[str]

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        due = [time.monotonic() + PERIOD * each / CROWD for each in range(CROWD)]
        begun = 0
        while not self._over or self._selector.get_map():
            now = time.monotonic()
            while due and due[0] <= now and not self._over:
                due.pop(0)
                fetch = Fetch(self.ports[begun % len(self.ports)])
                begun += 1
                self._selector.register(fetch.socket, selectors.EVENT_READ, fetch)
            for key, _ in self._selector.select(0.01):
                self._step(key.data, due)
            for key in list(self._selector.get_map().values()):
                if now - key.data.began > PATIENCE:
                    self._ended(key.data, f"{key.data.port}: no end, {len(key.data.body)} octets came", due)

    def _step(self, fetch: Fetch, due: list[float]) -> None:
        outcome = fetch.hear()
        if outcome is not None:
            self._ended(fetch, outcome, due)

    def _ended(self, fetch: Fetch, fault: str, due: list[float]) -> None:
        self._selector.unregister(fetch.socket)
        fetch.socket.close()
        self.longest = max(self.longest, time.monotonic() - fetch.began)
        due.append(time.monotonic() + PERIOD)
        if fault:
            self.faults.append(fault)
        else:
            self.done += 1


class Slow:
    """A transfer that goes as far as it is told to; its ACK says what it has."""

    def __init__(self, port: int, group: tuple[str, int] | None = None, address: str = ADDRESS) -> None:
        """
        @param group: MTFTP: where the blocks come, but for the first.
        @param address: of the client; one that comes from another port of the same has restarted, to MTFTP.
        """
        self.own, self.body = udp(address), b""
        self.heard = self.own
        if group is not None:
            self.heard = hears(group)
        self.own.sendto(rrq("large"), (ADDRESS, port))

    def master(self) -> None:
        """MTFTP: take block 1, by which the server says that we are the one who acknowledges."""
        self.peer = self.own.recvfrom(600)[1]

    def take(self, blocks: int) -> Slow:
        """So many blocks, each acknowledged, or all there are."""
        for _ in range(blocks):
            if self.step():
                break
        return self

    def step(self) -> bool:
        """Return whether that was the last."""
        wanted = len(self.body) // 512 + 1
        while True:
            datagram, peer = self.heard.recvfrom(600)
            if self.heard is self.own:
                self.peer = peer
            assert datagram[:2] == b"\0\3", datagram
            if int.from_bytes(datagram[2:4]) == wanted:
                break
        self.body += datagram[4:]
        self.own.sendto(b"\0\4" + datagram[2:4], self.peer)
        return len(datagram) < 516

    def finish(self) -> bytes:
        while not self.step():
            pass
        self.own.close()
        self.heard.close()
        return self.body


class Sent:
    """An upload that goes as far as it is told to."""

    def __init__(self, port: int) -> None:
        self.own, self.number = udp(), 0
        self.own.sendto(b"\0\2" + b"up\0octet\0", (ADDRESS, port))
        self._confirmed()

    def _confirmed(self) -> None:
        while True:
            answer, self.peer = self.own.recvfrom(600)
            assert answer[:2] == b"\0\4", answer
            if int.from_bytes(answer[2:4]) == self.number:
                return

    def take(self, blocks: int) -> Sent:
        """So many blocks."""
        for _ in range(blocks):
            data = LARGE[self.number * 512 :][:512]
            self.number += 1
            self.own.sendto(b"\0\3" + self.number.to_bytes(2) + data, self.peer)
            self._confirmed()
        return self

    def finish(self, drop: Path) -> bytes:
        self.take(len(LARGE) // 512 + 1 - self.number)
        self.own.close()
        return (drop / "up").read_bytes()


def slam(castd: Running, interface: str, output: Path) -> subprocess.Popen[str]:
    """An independent SLAM client begins."""
    host, port = castd.groups["slam"]
    words = ["--server", f"{ADDRESS}:{castd.slam}", "--group", f"{host}:{port}", "--interface", interface]
    more = ["--limit", str(2 * PATIENCE), "--output", str(output)]
    return subprocess.Popen([sys.executable, CLIENT, *words, *more], stdout=subprocess.PIPE, text=True)


def test_underLoad(castd: Running, tmp_path: Path) -> None:
    """
    Three upgrades under more than a hundred requests a second, with transfers of every kind in their middle, those that
    live on the listening port among them: each request is answered though it is sent once, each copy is right, those
    who come to a group of the old process are taken in there, and each old process ends by itself.
    """
    copies = [tmp_path / f"copy{each}" for each in range(2)]
    with Load((*castd.plain, castd.single)) as load:
        for nth in range(3):
            before = castd.status()["pid"]
            slow = [Slow(castd.plain[0]).take(10), Slow(castd.single).take(10)]
            upload = Sent(castd.single).take(10)
            master = Slow(castd.mtftp, castd.groups["mtftp"])
            master.master()
            master.take(10)
            listed = [slam(castd, ADDRESS, copies[0])]
            eventually(lambda: any(each["transport"] == "slam" for each in casts(castd)), "SLAM to begin", PATIENCE)
            castd.upgrade(*slow, upload, master)
            late = Slow(castd.mtftp, castd.groups["mtftp"], ANOTHER)
            listed.append(slam(castd, ANOTHER, copies[1]))
            assert master.finish() == LARGE
            late.master()
            assert late.finish() == LARGE
            assert [each.finish() == LARGE for each in slow] == [True, True]
            assert upload.finish(tmp_path / "drop") == LARGE
            assert [each.wait(2 * PATIENCE) for each in listed] == [0, 0]
            assert [copy.read_bytes() == IMAGE for copy in copies] == [True, True]
            castd.alone()
            assert castd.status()["pid"] != before
            eventually(lambda pid=before: not alive(pid), "the old process to end", PATIENCE)
            assert castd.said("all transfers of this process have ended") == nth + 1
    assert castd.first.wait(PATIENCE) == 0
    assert (load.faults, load.done > 500) == ([], True)
    assert load.longest < PATIENCE


def casts(castd: Running) -> list[dict[str, Any]]:
    return [cast for address in castd.status()["addresses"] for cast in address["casts"]]


def test_refused(castd: Running) -> None:
    """With a fault in the service file the command tells it, with status 1, and the server goes on as it was."""
    slow, before = Slow(castd.single).take(10), castd.status()["pid"]
    castd.write(limits={"casts": 0})
    told = castd.castd("upgrade")
    assert (told.returncode, told.stdout) == (1, "")
    assert re.search(r"castd\.yaml:\d+: limits\.casts: 0 is not at least 1\n$", told.stderr), told.stderr
    castd.write(transports={"tftp": {"port": 1, "interface": "192.0.2.1"}})
    told = castd.castd("upgrade")
    assert (told.returncode, "192.0.2.1:1 is not ours" in told.stderr) == (1, True), told.stderr
    now = castd.status()
    assert (now["pid"], now["state"], now["before"]) == (before, "serving", None)
    assert slow.finish() == LARGE
    assert Slow(castd.plain[0]).finish() == LARGE
    assert castd.said("refused-upgrade") == 0
    assert castd.said("no upgrade (1 of 1)") == 2


def test_takenBack(castd: Running) -> None:
    """If the new process dies while the old one still serves, the old one reads its ports again; so does the next."""
    slow, before = [Slow(castd.plain[0]).take(10), Slow(castd.single).take(10)], castd.status()["pid"]
    castd.upgrade(*slow)
    new = castd.status()["pid"]
    told = castd.castd("upgrade")
    assert (told.returncode, f"({before}) has not finished its transfers yet" in told.stderr) == (1, True)
    os.kill(new, signal.SIGKILL)
    eventually(lambda: castd.said("which had taken over, has ended"), "the old process to go on", PATIENCE)
    assert castd.status()["pid"] == before
    assert [Slow(port).finish() == LARGE for port in (*castd.plain, castd.single)] == [True] * 3
    castd.upgrade(*slow)
    assert [each.finish() == LARGE for each in slow] == [True, True]
    castd.alone()
    assert castd.first.wait(PATIENCE) == 0
    assert castd.status()["pid"] not in (before, new)


#: Stops a new process, while the file is there, once a message has gone through the channel: the first that a call of
#: this name moves.
STOPS = """
import os, signal, socket

if "CASTD_ELDER" in os.environ and os.path.exists({file!r}):
    call = getattr(socket.socket, {call!r})

    def stopping(end, first, *rest):
        result = call(end, first, *rest)
        moved = b"".join(first) if {call!r} == "sendmsg" else result[0]
        if moved.startswith(b'{{"say": "{word}"'):
            os.kill(os.getpid(), signal.SIGSTOP)
        return result

    setattr(socket.socket, {call!r}, stopping)
"""


@pytest.mark.parametrize(("call", "word"), [("sendmsg", "ready"), ("recvmsg", "state"), ("recvmsg", "read")])
def test_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, word: str) -> None:
    """
    A new process that hangs once it has said that it is ready is killed; the old one answers what has come
    meanwhile, serves on, and can be upgraded.
    """
    (tmp_path / "site").mkdir()
    file = tmp_path / "hang"
    (tmp_path / "site" / "sitecustomize.py").write_text(STOPS.format(file=str(file), call=call, word=word))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    castd = Running(tmp_path)
    try:
        slow, before = Slow(castd.single).take(10), castd.status()["pid"]
        file.touch()
        children = Path(f"/proc/{before}/task/{before}/children")
        words = [*castd.command, "upgrade", "--control", str(castd.control)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **castd.place) as upgrading:
            eventually(lambda: children.read_text().split(), "the new process", PATIENCE)
            (new,) = map(int, children.read_text().split())
            castd.pids.append(new)
            eventually(lambda: state(new) == "T", "it to hang", PATIENCE)
            asked = [Slow(port) for port in (*castd.plain, castd.single)]
            assert [each.finish() == LARGE for each in asked] == [True] * 3
            told = upgrading.communicate(timeout=PATIENCE)[1]
        assert (upgrading.returncode, "did not take over within 4 s, though it was ready" in told) == (1, True), told
        assert not alive(new)
        now = castd.status()
        assert (now["pid"], now["state"], now["before"]) == (before, "serving", None)
        file.unlink()
        castd.upgrade(slow)
        assert slow.finish() == LARGE
        castd.alone()
        assert castd.first.wait(PATIENCE) == 0
        assert castd.status()["pid"] not in (before, new)
    finally:
        castd.end()
    for sign in ("Traceback", "Unhandled", "event=fault"):
        assert sign not in castd.log.read_text()


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5])
def test_killed(castd: Running, delay: float) -> None:
    """If the old process is killed at any moment of an upgrade, the new one serves, in full."""
    old = castd.first.pid
    os.kill(old, signal.SIGUSR2)
    children = Path(f"/proc/{old}/task/{old}/children")
    eventually(lambda: children.read_text().split(), "the new process", PATIENCE)
    (new,) = map(int, children.read_text().split())
    castd.pids.append(new)
    # The moments are spread over the start of the new process, however long that takes here.
    time.sleep(delay)
    os.kill(old, signal.SIGKILL)
    castd.first.wait(PATIENCE)

    def serves() -> bool:
        answer = castd.castd("status", "--json")
        return bool(answer.stdout) and json.loads(answer.stdout)["state"] == "serving"

    eventually(lambda: serves() or not alive(new), "the new process to serve", PATIENCE)
    assert alive(new), castd.log.read_text()
    assert castd.status()["pid"] == new
    assert [Slow(port).finish() == LARGE for port in (*castd.plain, castd.single)] == [True] * 3
    castd.alone()


def test_stopped(castd: Running) -> None:
    """SIGTERM to the new process ends the old one as well, when its transfers are over."""
    slow = Slow(castd.single).take(10)
    castd.upgrade(slow)
    new = castd.status()["pid"]
    os.kill(new, signal.SIGTERM)
    assert slow.take(20).finish() == LARGE
    assert castd.first.wait(PATIENCE) == 0
    eventually(lambda: not alive(new), "the new process to end", PATIENCE)
    assert not castd.control.exists()


def test_bySignal(castd: Running) -> None:
    """SIGUSR2 is the same as `castd upgrade`; what another service file says is in force then."""
    before = castd.status()["pid"]
    castd.write(content=[{"directory": {"path": "boot", "under": "moved"}}])
    os.kill(before, signal.SIGUSR2)
    assert castd.first.wait(PATIENCE) == 0
    assert castd.status()["pid"] != before
    with udp() as client:
        client.sendto(rrq("moved/small"), (ADDRESS, castd.plain[0]))
        assert client.recv(600)[4:] == SMALL[:512]


def test_history(castd: Running) -> None:
    """
    The history goes on in one file: what was before an upgrade, what the old process has served to its end beside the
    new one, and what came after; no transfer is missing, and none is there twice.
    """
    castd.write(history={"path": str(castd.folder / "history.sqlite")})
    assert castd.castd("reload").returncode == 0
    assert Slow(castd.plain[0]).finish() == LARGE
    slow = Slow(castd.single).take(10)
    castd.upgrade(slow)
    assert Slow(castd.plain[1]).finish() == LARGE
    assert slow.finish() == LARGE
    castd.alone()
    assert Slow(castd.plain[0]).finish() == LARGE
    told = [json.loads(line) for line in castd.castd("history", "--json").stdout.splitlines()]
    received = [(each["fields"]["transport"], each["times"]) for each in told if each["event"] == "received"]
    assert sorted(received) == [("one", 1), ("one", 1), ("other", 1), ("single", 1)]
    pids = [each["fields"]["pid"] for each in told if each["event"] == "started"]
    assert pids == [castd.status()["pid"]]
    assert castd.status()["history"] == {"path": str(castd.folder / "history.sqlite"), "lost": 0}
