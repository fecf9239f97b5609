"""
Provides clients of MTFTP: one that a test drives by hand, and simulations of real clients.

docs/transports/mtftp.md says what each client does; only reading a file is simulated.
"""

from __future__ import annotations

from typing import Any

from castd.packets.tftp import Data, Error, TftpRequest, buildAck, buildRequest, parse, parseRequest
from castd.request import Peer
from castd.testing import Host, RecordingClient, pattern
from tests.support.clients.ear import Ear

SERVER = ("10.0.0.1", 1759)
GROUP = ("239.255.1.1", 3001)
LINUX = pattern(1300)
R = bytes.fromhex("00016c696e7578006f6374657400")

# By hand.


def ack(number: int) -> bytes:
    return buildAck(number)


def block(number: int, data: bytes = LINUX) -> bytes:
    """Return DATA with this block of a file."""
    return b"\0\3" + number.to_bytes(2, "big") + data[(number - 1) * 512 : number * 512]


def opened(stage: Any, number: int = 2, *acks: int) -> RecordingClient:
    """Return a client that has sent its request, and has acknowledged these blocks one after the other."""
    client = stage.client(number)
    stage.say(client, R)
    for each in acks:
        stage.say(client, ack(each))
    return client


def summary(sent: list[tuple[Peer, bytes]]) -> list[str]:
    """Return C{U1} for block 1 to one client, C{G2} for block 2 to the group; other datagrams as they are."""
    told = []
    for where, datagram in sent:
        packet = None if parseRequest(datagram) else parse(datagram)
        if isinstance(packet, Data):
            told.append(f"{'G' if where[0].startswith('239.') else 'U'}{packet.number}")
        else:
            told.append(f"ERROR {packet.code}" if isinstance(packet, Error) else repr(datagram))
    return told


# Real clients.


class Client:
    """
    A machine that reads one file.

    @ivar done: the client takes the file for complete; C{octets} are those that it has.
    @ivar failed: the reason of a failure: C{"tftp"} if the client has changed to plain TFTP.
    @ivar asked: how many requests the client has sent.
    """

    kind = "client"

    def __init__(self, host: Host, name: str = "linux", server: Peer = SERVER, group: Peer = GROUP) -> None:
        self.host, self.name, self.server, self.groupAddress = host, name, server, group
        self.blocks: dict[int, bytes] = {}
        self.last: int | None = None
        self.done, self.failed, self.asked = False, "", 0
        self._alarm: Any = None

    @property
    def over(self) -> bool:
        return self.done or bool(self.failed)

    @property
    def octets(self) -> bytes:
        return b"".join(self.blocks[number] for number in sorted(self.blocks))

    @property
    def gap(self) -> int:
        """Return how many blocks from the start it has without a gap."""
        number = 0
        while number + 1 in self.blocks:
            number += 1
        return number

    def after(self, seconds: float, call: Any) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm = None if self.over else self.host.callLater(seconds, call)

    def request(self) -> bytes:
        self.asked += 1
        return buildRequest(TftpRequest(False, self.name, "octet"))

    def store(self, data: Data) -> None:
        self.blocks[data.number] = data.payload
        if len(data.payload) < 512:
            self.last = data.number

    @property
    def whole(self) -> bool:
        return self.last is not None and self.gap >= self.last

    def end(self, failed: str = "") -> None:
        self.done, self.failed = not failed, failed
        self.after(0, None)
        self.close()

    def close(self) -> None:
        raise AssertionError


class Ipxe(Client):
    """
    iPXE's C{mtftp://}: asks at once, acknowledges up to its first gap at every DATA, leaves after 0.25 s without DATA.

    @ivar fallback: the answer of plain TFTP; C{hazard}: the client had heard the last block then, and had a gap.
    """

    kind = "iPXE"

    def begin(self) -> None:
        self._peer: Peer | None = None
        self._acks = self._heard = self.hazard = False
        self.fallback: list[bytes] = []
        self._own = self.host.listenUDP(0, Ear(lambda datagram, addr, _: self.hear(datagram, addr, True)))
        self._many = self.host.listenUDP(
            self.groupAddress[1], Ear(lambda datagram, addr, _: self.hear(datagram, addr, False))
        )
        self._many.joinGroup(self.groupAddress[0])
        self._own.write(self.request(), self.server)
        self.after(0.25, self.again)

    def again(self) -> None:
        if self._heard or self.asked == 2:
            self.leave()
        else:
            self._own.write(self.request(), self.server)
            self.after(0.5, self.again)

    def leave(self) -> None:
        self.hazard = self.last is not None
        self.end("tftp")
        box = RecordingClient(self.host)
        answers = self.fallback

        def answer(datagram: bytes, addr: Peer) -> None:
            answers.append(datagram)

        box.datagramReceived = answer  # type: ignore[method-assign]
        options = (("blksize", "1432"), ("tsize", "0"))
        box.send(buildRequest(TftpRequest(False, self.name, "octet", options)), (self.server[0], 69))

    def hear(self, datagram: bytes, addr: Peer, alone: bool) -> None:
        if self.over or (self._peer is not None and addr != self._peer):
            return
        self._peer = addr
        self._acks = self._acks or alone
        packet = parse(datagram)
        if isinstance(packet, Error) or not isinstance(packet, Data) or len(packet.payload) > 512 or not packet.number:
            self.end("error")
            return
        self._heard = True
        self.store(packet)
        if self._acks:
            self._own.write(ack(self.gap), addr)
        if self.whole:
            self.end()
        else:
            self.after(0.25, self.again)

    def close(self) -> None:
        self._own.stopListening()
        self._many.stopListening()


