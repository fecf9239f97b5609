"""
Look for the file that was probably meant by a name that leads to none, for the log.

The client is told nothing of it.  Links are not followed, and of each directory only the names are read, so what is
found lies within the root.  All this waits for the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from castd.files import names
from castd.files.names import Parts
from castd.files.root import Root, closeFd
from castd.files.spelling import Spellings, spelled
from castd.interfaces import Near

#: The most directories at the top of a root in which a name is looked for.
MOST_TOPS = 32
#: Names that are kept of the directories that were listed.
MOST_NAMES = 100_000
#: What stands around a name that was typed with a space at its end, or with quotes that its syntax does not know.
_SURROUNDING = b" \t\"'"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def seek(root: Root, asked: Parts, under: Parts, mayRead: bool, spellings: Spellings) -> Near | None:
    """
    Look for a file beneath one root.

    @param asked: the parts of the name, after C{strip} and C{rewrite} of the directory.
    @param under: the leading directory of all names of this root.
    @param mayRead: the client is one of those that the directory is for.
    @raise OSError, Refused: the disk cannot be read.
    """
    top = root.openDirectory(())
    try:
        for kind, parts in _candidates(top, asked, under):
            # Of other places only names that are spelled the same: their directories need not be listed.
            found = _onDisk(top, parts, spellings if kind == "case" else None)
            if found is None:
                continue
            if not mayRead:
                return Near("network", names.text(under + found))
            if under + found != asked:
                return Near(kind, names.text(under + found))
        return None
    finally:
        closeFd(top)


def _candidates(top: int, asked: Parts, under: Parts) -> Iterator[tuple[str, Parts]]:
    """Return what may have been meant, the likeliest first: in what it differs, and its parts from the root."""
    if (beneath := _beneath(under, asked)) is not None:
        yield "case", beneath
    else:
        yield "prefix", asked
    trimmed = _trimmed(asked)
    if trimmed != asked and (beneath := _beneath(under, trimmed)) is not None:
        yield "spaces", beneath
    for dropped in range(1, len(asked)):
        yield "prefix", asked[dropped:]
    for directory in _directories(top):
        yield "prefix", (directory, *asked)


def _beneath(under: Parts, asked: Parts) -> Parts | None:
    """Return the parts that follow the leading directory; L{None}: it does not lead there."""
    return asked[len(under) :] if asked[: len(under)] == under and len(asked) > len(under) else None


def _trimmed(asked: Parts) -> Parts:
    """Return a name without what a mistake in a DHCP server's configuration leaves around it."""
    first, *rest = asked
    trimmed = (first.lstrip(_SURROUNDING), *rest)
    return (*trimmed[:-1], trimmed[-1].rstrip(_SURROUNDING))


def _directories(top: int) -> list[bytes]:
    """Return the names of the first directories in a directory."""
    with os.scandir(top) as entries:
        found = (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return sorted(os.fsencode(name) for name, _ in zip(found, range(MOST_TOPS), strict=False))


def _onDisk(top: int, parts: Parts, spellings: Spellings | None) -> Parts | None:
    """Return the parts as they are spelled on the disk, if they lead to a regular file."""
    place, found = top, list[bytes]()
    try:
        for number, part in enumerate(parts):
            name = spelled(place, part, spellings)
            if name is None:
                return None
            found.append(name)
            if number == len(parts) - 1:
                status = os.stat(name, dir_fd=place, follow_symlinks=False)
                return tuple(found) if stat.S_ISREG(status.st_mode) else None
            inner = os.open(name, _DIRECTORY, dir_fd=place)
            if place != top:
                closeFd(place)
            place = inner
    except OSError:
        return None
    finally:
        if place != top:
            closeFd(place)
    return None
