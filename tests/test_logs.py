"""
Where the log goes: files that rotate, the journal, and how much of it there can be.
"""

import io
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, Logger
from zope.interface.verify import verifyObject

from castd.config import config
from castd.config.config import Config, Kinds
from castd.errors import ConfigError, Unavailable
from castd.files.access import Rule
from castd.observe import journal
from castd.observe.file import LineFile
from castd.observe.journal import JournalObserver, isJournal
from castd.observe.ratelimit import RateLimiter
from castd.service.logs import Logs, chooseFormat, logTo
from tests.support.descriptors import Descriptors

NOON = 1_800_000_000.0


def emit(observer: Any, text: str, failed: bool = False, at: float = NOON, **fields: Any) -> None:
    """An event as castd emits it."""
    log = Logger(namespace="castd", observer=lambda event: observer({**event, "log_time": at}))
    if failed:
        try:
            raise RuntimeError("broken\nfor ever")
        except RuntimeError:
            log.failure(text, **fields)
    else:
        log.error(text, **fields)


# Files.


def test_size(tmp_path: Path) -> None:
    """A file that would grow over its size becomes .1, and those before it move on; more are not kept."""
    path = tmp_path / "log"
    file = LineFile(str(path), 4096, 2)
    for number in range(16):
        file.write(f"{number}\n" * (1023 // len(f"{number}\n")))
    file.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert [(tmp_path / name).read_text().splitlines()[0] for name in ("log.2", "log.1", "log")] == ["4", "8", "12"]
    assert all(each.stat().st_size <= 4096 for each in tmp_path.iterdir())


def test_whatIsThere(tmp_path: Path) -> None:
    """What the file has already counts; without a size, or with nothing kept, there is one file."""
    path = tmp_path / "log"
    path.write_bytes(bytes(4000))
    file = LineFile(str(path), 4096, 0)
    file.write("x" * 200 + "\n")
    file.close()
    assert (path.stat().st_size, list(tmp_path.iterdir())) == (201, [path])
    whole = LineFile(str(path))
    whole.write("y" * 10_000)
    whole.close()
    assert (path.stat().st_size, list(tmp_path.iterdir())) == (10_201, [path])


def test_cannotRotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file cannot be renamed the old one goes on, and that is not tried with every line."""
    path, tried = tmp_path / "log", list[object]()

    def refuse(*names: object) -> None:
        tried.append(names)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    file = LineFile(str(path), 4096, 1)
    for _ in range(100):
        file.write("x" * 99 + "\n")
    file.close()
    assert (path.stat().st_size, file.lost, len(tried)) == (10_000, 0, 2)


def test_twoProcesses(tmp_path: Path) -> None:
    """Two that write to one file, as in an upgrade, rotate it once each time; every line of both is kept."""
    path = tmp_path / "log"
    files = [LineFile(str(path), 4096, 5) for _ in range(2)]
    for number in range(150):
        files[number % 2].write(f"{number:04}".ljust(99) + "\n")
    for file in files:
        file.close()
    found = {each.name: each.read_text().split() for each in tmp_path.iterdir()}
    assert sorted(int(line) for lines in found.values() for line in lines) == list(range(150))
    assert sorted(found) == ["log", "log.1"]
    assert found["log"][-1] == "0149"


def test_followsName(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that follows its name goes on in the one that has it; where that cannot be opened, in the one it has."""
    path = tmp_path / "log"

    def refuse(self: LineFile) -> int:
        raise PermissionError(13, "Permission denied")

    file = LineFile(str(path))
    file.write("1\n")
    path.rename(tmp_path / "log.1")
    file.write("2\n")
    assert not path.exists()
    file.followsName = True
    file.write("3\n")
    assert ((tmp_path / "log.1").read_text(), path.read_text()) == ("1\n2\n", "3\n")
    path.rename(tmp_path / "log.2")
    path.write_text("of another process\n")
    assert file.writeMany(["4\n", "5\n"]) == 2
    assert path.read_text() == "of another process\n4\n5\n"
    os.truncate(path, 0)
    file.write("6\n")
    path.rename(tmp_path / "log.3")
    monkeypatch.setattr(LineFile, "_open", refuse)
    assert file.write("7\n")
    assert (tmp_path / "log.3").read_text() == "6\n7\n"
    file.close()


# The journal.


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "journal"))
        made.setblocking(False)
        yield made


def read(datagram: bytes) -> dict[str, str]:
    """A datagram as the journal reads it: Native Journal Protocol."""
    found = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        found[name.decode()] = value.decode()
        datagram = rest
    return found


