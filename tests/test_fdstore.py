"""Sockets in the hands of the service manager: what it is told, and a restart that loses no request."""

import array
import errno
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.error import CannotListenError

from castd.net.device_watch import DEVICE_CHECK
from castd.net.fdstore import FdStore, addressIn, fdName
from castd.net.ports import Ports
from castd.net.sockets import bindSocket
from castd.observe.sdnotify import ServiceNotifier
from tests.support.fakes import Hearer, Reactor
from tests.test_sdnotify import LAUNCH, ROOT, datagram


class Manager:
    """A service manager's end: it keeps what it is handed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(30)
        self.kept: dict[str, int] = {}

    def read(self) -> dict[str, str]:
        """The next datagram; descriptors are kept, dropped, or closed at once, as sd_notify(3) says."""
        told, passed, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(16))
        found = array.array("i")
        for _, _, octets in passed:
            found.frombytes(octets)
        fields = dict(line.split("=", 1) for line in told.decode().split("\n"))
        if "FDSTORE" in fields:
            (made,) = found
            if fields["FDNAME"] in self.kept:
                os.close(made)
            self.kept.setdefault(fields["FDNAME"], made)
        elif "FDSTOREREMOVE" in fields:
            os.close(self.kept.pop(fields["FDNAME"]))
        else:
            for each in found:
                os.close(each)
        return fields

    def waiting(self) -> list[dict[str, str]]:
        """All that was said so far."""
        self.socket.setblocking(False)
        said = []
        try:
            while True:
                said.append(self.read())
        except BlockingIOError:
            return said
        finally:
            self.socket.settimeout(30)

    def until(self, field: str) -> dict[str, str]:
        """Wait for a datagram with this field."""
        while field not in (fields := self.read()):
            pass
        return fields


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()
    for each in made.kept.values():
        os.close(each)


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (("", 69), "castd.any.69"),
        (("10.0.0.5", 1759), "castd.10.0.0.5.1759"),
        (("::", 69), "castd.__.69"),
        (("fe80::1%eth0", 69), "castd.fe80__1%eth0.69"),
        (("fe80::1%br_lan", 69), "castd.fe80__1%br_lan.69"),
        (("255.255.255.255%10.0.0.5", 67), "castd.255.255.255.255%10.0.0.5.67"),
    ],
)
def test_nameOf(at: tuple[str, int], name: str) -> None:
    """
    Each address has a name of its own, in which no colon is: the manager's lists are divided by these.  The next
    process reads the address from it.
    """
    assert fdName(at) == name
    assert addressIn(name) == at


@pytest.mark.parametrize("name", ["unknown", "castd.", "castd.any", "castd.any.x", "castd..69", "castd.any.65536"])
def test_noName(name: str) -> None:
    """What is no name of a kept socket has no address."""
    assert addressIn(name) is None


@pytest.mark.loopback
def test_kept(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Request ports are kept once, and dropped when their address goes; not those that a socket unit keeps, and not when
    the process ends.  That something is dropped is waited for.
    """
    waited: list[int] = []
    monkeypatch.setattr(ServiceNotifier, "barrier", lambda notifier: waited.append(len(manager.waiting())))
    unit = datagram()
    number = unit.getsockname()[1]
    ports = Ports(
        Reactor(), random.Random(0), {("127.0.0.1", number): unit}, store=FdStore(ServiceNotifier(manager.address))
    )
    ours, other = ports.listen(0, Hearer(), "127.0.0.1"), ports.listen(number, Hearer(), "127.0.0.1")
    for _ in range(2):
        assert ports.reconcileStore() == []
    (said,) = manager.waiting()
    assert (said, ports.storing) == ({"FDSTORE": "1", "FDNAME": "castd.127.0.0.1.0"}, True)
    other.stopListening()
    assert manager.waiting() == []
    ours.stopListening()
    assert (waited, manager.kept) == ([1], {})
    again = ports.listen(0, Hearer(), "127.0.0.1")
    ports.reconcileStore()
    ports.freezeStore(True)
    again.stopListening()
    manager.waiting()
    assert list(manager.kept) == ["castd.127.0.0.1.0"]
    unit.close()


