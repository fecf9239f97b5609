"""
Make what C{directory} stands for in a service file: a source below C{content:}, a sink below C{uploads:}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from castd.errors import ConfigError, Forbidden, NotFound, Refused, reasonOf
from castd.files import names
from castd.files.content import Directory, DirectoryOptions
from castd.files.netascii import NetasciiUpload
from castd.files.root import OPEN_TIMEOUT
from castd.files.threads import asDeferred
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.interfaces import IContentSink, IContentSource, IMachines, ISite, IUpload
from castd.machines.known import KnownMachine
from castd.request import Peer

Options = DirectoryOptions

Made = TypeVar("Made", Directory, UploadDirectory)
T = TypeVar("T")
#: Called with each directory that is asked for a place for an upload, and its refusal.
Told: TypeAlias = Callable[[UploadDirectory, "Refused | None"], object]

#: Seconds that a server which is serving waits for a new directory whose disk does not answer.
RELOAD_TIMEOUT = 0.1

_log = Logger(namespace="castd")


def makeSource(options: DirectoryOptions, site: ISite) -> IContentSource:
    """
    Make a source of content.

    @raise ConfigError: the directory is not there or cannot be searched.
    """
    try:
        return _warned(Directory(options, patience=patience(site)))
    except OSError as error:
        raise _unusable(options, error) from None


def makeSink(options: UploadDirectoryOptions, site: ISite) -> UploadDirectory:
    """
    Make a sink for uploads.

    @raise ConfigError: the directory is not there or cannot be written to, or there is no such group.
    """
    try:
        return _warned(UploadDirectory(options, patience=patience(site), seconds=site.reactor.seconds))
    except OSError as error:
        raise _unusable(options, error) from None
    except LookupError:
        raise ConfigError(f"group: this machine has no group {options.group}") from None


def patience(site: ISite) -> float:
    """Return seconds to wait for a disk: next to none while requests are served."""
    return RELOAD_TIMEOUT if site.requestPorts else OPEN_TIMEOUT


def _warned(directory: Made) -> Made:
    """Log that a directory's disk does not answer; it is opened when the first request needs it."""
    if not directory.answers:
        _log.warn("{path} does not answer yet", event="slow-disk", path=str(directory.options.base))
    return directory


def _unusable(options: DirectoryOptions | UploadDirectoryOptions, error: OSError) -> ConfigError:
    return ConfigError(f"path: {options.base}: {reasonOf(error)}")


@implementer(IContentSink)
class SinkChain:
    """
    Chooses among several upload directories: an upload goes to the first one for its name and its client.
    """

    def __init__(
        self, directories: Iterable[UploadDirectory], mode: str = "octet", machines: IMachines | None = None
    ) -> None:
        """
        @param mode: C{"netascii"}: uploads are converted to native text.
        @param machines: finds out what is known of machines; L{None}: nothing is.
        """
        self.directories = tuple(directories)
        self.mode = mode
        self._machines = machines
        self._byMachine = any(each.byMachine for each in self.directories)

    def begin(self, name: str, peer: Peer, size: int | None) -> Deferred[IUpload]:
        """
        As L{IContentSink.begin}.

        @raise Forbidden: also if the name belongs to none of the directories, or none of them is for this client.
        @raise NotFound: it belongs to some, but a directory in its path is missing; or it is too long for a file.
        """

        def begin(directory: UploadDirectory, machine: KnownMachine) -> Deferred[IUpload]:
            return directory.beginFor(name, machine, size)

        begun = Deferred.fromCoroutine(self._first(name, peer, begin))
        return begun.addCallback(NetasciiUpload) if self.mode == "netascii" else begun

    def check(self, name: str, peer: Peer, size: int | None, told: Told | None = None) -> Deferred[None]:
        """
        Find out whether an upload would begin, and begin none.

        @param told: called with each directory that is asked, and its refusal; L{None}: the upload would go there.
        @return: fails as L{begin}.
        """

        def check(directory: UploadDirectory, machine: KnownMachine) -> Deferred[None]:
            return directory.check(name, machine, size)

        return Deferred.fromCoroutine(self._first(name, peer, check, told))

    async def _first(
        self,
        name: str,
        peer: Peer,
        ask: Callable[[UploadDirectory, KnownMachine], Deferred[T]],
        told: Told | None = None,
    ) -> T:
        """Ask each directory for this name and client, until one has a place for it.  -> its answer."""
        refusal: Refused | None = None
        told = told or _tellNobody
        machine = KnownMachine(peer)
        if self._machines is not None and self._byMachine:
            machine = await asDeferred(self._machines.machineOf(peer))
        for directory in self.directories:
            if not directory.covers(name, machine):
                told(directory, _NO_PLACE)
                continue
            if not directory.isFor(peer):
                refusal = refusal or Forbidden(why="no uploads by this client")
                told(directory, refusal)
                continue
            try:
                answer = await ask(directory, machine)
            except NotFound as error:
                told(directory, error)
                refusal = error
            except Refused as error:
                told(directory, error)
                raise
            else:
                told(directory, None)
                return answer
        if refusal is None:
            # A name that no file can have is in no directory either.
            names.parts(name)
            raise Forbidden(why="no place for uploads of this name")
        raise refusal


_NO_PLACE = NotFound(why="not for this name")


def _tellNobody(directory: UploadDirectory, refusal: Refused | None) -> None:
    """Do nothing: nobody wants to know."""
