"""U-Boot on an emulated ARM board, driven at its prompt."""

from __future__ import annotations

import zlib

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall
from tests.support.lab.machines import UBOOT, UBOOT_LOAD, uboot, ubootFetch, ubootRun
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]


@pytest.fixture(scope="module", autouse=True)
def castd(serve: Serve) -> None:
    need("qemu-system-arm", UBOOT)
    serve(tftp={"port": 69, "interface": SERVER})


@pytest.mark.parametrize(("number", "size"), list(enumerate((1, 511, 512, 1468, 1024 * 1024 + 7), 1)))
def test_tftpboot(hall: Hall, shelf: Shelf, number: int, size: int) -> None:
    """What C{tftpboot} has fetched lies at the load address, octet for octet, and U-Boot's own checksum agrees."""
    name = shelf.sized(size)
    board = uboot(hall, f"arm{number}", number)
    (console,) = ubootRun([board], ubootFetch(number, name), 60)
    assert f"Bytes transferred = {size} " in console
    assert f"==> {zlib.crc32(shelf[name]):08x}" in console
    assert board.memory(UBOOT_LOAD, size) == shelf[name]
