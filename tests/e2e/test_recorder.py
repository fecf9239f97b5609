"""A real transfer that fails leaves a capture in which tshark sees what went over the wire, and why it failed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.captures import byTshark
from tests.support.jobs import eventually
from tests.support.lab.castd import Server, Shelf, command
from tests.support.lab.clients import SERVER, curl, hasty
from tests.support.lab.hall import Hall
from tests.support.lab.wires import lossy
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

RRQ, WRQ, DATA, ACK, ERROR, OACK = "123456"


@pytest.fixture
def folder(hall: Hall) -> Path:
    """The folder of captures, empty."""
    for each in (hall.folder / "captures").iterdir():
        each.unlink()
    return hall.folder / "captures"


@pytest.fixture(scope="module", autouse=True)
def castd(hall: Hall, shelf: Shelf) -> Iterator[Server]:
    need("tshark", "nft", "atftp", "curl")
    for name in ("up", "captures"):
        (hall.folder / name).mkdir()
    server = Server(
        hall.hosts["server"],
        {
            "castd": 1,
            "content": [{"directory": {"path": str(shelf.root)}}],
            "uploads": [{"directory": {"path": str(hall.folder / "up")}}],
            "access": [{"allow": "any"}],
            "limits": {"drain": "1 s"},
            "control": {"path": str(hall.folder / "control")},
            "recorder": {"directory": str(hall.folder / "captures")},
            "transports": {
                "multicast": {"port": 69, "interface": SERVER, "groups": "239.255.32.0/24", "silence": "2 s"},
                "tftp": {"port": 69, "interface": SERVER, "silence": "2 s"},
                "six": {"use": "tftp", "port": 69, "interface": "fd77::1", "silence": "2 s"},
            },
        },
    )
    yield server
    server.stop()


def captureOf(folder: Path, address: str) -> Path:
    """Return the first capture of a client, once it is written."""
    pattern = f"*-{address.replace(':', '_')}-*"
    return eventually(
        lambda: min((each for each in folder.glob(pattern) if each.stat().st_size), default=None),
        f"a capture of {address}",
        60,
    )


def packets(path: Path) -> list[tuple[str, str, str, str]]:
    """Return source, destination, opcode and block number of each packet."""
    rows = byTshark(path, "ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "tftp.opcode", "tftp.block")
    return [(row[0] or row[1], row[2] or row[3], row[4], row[5]) for row in rows]


def faults(path: Path) -> list[tuple[str, ...]]:
    """Return what tshark finds wrong: broken packets, wrong sums."""
    rows = byTshark(path, "_ws.malformed", "ip.checksum.status", "udp.checksum.status", "udp.checksum.zero")
    return [row for row in rows if row[0] or row[1] == "0" or row[2] == "0" or row[3]]


@pytest.mark.parametrize("server", [SERVER, "fd77::1"])
def test_get(hall: Hall, shelf: Shelf, folder: Path, server: str) -> None:
    """The server loses all ACKs from the eleventh on: request, OACK, blocks and ACKs up to there, repetitions."""
    name = shelf.sized(1 << 18)
    (host,) = hall.clients(1)
    address = host.addresses[":" in server]
    with lossy(hall, [host.name], 100, ways="from", match="@th,64,16 4 @th,80,16 > 10"):
        client = hasty.get(host, name, "blksize 1428", server=server)
        path = captureOf(folder, address)
        client.job.end()
    seen = packets(path)
    expected = [(address, server, RRQ, ""), (server, address, OACK, ""), (address, server, ACK, "0")]
    for number in range(1, 11):
        expected += [(server, address, DATA, str(number)), (address, server, ACK, str(number))]
    assert seen[: len(expected)] == expected
    assert set(seen[len(expected) :]) - {(address, server, ACK, "10")} == {(server, address, DATA, "11")}
    assert faults(path) == []
    *_, (comment,) = byTshark(path, "frame.comment")
    assert address in comment
    assert f"{name}: the client fell silent" in comment


def test_put(hall: Hall, folder: Path) -> None:
    """The server loses all blocks from the eleventh on, then the client ends: what there was up to there, and why."""
    (host,) = hall.clients(1)
    with lossy(hall, [host.name], 100, ways="from", match="@th,64,16 3 @th,80,16 > 10") as loss:
        client = curl.put(host, "new", bytes(100_000), "--tftp-blksize", "1428")
        eventually(loss.dropped, "the eleventh block", 20)
        client.job.end()
        path = captureOf(folder, host.addresses[0])
    seen = packets(path)
    assert [each[2:] for each in seen[:2]] == [(WRQ, ""), (OACK, "")]
    assert [each[3] for each in dict.fromkeys(seen) if each[2] == DATA] == [str(number) for number in range(1, 11)]
    assert [each[3] for each in dict.fromkeys(seen) if each[2] == ACK] == [str(number) for number in range(1, 11)]
    assert faults(path) == []
    *_, (comment,) = byTshark(path, "frame.comment")
    assert "wrote new: the client's port is closed" in comment


def record(hall: Hall, *words: str) -> Any:
    output = hall.folder / "recorded.pcapng"
    job = hall.hosts["server"].start(
        [*command(), "record", "--control", str(hall.folder / "control"), "-o", str(output), *words]
    )
    return job, output


def test_record(hall: Hall, shelf: Shelf) -> None:
    """Asked for the packets of one machine in some seconds, castd gives those of a transfer that succeeds meanwhile."""
    name = shelf.sized(20_000)
    host, other = hall.clients(2)
    job, output = record(hall, "--client", host.addresses[0], "--seconds", "4")
    eventually(output.exists, "castd record to begin", 20)
    results = [hasty.get(each, name, "blksize 1428").result() for each in (host, other)]
    assert [each.data for each in results] == [shelf[name]] * 2
    assert job.finish(30).code == 0, job.text()
    seen = packets(output)
    assert {host.addresses[0], SERVER} == {each[0] for each in seen} == {each[1] for each in seen}
    assert [each[2:] for each in seen[:4]] == [(RRQ, ""), (OACK, ""), (ACK, "0"), (DATA, "1")]
    assert seen[-1][2:] == (ACK, "15")
    assert faults(output) == []


def test_group(hall: Hall, shelf: Shelf, folder: Path) -> None:
    """
    A member of a group that ends in the middle of it: what was sent to the group is in its capture, and nothing of
    others.  Its host reports its port as closed when it loses its turn: of one that is only silent castd does not know
    whether it has received everything, once that was sent.
    """
    name = shelf.sized(1 << 20)
    host, other = hall.clients(2)
    address = host.addresses[0]
    with lossy(hall, [host.name], 100, ways="from", match="@th,64,16 4 @th,80,16 > 10"):
        silent = hasty.get(host, name, "multicast", "blksize 1428")
        hears = hasty.get(other, name, "multicast", "blksize 1428")
        time.sleep(1)  # it waits for block 12
        silent.job.end()
        path = captureOf(folder, address)
        assert hears.result(60).data == shelf[name]
    seen = packets(path)
    assert {each[0] for each in seen} == {address, SERVER}
    assert {each[1].rpartition(".")[0] for each in seen} >= {"239.255.32"}
    assert other.addresses[0] not in {each[1] for each in seen}
    assert (RRQ, "") in [each[2:] for each in seen]
    assert faults(path) == []
