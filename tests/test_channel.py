"""What two processes say to each other, over a real pair of sockets."""

import errno
import os
import signal
import socket
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from castd.errors import MOST_FAULTS
from castd.request import Local
from castd.upgrade import predecessor
from castd.upgrade.channel import (
    LONGEST,
    MOST_DESCRIPTORS,
    MOST_WAITING,
    Channel,
    Packet,
    receivePacket,
    sendPacket,
    socketPair,
)
from castd.upgrade.messages import asAddress, asLocal, asPeer, localFields
from castd.upgrade.predecessor import ENVIRON, Inheritance, receiveInheritance
from tests.support.fakes import Reactor


class Ends:
    """Both, each with what it has heard."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.heard: tuple[list[Any], list[Any]] = ([], [])
        self.lost: list[int] = []
        self.a, self.b = (self.end(each, at) for at, each in enumerate(socketPair()))

    def end(self, end: socket.socket, at: int) -> Channel:
        def hear(told: dict[str, Any], datagram: bytes) -> None:
            self.heard[at].append((told, datagram))

        return Channel(self.reactor, end, hear, lambda: self.lost.append(at))

    def flow(self) -> None:
        while self.reactor.writers:
            for writer in list(self.reactor.writers):
                writer.doWrite()
            self.b.doRead()
        before = -1
        while before < len(self.heard[1]):
            before = len(self.heard[1])
            self.b.doRead()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    for each in (made.a, made.b):
        each.close()


def test_said(ends: Ends) -> None:
    """A message arrives with its datagram as it was, whatever its octets; and an end that is closed is noticed once."""
    ends.a.send({"say": "give", "peer": ("10.0.0.9", 7)}, b"\n\0\xff" * 1000)
    ends.a.send({"say": "stop"})
    ends.b.doRead()
    assert ends.heard[1] == [({"say": "give", "peer": ["10.0.0.9", 7]}, b"\n\0\xff" * 1000), ({"say": "stop"}, b"")]
    ends.a.close()
    ends.b.doRead()
    ends.b.doRead()
    assert (ends.lost, ends.reactor.readers, ends.reactor.writers) == ([1], set(), set())
    ends.b.send({"say": "stop"})


@pytest.mark.slow
def test_full(ends: Ends) -> None:
    """While the other end does not read, words wait in their order and datagrams beyond the bound are lost."""
    many = 3 * MOST_WAITING
    for number in range(many):
        ends.a.send({"say": "give", "number": number}, b"x" * 400)
    ends.a.send({"say": "stop"})
    ends.flow()
    numbers = [told["number"] for told, datagram in ends.heard[1] if datagram]
    assert MOST_WAITING <= len(numbers) < many
    assert numbers == sorted(numbers)
    assert ends.heard[1][-1] == ({"say": "stop"}, b"")


def test_died(ends: Ends) -> None:
    """What an end said before it died is heard; what is said to a dead one does no harm."""
    ends.a.send({"say": "freed"})
    ends.b.send({"say": "unread"})
    ends.a.connectionLost()
    ends.b.send({"say": "never"})
    ends.b.doRead()
    ends.b.doRead()
    assert ([told["say"] for told, _ in ends.heard[1]], ends.lost) == (["freed"], [0, 1])


def test_fault() -> None:
    """A word that cannot be understood closes nothing."""
    first, second = socketPair()
    heard: list[object] = []

    def hear(told: dict[str, Any], _: bytes) -> None:
        heard.append(told["say"])

    channel = Channel(Reactor(), second, hear, lambda: heard.append("lost"))
    sendPacket(first, Packet({"what": "?"}))
    sendPacket(first, Packet({"say": "stop"}))
    channel.doRead()
    assert heard == ["stop"]
    channel.close()
    first.close()


def kinds(events: list[dict[str, Any]]) -> list[object]:
    return [event.get("event") for event in events if event.get("event") in ("fault", "unforwarded")]


def test_noForm(ends: Ends, events: list[dict[str, Any]]) -> None:
    """A message that JSON has no form for is an error of whoever sends it, and of nobody after that."""
    message: Any = {"say": "here", "peer": object()}
    with pytest.raises(TypeError):
        ends.a.send(message)
    ends.a.send({"say": "stop"})
    ends.b.doRead()
    assert (ends.heard[1], ends.lost, kinds(events)) == ([({"say": "stop"}, b"")], [], [])


class Failing:
    """An end whose C{sendmsg} fails once, if there is an error for that."""

    def __init__(self, end: socket.socket, number: int) -> None:
        self._end, self.error = end, OSError(number, os.strerror(number))
        self.fails = True

    def sendmsg(self, *args: Any) -> int:
        if self.fails:
            self.fails = False
            raise self.error
        return self._end.sendmsg(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._end, name)


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EMSGSIZE, None])
def test_cannotBeSent(ends: Ends, events: list[dict[str, Any]], number: int | None) -> None:
    """
    A datagram that cannot be sent is lost, and said to be. Any other message is not: both processes find the channel
    closed, after what was sent before; nothing is sent after it.
    """
    channel: Any = ends.a
    end = channel._end
    datagram, name = (b"x" * LONGEST, "") if number is None else (b"x", "")
    if number is not None:
        channel._end = Failing(end, number)
    ends.a.send({"say": "give"}, datagram)
    ends.a.send({"say": "freed"})
    ends.b.send({"say": "unreachable"})
    ends.b.doRead()
    assert ([told["say"] for told, _ in ends.heard[1]], ends.lost, kinds(events)) == (["freed"], [], ["unforwarded"])
    if number is None:
        name = "x" * LONGEST
    else:
        channel._end = Failing(end, number)
    ends.a.send({"say": "state", "name": name})
    ends.a.send({"say": "read"})
    ends.a.doRead()
    ends.b.doRead()
    assert [told["say"] for told, _ in ends.heard[0] + ends.heard[1]] == ["unreachable", "freed"]
    assert (sorted(ends.lost), kinds(events)) == ([0, 1], ["unforwarded", "fault"])
    assert (ends.reactor.readers, ends.reactor.writers) == (set(), set())


@pytest.mark.parametrize("octets", [b"x" * (LONGEST + 1), b'{"say": "state", "x\n', b"[" * 100_000 + b"\n", b"\xff\n"])
def test_unreadable(ends: Ends, events: list[dict[str, Any]], octets: bytes) -> None:
    """A packet that was cut, or that holds something else, closes the channel, as nobody knows what is missing."""
    channel: Any = ends.a
    channel._end.send(octets)
    ends.a.send({"say": "read"})
    ends.b.doRead()
    ends.a.doRead()
    assert (ends.heard, sorted(ends.lost), kinds(events)) == (([], []), [0, 1], ["fault"])


def test_tooManyDescriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not get all descriptors says so, and keeps none."""
    monkeypatch.setattr(predecessor, "DEATH_TIMEOUT", 0.01)
    ours, theirs = socketPair()
    before = sorted(os.listdir("/proc/self/fd"))
    sendPacket(ours, Packet({"say": "sockets", "at": []}, b"", (ours.fileno(),) * (MOST_DESCRIPTORS + 10)))
    with pytest.raises(EOFError, match="not all descriptors were passed on"):
        Inheritance(theirs)
    assert sorted(os.listdir("/proc/self/fd")) == before
    ours.close()
    theirs.close()


