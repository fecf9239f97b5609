"""
The events of a cast: one place where they are emitted, so that they all look alike.

Structured and formatted late; the log, the counters and the JSON file are observers of them (L{castd.observe.format}).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from castd import outcomes
from castd.request import Request, hostPort
from castd.server.audience import Receiver

if TYPE_CHECKING:
    from castd.server.cast_protocol import CastProtocol

_log = Logger(namespace="castd")

#: Blocks that 16 bits can tell apart, counted from 1.
MOST_COUNTED = 65535


def opened(cast: CastProtocol, beside: str = "") -> None:
    """
    The event of a group's beginning, and a warning about a file that not every client can count.

    @param beside: why it is another one than that which serves the same name already.
    """
    if cast.wire.group is not None:
        _log.info(
            "{transport}: group {group} opened: {name}, {count} blocks of {blksize}{remark}",
            event="opened",
            transport=cast.name,
            name=cast.content.name,
            group=hostPort(cast.wire.group),
            count=cast.wire.count,
            blksize=cast.wire.blocksize,
            beside=beside,
            remark=beside and f", beside one of another {beside}",
        )
    elif cast.wire.count is not None and cast.wire.count > MOST_COUNTED:
        _log.warn(
            "{transport}: {name} has {count} blocks of {blksize}: the block number rolls over, "
            "which old clients cannot follow; a larger block size would help",
            event="rollover",
            transport=cast.name,
            name=cast.content.name,
            count=cast.wire.count,
            blksize=cast.wire.blocksize,
        )


def moved(cast: CastProtocol, request: Request) -> None:
    """The event of a receiver that hears no multicast."""
    _log.info(
        "{transport}: {peer} hears no multicast, goes on by unicast: {name}",
        event="moved",
        transport=cast.name,
        peer=hostPort(request.peer),
        name=request.name,
        why=outcomes.DEAF,
    )


def left(cast: CastProtocol, receiver: Receiver, outcome: str, now: float) -> None:
    """The event of a receiver's end: who, what, how long, how much, and how it ended in plain words."""
    request = receiver.request
    blocks, repeats, octets = receiver.before
    _log.info(
        "{transport}: {peer} {meaning}: {name}, "
        "{octets} octets in {seconds:.3f} s, {blocks} blocks, {repeats} repeated",
        event="received",
        transport=cast.name,
        dialect=cast.dialect.name,
        peer=hostPort(request.peer),
        name=request.name,
        outcome=outcome,
        meaning=outcomes.MEANING[outcome],
        seconds=now - receiver.since,
        size=cast.content.size,
        octets=cast.octets - octets,
        blocks=cast.blocks - blocks,
        repeats=cast.repeats - repeats,
        full=cast.full,
        blksize=cast.wire.blocksize,
        group=cast.wire.group and hostPort(cast.wire.group),
    )


def closed(cast: CastProtocol, statistics: Mapping[str, int]) -> None:
    """
    The event of a group's end: what it has cost, beside what it would cost at the least.

    @param statistics: what its cast has counted, see L{castd.interfaces.ICast.statistics}.
    """
    count = cast.wire.count
    blocks = cast.blocks - cast.beside
    once = cast.main.highestSent + 1
    _log.info(
        "{transport}: group {group} closed: {name}, {members} receivers, {blocks} blocks sent of {count}, "
        "{repairs} of them again, in {seconds:.3g} s",
        event="closed",
        transport=cast.name,
        name=cast.content.name,
        group=hostPort(cast.wire.group),
        members=cast.joined,
        count=count,
        blocks=blocks,
        repairs=max(0, blocks - once),
        repeats=cast.repeats,
        octets=cast.octets,
        full=cast.full,
        beside=cast.beside,
        moved=", ".join(f"{number} {why}" for why, number in cast.moved.items()),
        seconds=cast.site.reactor.seconds() - cast.opened,
        **statistics,
    )
