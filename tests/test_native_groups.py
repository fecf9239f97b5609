"""
The native loop serves the master of a group as Python does: the same octets, the same state, whoever sends whatever.
"""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from twisted.logger import LogEvent

from castd import native
from castd.native import MasterSteps, StepLists, StepState
from castd.net.epoll import EpollSet
from castd.request import Peer
from tests.support.clients.tftp import rrq
from tests.support.fakes import OWN_LOOPBACK, Reactor
from tests.support.needs import needNative
from tests.support.quick import slowBut
from tests.support.side import UDP_SEGMENT, GroupSide, ask, countPython, groupScript

NEVER = float("inf")


class Group(StepState):
    """
    A group that has steps and nothing else, at a port of its own; its group address is a socket.

    @ivar seen: what Python got: datagrams with their senders, errors, and C{readable} for a call of the reader.
    """

    def __init__(self, sockets: ExitStack) -> None:
        self.port, self.master, self.other, self.ear = (sockets.enter_context(bound()) for _ in range(4))
        self._prepared = StepLists()
        self._prepared.answers = [b"ack0", b"ack1", b"ack2", None]
        self._prepared.images = [memoryview(b"block%d" % number) for number in range(3)]
        self.now = 100.0
        self._seconds = lambda: self.now
        self._expected, self._steps, self._interval, self.due = None, 0, 2.0, None
        self._steppedAt = 99.99
        self._sendStep = lambda image: self.port.sendto(image, self.ear.getsockname())
        self._master = MasterSteps(self.master.getsockname(), NEVER, 0.02, lambda: 0.25)
        self._master.stop = 3
        self.seen: list[object] = []
        self.reader = native.GroupReader(
            self, self.readable, self.datagramReceived, self.stepRefused, self.receiveFailed, 2048
        )
        self.reader.aim(self._sendStep, self.ear.getsockname())

    @property
    def steps(self) -> MasterSteps:
        assert self._master is not None
        return self._master

    def readable(self) -> None:
        with suppress(OSError):
            self.seen.append(("readable", self.port.recv(2048)))

    def datagramReceived(self, datagram: bytes, peer: Peer) -> None:
        self.seen.append((datagram, peer))

    def stepRefused(self, datagram: bytes, peer: Peer) -> None:
        self.seen.append(("refused", datagram, peer))

    def receiveFailed(self, error: OSError) -> None:
        self.seen.append(type(error))

    def say(self, datagram: bytes, sender: socket.socket | None = None) -> None:
        (sender or self.master).sendto(datagram, self.port.getsockname())

    def heard(self) -> list[bytes]:
        """Return what has been sent to the group since the last call."""
        found: list[bytes] = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.ear.recv(2048))
        return found


def bound() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind((OWN_LOOPBACK, 0))
    return made


@pytest.fixture(autouse=True)
def unhurried(longVisits: None) -> None:
    """Nothing depends on how quick this machine is."""


@pytest.fixture
def epollSet() -> Iterator[EpollSet]:
    needNative()
    made = EpollSet(Reactor())
    yield made
    made.connectionLost(None)  # type: ignore[arg-type]


@pytest.fixture
def group(epollSet: EpollSet) -> Iterator[Group]:
    with ExitStack() as sockets:
        made = Group(sockets)
        epollSet.add(made.port.fileno(), made.reader)
        yield made
        epollSet.remove(made.port.fileno(), closing=True)


@pytest.mark.loopback
def test_inStep(epollSet: EpollSet, group: Group) -> None:
    """Each expected datagram of the master takes one step, without Python; how long each answer took is noted."""
    for number in range(3):
        group.now += 0.0078125
        before = group._steppedAt
        group.say(b"ack%d" % number)
        epollSet.read()
        assert group.heard() == [b"block%d" % number]
        assert (group._steps, group._steppedAt, group.due) == (number + 1, group.now, group.now + 2)
        assert (len(group.steps.noted), group.steps.noted[-1]) == (number + 1, group.now - before)
        assert group.steps.drawn == 0.25
    assert group.seen == []
    group.say(b"ack3")
    epollSet.read()
    assert group.seen == [(b"ack3", group.master.getsockname())]


#: Datagrams that are nearly the expected one, or nothing like it.
ROGUE = [b"", b"a", b"ack", b"ack00", b"ack1", b"Ack0", b"ack\0", b"ack0\0", bytes(2048), b"ack0" * 700]


@pytest.mark.loopback
@pytest.mark.parametrize("datagram", ROGUE, ids=lambda each: f"{len(each)}-{each[:6]!r}")
def test_unexpected(epollSet: EpollSet, group: Group, datagram: bytes) -> None:
    """What is not the expected datagram, to the octet, is Python's, with its sender; no step is taken."""
    group.say(datagram)
    epollSet.read()
    assert group.seen == [(datagram[:2048], group.master.getsockname())]
    assert (group._steps, group.due, group.steps.noted, group.heard()) == (0, None, [], [])


@pytest.mark.loopback
def test_anotherSender(epollSet: EpollSet, group: Group) -> None:
    """The expected datagram is Python's if it is not the master's; whoever becomes master is known by its address."""
    group.say(b"ack0", group.other)
    epollSet.read()
    assert group.seen == [(b"ack0", group.other.getsockname())]
    group.steps.peer = group.other.getsockname()
    group.say(b"ack0", group.master)
    group.say(b"ack0", group.other)
    epollSet.read()
    assert group.seen[1:] == [(b"ack0", group.master.getsockname())]
    assert group.heard() == [b"block0"]
    group.steps.peer = ("127.0.0.2", group.other.getsockname()[1])
    group.say(b"ack1", group.other)
    epollSet.read()
    assert group.seen[2:] == [(b"ack1", group.other.getsockname())]


