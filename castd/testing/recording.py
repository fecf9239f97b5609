"""
The simplest client there is: it keeps what comes, and sends what it is told to.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.protocol import DatagramProtocol

from castd.request import Peer
from castd.testing.hosts import Host


class ReceivedDatagram(NamedTuple):
    """One datagram as it was received: what came, from whom, and when; time in virtual seconds."""

    datagram: bytes
    source: Peer
    time: float


class RecordingClient(DatagramProtocol):
    """
    A port of a host, driven by hand.

    @ivar inbox: what has come and was not taken yet, oldest first.
    """

    noisy = False

    def __init__(self, host: Host, port: int = 0) -> None:
        """
        @param port: the number to bind to; 0: any that is free.
        """
        self.host = host
        self.inbox: list[ReceivedDatagram] = []
        self.port = host.listenUDP(port, self)

    @property
    def address(self) -> Peer:
        """Where others reach it."""
        return self.port.address

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """As L{DatagramProtocol.datagramReceived}."""
        self.inbox.append(ReceivedDatagram(datagram, addr, self.host.seconds()))

    def send(self, datagram: bytes, address: Peer) -> None:
        """Send one datagram."""
        self.port.write(datagram, address)

    def take(self) -> list[ReceivedDatagram]:
        """Return all that has come, and empty the inbox."""
        received, self.inbox = self.inbox, []
        return received

    def expect(self, seconds: float = 1.0) -> ReceivedDatagram:
        """
        Let time pass until a datagram comes, and take the first.

        @raise LimitExceeded: nothing came within C{seconds}.
        """
        if not self.inbox:
            self.host.network.run(lambda: self.inbox, limit=seconds)
        return self.inbox.pop(0)
