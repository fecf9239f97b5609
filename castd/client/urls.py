"""
Parses URLs of files: C{tftp://host[:port]/file[;mode=netascii|octet]} as in RFC 3617, and the same shape for other
schemes; C{mtftp://host[:port]/file[;group=address:port]} names the group that the file is sent to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_SHAPE = re.compile(
    r"""(?P<scheme>[a-z][a-z0-9+.-]*)://
        (?: \[(?P<six>[0-9a-f:.]+(?:%[^\]/]+)?)\] | (?P<host>[^:/\[\]@]+) )
        (?: :(?P<port>[0-9]{1,5}) )?
        (?: /(?P<path>.*) )?""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_MODE = re.compile(r";mode=(octet|netascii)$", re.IGNORECASE)
_GROUP = re.compile(r";group=([^;/]*)$", re.IGNORECASE)


class UrlError(ValueError):
    """The error that a URL does not name a file that could be fetched or sent; the text says why."""


@dataclass(frozen=True, slots=True)
class Url:
    """
    A URL, split into its parts.

    @ivar scheme: in lower case.
    @ivar host: a name or an address, IPv6 without brackets; a scope follows behind C{%}.
    @ivar port: L{None}: the default of the scheme.
    @ivar path: the text behind the first slash after the host, with C{%xx} not decoded.
    """

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def mode(self) -> str:
        """C{"octet"} or C{"netascii"}."""
        found = _MODE.search(self.path)
        return found[1].lower() if found else "octet"

    @property
    def group(self) -> str | None:
        """The group and port of an C{mtftp} URL: the text behind C{;group=} at its end."""
        found = _GROUP.search(self.path)
        return found[1] if found else None

    @property
    def name(self) -> str:
        """
        The name of the file, each octet as it goes on the wire (UTF-8 with surrogate escapes).

        @raise UrlError: there is no name, or a name that no request can carry.
        """
        path = _GROUP.sub("", self.path) if self.scheme == "mtftp" else self.path
        name = unquote(_MODE.sub("", path), errors="surrogateescape")
        if not name:
            raise UrlError("no file is named")
        if "\0" in name:
            raise UrlError("a name cannot hold a NUL")
        return name

    @property
    def base(self) -> str:
        """
        The last part of the name: the name of the local copy.

        @raise UrlError: the name ends in a slash, or in what is no name of a file, such as C{..}.
        """
        base = re.split(r"[/\\]", self.name)[-1]
        if base in ("", ".", ".."):
            raise UrlError("the URL ends in no file name; say what to call the copy (-o)")
        return base


def parseUrl(text: str) -> Url:
    """
    Split a URL into its parts.

    @raise UrlError: the text is no URL.
    """
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise UrlError("not a URL like tftp://host/file")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise UrlError(f"no such port: {port}")
    # A percent sign before a scope may be written as %25 (RFC 6874).
    host = found["host"] or found["six"].replace("%25", "%")
    return Url(found["scheme"].lower(), host, port, found["path"] or "")
