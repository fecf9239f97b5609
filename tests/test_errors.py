"""
What the exceptions of castd have in common with those of others.
"""

from __future__ import annotations

import errno

import pytest
from twisted.internet.error import CannotListenError

from castd.errors import reasonOf


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/srv/boot"), "Permission denied"),
        (OSError("no more"), "no more"),
        (CannotListenError("", 69, OSError(errno.EADDRINUSE, "Address already in use")), "Address already in use"),
        (CannotListenError("", 69, ValueError("no such address")), "no such address"),
        (ValueError("not a number"), "not a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_reasonOf(error: BaseException, reason: str) -> None:
    """The reason of an error is a sentence for an operator, without number and file."""
    assert reasonOf(error) == reason
