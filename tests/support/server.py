"""
Composes a whole server from a service file, on a network in memory, and a client that a test moves block by block.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError

from castd.config.plugin import collect
from castd.observe.metrics import Counters
from castd.service.service import Server, compose, read
from castd.testing import Host, Network, RecordingClient
from tests.support.disks import result

SERVER, CLIENT = "10.0.0.1", "10.0.0.9"
COLLECTED = collect()

#: The beginning of a service file, and the simplest transport.
START = "castd: 1\ncontent: [{directory: {path: boot}}]\n"
TFTP = "transports:\n  tftp: {}\n"


class Case:
    """A server on a network in memory, with its file."""

    def __init__(self, folder: Path, network: Network, text: str) -> None:
        self.folder, self.network = folder, network
        self.host = network.host(SERVER)
        self.write(text)
        config = read(folder / "x.yaml", COLLECTED)
        self.server: Server = compose(config, COLLECTED, self.host, self.host, random.Random(0))
        self.server.privilegedStartService()
        self.server.startService()

    def write(self, text: str) -> None:
        (self.folder / "x.yaml").write_text(text)

    def reload(self, text: str) -> Any:
        self.write(text)
        return result(self.server.reread())

    def ports(self) -> list[int]:
        """Return the request ports that are open."""
        return sorted(port for host, port in self.network.bound if host == SERVER and port < 40000)


class AdminEndpoints:
    """
    Takes the place of the endpoints of admin ports, which need a reactor: notes which addresses are open on a network.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: dict[Network, set[str]] = {}
        for name in ("metricsEndpoint", "controlEndpoint"):
            monkeypatch.setattr(f"castd.service.admin.{name}", self._endpoint)

    def _endpoint(self, host: Host, address: str) -> AdminEndpoint:
        return AdminEndpoint(self.open.setdefault(host.network, set()), address)


class AdminEndpoint:
    """One of L{AdminEndpoints}, and its port; port 1 is another program's."""

    def __init__(self, open_: set[str], address: str) -> None:
        self._open, self._address = open_, address

    def listen(self, factory: object) -> Deferred[Any]:
        if self._address in self._open or self._address.endswith(":1"):
            return fail(CannotListenError("", 0, OSError(errno.EADDRINUSE, "Address already in use")))
        self._open.add(self._address)
        return succeed(self)

    def getHost(self) -> None:
        """Return nothing: its page is not asked for."""

    def stopListening(self) -> Deferred[None]:
        self._open.remove(self._address)
        return succeed(None)


def statusOf(server: Server) -> Any:
    """Return what a server is doing, without the pauses that C{castd status} makes for others."""
    status, steps = server.beginStatus()
    list(steps)
    return status


def pageOf(counters: Counters) -> bytes:
    """Return the page of the metrics, without the pauses that a scrape makes for others."""
    list(counters.prepare())
    return counters.text()


class Client:
    """Fetches the file block by block, as fast as the test lets it."""

    def __init__(self, network: Network, port: int = 69, host: str = CLIENT, name: str = "file") -> None:
        self.box = RecordingClient(network.host(host))
        self.body = b""
        self.box.send(b"\0\1" + name.encode() + b"\0octet\0", (SERVER, port))
        self.code: int | None = None
        self.step()

    def step(self) -> bool:
        """One block; -> whether it was the last."""
        letter = self.box.expect()
        if letter.datagram[1] == 5:
            self.code = letter.datagram[3]
            return True
        if int.from_bytes(letter.datagram[2:4]) == len(self.body) // 512 + 1:
            self.body += letter.datagram[4:]
        self.box.send(b"\0\4" + letter.datagram[2:4], letter.source)
        return len(letter.datagram) < 516

    def finish(self) -> bytes:
        while not self.step():
            pass
        return self.body


class Turns:
    """
    A reactor that is at its next turn when a test says so, and a clock that goes on by a millisecond at each look.
    """

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self._now = 0.0

    def seconds(self) -> float:
        self._now += 0.001
        return self._now

    def callLater(self, delay: float, call: Callable[[], object]) -> None:
        assert delay == 0
        self.calls.append(call)
