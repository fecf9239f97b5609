"""
Read the settings of tftpd64 and tftpd32, the servers for Windows: C{tftpd32.ini}.

The names are those of its help, I{Settings Entries}, and of its source (C{_services/settings.c}).
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address

from castd.errors import ConfigError
from castd.migrate import common
from castd.migrate.draft import ANY, Draft, OldMachine, Options, Place

SECTION, DHCP = "tftpd32", "dhcp"
#: Where the files of the base directory are looked for: a path of Windows is none here.
DIRECTORY = "/srv/tftp"
#: Bits of C{Services}.
TFTP_SERVER, DHCP_SERVER, SYSLOG_SERVER, TIME_SERVER, DNS_SERVER = 1, 4, 8, 16, 32
NONE, STANDARD, HIGH, READ_ONLY = "0", "1", "2", "3"
_OPTIONS = ("blksize", "timeout", "windowsize")

#: What only the program's window, its logs or Windows itself knows.
_NOTHING = frozenset(
    (
        "hide", "showprogressbar", "beep", "unixstrings", "virtualroot", "persistantleases", "dhcp ping",
        "dhcp double answer", "unicastbootp", "useeventlog", "console password", "keep transfer gui",
        "pipesyslogmsg", "savesyslogfile", "httpbasedirectory", "donot verify firewall", "maxretransmit",
        "ignore ack for last tftp packet", "dhcp localip", "enable ipv4", "lastwindowpos",
    )
)  # fmt: skip
#: What castd does not do, if it is switched on.
_LOST = {
    "md5": "it makes files with checksums: make them where the files are made",
    "dirtext": "it writes dir.txt: make it by a program of your own",
    "support for port option": "castd does not know the option port: use ports, or single-port",
    "reduce tftp path": "use strip or rewrite of the directory",
    "multicastport": "add a transport multicast",
    "multicastaddress": "add a transport multicast, with groups",
}


def read(files: Sequence[str], command: str | None, machine: OldMachine, draft: Draft) -> None:
    """Fill a draft from a settings file."""
    if command is not None or len(files) != 1:
        raise ConfigError("tftpd64: name its tftpd32.ini, and no command line")
    _Tftpd64Reader(machine, draft, files[0]).read()


class _Tftpd64Reader:
    def __init__(self, machine: OldMachine, draft: Draft, file: str) -> None:
        self._machine, self._draft, self._file = machine, draft, file
        self._text = machine.text(file)
        parser = configparser.RawConfigParser(strict=False, interpolation=None, delimiters=("=",))
        try:
            parser.read_string(self._text)
        except configparser.Error as error:
            raise ConfigError(f"{file}: {' '.join(str(error).split())}") from None
        sections = {name.lower(): parser[name] for name in parser.sections()}
        if SECTION not in sections:
            raise ConfigError(f"{file}: there is no section [TFTPD32]")
        self._settings: Mapping[str, str] = sections[SECTION]
        self._dhcp: Mapping[str, str] = sections.get(DHCP, {})
        self._known: set[str] = set(_NOTHING)

    def read(self) -> None:
        steps: tuple[Callable[[], None], ...] = (
            self._content,
            self._uploads,
            self._limits,
            self._transports,
            self._services,
            self._boot,
            self._others,
        )
        for step in steps:
            step()

    def _value(self, name: str) -> str:
        """Return a setting; C{""}: it is absent."""
        self._known.add(name)
        return self._settings.get(name, "").strip()

    def _place(self, name: str) -> Place:
        for number, line in enumerate(self._text.split("\n"), 1):
            if line.partition("=")[0].strip().lower() == name:
                return Place(self._file, number, line)
        return Place(self._file, 1, "")

    def _isOn(self, name: str) -> bool:
        return self._value(name) not in ("", "0")

    def _number(self, name: str, least: int, most: int) -> int | None:
        """Return a number; L{None}: it is absent, or 0, or wrong, which is noted."""
        if not self._isOn(name):
            return None
        found = common.wholeNumber(self._value(name), least, most)
        if found is None:
            self._wrong(name)
        return found

    def _wrong(self, name: str) -> None:
        place = self._place(name)
        self._draft.lose(place, f"{place.text.strip()}: it has no such value", "correct it, and try again")

    def _content(self) -> None:
        base = self._value("basedirectory") or "."
        place = self._place("basedirectory")
        options: Options = {"path": base}
        if not base.startswith("/"):
            options["path"] = DIRECTORY
            self._draft.lose(place, f"{base} is a folder of another machine", f"copy its files to {DIRECTORY}")
            if prefix := base.replace("\\", "/").strip("/."):
                options["strip"] = [prefix]
        # Windows ignores case.
        self._draft.serve(options | {"ignore-case": True}, place)
        self._folder = str(options["path"])

    def _uploads(self) -> None:
        level, place = self._value("securitylevel") or STANDARD, self._place("securitylevel")
        if level == NONE:
            self._draft.lose(place, "files of all disks may be read and written", "castd never leaves a directory")
        if level in (NONE, STANDARD):
            self._draft.store({"path": self._folder, "policy": "overwrite"}, place)
            self._draft.rule({"allow": ANY}, place)
            return
        if level not in (HIGH, READ_ONLY):
            self._wrong("securitylevel")
        if level == HIGH:
            what = "clients may write to files that are there and empty: here nobody may write"
            self._draft.lose(place, what, "add uploads: for some networks or names")
        self._draft.rule({"allow": ANY, "for": "read"}, place)

    def _limits(self) -> None:
        name = "max simultaneous transfers"
        if found := self._number(name, 1, 100_000):
            self._draft.limit("casts", found, self._place(name))

    def _transports(self) -> None:
        options: Options = {"port": 69}
        places = []
        if port := self._number("tftpport", 1, 0xFFFF):
            options["port"] = port
            places.append(self._place("tftpport"))
        addresses = self._addresses(places)
        ends = ("lowestudpport", "highestudpport")
        low, high = map(self._value, ends)
        if found := common.portRange(low, high):
            options["ports"] = found
            places += map(self._place, ends)
        else:
            for name in ends:
                if self._isOn(name):
                    self._wrong(name)
        if seconds := self._number("timeout", 1, 255):
            options["timeout"] = f"{seconds} s"
            places.append(self._place("timeout"))
        if self._settings.get("negociate", "1").strip() == "0":
            options["without"] = common.notGranted((*_OPTIONS, "tsize"))
            places.append(self._place("negociate"))
        elif self._isOn("pxecompatibility"):
            options["without"] = common.notGranted(_OPTIONS)
            places.append(self._place("pxecompatibility"))
        self._known.add("negociate")
        if self._isOn("winsize"):
            what = "blocks are sent ahead to clients that have not asked for it"
            self._draft.lose(
                self._place("winsize"), what, "nothing is to be done: castd sends windows to those that ask"
            )
        common.listenEverywhere(self._draft, addresses, options, *places)

    def _addresses(self, places: list[Place]) -> list[str]:
        given = self._value("localip")
        every = [ANY, "::"] if self._isOn("enable ipv6") and self._machine.ipv6 else [ANY]
        if not given:
            return every
        found = common.numericAddress(given)
        if found is None:
            self._draft.lose(
                self._place("localip"), f"{given} is no numeric address", "write the address as the interface"
            )
            return every
        places.append(self._place("localip"))
        return [found]

    def _services(self) -> None:
        given = self._number("services", 1, 1 << 16)
        if given is None:
            return
        place = self._place("services")
        if not given & TFTP_SERVER:
            self._draft.lose(place, "the TFTP server is switched off", "leave out the transport tftp")
        for bit, name, advice in (
            (DHCP_SERVER, "DHCP", "castd gives no addresses: use a DHCP server, such as dnsmasq or Kea"),
            (SYSLOG_SERVER, "syslog", "use rsyslog"),
            (TIME_SERVER, "time (SNTP)", "use chrony"),
            (DNS_SERVER, "DNS", "use a DNS server"),
        ):
            if given & bit:
                self._draft.lose(place, f"the {name} server", advice)

    def _boot(self) -> None:
        file = (self._dhcp.get("bootfile") or self._dhcp.get("boot file") or "").strip().replace("\\", "/").lstrip("/")
        if not file:
            return
        place = self._place("bootfile" if self._dhcp.get("bootfile") else "boot file")
        address = common.numericAddress(self._value("localip"))
        if "$" in file:
            self._draft.lose(place, f"{file}: a name for each machine", "write a rule of proxydhcp, with {mac}")
        elif address is None or address == ANY or ":" in address:
            self._draft.lose(
                place, f"{file} is what machines boot", "add a transport proxydhcp, at this machine's address"
            )
        else:
            rule = {"boot": file}
            self._draft.listen("proxydhcp", {"interface": str(IPv4Address(address)), "rules": [rule]}, place)

    def _others(self) -> None:
        for name, value in self._settings.items():
            if name in self._known or value.strip() in ("", "0"):
                continue
            place = self._place(name)
            if name == "tftplogfile":
                self._draft.tell(place, f"the log goes to {value}", common.ELSEWHERE["log"])
            else:
                self._draft.lose(place, name, _LOST.get(name, "it is not known here: see the help of tftpd64"))
