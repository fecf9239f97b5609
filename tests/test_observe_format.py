"""
The log: lines for people, lines for machines, and faults said once.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, eventAsText
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from castd import outcomes
from castd.observe import journal, syslog
from castd.observe.file import LineFile
from castd.observe.format import asJSON, asMessage, asText, showOctets, textLines
from castd.observe.ratelimit import MOST_TOLD, RateLimiter
from castd.observe.writer import LineWriter, eventsOnly
from castd.service.logs import jsonLog, textLog

NOON = 1_800_000_000.0


class Events:
    """Makes events as transports do, at times of the test's choice."""

    def __init__(self, observer: Any) -> None:
        self.now = NOON
        self._log = Logger(namespace="castd.test", observer=lambda event: observer({**event, "log_time": self.now}))

    def received(self, **fields: Any) -> None:
        known = {
            "transport": "tftp",
            "peer": "10.0.0.7:2070",
            "name": "pxelinux.0",
            "outcome": outcomes.DONE,
            "seconds": 0.05,
            "octets": 43_110,
            "blocks": 30,
            "repeats": 0,
        }
        self._log.info("{peer} {outcome} {name}", event="received", **{**known, **fields})

    def refused(self, name: str = "x", why: str = "File not found", **fields: Any) -> None:
        self._log.info(
            "{transport}: {peer} is refused {name}: {why}",
            event="refused",
            **{"transport": "tftp", "peer": "10.0.0.7:2070", "name": name, "code": 1, "why": why, **fields},
        )

    def fault(self, text: str = "broken") -> None:
        try:
            raise RuntimeError(text)
        except RuntimeError:
            self._log.failure("{transport}: a cast failed", event="fault", transport="tftp")

    def other(self, text: str) -> None:
        self._log.info("{text}", text=text)


def lines(stream: io.StringIO) -> list[str]:
    """What was written, without times."""
    return [line.partition("] ")[2] for line in stream.getvalue().splitlines()]


@pytest.fixture
def said() -> list[str]:
    return []


def events(said: list[str]) -> Events:
    """Events whose sentences are collected."""
    return Events(lambda event: said.append(asMessage(event)))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "tftp: 10.0.0.7:2070 pxelinux.0: complete, 42.1 KiB in 0.05 s (842 KiB/s)"),
        (
            {"repeats": 2},
            "tftp: 10.0.0.7:2070 pxelinux.0: complete, 42.1 KiB in 0.05 s (842 KiB/s), 2 blocks repeated",
        ),
        (
            {"outcome": outcomes.PROBE, "octets": 0, "blocks": 0},
            "tftp: 10.0.0.7:2070 pxelinux.0: asked for the size only",
        ),
        (
            {"outcome": outcomes.SILENT, "octets": 512, "seconds": 31.0, "blocks": 1, "repeats": 1},
            "tftp: 10.0.0.7:2070 pxelinux.0: the client fell silent, 512 B in 31 s (17 B/s), 1 block repeated",
        ),
        ({"write": True}, "tftp: 10.0.0.7:2070 wrote pxelinux.0: complete, 42.1 KiB in 0.05 s (842 KiB/s)"),
        (
            {"peer": ("fe80::1", 5, 0, 2), "octets": 1, "seconds": 0.0},
            "tftp: [fe80::1]:5 pxelinux.0: complete, 1 B in 0 s",
        ),
        ({"outcome": "soaked", "octets": 0}, "tftp: 10.0.0.7:2070 pxelinux.0: soaked"),
    ],
)
def test_transfer(said: list[str], fields: dict[str, Any], line: str) -> None:
    """A transfer is one line: who, what, how it ended, how much, how fast, and what was repeated."""
    events(said).received(**fields)
    assert said == [line]


@pytest.mark.parametrize("outcome", outcomes.MEANING)
def test_outcomes(said: list[str], outcome: str) -> None:
    """Every outcome is said in plain words."""
    events(said).received(outcome=outcome)
    assert outcomes.MEANING[outcome] in said[0]


@pytest.mark.parametrize(
    ("octets", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (102_400, "100 KiB"), (5 << 20, "5.0 MiB"), (7 << 40, "7168 GiB")],
)
def test_showOctets(octets: int, text: str) -> None:
    """Octets are told in the unit that people would take."""
    assert showOctets(octets) == text


def test_textOfOthers() -> None:
    """What others log stays as it is, with its traceback, if it has one, on lines of its own."""
    stream = io.StringIO()
    made = Events(textLog(stream))
    made.other("Site starting on 9147")
    made.fault()
    first, second, *traceback = stream.getvalue().splitlines()
    assert first.endswith("[castd.test#info] Site starting on 9147")
    assert second.endswith("[castd.test#critical] tftp: a cast failed")
    assert all(line.startswith("    ") for line in traceback)
    assert "RuntimeError: broken" in traceback[-1]


