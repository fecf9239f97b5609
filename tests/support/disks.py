"""
Provides directories whose disks a test holds in its hand, or waits for in its own thread, and a user to whom
permissions matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from castd.files.content import Directory
from castd.files.netascii import NetasciiConverter
from castd.files.uploads import UploadDirectory


class Later:
    """A thread that runs when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def __call__(self, job: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.jobs.append(lambda: maybeDeferred(job, *args).chainDeferred(done))
        return done

    def run(self, most: float = float("inf")) -> None:
        """Run so many functions, and those that they lead to."""
        while self.jobs and most > 0:
            self.jobs.pop(0)()
            most -= 1


class LateResults(Later):
    """A thread that runs at once, whose results are there when it is told to run."""

    def __call__(self, job: Callable[..., Any], *args: Any) -> Deferred[Any]:
        found = maybeDeferred(job, *args)
        return super().__call__(lambda: found)


def result(asked: Any) -> Any:
    """Return the result of a Deferred that has fired, and what is no Deferred as it is; an error is raised."""
    if not isinstance(asked, Deferred):
        return asked
    results = list[Any]()
    asked.addBoth(results.append)
    (found,) = results
    if isinstance(found, Failure):
        found.raiseException()
    return found


class HereDirectory(Directory):
    """A directory with C{maybeDeferred} for its threads: what it cannot answer at once has been answered, too."""

    def lookup(self, name: str, peer: Any) -> Any:
        return result(super().lookup(name, peer))

    def lookupFor(self, name: str, machine: Any) -> Any:
        return result(super().lookupFor(name, machine))


class HereUploads(UploadDirectory):
    """
    An upload directory whose C{begin} returns the upload at once.  If its thread is a L{Later}, it runs what this
    upload asks of it, and nothing else.
    """

    def beginFor(self, name: str, machine: Any, size: int | None) -> Any:
        thread: Any = self.uploads.thread
        if not isinstance(thread, Later):
            return result(super().beginFor(name, machine, size))
        before, thread.jobs = thread.jobs, []
        begun = super().beginFor(name, machine, size)
        thread.run()
        thread.jobs = before
        return result(begun)


def inThisThread(site: Any) -> None:
    """Have all directories of a site wait for their disks in this thread."""
    site._converter = NetasciiConverter(maybeDeferred)
    sinks = [directory for chain in site.sinks.values() for directory in chain.directories]
    for directory in site.content.sources:
        directory.thread = directory.background = directory.beyond = maybeDeferred
    for directory in sinks:
        directory.uploads.thread = maybeDeferred


@contextmanager
def nobody() -> Iterator[None]:
    """Run as somebody to whom permissions matter."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
