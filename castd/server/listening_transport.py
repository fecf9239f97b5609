"""
Send by a request port what a cast or an upload without a port of its own sends.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.address import IPv4Address, IPv6Address
from zope.interface import implementer

from castd.interfaces import IDatagramPort, IListeningPort, Octets
from castd.request import Local, Peer, Request


@implementer(IDatagramPort)
class ListeningTransport:
    """
    Sends the datagrams of a cast or upload by the request port, from the address that the request was sent to.
    """

    def __init__(self, port: IListeningPort, request: Request) -> None:
        self._port = port
        self._local = request.local
        self._peer = request.peer
        self._groupOptions: tuple[int, str, bool, bool] | None = None

    def _prepared(self) -> IListeningPort:
        """Return the port, prepared for the group of this cast: another cast may have sent to another network since."""
        if self._groupOptions is not None:
            self._port.chooseGroup(*self._groupOptions)
        return self._port

    def write(self, datagram: Octets, address: Peer | None = None) -> None:
        self._prepared().writeFrom(datagram, address or self._peer, self._local)

    def writeFrom(self, datagram: Octets, address: Peer, local: Local) -> None:
        self._prepared().writeFrom(datagram, address, local)

    def writeBurst(self, image: Octets, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        return self._prepared().writeBurst(image, step, address or self._peer, local or self._local)

    def burstWriter(self, step: int, most: int, address: Peer | None = None) -> Callable[[Octets], None]:
        target = address or self._peer

        def send(image: Octets) -> None:
            if self.writeBurst(image, step, target) < len(image):
                raise BlockingIOError

        return send

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        self._groupOptions = ttl, interface, loopback, broadcast
        self._port.setGroup(ttl, interface, loopback, broadcast)

    def holdWindow(self, blocks: int, octets: int) -> int:
        return self._port.holdWindow(blocks, octets)

    def getHost(self) -> IPv4Address | IPv6Address:
        return self._port.getHost()

    def readArrived(self) -> None:
        """Do nothing: the datagrams of a peer at the request port are read in their order."""

    def stopListening(self) -> None:
        """Do nothing: the port belongs to the listener."""
