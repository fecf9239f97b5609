"""
Provide ports for unicast transfers: each is connected to its one peer, and its sockets are reused for later transfers.
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

#: The most pairs of sockets that are kept for the next transfers, for each local address and range of ports; fewer
#: where descriptors are scarce.
MOST_IDLE = 512
#: The most datagrams that L{UnicastPort.readArrived} reads: a window of ACKs, as the peer may still be sending.
MOST_ARRIVED = 128


@lru_cache(1)
def mostIdle() -> int:
    """
    Return the most pairs that are kept: they may have an eighth of the descriptors, as files need descriptors, too.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_IDLE if limit == resource.RLIM_INFINITY else max(1, min(MOST_IDLE, limit // 16))


class SocketPair:
    """
    Holds two sockets on one port: one that is connected to the peer, and its twin for all other senders.

    Both stay in the epoll set while no transfer uses them, and datagrams that arrive then are dropped: to add and
    remove them for each transfer took a twentieth of the time of a small file.

    @ivar main: the socket for the peer.
    @ivar twin: the socket for all other senders.
    @ivar segments: the segmentation option of C{main}.
    @ivar port: the port that uses the sockets; L{None}: they are idle.
    @ivar enlarged: the receive buffer of C{main} is larger than usual, so the pair is not for later transfers.
    """

    __slots__ = ("_epoll", "enlarged", "main", "port", "segments", "twin")

    def __init__(self, epoll: EpollSet, main: socket.socket) -> None:
        """
        @param main: a bound socket; it is closed if this fails.
        @raise OSError: the twin cannot be opened, or the sockets cannot be watched.
        """
        self.main = main
        self.enlarged = False
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
        Connect the sockets to a peer, for this port.

        @raise OSError: there is no route to the peer.
        """
        self.main.connect(peer)
        # From now on only the new peer is received, which does not know this port yet: queued datagrams are of an
        # earlier peer.
        sockets.discardQueued(self.main)
        self.port = port
        self._epoll.add(self.main.fileno(), port.readable)

    def detach(self) -> None:
        """End the use of the sockets by their port."""
        self.port = None
        self._epoll.add(self.main.fileno(), self._discard)

    def _discard(self) -> None:
        """Drop a datagram of the last peer."""
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
    Sends and receives for one transfer with one peer.  Datagrams of other senders arrive by the twin, and are reported.
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
        @param idle: the list that gets the pair when the port is closed, unless it is full.
        @raise OSError: there is no route to the peer; the pair is closed.
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

    def readable(self) -> bool:
        """
        Read one datagram; if there are more the socket stays readable, and other ports are read before.

        @return: whether there was a datagram, or an error.
        """
        try:
            datagram = self._receive(self._largest)
        except OSError as error:
            # While the error is in the error queue the socket stays readable, even if a send has raised it already.
            if self._pair is not None:
                sockets.readErrors(self._pair.main)
            if isinstance(error, ConnectionRefusedError):
                self._protocol.peerUnreachable(self._peer)
            return not isinstance(error, BlockingIOError)
        self._datagramReceived(datagram, self._peer)
        return True

    def readArrived(self) -> None:
        for _ in range(MOST_ARRIVED):
            if self._pair is None or not self.readable():
                return

    def twinReceived(self, datagram: bytes, peer: Peer) -> None:
        """
        Handle a datagram that the twin has received: of another sender, or of the peer before the port was connected.
        """
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
            # The kernel cuts the buffer.  If it refuses, the error ends the fast path, and writeBurst disables the
            # option.
            return self._send
        return lambda image: requireAll(self.writeBurst(image, step), image)

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """Do nothing: the port has a peer, and never sends to a group."""

    def holdWindow(self, blocks: int, octets: int) -> int:
        assert self._pair is not None
        pair = self._pair
        pair.enlarged = pair.enlarged or sockets.windowRoom(pair.main, octets) < blocks
        return sockets.enlargeForWindow(pair.main, blocks, octets)

    def getHost(self) -> IPv4Address | IPv6Address:
        assert self._pair is not None
        return sockets.twistedAddress(self._pair.main)

    def stopListening(self) -> None:
        """Keep the sockets for a later transfer, or close them if enough are kept."""
        if self._pair is None:
            return
        pair, self._pair = self._pair, None
        pair.detach()
        if len(self._idle) < mostIdle() and not pair.enlarged:
            self._idle.append(pair)
        else:
            pair.close()
        self._protocol.doStop()
