"""
A service file becomes a running server: the site, and a service for each address that requests come to.
"""

from __future__ import annotations

import os
import random
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from castd import __version__
from castd.config.config import Config
from castd.config.plugin import Collected
from castd.errors import ConfigError, Refused, Unavailable
from castd.observe.sdnotify import ServiceNotifier, ServiceWatch
from castd.observe.status import addressStatus, resources
from castd.server.random import BufferedSystemRandom
from castd.server.site import Site
from castd.service.address import ListeningAddress
from castd.service.admin import AdminPorts
from castd.service.build import SINKS, Build, build, kinds, read
from castd.service.logs import Logs
from castd.service.privileges import UnprivilegedUser
from castd.service.reload import PortChange
from castd.upgrade.handover import Handover

__all__ = ["SINKS", "Server", "compose", "kinds", "read"]

_log = Logger(namespace="castd")


class Server(MultiService):
    """
    Everything that a service file describes.  As long as it has not been started no socket is open.

    @ivar site: what its transports share.
    @ivar addresses: where it listens.
    @ivar file: the service file.
    @ivar since: the instant it was made.
    @ivar logs: what it writes of what happens.
    @ivar user: whom root will have made place for when it has started; L{None}: it stays who it is.
    @ivar stopping: it takes no more requests, and ends when those under way are served.
    @ivar ending: it was told to stop; else another process has taken over.
    @ivar succession: the processes before and after this one.
    @ivar porch: the operator's ways in.
    @ivar watch: what a supervisor is told; nothing, until L{supervised}.
    """

    def __init__(self, made: Build, site: Site, collected: Collected) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.config = made.config
        self.site = site
        self.addresses = tuple(made.addresses.values())
        # A daemon's working directory is another one.
        self.file = made.config.file.absolute()
        self.since = site.reactor.seconds()
        self.logs = Logs()
        self.user: UnprivilegedUser | None = None
        self._collected = collected
        self._sinks = made.sinks
        self.stopping = self.ending = False
        self.succession = Handover(self)
        self.watch = ServiceWatch(site.reactor, ServiceNotifier(), None, self.ports, self.standing)
        answers = {"status": self.status, "reload": self._answerReload, "upgrade": self.succession.answer}
        self.porch = AdminPorts(self, answers)
        for each in self.addresses:
            each.setServiceParent(self)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """
        Bind all ports, or none.

        @raise ConfigError: with each one that cannot be had.
        """
        faults: list[str] = []
        for openOnes in (self._openLogs, self.porch.open):
            try:
                openOnes()
            except ConfigError as error:
                faults += error.faults
        for service in self:
            try:
                service.privilegedStartService()
            except ConfigError as error:
                faults += error.faults
        if faults:
            if self.succession.predecessor is not None:
                self.succession.predecessor.refuse(faults)
            self.porch.abandon()
            self.stopService()
            raise Unavailable(*faults)

    def _openLogs(self) -> None:
        """Not before: who only checks a service file leaves nothing behind."""
        with self.acting():
            self.logs.open(self.config)
        globalLogPublisher.addObserver(self.logs)

    def acting(self) -> AbstractContextManager[None]:
        """As who it will be when root is given up."""
        return nullcontext() if self.user is None else self.user.acting()

    def supervised(self, notifier: ServiceNotifier, period: float | None) -> None:
        """Keep a supervisor informed, and its watchdog fed; see L{ServiceWatch}."""
        self.watch = ServiceWatch(self.site.reactor, notifier, period, self.ports, self.standing)

    def ports(self) -> list[tuple[str, Any]]:
        """-> address for people, and port, wherever it listens."""
        return [(each.address, each.port) for each in self.addresses if each.port is not None and not each.port.paused]

    def standing(self) -> str:
        """-> how things stand, in a few words."""
        admission = self.site.admission
        state = "draining" if self.stopping else "serving"
        return f"{state}: {admission.casts} transfers, {admission.receivers.total()} receivers"

    def startService(self) -> None:
        """And clear away what uploads a crash has left unfinished."""
        self._openLogs()
        self.porch.open()
        try:
            super().startService()  # type: ignore[no-untyped-call]
        except ConfigError:
            self.porch.abandon()
            raise
        if self.succession.predecessor is None:
            self.succession.begin()
        for drops in list(self.site.drops.values())[:1]:
            for directory in drops.directories:
                directory.removeAbandoned().addErrback(_unswept)

    def stopService(self) -> Deferred[Any]:
        """-> a Deferred that fires when all transfers are over, all ports closed, and that was written down."""
        self.stopping = self.ending = True
        if self.succession.successor is not None:
            self.succession.successor.abandon()
        self.site.ports.freezeStore(True)
        self.watch.stopping(self.site.limits.drain)
        stopping: Deferred[Any] = super().stopService()  # type: ignore[no-untyped-call]
        return stopping.addBoth(self._stopped)

    def _stopped(self, result: Any) -> Deferred[Any]:
        self.watch.stop()
        self.logs.flush()
        if not self.logs.keeps:
            globalLogPublisher.removeObserver(self.logs)
            self.logs.close()
        self.porch.forget()
        return self.porch.shut().addCallback(lambda _: result)

    def unready(self) -> str | None:
        """-> why requests are not answered now, L{None}: they are."""
        if self.stopping:
            return "draining"
        if any(each.port is None for each in self.addresses):
            return "not every port is open"
        for entry in self.config.content:
            path = getattr(entry.options, "path", None)
            if path is not None and not os.path.isdir(path):
                return f"{entry.name} is not there"
        return None

    def status(self) -> dict[str, Any]:
        """-> what is under way, as plain data."""
        now = self.site.reactor.seconds()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "file": str(self.file),
            "state": "draining" if self.stopping else "serving",
            "unready": self.unready(),
            "before": None if self.site.predecessor is None else self.site.predecessor.pid,
            "seconds": round(now - self.since, 3),
            "addresses": [addressStatus(each, now) for each in self.addresses],
            "held": resources(self.site),
        }

    def _answerReload(self) -> dict[str, Any]:
        faults = self.reread()
        return {"ok": not faults, "faults": faults}

    # Reload.

    def reread(self) -> tuple[str, ...]:
        """
        Read the service file again, and be what it says; on any fault everything stays as it was.

        -> the faults, as for a start; none: it is in force.
        """
        if self.stopping:
            return ("castd is stopping",)
        if self.succession.busy:
            return ("an upgrade is under way",)
        self.watch.notifier.reloading()
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
        made = build(config, self._collected, self.site, self._sinks)
        doors, outlets = self.porch.opened(config), None
        try:
            outlets = self.logs.opened(config)
            PortChange(self.addresses, made).bind()
        except ConfigError:
            if outlets is not None:
                outlets.close()
            self.porch.drop(doors)
            raise
        self.logs.take(outlets)
        self.porch.take(doors)
        self.config, self._sinks = config, made.sinks
        self.site.adjust(config.limits)
        self.site.open(made.sources, [sink for _, sink in made.sinks], config.access)
        self._listen(made)
        self.site.ports.reconcileStore()

    def _listen(self, made: Build) -> None:
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

    def _retired(self, _: object, gone: ListeningAddress) -> None:
        self.addresses = tuple(each for each in self.addresses if each is not gone)
        gone.disownServiceParent()  # type: ignore[no-untyped-call]
        _log.info("{address} is closed", event="closed-port", address=gone.address)


def _unswept(failure: Failure) -> None:
    """What a crash has left is still there; it is in nobody's way, and the next start tries again."""
    if failure.check(OSError, Refused) is None:
        _log.failure("unfinished uploads are still there", failure, event="fault")
    else:
        _log.warn("unfinished uploads may still be there: {why}", event="unswept", why=str(failure.value))


def compose(
    config: Config, collected: Collected, reactor: Any, ports: Any, chance: random.Random | None = None
) -> Server:
    """
    Make all that a service file names, without opening a socket.

    @param ports: an L{IPorts<castd.interfaces.IPorts>}.
    @param chance: the system's, if not given.
    @raise ConfigError: with everything that cannot be made.
    """
    site = Site(reactor, chance or BufferedSystemRandom(), ports, config.limits)
    made = build(config, collected, site)
    site.open(made.sources, [sink for _, sink in made.sinks], config.access)
    server = Server(made, site, collected)
    server.porch.ways(config)
    return server