def test_journal(journald: socket.socket) -> None:
    """An event arrives with its message, its priority, and all its fields under their names."""
    observer = JournalObserver(journald.getsockname())
    assert verifyObject(ILogObserver, observer)
    emit(
        observer,
        "{transport}: {peer} is refused {name}: {why}",
        event="refused",
        transport="tftp",
        peer="10.0.0.7:2070",
        name="a\nMESSAGE=all is well",
        why="File not found",
        code=1,
        seconds=0.25,
        group=None,
        odd_Näme=[1],
    )
    observer.close()
    assert read(journald.recv(9999)) == {
        "MESSAGE": "tftp: 10.0.0.7:2070 is refused a\\x0aMESSAGE=all is well: File not found",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "castd",
        "CASTD_LOGGER": "castd",
        "CASTD_EVENT": "refused",
        "CASTD_TRANSPORT": "tftp",
        "CASTD_PEER": "10.0.0.7:2070",
        "CASTD_PEER_ADDRESS": "10.0.0.7",
        "CASTD_PEER_PORT": "2070",
        "CASTD_NAME": "a\\x0aMESSAGE=all is well",
        "CASTD_WHY": "File not found",
        "CASTD_CODE": "1",
        "CASTD_SECONDS": "0.25",
        "CASTD_ODD_N_ME": "[1]",
    }


def test_journalTraceback(journald: socket.socket) -> None:
    """A traceback is part of the message, on lines of its own; what others say has no fields."""
    observer = JournalObserver(journald.getsockname())
    emit(observer, "a cast failed", failed=True, event="fault")
    told = read(journald.recv(99_999))
    first, *lines = told["MESSAGE"].splitlines()
    assert (first, told["PRIORITY"]) == ("a cast failed", "2")
    assert "RuntimeError: broken" in told["MESSAGE"]
    assert all(line.startswith("    ") for line in lines)
    emit(observer, "Site starting", port=9147)
    assert sorted(read(journald.recv(9999))) == ["CASTD_LOGGER", "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"]
    observer.close()


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.floats() | st.binary(), max_size=8))
def test_anyFields(fields: dict[str, Any]) -> None:
    """Whatever an event carries, the journal reads as many fields as were told, with names that it takes."""
    event: LogEvent = {"log_format": "x", "event": "x", **fields}
    told = list(journal.fields(event))
    parsed = read(b"".join(journal._encode(*each) for each in told))
    assert set(parsed) == {name for name, _ in told}
    assert all(name.replace("_", "A").isalnum() and name.isascii() and name.isupper() for name in parsed)
    assert all(len(name) <= 64 and not name.startswith("_") for name in parsed)


@pytest.mark.slow
def test_journalGone(journald: socket.socket, tmp_path: Path) -> None:
    """A journal that does not keep up, or is restarted, costs events; the next one that it takes says how many."""
    where = Path(journald.getsockname())
    observer = JournalObserver(str(where))
    before = time.monotonic()
    for _ in range(10_000):
        emit(observer, "x" * 1000, event="x")
    assert observer.lost > 0
    assert time.monotonic() - before < 60
    taken = 10_000 - observer.lost
    for _ in range(taken):
        read(journald.recv(9999))
    where.rename(tmp_path / "old")
    emit(observer, "nobody hears", event="x")
    (tmp_path / "old").rename(where)
    emit(observer, "heard", event="x")
    told = read(journald.recv(9999))
    assert (told["MESSAGE"], told["CASTD_LOST"], observer.lost) == ("heard", str(10_001 - taken), 0)
    assert observer.lostInAll == 10_001 - taken
    observer.close()


def test_isJournal(tmp_path: Path) -> None:
    """Standard error is the journal's if the supervisor says so of that very file."""
    file = tmp_path / "stream"
    with file.open("w") as stream:
        found = os.fstat(stream.fileno())
        assert isJournal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, stream.fileno())
        assert not isJournal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}, stream.fileno())
        assert not isJournal({}, stream.fileno())
    assert not isJournal({"JOURNAL_STREAM": "1:2"}, 9999)


# All of it, by a service file.

KINDS = Kinds({}, {}, {}, Rule)


def configured(folder: Path, logging: dict[str, Any]) -> Config:
    """A service file that is only about the log; what else it lacks is nobody's concern here."""
    made = config.LoggingOptions.model_validate(logging, context={"folder": folder})
    tree = config.yaml.parse(f"castd: 1\nlogging: {json.dumps(logging)}\n".encode(), "x.yaml")
    none: Any = None
    return Config(Path("x.yaml"), (), (), (), None, none, made, none, none, none, none, none, none, tree)


def said(file: Path) -> list[str]:
    return [line.partition("] ")[2] or json.loads(line)["event"] for line in file.read_text().splitlines()]


def test_files(tmp_path: Path) -> None:
    """The log and the events each have their file, from the level on that is wanted of the log, and are reopened."""
    wanted = configured(tmp_path, {"file": "log", "json": "events", "level": "critical"})
    with (tmp_path / "stream").open("w") as stream:
        logs = Logs(logTo(stream))
        logs.open(wanted)
        emit(logs, "an error", event="one")
        emit(logs, "a fault", failed=True, event="two")
        (tmp_path / "log").rename(tmp_path / "log.old")
        logs.replace(logs.openOutputs(configured(tmp_path, {"file": "log"})))
        emit(logs, "later", event="three")
        logs.close()
        emit(logs, "never", event="four")
    assert said(tmp_path / "events") == ["one", "two"]
    assert "a fault" in (tmp_path / "log.old").read_text()
    assert "an error" not in (tmp_path / "log.old").read_text()
    assert said(tmp_path / "log") == ["later"]
    assert (tmp_path / "stream").read_text() == ""


