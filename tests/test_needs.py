"""
A need that is not met skips at home and fails in CI.
"""

import ast
import os
from pathlib import Path

import pytest

from tests.support import needs

ABSENT = "no-such-program-anywhere"


def test_absentProgramSkipsAtHome(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a user's machine a missing program is a reason to skip, and the reason names it."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=ABSENT):
        needs.need("sh", ABSENT)


def test_absentProgramFailsInCI(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CI=true a missing program is a failure, not a skip."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=ABSENT):
        needs.need("sh", ABSENT)


def test_programsComeInOrder() -> None:
    """The paths of present programs are given in the order of asking, and can be run."""
    paths = needs.need("sh", "env")
    assert [os.path.basename(path) for path in paths] == ["sh", "env"]
    assert all(os.access(path, os.X_OK) for path in paths)


def test_onlyRootMayPass(monkeypatch: pytest.MonkeyPatch) -> None:
    """needRoot lets root through and nobody else."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    needs.needRoot()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="root"):
        needs.needRoot()


def test_firstFileThatExists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several places for one file the first that is there is taken; none is a need not met."""
    monkeypatch.delenv("CI", raising=False)
    assert str(needs.needFile("/no/such/file", __file__)) == __file__
    with pytest.raises(pytest.skip.Exception, match="/no/such/file"):
        needs.needFile("/no/such/file")


@pytest.mark.slow
def test_programsAreAskedFor() -> None:
    """No test starts a program by its bare name, as if it were there: what runs it asks for it."""
    bare = [
        f"{path.name}:{node.lineno}"
        for path in Path(__file__).parent.rglob("*.py")
        if "subprocess" in path.read_text()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("subprocess.run", "subprocess.Popen", "subprocess.check_output", "Popen")
        and isinstance(node.args[0], ast.List | ast.Tuple)
        and isinstance(node.args[0].elts[0], ast.Constant)
    ]
    assert bare == []
