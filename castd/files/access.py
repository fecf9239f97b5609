"""
Decide by access rules who may read and write which files.  The first rule that matches decides; without one the request
is denied.

Clients are told apart by their addresses; by what is known of their machines only where the service file says that this
is trusted, since all of it can be forged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from operator import itemgetter
from typing import Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from castd.errors import Denied, Refused
from castd.files import names
from castd.files.names import Patterns
from castd.machines.known import KnownMachine
from castd.machines.options import Architecture, MacBeginning, Uuid
from castd.networks import NetworkMap, viewpoints
from castd.options import AnyNetwork, Clients, Settings, clients

#: How many clients the rules are cached for.
_REMEMBERED = 8192
#: How many machines, for rules that name machines.
_REMEMBERED_MACHINES = 1024
#: A rule with its number, counted from 0.
_Numbered: TypeAlias = tuple[int, "Rule"]
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
    mac: tuple[MacBeginning, ...] | None = Field(
        None, description="what the MACs of the machines begin with: 52:54:00; only if machines: trusted"
    )
    arch: tuple[Architecture, ...] | None = Field(
        None, description="architectures of the machines: efi-x64; only if machines: trusted"
    )
    uuid: tuple[Uuid, ...] | None = Field(None, description="UUIDs of the machines; only if machines: trusted")

    @field_validator("names")
    @classmethod
    def _patterns(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if given is not None:
            if not given:
                raise ValueError("an empty list matches no name: leave it out to match all")
            Patterns(given)
        return given

    @field_validator("mac", "arch", "uuid")
    @classmethod
    def _someMachine(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if given == ():
            raise ValueError("an empty list matches no machine: leave it out to match all")
        return given

    @model_validator(mode="after")
    def _oneWord(self) -> Rule:
        if (self.allow is None) == (self.deny is None):
            raise ValueError("a rule says either allow or deny")
        return self

    @property
    def machineKeys(self) -> tuple[str, ...]:
        """The keys by which it is for some machines only; C{()}: it is for all machines of its clients."""
        return tuple(key for key in ("mac", "arch", "uuid") if getattr(self, key) is not None)

    def fits(self, machine: KnownMachine) -> bool:
        """Return whether it is for this machine, as far as that is known; what is not known does not fit."""
        return machine.fits(self.mac, self.arch, self.uuid)


class Rules:
    """
    Decides by L{Rule}s for each request.

    Names are matched as clients send them, with slashes normalized and case ignored, before a directory strips or
    rewrites them; of a name with control octets only what is before the first one.  A file may have several names (by a
    prefix that is stripped, a rewrite rule, a link): to deny one of them does not protect it.  Rules that allow do, and
    the C{networks} of its directory.

    Rules are found by the client's networks, then by the name; only patterns that no table can have are tried one by
    one (L{_NameTable}).  So ten thousand rules for as many machines or files cost about what a few do.

    A rule that names machines matches only those of which it is known that they are meant.  Whoever asks finds out what
    is known of the machine only if L{dependsOnMachine} says so.

    @ivar openToRead: everybody may read every file, and L{check} need not be called for a read.
    @ivar byMachine: some rule names machines.
    """

    def __init__(self, rules: Iterable[Rule], places: Sequence[str] = ()) -> None:
        """@param places: C{file:line} of each rule; C{()}: not known."""
        rules = tuple(rules)
        self._places = tuple(places)
        self.networks = tuple(network for rule in rules for network in rule.allow or rule.deny or ())
        self._allows = [rule.allow is not None for rule in rules]
        named = [(number, rule) for number, rule in enumerate(rules) if rule.machineKeys]
        self.byMachine = bool(named)
        self._forAll = _RuleTables((number, rule) for number, rule in enumerate(rules) if not rule.machineKeys)
        self._forSome = _RuleTables(named)
        self._allowSome = _RuleTables((number, rule) for number, rule in named if self._allows[number])
        alike = self._forAll.forAll
        before = named[0][0] if named else NONE
        self.openToRead = alike is not None and alike < before and self._allows[alike]
        # Not a method: by the cycle of references it would outlive a reload, with its cache.
        self._forMachine = lru_cache(_REMEMBERED_MACHINES)(partial(_tablesOfMachine, _MachineIndex(named)))

    def allowAny(self, networks: Iterable[AnyNetwork], name: str) -> bool:
        """Return whether some machine, at any address of these networks, may read the file of this name."""
        for host in viewpoints(networks, self.networks):
            with suppress(Refused):
                self.checkAnyMachine(host, name)
                return True
        return False

    def checkAnyMachine(self, host: str, name: str) -> None:
        """Check that some machine may read the file of this name at this address; raises as L{check}."""
        found = self._forAll.first(host, name, False)
        if self._allowSome.first(host, name, False, found) == found:
            self._judge(found)

    def check(self, host: str, name: str, write: bool = False, machine: KnownMachine | None = None) -> None:
        """
        Check that this client may read (or write) the file of this name.

        @param host: the client's numeric address.
        @param machine: what is known of its machine; L{None}: nothing, so that no rule matches that names machines.
        @raise Denied: it may not.
        @raise Refused: the name is malformed, as L{castd.files.names.parts}.
        """
        self._judge(self._first(host, name, write, machine))

    def _judge(self, number: float) -> None:
        """Check that the rule of this number allows."""
        found = None if number == NONE else int(number)
        if found is None:
            raise Denied("allowed by no access rule")
        if not self._allows[found]:
            place = self._places[found] if self._places else ""
            raise Denied(f"denied by the access rule at {place}" if place else "denied by an access rule", place)

    def dependsOnMachine(self, host: str, name: str, write: bool = False) -> bool:
        """
        Return whether what L{check} says depends on the machine at this address.

        @raise Refused: the name is malformed, as L{castd.files.names.parts}.
        """
        if not self.byMachine:
            return False
        found = self._forAll.first(host, name, write)
        return self._forSome.first(host, name, write, found) < found

    def deciding(self, host: str, name: str, write: bool = False, machine: KnownMachine | None = None) -> int | None:
        """
        Return the number of the rule that decides, counted from 0; L{None}: none matches.

        @raise Refused: the name is malformed, as L{castd.files.names.parts}.
        """
        found = self._first(host, name, write, machine)
        return None if found == NONE else int(found)

    def _first(self, host: str, name: str, write: bool, machine: KnownMachine | None) -> float:
        found = self._forAll.first(host, name, write)
        if machine is not None and self.byMachine:
            found = self._forMachine(machine.mac, machine.arch, machine.uuid).first(host, name, write, found)
        return found


class _RuleTables:
    """Finds the first of some rules for a client and a name, whatever its machine is."""

    def __init__(self, rules: Iterable[_Numbered]) -> None:
        """@param rules: by their numbers, the lowest first."""
        tables = {False: _ClientTables(), True: _ClientTables()}
        for number, rule in rules:
            for write, table in tables.items():
                if rule.use is None or (rule.use == "write") is write:
                    table.add(number, rule)
        #: The number of the rule that decides who reads, for all clients and names; L{None}: that depends on either.
        self.forAll = tables[False].forAll
        # Not a method: by the cycle of references it would outlive a reload, with its cache.
        self._tablesFor = lru_cache(_REMEMBERED)(partial(_tablesFor, tables))

    def first(self, host: str, name: str, write: bool, before: float = NONE) -> float:
        """
        Return the number of the first rule.

        @param before: return this number if no rule before it matches.
        @raise Refused: the name is malformed, and a rule for certain names would have to be compared.
        """
        tables, found = self._tablesFor(host, write)
        found = min(found, before)
        if tables:
            plain = names.text(names.parts(names.beforeControl(name) or name))
            for table in tables:
                found = table.first(plain, found)
        return found


class _MachineIndex:
    """
    Finds the rules that are for a machine, of those that name some.  Of ten thousand for one MAC or UUID each, only
    those are compared that name that of this machine.
    """

    def __init__(self, rules: Sequence[_Numbered]) -> None:
        self._tables: dict[str, dict[str, list[_Numbered]]] = {"mac": {}, "uuid": {}, "arch": {}}
        for numbered in rules:
            rule = numbered[1]
            key = next(key for key in self._tables if key in rule.machineKeys)
            for value in dict.fromkeys({"mac": rule.mac, "uuid": rule.uuid, "arch": rule.arch}[key] or ()):
                self._tables[key].setdefault(value, []).append(numbered)

    def rulesFor(self, machine: KnownMachine) -> list[_Numbered]:
        """Return the rules that are for this machine, by their numbers."""
        found = {number: rule for number, rule in self._near(machine) if rule.fits(machine)}
        return sorted(found.items(), key=itemgetter(0))

    def _near(self, machine: KnownMachine) -> Iterator[_Numbered]:
        mac = machine.mac or ""
        for key, values in (
            ("mac", [mac[:end] for end in range(2, len(mac) + 1, 3)]),
            ("uuid", [machine.uuid or ""]),
            ("arch", [machine.arch or ""]),
        ):
            for value in values:
                yield from self._tables[key].get(value, ())


def _tablesOfMachine(index: _MachineIndex, mac: str | None, arch: str | None, uuid: str | None) -> _RuleTables:
    return _RuleTables(index.rulesFor(KnownMachine(("", 0), None, mac, uuid, arch)))


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
