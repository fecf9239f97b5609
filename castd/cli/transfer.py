"""
C{castd get} and C{castd put}: files fetched and sent from the command line.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from castd.cli.display import INTERRUPTED, Display, Result
from castd.cli.options import STATUSES, ChecksumCommand, TransferOptions, common
from castd.client.client import fetch, scheme, send
from castd.client.output import PIECE, OutputStream, PartialFile, checksum
from castd.client.report import TransferError
from castd.client.urls import Url, UrlError
from castd.packets.netascii import encode

#: How many files are under way at the same time.
AT_ONCE = 8


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
@common
@click.pass_context
def get(context: click.Context, /, urls: Sequence[str], output: str | None, directory: Path, **given: Any) -> None:
    """
    Fetch files.

    A file stands under its name when it is complete and its checksum right; until then, and if it never is, what was
    there before stays.
    """
    choices = TransferOptions(**given)
    jobs = [(text, choices.address(text)) for text in urls]
    if output is not None and len(jobs) > 1:
        raise click.UsageError("-o names one file, and there are several URLs (try -d)")
    try:
        for _, url in jobs:
            if scheme(url).named:
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
    show = Display("get", choices.quiet, choices.json, choices.sha256 == "")

    async def work(reactor: Any) -> int:
        turns = DeferredSemaphore(AT_ONCE)

        def one(text: str, url: Url, target: str) -> Deferred[Result]:
            return Deferred.fromCoroutine(_get(reactor, text, url, target, choices, show))

        files = zip(jobs, targets, strict=True)
        return await _all([turns.run(one, text, url, target) for (text, url), target in files])

    with show.alive():
        status = drive(_reactor(context), work)
    context.exit(status)


async def _get(reactor: Any, text: str, url: Url, target: str, choices: TransferOptions, show: Display) -> Result:
    result = Result(text, target)
    sink: PartialFile | OutputStream | None = None
    try:
        with ExitStack() as opened:
            sink = _open(target, opened)
            opened.callback(sink.abort)
            progress = show.progress(target if target != "-" else text)
            result.fill(await fetch(reactor, url, sink, choices.requested, choices.policy(), progress))
            if choices.sha256 is not None:
                result.sha256 = sink.sha256()
            if choices.sha256 and choices.sha256 != result.sha256:
                result.mismatch(choices.sha256)
            else:
                sink.commit()
    except (TransferError, UrlError, OSError) as error:
        result.failed(error)
    show.result(result, toStdout=target == "-")
    return result


def _open(target: str, opened: ExitStack) -> PartialFile | OutputStream:
    """A regular file is replaced when the new one is complete; into a pipe or device one can only write."""
    if target == "-":
        return OutputStream(sys.stdout.buffer)
    path = Path(target)
    if path.exists() and not path.is_file():
        return OutputStream(opened.enter_context(path.open("wb")))
    return PartialFile(path)


@click.command(cls=ChecksumCommand, epilog=STATUSES)
@click.argument("file", metavar="FILE")
@click.argument("url", metavar="URL")
@common
@click.pass_context
def put(context: click.Context, /, file: str, url: str, **given: Any) -> None:
    """
    Send a file; - is the standard input.

    If the URL ends in a slash the file keeps its name.
    """
    choices = TransferOptions(**given)
    address = choices.address(url)
    try:
        if file != "-" and re.fullmatch(r"(.*/)?(;mode=\w+)?", address.path):
            head, mode, tail = address.path.partition(";mode=")
            address = replace(address, path=head + quote(Path(file).name) + mode + tail)
        _ = address.name
    except UrlError as error:
        raise click.UsageError(f"{url}: {error}") from error
    if scheme(address).upload is None:
        raise click.UsageError(f"{address.scheme}:// has no writes")
    show = Display("put", choices.quiet, choices.json, choices.sha256 == "")

    async def work(reactor: Any) -> int:
        return await _all([Deferred.fromCoroutine(_put(reactor, url, address, file, choices, show))])

    with show.alive():
        status = drive(_reactor(context), work)
    context.exit(status)


async def _put(reactor: Any, text: str, url: Url, file: str, choices: TransferOptions, show: Display) -> Result:
    result = Result(text, file)
    try:
        with ExitStack() as opened:
            source = _source(file, opened)
            if choices.sha256 is not None:
                result.sha256 = checksum(source)
            if choices.sha256 and choices.sha256 != result.sha256:
                result.mismatch(choices.sha256)
            else:
                number, size = _wired(source, url.mode, opened)
                result.fill(
                    await send(
                        reactor,
                        url,
                        size,
                        lambda offset, length: os.pread(number, length, offset),
                        choices.requested,
                        choices.policy(),
                        show.progress(file),
                    )
                )
    except (TransferError, UrlError, OSError) as error:
        result.failed(error)
    show.result(result)
    return result


def _source(file: str, opened: ExitStack) -> Any:
    """-> a file that can be read at any place; what cannot is copied."""
    given = sys.stdin.buffer if file == "-" else opened.enter_context(Path(file).open("rb"))  # noqa: SIM115
    if given.seekable() and file != "-":
        return given
    return _copied(given, bytes, opened)


def _wired(source: Any, mode: str, opened: ExitStack) -> tuple[int, int]:
    """-> (a descriptor of the octets that go on the wire, how many they are)."""
    source.seek(0)
    if mode == "netascii":
        source = _copied(source, encode, opened)
    return source.fileno(), os.fstat(source.fileno()).st_size


def _copied(source: Any, change: Callable[[bytes], bytes], opened: ExitStack) -> Any:
    kept = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    while data := source.read(PIECE):
        kept.write(change(data))
    kept.flush()
    kept.seek(0)
    return kept


async def _all(running: Sequence[Deferred[Result]]) -> int:
    """-> the status of all of them, when the last port is closed."""
    results: list[Result] = await gatherResults(running, consumeErrors=True)
    for result in results:
        if result.closed is not None:
            await result.closed
    return max(result.status for result in results)


def _reactor(context: click.Context) -> Any:
    """The reactor, imported as late as can be; a test gives its own as the context's object."""
    if isinstance(context.obj, dict) and "reactor" in context.obj:
        return context.obj["reactor"]
    from twisted.internet import reactor

    return reactor


def drive(reactor: Any, main: Callable[[Any], Coroutine[Any, Any, int]]) -> int:
    """
    Run the reactor until this is done.

    @return: its result; 130 if the reactor was stopped before, by a signal: it is cancelled then.
    """
    ended: list[Any] = []
    running: list[Deferred[Any]] = []

    def end(result: Any) -> None:
        ended.append(result)
        if running:
            reactor.stop()

    def begin() -> None:
        task = Deferred.fromCoroutine(main(reactor))
        running.append(task)
        task.addBoth(end)

    def interrupted() -> None:
        if not ended:
            task = running.pop()
            task.cancel()
            ended[:] = [INTERRUPTED]

    reactor.callWhenRunning(begin)
    reactor.addSystemEventTrigger("before", "shutdown", interrupted)
    reactor.run()
    (result,) = ended
    if isinstance(result, int):
        return result
    return result.raiseException()  # type: ignore[no-any-return]
