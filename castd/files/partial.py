"""
Create, publish and remove partial files, to which uploads are written until they are complete.

Partial files have names of a form of their own.  Each is locked while it is being written; the kernel releases the lock
when the process ends, for whatever reason, so a partial file without a lock is left from a crash.  No other record of
them is needed, and so none can be wrong.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from contextlib import suppress
from itertools import count

from castd.files.root import closeFd

#: The form of the names of partial files, whatever their case.  Clients may neither read nor create such files.
NAME = re.compile(rb"\.castd-[0-9]+-[0-9]+\.part", re.IGNORECASE)

_numbers = count(1)
#: Attempts to create the file of one upload: L{removeAbandoned} may remove a file that was just created, but hardly
#: each time.
_TRIES = 8


def create(directory: int) -> tuple[bytes, int]:
    """
    Create a partial file that only the user of this process can read.

    @param directory: descriptor of the directory that it is created in.
    @return: its name, and its descriptor, locked.
    @raise OSError: as creating a file does.
    """
    for _ in range(_TRIES):
        name, fd = _createNext(directory)
        try:
            if _lock(fd):
                return name, fd
        except OSError:
            remove(directory, name)
            closeFd(fd)
            raise
        # Between open and lock another process has taken it for an abandoned file, and removes it.
        closeFd(fd)
    raise BlockingIOError(errno.EAGAIN, "others lock every file that is created")


def _createNext(directory: int) -> tuple[bytes, int]:
    """
    Create a file of the next name that is free.  In containers several servers are process 1, and what a crash has left
    stays where the file system has no locks.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        name = b".castd-%d-%d.part" % (os.getpid(), next(_numbers))
        with suppress(FileExistsError):
            return name, os.open(name, flags, 0o600, dir_fd=directory)


def _lock(fd: int) -> bool:
    """
    Lock a file that is being written.

    @return: C{False}: another process has locked or removed it.  On a file system without locks the result is C{True},
        as there no process removes the file either.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.EWOULDBLOCK
    return os.fstat(fd).st_nlink > 0


def publish(directory: int, part: bytes, name: bytes, replace: bool) -> None:
    """
    Give a partial file the name that the upload is for, in one step.

    @param directory: descriptor of the directory that both names are in.
    @param part: the name of the partial file.
    @param replace: replace a file of that name; C{False}: there must be none, even if one has appeared since the upload
        began.
    @raise OSError: C{FileExistsError}, or any error of renaming.
    """
    if replace:
        os.rename(part, name, src_dir_fd=directory, dst_dir_fd=directory)
        return
    os.link(part, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    remove(directory, part)


def syncDirectory(directory: int) -> None:
    """Sync the directory itself to the disk; C{EINVAL}, from file systems that need no such sync, is ignored."""
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def remove(directory: int, part: bytes) -> None:
    """Remove a partial file.  If that fails, L{removeAbandoned} tries again at the next start."""
    with suppress(OSError):
        os.unlink(part, dir_fd=directory)


def removeAbandoned(path: str, within: int | None = None) -> int:
    """
    Remove the partial files that no process writes any more, in this directory and below; links are not followed.

    @param within: the descriptor of the directory that the path is relative to.
    @return: how many were removed.
    """
    removed = 0
    for _, _, files, directory in os.fwalk(os.fsencode(path), follow_symlinks=False, dir_fd=within):
        for name in filter(NAME.fullmatch, files):
            with suppress(OSError):
                removed += _removeUnlocked(directory, name)
    return removed


def _removeUnlocked(directory: int, name: bytes) -> bool:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        # An OSError here means that the file is being written, or that the file system has no locks: it stays.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)
    finally:
        closeFd(fd)
    return True
