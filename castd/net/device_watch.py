"""
Have request ports follow the device that they are bound to.

The kernel binds a socket to the number of a device.  A device that was made anew has another number, and an address may
move to another device, such as a bridge: the socket stays open and hears nothing.  So it is looked for from time to
time, and such a port goes on with a socket that is bound anew.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from castd.errors import reasonOf
from castd.net import sockets
from castd.request import hostPort

_log = Logger(namespace="castd")

#: Seconds between two looks whether the devices of ports that are bound to one are still the same.
DEVICE_CHECK = 5.0


class DevicePort(Protocol):
    """
    Describes a port that is bound to a device.

    @ivar paused: another process reads its socket.
    @ivar currentSocket: the socket that it reads and sends by.
    """

    @property
    def paused(self) -> bool: ...

    @property
    def currentSocket(self) -> socket.socket: ...

    def exchange(self, sock: socket.socket) -> None:
        """
        Read and send by another socket from now on; the caller closes the old one.

        @raise OSError: the socket cannot be watched; the old one is kept.
        """


class DeviceWatch:
    """Looks from time to time whether ports hear the device of their interface, and binds anew those that do not."""

    def __init__(self, clock: IReactorTime, boundAnew: Callable[[tuple[str, int], socket.socket], object]) -> None:
        """@param boundAnew: called with interface and port of a port that was bound anew, and its socket."""
        self._clock = clock
        self._boundAnew = boundAnew
        #: The ports by interface and port, and those of them that could not be bound to the device of that name now.
        self._ports: dict[tuple[str, int], DevicePort] = {}
        self._unbound: set[tuple[str, int]] = set()
        self._looking: IDelayedCall | None = None

    def add(self, at: tuple[str, int], port: DevicePort) -> None:
        """Watch a port, if its interface names a device."""
        if "%" in at[0]:
            self._ports[at] = port
            self._lookLater()

    def remove(self, at: tuple[str, int]) -> None:
        """Watch a port no longer."""
        self._ports.pop(at, None)
        self._unbound.discard(at)
        if self._looking is not None and not self._ports:
            self._looking.cancel()
            self._looking = None

    def _lookLater(self) -> None:
        if self._looking is None:
            self._looking = self._clock.callLater(DEVICE_CHECK, self._lookAgain)

    def _lookAgain(self) -> None:
        self._looking = None
        self._lookLater()
        self.look()

    def look(self) -> None:
        """Bind the ports anew whose device was made anew, or whose address has moved to another one."""
        for at, port in self._ports.items():
            # Of a paused one another process reads the socket.
            if not port.paused and not sockets.isAtItsDevice(port.currentSocket, at[0]):
                self._bindAnew(at, port)

    def _bindAnew(self, at: tuple[str, int], port: DevicePort) -> None:
        where, former = hostPort(at), port.currentSocket
        try:
            fresh = sockets.bindSocket(*at)
            try:
                sockets.setRequestOptions(fresh)
                port.exchange(fresh)
            except BaseException:
                fresh.close()
                raise
        except OSError as error:
            if at not in self._unbound:
                self._unbound.add(at)
                form = "{address} hears nothing: its interface is another one now, and it cannot be bound there: {why}"
                _log.error(form, event="unfollowed", address=where, why=reasonOf(error))
            return
        self._unbound.discard(at)
        former.close()
        self._boundAnew(at, fresh)
        _log.warn("{address} is open anew: its interface is another one now", event="followed", address=where)
