"""
Opens files beneath a directory without ever leaving it, whatever the name and whatever links lie in the way.

Each part of a name is opened relative to the descriptor of the directory before it, and never through a symbolic link:
what the kernel would follow, L{_LinkWalk} follows itself, one step at a time, and it stops where the way leaves the
root.  So nothing that happens on disk between a check and its use can matter.  (The C{openat2} of Linux would do the
same; Python does not have it.)
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Literal, TypeAlias

from castd.errors import Busy, Forbidden, NotFound, Refused
from castd.files.names import Parts

Links: TypeAlias = Literal["inside", "never"]

#: Symbolic links followed for one name; the kernel's own limit.
MOST_LINKS = 40

_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A FIFO or a terminal line must not make the server wait, nor become its controlling terminal.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def closeFd(fd: int) -> None:
    """
    Close a descriptor, and ignore errors.

    It is free then whatever the system says (a file server may be gone), and nothing is lost: what was only read has
    nothing to write, what was written was synced before or is thrown away.
    """
    with suppress(OSError):
        os.close(fd)


class Root:
    """
    A directory, held open, and what is opened beneath it.

    @ivar path: the directory's path, as configured.
    @ivar links: C{"inside"}: symbolic links are followed as long as they stay within; C{"never"}: none is.
    @ivar ignoreCase: C{BOOT/X} finds C{boot/x} if there is no exact match; costs a listing of the directory for each
    miss.
    """

    def __init__(self, path: str, links: Links = "inside", ignoreCase: bool = False) -> None:
        """@raise OSError: there is no such directory, or it cannot be searched; with a clear text."""
        # The working directory will be another one once the server is a daemon.
        self.path, self.links, self.ignoreCase = os.path.abspath(path), links, ignoreCase
        self._fd, self._identity, self._realParts = _openRoot(self.path)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            closeFd(self._fd)

    def openFile(self, parts: Parts) -> int:
        """
        Open a file for reading.

        @return: its descriptor.  It is for the caller to see (by C{fstat}) that it is a regular file, and to close it.
        @raise NotFound: there is none.
        @raise Forbidden: not readable, or the way to it leaves the root.
        @raise Busy: the system cannot say now: no descriptors are left, or the disk failed.
        """
        return self._openBeneath(parts, _FILE_FLAGS)

    def openDirectory(self, parts: Parts) -> int:
        """Open a directory beneath the root, or the root itself, to create files in.  Raises as L{openFile}."""
        if not parts:
            try:
                return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._currentFd())
            except OSError as error:
                raise readRefusal(error) from error
        return self._openBeneath(parts, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _openBeneath(self, parts: Parts, flags: int) -> int:
        try:
            try:
                return self._openPlain(parts, flags)
            except OSError as error:
                # A link in the way, or another spelling of the name.  O_DIRECTORY turns the ELOOP of a link into
                # ENOTDIR.
                if error.errno not in (errno.ELOOP, errno.ENOTDIR) and not (
                    self.ignoreCase and error.errno == errno.ENOENT
                ):
                    raise
            with _LinkWalk(self._currentFd(), self._realParts, self.path, self.links, self.ignoreCase) as walk:
                return walk.open(parts, flags)
        except OSError as error:
            raise readRefusal(error) from error

    def _openPlain(self, parts: Parts, flags: int) -> int:
        """Open what nearly all requests are for: no links in the way, case as on disk."""
        place = self._currentFd()
        if len(parts) == 1:
            return os.open(parts[0], flags, dir_fd=place)
        held = -1
        try:
            for part in parts[:-1]:
                place = os.open(part, _DIRECTORY_FLAGS, dir_fd=place)
                if held >= 0:
                    closeFd(held)
                held = place
            return os.open(parts[-1], flags, dir_fd=place)
        finally:
            if held >= 0:
                closeFd(held)

    def _currentFd(self) -> int:
        """
        -> the root's descriptor; a new one if another directory stands at its path by now.

        Whole trees are exchanged by renaming them, or by pointing a link elsewhere; both must be seen without a
        reload.  A path that is gone, or out of reach since root was given up, changes nothing.
        """
        try:
            found = os.stat(self.path)
        except OSError:
            return self._fd
        if (found.st_dev, found.st_ino) != self._identity:
            try:
                fresh = _openRoot(self.path)
            except OSError:
                return self._fd
            closeFd(self._fd)
            self._fd, self._identity, self._realParts = fresh
        return self._fd


def _openRoot(path: str) -> tuple[int, tuple[int, int], Parts]:
    """-> (descriptor, device and inode, the parts of where it really is)."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.access(".", os.X_OK, dir_fd=fd, effective_ids=True):
            raise PermissionError(errno.EACCES, "directory cannot be searched", path)
        status = os.fstat(fd)
        realParts = os.path.realpath(os.fsencode(path)).split(b"/")
    except BaseException:
        closeFd(fd)
        raise
    return fd, (status.st_dev, status.st_ino), tuple(part for part in realParts if part)


