"""
The native loop does what Python does: the same octets at the same instants, the same state, whatever arrives.

Real sockets of the loopback interface, which the loop reads by their descriptors; time is virtual.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.logger import LogEvent

from castd import native
from castd.cast.policy import RetransmitPolicy
from castd.dialects import slam
from castd.dialects.tftp import Wire
from castd.native import StepLists, StepState, load
from castd.native import steps as steps_
from castd.net import epoll
from castd.net.epoll import EpollSet
from castd.packets import slam as slam_
from castd.packets.options import AgreedOptions
from castd.request import Local
from castd.server.blockcache import BlockCache
from castd.testing import BytesContent, pattern
from tests.support.clients.tftp import rrq
from tests.support.fakes import OWN_LOOPBACK, Reactor
from tests.support.jobs import ROOT
from tests.support.needs import needNative
from tests.support.quick import slowBut
from tests.support.side import FILES, UDP_SEGMENT, Side, ask, countPython, script

LONG = 1000


# Whether it is used.


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """Write a module that stands for the compiled one.  -> its name."""
    name = f"loop_{random.SystemRandom().getrandbits(64)}"
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    return name


def source(folder: Path) -> Path:
    made = folder / "_loop.pyx"
    made.write_bytes(b"a loop")
    return made


def test_aLoopOfTheseSources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that was built from the source beside it is used."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    text = "import hashlib\nSOURCE = hashlib.sha256(b'a loop').hexdigest()"
    loaded, why, warn = load(module(tmp_path, monkeypatch, text), source(tmp_path))
    assert loaded is not None
    assert (why, warn) == ("", False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SOURCE = 'of last year'", "built from other sources"),
        ("", "built from other sources"),
        ("raise ImportError('wrong ELF class')", "cannot be loaded: wrong ELF class"),
        ("raise SystemError('another ABI')", "cannot be loaded: another ABI"),
    ],
)
def test_aStaleLoop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str) -> None:
    """A loop of other sources, or one that cannot be loaded, is found out and not used; that is worth a warning."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    loaded, said, warn = load(module(tmp_path, monkeypatch, text), source(tmp_path))
    assert loaded is None
    assert why in said
    assert warn


def test_noLoop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is built, or its source is gone, or the variable says 0, Python serves; only the second is a fault."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    assert load("castd.native.no_such_loop") == (None, "not built", False)
    _, why, warn = load(module(tmp_path, monkeypatch, "SOURCE = ''"), tmp_path / "nothing")
    assert "cannot be read" in why
    assert warn
    monkeypatch.setenv(native.VARIABLE, "0")
    assert load() == (None, "CASTD_NATIVE=0", False)


@pytest.mark.slow
def test_switchedOff() -> None:
    """CASTD_NATIVE=0 makes the very classes those of Python, whatever is built, and castd says so."""
    text = "import castd.native as n, castd.server.fastpath as f; print(f.StepState.__module__, n.describe())"
    said = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env=os.environ | {"CASTD_NATIVE": "0"}, capture_output=True, text=True,
        check=True, timeout=60,
    ).stdout  # fmt: skip
    assert said == "castd.native.steps pure Python: CASTD_NATIVE=0\n"


@pytest.mark.parametrize("name", ["StepState", "StepLists", "MasterSteps"])
def test_sameAttributes(name: str) -> None:
    """The classes of the compiled loop have the attributes of those in Python, and no others."""
    needNative()
    compiled, written = getattr(native, name), getattr(steps_, name)
    found = {each for each, value in vars(compiled).items() if hasattr(value, "__set__")}
    assert found == set(written.__slots__)
    assert {each for each in vars(written) if callable(getattr(written, each)) and not each.startswith("__")} <= set(
        vars(compiled)
    )


# The loop alone.


