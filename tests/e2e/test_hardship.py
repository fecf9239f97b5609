"""What becomes scarce, or vanishes, and comes back: disk, directory, descriptors.  A castd of its own for each."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from castd.net.port_stock import FIRST_STOCK
from castd.testing import pattern
from tests.support.jobs import eventually
from tests.support.lab.castd import Alone, Peer, fetched, served
from tests.support.needs import run

pytestmark = pytest.mark.e2e

NOT_FOUND, FULL = b"\0\1File not found\0", b"\0\3Disk full or allocation exceeded\0"
DATA = pattern(20_000)
#: castd on a machine whose wall clock is as many seconds wrong as a file says.
JUMPY = """
import pathlib, sys, time
true, wrong = time.time, pathlib.Path({wrong!r})
time.time = lambda: true() + float(wrong.read_text() or 0)
from castd.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount(place)
    yield place
    run("umount", "-l", place, check=True)


def mount(place: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "castd", place, check=True)


@pytest.mark.root
@pytest.mark.parametrize("tsize", [False, True], ids=["found out", "announced"])
def test_fullDisk(tmp_path: Path, disk: Path, tsize: bool) -> None:
    """An upload that does not fit is told so, what was there stays, nothing is left; the next that fits is taken."""
    (disk / "log").write_bytes(b"what was there")
    place = {"path": str(disk), "policy": "overwrite", "keep-free": 0}
    castd = Alone(tmp_path, {"content": [{"directory": {"path": str(disk)}}], "uploads": [{"directory": place}]})
    large = Peer(castd.port, "log", pattern(3 << 20), tsize)
    served([large])
    assert large.error == FULL
    # A thread removes what was written, while the client is told.
    eventually(lambda: [file.name for file in disk.iterdir()] == ["log"], "the unfinished upload to be removed", 20)
    assert (disk / "log").read_bytes() == b"what was there"
    small = Peer(castd.port, "log", DATA, tsize)
    served([small])
    assert (small.error, fetched(castd, "log")) == (b"", DATA)
    castd.end()


@pytest.mark.root
def test_unmountedRoot(tmp_path: Path, disk: Path) -> None:
    """A disk that is unmounted while it is served from has nothing, and is served again when it is back."""
    (disk / "file").write_bytes(DATA)
    castd = Alone(tmp_path, {"content": [{"directory": {"path": str(disk)}}]})
    assert fetched(castd, "file") == DATA
    run("umount", "-l", disk, check=True)
    assert fetched(castd, "file") == NOT_FOUND
    mount(disk)
    (disk / "file").write_bytes(DATA[::-1])
    assert fetched(castd, "file") == DATA[::-1]
    castd.end()


def test_vanishedRoot(tmp_path: Path) -> None:
    """A directory that is deleted has nothing; one that takes its name is served, and written to."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(DATA)
    place = {"path": str(root), "keep-free": 0}
    castd = Alone(tmp_path, {"content": [{"directory": {"path": str(root)}}], "uploads": [{"directory": place}]})
    held = castd.descriptors()
    shutil.rmtree(root)
    assert fetched(castd, "file") == NOT_FOUND
    into = Peer(castd.port, "new", DATA)
    served([into])
    assert into.error[:2] in (b"\0\1", b"\0\2")
    root.mkdir()
    (root / "file").write_bytes(DATA)
    assert fetched(castd, "file") == DATA
    into = Peer(castd.port, "new", DATA)
    served([into])
    assert (into.error, (root / "new").read_bytes()) == (b"", DATA)
    # But for the ports that are kept for the next transfers; a thread may still be closing what the upload had open.
    eventually(lambda: castd.descriptors() <= held + 4 + 2 * FIRST_STOCK, "descriptors to be given back", 20)
    castd.end()


def test_noDescriptorsLeft(tmp_path: Path) -> None:
    """With descriptors for a dozen transfers, eighty at once are all served in the end, and so is who comes after."""
    for number in range(80):
        (tmp_path / f"file{number}").write_bytes(DATA + b"%d" % number)
    castd = Alone(tmp_path, {"content": [{"directory": {"path": str(tmp_path)}}]}, descriptors=48)
    held = castd.descriptors()
    peers = [Peer(castd.port, f"file{number}") for number in range(80)]
    served(peers, 60)
    assert [each.error for each in peers if each.error] == []
    assert [bytes(each.data) for each in peers] == [DATA + b"%d" % number for number in range(80)]
    # All at once for one file takes one descriptor for that and all others for ports, which are kept.
    peers = [Peer(castd.port, "file0") for _ in range(80)]
    served(peers, 60)
    assert {bytes(each.data) for each in peers if not each.error} == {DATA + b"0"}
    eventually(lambda: castd.descriptors() <= held + 48 // 8, "descriptors to be given back", 20)
    for number in range(1, 6):
        assert fetched(castd, f"file{number}") == DATA + b"%d" % number
    lines = [line for line in castd.log().splitlines() if "is not answered" in line]
    assert len(lines) <= 100, castd.log()[-3000:]
    assert "limits.casts: 4096 need more than the 48 descriptors" in castd.log()
    castd.end()


def test_clockJumps(tmp_path: Path) -> None:
    """A wall clock that jumps back or ahead by hours neither stops the repetition of a block nor ends a transfer."""
    wrong = tmp_path / "wrong"
    wrong.write_text("0")
    (tmp_path / "file").write_bytes(DATA)
    castd = Alone(
        tmp_path, {"content": [{"directory": {"path": str(tmp_path)}}]}, program=JUMPY.format(wrong=str(wrong))
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"\0\1file\0octet\0", ("127.0.0.1", castd.port))
        first, server = client.recvfrom(1024)
        for number, seconds in enumerate(("-7200", "7200", "0"), 1):
            client.sendto(b"\0\4" + number.to_bytes(2, "big"), server)
            block = client.recv(1024)
            new = wrong.with_suffix(".new")
            new.write_text(seconds)
            new.rename(wrong)
            # It is not acknowledged now, so it comes again by a timer.
            assert client.recv(1024) == block == b"\0\3" + (number + 1).to_bytes(2, "big") + block[4:]
    assert first[4:] + block[4:] == DATA[:512] + DATA[1536:2048]
    assert fetched(castd, "file") == DATA
    castd.end()
