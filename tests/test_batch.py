"""
The log and the metrics are the same, octet for octet, whether the events of finished transfers come in batches or one
by one.
"""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LegacyLogObserverWrapper, LogEvent, LogLevel, LogPublisher
from twisted.python.failure import Failure

from castd.observe.batch import DELAY, MOST, EventBatch
from castd.observe.format import showInstant
from castd.observe.journal import JournalObserver
from castd.observe.metrics import Counters
from castd.observe.status import resources
from castd.service.logs import Logs, logTo
from castd.testing import Network
from tests.support.disks import result
from tests.support.jobs import free
from tests.support.server import START, TFTP, Case, Client, pageOf, statusOf
from tests.test_logs import configured

NOON = 1_800_000_000.0


class Disk:
    """
    What is left of a disk; writes to its files take it, and what does not fit is cut.

    @ivar free: octets.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.free: dict[str, int] = {}
        self.writes = 0
        self._write = os.write
        patch.setattr(os, "write", self.write)

    def write(self, fd: int, octets: bytes) -> int:
        path = os.path.realpath(f"/proc/self/fd/{fd}").partition(".")[0]
        self.writes += 1
        fitting = octets[: self.free.get(path, 1 << 30)]
        if not fitting and octets:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, fitting)
        if path in self.free:
            self.free[path] -= written
        return written


class Broken:
    """An observer of somebody else, that fails at some events."""

    def __repr__(self) -> str:
        return "a broken observer"

    def __call__(self, event: LogEvent) -> None:
        if event.get("name") == "bad":
            raise RuntimeError("a plugin is broken")


class Side:
    """
    A log, a file of events and metrics, in a folder of their own.

    @ivar seen: what an observer of somebody else gets.
    """

    def __init__(self, folder: Path, disk: Disk, inBatches: bool, options: dict[str, Any], brokenFirst: bool) -> None:
        folder.mkdir()
        self.folder, self.disk, self.clock = folder, disk, Clock()
        self.publisher = LogPublisher()
        self.logs = Logs(logTo(io.StringIO()))
        self.logs.clock = self.clock
        self.logs.open(configured(folder, {"file": "log", **options}))
        self.seen: list[LogEvent] = []
        self.batch = EventBatch(self.publisher)
        self.counters = Counters(catchUp=self.batch.flush)
        self.logs.catchUp = self.batch.flush
        if brokenFirst:
            self.publisher.addObserver(Broken())
        if inBatches:
            self.batch.add(self.logs, self.logs.together)
            self.batch.add(self.counters)
            self.batch.start(self.clock, lambda: True)
            self.publisher.addObserver(self.batch)
        else:
            self.publisher.addObserver(self.logs)
            self.publisher.addObserver(self.counters)
        self.publisher.addObserver(lambda event: self.seen.append(dict(event)))
        if not brokenFirst:
            self.publisher.addObserver(Broken())

    def emit(self, event: LogEvent) -> None:
        self.publisher(dict(event))

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def fill(self, name: str, free: int | None) -> None:
        """From now on the disk takes so many more octets of the log or the events; all that was before is written."""
        self.logs.counts()
        path = str(self.folder / name)
        self.disk.free.pop(path, None)
        if free is not None:
            self.disk.free[path] = free

    def reload(self, options: dict[str, Any]) -> None:
        self.logs.replace(self.logs.openOutputs(configured(self.folder, {"file": "log", **options})))

    def look(self) -> object:
        """Return what anybody can see without waiting, but for the files."""
        lines = pageOf(self.counters).decode().splitlines()
        counted = [line for line in lines if line.startswith("castd_") and "_created" not in line]
        return counted, self.logs.counts(), [{key: str(value) for key, value in each.items()} for each in self.seen]

    def close(self) -> dict[str, bytes]:
        """Stop it.  -> the content of its files."""
        self.batch.stop()
        self.logs.close()
        return {each.name: each.read_bytes() for each in self.folder.iterdir()}


def failure() -> Failure:
    try:
        raise ValueError("it broke\nin two lines")
    except ValueError:
        return Failure()


FAILURE = failure()
NAMES = st.sampled_from(["f", "a/b", "bad", "x\ny", "\udcff", "ä" * 40])
KINDS = ("done", "done", "done", "silent", "upload", "refused", "opened", "request", "twisted", "fault", "odd")
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "json": st.just("events"),
        "level": st.sampled_from(["debug", "info", "warn"]),
        "format": st.sampled_from(["text", "json"]),
        "size": st.just("4 KiB"),
    },
)
EVENTS = st.tuples(st.just("emit"), st.sampled_from(KINDS), st.integers(0, 3), NAMES)
STEPS = st.one_of(
    EVENTS,
    EVENTS,
    EVENTS,
    st.tuples(st.just("storm"), st.integers(2, 300)),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.02, 0.05, 0.5, 61.0])),
    st.tuples(st.just("fill"), st.sampled_from(["log", "events"]), st.none() | st.integers(0, 900)),
    st.tuples(st.just("reload"), OPTIONS),
    st.sampled_from([("rotate",), ("look",)]),
)


def made(kind: str, machine: int, name: str, at: float) -> LogEvent:
    """An event of this kind, as castd or others log it."""
    event: LogEvent = {"log_time": at, "log_level": LogLevel.info, "log_namespace": "castd", "log_format": "{name}"}
    if kind == "twisted":
        return {**event, "log_namespace": "twisted.internet", "log_format": "Starting protocol"}
    if kind == "fault":
        return {**event, "log_level": LogLevel.critical, "log_failure": FAILURE, "event": "fault"}
    ended = kind in ("done", "silent", "upload", "odd")
    fields: LogEvent = {
        "event": "received" if ended else kind,
        "transport": "tftp",
        "peer": f"10.0.{machine}.9:{2000 + machine}",
        "name": name,
        "write": kind == "upload",
    }
    if ended:
        outcome = "silent" if kind == "silent" else "done"
        fields |= {"outcome": outcome, "octets": 16384, "blocks": 12, "repeats": machine, "seconds": 0.25 * machine}
    if kind == "odd":
        fields["log_failure"] = FAILURE
    if kind == "refused":
        fields |= {"code": 1, "why": "not found"}
    level = {"request": LogLevel.debug, "refused": LogLevel.warn}.get(kind, LogLevel.info)
    return {**fields, **event, "log_level": level}


Script = list[tuple[Any, ...]]


def play(side: Side, script: Script, now: Callable[[float], None]) -> Iterator[object]:
    """Do the steps of a script.  -> what is seen at each look."""
    at = NOON
    for what, *args in script:
        if what == "emit":
            kind, machine, name = args
            side.emit(made(kind, machine, name, at))
        elif what == "storm":
            for number in range(args[0]):
                side.emit(made("done", number % 3, f"f{number}", at))
        elif what == "wait":
            at += args[0]
            now(at)
            side.wait(args[0])
        elif what == "look":
            yield side.look()
        else:
            getattr(side if what != "rotate" else side.logs, what)(*args)
    yield side.look()


@pytest.mark.slow
@given(st.lists(STEPS, max_size=25), OPTIONS, st.booleans())
@example(
    [("storm", 40), ("fill", "events", 5000), ("storm", 80), ("emit", "refused", 1, "f")], {"json": "events"}, False
)
@example([("fill", "log", 2000), ("storm", 80), ("fill", "log", None), ("storm", 3)], {"size": "4 KiB"}, False)
@example([("fill", "events", 300), ("storm", 5), ("wait", 0.5), ("emit", "done", 1, "bad")], {"json": "events"}, True)
@example([("storm", 37), ("reload", {}), ("storm", 2)], {"size": "4 KiB"}, False)
@example([("storm", 300), ("reload", {"json": "events", "level": "warn"}), ("storm", 20), ("rotate",)], {}, True)
def test_sameInBatches(script: Script, options: dict[str, Any], brokenFirst: bool) -> None:
    """Whatever happens, files, counts, and what others observe are the same as without batches."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        found = []
        for name, inBatches in (("one by one", False), ("in batches", True)):
            clock = [NOON]
            patch.setattr("twisted.logger._logger.time", lambda clock=clock: clock[0])
            side = Side(folder / name, Disk(patch), inBatches, options, brokenFirst)
            looks = list(play(side, script, lambda at, clock=clock: clock.__setitem__(0, at)))
            found.append((looks, side.close()))
            patch.undo()
    assert found[1] == found[0]


