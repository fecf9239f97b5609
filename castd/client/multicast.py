"""
How the client hears: much at once, and what is sent to a group.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import DatagramProtocol

#: What the kernel is asked to hold for us while Python is busy.  Octets.
RECEIVE_BUFFER = 4 << 20


def widen(port: Any) -> None:
    """The kernel gives as much as it allows; a test's port has no socket."""
    held = getattr(port, "socket", None)
    if held is not None:
        with suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def facing(port: Any, server: str) -> str:
    """
    -> the address of ours that this server sees: its groups are heard there, and a machine may have several networks.
    C{""}: the system is to choose; a test's port has no socket.
    """
    if getattr(port, "socket", None) is not None:
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
            # Nothing is sent for that.
            towards.connect((server, 9))
            return str(towards.getsockname()[0])
    return ""


class MulticastPort(DatagramProtocol):
    """
    A port that hears a group.

    @ivar joined: fires when it is in; fails if the system does not let it.
    """

    def __init__(
        self,
        reactor: Any,
        group: tuple[str, int],
        server: str,
        heard: Callable[[bytes, Any], object],
    ) -> None:
        """
        @param server: the address of who sends to the group.
        @raise CannotListenError: the port is not to be had.
        """
        self.group = group
        self._heard = heard
        self._port = reactor.listenMulticast(group[1], self, maxPacketSize=65535, listenMultiple=True)
        widen(self._port)
        self.joined: Deferred[Any] = succeed(None)
        if group[0]:
            self.joined = self._port.joinGroup(group[0], facing(self._port, server))

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """From the transport."""
        self._heard(datagram, addr)

    def listen(self) -> None:
        """Read now what has come; a test's port has nothing waiting."""
        read = getattr(self._port, "doRead", None)
        if read is not None:
            read()

    def close(self) -> None:
        """Leave the group; the kernel does so with the port."""
        self._port.stopListening()
