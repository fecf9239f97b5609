"""
Serve the files of directories as contents.

A file is looked up for every request and read through the descriptor that was opened then, so the next request gets a
replaced file, and a transfer under way does not.  All contents of one file share one descriptor; a path that still
leads to a file that is open is not opened again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from errno import EAGAIN
from functools import partial as bind
from time import time_ns
from typing import TypeVar

from pydantic import Field
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import ContentChanged, Forbidden, NotFound, Refused, reasonOf
from castd.files import athand, names, nearest
from castd.files.athand import NO_SUCH_CALL, Links, Version
from castd.files.mapping import MappedOptions, NameMap, RewriteOptions, WordPath, isUnfinished
from castd.files.root import OPEN_TIMEOUT, Root, closeFd, readRefusal
from castd.files.spelling import MOST_LISTED, Spellings
from castd.files.threads import DiskThreads, RunInThread, WaitingRequests
from castd.interfaces import (
    IAwaitedContent,
    IContent,
    ILocatingSource,
    INetworkSource,
    IScopedSource,
    Near,
)
from castd.machines.known import KnownMachine
from castd.options import Clients, clients
from castd.request import Peer

T = TypeVar("T")

#: The first octets of each open file are kept, as many as a block has without options: MTFTP needs them at once.
HEAD = 512
#: Two changes of a file within one step of the clock of its file system leave it one version.  Some tell the time in
#: steps of two seconds, such as FAT, and Linux before 6.13 in its ticks of up to 10 ms.  Nanoseconds.
CLOCK_STEP = 3_000_000_000
#: Requests whose file is not there, and for which a name like theirs is looked for at once.
MOST_SEEKING = 4


class DirectoryOptions(MappedOptions):
    """A directory whose files are served."""

    path: WordPath = Field(description="the directory; nothing outside of it is ever opened")
    under: str = Field("", description="names under which it appears: images shows a/b as images/a/b")
    strip: tuple[str, ...] = Field((), description="leading directories to drop from names, such as /tftpboot/")
    rewrite: tuple[RewriteOptions, ...] = Field((), description="rules that change names, applied in order after strip")
    networks: Clients = Field(
        clients("any"), description="clients that see this directory; the others look further down"
    )
    ignoreCase: bool = Field(
        False, description="find boot/x for BOOT/X if there is no exact match, in each directory that fits"
    )
    links: Links = Field(
        "inside", description="symbolic links: inside: as long as they stay in the directory; or never"
    )
    worldReadable: bool = Field(False, description="only files that everybody on this machine may read")


@implementer(INetworkSource, ILocatingSource, IScopedSource)
class Directory:
    """
    Serves the files of one directory.

    What the kernel has in memory is opened and read at once.  Everything else is done in threads of this directory
    alone, so that its disk delays nobody who asks another one (docs/decisions/slow-disks.md).
    """

    def __init__(
        self,
        options: DirectoryOptions,
        thread: RunInThread | None = None,
        background: RunInThread | None = None,
        beyond: RunInThread | None = None,
        patience: float = OPEN_TIMEOUT,
    ) -> None:
        """
        Open the directory.

        @param patience: seconds to wait for a disk that does not answer, see L{Root}.
        @param thread: runs what waits for the disk; L{None}: threads of its own.
        @param background: runs what reads whole files; L{None}: a thread of its own.
        @param beyond: runs what waits for other mounts below the directory; L{None}: threads of its own.
        @raise OSError: it is not there or cannot be searched.
        """
        self.options = options
        self.networks = options.networks
        self.thread = thread or DiskThreads()
        self.background = background or DiskThreads(1)
        self.beyond = beyond or DiskThreads()
        self._root = Root(str(options.base), options.links, options.ignoreCase, patience)
        self._map = NameMap(options)
        self.byMachine = self._map.byMachine
        self._open: dict[Version, _OpenFile] = {}
        # The open files that are found again, by their path.
        self._found: dict[names.Parts, _OpenFile] = {}
        self._waiting = WaitingRequests(str(options.path))
        self._seeking = 0
        self._spellings = Spellings(nearest.MOST_NAMES, MOST_LISTED)

    @property
    def answers(self) -> bool:
        """Whether the disk has answered when the directory was to be opened."""
        return self._root.answers

    def release(self) -> None:
        """Close the directory, as it is served no more; files that are being read stay open."""
        self._root.release()

    def lookup(self, name: str, peer: Peer) -> File | Deferred[IContent]:
        """Open the file of this name for a client whose machine is not known; as L{lookupFor}."""
        # Which machine asks counts only for a directory with rules.
        plain = self._map.plain
        return self._lookup(name, _finished(names.parts(name)) if plain else self.partsFor(name, KnownMachine(peer)))

    def lookupFor(self, name: str, machine: KnownMachine) -> File | Deferred[IContent]:
        """
        Open the file of this name.

        @return: a Deferred if the disk has to be asked.
        @raise NotFound: there is no such file, or the directory is not for this client, or too little is known of the
            machine.
        @raise Forbidden: it is no regular file, cannot be read, or its path leads out of the directory.
        @raise Unanswered: no descriptors are left, or too many requests wait for this disk.
        @raise Busy: the disk has failed.
        """
        return self._lookup(name, self.partsFor(name, machine))

    def _lookup(self, name: str, parts: names.Parts) -> File | Deferred[IContent]:
        before = self._found.get(parts)
        # Who has exchanged the file, or forbidden it, has changed its version.
        if before is not None and self._root.versionAtHand(parts) == before.opened.version:
            return File(name, before)
        now = time_ns()
        try:
            fd = self._root.openAtHand(parts)
        except OSError as error:
            raise readRefusal(error) from error
        if fd is not None and (opened := self._checkedAtHand(fd)) is not None:
            changed = opened.version[4]
            return self._file(name, opened, parts if changed < now - CLOCK_STEP else None)
        return self._waiting.run(bind(self._openInThread, name, parts), lambda content: content.close())

    def _openInThread(self, name: str, parts: names.Parts) -> Deferred[IContent]:
        opening = self.thread(bind(self._openWithin, parts)).addCallback(self._openBeyond, parts)
        return opening.addCallback(lambda opened: self._file(name, opened))

    def mayHave(self, name: str, peer: Peer) -> bool:
        """As L{IScopedSource.mayHave}: by its networks, and by C{under}."""
        return self._map.isFor(peer) and self._map.mayHave(name)

    def sizeNow(self, name: str, peer: Peer) -> int:
        """Return octets of the file of this name, and wait for the disk.  In any thread; raises as L{lookup}."""
        opened = self._openWaiting(self.partsFor(name, KnownMachine(peer)))
        closeFd(opened.fd)
        return opened.version[2]

    def locate(self, name: str, machine: KnownMachine) -> str:
        """As L{ILocatingSource.locate}."""
        return self._map.locate(self._root.path, name, machine)

    def findNear(self, name: str, machine: KnownMachine) -> Deferred[Near | None]:
        """As L{ILocatingSource.findNear}: by the names in memory or on the disk, a few requests at a time."""
        if self._seeking >= MOST_SEEKING:
            return succeed(None)
        try:
            whole, under = self._map.renamed(name, machine), self._map.under(machine)
        except Refused:
            return succeed(None)
        self._seeking += 1
        seek = bind(nearest.seek, self._root, whole, under, self._map.isFor(machine.peer), self._spellings)
        return self.background(seek).addBoth(self._sought)

    def _sought(self, result: Near | Failure | None) -> Near | None:
        self._seeking -= 1
        return None if isinstance(result, Failure) else result

    def partsFor(self, name: str, machine: KnownMachine, seen: names.Seen | None = None) -> names.Parts:
        """
        Return the parts of the file's path, after all rules, for this machine.

        @param seen: as for L{NameMap.parts}.
        @raise Refused: as L{NameMap.parts}; NotFound also if the directory is not for this client.
        """
        if not self._map.isFor(machine.peer):
            raise NotFound(why="not for this client")
        return _finished(self._map.parts(name, machine, seen))

    def nearest(self, parts: names.Parts) -> Deferred[tuple[int, names.Parts | None]]:
        """Find out how far a path exists, and which name differs from it in case only, as L{Root.nearest}."""
        return self.thread(bind(self._root.nearest, parts))

    def closedAt(self, parts: names.Parts) -> Deferred[names.Parts]:
        """Find out which part of a path may not be used, as L{Root.closedAt}."""
        return self.thread(bind(self._root.closedAt, parts))

    def _checkedAtHand(self, fd: int) -> _Opened | None:
        """
        Check a file that was opened from memory, and read its first and last octets.

        @return: L{None}: they are not in memory; the descriptor is closed.
        """
        opened = self._checked(fd)
        if opened.version in self._open:
            return opened  # another request has read them
        try:
            opened.readEnds(os.RWF_NOWAIT)
        except OSError:
            closeFd(fd)
            return None
        return opened

    def _openWithin(self, parts: names.Parts) -> _Opened | None:
        """Open a file as L{_openWaiting}, unless it lies on another mount; L{None}: it does."""
        return None if self._root.leadsBeyond(parts) else self._openWaiting(parts)

    def _openBeyond(self, opened: _Opened | None, parts: names.Parts) -> Deferred[_Opened]:
        """Open a file that lies on another mount, in the threads for that; one that is open stays so."""
        return self.beyond(bind(self._openWaiting, parts, True)) if opened is None else succeed(opened)

    def threadFor(self, opened: _Opened) -> RunInThread:
        """Return what runs functions that wait for the disk of this file."""
        return self.beyond if opened.beyond else self.thread

    def _openWaiting(self, parts: names.Parts, beyond: bool = False) -> _Opened:
        """Open a file and read its first and last octets.  This waits for the disk."""
        opened = self._checked(self._root.openFile(parts))
        opened.beyond = beyond
        try:
            opened.fromMemory = athand.fromMemory(opened.fd)
            opened.readEnds()
        except OSError as error:
            closeFd(opened.fd)
            raise readRefusal(error) from error
        return opened

    def _checked(self, fd: int) -> _Opened:
        """@raise Forbidden: it is no regular file, or not for everybody; the descriptor is closed."""
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Forbidden(why="not a regular file")
            if self.options.worldReadable and not status.st_mode & stat.S_IROTH:
                raise Forbidden(why="not readable for everybody")
        except OSError as error:
            closeFd(fd)
            raise readRefusal(error) from error
        except Refused:
            closeFd(fd)
            raise
        version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return _Opened(fd, version)

    def _file(self, name: str, opened: _Opened, parts: names.Parts | None = None) -> File:
        """
        Return the content of an open file, which shares the descriptor of those that read the same version.

        @param parts: its path, if it was opened from memory, and each later change will give it another version.
        """
        shared = self._open.get(opened.version)
        if shared is None:
            shared = self._open[opened.version] = _OpenFile(opened, self)
        elif opened.fromMemory:
            closeFd(opened.fd)  # the other descriptor keeps it
        else:
            self.close(opened)
        if parts is not None and shared.parts is None:
            shared.parts = parts
            self._found[parts] = shared
        return File(name, shared)

    def forget(self, file: _OpenFile) -> None:
        """Close a file that nobody reads any more."""
        # As long as the descriptor is open its inode is not used again, so the key is this file's alone.
        del self._open[file.opened.version]
        if file.parts is not None and self._found.get(file.parts) is file:
            del self._found[file.parts]
        self.close(file.opened)

    def close(self, opened: _Opened) -> None:
        """Close a file; in a thread if its server is told of that, or if the space of a deleted file is freed by it."""
        try:
            quick = opened.fromMemory and os.fstat(opened.fd).st_nlink > 0
        except OSError:
            quick = False
        if quick:
            closeFd(opened.fd)
        else:
            self.threadFor(opened)(bind(closeFd, opened.fd))


def _finished(parts: names.Parts) -> names.Parts:
    """Return the parts of a path.  @raise NotFound: it is that of an upload under way."""
    # Hardly a name begins with a dot.
    if parts[-1].startswith(b".") and isUnfinished(parts):
        raise NotFound(why="an unfinished upload")
    return parts


class _Opened:
    """
    Holds the descriptor of an open regular file.

    @ivar version: as L{IContent.version}; its fourth value is the time of the last change of the octets.
    @ivar fromMemory: it lies on a file system that does nothing but memory can do when a file is opened or closed.
    @ivar beyond: it lies on another mount than its directory.
    @ivar head: its first octets, up to L{HEAD}.
    @ivar tail: its last ones, up to as many, of a file that has more than its head.
    """

    __slots__ = ("beyond", "fd", "fromMemory", "head", "tail", "version")

    def __init__(self, fd: int, version: Version) -> None:
        self.fd, self.version = fd, version
        self.fromMemory, self.beyond, self.head, self.tail = True, False, b"", b""

    @property
    def dated(self) -> bool:
        """
        Whether each change of the octets gives the file another time: a file system in user space may know no times,
        and tell the present one whenever it is asked.
        """
        return self.fromMemory or self.version[3] < time_ns() - CLOCK_STEP

    def isStill(self, flags: int = 0) -> bool:
        """
        Return whether the octets that the file had when it was opened are those that it has now.  Octets may have been
        appended, as to a log; a file that begins in another way, or goes on in another way where it ended, was written
        anew, and is longer than before.  Its beginning alone does not tell that: each image of an initial RAM disk may
        begin with the same microcode, and an ISO image with zeros.

        @param flags: as for L{readEnds}.
        @raise OSError: as L{readEnds}.
        """
        status = os.fstat(self.fd)
        if status.st_mtime_ns == self.version[3] or status.st_size < self.version[2]:
            return True  # what a file lacks that was cut is missed where it is read
        if status.st_size == self.version[2]:
            return False
        ends = (self.head, 0), (self.tail, self.version[2] - len(self.tail))
        return all(not end or self._read(offset, len(end), flags) == end for end, offset in ends)

    def readEnds(self, flags: int = 0) -> None:
        """
        Read the first and the last octets.

        @param flags: as for C{preadv}; C{RWF_NOWAIT}: they are to be in memory.
        @raise OSError: they cannot be read; C{BlockingIOError}: they are not in memory.
        """
        size = self.version[2]
        if size:
            self.head = self._read(0, min(HEAD, size), flags)
        if size > HEAD:
            length = min(HEAD, size - HEAD)
            self.tail = self._read(size - length, length, flags)

    def _read(self, offset: int, length: int, flags: int) -> bytes:
        """
        Read so many octets; nothing: there are fewer.

        @raise OSError: as L{readEnds}.
        """
        octets = bytearray(length)
        found = os.preadv(self.fd, [octets], offset, flags)
        if found != length and flags:
            raise BlockingIOError(EAGAIN, "only a part is in memory")
        return bytes(octets) if found == length else b""


class _OpenFile:
    """
    Shares one open file among contents, and closes it when no content reads it any more.

    @ivar atHand: what is in memory can be read at once; C{False}: its file system has no such call.
    @ivar dated: see L{_Opened.dated}.
    @ivar readers: how many contents and threads read it.
    @ivar parts: the path that it is found at again; L{None}: it is not.
    """

    __slots__ = ("atHand", "dated", "directory", "opened", "parts", "readers")

    def __init__(self, opened: _Opened, directory: Directory) -> None:
        self.opened, self.directory, self.readers = opened, directory, 0
        self.atHand, self.dated = opened.fromMemory, opened.dated
        self.parts: names.Parts | None = None

    def checkUnchanged(self, flags: int = 0) -> None:
        """
        Check the file after some of it was read: who writes gives it another time first.

        @param flags: as for C{preadv}.
        @raise ContentChanged: it was written to, so what was read may be of another file than what was sent before.
        @raise OSError: as reading does.
        """
        if self.dated and not self.opened.isStill(flags):
            raise ContentChanged(why="the file was written to while it was being sent")

    def removeReader(self) -> None:
        """Note that a content was closed."""
        self.readers -= 1
        if not self.readers:
            self.directory.forget(self)


@implementer(IAwaitedContent)
class File:
    """
    Reads a file as content.

    Its size stays the one that the file had when it was opened: of a file that grows only so much is sent; one that
    shrinks, is written anew in its place, or cannot be read raises L{ContentChanged}.  Its first L{HEAD} octets never
    have to be waited for.
    """

    __slots__ = ("_fd", "_file", "name", "size", "version")

    def __init__(self, name: str, shared: _OpenFile) -> None:
        shared.readers += 1
        opened = shared.opened
        self.name, self.version, self.size = name, opened.version, opened.version[2]
        self._fd, self._file = opened.fd, shared

    def read(self, offset: int, length: int) -> bytes:
        """As L{IContent.read}."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        head = self._file.opened.head
        if offset + length <= len(head):
            return head[offset : offset + length]
        data = bytearray(length)
        self.readInto([data], offset)
        return bytes(data)

    def readInto(self, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """As L{IContent.readInto}; at most 1024 buffers, which is as many as the kernel takes."""
        wanted = self._octetsOf(buffers, offset)
        try:
            found = os.preadv(self._fd, buffers, offset)
            if found != wanted:
                self._fill(buffers, offset, found)
            self._file.checkUnchanged()
        except OSError as error:
            raise ContentChanged(why=reasonOf(error)) from error

    def readAtHand(self, buffers: Sequence[bytearray | memoryview], offset: int) -> bool:
        """As L{IAwaitedContent.readAtHand}; at most 1024 buffers."""
        wanted = self._octetsOf(buffers, offset)
        if not self._file.atHand:
            return False
        try:
            # Less may be found: only a part is in memory, or the file has shrunk.
            if os.preadv(self._fd, buffers, offset, os.RWF_NOWAIT) != wanted:
                return False
            self._file.checkUnchanged(os.RWF_NOWAIT)
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in NO_SUCH_CALL:
                raise ContentChanged(why=reasonOf(error)) from error
            self._file.atHand = False
            return False

    def fetch(self, buffers: Sequence[bytearray | memoryview], offset: int) -> Deferred[None]:
        """As L{IAwaitedContent.fetch}."""
        self._file.readers += 1
        thread = self._file.directory.threadFor(self._file.opened)
        return thread(bind(self.readInto, buffers, offset)).addBoth(self._fetched)

    def _fetched(self, result: T) -> T:
        self._file.removeReader()
        return result

    def inBackground(self, function: Callable[[], T]) -> Deferred[T]:
        """As L{IAwaitedContent.inBackground}."""
        return self._file.directory.background(function)

    def _octetsOf(self, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        """@raise ContentChanged: the file has fewer octets from there on than the buffers."""
        wanted = sum(map(len, buffers))
        if offset + wanted > self.size:
            raise ContentChanged(why="more was asked for than the file has")
        return wanted

    def _fill(self, buffers: Sequence[bytearray | memoryview], offset: int, found: int) -> None:
        """Read the rest after a short read, which happens on network file systems, and where the file has shrunk."""
        for buffer in buffers:
            rest = memoryview(buffer)[found:]
            while rest:
                more = os.preadv(self._fd, [rest], offset + len(buffer) - len(rest))
                if not more:
                    raise ContentChanged(why="the file shrank")
                rest = rest[more:]
            offset += len(buffer)
            found = max(0, found - len(buffer))

    def close(self) -> None:
        """As L{IContent.close}."""
        self._file.removeReader()
