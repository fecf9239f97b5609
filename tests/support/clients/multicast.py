"""
Provides clients of RFC 2090 and of subnet broadcast: one that a test drives by hand, and simulations of real clients.

docs/transports/multicast.md says what they ask for, when they acknowledge and repeat, and how they leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from castd.packets.multicast import parseMulticast
from castd.packets.tftp import Data, Error, Oack, TftpRequest, buildAck, buildError, buildRequest, parse
from castd.request import Peer
from castd.testing import Host, RecordingClient
from tests.support.clients.ear import Ear

# By hand.


def number(datagram: bytes) -> int:
    """Return the block number of DATA or BDATA."""
    assert datagram[:2] in (b"\0\3", b"\0\7"), datagram
    return int.from_bytes(datagram[2:4], "big")


class Member:
    """
    A client that a test drives by hand.

    @ivar oack: the first answer; C{tid} is its source.
    """

    def __init__(self, stage: Any, client: RecordingClient, oack: Any, tid: Peer) -> None:
        self.stage, self.client, self.oack, self.tid = stage, client, oack, tid

    @property
    def value(self) -> str:
        """Return the value of the group option in the first OACK."""
        return value(self.oack)

    def ack(self, *numbers: int) -> list[int]:
        """Acknowledge, one after the other.  -> the blocks that went to the group."""
        said = []
        for each in numbers:
            self.client.send(buildAck(each), self.tid)
            said += self.stage.blocks()
        return said

    def error(self) -> None:
        self.client.send(buildError(0, "stop"), self.tid)

    def told(self) -> list[Any]:
        """Return the packets that came by unicast since the last call."""
        return [parse(letter.datagram) for letter in self.client.take()]

    def roles(self) -> list[str]:
        """Return the last fields of the OACKs that came, in order; other packets are a fault."""
        return [value(packet).rpartition(",")[2] for packet in self.told()]


def value(packet: Any) -> str:
    """Return the value of the group option in an OACK."""
    assert isinstance(packet, Oack), packet
    (found,) = (text for name, text in packet.options if name.lower() in ("multicast", "sbroadcast"))
    return found


# Real clients.

#: Five intervals of 5 seconds.
_FIVE = (5.0,) * 5


@dataclass(frozen=True)
class Habit:
    """
    One kind of client.

    @ivar options: the options of the request, in the client's order; C{blksize} is filled in.
    @ivar blksize: the block size that the client asks for.
    @ivar asks: seconds between requests until an answer has come.
    @ivar waits: seconds without a new block until the master repeats its ACK, one after the other; then it fails.
    @ivar listens: seconds without any datagram until a listener fails.
    @ivar deaf: the client never hears the group.
    @ivar confirms: the client answers OACKs that do not make it master.
    @ivar leaves: how a complete listener ends: it C{"says"} so, it C{"waits"} for its turn, it leaves C{"silent"}.
    @ivar duplicates: how many duplicate blocks the master acknowledges until a new block comes.
    @ivar hops: each request is sent from another port.
    """

    name: str
    options: tuple[tuple[str, str], ...]
    blksize: int
    asks: tuple[float, ...] = _FIVE
    waits: tuple[float, ...] = _FIVE
    listens: float = 25.0
    deaf: bool = False
    confirms: bool = False
    leaves: str = "waits"
    duplicates: int = 1 << 30
    hops: bool = False


def _doubled(first: float, times: int) -> tuple[float, ...]:
    return tuple(first * 2**step for step in range(times))


_PLAIN = (("tsize", "0"), ("blksize", ""), ("multicast", ""))
ATFTP = Habit("atftp", _PLAIN, 1428, duplicates=1)
EDK2 = Habit(
    "EDK II",
    (("blksize", ""), ("tsize", "0"), ("windowsize", "4"), ("multicast", "")),
    1468,
    asks=(3.0,) * 5,
    waits=(3.0,) * 5,
    listens=15.0,
    confirms=True,
    leaves="says",
)
IPXE = Habit(
    "iPXE",
    (("blksize", ""), ("tsize", "0"), ("multicast", "")),
    1432,
    asks=_doubled(0.25, 6),
    waits=_doubled(0.25, 6),
    listens=15.75,
    deaf=True,
    leaves="silent",
)
HEARING = Habit("iPXE fixed", IPXE.options, 1432, asks=IPXE.asks, waits=IPXE.waits, listens=15.75, leaves="silent")
ETHERBOOT = Habit(
    "Etherboot",
    (("multicast", ""), ("blksize", ""), ("tsize", "")),
    1024,
    asks=(10.0,) * 20,
    waits=(2.0,) * 5,
    listens=10.0,
    leaves="says",
    hops=True,
)
UBOOT = Habit("U-Boot", (("timeout", "5"), ("tsize", "0"), ("blksize", ""), ("multicast", "")), 1468)

HABITS = (ATFTP, EDK2, IPXE, HEARING, ETHERBOOT, UBOOT)


class Machine(DatagramProtocol):
    """
    A machine that reads one file by its habit, and compares each block with the file.

    @ivar done: the machine has the file, and has left.
    @ivar failed: the reason why it gave up.
    @ivar asked: how many requests it has sent.
    """

    noisy = False

    def __init__(self, host: Host, habit: Habit, name: str, server: Peer, content: bytes) -> None:
        self.host, self.habit, self.name, self.server, self.content = host, habit, name, server, content
        self.done = self.master = self.dead = False
        self.failed = ""
        self.asked = self.blocks = self.count = 0
        self.blksize = 512
        self.first = 1
        self.have = bytearray(65538)
        self.tid: Peer | None = None
        self.unicast = False
        self._duplicates = 0
        self.began = self.ended = self.lastHeard = 0.0
        self._ear: Any = None
        self._asks: Iterator[float] = iter(habit.asks)
        self._waits: Iterator[float] = iter(habit.waits)
        self._port: Any = None
        self._due = float("inf")
        self._call: Any = None

    @property
    def over(self) -> bool:
        """Whether it is done, has failed or is dead."""
        return self.done or self.dead or bool(self.failed)

    def begin(self, port: int = 0) -> None:
        """Send the first request, from this port; 0: from any."""
        self.began = self.lastHeard = self.host.seconds()
        if port:
            self._port = self.host.listenUDP(port, self)
        self._ask()

    def die(self) -> None:
        """Stop without a datagram, as by a power cut."""
        self.dead = True

    def stop(self) -> int:
        """Stop without a datagram, and close the ports, as a restart does.  -> the port that it has sent from."""
        self.dead = True
        number: int = self._port.address[1]
        for port in (self._port, self._ear):
            if port is not None:
                port.stopListening()
        return number

    # Sending.

    def _ask(self) -> None:
        if self._port is None or self.habit.hops:
            if self._port is not None:
                self._port.stopListening()
            self._port = self.host.listenUDP(0, self)
        options = tuple(
            (key, str(self.habit.blksize) if key == "blksize" else value) for key, value in self.habit.options
        )
        self._port.write(buildRequest(TftpRequest(False, self.name, "octet", options)), self.server)
        self.asked += 1
        self._sleep(next(self._asks, None))

    def _ack(self, number: int | None = None) -> None:
        self._port.write(buildAck(self.first - 1 if number is None else number), self.tid)

    def _sleep(self, seconds: float | None) -> None:
        """Set the timer; a later instant is only noted."""
        if seconds is None:
            self._end("gave up")
            return
        self._due = self.host.seconds() + seconds
        if self._call is None or not self._call.active():
            self._call = self.host.callLater(seconds, self._wake)
        elif self._call.getTime() > self._due:
            self._call.reset(seconds)

    def _wake(self) -> None:
        if self.over:
            return
        now = self.host.seconds()
        due = self._due if self.master or self.unicast or self.tid is None else self.lastHeard + self.habit.listens
        if now < due:
            self._call = self.host.callLater(due - now, self._wake)
        elif self.tid is None:
            self._ask()
        elif self.master or self.unicast:
            self._ack()
            self._sleep(next(self._waits, None))
        elif self.blocks == self.count and self.count:
            # It has waited in vain for its turn, but has the file.
            self._end()
        else:
            self._end("heard nothing")

    def _end(self, failed: str = "") -> None:
        self.done, self.failed = not failed, failed
        self.ended = self.host.seconds()
        if self._call is not None and self._call.active():
            self._call.cancel()
        for port in (self._port, self._ear):
            if port is not None:
                port.stopListening()

    # Receiving.

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        if self.over or (self.tid is not None and addr != self.tid):
            return
        packet = parse(datagram)
        if isinstance(packet, Error):
            self.tid = addr
            self._end(packet.text)
        elif isinstance(packet, Oack):
            self.tid = addr
            self._granted(dict(packet.options))
        elif isinstance(packet, Data):
            self.unicast = True  # iPXE takes any packet of its own as being asked to acknowledge
            self.took(packet.number, datagram)

    def heard(self, datagram: bytes, addr: Peer, group: bool) -> None:
        """Receive a datagram at the port of the group."""
        if self.over or addr != self.tid:
            return
        number = datagram[2] << 8 | datagram[3]
        if datagram[1] == 3 and not (self.have[number] and not self.master):
            self.took(number, datagram)
        else:
            self.lastHeard = self.host.network.rightNow

    def _granted(self, options: dict[str, str]) -> None:
        self.lastHeard = self.host.seconds()
        if not self.count:
            self.blksize = int(options.get("blksize", "512"))
            self.count = len(self.content) // self.blksize + 1
        if "multicast" not in options:
            self.unicast = True
        else:
            found = parseMulticast(options["multicast"])
            assert found.group is not None
            self.master = found.master
            if self._ear is None and not self.habit.deaf:
                self._ear = self.host.listenUDP(found.group[1], Ear(self.heard))
                self._ear.joinGroup(found.group[0])
        if self.master or self.unicast:
            self._waits = iter(self.habit.waits)
            self._ack()
            if self.blocks == self.count:
                self._end()
                return
            self._sleep(next(self._waits))
        else:
            if self.habit.confirms:
                self._ack()
            self._sleep(self.habit.listens)

    def took(self, number: int, datagram: bytes) -> None:
        """Receive a block."""
        now = self.lastHeard = self.host.network.rightNow
        speaks = self.master or self.unicast
        new = not self.have[number]
        if new:
            assert datagram[4:] == self.content[(number - 1) * self.blksize : number * self.blksize]
            self.have[number] = 1
            self.blocks += 1
            if number == self.first:
                self.first = self.have.find(0, number)
        if self.blocks == self.count:
            if speaks or self.habit.leaves == "says":
                self._ack()
            if speaks or self.habit.leaves != "waits":
                self._end()
            return
        if speaks:
            # Only a new block restarts the timer.
            if new:
                self._waits = iter(self.habit.waits)
                self._due = now + next(self._waits)
                self._duplicates = 0
            else:
                self._duplicates += 1
            if self._duplicates <= self.habit.duplicates:
                self._ack()
