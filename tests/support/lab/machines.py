"""
Machines that boot from the network: QEMU with iPXE or U-Boot, at the hall's switch like any host.

They run what a test hands them by script.  What a machine has fetched is read out of its memory, not believed from its
console.  What takes several machines takes a list, so that one and sixteen are driven by the same words.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.jobs import Job
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Counters, Hall, Host
from tests.support.needs import need

MEMORY = 128
"""Megabytes of a machine."""

UBOOT = "/usr/lib/u-boot/qemu_arm/u-boot.bin"
UBOOT_LOAD = 0x40200000
"""Where U-Boot's C{loadaddr} is on this board, and where the board's memory begins."""
UBOOT_BASE = 0x40000000

OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.fd"

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


SAY = (
    "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);"
    "s.setsockopt(socket.SOL_SOCKET,socket.SO_BROADCAST,1); s.bind(('',68));"
    "s.sendto(bytes.fromhex(sys.argv[1]),('255.255.255.255',67))"
)


def sayDhcp(host: Host, datagram: bytes) -> None:
    """Broadcast this datagram from a host, as a machine does that boots."""
    assert host.run([sys.executable, "-c", SAY, datagram.hex()]).code == 0


def mac(number: int) -> str:
    return f"52:54:00:77:{number >> 8:02x}:{number & 255:02x}"


def ipxe(hall: Hall, name: str, number: int, card: str = "virtio-net-pci") -> Machine:
    """
    A PC that boots from its network card by the iPXE in the card's ROM.

    Someone at the switch must answer its DHCP: L{netboot.dhcp}.
    """
    device = f"{card},netdev=net,mac={mac(number)},bootindex=0"
    return Machine(hall, name, ["qemu-system-x86_64", "-M", "pc,graphics=off", "-device", device], mac(number))


def ovmf(hall: Hall, name: str, number: int) -> Machine:
    """A PC with UEFI that boots from its network card by the firmware's own PXE."""
    need(OVMF, OVMF_VARIABLES)
    variables = hall.folder / f"{name}.variables"
    variables.write_bytes(Path(OVMF_VARIABLES).read_bytes())
    flash = ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}"]
    flash += ["-drive", f"if=pflash,format=raw,file={variables}"]
    device = f"virtio-net-pci,netdev=net,mac={mac(number)},bootindex=0,romfile="
    argv = ["qemu-system-x86_64", "-M", "q35", *flash, "-device", device]
    return Machine(hall, name, argv, mac(number))


def uboot(hall: Hall, name: str, number: int) -> Machine:
    """An ARM board with U-Boot at its prompt."""
    card = f"virtio-net-pci,netdev=net,mac={mac(number)}"
    argv = ["qemu-system-arm", "-M", "virt", "-cpu", "cortex-a15", "-bios", UBOOT, "-device", card]
    return Machine(hall, name, argv, mac(number), base=UBOOT_BASE)


END = "castd-end"
"""What a script says last."""


def dhcp(host: Host, files: Mapping[str, str], server: str = SERVER) -> Job:
    """
    Answer DHCP, and nothing else, from a host of the hall.

    @param files: the boot file's name on the TFTP server, by the MAC of the machine.
    @param server: the TFTP server that is told.
    """
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--log-facility=-"]
    words += ["--port=0", "--interface=eth0", "--bind-interfaces", "--dhcp-leasefile=leases", "--no-ping"]
    words += ["--dhcp-range=10.77.3.0,static,255.255.0.0,1h", "--dhcp-authoritative", "--pid-file="]
    for number, (mac, file) in enumerate(files.items(), 1):
        words += [f"--dhcp-host={mac},10.77.3.{number},set:m{number}", f"--dhcp-boot=tag:m{number},{file},,{server}"]
    job = host.start(words)
    job.until("DHCP, static leases only", 10)
    return job


def addresses(host: Host) -> Job:
    """Give addresses by DHCP, and say nothing of booting, from a host of the hall."""
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--log-facility=-"]
    words += ["--port=0", "--interface=eth0", "--bind-interfaces", "--dhcp-leasefile=leases", "--no-ping"]
    words += ["--dhcp-range=10.77.4.1,10.77.4.250,255.255.0.0,1h", "--dhcp-authoritative", "--pid-file="]
    job = host.start(words)
    job.until("DHCP, IP range", 10)
    return job


def ipxeScript(*lines: str) -> bytes:
    """
    An iPXE script that runs these lines one after the other and then says how it went: C{ok castd-end}, or
    C{failed castd-end} as soon as one has failed.
    """
    tried = "".join(f"{line} || goto failed\n" for line in lines)
    return f"#!ipxe\n{tried}echo ok {END}\nsleep 3600\n:failed\necho failed {END}\nsleep 3600\n".encode()


def ended(machines: Sequence[Machine], seconds: float) -> list[bool]:
    """
    Wait until the script of every machine has ended.

    @param seconds: for each, counted from the end of the one before.
    @return: for each, whether all of its lines succeeded.
    @raise Late: if one has not ended; the text has its console.
    """
    return [f"ok {END}" in machine.job.until(END, seconds) for machine in machines]


def ubootRun(machines: Sequence[Machine], commands: Sequence[str], seconds: float) -> list[str]:
    """
    Give the same commands to the prompts of all these machines.

    @param commands: such as C{tftpboot ${loadaddr} kernel}.
    @return: for each, what its console showed from the first command to the end of the last.
    @raise Late: as L{ended}.
    """
    for machine in machines:
        machine.job.until("Hit any key", 30)
        machine.job.say("\n")
    starts, shown = {}, []
    for machine in machines:
        starts[machine.name] = len(machine.job.until("=> ", 10))
        machine.job.say("; ".join([*commands, f"echo {END[:5]}''{END[5:]}"]) + "\n")
    for machine in machines:
        since = starts[machine.name]
        shown.append(machine.job.until(END, seconds, since)[since:])
    return shown


def ubootFetch(number: int, name: str, server: str = SERVER) -> list[str]:
    """Commands that set the addresses of machine C{number} and fetch a file to C{UBOOT_LOAD}."""
    return [
        f"setenv ipaddr 10.77.2.{number}",
        "setenv netmask 255.255.0.0",
        f"setenv serverip {server}",
        f"tftpboot {UBOOT_LOAD:#x} {name}",
        f"crc32 {UBOOT_LOAD:#x} ${{filesize}}",
    ]
