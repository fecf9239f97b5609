"""
Checks the requirements of a test: root, a program, a file of firmware, a network namespace.

On somebody's machine a test whose need is not met is skipped, with the reason.  Where C{CI=true} it fails instead, so
that a build cannot turn green by having tested nothing::

    def test_atftp(tmp_path):
        atftp, = need("atftp")
        needRoot()

L{run} and each L{Job<tests.support.jobs.Job>} require the program that they run.
"""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

import hatch_build
from castd import native

ADMIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where a user's search path often does not look, and in.tftpd or nft live."""


def lack(reason: str) -> NoReturn:
    """Skip the test for this reason; where C{CI=true}, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must be able to run this: {reason}", pytrace=False)
    pytest.skip(reason)


def need(*programs: str) -> list[str]:
    """
    Return the paths of these programs, in the order of the arguments. An absolute path may be any file: firmware.
    """
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), ADMIN])
    found = {
        program: program if os.path.isabs(program) and os.path.exists(program) else shutil.which(program, path=search)
        for program in programs
    }
    missing = [program for program, path in found.items() if path is None]
    if missing:
        lack(f"not installed: {', '.join(missing)}")
    return [path for path in found.values() if path is not None]


def needed(argv: Sequence[str | Path]) -> list[str]:
    """Return this command line, with the path of its program, which is a need; Python itself and other paths stay."""
    return [*need(str(argv[0])), *map(str, argv[1:])]


def run(*argv: str | Path, seconds: float = 60, check: bool = False, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program, which is a need, to its end.  -> its exit status and its outputs."""
    return subprocess.run(needed(argv), text=True, capture_output=True, timeout=seconds, check=check, **more)


def needFile(*candidates: str) -> Path:
    """Return the first of these files that exists: distributions put the same firmware in different places."""
    for candidate in candidates:
        if Path(candidate).is_file():
            return Path(candidate)
    lack(f"no such file: {', '.join(candidates)}")


def needRoot() -> None:
    """Require root."""
    if os.geteuid() != 0:
        lack("needs root")


def needNamespaces(kind: str = "net") -> None:
    """Require that a namespace of this kind can be made: root alone is not enough in some containers."""
    needRoot()
    tried = run("unshare", f"--{kind}", "true", seconds=10)
    if tried.returncode:
        lack(f"no namespaces here ({kind}): {tried.stderr.strip()}")


def needNative() -> None:
    """Require the native loop, unless C{CASTD_NATIVE=0} says that the tests are to be run without."""
    if os.environ.get(native.VARIABLE) == "0":
        pytest.skip(native.REASON)
    if not native.NATIVE:
        lack(f"no native loop ({native.REASON}); `python hatch_build.py --install-cython` builds it")


def needCompiler() -> None:
    """Require what the native loop is built with."""
    why = hatch_build.lacking() or ("" if importlib.util.find_spec("Cython") else "no Cython")
    if why:
        lack(f"the native loop cannot be built: {why}")
