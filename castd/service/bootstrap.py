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
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from castd.config.plugin import collect
from castd.errors import ConfigError, Unavailable
from castd.net.activation import passedSockets, takeVariables
from castd.net.fdstore import FdStore
from castd.net.ports import Ports
from castd.observe.sdnotify import ServiceNotifier, watchdogPeriod
from castd.request import hostPort
from castd.server.random import BufferedSystemRandom
from castd.service.privileges import UnprivilegedUser
from castd.service.service import Server, compose, read
from castd.upgrade.predecessor import Inheritance, Predecessor, legacy
from castd.upgrade.spawn import spawn
from castd.upgrade.successor import Successor

_log = Logger(namespace="castd")


def prepare(file: Path | str, reactor: Any, user: UnprivilegedUser | None = None) -> Server:
    """
    Read and make everything; no request port is open yet.

    @param reactor: nothing may be scheduled with it yet.
    @param user: with whose rights all of it is read and made, so that what he cannot have is known now, and not by the
        first reload when root is no more; L{None}: as we are.
    @raise ConfigError: one line for each fault of the file; L{Unavailable}: what it asks for is not here.
    """
    steady(reactor)
    moreDescriptors()
    seldomCollect()
    given = before()
    try:
        server = _made(file, reactor, given, user)
    except ConfigError as error:
        if given is not None:
            given.refuse(error.faults)
        raise
    server.porch.runtime = os.environ.get("RUNTIME_DIRECTORY")
    SignalService(reactor, signal.SIGHUP, server.reread).setServiceParent(server)  # type: ignore[no-untyped-call]
    SignalService(reactor, signal.SIGUSR2, server.succession.upgrade).setServiceParent(server)  # type: ignore[no-untyped-call]
    server.succession.successors = lambda: Successor(server, partial(spawn, reactor), reactor.stop)
    if given is not None:
        server.succession.predecessor = Predecessor(server, given, reactor.stop)
        server.succession.predecessor.setServiceParent(server)
    # What is here now stays: the collector need not look at all of it again and again.
    gc.freeze()
    return server


def before() -> Inheritance | None:
    """
    -> what the process before this one hands over, if there is one.

    @raise Unavailable: it has died.
    """
    try:
        return legacy(os.environ)
    except (OSError, EOFError) as error:
        raise Unavailable(f"the process before this one is no more: {error}") from None


def _made(file: Path | str, reactor: Any, given: Inheritance | None, user: UnprivilegedUser | None) -> Server:
    """The server, and what it gets from others: sockets, and who is to be told."""
    sockets, stored, unfit = passedSockets(takeVariables())
    if given is not None:
        sockets, stored = given.adopted, given.inherited
    chance = BufferedSystemRandom()
    notifier = ServiceNotifier(os.environ.get("NOTIFY_SOCKET"))
    # Till it has taken over nobody is to hear of it.
    notifier.muted = given is not None
    ports = Ports(reactor, chance, sockets, stored, FdStore(notifier), given is not None)
    collected = collect()
    with nullcontext() if user is None else user.acting():
        config = read(file, collected)
        try:
            server = compose(config, collected, reactor, ports, chance)
        except ConfigError as error:
            raise Unavailable(*error.faults) from None
    server.user = user
    server.supervised(notifier, watchdogPeriod(os.environ))
    reactor.callWhenRunning(report, (*collected.faults, *unfit), ports)
    return server


def report(unfit: Iterable[str], ports: Ports) -> None:
    """Say which plugins, and which of the sockets that were passed, are not used, though somebody may count on them."""
    for fault in unfit:
        _log.warn("{why}", event="unfit", why=fault)
    for host, port in ports.unclaimed():
        where = hostPort((host, port))
        _log.warn("{address} was passed, and no transport listens there", event="unclaimed", address=where)


class SignalService(Service):
    """Does something at a signal, from the start on; the signal does not kill, whatever comes of it."""

    def __init__(self, reactor: Any, number: int, do: Callable[[], object]) -> None:
        self._reactor = reactor
        self._number = number
        self._do = do

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # From the reactor's own loop: a signal comes in the middle of anything.
        signal.signal(self._number, lambda *_: self._reactor.callFromThread(self._do))


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


def exitStatus(error: ConfigError) -> int:
    """-> the exit status that says it, of C{sysexits.h}: may it help to try again, or does the file have to change?"""
    return os.EX_UNAVAILABLE if isinstance(error, Unavailable) else os.EX_CONFIG
