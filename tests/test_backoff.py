"""A full socket is left alone for 5 ms, then twice as long each time up to 80 ms; other errors are not "full"."""

import errno

import pytest

from castd.net.backoff import Backoff, isFull


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
