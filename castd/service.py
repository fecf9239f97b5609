"""
A service file becomes a running server: the site, and a service for each address that requests come to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger, globalLogPublisher

from castd.access import Rule
from castd.chance import Chance
from castd.config import Config, Entry, Kinds, load
from castd.directory import makeSink
from castd.errors import ConfigError, Refused
from castd.listening import Listening
from castd.maker import Collected
from castd.observe import JSONFile
from castd.options import ListenOptions
from castd.site import Site
from castd.uploads import DropOptions

_log = Logger(namespace="castd")

#: Who asks for the size of a file before there are any clients.
NOBODY = ("0.0.0.0", 0)


class Server(MultiService):
    """
    Everything that a service file describes.  As long as it has not been started no socket is open.

    @ivar site: what its transports share.
    """

    def __init__(self, config: Config, site: Site, addresses: Iterable[Listening]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.config = config
        self.site = site
        self.addresses = tuple(addresses)
        self._events: JSONFile | None = None
        for each in self.addresses:
            each.setServiceParent(self)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """
        Bind all ports, or none.

        @raise ConfigError: with each one that cannot be had.
        """
        faults: list[str] = self._openEvents()
        for service in self:
            try:
                service.privilegedStartService()
            except ConfigError as error:
                faults += error.faults
        if faults:
            self.stopService()
            raise ConfigError(*faults)

    def _openEvents(self) -> list[str]:
        """Open the file for events, if there is to be one; not before: who only checks a file leaves nothing behind."""
        file = self.config.logging.json_
        if file is None or self._events is not None:
            return []
        try:
            self._events = JSONFile(str(file))
        except OSError as error:
            return [f"{self.config.tree.where(('logging', 'json'))}: {file}: {error.strerror}"]
        globalLogPublisher.addObserver(self._events)
        return []

    def startService(self) -> None:
        """And clear away what uploads a crash has left unfinished."""
        self._openEvents()
        super().startService()  # type: ignore[no-untyped-call]
        for drops in list(self.site.drops.values())[:1]:
            for drop in drops.drops:
                drop.sweep().addErrback(
                    lambda failure: _log.failure("unfinished uploads are still there", failure, event="fault")
                )

    def stopService(self) -> Deferred[Any]:
        """-> a Deferred that fires when all transfers are over, all ports closed, and that was written down."""
        stopping: Deferred[Any] = super().stopService()  # type: ignore[no-untyped-call]
        return stopping.addBoth(self._stopped)

    def _stopped(self, result: Any) -> Any:
        events, self._events = self._events, None
        if events is not None:
            globalLogPublisher.removeObserver(events)
            events.close()
        return result


@dataclass(frozen=True)
class _Sink:
    """What can be named beneath C{uploads:}."""

    options: type[BaseModel]


SINKS = {"directory": _Sink(DropOptions)}


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


def compose(
    config: Config, collected: Collected, reactor: Any, ports: Any, chance: random.Random | None = None
) -> Server:
    """
    Make all that a service file names, without opening a socket.

    @param ports: an L{IPorts<castd.interfaces.IPorts>}.
    @param chance: the system's, if not given.
    @raise ConfigError: with everything that cannot be made.
    """
    site = Site(reactor, chance or Chance(), ports, config.limits)
    if config.metrics.listen is not None:
        config.tree.blame(("metrics", "listen"), "metrics are not served by this version yet: leave it out")
    sources: Any = collected.sources
    transports: Any = collected.transports
    site.open(
        _made(config.content, lambda entry: sources[entry.kind].makeSource(entry.options, site)),
        _made(config.uploads, lambda entry: makeSink(entry.options)),
        config.access,
    )
    addresses: dict[tuple[str, int], Listening] = {}

    def transport(entry: Entry) -> None:
        made: Any = transports[entry.kind].makeTransport(entry.name, entry.options, site)
        _place(addresses, site, made, entry)

    _made(config.transports, transport)
    _fitting(config, site)
    config.tree.complain()
    return Server(config, site, addresses.values())


def _made(entries: Iterable[Entry], make: Callable[[Entry], Any]) -> list[Any]:
    """Make each; what cannot be made is a complaint at its place in the file."""
    made = []
    for entry in entries:
        try:
            made.append(make(entry))
        except ConfigError as error:
            for fault in error.faults:
                entry.blame(fault)
    return made


def _fitting(config: Config, site: Site) -> None:
    """Complain of files that a transport names and could never send."""

    def size(name: str) -> int | None:
        try:
            found: Any = site.content.lookup(name, NOBODY)
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
                entry.blame(complaint)


def _place(addresses: dict[tuple[str, int], Listening], site: Site, transport: Any, entry: Entry) -> None:
    """Give a transport its address, or its part of one that others have already."""
    at = (transport.interface, transport.port)
    first = addresses.get(at)
    if first is None:
        addresses[at] = Listening(site, transport, entry)
    elif not first.share(transport, entry):
        other = first.entries[0].name
        entry.blame(f"cannot share {first.address} with '{other}': give one of them another port")
