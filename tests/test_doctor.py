"""castd doctor: each fault of a machine is named by its check, and what cannot be known is never called fine."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from click.testing import CliRunner

from castd.cli import doctor as command
from castd.cli.main import main
from castd.client.schemes import findScheme
from castd.client.urls import parseUrl
from castd.doctor import disks
from castd.doctor.disks import lookAtFiles, lookAtLabels, lookAtLogs
from castd.doctor.examine import CHECKS, runChecks
from castd.doctor.findings import Check, Finding, Subject
from castd.doctor.kernel import collides
from castd.doctor.machine import FreeSpace, IMachine, ThisMachine
from castd.doctor.network import lookAtGroups, lookAtMtu, lookAtRoutes, lookForQuerier
from castd.doctor.ports import lookAtPorts, lookAtPrivileges, lookForServers
from castd.doctor.process import lookAtClock, lookAtDescriptors
from castd.interfaces import ServicePort
from castd.packets import dhcp
from castd.service.bootstrap import MIN_CASTS, affordableCasts, neededDescriptors
from tests.support.doctor import NOBODY, FakeMachine, findings, subject
from tests.support.jobs import ROOT, eventually, free, running, until
from tests.support.needs import need, needNamespaces, needRoot

TFTP = {"port": 69, "interface": "10.0.0.5"}
ROOT_CAPABILITIES = {"/proc/self/status": "CapEff:\t000001ffffffffff\n"}


def test_wellMachine(tmp_path: Path) -> None:
    """On a machine without a fault no check has a problem, and what it cannot see is not called fine."""
    about = subject(tmp_path, multicast=TFTP, tftp=TFTP)
    machine = FakeMachine(texts=ROOT_CAPABILITIES)
    found = {check.name: list(check.look(about, machine)) for check in CHECKS}
    assert [each for name in found for each in found[name] if each.verdict == "problem"] == []
    verdicts = {name: {each.verdict for each in found[name]} for name in found}
    assert verdicts["querier"] == {"not seen"}
    assert verdicts["groups"] == verdicts["firewall"] == {"fine", "not known"}
    assert verdicts["servers"] == {"not seen", "skipped"}
    assert verdicts["selinux"] == verdicts["logs"] == {"skipped"}


def test_everyProblemHasACure(tmp_path: Path) -> None:
    """Whoever is told of a problem is told what to do."""
    about = replace(subject(tmp_path, multicast={"port": 69}, tftp={"port": 69}), user=None)
    machine = FakeMachine({"/sys/class/net/eth0/mtu": "1280"}, uid=1, time=0.0, unroutable=("239.255.0.0",))
    machine.bind("udp", "00000000:0045", 7)
    found = [each for check in CHECKS for each in check.look(about, machine) if each.verdict == "problem"]
    assert len(found) >= 6
    assert [each for each in found if not each.cure] == []


# Ports.


@pytest.mark.parametrize(
    ("bound", "wanted", "answer"),
    [
        ("0.0.0.0", "", True),
        ("0.0.0.0", "10.0.0.5", True),
        ("10.0.0.5", "", True),
        ("10.0.0.5", "10.0.0.6", False),
        ("::", "", True),
        ("::", "10.0.0.5", True),
        ("fe80::1", "", False),
        ("fe80::1", "fe80::1%eth0", True),
        ("0.0.0.0", "::", False),
        ("255.255.255.255", "10.0.0.5", False),
    ],
)
def test_collides(bound: str, wanted: str, answer: bool) -> None:
    """Two sockets at one port are in each other's way if one has the other's address, or all of its family."""
    assert collides(bound, wanted) is answer


def test_heldPort(tmp_path: Path) -> None:
    """A port that another program has is a problem that names the program."""
    machine = FakeMachine(processes=[(812, "/usr/sbin/dnsmasq --conf", (4711,))])
    machine.bind("udp", "0500000A:0045", 4711)
    (what,) = findings(lookAtPorts, subject(tmp_path, tftp=TFTP), machine, "problem")
    assert what == "UDP 10.0.0.5:69 (tftp) is held by dnsmasq (pid 812)"


def test_noTableOfSockets(tmp_path: Path) -> None:
    """Where the kernel's tables are not to be seen, no port is called free."""
    machine = FakeMachine()
    del machine.texts["/proc/net/udp"]
    assert findings(lookAtPorts, subject(tmp_path, tftp=TFTP), machine, "fine") == []
    (what,) = findings(lookAtPorts, subject(tmp_path, tftp=TFTP), machine, "not known")
    assert what == "which ports are free: /proc/net/udp cannot be read"


def test_unseenHolder(tmp_path: Path) -> None:
    """A holder that this user may not see is a problem, too, with the user it belongs to."""
    machine = FakeMachine()
    machine.bind("udp6", "00000000000000000000000000000000:0045", 4711, uid=123)
    (what,) = findings(lookAtPorts, subject(tmp_path), machine, "problem")
    assert "held by a process of user 123 that cannot be seen" in what


@pytest.mark.parametrize("words", ["/usr/bin/python3 /opt/castd serve", "python3 -m castd serve", "twistd castd -c"])
def test_ownPort(tmp_path: Path, words: str) -> None:
    """A port that the castd of this file has is as it should be, also one that systemd has opened for it."""
    about = subject(tmp_path)

    def found(line: str, pid: int | None, verdict: str) -> list[str]:
        machine = FakeMachine(processes=[(1, "/sbin/init", (4711,)), (900, line, (4711,))])
        machine.bind("udp", "00000000:0045", 4711)
        return findings(lookAtPorts, replace(about, pid=pid), machine, verdict)

    assert found(f"{words} {about.config.file}", None, "fine")[0].endswith("(pid 900)")
    assert found(words, 900, "fine")[0].endswith("(pid 900)")
    assert found(f"{words} /other.yaml", None, "not known")[0].endswith("(pid 900): whether for this file")
    assert found(words, 901, "problem")[0].endswith("(pid 900)")


