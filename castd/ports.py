"""
Ports: the real network behind L{IPorts<castd.interfaces.IPorts>}.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import CannotListenError
from zope.interface import implementer

from castd import sockets
from castd.interfaces import IDatagramPort, IPorts
from castd.portset import PortSet
from castd.request import Local, Peer

#: Datagrams read from an open port in one go.
READ_SLICE = 128
#: Pairs of sockets kept for the next transfers, for each of our addresses.
KEPT = 512


def hostOf(made: socket.socket) -> IPv4Address | IPv6Address:
    """-> the address of a bound socket as Twisted names it."""
    name = made.getsockname()
    kind = IPv6Address if made.family == socket.AF_INET6 else IPv4Address
    return kind("UDP", name[0], name[1])


def sendBurst(bursts: sockets.Bursts, send: Any, image: Any, step: int) -> int:
    """
    Send an image, by one call if that is possible, else datagram by datagram.

    @param send: takes a buffer; raises OSError.
    @return: octets taken.
    @raise OSError: for reasons other than a full socket, if nothing was taken.
    """
    octets = len(image)
    if octets <= step:
        bursts.whole(octets)
        try:
            send(image)
        except BlockingIOError:
            return 0
        return octets
    if bursts.fits(octets, step) and bursts.prepare(step):
        try:
            send(image)
            return octets
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in sockets.UNSEGMENTED:
                raise
            bursts.off()
    bursts.whole(step)
    for start in range(0, octets, step):
        try:
            send(image[start : start + step])
        except OSError as error:
            if start == 0 and not isinstance(error, BlockingIOError):
                raise
            return start
    return octets


def allOf(taken: int, image: Any) -> None:
    """@raise BlockingIOError: fewer octets were taken than there are."""
    if taken < len(image):
        raise BlockingIOError(errno.EAGAIN, "full")


@implementer(IDatagramPort)
class OpenPort:
    """
    A port that hears everybody: a request port, or a group's.
    """

    def __init__(self, ports: Ports, made: socket.socket, protocol: Any, listening: bool, mtu: int) -> None:
        self._ports = ports
        self._socket = made
        self._protocol = protocol
        self._listening = listening
        self._bursts = sockets.Bursts(made, mtu)
        self._number: int = made.getsockname()[1]
        self._wild = made.getsockname()[0] in ("0.0.0.0", "::")
        self._address: Any = None
        ports.set.add(made.fileno(), self)
        protocol.makeConnection(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def readable(self) -> None:
        """Read until it is empty, within a slice."""
        made, protocol, interfaces = self._socket, self._protocol, self._ports.interfaces
        for visit in range(READ_SLICE):
            try:
                if self._listening:
                    datagram, peer, local = sockets.receiveFrom(made, interfaces, self._number)
                else:
                    datagram, peer = made.recvfrom(65535)
            except BlockingIOError:
                if not visit:
                    # Woken, and nothing to read: an error whose number a send was told already.  As long as it lies
                    # in the queue the kernel wakes us again.
                    self._readErrors()
                return
            except OSError:
                self._readErrors()
                continue
            if self._listening:
                protocol.datagramFrom(datagram, peer, local)
            else:
                protocol.datagramReceived(datagram, peer)
            if made.fileno() < 0:
                return

    def _readErrors(self) -> bool:
        """-> whether there were any."""
        found = sockets.errors(self._socket)
        for number, peer in found:
            if number == errno.ECONNREFUSED:
                self._protocol.peerUnreachable(peer)
        return bool(found)

    def write(self, datagram: Any, address: Peer | None = None) -> None:
        self._bursts.whole(len(datagram))
        self._hand(datagram, address)

    def _hand(self, datagram: Any, address: Peer | None, host: str | None = None) -> None:
        """@param host: the address of ours to send from, where the port has several."""
        try:
            self._send(datagram, address, host)
        except BlockingIOError:
            raise
        except OSError:
            # Another peer's error, perhaps, reported to whoever speaks next; then this datagram was not sent yet.
            if not self._readErrors():
                raise
            self._send(datagram, address, host)

    def _send(self, datagram: Any, address: Peer | None, host: str | None) -> None:
        if host is None:
            self._socket.sendto(datagram, address)  # type: ignore[arg-type]
        else:
            sockets.sendFrom(self._socket, datagram, address, host)  # type: ignore[arg-type]

    def writeFrom(self, datagram: Any, address: Peer, local: Local) -> None:
        self._bursts.whole(len(datagram))
        self._hand(datagram, address, local.host if self._wild else None)

    def writeBurst(self, image: Any, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        host = local.host if local is not None and self._wild else None
        return sendBurst(self._bursts, lambda part: self._hand(part, address, host), image, step)

    def burst(self, step: int) -> Callable[[Any], object]:
        """It has no peer of its own, so there is nothing to send without an address."""
        raise OSError(errno.EDESTADDRREQ, "no peer")

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        sockets.group(self._socket, ttl, interface, loopback, broadcast)

    def getHost(self) -> IPv4Address | IPv6Address:
        return hostOf(self._socket)

    def stopListening(self) -> None:
        if self._socket.fileno() >= 0:
            self._ports.set.remove(self._socket.fileno())
            self._socket.close()
            self._protocol.doStop()


class Pair:
    """
    Two sockets on one port: one for the peer, to be connected, and its twin for strangers.
    """

    __slots__ = ("bursts", "main", "twin")

    def __init__(self, main: socket.socket) -> None:
        self.main = main
        try:
            self.twin = sockets.twinOf(main)
        except BaseException:
            main.close()
            raise
        self.bursts = sockets.Bursts(main, 0)

    def close(self) -> None:
        self.main.close()
        self.twin.close()


@implementer(IDatagramPort)
class LentPort:
    """
    A port with one peer, for one transfer.  The twin is watched as well: who sends to a foreign transfer is told so.
    """

    def __init__(self, ports: Ports, shelf: list[Pair], pair: Pair, protocol: Any, local: Local, peer: Peer) -> None:
        self._ports = ports
        self._shelf = shelf
        self._pair: Pair | None = pair
        self._peer = peer
        self._protocol = protocol
        self._largest: int = protocol.largest
        self._receive = pair.main.recv
        self._received = protocol.datagramReceived
        self._sendOne = pair.main.send
        self._bursts = pair.bursts
        pair.bursts.mtu(local.mtu)
        self._stray = _Stray(self, pair.twin)
        ports.set.add(pair.main.fileno(), self)
        ports.set.add(pair.twin.fileno(), self._stray)
        protocol.makeConnection(self)

    def fileno(self) -> int:
        return self._pair.main.fileno() if self._pair else -1

    def readable(self) -> None:
        """One datagram a visit: what is left makes the set readable again, and others get their turn."""
        try:
            datagram = self._receive(self._largest)
        except OSError as error:
            # It stays in the queue of errors, and would wake us for ever, even if a send was told of it already.
            sockets.errors(self._pair.main)  # type: ignore[union-attr]
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

    def burst(self, step: int) -> Callable[[Any], object]:
        if self._bursts.fits(step, step) and self._bursts.prepare(step):
            # The kernel cuts it; what it will not do is an error, and found out by writeBurst.
            return self._sendOne
        return lambda image: allOf(self.writeBurst(image, step), image)

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """It has a peer, and never serves a group."""

    def getHost(self) -> IPv4Address | IPv6Address:
        assert self._pair is not None
        return hostOf(self._pair.main)

    def stopListening(self) -> None:
        """Give it back."""
        if self._pair is None:
            return
        pair, self._pair = self._pair, None
        self._ports.set.remove(pair.main.fileno())
        self._ports.set.remove(pair.twin.fileno())
        if len(self._shelf) < KEPT:
            self._shelf.append(pair)
        else:
            pair.close()
        self._protocol.doStop()


class _Stray:
    """The twin, as the set sees it."""

    __slots__ = ("_owner", "_twin")

    def __init__(self, owner: LentPort, twin: socket.socket) -> None:
        self._owner = owner
        self._twin = twin

    def fileno(self) -> int:
        return self._twin.fileno()

    def readable(self) -> None:
        try:
            datagram, peer = self._twin.recvfrom(65535)
        except OSError:
            sockets.errors(self._twin)
            return
        self._owner.strayed(datagram, peer)


@implementer(IPorts)
class Ports:
    """
    Makes ports of the real network.

    @ivar set: the reader that all ports are members of.
    """

    def __init__(
        self, reactor: Any, chance: random.Random, adopted: Mapping[tuple[str, int], socket.socket] | None = None
    ):
        """
        @param chance: draws the ports of transfers.
        @param adopted: sockets that a supervisor has bound for us, by address and port.
        """
        self.set = PortSet(reactor)
        self.interfaces = sockets.Interfaces()
        self._chance = chance
        self._adopted = dict(adopted or {})
        self._shelves: dict[tuple[str, range | None], list[Pair]] = {}

    def listen(self, port: int, protocol: Any, interface: str = "", options: Any = None) -> OpenPort:
        made = self._adopted.pop((interface, port), None)
        try:
            if made is None:
                made = sockets.bound(interface, port)
            else:
                made.setblocking(False)
                sockets.dress(made)
            sockets.forRequests(made)
        except OSError as error:
            raise CannotListenError(interface or "any", port, error) from error
        return OpenPort(self, made, protocol, listening=True, mtu=self.interfaces.mtu(0))

    def lend(self, protocol: Any, local: Local, peer: Peer | None = None, ports: range | None = None) -> Any:
        try:
            if peer is None:
                return OpenPort(self, self._fresh(local.host, ports), protocol, listening=False, mtu=local.mtu)
            shelf = self._shelves.setdefault((local.host, ports), [])
            used = self._taken(shelf)
            pair = used or Pair(self._fresh(local.host, ports))
            try:
                pair.main.connect(peer)
            except OSError:
                pair.close()
                raise
            if used:
                # Not before it was connected: the last peer may be sending still.
                sockets.empty(pair.main)
                sockets.empty(pair.twin)
        except OSError as error:
            raise CannotListenError(local.host, "any", error) from error
        return LentPort(self, shelf, pair, protocol, local, peer)

    def _taken(self, shelf: list[Pair]) -> Pair | None:
        """A pair that was used before, any of them."""
        if not shelf:
            return None
        index = self._chance.randrange(len(shelf))
        shelf[index], shelf[-1] = shelf[-1], shelf[index]
        return shelf.pop()

    def _fresh(self, host: str, ports: range | None) -> socket.socket:
        """A socket on a number drawn at random: with the client's, it is a transfer's only secret."""
        if ports is None:
            return sockets.bound(host, 0)
        for number in self._chance.sample(ports, len(ports)):
            try:
                return sockets.bound(host, number)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"no free port in {ports[0]}-{ports[-1]}")

    def drain(self) -> None:
        """Read what has arrived, within the bounds of one visit."""
        if len(self.set):
            self.set.doRead()

    def close(self) -> None:
        """Close what is kept for later."""
        for shelf in self._shelves.values():
            while shelf:
                shelf.pop().close()
