"""
Machines that know nothing boot from castd, beside a DHCP server that gives addresses and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job, eventually
from tests.support.lab.castd import Server, command
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall
from tests.support.lab.machines import Machine, addresses, ended, ipxe, ipxeScript, mac, ovmf
from tests.support.lab.wires import capturing
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

RULES: list[dict[str, Any]] = [
    {"ipxe": True, "boot": "boot/{mac}.ipxe"},
    {"ipxe": True, "boot": "boot.ipxe"},
    {"arch": "efi-x64", "boot": "snponly.efi"},
    {"arch": "bios", "boot": "undionly.kpxe"},
]
SCRIPT = ipxeScript("echo got ${filename} from ${proxydhcp/next-server}", "imgfetch kernel")
KERNEL = bytes(range(256)) * 5000


@contextlib.contextmanager
def serving(
    hall: Hall, rules: list[dict[str, Any]], control: Path | None = None, **transports: Any
) -> Iterator[Server]:
    """
    castd with a proxydhcp, on the host C{server}; it must be there at the end, without a fault.

    @param control: its control socket, by which it may be replaced: then it need not be there at the end.
    """
    boot = hall.folder / "boot"
    boot.mkdir(exist_ok=True)
    (hall.folder / "events.json").unlink(missing_ok=True)
    (boot / "boot.ipxe").write_bytes(SCRIPT)
    (boot / "kernel").write_bytes(KERNEL)
    for name in ("undionly.kpxe", "snponly.efi"):
        (boot / name).write_bytes(Path("/usr/lib/ipxe", name).read_bytes())
    service = {
        "castd": 1,
        "content": [{"directory": {"path": str(boot)}}],
        "limits": {"drain": "1 s"},
        **({} if control is None else {"control": {"path": str(control)}}),
        "logging": {"json": str(hall.folder / "events.json")},
        "transports": {
            **transports,
            "tftp": {"port": 69, "interface": SERVER},
            "proxydhcp": {"interface": SERVER, "rules": rules},
        },
    }
    server = Server(hall.hosts["server"], service)
    try:
        yield server
    finally:
        if control is None:
            server.stop()


@pytest.fixture(scope="module")
def dhcp(hall: Hall) -> Job:
    """A DHCP server on castd's own machine."""
    need("qemu-system-x86_64", "dnsmasq", "/usr/lib/ipxe/undionly.kpxe")
    return addresses(hall.hosts["server"])


def events(hall: Hall) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (hall.folder / "events.json").read_text().splitlines()]


def booted(machine: Machine, name: str) -> None:
    """The machine has run the script of this name, which castd's address came with, and has what it fetched."""
    assert ended([machine], 150) == [True], machine.console()
    assert f"got {name} from {SERVER}" in machine.console()
    assert machine.holds(KERNEL)


def test_ipxe(hall: Hall, dhcp: Job) -> None:
    """iPXE in a ROM boots a script of its own, one that has none the common one, to the end; each asks once."""
    with serving(hall, RULES):
        own = hall.folder / "boot" / "boot"
        own.mkdir()
        (own / f"{mac(1).replace(':', '-')}.ipxe").write_bytes(SCRIPT.replace(b"imgfetch kernel", b"imgfetch /kernel"))
        machines = [ipxe(hall, f"pc{number}", number) for number in (1, 2)]
        booted(machines[0], f"boot/{mac(1).replace(':', '-')}.ipxe")
        booted(machines[1], "boot.ipxe")
        offered = [each["machine"] for each in events(hall) if each["event"] == "offered"]
        assert sorted(offered) == [mac(1), mac(2)]
        for machine in machines:
            machine.job.end()


@pytest.mark.parametrize("kind", ["multicast", "mtftp"])
def test_otherTransports(hall: Hall, dhcp: Job, kind: str) -> None:
    """iPXE is told a URL of another transport, and fetches its script by it."""
    options = {
        "multicast": {"multicast": {"port": 69, "interface": SERVER}},
        "mtftp": {"mtftp": {"port": 1759, "interface": SERVER, "files": {"boot.ipxe": "239.255.1.1:3001"}}},
    }[kind]
    number = {"multicast": 4, "mtftp": 5}[kind]
    with serving(hall, [{"ipxe": True, "boot": "boot.ipxe", "by": kind}], **options):
        machine = ipxe(hall, f"pc{number}", number)
        assert f"{'tftm' if kind == 'multicast' else kind}://{SERVER}/boot.ipxe" in machine.job.until("[script]", 120)
        eventually(lambda: any(each["event"] == "received" for each in events(hall)), "the end of a transfer", 10)
        assert {each["transport"] for each in events(hall) if each["event"] == "received"} == {kind}
        machine.job.end()


