"""
Log the events of casts.

The events are structured; the observers in L{castd.observe} format them for the log and the JSON file, and count them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from castd import outcomes
from castd.packets.options import DEFAULT_BLKSIZE
from castd.request import Peer, Request, hostPort
from castd.units import showDuration

if TYPE_CHECKING:
    from castd.server.cast_protocol import CastProtocol, Receiver

_log = Logger(namespace="castd")

#: The most blocks that have different numbers of 16 bits, counted from 1.
MOST_COUNTED = 65535
#: What IPv6's least MTU of 1280 octets carries, and what most tunnels over Ethernet carry of IPv4, less the headers of
#: IP, UDP and TFTP.  Octets.
LEAST_IPV6_BLKSIZE, COMMON_TUNNEL_BLKSIZE = 1228, 1368


def groupOpened(cast: CastProtocol, difference: str) -> None:
    """
    Log that a group was opened.

    @param difference: in what it differs from another group that serves the same file name; empty: there is none.
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
    """Warn that a file has more blocks than some clients can count."""
    _log.warn(
        "{transport}: {name} has {count} blocks of {blksize}: {why}, "
        "which old clients cannot follow; a larger block size would help",
        event="rollover",
        # With a reason it is logged once a minute for each file, however often the file is asked for.
        why="the block number rolls over",
        transport=cast.name,
        name=cast.fileName,
        count=cast.wire.count,
        blksize=cast.wire.blocksize,
    )


def oversize(cast: CastProtocol, request: Request, times: int) -> None:
    """
    Warn that a client answers small datagrams, but not the first block, however often it is sent: datagrams of this
    size do not seem to reach it.
    """
    host = request.peer[0].partition("%")[0]
    smaller = LEAST_IPV6_BLKSIZE if ":" in host else COMMON_TUNNEL_BLKSIZE
    cure = smaller if cast.wire.blocksize > smaller else DEFAULT_BLKSIZE
    _log.warn(
        "{transport}: {peer} answers small datagrams, but not the first block, of {blksize} octets, which was sent "
        "{times} times: {name}; if the way does not carry that size, grant its network less: "
        "caps: [{{clients: {host}, blksize: {cure}}}]",
        event="oversize",
        transport=cast.name,
        peer=hostPort(request.peer),
        host=host,
        name=request.name,
        blksize=cast.wire.blocksize,
        times=times,
        cure=cure,
    )


def movedToUnicast(cast: CastProtocol, request: Request, deaf: bool, seconds: float) -> None:
    """
    Log that a receiver goes on by unicast.

    @param deaf: it was shown to receive nothing of the group.
    @param seconds: for how long the machine is not admitted to a group.
    """
    _log.info(
        "{transport}: {peer} {how}, goes on by unicast: {name}{remark}",
        event="moved",
        transport=cast.name,
        peer=hostPort(request.peer),
        name=request.name,
        why=outcomes.DEAF,
        how="hears no multicast" if deaf else "may not receive the group any more",
        remembered=seconds,
        remark=f"; its machine is in no group for {showDuration(seconds)}" if seconds else "",
    )


def hearsAfterAll(cast: CastProtocol, peer: Peer) -> None:
    """Log that a machine that was remembered as deaf hears a group, and may be in groups again."""
    _log.info(
        "{transport}: {peer} hears the group after all: {name}",
        event="hears",
        transport=cast.name,
        peer=hostPort(peer),
        name=cast.fileName,
    )


def receiverLeft(cast: CastProtocol, receiver: Receiver, outcome: str, now: float) -> None:
    """Log the end of a receiver's transfer: its file, time, octets and outcome."""
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
    Log the end of a group: how many blocks were sent, and how many of them were repetitions.

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
    """Return the group of a cast as text; empty: it has none."""
    return "" if cast.group is None else hostPort(cast.group)
