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
from dataclasses import dataclass, field, replace
from pathlib import Path

from workloads import Workload

CHECKOUT = str(Path(__file__).resolve().parent.parent)
"""The castd that is measured is the one these benchmarks came with."""

BESIDE = "castd-beside"
"""The castd of another checkout (C{--beside})."""

NATIVE = "castd-native"
"""This castd with its native loop; C{castd} is the one without."""

CASTDS = ("castd", NATIVE, BESIDE)

#: All transfers come from one address: what keeps one address from taking the whole server is raised.
SERVICE = """\
castd: 1
logging: {{level: {level}{logging}}}
content: [{{directory: {{path: {root}}}}}]
uploads: [{{directory: {{path: {root}}}}}]
access: [{{allow: any}}]
limits: {{casts: 4096, receivers: 8192, per-peer: 8192, new-per-peer: 100000/s{limits}}}
{extra}transports:
{groups}  tftp: {{port: {port}, interface: 127.0.0.1, windowsize: 64}}
"""
#: In front of C{tftp}, for workloads with groups alone.
GROUPS = "  multicast: {{port: {port}, interface: 127.0.0.1, groups: 239.255.32.0/24, clients: any}}\n"
PYTHON_PEER = (
    "import sys, tftp; "
    "tftp.TFTPServer(sys.argv[1], listen='127.0.0.1', port=int(sys.argv[2]), max_sessions=None, writable=True)"
    ".serve_forever()"
)
CEILING_PORT = 7074


@dataclass(frozen=True)
class Server:
    """A server that can be measured.

    @ivar kind: C{castd}, C{c}, C{python} or C{ceiling}.
    @ivar port: where it listens on 127.0.0.1.
    @ivar command: from the served directory, one for its own files, and whether groups are wanted, the words that
        start it.
    @ivar present: whether it is installed.
    @ivar asks: the words that make it tell its version.
    @ivar checkout: the folder whose castd is run.
    @ivar kinds: the kinds of workload that it can do; that of a window is found by asking.
    @ivar environment: variables of its own.
    """

    name: str
    kind: str
    port: int
    command: Callable[[Path, Path, bool], list[str]]
    present: Callable[[], bool]
    asks: tuple[str, ...]
    checkout: str = CHECKOUT
    kinds: frozenset[str] = frozenset({"read", "put"})
    environment: dict[str, str] = field(default_factory=dict)

    def does(self, workload: Workload) -> bool:
        """@return: whether the server can take part; the ceiling has no timer that would be worth a comparison."""
        return workload.kind in self.kinds and not (self.kind == "ceiling" and workload.loss)

    def version(self) -> str:
        """@return: the version that the server prints, shortened to the first number with a dot, and the Python."""
        said = subprocess.run(self.asks, capture_output=True, text=True, check=False, timeout=30)
        found = re.search(r"\d+\.[\w.+-]+( by Python [\d.]+)?", said.stdout + said.stderr)
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

    def __init__(self, server: Server, root: Path, room: Path, cpu: int, groups: bool = False) -> None:
        self.server = server
        self.log = room / f"{server.name}.log"
        self.group = CpuGroup(server.name)
        words = ["taskset", "--cpu-list", str(cpu), *server.command(root, room, groups)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=room,
                env=os.environ | {"PYTHONPATH": server.checkout} | server.environment,
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


def castd(
    name: str,
    port: int,
    checkout: str = CHECKOUT,
    native: bool = False,
    level: str = "warn",
    logging: str = "",
    extra: str = "",
    limits: str = "",
) -> Server:
    """
    @param native: with its native loop, which is turned off else.
    @param level: from where on is logged; C{logging}: more of its keys, in front of each a comma.
    @param extra: lines of the service file. In both, C{{room}} is a folder of its own.
    @param limits: more of its limits, in front of each a comma.
    @return: the castd of this checkout, or of another one beside it, which its own Python runs if it has one in
        C{.venv}.
    """
    own = Path(checkout, ".venv", "bin", "python")
    program = str(own) if checkout != CHECKOUT and own.exists() else sys.executable

    def command(root: Path, room: Path, groups: bool) -> list[str]:
        file = room / f"{name}.yaml"
        front = GROUPS.format(port=port) if groups else ""
        more = {"logging": logging.format(room=room), "extra": extra.format(room=room)}
        file.write_text(SERVICE.format(root=root, port=port, groups=front, level=level, limits=limits, **more))
        return [program, "-m", "castd", "serve", "-c", str(file)]

    by = (
        "f'{castd.__version__} by Python {sys.version.split()[0]}'"
        if program != sys.executable
        else "castd.__version__"
    )
    says = f"import sys; sys.path.insert(0, {checkout!r}); import castd; print({by})"
    return Server(
        name,
        "castd",
        port,
        command,
        lambda: True,
        (program, "-c", says),
        checkout,
        frozenset({"read", "put", "group"}),
        {} if native else {"CASTD_NATIVE": "0"},
    )


def hasNative(checkout: str = CHECKOUT) -> bool:
    """@return: whether castd says that it has a native loop, and says it no more when that is turned off."""

    def said(native: str) -> str:
        words = [sys.executable, "-m", "castd", "--version"]
        environment = {**os.environ, "PYTHONPATH": checkout, "CASTD_NATIVE": native}
        if native != "0":
            del environment["CASTD_NATIVE"]
        ran = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=checkout
        )
        return ran.stdout + ran.stderr

    told = said("")
    return "native" in told and told != said("0")