@pytest.mark.parametrize(
    ("fails", "relays", "told"),
    [
        (
            errno.EADDRINUSE,
            False,
            "problem: proxydhcp: broadcasts to UDP 67 are not heard: dnsmasq (pid 812) does not share it",
        ),
        (0, False, "fine: proxydhcp: broadcasts to UDP 67 can be heard beside dnsmasq (pid 812)"),
        (errno.EACCES, False, "not known: proxydhcp: whether dnsmasq (pid 812) shares UDP 67: Permission denied"),
        (0, True, "problem: UDP 10.0.0.5:67 (proxydhcp) is held by dnsmasq (pid 812)"),
    ],
)
def test_dhcpServersPort(tmp_path: Path, fails: int, relays: bool, told: str) -> None:
    """A DHCP server of this machine may share its port with a proxydhcp, unless that answers relays."""
    proxy = {"interface": "10.0.0.5", "relays": relays, "rules": [{"boot": "a"}]}
    machine = FakeMachine(processes=[(812, "/usr/sbin/dnsmasq", (4711,))], unshared=fails)
    machine.bind("udp", "00000000:0043", 4711)
    found = [
        f"{each.verdict}: {each.what}" for each in lookAtPorts(subject(tmp_path, tftp=TFTP, proxydhcp=proxy), machine)
    ]
    assert told in found
    none = {**proxy, "port-67": False, "relays": False}
    assert not any("67" in each.what for each in lookAtPorts(subject(tmp_path, tftp=TFTP, proxydhcp=none), machine))


def test_dhcpServerOfAnother(tmp_path: Path) -> None:
    """Whoever may not see the processes of others is told of their DHCP server as well."""
    machine = FakeMachine(unshared=errno.EACCES)
    machine.bind("udp", "00000000:0043", 4711)
    about = subject(tmp_path, tftp=TFTP, proxydhcp={"interface": "10.0.0.5", "rules": [{"boot": "a"}]})
    (what,) = [each for each in findings(lookAtPorts, about, machine, "not known") if "67" in each]
    assert what == "proxydhcp: whether a program that cannot be seen shares UDP 67: Permission denied"


def test_portsOfPlugins(tmp_path: Path) -> None:
    """The ports of a plugin's service are looked at like others, with what it says can be done; those of many, too."""
    ports = [
        ("echo", ServicePort("10.0.0.5", 7, remedy="inetd may have an echo of its own")),
        ("echo", ServicePort("10.0.0.6", 7)),
        ("echo", ServicePort("", 8)),
        ("echo", ServicePort("", 9, required=False)),
        ("echo", ServicePort("239.255.66.1%10.0.0.5", 9)),
        ("wake", ServicePort("255.255.255.255%10.0.0.5", 9, remedy="socat: reuseaddr")),
        ("wake", ServicePort("255.255.255.255%10.0.0.5", 10, required=False)),
    ]
    about = replace(subject(tmp_path, tftp=TFTP), servicePorts=ports)
    machine = FakeMachine(processes=[(812, "/usr/bin/socat -", (4711, 4712))], unshared=errno.EADDRINUSE)
    for number, port in enumerate((7, 9, 10)):
        machine.bind("udp", f"00000000:{port:04X}", 4711 + number % 2)
    told = [(each.what, each.cure) for each in lookAtPorts(about, machine) if each.verdict == "problem"]
    mend = "wait for the network (After=network-online.target), or mend the address"
    assert told == [
        ("echo: no interface has the address 10.0.0.6", mend),
        ("UDP 10.0.0.5:7 (echo) is held by socat (pid 812)", "inetd may have an echo of its own"),
        ("UDP 10.0.0.6:7 (echo) is held by socat (pid 812)", "stop that program, or use another port or interface"),
        ("wake: broadcasts to UDP 9 are not heard: socat (pid 812) does not share it", "socat: reuseaddr"),
    ]
    fine = findings(lookAtPorts, about, machine, "fine")
    assert fine == ["UDP 10.0.0.5:69 (tftp) is free", "UDP any:8 (echo) is free"]
    low = next(each.what for each in lookAtPrivileges(about, machine))
    assert "(7, 8, 9, 69)" in low


def test_firstProcess(tmp_path: Path) -> None:
    """In a container the first process may be a server of its own, and no service manager."""
    machine = FakeMachine(processes=[(1, "/usr/sbin/dnsmasq", (4711,))])
    machine.bind("udp", "00000000:0045", 4711)
    assert len(findings(lookAtPorts, subject(tmp_path), machine, "problem")) == 1


def test_systemdPort(tmp_path: Path) -> None:
    """A port that systemd alone has open may be for castd or for another: it is not known."""
    machine = FakeMachine(processes=[(1, "/sbin/init", (4711,))])
    machine.bind("udp", "00000000:0045", 4711)
    assert len(findings(lookAtPorts, subject(tmp_path), machine, "not known")) == 1


def test_addressIsGone(tmp_path: Path) -> None:
    """An address that no interface has is a problem, and no port of it is free; those of loopback are always there."""
    sections = {"metrics": {"listen": "10.0.0.77:9147"}}
    about = subject(tmp_path, sections=sections, tftp=TFTP, near={**TFTP, "use": "tftp", "interface": "127.0.0.9"})
    machine = FakeMachine()
    assert findings(lookAtPorts, about, machine, "problem") == ["metrics: no interface has the address 10.0.0.77"]
    assert findings(lookAtPorts, about, machine, "fine") == [
        "UDP 10.0.0.5:69 (tftp) is free",
        "UDP 127.0.0.9:69 (near) is free",
    ]
    machine.devices = {"127.0.0.1": "lo"}
    assert findings(lookAtPorts, about, machine, "problem") == [
        "tftp: no interface has the address 10.0.0.5",
        "metrics: no interface has the address 10.0.0.77",
    ]


def test_otherSocketsAreNone(tmp_path: Path) -> None:
    """Other ports, other addresses, and connections that do not listen hold none of ours."""
    about = subject(tmp_path, sections={"metrics": {"listen": "127.0.0.1:9147"}}, tftp=TFTP)
    machine = FakeMachine()
    machine.bind("udp", "0500000A:0046", 1)
    machine.bind("udp", "0600000A:0045", 2)
    machine.bind("tcp", "0100007F:23BB", 3, state="01")
    assert findings(lookAtPorts, about, machine, "problem") == []
    assert len(findings(lookAtPorts, about, machine, "fine")) == 2
    machine.bind("tcp", "0100007F:23BB", 4, state="0A")
    (what,) = findings(lookAtPorts, about, machine, "problem")
    assert what.startswith("TCP 127.0.0.1:9147 (metrics) is held")


