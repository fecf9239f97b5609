"""BusyBox's tftp: takes data from nobody but the address and port of the first answer."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import SIZES, Shelf
from tests.support.lab.clients import SERVER, busybox
from tests.support.lab.hall import Hall, Host
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]


@pytest.fixture(scope="module")
def client(hall: Hall, serve: Serve) -> Host:
    need("busybox")
    serve(tftp={"port": 69, "interface": SERVER})
    return hall.clients(1)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [(), ("-b1428",)], ids=["512", "1428"])
def test_get(client: Host, shelf: Shelf, size: int, options: tuple[str, ...]) -> None:
    """A file of any size arrives whole; asked for a block size, the answer has it, for BusyBox insists."""
    name = shelf.sized(size)
    result = busybox.get(client, name, *options).result()
    assert (result.code, result.data) == (0, shelf[name]), result.text


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [(), ("-b1428",)], ids=["512", "1428"])
def test_put(hall: Hall, client: Host, shelf: Shelf, size: int, options: tuple[str, ...]) -> None:
    """A new file of any size is stored whole, in blocks of either size."""
    data, name = shelf[shelf.sized(size)], f"{size}{''.join(options)}"
    result = busybox.put(client, f"create/{name}", data, *options).result()
    assert (result.code, (hall.folder / "create" / name).read_bytes()) == (0, data), result.text


def test_missing(client: Host) -> None:
    """A file that is not there is told at once."""
    result = busybox.get(client, "not-there").result()
    assert result.code != 0
    assert "server error: (1)" in result.text
    assert result.seconds < 3
