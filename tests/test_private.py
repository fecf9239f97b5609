"""
What castd creates in a folder where others may write is its own: no planted link makes it touch another file.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor

from castd.errors import Unavailable
from castd.files.private import isPrivate, openOwn
from castd.observe.eventstore import Store
from castd.observe.file import LineFile
from castd.service.admin import AdminPort, controlEndpoint
from castd.service.privileges import UnprivilegedUser

OTHER = 12345
#: Modes of a folder in which others may write: like /tmp, and like a careless one.
OPEN = (0o1777, 0o777)


@pytest.fixture(params=OPEN)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder where others may write."""
    made = tmp_path / "shared"
    made.mkdir()
    made.chmod(request.param)
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that is not meant."""
    made = tmp_path / "victim"
    made.write_bytes(b"precious\n")
    return made


def openLog(path: Path) -> None:
    """Write as the log does."""
    log = LineFile(str(path))
    log.write("line\n")
    log.close()


def openHistory(path: Path) -> None:
    """Open as the history is."""
    Store(str(path), 10.0, 1 << 20).close()


def symlink(victim: Path, name: Path) -> None:
    name.symlink_to(victim)


def dangling(victim: Path, name: Path) -> None:
    name.symlink_to(victim.with_name("not-there"))


def hardlink(victim: Path, name: Path) -> None:
    name.hardlink_to(victim)


def fifo(victim: Path, name: Path) -> None:
    os.mkfifo(name)


PLANTED = {
    symlink: "a symbolic link, in",
    dangling: "a symbolic link, in",
    hardlink: "a file that has a second name, in",
    fifo: "no regular file, in",
}


@pytest.mark.parametrize("use", [openLog, openHistory])
@pytest.mark.parametrize("plant", PLANTED)
def test_planted(shared: Path, victim: Path, plant: Callable[[Path, Path], None], use: Callable[[Path], None]) -> None:
    """A link, a second name or a FIFO that lies where castd is to write is refused, and told; nothing changes."""
    plant(victim, shared / "file")
    with pytest.raises(OSError, match=PLANTED[plant]) as raised:
        use(shared / "file")
    assert "where others may write" in str(raised.value.strerror)
    assert victim.read_bytes() == b"precious\n"
    assert sorted(each.name for each in victim.parent.iterdir()) == ["shared", "victim"]


@pytest.mark.root
@pytest.mark.parametrize("use", [openLog, openHistory])
def test_fileOfAnother(shared: Path, use: Callable[[Path], None]) -> None:
    """Nor is a file of another user written to, who could read what comes, though root may."""
    file = shared / "file"
    file.write_bytes(b"precious\n")
    os.chown(file, OTHER, OTHER)
    with pytest.raises(OSError, match=f"a file of user {OTHER}, in"):
        use(file)
    assert file.read_bytes() == b"precious\n"


@pytest.mark.parametrize("use", [openLog, openHistory])
def test_ownFile(shared: Path, use: Callable[[Path], None]) -> None:
    """A new file, and castd's own one, are used as everywhere."""
    for _ in range(2):
        use(shared / "file")
    assert (shared / "file").stat().st_size > 0


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_besideTheHistory(shared: Path, victim: Path, ending: str) -> None:
    """Nor are the files that SQLite makes beside the history those of somebody else."""
    (shared / f"file{ending}").hardlink_to(victim)
    with pytest.raises(OSError, match=f"file{ending}: a file that has a second name"):
        openHistory(shared / "file")
    assert victim.read_bytes() == b"precious\n"


def test_operatorsLink(tmp_path: Path, victim: Path) -> None:
    """Where nobody else may write a link of the operator's is followed, as one to another disk or to /dev/null."""
    (tmp_path / "log").symlink_to(victim)
    openLog(tmp_path / "log")
    assert victim.read_bytes() == b"precious\nline\n"
    (tmp_path / "null").symlink_to("/dev/null")
    openLog(tmp_path / "null")


