"""
What goes into a cast, what comes out, and what a wire is told of its members: plain frozen values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from castd.request import Peer

#: Runs of block numbers, ascending, not overlapping.  Numbers count from 0, whatever the wire calls them.
Ranges: TypeAlias = tuple[range, ...]


@dataclass(frozen=True, slots=True)
class RequestBlocks:
    """
    Event: a receiver says which blocks it lacks.

    @ivar ranges: the blocks asked for; empty where it only confirms that it is there.
    """

    ranges: Ranges = ()


@dataclass(frozen=True, slots=True)
class Leave:
    """
    Event: the part of a receiver is over.

    @ivar outcome: one of the words of L{castd.outcomes}.
    """

    outcome: str


@dataclass(frozen=True, slots=True)
class NewRequest:
    """No event of the cast: a wire has met a new request, which the listener is to read."""


@dataclass(frozen=True, slots=True)
class Announce:
    """
    Action: tell a receiver that it is a member, and whether it has the turn.

    @ivar master: it has the turn.
    @ivar heard: it has answered before.
    """

    peer: Peer
    master: bool
    heard: bool


@dataclass(frozen=True, slots=True)
class SendBlocks:
    """
    Action: send these blocks now.

    @ivar numbers: a C{range} with step 1.
    @ivar peer: on whose behalf they are sent; where they go (the group, or the peer) is the wire's business.
    @ivar again: they were sent before for the same request: a repetition, for the counters.
    """

    numbers: range
    peer: Peer
    again: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """
    Action: tell that the part of a receiver has ended, and forget the receiver.

    @ivar outcome: one of the words of L{castd.outcomes}.
    @ivar wants: what it still lacked, as far as it had said so (a deaf one goes on by unicast from there).
    @ivar heard: it had said something since it asked, so it is worth a farewell.
    """

    peer: Peer
    outcome: str
    wants: Ranges = ()
    heard: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Bar:
    """
    Action: tell the other transports not to serve a receiver the content of this cast, as it may lack blocks of it.

    @ivar seconds: for how long; 0: it may be served again.
    @ivar why: in plain words.
    """

    peer: Peer
    seconds: float
    why: str


Event: TypeAlias = RequestBlocks | Leave | NewRequest
Action: TypeAlias = Announce | SendBlocks | Left | Bar


@dataclass(frozen=True, slots=True)
class PeerState:
    """
    What a wire needs to know of a member to read its datagrams.

    @ivar turn: it has the turn.
    @ivar serving: the range that is being served, or L{None} before its first request for blocks.
    @ivar highestSent: the highest block number ever sent in this cast, -1 before the first.
    """

    turn: bool
    serving: range | None
    highestSent: int
