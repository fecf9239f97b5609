"""
Who a cast is for, and whom it answers to: its receivers, and the listener it belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from castd.errors import WireError
from castd.request import Peer, Request

if TYPE_CHECKING:
    from castd.server.cast_protocol import CastProtocol


class CastOwner(Protocol):
    """What a cast asks of the listener it belongs to."""

    @property
    def draining(self) -> bool:
        """Nobody new is taken in."""

    def castAsked(self, datagram: bytes, peer: Peer) -> None:
        """A member of the cast sent a request."""

    def castLeft(self, cast: CastProtocol, request: Request, outcome: str) -> None:
        """A receiver's part has ended."""

    def castClosed(self, cast: CastProtocol) -> None:
        """Nobody is left."""

    def mayAnswerStranger(self, peer: Peer) -> bool:
        """May a foreign transfer id be told so?"""

    def malformed(self, datagram: bytes, peer: Peer, error: WireError) -> None:
        """Count a datagram that says nothing."""


class Receiver:
    """
    One receiver's part, as its closing event tells it.

    @ivar since: the instant it asked.
    @ivar before: blocks, repeats and octets of the cast at that instant.
    @ivar closed: times that its port was reported closed since it was heard last.
    """

    __slots__ = ("before", "closed", "request", "since")

    def __init__(self, request: Request, since: float, before: tuple[int, int, int]) -> None:
        self.request = request
        self.since = since
        self.before = before
        self.closed = 0
