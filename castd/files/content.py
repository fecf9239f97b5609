"""
Serve the files of directories as contents.

A file is looked up for every request and read through the descriptor that was opened then, so the next request gets a
replaced file, and a transfer under way does not.  All contents of one file share one descriptor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from pydantic import Field, field_validator, model_validator
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import ContentChanged, Forbidden, NotFound, Refused
from castd.files import names, partial
from castd.files.root import Links, Root, closeFd, readRefusal
from castd.interfaces import IContent, IContentSource, INetworkSource
from castd.networks import Networks
from castd.options import Clients, FilePath, Settings, clients
from castd.request import Peer

#: Device, inode, size, time of the last change in nanoseconds.
Version: TypeAlias = tuple[int, int, int, int]


class RewriteOptions(Settings):
    """One rule that changes the names asked for."""

    pattern: str = Field(alias="from", description="regular expression, searched for in the name (no leading slash)")
    to: str = Field(description="what its match becomes; \\1 is the first group")
    every: bool = Field(False, description="replace every match in a name; false: the first")

    @model_validator(mode="after")
    def _compiles(self) -> RewriteOptions:
        self.rule()
        return self

    def rule(self) -> names.Rewrite:
        """
        Return the compiled rule.

        @raise ValueError: C{from} is no regular expression, or C{to} refers to a group that it does not have.
        """
        return names.Rewrite.compile(self.pattern, self.to, self.every)


class DirectoryOptions(Settings):
    """A directory whose files are served."""

    path: FilePath = Field(description="the directory; nothing outside of it is ever opened")
    under: str = Field("", description="names under which it appears: images shows a/b as images/a/b")
    strip: tuple[str, ...] = Field((), description="leading directories to drop from names, such as /tftpboot/")
    rewrite: tuple[RewriteOptions, ...] = Field((), description="rules that change names, applied in order after strip")
    networks: Clients = Field(
        clients("any"), description="clients that see this directory; the others look further down"
    )
    ignoreCase: bool = Field(
        False, description="find boot/x for BOOT/X if there is no exact match; slow where many miss"
    )
    links: Links = Field(
        "inside", description="symbolic links: inside: as long as they stay in the directory; or never"
    )
    worldReadable: bool = Field(False, description="only files that everybody on this machine may read")

    @field_validator("under")
    @classmethod
    def _name(cls, under: str) -> str:
        return names.text(names.prefix(under))

    @field_validator("strip")
    @classmethod
    def _names(cls, strip: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.text(names.prefix(each)) for each in strip)


@implementer(INetworkSource)
class Directory:
    """
    Serves the files of one directory.
    """

    def __init__(self, options: DirectoryOptions) -> None:
        """
        Open the directory.

        @raise OSError: it is not there or cannot be searched.
        """
        self.options = options
        self.networks = options.networks
        self._root = Root(str(options.path), options.links, options.ignoreCase)
        self._under = names.prefix(options.under)
        self._strip = tuple(map(names.prefix, options.strip))
        self._rules = tuple(each.rule() for each in options.rewrite)
        self._networks = Networks(options.networks) if options.networks != clients("any") else None
        self._open: dict[Version, _OpenFile] = {}

    def lookup(self, name: str, peer: Peer) -> File:
        """
        Open the file of this name.

        @raise NotFound: there is no such file, or the directory is not for this client.
        @raise Forbidden: it is no regular file, cannot be read, or its path leads out of the directory.
        @raise Busy: the system cannot open it now, as it has no descriptors left or the disk has failed.
        """
        if self._networks is not None and peer[0] not in self._networks:
            raise NotFound(why="not for this client")
        fd = self._root.openFile(self.parts(name))
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
        version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        shared = self._open.get(version)
        if shared is None:
            shared = self._open[version] = _OpenFile(fd, version, self._open)
        else:
            closeFd(fd)
        return File(name, shared)

    def parts(self, name: str) -> names.Parts:
        """
        Return the parts of the file's path, from the directory downwards, after all rules.

        @raise Refused: as L{names.parts<castd.files.names.parts>}; NotFound also if the name is not under C{under}.
        """
        found = names.parts(name)
        if self._strip:
            found = names.strip(found, self._strip)
        if self._rules:
            found = names.rewrite(found, self._rules)
        if self._under:
            found = names.beneath(found, self._under)
        if found[-1].startswith(b".") and partial.NAME.fullmatch(found[-1]):
            raise NotFound(why="an unfinished upload")
        return found


class _OpenFile:
    """
    Holds one open file, and closes it when no content reads it any more.
    """

    __slots__ = ("_openFiles", "fd", "readers", "version")

    def __init__(self, fd: int, version: Version, openFiles: dict[Version, _OpenFile]) -> None:
        self.fd, self.version, self.readers, self._openFiles = fd, version, 0, openFiles

    def removeReader(self) -> None:
        """Note that a content was closed."""
        self.readers -= 1
        if not self.readers:
            # As long as the descriptor is open its inode is not used again, so the key is this file's alone.
            del self._openFiles[self.version]
            closeFd(self.fd)


@implementer(IContent)
class File:
    """
    Reads a file as content.

    Its size stays the one that the file had when it was opened: of a file that grows only so much is sent; one that
    shrinks or cannot be read raises L{ContentChanged}.
    """

    __slots__ = ("_fd", "_file", "name", "size", "version")

    def __init__(self, name: str, shared: _OpenFile) -> None:
        shared.readers += 1
        self.name, self.version, self.size = name, shared.version, shared.version[2]
        self._fd, self._file = shared.fd, shared

    def read(self, offset: int, length: int) -> bytes:
        """As L{IContent.read}."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise ContentChanged(why="the file shrank")
                data += more
        except OSError as error:
            raise ContentChanged(why=error.strerror or "input/output error") from error
        return data

    def readInto(self, buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """As L{IContent.readInto}; at most 1024 buffers, which is as many as the kernel takes."""
        wanted = sum(map(len, buffers))
        if offset + wanted > self.size:
            raise ContentChanged(why="more was asked for than the file has")
        try:
            found = os.preadv(self._fd, buffers, offset)
        except OSError as error:
            raise ContentChanged(why=error.strerror or "input/output error") from error
        if found != wanted:
            self._fill(buffers, offset, found)

    def _fill(self, buffers: Sequence[bytearray | memoryview], offset: int, found: int) -> None:
        """Read the rest after a short read, which happens on network file systems, and where the file has shrunk."""
        for buffer in buffers:
            if found < len(buffer):
                memoryview(buffer)[found:] = self.read(offset + found, len(buffer) - found)
            offset += len(buffer)
            found = max(0, found - len(buffer))

    def close(self) -> None:
        """As L{IContent.close}."""
        self._file.removeReader()


@implementer(IContentSource)
class SourceChain:
    """
    Asks several sources in order: the first that has the file opens it.  If one refuses it, no other source is asked.
    """

    def __init__(self, sources: Iterable[IContentSource]) -> None:
        self.sources = tuple(sources)

    def lookup(self, name: str, peer: Peer) -> IContent | Deferred[IContent]:
        """As L{IContentSource.lookup}; a Deferred only where a source answers later."""
        return self._lookupFrom(0, name, peer)

    def _lookupFrom(self, first: int, name: str, peer: Peer) -> IContent | Deferred[IContent]:
        for number, source in enumerate(self.sources[first:], first):
            try:
                found = source.lookup(name, peer)
            except NotFound:
                continue
            if isinstance(found, Deferred):
                return found.addErrback(self._lookupNext, number + 1, name, peer)
            return found
        raise NotFound()

    def _lookupNext(self, failure: Failure, first: int, name: str, peer: Peer) -> Deferred[IContent]:
        failure.trap(NotFound)
        found = self._lookupFrom(first, name, peer)
        return found if isinstance(found, Deferred) else succeed(found)
