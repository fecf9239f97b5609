"""
The epoll set: transfers and requests share the time, a wait for a lone client holds up nothing else, none is forgotten.

With a kernel and a clock of the test's, but for the waits: there they are those of the machine.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from castd import native
from castd.net import epoll
from castd.net.epoll import EpollSet, ReactorWatch
from tests.support.fakes import Reactor
from tests.support.log import observed

#: What reading one datagram of a transfer takes, and what the request port takes at a time.  Seconds.
BLOCK, SLICE = 0.00002, 0.0005
REQUESTS = 1


class Kernel:
    """
    In place of epoll: ports that have a datagram whenever C{busy} says so.

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
            self.now += wait
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


# A wait for a lone client.

#: A wait that nobody ends, and what is far less.  Seconds.
FOREVER, SOON = 30.0, 15.0


class Pipe:
    """A reader of the reactor, which has something to read once C{write} was called."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.pipe()
        self.reads = 0

    def fileno(self) -> int:
        return self._ours

    def logPrefix(self) -> str:
        return "pipe"

    def write(self) -> None:
        os.write(self._theirs, b"x")

    def doRead(self) -> None:
        os.read(self._ours, 1)
        self.reads += 1

    def connectionLost(self, reason: Failure) -> None:
        os.close(self._ours)
        os.close(self._theirs)


class Machine:
    """
    The reactor that castd runs with, not installed and never run, and a set with one port of a transfer.

    @ivar port: what the port does when it has read a datagram; C{reads}: how many it has read.
    @ivar did: what the reactor has called.
    """

    def __init__(self, life: ExitStack, compiled: bool) -> None:
        self.reactor = EPollReactor()
        life.callback(self._close)
        self.set = EpollSet(self.reactor)
        self.set.compiled = compiled
        self._ours, self._client = (life.enter_context(each) for each in socket.socketpair(type=socket.SOCK_DGRAM))
        self.port: Callable[[], object] = lambda: None
        self.reads = 0
        self.did: list[str] = []
        self.set.add(self._ours.fileno(), self._read)

    def _close(self) -> None:
        for each in self.reactor.getReaders():
            each.connectionLost(Failure(ConnectionDone()))

    def _read(self) -> None:
        self._ours.recv(1)
        self.reads += 1
        self.port()

    def send(self) -> None:
        self._client.send(b"x")

    def visit(self) -> float:
        """Have the reactor read the set once.  -> how long that has taken."""
        begun = time.monotonic()
        self.set.doRead()
        return time.monotonic() - begun

    def turn(self) -> None:
        """Have the reactor do everything else."""
        self.reactor.runUntilCurrent()
        self.reactor.doIteration(0)
        self.reactor.runUntilCurrent()


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.skipif(not native.NATIVE, reason="no loop"))])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(epoll, "LONG_WAIT", FOREVER)
    with ExitStack() as life:
        yield Machine(life, request.param)


def fromThread(machine: Machine, pipe: Pipe) -> None:
    call = machine.reactor.callFromThread
    threading.Thread(target=call, args=(machine.did.append, "it")).start()


def timer(machine: Machine, pipe: Pipe) -> None:
    machine.reactor.callLater(0, machine.did.append, "it")


def laterTimer(machine: Machine, pipe: Pipe) -> None:
    machine.reactor.callLater(0.01, machine.did.append, "it")


def reader(machine: Machine, pipe: Pipe) -> None:
    pipe.write()


def alarm(machine: Machine, pipe: Pipe) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)


@pytest.mark.loopback
@pytest.mark.parametrize("happens", [fromThread, timer, laterTimer, reader, alarm])
def test_aWaitEnds(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, happens: Callable[[Machine, Pipe], object]
) -> None:
    """
    While the set waits for a lone client nothing else has to wait: neither a result of a thread, nor a timer that was
    set meanwhile, nor another reader, nor a signal.
    """
    pipe = Pipe()
    machine.reactor.addReader(pipe)
    call = machine.reactor.callFromThread
    old = signal.signal(signal.SIGALRM, lambda *_: call(machine.did.append, "it"))
    try:
        machine.port = lambda: happens(machine, pipe)
        machine.send()
        assert machine.visit() < SOON
        machine.turn()
        assert machine.did == ["it"] or pipe.reads == 1
    finally:
        signal.signal(signal.SIGALRM, old)


@pytest.mark.loopback
def test_aWaitEndsForATimer(machine: Machine) -> None:
    """A timer that was set before the set began to wait is not late."""
    machine.reactor.callLater(0.01, machine.did.append, "it")
    machine.send()
    assert machine.visit() < SOON
    machine.turn()
    assert machine.did == ["it"]


@pytest.mark.loopback
def test_aReaderThatIsNotReadAnyMore(machine: Machine) -> None:
    """What the reactor reads no more, though there is something to read, does not have the set read for nothing."""
    pipe = Pipe()
    machine.reactor.addReader(pipe)
    machine.port = pipe.write
    machine.send()
    assert machine.visit() < SOON
    machine.turn()
    assert pipe.reads == 1
    machine.reactor.removeReader(pipe)
    pipe.write()
    machine.port = partial(machine.reactor.callLater, 0, machine.did.append, "it")
    machine.send()
    assert machine.visit() < SOON
    assert select.select([machine.set], [], [], 0)[0] == []
    pipe.connectionLost(Failure(ConnectionDone()))


@pytest.mark.loopback
def test_whoCannotBeWatched(machine: Machine) -> None:
    """Where the reactor waits to be able to write, or a reader cannot be watched, the set waits for a moment only."""
    watch = ReactorWatch(machine.reactor, machine.set)
    watch.update()
    assert watch.patience() == FOREVER
    ours, other = socket.socketpair()
    with ours, other:
        writer = Pipe()
        writer.fileno = other.fileno  # type: ignore[method-assign]
        machine.reactor.addWriter(writer)
        watch.update()
        assert watch.patience() == epoll.SHORT_WAIT
        machine.reactor.removeWriter(writer)
        watch.update()
        assert watch.patience() == FOREVER
    watch.close()
    pipe = Pipe()
    machine.reactor.addReader(pipe)
    watch.update()
    assert watch.patience() == epoll.SHORT_WAIT


@pytest.mark.loopback
def test_anotherWithTheSameDescriptor(machine: Machine) -> None:
    """A reader that has got the descriptor of one that was closed is watched like any other."""
    watch = ReactorWatch(machine.reactor, machine.set)
    first = Pipe()
    machine.reactor.addReader(first)
    watch.update()
    machine.reactor.removeReader(first)
    first.connectionLost(Failure(ConnectionDone()))
    second = Pipe()
    assert second.fileno() == first.fileno()
    machine.reactor.addReader(second)
    watch.update()
    second.write()
    assert select.select([watch], [], [], 0)[0] == [watch]
    watch.close()


@pytest.mark.loopback
def test_aBusyReader(machine: Machine) -> None:
    """
    A reader that always has something to read cuts no visit short while many transfers are busy, and keeps nobody from
    being read: neither transfers nor requests.
    """
    pipe = Pipe()
    machine.reactor.addReader(pipe)
    pipe.write()
    reads = dict.fromkeys(range(10), 0)
    with ExitStack() as life:
        for number in reads:
            ours, other = (life.enter_context(each) for each in socket.socketpair(type=socket.SOCK_DGRAM))
            other.send(b"x")

            def read(number: int = number) -> None:
                reads[number] += 1

            machine.set.add(ours.fileno(), read, requests=number == 0)
        machine.visit()
        assert min(reads.values()) >= 1
        assert max(reads.values()) > 10
