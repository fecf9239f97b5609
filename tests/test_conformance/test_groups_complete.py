"""
That no case of the tables is left out.
"""

import re
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("file", "letters", "cases"), [("test_multicast.py", "MC", 43), ("test_sbroadcast.py", "BC", 32)]
)
def test_everyCaseIsThere(file: str, letters: str, cases: int) -> None:
    """MC01 to MC43 and BC01 to BC32 each have at least one test."""
    text = (Path(__file__).parent / file).read_text()
    titles = " ".join(re.findall(r"def test_(\w+)", text))
    assert {int(number) for number in re.findall(rf"{letters}(\d\d)", titles)} == set(range(1, cases + 1))
