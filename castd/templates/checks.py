"""
Finds what is wrong with a template and its inventory before a machine asks for it, for C{castd check}.

Templates are compiled as they would be for a machine, and not rendered: what they make of a machine is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jinja2 import FileSystemLoader, TemplateNotFound, TemplateSyntaxError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from castd.templates.messages import LARGEST_INVENTORY, TemplateFault, readText
from castd.templates.rendering import Inventory

#: Octets of the largest template that is looked at.
LARGEST_TEMPLATE = 8 << 20
_NAMING = (nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)


def templateFaults(template: str, inventory: str | None) -> Iterator[str]:
    """
    Return the faults of a template, of those that it names, and of an inventory: C{file:line: what}.

    @param inventory: L{None}: there is none.
    """
    yield from _Templates(Path(template)).faults()
    if inventory is not None:
        try:
            yield from Inventory(inventory, readText(inventory, LARGEST_INVENTORY)).unmatched
        except TemplateFault as fault:
            yield str(fault)


class _Templates:
    """One template, and those beside it that it names."""

    def __init__(self, first: Path) -> None:
        self._folder, self._first = first.parent, first.name
        self._loader = FileSystemLoader(self._folder)
        # What is constant is not worked out: 9**9**9 would take longer than anybody waits.
        self._environment = ImmutableSandboxedEnvironment(optimized=False, finalize=_later)
        self._seen: set[str] = set()

    def faults(self) -> Iterator[str]:
        waiting = [self._first]
        while waiting:
            name = waiting.pop()
            if name not in self._seen:
                self._seen.add(name)
                yield from self._faultsOf(str(self._folder / name), waiting)

    def _faultsOf(self, path: str, waiting: list[str]) -> Iterator[str]:
        """
        Return the faults of one template.

        @param waiting: the names of others, to which those that it names are added.
        """
        try:
            tree = self._environment.parse(readText(path, LARGEST_TEMPLATE), filename=path)
            yield from self._unknown(tree, path) or self._compiled(tree, path)
        except TemplateFault as fault:
            yield str(fault)
            return
        except TemplateSyntaxError as error:
            yield f"{path}:{error.lineno}: {error.message}"
            return
        except RecursionError:
            yield f"{path}: nested too deeply"
            return
        for node in tree.find_all(_NAMING):
            named = _named(node)
            if named is not None and self._isThere(named):
                waiting.append(named)
            elif named is not None and not getattr(node, "ignore_missing", False):
                yield f"{path}:{node.lineno}: there is no template {named} beside it"

    def _unknown(self, tree: nodes.Template, path: str) -> list[str]:
        """Return a fault for each filter and test that Jinja does not have; between C{if}s it looks when it renders."""
        if any(node.name in ("filter", "test") for node in tree.find_all(nodes.Test)):
            # The template asks itself whether there is one.
            return []
        filters = {node: "filter" for node in tree.find_all(nodes.Filter) if node.name not in self._environment.filters}
        tests = {node: "test" for node in tree.find_all(nodes.Test) if node.name not in self._environment.tests}
        found = sorted((node.lineno, kind, node.name) for node, kind in (*filters.items(), *tests.items()))
        return [f"{path}:{line}: there is no {kind} {name}" for line, kind, name in found]

    def _compiled(self, tree: nodes.Template, path: str) -> list[str]:
        """Compile a template.  @raise TemplateSyntaxError: it is wrong as a whole, as by two blocks of one name."""
        try:
            self._environment.compile(tree, filename=path)
        except (MemoryError, SyntaxError):
            # Python's own compiler has its bounds.
            raise RecursionError from None
        return []

    def _isThere(self, name: str) -> bool:
        """Return whether a template may name this one: it lies in the same folder, or below."""
        try:
            self._loader.get_source(self._environment, name)
        except TemplateNotFound:
            return False
        except (OSError, ValueError):
            # It is there, and cannot be read; that is told when it is looked at.
            pass
        return True


@pass_context
def _later(context: Context, value: object) -> object:
    """Stand for what is done with a value, which is known when a template is rendered and not before."""
    return value


def _named(node: nodes.Node) -> str | None:
    """Return the template that a tag names; L{None}: it depends on the machine, or there are several."""
    named = getattr(node, "template", None)
    return named.value if isinstance(named, nodes.Const) and isinstance(named.value, str) else None
