"""
Open files below a directory without ever leaving it, whatever the name and the symbolic links in its path.

Each part of a name is opened relative to the descriptor of the directory before it, and never through a symbolic link:
L{_LinkWalk} follows links itself, one step at a time, and stops where a path leaves the root.  So changes on the disk
between a check and its use have no effect.

All this waits for the disk.  L{AtHand<castd.files.athand.AtHand>}, the base of L{Root}, does not: it has the kernel do
the same at once (C{openat2} with C{RESOLVE_BENEATH}) as long as nothing but memory is needed, and leaves all else to
what is here.

The methods may be called in several threads at once.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import partial as bind

from castd.errors import Busy, Forbidden, NotFound, Refused, Unanswered, reasonOf
from castd.files import athand
from castd.files.athand import FILE_FLAGS, NO_DESCRIPTORS, AtHand, Links, OpenedDirectory
from castd.files.names import Parts
from castd.files.permission import whyNot, writeFault
from castd.files.spelling import MOST_LISTED, Spellings, spelled
from castd.files.threads import callWithin

#: Seconds that the start waits for a directory whose disk does not answer.
OPEN_TIMEOUT = 10.0
#: Symbolic links followed for one name; the kernel's own limit.
MOST_LINKS = 40
#: Ways through directories that differ by case only, tried for one name.
MOST_WALKS = 64

_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = FILE_FLAGS | os.O_NOFOLLOW


def closeFd(fd: int) -> None:
    """
    Close a descriptor, and ignore errors.

    The descriptor is free after an error, too (such as that of a file server that is down), and no data is lost: a file
    was only read, or was synced before, or is discarded.
    """
    try:  # noqa: SIM105 (suppress would take longer than the call)
        os.close(fd)
    except OSError:
        pass


class Root(AtHand):
    """
    Opens files and directories below one directory, which it keeps open.

    @ivar ignoreCase: C{BOOT/X} finds C{boot/x} if there is no exact match, see L{Spellings}.
    """

    _opened: _OpenedRoot | None
    _released = False

    def __init__(
        self,
        path: str,
        links: Links = "inside",
        ignoreCase: bool = False,
        patience: float = OPEN_TIMEOUT,
        writable: bool = False,
    ) -> None:
        """
        @param writable: the directory must be one that can be written to.
        @param patience: seconds to wait for a disk that does not answer; then the directory is opened when the first
            request needs it.
        @raise OSError: there is no such directory, or it cannot be searched or written to.
        """
        super().__init__(path, links, ignoreCase)
        self._spellings = Spellings() if ignoreCase else None
        with suppress(TimeoutError):
            self._opened = callWithin(patience, bind(_openRoot, self.path, writable))

    @property
    def answers(self) -> bool:
        """Whether the disk has answered so far."""
        return self._opened is not None

    def release(self) -> None:
        """
        Close the root as soon as nobody uses it; who needs it later opens it anew.  To forget the object would not do:
        what is left of a request may refer to it until the garbage collector comes, which is seldom.
        """
        self._released = True
        self._opened = None

    def leadsBeyond(self, parts: Parts) -> bool:
        """
        Return whether the path of a file leads to another mount.  Waits for the directory's own disk, and no other.

        @raise Refused: as L{openFile}.
        """
        try:
            return athand.leadsBeyond(b"/".join(parts), self._current().fd)
        except OSError as error:
            raise readRefusal(error) from error

    def openFile(self, parts: Parts) -> int:
        """
        Open a file for reading.

        @return: its descriptor.  The caller must check (by C{fstat}) that it is a regular file, and close it.
        @raise NotFound: there is no such file.
        @raise Forbidden: it is not readable, or its path leaves the root.
        @raise Unanswered: no descriptors are left.
        @raise Busy: the disk has failed.
        """
        return self._openBeneath(parts, _FILE_FLAGS)

    def openDirectory(self, parts: Parts) -> int:
        """Open a directory beneath the root, or the root itself, to create files in.  Raises as L{openFile}."""
        if not parts:
            try:
                root = self._current()
                return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root.fd)
            except OSError as error:
                raise readRefusal(error) from error
        return self._openBeneath(parts, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def nearest(self, parts: Parts) -> tuple[int, Parts | None]:
        """
        Find out how much of a path is there, and what was meant.  Waits for the disk.

        @return: how many parts of the path exist; and the path of a file that differs from it in case only; L{None}:
            there is none, or it would be in a directory that is too large to list.
        @raise Refused: as L{openFile}.
        """
        spellings = Spellings(largest=MOST_LISTED)
        found: list[bytes] = []
        exists: int | None = None
        for part in parts:
            fd = self.openDirectory(tuple(found))
            try:
                known = spelled(fd, part, spellings)
            except OSError as error:
                raise readRefusal(error) from error
            finally:
                closeFd(fd)
            if known != part and exists is None:
                exists = len(found)
            if known is None:
                return exists or 0, None
            found.append(known)
        return (len(found), None) if exists is None else (exists, tuple(found))

    def closedAt(self, parts: Parts) -> Parts:
        """
        Find out which part of a path this user may not use.  Waits for the disk.

        @return: the path of the outermost directory that may not be searched; all parts: each of them may be.
        @raise Refused: as L{openFile}.
        """
        root = self._current()
        if not _maySearch(root.fd):
            return ()
        for end in range(1, len(parts)):
            fd = self._openBeneath(parts[:end], _DIRECTORY_FLAGS)
            try:
                if not _maySearch(fd):
                    return parts[:end]
            finally:
                closeFd(fd)
        return parts

    def _openBeneath(self, parts: Parts, flags: int) -> int:
        try:
            root = self._current()
            try:
                return _openPlain(root.fd, parts, flags)
            except OSError as error:
                # A link in the way, or another spelling of the name.  O_DIRECTORY turns the ELOOP of a link into
                # ENOTDIR.
                if error.errno not in (errno.ELOOP, errno.ENOTDIR) and not (
                    self.ignoreCase and error.errno == errno.ENOENT
                ):
                    raise
            return self._openByLinks(root, parts, flags)
        except OSError as error:
            raise readRefusal(error) from error

    def _openByLinks(self, root: _OpenedRoot, parts: Parts, flags: int) -> int:
        """
        Open a file by following links, and by other spellings of its name where case is ignored: each directory that
        fits is tried, those spelled as in the name first.

        @raise OSError: it is in none of them.
        """
        choices = None if self._spellings is None else Choices(self._spellings)
        while True:
            with _LinkWalk(root.fd, root.realParts, self.path, self.links, choices) as walk:
                try:
                    return walk.open(parts, flags)
                except OSError as error:
                    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
                    if choices is None or not missing or not choices.next():
                        raise

    def _current(self) -> _OpenedRoot:
        """
        Return the opened root; it is opened anew if there is another directory at its path by now.

        Operators replace whole trees by renaming them, or by changing a link; both must have effect without a reload.
        If the path does not exist any more, or cannot be reached since root privileges were dropped, the old one is
        used.

        @raise OSError: it could not be opened at the start, nor can it be now.
        """
        root = self._opened
        if root is None:
            return self._openAnew()
        try:
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) != root.identity:
                root = self._openAnew()
        except OSError:
            pass
        return root

    def _openAnew(self) -> _OpenedRoot:
        self._opened = root = _OpenedRoot(self.path)
        # Looked at only now, as this may run in a thread: a request may have waited there since before the release.
        if self._released:
            self._opened = None
        return root


def _maySearch(directory: int) -> bool:
    """Return whether this user may open what is in a directory, by its descriptor."""
    return os.access(".", os.X_OK, dir_fd=directory, effective_ids=True)


def _openRoot(path: str, writable: bool) -> _OpenedRoot:
    """@raise OSError: there is no such directory, or it cannot be searched, or written to if it is to be."""
    root = _OpenedRoot(path)
    if writable and (fault := writeFault(path, os.W_OK)):
        raise OSError(fault, whyNot(fault, "directory cannot be written to"), path)
    return root


class _OpenedRoot(OpenedDirectory):
    """
    Holds a root as it was opened.  It is closed when nobody refers to it any more: a thread may still use the one that
    another thread has replaced.

    @ivar realParts: the parts of its real path.
    """

    __slots__ = ("realParts",)

    def __init__(self, path: str) -> None:
        """@raise OSError: there is no such directory, or it cannot be searched."""
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not _maySearch(self.fd):
            raise PermissionError(errno.EACCES, "directory cannot be searched", path)
        status = os.fstat(self.fd)
        self.identity = status.st_dev, status.st_ino
        self.realParts: Parts = tuple(part for part in os.path.realpath(os.fsencode(path)).split(b"/") if part)
        self.fromMemory = athand.fromMemory(self.fd)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            closeFd(self.fd)


def _openPlain(root: int, parts: Parts, flags: int) -> int:
    """Open a file without links in its path, spelled as on disk, as in nearly all requests."""
    if len(parts) == 1:
        return os.open(parts[0], flags, dir_fd=root)
    place, held = root, -1
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


class Choices:
    """
    Chooses among the names on disk that fit the parts of one name, where case is ignored, and finds the next choice
    when one has led nowhere: C{boot/x} is in C{boot}, if not in C{Boot}.
    """

    def __init__(self, spellings: Spellings) -> None:
        self._spellings = spellings
        # For each part of the walk: the number of the name that is chosen, and how many there are.
        self._chosen: list[tuple[int, int]] = []
        self._at = self._walks = 0

    def choose(self, directory: int, part: bytes, ofName: bool) -> bytes:
        """
        Return the name on disk for the next part of a walk: spelled as in the name, if there is such a file.

        @param directory: descriptor of the directory that the walk has come to.
        @param ofName: the part is one of the name; C{False}: of the target of a link, where no other spelling is meant
            if there is such a file.
        """
        found = self._fitting(directory, part)
        if not ofName and found[0] == part:
            found = [part]
        if self._at == len(self._chosen):
            self._chosen.append((0, len(found)))
        number, _ = self._chosen[self._at]
        self._at += 1
        # Somebody may have removed files since the last walk.
        return found[number] if number < len(found) else part

    def next(self) -> bool:
        """Begin another walk, by the next choice; C{False}: all that fit were tried, or too many."""
        self._at, self._walks = 0, self._walks + 1
        while self._chosen:
            number, count = self._chosen.pop()
            if number + 1 < count:
                self._chosen.append((number + 1, count))
                return self._walks < MOST_WALKS
        return False

    def _fitting(self, directory: int, part: bytes) -> list[bytes]:
        try:
            fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        except PermissionError:
            return [part]  # a directory that may be searched, but not listed
        try:
            found = list(self._spellings.find(fd, part))
        finally:
            closeFd(fd)
        return sorted(found, key=lambda each: each != part) or [part]


class _LinkWalk:
    """
    Follows one name step by step, with its symbolic links.

    Its position is C{_stack}, the open directories below the root (C{..} in a link removes the last one), or C{_above}:
    so many levels above the root.  There nothing is opened, and only steps back down to the root are allowed.  An
    absolute link begins at C{/}, as far above the root as possible.
    """

    def __init__(self, root: int, realParts: Parts, path: str, links: Links, choices: Choices | None) -> None:
        self._root, self._realParts, self._links, self._choices = root, realParts, links, choices
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
        # Each with whether it is of the name, not of a link.
        ahead = [(part, True) for part in reversed(parts)]
        while ahead:
            part, ofName = ahead.pop()
            if part in (b"", b"."):
                continue
            if part == b".." or self._above:
                self._stepUpOrBack(part)
                continue
            if self._choices is not None:
                part = self._choices.choose(self._directoryFd(), part, ofName)
            target = self._linkTarget(part)
            if target is not None:
                ahead.extend((step, False) for step in reversed(target.split(b"/")))
            elif any(rest not in (b"", b".") for rest, _ in ahead):
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


def readRefusal(error: OSError) -> Refused:
    """Return the refusal for a file that could not be opened."""
    why = reasonOf(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return NotFound(why=why)
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENODEV):
        return Forbidden(why=why)
    if error.errno in NO_DESCRIPTORS:
        return Unanswered(why=why)
    # Other errors, as of a failing disk, must not become "not found", at which clients give up.
    return Busy(why=why)
