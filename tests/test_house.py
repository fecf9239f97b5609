"""
The rules of the house that no linter knows.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
CODE = sorted((ROOT / "castd").rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_testsSayWhatTheyProve(path: Path) -> None:
    """Every test opens with a docstring: the promise it proves."""
    silent = [each.name for each in functions(path) if each.name.startswith("test") and not ast.get_docstring(each)]
    assert silent == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothingIsLeftForLater(path: Path) -> None:
    """No function of castd stands there only to say that it is not written yet."""
    later = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "NotImplementedError"
    ]
    assert later == []


#: What each dialect's module promises.
PROMISED = {"Options", "Dialect", "Wire"}


def test_noClassNameTwice() -> None:
    """A class name stands once in castd, but for what each dialect's module promises."""
    found = Counter(
        node.name for path in CODE for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert {name for name, number in found.items() if number > 1} <= PROMISED


#: How many lines of castd may say Any, and may tell mypy to look away.  Lower them when fewer are left.
MOST_ANY, MOST_IGNORED = 18, 4


@pytest.mark.slow
def test_fewEscapesFromTypes() -> None:
    """No more lines escape the types than when this was written, each where a library has no types itself."""
    lines = [line for path in CODE for line in path.read_text().splitlines()]
    assert sum(bool(re.search(r"\bAny\b", line)) and "import" not in line for line in lines) <= MOST_ANY
    assert sum("type: ignore" in line for line in lines) <= MOST_IGNORED


@pytest.mark.slow
def test_whatIsReferredToIsThere() -> None:
    """A docstring or comment that names an attribute of a class of castd names one that the class, or a base, has."""
    text: dict[str, str] = {}
    bases: dict[str, set[str]] = {}
    for path in CODE:
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                text[node.name] = text.get(node.name, "") + (ast.get_source_segment(source, node) or "")
                names = {each.id for base in node.bases for each in ast.walk(base) if isinstance(each, ast.Name)}
                bases.setdefault(node.name, set()).update(names)

    def has(name: str, attribute: str) -> bool:
        if name not in text:
            return name not in ("ABC", "Generic", "Interface", "NamedTuple", "Protocol")
        made = rf"\bdef {attribute}\b|\bself\.{attribute}\b|^\s+{attribute}\b\s*[:=]|@[ic]var [^:]*\b{attribute}\b"
        own = re.search(made, text[name], re.MULTILINE) is not None
        return own or any(has(each, attribute) for each in bases[name])

    for path in CODE:
        for name, attribute in re.findall(r"L\{(?:castd\.[\w.]+\.)?([A-Z]\w*)\.(\w+)", path.read_text()):
            assert name not in text or has(name, attribute), f"{path}: {name}.{attribute}"


def test_markupIsBalanced() -> None:
    """Docstrings, and comments that stand for one, have as many braces open as closed: else `make docs` fails."""
    for path in CODE:
        source = path.read_text()
        found = [
            ast.get_docstring(node) or ""
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        found += ["".join(each) for each in re.findall(r"(?:^ *#: .*\n)+", source, re.MULTILINE)]
        assert [each for each in found if each.count("{") != each.count("}")] == [], path


def test_twistedIsNotOurs() -> None:
    """The folder twisted/ holds the one plugin file and no __init__.py, which would hide Twisted itself."""
    files = list((ROOT / "twisted").rglob("*.py"))
    assert files == [ROOT / "twisted" / "plugins" / "castd_plugin.py"]
