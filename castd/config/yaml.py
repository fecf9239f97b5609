"""
Reads a YAML file as text, mappings and lists, and keeps the line of each value.

YAML's own types are not used: C{12:30} is no number and C{no} no truth value; the type of the option decides how a
scalar is read.  A plain C{null}, a plain C{~} and an empty value are L{None}; in quotes they are text like any other.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias, cast

import yaml

from castd.errors import ConfigError

#: The most octets of a file.  This and the two limits below are far above those of any real service file.
MAX_OCTETS = 1 << 20
#: The most levels of nesting.
MAX_DEPTH = 32
#: The most values that aliases repeat.
MAX_REPEATED = 50_000
#: Seconds that the next octets may take of a service file that is a pipe, as with C{castd check <(...)}.
PIPE_TIMEOUT = 2.0

#: The fault of a text that no file, name or address can have.
UNFIT = "an octet of 0, or a half of a character (surrogate): nothing here can have that"

#: The value that a node of the file becomes.
Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
#: The keys and indices that lead to a value: C{("content", 0, "directory")}.
Route: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """
    One fault of a file.

    @ivar line: counted from 1.
    @ivar path: the route to the fault as L{showRoute} writes it; C{""}: the file itself.
    @ivar text: what is wrong.
    """

    line: int
    path: str
    text: str

    def show(self, file: str) -> str:
        """Write C{file:line: path: what is wrong} on one line, without control characters whatever the keys are."""
        shown = ": ".join(part for part in (f"{file}:{self.line}", self.path, self.text) if part)
        return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)


@dataclass(slots=True)
class Tree:
    """
    A file that was read.

    @ivar file: the name of the file, for messages.
    @ivar value: the content of the file.
    @ivar lines: the line of each value, by the route to it.
    @ivar faults: the faults that were found so far.
    @ivar digest: SHA-256 of the octets of the file, in hexadecimal digits.
    """

    file: str
    value: Value = None
    lines: dict[Route, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    digest: str = ""

    def addFault(self, route: Route, text: str) -> None:
        """Record a fault of the value at this route, which need not be in the file."""
        self.faults.append(Fault(self.line(route), showRoute(route), text))

    def line(self, route: Route) -> int:
        """Return the line of a value; for one that is not in the file, of the innermost value around it."""
        return next((self.lines[route[:end]] for end in range(len(route), -1, -1) if route[:end] in self.lines), 1)

    def where(self, route: Route) -> str:
        """Return C{file:line: path} of a value, for faults that show only when the file is in use."""
        return ": ".join(part for part in (self.place(route), showRoute(route)) if part)

    def place(self, route: Route) -> str:
        """Return C{file:line} of a value."""
        return f"{self.file}:{self.line(route)}"

    def raiseFaults(self) -> None:
        """
        Raise the faults of the file, if there are any.

        @raise ConfigError: with all faults in the order of the file.
        """
        if self.faults:
            raise ConfigError(*dict.fromkeys(fault.show(self.file) for fault in sorted(self.faults)))


def showRoute(route: Route) -> str:
    """Write a route as C{transports.slam.port} or C{content[0].directory}."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in route).removeprefix(".")


