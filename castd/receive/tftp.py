"""
The halves of TFTP's client: its read and its write.  RFC 1350, 2347 to 2349, 7440.

They are driven as L{UploadReceiver<castd.receive.upload.UploadReceiver>} is: C{begin}, then C{receive} for each
datagram of the peer and C{poll} at each C{deadline}, until there is an C{outcome}. A L{TftpDownload} differs from an
C{UploadReceiver} in how it begins; from then on both receive blocks.
"""

from __future__ import annotations

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import WireError
from castd.interfaces import ITransferHalf
from castd.outcomes import DONE
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Ack, Data, Oack, TftpRequest, buildRequest
from castd.receive.base import DALLY_INTERVALS, ReceivingHalf, TransferHalf
from castd.receive.blocks import BlockSender, Read
from castd.receive.options import RequestedOptions

#: How patient a client is.  It repeats its request as often as it takes: no forged address is at its other end.
CLIENT_POLICY = RetransmitPolicy(maxRepeatsUnheard=None)


@implementer(ITransferHalf)
class TftpDownload(ReceivingHalf):
    """
    The client's half of a read.  Once a first answer was taken, the shell hands it the datagrams of that port only.

    @ivar terms: what was agreed on, L{None} before the first answer.
    @ivar error: the server's ERROR, if that was the end.
    """

    def __init__(
        self,
        name: str,
        requested: RequestedOptions,
        mode: str = "octet",
        policy: RetransmitPolicy = CLIENT_POLICY,
    ) -> None:
        super().__init__(policy, None)
        self._wishes = requested
        self._opening = buildRequest(TftpRequest(write=False, name=name, mode=mode, options=requested.options()))
        self._confirming = False

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """
        A datagram of the server.

        @return: (payload to keep or L{None}, datagrams to send).
        @raise WireError: not a thing a server says to a reader, or not at this point.
        @raise BadOffer: an OACK that grants what was not asked for.
        @raise Unsupported: a block that is larger than agreed on.
        """
        packet = self._readPacket(datagram)
        if packet is None:
            return None, []
        if isinstance(packet, Ack):
            raise WireError("ACK in a read")
        if isinstance(packet, Oack):
            return None, self._granted(packet, now)
        if self.terms is None:
            if packet.number != 1:
                raise WireError(f"DATA {packet.number} as the first answer")
            self._agreed(AgreedOptions(), now)
        self._rolls(packet)
        payload, answer = self._take(packet, now)
        self._confirming = self._confirming and not self.blocks
        return payload, answer

    def _granted(self, oack: Oack, now: float) -> list[bytes]:
        """The first OACK opens the transfer; another one, before any block, says that our ACK 0 was lost."""
        if self.terms is None:
            self._agreed(self._wishes.agree(oack.options), now)
            self._confirming = True
            self._wait.heard(now)
        elif not self._confirming or not self._worthAnswering(now):
            return []
        self._wait.ask(now)
        return [self._ack()]

    def _agreed(self, terms: AgreedOptions, now: float) -> None:
        """From now on these terms."""
        self.size = terms.tsize
        self._on(terms)
        self._wait.heed(terms.timeout, now)

    def _rolls(self, data: Data) -> None:
        """
        Some servers count 65535, 1 without being asked.  One block at a time, no other meaning is left for that 1.
        """
        if self.blocks == 0xFFFF and data.number == 1 and not self._windows and self._wishes.rollover is None:
            self._receiver.rollover = 1

    def _repetition(self) -> list[bytes]:
        return [self._ack()] if self.terms else [self._opening]

    def _dally(self) -> float:
        # The measured interval: somebody is waiting for this client to end.
        return DALLY_INTERVALS * min(self._wait.interval, self._policy.repeat.first)


@implementer(ITransferHalf)
class TftpUpload(TransferHalf):
    """
    The client's half of a write, driven like the others; there is never anything to keep.

    @ivar terms: what was agreed on, L{None} before the first answer.
    @ivar error: the server's ERROR, if that was the end.
    """

    def __init__(
        self,
        name: str,
        size: int,
        read: Read,
        requested: RequestedOptions,
        mode: str = "octet",
        policy: RetransmitPolicy = CLIENT_POLICY,
    ) -> None:
        super().__init__(policy, None)
        self.size: int | None = size
        self._octets = size
        self._read = read
        self._wishes = requested
        self._opening = buildRequest(TftpRequest(write=True, name=name, mode=mode, options=requested.options(size)))
        self._sender: BlockSender | None = None

    @property
    def blocks(self) -> int:
        """How many blocks are acknowledged."""
        return self._sender.base - 1 if self._sender else 0

    def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
        """
        A datagram of the server.

        @return: (L{None}, datagrams to send).
        @raise WireError: not a thing a server says to a writer, or not at this point.
        @raise BadOffer: an OACK that grants what was not asked for.
        """
        packet = self._readPacket(datagram)
        if packet is None:
            return None, []
        if isinstance(packet, Data):
            raise WireError("DATA in a write")
        if self._sender is None:
            return None, self._granted(packet, now)
        # Another OACK: DATA 1 was lost, or they have crossed; the timer decides.
        return None, self._heard(self._sender, packet.number, now) if isinstance(packet, Ack) else []

    def stored(self, now: float) -> list[bytes]:
        """Nothing is ever kept here."""
        return []

    def _granted(self, packet: Oack | Ack, now: float) -> list[bytes]:
        """The first answer."""
        if isinstance(packet, Ack):
            if packet.number != 0:
                raise WireError(f"ACK {packet.number} as the first answer")
            self.terms = AgreedOptions()
        else:
            self.terms = self._wishes.agree(packet.options)
        self._wait.heard(now)
        self._wait.heed(self.terms.timeout, now)
        self._wait.ask(now)
        self._sender = BlockSender(self.terms, self._octets, self._read)
        return self._sender.window()

    def _heard(self, sender: BlockSender, number: int, now: float) -> list[bytes]:
        """An ACK in mid-transfer."""
        progress, datagrams = sender.hear(number)
        if progress:
            self._wait.heard(now)
        if sender.done:
            self.outcome = DONE
        elif datagrams:
            self._wait.ask(now, first=sender.fresh)
        return datagrams

    def _repetition(self) -> list[bytes]:
        return self._sender.again() if self._sender else [self._opening]