HOSTILE = "a\x1b[2J\n2026-01-01 [castd] all is well\x7f\u202e\udce9"


def test_controlOctets() -> None:
    """A client can neither write to the terminal of who reads the log, nor begin a line of his own."""
    stream = io.StringIO()
    made = Events(textLog(stream))
    made.received(name=HOSTILE)
    made.refused(HOSTILE)
    made.other(HOSTILE)
    made.fault(HOSTILE)
    text = stream.getvalue()
    text.encode("utf-8")
    assert all(line.isprintable() for line in text.splitlines())
    assert not any(line.startswith("2026-01-01 [castd]") for line in text.splitlines())
    assert "a\\x1b[2J\\x0a2026" in text


@given(st.text(st.characters(codec=None)))
def test_anyName(name: str) -> None:
    """Whatever the name is, either log has one printable line for it, and JSON reads it back."""
    texts, objects = list[Any](), list[Any]()
    Events(lambda event: (texts.append(asText(event)), objects.append(asJSON(event)))).received(name=name)
    assert texts[0].endswith("\n")
    assert texts[0][:-1].isprintable()
    assert objects[0].count("\n") == 1
    assert json.loads(objects[0])["name"].isprintable()


def test_json() -> None:
    """A line of JSON has the time, the level and every field of the event, numbers as numbers."""
    stream = io.StringIO()
    made = Events(jsonLog(stream))
    made.received(group=None, seconds=0.0500000001, ranges=[(1, 2)], blksize=1468, write=False)
    assert json.loads(stream.getvalue()) == {
        "time": "2027-01-15T08:00:00.000+00:00",
        "level": "info",
        "event": "received",
        "transport": "tftp",
        "peer": "10.0.0.7:2070",
        "peer_address": "10.0.0.7",
        "peer_port": "2070",
        "name": "pxelinux.0",
        "outcome": "done",
        "seconds": 0.05,
        "octets": 43110,
        "blocks": 30,
        "repeats": 0,
        "ranges": [[1, 2]],
        "blksize": 1468,
        "write": False,
    }


def test_jsonOfOthers() -> None:
    """What others log has its message; a fault has its traceback as a list of lines."""
    stream = io.StringIO()
    made = Events(jsonLog(stream))
    made.other("Site starting")
    made.fault()
    other, fault = map(json.loads, stream.getvalue().splitlines())
    assert (other["message"], other["system"], "text" in other) == ("Site starting", "castd.test", False)
    assert (fault["event"], fault["level"]) == ("fault", "critical")
    assert "RuntimeError: broken" in fault["traceback"][-1]


def test_faultOnce() -> None:
    """A fault is said once, and a minute later how many more there were; the next minute begins anew."""
    stream = io.StringIO()
    made = Events(textLog(stream))
    for _ in range(1000):
        made.refused()
        made.now += 0.05
    assert lines(stream) == ["tftp: 10.0.0.7:2070 is refused x: File not found"]
    made.now = NOON + 60
    made.refused()
    made.refused()
    assert lines(stream)[1:] == [
        "tftp: 10.0.0.7:2070 is refused x: File not found (and 999 more like it)",
        "tftp: 10.0.0.7:2070 is refused x: File not found",
    ]


def test_faultsApart() -> None:
    """Faults of another kind, transport, machine, file or reason are said beside it."""
    passed: list[Any] = []
    made = Events(RateLimiter(passed.append))
    for port in range(3):
        made.refused(peer=f"10.0.0.7:{port}")
        made.refused(peer=f"10.0.0.8:{port}")
        made.refused(name="y")
        made.refused(why="Access violation")
        made.refused(transport="slam")
    assert len(passed) == 5


def test_tracebackOnce() -> None:
    """A bug that strikes a thousand times has its traceback logged once, whatever its text; another has its own."""
    stream = io.StringIO()
    observer = textLog(stream)
    made = Events(observer)
    for number in range(1000):
        made.fault(f"block {number}")
    observer.flush()
    assert stream.getvalue().count("Traceback") == 1
    assert lines(stream)[-1] == "tftp: a cast failed (and 999 more like it)"
    try:
        {}["no"]
    except KeyError:
        made._log.failure("{transport}: a cast failed", event="fault", transport="tftp")
    assert stream.getvalue().count("Traceback") == 2


