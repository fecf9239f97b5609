"""
Receives a file by SLAM: C{slam://host[:port][/[group][:port]]}.

The client sends a full list of the missing blocks, as Etherboot does.  While blocks arrive it sends a list only when
the server asks for one, as iPXE does.
"""

from __future__ import annotations

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import ContentChanged, WireError
from castd.interfaces import IGroupTransferHalf
from castd.outcomes import DONE
from castd.packets import slam
from castd.packets.options import AgreedOptions
from castd.receive.base import OffsetBlock
from castd.receive.passive import PassiveReceiver
from castd.request import Peer

#: The default group of blocks: the only one that every client knows.
GROUP = ("239.255.1.1", 10000)
#: The most blocks in a file, some 24 GB: a header may announce 2^53 octets, and each block costs an octet here.
MOST_BLOCKS = 1 << 24


@implementer(IGroupTransferHalf)
class SlamDownload(PassiveReceiver):
    """The client's half of a SLAM read: receives the only file of a port."""

    def __init__(self, policy: RetransmitPolicy, group: tuple[str, int] = GROUP) -> None:
        super().__init__(policy, group)
        self._header: slam.Header | None = None
        self._have = bytearray()

    def begin(self, now: float) -> list[bytes]:
        """Return the first list, of a client that does not know the file's size."""
        self._serverHeard(now)
        return [slam.FIRST_LIST]

    def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
        """
        Receive a datagram sent to this client alone: a status request.

        @return: (L{None}, the list of missing blocks).
        @raise WireError: the datagram is no header alone, or announces a file that is too long.
        @raise ContentChanged: the header is of another file than before.
        """
        header, end = slam.parseHeader(datagram)
        if end != len(datagram):
            raise WireError("something follows the header of a status request")
        self._checkFile(header)
        if self.complete:
            return None, []
        self._serverHeard(now)
        return None, [self._list()]

    def receiveFromGroup(self, datagram: bytes, peer: Peer, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram sent to the group: a block, asked for by this client or by another.

        @return: (the block if it is new or L{None}, nothing to send).
        @raise WireError: the datagram is no block that fits its own header.
        @raise ContentChanged: the block is of another file than before.
        """
        data = slam.parseData(datagram)
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
        End the transfer.  -> the disconnect.  It is not acknowledged; if it is lost, the server polls this client a few
        times more.
        """
        self.outcome = DONE
        return [slam.DISCONNECT]

    def _reminder(self, now: float) -> list[bytes]:
        """Return a list of missing blocks that the server has not asked for."""
        return [self._list()]

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
        if header.count > MOST_BLOCKS:
            raise WireError(f"a file of {header.count} blocks")
        if self._header is None:
            self._header, self.size = header, header.size
            self.terms = AgreedOptions(blksize=header.blocksize)
            self._have = bytearray(header.count)
        elif header != self._header:
            raise ContentChanged(why="the server has begun to send another file")

    def _list(self) -> bytes:
        if self._header is None:
            return slam.FIRST_LIST
        runs: list[range] = []
        start = self._have.find(0)
        # A list has no room for more runs than this.
        while start >= 0 and len(runs) < slam.LARGEST_DATAGRAM // 2:
            end = self._have.find(1, start)
            end = len(self._have) if end < 0 else end
            runs.append(range(start, end))
            start = self._have.find(0, end)
        return slam.buildList(runs, len(self._have) if start < 0 else 0)
