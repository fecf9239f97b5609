"""curl, which asks for tsize, blksize and timeout whatever it does."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import SIZES, Shelf
from tests.support.lab.clients import SERVER, curl
from tests.support.lab.hall import Hall, Host
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

NOT_FOUND, NO_ACCESS = 68, 69
"""Exit statuses of curl for TFTP's errors 1 and 2."""


@pytest.fixture(scope="module")
def client(hall: Hall, serve: Serve) -> Host:
    need("curl")
    serve(tftp={"port": 69, "interface": SERVER})
    return hall.clients(1)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [(), ("--tftp-blksize", "1428")], ids=["512", "1428"])
def test_get(client: Host, shelf: Shelf, size: int, options: tuple[str, ...]) -> None:
    """A file of any size arrives whole, the empty one too, for which curl bears no size."""
    name = shelf.sized(size)
    result = curl.get(client, name, *options).result()
    assert (result.code, result.data or b"") == (0, shelf[name]), result.text


@pytest.mark.parametrize("size", SIZES)
def test_put(hall: Hall, client: Host, shelf: Shelf, size: int) -> None:
    """A new file of any size is stored whole."""
    data = shelf[shelf.sized(size)]
    result = curl.put(client, f"create/{size}", data).result()
    assert (result.code, (hall.folder / "create" / str(size)).read_bytes()) == (0, data), result.text


def test_missing(client: Host) -> None:
    """A file that is not there is told at once, as what it is."""
    result = curl.get(client, "not-there").result()
    assert (result.code, result.data) == (NOT_FOUND, None), result.text
    assert result.seconds < 3


def test_forbidden(client: Host, shelf: Shelf) -> None:
    """A write outside the directories for uploads is refused at once, and the file that is served there stays."""
    name = shelf.sized(512)
    result = curl.put(client, name, b"new").result()
    assert result.code in (NOT_FOUND, NO_ACCESS), result.text
    assert result.seconds < 3
    assert (shelf.root / name).read_bytes() == shelf[name]
