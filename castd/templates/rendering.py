"""
Render a template of Jinja in its sandbox, with what an inventory says of the machine.  It runs in a process of its own.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TypeAlias

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from castd.machines.known import plainAddress, validMac, validUuid
from castd.templates.messages import (
    LARGEST_INVENTORY,
    FileVersion,
    Job,
    Rendered,
    TemplateFault,
    readText,
    versionNow,
    versionOf,
)

#: A mapping of YAML, or what stands in one.
Yaml: TypeAlias = "Mapping[str, Yaml] | Sequence[Yaml] | str | int | float | bool | None"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
#: The forms of values, without numbers to base 60, as YAML 1.2 has none: 52:54:00:12:34:56 is a MAC, and 12:30 a time.
_FORMS = {
    first: [
        (tag, re.compile(f"(?!.*:)(?:{form.pattern})", form.flags) if tag in _NUMBERS else form) for tag, form in each
    ]
    for first, each in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UNMATCHED = " is no machine: write its MAC as 52:54:00:66:00:10, its UUID, or its address"
#: Keys from the top of a file downwards.
_Keys: TypeAlias = tuple[object, ...]


class _Loader(FileSystemLoader):
    """Loads templates beside the first one, and notes which."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.folder = folder
        self.loaded: set[str] = set()

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """Load a template, which is loaded again when it is another version: Jinja looks at its time alone."""
        before = versionNow(f"{self.folder}/{template}")
        text, path, _ = super().get_source(environment, template)
        return text, path, lambda: versionNow(before[0]) == before

    def note(self, template: str) -> None:
        self.loaded.add(str(Path(self.folder, template)))


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox; a template that is included is noted, also one that was compiled before."""

    def __init__(self, loader: _Loader) -> None:
        super().__init__(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
        self.noting = loader

    def _load_template(self, name: str, globals: MutableMapping[str, object] | None) -> Template:
        self.noting.note(name)
        return super()._load_template(name, globals)


class Rendering:
    """
    Renders templates, and keeps what was compiled and read as long as the files are the same.
    """

    def __init__(self) -> None:
        self._environments: dict[str, _Environment] = {}
        self._inventories: dict[str, tuple[FileVersion, Inventory]] = {}

    def render(self, job: Job) -> Rendered:
        """Render one template; a fault of template or inventory is a part of the result."""
        path = Path(job["template"])
        environment = self._environments.get(str(path.parent))
        if environment is None:
            environment = self._environments[str(path.parent)] = _Environment(_Loader(str(path.parent)))
        environment.noting.loaded = {str(path)}
        inventory = job["inventory"]
        try:
            machine = self._machine(inventory, job["values"])
            text = None
            if machine is not None or not job["known"]:
                text = _rendered(environment, path.name, job, machine or {})
            fault = None
        except TemplateFault as wrong:
            text, fault = None, str(wrong)
        files = [*sorted(environment.noting.loaded), *(() if inventory is None else (inventory,))]
        return {"text": text, "fault": fault, "files": [versionNow(each) for each in files]}

    def _machine(self, path: str | None, values: Mapping[str, str | None]) -> Mapping[str, Yaml] | None:
        """Return what the inventory says of a machine; L{None}: it does not stand there."""
        if path is None:
            return None
        try:
            version = versionOf(path)
        except OSError as error:
            raise TemplateFault(f"{path}: {error.strerror}") from None
        known = self._inventories.get(path)
        if known is None or known[0] != version:
            known = self._inventories[path] = version, Inventory(path, readText(path, LARGEST_INVENTORY))
        return known[1].machine(values)


def _rendered(environment: _Environment, name: str, job: Job, machine: Mapping[str, Yaml]) -> str:
    """@raise TemplateFault: the template is wrong, or its result is too large."""
    groups = machine.get("groups", [])
    try:
        template = environment.get_template(name)
        made, octets = [], 0
        for piece in template.generate(**job["values"], machine=machine, groups=groups):
            octets += len(piece.encode())
            if octets > job["most"]:
                raise TemplateFault(f"{job['template']}: its result is larger than {job['most']} octets")
            made.append(piece)
        return "".join(made)
    except TemplateSyntaxError as error:
        raise TemplateFault(f"{error.filename or job['template']}:{error.lineno}: {error.message}") from None
    except (TemplateFault, MemoryError):
        raise
    except TemplateError as error:
        raise TemplateFault(f"{_place(error, environment, job)}: {error.message or type(error).__name__}") from None
    except Exception as error:
        # A template can raise whatever Python does: a division by zero, a wrong type.
        raise TemplateFault(f"{_place(error, environment, job)}: {type(error).__name__}: {error}") from None


def _place(error: Exception, environment: _Environment, job: Job) -> str:
    """Return file and line of the innermost template that an exception has come through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in environment.noting.loaded:
            return f"{frame.filename}:{frame.lineno}"
    return job["template"]


