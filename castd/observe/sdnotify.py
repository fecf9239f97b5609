"""
What a supervisor is told (C{sd_notify(3)}): ready, reloading, stopping, how things stand, and that we are alive.

Alive means that every port which requests come to still hears: each is sent a datagram of our own through the kernel,
and only when all have read it is the watchdog fed.  So it bites when the reactor hangs, and when a listener is dead
while the reactor runs.
"""

from __future__ import annotations

import os
import select
import socket
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

_log = Logger(namespace="castd")

#: The most that is asked of a supervisor beyond the time for draining, for farewells and closing.  Seconds.
FAREWELL = 5.0
#: The longest that a supervisor is waited for, where it has to be.  Seconds.
BARRIER = 1.0


class ServiceNotifier:
    """
    The way to the supervisor; without one, silence.

    @ivar mute: nothing is said: another process is the one that speaks.
    """

    def __init__(self, address: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """
        @param address: C{NOTIFY_SOCKET}: a path, or C{@name}.  Others than those of this machine are not spoken to.
        @param clock: C{CLOCK_MONOTONIC}, by which the supervisor dates a reload.  Seconds.
        """
        self._clock = clock
        self.mute = False
        self._address: str | None = None
        self._socket: socket.socket | None = None
        if address and address[0] in "/@":
            self._address = f"\0{address[1:]}" if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @property
    def heard(self) -> bool:
        """Is there a supervisor?"""
        return self._socket is not None

    def say(self, *fields: str, descriptors: tuple[int, ...] = ()) -> None:
        """
        Fields as C{READY=1}, in one datagram.  A supervisor that does not listen is no reason to end.

        @param descriptors: what goes with it.
        """
        if self._socket is None or self._address is None or self.mute:
            return
        told = "\n".join(field.replace("\n", " ") for field in fields).encode()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([told], ancillary, 0, self._address)
        except OSError as error:
            _log.warn("the supervisor cannot be told {told}: {why}", event="unsaid", told=fields[0], why=str(error))

    def reloading(self) -> None:
        """A reload has begun; READY ends it."""
        self.say("RELOADING=1", f"MONOTONIC_USEC={int(self._clock() * 1e6)}", "STATUS=reloading")

    def barrier(self) -> None:
        """
        Wait until the supervisor has done what it was told, at most L{BARRIER} seconds: it closes what it is handed
        here (C{sd_notify_barrier(3)}).
        """
        ours, theirs = os.pipe()
        try:
            self.say("BARRIER=1", descriptors=(theirs,))
            os.close(theirs)
            if self.heard and not self.mute:
                done = select.poll()
                done.register(ours, select.POLLIN)
                done.poll(BARRIER * 1000)
        finally:
            os.close(ours)

    def close(self) -> None:
        """Nothing more will be said."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def watchdog(environ: Mapping[str, str], pid: int | None = None) -> float | None:
    """-> seconds within which the supervisor wants to hear from us, L{None}: it does not."""
    period, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    mine = not whose or whose == str(os.getpid() if pid is None else pid)
    return int(period) / 1e6 if mine and period.isdecimal() and int(period) else None


class ServiceWatch:
    """
    Keeps the supervisor informed, from the start of a server to its end.
    """

    def __init__(
        self,
        reactor: Any,
        notices: ServiceNotifier,
        period: float | None,
        ports: Callable[[], Iterable[tuple[str, Any]]],
        standing: Callable[[], str],
    ) -> None:
        """
        @param period: seconds that the watchdog waits; it is fed twice in that time.
        @param ports: -> (address for people, L{IListeningPort<castd.interfaces.IListeningPort>}) of each listener.
        @param standing: -> how things stand, in a few words.
        """
        self.notices = notices
        self._reactor = reactor
        self._period = period
        self._ports = ports
        self._standing = standing
        self._call: IDelayedCall | None = None
        self._waiting: dict[Any, None] = {}
        self._proved: set[Any] = set()

    def begin(self) -> None:
        """The server has started; as soon as the reactor runs, it is ready."""
        self.notices.mute = False
        self._call = self._reactor.callLater(0, self._ready)

    def _ready(self) -> None:
        self.ready()
        self._beat()

    def ready(self) -> None:
        """It serves, for the first time or after a reload."""
        self.notices.say("READY=1", f"STATUS={self._standing()}")

    def stopping(self, drain: float) -> None:
        """
        No more requests are taken.  The watchdog is fed on: transfers are under way.

        @param drain: seconds that this may take, which the supervisor is asked to wait.
        """
        allowed = int((drain + FAREWELL) * 1e6)
        self.notices.say("STOPPING=1", f"STATUS={self._standing()}", f"EXTEND_TIMEOUT_USEC={allowed}")

    def rest(self) -> None:
        """Another process is the one that is watched; L{begin} ends that."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        self._waiting.clear()
        self.notices.mute = True

    def end(self) -> None:
        """All is over."""
        self.rest()
        self.notices.close()

    def _beat(self) -> None:
        """Ask every listener; whoever has not answered since the last time is named."""
        if self._period is None:
            self._call = None
            return
        self._call = self._reactor.callLater(self._period / 2, self._beat)
        ports = {port: address for address, port in self._ports() if port is not None}
        for port in self._waiting.keys() & ports.keys():
            _log.error("{address} does not hear: the watchdog is not fed", event="deaf", address=ports[port])
        self._proved &= ports.keys()
        # A firewall between this machine and itself is no reason to be killed: who never answered is not waited for.
        self._waiting = {port: None for port in ports if port in self._proved}
        for port in ports:
            try:
                port.probe().addCallback(self._answered, port)
            except OSError:
                # No address, no route: the machine's trouble, and nothing that a restart would mend.
                self._waiting.pop(port, None)
        self._feed()

    def _answered(self, _: object, port: Any) -> None:
        self._proved.add(port)
        if port in self._waiting:
            del self._waiting[port]
            self._feed()

    def _feed(self) -> None:
        if not self._waiting and self._call is not None:
            self.notices.say("WATCHDOG=1", f"STATUS={self._standing()}")
