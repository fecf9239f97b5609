"""
The receiving half of MTFTP: C{mtftp://host[:port]/name[;group=address:port]}.

It asks at once, hears the group from then on, and says how much it has without a gap when the server has made it master
by a block to it alone, as iPXE does; so what it heard as a listener is not sent again for it.  Unlike iPXE it repeats
what was not answered.
"""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import ContentChanged, WireError
from castd.interfaces import ITransferHalf
from castd.outcomes import ABORTED, DONE
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Data, Error, TftpRequest, buildAck, buildRequest, parse
from castd.receive.passive import PassiveReceiver
from castd.receive.piece import OffsetBlock
from castd.request import Peer

#: Where files go if the URL does not say: the only place that iPXE hears.
GROUP = ("239.255.1.1", 3001)
BLKSIZE = 512
#: Acknowledgements that a master repeats until it asks anew: the server may have given it up.
STUBBORN = 2
#: A block that comes again so soon has crossed the acknowledgement.  Seconds.
CROSSING = 0.05


@implementer(ITransferHalf)
class MtftpDownload(PassiveReceiver):
    """
    One file, from whatever pass brings its blocks.

    @ivar group: (address, port) to listen to.
    """

    def __init__(self, name: str, policy: RetransmitPolicy, group: tuple[str, int] = GROUP) -> None:
        super().__init__(policy)
        self.group = group
        self.terms: AgreedOptions | None = AgreedOptions(blksize=BLKSIZE)
        self._opening = buildRequest(TftpRequest(write=False, name=name, mode="octet"))
        self._have = bytearray(0x10000)
        self._gap = 0  # blocks from the start without a gap
        self._last: int | None = None
        self._master = False
        self._source: Peer | None = None
        self._told, self._toldAt = -1, 0.0
        self._unanswered = 0

    def begin(self, now: float) -> list[bytes]:
        """-> the request."""
        self._hear(now)
        return [self._opening]

    def receive(self, datagram: bytes, now: float) -> tuple[Any, list[bytes]]:
        """
        From the server to this client alone: it is the master from now on, or refused.

        @return: (the block if it is new, the acknowledgement if one is due).
        @raise WireError: neither a block nor an ERROR.
        @raise ContentChanged: a block of another file.
        """
        packet = parse(datagram)
        if self.outcome is not None:
            return None, []
        if isinstance(packet, Error):
            self.error, self.outcome = packet, ABORTED
            return None, []
        self._master = isinstance(packet, Data) or self._master
        return self._take(packet, now)

    def heard(self, datagram: bytes, peer: Peer, now: float) -> tuple[Any, list[bytes]]:
        """
        From the group.  Nothing in a block names its file, so the first one who speaks there is the only one heard.

        @return: as L{receive}.
        @raise WireError: not a block, or not of that sender.
        @raise ContentChanged: a block of another file.
        """
        packet = parse(datagram)
        if not isinstance(packet, Data) or peer[:2] != (self._source or peer)[:2]:
            raise WireError("not a block of our sender")
        self._source = peer
        return self._take(packet, now)

    def _take(self, packet: object, now: float) -> tuple[Any, list[bytes]]:
        if not isinstance(packet, Data) or not packet.number or len(packet.payload) > BLKSIZE:
            raise WireError("not a block of MTFTP")
        number, short = packet.number, len(packet.payload) < BLKSIZE
        if self._last is not None and (number > self._last or short != (number == self._last)):
            raise ContentChanged(why="the server has begun to send another file")
        self._unanswered = 0
        self._hear(now)
        if self._have[number]:
            return None, self._answer(now, number)
        self._have[number] = 1
        self.blocks += 1
        while self._gap < 0xFFFF and self._have[self._gap + 1]:
            self._gap += 1
        if short:
            self._last, self.size = number, (number - 1) * BLKSIZE + len(packet.payload)
        self.complete = self._gap == self._last
        return OffsetBlock((number - 1) * BLKSIZE, packet.payload), [] if self.complete else self._answer(now, number)

    def _answer(self, now: float, number: int) -> list[bytes]:
        """A master acknowledges what is new, and again what comes again: its acknowledgement was lost."""
        again = number <= self._told and now >= self._toldAt + CROSSING
        return self._tell(now) if self._master and not self.complete and (self._gap > self._told or again) else []

    def _tell(self, now: float) -> list[bytes]:
        self._told, self._toldAt = self._gap, now
        return [buildAck(self._gap)]

    def stored(self, now: float) -> list[bytes]:
        """-> the last acknowledgement, of a master; a listener leaves without a word."""
        self.outcome = DONE
        return self._tell(now) if self._master else []

    def _reminder(self, now: float) -> list[bytes]:
        """-> the acknowledgement a few times, then the request."""
        self._unanswered += 1
        if self._master and self._unanswered <= STUBBORN:
            return self._tell(now)
        self._master, self._told = False, -1
        return [self._opening]
