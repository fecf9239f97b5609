"""
Send the blocks of a cast, and all other datagrams, as fast as pacers and socket allow.

L{CastSender} and L{SendQueue} have no reference to the protocol that they send for: it is an argument of each call.  So
there is no reference cycle, and a protocol that has ended is freed at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from twisted.logger import Logger

from castd.cast.events import Event, Leave, SendBlocks
from castd.errors import reasonOf
from castd.interfaces import ICast, IDatagramPort, IWire
from castd.net.backoff import Backoff, isFull
from castd.pacing import TICK, RateLimit
from castd.request import Peer, hostPort
from castd.server.blockcache import Chunk, ChunkAwaited

_log = Logger(namespace="castd")

#: Datagrams that are kept for a full socket; beyond that the oldest is dropped, as if it were lost on its way.
MOST_KEPT = 256


class BlockOutput(Protocol):
    """
    Describes what a L{CastSender} needs of the cast protocol that it sends for.

    @ivar pacers: each of them must allow a burst, and is charged for it.
    """

    transport: IDatagramPort
    wire: IWire
    pacers: tuple[RateLimit, ...]

    def chunk(self, number: int) -> Chunk:
        """
        Return the chunk that block C{number} is in.

        @raise ChunkAwaited: it has to be waited for.
        @raise ContentChanged: the file has changed.
        """

    def sent(self, start: int, count: int, octets: int, again: bool) -> None:
        """Count blocks that were sent, the first of which is C{start}."""

    def unsendable(self, error: OSError, address: Peer) -> None:
        """Report that a burst could not be sent to this address, and why."""


class CastSender:
    """
    Sends the bursts of one cast.

    @ivar cast: decides what is sent.
    @ivar unsent: numbers of the blocks that wait for the pacer or the socket.
    @ivar held: the last burst waits for the disk, a pacer or the socket, and none of its blocks has left.
    @ivar unicastTo: the address that all blocks go to, for the cast of one receiver that does not hear the group;
        L{None}: C{IWire.address} has it.
    @ivar due: the instant at which L{castd.server.fallback} is to run it; L{None}: there is none.
    @ivar sentAt: the instant at which it has sent last; minus infinity: it has sent nothing.
    @ivar restUntil: the instant until which no send is tried, as the socket was full.
    """

    __slots__ = (
        "_again",
        "_backoff",
        "_late",
        "_peer",
        "cast",
        "due",
        "held",
        "restUntil",
        "sentAt",
        "unicastTo",
        "unsent",
    )

    def __init__(self, cast: ICast, unicastTo: Peer | None = None) -> None:
        self.cast = cast
        self.unicastTo = unicastTo
        self.due: float | None = None
        self.unsent = range(0)
        self.restUntil = 0.0
        self._again = self._late = self.held = False
        self._peer: Peer = ("", 0)
        self._backoff: Backoff | None = None
        self.sentAt = float("-inf")

    def load(self, action: SendBlocks) -> None:
        """Set the next burst to send."""
        self.unsent, self._peer, self._again = action.numbers, action.peer, action.again
        self._late, self.held = False, True

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        """
        Pass an event to the cast.  While the last burst is held the cast must not take what is heard for an answer to
        it: a client that repeats its request by its timer would get every block twice.  Of a burst for which nobody
        waits any more the rest is not sent.
        """
        if self.held:
            self.cast.burstDelayed(now)
        self.cast.hear(peer, event, now)
        if self.unsent and isinstance(event, Leave) and not self.cast.memberCount():
            self.unsent, self.held = range(0), False

    def blockedUntil(self, pacers: Iterable[RateLimit], now: float) -> float | None:
        """
        Find out when the pacers and a full socket allow the next block.

        All casts that share a pacer get the same instant.  A cast that has just sent gets a later one; else the same
        cast would always be the first, and one that never waits for an answer would take the whole rate.

        @return: an instant; L{None}: now.
        """
        wait = self.restUntil
        for pacer in pacers:
            wait = max(wait, pacer.next(now))
        if wait <= now:
            return None
        self._late = True
        return wait + TICK if self.sentAt == now else wait

    def send(self, output: BlockOutput, budget: int, now: float) -> int:
        """
        Send blocks of the burst, as many as one call of the transport takes.

        @param budget: the most datagrams to send.
        @return: how many datagrams were sent; 0: the socket is full, and no send is tried until C{restUntil}.
        @raise ChunkAwaited: the blocks have to be waited for.
        @raise ContentChanged: the file has changed.
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
        except ChunkAwaited:
            self._late = True
            raise
        if count:
            self._backoff, self.held = None, False
            self.sentAt = now
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
    """Return how many octets were sent; if the network is down they count as sent, and lost."""
    try:
        return output.transport.writeBurst(image, step, address)
    except OSError as error:
        if isFull(error):
            return 0
        output.unsendable(error, address)
        return len(image)


