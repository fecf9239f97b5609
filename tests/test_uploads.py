"""
Uploads, on a real file system.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from pydantic import ValidationError
from twisted.internet.defer import CancelledError, gatherResults, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface.verify import verifyObject

from castd.errors import Busy, Exists, Forbidden, Full, NotFound, Refused, Unanswered
from castd.files import file_upload, partial, space
from castd.files.chains import SinkChain
from castd.files.content import DirectoryOptions
from castd.files.file_upload import MOST_UNWRITTEN, SILENT_FOR, WRITE_AT_ONCE
from castd.files.threads import MOST_AWAITED, DiskThreads
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import MOST_MADE, UploadDirectory
from castd.interfaces import IContentSink, IUpload
from castd.machines.known import KnownMachine
from tests.support.descriptors import Descriptors, openFiles
from tests.support.disks import HereDirectory, HereUploads, Later, nobody, result
from tests.support.log import observed

ONE, TWO = ("10.0.0.7", 2070), ("10.0.0.8", 2071)


def drop(path: Path, thread: Any = maybeDeferred, **options: Any) -> HereUploads:
    """The sink that a service file would make; its thread is this one."""
    return HereUploads(UploadDirectoryOptions.model_validate({"path": str(path), "keep-free": 0, **options}), thread)


def upload(sink: HereUploads, name: str, *pieces: bytes, peer: Any = ONE) -> Any:
    """A whole upload: what its commit fired with, L{None} if all went well, else the error."""
    results: list[Any] = []
    begun = sink.begin(name, peer, None)
    for piece in pieces:
        begun.write(piece)
    begun.commit().addErrback(lambda failure: failure.value).addCallback(results.append)
    return results[0]


def everything(path: Path) -> dict[str, bytes]:
    """All files beneath a directory, hidden ones, too."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _noneLeft(tmp_path: Path) -> Iterator[None]:
    """No test leaves a file open in the directory but those that say so."""
    yield
    assert [link for link in openFiles() if link.startswith(str(tmp_path)) and ".part" in link] == []
    assert not any(disk.setAside for disk in space._disks.values())


def test_interfaces(tmp_path: Path) -> None:
    """Drop and its uploads are what their interfaces promise."""
    sink = drop(tmp_path)
    assert verifyObject(IContentSink, sink)
    begun = sink.begin("a", ONE, None)
    assert verifyObject(IUpload, begun)
    begun.abort()


def test_complete(tmp_path: Path) -> None:
    """A complete upload stands under its name, readable for all, and nothing else is there."""
    (tmp_path / "logs").mkdir()
    assert upload(drop(tmp_path), "/logs\\a", b"one ", b"", b"two") is None
    assert everything(tmp_path) == {"logs/a": b"one two"}
    assert stat.S_IMODE((tmp_path / "logs" / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0, 0o644)])
def test_mode(tmp_path: Path, mask: int, mode: int) -> None:
    """Its mode is 0644 less the mask of the process, which stays as it was."""
    os.umask(mask)
    upload(drop(tmp_path), "a", b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert os.umask(mask) == mask


def test_maskIsNotSet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The mask is read, and not set for a moment, in which a thread would make a directory that nobody else can enter;
    only where the kernel does not tell it.
    """
    os.umask(0o027)
    assert file_upload.readUmask(str(tmp_path / "status")) == 0o027
    (tmp_path / "status").write_text("Name:\tcastd\n")
    assert file_upload.readUmask(str(tmp_path / "status")) == 0o027
    with monkeypatch.context() as patched:
        patched.delattr(os, "umask")
        assert upload(drop(tmp_path), "a", b"") is None
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("folder", ["", "d/"])
def test_unseen(tmp_path: Path, folder: str) -> None:
    """Until it is complete there is nothing under its name, and what there is nobody else may read, or gets."""
    (tmp_path / folder).mkdir(exist_ok=True)
    sink = drop(tmp_path)
    begun = sink.begin(f"{folder}a", ONE, None)
    begun.write(b"half")
    (only,) = (tmp_path / folder).iterdir()
    assert only.name.startswith(".")
    assert stat.S_IMODE(only.stat().st_mode) == 0o600
    source = HereDirectory(DirectoryOptions(path=str(tmp_path), ignoreCase=True), maybeDeferred)
    for name in ("a", only.name, only.name.upper(), only.name.replace("s", "\u017f")):
        with pytest.raises(NotFound):
            source.lookup(folder + name, ONE)
    begun.abort()


def test_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is on the disk before it has its name, the name before the commit fires."""
    thread, fired, order = Later(), list[Any](), list[str]()
    fsync, rename = os.fsync, os.rename
    kind = {True: "directory", False: "file"}
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append(f"sync {kind[stat.S_ISDIR(os.fstat(fd).st_mode)]}"), fsync(fd))[1]
    )
    monkeypatch.setattr(os, "rename", lambda *a, **k: (order.append("rename"), rename(*a, **k))[1])
    begun = drop(tmp_path, thread, policy="overwrite").begin("a", ONE, None)
    begun.write(b"all")
    begun.commit().addCallback(fired.append)
    assert (order, fired, (tmp_path / "a").exists()) == ([], [], False)
    thread.run()
    assert (order, fired) == (["sync file", "rename", "sync directory"], [None])


def test_directoriesSynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each directory that gets another one, or a file, is on the disk before the commit fires; no other is synced."""
    (tmp_path / "there").mkdir()
    synced, fsync = list[str](), os.fsync

    def watch(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    assert upload(drop(tmp_path, **{"make-directories": True}), "there/b/c/file", b"x") is None
    folders = [each.removeprefix(str(tmp_path)) for each in synced if not each.endswith(".part")]
    assert folders == ["/there", "/there/b", "/there/b/c"]


@pytest_twisted.inlineCallbacks
def test_realThread(tmp_path: Path) -> Any:
    """With threads of its own it is as with a test's, for many uploads at a time."""
    sink = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), DiskThreads())
    begun = yield gatherResults([sink.begin(f"f{number}", ONE, None) for number in range(20)])
    for number, each in enumerate(begun):
        each.write(b"%d" % number)
    for each in [each.commit() for each in begun]:
        yield each
    assert everything(tmp_path) == {f"f{number}": b"%d" % number for number in range(20)}
    removed = yield sink.removeAbandoned()
    assert removed == 0
    yield sink.uploads.settled()


