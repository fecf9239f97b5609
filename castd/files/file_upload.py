"""
Write one upload to a partial file, and publish it; keep the uploads to one directory apart.

A partial file lies in the directory of the upload, and gets its name only when it is complete and synced to the disk.
Until then clients cannot see it, and if the upload fails nothing is left.  Once it has its name it is stored: if then
only its directory cannot be synced, the upload does not fail, and the log says that a power cut might lose it.

Whatever waits for the disk is done in threads of the directory.  Octets are collected and written some at a time; where
the disk is slower than the client, L{FileUpload.write} says so.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from functools import partial as bind
from typing import Literal, TypeAlias

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import Exists, Forbidden, Full, NotFound, Refused, Unanswered, reasonOf
from castd.files import names, partial
from castd.files.athand import NO_DESCRIPTORS
from castd.files.root import closeFd
from castd.files.space import SpaceClaim
from castd.files.threads import RunInThread, whenAll
from castd.files.upload_options import UploadDirectoryOptions, groupNumber
from castd.interfaces import IContestedUpload
from castd.machines.known import KnownMachine
from castd.request import Peer

_log = Logger(namespace="castd")

#: Device and inode of a directory, a name in it, and the client where several may upload one name at once.
Key: TypeAlias = tuple[int, int, bytes, Peer | None]

#: An upload that has brought nothing for so many seconds leaves its name to a newer one of its machine.  Clients repeat
#: a block every second to every five.
SILENT_FOR = 5.0
#: Octets of one upload that are written together.
WRITE_AT_ONCE = 1 << 16
#: Files of one name that are kept beside each other.
MOST_BESIDE = 9999
#: Octets of one upload that wait for the disk; beyond that its client has to wait.
MOST_UNWRITTEN = 4 * WRITE_AT_ONCE
#: Octets of all uploads to one directory that wait for the disk; beyond that each may have L{WRITE_AT_ONCE}.
MOST_UNWRITTEN_IN_ALL = 16 << 20


def readUmask(status: str = "/proc/self/status") -> int:
    """
    Return the umask of this process.

    It is not set for that, where the kernel tells it (Linux 4.7): what threads make meanwhile would have another mode.

    @param status: what the kernel tells of this process.
    """
    with suppress(OSError), open(status, "rb") as lines:
        for line in lines:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class OpenUploads:
    """
    Holds the uploads to one directory that are under way, at most one of a name, and what they have in common.

    @ivar options: the options of the directory.
    @ivar group: number of the group that new files get; L{None}: castd's own.
    @ivar thread: runs functions that wait for the disk.
    @ivar seconds: tells the time.
    @ivar byKey: the uploads that have a name, by that name, until they are stored or aborted.
    @ivar unwritten: octets of all uploads that wait for the disk.
    """

    def __init__(self, options: UploadDirectoryOptions, thread: RunInThread, seconds: Callable[[], float]) -> None:
        """@raise LookupError: there is no such group."""
        self.options = options
        self.group = None if options.group is None else groupNumber(options.group)
        self.thread, self.seconds = thread, seconds
        self.byKey: dict[Key, FileUpload] = {}
        self.unwritten = 0
        self._ending: set[FileUpload] = set()

    @cached_property
    def umask(self) -> int:
        """The umask of this process, as it is when the first upload is stored.  In the reactor's thread."""
        return readUmask()

    def checkFree(self, key: Key, peer: Peer) -> None:
        """
        Find out whether a client could begin an upload of this name.

        @raise Forbidden: another client is uploading it; there is one upload of a name at a time.
        """
        busy = self.byKey.get(key)
        if busy is not None and (busy.peer != peer or busy.storing) and not busy.yieldsTo(peer):
            raise _busy(busy)

    async def endFormer(self, key: Key, peer: Peer) -> bool:
        """
        Abort an earlier upload of this name by the same client, which begins anew, and wait until its file is removed.

        @return: whether another upload has the name, which this client may take from it, see L{claim}.
        @raise Forbidden: another client is uploading it; there is one upload of a name at a time.
        """
        busy = self.byKey.get(key)
        while busy is not None and busy.peer == peer and not busy.storing:
            busy.abort()
            await busy.ended()
            # Where the disk was waited for, an earlier request of the client may have been served first.
            busy = self.byKey.get(key)
        if busy is not None and not busy.yieldsTo(peer):
            raise _busy(busy)
        return busy is not None

    def claim(self, upload: FileUpload) -> None:
        """
        Give an upload its name, in place of a silent one of the same machine.

        @raise Forbidden: another upload has the name.
        """
        holder = self.byKey.get(upload.key)
        if holder is not None and holder is not upload:
            if not holder.yieldsTo(upload.peer):
                raise _busy(holder)
            holder.replace()
        self.byKey[upload.key] = upload

    def forget(self, upload: FileUpload) -> None:
        """Forget an upload that was committed or aborted, but for what is left to do on the disk."""
        if self.byKey.get(upload.key) is upload:
            del self.byKey[upload.key]
        self._ending.add(upload)

    def willEnd(self, upload: FileUpload) -> None:
        """Note an upload that was aborted, and will end when a thread is done with it."""
        self._ending.add(upload)

    def forgetWhole(self, upload: FileUpload) -> None:
        """Forget an upload of which nothing is left to do."""
        self._ending.discard(upload)

    def settled(self) -> Deferred[None]:
        """Return a Deferred that fires when all uploads that have ended are stored or removed on the disk."""
        ending = [*self._ending, *(upload for upload in self.byKey.values() if upload.storing)]
        return whenAll([upload.ended() for upload in ending])

    def checkSize(self, size: int) -> None:
        """@raise Full: an upload may not be so large."""
        if self.options.maxSize is not None and size > self.options.maxSize:
            raise Full(why="larger than an upload may be")

    def checkPolicy(self, directory: int, last: bytes) -> None:
        """@raise Refused: the policy does not allow the upload, or there is something else than a regular file."""
        try:
            status = os.lstat(last, dir_fd=directory)
        except FileNotFoundError:
            if self.options.policy == "existing":
                raise NotFound(why="only files that exist may be replaced") from None
            return
        except OSError as error:
            raise writeRefusal(error) from error
        if self.options.policy == "create":
            raise Exists()
        if self.options.keepsBoth:
            return
        if not stat.S_ISREG(status.st_mode):
            raise Forbidden(why="not a regular file")
        if not self.options.replaceForeign and not _isOurs(status):
            raise Forbidden(why="a file of another user, or a read-only one: replace-foreign is off")


