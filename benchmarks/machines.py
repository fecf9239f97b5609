"""
Machines of benchmarks/soak.py: each has an address and a wire that loses datagrams, and may die; and enemies.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import DatagramProtocol

if TYPE_CHECKING:
    from crowd import Crowd

#: How long the port of a machine that froze still takes datagrams, before its host says that it is closed.  Seconds.
FROZEN = 15.0
#: IP_MULTICAST_ALL: else every socket at a port hears the groups that any other has joined.
IP_MULTICAST_ALL = 49


class Cable(DatagramProtocol):
    """One port of a machine, and the wire that loses."""

    def __init__(self, machine: Machine, inner: Any) -> None:
        self.machine, self.inner = machine, inner
        self.open = True

    def startProtocol(self) -> None:
        self.inner.makeConnection(self)

    @property
    def socket(self) -> Any:
        return self.transport.socket

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.machine.crowd.seen(addr)
        if not self.machine.loses():
            self.inner.datagramReceived(datagram, addr)

    def write(self, datagram: bytes, addr: Any) -> None:
        self.machine.crowd.said(datagram)
        if not self.machine.loses():
            self.transport.write(datagram, addr)

    def joinGroup(self, group: str, interface: str = "") -> Any:
        return self.transport.joinGroup(group, interface)

    def doRead(self) -> None:
        if self.open:
            self.transport.doRead()

    def stopListening(self) -> None:
        """A machine that froze does not even close its ports."""
        if not self.machine.frozen:
            self.unplug()

    def unplug(self) -> None:
        if self.open:
            self.open = False
            self.transport.stopListening()


class Machine:
    """
    What a client takes for its reactor.

    @ivar dead: nothing comes in or goes out any more; C{frozen}: but its ports are still open.
    """

    def __init__(self, crowd: Crowd, host: str) -> None:
        self.crowd, self.host = crowd, host
        self.dead = self.frozen = False
        self.cables: list[Cable] = []
        self.seconds, self.callLater = crowd.reactor.seconds, crowd.reactor.callLater

    def loses(self) -> bool:
        return self.dead or self.crowd.chance.random() < self.crowd.loss

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> Cable:
        return self._plugged(
            protocol,
            lambda cable: self.crowd.reactor.listenUDP(port, cable, interface=self.host, maxPacketSize=maxPacketSize),
        )

    def listenMulticast(self, port: int, protocol: Any, maxPacketSize: int, listenMultiple: bool) -> Cable:
        cable = self._plugged(
            protocol,
            lambda cable: self.crowd.reactor.listenMulticast(
                port, cable, maxPacketSize=maxPacketSize, listenMultiple=listenMultiple
            ),
        )
        cable.socket.setsockopt(0, IP_MULTICAST_ALL, 0)
        return cable

    def _plugged(self, protocol: Any, listen: Callable[[Cable], Any]) -> Cable:
        cable = Cable(self, protocol)
        listen(cable)
        self.cables.append(cable)
        return cable

    def die(self, frozen: bool) -> None:
        """Without a word; its host says that the port is closed, or nothing says anything."""
        self.dead, self.frozen = True, frozen
        if frozen:
            self.crowd.reactor.callLater(FROZEN, self.vanish)
        else:
            self.vanish()

    def vanish(self) -> None:
        for cable in self.cables:
            cable.unplug()


class Enemy:
    """Who says what he should not, from an address of his own."""

    def __init__(self, server: str, host: str) -> None:
        self._server = server
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.setblocking(False)

    def speak(self, datagram: bytes, port: int) -> None:
        with suppress(OSError):
            self._socket.sendto(datagram, (self._server, port))

    def close(self) -> None:
        self._socket.close()
