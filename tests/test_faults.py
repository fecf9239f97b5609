"""
Every system call of the data path, made to fail in turn: everybody is served or told, and the server serves on.

A whole castd with real sockets on loopback, its clients in the same process, virtual time (see
tests/support/world.py).  By default each call fails in two ways; with C{CASTD_FAULTS=all} in all that the table has.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.faults import DATA_PATH, EXEMPT, ROWS, Breaker, called, cases, install
from tests.support.quick import slowBut
from tests.support.world import OLD, SIZE, World

pytestmark = pytest.mark.loopback

#: Every number of every call, both ways; it takes minutes.
WHOLE = os.environ.get("CASTD_FAULTS") == "all"
#: Of which the quick tests have a case.
QUICK = ("socket.sendto", "files.content.os.preadv", "files.file_upload.os.write")
#: How long a call fails that always fails.  Seconds; clients ask once a second and wait for half a minute.
LONG = 2.5
#: Lines of the log that one fault may be worth, whatever it did to so many clients and their transports.
LINES = 60


@pytest.fixture
def breaker(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    made = Breaker()
    install(made, monkeypatch)
    # A set that waits in earnest would cost the fault's whole time.
    monkeypatch.setattr("castd.net.epoll.LONGEST_VISIT", 0.0)
    return made


@pytest.fixture
def world(breaker: Breaker, tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def serves(world: World) -> None:
    """Everybody is served, and nothing is left behind."""
    jobs = world.clients()
    world.settle(jobs)
    assert {job.name: job.outcome for job in jobs} == {job.name: True for job in jobs}
    world.quiet()
    assert world.leaked() == []


def survived(world: World, number: int) -> None:
    """What must hold after any fault."""
    files = world.files()
    halves = {name: len(data) for name, data in files.items() if data != OLD and len(data) not in (SIZE + 1,)}
    assert {name: size for name, size in halves.items() if not name.rpartition("/")[2].startswith(".castd-")} == {}
    faults = [each for each in world.events if each.get("event") in ("fault", "dropped") or "log_failure" in each]
    assert [str(each.get("log_failure", each)) for each in faults] == []
    assert world.reactor.dropped == []
    lines = Counter(line.partition(" ")[2] for line in world.log.getvalue().splitlines() if "castd#warn" in line)
    assert sum(lines.values()) < LINES


def said(value: str | int) -> str:
    """A call, the name of a number, or how long."""
    if isinstance(value, bool):
        return "long" if value else "once"
    return value if isinstance(value, str) else errno.errorcode[value]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "long"), slowBut(lambda name, number, long: name in QUICK and not long, cases(WHOLE)), ids=said
)
def test_aCallFails(world: World, breaker: Breaker, name: str, number: int, long: bool) -> None:
    """While it fails all are served whole or told why not; then all are served, nothing leaks, the log is short."""
    breaker.fail(name, partial(OSError, number, os.strerror(number)), float("inf") if long else 1)
    if long:
        world.reactor.callLater(LONG, breaker.lift)
    jobs = world.clients()
    world.settle(jobs)
    assert breaker.hits > 0, f"{name} was not called"
    assert [(job.name, job.outcome) for job in jobs if "all is well" in str(job.outcome)] == []
    if long:
        world.reactor.rest(LONG)
    world.quiet()
    survived(world, number)
    assert world.leaked() == []
    serves(world)


@pytest.mark.slow
def test_everythingIsServed(world: World, breaker: Breaker) -> None:
    """Without a fault all are served, and every call that has a row is made."""
    serves(world)
    assert sorted(ROWS.keys() - breaker.calls.keys()) == []


@pytest.mark.parametrize("module", DATA_PATH)
def test_noCallWithoutARow(module: str) -> None:
    """Every call of the system that a module of the data path makes has a row in the table, or a reason."""
    unknown = [
        f"{module}:{line}: {name}"
        for name, line in called(module)
        if name not in ROWS and name not in EXEMPT and name.removeprefix(f"{module}.") not in EXEMPT
    ]
    assert unknown == []
