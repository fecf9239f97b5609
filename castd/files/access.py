"""
Decide by access rules who may read and write which files.  The first rule that matches decides; without one the request
is denied.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Literal

from pydantic import Field, field_validator, model_validator

from castd.errors import Forbidden, Refused
from castd.files import names
from castd.files.names import Patterns
from castd.networks import Networks, viewpoints
from castd.options import AnyNetwork, Clients, Settings

#: How many clients the rules are cached for.
_REMEMBERED = 8192


class Rule(Settings):
    """One rule: C{{allow: 10.0.0.0/8, names: ["*.efi"], for: read}}."""

    allow: Clients | None = Field(None, description="clients that may: any, a network, or a list of them")
    deny: Clients | None = Field(None, description="clients that may not")
    names: tuple[str, ...] | None = Field(
        None, description='names it is about: "*.efi" in any directory, "images/**" all beneath; all names if not given'
    )
    use: Literal["read", "write"] | None = Field(None, alias="for", description="read or write; both if not given")

    @field_validator("names")
    @classmethod
    def _patterns(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if given is not None:
            if not given:
                raise ValueError("an empty list matches no name: leave it out to match all")
            Patterns(given)
        return given

    @model_validator(mode="after")
    def _oneWord(self) -> Rule:
        if (self.allow is None) == (self.deny is None):
            raise ValueError("a rule says either allow or deny")
        return self


class Rules:
    """
    Decides by L{Rule}s for each request.

    Names are matched as clients send them, with slashes normalized and case ignored, before a directory strips or
    rewrites them.  A file may have several names (by a prefix that is stripped, a rewrite rule, a link): to deny one of
    them does not protect it.  Rules that allow do, and the C{networks} of its directory.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = tuple(rules)
        self.networks = tuple(network for rule in rules for network in rule.allow or rule.deny or ())
        # Not a method: by the cycle of references it would outlive a reload, with its cache.
        self._rulesFor = lru_cache(_REMEMBERED)(partial(_rulesFor, tuple(map(_CompiledRule, rules))))

    def allowAny(self, networks: Iterable[AnyNetwork], name: str) -> bool:
        """Return whether any address of these networks may read the file of this name."""
        for host in viewpoints(networks, self.networks):
            with suppress(Refused):
                self.check(host, name)
                return True
        return False

    def check(self, host: str, name: str, write: bool = False) -> None:
        """
        Check that this client may read (or write) the file of this name.

        @param host: the client's numeric address.
        @raise Forbidden: it may not.
        @raise Refused: the name is malformed, as L{castd.files.names.parts}.
        """
        plain = ""
        for rule in self._rulesFor(host, write):
            if rule.names is not None:
                plain = plain or names.text(names.parts(name))
                if plain not in rule.names:
                    continue
            if rule.allows:
                return
            raise Forbidden(why="denied by an access rule")
        raise Forbidden(why="allowed by no access rule")


def _rulesFor(rules: tuple[_CompiledRule, ...], host: str, write: bool) -> tuple[_CompiledRule, ...]:
    """Return the rules that can apply to a client: those for its network, up to the first one for all names."""
    found: list[_CompiledRule] = []
    for rule in rules:
        if host in rule.networks and rule.write in (None, write):
            found.append(rule)
            if rule.names is None:
                break
    return tuple(found)


class _CompiledRule:
    """
    Holds one rule in the form in which it is applied.

    @ivar allows: the rule allows; C{False}: it denies.
    @ivar networks: the clients that it applies to.
    @ivar names: the names that it applies to; L{None}: all.
    @ivar write: it applies to uploads; C{False}: to downloads; L{None}: to both.
    """

    __slots__ = ("allows", "names", "networks", "write")

    def __init__(self, rule: Rule) -> None:
        self.allows = rule.allow is not None
        self.networks = Networks(rule.allow or rule.deny or ())
        self.names = None if rule.names is None else Patterns(rule.names)
        self.write = None if rule.use is None else rule.use == "write"