def test_rotation(shared: Path, victim: Path) -> None:
    """A link that is planted while the log is written is not followed when a new file is begun: the old one goes on."""
    log = LineFile(str(shared / "log"), size=10)
    log.write("12345678\n")
    (shared / "log").rename(shared / "moved")
    (shared / "log").symlink_to(victim)
    (shared / "log.1").symlink_to(victim)
    assert log.write("abcdefgh\n")
    log.close()
    assert victim.read_bytes() == b"precious\n"
    assert (shared / "moved").read_bytes() == b"12345678\nabcdefgh\n"


def test_private(tmp_path: Path) -> None:
    """Private is what nobody else may exchange, nor a folder above it, nor one that a link leads through."""
    inner = tmp_path / "open" / "inner"
    inner.mkdir(parents=True)
    assert isPrivate(str(inner / "x"))
    inner.parent.chmod(0o777)
    (tmp_path / "link").symlink_to(inner)
    assert [isPrivate(str(each / "x")) for each in (tmp_path, inner, tmp_path / "link")] == [True, False, False]
    inner.parent.chmod(0o1777)
    assert isPrivate(str(inner / "x"))
    assert [isPrivate(str(inner.parent / "x"), sticky) for sticky in (True, False)] == [True, False]
    assert not isPrivate(str(tmp_path / "none" / "x"))


@pytest.mark.root
def test_foldersOfOthers(tmp_path: Path) -> None:
    """A folder of another user is not private, nor one that a group may write to, unless it is castd's own group."""
    for name, owner, group, mode in (("a", OTHER, 0, 0o755), ("b", 0, OTHER, 0o775), ("c", 0, 0, 0o775)):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, owner, group)
        (tmp_path / name).chmod(mode)
    assert [isPrivate(str(tmp_path / name / "x")) for name in "abc"] == [False, False, True]


def test_natural(tmp_path: Path) -> None:
    """What cannot be opened for another reason is told as the system tells it."""
    with pytest.raises(FileNotFoundError):
        openOwn(str(tmp_path / "none" / "x"), os.O_WRONLY | os.O_CREAT)


def bound(path: Path) -> None:
    """Open a control socket."""
    endpoint = controlEndpoint(MemoryReactor(), str(path))
    AdminPort(str(path), "x.yaml:3: control.path", endpoint, Factory, True).bind()


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (lambda path: path.with_name("control.lock").write_text("1"), "control.lock is there, and no lock of castd"),
        (lambda path: path.with_name("control.lock").symlink_to("/etc/passwd"), "control.lock is no lock of castd"),
        (lambda path: path.write_text("precious"), "control is there, and no socket of castd"),
        (lambda path: path.symlink_to("/etc/passwd"), "control is there, and no socket of castd"),
    ],
)
def test_controlSocket(tmp_path: Path, plant: Callable[[Path], object], why: str) -> None:
    """Something else at the place of the control socket, or of its lock, is told by name, and stays."""
    path = tmp_path / "control"
    plant(path)
    before = sorted(each.name for each in tmp_path.iterdir())
    with pytest.raises(Unavailable, match=f"x.yaml:3: control.path: {path}: .*{why}"):
        bound(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == before


@pytest.mark.parametrize("process", [2**22 + 1, 1, os.getpid()], ids=["none", "first", "own"])
@pytest.mark.parametrize("withSocket", [False, True])
def test_staleLock(tmp_path: Path, process: int, withSocket: bool) -> None:
    """What a dead server has left is no hindrance, whoever has its number now: in a container that is always 1."""
    (tmp_path / "control.lock").symlink_to(str(process))
    if withSocket:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "control"))
    bound(tmp_path / "control")
    assert not os.path.lexists(tmp_path / "control.lock")


