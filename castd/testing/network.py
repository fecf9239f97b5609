"""
Simulates a network in memory: virtual hosts, virtual time, seeded faults.

Time jumps from event to event, so an hour of waiting costs nothing.  Every fault is drawn from a seeded generator, so a
run can be repeated exactly.  Every run has a limit, so two sides that talk for ever fail instead of hanging.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from castd.request import Local, Peer
from castd.testing.hosts import Host
from castd.testing.ports import VirtualPort
from castd.testing.timeline import Timeline

#: C{predicate(source, destination, datagram)} -> whether the datagram is lost; see L{Network.losing}.
LossPredicate: TypeAlias = Callable[[Peer, Peer, bytes], bool]


class SentDatagram(NamedTuple):
    """One datagram as its sender sent it, lost or not; time in virtual seconds."""

    time: float
    source: Peer
    destination: Peer
    datagram: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """
    The properties of the path from one host to another.

    @ivar loss: share of the datagrams that are lost, 0 to 1.
    @ivar duplicate: share that arrives twice.
    @ivar reorder: share that is delayed by one to five times the latency.
    @ivar latency: seconds from the sender to the receiver.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    latency: float = 0.001


class GroupDelivery:
    """
    Delivers one datagram to several ports at the same time.
    """

    __slots__ = ("_network", "_ports")

    def __init__(self, network: Network, ports: list[VirtualPort]) -> None:
        self._network = network
        self._ports = ports

    def receive(self, datagram: bytes, source: Peer, local: Local | None) -> None:
        """As L{VirtualPort.receive}."""
        self._network.delivered += len(self._ports) - 1
        for port in self._ports:
            port.receive(datagram, source, local)


class Network(Timeline):
    """
    A L{Clock<twisted.internet.task.Clock>} that carries datagrams.

    A site under test has the network as its C{reactor}, and a L{host} as its C{ports}.  An exception of a protocol is
    raised by L{run} or L{advance}, so that no fault passes a test unseen.

    @ivar capture: every datagram that was sent, in order; L{None}: nothing is captured, for long runs.
    @ivar sent: how many datagrams were sent.  A group datagram counts once.
    @ivar delivered: how many datagrams were delivered to a receiver.
    @ivar lost: how many datagrams a link or a predicate has lost.
    @ivar strayed: how many datagrams went to an address where no port listened.
    """

    def __init__(
        self,
        seed: int = 0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        latency: float = 0.001,
        capture: bool = True,
    ) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self._draw = self.random.random
        self._default = Link(loss, duplicate, reorder, latency)
        self._links: dict[tuple[str | None, str | None], Link] = {}
        self._loses: list[LossPredicate] = []
        self._hosts: dict[str, Host] = {}
        self.bound: dict[tuple[str, int], VirtualPort] = {}
        self.groups: dict[tuple[str, int], dict[VirtualPort, None]] = {}
        self.capture: list[SentDatagram] | None = [] if capture else None
        self.lost = self.strayed = 0

    # Hosts and links

    def host(self, *addresses: str) -> Host:
        """
        Find the host that has these addresses, or make a new one.

        @param addresses: IPv4 or IPv6; C{"10.0.0.1/16"} gives the subnet as well, which is /24 (IPv6: /64) otherwise.
        """
        names = [address.partition("/")[0] for address in addresses]
        if names[0] not in self._hosts:
            made = Host(self, addresses)
            self._hosts.update(dict.fromkeys(names, made))
        return self._hosts[names[0]]

    def hosts(self) -> Iterator[Host]:
        """Return every host, once."""
        return iter(dict.fromkeys(self._hosts.values()))

    def link(
        self,
        source: str | None = None,
        destination: str | None = None,
        *,
        loss: float | None = None,
        duplicate: float | None = None,
        reorder: float | None = None,
        latency: float | None = None,
    ) -> None:
        """
        Change the link of one direction between two addresses; a property that is not given stays as it is.

        A rule with both addresses takes precedence over one with a destination only, and that over one with a source
        only.

        @param source: address of the sender; L{None}: any.
        @param destination: address of the receiver; L{None}: any.
        """
        given = {"loss": loss, "duplicate": duplicate, "reorder": reorder, "latency": latency}
        changes = {name: value for name, value in given.items() if value is not None}
        before = self._linkOf(source, destination)
        if source is None and destination is None:
            self._default = replace(before, **changes)
        else:
            self._links[source, destination] = replace(before, **changes)

    def losing(self, predicate: LossPredicate) -> Callable[[], None]:
        """
        Lose every datagram for which C{predicate(source, destination, datagram)} is true.  For a group datagram the
        predicate is called once for each receiver, with the receiver's address.

        @return: a function that removes the predicate.
        """
        self._loses.append(predicate)
        return lambda: self._loses.remove(predicate)

    def _linkOf(self, source: str | None, destination: str | None) -> Link:
        links = self._links
        if not links:
            return self._default
        return (
            links.get((source, destination))
            or links.get((None, destination))
            or links.get((source, None))
            or self._default
        )

    # Datagrams under way

    def carry(self, datagram: bytes, source: Peer, destination: Peer, sender: VirtualPort) -> None:
        """Carry one datagram that a port sends; called by L{VirtualPort}."""
        self.sent += 1
        if self.capture is not None:
            self.capture.append(SentDatagram(self.rightNow, source, destination, datagram))
        where = (destination[0], destination[1])
        receiver = self.bound.get(where)
        if receiver is not None:
            self._forward(receiver, datagram, source, receiver.locals[destination[0]])
            return
        heard = self.groups.get(where) or sender.host.heardBy(destination, sender)
        if heard is None:
            self.strayed += 1
            self._bounce(sender, destination)
            return
        self._spread([port for port in heard if port.hears(sender)], datagram, source)

    def _spread(self, ports: list[VirtualPort], datagram: bytes, source: Peer) -> None:
        """Send a datagram to many ports, by one event if all links are alike: most events of large runs are such."""
        link = self._default
        if self._links or self._loses or link.duplicate or link.reorder:
            for port in ports:
                self._forward(port, datagram, source, None)
            return
        if link.loss:
            draw, loss, asked = self._draw, link.loss, len(ports)
            ports = [port for port in ports if draw() >= loss]
            self.lost += asked - len(ports)
        if ports:
            self.post(self.rightNow + link.latency, GroupDelivery(self, ports), datagram, source, None)

    def _forward(self, receiver: VirtualPort, datagram: bytes, source: Peer, local: Local | None) -> None:
        link = self._linkOf(source[0], receiver.address[0])
        draw = self._draw
        if (link.loss and draw() < link.loss) or (
            self._loses and any(loses(source, receiver.address, datagram) for loses in self._loses)
        ):
            self.lost += 1
            return
        late = link.reorder and draw() < link.reorder
        when = self.rightNow + link.latency * (1 + (1 + 4 * draw()) if late else 1)
        self.post(when, receiver, datagram, source, local)
        if link.duplicate and draw() < link.duplicate:
            self.post(when + link.latency * draw(), receiver, datagram, source, local)

    def _bounce(self, sender: VirtualPort, destination: Peer) -> None:
        """Send an ICMP error for a closed port of a host that exists; an address without a host sends nothing."""
        if destination[0] in self._hosts and not self._linkOf(destination[0], sender.address[0]).loss:
            latency = self._linkOf(sender.address[0], destination[0]).latency
            self.callLater(2 * latency, sender.unreachable, destination)
