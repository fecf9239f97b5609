"""
Make what C{directory} stands for in a service file: a source below C{content:}, a sink below C{uploads:}.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred
from zope.interface import implementer

from castd.errors import ConfigError, Forbidden, NotFound
from castd.files.content import Directory, DirectoryOptions
from castd.files.netascii import NetasciiUpload
from castd.files.uploads import UploadDirectory, UploadDirectoryOptions
from castd.interfaces import IContentSink, IContentSource, ISite, IUpload
from castd.request import Peer

Options = DirectoryOptions


def makeSource(options: DirectoryOptions, site: ISite) -> IContentSource:
    """
    Make a source of content.

    @raise ConfigError: the directory is not there or cannot be searched.
    """
    try:
        return Directory(options)
    except OSError as error:
        raise _unusable(options, error) from None


def makeSink(options: UploadDirectoryOptions) -> UploadDirectory:
    """
    Make a sink for uploads.

    @raise ConfigError: the directory is not there or cannot be written to.
    """
    try:
        return UploadDirectory(options)
    except OSError as error:
        raise _unusable(options, error) from None


def _unusable(options: DirectoryOptions | UploadDirectoryOptions, error: OSError) -> ConfigError:
    return ConfigError(f"path: {options.path}: {error.strerror or error}")


@implementer(IContentSink)
class SinkChain:
    """
    Chooses among several upload directories: an upload goes to the first one that its name belongs to.
    """

    def __init__(self, directories: Iterable[UploadDirectory], mode: str = "octet") -> None:
        """
        @param mode: C{"netascii"}: uploads are converted to native text.
        """
        self.directories = tuple(directories)
        self.mode = mode

    def begin(self, name: str, peer: Peer, size: int | None) -> Deferred[IUpload]:
        """
        As L{IContentSink.begin}.

        @raise Forbidden: also if the name belongs to none of the directories.
        @raise NotFound: it belongs to some, but a directory in its path is missing.
        """
        begun = Deferred.fromCoroutine(self._begin(name, peer, size))
        return begun.addCallback(NetasciiUpload) if self.mode == "netascii" else begun

    async def _begin(self, name: str, peer: Peer, size: int | None) -> IUpload:
        missing: NotFound | None = None
        for directory in self.directories:
            if not directory.covers(name):
                continue
            try:
                return await directory.begin(name, peer, size)
            except NotFound as error:
                missing = error
        raise missing or Forbidden(why="no place for uploads of this name")
