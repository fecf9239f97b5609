"""
Chooses the cases of a matrix for C{pytest -m "not slow"}, which takes a minute or two and has some of each area.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slowBut(quick: Callable[..., bool], cases: Iterable[Any]) -> list[Any]:
    """Return these cases of C{parametrize}, marked C{slow} but for those that C{quick(*values)} picks."""
    return [
        each if quick(*values) else pytest.param(*values, marks=pytest.mark.slow)
        for each in cases
        for values in [each if isinstance(each, tuple) else (each,)]
    ]
