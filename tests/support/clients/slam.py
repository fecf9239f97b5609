"""
SLAM receivers on a virtual network: the pure clients of C{slam_client} with ports and timers, and a server to face
them.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import DatagramProtocol

from castd.dialects.slam import Dialect, Options
from castd.request import Peer
from castd.server.listener import Listener
from castd.testing import Host, MemorySite, Network, memorySite
from tests.support.clients.slam_client import Client, Etherboot, Ipxe

SERVER = "10.0.0.1"


class Ear(DatagramProtocol):
    """A port that hands on what it hears."""

    noisy = False

    def __init__(self, hear: Any) -> None:
        self.hear = hear

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        self.hear(datagram)

    def peerUnreachable(self, peer: Peer) -> None:
        """iPXE is not disturbed by it, nor is Etherboot."""


class Player:
    """
    A client on a host.

    @ivar said: (instant, datagram) of everything it sent.
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

    def group(self, datagram: bytes) -> None:
        """On a port of both kinds, only a block is longer than a header."""
        own = self.own is self.many and len(datagram) <= 21
        hear = self.client.unicast if own else self.client.group
        self.say(hear(datagram, self.host.seconds()))

    def unicast(self, datagram: bytes) -> None:
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


class Stage:
    """
    A server with one SLAM port, and whoever faces it.

    @ivar files: what it serves; C{image} is at the port.
    """

    def __init__(
        self,
        data: bytes | None,
        *,
        latency: float = 0.0005,
        loss: float = 0.0,
        seed: int = 0,
        capture: bool = True,
        **set: Any,
    ) -> None:
        self.network = Network(seed=seed, latency=latency, loss=loss, capture=capture)
        self.options = Options(file="image", **set)
        self.site: MemorySite = memorySite(self.network, {} if data is None else {"image": data}, host=SERVER)
        self.files = self.site.files
        self.listener = Listener(self.site, "slam", self.options, Dialect(self.options))
        self.host = self.network.host(SERVER)
        self.port = self.site.ports.listen(self.options.port, self.listener, SERVER)
        self.address = (SERVER, self.options.port)
        self.group = tuple(self.options.group)
        self.players: list[Player] = []
        self.seen = 0

    def play(self, client: Etherboot | Ipxe, host: str | None = None) -> Player:
        """A client begins now."""
        number = len(self.players) + 2
        address = host or f"10.0.{number >> 8}.{number & 255}/16"
        player = Player(client, self.network.host(address), self.address, self.group)  # type: ignore[arg-type]
        self.players.append(player)
        return player

    def playing(self) -> list[Client]:
        return [player.client for player in self.players]

    def over(self) -> bool:
        return all(player.client.over for player in self.players)

    def sent(self) -> list[tuple[Peer, bytes]]:
        """-> (destination, datagram) of what the server has sent since this was last asked."""
        capture = self.network.capture or []
        new, self.seen = capture[self.seen :], len(capture)
        return [(each.destination, each.datagram) for each in new if each.source[0] == SERVER]

    def lives(self) -> list[Any]:
        return list(self.listener.casts())
