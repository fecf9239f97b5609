"""
The receiving half of SLAM: C{slam://host[:port][/[group][:port]]}.

The client sends a full list of the missing blocks, as Etherboot's does, and is as quiet as iPXE's: while blocks arrive
it sends a list only when it is asked for one.
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

#: Where blocks go if the URL does not say: the only group that every client knows.
GROUP = ("239.255.1.1", 10000)
#: Blocks of the longest file that is taken, some 24 GB: a header may tell of 53 bits, and each costs an octet here.
MOST_BLOCKS = 1 << 24


@implementer(IGroupTransferHalf)
class SlamDownload(PassiveReceiver):
    """The client's half of a SLAM read: takes the one file of a port."""

    def __init__(self, policy: RetransmitPolicy, group: tuple[str, int] = GROUP) -> None:
        super().__init__(policy, group)
        self._header: slam.Header | None = None
        self._have = bytearray()

    def begin(self, now: float) -> list[bytes]:
        """-> the list of a client that knows nothing of the file yet."""
        self._serverHeard(now)
        return [slam.FIRST_LIST]

    def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
        """
        Receive a datagram sent to this client alone: a status request.

        @return: (L{None}, the list of missing blocks).
        @raise WireError: not a header and nothing else, or of a file that is too long.
        @raise ContentChanged: it speaks of another file than before.
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
        Receive a datagram sent to the group: a block, asked for or not.

        @return: (the block if it is new or L{None}, nothing to send).
        @raise WireError: not a block of its own header.
        @raise ContentChanged: of another file than before.
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
        End the transfer.  -> the disconnect; nobody acknowledges it, and one that is lost costs the server a few
        questions.
        """
        self.outcome = DONE
        return [slam.DISCONNECT]

    def _reminder(self, now: float) -> list[bytes]:
        """-> a list that the server has not asked for."""
        return [self._list()]

    def _farewell(self) -> list[bytes]:
        """-> the disconnect of a client that gives up."""
        return [slam.DISCONNECT]

    def _checkFile(self, header: slam.Header) -> None:
        """
        Begin the file of the first header, and see that every later header is the same.

        Real clients start over when the header changes; here a file that was begun must not end as another.

        @raise WireError: more blocks than anybody would send.
        @raise ContentChanged: it is the header of another file.
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
        # More runs than this do not fit into a list.
        while start >= 0 and len(runs) < slam.LARGEST_DATAGRAM // 2:
            end = self._have.find(1, start)
            end = len(self._have) if end < 0 else end
            runs.append(range(start, end))
            start = self._have.find(0, end)
        return slam.buildList(runs, len(self._have) if start < 0 else 0)
