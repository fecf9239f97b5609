"""
Opens the history that the service file asks for, exchanges it in a reload, and closes it at the end.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.config.config import Config, HistoryOptions
from castd.errors import Unavailable
from castd.files.threads import RunInThread
from castd.observe.eventstore import FILE, MEMORY, Found, Query, Store
from castd.observe.history import History, Identify

_log = Logger(namespace="castd")

#: Seconds that a stop waits for the disk.
PATIENCE = 2.0


@implementer(ILogObserver)
class Histories:
    """
    The history of one server: an observer of the log.

    @ivar thread: runs what waits for a disk; the default, for a virtual reactor, runs it at once.
    @ivar identify: finds out which machine has an address, for a history in a file: it is called in the thread.
    @ivar stateDirectory: systemd's C{STATE_DIRECTORY}, where the file lies if the service file gives no path for it.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self.thread: RunInThread = maybeDeferred
        self.stateDirectory: str | None = None
        self.identify: Identify = lambda _: {}
        self._reactor = reactor
        self._options: HistoryOptions | None = None
        self._history: History | None = None
        self._closing: set[History] = set()
        self._lost = 0  # by those that are closed

    def __call__(self, event: LogEvent) -> None:
        if self._history is not None:
            self._history(event)

    @property
    def path(self) -> str | None:
        """The file; L{None}: there is none."""
        return None if self._history is None else self._history.store.path

    @property
    def lost(self) -> int:
        """How many events could not be kept since the start."""
        lost: int = self._lost + sum(each.lost for each in self._closing)
        return lost if self._history is None else lost + self._history.lost

    @property
    def pendingCalls(self) -> int:
        """How many delayed calls of the reactor wait until events are written."""
        return 0 if self._history is None else self._history.pendingCalls

    def open(self, config: Config) -> None:
        """
        Open the history that the service file asks for, unless one is open already.

        @raise Unavailable: its file cannot be opened.
        """
        if self._history is None:
            self.replace(self.prepare(config), config)

    def prepare(self, config: Config) -> History | None:
        """
        Open the history that a service file asks for, for L{replace}.

        @return: L{None}: the one that is open stays.
        @raise Unavailable: its file cannot be opened.
        """
        options = config.history
        if self._history is not None and options == self._options:
            return None
        folder = (self.stateDirectory or "").partition(":")[0]
        path = options.path or (Path(folder, FILE) if folder else None)
        if path is None:
            store = Store(None, options.age, min(options.size, MEMORY))
            # In a thread, too: it waits for no disk, but to find what has failed last takes as long as from a file.
            return History(self._reactor, self.thread, store)
        try:
            store = Store(str(path), options.age, options.size)
        except OSError as error:
            raise Unavailable(f"{config.tree.where(('history', 'path'))}: {path}: {error.strerror}") from None
        return History(self._reactor, self.thread, store, self.identify)

    def replace(self, history: History | None, config: Config) -> None:
        """Use this history from now on, and close the one before; L{None}: nothing changes."""
        if history is None:
            return
        before, self._history, self._options = self._history, history, config.history
        if before is not None:
            self._closing.add(before)
            before.close().addErrback(_closingFailed).addCallback(self._closed, before)
        history.tellOfFile()

    def _closed(self, _: None, history: History) -> None:
        """Keep what a history has counted, without its file."""
        self._closing.discard(history)
        self._lost += history.lost

    def find(self, query: Query) -> Deferred[list[Found]]:
        """Return what was asked for; see L{History.find}."""
        return succeed([]) if self._history is None else self._history.find(query)

    def close(self) -> Deferred[None]:
        """Have everything written and the file closed, if the disk answers in time."""
        history, self._history = self._history, None
        if history is None:
            return succeed(None)
        return history.close().addTimeout(PATIENCE, self._reactor).addErrback(_closingFailed)


def _closingFailed(failure: Failure) -> None:
    """Log that the last events may be missing in the history; the file itself is whole."""
    if failure.check(TimeoutError):
        _log.warn("the disk of the history does not answer; its last events are lost", event="unkept")
    else:
        _log.failure("the history was not closed", failure, event="fault")
