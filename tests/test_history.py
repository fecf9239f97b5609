"""The history keeps what happened to each machine: bounded, over restarts, and no stranger displaces it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel

from castd.observe import eventstore, history
from castd.observe.eventstore import KeptEvent, Query, Store, readFile
from castd.observe.history import History, entryOf, isKept
from tests.support.disks import nobody
from tests.support.log import observed

T = TypeVar("T")

LARGE = 1 << 30
AGE = 3600.0


def received(
    time: float, peer: str = "10.0.0.9:2000", name: str = "kernel", outcome: str = "done", octets: int = 512
) -> LogEvent:
    return {
        "event": "received",
        "log_time": time,
        "log_level": LogLevel.info,
        "log_format": "…",
        "transport": "tftp",
        "peer": peer,
        "name": name,
        "outcome": outcome,
        "octets": octets,
        "seconds": 1.0,
    }


def refused(time: float, peer: str = "10.0.0.9:2000", name: str = "nothing", why: str = "not there") -> LogEvent:
    return {
        "event": "refused",
        "log_time": time,
        "log_level": LogLevel.info,
        "log_format": "{transport}: {peer} is refused {name}: {why}",
        "transport": "tftp",
        "peer": peer,
        "name": name,
        "why": why,
        "code": 1,
    }


class Kept:
    """A history in the hands of a test: its clock is virtual, and its thread runs at once."""

    def __init__(
        self, path: Path | None = None, age: float = AGE, size: int = LARGE, clock: Clock | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.held: list[Callable[[], None]] = []
        self.slow = False
        self.store = Store(None if path is None else str(path), age, size, self.clock.seconds)
        self.history = History(self.clock, self.run, self.store)

    def run(self, function: Callable[[], T], /) -> Deferred[T]:
        if not self.slow:
            return maybeDeferred(function)
        later: Deferred[T] = Deferred()
        self.held.append(lambda: maybeDeferred(function).chainDeferred(later))
        return later

    def found(self, **query: object) -> list[eventstore.Found]:
        results: list[list[eventstore.Found]] = []
        self.history.find(Query(**query)).addCallback(results.append)  # type: ignore[arg-type]
        return results[0]


def test_each() -> None:
    """What happened to one machine is found by its address, by name, by time, and by whether it failed."""
    kept = Kept()
    kept.history(received(100.0))
    kept.history(refused(200.0))
    kept.history(received(300.0, peer="[fd00::9]:2000", outcome="silent"))
    assert [each["event"] for each in kept.found(address="10.0.0.9")] == ["received", "refused"]
    assert [each["name"] for each in kept.found(name="noth*")] == ["nothing"]
    assert [each["address"] for each in kept.found(since=250.0)] == ["fd00::9"]
    assert [each["failed"] for each in kept.found(failed=True)] == [True, True]
    assert [each["time"][11:19] for each in kept.found(limit=1)] == ["00:05:00"]


def test_message() -> None:
    """An entry is shown as the line of the log, with its fields."""
    kept = Kept()
    kept.history(refused(1.0, name="a\x1b"))
    (found,) = kept.found()
    assert found["message"] == "tftp: 10.0.0.9:2000 is refused a\\x1b: not there"
    assert (found["fields"]["code"], "log_format" in found["fields"]) == (1, False)


def test_nameOfAnyOctets() -> None:
    """A pattern with an octet that is not UTF-8 finds the name that has it."""
    kept = Kept()
    kept.history(refused(1.0, name="a\udcff"))
    assert [each["event"] for each in kept.found(name="*\udcff")] == ["refused"]


def test_merged() -> None:
    """What is alike but for its time is one entry, the latest, with the number of all; other verdicts stay apart."""
    kept = Kept()
    kept.history(refused(9.0, peer="10.0.0.8:7"))
    for time in range(5):
        kept.history(refused(10.0 + time, peer=f"10.0.0.9:{2000 + time}"))
        kept.clock.advance(1)
    for time in range(5):
        kept.history({**received(20.0 + time, outcome="silent"), "verdict": ("mtu", "silent")[time == 2]})
        kept.clock.advance(1)
    found = kept.found(merged=True)
    assert [(each["address"], each["fields"].get("verdict"), each["times"]) for each in found] == [
        ("10.0.0.8", None, 1),
        ("10.0.0.9", None, 5),
        ("10.0.0.9", "silent", 1),
        ("10.0.0.9", "mtu", 4),
    ]
    assert [each["fields"]["peer"] for each in found[:2]] == ["10.0.0.8:7", "10.0.0.9:2004"]
    assert found == kept.found(merged=True, failed=True)
    assert len(kept.found(merged=True, limit=2)) == 2
    assert kept.found(merged=True, address="10.0.0.8") == found[:1]


def test_mergedWithoutEnd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last ones are looked at, so that a page costs the same beside a long history."""
    kept = Kept()
    monkeypatch.setattr(eventstore, "MOST_MERGED", 3)
    for time in range(5):
        kept.history(refused(10.0 + time))
        kept.clock.advance(1)
    assert [each["times"] for each in kept.found(merged=True)] == [3]


