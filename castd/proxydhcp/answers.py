"""
Decide what a machine is told to boot, and build the answer.  Nothing is kept from one request to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from castd.networks import NetworkMap, Networks, isWithin
from castd.options import ListenOptions
from castd.packets import dhcp, pxe
from castd.packets.dhcp import DhcpPacket
from castd.proxydhcp.options import ASK, DIRECT, LONGEST_NAME, MENU, RASPBERRY_PI, BootRule, Menu, expand
from castd.proxydhcp.requests import DISCOVER, ITEM, BootRequest, Machine
from castd.request import Peer

_LOCAL = pxe.LOCAL_BOOT.to_bytes(2, "big")
_TAKE_FILE = [(pxe.DISCOVERY_CONTROL, bytes([pxe.TAKE_FILE]))]
#: What the ROM of a Raspberry Pi looks for: a menu item with this text, and a prompt.
_RASPBERRY = [
    (pxe.DISCOVERY_CONTROL, bytes([pxe.NO_BROADCAST | pxe.NO_MULTICAST])),
    (pxe.MENU_PROMPT, b"\0PXE"),
    (pxe.BOOT_MENU, _LOCAL + b"\x11Raspberry Pi Boot"),
]

#: How far the keys of a rule keep it from a request: a rule for the same firmware elsewhere is the more likely to be
#: meant, then one for another firmware; one for iPXE or for a few machines is hardly.
_FARNESS = {"networks": 1, "arch": 2, "machines": 3, "user-class": 3, "lacks": 3, "ipxe": 3}
#: Octets of a user class that are shown: a stranger may send as many as fit into a packet.
_SHOWN = 64


@dataclass(frozen=True, slots=True)
class RuleInForce:
    """
    A rule, with the transports that deliver its files.

    @ivar number: counted from 1.
    @ivar transports: the options of the transports, the best first.
    """

    number: int
    rule: BootRule
    transports: Sequence[ListenOptions]


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    A rule that matches a request, which decides if its files are there.

    @ivar architecture: of those that the machine names, the first that the rule is for.
    @ivar names: the names of the files in the content, one for each of C{rule.templates}; L{None}: there is none, or
        this machine cannot fetch it.
    """

    inForce: RuleInForce
    architecture: int
    names: tuple[str | None, ...]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names that have to be looked up, each once."""
        return tuple(dict.fromkeys(name for name in self.names if name is not None))


class Answer(NamedTuple):
    """
    An answer that is ready to be sent.

    @ivar kind: of the request.
    @ivar to: where it is sent.
    @ivar file: the name or URL that the machine is told; C{""}: it is shown a menu.
    @ivar name: the name of that file in the content.
    @ivar rule: the number of the rule.
    @ivar form: C{direct}, C{ask}, C{menu} or C{raspberry-pi}.
    """

    kind: str
    datagram: bytes
    to: Peer
    file: str
    name: str
    rule: int
    form: str
    architecture: int


# Which rule.


class BootRules:
    """
    Holds rules in their order, and finds those that may match a request: there may be thousands, each for a machine or
    a network of its own.
    """

    def __init__(self, rules: Iterable[RuleInForce] = ()) -> None:
        self._rules: list[RuleInForce] = []
        # Places of rules: of those that name machines by each pattern, of the others by each of their networks.
        self._named: dict[str, list[int]] = {}
        self._general: NetworkMap[list[int]] = NetworkMap()
        # The first of all rules that differ in nothing but the machines that they name.
        self._firsts: dict[tuple[object, ...], int] = {}
        for each in rules:
            self.add(each)

    def add(self, inForce: RuleInForce) -> None:
        """Add a rule behind all others."""
        rule, place = inForce.rule, len(self._rules)
        self._rules.append(inForce)
        for pattern in rule.machines or ():
            self._named.setdefault(pattern, []).append(place)
        for network in rule.networks if rule.machines is None else ():
            self._general.setdefault(network, []).append(place)
        kind = rule.machines is None, rule.ipxe, rule.arch, rule.userClass, rule.lacks, rule.networks
        self._firsts.setdefault(kind, place)

    def near(self, request: BootRequest) -> Iterator[RuleInForce]:
        """Return rules in their order, so many that none of the others matches a request."""
        # A rule for a network holds the first address of it, too.
        where = request.address or request.networks[0].network_address
        return self._inOrder(self._naming(request.machine).union(*self._general.containing(str(where))))

    def nearest(self, request: BootRequest) -> Iterator[RuleInForce]:
        """Return rules in their order, so many that none of the others comes nearer to a request than all of them."""
        return self._inOrder(self._naming(request.machine).union(self._firsts.values()))

    def _naming(self, machine: Machine) -> set[int]:
        return set[int]().union(*(self._named.get(pattern, ()) for pattern in patternsOf(machine)))

    def _inOrder(self, places: set[int]) -> Iterator[RuleInForce]:
        return (self._rules[place] for place in sorted(places))


def patternsOf(machine: Machine) -> Iterator[str]:
    """Return the patterns of machines that a machine fits, as L{machinePatterns} writes them."""
    if machine.uuid is not None:
        yield machine.uuid
    if machine.mac is not None:
        yield from wider(machine.mac)


def wider(pattern: str) -> Iterator[str]:
    """Return the patterns of machines that all machines of a pattern fit: itself, and shorter beginnings of a MAC."""
    yield pattern
    # A UUID has no beginnings.
    stem = "" if "-" in pattern else pattern.removesuffix("*")
    for end in range(0, len(stem), len("52:")):
        yield f"{stem[:end]}*"


def candidates(rules: Iterable[RuleInForce], request: BootRequest, own: IPv4Address) -> Iterator[Candidate]:
    """Return the rules that match a request, in their order, each with the names of its files."""
    for inForce in rules:
        architecture = matching(inForce.rule, request)
        if architecture is None:
            continue
        if request.kind == ITEM and inForce.rule.menu is None:
            continue
        values = _values(request, architecture)
        names = [_fetchable(inForce, template, values, request.machine, own) for template in inForce.rule.templates]
        if request.kind == ITEM and inForce.rule.menu is not None:
            chosen = _chosen(inForce.rule.menu, request)
            names = [name if place == chosen else None for place, name in enumerate(names)]
        if any(name is not None for name in names):
            yield Candidate(inForce, architecture, tuple(names))


def matching(rule: BootRule, request: BootRequest) -> int | None:
    """Return the architecture that makes a rule match a request; L{None}: it does not match."""
    if next(misfits(rule, request), None) is not None:
        return None
    return next((each for each in request.machine.architectures if rule.arch is None or each in rule.arch), None)


def misfits(rule: BootRule, request: BootRequest) -> Iterator[str]:
    """
    Return the keys of a rule that a request does not fit; none: it matches.  What takes long to find out comes last, as
    the first one decides whether the rule matches.
    """
    machine = request.machine
    if rule.ipxe not in (None, machine.ipxe):
        yield "ipxe"
    if rule.arch is not None and not any(each in rule.arch for each in machine.architectures):
        yield "arch"
    if rule.userClass is not None and not _hasClass(rule.userClass, machine.userClass):
        yield "user-class"
    if any(pxe.IPXE_FEATURES[word] in machine.features for word in rule.lacks):
        yield "lacks"
    if rule.machines is not None and not any(pattern in rule.machines for pattern in patternsOf(machine)):
        yield "machines"
    if not _isThere(rule, request):
        yield "networks"


def unmatched(rules: BootRules, request: BootRequest) -> str:
    """Say why no rule answers a request: by the rule that comes nearest to it."""
    machine = request.machine
    said = {
        "ipxe": "it is iPXE" if machine.ipxe else "it is not iPXE",
        "user-class": f"it says {machine.userClass[:_SHOWN]!r}" if machine.userClass else "it has none",
        "lacks": "it has such a feature",
        "machines": f"it is {machine.address}",
        "networks": request.place,
        "arch": f"it is {pxe.architectureName(machine.architectures[0])}",
    }
    found = [(list(misfits(each.rule, request)), each.number) for each in rules.nearest(request)]
    keys, number = min(found, key=lambda each: sum(_FARNESS[key] for key in each[0]))
    if not keys:
        return f"rule {number} matches, and has no file that it can be told"
    named = " and ".join(f"{key} ({said[key]})" for key in keys)
    return f"no rule matches; the nearest is rule {number}, but for its {named}"


def _hasClass(wanted: str, value: bytes) -> bool:
    return wanted.encode() == value or wanted.encode() in pxe.userClasses(value)


def _isThere(rule: BootRule, request: BootRequest) -> bool:
    """Return whether an address, or all networks that a machine without an address may be in, are the rule's."""
    if request.address is not None:
        return str(request.address) in Networks(rule.networks)
    return all(isWithin(network, rule.networks) for network in request.networks)


