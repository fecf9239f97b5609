"""
Read dnsmasq's configuration: what its TFTP server does, and what it tells machines to boot.

Its manual is C{dnsmasq(8)}; where that is silent the source of 2.90 was read (C{src/option.c}, C{src/tftp.c},
C{src/rfc2131.c}).  What it does as a DNS server, and as a DHCP server that gives addresses, stays with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import PurePosixPath
from typing import NamedTuple

from castd.errors import ConfigError
from castd.migrate import common
from castd.migrate.draft import ANY, Draft, OldMachine, Options, Place, Value
from castd.migrate.tags import BootConditions, Tags
from castd.migrate.words import CommandWord, filesToRead, ofCommand, started
from castd.packets.tftp import BLOCK_HEADERS
from castd.proxydhcp.options import UEFI_64, BootRule, bootName

DEFAULT_FILE, DEBIAN_FOLDER = "/etc/dnsmasq.conf", "/etc/dnsmasq.d"
PROGRAMS = ("dnsmasq",)
MOST_FILES = 200

_LETTERS = {
    "C": "conf-file", "7": "conf-dir", "M": "dhcp-boot", "F": "dhcp-range", "i": "interface", "a": "listen-address",
    "I": "except-interface", "u": "user", "g": "group", "U": "dhcp-vendorclass", "j": "dhcp-userclass",
    "4": "dhcp-mac", "O": "dhcp-option", "G": "dhcp-host", "J": "dhcp-ignore", "2": "no-dhcp-interface",
    "z": "bind-interfaces",
}  # fmt: skip

#: Options whose value may be the next word of a command line.
_WITH_VALUE = frozenset((*_LETTERS.values(), "tftp-root", "tftp-max", "tftp-mtu", "tftp-port-range", "pxe-service"))

#: What follows C{pxe-service}, as castd calls it, or its number.
_SYSTEMS = {
    "x86pc": "bios", "pc98": "pc98", "ia64_efi": "efi-itanium", "alpha": "alpha", "arc_x86": "arc",
    "intel_lean_client": "lean", "ia32_efi": "efi-x86", "x86-64_efi": "7", "xscale_efi": "efi-xscale",
    "bc_efi": "9", "arm32_efi": "efi-arm32", "arm64_efi": "efi-arm64",
}  # fmt: skip

#: Options of the DHCP server that are about booting, and what to do where castd does it.
_BOOT_OPTIONS = {
    "dhcp-ignore": "say in clients, or in machines of a rule, who is answered",
    "dhcp-pxe-vendor": "castd answers PXEClient only",
    "dhcp-reply-delay": "castd answers at once",
    "dhcp-circuitid": "castd does not look at what relays add",
    "dhcp-remoteid": "castd does not look at what relays add",
    "dhcp-subscrid": "castd does not look at what relays add",
    "dhcp-optsfile": "look for options 66 and 67 in it",
    "dhcp-optsdir": "look for options 66 and 67 in it",
    "dhcp-relay": "set relays: true, and clients, if machines are behind a relay",
    "dhcp-name-match": "castd does not look at names of machines",
    "no-dhcp-interface": "name the addresses as interfaces: TFTP is not served there either",
    "conf-script": "write its result into a file, and try again",
}
_READ_ELSEWHERE = frozenset(
    ("enable-tftp", "interface", "listen-address", "except-interface", "bind-interfaces", "bind-dynamic",
     "dhcp-match", "dhcp-userclass", "dhcp-vendorclass", "dhcp-mac", "tag-if")
)  # fmt: skip
#: The folder of each machine below C{tftp-root}, by the value of C{tftp-unique-root}.
_UNIQUE = {"": "{ip}", "ip": "{ip}", "mac": "{mac}"}
#: Where a reader's advice needs to know an interface.
_SAY_INTERFACE = "give it: --interface NAME=ADDRESS/LENGTH"
#: What a menu says to the ROM of a Raspberry Pi, which looks for this text and then asks by TFTP for files of its own.
_RASPBERRY_PI = "Raspberry Pi Boot"
#: Where a menu names no file, or none that is asked for.
_NO_FILE = "nothing, for a PC; for a Raspberry Pi write a rule with boot: bootcode.bin and answer: raspberry-pi"
#: Numbers and names of DHCP options that are about booting.
_BOOT_NUMBERS = frozenset(("43", "60", "66", "67", "150", "175", "tftp-server", "bootfile-name", "vendor-class"))


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One line of the configuration.

    @ivar values: what stands behind C{=}, split at its commas.
    """

    name: str
    values: tuple[str, ...]
    place: Place

    @property
    def first(self) -> str:
        """The first value; C{""}: there is none."""
        return self.values[0] if self.values else ""