class Inventory:
    """
    What the operator says of machines: C{machines:} by MAC, UUID or address, C{groups:} with values for their members,
    and C{all:} with values for all of them.

    @ivar unmatched: warnings of what stands below C{machines:} by a name that no machine is known by.
    """

    def __init__(self, path: str, text: str) -> None:
        """@raise TemplateFault: it cannot be read."""
        self._path = path
        self._lines: dict[_Keys, int] = {}
        try:
            top = self._mapping(self._read(text))
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
            raise TemplateFault(f"{path}{line}: {error.problem}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise TemplateFault(f"{path}: {error}") from None
        self._all = self._mapping(top.get("all"), "all")
        self._groups = {str(name): self._mapping(each, "groups", name) for name, each in self._items(top, "groups")}
        self._machines: dict[str, Mapping[str, Yaml]] = {}
        self.unmatched: list[str] = []
        for name, each in self._items(top, "machines"):
            known = _known(str(name))
            if known is None:
                self.unmatched.append(str(self._fault(("machines", name), _UNMATCHED)))
            self._machines[known or str(name)] = machine = self._mapping(each, "machines", name)
            self._checkGroups(name, machine)
        self._lines.clear()

    def _read(self, text: str) -> Yaml:
        """Return the values of the file, and note the line of each key."""
        loader = yaml.SafeLoader(text)
        loader.yaml_implicit_resolvers = _FORMS
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            self._note(loader, node)
            found: Yaml = loader.construct_document(node)
            return found
        finally:
            loader.dispose()

    def _note(self, loader: yaml.SafeLoader, node: yaml.Node, *keys: object) -> None:
        """Note the lines of the keys of a mapping, three mappings deep."""
        if not isinstance(node, yaml.MappingNode) or len(keys) > 2:
            return
        for key, value in node.value:
            # A merge key, <<, is none of the mapping's own.
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                inner = (*keys, loader.construct_object(key))
                self._lines[inner] = key.start_mark.line + 1
                self._note(loader, value, *inner)

    def _fault(self, keys: _Keys, what: str) -> TemplateFault:
        """Return a fault at the line of a key."""
        line = f":{self._lines[keys]}" if keys in self._lines else ""
        return TemplateFault(f"{self._path}{line}: {'.'.join(map(str, keys)) or 'the file'}{what}")

    def _items(self, top: Mapping[str, Yaml], key: str) -> Sequence[tuple[str, Yaml]]:
        return list(self._mapping(top.get(key), key).items())

    def _mapping(self, value: object, *keys: object) -> Mapping[str, Yaml]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._fault(keys, " is no mapping")
        return value

    def _checkGroups(self, name: object, machine: Mapping[str, Yaml]) -> None:
        groups, keys = machine.get("groups", []), ("machines", name, "groups")
        if not isinstance(groups, list) or not all(isinstance(each, str) for each in groups):
            raise self._fault(keys, " is no list of names")
        for each in groups:
            if each not in self._groups:
                raise self._fault(keys, f": there is no group {each}")

    def machine(self, values: Mapping[str, str | None]) -> Mapping[str, Yaml] | None:
        """Return the values of a machine, by its MAC, UUID or address; L{None}: it does not stand here."""
        keys = [value for word in ("mac", "uuid", "ip") if (value := values.get(word)) is not None]
        own = next((self._machines[key] for key in keys if key in self._machines), None)
        if own is None:
            return None
        merged: dict[str, Yaml] = dict(self._all)
        groups = own.get("groups", [])
        for each in groups if isinstance(groups, list) else ():
            merged.update(self._groups[str(each)])
        return {**merged, "groups": [], **own}


def _known(name: str) -> str | None:
    """Return a MAC, UUID or address as machines are asked for by it; L{None}: it is none."""
    return validMac(name) or validUuid(name) or plainAddress(name)
