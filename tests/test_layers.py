"""
Who may import whom.  A module imports from rows above its own and, where the row is C{ordered}, from those that stand
before it there; so no cycle is possible.  A module that is in no row is a failure: it has to be given its place.
"""

import ast
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PURE = names(
    "asyncio concurrent datetime logging multiprocessing os queue random sched secrets select selectors shutil signal"
    " socket socketserver ssl subprocess tempfile threading time uuid"
)
"""Standard modules with a clock, chance, a descriptor or a thread in them: not for rows that are given all these."""

MODELS = names("pydantic pydantic_core")


@dataclass(frozen=True)
class Row:
    modules: tuple[str, ...]
    """Names beneath castd; a C{*} stands for one name.  In an ordered row those of one star may know each other."""
    outside: frozenset[str] = frozenset()
    """Which packages from elsewhere; zope is for all, the standard library is for all but C{never}."""
    never: frozenset[str] = frozenset()
    """Which standard modules not."""
    ordered: bool = False
    """A module may import those of its own row that stand to the left of it."""
    hidden: tuple[str, ...] = ()
    """Modules of rows above that it may not import all the same."""
    only: tuple[str, ...] | None = None
    """If given: nothing else of castd."""
    also: tuple[str, ...] = ()
    """What lies below and may be imported all the same: an empty package that is only looked into."""


ROWS = (
    Row(("errors",), never=PURE, only=()),
    Row(("interfaces",), never=PURE, only=()),
    Row(("units", "outcomes"), never=PURE),
    Row(("options",), outside=MODELS, never=PURE),
    Row(
        (
            "blocks",
            "pace",
            "packets.*",
            "request",
            "negotiate",
            "names",
            "networks",
            "netascii",
            "layout",
            "lane",
            "gate",
            "urls",
            "leases",
        ),
        never=PURE,
        ordered=True,
    ),
    Row(
        (
            "cast.events",
            "cast.runs",
            "cast.credit",
            "cast.flights",
            "cast.members",
            "cast.roll",
            "cast.term",
            "cast.hearing",
            "cast.instep",
            "cast.turn",
        ),
        never=PURE,
        ordered=True,
    ),
    Row(("cast.sweep",), never=PURE, hidden=("cast.turn",)),
    Row(
        ("collect", "collect.*", "dialects.lockstep", "dialects.grouped", "dialects.passes"),
        outside=MODELS,
        never=PURE,
        ordered=True,
    ),
    Row(("dialects.*",), outside=MODELS, never=PURE),
    Row(
        (
            "chance",
            "beneath",
            "partial",
            "content",
            "converted",
            "uploads",
            "directory",
            "access",
            "alarms",
            "commons",
            "site",
            "portset",
            "store",
            "sockets",
            "bursts",
            "lent",
            "ports",
            "audience",
            "telling",
            "delivery",
            "asides",
            "outbox",
            "stepping",
            "protocol",
            "room",
            "uploader",
            "roster",
            "refusals",
            "opening",
            "listener",
            "observe",
            "limiter",
            "logfile",
            "journal",
            "adopt",
            "metrics",
            "supervise",
            "ear",
            "report",
            "channel",
            "elder",
            "heir",
            "spawn",
            "transfer",
            "client",
            "testing",
            "testing.*",
        ),
        outside=MODELS | names("twisted prometheus_client"),
        ordered=True,
        hidden=("dialects.*",),
    ),
    Row(("maker",), outside=MODELS | names("twisted"), hidden=("dialects.*",), also=("plugins.",)),
    Row(("nodes", "complaints"), outside=MODELS | names("yaml"), only=("errors", "options", "units")),
    Row(("config",), outside=MODELS | names("yaml"), only=("errors", "options", "units", "nodes", "complaints")),
    Row(("describe",), outside=MODELS),
    Row(
        ("listening", "draft", "change", "doors", "status", "porch", "user", "logs", "succession", "service", "run"),
        outside=MODELS | names("twisted"),
        ordered=True,
        hidden=("dialects.*",),
    ),
    Row(("plugins.*",), only=("maker",)),
    Row(
        ("cli_choices", "cli_control", "cli_show", "part", "cli_transfer", "cli_dhcp", "tap", "cli"),
        ordered=True,
        outside=MODELS | names("twisted click rich"),
        hidden=("plugins.*", "dialects.*"),
    ),
    Row(("__main__",), only=("cli",)),
)

