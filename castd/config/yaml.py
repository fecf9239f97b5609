"""
A YAML file as text, mappings and lists, with the line of each: nothing is guessed from how a word looks.

YAML's own types are not used: C{12:30} is no number and C{no} no truth value; they are what the option's type makes of
them.  A plain C{null}, C{~} or nothing at all is L{None}; in quotes it is text like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from castd.errors import ConfigError

#: Octets of a file, levels of nesting, and values after aliases were followed: far above any honest service file.
LARGEST, DEEPEST, MOST = 1 << 20, 32, 50_000

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
Route: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """
    One thing that is wrong with a file.

    @ivar line: counted from 1.
    @ivar where: the keys that lead there.
    """

    line: int
    where: str
    text: str

    def show(self, file: str) -> str:
        """C{file:line: path: what is wrong}, on one line and without control characters, whatever the file says."""
        spoken = ": ".join(part for part in (f"{file}:{self.line}", self.where, self.text) if part)
        return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in spoken)


@dataclass(slots=True)
class Tree:
    """
    A file, read.

    @ivar value: what is in it.
    @ivar lines: the line of each value, by the keys and indices that lead to it.
    @ivar faults: what was found wrong so far.
    """

    file: str
    value: Value = None
    lines: dict[Route, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def blame(self, path: Route, text: str) -> None:
        """Something is wrong at this path, or, where the path leads out of the file, at the last value it meets."""
        self.faults.append(Fault(self.line(path), show(path), text))

    def line(self, path: Route) -> int:
        """The line of a value, or of the last one on the way to it."""
        return next((self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines), 1)

    def where(self, path: Route) -> str:
        """C{file:line: path}, for complaints that are found out later."""
        return ": ".join(part for part in (f"{self.file}:{self.line(path)}", show(path)) if part)

    def complain(self) -> None:
        """@raise ConfigError: with all faults in the order of the file, if there are any."""
        if self.faults:
            raise ConfigError(*dict.fromkeys(fault.show(self.file) for fault in sorted(self.faults)))


def show(path: Route) -> str:
    """C{transports.slam.port}, C{content[0].directory}."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def read(file: Path) -> Tree:
    """
    Read a service file.

    @raise ConfigError: it cannot be read, or is no YAML.  What is wrong with its keys is left in C{faults}.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    return parse(content, str(file))


def parse(content: bytes, file: str) -> Tree:
    """
    The same for what is in a file.

    @param file: how complaints call it.
    """
    if len(content) > LARGEST:
        raise ConfigError(f"{file}: larger than {LARGEST >> 20} MiB, which no service file is")
    tree = Tree(file)
    try:
        node = _Loader(content.decode("utf-8-sig")).get_single_node()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: not UTF-8") from None
    except yaml.reader.ReaderError as error:
        line = content.decode("utf-8-sig").count("\n", 0, error.position) + 1
        raise ConfigError(f"{file}:{line}: a character that YAML forbids (U+{error.character:04X})") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax(error, file)) from None
    if node is not None:
        tree.value = _Reading(tree).value(node, ())
    return tree


class _Loader(yaml.BaseLoader):
    """Scalars stay text; nesting is bounded before it can exhaust the stack."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", self.get_mark())
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _syntax(error: yaml.MarkedYAMLError, file: str) -> str:
    mark = error.problem_mark or error.context_mark
    begun = error.context_mark.line + 1 if error.context and error.context_mark else None
    inside = f" ({error.context}, line {begun})" if begun else ""
    return Fault(mark.line + 1 if mark else 1, "", f"not YAML: {error.problem or error.context}{inside}").show(file)


@dataclass(slots=True)
class _Reading:
    """Nodes to values, counted: an alias costs what it stands for, and may not stand for itself."""

    tree: Tree
    seen: int = 0

    def value(self, node: yaml.Node, path: Route) -> Value:
        self.seen += 1
        self.tree.lines.setdefault(path, node.start_mark.line + 1)
        if self.seen > MOST or len(path) > DEEPEST:
            where = f"{self.tree.file}:{node.start_mark.line + 1}: {show(path[:4])}"
            raise ConfigError(f"{where}: aliases make this larger than any service file is")
        if node.tag not in _TAGS:
            self.tree.blame(path, f"the tag {node.tag} has no meaning here")
        if isinstance(node, yaml.MappingNode):
            return dict(self.pairs(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, (*path, index)) for index, each in enumerate(node.value)]
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return None if plain and node.value in ("", "~", "null") else str(node.value)

    def pairs(self, node: yaml.MappingNode, path: Route) -> Iterator[tuple[str, Value]]:
        first: dict[str, int] = {}
        for key, below in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TAGS:
                self.tree.faults.append(Fault(line, show(path), "a key must be plain text"))
            elif key.value == "<<" and key.style is None:
                self.tree.faults.append(
                    Fault(line, show((*path, "<<")), "merging is not done here: write the keys out")
                )
            elif key.value in first:
                text = f"written twice, first in line {first[key.value]}"
                self.tree.faults.append(Fault(line, show((*path, key.value)), text))
            else:
                first[key.value] = self.tree.lines[*path, key.value] = line
                yield key.value, self.value(below, (*path, key.value))


_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


def items(value: Any) -> Iterator[tuple[str | int, Any]]:
    """The keys and values of a mapping, or the indices and values of a list."""
    return iter(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