def test_told(tmp_path: Path) -> None:
    """A file of the command line goes before that of the service file, and that before the usual one."""
    for options, expected in (({}, "usual"), ({"file": "own"}, "own")):
        logs = Logs(logTo(io.StringIO()), defaultFile=str(tmp_path / "usual"))
        logs.open(configured(tmp_path, options))
        emit(logs, expected, event="x")
        logs.close()
        assert said(tmp_path / expected) == [expected]
    logs = Logs(logTo(io.StringIO()), file=str(tmp_path / "told"))
    logs.open(configured(tmp_path, {"file": "own", "format": "json"}))
    emit(logs, "x", event="told")
    logs.rotate()
    emit(logs, "x", event="again")
    logs.close()
    assert [said(tmp_path / name) for name in ("told.1", "told", "own")] == [["told"], ["again"], ["own"]]


def test_notThere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a journal that cannot be had is named by its line, and nothing stays open."""
    logs, opened = Logs(logTo(io.StringIO())), Descriptors()
    with pytest.raises(Unavailable, match=r"x\.yaml:2: logging\.file: .*/none/log: No such file or directory"):
        logs.open(configured(tmp_path, {"json": "events", "file": "none/log"}))
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "none"))
    monkeypatch.setattr(journal.JournalObserver.__init__, "__defaults__", (str(tmp_path / "none"),))
    with pytest.raises(Unavailable, match=r"x\.yaml:2: logging\.format: the journal is not there: No such file"):
        logs.open(configured(tmp_path, {"json": "events", "format": "journal"}))
    assert opened.left() == []


def test_bothWays() -> None:
    """A file in the format of the journal is refused."""
    with pytest.raises(ValueError, match="the journal is no file"):
        config.LoggingOptions.model_validate({"file": "x", "format": "journal"})


def test_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journald: socket.socket) -> None:
    """By itself the log goes to the journal where standard error does, and to nobody else's."""
    monkeypatch.setattr(journal, "SOCKET", journald.getsockname())
    monkeypatch.setattr(journal, "isJournal", lambda environ: True)
    assert [chooseFormat("auto", False), chooseFormat("auto", True), chooseFormat("text", False)] == [
        "journal",
        "text",
        "text",
    ]
    assert [chooseFormat("journal", True), chooseFormat("json", True)] == ["text", "json"]
    monkeypatch.setattr(journal, "isJournal", lambda environ: False)
    assert chooseFormat("auto", False) == "text"


# How much.


@pytest.mark.slow
def test_flood() -> None:
    """Whatever strangers do, a minute has so many lines and no more, and every one that was held back is counted."""
    passed: list[Any] = []
    observer = RateLimiter(passed.append)
    for number in range(30_000):
        emit(observer, "x", event="received", transport="tftp", outcome="silent", name=f"{number}")
        emit(observer, "x", event="opened", transport="slam", name=f"{number}")
        if number % 10 == 0:
            for kind in ("refused", "crowded", "declined", "malformed"):
                emit(observer, "x", event=kind, transport="tftp", name=f"{number}", why=f"{number}")
            emit(observer, "other", port=number)
    assert len(passed) <= RateLimiter.MAX_LINES + RateLimiter.MAX_FAULTS + 8
    observer.flush()
    repeated = [each.get("more", each.get("count")) - 1 for each in passed if "more" in each or "count" in each]
    assert len(passed) + sum(repeated) == 30_000 * 2 + 3_000 * 5


def test_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in no log is counted, over reloads: what was left out, and what a full disk or journal has not taken."""
    monkeypatch.setattr(RateLimiter, "MAX_FAULTS", 2)
    logs = Logs(logTo(io.StringIO()))
    logs.open(configured(tmp_path, {"file": "log"}))
    for number in range(7):
        emit(logs, "{name}", event="refused", name=f"{number}", why="not there")
    assert logs.counts() == (0, 0)
    logs.flush()
    assert logs.counts() == (5, 0)
    logs.replace(logs.openOutputs(configured(tmp_path, {"file": "log", "json": "/dev/full"})))
    for number in range(3):
        emit(logs, "x", event="started", number=number)
    assert logs.counts() == (5, 3)
    logs.replace(logs.openOutputs(configured(tmp_path, {"file": "log"})))
    assert logs.counts() == (5, 3)
    logs.close()


def test_faultOfManyNames() -> None:
    """A bug that every request meets has its traceback in the log once, however many names are asked for."""
    passed: list[Any] = []
    observer = RateLimiter(passed.append)
    for number in range(1000):
        emit(observer, "{name} failed", failed=True, event="fault", transport="tftp", name=f"guess{number}")
    assert len(passed) == 1
    observer.flush()
    assert [each.get("more") for each in passed] == [None, 999]


def test_configError() -> None:
    """What cannot be had is a fault of the service file too, for whoever makes no difference."""
    assert issubclass(Unavailable, ConfigError)