@pytest.mark.parametrize("fault", ["x.yaml:{}: no", "x.yaml:{}: " + "\N{SNOWMAN}" * 5000])
def test_manyFaults(fault: str) -> None:
    """However many faults a new process has, and however long, the first of them are told."""
    ours, theirs = socketPair()
    ours.settimeout(5)
    sendPacket(ours, Packet({"say": "begin", "pid": 7, "doors": {}}))
    given = Inheritance(theirs)
    given.refuse(fault.format(number) for number in range(60_000))
    told = receivePacket(ours).message["faults"]
    assert len(told) == MOST_FAULTS + 1
    assert all(each.startswith(f"x.yaml:{number}: ") for number, each in enumerate(told[:-1]))
    assert told[-1] == f"{60_000 - MOST_FAULTS} more faults: castd check shows all of them"
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "local",
    [
        Local("10.0.0.1", 69, 2, False, 1400, (IPv4Network("10.0.0.0/24"), IPv4Network("10.1.0.0/16"))),
        Local("fe80::1%eth0", 69, 3, True),
        Local("0.0.0.0", 69),
    ],
)
def test_local(local: Local) -> None:
    """Which address was asked, and what is known of its interface, goes through JSON unchanged."""
    first, second = socketPair()
    sendPacket(first, Packet({"local": localFields(local), "peer": ("::1", 7, 0, 0)}))
    told = receivePacket(second).message
    assert (asLocal(told["local"]), asPeer(told["peer"])) == (local, ("::1", 7, 0, 0))
    first.close()
    with pytest.raises(EOFError):
        receivePacket(second)
    second.close()


@pytest.mark.parametrize("array", [["10.0.0.9"], ["10.0.0.9", "69"], [69, "10.0.0.9"], ["::1", 7, 0], []])
def test_noAddress(array: list[Any]) -> None:
    """What is no address is refused, whatever another version may have sent."""
    for read in (asAddress, asPeer):
        with pytest.raises(ValueError, match="is no address and port"):
            read(array)