def test_groupsThatAreNotHeard() -> None:
    """Who hears nothing of a group has not got what it wanted; who is moved from it for another reason has."""
    moved = {**refused(1.0), "event": "moved"}
    assert [entry.failed for entry in map(entryOf, (moved, {**moved, "verdict": "no-multicast"})) if entry] == [0, 1]


def test_whichMachine() -> None:
    """With what has failed stands which machine had the address then; others are not looked for."""
    kept = Kept()
    asked: list[object] = []

    def identify(addresses: Collection[str]) -> dict[str, dict[str, str]]:
        asked.append(addresses)
        return {"10.0.0.9": {"mac": f"52:54:00:66:00:{len(asked)}0", "arch": "efi-x64"}}

    kept.history = History(kept.clock, kept.run, kept.store, identify)
    kept.history(received(1.0))
    kept.clock.advance(1)
    assert asked == []
    for time in (2.0, 3.0):
        for host in ("10.0.0.8", "10.0.0.9"):
            kept.history(refused(time, peer=f"{host}:2000"))
        kept.history(received(time))
        kept.clock.advance(1)
    assert asked == [{"10.0.0.8", "10.0.0.9"}] * 2
    known = [
        (each["address"], each["fields"].get("mac"), each["fields"].get("arch")) for each in kept.found(failed=True)
    ]
    assert known == [
        ("10.0.0.8", None, None),
        ("10.0.0.9", "52:54:00:66:00:10", "efi-x64"),
        ("10.0.0.8", None, None),
        ("10.0.0.9", "52:54:00:66:00:20", "efi-x64"),
    ]
    assert [each for each in kept.found() if not each["failed"] and "mac" in each["fields"]] == []


def test_byMac() -> None:
    """A machine is found by its MAC: what it has asked by DHCP, and what has failed at the address that it had then."""
    kept = Kept()
    mac = "52:54:00:66:00:10"
    kept.history = History(kept.clock, kept.run, kept.store, lambda _: {"10.0.0.9": {"mac": mac}})
    kept.history({**refused(1.0), "event": "unanswered", "peer": None, "machine": mac})
    for host in ("10.0.0.8", "10.0.0.9"):
        kept.history(refused(2.0, peer=f"{host}:2000"))
    found = kept.found(address=mac.upper().replace(":", "-"))
    assert [(each["address"], each["event"], each["failed"]) for each in found] == [
        (mac, "unanswered", True),
        ("10.0.0.9", "refused", True),
    ]
    assert kept.found(address="52:54:00:66:00:11") == []


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("fd00:0:0::0009", {"fd00::9"}),
        ("FD00::9", {"fd00::9"}),
        ("::ffff:10.0.0.9", {"10.0.0.9"}),
        ("fe80::1", {"fe80::1%one", "fe80::1%two", "fe80::1"}),
        ("FE80::0:1%one", {"fe80::1%one"}),
        ("fd00::", set()),
        ("10.0.0", set()),
    ],
)
def test_spellingsOfAnAddress(asked: str, found: set[str]) -> None:
    """A machine is found however its address is written; without a zone a link-local one is found on each network."""
    kept = Kept()
    for host in (
        "10.0.0.9",
        "[fd00::9]",
        "[fd00::99]",
        "[fe80::1]",
        "[fe80::1%one]",
        "[fe80::1%two]",
        "[fe80::11%one]",
    ):
        kept.history(refused(1.0, peer=f"{host}:2000"))
    assert {each["address"] for each in kept.found(address=asked)} == found


def test_notKept() -> None:
    """Lines for those who look for faults, and those of other code, are no history."""
    assert not isKept({**refused(1.0), "log_level": LogLevel.debug})
    assert not isKept({"log_time": 1.0, "log_format": "Main loop terminated."})


def test_machinesWithoutAddress() -> None:
    """Equal events about machines that are known by their MAC alone stay apart."""
    kept = Kept()
    for number in (1, 2, 2):
        event = {**refused(1.0), "machine": f"52:54:00:00:00:0{number}"}
        del event["peer"]
        kept.history(event)
    assert sorted((each["address"], each["times"]) for each in kept.found()) == [
        ("52:54:00:00:00:01", 1),
        ("52:54:00:00:00:02", 2),
    ]


def test_onlyTheFirstIsEncoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal events that come together the first is made ready to be written, and the others are counted."""
    kept, encode, encoded = Kept(), history._encode, list[object]()
    monkeypatch.setattr(history, "_encode", lambda fields: encoded.append(fields) or encode(fields))
    for time in range(5):
        kept.history(received(float(time)))
    assert (len(encoded), [each["times"] for each in kept.found()]) == (1, [5])


def test_equalEvents() -> None:
    """A machine that asks for the same again and again has one entry for each half second, with the number."""
    kept = Kept()
    for _ in range(50):
        kept.history(refused(1.0))
    kept.history(refused(1.0, name="other"))
    kept.history(refused(1.0, peer="10.0.0.8:2000"))
    assert sorted(each["times"] for each in kept.found()) == [1, 1, 50]


def test_eventsOfTheServer() -> None:
    """What the server does at the same time stays apart: each port that is opened, and a name asked at two of them."""
    kept = Kept()
    for transport, port in (("tftp", 69), ("lab", 6969), ("lab", 6970)):
        kept.history(
            {
                "event": "listening",
                "log_time": 1.0,
                "log_format": "{transport} listens at {address}",
                "transport": transport,
                "address": f"10.0.0.5:{port}",
            }
        )
    for transport in ("tftp", "lab", "lab"):
        kept.history({**refused(2.0), "transport": transport})
    assert [(each["message"], each["times"]) for each in kept.found()] == [
        ("tftp listens at 10.0.0.5:69", 1),
        ("lab listens at 10.0.0.5:6969", 1),
        ("lab listens at 10.0.0.5:6970", 1),
        ("tftp: 10.0.0.9:2000 is refused nothing: not there", 1),
        ("lab: 10.0.0.9:2000 is refused nothing: not there", 2),
    ]


def test_faultsStayApart() -> None:
    """Each fault of a service file that was refused is among the last failures, also if it is refused again."""
    kept = Kept()
    form = "x.yaml is refused ({number} of 2): {fault}"
    for time in range(3):
        for number, fault in enumerate(("x.yaml:3: one", "x.yaml:4: two"), 1):
            kept.history(
                {
                    "event": "refused-reload",
                    "log_time": float(time),
                    "log_format": form,
                    "number": number,
                    "fault": fault,
                }
            )
        kept.clock.advance(1)
    assert sorted((each["message"], each["times"]) for each in kept.found(merged=True)) == [
        ("x.yaml is refused (1 of 2): x.yaml:3: one", 3),
        ("x.yaml is refused (2 of 2): x.yaml:4: two", 3),
    ]


def test_batches() -> None:
    """The disk is asked once for all that comes within half a second."""
    kept = Kept()
    kept.slow = True
    for second in range(20):
        kept.history(refused(second))
    kept.clock.advance(history.DELAY)
    assert len(kept.held) == 1
    kept.history(refused(50.0, name="meanwhile"))
    kept.clock.advance(10)
    assert len(kept.held) == 1
    kept.held.pop()()
    kept.clock.advance(history.DELAY)
    assert len(kept.held) == 1


@pytest.mark.slow
def test_slowDisk() -> None:
    """While the disk hangs a bounded number of events waits, the others are counted, and a stranger takes no place."""
    kept = Kept()
    kept.slow = True
    kept.history(refused(0.0))
    kept.clock.advance(history.DELAY)
    for number in range(history.MOST_WAITING + 7):
        kept.history(refused(1.0, peer=f"10.9.{number >> 8}.{number & 255}:2000"))
    kept.history(received(1.0, peer="10.0.0.7:2000"))
    assert kept.history.lost == 7
    kept.slow = False
    kept.held.pop()()
    assert len(kept.found(address="10.0.0.7")) == 1
    assert len(kept.found(limit=LARGE)) == history.MOST_WAITING + 2


def test_putInOrderInTheThread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop only hands over what is to be written: to make entries of thousands of events takes a while."""
    made: list[KeptEvent] = []
    replace = KeptEvent._replace

    def replaced(entry: KeptEvent, **fields: Any) -> KeptEvent:
        made.append(entry)
        return replace(entry, **fields)

    monkeypatch.setattr(KeptEvent, "_replace", replaced)
    kept = Kept()
    kept.slow = True
    kept.history(refused(2.0))
    kept.history(received(1.0))
    kept.clock.advance(history.DELAY)
    assert made == []
    kept.slow = False
    kept.held.pop()()
    assert len(made) == 2
    assert [each["event"] for each in kept.found()] == ["received", "refused"]


def test_askedAboutWhileTheDiskHangs() -> None:
    """Who asks of a disk that hangs, and gives up, leaves nothing behind: a page asks all the time."""
    kept = Kept()
    kept.slow = True
    kept.history(refused(0.0))
    kept.clock.advance(history.DELAY)
    for number in range(100):
        kept.history(refused(1.0, peer=f"10.9.0.{number}:2000"))
        kept.history.find(Query()).addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    assert len(kept.history._disk.waiting) <= 1
    kept.slow = False
    kept.held.pop()()
    assert len(kept.found(limit=LARGE)) == 101


def test_overRestarts(tmp_path: Path) -> None:
    """What was written is there for the next process, also if this one did not end well."""
    file = tmp_path / "history.sqlite"
    kept = Kept(file)
    kept.history(received(1.0))
    kept.clock.advance(history.DELAY)
    kept.history(received(2.0, name="initrd"))
    kept.history.close()
    assert [each["name"] for each in Kept(file).found()] == ["kernel", "initrd"]
    assert [each["name"] for each in readFile(str(file), Query(name="init*"))] == ["initrd"]