def test_lostPort(tmp_path: Path) -> None:
    """A server that runs and does not have its port has a problem."""
    (what,) = findings(lookAtPorts, replace(subject(tmp_path), pid=900), FakeMachine(), "problem")
    assert what == "UDP any:69 (tftp): the server does not have it"


def test_privileges(tmp_path: Path) -> None:
    """A privileged port needs its capability; without it the ways to get it are told."""
    about = subject(tmp_path)
    (what,) = findings(lookAtPrivileges, about, FakeMachine(), "problem")
    assert what == "ports below 1024 (69): this user may not bind them"
    assert findings(lookAtPrivileges, about, FakeMachine(texts=ROOT_CAPABILITIES), "problem") == []
    unprivileged = FakeMachine({"/proc/sys/net/ipv4/ip_unprivileged_port_start": "69\n"})
    assert findings(lookAtPrivileges, about, unprivileged, "problem") == []


def test_servesAsRoot(tmp_path: Path) -> None:
    """A server that is root is a problem; a user who is not named is not known."""
    about = subject(tmp_path, tftp={"port": 6969})
    root = replace(about, user=replace(NOBODY, uid=0))
    assert findings(lookAtPrivileges, root, FakeMachine(), "problem") == ["castd serves as root"]
    unnamed = replace(about, user=None)
    assert findings(lookAtPrivileges, unnamed, FakeMachine(), "not known") == ["which user will serve"]


# The process.


@pytest.mark.parametrize(("soft", "hard", "pid", "verdict"), [(1024, 20000, None, "fine"), (1024, 20000, 9, "problem")])
def test_descriptors(tmp_path: Path, soft: int, hard: int, pid: int | None, verdict: str) -> None:
    """castd raises its soft limit to the hard one, so that counts before the start; of a server its soft limit does."""
    process = "self" if pid is None else str(pid)
    machine = FakeMachine({f"/proc/{process}/limits": f"Max open files   {soft}   {hard}   files\n"})
    (what,) = findings(lookAtDescriptors, replace(subject(tmp_path), pid=pid), machine, verdict)
    assert "limits.casts: 4096 may need 13392" in what


def test_fewDescriptors(tmp_path: Path) -> None:
    """The cure names the number of transfers that there is room for."""
    machine = FakeMachine({"/proc/self/limits": "Max open files   1024   1028   files\n"})
    (found,) = lookAtDescriptors(subject(tmp_path), machine)
    assert found.verdict == "problem"
    assert found.cure == "LimitNOFILE=13392 in the unit, or limits.casts: 273"


@pytest.mark.parametrize("casts", [4, 5, 100, 2333, 2334, 4096, 16384])
def test_descriptorsOfTheServer(tmp_path: Path, casts: int) -> None:
    """What is proposed is what the server computes when it starts: so many are enough for it, and fewer are not."""

    def found(most: int) -> Finding:
        machine = FakeMachine({"/proc/self/limits": f"Max open files   64   {most}   files\n"})
        (finding,) = lookAtDescriptors(subject(tmp_path, sections={"limits": {"casts": casts}}), machine)
        return finding

    need = neededDescriptors(casts)
    assert affordableCasts(need) >= casts
    assert found(need).verdict == "fine"
    for few in (need - 1, 64):
        affordable = affordableCasts(few)
        assert affordable < casts or casts == MIN_CASTS
        cure = f"LimitNOFILE={need} in the unit, or limits.casts: {affordable}"
        assert found(few).cure == ("" if casts == MIN_CASTS else cure)


@pytest.mark.parametrize(
    ("now", "held", "verdicts"),
    [
        (1.8e9, True, ["fine", "fine"]),
        (1.8e9, False, ["fine", "not seen"]),
        (1.8e9, None, ["fine", "not known"]),
        (0.0, None, ["problem", "not known"]),
        (4.2e9, True, ["problem", "fine"]),
    ],
)
def test_clock(tmp_path: Path, now: float, held: bool | None, verdicts: list[str]) -> None:
    """A clock of 1970 is a problem; one that nothing is seen to keep is none, and not fine either."""
    found = lookAtClock(subject(tmp_path), FakeMachine(time=now, held=held))
    assert [each.verdict for each in found] == verdicts


# The network.


@pytest.mark.parametrize(
    ("mtu", "verdict"), [("1500", "fine"), ("1400", "problem"), ("9000", "not known"), ("", "not known")]
)
def test_mtu(tmp_path: Path, mtu: str, verdict: str) -> None:
    """An MTU below Ethernet's is a problem; whether others carry a larger one is not known."""
    machine = FakeMachine({"/sys/class/net/eth0/mtu": mtu})
    assert any("eth0 (10.0.0.5)" in what for what in findings(lookAtMtu, subject(tmp_path), machine, verdict))


def test_otherDevices(tmp_path: Path) -> None:
    """Of several interfaces that a wildcard takes in, not each is for clients; one that is named is."""
    machine = FakeMachine({"/sys/class/net/docker0/operstate": "down\n", "/sys/class/net/wg0/mtu": "1420\n"})
    machine.devices |= {"172.17.0.1": "docker0", "10.9.0.1": "wg0"}
    about = subject(tmp_path)
    assert findings(lookAtMtu, about, machine, "problem") == []
    assert [what.partition(" ")[0] for what in findings(lookAtMtu, about, machine, "not known")] == ["docker0", "wg0"]
    assert len(findings(lookAtMtu, subject(tmp_path, tftp={**TFTP, "interface": "10.9.0.1"}), machine, "problem")) == 1