class Steps(StepState):
    """
    A transfer that has steps and nothing else.

    @ivar seen: what Python got: datagrams, errors, and C{readable} for a call of the reader.
    @ivar handle: called for each datagram that Python gets.
    """

    def __init__(self, seconds: Callable[[], float], answers: list[bytes | None], images: list[memoryview]) -> None:
        self._prepared = StepLists()
        self._prepared.answers, self._prepared.images = answers, images
        self._seconds = seconds
        self._expected = answers[0]
        self._steps = 0
        self._steppedAt, self._interval, self.due = 0.0, 2.0, None
        self.seen: list[object] = []
        self.handle: Callable[[], object] = lambda: None

    def datagramReceived(self, datagram: bytes, peer: object) -> None:
        self.seen.append(datagram)
        self.handle()

    def stepRefused(self, datagram: bytes, peer: object) -> None:
        self.seen.append(("refused", datagram))

    def receiveFailed(self, error: OSError) -> None:
        self.seen.append(type(error))


class Hall:
    """
    Transfers in one epoll set.

    @ivar clients: their peers, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.now = 100.0
        self.set = EpollSet(Reactor())
        self.clients: list[socket.socket] = []
        self.sockets: list[socket.socket] = []
        self._life = ExitStack()

    def close(self) -> None:
        self._life.close()
        self.set.connectionLost(None)  # type: ignore[arg-type]

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return the socket of a port and that of its peer."""
        ours, client = (self._life.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        for each in (ours, client):
            each.setblocking(False)
            each.bind((OWN_LOOPBACK, 0))
        client.connect(ours.getsockname())
        ours.connect(client.getsockname())
        return ours, client

    def add(self, steps: Steps, largest: int = 2048) -> socket.socket:
        """Watch the port of this transfer.  -> the socket of its peer."""
        ours, client = self.pair()
        steps._sendStep = ours.send

        def readable() -> None:
            steps.seen.append("readable")
            # Else the socket stays readable, and is read until the visit ends.
            with suppress(OSError):
                ours.recv(1)

        reader = native.StepReader(
            steps, steps._sendStep, readable, steps.datagramReceived, steps.stepRefused, steps.receiveFailed,
            client.getsockname(), largest,
        )  # fmt: skip
        self.set.add(ours.fileno(), reader)
        self.clients.append(client)
        self.sockets.append(ours)
        return client

    def steps(self, count: int = 3, seconds: Callable[[], float] | None = None) -> Steps:
        answers = [b"ack%d" % number for number in range(count)]
        images = [memoryview(bytearray(b"block%d" % number)) for number in range(count)]
        return Steps(seconds or (lambda: self.now), [*answers, None], images)


@pytest.fixture
def hall() -> Iterator[Hall]:
    needNative()
    made = Hall()
    yield made
    made.close()


def queued(sock: socket.socket) -> list[bytes]:
    """Return the datagrams that have come to a socket."""
    found: list[bytes] = []
    while True:
        try:
            found.append(sock.recv(65535))
        except ConnectionRefusedError:
            continue  # the other end is closed; what has come before is there all the same
        except BlockingIOError:
            return found


@pytest.mark.loopback
def test_inStep(hall: Hall) -> None:
    """Each expected datagram takes one step, without Python; the state says how far it came and when."""
    steps = hall.steps()
    client = hall.add(steps)
    for number in range(3):
        hall.now += 1
        client.send(b"ack%d" % number)
        hall.set.read()
        assert queued(client) == [b"block%d" % number]
        assert (steps._steps, steps._steppedAt, steps.due) == (number + 1, hall.now, hall.now + 2)
        assert steps._expected == (b"ack%d" % (number + 1) if number < 2 else None)
    client.send(b"ack3")
    hall.set.read()
    assert steps.seen == [b"ack3"]
    assert queued(client) == []


@pytest.mark.loopback
@pytest.mark.parametrize("clock", [time.time, time.monotonic])
def test_itsClock(hall: Hall, clock: Callable[[], float]) -> None:
    """The instant of a step is that of the transfer's clock: between those that are read before and after."""
    steps = hall.steps(1, clock)
    client = hall.add(steps)
    client.send(b"ack0")
    before = clock()
    hall.set.read()
    assert before <= steps._steppedAt <= clock()
    assert steps.due == steps._steppedAt + 2


@pytest.mark.loopback
def test_aClockThatFails(hall: Hall, events: list[LogEvent]) -> None:
    """A clock that raises is logged, and the datagram is read as soon as it does not."""
    steps = hall.steps(1, lambda: 1 / 0)
    client = hall.add(steps)
    client.send(b"ack0")
    hall.set.read()
    assert [each["event"] for each in events] == ["fault"]
    steps._seconds = lambda: 7.0
    hall.set.read()
    assert (queued(client), steps._steppedAt) == ([b"block0"], 7.0)


#: Datagrams that are nearly the expected one, or nothing like it.
ROGUE = [b"", b"a", b"ack", b"ack00", b"ack1", b"Ack0", b"ack\0", b"ack0\0", bytes(2048), b"ack0" * 700]


@pytest.mark.loopback
@pytest.mark.parametrize("datagram", ROGUE, ids=lambda each: f"{len(each)}-{each[:6]!r}")
def test_unexpected(hall: Hall, datagram: bytes) -> None:
    """What is not the expected datagram, to the octet, is Python's, cut to what is read at most; no step is taken."""
    steps = hall.steps()
    client = hall.add(steps)
    client.send(datagram)
    hall.set.read()
    assert steps.seen == [datagram[:2048]]
    assert (steps._steps, steps._expected, steps.due) == (0, b"ack0", None)
    client.send(b"ack0")
    hall.set.read()
    assert queued(client) == [b"block0"]


def another(steps: Steps) -> None:
    steps._sendStep = lambda image: None


@pytest.mark.loopback
@pytest.mark.parametrize(
    "change",
    [
        lambda steps: setattr(steps, "_expected", None),
        lambda steps: setattr(steps, "_expected", memoryview(b"ack0")),
        lambda steps: setattr(steps, "_steps", 3),
        lambda steps: setattr(steps, "_steps", -1),
        lambda steps: setattr(steps, "_steps", sys.maxsize),
        lambda steps: setattr(steps, "_prepared", None),
        lambda steps: steps._prepared.images.clear(),
        lambda steps: steps._prepared.answers.clear(),
        lambda steps: setattr(steps._prepared, "images", None),
        lambda steps: setattr(steps._prepared, "answers", None),
        another,
    ],
)
def test_noStep(hall: Hall, change: Callable[[Steps], object]) -> None:
    """Where no step is prepared, or another function is to send it, the expected datagram is Python's as well."""
    steps = hall.steps()
    client = hall.add(steps)
    change(steps)
    client.send(b"ack0")
    hall.set.read()
    assert steps.seen == [b"ack0"]
    assert queued(client) == []


@pytest.mark.loopback
def test_anImageThatIsNone(hall: Hall) -> None:
    """An image that is no buffer is met by Python, which logs the fault."""
    steps = hall.steps()
    client = hall.add(steps)
    steps._prepared.images[0] = "text"  # type: ignore[call-overload]
    client.send(b"ack0")
    hall.set.read()
    assert (steps.seen, steps._steps) == ([b"ack0"], 0)


@pytest.mark.loopback
def test_refused(hall: Hall) -> None:
    """A step that the kernel does not take is not counted: Python gets the answer, and is told that it was refused."""
    steps = hall.steps()
    client = hall.add(steps)
    steps._prepared.images[0] = memoryview(bytes(LONG))
    # Datagrams of one octet: more than the kernel cuts.
    hall.sockets[0].setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1)
    client.send(b"ack0")
    hall.set.read()
    assert steps.seen == [("refused", b"ack0")]
    assert (steps._steps, steps._expected, steps.due) == (0, b"ack0", None)


