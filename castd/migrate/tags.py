"""
Turn dnsmasq's tags into what a rule of proxydhcp can say of a machine.

A tag is set by lines of several kinds.  It stands for alternatives, each a L{BootConditions}; what a rule cannot say
makes the tag unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from castd.migrate.draft import Options, Value
from castd.packets.pxe import ARCHITECTURES, HTTP_BOOT
from castd.proxydhcp.options import UEFI_64, architectureNumbers, architectureWords, machinePatterns

_ALL = frozenset(ARCHITECTURES) - frozenset(HTTP_BOOT)
#: Alternatives of all tags of a rule together.
MOST = 64


@dataclass(frozen=True, slots=True)
class BootConditions:
    """
    What one rule says of a machine.

    @ivar arch: numbers of architectures; L{None}: all.
    @ivar machines: hardware addresses; L{None}: all.
    """

    arch: frozenset[int] | None = None
    ipxe: bool | None = None
    userClass: str | None = None
    machines: tuple[str, ...] | None = None

    def withArch(self, word: str) -> BootConditions:
        """@raise ValueError: there is no such architecture, or it is never answered."""
        return replace(self, arch=frozenset(architectureNumbers(word)))

    def widened(self) -> BootConditions:
        """
        Return the same for both numbers of UEFI with 64 bits, if it is for one of them: what names one only is meant
        for both, as C{efi-x64} stands for both.
        """
        return replace(self, arch=self.arch | UEFI_64) if self.arch is not None and self.arch & UEFI_64 else self

    def joined(self, other: BootConditions) -> BootConditions | None:
        """
        Return what both say; L{None}: no machine is both.

        @raise ValueError: no rule can say it.
        """
        arch = other.arch if self.arch is None else self.arch if other.arch is None else self.arch & other.arch
        if arch is not None and not arch:
            return None
        if None not in (self.ipxe, other.ipxe) and self.ipxe != other.ipxe:
            return None
        for one, another in ((self.userClass, other.userClass), (self.machines, other.machines)):
            if one is not None and another is not None and one != another:
                raise ValueError("a rule has one user class, and one list of machines")
        return BootConditions(
            arch,
            self.ipxe if other.ipxe is None else other.ipxe,
            self.userClass if other.userClass is None else other.userClass,
            self.machines if other.machines is None else other.machines,
        )

    def within(self, other: BootConditions) -> bool:
        """Return whether all machines that these conditions are true of are among those of the others."""
        try:
            return self.joined(other) == self
        except ValueError:
            return False

    def overlaps(self, other: BootConditions) -> bool:
        """Return whether some machines are among those of both, and some among those of one only, of either."""
        try:
            return self.joined(other) not in (None, self, other)
        except ValueError:
            return False

    def negated(self) -> BootConditions:
        """@raise ValueError: no rule can say the contrary."""
        if self.userClass is None and self.machines is None:
            if self.arch is None and self.ipxe is not None:
                return BootConditions(ipxe=not self.ipxe)
            if self.ipxe is None and self.arch is not None:
                return BootConditions(arch=_ALL - self.arch)
        raise ValueError("a rule cannot say of which machines it is not")

    def asRule(self) -> Options:
        """Return the keys of a rule."""
        found: Options = {}
        if self.arch is not None:
            words = architectureWords(sorted(self.arch))
            found["arch"] = words[0] if len(words) == 1 else list[Value](words)
        if self.ipxe is not None:
            found["ipxe"] = self.ipxe
        if self.userClass is not None:
            found["user-class"] = self.userClass
        if self.machines is not None:
            found["machines"] = list[Value](self.machines)
        return found


class Tags:
    """
    Knows for each tag the machines that it is set for.

    @ivar _named: the numbers of architectures that lines name: where these tell 7 from 9, so do the rules.
    """

    def __init__(self) -> None:
        self._alternatives: dict[str, list[BootConditions]] = {}
        self._unknown: set[str] = set()
        self._named: set[int] = set()

    def learn(self, option: str, values: Sequence[str], text: str) -> bool:
        """
        Learn from one line.

        @return: false: castd cannot tell machines by what it says.
        """
        if option == "tag-if":
            return self._learnIf(values)
        sets = [each[4:] for each in values if each.startswith("set:")]
        rest = [each for each in values if not each.startswith("set:")]
        if not sets and option != "dhcp-host" and rest:
            # The word set: may be left out.
            sets, rest = rest[:1], rest[1:]
        if not sets:
            # What a dhcp-host says without a tag is about addresses.
            return option == "dhcp-host"
        try:
            found = _READERS[option](rest)
        except ValueError:
            for tag in sets:
                self.forget(tag)
            return False
        self._named |= found.arch or frozenset()
        for tag in sets:
            self._alternatives.setdefault(tag, []).append(found)
        return True

    def _learnIf(self, values: Sequence[str]) -> bool:
        tags = [each[4:] for each in values if each.startswith("tag:")]
        sets = [each[4:] for each in values if each.startswith("set:")]
        try:
            found = self._combine(tags)
        except ValueError:
            for tag in sets:
                self.forget(tag)
            return False
        for tag in sets:
            self._alternatives.setdefault(tag, []).extend(found)
        return bool(sets)

    def forget(self, tag: str) -> None:
        """Count a tag as one that rules cannot say."""
        self._unknown.add(tag)

    def conditions(self, tags: Iterable[str]) -> BootConditions:
        """
        Return what these tags say together.

        @raise ValueError: one rule cannot say it.
        """
        found = _merged(self._combine(tags))
        if len(found) != 1:
            raise ValueError("one rule cannot say it" if found else "no machine has these tags")
        return found[0]

    def _combine(self, tags: Iterable[str]) -> list[BootConditions]:
        """
        Return the alternatives of several tags, all of which are set; one that begins with C{!} is not, nor with C{#},
        the older word for it.
        """
        found = [BootConditions()]
        for tag in tags:
            each = self._negated(tag[1:]) if tag.startswith(("!", "#")) else self._of(tag)
            joined = [one.joined(other) for one in found for other in each]
            found = [one for one in joined if one is not None]
            if len(found) > MOST:
                raise ValueError("too many alternatives")
        return found

    def _of(self, tag: str) -> list[BootConditions]:
        if tag in self._unknown or tag not in self._alternatives:
            raise ValueError(f"castd cannot tell which machines have the tag {tag}")
        found = self._alternatives[tag]
        return found if self._named >= UEFI_64 else [each.widened() for each in found]

    def _negated(self, tag: str) -> list[BootConditions]:
        found = [BootConditions()]
        for each in self._of(tag):
            joined = [one.joined(each.negated()) for one in found]
            found = [one for one in joined if one is not None]
        return found


def _merged(found: Sequence[BootConditions]) -> list[BootConditions]:
    """Join alternatives that differ in their architectures, or in their machines, only."""
    merged: list[BootConditions] = []
    for each in found:
        for at, known in enumerate(merged):
            if replace(known, arch=None) == replace(each, arch=None):
                arch = None if known.arch is None or each.arch is None else known.arch | each.arch
                merged[at] = replace(known, arch=arch)
                break
            if replace(known, machines=None) == replace(each, machines=None) and known.machines and each.machines:
                merged[at] = replace(known, machines=tuple(dict.fromkeys((*known.machines, *each.machines))))
                break
        else:
            merged.append(each)
    return merged


def _match(rest: Sequence[str]) -> BootConditions:
    option, value = (*rest, "", "")[:2]
    option = option.removeprefix("option:")
    if option in ("93", "client-arch") and value:
        return BootConditions(arch=_numbers(value))
    if option == "175" and not value:
        return BootConditions(ipxe=True)
    if option in ("77", "user-class") and value:
        return _userClass([value])
    if option in ("60", "vendor-class") and value:
        return _vendorClass([value])
    raise ValueError


def _numbers(value: str) -> frozenset[int]:
    number = int(value, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,4}", value) else int(value)
    return frozenset(architectureNumbers(str(number)))


def _userClass(rest: Sequence[str]) -> BootConditions:
    (value,) = rest
    # A class with this text in it: iPXE's own is known by more than that.
    return BootConditions(ipxe=True) if value == "iPXE" else BootConditions(userClass=value)


def _vendorClass(rest: Sequence[str]) -> BootConditions:
    value = rest[-1] if rest else ""
    found = re.fullmatch(r"PXEClient(?::Arch:(\d{5})(?::.*)?)?", value)
    if found is None:
        raise ValueError
    return BootConditions() if found[1] is None else BootConditions(arch=_numbers(found[1].lstrip("0") or "0"))


def _mac(rest: Sequence[str]) -> BootConditions:
    found = machinePatterns([re.sub(r"(?::\*)+$", ":*", each) for each in rest])
    return BootConditions(machines=found)


def _host(rest: Sequence[str]) -> BootConditions:
    found = [each for each in rest if re.fullmatch(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", each)]
    return BootConditions(machines=machinePatterns(found))


_READERS = {
    "dhcp-match": _match,
    "dhcp-userclass": _userClass,
    "dhcp-vendorclass": _vendorClass,
    "dhcp-mac": _mac,
    "dhcp-host": _host,
}
