"""
Provides the base classes of the halves of a TFTP transfer: repetition of datagrams, receipt of blocks, and the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from castd.cast.policy import RetransmitPolicy
from castd.outcomes import ABORTED, DONE, SILENT
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Ack, Data, Error, Oack, buildAck, parse
from castd.receive.blocks import BlockReceiver
from castd.receive.retransmit import RetransmitTimer

#: A receiver dallies for so many intervals after its last ACK: the ACK may be lost, and the last block come again.
DALLY_INTERVALS = 3


class OffsetBlock(NamedTuple):
    """A block and its place in the file: the payload of a half whose blocks come in any order."""

    offset: int
    payload: bytes


class TransferHalf(ABC):
    """
    One side of a TFTP transfer: repeats the opening datagram until it is answered, and detects the end.

    @ivar outcome, complete, size: as L{ITransferHalf<castd.interfaces.ITransferHalf>}.
    @ivar error, terms, repeats: as L{IClientTransferHalf<castd.interfaces.IClientTransferHalf>}.
    """

    def __init__(self, policy: RetransmitPolicy, terms: AgreedOptions | None) -> None:
        self.outcome: str | None = None
        self.complete = False
        self.repeats = 0
        self.size: int | None = None
        self.error: Error | None = None
        self.terms = terms
        self._policy = policy
        self._opening = b""
        self._timer = RetransmitTimer(policy)
        self._dallyUntil: float | None = None

    def begin(self, now: float) -> list[bytes]:
        """Return the opening datagram; called again, since the peer has repeated its request, it gives the same one."""
        self._timer.start(now)
        return [self._opening]

    def poll(self, now: float) -> list[bytes]:
        """Return datagrams to repeat now.  Sets C{outcome} when the peer was silent for too long."""
        if self.outcome is not None or (self.complete and self._dallyUntil is None):
            return []
        if self._dallyUntil is not None:
            self.outcome = DONE if now >= self._dallyUntil else None
        elif self._timer.exhausted(now):
            self.outcome = SILENT
        elif self._timer.due(now):
            self._backOff(now)
            datagrams = self._retransmission(now)
            self.repeats += bool(datagrams)
            return datagrams
        return []

    def _backOff(self, now: float) -> None:
        """Note that the last datagrams are about to be sent again."""
        self._timer.repeated(now)

    def deadline(self, now: float) -> float | None:
        """Return the instant at which L{poll} is due; L{None}: no timer runs."""
        if self.outcome is not None:
            return None
        if self._dallyUntil is not None:
            return self._dallyUntil
        return None if self.complete else self._timer.deadline()

    @abstractmethod
    def _retransmission(self, now: float) -> list[bytes]:
        """Return the last datagrams once more; none if the peer is to send first."""

    def _parse(self, datagram: bytes) -> Data | Ack | Oack | None:
        """
        Parse a datagram of the peer; L{None}: the datagram needs no further handling.

        An ERROR ends the transfer and is never answered.  Once everything is stored, an ERROR changes nothing.

        @raise WireError: the datagram cannot be read.
        """
        packet = parse(datagram)
        if self.outcome is not None:
            return None
        if isinstance(packet, Error):
            self.error = packet
            self.outcome = ABORTED if self._dallyUntil is None else DONE
            return None
        return packet


class ReceivingHalf(TransferHalf):
    """A half that receives blocks in their order."""

    def __init__(self, policy: RetransmitPolicy, terms: AgreedOptions | None) -> None:
        super().__init__(policy, terms)
        self._receiver = BlockReceiver(terms or AgreedOptions())
        self._oddAt = float("-inf")  # when a block came that was not the next one

    @property
    def blocks(self) -> int:
        """How many blocks have come."""
        return self._receiver.stored

    def stored(self, now: float) -> list[bytes]:
        """Begin to dally, since everything is stored.  -> the last ACK, repeated when the last block comes again."""
        self._dallyUntil = now + self._dallySeconds()
        return [self._ack()]

    def _setTerms(self, terms: AgreedOptions) -> None:
        """Receive the blocks on these terms, from the first block on."""
        self.terms, self._receiver = terms, BlockReceiver(terms)

    @abstractmethod
    def _dallySeconds(self) -> float:
        """Return the seconds to dally after the last ACK."""

    def _receiveData(self, data: Data, now: float) -> tuple[bytes | None, list[bytes]]:
        """Return (the payload of the next block or L{None}, the ACK if one is due)."""
        answersGap = self._receiver.gapAcked
        payload, ackDue = self._receiver.receive(data, self._mayAckAgain(now))
        if payload is not None:
            self._progressed(now, answersGap)
            self.complete = self._receiver.final
        else:
            self._oddAt = now
        if self._dallyUntil is not None:
            return None, [self._ack()] if ackDue else []
        # While the last block is being stored its repetitions get no answer: an ACK would say that it is stored.
        if not ackDue or self.complete:
            return payload, []
        self._timer.sent(now, first=self._acksNewBlock)
        return payload, [self._ack()]

    def _progressed(self, now: float, answersGap: bool) -> None:
        """
        Note that a block has come.

        @param answersGap: the last ACK has told of a gap.  What comes sooner than any answer was not lost, but late.
        """
        if answersGap and now - self._timer.sentAt < self._timer.shortestRoundTrip:
            self._timer.answered(now, None)
        else:
            self._timer.progressed(now)

    def expected(self) -> tuple[bytes, int] | None:
        """
        As L{IPredictingHalf<castd.interfaces.IPredictingHalf>}; the first block, and one that fills a gap, may decide
        more than its payload.
        """
        if not self._receiver.stored or self._receiver.gapAcked or self.outcome is not None:
            return None
        return self._receiver.expected()

    def advance(self, now: float) -> tuple[list[bytes], float]:
        """As L{IPredictingHalf<castd.interfaces.IPredictingHalf>}."""
        timer = self._timer
        if not self._receiver.advance():
            timer.progressed(now)
            return [], timer.deadline()
        timer.exchanged(now)
        return [self._ack()], timer.deadline()

    @property
    def _acksNewBlock(self) -> bool:
        """Whether the ACK of the last block is none that was sent before, so that its answer can be measured (Karn)."""
        return self._receiver.stored > self._receiver.acked

    def _backOff(self, now: float) -> None:
        # A timer that brings the first ACK of a block repeats nothing: the end of a window was lost, and the interval
        # stays as it was measured.
        if self._acksNewBlock:
            self._timer.sent(now)
        else:
            super()._backOff(now)

    def _mayAckAgain(self, now: float) -> bool:
        """
        Return whether a block that comes again is to be acknowledged again.

        A block that comes right after our ACK has crossed it.  To answer that block would double every later block of
        a sender that sends one block for each ACK, duplicates included (RFC 1123 section 4.2.3.1): curl does so in
        uploads, and some servers in reads.  With windows it would double every later window: to the sender, the ACK
        says that the rest of its window was lost.  A window may be longer on its way than our ACK: who has lost that
        ACK has sent its window and falls silent, so whatever comes without a pause is no repetition for want of it.
        """
        since = self._timer.sentAt
        if self._hasWindows:
            since = max(since, self._timer.progressAt, self._oddAt)
        return self._dallyUntil is not None or now - since >= 2 * (self._timer.roundTrip or 0.0)

    @property
    def _hasWindows(self) -> bool:
        """Whether the sender sends more than one block for each ACK."""
        return self.terms is not None and self.terms.windowsize > 1

    def _ack(self) -> bytes:
        return buildAck(self._receiver.acknowledge())

    def _retransmission(self, now: float) -> list[bytes]:
        return [self._ack()]
