"""atftp, the client with every option, against castd."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import ROLLOVER, SIZES, Shelf
from tests.support.lab.clients import SERVER, atftp
from tests.support.lab.hall import Hall, Host
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

LARGE = 6969
"""Where blocks larger than the wire's packets are allowed."""


@pytest.fixture(scope="module")
def client(hall: Hall, serve: Serve) -> Host:
    need("atftp")
    serve(
        tftp={"port": 69, "interface": SERVER},
        large={"use": "tftp", "port": LARGE, "interface": SERVER, "blksize": 65464},
    )
    return hall.clients(1)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [(), ("blksize 1428",), ("blksize 1428", "windowsize 16")], ids=" ".join)
def test_get(client: Host, shelf: Shelf, size: int, options: tuple[str, ...]) -> None:
    """A file of any size arrives whole, with and without options."""
    name = shelf.sized(size)
    assert atftp.get(client, name, *options).result().data == shelf[name]


@pytest.mark.parametrize("blksize", [8, 512, 1428, 1468, 65464])
def test_blockSizes(client: Host, shelf: Shelf, blksize: int) -> None:
    """Blocks from the smallest to the largest, which the network cuts into fragments, carry a file."""
    name = shelf.sized(100_000)
    assert atftp.get(client, name, f"blksize {blksize}", port=LARGE).result().data == shelf[name]


def test_capped(client: Host, shelf: Shelf) -> None:
    """A wish above what the wire carries in one packet is lowered, and the client follows."""
    name = shelf.sized(100_000)
    before = client.counters()
    assert atftp.get(client, name, "blksize 65464").result().data == shelf[name]
    assert client.counters().since(before).heard < 100_000 // 1468 + 10


@pytest.mark.parametrize("window", [2, 16, 64, 1000])
def test_windows(client: Host, shelf: Shelf, window: int) -> None:
    """With a window the client sends an acknowledgment per window, not per block."""
    name = shelf.sized(1024 * 1024)
    before = client.counters()
    assert atftp.get(client, name, "blksize 1428", f"windowsize {window}").result().data == shelf[name]
    assert client.counters().since(before).sent < 735 / min(window, 64) * 1.5 + 10


def test_rollover(client: Host, shelf: Shelf) -> None:
    """Block numbers go on after 65535, through windows as well."""
    name = shelf.sized(ROLLOVER)
    assert atftp.get(client, name, "windowsize 16").result(120).data == shelf[name]


def test_missing(client: Host) -> None:
    """A file that is not there is told at once, not by silence."""
    result = atftp.get(client, "not-there").result()
    assert result.code != 0
    assert not result.data
    assert result.seconds < 3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [(), ("blksize 1428",), ("blksize 1428", "windowsize 16")], ids=" ".join)
def test_put(hall: Hall, client: Host, shelf: Shelf, size: int, options: tuple[str, ...]) -> None:
    """A new file of any size is stored whole, with and without options."""
    data = shelf[shelf.sized(size)]
    name = f"{size}-{'-'.join(options).replace(' ', '-')}"
    result = atftp.put(client, f"create/{name}", data, *options).result()
    assert (result.code, (hall.folder / "create" / name).read_bytes()) == (0, data)


def test_putAgain(hall: Hall, client: Host) -> None:
    """Where files are only created, an existing one is refused and stays as it is."""
    kept = hall.folder / "create" / "kept"
    kept.write_bytes(b"old")
    assert atftp.put(client, "create/kept", b"new").result().code != 0
    assert kept.read_bytes() == b"old"


def test_overwrite(hall: Hall, client: Host) -> None:
    """Where it is allowed, a file is replaced."""
    target = hall.folder / "overwrite" / "target"
    target.write_bytes(b"old, and longer than the new one")
    assert atftp.put(client, "overwrite/target", b"new").result().code == 0
    assert target.read_bytes() == b"new"


def test_existing(hall: Hall, client: Host) -> None:
    """Where only existing files are written, one is, and no new one appears."""
    there, absent = hall.folder / "existing" / "there", hall.folder / "existing" / "absent"
    there.write_bytes(b"old")
    assert atftp.put(client, "existing/there", b"new").result().code == 0
    assert there.read_bytes() == b"new"
    assert atftp.put(client, "existing/absent", b"new").result().code != 0
    assert not absent.exists()


def test_outside(hall: Hall, client: Host, shelf: Shelf) -> None:
    """Uploads land in their directories only: the content that is served cannot be written."""
    name = shelf.sized(512)
    assert atftp.put(client, name, b"new").result().code != 0
    assert (shelf.root / name).read_bytes() == shelf[name]
