"""
Makes calls fail: the system calls of castd, and the methods of its plugins.

The modules of castd call the system by the names C{os}, C{socket}, C{select} and C{fcntl}.  L{install} puts others in
the place of these, which do the same until they are told to fail.  Clients in the same process are not touched.  A
call of a module that has no row here fails C{test_noCallWithoutARow}: whoever adds one says how it can fail.

A L{Plugin} stands for any object of an interface, and so do the objects that its methods return.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import importlib
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from zope.interface import Interface, directlyProvides, providedBy
from zope.interface.interface import Method

from castd.files import athand
from castd.interfaces import (
    ICast,
    IContent,
    IContentSink,
    IDialect,
    IEqualHeadersWire,
    IGroupWire,
    ITransferHalf,
    IUpload,
    IWire,
)


class Breaker:
    """
    Which call fails, with what, and how often.

    @ivar calls: how often each call was made: C{files.content.os.preadv}, C{socket.bind}, C{IWire.header}.
    @ivar hits: how often the chosen call failed.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.hits = 0
        self.name = ""
        self._error: Callable[[], BaseException] = Exception
        self._left: float = 0

    def fail(self, name: str, error: Callable[[], BaseException], times: float = float("inf")) -> None:
        """Let this call raise C{error()} from now on, so many times."""
        self.name, self._error, self._left, self.hits = name, error, times, 0

    def lift(self) -> None:
        """Let no call fail any more."""
        self._left = 0

    def called(self, name: str) -> None:
        """
        Count a call, and let it fail if it is the chosen one.

        @raise BaseException: the error of the chosen call.
        """
        self.calls[name] += 1
        if name == self.name and self._left > 0:
            self._left -= 1
            self.hits += 1
            raise self._error()

    def through(self, name: str, call: Any) -> Any:
        """Return a function that makes this system call through the breaker."""

        def work(*args: Any, **more: Any) -> Any:
            done = name.rpartition(".")[2] in DONE
            result = call(*args, **more) if done else None
            self.called(name)
            return result if done else call(*args, **more)

        return work


# System calls, and the errors that each may have.

CASTD = Path(__file__).parents[2] / "castd"
#: The packages on the path of every datagram and every octet of a file, without those of the start, or a reload, alone.
AT_THE_START = ("files.private", "net.activation", "net.devices", "net.fdstore")
DATA_PATH = tuple(
    name
    for room in ("files", "net", "server")
    for path in sorted((CASTD / room).glob("*.py"))
    if (name := f"{room}.{path.stem}") not in AT_THE_START
)

_NONE_LEFT = "EMFILE ENFILE"
_WAY = "ENETUNREACH EHOSTUNREACH ENETDOWN EACCES EPERM EINVAL EADDRNOTAVAIL"
_SENDING = f"EAGAIN ENOBUFS ENOMEM EMSGSIZE EIO ECONNREFUSED {_WAY}"
_READING = "EAGAIN ECONNREFUSED ENOMEM ENOBUFS EIO ENETDOWN EHOSTUNREACH"
_OPENING = f"{_NONE_LEFT} ENOMEM EACCES EPERM EIO ELOOP ENOENT ENOTDIR ESTALE"
_STATUS = "EIO ESTALE ENOMEM EACCES"
_WRITING = "ENOSPC EDQUOT EFBIG EIO EROFS EACCES ESTALE"

