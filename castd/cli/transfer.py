"""
Fetches and sends files from the command line, for C{castd get} and C{castd put}.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

import click
from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.internet.interfaces import IReactorCore, IReactorFDSet, IReactorTime
from twisted.python.failure import Failure

from castd.cli.display import INTERRUPTED, Display, Result
from castd.cli.options import STATUSES, ChecksumCommand, TransferOptions, knownScheme, transferOptions
from castd.client.client import fetch, send
from castd.client.output import PIECE, OutputStream, PartialFile, checksum
from castd.client.report import TransferError, Watcher
from castd.client.transfer import IClientReactor
from castd.client.urls import Url, UrlError
from castd.net.timers import useMonotonicClock
from castd.packets.netascii import encode

#: The most files that are fetched at the same time.
AT_ONCE = 8


class ICommandReactor(IClientReactor, IReactorCore, IReactorFDSet):
    """The interfaces that a command needs of the reactor that it runs."""


@click.command(cls=ChecksumCommand, epilog=STATUSES)
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="What to call the copy; - for the standard output.")
@click.option(
    "-d",
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="Where the copies go.",
)
@transferOptions
@click.pass_context
def get(context: click.Context, /, urls: Sequence[str], output: str | None, directory: Path, **given: Any) -> None:
    """
    Fetch files.

    A file stands under its name when it is complete and its checksum right; until then, and if it never is, what was
    there before stays.
    """
    options = TransferOptions(**given)
    jobs = [(text, options.url(text)) for text in urls]
    if output is not None and len(jobs) > 1:
        raise click.UsageError("-o names one file, and there are several URLs (try -d)")
    try:
        for _, url in jobs:
            if knownScheme(url).named:
                _ = url.name
            elif output is None:
                raise UrlError(f"{url.scheme}:// names no file; say what to call the copy (-o)")
        targets = [output or str(directory / url.base) for _, url in jobs]
    except UrlError as error:
        raise click.UsageError(str(error)) from error
    if len(set(targets)) < len(targets):
        raise click.UsageError("two of these files would have the same name")
    if output not in (None, "-") and directory != Path():
        targets = [str(directory / target) for target in targets]
    display = Display("get", options.quiet, options.json, options.sha256 == "", options.verbose)
    reactor = commandReactor(context)
    limit = DeferredSemaphore(AT_ONCE)

    def getOne(text: str, url: Url, target: str) -> Deferred[Result]:
        watcher = display.watcher(reactor.seconds, target if len(jobs) > 1 else "")
        return Deferred.fromCoroutine(_get(reactor, text, url, target, options, display, watcher))

    async def getAll() -> int:
        files = zip(jobs, targets, strict=True)
        return await _status([limit.run(getOne, text, url, target) for (text, url), target in files])

    with display.live():
        status = runUntil(reactor, lambda: Deferred.fromCoroutine(getAll()))
    context.exit(status)


async def _get(
    reactor: IClientReactor,
    text: str,
    url: Url,
    target: str,
    options: TransferOptions,
    display: Display,
    watcher: Watcher | None,
) -> Result:
    result = Result(text, target)
    sink: PartialFile | OutputStream | None = None
    try:
        with ExitStack() as opened:
            sink = _open(target, opened)
            opened.callback(sink.abort)
            progress = display.progress(target if target != "-" else text)
            policy, requested = options.policy(), options.requested
            result.succeeded(await fetch(reactor, url, sink, requested, policy, progress, options.bind, watcher))
            if options.sha256 is not None:
                result.sha256 = sink.sha256()
            if options.sha256 and options.sha256 != result.sha256:
                result.mismatched(options.sha256)
            else:
                sink.commit()
    except (TransferError, UrlError, OSError) as error:
        result.failed(error, "the standard output")
    display.showResult(result, toStdout=target == "-")
    return result


def _open(target: str, opened: ExitStack) -> PartialFile | OutputStream:
    """
    Return the sink of a fetched file: one that replaces a regular file at the end, or one that writes to a device.
    """
    if target == "-":
        return OutputStream(sys.stdout.buffer)
    path = Path(target)
    if path.exists() and not path.is_file():
        return OutputStream(opened.enter_context(path.open("wb")))
    return PartialFile(path)


@click.command(cls=ChecksumCommand, epilog=STATUSES)
@click.argument("file", metavar="FILE")
@click.argument("url", metavar="URL")
@transferOptions
@click.pass_context
def put(context: click.Context, /, file: str, url: str, **given: Any) -> None:
    """
    Send a file; - is the standard input.

    If the URL ends in a slash the file keeps its name.
    """
    options = TransferOptions(**given)
    target = options.url(url)
    try:
        if file != "-" and re.fullmatch(r"(.*/)?(;mode=\w+)?", target.path):
            head, mode, tail = target.path.partition(";mode=")
            target = replace(target, path=head + quote(Path(file).name) + mode + tail)
        _ = target.name
    except UrlError as error:
        raise click.UsageError(f"{url}: {error}") from error
    if knownScheme(target).upload is None:
        raise click.UsageError(f"{target.scheme}:// has no writes")
    display = Display("put", options.quiet, options.json, options.sha256 == "", options.verbose)
    reactor = commandReactor(context)

    async def putOne() -> int:
        return await _status([Deferred.fromCoroutine(_put(reactor, url, target, file, options, display))])

    with display.live():
        status = runUntil(reactor, lambda: Deferred.fromCoroutine(putOne()))
    context.exit(status)


async def _put(
    reactor: IClientReactor, text: str, url: Url, file: str, options: TransferOptions, display: Display
) -> Result:
    result = Result(text, file)
    try:
        with ExitStack() as opened:
            source = _source(file, opened)
            if options.sha256 is not None:
                result.sha256 = checksum(source)
            if options.sha256 and options.sha256 != result.sha256:
                result.mismatched(options.sha256)
            else:
                number, size = _wireOctets(source, url.mode, opened)
                result.succeeded(
                    await send(
                        reactor,
                        url,
                        size,
                        lambda offset, length: os.pread(number, length, offset),
                        options.requested,
                        options.policy(),
                        display.progress(file),
                        options.bind,
                        display.watcher(reactor.seconds),
                    )
                )
    except (TransferError, UrlError, OSError) as error:
        result.failed(error, "the standard input")
    display.showResult(result)
    return result


def _source(file: str, opened: ExitStack) -> io.BufferedIOBase:
    """Return an open file that can be read at any offset: a temporary copy where the source cannot."""
    if file == "-":
        return _copied(sys.stdin.buffer, bytes, opened)
    source = opened.enter_context(Path(file).open("rb"))  # noqa: SIM115
    return source if source.seekable() else _copied(source, bytes, opened)


def _wireOctets(source: io.BufferedIOBase, mode: str, opened: ExitStack) -> tuple[int, int]:
    """Return (a descriptor of a file with the octets that go on the wire, how many there are)."""
    source.seek(0)
    if mode == "netascii":
        source = _copied(source, encode, opened)
    return source.fileno(), os.fstat(source.fileno()).st_size


def _copied(
    source: BinaryIO | io.BufferedIOBase, convert: Callable[[bytes], bytes], opened: ExitStack
) -> io.BufferedIOBase:
    """Return a temporary copy of an open file, converted piece by piece."""
    copy = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    while data := source.read(PIECE):
        copy.write(convert(data))
    copy.flush()
    copy.seek(0)
    return copy


async def _status(transfers: Sequence[Deferred[Result]]) -> int:
    """Return the exit status of all transfers, once the last port is closed."""
    try:
        results = await gatherResults(transfers, consumeErrors=True)
    except FirstError as error:
        # click ends in its way where nobody reads standard output any more, and knows the error itself only.
        error.subFailure.raiseException()
    for result in results:
        if result.closed is not None:
            await result.closed
    return max(result.status for result in results)


def commandReactor(context: click.Context) -> ICommandReactor:
    """Return the reactor, imported no earlier than here; a test passes its own as the object of the context."""
    if isinstance(context.obj, dict) and "reactor" in context.obj:
        return cast(ICommandReactor, context.obj["reactor"])
    from twisted.internet import reactor

    useMonotonicClock(IReactorTime(reactor))
    return cast(ICommandReactor, reactor)


def runUntil(reactor: IReactorCore, begin: Callable[[], Deferred[int]]) -> int:
    """
    Run the reactor until the work that C{begin} starts is done.

    @return: the result of the work; 130: a signal has stopped the reactor first, and the work was cancelled.
    """
    ended: list[int | Failure] = []
    running: list[Deferred[int]] = []

    def end(result: int | Failure) -> None:
        ended.append(result)
        if running:
            reactor.stop()

    def start() -> None:
        work = begin()
        running.append(work)
        work.addBoth(end)

    def interrupted() -> None:
        if not ended:
            running.pop().cancel()
            ended[:] = [INTERRUPTED]

    reactor.callWhenRunning(start)
    reactor.addSystemEventTrigger("before", "shutdown", interrupted)
    reactor.run()
    (result,) = ended
    if isinstance(result, Failure):
        result.raiseException()
    return result