def _busy(upload: FileUpload) -> Forbidden:
    """Return the refusal for a name that another client is uploading."""
    return Forbidden("busy", f"{upload.peer[0]} is uploading this file")


def _nothing() -> None:
    """Called for who need not be told."""


def _isOurs(status: os.stat_result) -> bool:
    """
    Return whether this process could write to a file: it is of its user, or its group's, or everybody's, and not
    read-only for them.  Root may write to each file, but replaces none that nobody may write to.
    """
    mode, user = status.st_mode, os.geteuid()
    if user == 0:
        return bool(mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    if status.st_uid == user:
        return bool(mode & stat.S_IWUSR)
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return bool(mode & stat.S_IWGRP)
    return bool(mode & stat.S_IWOTH)


@implementer(IContestedUpload)
class FileUpload:
    """
    Writes one upload to a partial file, and publishes it.

    @ivar key: the directory and the name in it.
    @ivar peer: the client that sends it.
    @ivar octets: octets received so far.
    @ivar contested: see L{IContestedUpload.contested}.
    """

    def __init__(self, uploads: OpenUploads, key: Key, machine: KnownMachine, directory: int, contested: bool) -> None:
        """
        @param directory: descriptor of the directory; the upload closes it.
        """
        self.key, self.peer, self.octets = key, machine.peer, 0
        self.contested = contested
        self._moment = machine.moment
        self._heardAt = uploads.seconds()
        self._replaced: Callable[[], object] = _nothing
        self._uploads, self._directory = uploads, directory
        self._space = SpaceClaim(key[0], directory, uploads.options.keepFree)
        self._part, self._fd = b"", -1
        self._state: Literal["open", "storing", "over"] = "open"
        self._error: BaseException | None = None
        self._pieces: list[bytes] = []
        self._unwritten = 0
        self._busy = False  # a thread uses the descriptors
        self._room: Deferred[None] | None = None
        self._committed: Deferred[None] = Deferred()
        self._mode = 0
        self._unsynced: OSError | None = None  # why the directory could not be synced, though the file has its name
        self._ended: list[Deferred[None]] = []

    # The beginning.

    def create(self, size: int | None) -> Deferred[None]:
        """
        Create the partial file.

        @param size: octets announced, or L{None}.
        @return: fails with Refused: the policy does not allow the upload, there is too little space, or no file can be
            created.
        """
        self._busy = True
        return self._uploads.thread(bind(self._create, size or 0)).addBoth(self._created)

    def _create(self, size: int) -> None:
        """In a thread."""
        self._uploads.checkPolicy(self._directory, self.key[2])
        try:
            self._space.setAside(size)
            self._part, self._fd = partial.create(self._directory)
        except OSError as error:
            raise writeRefusal(error) from error

    def _created(self, result: Failure | None) -> Failure | None:
        self._busy = False
        if isinstance(result, Failure):
            self._end()
        elif self._state == "over":
            # It was aborted meanwhile.
            self._end()
            return Failure(Refused("Upload is over"))
        return result

    # What is written.

    def write(self, data: bytes) -> Deferred[None] | None:
        """
        Append to the file.

        @return: L{None}; or a Deferred: nothing more is to be written before it fires, as the disk is slow.
        @raise Full: the upload is too large, or the disk is full; the partial file is removed at once.
        @raise Refused: the disk has failed, or the upload is over.
        """
        self._checkOpen()
        self._heardAt = self._uploads.seconds()
        try:
            self._uploads.checkSize(self.octets + len(data))
        except Full:
            self.abort()
            raise
        if data:
            self._pieces.append(data)
            self._count(len(data))
            self.octets += len(data)
        if self._unwritten >= WRITE_AT_ONCE and not self._busy:
            self._writeSome()
            self._checkOpen()
        if self._unwritten > MOST_UNWRITTEN or (
            self._unwritten > WRITE_AT_ONCE and self._uploads.unwritten > MOST_UNWRITTEN_IN_ALL
        ):
            self._room = self._room or Deferred()
            return self._room
        return None

    def _checkOpen(self) -> None:
        """@raise Refused: the upload has failed, or is over."""
        if self._error is not None:
            raise self._error
        if self._state != "open":
            raise Refused("Upload is over")
        if self.contested:
            raise Forbidden("busy", "another upload has this name")

    def _count(self, octets: int) -> None:
        """Count octets that wait for the disk; fewer if the number is negative."""
        self._unwritten += octets
        self._uploads.unwritten += octets

    def _writeSome(self) -> None:
        """Write what has been collected, and store the file if all of it has been."""
        pieces, self._pieces, self._busy = self._pieces, [], True
        work = bind(self._writeAll, pieces)
        if self._state == "storing":
            work = bind(self._store, pieces)
        self._uploads.thread(work).addBoth(self._written, sum(map(len, pieces)), self._state == "storing")

    def _writeAll(self, pieces: Sequence[bytes]) -> None:
        """Write these pieces.  In a thread."""
        data = b"".join(pieces)
        rest = memoryview(data)
        try:
            self._space.setAside(len(data))
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._space.written(len(data))
        except OSError as error:
            raise writeRefusal(error) from error

    def _store(self, pieces: Sequence[bytes]) -> None:
        """Write the last pieces, sync the file to the disk, then publish it.  In a thread."""
        if pieces:
            self._writeAll(pieces)
        try:
            if self._uploads.group is not None:
                os.fchown(self._fd, -1, self._uploads.group)
            os.fchmod(self._fd, self._mode)
            os.fsync(self._fd)
            self._publish()
        except OSError as error:
            raise writeRefusal(error) from error
        try:
            partial.syncDirectory(self._directory)
        except OSError as error:
            self._unsynced = error

    def _publish(self) -> None:
        """Give the file its name, or one beside it where both are kept.  In a thread."""
        name, options = self.key[2], self._uploads.options
        if not options.keepsBoth:
            # What has the name now may have come since the upload began.
            if options.policy != "create":
                self._uploads.checkPolicy(self._directory, name)
            partial.publish(self._directory, self._part, name, options.policy != "create")
            return
        for other in namesBeside(name, self._moment if options.policy == "time" else None):
            with suppress(FileExistsError):
                partial.publish(self._directory, self._part, other, False)
                return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _written(self, result: Failure | None, octets: int, stored: bool) -> None:
        self._busy = False
        self._count(-octets)
        if isinstance(result, Failure):
            self._failed(result)
        elif stored:
            self._part = b""  # it has its name
            if self._unsynced is not None:
                self._tellUnsynced(self._unsynced)
            self._end()
            self._committed.callback(None)
        elif self._state == "over":
            self._end()
        elif self._state == "storing" or self._unwritten >= WRITE_AT_ONCE:
            self._writeSome()
        if self._room is not None and self._unwritten <= MOST_UNWRITTEN:
            room, self._room = self._room, None
            # Until now its client was held back.
            self._heardAt = self._uploads.seconds()
            room.callback(None)

    def _tellUnsynced(self, error: OSError) -> None:
        """Log that the directory of a file that is stored could not be synced."""
        form = "{path}: {name} is stored, but a power cut might lose it, as its directory could not be synced: {why}"
        path, name = self._uploads.options.path, names.text((self.key[2],))
        _log.error(form, event="unsynced", path=str(path), name=name, why=reasonOf(error))

    def _failed(self, failure: Failure) -> None:
        """End the upload, as it could not be written: the next call tells why."""
        storing, self._state = self._state == "storing", "over"
        self._error = failure.value
        self._end()
        if self._room is not None:
            self._room.errback(self._error)
            self._room = None
        if storing:
            self._committed.errback(self._error)

    # The end.

    def commit(self) -> Deferred[None]:
        """As L{IContestedUpload.commit}."""
        try:
            self._checkOpen()
        except Refused:
            return fail()
        self._state = "storing"
        if self._uploads.options.mode is not None:
            self._mode = self._uploads.options.mode
        else:
            self._mode = 0o644 & ~self._uploads.umask
        if not self._busy:
            self._writeSome()
        return self._committed

    def abort(self) -> None:
        """As L{IContestedUpload.abort}."""
        if self._state == "open":
            self._state = "over"
            if self._busy:
                self._uploads.willEnd(self)
            else:
                self._end()

    # Another upload of the same name.

    def yieldsTo(self, peer: Peer) -> bool:
        """
        Return whether this upload leaves its name to another one of this client: of the same machine, while this one
        has been silent for L{SILENT_FOR} seconds, and not because the disk is slow.
        """
        silent = self._state == "open" and self._room is None and self._uploads.seconds() >= self._heardAt + SILENT_FOR
        return silent and self.peer[0] == peer[0]

    def claim(self) -> None:
        """As L{IContestedUpload.claim}."""
        if self.contested:
            self._uploads.claim(self)
            self.contested = False

    def whenReplaced(self, function: Callable[[], object]) -> None:
        """As L{IContestedUpload.whenReplaced}."""
        self._replaced = function

    def replace(self) -> None:
        """End the upload, as another one takes its name."""
        replaced = self._replaced
        self.abort()
        replaced()

    @property
    def storing(self) -> bool:
        """Whether it is being stored, and cannot be aborted any more."""
        return self._state == "storing"

    def ended(self) -> Deferred[None]:
        """Return a Deferred that fires when there is nothing left to do on the disk."""
        if self._fd < 0 and not self._busy:
            return succeed(None)
        self._ended.append(Deferred())
        return self._ended[-1]

    def _end(self) -> None:
        """Close the descriptors, and remove the partial file if it has not got its name."""
        self._state = "over"
        self._pieces = []
        self._count(-self._unwritten)
        self._uploads.forget(self)
        self._uploads.thread(bind(self._close, self._directory, self._part, self._fd)).addBoth(self._closed)

    def _close(self, directory: int, part: bytes, fd: int) -> None:
        """In a thread."""
        if part:
            partial.remove(directory, part)
        if fd >= 0:
            closeFd(fd)
        closeFd(directory)
        self._space.release()

    def _closed(self, result: object) -> None:
        self._fd = -1
        # A circle would keep the transfer, and with it the directory open, until the garbage collector comes, seldom.
        self._replaced = _nothing
        self._uploads.forgetWhole(self)
        ended, self._ended = self._ended, []
        for each in ended:
            if not each.called:
                each.callback(None)


def namesBeside(name: bytes, moment: str | None) -> Iterator[bytes]:
    """
    Return the names that a file gets in turn where those before are taken: C{name}, C{name.1}, C{name.2} ...

    @param moment: the time of the upload, which comes before the numbers; L{None}: numbers only.
    """
    yield name
    if moment is not None:
        name = name[: names.LARGEST_PART - len(moment) - 1] + b"." + moment.encode("ascii")
        yield name
    for number in range(1, MOST_BESIDE + 1):
        suffix = b".%d" % number
        yield name[: names.LARGEST_PART - len(suffix)] + suffix


def writeRefusal(error: OSError) -> Refused:
    """Return the refusal for an upload that could not be written."""
    why = reasonOf(error)
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