@pytest.mark.loopback
def test_aClosedPeer(hall: Hall) -> None:
    """An error in the socket is Python's: the reader is called."""
    steps = hall.steps()
    client = hall.add(steps)
    client.close()
    hall.sockets[0].send(b"anybody?")
    hall.set.read()
    assert set(steps.seen) == {"readable"}


@pytest.mark.loopback
def test_nothingThereAfterAll(hall: Hall) -> None:
    """A datagram that another has read meanwhile is an error of the socket for Python, not a step."""
    first, second = hall.steps(), hall.steps()
    one, other = hall.add(first), hall.add(second)
    first.handle = lambda: (queued(hall.sockets[0]), queued(hall.sockets[1]))
    second.handle = first.handle
    one.send(b"x")
    other.send(b"x")
    hall.set.read()
    assert [*first.seen, *second.seen].count(BlockingIOError) == 1


@pytest.mark.slow
@pytest.mark.loopback
def test_closedInABatch(hall: Hall) -> None:
    """
    A port that another one closes in the same batch is not read, also if its number belongs to a new one already.
    """
    transfers = [hall.steps() for _ in range(20)]
    late = hall.steps()
    for each in transfers:
        hall.add(each)

    def closeAll() -> None:
        # The number is known only now: all others of the batch are closed, and one is opened anew.
        for each in transfers:
            each.handle = lambda: None
        for sock in hall.sockets[:20]:
            hall.set.remove(sock.fileno())
            sock.close()
        transfers.clear()
        gc.collect()
        hall.add(late)

    seen = [each.seen for each in transfers]
    for each in transfers:
        each.handle = closeAll
    for client in hall.clients:
        client.send(b"whatever")
    del each
    hall.set.read()
    assert [len(each) for each in seen].count(1) == 1
    assert set(late.seen) <= {BlockingIOError}
    hall.clients[-1].send(b"ack0")
    hall.set.read()
    assert queued(hall.clients[-1]) == [b"block0"]


