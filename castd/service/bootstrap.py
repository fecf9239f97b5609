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

from twisted.application.service import Service
from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTime,
)
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
from castd.upgrade.channel import ChannelToPredecessor, ChannelToSuccessor
from castd.upgrade.predecessor import Inheritance, Predecessor, receiveInheritance
from castd.upgrade.spawn import spawn
from castd.upgrade.successor import Successor

_log = Logger(namespace="castd")


def prepare(file: Path | str, reactor: IReactorCore, user: UnprivilegedUser | None = None) -> Server:
    """
    Read the service file and make everything that it names; no request port is open yet.

    @param reactor: nothing may be scheduled with it yet.
    @param user: with whose rights all of it is read and made, so that what this user may not have is known now, and not
        at the first reload, without root; L{None}: with the rights of this process.
    @raise ConfigError: one line for each fault of the file; L{Unavailable}: what it asks for is not here.
    """
    useMonotonicClock(IReactorTime(reactor))
    raiseDescriptorLimit()
    collectGarbageSeldom()
    inheritance = inherit()
    try:
        server, ports = _compose(file, reactor, inheritance, user)
    except ConfigError as error:
        if inheritance is not None:
            inheritance.refuse(error.faults)
        raise
    server.admin.runtimeDirectory = os.environ.get("RUNTIME_DIRECTORY")
    threads, start = IReactorFromThreads(reactor), partial(spawn, IReactorProcess(reactor))
    SignalService(threads, signal.SIGHUP, server.reread).setServiceParent(server)
    SignalService(threads, signal.SIGUSR2, server.handover.upgrade).setServiceParent(server)
    toSuccessor = partial(ChannelToSuccessor, IReactorFDSet(reactor))
    server.handover.makeSuccessor = lambda: Successor(server, ports.boundSockets, start, reactor.stop, toSuccessor)
    if inheritance is not None:
        toPredecessor = partial(ChannelToPredecessor, IReactorFDSet(reactor))
        server.handover.predecessor = Predecessor(server, inheritance, reactor.stop, toPredecessor)
        server.handover.predecessor.setServiceParent(server)
    # What is here now stays: the collector need not look at all of it again and again.
    gc.freeze()
    return server


def inherit() -> Inheritance | None:
    """
    -> what a predecessor passes on to this process, L{None}: there is none.

    @raise Unavailable: it has died.
    """
    try:
        return receiveInheritance(os.environ)
    except (OSError, EOFError) as error:
        raise Unavailable(f"the process before this one is no more: {error}") from None


def _compose(
    file: Path | str, reactor: IReactorCore, inheritance: Inheritance | None, user: UnprivilegedUser | None
) -> tuple[Server, Ports]:
    """-> the server, with the sockets that it gets from a supervisor or a predecessor, and who makes its ports."""
    sockets, stored, unfit = passedSockets(takeVariables())
    if inheritance is not None:
        sockets, stored = inheritance.adopted, inheritance.inherited
    random = BufferedSystemRandom()
    notifier = ServiceNotifier(os.environ.get("NOTIFY_SOCKET"))
    # The predecessor is the one that speaks to the service manager until this process has taken over.
    notifier.muted = inheritance is not None
    ports = Ports(IReactorFDSet(reactor), random, sockets, stored, FdStore(notifier), inheritance is not None)
    collected = collect()
    with nullcontext() if user is None else user.asEffectiveUser():
        config = read(file, collected)
        try:
            server = compose(config, collected, IReactorTime(reactor), ports, random)
        except ConfigError as error:
            raise Unavailable(*error.faults) from None
    server.user = user
    server.setServiceManager(notifier, watchdogPeriod(os.environ))
    reactor.callWhenRunning(reportUnused, (*collected.faults, *unfit), ports)
    return server, ports


def reportUnused(faults: Iterable[str], ports: Ports) -> None:
    """Log which plugins, and which of the passed sockets, are not used, though somebody may count on them."""
    for fault in faults:
        _log.warn("{why}", event="unfit", why=fault)
    for host, port in ports.unclaimed():
        where = hostPort((host, port))
        _log.warn("{address} was passed, and no transport listens there", event="unclaimed", address=where)


class SignalService(Service):
    """Calls a function at a signal, from its start on; the signal does not kill, whatever comes of the call."""

    def __init__(self, reactor: IReactorFromThreads, number: int, action: Callable[[], object]) -> None:
        self._reactor = reactor
        self._number = number
        self._action = action

    def startService(self) -> None:
        super().startService()
        # From the reactor's own loop: a signal comes in the middle of anything.
        signal.signal(self._number, lambda *_: self._reactor.callFromThread(self._action))


def useMonotonicClock(reactor: IReactorTime) -> None:
    """Let the reactor count time that nobody sets back: with C{time.time} a corrected clock would stop every timer."""
    reactor.seconds = time.monotonic  # type: ignore[method-assign]


def collectGarbageSeldom() -> None:
    """
    Collect garbage seldom.

    A transfer makes some hundred objects and leaves few cycles, and in a storm of requests the collector took a quarter
    of the time (benchmarks/, workload storm).
    """
    gc.set_threshold(20_000, 20, 50)


def raiseDescriptorLimit() -> int:
    """
    Ask for as many descriptors as this process may have: each transfer needs one or two.

    @return: how many that are.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def exitStatus(error: ConfigError) -> int:
    """-> the exit status of C{sysexits.h}: C{EX_UNAVAILABLE} if it may help to try again, else C{EX_CONFIG}."""
    return os.EX_UNAVAILABLE if isinstance(error, Unavailable) else os.EX_CONFIG
