"""
One block of an upload that comes twice, or late, costs no more than its window: the rest of the file goes out once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import DatagramProtocol

from castd.files.uploads import UploadDirectory, UploadDirectoryOptions
from castd.packets.tftp import Ack, Oack, buildData, parse
from castd.request import Peer
from castd.testing import Network, pattern
from tests.support.clients.tftp import wrq
from tests.support.quick import slowBut
from tests.support.stage import SERVER, TftpStage

WINDOWS = 8
WAY = 0.0002
LINE = 0.0001
"""Seconds that a block takes on a line of 43 Mbit/s."""


class Writer(DatagramProtocol):
    """
    A client that believes each ACK, as RFC 7440 has it: its next window begins behind what is acknowledged.

    @ivar sent: how many blocks it has sent.
    """

    noisy = False

    def __init__(self, network: Network, window: int, odd: int, later: float, twice: bool) -> None:
        """
        @param odd: which of the blocks sent is late, counted from 1.
        @param later: seconds.
        @param twice: that block comes in time, too.
        """
        self.content = pattern(512 * window * WINDOWS + 100)
        self.last = len(self.content) // 512 + 1
        self.sent = 0
        self.done = False
        self._network, self._window = network, window
        self._odd, self._later, self._twice = odd, later, twice
        self._base, self._restarted = 0, False
        self._port = network.host("10.0.0.9").listenUDP(2000, self)
        self._port.write(wrq(blksize=512, windowsize=window), SERVER)

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        packet: Any = parse(datagram)
        if isinstance(packet, Oack):
            self._base = 1
        elif isinstance(packet, Ack) and self._base <= packet.number < self._base + self._window:
            self._base, self._restarted = packet.number + 1, False
        elif packet != Ack(self._base - 1) or self._restarted:
            return
        else:
            # The first block of the window was lost.  It is believed once.
            self._restarted = True
        self.done = self._base > self.last
        for number in range(self._base, min(self._base + self._window, self.last + 1)):
            self.sent += 1
            self._send(buildData(number, self.content[(number - 1) * 512 : number * 512]), addr)

    def _send(self, block: bytes, to: Peer) -> None:
        odd = self.sent == self._odd
        if odd:
            self._network.callLater(self._later, self._port.write, block, to)
        if self._twice or not odd:
            self._port.write(block, to)


class LongWriter(Writer):
    """A client whose window is longer on its way than an ACK: each block takes its time on the line."""

    def __init__(self, *args: Any) -> None:
        self._lineFreeAt = 0.0
        super().__init__(*args)

    def _send(self, block: bytes, to: Peer) -> None:
        now = self._network.seconds()
        self._lineFreeAt = max(self._lineFreeAt, now) + LINE
        arrives, odd = self._lineFreeAt - now, self.sent == self._odd
        if odd:
            self._network.callLater(arrives + self._later, self._port.write, block, to)
        if self._twice or not odd:
            self._network.callLater(arrives, self._port.write, block, to)


@pytest.mark.parametrize("later", [0.00005, 3 * WAY, 0.005], ids=["at once", "a round trip later", "much later"])
@pytest.mark.parametrize("twice", [True, False], ids=["twice", "late"])
@pytest.mark.parametrize("place", ["first", "begins", "within", "ends"])
@pytest.mark.parametrize("window", slowBut(lambda window: window == 4, [4, 16, 64]))
def test_oneOddBlock(tmp_path: Path, window: int, place: str, twice: bool, later: float) -> None:
    """A block that comes twice draws no block; one that is late draws, at the most, its window once more."""
    odd = {"first": 1, "begins": 2 * window + 1, "within": 2 * window + window // 2 + 1, "ends": 3 * window}[place]
    drop = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), thread=maybeDeferred)
    network = Network(1, latency=WAY)
    with TftpStage(uploads=drop, network=network) as stage:
        writer = Writer(network, window, odd, later, twice)
        network.run(lambda: writer.done, limit=0.1)
        assert writer.sent - writer.last <= (0 if twice else window)
        assert (tmp_path / "up").read_bytes() == writer.content
        network.advance(3.1)
        stage.over()


@pytest.mark.parametrize(
    "later", [0.0, 0.00005, 3 * WAY, 0.005], ids=["with it", "at once", "a trip later", "much later"]
)
@pytest.mark.parametrize("twice", [True, False], ids=["twice", "late"])
@pytest.mark.parametrize("window", slowBut(lambda window: window == 16, [4, 16, 64]))
def test_oddBlockOfALongWindow(tmp_path: Path, window: int, twice: bool, later: float) -> None:
    """As above, where a window takes many round trips: what comes without a pause does not ask for the last ACK."""
    drop = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), thread=maybeDeferred)
    network = Network(1, latency=WAY)
    with TftpStage(uploads=drop, network=network) as stage:
        writer = LongWriter(network, window, 2 * window + window // 2 + 1, later, twice)
        network.run(lambda: writer.done, limit=1.0)
        # Who hears of a gap, and then of the late block, begins twice behind it.
        assert writer.sent - writer.last <= (0 if twice else 2 * window)
        assert (tmp_path / "up").read_bytes() == writer.content
        network.advance(3.1)
        stage.over()


@pytest.mark.parametrize("window", [4, 64])
def test_lostAckOfALongWindow(tmp_path: Path, window: int) -> None:
    """A client that has lost an ACK, and sends its window again after a pause, is answered by the first block of it."""
    drop = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), thread=maybeDeferred)
    network = Network(1, latency=WAY)
    with TftpStage(uploads=drop, network=network) as stage:
        client = stage.client()
        client.send(wrq(blksize=512, windowsize=window), stage.server)
        tid = client.expect().source

        def send(*numbers: int) -> None:
            for number in numbers:
                client.send(buildData(number, bytes(512)), tid)
                network.advance(LINE)

        send(*range(1, window + 1))
        network.advance(2 * WAY)
        assert [parse(each.datagram) for each in client.take()] == [Ack(window)]
        network.advance(4 * WAY)
        send(1)
        network.advance(2 * WAY)
        assert [parse(each.datagram) for each in client.take()] == [Ack(window)]
