"""
Simulates the machines of benchmarks/soak.py, each with an address and a wire that loses datagrams, and the attackers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import DatagramProtocol

if TYPE_CHECKING:
    from crowd import Crowd

#: Seconds for which the port of a frozen machine still accepts datagrams, until its host answers that it is closed.
FROZEN = 15.0
#: IP_MULTICAST_ALL: else every socket at a port hears the groups that any other has joined.
IP_MULTICAST_ALL = 49


class Cable(DatagramProtocol):
    """One port of a machine, with the wire that loses datagrams."""

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
        """Close the port, unless the machine is frozen."""
        if not self.machine.frozen:
            self.unplug()

    def unplug(self) -> None:
        if self.open:
            self.open = False
            self.transport.stopListening()


class Machine:
    """
    One machine, which its client uses as the reactor.

    @ivar dead: no datagram is received or sent any more; C{frozen}: the ports are still open.
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

    def listenMulticast(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192, listenMultiple: bool = False
    ) -> Cable:
        cable = self._plugged(
            protocol,
            lambda cable: self.crowd.reactor.listenMulticast(
                port, cable, interface, maxPacketSize=maxPacketSize, listenMultiple=listenMultiple
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
        """Stop without a datagram; then its host answers that the port is closed; a frozen one answers nothing."""
        self.dead, self.frozen = True, frozen
        if frozen:
            self.crowd.reactor.callLater(FROZEN, self.vanish)
        else:
            self.vanish()

    def vanish(self) -> None:
        for cable in self.cables:
            cable.unplug()


class Enemy:
    """Sends hostile datagrams from an address of its own."""

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
