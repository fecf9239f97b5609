"""
What a test cannot do without: root, a program, a file of firmware, a network namespace.

On somebody's machine a test whose need is not met is skipped, with the reason.  Where C{CI=true} it fails instead, so
that a build cannot turn green by having tested nothing::

    def test_atftp(tmp_path):
        atftp, = need("atftp")
        needRoot()
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

ADMIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where a user's search path often does not look, and in.tftpd or nft live."""


def lack(reason: str) -> NoReturn:
    """Skip the test for this reason; where C{CI=true}, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must be able to run this: {reason}", pytrace=False)
    pytest.skip(reason)


def need(*programs: str) -> list[str]:
    """-> the paths of these programs, in the order of the arguments.  An absolute path may be any file: firmware."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), ADMIN])
    found = {
        program: program if os.path.isabs(program) and os.path.exists(program) else shutil.which(program, path=search)
        for program in programs
    }
    missing = [program for program, path in found.items() if path is None]
    if missing:
        lack(f"not installed: {', '.join(missing)}")
    return [path for path in found.values() if path is not None]


def needFile(*candidates: str) -> Path:
    """-> the first of these files that exists: distributions put the same firmware in different places."""
    for candidate in candidates:
        if Path(candidate).is_file():
            return Path(candidate)
    lack(f"no such file: {', '.join(candidates)}")


def needRoot() -> None:
    """Only root may do what follows."""
    if os.geteuid() != 0:
        lack("needs root")


def needNamespaces() -> None:
    """A network namespace can be made: root alone is not enough in some containers."""
    needRoot()
    (unshare,) = need("unshare")
    tried = subprocess.run([unshare, "--net", "true"], capture_output=True, text=True, check=False, timeout=10)
    if tried.returncode:
        lack(f"no network namespaces here: {tried.stderr.strip()}")
