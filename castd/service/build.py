"""
Makes what a service file describes, without putting it in force: for a server that starts, and for one that reloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from twisted.internet.defer import Deferred

from castd.config.config import Config, Entry, Kinds, load
from castd.config.plugin import Collected
from castd.errors import ConfigError, Refused
from castd.files.access import Rule
from castd.files.content import SourceChain
from castd.files.directory import makeSink
from castd.files.uploads import UploadDirectory, UploadDirectoryOptions
from castd.interfaces import ICastTransport, IContentSource
from castd.options import ListenOptions
from castd.request import Peer
from castd.server.site import Site
from castd.service.address import ListeningAddress

#: The peer for whom files are looked up before there are any peers.
NO_PEER: Peer = ("0.0.0.0", 0)

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class _SinkKind:
    """
    What can be named beneath C{uploads:}.

    @ivar make: called with an instance of C{options}.
    """

    options: type[BaseModel]
    make: Callable[[Any], UploadDirectory]


SINKS = {"directory": _SinkKind(UploadDirectoryOptions, makeSink)}


def kinds(collected: Collected) -> Kinds:
    """-> what can be named in a service file."""
    return Kinds(collected.transports, collected.sources, SINKS, Rule)


def read(file: Path | str, collected: Collected) -> Config:
    """
    Read a service file.

    @raise ConfigError: with every fault in it, and those of plugins, since one of them may be why a name is unknown.
    """
    try:
        return load(file, kinds(collected))
    except ConfigError as error:
        raise ConfigError(*error.faults, *collected.faults) from None


@dataclass(frozen=True)
class ConfiguredSink:
    """
    A place for uploads, with its options.

    It knows which uploads are under way.  So a reload that leaves its options as they are keeps it.
    """

    options: BaseModel
    sink: UploadDirectory


@dataclass
class Components:
    """
    Everything that a service file names, made; no socket is open yet.

    @ivar addresses: by interface and port.
    """

    config: Config
    sources: Sequence[IContentSource] = ()
    sinks: Sequence[ConfiguredSink] = ()
    addresses: dict[tuple[str, int], ListeningAddress] = field(default_factory=dict)

    def openSite(self, site: Site) -> None:
        """Serve from these sources and into these sinks."""
        site.open(self.sources, [each.sink for each in self.sinks], self.config.access)


def build(config: Config, collected: Collected, site: Site, sinks: Iterable[ConfiguredSink] = ()) -> Components:
    """
    Make all that a service file names.

    @param site: what the transports are to share; it is not changed.
    @param sinks: those that there are; one with the same options is kept.
    @raise ConfigError: with everything that cannot be made.
    """
    current = list(sinks)

    def source(entry: Entry) -> IContentSource:
        return collected.sources[entry.kind].makeSource(entry.options, site)

    def sink(entry: Entry) -> ConfiguredSink:
        kept = next((each for each in current if each.options == entry.options), None)
        return kept or ConfiguredSink(entry.options, SINKS[entry.kind].make(entry.options))

    def transport(entry: Entry) -> None:
        made: ICastTransport = collected.transports[entry.kind].makeTransport(entry.name, entry.options, site)
        _addTransport(components.addresses, site, made, entry)

    components = Components(config)
    components.sources = _makeEach(config.content, source)
    components.sinks = _makeEach(config.uploads, sink)
    _makeEach(config.transports, transport)
    _checkFileSizes(config, SourceChain(components.sources))
    config.tree.raiseFaults()
    return components


def _makeEach(entries: Iterable[Entry], make: Callable[[Entry], _Made]) -> list[_Made]:
    """Make each entry; what cannot be made is a complaint at its place in the file."""
    made = []
    for entry in entries:
        try:
            made.append(make(entry))
        except ConfigError as error:
            for fault in error.faults:
                entry.addFault(fault)
    return made


def _addTransport(
    addresses: dict[tuple[str, int], ListeningAddress], site: Site, transport: ICastTransport, entry: Entry
) -> None:
    """Add a transport to its address, which others may have already."""
    bindAddress = (transport.interface, transport.port)
    first = addresses.get(bindAddress)
    if first is None:
        addresses[bindAddress] = ListeningAddress(site, transport, entry)
    elif not first.share(transport, entry):
        other = first.entries[0].name
        entry.addFault(f"cannot share {first.address} with '{other}': give one of them another port")


def _checkFileSizes(config: Config, content: SourceChain) -> None:
    """Complain of files that a transport names and could never send."""

    def size(name: str) -> int | None:
        try:
            found = content.lookup(name, NO_PEER)
        except Refused:
            return None
        if isinstance(found, Deferred):
            # A source that takes its time is not waited for.
            found.addCallbacks(lambda late: late.close(), lambda _: None)
            return None
        found.close()
        octets: int = found.size
        return octets

    for entry in config.transports:
        if isinstance(entry.options, ListenOptions):
            for complaint in entry.options.unfit(size):
                entry.addFault(complaint)
