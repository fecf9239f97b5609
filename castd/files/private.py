"""
Open files of castd's own in folders where others may write, too: logs, the history, the control socket.

Whoever may write to a folder can plant a link there under a name that castd is about to use, and so have it write to,
or cut, a file of somebody else.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress


def isPrivate(path: str, sticky: bool = False, ofAnybody: bool = False) -> bool:
    """
    Return whether only root and this user, or its group, decide what lies at this path: nobody else may write to its
    folder, nor exchange a folder above.

    @param sticky: the folder may also be one like C{/tmp}, where others add names, and cannot change those of others.
    @param ofAnybody: the folders may belong to another user, whom the operator has given them.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        # The folders as they are named, and those where links lead.
        named, real = list(_upwards(folder)), list(_upwards(os.path.realpath(folder)))
        return all(
            _isTrusted(each, sticky or each not in (named[0], real[0]), ofAnybody)
            for each in dict.fromkeys((*named, *real))
        )
    except OSError:
        return False


def _upwards(folder: str) -> Iterator[str]:
    """Return a folder and all above it, the innermost first."""
    while True:
        yield folder
        above = os.path.dirname(folder)
        if above == folder:
            return
        folder = above


def _isTrusted(path: str, sticky: bool, ofAnybody: bool) -> bool:
    """
    Return whether a folder, or a link to one, is of root or this user, and nobody else may exchange what is in it.

    @raise OSError: there is no such folder.
    """
    status = os.lstat(path)
    if status.st_uid not in (0, os.geteuid()) and not ofAnybody:
        return False
    if stat.S_ISLNK(status.st_mode) or (sticky and status.st_mode & stat.S_ISVTX):
        return True
    writable = status.st_mode & (stat.S_IWOTH | (0 if status.st_gid == os.getegid() else stat.S_IWGRP))
    return not writable


def openOwn(path: str, flags: int, mode: int = 0o640) -> int:
    """
    Open a file, and make sure that it is castd's own if others may write to its folder.

    @param flags: as for C{os.open}.
    @return: the descriptor.
    @raise OSError: the file cannot be opened; or it is, in such a folder, a symbolic link, no regular file, of another
        user, or has a second name.  Nothing is written to it then.
    """
    if isPrivate(path):
        return os.open(path, flags | os.O_CLOEXEC, mode)
    # Without O_NONBLOCK a FIFO would be waited for.
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            kind = "a symbolic link" if error.errno == errno.ELOOP else "no regular file"
            raise OSError(error.errno, f"{kind}, {_WHERE}") from None
        raise
    fault = _faultOf(os.fstat(fd))
    if fault is None:
        return fd
    os.close(fd)
    raise OSError(errno.EPERM, f"{fault}, {_WHERE}")


_WHERE = "in a folder where others may write"


def _faultOf(status: os.stat_result) -> str | None:
    """Return why a file in a folder where others may write is not to be used; L{None}: it is this user's own."""
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    if status.st_uid != os.geteuid():
        return f"a file of user {status.st_uid}"
    return "a file that has a second name" if status.st_nlink > 1 else None


def checkBeside(paths: tuple[str, ...]) -> None:
    """
    Make sure that files which a library opens, if they exist, are castd's own where others may write to their folder.

    @raise OSError: one is not.
    """
    for path in paths:
        if isPrivate(path):
            continue
        try:
            fault = _faultOf(os.lstat(path))
        except FileNotFoundError:
            continue
        if fault is not None:
            raise OSError(errno.EPERM, f"{os.path.basename(path)}: {fault}, {_WHERE}")


def clearSocket(path: str) -> None:
    """
    Make sure that a local socket can be made at this path, with the lock beside it that Twisted makes: a symbolic link
    that leads to nothing, and names the process.  Socket and lock of a server that died are removed, also if another
    process has its number by now: in a container each server is process 1.

    @raise OSError: there is no such folder, or it cannot be looked at; others could exchange the socket; something else
        lies there, or another server has it.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.stat(folder)
    except OSError as error:
        raise OSError(error.errno, f"{folder}: {error.strerror}") from None
    if not isPrivate(path, sticky=True, ofAnybody=True):
        raise OSError(errno.EPERM, f"{os.path.dirname(path)}: others may exchange what is there: chmod go-w")
    _checkName(path, stat.S_ISSOCK, "socket")
    lock = f"{path}.lock"
    if not _checkName(lock, stat.S_ISLNK, "lock"):
        return
    process = os.readlink(lock)
    if not process.isascii() or not process.isdecimal():
        raise OSError(errno.EEXIST, f"{lock} is no lock of castd: remove it")
    if _isServed(path):
        raise OSError(errno.EADDRINUSE, f"in use by process {process}, says {lock}")
    # The socket first: Twisted removes that of a dead server only if its lock is there.
    for left in (path, lock):
        with suppress(FileNotFoundError):
            os.unlink(left)


def _isServed(path: str) -> bool:
    """Return whether a process listens at a local socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        # Of one with too many connections it is EAGAIN.
        return client.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def _checkName(path: str, isKind: Callable[[int], bool], kind: str) -> bool:
    """
    Return whether a path exists.

    @raise OSError: it is something else than this kind of thing, or belongs to another user.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if not isKind(status.st_mode):
        raise OSError(errno.EEXIST, f"{path} is there, and no {kind} of castd: remove it")
    if status.st_uid not in (0, os.geteuid()):
        raise OSError(errno.EPERM, f"{path} belongs to user {status.st_uid}: remove it")
    return True
