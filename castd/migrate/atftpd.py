"""
Read how atftpd is started: C{/etc/default/atftpd}, a line of inetd, a file of xinetd, a unit of systemd, or the command
line; its file of patterns (C{--pcre}), and C{mtftp.conf}.

Its manual is C{atftpd(8)}, with C{README.PCRE}.  Where these are silent the source of 0.8.0 was read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, summarize_address_range

from castd.dialects.mtftp import readFiles
from castd.errors import ConfigError
from castd.migrate import common, patterns
from castd.migrate.draft import ANY, Draft, OldMachine, Options, Place, Value
from castd.migrate.words import (
    CommandWord,
    GivenOption,
    GivenOptions,
    OptionReader,
    assignments,
    commandWords,
    filesToRead,
    split,
)

DEFAULT_FILE = "/etc/default/atftpd"
PROGRAMS = ("atftpd", "in.tftpd", "tftpd")
#: What atftpd serves if no directory is named, and its port for MTFTP.
DIRECTORY, MTFTP_PORT = "/tftpboot", 75

_OPTIONS = OptionReader(
    {"t": "tftpd-timeout", "r": "retry-timeout", "m": "maxthread", "v": "verbose", "V": "version", "h": "help"},
    ["trace", "no-timeout", "no-tsize", "no-blksize", "no-windowsize", "no-multicast", "daemon", "no-fork",
     "prevent-sas", "mcast-switch-client", "listen-local", "no-source-port-checking", "verbose", "version", "help"],
    ["tftpd-timeout", "retry-timeout", "maxthread", "logfile", "pidfile", "user", "group", "port", "bind-address",
     "mcast-ttl", "mcast-addr", "mcast-port", "pcre", "pcre-test", "mtftp", "mtftp-port"],
)  # fmt: skip
_ELSEWHERE = {
    "user": "user", "group": "user", "pidfile": "pidfile", "tftpd-timeout": "inetd", "verbose": "log", "trace": "log",
    "logfile": "log", "daemon": "daemon", "no-fork": "daemon",
}  # fmt: skip
_ALWAYS = {
    "prevent-sas": "castd never answers a duplicate ACK with a block",
    "mcast-switch-client": "castd gives the turn to the next client when one falls silent",
}
_LOST = {
    "no-source-port-checking": "single-port: true helps behind NAT; castd never takes a packet from another port",
    "listen-local": "write the address as the interface",
    "pcre-test": "castd explain says what a name becomes",
    "version": "with it the server only says its version",
    "help": "with it the server only says how it is called",
}
_MULTICAST = ("mcast-addr", "mcast-port", "mcast-ttl")
_NOT_GRANTED = ("no-timeout", "no-tsize", "no-blksize", "no-windowsize")


def read(files: Sequence[str], command: str | None, machine: OldMachine, draft: Draft) -> None:
    """Fill a draft from files, or from a command line."""
    _AtftpdReader(machine, draft).read(files, command)


class _AtftpdReader:
    def __init__(self, machine: OldMachine, draft: Draft) -> None:
        self._machine, self._draft = machine, draft
        self._given = GivenOptions(draft)
        self._folder: CommandWord | None = None
        self._start = Place("atftpd", 1, "")

    def read(self, files: Sequence[str], command: str | None) -> None:
        files = filesToRead(files, command, DEFAULT_FILE)
        words = commandWords(files, command, PROGRAMS, self._machine, self._draft, self._variables)
        if words:
            self._start = words[0].place
        for each in _OPTIONS.read(words, self._draft):
            self._take(each)
        path = self._folder.text if self._folder else DIRECTORY
        places = [self._folder.place] if self._folder else []
        self._content(path, places)
        self._uploads(path, places)
        if limit := self._given.number("maxthread", 1, 100_000):
            self._draft.limit("casts", limit, self._given["maxthread"].place)
        self._transports()

    def _variables(self, file: str) -> list[CommandWord]:
        found = assignments(self._machine.text(file), file, self._draft)
        if "OPTIONS" not in found:
            raise ConfigError(common.startsNothing(file, "atftpd", "OPTIONS"))
        value, place = found["OPTIONS"]
        return [CommandWord(word.text, place) for word in split(value, place)]

    def _take(self, each: GivenOption) -> None:
        if not each.name:
            self._folder = self._folder or CommandWord(each.value, each.place)
        elif each.name in _ALWAYS:
            self._draft.tell(each.place, f"--{each.name}", _ALWAYS[each.name])
        elif each.name in _LOST:
            self._draft.lose(each.place, f"--{each.name}", _LOST[each.name])
        else:
            if each.name in _ELSEWHERE:
                self._draft.tell(each.place, f"--{each.name}", common.ELSEWHERE[_ELSEWHERE[each.name]])
            self._given[each.name] = each

    # Content.

    def _content(self, path: str, places: list[Place]) -> None:
        options: Options = {"path": path}
        if prefix := common.prefixOf(path):
            # A name that begins with the directory is taken as it is.
            options["strip"] = [prefix]
        self._draft.serve(options, *places)
        for rule, place in self._rules():
            # A name that is not there is looked for under the name that the first pattern which matches makes of it.
            route = self._draft.serve(options | {"rewrite": [rule]}, *places)
            self._draft.comment(route[:-1], place)

    def _rules(self) -> list[tuple[Options, Place]]:
        given = self._given.get("pcre")
        found: list[tuple[Options, Place]] = []
        if given is None:
            return found
        text = self._machine.text(given.value).removesuffix("\n")
        for number, line in enumerate(text.split("\n") if text else [], 1):
            place = Place(given.value, number, line)
            fields = line.split()
            if len(fields) != 2:
                what = "no pair of pattern and replacement: atftpd ignores the whole file because of such a line"
                self._draft.lose(place, what, "the other lines are carried over; see whether that is wanted")
                continue
            try:
                rule: Options = {
                    "from": patterns.withoutLeadingSlash(fields[0]),
                    "to": patterns.pcreReplacement(fields[1]),
                }
                if patterns.isRule(rule, place, self._draft):
                    found.append((rule, place))
            except ValueError as error:
                self._draft.lose(place, str(error), "write an expression that RE2 knows, without looking around")
        return found

    def _uploads(self, path: str, places: list[Place]) -> None:
        given = self._given.get("user")
        user = re.split(r"[.:]", given.value if given else "nobody")[0]
        stores = self._machine.stores(path, user)
        place = places[0] if places else self._start
        if stores:
            for under in filter(None, (common.prefixOf(path), "-")):
                options: Options = {"path": path, "policy": "overwrite"}
                self._draft.store(options | ({} if under == "-" else {"under": under}), place)
            self._draft.rule({"allow": ANY}, place)
        elif stores is None:
            self._draft.lose(
                place,
                f"atftpd stores uploads where its user may write; it is not known whether it may in {path}",
                "if clients upload, add uploads: and an access rule for: write",
            )
        else:
            self._draft.tell(
                place,
                f"atftpd stores uploads where its user may write, and {user} may not in {path} itself",
                "if there is such a folder below it, add uploads: and an access rule for: write",
            )

    # Transports.

    def _transports(self) -> None:
        at: Options = {"port": self._given.number("port", 1, 65535) or 69, "interface": ANY}
        places = self._given.places("port", "bind-address")
        if given := self._given.get("bind-address"):
            if found := common.numericAddress(given.value):
                at["interface"] = found
            else:
                self._draft.lose(given.place, f"{given.value} is no numeric address", "write the address")
        if "no-multicast" not in self._given:
            if ":" in str(at["interface"]):
                self._noMulticast()
            else:
                self._multicast(at, places)
        if "mtftp" in self._given:
            self._mtftp(at)
        options: Options = {}
        if seconds := self._given.number("retry-timeout", 1, 255):
            options["timeout"] = common.milliseconds(seconds * 1000)
            places += self._given.places("retry-timeout")
        if refused := [name for name in _NOT_GRANTED if name in self._given]:
            options["without"] = common.notGranted(name.removeprefix("no-") for name in refused)
            places += self._given.places(*refused)
        self._draft.listen("tftp", at | options, *places)

    def _noMulticast(self) -> None:
        for given in (self._given[name] for name in _MULTICAST if name in self._given):
            self._draft.lose(given.place, f"--{given.name}", "castd has no multicast with IPv6: name an IPv4 address")

    def _multicast(self, at: Options, places: list[Place]) -> None:
        options: Options = {}
        used = self._given.places(*_MULTICAST)
        if given := self._given.get("mcast-addr"):
            options |= self._groups(given)
        if given := self._given.get("mcast-port"):
            first = re.split("[-,]", given.value)[0]
            if not common.isPort(first):
                self._given.wrong(given.name)
            else:
                options["data-port"] = int(first)
                if first != given.value:
                    what = f"--mcast-port {given.value}: castd sends all groups to one port"
                    self._draft.lose(given.place, what, f"clients are told {first}; open that one in firewalls")
        if ttl := self._given.number("mcast-ttl", 1, 255):
            options["ttl"] = ttl
        self._draft.listen("multicast", at | options, *places, *used)

    def _groups(self, given: GivenOption) -> Options:
        """Return the pool of groups: the largest network among the ranges."""
        networks = list[IPv4Network]()
        beginning, _, last = given.value.rpartition(".")
        for part in last.split(","):
            low, _, high = part.partition("-")
            try:
                ends = [IPv4Address(f"{beginning}.{each or low}") for each in (low, high)]
                networks += summarize_address_range(*ends)
            except (ValueError, TypeError):
                self._given.wrong(given.name)
                return {}
        found = max(networks, key=lambda network: network.num_addresses)
        if not found.is_multicast:
            self._given.wrong(given.name)
            return {}
        if len(networks) > 1:
            what = f"--mcast-addr {given.value} is no network: castd uses {found} of it"
            self._draft.lose(given.place, what, "name another network as groups, if that is too small")
        return {"groups": str(found)}

    def _mtftp(self, at: Options) -> None:
        given = self._given["mtftp"]
        files: dict[str, Value] = {}
        places = [given.place]
        for number, line in enumerate(self._machine.text(given.value).split("\n"), 1):
            place = Place(given.value, number, line)
            if not line.strip() or line.startswith("#"):
                continue
            name, group, port = (*line.split(), "", "", "")[:3]
            try:
                readFiles({**files, name: f"{group}:{port}"})
            except ValueError as error:
                self._draft.lose(place, str(error), "correct the line, and add the file to files")
                continue
            files[name] = f"{group}:{port}"
            places.append(place)
        if not files:
            self._draft.lose(given.place, f"{given.value} names no file", "name them in files of a transport mtftp")
            return
        number = self._given.number("mtftp-port", 1, 65535) or MTFTP_PORT
        places += self._given.places("mtftp-port")
        self._draft.listen("mtftp", {**at, "port": number, "files": files}, *places)
