"""
How long a full socket is left alone, wherever castd sends.
"""

from __future__ import annotations

import errno

#: Errors of a full socket or a full queue of the interface: the datagram was not sent and can be sent later.  With
#: every other error of a send it counts as lost on its way.
FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM})

#: Seconds between the first refusal and the next try, and the most that doubling makes of them.
FIRST_REST, LONGEST_REST = 0.005, 0.08


def isFull(error: OSError) -> bool:
    """-> whether this error of a send says that the socket is full."""
    return isinstance(error, BlockingIOError) or error.errno in FULL


class Backoff:
    """
    The time between two tries at a socket that stays full; doubled with each refusal.  Whoever got something sent
    starts with a new one.

    @ivar seconds: how long to wait since the last refusal; 0 before the first.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def refused(self) -> float:
        """Lengthen the wait, since the socket was full.  -> C{seconds}."""
        self.seconds = min(self.seconds * 2 or FIRST_REST, LONGEST_REST)
        return self.seconds
