"""Many machines at once."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER, atftp
from tests.support.lab.hall import Hall
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]


@pytest.fixture(scope="module", autouse=True)
def castd(serve: Serve) -> None:
    need("atftp")
    serve(tftp={"port": 69, "interface": SERVER})


def test_sixteen(hall: Hall, shelf: Shelf) -> None:
    """Sixteen machines that ask in the same moment all get the file."""
    name = shelf.sized(1024 * 1024)
    transfers = [atftp.get(client, name, "blksize 1428") for client in hall.clients(16)]
    results = [transfer.result(60) for transfer in transfers]
    assert [result.data == shelf[name] for result in results] == [True] * 16


def test_mixed(hall: Hall, shelf: Shelf) -> None:
    """Sixteen machines that read, write and ask for what is not there, all at once, each get their own answer."""
    small, large = shelf.sized(100_000), shelf.sized(1024 * 1024)
    clients = hall.clients(16)
    reads = [atftp.get(client, name) for client, name in zip(clients[:8], [small, large] * 4, strict=True)]
    writes = [atftp.put(client, f"create/{client.name}", shelf[small]) for client in clients[8:12]]
    misses = [atftp.get(client, "not-there") for client in clients[12:]]
    assert [read.result(60).data for read in reads] == [shelf[small], shelf[large]] * 4
    assert [write.result(60).code for write in writes] == [0] * 4
    stored = [(hall.folder / "create" / client.name).read_bytes() for client in clients[8:12]]
    assert stored == [shelf[small]] * 4
    assert all(miss.result().code != 0 for miss in misses)
