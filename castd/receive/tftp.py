"""
Reads and writes a file by TFTP, as a client: RFC 1350, 2347 to 2349, 7440.

Both halves are driven as L{UploadReceiver<castd.receive.upload.UploadReceiver>} is: C{begin}, then C{receive} for each
datagram of the peer and C{poll} at each C{deadline}, until there is an C{outcome}.  A L{TftpDownload} differs from an
C{UploadReceiver} only in its opening; from then on both receive blocks.
"""

from __future__ import annotations

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import WireError
from castd.interfaces import IClientTransferHalf
from castd.outcomes import DONE
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Ack, Data, Oack, TftpRequest, buildRequest
from castd.receive.base import DALLY_INTERVALS, ReceivingHalf, TransferHalf
from castd.receive.blocks import BlockSender, Read
from castd.receive.options import RequestedOptions

#: The default policy of a client.  Its request is repeated without limit, since a server's address is not forged.
CLIENT_POLICY = RetransmitPolicy(maxRepeatsUnheard=None)


@implementer(IClientTransferHalf)
class TftpDownload(ReceivingHalf):
    """
    The client's half of a read.  After the first answer, only datagrams of that answer's port are passed to it.

    @ivar terms: the terms that were agreed on; L{None} before the first answer.
    @ivar error: the server's ERROR, if it has ended the transfer; or L{None}.
    """

    def __init__(
        self,
        name: str,
        requested: RequestedOptions,
        mode: str = "octet",
        policy: RetransmitPolicy = CLIENT_POLICY,
    ) -> None:
        super().__init__(policy, None)
        self._requested = requested
        self._opening = buildRequest(TftpRequest(write=False, name=name, mode=mode, options=requested.options()))
        self._confirming = False

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """
        Receive a datagram of the server.

        @return: (payload to store or L{None}, datagrams to send).
        @raise WireError: the datagram is no packet that a server sends to a reader, or not at this point.
        @raise BadOffer: an OACK grants what was not asked for.
        @raise Unsupported: a block is larger than agreed on.
        """
        packet = self._parse(datagram)
        if packet is None:
            return None, []
        if isinstance(packet, Ack):
            raise WireError("ACK in a read")
        if isinstance(packet, Oack):
            return None, self._oackReceived(packet, now)
        if self.terms is None:
            if packet.number != 1:
                raise WireError(f"DATA {packet.number} as the first answer")
            self._agree(AgreedOptions(), now)
        self._detectRollover(packet)
        payload, replies = self._receiveData(packet, now)
        self._confirming = self._confirming and not self.blocks
        return payload, replies

    def _oackReceived(self, oack: Oack, now: float) -> list[bytes]:
        """
        Return ACK 0, for the first OACK and for another one before any block, which shows that our ACK 0 was lost.
        """
        if self.terms is None:
            self._agree(self._requested.agree(oack.options), now)
            self._confirming = True
            self._timer.progressed(now)
        elif not self._confirming or not self._mayAckAgain(now):
            return []
        self._timer.sent(now)
        return [self._ack()]

    def _agree(self, terms: AgreedOptions, now: float) -> None:
        """Begin to receive the file on these terms."""
        self.size = terms.tsize
        self._setTerms(terms)
        self._timer.setTimeout(terms.timeout, now)

    def _detectRollover(self, data: Data) -> None:
        """
        Follow a server that counts 65535, 1 without being asked, as some do.  Without windows, block 1 can have no
        other meaning after 65535.
        """
        if self.blocks == 0xFFFF and data.number == 1 and not self._hasWindows and self._requested.rollover is None:
            self._receiver.rollover = 1

    def _retransmission(self, now: float) -> list[bytes]:
        return [self._ack()] if self.terms else [self._opening]

    def _dallySeconds(self) -> float:
        # The measured interval, which is short: a user waits for this client to end.
        return DALLY_INTERVALS * min(self._timer.interval, self._policy.repeat.first)


@implementer(IClientTransferHalf)
class TftpUpload(TransferHalf):
    """
    The client's half of a write.  No datagram has a payload to store.

    @ivar terms: the terms that were agreed on; L{None} before the first answer.
    @ivar error: the server's ERROR, if it has ended the transfer; or L{None}.
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
        self._requested = requested
        self._opening = buildRequest(TftpRequest(write=True, name=name, mode=mode, options=requested.options(size)))
        self._sender: BlockSender | None = None

    @property
    def blocks(self) -> int:
        """How many blocks are acknowledged."""
        return self._sender.base - 1 if self._sender else 0

    def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
        """
        Receive a datagram of the server.

        @return: (L{None}, datagrams to send).
        @raise WireError: the datagram is no packet that a server sends to a writer, or not at this point.
        @raise BadOffer: an OACK grants what was not asked for.
        """
        packet = self._parse(datagram)
        if packet is None:
            return None, []
        if isinstance(packet, Data):
            raise WireError("DATA in a write")
        if self._sender is None:
            return None, self._opened(packet, now)
        # Another OACK: DATA 1 was lost, or has crossed it; the timer repeats DATA 1 if need be.
        return None, self._ackReceived(self._sender, packet.number, now) if isinstance(packet, Ack) else []

    def stored(self, now: float) -> list[bytes]:
        """Return nothing to send; never called, since no payload is stored."""
        return []

    def _opened(self, packet: Oack | Ack, now: float) -> list[bytes]:
        """Return the first window, which answers the OACK or ACK 0 that opens the transfer."""
        if isinstance(packet, Ack):
            if packet.number != 0:
                raise WireError(f"ACK {packet.number} as the first answer")
            self.terms = AgreedOptions()
        else:
            self.terms = self._requested.agree(packet.options)
        self._timer.progressed(now)
        self._timer.setTimeout(self.terms.timeout, now)
        self._timer.sent(now)
        self._sender = BlockSender(self.terms, self._octets, self._read)
        return self._sender.window(now)

    def _ackReceived(self, sender: BlockSender, number: int, now: float) -> list[bytes]:
        """Return the blocks to send after an ACK, once the transfer is open."""
        datagrams = sender.acknowledged(number, now, self._timer)
        if sender.done:
            self.outcome = DONE
        elif datagrams:
            self._timer.sent(now)
        return datagrams

    def _retransmission(self, now: float) -> list[bytes]:
        return self._sender.resend(now) if self._sender else [self._opening]
