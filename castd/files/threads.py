"""
Runs what waits for a disk elsewhere than in the reactor's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class RunInThread(Protocol):
    """Runs a function elsewhere: C{twisted.internet.threads.deferToThread}, or C{maybeDeferred} in a test."""

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]: ...
