"""
Notifies the service manager (C{sd_notify(3)}): castd is ready, reloads, stops or is alive, and serves so many clients.

Castd is alive if every request port is still read.  A probe is sent through the kernel to each request port, and the
watchdog is fed only when all probes were read.  So the watchdog expires when the reactor hangs, and also when one
listener is dead while the reactor runs.
"""

from __future__ import annotations

import os
import select
import socket
import time
from array import array
from collections.abc import Callable, Iterable, Mapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from castd.interfaces import IListeningPort
from castd.units import wholeNumber

_log = Logger(namespace="castd")

#: Seconds that a stop may take beyond the time for draining, for last datagrams and for closing ports.
STOP_MARGIN = 5.0
#: The most seconds that L{ServiceNotifier.barrier} waits.
BARRIER_TIMEOUT = 1.0
#: Seconds between two feedings of the watchdog, at least: a period of a microsecond must not keep the machine busy.
MIN_FEED_INTERVAL = 0.01
#: The longest period of a watchdog that systemd can write.
_MOST_USEC = (1 << 64) - 1


class ServiceNotifier:
    """
    Sends notifications to the service manager; without one it does nothing.

    @ivar muted: nothing is sent, since another process notifies the service manager.
    """

    def __init__(self, address: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """
        @param address: C{NOTIFY_SOCKET}: a path, or C{@name} for an abstract one.  Another kind (C{vsock:}) counts
            as no service manager.
        @param clock: C{CLOCK_MONOTONIC} in seconds, by which the service manager dates a reload.
        """
        self._clock = clock
        self.muted = False
        self._address: str | None = None
        self._socket: socket.socket | None = None
        if address and address[0] in "/@":
            self._address = f"\0{address[1:]}" if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @property
    def connected(self) -> bool:
        """Whether there is a service manager."""
        return self._socket is not None

    def notify(self, *fields: str, descriptors: tuple[int, ...] = ()) -> None:
        """
        Send fields such as C{READY=1} in one datagram; a failure is only logged.

        @param descriptors: descriptors of open files that go with the fields.
        """
        if self._socket is None or self._address is None or self.muted:
            return
        message = "\n".join(field.replace("\n", " ") for field in fields).encode()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([message], ancillary, 0, self._address)
        except OSError as error:
            _log.warn("the supervisor cannot be told {told}: {why}", event="unsaid", told=fields[0], why=str(error))

    def reloading(self) -> None:
        """Notify that a reload has begun; C{READY=1} ends the reload."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={int(self._clock() * 1e6)}", "STATUS=reloading")

    def barrier(self) -> None:
        """
        Wait until the service manager has handled all notifications so far, at most L{BARRIER_TIMEOUT} seconds.  It
        then closes a descriptor that is sent to it here (C{sd_notify_barrier(3)}).
        """
        try:
            reading, writing = os.pipe()
        except OSError as error:
            _log.warn("the supervisor cannot be told {told}: {why}", event="unsaid", told="BARRIER=1", why=str(error))
            return
        try:
            self.notify("BARRIER=1", descriptors=(writing,))
            os.close(writing)
            if self.connected and not self.muted:
                closed = select.poll()
                closed.register(reading, select.POLLIN)
                closed.poll(BARRIER_TIMEOUT * 1000)
        finally:
            os.close(reading)

    def close(self) -> None:
        """Send nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def watchdogPeriod(environ: Mapping[str, str], pid: int | None = None) -> float | None:
    """
    Return the seconds within which the watchdog has to be fed (C{sd_watchdog_enabled(3)}); L{None}: there is no
    watchdog.

    @param pid: the process that the watchdog is for; L{None}: this process.
    """
    period, watched = wholeNumber(environ.get("WATCHDOG_USEC", ""), _MOST_USEC), environ.get("WATCHDOG_PID", "")
    isUs = not watched or watched == str(os.getpid() if pid is None else pid)
    return period / 1e6 if isUs and period else None


class ServiceWatch:
    """
    Notifies the service manager of every change of state, from the start of a server to its end.

    @ivar notifier: sends the notifications.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        notifier: ServiceNotifier,
        period: float | None,
        ports: Callable[[], Iterable[tuple[str, IListeningPort]]],
        status: Callable[[], str],
    ) -> None:
        """
        @param period: seconds within which the watchdog has to be fed, which is done twice in that time; L{None}: there
            is no watchdog.
        @param ports: -> (address for people, port) of each listener.
        @param status: -> the state of the server in a few words.
        """
        self.notifier = notifier
        self._reactor = reactor
        self._period = period
        self._ports = ports
        self._status = status
        self._call: IDelayedCall | None = None
        # Ports that have answered a probe before, and those of them whose answer is awaited now.
        self._answering: set[IListeningPort] = set()
        self._unanswered: set[IListeningPort] = set()

    def start(self) -> None:
        """Notify that the server is ready, as soon as the reactor runs, and begin to feed the watchdog."""
        self.notifier.muted = False
        self._call = self._reactor.callLater(0, self._started)

    def _started(self) -> None:
        self.ready()
        self._probePorts()

    def ready(self) -> None:
        """Notify that castd serves, for the first time or after a reload."""
        self.notifier.notify("READY=1", f"STATUS={self._status()}")

    def stopping(self, drain: float) -> None:
        """
        Notify that no more requests are taken.  The watchdog is still fed: transfers are under way.

        @param drain: seconds that this may take, which the service manager is asked to wait.
        """
        allowed = int((drain + STOP_MARGIN) * 1e6)
        self.notifier.notify("STOPPING=1", f"STATUS={self._status()}", f"EXTEND_TIMEOUT_USEC={allowed}")

    def leave(self, pid: int) -> None:
        """Have the service manager watch another process, and send nothing until L{takeBack} or L{start}."""
        self.notifier.notify(f"MAINPID={pid}")
        self.pause()

    def takeBack(self) -> None:
        """
        Have the service manager watch this process again, as the other one has died.  It takes such a message only if
        the unit lets every process of the service notify it (C{NotifyAccess=all}).
        """
        self.notifier.muted = False
        self.notifier.notify(f"MAINPID={os.getpid()}")

    def pause(self) -> None:
        """Send nothing until L{start}: the service manager watches another process."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        self._unanswered.clear()
        self.notifier.muted = True

    def stop(self) -> None:
        """Stop notifying: the server has ended."""
        self.pause()
        self.notifier.close()

    def _probePorts(self) -> None:
        """Probe every port, and log which have not answered since the last time."""
        if self._period is None:
            self._call = None
            return
        self._call = self._reactor.callLater(max(MIN_FEED_INTERVAL, self._period / 2), self._probePorts)
        ports = {port: address for address, port in self._ports()}
        for port in self._unanswered & ports.keys():
            _log.error(
                "{address} does not receive its own probes: the watchdog is not fed", event="deaf", address=ports[port]
            )
        self._answering &= ports.keys()
        # A firewall on the loopback path is no reason to be killed: a port that never answered is not waited for.
        self._unanswered = set(self._answering)
        for port in ports:
            try:
                port.probe().addCallback(self._answered, port)
            except OSError:
                # No address or no route: a fault of the machine, which a restart would not repair.
                self._unanswered.discard(port)
        self._feedWatchdog()

    def _answered(self, _: object, port: IListeningPort) -> None:
        self._answering.add(port)
        if port in self._unanswered:
            self._unanswered.remove(port)
            self._feedWatchdog()

    def _feedWatchdog(self) -> None:
        """Feed the watchdog, unless the answer of a port is still awaited."""
        if not self._unanswered and self._call is not None:
            self.notifier.notify("WATCHDOG=1", f"STATUS={self._status()}")
