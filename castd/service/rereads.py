"""
Read the service file again for all who ask for it, and put it in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from castd.config.config import Config
from castd.config.plugin import Collected
from castd.errors import ConfigError, Unanswered, Unavailable, firstFaults
from castd.files.content import Directory
from castd.files.threads import RunInThread, WaitingRequests
from castd.files.uploads import UploadDirectory
from castd.interfaces import ISite
from castd.observe.history import History
from castd.observe.sdnotify import ServiceWatch
from castd.service.build import Components, ServiceFileRead, readInThread

T = TypeVar("T")

_log = Logger(namespace="castd")

#: A reload that takes so many seconds to read the service file and to open its history is given up; C{castd reload}
#: waits a little longer.
REREAD_TIMEOUT = 25.0


@dataclass
class PreparedDisks:
    """
    What a service file needs of disks beside its directories: its history, and the folder of its recorder.

    @ivar history: the history that was opened; L{None}: the one in use stays.
    @ivar faults: what cannot be used.
    """

    history: History | None = None
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """
        Return a context whose ConfigError is kept for L{raiseFaults}: of the admin ports and the log files it is told
        first, of the ports of transports last.
        """
        try:
            yield
        except ConfigError as error:
            self.faults += error.faults

    def raiseFaults(self) -> None:
        """@raise Unavailable: something cannot be used; with all faults."""
        if self.faults:
            raise Unavailable(*self.faults)

    def discard(self) -> None:
        """Close what was opened, as the file does not come into force, and log what has another name since."""
        history, self.history = self.history, None
        if history is not None:
            history.tellPutAside()
            history.store.close()


class Reloadable(Protocol):
    """
    Describes what is needed of a server.

    @ivar file: the absolute path of the service file.
    @ivar draining: no new requests are taken.
    @ivar thread: runs what reads the service file.
    @ivar watch: notifies the service manager.
    """

    file: Path
    draining: bool
    thread: RunInThread
    watch: ServiceWatch

    @property
    def site(self) -> ISite:
        """The site, whose clock counts."""

    def refusesReload(self) -> str | None:
        """Return why no file is put in force now; L{None}: one may be."""

    def directoriesInUse(self) -> Mapping[BaseModel, Directory | UploadDirectory]:
        """Return the directories that are served and written to, by their options."""

    def beginReload(self, file: ServiceFileRead) -> tuple[Components, Iterator[None]]:
        """
        Return what a service file names, and the steps that make it.

        @raise ConfigError: by a step: it cannot be made.
        """

    def prepareDisks(self, config: Config) -> PreparedDisks:
        """
        Open the history of a service file, and look at the folder of its recorder.  In a thread: a disk may not answer,
        and who opens the history waits for those who write to it.
        """

    def reload(self, components: Components, prepared: PreparedDisks) -> None:
        """
        Put a service file in force.

        @raise ConfigError: it cannot be; nothing has changed, and what was prepared is discarded.
        """


class Rereads:
    """
    Reads the service file of a server again, once at a time.

    It is read and checked in a thread: a large file takes seconds, and a disk may not answer.  What it names is made in
    slices: thousands of transports, templates and rules take seconds as well.  Only then what the file needs of other
    disks is opened, in a thread again.
    """

    def __init__(self, server: Reloadable, collected: Collected) -> None:
        self._server = server
        self._collected = collected
        self._waiting: list[Deferred[tuple[str, ...]]] = []
        self._disk = WaitingRequests(str(server.file))

    def ask(self) -> Deferred[tuple[str, ...]]:
        """
        Read the service file and put it in force; on any fault everything stays as it was.

        If it is being read already it is read once more afterwards, since it may have changed meanwhile.

        @return: fires with the faults, as for a start; an empty tuple: the file is in force.
        """
        answer: Deferred[tuple[str, ...]] = Deferred()
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._read()
        return answer

    def _read(self) -> None:
        """Read the file for all who have asked until now."""
        asked, server = len(self._waiting), self._server
        why = server.refusesReload()
        if why is not None:
            self._done((why,), asked)
            return
        server.watch.notifier.reloading()
        until = server.site.reactor.seconds() + REREAD_TIMEOUT
        Deferred.fromCoroutine(self._reread(until)).addErrback(self._faults).addCallback(self._ended, asked)

    async def _reread(self, until: float) -> tuple[str, ...]:
        """
        Read the file, make what it names, and put it in force.  -> why not.

        The history comes last: to open it may give the file in its place another name.

        @param until: the instant at which a disk is given up.
        """
        server = self._server
        inUse, seconds = server.directoriesInUse(), server.site.reactor.seconds
        read = partial(readInThread, server.file, self._collected, inUse, seconds)
        file = await self._inThread(read, lambda _: None, until, "cannot be read")
        if (why := server.refusesReload()) is not None:
            return (why,)
        pause = server.site.slices.pauses()
        components, steps = server.beginReload(file)
        for _ in steps:
            if (waiting := pause()) is not None:
                await waiting
                # A stop or an upgrade may have begun meanwhile: it is not held up by what is not made yet.
                if (why := server.refusesReload()) is not None:
                    return (why,)
        prepare = partial(server.prepareDisks, file.config)
        # What has begun when it is given up is not put in force: what was opened for that is closed.
        prepared = await self._inThread(prepare, PreparedDisks.discard, until, "history or recorder cannot be used")
        with ExitStack() as undo:
            undo.callback(prepared.discard)
            if (why := server.refusesReload()) is not None:
                return (why,)
            server.reload(components, prepared)
            undo.pop_all()
        _log.info("{file} is in force", event="reloaded", file=str(server.file))
        return ()

    def _inThread(
        self, function: Callable[[], T], discard: Callable[[T], object], until: float, unable: str
    ) -> Deferred[T]:
        """
        Call a function in the thread.

        @return: fails with L{Unavailable}, and this text, if no thread can do that, or none has at that instant.
        """
        calling = maybeDeferred(self._disk.call, self._server.thread, function, discard)
        if not calling.called:
            reactor = self._server.site.reactor
            calling.addTimeout(max(0.0, until - reactor.seconds()), reactor)
        return calling.addErrback(self._unable, unable)

    def _unable(self, failure: Failure, unable: str) -> Failure:
        if isinstance(failure.value, BlockingIOError):
            why = failure.value.strerror
        elif failure.check(TimeoutError):
            why = f"it has taken longer than {REREAD_TIMEOUT:.0f} s"
        elif failure.check(Unanswered):
            why = str(failure.value)
        else:
            return failure
        return Failure(Unavailable(f"{self._server.file}: {unable}: {why}"))

    def _faults(self, failure: Failure) -> tuple[str, ...]:
        if isinstance(failure.value, ConfigError):
            return firstFaults(failure.value.faults)
        _log.failure("a reload failed", failure, event="fault")
        return ("a fault of castd or of a plugin, see the log",)

    def _ended(self, faults: tuple[str, ...], asked: int) -> None:
        """Tell the service manager that what it was told to begin has ended, and all others how."""
        if not self._server.draining:
            self._server.watch.ready()
        self._done(faults, asked)

    def _done(self, faults: tuple[str, ...], asked: int) -> None:
        for nth, fault in enumerate(faults, 1):
            form = "{file} is refused ({nth} of {count}): {fault}"
            told = {"file": str(self._server.file), "fault": fault, "nth": nth, "count": len(faults)}
            _log.error(form, event="refused-reload", **told)
        self._answer(faults, asked)

    def _answer(self, faults: tuple[str, ...], asked: int) -> None:
        """Answer those who have asked first, and read the file again for those who have asked since."""
        answered, self._waiting = self._waiting[:asked], self._waiting[asked:]
        for each in answered:
            each.callback(faults)
        if self._waiting:
            self._read()
