"""
Receives a file by MTFTP: C{mtftp://host[:port]/name[;group=address:port]}.

The client sends its request at once and listens to the group from then on.  A block sent to the client alone makes it
the master.  Then it acknowledges the blocks that it has without a gap, as iPXE does, so that blocks that it heard as a
listener are not sent again for it.  Unlike iPXE it repeats an ACK that was not answered.
"""

from __future__ import annotations

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import ContentChanged, WireError
from castd.interfaces import IGroupTransferHalf
from castd.outcomes import ABORTED
from castd.packets.mtftp import BLKSIZE, IPXE_GROUP
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Data, Error, TftpRequest, buildAck, buildRequest, parse
from castd.receive.base import OffsetBlock
from castd.receive.passive import REMINDER, PassiveReceiver
from castd.request import Peer

#: So often a master repeats its ACK; then it sends its request anew, since the server may have given it up.
ACK_REPEATS = 2
#: A block that comes again within this time after the ACK has crossed it.  Seconds.
CROSSING = 0.05


@implementer(IGroupTransferHalf)
class MtftpDownload(PassiveReceiver):
    """The client's half of an MTFTP read: takes each missing block from any pass over the file."""

    def __init__(self, name: str, policy: RetransmitPolicy, group: tuple[str, int] = IPXE_GROUP) -> None:
        super().__init__(policy, group)
        self.terms = AgreedOptions(blksize=BLKSIZE)
        self._opening = buildRequest(TftpRequest(write=False, name=name, mode="octet"))
        self._have = bytearray(0x10000)
        self._inOrder = 0  # blocks from the start without a gap
        self._last: int | None = None
        self._master = False
        self._source: Peer | None = None
        self._acked, self._ackedAt = -1, 0.0
        self._unanswered = 0

    def begin(self, now: float) -> list[bytes]:
        """Return the request."""
        self._serverHeard(now)
        return [self._opening]

    def receive(self, datagram: bytes, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram sent to this client alone: a block makes it the master, an ERROR refuses its request.

        A block that it has is no sign that the group is heard, so it does not put off the end of a client that hears
        nothing of the group.

        @return: (the block if it is new, the ACK if one is due).
        @raise WireError: the datagram is neither a block nor an ERROR.
        @raise ContentChanged: the block is of another file.
        """
        packet = parse(datagram)
        if self.outcome is not None:
            return None, []
        if self._dallyUntil is not None:
            self._master = isinstance(packet, Data) or self._master
            return None, self._ackIfDue(now, self._inOrder) if isinstance(packet, Data) else []
        if isinstance(packet, Error):
            self.error, self.outcome = packet, ABORTED
            return None, []
        self._master = isinstance(packet, Data) or self._master
        return self._receiveBlock(packet, now, True)

    def receiveFromGroup(self, datagram: bytes, peer: Peer, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram sent to the group.  A block does not name its file, so only the first sender is accepted.

        @return: as L{receive}.
        @raise WireError: the datagram is no block, or comes from another sender.
        @raise ContentChanged: the block is of another file.
        """
        packet = parse(datagram)
        if not isinstance(packet, Data) or peer[:2] != (self._source or peer)[:2]:
            raise WireError("not a block of our sender")
        self._source = peer
        return self._receiveBlock(packet, now, False)

    def _receiveBlock(self, packet: object, now: float, alone: bool) -> tuple[OffsetBlock | None, list[bytes]]:
        if not isinstance(packet, Data) or not packet.number or len(packet.payload) > BLKSIZE:
            raise WireError("not a block of MTFTP")
        number, short = packet.number, len(packet.payload) < BLKSIZE
        if self._last is not None and (number > self._last or short != (number == self._last)):
            raise ContentChanged(why="the server has begun to send another file")
        self._unanswered = 0
        if self._have[number] and alone:
            self._scheduleReminder(now, REMINDER)
        else:
            self._serverHeard(now)
        if self._have[number]:
            return None, self._ackIfDue(now, number)
        self._have[number] = 1
        self.blocks += 1
        while self._inOrder < 0xFFFF and self._have[self._inOrder + 1]:
            self._inOrder += 1
        if short:
            self._last, self.size = number, (number - 1) * BLKSIZE + len(packet.payload)
        self.complete = self._inOrder == self._last
        block = OffsetBlock((number - 1) * BLKSIZE, packet.payload)
        return block, [] if self.complete else self._ackIfDue(now, number)

    def _ackIfDue(self, now: float, number: int) -> list[bytes]:
        """
        Return the ACK of a master for a new block, and for one that comes again since the ACK was lost; else none, and
        none of the last block before all is stored.
        """
        if not self._master or (self.complete and self._dallyUntil is None):
            return []
        again = number <= self._acked and now >= self._ackedAt + CROSSING
        return self._ack(now) if self._inOrder > self._acked or again else []

    def _ack(self, now: float) -> list[bytes]:
        self._acked, self._ackedAt = self._inOrder, now
        return [buildAck(self._inOrder)]

    def stored(self, now: float) -> list[bytes]:
        """
        Begin to dally.  -> the last ACK of a master.  A listener sends it when a block comes to it alone: the server
        has made it the master before that, or does so only then.
        """
        self._dally(now)
        return self._ack(now) if self._master else []

    @property
    def _groupUnheard(self) -> bool:
        return self.blocks > 0 and self._source is None

    def _reminder(self, now: float) -> list[bytes]:
        """Return the ACK of a master, for a few times, then the request."""
        self._unanswered += 1
        if self._master and self._unanswered <= ACK_REPEATS:
            return self._ack(now)
        self._master, self._acked = False, -1
        return [self._opening]
