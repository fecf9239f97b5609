"""
Reads the facts of this machine: what checks look at, and nothing else of the system.

What a check decides is in the check.  So a test gives it the facts of a machine that does not exist.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Final, NamedTuple, Protocol

from castd.errors import WireError
from castd.net import devices
from castd.net.sockets import bindFails, familyOf
from castd.packets import dhcp, tftp
from castd.packets.dhcp import DhcpPacket
from castd.packets.tftp import Packet
from castd.request import Peer
from castd.service.privileges import UnprivilegedUser

#: Where a user's search path often does not look, and nft lives.
_ADMIN: Final = "/usr/sbin:/sbin"
#: Seconds that another program has.
_PROGRAM_SECONDS: Final = 4.0
_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)
_SO_BINDTODEVICE: Final = getattr(socket, "SO_BINDTODEVICE", 25)
_IGMP_QUERY: Final = 0x11
_ETH_P_IP: Final = 0x0800
_ETH_P_ARP: Final = 0x0806
_MAC_OCTETS: Final = 6
#: ARP of IPv4 over Ethernet (RFC 826): the kinds and lengths of addresses, 1 for a request, then hardware and protocol
#: address of the sender, and of whom is asked for.
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
#: struct timex has 208 octets on 64 bits; C{modes} is its first field, and 0 reads only.
_TIMEX: Final = 512
_TIME_ERROR: Final = 5


class FreeSpace(NamedTuple):
    """
    What is free on the disk of a folder for a user who is not root: octets, and files.

    @ivar readOnly: it can be as much as it will: the file system is read-only, or mounted so.
    """

    octets: int
    files: int
    readOnly: bool = False


class BootAnswer(NamedTuple):
    """
    The answer of a server to a request of a machine that boots.

    @ivar number: which request it answers, counted from 0.
    @ivar source: the address that it came from.
    @ivar seconds: from the request to it.
    """

    number: int
    packet: DhcpPacket
    source: str
    seconds: float


class IMachine(Protocol):
    """What a check sees of a machine.  Paths are absolute."""

    def text(self, path: str) -> str | None:
        """Return the text of a file of /proc or /sys; L{None}: it is not there, or may not be read."""

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none if it is not there, or may not be read."""

    def link(self, path: str) -> str:
        """Return where a symbolic link points to; C{""} if it may not be read."""

    def run(self, *argv: str) -> str | None:
        """Return the output of a program; L{None}: it is not installed, it failed, or it did not end in time."""

    @property
    def uid(self) -> int:
        """The user of this process."""

    def now(self) -> float:
        """Return the time of the clock, seconds since 1970."""

    def clockHeld(self) -> bool | None:
        """Return whether something keeps the clock right, as the kernel knows; L{None}: it could not be asked."""

    def addresses(self) -> dict[str, str]:
        """Return the device of each address of this machine, IPv4 before IPv6."""

    def bindFails(self, host: str, port: int) -> int:
        """As L{castd.net.sockets.bindFails}."""

    def source(self, host: str, interface: str) -> str:
        """
        Return the address that datagrams to a host leave from.

        @param interface: the address that group data is sent from; C{""}: the route decides.
        @raise OSError: there is no route.
        """

    def hearsItself(self, group: str, interface: str, seconds: float) -> bool:
        """
        Join a group, send a datagram to it that does not leave this machine (TTL 0), and wait for it.

        @raise OSError: a step failed.
        """

    def queriers(self, seconds: float) -> dict[str, str] | None:
        """
        Listen for IGMP queries.

        @return: the device that each querier was heard on, by its address; L{None}: only root may listen.
        """

    def offers(self, interface: str, requests: Sequence[DhcpPacket], seconds: float) -> list[BootAnswer]:
        """
        Broadcast DHCPDISCOVERs as machines that boot do, each with a C{xid} of its own, and collect the answers that
        are broadcast.

        @raise OSError: a step failed.
        """

    def claimants(self, interface: str, seconds: float) -> list[str]:
        """
        Ask by ARP who has an own IPv4 address, from nobody, so that no neighbour learns it anew (RFC 5227).

        @return: the hardware addresses of others that say they have it.
        @raise OSError: a step failed, such as that only root may ask.
        """

    def isOpen(self, interface: str, port: int, seconds: float) -> bool:
        """
        Send an empty datagram to a UDP port of an own address.

        @param seconds: to wait for the report that nobody listens there.
        @return: there was none.
        """

    def firstBlock(self, name: str, server: Peer, interface: str, seconds: float) -> Packet | None:
        """
        Ask a server for a file by TFTP without options, and end the transfer when its first packet has come.

        @param interface: the own address to ask from.
        @return: that packet; L{None}: none came in time that can be read.
        @raise OSError: a step failed; or nobody listens there.
        """

    def enter(self, process: str) -> None:
        """
        See the file system as another process sees it, for good: what systemd shows a service may differ from what all
        others see (C{DynamicUser=}, C{ProtectHome=}).  A check is alone in its process.

        @raise OSError: this is not permitted, or the process has ended.
        """

    def become(self, user: UnprivilegedUser) -> None:
        """Become a user for good.  A check is alone in its process."""

    def access(self, path: str, mode: int) -> bool:
        """Return whether this user has access to a file, by its mode, its ACL and its file system."""

    def mode(self, path: str) -> int:
        """
        Return the type and the permissions of a file; links are not followed.

        @raise OSError: it is not there.
        """

    def label(self, path: str) -> str | None:
        """Return the SELinux label of a file; L{None}: it has none, or may not be read."""

    def free(self, folder: str) -> FreeSpace:
        """
        Return what is free on the disk of a folder.

        @raise OSError: it is not there.
        """


