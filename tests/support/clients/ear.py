"""
A client's port that hears: whatever came, from whom, and whether it was sent to many.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.protocol import DatagramProtocol

from castd.request import Local, Peer


class Ear(DatagramProtocol):
    """
    Hands on what a port hears to C{hear(datagram, addr, group)}.

    Only a port that is told where a datagram went to (C{Host.listen}) knows what was sent to a group or a subnet.
    """

    noisy = False

    def __init__(self, hear: Callable[[bytes, Peer, bool], object]) -> None:
        self.hear = hear

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        self.hear(datagram, addr, False)

    def datagramFrom(self, datagram: bytes, addr: Peer, local: Local) -> None:
        self.hear(datagram, addr, local.broadcast)

    def peerUnreachable(self, peer: Peer) -> None:
        """No client of the field is disturbed by it."""
