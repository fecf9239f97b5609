"""
Negotiate TFTP's options: those of RFC 2347, 2348, 2349 and 7440, and three without an RFC.

An option that cannot be granted is left out of the OACK; it is never answered with ERROR 8, at which clients give up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias, TypedDict

from castd.packets.tftp import LARGEST_BLKSIZE, Options
from castd.request import Quirks, Request

DEFAULT_BLKSIZE = 512


@dataclass(frozen=True, slots=True)
class OptionLimits:
    """
    Bounds what the server grants.

    @ivar blksize: octets of the largest block.
    @ivar windowsize: blocks of the largest window.
    @ivar refuse: names of options, in lower case, that are not granted.
    @ivar timeout: the longest interval, seconds.
    @ivar rollover: the number of the block after 65535, where none is negotiated.
    """

    blksize: int = 1468
    windowsize: int = 64
    refuse: frozenset[str] = frozenset()
    timeout: float = 255.0
    rollover: int = 0

    def within(self, quirks: Quirks) -> OptionLimits:
        """Return the limits for a client that profiles treat differently."""
        return replace(
            self,
            blksize=self.blksize if quirks.blksize is None else min(self.blksize, quirks.blksize),
            windowsize=self.windowsize if quirks.windowsize is None else min(self.windowsize, quirks.windowsize),
            timeout=self.timeout if quirks.timeout is None else min(self.timeout, quirks.timeout),
            refuse=self.refuse | quirks.refuse,
            rollover=quirks.rollover,
        )


@dataclass(frozen=True, slots=True)
class AgreedOptions:
    """
    Holds the options that client and server have agreed on.

    @ivar blksize: octets of a full block.
    @ivar windowsize: blocks that are sent without waiting for an ACK.
    @ivar timeout: seconds, or L{None}: not negotiated.
    @ivar rollover: the block number after 65535.
    @ivar tsize: octets that the client has announced in a write; L{None}: unknown.
    @ivar answer: the options of the OACK, with the names as in the request; empty: there is no OACK.
    """

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    timeout: float | None = None
    rollover: int = 0
    tsize: int | None = None
    answer: Options = ()


def number(text: str) -> int | None:
    """
    Parse a number of 1 to 20 ASCII digits, without sign, blank, hex or fraction.

    @return: L{None} for anything else.
    """
    return int(text) if 1 <= len(text) <= 20 and text.isascii() and text.isdigit() else None


def negotiate(request: Request, caps: OptionLimits, size: int | None = None) -> AgreedOptions:
    """
    Agree on the options that a request asks for.

    @param caps: the most that is granted.
    @param size: octets of the file in a read; L{None} in a write.
    @return: the agreed options; C{answer} has the block size first, since some versions of U-Boot find it only there.
    """
    if request.quirks is not None:
        caps = caps.within(request.quirks)
    return agree(known(request.options), caps, request.mode, size, request.write)


def known(options: Options) -> Options:
    """Return the options that can be granted: of all others nothing is kept, so nobody fills the memory with them."""
    return tuple([option for option in options if option[0].lower() in KNOWN])


@lru_cache(256)
def agree(options: Options, caps: OptionLimits, mode: str, size: int | None, write: bool = False) -> AgreedOptions:
    """
    Agree on options, as L{negotiate}.  The result is kept, as many machines of one type send the same ones.

    @param options: those that are L{known}.
    @param caps: the most that is granted to the client, profiles considered.
    @param mode: C{"octet"} or C{"netascii"}.
    """
    context = _Context(caps, write, mode, size)
    agreed: _Terms = {"rollover": caps.rollover}
    granted: list[tuple[str, str]] = []
    taken: set[str] = set()
    for name, text in options:
        kind = name.lower()
        rule, family = _RULES.get(kind, (None, ""))
        if rule is None or family in taken or kind in caps.refuse:
            continue
        grant = rule(text, context)
        if grant is None:
            continue
        taken.add(family)
        agreed.update(grant[0])
        granted.append((name, grant[1]))
    granted.sort(key=lambda option: option[0].lower() not in ("blksize", "blksize2"))
    return AgreedOptions(**agreed, answer=tuple(granted))


@dataclass(frozen=True, slots=True)
class _Context:
    caps: OptionLimits
    write: bool
    mode: str
    size: int | None


class _Terms(TypedDict, total=False):
    blksize: int
    windowsize: int
    timeout: float
    rollover: int
    tsize: int | None


#: What an option adds to the terms, and its value in the OACK.
_Grant: TypeAlias = tuple[_Terms, str]
_Rule: TypeAlias = Callable[[str, _Context], _Grant | None]


def _blksize(text: str, context: _Context) -> _Grant | None:
    wish = number(text)
    if wish is None or wish < 8:
        return None
    value = min(wish, LARGEST_BLKSIZE, context.caps.blksize)
    return {"blksize": value}, str(value)


def _blksize2(text: str, context: _Context) -> _Grant | None:
    wish = number(text)
    if wish is None or wish < 8:
        return None
    value = 1 << min(wish, 32768, context.caps.blksize).bit_length() - 1
    return {"blksize": value}, str(value)


def _timeout(text: str, context: _Context) -> _Grant | None:
    wish = number(text)
    if wish is None or not 1 <= wish <= context.caps.timeout:
        return None
    return {"timeout": float(wish)}, str(wish)


def _utimeout(text: str, context: _Context) -> _Grant | None:
    wish = number(text)
    if wish is None or not 10_000 <= wish <= context.caps.timeout * 1e6:
        return None
    return {"timeout": wish / 1e6}, str(wish)


def _tsize(text: str, context: _Context) -> _Grant | None:
    if context.write:
        wish = number(text)
        # curl sends 0 if it does not know the size.
        return None if wish is None else ({"tsize": wish or None}, str(wish))
    # The size is answered whatever the value was: U-Boot sends that of its last transfer, Etherboot an empty one.  It
    # is not answered for an empty file, since curl and Etherboot refuse 0; nor in netascii, where the size on the wire
    # differs from the file's.
    if context.mode != "octet" or not context.size:
        return None
    return {}, str(context.size)


def _windowsize(text: str, context: _Context) -> _Grant | None:
    wish = number(text)
    if wish is None or not 1 <= wish <= 65535:
        return None
    value = min(wish, context.caps.windowsize)
    return {"windowsize": value}, str(value)


def _rollover(text: str, context: _Context) -> _Grant | None:
    wish = number(text)
    if wish not in (0, 1):
        return None
    return {"rollover": wish}, str(wish)


#: The rule of each option, and its family: of one family only the first accepted option counts.
_RULES: dict[str, tuple[_Rule, str]] = {
    "blksize": (_blksize, "size of a block"),
    "blksize2": (_blksize2, "size of a block"),
    "timeout": (_timeout, "interval"),
    "utimeout": (_utimeout, "interval"),
    "tsize": (_tsize, "tsize"),
    "windowsize": (_windowsize, "windowsize"),
    "rollover": (_rollover, "rollover"),
}

#: The names of the options that can be granted, in lower case.
KNOWN = frozenset(_RULES)