def test_interfaceIsDown(tmp_path: Path) -> None:
    """An interface that is down, or none that has an address, is a problem."""
    about = subject(tmp_path, tftp=TFTP)
    down = FakeMachine({"/sys/class/net/eth0/operstate": "down\n"})
    assert findings(lookAtMtu, about, down, "problem") == ["eth0 (10.0.0.5) is down"]
    gone = FakeMachine(devices={"127.0.0.1": "lo"})
    assert findings(lookAtMtu, about, gone, "problem") == ["no interface that a transport uses has an address"]


CACHE = """\
10.78.3.2 via 10.77.200.3 dev eth0
    cache expires 595sec mtu 1400
10.78.4.2 via 10.77.200.3 dev eth0
    cache
10.78.5.2 dev eth0 cache mtu lock 1280
"""


def test_pathMtu(tmp_path: Path) -> None:
    """A smaller MTU that the kernel was told of is a problem of that client; without one none is seen."""
    about = subject(tmp_path)
    found = findings(lookAtMtu, about, FakeMachine(outputs={"ip route show cache": CACHE}), "problem")
    assert found == [
        "a router on the way to 10.78.3.2 carries 1400 octets only",
        "a router on the way to 10.78.5.2 carries 1280 octets only",
    ]
    assert len(findings(lookAtMtu, about, FakeMachine(), "not seen")) == 1
    without = FakeMachine()
    del without.outputs["ip route show cache"]
    assert len(findings(lookAtMtu, about, without, "not known")) == 1


GROUPS = {
    "multicast": {"port": 69},
    "mtftp": {"files": {"a": "239.1.1.1:3001", "b": "239.1.1.1:3002", "c": "239.1.1.2:3001"}},
    "slam": {"file": "a", "group": "239.2.2.2:10000"},
    "sbroadcast": {"port": 70, "subnets": ["10.0.0.0/24"]},
}


def test_reversePath(tmp_path: Path) -> None:
    """What the kernel drops as its answer would leave by another interface is told: tcpdump shows it nevertheless."""
    other = "IpExt: InNoRoutes InOctets\nIpExt: 7 700\n"
    for dropped in (0, 3):
        table = f"TcpExt: SyncookiesSent IPReversePathFilter ArpFilter\nTcpExt: 5 {dropped} 9\n{other}"
        machine = FakeMachine(texts={"/proc/net/netstat": table})
        found = findings(lookAtRoutes, subject(tmp_path, tftp=TFTP), machine, "not known")
        assert len(found) == (dropped > 0)
        assert all("lost: 3 packets" in each and "rp_filter" in each for each in found)


def test_routes(tmp_path: Path) -> None:
    """The way of each group and subnet that any transport sends to is looked up, each once."""
    about = subject(tmp_path, **GROUPS)
    found = findings(lookAtRoutes, about, FakeMachine(), "fine")
    assert [each.partition(" is sent")[0] for each in found] == [
        "multicast: 239.255.0.0/24",
        "mtftp: 239.1.1.1",
        "mtftp: 239.1.1.2",
        "slam: 239.2.2.2",
        "sbroadcast: 10.0.0.0/24",
    ]
    lost = FakeMachine(unroutable=("239.1.1.2", "10.0.0.255"))
    assert findings(lookAtRoutes, about, lost, "problem") == [
        "mtftp: 239.1.1.2: no route (Network is unreachable)",
        "sbroadcast: 10.0.0.0/24: no route (Network is unreachable)",
    ]


def test_severalNetworks(tmp_path: Path) -> None:
    """With two networks and no interface set a group leaves by the interface that was asked, whatever the route is."""
    devices = {"127.0.0.1": "lo", "10.1.0.5": "eth1", "10.0.0.5": "eth0", "10.0.0.6": "eth0", "fd00::5": "eth0"}
    machine = FakeMachine(devices=devices)
    about = subject(tmp_path, multicast={"port": 69})
    text = "10.0.0.5 by eth0, 10.1.0.5 by eth1, TTL 1"
    assert findings(lookAtRoutes, about, machine, "fine") == [
        f"multicast: 239.255.0.0/24 is sent from the address that is asked: {text}"
    ]
    (what,) = findings(lookAtRoutes, subject(tmp_path, multicast=TFTP), machine, "fine")
    assert what == "multicast: 239.255.0.0/24 is sent from 10.0.0.5 by eth0, TTL 1"
    machine.deaf = ("239.255.0.0",)
    assert findings(lookAtGroups, about, machine, "not known")[:2] == [
        f"multicast: group 239.255.0.0 at {host}: what this machine sends, by itself; whether clients are there"
        for host in ("10.0.0.5", "10.1.0.5")
    ]
    assert len(findings(lookAtGroups, subject(tmp_path, multicast=TFTP), machine, "not seen")) == 1


def test_ttl(tmp_path: Path) -> None:
    """Clients behind a router are not reached by group data with TTL 1."""
    near, far = "10.0.0.0/25", "10.9.0.0/16"
    machine = FakeMachine()
    (what,) = findings(lookAtRoutes, subject(tmp_path, multicast={**TFTP, "clients": [near, far]}), machine, "problem")
    assert what == "multicast: clients in 10.9.0.0/16 are behind a router, and ttl: 1 ends there"
    more = subject(tmp_path, multicast={**TFTP, "clients": far, "ttl": 8})
    assert findings(lookAtRoutes, more, machine, "problem") == []


def test_wayToRelays(tmp_path: Path) -> None:
    """A network of machines that a proxydhcp answers, and that this machine has no route to, is a problem."""
    rules = {"interface": "10.0.0.5", "rules": [{"boot": "a"}], "relays": True}
    about = subject(
        tmp_path, tftp=TFTP, proxydhcp={**rules, "clients": ["10.9.0.0/16", "10.20.0.0/24", "10.30.0.7/32"]}
    )
    machine = FakeMachine(unroutable=("10.20.0.1", "10.30.0.7"))
    assert findings(lookAtRoutes, about, machine, "problem") == [
        f"proxydhcp: no route to {network}, in clients (Network is unreachable)"
        for network in ("10.20.0.0/24", "10.30.0.7/32")
    ]
    everybody = subject(tmp_path, tftp=TFTP, proxydhcp={**rules, "clients": "any"})
    assert findings(lookAtRoutes, everybody, FakeMachine(unroutable=("0.0.0.1",)), "problem") == []
    # That no interface has the address is said of the ports, and routes are no cure.
    gone = FakeMachine(devices={"127.0.0.1": "lo"}, unroutable=("10.20.0.1",))
    assert not any("no route" in each for each in findings(lookAtRoutes, about, gone, "problem"))


