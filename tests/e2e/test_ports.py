"""Ports for firewalls: all transfers on one, or each within a range."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER, atftp, curl
from tests.support.lab.hall import Hall
from tests.support.lab.wires import NEEDS, Capture, capturing
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SINGLE, RANGED = 69, 6969
RANGE = range(30000, 30101)


@pytest.fixture(scope="module", autouse=True)
def castd(serve: Serve) -> None:
    need("atftp", "curl", *NEEDS)
    serve(
        tftp={"port": SINGLE, "interface": SERVER, "single-port": True},
        ranged={"use": "tftp", "port": RANGED, "interface": SERVER, "ports": f"{RANGE.start}-{RANGE.stop - 1}"},
    )


def spoken(capture: Capture, asked: int) -> set[int]:
    """
    The ports from which the server has sent to those who asked at this one.  Others were there before: the last ACK of
    an upload is said again after a second.
    """
    asking = set(capture.rows("ip.src", "udp.srcport", where=f"ip.dst == {SERVER} && udp.dstport == {asked}"))
    sent = capture.rows("udp.srcport", "ip.dst", "udp.dstport", where=f"ip.src == {SERVER} && udp")
    return {int(port) for port, *peer in sent if tuple(peer) in asking}


def test_singlePort(hall: Hall, shelf: Shelf) -> None:
    """Two readers and a writer at once, all on the port that they asked, are told apart."""
    name = shelf.sized(1024 * 1024)
    first, second, third = hall.clients(3)
    with capturing(hall, "server") as capture:
        reads = [atftp.get(first, name), curl.get(second, name)]
        write = curl.put(third, "create/single", shelf[name])
        assert [read.result().data == shelf[name] for read in reads] == [True, True]
        assert write.result().code == 0
    assert (hall.folder / "create" / "single").read_bytes() == shelf[name]
    assert spoken(capture, SINGLE) == {SINGLE}


def test_singlePortWindow(hall: Hall, shelf: Shelf) -> None:
    """Windows work on the one port as well."""
    name = shelf.sized(1024 * 1024)
    (client,) = hall.clients(1)
    result = atftp.get(client, name, "blksize 1428", "windowsize 16").result()
    assert result.data == shelf[name]


def test_range(hall: Hall, shelf: Shelf) -> None:
    """The ports of transfers, readings and writings, are all of the range."""
    name = shelf.sized(100_000)
    first, second, third = hall.clients(3)
    with capturing(hall, "server") as capture:
        reads = [atftp.get(first, name, port=RANGED), curl.get(second, name, port=RANGED)]
        write = curl.put(third, "create/ranged", shelf[name], port=RANGED)
        assert [read.result().data == shelf[name] for read in reads] == [True, True]
        assert write.result().code == 0
    assert (hall.folder / "create" / "ranged").read_bytes() == shelf[name]
    ports = spoken(capture, RANGED)
    assert ports
    assert ports <= set(RANGE)