SEAMS = ("interfaces",)
"""What these import under TYPE_CHECKING is not held against them: a seam has to name what goes through it.  All others
may so name the types of their own row, and else what they may import anyway."""


PACKAGE = "."
"""How the name of a package ends here, C{cast.}, so that it is not taken for a module; castd itself is C{.}."""


def moduleOf(path: Path) -> str:
    """-> its name beneath castd: C{errors}, C{cast.turn}; C{cast.} for castd/cast/__init__.py."""
    *folders, last = path.relative_to(ROOT / "castd").with_suffix("").parts
    return ".".join(folders) + PACKAGE if last == "__init__" else ".".join([*folders, last])


MODULES = {moduleOf(path): path for path in sorted((ROOT / "castd").rglob("*.py"))}


def place(module: str, known: Iterable[str]) -> tuple[int, int] | None:
    """-> row and place in it.  A name written out goes before a pattern; a package is as low as its lowest module."""
    if module.endswith(PACKAGE):
        inside = [place(each, ()) for each in known if each.startswith(module) and each != module]
        return max((each for each in inside if each), default=None)
    fitting = [
        ("*" in pattern, row, column)
        for row, each in enumerate(ROWS)
        for column, pattern in enumerate(each.modules)
        if fnmatchcase(module, pattern) and module.count(".") == pattern.count(".")
    ]
    return min(fitting)[1:] if fitting else None


@dataclass(frozen=True)
class Statement:
    line: int
    base: str
    """The module, with a dot for each level of a relative import."""
    taken: tuple[str, ...]
    """The names that are taken from it; none for a plain C{import}."""
    typesOnly: bool
    """It stands under TYPE_CHECKING, so nothing is imported when it runs."""


