"""
Partial files: uploads are written to them until they are complete.

Their name tells them from all others, and a lock tells those that somebody still writes from those that a crash has
left: the kernel drops it with the process, whatever that died of.  So no record has to be kept of them, and none can be
wrong.
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

#: The names of partial files, also where case is ignored.  No client may read one of them, nor create one.
NAME = re.compile(rb"\.castd-[0-9]+-[0-9]+\.part", re.IGNORECASE)

_numbers = count(1)
#: Files created for one upload before it is refused: L{removeAbandoned} may take one just created, but hardly again and
#: again.
_TRIES = 8


def create(directory: int) -> tuple[bytes, int]:
    """
    Create a partial file, readable by nobody else.

    @param directory: descriptor of the directory that it is created in.
    @return: its name, and its descriptor, locked.
    @raise OSError: as creating a file does.
    """
    for _ in range(_TRIES):
        name = b".castd-%d-%d.part" % (os.getpid(), next(_numbers))
        with suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=directory)
            try:
                if _lock(fd):
                    return name, fd
            except OSError:
                remove(directory, name)
                closeFd(fd)
                raise
            # Between these two lines somebody took it for a leftover, and has removed it or will.
            closeFd(fd)
    raise BlockingIOError(errno.EAGAIN, "others lock every file that is created")


def _lock(fd: int) -> bool:
    """
    Mark a file as being written.

    @return: C{False}: somebody else was quicker.  Where the disk knows no locks, nobody removes the file either.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno != errno.EWOULDBLOCK
    return os.fstat(fd).st_nlink > 0


def publish(directory: int, part: bytes, name: bytes, policy: str) -> None:
    """
    Give a partial file the name that the upload is for, in one step.

    @param directory: descriptor of the directory that both names are in.
    @param part: the name of the partial file.
    @param policy: C{"create"}: there must be none of that name, even if one has appeared since the upload began;
        C{"existing"}: there must be one; C{"overwrite"}: either.
    @raise OSError: C{FileExistsError}, C{FileNotFoundError} and all that renaming raises.
    """
    if policy == "create":
        os.link(part, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        remove(directory, part)
        return
    if policy == "existing":
        os.lstat(name, dir_fd=directory)
    os.rename(part, name, src_dir_fd=directory, dst_dir_fd=directory)


def syncDirectory(directory: int) -> None:
    """Sync the directory itself to the disk; some file systems have nothing to do for that, and say C{EINVAL}."""
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
    Remove the partial files that nobody writes to any more, in this directory and beneath; links are not followed.

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
        # An OSError here says that it is being written to, or that this disk knows no locks: it stays.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)
    finally:
        closeFd(fd)
    return True
