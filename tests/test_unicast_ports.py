"""
Unicast ports through real sockets: who is heard, and what is left when a port is used again.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from castd.net import sockets
from castd.net.ports import Ports
from castd.request import Local
from tests.support.fakes import Hearer, Reactor

pytestmark = pytest.mark.loopback

HERE = Local("127.0.0.1", 69)


@pytest.fixture
def ports() -> Iterator[Ports]:
    made = Ports(Reactor(), random.Random(1))
    yield made
    made.closeIdle()


@pytest.fixture
def peers() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        yield one, other


def test_peerAndStranger(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """What the peer sends is heard as its own; what anybody else sends, as a stranger's."""
    one, other = peers
    heard = Hearer()
    port = ports.openPort(heard, HERE, one.getsockname())
    one.sendto(b"mine", ("127.0.0.1", port.getHost().port))
    other.sendto(b"strange", ("127.0.0.1", port.getHost().port))
    ports.readArrived()
    assert (heard.heard, heard.strangers) == ([b"mine"], [b"strange"])
    port.stopListening()


def test_nothingIsLeftOfTheLastPeer(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """A port that is used again has forgotten what its last peer still sent, before and after it was given back."""
    one, other = peers
    first, second = Hearer(), Hearer()
    port = ports.openPort(first, HERE, one.getsockname())
    there = ("127.0.0.1", port.getHost().port)
    one.sendto(b"unread", there)
    port.stopListening()
    one.sendto(b"late", there)
    ports.readArrived()
    one.sendto(b"later", there)
    port = ports.openPort(second, HERE, other.getsockname())
    assert port.getHost().port == there[1]
    other.sendto(b"new", there)
    one.sendto(b"old", there)
    ports.readArrived()
    assert first.heard == first.strangers == []
    assert (second.heard, second.strangers) == ([b"new"], [b"old"])
    port.stopListening()


def test_aClosedPeerIsToldOnce(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """A peer's closed port is one report for each datagram, and leaves the port quiet: not ready without end."""
    gone = peers[0].getsockname()
    peers[0].close()
    heard = Hearer()
    port = ports.openPort(heard, HERE, gone)
    port.write(b"anybody?")
    ports.readArrived()
    assert len(heard.unreachable) == 1
    assert ports.epoll._epoll is None or ports.epoll._epoll.poll(0) == []
    port.stopListening()


def test_anIdlePairIsQuiet(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """What comes for a port that nobody has is thrown away by one drain."""
    port = ports.openPort(Hearer(), HERE, peers[0].getsockname())
    there = ("127.0.0.1", port.getHost().port)
    port.stopListening()
    for each in peers:
        each.sendto(b"nobody here", there)
    ports.readArrived()
    assert ports.epoll._epoll is None or ports.epoll._epoll.poll(0) == []


def test_keptForOthers(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """What is kept is counted and can be let go of, range by range; who has a port keeps it, and gives it back."""
    here = len(ports.epoll)
    opened = [
        ports.openPort(Hearer(), HERE, peer.getsockname(), numbers)
        for peer in peers
        for numbers in (None, range(20000, 30000))
    ]
    for port in opened[:3]:
        port.stopListening()
    assert (ports.idle, len(ports.epoll)) == (3, here + 8)
    ports.reconcileStore()
    assert (ports.idle, len(ports.epoll)) == (0, here + 2)
    opened[3].write(b"still here")
    opened[3].stopListening()
    assert ports.idle == 1


def test_aBufferForAWindow(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """
    A port tells how many datagrams of an upload its socket holds, and it does hold them; one with a larger buffer than
    usual is not used again.
    """
    one, _ = peers
    heard = Hearer()
    port = ports.openPort(heard, HERE, one.getsockname())
    octets = 8192
    room = port.holdWindow(40, octets + sockets.HEADERS)
    if os.geteuid() == 0 or int(Path("/proc/sys/net/core/rmem_max").read_text()) >= 40 * 16384:
        assert room >= 40
    for _ in range(min(room, 40)):
        one.sendto(bytes(octets), ("127.0.0.1", port.getHost().port))
    for _ in range(min(room, 40)):
        ports.readArrived()
    assert len(heard.heard) == min(room, 40)
    port.stopListening()
    assert ports.idle == 0


def test_noBufferIsLargerThanAllowed(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """However large the window, the buffer of one transfer is bounded; a usual one leaves the port as it is."""
    port = ports.openPort(Hearer(), HERE, peers[0].getsockname())
    assert port.holdWindow(4, 512) >= 4
    port.stopListening()
    assert ports.idle == 1
    port = ports.openPort(Hearer(), HERE, peers[0].getsockname())
    assert port.holdWindow(4096, 65464) <= sockets.MOST_WINDOW_BUFFER // sockets.windowBuffer(1, 65464)
    port.stopListening()
