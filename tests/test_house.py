"""
The rules of the house that no linter knows.
"""

import ast
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


def test_twistedIsNotOurs() -> None:
    """The folder twisted/ holds the one plugin file and no __init__.py, which would hide Twisted itself."""
    files = list((ROOT / "twisted").rglob("*.py"))
    assert files == [ROOT / "twisted" / "plugins" / "castd_plugin.py"]
