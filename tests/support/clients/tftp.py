"""
Provides clients of TFTP: one that a test drives by hand, faultless ones, and simulations of real clients.

docs/transports/tftp.md says what each client does; only reading a file is simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from twisted.internet.protocol import DatagramProtocol

from castd.packets.tftp import (
    Data,
    Error,
    Oack,
    TftpRequest,
    buildAck,
    buildData,
    buildError,
    buildRequest,
    parse,
)
from castd.request import Peer
from castd.testing import Host, RecordingClient, pattern

#: The file that most tests ask for.
F = pattern(1300)

# By hand.


def rrq(name: str = "f", mode: str = "octet", **options: object) -> bytes:
    """Return a read request, with the options in the order given."""
    return buildRequest(TftpRequest(False, name, mode, tuple((key, str(value)) for key, value in options.items())))


def wrq(name: str = "up", mode: str = "octet", **options: object) -> bytes:
    """Return a write request, with the options in the order given."""
    return buildRequest(TftpRequest(True, name, mode, tuple((key, str(value)) for key, value in options.items())))


def say(client: RecordingClient, number: int, tid: Peer) -> None:
    """Send an ACK to this transfer id."""
    client.send(buildAck(number), tid)


def hear(client: RecordingClient, seconds: float = 1.0) -> Any:
    """Wait for the next packet.  -> that packet, parsed."""
    return parse(client.expect(seconds).datagram)


def ackedTo(client: RecordingClient, number: int, tid: Peer) -> Any:
    """Send an ACK, and read the next packet."""
    say(client, number, tid)
    return hear(client)


def data(number: int, content: bytes = F, blksize: int = 512) -> Data:
    """Return block C{number}, counted from 1, of this content."""
    return Data(number & 0xFFFF, content[(number - 1) * blksize : number * blksize])


def download(stage: Any, client: RecordingClient, request: bytes) -> tuple[bytes, list[int]]:
    """Read a file as a faultless client does.  -> its octets, and the block numbers as they stood on the wire."""
    first = stage.ask(request, client)
    packet, tid = first[1], first[2]
    granted = {name.lower(): int(value) for name, value in packet.options} if isinstance(packet, Oack) else {}
    blksize, window = granted.get("blksize", 512), granted.get("windowsize", 1)
    numbers: list[int] = []
    octets: list[bytes] = []
    if isinstance(packet, Oack):
        packet = ackedTo(client, 0, tid)
    while True:
        assert isinstance(packet, Data), packet
        numbers.append(packet.number)
        octets.append(packet.payload)
        last = len(packet.payload) < blksize
        if last or len(numbers) % window == 0:
            say(client, packet.number, tid)
        if last:
            return b"".join(octets), numbers
        packet = hear(client)


def upload(client: RecordingClient, tid: Peer, content: bytes, blksize: int = 512, window: int = 1) -> list[Any]:
    """Write a file as a faultless client does, once the request is answered.  -> the answers."""
    answers = []
    count = len(content) // blksize + 1
    for number in range(1, count + 1):
        payload = content[(number - 1) * blksize : number * blksize]
        client.send(buildData(number & 0xFFFF, payload), tid)
        if number % window == 0 or number == count:
            answers.append(hear(client))
    return answers


def isError(packet: object, code: int) -> bool:
    """Return whether the packet is an ERROR with this code."""
    return isinstance(packet, Error) and packet.code == code


# Real clients.


@dataclass(frozen=True)
class Habit:
    """
    One kind of client.

    @ivar options: the options of the request, in the client's order.
    @ivar intervals: seconds to each repetition while no new packet comes; after the last interval the client fails.
    @ivar stubborn: the client acknowledges its last block again for any unexpected block; others do so for a repetition
        of that block only or, with windows, for a gap.
    @ivar probes: the client first asks for the size, sends ERROR 8, and asks again from another port without C{tsize}.
    @ivar needsOack: the client ignores DATA as the first answer.
    @ivar lazy: seconds from a block to its acknowledgement.
    @ivar pause: (number of blocks, seconds): the client pauses for so long after every so many blocks.
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()
    intervals: tuple[float, ...] = (1.0,) * 10
    stubborn: bool = False
    probes: bool = False
    needsOack: bool = False
    lazy: float = 0.0
    pause: tuple[int, float] | None = None


def _doubled(first: float, last: float, times: int) -> tuple[float, ...]:
    return tuple(min(first * 2**step, last) for step in range(times))


def _window(size: int) -> Habit:
    return Habit(f"window {size}", (("blksize", "1468"), ("windowsize", str(size))), _doubled(0.5, 4.0, 12))