def test_abort(tmp_path: Path) -> None:
    """A broken upload leaves nothing, however often that is said, and its name is free again."""
    sink = drop(tmp_path)
    begun = sink.begin("a", ONE, None)
    begun.write(b"half")
    begun.abort()
    begun.abort()
    assert (everything(tmp_path), sink.uploads.unwritten) == ({}, 0)
    with pytest.raises(Refused):
        begun.write(b"more")
    errors: list[Any] = []
    begun.commit().addErrback(errors.append)
    assert errors[0].type is Refused
    assert upload(sink, "a", b"anew", peer=TWO) is None


def test_abortWhileStoring(tmp_path: Path) -> None:
    """Once it is being stored it cannot be called back."""
    thread = Later()
    begun = drop(tmp_path, thread).begin("a", ONE, None)
    begun.write(b"all")
    begun.commit()
    begun.abort()
    thread.run()
    assert everything(tmp_path) == {"a": b"all"}


def test_abortBehindTheEnd(tmp_path: Path) -> None:
    """Nor can it once all octets have come, while those before the last are still being written."""
    thread, fired = Later(), list[Any]()
    begun = drop(tmp_path, thread).begin("a", ONE, None)
    begun.write(b"x" * WRITE_AT_ONCE)
    begun.commit().addBoth(fired.append)
    begun.abort()
    thread.run()
    assert fired == [None]
    assert everything(tmp_path) == {"a": b"x" * WRITE_AT_ONCE}


def test_abortTwice(tmp_path: Path) -> None:
    """What has the descriptors of an upload after its end is not closed when it is aborted again."""
    begun = drop(tmp_path).begin("a", ONE, None)
    begun.abort()
    later = [os.open(tmp_path, os.O_RDONLY) for _ in range(4)]
    begun.abort()
    for fd in later:
        os.close(fd)


POLICIES = [
    ("create", False, None, b"new"),
    ("create", True, Exists, b"old"),
    ("overwrite", False, None, b"new"),
    ("overwrite", True, None, b"new"),
    ("existing", False, NotFound, None),
    ("existing", True, None, b"new"),
]


@pytest.mark.parametrize(("policy", "before", "error", "after"), POLICIES)
def test_policy(tmp_path: Path, policy: str, before: bool, error: type[Refused] | None, after: bytes | None) -> None:
    """Each policy creates, replaces or refuses, and what is refused stays as it was."""
    if before:
        (tmp_path / "a").write_bytes(b"old")
    sink = drop(tmp_path, policy=policy)
    if error is None:
        assert upload(sink, "a", b"new") is None
    else:
        with pytest.raises(error):
            sink.begin("a", ONE, None)
    assert everything(tmp_path) == ({} if after is None else {"a": after})


def _makeReadOnly(path: Path) -> None:
    """Put a file there, in place of that which is there, to which nobody may write."""
    path.unlink(missing_ok=True)
    path.write_bytes(b"read-only")
    path.chmod(0o444)


@pytest.mark.parametrize(
    ("policy", "change", "error", "after"),
    [
        ("create", lambda path: path.write_bytes(b"other"), Exists, {"a": b"other"}),
        ("existing", Path.unlink, NotFound, {}),
        ("overwrite", lambda path: (path.unlink(missing_ok=True), path.mkdir()), Forbidden, {}),
        ("overwrite", _makeReadOnly, Forbidden, {"a": b"read-only"}),
        ("existing", _makeReadOnly, Forbidden, {"a": b"read-only"}),
        ("overwrite", lambda path: path.symlink_to("none"), Forbidden, None),
        ("overwrite", os.mkfifo, Forbidden, None),
    ],
)
def test_changedMeanwhile(tmp_path: Path, policy: str, change: Any, error: type[Refused], after: Any) -> None:
    """What appears or vanishes under the name while the upload runs is not overlooked; nothing is left."""
    if policy == "existing":
        (tmp_path / "a").write_bytes(b"old")
    begun = drop(tmp_path, policy=policy).begin("a", ONE, None)
    begun.write(b"new")
    change(tmp_path / "a")
    errors: list[Any] = []
    begun.commit().addErrback(errors.append)
    assert errors[0].type is error
    if after is None:
        assert [each.is_file() for each in tmp_path.iterdir()] == [False]
    else:
        assert everything(tmp_path) == after


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("b")])
def test_replaceOnlyFiles(tmp_path: Path, make: Any) -> None:
    """A directory, a FIFO and a link are never replaced."""
    make(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"target")
    with pytest.raises(Forbidden):
        drop(tmp_path, policy="overwrite").begin("a", ONE, None)
    assert everything(tmp_path)["b"] == b"target"


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "mode", "theirs"),
    [(9999, 0o444, True), (9999, 0o664, True), (9999, 0o666, False), (12345, 0o444, True), (12345, 0o600, False)],
)
def test_replaceForeign(tmp_path: Path, owner: int, mode: int, theirs: bool) -> None:
    """What the server's user could not write to is not replaced by an upload either, unless the switch says so."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    file = tmp_path / "a"
    file.write_bytes(b"old")
    os.chown(file, owner, owner)
    file.chmod(mode)
    sinks = drop(tmp_path, policy="overwrite"), drop(tmp_path, policy="overwrite", **{"replace-foreign": "true"})
    os.seteuid(12345)
    try:
        if theirs:
            with pytest.raises(Forbidden, match="replace-foreign is off"):
                sinks[0].begin("a", ONE, None)
            assert everything(tmp_path) == {"a": b"old"} or mode & 0o004 == 0
        else:
            assert upload(sinks[0], "a", b"new") is None
        assert upload(sinks[1], "a", b"newer") is None
    finally:
        os.seteuid(0)
    assert everything(tmp_path) == {"a": b"newer"}


def test_replaceReadOnlyAsRoot(tmp_path: Path) -> None:
    """A file that nobody may write to is not replaced, even by root, who could write to it."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o444)
    with pytest.raises(Forbidden):
        drop(tmp_path, policy="existing").begin("a", ONE, None)


def test_severalDirectories(tmp_path: Path) -> None:
    """An upload goes to the first directory that is for its name and its client; if none is, that is forbidden."""
    sinks = []
    for name, networks in ("one", "10.0.0.7"), ("two", "10.0.0.8"):
        (tmp_path / name).mkdir()
        given = {"path": str(tmp_path / name), "networks": networks, "keep-free": 0}
        sinks.append(UploadDirectory(UploadDirectoryOptions.model_validate(given), maybeDeferred))
    chain = SinkChain(sinks)
    for peer in (ONE, TWO):
        begun = result(chain.begin("a", peer, None))
        begun.write(peer[0].encode() + b"\r\n")
        begun.commit()
    assert everything(tmp_path) == {"one/a": b"10.0.0.7\r\n", "two/a": b"10.0.0.8\r\n"}
    with pytest.raises(Forbidden, match="by this client"):
        result(chain.begin("a", ("10.0.0.9", 1), None))


