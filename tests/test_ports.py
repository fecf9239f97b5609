"""
Real ports: what the kernel has to say of a peer is heard once, and wakes nobody for ever.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import select
import socket
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol

from castd import native
from castd.dialects import tftp
from castd.net import devices, sockets
from castd.net.device_watch import DEVICE_CHECK
from castd.net.ports import DRAWS, GroupPort, Ports
from castd.net.unicast_ports import UnicastPort
from castd.request import Local, Peer
from castd.testing import Network, memorySite
from tests.support.fakes import Hearer, Reactor
from tests.support.stage import listener

pytestmark = pytest.mark.loopback

LOCAL = Local("127.0.0.1", 69)


@pytest.fixture
def ports() -> Iterator[Ports]:
    made = Ports(Reactor(), random.Random(1))
    yield made
    made.closeIdle()


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(2)
        yield made


@pytest.fixture
def nobody() -> Peer:
    """An address where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        name: Peer = made.getsockname()
        return name


def wakes(ports: Ports, seconds: float) -> bool:
    """Does the set wake the reactor, within so much time?"""
    return bool(select.select([ports.epoll.fileno()], [], [], seconds)[0])


def settled(ports: Ports) -> bool:
    """After what there is to read has been read, if anything, nothing wakes the reactor any more."""
    if wakes(ports, 0.2):
        ports.readArrived()
    return not wakes(ports, 0)


def test_closedPortOfThePeer(ports: Ports, nobody: Peer) -> None:
    """A peer whose port is closed is reported once for each datagram, and the reactor sleeps again."""
    hearer = Hearer()
    port = ports.openPort(hearer, LOCAL, nobody)
    port.write(b"block")
    assert settled(ports)
    assert hearer.unreachable == [nobody]
    port.stopListening()


def test_protocolThatFails(ports: Ports, nobody: Peer) -> None:
    """A protocol that fails when it gets its port leaves the port to others."""

    class Failing(Hearer):
        def startProtocol(self) -> None:
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            ports.listen(nobody[1], Failing(), nobody[0])
    assert len(ports.epoll) == 0
    ports.listen(nobody[1], Hearer(), nobody[0]).stopListening()


@pytest.mark.slow
def test_closedPortToldToASend(ports: Ports, nobody: Peer) -> None:
    """An error that a send was told of wakes the reactor no more than once."""
    port = ports.openPort(Hearer(), LOCAL, nobody)
    port.write(b"block")
    with pytest.raises(ConnectionRefusedError):
        port.write(b"block")
    assert settled(ports)
    port.stopListening()


@pytest.mark.slow
def test_closedPortOfAStranger(ports: Ports, peer: socket.socket, nobody: Peer) -> None:
    """A stranger that is gone when it gets its answer wakes the reactor no more than once."""
    hearer = Hearer()
    port = ports.openPort(hearer, LOCAL, peer.getsockname())
    port.write(b"who are you", nobody)
    assert settled(ports)
    assert hearer.unreachable == []
    port.stopListening()


@pytest.mark.parametrize(
    ("interface", "ours"),
    [
        ("", True),
        ("::", True),
        ("127.0.0.1", True),
        ("192.0.2.7", False),
        ("2001:db8::7", False),
        ("fe80::7%nowhere", False),
        ("255.255.255.255%127.0.0.1", True),
        ("239.255.66.1%192.0.2.7", False),
    ],
)
def test_isOurs(ports: Ports, interface: str, ours: bool) -> None:
    """It is told whether an interface of this machine has the address of a port, also behind a C{%}."""
    assert ports.isOurs(interface) is ours


@pytest.mark.parametrize("interface", ["", "127.0.0.1"])
def test_closedPortOfARefusedClient(ports: Ports, peer: socket.socket, nobody: Peer, interface: str) -> None:
    """A client that is gone when it gets its answer neither costs the next one its own nor wakes the reactor again."""
    hearer = Hearer()
    port = ports.listen(0, hearer, interface)
    port.writeFrom(b"no such file", nobody, LOCAL)
    port.writeFrom(b"yours", peer.getsockname(), LOCAL)
    assert peer.recv(100) == b"yours"
    # A send reports nothing: it may be one of the cast that would be told.
    assert hearer.unreachable == []
    assert settled(ports)
    assert hearer.unreachable == [nobody]
    port.stopListening()


IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23


def fragments(sock: socket.socket) -> bool:
    """Return whether path MTU discovery is off for this socket (ip(7), ipv6(7)): the value is 0."""
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) == 0
    return sock.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_whatIsSentMayBeFragmented(ports: Ports, host: str) -> None:
    """
    Every port sends without DF: those that castd opens, the twin of a unicast port, and those of a supervisor or of the
    process before.
    """
    local = Local(host, 69)
    with sockets.bindSocket(host, 0) as peer:
        unicast = ports.openPort(Hearer(), local, peer.getsockname())
        group = ports.openPort(Hearer(), local)
    listening = ports.listen(0, Hearer(), host)
    given = [socket.socket(peer.family, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in given:
        sock.bind((host, 0))
    numbers = [sock.getsockname()[1] for sock in given]
    assert [fragments(sock) for sock in given] == [False, False]
    passed = Ports(
        Reactor(), random.Random(1), {(host, numbers[0]): given[0]}, {(host, numbers[1]): given[1]}, shared=True
    )
    opened = [passed.listen(number, Hearer(), host) for number in numbers]
    assert isinstance(unicast, UnicastPort)
    assert isinstance(group, GroupPort)
    assert unicast._pair is not None
    sent = [unicast._pair.main, unicast._pair.twin, group._socket, listening._socket, *given]
    assert [fragments(sock) for sock in sent] == [True] * 6
    for port in (unicast, group, listening, *opened):
        port.stopListening()
    given[0].close()


def test_portsOfARange(ports: Ports, peer: socket.socket) -> None:
    """Ports come from the range that was given, each of them once, until none is left."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        first = found.getsockname()[1]
        pool = range(first, min(first + 20, 65536))
        opened: list[Any] = []

        def fill() -> None:
            while True:
                opened.append(ports.openPort(Hearer(), LOCAL, peer.getsockname(), pool))

        with pytest.raises(CannotListenError, match="no free port"):
            fill()
        numbers = [port.getHost().port for port in opened]
        assert len(set(numbers)) == len(numbers) < len(pool)
        assert set(numbers) <= set(pool) - {first}
        for port in opened:
            port.stopListening()


def test_numbersThatMayNotBeBound(ports: Ports, peer: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of the range that may not be bound is passed over; where none may the reason is told."""
    bind = sockets.bindPair

    def below(host: str, port: int) -> tuple[sockets.Socket, sockets.Socket]:
        if port < 40_010:
            raise PermissionError(errno.EACCES, "Permission denied")
        return bind(host, port)

    monkeypatch.setattr(sockets, "bindPair", below)
    port = ports.openPort(Hearer(), LOCAL, peer.getsockname(), range(40_000, 40_040))
    assert port.getHost().port >= 40_010
    port.stopListening()
    with pytest.raises(CannotListenError, match="Permission denied"):
        ports.openPort(Hearer(), LOCAL, peer.getsockname(), range(40_000, 40_010))


def test_aLargeRangeThatIsFull(ports: Ports, peer: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large range that is full a bounded number is tried: nobody waits until all are."""
    tried: list[int] = []

    def full(host: str, port: int) -> tuple[sockets.Socket, sockets.Socket]:
        tried.append(port)
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(sockets, "bindPair", full)
    with pytest.raises(CannotListenError, match="no free port in 1024-65535"):
        ports.openPort(Hearer(), LOCAL, peer.getsockname(), range(1024, 65536))
    assert len(tried) <= DRAWS + 1


def test_withoutEpoll(monkeypatch: pytest.MonkeyPatch, peer: socket.socket) -> None:
    """Where there is no epoll all ports can be read before timers expire, too."""
    monkeypatch.delattr(select, "epoll")
    ports = Ports(Reactor(), random.Random(1))
    hearer = Hearer()
    port = ports.openPort(hearer, LOCAL, peer.getsockname())
    peer.sendto(b"ack", ("127.0.0.1", port.getHost().port))
    ports.readArrived()
    assert hearer.heard == [b"ack"]
    port.stopListening()
    ports.closeIdle()


class Scripted:
    """In place of epoll: so many ports are busy at once, one time after the other; how long it was waited for them."""

    def __init__(self, *busy: int) -> None:
        self.busy = list(busy)
        self.waits: list[float] = []

    def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
        self.waits.append(wait)
        return [(-1, select.EPOLLIN)] * (self.busy.pop(0) if self.busy else 0)


@pytest.mark.parametrize(("busy", "waits"), [([1], [0, 0.001]), ([3, 2], [0, 0, 0.001]), ([], [0])])
def test_moment(ports: Ports, monkeypatch: pytest.MonkeyPatch, busy: list[int], waits: list[float]) -> None:
    """Where one or two ports are busy more is waited for, but not when timers are due."""
    monkeypatch.setattr("castd.net.epoll.LONGEST_VISIT", 100.0)
    read, drained = Scripted(*busy), Scripted(*busy)
    monkeypatch.setattr(ports.epoll, "_epoll", read)
    ports.epoll.doRead()
    assert read.waits == waits
    monkeypatch.setattr(ports.epoll, "_epoll", drained)
    ports.epoll.read()
    assert drained.waits == [0] * len(waits)


def test_admittedBefore() -> None:
    """A socket of the process before, which let receivers bind its number, lets nobody do so where no group has it."""
    sock = sockets.bindSocket("", 0)
    number = sock.getsockname()[1]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    after = Ports(Reactor(), random.Random(1), inherited={("", number): sock})
    port = after.listen(number, listener(memorySite(Network()), (tftp, {"port": number})))
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
    port.stopListening()


@pytest.mark.parametrize("admits", [True, False])
def test_receiversOnThisMachine(ports: Ports, admits: bool) -> None:
    """
    A receiver binds the number of a wildcard port to its group, as long as that is allowed; a second server never does.
    """
    port = ports.listen(0, Hearer())
    number = port.getHost().port
    port.admitReceivers(True)
    if not admits:
        port.admitReceivers(False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if admits:
            receiver.bind(("239.255.1.1", number))
        else:
            with pytest.raises(OSError, match="in use"):
                receiver.bind(("239.255.1.1", number))
    with pytest.raises(CannotListenError):
        ports.listen(number, Hearer())
    port.stopListening()


class Closing(native.StepState, DatagramProtocol):
    """What the compiled loop reads for, where there is one."""

    largest = 2048
    _master = None

    def stepRefused(self, datagram: bytes, peer: Peer) -> None:
        """Nothing: no step is taken."""

    def peerUnreachable(self, peer: Peer) -> None:
        """Nothing: no peer is sent anything."""


def test_aClosedPortOfAGroupIsFreed(ports: Ports) -> None:
    """A port of a group that is closed leaves no circle: its cast is freed at once."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        protocol = Closing()
        port = ports.openPort(protocol, LOCAL)
        left = weakref.ref(protocol)
        port.stopListening()
        del port, protocol
        assert left() is None
    finally:
        if collecting:
            gc.enable()


class Unplugged(socket.socket):
    """
    A socket whose interface may be taken away: the kernel goes on with the number of one that has gone.

    @ivar gone: the interface that was chosen has gone.
    @ivar back: an interface has its address again.
    """

    gone = back = False

    def sendto(self, *words: Any) -> int:
        if self.gone:
            raise OSError(errno.ENODEV, "No such device")
        return super().sendto(*words)

    def setsockopt(self, *words: Any) -> None:
        if words[1] == socket.IP_MULTICAST_IF and self.gone:
            if not self.back:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            self.gone = False
        super().setsockopt(*words)


@pytest.mark.parametrize("burst", [False, True])
def test_theInterfaceOfAGroupIsMadeAnew(ports: Ports, burst: bool) -> None:
    """A group goes on where its interface was removed and made anew in mid-transfer: a VLAN, a bridge, a driver."""
    group = "239.255.77.9"
    sender = Unplugged(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        member.bind((group, 0))
        joined = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        member.settimeout(2)
        port = GroupPort(ports, sender, Hearer(), 1500)
        port.setGroup(1, "127.0.0.1", True, False)

        def send(datagram: bytes) -> None:
            if burst:
                port.writeBurst(datagram, len(datagram), member.getsockname())
            else:
                port.write(datagram, member.getsockname())

        send(b"before")
        sender.gone = True
        with pytest.raises(OSError, match="No such device"):
            send(b"meanwhile")
        sender.back = True
        send(b"after")
        assert [member.recv(100), member.recv(100)] == [b"before", b"after"]
    port.stopListening()


@pytest.mark.parametrize("burst", [False, True])
def test_interfaceOfAGroupInAnUpgrade(ports: Ports, burst: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While two processes send by one socket, a datagram to a group names its interface itself: the other process may
    choose another one for the socket at any moment.
    """
    group, sendFrom, indices = "239.255.77.10", sockets.sendFrom, list[int]()

    def noted(sock: socket.socket, datagram: bytes, address: Peer, host: str, index: int = 0) -> None:
        indices.append(index)
        sendFrom(sock, datagram, address, host, index)

    monkeypatch.setattr(sockets, "sendFrom", noted)
    port, loopback = ports.listen(0, Hearer()), socket.if_nametoindex(devices.deviceOf("127.0.0.1"))
    here = Local("127.0.0.1", port.getHost().port)

    def received(by: socket.socket) -> list[int]:
        indices.clear()
        port.chooseGroup(1, "127.0.0.1", True, False)
        if burst:
            port.writeBurst(b"data", 4, by.getsockname(), here)
        else:
            port.writeFrom(b"data", by.getsockname(), here)
        assert by.recv(100) == b"data"
        return list(indices)

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        member.bind((group, 0))
        joined = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        client.bind(("127.0.0.1", 0))
        for each in (member, client):
            each.settimeout(2)
        assert received(member) == [0]
        for change in (lambda: port.pause(True), lambda: port.resume(False)):
            change()
            assert received(member) == [loopback]
            # An answer to one machine goes the way that the system knows.
            assert received(client) == [0]
        # The interface was made anew meanwhile.
        port._indices["127.0.0.1"] = 1 << 30
        assert received(member) == [1 << 30, loopback]
        port.resume(True)
        assert received(member) == [0]
    port.stopListening()


class RefusingSocket:
    """The socket of a port, whose every send fails."""

    def __init__(self, sock: socket.socket, error: int) -> None:
        self._sock, self._error = sock, error
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendto(self, *_: object) -> None:
        self.tries += 1
        raise OSError(self._error, os.strerror(self._error))


@pytest.mark.parametrize(("error", "tries"), [(errno.ENOBUFS, 1), (errno.ENOMEM, 1), (errno.ECONNREFUSED, 2)])
def test_whatIsTriedAgain(ports: Ports, monkeypatch: pytest.MonkeyPatch, error: int, tries: int) -> None:
    """A send that an earlier error may have stopped is tried once more at once; a full queue gets time to empty."""
    port = ports.listen(0, Hearer())
    refusing = RefusingSocket(port._socket, error)
    monkeypatch.setattr(port, "_socket", refusing)
    with pytest.raises(OSError, match=os.strerror(error)):
        port.write(b"data", ("127.0.0.1", 7))
    assert refusing.tries == tries
    port.stopListening()


def test_interfacesComeAndGo() -> None:
    """What is known of interfaces is bounded: each that is made anew has another index, over years."""
    known = devices.Interfaces()
    loopback = socket.if_nametoindex(devices.deviceOf("127.0.0.1"))
    expected = known.lookup(loopback)
    for index in range(1_000_000, 1_000_000 + 2 * known._MOST_KEPT):
        known.lookup(index)
        known.local(devices.PKTINFO.pack(index, b"\x7f\0\0\1", b"\x7f\0\0\1"), 69)
    assert max(len(known._known), len(known._locals)) <= known._MOST_KEPT
    assert known.lookup(loopback) == expected


def test_groupsOfOnePort(ports: Ports) -> None:
    """
    The casts of a request port prepare it each for its own group, also when another process has sent by its socket.
    """
    port = ports.listen(0, Hearer())
    near, far = (1, "127.0.0.1", True, False), (7, "127.0.0.2", False, False)

    def prepared() -> tuple[int, str, bool]:
        get = port.currentSocket.getsockopt
        interface = socket.inet_ntoa(get(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, 4))
        loopback = bool(get(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP))
        return get(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL), interface, loopback

    for options in (near, far, far, near):
        port.chooseGroup(*options)
        assert prepared() == options[:3]
    for pause in (lambda: port.pause(True), lambda: port.resume(False), lambda: port.resume(True)):
        pause()
        sockets.setGroupOptions(port.currentSocket, *far)
        port.chooseGroup(*near)
        assert prepared() == near[:3]
    with pytest.raises(OSError, match="assign"):
        port.chooseGroup(7, "192.0.2.1", True, False)
    port.chooseGroup(*near)
    assert prepared() == near[:3]
    port.stopListening()


BROADCASTS = "255.255.255.255%127.0.0.1"


def broadcast(datagram: bytes, number: int) -> None:
    """Broadcast a datagram to a port, by the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.SOL_SOCKET, 25, b"lo")  # SO_BINDTODEVICE
        sender.sendto(datagram, ("255.255.255.255", number))


@pytest.fixture
def number() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("how", ["gone", "moved"])
def test_followsItsInterface(monkeypatch: pytest.MonkeyPatch, number: int, how: str) -> None:
    """
    A port that hears one interface hears it again after that was made anew, or after its address has moved to another
    one, such as a bridge; not while no interface has the address, nor in place of the process that reads it now.
    """
    clock, hearer = Reactor(), Hearer()
    ports = Ports(clock, random.Random(1))
    port = ports.listen(number, hearer, BROADCASTS)
    before, known, there = port.fileno(), devices.boundDevice, False

    def bound(sock: socket.socket) -> str:
        if sock.fileno() != before:
            return known(sock)
        if how == "gone":
            raise OSError(errno.ENODEV, "No such device")
        return "eth0"

    def deviceOf(address: str) -> str:
        if not there:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return "lo"

    monkeypatch.setattr(devices, "boundDevice", bound)
    monkeypatch.setattr(devices, "deviceOf", deviceOf)
    clock.advance(DEVICE_CHECK)
    there = True
    port.pause(True)
    clock.advance(DEVICE_CHECK)
    assert port.fileno() == before
    port.resume(True)
    clock.advance(DEVICE_CHECK)
    after = port.fileno()
    assert after != before
    clock.advance(DEVICE_CHECK)
    assert (port.fileno(), [each[1].fileno() for each in ports.boundSockets()]) == (after, [after])
    broadcast(b"discover", number)
    assert wakes(ports, 2)
    ports.readArrived()
    assert (hearer.heard, len(ports.epoll)) == ([b"discover"], 1)
    port.stopListening()
    assert clock.getDelayedCalls() == []


def test_cannotFollow(monkeypatch: pytest.MonkeyPatch, number: int, events: list[dict[str, Any]]) -> None:
    """A port that may not be bound anew is told once, and tried again: the process has given up root, perhaps."""
    clock = Reactor()
    ports = Ports(clock, random.Random(1))
    port, bindSocket = ports.listen(number, Hearer(), BROADCASTS), sockets.bindSocket

    def forbidden(host: str, port: int) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sockets, "isAtItsDevice", lambda sock, host: False)
    monkeypatch.setattr(sockets, "bindSocket", forbidden)
    clock.pump([DEVICE_CHECK] * 3)
    monkeypatch.setattr(sockets, "bindSocket", bindSocket)
    clock.advance(DEVICE_CHECK)
    told = [(each["event"], each["address"], each.get("why")) for each in events]
    where = f"{BROADCASTS}:{number}"
    assert told == [("unfollowed", where, "Permission denied"), ("followed", where, None)]
    port.stopListening()