@pytest.mark.slow
@pytest.mark.loopback
def test_replacedInABatch(hall: Hall) -> None:
    """Steps that another port takes away in the same batch are not taken, and those that it gives instead are."""
    transfers = [hall.steps() for _ in range(4)]
    for each in transfers:
        hall.add(each)

    def replace() -> None:
        for index, each in enumerate(transfers):
            each._prepared = StepLists()
            each._prepared.answers = [b"ack9", None] if index % 2 else []
            each._prepared.images = [memoryview(b"new")] if index % 2 else []
            each._expected = b"ack9" if index % 2 else None
        gc.collect()

    for each in transfers:
        each.handle = replace
    hall.clients[0].send(b"replace")
    hall.set.read()
    for client in hall.clients:
        client.send(b"ack9")
    hall.set.read()
    assert [queued(client) for client in hall.clients] == [[], [b"new"], [], [b"new"]]
    assert [each.seen for each in transfers] == [[b"replace", b"ack9"], [], [b"ack9"], []]


@pytest.mark.loopback
def test_rogues(hall: Hall) -> None:
    """
    Whatever arrives while ports are closed, opened and given other steps inside a batch, each expected datagram takes
    one step and nothing else takes any.
    """
    chance, live, taken = random.Random(1), [Rogue(hall) for _ in range(8)], 0
    rounds = int(os.environ.get("CASTD_ROGUES", "1000")) // 8
    for _ in range(rounds):
        for _ in range(8):
            chance.choice(live).send(chance)
        troubled = chance.choice(live)
        troubled.steps.handle = chance.choice([lambda: None, troubled.close, troubled.replace, live[0].close])
        hall.set.read()
        for index, each in enumerate(live):
            taken += each.look()
            if each.closed:
                each.client.close()
                live[index] = Rogue(hall)
    assert taken > rounds


