"""One process takes over from another: here both are in memory, on one machine of a virtual network."""

import errno
import json
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent

from castd.dialects.mtftp import REUSE_DELAY
from castd.packets import slam
from castd.service.admin import CONNECTION_TIMEOUT
from castd.service.service import Server, compose, read
from castd.testing import Network, RecordingClient
from castd.upgrade import handover, predecessor
from castd.upgrade.channel import LONGEST, Packet, receivePacket, sendPacket, socketPair
from castd.upgrade.predecessor import DEATH_TIMEOUT, Inheritance, Predecessor
from castd.upgrade.successor import EXIT_TIMEOUT, READY_TIMEOUT, SERVING_TIMEOUT, Successor
from tests.support.disks import result
from tests.support.log import observed
from tests.support.server import CLIENT, COLLECTED, SERVER, START, TFTP, AdminEndpoints, Client
from tests.test_reload import BODY

SINGLE = "transports: {tftp: {single-port: true}}\n"
SLAM = "transports: {slam: {file: file, interface: 10.0.0.1}}\n"
EVERYTHING = slam.buildList([range(2)])


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, body in (("boot", BODY), ("other", BODY[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(body)
    return tmp_path


class End:
    """One end of a channel in memory, as L{castd.upgrade.channel.Channel}."""

    def __init__(self, line: "Line", heard: Callable[..., object], lost: Callable[[], object]) -> None:
        self.line, self._heard, self._lost = line, heard, lost
        self.other: End | None = None
        self.open = True

    def send(self, told: dict[str, Any], datagram: bytes = b"", descriptors: object = ()) -> None:
        if self.open and self.other is not None:
            self.line.said.append(told["say"])
            # A message is on its way for a moment, and nothing but JSON.
            text = json.dumps(told)
            assert len(text) + 1 + len(datagram) <= LONGEST
            self.line.network.callLater(self.line.delay, self.other.hear, json.loads(text), datagram)

    def hear(self, told: dict[str, Any], datagram: bytes) -> None:
        if self.open:
            self._heard(told, datagram)

    def doRead(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        if self.open:
            self.open = False
            if self.other is not None:
                self.line.network.callLater(self.line.delay, self.other.lose)

    def lose(self) -> None:
        if self.open:
            self.open = False
            self._lost()


class Line:
    """What two processes have in common."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.ends: list[End] = []
        self.said: list[str] = []
        self.delay = 0.0001

    def __call__(self, end: socket.socket, heard: Callable[..., object], lost: Callable[[], object]) -> End:
        if end is not None:
            end.close()
        made = End(self, heard, lost)
        if self.ends:
            made.other, self.ends[-1].other = self.ends[-1], made
        self.ends.append(made)
        return made


class Given:
    """What the new process has been given, as L{castd.upgrade.predecessor.Inheritance}."""

    pid, adminAddresses, end = 1234, {}, None

    def __init__(self) -> None:
        self.refused: list[str] = []

    def refuse(self, faults: list[str]) -> None:
        self.refused += faults


class Case:
    """A server on a network in memory, and the one that takes over from it."""

    def __init__(self, folder: Path, network: Network, text: str, after: str | None = None) -> None:
        self.folder, self.network, self.text, self.after = folder, network, text, after
        self.host = network.host(SERVER)
        self.old = self.made(text, self.host)
        self.line = Line(network)
        self.left: list[str] = []
        self.killed = 0
        self.killedOld = False
        self.new: Server | None = None
        self.old.handover.makeSuccessor = lambda: Successor(
            self.old, self.host.boundSockets, self.spawn, lambda: self.left.append("old"), self.line
        )
        self.old.privilegedStartService()
        self.old.startService()

    def write(self, text: str) -> None:
        (self.folder / "x.yaml").write_text(text)

    def made(self, text: str, host: Any) -> Server:
        self.write(text)
        return compose(read(self.folder / "x.yaml", COLLECTED), COLLECTED, host, host, random.Random(0))

    def spawn(self, end: socket.socket, exited: Callable[[str], object]) -> "Case":
        self.exited, self.pid = exited, 4321
        self.new = self.made(self.text if self.after is None else self.after, self.host.successor())
        given: Any = Given()
        self.new.handover.predecessor = Predecessor(
            self.new, given, lambda: self.left.append("new"), self.line, lambda pid: self.killedOld
        )
        self.new.handover.predecessor.setServiceParent(self.new)
        return self

    def start(self) -> None:
        """The new process is up."""
        assert self.new is not None
        self.new.privilegedStartService()
        self.new.startService()

    def kill(self) -> None:
        self.killed += 1
        if len(self.line.ends) == 2:
            self.die()
        else:
            self.exited("was ended by signal 9")

    def die(self) -> None:
        """The new process is no more."""
        assert self.new is not None
        for port in self.new.site.ports.openPorts():
            self.new.site.ports.unbind(port)
        self.line.ends[-1].close()
        self.exited("was ended by signal 9")

    def upgrade(self) -> tuple[str, ...]:
        """Return the faults, once they are known."""
        told: list[tuple[str, ...]] = []
        self.old.handover.upgrade().addCallback(told.append)
        self.start()
        self.network.run(lambda: told, limit=60)
        return told[0]

    def casts(self) -> tuple[int, int]:
        """Return how many the old one has, and the new one."""
        assert self.new is not None
        return self.old.site.admission.casts, self.new.site.admission.casts


@pytest.fixture
def case(folder: Path, network: Network) -> Callable[..., Case]:
    return lambda *texts: Case(folder, network, *texts)


def test_takenOver(case: Callable[..., Case], network: Network) -> None:
    """Whoever asks after the word is answered by the new process; the old one ends its transfers and leaves."""
    one = case(START + TFTP)
    early = Client(network)
    assert one.upgrade() == ()
    late = Client(network)
    assert one.casts() == (1, 1)
    assert (late.finish(), early.finish()) == (BODY, BODY)
    network.advance(60)
    assert (one.casts(), one.left) == ((0, 0), ["old"])
    assert one.old.unready() == "draining"
    assert one.new is not None
    assert one.new.unready() is None


def test_inBetween(case: Callable[..., Case], network: Network) -> None:
    """What comes while nobody reads is answered once somebody does."""
    one = case(START + TFTP)
    one.line.delay = 0.1
    told: list[object] = []
    one.old.handover.upgrade().addCallback(told.append)
    one.start()
    network.run(lambda: one.old.addresses[0].port.paused, limit=1)
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\1file\0octet\0", (SERVER, 69))
    assert box.expect().datagram[:4] == b"\0\3\0\1"
    network.run(lambda: told, limit=1)
    assert (told, one.casts()) == ([()], (0, 1))


def test_machines(case: Callable[..., Case], network: Network) -> None:
    """What machines have said of themselves is known to the new process, however many they are, as old as it is."""
    one = case(START + TFTP)
    for number in range(600):
        high, low = divmod(number, 256)
        one.old.site.machines.hear(f"52:54:00:00:{high:02x}:{low:02x}", None, "efi-x64", f"10.3.{high}.{low}")
    network.advance(9)
    assert one.upgrade() == ()
    assert one.new is not None
    heard = one.new.site.machines.heard()
    assert len(heard) == 600
    assert heard[599]._replace(at=0.0) == ("52:54:00:00:02:57", None, "efi-x64", "10.3.2.87", 0.0)
    assert heard[599].at >= 9


def test_muchState(case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the old process has under way is known to the new one, however much that is, and however long."""
    one = case(START + SINGLE)
    peers = [(f"fe80::{high:x}:{low:x}%enp0s31f6", 65535, 0, 1) for high in range(20) for low in range(256)]
    groups = [(f"239.255.{number // 256}.{number % 256}", 6969) for number in range(2000)]
    transport: Any = one.old.addresses[0].transport
    monkeypatch.setattr(transport, "requestPortPeers", lambda: peers)
    monkeypatch.setattr(transport, "groups", lambda: groups)
    for number, group in enumerate(groups):
        one.old.site.groupPool.reserve(group, f"{number}/" + "\N{SNOWMAN}" * 400, 10)
    assert one.upgrade() == ()
    assert one.new is not None
    previous: Any = one.new.site.predecessor
    assert (previous._guests, dict(previous.groups)) == ({("", 69): set(peers)}, dict.fromkeys(groups, 1))
    assert [use.partition("/")[0] for use, _ in previous._used.values()] == [str(number) for number in range(2000)]


def test_singlePort(case: Callable[..., Case], network: Network) -> None:
    """A transfer on the listening port goes on through the new process; its client's next one is the new one's own."""
    one = case(START + SINGLE)
    early = Client(network)
    assert one.upgrade() == ()
    assert not early.step()
    assert one.casts() == (1, 0)
    assert early.finish() == BODY
    early.body = b""
    early.box.send(b"\0\1file\0octet\0", (SERVER, 69))
    assert early.finish() == BODY
    assert "give" in one.line.said
    network.advance(60)
    assert (one.casts(), one.left) == ((0, 0), ["old"])


def test_restarted(case: Callable[..., Case], network: Network) -> None:
    """A machine that restarts in the middle and asks from the same port is served by the new process."""
    one = case(START + SINGLE)
    early = Client(network)
    assert not early.step()
    assert one.upgrade() == ()
    early.body = b""
    network.advance(0.01)
    early.box.take()
    early.box.send(b"\0\1file\0octet\0blksize\x001000\0", (SERVER, 69))
    assert early.box.expect().datagram == b"\0\6blksize\x001000\0"
    assert ("back" in one.line.said, one.casts()) == (True, (0, 1))


def test_upload(case: Callable[..., Case], network: Network, folder: Path) -> None:
    """Uploads as well: the one under way ends with the old process, and one that comes to it is handed back."""
    (folder / "drop").mkdir()
    rules = "uploads: [{directory: {path: drop, policy: overwrite}}]\naccess: [{allow: any}]\n"
    one = case(START + rules + SINGLE)
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\2up\0octet\0", (SERVER, 69))
    assert box.expect().datagram == b"\0\4\0\0"
    assert one.upgrade() == ()
    box.send(b"\0\3\0\1" + b"x" * 512, (SERVER, 69))
    assert box.expect().datagram == b"\0\4\0\1"
    box.send(b"\0\2other\0octet\0", (SERVER, 69))
    network.advance(0.1)
    box.take()
    box.send(b"\0\2other\0octet\0", (SERVER, 69))
    assert box.expect().datagram == b"\0\4\0\0"
    assert one.casts() == (0, 1)


def test_sizeOnly(case: Callable[..., Case], network: Network, events: list[dict[str, Any]]) -> None:
    """Once another process serves, this one does not see whether a machine comes back that has asked for a size."""
    one = case(START + TFTP)
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\1file\0octet\0tsize\x000\0", (SERVER, 69))
    box.send(b"\0\5\0\0\0", box.expect().source)
    network.advance(1)
    assert one.upgrade() == ()
    network.advance(60)
    assert [event for event in events if event.get("event") == "size-only"] == []


@pytest.mark.parametrize("dies", ["old", "new"])
def test_uploadsOfTheDead(case: Callable[..., Case], network: Network, folder: Path, dies: str) -> None:
    """What a process that was killed has left of its uploads is removed by the one that goes on, once it is over."""
    (folder / "drop").mkdir()
    one = case(f"{START}uploads: [{{directory: {{path: drop}}}}]\naccess: [{{allow: any}}]\n{SINGLE}")
    assert one.upgrade() == ()
    left = folder / "drop" / ".castd-1234-1.part"
    left.write_bytes(b"half")
    if dies == "new":
        one.die()
    else:
        one.line.ends[0].close()
        network.advance(0.5)
        assert left.exists()  # it may be locked as long as the process is dying
        one.killedOld = True
    network.advance(0.2)
    assert not left.exists()


def test_looking(case: Callable[..., Case], network: Network) -> None:
    """A request whose file is still being looked for when the new process takes over is answered by that."""

    class Slow:
        """A source that takes its time."""

        def __init__(self, source: Any) -> None:
            self.source, self.asked = source, Deferred()
            self.asked: Deferred[None]

        def lookup(self, *given: Any) -> Any:
            """As the chain of sources."""
            return self.asked.addCallback(lambda _: self.source.lookup(*given))

    one = case(START + TFTP)
    slow = one.old.site.content = Slow(one.old.site.content)
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\1file\0octet\0", (SERVER, 69))
    network.advance(0.1)
    assert one.upgrade() == ()
    network.advance(5)
    assert (one.left, box.inbox) == ([], [])
    slow.asked.callback(None)
    assert box.expect().datagram[:4] == b"\0\3\0\1"
    assert one.casts() == (0, 1)
    network.advance(1)
    assert one.left == ["old"]


@pytest.mark.parametrize("most", [4096, 0])
def test_fixedGroup(case: Callable[..., Case], network: Network, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """
    A fixed group is never sent to by both: who comes joins the cast of the old process, after `limits.drain` waits for
    its end, and is served then though it asks no more.  However few are taken for members in advance.
    """
    monkeypatch.setattr(predecessor, "MOST_GUESTS", most)
    one = case(START + SLAM)
    one.old.site.bar("10.0.0.77", "file", 1000, "for some reason")
    boxes = [RecordingClient(network.host(f"10.0.0.{20 + each}")) for each in range(3)]
    boxes[0].send(EVERYTHING, (SERVER, 10000))
    network.advance(0.01)
    assert one.upgrade() == ()
    boxes[1].send(EVERYTHING, (SERVER, 10000))
    network.advance(0.05)
    (old,) = one.old.addresses[0].transport.casts()
    assert ([peer[0] for peer in old.receivers], one.casts()) == (["10.0.0.20", "10.0.0.21"], (1, 0))
    assert one.new is not None
    assert one.new.site.barred("10.0.0.77", "file") == "for some reason"
    for _ in range(250):
        for box in boxes[:2]:
            if any(len(each.datagram) > 1 for each in box.take()):
                box.send(EVERYTHING, (SERVER, 10000))
        network.advance(0.1)
    assert one.casts() == (1, 0)
    boxes[2].send(EVERYTHING, (SERVER, 10000))
    network.advance(0.05)
    assert len(old.receivers) == 2
    for box in boxes[:2]:
        box.send(b"\0", (SERVER, 10000))
    network.run(lambda: one.casts()[1], limit=60)
    assert one.casts() == (0, 1)
    (new,) = one.new.addresses[0].transport.casts()
    assert [peer[0] for peer in new.receivers] == ["10.0.0.22"]
    assert one.new.site.predecessor is None or not one.new.site.predecessor.groups


@pytest.mark.parametrize("ends", ["before", "after", "dead"])
def test_newVersionRests(case: Callable[..., Case], network: Network, ends: str) -> None:
    """
    Another version of MTFTP's file waits in the new process for as long as it would in the old one: whether that one's
    pass ends before or after the new one reads, or with its process.
    """
    text = START + "transports: {mtftp: {interface: 10.0.0.1, clients: any, files: {file: '239.255.1.1:3001'}}}\n"
    one = case(text, text.replace("boot", "other"))

    def ask(host: str) -> RecordingClient:
        box = RecordingClient(network.host(host))
        box.send(b"\0\1file\0octet\0", (SERVER, 1759))
        network.advance(0.3)
        return box

    def end() -> None:
        box.send(b"\0\4\0\5", (SERVER, 1759))
        network.run(lambda: not one.old.site.admission.casts, limit=60)

    box = ask("10.0.0.20")
    assert box.inbox[0].datagram[4:] == BODY[:512]
    if ends == "before":
        end()
    assert one.upgrade() == ()
    if ends == "after":
        end()
    elif ends == "dead":
        one.line.ends[0].close()
        network.advance(0.01)
    assert ask("10.0.0.21").inbox == []
    network.advance(REUSE_DELAY - 1)
    assert ask("10.0.0.22").inbox == []
    network.advance(1)
    assert ask("10.0.0.23").inbox[0].datagram[4:] == BODY[::-1][:512]


def test_pool(case: Callable[..., Case], network: Network) -> None:
    """No group address of the old process is given to a group of the new one, nor one that rests."""
    text = START + "transports: {multicast: {interface: 10.0.0.1, groups: 239.255.7.0/31, clients: any}, tftp: }\n"
    one = case(text.replace("tftp: ", "tftp: {interface: 10.0.0.1}"))

    def ask(host: str) -> bytes:
        box = RecordingClient(network.host(host))
        box.send(b"\0\1file\0octet\0multicast\0\0", (SERVER, 69))
        return box.expect().datagram

    first = ask("10.0.0.8")
    assert b"multicast" in first
    assert one.upgrade() == ()
    second = ask("10.0.0.9")
    assert b"multicast" in second
    assert first.split(b",")[0] != second.split(b",")[0]


def test_barred(case: Callable[..., Case], network: Network) -> None:
    """What a transport of the old process warns of afterwards holds in the new one."""
    one = case(START + SINGLE)
    Client(network)
    assert one.upgrade() == ()
    one.old.site.bar("10.0.0.77", "file", 10, "its group broke")
    network.advance(0.1)
    assert one.new is not None
    assert one.new.site.barred("10.0.0.77", "file") == "its group broke"


def test_unclaimed(case: Callable[..., Case], network: Network) -> None:
    """An address that the new service file does not have stays the old process's to the end of its transfers."""
    both = "transports: {tftp: , b: {use: tftp, port: 70, single-port: true}}\n"
    one = case(START + both, START + TFTP)
    early = Client(network, port=70)
    assert one.upgrade() == ()
    assert not early.step()
    stranger = RecordingClient(network.host("10.0.0.7"))
    stranger.send(b"\0\1file\0octet\0", (SERVER, 70))
    network.advance(0.5)
    assert stranger.inbox == []
    assert early.finish() == BODY
    network.advance(60)
    assert one.left == ["old"]


def test_reloadBesideTheOld(case: Callable[..., Case], network: Network) -> None:
    """
    An address that a reload of the new process removes is read for the old one's transfers until that has ended; and
    it makes no room for another one before, as the old process has it open, too.
    """
    both = "transports: {tftp: {}, b: {use: tftp, port: 70, interface: 10.0.0.1, single-port: true}}\n"
    one = case(START + both)
    early = Client(network, port=70)
    assert one.upgrade() == ()
    assert one.new is not None
    one.write(START + both.replace("interface: 10.0.0.1, ", ""))
    (fault,) = result(one.new.reread())
    why = "process 1234, which was here before this one, still has it open: try again when it has ended"
    assert fault.endswith(f"transports.b: 10.0.0.1:70 is to make room, but {why}")
    for text in (TFTP, both, TFTP):
        one.write(START + text)
        assert result(one.new.reread()) == ()
        network.advance(1)
        assert not early.step()
    assert [each.bindAddress[1] for each in one.new.addresses] == [69, 70]
    assert early.finish() == BODY
    network.advance(60)
    assert one.left == ["old"]
    one.killedOld = True
    one.line.ends[0].close()
    network.advance(1)
    assert [each.bindAddress[1] for each in one.new.addresses] == [69]
    assert len(network.getDelayedCalls()) == 0


def test_reloadsOfItsOwn(case: Callable[..., Case], network: Network) -> None:
    """An address that the old process has never had is closed, and makes room for another one, as if that were gone."""
    both = "transports: {tftp: {}, b: {use: tftp, port: 70, interface: 10.0.0.1}}\n"
    one = case(START + TFTP)
    early = Client(network)
    assert one.upgrade() == ()
    assert one.new is not None
    for text, ports in (
        (both, [69, 70]),
        (TFTP, [69]),
        (both, [69, 70]),
        (both.replace("interface: 10.0.0.1", ""), [69, 70]),
    ):
        one.write(START + text)
        assert result(one.new.reread()) == ()
        network.advance(1)
        assert not early.step()
        assert [each.bindAddress[1] for each in one.new.addresses] == ports
    assert early.finish() == BODY


def test_adminPorts(case: Callable[..., Case], network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new process opens its admin ports, those that are new in its file, and those that the old one has had."""
    endpoints = AdminEndpoints(monkeypatch)
    control = f"control: {{path: {folder}/control}}\n"
    one = case(START + TFTP + control, START + TFTP + control + "metrics: {listen: '127.0.0.1:9147'}\n")
    given: Any = Given
    monkeypatch.setattr(given, "adminAddresses", one.old.adminAddresses())
    assert one.upgrade() == ()
    network.advance(1)
    assert one.new is not None
    assert one.new.adminAddresses() == {"metrics": "127.0.0.1:9147", "control": f"{folder}/control"}
    assert endpoints.open[network] == {"127.0.0.1:9147", f"{folder}/control"}


def test_goneWrong(case: Callable[..., Case], network: Network) -> None:
    """A new process that ends before it is ready, says no or takes too long changes nothing, and the reason is told."""
    one = case(START + TFTP)
    early = Client(network)
    told: list[tuple[str, ...]] = []
    one.old.handover.upgrade().addCallback(told.append)
    assert one.old.handover.upgrade().result == ("an upgrade is under way",)
    assert result(one.old.reread()) == ("an upgrade is under way",)
    one.exited("ended with status 1")
    one.line.ends.clear()
    one.old.handover.upgrade().addCallback(told.append)
    one.old.handover.successor._received({"say": "refused", "faults": ["x.yaml:3: no"]}, b"")
    one.exited("ended with status 1")
    one.line.ends.clear()
    one.old.handover.upgrade().addCallback(told.append)
    network.advance(READY_TIMEOUT + 1)
    assert told == [
        ("the new process ended with status 1 before it was ready; the log says why",),
        ("x.yaml:3: no",),
        (f"the new process was not ready within {READY_TIMEOUT:g} s",),
    ]
    assert one.killed == 1
    assert (one.old.unready(), early.finish(), Client(network).finish()) == (None, BODY, BODY)
    assert result(one.old.reread()) == ()


@pytest.mark.parametrize(
    ("count", "rest"), [(101, "x:100: no"), (6000, "5900 more faults: castd check shows all of them")]
)
def test_manyFaults(
    case: Callable[..., Case], network: Network, events: list[dict[str, Any]], count: int, rest: str
) -> None:
    """Of very many faults of a new process the first hundred are told and logged, and how many more there are."""
    one = case(START + TFTP)
    told: list[tuple[str, ...]] = []
    one.old.handover.upgrade().addCallback(told.append)
    ours, theirs = socketPair()
    with ours, theirs:
        sendPacket(ours, Packet({"say": "begin", "pid": 7, "doors": {}}))
        Inheritance(theirs).refuse(f"x:{number}: no" for number in range(count))
        one.old.handover.successor._received(receivePacket(ours).message, b"")
    one.exited("ended with status 78")
    assert told == [(*(f"x:{number}: no" for number in range(100)), rest)]
    logged = [event["fault"] for event in events if event.get("event") == "refused-upgrade"]
    assert tuple(logged) == told[0]


def test_manyFaultsOfAnotherVersion(case: Callable[..., Case]) -> None:
    """A new process that tells all of its faults has no more of them logged than any other."""
    one = case(START + TFTP)
    told: list[tuple[str, ...]] = []
    one.old.handover.upgrade().addCallback(told.append)
    one.old.handover.successor._received({"say": "refused", "faults": [f"x:{each}: no" for each in range(1000)]}, b"")
    one.exited("ended with status 78")
    assert (len(told[0]), told[0][-1]) == (101, "900 more faults: castd check shows all of them")


def test_takenBack(case: Callable[..., Case], network: Network) -> None:
    """If the new process dies, the old one serves on as if nothing had been; and may be upgraded once more."""
    one = case(START + SINGLE)
    early = Client(network)
    assert one.upgrade() == ()
    refused: list[object] = []
    with observed(lambda event: refused.append((event["event"], event["fault"]))):
        assert one.old.handover.upgrade().result == ("another process has taken over",)
    assert refused == [("refused-upgrade", "another process has taken over")]
    one.die()
    network.advance(0.1)
    assert one.old.unready() is None
    late = Client(network, host="10.0.0.7")
    assert (late.finish(), early.step(), one.left) == (BODY, False, [])
    one.line.ends.clear()
    assert one.upgrade() == ()
    assert early.finish() == BODY
    network.advance(60)
    assert one.left == ["old"]


class Faulty:
    """What a plugin should not raise, or return."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer

    def __call__(self, *_: object) -> Any:
        if self.answer is None:
            raise SystemExit(1)
        return self.answer


@pytest.mark.parametrize("answer", [None, 7, [7], [["10.0.0.9"]], [b"10.0.0.9"], [object()]])
def test_faultyPlugin(
    case: Callable[..., Case], network: Network, events: list[dict[str, Any]], answer: object
) -> None:
    """A transport that cannot tell what it has under way, nor hand it over, is upgraded with all others."""
    both = "transports: {tftp: , b: {use: tftp, port: 70, single-port: true}}\n"
    one = case(START + both)
    early = Client(network)
    transport: Any = one.old.addresses[1].transport
    transport.requestPortPeers = transport.groups = transport.handOver = Faulty(answer)
    assert one.upgrade() == ()
    assert one.old.addresses[1].requestPortPeers() == one.old.addresses[1].groups() == []
    assert [Client(network, port=port, host=f"10.0.0.{port}").finish() for port in (69, 70)] == [BODY, BODY]
    assert early.finish() == BODY
    said = {formatEvent(event).partition(" ")[2] for event in events if event.get("event") == "fault"}
    assert {"telling the peers at it failed", "telling its groups failed"} <= said
    assert ("draining failed" in said) == (answer is None)
    network.advance(60)
    assert one.left == ["old"]


@pytest.mark.parametrize("fails", ["machines", "bars", "stopServing", "leaveWatch"])
def test_cannotHandOver(
    case: Callable[..., Case], network: Network, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """If a process fails once it has stopped reading, it ends the new one, reads again and goes on."""
    one = case(START + SINGLE)
    early = Client(network)
    place: Any = one.old.site.machines if fails == "machines" else one.old.site if fails == "bars" else one.old
    monkeypatch.setattr(place, "heard" if fails == "machines" else fails, Faulty())
    assert one.upgrade() == ("a fault of castd or of a plugin, see the log",)
    assert (one.killed, one.left, one.old.unready()) == (1, [], None)
    assert (early.finish(), Client(network, host="10.0.0.7").finish()) == (BODY, BODY)
    monkeypatch.undo()
    one.line.ends.clear()
    assert one.upgrade() == ()


class Notifier:
    """Records what the service manager is told."""

    muted = False

    def __init__(self) -> None:
        self.said: list[str] = []

    def notify(self, *lines: str) -> None:
        if not self.muted:
            self.said += lines


@pytest.mark.parametrize("unread", [False, True])
def test_diesAsPortsClose(
    case: Callable[..., Case], network: Network, monkeypatch: pytest.MonkeyPatch, unread: bool
) -> None:
    """
    If the new process has died by the time that it may read, the service manager watches the old one, which goes on:
    also if that it is ready is read only then.
    """
    one = case(START + SINGLE)
    notifier: Any = Notifier()
    one.old.setServiceManager(notifier, 10.0)
    one.old.watch.start()
    stopServing, closed = one.old.stopServing, list[Deferred[None]]()

    def closing() -> Deferred[None]:
        closed.append(Deferred())
        return stopServing().addCallback(lambda _: closed[0])

    monkeypatch.setattr(one.old, "stopServing", closing)
    told: list[tuple[str, ...]] = []
    one.old.handover.upgrade().addCallback(told.append)
    one.start()
    if unread:
        (old, _) = one.line.ends
        monkeypatch.setattr(old, "doRead", lambda: old.hear({"say": "ready", "claimed": [["", 69]]}, b""))
    else:
        network.run(lambda: closed, limit=1)
    one.die()
    for each in closed:
        each.callback(None)
    network.advance(30)
    mains = [line for line in notifier.said if line.startswith("MAINPID")]
    assert mains == ([] if unread else [f"MAINPID={os.getpid()}"])
    assert ("WATCHDOG=1" in notifier.said, notifier.muted, one.old.unready()) == (True, False, None)
    assert (len(closed), len(told), one.left) == (0 if unread else 1, 1, [])
    assert Client(network).finish() == BODY


@pytest.mark.parametrize("hangs", ["closing", "reading"])
def test_hangsReady(
    case: Callable[..., Case],
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    events: list[dict[str, Any]],
    hangs: str,
) -> None:
    """A process that is ready, and then hangs, is killed, so is one that the admin ports keep waiting."""
    one = case(START + SINGLE)
    early = Client(network)
    if hangs == "closing":
        monkeypatch.setattr(one.old, "stopServing", Deferred[None])
    told: list[tuple[str, ...]] = []
    one.old.handover.upgrade().addCallback(told.append)
    one.start()
    network.run(lambda: one.old.handover.successor.takenOver, limit=1)
    if hangs == "reading":
        monkeypatch.setattr(one.line.ends[1], "_heard", lambda *_: None)
    network.advance(SERVING_TIMEOUT - 0.1)
    assert (one.killed, one.old.addresses[0].port.paused) == (0, True)
    network.advance(0.2)
    why = f"the new process did not take over within {SERVING_TIMEOUT:g} s, though it was ready"
    assert (one.killed, told) == (1, [(why,)])
    refused = [formatEvent(event) for event in events if event.get("event") == "refused-upgrade"]
    assert refused == [f"no upgrade (1 of 1): {why}"]
    assert (early.finish(), Client(network, host="10.0.0.7").finish()) == (BODY, BODY)


def test_theCommandIsAnswered() -> None:
    """However long a new process takes, C{castd upgrade} is answered before its connection is given up."""
    assert READY_TIMEOUT + 2 * SERVING_TIMEOUT < CONNECTION_TIMEOUT


def test_slowToLeave(case: Callable[..., Case], network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process is not killed for the time that the old one takes to stop reading, nor later for its own."""
    one = case(START + SINGLE)
    early = Client(network)
    leaveWatch = one.old.leaveWatch

    def slow(pid: int) -> None:
        network.rightNow += 2 * SERVING_TIMEOUT
        leaveWatch(pid)

    monkeypatch.setattr(one.old, "leaveWatch", slow)
    assert one.upgrade() == ()
    network.advance(SERVING_TIMEOUT - 1)
    assert not early.step()
    network.advance(2)
    assert (one.killed, one.left) == (0, [])


def test_readyTooLate(case: Callable[..., Case], network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a new process is ready, or serves, counts no more once it is killed."""
    one = case(START + TFTP)
    killed: list[str] = []
    monkeypatch.setattr(one, "kill", lambda: killed.append("new"))
    told: list[tuple[str, ...]] = []
    one.old.handover.upgrade().addCallback(told.append)
    network.advance(READY_TIMEOUT)
    one.start()
    network.advance(1)
    assert (killed, told, one.old.addresses[0].port.paused) == (["new"], [], False)
    one.line.ends[1].send({"say": "serving"})
    network.advance(1)
    assert told == []
    one.die()
    assert told == [(f"the new process was not ready within {READY_TIMEOUT:g} s",)]
    assert Client(network).finish() == BODY


def test_drainedAsItIsKilled(case: Callable[..., Case], network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old process does not leave once it has killed the new one, though its own transfers are over."""
    one = case(START + TFTP)
    early = Client(network)
    assert one.upgrade() == ()
    killed: list[str] = []
    monkeypatch.setattr(one, "kill", lambda: killed.append("new"))
    one.line.ends[1].close()
    network.run(lambda: killed, limit=EXIT_TIMEOUT + 1)
    assert early.finish() == BODY
    network.advance(60)
    assert one.left == []
    one.exited("was ended by signal 9")
    assert one.old.unready() is None


def test_stopped(case: Callable[..., Case], network: Network) -> None:
    """A new process that is stopped has the old one stopped as well, and waits for it."""
    one = case(START + SINGLE)
    early = Client(network)
    assert one.upgrade() == ()
    assert one.new is not None
    over: list[object] = []
    lines: list[str] = []
    with observed(lambda event: lines.append(formatEvent(event))):
        one.new.logStopping("SIGTERM", True)
    assert lines == ["castd stops by SIGTERM: 0 transfers have 20 s to end, and those of process 1234"]
    one.new.stopService().addCallback(over.append)
    network.advance(0.1)
    assert (one.left, over) == (["old"], [])
    one.old.stopService()
    assert early.finish() == BODY
    network.advance(60)
    one.line.ends[0].close()
    network.advance(60)
    assert len(over) == 1


def test_stopsMeanwhile(case: Callable[..., Case], network: Network) -> None:
    """A server that is told to stop while the new process starts does not hand over; that one leaves."""
    one = case(START + TFTP)
    Client(network)
    told: list[object] = []
    one.old.handover.upgrade().addCallback(told.append)
    one.old.stopService()
    assert (told, one.killed) == ([("castd is stopping",)], 1)
    one.start()
    network.advance(1)
    assert "read" not in one.line.said


def test_disowned(case: Callable[..., Case], network: Network) -> None:
    """A new process whose predecessor breaks off, and lives, leaves: two processes must not read one port."""
    one = case(START + TFTP)
    one.old.handover.upgrade()
    one.start()
    one.line.ends[0].close()
    network.advance(DEATH_TIMEOUT - 0.5)
    assert one.left == []
    network.advance(1)
    assert one.left == ["new"]


def test_orphaned(case: Callable[..., Case], network: Network) -> None:
    """A new process whose predecessor is killed before the word takes over all the same, once it is sure of that."""
    one = case(START + TFTP)
    one.old.handover.upgrade()
    one.start()
    assert one.new is not None
    for port in one.old.site.ports.openPorts():
        one.old.site.ports.unbind(port)
    one.line.ends[0].close()
    network.advance(0.3)
    assert one.new.unready() is not None or one.new.handover.predecessor is not None
    one.killedOld = True
    network.advance(0.3)
    assert (one.left, one.new.unready(), one.new.site.predecessor) == ([], None, None)
    assert Client(network).finish() == BODY


@pytest.mark.parametrize("ended", [True, False])
def test_orphanedAndStopped(case: Callable[..., Case], network: Network, folder: Path, ended: bool) -> None:
    """A new process that is stopped while it makes sure that its predecessor is dead takes nothing over any more."""
    one = case(START + TFTP)
    one.old.handover.upgrade()
    one.start()
    assert one.new is not None
    for port in one.old.site.ports.openPorts():
        one.old.site.ports.unbind(port)
    one.line.ends[0].close()
    network.advance(0.3)
    over: list[object] = []
    one.new.stopService().addCallback(over.append)
    one.killedOld = ended
    network.advance(DEATH_TIMEOUT + 1)
    previous = one.new.handover.predecessor
    assert previous is not None
    assert (previous.takenOver, one.left, len(over)) == (False, [], 1)


def test_leftUnknown(case: Callable[..., Case], network: Network, events: list[dict[str, Any]]) -> None:
    """That a peer has left at a port where none is known is no fault."""
    one = case(START + TFTP)
    Client(network)
    assert one.upgrade() == ()
    one.line.ends[0].send({"say": "left", "at": ("10.0.0.1", 70), "peer": ("10.0.0.9", 7)})
    network.advance(1)
    assert [event for event in events if event.get("event") == "fault"] == []


def test_cannot(case: Callable[..., Case]) -> None:
    """Who was composed without a way to start another process says so."""
    one = case(START + TFTP)
    one.old.handover.makeSuccessor = None
    assert one.old.handover.upgrade().result == ("this castd cannot start another",)


@pytest.mark.parametrize(
    ("pid", "parent", "first", "why"),
    [
        (1, 0, "castd", "castd is process 1 here"),
        (7, 0, "pause", "castd was started from outside this container"),
        (7, 1, "docker-init", "castd is the first process of this container"),
        (7, 1, "systemd", None),
        (7, 1, None, None),
        (7, 6, "docker-init", None),
    ],
)
def test_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int, parent: int, first: str | None, why: str | None
) -> None:
    """The process that a container ends with cannot be replaced by another one, nor that which its init has started."""
    name = tmp_path / "comm"
    if first is not None:
        name.write_text(f"{first}\n")
    monkeypatch.setattr(handover, "_FIRST", name)
    monkeypatch.setattr(os, "getpid", lambda: pid)
    monkeypatch.setattr(os, "getppid", lambda: parent)
    found = handover.whyNever()
    assert found is None if why is None else found is not None and found.startswith(why)


def test_inAContainer(case: Callable[..., Case]) -> None:
    """Where another process could not outlive this one, none is started."""
    one = case(START + TFTP)
    one.old.handover.whyNever = "the container ends"
    assert one.old.handover.upgrade().result == ("the container ends",)


def test_noProcess(case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process or no descriptor can be had nothing changes, and another try is possible."""
    one = case(START + TFTP)

    def fails(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(one, "spawn", fails)
    for _ in range(2):
        assert one.old.handover.upgrade().result == ("no process can be started: Resource temporarily unavailable",)
    assert one.old.unready() is None
