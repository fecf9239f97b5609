"""
Bursts through real sockets: what leaves in one call arrives as the datagrams that it was.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from castd.net.gso import PAUSE, SegmentOption, sendBurst

pytestmark = pytest.mark.loopback


@pytest.fixture
def ways() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender, and where it sends to."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        there.bind(("127.0.0.1", 0))
        there.settimeout(2)
        here.connect(there.getsockname())
        yield here, there


def lengths(there: socket.socket, count: int) -> list[int]:
    return [len(there.recv(65535)) for _ in range(count)]


def test_longerThanTheSegmentsBefore(ways: tuple[socket.socket, socket.socket]) -> None:
    """A single datagram that is longer than the segments of the burst before it is not cut to their length."""
    here, there = ways
    bursts = SegmentOption(here, 1500)
    assert sendBurst(bursts, here.send, b"a" * 250, 100) == 250
    assert sendBurst(bursts, here.send, b"b" * 101, 101) == 101
    assert sendBurst(bursts, here.send, b"c" * 303, 101) == 303
    assert lengths(there, 7) == [100, 100, 50, 101, 101, 101, 101]


def test_oneByOneAfterABurst(ways: tuple[socket.socket, socket.socket]) -> None:
    """An image that no single call can take goes out datagram by datagram, each of them whole."""
    here, there = ways
    bursts = SegmentOption(here, 1500)
    sendBurst(bursts, here.send, b"a" * 20, 10)
    assert sendBurst(bursts, here.send, b"b" * 4000, 2000) == 4000
    assert lengths(there, 4) == [10, 10, 2000, 2000]


class Path:
    """
    A way that carries no segments for now: a buffer that is longer than one datagram is refused with this errno.

    @ivar tried: how many such buffers there were.
    """

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.socket, self.number, self.tried = sock, number, 0

    def send(self, image: Any) -> int:
        if len(image) > 100:
            self.tried += 1
            if self.number:
                raise OSError(self.number, "refused")
        return self.socket.send(image)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EMSGSIZE])
def test_aSmallerMtuOnTheWay(ways: tuple[socket.socket, socket.socket], number: int) -> None:
    """Segments that are too large for the path go out as datagrams; now and then segments are tried again."""
    here, there = ways
    path, bursts = Path(here, number), SegmentOption(here, 1500)
    for _ in range(PAUSE + 1):
        assert sendBurst(bursts, path.send, b"a" * 250, 100) == 250
        assert lengths(there, 3) == [100, 100, 50]
    assert path.tried == 1
    path.number = 0
    assert sendBurst(bursts, path.send, b"a" * 250, 100) == 250
    assert lengths(there, 3) == [100, 100, 50]
    assert path.tried == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.EOPNOTSUPP])
def test_aKernelThatCannot(ways: tuple[socket.socket, socket.socket], number: int) -> None:
    """A kernel that cannot segment is asked once."""
    here, there = ways
    path, bursts = Path(here, number), SegmentOption(here, 1500)
    for _ in range(2 * PAUSE):
        assert sendBurst(bursts, path.send, b"a" * 250, 100) == 250
        assert lengths(there, 3) == [100, 100, 50]
    assert path.tried == 1


class Full:
    """A socket that takes so many calls, and is full then, or fails."""

    def __init__(self, sock: socket.socket, room: int, error: OSError | None = None) -> None:
        self.socket, self.room, self.taken = sock, room, [0]
        self.error = error or BlockingIOError()

    def send(self, image: Any) -> int:
        if len(self.taken) > self.room:
            raise self.error
        self.taken.append(len(image))
        return self.socket.send(image)


#: A window of 64 usual blocks, the last one short, and how many octets of it one call takes.
WINDOW, STEP, PART = bytes(range(256)) * 367, 1472, 44 * 1472


def test_aWindowThatNoCallTakes(ways: tuple[socket.socket, socket.socket]) -> None:
    """A window of more octets than the kernel takes in a call leaves by two, as the datagrams that it was."""
    here, there = ways
    path = Full(here, 2)
    assert sendBurst(SegmentOption(here, 1500), path.send, memoryview(WINDOW), STEP) == len(WINDOW)
    assert path.taken == [0, PART, len(WINDOW) - PART]
    heard = [there.recv(65535) for _ in range(64)]
    assert heard == [WINDOW[at : at + STEP] for at in range(0, len(WINDOW), STEP)]


@pytest.mark.parametrize("error", [BlockingIOError(), OSError(errno.ENOBUFS, "full"), OSError(errno.ENETDOWN, "down")])
def test_aWindowSentInPart(ways: tuple[socket.socket, socket.socket], error: OSError) -> None:
    """If only the first call succeeds, so many octets were sent; if none does, it is as with one call."""
    here, _ = ways
    assert sendBurst(SegmentOption(here, 1500), Full(here, 1, error).send, memoryview(WINDOW), STEP) == PART
    if isinstance(error, BlockingIOError):
        assert sendBurst(SegmentOption(here, 1500), Full(here, 0, error).send, memoryview(WINDOW), STEP) == 0
    else:
        with pytest.raises(OSError, match=str(error.strerror)):
            sendBurst(SegmentOption(here, 1500), Full(here, 0, error).send, memoryview(WINDOW), STEP)
