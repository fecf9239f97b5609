"""
Gathers what a server is doing now as plain data, for the page of the metrics address and its JSON.

There may be thousands of transfers, and their datagrams must not wait for a page.  So a report is gathered in slices of
some milliseconds, it is bounded, and those who ask at the same time share one.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypedDict, TypeVar

import twisted
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from castd import __version__
from castd.files.names import printable
from castd.files.threads import Waiters
from castd.interfaces import ICastTransport, ILiveTransfer, IMappedTransfer, LiveReceiver, MemberMap
from castd.observe.eventstore import Found
from castd.observe.format import showInstant
from castd.observe.status import TransferStatus, asked, transferStatus, underWay
from castd.request import hostPort
from castd.slices import Slices

_log = Logger(namespace="castd")

T = TypeVar("T")

#: The most transfers, groups, members of one group, maps in all, and failures that a report has.
MOST_TRANSFERS, MOST_GROUPS, MOST_MEMBERS, MOST_MAPS, MOST_FAILURES = 200, 20, 50, 200, 20
#: The most cells of the map of one member.
MAP_WIDTH = 64
#: A report is given to all who ask within so many seconds after it was gathered, and so is the page that shows it.
FRESH = 0.5
#: A rate is measured from one report to the next, unless that is longer ago than this.  Seconds.
LONGEST_LOOK = 30.0
#: Seconds that a report waits for the disk of the history.
PATIENCE = 1.0


class Versions(TypedDict):
    """The versions of what runs here; C{reactor} is the class of the event loop."""

    version: str
    python: str
    twisted: str
    reactor: str


class ServerFacts(Versions):
    """
    What a report says of the server itself.

    C{since} and C{inForce} are instants as in the log: of the start, and from which on the service file is in force.
    """

    pid: int
    state: str
    unready: str | None
    since: str
    file: str
    sha256: str
    inForce: str
    history: str | None
    lost: int


class RatedTransfer(TransferStatus):
    """A transfer with the address that it was asked for at, and its rate: octets in a second."""

    address: str
    rate: float


class MemberReport(TypedDict):
    """
    A member of a group.

    C{lacking}: how many blocks it lacks by what it has said last.  C{cells}: the value of a
    L{CellState<castd.cast.blockmap.CellState>} for each cell of the file, in order.
    """

    peer: str
    lacking: int
    cells: str


class GroupReport(TypedDict):
    """A group; C{more}: how many members there are beyond those that are described."""

    transport: str
    group: str
    name: str
    blocks: int
    members: list[MemberReport]
    more: int


class FailureReport(TypedDict):
    """Something that failed; C{verdict}, C{why}: the word for it, and cause and cure, where they can be told."""

    time: str
    address: str | None
    name: str | None
    times: int
    message: str
    verdict: str | None
    why: str | None


class ServerReport(TypedDict):
    """
    What a server is doing at one instant.

    C{rate}: of all transfers.  C{more...}: how many there are beyond those that are described.  C{failures}:
    L{None}: the history does not answer.
    """

    time: str
    server: ServerFacts
    count: int
    receivers: int
    rate: float
    transfers: list[RatedTransfer]
    moreTransfers: int
    groups: list[GroupReport]
    moreGroups: int
    failures: list[FailureReport] | None


class ReportedAddress(Protocol):
    """The part of a L{ListeningAddress<castd.service.address.ListeningAddress>} that is read here."""

    @property
    def address(self) -> str: ...
    @property
    def transport(self) -> ICastTransport: ...


def versions(reactor: object) -> Versions:
    """Return the versions of what runs here, with this event loop."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "twisted": str(twisted.__version__),
        "reactor": type(reactor).__name__,
    }


@dataclass(frozen=True, slots=True)
class Sources:
    """
    Where a report finds what it says.

    @ivar server: -> what is said of the server, at this time (seconds since 1970).
    @ivar addresses: -> the addresses that listen.
    @ivar failures: -> so many of the last failures, the oldest first.
    """

    server: Callable[[float], ServerFacts]
    addresses: Callable[[], Iterable[ReportedAddress]]
    failures: Callable[[int], Deferred[list[Found]]]


