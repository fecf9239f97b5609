"""
Define the options of a transport of kind proxydhcp: the rules by which machines are told what to boot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Annotated, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from castd.errors import Refused
from castd.files import names
from castd.machines.known import validUuid
from castd.machines.words import LONGEST_VALUES, fill, parse
from castd.options import (
    Address,
    AnyNetwork,
    Clients,
    Duration,
    Frequency,
    GroupAddress,
    ServiceOptions,
    Settings,
    clients,
)
from castd.packets.dhcp import FILE
from castd.packets.pxe import ARCHITECTURES, HTTP_BOOT, IPXE_FEATURES, LARGEST_OPTION

#: Octets of the longest name or URL: one of the field is a zero.
LONGEST_NAME = FILE - 1
#: The longest value of each placeholder of a name.
PLACEHOLDERS = {
    "mac": LONGEST_VALUES["mac"],
    "uuid": LONGEST_VALUES["uuid"],
    "arch": max(ARCHITECTURES.values(), key=len),
    "ip": "255.255.255.255",
}

#: The word for firmware for x64, and its numbers: it says 7 or 9, whatever the RFC has.
_X64, UEFI_64 = "efi-x64", frozenset((7, 9))
#: The numbers that a word stands for.
NUMBERS: dict[str, tuple[int, ...]] = {
    word: (number,) for number, word in ARCHITECTURES.items() if number not in HTTP_BOOT
}
NUMBERS[_X64] = tuple(sorted(UEFI_64))

DIRECT, ASK, RASPBERRY_PI, MENU = "direct", "ask", "raspberry-pi", "menu"
_Item = TypeVar("_Item")
Form: TypeAlias = Literal["auto", "direct", "ask", "raspberry-pi"]


def expand(template: str, values: dict[str, str]) -> str | None:
    """
    Put values in the place of placeholders, C{{mac}}.

    @return: L{None}: a placeholder has no value.
    """
    return fill(parse(template, PLACEHOLDERS.keys()), values)


def _items(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def architectureNumbers(value: object) -> tuple[int, ...]:
    """
    Read architectures: one or several, each a word or a number; C{efi-x64} stands for 7 and 9.

    @raise ValueError: one is unknown, or of firmware that boots by HTTP.
    """
    found: dict[int, None] = {}
    for each in _items(value):
        text = str(each)
        if text in NUMBERS:
            found.update(dict.fromkeys(NUMBERS[text]))
        elif text in ARCHITECTURES.values() or (text.isdecimal() and int(text[:6]) in HTTP_BOOT):
            raise ValueError(f"{text} boots by HTTP, and is never answered")
        elif text.isascii() and text.isdecimal() and int(text[:6]) <= 0xFFFF:
            found[int(text)] = None
        else:
            raise ValueError(f"{text} is no architecture: write a word such as efi-x64, or its number")
    if not found:
        raise ValueError("an empty list is no architecture: leave it out for all")
    return tuple(found)


def architectureWords(numbers: Sequence[int]) -> tuple[str, ...]:
    """Write architectures as L{architectureNumbers} reads them: by words, where these stand for nothing else."""
    both = set(numbers) >= UEFI_64
    return tuple(dict.fromkeys(_architectureWord(number, both) for number in numbers))


def _architectureWord(number: int, both: bool) -> str:
    word = ARCHITECTURES.get(number, "")
    if number in UEFI_64:
        return _X64 if both else str(number)
    return word if word in NUMBERS else str(number)


def _showArchitectures(numbers: tuple[int, ...]) -> str | list[str]:
    return _short(architectureWords(numbers))


_MAC = re.compile(r"(?:[0-9a-f]{2}:){0,5}\*|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.ASCII)


def machinePatterns(value: object) -> tuple[str, ...]:
    """
    Read machines: hardware addresses, C{52:54:00:66:00:10}, beginnings of them, C{52:54:00:*}, and UUIDs.

    @return: in lower case.
    """
    found = []
    for each in _items(value):
        text = str(each).lower()
        if validUuid(text) is None:
            text = text.replace("-", ":")
            if _MAC.fullmatch(text) is None:
                raise ValueError(f"{each} is no machine: write 52:54:00:66:00:10, 52:54:00:* or a UUID")
        found.append(text)
    if not found:
        raise ValueError("an empty list is no machine: leave it out for all")
    return tuple(found)


def features(value: object) -> tuple[str, ...]:
    """Read words for features of iPXE, C{http}."""
    found = tuple(map(str, _items(value)))
    for each in found:
        if each not in IPXE_FEATURES:
            raise ValueError(f"{each} is no feature that iPXE lists: they are {', '.join(IPXE_FEATURES)}")
    return found


def bootName(name: str) -> str:
    """
    Read the name of a file that machines are told, with placeholders.

    @return: the name as a request for it is read, C{a/b} for C{./a//b}: by that a machine is known to fetch it.
    @raise ValueError: it cannot be told, or can never be a name of a file.
    """
    if not name.isascii() or not name.isprintable() or " " in name:
        raise ValueError("a machine can be told ASCII without blanks only")
    if "://" in name:
        raise ValueError("name a file of content:, and no URL: iPXE gets one that fits the transport of by:")
    if name.startswith("/"):
        raise ValueError("a name begins without a slash, since firmware does not agree on what it means")
    longest = expand(name, PLACEHOLDERS) or ""
    if len(longest) > LONGEST_NAME:
        raise ValueError(f"{len(longest)} octets, and DHCP has room for {LONGEST_NAME}")
    try:
        names.parts(longest)
        return names.text(names.parts(name))
    except Refused as refusal:
        raise ValueError(f"this is no name of a file: {refusal}") from None


def _withIpv4(value: tuple[AnyNetwork, ...]) -> tuple[AnyNetwork, ...]:
    if not any(isinstance(network, IPv4Network) for network in value):
        raise ValueError("no machine is in IPv6 networks alone: DHCPv6 has no proxies; name those of IPv4, or any")
    return value


def _wholeSeconds(value: float | None) -> float | None:
    if value is not None and value != int(value):
        raise ValueError(f"{value:g} s: ROMs count whole seconds, so write {max(1, round(value))} s")
    return value


def _text(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("firmware shows ASCII only")
    return value


def _someItems(value: tuple[_Item, ...]) -> tuple[_Item, ...]:
    # Not min_length, which complains of an empty list as well where each item has a fault.
    if not value:
        raise ValueError("an empty list says nothing")
    return value


def _names(value: object) -> tuple[str, ...]:
    found = tuple(map(str, _items(value)))
    if not found:
        raise ValueError("an empty list is no transport: leave it out for the first tftp at this interface")
    return found


def _listed(kind: str, *examples: object) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "array"], "format": kind, "examples": list(examples)})


def _short(value: tuple[str, ...]) -> str | list[str]:
    return value[0] if len(value) == 1 else list(value)


_WRITTEN = PlainSerializer(_short, when_used="json")

Architectures = Annotated[
    tuple[int, ...],
    PlainValidator(architectureNumbers),
    PlainSerializer(_showArchitectures, when_used="json"),
    _listed("architectures", "efi-x64"),
]
Machines = Annotated[tuple[str, ...], PlainValidator(machinePatterns), _WRITTEN, _listed("machines", "52:54:00:*")]
Features = Annotated[tuple[str, ...], PlainValidator(features), _WRITTEN, _listed("features of iPXE", "http")]
TransportNames = Annotated[
    tuple[str, ...],
    PlainValidator(_names),
    _WRITTEN,
    _listed("names of transports", "tftp"),
]
BootName = Annotated[str, AfterValidator(bootName), Field(min_length=1)]
Text = Annotated[str, AfterValidator(_text), Field(min_length=1, max_length=LARGEST_OPTION - 3)]


class MenuItem(Settings):
    """One line of a menu."""

    text: Text = Field(description="what is shown; EDK II cuts it after 70")
    boot: BootName | None = Field(None, description="the file; null: the machine goes on to its next boot device")


class Menu(Settings):
    """A menu that the firmware shows."""

    prompt: Text = Field("Press F8 for a menu", description="what is shown while it waits")
    wait: Annotated[Duration | None, AfterValidator(_wholeSeconds)] = Field(
        5.0,
        ge=0,
        le=254,
        description="whole seconds until the first item is taken; 0: at once; null: the menu is shown, and waits",
    )
    items: Annotated[tuple[MenuItem, ...], AfterValidator(_someItems)] = Field(
        description="the lines; items whose file is not there are left out"
    )

    @model_validator(mode="after")
    def _choice(self) -> Menu:
        if all(item.boot is None for item in self.items):
            raise ValueError("items: at least one needs boot: with none of them a machine is not answered")
        return self


class BootRule(Settings):
    """What some machines are told to boot."""

    arch: Architectures | None = Field(
        None, description="architectures, by word or number; efi-x64 is 7 and 9; null: all"
    )
    ipxe: bool | None = Field(None, description="true: iPXE only; false: firmware only; null: both")
    userClass: str | None = Field(None, min_length=1, description="DHCP's user class, such as an own build of iPXE has")
    lacks: Features = Field((), description="only an iPXE without these features, such as http")
    machines: Machines | None = Field(None, description="hardware addresses, with * at the end, and UUIDs; null: all")
    networks: Annotated[Clients, AfterValidator(_withIpv4)] = Field(
        clients("any"), description="that hold the relay, or the interface's whole network; on port 4011 the machine"
    )
    boot: BootName | None = Field(
        None, description="the file, as a TFTP client would ask for it; {mac}, {uuid}, {arch} and {ip} are replaced"
    )
    menu: Menu | None = Field(None, description="a menu in the place of boot")
    by: TransportNames | None = Field(
        None, description="transports that deliver it, the best first; null: the first tftp at this interface"
    )
    answer: Form = Field(
        "auto",
        description="direct: all is in the offer; ask: the machine asks at port 4011; auto: direct for BIOS and iPXE, "
        "ask for UEFI; raspberry-pi: as its ROM wants it",
    )

    @model_validator(mode="after")
    def _whole(self) -> BootRule:
        if (self.boot is None) == (self.menu is None):
            raise ValueError("a rule says either boot or menu")
        if self.lacks and not self.ipxe:
            raise ValueError("lacks: only iPXE lists its features: say ipxe: true as well")
        return self

    @property
    def templates(self) -> tuple[str | None, ...]:
        """The names of its files, with placeholders: one, or one for each item of the menu."""
        return (self.boot,) if self.menu is None else tuple(item.boot for item in self.menu.items)


def _oneAddress(value: str) -> str:
    if not value or ":" in value:
        raise ValueError("one IPv4 address of this machine: a proxy is never everywhere")
    return value


class Options(ServiceOptions):
    """The options of a transport of kind proxydhcp."""

    identifiesMachines: ClassVar[bool] = True

    interface: Annotated[Address, AfterValidator(_oneAddress)] = Field(
        description="IPv4 address of this machine; only what comes in by its interface is heard"
    )
    port67: bool = Field(
        True,
        alias="port-67",
        description="hear DISCOVERs; false: the DHCP server sends option 60 itself, and only port 4011 is used",
    )
    relays: bool = Field(
        False, description="answer what relays send to this address; needs port 67 of the address for itself"
    )
    clients: Annotated[Clients, AfterValidator(_withIpv4)] | None = Field(
        None, description="networks that are answered; null: those that the interface reaches directly"
    )
    rules: Annotated[tuple[BootRule, ...], AfterValidator(_someItems)] = Field(
        description="the first that matches and has its file decides; without one there is no answer"
    )
    discovery: GroupAddress | None = Field(
        None, description="group at which menus are to look for this server; null: menus name its address"
    )
    watch: bool = Field(True, description="report other servers that answer such machines, if port 68 can be heard")
    answers: Frequency = Field(200.0, ge=1, description="most answers to all machines together")
    answersPerMachine: Frequency = Field(2.0, ge=0.25, description="most answers to one machine, over four seconds")

    @model_validator(mode="after")
    def _relaysNeedPort(self) -> Options:
        if self.relays and not self.port67:
            raise ValueError("relays: they send to port 67: leave out port-67: false")
        return self
