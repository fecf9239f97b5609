"""Observes the log of castd during a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.logger import LogEvent, globalLogPublisher


@contextmanager
def observed(*observers: Callable[[LogEvent], object]) -> Iterator[None]:
    """Pass every event of castd to these observers while the context is entered."""
    for each in observers:
        globalLogPublisher.addObserver(each)
    try:
        yield
    finally:
        for each in observers:
            globalLogPublisher.removeObserver(each)
