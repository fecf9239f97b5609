"""
Store uploads in a directory, in which a file is complete or does not exist.

Each upload is written to a partial file in the same directory, which gets the name of the upload only when it is
complete and synced to the disk.  Until then clients cannot see it, and if the upload fails nothing is left.

Whatever waits for the disk is done in threads of the directory.  Octets are collected and written some at a time; where
the disk is slower than the client, L{FileUpload.write} says so.
"""

from __future__ import annotations

import errno
import grp
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from functools import partial as bind
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import Exists, Forbidden, Full, NotFound, Refused, Unanswered
from castd.files import names, partial
from castd.files.athand import NO_DESCRIPTORS, Links
from castd.files.mapping import MappedOptions, NameMap, RewriteOptions, WordPath, isUnfinished
from castd.files.root import OPEN_TIMEOUT, Root, closeFd
from castd.files.space import SpaceClaim
from castd.files.threads import MOST_AWAITED, DiskThreads, RunInThread, handOver
from castd.interfaces import IContentSink, IContestedUpload, IUpload
from castd.machines.known import KnownMachine
from castd.options import Clients, Size, clients
from castd.request import Peer

Policy: TypeAlias = Literal["create", "overwrite", "existing", "number", "time"]
#: Device and inode of a directory, a name in it, and the client where several may upload one name at once.
Key: TypeAlias = tuple[int, int, bytes, Peer | None]

T = TypeVar("T")

#: An upload that has brought nothing for so many seconds leaves its name to a newer one of its machine.  Clients repeat
#: a block every second to every five.
SILENT_FOR = 5.0
#: Octets of one upload that are written together.
WRITE_AT_ONCE = 1 << 16
#: Directories that are made for one upload.
MOST_MADE = 16
#: Files of one name that are kept beside each other.
MOST_BESIDE = 9999
#: Octets of one upload that wait for the disk; beyond that its client has to wait.
MOST_UNWRITTEN = 4 * WRITE_AT_ONCE
#: Octets of all uploads to one directory that wait for the disk; beyond that each may have L{WRITE_AT_ONCE}.
MOST_UNWRITTEN_IN_ALL = 16 << 20


def _fileMode(text: object) -> int:
    """Read the mode of a file: three octal digits, perhaps with a zero before them."""
    found = re.fullmatch(r"0?([0-7]{3})", str(text), re.ASCII)
    if found is None:
        raise ValueError(f"{text} is no mode of a file: write three octal digits, such as 640")
    mode = int(found[1], 8)
    if not mode & stat.S_IWUSR:
        raise ValueError(f"{text}: the owner could not write to the file, so nobody could replace it")
    return mode


#: The mode of a file: C{640}.
FileMode = Annotated[
    int,
    PlainValidator(_fileMode),
    PlainSerializer(lambda mode: f"{mode:03o}", when_used="json"),
    WithJsonSchema({"type": "string", "format": "mode", "examples": ["640"]}),
]


class UploadDirectoryOptions(MappedOptions):
    """A directory that takes uploads."""

    path: WordPath = Field(description="the directory; nothing outside of it is ever written")
    under: str = Field("", description="names under which it appears: logs takes logs/a as a")
    strip: tuple[str, ...] = Field((), description="leading directories to drop from names, such as /tftpboot/")
    rewrite: tuple[RewriteOptions, ...] = Field((), description="rules that change names, applied in order after strip")
    makeDirectories: bool = Field(False, description="make directories that are missing in the path of a file")
    policy: Policy = Field(
        "create",
        description="create: new files only; overwrite: replaces, too; existing: replaces only; number, time: keeps"
        " both, the new one as NAME.1 or NAME.2026-11-26T21-24-00",
    )
    mode: FileMode | None = Field(None, description="of new files, in octal; null: 644 without what the umask takes")
    group: str | None = Field(None, min_length=1, description="of new files, by name or number; null: castd's own")
    maxSize: Size | None = Field(None, description="octets of the largest upload; null: no limit")
    keepFree: Size = Field(64 << 20, description="octets that uploads leave free on the disk")
    networks: Clients = Field(
        clients("any"), description="clients that may upload here; for the others the next directory is tried"
    )
    links: Links = Field("inside", description="links to directories: inside: followed if they stay inside; or never")
    replaceForeign: bool = Field(
        False, description="replace also files of other users and files that are read-only, which stay otherwise"
    )

    @property
    def keepsBoth(self) -> bool:
        """Whether a file stays, and an upload of its name gets another one."""
        return self.policy in ("number", "time")


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


