"""Observes the log of castd during a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


def plainFields(events: Iterable[LogEvent], *without: str) -> list[dict[str, object]]:
    """Return the fields of events that are texts and numbers, but for those of the log itself and these names."""
    return [
        {
            name: value
            for name, value in event.items()
            if not name.startswith("log_") and name not in without and isinstance(value, str | int | float)
        }
        for event in events
    ]
