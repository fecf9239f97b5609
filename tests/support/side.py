"""
A server at real sockets of the loopback interface, in virtual time, and scripts of what may happen to it.

Two of them that hear the same script can be compared after each event.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from twisted.logger import LogEvent

from castd.dialects import multicast
from castd.dialects.tftp import Dialect, Options
from castd.errors import ContentChanged
from castd.group_pool import Group, GroupPool
from castd.net.epoll import EpollSet
from castd.net.ports import Ports
from castd.options import Limits
from castd.server.cast_protocol import CastProtocol
from castd.server.fastpath import FastPath
from castd.server.listener import Listener
from castd.server.recorded import RecordedCast
from castd.server.recorder import Recorder
from castd.server.site import Site
from castd.testing import BytesContent, pattern
from castd.testing.site import NoJitterRandom
from tests.support.clients.tftp import rrq
from tests.support.fakes import OWN_LOOPBACK, Reactor
from tests.support.log import observed
from tests.support.turns import state, toldTurn

UDP_SEGMENT = 103


class Source:
    """Files in memory, which can be exchanged."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.opened: list[Changing] = []

    def lookup(self, name: str, peer: object) -> BytesContent:
        made = Changing(name, self.files[name])
        self.opened.append(made)
        return made


class Changing(BytesContent):
    """A file that may be replaced while it is read."""

    changed = False

    def readInto(self, buffers: Any, offset: int) -> None:
        if self.changed:
            raise ContentChanged
        super().readInto(buffers, offset)


FILES = {"short": pattern(5_000), "long": pattern(300_000), "empty": b""}


class Untimed(EpollSet):
    """A set that reads requests in each round, however long they take: how long is not the same for two servers."""

    _owed = property(lambda self: 0.0, lambda self, value: None)


