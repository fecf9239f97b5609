"""castd doctor in a network whose faults are real: each is named, and where there is none, none is."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support.jobs import Job
from tests.support.lab.castd import TREE, Server, command
from tests.support.lab.hall import Hall, Host, ip, sweep
from tests.support.lab.machines import addresses
from tests.support.lab.wires import NEEDS, capturing
from tests.support.needs import need, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SERVER = "10.77.0.1"
HOLDER = """
import socket, time
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.bind(("0.0.0.0", 69))
print("held", flush=True)
time.sleep(600)
"""
#: An IGMPv2 membership query, five times a second.
QUERIER = """
import socket, struct, time
asker = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
asker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
print("asks", flush=True)
while True:
    asker.sendto(struct.pack("!BBHI", 0x11, 100, 0xFFFF - 0x1164, 0), ("224.0.0.1", 0))
    time.sleep(0.2)
"""
#: Datagrams that are not to be put in fragments, until the kernel knows the path MTU.
LEARN = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, 10, 2)
sock.connect((sys.argv[1], 9))
while sock.getsockopt(socket.IPPROTO_IP, 14) > 1400:
    try:
        sock.send(bytes(1472))
    except OSError:
        pass
    time.sleep(0.05)
"""
DROPS = "table inet guard { chain entry { type filter hook input priority 0; udp dport 69 counter drop; }; }"


class Told(NamedTuple):
    """What castd doctor has told: its exit status, and (check, verdict, what) of each finding."""

    code: int
    found: list[tuple[str, str, str]]

    def problems(self) -> dict[str, str]:
        """Return what is wrong, by check."""
        return {check: what for check, verdict, what in self.found if verdict == "problem"}

    def says(self, check: str, verdict: str, text: str) -> bool:
        return any((check, verdict) == each[:2] and text in each[2] for each in self.found)


def doctor(host: Host, *words: str | Path) -> Told:
    argv = [*command(), "doctor", "--json", "--listen", "2", "--control", "/nowhere", *map(str, words)]
    done = host.start(argv, cwd=TREE).finish(90)
    found = json.loads(done.text)["findings"]
    return Told(done.code, [(each["check"], each["verdict"], each["what"]) for each in found])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="castd-doctor-") as made:
        Path(made).chmod(0o755)
        (Path(made) / "boot").mkdir()
        (Path(made) / "boot" / "kernel").write_bytes(b"kernel")
        yield Path(made)


def written(folder: Path, **transports: Any) -> tuple[Path, dict[str, Any]]:
    service = {
        "castd": 1,
        "content": [{"directory": {"path": str(folder / "boot")}}],
        "access": [{"allow": "any"}],
        "transports": transports,
    }
    file = folder / "castd.yaml"
    file.write_text(yaml.safe_dump(service, sort_keys=False))
    return file, service


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    needNamespaces()
    need("ip", "bridge", "setpriv")
    sweep()
    with Hall(tmp_path) as made:
        made.host("server", SERVER, "fd77::1")
        yield made


def started(host: Host, program: str, word: str) -> Job:
    job = host.start([sys.executable, "-c", program])
    job.until(word, 20)
    return job


def test_faults(hall: Hall, folder: Path) -> None:
    """A port held, a rule that drops, a lowered MTU and an unreadable file: all are named.  A group needs no route."""
    need("nft")
    server = hall.hosts["server"]
    file, _ = written(folder, multicast={"port": 69}, tftp={"port": 69})
    well = doctor(server, file, "--user", "nobody")
    assert (well.code, well.problems()) == (0, {})
    assert well.says("ports", "fine", "UDP any:69 (multicast, tftp) is free")
    assert well.says("groups", "fine", "this machine hears what it sends")

    holder = started(server, HOLDER, "held")
    (folder / "boot" / "secret").write_bytes(b"x")
    (folder / "boot" / "secret").chmod(0o600)
    ip(netns=server.netns, batch=["link set eth0 mtu 1400", "route del default"])
    assert server.run(["nft", DROPS]).code == 0
    ill = doctor(server, file, "--user", "nobody")
    problems = ill.problems()
    assert ill.code == 1
    assert f"(pid {holder.pid})" in problems["ports"]
    assert "table inet guard, chain entry, rule handle" in problems["firewall"]
    assert problems["firewall"].endswith("drops requests to UDP port 69")
    assert problems["mtu"].startswith(f"eth0 ({SERVER}) has MTU 1400")
    assert problems["files"].endswith(f"may not read 1 of 2: {folder}/boot/secret")
    assert ill.says("routes", "fine", f"multicast: 239.255.0.0/24 is sent from {SERVER} by eth0, TTL 1")
    assert ill.says("groups", "fine", "this machine hears what it sends")
    assert f"(pid {holder.pid}) serves TFTP at 0.0.0.0:69" in problems["servers"]
    assert set(problems) == {"ports", "firewall", "mtu", "files", "servers"}


@pytest.mark.parametrize(
    ("hook", "check", "verdict", "text"),
    [
        ("input", "groups", "not seen", "group 239.255.1.1 at 10.77.0.1: what this machine sends, by itself"),
        ("output", "groups", "problem", "group 239.255.1.1 at 10.77.0.1 cannot be joined or sent to"),
        ("output", "firewall", "not known", "chain guard, rule handle 2 may drop what slam sends"),
    ],
)
def test_ownGroupIsDropped(hall: Hall, folder: Path, hook: str, check: str, verdict: str, text: str) -> None:
    """A firewall that drops the group on this very machine shows in what is heard, and no datagram leaves it."""
    need("nft", *NEEDS)
    server = hall.hosts["server"]
    file, _ = written(folder, slam={"file": "kernel", "interface": SERVER})
    (client,) = hall.clients(1)
    rules = f"chain guard {{ type filter hook {hook} priority 0; ip daddr 239.255.1.1 drop; }}"
    assert server.run(["nft", f"table ip guard {{ {rules}; }}"]).code == 0
    with capturing(hall, client.name, "ip dst 239.255.1.1 and udp") as capture:
        assert doctor(server, file).says(check, verdict, text)
    assert capture.rows("ip.src") == []


