"""
castd as a process of its own on loopback, and clients that a test drives by hand.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tests.support.jobs import eventually
from tests.support.lab.server import TREE, command, listening
from tests.support.needs import need
from tests.support.world import free

SECONDS = 30.0


class Alone:
    """
    A running castd with one tftp transport.

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
                    "transports": {"tftp": {"port": self.port, "interface": "127.0.0.1", "silence": "5 s"}},
                    **service,
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
        """-> how many it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def end(self) -> None:
        """It is alive, leaves cleanly, and has met no bug."""
        alive = self.process.poll() is None
        self.process.terminate()
        status = self.process.wait(20)
        assert (alive, status) == (True, 0), self.log()[-4000:]
        assert "Traceback" not in self.log()


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
        """Hear what has come; repeat what was said a second ago."""
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
    Until all of them are done.

    @raise AssertionError: they are not, within this time.
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
    """-> a file, or what the client is told."""
    peer = Peer(castd.port, name)
    served([peer])
    return bytes(peer.data) or peer.error
