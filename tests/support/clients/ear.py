"""
Provides a port for simulated clients, which knows whether a datagram was sent to a group.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.protocol import DatagramProtocol

from castd.request import Local, Peer


class Ear(DatagramProtocol):
    """
    Passes each datagram to C{hear(datagram, addr, group)}.

    Only a port of C{Host.listen} gets the destination of a datagram, and so knows a group or a broadcast.
    """

    noisy = False

    def __init__(self, hear: Callable[[bytes, Peer, bool], object]) -> None:
        self.hear = hear

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        self.hear(datagram, addr, False)

    def datagramFrom(self, datagram: bytes, addr: Peer, local: Local) -> None:
        self.hear(datagram, addr, local.broadcast)

    def peerUnreachable(self, peer: Peer) -> None:
        """Ignore the ICMP error, as all real clients do."""
