"""
Decide by access rules who may read and write which files.  The first rule that matches decides; without one the request
is denied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from operator import itemgetter
from typing import Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from castd.errors import Denied, Refused
from castd.files import names
from castd.files.names import Patterns
from castd.networks import NetworkMap, viewpoints
from castd.options import AnyNetwork, Clients, Settings, clients

#: How many clients the rules are cached for.
_REMEMBERED = 8192
#: Where in a name a text is to be found: in the whole name, or else its last part; at the end, or else at the
#: beginning; and its length.
_Place: TypeAlias = tuple[bool, bool, int]
#: The number of no rule.
NONE = float("inf")
_ANYBODY = clients("any")
#: Letters that are equal to one of ASCII if case is ignored, as regular expressions do, and C{str.lower} does not.
_FOLDED = {0x130: "i", 0x131: "i", 0x17F: "s", 0x212A: "k"}


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
    rewrites them; of a name with control octets only what is before the first one.  A file may have several names (by a
    prefix that is stripped, a rewrite rule, a link): to deny one of them does not protect it.  Rules that allow do, and
    the C{networks} of its directory.

    Rules are found by the client's networks, then by the name; only patterns that no table can have are tried one by
    one (L{_NameTable}).  So ten thousand rules for as many machines or files cost about what a few do.

    @ivar openToRead: everybody may read every file, and L{check} need not be called for a read.
    """

    def __init__(self, rules: Iterable[Rule], places: Sequence[str] = ()) -> None:
        """@param places: C{file:line} of each rule; C{()}: not known."""
        rules = tuple(rules)
        self._places = tuple(places)
        self.networks = tuple(network for rule in rules for network in rule.allow or rule.deny or ())
        self._allows: list[bool] = []
        tables = {False: _ClientTables(), True: _ClientTables()}
        # Not a method: by the cycle of references it would outlive a reload, with its cache.
        self._tablesFor = lru_cache(_REMEMBERED)(partial(_tablesFor, tables))
        for number, rule in enumerate(rules):
            self._allows.append(rule.allow is not None)
            for write, table in tables.items():
                if rule.use is None or (rule.use == "write") is write:
                    table.add(number, rule)
        alike = tables[False].forAll
        self.openToRead = alike is not None and self._allows[alike]

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
        @raise Denied: it may not.
        @raise Refused: the name is malformed, as L{castd.files.names.parts}.
        """
        found = self.deciding(host, name, write)
        if found is None:
            raise Denied("allowed by no access rule")
        if not self._allows[found]:
            place = self._places[found] if self._places else ""
            raise Denied(f"denied by the access rule at {place}" if place else "denied by an access rule", place)

    def deciding(self, host: str, name: str, write: bool = False) -> int | None:
        """
        Return the number of the rule that decides, counted from 0; L{None}: none matches.

        @raise Refused: the name is malformed, as L{castd.files.names.parts}.
        """
        tables, found = self._tablesFor(host, write)
        if tables:
            plain = names.text(names.parts(names.beforeControl(name) or name))
            for table in tables:
                found = table.first(plain, found)
        return None if found == NONE else int(found)


def _tablesFor(tables: dict[bool, _ClientTables], host: str, write: bool) -> tuple[tuple[_NameTable, ...], float]:
    """
    Return the tables that names are to be looked up in for a client, and the number of the first rule for all names.
    """
    found = tables[write].containing(host)
    everything = min(table.everything for table in found)
    return tuple(table for table in found if table.firstNamed < everything), everything


class _ClientTables:
    """Holds the rules for reading, or those for writing, by the clients that they are about."""

    def __init__(self) -> None:
        self._anybody = _NameTable()
        self._byNetwork: NetworkMap[_NameTable] | None = None

    def add(self, number: int, rule: Rule) -> None:
        """Add a rule, whose number is higher than those before."""
        networks = rule.allow or rule.deny or ()
        if networks == _ANYBODY:
            self._anybody.add(number, rule.names)
            return
        if self._byNetwork is None:
            self._byNetwork = NetworkMap()
        for network in networks:
            self._byNetwork.setdefault(network, _NameTable()).add(number, rule.names)

    def containing(self, host: str) -> list[_NameTable]:
        """Return the tables of the rules that are about a client."""
        return [self._anybody, *(() if self._byNetwork is None else self._byNetwork.containing(host))]

    @property
    def forAll(self) -> int | None:
        """The number of the rule that decides for all clients and all names; L{None}: that depends on either."""
        anybody = self._anybody
        alike = self._byNetwork is None and anybody.everything < anybody.firstNamed
        return int(anybody.everything) if alike else None


class _NameTable:
    """
    Holds the rules for one network, and finds the first one for a name.

    Tables have the patterns that most rules use: a name (C{pxelinux.0}), a name with its directories (C{boot/x}), the
    beginning or the end of a name (C{01-52-54-*}, C{*.efi}), all beneath a directory (C{images/**}).  Of others those
    are tried, in the order of their rules, whose plain beginning or end is that of the name.

    @ivar everything: the number of the first rule for all names; L{NONE}: there is none.
    @ivar firstNamed: the number of the first rule for certain names.
    """

    __slots__ = ("_beginnings", "_beneath", "_ends", "_last", "_others", "_whole", "everything", "firstNamed")

    def __init__(self) -> None:
        self.everything = self.firstNamed = NONE
        self._whole: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._beneath: dict[str, int] = {}
        # By the length of the beginning or end.
        self._beginnings: dict[int, dict[str, int]] = {}
        self._ends: dict[int, dict[str, int]] = {}
        self._others: dict[_Place, dict[str, list[tuple[int, Patterns]]]] = {}

    def add(self, number: int, patterns: Iterable[str] | None) -> None:
        """Add a rule, whose number is higher than those before; L{None}: it is for all names."""
        if number > self.everything:
            return  # it is never reached
        if patterns is None:
            self.everything = number
            return
        self.firstNamed = min(self.firstNamed, number)
        for pattern in patterns:
            table, key = self._tableOf(pattern)
            if table is None:
                place, text = _plainPart(pattern)
                self._others.setdefault(place, {}).setdefault(text, []).append((number, Patterns([pattern])))
            else:
                table.setdefault(key, number)

    def _tableOf(self, pattern: str) -> tuple[dict[str, int] | None, str]:
        """Return the table that a pattern belongs to, and its key there; L{None}: it is to be tried."""
        body, anywhere = pattern.removeprefix("/"), "/" not in pattern
        key = body.lower()
        special = [place for place, letter in enumerate(body) if letter in "*?["]
        if not body.isascii():
            return None, ""
        if not special:
            return (self._last if anywhere else self._whole), key
        if not anywhere and body.endswith("/**") and special[0] == len(body) - 2:
            return self._beneath, key[:-3]
        if anywhere and special == [0] and body[0] == "*":
            return self._ends.setdefault(len(key) - 1, {}), key[1:]
        if anywhere and special == [len(body) - 1] and body[-1] == "*":
            return self._beginnings.setdefault(len(key) - 1, {}), key[:-1]
        return None, ""

    def first(self, name: str, before: float) -> float:
        """
        Find the first rule that a name matches.

        @param name: with single slashes, and none at the beginning.
        @param before: return this number if no rule before it matches.
        """
        folded = name.lower() if name.isascii() else name.translate(_FOLDED).lower()
        last = folded[folded.rfind("/") + 1 :]
        found = min(before, self._whole.get(folded, NONE), self._last.get(last, NONE))
        if self._beneath:
            at = folded.find("/")
            while at > 0:
                found = min(found, self._beneath.get(folded[:at], NONE))
                at = folded.find("/", at + 1)
        for length, beginnings in self._beginnings.items():
            if length <= len(last):
                found = min(found, beginnings.get(last[:length], NONE))
        for length, ends in self._ends.items():
            if length <= len(last):
                found = min(found, ends.get(last[len(last) - length :], NONE))
        for number, patterns in self._toTry(folded, last) if self._others else ():
            if number >= found:
                break
            if name in patterns:
                return number
        return found

    def _toTry(self, name: str, last: str) -> Iterable[tuple[int, Patterns]]:
        """Return the patterns whose plain beginning or end is that of a name or its last part, in their order."""
        found: list[tuple[int, Patterns]] = []
        for (whole, end, length), table in self._others.items():
            text = name if whole else last
            if length <= len(text):
                found += table.get(text[len(text) - length :] if end else text[:length], ())
        found.sort(key=itemgetter(0))
        return found


def _plainPart(pattern: str) -> tuple[_Place, str]:
    """
    Return the longer one of the beginning and the end of a pattern in which no letter is special, and where in a name
    it has to be found.
    """
    body, whole = pattern.removeprefix("/"), "/" in pattern
    if not body.isascii():
        return (whole, False, 0), ""
    marks = [place for place, letter in enumerate(body) if letter in "*?[]"]
    # C{**/x} matches x, too.
    beginning, end = body[: marks[0]].lower(), body[marks[-1] + 1 :].lower().removeprefix("/")
    text = max(beginning, end, key=len)
    return (whole, text is end, len(text)), text
