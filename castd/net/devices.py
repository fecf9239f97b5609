"""
Find the network device with an address of this machine, and bind sockets to it that hear only broadcasts or a group.

Several programs can have such a socket at one port, and none of them takes a unicast datagram from another: so castd
hears the broadcasts to a DHCP server's port beside the server (C{docs/decisions/proxydhcp.md}).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from fcntl import ioctl
from ipaddress import IPv4Address
from typing import Final

_SIOCGIFCONF: Final = 0x8912
#: struct ifreq with an IPv4 address: the label of the address, then a sockaddr_in.
_IFREQ: Final = struct.Struct("16sHH4s16x")
#: The most addresses that are looked at.
_MOST: Final = 1024
_SO_BINDTODEVICE: Final = getattr(socket, "SO_BINDTODEVICE", 25)
_IFNAMSIZ: Final = 16
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


def zoned(sock: socket.socket, host: str) -> str:
    """
    Return the bound address of a socket as a service file's transports know it, with an address of its device.

    @param host: the address that the socket is bound to.
    """
    if not isShared(host):
        return host
    device = sock.getsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, _IFNAMSIZ).partition(b"\0")[0].decode()
    first = next((address for address, name in addresses().items() if name == device), "")
    return f"{host}%{first}" if first else host
