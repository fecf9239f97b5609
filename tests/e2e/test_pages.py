"""The pages that boot something say what to type: their commands, run one after the other, boot machines."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.jobs import Job, eventually
from tests.support.lab.castd import Server, command
from tests.support.lab.hall import Hall, Host, sweep
from tests.support.lab.machines import dhcp, ipxe, mac
from tests.support.needs import lack, need, needFile, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SERVER = "10.0.0.5"
#: Seconds that a command may take, and what stays may take until it shows what is waited for: a machine is emulated.
RUNNING, BOOTING = 60, 300

#: Puts a folder with a kernel over /boot and an empty one over /srv, for itself alone, and becomes a command.
WITH_FOLDERS = 'mount --make-rprivate / && mount --bind "$1" /boot && mount --bind "$2" /srv && shift 2 && exec "$@"'


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    """A switch with the host that the pages call server."""
    needNamespaces()
    need("ip", "bridge", "setpriv", "unshare", "ss")
    sweep()
    with Hall(tmp_path) as hall:
        hall.host("server", SERVER)
        (tmp_path / "srv").mkdir()
        yield hall


def kernel() -> Path:
    """Return a folder with a kernel, as /boot is one: that of this machine, or C{CASTD_KERNEL}."""
    folder = Path(os.environ.get("CASTD_KERNEL", "/boot"))
    if not list(folder.glob("vmlinuz-*")):
        lack(f"no kernel in {folder}: install one, or name a folder with one in CASTD_KERNEL")
    return folder


class Player:
    """
    Runs the blocks of a page: those for the server in its folder, those for a machine at a port of the switch.

    @ivar machines: the consoles of machines, by their names.
    """

    def __init__(self, hall: Hall, host: Host) -> None:
        self._hall, self._host = hall, host
        self.machines: dict[str, Job] = {}
        script = host.folder / ".venv" / "bin" / "castd"
        script.parent.mkdir(parents=True)
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
        script.chmod(0o755)

    def play(self, page: str) -> None:
        for block in pages.blocks(page):
            if block.file:
                # /srv of the server lies in the hall's folder.
                place = self._hall.folder / block.file[1:] if block.file[0] == "/" else self._host.folder / block.file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(block.text)
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
        words = ["sh", "-euc", _becoming(block.text) if block.stays else block.text]
        if block.where == "server":
            folders = [str(kernel() if "/boot/vmlinuz" in block.text else "/boot"), str(self._hall.folder / "srv")]
            return self._host.start(["unshare", "--mount", "sh", "-c", WITH_FOLDERS, "sh", *folders, *words])
        if block.where.startswith("client "):
            return self._client(block.where.removeprefix("client ")).start(words)
        name = block.where.removeprefix("machine ")
        self._hall.tap(name)
        return self.machines.setdefault(name, self._hall.start(words))

    def _client(self, name: str) -> Host:
        """Return a host of the network, plugged in when it is first named: 10.0.0.11, 52:54:00:66:00:11 and so on."""
        if name not in self._hall.hosts:
            number = 10 + len(self._hall.hosts)
            host = self._hall.host(name, f"10.0.0.{number}")
            assert host.run(["ip", "link", "set", "eth0", "address", f"52:54:00:66:00:{number}"]).code == 0
        return self._hall.hosts[name]


def _becoming(script: str) -> str:
    """Let the shell of a script become its last command, which may have several lines, so that it can be ended."""
    lines = script.rstrip().split("\n")
    first = len(lines) - 1
    while first > 0 and lines[first - 1].endswith("\\"):
        first -= 1
    return "\n".join([*lines[:first], "exec " + lines[first], *lines[first + 1 :]])


@pytest.mark.parametrize(
    "page", ["firmware.md", "migrating.md", "no-boot.md", "sizing.md", "containers.md", "machines.md"]
)
def test_page(hall: Hall, page: str) -> None:
    """The commands of a page do what it says, and its service files are without a fault."""
    Player(hall, hall.hosts["server"]).play(page)


def test_firstBoot(hall: Hall) -> None:
    """From an empty folder to machines with BIOS and UEFI that run Linux; then two that get a part by multicast."""
    need("qemu-system-x86_64", "dnsmasq", "busybox", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/lib/ipxe/undionly.kpxe")
    needFile("/usr/lib/ipxe/snponly.efi")
    player = Player(hall, hall.hosts["server"])
    player.play("first-boot.md")
    both = [player.machines[name] for name in ("pc3", "pc4")]
    for machine in both:
        machine.until("initrd: it came whole", BOOTING)
    logs = sorted(hall.folder.glob("*-server-unshare.log"))
    served = next(log for log in logs if "proxydhcp listens" in log.read_text("utf-8", "replace"))

    def received() -> bool:
        closed = re.findall(r"239\.255\.1\.1:3001 closed: initrd, (\d+) receivers?,", served.read_text())
        return sum(map(int, closed)) >= 2

    # In one group, unless one machine was done before the other had asked.
    eventually(received, "both machines to be served by the group", 60)
    text = served.read_text()
    assert "Traceback" not in text
    # A machine has begun anew only where its iPXE had left the group for plain TFTP, which castd saw: never for what
    # castd has sent to the group.
    left = re.findall(r" tftp: \S+ initrd: | is refused initrd: ", text.partition("mtftp listens")[2])
    assert sum(machine.text().count(IPXE_STARTS) - 1 for machine in both) <= len(left), text


#: What iPXE shows first, once for each time that a machine is switched on or begins anew.
IPXE_STARTS = "iPXE initialising devices"


def test_ipxeNumbers(hall: Hall) -> None:
    """The errors that the page on failed boots gives for iPXE are those that iPXE shows for castd's answers."""
    need("qemu-system-x86_64", "dnsmasq")
    page = (pages.DOCS / "no-boot.md").read_text()
    numbers = dict(re.findall(r"^\| `([^`]*) \(http://ipxe\.org/(\w+)\)` \|", page, re.MULTILINE))
    boot = hall.folder / "boot"
    boot.mkdir()
    lines = ("none", "secret", "tftp://10.77.0.1:6970/x", "ftp://10.77.0.1/x")
    script = "".join(f"imgfetch {line} ||\n" for line in lines)
    (boot / "boot.ipxe").write_text(f"#!ipxe\n{script}echo castd-end\nsleep 3600\n")
    service = {
        "castd": 1,
        "content": [{"directory": {"path": str(boot)}}],
        "access": [{"deny": "any", "names": ["secret"]}, {"allow": "any", "for": "read"}],
        "transports": {"tftp": {"port": 69, "interface": "10.77.0.1"}},
    }
    server = Server(hall.host("castd", "10.77.0.1"), service)
    dhcp(hall.host("dhcp", "10.77.0.3"), {mac(1): "boot.ipxe"})
    machine = ipxe(hall, "pc1", 1)
    shown = machine.job.until("castd-end", BOOTING)
    found = re.findall(r"(\w[\w :]*) \(http://ipxe\.org/(\w+)\)", shown.replace("\n", ""))
    assert len(found) == len(lines), shown
    for text, number in found:
        assert numbers[text] == number
    server.stop()
