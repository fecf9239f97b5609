"""
Runs castd as a process: on a host of the hall, alone on loopback, or forked by the dozen; and makes the files to serve.

C{CASTD_COMMAND} in the environment says which one: C{castd} is the script of an installed wheel, and then
nothing of the source tree is in reach.  Without it the tree that holds these tests is run.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
import select
import shlex
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.jobs import Job, Late, eventually
from tests.support.lab.hall import Host
from tests.support.needs import need
from tests.support.world import free

TREE = Path(__file__).parents[3]
STARTING, STOPPING = 15.0, 10.0
"""Seconds castd has to listen, and to end when no transfer runs."""


def command() -> list[str]:
    installed = os.environ.get("CASTD_COMMAND")
    return shlex.split(installed) if installed else [sys.executable, "-m", "castd"]


def listening(pid: int) -> set[tuple[str, int]]:
    """Return addresses and ports of the UDP sockets in the namespace of a process, as the kernel lists them."""
    found = set()
    for table in ("udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            words = [struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8)]
            found.add((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def addresses(service: Mapping[str, Any]) -> set[tuple[str, int]]:
    """Return addresses and ports at which the transports of a service file listen."""
    found = set()
    for name, options in service["transports"].items():
        port = 4011 if options.get("use", name) == "proxydhcp" else options["port"]
        found.add((options.get("interface") or "0.0.0.0", port))
    return found


class Server:
    """
    A running castd.

    @ivar host: the machine it runs on.
    """

    def __init__(self, host: Host, service: Mapping[str, Any], seconds: float = STARTING, tree: Path = TREE) -> None:
        """
        Start it, and wait until it listens wherever its service file says.

        @param tree: the checkout whose castd it is, unless C{CASTD_COMMAND} names another.

        @raise Late: if it ends, or does not listen in time; the text has its log.
        """
        self.host = host
        conf = host.folder / "castd.yaml"
        conf.write_text(yaml.safe_dump(dict(service), sort_keys=False))
        cwd = host.folder if "CASTD_COMMAND" in os.environ else tree
        self.job: Job = host.start([*command(), "serve", "-c", str(conf)], cwd=cwd)
        wanted = addresses(service)

        def ready() -> bool:
            if self.job.process.poll() is not None:
                raise Late(f"castd ended with {self.job.process.returncode}:\n{self.log()}")
            return wanted <= listening(self.job.pid)

        try:
            eventually(ready, f"castd to listen at {sorted(wanted)}", seconds)
        except Late as late:
            raise Late(f"{late}\n{self.log()}") from None

    def log(self) -> str:
        return self.job.text()

    def stop(self) -> None:
        """
        End it by SIGTERM.

        @raise AssertionError: if it was not alive, did not end cleanly, or met an error it did not expect.
        """
        alive = self.job.process.poll() is None
        code = self.job.end(grace=STOPPING)
        log = self.log()
        assert alive, f"castd had ended with {code}:\n{log[-4000:]}"
        assert code == 0, f"castd left with {code} after SIGTERM:\n{log[-4000:]}"
        for sign in ("Traceback", "Unhandled"):
            at = log.find(sign)
            assert at < 0, f"in castd's log:\n{log[max(0, at - 500) : at + 3000]}"


SECONDS = 30.0


class Alone:
    """
    A running castd with one tftp transport, behind those that its service file names.

    @ivar port: where.
    """

    def __init__(
        self, folder: Path, service: dict[str, Any], descriptors: int | None = None, program: str = ""
    ) -> None:
        """
        @param descriptors: the most that it may have.
        @param program: Python that ends by being castd's command; else that command itself.
        """
        (self.port,) = free(1)
        conf = folder / "castd.yaml"
        conf.write_text(
            yaml.safe_dump(
                {
                    "castd": 1,
                    "access": [{"allow": "any"}],
                    "limits": {
                        "per-peer": 4096,
                        "new-per-peer": "10000/s",
                        "drain": "1 s",
                        "errors-per-peer": "1000/s",
                    },
                    **service,
                    "transports": {
                        **service.get("transports", {}),
                        "tftp": {"port": self.port, "interface": "127.0.0.1", "silence": "5 s"},
                    },
                }
            )
        )
        self._log = folder / "log"
        words = [sys.executable, "-c", program] if program else command()
        limited = [] if descriptors is None else [*need("prlimit"), f"--nofile={descriptors}:{descriptors}"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*limited, *words, "serve", "-c", str(conf)], stdout=log, stderr=log, cwd=TREE
            )
        eventually(lambda: ("127.0.0.1", self.port) in listening(self.process.pid), "castd to listen", SECONDS)
        # It binds before its reactor runs, and that opens descriptors of its own: who answers has all it starts with.
        fetched(self, "is anybody there")

    def log(self) -> str:
        return self._log.read_text()

    def descriptors(self) -> int:
        """Return how many it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def end(self, *, except_: str = "") -> None:
        """
        End it, and check that it was alive, ends cleanly and has logged no fault.

        @param except_: a traceback that has this in it is none of its faults.
        """
        alive = self.process.poll() is None
        self.process.terminate()
        status = self.process.wait(20)
        log = self.log()
        assert (alive, status) == (True, 0), log[-4000:]
        # The lines of a traceback are indented.
        faults = re.findall(r"^.*\n? *Traceback.*\n(?:[ \t].*\n)*", log, re.MULTILINE)
        assert ("Traceback" in log) == bool(faults)
        assert [each for each in faults if not except_ or except_ not in each] == []


