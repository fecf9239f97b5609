"""
The server's half of TFTP's write.  RFC 1350, 2347 to 2349, 7440.

Two of its habits are there for clients that hardly ever repeat anything (docs/decisions/uploads-lean-on-the-server.md):
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

#: The last ACK is said again so long after it was said first: nobody can ask for it whose timer is longer than our
#: stay.  A client that has heard it is gone, and its host tells us so.  Seconds.
FAREWELLS = (0.2, 1.0)
#: The OACK is withdrawn after so many silent intervals: the first is left to the client that has lost it, to ask again.
SILENCES = 2


@implementer(ITransferHalf)
class UploadReceiver(ReceivingHalf):
    """
    The server's half of a write: RFC 1350 section 5, with options and windows.

    @ivar terms: what was agreed on; C{answer} is the OACK, and C{timeout} is in the patience already.
    """

    def __init__(self, terms: AgreedOptions, policy: RetransmitPolicy, exact: bool = True) -> None:
        """
        @param exact: the size that was announced is that of what comes, as in mode octet.
        """
        super().__init__(policy, terms)
        self.terms: AgreedOptions = terms
        self.size = terms.tsize
        # Never said once the first block is there: past a wrap ACK 0 acknowledges a block, and one well-known server
        # broke its transfers with an OACK in its place.
        self._opening = buildOack(terms.answer) if terms.answer else buildAck(0)
        self._exact = exact
        self._silences = 0
        self._withdrawn = self._granted = False
        self._farewells: list[float] = []

    def begin(self, now: float) -> list[bytes]:
        """-> what opens it; asked again, the same once more (the peer repeated its request)."""
        self._silences = 0
        return super().begin(now)

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """
        A datagram of the client.

        @return: (payload to keep or L{None}, datagrams to send).
        @raise WireError: not a thing a writing client says.
        @raise Unsupported: a block that is larger than agreed on.
        """
        packet = self._readPacket(datagram)
        if packet is None:
            return None, []
        if not isinstance(packet, Data):
            raise WireError(f"{type(packet).__name__.upper()} in a write")
        if not self.blocks and packet.number != 1:
            # The block before it is lost, and this client has had its answer.
            self._granted = True
            self._wait.met()
        elif self._withdrawn and not self.blocks:
            self._settle(len(packet.payload))
        return self._take(packet, now)

    def stored(self, now: float) -> list[bytes]:
        """Everything is kept safely.  -> the last ACK; it is said again, unasked, and to whoever repeats its block."""
        self._farewells = [now + after for after in FAREWELLS]
        return super().stored(now)

    def poll(self, now: float) -> list[bytes]:
        """-> what to repeat now; sets C{outcome} when patience is over."""
        said = super().poll(now)
        if self.outcome is None and self._farewells and now >= self._farewells[0]:
            self._farewells.pop(0)
            return [self._ack()]
        return said

    def deadline(self, now: float) -> float | None:
        """-> the instant to poll again at; L{None}: nothing is waited for."""
        instant = super().deadline(now)
        return instant if instant is None else min([instant, *self._farewells])

    def _repetition(self) -> list[bytes]:
        # Whoever has lost the OACK asks again, and gets it again.  Said by our own timer, after a DATA 1 that was lost,
        # it would corrupt what curl sends: a second OACK makes it send its next octets as block 1.  ACK 0 does not.
        if self.blocks or self._withdrawn or not self.terms.answer:
            return super()._repetition()
        self._silences += 1
        if self._silences < SILENCES or not (self._granted or self._shows()):
            return []
        self._withdrawn, self._opening = True, buildAck(0)
        return [self._opening]

    def _shows(self) -> bool:
        """
        -> will the first block show which terms it was sent on, if ACK 0 is said now?  Who has the OACK takes it for a
        repetition; who has lost it takes it for a no to every option.
        """
        terms = self.terms
        if (terms.blksize, terms.windowsize, terms.rollover) == (DEFAULT_BLKSIZE, 1, 0):
            return True
        if not self._exact or self.size is None:
            return False
        plain, agreed = min(DEFAULT_BLKSIZE, self.size), min(terms.blksize, self.size)
        return plain != agreed or self.size < min(DEFAULT_BLKSIZE, terms.blksize)

    def _settle(self, octets: int) -> None:
        """
        The first block after ACK 0 decides which terms hold.

        @param octets: of its payload.
        """
        agreed = self.terms.blksize
        if agreed != DEFAULT_BLKSIZE and (octets == DEFAULT_BLKSIZE or octets > agreed):
            self._on(replace(self.terms, blksize=DEFAULT_BLKSIZE, windowsize=1, rollover=0))

    def _dally(self) -> float:
        # Not the measured interval: it is the client's timer that brings the last block back, and that one is slow.
        return DALLY_INTERVALS * self._policy.repeat.first
