"""
Writes log events as lines, and tells how many of them were lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

from castd.observe.format import Observer, asJSON

#: Formats an event as one line or several; L{None}: it has no text.
Render = Callable[[LogEvent], str | None]


class LineSink(Protocol):
    """
    Describes what lines are written to: a file or a stream.

    @ivar lost: how many lines could not be written since a L{LineWriter} has told of them, and set it to 0.
    """

    lost: int

    def write(self, text: str) -> bool:
        """Write lines without waiting for a reader.  -> whether they were written; else they are counted as lost."""

    def writeMany(self, lines: Sequence[str]) -> int:
        """
        Write several lines with as few calls as can be, if nothing is in the way.

        @return: how many are written, from the first on; the others are not counted as lost, L{write} may do better.
        """


class GatheredLine(NamedTuple):
    """One event as a line, and what is going to write it."""

    writer: LineWriter
    event: LogEvent
    line: str


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
        self._gathered: list[GatheredLine] | None = None

    def __call__(self, event: LogEvent) -> None:
        line = self._render(event)
        if not line:
            return
        if self._gathered is None:
            self.write(event, line)
        else:
            self._gathered.append(GatheredLine(self, event, line))

    def gather(self, lines: list[GatheredLine] | None) -> None:
        """Append events to this list from now on, for L{together}; L{None}: write each again."""
        self._gathered = lines

    @property
    def tellsElsewhere(self) -> bool:
        """Whether another observer may get an event while this one writes."""
        return self._elsewhere is not None

    def writeMany(self, lines: Sequence[str]) -> int:
        """As L{LineSink.writeMany}; nothing, if lines were lost, since the next one has to say so."""
        return 0 if self._sink.lost else self._sink.writeMany(lines)

    def write(self, event: LogEvent, line: str) -> None:
        """Write one event, as this line."""
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
        lost, self._sink.lost = self._sink.lost, 0
        form = "{lines} lines before this one were lost: nobody has read the log, or its disk was full"
        told = self._render(_event(form, event, event="lost-lines", lines=lost))
        if told is not None and self._sink.write(told):
            return True
        # The count of the line itself is no lost event.
        self._sink.lost = lost
        return False


@contextmanager
def together(writers: Sequence[LineWriter]) -> Iterator[None]:
    """
    Gather the lines of these writers while the context is entered, and write them at its end: what is in each file is
    the same as without, and so is the order, but a file gets them with one call.
    """
    lines: list[GatheredLine] = []
    for writer in writers:
        writer.gather(lines)
    try:
        yield
    finally:
        for writer in writers:
            writer.gather(None)
        _write(lines, sorted(writers, key=lambda writer: not writer.tellsElsewhere))


def _write(lines: Sequence[GatheredLine], writers: Sequence[LineWriter]) -> None:
    """
    Write gathered lines.

    @param writers: all that have gathered, first those that tell others of what is lost: where one of them fails, the
        others go no further, as the event that says so has its place between the lines.
    """
    written, stop = set[int](), len(lines)
    for writer in writers:
        own = [number for number in range(stop) if lines[number].writer is writer]
        done = writer.writeMany([lines[number].line for number in own])
        written.update(own[:done])
        if done < len(own) and writer.tellsElsewhere:
            stop = own[done]
    for number, each in enumerate(lines):
        if number not in written:
            each.writer.write(each.event, each.line)


def _event(form: str, at: LogEvent, **fields: object) -> LogEvent:
    """Return a warning with the time of another event."""
    common = {"log_level": LogLevel.warn, "log_namespace": "castd", "log_time": at.get("log_time", 0.0)}
    return {"log_format": form, **common, **fields}


def eventsOnly(event: LogEvent) -> str | None:
    """Format the events of castd as JSON, and no others."""
    return asJSON(event) if "event" in event else None