def test_groups(tmp_path: Path) -> None:
    """A group that this machine cannot send to is a problem; one in which it does not hear itself was not seen."""
    about = subject(tmp_path, **GROUPS)
    assert findings(lookAtGroups, about, FakeMachine(), "problem") == []
    faults = FakeMachine(deaf=("239.1.1.1",), unroutable=("239.2.2.2",))
    assert findings(lookAtGroups, about, faults, "not seen") == [
        "mtftp: group 239.1.1.1 at 10.0.0.5: what this machine sends, by itself"
    ]
    assert findings(lookAtGroups, about, faults, "problem") == [
        "slam: group 239.2.2.2 at 10.0.0.5 cannot be joined or sent to: Network is unreachable",
    ]
    assert findings(lookAtGroups, subject(tmp_path), faults, "skipped") == ["no transport sends to groups"]
    many = subject(tmp_path, mtftp={"files": {f"f{number}": f"239.1.1.{number}:3001" for number in range(1, 12)}})
    assert findings(lookAtGroups, many, FakeMachine(), "skipped") == ["3 more groups: the first 8 were tried"]


def test_groupsByHand(tmp_path: Path) -> None:
    """What is to be fetched on a machine beside the clients has a scheme that castd get knows."""
    (cure,) = [
        each.cure for each in lookAtGroups(subject(tmp_path, **GROUPS), FakeMachine()) if "switches" in each.what
    ]
    named = re.findall(r"[\w-]+(?=://)", cure or "")
    assert named == ["tftm", "mtftp", "slam"]
    for scheme in named:
        findScheme(parseUrl(f"{scheme}://10.0.0.5/x"))


def test_querier(tmp_path: Path) -> None:
    """A querier is fine if it was heard; else it is not seen, or for lack of rights not known."""
    about = subject(tmp_path, multicast={"port": 69})
    heard = FakeMachine(asking={"10.0.0.1": "eth0"})
    assert list(lookForQuerier(about, heard)) == [Finding("fine", "eth0: the IGMP querier 10.0.0.1 asks")]
    assert findings(lookForQuerier, about, FakeMachine(), "not seen") == ["eth0: an IGMP querier, within 3 s"]
    assert len(findings(lookForQuerier, about, FakeMachine(asking=None), "not known")) == 1
    old = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n4\teth0      :     1      V2\n"
    assert len(findings(lookForQuerier, about, FakeMachine({"/proc/net/igmp": old}), "fine")) == 1


def test_ownBridge(tmp_path: Path) -> None:
    """A bridge of this machine that snoops without asking is told."""
    folder = "/sys/class/net/eth0/bridge"
    machine = FakeMachine({f"{folder}/multicast_snooping": "1\n", f"{folder}/multicast_querier": "0\n"})
    about = subject(tmp_path, multicast={"port": 69})
    assert any(
        "the bridge on this machine snoops" in what for what in findings(lookForQuerier, about, machine, "not seen")
    )
    machine.texts[f"{folder}/multicast_querier"] = "1\n"
    assert any("asks itself" in what for what in findings(lookForQuerier, about, machine, "fine"))


# Disks.


def test_unreadableFiles(tmp_path: Path) -> None:
    """Files and folders that the user who serves may not read are counted and named; root's view is not taken."""
    about = subject(tmp_path)
    boot = tmp_path / "boot"
    (boot / "sub").mkdir()
    for name in ("a", "b", "sub/c"):
        (boot / name).write_text("x")
    machine = FakeMachine(closed={f"{boot}/b", f"{boot}/sub/c"})
    (what,) = findings(lookAtFiles, about, machine, "problem")
    assert what == f"{boot}: user 65534 may not read 2 of 4: {boot}/b, {boot}/sub/c"
    assert findings(lookAtFiles, about, FakeMachine(), "fine") == [
        f"{boot}: user 65534 may read all 4 files and folders seen"
    ]


def test_folderThatCannotBeListed(tmp_path: Path) -> None:
    """castd may serve from a folder that it may not list; what is in there is not known."""
    about = subject(tmp_path)
    (tmp_path / "boot" / "sub").mkdir()
    machine = FakeMachine(unlistable={f"{tmp_path}/boot/sub"})
    assert findings(lookAtFiles, about, machine, "problem") == []
    assert findings(lookAtFiles, about, machine, "not known") == [
        f"what is in folders that user 65534 may not list: {tmp_path}/boot/sub"
    ]


def test_otherSources(tmp_path: Path) -> None:
    """A template that cannot be read is a problem; of a directory for each machine the part that all share is seen."""
    template = {"template": {"file": "t.ipxe", "names": ["boot.ipxe"]}}
    each = {"directory": {"path": "boot/{mac}"}}
    about = subject(tmp_path, sections={"content": [template, each]})
    (tmp_path / "t.ipxe").touch()
    machine = FakeMachine(closed={f"{tmp_path}/t.ipxe"})
    assert findings(lookAtFiles, about, machine, "problem") == [
        f"content[0]: user 65534 may not read {tmp_path}/t.ipxe"
    ]
    assert findings(lookAtFiles, about, machine, "fine") == [
        f"{tmp_path}/boot: user 65534 may read all 0 files and folders seen"
    ]


def test_leaseFiles(tmp_path: Path) -> None:
    """A lease file that the user who serves may not read is a problem: no machine would be known by it."""
    leases = [{"path": each, "format": "kea"} for each in ("open.csv", "closed.csv")]
    about = subject(tmp_path, sections={"machines": {"leases": leases}})
    (tmp_path / "closed.csv").touch()
    machine = FakeMachine(closed={f"{tmp_path}/closed.csv"})
    assert findings(lookAtFiles, about, machine, "problem") == [
        f"machines.leases: user 65534 may not read {tmp_path}/closed.csv"
    ]
    assert f"machines.leases: user 65534 may read {tmp_path}/open.csv" in findings(lookAtFiles, about, machine, "fine")