def _values(request: BootRequest, architecture: int) -> dict[str, str]:
    """Return the values of placeholders that are known of a machine."""
    machine = request.machine
    values = {"arch": pxe.architectureName(architecture)}
    if machine.mac is not None:
        values["mac"] = machine.mac.replace(":", "-")
    if machine.uuid is not None:
        values["uuid"] = machine.uuid
    if request.kind != DISCOVER and request.address is not None:
        values["ip"] = str(request.address)
    return values


def _chosen(menu: Menu, request: BootRequest) -> int | None:
    """Return the place of the item that was chosen; the octets are compared, as clients give back what they got."""
    types = [itemType(menu, place) for place in range(len(menu.items))]
    chosen = (request.item or b"")[:2]
    return types.index(chosen) if chosen in types and chosen != _LOCAL else None


def itemType(menu: Menu, place: int) -> bytes:
    """Return the two octets that stand for an item of a menu."""
    return _LOCAL if menu.items[place].boot is None else (pxe.FIRST_TYPE + place).to_bytes(2, "big")


# By which transport.


def _fetchable(
    inForce: RuleInForce, template: str | None, values: dict[str, str], machine: Machine, own: IPv4Address
) -> str | None:
    """Return the name of a file; L{None}: a placeholder has no value, or the machine cannot fetch it."""
    name = None if template is None else expand(template, values)
    if name is None or fileField(inForce.transports, name, machine, own) is None:
        return None
    return name


