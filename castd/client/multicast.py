"""
Receives datagrams that are sent to a group, many at once, for the client.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IMulticastTransport, IReactorMulticast
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.udp import Port

from castd.net import devices, sockets
from castd.request import Peer

#: The most octets in a datagram.
LARGEST = 65535
#: The most datagrams of a group that are read before a datagram of the server is: as many as a buffer holds.
MOST_WAITING = 4096


def preparePort(port: object) -> None:
    """
    Enlarge the receive buffer of a port as far as the kernel allows, and let what it sends be fragmented, as the server
    does; do nothing for a port in memory.
    """
    if isinstance(port, Port):
        sockets.allowFragments(port.socket)
        sockets.enlargeBuffer(port.socket, sockets.MOST_WINDOW_BUFFER)


def _addressTowards(port: object, server: str) -> str:
    """
    Return the address of this machine that sends to this server; the server's groups are joined at its interface, since
    a machine may have several networks. C{""}: the system chooses; a port in memory has no socket.
    """
    return devices.addressTowards(server) if isinstance(port, Port) else ""


class MulticastPort(DatagramProtocol):
    """
    A port that receives the datagrams of a group, or broadcasts.

    @ivar group: address and port of the group; the address is empty for broadcasts.
    @ivar joined: fires when the group is joined; fails if the system does not allow it.
    """

    def __init__(
        self,
        reactor: IReactorMulticast,
        group: tuple[str, int],
        server: str,
        received: Callable[[bytes, Peer], object],
        interface: str = "",
    ) -> None:
        """
        @param interface: the address of this machine whose network the group is joined in; C{""}: the one that sends to
            the server.
        @param server: the address of the server, which sends to the group.
        @param received: called with each datagram and its sender.
        @raise CannotListenError: the port cannot be bound.
        """
        self.group = group
        self._received = received
        self._reads = 0
        # Bound to the group's address the socket receives nothing else, and the port may be that of a server on this
        # machine.
        port: IMulticastTransport = reactor.listenMulticast(
            group[1], self, interface=group[0], maxPacketSize=LARGEST, listenMultiple=True
        )
        self._port = port
        self._socketPort: Port | None = port if isinstance(port, Port) else None
        preparePort(port)
        self.joined: Deferred[None] = succeed(None)
        if group[0]:
            self.joined = port.joinGroup(group[0], interface or _addressTowards(port, server))

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """Receive a datagram from any sender."""
        self._reads += 1
        self._received(datagram, addr)

    def readWaiting(self) -> None:
        """
        Read the datagrams that have arrived now; at a port in memory none ever waits.

        Twisted reads a part of them each time.  The number is bounded, since they may come faster than they are read.
        """
        if self._socketPort is not None:
            until = self._reads + MOST_WAITING
            before = -1
            while before < self._reads < until:
                before = self._reads
                self._socketPort.doRead()

    def close(self) -> None:
        """Close the port; the kernel then leaves the group."""
        self._port.stopListening()