@pytest.mark.parametrize("under", ["", "logs"])
def test_tooLong(tmp_path: Path, under: str) -> None:
    """A name that is too long for a file is not found, as in a read, whether or not a directory is for such names."""
    chain = SinkChain([drop(tmp_path, under=under)])
    for name in ("n" * 256, "logs/" + "n" * 256, "logs/" * 205 + "n"):
        with pytest.raises(NotFound, match="too long"):
            result(chain.begin(name, ONE, None))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no/a", NotFound),
        ("../a", Forbidden),
        ("/", Forbidden),
        ("file/a", NotFound),
        ("away/a", Forbidden),
        (".castd-1-1.part", Forbidden),
        (".CASTD-1-1.part", Forbidden),
        (".ca\u017ftd-1-1.part", Forbidden),  # the long s, another spelling of s
    ],
)
def test_names(tmp_path: Path, name: str, error: type[Refused]) -> None:
    """No directory is created for an upload, none outside is written to, and names of unfinished ones are not had."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"")
    (tmp_path / "outside").mkdir()
    (root / "away").symlink_to("../outside")
    with pytest.raises(error):
        drop(root, policy="overwrite").begin(name, ONE, None)
    assert everything(tmp_path) == {"root/file": b""}


def test_linkedDirectory(tmp_path: Path) -> None:
    """A directory may be a link that stays inside, unless that is switched off."""
    (tmp_path / "today").mkdir()
    (tmp_path / "logs").symlink_to("today")
    assert upload(drop(tmp_path), "logs/a", b"x") is None
    assert (tmp_path / "today" / "a").read_bytes() == b"x"
    with pytest.raises(Forbidden):
        drop(tmp_path, links="never").begin("logs/b", ONE, None)
    for number, target in enumerate((".", "today/..", "today/../../" + tmp_path.name, str(tmp_path), "/")):
        (tmp_path / f"link{number}").symlink_to(target)
    for number in range(4):
        assert upload(drop(tmp_path), f"link{number}/b{number}", b"x") is None
        assert (tmp_path / f"b{number}").exists()
    (tmp_path / "above").symlink_to("..")
    for name in ("above/a", "link4/a"):
        with pytest.raises(Forbidden):
            drop(tmp_path).begin(name, ONE, None)


def test_underAndNetworks(tmp_path: Path) -> None:
    """Names begin with the prefix that the directory has, clients are in its networks."""
    sink = drop(tmp_path, under="logs", networks="10.0.0.7")
    assert upload(sink, "logs/a", b"x") is None
    assert everything(tmp_path) == {"a": b"x"}
    with pytest.raises(NotFound):
        sink.begin("a", ONE, None)
    with pytest.raises(Forbidden):
        sink.begin("logs/b", TWO, None)


def test_busy(tmp_path: Path) -> None:
    """The second upload of a name is told "busy", by whatever way it comes; other names are free."""
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    sink = drop(tmp_path, policy="overwrite")
    first = sink.begin("d/a", ONE, None)
    opened = Descriptors()
    for name in ("d/a", "link//a"):
        with pytest.raises(Forbidden) as refused:
            sink.begin(name, TWO, None)
        assert refused.value.text == "busy"
    assert opened.left() == []
    assert upload(sink, "d/b", b"other", peer=TWO) is None
    first.write(b"first")
    first.commit()
    assert upload(sink, "d/a", b"second", peer=TWO) is None
    assert everything(tmp_path)["d/a"] == b"second"


def test_check(tmp_path: Path) -> None:
    """It is told whether an upload would begin, as if it began, and none does: nothing is made, nobody is disturbed."""

    def would(sink: HereUploads, name: str, peer: Any = ONE, size: int | None = None) -> None:
        before, opened = sorted(tmp_path.rglob("*")), Descriptors()
        result(sink.check(name, KnownMachine(peer), size))
        assert (sorted(tmp_path.rglob("*")), opened.left()) == (before, [])

    plain, making = drop(tmp_path), drop(tmp_path, **{"make-directories": True})
    with pytest.raises(NotFound):
        would(plain, "d/a")
    for depth in (1, MOST_MADE):
        would(making, "d/" * depth + "a")
    with pytest.raises(NotFound):
        would(making, "d/" * (MOST_MADE + 1) + "a")
    (tmp_path / "a").write_bytes(b"there")
    with pytest.raises(Exists):
        would(plain, "a")
    would(drop(tmp_path, policy="number"), "a")
    begun = plain.begin("c", ONE, 1000)
    with pytest.raises(Full, match="space"):
        would(plain, "b", size=1 << 60)
    would(plain, "b", size=1000)
    assert [disk.setAside for disk in space._disks.values() if disk.setAside] == [1000]
    begun.abort()
    tmp_path.chmod(0o555)
    with nobody(), pytest.raises(Forbidden, match=os.strerror(errno.EACCES)):
        result(plain.check("b", KnownMachine(ONE), None))
    tmp_path.chmod(0o755)


def test_checkBusy(tmp_path: Path) -> None:
    """A name that is being uploaded is busy for others; its own client could begin anew, but not while it is stored."""
    thread, clock = Later(), Clock()
    options = UploadDirectoryOptions(path=str(tmp_path), keepFree=0, policy="overwrite")
    sink = HereUploads(options, thread, seconds=clock.seconds)

    def check(peer: Any, of: HereUploads = sink) -> str:
        asked = of.check("a", KnownMachine(peer), None)
        waiting, thread.jobs = [*thread.jobs], thread.jobs[held:]
        thread.run()
        thread.jobs = waiting[:held]
        try:
            result(asked)
        except Forbidden as refusal:
            return refusal.text
        return ""

    begun, held = sink.begin("a", ONE, None), 0
    assert [check(peer) for peer in (ONE, (ONE[0], 2071), TWO)] == ["", "busy", "busy"]
    clock.advance(SILENT_FOR)
    assert [check(peer) for peer in (ONE, (ONE[0], 2071), TWO)] == ["", "", "busy"]
    begun.write(b"all")
    begun.commit()
    held = len(thread.jobs)
    assert [check(peer) for peer in (ONE, (ONE[0], 2071), TWO)] == ["busy"] * 3
    thread.run()
    held = 0
    assert check(TWO) == ""
    both = HereUploads(options.model_copy(update={"policy": "number"}), thread)
    ours = both.begin("a", ONE, None)
    assert check(TWO, both) == ""
    ours.abort()
    thread.run()


def test_begunAnew(tmp_path: Path) -> None:
    """A client that begins anew ends its own former upload, but not while that is being stored."""
    thread = Later()
    sink = drop(tmp_path, thread, policy="overwrite")
    first = sink.begin("a", ONE, None)
    first.write(b"first")
    second = sink.begin("a", ONE, None)
    with pytest.raises(Refused):
        first.write(b"more")
    second.write(b"second")
    second.commit()
    with pytest.raises(Forbidden):
        sink.begin("a", ONE, None)
    thread.run()
    assert everything(tmp_path) == {"a": b"second"}


def test_largest(tmp_path: Path) -> None:
    """The limit of size holds when the size is announced and, to the octet, while it is written; nothing is left."""
    sink = drop(tmp_path, **{"max-size": "8 B"})
    with pytest.raises(Full):
        sink.begin("a", ONE, 9)
    begun = sink.begin("a", ONE, 8)
    begun.write(b"12345678")
    with pytest.raises(Full):
        begun.write(b"9")
    assert everything(tmp_path) == {}
    assert upload(sink, "a", b"1234", b"5678") is None


def test_keepFree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Space is kept free: by the size announced, and looked at again before each write."""
    free = 10_000_000
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_bavail=free // 1000, f_frsize=1000))
    sink = drop(tmp_path, **{"keep-free": "4 MB"})
    with pytest.raises(Full):
        sink.begin("a", ONE, 6_000_001)
    begun = sink.begin("a", ONE, None)
    free = 4_066_000
    begun.write(b"x" * WRITE_AT_ONCE)
    free = 4_000_000
    with pytest.raises(Full):
        begun.write(b"x" * WRITE_AT_ONCE)
    assert everything(tmp_path) == {}
    free = 3_999_000
    with pytest.raises(Full):
        sink.begin("a", ONE, None)