def groupNumber(group: str) -> int:
    """
    Return the number of a group.

    @raise LookupError: this machine has no such group.
    """
    return int(group) if group.isascii() and group.isdecimal() and len(group) < 11 else grp.getgrnam(group).gr_gid


@implementer(IContentSink)
class UploadDirectory:
    """
    Stores uploads in one directory.

    @ivar thread: runs functions that wait for the disk.
    @ivar seconds: tells the time.
    @ivar unwritten: octets of all uploads that wait for the disk.
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
        self.group = None if options.group is None else groupNumber(options.group)
        self._root = Root(str(options.base), options.links, patience=patience, writable=True)
        self._map = NameMap(options)
        self.byMachine = self._map.byMachine
        self.thread = thread or DiskThreads()
        self.seconds = seconds
        self.unwritten = 0
        self._open: dict[Key, FileUpload] = {}
        self._ending: set[FileUpload] = set()
        self._awaited = 0

    @cached_property
    def umask(self) -> int:
        """The umask of this process, as it is when the first upload is stored.  In the reactor's thread."""
        return readUmask()

    @property
    def answers(self) -> bool:
        """Whether the disk has answered when the directory was to be opened."""
        return self._root.answers

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
        try:
            return f"{self._root.path}/{names.text(self._map.parts(name, machine))}"
        except Refused:
            return ""

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
        return self._awaitDisk(
            lambda: Deferred.fromCoroutine(self._begin(parts, machine, size)), lambda upload: upload.abort()
        )

    def check(self, name: str, machine: KnownMachine, size: int | None) -> Deferred[None]:
        """
        Find out whether an upload would begin, and begin none: no file is made, and no other upload is disturbed.

        @return: fails as L{begin}.
        @raise Refused: as L{begin}.
        """
        parts = self._partsOf(name, machine, size)
        return self._awaitDisk(lambda: Deferred.fromCoroutine(self._check(parts, machine, size)), lambda _: None)

    def _awaitDisk(self, ask: Callable[[], Deferred[T]], discard: Callable[[T], object]) -> Deferred[T]:
        """
        Begin what waits for the disk, which goes on to its end also if nobody waits for its result any more.

        @param discard: called with the result in that case.
        @raise Unanswered: too many requests wait for this disk.
        """
        if self._awaited >= MOST_AWAITED:
            raise Unanswered(why=f"{MOST_AWAITED} requests wait for the disk of {self.options.path}")
        self._awaited += 1
        asked: Deferred[T] = Deferred()
        ask().addBoth(self._answered, asked, discard)
        return asked

    async def _check(self, parts: names.Parts, machine: KnownMachine, size: int | None) -> None:
        directory, place, missing = await self.thread(bind(self._openNearest, parts[:-1]))
        peer, last = machine.peer, None if missing else parts[-1]
        try:
            if last is not None:
                busy = self._open.get((*place, last, peer if self.options.keepsBoth else None))
                if busy is not None and (busy.peer != peer or busy.storing) and not busy.yieldsTo(peer):
                    raise _busy(busy)
            space = SpaceClaim(place[0], directory, self.options.keepFree)
            await self.thread(bind(self._checkBeginning, space, directory, last, size or 0))
        finally:
            self.thread(bind(closeFd, directory))

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
            self.checkPolicy(directory, last)
        try:
            space.setAside(size)
        except OSError as error:
            raise writeRefusal(error) from error
        finally:
            space.release()
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True):
            raise Forbidden(why=os.strerror(errno.EACCES))

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
        self.checkSize(size or 0)
        return parts

    def _answered(self, result: T | Failure, asked: Deferred[T], discard: Callable[[T], object]) -> None:
        self._awaited -= 1
        handOver(result, asked, discard)

    async def _begin(self, parts: names.Parts, machine: KnownMachine, size: int | None) -> IUpload:
        directory, place = await self.thread(bind(self._openDirectory, parts[:-1]))
        key = (*place, parts[-1], machine.peer if self.options.keepsBoth else None)
        try:
            contested = await self._endFormer(key, machine.peer)
            upload = FileUpload(self, key, machine, directory, contested)
        except Refused:
            self.thread(bind(closeFd, directory))
            raise
        if not contested:
            self._open[key] = upload
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
                made = _makeDirectory(part, directory)
                inside = os.open(part, flags, dir_fd=directory)
                closeFd(directory)
                directory = inside
                if made:
                    self._adjustDirectory(directory)
        except OSError as error:
            closeFd(directory)
            raise writeRefusal(error) from error
        return directory

    def _adjustDirectory(self, directory: int) -> None:
        """Give a directory that was made its group and mode."""
        if self.group is not None:
            os.fchown(directory, -1, self.group)
        if self.options.mode is not None:
            # Who may read files may search it.
            os.fchmod(directory, self.options.mode | 0o300 | (self.options.mode & 0o444) >> 2)

    def checkSize(self, size: int) -> None:
        """@raise Full: an upload may not be so large."""
        if self.options.maxSize is not None and size > self.options.maxSize:
            raise Full(why="larger than an upload may be")

    def removeAbandoned(self) -> Deferred[int]:
        """
        Remove the partial files that a crashed server has left in this directory and all below.

        It is to be called at the start.  Files that are still being written, by this process or another, stay.

        @return: a Deferred of how many files were removed.
        """
        return self.thread(self._removeAbandoned)

    def _removeAbandoned(self) -> int:
        # By its descriptor: after twistd --chroot its path does not exist any more.
        directory = self._root.openDirectory(())
        try:
            return partial.removeAbandoned(".", directory)
        finally:
            closeFd(directory)

    def settled(self) -> Deferred[None]:
        """Return a Deferred that fires when all uploads that have ended are stored or removed on the disk."""
        ending = [*self._ending, *(upload for upload in self._open.values() if upload.storing)]
        return DeferredList([upload.ended() for upload in ending]).addCallback(lambda _: None)

    def forget(self, upload: FileUpload) -> None:
        """Forget an upload that was committed or aborted, but for what is left to do on the disk."""
        if self._open.get(upload.key) is upload:
            del self._open[upload.key]
        self._ending.add(upload)

    def forgetWhole(self, upload: FileUpload) -> None:
        """Forget an upload of which nothing is left to do."""
        self._ending.discard(upload)

    async def _endFormer(self, key: Key, peer: Peer) -> bool:
        """
        Abort an earlier upload of this name by the same client, which begins anew, and wait until its file is removed.

        @return: whether another upload has the name, which this client may take from it, see L{claim}.
        @raise Forbidden: another client is uploading it; there is one upload of a name at a time.
        """
        busy = self._open.get(key)
        while busy is not None and busy.peer == peer and not busy.storing:
            busy.abort()
            await busy.ended()
            # Where the disk was waited for, an earlier request of the client may have been served first.
            busy = self._open.get(key)
        if busy is not None and not busy.yieldsTo(peer):
            raise _busy(busy)
        return busy is not None

    def claim(self, upload: FileUpload) -> None:
        """
        Give an upload its name, in place of a silent one of the same machine.

        @raise Forbidden: another upload has the name.
        """
        holder = self._open.get(upload.key)
        if holder is not None and holder is not upload:
            if not holder.yieldsTo(upload.peer):
                raise _busy(holder)
            holder.replace()
        self._open[upload.key] = upload

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


