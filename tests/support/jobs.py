"""Runs programs for a test: output goes to a file, programs are ended by pid, and none is left running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from tests.support.needs import needed

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

GRACE = 5.0
"""Seconds a program has between SIGTERM and SIGKILL."""

LEASHED = ("setpriv", "--pdeathsig", "KILL")
"""Whatever is started dies with the test run, even where that is killed and cannot clean up."""


class Late(AssertionError):
    """The error that a condition did not become true in time."""


def eventually(look: Callable[[], T], what: str, seconds: float, every: float = 0.02) -> T:
    """
    Call C{look} until its result is true.

    @return: that result.
    @raise Late: no result was true within C{seconds}; the text names C{what} was waited for.
    """
    end = time.monotonic() + seconds
    while not (answer := look()):
        if time.monotonic() > end:
            raise Late(f"waited {seconds:g} s for {what}")
        time.sleep(every)
    return answer


class Done(NamedTuple):
    """A program that has ended: its exit status, both its outputs, and the seconds until its end was seen."""

    code: int
    text: str
    seconds: float


@contextmanager
def heedingInterrupts() -> Iterator[None]:
    """
    Have programs that are started here end by SIGINT, as from a terminal.  A shell that runs the tests in the
    background has them ignore it, and a program inherits that.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        # With a handler, and not by default: Ctrl-C at the shell must not end the tests before they have cleaned up.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if before is signal.SIG_IGN:
            signal.signal(signal.SIGINT, before)


class Job:
    """
    A started program, which is a need.  Both of its outputs are in one file, read at any time by L{text}.

    @ivar started: when, by the monotonic clock, in seconds.
    """

    def __init__(self, argv: Sequence[str], log: Path, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.argv, self.log = needed(argv), log
        self.started = time.monotonic()
        with log.open("wb") as out, heedingInterrupts():
            self.process = subprocess.Popen(
                [*needed(LEASHED), *self.argv],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=True,  # a Ctrl-C is for the test run, which then ends its programs in their order
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def say(self, text: str) -> None:
        """Write to the standard input of the program."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def until(self, text: str, seconds: float, since: int = 0) -> str:
        """
        Wait for a text in the output.

        @param since: skip as many characters of the output.
        @return: the output so far.
        @raise Late: if it has not come in time, or the program has ended without it.
        """

        def look() -> str:
            ended = self.process.poll() is not None
            seen = self.text()
            if text in seen[since:]:
                return seen
            if ended:
                raise Late(f"{self.argv[0]} ended with {self.process.returncode} before {text!r}:\n{seen[-2000:]}")
            return ""

        try:
            return eventually(look, repr(text), seconds)
        except Late as late:
            raise Late(f"{late}; the output was:\n{self.text()[-2000:]}") from None

    def finish(self, seconds: float) -> Done:
        """
        Wait for its end.

        @raise Late: if it still ran after C{seconds}; it has been killed then.
        """
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end(signal.SIGKILL)
            raise Late(f"{' '.join(self.argv)} ran for more than {seconds:g} s:\n{self.text()[-2000:]}") from None
        return Done(code, self.text(), time.monotonic() - self.started)

    def end(self, with_: signal.Signals = signal.SIGTERM, grace: float = GRACE) -> int:
        """
        Signal it, and kill it if it is still there after C{grace} seconds.

        @return: the exit status, negative for a signal.
        """
        if self.process.poll() is None:
            self.process.send_signal(with_)
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def atOnce(jobs: Sequence[Job], seconds: float) -> None:
    """
    Let programs begin in one moment that say C{ready} when they have been loaded and then wait for a line: a busy
    machine loads one of several seconds after another.

    @raise Late: if one is not ready in time.
    """
    for job in jobs:
        job.until("ready", seconds)
    for job in jobs:
        job.say("go\n")


@contextmanager
def running(*command: str | Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run castd in a process, from the sources that the tests belong to, and end it on leaving the context."""
    with heedingInterrupts():
        started = subprocess.Popen(
            [sys.executable, "-u", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        )
    with started as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[str], words: str) -> str:
    """Read the output up to the line with these words.  -> that line."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return line
    raise AssertionError("".join(said))


def free(*kinds: socket.SocketKind) -> list[int]:
    """Return numbers of free ports of the loopback interface, one of each kind."""
    with ExitStack() as probes:
        found = [probes.enter_context(socket.socket(socket.AF_INET, kind)) for kind in kinds]
        for probe in found:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in found]
