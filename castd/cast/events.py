"""
Define the events that a cast handles, the actions that it returns, and the state of a member that a wire needs.
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
    Event: a receiver asks for blocks.

    @ivar ranges: the blocks asked for; empty: the receiver only confirms its announcement, or lists no block.
    """

    ranges: Ranges = ()


@dataclass(frozen=True, slots=True)
class Leave:
    """
    Event: a receiver leaves the cast.

    @ivar outcome: one of the words of L{castd.outcomes}.
    @ivar code, text: the ERROR that the receiver has sent, for the log; L{None}: it has sent none.
    """

    outcome: str
    code: int | None = field(default=None, compare=False)
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class NewRequest:
    """Result of L{IWire.receive}: the datagram is a new request, for the listener and not for the cast."""


@dataclass(frozen=True, slots=True)
class Announce:
    """
    Action: tell a receiver that it is a member, and whether it has the turn.

    @ivar peer: the receiver.
    @ivar master: the receiver has the turn.
    @ivar heard: the receiver has answered before.
    """

    peer: Peer
    master: bool
    heard: bool


@dataclass(frozen=True, slots=True)
class SendBlocks:
    """
    Action: send these blocks now.

    @ivar numbers: a C{range} with step 1.
    @ivar peer: the receiver that has asked for them; L{IWire.address} has the address to send them to.
    @ivar again: the blocks are a repetition, for the counters.
    """

    numbers: range
    peer: Peer
    again: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """
    Action: tell a receiver that its transfer has ended, and remove the receiver.

    @ivar peer: the receiver.
    @ivar outcome: one of the words of L{castd.outcomes}.
    @ivar wants: the blocks that it still lacked, as far as it had asked for them.  A receiver that does not hear the
        group goes on by unicast from there.
    @ivar heard: it had sent something since its request; if not, the request may be forged.
    @ivar deaf: it was shown to receive nothing that is sent to the group; another that goes on by unicast has received
        blocks of it before, or is only assumed to be deaf.
    @ivar repeated: how often it has repeated its request for C{wants}, for the log.
    @ivar copies: how often the first of C{wants} was sent since it asked for them, for the log.
    @ivar sent: it may have received everything: all that it lacked was sent to the group, and if it was silent in its
        turn, then only after the last block.
    """

    peer: Peer
    outcome: str
    wants: Ranges = ()
    heard: bool = field(default=True, compare=False)
    deaf: bool = field(default=False, compare=False)
    repeated: int = field(default=0, compare=False)
    copies: int = field(default=0, compare=False)
    sent: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Bar:
    """
    Action: keep other transports from serving a receiver this file, as it may lack blocks and start an incomplete
    image.

    @ivar peer: the receiver.
    @ivar seconds: for how long; 0: other transports may serve it again.
    @ivar why: the reason, for the log.
    """

    peer: Peer
    seconds: float
    why: str


Event: TypeAlias = RequestBlocks | Leave | NewRequest
Action: TypeAlias = Announce | SendBlocks | Left | Bar


@dataclass(frozen=True, slots=True)
class PeerState:
    """
    Holds what a wire needs to know of a member to parse its datagrams.

    @ivar turn: the member has the turn.
    @ivar serving: the blocks that are being sent for it; L{None}: it has not the turn, or has not asked for blocks.
    @ivar highestSent: the highest block number ever sent in this cast; -1 before the first.
    """

    turn: bool
    serving: range | None
    highestSent: int
