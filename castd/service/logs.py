"""
Where the log goes: one log for people or machines, and a file of the events alone, both as the service file says.

A reload opens the files anew, which is what whoever rotates logs waits for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TextIO, TypeAlias

from twisted.logger import (
    FileLogObserver,
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
from castd.observe.file import JSONFile, LineFile
from castd.observe.format import Observer, asJSON, asText
from castd.observe.ratelimit import RateLimiter

#: What an event becomes.
Format: TypeAlias = Literal["text", "json", "journal"]
_RENDER: dict[str, Callable[[LogEvent], str | None]] = {"text": asText, "json": asJSON}


def textLog(stream: Any) -> RateLimiter:
    """The log for people: C{asText}, each fault once a minute."""
    return RateLimiter(FileLogObserver(stream, asText))


def jsonLog(stream: Any) -> RateLimiter:
    """The same log as lines of JSON."""
    return RateLimiter(FileLogObserver(stream, asJSON))


def onStream(stream: TextIO) -> Callable[[Format], Observer]:
    """-> what makes a log of the format that is wanted, onto a stream."""

    def made(form: Format) -> Observer:
        return journal.JournalObserver() if form == "journal" else FileLogObserver(stream, _RENDER[form])

    return made


@dataclass
class LogOutputs:
    """
    Open files, and what writes to them.

    @ivar log: the log; C{level}: the same, from its least level on; L{None}: somebody else keeps it.
    @ivar events: the events alone; L{None}: not wanted.
    """

    log: RateLimiter | None = None
    level: Observer | None = None
    events: RateLimiter | None = None
    files: tuple[Any, ...] = ()

    def flush(self) -> None:
        """Say what was held back."""
        for each in (self.log, self.events):
            if each is not None:
                each.flush()

    def close(self) -> None:
        """And say nothing more."""
        self.flush()
        for each in self.files:
            each.close()


@implementer(ILogObserver)
class Logs:
    """
    All that castd itself writes of what happens: an observer of everything.

    @ivar keeps: the log is ours; else it is somebody else's, and ours are the events alone.
    """

    def __init__(
        self, elsewhere: Callable[[Format], Observer] | None = None, file: str | None = None, usual: str | None = None
    ) -> None:
        """
        @param elsewhere: makes the log where there is no file for it; L{None}: somebody else keeps a log.
        @param file: for the log, whatever the service file says; C{usual}: for one that says nothing.
        """
        self.keeps = elsewhere is not None
        self._elsewhere = elsewhere
        self._file, self._usual = file, usual
        self._outlets: LogOutputs | None = None

    def __call__(self, event: LogEvent) -> None:
        outlets = self._outlets
        if outlets is None:
            return
        if outlets.level is not None:
            outlets.level(event)
        if outlets.events is not None:
            outlets.events(event)

    def open(self, config: Config) -> None:
        """
        What the service file wants, unless that is done.

        @raise Unavailable: a file cannot be opened.
        """
        if self._outlets is None:
            self.take(self.opened(config))

    def opened(self, config: Config) -> LogOutputs:
        """
        -> what another service file wants, opened.

        @raise Unavailable: a file cannot be; nothing is open then.
        """
        wanted, made, closing = config.logging, LogOutputs(), list[Any]()

        def file(key: str, path: Any, kind: type[LineFile]) -> Any:
            try:
                found = kind(str(path), wanted.size, wanted.keep)
            except OSError as error:
                for each in closing:
                    each.close()
                where = config.tree.where(("logging", key))
                raise Unavailable(f"{where}: {path}: {error.strerror}") from None
            closing.append(found)
            return found

        if wanted.json_ is not None:
            made.events = RateLimiter(file("json", wanted.json_, JSONFile))
        if self._elsewhere is not None:
            observer = self._log(config, file, closing)
            made.log = RateLimiter(observer)
            made.level = FilteringLogObserver(made.log, [LogLevelFilterPredicate(LogLevel.levelWithName(wanted.level))])
        made.files = tuple(closing)
        return made

    def _log(self, config: Config, file: Callable[..., Any], closing: list[Any]) -> Observer:
        wanted = config.logging
        path = self._file or wanted.file or self._usual
        form = self.form(wanted.format, path is not None)
        if path is not None:
            lines, render = file("file", path, LineFile), _RENDER[form]
            return lambda event: lines.write(render(event) or "")
        assert self._elsewhere is not None
        try:
            observer = self._elsewhere(form)
        except OSError as error:
            for each in closing:
                each.close()
            where = config.tree.where(("logging", "format"))
            raise Unavailable(f"{where}: the journal is not there: {error.strerror}") from None
        if isinstance(observer, journal.JournalObserver):
            closing.append(observer)
        return observer

    @staticmethod
    def form(wanted: str, toFile: bool) -> Any:
        """-> what C{auto} means here; the journal is no file."""
        if wanted == "auto" and not toFile and journal.isJournal(os.environ) and os.path.exists(journal.SOCKET):
            return "journal"
        return "text" if wanted == "auto" or (toFile and wanted == "journal") else wanted

    def take(self, outlets: LogOutputs) -> None:
        """Write to these from now on."""
        before, self._outlets = self._outlets, outlets
        if before is not None:
            before.close()

    def rotate(self) -> None:
        """Begin new files now."""
        for each in () if self._outlets is None else self._outlets.files:
            if isinstance(each, LineFile):
                each.rotate()

    def flush(self) -> None:
        """Say what was held back."""
        if self._outlets is not None:
            self._outlets.flush()

    def close(self) -> None:
        """Nothing more is written."""
        before, self._outlets = self._outlets, None
        if before is not None:
            before.close()
