"""
Reads what Linux tells in /proc: sockets and who holds them, the rights of a process, routes.
"""

from __future__ import annotations

import os
import posixpath
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, ip_address
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from castd.doctor.machine import IMachine
from castd.service.privileges import UnprivilegedUser

_TCP_LISTEN: Final = "0A"
_NET_BIND_SERVICE: Final = 10
_FIRST: Final = 1


class BoundSocket(NamedTuple):
    """
    A UDP socket, or a listening one of TCP.

    @ivar kind: C{udp} or C{tcp}.
    @ivar host: the address that it is bound to.
    @ivar uid: the user who opened it.
    """

    kind: str
    host: str
    port: int
    uid: int
    inode: str


class Holder(NamedTuple):
    """A process that has a socket open."""

    pid: int
    name: str
    words: tuple[str, ...]

    @property
    def isCastd(self) -> bool:
        """Whether its command line is one of castd."""
        return any(PurePath(word).name == "castd" for word in self.words)

    @property
    def isSystemd(self) -> bool:
        """Whether it is the service manager, which opens the ports of a socket unit for others."""
        return self.pid == _FIRST and self.name in ("systemd", "init")

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def boundSockets(machine: IMachine) -> Iterator[BoundSocket]:
    """Return the sockets of this network namespace that are bound to a port."""
    for kind in ("udp", "tcp"):
        for table in (kind, f"{kind}6"):
            for line in (machine.text(f"/proc/net/{table}") or "").splitlines()[1:]:
                fields = line.split()
                if kind == "udp" or fields[3] == _TCP_LISTEN:
                    host, port = fields[1].split(":")
                    yield BoundSocket(kind, _host(host), int(port, 16), int(fields[7]), fields[9])


def _host(digits: str) -> str:
    """Read an address: words of 32 bits, each in the byte order of the machine."""
    words = [struct.pack("=I", int(digits[at : at + 8], 16)) for at in range(0, len(digits), 8)]
    return str(ip_address(b"".join(words)))


def collides(bound: str, wanted: str) -> bool:
    """
    Return whether a socket bound to one address may keep another from being bound to its address, at the same port.

    @param wanted: an address of a service file; C{""}: all of IPv4.
    """
    wanted = wanted.partition("%")[0] or "0.0.0.0"
    if (":" in bound) != (":" in wanted):
        # A socket of IPv6 has the port of IPv4, too, if it was not told otherwise.
        return bound == "::"
    return bound == wanted or bound in ("0.0.0.0", "::") or wanted in ("0.0.0.0", "::")


def holders(machine: IMachine, inodes: Iterable[str]) -> dict[str, list[Holder]]:
    """Return the processes that have these sockets open, as far as this user may see them, by inode."""
    wanted = {f"socket:[{each}]": each for each in inodes}
    found: dict[str, list[Holder]] = {each: [] for each in wanted.values()}
    for pid in filter(str.isdecimal, machine.names("/proc")) if wanted else ():
        links = {machine.link(f"/proc/{pid}/fd/{fd}") for fd in machine.names(f"/proc/{pid}/fd")}
        for link in links & wanted.keys():
            found[wanted[link]].append(_holder(machine, int(pid)))
    return found


def _holder(machine: IMachine, pid: int) -> Holder:
    words = (machine.text(f"/proc/{pid}/cmdline") or "").rstrip("\0").split("\0")
    return Holder(pid, (machine.text(f"/proc/{pid}/comm") or "?").strip(), tuple(words))


def serves(machine: IMachine, holder: Holder, file: Path) -> bool:
    """Return whether the command line of a process names this service file."""
    folder = machine.link(f"/proc/{holder.pid}/cwd")
    wanted = os.path.abspath(file)
    return any(posixpath.normpath(posixpath.join(folder, word)) == wanted for word in holder.words if word)


def statusOf(machine: IMachine, process: str) -> dict[str, str]:
    """Return the lines of /proc/PID/status, by name; none if there is no such process."""
    lines = (machine.text(f"/proc/{process}/status") or "").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def userOf(machine: IMachine, process: str) -> UnprivilegedUser | None:
    """Return the effective user and the groups of a process; L{None}: there is no such process."""
    status = statusOf(machine, process)
    if "Uid" not in status:
        return None
    groups = tuple(int(each) for each in status.get("Groups", "").split())
    return UnprivilegedUser(int(status["Uid"].split()[1]), int(status["Gid"].split()[1]), groups)


def mayBindLow(machine: IMachine, process: str) -> bool:
    """Return whether a process has the capability to bind privileged ports."""
    return bool(int(statusOf(machine, process).get("CapEff", "0"), 16) >> _NET_BIND_SERVICE & 1)


def openFiles(machine: IMachine, process: str) -> tuple[int, int] | None:
    """Return the soft and the hard limit of open descriptors; L{None}: not known."""
    for line in (machine.text(f"/proc/{process}/limits") or "").splitlines():
        if line.startswith("Max open files"):
            soft, hard = line.split()[3:5]
            return _number(soft), _number(hard)
    return None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 1 << 62


def onLink(machine: IMachine) -> dict[IPv4Network, str]:
    """Return the networks of IPv4 that are reached without a router, each with its device."""
    found = {}
    for line in (machine.text("/proc/net/route") or "").splitlines()[1:]:
        device, network, gateway, *_, mask = line.split()[:8]
        if int(gateway, 16) == 0 and int(mask, 16) != 0:
            start, bits = (socket.inet_ntoa(struct.pack("=I", int(each, 16))) for each in (network, mask))
            found[IPv4Network((start, bits))] = device
    return found
