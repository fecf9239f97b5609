"""
Event log: the events of a cast, emitted in one place so that they all look alike.

They are structured and formatted late; the log, the counters and the JSON file are observers of them
(L{castd.observe.format}).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from castd import outcomes
from castd.request import Request, hostPort

if TYPE_CHECKING:
    from castd.server.cast_protocol import CastProtocol, Receiver

_log = Logger(namespace="castd")

#: Blocks that 16 bits can tell apart, counted from 1.
MOST_COUNTED = 65535


def groupOpened(cast: CastProtocol, difference: str) -> None:
    """
    Log that a group begins.

    @param difference: in what it differs from another group that serves the same name already; empty: there is none.
    """
    _log.info(
        "{transport}: group {group} opened: {name}, {count} blocks of {blksize}{remark}",
        event="opened",
        transport=cast.name,
        name=cast.fileName,
        group=_group(cast),
        count=cast.wire.count,
        blksize=cast.wire.blocksize,
        beside=difference,
        remark=difference and f", beside one of another {difference}",
    )


def rollover(cast: CastProtocol) -> None:
    """Warn that a file has more blocks than every client can count."""
    _log.warn(
        "{transport}: {name} has {count} blocks of {blksize}: the block number rolls over, "
        "which old clients cannot follow; a larger block size would help",
        event="rollover",
        transport=cast.name,
        name=cast.fileName,
        count=cast.wire.count,
        blksize=cast.wire.blocksize,
    )


def movedToUnicast(cast: CastProtocol, request: Request) -> None:
    """Log that a receiver hears no multicast."""
    _log.info(
        "{transport}: {peer} hears no multicast, goes on by unicast: {name}",
        event="moved",
        transport=cast.name,
        peer=hostPort(request.peer),
        name=request.name,
        why=outcomes.DEAF,
    )


def receiverLeft(cast: CastProtocol, receiver: Receiver, outcome: str, now: float) -> None:
    """Log the end of a receiver: who, what, how long, how much, and how it ended in plain words."""
    request = receiver.request
    blocks, repeats, octets = receiver.progressBefore
    _log.info(
        "{transport}: {peer} {meaning}: {name}, "
        "{octets} octets in {seconds:.3f} s, {blocks} blocks, {repeats} repeated",
        event="received",
        transport=cast.name,
        dialect=cast.entry.dialect.name,
        peer=hostPort(request.peer),
        name=request.name,
        outcome=outcome,
        meaning=outcomes.MEANING[outcome],
        seconds=now - receiver.since,
        size=cast.size,
        octets=cast.octets - octets,
        blocks=cast.blocks - blocks,
        repeats=cast.repeats - repeats,
        full=cast.full,
        blksize=cast.wire.blocksize,
        group=_group(cast) or None,
    )


def groupClosed(cast: CastProtocol, statistics: Mapping[str, int]) -> None:
    """
    Log the end of a group: what it has cost, beside what it would cost at the least.

    @param statistics: what its cast has counted, see L{castd.interfaces.ICast.statistics}.
    """
    blocks = cast.blocks - cast.fallbackBlocks
    once = cast.mainCast.highestSent + 1
    _log.info(
        "{transport}: group {group} closed: {name}, {members} receivers, {blocks} blocks sent of {count}, "
        "{repairs} of them again, in {seconds:.3g} s",
        event="closed",
        transport=cast.name,
        name=cast.fileName,
        group=_group(cast),
        members=cast.joined,
        count=cast.wire.count,
        blocks=blocks,
        repairs=max(0, blocks - once),
        repeats=cast.repeats,
        octets=cast.octets,
        full=cast.full,
        beside=cast.fallbackBlocks,
        moved=", ".join(f"{number} {why}" for why, number in cast.fallbackReasons.items()),
        seconds=cast.site.reactor.seconds() - cast.opened,
        **statistics,
    )


def _group(cast: CastProtocol) -> str:
    """-> its group as text; empty: it has none."""
    return "" if cast.group is None else hostPort(cast.group)
