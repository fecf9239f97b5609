"""
Declares what castd and the process that renders templates tell each other.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

#: Before each job: how many octets it has.
LENGTH = struct.Struct("!I")
#: Before each answer: how many octets its JSON has, and how many the text behind that, which is not in the JSON.
LENGTHS = struct.Struct("!II")
#: Octets of the largest JSON, and of the largest text, in an answer.
LARGEST, LARGEST_TEXT = 1 << 20, 16 << 20
#: The exit status of a process that had too little memory.
MEMORY_STATUS = 77
#: Octets of the largest inventory.
LARGEST_INVENTORY = 8 << 20
#: Path, inode and size of a file, and the times of the last change of its text and of its inode, as in
#: L{castd.files.content.Version}.
FileVersion: TypeAlias = tuple[str, int, int, int, int]


class Job(TypedDict):
    """
    What is to be rendered.

    @ivar template: the path of the file.
    @ivar inventory: the path of the inventory; L{None}: there is none.
    @ivar known: only machines that stand in the inventory have such a file.
    @ivar most: octets of the largest result.
    @ivar values: what the template is told, beside what the inventory says.
    """

    template: str
    inventory: str | None
    known: bool
    most: int
    values: Mapping[str, str | None]


class Rendered(TypedDict):
    """
    What has come of it.

    @ivar text: the result; L{None}: there is none.
    @ivar fault: why there is none, with file and line; L{None}: the machine has no such file.
    @ivar files: the files that it was made from.
    """

    text: str | None
    fault: str | None
    files: Sequence[FileVersion]


class TemplateFault(Exception):
    """A template or an inventory is wrong; the text says where."""


def packed(rendered: Rendered) -> bytes:
    """
    Return the octets of an answer.  castd reads the text as it is: to read 16 MiB of JSON holds its loop for 0.4 s.
    """
    text = (rendered["text"] or "").encode()
    octets = json.dumps({**rendered, "text": None if rendered["text"] is None else ""}).encode()
    return LENGTHS.pack(len(octets), len(text)) + octets + text


def versionOf(path: str) -> FileVersion:
    """
    Return what changes when a file does.

    @raise OSError: it cannot be looked at.
    """
    status = os.stat(path)
    return path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def versionNow(path: str) -> FileVersion:
    """As L{versionOf}; of a file that is not there a version that no file has."""
    try:
        return versionOf(path)
    except OSError:
        return path, 0, 0, 0, 0


def readText(path: str, most: int) -> str:
    """
    Read a file of the operator's.

    @raise TemplateFault: it is too large, or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            octets = file.read(most + 1)
        if len(octets) > most:
            raise TemplateFault(f"{path}: larger than {most} octets")
        return octets.decode()
    except UnicodeDecodeError:
        raise TemplateFault(f"{path}: not UTF-8") from None
    except OSError as error:
        raise TemplateFault(f"{path}: {error.strerror}") from None
