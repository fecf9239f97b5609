"""A machine whose facts a test writes down, and a service file on it, for the checks of C{castd doctor}."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from castd.config import yaml as reader
from castd.config.config import build
from castd.config.plugin import collect
from castd.doctor.findings import Finding, Subject
from castd.doctor.machine import BootAnswer, FreeSpace, IMachine, ThisMachine
from castd.packets.dhcp import DhcpPacket
from castd.packets.tftp import Packet
from castd.request import Peer
from castd.service.privileges import UnprivilegedUser
from castd.service.service import kinds

NOBODY = UnprivilegedUser(65534, 65534)
HEADING = "sl local_address rem_address st tx_queue tr retrnsmt uid timeout inode"


@dataclass
class FakeMachine:
    """
    A machine on which nothing is wrong: one interface, no rules, and what is on the disk is really there.

    @ivar texts: files of /proc and /sys.  C{outputs}: those of programs, by their command lines.
    @ivar processes: (pid, its command line, the inodes of its sockets).
    @ivar unshared: what binding to a port of which others may have a part fails with.
    @ivar closed: what the user who serves may not access.
    @ivar claiming: the hardware addresses of other machines that have an address of this one; L{None}: only root may
        ask.
    """

    texts: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=lambda: {"127.0.0.1": "lo", "10.0.0.5": "eth0"})
    processes: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    unshared: int = 0
    closed: set[str] = field(default_factory=set)
    unlistable: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    uid: int = 0
    time: float = 1.8e9
    held: bool | None = True
    unroutable: tuple[str, ...] = ()
    deaf: tuple[str, ...] = ()
    asking: dict[str, str] | None = field(default_factory=dict)
    answers: list[tuple[DhcpPacket, str]] = field(default_factory=list)
    claiming: dict[str, list[str]] | None = field(default_factory=dict)
    space: FreeSpace = field(default_factory=lambda: FreeSpace(1 << 40, 1 << 20))

    def __post_init__(self) -> None:
        self.texts = {
            "/sys/class/net/eth0/mtu": "1500\n",
            "/sys/class/net/lo/mtu": "65536\n",
            "/proc/self/limits": "Max open files            1024                 524288               files\n",
            "/proc/self/status": "Name:\tpython\nCapEff:\t0000000000000000\n",
            "/proc/net/udp": HEADING + "\n",
            "/proc/net/route": "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
            "eth0 0000000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n",
            **self.texts,
        }
        self.outputs = {"nft -j list ruleset": '{"nftables": []}', "ip route show cache": "", **self.outputs}
        for pid, words, _ in self.processes:
            self.texts[f"/proc/{pid}/cmdline"] = words.replace(" ", "\0") + "\0"
            self.texts[f"/proc/{pid}/comm"] = Path(words.split()[0]).name + "\n"

    def bind(self, table: str, digits: str, inode: int, uid: int = 0, state: str = "07") -> None:
        """Bind a socket: C{0100007F:0045} is port 69 of 127.0.0.1."""
        known = self.texts.setdefault(f"/proc/net/{table}", HEADING + "\n")
        line = f"1: {digits} 00000000:0000 {state} 0:0 00:0 0 {uid} 0 {inode}\n"
        self.texts[f"/proc/net/{table}"] = known + line

    def text(self, path: str) -> str | None:
        return self.texts.get(path)

    def names(self, folder: str) -> list[str]:
        if folder == "/proc":
            return ["self", *(str(pid) for pid, _, _ in self.processes)]
        for pid, _, inodes in self.processes:
            if folder == f"/proc/{pid}/fd":
                return [str(each) for each in inodes]
        return ThisMachine().names(folder)

    def link(self, path: str) -> str:
        return "/" if path.endswith("/cwd") else f"socket:[{Path(path).name}]"

    def run(self, *argv: str) -> str | None:
        return self.outputs.get(" ".join(argv))

    def now(self) -> float:
        return self.time

    def clockHeld(self) -> bool | None:
        return self.held

    def addresses(self) -> dict[str, str]:
        return self.devices

    def bindFails(self, host: str, port: int) -> int:
        return self.unshared

    def source(self, host: str, interface: str) -> str:
        if interface and interface not in self.devices:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        if host in self.unroutable:
            raise OSError(101, "Network is unreachable")
        return interface or "10.0.0.5"

    def hearsItself(self, group: str, interface: str, seconds: float) -> bool:
        self.source(group, interface)
        return group not in self.deaf

    def queriers(self, seconds: float) -> dict[str, str] | None:
        return self.asking

    def offers(self, interface: str, requests: Sequence[DhcpPacket], seconds: float) -> list[BootAnswer]:
        return [BootAnswer(0, packet, source, 0.003) for packet, source in self.answers]

    def claimants(self, interface: str, seconds: float) -> list[str]:
        if self.claiming is None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return self.claiming.get(interface, [])

    def isOpen(self, interface: str, port: int, seconds: float) -> bool:
        return False

    def firstBlock(self, name: str, server: Peer, interface: str, seconds: float) -> Packet | None:
        raise OSError(111, "Connection refused")

    def enter(self, process: str) -> None:
        raise AssertionError("the tests' own file system is looked at")

    def become(self, user: UnprivilegedUser) -> None:
        self.uid = user.uid

    def access(self, path: str, mode: int) -> bool:
        return self.uid == 0 or not (path in self.closed or (path in self.unlistable and mode & os.R_OK))

    def mode(self, path: str) -> int:
        return ThisMachine().mode(path)

    def label(self, path: str) -> str | None:
        return self.labels.get(Path(path).name)

    def free(self, folder: str) -> FreeSpace:
        ThisMachine().free(folder)
        return self.space


def subject(folder: Path, *, sections: dict[str, Any] | None = None, **transports: Any) -> Subject:
    """Return a service file that serves C{boot} in a folder, by these transports, as user 65534."""
    (folder / "boot").mkdir(exist_ok=True)
    service = {
        "castd": 1,
        "content": [{"directory": {"path": "boot"}}],
        "access": [{"allow": "any"}],
        "transports": transports or {"tftp": {"port": 69}},
        **(sections or {}),
    }
    file = folder / "castd.yaml"
    file.write_text(yaml.safe_dump(service, sort_keys=False))
    return Subject(build(reader.read(file), file, kinds(collect())), NOBODY)


Look = Callable[[Subject, IMachine], Iterator[Finding]]


def findings(look: Look, about: Subject, machine: FakeMachine, verdict: str) -> list[str]:
    """Return what a check has found with this verdict."""
    return [each.what for each in look(about, machine) if each.verdict == verdict]
