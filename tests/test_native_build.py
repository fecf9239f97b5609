"""
How the native loop of a checkout is built: by itself where that is possible, and else with one line that says why not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import hatch_build
from tests.support.needs import needCompiler

ROOT = Path(__file__).parent.parent
WITHOUT = "castd: pure Python, without the native loop: "


class Checkout:
    """
    A checkout with what the build reads, and no more.  Its C{.venv} has this Python.

    @ivar programs: a folder that is all of the search path: it has C{sh}'s tools, and no compiler.
    """

    TOOLS = ("cat", "cut", "ls", "rm", "sha256sum", "sh")

    def __init__(self, top: Path) -> None:
        self.top, self.programs = top / "checkout", top / "bin"
        for each in (self.top / ".venv" / "bin", self.programs):
            each.mkdir(parents=True)
        for name in ("hatch_build.py", "pyproject.toml", "scripts", "castd/native"):
            target = self.top / name
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy(ROOT / name, target)
        for tool in self.TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.programs / tool).symlink_to(found)
        python = self.top / ".venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)

    @property
    def library(self) -> Path:
        return self.top / "castd" / "native" / hatch_build.LIBRARY

    def ready(self, **environment: str) -> str:
        """Have the scripts look after the loop, with no compiler but that of C{environment}.  -> what they print."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CASTD"))}
        for name in ("CC", "CFLAGS", "LDFLAGS"):
            clean.pop(name, None)
        ran = subprocess.run(
            [self.programs / "sh", "-euc", ". scripts/venv.sh; nativeReady"],
            cwd=self.top, env=clean | {"PATH": str(self.programs)} | environment, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.slow
def test_withoutACompiler(checkout: Checkout) -> None:
    """Without a compiler one line says so, once; and again when there is one that cannot compile."""
    assert checkout.ready() == f"{WITHOUT}no C compiler\n"
    assert checkout.ready() == ""
    (checkout.programs / "cc").write_text("")
    (checkout.programs / "cc").chmod(0o644)  # it may not be run
    assert checkout.ready() == ""
    assert not checkout.library.exists()


@pytest.mark.slow
def test_aCompilerThatFails(checkout: Checkout) -> None:
    """A compiler that fails is one line and no more, whatever it prints."""
    needCompiler()
    assert checkout.ready(CC="/bin/false") == f"{WITHOUT}false: it has ended with status 1\n"
    assert checkout.ready(CC="/bin/false") == ""
    loud = checkout.programs / "loud"
    loud.write_text("#!/bin/sh\necho one >&2\necho two >&2\nexit 3\n")
    loud.chmod(0o755)
    assert checkout.ready(CC=str(loud)) == f"{WITHOUT}loud: two\n"
    assert checkout.ready(CC="/nowhere/cc") == f"{WITHOUT}no C compiler\n"


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (
            (
                "x.c:1:10: fatal error: limits.h: No such file or directory\n"
                "    1 | #include <limits.h>\n      |          ^~~~~~~~~~\ncompilation terminated.\n"
            ),
            "x.c:1:10: fatal error: limits.h: No such file or directory",
        ),
        (
            "gcc: fatal error: cannot execute 'as': execvp: No such file or directory\ncompilation terminated.\n",
            "gcc: fatal error: cannot execute 'as': execvp: No such file or directory",
        ),
        ("x.c:1:1: error: one\nx.c:2:1: error: two\n2 errors generated.\n", "x.c:1:1: error: one"),
        (
            "/usr/bin/ld: cannot find -lnosuch\ncollect2: error: ld returned 1 exit status\n",
            "/usr/bin/ld: cannot find -lnosuch",
        ),
        ("Traceback (most recent call last):\nImportError: no\n", "ImportError: no"),
        ("", ""),
    ],
)
def test_reason(printed: str, reason: str) -> None:
    """Of what a command that fails has printed the line with the reason is told, not a compiler's closing words."""
    assert hatch_build.reason(printed) == reason


@pytest.mark.slow
def test_switchedOff(checkout: Checkout) -> None:
    """CASTD_NATIVE=0 asks for no compiler and prints nothing."""
    assert checkout.ready(CASTD_NATIVE="0") == ""


@pytest.mark.slow
def test_builtAndBuiltAgain(checkout: Checkout) -> None:
    """With a compiler the loop is built without a word; of other sources, or damaged, it is built again."""
    needCompiler()
    path = {"PATH": f"{checkout.programs}:{os.environ['PATH']}"}
    assert checkout.ready(**path) == ""
    hatch_build.check(checkout.library, hatch_build.digestOf(checkout.top))
    first = checkout.library.stat()
    assert checkout.ready(**path) == ""
    assert checkout.library.stat().st_ino == first.st_ino

    source = checkout.top / hatch_build.SOURCE
    source.write_text(source.read_text() + "\n# changed\n")
    with pytest.raises(hatch_build.CannotBuild):
        hatch_build.check(checkout.library, hatch_build.digestOf(checkout.top))
    assert checkout.ready(**path) == ""
    hatch_build.check(checkout.library, hatch_build.digestOf(checkout.top))

    checkout.library.write_bytes(b"no library at all")
    source.write_text(source.read_text() + "\n# changed once more\n")
    assert checkout.ready(**path) == ""
    hatch_build.check(checkout.library, hatch_build.digestOf(checkout.top))


def test_whatIsLacking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a machine lacks is found before anything is fetched: the headers, another Python, another system."""
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"{compiler} -pipe")
    assert hatch_build.compiler() == [str(compiler), "-pipe"]
    real = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "include" else real(name))
    assert "headers of Python" in hatch_build.lacking()
    (tmp_path / "Python.h").write_text("")
    assert hatch_build.lacking() == ""
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: 1 if name == "Py_GIL_DISABLED" else None)
    assert "GIL" in hatch_build.lacking()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert hatch_build.lacking() == "it is for Linux"


def test_cythonOnlyWhereItIsOfUse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build asks for Cython only where the loop can be built and is wanted."""
    hook = object.__new__(hatch_build.NativeLoop)
    monkeypatch.setattr(hatch_build.NativeLoop, "root", str(ROOT))
    wanted = [hatch_build.cython(ROOT)]
    assert wanted[0].startswith("cython>=")
    for lacks, value, asked in (
        ("", "", wanted), ("", "0", []), ("a compiler", "", []), ("a compiler", "0", []), ("a compiler", "1", wanted),
    ):  # fmt: skip
        monkeypatch.setattr(hatch_build, "lacking", lambda lacks=lacks: lacks)
        monkeypatch.setenv(hatch_build.VARIABLE, value)
        assert hook.dependencies() == asked
