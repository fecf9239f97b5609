"""
What a transfer of the client is given and gives: where the octets go, who is told of them, and how it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from twisted.internet.defer import Deferred

from castd.errors import CastdError

#: Called with the octets so far, and the size or L{None}.
Progress: TypeAlias = Callable[[int, "int | None"], object]


class Sink(Protocol):
    """What a fetched file is written to."""

    def write(self, data: bytes, /) -> object:
        """Write the octets that come next."""

    def writeAt(self, offset: int, data: bytes, /) -> object:
        """Write octets at their offset.  Called only for schemes whose blocks come in any order."""


class TransferError(CastdError):
    """
    A transfer has failed.

    @ivar outcome: a word of L{castd.outcomes}.
    @ivar code: of the server's ERROR, L{None} if it sent none.
    """

    def __init__(self, outcome: str, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.code = code


@dataclass(frozen=True, slots=True)
class Report:
    """
    A transfer that is complete.

    @ivar octets: of the file.  @ivar size: as announced, L{None} if it was not.
    @ivar seconds: from the first request to the last octet.
    @ivar repeats: times that the client's timer made it repeat something.
    @ivar server: the address and port that the file came from, or went to.
    @ivar closed: fires when the last acknowledgement needs no repetition any more and the port is closed.
    """

    octets: int
    size: int | None
    seconds: float
    blocks: int
    repeats: int
    blksize: int | None
    windowsize: int | None
    server: tuple[str, int]
    closed: Deferred[None] = field(compare=False, repr=False)
