"""
Turns the service file into frozen options, or into all of its faults at once, each with file, line and path.

The kinds of transports, sources and sinks that the file may name are an argument; this module knows none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from castd.config import yaml
from castd.config.messages import faultsOf, showValue, suggestion
from castd.config.profiles import profileFaults
from castd.config.yaml import Route, Tree, Value, showRoute
from castd.errors import ConfigError
from castd.files.access import Rule
from castd.files.names import printable
from castd.interfaces import IContentSourceMaker, ITransportMaker
from castd.machines.options import MachinesOptions
from castd.options import Duration, FilePath, Limits, ListenOptions, Settings, Size
from castd.profiles.options import ProfilesOptions

#: The version of the service file's schema.
SCHEMA = "1"
#: What exists while the system runs only: systemd makes folders there when it starts castd.
RUNTIME = Path("/run")
#: The fault of a relative path where the working directory was removed.
NO_WORKING_DIRECTORY = "the working directory was removed: change to another, or give the whole path"

#: A parameter of an endpoint of Twisted's, with its key if it has one; a backslash protects the character behind it.
_PARAMETER = re.compile(r"(?:((?:[^\\:=]|\\.)+)=)?((?:[^\\:]|\\.)+)", re.DOTALL)
_PROTECTED = re.compile(r"\\(.)", re.DOTALL)

_Model = TypeVar("_Model", bound=BaseModel)


class Kind(Protocol):
    """A kind of transport, source or sink that a service file can name: a maker, or another object that has options."""

    @property
    def options(self) -> type[BaseModel]:
        """
        The model of the options.

        @raise ConfigError: the module that has the model cannot be imported.
        """


@dataclass(frozen=True, slots=True)
class Kinds:
    """
    The kinds of transports, sources and sinks that a service file may name, by name.

    @ivar transports: kinds beneath C{transports:}, named by C{use} or by the name of the transport.
    @ivar content: kinds of sources.
    @ivar uploads: kinds of sinks.
    @ivar access: the model of one access rule.
    """

    transports: Mapping[str, ITransportMaker]
    content: Mapping[str, IContentSourceMaker]
    uploads: Mapping[str, Kind]
    access: type[Rule]


class LoggingOptions(Settings):
    """What is logged, and where."""

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
    def _journalIsNoFile(self) -> LoggingOptions:
        if self.file is not None and self.format == "journal":
            raise ValueError("file: the journal is no file: leave out one of file and format")
        return self


class MetricsOptions(Settings):
    """Where Prometheus reads the metrics, and people a page."""

    listen: str | None = Field(
        None, description="where they are served, such as 127.0.0.1:9147 or a Twisted endpoint; null: nowhere"
    )
    page: bool | None = Field(
        None,
        description="whether there is also a page for people, with names of files and addresses of machines;"
        " null: where only this machine reaches it (127.0.0.0/8, ::1)",
    )

    @model_validator(mode="after")
    def _pageHasAnAddress(self) -> MetricsOptions:
        if self.page and self.listen is None:
            raise ValueError("page: there is none without an address: write listen: 127.0.0.1:9147")
        return self

    @property
    def socket(self) -> Path | None:
        """
        The local socket that C{listen} names as an endpoint of Twisted's; L{None}: it names none.

        It is read here, and not by Twisted: on import, twisted.internet.endpoints reads the variables of passed sockets
        from the environment, and castd.net.activation has to read them first.
        """
        found = [
            (_PROTECTED.sub(r"\1", key), _PROTECTED.sub(r"\1", value))
            for key, value in _PARAMETER.findall(self.listen or "")
        ]
        plain, keyed = [value for key, value in found if not key], dict(found)
        while plain and plain[0].lower() == "haproxy":
            # The parameters behind it are those of the endpoint that it stands before.
            del plain[0]
        if plain[:1] != ["unix"]:
            return None
        path = keyed.get("address", plain[1] if len(plain) > 1 else None)
        return None if path is None else Path(path)


class ControlOptions(Settings):
    """The socket that the commands status, reload and upgrade ask at."""

    path: FilePath | None = Field(
        None, description="a local socket; null: control in systemd's RuntimeDirectory, or none without that"
    )


class HistoryOptions(Settings):
    """What is kept of the events of every machine, for C{castd history}."""

    path: FilePath | None = Field(
        None, description="an SQLite file; null: history.sqlite in systemd's StateDirectory, or in memory without that"
    )
    age: Duration = Field(90 * 86400.0, gt=0, description="what is older is removed")
    size: Size = Field(
        64 << 20, ge=1 << 18, description="the largest size; half of it is for machines that have been served"
    )


class RecorderOptions(Settings):
    """Whether the last packets of each transfer are kept, and written down when it fails."""

    directory: FilePath | None = Field(
        None, description="a folder for the captures of transfers that failed; null: no packets are kept"
    )
    packets: int = Field(64, ge=4, le=4096, description="the last packets that are kept of each machine of a transfer")
    memory: Size = Field(64 << 20, ge=1 << 20, description="the most memory for all packets")
    payload: bool = Field(False, description="keep the content of files as well, up to 1,472 octets of each packet")
    files: int = Field(100, ge=2, le=10_000, description="captures that are kept; the oldest are removed")
    size: Size = Field(50 << 20, ge=1 << 16, description="the largest size of all captures; the oldest are removed")


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One transport, source or sink of the service file, with its options.

    @ivar name: the name of a transport as the file has it; C{content[0]} for a source.
    @ivar kind: the name of the maker.
    @ivar options: an instance of the maker's model.
    @ivar tree: the file that the entry was read from.
    @ivar route: the keys that lead to the options in that file.
    """

    name: str
    kind: str
    options: BaseModel
    tree: Tree = field(repr=False, compare=False)
    route: Route = field(repr=False, compare=False)

    def addFault(self, text: str) -> None:
        """
        Record a fault that shows only when the transport, source or sink is made.

        @param text: what is wrong.  If it begins with a path of keys within the options and a colon (C{files: ...},
            C{rules[2].by: ...}), the fault gets the line of that value; of the rule, if C{by} is not in the file.
        """
        self.tree.addFault(*self._place(text))

    def describe(self, text: str) -> str:
        """Return a warning as C{file:line: path: what}; C{text} as for L{addFault}."""
        return ": ".join(self.locate(text))

    def locate(self, text: str) -> tuple[str, str]:
        """Return C{file:line: path} of what a text is about, and the rest of the text; C{text} as for L{addFault}."""
        route, rest = self._place(text)
        return self.tree.where(route), rest

    def _place(self, text: str) -> tuple[Route, str]:
        """Return the route of the value that a text is about, and the text without it."""
        path, colon, rest = text.partition(": ")
        keys = [int(key[1:-1]) if key[0] == "[" else key for key in _PATH_KEY.findall(path)]
        # The last keys of a path may be left out in the file; a text whose first one is not there begins with none.
        known = colon and _PATH.fullmatch(path) and (*self.route, *keys[:1]) in self.tree.lines
        return ((*self.route, *keys), rest) if known else (self.route, text)


