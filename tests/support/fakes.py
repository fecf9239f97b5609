"""
Provides reactors for real sockets that a test drives by hand, and a protocol that records what it receives.

A test without real sockets uses L{castd.testing.Host}, which is a reactor on a network in memory.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.internet.udp import MulticastPort, Port
from twisted.logger import Logger
from twisted.python.failure import Failure

from castd.request import Local, Peer

_log = Logger(namespace="castd.tests")

LOOPBACK = "127.0.0.1"
#: An address of this machine that no other run of the tests uses.  Where every octet is compared, one from elsewhere is
#: a failure: what another process still sends to a port, when its number has become one of this process.
OWN_LOOPBACK = str(IPv4Address("127.128.0.0") + os.getpid() % (1 << 22))
#: Virtual seconds of one turn of the reactor.  With 0, a socket that cannot be read would stop time.
TURN = 0.001


class GroupPort(MulticastPort):
    """A port that joins groups on the loopback interface, whatever the machine's routes are."""

    def joinGroup(self, addr: str, interface: str = "") -> Any:
        """As Twisted's method, on the loopback interface."""
        return super().joinGroup(addr, LOOPBACK)


class Reactor(Clock):
    """
    A clock that records readers and writers; a test calls them.

    @ivar readers: the objects added by C{addReader}; C{writers}: those added by C{addWriter}.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: object) -> None:
        self.readers.add(reader)

    def addWriter(self, writer: object) -> None:
        self.writers.add(writer)

    def removeReader(self, reader: object) -> None:
        self.readers.discard(reader)

    def removeWriter(self, writer: object) -> None:
        self.writers.discard(writer)


class Hearer(DatagramProtocol):
    """
    Records what it receives.

    @ivar heard: datagrams for the protocol; C{strangers}: datagrams of others than its peer.
    @ivar unreachable: peers for which an ICMP error has come.
    @ivar stopped: how often the port was closed.
    """

    largest = 2048
    noisy = False

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.strangers: list[bytes] = []
        self.unreachable: list[Peer] = []
        self.stopped = 0

    def doStop(self) -> None:
        super().doStop()
        self.stopped += 1

    def datagramReceived(self, datagram: bytes, peer: Peer) -> None:
        self.heard.append(datagram)

    def strangerReceived(self, datagram: bytes, peer: Peer) -> None:
        self.strangers.append(datagram)

    def datagramFrom(self, datagram: bytes, peer: Peer, local: Local) -> None:
        self.heard.append(datagram)

    def peerUnreachable(self, peer: Peer) -> None:
        self.unreachable.append(peer)


class Hand(Clock):
    """
    A reactor that a test drives: real sockets of the loopback interface, virtual time.

    A datagram on loopback can be read at once, so time passes only when there is nothing to read; then it jumps to the
    next timer.  A transfer that waits for half a minute takes milliseconds, and every run is the same.

    @ivar dropped: readers that failed, which a reactor would remove.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, Any] = {}
        self.dropped: list[Any] = []

    # As IReactorFDSet, IReactorUDP, IReactorMulticast and IReactorThreads

    def addReader(self, reader: Any) -> None:
        self.readers[reader.fileno()] = reader

    def removeReader(self, reader: Any) -> None:
        self.readers = {number: each for number, each in self.readers.items() if each is not reader}

    def removeWriter(self, writer: Any) -> None:
        """Do nothing: writers are never called."""

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> Port:
        made = Port(port, protocol, interface, maxPacketSize, self)
        made.startListening()
        return made

    def listenMulticast(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192, listenMultiple: bool = False
    ) -> Port:
        made = GroupPort(port, protocol, interface, maxPacketSize, self, listenMultiple)
        made.startListening()
        return made

    def resolve(self, name: str) -> Deferred[str]:
        return succeed(name)

    def callFromThread(self, work: Callable[..., object], *args: object) -> None:
        work(*args)

    # The passing of time

    def turn(self) -> bool:
        """Call the readers that have data, as a reactor does.  -> whether there were any."""
        ready, _, _ = select.select(list(self.readers), [], [], 0)
        for number in ready:
            reader = self.readers.get(number)
            if reader is None:
                continue
            try:
                lost = reader.doRead()
            except Exception:
                _log.failure("a reader failed", event="dropped")
                lost = Failure()
            if lost:
                self.removeReader(reader)
                self.dropped.append(reader)
                reader.connectionLost(lost)
        return bool(ready)

    def run(self, until: Callable[[], object], limit: float = 300.0) -> None:
        """
        Run until C{until()} is true.

        @raise AssertionError: it does not become true within C{limit} virtual seconds.
        """
        end = self.rightNow + limit
        while not until():
            busy = self.turn()
            calls = self.getDelayedCalls()
            step = TURN if busy or not calls else max(0.0, min(call.getTime() for call in calls) - self.rightNow)
            assert self.rightNow + step < end, f"it has not come true within {limit} virtual seconds"
            assert busy or calls, "everything is silent, and it has not come true"
            self.advance(step)

    def rest(self, seconds: float) -> None:
        """Let so many virtual seconds pass."""
        over: list[bool] = []
        self.callLater(seconds, over.append, True)
        self.run(lambda: over, seconds + 1)