def _hpa(root: Path, room: Path, groups: bool) -> list[str]:
    return ["in.tftpd", "-L", "-c", "-u", "root", "-a", "127.0.0.1:7070", "-s", str(root)]


def _atftpd(root: Path, room: Path, groups: bool) -> list[str]:
    words = "atftpd --daemon --no-fork --port 7071 --bind-address 127.0.0.1 --user root --group root --maxthread 8192"
    several = "--mcast-addr 239.255.33.0-255 --mcast-port 1758" if groups else "--no-multicast"
    return [*words.split(), *several.split(), "--verbose=0", "--logfile", str(room / "atftpd.out"), str(root)]


def _dnsmasq(root: Path, room: Path, groups: bool) -> list[str]:
    # Its request port is always 69. --quiet-tftp: no line for each transfer, like the others.
    words = "dnsmasq -k --conf-file=/dev/null --port=0 --enable-tftp --tftp-max=8192 --bind-interfaces --user=root"
    return [*words.split(), "--listen-address=127.0.0.1", f"--tftp-root={root}", "--quiet-tftp", "--pid-file"]


def _python(root: Path, room: Path, groups: bool) -> list[str]:
    return [sys.executable, "-c", PYTHON_PEER, str(root), "7072"]


def _ceiling(root: Path, room: Path, groups: bool) -> list[str]:
    return [str(room / "ceiling"), "127.0.0.1", str(CEILING_PORT), str(root)]


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _says(package: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"from importlib.metadata import version; print(version({package!r}))")


READS, ALL = frozenset({"read"}), frozenset({"read", "put", "group"})
SERVERS = (
    castd("castd", 7069),
    replace(castd(NATIVE, 7075, native=True), present=hasNative),
    Server("ceiling", "ceiling", CEILING_PORT, _ceiling, lambda: True, ("echo", "1.0"), kinds=READS),
    Server("dnsmasq", "c", 69, _dnsmasq, _program("dnsmasq"), ("dnsmasq", "--version"), kinds=READS),
    Server("atftpd", "c", 7071, _atftpd, _program("atftpd"), ("atftpd", "--version"), kinds=ALL),
    Server("tftpd-hpa", "c", 7070, _hpa, _program("in.tftpd"), ("in.tftpd", "-V")),
    Server("tftp", "python", 7072, _python, _module("tftp"), _says("tftp")),
)