def test_leaseFileThatIsNotThere(tmp_path: Path) -> None:
    """A file that is not there, and one in a closed folder, are told from one whose mode forbids it."""
    missing, within = tmp_path / "missing.csv", tmp_path / "dhcp" / "leases.csv"
    leases = [{"path": str(each), "format": "kea"} for each in (missing, within)]
    about = subject(tmp_path, sections={"machines": {"leases": leases}})
    machine = FakeMachine(closed={str(missing), str(within), str(within.parent)})
    within.parent.mkdir()
    assert findings(lookAtFiles, about, machine, "problem") == [
        f"machines.leases: {missing} is not there",
        f"machines.leases: {within}: {within.parent} is closed to user 65534",
    ]


def test_closedFolder(tmp_path: Path) -> None:
    """The outermost folder on the path that is closed is named, since that is what has to be opened."""
    machine = FakeMachine(closed={str(tmp_path), str(tmp_path.parent)})
    (what,) = findings(lookAtFiles, subject(tmp_path), machine, "problem")
    assert what == f"{tmp_path}/boot: {tmp_path.parent} is closed to user 65534"


def test_worldReadable(tmp_path: Path) -> None:
    """Where only files for everybody are served, one for its group alone is named."""
    about = subject(tmp_path, sections={"content": [{"directory": {"path": "boot", "world-readable": True}}]})
    (tmp_path / "boot" / "a").write_text("x")
    (tmp_path / "boot" / "a").chmod(0o640)
    assert len(findings(lookAtFiles, about, FakeMachine(), "problem")) == 1
    assert findings(lookAtFiles, subject(tmp_path), FakeMachine(), "problem") == []


def test_otherUser(tmp_path: Path) -> None:
    """What another user may read is not known to one who is not root, and neither what castd may to root."""
    about = subject(tmp_path)
    assert len(findings(lookAtFiles, about, FakeMachine(uid=1000), "not known")) == 1
    assert len(findings(lookAtFiles, replace(about, user=None), FakeMachine(), "not known")) == 1
    assert findings(lookAtFiles, about, FakeMachine(), "not known") == []


def test_uploads(tmp_path: Path) -> None:
    """A place for uploads that cannot be written, or whose disk is full, is a problem."""
    (tmp_path / "up").mkdir()
    about = subject(tmp_path, sections={"uploads": [{"directory": {"path": "up"}}]})
    closed = FakeMachine(closed={f"{tmp_path}/up"})
    assert findings(lookAtFiles, about, closed, "problem") == [f"uploads: user 65534 may not write in {tmp_path}/up"]
    readOnly = replace(closed, space=FreeSpace(1 << 40, 5, True))
    assert findings(lookAtFiles, about, readOnly, "problem") == [
        f"uploads: the file system of {tmp_path}/up is read-only"
    ]
    full = FakeMachine(space=FreeSpace(1 << 20, 5))
    (what,) = findings(lookAtFiles, about, full, "problem")
    assert what == f"uploads: {tmp_path}/up has 1 MiB free, and keep-free: 64 MiB"


def test_logs(tmp_path: Path) -> None:
    """A log file that cannot be written, in a folder that is not there, or on a full disk is a problem."""
    logs = tmp_path / "logs"
    logs.mkdir()
    about = subject(tmp_path, sections={"logging": {"file": "logs/castd.log"}})
    assert findings(lookAtLogs, about, FakeMachine(), "problem") == []
    assert findings(lookAtLogs, about, FakeMachine(closed={str(logs)}), "problem") == [
        f"logging.file: user 65534 may not write {logs}"
    ]
    (logs / "castd.log").write_text("")
    assert findings(lookAtLogs, about, FakeMachine(closed={f"{logs}/castd.log"}), "problem") == [
        f"logging.file: user 65534 may not write {logs}/castd.log"
    ]
    for space, full in (
        (FreeSpace(0, 1 << 20), "full"),
        (FreeSpace(1 << 40, 0), "full"),
        (FreeSpace(4096, 9), "nearly"),
    ):
        (what,) = findings(lookAtLogs, about, FakeMachine(space=space), "problem")
        assert what.startswith(f"logging.file: the disk of {logs} is {full}")
    readOnly = FakeMachine(closed={str(logs), f"{logs}/castd.log"}, space=FreeSpace(1 << 40, 1 << 20, True))
    assert findings(lookAtLogs, about, readOnly, "problem") == [
        f"logging.file: the file system of {logs}/castd.log is read-only"
    ]
    lost = subject(
        tmp_path, sections={"history": {"path": "lost/x"}, "control": {"path": "/run/no-such-castd/control"}}
    )
    assert findings(lookAtLogs, lost, FakeMachine(), "problem") == [
        f"history.path: {tmp_path}/lost: No such file or directory"
    ]
    about = subject(tmp_path, sections={"recorder": {"directory": "logs"}})
    assert findings(lookAtLogs, about, FakeMachine(closed={str(logs)}), "problem") == [
        f"recorder.directory: user 65534 may not write {logs}"
    ]
    about = subject(tmp_path, sections={"metrics": {"listen": f"unix:{logs}/socket:mode=660"}})
    assert findings(lookAtLogs, about, FakeMachine(closed={str(logs)}), "problem") == [
        f"metrics.listen: user 65534 may not write {logs}"
    ]
    about = subject(tmp_path, sections={"metrics": {"listen": "unix:socket"}})
    assert findings(lookAtLogs, about, FakeMachine(closed={"."}), "problem") == []


