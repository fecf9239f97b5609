"""
Send many datagrams by one call, where kernel and path allow it, by UDP generic segmentation offload (C{UDP_SEGMENT},
udp(7)).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

from castd.interfaces import Octets
from castd.net.sockets import Socket, setOptional

_UDP_SEGMENT: Final = 103
#: The kernel's limits for one call with UDP_SEGMENT; 64 segments on older ones.
MOST_SEGMENTS, MOST_OCTETS = 64, 65507
#: Errors of a kernel that does not segment.  Unless it is for one of the two below, it is not tried again.
UNSEGMENTED: Final = frozenset({errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP})
#: Errors for a segment that is larger than the MTU of the path to its peer, as an ICMP message has told the kernel:
#: segments are not fragmented, datagrams are.
TOO_LARGE: Final = frozenset({errno.EINVAL, errno.EMSGSIZE})
#: Bursts that are then sent datagram by datagram, before segments are tried again: a socket may have many peers, and
#: the kernel forgets such an MTU after some minutes.
PAUSE: Final = 64


class SegmentOption:
    """
    Sets the option C{UDP_SEGMENT} of one socket: the size of the datagrams that the kernel cuts a buffer into.

    @ivar usable: the kernel has not refused the option, and no other process sends through this socket.
    """

    def __init__(self, sock: Socket, mtu: int) -> None:
        self._socket = sock
        self._step = 0
        self._pause = 0
        self.usable = True
        # A segment and its headers must fit the MTU: the kernel does not fragment segments.
        self._largest = mtu - (28 if sock.family == socket.AF_INET else 48)

    def keepWhole(self, octets: int) -> None:
        """Make sure that the kernel does not cut a datagram of this size, whatever was sent before."""
        if self._step and octets > self._step:
            setOptional(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
            self._step = 0

    def fits(self, octets: int, step: int) -> bool:
        """Return whether a buffer of so many octets may be sent by one call, in datagrams of C{step} octets."""
        if self._pause:
            self._pause -= 1
            return False
        return self.usable and step <= self._largest and octets <= MOST_OCTETS and octets <= MOST_SEGMENTS * step

    def enable(self, step: int) -> bool:
        """Make the kernel cut buffers into datagrams of C{step} octets.  -> whether it does."""
        if self._step != step:
            if not setOptional(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, step):
                self.usable = False
                return False
            self._step = step
        return True

    def reset(self, usable: bool) -> None:
        """
        Switch the option off, as another process has set it or may set it.

        @param usable: no other process has the socket.  Else the option stays off, as it is shared with the socket.
        """
        setOptional(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
        self._step = 0
        self.usable = usable

    def refused(self, number: int) -> None:
        """Send datagram by datagram, as the kernel has refused to segment with this errno: for good, or for a while."""
        self.disable()
        if number in TOO_LARGE:
            self.usable, self._pause = True, PAUSE

    def disable(self) -> None:
        """Send datagram by datagram from now on."""
        self.usable = False
        if self._step:
            setOptional(self._socket, socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
            self._step = 0


def mostWhole(step: int) -> int:
    """Return how many octets one call sends at most, in whole datagrams of C{step} octets; 0: one is too long."""
    return min(MOST_SEGMENTS, MOST_OCTETS // step) * step


def sendBurst(segments: SegmentOption, send: Callable[[Octets], object], image: Octets, step: int) -> int:
    """
    Send a buffer of datagrams, by as few calls as possible, else datagram by datagram.

    @param segments: the option of the socket that C{send} uses.
    @param send: sends a buffer; raises OSError.
    @param image: the datagrams, one behind the other.
    @param step: octets of a datagram; the last one may have fewer.
    @return: octets sent; fewer than in the buffer: the socket is full, or failed after the first datagram.
    @raise OSError: an error other than that of a full socket, if nothing was sent.
    """
    octets = len(image)
    if octets <= step:
        segments.keepWhole(octets)
        try:
            send(image)
        except BlockingIOError:
            return 0
        return octets
    if octets > (part := mostWhole(step)) > step:
        return _sendParts(segments, send, image, step, part)
    if segments.fits(octets, step) and segments.enable(step):
        try:
            send(image)
            return octets
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in UNSEGMENTED:
                raise
            segments.refused(error.errno)
    segments.keepWhole(step)
    for start in range(0, octets, step):
        try:
            send(image[start : start + step])
        except OSError as error:
            if start == 0 and not isinstance(error, BlockingIOError):
                raise
            return start
    return octets


def _sendParts(segments: SegmentOption, send: Callable[[Octets], object], image: Octets, step: int, part: int) -> int:
    """
    Send a buffer that is too long for one call, as L{sendBurst}.

    @param part: octets of whole datagrams that one call takes.
    """
    for start in range(0, len(image), part):
        burst = image[start : start + part]
        try:
            sent = sendBurst(segments, send, burst, step)
        except OSError:
            if start == 0:
                raise
            return start
        if sent < len(burst):
            return start + sent
    return len(image)


def requireAll(taken: int, image: Octets) -> None:
    """
    Check that a whole buffer was sent.

    @raise BlockingIOError: fewer octets were sent than the buffer has.
    """
    if taken < len(image):
        raise BlockingIOError(errno.EAGAIN, "full")
