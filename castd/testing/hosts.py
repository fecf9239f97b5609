"""
Provides the machines of a L{Network<castd.testing.Network>}.

A L{Host} provides L{IPorts}, for a server, and has the methods of a reactor (C{listenUDP}, C{callLater}, C{seconds}),
so that any C{DatagramProtocol} can listen on it.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from twisted.internet.base import DelayedCall
from twisted.internet.error import CannotListenError
from zope.interface import implementer

from castd.interfaces import IListeningProtocol, IPorts, ITransferProtocol
from castd.net.devices import ownAddress
from castd.request import Local, Peer
from castd.testing.ports import ANY, UdpProtocol, VirtualPort, peerAt

if TYPE_CHECKING:
    from castd.testing.network import Network

_EVERYBODY = "255.255.255.255"
#: The dynamic ports, for ports without a wanted number (RFC 6335).
_DYNAMIC = range(49152, 65536)


@implementer(IPorts)
class Host:
    """
    A machine of the network, made by L{Network.host<castd.testing.Network.host>}.

    @ivar addresses: the addresses of the machine; unbound ports send from the first by default.
    @ivar room: how many more datagrams the sockets take before they are full; L{None}: they are never full.
    @ivar buffer: octets of datagrams that the receive buffer of a port holds; L{None}: it holds any number.
    @ivar errno: the error that every write fails with; 0: writes do not fail.
    @ivar predecessor: the same machine, as the predecessor in an upgrade sees it.
    """

    def __init__(self, network: Network, addresses: tuple[str, ...]) -> None:
        faces = [ipaddress.ip_interface(_withPrefix(address)) for address in addresses]
        self.network = network
        self.addresses = tuple(str(face.ip) for face in faces)
        self.subnets = {str(face.ip): face.network for face in faces}
        self.room: int | None = None
        self.buffer: int | None = None
        self.errno = 0
        self.predecessor: Host | None = None
        self._ports: dict[VirtualPort, None] = {}

    # IPorts

    storing = False
    idle = 0

    def freezeStore(self, frozen: bool) -> None:
        """As L{IPorts.freezeStore}: there is no store."""

    def reconcileStore(self) -> tuple[()]:
        """As L{IPorts.reconcileStore}."""
        return ()

    def boundSockets(self) -> list[tuple[tuple[str, int], socket.socket, bool]]:
        """As L{IPorts.boundSockets}: none, since the successor is a L{Host} that finds the ports by L{successor}."""
        return []

    def readArrived(self) -> None:
        """As L{IPorts.readArrived}: nothing to do, since every datagram that has arrived was read."""

    def successor(self) -> Host:
        """
        Return this machine, as a second process sees it: a port that listens here listens there too, and one of both
        processes reads it.
        """
        made = Host(self.network, tuple(f"{name}/{net.prefixlen}" for name, net in self.subnets.items()))
        made.predecessor = self
        return made

    def listen(self, port: int, protocol: IListeningProtocol, interface: str = "") -> VirtualPort:
        """As L{IPorts.listen}."""
        inherited = self._inherited(port, interface)
        number = self._number(port, interface, taken=inherited is not None)
        return self._open(VirtualPort(self, number, interface, listening=protocol), inherited)

    def openPort(
        self, protocol: ITransferProtocol, local: Local, peer: Peer | None = None, ports: range | None = None
    ) -> VirtualPort:
        """As L{IPorts.openPort}."""
        number = self._number(0, local.host, ports or _DYNAMIC)
        return self._open(VirtualPort(self, number, local.host, peer, transfer=protocol))

    # The methods of a reactor

    def listenUDP(
        self, port: int, protocol: UdpProtocol, interface: str = "", maxPacketSize: int = 8192
    ) -> VirtualPort:
        """As L{IReactorUDP.listenUDP}."""
        number = self._number(port, interface)
        return self._open(VirtualPort(self, number, interface, client=protocol))

    def listenMulticast(
        self,
        port: int,
        protocol: UdpProtocol,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> VirtualPort:
        """
        As L{IReactorMulticast.listenMulticast}.  A port that is bound to the address of a group receives what is sent
        to that group, if it joins it, and nothing else; its number may be that of another port.
        """
        if interface in ANY or not ipaddress.ip_address(interface).is_multicast:
            return self.listenUDP(port, protocol, interface)
        if any(each.wildcard and not each.admits and each.address[1] == port for each in self.openPorts()):
            raise _cannotListen(interface, port, errno.EADDRINUSE)
        made = VirtualPort(self, port, "", client=protocol)
        made.locals, made.places, made.wildcard = {}, (), False
        return self._open(made)

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall:
        """As L{IReactorTime.callLater}."""
        return self.network.callLater(delay, callable, *args, **kw)

    def seconds(self) -> float:
        """As L{IReactorTime.seconds}."""
        return self.network.rightNow

    def getDelayedCalls(self) -> list[DelayedCall]:
        """As L{IReactorTime.getDelayedCalls}: the timers of the whole network."""
        return self.network.getDelayedCalls()

    # For the network

    def sourceFor(self, target: Peer, otherwise: Peer) -> Peer:
        """
        Return the address that an unbound port uses to send to this target: one in the same subnet, if there is one.
        """
        if len(self.addresses) == 1:
            return otherwise
        there = ipaddress.ip_address(target[0])
        fitting = (name for name, subnet in self.subnets.items() if there in subnet)
        return peerAt(next(fitting, otherwise[0]), otherwise[1])

    def heardBy(self, target: Peer, sender: VirtualPort) -> Iterable[VirtualPort] | None:
        """
        Return the ports that receive a datagram to this address: none for a group without members. L{None}: the
        address is no group and no broadcast.

        @raise PermissionError: the sender broadcasts and was not allowed to.
        """
        address = ipaddress.ip_address(target[0])
        if address.is_multicast:
            return ()
        everybody = target[0] == _EVERYBODY
        hosts = [host for host in self.network.hosts() if everybody or host.hasBroadcast(address)]
        if not hosts and not everybody:
            return None
        if not sender.broadcast:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        ports = (port for host in hosts for port in host.openPorts() if port.address[1] == target[1])
        return [port for port in ports if port.wildcard or port.shared == target[0]]

    def reached(self, address: str) -> tuple[ipaddress.IPv4Network, ...] | None:
        """As L{IPorts.reached}."""
        return self.onLink(address) if address in self.addresses else None

    def isOurs(self, interface: str) -> bool:
        """As L{IPorts.isOurs}."""
        return ownAddress(interface) in (*ANY, *self.addresses)

    def windowRoom(self, blocks: int, octets: int) -> int:
        """As L{IPorts.windowRoom}; see C{buffer}."""
        return blocks if self.buffer is None else self.buffer // octets

    def localFor(self, interface: str, port: int, client: str) -> Local:
        """As L{IPorts.localFor}."""
        host = self.sourceFor((client, 9), (self.addresses[0], 9))[0] if interface in ANY else interface
        return Local(host, port, self.addresses.index(host) + 1, networks=self.onLink(host))

    def reaches(self, address: str) -> bool:
        """Return whether an address lies in one of the host's subnets."""
        return any(ipaddress.ip_address(address) in subnet for subnet in self.subnets.values())

    def onLink(self, address: str) -> tuple[ipaddress.IPv4Network, ...]:
        """Return the network that one of the host's addresses reaches without a router."""
        subnet = self.subnets.get(address)
        return (subnet,) if isinstance(subnet, ipaddress.IPv4Network) else ()

    def hasBroadcast(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Return whether this is the broadcast address of one of the host's subnets."""
        return any(subnet.version == 4 and subnet.broadcast_address == address for subnet in self.subnets.values())

    # Binding

    def _number(self, number: int, interface: str, pool: range = _DYNAMIC, taken: bool = False) -> int:
        """
        Find a port number to bind to.

        @param number: the wanted number; 0: a free one of C{pool}.
        @param taken: the predecessor has this port, and shares it.
        """
        bound = self.network.bound
        addresses = self.addresses if interface in ANY else (interface,)
        if not {ownAddress(each) for each in addresses} <= set(self.addresses):
            raise _cannotListen(interface, number, errno.EADDRNOTAVAIL)
        tries = range(1) if number else range(10 * len(pool))
        for _ in tries:
            number = number if len(tries) == 1 else self.network.random.choice(pool)
            if taken or not any((address, number) in bound for address in addresses):
                break
        else:
            raise _cannotListen(interface, number, errno.EADDRINUSE)
        return number

    def _open(self, port: VirtualPort, inherited: VirtualPort | None = None) -> VirtualPort:
        if inherited is None:
            self.network.bound.update({(place, port.address[1]): port for place in port.places})
        else:
            port.waiting, port.paused, port.inherited = inherited.waiting, True, True
        if port.shared not in ("", _EVERYBODY):
            port.joinGroup(port.shared)
        self._ports[port] = None
        try:
            port.connect()
        except BaseException:
            port.closed = True
            self.unbind(port)
            raise
        return port

    def _inherited(self, number: int, interface: str) -> VirtualPort | None:
        """Return the port of the predecessor that shares this socket; L{None}: there is none."""
        there = self.predecessor.openPorts() if self.predecessor is not None else ()
        same = (port for port in there if port.address[1] == number and port.wildcard == (interface in ANY))
        return next((port for port in same if port.wildcard or interface in port.places), None)

    def unbind(self, port: VirtualPort) -> None:
        """Forget a port that was closed."""
        del self._ports[port]
        for place in ((each, port.address[1]) for each in port.places):
            if self.network.bound.get(place) is port:
                del self.network.bound[place]
        for members in self.network.groups.values():
            members.pop(port, None)

    def openPorts(self) -> tuple[VirtualPort, ...]:
        """Return the ports that are open now, oldest first, so that a test can check that none is left."""
        return tuple(self._ports)


def _withPrefix(address: str) -> str:
    if "/" in address:
        return address
    return f"{address}/64" if ":" in address else f"{address}/24"


def _cannotListen(interface: str, number: int, code: int) -> CannotListenError:
    return CannotListenError(interface, number, OSError(code, os.strerror(code)))
