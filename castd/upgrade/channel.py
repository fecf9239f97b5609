"""
Connects two processes of castd by a channel, while one takes over from the other.

A channel is a pair of C{SOCK_SEQPACKET} sockets: a packet holds one message and may carry descriptors, and each end
sees when the other process has died.  A message is a line of JSON; a datagram may follow it in the packet, unchanged.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.errors import reasonOf
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


class UnreadablePacket(Exception):
    """A packet has come that holds no message, or a part of one."""


class _Encoded(NamedTuple):
    """
    A packet as it is sent.

    @ivar mayBeLost: it is about a datagram, which the network may lose as well.
    """

    octets: bytes
    descriptors: tuple[int, ...]
    mayBeLost: bool

    def send(self, end: socket.socket) -> None:
        """
        Send this packet.

        @raise OSError: from C{sendmsg}, or the packet is longer than the other end receives.
        """
        if len(self.octets) > LONGEST:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        descriptors = array("i", self.descriptors)
        end.sendmsg([self.octets], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else [])


def _encode(packet: Packet[Sent]) -> _Encoded:
    """
    Encode a packet.

    @raise TypeError, ValueError: JSON has no form for the message.
    """
    line = json.dumps(packet.message).encode()
    return _Encoded(b"%b\n%b" % (line, packet.datagram), packet.descriptors, bool(packet.datagram))


def sendPacket(end: socket.socket, packet: Packet[Sent]) -> None:
    """
    Send one packet.

    @raise OSError: from C{sendmsg}, or the packet is longer than the other end receives.
    """
    _encode(packet).send(end)


def receivePacket(end: socket.socket) -> Packet[Received]:
    """
    Receive one packet.

    @raise EOFError: the other end is closed.
    @raise UnreadablePacket: the packet has another form, or was cut.
    @raise OSError: from C{recvmsg}.
    """
    descriptors = array("i")
    try:
        # recv_fds does not pass its flags on, in Python 3.11.
        octets, ancillary, flags, _ = end.recvmsg(LONGEST, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        octets, ancillary, flags = b"", [], 0
    if not octets:
        raise EOFError("it has closed its end")
    for _, _, numbers in ancillary:
        descriptors.frombytes(numbers)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for each in descriptors:
            os.close(each)
        if flags & socket.MSG_TRUNC:
            raise UnreadablePacket(f"a message is longer than {LONGEST} octets")
        raise UnreadablePacket("not all descriptors were passed on: this process may have too few")
    line, _, datagram = octets.partition(b"\n")
    try:
        return Packet(json.loads(line), datagram, tuple(descriptors))
    except (ValueError, RecursionError):
        raise UnreadablePacket("what comes through the channel is no message of castd") from None


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
        self._waiting: deque[_Encoded] = deque()
        self._closed = False
        end.setblocking(False)
        reactor.addReader(self)

    def send(self, message: Sent, datagram: bytes = b"", descriptors: Iterable[int] = ()) -> None:
        """
        Send a message, now or when there is room for it.  Only a message with a datagram may be lost, which is logged;
        if another one cannot be sent, this end is shut down: both processes find the channel closed.

        @raise TypeError, ValueError: JSON has no form for the message.
        """
        if self._closed:
            return
        if datagram and len(self._waiting) >= MOST_WAITING:
            _logLost("it reads too slowly")
            return
        self._waiting.append(_encode(Packet(message, datagram, tuple(descriptors))))
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
            except EOFError:
                self._otherEndClosed()
                return
            except (UnreadablePacket, OSError) as error:
                # What it was is not known: this process may not go on as if it had been nothing.
                _logBroken(error)
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
            packet = self._waiting[0]
            try:
                packet.send(self._end)
            except BlockingIOError:
                self._reactor.addWriter(self)
                return
            except ConnectionError:
                # C{doRead} will find the channel closed, after what the other end has sent before.
                self._waiting.clear()
                break
            except OSError as error:
                if not packet.mayBeLost:
                    _logBroken(error)
                    self._shutDown()
                    break
                _logLost(reasonOf(error))
            self._waiting.popleft()
        self._reactor.removeWriter(self)

    def _shutDown(self) -> None:
        """Send nothing any more; C{doRead} will find the channel closed, and so will the other process."""
        self._waiting.clear()
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Close this end: the reactor has given up on the descriptor."""
        self._otherEndClosed()

    def _otherEndClosed(self) -> None:
        if not self._closed:
            self.close()
            self._lost()


def _logBroken(error: Exception) -> None:
    why = reasonOf(error)
    _log.error("the channel between two processes of an upgrade is broken: {why}", event="fault", why=why)


def _logLost(why: str) -> None:
    _log.warn("a datagram for the other process of an upgrade is lost: {why}", event="unforwarded", why=why)


#: The predecessor's end, and the successor's.
ChannelToSuccessor: TypeAlias = Channel[FromPredecessor, FromSuccessor]
ChannelToPredecessor: TypeAlias = Channel[FromSuccessor, FromPredecessor]
#: Makes an end in the reactor of this process; the arguments are those of L{Channel} behind the reactor.
MakeChannel: TypeAlias = Callable[
    [socket.socket, Callable[[Received, bytes], object], Callable[[], object]], Channel[Sent, Received]
]
