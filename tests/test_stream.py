"""
A log that nobody reads: nobody waits for it, what is lost is counted and told, and what is read is whole.
"""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

import pytest

from castd.observe import stream
from castd.observe.format import asText
from castd.observe.stream import LineStream
from castd.observe.writer import LineWriter

LINE = "x" * 99 + "\n"


class Pipe:
    """
    A pipe whose other end a test reads when it likes.

    @ivar text: the end that is written to.
    """

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.text: TextIO = os.fdopen(writing, "w")

    def read(self) -> str:
        """Return all that is in the pipe."""
        found = []
        try:
            while piece := os.read(self.reading, 1 << 16):
                found.append(piece)
        except BlockingIOError:
            pass
        return b"".join(found).decode()

    def close(self) -> None:
        os.close(self.reading)
        self.text.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture(params=["opened anew", "of somebody else"])
def lines(request: pytest.FixtureRequest, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> Iterator[LineStream]:
    """Writes to the pipe, which may be one that cannot be opened anew."""
    with monkeypatch.context() as patch:
        if request.param == "of somebody else":

            def refuse(*_: object) -> int:
                raise PermissionError(13, "Permission denied")

            patch.setattr(os, "open", refuse)
        made = LineStream(pipe.text)
    yield made
    made.close()


def filled(lines: LineStream) -> int:
    """Write until no more is taken.  -> how many lines were."""
    count = 0
    while lines.write(LINE):
        count += 1
        assert count < 100_000
    return count


def test_nobodyReads(lines: LineStream, pipe: Pipe) -> None:
    """A full pipe costs lines, which are counted, and hardly any time, however many there are."""
    taken = filled(lines)
    assert taken >= stream.PIPE_SIZE // 200
    began = time.monotonic()
    for _ in range(5000):
        assert not lines.write(LINE)
    assert time.monotonic() - began < 20
    assert lines.lost == 5001
    assert set(pipe.read().splitlines(keepends=True)) <= {LINE, LINE[: stream.PIECE]}


def test_readAgain(lines: LineStream, pipe: Pipe) -> None:
    """Once it is read again lines are written again, and no line is torn."""
    taken = filled(lines)
    before = pipe.read()
    assert lines.write("next\n")
    whole = (before + pipe.read()).splitlines()
    assert whole[:taken] == [LINE[:-1]] * taken
    assert whole[-1] == "next"
    assert set(whole) == {LINE[:-1], "next"}


def test_longLines(lines: LineStream, pipe: Pipe) -> None:
    """A line that is longer than a pipe takes at once is whole as well, be it in pieces."""
    long = "y" * 300_000 + "\n"
    assert lines.write(long)
    found = pipe.read()
    while len(found) < len(long):
        lines.write("z\n")
        found += pipe.read()
    assert found.startswith(long)


@pytest.mark.slow
def test_aSlowReader(lines: LineStream, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is late by a moment loses nothing."""
    monkeypatch.setattr(stream, "PATIENCE", 5.0)
    found: list[str] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            found.append(pipe.read())
            time.sleep(0.001)
        found.append(pipe.read())

    reader = threading.Thread(target=read)
    reader.start()
    assert all(lines.write(LINE) for _ in range(30_000))
    over.set()
    reader.join()
    assert "".join(found) == LINE * 30_000


def test_theFlagIsNotShared(pipe: Pipe) -> None:
    """The open file of others stays as it was: a shell's terminal is not made non-blocking."""
    lines = LineStream(pipe.text)
    assert not fcntl.fcntl(pipe.text.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK
    lines.close()


def test_lostIsTold(pipe: Pipe) -> None:
    """The next line that is taken says how many were lost before it."""
    lines = LineStream(pipe.text)
    observe = LineWriter(lines, asText)

    def event(text: str) -> dict[str, Any]:
        return {"log_format": "{text}", "text": text, "event": "x", "log_time": 1e9, "log_namespace": "castd"}

    while not lines.lost:
        observe(event("x" * 2000))
    for _ in range(9):
        observe(event("lost"))
    pipe.read()
    observe(event("last"))
    observe(event("and one more"))
    told = [line.partition("] ")[2] for line in pipe.read().splitlines()]
    assert "10 lines before this one were lost: nobody has read the log, or its disk was full" in told
    assert told[-2:] == ["last", "and one more"]
    lines.close()


def test_nobodyThere(pipe: Pipe) -> None:
    """A pipe whose reader has gone costs lines and nothing else."""
    lines = LineStream(pipe.text)
    os.close(pipe.reading)
    pipe.reading = os.open(os.devnull, os.O_RDONLY)
    for _ in range(3):
        assert not lines.write(LINE)
    assert lines.lost == 3
    lines.close()


def test_aSocket() -> None:
    """A stream socket, as systemd gives it, is not waited for either, and its flag is not changed."""
    ours, theirs = socket.socketpair()
    with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as text:
        lines = LineStream(text)
        taken = filled(lines)
        assert taken > 100
        assert ours.getblocking()
        assert theirs.recv(1 << 20).startswith(LINE.encode())


def test_aHeldTerminal() -> None:
    """A terminal whose output is held by Ctrl-S does not hold the server."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as text:
        lines = LineStream(text)
        termios.tcflow(slave, termios.TCOOFF)
        began = time.monotonic()
        for _ in range(3000):
            lines.write(LINE)
        assert time.monotonic() - began < 20
        assert lines.lost > 0
        termios.tcflow(slave, termios.TCOON)
        lines.close()
        os.close(master)


# Several lines at once.


@pytest.mark.parametrize("room", [0, 1, 250, 3999, 4000, 4001])
def test_manyAtOnce(pipe: Pipe, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many lines a pipe takes what fits; one that it has taken in part goes on when it takes more, the rest not."""
    monkeypatch.setattr(stream, "PATIENCE", 0.0)
    log = LineStream(pipe.text)
    taken, write = [0], log._write

    def some(octets: bytes) -> int:
        fitting = octets[: room - taken[0]]
        if not fitting:
            raise BlockingIOError
        taken[0] += len(fitting)
        return write(fitting)

    log._write = some
    lines = [f"{number:03}" + LINE[3:] for number in range(40)]
    done = log.writeMany(lines)
    assert done == min(40, -(-room // 100))
    assert log.lost == 0
    log._write = write
    assert log.write("last\n")
    assert pipe.read() == "".join(lines[:done]) + "last\n"


def test_manyInPieces(pipe: Pipe) -> None:
    """
    A pipe gets no more lines with one call than it takes whole or not at all, so that no other process writes into a
    line; and each call has the patience that a line has.
    """
    log = LineStream(pipe.text)
    sizes, write = list[int](), log._write

    def slow(octets: bytes) -> int:
        if not sizes or sizes[-1]:
            sizes.append(0)
            raise BlockingIOError
        sizes[-1] = len(octets)
        return write(octets)

    log._write = slow
    long = "x" * 5000 + "\n"
    assert log.writeMany([LINE] * 100 + [long, LINE]) == 102
    assert sizes == [4000, 4000, 2000, 5001, 100]
    assert pipe.read() == LINE * 100 + long + LINE


def test_manyBehindAPart(pipe: Pipe) -> None:
    """Behind a line that was taken in part nothing is written at once: that line comes first."""
    log = LineStream(pipe.text)
    log._rest = b"rest\n"
    assert log.writeMany([LINE, LINE]) == 0
    assert log.write(LINE)
    assert log.writeMany([LINE, LINE]) == 2
    assert pipe.read() == "rest\n" + LINE * 3


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_manyToASocket(kind: socket.SocketKind) -> None:
    """A stream gets many lines at once; where each line is a datagram of its own, that stays so."""
    reading, writing = socket.socketpair(socket.AF_UNIX, kind)
    with reading, writing, os.fdopen(os.dup(writing.fileno()), "w") as text:
        log = LineStream(text)
        assert log.writeMany([LINE, LINE]) == (2 if kind == socket.SOCK_STREAM else 0)
        assert log.write(LINE)
        assert reading.recv(1000).decode() == LINE * (3 if kind == socket.SOCK_STREAM else 1)