def test_twoProcesses(tmp_path: Path) -> None:
    """During an upgrade both processes write, and neither loses anything."""
    file = tmp_path / "history.sqlite"
    old, new = Kept(file), Kept(file)
    for second in range(20):
        (old if second % 2 else new).history(received(second, name=f"file{second}"))
        old.clock.advance(1)
        new.clock.advance(1)
    assert [each["name"] for each in new.found()] == [f"file{second}" for second in range(20)]
    assert old.history.lost == new.history.lost == 0


def test_age() -> None:
    """What is older than the service file says is removed."""
    kept = Kept(age=100.0)
    kept.history(received(0.0, name="old"))
    kept.found()
    kept.history(received(99.0, name="young"))
    kept.history(received(150.0, name="now"))
    assert [each["name"] for each in kept.found()] == ["young", "now"]


YEAR = 365 * 86400.0
#: A time of day that is right, and one of a machine whose clock has lost it.
RIGHT, AHEAD = 56 * YEAR, 66 * YEAR
#: As long as the clock has to be seen to go on, and a little more.
LONG = eventstore.CLOCK_PROVEN + eventstore.PRUNE_INTERVAL


class TimedMachine:
    """A machine whose time of day is not always right, and a history of it in a file, over restarts."""

    def __init__(self, path: Path, age: float = 90 * 86400.0) -> None:
        self.path, self.age = path, age
        self.wall, self.clock = RIGHT, Clock()
        self.start()

    def start(self) -> None:
        self.kept = Kept(self.path, self.age, clock=self.clock)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.clock.advance(seconds)

    def write(self, name: str) -> None:
        self.kept.history(received(self.wall, name=name))
        self.passes(1.0)

    @property
    def names(self) -> list[str | None]:
        return [each["name"] for each in self.kept.found()]


@pytest.mark.parametrize("restarts", [False, True])
def test_clockAhead(tmp_path: Path, restarts: bool) -> None:
    """A clock that is years ahead until it is set, before a start or while castd runs, removes nothing."""
    machine = TimedMachine(tmp_path / "history.sqlite")
    machine.write("before")
    if restarts:
        machine.kept.history.close()
    machine.wall += AHEAD - RIGHT
    if restarts:
        machine.start()
    machine.write("ahead")
    machine.passes(600)
    machine.write("ahead, too")
    machine.wall -= AHEAD - RIGHT
    machine.write("set")
    assert machine.names == ["before", "ahead", "ahead, too", "set"]
    machine.passes(LONG)
    machine.write("later")
    assert machine.names == ["before", "ahead", "ahead, too", "set", "later"]
    # The latest is what was written last, whatever time it shows.
    assert [each["name"] for each in machine.kept.found(limit=1)] == ["later"]
    # In time all of them are too old, also those from the future.
    for _ in range(100):
        machine.passes(86400)
        machine.write("day")
    assert set(machine.names) == {"day"}


def test_clockSetAhead(tmp_path: Path) -> None:
    """A clock that is set ahead while castd runs, by less than the age, removes nothing that is younger."""
    machine = TimedMachine(tmp_path / "history.sqlite", age=90 * 86400.0)
    machine.write("first")
    machine.passes(20 * 86400)
    machine.write("before")
    machine.wall += 80 * 86400
    machine.write("ahead")
    machine.passes(600)
    machine.wall -= 80 * 86400
    machine.write("set")
    machine.passes(LONG)
    machine.write("later")
    assert machine.names == ["first", "before", "ahead", "set", "later"]


@pytest.mark.parametrize("wrong", [AHEAD, 0.0], ids=["ahead", "behind"])
def test_restartsWithoutClock(tmp_path: Path, wrong: float) -> None:
    """A start is no proof of a clock that was wrong at the start before it, nor when it has been set meanwhile."""
    machine = TimedMachine(tmp_path / "history.sqlite")
    for name in ("first", "before"):
        machine.write(name)
        machine.passes(eventstore.CLOCK_PROVEN / 2)
    names: list[str | None] = ["first", "before"]
    for clock in (wrong, RIGHT + 86400.0):
        machine.wall = clock
        for number in range(3):
            machine.kept.history.close()
            machine.start()
            machine.write(f"{clock} {number}")
            machine.passes(eventstore.PRUNE_INTERVAL)
            names.append(f"{clock} {number}")
        assert machine.names == names


def test_clockBehind(tmp_path: Path) -> None:
    """What a start without a clock has dated 1970 is kept as long as what was written before it."""
    machine = TimedMachine(tmp_path / "history.sqlite")
    machine.write("before")
    machine.wall -= RIGHT
    machine.start()
    machine.write("1970")
    machine.wall += RIGHT
    machine.write("set")
    machine.passes(LONG)
    machine.write("later")
    assert machine.names == ["before", "1970", "set", "later"]


