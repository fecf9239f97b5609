"""
Connects two processes of castd by a channel, while one takes over from the other.

A channel is a pair of C{SOCK_SEQPACKET} sockets: a packet holds one message and may carry descriptors, and each end
sees when the other process has died.  A message is a line of JSON; a datagram may follow it in the packet, unchanged.
"""

from __future__ import annotations

import json
import socket
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.upgrade.messages import FromPredecessor, FromSuccessor

_log = Logger(namespace="castd")

#: The most octets in a packet: a message and its datagram.
LONGEST = 1 << 17
#: The most descriptors in one packet; the kernel takes 253.
MOST_DESCRIPTORS = 128
_ANCILLARY = socket.CMSG_SPACE(MOST_DESCRIPTORS * array("i").itemsize)
#: The most packets that wait for the other end; further datagrams are lost, as in any full buffer.
MOST_WAITING = 4096
#: Octets that the kernel is asked to buffer for the other end.
BUFFER = 4 << 20
#: The most packets that are read before control returns to the reactor.
SLICE = 128

Sent = TypeVar("Sent", FromPredecessor, FromSuccessor)
Received = TypeVar("Received", FromPredecessor, FromSuccessor)


class Packet(NamedTuple, Generic[Sent]):
    """
    One packet of the channel.

    @ivar datagram: the datagram that the message is about; C{b""}: it is about none.
    @ivar descriptors: descriptors of open files, of which the other process gets copies.
    """

    message: Sent
    datagram: bytes = b""
    descriptors: tuple[int, ...] = ()


def socketPair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a channel."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    return ends


def sendPacket(end: socket.socket, packet: Packet[Sent]) -> None:
    """
    Send one packet.

    @raise OSError: from C{sendmsg}.
    """
    line = json.dumps(packet.message).encode() + b"\n"
    descriptors = array("i", packet.descriptors)
    end.sendmsg(
        [line, packet.datagram], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if packet.descriptors else []
    )


def receivePacket(end: socket.socket) -> Packet[Received]:
    """
    Receive one packet.

    @raise EOFError: the other end is closed.
    @raise OSError: from C{recvmsg}.
    """
    descriptors = array("i")
    try:
        # recv_fds does not pass its flags on, in Python 3.11.
        octets, ancillary, _, _ = end.recvmsg(LONGEST, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        octets, ancillary = b"", []
    if not octets:
        raise EOFError("it has closed its end")
    for _, _, numbers in ancillary:
        descriptors.frombytes(numbers)
    line, _, datagram = octets.partition(b"\n")
    return Packet(json.loads(line), datagram, tuple(descriptors))


@implementer(IReadDescriptor, IWriteDescriptor)
class Channel(Generic[Sent, Received]):
    """
    One end of a channel, read and written by a reactor.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        end: socket.socket,
        received: Callable[[Received, bytes], object],
        lost: Callable[[], object],
    ) -> None:
        """
        @param received: called with each message and its datagram.
        @param lost: called once, when the other end is closed, also by the death of its process.
        """
        self._reactor = reactor
        self._end = end
        self._received: Callable[[Received, bytes], object] = received
        self._lost = lost
        self._waiting: deque[Packet[Sent]] = deque()
        self._closed = False
        end.setblocking(False)
        reactor.addReader(self)

    def send(self, message: Sent, datagram: bytes = b"", descriptors: Iterable[int] = ()) -> None:
        """Send a message, now or when there is room for it; only a message with a datagram may be lost."""
        if self._closed or (datagram and len(self._waiting) >= MOST_WAITING):
            return
        self._waiting.append(Packet(message, datagram, tuple(descriptors)))
        if len(self._waiting) == 1:
            self.doWrite()

    def close(self) -> None:
        """Close this end; packets that wait are not sent."""
        if not self._closed:
            self._closed = True
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._waiting.clear()
            self._end.close()

    # IReadDescriptor, IWriteDescriptor

    def fileno(self) -> int:
        return self._end.fileno()

    def logPrefix(self) -> str:
        return "castd"

    def doRead(self) -> None:
        for _ in range(SLICE):
            try:
                packet: Packet[Received] = receivePacket(self._end)
            except BlockingIOError:
                return
            except (EOFError, OSError):
                self._otherEndClosed()
                return
            try:
                self._received(packet.message, packet.datagram)
            except BaseException:
                _log.failure("a message of the other process could not be handled", event="fault")
            if self._closed:
                return

    def doWrite(self) -> None:
        while self._waiting:
            try:
                sendPacket(self._end, self._waiting[0])
            except BlockingIOError:
                self._reactor.addWriter(self)
                return
            except OSError:
                # C{doRead} will find the channel closed, after what the other end has sent before.
                self._waiting.clear()
                break
            self._waiting.popleft()
        self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Close this end: the reactor has given up on the descriptor."""
        self._otherEndClosed()

    def _otherEndClosed(self) -> None:
        if not self._closed:
            self.close()
            self._lost()


#: The predecessor's end, and the successor's.
ChannelToSuccessor: TypeAlias = Channel[FromPredecessor, FromSuccessor]
ChannelToPredecessor: TypeAlias = Channel[FromSuccessor, FromPredecessor]
#: Makes an end in the reactor of this process; the arguments are those of L{Channel} behind the reactor.
MakeChannel: TypeAlias = Callable[
    [socket.socket, Callable[[Received, bytes], object], Callable[[], object]], Channel[Sent, Received]
]
