"""
Provides the ports of the machines of a L{Network<castd.testing.Network>}.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address
from zope.interface import implementer

from castd.interfaces import IListeningPort, IListeningProtocol, ITransferProtocol, Octets
from castd.request import Local, Peer

if TYPE_CHECKING:
    from castd.testing.hosts import Host

#: The spellings of the wildcard address.
ANY = ("", "0.0.0.0", "::")
_LARGEST = 65507


def peerAt(host: str, port: int) -> Peer:
    """Return the address of a peer, as sockets of its family give it."""
    return (host, port, 0, 0) if ":" in host else (host, port)


class UdpProtocol(Protocol):
    """
    A Twisted C{DatagramProtocol}, of any kind.

    Twisted declares its transport as C{IUDPTransport} and its addresses as pairs, which they are not in IPv6.
    """

    def makeConnection(self, transport: Any, /) -> None: ...
    def doStop(self) -> None: ...
    def datagramReceived(self, datagram: bytes, addr: Any, /) -> None: ...


@implementer(IListeningPort)
class VirtualPort:
    """
    One port of one host; made by L{Host}.

    Its protocol is one of three: C{listening} of a request port, C{transfer} of a port of one cast or upload, or
    C{client}, of a port that was opened as Twisted's reactor opens one.

    @ivar host: the machine that it is a port of.
    @ivar address: the source address of the datagrams that the port sends.
    @ivar peer: the only peer of the port; other senders are strangers.  L{None}: the port receives from every sender.
    @ivar locals: for each address of the host that the port is bound to, the L{Local} of datagrams to that address.
    @ivar wildcard: the port is bound to all addresses of the host.
    @ivar admits: other ports may have the same number at the address of a group.
    @ivar shared: the broadcast address or the group that the port is bound to; C{""}: it is bound to addresses of the
        host.
    @ivar places: what the port is bound to, as the network knows it.
    @ivar group: the arguments of the last L{setGroup}.
    @ivar paused: as L{IListeningPort.paused}.
    @ivar waiting: datagrams that came while the port was paused; shared with the port of another process that has the
        same socket.
    """

    __slots__ = (
        "_client",
        "_listening",
        "_probes",
        "_transfer",
        "address",
        "admits",
        "broadcast",
        "closed",
        "group",
        "host",
        "inherited",
        "locals",
        "loopback",
        "paused",
        "peer",
        "places",
        "shared",
        "waiting",
        "wildcard",
    )

    def __init__(
        self,
        host: Host,
        number: int,
        interface: str,
        peer: Peer | None = None,
        listening: IListeningProtocol | None = None,
        transfer: ITransferProtocol | None = None,
        client: UdpProtocol | None = None,
    ) -> None:
        self.host = host
        self.peer = peer
        self.wildcard = interface in ANY
        shared, _, near = interface.partition("%")
        self.shared = shared if near and ":" not in shared else ""
        addresses = host.addresses if self.wildcard else (near if self.shared else interface,)
        self.locals = {
            address: Local(address, number, index + 1, networks=host.onLink(address))
            for index, address in enumerate(addresses)
        }
        self.address = peerAt(addresses[0], number)
        self.places = (interface,) if self.shared else tuple(self.locals)
        self.closed = self.paused = self.inherited = self.admits = False
        self.broadcast = bool(self.shared)
        self.waiting: list[tuple[bytes, Peer, Local | None]] = []
        self.loopback = True
        self.group: tuple[int, str, bool, bool] | None = None
        self._listening, self._transfer, self._client = listening, transfer, client
        self._probes: list[defer.Deferred[None]] = []

    def connect(self) -> None:
        """Give this port to its protocol as the transport."""
        for protocol in (self._listening, self._transfer, self._client):
            if protocol is not None:
                protocol.makeConnection(self)

    # Sending

    def write(self, datagram: Octets, address: Peer | None = None) -> None:
        """As L{IDatagramPort.write}."""
        target = address or self.peer
        if target is None:
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        self._send(datagram, target, self.address if not self.wildcard else self.host.sourceFor(target, self.address))

    def writeFrom(self, datagram: Octets, address: Peer, local: Local) -> None:
        """As L{IDatagramPort.writeFrom}."""
        known = local.host in self.host.addresses
        self._send(datagram, address, peerAt(local.host, self.address[1]) if known else self.address)

    def writeBurst(self, image: Octets, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        """As L{IDatagramPort.writeBurst}."""
        view = memoryview(image)
        for start in range(0, len(view), step):
            try:
                datagram = view[start : start + step].tobytes()
                if local is None or address is None:
                    self.write(datagram, address)
                else:
                    self.writeFrom(datagram, address, local)
            except OSError as problem:
                if problem.errno in (errno.EAGAIN, errno.ENOBUFS):
                    return start
                raise
        return len(view)

    def burstWriter(self, step: int, most: int, address: Peer | None = None) -> Callable[[Octets], None]:
        """As L{IDatagramPort.burstWriter}."""

        def send(image: Octets) -> None:
            if self.writeBurst(image, step, address) < len(image):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        return send

    def _send(self, datagram: Octets, target: Peer, source: Peer) -> None:
        host = self.host
        problem = host.errno
        if self.closed:
            problem = errno.EBADF
        elif len(datagram) > _LARGEST:
            problem = errno.EMSGSIZE
        elif not problem and host.room is not None:
            if host.room:
                host.room -= 1
            else:
                problem = errno.EAGAIN
        if problem:
            raise OSError(problem, os.strerror(problem))
        host.network.carry(bytes(datagram), source, target, self)

    # Receiving

    def holdWindow(self, blocks: int, octets: int) -> int:
        """As L{IDatagramPort.holdWindow}; see L{Host.buffer<castd.testing.Host>}."""
        return self.host.windowRoom(blocks, octets)

    def hears(self, sender: VirtualPort) -> bool:
        """
        Return whether group data of this sender reaches the port: never its own, its host's only with loopback, and to
        a shared port only from its own network.
        """
        if self.shared and not sender.host.reaches(self.address[0]):
            return False
        return self.host is not sender.host or (sender.loopback and self is not sender)

    def receive(self, datagram: bytes, source: Peer, local: Local | None) -> None:
        """
        Deliver a datagram that has arrived; called by the network.

        @param local: the L{Local} for a listener; L{None}: the datagram went to a group or a broadcast address, and the
            answer leaves from the address in the sender's subnet.
        """
        if self.paused:
            reader = next((self.host.network.bound.get((place, self.address[1])) for place in self.places), self)
            if reader is None or reader.paused:
                self.waiting.append((datagram, source, local))
            else:
                reader.receive(datagram, source, local)
            return
        self._answerProbes()
        if self.closed:
            self.host.network.strayed += 1
        elif self._listening is not None:
            if source == self.address and not datagram:
                return
            if local is None:
                near = self.address[0] if self.shared else self.host.sourceFor(source, self.address)[0]
                local = replace(self.locals[near], broadcast=True)
            self._listening.datagramFrom(datagram, source, local)
        elif self._client is not None:
            self._client.datagramReceived(datagram, source)
        elif self._transfer is not None:
            if self.peer is None or self.peer[:2] == source[:2]:
                self._transfer.datagramReceived(datagram, source)
            else:
                self._transfer.strangerReceived(datagram, source)

    def _answerProbes(self) -> None:
        probes, self._probes = self._probes, []
        for answer in probes:
            answer.callback(None)

    def pause(self, shared: bool) -> None:
        """As L{IListeningPort.pause}."""
        self.paused = True
        self._answerProbes()

    def resume(self, alone: bool) -> None:
        """As L{IListeningPort.resume}."""
        self.paused = False
        self.host.network.bound.update({(place, self.address[1]): self for place in self.places})
        while self.waiting and not self.paused:
            self.receive(*self.waiting.pop(0))

    def unreachable(self, peer: Peer) -> None:
        """
        Report to the protocol that the peer's port is closed; one at a port of C{listenUDP} is told if it has a method
        for that.
        """
        told = getattr(self._client, "peerUnreachable", None)
        for protocol in (self._listening, self._transfer):
            told = told if protocol is None else protocol.peerUnreachable
        if told is not None and not self.closed:
            told(peer)

    def admitReceivers(self, admit: bool) -> None:
        """As L{IListeningPort.admitReceivers}."""
        self.admits = admit

    def probe(self) -> defer.Deferred[None]:
        """As L{IListeningPort.probe}."""
        if self.shared:
            return defer.succeed(None)
        answer: defer.Deferred[None] = defer.Deferred()
        self._send(b"", self.address, self.address)
        self._probes.append(answer)
        return answer

    # Groups

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """As L{IDatagramPort.setGroup}."""
        self.group = (ttl, interface, loopback, broadcast)
        self.loopback, self.broadcast = loopback, broadcast

    def chooseGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """As L{IListeningPort.chooseGroup}."""
        self.setGroup(ttl, interface, loopback, broadcast)

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """As L{IUDPTransport.setBroadcastAllowed}."""
        self.broadcast = enabled

    def joinGroup(self, address: str, interface: str = "") -> defer.Deferred[None]:
        """As L{IMulticastTransport.joinGroup}: receive datagrams to this group at this port's number."""
        self.host.network.groups.setdefault((address, self.address[1]), {})[self] = None
        return defer.succeed(None)

    def leaveGroup(self, address: str, interface: str = "") -> defer.Deferred[None]:
        """As L{IMulticastTransport.leaveGroup}."""
        self.host.network.groups.get((address, self.address[1]), {}).pop(self, None)
        return defer.succeed(None)

    # Address and end

    def readArrived(self) -> None:
        """Do nothing: what has arrived was delivered at once."""

    def getHost(self) -> IPv4Address | IPv6Address:
        """As L{IDatagramPort.getHost}."""
        six = ":" in self.address[0]
        name = ("::" if six else "0.0.0.0") if self.wildcard else self.address[0]
        return IPv6Address("UDP", name, self.address[1]) if six else IPv4Address("UDP", name, self.address[1])

    def stopListening(self) -> defer.Deferred[None]:
        """As L{IDatagramPort.stopListening}; datagrams that are still under way to the port are lost."""
        if not self.closed:
            self.closed = True
            self.host.unbind(self)
            for protocol in (self._listening, self._transfer, self._client):
                if protocol is not None:
                    protocol.doStop()
        return defer.succeed(None)
