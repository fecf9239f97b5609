"""A disk that takes eight seconds for whatever it is asked delays those who ask it, and nobody else, nor a stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import pytest
import yaml

from tests.support.jobs import ROOT, Job, eventually
from tests.support.lab.castd import command, listening
from tests.support.needs import lack, needRoot
from tests.support.world import free

pytestmark = [pytest.mark.e2e, pytest.mark.root]

DELAY = 8.0
SIZE = 200_000
SMALL = 20_000
WATCHED = 12.0
"""Seconds for which the others are watched while the disk is slow."""
WORST = 0.1
"""Seconds that any answer may take, without those that the machine has taken from castd meanwhile (L{Control})."""
PAUSE = 0.005
"""Seconds between two questions to the control."""
ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    while True:
        server.sendto(*server.recvfrom(100))
"""

Interval: TypeAlias = tuple[float, float]
"""When something began, and when it ended."""


class Disk:
    """A slow disk that is mounted."""

    def __init__(self, place: Path, log: Path) -> None:
        place.mkdir()
        self.place = place
        self._job = Job([sys.executable, "-m", "tests.support.slow_disk", str(place)], log, ROOT)
        eventually(lambda: self._job.process.poll() is not None or "ready" in self._job.text(), "the mount", 10)
        if self._job.process.poll() is not None:
            lack(f"FUSE cannot be mounted here: {self._job.text()[-500:]}")
        self._told = 0

    def tell(self, line: str) -> None:
        """Tell it something, and wait until it is done."""
        self._told += 1
        self._job.say(f"{line}\n")
        eventually(lambda: self._job.text().count("done") == self._told, line, 10)

    def end(self) -> None:
        """Have it unmounted."""
        assert self._job.process.stdin is not None
        self._job.process.stdin.close()
        self._job.finish(10)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    needRoot()
    if not Path("/dev/fuse").exists():
        lack("no /dev/fuse")
    made = Disk(tmp_path / "slow", tmp_path / "disk.log")
    try:
        yield made
    finally:
        made.end()


