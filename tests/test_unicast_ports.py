"""
Unicast ports through real sockets: who is heard, and that no number is used for a second peer.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from castd.net import sockets
from castd.net.ports import Ports
from castd.request import Local
from tests.support.descriptors import Descriptors
from tests.support.fakes import Hearer, Reactor
from tests.support.needs import needFile

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


def test_aNumberForOnePeer(peers: tuple[socket.socket, socket.socket]) -> None:
    """The number of a port that a peer has seen is closed after its transfer; the next peer gets one of its own."""
    reactor = Reactor()
    ports = Ports(reactor, random.Random(1))
    seen: list[int] = []
    for turn in range(60):
        port = ports.openPort(Hearer(), HERE, peers[turn % 2].getsockname())
        seen.append(port.getHost().port)
        port.stopListening()
        reactor.advance(0.005 * (turn % 3))
    # The kernel draws from 28,232 numbers, so it may draw one twice.
    assert len(set(seen)) > 55
    assert all(bindable(number) for number in seen[-5:])
    ports.closeIdle()


def bindable(number: int) -> bool:
    """Return whether nobody has this port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True


def test_nothingComesBeforeThePeer(peers: tuple[socket.socket, socket.socket]) -> None:
    """What was sent to a port before a transfer has it is never read as its peer's."""
    one, other = peers
    reactor = Reactor()
    ports = Ports(reactor, random.Random(1))
    ports.openPort(Hearer(), HERE, one.getsockname()).stopListening()
    for _ in range(10):
        reactor.advance(0.005)
    waiting = [pair for shelf in ports._stock._shelves.values() for _, pair in shelf.ports]
    assert len(waiting) == ports.idle > 10
    for pair in waiting:
        other.sendto(b"in advance", pair.main.getsockname())
    heard = Hearer()
    port = ports.openPort(heard, HERE, one.getsockname())
    there = ("127.0.0.1", port.getHost().port)
    other.sendto(b"later", there)
    one.sendto(b"mine", there)
    ports.readArrived()
    assert heard.heard == [b"mine"]
    assert set(heard.strangers) <= {b"in advance", b"later"}
    port.stopListening()
    ports.closeIdle()


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


def test_aPortInStockIsQuiet(peers: tuple[socket.socket, socket.socket]) -> None:
    """What comes for a port that nobody has is thrown away: it neither piles up nor wakes the reactor again."""
    reactor = Reactor()
    ports = Ports(reactor, random.Random(1))
    ports.openPort(Hearer(), HERE, peers[0].getsockname()).stopListening()
    reactor.advance(0.005)
    for shelf in ports._stock._shelves.values():
        for _, pair in shelf.ports:
            for each in peers:
                each.sendto(b"nobody here", pair.main.getsockname())
    assert ports.idle
    ports.readArrived()
    assert ports.epoll._epoll is None or ports.epoll._epoll.poll(0) == []
    ports.closeIdle()


