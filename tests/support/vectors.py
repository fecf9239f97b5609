"""
Reads the vectors in C{tests/vectors}: datagrams and exchanges as data, with what each must mean.
"""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "vectors"


def vectors(protocol: str, section: str) -> list[Any]:
    """One section of one protocol's vectors, each as a parameter of a test under its own id."""
    entries = json.loads((FOLDER / f"{protocol}.json").read_text())[section]
    return [pytest.param(entry, id=entry.get("id", f"{section}-{place}")) for place, entry in enumerate(entries)]
