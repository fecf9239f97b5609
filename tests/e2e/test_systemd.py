"""The unit file, as systemd itself judges it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need

pytestmark = pytest.mark.e2e

UNIT = Path(__file__).parents[2] / "etc" / "castd.service"
EXPOSURE = 2.0
"""The most that systemd-analyze may count on its scale from 0 (safe) to 10."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program in it that is there, under its own name."""
    file = tmp_path / UNIT.name
    file.write_text(re.sub(r"/opt/castd/bin/castd\b", sys.executable, UNIT.read_text()))
    return file


def test_verify(unit: Path) -> None:
    """systemd finds nothing to say against the unit file: every key known, every value one that it takes."""
    (analyze,) = need("systemd-analyze")
    said = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (said.returncode, [line for line in said.stderr.splitlines() if "castd" in line]) == (0, [])


def test_security(unit: Path) -> None:
    """What a broken castd could do to its machine is little, by systemd's own reckoning."""
    (analyze,) = need("systemd-analyze")
    said = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for castd\.service: ([0-9.]+)", said.stdout)
    assert found is not None, said.stdout + said.stderr
    assert float(found[1]) <= EXPOSURE
