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
from castd.bursts import Bursts, sendBurst
from castd.interfaces import IDatagramPort, IPorts
from castd.lent import LentPort, Pair
from castd.portset import PortSet
from castd.request import Local, Peer

#: Datagrams read from an open port in one go.
READ_SLICE = 128


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
        self._bursts = Bursts(made, mtu)
        self._number: int = made.getsockname()[1]
        self._wild = made.getsockname()[0] in ("0.0.0.0", "::")
        self._address: Any = None
        ports.set.add(made.fileno(), self.readable)
        protocol.makeConnection(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def readable(self) -> None:
        """Read until it is empty, within a slice."""
        made, protocol, interfaces = self._socket, self._protocol, self._ports.interfaces
        for _ in range(READ_SLICE):
            try:
                if self._listening:
                    datagram, peer, local = sockets.receiveFrom(made, interfaces, self._number)
                    protocol.datagramFrom(datagram, peer, local)
                else:
                    datagram, peer = made.recvfrom(65535)
                    protocol.datagramReceived(datagram, peer)
            except BlockingIOError:
                return
            except OSError:
                self._readErrors()
            if made.fileno() < 0:
                return

    def _readErrors(self) -> None:
        for number, peer in sockets.errors(self._socket):
            if number == errno.ECONNREFUSED:
                self._protocol.peerUnreachable(peer)

    def write(self, datagram: Any, address: Peer | None = None) -> None:
        self._bursts.whole(len(datagram))
        self._hand(datagram, address)

    def _hand(self, datagram: Any, address: Peer | None) -> None:
        try:
            self._socket.sendto(datagram, address)  # type: ignore[arg-type]
        except ConnectionRefusedError:
            # Another peer's error, reported to whoever speaks next; this datagram was not sent yet.
            self._readErrors()
            self._socket.sendto(datagram, address)  # type: ignore[arg-type]

    def writeFrom(self, datagram: Any, address: Peer, local: Local) -> None:
        if self._wild:
            self._bursts.whole(len(datagram))
            sockets.sendFrom(self._socket, datagram, address, local.host)
        else:
            self.write(datagram, address)

    def writeBurst(self, image: Any, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        if local is not None and address is not None and self._wild:
            return sendBurst(
                self._bursts, lambda part: sockets.sendFrom(self._socket, part, address, local.host), image, step
            )
        return sendBurst(self._bursts, lambda part: self._hand(part, address), image, step)

    def burst(self, step: int, most: int) -> Callable[[Any], object]:
        """It has no peer of its own, so there is nothing to send without an address."""
        raise OSError(errno.EDESTADDRREQ, "no peer")

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        sockets.group(self._socket, ttl, interface, loopback, broadcast)

    def getHost(self) -> IPv4Address | IPv6Address:
        return sockets.hostOf(self._socket)

    def stopListening(self) -> None:
        if self._socket.fileno() >= 0:
            self._ports.set.remove(self._socket.fileno())
            self._socket.close()
            self._protocol.doStop()


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
            pair = self._taken(shelf) or Pair(self.set, self._fresh(local.host, ports, errors=False))
            return LentPort(shelf, pair, protocol, local, peer)
        except OSError as error:
            raise CannotListenError(local.host, "any", error) from error

    def _taken(self, shelf: list[Pair]) -> Pair | None:
        """A pair that was used before, any of them."""
        if not shelf:
            return None
        index = self._chance.randrange(len(shelf))
        shelf[index], shelf[-1] = shelf[-1], shelf[index]
        return shelf.pop()

    def _fresh(self, host: str, ports: range | None, errors: bool = True) -> socket.socket:
        """A socket on a number drawn at random: with the client's, it is a transfer's only secret."""
        if ports is None:
            return sockets.bound(host, 0, errors)
        for number in self._chance.sample(ports, len(ports)):
            try:
                return sockets.bound(host, number, errors)
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
