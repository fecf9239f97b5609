"""
The receiving half of SLAM: C{slam://host[:port][/[group][:port]]}.

It says what Etherboot's client says, a full list of what is missing, and is as quiet as iPXE's: while blocks arrive it
speaks only when it is asked.
"""

from __future__ import annotations

from zope.interface import implementer

from castd.cast.events import Patience
from castd.collect.piece import Piece
from castd.errors import ContentChanged, WireError
from castd.interfaces import IIntake
from castd.negotiate import Terms
from castd.outcomes import DONE, SILENT
from castd.packets import slam
from castd.packets.tftp import Error

#: Where blocks go if the URL does not say: the only group that every client knows.
GROUP = ("239.255.1.1", 10000)
#: Seconds without a block until it speaks of its own accord, twice as long each time up to the second.
SPEAK, LONGEST_SPEAK = 1.0, 4.0
#: Blocks of the longest file that is taken, some 24 GB: a header may tell of 53 bits, and each costs an octet here.
MOST_BLOCKS = 1 << 24


@implementer(IIntake)
class Download:
    """
    One file, from whatever group brings it.

    @ivar group: (address, port) to listen to.
    @ivar blocks: how many different ones have come; C{repeats}: lists that nobody had asked for, but the first.
    """

    def __init__(self, patience: Patience, group: tuple[str, int] = GROUP) -> None:
        self.group = group
        self.outcome: str | None = None
        self.complete = False
        self.size: int | None = None
        self.error: Error | None = None
        self.terms: Terms | None = None
        self.blocks = self.repeats = 0
        self._silence = patience.silence
        self._header: slam.Header | None = None
        self._have = bytearray()
        self._heardAt = self._speakAt = 0.0
        self._pause = SPEAK

    def begin(self, now: float) -> list[bytes]:
        """-> what is said by who knows nothing yet."""
        self._heardAt = now
        self._wait(now, SPEAK)
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
        self._heardAt = now
        self._wait(now, SPEAK)
        return None, [self._list()]

    def heard(self, datagram: bytes, peer: object, now: float) -> tuple[Piece | None, list[bytes]]:
        """
        From the group: a block, asked for or not.

        @return: (the block if it is new, nothing to send).
        @raise WireError: not a block of its own header.
        @raise ContentChanged: of another file than before.
        """
        data = slam.parseData(datagram)
        self._begun(data.header)
        self._heardAt = now
        self._wait(now, SPEAK)
        if self._have[data.number]:
            return None, []
        self._have[data.number] = 1
        self.blocks += 1
        self.complete = self.blocks == data.header.count
        return Piece(data.number * data.header.blocksize, data.payload), []

    def stored(self, now: float) -> list[bytes]:
        """-> the farewell; nobody acknowledges it, and one that is lost costs the server a few questions."""
        self.outcome = DONE
        return [slam.DISCONNECT]

    def poll(self, now: float) -> list[bytes]:
        """-> the list, if nothing has come for a while.  Gives up in the end, with the farewell that clients owe."""
        if self.outcome is not None or self.complete:
            return []
        if now >= self._heardAt + self._silence:
            self.outcome = SILENT
            return [slam.DISCONNECT]
        if now < self._speakAt:
            return []
        self.repeats += 1
        self._wait(now, min(self._pause * 2, LONGEST_SPEAK))
        return [self._list()]

    def deadline(self, now: float) -> float | None:
        """-> the instant to poll again at."""
        if self.outcome is not None or self.complete:
            return None
        return min(self._speakAt, self._heardAt + self._silence)

    def _wait(self, now: float, pause: float) -> None:
        self._pause = pause
        self._speakAt = now + pause

    def _begun(self, header: slam.Header) -> None:
        """
        Real clients start over when the header changes; here a file that was begun must not end as another.

        @raise WireError: more blocks than anybody would send.
        """
        if header.count > MOST_BLOCKS:
            raise WireError(f"a file of {header.count} blocks")
        if self._header is None:
            self._header, self.size = header, header.size
            self.terms = Terms(blksize=header.blocksize)
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
