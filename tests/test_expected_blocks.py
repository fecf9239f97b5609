"""
An upload whose next block is received in less time is told by nothing from one whose half reads each datagram.

Two servers hear the same script: blocks as expected, again, too early, too long, the last one; noise, errors and
requests that are repeated; a slow disk, a full one, full sockets, networks that are down, timers.  One never asks what
its half expects.  After each event both have sent the same octets at the same instants, have logged the same, and are
in the same state.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from castd.cast.policy import RetransmitPolicy
from castd.dialects import tftp
from castd.errors import Refused
from castd.interfaces import IPredictingHalf
from castd.packets.options import AgreedOptions
from castd.packets.tftp import TftpRequest, buildAck, buildData, buildError, buildRequest, wire
from castd.receive.upload import UploadReceiver
from castd.server.upload_protocol import UploadProtocol
from castd.testing import MemorySink, Network, RecordingClient, memorySite
from castd.testing.content import MemoryUpload
from tests.support.log import observed, plainFields
from tests.support.quick import slowBut
from tests.support.stage import listener
from tests.support.turns import state

SEEDS = range(int(os.environ.get("CASTD_SCRIPTS", "60")))
SERVER, CLIENT = "10.0.0.1", "10.0.0.9"
#: What is the same in both by its nature: the state of the half is told beside it.
_NOT_COMPARED = {"_expected", "_expectedOctets", "_predicting"}


class SlowUpload(MemoryUpload):
    """An upload that has room only when its sink says so."""

    def write(self, data: bytes) -> Any:
        super().write(data)
        if self._sink.slow and self._sink.room is None:
            self._sink.room = Deferred()
        return self._sink.room


class SlowSink(MemorySink):
    """
    A sink whose disk may be slow.

    @ivar slow: it takes no more for now.
    @ivar room: fires when there is room; L{None}: there is.
    """

    def __init__(self, largest: int | None) -> None:
        super().__init__({}, "overwrite", largest)
        self.slow = False
        self.room: Deferred[None] | None = None

    def begin(self, name: str, peer: Any, size: int | None) -> MemoryUpload:
        super().begin(name, peer, size)
        return SlowUpload(self, name)

    def end(self, error: Exception | None) -> None:
        """Let the disk be quick again, or fail."""
        room, self.room, self.slow = self.room, None, False
        if room is not None:
            room.callback(None) if error is None else room.errback(error)


class Server:
    """
    A server that takes one upload, and its client.

    @ivar advanced: how many blocks were received the short way.
    @ivar next: the block that the client sends next, 1, 2, ...
    """

    def __init__(self, predicts: bool, request: TftpRequest, rollover: int, largest: int | None, single: bool) -> None:
        self.predicts, self.request, self.rollover = predicts, request, rollover
        self.network = Network()
        self.sink = SlowSink(largest)
        site = memorySite(self.network, uploads=self.sink)
        self.listener = listener(site, (tftp, {"port": 69, "singlePort": single}))
        site.ports.listen(69, self.listener)
        self.client = RecordingClient(self.network.host(CLIENT))
        self.stranger = RecordingClient(self.network.host("10.0.0.8"))
        self.to = (SERVER, 69)
        self.next = 1
        self.advanced = 0
        self.events: list[dict[str, Any]] = []
        self.heard: list[tuple[float, bytes]] = []

    def play(self, action: Callable[[Server], object]) -> None:
        """Let something happen."""
        advance = UploadProtocol._advance

        def counted(upload: UploadProtocol, datagram: bytes) -> None:
            self.advanced += 1
            advance(upload, datagram)

        with pytest.MonkeyPatch.context() as patch, observed(self.events.append):
            patch.setattr(UploadProtocol, "_advance", counted)
            if not self.predicts:
                patch.setattr(UploadReceiver, "expected", lambda half: None)
            action(self)
            self.network.advance(0.003)
        for letter in [*self.client.take(), *self.stranger.take()]:
            self.heard.append((self.network.seconds(), letter.datagram))
            self.to = letter.source if letter.source[0] == SERVER else self.to

    def ask(self) -> None:
        """Send the request, as a machine does that has restarted."""
        self.to, self.next = (SERVER, 69), 1
        self.send(buildRequest(self.request))

    def send(self, datagram: bytes) -> None:
        self.client.send(datagram, self.to)

    def block(self, ahead: int = 0, octets: int | None = None) -> None:
        """Send the next block, or one so many before or behind it."""
        number = max(1, self.next + ahead)
        size = self.blksize if octets is None else octets
        self.send(buildData(wire(number, self.rollover), bytes([number & 255]) * size))
        if not ahead:
            self.next += 1

    def goOn(self) -> None:
        """Send the block that the server lacks, or ask again where there is no upload."""
        uploads = list(self.listener.casts())
        if not uploads:
            self.ask()
            return
        assert isinstance(uploads[0], UploadProtocol)
        assert isinstance(uploads[0].half, UploadReceiver)
        self.next = uploads[0].half.blocks + 1
        self.block()

    def hinder(self, what: str) -> None:
        """Have the disk slow, the sockets full, or the network down."""
        host = self.network.host(SERVER)
        if what == "disk":
            self.sink.slow = True
        elif what == "sockets":
            host.room = 0
        else:
            host.errno = errno.ENETUNREACH

    def mend(self) -> None:
        """Let all go on."""
        host = self.network.host(SERVER)
        host.room, host.errno = None, 0
        self.sink.end(None)

    def closed(self) -> None:
        """Have a host say that the client's port is closed."""
        for upload in self.listener.casts():
            assert isinstance(upload, UploadProtocol)
            upload.peerUnreachable(upload.request.peer)

    @property
    def blksize(self) -> int:
        return int(dict(self.request.options).get("blksize", 512))

    def state(self) -> list[object]:
        """Return all that the transfers hold but for what only says which way the next block takes."""
        found = []
        for upload in self.listener.casts():
            assert isinstance(upload, UploadProtocol)
            held = {name: value for name, value in vars(upload).items() if name not in _NOT_COMPARED}
            plain = {name: value for name, value in held.items() if isinstance(value, int | float | str | None)}
            queue = [(datagram, address) for datagram, address in upload._queue.kept]
            found.append([state(upload.half), state(plain), queue, upload._queue.rest, list(upload._unread)])
        return found

    def fields(self) -> list[dict[str, object]]:
        return plainFields(self.events)


