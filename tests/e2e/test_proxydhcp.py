"""
Machines that know nothing boot from castd, beside a DHCP server that gives addresses and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job, eventually
from tests.support.lab.castd import Server, command
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall
from tests.support.lab.machines import Machine, addresses, ended, ipxe, ipxeScript, mac, ovmf, sayDhcp
from tests.support.lab.wires import Capture, capturing
from tests.support.needs import lack, need
from tests.support.pxe import discover, vector

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
    hall: Hall,
    rules: list[dict[str, Any]],
    control: Path | None = None,
    script: bytes = SCRIPT,
    own: Mapping[str, Any] | None = None,
    content: Sequence[Mapping[str, Any]] = (),
    **transports: Any,
) -> Iterator[Server]:
    """
    castd with a proxydhcp, on the host C{server}; it must be there at the end, without a fault.

    @param own: options of the proxydhcp beside its rules.
    @param content: sources that are asked before the folder C{boot}.
    @param control: its control socket, by which it may be replaced: then it need not be there at the end.
    """
    boot = hall.folder / "boot"
    boot.mkdir(exist_ok=True)
    (hall.folder / "events.json").unlink(missing_ok=True)
    (boot / "boot.ipxe").write_bytes(script)
    (boot / "kernel").write_bytes(KERNEL)
    for name in ("undionly.kpxe", "snponly.efi"):
        (boot / name).write_bytes(Path("/usr/lib/ipxe", name).read_bytes())
    service = {
        "castd": 1,
        "content": [*content, {"directory": {"path": str(boot)}}],
        "limits": {"drain": "1 s"},
        **({} if control is None else {"control": {"path": str(control)}}),
        "logging": {"json": str(hall.folder / "events.json")},
        "transports": {
            **transports,
            "tftp": {"port": 69, "interface": SERVER},
            "proxydhcp": {"interface": SERVER, "rules": rules, **(own or {})},
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


FAR = SCRIPT.replace(b"imgfetch kernel", f"imgfetch tftp://{SERVER}/kernel".encode())
"""The same, where names beside it are those of another transport."""


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
@pytest.mark.parametrize("kind", ["multicast", "mtftp"])
def test_otherTransports(hall: Hall, dhcp: Job, kind: str, uefi: bool) -> None:
    """iPXE is told a URL of another transport, fetches its script by it, and boots to the end."""
    need("/usr/lib/ipxe/snponly.efi")
    options = {
        "multicast": {"multicast": {"port": 69, "interface": SERVER}},
        "mtftp": {"mtftp": {"port": 1759, "interface": SERVER, "files": {"boot.ipxe": "239.255.1.1:3001"}}},
    }[kind]
    number = 20 + 2 * (kind == "mtftp") + uefi
    url = f"{'tftm' if kind == 'multicast' else kind}://{SERVER}/boot.ipxe"
    rules = [{"ipxe": True, "boot": "boot.ipxe", "by": kind}, {"arch": "efi-x64", "boot": "snponly.efi"}]
    with serving(hall, rules, script=FAR, **options):
        machine = ovmf(hall, f"uefi{number}", number) if uefi else ipxe(hall, f"pc{number}", number)
        booted(machine, url)
        scripts = [each for each in events(hall) if each["event"] == "received" and each["name"] == "boot.ipxe"]
        assert {each["transport"] for each in scripts} == {kind}
        assert told(hall) == [*(FIRMWARE if uefi else ()), ("offered", url)]
        machine.job.end()


FIRMWARE = [("offered", "snponly.efi"), ("acknowledged", "snponly.efi")]
"""What UEFI is told before it is iPXE."""


def told(hall: Hall) -> list[tuple[str, str]]:
    """What machines were told, and which file; repetitions once."""
    kinds = ("offered", "acknowledged")
    return list(dict.fromkeys((each["event"], each["file"]) for each in events(hall) if each["event"] in kinds))


def test_uefi(hall: Hall, dhcp: Job) -> None:
    """UEFI asks at port 4011 for its loader; that is iPXE, asks again, and is told its script and not itself."""
    with serving(hall, RULES):
        machine = ovmf(hall, "uefi1", 6)
        booted(machine, "boot.ipxe")
        assert told(hall) == [*FIRMWARE, ("offered", "boot.ipxe")]
        machine.job.end()


def test_perMachine(hall: Hall, dhcp: Job) -> None:
    """Of one template and a folder for each, two machines boot what is theirs; one that is unknown what is for all."""
    if find_spec("jinja2") is None:
        lack("Jinja2 is not installed: castd[template]")
    place = hall.folder / "machines"
    titles = {40: "first", 41: "second"}
    contents = {number: random.Random(number).randbytes(100_000) for number in (40, 41, 42)}
    for number in titles:
        (place / mac(number).replace(":", "-")).mkdir(parents=True)
        (place / mac(number).replace(":", "-") / "own").write_bytes(contents[number])
    (place / "boot.j2").write_bytes(
        ipxeScript("echo for {{ machine.title | default('nobody') }} {{ mac }}", "imgfetch own")
    )
    (place / "inventory.yaml").write_text(
        "machines:\n" + "".join(f"  {mac(number)}: {{title: {title}}}\n" for number, title in titles.items())
    )
    template = {"file": str(place / "boot.j2"), "inventory": str(place / "inventory.yaml"), "names": ["boot.ipxe"]}
    content = [{"template": template}, {"directory": {"path": f"{place}/{{mac}}"}}]
    with serving(hall, [{"ipxe": True, "boot": "boot.ipxe"}], content=content):
        (hall.folder / "boot" / "own").write_bytes(contents[42])
        machines = {number: ipxe(hall, f"pc{number}", number) for number in contents}
        for number, machine in machines.items():
            assert ended([machine], 150) == [True], machine.console()
            assert f"for {titles.get(number, 'nobody')} {mac(number)}" in machine.console()
            memory = machine.memory()
            assert [each for each, octets in contents.items() if octets in memory] == [number]
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


def test_outside(hall: Hall, dhcp: Job) -> None:
    """A machine that is not in one of the networks of C{clients} gets an address, and not one octet of castd."""
    need("tshark")
    with serving(hall, RULES, own={"clients": ["10.99.0.0/16"]}), capturing(hall, "server") as capture:
        machine = ipxe(hall, "pc30", 30)
        machine.job.until("Nothing to boot", 120)
        machine.job.end()
        assert told(hall) == []
    asked = capture.rows("udp.dstport", where="dhcp.option.vendor_class_id contains PXEClient")
    assert ("67",) in asked
    assert ofCastd(capture) == []


def test_httpBoot(hall: Hall, dhcp: Job) -> None:
    """Firmware that boots by HTTP, with the very datagram that it sends, gets not one octet; who boots by PXE does."""
    need("tshark")
    asker = hall.host("http")
    with serving(hall, [{"boot": "boot.ipxe"}]), capturing(hall, "server") as capture:
        sayDhcp(asker, vector("P-66"))
        sayDhcp(asker, discover(asker.mac, xid=b"pxe!"))
        eventually(lambda: told(hall) == [("offered", "boot.ipxe")], "an answer", 20)
    assert {xid for xid, *_ in capture.rows("dhcp.id", where="dhcp.type == 1")} >= {
        f"0x{vector('P-66')[4:8].hex()}",
        f"0x{b'pxe!'.hex()}",
    }
    assert {xid for xid, *_ in ofCastd(capture)} == {f"0x{b'pxe!'.hex()}"}


def ofCastd(capture: Capture) -> list[tuple[str, ...]]:
    """Transaction and port of each datagram that castd has sent as a DHCP server: it never gives an address."""
    where = f"ip.src == {SERVER} && dhcp.type == 2 && dhcp.ip.your == 0.0.0.0"
    return capture.rows("dhcp.id", "udp.srcport", where=f"({where}) || (ip.src == {SERVER} && udp.srcport == 4011)")


#: Asks as so many PXE clients, one after the other, on an interface without an address of its own in the packets, each
#: once at port 67 and once at 4011: prints a line for each, with port and file of what answers.
ASK = """
import socket, sys, time
def sock(port):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.settimeout(5)
    return made