def test_uefi(hall: Hall, dhcp: Job) -> None:
    """UEFI asks at port 4011 for its loader; that is iPXE, asks again, and is told its script and not itself."""
    with serving(hall, RULES):
        machine = ovmf(hall, "uefi1", 6)
        booted(machine, "boot.ipxe")
        kinds = ("offered", "acknowledged")
        told = [(each["event"], each["file"]) for each in events(hall) if each["event"] in kinds]
        assert list(dict.fromkeys(told)) == [
            ("offered", "snponly.efi"),
            ("acknowledged", "snponly.efi"),
            ("offered", "boot.ipxe"),
        ]
        machine.job.end()


def test_menu(hall: Hall, dhcp: Job) -> None:
    """iPXE shows a menu of two, and after its time boots the first."""
    items = [{"text": "First boot", "boot": "boot.ipxe"}, {"text": "Second boot", "boot": "undionly.kpxe"}]
    with serving(hall, [{"menu": {"prompt": "Choose", "wait": "1 s", "items": items}}]):
        machine = ipxe(hall, "pc7", 7)
        assert ended([machine], 120) == [True], machine.console()
        assert "Choose" in machine.console()
        assert machine.holds(KERNEL)
        machine.job.end()


def test_nothingForOthers(hall: Hall, dhcp: Job) -> None:
    """A plain DHCP client gets and renews its address, and no octet of castd; nor does one whose file is not there."""
    need("busybox", "tshark")
    with serving(hall, [{"boot": "gone"}]) as server, capturing(hall, "server") as capture:
        client = hall.host("plain")
        script = client.folder / "script"
        script.write_text('#!/bin/sh\n[ "$1" = bound ] && ip addr add "$ip/16" dev "$interface"\nexit 0\n')
        script.chmod(0o755)
        plain = client.start(["busybox", "udhcpc", "-i", "eth0", "-f", "-s", str(script)])
        shown = plain.until("obtained", 60)
        # By unicast, to the machine where castd is, too.
        os.kill(plain.pid, signal.SIGUSR1)
        plain.until("obtained", 60, len(shown))
        plain.end()
        machine = ipxe(hall, "pc9", 9)
        eventually(lambda: "gone: is not there" in server.log(), "a request for a file that is not there", 60)
        machine.job.until("Nothing to boot", 60)
        machine.job.end()
    rows = capture.rows("ip.src", "udp.srcport", "dhcp.option.vendor_class_id", "dhcp.option.dhcp")
    replies = [row for row in rows if row[0] == SERVER and row[1] in ("67", "4011")]
    assert replies
    assert all("PXEClient" not in row[2] for row in replies), replies
    assert {row[1] for row in replies} == {"67"}


#: Asks as a PXE client, on an interface without an address of its own in the packets: prints the offer, then the ACK.
ASK = """
import socket, sys
def sock(port):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.settimeout(10)
    return made
def packet(kind, xid):
    head = bytes([1, 1, 6, 0]) + xid + bytes(20) + bytes.fromhex("525400770042") + bytes(10) + bytes(192)
    return head + bytes([99, 130, 83, 99, 53, 1, kind, 93, 2, 0, 7, 60, 9]) + b"PXEClient" + bytes([255])
def proxy(made, xid):
    while True:
        answer, peer = made.recvfrom(2000)
        if answer[4:8] == xid and answer[16:20] == bytes(4):
            return peer[1], answer[108:236].rstrip(bytes(1)).decode()
xid = bytes.fromhex(sys.argv[1])
ear, boot = sock(68), sock(4011)
ear.sendto(packet(1, xid), ("255.255.255.255", 67))
print(*proxy(ear, xid))
boot.sendto(packet(3, xid), (sys.argv[2], 4011))
print(*proxy(boot, xid))
"""


def test_upgrade(hall: Hall, dhcp: Job) -> None:
    """Another process takes over all of its ports, and answers as the one before."""
    need("/usr/lib/ipxe/snponly.efi")
    asker = hall.host("asker")

    def told(xid: str) -> list[str]:
        done = asker.run([sys.executable, "-c", ASK, xid, SERVER], 30)
        assert done.code == 0, done.text
        return done.text.split()

    control = hall.folder / "control"
    with serving(hall, RULES, control=control) as server:
        assert told("00000001") == ["67", "snponly.efi", "4011", "snponly.efi"]
        upgraded = hall.hosts["server"].run([*command(), "upgrade", "--control", str(control)], 60)
        assert upgraded.code == 0, upgraded.text
        assert server.job.process.wait(20) == 0
        assert told("00000002") == ["67", "snponly.efi", "4011", "snponly.efi"]
        status = hall.hosts["server"].run([*command(), "status", "--json", "--control", str(control)], 30)
        os.kill(json.loads(status.text)["pid"], signal.SIGTERM)
        eventually(lambda: not control.exists(), "the new process to end", 30)
