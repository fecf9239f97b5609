"""
What C{twistd castd} and C{castd serve} both do before anything is served.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from twisted.application.service import Service
from twisted.logger import FilteringLogObserver, ILogObserver, LogEvent, Logger, LogLevel, LogLevelFilterPredicate
from zope.interface import implementer

from castd.adopt import adopted
from castd.chance import Chance
from castd.config import Logging
from castd.listening import showAddress
from castd.maker import collect
from castd.observe import jsonLog, textLog
from castd.ports import Ports
from castd.service import Server, compose, read
from castd.supervise import Notices, watchdog

_log = Logger(namespace="castd")


def prepare(file: Path | str, reactor: Any) -> Server:
    """
    Read and make everything; no request port is open yet.

    @param reactor: nothing may be scheduled with it yet.
    @raise ConfigError: one line for each fault.
    """
    steady(reactor)
    moreDescriptors()
    seldomCollect()
    collected = collect()
    config = read(file, collected)
    chance = Chance()
    sockets, unfit = adopted(os.environ)
    ports = Ports(reactor, chance, sockets)
    server = compose(config, collected, reactor, ports, chance)
    server.supervised(Notices(os.environ.get("NOTIFY_SOCKET")), watchdog(os.environ))
    server.runtime = os.environ.get("RUNTIME_DIRECTORY")
    Hangup(reactor, server.reread).setServiceParent(server)  # type: ignore[no-untyped-call]
    reactor.callWhenRunning(report, unfit, ports)
    # What is here now stays: the collector need not look at all of it again and again.
    gc.freeze()
    return server


def report(unfit: Iterable[str], ports: Ports) -> None:
    """Say which of the sockets that were passed are not used: a unit and a service file that do not fit each other."""
    for fault in unfit:
        _log.warn("{why}", event="unfit", why=fault)
    for host, port in ports.unclaimed():
        told = showAddress(host, port)
        _log.warn("{address} was passed, and no transport listens there", event="unclaimed", address=told)


@implementer(ILogObserver)
class Log:
    """The log, from the level on that the service file says, and in its format."""

    def __init__(self, options: Logging, stream: IO[str]) -> None:
        self._stream = stream
        self._options: Logging | None = None
        self.adjust(options)

    def adjust(self, options: Logging) -> None:
        """Other options hold from now on."""
        if options != self._options:
            self._options = options
            write = {"text": textLog, "json": jsonLog}[options.format](self._stream)
            least = LogLevelFilterPredicate(LogLevel.levelWithName(options.level))
            self._observer = FilteringLogObserver(write, [least])

    def __call__(self, event: LogEvent) -> None:
        self._observer(event)


class Hangup(Service):
    """Reloads at SIGHUP, from the start on; in a server that is stopping it does nothing, and does not kill it."""

    def __init__(self, reactor: Any, reload: Callable[[], object]) -> None:
        self._reactor = reactor
        self._reload = reload

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # From the reactor's own loop: a signal comes in the middle of anything.
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))


def steady(reactor: Any) -> None:
    """Let the reactor count time that nobody sets back: with C{time.time} a corrected clock would stop every timer."""
    reactor.seconds = time.monotonic


def seldomCollect() -> None:
    """
    Collect garbage seldom: a transfer makes some hundred objects and leaves few cycles, and in a storm of requests the
    collector took a quarter of the time (benchmarks/, workload storm).
    """
    gc.set_threshold(20_000, 20, 50)


def moreDescriptors() -> int:
    """Each transfer needs one or two; ask for as many as this process may have.  -> how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
