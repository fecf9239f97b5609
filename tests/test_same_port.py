"""
A client that asks for its next file from the port it had for the last one has finished that one: what it has sent to
the old port is read first.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from castd.dialects import multicast, tftp
from castd.net.ports import ListeningPort, Ports
from castd.net.unicast_ports import MOST_ARRIVED
from castd.packets.tftp import buildAck, buildData, buildError
from castd.request import Peer
from castd.testing import Network, memorySite, pattern
from tests.support.clients.tftp import rrq, wrq
from tests.support.fakes import Reactor
from tests.support.log import observed
from tests.support.stage import listener

pytestmark = pytest.mark.loopback

FILE = pattern(1000)


class Server:
    """
    A server on real sockets of the loopback interface, whose ports are read when a test says so.

    @ivar port: its request port.
    @ivar client: the socket of its only client.
    """

    def __init__(self, *spoken: Any) -> None:
        self.ports = Ports(Reactor(), random.Random(1))
        self.site = memorySite(Network(), {"one": FILE, "two": FILE}, uploads=True)
        vars(self.site)["ports"] = self.ports
        self.listener = listener(self.site, *spoken)
        self.port: ListeningPort = self.ports.listen(0, self.listener, "127.0.0.1")
        self.at: Peer = ("127.0.0.1", self.port.getHost().port)
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.bind(("127.0.0.1", 0))
        self.client.settimeout(2)
        self.events: list[dict[str, Any]] = []

    def ask(self, request: bytes) -> tuple[bytes, Peer]:
        """Send a request, which is read before anything else that has arrived.  -> the answer, and where it is from."""
        self.client.sendto(request, self.at)
        for _ in range(100):
            # One visit ends after half a millisecond, though more may wait.
            self.port.readable()
            if select.select([self.client], [], [], 0.01)[0]:
                break
        answer, tid = self.client.recvfrom(2048)
        return answer, tid

    def say(self, datagram: bytes, tid: Peer) -> bytes:
        """Send a datagram, and have it read.  -> the answer."""
        self.client.sendto(datagram, tid)
        self.ports.readArrived()
        return self.client.recv(2048)

    def ended(self) -> list[tuple[str, str]]:
        """Return the name and the outcome of each transfer that has ended."""
        return [(event["name"], event["outcome"]) for event in self.events if event.get("event") == "received"]

    def close(self) -> None:
        self.listener.stop()
        self.port.stopListening()
        self.ports.closeIdle()
        self.client.close()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server, with tftp and the options that a test names."""
    made = Server((tftp, {"interface": "127.0.0.1", **getattr(request, "param", {})}))
    with observed(made.events.append):
        yield made
        made.close()


@pytest.mark.parametrize("server", [{}, {"singlePort": True}], ids=["own port", "single port"], indirect=True)
def test_lastAckWaits(server: Server) -> None:
    """The last ACK waits at the old port when the next request is read: the old transfer is complete."""
    for name in ("one", "two") * 3:
        answer, tid = server.ask(rrq(name, blksize=1400))
        assert answer[1] == 6
        assert server.say(buildAck(0), tid) == buildData(1, FILE)
        server.client.sendto(buildAck(1), tid)
    server.ask(rrq("one", blksize=1400))
    assert server.ended() == [("one", "done"), ("two", "done")] * 3
    assert len(list(server.listener.casts())) == 1


def test_aCopyOfTheRequest(server: Server) -> None:
    """A copy of the request that is read behind the first ACK, though it was sent before that, restarts nothing."""
    answer, tid = server.ask(rrq("one", blksize=512))
    assert answer[1] == 6
    server.client.sendto(buildAck(0), tid)
    server.client.sendto(rrq("one", blksize=512), server.at)
    server.port.readable()
    assert server.client.recv(2048) == buildData(1, FILE[:512])
    assert server.say(buildAck(1), tid) == buildData(2, FILE[512:1024])
    assert server.ended() == []


def test_theSameFileAgain(server: Server) -> None:
    """The same file once more is a new transfer, too, not a repetition of the request."""
    for _ in range(3):
        answer, tid = server.ask(rrq("one"))
        assert answer == buildData(1, FILE[:512])
        assert server.say(buildAck(1), tid) == buildData(2, FILE[512:])
        server.client.sendto(buildAck(2), tid)
    server.ask(rrq("one"))
    assert server.ended() == [("one", "done")] * 3


def test_errorWaits(server: Server) -> None:
    """A size probe's ERROR waits there: the transfer was a probe, as EDK II's are, and was not cut short."""
    _, tid = server.ask(rrq("one", tsize=0))
    server.client.sendto(buildError(8, "User aborted the transfer"), tid)
    server.ask(rrq("one", blksize=1400))
    assert server.ended() == [("one", "probe")]


def test_blockWaits(server: Server) -> None:
    """The last block of an upload waits there: the file is stored."""
    _, tid = server.ask(wrq("up", blksize=1400))
    server.client.sendto(buildData(1, b"all of it"), tid)
    server.client.sendto(rrq("one", blksize=1400), server.at)
    server.port.readable()
    assert server.site.files["up"] == b"all of it"
    assert server.ended() == [("up", "done")]


def test_nothingWaits(server: Server) -> None:
    """A client that has really restarted, in the middle of a file, is told as before."""
    _, tid = server.ask(rrq("one"))
    assert server.say(buildAck(1), tid) == buildData(2, FILE[512:])
    server.ask(rrq("two"))
    assert server.ended() == [("one", "replaced")]


def test_inAGroup() -> None:
    """The last ACK of a group's master waits at the group's own port."""
    group = {"interface": "127.0.0.1", "clients": "any", "gather": 0, "groups": "239.255.98.0/24"}
    server = Server((multicast, group), (tftp, {"interface": "127.0.0.1"}))
    with observed(server.events.append):
        _, tid = server.ask(rrq("one", blksize=1400, multicast=""))
        server.client.sendto(buildAck(0), tid)
        server.ports.readArrived()
        server.client.sendto(buildAck(1), tid)
        server.ask(rrq("two", blksize=1400, multicast=""))
        assert server.ended() == [("one", "done")]
        server.close()


def test_aFloodIsBounded(server: Server) -> None:
    """A peer that has sent more to the old port than a window of ACKs does not hold up the reading of requests."""
    _, tid = server.ask(rrq("one", blksize=1400))
    (cast,) = server.listener.casts()
    heard: list[bytes] = []
    cast.transport._datagramReceived = lambda datagram, addr: heard.append(datagram)
    for _ in range(200):
        server.client.sendto(buildAck(9), tid)
    cast.readArrived()
    assert len(heard) == MOST_ARRIVED
