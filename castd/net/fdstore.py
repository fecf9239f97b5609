"""
Keep the sockets of request ports in the service manager's file descriptor store (C{FDSTORE=1},
C{sd_pid_notify_with_fds(3)}).

Stored sockets outlive the process: after a restart it gets them back, with the datagrams that have arrived meanwhile.
"""

from __future__ import annotations

import socket
from typing import Protocol

from castd.units import wholeNumber

#: The prefix of the names of stored sockets.  The manager passes them together with the sockets of a socket unit, which
#: have other names.
FDNAME_PREFIX = "castd."


class Notifier(Protocol):
    """Sends messages to the service manager: a L{castd.observe.sdnotify.ServiceNotifier}."""

    @property
    def connected(self) -> bool:
        """Whether there is a service manager."""

    def notify(self, *fields: str, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message with these fields and descriptors."""

    def barrier(self) -> None:
        """Wait until the manager has handled all messages."""


def fdName(at: tuple[str, int]) -> str:
    """
    Return the name of the socket with this interface and port: printable, without colons, as the manager requires.
    """
    host, port = at
    return f"{FDNAME_PREFIX}{host.replace(':', '_') or 'any'}.{port}"


def addressIn(name: str) -> tuple[str, int] | None:
    """Return the interface and port that L{fdName} has made a name of; L{None}: it has not made this one."""
    host, _, port = name.removeprefix(FDNAME_PREFIX).rpartition(".")
    number = wholeNumber(port, 65535)
    if not (name.startswith(FDNAME_PREFIX) and host) or number is None:
        return None
    # Only the zone, the name of a device, may have an underscore of its own.
    address, sign, zone = host.partition("%")
    return ("" if host == "any" else address.replace("_", ":") + sign + zone), number


class FdStore:
    """
    Adds sockets to the service manager's store, and removes them.  Without a service manager it does nothing.

    @ivar frozen: sockets are neither added nor removed: this process ends, or another one has taken over and is to get
        the stored sockets.
    """

    def __init__(self, notifier: Notifier | None = None) -> None:
        self._notifier = notifier if notifier is not None and notifier.connected else None
        self._stored: set[tuple[str, int]] = set()
        self.frozen = False

    @property
    def available(self) -> bool:
        """
        Whether there is a service manager.  It does not say whether it stores anything (C{FileDescriptorStoreMax=}).
        """
        return self._notifier is not None

    def add(self, at: tuple[str, int], sock: socket.socket) -> None:
        """
        Store the socket of this interface and port.

        If the manager has this socket already, from a previous process, it ignores the message.
        """
        if self._notifier is not None and not self.frozen and at not in self._stored:
            self._stored.add(at)
            self._notifier.notify("FDSTORE=1", f"FDNAME={fdName(at)}", descriptors=(sock.fileno(),))

    def remove(self, at: tuple[str, int]) -> None:
        """
        Remove the socket of this interface and port, which is no longer used.

        This waits until the manager has closed the socket, about a millisecond, since the address could not be bound
        before.  It happens at reloads only.
        """
        if self._notifier is not None and not self.frozen:
            self._stored.discard(at)
            self._notifier.notify("FDSTOREREMOVE=1", f"FDNAME={fdName(at)}")
            self._notifier.barrier()
