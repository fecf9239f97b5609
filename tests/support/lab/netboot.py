"""
Booting by script: iPXE machines that run what a test hands them, and U-Boot at its prompt.

Both take a list of machines and return when every one has run its script to the end, so that one machine and
sixteen are driven by the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.support.jobs import Job
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Host
from tests.support.lab.machines import UBOOT_LOAD, Machine

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
