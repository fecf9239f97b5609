"""
Compile regular expressions that are matched in linear time, by RE2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from re2 import Match, Options, Regexp
else:
    Match = object

__all__ = ["LinearRegex", "Match", "isInstalled", "linearRegex"]

#: Octets of the largest compiled expression, with what is kept of its states: ten thousand steps, each of which may be
#: looked at for each octet of a name.
MAX_MEMORY = 1 << 18


class LinearRegex:
    """
    Finds matches of one expression in the octets of names.

    A name that is UTF-8 is matched character by character.  Another one is matched octet by octet, since RE2 would take
    what is no character for the end of everything.  C{\\xe4} is the same letter in both, in UTF-8 and in Latin-1.
    """

    def __init__(self, characters: Regexp, octets: Regexp) -> None:
        self._characters, self._octets = characters, octets

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self._characters.groups

    @property
    def groupindex(self) -> Mapping[bytes, int]:
        """The numbers of the groups that have names."""
        return self._characters.groupindex

    def subn(self, replacement: Callable[[Match], bytes], text: bytes, count: int = 0) -> tuple[bytes, int]:
        """
        Replace matches.

        @param count: how many at the most; 0: all.
        @return: the text after that, and how many were replaced.
        """
        return (self._characters if _isUtf8(text) else self._octets).subn(replacement, text, count)


def _isUtf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def isInstalled() -> bool:
    """Return whether RE2 is installed."""
    try:
        import re2  # noqa: F401
    except ImportError:
        return False
    return True


def linearRegex(expression: bytes) -> LinearRegex:
    """
    Compile an expression of RE2, for octets.

    @raise ValueError: it is none, such as one that refers back to a group or looks ahead; or it is too large; or RE2 is
        not installed.
    """
    try:
        # Only those who use such a rule need the library: it has no wheel for some platforms.
        import re2
    except ImportError:
        raise ValueError("regular expressions need the library google-re2: pip install 'castd[rewrite]'") from None
    characters, octets = _options(re2.Options()), _options(re2.Options())
    octets.encoding = re2.Options.Encoding.LATIN1
    try:
        return LinearRegex(re2.compile(expression, characters), re2.compile(expression, octets))
    except re2.error as error:
        (why,) = error.args
        raise ValueError(why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)) from None


def _options(made: Options) -> Options:
    made.log_errors = False
    made.max_mem = MAX_MEMORY
    return made