@dataclass(frozen=True, slots=True)
class Config:
    """
    A service file without faults, as far as they can be found before anything is made.

    @ivar file: the path of the service file.
    @ivar access: the access rules in order; L{None}: the file has no such section.
    @ivar tree: the file as it was read, with the line of each value.
    """

    file: Path
    transports: tuple[Entry, ...]
    content: tuple[Entry, ...]
    uploads: tuple[Entry, ...]
    access: tuple[Rule, ...] | None
    limits: Limits
    logging: LoggingOptions
    metrics: MetricsOptions
    control: ControlOptions
    history: HistoryOptions
    machines: MachinesOptions
    profiles: ProfilesOptions
    recorder: RecorderOptions
    tree: Tree = field(repr=False, compare=False)


def load(file: Path | str, kinds: Kinds) -> Config:
    """
    Read a service file.

    @raise ConfigError: with every fault that was found.
    """
    path = Path(file)
    return build(yaml.read(path), path, kinds)


def build(tree: Tree, file: Path, kinds: Kinds) -> Config:
    """
    Turn a service file that was read into options.

    @param file: the path of the file; paths in it are relative to its folder.
    @raise ConfigError: with every fault that was found.
    """
    config = examine(tree, file, kinds)
    tree.raiseFaults()
    return config