@pytest_twisted.inlineCallbacks
def test_socketMode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nobody else may write to the socket from the beginning, and no other file has another mode for that."""
    path = tmp_path / "control"
    monkeypatch.delattr(os, "umask")
    monkeypatch.setattr(os, "chmod", lambda *_: None)
    port = AdminPort(str(path), "x.yaml:3: control.path", controlEndpoint(reactor, str(path)), Factory, True)
    port.bind()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    yield port.close()
    assert list(tmp_path.iterdir()) == []


@pytest_twisted.inlineCallbacks
@pytest.mark.parametrize("anew", [False, True])
def test_itsFolderHasGone(tmp_path: Path, anew: bool) -> Any:
    """
    A socket whose file was removed with its folder is known to be out of reach, and is closed; what another one has
    made there since stays.
    """
    path = tmp_path / "run" / "control"
    path.parent.mkdir()

    def opened() -> AdminPort:
        made = AdminPort(str(path), "x.yaml:3: control.path", controlEndpoint(reactor, str(path)), Factory, True)
        made.bind()
        return made

    former = opened()
    assert former.reachable
    shutil.rmtree(path.parent)
    assert not former.reachable
    path.parent.mkdir()
    later = opened() if anew else None
    yield former.close()
    names = sorted(each.name for each in path.parent.iterdir())
    assert names == (["control", "control.lock"] if anew else [])
    with socket.socket(socket.AF_UNIX) as client:
        assert client.connect_ex(str(path)) == (0 if anew else errno.ENOENT)
    if later is not None:
        assert later.reachable
        yield later.close()
        assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("connections", [0, 3])
def test_anotherServer(tmp_path: Path, connections: int) -> None:
    """The control socket of a server that runs stays its own, also while it accepts no more connections."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(tmp_path / "control"))
        server.listen(0)
        for _ in range(connections):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect_ex(str(tmp_path / "control"))
        (tmp_path / "control.lock").symlink_to("77")
        with pytest.raises(Unavailable, match=r"in use by process 77, says .*control\.lock"):
            bound(tmp_path / "control")
    assert os.path.lexists(tmp_path / "control.lock")


def test_controlFolder(tmp_path: Path) -> None:
    """In a folder where others could exchange the socket it is not made; in one like /tmp they cannot."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(Unavailable, match="others may exchange what is there: chmod go-w"):
        bound(folder / "control")
    folder.chmod(0o1777)
    bound(folder / "control")


@pytest.mark.parametrize(
    ("folder", "why"), [("none", "No such file or directory"), ("file/x", "Not a directory"), ("x" * 300, "too long")]
)
def test_controlNowhere(tmp_path: Path, folder: str, why: str) -> None:
    """Without its folder the control socket is not made, and that is the reason which is told."""
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=f"{folder}: .*{why}"):
        bound(tmp_path / folder / "control")


@pytest.mark.root
@pytest.mark.parametrize("name", ["control", "control.lock"])
def test_controlOfAnother(tmp_path: Path, name: str) -> None:
    """A socket or a lock of another user is told, with the number of the user."""
    tmp_path.chmod(0o1777)
    with socket.socket(socket.AF_UNIX) as other:
        if name == "control":
            other.bind(str(tmp_path / name))
        else:
            (tmp_path / name).symlink_to("1")
        os.chown(tmp_path / name, OTHER, OTHER, follow_symlinks=False)
        with pytest.raises(Unavailable, match=f"{name} belongs to user {OTHER}: remove it"):
            bound(tmp_path / "control")


@pytest.mark.root
def test_anUnprivilegedUser() -> None:
    """What is opened as another user is judged as that one: its folder is private to it, and not to root."""
    with TemporaryDirectory() as folder:
        os.chown(folder, OTHER, OTHER)
        log = Path(folder, "log")
        assert not isPrivate(str(log))
        with UnprivilegedUser(OTHER, OTHER).asEffectiveUser():
            assert isPrivate(str(log))
            openLog(log)
        assert log.stat().st_uid == OTHER