def aim(group: Group) -> None:
    group.reader.aim(group._sendStep, ("not an address", 9))


@pytest.mark.loopback
@pytest.mark.parametrize(
    "change",
    [
        lambda group: setattr(group.steps, "stop", 0),
        lambda group: setattr(group.steps, "longest", 0.009),
        lambda group: setattr(group.steps, "until", 100.0),
        lambda group: setattr(group.steps, "noted", None),
        lambda group: setattr(group.steps, "peer", ("::1", group.master.getsockname()[1])),
        lambda group: setattr(group, "_steps", 3),
        lambda group: setattr(group, "_steps", -1),
        lambda group: setattr(group, "_steps", sys.maxsize),
        lambda group: setattr(group, "_prepared", None),
        lambda group: group._prepared.images.clear(),
        lambda group: group._prepared.answers.clear(),
        lambda group: group._prepared.answers.__setitem__(0, None),
        lambda group: group._prepared.images.__setitem__(0, "text"),
        lambda group: setattr(group._prepared, "images", None),
        lambda group: setattr(group._prepared, "answers", None),
        lambda group: setattr(group, "_sendStep", lambda image: None),
        aim,
    ],
)
def test_noStep(epollSet: EpollSet, group: Group, change: Callable[[Group], object]) -> None:
    """Where no step may be taken, or another function is to send it, the expected datagram is Python's as well."""
    change(group)
    group.say(b"ack0")
    epollSet.read()
    assert group.seen == [(b"ack0", group.master.getsockname())]
    assert group.heard() == []


@pytest.mark.loopback
def test_nobodyInStep(epollSet: EpollSet, group: Group) -> None:
    """While the master is not in step the port is read as by Python, by its own function."""
    group._master = None
    group.say(b"ack0")
    epollSet.read()
    assert group.seen == [("readable", b"ack0")]


@pytest.mark.loopback
def test_refused(epollSet: EpollSet, group: Group) -> None:
    """A step that the kernel does not take is not counted: Python gets the answer, and is told that it was refused."""
    group._prepared.images[0] = memoryview(bytes(1000))
    # Datagrams of one octet: more than the kernel cuts.
    group.port.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1)
    group.say(b"ack0")
    epollSet.read()
    assert group.seen == [("refused", b"ack0", group.master.getsockname())]
    assert (group._steps, group.steps.noted, group.steps.drawn, group.due) == (0, [], 0.0, None)


@pytest.mark.loopback
def test_aDrawThatFails(epollSet: EpollSet, group: Group, events: list[LogEvent]) -> None:
    """A source of randomness that raises is logged, and other ports are read all the same."""
    group.steps.draw = lambda: 1 / 0
    group.say(b"ack0")
    epollSet.read()
    assert [each["event"] for each in events] == ["fault"]
    group.steps.draw = lambda: 0.5
    group.say(b"ack0")
    epollSet.read()
    assert (group._steps, group.steps.drawn) == (1, 0.5)


@pytest.mark.loopback
def test_nothingIsHeld(epollSet: EpollSet, group: Group) -> None:
    """No step leaves a reference behind."""
    group._prepared.answers = [b"ack"] * 1000
    group._prepared.images = [memoryview(b"block") for _ in range(1000)]
    group.steps.stop = 1000
    prepared, master = group._prepared, group.steps
    objects: list[Any] = [group, prepared, prepared.answers, prepared.images[7], master, master.peer, group._sendStep]
    before = [sys.getrefcount(each) for each in objects]
    for _ in range(900):
        group.say(b"ack")
        epollSet.read()
        group.heard()
    assert group._steps == 900
    group._prepared, group._prepared = StepLists(), prepared
    assert [sys.getrefcount(each) for each in objects] == [*before[:5], before[5] + 1, before[6]]


@pytest.mark.slow
@pytest.mark.loopback
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed < 3, range(int(os.environ.get("CASTD_SCRIPTS", "12")))))
def test_beside(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whatever happens to a group (ACKs of its master and of listeners, in time, late, twice, wrong; noise, strangers,
    errors, timers), a server that is read natively is in the state of one that is read by Python, after each event: the
    same octets went out, the same was logged.
    """
    needNative()
    clients = 1 + seed % 3
    sides = [GroupSide(compiled, clients) for compiled in (True, False)]
    calls = countPython(monkeypatch)
    for turn, action in enumerate(groupScript(seed, clients)):
        for side in sides:
            side.play(action)
        mine, other = sides
        assert mine.told() == other.told(), f"after {turn} events"
        assert mine.heard == other.heard, f"after {turn} events"
        assert mine.state() == other.state(), f"after {turn} events"
    for side in sides:
        side.close()
    assert calls.count(True) <= calls.count(False)


@pytest.mark.slow
@pytest.mark.loopback
def test_wholeFiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most blocks of a file are sent without Python, and each is sent once."""
    needNative()
    side, chance = GroupSide(True, 2), random.Random(1)
    calls = countPython(monkeypatch)
    for client in range(2):
        side.play(ask(client, rrq("long", blksize=512, multicast="")))
    blocks = 300_000 // 512 + 1
    side.play(lambda side: side.send(0, b"\0\4\0\0"))
    while side.heard[1][-1][2:4] != blocks.to_bytes(2):
        side.reactor.advance(0.0001 * chance.random())
        side.play(lambda side: side.send(0, b"\0\4" + side.heard[0][-1][2:4]))
    assert [int.from_bytes(each[2:4]) for each in side.heard[1] if each[1] == 3] == list(range(1, blocks + 1))
    assert len(calls) < blocks / 20
    side.close()