def test_clockBehindAndFull(tmp_path: Path) -> None:
    """A full file makes room by what was written first, not by what is dated 1970."""
    machine = TimedMachine(tmp_path / "history.sqlite")
    machine.kept.store._size = 64 << 10
    for number in range(400):
        machine.write(f"{number}")
    machine.wall -= RIGHT
    machine.write("1970")
    assert "0" not in machine.names
    for number in range(100):
        machine.write(f"{number} in 1970")
    assert "1970" in machine.names


def test_stoppedEachNight(tmp_path: Path) -> None:
    """A machine that runs for a few hours a day keeps no more than the age: a stop is no clock that was set."""
    machine = TimedMachine(tmp_path / "history.sqlite", age=7 * 86400.0)
    for day in range(30):
        machine.write(f"morning {day}")
        machine.passes(5 * 3600)
        machine.write(f"evening {day}")
        machine.kept.history.close()
        machine.wall += 19 * 3600 - 2
        machine.start()
    assert machine.names == [f"{part} {day}" for day in range(22, 30) for part in ("morning", "evening")][1:]


def test_longStop(tmp_path: Path) -> None:
    """After a stop for months the clock may be right or not; what is too old is removed when it has gone on."""
    machine = TimedMachine(tmp_path / "history.sqlite")
    machine.write("before")
    machine.kept.history.close()
    machine.wall += YEAR
    machine.start()
    machine.write("after")
    machine.passes(LONG / 2)
    machine.write("hours after")
    assert machine.names == ["before", "after", "hours after"]
    machine.passes(LONG / 2)
    machine.write("later")
    assert machine.names == ["after", "hours after", "later"]


@pytest.mark.slow
def test_size(tmp_path: Path) -> None:
    """The file does not grow beyond its bound, and the latest events are those that are kept."""
    file = tmp_path / "history.sqlite"
    kept = Kept(file, age=1e6, size=256 << 10)
    for second in range(4000):
        kept.history(received(float(second), name=f"file{second}"))
        kept.clock.advance(history.DELAY)
    assert file.stat().st_size < 300 << 10
    names = [each["name"] for each in kept.found(limit=LARGE)]
    assert names == [f"file{second}" for second in range(4000 - len(names), 4000)]
    assert len(names) > 400


