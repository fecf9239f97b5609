"""The pages of docs/: what they name is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every link to a file of this repository leads to one."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    lost = [each for each in targets if "://" not in each and not (page.parent / each).exists()]
    assert lost == []


def conformance() -> Iterator[tuple[str, str]]:
    """-> (file, name) of every test of TFTP that has an id."""
    for file in sorted((ROOT / "tests" / "test_conformance").glob("test_tftp_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.match(r"test_TC\d\d_", node.name):
                yield file.name, node.name


def test_conformanceList() -> None:
    """The page of the tftp transport names every conformance test with its file, and none that is not there."""
    page = (ROOT / "docs" / "transports" / "tftp.md").read_text()
    named = set(re.findall(r"^\| TC\d\d \|.*\| `(\w+)` in `(\w+\.py)` \|$", page, re.MULTILINE))
    assert named == {(name, file) for file, name in conformance()}
    assert {name[5:9] for name, _ in named} == {f"TC{number:02}" for number in range(1, 65)}
