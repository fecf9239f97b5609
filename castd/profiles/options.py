"""
Define what the service file says of clients that need to be treated differently: its section C{profiles}.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator
from pydantic.functional_validators import AfterValidator

from castd.files.mapping import RewriteOptions
from castd.files.names import Patterns
from castd.machines.options import Architecture, MacBeginning
from castd.options import Clients, Duration, PortRange, Settings

#: What firmware takes for a part of a name, and no name has: control octets, but for the zero behind a name, and the
#: end of DHCP's options, octet 0xff as it is read from UTF-8 with surrogate escapes.
CONTROL = "".join(map(chr, range(1, 32))) + "\x7f"
DHCP_END = "\udcff"

#: The most profiles of a service file: each has a label in the metrics.
MOST_PROFILES = 200

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_SHAPE = re.compile(r"([!-<>@-~]{1,64})(\?)?(?:=([ -~]{0,64}))?", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)


class OptionShape(NamedTuple):
    """
    Describes one option of a request.

    @ivar name: its name, letter for letter.
    @ivar optional: the request may lack it.
    @ivar value: its value, letter for letter; L{None}: any.
    @ivar numbers: the least and the greatest number that its value may be; L{None}: as C{value} says.
    """

    name: str
    optional: bool = False
    value: str | None = None
    numbers: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> OptionShape:
        """
        Read C{tsize}, C{tsize=0}, C{blksize=513-1468} or, for what may be absent, C{windowsize?=4}.

        @raise ValueError: it is none of these.
        """
        found = _SHAPE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no option: write it as blksize, blksize=1468, blksize=513-1468 or blksize?")
        name, mark, value = found.groups()
        between = _RANGE.fullmatch(value or "")
        if between is None:
            return cls(name, mark is not None, value)
        least, most = int(between[1]), int(between[2])
        if least > most:
            raise ValueError(f"{text!r} ends before it begins: did you mean {name}={most}-{least}?")
        return cls(name, mark is not None, None, (least, most))


def _shape(text: str) -> str:
    OptionShape.parse(text)
    return text


class MatchOptions(Settings):
    """Which requests a profile is for: those that fit all that is said here."""

    like: str | None = Field(None, description="requests that look like those of this client: one of castd's profiles")
    clients: Clients | None = Field(None, description="networks of the clients")
    names: tuple[str, ...] | None = Field(
        None, description='names as they are asked for: "*.efi" in any directory, "images/**" all beneath'
    )
    options: tuple[Annotated[str, AfterValidator(_shape)], ...] | None = Field(
        None,
        description="all options of the request in their order, letter for letter: tsize, tsize=0, blksize=513-1468,"
        " and windowsize? for one that may be absent; []: none",
    )
    asks: tuple[str, ...] | None = Field(None, description="options that are among those of the request, in any order")
    mode: str | None = Field(None, description="the mode, letter for letter: octet, OCTET")
    ports: PortRange | None = Field(None, description="ports that the clients ask from")
    use: Literal["read", "write"] | None = Field(None, alias="for", description="read or write; both if not given")
    transports: tuple[str, ...] | None = Field(
        None, description="names of the transports that read the request; all of the TFTP family if not given"
    )
    mac: tuple[MacBeginning, ...] | None = Field(
        None, description="what the MACs of the machines begin with, as far as they are known: 52:54:00"
    )
    arch: tuple[Architecture, ...] | None = Field(
        None, description="architectures of the machines, as far as they are known: efi-x64"
    )

    @field_validator("names", "asks", "transports", "mac", "arch")
    @classmethod
    def _notEmpty(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if given == ():
            raise ValueError("an empty list matches nothing: leave it out to match all")
        return given

    @field_validator("names")
    @classmethod
    def _patterns(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        Patterns(given or ())
        return given

    @field_validator("mode")
    @classmethod
    def _served(cls, mode: str | None) -> str | None:
        if mode is not None and mode.lower() not in ("octet", "netascii", "binary"):
            raise ValueError(f"{mode!r} is served to nobody: it should be octet, netascii or binary, in any case")
        return mode

    @model_validator(mode="after")
    def _saysSomething(self) -> MatchOptions:
        if not self.model_fields_set or all(getattr(self, each) is None for each in self.model_fields_set):
            raise ValueError("it would match every request: say which, such as {clients: 10.9.0.0/16}")
        return self

    @property
    def shapes(self) -> tuple[OptionShape, ...] | None:
        """The options, read."""
        return None if self.options is None else tuple(map(OptionShape.parse, self.options))


class ProfileOptions(Settings):
    """One profile: clients, and what is done differently for them."""

    name: str = Field(description="a name for the log, the metrics and castd explain")
    match: MatchOptions = Field(description="which requests it is for: those that fit all that is said")
    blksize: int | None = Field(None, ge=8, le=65464, description="largest block size granted; null: as to all others")
    windowsize: int | None = Field(None, ge=1, le=4096, description="largest window granted; null: as to all others")
    timeout: Duration | None = Field(
        None, ge=0.01, le=255, description="a longer timeout or utimeout is not granted; null: as to all others"
    )
    without: tuple[str, ...] = Field((), description="names of options that are not granted")
    oack: bool = Field(True, description="false: no option is granted, so DATA or ACK is the first answer, never OACK")
    rollover: int | None = Field(
        None, ge=0, le=1, description="number of the block after 65535, where the client does not ask for one"
    )
    junk: bool = Field(False, description="true: the name ends before octet 0xff and before control octets at its end")
    rewrite: tuple[RewriteOptions, ...] = Field(
        (), description="rules that mend the name, before access rules and sources see it"
    )
    end: bool = Field(False, description="where it matches, the profiles behind it are not applied")

    @field_validator("name")
    @classmethod
    def _label(cls, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name: small letters, digits and '-', at most 40")
        return name

    @field_validator("rewrite")
    @classmethod
    def _noWords(cls, rules: tuple[RewriteOptions, ...]) -> tuple[RewriteOptions, ...]:
        for each in rules:
            if words := sorted(each.rule.words):
                raise ValueError(f"{{{words[0]}}} is not known here: use it in the rewrite rules of a directory")
        return rules


class ProfilesOptions(Settings):
    """Clients that need to be treated differently: castd's own list, and more."""

    stock: bool = Field(True, description="use castd's own profiles of known clients; false: none of them")
    without: tuple[str, ...] = Field(
        (), alias="except", description="names of profiles of castd's own that are not used"
    )
    own: tuple[ProfileOptions, ...] = Field(
        (), max_length=MOST_PROFILES, description="more profiles, asked before castd's own"
    )
