"""
Find the command line of a daemon in the files that start it, and read its options as GNU's getopt does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename

from castd.errors import ConfigError
from castd.migrate import common
from castd.migrate.draft import Draft, OldMachine, Place

#: The file name that stands for words given to the command itself.
COMMAND_LINE = "command line"
#: What to do about a part of a command line that is not known: a line for a shell, and a variable without a value.
UNKNOWN = ("write its result into the file, and try again", "put it into the line, and try again")


@dataclass(frozen=True, slots=True)
class CommandWord:
    """One word of a command line, and where it stands."""

    text: str
    place: Place


@dataclass(frozen=True, slots=True)
class GivenOption:
    """
    One option of a command line.

    @ivar name: its long name, or its letter where it has none; C{""}: a word that is no option.
    @ivar value: its argument; C{""}: it has none.
    """

    name: str
    value: str
    place: Place


def ofCommand(line: str) -> list[CommandWord]:
    """
    Split a command line as a shell does, and leave out the name of the program.

    @raise ConfigError: a quotation has no end, or it is no text.
    """
    if "\0" in line:
        raise ConfigError(f"{COMMAND_LINE}: is no text")
    return split(line, Place(COMMAND_LINE, 1, line))[1:]


def split(text: str, place: Place) -> list[CommandWord]:
    """Split a text into words as a shell does.  @raise ConfigError: a quotation has no end."""
    try:
        return [CommandWord(word, place.of(word)) for word in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None


class OptionReader:
    """
    Reads the options of one program, in any order with other words, its long names abbreviated or not.
    """

    def __init__(self, short: Mapping[str, str], flags: Iterable[str], withValue: Iterable[str]) -> None:
        """
        @param short: the long name of each letter; a letter without one stands for itself.
        @param flags: long names that have no argument.
        @param withValue: those that have one.
        """
        self._short = short
        self._withValue = frozenset(withValue)
        self._long = self._withValue | frozenset(flags)

    def read(self, words: Sequence[CommandWord], draft: Draft) -> Iterator[GivenOption]:
        """Yield the options; what is unknown is noted as lost."""
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            if word.text == "--":
                yield from (GivenOption("", each.text, each.place) for each in waiting)
                return
            if word.text.startswith("--"):
                yield from self._longOption(word, waiting, draft)
            elif len(word.text) > 1 and word.text.startswith("-"):
                yield from self._letters(word, waiting, draft)
            else:
                yield GivenOption("", word.text, word.place)

    def _longOption(self, word: CommandWord, waiting: list[CommandWord], draft: Draft) -> Iterator[GivenOption]:
        given, equals, value = word.text[2:].partition("=")
        fitting = [name for name in self._long if name.startswith(given)]
        name = given if given in self._long else fitting[0] if len(fitting) == 1 else ""
        if not name:
            _unknown(word.text, word, waiting, draft)
        elif name not in self._withValue or equals:
            yield GivenOption(name, value, word.place)
        else:
            yield from self._withNext(name, word, waiting, draft)

    def _letters(self, word: CommandWord, waiting: list[CommandWord], draft: Draft) -> Iterator[GivenOption]:
        rest = word.text[1:]
        while rest:
            letter, rest = rest[0], rest[1:]
            name = self._short.get(letter, "")
            if not name:
                _unknown(f"-{letter}", word, waiting, draft)
            elif name not in self._withValue:
                yield GivenOption(name, "", word.place)
            elif rest:
                yield GivenOption(name, rest, word.place)
                return
            else:
                yield from self._withNext(name, word, waiting, draft)

    def _withNext(
        self, name: str, word: CommandWord, waiting: list[CommandWord], draft: Draft
    ) -> Iterator[GivenOption]:
        if not waiting:
            draft.lose(word.place, f"{word.text}: its argument is missing", "complete the line, and try again")
            return
        value = waiting.pop(0)
        yield GivenOption(name, value.text, word.place.of(f"{word.text} {value.text}"))


class GivenOptions(dict[str, GivenOption]):
    """
    Holds the options of a command line by their names; of one that is given twice the last counts.
    """

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft

    def places(self, *names: str) -> list[Place]:
        """Return where these options stand, those of them that are given."""
        return [self[name].place for name in names if name in self]

    def number(self, name: str, least: int, most: int) -> int | None:
        """Return the value of an option; L{None}: it is not given, or wrong, which is noted."""
        given = self.get(name)
        if given is None:
            return None
        found = common.wholeNumber(given.value, least, most)
        if found is None:
            self.wrong(name)
        return found

    def wrong(self, name: str) -> None:
        """Note that the value of an option cannot be read."""
        given = self[name]
        self._draft.lose(given.place, f"{given.value} is no value of --{given.name}", "correct it, and try again")


def filesToRead(files: Sequence[str], command: str | None, usual: str) -> Sequence[str]:
    """Return the files to read: those that are named, or the usual one where neither these nor a command line are."""
    return files or ([usual] if command is None else [])


def commandWords(
    files: Sequence[str],
    command: str | None,
    programs: Sequence[str],
    machine: OldMachine,
    draft: Draft,
    others: Callable[[str], list[CommandWord]],
) -> list[CommandWord]:
    """
    Return the words of a daemon's command lines, without its name: of the one that is given, and of files.

    @param others: called with a file that does not start the daemon, such as one of shell variables.
    @raise ConfigError: a file cannot be read.
    """
    words = [] if command is None else ofCommand(command)
    for file in files:
        found = started(file, programs, machine, draft)
        words += others(file) if found is None else found
    return words


def _unknown(option: str, word: CommandWord, waiting: list[CommandWord], draft: Draft) -> None:
    """Note an option that is not known, with the word behind it, unless that is an option or a path."""
    if waiting and not waiting[0].text.startswith(("-", "/")):
        option += f" {waiting.pop(0).text}"
    draft.lose(word.place, f"{option}: an option that is not known here", "see the server's manual")


_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def assignments(text: str, file: str, draft: Draft) -> dict[str, tuple[str, Place]]:
    """
    Read a file of shell variables, such as those in C{/etc/default}: the value of each, and its line.

    Earlier variables are put in; whatever else a shell would do is noted as lost.
    """
    found: dict[str, tuple[str, Place]] = {}
    for place in lines(text, file):
        matched = _ASSIGNMENT.fullmatch(place.text)
        value = None if matched is None else _shellValue(matched[2], found)
        if matched is None or value is None:
            draft.lose(place, "a line that only a shell can read", UNKNOWN[0])
        else:
            found[matched[1]] = value, place
    return found


def _shellValue(text: str, known: Mapping[str, tuple[str, Place]]) -> str | None:
    """Return the value of an assignment; L{None}: only a shell knows it."""
    if "`" in text or "$(" in text or any((one or other) not in known for one, other in _REFERENCE.findall(text)):
        return None
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return None
    if len(words) > 1:
        return None
    return _REFERENCE.sub(lambda each: known[each[1] or each[2]][0], "".join(words))


def lines(text: str, file: str, comment: str = "#") -> Iterator[Place]:
    """Yield the lines of a file that say something; one that ends with a backslash goes on in the next."""
    whole, first = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        first = first or number
        whole += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        if whole.strip() and not whole.lstrip().startswith(comment):
            yield Place(file, first, whole.strip())
        whole, first = "", 0


#: What to do about the modes of files that are stored.
UMASK = "set UMask= of the unit that starts castd; modes are 0644 less that"
#: What inetd's relatives do before the server, which castd has to be told: by their keys.
_XINETD = {
    "only_from": "write access rules",
    "no_access": "write access rules",
    "per_source": "see limits: per-peer",
    "cps": "see limits: new-per-peer",
    "instances": "see limits: casts",
    "access_times": "castd serves at all times",
    "bind": "write the address as the interface",
    "interface": "write the address as the interface",
    "port": "write the port",
    "redirect": "castd passes nothing on",
    "max_load": "castd serves at any load",
    "umask": UMASK,
}
#: And what systemd does.
_UNIT = {
    "IPAddressAllow": "write access rules, and keep it in castd's unit",
    "IPAddressDeny": "write access rules, and keep it in castd's unit",
    "RestrictNetworkInterfaces": "write the addresses as interfaces, and keep it in castd's unit",
    "RootDirectory": "write it before the paths, or keep it in castd's unit",
    "RootImage": "name the directories where castd sees them",
    "BindPaths": "name the directories where castd sees them, or keep it in castd's unit",
    "BindReadOnlyPaths": "name the directories where castd sees them, or keep it in castd's unit",
    "UMask": UMASK,
}


def started(file: str, programs: Sequence[str], machine: OldMachine, draft: Draft) -> list[CommandWord] | None:
    """
    Return the words of a daemon's command line from a file of inetd, of xinetd, or a unit of systemd, without its name.

    @param draft: it gets a note for what these do themselves.
    @return: L{None}: no line of the file starts it.
    @raise ConfigError: the file cannot be read.
    """
    found: list[CommandWord] | None = None
    others: list[tuple[str, Place]] = []
    whole = list(lines(machine.text(file), file))
    for place in whole:
        key, equals, value = (part.strip(" \t+-") for part in place.text.partition("="))
        if key == "ExecStart" and equals:
            words = split(value.lstrip("@:!"), place)
            if words and basename(words[0].text) in programs:
                _loseOthers([(each.text.partition("=")[0].strip(), each) for each in whole], _UNIT, draft)
                return list(_expanded(words[1:], _environment(whole, machine, draft), draft))
        elif key == "server_args" and equals:
            found = split(place.text.partition("=")[2], place)
        elif key in _XINETD and equals:
            others.append((key, place))
        elif _INETD.match(place.text):
            fields = split(place.text, place)
            if len(fields) > 6 and {basename(field.text) for field in fields[5:7]} & set(programs):
                if basename(fields[5].text) == "tcpd":
                    draft.lose(place.of("tcpd"), "what hosts.allow and hosts.deny say of it", "write access rules")
                if fields[0].text not in ("tftp", "69"):
                    draft.lose(place, f"{fields[0].text}: its address or port", "write it as the interface or the port")
                return fields[7:]
    if found is not None:
        _loseOthers(others, _XINETD, draft)
    return found


def _loseOthers(settings: Iterable[tuple[str, Place]], advice: Mapping[str, str], draft: Draft) -> None:
    """Note what the program that starts the daemon does itself, by the keys of its settings."""
    for key, place in settings:
        if key in advice:
            draft.lose(place, " ".join(place.text.split()), advice[key])


def _environment(unit: Iterable[Place], machine: OldMachine, draft: Draft) -> dict[str, tuple[str, Place]]:
    """Return the variables of a unit: those in its files come before those in its own lines (systemd.exec(5))."""
    own: dict[str, tuple[str, Place]] = {}
    files: dict[str, tuple[str, Place]] = {}
    for place in unit:
        key, _, value = (part.strip() for part in place.text.partition("="))
        if key == "Environment":
            given = (word.text.partition("=") for word in split(value, place))
            own.update({name: (text, place) for name, _, text in given})
        elif key == "EnvironmentFile" and value:
            file = value.removeprefix("-")
            try:
                files.update(assignments(machine.text(file), file, draft))
            except ConfigError as error:
                # One with a hyphen need not be there.
                note = draft.lose if file == value else draft.tell
                note(place, str(error), "copy it as well, and try again")
    return own | files


def _expanded(
    words: Iterable[CommandWord], known: Mapping[str, tuple[str, Place]], draft: Draft
) -> Iterator[CommandWord]:
    """Put the variables of a unit into its command line: C{$NAME} becomes words, C{${NAME}} is a part of its word."""
    for word in words:
        names = [braced or alone for braced, alone in _VARIABLE.findall(word.text)]
        for name in names:
            if name not in known:
                draft.lose(word.place, f"${name}: no value of it is here", UNKNOWN[1])
        if alone := _VARIABLE.fullmatch(word.text):
            text, place = known.get(alone[1] or alone[2], ("", word.place))
            yield from split(text, place) if alone[2] else [CommandWord(text, place)]
        else:
            text = _VARIABLE.sub(lambda each: known.get(each[1] or each[2], ("",))[0], word.text)
            yield CommandWord(text, word.place)


#: A variable in the command line of a unit: within a word it has braces (systemd.service(5)).
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|(?<!.)\$([A-Za-z_][A-Za-z0-9_]*)(?!.)")
#: A service of inetd: name, kind of socket, protocol.
_INETD = re.compile(r"\S+\s+dgram\s+udp")