def test_transfersAlways() -> None:
    """Each transfer has its line, however many end the same way; so has what is no fault."""
    passed: list[Any] = []
    made = Events(RateLimiter(passed.append))
    for _ in range(50):
        made.received(outcome=outcomes.SILENT, why="too slow")
        made.other("hello")
    assert len(passed) == 100


@pytest.mark.slow
def test_manyNames() -> None:
    """Who asks for one invented name after the other does not fill the log, nor memory, and is counted."""
    passed: list[Any] = []
    observer = RateLimiter(passed.append)
    made = Events(observer)
    for number in range(10_000):
        made.refused(name=f"guess{number}")
    assert len(passed) == RateLimiter.MAX_FAULTS
    assert sum(map(len, observer._seen.values())) == RateLimiter.MAX_FAULTS
    observer.flush()
    assert len(passed) == RateLimiter.MAX_FAULTS + 1
    assert passed[-1]["count"] == 10_000 - RateLimiter.MAX_FAULTS
    assert eventAsText(passed[-1]).endswith(
        "9744 lines were left out of the log, since there were too many: 9744 refused"
    )


@pytest.mark.slow
def test_strangersKeepNobodyOut() -> None:
    """However many addresses are forged, what happens to machines that were served and their neighbours is logged."""
    passed: list[Any] = []
    made = Events(RateLimiter(passed.append))
    made.received(peer="10.0.0.7:2000")
    for number in range(30_000):
        peer = f"172.{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}:9"
        made.refused(peer=peer)
        made.received(peer=peer, outcome=outcomes.SILENT)
    passed.clear()
    made.refused(peer="10.0.0.7:2001")
    made.refused(peer="10.0.0.8:2001")
    made.received(peer="10.0.0.8:2002")
    made.refused(peer="172.20.0.1:9")
    assert [event["peer"] for event in passed] == ["10.0.0.7:2001", "10.0.0.8:2001", "10.0.0.8:2002"]


def test_inTime() -> None:
    """What was held back is said when the minute is over, though nothing more happens."""
    passed: list[Any] = []
    clock = Clock()
    made = Events(RateLimiter(passed.append, lambda seconds, call: clock.callLater(seconds, call).active()))
    for _ in range(5):
        made.refused()
        made.now += 5
    clock.advance(54.9)
    assert len(passed) == 1
    clock.advance(0.2)
    assert [event.get("more") for event in passed] == [None, 4]
    assert passed[1]["log_time"] == NOON + 60
    assert clock.getDelayedCalls() == []


def test_manySummaries() -> None:
    """
    Of the faults of a minute some are summed up, the others when the event loop has turned, and all at once if the log
    ends before.
    """
    passed: list[Any] = []
    turns: list[Callable[[], object]] = []

    def later(seconds: float, call: Callable[[], object]) -> bool:
        turns.append(call)
        return True

    def summaries() -> int:
        return sum("more" in event for event in passed)

    observer = RateLimiter(passed.append, later)
    made = Events(observer)
    for number in (*range(2 * MOST_TOLD + 3), *range(2 * MOST_TOLD + 3)):
        made.refused(peer=f"10.0.0.{number}:2000")
    turns.pop()()
    assert summaries() == MOST_TOLD
    made.now += 61
    made.received()
    assert summaries() == MOST_TOLD
    turns.pop()()
    assert summaries() == 2 * MOST_TOLD
    observer.flush()
    assert summaries() == 2 * MOST_TOLD + 3
    while turns:
        turns.pop()()
    assert summaries() == 2 * MOST_TOLD + 3