IPXE = Habit("iPXE", (("blksize", "1432"), ("tsize", "0")), _doubled(0.25, 8.0, 6))
PXELINUX = Habit(
    "PXELINUX",
    (("tsize", "0"), ("blksize", "1408")),
    (0.2, 0.2, 0.3, 0.5, 0.8, 1.2, 1.8, 2.7, 4.0, 6.0),
    stubborn=True,
    lazy=0.002,
    pause=(64, 0.3),
)
GRUB = Habit("GRUB", (("blksize", "1024"), ("tsize", "0")), (0.4,) * 40, stubborn=True, needsOack=True, pause=(50, 0.1))
UBOOT = Habit("U-Boot", (("timeout", "5"), ("tsize", "1048576"), ("blksize", "1468")), (5.0,) * 10)
EDK2 = Habit(
    "EDK II",
    (("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")),
    (3.0,) * 5,
    stubborn=True,
    probes=True,
    needsOack=True,
)
CURL = Habit("curl", (("tsize", "0"), ("blksize", "512"), ("timeout", "6")), (6.0,) * 10)
BUSYBOX = Habit("BusyBox", (("blksize", "1468"),), _doubled(0.05, 2.0, 12))
HPA = Habit("tftp-hpa", (), _doubled(1.0, 8.0, 5))
PLAIN = Habit("lockstep", (("blksize", "1468"),), _doubled(0.5, 4.0, 12))

HABITS = (PLAIN, _window(4), _window(16), _window(64), IPXE, PXELINUX, GRUB, UBOOT, EDK2, CURL, BUSYBOX, HPA)


class Simulated(DatagramProtocol):
    """
    A machine that reads one file by its habit.

    @ivar done: the machine has the file, and has acknowledged the last block.
    @ivar failed: the reason why it gave up.
    @ivar octets: the octets that it has.
    """

    noisy = False

    def __init__(self, host: Host, habit: Habit, name: str, server: Peer) -> None:
        self.host, self.habit, self.name, self.server = host, habit, name, server
        self.octets = bytearray()
        self.done = False
        self.failed = ""
        self._probing = habit.probes
        self._alarm: Any = None

    @property
    def over(self) -> bool:
        """Whether it is done or has failed."""
        return self.done or bool(self.failed)

    def begin(self) -> None:
        """Send the first request, from a new port."""
        self.octets.clear()
        self._tid: Peer | None = None
        self._blksize, self._window = 512, 1
        self._good = self._since = 0
        self._complained = False
        self._waits: Iterator[float] = iter(self.habit.intervals)
        self._port = self.host.listenUDP(0, self)
        self._last, self._to = self._request(), self.server
        self._say()

    def _request(self) -> bytes:
        left = [
            (key, value)
            for key, value in self.habit.options
            if key != "tsize" or self._probing or not self.habit.probes
        ]
        return buildRequest(TftpRequest(False, self.name, "octet", tuple(left)))

    def _say(self) -> None:
        self._port.write(self._last, self._to)
        self._arm()

    def _arm(self) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        wait = next(self._waits, None)
        if wait is None:
            self._end("gave up")
        else:
            self._alarm = self.host.callLater(wait, self._say)

    def _end(self, failed: str = "") -> None:
        self.done, self.failed = not failed, failed
        if self._alarm.active():
            self._alarm.cancel()
        self._port.stopListening()

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        packet = parse(datagram)
        if self._tid is None and not (self.habit.needsOack and isinstance(packet, Data)):
            self._tid = self._to = addr
        if addr != self._tid:
            return
        if isinstance(packet, Error):
            self._end(packet.text)
        elif isinstance(packet, Oack):
            self._granted(packet)
        elif isinstance(packet, Data):
            self._took(packet)

    def _granted(self, packet: Oack) -> None:
        if self._good:
            return
        if self._probing:
            self._port.write(buildError(8, "User aborted the transfer"), self._to)
            self._alarm.cancel()
            self._port.stopListening()
            self._probing = False
            self.host.callLater(0.001, self.begin)
            return
        for name, value in packet.options:
            if name == "blksize":
                self._blksize = int(value)
            elif name == "windowsize":
                self._window = int(value)
        self._acknowledge()

    def _took(self, packet: Data) -> None:
        if packet.number != self._good + 1 & 0xFFFF:
            if self._window > 1:
                # Once for each gap: the last block in order.
                gap = (packet.number - self._good & 0xFFFF) < 0x8000
                if not self._complained and (gap or self.habit.stubborn):
                    self._complained = True
                    self._acknowledge()
            elif self.habit.stubborn or packet.number == self._good & 0xFFFF:
                self._port.write(buildAck(self._good), self._to)
            return
        self._good += 1
        self._since += 1
        self._complained = False
        self._waits = iter(self.habit.intervals)
        self.octets += packet.payload
        if len(packet.payload) < self._blksize:
            self._port.write(buildAck(self._good), self._to)
            self._end()
        elif self._since >= self._window:
            self._acknowledge()
        else:
            self._arm()

    def _acknowledge(self) -> None:
        """Acknowledge the blocks that have come, at once or after C{lazy} seconds."""
        self._since = 0
        self._last = buildAck(self._good)
        wait = self.habit.lazy
        if self.habit.pause is not None and self._good and self._good % self.habit.pause[0] == 0:
            wait += self.habit.pause[1]
        if wait:
            self._waits = chain((wait,), self.habit.intervals)
            self._arm()
        else:
            self._say()
