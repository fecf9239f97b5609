"""
Drive one transfer half by a DatagramProtocol, for uploads in the server and for the client.

The half, one of L{castd.receive}, decides what is sent.  This protocol adds the clock, the socket, the storage, and
answers to unknown senders.  It is in this package, from which the client imports it, since C{castd.net} knows no
packets and C{castd.receive} no reactor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure

from castd.errors import Refused, UnknownTid, WireError
from castd.interfaces import ITransferHalf
from castd.packets.tftp import ACK, DATA, OACK, buildError, opcode
from castd.receive.base import OffsetBlock
from castd.request import Peer
from castd.server.sender import SendQueue

#: What a half hands out to be stored; L{None}: nothing.
Payload: TypeAlias = bytes | OffsetBlock | None
#: A method of a half that reads a datagram, such as L{ITransferHalf.receive}.
Receive: TypeAlias = Callable[[bytes, float], tuple[Payload, list[bytes]]]


class HalfProtocol(DatagramProtocol, ABC):
    """
    Drives a transfer half: gives it the datagrams of its peer, stores its payloads, sends its replies, and polls it
    whenever its deadline has come.

    New replies of the half replace older ones that a full socket has not taken, so the queue stays short.

    @ivar half: decides what is sent.
    @ivar name: name of the transport, for events.
    @ivar peer: the address that the replies go to.
    @ivar full: how often the socket was full.
    @ivar over: the transfer has ended.
    @cvar queueClass: the class of the queue for replies that the socket does not take.
    """

    noisy = False
    queueClass: type[SendQueue] = SendQueue
    #: The transport while it is connected: an L{IDatagramPort<castd.interfaces.IDatagramPort>}, or one of Twisted's.
    transport: Any = None

    def __init__(self, name: str, half: ITransferHalf, peer: Peer, clock: IReactorTime) -> None:
        self.name = name
        self.half = half
        self.peer = peer
        self.full = 0
        self.over = False
        self._seconds = clock.seconds
        self._queue = self.queueClass()

    # What a subclass provides.

    @abstractmethod
    def setTimer(self, instant: float | None) -> None:
        """Have L{timerExpired} called at this instant, in place of the one that was set before; L{None}: never."""

    @abstractmethod
    def store(self, payload: Payload) -> None:
        """
        Store the payload of a datagram; L{None}: it had none.

        @raise Refused: it cannot be stored.
        """

    @abstractmethod
    def commit(self) -> None:
        """
        Make the file visible, as all of it has been stored, then call L{committed}.

        @raise Refused: that is not possible.
        """

    @abstractmethod
    def finish(self, outcome: str) -> None:
        """End the transfer, since the half has ended with this word of L{castd.outcomes}."""

    @abstractmethod
    def refuse(self, error: Refused) -> None:
        """Send the peer an ERROR, and end the transfer."""

    @abstractmethod
    def fail(self, failure: Failure) -> None:
        """End the transfer for a fault of castd."""

    @abstractmethod
    def mayAnswerStranger(self, address: Peer) -> bool:
        """Return whether an ERROR 5 may be sent to this address."""

    def malformed(self, datagram: bytes, error: Exception) -> None:
        """Ignore a datagram of the peer that cannot be read."""

    def deadline(self, now: float) -> float | None:
        """Return the instant to poll the half again at, or L{None}."""
        return self.half.deadline(now)

    # What is received.

    def process(self, receive: Receive, datagram: bytes) -> None:
        """
        Have the half read a datagram of the peer; store the payload, then send the replies.

        @param receive: the method of the half that reads it.
        """
        try:
            payload, replies = receive(datagram, self._seconds())
            self.store(payload)
            self.reply(replies)
            if payload is not None and self.half.complete and not self.over:
                self.commit()
            self.pump()
        except WireError as error:
            self.malformed(datagram, error)
        except Refused as error:
            self.refuse(error)
        except BaseException:
            self.fail(Failure())

    def strangerReceived(self, datagram: bytes, addr: Peer) -> None:
        """
        Answer a datagram that is not the peer's with ERROR 5 (RFC 1350 section 4); an ERROR or noise is never answered.
        """
        try:
            isTransfer = opcode(datagram) in (DATA, ACK, OACK)
        except WireError:
            return
        if isTransfer and self.mayAnswerStranger(addr):
            self._queue.write(self, buildError(UnknownTid.code, UnknownTid.text), addr)

    def peerUnreachable(self, peer: Peer) -> None:
        """Ignore that a host has reported a port closed."""

    def unsent(self, why: str) -> None:
        """Ignore that a datagram could not be sent: the half repeats it."""

    # What is sent.

    def reply(self, datagrams: Sequence[bytes]) -> None:
        """Send these datagrams to the peer, in place of those that the socket has not taken yet."""
        if datagrams:
            self._queue.putInstead(self, datagrams, self.peer)

    def replyError(self, code: int, text: str) -> None:
        """Send an ERROR to the peer, in place of the datagrams that the socket has not taken yet."""
        self._queue.putInstead(self, [buildError(code, text)], self.peer)

    def repeat(self, datagrams: Sequence[bytes]) -> None:
        """Send these datagrams to the peer: repetitions of the half, since there was no answer."""
        self.reply(datagrams)

    def committed(self) -> None:
        """Send the last acknowledgement: the file is in its place."""
        self.reply(self.half.stored(self._seconds()))

    def timerExpired(self) -> None:
        """Handle the timer: send what is kept, and poll the half."""
        self._queue.flush(self)
        self.pump()

    def pump(self) -> None:
        """Poll the half, and set the timer.  This is called after every datagram and timer."""
        if not self.over:
            self._poll(self._seconds())

    def _poll(self, now: float) -> None:
        try:
            self.repeat(self.half.poll(now))
            if self.over:
                return
            if self.half.outcome is not None:
                self.finish(self.half.outcome)
            else:
                self.setTimer(self._wakeAt(now))
        except Refused as error:
            self.refuse(error)
        except BaseException:
            self.fail(Failure())

    def _wakeAt(self, now: float) -> float | None:
        """Return the instant to go on at: the half's deadline, or sooner, when a full socket is to be tried again."""
        instant = self.deadline(now)
        if not self._queue.kept:
            return instant
        again = now + self._queue.rest
        return again if instant is None else min(instant, again)
