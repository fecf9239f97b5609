"""Programs that a test starts: their output in a file, their end by pid, and never one left behind."""

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
    """Something that had to happen did not happen in time."""


def eventually(look: Callable[[], T], what: str, seconds: float, every: float = 0.02) -> T:
    """
    Ask until the answer is true.

    @return: that answer.
    @raise Late: if there was none within C{seconds}; the text says that C{what} was waited for.
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


class Job:
    """
    A started program, which is a need.  Both of its outputs are in one file, read at any time by L{text}.

    @ivar started: when, by the monotonic clock, in seconds.
    """

    def __init__(self, argv: Sequence[str], log: Path, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.argv, self.log = needed(argv), log
        self.started = time.monotonic()
        with log.open("wb") as out:
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
        """Write to its standard input."""
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


@contextmanager
def running(*command: str | Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """castd in a process of its own, from the sources that the tests belong to; it is ended in any case."""
    with subprocess.Popen(
        [sys.executable, "-u", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[str], words: str) -> str:
    """-> the line with these words."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return line
    raise AssertionError("".join(said))


def free(*kinds: socket.SocketKind) -> list[int]:
    """-> numbers of ports of the loopback interface that nobody has, one of each kind."""
    with ExitStack() as probes:
        found = [probes.enter_context(socket.socket(socket.AF_INET, kind)) for kind in kinds]
        for probe in found:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in found]
