"""
Make what C{directory} stands for in a service file: a source below C{content:}, a sink below C{uploads:}.
"""

from __future__ import annotations

import errno
import os
from typing import TypeVar

from twisted.logger import Logger

from castd.errors import ConfigError, reasonOf
from castd.files.content import Directory, DirectoryOptions
from castd.files.root import OPEN_TIMEOUT
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.interfaces import IContentSource, ISite

Options = DirectoryOptions

Made = TypeVar("Made", Directory, UploadDirectory)
#: Seconds that a server which is serving waits for a new directory whose disk does not answer.
RELOAD_TIMEOUT = 0.1

_log = Logger(namespace="castd")


def makeSource(options: DirectoryOptions, site: ISite) -> IContentSource:
    """
    Make a source of content.

    @raise ConfigError: the directory is not there or cannot be searched.
    """
    try:
        return warnIfSlow(Directory(options, patience=patience(site)))
    except OSError as error:
        raise _unusable(options, error) from None


def makeSink(options: UploadDirectoryOptions, site: ISite) -> UploadDirectory:
    """
    Make a sink for uploads.

    @raise ConfigError: the directory is not there or cannot be written to, or there is no such group.
    """
    try:
        return warnIfSlow(UploadDirectory(options, patience=patience(site), seconds=site.reactor.seconds))
    except OSError as error:
        raise _unusable(options, error) from None
    except LookupError:
        raise ConfigError(f"group: this machine has no group {options.group}") from None


def patience(site: ISite) -> float:
    """Return seconds to wait for a disk: next to none while requests are served."""
    return RELOAD_TIMEOUT if site.requestPorts else OPEN_TIMEOUT


def warnIfSlow(directory: Made) -> Made:
    """Log that a directory's disk does not answer, if so; it is opened when the first request needs it."""
    if not directory.answers:
        _log.warn("{path} does not answer yet", event="slow-disk", path=str(directory.options.base))
    return directory


def _unusable(options: DirectoryOptions | UploadDirectoryOptions, error: OSError) -> ConfigError:
    who = ""
    if error.errno == errno.EACCES:
        # It may be a folder above it; only the doctor looks at each.
        who = f", by user {os.geteuid()}: castd doctor --user {os.geteuid()} names each folder that keeps it out"
    return ConfigError(f"path: {options.base}: {reasonOf(error)}{who}")
