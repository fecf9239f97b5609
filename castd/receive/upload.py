"""
Receives an upload by TFTP, as the server: RFC 1350, 2347 to 2349, 7440.

Two rules are there for clients that hardly ever repeat a datagram (docs/decisions/uploads-lean-on-the-server.md): curl
waits 73 s for each ACK that it misses, and takes every OACK for the start of the transfer; atftp continues with the
next block.
"""

from __future__ import annotations

from dataclasses import replace

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import WireError
from castd.interfaces import IPredictingHalf, IReportingHalf, IWindowHalf
from castd.packets.options import DEFAULT_BLKSIZE, AgreedOptions
from castd.packets.tftp import Data, buildAck, buildOack
from castd.receive.base import DALLY_INTERVALS, ReceivingHalf

#: The last ACK is sent again after each of these times, for clients whose timer is longer than the dally.  The host of
#: a client that has received the first one answers that its port is closed.  Seconds.
LAST_ACK_REPEATS = (0.2, 1.0)
#: ACK 0 replaces the OACK after so many silent intervals; in the first, a client that lost the OACK can ask again.
OACK_INTERVALS = 2


@implementer(IWindowHalf, IPredictingHalf, IReportingHalf)
class UploadReceiver(ReceivingHalf):
    """
    The server's half of a write: RFC 1350 section 5, with options and windows.

    @ivar terms: the terms that were agreed on; C{answer} is the OACK, and C{timeout} is in the policy already.
    """

    def __init__(self, terms: AgreedOptions, policy: RetransmitPolicy, exact: bool = True) -> None:
        """
        @param exact: the client announces the size as it comes on the wire, as in mode octet.
        """
        super().__init__(policy, terms)
        self.terms: AgreedOptions = terms
        self.size = terms.tsize
        # Never sent once the first block has come: after a wrap ACK 0 acknowledges a block, and one well-known server
        # broke its transfers by sending an OACK in its place.
        self._opening = buildOack(terms.answer) if terms.answer else buildAck(0)
        self._exact = exact
        self._silentIntervals = 0
        self._oackWithdrawn = self._openingReceived = False
        self._lastAckRepeats: list[float] = []

    def limitWindow(self, blocks: int) -> None:
        """Grant windows of so many blocks.  Called before L{begin}."""
        answer = tuple(
            (name, str(blocks) if name.lower() == "windowsize" else value) for name, value in self.terms.answer
        )
        self._setTerms(replace(self.terms, windowsize=blocks, answer=answer))
        self._opening = buildOack(answer)

    def begin(self, now: float) -> list[bytes]:
        """Return the OACK or ACK 0; called again, since the client has repeated its request, it gives the same one."""
        self._silentIntervals = 0
        return super().begin(now)

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """
        Receive a datagram of the client.

        @return: (payload to store or L{None}, datagrams to send).
        @raise WireError: the datagram is no packet that a writing client sends.
        @raise Unsupported: a block is larger than agreed on.
        """
        packet = self._parse(datagram)
        if packet is None:
            return None, []
        if not isinstance(packet, Data):
            raise WireError(f"{type(packet).__name__.upper()} in a write")
        if not self.blocks and packet.number != 1:
            # The block before this one is lost, and the client has had an answer for this gap.
            self._openingReceived = True
            self._timer.heardPeer(now)
        elif self._oackWithdrawn and not self.blocks:
            self._chooseTerms(len(packet.payload))
        return self._receiveData(packet, now)

    def stored(self, now: float) -> list[bytes]:
        """
        Begin to dally, since everything is stored.  -> the last ACK, which is sent again by a timer, and whenever the
        client repeats its last block.
        """
        self._lastAckRepeats = [now + after for after in LAST_ACK_REPEATS]
        return super().stored(now)

    def poll(self, now: float) -> list[bytes]:
        """Return datagrams to repeat now.  Sets C{outcome} when the client was silent for too long."""
        datagrams = super().poll(now)
        if self.outcome is None and self._lastAckRepeats and now >= self._lastAckRepeats[0]:
            self._lastAckRepeats.pop(0)
            return [self._ack()]
        return datagrams

    def deadline(self, now: float) -> float | None:
        """Return the instant at which L{poll} is due; L{None}: no timer runs."""
        instant = super().deadline(now)
        if instant is None or not self._lastAckRepeats:
            return instant
        return min(instant, self._lastAckRepeats[0])

    def _retransmission(self, now: float) -> list[bytes]:
        # A client that has lost the OACK repeats its request, and gets the OACK again.  Repeated by our own timer after
        # a lost DATA 1, the OACK would corrupt curl's upload: curl answers a second OACK by sending its next octets as
        # block 1.  ACK 0 does no harm.
        if self.blocks or self._oackWithdrawn or not self.terms.answer:
            return super()._retransmission(now)
        self._silentIntervals += 1
        if self._silentIntervals < OACK_INTERVALS or not (self._openingReceived or self._firstBlockShowsTerms()):
            return []
        self._oackWithdrawn, self._opening = True, buildAck(0)
        return [self._opening]

    def _firstBlockShowsTerms(self) -> bool:
        """
        Return whether the first block will show which terms it was sent on, if ACK 0 is sent now. A client that has
        the OACK takes ACK 0 for a repetition; one that has lost it takes ACK 0 for the refusal of all options.
        """
        terms = self.terms
        if (terms.blksize, terms.windowsize, terms.rollover) == (DEFAULT_BLKSIZE, 1, 0):
            return True
        if not self._exact or self.size is None:
            return False
        plain, agreed = min(DEFAULT_BLKSIZE, self.size), min(terms.blksize, self.size)
        return plain != agreed or self.size < min(DEFAULT_BLKSIZE, terms.blksize)

    def _chooseTerms(self, octets: int) -> None:
        """
        Choose the terms by the first block after ACK 0.

        @param octets: octets of that block's payload.
        """
        agreed = self.terms.blksize
        if agreed != DEFAULT_BLKSIZE and (octets == DEFAULT_BLKSIZE or octets > agreed):
            self._setTerms(replace(self.terms, blksize=DEFAULT_BLKSIZE, windowsize=1, rollover=0))

    def _dallySeconds(self) -> float:
        # Not the measured interval: the client's timer, which is slow, decides when the last block comes again.
        return min(DALLY_INTERVALS * self._policy.repeat.first, self._policy.patience(False))
