"""
Machines that boot from the network: QEMU with iPXE or U-Boot, at the hall's switch like any host.

What a machine has fetched is read out of its memory, not believed from its console.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

from tests.support.jobs import Job
from tests.support.lab.hall import Counters, Hall

MEMORY = 128
"""Megabytes of a machine."""

UBOOT = "/usr/lib/u-boot/qemu_arm/u-boot.bin"
UBOOT_LOAD = 0x40200000
"""Where U-Boot's C{loadaddr} is on this board, and where the board's memory begins."""
UBOOT_BASE = 0x40000000

NET = "tap,id=net,ifname={name},script=no,downscript=no"
COMMON = ("-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio", "-m", str(MEMORY))


class Machine:
    """
    One emulated machine; its console is the L{Job}'s text.

    @ivar name: of its wire at the switch, for counters and losses.
    @ivar mac: of its network card.
    """

    def __init__(self, hall: Hall, name: str, argv: Sequence[str], mac: str, base: int = 0) -> None:
        """
        Plug it in and switch it on.

        @param argv: the emulator and what differs; the common words are added.
        @param base: the physical address where its memory begins.
        """
        self.hall, self.name, self.mac, self.base = hall, name, mac, base
        self.folder = hall.folder
        self._qmp = self.folder / f"{name}.qmp"
        hall.tap(name)
        words = [*argv, *COMMON, "-netdev", NET.format(name=name), "-qmp", f"unix:{self._qmp},server=on,wait=off"]
        self.job: Job = hall.start(words)

    def console(self) -> str:
        return self.job.text()

    def counters(self) -> Counters:
        return self.hall.counters(self.name)

    def command(self, name: str, **arguments: Any) -> Any:
        """One command of QEMU's machine protocol, on a connection of its own."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(20)
            link.connect(str(self._qmp))
            lines = link.makefile("r")
            lines.readline()  # the greeting
            for request in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
                link.sendall(json.dumps(request).encode())
                while "event" in (answer := json.loads(lines.readline())):
                    pass
            assert "return" in answer, answer
            return answer["return"]

    def memory(self, address: int | None = None, size: int = MEMORY << 20) -> bytes:
        """
        Halt it and read its memory.

        @param address: where to begin, a physical address; by default all of it is read.
        """
        dump = self.folder / f"{self.name}.memory"
        self.command("stop")
        self.command("pmemsave", val=self.base if address is None else address, size=size, filename=str(dump))
        data = dump.read_bytes()
        dump.unlink()
        return data

    def holds(self, data: bytes) -> bool:
        """Halt it and see whether this content lies anywhere in its memory, in one piece."""
        return data in self.memory()


def mac(number: int) -> str:
    return f"52:54:00:77:{number >> 8:02x}:{number & 255:02x}"


def ipxe(hall: Hall, name: str, number: int, card: str = "virtio-net-pci") -> Machine:
    """
    A PC that boots from its network card by the iPXE in the card's ROM.

    Someone at the switch must answer its DHCP: L{netboot.dhcp}.
    """
    device = f"{card},netdev=net,mac={mac(number)},bootindex=0"
    return Machine(hall, name, ["qemu-system-x86_64", "-M", "pc,graphics=off", "-device", device], mac(number))


def uboot(hall: Hall, name: str, number: int) -> Machine:
    """An ARM board with U-Boot at its prompt."""
    card = f"virtio-net-pci,netdev=net,mac={mac(number)}"
    argv = ["qemu-system-arm", "-M", "virt", "-cpu", "cortex-a15", "-bios", UBOOT, "-device", card]
    return Machine(hall, name, argv, mac(number), base=UBOOT_BASE)
