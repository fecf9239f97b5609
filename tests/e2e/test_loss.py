"""Lossy wires, in both directions: every octet arrives, and nobody waits for the server."""

from __future__ import annotations

import contextlib

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER, Client, atftp, busybox, curl, hasty, hpa
from tests.support.lab.hall import Hall
from tests.support.lab.wires import losing, lossy
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

SIZES = {1: 1 << 20, 5: 1 << 19}
BOUND = {1: 20, 5: 30}
"""
Octets, and the seconds they may take, by the percentage lost.

What takes so long are the clients: tftp-hpa waits five seconds for a lost request, and curl's timeout of six holds on
both sides until the first block is acknowledged.  A server that waited one second for each lost packet would need 15
and 37, in the blocks of tftp-hpa 40 and 100.
"""

BLOCKS = {hasty: ("blksize 1428",), curl: ("--tftp-blksize", "1428"), hpa: (), busybox: ("-b1428",)}


@pytest.fixture(scope="module", autouse=True)
def castd(serve: Serve) -> None:
    need("nft")
    serve(tftp={"port": 69, "interface": SERVER})


@pytest.mark.parametrize("percent", [1, 5])
@pytest.mark.parametrize("client", BLOCKS, ids=lambda client: client.program[0])
def test_get(hall: Hall, shelf: Shelf, client: Client, percent: int) -> None:
    """A file arrives whole, and soon, though packets of both directions are lost."""
    need(client.program[0])
    name = shelf.sized(SIZES[percent])
    (host,) = hall.clients(1)
    with lossy(hall, [host.name], percent) as loss:
        result = client.get(host, name, *BLOCKS[client]).result(60)
        assert loss.dropped() > 0
    assert result.data == shelf[name], result.text
    assert result.seconds < BOUND[percent]


@pytest.mark.parametrize("percent", [1, 5])
def test_window(hall: Hall, shelf: Shelf, percent: int) -> None:
    """Windows mend themselves: only what follows a gap is sent again."""
    need("atftp")
    name = shelf.sized(SIZES[percent])
    (host,) = hall.clients(1)
    before = host.counters()
    with lossy(hall, [host.name], percent, match="@th,64,16 != 1") as loss:
        result = hasty.get(host, name, "blksize 1428", "windowsize 8").result(60)
        assert loss.dropped() > 0
    assert result.data == shelf[name], result.text
    assert host.counters().since(before).heard < 2 * SIZES[percent] // 1428
    assert result.seconds < BOUND[percent]


@pytest.mark.parametrize("percent", [1, 5])
def test_put(hall: Hall, shelf: Shelf, percent: int) -> None:
    """An upload is stored whole."""
    need("curl")
    data = shelf[shelf.sized(SIZES[percent])]
    (host,) = hall.clients(1)
    with lossy(hall, [host.name], percent, match="@th,64,16 != 2") as loss:
        result = curl.put(host, f"create/{percent}", data, "--tftp-blksize", "1428").result(60)
        assert loss.dropped() > 0
    assert result.code == 0, result.text
    assert (hall.folder / "create" / str(percent)).read_bytes() == data


FILE = 4  # blocks
PUTS = {
    (curl, 512): (),
    (curl, 1428): ("--tftp-blksize", "1428"),
    (atftp, 512): (),
    (atftp, 1428): ("blksize 1428",),
    (hpa, 512): (),
    (busybox, 1428): ("-b1428",),
}
"""Clients and blocks, with the words for them."""


@pytest.mark.parametrize(("client", "blksize"), PUTS, ids=lambda value: getattr(value, "program", [value])[0])
def test_putEach(hall: Hall, shelf: Shelf, client: Client, blksize: int) -> None:
    """
    Each datagram of an upload is lost once, and the first ones in pairs: the upload ends well all the same.

    curl itself waits 73 s for any answer but its first, so it is the server that mends all that comes later.
    """
    need(client.program[0], "nft")
    data = shelf[shelf.sized(blksize * FILE - 100)]
    name = f"create/{client.program[0]}-{blksize}"
    lost = [[(way, n)] for way in ("from", "to") for n in range(1, FILE + 2)]
    lost += [[("to", 1), ("from", 2)], [("from", 2), ("to", 2)], [("from", 1), ("to", 1)]]
    hosts = hall.clients(len(lost))
    with contextlib.ExitStack() as life:
        losses = [
            life.enter_context(losing(hall, host.name, way, n))
            for host, each in zip(hosts, lost, strict=True)
            for way, n in each
        ]
        options = PUTS[client, blksize]
        transfers = [client.put(host, f"{name}-{host.name}", data, *options) for host in hosts]
        results = [transfer.result(40) for transfer in transfers]
        assert [loss.dropped() for loss in losses] == [1] * len(losses)
    assert [result.code for result in results] == [0] * len(lost), [result.text for result in results]
    for host in hosts:
        assert (hall.folder / f"{name}-{host.name}").read_bytes() == data


@pytest.mark.parametrize("client", BLOCKS, ids=lambda client: client.program[0])
def test_getEach(hall: Hall, shelf: Shelf, client: Client) -> None:
    """Each datagram of a download is lost once, and it ends well all the same."""
    need(client.program[0], "nft")
    size = 512 if client is hpa else 1428
    name = shelf.sized(size * FILE - 100)
    lost = [(way, n) for way in ("from", "to") for n in range(1, FILE + 2)]
    hosts = hall.clients(len(lost))
    with contextlib.ExitStack() as life:
        for host, (way, n) in zip(hosts, lost, strict=True):
            life.enter_context(losing(hall, host.name, way, n))
        transfers = [client.get(host, name, *BLOCKS[client]) for host in hosts]
        results = [transfer.result(30) for transfer in transfers]
    assert [result.data == shelf[name] for result in results] == [True] * len(lost), [r.text for r in results]