@contextmanager
def oneCpu() -> Iterator[None]:
    """Keep this thread on one CPU, so that what it sends to itself arrives in the order in which it was sent."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


class Side:
    """
    A server whose set is read natively, or by Python, and its clients; in virtual time.

    @ivar heard: what each client has received, and C{tids}: from where.
    @ivar events: what was logged for it.
    """

    def __init__(self, compiled: bool, clients: int) -> None:
        self.reactor = Reactor()
        self.ports = Ports(self.reactor, random.Random(1))
        self.ports.epoll.__class__ = Untimed
        self.ports.epoll.compiled = compiled
        # A cache that holds few chunks, so that they are laid out again and again.
        self.site = Site(self.reactor, NoJitterRandom(), self.ports, Limits())
        self.site.blockCache.limit = 200_000
        self.site.blockCache.compiled = compiled
        self.source = Source(FILES)
        self.site.open([self.source], (), None)
        self.listener = self.listens()
        self.port = self.ports.listen(0, self.listener, OWN_LOOPBACK)
        self.clients = [self.socket() for _ in range(clients)]
        self.stranger = self.socket()
        self._mark = self.socket()
        self._mark.setblocking(True)
        self._mark.connect(self._mark.getsockname())
        self.heard: list[list[bytes]] = [[] for _ in range(clients)]
        self.tids = [self.server] * clients
        self.events: list[LogEvent] = []

    def record(self, packets: int, payload: bool) -> None:
        """Have the flight recorder note so many packets of each transfer that begins from now on."""
        recorder = self.site.recorder = Recorder(self.reactor)
        recorder.adjust(packets, 1 << 24, payload)

    def recorded(self) -> list[object]:
        """Return what was recorded of each transfer that goes on, by the number of its client."""
        names = {each.getsockname(): number for number, each in enumerate(self.clients) if each.fileno() >= 0}
        found: list[object] = []
        for cast in sorted(self.listener.casts(), key=lambda cast: cast.opened):
            assert isinstance(cast, RecordedCast)
            for key, ring in cast.tape.rings.items():
                kept = [(*each[:2], names.get(each[2]), each[3] is None, *each[4:]) for each in ring.packets]
                found.append((names.get(key), ring.heard, kept))
        return found

    def listens(self) -> Listener:
        """Return what answers requests."""
        options = Options(port=1, windowsize=64)
        return Listener(self.site, "tftp", options, Dialect(options))

    @property
    def server(self) -> tuple[str, int]:
        host = self.port.getHost()
        return host.host, host.port

    def socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        made.setblocking(False)
        made.bind((OWN_LOOPBACK, 0))
        return made

    def close(self) -> None:
        for each in (*self.clients, self.stranger, self._mark):
            each.close()
        self.listener.stop()
        self.port.stopListening()
        self.ports.closeIdle()
        self.ports.epoll.connectionLost(None)  # type: ignore[arg-type]

    def send(self, client: int, datagram: bytes, to: tuple[str, int] | None = None) -> None:
        if self.clients[client].fileno() >= 0:
            with suppress(OSError):
                self.clients[client].sendto(datagram, to or self.tids[client])

    def shut(self, client: int) -> None:
        """Close the port of a client."""
        self.clients[client].close()

    def jam(self, step: int) -> None:
        """
        Have the kernel cut what is sent from now on into pieces of one octet, which are too many for it, so that each
        send fails; 0: no more.
        """
        for cast in self.listener.casts():
            # The recorder's port stands before the one that sends.
            port = getattr(cast.transport, "_port", cast.transport)
            port._pair.main.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, step or port._segments._step)

    def play(self, action: Callable[[Side], object]) -> None:
        """Do something, then let the server read whatever has come, and the clients as well."""
        with observed(self.events.append), oneCpu():
            action(self)
            kernel = self.ports.epoll._epoll
            assert kernel is not None
            self._settle()
            while kernel.poll(0):
                self.ports.epoll.read()
                self._settle()
        self.listen()

    def listen(self) -> None:
        """Let the clients read whatever has come."""
        for index, client in enumerate(self.clients):
            with suppress(OSError):
                while client.fileno() >= 0:
                    datagram, tid = client.recvfrom(65535)
                    self.heard[index].append(datagram)
                    if self.tids[index] == self.server:
                        self.tids[index] = tid

    def _settle(self) -> None:
        """Wait until what was sent has been delivered: a busy kernel leaves that to a thread of its own."""
        self._mark.send(b"mark")
        self._mark.recv(4)

    def state(self) -> list[object]:
        """Return all that a transfer is, but for its numbers of ports."""
        found: list[object] = []
        for cast in sorted(self.listener.casts(), key=lambda cast: cast.opened):
            assert isinstance(cast, CastProtocol)
            turn = toldTurn(cast)
            found.append((
                cast._steps, cast._expected, cast._steppedAt, cast.due, cast._interval, cast._nextBlock,
                len(cast._prepared.images), cast.progress(), turn.highestSent, turn.state, turn.sentAt, turn.repeatAt,
                None if turn.master is None else vars_(turn.master.rto),
            ))  # fmt: skip
        return found

    def told(self) -> list[object]:
        return [
            tuple(each.get(key) for key in ("event", "outcome", "seconds", "blocks", "repeats", "octets", "why"))
            for each in self.events
        ]


class GroupSide(Side):
    """
    A server that sends to groups.  Its group is a socket here that all clients listen to, so that no route is needed.
    """

    def __init__(self, compiled: bool, clients: int) -> None:
        super().__init__(compiled, clients)
        self.numbers = [client.getsockname()[1] for client in self.clients]

    def listens(self) -> Listener:
        self.ear = self.socket()
        self.site.groupPool = OneGroup(self.ear.getsockname())
        options = multicast.Options(port=1, gather=0.0, clients="any")
        return Listener(self.site, "multicast", options, multicast.Dialect(options))

    def close(self) -> None:
        super().close()
        self.ear.close()

    def listen(self) -> None:
        super().listen()
        group = b",%d," % self.ear.getsockname()[1]
        for each in self.heard:
            # An OACK names the group, whose number is not the same for two servers; a jam cuts it into octets.
            each[:] = [datagram.replace(group, b",1758,") for datagram in each if len(datagram) > 1]
        with suppress(OSError):
            while True:
                block = self.ear.recv(65535)
                for each in self.heard:
                    each.append(block)

    def shut(self, client: int) -> None:
        """Do nothing: how often the kernel tells of closed ports depends on what else the machine does."""

    def jam(self, step: int) -> None:
        for cast in self.listener.casts():
            port = cast.transport
            port._socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, step or port._segments._step)

    def state(self) -> list[object]:
        found: list[object] = []
        for cast in self.listener.casts():
            assert isinstance(cast, CastProtocol)
            master = cast._master
            found.append((
                cast._steps, cast._steppedAt, cast.due, cast._interval, cast._nextBlock, cast.progress(),
                len(cast._prepared.images), None if master is None else (master.noted, master.stop, master.drawn),
                unnumbered(repr(state(toldTurn(cast))), self.numbers),
            ))  # fmt: skip
        return found


def unnumbered(text: str, ports: Iterable[int]) -> str:
    """
    Return a text of L{state} with the numbers of the clients in place of their ports.  Only what stands behind an
    address is one: a file may have as many blocks as the number of a port.
    """
    for index, port in enumerate(ports):
        text = text.replace(f"{OWN_LOOPBACK}'\", '{port}'", f"{OWN_LOOPBACK}'\", 'client {index}'")
    return text


class OneGroup(GroupPool):
    """Allocates one address, over and over."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group

    def allocate(self, groups: Sequence[Group], now: float) -> Group:
        return self.group


