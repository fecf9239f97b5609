"""iPXE, from the ROM of an emulated network card to the bytes in the machine's memory."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.support.lab.castd import Shelf
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall
from tests.support.lab.machines import dhcp, ended, ipxe, ipxeScript, mac
from tests.support.needs import need

pytestmark = [pytest.mark.e2e, pytest.mark.root]

FETCHED = (511, 512, 513, 1432, 1024 * 1024 + 7)
"""Sizes, each long enough for its content not to lie in the memory by chance."""


def test_boot(hall: Hall, serve: Serve, shelf: Shelf) -> None:
    """Two machines boot a script by TFTP, and every file that it names is in their memories, octet for octet."""
    need("qemu-system-x86_64", "dnsmasq", "/usr/lib/ipxe/qemu/efi-virtio.rom")
    serve(tftp={"port": 69, "interface": SERVER})
    names = [shelf.sized(size) for size in FETCHED]
    script = shelf.add("boot.ipxe", ipxeScript(*(f"imgfetch tftp://{SERVER}/{name}" for name in names)))
    dhcp(hall.host("dhcp", "10.77.0.3"), {mac(1): script, mac(2): script})
    machines = [ipxe(hall, f"pc{number}", number) for number in (1, 2)]
    assert ended(machines, 120) == [True, True]
    for machine in machines:
        memory = machine.memory()
        assert [name for name in names if shelf[name] not in memory] == []
