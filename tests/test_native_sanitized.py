"""
The native loop reads and writes nothing that is not its own: the address and undefined behaviour sanitizers watch it.

Its tests, with thousands of rogue datagrams, run in a process of their own with a library that was built for that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hatch_build
from tests.support.needs import lack, needCompiler

ROOT = Path(__file__).parent.parent
SANITIZERS = "-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"

pytestmark = [pytest.mark.slow, pytest.mark.loopback]


def runtime() -> str:
    """Return the path of the address sanitizer's library, which has to be loaded before all others."""
    asked = [*hatch_build.compiler(), "-print-file-name=libasan.so"]
    path = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60).stdout.strip()
    if not os.path.isabs(path):
        lack(f"the compiler has no address sanitizer: {path}")
    return path


def watched(top: Path, *arguments: str, change: tuple[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """
    Run tests of the native loop under the sanitizers.

    @param change: what is replaced in the source, and by what.
    """
    needCompiler()
    for name in ("castd", "tests"):
        shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "e2e"))
    for name in ("pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / name, top)
    if change is not None:
        source = top / hatch_build.SOURCE
        assert source.read_text().count(change[0]) == 1
        source.write_text(source.read_text().replace(*change))
    hatch_build.build(top, top / hatch_build.SOURCE.parent, SANITIZERS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CASTD"))}
    watching = {
        "LD_PRELOAD": runtime(),
        # Python itself keeps much until the end; and its own allocator would hide what is used after it was freed.
        "ASAN_OPTIONS": f"detect_leaks=0:detect_stack_use_after_return=1:log_path={top}/report",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={top}/report",
        "PYTHONMALLOC": "malloc",
        "CI": "true",  # a test that is skipped for want of the loop would prove nothing
        "CASTD_ROGUES": "12000",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        "tests/test_native.py",
        "tests/test_native_groups.py",
        *arguments,
    ]
    return subprocess.run(
        command, cwd=top, env=clean | watching, capture_output=True, text=True, check=False, timeout=400
    )


def reports(top: Path) -> str:
    """Return what the sanitizers have written, in files, since pytest keeps the outputs of its own process."""
    return "".join(path.read_text() for path in top.glob("report.*"))


def test_clean(tmp_path: Path) -> None:
    """Nothing is reported: for rogue datagrams, files that are replaced, and ports that are closed inside a batch."""
    ran = watched(tmp_path)
    assert ran.returncode == 0, f"{ran.stdout[-5000:]}{ran.stderr[-5000:]}"
    assert reports(tmp_path) == ""


def test_theyWatch(tmp_path: Path) -> None:
    """A loop that reads a datagram into a buffer that is too short is reported."""
    ran = watched(
        tmp_path, "-k", "test_unexpected", change=("cdef char received[MOST_OCTETS]", "cdef char received[64]")
    )
    assert ran.returncode != 0
    assert "global-buffer-overflow" in reports(tmp_path)
