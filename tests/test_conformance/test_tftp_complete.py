"""
That no case of the table is left out.
"""

import re
from pathlib import Path


def test_everyCaseIsThere() -> None:
    """TC01 to TC64 each have at least one test."""
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_tftp_*.py"))
    assert {int(number) for number in re.findall(r"def test_TC(\d\d)_", text)} == set(range(1, 65))
