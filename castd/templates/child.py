"""
Renders templates, as a process of its own that may be killed: C{python -m castd.templates.child MEMORY}.

Standard input carries jobs, standard output answers, as L{castd.templates.messages} has them.  An empty answer is sent
when the process is ready; then each job is answered by one.  Everything that a template can do is bounded here, but for
its time by the clock, which the other process watches.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from contextlib import suppress
from math import ceil
from typing import BinaryIO

from castd.templates.messages import LENGTH, MEMORY_STATUS, Job, packed

#: Seconds without a job until the process ends.
IDLE = 60.0
#: Seconds on a processor that a job may take: as many as a service file can allow it by the clock.
MOST_SECONDS = 60
#: The largest value that the kernel takes (proc_pid_oom_score_adj(5)).
_FIRST_TO_END = 1000


def main() -> None:
    """Render what is asked for, until there is nothing more."""
    # A service manager may tell all processes of castd to stop.  castd would take the end of this one for a fault of
    # the template, and refuse what waits for it with an ERROR.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    endFirst()
    limit(int(sys.argv[1]))
    from castd.templates.rendering import Rendering

    rendering = Rendering()
    # What a library prints must not get between the messages.
    output, sys.stdout = sys.stdout.buffer, sys.stderr
    _send(output, packed({"text": None, "fault": None, "files": []}))
    while (job := _receive(sys.stdin.buffer)) is not None:
        limitTime()
        try:
            _send(output, packed(rendering.render(job)))
        except MemoryError:
            os._exit(MEMORY_STATUS)


def endFirst() -> None:
    """Have the kernel end this process, and not the server, where memory is short: the server needs more of it."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as own:
        own.write(str(_FIRST_TO_END))


def limitTime() -> None:
    """Bound the time on a processor that the next job may take: castd, which watches it, may have ended meanwhile."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    allowed = ceil(used.ru_utime + used.ru_stime) + MOST_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (allowed if hard == resource.RLIM_INFINITY else min(allowed, hard), hard))


def limit(memory: int) -> None:
    """Bound what this process may use: octets of memory, no files written, no other process."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        _, hard = resource.getrlimit(what)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def _send(output: BinaryIO, octets: bytes) -> None:
    output.write(octets)
    output.flush()


def _receive(source: BinaryIO) -> Job | None:
    """Return the next job; L{None}: there is none."""
    ready, _, _ = select.select([source], [], [], IDLE)
    length = source.read(LENGTH.size) if ready else b""
    if len(length) < LENGTH.size:
        return None
    job: Job = json.loads(source.read(LENGTH.unpack(length)[0]))
    return job


if __name__ == "__main__":
    main()
