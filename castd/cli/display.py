"""
What C{castd get} and C{castd put} show: a bar for each file on a terminal, a line for each at its end, or JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from twisted.internet.defer import Deferred

from castd import outcomes
from castd.client.report import Report, TransferError

#: Exit statuses.  Of several files, the largest counts.
OK, FAILED, USAGE, REFUSED, MISMATCH, INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass
class Result:
    """
    What became of one file; what C{--json} shows.

    @ivar outcome: a word of L{castd.outcomes}.
    @ivar code: of the server's ERROR.
    """

    url: str
    file: str
    status: int = OK
    outcome: str = outcomes.DONE
    octets: int | None = None
    seconds: float | None = None
    blksize: int | None = None
    windowsize: int | None = None
    repeats: int | None = None
    sha256: str | None = None
    code: int | None = None
    error: str | None = None
    closed: Deferred[None] | None = field(default=None, repr=False)

    def fill(self, report: Report) -> None:
        """It is complete."""
        for name in ("octets", "seconds", "blksize", "windowsize", "repeats", "closed"):
            setattr(self, name, getattr(report, name))

    def failed(self, error: Exception) -> None:
        """It is not."""
        self.outcome = outcomes.FAILED
        self.error = str(error)
        self.status = FAILED
        if isinstance(error, TransferError):
            self.outcome, self.code = error.outcome, error.code
            if error.code is not None:
                self.status = REFUSED
            elif error.outcome == outcomes.STOPPED:
                self.status = INTERRUPTED
        elif isinstance(error, OSError):
            self.error = error.strerror or str(error)

    def mismatch(self, wanted: str) -> None:
        """The checksum is another one."""
        self.status, self.outcome = MISMATCH, outcomes.FAILED
        self.error = f"sha256 is {self.sha256}, not {wanted}"


class Display:
    """
    Everything that a human sees: a bar per file on a terminal, a line per file at its end.
    """

    def __init__(self, command: str, quiet: bool, json: bool, checksum: bool) -> None:
        self._command = command
        self._quiet, self._json, self._checksum = quiet, json, checksum
        console = Console(stderr=True)
        bars = console.is_terminal and not quiet and not json
        self._bars = _bars(console) if bars else None
        self._held: list[tuple[str, bool]] = []

    @contextmanager
    def alive(self) -> Iterator[None]:
        """The bars move while this is entered; what is said meanwhile is shown below them at the end."""
        if self._bars is None:
            yield
            return
        try:
            with self._bars:
                yield
        finally:
            self._bars = None
            for text, err in self._held:
                click.echo(text, err=err)

    def _say(self, text: str, err: bool) -> None:
        if self._bars is None:
            click.echo(text, err=err)
        else:
            self._held.append((text, err))

    def progress(self, name: str) -> Callable[[int, int | None], object] | None:
        """-> what a transfer tells its progress."""
        bars = self._bars
        if bars is None:
            return None
        task = bars.add_task(name, total=None)
        return lambda octets, size: bars.update(task, completed=octets, total=size)

    def result(self, result: Result, toStdout: bool = False) -> None:
        """One line at the end of a file; errors always, the rest if it is wanted."""
        if self._json:
            shown = {name: value for name, value in _plain(result).items() if value is not None}
            self._say(json.dumps(shown), err=toStdout)
            return
        if result.error is not None:
            self._say(f"castd {self._command}: {result.url}: {result.error}", err=True)
        elif not self._quiet:
            self._say(_line(result), err=True)
        if result.sha256 is not None and self._checksum and result.error is None:
            self._say(f"{result.sha256}  {result.file}", err=toStdout)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # Standard output belongs to the file and its checksum, a terminal or not.
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _plain(result: Result) -> dict[str, Any]:
    return asdict(replace(result, closed=None))


def _line(result: Result) -> str:
    octets, seconds = result.octets or 0, result.seconds or 0.0
    rate = f", {octets / seconds / 1e6:.1f} MB/s" if seconds else ""
    again = f", {result.repeats} repeated" if result.repeats else ""
    return f"{result.file}: {octets} octets in {seconds:.2f} s{rate}{again}"
