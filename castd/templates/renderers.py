"""
Have templates rendered by other processes, which are killed when they take too long.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from castd.errors import Unanswered, reasonOf
from castd.templates.messages import LARGEST, LARGEST_TEXT, LENGTH, LENGTHS, MEMORY_STATUS, FileVersion, Job, Rendered

#: Processes at once; each is started when there is work for it, and ends after a minute without any.
MOST_PROCESSES = 2
#: Jobs that wait at once; beyond that a request is dropped.
MOST_QUEUED = 256
#: Seconds that a job waits for a process: as long as a request waits for its file.  Each process may be held up for
#: longer, by a disk that does not answer and that not even SIGKILL ends a call to.
MOST_WAITED = 30.0
#: Seconds that the start of a process may take.
START_TIMEOUT = 20.0


class Render(Protocol):
    """Renders templates; see L{Renderers.render}."""

    def __call__(self, source: object, job: Job, seconds: float, memory: int) -> Deferred[Rendered]: ...


@dataclass(eq=False)
class _Queued:
    """
    A job that waits, or runs.

    @ivar expiry: the end of its wait for a process; L{None}: it has one.
    @ivar returned: a process has ended without having begun it.
    """

    source: object
    job: Job
    seconds: float
    memory: int
    done: Deferred[Rendered]
    expiry: IDelayedCall | None = None
    returned: bool = False

    def fail(self, why: str) -> None:
        """Say that the template could not be rendered."""
        self.done.callback({"text": None, "fault": f"{self.job['template']}: {why}", "files": []})


class RenderProcess(ProcessProtocol):
    """
    One process that renders, and the job that it has.

    @ivar memory: octets that it may use.
    """

    transport: IProcessTransport

    def __init__(
        self,
        memory: int,
        clock: IReactorTime,
        idle: Callable[[], object],
        ended: Callable[[_Queued | None], object],
    ) -> None:
        """
        @param idle: called when it can take a job.
        @param ended: called when the process has ended, with the job that another one is to do.
        """
        self.memory = memory
        self.source: object = None
        self._clock, self._idle, self._exited = clock, idle, ended
        self._queued: _Queued | None = None
        self._ready = self._over = False
        self._buffer = bytearray()
        self._timer: IDelayedCall | None = None

    @property
    def free(self) -> bool:
        """Whether it can take a job: it has none, and was not killed."""
        return self._queued is None and not self._over

    def connectionMade(self) -> None:
        """Wait until the process says that it is ready."""
        self._watch(START_TIMEOUT, "its process has not started")

    def begin(self, queued: _Queued) -> None:
        """Give the process a job, which it begins when it is ready."""
        self._queued, self.source = queued, queued.source
        if self._ready:
            self._say(queued)

    def _say(self, queued: _Queued) -> None:
        octets = json.dumps(queued.job).encode()
        self._watch(queued.seconds, f"takes more than {queued.seconds:g} s")
        self.transport.write(LENGTH.pack(len(octets)) + octets)

    def _watch(self, seconds: float, why: str) -> None:
        self._unwatch()
        self._timer = self._clock.callLater(seconds, self.kill, why)

    def _unwatch(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def kill(self, why: str = "") -> None:
        """
        Kill the process, if it has not ended, and fail its job.  The job does not wait for the end of the process: one
        that waits for a disk may not end before the disk answers.
        """
        self._unwatch()
        self._over = True
        queued, self._queued = self._queued, None
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(signal.SIGKILL)
        if queued is not None:
            queued.fail(why)

    def outReceived(self, data: bytes) -> None:
        """Take a part of an answer; of a process that was killed nothing is taken any more."""
        if self._over:
            return
        self._buffer += data
        if len(self._buffer) < LENGTHS.size:
            return
        length, textLength = LENGTHS.unpack_from(self._buffer)
        if length > LARGEST or textLength > LARGEST_TEXT:
            self.kill("answers more than it may")
            return
        end = LENGTHS.size + length
        if len(self._buffer) < end + textLength:
            return
        # It says nothing that it was not asked: the first answer is the only one.
        answer, self._buffer = self._buffer, bytearray()
        self._received(answer[LENGTHS.size : end], answer[end : end + textLength])

    def _received(self, message: bytearray, text: bytearray) -> None:
        self._unwatch()
        if not self._ready:
            self._ready = True
            if self._queued is not None:
                self._say(self._queued)
            return
        try:
            rendered = _unpacked(message, text)
        except (ValueError, RecursionError):
            self.kill("answers what cannot be read")
            return
        queued, self._queued = self._queued, None
        if queued is not None:
            queued.done.callback(rendered)
        self._idle()

    def processEnded(self, reason: Failure) -> None:
        """Give back the job that it had, or fail it."""
        self._unwatch()
        self._over = True
        queued, self._queued = self._queued, None
        # It ends by itself when it has had no work for so long (child.IDLE).  What was written to it at that moment was
        # not read.
        if queued is not None and isinstance(reason.value, ProcessDone) and not queued.returned:
            queued.returned = True
            self._exited(queued)
            return
        self._exited(None)
        if queued is not None:
            queued.fail(self._howEnded(reason))

    def _howEnded(self, reason: Failure) -> str:
        error = reason.value
        if isinstance(error, ProcessTerminated) and error.exitCode == MEMORY_STATUS:
            return f"needs more than {self.memory >> 20} MiB"
        return f"its process has ended: {error}"


def _unpacked(message: bytearray, text: bytearray) -> Rendered:
    """
    Return an answer, from its JSON and its text.

    @raise ValueError: it is none.
    @raise RecursionError: it is none: nested more deeply than can be read.
    """
    match json.loads(message):
        case {"text": str() | None as result, "fault": str() | None as fault, "files": [*files]}:
            pass
        case _:
            raise ValueError("no answer")
    versions = list[FileVersion]()
    for each in files:
        match each:
            case [str() as path, int() as inode, int() as size, int() as changed, int() as touched]:
                versions.append((path, inode, size, changed, touched))
            case _:
                raise ValueError("no version of a file")
    return {"text": None if result is None else text.decode(), "fault": fault, "files": versions}


class Renderers:
    """
    Renders templates in a few processes.  Of one source one job runs at a time, so that a template that takes too long
    delays those of other sources by nothing.
    """

    def __init__(self, clock: IReactorTime, spawn: Callable[[RenderProcess], IProcessTransport]) -> None:
        """@param spawn: starts a process."""
        self._clock, self._spawn = clock, spawn
        self._processes: list[RenderProcess] = []
        self._queue: list[_Queued] = []

    def render(self, source: object, job: Job, seconds: float, memory: int) -> Deferred[Rendered]:
        """
        Render a template.

        @param source: jobs with the same one run one after the other.
        @param seconds: the process is killed if it takes longer.
        @param memory: octets that the process may use.
        @return: fires with the result or a fault; fails with Unanswered: too many wait, no process was free for
            L{MOST_WAITED} seconds, or none can be started now.  One of these happens, whatever becomes of processes.
        """
        if len(self._queue) >= MOST_QUEUED:
            return fail(Unanswered(why=f"{MOST_QUEUED} templates wait to be rendered"))
        queued = _Queued(source, job, seconds, memory, Deferred())
        self._await(queued, len(self._queue))
        self._next()
        return queued.done

    def _await(self, queued: _Queued, place: int) -> None:
        """Let a job wait for a process."""
        self._queue.insert(place, queued)
        queued.expiry = self._clock.callLater(MOST_WAITED, self._expire, queued)

    def _expire(self, queued: _Queued) -> None:
        self._queue.remove(queued)
        queued.done.errback(Unanswered(why=f"no process was free to render its template for {MOST_WAITED:g} s"))

    def _next(self) -> None:
        """Begin each job that can begin.  Who is told of one may ask for the next: the queue may change with each."""
        while (queued := self._startable()) is not None:
            self._queue.remove(queued)
            if queued.expiry is not None and queued.expiry.active():
                queued.expiry.cancel()
            try:
                process = self._processFor(queued.memory)
            except OSError as error:
                # What waits is tried later, one by one: no process calls when it is free if there is none.
                self._clock.callLater(0, self._next)
                why = f"no process can be started to render its template: {reasonOf(error)}"
                queued.done.errback(Unanswered(why=why))
                return
            process.begin(queued)

    def _startable(self) -> _Queued | None:
        """Return the first job whose source has no process, if one is free or can be started."""
        running = [each.source for each in self._processes if not each.free]
        if len(running) >= MOST_PROCESSES:
            return None
        return next((each for each in self._queue if not any(each.source is source for source in running)), None)

    def _processFor(self, memory: int) -> RenderProcess:
        """Return a free process, started now if there is none with this limit."""
        free = [each for each in self._processes if each.free]
        for each in free:
            if each.memory == memory:
                return each
        if len(self._processes) >= MOST_PROCESSES and free:
            self._processes.remove(free[0])
            free[0].kill()
        made = RenderProcess(memory, self._clock, self._next, lambda returned: self._ended(made, returned))
        self._spawn(made)
        self._processes.append(made)
        return made

    def _ended(self, process: RenderProcess, returned: _Queued | None) -> None:
        if process in self._processes:
            self._processes.remove(process)
        if returned is not None:
            self._await(returned, 0)
        self._clock.callLater(0, self._next)


def spawn(process: RenderProcess) -> IProcessTransport:
    """Start a process that renders, with the interpreter and the modules of this one, and with no other descriptors."""
    # Imported here: whoever imports castd need not have chosen the reactor yet.
    from twisted.internet import reactor

    environ = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ.get("PATH", os.defpath)}
    argv = [sys.executable, "-P", "-B", "-X", "utf8", "-m", "castd.templates.child", str(process.memory)]
    descriptors: dict[int, int | str] = {0: "w", 1: "r", 2: 2}
    started = IReactorProcess(reactor).spawnProcess(process, argv[0], argv, environ, "/", childFDs=descriptors)
    transport: IProcessTransport = started
    return transport
