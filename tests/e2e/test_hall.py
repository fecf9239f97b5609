"""The hall itself: a test about losses proves nothing on a wire that loses nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.jobs import Job
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import PREFIX, Hall, Host, ip, sweep
from tests.support.lab.wires import deafening, delaying, doubling, lossy
from tests.support.needs import need, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root]

PORT, GROUP = 7777, "239.77.0.1"

LISTEN = f"""
import socket, struct, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
link.bind(("", {PORT}))
if sys.argv[1:]:
    link.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(sys.argv[1]) + bytes(4))
print("listening", flush=True)
heard = []
while (datagram := link.recv(2048)) != b"end":
    heard.append(datagram[1])
print(heard.count(1), heard.count(3), "heard", flush=True)
"""
"""Prints how many datagrams of the kinds 1 and 3 came before the one that says "end"."""

SAY = f"""
import socket, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[2])):
    link.sendto(bytes([0, 1 + number % 2 * 2]), (sys.argv[1], {PORT}))
"""
END = f"""
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"end", (sys.argv[1], {PORT}))
"""


def listener(host: Host, *group: str) -> Job:
    job = host.start([sys.executable, "-c", LISTEN, *group])
    job.until("listening", 10)
    return job


def say(host: Host, script: str, *words: object) -> None:
    assert host.run([sys.executable, "-c", script, *map(str, words)]).code == 0


def heard(job: Job) -> tuple[int, int]:
    """How many datagrams of either kind the listener had when it was told the end."""
    first, third = job.until("heard", 10).split()[1:3]
    return int(first), int(third)


@pytest.mark.parametrize("ways", ["from", "to", "from to"])
def test_loss(hall: Hall, ways: str) -> None:
    """Of two thousand datagrams some five in a hundred are lost for each lossy direction crossed, and counted."""
    need("nft")
    (client,) = hall.clients(1)
    job = listener(hall.hosts["server"])
    with lossy(hall, ["c1", "server"], 5, ways) as loss:
        say(client, SAY, SERVER, 2000)
    say(client, END, SERVER)
    lost = loss.lost
    assert sum(heard(job)) + lost == 2000
    assert 40 * len(ways.split()) < lost < 180 * len(ways.split())


def test_match(hall: Hall) -> None:
    """Datagrams of one kind alone can be lost, told by the first two octets of their payload."""
    need("nft")
    (client,) = hall.clients(1)
    job = listener(hall.hosts["server"])
    with lossy(hall, ["c1"], 100, "from", match="@th,64,16 3"):
        say(client, SAY, SERVER, 200)
    say(client, END, SERVER)
    assert heard(job) == (100, 0)


ORDER = f"""
import socket
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.bind(("", {PORT}))
print("listening", flush=True)
while (datagram := link.recv(2048)) != b"end":
    print("got", datagram.decode(), flush=True)
print("over", flush=True)
"""
"""Prints each datagram, in the order in which they came."""

COUNT = f"""
import socket, sys, time
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(10):
    link.sendto(str(number).encode(), (sys.argv[1], {PORT}))
    time.sleep(0.002)
