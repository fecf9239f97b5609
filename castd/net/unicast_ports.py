"""
Provide ports for unicast transfers: each is connected to its one peer, and closed after its transfer.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.address import IPv4Address, IPv6Address
from zope.interface import implementer

from castd import native
from castd.interfaces import IDatagramPort, ITransferProtocol, Octets
from castd.net import sockets
from castd.net.epoll import EpollSet, Readable
from castd.net.gso import SegmentOption, requireAll, sendBurst
from castd.net.sockets import Socket
from castd.request import Local, Peer

#: The most datagrams that L{UnicastPort.readArrived} reads: a window of ACKs, as the peer may still be sending.
MOST_ARRIVED = 128


class SocketPair:
    """
    Holds two sockets on one port: one that is connected to the peer, and its twin for all other senders.

    Both are in the epoll set from the beginning: while no transfer uses them datagrams that arrive are dropped, so that
    nobody can fill their buffers in advance.

    @ivar main: the socket for the peer.
    @ivar twin: the socket for all other senders.
    @ivar port: the port that uses the sockets; L{None}: they are idle.
    """

    __slots__ = ("_epoll", "main", "port", "twin")

    def __init__(self, epoll: EpollSet, pair: tuple[Socket, Socket]) -> None:
        """
        @param pair: two sockets on one port, see L{sockets.bindPair}; they are closed if this fails.
        @raise OSError: the sockets cannot be watched.
        """
        self.main, self.twin = pair
        self.port: UnicastPort | None = None
        self._epoll = epoll
        try:
            epoll.add(self.main.fileno(), self._discard)
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
        # From now on only the peer is received, which does not know this port yet: whatever is queued is forged.
        if sockets.mayHaveArrived(self.main):
            sockets.discardQueued(self.main)
        self.port = port
        self._epoll.change(self.main.fileno(), port.reader())

    def _discard(self) -> None:
        """Drop a datagram, as no transfer uses the port yet."""
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
        self.port = None
        for sock in (self.main, self.twin):
            self._epoll.remove(sock.fileno(), closing=True)
            sockets.closeSocket(sock)


@implementer(IDatagramPort)
class UnicastPort:
    """
    Sends and receives for one transfer with one peer.  Datagrams of other senders arrive by the twin, and are reported.
    """

    __slots__ = (
        "_datagramReceived",
        "_largest",
        "_pair",
        "_peer",
        "_protocol",
        "_receive",
        "_segments",
        "_send",
    )

    def __init__(self, pair: SocketPair, protocol: ITransferProtocol, local: Local, peer: Peer) -> None:
        """
        @param pair: sockets on a port whose number nobody has seen.
        @raise OSError: there is no route to the peer; the pair is closed, as with any other error.
        """
        self._pair: SocketPair | None = pair
        self._peer = peer
        self._protocol = protocol
        self._largest = protocol.largest
        self._receive = pair.main.recv
        self._datagramReceived = protocol.datagramReceived
        self._send: Callable[[Octets], int] = pair.main.send
        self._segments = SegmentOption(pair.main, local.mtu)
        try:
            pair.connect(self, peer)
            protocol.makeConnection(self)
        except BaseException:
            # The protocol may be a plugin's.  It has not begun, so it is not told of the end.
            self._pair = None
            pair.close()
            raise

    def reader(self) -> Readable:
        """Return what reads one datagram: C{readable}, with what the compiled loop has to know where it is used."""
        protocol = self._protocol
        if not native.NATIVE or not isinstance(protocol, native.StepState):
            return self.readable
        return native.StepReader(
            protocol,
            self._send,
            self.readable,
            self._datagramReceived,
            protocol.stepRefused,
            self._receiveFailed,
            self._peer,
            self._largest,
        )

    def readable(self) -> bool:
        """
        Read one datagram; if there are more the socket stays readable, and other ports are read before.

        @return: whether there was a datagram, or an error.
        """
        receive, received = self._receive, self._datagramReceived
        try:
            datagram = receive(self._largest)
        except OSError as error:
            return self._receiveFailed(error)
        received(datagram, self._peer)
        return True

    def _receiveFailed(self, error: OSError) -> bool:
        """Handle an error of the socket.  -> whether it is more than that there is no datagram."""
        # While the error is in the error queue the socket stays readable, even if a send has raised it already.
        if self._pair is not None:
            sockets.readErrors(self._pair.main)
        if isinstance(error, ConnectionRefusedError):
            self._protocol.peerUnreachable(self._peer)
        return not isinstance(error, BlockingIOError)

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

    def burstWriter(self, step: int, most: int, address: Peer | None = None) -> Callable[[Octets], object]:
        if most <= step:
            self._segments.keepWhole(step)
            return self._send
        if self._segments.fits(most, step) and self._segments.enable(step):
            # The kernel cuts the buffer.  If it refuses, the error ends the fast path, and writeBurst disables the
            # option.
            return self._send
        return lambda image: requireAll(self.writeBurst(image, step), image)

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """Do nothing: the port has a peer, and never sends to a group."""

    def holdWindow(self, blocks: int, octets: int) -> int:
        assert self._pair is not None
        pair = self._pair
        return sockets.enlargeForWindow(pair.main, blocks, octets)

    def getHost(self) -> IPv4Address | IPv6Address:
        assert self._pair is not None
        return sockets.twistedAddress(self._pair.main)

    def stopListening(self) -> None:
        """Close the sockets: the peer knows the number of the port, so no other peer gets it."""
        if self._pair is None:
            return
        pair, self._pair = self._pair, None
        pair.close()
        self._protocol.doStop()