def test_keepFreeOfTheWritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload whose octets are all on the disk is stored, however little is left free by then."""
    free = 10_000_000
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_bavail=free, f_frsize=1))
    begun = drop(tmp_path, **{"keep-free": "4 MB"}).begin("a", ONE, None)
    begun.write(b"x" * WRITE_AT_ONCE)
    free = 0
    assert result(begun.commit()) is None
    assert everything(tmp_path) == {"a": b"x" * WRITE_AT_ONCE}


def test_keepFreeOfMany(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    However many upload at once, to whatever directories on the disk, less is never left free: what they have announced
    is set aside until it is written or they have ended, and what they have not is counted at each write.
    """
    written, taken = 0, 10_000_000
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        nonlocal written
        written += write(fd, data)
        return len(data)

    monkeypatch.setattr(os, "write", counted)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_bavail=taken + 4_000_000 - written, f_frsize=1))
    sinks = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        sinks.append(drop(tmp_path / name, **{"keep-free": "4 MB"}))
    announced = [sinks[number % 2].begin(f"a{number}", ONE, 1_000_000) for number in range(9)]
    with pytest.raises(Full):
        sinks[0].begin("b", ONE, 1_000_001)
    unannounced = [sinks[number % 2].begin(f"c{number}", ONE, None) for number in range(180)]
    full = 0
    for each in unannounced:
        try:
            each.write(b"x" * WRITE_AT_ONCE)
        except Full:
            full += 1
    assert full == 180 - 1_000_000 // WRITE_AT_ONCE
    assert written <= 1_000_000
    for each in announced:
        for _ in range(10):
            each.write(b"x" * 100_000)
        each.commit()
    assert 9_900_000 < written <= 10_000_000
    for each in unannounced:
        each.abort()
    written = 0
    sinks[0].begin("d", ONE, 10_000_000).abort()


