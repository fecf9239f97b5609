"""
Compile regular expressions that are matched in linear time, by RE2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from re2 import Match, Regexp
else:
    Match = Regexp = object

__all__ = ["Match", "Regexp", "linearRegex"]

#: Octets of the largest compiled expression, with what is kept of its states: ten thousand steps, each of which may be
#: looked at for each octet of a name.
MAX_MEMORY = 1 << 18


def linearRegex(expression: bytes) -> Regexp:
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
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        (why,) = error.args
        raise ValueError(why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)) from None
