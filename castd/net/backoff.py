"""
Compute how long to wait before the next send, after a socket was full.
"""

from __future__ import annotations

import errno

#: Errors of a full socket or a full queue of the interface: the datagram was not sent and can be sent later.  After any
#: other error of a send it counts as lost on its way.
FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM})

#: Seconds from the first refusal to the next try, and the most seconds between two tries.
FIRST_REST, LONGEST_REST = 0.005, 0.08


def isFull(error: OSError) -> bool:
    """Return whether this error of a send says that the socket is full."""
    return isinstance(error, BlockingIOError) or error.errno in FULL


class Backoff:
    """
    Computes the time between two tries while a socket stays full: it is doubled with each refusal.  After a successful
    send a new object is used.

    @ivar seconds: how long to wait after the last refusal; 0 before the first.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def refused(self) -> float:
        """Make the wait longer, since the socket was full.  -> C{seconds}."""
        self.seconds = min(self.seconds * 2 or FIRST_REST, LONGEST_REST)
        return self.seconds
