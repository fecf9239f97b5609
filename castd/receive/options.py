"""
What a client asks for in its request, and whether what the server grants is what was asked (RFC 2347).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from castd.errors import Refused
from castd.packets.options import AgreedOptions, number
from castd.packets.tftp import LARGEST_BLKSIZE, Options


class BadOffer(Refused):
    """An OACK that grants what was not asked for, or more than that: ERROR 8 ends the transfer (RFC 2347)."""

    code = 8
    text = "Option negotiation failed"


@dataclass(frozen=True, slots=True)
class RequestedOptions:
    """
    The options of a request; what is L{None} is not asked for.

    @ivar blksize: octets, 8 to 65464 (RFC 2348).
    @ivar windowsize: blocks, 1 to 65535 (RFC 7440).
    @ivar tsize: ask for the size, or tell it in a write (RFC 2349).
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
        -> the options as they go into a request.

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
        -> what is agreed on by this OACK.

        @raise BadOffer: it grants an option that was not asked for, or another value than may be granted.
        """
        asked = {name for name, _ in self.options()}
        terms = AgreedOptions()
        for name, text in answer:
            kind, value = name.lower(), number(text)
            if kind not in asked:
                raise BadOffer(why=f"the server grants {kind!r}, which was not asked for")
            if value is None or not _GRANTABLE[kind](self, value):
                raise BadOffer(why=f"the server grants {kind} {text!r}, which is not what was asked for")
            agreed: dict[str, Any] = {kind: float(value) if kind == "timeout" else value}
            terms = replace(terms, **agreed)
        return terms


_GRANTABLE: dict[str, Callable[[RequestedOptions, int], bool]] = {
    "blksize": lambda requested, value: 8 <= value <= min(requested.blksize or 0, LARGEST_BLKSIZE),
    "windowsize": lambda requested, value: 1 <= value <= (requested.windowsize or 0),
    "timeout": lambda requested, value: value == requested.timeout,
    "rollover": lambda requested, value: value == requested.rollover,
    "tsize": lambda requested, value: True,
}