def fileField(transports: Sequence[ListenOptions], name: str, machine: Machine | None, own: IPv4Address) -> str | None:
    """
    Return what a machine is told: iPXE a URL of the first transport that it can use, firmware the plain name.

    @param machine: L{None}: the plainest firmware.
    @return: L{None}: none of the transports will do, or it does not fit into the packet.
    """
    for options in transports:
        try:
            path = options.bootPath(name, str(own))
        except ValueError:
            continue
        told = path.url if machine is not None and machine.ipxe else name if path.plain else None
        if path.feature and (machine is None or path.feature not in machine.features):
            continue
        if told is not None and len(told) <= LONGEST_NAME and told.isascii():
            return told
    return None


def _mtftp(candidate: Candidate, name: str, machine: Machine, own: IPv4Address) -> list[tuple[int, bytes]]:
    """
    Return the sub-options of MTFTP, for the ROM of a PC.  UEFI drops offers that have them, iPXE ignores them.
    """
    if machine.ipxe or candidate.architecture != pxe.BIOS:
        return []
    for options in candidate.inForce.transports:
        try:
            path = options.bootPath(name, str(own))
        except ValueError:
            continue
        if path.mtftp is not None:
            return pxe.mtftpSuboptions(*path.mtftp, pxe.MTFTP_LISTEN, pxe.MTFTP_SILENCE)
    return []


# What is said.


def answer(
    request: BootRequest, candidate: Candidate, there: Collection[str], own: IPv4Address, group: str | None
) -> Answer | None:
    """
    Build the answer to a request by a rule.

    @param there: those of the candidate's names whose files can be read.
    @param own: the address of this server.
    @param group: where menus are to look for it; L{None}: they name its address.
    @return: L{None}: its files are not there, or the answer would be longer than the client takes.
    """
    rule = candidate.inForce.rule
    present = [place for place, name in enumerate(candidate.names) if name is not None and name in there]
    if not present:
        return None
    shown = sorted({*present, *_localItems(rule)})
    # Much firmware has broken menus: one that leaves no choice is not shown.
    if rule.menu is not None and request.kind == DISCOVER and len(shown) > 1:
        where = None if group is None else IPv4Address(group)
        vendor = pxe.buildSuboptions(_menu(rule.menu, shown, own, where))
        return _answer(request, candidate, "", vendor, own, MENU)
    name = candidate.names[present[0]] or ""
    form = formFor(rule, request.machine, candidate.architecture)
    return _answer(request, candidate, name, _vendorOption(request, candidate, name, own, form), own, form)


