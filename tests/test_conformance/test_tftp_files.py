"""
TFTP and the disk: names, files that change, netascii.  The ids are those of docs/transports/tftp.md.
"""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from castd.errors import Forbidden
from castd.files import athand
from castd.files.content import Directory, DirectoryOptions
from castd.packets.tftp import Data
from castd.request import Peer
from castd.testing import RecordingClient, pattern
from tests.support.clients.tftp import ackedTo, data, download, hear, isError, rrq, say
from tests.support.descriptors import openFiles
from tests.support.stage import SERVER, TftpStage
from tests.support.vectors import vectors


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory to serve, with a secret beside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / "f").write_bytes(pattern(5000))
    (root / "boot" / "x").write_bytes(b"x")
    return root


def directory(root: Path) -> dict[str, Any]:
    """What a stage needs to serve it."""
    return {"source": Directory(DirectoryOptions(path=str(root)), maybeDeferred)}


@pytest.mark.parametrize(
    "name", ["../secret", "../x", "a/../../x", "..\\x", "/../etc/passwd", "boot/../f", "..", "a\x01b", "/", "."]
)
def test_TC39_namesThatLeaveTheRoot(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that goes upwards, or is none: ERROR 2, and nothing was opened."""
    with TftpStage(**directory(root)) as stage:
        opened: list[object] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", lambda path, *rest, **more: opened.append(path))
            patch.setattr(athand, "openat2", lambda path, *rest: opened.append(path))
            _, packet, source = stage.ask(rrq(name))
        assert isError(packet, 2)
        assert source == SERVER
        assert opened == []


@pytest.mark.parametrize("vector", vectors("tftp", "paths"))
def test_TC39_pathVectors(root: Path, vector: dict[str, Any]) -> None:
    """Each name of the vectors finds its file below the root, or is refused with the code that the vector states."""
    raw = bytes.fromhex(vector["raw_hex"])
    if "relative" in vector:
        place = os.fsencode(root) + b"/" + vector["relative"].encode("latin-1")
        os.makedirs(os.path.dirname(place), exist_ok=True)
        Path(os.fsdecode(place)).write_bytes(b"found")
    with TftpStage(**directory(root)) as stage:
        request = b"\0\1" + raw + b"\0octet\0"
        packet = stage.ask(request)[1]
        assert packet == Data(1, b"found") if "relative" in vector else isError(packet, vector["error"])


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_TC40_whatIsNoFile(root: Path, kind: str) -> None:
    """A directory, a FIFO, a link that leaves the root: ERROR 2 at once; a FIFO does not hold the server up."""
    place = root / "odd"
    if kind == "directory":
        place.mkdir()
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to("../secret")
    with TftpStage(**directory(root)) as stage:
        begun = time.monotonic()
        assert isError(stage.ask(rrq("odd"), seconds=0.1)[1], 2)
        assert time.monotonic() - begun < 5


def test_linksInsideAreFollowed(root: Path) -> None:
    """A link that stays in the root is a file like any other."""
    (root / "link").symlink_to("boot/x")
    with TftpStage(**directory(root)) as stage:
        assert stage.ask(rrq("link"))[1] == Data(1, b"x")


def test_TC62_aReplacedFile(root: Path) -> None:
    """A file that is replaced during a transfer is sent to the end as it was; the next client gets the new one."""
    old, new = pattern(5000), bytes(reversed(pattern(4000)))
    with TftpStage(**directory(root)) as stage:
        client, packet, tid = stage.ask(rrq())
        assert packet == data(1, old)
        (root / "new").write_bytes(new)
        (root / "new").replace(root / "f")
        for number in range(1, 10):
            assert ackedTo(client, number, tid) == data(number + 1, old)
        say(client, 10, tid)
        assert download(stage, stage.client(2001), rrq())[0] == new
        stage.over()


def untilChanged(stage: TftpStage, client: RecordingClient, tid: Peer) -> list[bytes]:
    """Acknowledge windows of 64 blocks until ERROR 0 comes, as the file has changed.  -> the blocks before it."""
    blocks: list[bytes] = []
    for window in range(1, 40):
        say(client, 64 * window, tid)
        stage.network.advance(0.001)
        blocks += [letter.datagram for letter in client.take()]
        if blocks[-1:] and blocks[-1][:4] == b"\0\5\0\0":
            return blocks[:-1]
    raise AssertionError("nobody has noticed that the file has changed")


def test_TC63_aTruncatedFile(root: Path) -> None:
    """A file that is truncated during a transfer: ERROR 0 as soon as a block is missing, and the server goes on."""
    (root / "f").write_bytes(pattern(2_000_000))
    with TftpStage(**directory(root)) as stage:
        client, _, tid = stage.ask(rrq(blksize=1468, windowsize=64))
        say(client, 0, tid)
        stage.network.advance(0.01)
        client.take()
        os.truncate(root / "f", 1000)
        untilChanged(stage, client, tid)
        stage.network.advance(0.01)
        assert list(stage.listener.casts()) == []
        told = stage.told("received")[-1]
        assert (told["outcome"], told["why"]) == ("changed", "the file shrank")
        assert told["cause"].endswith(": the file shrank")
        assert stage.ask(rrq("boot/x"), stage.client(2001))[1] == Data(1, b"x")


@pytest.mark.slow
@pytest.mark.parametrize("size", [2_000_000, 2_100_000])
def test_writtenOver(root: Path, size: int) -> None:
    """A file that is written anew in its place during a transfer: ERROR 0, and no block of the new one."""
    old, new = pattern(2_000_000), bytes(255 - octet for octet in pattern(size))
    (root / "f").write_bytes(old)
    os.utime(root / "f", ns=(1, 1))
    with TftpStage(**directory(root)) as stage:
        client, _, tid = stage.ask(rrq(blksize=1468, windowsize=64))
        say(client, 0, tid)
        stage.network.advance(0.01)
        client.take()
        (root / "f").write_bytes(new)
        os.utime(root / "f", ns=(2, 2))
        for datagram in untilChanged(stage, client, tid):
            start = (int.from_bytes(datagram[2:4]) - 1) * 1468
            assert datagram[4:] == old[start : start + 1468]
        stage.network.advance(0.01)
        assert stage.told("received")[-1]["outcome"] == "changed"


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_unreadable(root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A disk that fails during a transfer: the log says what the kernel has said of it."""
    (root / "f").write_bytes(pattern(200_000))

    def fails(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with TftpStage(**directory(root)) as stage:
        client, _, tid = stage.ask(rrq(blksize=512))
        monkeypatch.setattr(os, "preadv", fails)
        assert ackedTo(client, 0, tid).code == 0
        stage.over()
        (told,) = stage.told("received")
        assert (told["outcome"], told["why"]) == ("changed", os.strerror(code))
        assert told["cause"].endswith(f": {os.strerror(code)}")


def test_truncatedBeforeItsFirstBlock(root: Path) -> None:
    """A file that is truncated while the client thinks about the OACK: ERROR 0, no block of it."""
    (root / "f").write_bytes(pattern(2000))
    with TftpStage(**directory(root)) as stage:
        client, _, tid = stage.ask(rrq(blksize=512))
        os.truncate(root / "f", 1000)
        assert ackedTo(client, 0, tid).code == 0
        stage.over()
        assert [(event["outcome"], event["blocks"]) for event in stage.told("received")] == [("changed", 0)]


def held(root: Path) -> list[str]:
    """Files below the root that this process has open."""
    return [each for each in openFiles() if each.startswith(f"{root}/")]


def test_filesAreClosed(root: Path) -> None:
    """Readers of one file share one descriptor, and after whatever end none is left open."""
    with TftpStage(**directory(root)) as stage:
        download(stage, stage.client(), rrq())
        for number, name in enumerate(("missing", "boot", "f", "f", "boot/x"), 2001):
            stage.ask(rrq(name), stage.client(number))
        assert sorted(held(root)) == [f"{root}/boot/x", f"{root}/f"]
        stage.network.advance(60)
        stage.over()
        assert held(root) == []


@pytest.mark.parametrize("vector", vectors("tftp", "netascii_read"))
def test_TC54_netasciiReads(vector: dict[str, Any]) -> None:
    """LF, CR and CR LF are converted as the vectors say, across the edges of blocks."""
    options = {} if vector["blksize"] == 512 else {"blksize": vector["blksize"]}
    with TftpStage({"f": bytes.fromhex(vector["native_hex"])}) as stage:
        client, packet, tid = stage.ask(rrq(mode="NetASCII", **options))
        if options:
            packet = ackedTo(client, 0, tid)
        for number, block in enumerate(vector["blocks_hex"], 1):
            assert packet == Data(number, bytes.fromhex(block))
            say(client, number, tid)
            if number < len(vector["blocks_hex"]):
                packet = hear(client)
        stage.quiet(client, 40)
        stage.over()


@pytest.mark.parametrize("vector", vectors("tftp", "sequences"))
def test_sequences(vector: dict[str, Any]) -> None:
    """The exchange of the vector, datagram for datagram, in its order."""
    Replay(vector).run()


class Replay:
    """One sequence of the vectors, played by a client that says only what stands there."""

    def __init__(self, vector: dict[str, Any]) -> None:
        self.steps = vector["steps"]
        self.clients: dict[str, Any] = {}
        self.tids: dict[str, Any] = {"server:69": SERVER}

    def files(self) -> dict[str, Any]:
        """The file that the server's DATA are blocks of; a size alone if there are none."""
        blocks = {}
        for step in self.steps:
            if step.get("hex", "")[:4] == "0003" and step["from"].startswith("server"):
                blocks[step["hex"][4:8]] = bytes.fromhex(step["hex"][8:])
        name = bytes.fromhex(self.steps[0]["hex"])[2:].split(b"\0")[0].decode()
        return {name: b"".join(blocks[number] for number in sorted(blocks)) or bytes(966768)}

    def run(self) -> None:
        writes = self.steps[0]["hex"].startswith("0002")
        with TftpStage({} if writes else self.files(), uploads=writes) as stage:
            for index, step in enumerate(self.steps):
                if "event" not in step:
                    self.exchange(stage, step)
                over = index + 1 == len(self.steps) and step.get("summary") != "ACK 0"
                if over or step.get("event") == "the server sends nothing":
                    for client in self.clients.values():
                        stage.quiet(client)
            written = b"".join(bytes.fromhex(step["hex"][8:]) for step in self.steps[2:5:2]) if writes else None
            assert stage.site.files.get("up") == written

    def exchange(self, stage: TftpStage, step: dict[str, Any]) -> None:
        datagram = bytes.fromhex(step["hex"])
        if step["from"].startswith("client"):
            if step["from"] not in self.clients:
                self.clients[step["from"]] = stage.client(2000 + len(self.clients))
            self.clients[step["from"]].send(datagram, self.tids[step["to"]])
            return
        client = self.clients[step["to"]]
        letter = client.expect(5)
        assert letter.datagram == datagram, step["summary"]
        assert self.tids.setdefault(step["from"], letter.source) == letter.source


def test_nothingIsOpenedForARequestThatIsRefused(root: Path) -> None:
    """Access rules come before the disk: what is refused is not even looked at."""

    def deny(request: Any) -> None:
        raise Forbidden

    source = Directory(DirectoryOptions(path=str(root)), maybeDeferred)
    with TftpStage(source=source, access=deny) as stage:
        assert isError(stage.ask(rrq("f"))[1], 2)
        assert stage.site.contents == []
