"""
Many datagrams by one call, where kernel and path allow it: UDP generic segmentation offload (C{UDP_SEGMENT}, udp(7)).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

from castd.interfaces import Octets
from castd.net.sockets import setOptional

_UDP_SEGMENT: Final = 103
#: The kernel's limits for one call with UDP_SEGMENT; 64 segments on older ones.
MOST_SEGMENTS, MOST_OCTETS = 64, 65507
#: What the kernel answers when it will not segment: for good, so it is not asked again.
UNSEGMENTED: Final = frozenset({errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP})


class SegmentOption:
    """
    Sets C{UDP_SEGMENT} of one socket: the octets that the kernel cuts what it is given into.

    @ivar usable: the kernel has not refused it yet, and no other process sends through this socket.
    """

    def __init__(self, sock: socket.socket, mtu: int) -> None:
        self._socket = sock
        self._step = 0
        self.usable = True
        # A segment and its headers must fit the MTU: the kernel does not fragment segments.
        self._largest = mtu - (28 if sock.family == socket.AF_INET else 48)

    def setMtu(self, mtu: int) -> None:
        """Use the socket on another path from now on, with this MTU."""
        self._largest = mtu - (28 if self._socket.family == socket.AF_INET else 48)
        self.disable()
        self.usable = True

    def keepWhole(self, octets: int) -> None:
        """Let a datagram of this size leave in one piece, whatever was sent before it."""
        if self._step and octets > self._step:
            setOptional(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
            self._step = 0

    def fits(self, octets: int, step: int) -> bool:
        """-> whether an image of so many octets may go by one call."""
        return self.usable and step <= self._largest and octets <= MOST_OCTETS and octets <= MOST_SEGMENTS * step

    def enable(self, step: int) -> bool:
        """-> whether the socket cuts what it is given into C{step} octets now."""
        if self._step != step:
            if not setOptional(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, step):
                self.usable = False
                return False
            self._step = step
        return True

    def reset(self, usable: bool) -> None:
        """
        Forget what the socket cuts into: another process has set it, or may set it.

        @param usable: the socket is ours alone.  If not it must not cut: that holds for all who have the socket.
        """
        setOptional(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
        self._step = 0
        self.usable = usable

    def disable(self) -> None:
        """Send datagram by datagram from now on: the kernel has refused."""
        self.usable = False
        if self._step:
            setOptional(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
            self._step = 0


def sendBurst(segments: SegmentOption, send: Callable[[Octets], object], image: Octets, step: int) -> int:
    """
    Send an image, by one call if that is possible, else datagram by datagram.

    @param segments: of the socket that C{send} sends by.
    @param send: takes a buffer; raises OSError.
    @param step: octets of a datagram; the last one may have fewer.
    @return: octets taken.
    @raise OSError: for reasons other than a full socket, if nothing was taken.
    """
    octets = len(image)
    if octets <= step:
        segments.keepWhole(octets)
        try:
            send(image)
        except BlockingIOError:
            return 0
        return octets
    if segments.fits(octets, step) and segments.enable(step):
        try:
            send(image)
            return octets
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in UNSEGMENTED:
                raise
            segments.disable()
    segments.keepWhole(step)
    for start in range(0, octets, step):
        try:
            send(image[start : start + step])
        except OSError as error:
            if start == 0 and not isinstance(error, BlockingIOError):
                raise
            return start
    return octets


def requireAll(taken: int, image: Octets) -> None:
    """@raise BlockingIOError: fewer octets were taken than the image has."""
    if taken < len(image):
        raise BlockingIOError(errno.EAGAIN, "full")
