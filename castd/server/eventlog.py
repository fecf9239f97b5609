"""
Log the events of casts, uploads and requests.

The events are structured; the observers in L{castd.observe} format them for the log and the JSON file, and count them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from math import ceil
from time import time
from typing import TYPE_CHECKING, NamedTuple

from twisted.logger import LogEvent, Logger, LogLevel

from castd import outcomes
from castd.errors import CastdError, Denied, Refused
from castd.interfaces import INegotiatingWire, IWire, Near
from castd.net.faults import askPlugin
from castd.request import Peer, Request, hostPort
from castd.units import showDuration
from castd.verdicts import Facts, Verdict, clip, fieldsOf, isWell, judge, verdictFields

if TYPE_CHECKING:
    from castd.server.cast_protocol import CastProtocol, Receiver

_log = Logger(namespace="castd")

#: What an observer without a format of its own says of a transfer that has ended.
_RECEIVED = (
    "{transport}: {peer} {meaning}: {name}, {octets} octets in {seconds:.3f} s, {blocks} blocks, {repeats} repeated"
)
#: How an attempt ends whose first block has not arrived.
_IN_VAIN = frozenset({outcomes.REPLACED, outcomes.SILENT})
#: The most blocks that have different numbers of 16 bits, counted from 1.
MOST_COUNTED = 65535


class Ending(NamedTuple):
    """
    Holds what was seen of a receiver whose transfer has ended.

    @ivar outcome: one of the words of L{castd.outcomes}.
    @ivar lastBlockAt: the instant at which the last block was sent, to it or to its group; minus infinity: none was.
    @ivar heard: it has sent something since its request.
    @ivar lacks, sent, repeated: as of L{Facts<castd.verdicts.Facts>}.
    @ivar why: why the server has ended it; C{""}: the outcome says all.
    @ivar removed: the outcome that its farewell is by; C{""}: the same one.
    """

    outcome: str
    lastBlockAt: float
    heard: bool = True
    lacks: int | None = None
    sent: int = 0
    repeated: int = 0
    why: str = ""
    removed: str = ""


# What one type of machine asks for, and what it is granted, is the same for all of its kind.
@lru_cache(256)
def showOptions(options: tuple[tuple[str, str], ...]) -> str | None:
    """Write options as C{blksize=1468 tsize=0}; L{None}: there are none."""
    return clip(" ".join(f"{name}={value}" for name, value in options)) or None


def requestFields(request: Request) -> dict[str, object]:
    """Return the fields that every event about a request has."""
    trace, name = request.trace, request.name
    asked = trace.places[-1:] if trace.found else trace.places
    fields: dict[str, object] = {
        "peer": hostPort(request.peer),
        "name": name,
        "write": request.write,
        "mode": request.mode,
    }
    # What is not known is left out: each field costs time in each output.
    if (options := showOptions(request.options)) is not None:
        fields["options"] = options
    if request.quirks is not None:
        fields["profiles"] = ", ".join(request.quirks.profiles)
    if request.sentName is not None:
        fields["sent_name"] = clip(request.sentName)
    paths = []
    for _, locate in asked:
        # A fault of a plugin costs the event a field, and not a transfer its end: whoever ends it has to go on.
        if locate is not None and (path := askPlugin(partial(locate, name), "", "a path cannot be told")):
            paths.append(path)
    if paths:
        fields["path"] = clip(", ".join(paths))
    if trace.found and asked and asked[-1][0]:
        fields["source"] = asked[-1][0]
    return fields


def requested(transport: str, request: Request) -> None:
    """Log a request, at debug level."""
    _log.debug(
        "{transport}: {peer} asks to {verb} {name} ({asked})",
        event="request",
        transport=transport,
        verb="write" if request.write else "read",
        asked=", ".join(filter(None, (request.mode, showOptions(request.options)))),
        **requestFields(request),
    )


_UNTOLD = " (no ERROR was sent: {limit} is reached)"


def refused(
    transport: str, request: Request | None, peer: Peer, error: Refused, near: Near | None = None, limit: str = ""
) -> None:
    """
    Log that a request is refused.

    @param request: L{None}: it could not be read.
    @param near: the file that was probably meant.
    @param limit: the key of the limit for which no ERROR was sent, so that the client waits; C{""}: it was told.
    """
    asked: dict[str, object] = {"peer": hostPort(peer)} if request is None else requestFields(request)
    if request is None:
        asked["name"] = "an unreadable request"
    event: LogEvent = {
        "event": "refused",
        "transport": transport,
        "code": error.code,
        "why": str(error),
        **({"limit": limit} if limit else {}),
        **({"rule": error.rule} if isinstance(error, Denied) and error.rule else {}),
        **({} if near is None else {"nearest": near.name}),
        **asked,
        **verdictFields(refusalFacts(request, peer, error, near, limit)),
    }
    _emit(event, "{transport}: {peer} is refused {name}: {why}" + (_UNTOLD if limit else ""))


def refusalFacts(
    request: Request | None, peer: Peer, error: Refused, near: Near | None = None, limit: str = ""
) -> Facts:
    """Return what is known of a refusal; C{limit} as for L{refused}."""
    return Facts(
        "refused",
        host=_host(peer),
        name="" if request is None else request.name,
        write=request is not None and request.write,
        code=error.code,
        why=str(error),
        limit=limit,
        rule=error.rule if isinstance(error, Denied) else "",
        ruled=isinstance(error, Denied),
        near="" if near is None else near.kind,
        found="" if near is None else near.name,
        source="" if near is None else near.source or "a directory",
    )


def unanswered(transport: str, request: Request, why: str, limit: str = "", unsent: str = "") -> None:
    """
    Log that a request gets no answer; the client asks again.

    @param limit: the key of the limit that is reached, or C{LimitNOFILE}; C{""}: it is for another reason.
    @param unsent: why this machine can send nothing to the client, if that is the reason.
    """
    # A limit is for the operator to raise; the others tell of a fault.
    say = _log.info if limit else _log.warn
    say(
        "{transport}: {peer} is not answered: {why}{reached}",
        event="crowded",
        transport=transport,
        why=why,
        reached=" is reached" if limit else "",
        **({"limit": limit} if limit else {}),
        **requestFields(request),
        **verdictFields(
            Facts("crowded", host=_host(request.peer), name=request.name, why=why, limit=limit, unsent=unsent)
        ),
    )


def sizeOnly(transport: str, request: Request) -> None:
    """Log that a machine has asked for the size of a file, and not come back for the file."""
    _log.info(
        "{transport}: {peer} has asked for the size of {name}, and not for the file",
        event="size-only",
        transport=transport,
        **requestFields(request),
        **verdictFields(Facts("size-only", host=_host(request.peer), name=request.name)),
    )


def malformed(peer: Peer, datagram: bytes, error: Exception) -> None:
    """Log a datagram that cannot be read, at debug level only, since anybody can send one; the event is counted."""
    _log.debug(
        "{peer} sent {octets} octets that cannot be read: {why}",
        event="malformed",
        peer=hostPort(peer),
        octets=len(datagram),
        why=str(error),
    )


def _host(peer: Peer) -> str:
    return peer[0].partition("%")[0]


def groupOpened(cast: CastProtocol, difference: str) -> None:
    """
    Log that a group was opened.

    @param difference: in what it differs from another group that serves the same file name; empty: there is none.
    """
    # The numbers of a code do not end.
    extent = "blocks" if cast.wire.count is None else "{count} blocks"
    _log.info(
        "{transport}: group {group} opened: {name}, " + extent + " of {blksize}{remark}",
        event="opened",
        transport=cast.name,
        name=cast.fileName,
        group=_group(cast),
        count=cast.wire.count,
        blksize=cast.wire.blocksize,
        beside=difference,
        remark=difference and f", beside one of another {difference}",
    )


def rollover(cast: CastProtocol, request: Request) -> None:
    """Warn that a file has more blocks than some clients can count."""
    _log.warn(
        "{transport}: {peer} gets {name} in {count} blocks of {blksize}: {why}, "
        "which old clients cannot follow; a larger block size would help",
        event="rollover",
        # With a reason it is logged once a minute for each machine and file, however often the file is asked for.
        why="the block number rolls over",
        transport=cast.name,
        **requestFields(request),
        count=cast.wire.count,
        blksize=cast.wire.blocksize,
    )


def oversize(cast: CastProtocol, request: Request, facts: Facts) -> None:
    """
    Warn that a client answers small datagrams, but not the first block, however often it is sent: datagrams of this
    size do not seem to reach it.
    """
    _log.warn(
        "{transport}: {peer} answers small datagrams, but not the first block, of {blksize} octets, which was sent "
        "{times} times: {name}; if the way does not carry that size, grant its network less: "
        "caps: [{{clients: {host}, blksize: {cure}}}]",
        event="oversize",
        transport=cast.name,
        **requestFields(request),
        host=facts.host,
        blksize=cast.wire.blocksize,
        times=facts.sent,
        cure=facts.smaller,
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
        why=outcomes.DEAF,
        how="hears no multicast" if deaf else "may not receive the group any more",
        remembered=seconds,
        remark=f"; its machine is in no group for {showDuration(seconds)}" if seconds else "",
        **requestFields(request),
        **verdictFields(Facts("moved", host=_host(request.peer), name=request.name, group=True, deaf=deaf)),
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


def receiverLeft(cast: CastProtocol, receiver: Receiver, ending: Ending, now: float) -> None:
    """Log the end of a receiver's transfer: its file, time, octets and outcome, and why it failed."""
    request, outcome = receiver.request, ending.outcome
    blocks, repeats, octets = receiver.progressBefore
    verdict = endingVerdict(cast, receiver, ending, now)
    event: LogEvent = {
        "event": "received",
        "transport": cast.name,
        "dialect": cast.entry.dialect.name,
        **requestFields(request),
        "outcome": outcome,
        "meaning": outcomes.MEANING[outcome],
        "seconds": now - receiver.since,
        "size": cast.size,
        "octets": cast.octets - octets,
        "blocks": cast.blocks - blocks,
        "repeats": cast.repeats - repeats,
        "full": cast.full,
        "blksize": cast.wire.blocksize,
        "group": cast.group and hostPort(cast.group),
        **grantedFields(cast.wire, request),
        **_blockTimes(cast, receiver, ending),
        **clientError(receiver.error),
    }
    if ending.why:
        event["why"] = ending.why
    if verdict is not None:
        event.update(fieldsOf(verdict))
    _emit(event, _RECEIVED)
    if outcome == outcomes.PROBE:
        host, name = request.peer[0], cast.name
        cast.site.attempts.sizeAsked(host, request.name, now, lambda: sizeOnly(name, request))


