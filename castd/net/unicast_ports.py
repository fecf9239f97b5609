"""
Lent ports: one for each transfer by unicast, connected to its receiver, used again and again.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from zope.interface import implementer

from castd.interfaces import IDatagramPort
from castd.net import sockets
from castd.net.epoll import EpollSet
from castd.net.gso import GsoSender, allOf, sendBurst
from castd.request import Local, Peer

#: Pairs of sockets kept for the next transfers, for each of our addresses; fewer where descriptors are scarce.
KEPT = 512


@lru_cache(1)
def kept() -> int:
    """
    -> how many pairs are kept: with an eighth of the descriptors at the most.  What is kept for ports cannot be had for
    files any more.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return KEPT if limit == resource.RLIM_INFINITY else max(1, min(KEPT, limit // 16))


class SocketPair:
    """
    Two sockets on one port: one for the peer, to be connected, and its twin for strangers.

    Both stay in the set while nobody has them, and what comes then is thrown away: to take them in and out for each
    transfer was a twentieth of what a small file costs.

    @ivar lent: who has it.
    """

    __slots__ = ("_ports", "bursts", "lent", "main", "twin")

    def __init__(self, ports: EpollSet, main: socket.socket) -> None:
        self.main = main
        try:
            self.twin = sockets.twinOf(main)
        except BaseException:
            main.close()
            raise
        self.bursts = GsoSender(main, 0)
        self.lent: UnicastPort | None = None
        self._ports = ports
        try:
            ports.add(main.fileno(), self._idle)
            ports.add(self.twin.fileno(), self._strayed)
        except BaseException:
            self.close()
            raise

    def openPort(self, port: UnicastPort, peer: Peer) -> None:
        """@raise OSError: there is no way to the peer."""
        self.main.connect(peer)
        # Now only the new peer is heard, and it does not know this port yet: what is there is for the one before.
        sockets.empty(self.main)
        self.lent = port
        self._ports.add(self.main.fileno(), port.readable)

    def giveBack(self) -> None:
        self.lent = None
        self._ports.add(self.main.fileno(), self._idle)

    def _idle(self) -> None:
        """Its last peer still speaks."""
        sockets.empty(self.main, 1)

    def _strayed(self) -> None:
        try:
            datagram, peer = self.twin.recvfrom(65535)
        except OSError:
            sockets.errors(self.twin)
            return
        if self.lent is not None:
            self.lent.strayed(datagram, peer)

    def close(self) -> None:
        for made in (self.main, self.twin):
            self._ports.remove(made.fileno())
            made.close()


@implementer(IDatagramPort)
class UnicastPort:
    """
    A port with one peer, for one transfer.  The twin is heard as well: who sends to a foreign transfer is told so.
    """

    __slots__ = (
        "_bursts",
        "_largest",
        "_pair",
        "_peer",
        "_protocol",
        "_receive",
        "_received",
        "_sendOne",
        "_shelf",
    )

    def __init__(self, shelf: list[SocketPair], pair: SocketPair, protocol: Any, local: Local, peer: Peer) -> None:
        """
        @param shelf: where the pair goes in the end.
        @raise OSError: there is no way to the peer; the pair is closed.
        """
        self._shelf = shelf
        self._pair: SocketPair | None = pair
        self._peer = peer
        self._protocol = protocol
        self._largest: int = protocol.largest
        self._receive = pair.main.recv
        self._received = protocol.datagramReceived
        self._sendOne = pair.main.send
        self._bursts = pair.bursts
        try:
            pair.openPort(self, peer)
        except OSError:
            pair.close()
            raise
        pair.bursts.mtu(local.mtu)
        protocol.makeConnection(self)

    def readable(self) -> None:
        """One datagram a visit: what is left makes the set readable again, and others get their turn."""
        try:
            datagram = self._receive(self._largest)
        except OSError as error:
            # It stays in the queue of errors, and would wake us for ever, even if a send was told of it already.
            if self._pair is not None:
                sockets.errors(self._pair.main)
            if isinstance(error, ConnectionRefusedError):
                self._protocol.peerUnreachable(self._peer)
            return
        self._received(datagram, self._peer)

    def strayed(self, datagram: bytes, peer: Peer) -> None:
        """The twin heard something; what came from the peer came before the port was connected."""
        if peer == self._peer:
            self._protocol.datagramReceived(datagram, peer)
        else:
            self._protocol.strangerReceived(datagram, peer)

    def write(self, datagram: Any, address: Peer | None = None) -> None:
        if self._pair is None:
            return
        if address is None or address == self._peer:
            self._bursts.whole(len(datagram))
            self._sendOne(datagram)
        else:
            self._pair.twin.sendto(datagram, address)

    def writeFrom(self, datagram: Any, address: Peer, local: Local) -> None:
        self.write(datagram, address)

    def writeBurst(self, image: Any, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        if len(image) <= step:
            self._bursts.whole(len(image))
            # A full socket raises, as write does.
            self._sendOne(image)
            return len(image)
        return sendBurst(self._bursts, self._sendOne, image, step)

    def burst(self, step: int, most: int) -> Callable[[Any], object]:
        if most <= step:
            self._bursts.whole(step)
            return self._sendOne
        if self._bursts.fits(step, step) and self._bursts.prepare(step):
            # The kernel cuts it; what it will not do is an error, and found out by writeBurst.
            return self._sendOne
        return lambda image: allOf(self.writeBurst(image, step), image)

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """It has a peer, and never serves a group."""

    def getHost(self) -> IPv4Address | IPv6Address:
        assert self._pair is not None
        return sockets.hostOf(self._pair.main)

    def stopListening(self) -> None:
        """Give it back."""
        if self._pair is None:
            return
        pair, self._pair = self._pair, None
        pair.giveBack()
        if len(self._shelf) < kept():
            self._shelf.append(pair)
        else:
            pair.close()
        self._protocol.doStop()
