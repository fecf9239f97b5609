"""
The receiving half of SLAM: C{slam://host[:port][/[group][:port]]}.

It says what Etherboot's client says, a full list of what is missing, and is as quiet as iPXE's: while blocks arrive it
speaks only when it is asked.
"""

from __future__ import annotations

from zope.interface import implementer

from castd.cast.policy import RetransmitPolicy
from castd.errors import ContentChanged, WireError
from castd.interfaces import ITransferHalf
from castd.outcomes import DONE
from castd.packets import slam
from castd.packets.options import AgreedOptions
from castd.receive.passive import PassiveReceiver
from castd.receive.piece import OffsetBlock

#: Where blocks go if the URL does not say: the only group that every client knows.
GROUP = ("239.255.1.1", 10000)
#: Blocks of the longest file that is taken, some 24 GB: a header may tell of 53 bits, and each costs an octet here.
MOST_BLOCKS = 1 << 24


@implementer(ITransferHalf)
class SlamDownload(PassiveReceiver):
    """
    One file, from whatever group brings it.

    @ivar group: (address, port) to listen to.
    """

    def __init__(self, policy: RetransmitPolicy, group: tuple[str, int] = GROUP) -> None:
        super().__init__(policy)
        self.group = group
        self.terms: AgreedOptions | None = None
        self._header: slam.Header | None = None
        self._have = bytearray()

    def begin(self, now: float) -> list[bytes]:
        """-> what is said by who knows nothing yet."""
        self._hear(now)
        return [slam.FIRST_LIST]

    def receive(self, datagram: bytes, now: float) -> tuple[None, list[bytes]]:
        """
        From the server to this client alone: a question.

        @return: nothing to keep, and the answer.
        @raise WireError: not a header and nothing else, or of a file that is too long.
        @raise ContentChanged: it speaks of another file than before.
        """
        header, end = slam.parseHeader(datagram)
        if end != len(datagram):
            raise WireError("something follows the header of a status request")
        self._begun(header)
        if self.complete:
            return None, []
        self._hear(now)
        return None, [self._list()]

    def heard(self, datagram: bytes, peer: object, now: float) -> tuple[OffsetBlock | None, list[bytes]]:
        """
        From the group: a block, asked for or not.

        @return: (the block if it is new, nothing to send).
        @raise WireError: not a block of its own header.
        @raise ContentChanged: of another file than before.
        """
        data = slam.parseData(datagram)
        self._begun(data.header)
        self._hear(now)
        if self._have[data.number]:
            return None, []
        self._have[data.number] = 1
        self.blocks += 1
        self.complete = self.blocks == data.header.count
        return OffsetBlock(data.number * data.header.blocksize, data.payload), []

    def stored(self, now: float) -> list[bytes]:
        """-> the farewell; nobody acknowledges it, and one that is lost costs the server a few questions."""
        self.outcome = DONE
        return [slam.DISCONNECT]

    def _reminder(self, now: float) -> list[bytes]:
        """-> the list that nobody has asked for."""
        return [self._list()]

    def _farewell(self) -> list[bytes]:
        """-> what a client owes that gives up."""
        return [slam.DISCONNECT]

    def _begun(self, header: slam.Header) -> None:
        """
        Real clients start over when the header changes; here a file that was begun must not end as another.

        @raise WireError: more blocks than anybody would send.
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