class _LinkWalk:
    """
    Follows one name step by step, links and all.

    Where it is: C{stack}, the open directories below the root (each C{..} of a link steps back on it), or C{above}: so
    many levels above the root, where only the way back down is known and nothing is opened.  That covers absolute
    links, too: they begin at C{/}, as far above the root as can be.
    """

    def __init__(self, root: int, realParts: Parts, path: str, links: Links, ignoreCase: bool) -> None:
        self._root, self._realParts, self._links, self._ignoreCase = root, realParts, links, ignoreCase
        self._path = os.fsencode(path)
        self._stack: list[int] = []
        self._above = 0
        self._followed = 0

    def __enter__(self) -> _LinkWalk:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._stack:
            closeFd(fd)

    def open(self, parts: Parts, flags: int) -> int:
        """-> the descriptor of what the name leads to."""
        ahead = list(reversed(parts))
        while ahead:
            part = ahead.pop()
            if part in (b"", b"."):
                continue
            if part == b".." or self._above:
                self._stepUpOrBack(part)
                continue
            part = self._spellingOnDisk(part)
            target = self._linkTarget(part)
            if target is not None:
                ahead.extend(reversed(target.split(b"/")))
            elif any(rest not in (b"", b".") for rest in ahead):
                self._stack.append(os.open(part, _DIRECTORY_FLAGS, dir_fd=self._directoryFd()))
            else:
                return os.open(part, flags, dir_fd=self._directoryFd())
        # Only links lead here: to the root, to a directory by "..", or out.
        if self._above or not flags & os.O_DIRECTORY:
            raise Forbidden(why="a link leads to a directory")
        return os.open(b".", flags & ~os.O_NOFOLLOW, dir_fd=self._directoryFd())

    def _directoryFd(self) -> int:
        """-> the descriptor of the directory that has been reached."""
        return self._stack[-1] if self._stack else self._root

    def _stepUpOrBack(self, part: bytes) -> None:
        """Take a step up, or, above the root, a step that must be one back down."""
        if part == b"..":
            if self._stack:
                closeFd(self._stack.pop())
            else:
                self._above = min(self._above + 1, len(self._realParts))
        elif part == self._realParts[-self._above]:
            self._above -= 1
        else:
            raise Forbidden(why="a link leads out of the root")

    def _linkTarget(self, part: bytes) -> bytes | None:
        """-> what a link points to, from here or from the root; L{None}: it is no link."""
        if not stat.S_ISLNK(os.lstat(part, dir_fd=self._directoryFd()).st_mode):
            return None
        self._followed += 1
        if self._links == "never" or self._followed > MOST_LINKS:
            raise Forbidden(why="links are not followed here" if self._links == "never" else "a link leads in circles")
        target = os.readlink(part, dir_fd=self._directoryFd())
        if not target.startswith(b"/"):
            return target
        while self._stack:
            closeFd(self._stack.pop())
        # The configured path may itself lead through a link, so that it is another than the real one.
        below = target.removeprefix(self._path)
        if below != target and below[:1] in (b"", b"/"):
            return below
        self._above = len(self._realParts)
        return target

    def _spellingOnDisk(self, part: bytes) -> bytes:
        """-> the part as it stands on disk: itself, or (if case is ignored) the first that differs only by case."""
        if not self._ignoreCase:
            return part
        try:
            os.lstat(part, dir_fd=self._directoryFd())
        except FileNotFoundError:
            wanted = os.fsdecode(part).casefold()
            fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directoryFd())
            try:
                alike = sorted(name for name in os.listdir(fd) if name.casefold() == wanted)
            finally:
                closeFd(fd)
            return os.fsencode(alike[0]) if alike else part
        return part


def readRefusal(error: OSError) -> Refused:
    """-> what a client is told when a file could not be opened."""
    why = error.strerror or "input/output error"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return NotFound(why=why)
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENODEV):
        return Forbidden(why=why)
    # Anything else (no descriptors left, a failing disk) must not be taken for "not there": clients give up on that.
    return Busy(why=why)
