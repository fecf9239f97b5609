"""
Ask several sources for a file, or several upload directories for a place, in the order of the service file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial as bind
from typing import NamedTuple, TypeAlias, TypeVar

from pydantic import BaseModel
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import Forbidden, NotFound, Refused
from castd.files import names
from castd.files.content import Directory
from castd.files.netascii import NetasciiUpload
from castd.files.threads import asDeferred, callWithin
from castd.files.uploads import UploadDirectory
from castd.interfaces import (
    IContent,
    IContentSink,
    IContentSource,
    ILocatingSource,
    IMachines,
    IMachineSource,
    INetworkSource,
    IScopedSource,
    IUpload,
    Near,
)
from castd.machines.known import KnownMachine
from castd.options import AnyNetwork
from castd.request import Peer, Trace

#: Called with the reason of each source that does not have a file.
Missed: TypeAlias = Callable[[NotFound], object]
#: Called with each directory that is asked for a place for an upload, and its refusal.
Told: TypeAlias = Callable[[UploadDirectory, "Refused | None"], object]

#: Octets of a file, why it is refused, or None if the disk does not answer; by the options of a directory and the name.
Looked: TypeAlias = Mapping[tuple[BaseModel, str], "int | Refused | None"]

T = TypeVar("T")

_NOTHING: Looked = {}


@implementer(IContentSource)
class SourceChain:
    """
    Asks several sources in order: the first that has the file opens it.  If one refuses it, no other source is asked.

    What is known of the machine is found out when a source needs it, once for each request.

    @ivar byMachine: some source needs it.
    """

    def __init__(
        self, sources: Iterable[IContentSource], places: Sequence[str] = (), machines: IMachines | None = None
    ) -> None:
        """
        @param places: C{file:line} of each source in the service file; C{()}: not known.
        @param machines: finds out what is known of machines; L{None}: nothing is.
        """
        self.sources = tuple(sources)
        self.places = tuple(places) or ("",) * len(self.sources)
        self._entries = tuple(map(_Entry.of, self.sources, self.places))
        self.byMachine = any(entry.byMachine is not None for entry in self._entries)
        self._machines = machines

    @property
    def networks(self) -> tuple[AnyNetwork, ...]:
        """The networks whose clients some source tells apart from others."""
        own = (source.networks for source in self.sources if INetworkSource.providedBy(source))
        return tuple(network for networks in own for network in networks)

    def lookup(
        self,
        name: str,
        peer: Peer,
        server: str | None = None,
        machine: KnownMachine | None = None,
        missed: Missed | None = None,
        trace: Trace | None = None,
    ) -> IContent | Deferred[IContent]:
        """
        As L{IContentSource.lookup}; a Deferred only where a source answers later.

        @param server: the address that the request was sent to.
        @param machine: what is known of the machine; L{None}: that is found out.
        @param missed: called with the reason of each source that does not have the file.
        @param trace: gets the sources that were asked.
        """
        client = _Client(peer, server, machine)
        return self._lookupFrom(0, _Asked(name, client, missed, Trace() if trace is None else trace))

    def _lookupFrom(self, first: int, asked: _Asked) -> IContent | Deferred[IContent]:
        client = asked.client
        for number, (source, place, locating, byMachine, scoped) in enumerate(self._entries[first:], first):
            if (
                byMachine is not None
                and not client.known
                and self._machines is not None
                # To find out who asks may take a while: not for a file that no machine has there.
                and (scoped is None or scoped.mayHave(asked.name, client.peer))
            ):
                machine = self._machines.machineOf(client.peer, client.server)
                if isinstance(machine, Deferred):
                    return machine.addCallback(self._lookupLater, number, asked)
                client.learn(machine)
            # Not of C{asked}, which has the trace: that would be a circle for each request.
            path = None if locating is None else bind(client.locate, locating)
            asked.trace.places.append((place, path))
            try:
                found: IContent | Deferred[IContent]
                if byMachine is None:
                    found = source.lookup(asked.name, client.peer)
                else:
                    found = byMachine.lookupFor(asked.name, client.machine)
            except NotFound as error:
                asked.missing(error)
                continue
            asked.trace.found = True
            if isinstance(found, Deferred):
                return found.addErrback(self._lookupNext, number + 1, asked)
            return found
        asked.trace.found = False
        raise NotFound()

    def _lookupLater(self, machine: KnownMachine, number: int, asked: _Asked) -> IContent | Deferred[IContent]:
        asked.client.learn(machine)
        return self._lookupFrom(number, asked)

    def _lookupNext(self, failure: Failure, first: int, asked: _Asked) -> Deferred[IContent]:
        failure.trap(NotFound)
        if isinstance(failure.value, NotFound):
            asked.missing(failure.value)
        found = self._lookupFrom(first, asked)
        return found if isinstance(found, Deferred) else succeed(found)

    def findNear(self, name: str, machine: KnownMachine) -> Deferred[Near | None]:
        """
        Find a file that was probably meant, as no source has one of this name.

        @return: L{None}: none was found.  It does not fail.
        """
        return Deferred.fromCoroutine(self._findNear(name, machine))

    async def _findNear(self, name: str, machine: KnownMachine) -> Near | None:
        for _, place, locating, *_ in self._entries:
            if locating is not None and (near := await locating.findNear(name, machine)) is not None:
                return near._replace(source=near.source or place)
        return None

    def sizeNow(self, name: str, peer: Peer, patience: float, looked: Looked = _NOTHING) -> int | None:
        """
        Return octets of a file, to check what a service file says of it.

        @param patience: seconds to wait for a disk.
        @param looked: what was found out before.
        @return: L{None}: no source has it, or none answers at once.
        """
        found = self.lookNow(name, peer, patience, looked)
        return None if isinstance(found, Refused) else found

    def lookNow(self, name: str, peer: Peer, patience: float, looked: Looked = _NOTHING) -> int | Refused | None:
        """
        Find out whether there is a file, to check what a service file says of it.

        @param patience: seconds to wait for a disk.
        @param looked: what was found out before: in these directories no disk is waited for.
        @return: its octets; why it is refused; or L{None}: that is not known, as a disk or a source answers later, or
            it depends on the machine that asks.
        """
        known = True
        for source, _, _, byMachine, scoped in self._entries:
            if byMachine is not None:
                known = known and scoped is not None and not scoped.mayHave(name, peer)
                continue
            try:
                if isinstance(source, Directory):
                    if (key := (source.options, name)) in looked:
                        before = looked[key]
                        if isinstance(before, NotFound):
                            continue
                        return before if known or not isinstance(before, Refused) else None
                    return callWithin(patience, bind(source.sizeNow, name, peer))
                found = source.lookup(name, peer)
            except NotFound:
                continue
            except Refused as error:
                return error if known else None
            except (TimeoutError, BlockingIOError):
                return None
            if isinstance(found, Deferred):
                found.addCallbacks(lambda late: late.close(), lambda _: None)
                return None
            found.close()
            octets: int = found.size
            return octets
        return NotFound() if known else None


class _Client:
    """
    Holds who has asked for a file.

    @ivar server: the address that the request was sent to; L{None}: not known.
    @ivar known: what is known of the machine has been found out.
    """

    __slots__ = ("_machine", "known", "peer", "server")

    def __init__(self, peer: Peer, server: str | None, machine: KnownMachine | None) -> None:
        self.peer, self.server, self._machine = peer, server, machine
        self.known = machine is not None

    @property
    def machine(self) -> KnownMachine:
        """What is known of the machine: no more than the addresses, unless that was found out."""
        if self._machine is None:
            self._machine = KnownMachine(self.peer, self.server)
        return self._machine

    def learn(self, machine: KnownMachine) -> None:
        """Keep what is known of the machine."""
        self._machine, self.known = machine, True

    def locate(self, source: ILocatingSource, name: str) -> str:
        """Return the path of a file in a source, for this machine."""
        path: str = source.locate(name, self.machine)
        return path


class _Asked:
    """
    Holds one request for a file, while several sources are asked.
    """

    __slots__ = ("client", "missed", "name", "trace")

    def __init__(self, name: str, client: _Client, missed: Missed | None, trace: Trace) -> None:
        self.name, self.client, self.missed, self.trace = name, client, missed, trace

    def missing(self, error: NotFound) -> None:
        """Tell why a source does not have the file."""
        if self.missed is not None:
            self.missed(error)


class _Entry(NamedTuple):
    """
    Holds one source of a chain.

    @ivar place: C{file:line} of it in the service file; C{""}: not known.
    @ivar locating: the source, if it can tell the path of a file; else L{None}.
    @ivar byMachine: the source, if it has other files for other machines; else L{None}.
    @ivar scoped: the source, if it can tell which names it has for no machine; else L{None}.
    """

    source: IContentSource
    place: str
    locating: ILocatingSource | None
    byMachine: IMachineSource | None
    scoped: IScopedSource | None

    @classmethod
    def of(cls, source: IContentSource, place: str) -> _Entry:
        """Find out once what a source can do."""
        locating = source if ILocatingSource.providedBy(source) else None
        byMachine = source if IMachineSource.providedBy(source) and source.byMachine else None
        return cls(source, place, locating, byMachine, source if IScopedSource.providedBy(source) else None)


@implementer(IContentSink)
class SinkChain:
    """
    Chooses among several upload directories: an upload goes to the first one for its name and its client.
    """

    def __init__(
        self, directories: Iterable[UploadDirectory], mode: str = "octet", machines: IMachines | None = None
    ) -> None:
        """
        @param mode: C{"netascii"}: uploads are converted to native text.
        @param machines: finds out what is known of machines; L{None}: nothing is.
        """
        self.directories = tuple(directories)
        self.mode = mode
        self._machines = machines
        self._byMachine = tuple(each for each in self.directories if each.byMachine)

    def begin(self, name: str, peer: Peer, size: int | None) -> Deferred[IUpload]:
        """
        As L{IContentSink.begin}.

        @raise Forbidden: also if the name belongs to none of the directories, or none of them is for this client.
        @raise NotFound: it belongs to some, but a directory in its path is missing; or it is too long for a file.
        """

        def begin(directory: UploadDirectory, machine: KnownMachine) -> Deferred[IUpload]:
            return directory.beginFor(name, machine, size)

        begun = Deferred.fromCoroutine(self._first(name, peer, begin))
        return begun.addCallback(NetasciiUpload) if self.mode == "netascii" else begun

    def check(self, name: str, peer: Peer, size: int | None, told: Told | None = None) -> Deferred[None]:
        """
        Find out whether an upload would begin, and begin none.

        @param told: called with each directory that is asked, and its refusal; L{None}: the upload would go there.
        @return: fails as L{begin}.
        """

        def check(directory: UploadDirectory, machine: KnownMachine) -> Deferred[None]:
            return directory.check(name, machine, size)

        return Deferred.fromCoroutine(self._first(name, peer, check, told))

    async def _first(
        self,
        name: str,
        peer: Peer,
        ask: Callable[[UploadDirectory, KnownMachine], Deferred[T]],
        told: Told | None = None,
    ) -> T:
        """Ask each directory for this name and client, until one has a place for it.  -> its answer."""
        refusal: Refused | None = None
        told = told or _tellNobody
        machine = KnownMachine(peer)
        if self._machines is not None and any(each.mayCover(name) for each in self._byMachine):
            machine = await asDeferred(self._machines.machineOf(peer))
        for directory in self.directories:
            if not directory.covers(name, machine):
                told(directory, _NO_PLACE)
                continue
            if not directory.isFor(peer):
                refusal = refusal or Forbidden(why="no uploads by this client")
                told(directory, refusal)
                continue
            try:
                answer = await ask(directory, machine)
            except NotFound as error:
                told(directory, error)
                refusal = error
            except Refused as error:
                told(directory, error)
                raise
            else:
                told(directory, None)
                return answer
        if refusal is None:
            # A name that no file can have is in no directory either.
            names.parts(name)
            raise Forbidden(why="no place for uploads of this name")
        raise refusal


_NO_PLACE = NotFound(why="not for this name")


def _tellNobody(directory: UploadDirectory, refusal: Refused | None) -> None:
    """Do nothing: nobody wants to know."""
