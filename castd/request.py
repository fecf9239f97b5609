"""
Who asks for what: the values a dialect makes of the first datagram of a peer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import TypeAlias

#: A peer as the socket names it: C{(host, port)}, or C{(host, port, flow, scope)} for IPv6.  Hashable, otherwise opaque
#: to the casts.
Peer: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

#: What a protocol without options assumes of the way to its clients: Ethernet.
ETHERNET_MTU = 1500


@dataclass(frozen=True, slots=True)
class Local:
    """
    Where a datagram was sent to: the answer leaves from there.

    @ivar host: the address asked, numeric; the wildcard's name where the system cannot tell.
    @ivar port: the port asked.
    @ivar interface: index of the interface it came in by; 0 if unknown.
    @ivar broadcast: it was sent to a broadcast or multicast address.
    @ivar mtu: octets in the largest IP packet of that interface.
    @ivar networks: what that interface reaches without a router; empty if unknown.
    """

    host: str
    port: int
    interface: int = 0
    broadcast: bool = False
    mtu: int = ETHERNET_MTU
    networks: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request, read.

    @ivar peer: who asks.
    @ivar local: which of our addresses was asked.
    @ivar name: the file's name as it was asked for, UTF-8 with surrogate escapes, so that no octet is lost.
    @ivar mode: C{"octet"} or C{"netascii"}.
    @ivar write: it is an upload.
    @ivar options: name and value of each option, ISO 8859-1, in the order of the request, doubles dropped.
    @ivar detail: what a dialect wants to keep of its own (SLAM: the list of missing blocks).
    """

    peer: Peer
    local: Local
    name: str
    mode: str = "octet"
    write: bool = False
    options: tuple[tuple[str, str], ...] = ()
    detail: object = field(default=None, compare=False)

    def repeats(self, other: Request) -> bool:
        """-> whether it is the other one once more, whatever has become of our own address or its network since."""
        mine = (self.peer, self.name, self.mode, self.write, self.options)
        return mine == (other.peer, other.name, other.mode, other.write, other.options)

    def option(self, name: str) -> str | None:
        """
        The value of the option of this name in lower case, or L{None} if it was not asked for.
        """
        return next((value for known, value in self.options if known.lower() == name), None)


def hostPort(address: tuple[str, int] | Peer) -> str:
    """Write an address as text: C{10.0.0.5:69}, C{[::1]:69}, and C{*:69} where the host is the IPv4 wildcard C{""}."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"