def statements(tree: ast.AST, typesOnly: bool = False) -> Iterator[Statement]:
    """-> all imports, those within functions as well."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Statement(node.lineno, alias.name, (), typesOnly) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield Statement(node.lineno, base, tuple(alias.name for alias in node.names), typesOnly)
        else:
            checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from statements(node, typesOnly or checking)


def targets(statement: Statement, known: Collection[str]) -> Iterator[str]:
    """-> what the statement imports: C{castd:cast.turn} where it is ours, else the name of the package."""
    package = statement.base.partition(".")[0]
    if package != "castd":
        yield package or statement.base
        return
    beneath = statement.base.removeprefix("castd").lstrip(".")
    for name in statement.taken or ("",):
        inner = f"{beneath}.{name}".strip(".")
        choices = (inner, inner + PACKAGE, beneath, beneath + PACKAGE)
        yield "castd:" + next((choice for choice in choices if choice in known), choices[-1])


def whyNot(module: str, target: str, typesOnly: bool, known: Collection[str]) -> str | None:
    """-> why this module may not import that target, or None if it may."""
    if target.startswith("."):
        return "imports are absolute here"
    ours, _, beneath = target.rpartition(":")
    if module.endswith(PACKAGE):
        gathers = beneath.startswith(module) and beneath != module
        return None if (gathers if ours else beneath in {*sys.stdlib_module_names, "twisted"}) else "not for a package"
    where = place(module, known)
    if where is None:
        return "it has no row: give it its place in ROWS"
    if not ours:
        return whyNotOutside(where[0], beneath, typesOnly)
    return whyNotOurs(module, where, beneath, typesOnly, known)


def whyNotOurs(module: str, where: tuple[int, int], target: str, typesOnly: bool, known: Collection[str]) -> str | None:
    row, there = ROWS[where[0]], place(target, known)
    if target == PACKAGE or target in row.also:  # castd itself has the version and nothing else
        return None
    if there is None:
        return "that has no row"
    if row.only is not None and target not in row.only:
        return f"of castd only {', '.join(row.only) or 'nothing'}"
    if any(fnmatchcase(target, pattern) for pattern in row.hidden):
        return "hidden from its row"
    beside = typesOnly or (row.ordered and target != module and there[1] <= where[1])
    if there[0] < where[0] or (there[0] == where[0] and beside):
        return None
    return "the arrow points down or sideways"


def whyNotOutside(row: int, package: str, typesOnly: bool) -> str | None:
    if package in ROWS[row].never and not typesOnly:
        return "a clock, chance or a descriptor: its row is given these"
    if package in sys.stdlib_module_names or package == "zope":
        return None
    return None if package in ROWS[row].outside else "not for its row"


def faults(module: str, source: str, known: Collection[str]) -> list[str]:
    """-> a line for every import of this source that points the wrong way."""
    return [
        f"castd/{module}, line {statement.line}, imports {target.replace(':', '.')}: {why}"
        for statement in statements(ast.parse(source))
        if not (statement.typesOnly and module in SEAMS)
        for target in targets(statement, known)
        if (why := whyNot(module, target, statement.typesOnly, known))
    ]


@pytest.mark.parametrize("module", MODULES)
def test_arrows(module: str) -> None:
    """Every module has a row, and imports only what its row may."""
    if not module.endswith(PACKAGE) and place(module, MODULES) is None:
        pytest.fail(f"castd.{module} has no row: give it its place in ROWS", pytrace=False)
    assert faults(module, MODULES[module].read_text(), MODULES) == []


HOUSE = names(
    ". errors interfaces options request packets. packets.tftp packets.slam pace"
    " cast. cast.members cast.turn cast.sweep collect dialects. dialects.lockstep dialects.tftp dialects.slam"
    " content sockets protocol maker config service tap cli plugins. plugins.castd_stock"
)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "from castd import __version__"),
        (
            "interfaces",
            "from zope.interface import Interface\nif TYPE_CHECKING:\n    from castd.request import Request",
        ),
        ("options", "import pydantic"),
        ("cast.", "from castd.cast.turn import Turn"),
        ("cast.turn", "from castd.cast.members import Members\nfrom castd.pace import Pacer\nimport dataclasses"),
        (
            "dialects.tftp",
            "from castd.dialects import lockstep\nfrom castd.cast import Turn\nimport castd.packets.tftp",
        ),
        ("sockets", "if TYPE_CHECKING:\n    from castd.protocol import Listener"),
        ("protocol", "from castd.sockets import DatagramPort\nfrom twisted.internet import udp\nimport socket"),
        ("pace", "if TYPE_CHECKING:\n    from random import Random"),
        ("maker", "from castd import plugins\nfrom twisted.plugin import getPlugins"),
        ("config", "from castd.errors import ConfigError\nimport yaml"),
        ("plugins.castd_stock", "from castd.maker import TransportMaker"),
        ("cli", "import click\nfrom castd.config import load\nfrom castd.service import compose"),
    ],
)
def test_rightArrows(module: str, source: str) -> None:
    """What the table allows is no fault."""
    assert faults(module, source, HOUSE) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "from castd.interfaces import ICast"),
        ("interfaces", "from castd.request import Request"),
        ("request", "import pydantic"),
        ("request", "def now():\n    import time"),
        ("pace", "if TYPE_CHECKING:\n    from castd.service import Site"),
        ("cast.turn", "from castd.cast.sweep import Sweep"),
        ("cast.turn", "from castd.cast import Sweep"),
        ("cast.sweep", "from castd.cast.turn import Turn"),
        ("cast.members", "from .turn import Turn"),
        ("cast.", "from castd.service import compose"),
        ("collect", "import random"),
        ("dialects.tftp", "from castd.dialects import slam"),
        ("dialects.tftp", "from twisted.internet import reactor"),
        ("sockets", "from castd.protocol import Listener"),
        ("protocol", "import castd.dialects.tftp"),
        ("service", "from castd.dialects import tftp"),
        ("config", "from castd.request import Request"),
        ("service", "from castd import plugins"),
        ("service", "from castd.cli import main"),
        ("plugins.castd_stock", "from castd.service import compose"),
        ("maker", "import requests"),
        ("nowhere", "import struct"),
    ],
)
def test_wrongArrows(module: str, source: str) -> None:
    """What the table forbids is found, also inside a function, by a relative name or through a package."""
    assert len(faults(module, source, HOUSE)) == 1
