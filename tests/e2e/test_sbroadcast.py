"""IBM's subnet broadcast over real wires, with castd's own receiving half: no other client is to be had."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Serve
from tests.support.jobs import Job, atOnce
from tests.support.lab.castd import TREE, Shelf
from tests.support.lab.clients import SERVER, curl
from tests.support.lab.hall import Hall, Host, ip
from tests.support.lab.wires import lossy
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

CLIENT = Path(__file__).parents[1] / "support" / "clients" / "sbroadcast_get.py"
SIZE = 1 << 20
SECONDS = 90.0
FAR, FAR_SERVER = "10.78.0.9", "10.78.0.1"


@pytest.fixture(scope="module", autouse=True)
def far(hall: Hall, serve: Serve) -> Host:
    """A machine on the server's other wire, 10.78.0.0/16; and castd, at both."""
    server = hall.hosts["server"]
    netns = f"{hall.tag}-far"
    hall.addNamespace(netns)
    ip(
        netns=server.netns,
        batch=[
            f"link add eth1 type veth peer name eth0 netns {netns}",
            f"addr add {FAR_SERVER}/16 brd + dev eth1",
            "link set eth1 up",
        ],
    )
    ip(netns=netns, batch=[f"addr add {FAR}/16 brd + dev eth0", "link set eth0 up"])
    serve(
        sbroadcast={"port": 69, "subnets": ["10.77.0.0/16", "10.78.0.0/16"]},
        tftp={"port": 69},
    )
    return Host(hall, "far", netns, (FAR,))


def get(name: str, *hosts: Host, server: str = SERVER, mask: str = "255.255.0.0") -> list[tuple[Job, Path]]:
    """
    Have these hosts ask for a file at once: for one that asked after the gathering the start would be sent again.
    """
    jobs = []
    for host in hosts:
        copy = host.folder / "copy"
        copy.unlink(missing_ok=True)
        words = [sys.executable, str(CLIENT), server, mask, name, str(copy)]
        jobs.append((host.start(words, cwd=TREE, env={"PYTHONPATH": str(TREE)}), copy))
    atOnce([job for job, _ in jobs], SECONDS)
    return jobs


def heard(netns: str, device: str) -> int:
    """Octets that an interface has received."""
    (shown,) = json.loads(ip("-s", "-j", "link", "show", device, netns=netns))
    return int(shown["stats64"]["rx"]["bytes"])


@pytest.mark.parametrize("percent", [0, 1])
@pytest.mark.parametrize("count", [1, 3])
def test_together(hall: Hall, shelf: Shelf, far: Host, count: int, percent: float) -> None:
    """
    All who ask have the file, sent little more than once, to the broadcast address of their subnet: one who never
    asked has it on his wire, and the server's other wire has nothing of it.
    """
    name, data = shelf.sized(SIZE), shelf[shelf.sized(SIZE)]
    clients, bystander = hall.clients(4)[:count], hall.clients(4)[3]
    server = hall.hosts["server"]
    sent, overheard, elsewhere = server.counters(), bystander.counters(), heard(far.netns, "eth0")
    with contextlib.ExitStack() as life:
        if percent:
            need("nft")
            loss = life.enter_context(lossy(hall, [client.name for client in clients], percent))
        for job, copy in get(name, *clients):
            done = job.finish(SECONDS)
            assert done.code == 0, done.text
            assert copy.read_bytes() == data
    assert percent == 0 or loss.lost > 0
    assert server.counters().since(sent).sentOctets < (1.10 if not percent else 1.3) * SIZE
    assert bystander.counters().since(overheard).heardOctets > SIZE
    assert heard(far.netns, "eth0") - elsewhere < SIZE / 100


def test_otherWire(hall: Hall, shelf: Shelf, far: Host) -> None:
    """Who is on the server's other wire has it from there, and the first wire is left alone."""
    name = shelf.sized(SIZE)
    bystander = hall.clients(4)[3]
    before = bystander.counters()
    ((job, copy),) = get(name, far, server=FAR_SERVER)
    assert job.finish(SECONDS).code == 0, job.text()
    assert copy.read_bytes() == shelf[name]
    assert bystander.counters().since(before).heardOctets < SIZE / 100


def test_otherMask(hall: Hall, shelf: Shelf) -> None:
    """A mask that the service file does not know is served by unicast, as are those who ask for no broadcast."""
    name = shelf.sized(SIZE)
    clients, bystander = hall.clients(4)[:2], hall.clients(4)[3]
    before = bystander.counters()
    ((job, copy),) = get(name, clients[0], mask="255.255.255.0")
    plain = curl.get(clients[1], name, "--tftp-blksize", "1428")
    assert job.finish(SECONDS).code == 0, job.text()
    assert copy.read_bytes() == shelf[name] == plain.result().data
    assert bystander.counters().since(before).heardOctets < SIZE / 100


def test_nobodyHears(hall: Hall, shelf: Shelf) -> None:
    """Where no broadcast gets through, all go on by unicast, at port 247 where they listen."""
    need("nft")
    name = shelf.sized(SIZE)
    clients = hall.clients(9)[4:]
    with lossy(hall, [client.name for client in clients], 100, "to", "ip daddr 10.77.255.255") as loss:
        for job, copy in get(name, *clients):
            assert job.finish(SECONDS).code == 0, job.text()
            assert copy.read_bytes() == shelf[name]
        assert loss.dropped() > 0
