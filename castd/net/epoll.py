"""
PortSet: all ports of the server as one reader of the reactor.

An epoll descriptor is readable when one of its members is, so the reactor watches one descriptor, however many
transfers there are; draining the set here costs half of what a reader each does.  Without epoll, each port is a reader.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

_log = Logger(namespace="castd")

#: Events taken at once, and how long one visit may last before timers, signals and others get their share.  Seconds.
MOST_EVENTS, LONGEST_VISIT = 64, 0.005
#: With so few busy ports the way back through the reactor would cost more than the block: wait here for a moment.
FEW, MOMENT = 2, 0.001


def _gone() -> None:
    """For a descriptor that is not watched any more."""


#: Called when something waits: reads a bounded part of it.
Readable: TypeAlias = Callable[[], object]


@implementer(IReadDescriptor)
class EpollSet:
    """
    The set; a reader of the reactor as long as it has members.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._ports: dict[int, Readable] = {}
        self._single: dict[int, _Single] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None

    def __len__(self) -> int:
        return len(self._ports)

    def add(self, descriptor: int, readable: Readable) -> None:
        """
        Watch this descriptor; one that is watched already gets another C{readable}.

        @raise OSError: it cannot be watched (C{fs.epoll.max_user_watches}, no memory).
        """
        if descriptor in self._ports:
            self._ports[descriptor] = readable
            return
        if self._epoll is not None:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._ports[descriptor] = readable
        if self._epoll is None:
            single = self._single[descriptor] = _Single(descriptor, self._ports)
            self._reactor.addReader(single)
            return
        if len(self._ports) == 1:
            self._reactor.addReader(self)

    def remove(self, descriptor: int) -> None:
        """Watch it no more; before it is closed."""
        if self._ports.pop(descriptor, None) is None:
            return
        if self._epoll is None:
            self._reactor.removeReader(self._single.pop(descriptor))
            return
        with suppress(OSError):
            # It is to be closed, which takes it out of the set as well.
            self._epoll.unregister(descriptor)
        if not self._ports:
            self._reactor.removeReader(self)

    # IReadDescriptor

    def fileno(self) -> int:
        return -1 if self._epoll is None or self._epoll.closed else self._epoll.fileno()

    def logPrefix(self) -> str:
        return "castd"

    def doRead(self) -> None:
        self.read(MOMENT)

    def read(self, moment: float = 0.0) -> None:
        """
        Read what has arrived, for a while.

        @param moment: seconds to wait for more where few are busy; 0: something else is due.
        """
        if self._epoll is None:
            # Who asks all of them to be read, asks each.
            for descriptor, single in list(self._single.items()):
                if descriptor in self._ports:
                    single.doRead()
            return
        get, poll, clock = self._ports.get, self._epoll.poll, time.monotonic
        until = clock() + LONGEST_VISIT
        wait: float = 0
        while True:
            try:
                events = poll(wait, MOST_EVENTS)
            except OSError as error:
                # A reactor never asks a reader again that raises, and this one is all that we hear.
                _log.error("the ports cannot be read: {why}", event="unread", why=str(error))
                return
            for descriptor, _ in events:
                try:
                    # One before it may have closed it.
                    get(descriptor, _gone)()
                except Exception:
                    # One port's fault must not end the others' reader.
                    _log.failure("a port failed", event="fault")
            if not events or clock() >= until:
                return
            wait = moment if len(events) <= FEW else 0

    def connectionLost(self, reason: Any) -> None:
        """The reactor gives up on it: it is shutting down."""
        if self._epoll is not None:
            self._epoll.close()


@implementer(IReadDescriptor)
class _Single:
    """One port as a reader of its own."""

    def __init__(self, descriptor: int, ports: dict[int, Readable]) -> None:
        self._descriptor = descriptor
        self._ports = ports

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "castd"

    def doRead(self) -> None:
        try:
            self._ports[self._descriptor]()
        except Exception:
            _log.failure("a port failed", event="fault")

    def connectionLost(self, reason: Any) -> None:
        """Its owner closes it."""
