"""
Who may import whom, held by import-linter (its contracts stand in pyproject.toml): green as it is, and red for a wrong
import of each kind.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def broken(tree: Path) -> set[str]:
    """Return the names of the contracts that this tree breaks."""
    linter = Path(sys.executable).parent / "lint-imports"
    ran = subprocess.run(
        [linter, "--config", tree / "pyproject.toml", "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "COLUMNS": "200", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode in (0, 1), ran.stderr
    found = dict(re.findall(r"^(\S.*?) (KEPT|BROKEN)", ran.stdout, re.MULTILINE))
    assert found, ran.stdout + ran.stderr
    assert ran.returncode == ("BROKEN" in found.values()), ran.stdout
    return {name for name, what in found.items() if what == "BROKEN"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the linter reads."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "castd", tmp_path / "castd", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.slow
def test_kept() -> None:
    """castd keeps every contract."""
    assert broken(ROOT) == set()


def test_everyProtocolIsHeld() -> None:
    """The contract that keeps protocols apart names the module of each of them."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (held,) = [each["modules"] for each in linter["contracts"] if each["id"] == "dialects"]
    modules = {path.stem for path in (ROOT / "castd" / "dialects").glob("[a-z]*.py")} - {"mtftp_cast"}
    assert set(held) == {f"castd.dialects.{name}" for name in modules}


def test_theLoopKnowsNothing() -> None:
    """The compiled loop, whose imports the linter cannot see, imports the clock, names of errors, and what C has."""
    text = (ROOT / "castd" / "native" / "_loop.pyx").read_text()
    assert set(re.findall(r"^\s*(?:from|import|cimport) +([\w.]+)", text, re.MULTILINE)) == {
        "cpython.buffer", "cpython.bytes", "libc.errno", "libc.math", "libc.stdint", "libc.string", "os", "time",
    }  # fmt: skip
    assert set(re.findall(r"#include <(.+)>", text)) == {
        "arpa/inet.h", "netinet/in.h", "sys/epoll.h", "sys/socket.h", "time.h",
    }  # fmt: skip


ROOMS = "A package imports only from the packages below it"
PURE = "What decides has no clock, no randomness, no socket, no file and no thread"


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("cast/turn.py", "from castd.server.site import Site", ROOMS),
        ("cast/turn.py", "import castd.packets.tftp", ROOMS),
        ("net/sockets.py", "def late():\n    from castd.cast.events import RequestBlocks", ROOMS),
        ("server/site.py", "if TYPE_CHECKING:\n    from castd.upgrade.predecessor import Predecessor", ROOMS),
        ("request.py", "from castd.options import Limits", ROOMS),
        ("helpers.py", "", ROOMS),
        ("proxydhcp/service.py", "from castd.server.site import Site", ROOMS),
        ("proxydhcp/service.py", "import castd.net.sockets", "A service uses what every plugin may use"),
        ("proxydhcp/answers.py", "import time", PURE),
        ("packets/tftp.py", "import random", PURE),
        ("dialects/slam.py", "def now():\n    import time", PURE),
        ("receive/base.py", "from twisted.internet import reactor", PURE),
        ("server/listener.py", "import click", "Only the command speaks to a terminal"),
        ("cast/members.py", "from pydantic import BaseModel", "A library is known to the packages that it is for"),
        ("dialects/tftp.py", "from castd.dialects import slam", "A protocol knows nothing of another"),
        ("cast/sweep.py", "from castd.cast.turn import Turn", "A cast knows nothing of the other cast"),
        ("cast/events.py", "from castd.cast.members import Members", "No circle of imports within a package"),
        ("native/steps.py", "from castd.cast.turn import Turn", ROOMS),
        ("cast/turn.py", "from castd import native", "The native loop is known to those who use it or tell of it"),
    ],
)
@pytest.mark.slow
def test_wrongImport(tree: Path, module: str, line: str, contract: str) -> None:
    """One wrong import, be it within a function, breaks the contract that speaks of it."""
    path = tree / "castd" / module
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{line}\n")
    assert contract in broken(tree)
