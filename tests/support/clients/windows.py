"""
Provides a reader of windows (RFC 7440) whose faults a test chooses: which blocks it acknowledges, and how each ACK goes
out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.protocol import DatagramProtocol

from castd.packets.tftp import Data, Error, Oack, buildAck, parse
from castd.request import Peer
from castd.testing import Host
from tests.support.clients.tftp import rrq

#: The delays, in seconds, with which the copies of an ACK are sent; empty: it is lost.  The argument counts the ACKs
#: from 0, which is that of the OACK.
Copies = Callable[[int], tuple[float, ...]]


def once(ordinal: int) -> tuple[float, ...]:
    """Send each ACK once, and at once."""
    return (0.0,)


class WindowReader(DatagramProtocol):
    """
    Reads a file with windows, one datagram after the other, as a single process with a socket does.

    By default it acknowledges the last block of each window, and the last block in order where one is missing or comes
    again: once, until a new block comes.

    @ivar windowsize: blocks of a window that it asks for.
    @ivar every: acknowledges after so many new blocks, whatever was agreed on; L{None}: at the end of a window.
    @ivar stubborn: acknowledges for each unexpected block, not only for the first.
    @ivar busy: seconds to handle a block, or a function of how many were handled before.
    @ivar copies: how each ACK is sent.
    @ivar octets: the octets of the file that have come.
    @ivar datagrams, wire: datagrams with blocks that have come, and their octets.
    @ivar acks: the ACKs that were sent, lost ones as well, as numbers of blocks that do not wrap.
    @ivar done: it has the whole file.
    """

    noisy = False
    #: It repeats its last ACK after so long without a datagram.  Seconds.
    PATIENCE = 1.0

    def __init__(
        self,
        host: Host,
        server: Peer,
        windowsize: int,
        *,
        blksize: int = 512,
        every: int | None = None,
        stubborn: bool = False,
        busy: float | Callable[[int], float] = 0.0,
        copies: Copies = once,
        rollover: int = 0,
    ) -> None:
        self.host, self.server, self.windowsize, self.blksize = host, server, windowsize, blksize
        self.every, self.stubborn, self.copies, self.rollover = every, stubborn, copies, rollover
        self.busy = busy if callable(busy) else lambda handled: busy
        self.octets = bytearray()
        self.datagrams = self.wire = 0
        self.acks: list[int] = []
        self.done = False
        self._queue: deque[bytes] = deque()
        self._handling = self._complained = False
        self._good = self._acked = 0
        self._tid: Peer | None = None
        self._port = host.listenUDP(0, self)

    def begin(self) -> None:
        """Send the request."""
        more = {"rollover": self.rollover} if self.rollover else {}
        self._port.write(rrq("f", blksize=self.blksize, windowsize=self.windowsize, **more), self.server)
        self._alarm = self.host.callLater(self.PATIENCE, self._silent)

    def _silent(self) -> None:
        if not self.done and self._tid is not None:
            self._acknowledge()
            self._alarm = self.host.callLater(self.PATIENCE, self._silent)

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        self._tid = self._tid or addr
        if addr == self._tid and not self.done:
            self._alarm.reset(self.PATIENCE)
            self._queue.append(datagram)
            self._next()

    def _next(self) -> None:
        """Handle the datagrams that wait, each in its time."""
        while self._queue and not self._handling:
            seconds = self.busy(self.datagrams)
            if seconds:
                self._handling = True
                self.host.callLater(seconds, self._handled)
            else:
                self._handle(self._queue.popleft())

    def _handled(self) -> None:
        self._handling = False
        self._handle(self._queue.popleft())
        self._next()

    def _handle(self, datagram: bytes) -> None:
        packet = parse(datagram)
        assert not isinstance(packet, Error), packet
        if isinstance(packet, Oack):
            self._acknowledge()
        elif isinstance(packet, Data):
            self.datagrams += 1
            self.wire += len(datagram)
            self._block(packet)

    def _wire(self, number: int) -> int:
        return number if number < 0x10000 else self.rollover + (number - 0x10000) % (0x10000 - self.rollover)

    def _block(self, packet: Data) -> None:
        if packet.number != self._wire(self._good + 1):
            if self.every is not None or self.stubborn or not self._complained:
                self._complained = True
                self._acknowledge()
            return
        self._good += 1
        self._complained = False
        self.octets += packet.payload
        if len(packet.payload) < self.blksize:
            self.done = True
            self._alarm.cancel()
            self._acknowledge()
        elif self._good - self._acked >= (self.every or self.windowsize):
            self._acknowledge()

    def _acknowledge(self) -> None:
        self._acked = self._good
        for delay in self.copies(len(self.acks)):
            self.host.callLater(delay, self._port.write, buildAck(self._wire(self._good)), self._tid)
        self.acks.append(self._good)