class RateMeter:
    """Finds the rate of each transfer, from one look to the next."""

    def __init__(self) -> None:
        self._before: dict[Hashable, int] = {}
        self._now: dict[Hashable, int] = {}
        self._at: float | None = None
        self._span: float | None = None

    def begin(self, now: float) -> None:
        """Begin a look."""
        self._before, self._now = self._now, {}
        self._span = None if self._at is None or not 0 < now - self._at <= LONGEST_LOOK else now - self._at
        self._at = now

    def rate(self, key: Hashable, octets: int, seconds: float) -> float:
        """
        Return the octets in a second since the look before; since the begin, if there was none or it is long ago.

        @param key: identifies the transfer.
        @param octets: what it has sent or received so far.
        @param seconds: how long ago it began.
        """
        self._now[key] = octets
        before = self._before.get(key)
        if before is None or self._span is None:
            return octets / seconds if seconds > 0 else 0.0
        return max(0, octets - before) / self._span


class Shared(Generic[T]):
    """Makes a value when somebody asks for it, for all who ask meanwhile and shortly after."""

    def __init__(self, reactor: IReactorTime, make: Callable[[], Deferred[T]], fresh: float) -> None:
        """@param fresh: how long it is given to others who ask.  Seconds."""
        self._reactor = reactor
        self._make = make
        self._fresh = fresh
        self._asked = Waiters[T]()
        self._making = False
        self._last: tuple[float, T] | None = None

    def get(self) -> Deferred[T]:
        """Return the value."""
        if self._last is not None and self._reactor.seconds() < self._last[0] + self._fresh:
            return succeed(self._last[1])
        self._last = None
        asked = self._asked.add()
        if not self._making:
            self._making = True
            self._make().addBoth(self._made)
        return asked

    def _made(self, result: T | Failure) -> None:
        self._making = False
        if not isinstance(result, Failure):
            self._last = self._reactor.seconds(), result
        self._asked.fire(result)