class Control:
    """
    Tells what the machine takes from castd, whatever castd does.

    A thread beside those of castd's clients asks a process that does nothing but answer at once, by a datagram as they
    do, again and again.  What that takes beyond the pause between two questions was lost by waiting for a processor or
    for this process's other threads, which castd's clients wait for, too.  A process that has more to do waits more;
    so, if that is more, the kernel's own account counts instead: for how long castd's loop was ready to run and had to
    wait (C{/proc/PID/schedstat}).  Waiting for a disk, a lock or a signal is in neither, and is castd's.

    @ivar lost: from the end of one answer to that of the next one, and how many seconds of that were lost.
    """

    def __init__(self, folder: Path, castd: int) -> None:
        self.job = Job([sys.executable, "-c", ECHO], folder / "control.log", ROOT)
        self.job.until("\n", 10)
        self.lost: list[tuple[Interval, float]] = []
        self._account = Path(f"/proc/{castd}/schedstat")
        self._waited = 0.0
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ask until the context is left."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def without(self, answer: Interval) -> float:
        """Return how long an answer has taken, without what was lost meanwhile."""
        began, ended = answer
        return ended - began - sum(lost for (first, last), lost in self.lost if first < ended and last > began)

    def _watch(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", int(self.job.text())))
            client.settimeout(60)
            self._waitedMeanwhile()
            ended = time.monotonic()
            while not self._over.is_set():
                began = ended
                time.sleep(PAUSE)
                client.send(b"?")
                client.recv(100)
                waited = self._waitedMeanwhile()
                ended = time.monotonic()
                self.lost.append(((began, ended), max(ended - began - PAUSE, waited)))

    def _waitedMeanwhile(self) -> float:
        """Return for how many seconds castd's loop has waited for a processor since this was asked before."""
        before = self._waited
        # A kernel may keep no such account.
        with suppress(OSError, IndexError):
            self._waited = int(self._account.read_text().split()[1]) / 1e9
        return self._waited - before


class Castd:
    """
    A server with a directory on the slow disk, another, and a place for uploads on each.

    @ivar data: the octets of C{file} in the quick directory.
    """

    def __init__(self, folder: Path, slow: Path, quick: Path) -> None:
        """
        @param folder: for what is written: uploads, which are synced to their disk, and the log.
        """
        for made in (quick, folder / "in"):
            made.mkdir()
        self.data = os.urandom(SMALL)
        (quick / "file").write_bytes(self.data)
        self.port, web = free(2)
        self.control = folder / "control"
        self.service = folder / "castd.yaml"
        self.service.write_text(
            yaml.safe_dump(
                {
                    "castd": 1,
                    "content": [
                        {"directory": {"path": str(slow), "under": "slow"}},
                        {"directory": {"path": str(quick)}},
                    ],
                    "uploads": [
                        {"directory": {"path": str(slow), "under": "slow", "keep-free": 0}},
                        {"directory": {"path": str(folder / "in"), "keep-free": 0, "policy": "overwrite"}},
                    ],
                    "access": [{"allow": "any"}],
                    "limits": {"per-peer": 4096, "new-per-peer": "10000/s", "drain": "1 s"}
                    | {"errors-per-peer": "1000/s", "errors": "1000/s"},
                    "metrics": {"listen": f"127.0.0.1:{web}"},
                    "control": {"path": str(self.control)},
                    "transports": {"tftp": {"port": self.port, "interface": "127.0.0.1"}},
                }
            )
        )
        self.page = f"http://127.0.0.1:{web}"
        cwd = folder if "CASTD_COMMAND" in os.environ else ROOT
        self.job = Job([*command(), "serve", "-c", str(self.service)], folder / "castd.log", cwd)
        eventually(lambda: ("127.0.0.1", self.port) in listening(self.job.pid), "castd", 15)

    def web(self, name: str) -> int:
        """Return the status of a page."""
        try:
            with urllib.request.urlopen(f"{self.page}/{name}", timeout=30) as answer:
                status: int = answer.status
                return status
        except urllib.error.HTTPError as error:
            return error.code

    def isGone(self) -> bool:
        """Return whether another process can have the port, and nobody answers at the control socket."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            try:
                other.bind(("127.0.0.1", self.port))
            except OSError:
                return False
        return not self.control.exists()

    def ask(self, what: str) -> dict[str, object]:
        """Return the answer of the control socket."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(30)
            control.connect(str(self.control))
            control.sendall(json.dumps({"do": what}).encode() + b"\n")
            with control.makefile() as answer:
                found: dict[str, object] = json.loads(answer.read())
                return found


class Transfer:
    """
    One lockstep transfer by a client of few words: it sends each of its datagrams again after two seconds.

    @ivar data: what it has received, or sends.
    @ivar answers: for how long it has waited for each answer.
    """

    def __init__(self, port: int, name: str, data: bytes | None = None) -> None:
        self.answers: list[Interval] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(2)
        self.request = (b"\0\2" if data is not None else b"\0\1") + name.encode() + b"\0octet\0"
        self.to, self.last, self.block = ("127.0.0.1", port), self.request, 0
        self.sends, self.data = data, b"" if data is None else data
        self.over = False
        self.sent = time.monotonic()
        self.socket.sendto(self.request, self.to)

    def step(self, patience: float = 60) -> None:
        """
        Wait for the next datagram that is new, and answer it.

        @raise AssertionError: it has not come in time, or is an ERROR.
        """
        until = time.monotonic() + patience
        while time.monotonic() < until:
            try:
                packet, self.to = self.socket.recvfrom(2048)
            except TimeoutError:
                self.socket.sendto(self.last, self.to)
                continue
            self.answers.append((self.sent, time.monotonic()))
            assert packet[:2] != b"\0\5", packet
            if self.read(packet):
                self.sent = time.monotonic()
                return
        raise AssertionError(f"no answer within {patience} s")

    def read(self, packet: bytes) -> bool:
        """Return whether a packet was new."""
        if self.sends is None:
            if packet[2:4] != ((self.block + 1) & 0xFFFF).to_bytes(2, "big"):
                return False
            self.block += 1
            self.data += packet[4:]
            self.last, self.over = b"\0\4" + packet[2:4], len(packet) < 516
        else:
            if packet[2:4] != (self.block & 0xFFFF).to_bytes(2, "big"):
                return False
            self.over = self.block * 512 > len(self.sends)
            self.block += 1
            payload = self.sends[(self.block - 1) * 512 : self.block * 512]
            self.last = b"\0\3" + (self.block & 0xFFFF).to_bytes(2, "big") + payload
        if not (self.over and self.sends is not None):
            self.socket.sendto(self.last, self.to)
        return True

    def finish(self) -> bytes:
        """Go on to the end.  -> the file."""
        while not self.over:
            self.step()
        self.socket.close()
        return self.data


def watched(seconds: float, works: Sequence[Callable[[], Sequence[Interval]]]) -> list[list[Interval]]:
    """Do each of these again and again, all at once, for so many seconds.  -> for how long each waited, each time."""
    until = time.monotonic() + seconds
    found: list[list[Interval]] = [[] for _ in works]

    def again(work: Callable[[], Sequence[Interval]], answers: list[Interval]) -> None:
        while time.monotonic() < until:
            answers += work()
            time.sleep(0.02)

    threads = [threading.Thread(target=again, args=each) for each in zip(works, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def once(ask: Callable[[], object]) -> list[Interval]:
    """Ask something.  -> for how long it was waited."""
    began = time.monotonic()
    ask()
    return [(began, time.monotonic())]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory: the disk of this machine may be slow, too, and is none that is in the test's hand."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield Path(folder)


def test_nobodyElseNotices(disk: Disk, memory: Path, tmp_path: Path) -> None:
    """
    While twelve ask for files of a slow disk, one is in the middle of a file and one of an upload, everybody who asks
    for files of another disk, uploads to another, or looks at a page, has each answer within a tenth of a second; so
    have reload and status.  When the disk is quick again, whoever has waited gets the rest; and a stop does not wait.
    """
    disk.tell(f"file big {SIZE}")
    castd = Castd(memory, disk.place, tmp_path / "quick")
    control = Control(tmp_path, castd.job.pid)
    with castd.job, control.job:
        middle, sending = Transfer(castd.port, "slow/big"), Transfer(castd.port, "slow/up", b"u" * 500_000)
        for each in (middle, sending):
            for _ in range(20):
                each.step()

        def fetch() -> list[Interval]:
            transfer = Transfer(castd.port, "file")
            assert transfer.finish() == castd.data
            return transfer.answers

        def fail() -> list[Interval]:
            transfer = Transfer(castd.port, "missing")
            with pytest.raises(AssertionError, match="File not found"):
                transfer.finish()
            return transfer.answers

        def put() -> list[Interval]:
            transfer = Transfer(castd.port, "log", castd.data)
            transfer.finish()
            return transfer.answers

        def reload() -> None:
            assert castd.ask("reload") == {"ok": True, "faults": []}

        pages = [partial(once, partial(castd.web, name)) for name in ("healthz", "readyz")]
        works = [fetch, fail, put, *pages, partial(once, partial(castd.ask, "status"))]
        disk.tell(f"delay {DELAY}")
        waiting = [Transfer(castd.port, f"slow/{name}") for name in ("big", "none", "big", "other") * 3]
        halves = [threading.Thread(target=each.finish) for each in (middle, sending)]
        for half in halves:
            half.start()
        with control.watching():
            found = watched(WATCHED, works)
            found.append(once(reload))
        assert min(map(len, found[:-1])) > WATCHED
        worst = [max(map(control.without, answers)) for answers in found]
        assert max(worst) < WORST, worst
        disk.tell("delay 0")
        for half in halves:
            half.join(60)
        assert middle.data == b"x" * SIZE
        assert (disk.place / "up").read_bytes() == b"u" * 500_000
        assert waiting[0].finish() == b"x" * SIZE
        disk.tell(f"delay {DELAY}")
        late = [Transfer(castd.port, "slow/big"), Transfer(castd.port, "slow/new", b"u")]
        time.sleep(0.5)
        castd.job.process.send_signal(signal.SIGTERM)
        # The kernel ends a process only when it has the answer to what a thread has asked of FUSE.
        eventually(castd.isGone, "the ports to be free", DELAY - 2)
        assert castd.job.process.wait(30) == 0
        for each in [*waiting, *late]:
            each.socket.close()
    assert "Traceback" not in castd.job.text()
