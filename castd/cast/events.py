"""
What goes into a cast, what comes out, and how patient it is: plain frozen values.
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
    A receiver says what it lacks.

    @ivar ranges: the blocks asked for; empty where it only confirms that it is there.
    @ivar answers: it answers a question of the server (SLAM: a status request) asked after the last block it is about.
    """

    ranges: Ranges = ()
    answers: bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """A receiver's part is over; C{outcome} is one of the words of L{castd.outcomes}."""

    outcome: str


@dataclass(frozen=True, slots=True)
class NewRequest:
    """Not an event of the cast at all: a request, to be read as one by the listener."""


@dataclass(frozen=True, slots=True)
class Announce:
    """
    Tell this peer that it is in.

    @ivar master: it has the turn.
    @ivar heard: it has answered before.
    """

    peer: Peer
    master: bool
    heard: bool


@dataclass(frozen=True, slots=True)
class SendBlocks:
    """
    Send these blocks now.

    @ivar numbers: a C{range} with step 1.
    @ivar peer: on whose behalf; where it goes (the group, or the peer) is the wire's business.
    @ivar again: they were sent before for the same want: a repetition, for the counters.
    """

    numbers: range
    peer: Peer
    again: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """
    A receiver's part has ended.

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
    Tell the other transports that this receiver may be left with a hole, and is not to be served what it is getting.

    @ivar seconds: for how long; 0: it is well again.
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
    @ivar serving: the range that is being served, or L{None} before the first want.
    @ivar highestSent: the highest block number ever sent in this cast, -1 before the first.
    """

    turn: bool
    serving: range | None
    highestSent: int