class Reporter:
    """
    Gathers reports when somebody asks for one.

    @ivar report: -> a Deferred of a report that is at most L{FRESH} seconds old.
    @ivar slices: gathers them, and what shows them.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        sources: Sources,
        slices: Slices,
        wallTime: Callable[[], float] = time.time,
    ) -> None:
        """
        @param wallTime: -> seconds since 1970.
        """
        self._reactor = reactor
        self._sources = sources
        self.slices = slices
        self._wallTime = wallTime
        self._rates = RateMeter()
        self.report = Shared(reactor, self._gather, FRESH).get

    def _gather(self) -> Deferred[ServerReport]:
        failures = failureReports(self._reactor, self._sources.failures(MOST_FAILURES))
        now = self._wallTime()
        report: ServerReport = {
            "time": showInstant(now),
            "server": self._sources.server(now),
            "count": 0,
            "receivers": 0,
            "rate": 0.0,
            "transfers": [],
            "moreTransfers": 0,
            "groups": [],
            "moreGroups": 0,
            "failures": None,
        }

        def finish(found: list[FailureReport] | None) -> ServerReport:
            report["failures"] = found
            return report

        walked = self.slices.run(self._walk(report))
        return walked.addCallback(lambda _: failures).addCallback(finish)

    def _walk(self, report: ServerReport) -> Iterator[None]:
        """Describe what is under way, one piece after the other."""
        now = self._reactor.seconds()
        self._rates.begin(now)
        groups: list[IMappedTransfer] = []
        for address in list(self._sources.addresses()):
            for transfer in underWay(address.transport):
                self._count(report, address.address, transfer, now)
                if IMappedTransfer.providedBy(transfer) and asked(partial(_isGroup, transfer), False):
                    groups.append(transfer)
                yield None
        report["moreGroups"] = max(0, len(groups) - MOST_GROUPS)
        maps = MOST_MAPS
        for group in groups[:MOST_GROUPS]:
            described = asked(partial(_groupReport, group), None)
            if described is None:
                continue
            report["groups"].append(described)
            # A plugin's cast may be what tells them, and fail for any member.
            drawing = asked(partial(_drawing, group, min(MOST_MEMBERS, maps)), iter(list[MemberMap | None]()))
            while asked(partial(_addMember, described, drawing), False):
                yield None
            maps -= len(described["members"])
            described["more"] = max(0, described["more"] - len(described["members"]))

    def _count(self, report: ServerReport, address: str, transfer: object, now: float) -> None:
        """Add a transfer to the sums of a report, and to the list if there is room for it."""
        report["count"] += 1
        receivers, rate = 1, 0.0
        if ILiveTransfer.providedBy(transfer):
            receivers, rate = asked(lambda: self._measured(transfer, now), (receivers, rate))
        report["receivers"] += receivers
        report["rate"] += rate
        if len(report["transfers"]) < MOST_TRANSFERS:
            status = transferStatus(transfer, now, MOST_MEMBERS)
            report["transfers"].append({**status, "address": address, "rate": round(rate, 1)})
        else:
            report["moreTransfers"] += 1

    def _measured(self, transfer: ILiveTransfer, now: float) -> tuple[int, float]:
        """Return how many receivers a transfer has, and its octets a second."""
        present = transfer.liveReceivers()
        octets = transfer.progress()[2]
        return len(present), self._rates.rate(_keyOf(transfer, present), octets, now - transfer.opened)


def _keyOf(transfer: ILiveTransfer, receivers: Sequence[LiveReceiver]) -> Hashable:
    """Return what tells a transfer from all others: a group, or the one receiver; and when it began."""
    first = next(iter(receivers), None) if transfer.group is None else None
    return transfer.name, transfer.group, transfer.opened, first and first.peer


def _isGroup(transfer: IMappedTransfer) -> bool:
    return transfer.group is not None


def _drawing(group: IMappedTransfer, most: int) -> Iterator[MemberMap | None]:
    return iter(group.mapMembers(MAP_WIDTH, most))


def _addMember(described: GroupReport, drawing: Iterator[MemberMap | None]) -> bool:
    """Add the map of the next member, if it is drawn already.  -> whether there may be more."""
    for drawn in drawing:
        if drawn is not None:
            member: MemberReport = {"peer": hostPort(drawn.peer), "lacking": drawn.lacking, "cells": drawn.cells}
            described["members"].append(member)
        return True
    return False


def _groupReport(group: IMappedTransfer) -> GroupReport:
    """Describe a group without its members; C{more} counts all of them."""
    receivers = group.liveReceivers()
    assert group.group is not None
    return {
        "transport": group.name,
        "group": hostPort(group.group),
        "name": group.fileName,
        "blocks": (receivers[0].needed or 0) if receivers else 0,
        "members": [],
        "more": len(receivers),
    }


def failureReports(reactor: IReactorTime, asked: Deferred[list[Found]]) -> Deferred[list[FailureReport] | None]:
    """
    Return reports of failures, the latest first, once the history has answered; L{None}: it does not.

    @param asked: the failures, the oldest first.
    """
    told = asked.addTimeout(PATIENCE, reactor).addCallback(lambda found: [_failure(each) for each in reversed(found)])
    return told.addErrback(_unanswered)


def _failure(found: Found) -> FailureReport:
    verdict, cause, cure = (found["fields"].get(each) for each in ("verdict", "cause", "cure"))
    message, why = found["message"], None
    if isinstance(verdict, str):
        why = f"{cause}: {cure}"
        # Its line may end with the same, escaped (castd.verdicts.remark), or with the cause as its reason.
        message = message.removesuffix(printable(f"; {why}")).removesuffix(printable(f": {cause}"))
    return {
        "time": found["time"],
        "address": found["address"],
        "name": found["name"],
        "times": found["times"],
        "message": message,
        "verdict": verdict if isinstance(verdict, str) else None,
        "why": why,
    }


def _unanswered(failure: Failure) -> None:
    """Note that the history cannot be read now; the page says so."""
    if failure.check(TimeoutError) is None:
        _log.failure("the history cannot be read", failure, event="fault")