def test_unwritten(tmp_path: Path) -> None:
    """A disk that is slower than the client: after so many octets write() asks to wait, and all of it is stored."""
    thread, fired = Later(), list[Any]()
    sink = drop(tmp_path, thread)
    begun = sink.begin("a", ONE, None)
    for _ in range(MOST_UNWRITTEN // 1000):
        assert begun.write(b"x" * 1000) is None
    room = begun.write(b"x" * 1000)
    assert begun.write(b"x") is room
    room.addCallback(fired.append)
    assert sink.uploads.unwritten == 1000 * (MOST_UNWRITTEN // 1000) + 1001
    thread.run(1)
    assert fired == [None]
    begun.commit().addCallback(fired.append)
    assert fired == [None]
    thread.run()
    assert fired == [None, None]
    assert everything(tmp_path) == {"a": b"x" * (1000 * (MOST_UNWRITTEN // 1000) + 1001)}
    assert sink.uploads.unwritten == 0


def test_oneAtATime(tmp_path: Path) -> None:
    """The octets of one upload are written by one thread at a time, in their order, and its client waits for enough."""
    thread = Later()
    sink = drop(tmp_path, thread)
    begun, room, fired = sink.begin("a", ONE, None), None, list[Any]()
    for number in range(6):
        room = begun.write(bytes([number]) * WRITE_AT_ONCE)
        assert len(thread.jobs) == 1
    assert room is not None
    room.addCallback(fired.append)
    begun.commit().addCallback(fired.append)
    assert len(thread.jobs) == 1
    thread.run(1)
    assert fired == []
    assert len(thread.jobs) == 1
    thread.run()
    assert fired == [None, None]
    assert everything(tmp_path) == {"a": b"".join(bytes([number]) * WRITE_AT_ONCE for number in range(6))}


def test_goesOnWriting(tmp_path: Path) -> None:
    """What has come while the disk was waited for is written as soon as it has answered."""
    thread = Later()
    begun = drop(tmp_path, thread).begin("a", ONE, None)
    begun.write(b"x" * WRITE_AT_ONCE)
    begun.write(b"y" * WRITE_AT_ONCE)
    thread.run()
    assert list(everything(tmp_path).values()) == [b"x" * WRITE_AT_ONCE + b"y" * WRITE_AT_ONCE]
    begun.abort()
    thread.run()


def test_unwrittenInAll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Once so much of all uploads waits for the disk, each client waits whose own is more than what is written together;
    those that have brought less go on.
    """
    monkeypatch.setattr(file_upload, "MOST_UNWRITTEN_IN_ALL", 3 * WRITE_AT_ONCE)
    thread = Later()
    sink = drop(tmp_path, thread)
    one, two, three = (sink.begin(name, ONE, None) for name in "abc")
    for each in (one, two):
        assert each.write(b"x" * WRITE_AT_ONCE) is None
    assert one.write(b"x" * WRITE_AT_ONCE) is None
    assert three.write(b"x") is None
    assert two.write(b"x" * (WRITE_AT_ONCE - 1)) is not None
    assert three.write(b"x" * (WRITE_AT_ONCE - 1)) is None
    assert three.write(b"x") is not None
    for each in (one, two, three):
        each.commit()
    thread.run()
    assert [len(octets) for _, octets in sorted(everything(tmp_path).items())] == [
        2 * WRITE_AT_ONCE,
        2 * WRITE_AT_ONCE - 1,
        WRITE_AT_ONCE + 1,
    ]
    assert sink.uploads.unwritten == 0


def test_unwrittenFails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for a disk is told when that fails; so is one that has sent all, and one that goes on."""
    thread, told = Later(), list[Any]()
    sink = drop(tmp_path, thread)
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    waiting, whole, going = (sink.begin(name, ONE, None) for name in "abc")
    waiting.write(b"x" * (MOST_UNWRITTEN + 1)).addErrback(lambda failure: told.append(failure.type))
    whole.write(b"x")
    whole.commit().addErrback(lambda failure: told.append(failure.type))
    going.write(b"x" * WRITE_AT_ONCE)
    thread.run()
    assert told == [Full, Full]
    with pytest.raises(Full):
        going.write(b"x")
    assert (everything(tmp_path), sink.uploads.unwritten) == ({}, 0)


@pytest.mark.parametrize("created", [False, True])
def test_settledWhenAborted(tmp_path: Path, created: bool) -> None:
    """An upload is waited for that was aborted while a thread creates its file, or writes to it."""
    thread, fired = Later(), list[Any]()
    sink = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), thread)
    begun = sink.begin("a", ONE, None).addErrback(fired.append)
    thread.run(2 if created else 1)
    (upload,) = sink.uploads.byKey.values()
    if created:
        upload.write(b"x" * WRITE_AT_ONCE)
    upload.abort()
    fired.clear()
    sink.uploads.settled().addCallback(fired.append)
    assert fired == []
    thread.run()
    assert fired[-1] is None
    assert everything(tmp_path) == {}
    assert begun.called


def test_settled(tmp_path: Path) -> None:
    """It is known when all is stored or removed that has ended; what is still being sent is not waited for."""
    thread, fired = Later(), list[Any]()
    sink = drop(tmp_path, thread)
    stored, aborted, going = (sink.begin(name, ONE, None) for name in "abc")
    stored.write(b"x" * WRITE_AT_ONCE)
    stored.commit()
    aborted.write(b"x" * WRITE_AT_ONCE)
    aborted.abort()
    sink.uploads.settled().addCallback(fired.append)
    while thread.jobs:
        assert fired == []
        thread.run(1)
    assert (len(fired), (tmp_path / "a").exists()) == (1, True)
    assert len(everything(tmp_path)) == 2
    going.abort()
    thread.run()


@pytest.mark.parametrize("call", ["begin", "check"])
def test_noStatus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A directory of which nothing can be found out ends the upload, and nothing stays open."""
    sink = drop(tmp_path)
    opened = Descriptors()

    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("castd.files.uploads.os.fstat", failing)
        with pytest.raises(Refused):
            result(sink.begin("a", ONE, None) if call == "begin" else sink.check("a", KnownMachine(ONE), None))
    assert opened.left() == []


def test_abortWhileWriting(tmp_path: Path) -> None:
    """An upload that ends while its disk is waited for leaves nothing once the disk has answered."""
    thread = Later()
    sink = drop(tmp_path, thread)
    begun = sink.begin("a", ONE, None)
    begun.write(b"x" * WRITE_AT_ONCE)
    begun.abort()
    thread.run()
    assert (everything(tmp_path), sink.uploads.unwritten) == ({}, 0)


def test_nobodyWaits(tmp_path: Path) -> None:
    """An upload whose request was let go before the disk had made it leaves nothing."""
    thread, errors = Later(), list[Any]()
    sink = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), thread)
    begun = sink.begin("a", ONE, None).addErrback(errors.append)
    thread.run(1)
    begun.cancel()
    thread.run()
    assert (everything(tmp_path), len(errors)) == ({}, 1)


@pytest.mark.slow
def test_tooManyWait(tmp_path: Path) -> None:
    """So many requests wait for one disk, and no more; that they are dropped is no answer."""
    thread = Later()
    sink = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), thread)
    begun = [sink.begin(f"f{number}", ONE, None) for number in range(MOST_AWAITED)]
    with pytest.raises(Unanswered):
        sink.begin("one more", ONE, None)
    thread.run()
    assert all(each.called for each in begun)
    for each in [*begun, sink.begin("one more", ONE, None)]:
        each.addCallback(lambda upload: upload.abort())
    thread.run()


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, Full), (errno.EDQUOT, Full), (errno.EFBIG, Full), (errno.EIO, Refused)],
    ids=errno.errorcode.get,
)
def test_writeFails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Refused]) -> None:
    """A full disk is told as that, a broken one as a failure, and nothing is left."""
    sink = drop(tmp_path)
    begun = sink.begin("a", ONE, None)

    def broken(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", broken)
        with pytest.raises(Refused) as refused:
            begun.write(b"x" * WRITE_AT_ONCE)
        assert type(upload(sink, "b", b"x")) is error
    assert type(refused.value) is error
    assert everything(tmp_path) == {}
    assert upload(sink, "a", b"x") is None


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), 3),
        ((errno.EEXIST,), 6),
        ((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG), 1),
        ((errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR), 2),
        ((errno.EIO, errno.ELOOP), 0),
    ],
)
def test_codes(numbers: tuple[int, ...], code: int) -> None:
    """Each error of the disk has the code of RFC 1350 that says what it is, and one that is none of these has 0."""
    assert {file_upload.writeRefusal(OSError(number, os.strerror(number))).code for number in numbers} == {code}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_noAnswerYet(number: int) -> None:
    """Where castd has no descriptor left the client is not answered: it asks again."""
    assert isinstance(file_upload.writeRefusal(OSError(number, os.strerror(number))), Unanswered)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, Full), (errno.EROFS, Forbidden)], ids=errno.errorcode.get)
def test_createFails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Refused]) -> None:
    """Where no file can be made the client is told so before it sends anything, and nothing stays open."""
    sink = drop(tmp_path)
    opened = Descriptors()

    def broken(_: int) -> tuple[bytes, int]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(partial, "create", broken)
    with pytest.raises(Refused) as refused:
        sink.begin("a", ONE, None)
    assert type(refused.value) is error
    assert opened.left() == []


@pytest.mark.parametrize(
    ("user", "owner", "group", "mode", "theirs"),
    [
        (0, 7, 7, 0o400, True),
        (0, 7, 7, 0o020, False),
        (0, 7, 7, 0o002, False),
        (5, 5, 7, 0o200, False),
        (5, 5, 7, 0o466, True),
        (5, 7, 6, 0o020, False),
        (5, 7, 8, 0o020, False),
        (5, 7, 8, 0o646, True),
        (5, 7, 7, 0o002, False),
        (5, 7, 7, 0o660, True),
    ],
)
def test_whoseFile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, owner: int, group: int, mode: int, theirs: bool
) -> None:
    """The first of user, group and others that castd is one of decides, as in the kernel, whether a file is its own."""
    sink, lstat = drop(tmp_path, policy="overwrite"), os.lstat
    (tmp_path / "a").write_bytes(b"old")

    def told(path: Any, **more: Any) -> Any:
        found = list(lstat(path, **more))
        found[stat.ST_MODE], found[stat.ST_UID], found[stat.ST_GID] = stat.S_IFREG | mode, owner, group
        return os.stat_result(found)

    directory = os.open(tmp_path, os.O_RDONLY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user)
        patch.setattr(os, "getegid", lambda: 6)
        patch.setattr(os, "getgroups", lambda: [8])
        patch.setattr(os, "lstat", told)
        try:
            sink.uploads.checkPolicy(directory, b"a")
        except Forbidden:
            assert theirs
        else:
            assert not theirs
        finally:
            os.close(directory)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, Full), (errno.EIO, Refused)], ids=errno.errorcode.get)
def test_syncFails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Refused]) -> None:
    """A file that the disk did not take, as it turns out in the end, does not get its name."""

    def broken(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    assert type(upload(drop(tmp_path), "a", b"x")) is error
    assert everything(tmp_path) == {}


def test_directorySync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no sync of directories takes uploads all the same."""
    fsync = os.fsync

    def picky(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", picky)
    assert upload(drop(tmp_path), "a", b"x") is None


def test_directoryNotSynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An upload that has got its name is stored, and its client is told so, also if its directory cannot be synced: the
    old file is gone, and a client that was refused would not know.  What might get lost is logged.  An upload whose
    directory would have to be made is refused: nothing is there yet.
    """
    (tmp_path / "a").write_bytes(b"before")
    fsync, events = os.fsync, list[LogEvent]()

    def broken(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", broken)
    with observed(events.append):
        place = drop(tmp_path, policy="overwrite", **{"make-directories": True})
        assert upload(place, "a", b"x") is None
        with pytest.raises(Refused, match="Input/output"):
            upload(place, "new/er/a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    told = [(event["event"], event["path"], event["name"], event["why"]) for event in events]
    assert told == [("unsynced", str(tmp_path), "a", "Input/output error")]


def test_shortWrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system takes in parts is written in parts."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    assert upload(drop(tmp_path), "a", b"0123456789") is None
    assert everything(tmp_path) == {"a": b"0123456789"}


CRASH = """
import os, sys
from twisted.internet.defer import maybeDeferred
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
directory = UploadDirectory(UploadDirectoryOptions(path=sys.argv[1], keepFree=0), maybeDeferred)
directory.begin("d/a", ("10.0.0.1", 1), None).addCallback(lambda upload: upload.write(b"h" * 100000))
os._exit(0) if sys.argv[2] == "crash" else (print("ready", flush=True), sys.stdin.read())
"""


def other(path: Path, what: str) -> subprocess.Popen[str]:
    """Another server that uploads into the directory, and crashes or waits for the end of its input."""
    root = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, "-c", CRASH, str(path), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


@pytest.mark.slow
def test_sweep(tmp_path: Path) -> None:
    """What a crash has left is removed at the next start, wherever it lies; what anybody still writes to is not."""
    (tmp_path / "d").mkdir()
    with other(tmp_path, "crash") as crashed:
        crashed.communicate(timeout=30)
    left = list((tmp_path / "d").iterdir())
    assert [partial.NAME.fullmatch(os.fsencode(each.name)) is not None for each in left] == [True]
    (tmp_path / ".castd-notes.part").write_bytes(b"somebody's own")
    with other(tmp_path, "wait") as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "ready\n"
        sink = drop(tmp_path)
        mine = sink.begin("mine", ONE, None)
        removed: list[int] = []
        sink.removeAbandoned().addCallback(removed.append)
        assert removed == [1]
        assert not left[0].exists()
        assert len(list((tmp_path / "d").iterdir())) == 1
        waiting.communicate("", timeout=30)
    mine.write(b"all")
    mine.commit()
    assert (tmp_path / "mine").read_bytes() == b"all"
    sink.removeAbandoned().addCallback(removed.append)
    assert removed == [1, 1]
    assert everything(tmp_path) == {"mine": b"all", ".castd-notes.part": b"somebody's own"}


def test_sweepOnlyFiles(tmp_path: Path) -> None:
    """A link, a FIFO or a directory with such a name is not touched, nor what a link leads to."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / ".castd-1-1.part").write_bytes(b"outside")
    (root / ".castd-1-1.part").symlink_to("../.castd-1-1.part")
    os.mkfifo(root / ".castd-1-2.part")
    (root / ".castd-1-3.part").mkdir()
    (root / "link").symlink_to("..")
    sink, opened = drop(root), Descriptors()
    assert result(sink.removeAbandoned()) == 0
    assert opened.left() == []
    assert len(list(root.iterdir())) == 4
    assert (tmp_path / ".castd-1-1.part").exists()


def test_sweptWhileBegun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload whose file is taken for a leftover in the instant before it is locked takes another one."""
    create, rivals = os.open, [1]

    def opened(path: Any, flags: int, *args: Any, **keys: Any) -> int:
        fd = create(path, flags, *args, **keys)
        if flags & os.O_CREAT and rivals:
            rivals.pop()
            assert partial.removeAbandoned(str(tmp_path)) == 1
        return fd

    sink = drop(tmp_path)
    monkeypatch.setattr(os, "open", opened)
    assert upload(sink, "a", b"x") is None
    assert everything(tmp_path) == {"a": b"x"}


def test_namesTaken(tmp_path: Path) -> None:
    """However many partial files another server of the same process number has there, an upload finds a name."""
    sink = drop(tmp_path)
    assert upload(sink, "a", b"x") is None
    next_ = next(partial._numbers) + 1
    for number in range(next_, next_ + 20):
        (tmp_path / f".castd-{os.getpid()}-{number}.part").write_bytes(b"theirs")
    assert upload(sink, "b", b"y") is None
    found = everything(tmp_path)
    assert (found.pop("a"), found.pop("b")) == (b"x", b"y")
    assert list(found.values()) == [b"theirs"] * 20


def test_noDescriptorsLeft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the directory cannot be opened now, the client is told to try again."""
    sink = drop(tmp_path)

    def opened(*args: Any, **keys: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(Busy):
        sink.begin("a", ONE, None)


def test_noRoot(tmp_path: Path) -> None:
    """A directory that is missing is found when the sink is made, and named."""
    with pytest.raises(OSError, match="missing"):
        drop(tmp_path / "missing")


@pytest.mark.parametrize("wrong", [{"policy": "append"}, {"max-size": "1.5 B"}, {"under": ".."}, {"maxsize": 1}])
def test_wrongOptions(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Options that cannot work are found when they are read."""
    with pytest.raises(ValidationError):
        UploadDirectoryOptions.model_validate({"path": str(tmp_path), **wrong})


def test_makeDirectories(tmp_path: Path) -> None:
    """Directories that are missing are made, so many at the most, with the mode that the files have."""
    (tmp_path / "there").mkdir()
    sink = drop(tmp_path, **{"make-directories": True, "mode": "640"})
    for name in ("a", "there/b/c", "x/y/z"):
        assert upload(sink, name, b"octets") is None
        assert (tmp_path / name).read_bytes() == b"octets"
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "x" / "y").stat().st_mode) == 0o750
    with pytest.raises(NotFound):
        sink.begin("d/" * (MOST_MADE + 1) + "x", ONE, None)
    assert not (tmp_path / "d").exists()
    assert upload(sink, "d/" * MOST_MADE + "x", b"octets") is None
    (tmp_path / "link").symlink_to("/")
    for name in ("link/tmp/castd-escape/x", "../castd-escape/x", "a/x"):
        with pytest.raises(Refused):
            sink.begin(name, ONE, None)
    with pytest.raises(NotFound):
        drop(tmp_path).begin("missing/x", ONE, None)


@pytest.mark.parametrize(("options", "mode"), [({}, 0o755), ({"mode": "644"}, 0o755), ({"mode": "664"}, 0o775)])
def test_modeOfDirectories(tmp_path: Path, options: dict[str, str], mode: int) -> None:
    """Without a mode a directory has that of any other, less the umask; else who may read the files may search it."""
    assert upload(drop(tmp_path, **{"make-directories": True, **options}), "x/a", b"") is None
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


@pytest.mark.parametrize("planted", ["link", "directory"])
def test_madeByAnother(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    """
    What somebody else puts there, in the instant before a directory is made: a directory is used as it is, and a link
    that leads out of the root is not followed.
    """
    root, outside, made = tmp_path / "root", tmp_path / "outside", os.mkdir
    root.mkdir()
    outside.mkdir()

    def first(part: bytes, mode: int, dir_fd: int) -> None:
        if planted == "link":
            os.symlink(outside, part, dir_fd=dir_fd)
        else:
            made(part, 0o700, dir_fd=dir_fd)
        made(part, mode, dir_fd=dir_fd)

    sink = drop(root, **{"make-directories": True, "mode": "644"})
    opened = Descriptors()
    with monkeypatch.context() as patch:
        patch.setattr("castd.files.uploads.os.mkdir", first)
        if planted == "link":
            with pytest.raises(Refused):
                sink.begin("x/a", ONE, None)
        else:
            assert upload(sink, "x/a", b"octets") is None
            assert stat.S_IMODE((root / "x").stat().st_mode) == 0o700
    assert list(outside.iterdir()) == []
    assert opened.left() == []


def test_keepBoth(tmp_path: Path) -> None:
    """A file that is there stays, and another gets a number, or the time and then a number."""
    numbered, timed = drop(tmp_path, policy="number"), drop(tmp_path, policy="time")
    for octets in (b"1", b"2", b"3"):
        assert upload(numbered, "log", octets) is None
    assert [(tmp_path / name).read_bytes() for name in ("log", "log.1", "log.2")] == [b"1", b"2", b"3"]
    machine = KnownMachine(ONE, at=1_795_728_240.0)
    for octets in (b"4", b"5"):
        begun: Any = timed.beginFor("log", machine, None)
        begun.write(octets)
        begun.commit()
    assert (tmp_path / f"log.{machine.moment}").read_bytes() == b"4"
    assert (tmp_path / f"log.{machine.moment}.1").read_bytes() == b"5"
    assert (tmp_path / "log").read_bytes() == b"1"
    long = "n" * 255
    for _ in range(2):
        assert upload(numbered, long, b"") is None
    assert (tmp_path / (long[:253] + ".1")).exists()
    for _ in range(2):
        again: Any = timed.beginFor(long, machine, None)
        again.commit()
    moment = f".{machine.moment}"
    assert (tmp_path / (long[: 255 - len(moment)] + moment)).exists()
    assert (tmp_path / ((long[: 255 - len(moment)] + moment)[:253] + ".1")).exists()


def test_keepWhatIsNoFile(tmp_path: Path) -> None:
    """What has the name and is no file, or may not be written to, stays as well, and the upload is beside it."""
    sink = drop(tmp_path, policy="number")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "closed").write_bytes(b"old")
    (tmp_path / "closed").chmod(0o444)
    for name in ("folder", "link", "closed"):
        assert upload(sink, name, b"new") is None
    assert everything(tmp_path) == {"closed": b"old", **{f"{name}.1": b"new" for name in ("folder", "link", "closed")}}


def test_allNumbersTaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the last number an upload is refused, and nothing that is there is lost."""
    monkeypatch.setattr(file_upload, "MOST_BESIDE", 2)
    sink = drop(tmp_path, policy="number")
    ends = [upload(sink, "log", b"%d" % number) for number in range(4)]
    assert ends[:3] == [None] * 3
    assert isinstance(ends[3], Exists)
    assert everything(tmp_path) == {"log": b"0", "log.1": b"1", "log.2": b"2"}


def test_keepBothAtOnce(tmp_path: Path) -> None:
    """Several clients may upload one name at the same time, and nothing of theirs is lost."""
    sink = drop(tmp_path, policy="number")
    begun: list[Any] = [sink.begin("log", (f"10.0.0.{number}", 1), None) for number in range(3)]
    for number, each in enumerate(begun):
        each.write(b"%d" % number)
        each.commit()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"0", b"1", b"2"]


def test_uploadsOfMachines(tmp_path: Path) -> None:
    """Where an upload goes may depend on the machine, by words, rules and strip; an unknown one has no place there."""
    sink = drop(
        tmp_path / "{mac}",
        strip=["/logs/"],
        rewrite=[{"from": r"\.log$", "to": ".{date}.log"}, {"from": r"[\x01-\x1f]+$", "to": ""}],
        **{"make-directories": True},
    )
    machine = KnownMachine(ONE, mac="52:54:00:66:00:10", at=1_795_728_240.0)
    begun: Any = sink.beginFor("/logs/boot.log", machine, None)
    begun.commit()
    assert (tmp_path / "52-54-00-66-00-10" / f"boot.{machine.values['date']}.log").exists()
    assert sink.covers("boot.log", machine)
    assert sink.locate("boot.log", machine) == f"{tmp_path}/52-54-00-66-00-10/boot.{machine.values['date']}.log"
    assert not sink.covers("boot.log", KnownMachine(ONE))
    assert sink.locate("boot.log", KnownMachine(ONE)) == ""
    with pytest.raises(NotFound):
        sink.beginFor("boot.log", KnownMachine(ONE), None)


def test_unaskedUploads(tmp_path: Path) -> None:
    """Who uploads is found out only for a name that a folder of machines may take; refusals are what they were."""
    asked: list[Any] = []

    def machineOf(peer: Any, server: Any = None) -> KnownMachine:
        asked.append(peer)
        return KnownMachine(peer, mac="52:54:00:66:00:10", at=0.0)

    (tmp_path / "all").mkdir()
    machines: Any = SimpleNamespace(machineOf=machineOf)
    places = (
        {"path": str(tmp_path / "{mac}"), "under": "pc", "networks": "10.0.0.7", "make-directories": True},
        {"path": str(tmp_path / "all"), "under": "all"},
    )
    options = [UploadDirectoryOptions.model_validate({"keep-free": 0, **each}) for each in places]
    chain = SinkChain([UploadDirectory(each, maybeDeferred) for each in options], machines=machines)
    for name, peer, error, count in (
        ("all/a", ONE, None, 0),
        ("a", ONE, "no place", 0),
        ("../pc/a", ONE, "out of the root", 0),
        ("pc/" + "n" * 256, ONE, "too long", 0),
        ("pc/a", ONE, None, 1),
        ("pc/a", TWO, "by this client", 1),
    ):
        if error is None:
            result(chain.begin(name, peer, None)).abort()
        else:
            with pytest.raises(Refused, match=error):
                result(chain.begin(name, peer, None))
        assert (len(asked), name) == (count, name)
        asked.clear()


@pytest.mark.root
def test_group(tmp_path: Path) -> None:
    """Files, and directories that are made for them, belong to the group of the options."""
    assert upload(drop(tmp_path, **{"make-directories": True, "group": "4711"}), "a/b", b"") is None
    assert (tmp_path / "a" / "b").stat().st_gid == (tmp_path / "a").stat().st_gid == 4711
    assert (tmp_path / "a" / "b").stat().st_uid == (tmp_path / "a").stat().st_uid == os.geteuid()


@pytest.mark.parametrize("mode", ["8", "0o640", "64", "4755", "0444", ""])
def test_wrongMode(tmp_path: Path, mode: str) -> None:
    """A mode is three octal digits, without set-id bits, and the owner may write."""
    with pytest.raises(ValidationError, match=r"mode|owner"):
        UploadDirectoryOptions.model_validate({"path": str(tmp_path), "mode": mode})


def test_noGroup(tmp_path: Path) -> None:
    """A group that this machine does not have is a fault of the service file."""
    with pytest.raises(LookupError):
        drop(tmp_path, group="no-such-group")


@pytest.mark.parametrize(
    ("call", "number", "error"), [("mkdir", errno.ENOSPC, Full), ("open", errno.EACCES, Forbidden)]
)
def test_directoryFails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[Refused]
) -> None:
    """A directory that cannot be made, or not be opened, ends the upload, and nothing stays open."""
    sink = drop(tmp_path, **{"make-directories": True})
    opened = Descriptors()
    real = getattr(os, call)

    def failing(path: Any, *given: Any, **named: Any) -> Any:
        if path == b"b":
            raise OSError(number, os.strerror(number))
        return real(path, *given, **named)

    monkeypatch.setattr(f"castd.files.uploads.os.{call}", failing)
    with pytest.raises(error):
        sink.begin("a/b/x", ONE, None)
    assert opened.left() == []


def test_directoryModeFails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that was made, but cannot be given its mode, ends the upload, and nothing stays open."""

    def failing(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    sink = drop(tmp_path, **{"make-directories": True, "mode": "640"})
    opened = Descriptors()
    monkeypatch.setattr("castd.files.uploads.os.fchmod", failing)
    with pytest.raises(Forbidden):
        sink.begin("a/x", ONE, None)
    assert opened.left() == []


def test_groupFails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that castd may not give files to refuses the upload, and leaves no file."""

    def failing(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr("castd.files.file_upload.os.fchown", failing)
    assert isinstance(upload(drop(tmp_path, group="4711"), "x", b"octets"), Forbidden)
    assert everything(tmp_path) == {}


def test_abortedWhileCreated(tmp_path: Path) -> None:
    """
    A disk that takes so long to create a file that its client's request is let go, and the client asks again: the name
    is free once the disk has answered, and nothing is left of the first one.
    """
    thread, told = Later(), list[Any]()
    sink = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), thread)
    first = sink.begin("a", ONE, None).addErrback(lambda failure: told.append(failure.type))
    thread.run(1)  # the directory is open; the file is being created
    first.cancel()
    again = sink.begin("a", ONE, None).addErrback(told.append)
    creating = thread.jobs.pop(0)
    thread.run()
    assert told == [CancelledError]
    thread.jobs.append(creating)
    thread.run()
    assert told == [CancelledError]
    second = result(again)
    second.write(b"second")
    second.commit()
    thread.run()
    assert everything(tmp_path) == {"a": b"second"}
    assert (sink.uploads.byKey, sink.uploads._ending) == ({}, set())


def test_replacedWhileCreated(tmp_path: Path) -> None:
    """An upload whose name another one of its machine takes while the disk still creates its file leaves nothing."""
    thread, clock, told = Later(), Clock(), list[Any]()
    options = UploadDirectoryOptions(path=str(tmp_path), keepFree=0)
    sink = UploadDirectory(options, thread, seconds=clock.seconds)
    sink.begin("a", ONE, None).addErrback(lambda failure: told.append(failure.type))
    thread.run(1)
    creating = thread.jobs.pop(0)
    clock.advance(SILENT_FOR)
    newer = sink.begin("a", (ONE[0], 2071), None)
    thread.run()
    second = result(newer)
    with pytest.raises(Forbidden):
        second.write(b"second")
    with pytest.raises(Forbidden):
        result(second.commit())
    second.claim()
    thread.jobs.append(creating)
    thread.run()
    assert told == [Refused]
    second.write(b"second")
    second.commit()
    thread.run()
    assert everything(tmp_path) == {"a": b"second"}
    assert (sink.uploads.byKey, sink.uploads._ending) == ({}, set())
