"""
What a service file describes, made but not in force: for a server that starts, and for one that reloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from twisted.internet.defer import Deferred

from castd.config.config import Config, Entry, Kinds, load
from castd.config.plugin import Collected
from castd.errors import ConfigError, Refused
from castd.files.access import Rule
from castd.files.content import SourceChain
from castd.files.directory import makeSink
from castd.files.uploads import UploadDirectoryOptions
from castd.interfaces import IContentSink
from castd.options import ListenOptions
from castd.server.site import Site
from castd.service.address import ListeningAddress

#: Who asks for the size of a file before there are any clients.
NOBODY = ("0.0.0.0", 0)


@dataclass(frozen=True)
class _Sink:
    """
    What can be named beneath C{uploads:}.

    @ivar make: called with an instance of C{options}.
    """

    options: type[BaseModel]
    make: Callable[[Any], IContentSink]


SINKS = {"directory": _Sink(UploadDirectoryOptions, makeSink)}


def kinds(collected: Collected) -> Kinds:
    """What can be named in a service file."""
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


@dataclass
class Build:
    """
    Everything that a service file names, made; no socket is open yet.

    @ivar sinks: with their options: a sink goes on over a reload that leaves them as they are, since it knows which
        uploads are under way.
    @ivar addresses: by interface and port.
    """

    config: Config
    sources: list[Any] = field(default_factory=list)
    sinks: list[tuple[Any, Any]] = field(default_factory=list)
    addresses: dict[tuple[str, int], ListeningAddress] = field(default_factory=dict)


def build(config: Config, collected: Collected, site: Site, sinks: Iterable[tuple[Any, Any]] = ()) -> Build:
    """
    Make all that a service file names.

    @param site: what the transports are to share; it is not touched.
    @param sinks: those there are, with their options.
    @raise ConfigError: with everything that cannot be made.
    """
    makers: Any = collected
    kept = list(sinks)

    def sink(entry: Entry) -> tuple[Any, Any]:
        ours = next((made for options, made in kept if options == entry.options), None)
        return entry.options, SINKS[entry.kind].make(entry.options) if ours is None else ours

    made = Build(config)
    made.sources = _made(config.content, lambda entry: makers.sources[entry.kind].makeSource(entry.options, site))
    made.sinks = _made(config.uploads, sink)

    def transport(entry: Entry) -> None:
        one: Any = makers.transports[entry.kind].makeTransport(entry.name, entry.options, site)
        _place(made.addresses, site, one, entry)

    _made(config.transports, transport)
    _fitting(config, SourceChain(made.sources))
    config.tree.raiseFaults()
    return made


def _made(entries: Iterable[Entry], make: Callable[[Entry], Any]) -> list[Any]:
    """Make each; what cannot be made is a complaint at its place in the file."""
    made = []
    for entry in entries:
        try:
            made.append(make(entry))
        except ConfigError as error:
            for fault in error.faults:
                entry.addFault(fault)
    return made


def _fitting(config: Config, content: SourceChain) -> None:
    """Complain of files that a transport names and could never send."""

    def size(name: str) -> int | None:
        try:
            found: Any = content.lookup(name, NOBODY)
        except Refused:
            return None
        if isinstance(found, Deferred):
            found.addCallbacks(lambda content: content.close(), lambda _: None)
            return None
        found.close()
        return int(found.size)

    for entry in config.transports:
        if isinstance(entry.options, ListenOptions):
            for complaint in entry.options.unfit(size):
                entry.addFault(complaint)


def _place(addresses: dict[tuple[str, int], ListeningAddress], site: Site, transport: Any, entry: Entry) -> None:
    """Give a transport its address, or its part of one that others have already."""
    at = (transport.interface, transport.port)
    first = addresses.get(at)
    if first is None:
        addresses[at] = ListeningAddress(site, transport, entry)
    elif not first.share(transport, entry):
        other = first.entries[0].name
        entry.addFault(f"cannot share {first.address} with '{other}': give one of them another port")