class Rogue:
    """
    A transfer, and a peer that mixes what is expected with what is not.

    @ivar got: blocks that it has got of its present steps.
    """

    def __init__(self, hall: Hall) -> None:
        self.hall, self.closed, self.got = hall, False, 0
        self.steps = hall.steps(LONG)
        self.client = hall.add(self.steps)
        self.sock = hall.sockets[-1]

    def send(self, chance: random.Random) -> None:
        """Send the expected answer, or one that is cut, longer, flipped, repeated, or nothing like it."""
        right = self.steps._expected or b"ack"
        flipped = bytearray(right)
        flipped[chance.randrange(len(right))] ^= 1 << chance.randrange(8)
        some = chance.randbytes(chance.choice([0, 1, 4, 2047, 2048, 2049, 9000]))
        datagram = chance.choice(
            [right] * 3 + [right[: chance.randrange(len(right))], right + some, bytes(flipped), some]
        )
        with suppress(OSError):
            self.client.send(datagram)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.hall.set.remove(self.sock.fileno(), closing=True)
            self.sock.close()

    def replace(self) -> None:
        """Take the steps away, and let the memory of their images go."""
        prepared, self.steps._prepared = self.steps._prepared, StepLists()
        self.steps._prepared.answers = [b"ack0", b"ack1", None]
        self.steps._prepared.images = [memoryview(bytearray(b"block%d" % number)) for number in range(2)]
        self.steps._expected, self.steps._steps, self.got = b"ack0", 0, 0
        for view in prepared.images:
            view.release()
        prepared.images.clear()
        prepared.answers.clear()
        queued(self.client)

    def look(self) -> int:
        """Compare what the peer has got with the state.  -> how many blocks have come."""
        got = queued(self.client)
        assert got == [b"block%d" % number for number in range(self.got, self.got + len(got))]
        self.got += len(got)
        assert self.got == self.steps._steps
        self.steps.handle = lambda: None
        if self.steps._expected is None:
            self.close()
        return len(got)


@pytest.mark.loopback
def test_nothingIsHeld(hall: Hall) -> None:
    """After a step nobody holds its image: its memory can be given back; and no step leaves a reference behind."""
    steps = hall.steps(LONG)
    client = hall.add(steps)
    under = [bytearray(b"octets") for _ in range(LONG)]
    steps._prepared.images[:] = [memoryview(each) for each in under]
    objects = [steps, steps._prepared, steps._prepared.answers[5], steps._prepared.images[5], steps._sendStep]
    before = [sys.getrefcount(each) for each in objects]
    for number in range(LONG - 10):
        client.send(b"ack%d" % number)
        hall.set.read()
    client.send(b"rogue")
    hall.set.read()
    assert steps._steps == LONG - 10
    assert [sys.getrefcount(each) for each in objects] == before
    for view, octets in zip(steps._prepared.images, under, strict=True):
        view.release()
        octets.clear()


@pytest.mark.slow
@pytest.mark.loopback
def test_freedAtOnce(hall: Hall) -> None:
    """A port that is removed leaves nothing behind: its state is freed at once, its type is not."""
    gc.collect()
    kinds, readers = [sys.getrefcount(StepState), sys.getrefcount(native.StepReader)], countReaders()
    for _ in range(50):
        steps = hall.steps()
        hall.add(steps)
        hall.set.remove(hall.sockets[-1].fileno())
    del steps
    gc.collect()
    assert [sys.getrefcount(StepState), sys.getrefcount(native.StepReader)] == kinds
    assert countReaders() == readers


def countReaders() -> int:
    """Return how many readers there are; tracebacks in the log of an earlier test may hold some."""
    return sum(type(each) is native.StepReader for each in gc.get_objects())


def rounds(
    hall: Hall, requests: list[Callable[[], object]], until: float, wait: float = 0.0, near: float = 0.0
) -> tuple[int, float, float]:
    members = hall.set._members
    kernel = hall.set._epoll
    assert kernel is not None
    begun = time.monotonic() if wait else 0.0
    return native.readRounds(
        kernel.fileno(), members, requests, epoll._call, begun, until, 0.0, wait, 2, near, epoll.MOST_VAIN
    )