class ThisMachine:
    """The machine that this process runs on.  Provides L{IMachine}."""

    def text(self, path: str) -> str | None:
        try:
            with open(path, errors="backslashreplace") as file:
                return file.read()
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(folder))
        except OSError:
            return []

    def link(self, path: str) -> str:
        try:
            return os.readlink(path)
        except OSError:
            return ""

    def run(self, *argv: str) -> str | None:
        program = shutil.which(argv[0], path=os.pathsep.join([os.environ.get("PATH", os.defpath), _ADMIN]))
        if program is None:
            return None
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(
                [program, *argv[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                check=True,
                timeout=_PROGRAM_SECONDS,
                env={**os.environ, "LC_ALL": "C"},
            ).stdout
        return None

    @property
    def uid(self) -> int:
        return os.geteuid()

    def now(self) -> float:
        return time.time()

    def clockHeld(self) -> bool | None:
        with suppress(OSError, AttributeError):
            state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX))
            return None if state < 0 else state != _TIME_ERROR
        return None

    def addresses(self) -> dict[str, str]:
        return {**devices.addresses(), **dict(self._addresses6())}

    def _addresses6(self) -> Iterator[tuple[str, str]]:
        """Return each IPv6 address, with its zone if it is a link-local one, and its device."""
        for line in (self.text("/proc/net/if_inet6") or "").splitlines():
            digits, *_, device = line.split()
            address = IPv6Address(bytes.fromhex(digits))
            yield (f"{address}%{device}" if address.is_link_local else str(address)), device

    def bindFails(self, host: str, port: int) -> int:
        return bindFails(host, port)

    def source(self, host: str, interface: str) -> str:
        with socket.socket(familyOf(host), socket.SOCK_DGRAM) as sock:
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                _sendFrom(sock, interface)
            # This asks for the route, and sends nothing.
            sock.connect((host, 9))
            found: str = sock.getsockname()[0]
            return found

    def hearsItself(self, group: str, interface: str, seconds: float) -> bool:
        token = secrets.token_bytes(16)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearer,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            hearer.bind((group, 0))
            joined = socket.inet_aton(group) + socket.inet_aton(interface or "0.0.0.0")
            hearer.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
            _sendFrom(sender, interface)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
            sender.sendto(token, (group, hearer.getsockname()[1]))
            return any(datagram == token for datagram, _ in _received(hearer, seconds, enough=1))

    def queriers(self, seconds: float) -> dict[str, str] | None:
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
        except PermissionError:
            return None
        found = {}
        with sock:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            for packet, source, index in _withInterface(sock, seconds):
                header = (packet[0] & 15) * 4
                # What a bridge of this machine asks is no sign of a querier elsewhere.
                if packet[header : header + 1] == bytes([_IGMP_QUERY]) and source not in self.addresses():
                    found[source] = socket.if_indextoname(index)
        return found

    def offers(self, interface: str, requests: Sequence[DhcpPacket], seconds: float) -> list[BootAnswer]:
        device = devices.deviceOf(interface)
        sent: dict[bytes, tuple[int, float]] = {}
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearer,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            devices.bindShared(hearer, devices.BROADCAST, dhcp.CLIENT_PORT, interface)
            sender.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for number, request in enumerate(requests):
                xid = secrets.token_bytes(4)
                sender.sendto(dhcp.build(replace(request, xid=xid)), (devices.BROADCAST, dhcp.SERVER_PORT))
                sent[xid] = number, time.monotonic()
            return list(_answers(hearer, seconds, sent))

    def claimants(self, interface: str, seconds: float) -> list[str]:
        device = devices.deviceOf(interface)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ARP)) as sock:
            sock.bind((device, _ETH_P_ARP))
            hardware = sock.getsockname()[4]
            if len(hardware) != _MAC_OCTETS:
                return []
            asked = socket.inet_aton(interface)
            question = _ARP.pack(1, _ETH_P_IP, _MAC_OCTETS, 4, 1, hardware, bytes(4), bytes(_MAC_OCTETS), asked)
            sock.sendto(question, (device, _ETH_P_ARP, 0, 0, b"\xff" * _MAC_OCTETS))
            heard = (_ARP.unpack_from(each) for each, _ in _received(sock, seconds) if len(each) >= _ARP.size)
            found = {fields[5].hex(":") for fields in heard if fields[6] == asked}
        # An interface in the same network answers for the others of its machine.
        own = {(self.text(f"/sys/class/net/{name}/address") or "").strip() for name in self.names("/sys/class/net")}
        return sorted(found - own - {hardware.hex(":")})

    def isOpen(self, interface: str, port: int, seconds: float) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            # A connected socket is told when nobody listens.
            sock.connect((interface, port))
            sock.settimeout(seconds)
            with suppress(TimeoutError):
                try:
                    sock.send(b"")
                    sock.recv(1)
                except ConnectionRefusedError:
                    return False
        return True

    def firstBlock(self, name: str, server: Peer, interface: str, seconds: float) -> Packet | None:
        with socket.socket(familyOf(server[0]), socket.SOCK_DGRAM) as sock:
            sock.bind((interface, 0))
            sock.sendto(tftp.buildRequest(tftp.TftpRequest(False, name, "octet", ())), server)
            sock.settimeout(seconds)
            with suppress(TimeoutError, WireError):
                datagram, peer = sock.recvfrom(65535)
                packet = tftp.parse(datagram)
                if not isinstance(packet, tftp.Error):
                    sock.sendto(tftp.buildError(0, "castd doctor needs no more"), peer)
                return packet
        return None

    def enter(self, process: str) -> None:
        # Where the mounts are the same the root may differ all the same (twistd --chroot): castd opens what it serves
        # before that.
        if self.link(f"/proc/{process}/ns/mnt") not in ("", self.link("/proc/self/ns/mnt")):
            os.chroot(f"/proc/{process}/root")
            os.chdir("/")

    def become(self, user: UnprivilegedUser) -> None:
        user.dropPrivileges()

    def access(self, path: str, mode: int) -> bool:
        return os.access(path, mode, effective_ids=True)

    def mode(self, path: str) -> int:
        return os.lstat(path).st_mode

    def label(self, path: str) -> str | None:
        try:
            return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()
        except (OSError, UnicodeDecodeError):
            return None

    def free(self, folder: str) -> FreeSpace:
        found = os.statvfs(folder)
        # A file system without a number of files, such as btrfs, has 0 of 0 free.
        readOnly = bool(found.f_flag & os.ST_RDONLY)
        return FreeSpace(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else 1, readOnly)