@pytest.mark.slow
@pytest.mark.parametrize("inMemory", [True, False])
def test_sizeOfABurst(tmp_path: Path, inMemory: bool) -> None:
    """As many events at once as can wait do not make the history larger than its bound, in memory or in a file."""
    kept = Kept(None if inMemory else tmp_path / "history.sqlite", age=1e6, size=256 << 10)
    for number in range(history.MOST_WAITING):
        kept.history(refused(1.0 + number, name=f"file{number}"))
    kept.clock.advance(history.DELAY)
    database = kept.store._database
    (pages,), (octets,) = (database.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    assert pages * octets < 300 << 10
    names = [each["name"] for each in kept.found(limit=LARGE)]
    assert names == [f"file{number}" for number in range(history.MOST_WAITING - len(names), history.MOST_WAITING)]
    assert len(names) > 400


def test_logBesideTheFile(tmp_path: Path) -> None:
    """What SQLite writes beside the file does not keep the size of a burst."""
    kept, log = Kept(tmp_path / "history.sqlite", age=1e6, size=64 << 20), tmp_path / "history.sqlite-wal"
    entry = entryOf(refused(1.0, why="x" * 5000))
    kept.store.add([entry] * 1024, 1.0)
    assert log.stat().st_size > eventstore.LARGEST_LOG
    kept.store.add([entry], 1.0)
    assert log.stat().st_size == eventstore.LARGEST_LOG


@pytest.mark.slow
@pytest.mark.parametrize("isRead", [False, True])
def test_smallerBound(tmp_path: Path, isRead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose bound was larger gives its room back, as soon as no other process reads it; the latest are kept."""
    file = tmp_path / "history.sqlite"
    before = Store(str(file), 1e6, 8 << 20)
    entry = entryOf(refused(1.0, why="x" * 2000))
    before.add([entry._replace(time=float(number), name=f"file{number}") for number in range(2000)], 2000.0)
    before.close()
    assert file.stat().st_size > 4 << 20
    monkeypatch.setattr(eventstore, "LOCK_WAIT", 0.05)
    reader = sqlite3.connect(file)
    if isRead:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
    after = Store(str(file), 1e6, 1 << 20)
    after.add([entry._replace(time=2000.0, name="last")], 2000.0)
    assert (file.stat().st_size > 4 << 20) == isRead
    reader.close()
    after.add([entry._replace(time=2060.0, name="last of all")], 2060.0)
    assert file.stat().st_size <= 1 << 20
    names = [each["name"] for each in after.find(Query(limit=LARGE))]
    expected = [f"file{number}" for number in range(2002 - len(names), 2000)]
    assert names == [*expected, "last", "last of all"]
    assert len(names) > 200


@pytest.mark.slow
def test_floods(tmp_path: Path) -> None:
    """Strangers who are refused without end take their half of the file, not that of a machine that was served."""
    kept = Kept(tmp_path / "history.sqlite", age=1e6, size=256 << 10)
    for second in range(200):
        kept.history(received(float(second), name=f"file{second}"))
    kept.clock.advance(history.DELAY)
    for second in range(6000):
        kept.history(refused(1000.0 + second, peer=f"10.9.{second >> 8 & 255}.{second & 255}:9"))
        kept.clock.advance(history.DELAY)
    assert len(kept.found(address="10.0.0.9")) == 200


@pytest.mark.parametrize("damage", [b"this is no database" * 100, None], ids=["text", "version"])
def test_unusable(damage: bytes | None, tmp_path: Path) -> None:
    """A file that is damaged, or of another version, is put aside, and a new one is begun."""
    file = tmp_path / "history.sqlite"
    if damage is None:
        with sqlite3.connect(file) as database:
            database.execute(f"PRAGMA user_version = {eventstore.VERSION + 1}")
        database.close()
    else:
        file.write_bytes(damage)
    before = file.read_bytes()
    kept = Kept(file)
    assert kept.store.putAside == f"{file}.unusable"
    assert (tmp_path / "history.sqlite.unusable").read_bytes() == before
    kept.history(received(1.0))
    assert len(kept.found()) == 1


def test_unusableAgain(tmp_path: Path) -> None:
    """Nothing that was put aside is overwritten; beyond nine a file stays, and the history is in memory, as is told."""
    file, events = tmp_path / "history.sqlite", list[LogEvent]()
    for number in range(eventstore.MOST_ASIDE):
        file.write_bytes(b"this is no database, but number %d" % number)
        Kept(file).history.close()
    names = [f"{file}.unusable{end}" for end in ("", *(f".{number}" for number in range(2, 10)))]
    assert [Path(each).read_bytes()[-1:] for each in names] == [b"%d" % number for number in range(9)]
    file.write_bytes(b"this is no database, but the last")
    kept = Kept(file)
    with observed(events.append):
        for name in ("one", "two"):
            kept.history(refused(1.0, name=name))
            kept.clock.advance(history.DELAY)
        assert [each["name"] for each in kept.found()] == ["one", "two"]
        assert file.read_bytes() == b"this is no database, but the last"
        os.unlink(names[3])
        kept.history(refused(1.0, name="three"))
        kept.clock.advance(history.DELAY)
    assert [event["event"] for event in events] == ["unused-history", "put-aside"]
    assert names[0] in events[0]["why"]
    assert Path(names[3]).read_bytes() == b"this is no database, but the last"
    assert [each["name"] for each in readFile(str(file), Query())] == ["one", "two", "three"]
    assert kept.history.lost == 0
    kept.history.close()


def anotherVersion(patch: pytest.MonkeyPatch) -> None:
    """Make this a castd with tables of another version."""
    patch.setattr(eventstore, "_TABLES", eventstore._TABLES.replace("user_version = 1", "user_version = 2"))
    patch.setattr(eventstore, "VERSION", 2)


def test_otherVersionInUse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    In an upgrade to other tables the file stays with the process that writes to it; the next one keeps its history in
    memory, says so once, and has a file as soon as that process has ended.  Nothing is lost of either.
    """
    file, events = tmp_path / "history.sqlite", list[LogEvent]()
    old = Kept(file)
    old.history(refused(1.0, name="old 1"))
    old.clock.advance(history.DELAY)
    with monkeypatch.context() as patch, observed(events.append):
        anotherVersion(patch)
        new = Kept(file)
        new.history.tellOfFile()
        for name in ("new 1", "new 2"):
            new.history(refused(2.0, name=name))
            new.clock.advance(history.DELAY)
        assert [each["name"] for each in new.found()] == ["new 1", "new 2"]
    with observed(events.append):
        old.history(refused(3.0, name="old 2"))
        old.history.close()
    with monkeypatch.context() as patch, observed(events.append):
        anotherVersion(patch)
        new.history(refused(4.0, name="new 3"))
        assert [each["name"] for each in new.found()] == ["new 1", "new 2", "new 3"]
        new.history.close()
    assert [event["event"] for event in events] == ["unused-history", "put-aside"]
    assert [each["name"] for each in readFile(f"{file}.unusable", Query())] == ["old 1", "old 2"]
    assert [each["name"] for each in readFile(str(file), Query())] == ["new 1", "new 2", "new 3"]


def test_otherVersionInPlace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose file was removed leaves a file of another version alone that another one has begun in place."""
    file, events = tmp_path / "history.sqlite", list[LogEvent]()
    old = Kept(file)
    for each in tmp_path.iterdir():
        each.unlink()
    with monkeypatch.context() as patch:
        anotherVersion(patch)
        new = Kept(file)
        new.history(refused(1.0, name="new"))
        new.clock.advance(history.DELAY)
    with observed(events.append):
        for name in ("old 1", "old 2"):
            old.history(refused(2.0, name=name))
            old.clock.advance(history.DELAY)
        assert [each["name"] for each in old.found()] == ["old 1", "old 2"]
        old.history.close()
    assert [event["event"] for event in events] == ["unused-history"]
    assert [each["name"] for each in new.found()] == ["new"]
    assert not list(tmp_path.glob("*.unusable*"))
    new.history.close()


def test_movedLater(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory stays there if the file cannot be written to, and is moved at the end at the latest."""
    file, events = tmp_path / "history.sqlite", list[LogEvent]()
    old = Kept(file)
    with monkeypatch.context() as patch:
        anotherVersion(patch)
        new = Kept(file)
        new.history(refused(1.0, name="one"))
        new.clock.advance(history.DELAY)
        old.history.close()
        with monkeypatch.context() as full, observed(events.append):

            def refuse(*_: object) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            full.setattr(new.store, "_write", refuse)
            new.history(refused(2.0, name="lost"))
            new.clock.advance(history.DELAY)
        assert [each["name"] for each in new.found()] == ["one"]
        new.history.close()
    assert [event["event"] for event in events] == ["unkept", "put-aside"]
    assert [each["name"] for each in readFile(str(file), Query())] == ["one"]


def test_locksAreKept(tmp_path: Path) -> None:
    """A second look at the file, as a reload takes it, gives up none of the locks that keep other processes away."""
    file = tmp_path / "history.sqlite"
    kept = Kept(file)
    kept.history(refused(1.0))
    kept.clock.advance(history.DELAY)
    Store(str(file), AGE, LARGE).close()
    asks = f"import sqlite3; sqlite3.connect({str(file)!r}, timeout=0).execute('PRAGMA journal_mode = DELETE')"
    other = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=False)
    assert "database is locked" in other.stderr
    assert (tmp_path / "history.sqlite-wal").exists()
    kept.history.close()


def test_damagedForBoth(tmp_path: Path) -> None:
    """Two processes that share a damaged file put it aside once, with the log that SQLite reads it with."""
    file = tmp_path / "history.sqlite"
    one, two = Kept(file), Kept(file)
    one.history(refused(1.0, name="before"))
    one.clock.advance(history.DELAY)
    for each in (one, two):
        each.store._beginAnew(str(file), damaged=True)
    assert [each.name for each in tmp_path.glob("*.unusable")] == ["history.sqlite.unusable"]
    assert [each["name"] for each in readFile(f"{file}.unusable", Query())] == ["before"]
    for each in (one, two):
        each.history(refused(2.0, name="after"))
        each.clock.advance(history.DELAY)
    assert [each["name"] for each in readFile(str(file), Query())] == ["after"] * 2
    for each in (one, two):
        each.history.close()


def test_damagedInTheMiddle(tmp_path: Path) -> None:
    """A page that is damaged while the file is open, or that no start looks at, is met by a write: it is put aside."""
    file, events = tmp_path / "history.sqlite", list[LogEvent]()
    kept = Kept(file)
    for number in range(200):
        kept.history(refused(float(number), name=f"file{number}"))
        kept.clock.advance(history.DELAY)
    kept.history.close()
    page = 4096
    whole = bytearray(file.read_bytes())
    assert len(whole) > 8 * page
    # The first page has the version and the tables, and is as it was.
    whole[page:] = b"\xa5" * (len(whole) - page)
    file.write_bytes(whole)
    kept = Kept(file)
    assert kept.store.putAside is None
    with observed(events.append):
        kept.history(received(1000.0, name="kernel"))
        kept.clock.advance(history.DELAY)
    assert [(event["event"], event["aside"]) for event in events] == [("put-aside", f"{file}.unusable")]
    assert kept.history.lost == 0
    assert (tmp_path / "history.sqlite.unusable").read_bytes()[page:] == whole[page:]
    assert [each["name"] for each in readFile(str(file), Query())] == ["kernel"]


def test_removed(tmp_path: Path) -> None:
    """A file that is removed or renamed while it is written to is begun anew; until that can be done, it is told."""
    (tmp_path / "kept").mkdir()
    path = tmp_path / "kept" / "h.sqlite"
    kept, events = Kept(path), list[LogEvent]()
    for name in ("one", "two", "three"):
        kept.history(refused(1.0, name=name))
        kept.clock.advance(history.DELAY)
        assert [each["name"] for each in readFile(str(path), Query())] == [name]
        for each in path.parent.iterdir():
            each.rename(tmp_path / f"{name}-{each.name}")
    path.parent.rmdir()
    with observed(events.append):
        for _ in range(2):
            kept.history(refused(1.0, name="four"))
            kept.clock.advance(history.DELAY)
    assert [event["why"] for event in events if event.get("event") == "unkept"] == ["No such file or directory"] * 2
    assert kept.found() == []
    path.parent.mkdir()
    kept.history(refused(1.0, name="five"))
    assert [each["name"] for each in kept.found()] == ["five"]
    assert [each["name"] for each in readFile(str(tmp_path / "one-h.sqlite"), Query())] == ["one"]
    kept.history.close()


def test_removedThenClosed(tmp_path: Path) -> None:
    """Where no file could be begun, and its directory is closed to castd's user since, what is lost is told."""
    folder = tmp_path / "kept"
    folder.mkdir()
    kept, events = Kept(folder / "h.sqlite"), list[LogEvent]()
    shutil.rmtree(folder)
    with observed(events.append):
        kept.history(refused(1.0, name="one"))
        kept.clock.advance(history.DELAY)
        folder.mkdir(mode=0o000)
        with nobody():
            kept.history(refused(2.0, name="two"))
            kept.clock.advance(history.DELAY)
    folder.chmod(0o755)
    assert [event["why"] for event in events] == ["No such file or directory", "Permission denied"]
    kept.history.close()


def test_directoryClosed(tmp_path: Path) -> None:
    """A history goes on whose directory is closed to castd's user after the start."""
    folder = tmp_path / "kept"
    folder.mkdir()
    kept = Kept(folder / "h.sqlite")
    kept.history(refused(1.0, name="one"))
    kept.clock.advance(history.DELAY)
    folder.chmod(0o000)
    try:
        with nobody():
            kept.history(refused(2.0, name="two"))
            kept.clock.advance(history.DELAY)
    finally:
        folder.chmod(0o755)
    assert [each["name"] for each in kept.found()] == ["one", "two"]
    assert kept.history.lost == 0
    kept.history.close()


def test_notThere(tmp_path: Path) -> None:
    """A file that cannot be opened, or is a link that somebody has planted, is an OSError with its reason."""
    with pytest.raises(FileNotFoundError):
        Store(str(tmp_path / "none" / "history.sqlite"), AGE, LARGE)
    (tmp_path / "planted").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        Store(str(tmp_path / "planted"), AGE, LARGE)
    assert not (tmp_path / "target").exists()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):  # noqa: PT011 - what SQLite says differs by version
        Store(str(tmp_path / "pipe"), AGE, LARGE)


