"""
What a test needs of the machine.

Missing, it is skipped on a user's machine, with the reason; where C{CI=true} it fails, for there nobody reads the
reasons of skips.
"""

from __future__ import annotations

import os
import shutil

import pytest


def lack(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def need(*programs: str) -> None:
    """Programs on the path, or files by their absolute path."""
    missing = [program for program in programs if shutil.which(program) is None and not os.path.exists(program)]
    if missing:
        lack(f"needs {', '.join(missing)}")


def needRoot() -> None:
    if os.geteuid() != 0:
        lack("needs root, for network namespaces")