def step(chance: random.Random) -> Callable[[Server], object]:
    """Return something that may happen to an upload; mostly the next block."""
    draw = chance.random()
    wait = chance.choice([0.0001, 0.004, 0.03, 0.3, 2.0])
    noise = chance.choice([b"", b"\0", b"\0\3", b"\0\3\0", buildAck(1), b"\0\6tsize\0", b"\0\2up\0octet\0"])
    what = chance.choice(["disk", "sockets", "network"])
    ahead, octets = chance.choice([-300, -2, -1, 1, 2, 40000]), chance.choice([0, 5, 511])
    rare: list[Callable[[Server], object]] = [
        lambda server: server.block(ahead),
        lambda server: server.block(-1),
        lambda server: server.network.advance(wait),
        lambda server: server.send(noise),
        lambda server: server.send(buildRequest(server.request)),
        lambda server: server.stranger.send(buildData(wire(server.next, server.rollover), bytes(8)), server.to),
        lambda server: server.hinder(what),
        Server.mend,
        Server.mend,
        Server.closed,
    ]
    ends: list[Callable[[Server], object]] = [
        lambda server: server.block(octets=octets),
        lambda server: server.block(octets=server.blksize + 1),
        lambda server: server.send(buildError(0, "no more")),
        lambda server: server.sink.end(Refused("worn out")),
        lambda server: server.network.advance(70.0),
        Server.ask,
    ]
    if draw < 0.8:
        return Server.goOn
    return chance.choice(rare if draw < 0.98 else ends)


@pytest.mark.parametrize("seed", slowBut(lambda seed: seed < 10, SEEDS))
def test_sideBySide(seed: int) -> None:
    """Whatever happens, both servers have said, logged, stored and kept the same after each event."""
    chance = random.Random(seed)
    options = {"blksize": str(chance.choice([8, 600, 1468])), "windowsize": str(chance.choice([1, 1, 2, 5]))}
    rollover = chance.choice([0, 0, 1])
    if rollover:
        options["rollover"] = "1"
    asked = {name: value for name, value in options.items() if chance.random() < 0.8 or name == "rollover"}
    request = TftpRequest(True, "up", chance.choice(["octet", "netascii"]), tuple(asked.items()))
    largest, single = chance.choice([None, None, 9000]), chance.random() < 0.3
    sides = [Server(predicts, request, rollover, largest, single) for predicts in (True, False)]
    script = [Server.ask, *(step(chance) for _ in range(250))]
    for turn, action in enumerate(script):
        for side in sides:
            side.play(action)
        short, whole = sides
        where = f"after {turn} events"
        assert short.heard == whole.heard, where
        assert short.fields() == whole.fields(), where
        assert short.state() == whole.state(), where
        assert short.sink.files == whole.sink.files, where
    assert not whole.advanced


@pytest.mark.slow
@pytest.mark.parametrize("rollover", [0, 1])
@pytest.mark.parametrize("windowsize", [1, 4])
def test_behindTheWrap(windowsize: int, rollover: int) -> None:
    """All blocks of an upload but the first and the last one are received the short way, behind number 65535 too."""
    options = {"blksize": "8", "windowsize": str(windowsize), "rollover": str(rollover)}
    server = Server(True, TftpRequest(True, "up", "octet", tuple(options.items())), rollover, None, False)
    server.play(Server.ask)
    count = 70_001

    def whole(each: Server) -> None:
        for _ in range(count):
            each.block()
        each.block(octets=3)

    server.play(whole)
    assert server.advanced == count - 1
    data = b"".join(bytes([number & 255]) * 8 for number in range(1, count + 1))
    assert server.sink.files == {"up": data + bytes([count + 1 & 255]) * 3}


def test_theFirstBlock() -> None:
    """The first block shows on which terms the client sends, so the half reads it; nor is any expected at the end."""
    half = UploadReceiver(AgreedOptions(), RetransmitPolicy())
    assert IPredictingHalf.providedBy(half)
    half.begin(0.0)
    assert half.expected() is None
    half.receive(buildData(1, bytes(512)), 0.1)
    assert half.expected() == (b"\0\3\0\2", 516)
    half.receive(buildData(2, b"end"), 0.2)
    assert half.expected() is None
