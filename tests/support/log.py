"""What castd logs while a test looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.logger import LogEvent, globalLogPublisher


@contextmanager
def observed(*observers: Callable[[LogEvent], object]) -> Iterator[None]:
    """These see every event meanwhile."""
    for each in observers:
        globalLogPublisher.addObserver(each)
    try:
        yield
    finally:
        for each in observers:
            globalLogPublisher.removeObserver(each)
