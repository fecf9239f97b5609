"""
Find out whether the rules of a proxydhcp fit the rest of the service file: what C{castd check} says.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from heapq import merge
from ipaddress import IPv4Address, IPv4Network

from castd.interfaces import ConfiguredTransport, IServiceFile
from castd.machines.words import parse, wordsOf
from castd.networks import isWithin
from castd.options import AnyNetwork, ListenOptions
from castd.packets import pxe
from castd.proxydhcp.answers import RuleInForce, fileField, menuOption, wider
from castd.proxydhcp.options import ASK, LONGEST_NAME, NUMBERS, PLACEHOLDERS, RASPBERRY_PI, BootRule, Options, expand
from castd.proxydhcp.requests import Machine

#: An iPXE with every feature, and one that has none: what it may be told does not depend on anything else.
_IPXE = Machine("", None, None, (), True, frozenset(pxe.IPXE_FEATURES.values()), b"iPXE")
_FIRMWARE = Machine("", None, None, (), False, frozenset(), b"")
#: Octets of a menu's text that EDK II shows.
_SHOWN = 70
_UEFI = NUMBERS["efi-x64"]
_LOADERS = ("*ipxe*", "undionly*", "snponly*")
#: The second stages that shim looks for beside itself.
_SECOND_STAGES = ("grubx64.efi", "grubaa64.efi", "grubia32.efi", "grubriscv64.efi", "grubloongarch64.efi")


class Checker:
    """
    Checks one service against the rest of its file.

    @ivar rules: the rules that were checked, each with its transports.
    @ivar faults: what is wrong, each behind a path of keys.
    @ivar missing: what this machine lacks, perhaps only now; likewise.
    """

    def __init__(self, options: Options, file: IServiceFile, reached: Sequence[IPv4Network] | None) -> None:
        """
        @param reached: the networks of the interface; L{None}: no interface of this machine has the address.
        """
        self._options = options
        self._file = file
        self._own = IPv4Address(options.interface)
        self._reached = () if reached is None else tuple(reached)
        self.faults: list[str] = []
        self.missing = [f"interface: no interface of this machine has {options.interface}"] if reached is None else []
        self.rules: list[RuleInForce] = []

    # Faults.

    def check(self) -> Iterator[RuleInForce]:
        """Check the rules in their order, each when it is asked for."""
        for place, rule in enumerate(self._options.rules):
            self.rules.append(self._inForce(place, rule))
            yield self.rules[-1]

    def _inForce(self, place: int, rule: BootRule) -> RuleInForce:
        found = RuleInForce(place + 1, rule, tuple(self._transports(place, rule)))
        before = len(self.faults)
        if found.transports:
            for key, template in _templates(place, rule):
                self._checkFile(key, template, found)
        if len(self.faults) == before:
            self._checkForm(place, rule)
        return found

    def _transports(self, place: int, rule: BootRule) -> Iterator[ListenOptions]:
        """Return the transports that deliver the files of a rule; one that cannot becomes a fault."""
        if rule.by is None:
            first = next((each for each in self._file.transports if each.kind == "tftp" and self._isHere(each)), None)
            if first is not None and isinstance(first.options, ListenOptions):
                yield first.options
            else:
                self.faults.append(f"rules[{place}]: no tftp is at {self._own}: say by which transport")
        for name in rule.by or ():
            found = next((each for each in self._file.transports if each.name == name), None)
            if found is None or not isinstance(found.options, ListenOptions):
                self.faults.append(f"rules[{place}].by: no transport is called {name}")
            elif not self._isHere(found):
                self.faults.append(f"rules[{place}].by: {name} is not at {self._own}, so machines would ask in vain")
            elif type(found.options).bootPath is ListenOptions.bootPath:
                self.faults.append(f"rules[{place}].by: no boot loader can fetch from {name}")
            else:
                yield found.options

    def _isHere(self, transport: ConfiguredTransport) -> bool:
        options = transport.options
        return isinstance(options, ListenOptions) and options.interface in ("", self._options.interface)

    def _checkFile(self, key: str, template: str, inForce: RuleInForce) -> None:
        """Check that the machines of a rule can fetch a file of it."""
        rule, name = inForce.rule, expand(template, PLACEHOLDERS) or template
        words = wordsOf(parse(template))
        if "ip" in words and rule.answer != "ask":
            self.faults.append(f"{key}: {{ip}} is known at port 4011 only: say answer: ask")
        reasons = self._unfetchable(inForce, name)
        if reasons and words:
            # It depends on the machine which name it is.
            return
        by = f"rules[{inForce.number - 1}].by"
        if rule.ipxe is not False and reasons and not self._told(inForce, name, _IPXE):
            self.faults.append(f"{by}: iPXE cannot fetch {template}: {'; '.join(reasons)}")
        elif rule.ipxe is not True and not self._told(inForce, name, _FIRMWARE):
            why = "; ".join(reasons) or "it has no field for another protocol or port"
            self.faults.append(f"{by}: firmware fetches {template} by a tftp at port 69 only: {why}")

    def _told(self, inForce: RuleInForce, name: str, machine: Machine) -> bool:
        return fileField(inForce.transports, name, machine, self._own) is not None

    def _unfetchable(self, inForce: RuleInForce, name: str) -> list[str]:
        """Return the reasons why transports of a rule do not deliver a file to iPXE."""
        reasons = []
        for options in inForce.transports:
            try:
                path = options.bootPath(name, str(self._own))
            except ValueError as error:
                reasons.append(str(error))
                continue
            if path.url is None:
                reasons.append("iPXE's mtftp hears 239.255.1.1:3001 only")
            elif len(path.url) > LONGEST_NAME:
                reasons.append(f"{path.url} has {len(path.url)} octets, and DHCP has room for {LONGEST_NAME}")
        return reasons

    def _checkForm(self, place: int, rule: BootRule) -> None:
        if rule.menu is None:
            return
        parts = menuOption(rule.menu, self._own, self._options.discovery)
        octets = len(pxe.buildSuboptions(parts))
        if octets > pxe.LARGEST_OPTION:
            names = {pxe.BOOT_SERVERS: "list of servers", pxe.BOOT_MENU: "texts", pxe.MENU_PROMPT: "prompt"}
            sums = ", ".join(f"{names[code]} {len(value) + 2}" for code, value in parts if code in names)
            text = f"option 43 would have {octets} octets ({sums}), and holds {pxe.LARGEST_OPTION}"
            self.faults.append(f"rules[{place}].menu: {text}")
        if rule.answer not in ("auto", "ask", "direct"):
            self.faults.append(f"rules[{place}].answer: {rule.answer} shows no menu")

    # Warnings.

    def warnings(self) -> Iterator[str]:
        """Return what is allowed, but is probably a mistake."""
        if self._options.relays and self._options.clients is None:
            # A relay says its address in the network of the machine, and that is another one.
            yield "relays: no relay of another network is answered: clients: must name the networks behind relays"
        yield from self._clients()
        earlier = _Earlier()
        for place, inForce in enumerate(self.rules):
            yield from self._unreached(place, inForce, earlier)
            earlier.add(inForce)
            yield from self._partNetworks(place, inForce.rule)
            yield from self._otherNetworks(place, inForce.rule)
            yield from _raspberry(place, inForce.rule)
            for key, template in _templates(place, inForce.rule):
                yield from self._ofFile(key, template, inForce.rule)
            for key, text in _menuTexts(place, inForce.rule):
                if len(text) > _SHOWN:
                    yield f"{key}: EDK II shows {_SHOWN} of its {len(text)} characters"
        yield from self._unoffered()
        yield from self._loops()

    def _clients(self) -> Iterator[str]:
        """Warn of networks in C{clients} whose machines are told nothing or not heard, and of the own one if absent."""
        direct = self._options.port67 and not self._options.relays and self._reached
        for network in self._options.clients or ():
            if not isinstance(network, IPv4Network):
                continue
            if not any(_meets(network, each.rule.networks) for each in self.rules):
                yield f"clients: no rule is for machines in {network}: networks: of each rule leaves them out"
            if direct and not _meets(network, self._reached):
                yield f"clients: broadcasts of machines in {network} come through a relay, so only with relays: true"
        near = [each for each in self._reached if self._own in each]
        if (
            self._options.clients
            and self._options.port67
            and not any(_meets(each, self._options.clients) for each in near)
        ):
            for network in near:
                yield f"clients: machines in {network}, the interface's own network, are not answered: it is not named"

    def _unreached(self, place: int, inForce: RuleInForce, earlier: _Earlier) -> Iterator[str]:
        covers = next((each for each in earlier.near(inForce.rule) if _covers(each.rule, inForce.rule)), None)
        if covers is not None:
            file = covers.rule.boot or "a file of its menu"
            yield f"rules[{place}]: never reached while {file} is there: rule {covers.number} matches before"

    def _partNetworks(self, place: int, rule: BootRule) -> Iterator[str]:
        for network in self._reached:
            for other in rule.networks:
                if isinstance(other, IPv4Network) and other != network and other.subnet_of(network):
                    text = f"{other} is a part of {network}: a machine has no address yet when it asks at port 67"
                    yield f"rules[{place}].networks: {text}"

    def _otherNetworks(self, place: int, rule: BootRule) -> Iterator[str]:
        answered = self._allowed()
        for network in rule.networks if answered else ():
            if isinstance(network, IPv4Network) and not _meets(network, answered):
                yield f"rules[{place}].networks: nobody in {network} is answered, as it is not in clients:"

    def _ofFile(self, key: str, template: str, rule: BootRule) -> Iterator[str]:
        if "{" in template:
            return
        missing = self._isMissing(template)
        if missing:
            so = "nobody is answered by this rule" if rule.menu is None else "its item is left out of the menu"
            yield f"{key}: {template} is not there, so {so}"
        elif not self._file.readable(template, self._allowed()):
            yield f"{key}: the access rules give {template} to none of the machines that are answered"
        folder, last = posixpath.split(template)
        if rule.ipxe is not True and fnmatchcase(last, "grub*.efi"):
            yield (
                f"{key}: GRUB asks the DHCP server for its files, not this one: build it with a prefix, "
                f"-p '(tftp,{self._own})/grub'"
            )
        if fnmatchcase(last, "shim*") and not missing and not self._hasSecondStage(folder):
            yield f"{key}: shim loads grubx64.efi (or grubaa64.efi) from beside itself, and there is none"

    def _hasSecondStage(self, folder: str) -> bool:
        return any(not self._isMissing(posixpath.join(folder, name)) for name in _SECOND_STAGES)

    def _isMissing(self, name: str) -> bool:
        return self._file.isMissing(name, self._allowed())

    def _allowed(self) -> tuple[AnyNetwork, ...]:
        return self._reached if self._options.clients is None else self._options.clients

    def _unoffered(self) -> Iterator[str]:
        """Warn of files named by an address, for machines that no offer sends to port 4011, where it is known."""
        offering = [each for each in self.rules if not _isByAddress(each.rule)]
        for place, inForce in enumerate(self.rules if self._options.port67 else ()):
            rule = inForce.rule
            later = (each.rule for each in offering if each.number > inForce.number)
            if _isByAddress(rule) and not any(_asksFor(each, rule) for each in later):
                (key, _), *_ = _templates(place, rule)
                cure = "a later rule for these machines, with answer: ask and without {ip}, has to make it"
                yield f"{key}: {{ip}} is not known when the offer is made: {cure}"

    def _loops(self) -> Iterator[str]:
        """Warn of rules by which an iPXE that was just loaded is told to load iPXE."""
        for place, inForce in enumerate(self.rules):
            rule = inForce.rule
            if rule.ipxe is False or rule.lacks or rule.userClass or not any(map(_isLoader, rule.templates)):
                continue
            if rule.ipxe or not any(_catchesIpxe(earlier.rule, rule) for earlier in self.rules[:place]):
                yield f"rules[{place}]: an iPXE is told to load iPXE, for ever: put a rule with ipxe: true before it"


class _Earlier:
    """
    Holds rules, and finds those that may match all machines of a later one: there may be thousands, each for a machine
    or a network of its own.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[str | None, AnyNetwork], list[RuleInForce]] = {}
        self._lengths: set[tuple[int, int]] = set()

    def add(self, inForce: RuleInForce) -> None:
        """Add a rule behind all others."""
        for network in inForce.rule.networks:
            for pattern in inForce.rule.machines or (None,):
                self._tables.setdefault((pattern, network), []).append(inForce)
            self._lengths.add((network.version, network.prefixlen))

    def near(self, rule: BootRule) -> Iterator[RuleInForce]:
        """Return, in their order, those for its first machine or for all, whose networks hold the first of its own."""
        first = rule.networks[0]
        around = [
            first.supernet(new_prefix=length)
            for version, length in self._lengths
            if version == first.version and length <= first.prefixlen
        ]
        patterns = (None, *wider(rule.machines[0])) if rule.machines else (None,)
        found = [self._tables.get((pattern, each), []) for pattern in patterns for each in around]
        # Merged step by step, as mostly the first of many is the one.
        return merge(*found, key=lambda each: each.number)


