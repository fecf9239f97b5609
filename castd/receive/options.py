"""
Writes the options of a client's request, and checks the options that the server grants (RFC 2347).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from castd.errors import Refused
from castd.packets.options import AgreedOptions, number
from castd.packets.tftp import LARGEST_BLKSIZE, Options


class BadOffer(Refused):
    """The error that an OACK grants an option that was not asked for, or a larger value; sent as ERROR 8 (RFC 2347)."""

    code = 8
    text = "Option negotiation failed"


@dataclass(frozen=True, slots=True)
class RequestedOptions:
    """
    The options that a client asks for; an option that is L{None} is not asked for.

    @ivar blksize: octets, 8 to 65464 (RFC 2348).
    @ivar windowsize: blocks, 1 to 65535 (RFC 7440).
    @ivar tsize: ask for the size in a read, announce it in a write (RFC 2349).
    @ivar timeout: seconds, 1 to 255 (RFC 2349).  A server then repeats at that interval, so it is better not asked for.
    @ivar rollover: the number after block 65535, 0 or 1.
    """

    blksize: int | None = None
    windowsize: int | None = None
    tsize: bool = True
    timeout: int | None = None
    rollover: int | None = None

    def options(self, size: int = 0) -> Options:
        """
        Return the options as they are written in a request.

        @param size: octets of the file in a write; 0 in a read.
        """
        asked = {
            "blksize": self.blksize,
            "windowsize": self.windowsize,
            "tsize": size if self.tsize else None,
            "timeout": self.timeout,
            "rollover": self.rollover,
        }
        return tuple((name, str(value)) for name, value in asked.items() if value is not None)

    def agree(self, answer: Options) -> AgreedOptions:
        """
        Return the terms of a transfer that is opened by an OACK with these options.

        @raise BadOffer: the OACK grants an option that was not asked for, or a value that may not be granted.
        """
        asked = {name for name, _ in self.options()}
        terms = AgreedOptions()
        for name, text in answer:
            kind, value = name.lower(), number(text)
            if kind not in asked:
                raise BadOffer(why=f"the server grants {kind!r}, which was not asked for")
            grantable, adopt = _RULES[kind]
            if value is None or not grantable(self, value):
                raise BadOffer(why=f"the server grants {kind} {text!r}, which is not what was asked for")
            terms = adopt(terms, value)
        return terms


#: Of an option: a function that tells whether this value may be granted, and one that returns the terms with it.
_Rule: TypeAlias = tuple[
    Callable[[RequestedOptions, int], bool],
    Callable[[AgreedOptions, int], AgreedOptions],
]

_RULES: dict[str, _Rule] = {
    "blksize": (
        lambda requested, value: 8 <= value <= min(requested.blksize or 0, LARGEST_BLKSIZE),
        lambda terms, value: replace(terms, blksize=value),
    ),
    "windowsize": (
        lambda requested, value: 1 <= value <= (requested.windowsize or 0),
        lambda terms, value: replace(terms, windowsize=value),
    ),
    "timeout": (
        lambda requested, value: value == requested.timeout,
        lambda terms, value: replace(terms, timeout=float(value)),
    ),
    "rollover": (
        lambda requested, value: value == requested.rollover,
        lambda terms, value: replace(terms, rollover=value),
    ),
    "tsize": (
        lambda requested, value: True,
        lambda terms, value: replace(terms, tsize=value),
    ),
}
