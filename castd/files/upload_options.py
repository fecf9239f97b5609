"""
What the service file says of a directory that takes uploads.
"""

from __future__ import annotations

import grp
import re
import stat
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from castd.files.athand import Links
from castd.files.mapping import MappedOptions, RewriteOptions, WordPath
from castd.options import Clients, Size, clients

Policy: TypeAlias = Literal["create", "overwrite", "existing", "number", "time"]


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


def groupNumber(group: str) -> int:
    """
    Return the number of a group.

    @raise LookupError: this machine has no such group.
    """
    return int(group) if group.isascii() and group.isdecimal() and len(group) < 11 else grp.getgrnam(group).gr_gid