# When they are delivered.


class Heard:
    """
    A batch beside a clock.

    @ivar names: of the events that its observer has got; C{"|"}: a batch has ended.
    """

    def __init__(self, mayKeep: bool = True) -> None:
        self.names: list[str] = []
        self.told: list[LogEvent] = []
        self.clock, self.publisher = Clock(), LogPublisher(self.told.append)
        self.batch = EventBatch(self.publisher)
        self.batch.add(self.observe, self.together)
        self.batch.start(self.clock, lambda: mayKeep)
        self.publisher.addObserver(self.batch)

    def observe(self, event: LogEvent) -> None:
        if "log_failure" not in event:
            self.names.append(event["name"])

    @contextmanager
    def together(self) -> Iterator[None]:
        yield
        self.names.append("|")

    def emit(self, *names: str, kind: str = "done") -> None:
        for name in names:
            self.publisher(made(kind, 1, name, NOON))


def test_atLast() -> None:
    """An event is delivered 50 ms after it was logged at the latest, with those that came since, by one timer."""
    heard = Heard()
    heard.emit("a")
    heard.clock.advance(DELAY * 0.9)
    heard.emit("b")
    assert (heard.names, len(heard.clock.getDelayedCalls())) == ([], 1)
    heard.clock.advance(DELAY * 0.11)
    assert (heard.names, heard.clock.getDelayedCalls()) == (["a", "b", "|"], [])
    heard.emit("c")
    heard.clock.advance(DELAY)
    assert heard.names[3:] == ["c"]


