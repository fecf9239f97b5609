"""
Which calls there are, and with what each may fail.

A call of a module that has no row here fails C{test_noCallWithoutARow}: whoever adds one says how it can fail.
"""

from __future__ import annotations

import ast
import errno
from collections.abc import Iterator
from pathlib import Path

CASTD = Path(__file__).parents[2] / "castd"
#: The rooms that every datagram and every octet of a file goes through; without what is there for the start alone.
AT_THE_START = ("net.activation", "net.fdstore")
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
    "socket.setsockopt": "EINVAL ENOPROTOOPT ENOBUFS ENODEV EADDRNOTAVAIL ENOMEM EPERM",
    "socket.recv": _READING,
    "socket.recvfrom": _READING,
    "socket.recvmsg": _READING,
    "socket.send": _SENDING,
    "socket.sendto": _SENDING,
    "socket.sendmsg": _SENDING,
    "net.sockets.socket.getaddrinfo": "EBUSY",
    "net.sockets.socket.if_indextoname": "ENXIO ENODEV",
    "net.sockets.ioctl": "ENODEV EPERM",
    "net.sockets.open": f"{_NONE_LEFT} EACCES ENOENT",
    "epoll.register": "ENOSPC ENOMEM EPERM",
    "epoll.unregister": "ENOENT EBADF",
    "epoll.poll": "ENOMEM EINVAL EFAULT",
    "files.root.os.open": _OPENING,
    "files.root.os.stat": _STATUS,
    "files.root.os.lstat": _STATUS,
    "files.root.os.readlink": "EIO ESTALE EINVAL",
    "files.root.os.listdir": f"EIO ENOMEM {_NONE_LEFT}",
    "files.root.os.close": "EIO ENOSPC EDQUOT",
    "files.content.os.fstat": _STATUS,
    "files.content.os.pread": "EIO ESTALE ENOMEM EAGAIN EISDIR",
    "files.content.os.preadv": "EIO ESTALE ENOMEM EAGAIN",
    "files.uploads.os.fstat": _STATUS,
    "files.uploads.os.lstat": _STATUS,
    "files.uploads.os.fstatvfs": "EIO ENOSYS ESTALE",
    "files.uploads.os.write": f"{_WRITING} EAGAIN",
    "files.uploads.os.fchmod": "EPERM EROFS EIO",
    "files.uploads.os.fsync": "EIO ENOSPC EDQUOT EROFS",
    "files.partial.os.open": f"{_NONE_LEFT} {_WRITING} ENOENT ENAMETOOLONG",
    "files.partial.fcntl.flock": "ENOLCK EWOULDBLOCK ENOSYS EIO",
    "files.partial.os.fstat": "EIO ESTALE",
    "files.partial.os.link": f"{_WRITING} EPERM EMLINK EEXIST",
    "files.partial.os.rename": f"{_WRITING} EBUSY EISDIR",
    "files.partial.os.lstat": _STATUS,
    "files.partial.os.fsync": "EIO EINVAL ENOSPC",
    "files.partial.os.unlink": "EACCES EIO EROFS ENOENT",
}

#: Calls that are not made to fail here, and why.
EXEMPT = {
    "socket.close": "a datagram socket has nothing to write when it is closed, so nothing can fail",
    "socket.setblocking": "one flag of a descriptor that is open",
    "socket.fileno": "no system call",
    "socket.inet_aton": "no system call",
    "socket.inet_ntoa": "no system call",
    "socket.inet_ntop": "no system call",
    "socket.inet_pton": "no system call",
    "socket.writeBurst": "of castd",
    "epoll.epoll": "once, at the start, which then fails",
    "epoll.close": "at the end",
    "os.access": "at the start, and when the root has been exchanged: tests/test_content.py",
    "files.root.os.fstat": "as above",
    "os.path": "realpath, as above",
    "os.fsencode": "no system call",
    "os.fsdecode": "no system call",
    "os.getpid": "cannot fail",
    "os.umask": "cannot fail",
    "os.urandom": "cannot fail once the machine is up",
    "os.fwalk": "at the start only, and what is thrown there is logged: tests/test_uploads.py",
}


def cases(whole: bool) -> list[tuple[str, int, bool]]:
    """
    -> each call, a number that it may fail with, and whether it does so for long or once.

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
    -> the system calls in a module's text and their lines: functions of C{os}, C{socket}, C{select} and C{fcntl}, and
    what has a name that methods of sockets and epoll sets have.
    """
    for node in ast.walk(ast.parse((CASTD / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("ioctl", "open"):
            yield f"{module}.{node.func.id}", node.lineno
        if not isinstance(node, ast.Attribute):
            continue
        of = ast.unparse(node.value)
        if of in ("os", "fcntl") and node.attr.islower():
            yield f"{module}.{of}.{node.attr}", node.lineno
        elif of == "socket" and node.attr.islower():
            yield "socket.socket" if node.attr == "socket" else f"{module}.socket.{node.attr}", node.lineno
        elif node.attr in METHODS:
            yield METHODS[node.attr], node.lineno


RECEIVING = ("recv", "recvfrom", "recvmsg", "recv_into", "recvfrom_into", "recvmsg_into")
SENDING = ("send", "sendto", "sendmsg", "sendmmsg", "sendfile")
METHODS = {
    **{each: f"socket.{each}" for each in ("bind", "connect", "getsockname", "setsockopt", *RECEIVING, *SENDING)},
    **{each: f"epoll.{each}" for each in ("register", "unregister", "modify")},
}