@dataclass(frozen=True, slots=True)
class BootEntry:
    """
    What a C{dhcp-boot} or a C{pxe-service} says.

    @ivar file: the name of the file; L{None}: the next boot device.
    @ivar text: the line of the menu; C{""}: of C{dhcp-boot}.
    """

    conditions: BootConditions
    file: str | None
    text: str
    place: Place


class MenuPrompt(NamedTuple):
    """
    What a C{pxe-prompt} says.

    @ivar wait: for how many seconds it is shown; L{None}: for ever.
    """

    text: str
    wait: int | None
    place: Place


def read(files: Sequence[str], command: str | None, machine: OldMachine, draft: Draft) -> None:
    """Fill a draft from files, or from a command line."""
    settings = _Lines(machine, draft)
    if command is not None:
        settings.words(ofCommand(command))
    for file in filesToRead(files, command, DEFAULT_FILE):
        words = started(file, PROGRAMS, machine, draft)
        if words is None:
            settings.file(file)
        else:
            settings.words(words)
    settings.tellUnread()
    _DnsmasqReader(machine, draft, settings.found).read()


class _Lines:
    """Collects the settings of all files, in their order."""

    def __init__(self, machine: OldMachine, draft: Draft) -> None:
        self._machine, self._draft = machine, draft
        self._read: set[str] = set()
        self.found: list[Setting] = []

    def words(self, words: Sequence[CommandWord]) -> None:
        """Read the words of a command line."""
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            if word.text.startswith("--"):
                name, _, value = word.text[2:].partition("=")
            elif word.text.startswith("-"):
                name, value = _LETTERS.get(word.text[1:2], word.text), word.text[2:]
            else:
                self._draft.lose(word.place, f"{word.text}: no option of dnsmasq", "see dnsmasq's manual")
                continue
            if not value and name in _WITH_VALUE and waiting and not waiting[0].text.startswith("-"):
                value = waiting.pop(0).text
            self._add(name, value, word.place.of(f"{name}={value}" if value else name))

    def file(self, path: str) -> None:
        """Read one file, and those that it includes."""
        if path in self._read:
            return
        if len(self._read) >= MOST_FILES:
            raise ConfigError(f"{path}: not read, as {MOST_FILES} files were read before")
        self._read.add(path)
        for number, line in enumerate(self._machine.text(path).split("\n"), 1):
            text = _withoutComment(line).strip()
            if text:
                name, _, value = text.partition("=")
                self._add(name.strip(), value.strip(), Place(path, number, text))

    def tellUnread(self) -> None:
        """Note files that Debian's dnsmasq reads without being told so by its configuration."""
        folder = self._machine.where(DEBIAN_FOLDER)
        names = sorted(each.name for each in folder.glob("*") if each.is_file()) if DEFAULT_FILE in self._read else []
        unread = [name for name in names if f"{DEBIAN_FOLDER}/{name}" not in self._read and name != "README"]
        if unread and not any(path.startswith(DEBIAN_FOLDER) for path in self._read):
            what = f"{DEBIAN_FOLDER}, which Debian's dnsmasq reads as well: {', '.join(unread)}"
            self._draft.lose(Place(DEFAULT_FILE, 1, ""), what, "name these files, too")

    def _add(self, name: str, value: str, place: Place) -> None:
        setting = Setting(name, tuple(_split(value)), place)
        try:
            if name == "conf-file":
                self.file(setting.first)
            elif name == "conf-dir":
                self._folder(setting)
            else:
                self.found.append(setting)
        except ConfigError as error:
            self._draft.lose(place, str(error), "copy it as well, and try again")

    def _folder(self, setting: Setting) -> None:
        """Read the files of a folder, in the order of their names, but for those that an extension leaves out."""
        path, *extensions = setting.values or ("",)
        wanted = [each[1:] for each in extensions if each.startswith("*")]
        unwanted = [each for each in extensions if not each.startswith("*")]
        try:
            names = sorted(each.name for each in self._machine.where(path).iterdir() if each.is_file())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        for name in names:
            hidden = name.endswith("~") or name.startswith(".") or (name.startswith("#") and name.endswith("#"))
            if hidden or name.endswith(tuple(unwanted)) or (wanted and not name.endswith(tuple(wanted))):
                continue
            self.file(str(PurePosixPath(path, name)))


