"""
Hold what all transports of one server share: the L{Site}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import Forbidden, NotFound, Refused
from castd.files.access import Rules
from castd.files.chains import Missed, SinkChain, SourceChain
from castd.files.netascii import NetasciiConverter
from castd.files.threads import asDeferred
from castd.files.uploads import UploadDirectory
from castd.group_pool import GroupPool
from castd.interfaces import (
    IContent,
    IContentSink,
    IContentSource,
    IPorts,
    IPredecessor,
    ISite,
    IUpload,
    Near,
)
from castd.machines.known import KnownMachine
from castd.net.timers import Timers
from castd.networks import viewpoints
from castd.options import AnyNetwork, Limits
from castd.pacing import Pacer
from castd.profiles.table import ProfileHits, Profiles
from castd.request import Local, Peer, Request
from castd.server.admission import Admission, Bars
from castd.server.attempts import Attempts
from castd.server.blockcache import BlockCache
from castd.server.deaf import DeafMachines
from castd.server.known import DividedLimit
from castd.server.machines import Machines
from castd.server.recorder import Recorder
from castd.slices import Slices

_log = Logger(namespace="castd")

#: Barred (address, name) pairs, and addresses that were refused one, remembered at once; beyond, the oldest is
#: forgotten.
MOST_BARRED = 4096
#: How often a second a file is looked for that was probably meant.
NEAREST_RATE = 100.0


class EntryPlaces(NamedTuple):
    """Tells C{file:line} of each source and each place for uploads; C{()}: not known."""

    sources: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()


NO_PLACES = EntryPlaces()


@implementer(ISite)
class Site:
    """
    Holds the reactor, randomness, ports, limits, memory, sources and sinks that the transports share; see L{ISite}.

    @ivar barring: called with the arguments of each L{bar}, to pass them to a successor; L{None}: there is none.
    @ivar requestPorts: the port numbers that requests come to, each with how many listen at it, so that two request
        ports are never made to answer each other.
    @ivar content: all sources of files, in their order.
    @ivar sinks: the sinks for uploads, by mode; empty: uploads are off.
    @ivar sinkPlaces: C{file:line} of each place for uploads, as C{sinks} has them.
    @ivar rules: the access rules; L{None}: there are none: all may read, and no uploads are taken.
    @ivar profiles: what is done differently for some clients; L{None}: nothing.
    @ivar profileHits: how many requests each profile was applied to.
    @ivar dropped: how many datagrams all request ports have dropped, by reason, see L{castd.outcomes.DROPPED}.
    @ivar recorder: notes the packets of transfers that begin; L{None}: nobody does.
    """

    def __init__(self, reactor: IReactorTime, random: Random, ports: IPorts, limits: Limits) -> None:
        self.reactor = reactor
        self.random = random
        self.ports = ports
        self.limits = limits
        self.pacer = None if limits.rate is None else Pacer(limits.rate)
        self.timers = Timers(reactor, ports.readArrived)
        self.slices = Slices(reactor)
        self.admission = Admission(limits)
        self.blockCache = BlockCache(limits.memory, self.admission)
        self.groupPool = GroupPool()
        self.deafMachines = DeafMachines()
        self.requestPorts: Counter[int] = Counter()
        self.predecessor: IPredecessor | None = None
        self.barring: Callable[[str, str, float, str], object] | None = None
        self.machines = Machines(reactor)
        self.content = SourceChain(())
        self.sinks: dict[str, SinkChain] = {}
        self.sinkPlaces: tuple[str, ...] = ()
        self.rules: Rules | None = None
        self._converter = NetasciiConverter()
        self._barred = Bars(MOST_BARRED)
        self.observers: list[Callable[[Request], object]] = []
        self.attempts = Attempts(self.timers)
        self.showsRequests = False
        self._mayLookNear = DividedLimit(NEAREST_RATE)
        self.recorder: Recorder | None = None
        self.profiles: Profiles | None = None
        self.profileHits = ProfileHits()
        self.dropped: Counter[str] = Counter()

    def adjust(self, limits: Limits) -> None:
        """
        Use other limits from now on.  If a limit of the rate is added or removed, casts under way keep the old state.
        """
        self.limits = limits
        if limits.rate is None:
            self.pacer = None
        elif self.pacer is None:
            self.pacer = Pacer(limits.rate)
        else:
            self.pacer.adjust(limits.rate)
        self.blockCache.adjust(limits.memory)
        self.admission.adjust(limits)

    # Files.

    def open(
        self,
        sources: Iterable[IContentSource],
        sinks: Iterable[UploadDirectory],
        rules: Rules | None,
        places: EntryPlaces = NO_PLACES,
    ) -> None:
        """
        Use these sources, sinks and access rules from now on.  Transfers under way are not affected.

        @param rules: L{None}: the service file has no access rules.
        @param places: where they stand in the service file, for the log.
        """
        self.content = SourceChain(sources, places.sources, self.machines)
        kept = tuple(sinks)
        self.sinkPlaces = places.sinks or ("",) * len(kept)
        self.sinks = {mode: SinkChain(kept, mode, self.machines) for mode in ("octet", "netascii")} if kept else {}
        self.rules = rules
        self._converter = NetasciiConverter()

    @property
    def byMachine(self) -> bool:
        """As L{ISite.byMachine}."""
        return self.content.byMachine or (self.rules is not None and self.rules.byMachine)

    def lookup(self, request: Request) -> IContent | Deferred[IContent]:
        """Apply the access rules, ask the sources in order, and convert to netascii if requested; see L{ISite}."""
        for observer in self.observers:
            try:
                observer(request)
            except BaseException:
                # The request is served all the same.
                _log.failure("an observer of requests failed", event="fault")
        found: IContent | Deferred[IContent] = self.look(request) if request.mode == "netascii" else self.find(request)
        return found

    def look(self, request: Request, missed: Missed | None = None) -> Deferred[IContent]:
        """
        As L{lookup}, always with a Deferred; but no observer is told of the request: nobody has sent it.

        @param missed: called with the reason of each source that does not have the file.
        """
        found: Deferred[IContent] = maybeDeferred(self.find, request, missed)
        if request.mode == "netascii":
            found.addCallback(self._converter.convert)
        return found

    def find(self, request: Request, missed: Missed | None = None, machine: KnownMachine | None = None) -> Any:
        """
        Apply the access rules and ask the sources, for the methods that look files up; a site of tests has its own.

        @param missed: as for L{look}.
        @param machine: what is known of the machine; L{None}: it is found out, if access or a file depends on it.
        @return: the content as it is in the source; or a Deferred of it, which may fail with the same error.
        @raise Refused: it is refused, or there is none.
        """
        host, server = request.peer[0], request.local.host
        if self.rules is not None and not self.rules.openToRead:
            if machine is None and self.rules.dependsOnMachine(host, request.name):
                known = asDeferred(self.machines.machineOf(request.peer, server))
                return known.addCallback(partial(self.find, request, missed))
            self.rules.check(host, request.name, False, machine)
        return self.content.lookup(request.name, request.peer, server, machine, missed, request.trace)

    def findNear(self, request: Request) -> Deferred[Near | None] | None:
        """Find a file that was probably meant, so often that it costs others nothing; see L{ISite.findNear}."""
        host, now = request.peer[0], self.reactor.seconds()
        rank = self.admission.known.rank(host, request.local.networks)
        if not self._mayLookNear.allow(host, rank, now):
            return None
        return self.machineOf(request).addCallback(partial(self.content.findNear, request.name))

    def machineOf(self, request: Request) -> Deferred[KnownMachine]:
        """Find out what is known of the machine that asks, as far as files depend on it."""
        peer, server = request.peer, request.local.host
        return asDeferred(self.machines.machineOf(peer, server) if self.byMachine else KnownMachine(peer, server))

    def lookupAny(self, name: str, networks: Iterable[AnyNetwork], mac: str | None = None) -> Deferred[IContent]:
        """Look a file up for a client of these networks whose address is not known; see L{ISite.lookupAny}."""
        local = Local("0.0.0.0", 0)
        requests = [Request((host, 0), local, name) for host in self._viewpoints(networks)]
        return self._lookupEach(requests, NotFound(), mac)

    def _viewpoints(self, networks: Iterable[AnyNetwork]) -> Sequence[str]:
        """Return an address of these networks for each part of them that rules or sources tell from others."""
        edges = () if self.rules is None else self.rules.networks
        return viewpoints(networks, (*edges, *self.content.networks))

    def missingNow(self, name: str, networks: Iterable[AnyNetwork], patience: float) -> Refused | None:
        """
        Find out whether no client of these networks would get a file, before the server serves anybody.

        @param patience: seconds to wait for each disk.
        @return: why; L{None}: one would, or that is not known, as a disk or a source answers later.
        """
        refusal: Refused = NotFound()
        for host in self._viewpoints(networks):
            found: int | Refused | None
            try:
                if self.rules is not None:
                    self.rules.checkAnyMachine(host, name)
                found = self.content.lookNow(name, (host, 0), patience)
            except Refused as error:
                found = error
            if not isinstance(found, Refused):
                return None
            refusal = refusal if isinstance(found, NotFound) else found
        return refusal

    def _lookupEach(self, requests: Sequence[Request], refusal: Refused, mac: str | None) -> Deferred[IContent]:
        """Look up each request until one is answered with a content; NotFound counts for less than another refusal."""
        if not requests:
            return fail(refusal)
        machine = self.machines.machineWith(mac, requests[0].peer) if self.byMachine else None
        found: Deferred[IContent] = maybeDeferred(self.find, requests[0], None, machine)

        def tryNext(failure: Failure) -> Deferred[IContent]:
            failure.trap(Refused)
            known = refusal if isinstance(failure.value, NotFound) else failure.value
            return self._lookupEach(requests[1:], known if isinstance(known, Refused) else refusal, mac)

        return found.addErrback(tryNext)

    def sink(self, request: Request) -> IContentSink:
        """
        Apply the access rules and choose where an upload goes; see L{ISite}.

        @return: where access depends on the machine, a sink that applies the rules when the upload begins.
        @raise Forbidden: writes are off, or not for this client and name.
        """
        rules, host = self.rules, request.peer[0]
        if self.sinks and rules is not None and rules.dependsOnMachine(host, request.name, write=True):
            return _SinkOfMachine(self, request)
        return self.sinkFor(request, None)

    def sinkFor(self, request: Request, known: KnownMachine | None) -> IContentSink:
        """
        As L{sink}, at once.

        @param known: what is known of the machine, as far as access depends on it.
        """
        if not self.sinks:
            raise Forbidden(why="uploads are off")
        if self.rules is None:
            raise Forbidden(why="uploads need an access rule, and there is none")
        self.rules.check(request.peer[0], request.name, True, known)
        sink, machine = self.sinks[request.mode], KnownMachine(request.peer, request.local.host)
        for directory, place in zip(sink.directories, self.sinkPlaces, strict=True):
            if directory.covers(request.name, machine) and directory.isFor(request.peer):
                request.trace.places.append((place, partial(directory.locate, machine=machine)))
                request.trace.found = True
                break
        return sink

    # Addresses that one transport bars from the others.

    def bar(self, host: str, name: str, seconds: float, why: str) -> None:
        """Let all transports refuse this file to this address for so many seconds; see L{ISite.bar}."""
        if self.barring is not None:
            self.barring(host, name, seconds, why)
        if seconds <= 0:
            self._barred.lift(host, name)
        else:
            self._barred.bar(host, name, self.reactor.seconds() + seconds, why)

    def bars(self) -> Iterator[tuple[str, str, float, str]]:
        """Return all that is barred now, each as the arguments of L{bar}."""
        now = self.reactor.seconds()
        return ((host, name, until - now, why) for host, name, until, why in self._barred.all(now))

    def barred(self, host: str, name: str) -> str | None:
        """Return why this name is refused to this address now; see L{ISite.barred}."""
        return self._barred.refuse(host, name, self.reactor.seconds()) if self._barred.until else None


@implementer(IContentSink)
class _SinkOfMachine:
    """
    Finds out which machine uploads, then applies the access rules, and begins the upload where it goes.
    """

    def __init__(self, site: Site, request: Request) -> None:
        self._site, self._request = site, request

    def begin(self, name: str, peer: Peer, size: int | None) -> Deferred[IUpload]:
        """As L{IContentSink.begin}."""
        known = asDeferred(self._site.machines.machineOf(peer, self._request.local.host))
        return known.addCallback(self._begin, name, peer, size)

    def _begin(self, machine: KnownMachine, name: str, peer: Peer, size: int | None) -> IUpload | Deferred[IUpload]:
        return self._site.sinkFor(self._request, machine).begin(name, peer, size)
