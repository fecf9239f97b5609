"""
One transfer of the client over real sockets.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import partial

from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IReactorMulticast,
    IReactorPluggableNameResolver,
    IReactorTime,
    IReactorUDP,
    IUDPTransport,
)
from twisted.python.failure import Failure

from castd import outcomes
from castd.client.multicast import LARGEST, MulticastPort, enlargeBuffer
from castd.client.report import Progress, Report, Sink, TransferError
from castd.errors import Full, Refused
from castd.interfaces import IClientTransferHalf, IGroupTransferHalf
from castd.receive.base import OffsetBlock
from castd.request import Peer
from castd.server.half_protocol import HalfProtocol, Payload
from castd.server.sender import DatagramSender, SendQueue

#: Datagrams of strangers that are answered; a transfer is no place for more.
STRANGERS = 20
#: Faults of our own disk that the server is told as what they are.
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class IClientReactor(IReactorTime, IReactorUDP, IReactorMulticast, IReactorPluggableNameResolver):
    """What the client asks of a reactor."""


class _ReplyQueue(SendQueue):
    """The queue of a client: what cannot be sent is lost without a word, and the silence that follows will tell."""

    def write(self, sender: DatagramSender, datagram: bytes, address: Peer) -> bool:
        """Send this now or never.  -> False: the socket is full."""
        try:
            return super().write(sender, datagram, address)
        except MessageLengthError:
            return True

    def unsendable(self, sender: DatagramSender, error: OSError, address: Peer) -> None:
        """Ignore a datagram that could not be sent."""


class ClientTransfer(HalfProtocol):
    """
    Drives the client's half of one transfer on a port of its own.

    The first answer from the server's address fixes its transfer id: the port that is talked to from then on.

    @ivar done: fires with a L{Report} or a L{TransferError}; cancelling it tells the server.
    """

    queueClass = _ReplyQueue
    half: IClientTransferHalf
    transport: IUDPTransport

    def __init__(
        self,
        reactor: IClientReactor,
        half: IClientTransferHalf,
        server: tuple[str, int],
        sink: Sink | None,
        progress: Progress | None,
    ) -> None:
        """
        @param server: numeric address and port of the request.
        @param sink: L{None} for a write.
        """
        super().__init__("client", half, server, reactor)
        self.done: Deferred[Report] = Deferred(lambda _: self._abort("cancelled", outcome=outcomes.STOPPED))
        self._reactor = reactor
        self._server = server
        self._groupHalf = half if IGroupTransferHalf.providedBy(half) else None
        self._tid: tuple[str, int] | None = None
        self._sink = sink
        self._progress = progress
        self._octets = 0
        self._strangers = 0
        self._startedAt = 0.0
        self._timer: IDelayedCall | None = None
        self._port: IListeningPort | None = None
        self._groupPort: MulticastPort | None = None
        self._closed: Deferred[None] = Deferred()

    def start(self) -> Deferred[Report]:
        """Open the port and send the request.  -> C{done}."""
        self._startedAt = self._seconds()
        address = self._server[0]
        try:
            self._port = self._reactor.listenUDP(0, self, "::" if isIPv6Address(address) else "", LARGEST)
            enlargeBuffer(self._port)
            # The first one tells what is wrong with the address; a fault later on is a datagram lost on its way.
            self.transport.write(self.half.begin(self._startedAt)[0], self._server)
        except (OSError, CannotListenError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            self._end(TransferError(outcomes.FAILED, f"cannot send to {address}: {why or error}"))
        else:
            self.pump()
        return self.done

    # What is received.

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """Receive a datagram at the port of this transfer."""
        if self._groupPort is not None:
            # What the server says here came behind what it sent to the group.
            self._groupPort.readWaiting()
        if self.over:
            # With that the file was complete, perhaps, and nothing is to be opened any more.
            return
        peer = (addr[0].partition("%")[0], addr[1])
        known = peer == self._tid if self._tid else peer[0] == self._server[0].partition("%")[0]
        if known:
            self.process(partial(self._receive, peer), datagram)
        else:
            self.strangerReceived(datagram, addr)

    def _receive(self, peer: tuple[str, int], datagram: bytes, now: float) -> tuple[Payload, list[bytes]]:
        """Have the half read a datagram of the server; one that can be read fixes the server's transfer id."""
        try:
            received = self.half.receive(datagram, now)
        except (Refused, OSError):
            self._setTid(peer)
            raise
        self._setTid(peer)
        return received

    def _setTid(self, peer: tuple[str, int]) -> None:
        if self._tid is None:
            # The address as it was asked, since it may have a scope.
            self._tid, self.peer = peer, (self._server[0], peer[1])
            if self._groupHalf is not None:
                self._groupHalf.tid = peer

    def _receiveFromGroup(self, half: IGroupTransferHalf, datagram: bytes, peer: Peer) -> None:
        if not self.over:
            self.process(lambda content, now: half.receiveFromGroup(content, peer, now), datagram)

    def mayAnswerStranger(self, address: Peer) -> bool:
        """-> whether only a few were answered yet."""
        self._strangers += 1
        return self._strangers <= STRANGERS

    # What is stored.

    def store(self, payload: Payload) -> None:
        """Write a payload to the sink, and tell the progress."""
        if self._sink is None:
            self._octets = self._acknowledged()
        elif isinstance(payload, OffsetBlock):
            self._sink.writeAt(*payload)
            self._octets += len(payload.payload)
        elif payload:
            self._sink.write(payload)
            self._octets += len(payload)
        if self._progress is not None:
            self._progress(self._octets, self.half.size)

    def _acknowledged(self) -> int:
        """-> octets of a write that are acknowledged."""
        terms = self.half.terms
        return min(self.half.size or 0, self.half.blocks * terms.blksize) if terms else 0

    def commit(self) -> None:
        """Send the last acknowledgement; the file is put into its place by whoever waits for C{done}."""
        self.committed()
        self._succeed()

    # What is sent, and when.

    def reply(self, datagrams: Sequence[bytes]) -> None:
        """Join the group that the half wants first: the first block may come right behind the reply."""
        if self._joinGroup():
            super().reply(datagrams)

    def setTimer(self, instant: float | None) -> None:
        """Be woken at this instant."""
        if self._timer is not None:
            self._timer.cancel()
        delay = None if instant is None else max(0.0, instant - self._seconds())
        self._timer = None if delay is None else self._reactor.callLater(delay, self._timerExpired)

    def _timerExpired(self) -> None:
        self._timer = None
        self.timerExpired()

    def _joinGroup(self) -> bool:
        """Be in the group of the half, and in no other.  -> False: that cannot be, and the transfer is over."""
        half = self._groupHalf
        if half is None or half.group == (self._groupPort.group if self._groupPort else None):
            return True
        self._leaveGroup()
        if half.group is None:
            return True
        address, number = half.group
        try:
            port = MulticastPort(self._reactor, half.group, self._server[0], partial(self._receiveFromGroup, half))
        except (OSError, CannotListenError) as error:
            # A server may name a port that is taken here, or not ours to have.
            why = error.socketError if isinstance(error, CannotListenError) else error
            self._abort(f"cannot listen to {address or 'broadcasts'}, port {number}: {why}")
            return False
        self._groupPort = port
        port.joined.addErrback(self._cannotJoin)
        return not self.over

    def _cannotJoin(self, failure: Failure) -> None:
        """End the transfer: the system does not let us into the group, and nothing would ever come."""
        self._abort(f"cannot join the group: {failure.getErrorMessage()}")

    def _leaveGroup(self) -> None:
        if self._groupPort is not None:
            self._groupPort.close()
            self._groupPort = None

    # How it ends.

    def finish(self, outcome: str) -> None:
        """End the transfer as the half has ended."""
        error = self.half.error
        if outcome == outcomes.DONE:
            self._succeed()
            self._close()
        elif error is not None:
            text = f"ERROR {error.code}" + (f": {error.text}" if error.text else "")
            self._end(TransferError(outcome, text, error.code))
        elif self._tid is None:
            self._end(TransferError(outcome, f"no answer from {self._server[0]} port {self._server[1]}"))
        else:
            self._end(TransferError(outcome, "the server fell silent"))

    def refuse(self, error: Refused) -> None:
        """End the transfer: the server does not keep its word, or the file has changed."""
        self._abort(str(error), error.code)

    def fail(self, failure: Failure) -> None:
        """End the transfer if our own files fail; anything else is a bug, and is raised."""
        error = failure.value
        if not isinstance(error, OSError):
            failure.raiseException()
        self._abort(error.strerror or str(error), Full.code if error.errno in FULL_DISK else 0)

    def _succeed(self) -> None:
        """Fire C{done}: the file is there.  The port stays open as long as the last ACK may have to be repeated."""
        if self.done.called:
            return
        if self._sink is None:
            self._octets = self._acknowledged()
        half, terms = self.half, self.half.terms
        report = Report(
            octets=self._octets,
            size=half.size,
            seconds=self._seconds() - self._startedAt,
            blocks=half.blocks,
            repeats=half.repeats,
            blksize=terms.blksize if terms else None,
            windowsize=terms.windowsize if terms else None,
            server=(self._server[0], self.peer[1]),
            closed=self._closed,
        )
        self.done.callback(report)

    def _abort(self, text: str, code: int = 0, outcome: str = outcomes.FAILED) -> None:
        """End the transfer from our side; the server is told."""
        if not self.over:
            self.replyError(code, text)
            self._end(TransferError(outcome, text))

    def _end(self, error: TransferError) -> None:
        self._close()
        if not self.done.called:
            self.done.errback(error)

    def _close(self) -> None:
        self.over = True
        self._leaveGroup()
        self.setTimer(None)
        if self._port is not None:
            self._port.stopListening()
        self._closed.callback(None)
