"""
Writes log events as lines, and tells how many of them were lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

from castd.observe.format import Observer, asJSON

#: Formats an event as one line or several; L{None}: it has no text.
Render = Callable[[LogEvent], str | None]


class LineSink(Protocol):
    """Describes what lines are written to: a file or a stream."""

    lost: int

    def write(self, text: str) -> bool:
        """Write lines without waiting for a reader.  -> whether they were written; else they are counted as lost."""

    def tellLost(self) -> int:
        """Return C{lost}, and count from 0 again."""


@implementer(ILogObserver)
class LineWriter:
    """
    Writes each event to a sink.  Where events were lost, the next line that is written says how many.

    @ivar lostInAll: how many events were lost since the start.
    """

    def __init__(self, sink: LineSink, render: Render, elsewhere: Observer | None = None) -> None:
        """
        @param elsewhere: gets an event when the first of several is lost, as this sink cannot tell; L{None}: nobody.
        """
        self.lostInAll = 0
        self._sink = sink
        self._render = render
        self._elsewhere = elsewhere

    def __call__(self, event: LogEvent) -> None:
        line = self._render(event)
        if not line:
            return
        sink = self._sink
        if sink.lost and not self._tell(event):
            sink.lost += 1
            self.lostInAll += 1
        elif not sink.write(line):
            self.lostInAll += 1
            if sink.lost == 1 and self._elsewhere is not None:
                self._elsewhere(_event("events are lost: their disk is full", event, event="lost-lines"))

    def _tell(self, event: LogEvent) -> bool:
        """Write how many lines were lost before this event.  -> whether the sink has taken that."""
        lost = self._sink.tellLost()
        form = "{lines} lines before this one were lost: nobody has read the log, or its disk was full"
        told = self._render(_event(form, event, event="lost-lines", lines=lost))
        if told is not None and self._sink.write(told):
            return True
        # The count of the line itself is no lost event.
        self._sink.lost = lost
        return False


def _event(form: str, at: LogEvent, **fields: object) -> LogEvent:
    """Return a warning with the time of another event."""
    common = {"log_level": LogLevel.warn, "log_namespace": "castd", "log_time": at.get("log_time", 0.0)}
    return {"log_format": form, **common, **fields}


def eventsOnly(event: LogEvent) -> str | None:
    """Format the events of castd as JSON, and no others."""
    return asJSON(event) if "event" in event else None
