"""
The castd of before its modules were moved into packages hands over to the castd of today, and takes over from it.

The code is replaced in place, as an installer would: both processes are started by the same command, which finds other
modules by the time of the upgrade.  L{tests/e2e/trees} has the old ones.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.e2e.test_upgrade import (
    ADDRESS,
    ANOTHER,
    LARGE,
    PATIENCE,
    PERIOD,
    Load,
    Running,
    Sent,
    Slow,
    alive,
    hears,
    rrq,
    udp,
)
from tests.support.jobs import eventually
from tests.support.lab.castd import TREE

pytestmark = pytest.mark.e2e

BEFORE = Path(__file__).parent / "trees" / "castd-before-rooms.tar.xz"
FINISHED = {"old": "whoever was here has been served", "new": "all transfers of this process have ended"}
"""What the code of before, and that of today, logs when its last transfer has ended."""
WAITING = "127.0.0.3"
"""The address of a client that MTFTP serves after another one."""
ENDANGERED = 1.1
"""Seconds after which a client that waits at MTFTP is known to hear the group (docs/transports/mtftp.md)."""


class Code:
    """
    What the command runs: the old modules or those of today, whichever a link leads to.

    @ivar link: the folder that castd is imported from.
    """

    def __init__(self, folder: Path) -> None:
        self.link, self._trees = folder / "code", {name: folder / name for name in ("old", "new")}
        with tarfile.open(BEFORE) as packed:
            if hasattr(tarfile, "data_filter"):
                # Debian 12's Python 3.11.2 has none; the archive is our own.
                packed.extraction_filter = tarfile.data_filter
            packed.extractall(self._trees["old"])
        for part in ("castd", "twisted"):
            shutil.copytree(TREE / part, self._trees["new"] / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name, tree in self._trees.items():
            file = tree / "castd" / "__init__.py"
            text, found = re.subn(r'(__version__ = ".*)"', rf'\1+{name}"', file.read_text())
            assert found == 1
            file.write_text(text)

    def install(self, name: str) -> None:
        """From now on the command runs these modules, and neither the others nor those of an installed castd."""
        fresh = self.link.with_suffix(".fresh")
        fresh.symlink_to(self._trees[name])
        fresh.replace(self.link)
        told = subprocess.run(
            [sys.executable, "-c", "import castd; print(castd.__file__, castd.__version__)"],
            cwd=self.link.parent,
            env={**os.environ, "PYTHONPATH": str(self.link)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert re.match(rf"{self.link}/castd/__init__\.py .*\+{name}$", told), told


class Master(Slow):
    """RFC 2090: a transfer by a group that the answer names; its client is the one that acknowledges."""

    def __init__(self, castd: Running, name: str) -> None:
        self.own, self.body = udp(), b""
        self.own.sendto(rrq(name, "multicast", ""), (ADDRESS, castd.multicast))
        answer, self.peer = self.own.recvfrom(600)
        host, port, master = answer.split(b"multicast\0")[1].split(b"\0")[0].decode().split(",")
        assert master == "1", answer
        self.group = host, int(port)
        self.heard = hears(self.group)
        self.own.sendto(b"\0\4\0\0", self.peer)

    def leave(self) -> None:
        self.own.sendto(b"\0\5\0\0enough\0", self.peer)
        self.own.close()
        self.heard.close()


def second(castd: Running) -> Slow:
    """Return the master of an MTFTP group whose file has gone out once already: castd has warned of it."""
    first = Slow(castd.mtftp, castd.groups["mtftp"])
    first.master()
    waiting = Slow(castd.mtftp, castd.groups["mtftp"], WAITING)
    until = time.monotonic() + ENDANGERED
    while time.monotonic() < until:
        first.take(1)
        time.sleep(PERIOD)
    assert first.finish() == LARGE
    waiting.master()
    return waiting.take(10)


def falls(castd: Running, address: str) -> bytes:
    """Return what a client of MTFTP is answered that falls back to plain TFTP there."""
    with udp(address) as client:
        client.sendto(rrq("large", "tsize", "0"), (ADDRESS, castd.plain[0]))
        return client.recv(600)


@pytest.mark.parametrize(("before", "after"), [("old", "new"), ("new", "old")])
def test_otherCode(tmp_path: Path, before: str, after: str) -> None:
    """
    Under load no request is refused or lost.  Transfers, an upload and groups that are under way end whole in the
    process that began them; who asks for such a group is taken in there.  The process that takes over knows whom MTFTP
    has warned of and which group addresses are in use, and the other one exits with status 0.
    """
    code = Code(tmp_path)
    code.install(before)
    castd = Running(tmp_path, code.link)
    try:
        assert castd.status()["version"].endswith(f"+{before}")
        with Load((*castd.plain, castd.single)) as load:
            slow = [Slow(castd.plain[0]).take(10), Slow(castd.single).take(10)]
            upload = Sent(castd.single).take(10)
            group = Master(castd, "large").take(10)
            mtftp = second(castd)
            assert falls(castd, WAITING)[:2] == b"\0\5"
            code.install(after)
            castd.upgrade(*slow, upload, group, mtftp)
            assert castd.status()["version"].endswith(f"+{after}")
            assert falls(castd, WAITING)[:2] == b"\0\5"
            assert falls(castd, ANOTHER)[:2] == b"\0\6"
            other = Master(castd, "image")
            assert other.group != group.group
            # MTFTP gives the turn of who has been silent for half a second to who asks.
            mtftp.take(1)
            late = Slow(castd.mtftp, castd.groups["mtftp"], ANOTHER)
            until = time.monotonic() + ENDANGERED
            while time.monotonic() < until:
                for each in (*slow, upload, group, mtftp, other):
                    each.take(1)
                time.sleep(PERIOD)
            assert mtftp.finish() == LARGE
            late.master()
            eventually(lambda: falls(castd, ANOTHER)[:2] == b"\0\5", "the warning to reach the new process", PATIENCE)
            assert late.finish() == LARGE
            assert [each.finish() == LARGE for each in (*slow, group)] == [True] * 3
            assert upload.finish(tmp_path / "drop") == LARGE
            castd.alone()
            assert castd.first.wait(PATIENCE) == 0
        assert (load.faults, load.done > 100) == ([], True)
        other.leave()
        assert castd.said(FINISHED[before]) == 1
        last = castd.status()["pid"]
    finally:
        castd.end()
    assert not alive(last)
    for sign in ("Traceback", "Unhandled", "event=fault"):
        assert sign not in castd.log.read_text()
