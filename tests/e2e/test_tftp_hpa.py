"""tftp-hpa's client, which has no options: blocks of 512, netascii, and numbers that roll over."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import ROLLOVER, SIZES, Shelf
from tests.support.lab.clients import SERVER, hpa, hpaText
from tests.support.lab.hall import Hall, Host
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

TEXT = b"".join(
    b"line %d%s%s" % (number, b"." * (number % 97), (b"\n", b"\r\n", b"\r", b"\n\n")[number % 4])
    for number in range(999)
)
"""Ends of line of every kind, some of them across the edges of blocks once they are converted."""


@pytest.fixture(scope="module")
def client(hall: Hall, serve: Serve) -> Host:
    need("tftp")
    serve(tftp={"port": 69, "interface": SERVER})
    return hall.clients(1)[0]


@pytest.mark.parametrize("size", SIZES)
def test_get(client: Host, shelf: Shelf, size: int) -> None:
    """A file of any size arrives whole."""
    name = shelf.sized(size)
    assert hpa.get(client, name).result().data == shelf[name]


def test_rollover(client: Host, shelf: Shelf) -> None:
    """After block 65535 comes block 0, and the file goes on."""
    name = shelf.sized(ROLLOVER)
    assert hpa.get(client, name).result(120).data == shelf[name]


@pytest.mark.parametrize("size", SIZES)
def test_put(hall: Hall, client: Host, shelf: Shelf, size: int) -> None:
    """A new file of any size is stored whole."""
    data = shelf[shelf.sized(size)]
    hpa.put(client, f"create/{size}", data).result()
    assert (hall.folder / "create" / str(size)).read_bytes() == data


def test_putRollover(hall: Hall, client: Host, shelf: Shelf) -> None:
    """An upload goes on after block 65535 as well."""
    data = shelf[shelf.sized(ROLLOVER)]
    hpa.put(client, "create/rollover", data).result(120)
    assert (hall.folder / "create" / "rollover").read_bytes() == data


def test_getText(client: Host, shelf: Shelf) -> None:
    """What is converted to netascii and back is the file again, whatever its ends of line."""
    name = shelf.add("text", TEXT)
    assert hpaText.get(client, name).result().data == TEXT


def test_putText(hall: Hall, client: Host) -> None:
    """A text that comes in netascii is stored as the client had it."""
    hpaText.put(client, "create/text", TEXT).result()
    assert (hall.folder / "create" / "text").read_bytes() == TEXT


def test_missing(client: Host) -> None:
    """A file that is not there is told at once, as error 1."""
    result = hpa.get(client, "not-there").result()
    assert "code 1" in result.text
    assert not result.data
    assert result.seconds < 3
