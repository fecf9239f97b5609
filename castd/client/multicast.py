"""
How the client receives: datagrams that are sent to a group, and many at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IMulticastTransport, IReactorMulticast
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.udp import Port

from castd.request import Peer

#: Octets that the kernel is asked to keep for us while Python is busy.
RECEIVE_BUFFER = 4 << 20
#: Octets of the longest datagram.
LARGEST = 65535


def enlargeBuffer(port: object) -> None:
    """Enlarge the receive buffer of a port as far as the kernel allows; a port in memory has none."""
    if isinstance(port, Port):
        with suppress(OSError):
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _addressTowards(port: object, server: str) -> str:
    """
    -> the address of ours that this server sees: its groups are joined there, since a machine may have several
    networks. C{""}: the system is to choose; a port in memory has no socket.
    """
    if isinstance(port, Port):
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Nothing is sent by that.
            probe.connect((server, 9))
            return str(probe.getsockname()[0])
    return ""


class MulticastPort(DatagramProtocol):
    """
    A port that receives what is sent to a group, or broadcasts.

    @ivar group: its address and port; the address is empty for broadcasts.
    @ivar joined: fires when the group is joined; fails if the system does not allow it.
    """

    def __init__(
        self,
        reactor: IReactorMulticast,
        group: tuple[str, int],
        server: str,
        received: Callable[[bytes, Peer], object],
    ) -> None:
        """
        @param server: the address of who sends to the group.
        @param received: called with each datagram and its sender.
        @raise CannotListenError: the port cannot be bound.
        """
        self.group = group
        self._received = received
        port: IMulticastTransport = reactor.listenMulticast(group[1], self, maxPacketSize=LARGEST, listenMultiple=True)
        self._port = port
        self._socketPort: Port | None = port if isinstance(port, Port) else None
        enlargeBuffer(port)
        self.joined: Deferred[None] = succeed(None)
        if group[0]:
            self.joined = port.joinGroup(group[0], _addressTowards(port, server))

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """Receive a datagram from anybody."""
        self._received(datagram, addr)

    def readWaiting(self) -> None:
        """Read now what has arrived; at a port in memory nothing ever waits."""
        if self._socketPort is not None:
            self._socketPort.doRead()

    def close(self) -> None:
        """Close the port; with that the kernel leaves the group."""
        self._port.stopListening()
