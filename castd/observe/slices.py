"""
Does long work of an answer in slices of some milliseconds, so that no datagram waits for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator

#: The longest time that the event loop waits for a slice.  Seconds.
SLICE = 0.002
#: The most values of JSON that are encoded in one step.
MOST_VALUES = 200


class Slices:
    """Shares one slice in each turn of the event loop among all work that is under way."""

    def __init__(self, reactor: IReactorTime, seconds: Callable[[], float] = time.perf_counter) -> None:
        """@param seconds: the clock that slices are measured by."""
        self._reactor = reactor
        self._seconds = seconds
        self._cooperator = Cooperator(self._slice, lambda work: reactor.callLater(0, work))

    def _slice(self) -> Callable[[], bool]:
        """Return a function that says whether the slice that begins now is over."""
        end = self._seconds() + SLICE
        return lambda: self._seconds() >= end

    def run(self, steps: Iterator[object]) -> Deferred[None]:
        """Do work step by step.  -> fires when all of it is done."""
        return self._cooperator.coiterate(steps).addCallback(lambda _: None)

    def pauses(self) -> Callable[[], Deferred[None] | None]:
        """
        Return a function that says when to pause: it returns a Deferred once the slice that begins now is over, which
        fires when the event loop has done what else was due, and L{None} before.
        """
        over = self._slice()

        def pause() -> Deferred[None] | None:
            nonlocal over
            if not over():
                return None
            waiting: Deferred[None] = Deferred()

            def resume() -> None:
                nonlocal over
                over = self._slice()
                waiting.callback(None)

            self._reactor.callLater(0, resume)
            return waiting

        return pause

    def encode(self, value: object) -> Deferred[str]:
        """Return the text that C{json.dumps} would return, at once if it is short; keys are texts."""
        if _isShort(value):
            return execute(json.dumps, value)
        pieces = list[str]()
        return self.run(_encode(value, pieces)).addCallback(lambda _: "".join(pieces))


def _encode(value: object, pieces: list[str]) -> Iterator[None]:
    """Append the JSON of a value to these pieces, a short part in each step: C{iterencode} takes ten times as long."""
    if _isShort(value):
        pieces.append(json.dumps(value))
        yield None
    elif isinstance(value, dict):
        before = "{"
        for key, each in value.items():
            pieces.append(f"{before}{json.dumps(key)}: ")
            yield from _encode(each, pieces)
            before = ", "
        pieces.append("}")
    else:
        assert isinstance(value, list | tuple)
        before = "["
        for each in value:
            pieces.append(before)
            yield from _encode(each, pieces)
            before = ", "
        pieces.append("]")


def _isShort(value: object) -> bool:
    return _count(value, MOST_VALUES) <= MOST_VALUES


def _count(value: object, most: int) -> int:
    """Return how many values a value of JSON has in it, with itself; once there are more than C{most}, as many."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 1
    found = 1
    for each in value:
        found += _count(each, most - found)
        if found > most:
            break
    return found
