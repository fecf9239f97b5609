"""
castd killed in the middle of uploads, at seeded instants: what stands under a name is whole, the old or the new.

C{CASTD_KILLS} in the environment is how often; a hundred by hand.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from castd.testing import pattern
from tests.support.jobs import eventually
from tests.support.lab.castd import TREE, ForkServer
from tests.support.world import free

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("CASTD_KILLS", "12"))
BLOCK = 8192
SECONDS = 20.0
#: How long the upload of one file takes at most; kills are spread over so much.  Seconds.
UPLOAD = 0.03
LEFT = re.compile(r"\.castd-.*\.part")


def content(number: int) -> bytes:
    """What round C{number} writes: its number in every block."""
    return pattern(BLOCK * 12 - 64) + b"%063d\n" % number


class Upload:
    """
    A client that writes a file, step by step.

    @ivar done: the server has said that it has everything.
    """

    def __init__(self, port: int, name: str, data: bytes) -> None:
        self.data, self.done, self._number = data, False, 0
        self._server = ("127.0.0.1", port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(0.05)
        self._request = b"\0\2" + name.encode() + b"\0octet\0blksize\0%d\0" % BLOCK

    def ask(self) -> None:
        """Send the request until it is answered."""

        def answered() -> bool:
            with suppress(OSError):
                self.socket.sendto(self._request, self._server)
                answer, self._server = self.socket.recvfrom(2048)
                assert answer[:2] == b"\0\6", answer
                return True
            return False

        eventually(answered, "an answer to the request", SECONDS)
        self._send()

    def _send(self) -> None:
        block = self.data[self._number * BLOCK : (self._number + 1) * BLOCK]
        self._number += 1
        self.socket.sendto(b"\0\3" + self._number.to_bytes(2, "big") + block, self._server)

    def step(self) -> None:
        """Take the acknowledgement that waits, if one does, and send the next block."""
        with suppress(OSError):
            answer = self.socket.recv(2048)
            if answer == b"\0\4" + self._number.to_bytes(2, "big"):
                self.done = self._number * BLOCK > len(self.data)
                if not self.done:
                    self._send()


@pytest.fixture
def forkServer(tmp_path: Path) -> Iterator[ForkServer]:
    made = ForkServer(tmp_path, TREE)
    yield made
    made.close()


def swept(folder: Path, left: set[str]) -> bool:
    return not left & set(os.listdir(folder))


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_killedInTheMiddle(tmp_path: Path, forkServer: ForkServer) -> None:
    """Never half a file under its name, none lost that was acknowledged; what is left is gone at the next start."""
    chance = random.Random(20261121)
    folder, (port,) = tmp_path / "in", free(1)
    folder.mkdir()
    (folder / "log").write_bytes(content(0))
    conf = tmp_path / "castd.yaml"
    conf.write_text(
        "castd: 1\n"
        f"content: [{{directory: {{path: {folder}}}}}]\n"
        f"uploads: [{{directory: {{path: {folder}, policy: overwrite, keep-free: 0}}}}]\n"
        "access: [{allow: any}]\n"
        f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n"
    )
    wholes, leftovers, unfinished = {content(0)}, 0, 0
    for number in range(1, KILLS + 1):
        before = {file.name for file in folder.iterdir() if LEFT.fullmatch(file.name)}
        pid = forkServer.fork(conf)
        uploads = [Upload(port, name, content(number)) for name in ("log", f"new{number}")]
        wholes.add(content(number))
        for each in uploads:
            each.ask()
            each.socket.settimeout(0.001)
        eventually(partial(swept, folder, before), "what was left to be swept away", SECONDS)
        end = time.monotonic() + chance.uniform(0, UPLOAD)
        while time.monotonic() < end:
            for each in uploads:
                each.step()
        os.kill(pid, signal.SIGKILL)
        eventually(partial(gone, pid), "the end of the process", SECONDS)
        for name, each in zip(("log", f"new{number}"), uploads, strict=True):
            each.step()
            each.socket.close()
            file = folder / name
            found = file.read_bytes() if file.exists() else None
            assert found in wholes or (found is None and name != "log"), f"half of {name} in round {number}"
            assert found == content(number) or not each.done, (
                f"{name} was acknowledged in round {number} and is not there"
            )
            unfinished += not each.done
        leftovers += sum(bool(LEFT.fullmatch(each)) for each in os.listdir(folder))
    print(f"{KILLS} kills, {unfinished} uploads unfinished, {leftovers} leftovers seen")  # noqa: T201
    assert unfinished > 0
    assert leftovers > 0
    assert "Traceback" not in forkServer.log.read_text()