@pytest.mark.loopback
def test_aVisitEnds(hall: Hall) -> None:
    """However much there is to read, no round begins after the visit's time; without an end all is read."""
    steps = hall.steps(40)
    client = hall.add(steps)
    for number in range(40):
        client.send(b"ack%d" % number)
    count, begun, now = rounds(hall, [], 0.0)
    assert (count, begun, steps._steps) == (1, 0.0, 1)
    assert now <= time.monotonic()
    rounds(hall, [], time.monotonic() + 60)
    assert steps._steps == 40


@pytest.mark.slow
@pytest.mark.loopback
@pytest.mark.parametrize("near", [0.0, 0.2])
def test_waited(hall: Hall, near: float) -> None:
    """What comes while the loop sleeps, or waits without sleeping, is read; both end where nothing comes any more."""
    steps = hall.steps(40)
    client = hall.add(steps)
    client.send(b"ack0")

    def later() -> None:
        for number in (1, 2, 3):
            time.sleep(0.01)
            client.send(b"ack%d" % number)

    # One thread: of several that wake late, on a busy machine, any may send first, and its answer is no step then.
    sender = threading.Thread(target=later)
    sender.start()
    count, begun, now = rounds(hall, [], time.monotonic() + 60, wait=2.0, near=near)
    assert (count, steps._steps) == (0, 4)
    assert now - begun >= 2.0  # it waited in vain, and then it slept
    sender.join()


@pytest.mark.loopback
def test_requestsGetTheirTurn(hall: Hall) -> None:
    """As soon as a request port is readable the rounds end, so that it gets its share."""
    steps = hall.steps(40)
    client = hall.add(steps)
    ours, other = hall.pair()
    requests: list[Callable[[], object]] = []
    hall.set.add(ours.fileno(), lambda: requests.append(lambda: None))
    for number in range(40):
        client.send(b"ack%d" % number)
    other.send(b"a request")
    count, _, _ = rounds(hall, requests, time.monotonic() + 60)
    assert (count, steps._steps, len(requests)) == (2, 1, 1)


@pytest.mark.loopback
def test_aFault(hall: Hall, events: list[LogEvent]) -> None:
    """What a port raises is logged with its traceback and ends nothing, be it a SystemExit."""
    steps, other = hall.steps(), hall.steps()

    def fail() -> None:
        raise SystemExit

    steps.handle = fail
    for client in (hall.add(steps), hall.add(other)):
        client.send(b"nothing")
        client.send(b"ack0")
    hall.set.read()
    assert [queued(client) for client in hall.clients] == [[b"block0"]] * 2
    (fault,) = [each for each in events if each.get("event") == "fault"]
    assert "SystemExit" in fault["log_failure"].getTraceback()


@pytest.mark.loopback
def test_aSetThatCannotBeRead(hall: Hall, events: list[LogEvent]) -> None:
    """If the kernel does not tell the events, that is logged, and the reader is kept."""
    with socket.socket() as nothing, pytest.raises(OSError, match=r"Invalid|not permitted"):
        native.readRounds(nothing.fileno(), [], [], epoll._call, 0.0, 0.0, 0.0, 0.0, 2, 0.0, 0)


@pytest.mark.loopback
def test_asManyAsPython(hall: Hall) -> None:
    """One call of epoll_wait fetches as many events as in Python."""
    for _ in range(epoll.MOST_EVENTS + 6):
        hall.add(hall.steps())
    for client in hall.clients:
        client.send(b"ack0")
    assert rounds(hall, [], 0.0)[0] == epoll.MOST_EVENTS


# Laying out.

OCTETS = pattern(1 << 20)


def joined(headers: bytes, content: bytes, count: int, blocksize: int) -> bytes:
    """Return what C{layOut} is to return, or raise as it does."""
    if count < 1 or blocksize < 1 or len(headers) % count or not 0 <= count * blocksize - len(content) <= blocksize:
        raise ValueError
    gap = len(headers) // count
    return b"".join(
        headers[number * gap : (number + 1) * gap] + content[number * blocksize : (number + 1) * blocksize]
        for number in range(count)
    )


