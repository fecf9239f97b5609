"""
Runs one transfer of the client over real sockets.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import partial
from typing import Protocol

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
)
from twisted.python.failure import Failure

from castd import outcomes
from castd.client.multicast import MulticastPort
from castd.client.port import openPort
from castd.client.report import Progress, Report, Sink, TransferError, Watcher
from castd.errors import Full, Refused, reasonOf
from castd.interfaces import IClientTransferHalf, IGroupTransferHalf
from castd.net.sockets import socketAddress
from castd.packets.options import DEFAULT_BLKSIZE
from castd.receive.base import OffsetBlock
from castd.request import Peer
from castd.server.half_protocol import HalfProtocol, Payload
from castd.server.sender import DatagramSender, SendQueue

#: How many datagrams from a foreign transfer id are answered in one transfer.
STRANGERS = 20
#: Errors of the client's disk that are reported to the server as a full disk.
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class IClientReactor(IReactorTime, IReactorUDP, IReactorMulticast, IReactorPluggableNameResolver):
    """The interfaces that the client needs of a reactor."""


class ClientTransport(Protocol):
    """A port of Twisted's, which declares addresses as pairs; with a zone they have four parts."""

    def write(self, packet: bytes, addr: Peer | None = None, /) -> object:
        """Send a datagram."""


class _ReplyQueue(SendQueue):
    """The send queue of a client: a datagram that cannot be sent is dropped, and repeated after a timeout."""

    def write(self, sender: DatagramSender, datagram: bytes, address: Peer) -> bool:
        """Send a datagram now, or drop it.  -> False: the socket is full."""
        try:
            return super().write(sender, datagram, address)
        except MessageLengthError:
            return True

    def unsendable(self, sender: DatagramSender, error: OSError, address: Peer) -> None:
        """Ignore a datagram that could not be sent."""


class _WatchedTransport:
    """Passes datagrams to a port, and shows them to a watcher."""

    def __init__(self, transport: ClientTransport, watcher: Watcher) -> None:
        self._transport = transport
        self._watcher = watcher

    def write(self, packet: bytes, addr: Peer | None = None, /) -> object:
        """Send a datagram."""
        result = self._transport.write(packet, addr)
        if addr is not None:
            self._watcher.packet(True, packet, addr)
        return result


