"""
Build the compiled loop (castd/native/_loop.pyx), where that is possible.

Into a wheel it is built by hatchling.  Where that is not possible the wheel is pure Python, and one line says why.  An
editable install does not build it: a checkout is built by this file as a script, which scripts/venv.sh does:

    python hatch_build.py                       builds castd/native/_loop.abi3.so, unless that is there and right
    python hatch_build.py --install-cython      the same; if Cython is lacking, it is installed beside this Python

It needs a C compiler, Python's headers, and Cython.  C{CC}, C{CFLAGS} and C{LDFLAGS} are obeyed.  C{CASTD_NATIVE=0} in
the environment builds pure Python without a word; C{CASTD_NATIVE=1} fails where the loop cannot be built.  See
docs/decisions/native-loop.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

SOURCE = Path("castd/native/_loop.pyx")
#: The file for all Pythons from 3.11 on.
LIBRARY = "_loop.abi3.so"
VARIABLE = "CASTD_NATIVE"
FLAGS = ("-O2", "-fPIC", "-shared", "-fstack-protector-strong", "-DPy_LIMITED_API=0x030B0000")
#: Exit statuses of the script: the loop cannot be built here; Cython could not be fetched, which may succeed later.
CANNOT_BUILD, CANNOT_FETCH = 1, 2
#: How the line begins that says why there is none.
WITHOUT = "castd: pure Python, without the native loop"
#: Loads a library and compares the digest of its source.
CHECK = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("castd.native._loop", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.exit(module.SOURCE != sys.argv[2])
"""


class CannotBuild(Exception):
    """The loop cannot be built here, and why."""


class CannotFetch(CannotBuild):
    """Cython cannot be installed."""


def compiler() -> list[str]:
    """Return the words that run the C compiler, that of C{CC} if it is set; none if there is none."""
    own = os.environ.get("CC")
    for words in [own] if own else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]:
        command = shlex.split(words or "")
        if command and shutil.which(command[0]):
            return command
    return []


def lacking() -> str:
    """Return what this machine lacks to build the loop; C{""}: nothing that can be seen beforehand."""
    if sys.platform != "linux":
        return "it is for Linux"
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it is for CPython with the GIL"
    if not compiler():
        return "no C compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "no headers of Python (Debian: python3-dev)"
    return ""


def run(*command: str | Path) -> None:
    """
    Run a command.

    @raise CannotBuild: it fails; with the line that says why.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(str(error)) from error
    if done.returncode:
        why = reason(done.stderr + done.stdout) or f"it has ended with status {done.returncode}"
        raise CannotBuild(f"{Path(command[0]).name}: {why}")


def reason(printed: str) -> str:
    """
    Return the line that says why a command has failed; C{""}: it has printed nothing.

    That is a compiler's first error, since its last line is a summary (C{compilation terminated.}); so is what the
    driver says of the linker.  Other programs end with the reason.
    """
    lines = [each for each in printed.strip().splitlines() if not each.startswith("collect2: ")]
    errors = (each for each in lines if "error: " in each)
    return next(errors, lines[-1] if lines else "")


def digestOf(root: Path) -> str:
    """Return what tells this source from others."""
    return hashlib.sha256((root / SOURCE).read_bytes()).hexdigest()


def check(library: Path, digest: str) -> None:
    """
    Load a library in a process of its own.

    @raise CannotBuild: that fails, or it was built from another source.
    """
    run(sys.executable, "-I", "-c", CHECK, library, digest)


def build(root: Path, folder: Path, flags: str = "") -> Path:
    """
    Build the loop.

    @param root: the top of the sources.
    @param folder: where the library goes.
    @param flags: more of the compiler's.  A library with a sanitizer is not loaded here.
    @raise CannotBuild: it cannot be built.
    """
    if why := lacking():
        raise CannotBuild(why)
    source, library = root / SOURCE, folder / LIBRARY
    digest = digestOf(root)
    with tempfile.TemporaryDirectory(prefix="castd-native-") as scratch:
        code, made = Path(scratch, "_loop.c"), Path(scratch, LIBRARY)
        run(sys.executable, "-m", "cython", "-3", source, "-o", code)
        more = shlex.split(" ".join([os.environ.get("CFLAGS", ""), os.environ.get("LDFLAGS", ""), flags]))
        include = sysconfig.get_path("include")
        run(*compiler(), *FLAGS, *more, f'-DCASTD_SOURCE="{digest}"', f"-I{include}", code, "-o", made)
        if not any(each.startswith("-fsanitize") for each in more):
            check(made, digest)
        # In one step: a castd that is running has the old one mapped.
        shutil.copy(made, library.with_suffix(".new"))
        library.with_suffix(".new").replace(library)
    return library


def cython(root: Path) -> str:
    """Return which Cython is needed."""
    tools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    return str(tools["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["cython"])


def installCython(root: Path) -> None:
    """
    Install Cython beside this Python, unless it is there.

    @raise CannotFetch: it cannot be had.
    """
    if importlib.util.find_spec("Cython") is None:
        wanted = cython(root)
        try:
            run(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", wanted)
        except CannotBuild as error:
            raise CannotFetch(f"{wanted} cannot be installed: {error}") from error


def buildCheckout(root: Path, fetch: bool) -> None:
    """
    Build the loop for a checkout, unless it has the right one.

    @param fetch: Cython is installed, if it is lacking.
    @raise CannotBuild: it cannot be built.
    """
    folder = root / SOURCE.parent
    try:
        check(folder / LIBRARY, digestOf(root))
        return
    except CannotBuild:
        pass
    if fetch and not lacking():
        installCython(root)
    build(root, folder)


def main() -> None:
    """Build the loop for this checkout, or say in one line why it cannot be built."""
    if os.environ.get(VARIABLE) == "0":
        return
    try:
        buildCheckout(Path(__file__).resolve().parent, "--install-cython" in sys.argv[1:])
    except (CannotBuild, OSError) as error:
        sys.stderr.write(f"{WITHOUT}: {error}\n")
        sys.exit(CANNOT_FETCH if isinstance(error, CannotFetch) else CANNOT_BUILD)


if __name__ == "__main__":
    main()
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
    from packaging.tags import platform_tags

    class NativeLoop(BuildHookInterface):
        """Adds the loop to a wheel."""

        _scratch: tempfile.TemporaryDirectory[str] | None = None

        def dependencies(self) -> list[str]:
            """Return what a build needs: nothing more than without the loop, where it cannot be built."""
            wanted = os.environ.get(VARIABLE)
            return [cython(Path(self.root))] if wanted == "1" or (wanted != "0" and not lacking()) else []

        def initialize(self, version: str, build_data: dict[str, object]) -> None:
            """Build the loop, and give the wheel its name: it is for one platform now."""
            wanted = os.environ.get(VARIABLE)
            if version == "editable" or wanted == "0":
                return
            self._scratch = tempfile.TemporaryDirectory(prefix="castd-native-")
            try:
                library = build(Path(self.root), Path(self._scratch.name))
            except (CannotBuild, OSError) as error:
                if wanted == "1":
                    raise
                self.app.display_warning(f"{WITHOUT}: {error}")
                return
            platform = next(each for each in platform_tags() if each.startswith("linux_"))
            build_data["pure_python"] = False
            build_data["tag"] = f"cp311-abi3-{platform}"
            build_data["force_include"] = {str(library): str(SOURCE.with_name(LIBRARY))}

        def finalize(self, version: str, build_data: dict[str, object], artifact_path: str) -> None:
            """Remove what was built: the wheel has it."""
            if self._scratch is not None:
                self._scratch.cleanup()