def test_diskFull(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is counted and logged, and the next events are written again."""
    kept = Kept()

    def full(entries: object, now: float) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(kept.store, "add", full)
        kept.history(received(1.0))
        kept.clock.advance(history.DELAY)
    assert kept.history.lost == 1
    kept.history(received(2.0, name="later"))
    assert [each["name"] for each in kept.found()] == ["later"]


def test_diskFullBesideAFile(tmp_path: Path) -> None:
    """A disk that is full is no damage: the file stays, and is written to as soon as there is room."""
    kept = Kept(tmp_path / "history.sqlite")
    kept.history(received(1.0, name="one"))
    kept.clock.advance(history.DELAY)
    database = kept.store._database
    ((pages,),) = database.execute("PRAGMA page_count")
    database.execute(f"PRAGMA max_page_count = {pages}")
    kept.history(received(2.0, name="large" * 10_000))
    kept.clock.advance(history.DELAY)
    assert (kept.history.lost, kept.store.putAside) == (1, None)
    database.execute(f"PRAGMA max_page_count = {pages + 1000}")
    kept.history(received(3.0, name="later"))
    assert [each["name"] for each in kept.found()] == ["one", "later"]
    kept.history.close()


@pytest.mark.parametrize(
    "question",
    [
        {"since": "monday"},
        {"since": True},
        {"since": 10**400},
        {"since": float("nan")},
        {"limit": "all"},
        {"limit": True},
        {"limit": 0},
        {"limit": -5},
        {"limit": 1 << 63},
        {"address": 10},
        {"failed": "no"},
        {"failed": 1},
    ],
)
def test_cannotBeAskedFor(question: dict[str, object]) -> None:
    """A question with a value of another kind is refused, and says which."""
    with pytest.raises(ValueError, match=f"^{next(iter(question))}: "):
        Query.read(question)


def test_writtenAfterAQuestion() -> None:
    """What happens while the disk is asked for something is written soon after, though nothing else happens."""
    kept = Kept()
    kept.slow = True
    answers = list[object]()
    kept.history.find(Query()).addCallback(answers.append)
    kept.history(received(1.0))
    while kept.held:
        kept.held.pop(0)()
    assert answers == [[]]
    kept.slow = False
    kept.clock.advance(history.DELAY)
    assert [each["event"] for each in kept.store.find(Query())] == ["received"]


@pytest.mark.parametrize("since", [5, 5.5])
def test_wholeSeconds(since: float) -> None:
    """An instant may be written without a fraction: JSON has one kind of number."""
    assert Query.read({"since": since}).since == since


@given(st.dictionaries(st.sampled_from(["peer", "name", "outcome", "why", "octets", "size"]), st.text() | st.none()))
def test_anyEvent(fields: dict[str, object]) -> None:
    """Whatever a client has written into an event is kept and found again."""
    kept = Kept()
    kept.history({"event": "refused", "log_time": 1.0, "log_level": LogLevel.info, "log_format": "x {name}", **fields})
    (found,) = kept.found()
    assert found["fields"].get("why") == fields.get("why")
