"""
Store uploads in a directory, in which a file is complete or does not exist.

What is here finds, opens or makes the directory that a name belongs to, and checks whether an upload may begin.  The
rest is done by a L{FileUpload<castd.files.file_upload.FileUpload>}.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial as bind
from typing import TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from castd.errors import Forbidden, NotFound, Refused
from castd.files import names, partial
from castd.files.file_upload import FileUpload, OpenUploads, writeRefusal
from castd.files.mapping import NameMap, isUnfinished
from castd.files.permission import writeFault
from castd.files.root import OPEN_TIMEOUT, Root, closeFd
from castd.files.space import SpaceClaim
from castd.files.threads import DiskThreads, RunInThread, WaitingRequests
from castd.files.upload_options import UploadDirectoryOptions
from castd.interfaces import IContentSink, IUpload
from castd.machines.known import KnownMachine
from castd.request import Peer

T = TypeVar("T")

#: Directories that are made for one upload.
MOST_MADE = 16


@implementer(IContentSink)
class UploadDirectory:
    """
    Stores uploads in one directory.

    @ivar uploads: those that are under way.
    """

    def __init__(
        self,
        options: UploadDirectoryOptions,
        thread: RunInThread | None = None,
        patience: float = OPEN_TIMEOUT,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        @param seconds: tells the time.
        @param patience: seconds to wait for a disk that does not answer, see L{Root}.
        @param thread: runs functions that wait for the disk; L{None}: threads of its own.
        @raise OSError: the directory does not exist, or cannot be searched or written to.
        @raise LookupError: there is no such group.
        """
        self.options = options
        self.uploads = OpenUploads(options, thread or DiskThreads(), seconds)
        self._root = Root(str(options.base), options.links, patience=patience, writable=True)
        self._map = NameMap(options)
        self.byMachine = self._map.byMachine
        self._waiting = WaitingRequests(str(options.path))

    @property
    def answers(self) -> bool:
        """Whether the disk has answered when the directory was to be opened."""
        return self._root.answers

    def release(self) -> None:
        """Close the directory, as it takes no more uploads; those under way go on."""
        self._root.release()

    def mayCover(self, name: str) -> bool:
        """Return whether a file of this name may belong to this directory, whichever machine uploads it."""
        return self._map.mayHave(name)

    def covers(self, name: str, machine: KnownMachine) -> bool:
        """Return whether a file of this name belongs to this directory: C{under} it, and every word has a value."""
        try:
            self._map.parts(name, machine)
        except NotFound:
            return False
        return True

    def isFor(self, peer: Peer) -> bool:
        """Return whether this client may upload here."""
        return self._map.isFor(peer)

    def locate(self, name: str, machine: KnownMachine) -> str:
        """Return the path of a file of this name; C{""}: it does not belong here, or too little is known."""
        return self._map.locate(self._root.path, name, machine)

    def begin(self, name: str, peer: Peer, size: int | None) -> Deferred[IUpload]:
        """Begin an upload of a client whose machine is not known; as L{beginFor}."""
        return self.beginFor(name, KnownMachine(peer), size)

    def beginFor(self, name: str, machine: KnownMachine, size: int | None) -> Deferred[IUpload]:
        """
        Begin an upload.

        @param size: octets announced, or L{None}.
        @return: a Deferred of a L{FileUpload}, which may fail with the same errors.
        @raise Exists: the policy is C{create}, and there is such a file.
        @raise NotFound: its directory does not exist, or the policy is C{existing} and there is no such file, or too
            little is known of the machine.
        @raise Forbidden: this client may not upload, there is something else than a regular file, or another client is
            uploading it ("busy").
        @raise Full: the upload is too large, or there is too little space.
        @raise Unanswered: too many requests wait for this disk.
        """
        parts = self._partsOf(name, machine, size)
        return self._waiting.run(
            lambda: Deferred.fromCoroutine(self._begin(parts, machine, size)), lambda upload: upload.abort()
        )

    def check(self, name: str, machine: KnownMachine, size: int | None) -> Deferred[None]:
        """
        Find out whether an upload would begin, and begin none: no file is made, and no other upload is disturbed.

        @return: fails as L{begin}.
        @raise Refused: as L{begin}.
        """
        parts = self._partsOf(name, machine, size)
        return self._waiting.run(lambda: Deferred.fromCoroutine(self._check(parts, machine, size)), lambda _: None)

    async def _check(self, parts: names.Parts, machine: KnownMachine, size: int | None) -> None:
        directory, place, missing = await self.uploads.thread(bind(self._openNearest, parts[:-1]))
        peer, last = machine.peer, None if missing else parts[-1]
        try:
            if last is not None:
                self.uploads.checkFree((*place, last, peer if self.options.keepsBoth else None), peer)
            space = SpaceClaim(place[0], directory, self.options.keepFree)
            await self.uploads.thread(bind(self._checkBeginning, space, directory, last, size or 0))
        finally:
            self.uploads.thread(bind(closeFd, directory))

    def _openNearest(self, above: names.Parts) -> tuple[int, tuple[int, int], int]:
        """
        Open a directory; or, if it would be made, the last one on its way that is there.  In a thread.

        @return: its descriptor, its device and inode, and how many directories are missing.
        """
        for missing in range(min(len(above), MOST_MADE) + 1 if self.options.makeDirectories else 1):
            try:
                directory = self._root.openDirectory(above[: len(above) - missing])
            except NotFound as error:
                absent = error
                continue
            return directory, _placeOf(directory), missing
        raise absent

    def _checkBeginning(self, space: SpaceClaim, directory: int, last: bytes | None, size: int) -> None:
        """
        Check what the disk has to say to an upload.  In a thread.

        @param last: the name in the directory; L{None}: directories would be made in it.
        @raise Refused: it may not be.
        """
        if last is not None:
            self.uploads.checkPolicy(directory, last)
        try:
            space.setAside(size)
        except OSError as error:
            raise writeRefusal(error) from error
        finally:
            space.release()
        try:
            fault = writeFault(".", os.W_OK | os.X_OK, directory)
        except OSError as error:
            raise writeRefusal(error) from error
        if fault:
            raise Forbidden(why=os.strerror(fault))

    def _partsOf(self, name: str, machine: KnownMachine, size: int | None) -> names.Parts:
        """
        Return the parts of the path of an upload.

        @raise Refused: it may not be, whatever is on the disk.
        """
        if not self.isFor(machine.peer):
            raise Forbidden(why="no uploads by this client")
        parts = self._map.parts(name, machine)
        if isUnfinished(parts):
            raise Forbidden(why="this name is for unfinished uploads")
        self.uploads.checkSize(size or 0)
        return parts

    async def _begin(self, parts: names.Parts, machine: KnownMachine, size: int | None) -> IUpload:
        directory, place = await self.uploads.thread(bind(self._openDirectory, parts[:-1]))
        key = (*place, parts[-1], machine.peer if self.options.keepsBoth else None)
        try:
            contested = await self.uploads.endFormer(key, machine.peer)
            upload = FileUpload(self.uploads, key, machine, directory, contested)
        except Refused:
            self.uploads.thread(bind(closeFd, directory))
            raise
        if not contested:
            self.uploads.byKey[key] = upload
        await upload.create(size)
        return upload

    def _openDirectory(self, above: names.Parts) -> tuple[int, tuple[int, int]]:
        """Open a directory.  -> its descriptor, and its device and inode.  In a thread."""
        try:
            directory = self._root.openDirectory(above)
        except NotFound:
            if not self.options.makeDirectories:
                raise
            directory = self._makeDirectories(above)
        return directory, _placeOf(directory)

    def _makeDirectories(self, above: names.Parts) -> int:
        """
        Make the directories of a path that are missing.  -> the descriptor of the last one.

        @raise NotFound: more are missing than L{MOST_MADE}.
        """
        for count in range(1, min(len(above), MOST_MADE) + 1):
            missing = above[len(above) - count :]
            try:
                directory = self._root.openDirectory(above[: len(above) - count])
            except NotFound:
                continue
            return self._makeWithin(directory, missing)
        raise NotFound(why=f"more than {MOST_MADE} directories are missing")

    def _makeWithin(self, directory: int, missing: names.Parts) -> int:
        """Make directories, one in the other.  -> the descriptor of the last one; the first one's is closed."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            for part in missing:
                made = self._makeDirectory(part, directory)
                inside = os.open(part, flags, dir_fd=directory)
                closeFd(directory)
                directory = inside
                if made:
                    self._adjustDirectory(directory)
        except OSError as error:
            closeFd(directory)
            raise writeRefusal(error) from error
        return directory

    def _makeDirectory(self, part: bytes, directory: int) -> bool:
        """Make a directory within another one.  -> whether it was not there before."""
        try:
            os.mkdir(part, 0o755, dir_fd=directory)
        except FileExistsError:
            return False
        # An upload that is acknowledged must not get lost with the directory that it lies in.
        partial.syncDirectory(directory)
        return True

    def _adjustDirectory(self, directory: int) -> None:
        """Give a directory that was made its group and mode."""
        if self.uploads.group is not None:
            os.fchown(directory, -1, self.uploads.group)
        if self.options.mode is not None:
            # Who may read files may search it.
            os.fchmod(directory, self.options.mode | 0o300 | (self.options.mode & 0o444) >> 2)

    def removeAbandoned(self) -> Deferred[int]:
        """
        Remove the partial files that a crashed server has left in this directory and all below.

        It is to be called at the start, and when a process beside this one has ended.  Files that are still being
        written, by this process or another, stay.

        @return: a Deferred of how many files were removed.
        """
        return self.uploads.thread(self._removeAbandoned)

    def _removeAbandoned(self) -> int:
        # By its descriptor: after twistd --chroot its path does not exist any more.
        directory = self._root.openDirectory(())
        try:
            return partial.removeAbandoned(".", directory)
        finally:
            closeFd(directory)


def _placeOf(directory: int) -> tuple[int, int]:
    """Return device and inode of an open directory.  @raise Refused: that cannot be found out; it is closed."""
    try:
        status = os.fstat(directory)
    except OSError as error:
        closeFd(directory)
        raise writeRefusal(error) from error
    return status.st_dev, status.st_ino