def _emit(event: LogEvent, form: str) -> None:
    """
    Log an event at level info, as L{Logger.emit} does; that costs as much again, since it sorts the levels to see
    whether this is one.
    """
    event.update(
        log_logger=_log,
        log_level=LogLevel.info,
        log_namespace=_log.namespace,
        log_source=_log.source,
        log_format=form,
        log_time=time(),
    )
    _log.observer(event)


def endingVerdict(cast: CastProtocol, receiver: Receiver, ending: Ending, now: float) -> Verdict | None:
    """Return why a transfer has failed; one that is complete is counted.  L{None}: nothing is known of that."""
    times, seconds = 0, 0.0
    if ending.outcome == outcomes.DONE:
        host, name = receiver.request.peer[0], receiver.request.name
        times, seconds = cast.site.attempts.fetched(host, name, receiver.since, now)
    if isWell(ending.outcome, times):
        return None
    if ending.heard and ending.lacks == 0 and ending.outcome in _IN_VAIN:
        # A client that soon asks anew is sent the first block once or twice in each attempt.
        request = receiver.request
        ending = ending._replace(sent=cast.site.attempts.sentInVain(request.peer[0], request.name, ending.sent, now))
    facts = _endingFacts(cast, receiver, ending, times, seconds)
    verdict = judge(facts)
    if verdict is not None and verdict.id == "mtu":
        oversize(cast, receiver.request, facts)
    return verdict


