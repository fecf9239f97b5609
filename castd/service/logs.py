"""
Opens the log and the file of events that the service file asks for, and writes to them.

A reload opens the files anew, as programs that rotate logs expect it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, TextIO, TypeAlias

from twisted.internet.interfaces import IReactorTime
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
)
from zope.interface import implementer

from castd.config.config import Config
from castd.errors import Unavailable
from castd.observe import journal
from castd.observe.file import LineFile
from castd.observe.format import Observer, asJSON, asText
from castd.observe.ratelimit import RateLimiter
from castd.observe.stream import LineStream
from castd.observe.syslog import SyslogObserver
from castd.observe.voice import isTwistedsOwn
from castd.observe.writer import LineWriter, eventsOnly, together

#: The formats that an event can be written in.
Format: TypeAlias = Literal["text", "json", "journal"]
#: Makes the observer that writes the log in this format, where no file is configured.
MakeObserver: TypeAlias = Callable[[Format], Observer]


def _render(form: Format, event: LogEvent) -> str | None:
    return asJSON(event) if form == "json" else asText(event)


def textLog(stream: TextIO) -> RateLimiter:
    """Return an observer that writes the log as text for people, each fault once a minute."""
    return RateLimiter(_ownVoice(LineWriter(LineStream(stream), asText)))


def jsonLog(stream: TextIO) -> RateLimiter:
    """Return an observer that writes the log as lines of JSON, each fault once a minute."""
    return RateLimiter(_ownVoice(LineWriter(LineStream(stream), asJSON)))


def _ownVoice(observer: Observer) -> Observer:
    """Return an observer that passes all but Twisted's own lines on."""
    return lambda event: None if isTwistedsOwn(event) else observer(event)


def logTo(stream: TextIO) -> MakeObserver:
    """
    Return a function that makes the observer for a stream; in the format C{journal} it writes to the journal instead.
    """

    @cache
    def lines() -> LineStream:
        # Made when it is needed: a daemon does not need it, and would hold the stream of whoever has started it.
        return LineStream(stream)

    def make(form: Format) -> Observer:
        if form == "journal":
            return journal.JournalObserver()
        return LineWriter(lines(), partial(_render, form))

    return make


class LogCounts(NamedTuple):
    """
    Counts what is not in the log, nor in the file of events.

    @ivar omitted: how many lines were left out, as there were too many in a minute.
    @ivar lost: how many could not be written: the disk was full, or nobody has read them.
    """

    omitted: int = 0
    lost: int = 0


@dataclass
class LogOutputs:
    """
    Open files, and the observers that write to them.

    @ivar log: the log, before its least level is applied; L{None}: castd does not write the log itself.
    @ivar filtered: the log, from its least level on; L{None}: castd does not write the log itself.
    @ivar events: the file of events alone; L{None}: the service file asks for none.
    @ivar files: all files that were opened.
    @ivar writers: what writes the log and the events.
    """

    log: RateLimiter | None = None
    filtered: Observer | None = None
    events: RateLimiter | None = None
    files: list[LineFile | journal.JournalObserver] = field(default_factory=list)
    writers: list[LineWriter | journal.JournalObserver | SyslogObserver] = field(default_factory=list)

    def counts(self) -> LogCounts:
        """Return how many lines were left out, and how many were lost."""
        limiters = [each for each in (self.log, self.events) if each is not None]
        return LogCounts(sum(each.omitted for each in limiters), sum(each.lostInAll for each in self.writers))

    @property
    def dated(self) -> bool:
        """Whether all lines have the time of their event; the journal and syslog date what they get themselves."""
        outputs = sum(each is not None for each in (self.log, self.events))
        return outputs == len(self._lineWriters)

    @property
    def _lineWriters(self) -> list[LineWriter]:
        return [each for each in self.writers if isinstance(each, LineWriter)]

    def together(self) -> AbstractContextManager[None]:
        """Return a context in which lines are gathered, and written at its end."""
        return together(self._lineWriters)

    def flush(self) -> None:
        """Write the summaries of the faults that were held back."""
        for each in (self.log, self.events):
            if each is not None:
                each.flush()

    def close(self) -> None:
        """Flush, and close the files."""
        self.flush()
        self.closeFiles()

    def closeFiles(self) -> None:
        """Close the files."""
        for each in self.files:
            each.close()