def read(file: Path) -> Tree:
    """
    Read a service file.

    @return: its tree; faults of its keys are recorded there.
    @raise ConfigError: the file cannot be read, or is no YAML.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as stream:
            content = _contentOf(stream)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    return parse(content, str(file))


def _contentOf(stream: io.FileIO) -> bytes:
    """
    Read to the end, at most one octet more than L{MAX_OCTETS}.

    @raise OSError: it cannot be read; also if it is a pipe or a terminal, and nothing comes for L{PIPE_TIMEOUT}.
    """
    waits, content = select.poll(), b""
    waits.register(stream, select.POLLIN)
    while len(content) <= MAX_OCTETS:
        if not waits.poll(PIPE_TIMEOUT * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"it is no file, and nothing has come for {PIPE_TIMEOUT:g} s")
        piece = stream.read(MAX_OCTETS + 1 - len(content))
        if not piece:
            break
        content += piece
    return content


def parse(content: bytes, file: str) -> Tree:
    """
    Parse the content of a service file, as L{read} does.

    @param file: the name of the file, for messages.
    """
    if len(content) > MAX_OCTETS:
        raise ConfigError(f"{file}: larger than {MAX_OCTETS >> 20} MiB, which no service file is")
    tree = Tree(file, digest=sha256(content).hexdigest())
    try:
        node = _compose(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: not UTF-8") from None
    except yaml.reader.ReaderError as error:
        line = content.decode("utf-8-sig").count("\n", 0, error.position) + 1
        raise ConfigError(f"{file}:{line}: a character that YAML forbids (U+{error.character:04X})") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntaxFault(error).show(file)) from None
    if node is not None:
        tree.value = _NodeReader(tree).value(node, ())
    return tree


def _compose(text: str) -> yaml.Node | None:
    """
    Parse a document into nodes whose scalars stay text.

    libyaml does it ten times faster than PyYAML's own parser.  What it refuses is parsed again by the other one, so
    that the message is the same on every machine.

    @raise yaml.YAMLError: the text is no YAML.
    """
    if yaml.__with_libyaml__:
        with suppress(yaml.YAMLError):
            return _Composer().document(yaml.parse(text, Loader=yaml.CBaseLoader))
    return _Composer().document(yaml.parse(text, Loader=yaml.BaseLoader))


class _Composer:
    """
    Makes nodes of the events of a parser, without recursion, and bounds their nesting.

    @ivar open: the lists and mappings around the next node, the outermost first; a mapping with the key that waits for
        its value.
    @ivar anchors: the nodes that aliases may stand for.
    """

    def __init__(self) -> None:
        self.open: list[tuple[yaml.CollectionNode, list[yaml.Node]]] = []
        self.anchors: dict[str, yaml.Node] = {}
        self.root: yaml.Node | None = None

    def document(self, events: Iterable[yaml.Event]) -> yaml.Node | None:
        """
        Return the root of the only document; L{None}: the text is empty.

        @raise yaml.YAMLError: the text is no YAML, or has several documents.
        """
        begun: yaml.Mark | None = None
        for event in events:
            if isinstance(event, yaml.NodeEvent):
                self._node(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self.open.pop()
            elif isinstance(event, yaml.DocumentStartEvent):
                if begun is not None:
                    expected = "expected a single document in the stream"
                    raise yaml.composer.ComposerError(expected, begun, "but found another document", _markOf(event))
                begun = _markOf(event)
        return self.root

    def _node(self, event: yaml.NodeEvent) -> None:
        mark, anchor = _markOf(event), event.anchor
        if isinstance(event, yaml.AliasEvent):
            if anchor not in self.anchors:
                raise yaml.composer.ComposerError(None, None, f"found undefined alias {anchor!r}", mark)
            self._add(self.anchors[anchor])
            return
        if anchor in self.anchors:
            first = self.anchors[anchor].start_mark
            told = f"found duplicate anchor {anchor!r}; first occurrence"
            raise yaml.composer.ComposerError(told, first, "second occurrence", mark)
        node = _nodeOf(event)
        if anchor is not None:
            self.anchors[anchor] = node
        self._add(node)
        if isinstance(node, yaml.CollectionNode):
            self.open.append((node, []))
            if len(self.open) >= MAX_DEPTH:
                raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)

    def _add(self, node: yaml.Node) -> None:
        if not self.open:
            self.root = node
            return
        around, key = self.open[-1]
        if isinstance(around, yaml.SequenceNode):
            around.value.append(node)
        elif key:
            around.value.append((key.pop(), node))
        else:
            key.append(node)


def _nodeOf(event: yaml.NodeEvent) -> yaml.Node:
    """Return the node of an event, without what is in it; no type is guessed from the text of a scalar."""
    mark = _markOf(event)
    if isinstance(event, yaml.ScalarEvent):
        # libyaml says '' of a plain scalar, PyYAML None.
        return yaml.ScalarNode(_tagOf(event.tag, "str"), event.value, mark, mark, style=event.style or None)
    if isinstance(event, yaml.SequenceStartEvent):
        return yaml.SequenceNode(_tagOf(event.tag, "seq"), [], mark, mark)
    assert isinstance(event, yaml.MappingStartEvent)
    return yaml.MappingNode(_tagOf(event.tag, "map"), [], mark, mark)


def _tagOf(tag: str | None, kind: str) -> str:
    return f"tag:yaml.org,2002:{kind}" if tag in (None, "", "!") else tag


def _markOf(event: yaml.Event) -> yaml.Mark:
    """Return where an event begins; libyaml's marks have a class of their own, with the same attributes."""
    return cast(yaml.Mark, event.start_mark)