def formFor(rule: BootRule, machine: Machine, architecture: int) -> str:
    """Return the form of an answer: UEFI of all ages asks back at port 4011, BIOS and iPXE need not."""
    if rule.answer != "auto":
        return rule.answer
    return DIRECT if machine.ipxe or architecture in pxe.OLD_FIRMWARE else ASK


def _localItems(rule: BootRule) -> list[int]:
    """Return the places of items that boot from the next device; no file of theirs can be missing."""
    return [] if rule.menu is None else [place for place, item in enumerate(rule.menu.items) if item.boot is None]


def _menu(menu: Menu, shown: Sequence[int], own: IPv4Address, group: IPv4Address | None) -> list[tuple[int, bytes]]:
    seconds = pxe.FOR_EVER if menu.wait is None else int(menu.wait)
    items = [(itemType(menu, place), menu.items[place].text) for place in shown]
    return pxe.menuSuboptions(own, items, seconds, menu.prompt, group)


def menuOption(menu: Menu, own: IPv4Address, group: str | None) -> list[tuple[int, bytes]]:
    """Return the sub-options of option 43 that show a whole menu."""
    return _menu(menu, range(len(menu.items)), own, None if group is None else IPv4Address(group))


def _vendorOption(request: BootRequest, candidate: Candidate, name: str, own: IPv4Address, form: str) -> bytes:
    """Return option 43 of an answer that names a file; empty: it has none, and UEFI asks at port 4011."""
    if request.item is not None:
        return pxe.buildSuboptions([(pxe.BOOT_ITEM, request.item)])
    if form == RASPBERRY_PI:
        return pxe.buildSuboptions(_RASPBERRY)
    if form == ASK:
        return b""
    return pxe.buildSuboptions([*_mtftp(candidate, name, request.machine, own), *_TAKE_FILE])


def _answer(
    request: BootRequest, candidate: Candidate, name: str, vendor: bytes, own: IPv4Address, form: str
) -> Answer | None:
    file = (fileField(candidate.inForce.transports, name, request.machine, own) or "") if name else ""
    datagram = dhcp.build(reply(request, file, vendor, own))
    if len(datagram) > dhcp.largestReply(request.packet):
        return None
    number, architecture = candidate.inForce.number, candidate.architecture
    return Answer(request.kind, datagram, destination(request), file, name, number, form, architecture)


def reply(request: BootRequest, file: str, vendor: bytes, own: IPv4Address) -> DhcpPacket:
    """
    Return the packet that answers a request: an OFFER without an address, or an ACK.

    @param vendor: option 43; empty: there is none.
    """
    asked = request.packet
    offer = request.kind == DISCOVER
    options = {
        dhcp.MESSAGE_TYPE: bytes([dhcp.OFFER if offer else dhcp.ACK]),
        dhcp.SERVER_ID: own.packed,
        dhcp.VENDOR_CLASS: pxe.PXE_CLIENT,
    }
    if dhcp.MACHINE_ID in asked.options:
        options[dhcp.MACHINE_ID] = asked.options[dhcp.MACHINE_ID]
    if vendor:
        options[dhcp.VENDOR_OPTION] = vendor
    if request.relay is not None and dhcp.RELAY_INFORMATION in asked.options:
        options[dhcp.RELAY_INFORMATION] = asked.options[dhcp.RELAY_INFORMATION]
    return DhcpPacket(
        op=dhcp.BOOTREPLY,
        htype=asked.htype,
        hlen=asked.hlen,
        xid=asked.xid,
        chaddr=asked.chaddr,
        # Without the flag a relay would have to send an offer to its address, which is none.
        flags=asked.flags | dhcp.BROADCAST if offer else asked.flags,
        ciaddr=asked.ciaddr,
        siaddr=own,
        giaddr=asked.giaddr,
        sname=str(own).encode(),
        file=file.encode(),
        options=options,
    )


def destination(request: BootRequest) -> Peer:
    """Return where an answer goes: an offer to all or to the relay, an ACK to where the request came from."""
    if request.kind != DISCOVER:
        return request.peer
    if request.relay is not None:
        return str(request.relay), dhcp.SERVER_PORT
    return "255.255.255.255", dhcp.CLIENT_PORT
