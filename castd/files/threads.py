"""
Run functions that wait for a disk outside the reactor's thread.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from typing import Generic, NoReturn, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from castd.errors import Unanswered
from castd.net.faults import logFault
from castd.slices import SLICE

T = TypeVar("T")

_log = Logger(namespace="castd")

#: The most threads that wait for one directory at once.
MOST_THREADS = 8
#: The most requests that wait for one directory at once; beyond that a request is dropped.
MOST_AWAITED = 256
#: A thread without work ends after so many seconds.
IDLE = 10.0
#: Where the system has no thread, the next try to start one is made after so many seconds.
START_AGAIN = 1.0


class RunInThread(Protocol):
    """
    Runs a function in a thread, as L{DiskThreads}; C{maybeDeferred} in a test.

    If the Deferred is cancelled the function is not run, or its result is lost.
    """

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]: ...


def asDeferred(value: T | Deferred[T]) -> Deferred[T]:
    """Return a Deferred of a value that may be one already."""
    return value if isinstance(value, Deferred) else succeed(value)


class Waiters(Generic[T]):
    """
    Holds all who wait for one result.  Who gives up, by cancelling its Deferred, is forgotten: a disk may hang for
    hours, and be asked about all the time.
    """

    def __init__(self) -> None:
        self._waiting: dict[Deferred[T], None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self) -> Deferred[T]:
        """Return a Deferred that fires with the result."""
        waiting: Deferred[T] = Deferred(self._forget)
        self._waiting[waiting] = None
        return waiting

    def _forget(self, waiting: Deferred[T]) -> None:
        self._waiting.pop(waiting, None)

    def fire(self, result: T | Failure) -> None:
        """Give the result, or the failure, to all who wait."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            if not each.called:
                each.callback(result)


def whenAll(waited: Iterable[Deferred[T]]) -> Deferred[None]:
    """
    Return a Deferred that fires when all of these have fired, with whatever.  If it is cancelled they are, too, which
    is no fault of anybody.
    """
    return DeferredList(list(waited), consumeErrors=True).addCallback(lambda _: None)


def allWithin(waited: Iterable[Deferred[None]], seconds: float, clock: IReactorTime) -> Deferred[None]:
    """Return a Deferred that fires when all of these have fired, but after so many seconds at the latest."""
    everything = whenAll(waited)
    if not everything.called:
        everything.addTimeout(seconds, clock, lambda *_: None)
    return everything


