"""
The wheel, as a stranger would get it: built from these sources, then looked at and run where they cannot be seen.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.needs import needCompiler

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, native: str = "0", both: bool = False, **more: str) -> str:
    """
    Return what it printed.  It sees nothing of the sources: not by PYTHONPATH, and not by the working directory.

    @param both: return standard error as well.
    @param native: the value of C{CASTD_NATIVE}: pure Python, so that the wheel is the same wherever it is built.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean |= {"CASTD_NATIVE": native} | more
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr if both else done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with what is installed already."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that has castd from the wheel alone, and what it needs from our environment.

    The folders of our packages are named in a C{.pth}: those are searched, but their own C{.pth} files are not read, so
    an editable castd among them stays out of sight.
    """
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "needs.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return python


def test_contents(wheel: Path) -> None:
    """The wheel carries all of castd, the mark that it is typed, one file for twisted, the manual pages, no more."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "castd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "dropin.cache" and path.suffix != ".so"
    }
    assert "castd/py.typed" in names
    assert {name for name in names if name.startswith("twisted/")} == {"twisted/plugins/castd_plugin.py"}
    shared = f"{wheel.name.removesuffix('-py3-none-any.whl')}.data/data/share/man/man1"
    pages = {f"{shared}/{page.name}" for page in (ROOT / "docs" / "man").iterdir()}
    assert f"{shared}/castd.1" in pages
    assert names == sources | {"twisted/plugins/castd_plugin.py"} | pages


@pytest.mark.slow
def test_twistdKnowsCastd(stranger: Path, tmp_path: Path) -> None:
    """Installed from the wheel, castd is among the subcommands of twistd, and comes from the wheel."""
    helped = run(
        stranger, "-c", "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()", "--help",
        cwd=tmp_path,
    )  # fmt: skip
    assert "Deliver boot files over datagrams" in " ".join(helped.split())
    where = run(stranger, "-c", "import castd; print(castd.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(stranger.parent.parent)


def test_versionIsThatOfTheCode(wheel: Path, stranger: Path, tmp_path: Path) -> None:
    """The version in the metadata and castd.__version__ are one."""
    said = run(
        stranger, "-c", "import castd, importlib.metadata as m; print(castd.__version__, m.version('castd'))",
        cwd=tmp_path,
    )  # fmt: skip
    ours, theirs = said.split()
    assert ours == theirs
    assert wheel.name.startswith(f"castd-{ours}-")


def test_manualIsInstalled(stranger: Path) -> None:
    """The wheel brings the manual pages to where man looks, beside the folder of the command."""
    assert (stranger.parent.parent / "share" / "man" / "man1" / "castd-check.1").is_file()


def test_commandIsInstalled(stranger: Path) -> None:
    """The wheel brings the command castd."""
    assert os.access(stranger.parent / "castd", os.X_OK)


def build(folder: Path, native: str, **environment: str) -> tuple[str, str]:
    """Build a wheel.  -> its name, and what was printed."""
    said = run(
        sys.executable, "-m", "hatchling",
        "build", "-t", "wheel", "-d", folder, cwd=ROOT, native=native, both=True, **environment,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built.name, said


def test_withoutACompiler(tmp_path: Path) -> None:
    """Where no C compiler is found the wheel is pure Python, and one line says why."""
    name, said = build(tmp_path / "dist", native="", PATH=str(tmp_path), CC="")
    assert name.endswith("-py3-none-any.whl")
    assert [line for line in said.splitlines() if "native" in line] == [
        "castd: pure Python, without the native loop: no C compiler"
    ]


def test_withACompiler(tmp_path: Path) -> None:
    """With a compiler and Cython the wheel is for this platform and all Pythons from 3.11 on, and carries the loop."""
    needCompiler()
    name, _ = build(tmp_path / "dist", native="1")
    assert "-cp311-abi3-linux_" in name
    with zipfile.ZipFile(tmp_path / "dist" / name) as archive:
        assert "castd/native/_loop.abi3.so" in archive.namelist()
