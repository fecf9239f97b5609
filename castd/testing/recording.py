"""
Provides a client that a test drives by hand: it keeps received datagrams, and sends the datagrams of the test.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.protocol import DatagramProtocol

from castd.request import Peer
from castd.testing.hosts import Host


class ReceivedDatagram(NamedTuple):
    """One received datagram, with its source and its arrival time in virtual seconds."""

    datagram: bytes
    source: Peer
    time: float


class RecordingClient(DatagramProtocol):
    """
    A port of a host, driven by hand.

    @ivar inbox: datagrams that were received and not taken yet, oldest first.
    """

    noisy = False

    def __init__(self, host: Host, port: int = 0) -> None:
        """
        @param port: the port number to bind to; 0: any free one.
        """
        self.host = host
        self.inbox: list[ReceivedDatagram] = []
        self.port = host.listenUDP(port, self)

    @property
    def address(self) -> Peer:
        """The address of this port."""
        return self.port.address

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """As L{DatagramProtocol.datagramReceived}."""
        self.inbox.append(ReceivedDatagram(datagram, addr, self.host.seconds()))

    def send(self, datagram: bytes, address: Peer) -> None:
        """Send one datagram."""
        self.port.write(datagram, address)

    def take(self) -> list[ReceivedDatagram]:
        """Empty the inbox.  -> the datagrams that were in it."""
        received, self.inbox = self.inbox, []
        return received

    def expect(self, seconds: float = 1.0) -> ReceivedDatagram:
        """
        Let time pass until a datagram has come, and take the oldest of the inbox.

        @raise LimitExceeded: no datagram came within C{seconds}.
        """
        if not self.inbox:
            self.host.network.run(lambda: self.inbox, limit=seconds)
        return self.inbox.pop(0)
