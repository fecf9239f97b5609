"""
Read requests of machines that boot, and decide which of them concern a PXE server at all.

The rules are R1 to R10 of docs/transports/proxydhcp.md.  What is not answered here is a L{Silence}.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from castd.options import AnyNetwork
from castd.packets import dhcp, pxe
from castd.packets.dhcp import DhcpPacket
from castd.request import Local, Peer

#: Kinds of requests, as metrics call them.
DISCOVER, REQUEST, ITEM, OTHER = "discover", "request", "item", "other"

#: Reasons of silence, as metrics call them: no PXE client; from a network that is not answered; the access rules say
#: no; no rule matches; the file is not there; a limit is reached; it is meant for another server.
CLASS, NETWORK, ACCESS, RULE, MISSING, LIMIT, FOREIGN = (
    "class",
    "network",
    "access",
    "rule",
    "missing",
    "limit",
    "foreign",
)
REASONS = (CLASS, NETWORK, ACCESS, RULE, MISSING, LIMIT, FOREIGN)

_EVERYBODY = IPv4Address("255.255.255.255")
_NOBODY = IPv4Address(0)
_ALL_ONES = "ffffffff-ffff-ffff-ffff-ffffffffffff"
#: Source ports of 4011 that are servers', so that no two servers can be made to answer each other.
_SERVERS = (0, dhcp.SERVER_PORT, 69)


class Silence(NamedTuple):
    """
    The reason why a request is not answered.

    @ivar reason: one of L{REASONS}.
    @ivar told: a sentence for the log; C{""}: not worth a line.
    @ivar name: the file that it is about.
    """

    reason: str
    told: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """
    What a request tells of the machine.

    @ivar address: the hardware address, or the UUID that some firmware puts in its place, in hexadecimal with colons.
    @ivar mac: the same, if it is an Ethernet address; else L{None}.
    @ivar uuid: L{None}: it has none that tells it from others.
    @ivar architectures: numbers of option 93, the best first; none of them boots by HTTP.
    @ivar ipxe: it is iPXE (or gPXE), not the firmware that the machine was made with.
    @ivar features: those that iPXE lists, as values of L{pxe.IPXE_FEATURES}.
    @ivar userClass: option 77 as it came.
    """

    address: str
    mac: str | None
    uuid: str | None
    architectures: tuple[int, ...]
    ipxe: bool
    features: frozenset[int]
    userClass: bytes

    @classmethod
    def of(cls, packet: DhcpPacket) -> Machine:
        """Read what a packet tells."""
        uuid = pxe.machineUuid(packet.option(dhcp.MACHINE_ID))
        named = pxe.architectures(packet.option(dhcp.ARCHITECTURE), packet.option(dhcp.VENDOR_CLASS))
        return cls(
            address=packet.hardwareAddress,
            mac=packet.hardwareAddress if (packet.htype, packet.hlen) == (1, 6) else None,
            uuid=None if uuid == _ALL_ONES else uuid,
            architectures=tuple(number for number in named if number not in pxe.HTTP_BOOT),
            ipxe=pxe.isIpxe(packet.options),
            features=pxe.ipxeFeatures(packet.option(dhcp.IPXE)),
            userClass=packet.option(dhcp.USER_CLASS),
        )


@dataclass(frozen=True, slots=True)
class BootRequest:
    """
    A request that is answered, if there is something to boot.

    @ivar kind: L{DISCOVER}, L{REQUEST} or L{ITEM}.
    @ivar peer: where it came from.
    @ivar address: of the machine, or of its relay; L{None}: the machine has none yet.
    @ivar networks: those that the machine is in; its address alone, where that is known.
    @ivar item: the item of a menu that was chosen, type and layer, as the octets that came.
    """

    packet: DhcpPacket
    kind: str
    machine: Machine
    peer: Peer
    address: IPv4Address | None
    networks: tuple[AnyNetwork, ...]
    item: bytes | None = None

    @property
    def relay(self) -> IPv4Address | None:
        """The relay that has passed the request on; L{None}: it came directly."""
        return self.packet.giaddr if self.packet.giaddr != _NOBODY else None

    @property
    def place(self) -> str:
        """Where the machine is, in words, as far as that is known."""
        if self.kind != DISCOVER:
            return f"its address is {self.address}"
        if self.relay is not None:
            return f"its relay is {self.relay}{_unread(self.packet)}"
        return f"it is in {' or '.join(map(str, self.networks))}"

    @property
    def source(self) -> tuple[bytes, IPv4Address | None]:
        """
        Who asks: the hardware address, and the address that it asks from; L{None}: it has none yet.  Whoever names the
        hardware address of another machine does so from another address.
        """
        return self.packet.chaddr, self.address if self.kind != DISCOVER else None

    @property
    def identity(self) -> tuple[object, ...]:
        """What a repetition of the request has in common with it."""
        return *self.source, self.packet.xid, self.packet.messageType, self.item


@dataclass(frozen=True, slots=True)
class Reach:
    """
    Whom a server answers.

    @ivar own: its address.
    @ivar clients: the networks that are answered; L{None}: those that the interface reaches directly.
    @ivar relays: requests that a relay has passed on are answered.
    """

    own: IPv4Address
    clients: tuple[AnyNetwork, ...] | None = None
    relays: bool = False

    def allowed(self, local: Local) -> tuple[AnyNetwork, ...]:
        """Return the networks that are answered, for what came in by this interface."""
        if self.clients is not None:
            return self.clients
        return local.networks or self.link(local)

    def link(self, local: Local) -> tuple[IPv4Network, ...]:
        """Return the networks of the interface that a machine without an address is in."""
        holding = tuple(network for network in local.networks if self.own in network)
        return holding or (IPv4Network(self.own),)


def kindOf(packet: DhcpPacket, atBootPort: bool) -> str:
    """Return the kind of a request, for metrics; L{OTHER}: it does not concern a PXE server."""
    if packet.op != dhcp.BOOTREQUEST or not packet.option(dhcp.VENDOR_CLASS).startswith(pxe.PXE_CLIENT):
        return OTHER
    if packet.messageType == dhcp.DISCOVER and not atBootPort:
        return DISCOVER
    if packet.messageType in (dhcp.REQUEST, dhcp.INFORM) and atBootPort:
        return ITEM if pxe.bootItem(packet.option(dhcp.VENDOR_OPTION)) is not None else REQUEST
    return OTHER


def read(packet: DhcpPacket, atBootPort: bool, peer: Peer, local: Local, reach: Reach) -> BootRequest | Silence:
    """
    Decide whether a request concerns this server.

    @param atBootPort: it came to port 4011, not 67.
    @param local: the interface that it came in by.
    @raise WireError: its option 43 cannot be read.
    """
    kind = kindOf(packet, atBootPort)
    if kind == OTHER:
        return Silence(CLASS)
    machine = Machine.of(packet)
    if not machine.architectures:
        return Silence(CLASS, "names no architecture that boots by PXE")
    server = packet.option(dhcp.SERVER_ID)
    if atBootPort and server and server != reach.own.packed:
        return Silence(FOREIGN)
    item = pxe.bootItem(packet.option(dhcp.VENDOR_OPTION)) if kind == ITEM else None
    if item is not None and int.from_bytes(item[2:], "big") & pxe.CREDENTIALS:
        return Silence(RULE)
    placed = _place(packet, atBootPort, peer, local, reach)
    if isinstance(placed, Silence):
        return placed
    address, networks = placed
    return BootRequest(packet, kind, machine, peer, address, networks, item)


def _place(
    packet: DhcpPacket, atBootPort: bool, peer: Peer, local: Local, reach: Reach
) -> tuple[IPv4Address | None, tuple[AnyNetwork, ...]] | Silence:
    """
    Find out where a machine is.

    @return: its address or its relay's, and the networks that it may be in; or why it is not to be answered.  Who has
        sent a request to this very server, as a relay does and port 4011 is asked, expects an answer: that is told.
    """
    allowed = reach.allowed(local)
    if packet.giaddr != _NOBODY:
        if not reach.relays or packet.giaddr == reach.own:
            return Silence(NETWORK)
        if not _inside(packet.giaddr, local, reach):
            told = f"its relay, {packet.giaddr}, is in none of the networks that are answered"
            return Silence(NETWORK, told + _unread(packet))
        if not atBootPort:
            return packet.giaddr, _holding(packet.giaddr, allowed)
    source = IPv4Address(peer[0])
    inside = _inside(source, local, reach)
    if atBootPort:
        if peer[1] in _SERVERS or source == reach.own:
            return Silence(NETWORK)
        if not inside:
            return Silence(NETWORK, f"its address, {source}, is in none of the networks that are answered")
        return source, (IPv4Network(source),)
    # castd doctor asks from this machine itself: its DISCOVER is answered to all, like any other.
    if not inside and source not in (_NOBODY, reach.own):
        return Silence(NETWORK)
    link = reach.link(local)
    near = any(each.overlaps(other) for each in link for other in _fourOf(allowed))
    return (None, link) if near else Silence(NETWORK)


def _unread(packet: DhcpPacket) -> str:
    """Say which link a relay names beside its own address, by which alone rules and C{clients} go."""
    link = dhcp.selectedLink(packet)
    return (
        "" if link in (None, packet.giaddr) else f", and the link that it names in option 82, {link}, is not looked at"
    )


def _fourOf(networks: tuple[AnyNetwork, ...]) -> tuple[IPv4Network, ...]:
    return tuple(network for network in networks if isinstance(network, IPv4Network))


def _holding(address: IPv4Address, networks: tuple[AnyNetwork, ...]) -> tuple[AnyNetwork, ...]:
    """Return the smallest of the networks that hold an address."""
    holding = [network for network in _fourOf(networks) if address in network]
    return (max(holding, key=lambda network: network.prefixlen),)


def _inside(address: IPv4Address, local: Local, reach: Reach) -> bool:
    """Return whether an address may be answered: that of one host, not ours, in the networks that are answered."""
    if address.is_multicast or address in (_EVERYBODY, _NOBODY, reach.own):
        return False
    allowed = _fourOf(reach.allowed(local))
    directed = (each.broadcast_address for each in (*allowed, *local.networks) if each.prefixlen < 31)
    return any(address in network for network in allowed) and address not in directed
