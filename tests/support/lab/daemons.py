"""castd as a daemon on the loopback interface, started in every way there is, and what the system knows of it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.jobs import Job, Late, eventually
from tests.support.lab.castd import TREE, command
from tests.support.needs import lack

USER = "nobody"
BODY = bytes(range(256)) * 40
STARTING = 60.0
"""Seconds that a start may take."""


def script(name: str) -> list[str]:
    """The command C{twistd} or C{twist}, from where castd's own comes."""
    if "CASTD_COMMAND" in os.environ:
        return [str(Path(command()[0]).parent / name)]
    run = {"twistd": "twisted.scripts.twistd import run", "twist": "twisted.application.twist._twist import Twist"}
    call = {"twistd": "run()", "twist": "Twist.main()"}
    return [sys.executable, "-c", f"from {run[name]}; {call[name]}"]


def environment() -> dict[str, str]:
    path = {} if "CASTD_COMMAND" in os.environ else {"PYTHONPATH": str(TREE)}
    return {**os.environ, **path, "PYTHONDONTWRITEBYTECODE": "1"}


def status(pid: int) -> dict[str, list[str]]:
    """What the kernel says of a process: C{Uid}, C{Groups}, C{CapEff} and so on."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


class Place:
    """
    A folder with content, a service file, and room for what belongs to the user who castd will be.

    @ivar host: an address of the loopback network that nobody else has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"127.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}.1"
        self.mine, self.boot, self.up = folder / "mine", folder / "boot", folder / "up"
        for each in (self.mine, self.boot, self.up):
            each.mkdir()
        (self.boot / "file").write_bytes(BODY)
        for each in (self.mine, self.up):
            shutil.chown(each, USER)
        self.file = folder / "castd.yaml"
        self.events, self.control = self.mine / "events.json", self.mine / "control"

    def write(self, *ports: int, **sections: Any) -> None:
        """The service file: a C{tftp} at each port; further sections as they are."""
        service = {
            "castd": 1,
            "content": [{"directory": {"path": str(self.boot)}}],
            "uploads": [{"directory": {"path": str(self.up)}}],
            "access": [{"allow": "any"}],
            "limits": {"drain": "1 s"},
            "control": {"path": str(self.control)},
            "transports": {f"tftp{port}": {"use": "tftp", "port": port, "interface": self.host} for port in ports},
        }
        self.file.write_text(yaml.safe_dump({**service, **sections}, sort_keys=False))

    def start(self, argv: Sequence[str], **environ: str) -> Job:
        return Job(argv, self.folder / "output", self.folder, {**environment(), **environ})

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False, timeout=60
        )

    def castd(self, what: str, *options: str) -> subprocess.CompletedProcess[str]:
        """C{castd status} or C{castd reload} of the one that runs here."""
        return self.run(*command(), what, "--control", str(self.control), *options)

    def ready(self, port: int, seconds: float = STARTING) -> None:
        """Wait until a request is answered."""

        def answered() -> bool:
            try:
                return self.get("nothing there", port, 0.5).startswith(b"\0\5")
            except OSError:
                return False

        try:
            eventually(answered, f"an answer from {self.host}:{port}", seconds)
        except Late as late:
            raise Late(f"{late}\n{(self.folder / 'output').read_text()}") from None

    def get(self, name: str, port: int, seconds: float = 10.0) -> bytes:
        """Return the first answer to a read request."""
        with self.client(seconds) as client:
            client.sendto(b"\0\1%s\0octet\0" % name.encode(), (self.host, port))
            return client.recv(600)

    def fetch(self, name: str, port: int, options: bytes = b"") -> bytes:
        """Return the whole file; with options: the answer to them, and then we leave."""
        found, number = b"", 0
        with self.client() as client:
            client.sendto(b"\0\1%s\0octet\0" % name.encode() + options, (self.host, port))
            while True:
                block, peer = client.recvfrom(600)
                if block[:2] == b"\0\6":
                    client.sendto(b"\0\5\0\0that is all\0", peer)
                    return block
                assert block[:2] == b"\0\3", block
                if block[2:4] == (number + 1).to_bytes(2):
                    number += 1
                    found += block[4:]
                client.sendto(b"\0\4" + block[2:4], peer)
                if len(block) < 516:
                    return found

    def put(self, name: str, port: int, data: bytes) -> None:
        """Upload less than a block."""
        with self.client() as client:
            client.sendto(b"\0\2%s\0octet\0" % name.encode(), (self.host, port))
            answer, peer = client.recvfrom(600)
            assert answer == b"\0\4\0\0", answer
            client.sendto(b"\0\3\0\1" + data, peer)
            assert client.recv(600) == b"\0\4\0\1"

    def client(self, seconds: float = 10.0) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((self.host, 0))
        made.settimeout(seconds)
        return made

    def said(self) -> list[dict[str, Any]]:
        """The events so far."""
        return [json.loads(line) for line in self.events.read_text().splitlines()]


@contextmanager
def place() -> Iterator[Place]:
    """A place that every user may look at, as the folder of a test's own is not."""
    with tempfile.TemporaryDirectory(prefix="castd-life-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        here = Place(folder)
        python = [sys.executable] if "CASTD_COMMAND" not in os.environ else [str(Path(command()[0]).parent / "python")]
        try:
            seen = subprocess.run(
                [*python, "-c", "import encodings.utf_8_sig, castd.cli.main, castd.cli.serve, castd.cli.check"],
                cwd=folder,
                env=environment(),
                user=USER,
                group=pwd.getpwnam(USER).pw_gid,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        except PermissionError as error:
            lack(f"{USER} may not run Python: {error}")
        if seen.returncode:
            lack(f"{USER} may not read castd, or its Python: {seen.stderr[-300:]}")
        yield here