def test_besideAServer(hall: Hall, folder: Path) -> None:
    """Beside a running server its own port is no fault, and the server goes on."""
    server = hall.hosts["server"]
    file, service = written(folder, tftp={"port": 69, "interface": SERVER})
    castd = Server(server, service)
    told = doctor(server, server.folder / "castd.yaml")
    assert (told.code, told.problems()) == (0, {})
    assert told.says("ports", "fine", f"(pid {castd.job.pid})")
    assert doctor(server, file).says("ports", "not known", f"(pid {castd.job.pid}): whether for this file")
    castd.stop()


def test_around(hall: Hall, folder: Path) -> None:
    """A querier, another server that tells machines what to boot, and a smaller MTU on the way are seen."""
    need("dnsmasq")
    server = hall.hosts["server"]
    far = hall.beyond("far", 1400)
    learning = server.start([sys.executable, "-c", LEARN, far.addresses[0]])
    started(hall.host("querier", "10.77.0.9", "fd77::9"), QUERIER, "asks")
    other = hall.host("dhcp", "10.77.0.3", "fd77::3")
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--log-facility=-", "--port=0"]
    words += ["--interface=eth0", "--bind-interfaces", "--dhcp-leasefile=leases", "--no-ping", "--pid-file="]
    words += ["--dhcp-range=10.77.4.1,10.77.4.250,255.255.0.0,1h", "--dhcp-boot=pxelinux.0"]
    other.start(words).until("DHCP, IP range", 20)
    file, _ = written(folder, multicast={"port": 69, "interface": SERVER}, tftp={"port": 69, "interface": SERVER})
    assert learning.finish(30).code == 0
    told = doctor(server, file, "--probe")
    assert told.code == 1
    assert told.says("querier", "fine", "eth0: the IGMP querier 10.77.0.9 asks")
    assert told.says("servers", "problem", "the DHCP server 10.77.0.3 tells machines what to boot: file pxelinux.0")
    assert told.says("mtu", "problem", f"a router on the way to {far.addresses[0]} carries 1400 octets only")
    assert set(told.problems()) == {"servers", "mtu"}


def test_sameAddress(hall: Hall, folder: Path) -> None:
    """Another machine with the server's address is named by its hardware address, but not the server itself."""
    server = hall.hosts["server"]
    file, _ = written(folder, tftp={"port": 69, "interface": SERVER})
    assert doctor(server, file, "--probe").says("servers", "not seen", f"another machine with the address {SERVER}")
    # Another interface in the same network answers for all addresses of its machine.
    second = hall.host("second", "10.77.0.8", "fd77::8")
    ip("link", "set", "eth0", "netns", server.netns, "name", "eth9", netns=second.netns)
    ip("link", "set", "eth9", "up", netns=server.netns)
    assert doctor(server, file, "--probe").says("servers", "not seen", f"another machine with the address {SERVER}")
    other = hall.host("double", SERVER, "fd77::7")
    told = doctor(server, file, "--probe")
    assert told.says("servers", "problem", f"eth0: {other.mac} has the address {SERVER} as well")
    hall.unplug("double")
    ip("link", "del", "eth9", netns=server.netns)


def test_boot(hall: Hall, folder: Path) -> None:
    """
    Asked as machines ask, a castd beside a DHCP server that only gives addresses offers its files, and they come; port
    4011 is open; all of that from the machine that castd runs on.
    """
    need("dnsmasq")
    addresses(hall.host("dhcp", "10.77.0.3", "fd77::3"))
    server = hall.hosts["server"]
    for name in ("boot.ipxe", "undionly.kpxe", "snponly.efi"):
        (folder / "boot" / name).write_bytes(name.encode())
    rules = [{"ipxe": True, "boot": "boot.ipxe"}, {"arch": "bios", "boot": "undionly.kpxe"}]
    proxy = {"interface": SERVER, "rules": [*rules, {"arch": "efi-x64", "boot": "snponly.efi"}]}
    _, service = written(folder, tftp={"port": 69, "interface": SERVER}, proxydhcp=proxy)
    castd = Server(server, service)
    told = doctor(server, server.folder / "castd.yaml", "--probe")
    assert (told.code, told.problems()) == (0, {})
    assert told.says("servers", "fine", "eth0: one DHCP server offers an address: 10.77.0.3 after ")
    for text in (
        "castd offers bios the file undionly.kpxe, after ",
        "castd offers efi-x64 the file snponly.efi, by port 4011, after ",
        "castd offers iPXE the file boot.ipxe, after ",
        "port 4011 is open",
        "the first block of undionly.kpxe comes: 13 octets",
        "the first block of snponly.efi comes: 11 octets",
        "the first block of boot.ipxe comes: 9 octets",
    ):
        assert told.says("servers", "fine", f"proxydhcp: {text}"), told.found
    assert told.says("servers", "not seen", "eth0: another server that tells machines what to boot")
    castd.stop()
