"""
Hold a service file in the making: its sections, the line that each part comes from, and what is not carried over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TypeAlias

from castd.config.yaml import Route
from castd.errors import ConfigError
from castd.files.mapping import escape

#: A value of a service file.
Value: TypeAlias = "str | int | bool | list[Value] | Mapping[str, Value] | None"
Options: TypeAlias = dict[str, Value]

#: Octets of the largest file that is read.
MAX_OCTETS = 1 << 20
#: Everybody, in C{clients} and in access rules.
ANY = "any"


@dataclass(frozen=True, slots=True)
class Place:
    """
    A line of another server's configuration.

    @ivar file: the name of the file, or C{command line}.
    @ivar line: counted from 1.
    @ivar text: what stands there.
    """

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def of(self, text: str) -> Place:
        """Return the same place with another text, such as one word of the line."""
        return Place(self.file, self.line, text)


@dataclass(frozen=True, slots=True)
class ImportNote:
    """
    Tells what a line of the configuration has become, where that is not what it was.

    @ivar lost: castd does not do it; else it is only to be known.
    @ivar what: what is not carried over, or is different.
    @ivar advice: what to do.
    """

    place: Place
    lost: bool
    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class OldMachine:
    """
    Tells what a reader may ask of the machine that the other server runs on.

    @ivar interfaces: the first IPv4 address of each interface, with its network.
    @ivar ipv6: it has IPv6.
    @ivar root: the folder that absolute paths of its configuration files begin at.
    @ivar stores: whether the server could write to a directory, by its path and the name of the server's user; L{None}:
        that is not known.
    """

    interfaces: Mapping[str, IPv4Interface] = field(default_factory=dict)
    ipv6: bool = True
    root: Path = Path("/")
    stores: Callable[[str, str], bool | None] = lambda path, user: None

    def text(self, path: str) -> str:
        """
        Return the text of a configuration file.

        @raise ConfigError: it cannot be read.
        """
        try:
            with self.where(path).open("rb") as stream:
                octets = stream.read(MAX_OCTETS + 1)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        if len(octets) > MAX_OCTETS:
            raise ConfigError(f"{path}: larger than {MAX_OCTETS >> 20} MiB, which no configuration is")
        if b"\0" in octets:
            raise ConfigError(f"{path}: is no text")
        # Windows programs write their own code pages; a name that is not UTF-8 is told where it matters.
        return octets.decode("utf-8-sig", "replace").replace("\r\n", "\n")

    def where(self, path: str) -> Path:
        """Return where a configuration file is: a relative path is one of the current directory."""
        return self.root / path.lstrip("/") if path.startswith("/") else Path(path)

    def addressIn(self, network: str) -> str | None:
        """Return this machine's address whose network holds an address; L{None}: it has none."""
        return next((str(each.ip) for each in self.interfaces.values() if _holds(each, network)), None)


def _holds(interface: IPv4Interface, host: str) -> bool:
    try:
        return IPv4Interface(host).ip in interface.network
    except ValueError:
        return False


@dataclass(slots=True)
class Draft:
    """
    A service file in the making.

    @ivar comments: the places that a part of the file comes from, by the route to it.
    """

    content: list[Value] = field(default_factory=list)
    uploads: list[Value] = field(default_factory=list)
    access: list[Value] = field(default_factory=list)
    limits: Options = field(default_factory=dict)
    transports: dict[str, Options] = field(default_factory=dict)
    comments: dict[Route, list[Place]] = field(default_factory=dict)
    notes: list[ImportNote] = field(default_factory=list)

    @property
    def value(self) -> Options:
        """The whole file."""
        sections: list[tuple[str, Value]] = [
            ("castd", 1),
            ("content", self.content),
            ("uploads", self.uploads),
            ("access", self.access),
            ("limits", self.limits),
            ("transports", dict(self.transports)),
        ]
        return {name: value for name, value in sections if value}

    def lose(self, place: Place, what: str, advice: str) -> None:
        """Note that something is not carried over."""
        self.notes.append(ImportNote(place, True, what, advice))

    def loseOnce(self, place: Place, what: str, advice: str) -> None:
        """Note that something is not carried over, unless that was noted before, of another place perhaps."""
        if not any((note.what, note.advice) == (what, advice) for note in self.notes):
            self.lose(place, what, advice)

    def tell(self, place: Place, what: str, advice: str) -> None:
        """Note something that nobody misses, but should know."""
        self.notes.append(ImportNote(place, False, what, advice))

    def comment(self, route: Route, *places: Place) -> None:
        """Name the places that a part of the file comes from."""
        known = self.comments.setdefault(route, [])
        known.extend(place for place in places if place not in known)

    def serve(self, options: Options, *places: Place, below: str = "") -> Route:
        """
        Add a directory to the content.  -> the route to its options.

        @param below: the folder of each machine in it, with words, such as C{{ip}}.
        """
        found = _escaped(options)
        if below:
            found["path"] = f"{str(found['path']).rstrip('/')}/{below}"
        return self._add("content", self.content, {"directory": found}, places)

    def store(self, options: Options, *places: Place) -> Route:
        """Add a directory for uploads.  -> the route to its options."""
        return self._add("uploads", self.uploads, {"directory": _escaped(options)}, places)

    def rule(self, options: Options, *places: Place) -> None:
        """Add an access rule."""
        self._add("access", self.access, options, places)

    def limit(self, name: str, value: Value, *places: Place) -> None:
        """Set a limit."""
        self.limits[name] = value
        self.comment(("limits", name), *places)

    def listen(self, name: str, options: Options, *places: Place) -> None:
        """Add a transport.  If the name is taken, it becomes C{name-2}."""
        found, number = name, 2
        while found in self.transports:
            found, number = f"{name}-{number}", number + 1
        given: Options = {} if found == name else {"use": name}
        self.transports[found] = given | options
        self.comment(("transports", found), *places)

    def _add(self, section: str, values: list[Value], value: Options, places: tuple[Place, ...]) -> Route:
        values.append(value)
        route: Route = (section, len(values) - 1)
        self.comment(route, *places)
        return (*route, *(key for key in value if key == "directory"))


def _escaped(options: Options) -> Options:
    """Return the options of a directory, as castd has to read them: a brace in a path begins a word there."""
    return {key: escape(value) if key == "path" and isinstance(value, str) else value for key, value in options.items()}