def _sendFrom(sock: socket.socket, interface: str) -> None:
    if interface:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))


def _received(sock: socket.socket, seconds: float, enough: int = 1024) -> Iterator[tuple[bytes, str]]:
    """Return each datagram that comes within this time, and the address it came from."""
    end = time.monotonic() + seconds
    for _ in range(enough):
        sock.settimeout(max(0.001, end - time.monotonic()))
        try:
            datagram, address = sock.recvfrom(65535)
        except TimeoutError:
            return
        yield datagram, address[0]


def _answers(sock: socket.socket, seconds: float, sent: Mapping[bytes, tuple[int, float]]) -> Iterator[BootAnswer]:
    """
    Return the answers to requests that come within this time.

    @param sent: the number of each request and when it was sent, by its C{xid}.
    """
    for datagram, source in _received(sock, seconds):
        came = time.monotonic()
        with suppress(WireError):
            packet = dhcp.parse(datagram)
            if packet.op == dhcp.BOOTREPLY and packet.xid in sent:
                number, since = sent[packet.xid]
                yield BootAnswer(number, packet, source, came - since)


def _withInterface(sock: socket.socket, seconds: float) -> Iterator[tuple[bytes, str, int]]:
    """Return each packet that comes within this time, the address it came from, and the index of its interface."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            packet, ancillary, _, address = sock.recvmsg(65535, 256)
        except TimeoutError:
            return
        for level, kind, data in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                yield packet, address[0], struct.unpack_from("=I", data)[0]