def test_atMost() -> None:
    """No more are kept than a bound; what is logged besides, or is looked for, has those that are kept delivered."""
    heard = Heard()
    heard.emit(*"a" * MOST)
    assert heard.names == [*"a" * MOST, "|"]
    heard.emit("b", "c")
    heard.emit("d", kind="refused")
    assert heard.names[MOST + 1 :] == ["b", "c", "|", "d"]
    heard.emit("e")
    heard.batch.flush()
    assert heard.names[-1] == "e"
    heard.emit("f")
    heard.batch.stop()
    heard.emit("g")
    assert (heard.names[-2:], heard.clock.getDelayedCalls()) == (["f", "g"], [])


def test_flushedByAThread() -> None:
    """Who logs in a thread has what is kept delivered, and leaves the reactor's timer alone: it is not for threads."""
    heard = Heard()
    heard.emit("a")
    (timer,) = heard.clock.getDelayedCalls()
    thread = threading.Thread(target=heard.emit, args=("b",), kwargs={"kind": "refused"})
    thread.start()
    thread.join()
    assert heard.names == ["a", "b"]
    assert (timer.active(), heard.clock.getDelayedCalls()) == (True, [timer])
    heard.emit("c")
    heard.clock.advance(DELAY)
    assert (heard.names, heard.clock.getDelayedCalls()) == (["a", "b", "c"], [])


def test_loggedMeanwhile() -> None:
    """What an observer logs while it gets a batch comes behind that batch."""
    heard = Heard()

    def observer(event: LogEvent) -> None:
        if event["name"] == "a":
            heard.emit("c")

    heard.batch.add(observer)
    heard.emit("a", "b")
    heard.batch.flush()
    assert [name for name in heard.names if name != "|"] == ["a", "b", "c"]


def test_notKept() -> None:
    """Where nothing may be kept an event is delivered at once."""
    heard = Heard(mayKeep=False)
    heard.emit("a")
    assert (heard.names, heard.clock.getDelayedCalls()) == (["a"], [])


