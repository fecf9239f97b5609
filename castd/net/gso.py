"""
Bursts: many datagrams by one call, where kernel and path allow it.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

from castd.net.sockets import attempt

_UDP_SEGMENT: Final = 103
#: The kernel's limits for one call with UDP_SEGMENT; 64 segments on older ones.
MOST_SEGMENTS, MOST_OCTETS = 64, 65507
#: What the kernel answers when it will not segment: for good, so it is not asked again.
UNSEGMENTED: Final = frozenset({errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP})


class GsoSender:
    """
    Sends images of many datagrams by one call, where kernel and path allow it.
    """

    def __init__(self, made: socket.socket, mtu: int) -> None:
        self._socket = made
        self._step = 0
        self.possible = True
        # A segment and its headers must fit the MTU: the kernel does not fragment segments.
        self._largest = mtu - (28 if made.family == socket.AF_INET else 48)

    def mtu(self, mtu: int) -> None:
        """The socket is used on another path now."""
        self._largest = mtu - (28 if self._socket.family == socket.AF_INET else 48)
        self.off()
        self.possible = True

    def whole(self, octets: int) -> None:
        """A datagram of this size is to leave in one piece, whatever was sent before it."""
        if self._step and octets > self._step:
            attempt(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
            self._step = 0

    def fits(self, octets: int, step: int) -> bool:
        """-> whether this image may go by one call."""
        return self.possible and step <= self._largest and octets <= MOST_OCTETS and octets <= MOST_SEGMENTS * step

    def prepare(self, step: int) -> bool:
        """-> whether the socket cuts what it is given into C{step} octets now."""
        if self._step != step:
            if not attempt(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, step):
                self.possible = False
                return False
            self._step = step
        return True

    def reset(self, possible: bool) -> None:
        """
        What the socket cuts into is unknown: somebody else had it, or has it still.

        @param possible: it is ours alone.  If not it must not cut: that holds for all who have the socket.
        """
        attempt(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
        self._step = 0
        self.possible = possible

    def off(self) -> None:
        """The kernel has refused; from now on datagram by datagram."""
        self.possible = False
        if self._step:
            attempt(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
            self._step = 0


def sendBurst(bursts: GsoSender, send: Any, image: Any, step: int) -> int:
    """
    Send an image, by one call if that is possible, else datagram by datagram.

    @param send: takes a buffer; raises OSError.
    @return: octets taken.
    @raise OSError: for reasons other than a full socket, if nothing was taken.
    """
    octets = len(image)
    if octets <= step:
        bursts.whole(octets)
        try:
            send(image)
        except BlockingIOError:
            return 0
        return octets
    if bursts.fits(octets, step) and bursts.prepare(step):
        try:
            send(image)
            return octets
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in UNSEGMENTED:
                raise
            bursts.off()
    bursts.whole(step)
    for start in range(0, octets, step):
        try:
            send(image[start : start + step])
        except OSError as error:
            if start == 0 and not isinstance(error, BlockingIOError):
                raise
            return start
    return octets


def allOf(taken: int, image: Any) -> None:
    """@raise BlockingIOError: fewer octets were taken than there are."""
    if taken < len(image):
        raise BlockingIOError(errno.EAGAIN, "full")
