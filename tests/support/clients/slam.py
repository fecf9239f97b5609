"""
Puts the pure SLAM clients of L{slam_client} on a virtual network, with ports and timers.
"""

from __future__ import annotations

from typing import Any

from castd.request import Peer
from castd.testing import Host
from tests.support.clients.ear import Ear
from tests.support.clients.slam_client import Etherboot, Ipxe


class Player:
    """
    A client on a host.

    @ivar said: (instant, datagram) of each datagram that the client has sent.
    """

    def __init__(
        self, client: Etherboot | Ipxe, host: Host, server: Peer, group: tuple[str, int], interface: str = ""
    ) -> None:
        self.client, self.host, self.server = client, host, server
        self.said: list[tuple[float, bytes]] = []
        # Two hosts of the network are told apart by their addresses, so the group has a port of another number.
        self.many = host.listenUDP(group[1], Ear(self.group), interface)
        self.many.joinGroup(group[0])
        shares = client.port == group[1]
        self.own = self.many if shares else host.listenUDP(client.port, Ear(self.unicast), interface)
        self.timer: Any = None
        client.start(host.seconds())
        self.arm()

    def group(self, datagram: bytes, addr: Peer, many: bool) -> None:
        """Receive a datagram of the group; on a port for both kinds, only a block is longer than a header."""
        own = self.own is self.many and len(datagram) <= 21
        hear = self.client.unicast if own else self.client.group
        self.say(hear(datagram, self.host.seconds()))

    def unicast(self, datagram: bytes, addr: Peer, many: bool) -> None:
        self.say(self.client.unicast(datagram, self.host.seconds()))

    def tick(self) -> None:
        self.timer = None
        self.say(self.client.tick(self.host.seconds()))

    def say(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            self.said.append((self.host.seconds(), datagram))
            self.own.write(datagram, self.server)
        self.arm()

    def arm(self) -> None:
        due = self.client.deadline()
        if self.timer is not None and self.timer.active():
            if due is not None and self.timer.getTime() <= due:
                return  # it will look again
            self.timer.cancel()
        self.timer = None
        if due is not None:
            self.timer = self.host.callLater(max(0.0, due - self.host.seconds()), self.tick)
