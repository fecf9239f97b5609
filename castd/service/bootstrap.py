"""
Prepares a server, for C{twistd castd} and for C{castd serve}: reads the service file, and sets up the process.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import twisted
from twisted.application.service import Service
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTime,
)
from twisted.logger import Logger

import castd
from castd.config.plugin import collect
from castd.errors import ConfigError, Unavailable, reasonOf
from castd.files.threads import DiskThreads
from castd.net.activation import passedSockets, takeVariables
from castd.net.fdstore import FdStore
from castd.net.port_stock import MOST_STOCK
from castd.net.ports import Ports
from castd.net.timers import useMonotonicClock
from castd.observe.sdnotify import ServiceNotifier, watchdogPeriod
from castd.request import hostPort
from castd.server.random import BufferedSystemRandom
from castd.service.build import read
from castd.service.privileges import UnprivilegedUser
from castd.service.service import Server, compose
from castd.upgrade.channel import ChannelToPredecessor, ChannelToSuccessor
from castd.upgrade.handover import whyNever
from castd.upgrade.predecessor import Inheritance, Predecessor, receiveInheritance
from castd.upgrade.spawn import spawn
from castd.upgrade.successor import Successor

_log = Logger(namespace="castd")

#: Descriptors of one cast: two for its port, one for its file.
CAST_DESCRIPTORS = 3
#: Descriptors that the rest of the process needs: request ports, admin ports with their connections, logs, directories.
OTHER_DESCRIPTORS = 80
#: So many casts are tried, however few descriptors there are.
MIN_CASTS = 4
#: Files that castd consists of: the interpreter, its library, Twisted, and castd itself.
PROGRAM = (sys.executable, os.__file__, twisted.__file__, castd.__file__)


def prepare(file: Path | str, reactor: IReactorCore, user: UnprivilegedUser | None = None) -> Server:
    """
    Read the service file and make everything that it names; no request port is open yet.

    @param reactor: no call may be scheduled with it yet.
    @param user: everything is read and made with the rights of this user, so that a missing right is found now, and
        not at the first reload, which has no root; L{None}: with the rights of this process.
    @raise ConfigError: with one line for each fault of the file.
    @raise Unavailable: this machine does not have what the file asks for.
    """
    useMonotonicClock(IReactorTime(reactor))
    descriptors = raiseDescriptorLimit()
    collectGarbageSeldom()
    inheritance = inherit()
    try:
        if user is not None:
            user.requireReadable(PROGRAM)
        server, ports = _compose(file, reactor, inheritance, user)
    except ConfigError as error:
        if inheritance is not None:
            inheritance.refuse(error.faults)
        raise
    server.site.admission.affordable = affordableCasts(descriptors)
    reactor.callWhenRunning(reportDescriptors, descriptors, server)
    server.admin.runtimeDirectory = os.environ.get("RUNTIME_DIRECTORY")
    threads, start = IReactorFromThreads(reactor), partial(spawn, IReactorProcess(reactor))
    server.histories.stateDirectory = os.environ.get("STATE_DIRECTORY")
    server.histories.thread = DiskThreads(1)
    server.histories.identify = server.site.machines.identify
    server.recorders.thread = DiskThreads(1)
    server.admin.thread = DiskThreads(1)
    # More than one: a disk that does not answer may keep some for ever.
    server.thread = DiskThreads(4, waits=False)
    SignalService(threads, signal.SIGHUP, server.reread).setServiceParent(server)
    # As twistd handles it for its own log.
    SignalService(threads, signal.SIGUSR1, server.rotateLogs).setServiceParent(server)
    SignalService(threads, signal.SIGUSR2, server.handover.upgrade).setServiceParent(server)
    stopper = Stopper(reactor, server)
    reactor.callWhenRunning(stopper.install)
    server.handover.whyNever = whyNever()
    toSuccessor = partial(ChannelToSuccessor, IReactorFDSet(reactor))
    server.handover.makeSuccessor = lambda: Successor(server, ports.boundSockets, start, stopper.stop, toSuccessor)
    if inheritance is not None and not inheritance.orphaned:
        toPredecessor = partial(ChannelToPredecessor, IReactorFDSet(reactor))
        server.handover.predecessor = Predecessor(server, inheritance, stopper.stop, toPredecessor)
        server.handover.predecessor.setServiceParent(server)
    # The objects that exist now stay for the whole run: the collector need not visit them again and again.
    gc.freeze()
    return server


def inherit() -> Inheritance | None:
    """
    Receive what a predecessor passes on to this process.

    @return: L{None}: this process has no predecessor.
    @raise Unavailable: the predecessor passes nothing on.
    """
    try:
        return receiveInheritance(os.environ)
    except (OSError, EOFError) as error:
        raise Unavailable(f"the process before this one passes nothing on: {reasonOf(error)}") from None


def _compose(
    file: Path | str, reactor: IReactorCore, inheritance: Inheritance | None, user: UnprivilegedUser | None
) -> tuple[Server, Ports]:
    """Return (the server, with the sockets of a supervisor or a predecessor; the maker of its ports)."""
    sockets, stored, unfit = passedSockets(takeVariables())
    if inheritance is not None:
        sockets, stored = inheritance.adopted, inheritance.inherited
    random = BufferedSystemRandom()
    notifier = ServiceNotifier(os.environ.get("NOTIFY_SOCKET"))
    # Until this process has taken over, only the predecessor notifies the service manager.
    notifier.muted = follows = inheritance is not None and not inheritance.orphaned
    ports = Ports(IReactorFDSet(reactor), random, sockets, stored, FdStore(notifier), follows)
    collected = collect()
    with nullcontext() if user is None else user.asEffectiveUser():
        server = compose(read(file, collected), collected, IReactorTime(reactor), ports, random)
    server.user = user
    server.setServiceManager(notifier, watchdogPeriod(os.environ))
    reactor.callWhenRunning(reportUnused, (*collected.faults, *unfit), ports)
    return server, ports


def reportUnused(faults: Iterable[str], ports: Ports) -> None:
    """Log each plugin that cannot be used, and each passed socket that the service file does not use."""
    for fault in faults:
        _log.warn("{why}", event="unfit", why=fault)
    for host, port in ports.unclaimed():
        where = hostPort((host, port))
        _log.warn("{address} was passed, and no transport listens there", event="unclaimed", address=where)


class SignalService(Service):
    """Calls a function whenever a signal comes, once the service has started; the signal does not end the process."""

    def __init__(self, reactor: IReactorFromThreads, number: int, action: Callable[[], object]) -> None:
        self._reactor = reactor
        self._number = number
        self._action = action

    def startService(self) -> None:
        super().startService()
        # Called by the reactor's loop, since the signal may interrupt any code.
        signal.signal(self._number, lambda *_: self._reactor.callFromThread(self._action))


class Stopper:
    """
    Stops the reactor at most once, since to stop one that stops already is an error in Twisted.

    There are two reasons to stop it: a signal, SIGTERM or SIGINT; and L{stop}, which an upgrade calls.  It does so in
    the old process, when its transfers have ended or the new one is being stopped, and in the new one, if the old one
    goes on by itself.

    A signal is passed on to the handler that Twisted has installed before: that stops the reactor, and once it has
    stopped has the process end by that signal, as whoever has started it expects.  Each signal is logged; one that
    comes while castd stops is not passed on.

    @ivar _told: the reactor was told to stop; after a signal it may hear of that only in its next turn.
    """

    def __init__(self, reactor: IReactorCore, server: Server) -> None:
        self._reactor = reactor
        self._server = server
        self._told = False

    def stop(self) -> None:
        """Stop the reactor, unless it was told that already."""
        if not self._told:
            with suppress(ReactorNotRunning):
                self._reactor.stop()
                self._told = True

    def install(self) -> None:
        """Handle the signals, once the reactor has installed its own handlers."""
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if callable(before):
                signal.signal(number, partial(self._handle, before))

    def _handle(self, before: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
        first = not self._told and not self._server.stopping
        self._told = True
        # Called by the loop: a signal may interrupt a line that is being written.
        threads, name = IReactorFromThreads(self._reactor), signal.Signals(number).name
        threads.callFromThread(self._server.logStopping, name, first)
        if first:
            before(number, frame)


def collectGarbageSeldom() -> None:
    """
    Make the cyclic garbage collector run seldom.

    A transfer makes some hundred objects and leaves few cycles.  With Python's defaults the collector took a quarter of
    the time in the workload storm of benchmarks/.
    """
    gc.set_threshold(20_000, 20, 50)


def raiseDescriptorLimit() -> int:
    """
    Raise the soft limit of open descriptors to the hard limit: each transfer needs up to L{CAST_DESCRIPTORS}.

    @return: the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def affordableCasts(descriptors: int) -> float:
    """Return for how many casts there are descriptors: each needs two for its port and one for its file."""
    if descriptors == resource.RLIM_INFINITY:
        return float("inf")
    stock = min(2 * MOST_STOCK, descriptors // 8)
    return max(MIN_CASTS, (descriptors - stock - OTHER_DESCRIPTORS) // CAST_DESCRIPTORS)


def neededDescriptors(casts: int) -> int:
    """Return with how many descriptors so many casts are affordable: the fewest, but for the smallest numbers."""
    used = CAST_DESCRIPTORS * casts + OTHER_DESCRIPTORS
    # The stock is an eighth of all.
    return used + min(2 * MOST_STOCK, (used - 1) // 7)


def reportDescriptors(descriptors: int, server: Server) -> None:
    """Warn if the service file allows more casts than there are descriptors for."""
    casts, affordable = server.site.limits.casts, server.site.admission.affordable
    if affordable < casts:
        _log.warn(
            "limits.casts: {casts} need more than the {descriptors} descriptors that this process may have (ulimit -n, "
            "LimitNOFILE): {affordable} transfers at once, others are not answered",
            event="few-descriptors",
            casts=casts,
            descriptors=descriptors,
            affordable=affordable,
        )


def exitStatus(error: ConfigError) -> int:
    """Return the exit status of C{sysexits.h}: C{EX_UNAVAILABLE} if it may help to try again, else C{EX_CONFIG}."""
    return os.EX_UNAVAILABLE if isinstance(error, Unavailable) else os.EX_CONFIG