def examine(tree: Tree, file: Path, kinds: Kinds) -> Config:
    """
    Turn a service file into options as far as it has no faults, for C{castd check}: what is without a fault can be
    looked at further, so that all faults are found at once.

    @return: what could be read; the faults are in the tree.
    @raise ConfigError: the file is no mapping of sections; or its path is relative, and to nothing.
    """
    try:
        folder = file.absolute().parent
    except FileNotFoundError:
        raise ConfigError(f"{file}: {NO_WORKING_DIRECTORY}") from None
    reader = _Reader(tree, folder)
    top = reader.sections()
    machines = reader.section("machines", top, MachinesOptions)
    config = Config(
        file=file,
        transports=tuple(reader.transports(top.get("transports"), kinds.transports)),
        content=tuple(reader.entries("content", top.get("content"), kinds.content)),
        uploads=tuple(reader.entries("uploads", top.get("uploads"), kinds.uploads)),
        access=reader.rules(top.get("access"), kinds.access, machines.trusted) if "access" in top else None,
        limits=reader.section("limits", top, Limits),
        logging=reader.section("logging", top, LoggingOptions),
        metrics=reader.section("metrics", top, MetricsOptions),
        control=reader.section("control", top, ControlOptions),
        history=reader.section("history", top, HistoryOptions),
        machines=machines,
        profiles=reader.section("profiles", top, ProfilesOptions),
        recorder=reader.section("recorder", top, RecorderOptions),
        tree=tree,
    )
    _checkAddresses(config)
    _checkTogether(config)
    _checkOwnFiles(config)
    for route, text in profileFaults(config.profiles, tree, [each.name for each in config.transports]):
        tree.addFault(route, text)
    return config


