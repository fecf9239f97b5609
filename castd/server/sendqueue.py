"""
The datagrams that are not blocks: greetings, acknowledgements, errors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from twisted.logger import Logger

from castd.net.backoff import Backoff, isFull
from castd.request import Peer, hostPort

_log = Logger(namespace="castd")

#: Datagrams that are kept for a full socket; beyond, the oldest is as good as lost on its way.
MOST_KEPT = 256


class QueueOwner(Protocol):
    """
    Whose datagrams they are.

    @ivar full: times that the socket was full.
    """

    name: str
    transport: Any
    full: int

    def peerUnreachable(self, peer: Peer | None = None) -> None:
        """A host says that the port is closed; C{None}: the one peer's."""


class SendQueue:
    """
    What a full socket does not take is kept, in its order.  Any other fault is, to the network, a datagram lost on its
    way; to the operator one line for each kind.
    """

    __slots__ = ("_backoff", "_complained", "_kept", "_sender")

    def __init__(self, sender: QueueOwner) -> None:
        self._sender: Any = sender
        self._kept: deque[tuple[bytes, Peer]] = deque(maxlen=MOST_KEPT)
        self._backoff: Backoff | None = None
        self._complained: set[int | None] = set()

    def release(self) -> None:
        """It is over.  In a circle with its sender all that belongs to both would wait for Python's collector."""
        self._sender = None

    def put(self, datagram: bytes, address: Peer) -> None:
        """Send this, as soon as what is kept is out."""
        self._kept.append((datagram, address))
        if len(self._kept) == 1:
            self.flush()

    def instead(self, datagrams: Iterable[bytes], address: Peer) -> None:
        """Send these; what is kept has become out of date."""
        self._kept.clear()
        self._kept.extend((datagram, address) for datagram in datagrams)
        self.flush()

    def forget(self, address: Peer) -> None:
        """What is kept for this one is not to be said any more."""
        if self._kept:
            self._kept = deque((each for each in self._kept if each[1] != address), MOST_KEPT)

    def flush(self) -> float | None:
        """
        Send what is kept.

        @return: seconds to leave the full socket alone, L{None}: all is out.
        """
        while self._kept:
            if not self.write(*self._kept[0]):
                self._sender.full += 1
                self._backoff = self._backoff or Backoff()
                return self._backoff.refused()
            self._backoff = None
            self._kept.popleft()
        return None

    @property
    def rest(self) -> float | None:
        """Seconds to leave the socket alone for, since the last try; L{None}: nothing is kept."""
        return self._backoff.seconds if self._kept and self._backoff is not None else None

    def write(self, datagram: bytes, address: Peer) -> bool:
        """Now or never.  -> False: the socket is full."""
        try:
            self._sender.transport.write(datagram, address)
        except OSError as error:
            if isFull(error):
                return False
            self.unsendable(error, address)
        return True

    def unsendable(self, error: OSError, address: Peer) -> None:
        """This could not be sent."""
        if isinstance(error, ConnectionRefusedError):
            self._sender.peerUnreachable(address)
        elif error.errno not in self._complained:
            self._complained.add(error.errno)
            _log.warn(
                "{transport}: cannot send to {peer}: {why}",
                event="unsendable",
                transport=self._sender.name,
                peer=hostPort(address),
                why=str(error),
            )
