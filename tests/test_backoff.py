"""A full socket is left alone for 5 ms, then twice as long each time up to 80 ms; other errors are not "full"."""

import errno
from typing import Any

import pytest

from castd.net.backoff import Backoff, isFull
from castd.request import Peer
from castd.server.sender import MOST_KEPT, SendQueue


def test_doubles() -> None:
    """The wait is doubled with each refusal and bounded."""
    backoff = Backoff()
    assert backoff.seconds == 0
    assert [backoff.refused() for _ in range(6)] == [0.005, 0.01, 0.02, 0.04, 0.08, 0.08]
    assert backoff.seconds == 0.08


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM])
def test_full(code: int) -> None:
    """The errors of a full socket and of a full queue."""
    assert isFull(OSError(code, "full"))


def test_notFull() -> None:
    """A BlockingIOError without a number is full, too; a lost way or a closed port is not."""
    assert isFull(BlockingIOError())
    assert not isFull(OSError(errno.ENETUNREACH, "no way"))
    assert not isFull(ConnectionRefusedError(errno.ECONNREFUSED, "closed"))


class Full:
    """A protocol whose socket takes nothing."""

    name = "tftp"
    full = 0

    def __init__(self) -> None:
        self.transport: Any = self

    def write(self, datagram: bytes, address: Peer) -> None:
        raise BlockingIOError

    def peerUnreachable(self, peer: Peer) -> None:
        """Do nothing."""


def test_whatIsKept() -> None:
    """What a full socket does not take is kept in its order, up to a bound; then the oldest count as lost."""
    queue, full = SendQueue(), Full()
    for number in range(MOST_KEPT + 10):
        queue.put(full, b"%d" % number, ("10.0.0.9", number))
    assert [address[1] for _, address in queue.kept] == list(range(10, 10 + MOST_KEPT))
