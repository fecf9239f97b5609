"""
Delivers the events of finished transfers in batches, so that the log writes the lines of many with one call.

A storm of small files ends thousands of transfers a second.  Their events are kept, each as it was when it was logged,
with its instant, and delivered L{DELAY} seconds after the first of them at the latest, or when L{MOST} are kept.  Every
other event is delivered at once, behind those that are kept: the order is always that of the log calls.  Whoever looks
at what an observer has made of the events calls L{EventBatch.flush} first, as does who exchanges or closes its files,
so that the delay shows nowhere but in the instant at which a line is written.

The observers themselves know nothing of this: what they make of an event depends on its C{log_time} alone.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import NamedTuple, TypeAlias

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.observe.format import Observer

#: The most seconds from the end of a transfer until its event is delivered.
DELAY = 0.05
#: The most events that are kept: to deliver them to a log, a file of events and the metrics takes 5 ms, for which
#: transfers wait.
MOST = 64
#: The kind of the events that are kept: the end of a transfer.
KEPT = "received"

#: Makes the context in which an observer gets a batch of events.
Together: TypeAlias = Callable[[], AbstractContextManager[object]]


def _always() -> bool:
    return True


class _Member(NamedTuple):
    observer: Observer
    together: Together


@implementer(ILogObserver)
class EventBatch:
    """
    Passes events on to the observers of castd, those of finished transfers in batches: an observer of Twisted's log.

    Observers that are not castd's own stand beside it, at the publisher, and get each event at once.  An observer that
    raises is treated as by L{twisted.logger.LogPublisher}: all others are told, and it gets the next event.
    """

    def __init__(self, publisher: ILogObserver = globalLogPublisher) -> None:
        """@param publisher: what all observers stand at; it is told of those that fail."""
        self._log = Logger(namespace="castd", observer=publisher)
        self._members: list[_Member] = []
        self._kept: deque[LogEvent] = deque()
        self._clock: IReactorTime | None = None
        self._mayKeep: Callable[[], bool] = _always
        self._timer: IDelayedCall | None = None
        # A thread that waits for a disk may log a fault.
        self._lock = RLock()
        self._delivering = False
        self._broken: list[Observer] = []  # those whose failure is being told

    def add(self, observer: Observer, together: Together = nullcontext) -> None:
        """
        Pass events on to this observer as well, from now on.

        @param together: the observer gets the events of one batch within this context, and may do at its end what is
            cheaper for all of them.
        """
        self.flush()
        self._members.append(_Member(observer, together))

    def remove(self, observer: Observer) -> None:
        """Pass no further event on to this observer; it gets those that are kept."""
        self.flush()
        self._members = [each for each in self._members if each.observer is not observer]

    def start(self, clock: IReactorTime, mayKeep: Callable[[], bool]) -> None:
        """
        Keep the events of finished transfers from now on; before that each is passed on at once.

        @param mayKeep: asked before an event is kept while no other is; C{False}: it is passed on at once.
        """
        self._clock, self._mayKeep = clock, mayKeep
        # A main loop that ends otherwise than by a stop leaves no event behind.
        atexit.register(self.flush)

    def stop(self) -> None:
        """Pass on what is kept, and keep nothing any more.  In the reactor's thread."""
        self._clock, self._mayKeep = None, _always
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self.flush()
        atexit.unregister(self.flush)

    def __call__(self, event: LogEvent) -> None:
        kept, clock = self._kept, self._clock
        if clock is None or event.get("event") != KEPT or not (kept or self._mayKeep()):
            with self._lock:
                self.flush()
                self._deliver((event,))
            return
        # A copy, since observers of Twisted's older interface write into the event.
        kept.append(event.copy())
        if len(kept) >= MOST:
            self.flush()
        elif self._timer is None:
            self._timer = clock.callLater(DELAY, self._due)

    def _due(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Pass on the events that are kept; in any thread, so the timer is left alone."""
        with self._lock:
            # An observer may log the end of a transfer: that goes behind what is being passed on.
            while self._kept and not self._delivering:
                self._deliver([self._kept.popleft() for _ in range(len(self._kept))])

    def _deliver(self, events: Sequence[LogEvent]) -> None:
        delivering, self._delivering = self._delivering, True
        try:
            failures = [
                (each.observer, failure)
                for each in tuple(self._members)
                if each.observer not in self._broken
                for failure in _observe(each, events)
            ]
            for observer, failure in failures:
                self._tell(observer, failure)
        finally:
            self._delivering = delivering

    def _tell(self, observer: Observer, failure: Failure) -> None:
        """Tell all observers but this one that it has failed."""
        self._broken.append(observer)
        try:
            form = "Temporarily disabling observer {observer} due to exception: {log_failure}"
            self._log.failure(form, failure, observer=observer)
        finally:
            self._broken.pop()


def _observe(member: _Member, events: Sequence[LogEvent]) -> list[Failure]:
    """Pass each of these events on to an observer.  -> what it has raised."""
    failures: list[Failure] = []
    try:
        with member.together() if len(events) > 1 else nullcontext():
            for event in events:
                try:
                    member.observer(event)
                except Exception:
                    failures.append(Failure())
    except Exception:
        failures.append(Failure())
    return failures
