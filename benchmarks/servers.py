"""Starts, identifies and ends each server: in the foreground, as a process of its own, the same for all."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = str(Path(__file__).resolve().parent.parent)
"""The castd that is measured is the one these benchmarks came with."""

BESIDE = "castd-beside"
"""The castd of another checkout (C{--beside})."""

SERVICE = """\
castd: 1
logging: {{level: warn}}
content: [{{directory: {{path: {root}}}}}]
access: [{{allow: any}}]
limits: {{casts: 4096, receivers: 8192, per-peer: 8192, new-per-peer: 100000/s}}
transports: {{tftp: {{port: {port}, interface: 127.0.0.1, windowsize: 64}}}}
"""
PYTHON_PEER = (
    "import sys, tftp; "
    "tftp.TFTPServer(sys.argv[1], listen='127.0.0.1', port=int(sys.argv[2]), max_sessions=None).serve_forever()"
)


@dataclass(frozen=True)
class Server:
    """A server that can be measured.

    @ivar kind: C{castd}, C{c} or C{python}.
    @ivar port: where it listens on 127.0.0.1.
    @ivar command: from the served directory and one for its own files, the words that start it.
    @ivar present: whether it is installed.
    @ivar asks: the words that make it tell its version.
    @ivar checkout: the folder whose castd is run.
    """

    name: str
    kind: str
    port: int
    command: Callable[[Path, Path], list[str]]
    present: Callable[[], bool]
    asks: tuple[str, ...]
    checkout: str = CHECKOUT

    def version(self) -> str:
        """@return: the version that the server prints, shortened to the first number with a dot."""
        said = subprocess.run(self.asks, capture_output=True, text=True, check=False, timeout=30)
        found = re.search(r"\d+\.[\w.+-]+", said.stdout + said.stderr)
        return found.group(0).rstrip(".,") if found else "unknown"


class CpuGroup:
    """A control group around one server, which also counts the CPU time of children that have ended (tftpd-hpa has
    one for each transfer and lets the kernel reap them).

    @raise OSError: where control groups cannot be made; without privileges they usually cannot.
    """

    def __init__(self, name: str) -> None:
        old = Path("/sys/fs/cgroup/cpuacct")
        self._old = old.is_dir()
        self.path = (old if self._old else Path("/sys/fs/cgroup")) / f"castd-bench-{os.getpid()}-{name}"
        self.path.mkdir()

    def add(self, pid: int) -> None:
        """Put a process, and what it will fork, into the group."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def members(self) -> list[int]:
        """@return: the processes that live in the group."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def seconds(self) -> float:
        """@return: CPU time, user and system, that the group has used so far."""
        if self._old:
            return int((self.path / "cpuacct.usage").read_text()) * 1e-9
        used = re.search(r"usage_usec (\d+)", (self.path / "cpu.stat").read_text())
        assert used is not None, "cpu.stat always has usage_usec"
        return int(used.group(1)) * 1e-6

    def memory(self) -> float:
        """@return: MiB of anonymous memory; a page that forked processes share is counted once."""
        total = 0
        for pid in self.members():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:  # ended meanwhile
                continue
            found = re.search(r"Pss_Anon:\s+(\d+) kB", rollup)
            total += int(found.group(1)) if found else 0
        return total / 1024


class Running:
    """A server that has been started on one CPU."""

    def __init__(self, server: Server, root: Path, room: Path, cpu: int) -> None:
        self.server = server
        self.log = room / f"{server.name}.log"
        self.group = CpuGroup(server.name)
        words = ["taskset", "--cpu-list", str(cpu), *server.command(root, room)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=room,
                env=os.environ | {"PYTHONPATH": server.checkout},
            )
        self.group.add(self._process.pid)

    def alive(self) -> bool:
        """@return: whether the process that was started still runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the server and its children, each by its own number."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + 5
        while (left := self.group.members()) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.group.path.rmdir()


def castd(name: str, port: int, checkout: str = CHECKOUT) -> Server:
    """@return: the castd of this checkout, or of another one beside it."""

    def command(root: Path, room: Path) -> list[str]:
        file = room / f"{name}.yaml"
        file.write_text(SERVICE.format(root=root, port=port))
        return [sys.executable, "-m", "castd", "serve", "-c", str(file)]

    says = f"import sys; sys.path.insert(0, {checkout!r}); import castd; print(castd.__version__)"
    return Server(name, "castd", port, command, lambda: True, (sys.executable, "-c", says), checkout)


def _hpa(root: Path, room: Path) -> list[str]:
    return ["in.tftpd", "-L", "-u", "root", "-a", "127.0.0.1:7070", "-s", str(root)]


def _atftpd(root: Path, room: Path) -> list[str]:
    words = "atftpd --daemon --no-fork --port 7071 --bind-address 127.0.0.1 --user root --group root --maxthread 8192"
    return [*words.split(), "--verbose=0", "--logfile", str(room / "atftpd.out"), str(root)]


def _dnsmasq(root: Path, room: Path) -> list[str]:
    # Its request port is always 69. --quiet-tftp: no line for each transfer, like the others.
    words = "dnsmasq -k --conf-file=/dev/null --port=0 --enable-tftp --tftp-max=8192 --bind-interfaces --user=root"
    return [*words.split(), "--listen-address=127.0.0.1", f"--tftp-root={root}", "--quiet-tftp", "--pid-file"]


def _python(root: Path, room: Path) -> list[str]:
    return [sys.executable, "-c", PYTHON_PEER, str(root), "7072"]


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _says(package: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"from importlib.metadata import version; print(version({package!r}))")


SERVERS = (
    castd("castd", 7069),
    Server("dnsmasq", "c", 69, _dnsmasq, _program("dnsmasq"), ("dnsmasq", "--version")),
    Server("atftpd", "c", 7071, _atftpd, _program("atftpd"), ("atftpd", "--version")),
    Server("tftpd-hpa", "c", 7070, _hpa, _program("in.tftpd"), ("in.tftpd", "-V")),
    Server("tftp", "python", 7072, _python, _module("tftp"), _says("tftp")),
)
