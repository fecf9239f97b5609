"""
Open files below a directory without ever leaving it, whatever the name and the symbolic links in its path.

Each part of a name is opened relative to the descriptor of the directory before it, and never through a symbolic link:
L{_LinkWalk} follows links itself, one step at a time, and stops where a path leaves the root.  So changes on the disk
between a check and its use have no effect.  (The C{openat2} of Linux would do the same; Python does not have it.)
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Literal, TypeAlias

from castd.errors import Busy, Forbidden, NotFound, Refused, Unanswered
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

    The descriptor is free after an error, too (such as that of a file server that is down), and no data is lost: a file
    was only read, or was synced before, or is discarded.
    """
    with suppress(OSError):
        os.close(fd)


class Root:
    """
    Opens files and directories below one directory, which it keeps open.

    @ivar path: the absolute path of the directory, as configured.
    @ivar links: C{"inside"}: symbolic links are followed as long as they stay within; C{"never"}: none is.
    @ivar ignoreCase: C{BOOT/X} finds C{boot/x} if there is no exact match; costs a listing of the directory for each
    miss.
    """

    def __init__(self, path: str, links: Links = "inside", ignoreCase: bool = False) -> None:
        """@raise OSError: there is no such directory, or it cannot be searched."""
        # The working directory changes when the server becomes a daemon.
        self.path, self.links, self.ignoreCase = os.path.abspath(path), links, ignoreCase
        self._fd, self._identity, self._realParts = _openRoot(self.path)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            closeFd(self._fd)

    def openFile(self, parts: Parts) -> int:
        """
        Open a file for reading.

        @return: its descriptor.  The caller must check (by C{fstat}) that it is a regular file, and close it.
        @raise NotFound: there is no such file.
        @raise Forbidden: it is not readable, or its path leaves the root.
        @raise Busy: the system cannot open it now: no descriptors are left, or the disk has failed.
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
        """Open a file without links in its path, spelled as on disk, as in nearly all requests."""
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
        Return the root's descriptor; a new one if there is another directory at its path by now.

        Operators replace whole trees by renaming them, or by changing a link; both must have effect without a reload.
        If the path does not exist any more, or cannot be reached since root privileges were dropped, the old one is
        used.
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
    """Return (descriptor, (device, inode), the parts of its real path)."""
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
    Follows one name step by step, with its symbolic links.

    Its position is C{_stack}, the open directories below the root (C{..} in a link removes the last one), or C{_above}:
    so many levels above the root.  There nothing is opened, and only steps back down to the root are allowed.  An
    absolute link begins at C{/}, as far above the root as possible.
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
        """Return the descriptor of the file or directory with this name."""
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
        # Only a link can end here: at the root, at a directory after "..", or above the root.
        if self._above or not flags & os.O_DIRECTORY:
            raise Forbidden(why="a link leads to a directory")
        return os.open(b".", flags & ~os.O_NOFOLLOW, dir_fd=self._directoryFd())

    def _directoryFd(self) -> int:
        """Return the descriptor of the present directory."""
        return self._stack[-1] if self._stack else self._root

    def _stepUpOrBack(self, part: bytes) -> None:
        """Take a step up for C{..}; above the root, take a step back down to the root, and refuse any other."""
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
        """
        Return the target of a link, relative to the present position, which an absolute link changes; L{None}: no link.
        """
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
        # The configured path may contain a link, and then differs from the real path.
        below = target.removeprefix(self._path)
        if below != target and below[:1] in (b"", b"/"):
            return below
        self._above = len(self._realParts)
        return target

    def _spellingOnDisk(self, part: bytes) -> bytes:
        """
        Return the name on disk: the part itself, or (if case is ignored) the first name that differs only by case.
        """
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


#: Errors that pass as soon as a transfer ends: at "busy" a client gives up, without an answer it asks again.
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def readRefusal(error: OSError) -> Refused:
    """Return the refusal for a file that could not be opened."""
    why = error.strerror or "input/output error"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return NotFound(why=why)
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENODEV):
        return Forbidden(why=why)
    if error.errno in NO_DESCRIPTORS:
        return Unanswered(why=why)
    # Other errors, as of a failing disk, must not become "not found", at which clients give up.
    return Busy(why=why)