def _endingFacts(cast: CastProtocol, receiver: Receiver, ending: Ending, times: int, seconds: float) -> Facts:
    request, error = receiver.request, receiver.error
    return Facts(
        "received",
        host=_host(request.peer),
        name=request.name,
        outcome=ending.outcome,
        why=ending.why,
        limit=receiver.displacedFor,
        heard=ending.heard,
        singlePort=not cast.entry.dialect.ownPort,
        group=cast.group is not None,
        lacks=ending.lacks,
        sent=ending.sent,
        repeated=ending.repeated,
        blocks=cast.wire.count,
        octets=min(cast.wire.blocksize, cast.content.size),
        clientCode=None if error is None else error[0],
        clientText="" if error is None else clip(error[1]),
        unsent=cast.whyUnsent(ending.lastBlockAt),
        times=times,
        minutes=ceil(seconds / 60),
    )


def grantedFields(wire: IWire, request: Request) -> dict[str, object]:
    """Return the field of the options that a request was granted; none if there are none, or the wire does not tell."""
    if not (request.options and INegotiatingWire.providedBy(wire)):
        return {}

    def ask() -> str | None:
        try:
            return showOptions(tuple(wire.grantedOptions(request)))
        except CastdError:
            return None

    granted = askPlugin(ask, None, "granted options cannot be told")
    return {} if granted is None else {"granted": granted}


def clientError(error: tuple[int, str] | None) -> dict[str, object]:
    """Return the fields of an ERROR that a client has sent."""
    return {} if error is None else {"client_code": error[0], "client_text": clip(error[1])}


def _blockTimes(cast: CastProtocol, receiver: Receiver, ending: Ending) -> dict[str, float]:
    """Return the seconds from a request to its first and its last block."""
    since, first = receiver.since, cast.firstBlockAt
    if first is None or ending.lastBlockAt < since:
        return {}
    last = {"last_block": ending.lastBlockAt - since}
    # Who has joined a group later was sent what the others had asked for.
    return last if first < since else {"first_block": first - since, **last}


def groupClosed(cast: CastProtocol, statistics: Mapping[str, int]) -> None:
    """
    Log the end of a group: how many blocks were sent, and how many of them were repetitions.

    @param statistics: what its cast has counted, see L{castd.interfaces.ICast.statistics}.
    """
    blocks = cast.blocks - cast.fallbackBlocks
    once = cast.mainCast.highestSent + 1
    extent = "" if cast.wire.count is None else " of {count}"
    _log.info(
        "{transport}: group {group} closed: {name}, {members} receivers, {blocks} blocks sent" + extent + ", "
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