#: A key, or an index in brackets, of a path within options.
_PATH = re.compile(r"[^.\[\]\s]+(?:\.[^.\[\]\s]+|\[[0-9]{1,9}\])*", re.ASCII)
_PATH_KEY = re.compile(r"[^.\[\]]+|\[[0-9]{1,9}\]", re.ASCII)
_SECTIONS = (
    "castd",
    "content",
    "uploads",
    "access",
    "limits",
    "logging",
    "metrics",
    "control",
    "history",
    "machines",
    "profiles",
    "recorder",
    "transports",
)
#: What is told of a transport whose name is no kind, since that is how a second one of a kind is named.
_OWN_NAME = " (a name of your own needs its kind: use: tftp)"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(slots=True)
class _Reader:
    """
    Reads the sections of one service file.  A fault is recorded in the tree, and reading goes on.

    @ivar folder: the folder that paths in the file are relative to.
    """

    tree: Tree
    folder: Path

    def sections(self) -> dict[str, Value]:
        """Return the sections by name; unknown names are faults, and sections may be missing."""
        value = self.tree.value
        if not isinstance(value, dict):
            what = "is empty" if value is None else f"is {showValue(value)}"
            self.tree.addFault((), f"the file {what}; it should begin with 'castd: {SCHEMA}'")
            self.tree.raiseFaults()
            return {}
        for key in value.keys() - set(_SECTIONS):
            self.tree.addFault((key,), "unknown key" + suggestion(key, _SECTIONS))
        if "castd" not in value:
            self.tree.addFault((), f"castd is missing: the file should begin with 'castd: {SCHEMA}'")
        elif value["castd"] != SCHEMA:
            text = f"schema {showValue(value['castd'])} is not known here: it should be {SCHEMA}"
            self.tree.addFault(("castd",), text)
        if not value.get("transports"):
            self.tree.addFault(("transports",), "nothing is listening: name at least one transport, such as 'tftp:'")
        if not value.get("content") and not value.get("uploads"):
            text = "nothing to serve: name a source, such as '- directory: {path: /srv/boot}'"
            self.tree.addFault(("content",), text)
        return value

    def section(self, name: str, top: Mapping[str, Value], model: type[_Model]) -> _Model:
        """Return a section that is one model; the model with its defaults if the section is absent, empty or wrong."""
        return self.options(model, top.get(name), (name,)) or model()

    def options(self, model: type[_Model], value: Value, route: Route) -> _Model | None:
        """Return an instance of the model; L{None} if the value has faults."""
        given = {} if value is None else value
        try:
            return model.model_validate(given, by_alias=True, by_name=False, context={"folder": self.folder})
        except ValidationError as error:
            for inside, text in faultsOf(error, model, given):
                self.tree.addFault((*route, *inside), text)
        except UnicodeEncodeError as error:
            # A fault that quotes an octet which is no UTF-8: pydantic cannot hold it, nor say which option it is of.
            self.tree.addFault(route, printable(error.object))
        return None

    def transports(self, value: Value, kinds: Mapping[str, Kind]) -> Iterator[Entry]:
        """Read a mapping of names to options; the kind is the option C{use}, or else the name itself."""
        if value is not None and not isinstance(value, dict):
            self.tree.addFault(("transports",), f"{showValue(value)} is not a mapping of names to options")
        for name, given in (value if isinstance(value, dict) else {}).items():
            route = ("transports", name)
            if not _NAME.fullmatch(name):
                self.tree.addFault(route, "a name is letters, digits, '.', '_' and '-', at most 64")
            kind: Value = name
            where: Route = route
            options = given
            if isinstance(given, dict) and "use" in given:
                kind, where = given["use"], (*route, "use")
                options = {key: each for key, each in given.items() if key != "use"}
            if not isinstance(kind, str):
                self.tree.addFault(where, f"{showValue(kind)} is not the name of a transport")
            elif found := self.entry(name, kind, kinds, (where, route), options, "" if where != route else _OWN_NAME):
                yield found

    def entries(self, section: str, value: Value, kinds: Mapping[str, Kind]) -> Iterator[Entry]:
        """Read a list of mappings, each with one key: its kind."""
        if value is not None and not isinstance(value, list):
            self.tree.addFault((section,), f"{showValue(value)} is not a list: begin each with '- directory:'")
        for index, each in enumerate(value if isinstance(value, list) else ()):
            route: Route = (section, index)
            if not isinstance(each, dict) or len(each) != 1:
                text = f"{showValue(each)} is not one kind with its options, such as directory: {{path: …}}"
                self.tree.addFault(route, text)
                continue
            ((kind, options),) = each.items()
            below: Route = (*route, kind)
            if found := self.entry(showRoute(route), kind, kinds, (below, below), options):
                yield found

    def entry(
        self,
        name: str,
        kind: str,
        kinds: Mapping[str, Kind],
        routes: tuple[Route, Route],
        value: Value,
        advice: str = "",
    ) -> Entry | None:
        """
        Read the options of a transport, a source or a sink.

        @param routes: the route to the name of the kind, and the route to the options.
        @param advice: what else is told where there is no such kind.
        @return: L{None}: the entry has a fault.
        """
        maker = kinds.get(kind)
        if maker is None:
            self.tree.addFault(routes[0], f"nothing here is called {showValue(kind)}{suggestion(kind, kinds)}{advice}")
            return None
        try:
            model = maker.options
        except ConfigError as error:
            self.tree.addFault(routes[0], str(error))
            return None
        options = self.options(model, value, routes[1])
        return None if options is None else Entry(name, kind, options, self.tree, routes[1])

    def rules(self, value: Value, model: type[Rule], trusted: bool) -> tuple[Rule, ...]:
        """
        Read the list of access rules.

        @param trusted: access may depend on what is known of machines.
        """
        if not isinstance(value, list):
            self.tree.addFault(("access",), f"{showValue(value)} is not a list: begin each rule with '- {{allow: …}}'")
            return ()
        rules = [self.options(model, each, ("access", index)) for index, each in enumerate(value)]
        for index, rule in enumerate(rules):
            for key in () if trusted or rule is None else rule.machineKeys:
                text = f"any machine can say that it has this {key}: name its network in the place of it,"
                self.tree.addFault(("access", index, key), f"{text} or write 'machines: {{trusted: true}}'")
        return tuple(rule for rule in rules if rule is not None)