@implementer(ILogObserver)
class Logs:
    """
    Writes every event to the log and to the file of events: an observer.

    @ivar keepsLog: this observer writes the log; otherwise it writes only the file of events.
    @ivar pendingCalls: how many delayed calls of the reactor wait for the time of a summary.
    @ivar clock: has summaries written in time; L{None}: the next event after a minute does that.
    @ivar catchUp: called before anything is counted, exchanged or written beside the events: passes those on that are
        kept, see L{castd.observe.batch}.
    """

    def __init__(
        self, makeObserver: MakeObserver | None = None, file: str | None = None, defaultFile: str | None = None
    ) -> None:
        """
        @param makeObserver: makes the observer of a log that goes to no file; L{None}: castd does not write the log.
        @param file: the file of the log, whatever the service file says.
        @param defaultFile: the file of the log, if the service file names none.
        """
        self.keepsLog = makeObserver is not None
        self.clock: IReactorTime | None = None
        self.catchUp: Callable[[], object] = lambda: None
        self.pendingCalls = 0
        self._makeObserver = makeObserver
        self._file, self._defaultFile = file, defaultFile
        self._outputs: LogOutputs | None = None
        self._closed = LogCounts()  # of the outputs before

    def __call__(self, event: LogEvent) -> None:
        outputs = self._outputs
        if outputs is None or isTwistedsOwn(event):
            return
        if outputs.filtered is not None:
            outputs.filtered(event)
        if outputs.events is not None:
            outputs.events(event)

    @property
    def mayWait(self) -> bool:
        """Whether events may be written a moment later, as each has its time."""
        return self._outputs is None or self._outputs.dated

    def together(self) -> AbstractContextManager[None]:
        """Return a context in which all events are written with as few calls as can be, at its end."""
        return nullcontext() if self._outputs is None else self._outputs.together()

    def counts(self) -> LogCounts:
        """Return how many lines were left out, and how many were lost, since the start."""
        self.catchUp()
        open_ = LogCounts() if self._outputs is None else self._outputs.counts()
        return LogCounts(self._closed.omitted + open_.omitted, self._closed.lost + open_.lost)

    def open(self, config: Config) -> None:
        """
        Open the outputs that the service file asks for, unless outputs are open already.

        @raise Unavailable: a file cannot be opened.
        """
        if self._outputs is None:
            self.replace(self.openOutputs(config))

    def openOutputs(self, config: Config) -> LogOutputs:
        """
        Open the outputs that a service file asks for, for L{replace}.

        @raise Unavailable: a file cannot be opened; no new file is open then.
        """
        self.catchUp()  # what is kept belongs before what is written to a file that is opened once more
        outputs, wanted = LogOutputs(), config.logging
        with ExitStack() as undo:
            undo.callback(outputs.closeFiles)
            if self._makeObserver is not None:
                outputs.log = RateLimiter(self._openLog(config, outputs, self._makeObserver), self._callLater)
                level = LogLevel.levelWithName(wanted.level)
                outputs.filtered = FilteringLogObserver(outputs.log, [LogLevelFilterPredicate(level)])
            if wanted.json_ is not None:
                file = self._openFile(config, outputs, "json", wanted.json_)
                writer = LineWriter(file, eventsOnly, outputs.filtered)
                outputs.writers.append(writer)
                outputs.events = RateLimiter(writer, self._callLater)
            undo.pop_all()
        return outputs

    def _callLater(self, seconds: float, function: Callable[[], object]) -> bool:
        if self.clock is None:
            return False
        self.pendingCalls += 1
        self.clock.callLater(seconds, self._call, function)
        return True

    def _call(self, function: Callable[[], object]) -> None:
        self.pendingCalls -= 1
        self.catchUp()
        function()

    def _openFile(self, config: Config, outputs: LogOutputs, key: str, path: Path | str) -> LineFile:
        try:
            file = LineFile(str(path), config.logging.size, config.logging.keep)
        except OSError as error:
            where = config.tree.where(("logging", key))
            raise Unavailable(f"{where}: {path}: {error.strerror}") from None
        outputs.files.append(file)
        return file

    def _openLog(self, config: Config, outputs: LogOutputs, makeObserver: MakeObserver) -> Observer:
        path = self._file or config.logging.file or self._defaultFile
        form = chooseFormat(config.logging.format, path is not None)
        if path is not None:
            writer = LineWriter(self._openFile(config, outputs, "file", path), partial(_render, form))
            outputs.writers.append(writer)
            return writer
        try:
            observer = makeObserver(form)
        except OSError as error:
            where = config.tree.where(("logging", "format"))
            raise Unavailable(f"{where}: the journal is not there: {error.strerror}") from None
        if isinstance(observer, journal.JournalObserver):
            outputs.files.append(observer)
        if isinstance(observer, journal.JournalObserver | SyslogObserver | LineWriter):
            outputs.writers.append(observer)
        return observer

    def replace(self, outputs: LogOutputs) -> None:
        """Write to these outputs from now on, and close the ones before."""
        self.catchUp()
        before, self._outputs = self._outputs, outputs
        if before is not None:
            before.close()
            self._closed = LogCounts(*map(sum, zip(self._closed, before.counts(), strict=True)))

    def rotate(self) -> None:
        """Begin new files now."""
        self.catchUp()
        for each in self._lineFiles():
            each.rotate()

    def followNames(self, follow: bool) -> None:
        """
        Go on in new files by itself where programs have renamed these, or stop doing so: a process that ends its last
        transfers is sent no reload, and might write to a file that was compressed and removed.
        """
        for each in self._lineFiles():
            each.followsName = follow

    def _lineFiles(self) -> list[LineFile]:
        files = [] if self._outputs is None else self._outputs.files
        return [each for each in files if isinstance(each, LineFile)]

    def flush(self) -> None:
        """Write the summaries of the faults that were held back."""
        self.catchUp()
        if self._outputs is not None:
            self._outputs.flush()

    def close(self) -> None:
        """Close the outputs; nothing is written any more."""
        self.catchUp()
        before, self._outputs = self._outputs, None
        if before is not None:
            before.close()


def chooseFormat(wanted: Literal["auto"] | Format, toFile: bool) -> Format:
    """Return the format of a log; C{auto} is chosen by the environment, and C{journal} is not chosen for a file."""
    if wanted == "auto":
        toJournal = not toFile and journal.isJournal(os.environ) and os.path.exists(journal.SOCKET)
        return "journal" if toJournal else "text"
    return "text" if toFile and wanted == "journal" else wanted
