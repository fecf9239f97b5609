"""
The epoll set, with a kernel and a clock of the test's: transfers and requests share the time, and nobody is forgotten.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from castd.net import epoll
from castd.net.epoll import EpollSet
from tests.support.fakes import Reactor
from tests.support.log import observed

#: What reading one datagram of a transfer takes, and what the request port takes at a time.  Seconds.
BLOCK, SLICE = 0.00002, 0.0005
#: What a look takes that finds nothing, and to be woken up.  Seconds.
LOOK, WAKING = 0.000001, 0.000005
REQUESTS = 1
CLIENT = 2


class Kernel:
    """
    In place of epoll: ports that have a datagram whenever C{busy} says so; as by Linux, those that were told last come
    last the next time.

    @ivar now: the time of the test.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.busy: dict[int, Callable[[], bool]] = {}

    def register(self, descriptor: int, events: int) -> None:
        self.busy.setdefault(descriptor, lambda: True)

    def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
        found = [(each, select.EPOLLIN) for each, busy in self.busy.items() if busy()]
        if not found:
            self.now += wait or LOOK
        for each, _ in found[:most]:
            self.busy[each] = self.busy.pop(each)
        return found[:most]


class Shares:
    """
    A set with one request port and some transfers.

    @ivar used: seconds that each port has taken; C{reads}: the instants at which it was read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, transfers: int) -> None:
        self.kernel = Kernel()
        monkeypatch.setattr(time, "monotonic", lambda: self.kernel.now)
        self.set = EpollSet(Reactor())
        monkeypatch.setattr(self.set, "_epoll", self.kernel)
        self.used: dict[int, float] = {}
        self.reads: dict[int, list[float]] = {}
        self.set.add(REQUESTS, self._reader(REQUESTS, SLICE), requests=True)
        for descriptor in range(2, 2 + transfers):
            self.set.add(descriptor, self._reader(descriptor, BLOCK))

    def _reader(self, descriptor: int, seconds: float) -> Callable[[], None]:
        self.used[descriptor], self.reads[descriptor] = 0.0, []

        def read() -> None:
            self.reads[descriptor].append(self.kernel.now)
            self.kernel.now += seconds
            self.used[descriptor] += seconds

        return read

    def run(self, seconds: float) -> None:
        until = self.kernel.now + seconds
        while self.kernel.now < until:
            self.set.doRead()

    def longestGap(self, descriptor: int) -> float:
        reads = self.reads[descriptor]
        return max(late - early for early, late in pairwise(reads))


class LoneClient(Kernel):
    """
    In place of epoll: one client, which answers each block after a while.

    @ivar after: that while, in seconds, for each of its answers.
    @ivar looks: how often the kernel was asked without waiting while there was nothing; C{sleeps}: with waiting.
    """

    def __init__(self, after: Callable[[int], float]) -> None:
        super().__init__()
        self.after = after
        self.answers = self.looks = self.sleeps = 0
        self.due = self.now

    def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
        if self.now < self.due:
            if not wait:
                self.looks += 1
                self.now += LOOK
                return []
            self.sleeps += 1
            self.now = min(self.due, self.now + wait) + WAKING
        return [(CLIENT, select.EPOLLIN)] if self.now >= self.due else []

    def answer(self) -> None:
        """Read the client's answer, and send it the next block."""
        self.now += BLOCK
        self.answers += 1
        self.due = self.now + self.after(self.answers)

    def visit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Read the client as long as one visit lasts."""
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        watched = EpollSet(Reactor())
        monkeypatch.setattr(watched, "_epoll", self)
        watched.add(CLIENT, self.answer)
        watched.doRead()


def test_aNearClient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers within the time that it takes to fall asleep is waited for without sleeping, all but once."""
    client = LoneClient(lambda answer: 0.000006)
    client.visit(monkeypatch)
    assert client.sleeps == 1
    assert client.answers == pytest.approx(epoll.LONGEST_VISIT / (BLOCK + 0.000006), rel=0.05)


def test_aFarClient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a client that is not so near castd sleeps, and never looks in vain."""
    client = LoneClient(lambda answer: 2 * epoll.NEAR)
    client.visit(monkeypatch)
    assert client.looks == 0
    assert client.sleeps >= client.answers - 1 > 50


def test_notAsNearAsItSeemed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is near each second time is soon slept for: what is spent in vain is a small part of a visit."""
    client = LoneClient(lambda answer: 0.000002 if answer % 2 else 0.0001)
    client.visit(monkeypatch)
    assert 0 < client.looks * LOOK <= epoll.MOST_VAIN * (epoll.NEAR + LOOK) <= epoll.LONGEST_VISIT / 50
    assert client.answers > 40