def _templates(place: int, rule: BootRule) -> Iterator[tuple[str, str]]:
    """Return the names of a rule's files, each with the path of its key."""
    if rule.boot is not None:
        yield f"rules[{place}].boot", rule.boot
    for number, item in enumerate(rule.menu.items if rule.menu else ()):
        if item.boot is not None:
            yield f"rules[{place}].menu.items[{number}].boot", item.boot


def _menuTexts(place: int, rule: BootRule) -> Iterator[tuple[str, str]]:
    for number, item in enumerate(rule.menu.items if rule.menu else ()):
        yield f"rules[{place}].menu.items[{number}].text", item.text


def _raspberry(place: int, rule: BootRule) -> Iterator[str]:
    """Warn of a rule whose answer is for a Raspberry Pi, and that its ROM does not match."""
    if rule.answer == RASPBERRY_PI and (rule.ipxe or not _holds(rule.arch, (pxe.BIOS,))):
        yield f"rules[{place}].answer: the ROM of a Raspberry Pi is no iPXE, and says arch: bios: name its MAC"


def _meets(network: IPv4Network, others: Sequence[AnyNetwork]) -> bool:
    """Return whether a network and one of the others have an address in common."""
    return any(network.overlaps(each) for each in others if isinstance(each, IPv4Network))