@given(
    st.integers(0, 9), st.integers(-2, 70), st.integers(-2, 600), st.integers(-601, 601), st.sampled_from([-1, 0, 1, 5])
)
@example(0, 3, 8, 0, 0)
@example(4, 1, 8, -8, 0)
@example(4, 64, 600, -600, 0)
def test_layOut(gap: int, count: int, blocksize: int, over: int, wrong: int) -> None:
    """Each block follows its header, to the octet; what cannot be so many blocks is refused, and nothing is read."""
    needNative()
    headers = bytes(range(256))[: max(0, gap * count + wrong)]
    content = OCTETS[: max(0, count * blocksize + over)]
    try:
        expected = joined(headers, content, count, blocksize)
    except ValueError:
        with pytest.raises(ValueError, match="blocks"):
            native.layOut(headers, content, count, blocksize)
    else:
        for buffer in (content, bytearray(content), memoryview(content)):
            assert native.layOut(headers, buffer, count, blocksize) == expected


@pytest.mark.parametrize("many", [sys.maxsize, -sys.maxsize - 1])
def test_layOutOfAnything(many: int) -> None:
    """Numbers beyond all memory, and what is no buffer, are refused."""
    needNative()
    for count, blocksize in ((many, many), (many, 1)):
        with pytest.raises(ValueError, match="blocks"):
            native.layOut(b"head", b"12345678", count, blocksize)
    for content in (None, "text", memoryview(b"12345678")[::2]):
        with pytest.raises((TypeError, BufferError)):
            native.layOut(b"head", content, 1, 4)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        native.layOut(bytearray(b"head"), b"1234", 1, 4)  # type: ignore[arg-type]


@given(
    st.one_of(st.sampled_from([8, 512, 1468, 65464]), st.integers(8, 2000)),
    st.integers(0, len(OCTETS)),
    st.floats(0, 1),
    st.sampled_from([1, 16]),
    st.sampled_from([0, 1, None]),
)
@example(8, 530_000, 0.99, 1, 0)
@example(8, 530_000, 0.99, 16, 0)
@example(8, 530_000, 0.99, 16, 1)
@example(1468, 1468 * 64, 1.0, 1, 0)
@example(1468, 0, 0.0, 16, 0)
def test_layOutsAreAlike(blksize: int, size: int, where: float, windowsize: int, rollover: int | None) -> None:
    """
    Laid out natively or by Python a chunk has the same octets, and those of its blocks: whatever the block size, the
    headers (SLAM's get longer; TFTP's begin again at 0 or 1), the chunk and the length of the last block.
    """
    needNative()
    content = BytesContent("f", OCTETS[:size])
    wire: Any
    if rollover is None:
        wire = slam.Wire(slam_.Header(1, max(1, size), blksize), ("239.255.1.1", 10000), Local("127.0.0.1", 10000))
        content = BytesContent("f", OCTETS[: max(1, size)])
    else:
        terms = AgreedOptions(blksize=blksize, windowsize=windowsize, rollover=rollover)
        wire = Wire(terms, size, RetransmitPolicy())
    number = min(int(wire.count * where), wire.count - 1)
    chunks = []
    for compiled in (True, False):
        blockCache = BlockCache(1 << 20)
        blockCache.compiled = compiled
        chunks.append(blockCache.chunk(wire, content, number))
    mine, other = chunks
    assert mine.image == other.image
    assert (mine.start, mine.stop, mine.step, mine.cost) == (other.start, other.stop, other.step, other.cost)
    assert mine.image.readonly
    assert other.image.readonly
    expected = b"".join(
        wire.header(each) + content.data[each * blksize : (each + 1) * blksize] for each in range(mine.start, mine.stop)
    )
    assert mine.image == expected


# Beside Python.


@pytest.fixture(autouse=True)
def unhurried(longVisits: None) -> None:
    """Nothing depends on how quick this machine is."""


