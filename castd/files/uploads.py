"""
Store uploads in a directory, in which a file is complete or does not exist.

Each upload is written to a partial file in the same directory, which gets the name of the upload only when it is
complete and synced to the disk.  Until then clients cannot see it, and if the upload fails nothing is left.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial as bind
from typing import Literal, TypeAlias, TypeVar

from pydantic import Field, field_validator
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import Exists, Forbidden, Full, NotFound, Refused, Unanswered
from castd.files import names, partial
from castd.files.root import NO_DESCRIPTORS, Links, Root, closeFd
from castd.files.threads import RunInThread
from castd.interfaces import IContentSink, IUpload
from castd.networks import Networks
from castd.options import Clients, FilePath, Settings, Size, clients
from castd.request import Peer

T = TypeVar("T")

Policy: TypeAlias = Literal["create", "overwrite", "existing"]

#: The free space of the disk is checked after each so many octets.
_CHECK_EVERY = 1 << 20


class UploadDirectoryOptions(Settings):
    """A directory that takes uploads."""

    path: FilePath = Field(description="the directory; nothing outside of it is ever written")
    under: str = Field("", description="names under which it appears: logs takes logs/a as a")
    policy: Policy = Field(
        "create", description="create: new files only; overwrite: replaces, too; existing: replaces only"
    )
    maxSize: Size | None = Field(None, description="octets of the largest upload; null: no limit")
    keepFree: Size = Field(64 << 20, description="octets that uploads leave free on the disk")
    networks: Clients = Field(clients("any"), description="clients that may upload here")
    links: Links = Field("inside", description="links to directories: inside: followed if they stay inside; or never")

    @field_validator("under")
    @classmethod
    def _name(cls, under: str) -> str:
        return names.text(names.prefix(under))


@implementer(IContentSink)
class UploadDirectory:
    """
    Stores uploads in one directory.
    """

    def __init__(self, options: UploadDirectoryOptions, thread: RunInThread = deferToThread) -> None:
        """
        @param thread: runs functions that wait for the disk.
        @raise OSError: the directory does not exist, or cannot be searched or written to.
        """
        self.options = options
        self._root = Root(str(options.path), options.links)
        if not os.access(options.path, os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, "directory cannot be written to", options.path)
        self._under = names.prefix(options.under)
        self._networks = Networks(options.networks)
        self._thread = thread
        self._open: dict[tuple[int, int, bytes], FileUpload] = {}

    def covers(self, name: str) -> bool:
        """Return whether a file of this name belongs to this directory (C{under} in its options)."""
        try:
            names.beneath(names.parts(name), self._under)
        except NotFound:
            return False
        return True

    def begin(self, name: str, peer: Peer, size: int | None) -> FileUpload:
        """
        Begin an upload.

        @param size: octets announced, or L{None}.
        @raise Exists: the policy is C{create}, and there is such a file.
        @raise NotFound: its directory does not exist, or the policy is C{existing} and there is no such file.
        @raise Forbidden: this client may not upload, there is something else than a regular file, or another client is
            uploading it ("busy").
        @raise Full: the upload is too large, or there is too little space.
        """
        if peer[0] not in self._networks:
            raise Forbidden(why="no uploads by this client")
        *above, last = names.beneath(names.parts(name), self._under)
        if partial.NAME.fullmatch(last):
            raise Forbidden(why="this name is for unfinished uploads")
        directory = self._root.openDirectory(tuple(above))
        try:
            status = os.fstat(directory)
            key = (status.st_dev, status.st_ino, last)
            self._endFormer(key, peer)
            self._checkPolicy(directory, last)
            upload = FileUpload(self, key, peer, directory, size)
        except OSError as error:
            closeFd(directory)
            raise writeRefusal(error) from error
        except Refused:
            closeFd(directory)
            raise
        self._open[key] = upload
        return upload

    def removeAbandoned(self) -> Deferred[int]:
        """
        Remove the partial files that a crashed server has left in this directory and all below.

        It is to be called at the start.  Files that are still being written, by this process or another, stay.

        @return: a Deferred of how many files were removed.
        """
        # By its descriptor: after twistd --chroot its path does not exist any more.
        try:
            directory = self._root.openDirectory(())
        except Refused:
            return fail()

        def closed(result: T) -> T:
            closeFd(directory)
            return result

        return self._thread(bind(partial.removeAbandoned, ".", directory)).addBoth(closed)

    def forget(self, upload: FileUpload) -> None:
        """Forget an upload that was committed or aborted."""
        if self._open.get(upload.key) is upload:
            del self._open[upload.key]

    def _endFormer(self, key: tuple[int, int, bytes], peer: Peer) -> None:
        """
        Abort an earlier upload of this name by the same client, which begins anew.

        @raise Forbidden: another client is uploading it; there is one upload of a name at a time.
        """
        busy = self._open.get(key)
        if busy is not None and busy.peer == peer:
            busy.abort()
            busy = self._open.get(key)
        if busy is not None:
            raise Forbidden("busy", f"{busy.peer[0]} is uploading this file")

    def _checkPolicy(self, directory: int, last: bytes) -> None:
        """@raise Refused: the policy does not allow the upload, or there is something else than a regular file."""
        try:
            mode = os.lstat(last, dir_fd=directory).st_mode
        except FileNotFoundError:
            if self.options.policy == "existing":
                raise NotFound(why="only files that exist may be replaced") from None
            return
        except OSError as error:
            raise writeRefusal(error) from error
        if self.options.policy == "create":
            raise Exists()
        if not stat.S_ISREG(mode):
            raise Forbidden(why="not a regular file")


@implementer(IUpload)
class FileUpload:
    """
    Writes one upload to a partial file, and publishes it.

    @ivar key: device and inode of the directory, and the name in it.
    @ivar peer: the client that sends it.
    @ivar octets: octets written so far.
    """

    def __init__(
        self, sink: UploadDirectory, key: tuple[int, int, bytes], peer: Peer, directory: int, size: int | None
    ) -> None:
        """
        @param directory: descriptor of the directory; the upload closes it.
        @raise Refused: there is too little space, or no file can be created.
        """
        self.key, self.peer, self.octets = key, peer, 0
        self._sink, self._directory, self._options = sink, directory, sink.options
        self._checkedAt = 0
        self._checkSize(size or 0)
        try:
            self._part, self._fd = partial.create(directory)
        except OSError as error:
            raise writeRefusal(error) from error
        self._state = "open"

    def write(self, data: bytes) -> None:
        """
        Append to the file.

        @raise Full: the upload is too large, or the disk is full; the partial file is removed at once.
        @raise Refused: the disk has failed, or the upload is over.
        """
        if self._state != "open":
            raise Refused("Upload is over")
        try:
            if self._options.maxSize is not None and self.octets + len(data) > self._options.maxSize:
                raise Full(why="larger than an upload may be")
            if self.octets + len(data) - self._checkedAt >= _CHECK_EVERY:
                self._checkSize(len(data))
                self._checkedAt = self.octets
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self.abort()
            raise writeRefusal(error) from error
        except Refused:
            self.abort()
            raise
        self.octets += len(data)

    def commit(self) -> Deferred[None]:
        """As L{IUpload.commit}."""
        if self._state != "open":
            return fail(Refused("Upload is over"))
        self._state = "storing"
        # The mask can be read only by setting it, which a thread must not do.
        mask = os.umask(0o077)
        os.umask(mask)
        return self._sink._thread(bind(self._store, 0o644 & ~mask)).addBoth(self._stored)

    def abort(self) -> None:
        """As L{IUpload.abort}."""
        if self._state == "open":
            self._state = "over"
            partial.remove(self._directory, self._part)
            self._close()

    def _checkSize(self, size: int) -> None:
        """
        Check that so many octets more may be written.

        @raise Full: an upload may not be so large, or too little space is left.
        """
        if self._options.maxSize is not None and size > self._options.maxSize:
            raise Full(why="larger than an upload may be")
        space = os.fstatvfs(self._directory)
        if space.f_bavail * space.f_frsize < size + self._options.keepFree:
            raise Full(why="too little space left")

    def _store(self, mode: int) -> None:
        """Sync the file to the disk, then publish it.  Runs in a thread."""
        try:
            os.fchmod(self._fd, mode)
            os.fsync(self._fd)
            partial.publish(self._directory, self._part, self.key[2], self._options.policy)
            partial.syncDirectory(self._directory)
        except OSError as error:
            raise writeRefusal(error) from error

    def _stored(self, result: Failure | None) -> Failure | None:
        self._state = "over"
        if isinstance(result, Failure):
            partial.remove(self._directory, self._part)
        self._close()
        return result

    def _close(self) -> None:
        closeFd(self._fd)
        closeFd(self._directory)
        self._sink.forget(self)


def writeRefusal(error: OSError) -> Refused:
    """Return the refusal for an upload that could not be written."""
    why = error.strerror or "input/output error"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Full(why=why)
    if error.errno == errno.EEXIST:
        return Exists(why="the file has appeared meanwhile")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return NotFound(why=why)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR):
        return Forbidden(why=why)
    if error.errno in NO_DESCRIPTORS:
        return Unanswered(why=why)
    return Refused("The file could not be written", why)
