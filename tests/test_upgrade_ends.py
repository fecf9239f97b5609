"""
An upgrade ends well wherever it breaks off: a process dies, hangs or is stopped, or the channel breaks, at each step.

Two processes are in memory, as in L{tests.test_upgrade}.  A step is a message that is sent, or one that arrives.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from castd.service.service import Server
from castd.testing import Network
from tests.support.quick import slowBut
from tests.support.server import START, Client
from tests.test_reload import BODY
from tests.test_upgrade import Case, End, Faulty, Line

#: One transfer at a port of its own, and one on the request port.
TEXT = START + "transports: {tftp: , b: {use: tftp, port: 70, single-port: true}}\n"
#: Long enough for every stop, transfer and limit.
LONG = 150.0
NAMES = ("old", "new")


class Point(End):
    """An end of the channel at which something may happen before a message is sent, or is received."""

    line: Point.Between

    class Between(Line):
        """What two processes have in common, with what happens to them."""

        world: World

        def __call__(self, end: socket.socket, heard: Callable[..., object], lost: Callable[[], object]) -> End:
            if end is not None:
                end.close()
            made = Point(self, heard, lost)
            if self.ends:
                made.other, self.ends[-1].other = self.ends[-1], made
            self.ends.append(made)
            return made

    @property
    def silent(self) -> bool:
        """Whether nothing leaves this end any more, or reaches it."""
        return self.line.world.cannotSpeak(NAMES[self.line.ends.index(self)])

    def send(self, told: dict[str, Any], datagram: bytes = b"", descriptors: object = ()) -> None:
        if self.other is not None:
            self.line.world.step()
        if not self.silent:
            super().send(told, datagram, descriptors)

    def hear(self, told: dict[str, Any], datagram: bytes) -> None:
        self.line.world.step()
        if not self.silent:
            super().hear(told, datagram)

    def lose(self) -> None:
        if not self.line.world.hangs or self is self.line.ends[0]:
            super().lose()


class Leaving(list[str]):
    """Stops a process that says that it leaves."""

    def __init__(self, stop: Callable[[str], object]) -> None:
        self._stop = stop

    def append(self, name: str) -> None:
        super().append(name)
        self._stop(name)


class World(Case):
    """Two processes, and what happens to them at one step."""

    def __init__(self, folder: Path, network: Network, fault: str, at: int, faulty: bool) -> None:
        self.fault, self.at, self.steps = fault, at, 0
        self.gone: set[str] = set()
        self.stopped: set[str] = set()
        self.hangs = self.broken = self.handedOver = False
        super().__init__(folder, network, TEXT)
        line = Point.Between(network)
        line.world = self
        self.line = line
        self.left = Leaving(lambda name: network.callLater(0, self.stop, name))
        if faulty:
            transport: Any = self.old.addresses[1].transport
            transport.requestPortPeers = transport.groups = transport.handOver = Faulty()
        self.told: list[tuple[str, ...]] = []

    def server(self, name: str) -> Server:
        server = self.old if name == "old" else self.new
        assert server is not None
        return server

    def cannotSpeak(self, name: str) -> bool:
        return name in self.gone or self.broken or (self.hangs and name == "new")

    def step(self) -> None:
        """The next message is about to be sent, or to be received."""
        self.steps += 1
        for number in (69, 70):
            assert len(self.readers(number)) <= 1
        if self.steps == self.at:
            getattr(self, self.fault)()

    def readers(self, number: int) -> list[str]:
        """Return the processes that read this port."""
        found = []
        for name in NAMES:
            if name not in self.gone and (name == "old" or self.new is not None):
                ports = [each.port for each in self.server(name).addresses if each.bindAddress[1] == number]
                found += [name for port in ports if port is not None and not port.paused]
        return found

    # What may happen.

    def newDies(self) -> None:
        self.end("new")

    def oldDies(self) -> None:
        self.end("old")

    def newHangs(self) -> None:
        self.hangs, self.handedOver = True, "serving" in self.line.said

    def channelBreaks(self) -> None:
        self.broken = True
        for each in self.line.ends:
            self.network.callLater(0, each.lose)

    def newStops(self) -> None:
        self.network.callLater(0, self.stop, "new")

    def oldStops(self) -> None:
        self.network.callLater(0, self.stop, "old")

    def stop(self, name: str) -> None:
        """As by a signal."""
        if name not in self.stopped | self.gone:
            self.stopped.add(name)
            self.server(name).stopService().addBoth(lambda _: self.end(name))

    def end(self, name: str) -> None:
        """The process is no more; the other one notices that its end of the channel is closed, and then its end."""
        if name in self.gone:
            return
        self.gone.add(name)
        for port in self.server(name).site.ports.openPorts():
            self.server(name).site.ports.unbind(port)
        if len(self.line.ends) == 2:
            self.line.ends[NAMES.index(name)].close()
        self.network.callLater(0.01, self.noticed, name)

    def noticed(self, name: str) -> None:
        if name == "old":
            self.killedOld = True
        elif "old" not in self.gone:
            self.exited("was ended by a signal")

    def kill(self) -> None:
        if "old" not in self.gone:
            self.end("new")

    def go(self) -> None:
        """Upgrade under load, and wait for whatever comes of it."""
        clients = [Client(self.network), Client(self.network, port=70, host="10.0.0.8")]
        self.old.site.machines.hear("52:54:00:00:00:01", None, "efi-x64", "10.3.0.1")
        self.old.site.bar("10.0.0.77", "file", 1000, "for some reason")
        self.old.handover.upgrade().addCallback(self.told.append)
        self.start()
        self.network.advance(1)
        for _ in range(3):
            for client in clients:
                for letter in client.box.take():
                    client.box.send(b"\0\4" + letter.datagram[2:4], letter.source)
            self.network.advance(0.1)
        self.network.advance(LONG)


def runs(folder: Path, fault: str, at: int, faulty: bool = False) -> World:
    world = World(folder, Network(), fault, at, faulty)
    world.go()
    return world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "file").write_bytes(BODY)
    return tmp_path


FAULTS = ("newDies", "oldDies", "newHangs", "channelBreaks", "newStops", "oldStops")


def quick(fault: str, faulty: bool) -> bool:
    return faulty or fault == "newHangs"


@pytest.mark.parametrize(("fault", "faulty"), slowBut(quick, product(FAULTS, (False, True))))
def test_everyStep(folder: Path, fault: str, faulty: bool) -> None:
    """Whatever happens, and when: in the end one process reads each port and serves, or both were stopped."""
    whole = runs(folder, fault, 0, faulty)
    assert (whole.told, whole.gone, whole.readers(69), whole.readers(70)) == ([()], {"old"}, ["new"], ["new"])
    assert {"ready", "state", "bar", "read", "serving"} <= set(whole.line.said)
    for at in range(1, whole.steps + 1):
        world = runs(folder, fault, at, faulty)
        alive = [name for name in NAMES if name not in world.gone]
        where = f"{fault} at step {at} of {whole.steps}: {world.line.said}"
        if not alive:
            assert world.stopped, where
            continue
        if world.hangs and "new" in alive:
            assert world.handedOver, where  # as any server that hangs
            continue
        assert len(alive) == 1, where
        assert world.readers(69) == world.readers(70) == alive, where
        assert world.server(alive[0]).unready() is None, where
        assert Client(world.network, host="10.0.0.6").finish() == BODY, where
        assert len(world.told) == 1 or "old" in world.gone, where
        assert not world.server(alive[0]).handover.busy, where
