"""
Makes the sources, sinks and transports that a service file names, for a start and for a reload; opens no socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from zope.interface import implementer

from castd.config.config import Config, Entry, Kinds, listening, load
from castd.config.plugin import Collected, requireProvided
from castd.errors import ConfigError, NotFound, Refused, Unavailable
from castd.files.access import Rule, Rules
from castd.files.chains import Looked, SourceChain
from castd.files.content import Directory, DirectoryOptions
from castd.files.directory import RELOAD_TIMEOUT, makeSink, patience, warnIfSlow
from castd.files.threads import callWithin
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.interfaces import (
    ConfiguredTransport,
    ICastTransport,
    IContentSource,
    IMachineSource,
    IPortService,
    IScopedSource,
    IServiceFile,
    ServicePort,
)
from castd.networks import viewpoints
from castd.options import AnyNetwork
from castd.profiles.table import makeProfiles
from castd.request import Peer
from castd.server.service_port import ServiceListener
from castd.server.site import EntryPlaces, Site
from castd.service.address import ListeningAddress
from castd.templates.source import Options as TemplateOptions
from castd.templates.source import TemplateSource

#: The most seconds that a reload waits for the disks of all new directories.
OPENING_TIMEOUT = 10.0
#: The most seconds that it waits there for one file that a transport names.
LOOK_TIMEOUT = 1.0
#: The peer of the requests that look up files before any client has asked.
NO_PEER: Peer = ("0.0.0.0", 0)

_Made = TypeVar("_Made")
_Options = TypeVar("_Options", bound=BaseModel)


@dataclass(frozen=True)
class _SinkKind:
    """
    One kind of sink that can be named beneath C{uploads:}.

    @ivar make: called with an instance of C{options}, and the site.
    """

    options: type[BaseModel]
    make: Callable[[Any, Site], UploadDirectory]


#: The kind of castd's own source and sink.
DIRECTORY = "directory"
SINKS = {DIRECTORY: _SinkKind(UploadDirectoryOptions, makeSink)}


def kinds(collected: Collected) -> Kinds:
    """Return the kinds of transports, sources and sinks that a service file can name."""
    return Kinds(collected.transports, collected.sources, SINKS, Rule)


def read(file: Path | str, collected: Collected) -> Config:
    """
    Read a service file.

    @raise ConfigError: with every fault of the file, and with the faults of plugins, since a plugin that failed may be
        the reason for an unknown name.
    """
    try:
        return load(file, kinds(collected))
    except ConfigError as error:
        raise ConfigError(*error.faults, *collected.faults) from None


@dataclass(frozen=True)
class ServiceFileRead:
    """
    A service file that was read and checked, as far as that needs no reactor.

    @ivar rules: the access rules, compiled; L{None}: the file has no such section.
    @ivar sources, sinks: directories that it names, as far as they are open already.
    @ivar looked: what was found of the files that its transports name, in which directory and by which name.
    """

    config: Config
    rules: Rules | None
    sources: Sequence[Directory] = ()
    sinks: Sequence[UploadDirectory] = ()
    looked: Looked = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> ServiceFileRead:
        """Compile the access rules of a service file."""
        if config.access is None:
            return cls(config, None)
        places = tuple(config.tree.place(("access", number)) for number in range(len(config.access)))
        return cls(config, Rules(config.access, places))


def readInThread(
    file: Path,
    collected: Collected,
    inUse: Mapping[BaseModel, Directory | UploadDirectory],
    seconds: Callable[[], float],
) -> ServiceFileRead:
    """
    Read a service file as L{read} does, open the directories that are new in it, and look up the files that its
    transports name, in a thread beside the reactor's.

    A directory that cannot be opened is left to L{buildSteps}, which tells why.

    @param inUse: the directories that are in use, by their options.
    @param seconds: tells the time.
    """
    found, end = ServiceFileRead.of(read(file, collected)), time.monotonic() + OPENING_TIMEOUT

    def wait(most: float = RELOAD_TIMEOUT) -> float:
        return min(most, max(0.0, end - time.monotonic()))

    def fresh(entries: Iterable[Entry], kind: type[_Options]) -> Iterator[_Options]:
        for entry in entries:
            if entry.kind == DIRECTORY and isinstance(entry.options, kind) and entry.options not in inUse:
                yield entry.options

    sources, sinks = list[Directory](), list[UploadDirectory]()
    for options in fresh(found.config.content, DirectoryOptions):
        with suppress(OSError):
            sources.append(Directory(options, patience=wait()))
    for place in fresh(found.config.uploads, UploadDirectoryOptions):
        with suppress(OSError, LookupError):
            sinks.append(UploadDirectory(place, patience=wait(), seconds=seconds))
    found = replace(found, sources=sources, sinks=sinks)
    named = [name for _, options in listening(found.config) for _, name in options.named()]
    if not named:
        return found
    served: dict[BaseModel, Directory | UploadDirectory] = {**inUse}
    served.update((each.options, each) for each in sources)
    directories = [served.get(entry.options) for entry in found.config.content if entry.kind == DIRECTORY]
    asked = [each for each in directories if isinstance(each, Directory) and not each.byMachine]
    return replace(found, looked=_lookUp(named, asked, partial(wait, LOOK_TIMEOUT)))


def _lookUp(named: Iterable[str], directories: Iterable[Directory], wait: Callable[[], float]) -> Looked:
    """
    Look up files in directories, as L{SourceChain.lookNow} does.  In a thread.

    @param wait: -> seconds to wait for a disk.
    """
    found = dict[tuple[BaseModel, str], int | Refused | None]()
    missing = dict.fromkeys(named)
    for directory in directories:
        answers = True
        for name in list(missing):
            answer: int | Refused | None = None
            try:
                # A disk that has not answered once is asked no more: thousands of names may wait for it.
                if answers:
                    answer = callWithin(wait(), partial(directory.sizeNow, name, NO_PEER))
            except (TimeoutError, BlockingIOError):
                answers = False
            except Refused as error:
                answer = error.with_traceback(None)
            found[directory.options, name] = answer
            if not isinstance(answer, NotFound):
                del missing[name]
    return found


@dataclass(frozen=True)
class ConfiguredSink:
    """
    A place for uploads, with its options.

    A reload that does not change the options keeps the sink, since the sink knows which uploads are under way.
    """

    options: BaseModel
    sink: UploadDirectory


@dataclass
class Components:
    """
    The sources, sinks and addresses that a service file names; no socket is open yet.

    @ivar rules: see L{ServiceFileRead.rules}.
    @ivar services: the services, each with its entry in the service file.
    @ivar addresses: the addresses to listen at, by interface and port.
    """

    config: Config
    rules: Rules | None = None
    services: tuple[tuple[Entry, IPortService], ...] = ()
    sources: Sequence[IContentSource] = ()
    sinks: Sequence[ConfiguredSink] = ()
    addresses: dict[tuple[str, int], ListeningAddress] = field(default_factory=dict)

    def openSite(self, site: Site) -> None:
        """Make the site serve files from these sources, and put uploads into these sinks."""
        site.machines.adjust(self.config.machines)
        tree = self.config.tree
        places = EntryPlaces(
            tuple(tree.place(each.route) for each in self.config.content),
            tuple(tree.place(each.route) for each in self.config.uploads),
        )
        site.open(self.sources, [each.sink for each in self.sinks], self.rules, places)
        own = range(len(self.config.profiles.own))
        site.profiles = makeProfiles(self.config.profiles, [tree.place(("profiles", "own", each)) for each in own])
        site.showsRequests = self.config.logging.level == "debug"


def build(file: ServiceFileRead, collected: Collected, site: Site) -> Components:
    """Make the sources, sinks and transports that a service file names, all at once; raises as L{buildSteps}."""
    components = Components(file.config, file.rules)
    for _ in buildSteps(components, file, collected, site):
        pass
    return components


def buildSteps(
    components: Components,
    file: ServiceFileRead,
    collected: Collected,
    site: Site,
    sinks: Iterable[ConfiguredSink] = (),
    sources: Iterable[IContentSource] = (),
) -> Iterator[None]:
    """
    Make the sources, sinks and transports that a service file names, a step for each; a service may take several.

    @param components: gets them.
    @param site: the site that the transports share; it is not changed.
    @param sinks: the sinks in use; one with the same options is kept.
    @param sources: the sources in use; one of castd's own with the same options is kept, so that a reload does not wait
        for a disk, and renders nothing anew.
    @raise ConfigError: with a fault for each entry that cannot be made.  L{Unavailable}: the file itself is right, as
        far as it is known: what is missing is on the disk.
    """
    # By their options, as there may be hundreds.  Those of plugins are not kept, and their options may have no hash.
    current: dict[BaseModel, ConfiguredSink] = {
        each.options: each for each in (*(ConfiguredSink(each.options, each) for each in file.sinks), *sinks)
    }
    own: dict[BaseModel, IContentSource] = {
        each.options: each for each in (*file.sources, *sources) if isinstance(each, Directory | TemplateSource)
    }
    for directory in file.sources:
        warnIfSlow(directory)
    for uploads in file.sinks:
        warnIfSlow(uploads)

    def source(entry: Entry) -> IContentSource:
        kept = own.get(entry.options) if isinstance(entry.options, DirectoryOptions | TemplateOptions) else None
        if kept is not None:
            return kept
        made = collected.sources[entry.kind].makeSource(entry.options, site)
        # Of one that is marked as having files for machines also lookupFor is checked, whether or not it needs it now.
        kinds = (IScopedSource, IMachineSource)
        requireProvided(made, next((kind for kind in kinds if kind.providedBy(made)), IContentSource))
        return made

    def sink(entry: Entry) -> ConfiguredSink:
        kept = current.get(entry.options)
        return kept or ConfiguredSink(entry.options, SINKS[entry.kind].make(entry.options, site))

    def transport(entry: Entry) -> None:
        made = collected.transports[entry.kind].makeTransport(entry.name, entry.options, site)
        if IPortService.providedBy(made):
            requireProvided(made, IPortService)
            components.services += ((entry, made),)
            for at in made.ports:
                listener = ServiceListener(entry.name, made, at)
                _addTransport(components.addresses, listener, entry, partial(_listeningAddress, site, at))
        else:
            requireProvided(made, ICastTransport)
            _addTransport(components.addresses, made, entry, partial(ListeningAddress, site))

    config = file.config
    components.sources = yield from _makeEach(config.content, source)
    components.sinks = yield from _makeEach(config.uploads, sink)
    missing = len(config.tree.faults)
    yield from _makeEach(config.transports, transport)
    wrong = len(config.tree.faults) - missing
    shown = ServiceFile(file, SourceChain(components.sources), patience(site))
    yield from _checkFileSizes(config, shown)
    for entry, service in components.services:
        yield
        wrong += yield from _configure(service, shown, entry)
    shown.forgetLooked()
    try:
        config.tree.raiseFaults()
    except ConfigError as error:
        if wrong:
            raise
        raise Unavailable(*error.faults) from None


def _listeningAddress(site: Site, at: ServicePort, transport: ICastTransport, entry: Entry) -> ListeningAddress:
    """Make the address of one port of a service."""
    return ListeningAddress(site, transport, entry, at.required, at.remedy)


def _configure(service: IPortService, file: IServiceFile, entry: Entry) -> Generator[None, None, bool]:
    """Show a service the file that it is in, and record its faults.  -> whether the file itself is wrong."""
    try:
        steps = service.configure(file)
        # Not whatever a plugin returns: it had nothing to return once.
        if isinstance(steps, Iterator):
            for _ in steps:
                yield
    except ConfigError as error:
        _addFaults(entry, error)
        return not isinstance(error, Unavailable)
    return False


def _makeEach(entries: Iterable[Entry], make: Callable[[Entry], _Made]) -> Generator[None, None, list[_Made]]:
    """Make each entry in a step; one that cannot be made becomes a fault at its line of the file."""
    made = []
    for entry in entries:
        yield
        try:
            made.append(make(entry))
        except ConfigError as error:
            _addFaults(entry, error)
    return made


def _addFaults(entry: Entry, error: ConfigError) -> None:
    for fault in error.faults:
        entry.addFault(fault)


def _addTransport(
    addresses: dict[tuple[str, int], ListeningAddress],
    transport: ICastTransport,
    entry: Entry,
    make: Callable[[ICastTransport, Entry], ListeningAddress],
) -> None:
    """Add a transport to its address, where other transports may listen already."""
    bindAddress = (transport.interface, transport.port)
    first = addresses.get(bindAddress)
    if first is None:
        addresses[bindAddress] = make(transport, entry)
    elif not first.share(transport, entry):
        other = first.entries[0].name
        entry.addFault(f"cannot share {first.address} with '{other}': give one of them another port")


@implementer(IServiceFile)
class ServiceFile:
    """Shows the services what the rest of the service file says; see L{IServiceFile}."""

    def __init__(self, file: ServiceFileRead, content: SourceChain, patience: float) -> None:
        """@param patience: seconds to wait for each file that is looked up."""
        named = file.config.transports
        self.transports = [ConfiguredTransport(each.name, each.kind, each.options) for each in named]
        self._content = content
        self._patience = patience
        self._rules = file.rules
        self._looked = file.looked

    def readable(self, name: str, networks: Iterable[AnyNetwork]) -> bool:
        """As L{IServiceFile.readable}."""
        return self._rules is None or self._rules.allowAny(networks, name)

    def size(self, name: str) -> int | None:
        """As L{IServiceFile.size}."""
        return self._content.sizeNow(name, NO_PEER, self._patience, self._looked)

    def isMissing(self, name: str, networks: Iterable[AnyNetwork]) -> bool:
        """As L{IServiceFile.isMissing}."""
        hosts = viewpoints(networks, self._content.networks) or [NO_PEER[0]]
        found = (self._content.lookNow(name, (host, 0), self._patience) for host in hosts)
        return all(isinstance(each, Refused) for each in found)

    def forgetLooked(self) -> None:
        """Look up each file anew from now on: a plugin may ask for as long as the service file is in force."""
        self._looked = {}


def _checkFileSizes(config: Config, file: ServiceFile) -> Iterator[None]:
    """Record a fault for each file that a transport names and could never send."""
    for entry, options in listening(config):
        for complaint in options.unfit(file.size):
            entry.addFault(complaint)
        yield
