"""
The server's half of TFTP's write.  RFC 1350, 2347 to 2349, 7440.

Two of its rules are there for clients that hardly ever repeat anything (docs/decisions/uploads-lean-on-the-server.md):
curl waits 73 s for each ACK that it misses, and takes every OACK for the beginning; atftp goes on with the next block.
"""

from __future__ import annotations

from dataclasses import replace

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import WireError
from castd.interfaces import ITransferHalf
from castd.packets.options import DEFAULT_BLKSIZE, AgreedOptions
from castd.packets.tftp import Data, buildAck, buildOack
from castd.receive.base import DALLY_INTERVALS, ReceivingHalf

#: The last ACK is sent again so long after it was sent first: a client whose timer is longer than our stay cannot ask
#: for it.  A client that has received it is gone, and its host tells us so.  Seconds.
LAST_ACK_REPEATS = (0.2, 1.0)
#: The OACK is withdrawn after so many silent intervals: the first is left to the client that has lost it, to ask again.
OACK_INTERVALS = 2


@implementer(ITransferHalf)
class UploadReceiver(ReceivingHalf):
    """
    The server's half of a write: RFC 1350 section 5, with options and windows.

    @ivar terms: what was agreed on; C{answer} is the OACK, and C{timeout} is in the policy already.
    """

    def __init__(self, terms: AgreedOptions, policy: RetransmitPolicy, exact: bool = True) -> None:
        """
        @param exact: the size that was announced is that of what comes, as in mode octet.
        """
        super().__init__(policy, terms)
        self.terms: AgreedOptions = terms
        self.size = terms.tsize
        # Never sent once the first block is there: past a wrap ACK 0 acknowledges a block, and one well-known server
        # broke its transfers with an OACK in its place.
        self._opening = buildOack(terms.answer) if terms.answer else buildAck(0)
        self._exact = exact
        self._silentIntervals = 0
        self._oackWithdrawn = self._openingReceived = False
        self._lastAckRepeats: list[float] = []

    def begin(self, now: float) -> list[bytes]:
        """-> the OACK or ACK 0; called again, the same one: the client has repeated its request."""
        self._silentIntervals = 0
        return super().begin(now)

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """
        Receive a datagram of the client.

        @return: (payload to store or L{None}, datagrams to send).
        @raise WireError: no packet that a writing client sends.
        @raise Unsupported: a block that is larger than agreed on.
        """
        packet = self._parse(datagram)
        if packet is None:
            return None, []
        if not isinstance(packet, Data):
            raise WireError(f"{type(packet).__name__.upper()} in a write")
        if not self.blocks and packet.number != 1:
            # The block before it is lost, and this client has had its answer.
            self._openingReceived = True
            self._timer.heardPeer()
        elif self._oackWithdrawn and not self.blocks:
            self._chooseTerms(len(packet.payload))
        return self._receiveData(packet, now)

    def stored(self, now: float) -> list[bytes]:
        """
        Begin to dally: everything is stored.  -> the last ACK, which goes out again unasked, and to a client that
        repeats its last block.
        """
        self._lastAckRepeats = [now + after for after in LAST_ACK_REPEATS]
        return super().stored(now)

    def poll(self, now: float) -> list[bytes]:
        """-> datagrams to repeat now.  Sets C{outcome} when the client was silent for too long."""
        datagrams = super().poll(now)
        if self.outcome is None and self._lastAckRepeats and now >= self._lastAckRepeats[0]:
            self._lastAckRepeats.pop(0)
            return [self._ack()]
        return datagrams

    def deadline(self, now: float) -> float | None:
        """-> the instant to poll again at; L{None}: nothing is waited for."""
        instant = super().deadline(now)
        return instant if instant is None else min([instant, *self._lastAckRepeats])

    def _retransmission(self) -> list[bytes]:
        # A client that has lost the OACK asks again, and gets it again.  Sent by our own timer, after a DATA 1 that was
        # lost, it would corrupt what curl sends: a second OACK makes it send its next octets as block 1.  ACK 0 does
        # not.
        if self.blocks or self._oackWithdrawn or not self.terms.answer:
            return super()._retransmission()
        self._silentIntervals += 1
        if self._silentIntervals < OACK_INTERVALS or not (self._openingReceived or self._firstBlockShowsTerms()):
            return []
        self._oackWithdrawn, self._opening = True, buildAck(0)
        return [self._opening]

    def _firstBlockShowsTerms(self) -> bool:
        """
        -> whether the first block will show which terms it was sent on, if ACK 0 is sent now.  A client that has the
        OACK takes it for a repetition; one that has lost it takes it for a no to every option.
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
        Choose the terms that hold by the first block after ACK 0.

        @param octets: of its payload.
        """
        agreed = self.terms.blksize
        if agreed != DEFAULT_BLKSIZE and (octets == DEFAULT_BLKSIZE or octets > agreed):
            self._setTerms(replace(self.terms, blksize=DEFAULT_BLKSIZE, windowsize=1, rollover=0))

    def _dallySeconds(self) -> float:
        # Not the measured interval: it is the client's timer that brings the last block back, and that one is slow.
        return DALLY_INTERVALS * self._policy.repeat.first