@pytest.mark.loopback
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed < 6, range(int(os.environ.get("CASTD_SCRIPTS", "40")))))
def test_beside(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whatever happens (ACKs in time, late, twice, wrong; noise, strangers, errors; files that are replaced, ports that
    are closed, timers), a server that is read natively is in the state of one that is read by Python, after each event:
    the same octets went out, the same was logged.
    """
    needNative()
    calls = countPython(monkeypatch)
    clients = 1 + seed % 5
    sides = [Side(compiled, clients) for compiled in (True, False)]
    for turn, action in enumerate(script(seed, clients)):
        for side in sides:
            side.play(action)
        mine, other = sides
        assert mine.told() == other.told(), f"after {turn} events"
        assert mine.heard == other.heard, f"after {turn} events"
        assert mine.state() == other.state(), f"after {turn} events"
    for side in sides:
        side.close()
    assert calls.count(True) <= calls.count(False)


@pytest.mark.loopback
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed < 3, range(int(os.environ.get("CASTD_SCRIPTS", "20")))))
def test_recordedBeside(seed: int) -> None:
    """
    With the flight recorder each packet is noted natively as by Python, with the same instant, whatever happens; and a
    server that records sends the same as one that does not.
    """
    needNative()
    clients = 1 + seed % 5
    mine, other, silent = (Side(compiled, clients) for compiled in (True, False, True))
    for side in (mine, other):
        side.record(5 if seed % 2 else 500, seed % 3 == 0)
    for turn, action in enumerate(script(seed, clients)):
        for side in (mine, other, silent):
            side.play(action)
        assert mine.recorded() == other.recorded(), f"after {turn} events"
        assert mine.heard == other.heard == silent.heard, f"after {turn} events"
        assert mine.told() == other.told() == silent.told(), f"after {turn} events"
    for side in (mine, other, silent):
        side.close()


@pytest.mark.loopback
@pytest.mark.parametrize("windowsize", [1, 16])
def test_recordedWholly(windowsize: int) -> None:
    """The record of a file that is read natively has each of its blocks and ACKs once, in order, with its instant."""
    needNative()
    side = Side(True, 1)
    side.record(10_000, False)
    side.play(ask(0, rrq("long", blksize=512, windowsize=windowsize)))
    wanted = [(side.reactor.seconds(), True, b"\0\6")]
    # The last ACK would end the transfer, and with it the record.
    while (last := side.heard[0][-1])[1] == 6 or len(last) == 516:
        ack = b"\0\4" + (last[2:4] if last[1] == 3 else b"\0\0")
        side.reactor.advance(0.0001)
        seen = len(side.heard[0])
        side.play(lambda side, ack=ack: side.send(0, ack))  # type: ignore[misc]
        now = side.reactor.seconds()
        wanted.append((now, False, ack))
        wanted += [(now, True, each[:4]) for each in side.heard[0][seen:]]
    [(_, heard, kept)] = side.recorded()  # type: ignore[misc]
    assert heard
    assert [(each[0], each[1], each[4][: len(want[2])]) for each, want in zip(kept[1:], wanted, strict=True)] == wanted
    side.close()


@pytest.mark.loopback
@pytest.mark.parametrize("windowsize", [1, 16])
def test_wholeFiles(windowsize: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most blocks of a file are sent without Python, and the file arrives whole and once."""
    needNative()
    calls = countPython(monkeypatch)
    side = Side(True, 1)
    side.play(ask(0, rrq("long", blksize=512, windowsize=windowsize)))
    seen = -1
    while seen < len(side.heard[0]):
        seen = len(side.heard[0])
        last = side.heard[0][-1]
        ack = b"\0\4" + (last[2:4] if last[1] == 3 else b"\0\0")
        side.reactor.advance(0.0001)
        side.play(lambda side, ack=ack: side.send(0, ack))  # type: ignore[misc]
    blocks = [each[4:] for each in side.heard[0] if each[1] == 3]
    assert b"".join(blocks) == FILES["long"]
    answers = -(-len(blocks) // windowsize)
    # The first step of each chunk is measured, by Python.
    assert len(calls) < answers / 2
    side.close()
