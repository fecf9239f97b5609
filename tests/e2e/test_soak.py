"""A short soak: the long one is benchmarks/soak.py by hand, see docs/soak.md."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import LEASHED
from tests.support.lab.castd import TREE
from tests.support.needs import need, needed, needNamespaces

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

SECONDS = 240
SHORT = ("--minutes", "0.5", "--lap", "15", "--reload", "1.5", "--clients", "40", "--patience", "60")


def test_asBefore(tmp_path: Path) -> None:
    """
    After a crowd on all transports, with loss, deaths, hostile datagrams and reloads, the server holds what it held,
    and every copy was right.
    """
    needNamespaces()
    need("ip", "unshare")
    words = [sys.executable, str(TREE / "benchmarks" / "soak.py"), *SHORT]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*needed(LEASHED), *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(TREE)},
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    told = log.read_text()
    sys.stdout.write(told)
    assert code == 0, told[-4000:]
    assert "all as before" in told
