"""SLAM over real sockets: clients after Etherboot and iPXE that share no code with castd, and castd's own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve
from tests.support.jobs import Job, atOnce
from tests.support.lab.castd import TREE, Shelf, command
from tests.support.lab.clients import SERVER, atftp
from tests.support.lab.hall import Hall, Host
from tests.support.lab.wires import lossy
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

CLIENT = Path(__file__).parents[1] / "support" / "clients" / "slam_client.py"
SIZE = 1024 * 1024
SECONDS = 120.0


def start(host: Host, kind: str, port: int = 10000, seed: int = 0, *more: str) -> Job:
    """A client begins; the group is 239.255.1.1, at the port of the server's number."""
    words = [sys.executable, str(CLIENT), "--kind", kind, "--server", f"{SERVER}:{port}", "--seed", str(seed)]
    words += ["--group", f"239.255.1.1:{port}", "--interface", host.addresses[0], "--limit", str(SECONDS)]
    return host.start([*words, *more])


def get(host: Host, port: int = 10000) -> tuple[Job, Path]:
    """castd's own client begins."""
    copy = host.folder / f"copy-{port}"
    copy.unlink(missing_ok=True)
    url = f"slam://{SERVER}:{port}/239.255.1.1:{port}"
    return host.start([*command(), "get", "-o", str(copy), url], cwd=TREE), copy


def result(job: Job) -> dict[str, Any]:
    """What came of it, as the client tells."""
    text = job.finish(SECONDS + 10).text
    told: dict[str, Any] = json.loads(text.splitlines()[-1])
    return told


def digest(shelf: Shelf, name: str) -> str:
    return hashlib.sha256(shelf[name]).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def castd(serve: Serve, shelf: Shelf) -> None:
    name = shelf.sized(SIZE)
    serve(
        slam={"port": 10000, "file": name, "interface": SERVER},
        other={
            "use": "slam",
            "port": 10001,
            "file": shelf.sized(100_000),
            "interface": SERVER,
            "group": "239.255.1.1:10001",
        },
        anywhere={"use": "slam", "port": 10002, "file": shelf.sized(100_000), "group": "239.255.1.1:10002"},
        tftp={"port": 69, "interface": SERVER},
    )


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("kinds", ["ipxe", "etherboot", "mixed"])
def test_atOnce(hall: Hall, shelf: Shelf, kinds: str, count: int) -> None:
    """All who begin in the same moment have the file, and it went over the wire about once."""
    server = hall.hosts["server"]
    before = server.counters()
    names = ["ipxe", "etherboot"] if kinds == "mixed" else [kinds]
    hosts = enumerate(hall.clients(count))
    jobs = [start(host, names[number % len(names)], 10000, number, "--wait") for number, host in hosts]
    atOnce(jobs, SECONDS)
    results = [result(job) for job in jobs]
    assert [each["sha256"] for each in results] == [digest(shelf, f"size-{SIZE}")] * count, results
    assert all(not each["failed"] and not each["resets"] for each in results)
    sent = server.counters().since(before).sentOctets
    assert sent <= 1.10 * SIZE, "the floor is 1.037, with a question for every four blocks 1.046"


@pytest.mark.parametrize("percent", [1, 5, 20])
@pytest.mark.parametrize("count", [1, 4, 16])
def test_lossy(hall: Hall, shelf: Shelf, count: int, percent: float) -> None:
    """With datagrams lost both ways everybody still has the file in the end; half are iPXE, half Etherboot."""
    name = f"size-{100_000}"
    hosts = hall.clients(count)
    with lossy(hall, [host.name for host in hosts], percent) as loss:
        kinds = ["ipxe", "etherboot"]
        jobs = [start(host, kinds[number % 2], 10001, number) for number, host in enumerate(hosts)]
        results = [result(job) for job in jobs]
    assert [each["sha256"] for each in results] == [digest(shelf, name)] * count, results
    assert loss.lost > 0 or percent < 5


@pytest.mark.parametrize("percent", [0, 5])
@pytest.mark.parametrize("count", [1, 4])
def test_castdGet(hall: Hall, shelf: Shelf, count: int, percent: float) -> None:
    """castd's own client fetches it, with another kind in the same group and with loss."""
    size = 100_000
    hosts = hall.clients(count + 1)
    with lossy(hall, [host.name for host in hosts], percent) if percent else contextlib.nullcontext():
        copies = [get(host, 10001) for host in hosts[1:]]
        assert result(start(hosts[0], "ipxe", 10001))["sha256"] == digest(shelf, f"size-{size}")
        for job, copy in copies:
            done = job.finish(SECONDS)
            assert done.code == 0, done.text
            assert copy.read_bytes() == shelf[f"size-{size}"]


def test_onTheServerItself(hall: Hall, shelf: Shelf) -> None:
    """A receiver on the server's own machine is served beside others, and the server does not hear itself."""
    server = hall.hosts["server"]
    jobs = [start(server, "ipxe"), start(hall.clients(1)[0], "etherboot")]
    results = [result(job) for job in jobs]
    assert [each["sha256"] for each in results] == [digest(shelf, f"size-{SIZE}")] * 2, results
    assert all(not each["resets"] for each in results)


@pytest.mark.parametrize("port", [10001, 10002])
def test_castdGetOnTheServerItself(hall: Hall, shelf: Shelf, port: int) -> None:
    """castd's client on the server's machine binds the group's port, which has the number of the server's own."""
    job, copy = get(hall.hosts["server"], port)
    done = job.finish(SECONDS)
    assert done.code == 0, done.text
    assert copy.read_bytes() == shelf["size-100000"]


@pytest.mark.parametrize("kind", ["ipxe", "etherboot"])
def test_anyInterface(hall: Hall, shelf: Shelf, kind: str) -> None:
    """A transport that listens at all addresses answers from the one that was asked, and its group is heard as well."""
    assert result(start(hall.clients(1)[0], kind, 10002))["sha256"] == digest(shelf, "size-100000")


def test_besideUnicast(hall: Hall, shelf: Shelf) -> None:
    """Two groups and plain TFTP at the same time do not disturb each other."""
    need("atftp")
    hosts = hall.clients(12)
    slam = [start(host, "ipxe", seed=number) for number, host in enumerate(hosts[:4])]
    other = [start(host, "etherboot", 10001, number) for number, host in enumerate(hosts[4:6])]
    plain = [atftp.get(host, f"size-{SIZE}", "blksize 1428", "windowsize 16") for host in hosts[6:]]
    assert [result(job)["sha256"] for job in slam] == [digest(shelf, f"size-{SIZE}")] * 4
    assert [result(job)["sha256"] for job in other] == [digest(shelf, "size-100000")] * 2
    assert all(each.result(60).data == shelf[f"size-{SIZE}"] for each in plain)