def _placeOf(directory: int) -> tuple[int, int]:
    """Return device and inode of an open directory.  @raise Refused: that cannot be found out; it is closed."""
    try:
        status = os.fstat(directory)
    except OSError as error:
        closeFd(directory)
        raise writeRefusal(error) from error
    return status.st_dev, status.st_ino


def _makeDirectory(part: bytes, directory: int) -> bool:
    """Make a directory within another one.  -> whether it was not there before."""
    try:
        os.mkdir(part, 0o755, dir_fd=directory)
    except FileExistsError:
        return False
    return True


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

    def __init__(self, sink: UploadDirectory, key: Key, machine: KnownMachine, directory: int, contested: bool) -> None:
        """
        @param directory: descriptor of the directory; the upload closes it.
        """
        self.key, self.peer, self.octets = key, machine.peer, 0
        self.contested = contested
        self._moment = machine.moment
        self._heardAt = sink.seconds()
        self._replaced: Callable[[], object] = bool
        self._sink, self._directory = sink, directory
        self._space = SpaceClaim(key[0], directory, sink.options.keepFree)
        self._part, self._fd = b"", -1
        self._state: Literal["open", "storing", "over"] = "open"
        self._error: BaseException | None = None
        self._pieces: list[bytes] = []
        self._unwritten = 0
        self._busy = False  # a thread uses the descriptors
        self._room: Deferred[None] | None = None
        self._committed: Deferred[None] = Deferred()
        self._mode = 0
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
        return self._sink.thread(bind(self._create, size or 0)).addBoth(self._created)

    def _create(self, size: int) -> None:
        """In a thread."""
        self._sink.checkPolicy(self._directory, self.key[2])
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
        self._heardAt = self._sink.seconds()
        try:
            self._sink.checkSize(self.octets + len(data))
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
            self._unwritten > WRITE_AT_ONCE and self._sink.unwritten > MOST_UNWRITTEN_IN_ALL
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
        self._sink.unwritten += octets

    def _writeSome(self) -> None:
        """Write what has been collected, and store the file if all of it has been."""
        pieces, self._pieces, self._busy = self._pieces, [], True
        work = bind(self._writeAll, pieces)
        if self._state == "storing":
            work = bind(self._store, pieces)
        self._sink.thread(work).addBoth(self._written, sum(map(len, pieces)), self._state == "storing")

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
            if self._sink.group is not None:
                os.fchown(self._fd, -1, self._sink.group)
            os.fchmod(self._fd, self._mode)
            os.fsync(self._fd)
            self._publish()
            partial.syncDirectory(self._directory)
        except OSError as error:
            raise writeRefusal(error) from error

    def _publish(self) -> None:
        """Give the file its name, or one beside it where both are kept.  In a thread."""
        name, options = self.key[2], self._sink.options
        if not options.keepsBoth:
            partial.publish(self._directory, self._part, name, options.policy)
            return
        for other in namesBeside(name, self._moment if options.policy == "time" else None):
            with suppress(FileExistsError):
                partial.publish(self._directory, self._part, other, "create")
                return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _written(self, result: Failure | None, octets: int, stored: bool) -> None:
        self._busy = False
        self._count(-octets)
        if isinstance(result, Failure):
            self._failed(result)
        elif stored:
            self._part = b""  # it has its name
            self._end()
            self._committed.callback(None)
        elif self._state == "over":
            self._end()
        elif self._state == "storing" or self._unwritten >= WRITE_AT_ONCE:
            self._writeSome()
        if self._room is not None and self._unwritten <= MOST_UNWRITTEN:
            room, self._room = self._room, None
            # Until now its client was held back.
            self._heardAt = self._sink.seconds()
            room.callback(None)

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
        if self._sink.options.mode is not None:
            self._mode = self._sink.options.mode
        else:
            self._mode = 0o644 & ~self._sink.umask
        if not self._busy:
            self._writeSome()
        return self._committed

    def abort(self) -> None:
        """As L{IContestedUpload.abort}."""
        if self._state == "open":
            self._state = "over"
            if not self._busy:
                self._end()

    # Another upload of the same name.

    def yieldsTo(self, peer: Peer) -> bool:
        """
        Return whether this upload leaves its name to another one of this client: of the same machine, while this one
        has been silent for L{SILENT_FOR} seconds, and not because the disk is slow.
        """
        silent = self._state == "open" and self._room is None and self._sink.seconds() >= self._heardAt + SILENT_FOR
        return silent and self.peer[0] == peer[0]

    def claim(self) -> None:
        """As L{IContestedUpload.claim}."""
        if self.contested:
            self._sink.claim(self)
            self.contested = False

    def whenReplaced(self, function: Callable[[], object]) -> None:
        """As L{IContestedUpload.whenReplaced}."""
        self._replaced = function

    def replace(self) -> None:
        """End the upload, as another one takes its name."""
        self.abort()
        self._replaced()

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
        self._sink.forget(self)
        self._sink.thread(bind(self._close, self._directory, self._part, self._fd)).addBoth(self._closed)

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
        self._sink.forgetWhole(self)
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
