"""
What the halves of a TFTP transfer have in common: how they repeat, receive and end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from castd.cast.policy import RetransmitPolicy
from castd.outcomes import ABORTED, DONE, SILENT
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Ack, Data, Error, Oack, buildAck, parse
from castd.receive.blocks import BlockReceiver
from castd.receive.retransmit import RetransmitTimer

#: After its last ACK a receiver stays for so many intervals: the ACK may be lost, and the last block come again.
DALLY_INTERVALS = 3


class TransferHalf(ABC):
    """
    What the three have in common: the opening that is repeated until it is answered, and how it ends.

    @ivar repeats: how often the timer made it say something again.
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
        self._wait = RetransmitTimer(policy)
        self._dallyUntil: float | None = None

    def begin(self, now: float) -> list[bytes]:
        """-> what opens it; asked again, the same once more (the peer repeated its request)."""
        self._wait.begin(now)
        return [self._opening]

    def poll(self, now: float) -> list[bytes]:
        """-> what to repeat now; sets C{outcome} when patience is over."""
        if self.outcome is not None or (self.complete and self._dallyUntil is None):
            return []
        if self._dallyUntil is not None:
            self.outcome = DONE if now >= self._dallyUntil else None
        elif self._wait.over(now):
            self.outcome = SILENT
        elif self._wait.due(now):
            self._wait.again(now)
            said = self._repetition()
            self.repeats += bool(said)
            return said
        return []

    def deadline(self, now: float) -> float | None:
        """-> the instant to poll again at; L{None}: nothing is waited for."""
        if self.outcome is not None:
            return None
        if self._dallyUntil is not None:
            return self._dallyUntil
        return None if self.complete else self._wait.deadline()

    @abstractmethod
    def _repetition(self) -> list[bytes]:
        """-> the last thing said, or nothing, if the peer is to say something first."""

    def _readPacket(self, datagram: bytes) -> Data | Ack | Oack | None:
        """
        Read what the peer says; L{None}: there is nothing more to do about it.

        Its ERROR is the end, and is never answered; once all is stored it takes nothing away.

        @raise WireError: it cannot be read.
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
    """A half that receives blocks."""

    def __init__(self, policy: RetransmitPolicy, terms: AgreedOptions | None) -> None:
        super().__init__(policy, terms)
        self._receiver = BlockReceiver(terms or AgreedOptions())

    @property
    def blocks(self) -> int:
        """How many blocks are stored."""
        return self._receiver.stored

    def stored(self, now: float) -> list[bytes]:
        """Everything is kept safely.  -> the last ACK; from now on a repetition of the last block gets it again."""
        self._dallyUntil = now + self._dally()
        return [self._ack()]

    def _on(self, terms: AgreedOptions) -> None:
        """From now on these terms."""
        self.terms, self._receiver = terms, BlockReceiver(terms)

    @abstractmethod
    def _dally(self) -> float:
        """-> seconds to stay after the last ACK."""

    def _take(self, data: Data, now: float) -> tuple[bytes | None, list[bytes]]:
        """One DATA, in whichever state."""
        payload, due = self._receiver.take(data)
        if payload is not None:
            self._wait.heard(now)
            self.complete = self._receiver.final
        if self._dallyUntil is not None:
            return None, [self._ack()] if due else []
        # While the last block is being kept safely its repetitions get no answer: it would be taken for our consent.
        if not due or self.complete or (payload is None and not self._worthAnswering(now)):
            return payload, []
        self._wait.ask(now, first=payload is not None)
        return payload, [self._ack()]

    def _worthAnswering(self, now: float) -> bool:
        """
        A repetition that comes right behind our ACK has crossed it.  Answering it as well would double every later
        block with a sender that sends one for each ACK, a duplicate or not (RFC 1123 section 4.2.3.1): curl does, in
        uploads, and some servers in reads.
        """
        return (
            self._dallyUntil is not None or self._windows or now - self._wait.asked >= 2 * (self._wait.measured or 0.0)
        )

    @property
    def _windows(self) -> bool:
        return self.terms is not None and self.terms.windowsize > 1

    def _ack(self) -> bytes:
        return buildAck(self._receiver.acknowledge())

    def _repetition(self) -> list[bytes]:
        return [self._ack()] if self.blocks else [self._opening]
