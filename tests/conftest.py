"""
How all tests run: which examples hypothesis tries, and what the marker C{root} means.
"""

import os
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from twisted.internet.defer import maybeDeferred
from twisted.logger import globalLogPublisher

from castd.observe import eventstore
from tests.support.log import observed
from tests.support.needs import needRoot

# No deadline anywhere: a busy machine is no reason to fail.  CI tries the same examples every time, so that a red build
# is about the change; at home each run looks somewhere else, and what it finds is kept in .hypothesis.
settings.register_profile("home", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "hunt", deadline=None, max_examples=20_000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
# For who waits (-m "not slow") a few examples are enough.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "home"))


def pytest_configure(config: pytest.Config) -> None:
    """
    Who leaves out what is slow waits for few examples as well.  Files that tests make are readable for everybody,
    whatever the umask of who runs them: castd serves no others.
    """
    os.umask(0o022)
    if config.option.markexpr == "not slow" and not {"CI", "HYPOTHESIS_PROFILE"} & os.environ.keys():
        settings.load_profile("quick")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked C{root} needs root, whatever else it asks for."""
    if item.get_closest_marker("root"):
        needRoot()


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile."""
    seen: list[dict[str, Any]] = []
    with observed(seen.append):
        yield seen


@pytest.fixture
def longVisits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ports be read until they are empty, however long that takes: nothing depends on how quick the machine is."""
    monkeypatch.setattr("castd.net.epoll.LONGEST_VISIT", 60.0)
    monkeypatch.setattr("castd.net.ports.REQUEST_SLICE", 60.0)
    # Nor is it measured what requests owe to transfers: which of them are read first would depend on it.
    monkeypatch.setattr("castd.net.epoll.EpollSet._owed", property(lambda _: 0.0, lambda *_: None), raising=False)


#: What Rich asks about the terminal, beside TERM.
TERMINAL = "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"


@pytest.fixture(autouse=True)
def usualTerminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands print is the same on each terminal: one that can draw nothing (TERM=dumb) has no bars, say."""
    monkeypatch.setenv("TERM", "xterm")
    for each in TERMINAL:
        monkeypatch.delenv(each, raising=False)


@pytest.fixture(autouse=True)
def observersLeave() -> Iterator[None]:
    """
    A server that a test has started and not stopped observes the log no more: its history would keep the events of all
    later tests, and those count memory.
    """
    before = tuple(globalLogPublisher._observers)
    yield
    for each in tuple(globalLogPublisher._observers):
        if each not in before:
            globalLogPublisher.removeObserver(each)


@pytest.fixture(autouse=True)
def historiesClose(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A history that a test has opened and not closed, as that of a server that it has not stopped, is closed."""
    opened: list[sqlite3.Connection] = []
    connect = eventstore._connect

    def noted(path: str) -> sqlite3.Connection:
        opened.append(connect(path))
        return opened[-1]

    monkeypatch.setattr(eventstore, "_connect", noted)
    yield
    for each in opened:
        each.close()


@pytest.fixture(autouse=True)
def disksHere(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Disks are waited for in the test's own thread, unless it says otherwise: time in most tests is virtual, and what is
    in the kernel's memory differs from run to run.
    """
    for module in ("content", "netascii", "presence", "uploads"):
        monkeypatch.setattr(f"castd.files.{module}.DiskThreads", lambda *_: maybeDeferred)
    monkeypatch.setattr("castd.server.machines.DiskThreads", lambda *_: maybeDeferred)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Of two files that differ, what matters: a log that is filled with their octets hides which test it was."""
    if op != "==" or not (isinstance(left, bytes) and isinstance(right, bytes)) or max(len(left), len(right)) < 1024:
        return None
    same = next((at for at, (mine, other) in enumerate(zip(left, right, strict=False)) if mine != other), -1)
    wrong = sum(left[at : at + 512] != right[at : at + 512] for at in range(0, min(len(left), len(right)), 512))
    return [
        f"{len(left)} octets == {len(right)} octets",
        f"the first that differs is {same} (-1: none); {wrong} of the pieces of 512 that both have differ",
    ]
