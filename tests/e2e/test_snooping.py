"""A switch that forwards groups to their members only, as in server rooms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER, atftp
from tests.support.lab.hall import Hall
from tests.support.needs import need, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root]


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """As everywhere, but its switch listens to who joins what."""
    needNamespaces()
    with Hall(tmp_path_factory.mktemp("hall"), snooping=True) as hall:
        hall.host("server", SERVER)
        hall.snoops()
        yield hall


def test_members(hall: Hall, serve: Serve, shelf: Shelf) -> None:
    """Four atftp join and get the file; nobody else's wire carries it."""
    need("atftp")
    serve(
        multicast={"port": 69, "interface": SERVER, "groups": "239.255.32.0/24", "blksize": 1428},
        tftp={"port": 69, "interface": SERVER},
    )
    name = shelf.sized(1 << 20)
    *members, other = hall.clients(5)
    before = other.counters()
    transfers = [atftp.get(client, name, "multicast", "blksize 1428") for client in members]
    assert [transfer.result().data == shelf[name] for transfer in transfers] == [True] * 4
    assert other.counters().since(before).heardOctets < 100_000
