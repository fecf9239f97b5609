"""
The machines of a L{Network<castd.testing.Network>} and their ports.

A L{Host} provides L{IPorts}, for the server side, and reads as a reactor of its own (C{listenUDP}, C{callLater},
C{seconds}), so that any C{DatagramProtocol} can be put on it as it would be put on the real one.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.base import DelayedCall
from twisted.internet.error import CannotListenError
from zope.interface import implementer

from castd.interfaces import IPorts
from castd.request import Local, Peer
from castd.testing.ports import ANY, VirtualPort, at

if TYPE_CHECKING:
    from castd.testing.network import Network

_EVERYBODY = "255.255.255.255"
#: Where ports come from whose number does not matter (RFC 6335).
_DYNAMIC = range(49152, 65536)


@implementer(IPorts)
class Host:
    """
    A machine of the network, made by L{Network.host<castd.testing.Network.host>}.

    @ivar addresses: its addresses, the first being the one it speaks from unless something else is said.
    @ivar room: datagrams that its sockets still take before they are full; L{None}: they never are.
    @ivar errno: with this every write fails; 0: none does.
    @ivar before: the same machine, as the process before this one sees it.
    """

    def __init__(self, network: Network, addresses: tuple[str, ...]) -> None:
        faces = [ipaddress.ip_interface(_widened(address)) for address in addresses]
        self.network = network
        self.addresses = tuple(str(face.ip) for face in faces)
        self.subnets = {str(face.ip): face.network for face in faces}
        self.room: int | None = None
        self.errno = 0
        self.before: Host | None = None
        self._ports: dict[VirtualPort, None] = {}

    # IPorts

    keeps = False
    idle = 0

    def retain(self, retained: bool) -> None:
        """As L{IPorts.retain}: nobody keeps anything."""

    def settle(self) -> tuple[()]:
        """As L{IPorts.settle}."""
        return ()

    def legacy(self) -> tuple[()]:
        """As L{castd.net.ports.Ports.legacy}: the ports are found by L{successor}."""
        return ()

    def successor(self) -> Host:
        """
        -> this machine as another process sees it: a port that listens here listens there too, and is read by one of
        the two.
        """
        made = Host(self.network, tuple(f"{name}/{net.prefixlen}" for name, net in self.subnets.items()))
        made.before = self
        return made

    def listen(self, port: int, protocol: Any, interface: str = "", options: object = None) -> VirtualPort:
        """As L{IPorts.listen}."""
        return self._bind(port, protocol, interface, listener=True)

    def openPort(
        self, protocol: Any, local: Local, peer: Peer | None = None, ports: range | None = None
    ) -> VirtualPort:
        """As L{IPorts.openPort}."""
        return self._bind(0, protocol, local.host, peer, pool=ports or _DYNAMIC)

    # A reactor, as it looks from this machine

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> VirtualPort:
        """As L{IReactorUDP.listenUDP}."""
        return self._bind(port, protocol, interface)

    def listenMulticast(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192, listenMultiple: bool = False
    ) -> VirtualPort:
        """As L{IReactorMulticast.listenMulticast}."""
        return self._bind(port, protocol, interface)

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall:
        """As L{IReactorTime.callLater}."""
        return self.network.callLater(delay, callable, *args, **kw)

    def seconds(self) -> float:
        """As L{IReactorTime.seconds}."""
        return self.network.rightNow

    def getDelayedCalls(self) -> list[DelayedCall]:
        """As L{IReactorTime.getDelayedCalls}: the timers of the whole network."""
        return self.network.getDelayedCalls()

    # What the network asks

    def source(self, target: Peer, otherwise: Peer) -> Peer:
        """From which address an unbound port speaks to this one: that of the same subnet, if there is one."""
        if len(self.addresses) == 1:
            return otherwise
        there = ipaddress.ip_address(target[0])
        fitting = (name for name, subnet in self.subnets.items() if there in subnet)
        return at(next(fitting, otherwise[0]), otherwise[1])

    def heardBy(self, target: Peer, sender: VirtualPort) -> Iterable[VirtualPort] | None:
        """
        Who hears what is broadcast to this address; a group that nobody joined has no hearers; L{None}: it is neither.

        @raise PermissionError: a broadcast from a port that was not allowed to.
        """
        address = ipaddress.ip_address(target[0])
        if address.is_multicast:
            return ()
        everybody = target[0] == _EVERYBODY
        hosts = [host for host in self.network.hosts() if everybody or host.inSubnetOf(address)]
        if not hosts and not everybody:
            return None
        if not sender.broadcast:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return [port for host in hosts for port in host.openPorts() if port.wild and port.address[1] == target[1]]

    def onLink(self, address: str) -> tuple[ipaddress.IPv4Network, ...]:
        """What one of its addresses reaches without a router."""
        subnet = self.subnets.get(address)
        return (subnet,) if isinstance(subnet, ipaddress.IPv4Network) else ()

    def inSubnetOf(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Is this the broadcast address of one of its subnets?"""
        return any(subnet.version == 4 and subnet.broadcast_address == address for subnet in self.subnets.values())

    # Binding

    def _bind(
        self,
        number: int,
        protocol: Any,
        interface: str,
        peer: Peer | None = None,
        listener: bool = False,
        pool: range = _DYNAMIC,
    ) -> VirtualPort:
        bound = self.network.bound
        addresses = self.addresses if interface in ANY else (interface,)
        if not set(addresses) <= set(self.addresses):
            raise _cannotListen(interface, number, errno.EADDRNOTAVAIL)
        tries = range(1) if number else range(10 * len(pool))
        inherited = self._inherited(number, interface) if listener else None
        for _ in tries:
            number = number if len(tries) == 1 else self.network.random.choice(pool)
            if inherited is not None:
                break
            if not any((address, number) in bound for address in addresses):
                break
        else:
            raise _cannotListen(interface, number, errno.EADDRINUSE)
        port = VirtualPort(self, number, protocol, interface, peer, listener)
        if inherited is None:
            bound.update({(address, number): port for address in addresses})
        else:
            port.waiting, port.paused = inherited.waiting, True
        self._ports[port] = None
        protocol.makeConnection(port)
        return port

    def _inherited(self, number: int, interface: str) -> VirtualPort | None:
        """-> the port of the process before this one whose socket it is."""
        there = self.before.openPorts() if self.before is not None else ()
        same = (port for port in there if port.address[1] == number and port.wild == (interface in ANY))
        return next((port for port in same if port.wild or port.address[0] == interface), None)

    def unbind(self, port: VirtualPort) -> None:
        """A port was closed."""
        del self._ports[port]
        for place in ((address, port.address[1]) for address in port.locals):
            if self.network.bound.get(place) is port:
                del self.network.bound[place]
        for members in self.network.groups.values():
            members.pop(port, None)

    def openPorts(self) -> tuple[VirtualPort, ...]:
        """What is open now, oldest first: a test's way to see that nothing was left behind."""
        return tuple(self._ports)


def _widened(address: str) -> str:
    if "/" in address:
        return address
    return f"{address}/64" if ":" in address else f"{address}/24"


def _cannotListen(interface: str, number: int, code: int) -> CannotListenError:
    return CannotListenError(interface, number, OSError(code, os.strerror(code)))
