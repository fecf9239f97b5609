"""
Simulates many SLAM receivers around one Sweep and one Wire, in virtual time: no sockets, no CastProtocol, no reactor.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from castd.cast.events import Announce, Left, SendBlocks
from castd.cast.sweep import Sweep
from castd.dialects.slam import Dialect, Options, Wire
from castd.request import Local, Peer, Request
from tests.support.clients.slam_client import Client, Etherboot, Ipxe

SERVER = Local("10.0.0.1", 10000)


@dataclass
class Bytes:
    """Content in memory."""

    data: bytes
    name: str = "image"
    version: Any = 1

    @property
    def size(self) -> int:
        return len(self.data)


def image(size: int, seed: int = 7) -> bytes:
    """Return content in which no two blocks are alike."""
    return random.Random(seed).randbytes(size)


class Seat:
    """
    One receiver of many.

    It compares each block with the file instead of storing it: two hundred images would not fit into memory.
    """

    def __init__(self, client: Client, data: bytes) -> None:
        self.client = client
        client.reset = self.reset  # type: ignore[method-assign]
        client.keep = self.keep  # type: ignore[method-assign]
        self.data = data

    def reset(self, header: bytes, size: int, blocksize: int) -> None:
        client = self.client
        client.resets += bool(client.header)
        client.header, client.size, client.blocksize = header, size, blocksize
        client.have = bytearray(-(-size // blocksize))

    def keep(self, number: int, payload: bytes) -> None:
        client = self.client
        at = number * client.blocksize
        assert self.data[at : at + client.blocksize] == payload
        client.blocks += 1
        client.doubles += client.have[number]
        client.have[number] = 1


@dataclass
class Hall:
    """
    The server, its receivers, and the lossy network between them.

    @ivar latency: seconds from one end to the other.
    @ivar rate: octets a second that the server sends.
    @ivar sent: numbers of blocks in the order in which they went to the group.
    @ivar log: (instant, action, peer or block) of every action of the server.
    """

    data: bytes
    loss: float = 0.0
    latency: float = 0.0002
    rate: float = 12e6
    seed: int = 1
    options: Options = field(default_factory=lambda: Options(file="image"))

    def __post_init__(self) -> None:
        self.now = 0.0
        self.chance = random.Random(self.seed)
        self.dialect = Dialect(self.options)
        first = Request(("10.0.0.2", 1), SERVER, "image")
        self.wire: Wire = self.dialect.open(first, Bytes(self.data))  # type: ignore[arg-type]
        self.sweep = Sweep(self.wire.policy, self.wire.count, chance=random.Random(self.seed + 1).random)
        self.clients: dict[Peer, Etherboot | Ipxe] = {}
        self.sent: list[int] = []
        self.log: list[tuple[float, str, Any]] = []
        self.lists = self.seats = 0
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.ticket = 0
        self.pumpAt: float | None = None
        self.freeAt = 0.0

    def at(self, instant: float, do: Callable[..., None], *what: Any) -> None:
        self.ticket += 1
        heappush(self.events, (instant, self.ticket, do, what))

    def sit(self, client: Etherboot | Ipxe, start: float = 0.0, peer: Peer | None = None, keeps: bool = False) -> Peer:
        """Add a receiver that begins at this instant.  -> its address."""
        self.seats += 1
        number = self.seats
        peer = peer or (f"10.1.{number >> 8}.{number & 255}", client.port or self.chance.randrange(1025, 65536))
        if not keeps:
            Seat(client, self.data)
        self.at(start, self.begin, client, peer)
        return peer

    def begin(self, client: Etherboot | Ipxe, peer: Peer) -> None:
        self.clients[peer] = client
        client.start(self.now)
        self.at(client.deadline() or 0.0, self.tick, client, peer)

    def tick(self, client: Etherboot | Ipxe, peer: Peer) -> None:
        due = client.deadline()
        if due is None:
            return
        if due <= self.now:
            self.speak(peer, client.tick(self.now))
            due = client.deadline()
        if due is not None:
            self.at(due, self.tick, client, peer)

    def speak(self, peer: Peer, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            if self.chance.random() >= self.loss:
                self.at(self.now + self.latency, self.receive, datagram, peer)

    def receive(self, datagram: bytes, peer: Peer) -> None:
        """Receive a datagram at the server."""
        self.lists += 1
        if self.sweep.peerState(peer) is not None:
            self.sweep.hear(peer, self.wire.receive(datagram, peer, self.sweep.peerState(peer)), self.now)
        else:
            request = self.dialect.request(datagram, peer, SERVER)
            if request is not None:
                self.sweep.join(peer, self.now, self.wire.requestedBlocks(request))
        self.pump()

    def wake(self) -> None:
        if self.pumpAt is not None and self.now >= self.pumpAt:
            self.pumpAt = None
            self.pump()

    def pump(self) -> None:
        while True:
            if self.freeAt > self.now:
                due: float | None = self.freeAt
                break
            action = self.sweep.poll(self.now)
            if isinstance(action, SendBlocks):
                for number in action.numbers:
                    self.sent.append(number)
                    self.log.append((self.now, "data", number))
                    self.at(self.now + self.latency, self.group, number)
                self.freeAt = self.now + len(action.numbers) * self.wire.blocksize / self.rate
            elif isinstance(action, Announce):
                self.log.append((self.now, "ping", action.peer))
                if self.chance.random() >= self.loss:
                    self.at(self.now + self.latency, self.ping, action.peer)
            elif isinstance(action, Left):
                self.log.append((self.now, action.outcome, action.peer))
            else:
                due = self.sweep.deadline(self.now)
                assert due is None or due > self.now, "it would spin"
                break
        if due is not None and (self.pumpAt is None or due < self.pumpAt):
            self.pumpAt = due
            self.at(due, self.wake)

    def datagram(self, number: int) -> bytes:
        at = number * self.wire.blocksize
        return self.wire.header(number) + self.data[at : at + self.wire.blocksize]

    def group(self, number: int) -> None:
        datagram, chance, loss = self.datagram(number), self.chance.random, self.loss
        for peer, client in self.clients.items():
            if not client.done and (not loss or chance() >= loss):
                answers = client.group(datagram, self.now)
                if answers:
                    self.speak(peer, answers)

    def ping(self, peer: Peer) -> None:
        client = self.clients.get(peer)
        if client is not None:
            self.speak(peer, client.unicast(self.wire.status, self.now))
            due = client.deadline()
            if due is not None:
                self.at(due, self.tick, client, peer)

    def run(self, limit: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let so many seconds pass, or fewer if C{until} becomes true."""
        end = self.now + limit
        while self.events and self.events[0][0] <= end and not until():
            self.now, _, do, what = heappop(self.events)
            do(*what)
        if not until():
            self.now = end

    def finished(self) -> bool:
        """Return whether every receiver has the file or has given up."""
        return all(client.over for client in self.clients.values())

    @property
    def ratio(self) -> float:
        """Return how many blocks were sent for each block of the file."""
        return len(self.sent) / self.wire.count


def floor(receivers: int, loss: float) -> float:
    """Return the least L{Hall.ratio} without a code: each block is sent until all have it, and never again."""
    total, power = 0.0, 1.0
    while True:
        lacking = 1 - (1 - power) ** receivers
        total += lacking
        power *= loss
        if lacking < 1e-12:
            return total
