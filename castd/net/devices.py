"""
Find the network devices of this machine with their addresses, MTUs and networks, and bind sockets to one of them that
hear only broadcasts or a group.

Several programs can have such a socket at one port, and none of them takes a unicast datagram from another: so castd
hears the broadcasts to a DHCP server's port beside the server (C{docs/decisions/proxydhcp.md}).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from fcntl import ioctl
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Final

from castd.request import ETHERNET_MTU, Local

_SIOCGIFCONF: Final = 0x8912
#: struct ifreq with an IPv4 address: the label of the address, then a sockaddr_in.
_IFREQ: Final = struct.Struct("16sHH4s16x")
#: The most addresses that are looked at.
_MOST: Final = 1024
_SO_BINDTODEVICE: Final = getattr(socket, "SO_BINDTODEVICE", 25)
_IFNAMSIZ: Final = 16
#: in_pktinfo (ip(7)): index of the interface, local address, address in the header.
PKTINFO: Final = struct.Struct("=I4s4s")
BROADCAST: Final = "255.255.255.255"


def addresses() -> dict[str, str]:
    """Return the device of each IPv4 address of this machine, in the order of the kernel."""
    import array

    room = array.array("B", bytes(_IFREQ.size * _MOST))
    where, length = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        found = ioctl(asker, _SIOCGIFCONF, struct.pack("iL", length, where))
    used = struct.unpack("iL", found)[0]
    known = {}
    for at in range(0, used, _IFREQ.size):
        label, _, _, address = _IFREQ.unpack_from(room, at)
        # An address may have a label of its own, eth0:1.
        known[socket.inet_ntoa(address)] = label.partition(b"\0")[0].decode().partition(":")[0]
    return known


def deviceOf(address: str) -> str:
    """
    Return the name of the device that has this address.

    @raise OSError: EADDRNOTAVAIL: none has.
    """
    device = addresses().get(address)
    if device is None:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return device


def ownAddress(interface: str) -> str:
    """Return the address of this machine that a port is bound to or, for a shared one, that stands behind its C{%}."""
    shared, _, near = interface.partition("%")
    return near if near and ":" not in shared else interface


def isShared(host: str) -> bool:
    """Return whether a bound socket hears only broadcasts or a group, not what is sent to this machine alone."""
    return ":" not in host and (host == BROADCAST or IPv4Address(host).is_multicast)


def bindShared(sock: socket.socket, host: str, port: int, address: str) -> None:
    """
    Bind a socket to the broadcast address or a group, and to the device with an address of this machine.

    @raise OSError: as C{bind}; EADDRNOTAVAIL: no device has this address.
    """
    device = deviceOf(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
    sock.bind((host, port))
    if host != BROADCAST:
        membership = socket.inet_aton(host) + socket.inet_aton(address)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)


def boundDevice(sock: socket.socket) -> str:
    """
    Return the name of the device that a socket is bound to; C{""}: none.

    @raise OSError: that device does not exist any more.
    """
    return sock.getsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, _IFNAMSIZ).partition(b"\0")[0].decode()


def zoned(sock: socket.socket, host: str) -> str:
    """
    Return the bound address of a socket as a service file's transports know it, with an address of its device.

    @param host: the address that the socket is bound to.
    @raise OSError: as L{boundDevice}.
    """
    if not isShared(host):
        return host
    device = boundDevice(sock)
    first = next((address for address, name in addresses().items() if name == device), "")
    return f"{host}%{first}" if first else host


class Interfaces:
    """
    Looks up the MTU of a network interface, and the networks that it reaches without a router.

    The results are cached for some seconds only, as addresses may be added while the server runs.
    """

    _SIOCGIFMTU: Final = 0x8921
    #: Seconds for which a result is cached.
    _FRESH: Final = 10.0
    #: The most local addresses that are kept, and the most interfaces: 127.0.0.0/8 alone has 16 million addresses, and
    #: each interface that is made anew, as for a container, has another index.
    _MOST_KEPT: Final = 256

    def __init__(self, clock: Callable[[], float] = time.monotonic, routes: str = "/proc/net/route") -> None:
        self._clock = clock
        self._routes = routes
        self._known: dict[int, tuple[float, int, tuple[IPv4Network, ...]]] = {}
        self._locals: dict[tuple[bytes, int], Local] = {}

    def local(self, info: bytes, port: int) -> Local:
        """
        Return the local address that a datagram was sent to.

        @param info: L{PKTINFO}, as the kernel gives it with the datagram.
        @param port: the number that the socket is bound to.
        """
        index, ours, asked = PKTINFO.unpack_from(info)
        mtu, networks = self.lookup(index)
        known = self._locals.get((info, port))
        if known is not None and known.mtu == mtu and known.networks is networks:
            return known
        if not index:
            # It arrived before IP_PKTINFO was set, as a supervisor has bound the socket: only the address in its header
            # is known.
            ours = asked
        if len(self._locals) >= self._MOST_KEPT:
            self._locals.clear()
        made = self._locals[info, port] = Local(socket.inet_ntoa(ours), port, index, ours != asked, mtu, networks)
        return made

    def lookup(self, index: int) -> tuple[int, tuple[IPv4Network, ...]]:
        """
        Look up an interface.

        @param index: index of the interface; 0 if unknown.
        @return: octets of the largest IP packet, and the networks on the link; for an unknown one Ethernet's MTU and
            none.
        """
        if not index:
            return ETHERNET_MTU, ()
        now = self._clock()
        found = self._known.get(index)
        if found is None or now - found[0] > self._FRESH:
            if len(self._known) >= self._MOST_KEPT:
                self._known.clear()
            found = self._known[index] = (now, *self._query(index))
        return found[1], found[2]

    def mtu(self, index: int) -> int:
        """Return octets of the largest IP packet that this interface sends."""
        return self.lookup(index)[0]

    def reached(self, address: str) -> tuple[IPv4Network, ...] | None:
        """
        Return the networks that hold this address and that its interface reaches without a router.

        @return: L{None}: no interface of this machine has this address.
        """
        index = self.indexOf(address)
        if not index:
            return None
        return tuple(network for network in self.lookup(index)[1] if ip_address(address) in network)

    def indexOf(self, address: str) -> int:
        """Return the index of the interface with this IPv4 address, or with the zone of an IPv6 address; 0: unknown."""
        try:
            return socket.if_nametoindex(address.partition("%")[2] or deviceOf(address))
        except OSError:
            return 0

    def _query(self, index: int) -> tuple[int, tuple[IPv4Network, ...]]:
        try:
            name = socket.if_indextoname(index)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                answer = ioctl(asker, self._SIOCGIFMTU, struct.pack("16sI12x", name.encode(), 0))
            return int(struct.unpack("16sI12x", answer)[1]), self._onLink(name)
        except OSError:
            return ETHERNET_MTU, ()

    def _onLink(self, name: str) -> tuple[IPv4Network, ...]:
        """
        Read the routes of this interface that have no gateway, as Linux lists them: hexadecimal, in its own byte order.
        """
        found = []
        with open(self._routes) as lines:
            for fields in map(str.split, lines):
                if len(fields) > 7 and fields[0] == name and fields[2] == "00000000":
                    network, mask = (struct.pack("=I", int(fields[at], 16)) for at in (1, 7))
                    if mask != bytes(4):
                        found.append(IPv4Network((network, socket.inet_ntoa(mask))))
        return tuple(found)


def addressTowards(peer: str) -> str:
    """
    Return the address of this machine that sends to this numeric address; C{""}: there is no way to it.

    Nothing is sent: a UDP socket is connected, which only chooses the way.
    """
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