def test_mostFiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a directory has more than is looked at, links among them, that is said, and not that it was all."""
    about, path = subject(tmp_path), f"{tmp_path}/boot: user 65534 may"
    for name in "abcd":
        (tmp_path / "boot" / name).write_text("x")
    (tmp_path / "boot" / "aa").symlink_to("a")
    for most, seen in ((6, "all 4"), (5, "all 4"), (4, "the first 3"), (3, "the first 2")):
        monkeypatch.setattr(disks, "_MOST_FILES", most)
        fine = findings(lookAtFiles, about, FakeMachine(), "fine")
        assert f"{path} read {seen} files and folders seen" in fine, most
    closed = FakeMachine(closed={f"{tmp_path}/boot/a"})
    assert findings(lookAtFiles, about, closed, "problem") == [f"{path} not read 1 of the first 2: {tmp_path}/boot/a"]


def test_labels(tmp_path: Path) -> None:
    """Files that keep the SELinux label of where they came from are named; what the policy allows is not known."""
    about = subject(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "boot" / name).write_text("x")
    labels = {name: f"system_u:object_r:{kind}:s0" for name, kind in (("boot", "tftpdir_t"), ("a", "tftpdir_t"))}
    labels["b"] = "unconfined_u:object_r:admin_home_t:s0"
    machine = FakeMachine({"/sys/fs/selinux/enforce": "1"}, labels=labels)
    (what,) = findings(lookAtLabels, about, machine, "problem")
    assert what.startswith(f"1 files in {tmp_path}/boot have the type admin_home_t, and not tftpdir_t")
    assert len(findings(lookAtLabels, about, machine, "not known")) == 1


# Other servers.


def test_otherServersHere(tmp_path: Path) -> None:
    """Another TFTP server of this machine is a problem wherever it listens; a DHCP server is not."""
    machine = FakeMachine(processes=[(1, "/lib/systemd", (3,)), (812, "dnsmasq", (1, 2)), (900, "castd serve", (3,))])
    machine.bind("udp", "0600000A:0045", 1)
    machine.bind("udp", "00000000:0043", 2)
    machine.bind("udp", "0500000A:0045", 3)
    about = subject(tmp_path, tftp=TFTP)
    assert findings(lookForServers, about, machine, "problem") == [
        "dnsmasq (pid 812) serves TFTP at 10.0.0.6:69 of this machine"
    ]
    assert findings(lookForServers, about, machine, "fine") == [
        "dnsmasq (pid 812) serves DHCP at 0.0.0.0:67 of this machine"
    ]


def offer(server: str, file: bytes = b"", sent: str = "0.0.0.0") -> tuple[dhcp.DhcpPacket, str]:
    """An offer as a DHCP server broadcasts it."""
    options = {dhcp.MESSAGE_TYPE: bytes([dhcp.OFFER]), dhcp.SERVER_ID: IPv4Address(server).packed}
    packet = dhcp.DhcpPacket(
        dhcp.BOOTREPLY,
        1,
        6,
        bytes(4),
        bytes(16),
        yiaddr=IPv4Address("10.0.0.99"),
        siaddr=IPv4Address(sent),
        file=file,
        options=options,
    )
    return packet, server


def test_otherServersAround(tmp_path: Path) -> None:
    """Only where it is asked for, DHCP servers are asked; one that tells what to boot is a problem, another is not."""
    about = subject(tmp_path, tftp=TFTP)
    machine = FakeMachine(answers=[offer("10.0.0.1"), offer("10.0.0.2", b"pxelinux.0"), offer("10.0.0.5", b"own")])
    assert findings(lookForServers, about, machine, "problem") == []
    asked = replace(about, probe=True)
    assert findings(lookForServers, asked, machine, "problem") == [
        "eth0: the DHCP server 10.0.0.2 tells machines what to boot: file pxelinux.0, from 10.0.0.2"
    ]
    machine.answers = [offer("10.0.0.1")]
    assert findings(lookForServers, asked, machine, "fine") == [
        "eth0: one DHCP server offers an address: 10.0.0.1 after 3 ms"
    ]
    assert findings(lookForServers, asked, machine, "problem") == []


def test_sameAddress(tmp_path: Path) -> None:
    """Another machine that has the same address is a problem, for which one has to ask, and may not always."""
    about, mac = subject(tmp_path, tftp=TFTP), "52:54:00:66:00:10"
    machine = FakeMachine(claiming={"10.0.0.5": [mac]})
    assert findings(lookForServers, about, machine, "problem") == []
    asked = replace(about, probe=True)
    assert findings(lookForServers, asked, machine, "problem") == [
        f"eth0: {mac} has the address 10.0.0.5 as well: it gets a part of the requests"
    ]
    assert "eth0: another machine with the address 10.0.0.5" in findings(
        lookForServers, asked, FakeMachine(), "not seen"
    )
    assert findings(lookForServers, asked, FakeMachine(claiming=None), "not known") == [
        "eth0: whether another machine has the address 10.0.0.5: Operation not permitted"
    ]


def test_sentHere(tmp_path: Path) -> None:
    """A DHCP server that sends machines to this one is as it should be, unless castd tells them as well."""
    machine = FakeMachine(answers=[offer("10.0.0.2", b"pxelinux.0", "10.0.0.5")])
    about = replace(subject(tmp_path, tftp=TFTP), probe=True)
    assert findings(lookForServers, about, machine, "fine") == [
        "eth0: one DHCP server offers an address: 10.0.0.2 after 3 ms",
        "eth0: the DHCP server 10.0.0.2 tells machines what to boot: file pxelinux.0, from 10.0.0.5",
    ]
    proxy = {"interface": "10.0.0.5", "rules": [{"boot": "a"}]}
    both = replace(subject(tmp_path, tftp=TFTP, proxydhcp=proxy), probe=True)
    assert len(findings(lookForServers, both, machine, "problem")) == 1
    assert "(67, 69)" in findings(lookAtPrivileges, both, FakeMachine(), "problem")[0]


# The command.


def sleeping(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """A check that hangs, as on a disk that does not answer."""
    (subject.config.file.parent / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    yield Finding("fine", "never")


def failing(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """A check with a fault of its own."""
    raise ValueError("oops")
    yield Finding("fine", "never")


def ended(pid: int) -> bool:
    """Return whether a child has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True


def becoming(subject: Subject, machine: IMachine) -> Iterator[Finding]:
    """A check that becomes another user."""
    assert subject.user is not None
    machine.become(subject.user)
    yield Finding("fine", f"user {os.geteuid()}")