def test_letGoOf(peers: tuple[socket.socket, socket.socket]) -> None:
    """What is in stock is counted, and let go of at a reload and at an upgrade; a transfer keeps its own."""
    reactor = Reactor()
    ports = Ports(reactor, random.Random(1))
    here = len(ports.epoll)
    opened = [
        ports.openPort(Hearer(), HERE, peer.getsockname(), numbers)
        for peer in peers
        for numbers in (None, range(20000, 20080))
    ]
    for letGo in (ports.reconcileStore, lambda: ports.freezeStore(True)):
        for _ in range(20):
            reactor.advance(0.005)
        assert (ports.idle, len(ports.epoll)) == (16 + 80 // 8, here + 2 * (4 + 16 + 80 // 8))
        letGo()
        assert (ports.idle, len(ports.epoll)) == (0, here + 8)
        ports.openPort(Hearer(), HERE, peers[0].getsockname()).stopListening()
        ports.openPort(Hearer(), HERE, peers[0].getsockname(), range(20000, 20080)).stopListening()
    for port in opened:
        port.write(b"still here")
        port.stopListening()
    ports.closeIdle()
    assert (ports.idle, len(ports.epoll)) == (0, here)


def test_theStockYieldsToARequestPort(peers: tuple[socket.socket, socket.socket]) -> None:
    """A number that only a port in stock has can be listened at, as by a reload."""
    reactor = Reactor()
    ports = Ports(reactor, random.Random(1))
    ports.openPort(Hearer(), HERE, peers[0].getsockname()).stopListening()
    reactor.advance(0.005)
    ((_, pair), *_) = next(iter(ports._stock._shelves.values())).ports
    number = pair.main.getsockname()[1]
    listening = ports.listen(number, Hearer(), "127.0.0.1")
    assert (listening.getHost().port, ports.idle) == (number, 0)
    listening.stopListening()


def test_theStockYields(peers: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where descriptors run out, those in stock are used for whoever needs a port now."""
    reactor = Reactor()
    ports = Ports(reactor, random.Random(1))
    ports.openPort(Hearer(), HERE, peers[0].getsockname()).stopListening()
    for _ in range(20):
        reactor.advance(0.005)
    bind = sockets.bindSocket

    def scarce(host: str, port: int) -> socket.socket:
        if ports.idle:
            raise OSError(errno.EMFILE, "too many open files")
        return bind(host, port)

    monkeypatch.setattr(sockets, "bindSocket", scarce)
    assert ports.idle
    port = ports.openPort(Hearer(), HERE, None)
    port.stopListening()
    assert ports.idle == 0


def test_aBufferForAWindow(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """
    A port tells how many datagrams of an upload its socket holds, and it does hold them.
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


def test_noBufferIsLargerThanAllowed(ports: Ports, peers: tuple[socket.socket, socket.socket]) -> None:
    """However large the window, the buffer of one transfer is bounded; a usual one leaves the port as it is."""
    port = ports.openPort(Hearer(), HERE, peers[0].getsockname())
    assert port.holdWindow(4, 512) >= 4
    port.stopListening()
    port = ports.openPort(Hearer(), HERE, peers[0].getsockname())
    assert port.holdWindow(4096, 65464) <= sockets.MOST_WINDOW_BUFFER // sockets.windowBuffer(1, 65464)
    port.stopListening()


@pytest.mark.parametrize(("host", "refuses"), [("127.0.0.1", False), ("0.0.0.0", True), ("", True)])
def test_groupsOfOthers(host: str, refuses: bool) -> None:
    """A socket that is bound to no address of its own refuses the groups that others have joined; none ever waits."""
    for each in sockets.bindPair(host, 0):
        assert not each.getblocking()
        assert not os.get_blocking(each.fileno())
        assert (each.getsockopt(socket.IPPROTO_IP, 49) == 0) is refuses
        each.close()


def test_noGroupAtAnAddressOfOnesOwn() -> None:
    """A socket that is bound to an address of this machine gets nothing of a group that another one has joined."""
    joined = socket.inet_aton("239.9.9.9") + socket.inet_aton("127.0.0.1")
    with (
        sockets.bindSocket("127.0.0.1", 0) as bound,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        member.bind(("239.9.9.9", bound.getsockname()[1]))
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.sendto(b"for the group", member.getsockname())
        member.settimeout(5)
        assert member.recv(64) == b"for the group"
        with pytest.raises(BlockingIOError):
            bound.recv(64)


def test_closedIsNotWatched(peers: tuple[socket.socket, socket.socket]) -> None:
    """A port that is closed leaves the epoll set, though the set is not told: the kernel removes what is closed."""
    ports = Ports(Reactor(), random.Random(1))
    # Only Linux tells what an epoll set watches.
    info = needFile(f"/proc/self/fdinfo/{ports.epoll.fileno()}")
    before = info.read_text().count("tfd:")
    port = ports.openPort(Hearer(), HERE, peers[0].getsockname())
    assert info.read_text().count("tfd:") == before + 2
    port.stopListening()
    assert (info.read_text().count("tfd:"), len(ports.epoll)) == (before, 0)
    ports.closeIdle()


@pytest.mark.parametrize("alone", [True, False])
def test_aProtocolThatRaises(peers: tuple[socket.socket, socket.socket], alone: bool) -> None:
    """Of a protocol that fails to begin, as one of a plugin may, no socket is left, and it is not told of an end."""

    class Faulty(Hearer):
        def startProtocol(self) -> None:
            raise RuntimeError("a bug")

    ports, faulty = Ports(Reactor(), random.Random(1)), Faulty()
    before = Descriptors()
    with pytest.raises(RuntimeError, match="a bug"):
        ports.openPort(faulty, HERE, peers[0].getsockname() if alone else None)
    ports.closeIdle()
    assert (len(ports.epoll), faulty.stopped, before.left()) == (0, 0, [])
