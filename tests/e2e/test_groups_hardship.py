"""Real clients in groups of which some hear nothing, or no more, or stall: all are served, and others hardly wait."""

from __future__ import annotations

import contextlib
import sys
import time

import pytest

from tests.e2e.conftest import Serve
from tests.support.jobs import Job
from tests.support.lab.castd import Server, Shelf
from tests.support.lab.clients import SERVER, Transfer, atftp
from tests.support.lab.hall import Hall, Host
from tests.support.lab.wires import deafening, losing, lossy
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

#: What a switch drops that has forgotten a member, or never knew it.
GROUPS = "ip daddr 239.0.0.0/8"
ASKED = ("multicast", "blksize 1428")

#: A machine with eight ports that asks for one block after the other, each 0.9 s after the one before.
EIGHT_PORTS = """
import select, socket, sys, time
name, server = sys.argv[1:]
ports = {}
for _ in range(8):
    port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port.sendto(b"\\0\\1" + name.encode() + b"\\0octet\\0blksize\\0001428\\0multicast\\0\\0", (server, 69))
    ports[port] = [None, 0, None]  # its transfer id, the number of its next ACK, and when that is due
while True:
    for port in select.select(list(ports), [], [], 0.02)[0]:
        datagram, tid = port.recvfrom(2000)
        if datagram[:2] == b"\\0\\6" and b",1\\0" in datagram:
            ports[port] = [tid, ports[port][1], time.monotonic()]
        elif datagram[:2] == b"\\0\\6":
            ports[port][2] = None
    for port, state in ports.items():
        if state[2] is not None and time.monotonic() >= state[2]:
            port.sendto(b"\\0\\4" + state[1].to_bytes(2, "big"), state[0])
            state[1:] = [state[1] + 1, time.monotonic() + 0.9]
"""


@pytest.fixture(scope="module", autouse=True)
def castd(serve: Serve) -> Server:
    need("nft", "atftp")
    return serve(
        multicast={"port": 69, "interface": SERVER, "groups": "239.255.32.0/24"},
        tftp={"port": 69, "interface": SERVER},
    )


def begin(hosts: list[Host], name: str) -> list[Transfer]:
    return [atftp.get(host, name, *ASKED) for host in hosts]


def ends(transfers: list[Transfer], wanted: bytes) -> list[float]:
    """Return how many seconds each has taken; all have the file."""
    results = [transfer.result(60) for transfer in transfers]
    assert [result.data == wanted for result in results] == [True] * len(results), [each.text for each in results]
    return [result.seconds for result in results]


def cost(hall: Hall, before: int, size: int) -> float:
    """Return octets at the server's wire for each octet of the file."""
    return (hall.hosts["server"].counters().sentOctets - before) / size


@pytest.mark.parametrize("deaf", [1, 4, 8])
def test_someHearNoMore(hall: Hall, shelf: Shelf, deaf: int) -> None:
    """
    In mid-transfer a switch drops the group on the way to some of eight: all get the file, by unicast if need be.

    How long the others wait is a matter of virtual time: tests/test_groups_hardship.py.
    """
    name = shelf.sized(8 << 20)
    hosts = hall.clients(8)
    with deafening(hall, [host.name for host in hosts[:deaf]], after=2 << 20) as loss:
        ends(begin(hosts, name), shelf[name])
        assert loss.dropped() > 0


def test_twoDeafMachinesAskFirst(hall: Hall, shelf: Shelf, castd: Server) -> None:
    """Two that hear nothing ask first: the file goes out three times, and once when the others ask alone."""
    size = 2 << 20
    name = shelf.sized(size)
    first, others = hall.clients(16)[14:], hall.clients(14)
    before = hall.hosts["server"].counters().sentOctets
    with lossy(hall, [host.name for host in first], 100, "to", GROUPS):
        transfers = begin(first, name)
        time.sleep(0.05)
        ends([*transfers, *begin(others, name)], shelf[name])
    assert cost(hall, before, size) <= 3.3
    assert [calledDeaf(castd, host) for host in others] == [False] * 14
    before = hall.hosts["server"].counters().sentOctets
    ends(begin(others, name), shelf[name])
    assert cost(hall, before, size) <= 1.15


def calledDeaf(castd: Server, host: Host) -> bool:
    """Return whether the log calls this machine deaf."""
    lines = [line for line in castd.log().splitlines() if "hears no multicast" in line]
    return any(f"{host.addresses[0]}:" in line for line in lines)


def test_firstAnswersAreLost(hall: Hall, shelf: Shelf) -> None:
    """The first OACK of three of eight is lost: it comes again before the first block, and the file goes out once."""
    size = 2 << 20
    name = shelf.sized(size)
    hosts = hall.clients(8)
    before = hall.hosts["server"].counters().sentOctets
    with contextlib.ExitStack() as life:
        for host in hosts[1:4]:
            life.enter_context(losing(hall, host.name, "to", 1))
        ends(begin(hosts, name), shelf[name])
    assert cost(hall, before, size) < 1.2


def test_oneMachineWithEightPorts(hall: Hall, shelf: Shelf) -> None:
    """A machine with eight ports that stalls as long as the rules allow holds the others for some seconds only."""
    name = shelf.sized(1 << 20)
    hosts = hall.clients(5)
    stalling: Job = hosts[4].start([sys.executable, "-c", EIGHT_PORTS, name, SERVER])
    try:
        time.sleep(0.1)
        seconds = ends(begin(hosts[:4], name), shelf[name])
    finally:
        stalling.end()
    assert max(seconds) < 30