@pytest.mark.loopback
def test_inheritance() -> None:
    """A new process takes sockets by their addresses, those of a supervisor apart; the environment is clean then."""
    ours, theirs = socketPair()
    bound = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for each in bound:
        each.bind(("127.0.0.1", 0))
    names = [each.getsockname() for each in bound]
    first = {"say": "sockets", "at": [(*names[0], True), (*names[1], False)]}
    sendPacket(ours, Packet(first, b"", tuple(each.fileno() for each in bound[:2])))
    sendPacket(ours, Packet({"say": "sockets", "at": [(*names[2], True)]}, b"", (bound[2].fileno(),)))
    sendPacket(ours, Packet({"say": "begin", "pid": 7, "doors": {"control": "/run/x"}}))
    for each in bound:
        each.close()
    environ = {ENVIRON: str(os.dup(theirs.fileno())), "PATH": "/bin"}
    theirs.close()
    given = receiveInheritance(environ)
    assert given is not None
    assert (environ, given.pid, given.adminAddresses) == ({"PATH": "/bin"}, 7, {"control": "/run/x"})
    assert (list(given.inherited), list(given.adopted)) == ([names[0], names[2]], [names[1]])
    assert [made.getsockname() for made in (*given.inherited.values(), *given.adopted.values())] == [
        names[0],
        names[2],
        names[1],
    ]
    assert not any(os.get_inheritable(made.fileno()) for made in (given.end, *given.inherited.values()))
    given.refuse(["x:1: no"])
    assert receivePacket(ours).message == {"say": "refused", "faults": ["x:1: no"]}
    ours.close()
    given.refuse(["nobody is there"])
    for made in (given.end, *given.inherited.values(), *given.adopted.values()):
        made.close()


def test_noInheritance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most processes have none; one whose predecessor closes its end, and lives, says so."""
    monkeypatch.setattr(predecessor, "DEATH_TIMEOUT", 0.01)
    assert receiveInheritance({"PATH": "/bin"}) is None
    ours, theirs = socketPair()
    ours.close()
    with pytest.raises(EOFError):
        Inheritance(theirs)
    theirs.close()


@pytest.mark.parametrize("value", ["", "x", "-1", "999999", "9" * 40, "9" * 5000, "\u0663", "1.5"])
def test_notThePredecessorsVariable(value: str) -> None:
    """A variable that names no descriptor is an error of the system, for which there is one line, not a traceback."""
    with pytest.raises(OSError, match=rf"^\[Errno 9\] {ENVIRON} names no channel: "):
        receiveInheritance({ENVIRON: value})


def test_noSocket(tmp_path: Path) -> None:
    """Nor is there a traceback for a descriptor of something else, which stays open: it may be standard input."""
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(OSError, match="names no channel: Socket operation on non-socket; castd sets it"):
            receiveInheritance({ENVIRON: str(file.fileno())})
        file.write("open")


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.0\r\n",
        b"\xff\n",
        b"[]\n",
        b"1\n",
        b"{}\n",
        b'{"say": 1}\n',
        b'{"say": "sockets"}\n',
        b'{"say": "sockets", "at": 1}\n',
        b'{"say": "sockets", "at": [["", 69, true]]}\n',
        b'{"say": "begin"}\n',
    ],
)
def test_noMessage(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who talks something else through the channel passes nothing on."""
    monkeypatch.setattr(predecessor, "DEATH_TIMEOUT", 0.01)
    ours, theirs = socketPair()
    with ours, theirs:
        ours.send(said)
        with pytest.raises(EOFError):
            Inheritance(theirs)


@pytest.mark.loopback
def test_orphaned() -> None:
    """If the predecessor is killed in the middle, this process has what was passed on, and no predecessor."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    # The pair is made by the process that is killed, as in an upgrade.
    ours, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        mine, theirs = socketPair()
        sendPacket(mine, Packet({"say": "sockets", "at": [(*bound.getsockname(), True)]}, b"", (bound.fileno(),)))
        socket.send_fds(outside, [b"x"], [theirs.fileno()])
        os.kill(os.getpid(), signal.SIGKILL)
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    given = Inheritance(socket.socket(fileno=descriptors[0]))
    assert (given.orphaned, given.pid, list(given.inherited)) == (True, pid, [bound.getsockname()])
    os.waitpid(pid, 0)
    assert predecessor.hasEnded(pid)
    assert not predecessor.hasEnded(os.getpid())
    for each in (given.end, bound, ours, outside, *given.inherited.values()):
        each.close()


def test_disorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A predecessor that says something else before it has passed its sockets on is not taken over from."""
    monkeypatch.setattr(predecessor, "DEATH_TIMEOUT", 0.01)
    ours, theirs = socketPair()
    sendPacket(ours, Packet({"say": "read"}))
    with pytest.raises(EOFError, match="'read'"):
        Inheritance(theirs)
    for end in (ours, theirs):
        end.close()
