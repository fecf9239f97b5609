"""
Open ports on the real network: implement L{IPorts<castd.interfaces.IPorts>} with sockets.
"""

from __future__ import annotations

import errno
import random
import socket
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network
from typing import Generic, TypeVar

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorTime
from zope.interface import implementer

from castd import native
from castd.interfaces import (
    IDatagramPort,
    IListeningPort,
    IListeningProtocol,
    IPortProtocol,
    IPorts,
    ITransferProtocol,
    Octets,
)
from castd.net import devices, sockets
from castd.net.backoff import isFull
from castd.net.device_watch import DeviceWatch
from castd.net.epoll import EpollSet
from castd.net.fdstore import FdStore
from castd.net.gso import SegmentOption, requireAll, sendBurst
from castd.net.port_stock import PortStock, mostStock
from castd.net.unicast_ports import SocketPair, UnicastPort
from castd.request import Local, Peer, hostPort

#: The most datagrams read from one port before other ports are read.
READ_SLICE = 128
#: For how long requests are read from one port before transfers are read.  Seconds.
REQUEST_SLICE = 0.0005
#: The datagram that a listening port sends to itself to see whether it is still read; the protocol never gets it.
PROBE = b"castd: is anybody there?"
#: How many port numbers of a range are tried, at random: all of a small one.  To try all of a large one that is full
#: would take a second.
DRAWS = 64
#: What part of a range is kept in stock at the most: the rest is for transfers and groups.
STOCK_SHARE = 8
#: Errors of a number that cannot be bound, although another may be.
_NUMBER_TAKEN = frozenset({errno.EADDRINUSE, errno.EACCES})
#: Errors that may be due to the ports in stock.
_SCARCE = frozenset({errno.EADDRINUSE, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Errors of C{bind}: no interface has this address, or there is no interface of this name.
_GONE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})

P = TypeVar("P", bound=IPortProtocol)
T = TypeVar("T")