def vars_(it: object) -> object:
    """Return the attributes of an object, with or without slots."""
    names = [name for kind in type(it).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(it, name, None) for name in names} | getattr(it, "__dict__", {})


#: What is not an ACK, or none of what was sent.
NOISE = [
    b"", b"\0", b"\0\4", b"\0\4\0", b"\0\4\0\1\0", b"\0\4\377\377", b"\4\0\0\1", b"\0\3\0\1", b"\0\3\0\1" + bytes(512),
    b"\0\6blksize\0" + b"8\0", b"\0\1long\0octet\0", b"\0\2long\0octet\0", b"\0\0", b"\377" * 4, bytes(3000), b"\0\11",
]  # fmt: skip


def script(seed: int, clients: int) -> Iterator[Callable[[Side], object]]:
    """Yield what happens, one action after the other."""
    chance = random.Random(seed)
    for client in range(clients):
        options = {"blksize": chance.choice([8, 512, 1024, 1468])}
        if chance.random() < 0.6:
            options["windowsize"] = chance.choice([1, 2, 3, 16, 64])
        yield ask(client, rrq(chance.choice(["short", "long", "long", "long", "empty"]), **options))
    for _ in range(chance.randrange(50, 200)):
        yield together([act(chance, clients) for _ in range(chance.choice([1, 1, 2, 5]))])


def groupScript(seed: int, clients: int) -> Iterator[Callable[[Side], object]]:
    """Yield what happens to a group, one action after the other."""
    chance = random.Random(seed)
    request = rrq(chance.choice(["short", "long", "long"]), blksize=chance.choice([512, 1024]), multicast="")
    for client in range(clients):
        yield ask(client, request)
    for _ in range(chance.randrange(100, 400)):
        if chance.random() < 0.01:
            yield ask(chance.randrange(clients), request)
        yield together([act(chance, clients) for _ in range(chance.choice([1, 1, 2, 5]))])


def ask(client: int, request: bytes) -> Callable[[Side], object]:
    return lambda side: side.send(client, request, side.server)


def together(actions: list[Callable[[Side], object]]) -> Callable[[Side], object]:
    """Return what does all of these before anything is read."""
    return lambda side: [action(side) for action in actions]


def act(chance: random.Random, clients: int) -> Callable[[Side], object]:
    """Draw one thing that happens."""
    client, sort, seconds = chance.randrange(clients), chance.random(), chance.choice([0.0001, 0.001, 0.02, 0.3])
    noise, octet = chance.choice(NOISE), chance.randrange(4)

    def answer(side: Side, back: int = 0, flip: bool = False, tail: bytes = b"") -> None:
        """Acknowledge the last block that has come, or one before; or nearly so."""
        blocks = [each for each in side.heard[client] if each[:2] in (b"\0\3", b"\0\6")]
        if not blocks:
            return
        number = 0 if blocks[-1][1] == 6 else int.from_bytes(blocks[-1][2:4])
        ack = bytearray(b"\0\4" + max(0, number - back).to_bytes(2))
        if flip:
            ack[octet] ^= 1
        side.send(client, bytes(ack) + tail)

    def replace(side: Side) -> None:
        for each in side.source.opened[client : client + 1]:
            each.changed = True

    def stranger(side: Side) -> None:
        with suppress(OSError):
            side.stranger.sendto(b"\0\4\0\1", side.tids[client])

    if sort < 0.72:
        return answer
    for limit, action in (
        (0.77, lambda side: answer(side, 1)),
        (0.80, lambda side: answer(side, 0, True)),
        (0.81, lambda side: answer(side, 0, False, b"\0")),
        (0.84, lambda side: [answer(side), answer(side)]),
        (0.89, lambda side: side.send(client, noise)),
        (0.90, stranger),
        (0.91, lambda side: side.jam(1)),
        (0.93, lambda side: side.jam(0)),
        (0.985, lambda side: side.reactor.advance(seconds)),
        (0.99, replace),
        (0.994, lambda side: side.send(client, b"\0\5\0\0enough\0")),
        (0.996, lambda side: side.shut(client)),
        (1.0, ask(client, rrq("long", blksize=1024))),
    ):
        if sort < limit:
            return action  # type: ignore[return-value]
    return answer


def countPython(patch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that grows with each datagram of a transfer that Python gets: whether its side is compiled."""
    calls: list[bool] = []
    real = FastPath.datagramReceived

    def datagramReceived(self: FastPath, datagram: bytes, addr: Any) -> None:
        calls.append(self.site.ports.epoll.compiled)  # type: ignore[attr-defined]
        real(self, datagram, addr)

    patch.setattr(FastPath, "datagramReceived", datagramReceived)
    return calls
