"""
Store: the sockets of requests in the hands of the service manager (C{FDSTORE=1}, C{sd_pid_notify_with_fds(3)}), so that
they outlive the process: a restart gets them back, with what has come to them meanwhile.
"""

from __future__ import annotations

import socket
from typing import Protocol

#: What the names of ours begin with.  The manager hands them back with the sockets of a socket unit, which have others.
OURS = "castd."


class Notifier(Protocol):
    """The way to the service manager, a L{castd.observe.sdnotify.Notifier}."""

    @property
    def connected(self) -> bool:
        """Is there one?"""

    def notify(self, *fields: str, descriptors: tuple[int, ...] = ()) -> None:
        """Say it, with descriptors."""

    def barrier(self) -> None:
        """Wait until what was said is done."""


def nameOf(at: tuple[str, int]) -> str:
    """-> the name of the socket at this interface and port: printable, without colons, as the manager wants it."""
    host, port = at
    return f"{OURS}{host.replace(':', '_') or 'any'}.{port}"


class FdStore:
    """
    What is kept, and what no more.  Without a service manager, nothing.
    """

    def __init__(self, notices: Notifier | None = None) -> None:
        self._notices = notices if notices is not None and notices.connected else None
        self._closed = False
        self._kept: set[tuple[str, int]] = set()

    @property
    def keeps(self) -> bool:
        """
        Is there somebody to keep them?  A manager does not say whether it really does
        (C{FileDescriptorStoreMax=}).
        """
        return self._notices is not None

    def keep(self, at: tuple[str, int], made: socket.socket) -> None:
        """From now on.  The manager sees by itself if it has this one already, from a process before."""
        if self._notices is not None and not self._closed and at not in self._kept:
            self._kept.add(at)
            self._notices.notify("FDSTORE=1", f"FDNAME={nameOf(at)}", descriptors=(made.fileno(),))

    def drop(self, at: tuple[str, int]) -> None:
        """
        This address is served no more.

        Waits until the manager has let go, for else the address could not be bound: it is a matter of a millisecond,
        and of reloads only.
        """
        if self._notices is not None and not self._closed:
            self._kept.discard(at)
            self._notices.notify("FDSTOREREMOVE=1", f"FDNAME={nameOf(at)}")
            self._notices.barrier()

    def close(self) -> None:
        """This process ends, or another has taken over: the sockets stay where they are."""
        self._closed = True

    def reopen(self) -> None:
        """It goes on after all."""
        self._closed = False
