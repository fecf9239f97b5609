"""
Turn the names that clients ask for into paths beneath a directory, as the service file says: C{strip}, C{rewrite},
C{under}, and words in braces that stand for what is known of a machine (L{castd.machines.words}).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, PlainValidator, ValidationInfo, WithJsonSchema, field_validator, model_validator
from pydantic.functional_serializers import PlainSerializer

from castd.errors import NotFound, Refused
from castd.files import names, partial
from castd.files.spelling import withoutCase
from castd.machines.known import KnownMachine
from castd.machines.words import FOUND_OUT, Pieces, fill, parse, wordsOf
from castd.networks import Networks
from castd.options import Clients, Settings, clients, resolve
from castd.request import Peer


def escape(text: str) -> str:
    """Write a text so that no brace in it begins a word."""
    return text.replace("{", "{{").replace("}", "}}")


def _resolve(text: object, info: ValidationInfo) -> Path:
    """Read a path with words; a relative one is relative to the folder of the service file, which has no words."""
    path = Path(parsed(str(resolve(text, info, escape))))
    if any(wordsOf(parse(part)) for part in path.parts[:1]):
        raise ValueError(f"{path}: it has to begin with a directory that is there for everybody")
    return path


def parsed(text: str) -> str:
    """Return a text as it is.  @raise ValueError: a word in it is unknown."""
    parse(text)
    return text


#: A path with words; a brace itself is written twice.
WordPath = Annotated[
    Path,
    PlainValidator(_resolve),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "path", "examples": ["/srv/boot"]}),
]


class RewriteOptions(Settings):
    """One rule that changes the names asked for."""

    pattern: str = Field(
        alias="from", description="regular expression (RE2), searched for in the name (no leading slash)"
    )
    to: str = Field(description="what its match becomes; \\1 is the first group, {mac} the machine's address")
    every: bool = Field(False, description="replace every match in a name; false: the first")
    end: bool = Field(False, description="if it matches, the rules behind it are not applied")

    @model_validator(mode="after")
    def _compiles(self) -> RewriteOptions:
        self.rule  # noqa: B018
        return self

    @cached_property
    def rule(self) -> names.Rewrite:
        """
        The rule, compiled once, where the file is read: not when it is put in force, while all transfers wait.

        @raise ValueError: C{from} is no regular expression, or C{to} refers to a group that it does not have.
        """
        return names.Rewrite.compile(self.pattern, self.to, self.every, self.end)


class MappedOptions(Settings):
    """The options by which a directory finds its files; subclasses say what they are for."""

    path: WordPath
    under: str = ""
    strip: tuple[str, ...] = ()
    rewrite: tuple[RewriteOptions, ...] = ()
    networks: Clients = clients("any")

    @field_validator("under")
    @classmethod
    def _name(cls, under: str) -> str:
        parts = names.prefix(under)
        for part in parts:
            parse(_text(part))
        return names.text(parts)

    @field_validator("strip")
    @classmethod
    def _names(cls, strip: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.text(names.prefix(each)) for each in strip)

    @property
    def base(self) -> Path:
        """The directory that is there for everybody: the path, as far as no word stands in it."""
        return _divided(self.path)[0]


def _divided(path: Path) -> tuple[Path, tuple[Pieces, ...]]:
    """Return the directories before the first one with a word, and the others cut at their words."""
    cut = [parse(part) for part in path.parts]
    fixed = next((place for place, pieces in enumerate(cut) if wordsOf(pieces)), len(cut))
    return Path(*(fill(pieces, {}) or "" for pieces in cut[:fixed])), tuple(cut[fixed:])


def _text(part: bytes) -> str:
    return part.decode("utf-8", "surrogateescape")


class NameMap:
    """
    Finds the path of a file from the name that a client asks for.

    @ivar words: the words in its options.
    @ivar plain: the parts of a name are those of the path, for every client: L{isFor} need not be asked.
    """

    def __init__(self, options: MappedOptions) -> None:
        _, self._above = _divided(options.path)
        self._under = tuple(parse(_text(part)) for part in names.prefix(options.under))
        self._strip = tuple(map(names.prefix, options.strip))
        self._rules = tuple(each.rule for each in options.rewrite)
        self._networks = Networks(options.networks) if options.networks != clients("any") else None
        found = [wordsOf(pieces) for pieces in (*self._above, *self._under)]
        self.words = frozenset[str]().union(*found, *(rule.words for rule in self._rules))
        # Most directories have no words, and their names need no values.
        self._fixed = None if self.words else tuple(_octets(fill(pieces, {}) or "") for pieces in self._under)
        self.plain = not (self._networks or self._strip or self._rules or self._under or self._above)

    @property
    def byMachine(self) -> bool:
        """Whether a value is needed that has to be found out."""
        return bool(self.words & FOUND_OUT)

    def isFor(self, peer: Peer) -> bool:
        """Return whether a client is in the networks that the directory is for."""
        return self._networks is None or peer[0] in self._networks

    def parts(self, name: str, machine: KnownMachine, seen: names.Seen | None = None) -> names.Parts:
        """
        Return the parts of the file's path, from the L{base<MappedOptions.base>} downwards.

        @param seen: called with each step; nothing is called for a request that is served.
        @raise Refused: as L{names.parts<castd.files.names.parts>}; NotFound also if the name is not C{under} it, or the
            value of a word is not known.
        """
        if self.plain:
            return names.parts(name)
        found = self.renamed(name, machine, seen)
        under = self.under(machine)
        if under:
            found = names.beneath(found, under)
            if seen is not None:
                seen("under", names.text(found))
        if self._above:
            found = _filled(self._above, machine.values) + found
        return found

    def locate(self, base: str, name: str, machine: KnownMachine) -> str:
        """Return the path of a file in this base; C{""}: it does not belong there, or too little is known."""
        try:
            return f"{base}/{names.text(self.parts(name, machine))}"
        except Refused:
            return ""

    def under(self, machine: KnownMachine) -> names.Parts:
        """Return what names begin with.  @raise NotFound: the value of a word is not known."""
        return self._fixed if self._fixed is not None else _filled(self._under, machine.values)

    def mayHave(self, name: str) -> bool:
        """Return whether a name may be one of some machine: C{under} what it has to be, as far as that is known."""
        if self._rules:
            return True
        try:
            found = names.strip(names.parts(name), self._strip)
        except Refused:
            return False
        named = zip(self._under, found, strict=False)
        return len(found) > len(self._under) and all(
            wordsOf(pieces) or _octets(fill(pieces, {}) or "") == part for pieces, part in named
        )

    def renamed(self, name: str, machine: KnownMachine, seen: names.Seen | None = None) -> names.Parts:
        """Return the name after C{strip} and C{rewrite}.  @raise Refused: as L{parts}."""
        # Rules see what the client has sent, however wrong: to mend it is what they may be for.
        found = names.split(name) if self._rules else names.parts(name)
        if self._strip:
            found = names.strip(found, self._strip)
            if seen is not None:
                seen("strip", names.text(found))
        if self._rules:
            found = names.rewrite(found, self._rules, machine.values if self.words else {}, seen)
        return found


def isUnfinished(parts: names.Parts) -> bool:
    """
    Return whether this is the path of an upload that is not complete, which no client may touch, in any spelling by
    which a directory that ignores case would find it.
    """
    return partial.NAME.fullmatch(_octets(withoutCase(_text(parts[-1])))) is not None


def _filled(texts: tuple[Pieces, ...], values: Mapping[str, str]) -> names.Parts:
    """
    Put values in the place of words.

    @raise NotFound: a value is not known.
    """
    found = []
    for pieces in texts:
        part = fill(pieces, values)
        if part is None:
            missing = ", ".join(sorted(word for word in wordsOf(pieces) if word not in values))
            raise NotFound(why=f"{missing} is not known of this machine")
        found.append(_octets(part))
    return tuple(found)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