@pytest.mark.slow
def test_checksThatHang(tmp_path: Path) -> None:
    """A check that hangs or fails costs its own findings only, and no more time than it has."""
    about = replace(subject(tmp_path), seconds=0.0)
    checks = [Check("hangs", sleeping, 0.5), Check("fails", failing), Check("clock", lookAtClock)]
    began = time.monotonic()
    found = dict(runChecks(about, FakeMachine(), checks))
    assert time.monotonic() - began < 20
    assert [each.verdict for each in found["hangs"]] == ["not known"]
    assert found["hangs"][0].what == "this check did not end within 0.5 s"
    hung = int((tmp_path / "pid").read_text())
    eventually(lambda: ended(hung), "the end of the check that hung", 10)
    assert found["fails"][0].what == "this check failed: ValueError: oops"
    assert [each.verdict for each in found["clock"]] == ["fine", "fine"]


@pytest.mark.root
def test_checkThatChangesUser(tmp_path: Path) -> None:
    """A check may become another user; the process that runs it, and the other checks, stay who they are."""
    needRoot()
    checks = [Check("first", becoming), Check("second", becoming)]
    found = dict(runChecks(replace(subject(tmp_path), seconds=0.0), ThisMachine(), checks))
    assert found == {name: [Finding("fine", "user 65534")] for name in ("first", "second")}
    assert os.geteuid() == 0


@pytest.mark.root
@pytest.mark.slow
def test_mountsOfTheServer(tmp_path: Path) -> None:
    """
    What a server may read and write is looked at where that is, as systemd may show it other folders than all others
    see: here the folder of uploads is there for the server alone.
    """
    needNamespaces("mount")
    unshare, _ = need("unshare", "mount")
    # A place that everybody may look at, wherever the tests have theirs.
    uploads = "/mnt/uploads"
    about = subject(tmp_path, sections={"uploads": [{"directory": {"path": uploads}}]})
    inside = f"mount -t tmpfs -o mode=755 none /mnt && mkdir -m 777 {uploads} && echo there && exec sleep 60"
    with subprocess.Popen([unshare, "--mount", "sh", "-c", inside], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "there\n"
            checks = [Check("files", lookAtFiles)]
            for pid, verdict in ((server.pid, "fine"), (os.getpid(), "problem")):
                answers = dict(runChecks(replace(about, seconds=0.0, pid=pid), ThisMachine(), checks))
                (found,) = [each for each in answers["files"] if each.what.startswith("uploads: ")]
                assert found.verdict == verdict, found
        finally:
            server.kill()


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Finding]]]:
    """What the command finds."""
    found = [("clock", [Finding("fine", "it goes"), Finding("problem", "[red]bad\x1b", "mend it")])]
    monkeypatch.setattr(command, "runChecks", lambda subject, machine: iter(found))
    return found


def castd(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["doctor", *map(str, words)])
    return result.exit_code, result.output


def test_command(tmp_path: Path, checks: list[tuple[str, list[Finding]]]) -> None:
    """A line for each finding and one for its cure; the exit status tells whether there is a problem."""
    subject(tmp_path)
    file, control = tmp_path / "castd.yaml", ("--control", tmp_path / "none")
    code, shown = castd(file, *control)
    assert code == 1
    assert shown.splitlines() == [
        f"fine       file         {file} can be read; castd check looks at more of it",
        "fine       clock        it goes",
        r"problem    clock        [red]bad\x1b",
        "                        → mend it",
    ]
    checks[0][1].pop()
    assert castd("-c", file, *control)[0] == 0
    assert castd(*control)[0] == 2
    assert castd(file, "-c", file, *control)[0] == 2
    assert castd(file, "--user", "no-such-user", *control)[0] == 2


def test_json(tmp_path: Path, checks: list[tuple[str, list[Finding]]]) -> None:
    """--json has the words that stay: check, verdict, what, cure."""
    subject(tmp_path)
    code, shown = castd(tmp_path / "castd.yaml", "--json", "--control", tmp_path / "none")
    told = json.loads(shown)
    assert (code, told["file"], told["pid"]) == (1, f"{tmp_path}/castd.yaml", None)
    assert told["findings"][1:] == [
        {"check": "clock", "verdict": "fine", "what": "it goes", "cure": ""},
        {"check": "clock", "verdict": "problem", "what": "[red]bad\x1b", "cure": "mend it"},
    ]


def test_wrongFile(tmp_path: Path, checks: list[tuple[str, list[Finding]]]) -> None:
    """Faults of the service file are problems, and what can be read of it is looked at all the same."""
    subject(tmp_path)
    file = tmp_path / "castd.yaml"
    file.write_text(file.read_text() + "limits: {casts: 0}\n")
    code, shown = castd(file, "--control", tmp_path / "none")
    assert code == 1
    assert "limits.casts: 0 is not at least 1" in shown.splitlines()[0]
    assert "it goes" in shown
    file.write_text("- nothing\n")
    code, shown = castd(file, "--control", tmp_path / "none")
    assert (code, "it goes" in shown) == (1, False)


@pytest.mark.slow
@pytest.mark.loopback
def test_besideAServer(tmp_path: Path) -> None:
    """Without a file the running server is asked for its own, and its port, its user and its limits are looked at."""
    (port,) = free(socket.SOCK_DGRAM)
    control = tmp_path / "control"
    tftp = {"port": port, "interface": "127.0.0.1"}
    subject(tmp_path, sections={"control": {"path": str(control)}}, tftp=tftp)
    with running("-m", "castd", "serve", tmp_path / "castd.yaml") as process:
        until(process, "listens at")
        words = [sys.executable, "-m", "castd", "doctor", "--control", control, "--json", "--listen", "0"]
        shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False).stdout
    told = json.loads(shown)
    assert (told["pid"], told["file"]) == (process.pid, f"{tmp_path}/castd.yaml")
    found = {(each["check"], each["verdict"]): each["what"] for each in told["findings"]}
    assert re.fullmatch(rf"UDP 127.0.0.1:{port} \(tftp\) is held by \S+ \(pid {process.pid}\)", found["ports", "fine"])
    assert f"the server (pid {process.pid}) may open" in " ".join(found.values())
    assert f"user {os.geteuid()}" in found["files", "fine"]