def listening(config: Config) -> Iterator[tuple[Entry, ListenOptions]]:
    """Return the transports whose options are L{ListenOptions}, with these options, in the order of the file."""
    for entry in config.transports:
        if isinstance(entry.options, ListenOptions):
            yield entry, entry.options


def byAddress(config: Config) -> dict[tuple[str, int], list[tuple[Entry, ListenOptions]]]:
    """Return the listening transports by interface and port, in the order of the file."""
    found: dict[tuple[str, int], list[tuple[Entry, ListenOptions]]] = {}
    for entry, options in listening(config):
        found.setdefault((options.interface, options.port), []).append((entry, options))
    return found


def _checkAddresses(config: Config) -> None:
    """Check that no port is used at the wildcard and at an address of its family: the system would bind only one."""
    listening = byAddress(config)
    for (interface, port), transports in listening.items():
        whole = "::" if ":" in interface else ""
        if interface != whole and (whole, port) in listening:
            other, _ = listening[whole, port][0]
            text = f"port {port} of {interface} is also part of '{other.name}', which listens at all addresses"
            for entry, _ in transports:
                entry.addFault(f"{text}: give both the same interface, or two ports")


def _checkTogether(config: Config) -> None:
    """Ask each kind of transport for clashes among its transports, such as two files of SLAM in one group."""
    alike: dict[type[ListenOptions], dict[str, tuple[Entry, ListenOptions]]] = {}
    for entry, options in listening(config):
        alike.setdefault(type(options), {})[entry.name] = entry, options
    for model, transports in alike.items():
        for name, text in model.clashes([(name, options) for name, (_, options) in transports.items()]):
            transports[name][0].addFault(text)


def ownFiles(config: Config) -> Iterator[tuple[tuple[str, str], Path]]:
    """Return each file, socket and folder that castd writes or makes, and its route in the service file."""
    for route, path in (
        (("logging", "file"), config.logging.file),
        (("logging", "json"), config.logging.json_),
        (("control", "path"), config.control.path),
        (("metrics", "listen"), config.metrics.socket),
        (("history", "path"), config.history.path),
        (("recorder", "directory"), config.recorder.directory),
    ):
        if path is not None:
            yield route, path


def _checkOwnFiles(config: Config) -> None:
    """
    Check that castd writes each of its own files for one purpose, as two logs in one file tear each other's lines; and
    none over its service file.
    """
    logging = config.logging
    used = {config.file.absolute(): "this service file"}
    for route, named in ownFiles(config):
        try:
            # A socket in an endpoint is the one path that is still as it was written.
            path = named.absolute()
        except FileNotFoundError:
            path = named  # the working directory was removed
        if path.is_relative_to("/dev"):
            continue
        files = {path: ".".join(route)}
        for number in range(1, logging.keep + 1 if route[0] == "logging" and logging.size is not None else 0):
            files[path.with_name(f"{path.name}.{number}")] = f"an older file of {files[path]}"
        clash = next((each for each in files if each in used), None)
        if clash is not None:
            text = f"{clash} is {used[clash]}" if clash == path else f"{clash}, an older file of it, is {used[clash]}"
            config.tree.addFault(route, f"{text}: give each a name of its own")
        used |= files
