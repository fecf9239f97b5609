"""
Read all ports of the server by one reader of the reactor.

An epoll descriptor is readable when one of its members is.  So the reactor watches one descriptor, however many
transfers there are, and reading takes half the time that a reader for each port takes.  Without epoll, each port is a
reader.

Request ports and transfers share the time: as long as both have something to do, each has half of it.  Else a flood of
requests would make each block of a transfer wait for as many requests as can be read at once.

A client on this machine, or on a quick network, answers before castd would be asleep.  As long as that is so castd does
not sleep: see L{NEAR}.

Where the compiled loop is built (L{castd.native}) it fetches the events and reads the ports of transfers that are in
step; all others it reads by calling their functions, as L{EpollSet} does without it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd import native
from castd.errors import reasonOf
from castd.net.faults import logFault

_log = Logger(namespace="castd")

#: Events fetched by one call of epoll_wait.  All of them are read before the clock is looked at, and one may take a
#: third of a millisecond: with 64 a visit took 24 ms.  The next call tells of others first; a break among these would
#: not.
MOST_EVENTS = 16
#: How long one L{EpollSet.read} may last before the reactor runs timers, signals and other readers, but for the events
#: that were fetched before.  Seconds.
LONGEST_VISIT = 0.005
#: If so few ports are readable, wait so long for the next datagram (seconds): a return to the reactor would take longer
#: than a block.
FEW_EVENTS, SHORT_WAIT = 2, 0.001
#: If the last datagram came so soon (seconds) after all others were read, the next one is waited for as long without
#: sleeping: to sleep and to be woken takes about that time of the CPU, and the client waits for it as well.
NEAR = 0.00002
#: How often castd may wait so for nothing, until requests are read or the visit ends; from then on it sleeps each time.
MOST_VAIN = 4

#: The class of the kernel's sets, which the compiled loop reads: a test may have one of its own.
_KERNEL: Final = getattr(select, "epoll", None)

#: Called when something waits in a descriptor: reads a bounded part of it.
Readable: TypeAlias = Callable[[], object]


def _ignore() -> None:
    """Do nothing, for a descriptor that is not watched, or not any more."""


def _call(function: Callable[..., object], *arguments: object) -> None:
    """Call a function of a port.  A fault of one port must not end the reader of the others, be it a SystemExit."""
    try:
        function(*arguments)
    except BaseException:
        logFault("a port failed")


@implementer(IReadDescriptor)
class EpollSet:
    """
    Watches descriptors, and calls a function for each that is readable.

    It is a reader of the reactor as long as it has members.

    @ivar compiled: the compiled loop reads, where the set is the kernel's own.
    """

    def __init__(self, reactor: IReactorFDSet) -> None:
        self.compiled = native.NATIVE
        self._reactor = reactor
        # By descriptor, since these are small numbers: a list finds a function in half of the time of a dictionary.
        self._members: list[Readable] = []
        self._count = 0
        self._single: dict[int, _SingleReader] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._closed = False
        # Functions of the request ports that are readable in this round, and the time that transfers have still to get
        # before requests are read again.
        self._requests: list[Readable] = []
        self._owed = 0.0

    def __len__(self) -> int:
        return self._count

    def add(self, descriptor: int, readable: Readable, requests: bool = False) -> None:
        """
        Watch a descriptor that is not watched yet.

        @param readable: called when the descriptor is readable.
        @param requests: it is a request port: it is read after the transfers, and for a part of the time only.
        @raise OSError: the descriptor cannot be watched (C{fs.epoll.max_user_watches}, no memory).
        """
        if self._epoll is not None:
            self._epoll.register(descriptor, select.EPOLLIN)
            if requests:
                readable = partial(self._requests.append, readable)
        members = self._members
        if descriptor >= len(members):
            members.extend([_ignore] * (descriptor + 1 - len(members)))
        members[descriptor] = readable
        self._count += 1
        if self._epoll is None:
            single = self._single[descriptor] = _SingleReader(descriptor, members)
            self._reactor.addReader(single)
        elif self._count == 1:
            self._reactor.addReader(self)

    def change(self, descriptor: int, readable: Readable) -> None:
        """Have another function called for a descriptor that is watched."""
        self._members[descriptor] = readable

    def remove(self, descriptor: int, closing: bool = False) -> None:
        """
        Stop watching a descriptor.  It must be called before the descriptor is closed.

        @param closing: it is closed at once, and no other process has it: then the kernel itself removes it.
        """
        members = self._members
        if not 0 <= descriptor < len(members) or members[descriptor] is _ignore:
            return
        members[descriptor] = _ignore
        self._count -= 1
        if self._epoll is None:
            self._reactor.removeReader(self._single.pop(descriptor))
            return
        if not closing:
            with suppress(OSError, ValueError):
                # If this fails, closing the descriptor removes it from the set.
                self._epoll.unregister(descriptor)
        if not self._count:
            self._reactor.removeReader(self)

    # IReadDescriptor

    def fileno(self) -> int:
        return -1 if self._epoll is None or self._closed else self._epoll.fileno()

    def logPrefix(self) -> str:
        return "castd"

    def doRead(self) -> None:
        # A reactor that is shutting down closes this set, though it has just found it readable.
        if not self._closed:
            self.read(SHORT_WAIT)

    def read(self, wait: float = 0.0) -> None:
        """
        Call the functions of all readable descriptors, over and over for at most L{LONGEST_VISIT}.

        @param wait: seconds to wait for more datagrams if few ports are readable.
        """
        if self._epoll is None:
            for single in list(self._single.values()):
                single.doRead()
            return
        clock = time.monotonic
        begun = clock()
        until = begun + LONGEST_VISIT
        timeout = 0.0
        while True:
            entered = begun
            try:
                events, begun, now = self._readRounds(begun, until, timeout, wait)
            except OSError as error:
                # Not raised: the reactor would drop this reader, and no port would be read any more.
                with suppress(BaseException):
                    _log.error("the ports cannot be read: {why}", event="unread", why=reasonOf(error))
                return
            except BaseException:
                # Of the compiled loop: no memory for a datagram.
                logFault("the ports cannot be read")
                return
            if self._requests:
                self._readRequests(events, now - entered)
                now = clock()
            if not events or now >= until:
                return
            begun = now
            timeout = wait if events <= FEW_EVENTS else 0.0

    def _readRounds(self, begun: float, until: float, timeout: float, wait: float) -> tuple[int, float, float]:
        """
        Fetch events and call the functions of the descriptors, over and over, until a request port is readable, nothing
        is, or it is time.

        @param begun: the present instant.
        @param until: no round begins later.
        @param timeout: seconds to wait for the first events.
        @param wait: seconds to wait for further ones, if few ports were readable.
        @return: how many ports were readable in the last round, when that round began, and the present instant.
        @raise OSError: the events cannot be fetched.
        """
        assert self._epoll is not None
        if self.compiled and type(self._epoll) is _KERNEL:
            return native.readRounds(
                self._epoll.fileno(),
                self._members,
                self._requests,
                _call,
                begun,
                until,
                timeout,
                wait,
                FEW_EVENTS,
                NEAR,
                MOST_VAIN,
            )
        members, poll, clock = self._members, self._epoll.poll, time.monotonic
        awake, vain = False, 0
        while True:
            events = poll(0 if awake else timeout, MOST_EVENTS)
            if timeout:
                while awake and not events and clock() - begun < NEAR:
                    events = poll(0, MOST_EVENTS)
                if awake and not events:
                    vain += 1
                    events = poll(timeout, MOST_EVENTS)
                awake = vain < MOST_VAIN and clock() - begun < NEAR
            for descriptor, _ in events:
                try:
                    # Looked up only now: what was called before may have closed the descriptor.
                    members[descriptor]()
                except BaseException:
                    # As in _call, without the call.
                    logFault("a port failed")
            now = clock()
            if not events or now >= until or self._requests:
                return len(events), begun, now
            begun = now
            timeout = wait if len(events) <= FEW_EVENTS else 0

    def _readRequests(self, events: int, spent: float) -> None:
        """
        Read the request ports that are readable, unless the transfers have still to get their half of the time.

        @param events: how many ports were readable in the last round.
        @param spent: seconds that the transfers have taken since requests could be read.
        """
        waiting = self._requests[:]
        self._requests.clear()
        self._owed -= spent
        if self._owed > 0 and events > len(waiting):
            return  # they are readable still, in the next round
        begun = time.monotonic()
        for readable in waiting:
            try:
                readable()
            except BaseException:
                logFault("a port failed")
        self._owed = time.monotonic() - begun

    def connectionLost(self, reason: Failure) -> None:
        """Close the set, as the reactor is shutting down."""
        self._closed = True
        if self._epoll is not None:
            self._epoll.close()


@implementer(IReadDescriptor)
class _SingleReader:
    """
    Reads one descriptor, where there is no epoll.
    """

    def __init__(self, descriptor: int, members: list[Readable]) -> None:
        self._descriptor = descriptor
        self._members = members

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "castd"

    def doRead(self) -> None:
        try:
            self._members[self._descriptor]()
        except BaseException:
            logFault("a port failed")

    def connectionLost(self, reason: Failure) -> None:
        """Do nothing: the port closes the descriptor."""
