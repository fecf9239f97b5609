"""
A service file becomes a running server: the site, and a service for each address that requests come to.
"""

from __future__ import annotations

import random
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger, globalLogPublisher

from castd.chance import Chance
from castd.change import Change
from castd.config import Config
from castd.draft import SINKS, Draft, draft, kinds, read
from castd.errors import ConfigError
from castd.listening import Listening
from castd.maker import Collected
from castd.observe import JSONFile
from castd.site import Site
from castd.supervise import Notices, Watch

__all__ = ["SINKS", "Server", "compose", "kinds", "read"]

_log = Logger(namespace="castd")


class Server(MultiService):
    """
    Everything that a service file describes.  As long as it has not been started no socket is open.

    @ivar site: what its transports share.
    @ivar addresses: where it listens.
    @ivar file: the service file.
    @ivar since: the instant it was made.
    @ivar log: what a change of C{logging} is to be told, by its C{adjust(options)}; L{None}: nobody.
    @ivar stopping: it takes no more requests, and ends when those under way are served.
    @ivar watch: what a supervisor is told; nothing, until L{supervised}.
    """

    def __init__(self, made: Draft, site: Site, collected: Collected) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.config = made.config
        self.site = site
        self.addresses = tuple(made.addresses.values())
        # A daemon's working directory is another one.
        self.file = made.config.file.absolute()
        self.since = site.reactor.seconds()
        self.log: Any = None
        self._collected = collected
        self._sinks = made.sinks
        self.stopping = False
        self.watch = Watch(site.reactor, Notices(), None, self.ports, self.standing)
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
        if self._events is not None:
            return []
        try:
            self._swapEvents(_events(self.config))
        except ConfigError as error:
            return list(error.faults)
        return []

    def _swapEvents(self, fresh: JSONFile | None) -> None:
        events, self._events = self._events, fresh
        if fresh is not None:
            globalLogPublisher.addObserver(fresh)
        if events is not None:
            globalLogPublisher.removeObserver(events)
            events.close()

    def supervised(self, notices: Notices, period: float | None) -> None:
        """Keep a supervisor informed, and its watchdog fed; see L{Watch}."""
        self.watch = Watch(self.site.reactor, notices, period, self.ports, self.standing)

    def ports(self) -> list[tuple[str, Any]]:
        """-> address for people, and port, wherever it listens."""
        return [(each.address, each.port) for each in self.addresses if each.port is not None]

    def standing(self) -> str:
        """-> how things stand, in a few words."""
        gate = self.site.gate
        state = "draining" if self.stopping else "serving"
        return f"{state}: {gate.casts} transfers, {gate.receivers.total()} receivers"

    def startService(self) -> None:
        """And clear away what uploads a crash has left unfinished."""
        self._openEvents()
        super().startService()  # type: ignore[no-untyped-call]
        self.watch.begin()
        for drops in list(self.site.drops.values())[:1]:
            for drop in drops.drops:
                drop.sweep().addErrback(
                    lambda failure: _log.failure("unfinished uploads are still there", failure, event="fault")
                )

    def stopService(self) -> Deferred[Any]:
        """-> a Deferred that fires when all transfers are over, all ports closed, and that was written down."""
        self.stopping = True
        self.watch.stopping(self.site.limits.drain)
        stopping: Deferred[Any] = super().stopService()  # type: ignore[no-untyped-call]
        return stopping.addBoth(self._stopped)

    def _stopped(self, result: Any) -> Any:
        self.watch.end()
        self._swapEvents(None)
        return result

    # Reload.

    def reread(self) -> tuple[str, ...]:
        """
        Read the service file again, and be what it says; on any fault everything stays as it was.

        -> the faults, as for a start; none: it is in force.
        """
        if self.stopping:
            return ("castd is stopping",)
        self.watch.notices.reloading()
        try:
            self.reload(read(self.file, self._collected))
        except ConfigError as error:
            faults = error.faults
        except Exception:
            _log.failure("a reload failed", event="fault")
            faults = ("a fault of castd or of a plugin, see the log",)
        else:
            faults = ()
            _log.info("{file} is in force", event="reloaded", file=str(self.file))
        for nth, fault in enumerate(faults, 1):
            form = "{file} is refused ({nth} of {count}): {fault}"
            told = {"file": str(self.file), "fault": fault, "nth": nth, "count": len(faults)}
            _log.error(form, event="refused-reload", **told)
        self.watch.ready()
        return faults

    def reload(self, config: Config) -> None:
        """
        Be what another service file says.  Whoever is served stays with what it began with.

        @raise ConfigError: it cannot be done, and nothing has changed; a port that cannot be had is such a reason.
        """
        made = draft(config, self._collected, self.site, self._sinks)
        events = _events(config)
        try:
            Change(self.addresses, made).bind()
        except ConfigError:
            if events is not None:
                events.close()
            raise
        self._swapEvents(events)
        self.config, self._sinks = config, made.sinks
        self.site.adjust(config.limits)
        self.site.open(made.sources, [sink for _, sink in made.sinks], config.access)
        if self.log is not None:
            self.log.adjust(config.logging)
        self._listen(made)

    def _listen(self, made: Draft) -> None:
        """At the addresses of the draft, whose ports are open; what is not among them serves those who are there."""
        here = {each.at: each for each in self.addresses}
        for at, wanted in made.addresses.items():
            if at in here:
                here[at].become(wanted)
            else:
                wanted.setServiceParent(self)  # type: ignore[no-untyped-call]
        gone = [each for at, each in here.items() if at not in made.addresses]
        serving = [here.get(at, wanted) for at, wanted in made.addresses.items()]
        self.addresses = (*serving, *gone)
        for each in gone:
            if not each.retiring:
                each.retire().addCallback(self._retired, each)

    def _retired(self, _: object, gone: Listening) -> None:
        self.addresses = tuple(each for each in self.addresses if each is not gone)
        gone.disownServiceParent()  # type: ignore[no-untyped-call]
        _log.info("{address} is closed", event="closed-port", address=gone.address)


def _events(config: Config) -> JSONFile | None:
    """
    -> the file for events, opened.

    @raise ConfigError: it cannot be.
    """
    file = config.logging.json_
    try:
        return None if file is None else JSONFile(str(file))
    except OSError as error:
        raise ConfigError(f"{config.tree.where(('logging', 'json'))}: {file}: {error.strerror}") from None


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
    made = draft(config, collected, site)
    site.open(made.sources, [sink for _, sink in made.sinks], config.access)
    return Server(made, site, collected)
