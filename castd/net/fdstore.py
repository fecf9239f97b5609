"""
The service manager's file descriptor store (C{FDSTORE=1}, C{sd_pid_notify_with_fds(3)}) for the sockets of requests.

Stored sockets outlive the process: a restart gets them back, with what has come to them meanwhile.
"""

from __future__ import annotations

import socket
from typing import Protocol

#: What the names of stored sockets begin with.  The manager hands them back together with the sockets of a socket unit,
#: which have other names.
FDNAME_PREFIX = "castd."


class Notifier(Protocol):
    """The way to the service manager, a L{castd.observe.sdnotify.ServiceNotifier}."""

    @property
    def connected(self) -> bool:
        """Is there one?"""

    def notify(self, *fields: str, descriptors: tuple[int, ...] = ()) -> None:
        """Send these fields, with descriptors."""

    def barrier(self) -> None:
        """Wait until the manager has done all that it was told."""


def fdName(at: tuple[str, int]) -> str:
    """-> the name of the socket at this interface and port: printable, without colons, as the manager wants it."""
    host, port = at
    return f"{FDNAME_PREFIX}{host.replace(':', '_') or 'any'}.{port}"


class FdStore:
    """
    Adds sockets to the service manager's store, and removes them.  Without a service manager it does nothing.

    @ivar frozen: sockets are neither added nor removed: this process ends, or another one has taken over, and what is
        stored is for that one.
    """

    def __init__(self, notifier: Notifier | None = None) -> None:
        self._notifier = notifier if notifier is not None and notifier.connected else None
        self._stored: set[tuple[str, int]] = set()
        self.frozen = False

    @property
    def available(self) -> bool:
        """
        Is there a service manager?  It does not say whether it really stores anything (C{FileDescriptorStoreMax=}).
        """
        return self._notifier is not None

    def add(self, at: tuple[str, int], sock: socket.socket) -> None:
        """
        Store the socket of this interface and port.

        The manager sees by itself if it has this one already, from a process before.
        """
        if self._notifier is not None and not self.frozen and at not in self._stored:
            self._stored.add(at)
            self._notifier.notify("FDSTORE=1", f"FDNAME={fdName(at)}", descriptors=(sock.fileno(),))

    def remove(self, at: tuple[str, int]) -> None:
        """
        Remove the socket of this interface and port, which is served no more.

        Waits until the manager has let go, for else the address could not be bound: it is a matter of a millisecond,
        and of reloads only.
        """
        if self._notifier is not None and not self.frozen:
            self._stored.discard(at)
            self._notifier.notify("FDSTOREREMOVE=1", f"FDNAME={fdName(at)}")
            self._notifier.barrier()