#: By the module and the name it has there (by C{socket} and C{epoll}, for the methods of these).
ROWS = {
    "socket.socket": f"{_NONE_LEFT} ENOBUFS ENOMEM EACCES EAFNOSUPPORT",
    "socket.bind": "EADDRINUSE EACCES EADDRNOTAVAIL ENOMEM ENOBUFS",
    "socket.connect": f"{_WAY} EAGAIN ENOMEM",
    "socket.getsockname": "ENOBUFS ENOTCONN",
    "socket.getsockopt": "ENOPROTOOPT ENOBUFS",
    "socket.setsockopt": "EINVAL ENOPROTOOPT ENOBUFS ENODEV EADDRNOTAVAIL ENOMEM EPERM",
    "socket.recv": _READING,
    "socket.recvfrom": _READING,
    "socket.recvmsg": _READING,
    "socket.send": _SENDING,
    "socket.sendto": _SENDING,
    "socket.sendmsg": _SENDING,
    "net.devices.socket.if_indextoname": "ENXIO ENODEV",
    "net.devices.ioctl": "ENODEV EPERM",
    "net.devices.open": f"{_NONE_LEFT} EACCES ENOENT",
    "epoll.register": "ENOSPC ENOMEM EPERM",
    "epoll.unregister": "ENOENT EBADF",
    "epoll.poll": "ENOMEM EINVAL EFAULT",
    "files.root.os.open": _OPENING,
    "files.root.os.stat": _STATUS,
    "files.root.os.lstat": _STATUS,
    "files.root.os.readlink": "EIO ESTALE EINVAL",
    "files.spelling.os.fstat": _STATUS,
    "files.spelling.os.listdir": f"EIO ENOMEM {_NONE_LEFT}",
    "files.root.os.close": "EIO ENOSPC EDQUOT",
    "files.athand.openat2": f"EACCES {_NONE_LEFT} ENOENT",
    "files.space.os.fstatvfs": "EIO ENOSYS ESTALE",
    "files.content.os.fstat": _STATUS,
    "files.content.os.preadv": "EIO ESTALE ENOMEM EAGAIN EISDIR",
    "files.uploads.os.fstat": _STATUS,
    "files.file_upload.os.lstat": _STATUS,
    "files.file_upload.os.write": f"{_WRITING} EAGAIN",
    "files.file_upload.os.fchmod": "EPERM EROFS EIO",
    "files.file_upload.os.fsync": "EIO ENOSPC EDQUOT EROFS",
    "files.partial.os.open": f"{_NONE_LEFT} {_WRITING} ENOENT ENAMETOOLONG",
    "files.partial.fcntl.flock": "ENOLCK EWOULDBLOCK ENOSYS EIO",
    "files.partial.os.fstat": "EIO ESTALE",
    "files.partial.os.link": f"{_WRITING} EPERM EMLINK EEXIST",
    "files.partial.os.rename": f"{_WRITING} EBUSY EISDIR",
    "files.partial.os.fsync": "EIO EINVAL ENOSPC",
    "files.partial.os.unlink": "EACCES EIO EROFS ENOENT",
}

#: System calls that are not made to fail here, with the reason.
EXEMPT = {
    "os.mkdir": "only with make-directories: tests/test_uploads.py makes it fail",
    "os.fchown": "only with a group: tests/test_uploads.py makes it fail",
    "files.uploads.os.open": "only with make-directories: tests/test_uploads.py makes it fail",
    "files.file_upload.open": "once for each place of uploads; the umask is found without: tests/test_uploads.py",
    "files.uploads.os.fchmod": "only with make-directories and a mode: tests/test_uploads.py makes it fail",
    "socket.close": "a datagram socket has nothing to write when it is closed, so nothing can fail",
    "socket.setblocking": "one flag of a descriptor that is open",
    "socket.fileno": "no system call",
    "socket.inet_aton": "no system call",
    "socket.inet_ntoa": "no system call",
    "socket.inet_ntop": "no system call",
    "socket.inet_pton": "no system call",
    "socket.writeBurst": "of castd",
    "net.sockets.socket.if_indextoname": "of link-local addresses: the datagram is lost, as when recvmsg fails",
    "net.devices.socket.if_nametoindex": "at a start and a reload: a device that is gone reaches no network",
    "net.sockets.socket.if_nametoindex": "of an address with a zone: as when bind fails, and followed when it is back",
    "epoll.epoll": "once, at the start, which then fails",
    "epoll.close": "at the end",
    "files.nearest.os.open": "for the log alone, and then no name is told: tests/test_verdicts.py",
    "files.nearest.os.scandir": "as above",
    "files.nearest.os.stat": "as above",
    "files.presence.os.stat": "for /readyz and castd status alone: tests/test_slow_disk.py",
    "files.spelling.os.stat": "for the log and castd explain alone: tests/test_verdicts.py",
    "files.spelling.os.scandir": "as above",
    "os.access": "at the start, and when the root has been exchanged: tests/test_content.py",
    "files.permission.os.statvfs": "to say why nobody may write: tests/test_explain.py",
    "files.root.os.fstat": "as above",
    "files.athand.os.close": "of a descriptor without an open file (O_PATH)",
    "os.path": "realpath, as above",
    "os.fsencode": "no system call",
    "os.fsdecode": "no system call",
    "os.getpid": "cannot fail",
    "os.stat_result": "no system call",
    "os.geteuid": "cannot fail",
    "os.getegid": "cannot fail",
    "os.getgroups": "cannot fail for a process that has no more groups than the kernel allows",
    "os.makedev": "no system call",
    "os.strerror": "no system call",
    "os.umask": "cannot fail",
    "os.urandom": "cannot fail once the machine is up",
    "os.fwalk": "at the start only, and what is thrown there is logged: tests/test_uploads.py",
}


