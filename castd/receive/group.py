"""
Receives a file as a member of a group: by RFC 2090's C{multicast} (C{tftm://host[:port]/file}, as iPXE spells it), or
by IBM's C{sbroadcast}, which has no URL and is for programs.

A member receives blocks in any order, and acknowledges them while the server makes it the master client.  If the server
grants no group, the member reads as an ordinary TFTP client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import Unsupported, WireError
from castd.interfaces import IGroupTransferHalf
from castd.outcomes import ABORTED, DONE, SILENT
from castd.packets.multicast import BDATA, MOST_BLOCKS, SBROADCAST_PORT, parseBdata, parseMulticast, parseSubnet
from castd.packets.options import AgreedOptions
from castd.packets.tftp import DATA as _DATA
from castd.packets.tftp import Data, Error, Oack, Options, TftpRequest, buildAck, buildRequest, opcode, parse
from castd.receive.base import OffsetBlock
from castd.receive.options import BadOffer, RequestedOptions
from castd.receive.retransmit import RetransmitTimer
from castd.receive.tftp import CLIENT_POLICY, TftpDownload
from castd.request import Peer

#: A listener that hears no block for so long sends its request again, and gives up after so many repetitions.
LISTENER_SILENCE, LISTENER_TRIES = 15.0, 3
#: A member dallies for so long after its last ACK, since the server may still make it the master.  Seconds.
DALLY = 2.0


class GroupDownload(ABC):
    """
    The client's half of a read by a group, or by unicast where the server grants no group.

    @cvar option: the option that asks for a group.
    @ivar master: this client is the master client, which acknowledges blocks.
    @ivar group, tid: as L{IGroupTransferHalf}.
    @ivar blocks: how many different blocks have come.
    @ivar repeats: how often a timer repeated a datagram.
    """

    option = ""

    def __init__(
        self, name: str, requested: RequestedOptions, policy: RetransmitPolicy = CLIENT_POLICY, value: str = ""
    ) -> None:
        """
        @param value: the value of the option that asks for a group.
        """
        self.group: tuple[str, int] | None = None
        self.tid: Peer | None = None
        self.outcome: str | None = None
        self.complete = self.master = False
        self.size: int | None = None
        self.error: Error | None = None
        self.terms: AgreedOptions | None = None
        self.blocks = self.repeats = 0
        self._requested = requested
        self._unicast = TftpDownload(name, requested, "octet", policy)
        self._isUnicast = False
        self._repeatedBefore = 0  # requests that were repeated before the server has answered by unicast
        self._opening = buildRequest(TftpRequest(False, name, "octet", (*requested.options(), (self.option, value))))
        self._timer = RetransmitTimer(policy)
        self._heardAt = 0.0
        self._tries = 0
        self._have = bytearray(MOST_BLOCKS + 2)
        self._firstMissing = 1
        self._count: int | None = None
        self._dallyUntil: float | None = None

    @abstractmethod
    def _readGroup(self, value: str) -> bool:
        """
        Parse the value of the option, and keep the group that it names.

        @return: whether this client is the master client.
        @raise WireError: the value cannot be read.
        """

    @abstractmethod
    def _parseBlock(self, datagram: bytes, peer: Peer | None) -> Data | None:
        """
        Parse a block of this group; L{None}: the datagram is no such block.

        @param peer: the sender of the datagram.
        @raise WireError: the datagram cannot be read.
        """

    def begin(self, now: float) -> list[bytes]:
        """Return the request."""
        self._heardAt = now
        self._timer.start(now)
        self._unicast.begin(now)
        return [self._opening]

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram sent to this client alone: an answer, or a block for a client that hears no group.

        @return: (payload to store or L{None}, datagrams to send).
        @raise WireError: the datagram cannot be read.
        @raise BadOffer: an OACK grants what was not asked for.
        """
        if self._isUnicast:
            return self._receiveUnicast(datagram, now)
        if self.terms is not None and (block := self._parseBlock(datagram, self.tid)) is not None:
            return self._receiveBlock(block, self.terms, now)
        packet = parse(datagram)
        if self.outcome is not None:
            return None, []
        if isinstance(packet, Error):
            self.error, self.outcome = packet, ABORTED if self._dallyUntil is None else DONE
            return None, []
        if isinstance(packet, Oack):
            value = next((text for name, text in packet.options if name.lower() == self.option), None)
            if value is not None:
                return None, self._oackReceived(packet.options, value, now)
        if self.terms is not None:
            raise WireError("no part of a group's talk")
        self._isUnicast, self._repeatedBefore = True, self.repeats
        return self._receiveUnicast(datagram, now)

    def receiveFromGroup(self, datagram: bytes, peer: Peer, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram sent to the group.

        @return: as L{receive}.
        @raise WireError: the datagram cannot be read.
        """
        if self.outcome is not None or self.terms is None:
            return None, []
        block = self._parseBlock(datagram, peer)
        return (None, []) if block is None else self._receiveBlock(block, self.terms, now)

    def stored(self, now: float) -> list[bytes]:
        """Begin to dally, since everything is stored.  -> the last ACK, sent again if the server asks for it."""
        if self._isUnicast:
            datagrams = self._unicast.stored(now)
            self._copyUnicast()
            return datagrams
        self._dallyUntil = now + DALLY
        return [self._ack()]

    def poll(self, now: float) -> list[bytes]:
        """Return datagrams to repeat now.  Sets C{outcome} when the server was silent for too long."""
        if self._isUnicast:
            datagrams = self._unicast.poll(now)
            self._copyUnicast()
            return datagrams
        if self._dallyUntil is not None:
            self.outcome = DONE if now >= self._dallyUntil else self.outcome
            return []
        if self.outcome is not None or self.complete:
            return []
        return self._pollListener(now) if self.terms is not None and not self.master else self._pollMaster(now)

    def deadline(self, now: float) -> float | None:
        """Return the instant at which L{poll} is due; L{None}: no timer runs."""
        if self._isUnicast:
            return self._unicast.deadline(now)
        if self.outcome is not None:
            return None
        if self._dallyUntil is not None or self.complete:
            return self._dallyUntil
        if self.terms is not None and not self.master:
            return self._heardAt + LISTENER_SILENCE
        return self._timer.deadline()

    def _receiveUnicast(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        received = self._unicast.receive(datagram, now)
        self._copyUnicast()
        return received

    def _copyUnicast(self) -> None:
        """Copy the public attributes of the unicast half, which has taken over."""
        half = self._unicast
        self.outcome, self.complete, self.size = half.outcome, half.complete, half.size
        self.error, self.terms, self.blocks = half.error, half.terms, half.blocks
        self.repeats = self._repeatedBefore + half.repeats

    def _oackReceived(self, options: Options, value: str, now: float) -> list[bytes]:
        """
        Return the ACK of an OACK; the first OACK opens the transfer, a later one only makes or unmakes the master.
        """
        others = tuple((name, text) for name, text in options if name.lower() != self.option)
        agreed = self._requested.agree(others)
        try:
            self.master = self._readGroup(value)
        except WireError as error:
            raise BadOffer(why=str(error)) from None
        if self.terms is None:
            self.terms, self.size = agreed, agreed.tsize
            self._count = None if self.size is None else self.size // agreed.blksize + 1
        self._heardAt, self._tries = now, 0
        self._timer.progressed(now)
        self._timer.sent(now)
        if self.complete:
            # Only once the file is stored: an earlier ACK would tell the server that it is.
            return [self._ack()] if self._dallyUntil is not None else []
        return [self._ack() if self.master else buildAck(0)]

    def _receiveBlock(self, block: Data, terms: AgreedOptions, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        """Return (the block if it is new or L{None}, the ACK of a new block if this client is the master)."""
        if len(block.payload) > terms.blksize:
            raise Unsupported(why=f"a block of {len(block.payload)} octets where {terms.blksize} were agreed on")
        number, last = block.number, len(block.payload) < terms.blksize
        if (
            number < 1
            or number > (self._count or MOST_BLOCKS)
            or (self._count is not None and last != (number == self._count))
        ):
            raise WireError(f"DATA {number} is no block of this file")
        self._heardAt, self._tries = now, 0
        if self._have[number]:
            return None, []
        self._have[number] = 1
        self.blocks += 1
        if last:
            self._count = number
        self._firstMissing = self._have.find(0, self._firstMissing)
        self.complete = self._count is not None and self.blocks == self._count
        self._timer.progressed(now)
        replies = []
        if self.master and not self.complete:
            self._timer.sent(now)
            replies = [self._ack()]
        return OffsetBlock((number - 1) * terms.blksize, block.payload), replies

    def _ack(self) -> bytes:
        """Return the ACK of all blocks before the first missing one."""
        return buildAck(self._firstMissing - 1)

    def _pollMaster(self, now: float) -> list[bytes]:
        """Return the request or the last ACK again, when it is time."""
        if self._timer.exhausted(now):
            self.outcome = SILENT
        elif self._timer.due(now):
            self._timer.repeated(now)
            self.repeats += 1
            return [self._ack() if self.terms is not None else self._opening]
        return []

    def _pollListener(self, now: float) -> list[bytes]:
        """Return the request again, after a long silence."""
        if now < self._heardAt + LISTENER_SILENCE:
            return []
        self._heardAt = now
        self._tries += 1
        if self._tries > LISTENER_TRIES:
            self.outcome = SILENT
            return []
        self.repeats += 1
        return [self._opening]


@implementer(IGroupTransferHalf)
class MulticastDownload(GroupDownload):
    """The client's half of RFC 2090: accepts only blocks from the address and port of the server's answer."""

    option = "multicast"

    def _readGroup(self, value: str) -> bool:
        offer = parseMulticast(value)
        self.group = offer.group or self.group
        return offer.master

    def _parseBlock(self, datagram: bytes, peer: Peer | None) -> Data | None:
        if opcode(datagram) != _DATA or (self.tid is not None and (peer is None or peer[:2] != self.tid[:2])):
            return None
        packet = parse(datagram)
        return packet if isinstance(packet, Data) else None


@implementer(IGroupTransferHalf)
class SbroadcastDownload(GroupDownload):
    """
    The client's half of IBM's subnet broadcast.  The process must be allowed to bind port 247.

    A block is accepted by its identifier and source port, since a server with several addresses may send from any.
    """

    option = "sbroadcast"

    def __init__(
        self,
        name: str,
        mask: str,
        requested: RequestedOptions | None = None,
        policy: RetransmitPolicy = CLIENT_POLICY,
        code: int = BDATA,
        flags: tuple[str, str] = ("0", "1"),
    ) -> None:
        """
        @param mask: the netmask of this client's subnet, a dotted quad.
        @param code: the opcode of data packets.
        @param flags: the values by which the server marks a listener and the master.
        """
        super().__init__(name, requested or RequestedOptions(blksize=1464), policy, mask)
        self.group = ("", SBROADCAST_PORT)
        self._sbid: int | None = None
        self._code = code
        self._flags = flags

    def _readGroup(self, value: str) -> bool:
        offer = parseSubnet(value, *self._flags)
        # What is empty is as before.
        self.group = self.group if offer.port is None else ("", offer.port)
        self._sbid = self._sbid if offer.sbid is None else offer.sbid
        return offer.master

    def _parseBlock(self, datagram: bytes, peer: Peer | None) -> Data | None:
        if opcode(datagram) != self._code or (self.tid is not None and (peer is None or peer[1] != self.tid[1])):
            return None
        block = parseBdata(datagram, self._code)
        return Data(block.number, block.payload) if block.sbid == self._sbid else None