class Peer:
    """
    One client, that asks again each second.

    @ivar data: what it has received; C{error}: what it was told; C{done}: that was the end.
    """

    def __init__(self, port: int, name: str, write: bytes | None = None, tsize: bool = False) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.data, self.error, self.done = bytearray(), b"", False
        self._server = ("127.0.0.1", port)
        options = b"blksize\0001024\0" + (b"tsize\0%d\0" % len(write or b"") if tsize else b"")
        self._last = (b"\0\1" if write is None else b"\0\2") + name.encode() + b"\0octet\0" + options
        self._write, self._next, self._again = write, 1, 0.0

    def turn(self) -> None:
        """Read the datagrams that have come; repeat the last datagram after a second."""
        try:
            datagram, address = self.socket.recvfrom(2048)
        except BlockingIOError:
            if time.monotonic() >= self._again:
                self._say(self._last)
            return
        except ConnectionRefusedError:
            return
        self._server = address
        kind, number = datagram[1], int.from_bytes(datagram[2:4], "big")
        if kind == 5:
            self.error, self.done = datagram[2:], True
        elif self._write is not None:
            self._acknowledged(0 if kind == 6 else number)
        elif kind == 6:
            self._say(b"\0\4\0\0")
        elif number == self._next & 0xFFFF:
            self.data += datagram[4:]
            self._next += 1
            self._say(b"\0\4" + datagram[2:4])
            self.done = len(datagram) < 4 + 1024

    def _acknowledged(self, number: int) -> None:
        assert self._write is not None
        if number * 1024 > len(self._write):
            self.done = True
        elif number == self._next - 1:
            self._next += 1
            self._say(b"\0\3" + (number + 1).to_bytes(2, "big") + self._write[number * 1024 : (number + 1) * 1024])

    def _say(self, datagram: bytes) -> None:
        self._last, self._again = datagram, time.monotonic() + 1
        self.socket.sendto(datagram, self._server)


def served(peers: list[Peer], seconds: float = SECONDS) -> None:
    """
    Drive these clients until all of them are done.

    @raise AssertionError: they are not done within this time.
    """
    end = time.monotonic() + seconds
    while left := [each for each in peers if not each.done]:
        assert time.monotonic() < end, f"{len(left)} of {len(peers)} are not served"
        select.select([each.socket for each in left], [], [], 0.05)
        for each in left:
            each.turn()
    for each in peers:
        each.socket.close()


def fetched(castd: Alone, name: str) -> bytes:
    """Read a file.  -> its octets, or the ERROR of the server."""
    peer = Peer(castd.port, name)
    served([peer])
    return bytes(peer.data) or peer.error


FORK_SERVER = """
import os, signal, sys
import castd.cli.main, castd.cli.serve, castd.cli.control, castd.service.bootstrap, castd.service.service
import twisted.internet.udp, twisted.internet.threads
from castd.config.plugin import collect
for each in collect().transports.values():
    each.options
assert "twisted.internet.reactor" not in sys.modules
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if not child:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.argv[1:] = ["serve", "-c", line.strip()]
        sys.exit(castd.cli.main.main())
    print(child, flush=True)
"""


class ForkServer:
    """A process that has castd imported, from which servers are forked."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.log = folder / "log"
        self._children: list[int] = []
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", FORK_SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=tree,
                text=True,
                env={**os.environ, "PYTHONPATH": str(tree)},
            )

    def fork(self, conf: Path) -> int:
        """Fork a new server.  -> its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{conf}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        self._children.append(child)
        return child

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


SIZES = (0, 1, 511, 512, 513, 1024 * 1024)
ROLLOVER = 65536 * 512 + 1000
"""Octets whose blocks of 512 need numbers beyond 65535."""


class Shelf:
    """
    A directory of files, whose contents are kept in memory as well.

    @ivar root: the directory to serve.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, bytes] = {}
        for size in SIZES:
            self.sized(size)

    def sized(self, size: int) -> str:
        """@return: the name of the file with so many octets."""
        name = f"size-{size}"
        if name not in self._known:
            self.add(name, random.Random(size).randbytes(size))
        return name

    def add(self, name: str, data: bytes) -> str:
        (self.root / name).write_bytes(data)
        self._known[name] = data
        return name

    def __getitem__(self, name: str) -> bytes:
        return self._known[name]
