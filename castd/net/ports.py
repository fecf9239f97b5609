"""
Ports: the real network behind L{IPorts<castd.interfaces.IPorts>}.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from zope.interface import implementer

from castd.interfaces import IListeningPort, IPorts
from castd.net import sockets
from castd.net.epoll import EpollSet
from castd.net.fdstore import FdStore
from castd.net.gso import GsoSender, sendBurst
from castd.net.unicast_ports import SocketPair, UnicastPort
from castd.request import Local, Peer

#: Datagrams read from an open port in one go.
READ_SLICE = 128
#: What a listening port sends to itself to see whether it is still read; nobody is told of it.
PROBE = b"castd: is anybody there?"
#: Numbers drawn from a range before it is gone through.
DRAWS = 16


@implementer(IListeningPort)
class OpenPort:
    """
    A port that hears everybody: a request port, or a group's.
    """

    def __init__(
        self,
        ports: Ports,
        made: socket.socket,
        protocol: Any,
        listening: bool,
        mtu: int,
        release: Callable[[socket.socket], object] = socket.socket.close,
    ) -> None:
        """
        @param release: what becomes of the socket in the end.
        @raise OSError: it cannot be watched; the socket is released.
        """
        self._ports = ports
        self._release = release
        self._probes: list[Deferred[None]] = []
        self._closed = False
        self.paused = False
        self._socket = made
        self._protocol = protocol
        self._listening = listening
        self._bursts = GsoSender(made, mtu)
        self._address: Any = None
        try:
            host, self._number, *_ = made.getsockname()
            ports.set.add(made.fileno(), self.readable)
        except OSError:
            release(made)
            raise
        self._wild = host in ("0.0.0.0", "::")
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
            if not self._listening:
                protocol.datagramReceived(datagram, peer)
            elif datagram != PROBE:
                protocol.datagramFrom(datagram, peer, local)
            if self._probes:
                self._alive()
            if self._closed or self.paused:
                return

    def pause(self, shared: bool) -> None:
        if shared:
            self._bursts.reset(False)
        if not self.paused:
            self.paused = True
            self._ports.set.remove(self._socket.fileno())
            self._alive()

    def resume(self, alone: bool) -> None:
        self._bursts.reset(alone)
        if self.paused:
            self.paused = False
            self._ports.set.add(self._socket.fileno(), self.readable)

    def probe(self) -> Deferred[None]:
        name = self._socket.getsockname()
        if self._wild:
            name = ("::1" if self._socket.family == socket.AF_INET6 else "127.0.0.1", self._number)
        else:
            sockets.bound(sockets.zoned(self._socket), 0).close()  # else it would go to whoever has the address now
        self.write(PROBE, name)
        answer: Deferred[None] = Deferred()
        self._probes.append(answer)
        return answer

    def _alive(self) -> None:
        probes, self._probes = self._probes, []
        for answer in probes:
            answer.callback(None)

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

    def burst(self, step: int, most: int) -> Callable[[Any], object]:
        """It has no peer of its own, so there is nothing to send without an address."""
        raise OSError(errno.EDESTADDRREQ, "no peer")

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        sockets.group(self._socket, ttl, interface, loopback, broadcast)

    def getHost(self) -> IPv4Address | IPv6Address:
        return sockets.hostOf(self._socket)

    def stopListening(self) -> None:
        if not self._closed:
            self._closed = True
            if not self.paused:
                self._ports.set.remove(self._socket.fileno())
            self._release(self._socket)
            self._protocol.doStop()
            self._alive()


@implementer(IPorts)
class Ports:
    """
    Makes ports of the real network.

    @ivar set: the reader that all ports are members of.
    """

    def __init__(
        self,
        reactor: Any,
        chance: random.Random,
        adopted: Mapping[tuple[str, int], socket.socket] | None = None,
        inherited: Mapping[tuple[str, int], socket.socket] | None = None,
        store: FdStore | None = None,
        shared: bool = False,
    ):
        """
        @param chance: draws the ports of transfers.
        @param adopted: sockets that a supervisor has bound for us, by address and port.
        @param inherited: those that castd itself has bound, in a process before this one.
        @param store: where the sockets of requests are kept for the process after this one.
        @param shared: that process still sends through all of these sockets.
        """
        self.set = EpollSet(reactor)
        self.interfaces = sockets.Interfaces()
        self._chance = chance
        self._adopted = dict(adopted or {})
        self._inherited = dict(inherited or {})
        self._store = store or FdStore()
        self._shared = {*self._adopted.values(), *self._inherited.values()} if shared else set()
        self._listening: dict[tuple[str, int], tuple[socket.socket, bool]] = {}
        self._returned: set[socket.socket] = set()
        self._shelves: dict[tuple[str, range | None], list[SocketPair]] = {}

    def listen(self, port: int, protocol: Any, interface: str = "", options: Any = None) -> OpenPort:
        at = (interface, port)
        ours = at not in self._adopted
        made = self._adopted.pop(at, None) or self._inherited.pop(at, None)
        fresh = made is None
        try:
            if made is None:
                made = sockets.bound(interface, port)
            else:
                made.setblocking(False)
                sockets.dress(made)
                if made in self._returned:
                    sockets.empty(made)
            release = partial(self._release, at, ours)
            try:
                sockets.forRequests(made)
            except OSError:
                release(made)
                raise
            opened = OpenPort(self, made, protocol, True, self.interfaces.mtu(0), release)
        except OSError as error:
            raise CannotListenError(interface or "any", port, error) from error
        self._listening[at] = (made, ours)
        if not fresh and made not in self._shared:
            opened.resume(True)
        self._shared.discard(made)
        return opened

    def _release(self, at: tuple[str, int], ours: bool, made: socket.socket) -> None:
        self._listening.pop(at, None)
        if ours:
            made.close()
            self._store.drop(at)
        else:
            # The supervisor keeps the address bound, so it could not be had again: it is kept for who may want it.
            self._adopted[at] = made
            self._returned.add(made)

    def unclaimed(self) -> list[tuple[str, int]]:
        """-> the addresses that were passed by the supervisor and that nobody has asked for."""
        return list(self._adopted)

    def settle(self) -> list[tuple[str, int]]:
        self.close()
        for at, (made, ours) in self._listening.items():
            if ours:
                self._store.keep(at, made)
        left, self._inherited = self._inherited, {}
        for at, made in left.items():
            made.close()
            self._store.drop(at)
        return list(left)

    @property
    def keeps(self) -> bool:
        """Is what comes to a port kept for the process after this one, if it is not read here?"""
        return self._store.keeps

    def retain(self, retained: bool) -> None:
        """This process closes its ports, or goes on after all: what is kept stays kept."""
        (self._store.close if retained else self._store.reopen)()

    def legacy(self) -> list[tuple[tuple[str, int], socket.socket, bool]]:
        """-> for the process after this one: address, socket, and whether castd has bound it, not a supervisor."""
        given = [(at, made, False) for at, made in self._adopted.items()]
        return given + [(at, made, ours) for at, (made, ours) in self._listening.items()]

    def openPort(self, protocol: Any, local: Local, peer: Peer | None = None, ports: range | None = None) -> Any:
        try:
            if peer is None:
                return OpenPort(self, self._fresh(local.host, ports), protocol, listening=False, mtu=local.mtu)
            shelf = self._shelves.setdefault((local.host, ports), [])
            pair = self._taken(shelf) or SocketPair(self.set, self._fresh(local.host, ports, errors=False))
            return UnicastPort(shelf, pair, protocol, local, peer)
        except OSError as error:
            raise CannotListenError(local.host, "any", error) from error

    def _taken(self, shelf: list[SocketPair]) -> SocketPair | None:
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
        for number in self._numbers(ports):
            try:
                return sockets.bound(host, number, errors)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"no free port in {ports[0]}-{ports[-1]}")

    def _numbers(self, ports: range) -> Iterator[int]:
        """A few at random, and only if those are taken all of them: to shuffle 64,000 takes a tenth of a second."""
        for _ in range(DRAWS):
            yield self._chance.choice(ports)
        yield from self._chance.sample(ports, len(ports))

    @property
    def idle(self) -> int:
        """-> how many ports wait for the next transfer, with two descriptors each."""
        return sum(map(len, self._shelves.values()))

    def drain(self) -> None:
        """Read what has arrived, within the bounds of one visit."""
        if len(self.set):
            self.set.read()

    def close(self) -> None:
        """Close what is kept for later."""
        for shelf in self._shelves.values():
            while shelf:
                shelf.pop().close()