class ClientTransfer(HalfProtocol):
    """
    Drives the client's half of one transfer on a port of its own.

    The first answer from the server's address fixes the server's transfer id: its port for the rest of the transfer.

    @ivar done: fires with a L{Report} or fails with a L{TransferError}; cancelling sends the server an ERROR.
    """

    queueClass = _ReplyQueue
    half: IClientTransferHalf
    transport: ClientTransport

    def __init__(
        self,
        reactor: IClientReactor,
        half: IClientTransferHalf,
        server: tuple[str, int],
        sink: Sink | None,
        progress: Progress | None,
        bind: str = "",
        watcher: Watcher | None = None,
    ) -> None:
        """
        @param server: numeric address and port that the request is sent to.
        @param sink: the output of a read; L{None} for a write.
        @param bind, watcher: as in L{fetch<castd.client.client.fetch>}.
        """
        super().__init__("client", half, server, reactor)
        self.done: Deferred[Report] = Deferred(lambda _: self._abort("cancelled", outcome=outcomes.STOPPED))
        self._reactor = reactor
        self._server = server
        self._otherSender = ""  # the last address that sent to the group and was not asked
        self._groupHalf = half if IGroupTransferHalf.providedBy(half) else None
        self._tid: tuple[str, int] | None = None
        self._sink = sink
        self._progress = progress
        self._bind = bind
        self._watcher = watcher
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
        if self._bind and isIPv6Address(self._bind.partition("%")[0]) != isIPv6Address(address.partition("%")[0]):
            self._end(TransferError(outcomes.FAILED, f"{self._bind} cannot send to {address}: another family"))
            return self.done
        try:
            self._port = openPort(self._reactor, self, address, self._bind)
            # Before the request, if the group is known: the first block may come at once.
            if not self._joinGroup():
                return self.done
            # An error here tells what is wrong with the address; a later one counts as a lost datagram.
            self.peer = socketAddress(*self._server)
            self.transport.write(self.half.begin(self._startedAt)[0], self.peer)
        except (OSError, CannotListenError) as error:
            whence = f" from {self._bind}" if self._bind else ""
            self._end(TransferError(outcomes.FAILED, f"cannot send to {address}{whence}: {reasonOf(error)}"))
        else:
            self.pump()
        return self.done

    # Receiving.

    def datagramReceived(self, datagram: bytes, addr: Peer) -> None:
        """Receive a datagram at the port of this transfer."""
        if self._groupPort is not None:
            # The server sent this after the datagrams to the group, so these are read first.
            self._groupPort.readWaiting()
        if self.over:
            # They may have completed the file, and closed this port.
            return
        if self._watcher is not None:
            self._watcher.packet(False, datagram, addr)
        peer = (addr[0].partition("%")[0], addr[1])
        known = peer == self._tid if self._tid else peer[0] == self._server[0].partition("%")[0]
        if known:
            self.process(partial(self._receive, peer), datagram)
        else:
            self.strangerReceived(datagram, socketAddress(*addr[:2]))

    def _receive(self, peer: tuple[str, int], datagram: bytes, now: float) -> tuple[Payload, list[bytes]]:
        """Pass a datagram of the server to the half; the first that can be read fixes the server's transfer id."""
        try:
            received = self.half.receive(datagram, now)
        except (Refused, OSError):
            self._setTid(peer)
            raise
        self._setTid(peer)
        return received

    def _setTid(self, peer: tuple[str, int]) -> None:
        if self._tid is None:
            self._tid, self.peer = peer, socketAddress(self._server[0], peer[1])
            if self._groupHalf is not None:
                self._groupHalf.tid = peer

    def _receiveFromGroup(self, half: IGroupTransferHalf, datagram: bytes, peer: Peer) -> None:
        """
        Receive a datagram that was sent to the group.  Another server may use the same group for another file, and a
        block of MTFTP names none; broadcasts name their server by an identifier, and may come from another address.
        """
        if not self.over:
            if self._watcher is not None:
                self._watcher.packet(False, datagram, peer)
            if half.group is not None and half.group[0] and peer[0] != self._server[0]:
                self._otherSender = peer[0]
                return
            self.process(lambda content, now: half.receiveFromGroup(content, peer, now), datagram)

    def startProtocol(self) -> None:
        """Let the watcher see what is sent by the port."""
        if self._watcher is not None:
            self.transport = _WatchedTransport(self.transport, self._watcher)

    def peerUnreachable(self, peer: Peer) -> None:
        """
        End the transfer, as the port of the server is closed: its host says so (ICMP port unreachable).  What concerns
        another port is ignored, and what comes after the end.
        """
        host, port = self._server[0], self.peer[1]
        ours = (peer[0].partition("%")[0], peer[1]) == (host.partition("%")[0], port)
        if ours and not self.over and not self.done.called:
            why = "no server listens there" if self._tid is None else "the server has left the transfer"
            self._end(TransferError(outcomes.CLOSED, f"port {port} of {host} is closed: {why}"))

    def mayAnswerStranger(self, address: Peer) -> bool:
        """Return whether fewer than L{STRANGERS} datagrams of strangers were answered."""
        self._strangers += 1
        return self._strangers <= STRANGERS

    # Storing.

    def store(self, payload: Payload) -> None:
        """Write a payload to the sink, and report the progress."""
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
        """Return octets of a write that are acknowledged."""
        terms = self.half.terms
        return min(self.half.size or 0, self.half.blocks * terms.blksize) if terms else 0

    def commit(self) -> None:
        """Send the last acknowledgement, and fire C{done}, whose callback puts the file into its place."""
        self.committed()
        self._succeed()

    # Sending, and timers.

    def reply(self, datagrams: Sequence[bytes]) -> None:
        """Join the group of the half, then send: the first block may come right after the reply."""
        if self._joinGroup():
            super().reply(datagrams)

    def setTimer(self, instant: float | None) -> None:
        """
        Set the only timer to this instant; L{None}: stop the timer.

        A timer that expires before that stays: the half is then polled in vain, once, and not each block sets a timer.
        """
        timer = self._timer
        if timer is not None and instant is not None and timer.getTime() <= instant:
            return
        if timer is not None:
            timer.cancel()
        delay = None if instant is None else max(0.0, instant - self._seconds())
        self._timer = None if delay is None else self._reactor.callLater(delay, self._timerExpired)

    def _timerExpired(self) -> None:
        self._timer = None
        self.timerExpired()

    def _joinGroup(self) -> bool:
        """Join the group of the half, and leave any other.  -> False: it cannot be joined; the transfer has ended."""
        half = self._groupHalf
        if half is None or half.group == (self._groupPort.group if self._groupPort else None):
            return True
        self._leaveGroup()
        if half.group is None:
            return True
        address, number = half.group
        try:
            received = partial(self._receiveFromGroup, half)
            port = MulticastPort(self._reactor, half.group, self._server[0], received, self._bind)
        except (OSError, CannotListenError) as error:
            # A server may name a port that is taken on this machine, or needs root.
            self._abort(f"cannot listen to {address or 'broadcasts'}, port {number}: {reasonOf(error)}")
            return False
        self._groupPort = port
        port.joined.addErrback(self._cannotJoin)
        return not self.over

    def _cannotJoin(self, failure: Failure) -> None:
        """End the transfer: the system does not let the client join the group, so no block would come."""
        self._abort(f"cannot join the group: {failure.getErrorMessage()}")

    def _leaveGroup(self) -> None:
        if self._groupPort is not None:
            self._groupPort.close()
            self._groupPort = None

    # The end.

    def finish(self, outcome: str) -> None:
        """End the transfer with the outcome of the half."""
        error = self.half.error
        if outcome == outcomes.DONE:
            self._succeed()
            self._close()
        elif error is not None:
            text = f"ERROR {error.code}" + (f": {error.text}" if error.text else "")
            self._end(TransferError(outcome, text, error.code, early=not self.half.blocks))
        elif outcome == outcomes.UNHEARD and self._groupPort is not None:
            address, number = self._groupPort.group
            why = self._senderHint() or ": is it the server's group, and does a switch drop it?"
            self._end(TransferError(outcome, f"nothing came from the group {address}, port {number}{why}"))
        elif self._tid is None:
            text = f"no answer from {self._server[0]} port {self._server[1]}{self._senderHint()}"
            self._end(TransferError(outcome, text, early=True))
        else:
            text = "the server fell silent" + self._oversizeHint()
            self._end(TransferError(outcome, text, early=not self.half.blocks))

    def _senderHint(self) -> str:
        """Return who else has sent to the group: a server of several addresses may send from one that was not asked."""
        other = self._otherSender
        return f", but {other} sends to the group: ask there, if that is the same server" if other else ""

    def _oversizeHint(self) -> str:
        """Return advice if the options were agreed on, and then no block came through, or none was acknowledged."""
        terms = self.half.terms
        if terms is None or self.half.blocks or terms.blksize <= DEFAULT_BLKSIZE:
            return ""
        return f"; if the way does not carry blocks of {terms.blksize} octets, ask for a smaller blksize"

    def refuse(self, error: Refused) -> None:
        """End the transfer: the server's answer is not what was agreed on, or the file has changed."""
        self._abort(str(error), error.code, told=error.text)

    def fail(self, failure: Failure) -> None:
        """End the transfer if the client's disk fails; any other failure is a bug, and is raised."""
        error = failure.value
        if not isinstance(error, OSError):
            failure.raiseException()
        self._abort(reasonOf(error), Full.code if error.errno in FULL_DISK else 0, local=True)

    def _succeed(self) -> None:
        """Fire C{done} with the report.  The port stays open as long as the last ACK may have to be repeated."""
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

    def _abort(
        self, text: str, code: int = 0, outcome: str = outcomes.FAILED, local: bool = False, told: str = ""
    ) -> None:
        """
        End the transfer, and send the server an ERROR.

        @param local: see L{TransferError}.
        @param told: the text that the server is sent; C{""}: the same text.
        """
        if not self.over:
            self.replyError(code, told or text)
            self._end(TransferError(outcome, text, local=local))

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