@pytest.mark.parametrize("transfers", [1, 10, 60])
def test_half(monkeypatch: pytest.MonkeyPatch, transfers: int) -> None:
    """While both have something to do requests get half of the time at the most, and not much less."""
    shares = Shares(monkeypatch, transfers)
    shares.run(1.0)
    assert 0.25 < shares.used[REQUESTS] <= 0.51
    others = [used for descriptor, used in shares.used.items() if descriptor != REQUESTS]
    assert max(others) <= 1.1 * min(others)
    assert shares.longestGap(2) <= SLICE + 2 * transfers * BLOCK


def test_aLoneTransfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that answers each block after a while waits for one slice of requests at the most, however many come."""
    shares = Shares(monkeypatch, 1)
    answered = 0.0003
    shares.kernel.busy[2] = lambda: shares.kernel.now >= (shares.reads[2] or [0.0])[-1] + answered
    shares.run(1.0)
    assert shares.longestGap(2) <= answered + SLICE + 2 * BLOCK


def test_nobodyElse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests get all of the time while no transfer needs any, and transfers while there is no request."""
    shares = Shares(monkeypatch, 1)
    shares.kernel.busy[2] = lambda: False
    shares.run(0.5)
    assert shares.used[REQUESTS] >= 0.49
    shares.kernel.busy = {REQUESTS: lambda: False, 2: lambda: True}
    shares.run(0.5)
    assert shares.used[2] >= 0.49


def test_aFaultOfARequestPort(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request port that fails keeps neither transfers nor other request ports from being read."""
    shares = Shares(monkeypatch, 1)

    def fail() -> None:
        shares.kernel.now += BLOCK
        raise RuntimeError("a fault")

    shares.set.add(50, fail, requests=True)
    shares.run(0.1)
    assert len(shares.reads[REQUESTS]) > 50
    assert len(shares.reads[2]) > 1000


@pytest.mark.parametrize("requests", [True, False])
@pytest.mark.parametrize("fault", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_noProgramEndsHere(monkeypatch: pytest.MonkeyPatch, fault: type[BaseException], requests: bool) -> None:
    """
    What would end a program, raised by a port or by who observes the log of that, is a fault of that port: the reactor,
    which would drop the reader of all ports, never sees it.
    """
    shares = Shares(monkeypatch, 1)

    def fail(*_: object) -> None:
        shares.kernel.now += BLOCK
        raise fault("a plugin")

    shares.set.add(50, fail, requests=requests)
    with observed(fail):
        shares.run(0.1)
    assert len(shares.reads[REQUESTS]) > 50
    assert len(shares.reads[2]) > 500


@pytest.mark.loopback
def test_noProgramEndsWithoutEpoll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each port is a reader of its own, nothing escapes either."""
    monkeypatch.delattr(select, "epoll")
    reactor = Reactor()
    watched = EpollSet(reactor)
    failed: list[None] = []

    def fail(*_: object) -> None:
        failed.append(None)
        raise SystemExit

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port, observed(fail):
        watched.add(port.fileno(), fail)
        watched.read()
    assert len(failed) == 2


def test_slices() -> None:
    """A slice of requests is shorter than a visit, so that in each visit both are read."""
    assert epoll.LONGEST_VISIT >= 4 * SLICE


@pytest.mark.loopback
def test_closedWhileReadable() -> None:
    """A reactor that is shutting down may call a set that it has just closed: nothing is read, and nothing raised."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    reads: list[None] = []
    watched = EpollSet(Reactor())
    watched.add(ours.fileno(), lambda: reads.append(None))
    other.send(b"x")
    watched.connectionLost(Failure(ConnectionDone()))
    watched.doRead()
    watched.remove(ours.fileno())
    assert reads == []
    for each in (ours, other):
        each.close()


@pytest.mark.loopback
@pytest.mark.parametrize("compiled", [False, True])
def test_manyAtOnce(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """A visit ends after 16 ports that have taken its time; the next one begins with those behind them."""
    monkeypatch.setattr(epoll, "LONGEST_VISIT", 0.0)
    ports = EpollSet(Reactor())
    ports.compiled = compiled and ports.compiled
    read: list[int] = []
    with ExitStack() as stack:
        for _ in range(64):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            sock.sendto(b"stays", sock.getsockname())
            ports.add(sock.fileno(), partial(read.append, sock.fileno()))
        for visit in range(1, 5):
            ports.read()
            assert len(set(read)) == len(read) == 16 * visit
        ports.connectionLost(Failure(ConnectionDone()))
