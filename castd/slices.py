"""
Do long work in slices of some milliseconds, so that no datagram waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator

#: The longest time that the event loop waits for a slice.  Seconds.
SLICE = 0.002


class Slices:
    """Shares one slice in each turn of the event loop among all work that is under way."""

    def __init__(self, reactor: IReactorTime, seconds: Callable[[], float] | None = None) -> None:
        """@param seconds: the clock that slices are measured by; L{None}: the reactor's."""
        self._reactor = reactor
        self._seconds = reactor.seconds if seconds is None else seconds
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
