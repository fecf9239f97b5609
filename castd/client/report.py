"""
Declares the sink, the progress callback, the report and the error of a client's transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from twisted.internet.defer import Deferred

from castd.errors import CastdError
from castd.request import Peer

#: Called with (octets so far, size of the file or L{None}).
Progress: TypeAlias = Callable[[int, "int | None"], object]


class Watcher(Protocol):
    """What sees a transfer as it goes: C{castd get -v}."""

    def packet(self, sent: bool, datagram: bytes, peer: Peer) -> object:
        """Note a datagram that was sent to this peer, or has come from it."""

    def note(self, text: str) -> object:
        """Note what the client does, and why."""


class Sink(Protocol):
    """The output that a fetched file is written to."""

    def write(self, data: bytes, /) -> object:
        """Write the octets that come next."""

    def writeAt(self, offset: int, data: bytes, /) -> object:
        """Write octets at their offset; called only for schemes whose blocks come in any order."""


class TransferError(CastdError):
    """
    The failure of a transfer.

    @ivar outcome: a word of L{castd.outcomes}.
    @ivar code: the code of the server's ERROR; L{None}: the server sent none.
    @ivar early: no block had come through: the options of the request may be the reason.
    @ivar local: it is a fault of this machine's file, which the text does not name.
    """

    def __init__(
        self, outcome: str, text: str, code: int | None = None, early: bool = False, local: bool = False
    ) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.code = code
        self.early = early
        self.local = local


@dataclass(frozen=True, slots=True)
class Report:
    """
    The result of a transfer that is complete.

    @ivar octets: octets of the file.
    @ivar size: octets as the server announced them; L{None}: it announced no size.
    @ivar seconds: from the first request to the last octet.
    @ivar repeats: how often a timer made the client repeat a datagram.
    @ivar server: the address and port that the file came from, or went to.
    @ivar closed: fires when the port is closed, since the last acknowledgement need not be repeated any more.
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