_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",]+)|(,)')
_ESCAPES = {"t": "\t", "e": "\x1b", "b": "\b", "r": "\r", "n": "\n"}


def _withoutComment(line: str) -> str:
    """Cut a comment off: a C{#} at the beginning, or behind a blank, outside of quotation marks."""
    quoted = False
    for at, letter in enumerate(line):
        if letter == '"' and (at == 0 or line[at - 1] != "\\"):
            quoted = not quoted
        elif letter == "#" and not quoted and (at == 0 or line[at - 1].isspace()):
            return line[:at]
    return line


def _split(value: str) -> Iterator[str]:
    """Split a value at its commas; quotation marks and what they protect are resolved."""
    part, found = "", False
    for quoted, plain, comma in _QUOTED.findall(value):
        if comma:
            yield part.strip()
            part = ""
        else:
            part += plain or re.sub(r"\\(.)", lambda each: _ESCAPES.get(each[1], each[1]), quoted)
        found = True
    if found:
        yield part.strip()


class _DnsmasqReader:
    def __init__(self, machine: OldMachine, draft: Draft, settings: Sequence[Setting]) -> None:
        self._machine, self._draft, self._settings = machine, draft, settings
        self._tags = Tags()
        self._boots: list[BootEntry] = []
        self._menu: list[BootEntry] = []
        self._prompts: list[MenuPrompt] = []
        self._rest = 0
        self._options: Options = {"port": 69}
        self._places: list[Place] = []
        self._unique: dict[str, Place] = {}
        self._lowercase = False
        self._lostOfIpxe = False

    def read(self) -> None:
        tftp = self._all("enable-tftp")
        # Tags are made of other tags once all of these are known.
        for setting in sorted(self._settings, key=lambda each: each.name == "tag-if"):
            self._tag(setting)
        for setting in self._settings:
            self._take(setting)
        if not tftp:
            cure = "for what machines boot, add enable-tftp and tftp-root to a copy of its file, and import that"
            raise ConfigError(f"dnsmasq: no enable-tftp: its TFTP server is another program, to be imported; {cure}")
        addresses = self._addresses(tftp)
        self._content()
        self._proxy(addresses, tftp[-1].place)
        if self._rest:
            what = f"lines about DNS, addresses and other options of DHCP: {self._rest}"
            self._draft.tell(tftp[-1].place, what, "they stay with dnsmasq; take out of its file what is carried over")

    def _all(self, name: str) -> list[Setting]:
        return [each for each in self._settings if each.name == name]

    def _last(self, name: str) -> Setting | None:
        return next(iter(self._all(name)[::-1]), None)

    # Tags, which conditions have.

    def _tag(self, setting: Setting) -> None:
        """Learn which machines a line gives a tag."""
        if setting.name in ("dhcp-match", "dhcp-userclass", "dhcp-vendorclass", "dhcp-mac", "tag-if", "dhcp-host"):
            if not self._tags.learn(setting.name, setting.values, setting.place.text):
                what = f"{setting.place.text}: castd cannot tell machines by it"
                self._draft.lose(setting.place, what, "rules with this tag are left out: write them by hand")
        elif setting.name == "dhcp-range":
            for tag in (each[4:] for each in setting.values if each.startswith("set:")):
                self._tags.forget(tag)

    # Lines.

    def _take(self, setting: Setting) -> None:
        name = setting.name
        if name.startswith("tftp-"):
            self._tftp(setting)
        elif name == "dhcp-boot":
            self._boot(setting)
        elif name == "pxe-service":
            self._service(setting)
        elif name == "pxe-prompt":
            self._prompt(setting)
        elif name in ("user", "group"):
            self._draft.tell(setting.place, name, common.ELSEWHERE["user"])
        elif name in _BOOT_OPTIONS:
            self._draft.lose(setting.place, setting.place.text, _BOOT_OPTIONS[name])
        elif name in ("dhcp-option", "dhcp-option-force") and self._isAboutBooting(setting):
            self._draft.lose(setting.place, setting.place.text, "take it out of dnsmasq's file: castd says it, or must")
        elif name == "dhcp-range":
            self._range(setting)
        elif name not in _READ_ELSEWHERE:
            self._rest += 1

    def _isAboutBooting(self, setting: Setting) -> bool:
        values = [each for each in setting.values if not each.startswith(("tag:", "set:"))]
        first = values[0].removeprefix("option:") if values else ""
        return first in _BOOT_NUMBERS or first.startswith(("vendor:PXEClient", "encap:175", "encap:43"))

    def _range(self, setting: Setting) -> None:
        if "proxy" not in setting.values:
            advice = "leave that to dnsmasq, without enable-tftp, dhcp-boot and pxe-service"
            if not self._all("bind-interfaces") and not self._all("bind-dynamic"):
                # Else it has port 67 for itself, and a proxydhcp of the same machine does not start.
                advice += ", and with bind-interfaces, which shares its port"
            self._draft.tell(setting.place, "dnsmasq gives addresses: castd gives none", advice)

    def _tftp(self, setting: Setting) -> None:
        name, value, place = setting.name, setting.first, setting.place
        if name == "tftp-root" and value:
            return
        if name == "tftp-max" and (number := common.wholeNumber(value, 1, 100_000)):
            self._draft.limit("casts", number, place)
        elif name == "tftp-mtu" and (number := common.wholeNumber(value, 576, 65535)):
            self._option("blksize", max(number - BLOCK_HEADERS, 8), place)
        elif name == "tftp-no-blocksize":
            self._option("without", common.notGranted(["blksize"]), place)
        elif name == "tftp-port-range" and (found := common.portRange(*(*setting.values, "", "")[:2])):
            self._option("ports", found, place)
        elif name == "tftp-single-port":
            self._option("single-port", True, place)
        elif name == "tftp-lowercase":
            self._lowercase = True
            what = "names are not changed to lower case: case is ignored, which finds more files"
            self._draft.tell(place, what, "nothing is to be done")
        elif name == "tftp-no-fail":
            self._draft.lose(place, name, "castd does not start without its directories")
        elif name == "tftp-secure":
            what = "only files of dnsmasq's user are given"
            self._draft.lose(place, f"{name}: {what}", "set world-readable, or keep other files out of the directory")
        elif name == "tftp-unique-root" and value.lower() in _UNIQUE:
            self._unique[_UNIQUE[value.lower()]] = place
        else:
            self._draft.lose(place, place.text, "it is not known here, or has no such value: see dnsmasq's manual")

    def _option(self, name: str, value: Value, place: Place) -> None:
        self._options[name] = value
        self._places.append(place)

    # Addresses and content.

    def _addresses(self, enabled: Sequence[Setting]) -> list[str]:
        """Add a C{tftp} at each address that dnsmasq serves at.  -> these addresses."""
        interfaces = [(each, setting.place) for setting in enabled for each in setting.values if each]
        listed = [(each, setting.place) for setting in self._all("listen-address") for each in setting.values]
        if not interfaces:
            interfaces = [(each, setting.place) for setting in self._all("interface") for each in setting.values]
        found: dict[str, Place] = {}
        loopback: dict[str, Place] = {}
        elsewhere = False
        for name, place in interfaces:
            known = self._machine.interfaces.get(name)
            elsewhere = elsewhere or known is None or not known.is_loopback
            if known is None:
                what = f"{name} has no IPv4 address here"
                self._draft.lose(place, what, f"write the address as the interface, or {_SAY_INTERFACE}")
            else:
                (loopback if known.is_loopback else found)[str(known.ip)] = place
        for each, place in listed:
            address = common.numericAddress(each)
            local = address is not None and ip_address(address.partition("%")[0]).is_loopback
            elsewhere = elsewhere or not local
            if address is None:
                self._draft.lose(place, f"{each} is no numeric address", "write the address as the interface")
            elif address != ANY:
                (loopback if local else found)[address] = place
        if not elsewhere:
            # Machines ask at others; but all addresses would be more than dnsmasq serves at.
            found = loopback
        for setting in self._all("except-interface"):
            for each in setting.values:
                known = self._machine.interfaces.get(each)
                # Without the last address castd would serve at all.
                isLast = known is not None and list(found) == [str(known.ip)]
                if isLast or (not found and each != "lo"):
                    self._draft.lose(setting.place, setting.place.text, "name the addresses as interfaces")
                elif known is not None:
                    found.pop(str(known.ip), None)
        places = [*found.values(), enabled[-1].place, *self._places]
        every = self._wildcard()
        common.listenEverywhere(self._draft, found or every, self._options, *dict.fromkeys(places))
        return [each for each in found or every if ":" not in each]

    def _wildcard(self) -> list[str]:
        """Return where castd listens if dnsmasq does everywhere: at known addresses, if it says what to boot."""
        networks = [each for setting in self._all("dhcp-range") for each in setting.values]
        own = dict.fromkeys(filter(None, map(self._machine.addressIn, networks)))
        if own and (self._boots or self._menu):
            return list(own)
        return [ANY, "::"] if self._machine.ipv6 else [ANY]

    def _content(self) -> None:
        roots = [each for each in self._all("tftp-root") if each.first]
        own = [each for each in roots if len(each.values) > 1]
        shared = [each for each in roots if len(each.values) < 2]
        root = self._last("user")
        options: Options = {"world-readable": True} if root is not None and root.first == "root" else {}
        if self._lowercase:
            options["ignore-case"] = True
        for each in own:
            known = self._machine.interfaces.get(each.values[1])
            if known is None:
                what = f"{each.first}: what is served at {each.values[1]}"
                self._draft.lose(each.place, what, "add the directory, with the networks of that interface")
            else:
                self._directory(each.first, {**options, "networks": [str(known.network)]}, each.place)
        if own and shared:
            what = "a file that is not there is looked for in the common tftp-root as well"
            self._draft.tell(own[0].place, what, "nothing is to be done, unless it must not be found there")
        if shared:
            self._directory(shared[-1].first, options, shared[-1].place)
        elif not self._all("tftp-root"):
            enabled = self._all("enable-tftp")[-1].place
            self._draft.serve({"path": "/", "world-readable": True}, enabled)
            what = "no tftp-root: dnsmasq then gives every file on the disk that it may read"
            self._draft.tell(enabled, what, "name a directory in content, in place of /")
        self._tellUnique(bool(roots))

    def _directory(self, path: str, options: Options, place: Place) -> None:
        """Add a directory, behind that of each machine in it; an absolute name within it is taken as it is."""
        prefix = common.prefixOf(path)
        strip: Options = {"strip": [prefix]} if prefix else {}
        words = sorted(self._unique)
        # Where dnsmasq is told both, the folder by MAC is one within that by address, if there is one.
        for below in dict.fromkeys(("/".join(words), *words)) if words else ():
            self._draft.serve({"path": path, **options}, place, *self._unique.values(), below=below)
        self._draft.serve({"path": path, **strip, **options}, place)

    def _tellUnique(self, rooted: bool) -> None:
        """Note what is different where each machine has a folder of its own."""
        place = next(iter(self._unique.values()), None)
        if place is None:
            return
        if not rooted:
            self._draft.tell(place, "tftp-unique-root does nothing without tftp-root", "nothing is to be done")
            return
        what = "what the folder of a machine does not have is looked for in the common one as well"
        self._draft.tell(place, what, "nothing is to be done, unless it must not be found there")
        if "{ip}" in self._unique and self._machine.ipv6:
            what = "the folder of an IPv6 address has dashes in its name in place of colons"
            self._draft.tell(place, what, "rename such folders, if there are any")

    # What machines boot.

    def _boot(self, setting: Setting) -> None:
        tags, values = _tagsOf(setting.values)
        file, _, server = (*values, "", "", "")[:3]
        if entry := self._entry(setting, tags, file, server, ""):
            self._boots.append(entry)

    def _service(self, setting: Setting) -> None:
        tags, values = _tagsOf(setting.values)
        system, text, name, server = (*values, "", "", "", "")[:4]
        if name.isdecimal() and name != "0":
            what = f"{setting.place.text}: boot servers of another kind"
            self._draft.lose(setting.place, what, "let the menu load a boot loader that goes on to it")
            return
        if name and text.startswith(_RASPBERRY_PI):
            what = f"{setting.place.text}: a Raspberry Pi looks for this text, and asks for no such file"
            self._draft.lose(setting.place, what, _NO_FILE)
            return
        if name and name != "0" and "." not in name:
            # dnsmasq leaves the layer to the client, which is 0.
            name += ".0"
        try:
            only = BootConditions().withArch(_numbered(system))
        except ValueError as error:
            self._draft.lose(setting.place, f"{system}: {error}", "write the rule by hand")
            return
        if not self._tellsUefiApart():
            only = only.widened()
        if entry := self._entry(setting, tags, "" if name == "0" else name, server, text or "Boot"):
            joined = entry.conditions.joined(only)
            if joined is not None:
                self._menu.append(BootEntry(joined, entry.file, entry.text, entry.place))

    def _prompt(self, setting: Setting) -> None:
        """Learn the prompt of menus, and how long it is shown: without a number for ever."""
        tags, values = _tagsOf(setting.values)
        text, seconds = (*values, "", "")[:2]
        wait = common.wholeNumber(seconds, 0, 254)
        if wait is None and seconds:
            what = f"{setting.place.text}: the prompt waits for ever, as {seconds} is no number from 0 to 254"
            self._draft.lose(setting.place, what, "write wait in the menus")
        if tags:
            what = f"{setting.place.text}: all machines get the last prompt"
            self._draft.lose(setting.place, what, "write prompt and wait in the menu of these machines")
        self._prompts.append(MenuPrompt(text, wait, setting.place))

    def _tellsUefiApart(self) -> bool:
        """Return whether the menus are others for one number of UEFI with 64 bits than for the other."""
        systems = [_tagsOf(each.values)[1] for each in self._all("pxe-service")]
        return {_numbered(each[0]) for each in systems if each} >= set(map(str, UEFI_64))

    def _entry(self, setting: Setting, tags: Sequence[str], file: str, server: str, text: str) -> BootEntry | None:
        """Return what one line says; L{None}: it cannot be carried over, which is noted."""
        own = [str(each.ip) for each in self._machine.interfaces.values()]
        own += [each for found in self._all("listen-address") for each in found.values]
        found = re.fullmatch(r"tftp://([^/:]+)(?::69)?/(.+)", file)
        if found:
            server, file = server or found[1], found[2]
        conditions = BootConditions()
        try:
            conditions = self._tags.conditions(tags)
            if server not in ("", "0.0.0.0", *own):
                raise ValueError(f"{server} is not known as an address of this machine, and castd names itself only")
            if "://" in file:
                raise ValueError("castd tells no URL of another protocol")
            name = bootName(file.lstrip("/")) if file else None
            if name is not None and "{" in name:
                raise ValueError("castd would put a value in the place of {…}")
        except ValueError as error:
            advice = "write the rule by hand; a script that castd serves can chain to a URL or another server"
            self._draft.lose(setting.place, f"{setting.place.text}: {error}", advice)
            self._lostOfIpxe |= conditions.ipxe is True
            return None
        if name is None and not text:
            self._draft.lose(setting.place, f"{setting.place.text}: no file", "write the rule by hand")
            return None
        return BootEntry(conditions, name, text, setting.place)

    def _proxy(self, addresses: Sequence[str], enabled: Place) -> None:
        rules = [(self._forFirmware(rule), place) for rule, place in self._rules()]
        if not rules:
            return
        places = [place for _, place in rules]
        here = [each for each in addresses if each != ANY]
        if not here:
            what = "what machines boot is not carried over: it is not known at which address"
            self._draft.lose(places[0], what, f"write a transport proxydhcp, or {_SAY_INTERFACE}")
            return
        for address in here:
            own = str(IPv4Address(address))
            self._draft.listen("proxydhcp", {"interface": own, "rules": [rule for rule, _ in rules]}, enabled)
            name = list(self._draft.transports)[-1]
            for number, place in enumerate(places):
                self._draft.comment(("transports", name, "rules", number), place)

    def _forFirmware(self, rule: Options) -> Options:
        """Keep iPXE out of a rule for everybody if its own is lost: else it would be told to load iPXE, for ever."""
        return {"ipxe": False, **rule} if self._lostOfIpxe and "ipxe" not in rule else rule

    def _rules(self) -> Iterator[tuple[Options, Place]]:
        """
        Yield the rules in the order in which dnsmasq decides.

        Of C{dhcp-boot} those with tags come first, the last line before the others.  Where there are menus, iPXE takes
        their file before a menu, and firmware the menu before their file.
        """
        tagged = [each for each in reversed(self._boots) if each.conditions != BootConditions()]
        others = [each for each in reversed(self._boots) if each.conditions == BootConditions()][:1]
        if menus := list(self._menus()):
            ofIpxe = [at for at, each in enumerate(tagged, 1) if each.conditions.ipxe]
            for entry in tagged[: max(ofIpxe, default=0)]:
                if entry.conditions.ipxe is not False:
                    yield replace(entry.conditions, ipxe=True).asRule() | {"boot": entry.file}, entry.place
            yield from menus
            tagged = [each for each in tagged if not each.conditions.ipxe]
        for entry in (*tagged, *others):
            yield entry.conditions.asRule() | {"boot": entry.file}, entry.place

    def _menus(self) -> Iterator[tuple[Options, Place]]:
        """Yield a rule for each kind of machine that C{pxe-service} names: one file, or a menu."""
        for conditions, entries in self._menusByConditions():
            rule = conditions.asRule()
            if len(entries) == 1 and entries[0].file is not None:
                yield rule | {"boot": entries[0].file}, entries[0].place
                continue
            if all(each.file is None for each in entries):
                for each in entries:
                    what = f"{each.place.text}: castd does not answer a menu without a file"
                    self._draft.lose(each.place, what, _NO_FILE)
                continue
            items = [_item(each) for each in entries]
            found: Options = rule | {"menu": {**self._prompted(), "items": items}}
            try:
                BootRule.model_validate(found)
            except ValueError:
                for each in entries:
                    self._draft.lose(each.place, f"{each.place.text}: no menu of castd", "shorten its texts, in ASCII")
                continue
            yield found, entries[0].place

    def _menusByConditions(self) -> list[tuple[BootConditions, list[BootEntry]]]:
        """
        Return what machines of each kind can choose from: dnsmasq shows all lines that are for a machine in one menu.

        The first rule that matches decides: so those for fewer machines go before those that these are among.
        """
        kinds = list(dict.fromkeys(each.conditions for each in self._menu))
        for at, each in enumerate(kinds):
            if any(each.overlaps(other) for other in kinds[:at]):
                place = next(entry.place for entry in self._menu if entry.conditions == each)
                what = f"{place.text}: machines that a line above is for as well get that one's alone"
                self._draft.lose(place, what, "write a rule with a menu of both for them")
        ordered = sorted(kinds, key=lambda each: -sum(map(each.within, kinds)))
        return [(each, [entry for entry in self._menu if each.within(entry.conditions)]) for each in ordered]

    def _prompted(self) -> Options:
        """Return the prompt of menus: without one they are shown at once, and wait."""
        if not self._prompts:
            return {"wait": None}
        text, wait, place = self._prompts[-1]
        self._draft.comment(("transports", "proxydhcp"), place)
        return {"prompt": text or "Press F8 for a menu", "wait": None if wait is None else f"{wait} s"}


def _numbered(system: str) -> str:
    """Return an architecture of C{pxe-service} as L{BootConditions.withArch} reads it."""
    return _SYSTEMS.get(system.lower(), system)


def _item(entry: BootEntry) -> Value:
    return {"text": entry.text} if entry.file is None else {"text": entry.text, "boot": entry.file}


def _tagsOf(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split values into tags, and what stands behind them."""
    at = next((at for at, each in enumerate(values) if not each.startswith(("tag:", "net:"))), len(values))
    return [each[4:] for each in values[:at]], list(values[at:])