class WaitingRequests:
    """Bounds how many requests wait for the disk of one directory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._count = 0

    def run(self, ask: Callable[[], Deferred[T]], discard: Callable[[T], object]) -> Deferred[T]:
        """
        Begin what waits for the disk, which goes on to its end also if nobody waits for its result any more.

        @param discard: called with the result in that case.
        @raise Unanswered: too many requests wait for this disk.
        """
        return self._begin(ask, discard, Deferred())

    def call(self, thread: RunInThread, function: Callable[[], T], discard: Callable[[T], object]) -> Deferred[T]:
        """
        Call a function in a thread, as L{run}, unless nobody waits for its result any more when its turn comes.

        @raise Unanswered: too many requests wait for this disk.
        """
        asked: Deferred[T] = Deferred()

        def callWanted() -> T:
            if asked.called:
                raise CancelledError
            return function()

        return self._begin(partial(thread, callWanted), discard, asked)

    def _begin(self, ask: Callable[[], Deferred[T]], discard: Callable[[T], object], asked: Deferred[T]) -> Deferred[T]:
        if self._count >= MOST_AWAITED:
            raise Unanswered(why=f"{MOST_AWAITED} requests wait for the disk of {self._path}")
        self._count += 1
        ask().addBoth(self._answered, asked, discard)
        return asked

    def _answered(self, result: T | Failure, asked: Deferred[T], discard: Callable[[T], object]) -> None:
        self._count -= 1
        if not asked.called:
            asked.callback(result)
        elif not isinstance(result, Failure):
            discard(result)


def callWithin(seconds: float, function: Callable[[], T]) -> T:
    """
    Call a function in a thread, and wait for its result, but not for long.

    @raise TimeoutError: it takes longer.  It goes on, and its result is lost.
    @raise BlockingIOError: no thread can be started.
    """
    results: SimpleQueue[Callable[[], T]] = SimpleQueue()

    def work() -> None:
        try:
            # Without a name for it: the thread would keep what it has found, such as an open directory, for a moment.
            results.put(partial(_found, function()))
        except BaseException as error:
            results.put(partial(_raise, error))

    try:
        Thread(target=work, name="castd-disk", daemon=True).start()
    except (RuntimeError, MemoryError):
        raise _noThread() from None
    try:
        return results.get(timeout=seconds)()
    except Empty:
        raise TimeoutError(errno.ETIMEDOUT, "the disk does not answer") from None


def _noThread() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "no thread can be started for its disk (TasksMax, ulimit -u, memory)")


def _found(result: T) -> T:
    return result


def _raise(error: BaseException) -> NoReturn:
    raise error


class DiskThreads:
    """
    A few threads for one directory.  A disk that does not answer keeps them busy, and nobody else's.

    The functions begin in the order in which they were given.  Nothing waits for the threads: neither a stop of the
    reactor nor the end of the process.  Where the system has no thread (C{TasksMax} of a unit, no memory), a function
    waits until there is one.
    """

    def __init__(self, most: int = MOST_THREADS, waits: bool = True) -> None:
        """
        @param most: the most threads; each is made when there is work for it.
        @param waits: L{False}: where the system has no thread, and none runs here, a function is not called, and fails
            with C{BlockingIOError}; for what somebody asks for who can be told.
        """
        self._most = most
        self._waits = waits
        self._jobs: deque[Callable[[], Callable[[], object]]] = deque()
        # What fires the Deferreds of functions that are done; and whether the reactor is to call L{_deliver}.
        self._results: deque[Callable[[], object]] = deque()
        self._delivers = False
        self._changed = Condition()
        self._threads = self._idle = 0
        self._triesLater = False

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]:
        """Run a function in one of the threads.  -> a Deferred of its result, which fires in the reactor's thread."""
        fired: Deferred[T] = Deferred()
        with self._changed:
            self._jobs.append(partial(_run, function, fired))
            fault = self._provide()
            if fault is not None and not self._waits and not self._threads:
                self._jobs.pop()
                return fail(_noThread())
        if fault is not None:
            self._provideLater(fault)
        return fired

    def _provide(self) -> Failure | None:
        """Wake a thread for the functions that wait, or start one.  -> why none can be started."""
        if len(self._jobs) <= self._idle or self._threads >= self._most:
            self._changed.notify()
            return None
        try:
            Thread(target=self._work, name="castd-disk", daemon=True).start()
        except (RuntimeError, MemoryError):
            # Those that run take the function when they have time.
            return Failure()
        self._threads += 1
        return None

    def _provideLater(self, fault: Failure) -> None:
        """Try again later to start a thread."""
        from twisted.internet import reactor

        if not self._triesLater:
            self._triesLater = True
            _log.failure("no thread can be started for a disk", fault, event="fault")
            IReactorTime(reactor).callLater(START_AGAIN, self._provideAgain)

    def _provideAgain(self) -> None:
        """Start the threads that could not be started: one for each function that waits, or a slow one keeps all."""
        self._triesLater = False
        fault: Failure | None = None
        with self._changed:
            for _ in range(len(self._jobs)):
                fault = fault or self._provide()
        if fault is not None:
            self._provideLater(fault)

    def _work(self) -> None:
        while (job := self._nextJob()) is not None:
            self._hand(job())
            # Until the next one comes the thread must not keep what the function refers to.
            del job

    def _hand(self, result: Callable[[], object]) -> None:
        """Have a result delivered in the reactor's thread."""
        with self._changed:
            self._results.append(result)
            waits, self._delivers = self._delivers, True
        if not waits:
            self._deliverLater()

    def _deliverLater(self) -> None:
        # Imported here: whoever imports castd need not have chosen the reactor yet.
        from twisted.internet import reactor

        with suppress(OSError):
            # The call is queued; if the reactor cannot be woken, it is made with the next event.
            IReactorFromThreads(reactor).callFromThread(self._deliver)

    def _deliver(self) -> None:
        """
        Deliver results, in one slice: the reactor makes all calls that are queued in one turn, and what a result leads
        to may take a millisecond.
        """
        until = time.monotonic() + SLICE
        while (result := self._nextResult()) is not None:
            try:
                result()
            except BaseException:
                logFault("a result of a thread could not be delivered")
            if time.monotonic() >= until:
                self._deliverLater()
                return

    def _nextResult(self) -> Callable[[], object] | None:
        with self._changed:
            self._delivers = bool(self._results)
            return self._results.popleft() if self._results else None

    def _nextJob(self) -> Callable[[], Callable[[], object]] | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._jobs, IDLE)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            return None


def _run(function: Callable[[], T], fired: Deferred[T]) -> Callable[[], object]:
    """
    Call a function in a thread, unless nobody waits for its result any more.

    @return: what fires the Deferred, to be called in the reactor's thread.
    """
    if fired.called:
        return bool
    try:
        result: T | Failure = function()
    except BaseException:
        result = Failure()
    return partial(fired.callback, result)
