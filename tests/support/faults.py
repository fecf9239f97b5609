"""
A rig: the calls that castd makes of the system, one of which can be made to fail.

The modules of castd call the system by the names C{os}, C{socket}, C{select} and C{fcntl}.  The rig puts others in the
place of these, which do the same until they are told to fail.  Clients in the same process are not touched.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import select
import socket
from collections import Counter
from typing import Any

import pytest

#: Which names of which modules are exchanged.
SEAMS = {
    "os": ("files.root", "files.content", "files.partial", "files.uploads"),
    "socket": ("net.sockets", "net.gso", "net.unicast_ports", "net.ports"),
    "select": ("net.epoll",),
    "fcntl": ("files.partial",),
}
#: Calls that have done their work when they tell of a fault.
DONE = frozenset({"close", "unregister"})


class Rig:
    """
    Which call fails, with what, and how often.

    @ivar calls: how often each call was made, by the modules' names and theirs: C{files.content.os.pread},
        C{socket.bind}.
    @ivar hits: how often it failed.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.hits = 0
        self._name = ""
        self._code = 0
        self._left: float = 0

    def fail(self, name: str, code: int, times: float = float("inf")) -> None:
        """From now on this call fails with this number, so many times."""
        self._name, self._code, self._left, self.hits = name, code, times, 0

    def lift(self) -> None:
        """Nothing fails any more."""
        self._left = 0

    def made(self, name: str) -> None:
        """
        From a seam: the call is made.

        @raise OSError: it fails.
        """
        self.calls[name] += 1
        if name == self._name and self._left > 0:
            self._left -= 1
            self.hits += 1
            raise OSError(self._code, os.strerror(self._code))

    def through(self, name: str, call: Any) -> Any:
        """-> the call, as it goes through the rig."""

        def work(*args: Any, **more: Any) -> Any:
            done = name.rpartition(".")[2] in DONE
            result = call(*args, **more) if done else None
            self.made(name)
            return result if done else call(*args, **more)

        return work


class Module:
    """A module, with its functions through the rig."""

    def __init__(self, rig: Rig, name: str, real: Any, **instead: Any) -> None:
        self._rig, self._name, self._real = rig, name, real
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found) or isinstance(found, type):
            return found
        made = self.__dict__[name] = self._rig.through(f"{self._name}.{name}", found)
        return made


def rigged(rig: Rig, kind: type, name: str, methods: str) -> type:
    """-> a class of sockets or epoll sets whose methods go through the rig."""

    def method(each: str) -> Any:
        real = getattr(kind, each)
        return rig.through(f"{name}.{each}", real)

    return type(kind.__name__, (kind,), {each: method(each) for each in methods.split()})


SOCKET = "bind close connect getsockname recv recvfrom recvmsg send sendmsg sendto setblocking setsockopt"
EPOLL = "close poll register unregister"


class Epoll:
    """An epoll set whose calls go through the rig; the kernel's own cannot be subclassed."""

    def __init__(self, rig: Rig) -> None:
        self._set = select.epoll()
        for each in EPOLL.split():
            setattr(self, each, rig.through(f"epoll.{each}", getattr(self._set, each)))

    @property
    def closed(self) -> bool:
        return self._set.closed

    def fileno(self) -> int:
        return self._set.fileno()


def install(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    """Let all of castd's calls go through this rig."""
    made = rigged(rig, socket.socket, "socket", SOCKET)

    def new(family: int = -1, kind: int = -1) -> Any:
        rig.made("socket.socket")
        return made(family, kind)

    real = {"os": os, "socket": socket, "select": select, "fcntl": fcntl}
    for seam, modules in SEAMS.items():
        for each in modules:
            instead: dict[str, Any] = {}
            if seam == "socket":
                instead = {"socket": Socket(new, made)}
            elif seam == "select":
                instead = {"epoll": lambda: Epoll(rig)}
            patch.setattr(f"castd.{each}.{seam}", Module(rig, f"{each}.{seam}", real[seam], **instead))
    sockets = importlib.import_module("castd.net.sockets")
    patch.setattr(sockets, "ioctl", rig.through("net.sockets.ioctl", fcntl.ioctl))
    patch.setattr(sockets, "open", rig.through("net.sockets.open", open), raising=False)


class Socket:
    """What C{socket.socket} is to castd: it makes sockets, and has their methods."""

    def __init__(self, new: Any, kind: Any) -> None:
        self._new = new
        self.close = kind.close

    def __call__(self, family: int = -1, kind: int = -1) -> Any:
        return self._new(family, kind)


def name(code: int) -> str:
    """C{ENOSPC} for its number."""
    return errno.errorcode[code]