def _syntaxFault(error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    begun = error.context_mark.line + 1 if error.context and error.context_mark else None
    inside = f" ({error.context}, line {begun})" if begun else ""
    problem = str(error.problem or error.context)
    hints = [*(_INLINE_HINTS if _isInline(mark) else {}).items(), *_SYNTAX_HINTS.items()]
    hint = _joined(mark) or next((hint for part, hint in hints if part in problem), "")
    return Fault(mark.line + 1 if mark else 1, "", f"not YAML: {problem}{inside}{hint and f': {hint}'}")


#: A key, and one whose colon has no blank behind it, so that YAML reads it and the beginning of its value as one text.
_KEY = re.compile(r"\s*[A-Za-z][\w-]*", re.ASCII)
_JOINED = re.compile(r"\s*(?:- )?(?P<key>[A-Za-z][\w-]*):(?P<value>[{\[]?[\w.]+)", re.ASCII)


def _joined(mark: yaml.Mark | None) -> str:
    """Return the hint that a blank is missing behind the key of this line, or of the one before; C{""}: none is."""
    if mark is None or mark.buffer is None:
        return ""
    above, here = ("", *mark.buffer[: mark.pointer].split("\n"))[-2:]
    # A line that begins with a key of its own is read as one text with the line before, up to the colon.
    found = _JOINED.match(here) or (_JOINED.fullmatch(above) if _KEY.fullmatch(here) else None)
    return f"a blank is missing: write '{found['key']}: {found['value']}'" if found else ""


def _isInline(mark: yaml.Mark | None) -> bool:
    """Return whether a value, or an entry of a list, has begun before this place in its line."""
    if mark is None or mark.buffer is None:
        return False
    before = mark.buffer[mark.pointer - mark.column : mark.pointer]
    return any(each in before for each in (": ", "{", "["))


_QUOTES = "such a text stands in quotes"
#: What an author has done, by a part of what PyYAML says of it.
_SYNTAX_HINTS = {
    "'\\t'": "this is a tab, and YAML indents with blanks only",
    "found undefined alias": f"if a * is meant, {_QUOTES}, '*.efi'",
    "expected alphabetic or numeric character": f"it begins with a * or & that YAML reads itself: {_QUOTES}, '*.efi'",
    "expected the node content, but found ':'": f"it begins with a colon: {_QUOTES}, '::1'",
    "that cannot start any token": f"it begins with a character that YAML reads itself: {_QUOTES}, '@'",
    "unknown escape character": "between \"\" a backslash is written twice; between '' it is a plain character",
    ", but got '<scalar>'": "is a comma missing before it, or quotes around the whole text? '{mac}.cfg'",
    ", but got ':'": "is a comma or a bracket missing before it?",
    "mapping values are not allowed here": "does this line begin under the one that it belongs to?",
    "expected <block end>": "does this line begin under the one that it belongs to?",
    "could not find expected ':'": "is a blank missing behind a colon in the line before?",
}
#: The same where more than blanks stands before it in its line.
_INLINE_HINTS = {
    "mapping values are not allowed here": f"a value has a colon with a blank or nothing behind it: {_QUOTES}, '::'",
    "expected <block end>, but found '<scalar>'": "the quotes stand around the whole text, '{mac}.cfg'",
}


@dataclass(slots=True)
class _NodeReader:
    """
    Makes values of nodes.

    @ivar seen: the nodes that a value was made of.
    @ivar repeated: values made of a node once more, since an alias stands for it: an alias that contains itself, or
        very many others, ends at a limit.
    """

    tree: Tree
    seen: set[int] = field(default_factory=set)
    repeated: int = 0

    def value(self, node: yaml.Node, route: Route) -> Value:
        self.repeated += id(node) in self.seen
        self.seen.add(id(node))
        self.tree.lines.setdefault(route, node.start_mark.line + 1)
        if self.repeated > MAX_REPEATED or len(route) > MAX_DEPTH:
            where = f"{self.tree.file}:{node.start_mark.line + 1}: {showRoute(route[:4])}"
            raise ConfigError(f"{where}: aliases make this larger than any service file is")
        if node.tag not in _TAGS:
            self.tree.addFault(route, f"the tag {node.tag} has no meaning here")
        if isinstance(node, yaml.MappingNode):
            return dict(self.pairs(node, route))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, (*route, index)) for index, each in enumerate(node.value)]
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        if plain and node.value in ("", "~", "null"):
            return None
        text = str(node.value)
        if _unfit(text):
            self.tree.addFault(route, UNFIT)
            return text.replace("\0", "").encode("utf-8", "replace").decode()
        return text

    def pairs(self, node: yaml.MappingNode, route: Route) -> Iterator[tuple[str, Value]]:
        first: dict[str, int] = {}
        for key, below in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _TAGS:
                self.tree.faults.append(Fault(line, showRoute(route), "a key must be plain text"))
            elif _unfit(key.value):
                self.tree.faults.append(Fault(line, showRoute(route), f"a key has {UNFIT}"))
            elif key.value == "<<" and key.style is None:
                self.tree.faults.append(
                    Fault(line, showRoute((*route, "<<")), "merging is not done here: write the keys out")
                )
            elif key.value in first:
                text = f"written twice, first in line {first[key.value]}"
                self.tree.faults.append(Fault(line, showRoute((*route, key.value)), text))
            else:
                first[key.value] = self.tree.lines[*route, key.value] = line
                yield key.value, self.value(below, (*route, key.value))


def _unfit(text: str) -> bool:
    """Return whether no file, name or address can have this text; an escape such as C{\\udce9} stands for one octet."""
    if text.isascii():
        return "\0" in text
    try:
        return b"\0" in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return True


_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
