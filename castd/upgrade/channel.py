"""
Channel: what two processes of castd say to each other while one takes over from the other.

A pair of C{SOCK_SEQPACKET} sockets, so that a message is a packet, with descriptors beside it, and an end that dies is
noticed.  A message is a line of JSON and, behind it, a datagram as it came.
"""

from __future__ import annotations

import json
import socket
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network
from typing import Any, NamedTuple

from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from castd.request import Local, Peer

_log = Logger(namespace="castd")

#: Octets of the longest message: a datagram and what is said of it.
LONGEST = 1 << 17
#: Descriptors with one message; the kernel takes 253.
MOST_DESCRIPTORS = 128
_ROOM = socket.CMSG_SPACE(MOST_DESCRIPTORS * array("i").itemsize)
#: Messages that wait for the other end; datagrams beyond are lost, as in any full buffer.
MOST_WAITING = 4096
#: Octets that the kernel holds for the other end.
BUFFER = 4 << 20
#: Messages read in one go.
SLICE = 128


class Message(NamedTuple):
    """What was said, the datagram with it, and sockets."""

    told: dict[str, Any]
    datagram: bytes = b""
    descriptors: tuple[int, ...] = ()


def pair() -> tuple[socket.socket, socket.socket]:
    """-> both ends."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    return ends


def put(end: socket.socket, message: Message) -> None:
    """@raise OSError: as C{sendmsg}."""
    line = json.dumps(message.told).encode() + b"\n"
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", message.descriptors))] if message.descriptors else []
    end.sendmsg([line, message.datagram], passed)


def take(end: socket.socket) -> Message:
    """
    -> the next message.

    @raise EOFError: the other end is closed.
    @raise OSError: as C{recvmsg}.
    """
    descriptors = array("i")
    try:
        # recv_fds does not pass its flags on, in Python 3.11.
        said, passed, _, _ = end.recvmsg(LONGEST, _ROOM, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        said, passed = b"", []
    if not said:
        raise EOFError("it has closed its end")
    for _, _, octets in passed:
        descriptors.frombytes(octets)
    line, _, datagram = said.partition(b"\n")
    return Message(json.loads(line), datagram, tuple(descriptors))


@implementer(IReadDescriptor, IWriteDescriptor)
class Channel:
    """
    One end, in a reactor.
    """

    def __init__(
        self,
        reactor: Any,
        end: socket.socket,
        heard: Callable[[dict[str, Any], bytes], object],
        lost: Callable[[], object],
    ) -> None:
        """
        @param heard: called with each message.
        @param lost: called once, when the other end is closed, also by a death.
        """
        self._reactor = reactor
        self._end = end
        self._heard = heard
        self._lost = lost
        self._waiting: deque[Message] = deque()
        self._closed = False
        end.setblocking(False)
        reactor.addReader(self)

    def say(self, told: dict[str, Any], datagram: bytes = b"", descriptors: Iterable[int] = ()) -> None:
        """Say it, now or when there is room; only what carries a datagram may be lost."""
        if self._closed or (datagram and len(self._waiting) >= MOST_WAITING):
            return
        self._waiting.append(Message(told, datagram, tuple(descriptors)))
        if len(self._waiting) == 1:
            self.doWrite()

    def close(self) -> None:
        """Say no more, hear no more."""
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
                message = take(self._end)
            except BlockingIOError:
                return
            except (EOFError, OSError):
                self._over()
                return
            try:
                self._heard(message.told, message.datagram)
            except Exception:
                _log.failure("a word of the other process failed", event="fault")
            if self._closed:
                return

    def doWrite(self) -> None:
        while self._waiting:
            try:
                put(self._end, self._waiting[0])
            except BlockingIOError:
                self._reactor.addWriter(self)
                return
            except OSError:
                # The reader learns that it is closed, and what the other end still said.
                self._waiting.clear()
                break
            self._waiting.popleft()
        self._reactor.removeWriter(self)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The reactor gives up on it."""
        self._over()

    def _over(self) -> None:
        if not self._closed:
            self.close()
            self._lost()


def packed(local: Local) -> list[Any]:
    """-> plain data."""
    networks = [str(network) for network in local.networks]
    return [local.host, local.port, local.interface, local.broadcast, local.mtu, networks]


def unpacked(told: list[Any]) -> Local:
    """-> what L{packed} was given."""
    host, port, interface, broadcast, mtu, networks = told
    return Local(host, port, interface, broadcast, mtu, tuple(map(IPv4Network, networks)))


def peerOf(told: list[Any]) -> Peer:
    """-> a peer or a group that went through JSON."""
    return tuple(told)
