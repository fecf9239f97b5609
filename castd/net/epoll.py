"""
One reader of the reactor for all ports of the server.

An epoll descriptor is readable when one of its members is, so the reactor watches one descriptor, however many
transfers there are; reading the members here costs half of what a reader each does.  Without epoll, each port is a
reader.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger(namespace="castd")

#: Events fetched by one call of epoll_wait.
MOST_EVENTS = 64
#: How long one visit may last before timers, signals and other readers get their share.  Seconds.
LONGEST_VISIT = 0.005
#: With so few busy ports the way back through the reactor would cost more than a block does: wait here so long for the
#: next datagram.  Seconds.
FEW_EVENTS, SHORT_WAIT = 2, 0.001

#: Called when something waits in a descriptor: reads a bounded part of it.
Readable: TypeAlias = Callable[[], object]


def _ignore() -> None:
    """For a descriptor that is not watched any more."""


@implementer(IReadDescriptor)
class EpollSet:
    """
    Watches descriptors, and calls a function for each that is readable.

    It is a reader of the reactor as long as it has members.
    """

    def __init__(self, reactor: IReactorFDSet) -> None:
        self._reactor = reactor
        self._members: dict[int, Readable] = {}
        self._single: dict[int, _SingleReader] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None

    def __len__(self) -> int:
        return len(self._members)

    def add(self, descriptor: int, readable: Readable) -> None:
        """
        Watch this descriptor; one that is watched already gets another C{readable}.

        @raise OSError: it cannot be watched (C{fs.epoll.max_user_watches}, no memory).
        """
        if descriptor in self._members:
            self._members[descriptor] = readable
            return
        if self._epoll is not None:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._members[descriptor] = readable
        if self._epoll is None:
            single = self._single[descriptor] = _SingleReader(descriptor, self._members)
            self._reactor.addReader(single)
            return
        if len(self._members) == 1:
            self._reactor.addReader(self)

    def remove(self, descriptor: int) -> None:
        """Watch this descriptor no more.  To be called before it is closed."""
        if self._members.pop(descriptor, None) is None:
            return
        if self._epoll is None:
            self._reactor.removeReader(self._single.pop(descriptor))
            return
        with suppress(OSError):
            # It is to be closed, which takes it out of the set as well.
            self._epoll.unregister(descriptor)
        if not self._members:
            self._reactor.removeReader(self)

    # IReadDescriptor

    def fileno(self) -> int:
        return -1 if self._epoll is None or self._epoll.closed else self._epoll.fileno()

    def logPrefix(self) -> str:
        return "castd"

    def doRead(self) -> None:
        self.read(SHORT_WAIT)

    def read(self, wait: float = 0.0) -> None:
        """
        Read what has arrived, for no longer than L{LONGEST_VISIT}.

        @param wait: seconds to wait for more where few ports are busy; 0: something else is due.
        """
        if self._epoll is None:
            # Who asks all of them to be read, asks each.
            for descriptor, single in list(self._single.items()):
                if descriptor in self._members:
                    single.doRead()
            return
        get, poll, clock = self._members.get, self._epoll.poll, time.monotonic
        until = clock() + LONGEST_VISIT
        timeout: float = 0
        while True:
            try:
                events = poll(timeout, MOST_EVENTS)
            except OSError as error:
                # A reactor never asks a reader again that raises, and this one is all that we hear.
                _log.error("the ports cannot be read: {why}", event="unread", why=str(error))
                return
            for descriptor, _ in events:
                try:
                    # One before it may have closed it.
                    get(descriptor, _ignore)()
                except Exception:
                    # One port's fault must not end the others' reader.
                    _log.failure("a port failed", event="fault")
            if not events or clock() >= until:
                return
            timeout = wait if len(events) <= FEW_EVENTS else 0

    def connectionLost(self, reason: Failure) -> None:
        """The reactor is shutting down and reads no more."""
        if self._epoll is not None:
            self._epoll.close()


@implementer(IReadDescriptor)
class _SingleReader:
    """
    A descriptor as a reader of its own, where there is no epoll.
    """

    def __init__(self, descriptor: int, members: dict[int, Readable]) -> None:
        self._descriptor = descriptor
        self._members = members

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "castd"

    def doRead(self) -> None:
        try:
            self._members[self._descriptor]()
        except Exception:
            _log.failure("a port failed", event="fault")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor reads no more; whoever opened the descriptor closes it."""
