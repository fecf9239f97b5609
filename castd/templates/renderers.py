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
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from castd.errors import Unanswered
from castd.templates.messages import LARGEST, LENGTH, MEMORY_STATUS, Job, Rendered

#: Processes at once; each is started when there is work for it, and ends after a minute without any.
MOST_PROCESSES = 2
#: Jobs that wait at once; beyond that a request is dropped.
MOST_QUEUED = 256
#: Seconds that the start of a process may take.
START_TIMEOUT = 20.0


class Render(Protocol):
    """Renders templates; see L{Renderers.render}."""

    def __call__(self, source: object, job: Job, seconds: float, memory: int) -> Deferred[Rendered]: ...


class _Queued(NamedTuple):
    """
    A job that waits, or runs.

    @ivar returned: a process has ended without having begun it.
    """

    source: object
    job: Job
    seconds: float
    memory: int
    done: Deferred[Rendered]
    returned: bool = False


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
        self._buffer = b""
        self._timer: IDelayedCall | None = None
        self._why = ""

    @property
    def free(self) -> bool:
        """Whether it has no job."""
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
        self._timer = self._clock.callLater(seconds, self._kill, why)

    def _unwatch(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _kill(self, why: str) -> None:
        self._why = why
        self.kill()

    def kill(self) -> None:
        """Kill the process, if it has not ended."""
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(signal.SIGKILL)

    def outReceived(self, data: bytes) -> None:
        """Take a part of a message."""
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > LARGEST:
                self._kill("answers more than it may")
                return
            if len(self._buffer) < LENGTH.size + length:
                return
            message = self._buffer[LENGTH.size : LENGTH.size + length]
            self._buffer = self._buffer[LENGTH.size + length :]
            self._received(message)

    def _received(self, message: bytes) -> None:
        self._unwatch()
        if not self._ready:
            self._ready = True
            if self._queued is not None:
                self._say(self._queued)
            return
        queued, self._queued = self._queued, None
        if queued is not None:
            queued.done.callback(json.loads(message))
        self._idle()

    def processEnded(self, reason: Failure) -> None:
        """Give back the job that it had, or fail it."""
        self._unwatch()
        self._over = True
        queued, self._queued = self._queued, None
        if queued is not None and self._hasLeft(reason) and not queued.returned:
            self._exited(queued._replace(returned=True))
            return
        self._exited(None)
        if queued is not None:
            text = f"{queued.job['template']}: {self._why or self._howEnded(reason)}"
            queued.done.callback({"text": None, "fault": text, "files": []})

    def _hasLeft(self, reason: Failure) -> bool:
        """
        Return whether the process has ended by itself: it had no work for so long (C{child.IDLE}).  A job that was
        written to it at that moment was not read.
        """
        return not self._why and isinstance(reason.value, ProcessDone)

    def _howEnded(self, reason: Failure) -> str:
        error = reason.value
        if isinstance(error, ProcessTerminated) and error.exitCode == MEMORY_STATUS:
            return f"needs more than {self.memory >> 20} MiB"
        return f"its process has ended: {error}"


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
        @return: fires with the result or a fault; fails with Unanswered: too many wait.
        """
        if len(self._queue) >= MOST_QUEUED:
            return fail(Unanswered(why=f"{MOST_QUEUED} templates wait to be rendered"))
        done: Deferred[Rendered] = Deferred()
        self._queue.append(_Queued(source, job, seconds, memory, done))
        self._next()
        return done

    def _next(self) -> None:
        """Begin each job that can begin."""
        running = [each.source for each in self._processes if not each.free]
        for queued in tuple(self._queue):
            if len(running) >= MOST_PROCESSES:
                return
            if any(queued.source is each for each in running):
                continue
            self._queue.remove(queued)
            running.append(queued.source)
            try:
                self._processFor(queued.memory).begin(queued)
            except OSError as error:
                text = f"{queued.job['template']}: no process can be started: {error.strerror}"
                queued.done.callback({"text": None, "fault": text, "files": []})

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
            self._queue.insert(0, returned)
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