@implementer(IDatagramPort)
class UnconnectedPort(Generic[P]):
    """
    Sends and receives by a socket that is not connected, and so receives from every address.
    """

    def __init__(
        self,
        ports: Ports,
        sock: socket.socket,
        protocol: P,
        mtu: int,
        closeSocket: Callable[[socket.socket], object] = socket.socket.close,
    ) -> None:
        """
        @param closeSocket: called with the socket when the port is closed.
        @raise OSError: the socket cannot be watched; C{closeSocket} was called.
        """
        self._ports = ports
        self._closeSocket = closeSocket
        self._closed = False
        self._socket = sock
        self._protocol = protocol
        self._segments = SegmentOption(sock, mtu)
        self._groupOptions: tuple[int, str, bool, bool] | None = None
        try:
            host, self._number, *_ = sock.getsockname()
            self._watch()
        except OSError:
            closeSocket(sock)
            raise
        # A port that is bound to a broadcast address or a group sends from an address that it must be told, too.
        self._wildcard = host in ("0.0.0.0", "::") or devices.isShared(host)
        try:
            protocol.makeConnection(self)
        except BaseException:
            # It may be a plugin's.  It has not begun, so it is not told of the end.
            self._closed = True
            ports.epoll.remove(sock.fileno())
            closeSocket(sock)
            raise

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def _watch(self) -> None:
        """Have L{readable} called whenever there is a datagram."""
        self._ports.epoll.add(self._socket.fileno(), self.readable)

    @abstractmethod
    def readable(self) -> object:
        """Read some datagrams: the socket has some, or an error."""

    def _readErrors(self) -> bool:
        """
        Read the errors of earlier datagrams from the socket's error queue, and report closed ports to the protocol.

        A send may have raised the error already; but while the error is in the queue, the socket counts as readable.

        @return: whether there were any.
        """
        found = sockets.readErrors(self._socket)
        for number, peer in found:
            if number == errno.ECONNREFUSED:
                self._protocol.peerUnreachable(peer)
        return bool(found)

    def write(self, datagram: Octets, address: Peer | None = None) -> None:
        self._segments.keepWhole(len(datagram))
        self._sendTo(datagram, address)

    def writeFrom(self, datagram: Octets, address: Peer, local: Local) -> None:
        self._segments.keepWhole(len(datagram))
        self._sendTo(datagram, address, local.host if self._wildcard else None)

    def writeBurst(self, image: Octets, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        host = local.host if local is not None and self._wildcard else None
        return sendBurst(self._segments, lambda part: self._sendTo(part, address, host), image, step)

    def _sendTo(self, datagram: Octets, address: Peer | None, host: str | None = None) -> None:
        """
        Send one datagram, or a buffer that the kernel cuts into several.

        @param host: the local address to send from, if the port has several.
        """
        try:
            self._trySendTo(datagram, address, host)
        except OSError as error:
            if isFull(error):
                raise
            if error.errno == errno.ENODEV:
                self._chooseInterfaceAgain()
            # The error may be that of an earlier datagram to another peer; then this datagram was not sent yet.  It is
            # reported when the port is read, and not by a send: that may be a step of the very cast it is about.
            self._trySendTo(datagram, address, host)

    def _chooseInterfaceAgain(self) -> None:
        """
        Choose the interface of the group again, as the one that was chosen has gone and may have been made anew: the
        kernel keeps its number, not its address (ip(7), C{IP_MULTICAST_IF}).
        """
        if self._groupOptions is not None:
            with suppress(OSError):
                sockets.setGroupOptions(self._socket, *self._groupOptions)

    def _trySendTo(self, datagram: Octets, address: Peer | None, host: str | None) -> None:
        if address is None:
            raise OSError(errno.EDESTADDRREQ, "no peer")
        if host is None:
            self._socket.sendto(datagram, address)
        else:
            sockets.sendFrom(self._socket, datagram, address, host)

    def burstWriter(self, step: int, most: int, address: Peer | None = None) -> Callable[[Octets], object]:
        """
        As L{IDatagramPort.burstWriter<castd.interfaces.IDatagramPort.burstWriter>}.

        @raise OSError: there is no address, as the port has no peer.
        """
        if address is None:
            raise OSError(errno.EDESTADDRREQ, "no peer")
        if most > step:
            return lambda image: requireAll(self.writeBurst(image, step, address), image)
        self._segments.keepWhole(step)
        send = self._socket.sendto
        return lambda image: send(image, address)

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        self._groupOptions = options = ttl, interface, loopback, broadcast
        sockets.setGroupOptions(self._socket, *options)

    def holdWindow(self, blocks: int, octets: int) -> int:
        # The buffer is large already, and shared by all: it stays as it is.
        return sockets.windowRoom(self._socket, octets)

    def readArrived(self) -> None:
        if not self._closed:
            self.readable()

    def getHost(self) -> IPv4Address | IPv6Address:
        return sockets.twistedAddress(self._socket)

    def stopListening(self) -> None:
        if not self._closed:
            self._closed = True
            self._ports.epoll.remove(self._socket.fileno())
            self._closeSocket(self._socket)
            self._protocol.doStop()


class GroupPort(UnconnectedPort[ITransferProtocol]):
    """
    Sends to a group for one cast, and receives the answers of its members.
    """

    _reader: native.GroupReader | None = None

    def _watch(self) -> None:
        protocol = self._protocol
        # IPv6 has no groups whose master is served by the fast path.
        if native.NATIVE and isinstance(protocol, native.StepState) and self._socket.family == socket.AF_INET:
            self._reader = native.GroupReader(
                protocol,
                self.readable,
                protocol.datagramReceived,
                protocol.stepRefused,
                self._receiveFailed,
                protocol.largest,
            )
        self._ports.epoll.add(self._socket.fileno(), self._reader or self.readable)

    def burstWriter(self, step: int, most: int, address: Peer | None = None) -> Callable[[Octets], object]:
        write = super().burstWriter(step, most, address)
        if self._reader is not None and address is not None and most <= step:
            self._reader.aim(write, address)
        return write

    def readable(self) -> bool:
        """
        Read one datagram; if there are more the socket stays readable, and other ports are read before.

        @return: whether there was a datagram, or an error.
        """
        try:
            datagram, peer = self._socket.recvfrom(self._protocol.largest)
        except OSError as error:
            return self._receiveFailed(error)
        self._protocol.datagramReceived(datagram, peer)
        return True

    def stopListening(self) -> None:
        super().stopListening()
        self._reader = None  # it refers to this port

    def _receiveFailed(self, error: OSError) -> bool:
        """Handle an error of the socket.  -> whether it is more than that there is no datagram."""
        return self._readErrors() or not isinstance(error, BlockingIOError)

    def readArrived(self) -> None:
        for _ in range(READ_SLICE):
            if self._closed or not self.readable():
                return


@implementer(IListeningPort)
class ListeningPort(UnconnectedPort[IListeningProtocol]):
    """
    Receives requests.
    """

    def __init__(
        self,
        ports: Ports,
        sock: socket.socket,
        protocol: IListeningProtocol,
        mtu: int,
        closeSocket: Callable[[socket.socket], object],
    ) -> None:
        """As L{UnconnectedPort.__init__}."""
        self.paused = self.inherited = False
        self._alone = True
        # While another process may choose another interface for the socket, each datagram to a group names its own one:
        # index of the one that was chosen last (0: the socket's), and those of addresses that are known.
        self._groupIndex = 0
        self._indices: dict[str, int] = {}
        self._probes: list[Deferred[None]] = []
        super().__init__(ports, sock, protocol, mtu, closeSocket)

    def _watch(self) -> None:
        self._ports.epoll.add(self._socket.fileno(), self.readable, requests=True)

    def readable(self) -> None:
        if not self._mayRead():
            return  # since the set has found it readable
        sock, protocol, interfaces = self._socket, self._protocol, self._ports.interfaces
        until = time.monotonic() + REQUEST_SLICE
        for visit in range(READ_SLICE):
            try:
                datagram, peer, local = sockets.receiveFrom(sock, interfaces, self._number)
            except BlockingIOError:
                if not visit:
                    self._readErrors()
                return
            except OSError:
                self._readErrors()
                continue
            if datagram != PROBE:
                protocol.datagramFrom(datagram, peer, local)
            if self._probes:
                self._answerProbes()
            if not self._mayRead() or time.monotonic() >= until:
                return

    def _mayRead(self) -> bool:
        """Return whether datagrams are read: the port is neither closed nor paused."""
        return not self._closed and not self.paused

    def pause(self, shared: bool) -> None:
        if shared:
            self._alone = False
            self._indices.clear()
            self._segments.reset(False)
        if not self.paused:
            self.paused = True
            self._ports.epoll.remove(self._socket.fileno())
            self._answerProbes()

    def resume(self, alone: bool) -> None:
        # Another process may have set options for its groups.
        self._alone, self._groupOptions, self._groupIndex = alone, None, 0
        self._indices.clear()
        self._segments.reset(alone)
        if self.paused:
            self.paused = False
            self._watch()

    @property
    def currentSocket(self) -> socket.socket:
        """The socket that the port reads and sends by."""
        return self._socket

    def exchange(self, sock: socket.socket) -> None:
        """As L{DevicePort.exchange<castd.net.device_watch.DevicePort.exchange>}."""
        mtu = self._ports.interfaces.mtu(0)
        self._ports.epoll.add(sock.fileno(), self.readable, requests=True)
        self._ports.epoll.remove(self._socket.fileno())
        self._socket, self._segments, self._groupOptions = sock, SegmentOption(sock, mtu), None

    def chooseGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        options = ttl, interface, loopback, broadcast
        if options == self._groupOptions and self._alone:
            return
        self._groupOptions = None  # some may be set, and then one refused
        sockets.setGroupOptions(self._socket, *options)
        self._groupOptions = options
        self._groupIndex = 0 if self._alone else self._indexOf(interface)

    def _indexOf(self, interface: str) -> int:
        """Return the index of the interface with this address; 0: there is none now."""
        found = self._indices.get(interface, 0)
        if not found:
            found = self._indices[interface] = self._ports.interfaces.indexOf(interface)
        return found

    def _chooseInterfaceAgain(self) -> None:
        super()._chooseInterfaceAgain()
        self._indices.clear()
        if self._groupIndex and self._groupOptions is not None:
            self._groupIndex = self._indexOf(self._groupOptions[1])

    def _trySendTo(self, datagram: Octets, address: Peer | None, host: str | None) -> None:
        if self._groupIndex and host is not None and address is not None and devices.isShared(address[0]):
            sockets.sendFrom(self._socket, datagram, address, host, self._groupIndex)
        else:
            super()._trySendTo(datagram, address, host)

    def admitReceivers(self, admit: bool) -> None:
        if self._wildcard:
            # After the bind: else a second castd could be started at this port, and would get a part of the requests.
            sockets.setOptional(self._socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, int(admit))

    def probe(self) -> Deferred[None]:
        name = self._socket.getsockname()
        if self._socket.family == socket.AF_INET and devices.isShared(name[0]):
            # What is sent to it would be sent to everybody.
            return succeed(None)
        if self._wildcard:
            name = ("::1" if self._socket.family == socket.AF_INET6 else "127.0.0.1", self._number)
        else:
            # If this host does not have the address any more, the bind fails; else the probe would go to another host.
            sockets.bindSocket(sockets.boundHost(self._socket), 0).close()
        self.write(PROBE, name)
        answer: Deferred[None] = Deferred()
        self._probes.append(answer)
        return answer

    def _answerProbes(self) -> None:
        probes, self._probes = self._probes, []
        for answer in probes:
            answer.callback(None)

    def stopListening(self) -> None:
        super().stopListening()
        self._answerProbes()


@implementer(IPorts)
class Ports:
    """
    Opens ports on the real network.

    @ivar epoll: reads all ports.
    @ivar interfaces: knows the network interfaces of this machine.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        randomness: random.Random,
        adopted: Mapping[tuple[str, int], socket.socket] | None = None,
        inherited: Mapping[tuple[str, int], socket.socket] | None = None,
        store: FdStore | None = None,
        shared: bool = False,
    ):
        """
        @param randomness: chooses the ports of transfers.
        @param adopted: sockets that a supervisor has bound, by interface and port.
        @param inherited: sockets that a previous castd process has bound.
        @param store: keeps the sockets of request ports for the next process.
        @param shared: the previous process still sends through all of these sockets.
        """
        self.epoll = EpollSet(reactor)
        self.interfaces = devices.Interfaces()
        self._random = randomness
        self._adopted = dict(adopted or {})
        self._inherited = dict(inherited or {})
        self._store = store or FdStore()
        self._shared = {*self._adopted.values(), *self._inherited.values()} if shared else set()
        #: The request ports, and whether castd has bound their sockets itself, not a supervisor.
        self._listening: dict[tuple[str, int], tuple[ListeningPort, bool]] = {}
        #: Sockets of a supervisor that a port has used and left: datagrams that have arrived since are dropped.
        self._left: set[socket.socket] = set()
        clock = IReactorTime(reactor)
        self._deviceWatch = DeviceWatch(clock, self._storeAnew)
        self._stock: PortStock[SocketPair] = PortStock(clock)

    def listen(self, port: int, protocol: IListeningProtocol, interface: str = "") -> ListeningPort:
        at = (interface, port)
        ours = at not in self._adopted
        sock = self._adopted.pop(at, None) or self._inherited.pop(at, None)
        fresh = sock is None
        try:
            if sock is None:
                sock = self._bindListening(interface, port)
            else:
                sock.setblocking(False)
                sockets.setCommonOptions(sock)
                if sock in self._left:
                    sockets.discardQueued(sock)
                    sockets.discardErrors(sock)
            closeSocket = partial(self._closeListening, at, ours)
            try:
                sockets.setRequestOptions(sock)
            except OSError:
                closeSocket(sock)
                raise
            opened = ListeningPort(self, sock, protocol, self.interfaces.mtu(0), closeSocket)
        except OSError as error:
            raise CannotListenError(interface or "any", port, error) from error
        self._listening[at] = (opened, ours)
        opened.inherited = sock in self._shared
        if not fresh and not opened.inherited:
            opened.resume(True)
        self._shared.discard(sock)
        if ours:
            self._deviceWatch.add(at, opened)
        return opened

    def _bindListening(self, interface: str, port: int) -> socket.socket:
        """
        Bind a request port; if a port in stock may have its number, or the last descriptors, without the stock.  A
        socket of the previous process that is in the way is closed: the service file may have had the wildcard then.
        """
        try:
            return sockets.bindSocket(interface, port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            passed = next(iter(_overlapping(self._adopted, interface, port)), None)
            if taken and passed is not None:
                # Without a number: it is not another program that has the address.
                raise OSError(f"the socket unit has {hostPort(passed)}: make both the same") from error
            obstacles = self._obstacles(interface, port) if taken else []
            if not obstacles and (error.errno not in _SCARCE or not len(self._stock)):
                raise
        for at in obstacles:
            self._inherited.pop(at).close()
            self._store.remove(at)
        self.closeIdle()
        try:
            return sockets.bindSocket(interface, port)
        except OSError:
            self._keepAnew(obstacles)
            raise

    def _keepAnew(self, addresses: Iterable[tuple[str, int]]) -> None:
        """
        Bind addresses again that were given up in vain, as another program is in the way, too: the next process, with
        another service file, is to find them as this one has.
        """
        for at in addresses:
            with suppress(OSError):
                self._inherited[at] = sock = sockets.bindSocket(*at)
                self._store.add(at, sock)

    def _obstacles(self, interface: str, port: int) -> list[tuple[str, int]]:
        """
        Return the sockets of the previous process that keep an address from being bound: the wildcard's, or all others
        if that is to be bound.  No service file has both.  While that process has them too it would not help to close
        them.
        """
        inherited = self._inherited
        return [at for at in _overlapping(inherited, interface, port) if inherited[at] not in self._shared]

    def reached(self, address: str) -> tuple[IPv4Network, ...] | None:
        return self.interfaces.reached(address)

    def isOurs(self, interface: str) -> bool:
        try:
            sockets.bindSocket(devices.ownAddress(interface), 0).close()
        except OSError as error:
            return error.errno not in _GONE
        return True

    def windowRoom(self, blocks: int, octets: int) -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            return sockets.enlargeForWindow(probe, blocks, octets)

    def localFor(self, interface: str, port: int, client: str) -> Local:
        host = interface if interface not in ("", "::") else devices.addressTowards(client) or interface or "0.0.0.0"
        index = self.interfaces.indexOf(host)
        return Local(host, port, index, False, *self.interfaces.lookup(index))

    def _closeListening(self, at: tuple[str, int], ours: bool, sock: socket.socket) -> None:
        self._listening.pop(at, None)
        self._deviceWatch.remove(at)
        if ours:
            sock.close()
            self._store.remove(at)
        else:
            # The supervisor keeps the address bound, so it could not be bound again: the socket is kept for later use.
            self._adopted[at] = sock
            self._left.add(sock)

    def _storeAnew(self, at: tuple[str, int], sock: socket.socket) -> None:
        """Have the service manager keep the new socket of a request port, and not the former one."""
        self._store.remove(at)
        self._store.add(at, sock)

    def unclaimed(self) -> list[tuple[str, int]]:
        """Return interface and port of the sockets that the supervisor has passed and no transport has asked for."""
        return list(self._adopted)

    def reconcileStore(self) -> list[tuple[str, int]]:
        self.closeIdle()
        self._deviceWatch.look()
        for at, (port, ours) in self._listening.items():
            if ours:
                self._store.add(at, port.currentSocket)
        unwanted, self._inherited = self._inherited, {}
        for at, sock in unwanted.items():
            sock.close()
            self._store.remove(at)
        return list(unwanted)

    @property
    def storing(self) -> bool:
        """Whether the service manager keeps the sockets of request ports for the next process."""
        return self._store.available

    def freezeStore(self, frozen: bool) -> None:
        self._store.frozen = frozen
        if frozen:
            # Another process serves, or none: it needs the numbers of the range.
            self.closeIdle()

    def boundSockets(self) -> list[tuple[tuple[str, int], socket.socket, bool]]:
        unused = [(at, sock, False) for at, sock in self._adopted.items()]
        return unused + [(at, port.currentSocket, ours) for at, (port, ours) in self._listening.items()]

    def openPort(
        self, protocol: ITransferProtocol, local: Local, peer: Peer | None = None, ports: range | None = None
    ) -> IDatagramPort:
        try:
            return self._open(protocol, local, peer, ports)
        except OSError as error:
            if error.errno not in _SCARCE or not len(self._stock):
                raise CannotListenError(local.host, "any", error) from error
        self.closeIdle()
        try:
            return self._open(protocol, local, peer, ports)
        except OSError as error:
            raise CannotListenError(local.host, "any", error) from error

    def _open(
        self, protocol: ITransferProtocol, local: Local, peer: Peer | None, ports: range | None
    ) -> UnicastPort | GroupPort:
        """@raise OSError: no port can be opened."""
        host = local.host
        if peer is None:
            return GroupPort(self, self._bindRandom(sockets.bindSocket, host, ports), protocol, local.mtu)
        most = mostStock() if ports is None else min(mostStock(), len(ports) // STOCK_SHARE)
        return UnicastPort(
            self._stock.take((host, ports), lambda: self._bindPair(host, ports), most), protocol, local, peer
        )

    def _bindPair(self, host: str, ports: range | None) -> SocketPair:
        """@raise OSError: no port can be bound."""
        return SocketPair(self.epoll, self._bindRandom(sockets.bindPair, host, ports))

    def _bindRandom(self, bind: Callable[[str, int], T], host: str, ports: range | None) -> T:
        """
        Bind to a random port: the port numbers of client and server are the only secret of a transfer.

        Without a range the kernel draws the number: Linux begins its search at a random place of
        C{net.ipv4.ip_local_port_range} for each C{bind} (C{udp_lib_get_port}, by its own generator for cryptography).
        """
        if ports is None:
            return bind(host, 0)
        taken: OSError | None = None
        for number in self._numbers(ports):
            try:
                return bind(host, number)
            except OSError as error:
                if error.errno not in _NUMBER_TAKEN:
                    raise
                taken = error
        assert taken is not None
        raise OSError(taken.errno, f"no free port in {ports[0]}-{ports[-1]}: {taken.strerror}")

    def _numbers(self, ports: range) -> Iterator[int]:
        """Return numbers to try: mostly the first one is free; after it come L{DRAWS} at most, in random order."""
        yield self._random.choice(ports)
        yield from self._random.sample(ports, min(len(ports), DRAWS))

    @property
    def idle(self) -> int:
        """How many ports were opened in advance for the next transfers, with two descriptors each."""
        return len(self._stock)

    def readArrived(self) -> None:
        if len(self.epoll):
            self.epoll.read()

    def closeIdle(self) -> None:
        """Close the ports that were opened in advance for the next transfers."""
        self._stock.clear()


def _overlapping(bound: Iterable[tuple[str, int]], interface: str, port: int) -> list[tuple[str, int]]:
    """Return the addresses that keep another one from being bound: the wildcard, or all if that is to be bound."""
    wildcard = "::" if ":" in interface else ""
    return [
        (host, number)
        for host, number in bound
        if number == port and (":" in host) == (":" in interface) and wildcard in (host, interface)
    ]
