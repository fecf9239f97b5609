"""
Defines the values that a dialect makes of the first datagram of a peer: the request, the peer, the local address.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, ip_address
from typing import TypeAlias

#: The address of a peer as the socket gives it: C{(host, port)}, or C{(host, port, flow, scope)} for IPv6.  A cast uses
#: it as a key only.
Peer: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

#: The MTU that is assumed if the interface is not known: Ethernet's.  Octets.
ETHERNET_MTU = 1500


@dataclass(frozen=True, slots=True)
class Local:
    """
    The local address that a datagram was sent to, and its interface.  The answer leaves from this address.

    @ivar host: numeric address; the wildcard if the system does not tell the address.
    @ivar interface: index of the interface that the datagram came in by; 0 if unknown.
    @ivar broadcast: the address is a broadcast or multicast address.
    @ivar mtu: octets in the largest IP packet of that interface.
    @ivar networks: the networks that the interface reaches without a router; empty if unknown.
    @ivar broadcasts: the broadcast addresses of these networks.
    """

    host: str
    port: int
    interface: int = 0
    broadcast: bool = False
    mtu: int = ETHERNET_MTU
    networks: tuple[IPv4Network, ...] = ()
    broadcasts: frozenset[str] = field(init=False, default=frozenset(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.networks:
            # Of two addresses both are those of machines (RFC 3021).
            several = (str(each.broadcast_address) for each in self.networks if each.prefixlen < 31)
            object.__setattr__(self, "broadcasts", frozenset(several))

    def sharesNetwork(self, other: Local) -> bool:
        """
        Return whether a group that is sent from this address reaches those who have asked another one: it is the same
        address, or both are in one network.
        """
        if self.host == other.host:
            return True
        ours, its = ip_address(self.host), ip_address(other.host)
        return any(ours in each and its in each for each in self.networks)


@dataclass(slots=True)
class Trace:
    """
    Collects where the file of one request was looked for, for the log.

    @ivar places: each source (or place for uploads) that was asked: C{file:line} of its entry in the service file, or
        C{""}; and a function that tells its path by the name asked for, or L{None}.
    @ivar found: the last of them has the file, or has refused it.
    """

    places: list[tuple[str, Callable[[str], str] | None]] = field(default_factory=list)
    found: bool = False


@dataclass(frozen=True, slots=True)
class Quirks:
    """
    Holds what is done differently for the client of a request, as L{castd.profiles} has found.

    @ivar profiles: the names of the profiles that match it.
    @ivar blksize: octets of the largest block that is granted; L{None}: as to all others.
    @ivar windowsize: blocks of the largest window that is granted; L{None}: as to all others.
    @ivar timeout: the longest interval that is granted, seconds; L{None}: as to all others.
    @ivar refuse: names of options, in lower case, that are not granted.
    @ivar oack: options may be granted at all.
    @ivar rollover: the number of the block after 65535, where none is negotiated.
    """

    profiles: tuple[str, ...] = ()
    blksize: int | None = None
    windowsize: int | None = None
    timeout: float | None = None
    refuse: frozenset[str] = frozenset()
    oack: bool = True
    rollover: int = 0

    def refuses(self, option: str) -> bool:
        """Return whether an option is not granted.  The name is in lower case."""
        return not self.oack or option in self.refuse


# Not frozen: Python would take four times as long to make one, and each request makes two.
@dataclass(slots=True, unsafe_hash=True)
class Request:
    """
    One request of a client: a value, which nobody changes.

    @ivar peer: the address of the client.
    @ivar local: the local address that the request was sent to.
    @ivar name: the file's name as the client wrote it, UTF-8 with surrogate escapes, so that no octet is lost; or as a
        profile has mended it.
    @ivar mode: C{"octet"} or C{"netascii"}.
    @ivar write: the request is an upload.
    @ivar options: name and value of each option, ISO 8859-1, in the order of the request, doubles dropped.
    @ivar detail: for the dialect's own use (SLAM: the list of missing blocks).
    @ivar trace: what is found out on its way, for the log; a source and a dialect need not know of it.
    @ivar sentMode: the mode as the client wrote it; C{""}: the protocol has none.
    @ivar sentName: the name as the client wrote it, if a profile has mended it.
    @ivar quirks: what is done differently for its client; L{None}: nothing.
    """

    peer: Peer
    local: Local
    name: str
    mode: str = "octet"
    write: bool = False
    options: tuple[tuple[str, str], ...] = ()
    detail: object = field(default=None, compare=False)
    trace: Trace = field(default_factory=Trace, compare=False, repr=False)
    sentMode: str = field(default="", compare=False, repr=False)
    sentName: str | None = field(default=None, compare=False, repr=False)
    quirks: Quirks | None = field(default=None, compare=False, repr=False)

    def repeats(self, other: Request) -> bool:
        """Return whether this is the same request as the other one, sent again; the local address may differ."""
        name, before = self.sentName or self.name, other.sentName or other.name
        asked = (self.peer, name, self.mode, self.write, self.options)
        return asked == (other.peer, before, other.mode, other.write, other.options)

    def readAgain(self, first: Request) -> Request:
        """
        Return this request with what was found out of the first one, which another dialect has read from the same
        datagram.
        """
        if first.sentName is None:
            return replace(self, trace=first.trace, quirks=first.quirks)
        return replace(self, trace=first.trace, quirks=first.quirks, name=first.name, sentName=self.name)

    def profiled(self, name: str, quirks: Quirks) -> Request:
        """
        Return this request as profiles have found it to be meant.  (C{dataclasses.replace} would take twice the time.)

        @param name: the name of the file; the one that the client has sent, or a mended one.
        """
        sent = None if name == self.name else self.name
        known = self.peer, self.local, name, self.mode, self.write, self.options, self.detail, self.trace
        return Request(*known, self.sentMode, sent, quirks)

    def option(self, name: str) -> str | None:
        """
        Find the value of an option.

        @param name: in lower case.
        @return: L{None} if the request does not have it.
        """
        return next((value for known, value in self.options if known.lower() == name), None)


def hostPort(address: tuple[str, int] | Peer) -> str:
    """Write an address as text: C{10.0.0.5:69}, C{[::1]:69}, and C{*:69} where the host is the IPv4 wildcard C{""}."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"
