"""
The ports of the machines of a L{Network<castd.testing.Network>}.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address
from zope.interface import implementer

from castd.interfaces import IListeningPort
from castd.request import Local, Peer

if TYPE_CHECKING:
    from castd.testing.hosts import Host

#: The wildcard, by any of its names.
ANY = ("", "0.0.0.0", "::")
_LARGEST = 65507


def at(host: str, port: int) -> Peer:
    """A peer as sockets of its family name it."""
    return (host, port, 0, 0) if ":" in host else (host, port)


@implementer(IListeningPort)
class VirtualPort:
    """
    One port of one host; made by L{Host}.

    @ivar host: whose it is.
    @ivar protocol: who hears it.
    @ivar address: what others see as the source of its datagrams.
    @ivar peer: the only one that it hears as its own; others are strangers.
    @ivar locals: for each address of its host that it is bound to, what a listener is told about a datagram to it.
    @ivar group: what L{setGroup} was last told.
    @ivar paused: as L{IListeningPort.paused}.
    @ivar waiting: what came while nobody read; shared with the port of another process that has the same socket.
    """

    __slots__ = (
        "_listener",
        "_probes",
        "address",
        "broadcast",
        "closed",
        "group",
        "host",
        "locals",
        "loopback",
        "paused",
        "peer",
        "protocol",
        "waiting",
        "wild",
    )

    def __init__(
        self, host: Host, number: int, protocol: Any, interface: str, peer: Peer | None = None, listener: bool = False
    ) -> None:
        self.host = host
        self.protocol = protocol
        self.peer = peer
        self.wild = interface in ANY
        addresses = host.addresses if self.wild else (interface,)
        self.locals = {
            address: Local(address, number, index + 1, networks=host.onLink(address))
            for index, address in enumerate(addresses)
        }
        self.address = at(addresses[0], number)
        self.closed = self.broadcast = self.paused = False
        self.waiting: list[tuple[bytes, Peer, Local | None]] = []
        self.loopback = True
        self.group: tuple[int, str, bool, bool] | None = None
        self._listener = listener
        self._probes: list[defer.Deferred[None]] = []

    # Sending

    def write(self, datagram: bytes, address: Peer | None = None) -> None:
        """As L{IDatagramPort.write}."""
        target = address or self.peer
        if target is None:
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        self._send(datagram, target, self.address if not self.wild else self.host.source(target, self.address))

    def writeFrom(self, datagram: bytes, address: Peer, local: Local) -> None:
        """As L{IDatagramPort.writeFrom}."""
        known = local.host in self.host.addresses
        self._send(datagram, address, at(local.host, self.address[1]) if known else self.address)

    def writeBurst(
        self, image: bytes | bytearray | memoryview, step: int, address: Peer | None = None, local: Local | None = None
    ) -> int:
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

    def burst(self, step: int, most: int) -> Callable[[memoryview], None]:
        """As L{IDatagramPort.burst}."""

        def send(image: memoryview) -> None:
            if self.writeBurst(image, step) < len(image):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        return send

    def _send(self, datagram: bytes, target: Peer, source: Peer) -> None:
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

    def hears(self, sender: VirtualPort) -> bool:
        """Does group data of this sender reach it?  Never itself, and its own machine only as the sender has it."""
        return self.host is not sender.host or (sender.loopback and self is not sender)

    def receive(self, datagram: bytes, source: Peer, local: Local | None) -> None:
        """
        A datagram has arrived; called by the network.

        @param local: what a listener is told; L{None}: it was sent to many; the answer leaves from the near address.
        """
        if self.paused:
            reader = next((self.host.network.bound.get((address, self.address[1])) for address in self.locals), self)
            if reader is None or reader.paused:
                self.waiting.append((datagram, source, local))
            else:
                reader.receive(datagram, source, local)
            return
        self._alive()
        if self.closed:
            self.host.network.strayed += 1
        elif self._listener and source == self.address and not datagram:
            return
        elif self._listener:
            if local is None:
                near = self.host.source(source, self.address)[0]
                local = replace(self.locals[near], broadcast=True)
            self.protocol.datagramFrom(datagram, source, local)
        elif self.peer is None or self.peer[:2] == source[:2]:
            self.protocol.datagramReceived(datagram, source)
        else:
            self.protocol.strangerReceived(datagram, source)

    def _alive(self) -> None:
        probes, self._probes = self._probes, []
        for answer in probes:
            answer.callback(None)

    def pause(self, shared: bool) -> None:
        """As L{IListeningPort.pause}."""
        self.paused = True
        self._alive()

    def resume(self, alone: bool) -> None:
        """As L{IListeningPort.resume}."""
        self.paused = False
        self.host.network.bound.update({(address, self.address[1]): self for address in self.locals})
        while self.waiting and not self.paused:
            self.receive(*self.waiting.pop(0))

    def unreachable(self, peer: Peer) -> None:
        """Nobody listens there, says the peer's machine; who wants to know has a method C{peerUnreachable(peer)}."""
        tell = getattr(self.protocol, "peerUnreachable", None)
        if tell is not None and not self.closed:
            tell(peer)

    def probe(self) -> defer.Deferred[None]:
        """As L{IListeningPort.probe}."""
        answer: defer.Deferred[None] = defer.Deferred()
        self._send(b"", self.address, self.address)
        self._probes.append(answer)
        return answer

    # Groups

    def setGroup(self, ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """As L{IDatagramPort.setGroup}."""
        self.group = (ttl, interface, loopback, broadcast)
        self.loopback, self.broadcast = loopback, broadcast

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """As L{IUDPTransport.setBroadcastAllowed}."""
        self.broadcast = enabled

    def joinGroup(self, address: str, interface: str = "") -> defer.Deferred[None]:
        """As L{IMulticastTransport.joinGroup}: hear what is sent to this group at this port's number."""
        self.host.network.groups.setdefault((address, self.address[1]), {})[self] = None
        return defer.succeed(None)

    def leaveGroup(self, address: str, interface: str = "") -> defer.Deferred[None]:
        """As L{IMulticastTransport.leaveGroup}."""
        self.host.network.groups.get((address, self.address[1]), {}).pop(self, None)
        return defer.succeed(None)

    # Its life

    def getHost(self) -> IPv4Address | IPv6Address:
        """As L{IDatagramPort.getHost}."""
        six = ":" in self.address[0]
        name = ("::" if six else "0.0.0.0") if self.wild else self.address[0]
        return IPv6Address("UDP", name, self.address[1]) if six else IPv4Address("UDP", name, self.address[1])

    def stopListening(self) -> defer.Deferred[None]:
        """As L{IDatagramPort.stopListening}; what is still under way to it is lost."""
        if not self.closed:
            self.closed = True
            self.host.unbind(self)
            self.protocol.doStop()
        return defer.succeed(None)
