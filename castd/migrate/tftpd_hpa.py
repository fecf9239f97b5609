"""
Read how tftpd-hpa (C{in.tftpd}) is started: C{/etc/default/tftpd-hpa}, a line of inetd, a file of xinetd, a unit of
systemd, or the command line; and its map file.

Its manual is C{in.tftpd(8)}.  Where that is silent the source of 5.2 was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from castd.errors import ConfigError
from castd.migrate import common, patterns
from castd.migrate.draft import ANY, Draft, OldMachine, Options, Place, Value
from castd.migrate.words import (
    UMASK,
    UNKNOWN,
    CommandWord,
    GivenOption,
    GivenOptions,
    OptionReader,
    assignments,
    commandWords,
    filesToRead,
    split,
)

DEFAULT_FILE = "/etc/default/tftpd-hpa"
PROGRAMS = ("in.tftpd", "tftpd", "tftpd-hpa")

_OPTIONS = OptionReader(
    {
        "4": "ipv4", "6": "ipv6", "l": "listen", "L": "foreground", "a": "address", "c": "create", "s": "secure",
        "u": "user", "U": "umask", "p": "permissive", "P": "pidfile", "t": "timeout", "T": "retransmit",
        "m": "map-file", "v": "verbose", "r": "refuse", "B": "blocksize", "R": "port-range", "V": "version",
    },
    ["ipv4", "ipv6", "listen", "foreground", "create", "secure", "permissive", "verbose", "version"],
    ["address", "user", "umask", "pidfile", "timeout", "retransmit", "map-file", "map", "verbosity", "refuse",
     "blocksize", "port-range"],
)  # fmt: skip
_ELSEWHERE = {
    "user": "user", "pidfile": "pidfile", "timeout": "inetd", "verbose": "log", "verbosity": "log",
    "listen": "daemon", "foreground": "daemon",
}  # fmt: skip


def read(files: Sequence[str], command: str | None, machine: OldMachine, draft: Draft) -> None:
    """Fill a draft from files, or from a command line."""
    _TftpdHpaReader(machine, draft).read(files, command)


@dataclass(slots=True)
class MapFile:
    """
    What is carried over of a map file.

    @ivar reads, writes: what changes the names of files that are read, and of uploads.
    @ivar denials: access rules.
    @ivar ignoreCase: names are changed to lower case.
    @ivar tellsSlash: a rule tells a name with a leading slash from one without.
    """

    reads: list[tuple[Options, Place]]
    writes: list[tuple[Options, Place]]
    denials: list[tuple[Options, Place]]
    ignoreCase: bool = False
    tellsSlash: bool = False


class _TftpdHpaReader:
    def __init__(self, machine: OldMachine, draft: Draft) -> None:
        self._machine, self._draft = machine, draft
        self._given = GivenOptions(draft)
        self._refused: list[GivenOption] = []
        self._folders: list[CommandWord] = []

    def read(self, files: Sequence[str], command: str | None) -> None:
        files = filesToRead(files, command, DEFAULT_FILE)
        words = commandWords(files, command, PROGRAMS, self._machine, self._draft, self._variables)
        for each in _OPTIONS.read(words, self._draft):
            self._take(each)
        mapping = self._mapFile()
        self._transports()
        self._content(mapping)
        self._uploads(mapping)

    def _variables(self, file: str) -> list[CommandWord]:
        found = assignments(self._machine.text(file), file, self._draft)
        if not found.keys() & {"TFTP_OPTIONS", "TFTP_DIRECTORY"}:
            raise ConfigError(common.startsNothing(file, "in.tftpd", "TFTP_OPTIONS or TFTP_DIRECTORY"))
        words = list[CommandWord]()
        for name, option in (("TFTP_USERNAME", ["--user"]), ("TFTP_ADDRESS", ["--address"]), ("TFTP_OPTIONS", []),
                             ("TFTP_DIRECTORY", [])):  # fmt: skip
            if name in found:
                value, place = found[name]
                words += [CommandWord(each, place) for each in option]
                words += [CommandWord(each.text, place) for each in split(value, place)] if value or not option else []
        # The options of Debian's init script come before its OPTIONS and the directory, as here.
        return words

    def _take(self, each: GivenOption) -> None:
        if not each.name:
            self._folders.append(CommandWord(each.value, each.place))
        elif each.name == "refuse":
            self._refused.append(each)
        elif each.name == "version":
            self._draft.lose(each.place, "--version", "with it the server only says its version")
        elif each.name in _ELSEWHERE:
            self._draft.tell(each.place, f"--{each.name}", common.ELSEWHERE[_ELSEWHERE[each.name]])
        else:
            self._given["map-file" if each.name == "map" else each.name] = each

    # Transports.

    def _transports(self) -> None:
        options: Options = {"port": 69}
        places: list[Place] = []
        addresses = [ANY, "::"] if self._machine.ipv6 else [ANY]
        if given := self._given.get("address"):
            addresses = self._addresses(given, addresses, options)
            places.append(given.place)
        if "ipv4" in self._given:
            addresses = [each for each in addresses if ":" not in each]
        if "ipv6" in self._given:
            addresses = [each for each in addresses if ":" in each]
        if blksize := self._given.number("blocksize", 512, 65464):
            options["blksize"] = blksize
            places += self._given.places("blocksize")
        if given := self._given.get("port-range"):
            if found := common.portRange(*_pair(given.value)):
                options["ports"] = found
                places.append(given.place)
            else:
                self._given.wrong(given.name)
        if microseconds := self._given.number("retransmit", 1, 255_000_000):
            options["timeout"] = common.milliseconds(max(microseconds // 1000, 1))
            places += self._given.places("retransmit")
        if self._refused:
            options["without"] = common.notGranted(dict.fromkeys(each.value for each in self._refused))
            places += [each.place for each in self._refused]
        common.listenEverywhere(self._draft, addresses, options, *places)

    def _addresses(self, given: GivenOption, default: list[str], options: Options) -> list[str]:
        host, port = common.addressAndPort(given.value)
        if port:
            if common.isPort(port):
                options["port"] = int(port)
            elif port != "tftp":
                self._given.wrong(given.name)
        if not host:
            return default
        found = common.numericAddress(host)
        if found is None:
            self._draft.lose(given.place, f"{host} is no numeric address", "write the address as the interface")
            return default
        return [found]

    # Content.

    @property
    def _secure(self) -> bool:
        return "secure" in self._given

    def _mapFile(self) -> MapFile:
        given = self._given.get("map-file")
        if given is None:
            return MapFile([], [], [])
        return _MapReader(self._draft, "create" in self._given).read(self._machine.text(given.value), given.value)

    def _content(self, mapping: MapFile) -> None:
        places = [folder.place for folder in self._folders]
        places += self._given.places("secure", "permissive")
        if not self._folders and any(note.advice in UNKNOWN for note in self._draft.notes):
            # What could not be read may have named it, and the whole disk is nobody's default.
            self._draft.lose(Place("tftpd-hpa", 1, ""), "no directory is named in what can be read", "name it")
            return
        if not self._folders:
            self._draft.tell(
                next(iter(places), Place("tftpd-hpa", 1, "")),
                "no directory is named: tftpd-hpa then gives every file on the disk that everybody may read",
                "name a directory in content, in place of /",
            )
        paths = [folder.text for folder in self._folders] or ["/"]
        for path in paths[:1] if self._secure else paths:
            for slash in (False, True) if mapping.tellsSlash else (False,):
                self._directory(path, slash, mapping, places)
        if self._secure:
            for folder in self._folders[1:]:
                self._draft.lose(folder.place, f"{folder.text}: --secure has one directory", "name it in content")

    def _directory(self, path: str, slash: bool, mapping: MapFile, places: list[Place]) -> None:
        """
        Add one directory to the content.

        @param slash: rewrite names as if they had come with a leading slash.
        """
        before: list[Options] = [{"from": "^", "to": "/"}] if slash else []
        options = self._named(path, before, [rule for rule, _ in mapping.reads])
        if mapping.ignoreCase:
            options["ignore-case"] = True
        if "permissive" not in self._given:
            options["world-readable"] = True
        route = self._draft.serve(options, *places)
        for number, (_, place) in enumerate(mapping.reads, len(before)):
            self._draft.comment((*route, "rewrite", number), place)

    def _named(self, path: str, before: list[Options], rules: list[Options]) -> Options:
        """
        Return the options of a directory by which names are found in it.

        @param before: rules that only prepare names for the others.
        """
        options: Options = {"path": path}
        under = "" if self._secure else common.prefixOf(path)
        after: list[Options] = []
        if under and rules:
            # Only what the rules have made an absolute name beneath the directory is there.
            after = [
                {"from": "^/+", "to": ""},
                {"from": f"^{re.escape(under)}/", "to": "//"},
                {"from": "^[^/].*", "to": ""},
            ]
        elif under:
            options["under"] = under
        if rules:
            options["rewrite"] = list[Value]([*before, *rules, *after])
        return options

    # Uploads.

    def _uploads(self, mapping: MapFile) -> None:
        for options, place in mapping.denials:
            self._draft.rule(options, place)
        create = self._given.get("create")
        if create is None:
            if mapping.denials:
                self._draft.rule({"allow": ANY, "for": "read"})
            place = self._folders[0].place if self._folders else Place("tftpd-hpa", 1, "")
            self._draft.tell(
                place,
                "without --create clients may still overwrite files that everybody may write to; here nobody may",
                "if that is wanted, add uploads: with policy: existing, and an access rule for: write",
            )
            return
        rules = [rule for rule, _ in mapping.writes]
        for folder in self._folders[:1] if self._secure else self._folders:
            options = {"path": folder.text, "policy": "overwrite", **self._named(folder.text, [], rules)}
            route = self._draft.store(options, create.place, folder.place)
            for number, (_, place) in enumerate(mapping.writes):
                self._draft.comment((*route, "rewrite", number), place)
        if rules and mapping.tellsSlash:
            what = "names of uploads are changed as if they came without a leading slash"
            self._draft.tell(mapping.writes[0][1], what, "nothing is to be done, unless clients send one")
        self._draft.rule({"allow": ANY}, create.place)
        self._draft.tell(
            create.place,
            "castd stores a new file with mode 0644, and renames it over an old one",
            "its user needs the right to write to the directory",
        )
        if umask := self._given.get("umask"):
            self._draft.lose(umask.place, "--umask", UMASK)


def _pair(text: str) -> tuple[str, str]:
    first, _, last = text.partition(":")
    return first, last


_FIELD = re.compile(r"\s*((?:\\.|[^\s#\\])+)", re.DOTALL)
#: Flags of rules that belong to later versions, or that a name alone does not decide.
_UNKNOWN = {
    "s": "it starts over from the first rule",
    "E": "it ends if there is such a file",
    "j": "it jumps to another rule",
    "4": "it is for clients with IPv4 only",
    "6": "it is for clients with IPv6 only",
}
_WHOLE_NAME = frozenset((".*", "^.*$", "^.*", ".*$", "(.*)", "^(.*)$", "^(.+)$", "(.+)", ".+", "^.+$"))


class _MapReader:
    """
    Reads a map file.

    A rule is carried over as a rule that changes names, or as an access rule; what cannot be is lost.
    """

    def __init__(self, draft: Draft, uploads: bool) -> None:
        self._draft, self._uploads = draft, uploads
        self._found = MapFile([], [], [])

    def read(self, text: str, file: str) -> MapFile:
        for number, line in enumerate(text.split("\n"), 1):
            fields = list(_fields(line))
            if fields:
                self._rule(fields, Place(file, number, line))
        return self._found

    def _rule(self, fields: list[str], place: Place) -> None:
        flags, pattern, replacement = (*fields, "", "")[:3]
        unknown = next((each for each in flags if each not in "rgieaGP~" + "".join(_UNKNOWN)), None)
        if flags.startswith(":") or unknown:
            self._lose(place, f"{flags} is no rule that is known here")
        elif not pattern:
            self._lose(place, "the rule has no expression")
        elif stops := next((why for flag, why in _UNKNOWN.items() if flag in flags), None):
            self._lose(place, stops)
        elif "a" in flags:
            self._deny(flags, pattern, place)
        elif "P" in flags and "G" not in flags and not self._uploads:
            self._draft.tell(place, "a rule for uploads, and there are none", "nothing is to be done")
        elif "~" in flags or "r" not in flags:
            self._exit(flags, pattern, place)
        else:
            self._change(flags, pattern, replacement, place)

    def _lose(self, place: Place, why: str) -> None:
        self._draft.lose(place, f"{place.text.strip()}: {why}", "see whether rewrite, or another directory, does it")

    def _exit(self, flags: str, pattern: str, place: Place) -> None:
        if "e" not in flags:
            self._draft.tell(place, "a rule that does nothing", "nothing is to be done")
        elif "~" in flags:
            self._lose(place, "rules behind it are not for the names that it matches")
        else:
            self._change(flags, pattern, "\\0", place)

    def _deny(self, flags: str, pattern: str, place: Place) -> None:
        expression = patterns.asNames(pattern)
        if expression is None or "~" in flags:
            what = "names that are denied by it may be read here"
            self._draft.lose(place, f"{place.text.strip()}: {what}", "write an access rule with deny and names")
            return
        options: Options = {"deny": ANY, "names": list[Value](expression)}
        if "G" in flags and "P" not in flags:
            options["for"] = "read"
        elif "P" in flags and "G" not in flags:
            options["for"] = "write"
        self._found.denials.append((options, place))
        if self._found.reads or self._found.writes:
            self._draft.tell(
                place,
                "castd looks at the name that the client has asked for, not at what earlier rules have made of it",
                "deny both names, if they differ",
            )

    def _change(self, flags: str, pattern: str, replacement: str, place: Place) -> None:
        reads, writes = "P" not in flags or "G" in flags, self._uploads and ("G" not in flags or "P" in flags)
        if replacement.startswith("\\L") and pattern in _WHOLE_NAME:
            self._lowercase(reads, writes, place)
            return
        try:
            options: Options = {
                "from": ("(?i)" if "i" in flags else "") + patterns.fromPosix(pattern),
                "to": "".join(patterns.posixReplacement(replacement)),
            }
            if "g" in flags:
                options["every"] = True
            if "e" in flags:
                options["end"] = True
            if not patterns.isRule(options, place, self._draft):
                return
        except ValueError as error:
            self._lose(place, str(error))
            return
        if reads:
            self._found.reads.append((options, place))
        if writes:
            self._found.writes.append((options, place))
        self._found.tellsSlash |= patterns.tellsSlash(pattern)
        self._note(flags, pattern, replacement, place)

    def _note(self, flags: str, pattern: str, replacement: str, place: Place) -> None:
        """Note what a rule does otherwise."""
        if "g" in flags and "gg" not in flags and not _once(pattern, replacement):
            self._draft.tell(
                place,
                "it is repeated until it matches no more; castd changes every match once",
                "nothing is to be done, unless a change makes a new match",
            )
        if "\\i" in replacement:
            what = "the address of a client with IPv6 has dashes in place of colons"
            self._draft.tell(place, what, "rename such folders, if there are any")

    def _lowercase(self, reads: bool, writes: bool, place: Place) -> None:
        """Ignore case where a rule changes the whole name to lower case."""
        if reads:
            self._found.ignoreCase = True
            what = "names are not changed to lower case: case is ignored, which finds more files"
            self._draft.tell(place, what, "nothing is to be done")
        if writes:
            what = f"{place.text.strip()}: names of uploads stay as they are"
            self._draft.lose(place, what, "let clients use small letters")


def _fields(line: str) -> Iterator[str]:
    at = 0
    while found := _FIELD.match(line, at):
        yield found[1]
        at = found.end()


def _once(pattern: str, replacement: str) -> bool:
    """Return whether a change of single characters makes no new match."""
    single = re.fullmatch(r"\\?(.)|\[[^\]]\]", pattern)
    return single is not None and (single[1] or pattern[1]) not in replacement