def _isLoader(template: str | None) -> bool:
    """Return whether a file is iPXE itself; C{boot.ipxe} is a script."""
    last = posixpath.basename(template or "")
    return not last.endswith(".ipxe") and any(fnmatchcase(last, pattern) for pattern in _LOADERS)


def _catchesIpxe(earlier: BootRule, rule: BootRule) -> bool:
    """Return whether an iPXE that a rule is for may be answered by an earlier rule, with something else."""
    return bool(earlier.ipxe) and _holds(earlier.arch, rule.arch) and not any(map(_isLoader, earlier.templates))


def _covers(earlier: BootRule, rule: BootRule) -> bool:
    """Return whether an earlier rule matches all machines of a rule, with a file whose name does not depend on them."""
    return (
        all(template is None or "{" not in template for template in earlier.templates)
        and earlier.ipxe in (None, rule.ipxe)
        and earlier.userClass in (None, rule.userClass)
        and set(earlier.lacks) <= set(rule.lacks)
        and _named(earlier.machines, rule.machines)
        and _holds(earlier.arch, rule.arch)
        and all(isWithin(network, earlier.networks) for network in rule.networks)
    )


def _named(earlier: tuple[str, ...] | None, later: tuple[str, ...] | None) -> bool:
    """Return whether patterns of machines stand for all machines of others."""
    if earlier is None or later is None:
        return earlier is None
    return all(any(pattern in earlier for pattern in wider(each)) for each in later)


def _isByAddress(rule: BootRule) -> bool:
    """Return whether each file of a rule is named by the address of the machine."""
    return all("ip" in wordsOf(parse(template)) for template in rule.templates if template is not None)


def _asksFor(later: BootRule, rule: BootRule) -> bool:
    """Return whether a later rule may send machines of a rule to port 4011, by an offer that does not say all."""
    if None not in (later.ipxe, rule.ipxe) and later.ipxe != rule.ipxe:
        return False
    known = [numbers for numbers in (later.arch, rule.arch) if numbers is not None]
    common = set(known[0]).intersection(*known) if known else {pxe.BIOS, *_UEFI}
    ipxe = later.ipxe or rule.ipxe
    asks = later.menu is not None or later.answer == ASK
    return bool(common) and (asks or (later.answer == "auto" and not ipxe and not common <= set(pxe.OLD_FIRMWARE)))


def _holds(wide: tuple[int, ...] | None, narrow: tuple[int, ...] | None) -> bool:
    return wide is None or (narrow is not None and set(narrow) <= set(wide))
