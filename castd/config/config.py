"""
The service file: from text to frozen options, or to every complaint at once, each with file, line and path.

What may be named in it (kinds of transports, sources, sinks) is given; this module knows none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from castd.config import yaml
from castd.config.messages import complaints, meant, shown
from castd.config.yaml import Route, Tree
from castd.errors import ConfigError
from castd.interfaces import IContentSourceMaker, ITransportMaker
from castd.options import FilePath, Limits, ListenOptions, Settings, Size

#: The only schema of the service file there is so far.
SCHEMA = "1"

_Model = TypeVar("_Model", bound=BaseModel)


class Kind(Protocol):
    """What can be named in a service file: a maker, or anything else that has options."""

    @property
    def options(self) -> type[BaseModel]:
        """@raise ConfigError: the module that has them cannot be imported."""


@dataclass(frozen=True, slots=True)
class Kinds:
    """
    What may be named, by name.

    @ivar access: the model of one access rule.
    """

    transports: Mapping[str, ITransportMaker]
    content: Mapping[str, IContentSourceMaker]
    uploads: Mapping[str, Kind]
    access: type[BaseModel]


class LoggingOptions(Settings):
    """What is said, and where."""

    level: Literal["debug", "info", "warn", "error", "critical"] = Field("info", description="least that is logged")
    format: Literal["auto", "text", "json", "journal"] = Field(
        "auto",
        description="of the log itself: text: lines for people; json: an object each; journal: systemd's, with its"
        " fields; auto: journal where standard error is the journal's, else text",
    )
    file: FilePath | None = Field(
        None, description="a file for the log itself; null: standard error, or where twistd is told"
    )
    json_: FilePath | None = Field(
        None, alias="json", description="a file for the events alone, a JSON object each; null: none"
    )
    size: Size | None = Field(
        64 << 20, ge=4096, description="from here on a new file is begun, and the old one is FILE.1; null: never"
    )
    keep: int = Field(5, ge=0, le=1000, description="old files that are kept")

    @model_validator(mode="after")
    def _one(self) -> LoggingOptions:
        if self.file is not None and self.format == "journal":
            raise ValueError("file: the journal is no file: leave out one of file and format")
        return self


class MetricsOptions(Settings):
    """Counters for Prometheus."""

    listen: str | None = Field(
        None, description="where they are served, such as 127.0.0.1:9147 or a Twisted endpoint; null: nowhere"
    )


class ControlOptions(Settings):
    """The way in for C{castd status}, C{castd reload} and C{castd upgrade}."""

    path: FilePath | None = Field(
        None, description="a local socket; null: control in systemd's RuntimeDirectory, or none without that"
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """
    Something named in the service file, with its options.

    @ivar name: the instance's: a transport's name, C{content[0]} of a source.
    @ivar kind: which maker makes it.
    @ivar options: an instance of the maker's model.
    @ivar tree: where it was read; C{route}: the keys that lead to its options.
    """

    name: str
    kind: str
    options: Any
    tree: Tree = field(repr=False, compare=False)
    route: Route = field(repr=False, compare=False)

    def blame(self, complaint: str) -> None:
        """
        Something is wrong with it that shows only when it is made.

        @param complaint: may begin with one of its keys and a colon, and is then put to that key's line.
        """
        key, colon, rest = complaint.partition(": ")
        named = bool(colon) and (*self.route, key) in self.tree.lines
        self.tree.blame((*self.route, key) if named else self.route, rest if named else complaint)


@dataclass(frozen=True, slots=True)
class Config:
    """
    A service file that is right as far as it can be known without making anything.

    @ivar access: the rules in order; L{None} if there is no such section.
    @ivar warnings: what is allowed and yet hardly meant, each as C{file:line: path: what}.
    """

    file: Path
    transports: tuple[Entry, ...]
    content: tuple[Entry, ...]
    uploads: tuple[Entry, ...]
    access: tuple[Any, ...] | None
    limits: Limits
    logging: LoggingOptions
    metrics: MetricsOptions
    control: ControlOptions
    tree: Tree = field(repr=False, compare=False)
    warnings: tuple[str, ...] = ()


def load(file: Path | str, kinds: Kinds) -> Config:
    """
    Read a service file whole.

    @raise ConfigError: with every fault that was found.
    """
    path = Path(file)
    return build(yaml.read(path), path, kinds)


def build(tree: Tree, file: Path, kinds: Kinds) -> Config:
    """
    The same for a tree that was read; relative paths in it are relative to the folder of C{file}.

    @raise ConfigError: with every fault that was found.
    """
    reader = _Reader(tree, file.absolute().parent)
    top = reader.top()
    config = Config(
        file=file,
        transports=tuple(reader.transports(top.get("transports"), kinds.transports)),
        content=tuple(reader.listed("content", top.get("content"), kinds.content)),
        uploads=tuple(reader.listed("uploads", top.get("uploads"), kinds.uploads)),
        access=reader.rules(top.get("access"), kinds.access) if "access" in top else None,
        limits=reader.section("limits", top, Limits),
        logging=reader.section("logging", top, LoggingOptions),
        metrics=reader.section("metrics", top, MetricsOptions),
        control=reader.section("control", top, ControlOptions),
        tree=tree,
    )
    _collisions(config)
    _clashes(config)
    tree.complain()
    return replace(config, warnings=(*_unserved(config), *_forlorn(config), *_doubtful(config)))


_SECTIONS = ("castd", "content", "uploads", "access", "limits", "logging", "metrics", "control", "transports")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(slots=True)
class _Reader:
    """One reading: faults go into the tree, and reading goes on."""

    tree: Tree
    folder: Path

    def top(self) -> dict[str, Any]:
        value = self.tree.value
        if not isinstance(value, dict):
            what = "is empty" if value is None else f"is {shown(value)}"
            self.tree.blame((), f"the file {what}; it should begin with 'castd: {SCHEMA}'")
            self.tree.complain()
            return {}
        for key in value.keys() - set(_SECTIONS):
            self.tree.blame((key,), "unknown key" + meant(key, _SECTIONS))
        if "castd" not in value:
            self.tree.blame((), f"castd is missing: the file should begin with 'castd: {SCHEMA}'")
        elif value["castd"] != SCHEMA:
            self.tree.blame(("castd",), f"schema {shown(value['castd'])} is not known here: it should be {SCHEMA}")
        if not value.get("transports"):
            self.tree.blame(("transports",), "nothing is listening: name at least one transport, such as 'tftp:'")
        if not value.get("content") and not value.get("uploads"):
            self.tree.blame(("content",), "nothing to serve: name a source, such as '- directory: {path: /srv/boot}'")
        return value

    def section(self, name: str, top: Mapping[str, Any], model: type[_Model]) -> _Model:
        """A section that is one model; its defaults where it is absent, empty or wrong."""
        return self.options(model, top.get(name), (name,)) or model()

    def options(self, model: type[_Model], value: Any, route: Route) -> _Model | None:
        """A model, or L{None} after complaints."""
        try:
            context = {"folder": self.folder}
            given = {} if value is None else value
            return model.model_validate(given, by_alias=True, by_name=False, context=context)
        except ValidationError as error:
            for inside, text in complaints(error, model, given):
                self.tree.blame((*route, *inside), text)
        return None

    def transports(self, value: Any, kinds: Mapping[str, Kind]) -> Iterator[Entry]:
        if value is not None and not isinstance(value, dict):
            self.tree.blame(("transports",), f"{shown(value)} is not a mapping of names to options")
        for name, given in yaml.items(value if isinstance(value, dict) else {}):
            route = ("transports", str(name))
            if not _NAME.fullmatch(str(name)):
                self.tree.blame(route, "a name is letters, digits, '.', '_' and '-', at most 64")
            kind: object = name
            where: Route = route
            options = given
            if isinstance(given, dict) and "use" in given:
                kind, where = given["use"], (*route, "use")
                options = {key: each for key, each in given.items() if key != "use"}
            if not isinstance(kind, str):
                self.tree.blame(where, f"{shown(kind)} is not the name of a transport")
            elif found := self.entry(str(name), kind, kinds, (where, route), options):
                yield found

    def listed(self, section: str, value: Any, kinds: Mapping[str, Kind]) -> Iterator[Entry]:
        """A list of mappings with one key each, the kind."""
        if value is not None and not isinstance(value, list):
            self.tree.blame((section,), f"{shown(value)} is not a list: begin each with '- directory:'")
        for index, each in enumerate(value if isinstance(value, list) else ()):
            route: Route = (section, index)
            if not isinstance(each, dict) or len(each) != 1:
                self.tree.blame(
                    route, f"{shown(each)} is not one kind with its options, such as directory: {{path: …}}"
                )
                continue
            ((kind, options),) = each.items()
            below: Route = (*route, kind)
            if found := self.entry(yaml.show(route), kind, kinds, (below, below), options):
                yield found

    def entry(
        self, name: str, kind: str, kinds: Mapping[str, Kind], routes: tuple[Route, Route], value: Any
    ) -> Entry | None:
        """
        @param routes: the keys to the kind's name, and those to the options.
        """
        maker = kinds.get(kind)
        if maker is None:
            self.tree.blame(routes[0], f"nothing here is called {shown(kind)}" + meant(kind, kinds))
            return None
        try:
            model = maker.options
        except ConfigError as error:
            self.tree.blame(routes[0], str(error))
            return None
        options = self.options(model, value, routes[1])
        return None if options is None else Entry(name, kind, options, self.tree, routes[1])

    def rules(self, value: Any, model: type[BaseModel]) -> tuple[BaseModel, ...]:
        if not isinstance(value, list):
            self.tree.blame(("access",), f"{shown(value)} is not a list: begin each rule with '- {{allow: …}}'")
            return ()
        rules = [self.options(model, each, ("access", index)) for index, each in enumerate(value)]
        return tuple(rule for rule in rules if rule is not None)


def addresses(entries: Sequence[Entry]) -> dict[tuple[str, int], list[Entry]]:
    """The transports by the address and port they are to have, in the order of the file."""
    found: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        if isinstance(entry.options, ListenOptions):
            found.setdefault((entry.options.interface, entry.options.port), []).append(entry)
    return found


def _collisions(config: Config) -> None:
    """The wildcard and one address of its family cannot both have a port: the system gives it to the first only."""
    listening = addresses(config.transports)
    for (interface, port), entries in listening.items():
        whole = "::" if ":" in interface else ""
        if interface != whole and (whole, port) in listening:
            other = listening[whole, port][0]
            text = f"port {port} of {interface} is also part of '{other.name}', which listens at all addresses"
            for entry in entries:
                entry.blame(f"{text}: give both the same interface, or two ports")


def _clashes(config: Config) -> None:
    """What only a kind itself can know: SLAM's two files on one group."""
    alike: dict[type[ListenOptions], dict[str, Entry]] = {}
    for entry in config.transports:
        if isinstance(entry.options, ListenOptions):
            alike.setdefault(type(entry.options), {})[entry.name] = entry
    for model, entries in alike.items():
        for name, complaint in model.clashes([(name, entry.options) for name, entry in entries.items()]):
            entries[name].blame(complaint)


def _unserved(config: Config) -> Iterator[str]:
    """What a group transport declines has to be served by a plain one after it at the same address."""
    for entries in addresses(config.transports).values():
        for place, entry in enumerate(entries):
            wanted = entry.options.fallback
            if wanted and wanted not in (other.kind for other in entries[place + 1 :]):
                text = f"no {wanted} follows at its address, so clients it declines get no answer"
                yield f"{config.tree.where(entry.route)}: {text}"


def _forlorn(config: Config) -> Iterator[str]:
    """Clients that give up one transport ask another, which should be there."""
    listening = [entry for entry in config.transports if isinstance(entry.options, ListenOptions)]
    there = {(entry.kind, entry.options.port) for entry in listening}
    for entry in listening:
        wanted = entry.options.elsewhere
        if wanted and wanted not in there:
            text = f"no {wanted[0]} at port {wanted[1]}: clients that give up here ask there"
            yield f"{config.tree.where(entry.route)}: {text}"


def _doubtful(config: Config) -> Iterator[str]:
    """What a transport says of its own options."""
    for entry in config.transports:
        if isinstance(entry.options, ListenOptions):
            for text in entry.options.warnings():
                yield f"{config.tree.where(entry.route)}: {text}"