def test_tooManyLinesInTime(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many lines without a reason were too many is said and counted when the minute is over, too."""
    monkeypatch.setattr(RateLimiter, "MAX_LINES", 3)
    passed: list[Any] = []
    clock = Clock()
    observer = RateLimiter(passed.append, lambda seconds, call: clock.callLater(seconds, call).active())
    made = Events(observer)
    for _ in range(5):
        made.received()
    clock.advance(60.1)
    assert [event["event"] for event in passed] == ["received"] * 3 + ["left-out"]
    assert (passed[3]["count"], passed[3]["kinds"], passed[3]["log_time"]) == (2, "2 received", NOON + 60)
    assert observer.omitted == 2
    assert clock.getDelayedCalls() == []


def test_heldBackIsSaid() -> None:
    """What was held back is said by the first event of the next minute, be it of another kind, or by the end."""
    passed: list[Any] = []
    observer = RateLimiter(passed.append)
    made = Events(observer)
    for _ in range(3):
        made.refused()
    made.now += 61
    made.received()
    assert [event.get("more") for event in passed] == [None, 2, None]
    assert passed[1]["log_time"] == made.now
    observer.flush()
    assert len(passed) == 3


def test_clockSetBack() -> None:
    """A clock that is set back does not silence the log until it is there again."""
    passed: list[Any] = []
    made = Events(RateLimiter(passed.append))
    made.refused()
    made.now -= 3600
    made.refused()
    assert len(passed) == 2


def test_summaryInJSON() -> None:
    """In JSON the summary is the event with a number of its own."""
    stream = io.StringIO()
    observer = jsonLog(stream)
    made = Events(observer)
    for _ in range(3):
        made.refused()
    observer.flush()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert second == {**first, "more": 2}


def test_jsonFile(tmp_path: Path) -> None:
    """The file has castd's events, all of them, and nobody else's; it is appended to."""
    path = tmp_path / "events.json"
    path.write_text("{}\n")
    file = LineFile(str(path))
    observer = LineWriter(file, eventsOnly)
    assert verifyObject(ILogObserver, observer)
    made = Events(observer)
    for _ in range(3):
        made.refused()
    made.other("not castd's")
    file.close()
    made.refused()
    assert [json.loads(line).get("event") for line in path.read_text().splitlines()] == [None, *["refused"] * 3]


def test_rotated(tmp_path: Path) -> None:
    """After a rotation the file goes on under its name, and where it cannot, in the old one."""
    path = tmp_path / "logs" / "events.json"
    path.parent.mkdir()
    file = LineFile(str(path))
    made = Events(LineWriter(file, eventsOnly))
    made.received()
    path.rename(path.with_suffix(".1"))
    made.received()
    file.reopen()
    made.received()
    assert [len(each.read_text().splitlines()) for each in (path.with_suffix(".1"), path)] == [2, 1]
    path.parent.rename(tmp_path / "moved")
    with pytest.raises(OSError, match=r"events\.json"):
        file.reopen()
    made.received()
    assert len((tmp_path / "moved" / "events.json").read_text().splitlines()) == 2
    file.close()


def test_diskFull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs lines and nothing else: no half line is left, and once there is room it is told how many."""
    path = tmp_path / "events.json"
    file = LineFile(str(path))
    elsewhere: list[Any] = []
    made = Events(LineWriter(file, eventsOnly, elsewhere.append))
    write = os.write

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    made.received()
    for broken in (full, lambda fd, data: write(fd, data[:20]), full):
        monkeypatch.setattr(os, "write", broken)
        made.received()
    monkeypatch.undo()
    made.received()
    made.received()
    file.close()
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["event"] for each in told] == ["received", "lost-lines", "received", "received"]
    assert told[1]["lines"] == 3
    assert [(each["event"], each["log_level"]) for each in elsewhere] == [("lost-lines", LogLevel.warn)]


def test_diskFullBesideAnother(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line that another process has written behind is left, and does not spoil the next one."""
    path = tmp_path / "events.json"
    file, other = LineFile(str(path)), LineFile(str(path))
    write = os.write

    def half(fd: int, data: bytes) -> int:
        written = write(fd, data[:20])
        monkeypatch.setattr(os, "write", write)
        other.write("of the other\n")
        return written

    monkeypatch.setattr(os, "write", half)
    assert not file.write("x" * 40 + "\n")
    assert file.write("whole\n")
    for each in (file, other):
        each.close()
    assert path.read_text().splitlines() == ["x" * 20 + "of the other", "", "whole"]


def test_levels() -> None:
    """The level of an event is in its line of JSON; an event without one is for information."""
    assert json.loads(asJSON({"event": "x", "log_level": LogLevel.warn, "log_time": NOON}) or "")["level"] == "warn"
    assert json.loads(asJSON({"event": "x", "log_time": NOON}) or "")["level"] == "info"


def test_textLines() -> None:
    """All logs have the same lines of a traceback, and nothing that a client has sent begins another one."""
    try:
        raise RuntimeError("a\tclient's\x1b[31m")
    except RuntimeError:
        event: LogEvent = {"log_format": "x", "log_failure": Failure(), "log_level": LogLevel.critical}
    lines = textLines(event, bare=True)
    assert (lines[0], lines[-1]) == ("x", "builtins.RuntimeError: a    client's\\x1b[31m")
    assert textLines({**event, "log_time": 0.0})[1:] == lines[1:]
    assert asText({"log_format": "{x}", "x": "a\nb", "log_time": 0.0}) is not None
    (message,) = [value for name, value in journal.fields(event) if name == "MESSAGE"]
    assert message.split("\n    ") == lines
    assert list(syslog._lines(event)) == [lines[0], *(f"\t{line}" for line in lines[1:])]