def test_comeAndGo() -> None:
    """An observer gets what is logged from when it is added until it is removed, not what was kept before."""
    heard, other = Heard(), list[LogEvent]()
    observer = other.append
    heard.emit("a")
    heard.batch.add(observer)
    heard.emit("b")
    heard.batch.remove(observer)
    heard.emit("c")
    heard.batch.flush()
    assert heard.names == ["a", "b", "c"]
    assert [each["name"] for each in other] == ["b"]


def test_fails() -> None:
    """One that fails at some events gets the others; all others are told of each failure, and lose nothing."""
    heard, got = Heard(), list[str]()

    def fail(event: LogEvent) -> None:
        if event["name"] == "bad":
            raise RuntimeError("broken")
        got.append(event["name"])

    heard.batch.add(fail)
    heard.emit("a", "bad", "b", "bad")
    heard.emit("bad", "c", kind="refused")
    assert got == ["a", "b", "c"]
    assert [name for name in heard.names if name != "|"] == ["a", "bad", "b", "bad", "bad", "c"]
    failures = [each for each in heard.told if "log_failure" in each]
    assert [str(each["log_failure"].value) for each in failures] == ["broken"] * 3
    assert {each["observer"] for each in failures} == {fail}


def test_failsAtTheEnd() -> None:
    """If what an observer does at the end of a batch fails, the others are told; that ends nothing."""
    heard = Heard()

    @contextmanager
    def broken() -> Iterator[None]:
        yield
        raise OSError(errno.EIO, "broken")

    heard.batch.add(lambda event: None, broken)
    heard.emit("a", "b")
    heard.clock.advance(DELAY)
    heard.emit("c")
    heard.clock.advance(DELAY)
    assert heard.names == ["a", "b", "|", "c"]
    assert sum("log_failure" in each for each in heard.told) == 1


def test_writtenInto() -> None:
    """What an observer of Twisted's older interface writes into an event is not in the log."""
    heard, got = Heard(), list[LogEvent]()
    heard.batch.add(lambda event: got.append(dict(event)))
    heard.publisher.addObserver(LegacyLogObserverWrapper(lambda event: event.update(name="other")))
    heard.emit("a", "b")
    heard.batch.flush()
    assert got == [made("done", 1, name, NOON) for name in "ab"]


# The whole server.


@pytest.fixture
def case(tmp_path: Path) -> Case:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "file").write_bytes(b"f" * 1300)
    text = f"{START}logging: {{json: events}}\naccess: [{{allow: any}}]\n{TFTP}"
    return Case(tmp_path, Network(seed=1, latency=0.0001), text)


def written(case: Case, file: str = "events") -> list[str]:
    """Return the kinds of the events in a file."""
    return [json.loads(line)["event"] for line in (case.folder / file).read_text().splitlines()]


def test_server(case: Case, events: list[LogEvent]) -> None:
    """The event of a transfer is in the file after 50 ms, with the instant of its end; others see it at once."""
    before = written(case)
    Client(case.network).finish()
    case.network.advance(0.01)
    assert events[-1]["event"] == "received"
    assert written(case) == before
    case.network.advance(DELAY)
    assert written(case) == [*before, "received"]
    told = json.loads((case.folder / "events").read_text().splitlines()[-1])
    assert told["time"] == showInstant(events[-1]["log_time"])


def fetched(case: Case) -> int:
    """Fetch the file once.  -> how many lines of it are written at once: none."""
    before = written(case).count("received")
    Client(case.network).finish()
    case.network.advance(0.01)
    return written(case).count("received") - before


