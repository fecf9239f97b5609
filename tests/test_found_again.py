"""
A file that is open is not opened again for the next request, as long as its path leads to it unchanged: nobody may be
able to tell.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import maybeDeferred

from castd.errors import Forbidden, Refused
from castd.files import athand, content
from castd.files.content import Directory, DirectoryOptions, File
from tests.support.disks import HereDirectory
from tests.support.needs import lack

PEER = ("10.0.0.7", 2070)
NAMES = ("a", "b", "sub/a", "sub/b", "way/a", "A")
PATHS = ("a", "b", "sub/a", "sub/b")


def source(root: Path, thread: Any = maybeDeferred, **options: Any) -> Directory:
    made = DirectoryOptions.model_validate({"path": str(root), **options})
    return (HereDirectory if thread is maybeDeferred else Directory)(made, thread)


def opened(directory: Directory, name: str) -> File:
    found = directory.lookup(name, PEER)
    assert isinstance(found, File)
    return found


class Asking(Directory):
    """Opens each file anew for each request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._root.versionAtHand = lambda _: None  # type: ignore[method-assign]


class HereAsking(HereDirectory, Asking):
    """As Asking; what it cannot answer at once has been answered, too."""


class Changes(RuleBasedStateMachine):
    """Two directories serve one tree, while others change it; one of them opens each file anew."""

    links = "inside"

    @initialize(worldReadable=st.booleans(), ignoreCase=st.booleans())
    def begin(self, worldReadable: bool, ignoreCase: bool) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.top = Path(self.place.name)
        self.root = self.top / "root"
        (self.root / "sub").mkdir(parents=True)
        (self.top / "outside").mkdir()
        (self.root / "way").symlink_to("sub")
        for each in PATHS:
            (self.root / each).write_bytes(each.encode() * 9)
        more = {"worldReadable": worldReadable, "ignoreCase": ignoreCase, "links": self.links}
        options = DirectoryOptions.model_validate({"path": str(self.root), **more})
        self.both = HereDirectory(options, maybeDeferred), HereAsking(options, maybeDeferred)
        self.held: list[tuple[File, File]] = []
        self.others = 0

    def _look(self, directory: Directory, name: str) -> Any:
        try:
            return directory.lookup(name, PEER)
        except Refused as error:
            return type(error), str(error)

    @rule(name=st.sampled_from(NAMES), times=st.integers(1, 3), kept=st.booleans())
    def look(self, name: str, times: int, kept: bool) -> None:
        for _ in range(times):
            one, other = (self._look(each, name) for each in self.both)
            if not isinstance(one, File):
                assert one == other
                continue
            assert isinstance(other, File)
            assert (one.version, one.size, one.name) == (other.version, other.size, other.name)
            assert one.read(0, one.size) == other.read(0, other.size)
            if kept:
                self.held.append((one, other))
            else:
                one.close()
                other.close()

    @rule(at=st.integers(0, 9))
    def leave(self, at: int) -> None:
        if self.held:
            for each in self.held.pop(at % len(self.held)):
                each.close()

    def _other(self) -> Path:
        self.others += 1
        path = self.top / f"other{self.others}"
        path.write_bytes(b"%d" % self.others * self.others)
        return path

    @rule(path=st.sampled_from(PATHS))
    def replace(self, path: str) -> None:
        if (self.root / path).parent.is_dir():
            self._other().replace(self.root / path)

    @rule(path=st.sampled_from(PATHS), octets=st.binary(max_size=40))
    def write(self, path: str, octets: bytes) -> None:
        if (self.root / path).exists():
            (self.root / path).write_bytes(octets)

    @rule(path=st.sampled_from(PATHS))
    def remove(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    @rule(path=st.sampled_from(PATHS), mode=st.sampled_from([0o600, 0o644]))
    def permit(self, path: str, mode: int) -> None:
        if (self.root / path).exists():
            (self.root / path).chmod(mode)

    @rule(path=st.sampled_from(PATHS), leads=st.sampled_from(["a", "sub/b", "../b", "../outside/a", "missing"]))
    def link(self, path: str, leads: str) -> None:
        (self.root / path).unlink(missing_ok=True)
        (self.root / path).symlink_to(leads)

    @rule(path=st.sampled_from(PATHS), other=st.sampled_from(PATHS))
    def hardLink(self, path: str, other: str) -> None:
        if path != other and (self.root / other).exists():
            (self.root / path).unlink(missing_ok=True)
            os.link(self.root / other, self.root / path, follow_symlinks=False)

    @rule()
    def turnWay(self) -> None:
        leads = os.readlink(self.root / "way")
        (self.root / "way").unlink()
        (self.root / "way").symlink_to("." if leads == "sub" else "sub")

    @rule(outside=st.booleans())
    def moveDirectory(self, outside: bool) -> None:
        """A directory goes elsewhere, and a link to it comes in its place."""
        if not (self.root / "sub").is_symlink():
            self.others += 1
            to = f"../moved{self.others}" if outside else f"moved{self.others}"
            (self.root / "sub").rename(self.root / to)
            (self.root / "sub").symlink_to(to)

    @rule()
    def moveRoot(self) -> None:
        """The tree is replaced by another, as operators do."""
        self.others += 1
        made = self.top / f"tree{self.others}"
        (made / "sub").mkdir(parents=True)
        (made / "way").symlink_to("sub")
        for number, each in enumerate(PATHS):
            (made / each).write_bytes(b"%d" % (self.others * 10 + number))
        self.root.rename(self.top / f"old{self.others}")
        made.rename(self.root)

    @rule(back=st.booleans())
    def backRoot(self, back: bool) -> None:
        """The tree of before comes back, or there is none for a while."""
        before = sorted(self.top.glob("old*"))
        if before:
            self.others += 1
            self.root.rename(self.top / f"new{self.others}")
            before[-1].rename(self.root)

    @invariant()
    def nothingIsLeft(self) -> None:
        if hasattr(self, "held") and not self.held:
            for each in self.both:
                assert not each._found
                assert not each._open

    def teardown(self) -> None:
        if hasattr(self, "place"):
            for pair in self.held:
                for each in pair:
                    each.close()
            self.nothingIsLeft()
            self.place.cleanup()


class WithoutLinks(Changes):
    links = "never"


def longAgo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all files last been changed long ago."""
    monkeypatch.setattr(content, "time_ns", lambda: time.time_ns() + 10 * content.CLOCK_STEP)


def permit(path: Path, mode: int) -> None:
    """Give a file a mode at an instant at which it was not changed before, as the kernel tells the time."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(mode)


def tellsTimeFinely(path: Path) -> bool:
    """Return whether no two changes of a file, which was looked at between them, have one time (Linux 6.13)."""
    path.touch()
    times = list[int]()
    for _ in range(99):
        path.chmod(0o600)
        times.append(path.stat().st_ctime_ns)
    path.unlink()
    return len(set(times)) == len(times)


@pytest.mark.parametrize("machine", [Changes, WithoutLinks])
def test_asIfOpenedAnew(machine: type[Changes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of a tree, a request gets what it would get if its file was opened anew."""
    with tempfile.TemporaryDirectory() as place:
        if tellsTimeFinely(Path(place, "x")):
            longAgo(monkeypatch)
    quiet = settings(max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=quiet)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is in memory."""
    openat2 = athand.openat2

    def untilAtHand(*call: Any) -> int | None:
        # The kernel also says that it is not while others rename directories.
        return next((fd for _ in range(1000) if (fd := openat2(*call)) is not None), None)

    monkeypatch.setattr(athand, "openat2", untilAtHand)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "x").write_bytes(b"the file x")
    if not source(tmp_path / "boot")._root._opened.fromMemory:  # type: ignore[union-attr]
        lack("the tests' own disk is none that is opened from memory")
    return tmp_path / "boot"


@pytest.mark.parametrize("name", ["x", "sub/deep/x"])
def test_opensOnce(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of five requests at a time one opens the file; one that was changed is opened anew; and nothing is kept."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub" / "deep" / "x").write_bytes(b"the file x")
    path = name.encode()
    longAgo(monkeypatch)
    directory = source(root)
    reads, openat2 = list[bytes](), athand.openat2
    # Where the file system cannot be asked for what is in memory, as tmpfs, a thread has opened it before.
    first = opened(directory, name)
    anew = [path] if directory._found else [path] * 2
    first.close()

    def opening(path: bytes, flags: int, *more: Any) -> int | None:
        if not flags & os.O_PATH:
            reads.append(path)
        return openat2(path, flags, *more)

    monkeypatch.setattr(athand, "openat2", opening)
    files = [opened(directory, name) for _ in range(5)]
    assert reads == anew
    assert len({each._fd for each in files}) == 1
    permit(root / name, 0o600)
    files += [opened(directory, name) for _ in range(3)]
    assert reads == anew * 2
    for each in files:
        each.close()
    assert not directory._found
    assert opened(directory, name).read(0, 99) == b"the file x"
    assert reads == [*anew * 2, path]


def test_forbiddenMeanwhile(root: Path) -> None:
    """Who forbids a file forbids it to all who ask from then on, also while others still receive it."""
    directory = source(root, worldReadable=True)
    (root / "x").chmod(0o644)
    first = opened(directory, "x")
    (root / "x").chmod(0o640)
    with pytest.raises(Forbidden):
        directory.lookup("x", PEER)
    assert first.read(0, 99) == b"the file x"


def test_forbiddenLater(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, of a file that was changed long ago."""
    longAgo(monkeypatch)
    directory = source(root, worldReadable=True)
    (root / "x").chmod(0o644)
    held = [opened(directory, "x") for _ in range(3)]
    assert directory._found
    permit(root / "x", 0o640)
    with pytest.raises(Forbidden):
        directory.lookup("x", PEER)
    assert {each.read(0, 99) for each in held} == {b"the file x"}


def test_forbiddenAtOnce(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is forbidden within a step of the kernel's clock after its last change has the version of before."""
    directory = source(root, worldReadable=True)
    (root / "x").chmod(0o644)
    held = [opened(directory, "x") for _ in range(3)]
    (root / "x").chmod(0o640)
    monkeypatch.setattr(directory._root, "versionAtHand", lambda _: held[0].version)
    with pytest.raises(Forbidden):
        directory.lookup("x", PEER)


@pytest.mark.parametrize(("links", "to"), [("inside", "../private"), ("never", "../private"), ("never", "private")])
def test_movedMeanwhile(root: Path, links: str, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose directory has gone elsewhere is not reached by a link to it, also while others still receive it."""
    longAgo(monkeypatch)
    (root / "sub").mkdir()
    (root / "sub" / "x").write_bytes(b"the file x")
    directory = source(root, links=links)
    directory.beyond = maybeDeferred
    first, _ = (opened(directory, "sub/x") for _ in range(2))
    (root / "sub").rename(root / to)
    (root / "sub").symlink_to(to)
    with pytest.raises(Forbidden):
        directory.lookup("sub/x", PEER)
    assert first.read(0, 99) == b"the file x"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EMFILE, None])
def test_pathCannotBeAsked(root: Path, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    """Where the path cannot be followed, as since privileges were dropped, each request opens the file as before."""
    directory = source(root)
    files = [opened(directory, "x") for _ in range(3)]
    openat2 = athand.openat2

    def closed(path: bytes, flags: int, *more: Any) -> int | None:
        if path.endswith(b"/x"):
            if number is not None:
                raise OSError(number, os.strerror(number))
            return None
        return openat2(path, flags, *more)

    monkeypatch.setattr(athand, "openat2", closed)
    files += [opened(directory, "x") for _ in range(3)]
    assert {each.read(0, 99) for each in files} == {b"the file x"}
