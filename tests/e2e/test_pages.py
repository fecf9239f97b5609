"""The pages that boot something say what to type: their commands, run one after the other, boot machines."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.jobs import Job, eventually
from tests.support.lab.castd import command
from tests.support.lab.hall import Hall, Host, sweep
from tests.support.needs import lack, need, needFile, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SERVER = "10.0.0.5"
#: Seconds that a command may take, and what stays may take until it shows what is waited for: a machine is emulated.
RUNNING, BOOTING = 60, 180

#: Puts the folder of a kernel over /boot, for itself alone, and becomes a command.
WITH_KERNEL = 'mount --make-rprivate / && mount --bind "$1" /boot && shift && exec "$@"'


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    """A switch with the host that the pages call server."""
    needNamespaces()
    need("ip", "bridge", "setpriv", "unshare", "qemu-system-x86_64", "dnsmasq", "busybox")
    sweep()
    with Hall(tmp_path) as hall:
        hall.host("server", SERVER)
        yield hall


def kernel() -> Path:
    """Return a folder with a kernel, as /boot is one: that of this machine, or C{CASTD_KERNEL}."""
    folder = Path(os.environ.get("CASTD_KERNEL", "/boot"))
    if not list(folder.glob("vmlinuz-*")):
        lack(f"no kernel in {folder}: install one, or name a folder with one in CASTD_KERNEL")
    return folder


class Player:
    """Runs the blocks of a page: those for the server in its folder, those for a machine at a port of the switch."""

    def __init__(self, hall: Hall, host: Host) -> None:
        self._hall, self._host = hall, host
        script = host.folder / ".venv" / "bin" / "castd"
        script.parent.mkdir(parents=True)
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
        script.chmod(0o755)

    def play(self, page: str) -> None:
        for block in pages.blocks(page):
            if block.file:
                (self._host.folder / block.file).write_text(block.text)
                continue
            job = self._start(block)
            if not block.stays:
                done = job.finish(RUNNING)
                assert done.code == 0, f"{block.text}\n{done.text}"
            elif block.until:
                job.until(block.until, BOOTING)
            lacking = pages.missing(block.shows, job.text())
            assert lacking == [], job.text()

    def _start(self, block: pages.Block) -> Job:
        # One process, so that the end of a test ends what the shell has become.
        script = block.text.rstrip()
        *before, last = script.split("\n\n") if not block.stays else _lastCommand(script)
        words = ["sh", "-euc", "\n".join([*before, f"exec {last}" if block.stays else last])]
        if block.where == "server":
            return self._host.start(["unshare", "--mount", "sh", "-c", WITH_KERNEL, "sh", str(kernel()), *words])
        self._hall.tap(block.where.removeprefix("machine "))
        return self._hall.start(words)


def _lastCommand(script: str) -> list[str]:
    """Split a script before its last command, which may have several lines."""
    lines = script.split("\n")
    first = len(lines) - 1
    while first > 0 and lines[first - 1].endswith("\\"):
        first -= 1
    return ["\n".join(lines[:first]), "\n".join(lines[first:])]


def test_firstBoot(hall: Hall) -> None:
    """From an empty folder to machines with BIOS and UEFI that run Linux; then two by multicast, from one group."""
    need("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/lib/ipxe/undionly.kpxe")
    needFile("/usr/lib/ipxe/snponly.efi")
    Player(hall, hall.hosts["server"]).play("first-boot.md")
    logs = sorted(hall.folder.glob("*-server-unshare.log"))
    served = next(log for log in logs if "proxydhcp listens" in log.read_text("utf-8", "replace"))
    eventually(lambda: "initrd, 2 receivers" in served.read_text(), "the end of one group for both machines", 60)
    assert "Traceback" not in served.read_text()