time.sleep(1)
link.sendto(b"end", (sys.argv[1], {PORT}))
"""


def counted(receiver: Host, sender: Host) -> list[int]:
    """Let the sender send the numbers 0 to 9.  -> what the receiver got, in its order."""
    job = receiver.start([sys.executable, "-c", ORDER])
    job.until("listening", 10)
    say(sender, COUNT, receiver.addresses[0])
    return [int(line.split()[1]) for line in job.until("over", 10).splitlines() if line.startswith("got")]


@pytest.mark.parametrize("way", ["from", "to"])
def test_delay(hall: Hall, way: str) -> None:
    """The one datagram that is meant comes that much later, when all others have overtaken it; and it comes once."""
    need("nft")
    sender, receiver = hall.clients(2)
    wire = sender if way == "from" else receiver
    with delaying(hall, wire.name, way, 0.5, 3, match=f"udp dport {PORT}") as loss:
        got = counted(receiver, sender)
    assert got == [0, 1, 3, 4, 5, 6, 7, 8, 9, 2]
    assert loss.lost == 1


@pytest.mark.parametrize("way", ["from", "to"])
def test_double(hall: Hall, way: str) -> None:
    """The datagrams that are meant come twice, or all do."""
    need("nft")
    sender, receiver = hall.clients(2)
    wire = sender if way == "from" else receiver
    for ordinals in ((2, 5), ()):
        with doubling(hall, wire.name, way, *ordinals, match=f"udp dport {PORT} udp length < 11") as loss:
            got = sorted(counted(receiver, sender))
        twice = [number - 1 for number in ordinals or range(1, 11)]
        assert got == sorted([*range(10), *twice])
        assert loss.lost == len(twice)


def test_deaf(hall: Hall) -> None:
    """From an octet on nothing of a group reaches the ports that are meant; the others hear it to the end."""
    need("nft")
    speaker, hearing, deaf = hall.clients(3)
    jobs = [listener(host, GROUP) for host in (hearing, deaf)]
    with deafening(hall, [deaf.name], 1000):
        say(speaker, SAY, GROUP, 100)
    for host in (hearing, deaf):
        say(speaker, END, host.addresses[0])
    assert sum(heard(jobs[0])) == 100
    # Frames of 44 octets: 14 of Ethernet, 20 of IP, 8 of UDP.
    assert sum(heard(jobs[1])) == 1000 // 44


BURST = f"""
import socket, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(socket.IPPROTO_UDP, 103, 1000)
link.sendto(bytes(10_000), (sys.argv[1], {PORT}))
"""


def test_burst(hall: Hall) -> None:
    """What a program sends by one call, for the kernel to cut (UDP_SEGMENT), is counted datagram by datagram."""
    sender, receiver = hall.clients(2)
    jobs = [listener(receiver)]
    before = sender.counters()
    say(sender, BURST, receiver.addresses[0])
    sent = sender.counters().since(before)
    say(sender, END, receiver.addresses[0])
    assert sum(heard(jobs[0])) == 0
    assert sent.sent >= 10
    # Headers of Ethernet, IP and UDP; and perhaps a word of ARP or IPv6.
    assert 10 * 1042 <= sent.sentOctets < 10 * 1042 + 500


LARGE = f"""
import socket, sys
six = ":" in sys.argv[1]
link = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
link.setsockopt(*((41, 23) if six else (0, 10)), int(sys.argv[2]))
for _ in range(3):
    try:
        link.sendto(b"\\0\\1" + bytes(1400), (sys.argv[1], {PORT}))
    except OSError:
        pass
    import time
    time.sleep(0.1)
"""
"""Sends three datagrams of 1402 octets, with the path MTU discovery that is asked for: 0 is none, 2 always."""


@pytest.mark.parametrize("icmp", [True, False], ids=["icmp", "silent"])
def test_beyond(hall: Hall, icmp: bool) -> None:
    """
    Behind a router with an MTU of 1400 a datagram of 1430 octets arrives if it may be fragmented, and not with DF; by
    IPv6 the sender fragments once it was told.
    """
    need("nft")
    host = hall.beyond(f"far{int(icmp)}", 1400, icmp)
    (sender,) = hall.clients(1)
    got = {}
    for address, discovery in ((host.addresses[0], 0), (host.addresses[0], 2), (host.addresses[1], 0)):
        job = host.start([sys.executable, "-c", LISTEN.replace("AF_INET,", "AF_INET6,"), "-"][:3])
        job.until("listening", 10)
        say(sender, LARGE, address, discovery)
        say(sender, END.replace("AF_INET,", "AF_INET6," if ":" in address else "AF_INET,"), address)
        got[address.count(":") > 0, discovery] = heard(job)[0]
    assert got == {(False, 0): 3, (False, 2): 0, (True, 0): 2 if icmp else 0}


def test_snooping(tmp_path: Path) -> None:
    """With snooping a group reaches its members alone; without, everybody."""
    needNamespaces()
    for snooping in (False, True):
        folder = tmp_path / str(snooping)
        folder.mkdir()
        with Hall(folder, snooping) as hall:
            speaker, member, other = hall.clients(3)
            if snooping:
                hall.snoops()
            job = listener(member, GROUP)
            before = other.counters()
            say(speaker, SAY, GROUP, 500)
            say(speaker, END, GROUP)
            assert sum(heard(job)) == 500
            assert (other.counters().since(before).heard < 250) == snooping


def test_down(tmp_path: Path) -> None:
    """Whatever happens inside, the namespaces and the programs of a hall end with it."""
    needNamespaces()
    hall = Hall(tmp_path)
    jobs = []

    def interrupted() -> None:
        with hall:
            jobs.append(hall.host("c1").start(["sleep", "600"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert hall.tag not in ip("netns", "list")
    assert [job.process.poll() is None for job in jobs] == [False]


def test_sweep() -> None:
    """What a killed run has left is removed, what belongs to a living one is not."""
    needNamespaces()
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    dead, alive = f"{PREFIX}{limit + 1}-1-switch", f"{PREFIX}{os.getpid()}-0-switch"
    ip("netns", "add", dead)
    ip("netns", "add", alive)
    sweep()
    left = ip("netns", "list")
    ip("netns", "del", alive)
    assert dead not in left
    assert alive in left
