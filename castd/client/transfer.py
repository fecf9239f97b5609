"""
One transfer of the client over real sockets.  What is said is decided in L{castd.receive}, here it meets the network.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure

from castd import outcomes
from castd.client.multicast import MulticastPort, widen
from castd.client.report import Progress, Report, Sink, TransferError
from castd.errors import Full, Refused, UnknownTid, WireError
from castd.net.backoff import Backoff, isFull
from castd.packets.tftp import ACK, DATA, OACK, Error, buildError, opcode
from castd.receive.piece import OffsetBlock

#: Datagrams of strangers that are answered; a transfer is no place for more.
STRANGERS = 20
#: Faults of our own disk that the server is told as what they are.
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Collector(Protocol):
    """
    What decides a transfer: L{castd.interfaces.ITransferHalf}, and for who is interested C{terms}, C{blocks} and
    C{repeats}.

    Its payload may be a L{OffsetBlock}. If it has a C{group} that is not L{None}, (address, port), that is joined as
    soon as it is seen, left when it changes, and what comes there goes to C{heard(datagram, peer, now)}, which returns
    what C{receive} does. An empty address: nothing is joined, broadcasts to that port are heard. If it has a C{tid},
    that is set to the server's address and port with its first answer.
    """

    outcome: str | None
    complete: bool
    size: int | None
    error: Error | None

    def begin(self, now: float) -> list[bytes]: ...
    def receive(self, datagram: bytes, now: float) -> tuple[Any, list[bytes]]: ...
    def stored(self, now: float) -> list[bytes]: ...
    def poll(self, now: float) -> list[bytes]: ...
    def deadline(self, now: float) -> float | None: ...


class Transfer(DatagramProtocol):
    """
    One transfer on a port of its own.

    @ivar done: fires with a L{Report} or a L{TransferError}; cancelling it tells the server.
    """

    transport: Any = None

    def __init__(
        self,
        reactor: Any,
        collector: Any,
        server: tuple[str, int],
        sink: Sink | None,
        progress: Progress | None,
    ) -> None:
        """
        @param server: numeric address and port of the request.
        @param sink: L{None} for a write.
        """
        self.done: Deferred[Report] = Deferred(lambda _: self._stop("cancelled", outcome=outcomes.STOPPED))
        self._reactor = reactor
        self._collector = collector
        self._server = server
        self._tid: tuple[str, int] | None = None
        self._sink = sink
        self._progress = progress
        self._octets = 0
        self._strangers = 0
        self._began = 0.0
        self._call: Any = None
        self._unsent: list[bytes] = []
        self._backoff = Backoff()
        self._closed: Deferred[None] = Deferred()
        self._over = False
        self._ear: MulticastPort | None = None

    # Life.

    def start(self) -> Deferred[Report]:
        """Open the port and ask.  -> C{done}."""
        self._began = self._reactor.seconds()
        six = isIPv6Address(self._server[0])
        try:
            port = self._reactor.listenUDP(0, self, interface="::" if six else "", maxPacketSize=65535)
            widen(port)
            opening = self._collector.begin(self._began)
            # The first one tells what is wrong with the address; a fault later on is a datagram lost on its way.
            port.write(opening[0], self._server)
        except (OSError, CannotListenError) as error:
            why = getattr(error, "strerror", None) or str(error)
            self._failed(TransferError(outcomes.FAILED, f"cannot send to {self._server[0]}: {why}"))
        else:
            self._pump()
        return self.done

    # What is heard.

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """From the transport."""
        if self._ear is not None:
            # What the server says here came behind what it sent to the group.
            self._ear.listen()
        if self._over:
            # With that the file was complete, perhaps, and nothing is to be opened any more.
            return
        peer = (addr[0].partition("%")[0], addr[1])
        known = peer == self._tid if self._tid else peer[0] == self._server[0].partition("%")[0]
        if known:
            self._take(self._collector.receive, datagram, peer)
        else:
            self._stranger(datagram, addr)

    def fromGroup(self, datagram: bytes, peer: Any) -> None:
        """From the group's port."""
        if not self._over:
            self._take(lambda content, now: self._collector.heard(content, peer, now), datagram)

    def _take(
        self, receive: Callable[[bytes, float], Any], datagram: bytes, peer: tuple[str, int] | None = None
    ) -> None:
        """
        @param peer: who said it, at our own port: the first one that says anything is the one we talk to from then on.
        """
        error: Refused | OSError | None = None
        try:
            payload, answers = receive(datagram, self._reactor.seconds())
        except WireError:
            return
        except (Refused, OSError) as fault:
            error = fault
        if peer is not None and self._tid is None:
            # The address as it was asked, since it may have a scope.
            self._tid, self._server = peer, (self._server[0], peer[1])
            if hasattr(self._collector, "tid"):
                self._collector.tid = peer
        if error is None:
            try:
                self._keep(payload)
            except OSError as fault:
                error = fault
        if error is not None:
            self._broken(error)
            return
        # Before anything is said: the first block may come right behind it.
        if not self._listen(getattr(self._collector, "group", None)):
            return
        self._say(answers)
        if payload is not None and self._collector.complete:
            self._say(self._collector.stored(self._reactor.seconds()))
            self._succeeded()
        self._pump()

    def _keep(self, payload: bytes | OffsetBlock | None) -> None:
        if isinstance(payload, OffsetBlock):
            assert self._sink is not None
            self._sink.writeAt(*payload)
            self._octets += len(payload.payload)
        elif payload:
            assert self._sink is not None
            self._sink.write(payload)
            self._octets += len(payload)
        elif self._sink is None:
            self._octets = self._sent()
        if self._progress is not None:
            self._progress(self._octets, self._collector.size)

    def _sent(self) -> int:
        """-> octets of a write that are acknowledged."""
        terms = self._collector.terms
        return min(self._collector.size, self._collector.blocks * terms.blksize) if terms else 0

    def _stranger(self, datagram: bytes, addr: Any) -> None:
        """Not our peer: told so (RFC 1350 section 4), but never in answer to an ERROR."""
        try:
            known = opcode(datagram) in (DATA, ACK, OACK)
        except WireError:
            return
        if known and self._strangers < STRANGERS:
            self._strangers += 1
            with suppress(OSError):
                self.transport.write(buildError(UnknownTid.code, UnknownTid.text), addr)

    # What goes out.

    def _wake(self) -> None:
        self._call = None
        self._flush()
        self._pump()

    def _pump(self) -> None:
        """Repeat what is due and set the timer."""
        if self._over:
            return
        now = self._reactor.seconds()
        try:
            self._say(self._collector.poll(now))
        except (Refused, OSError) as error:
            self._broken(error)
            return
        if not self._listen(getattr(self._collector, "group", None)):
            return
        outcome = self._collector.outcome
        if outcome is not None:
            self._ended(outcome)
            return
        instants = [self._collector.deadline(now), now + self._backoff.seconds if self._unsent else None]
        self._alarm(
            min((instant for instant in instants if instant is not None), default=None),
            now,
        )

    def _alarm(self, instant: float | None, now: float) -> None:
        if self._call is not None:
            self._call.cancel()
        self._call = None if instant is None else self._reactor.callLater(max(0.0, instant - now), self._wake)

    def _say(self, datagrams: list[bytes]) -> None:
        """What is said now includes all that was to be said before, so nothing piles up behind a full socket."""
        if datagrams:
            self._unsent = datagrams
            self._flush()

    def _flush(self) -> None:
        address = self._server
        for sent, datagram in enumerate(self._unsent):
            try:
                self.transport.write(datagram, address)
            except MessageLengthError:
                # As good as lost: the silence that follows will tell.
                continue
            except OSError as error:
                if isFull(error):
                    self._unsent = self._unsent[sent:]
                    self._backoff.refused()
                    return
        self._unsent = []
        self._backoff = Backoff()

    def _listen(self, group: tuple[str, int] | None) -> bool:
        """Be in this group, and in no other.  -> False: that cannot be, and it is over."""
        if group == (self._ear.group if self._ear else None):
            return True
        if self._ear is not None:
            self._ear.close()
            self._ear = None
        if group is None:
            return True
        try:
            self._ear = MulticastPort(self._reactor, group, self._server[0], self.fromGroup)
        except (OSError, CannotListenError) as error:
            # Any server may name a port that is taken here, or not ours to have.
            why = getattr(error, "socketError", error)
            self._stop(f"cannot listen to {group[0] or 'broadcasts'}, port {group[1]}: {why}")
            return False
        self._ear.joined.addErrback(self._unjoined)
        return not self._over

    def _unjoined(self, failure: Failure) -> None:
        """The system does not let us into the group: nothing would ever come."""
        self._stop(f"cannot join the group: {failure.getErrorMessage()}")

    # How it ends.

    def _ended(self, outcome: str) -> None:
        error = self._collector.error
        if outcome == outcomes.DONE:
            self._succeeded()
            self._close()
        elif error is not None:
            text = f"ERROR {error.code}" + (f": {error.text}" if error.text else "")
            self._failed(TransferError(outcome, text, error.code))
        elif self._tid is None:
            self._failed(TransferError(outcome, f"no answer from {self._server[0]} port {self._server[1]}"))
        else:
            self._failed(TransferError(outcome, "the server fell silent"))

    def _succeeded(self) -> None:
        if self.done.called:
            return
        if self._sink is None:
            self._octets = self._sent()
        collector, terms = self._collector, getattr(self._collector, "terms", None)
        report = Report(
            octets=self._octets,
            size=collector.size,
            seconds=self._reactor.seconds() - self._began,
            blocks=collector.blocks,
            repeats=collector.repeats,
            blksize=terms and terms.blksize,
            windowsize=terms and terms.windowsize,
            server=self._server,
            closed=self._closed,
        )
        self.done.callback(report)

    def _stop(self, text: str, code: int = 0, outcome: str = outcomes.FAILED) -> None:
        """It ends here, and the server is told."""
        if not self._over:
            self._say([buildError(code, text)])
            self._failed(TransferError(outcome, text))

    def _broken(self, error: Refused | OSError) -> None:
        """It ends here: the server does not keep its word, or our own files fail."""
        if isinstance(error, Refused):
            self._stop(str(error), error.code)
        else:
            self._stop(
                error.strerror or str(error),
                Full.code if error.errno in FULL_DISK else 0,
            )

    def _failed(self, error: TransferError) -> None:
        self._close()
        if not self.done.called:
            self.done.errback(error)

    def _close(self) -> None:
        self._over = True
        self._listen(None)
        self._alarm(None, 0.0)
        if self.transport is not None:
            self.transport.stopListening()
        self._closed.callback(None)
