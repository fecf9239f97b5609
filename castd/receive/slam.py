"""
Receives a file by SLAM: C{slam://host[:port][/[group][:port]]}.

The client sends a full list of the missing blocks, as Etherboot does.  While blocks arrive it sends a list only when
the server asks for one, as iPXE does; but until it was asked for the first time it lists one block again and again,
since a server that does not know of it would not ask it.
"""

from __future__ import annotations

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import ContentChanged, WireError
from castd.interfaces import IGroupTransferHalf
from castd.packets import slam
from castd.packets.options import AgreedOptions
from castd.receive.base import OffsetBlock
from castd.receive.passive import PassiveReceiver
from castd.request import Peer

#: The most blocks in a file, some 24 GB: a header may announce 2^53 octets, and each block costs an octet here.
MOST_BLOCKS = 1 << 24
#: Seconds from the first list to its repetition, while the server has not asked; each further interval is twice as
#: long, as that of reminders.
REGISTER = 0.1
#: Seconds without a block after which a client that was asked before sends a list by itself; each further interval is
#: twice as long.  iPXE waits for a second; by then several questions to it may have been lost.
SILENCE = 0.4


@implementer(IGroupTransferHalf)
class SlamDownload(PassiveReceiver):
    """The client's half of a SLAM read: receives the only file of a port."""

    def __init__(self, policy: RetransmitPolicy, group: tuple[str, int] = slam.IPXE_GROUP) -> None:
        super().__init__(policy, group)
        self._header: slam.Header | None = None
        self._headerOctets = b""
        self._have = bytearray()
        self._asked = False

    def begin(self, now: float) -> list[bytes]:
        """Return the first list, of a client that does not know the file's size."""
        self._serverHeard(now)
        return [slam.FIRST_LIST]

    @property
    def _groupUnheard(self) -> bool:
        return self._asked and not self.blocks

    def _serverHeard(self, now: float) -> None:
        """Restart the timer of the server's silence; as long as it has not asked, it may not know of this client."""
        self._heardAt = now
        if self._asked:
            self._scheduleReminder(now, SILENCE)
        elif self._header is None:
            self._scheduleReminder(now, REGISTER)

    def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
        """
        Receive a datagram sent to this client alone: a status request.

        It is no sign that the group is heard, so it does not put off the end of a client that hears no block.

        @return: (L{None}, the list of missing blocks, or the disconnect of a client that is complete).
        @raise WireError: the datagram is no header alone, or announces a file that is too long.
        @raise ContentChanged: the header is of another file than before.
        """
        header, end = slam.parseHeader(datagram)
        if end != len(datagram):
            raise WireError("something follows the header of a status request")
        if self._dallyUntil is not None:
            return None, [slam.DISCONNECT]
        self._checkFile(header)
        if self.complete:
            return None, []
        self._asked = True
        self._scheduleReminder(now, SILENCE)
        return None, [self._list()]

    def receiveFromGroup(self, datagram: bytes, peer: Peer, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram sent to the group: a block, asked for by this client or by another.

        @return: (the block if it is new or L{None}, nothing to send).
        @raise WireError: the datagram is no block that fits its own header.
        @raise ContentChanged: the block is of another file than before.
        """
        if self.complete:
            return None, []
        data = slam.parseData(datagram, self._header, self._headerOctets)
        self._checkFile(data.header)
        self._serverHeard(now)
        if self._have[data.number]:
            return None, []
        self._have[data.number] = 1
        self.blocks += 1
        self.complete = self.blocks == data.header.count
        return OffsetBlock(data.number * data.header.blocksize, data.payload), []

    def stored(self, now: float) -> list[bytes]:
        """
        Leave the group, and return the disconnect.  It is not acknowledged; as it may be lost, it is the answer to each
        question of the server for a moment.
        """
        self._dally(now)
        return [slam.DISCONNECT]

    def _reminder(self, now: float) -> list[bytes]:
        """Return a list that the server has not asked for: one block is enough for a server that knows of no client."""
        return [self._list(most=None if self._asked else 1)]

    def _farewell(self) -> list[bytes]:
        """Return the disconnect of a client that gives up."""
        return [slam.DISCONNECT]

    def _checkFile(self, header: slam.Header) -> None:
        """
        Begin the file of the first header, and check that every later header is the same.

        Real clients start over when the header changes; here the sink may have got blocks of the first file already.

        @raise WireError: the header announces more blocks than the limit.
        @raise ContentChanged: the header is of another file.
        """
        if header is self._header:
            return
        if header.count > MOST_BLOCKS:
            raise WireError(f"a file of {header.count} blocks")
        if self._header is None:
            self._header, self._headerOctets, self.size = header, header.build(), header.size
            self.terms = AgreedOptions(blksize=header.blocksize)
            self._have = bytearray(header.count)
        elif header != self._header:
            raise ContentChanged(why="the server has begun to send another file")

    def _list(self, most: int | None = None) -> bytes:
        """Build the list of the missing blocks, or of so many of them."""
        if self._header is None:
            return slam.FIRST_LIST
        runs: list[range] = []
        start = self._have.find(0)
        if most is not None:
            return slam.buildList([range(start, start + most)])
        # A list has no room for more runs than this.
        while start >= 0 and len(runs) < slam.LARGEST_DATAGRAM // 2:
            end = self._have.find(1, start)
            end = len(self._have) if end < 0 else end
            runs.append(range(start, end))
            start = self._have.find(0, end)
        return slam.buildList(runs, len(self._have) if start < 0 else 0)
