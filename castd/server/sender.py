"""
Senders: the blocks that a cast lets go, and all other datagrams, sent as fast as pace and socket allow.

Neither of them refers to the protocol it sends for: that comes with each call.  So a protocol that has ended is freed
at once, with all that belongs to it, and not when Python's collector finds the circle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from twisted.logger import Logger

from castd.cast.events import SendBlocks
from castd.interfaces import ICast, IDatagramPort, IWire
from castd.net.backoff import FULL, Backoff, isFull
from castd.pacing import TICK, RateLimit
from castd.request import Peer, hostPort
from castd.server.blockcache import Chunk

_log = Logger(namespace="castd")

#: Datagrams that are kept for a full socket; beyond, the oldest is as good as lost on its way.
MOST_KEPT = 256


class BlockOutput(Protocol):
    """
    The cast protocol that blocks are sent for.

    @ivar pacers: all of them must allow a burst, and are charged for it.
    """

    transport: IDatagramPort
    wire: IWire
    pacers: tuple[RateLimit, ...]

    def chunk(self, number: int) -> Chunk:
        """
        -> the chunk that block C{number} is in.

        @raise ContentChanged: the file is not what it was.
        """

    def sent(self, start: int, count: int, octets: int, again: bool) -> None:
        """Count blocks that went out, the first of which is C{start}."""

    def unsendable(self, error: OSError) -> None:
        """Report that a burst could not be sent, and why."""


class CastSender:
    """
    A cast, and what of its last burst has not gone out yet.

    @ivar cast: decides what is sent.
    @ivar unsent: numbers of the blocks that wait for the pacer or the socket.
    @ivar unicastTo: where everything goes, for the cast of one receiver that hears no multicast; L{None}: as the wire
        says.
    @ivar announces: its receivers are told that they have the turn; one that goes on by unicast may know already.
    @ivar due: for L{castd.server.fallback}: the instant at which it is to go on.
    @ivar restUntil: the instant until which a full socket is left alone.
    """

    __slots__ = (
        "_again",
        "_backoff",
        "_late",
        "_peer",
        "_sentAt",
        "announces",
        "cast",
        "due",
        "restUntil",
        "unicastTo",
        "unsent",
    )

    def __init__(self, cast: ICast, unicastTo: Peer | None = None, announces: bool = True) -> None:
        self.cast = cast
        self.unicastTo = unicastTo
        self.announces = announces
        self.due: float | None = None
        self.unsent = range(0)
        self.restUntil = 0.0
        self._again = self._late = False
        self._peer: Peer = ("", 0)
        self._backoff: Backoff | None = None
        self._sentAt = float("-inf")

    def load(self, action: SendBlocks) -> None:
        """Take over the next burst of the cast."""
        self.unsent, self._peer, self._again = action.numbers, action.peer, action.again
        self._late = False

    def blockedUntil(self, pacers: Iterable[RateLimit], now: float) -> float | None:
        """
        -> the instant at which the pacers and a full socket allow the next block, L{None}: now.

        All who share a pacer are told the same instant.  Who has just had its share comes later, or the first of them
        would be the first again, and whatever never waits for an answer would have it all.
        """
        wait = self.restUntil
        for pacer in pacers:
            wait = max(wait, pacer.next(now))
        if wait <= now:
            return None
        self._late = True
        return wait + TICK if self._sentAt == now else wait

    def send(self, output: BlockOutput, budget: int, now: float) -> int:
        """
        Send what waits, as much as one call of the transport takes.

        @param budget: datagrams at the most.
        @return: datagrams sent; 0: the socket is full, and left alone until C{restUntil}.
        @raise ContentChanged: the file is not what it was.
        """
        wire, start = output.wire, self.unsent.start
        address = self.unicastTo or wire.address(self._peer)
        payload = wire.payload(start)
        try:
            if payload is not None:
                image: bytes | memoryview = wire.header(start) + payload
                step = len(image)
                sent = _write(output, image, step, address)
                count = 1 if sent else 0
            else:
                chunk = output.chunk(start)
                step = chunk.step
                for pacer in output.pacers:
                    budget = min(budget, max(1, int(pacer.share / step)))
                stop = min(self.unsent.stop, chunk.stop, start + budget)
                image = chunk.slice(start, stop)
                sent = _write(output, image, step, address)
                count = stop - start if sent >= len(image) else sent // step
        except BlockingIOError:
            count = sent = 0
        if count:
            self._backoff = None
            self._sentAt = now
            self.unsent = self.unsent[count:]
            if self._late and not self.unsent:
                self.cast.burstDelayed(now)
            output.sent(start, count, sent - count * (step - wire.blocksize), self._again)
            for pacer in output.pacers:
                pacer.spend(sent, now)
            return count
        self._late = True
        self._backoff = self._backoff or Backoff()
        self.restUntil = now + self._backoff.refused()
        return 0


def _write(output: BlockOutput, image: bytes | memoryview, step: int, address: Peer) -> int:
    """-> octets that the transport has taken; a network that is down has taken them all."""
    try:
        return output.transport.writeBurst(image, step, address)
    except OSError as error:
        if error.errno in FULL:
            return 0
        output.unsendable(error)
        return len(image)


class DatagramSender(Protocol):
    """
    The protocol that the datagrams of a L{SendQueue} are sent for.

    @ivar name: of the transport, for events.
    @ivar full: times that the socket was full.
    """

    name: str
    transport: IDatagramPort
    full: int

    def peerUnreachable(self, peer: Peer | None = None) -> None:
        """A host says that the port is closed; C{None}: that of the one peer."""


class SendQueue:
    """
    The datagrams that are not blocks: OACKs, acknowledgements, errors.

    What a full socket does not take is kept, in its order.  Every other fault is, to the network, a datagram lost on
    its way; to the operator one line for each kind.

    @ivar kept: the datagrams that wait for the socket, each with its address.
    """

    __slots__ = ("_backoff", "_complained", "kept")

    def __init__(self) -> None:
        self.kept: deque[tuple[bytes, Peer]] = deque()
        self._backoff: Backoff | None = None
        self._complained: set[int | None] = set()

    def put(self, sender: DatagramSender, datagram: bytes, address: Peer) -> None:
        """Send this, as soon as what is kept is out."""
        if len(self.kept) >= MOST_KEPT:
            self.kept.popleft()
        self.kept.append((datagram, address))
        if len(self.kept) == 1:
            self.flush(sender)

    def putInstead(self, sender: DatagramSender, datagrams: Iterable[bytes], address: Peer) -> None:
        """Send these, all of them, and drop what is kept: it has become out of date.  A client sends a window so."""
        self.kept.clear()
        self.kept.extend((datagram, address) for datagram in datagrams)
        self.flush(sender)

    def discard(self, address: Peer) -> None:
        """Drop what is kept for this address."""
        if self.kept:
            self.kept = deque(each for each in self.kept if each[1] != address)

    def flush(self, sender: DatagramSender) -> bool:
        """Send what is kept.  -> whether all is out."""
        while self.kept:
            if not self.write(sender, *self.kept[0]):
                sender.full += 1
                self._backoff = self._backoff or Backoff()
                self._backoff.refused()
                return False
            self._backoff = None
            self.kept.popleft()
        return True

    @property
    def rest(self) -> float:
        """Seconds to leave the full socket alone, since the last try; 0 if nothing is kept."""
        return self._backoff.seconds if self.kept and self._backoff is not None else 0.0

    def write(self, sender: DatagramSender, datagram: bytes, address: Peer) -> bool:
        """Send this now or never.  -> False: the socket is full."""
        try:
            sender.transport.write(datagram, address)
        except OSError as error:
            if isFull(error):
                return False
            self.unsendable(sender, error, address)
        return True

    def unsendable(self, sender: DatagramSender, error: OSError, address: Peer) -> None:
        """Report that a datagram could not be sent: to the sender if its peer's port is closed, else to the log."""
        if isinstance(error, ConnectionRefusedError):
            sender.peerUnreachable(address)
        elif error.errno not in self._complained:
            self._complained.add(error.errno)
            _log.warn(
                "{transport}: cannot send to {peer}: {why}",
                event="unsendable",
                transport=sender.name,
                peer=hostPort(address),
                why=str(error),
            )