class DatagramSender(Protocol):
    """
    Describes what a L{SendQueue} needs of the protocol that it sends for.

    @ivar name: name of the transport, for events.
    @ivar full: how often the socket was full.
    """

    name: str
    transport: IDatagramPort
    full: int

    def peerUnreachable(self, peer: Peer) -> None:
        """Note that a host reports the port of a peer as closed."""

    def unsent(self, why: str) -> None:
        """Note that this machine could not send a datagram."""


class SendQueue:
    """
    Sends datagrams that are not blocks: OACKs, acknowledgements, errors.

    Datagrams that a full socket does not take are kept in their order.  After any other error a datagram counts as lost
    on its way, and the first error of each kind is logged.

    @ivar kept: the datagrams that wait for the socket, each with its address.
    """

    __slots__ = ("_backoff", "_complained", "kept")

    def __init__(self) -> None:
        self.kept: deque[tuple[bytes, Peer]] = deque()
        self._backoff: Backoff | None = None
        self._complained: set[int | None] = set()

    def put(self, sender: DatagramSender, datagram: bytes, address: Peer) -> None:
        """Send a datagram, after those that are kept."""
        if self.kept:
            if len(self.kept) >= MOST_KEPT:
                self.kept.popleft()
            self.kept.append((datagram, address))
        elif not self.write(sender, datagram, address):
            self.kept.append((datagram, address))
            self._refused(sender)

    def putInstead(self, sender: DatagramSender, datagrams: Iterable[bytes], address: Peer) -> None:
        """
        Send these datagrams, however many, and drop those that are kept, which are out of date.  A client sends a
        window by one call.
        """
        kept = self.kept
        kept.clear()
        for datagram in datagrams:
            if not kept and self.write(sender, datagram, address):
                self._backoff = None
                continue
            if not kept:
                self._refused(sender)
            kept.append((datagram, address))

    def discard(self, address: Peer) -> None:
        """Drop the datagrams that are kept for this address."""
        if self.kept:
            self.kept = deque(each for each in self.kept if each[1] != address)

    def flush(self, sender: DatagramSender) -> bool:
        """Send the datagrams that are kept.  -> whether all were sent."""
        while self.kept:
            if not self.write(sender, *self.kept[0]):
                self._refused(sender)
                return False
            self._backoff = None
            self.kept.popleft()
        return True

    def _refused(self, sender: DatagramSender) -> None:
        """Count that the socket was full, and wait longer until the next try."""
        sender.full += 1
        self._backoff = self._backoff or Backoff()
        self._backoff.refused()

    @property
    def rest(self) -> float:
        """Seconds to wait after the last try, as the socket was full; 0 if no datagram is kept."""
        return self._backoff.seconds if self.kept and self._backoff is not None else 0.0

    def write(self, sender: DatagramSender, datagram: bytes, address: Peer) -> bool:
        """Send a datagram without keeping it.  -> C{False}: the socket is full."""
        try:
            sender.transport.write(datagram, address)
        except OSError as error:
            if isFull(error):
                return False
            self.unsendable(sender, error, address)
        return True

    def unsendable(self, sender: DatagramSender, error: OSError, address: Peer) -> None:
        """Report that a datagram could not be sent: to the sender if the peer's port is closed, else to the log."""
        if isinstance(error, ConnectionRefusedError):
            sender.peerUnreachable(address)
            return
        sender.unsent(reasonOf(error))
        if error.errno not in self._complained:
            self._complained.add(error.errno)
            _log.warn(
                "{transport}: cannot send to {peer}: {why}",
                event="unsendable",
                transport=sender.name,
                peer=hostPort(address),
                why=reasonOf(error),
            )
