"""
Run functions that wait for a disk outside the reactor's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class RunInThread(Protocol):
    """Runs a function in a thread, as C{twisted.internet.threads.deferToThread}; C{maybeDeferred} in a test."""

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]: ...
