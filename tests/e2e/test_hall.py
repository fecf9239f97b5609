"""The hall itself: a test about losses proves nothing on a wire that loses nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.jobs import Job
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import PREFIX, Hall, Host, ip, sweep
from tests.support.lab.wires import lossy
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
