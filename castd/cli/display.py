"""
Shows the progress and the results of C{castd get} and C{castd put}: as bars on a terminal, as lines, or as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from twisted.internet.defer import Deferred

from castd import outcomes
from castd.cli.console import makeConsole
from castd.client.describe import describe
from castd.client.report import Progress, Report, TransferError, Watcher
from castd.errors import reasonOf
from castd.files.names import printable
from castd.request import Peer, hostPort

#: Exit statuses.  Of several files, the largest counts.
OK, FAILED, USAGE, REFUSED, MISMATCH, INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass
class Result:
    """
    The result of one file, which C{--json} shows.

    @ivar file: the local name.
    @ivar outcome: a word of L{castd.outcomes}.
    @ivar code: the code of the server's ERROR; L{None}: the server sent none.
    @ivar closed: as L{Report.closed<castd.client.report.Report>}; not part of what is shown.
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

    def succeeded(self, report: Report) -> None:
        """Fill in the report of a transfer that is complete."""
        self.octets, self.seconds, self.repeats = report.octets, report.seconds, report.repeats
        self.blksize, self.windowsize = report.blksize, report.windowsize
        self.closed = report.closed

    def failed(self, error: Exception, stream: str) -> None:
        """
        Fill in the error of a transfer that has failed, and the exit status for it; a local one names the file.

        @param stream: what C{-} stands for.
        """
        file = stream if self.file == "-" else self.file
        self.outcome = outcomes.FAILED
        self.error = str(error)
        self.status = FAILED
        if isinstance(error, TransferError):
            self.outcome, self.code = error.outcome, error.code
            if error.local:
                self.error = f"{file}: {error}"
            if error.code is not None:
                self.status = REFUSED
            elif error.outcome == outcomes.STOPPED:
                self.status = INTERRUPTED
        elif isinstance(error, OSError):
            self.error = f"{file}: {reasonOf(error)}"

    def mismatched(self, wanted: str) -> None:
        """Fill in that the checksum differs from the one that the user gave."""
        self.status, self.outcome = MISMATCH, outcomes.FAILED
        self.error = f"sha256 is {self.sha256}, not {wanted}"


def _echo(text: str, err: bool) -> None:
    """Print a line.  No transfer ends because nobody reads standard error any more (C{2>&1 | head})."""
    try:
        click.echo(text, err=err)
    except OSError:
        if not err:
            raise


class PacketLines:
    """A L{Watcher<castd.client.report.Watcher>} that prints a line for each packet: C{0.000142 > 10.0.0.1:69 RRQ f}."""

    def __init__(self, seconds: Callable[[], float], name: str) -> None:
        self._seconds = seconds
        self._begun = seconds()
        self._name = f"{printable(name)} " if name else ""

    def packet(self, sent: bool, datagram: bytes, peer: Peer) -> None:
        """Print what was sent, behind C{>}, or what has come, behind C{<}."""
        self.note(f"{'>' if sent else '<'} {hostPort(peer)} {describe(datagram)}")

    def note(self, text: str) -> None:
        """Print a line, with the seconds since the beginning."""
        _echo(f"{self._name}{self._seconds() - self._begun:.6f} {printable(text)}", err=True)


class Display:
    """
    Shows the files of one command: a bar for each file on a terminal, and a line for each result.
    """

    def __init__(self, command: str, quiet: bool, json: bool, checksum: bool, verbose: bool = False) -> None:
        """@param verbose: a line for each packet, and no bars."""
        self._command = command
        self._quiet, self._json, self._checksum, self._verbose = quiet, json, checksum, verbose
        console = makeConsole(stderr=True)
        hasBars = console.is_terminal and not (quiet or json or verbose)
        self._bars = _bars(console) if hasBars else None
        self._held: list[tuple[str, bool]] = []

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars while the context is entered; lines that are printed meanwhile appear below them at the end."""
        if self._bars is None:
            yield
            return
        try:
            with self._bars:
                yield
        finally:
            self._bars = None
            for text, err in self._held:
                _echo(text, err)

    def _print(self, text: str, err: bool) -> None:
        if self._bars is None:
            _echo(text, err)
        else:
            self._held.append((text, err))

    def progress(self, name: str) -> Progress | None:
        """Return the callback for the progress of this file; L{None}: no bars are shown."""
        bars = self._bars
        if bars is None:
            return None
        task = bars.add_task(printable(name), total=None)
        return lambda octets, size: bars.update(task, completed=octets, total=size)

    def watcher(self, seconds: Callable[[], float], name: str = "") -> Watcher | None:
        """
        Return what shows the packets of a transfer, on standard error; L{None}: nobody wants to see them.

        @param seconds: the clock.
        @param name: what to begin each line with, if there are several transfers.
        """
        return PacketLines(seconds, name) if self._verbose else None

    def showResult(self, result: Result, toStdout: bool = False) -> None:
        """
        Show the result of one file: an error always, anything else unless C{--quiet} is given.

        @param toStdout: standard output has the content of the file.
        """
        if self._json:
            shown = {name: value for name, value in _plain(result).items() if value is not None}
            self._print(json.dumps(shown), err=toStdout)
            return
        if result.error is not None:
            self._print(printable(f"castd {self._command}: {result.url}: {result.error}"), err=True)
        elif not self._quiet:
            self._print(printable(lineOf(result)), err=True)
        if result.sha256 is not None and self._checksum and result.error is None:
            self._print(f"{result.sha256}  {result.file}", err=toStdout)


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # Standard output is for the file and its checksum, also on a terminal.
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _plain(result: Result) -> dict[str, object]:
    return asdict(replace(result, closed=None))


def lineOf(result: Result) -> str:
    """Return what a user reads of a file that was transferred."""
    octets, seconds = result.octets or 0, result.seconds or 0.0
    rate = f", {decimal(int(octets / seconds))}/s" if seconds else ""
    again = f", {result.repeats} repeated" if result.repeats else ""
    return f"{result.file}: {octets} octets in {seconds:.2f} s{rate}{again}"