@pytest.mark.loopback
def test_boundAnew(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket of a port that has followed its interface is kept in place of the one before."""
    monkeypatch.setattr(ServiceNotifier, "barrier", lambda notifier: None)
    clock = Reactor()
    ports = Ports(clock, random.Random(0), store=FdStore(ServiceNotifier(manager.address)))
    port = ports.listen(0, Hearer(), "255.255.255.255%127.0.0.1")
    ports.reconcileStore()
    monkeypatch.setattr("castd.net.sockets.isAtItsDevice", lambda sock, host: False)
    clock.advance(DEVICE_CHECK)
    said = [("FDSTORE" in each, each["FDNAME"]) for each in manager.waiting()]
    name = "castd.255.255.255.255%127.0.0.1.0"
    assert said == [(True, name), (False, name), (True, name)]
    assert os.fstat(manager.kept[name]).st_ino == os.fstat(port.fileno()).st_ino
    ports.freezeStore(True)
    port.stopListening()


@pytest.mark.loopback
@pytest.mark.parametrize("hosts", [("", "127.0.0.1"), ("127.0.0.1", ""), ("::", "::1"), ("::1", "::")])
def test_wildcardBefore(manager: Manager, monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, str]) -> None:
    """
    A service file that was changed from the wildcard to an address, or back: what was kept for the one does not keep
    the other from being bound.  That the manager has closed it is waited for.
    """
    monkeypatch.setattr(ServiceNotifier, "barrier", lambda notifier: manager.waiting())
    before, after = hosts
    sock = bindSocket(before, 0)
    number = sock.getsockname()[1]
    store = FdStore(ServiceNotifier(manager.address))
    store.add((before, number), sock)
    manager.waiting()
    ports = Ports(Reactor(), random.Random(0), inherited={(before, number): sock}, store=store)
    ports.listen(number, Hearer(), after)
    ports.reconcileStore()
    manager.waiting()
    assert list(manager.kept) == [fdName((after, number))]


@pytest.mark.loopback
def test_wildcardBeforeInVain(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program keeps the wildcard from being bound, what was kept for addresses stays kept."""
    monkeypatch.setattr(ServiceNotifier, "barrier", lambda notifier: manager.waiting())
    with bindSocket("127.0.0.3", 0) as another:
        number = another.getsockname()[1]
        store = FdStore(ServiceNotifier(manager.address))
        inherited = {(host, number): bindSocket(host, number) for host in ("127.0.0.1", "127.0.0.2")}
        for at, sock in inherited.items():
            store.add(at, sock)
        manager.waiting()
        ports = Ports(Reactor(), random.Random(0), inherited=inherited, store=store)
        with pytest.raises(CannotListenError, match="in use"):
            ports.listen(number, Hearer(), "")
        manager.waiting()
        assert sorted(manager.kept) == [fdName(at) for at in inherited]
        # They serve, if the service file has them, too; and else they are given up.
        port = ports.listen(number, Hearer(), "127.0.0.1")
        assert ports.reconcileStore() == [("127.0.0.2", number)]
        manager.waiting()
        assert list(manager.kept) == [fdName(("127.0.0.1", number))]
        assert os.fstat(manager.kept[fdName(("127.0.0.1", number))]).st_ino == os.fstat(port.fileno()).st_ino
        ports.freezeStore(True)
        port.stopListening()


@pytest.mark.loopback
def test_wildcardOfAnother(manager: Manager) -> None:
    """While the previous process serves by such a socket, in an upgrade, the address cannot be had, and it is kept."""
    sock = bindSocket("", 0)
    number = sock.getsockname()[1]
    ports = Ports(
        Reactor(),
        random.Random(0),
        inherited={("", number): sock},
        store=FdStore(ServiceNotifier(manager.address)),
        shared=True,
    )
    with pytest.raises(CannotListenError):
        ports.listen(number, Hearer(), "127.0.0.1")
    assert (sock.fileno() >= 0, manager.waiting()) == (True, [])
    sock.close()


@pytest.mark.loopback
def test_noDescriptors(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no descriptors are left a port is closed all the same, though the manager is not waited for."""
    ports = Ports(Reactor(), random.Random(0), store=FdStore(ServiceNotifier(manager.address)))
    hearer = Hearer()
    port = ports.listen(0, hearer, "127.0.0.1")
    ports.reconcileStore()

    def none() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe", none)
    port.stopListening()
    assert (hearer.stopped, ports.boundSockets()) == (1, [])
    assert ["FDSTOREREMOVE" in each for each in manager.waiting()] == [False, True]


@pytest.mark.loopback
def test_barrier(manager: Manager) -> None:
    """A barrier is over when the manager has closed what it was handed; one that does not answer is not waited for."""
    notifier = ServiceNotifier(manager.address)
    reader = os.fork()
    if not reader:
        manager.read()
        os._exit(0)
    notifier.barrier()
    assert os.waitpid(reader, 0)[1] == 0
    silent = ServiceNotifier()
    silent.barrier()
    assert not silent.connected
    assert not FdStore(silent).available
    notifier.close()


def launched(tmp_path: Path, manager: Manager, descriptors: dict[str, int]) -> subprocess.Popen[bytes]:
    """castd as the manager starts it, with what it has kept."""
    # Above what the launcher puts there.
    high = [os.dup(each) for each in descriptors.values() for _ in range(10)][9::10]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": manager.address}
    command = [sys.executable, "-m", "castd", "serve", "-c", str(tmp_path / "x.yaml")]
    if high:
        environ["LISTEN_FDNAMES"] = ":".join(descriptors)
        words = ["-m", "castd", "serve", "-c", str(tmp_path / "x.yaml")]
        command = [sys.executable, "-c", LAUNCH, ",".join(map(str, high)), *words]
    return subprocess.Popen(command, cwd=ROOT, env=environ, pass_fds=high)


@pytest.mark.slow
@pytest.mark.loopback
def test_restart(tmp_path: Path, manager: Manager) -> None:
    """
    A restart by a manager that keeps sockets: who asks while the old process drains, or while there is none, asks once
    and is answered by the new one; an address that is not in the service file any more is dropped.
    """
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "file").write_bytes(bytes(700))
    probes = [datagram(), datagram()]
    numbers = [each.getsockname()[1] for each in probes]
    for each in probes:
        each.close()
    head = "castd: 1\ncontent: [{directory: {path: boot}}]\nlimits: {drain: 20 s}\ntransports:\n"
    lines = [
        f"  {name}: {{use: tftp, port: {number}, interface: 127.0.0.1}}\n"
        for name, number in zip("ab", numbers, strict=True)
    ]
    (tmp_path / "x.yaml").write_text(head + "".join(lines))
    clients = [datagram() for _ in range(3)]
    for each in clients:
        each.settimeout(30)
    server = ("127.0.0.1", numbers[0])
    with launched(tmp_path, manager, {}) as old:
        try:
            manager.until("READY")
            manager.until("FDSTORE") if len(manager.kept) < 2 else None
            clients[0].sendto(b"\0\1file\0octet\0", server)
            block, peer = clients[0].recvfrom(600)
            old.send_signal(signal.SIGTERM)
            manager.until("STOPPING")
            clients[1].sendto(b"\0\1file\0octet\0", server)
            for number in (1, 2):
                clients[0].sendto(b"\0\4" + number.to_bytes(2), peer)
            assert old.wait(30) == 0
        finally:
            old.kill()
    assert sorted(manager.kept) == sorted(f"castd.127.0.0.1.{number}" for number in numbers)
    clients[2].sendto(b"\0\1file\0octet\0", server)
    (tmp_path / "x.yaml").write_text(head + lines[0])
    with launched(tmp_path, manager, manager.kept) as new:
        try:
            manager.until("FDSTOREREMOVE")
            assert list(manager.kept) == [f"castd.127.0.0.1.{numbers[0]}"]
            for client in clients[1:]:
                block, peer = client.recvfrom(600)
                assert block == b"\0\3\0\1" + bytes(512)
                for number in (1, 2):
                    client.sendto(b"\0\4" + number.to_bytes(2), peer)
            new.send_signal(signal.SIGTERM)
            assert new.wait(30) == 0
        finally:
            new.kill()
    for each in clients:
        each.close()


@pytest.mark.slow
@pytest.mark.loopback
def test_mainPid(tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    At an upgrade the manager is told which process is the main one, and then hears of that: it is ready, feeds the
    watchdog, and leaves the sockets there anew.
    """
    (tmp_path / "boot").mkdir()
    probe = datagram()
    number = probe.getsockname()[1]
    probe.close()
    (tmp_path / "x.yaml").write_text(
        f"castd: 1\ncontent: [{{directory: {{path: boot}}}}]\ncontrol: {{path: {tmp_path}/control}}\n"
        f"transports: {{tftp: {{port: {number}, interface: 127.0.0.1}}}}\n"
    )
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with launched(tmp_path, manager, {}) as old:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        command = [sys.executable, "-m", "castd", "upgrade", "--control", str(tmp_path / "control")]
        try:
            manager.until("READY")
            with subprocess.Popen(command, cwd=ROOT) as upgrading:
                main = int(manager.until("MAINPID")["MAINPID"])
                try:
                    said = [manager.read() for _ in range(2)]
                    assert [("FDSTORE" in each, "READY" in each) for each in said] == [(True, False), (False, True)]
                    assert upgrading.wait(60) == 0
                    assert old.wait(30) == 0
                    assert list(manager.kept) == [f"castd.127.0.0.1.{number}"]
                    manager.waiting()
                    manager.until("WATCHDOG")
                finally:
                    os.kill(main, signal.SIGTERM)
            manager.until("STOPPING")
        finally:
            old.kill()


@pytest.mark.slow
@pytest.mark.loopback
def test_mainPidAgain(tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that serves again, as the one that had taken over was killed, tells the manager to watch it."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "file").write_bytes(bytes(700))
    probe = datagram()
    number = probe.getsockname()[1]
    probe.close()
    (tmp_path / "x.yaml").write_text(
        f"castd: 1\ncontent: [{{directory: {{path: boot}}}}]\ncontrol: {{path: {tmp_path}/control}}\n"
        f"transports: {{tftp: {{port: {number}, interface: 127.0.0.1, silence: 1 min}}}}\n"
    )
    client = datagram()
    client.settimeout(30)
    with launched(tmp_path, manager, {}) as old:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        command = [sys.executable, "-m", "castd", "upgrade", "--control", str(tmp_path / "control")]
        try:
            manager.until("READY")
            # A transfer keeps the old process alive.
            client.sendto(b"\0\1file\0octet\0", ("127.0.0.1", number))
            _, peer = client.recvfrom(600)
            with subprocess.Popen(command, cwd=ROOT) as upgrading:
                main = int(manager.until("MAINPID")["MAINPID"])
                manager.until("READY")
                assert upgrading.wait(60) == 0
            os.kill(main, signal.SIGKILL)
            assert int(manager.until("MAINPID")["MAINPID"]) == old.pid
            manager.until("READY")
            client.sendto(b"\0\4\0\1", peer)
            client.sendto(b"\0\4\0\2", peer)
            old.send_signal(signal.SIGTERM)
            manager.until("STOPPING")
            assert old.wait(30) == 0
        finally:
            old.kill()
    client.close()


class Several:
    """Keeps how long the datagrams of a burst are."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client

    def lengths(self) -> list[int]:
        found = []
        while True:
            try:
                found.append(len(self.client.recv(65535, socket.MSG_DONTWAIT)))
            except BlockingIOError:
                return found


@pytest.mark.loopback
def test_burstsOfTwo() -> None:
    """
    Two processes send bursts through one socket, and each datagram is as long as it is meant to be: that the kernel
    cuts them is an option of the socket, which neither may change behind the other's back.
    """
    client = datagram()
    heard, address = Several(client), client.getsockname()
    first = Ports(Reactor(), random.Random(0)).listen(0, Hearer(), "127.0.0.1")
    assert first.writeBurst(memoryview(bytes(2500)), 1000, address) == 2500
    assert heard.lengths() == [1000, 1000, 500]
    shared = socket.socket(fileno=os.dup(first.fileno()))
    number = shared.getsockname()[1]
    given = Ports(Reactor(), random.Random(0), None, {("127.0.0.1", number): shared}, shared=True)
    second = given.listen(number, Hearer(), "127.0.0.1")
    second.pause(False)
    first.writeBurst(memoryview(bytes(2500)), 1000, address)
    assert heard.lengths() == [1000, 1000, 500]
    first.pause(True)
    second.resume(False)
    for port, step in ((first, 1000), (second, 700), (first, 1000), (second, 2000), (first, 500)):
        port.writeBurst(memoryview(bytes(2 * step + 1)), step, address)
        assert heard.lengths() == [step, step, 1]
        port.write(bytes(1400), address)
        assert heard.lengths() == [1400]
    first.stopListening()
    second.resume(True)
    second.writeBurst(memoryview(bytes(2500)), 1000, address)
    assert heard.lengths() == [1000, 1000, 500]
    second.stopListening()
    # One that a process before has left in the middle of its bursts.
    left = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    left.bind(("127.0.0.1", 0))
    left.setsockopt(socket.IPPROTO_UDP, 103, 400)
    number = left.getsockname()[1]
    third = Ports(Reactor(), random.Random(0), None, {("127.0.0.1", number): left}).listen(
        number, Hearer(), "127.0.0.1"
    )
    third.write(bytes(1400), address)
    assert heard.lengths() == [1400]
    third.stopListening()
    client.close()
