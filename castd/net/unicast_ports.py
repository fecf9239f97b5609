"""
Ports for transfers by unicast: each is connected to its one receiver, and its sockets are used again and again.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from functools import lru_cache

from twisted.internet.address import IPv4Address, IPv6Address
from zope.interface import implementer

from castd.interfaces import IDatagramPort, ITransferProtocol, Octets
from castd.net import sockets
from castd.net.epoll import EpollSet
from castd.net.gso import SegmentOption, requireAll, sendBurst
from castd.request import Local, Peer

#: Pairs of sockets that are kept for the next transfers, for each of our addresses; fewer where descriptors are scarce.
MOST_IDLE = 512


@lru_cache(1)
def mostIdle() -> int:
    """
    -> how many pairs are kept: with an eighth of the descriptors at the most.  What is kept for ports cannot be had for
    files any more.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_IDLE if limit == resource.RLIM_INFINITY else max(1, min(MOST_IDLE, limit // 16))


class SocketPair:
    """
    Two sockets on one port: one for the peer, to be connected, and its twin for strangers.

    Both stay in the epoll set while no transfer has them, and what comes then is thrown away: to take them in and out
    for each transfer was a twentieth of what a small file costs.

    @ivar port: the port that uses them; L{None}: they are idle.
    """

    __slots__ = ("_epoll", "main", "port", "segments", "twin")

    def __init__(self, epoll: EpollSet, main: socket.socket) -> None:
        """
        @param main: a bound socket; it is closed if this fails.
        @raise OSError: there can be no second socket, or they cannot be watched.
        """
        self.main = main
        try:
            self.twin = sockets.bindTwin(main)
        except BaseException:
            main.close()
            raise
        self.segments = SegmentOption(main, 0)
        self.port: UnicastPort | None = None
        self._epoll = epoll
        try:
            epoll.add(main.fileno(), self._discard)
            epoll.add(self.twin.fileno(), self._readTwin)
        except BaseException:
            self.close()
            raise

    def connect(self, port: UnicastPort, peer: Peer) -> None:
        """
        Let this port use the sockets, with this peer.

        @raise OSError: there is no way to the peer.
        """
        self.main.connect(peer)
        # Now only the new peer is heard, and it does not know this port yet: what is there is for the one before.
        sockets.discardQueued(self.main)
        self.port = port
        self._epoll.add(self.main.fileno(), port.readable)

    def detach(self) -> None:
        """Take the sockets from their port."""
        self.port = None
        self._epoll.add(self.main.fileno(), self._discard)

    def _discard(self) -> None:
        """The last peer is still sending."""
        sockets.discardQueued(self.main, 1)

    def _readTwin(self) -> None:
        try:
            datagram, peer = self.twin.recvfrom(65535)
        except OSError:
            sockets.readErrors(self.twin)
            return
        if self.port is not None:
            self.port.twinReceived(datagram, peer)

    def close(self) -> None:
        """Close both sockets."""
        for sock in (self.main, self.twin):
            self._epoll.remove(sock.fileno())
            sock.close()


@implementer(IDatagramPort)
class UnicastPort:
    """
    A port with one peer, for one transfer.  The twin is heard as well: who sends to a foreign transfer is told so.
    """

    __slots__ = (
        "_datagramReceived",
        "_idle",
        "_largest",
        "_pair",
        "_peer",
        "_protocol",
        "_receive",
        "_segments",
        "_send",
    )

    def __init__(
        self, idle: list[SocketPair], pair: SocketPair, protocol: ITransferProtocol, local: Local, peer: Peer
    ) -> None:
        """
        @param idle: where the pair goes in the end, if there is room.
        @raise OSError: there is no way to the peer; the pair is closed.
        """
        self._idle = idle
        self._pair: SocketPair | None = pair
        self._peer = peer
        self._protocol = protocol
        self._largest = protocol.largest
        self._receive = pair.main.recv
        self._datagramReceived = protocol.datagramReceived
        self._send: Callable[[Octets], int] = pair.main.send
        self._segments = pair.segments
        try:
            pair.connect(self, peer)
        except OSError:
            pair.close()
            raise
        pair.segments.setMtu(local.mtu)
        protocol.makeConnection(self)

    def readable(self) -> None:
        """Read one datagram a visit: what is left makes the set readable again, and other ports get their turn."""
        try:
            datagram = self._receive(self._largest)
        except OSError as error:
            # It stays in the queue of errors, and would wake us for ever, even if a send was told of it already.
            if self._pair is not None:
                sockets.readErrors(self._pair.main)
            if isinstance(error, ConnectionRefusedError):
                self._protocol.peerUnreachable(self._peer)
            return
        self._datagramReceived(datagram, self._peer)

    def twinReceived(self, datagram: bytes, peer: Peer) -> None:
        """The twin has received a datagram: a stranger's, or the peer's from before the port was connected."""
        if peer == self._peer:
            self._protocol.datagramReceived(datagram, peer)
        else:
            self._protocol.strangerReceived(datagram, peer)

    def write(self, datagram: Octets, address: Peer | None = None) -> None:
        if self._pair is None:
            return
        if address is None or address == self._peer:
            self._segments.keepWhole(len(datagram))
            self._send(datagram)
        else:
            self._pair.twin.sendto(datagram, address)

    def writeFrom(self, datagram: Octets, address: Peer, local: Local) -> None:
        self.write(datagram, address)

    def writeBurst(self, image: Octets, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        if len(image) <= step:
            self._segments.keepWhole(len(image))
            # A full socket raises, as write does.
            self._send(image)
            return len(image)
        return sendBurst(self._segments, self._send, image, step)

    def burstWriter(self, step: int, most: int) -> Callable[[Octets], object]:
        if most <= step:
            self._segments.keepWhole(step)
            return self._send
        if self._segments.fits(step, step) and self._segments.enable(step):
            # The kernel cuts it; what it will not do is an error, and found out by writeBurst.
            return self._send
        return lambda image: requireAll(self.writeBurst(image, step), image)

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """It has a peer, and never sends to a group."""

    def getHost(self) -> IPv4Address | IPv6Address:
        assert self._pair is not None
        return sockets.twistedAddress(self._pair.main)

    def stopListening(self) -> None:
        """Give the sockets back, or close them if enough are idle."""
        if self._pair is None:
            return
        pair, self._pair = self._pair, None
        pair.detach()
        if len(self._idle) < mostIdle():
            self._idle.append(pair)
        else:
            pair.close()
        self._protocol.doStop()