def cases(whole: bool) -> list[tuple[str, int, bool]]:
    """
    Return each call, a number that it may fail with, and whether it does so for long or once.

    @param whole: each number both ways; without, a share that has each call both ways.
    """
    found = [(name, numbers.split()) for name, numbers in ROWS.items()]
    return [
        (name, getattr(errno, number), long)
        for name, numbers in found
        for long in (False, True)
        for number in (numbers if whole else [numbers[-1 if long else 0]])
    ]


def called(module: str) -> Iterator[tuple[str, int]]:
    """
    Return the system calls in a module's text and their lines: functions of C{os}, C{socket}, C{select} and C{fcntl},
    and what has a name that methods of sockets and epoll sets have.
    """
    for node in ast.walk(ast.parse((CASTD / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("ioctl", "open"):
            yield f"{module}.{node.func.id}", node.lineno
        if not isinstance(node, ast.Attribute):
            continue
        of = ast.unparse(node.value)
        if of in ("os", "fcntl") and node.attr.islower():
            yield f"{module}.{of}.{node.attr}", node.lineno
        elif of == "socket" and (node.attr.islower() or node.attr in CLASSES):
            yield "socket.socket" if node.attr in CLASSES else f"{module}.socket.{node.attr}", node.lineno
        elif node.attr in METHODS:
            yield METHODS[node.attr], node.lineno


RECEIVING = ("recv", "recvfrom", "recvmsg", "recv_into", "recvfrom_into", "recvmsg_into")
SENDING = ("send", "sendto", "sendmsg", "sendmmsg", "sendfile")
METHODS = {
    **{
        each: f"socket.{each}"
        for each in ("bind", "connect", "getsockname", "getsockopt", "setsockopt", *RECEIVING, *SENDING)
    },
    **{each: f"epoll.{each}" for each in ("register", "unregister", "modify")},
}

#: The classes of sockets, the library's and the one below it.
CLASSES = ("socket", "SocketType")
#: The names that are replaced, by module.
MODULES = {
    "os": (
        "files.root",
        "files.content",
        "files.partial",
        "files.space",
        "files.spelling",
        "files.uploads",
        "files.file_upload",
    ),
    "socket": ("net.devices", "net.sockets", "net.gso", "net.ports"),
    "select": ("net.epoll",),
    "fcntl": ("files.partial",),
}
#: Calls that have had their effect when they raise an error.
DONE = frozenset({"close", "unregister"})


class Module:
    """A module whose functions are called through the breaker."""

    def __init__(self, breaker: Breaker, name: str, real: Any, **instead: Any) -> None:
        self._breaker, self._name, self._real = breaker, name, real
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found) or isinstance(found, type):
            return found
        made = self.__dict__[name] = self._breaker.through(f"{self._name}.{name}", found)
        return made


def breakable(breaker: Breaker, kind: type, name: str, methods: str) -> type:
    """Return a class of sockets or epoll sets whose methods go through the breaker."""

    def method(each: str) -> Any:
        real = getattr(kind, each)
        return breaker.through(f"{name}.{each}", real)

    return type(kind.__name__, (kind,), {each: method(each) for each in methods.split()})


SOCKET = "bind close connect getsockname getsockopt recv recvfrom recvmsg send sendmsg sendto setblocking setsockopt"
EPOLL = "close poll register unregister"


class Epoll:
    """An epoll set whose calls go through a breaker; the kernel's own cannot be subclassed."""

    def __init__(self, breaker: Breaker) -> None:
        self._set = select.epoll()
        for each in EPOLL.split():
            setattr(self, each, breaker.through(f"epoll.{each}", getattr(self._set, each)))

    @property
    def closed(self) -> bool:
        return self._set.closed

    def fileno(self) -> int:
        return self._set.fileno()


def install(breaker: Breaker, patch: pytest.MonkeyPatch) -> None:
    """Make castd call the system through this breaker."""
    classes = {name: Socket(breaker, getattr(socket, name)) for name in CLASSES}
    real = {"os": os, "socket": socket, "select": select, "fcntl": fcntl}
    for seam, modules in MODULES.items():
        for each in modules:
            instead: dict[str, Any] = {}
            if seam == "socket":
                instead = dict(classes)
            elif seam == "select":
                instead = {"epoll": lambda: Epoll(breaker)}
            patch.setattr(f"castd.{each}.{seam}", Module(breaker, f"{each}.{seam}", real[seam], **instead))
    patch.setattr(athand, "openat2", breaker.through("files.athand.openat2", athand.openat2))
    devices = importlib.import_module("castd.net.devices")
    patch.setattr(devices, "ioctl", breaker.through("net.devices.ioctl", fcntl.ioctl))
    patch.setattr(devices, "open", breaker.through("net.devices.open", open), raising=False)


class Socket:
    """A stand-in for a class of sockets: makes sockets, and has their methods."""

    def __init__(self, breaker: Breaker, kind: type) -> None:
        self._breaker, self._made = breaker, breakable(breaker, kind, "socket", SOCKET)
        self.close = self._made.close  # type: ignore[attr-defined]

    def __call__(self, family: int = -1, kind: int = -1) -> Any:
        self._breaker.called("socket.socket")
        return self._made(family, kind)


# Plugins.

#: The interfaces of objects that methods return, whose methods pass through the same breaker.
INTERFACES: tuple[Any, ...] = (
    IDialect,
    IGroupWire,
    IEqualHeadersWire,
    IWire,
    ICast,
    IContent,
    IContentSink,
    IUpload,
    ITransferHalf,
)


class Plugin:
    """An object of an interface, called through a breaker, as are the objects that its methods return."""

    def __init__(self, breaker: Breaker, real: Any) -> None:
        self.__dict__.update(_breaker=breaker, _real=real)
        directlyProvides(self, providedBy(real))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "cast":
            return lambda *args: self._cast(found(*args))
        full = next(
            (_named(seam, name) for seam in INTERFACES if seam.providedBy(self._real) and name in methods(seam)), None
        )
        if full is None:
            return found

        def call(*args: Any, **more: Any) -> Any:
            self._breaker.called(full)
            return through(self._breaker, found(*args, **more))

        return call

    def _cast(self, made: Any) -> Any:
        """Make the wire's cast; unchanged unless it is to fail, since a foreign cast class has no fast path."""
        return Plugin(self._breaker, made) if self._breaker.name.startswith("ICast.") else made

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__provides__":
            object.__setattr__(self, name, value)
        else:
            setattr(self._real, name, value)


def through(breaker: Breaker, value: Any) -> Any:
    """Return a L{Plugin} for an object of an interface; other values unchanged."""
    return Plugin(breaker, value) if any(seam.providedBy(value) for seam in INTERFACES) else value


def _named(seam: Any, name: str) -> str:
    """Return the name of a method, such as C{IWire.header}, also for an interface that extends it."""
    return f"{'IWire' if seam.extends(IWire) else seam.getName()}.{name}"


def methods(seam: type[Interface]) -> list[str]:
    """Return the names of the methods of an interface."""
    return [name for name in seam.names(all=True) if isinstance(seam[name], Method)]  # type: ignore[misc]


def everyMethod() -> list[str]:
    """Return every method of every interface: C{IWire.header}."""
    return sorted({*(_named(seam, name) for seam in INTERFACES for name in methods(seam)), "IContentSource.lookup"})