class Atftp(Client):
    """atftp's C{--mget}: listens first, acknowledges no number twice in a row, asks once; a master looks for no gap."""

    kind = "atftp"
    DELAY, PATIENCE = 2.0, 6

    def begin(self) -> None:
        self._own = self.host.listenUDP(0, Ear(lambda datagram, addr, _: self.alone(datagram, addr)))
        self._many = self.host.listenUDP(
            self.groupAddress[1], Ear(lambda datagram, addr, _: self.heard(datagram, addr))
        )
        self._many.joinGroup(self.groupAddress[0])
        self._told = 0
        self._timeouts = 0
        self.listen()

    def listen(self) -> None:
        self.state = "listening"
        self.after(self.DELAY, self.open)

    def open(self) -> None:
        self.state = "asking"
        self._own.write(self.request(), self.server)
        # It would repeat its request to port 0.
        self.after(self.DELAY, lambda: self.end("request lost"))

    def alone(self, datagram: bytes, addr: Peer) -> None:
        packet = parse(datagram)
        if self.over or not isinstance(packet, Data):
            return
        if self.state == "asking" and packet.number == 1:
            self.state = "master"
        if self.state == "master":
            self.take(packet, addr)

    def heard(self, datagram: bytes, addr: Peer) -> None:
        packet = parse(datagram)
        if self.over or addr[0] != self.server[0] or not isinstance(packet, Data):
            return
        if self.state == "master":
            self.take(packet, addr)
            return
        self.store(packet)
        if self.whole:
            self.end()
        else:
            self.listen()

    def take(self, packet: Data, addr: Peer) -> None:
        self.store(packet)
        self._timeouts = 0
        if packet.number != self._told:
            self._told = packet.number
            self._own.write(ack(packet.number), addr)
            if packet.number == self.last:
                self.end()  # the real client does not notice a block that is lost for good
                return
        self.after(self.DELAY, self.timeout)

    def timeout(self) -> None:
        self._timeouts += 1
        if self._timeouts == self.PATIENCE:
            self.end("silence")
        else:
            self.after(self.DELAY, self.timeout)

    def close(self) -> None:
        self._own.stopListening()
        self._many.stopListening()


class Efi(Client):
    """EFI 1.10's: listens first, hears only the server's request port, gives up at the third duplicate."""

    kind = "EFI"
    T4, T5, EXTRA = 1.0, 2.0, 0.1

    def begin(self) -> None:
        self._port = self.host.listen(self.groupAddress[1], Ear(self.hear))
        self._port.joinGroup(self.groupAddress[0])
        self.listen()

    def listen(self) -> None:
        self.state, self._lowest, self._tries = "listening", 0, 0
        self.blocks.clear()
        self.after(self.T4 + self.EXTRA, self.open)

    def open(self) -> None:
        if self._tries == 3:
            self.end("tftp")
            return
        self.state, self._copies = "asking", set[bool]()
        self._tries += 1
        self._port.write(self.request(), self.server)
        self.after(self.T5 + self.EXTRA, self.open)

    def hear(self, datagram: bytes, addr: Peer, many: bool) -> None:
        if self.over or addr != self.server:
            return
        packet = parse(datagram)
        if not isinstance(packet, Data):
            self.end("tftp")
        elif self.state == "listening" and many:
            self.listened(packet)
        elif self.state == "asking":
            self.opened(packet, many)
        elif self.state == "master" and many:
            self.received(packet)

    def listened(self, packet: Data) -> None:
        if packet.number < self._lowest:
            self.end("tftp")
            return
        self._lowest = packet.number
        self.store(packet)
        if self.whole:
            self.end()
        elif self.last is not None:
            missed = self.last - len(self.blocks)
            self.blocks.clear()
            self.last, self._lowest = None, 0
            self.after(max(0.0, self.T4 - missed), self.open)
        else:
            self.after(self.T5 + self.EXTRA, self.open)

    def opened(self, packet: Data, many: bool) -> None:
        if packet.number != 1:
            self.listen()
            return
        self._copies.add(many)
        if len(self._copies) == 2:
            self.state = "master"
            self.blocks.clear()
            self.store(packet)
            self.tell()

    def tell(self) -> None:
        self._failures = 0
        self.say()
        if self.whole:
            self.end()

    def say(self) -> None:
        self._port.write(ack(self.gap), self.server)
        self.after(self.T5 + self.EXTRA, self.failure)

    def failure(self) -> None:
        self._failures += 1
        if self._failures == 3:
            self.end("tftp")
        else:
            self.say()

    def received(self, packet: Data) -> None:
        if packet.number == self.gap + 1:
            self.store(packet)
            self.tell()
        elif packet.number == self.gap:
            self.failure()
        else:
            self.end("tftp")

    def close(self) -> None:
        self._port.stopListening()
