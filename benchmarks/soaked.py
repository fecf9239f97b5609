"""
Runs the castd of the soak: a process with two epochs of files and of its service file.
"""

from __future__ import annotations

import hashlib
import random
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from castd.cli.control import ask

SERVER = "10.99.0.1"
REQUEST_PORTS = (69, 70, 1759, 10000, 10001)
SIZES = {"empty": 0, "tiny": 511, "small": 5000, "middle": 70_000, "large": 400_000}
GROUPED = {"g0": 30_000, "g1": 150_000, "m0": 20_000, "m1": 100_000, "s0": 60_000, "s1": 250_000}

CONF = """castd: 1
content: [{{directory: {{path: {content}}}}}]
uploads: [{{directory: {{path: up, under: up, policy: overwrite}}}}]
access: [{access}{{allow: any}}]
limits: {{per-peer: {peers}, new-per-peer: 500/s, drain: 5 s, memory: 4 MiB}}
logging: {{level: warn}}
control: {{path: control}}
metrics: {{listen: "127.0.0.1:9147"}}
transports:
  multicast: {{interface: {server}, clients: any, groups: 239.255.32.0/22{blksize}}}
  sbroadcast: {{interface: {server}, subnets: [10.99.0.0/16]}}
  tftp: {{interface: {server}, silence: 15 s{window}}}
  mtftp:
    interface: {server}
    clients: any
    silence: 5 s
    remember: 5 s
    files: {{m0: "239.255.1.1:3001", m1: "239.255.1.1:3002"}}
  slam: {{interface: {server}, file: s0, group: "239.255.1.1:10010"}}
  slam-1: {{use: slam, port: 10001, interface: {server}, file: s1, group: "239.255.1.1:10011"}}
{more}"""
ONE = dict(content="one", access="", peers=64, server=SERVER, blksize="", window="", more="")
TWO = dict(
    content="two",
    access="{deny: any, names: [secret]}, ",
    peers=63,
    server=SERVER,
    blksize=", blksize: 1024",
    window=", windowsize: 8",
    more=f"  extra: {{use: tftp, port: 70, interface: {SERVER}}}\n",
)
BAD = dict(ONE, peers="none")


class Server:
    """castd in a process of its own, with the files of two epochs."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        (folder / "up").mkdir()
        self.digests: dict[str, set[bytes]] = {}
        for epoch in ("one", "two"):
            (folder / epoch).mkdir()
            for name, size in {**SIZES, **GROUPED}.items():
                data = chance.randbytes(size + (1000 if size > 5000 and epoch == "two" else 0))
                (folder / epoch / name).write_bytes(data)
                self.digests.setdefault(name, set()).add(hashlib.sha256(data).digest())
        self.write(ONE)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "castd", "serve", "-c", "castd.yaml"],
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        self.reloads = 0

    def write(self, conf: dict[str, Any]) -> None:
        fresh = self.folder / "castd.yaml.new"
        fresh.write_text(CONF.format(**conf))
        fresh.rename(self.folder / "castd.yaml")

    def reload(self, conf: dict[str, Any]) -> None:
        self.write(conf)
        self.process.send_signal(signal.SIGHUP)
        self.reloads += 1

    def right(self, name: str, data: bytes) -> bool:
        # SLAM's URLs name a port and a group, not a file.
        name = {"0": "s0", "1": "s1"}[name[-1]] if "/239" in name else name.partition(";")[0]
        return hashlib.sha256(data).digest() in self.digests[name]

    def stored(self, name: str, data: bytes) -> bool:
        path = self.folder / name
        found = path.read_bytes()
        path.unlink()
        return found == data

    def ask(self) -> Deferred[dict[str, Any]]:
        return deferToThread(ask, str(self.folder / "control"), "status")

    def memory(self) -> int:
        """Return resident octets."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def faults(self) -> list[str]:
        """Return the lines of the log that show a fault."""
        return re.findall(r"^.*(?:Traceback|Unhandled|\[error\] (?!.*refused)).*$", self.log.read_text(), re.MULTILINE)