def packet(kind, xid):
    head = bytes([1, 1, 6, 0]) + xid + bytes(20) + bytes.fromhex("5254") + xid + bytes(10) + bytes(192)
    return head + bytes([99, 130, 83, 99, 53, 1, kind, 93, 2, 0, 7, 60, 9]) + b"PXEClient" + bytes([255])
def proxy(made, xid):
    try:
        while True:
            answer, peer = made.recvfrom(2000)
            if answer[4:8] == xid and answer[16:20] == bytes(4):
                return f"{peer[1]} {answer[108:236].rstrip(bytes(1)).decode()}"
    except TimeoutError:
        return "nothing"
ear, boot = sock(68), sock(4011)
for number in range(int(sys.argv[2])):
    xid = number.to_bytes(4, "big")
    ear.sendto(packet(1, xid), ("255.255.255.255", 67))
    offered = proxy(ear, xid)
    boot.sendto(packet(3, xid), (sys.argv[1], 4011))
    print(offered, proxy(boot, xid), flush=True)
    time.sleep(0.05)
"""


def test_upgrade(hall: Hall, dhcp: Job) -> None:
    """Another process takes over all of its ports, answers as the one before, and no request is lost meanwhile."""
    need("/usr/lib/ipxe/snponly.efi")
    control, asker = hall.folder / "control", hall.host("asker")
    with serving(hall, RULES, control=control) as server:
        asking = asker.start([sys.executable, "-c", ASK, SERVER, "200"])
        eventually(lambda: asking.text().count("\n") >= 5, "the first answers", 30)
        upgraded = hall.hosts["server"].run([*command(), "upgrade", "--control", str(control)], 60)
        assert upgraded.code == 0, upgraded.text
        assert server.job.process.wait(20) == 0
        before = asking.text().count("\n")
        shown = asking.finish(60)
        assert shown.code == 0, shown.text
        assert before < 195, "the new process was asked as well"
        assert set(shown.text.splitlines()) == {"67 snponly.efi 4011 snponly.efi"}, shown.text
        status = hall.hosts["server"].run([*command(), "status", "--json", "--control", str(control)], 30)
        os.kill(json.loads(status.text)["pid"], signal.SIGTERM)
        eventually(lambda: not control.exists(), "the new process to end", 30)