@pytest.mark.parametrize("look", ["status", "page", "rotate", "reload", "handOver", "stop"])
def test_broughtUpToDate(case: Case, look: str) -> None:
    """Whatever looks, exchanges files, or ends the server or its part has what is kept written before, and once."""
    server = case.server
    counters = server.admin._countersHere()
    server.batch.add(counters)
    assert fetched(case) == 0
    old = case.folder / "events"
    if look == "status":
        held = statusOf(server)["held"]
        del held["descriptors"]
        assert held == resources(server.site, server.histories.pendingCalls)
    elif look == "page":
        assert b'castd_received_total{outcome="done",transport="tftp",write="false"} 1.0' in pageOf(counters)
    elif look == "rotate":
        server.logs.rotate()
        old = case.folder / "events.1"
    elif look == "reload":
        assert case.reload(f"{START}logging: {{json: later}}\naccess: [{{allow: any}}]\n{TFTP}") == ()
    elif look == "handOver":
        server.stopServing()
    else:
        result(server.stopService())
    assert written(case, old.name).count("received") == 1
    case.network.advance(1)
    assert (
        sum('"received"' in line for each in case.folder.glob("events*") for line in each.read_text().splitlines()) == 1
    )
    later = case.folder / "later"
    assert not later.exists() or "received" not in written(case, later.name)


def test_besideAnother(case: Case) -> None:
    """While another process writes to the same files each line is written at once, in the order of both."""
    case.server.draining = True
    assert fetched(case) == 1
    case.server.draining = False
    assert fetched(case) == 0


@pytest.mark.parametrize("end", ["handOver", "stop"])
def test_renamedLater(case: Case, end: str) -> None:
    """A process that only ends its transfers is sent no reload: it goes on in the new file by itself."""
    client = Client(case.network)
    stopping = case.server.stopServing() if end == "handOver" else case.server.stopService()
    (case.folder / "events").rename(case.folder / "events.1")
    client.finish()
    case.network.advance(1)
    assert ("received" in written(case, "events.1"), "received" in written(case)) == (False, True)
    if end == "handOver":
        case.server.resumeServing()
        (case.folder / "events").rename(case.folder / "events.2")
        Client(case.network).finish()
        case.network.advance(1)
        assert not (case.folder / "events").exists()
    result(stopping)


def test_toTheJournal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that dates events by their arrival gets each at once; one of lines, or none, may wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "journal"))
        monkeypatch.setattr(JournalObserver.__init__, "__defaults__", (str(tmp_path / "journal"),))
        for makeObserver, options, expected in (
            (logTo(io.StringIO()), {"format": "journal"}, False),
            (logTo(io.StringIO()), {"format": "journal", "json": "events"}, False),
            (logTo(io.StringIO()), {"file": "log"}, True),
            (logTo(io.StringIO()), {"format": "text", "json": "events"}, True),
            (lambda form: print, {}, False),
            (None, {"json": "events"}, True),
            (None, {}, True),
        ):
            logs = Logs(makeObserver)
            logs.open(configured(tmp_path, options))
            assert logs.mayWait == expected, options
            logs.close()


def test_serverWithoutWaiting(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server asks its log whether events may wait."""
    monkeypatch.setattr(Logs, "mayWait", False)
    assert fetched(case) == 1


CRASH = """
import sys
from twisted.internet import reactor
from twisted.logger import Logger, globalLogBeginner
from castd.service.bootstrap import prepare
from castd.service.logs import Logs, logTo

server = prepare(sys.argv[1], reactor)
server.logs = Logs(logTo(sys.stderr))
server.logs.open(server.config)
globalLogBeginner.beginLoggingTo([server.logs], redirectStandardIO=False)
server.startService()

def crash():
    for number in range(3):
        Logger(namespace="castd").info("{name}", event="received", name=f"file{number}", outcome="done")
    reactor.crash()

reactor.callWhenRunning(crash)
reactor.run()
"""


@pytest.mark.slow
@pytest.mark.loopback
def test_mainLoopCrashes(tmp_path: Path) -> None:
    """If the main loop ends without a stop, all that was logged is in the log, once."""
    (tmp_path / "boot").mkdir()
    (port,) = free(socket.SOCK_DGRAM)
    text = f"{START}access: [{{allow: any}}]\ntransports:\n  tftp: {{port: {port}, interface: 127.0.0.1}}\n"
    (tmp_path / "x.yaml").write_text(text)
    argv = [sys.executable, "-c", CRASH, str(tmp_path / "x.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert [line.count("complete") for line in done.stderr.splitlines()[-3:]] == [1, 1, 1], done.stderr
    assert done.stderr.count("complete") == 3
