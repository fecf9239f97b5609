"""
Opens the ports of the client's transfers, which hear of closed ports.
"""

from __future__ import annotations

import errno
import socket
from typing import Protocol

from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReactorFDSet, IReactorUDP
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.udp import Port
from twisted.python.failure import Failure

from castd.client.multicast import LARGEST, preparePort
from castd.net import sockets
from castd.request import Peer


class Reachable(Protocol):
    """Describes a protocol that is told of closed ports."""

    def peerUnreachable(self, peer: Peer) -> None:
        """Note that a host reports the port of a peer as closed (ICMP port unreachable)."""


def openPort(reactor: IReactorUDP, protocol: DatagramProtocol, server: str, bind: str) -> IListeningPort:
    """
    Open a port that sends to a server.

    @param server: numeric address of the server.
    @param bind: the address of this machine to send from; C{""}: the system chooses.
    @raise CannotListenError: the port cannot be bound.
    """
    interface = bind or ("::" if isIPv6Address(server) else "")
    port: IListeningPort
    if IReactorFDSet.providedBy(reactor):
        port = real = ReportingPort(reactor, protocol, interface)
        Port.startListening(real)
    else:
        port = reactor.listenUDP(0, protocol, interface, LARGEST)
    preparePort(port)
    return port


class _ZonedSocket(socket.socket):
    """A socket that can be bound to an address with a zone, which Twisted gives as text."""

    def bind(self, address: object, /) -> None:
        """As C{socket.bind}; an address is a host and a port."""
        match address:
            case (str(host), int(port)):
                super().bind(sockets.socketAddress(host, port))
            case _:
                raise TypeError(f"{address!r} is no host and port")


class ReportingPort(Port):
    """
    A port of Twisted's that reports ICMP errors to its protocol, a L{Reachable}.

    Such errors are in a queue of the socket (IP_RECVERR, ip(7)).  While one is there epoll and poll report an error,
    and nothing to read.  Twisted takes that for the loss of a connection: so C{connectionLost} reads the queue, and the
    port goes on.
    """

    protocol: Reachable

    def __init__(self, reactor: IReactorFDSet, protocol: DatagramProtocol, interface: str) -> None:
        Port.__init__(self, 0, protocol, interface, LARGEST, reactor)
        self._stopping = False

    def stopListening(self) -> Deferred[None] | None:
        """As L{IListeningPort.stopListening}."""
        self._stopping = True
        closing: Deferred[None] | None = Port.stopListening(self)
        return closing

    def createInternetSocket(self) -> socket.socket:
        """Return the socket, with its queue of errors."""
        made = _ZonedSocket(self.addressFamily, self.socketType)
        made.setblocking(False)
        sockets.queueErrors(made)
        return made

    def doRead(self) -> None:
        """Read errors, then datagrams."""
        self._reportErrors()
        if not self._stopping:
            try:
                Port.doRead(self)
            except OSError:
                # An error that has come just now, of a kind that is not reported: unreachable hosts and the like.
                self._reportErrors()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Close the port; or read the queue of errors, if the reactor has taken one for the end of a connection."""
        if reason is not None and not self._stopping and self._reportErrors():
            if not self._stopping:
                Port.startReading(self)
            return
        Port.connectionLost(self, reason)

    def _reportErrors(self) -> bool:
        """Report the errors in the queue.  -> whether there was one."""
        errors = sockets.readErrors(self.socket)
        for number, peer in errors:
            if number == errno.ECONNREFUSED and not self._stopping:
                self.protocol.peerUnreachable(peer)
        return bool(errors)
