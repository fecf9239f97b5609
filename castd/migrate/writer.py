"""
Write a draft as the text of a service file, with comments that name the lines it comes from.

PyYAML writes the values; whatever stands in them is its business.  It writes no comments, so these are put above the
lines on which castd's own reader of service files finds the values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import yaml

from castd.config.yaml import Route, parse
from castd.files.names import printable
from castd.migrate.draft import Draft, Place, Value

#: Characters of a line of the other server that are shown.
LONGEST = 100


class ServiceFileDumper(yaml.SafeDumper):
    """Writes lists indented below their key, and never an alias."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Value) -> bool:
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Put a text with line ends of any kind into double quotes: plain or in single ones it would be folded."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


ServiceFileDumper.add_representer(str, _represent)


def write(draft: Draft, title: Sequence[str] = ()) -> str:
    """
    Return the text of the service file.

    @param title: lines of a comment at its beginning.
    """
    return "".join(f"# {_plain(line)}\n" for line in title) + _commented(dump(draft.value), draft)


def dump(value: Value) -> str:
    """Return a value as YAML: what holds only plain values is written on one line."""
    return yaml.dump(
        value, Dumper=ServiceFileDumper, default_flow_style=None, sort_keys=False, allow_unicode=True, width=1 << 30
    )


def _commented(text: str, draft: Draft) -> str:
    """Put the comments of a draft above the lines of their values, and an empty line above each section."""
    tree = parse(text.encode(), "service file")
    above: defaultdict[int, list[Place]] = defaultdict(list)
    for route, places in draft.comments.items():
        line = tree.line(_within(route, tree.lines))
        above[line] += [place for place in places if place not in above[line]]
    return "".join(_lines(text, above, {tree.lines[name,] for name in draft.value}))


def _within(route: Route, known: dict[Route, int]) -> Route:
    """Return the route of the innermost value around this one that the file has a line for."""
    while route and route not in known:
        route = route[:-1]
    return route


def _lines(text: str, above: dict[int, list[Place]], sections: set[int]) -> Iterator[str]:
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        if number in sections and number > 1:
            yield "\n"
        indent = " " * (len(line) - len(line.lstrip(" ")))
        for place in above.get(number, ()):
            yield f"{indent}# {_plain(f'{place}: {place.text}')}\n"
        yield f"{line}\n"


def _plain(line: str) -> str:
    """Return a text of somebody else's as one line of a comment."""
    shown = printable(" ".join(line.split()))
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"
