"""A service file that changes under a running server: what it says holds at once, and nobody's transfer breaks."""

import gc
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol

from castd.cli.control import TIMEOUT
from castd.config import yaml
from castd.config.config import build
from castd.dialects.mtftp import REUSE_DELAY
from castd.errors import ConfigError
from castd.files import chains, names, root
from castd.files.access import Rules
from castd.files.chains import SourceChain
from castd.files.content import Directory, DirectoryOptions
from castd.files.regex import LinearRegex
from castd.files.threads import DiskThreads
from castd.observe.eventstore import Query
from castd.observe.metrics import Counters
from castd.packets import slam
from castd.server.listener import Listener
from castd.service.admin import CONNECTION_TIMEOUT
from castd.service.build import ServiceFile, ServiceFileRead
from castd.service.reload import _clash
from castd.service.rereads import REREAD_TIMEOUT
from castd.service.service import kinds
from castd.slices import Slices
from castd.testing import Network, RecordingClient
from castd.upgrade.handover import Handover
from tests.support.descriptors import Descriptors
from tests.support.disks import Later, LateResults, result
from tests.support.jobs import free, running, until
from tests.support.quick import slowBut
from tests.support.server import CLIENT, COLLECTED, SERVER, START, TFTP, AdminEndpoints, Case, Client, Turns

BODY = bytes(range(256)) * 8


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, body in (("boot", BODY), ("other", BODY[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(body)
    return tmp_path


def test_content(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """Other content is there for the next request; a transfer under way ends with the file it began with."""
    case = Case(folder, network, START + TFTP)
    early = Client(network)
    before = dict(network.bound)
    assert case.reload(START.replace("boot", "other") + TFTP) == ()
    assert network.bound == before
    late = Client(network)
    assert (late.finish(), early.finish()) == (BODY[::-1], BODY)
    assert [each["event"] for each in events if "reload" in str(each.get("event"))] == ["reloaded"]


def test_noThread(
    folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    """Where no thread can be started to read the file, that is said at once, and everything stays as it was."""

    def cannot(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    case = Case(folder, network, START + TFTP)
    case.server.thread = DiskThreads(1, waits=False)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot)
        (fault,) = case.reload(START.replace("boot", "other") + TFTP)
    why = "no thread can be started for its disk (TasksMax, ulimit -u, memory)"
    assert fault == f"{folder}/x.yaml: cannot be read: {why}"
    assert [each["fault"] for each in events if each.get("event") == "refused-reload"] == [fault]
    assert Client(network).finish() == BODY
    case.server.thread = maybeDeferred
    assert case.reload(START.replace("boot", "other") + TFTP) == ()


def test_access(folder: Path, network: Network) -> None:
    """Access rules hold at once, for new requests."""
    case = Case(folder, network, START + TFTP)
    early = Client(network)
    assert case.reload(START + "access: [{deny: any}]\n" + TFTP) == ()
    assert Client(network).code == 2
    assert early.finish() == BODY


def test_limits(folder: Path, network: Network) -> None:
    """Limits hold at once, counting those who are here; a rate slows down what is under way if there was one."""
    case = Case(folder, network, START + "limits: {rate: 1 MB/s}\n" + TFTP)
    early = Client(network)
    assert case.reload(START + "limits: {casts: 1, memory: 1 MiB, rate: 5 kB/s}\n" + TFTP) == ()
    box = RecordingClient(network.host("10.0.0.8"))
    box.send(b"\0\1file\0octet\0", (SERVER, 69))
    network.advance(0.5)
    assert box.inbox == []
    site = case.server.site
    assert (site.pacer.rate, site.blockCache.limit, site.admission.casts) == (5000, 1 << 20, 1)
    assert early.finish() == BODY
    assert case.reload(START + TFTP) == ()
    assert site.pacer is None
    assert Client(network, host="10.0.0.8").finish() == BODY


def test_lessMemory(folder: Path, network: Network) -> None:
    """A smaller limit of the memory holds at once, also if no further block is laid out."""
    (folder / "boot" / "large").write_bytes(bytes(3 << 20))
    case = Case(folder, network, START + TFTP)
    assert len(Client(network, name="large").finish()) == 3 << 20
    cache = case.server.site.blockCache
    assert cache.octets > 2 << 20
    assert case.reload(START + "limits: {memory: 1 MiB}\n" + TFTP) == ()
    assert cache.octets <= 1 << 20


def test_uploads(folder: Path, network: Network) -> None:
    """Uploads go where the new file says; a place that stays keeps knowing which names are being written."""
    allowed = "access: [{allow: any}]\n"
    first = START + "uploads: [{directory: {path: other}}]\n" + allowed + TFTP
    case = Case(folder, network, first)
    box, second = RecordingClient(network.host(CLIENT)), RecordingClient(network.host("10.0.0.8"))
    box.send(b"\0\2new\0octet\0", (SERVER, 69))
    ack = box.expect()
    assert case.reload(first) == ()
    second.send(b"\0\2new\0octet\0", (SERVER, 69))
    assert second.expect().datagram[:2] == b"\0\5"
    assert case.reload(START + allowed + TFTP) == ()
    box.send(b"\0\3\0\1abc", ack.source)
    box.send(b"\0\2newer\0octet\0", (SERVER, 69))


def test_stopAfterTheirDirectoryHasGone(folder: Path, network: Network) -> None:
    """A stop waits for the disk also where it breaks off an upload to a directory that the file has no more."""
    allowed, disk, stopped = "access: [{allow: any}]\nlimits: {drain: 1 s}\n" + TFTP, Later(), list[object]()
    case = Case(folder, network, START + "uploads: [{directory: {path: other, keep-free: 0}}]\n" + allowed)
    RecordingClient(network.host(CLIENT)).send(b"\0\2new\0octet\0", (SERVER, 69))
    network.advance(0.01)
    case.server.site.sinks["octet"].directories[0].uploads.thread = disk
    assert case.reload(START + allowed) == ()
    gc.collect()
    case.server.stopService().addBoth(stopped.append)
    network.advance(1.1)
    assert (stopped, len([*(folder / "other").glob(".castd-*")])) == ([], 1)
    disk.run()
    assert (len(stopped), [*(folder / "other").glob(".castd-*")]) == (1, [])


def test_abandonedUploads(folder: Path, network: Network) -> None:
    """What a crash has left of uploads in a directory that a reload adds is removed; what is being written stays."""
    place = START + "uploads: [{directory: {path: other, keep-free: 0}}]\naccess: [{allow: any}]\n" + TFTP
    case, left = Case(folder, network, START + TFTP), folder / "other" / ".castd-1234-1.part"
    left.write_bytes(b"half")
    assert case.reload(place) == ()
    assert not left.exists()
    RecordingClient(network.host(CLIENT)).send(b"\0\2new\0octet\0", (SERVER, 69))
    network.advance(0.01)
    assert case.reload(place.replace("keep-free: 0", "keep-free: 1")) == ()
    assert len([*(folder / "other").glob(".castd-*")]) == 1


def test_aDiskThatDoesNotAnswer(
    folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    """
    A reload does not touch a directory that stays, nor wait for a new one whose disk does not answer: that is opened
    when somebody asks for its files.
    """
    case = Case(folder, network, START + TFTP)
    (folder / "late").mkdir()
    (folder / "late" / "more").write_bytes(BODY)
    hangs, opened = threading.Event(), os.open

    def hanging(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(folder)) and "x.yaml" not in str(path):
            hangs.wait(10)
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", hanging)
    began = time.monotonic()
    assert case.reload(START.replace("}}]", "}}, {directory: {path: late, under: late}}]") + TFTP) == ()
    assert time.monotonic() - began < 5
    assert [event["path"] for event in events if event.get("event") == "slow-disk"] == [str(folder / "late")]
    hangs.set()
    assert Client(network).finish() == BODY
    assert Client(network, host="10.0.0.8", name="late/more").finish() == BODY


def test_options(folder: Path, network: Network) -> None:
    """Changed options of a transport hold for the next request; the port is the same and was never closed."""
    case = Case(folder, network, START + TFTP)
    port = network.bound[SERVER, 69]
    early = Client(network)
    assert case.reload(START + "transports: {tftp: {blksize: 600}}\n") == ()
    box = RecordingClient(network.host("10.0.0.8"))
    box.send(b"\0\1file\0octet\0blksize\0001400\0", (SERVER, 69))
    assert box.expect().datagram == b"\0\6blksize\x00600\0"
    assert network.bound[SERVER, 69] is port
    assert early.finish() == BODY


def test_addresses(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """An address that is new opens, one that is gone serves who is there, without a limit of time, and closes."""
    both = START + "transports: {tftp: , b: {use: tftp, port: 70, silence: 90 s}}\n"
    case = Case(folder, network, START + TFTP)
    assert case.reload(both) == ()
    assert case.ports() == [69, 70]
    early = Client(network, 70)
    assert case.reload(START + "limits: {drain: 1 s}\n" + TFTP) == ()
    late = RecordingClient(network.host("10.0.0.8"))
    late.send(b"\0\1file\0octet\0", (SERVER, 70))
    network.advance(20)
    assert (late.inbox, case.ports()) == ([], [69, 70])
    assert early.finish() == BODY
    network.advance(1)
    assert case.ports() == [69]
    assert case.server.site.requestPorts == {69: 1}
    assert [each["address"] for each in events if each.get("event") == "closed-port"] == ["*:70"]
    assert len(list(case.server)) == 1


def test_sizeOnly(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """A machine that asks for the size of a file, and not for the file, is told of, also if another address goes."""
    case = Case(folder, network, START + "transports: {tftp: , b: {use: tftp, port: 70}}\n")
    box = RecordingClient(network.host(CLIENT))
    box.send(b"\0\1file\0octet\0tsize\x000\0", (SERVER, 69))
    box.send(b"\0\5\0\0\0", box.expect().source)
    network.advance(1)
    assert case.reload(START + TFTP) == ()
    network.advance(31)
    assert [each["peer"] for each in events if each.get("event") == "size-only"] == [f"{CLIENT}:{box.address[1]}"]


def test_stopWhileItGoes(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """A stop ends who is there at an address that is gone as it ends all others, after its time, and finds no fault."""
    case, stopped = Case(folder, network, START + "transports: {tftp: , b: {use: tftp, port: 70}}\n"), list[Any]()
    client = Client(network, 70)
    assert case.reload(START + "limits: {drain: 2 s}\n" + TFTP) == ()
    case.server.stopService().addBoth(stopped.append)
    network.advance(1.9)
    assert (stopped, case.ports()) == ([], [70])
    network.advance(0.2)
    assert (len(stopped), case.ports()) == (1, [])
    assert client.box.take()[-1].datagram[:2] == b"\0\5"
    assert [each["outcome"] for each in events if each.get("event") == "received"] == ["stopped"]
    assert [each for each in events if each.get("event") == "fault"] == []


def test_readinessForgets(folder: Path, network: Network) -> None:
    """What was known of a directory that a reload takes out of the file is forgotten: there may be ever new ones."""
    case = Case(folder, network, START + TFTP)
    for each in ("other", "boot", "other"):
        assert case.reload(START.replace("boot", each) + TFTP) == ()
        result(case.server.lookAtDisks())
        assert case.server.unready() is None
        assert [*case.server._presence] == [str(folder / each)]


def test_addressOfTheMachineHasGone(folder: Path, network: Network) -> None:
    """A server is ready though an address that was taken out of the service file, and of the machine, has transfers."""
    host = network.host(SERVER, "10.1.0.1")
    both = "transports: {tftp: {interface: 10.0.0.1}, b: {use: tftp, interface: 10.1.0.1}}\n"
    case = Case(folder, network, START + both)
    client = RecordingClient(network.host(CLIENT))
    client.send(b"\0\1file\0octet\0", ("10.1.0.1", 69))
    client.expect()
    host.addresses = (SERVER,)
    assert case.server.unready() == "no interface has the address of 10.1.0.1:69"
    assert case.reload(START + "transports: {tftp: {interface: 10.0.0.1}}\n") == ()
    assert (len(case.server.addresses), case.server.unready()) == (2, None)
    network.advance(60)
    assert len(case.server.addresses) == 1


def test_comesBack(folder: Path, network: Network) -> None:
    """An address that was about to close and is wanted again simply goes on."""
    both = START + "transports: {tftp: , b: {use: tftp, port: 70}}\n"
    case = Case(folder, network, both)
    early = Client(network, 70)
    port = network.bound[SERVER, 70]
    assert case.reload(START + TFTP) == ()
    assert case.reload(both) == ()
    assert Client(network, 70).finish() == BODY
    assert early.finish() == BODY
    network.advance(60)
    assert network.bound[SERVER, 70] is port


def test_sharing(folder: Path, network: Network) -> None:
    """Transports are added to a port and taken from it; the order is that of the new file."""
    case = Case(folder, network, START + "transports: {tftp: {interface: 10.0.0.1}}\n")
    (address,) = case.server.addresses
    group = "multicast: {interface: 10.0.0.1, groups: 239.255.7.0/30}"
    assert case.reload(START + f"transports: {{{group}, tftp: {{interface: 10.0.0.1}}}}\n") == ()
    assert [each.name for each in address.transport.dialects] == ["multicast", "tftp"]
    assert case.reload(START + "transports: {tftp: {interface: 10.0.0.1}}\n") == ()
    assert [each.name for each in address.transport.dialects] == ["tftp"]


def test_stayingGroups(folder: Path, network: Network) -> None:
    """A dialect whose options are equal keeps its groups: whoever comes after a reload joins them."""
    text = START + "transports: {multicast: {interface: 10.0.0.1, clients: any}, tftp: {interface: 10.0.0.1}}\n"
    case = Case(folder, network, text)

    def ask(host: str) -> bytes:
        box = RecordingClient(network.host(host))
        box.send(b"\0\1file\0octet\0multicast\0\0", (SERVER, 69))
        return box.expect().datagram

    first = ask("10.0.0.8")
    assert b",1\0" in first
    assert case.reload(text + "limits: {casts: 99}\n") == ()
    assert ask("10.0.0.9") == first.replace(b",1\0", b",0\0")
    assert case.reload(text.replace("clients", "data-port: 1999, clients")) == ()
    assert b",1999,1\0" in ask("10.0.0.7")


def test_fixedGroup(folder: Path, network: Network) -> None:
    """A fixed group is nobody else's while a cast cut off by a reload has receivers; then nobody need wait."""
    case = Case(folder, network, START + "transports: {slam: {file: file, interface: 10.0.0.1}}\n")
    box, late = RecordingClient(network.host(CLIENT)), RecordingClient(network.host("10.0.0.8"))
    everything = slam.buildList([range(2)])
    box.send(everything, (SERVER, 10000))
    network.advance(0.01)
    site = case.server.site
    assert site.admission.casts == 1
    assert case.reload(START + "transports: {slam: {file: file, interface: 10.0.0.1, blksize: 512}}\n") == ()
    late.send(everything, (SERVER, 10000))
    network.advance(0.05)
    assert site.admission.casts == 1
    box.send(b"\0", (SERVER, 10000))
    network.advance(0.05)
    late.send(everything, (SERVER, 10000))
    network.advance(0.05)
    (cast,) = case.server.addresses[0].transport.casts()
    assert cast.wire.blocksize == 511


def test_groupGetsTheNumberOfThePort(folder: Path, network: Network) -> None:
    """
    Where a reload gives a group the number of its request port, receivers on this machine can hear it at once; where
    the group gets another one, nobody else can bind the number any more.
    """
    text = START + "transports: {slam: {file: file, group: '239.255.1.1:9999'}}\n"
    case = Case(folder, network, text)
    with pytest.raises(CannotListenError):
        case.host.listenMulticast(10000, DatagramProtocol(), "239.255.1.1")
    assert case.reload(text.replace("9999", "10000")) == ()
    case.host.listenMulticast(10000, DatagramProtocol(), "239.255.1.1")
    assert case.reload(text) == ()
    with pytest.raises(CannotListenError):
        case.host.listenMulticast(10000, DatagramProtocol(), "239.255.1.1")


def test_fixedGroupMoves(folder: Path, network: Network) -> None:
    """A fixed group that another port is to serve another file on waits as well; the same file needs not."""
    slams = START + "transports: {slam: {port: PORT, file: NAME, interface: 10.0.0.1}}\n"
    (folder / "boot" / "second").write_bytes(BODY[::-1])
    case = Case(folder, network, slams.replace("PORT", "10000").replace("NAME", "file"))
    everything, site = slam.buildList([range(2)]), case.server.site
    boxes = [RecordingClient(network.host(f"10.0.0.{number}")) for number in range(20, 24)]
    boxes[0].send(everything, (SERVER, 10000))
    network.advance(0.01)
    assert case.reload(slams.replace("PORT", "10001").replace("NAME", "second")) == ()
    boxes[1].send(everything, (SERVER, 10001))
    network.advance(0.05)
    assert site.admission.casts == 1
    assert case.reload(slams.replace("PORT", "10002").replace("NAME", "file")) == ()
    boxes[2].send(everything, (SERVER, 10002))
    network.advance(0.05)
    assert site.admission.casts == 2
    assert case.reload(slams.replace("PORT", "10001").replace("NAME", "second")) == ()
    for box, port in zip(boxes, (10000, 10001, 10002), strict=False):
        box.send(b"\0", (SERVER, port))
    network.run(lambda: not site.admission.casts, limit=60)
    boxes[3].send(everything, (SERVER, 10001))
    network.advance(0.05)
    assert site.admission.casts == 1


def test_newVersionRests(folder: Path, network: Network) -> None:
    """
    MTFTP's blocks name no file: who asks for another version soon after the last pass is not answered, as a machine may
    still hold half of the old one; a moment later everybody gets the new one.
    """
    text = START + "transports: {mtftp: {interface: 10.0.0.1, clients: any, files: {file: '239.255.1.1:3001'}}}\n"
    case = Case(folder, network, text)

    def ask(host: str) -> RecordingClient:
        box = RecordingClient(network.host(host))
        box.send(b"\0\1file\0octet\0", (SERVER, 1759))
        network.advance(0.3)
        return box

    box = ask(CLIENT)
    assert box.inbox[0].datagram[4:] == BODY[:512]
    box.send(b"\0\4\0\5", (SERVER, 1759))
    network.run(lambda: not case.server.site.admission.casts, limit=60)
    assert ask("10.0.0.8").inbox[0].datagram[4:] == BODY[:512]
    network.run(lambda: not case.server.site.admission.casts, limit=100)
    assert case.reload(text.replace("boot", "other")) == ()
    assert ask("10.0.0.7").inbox == []
    network.advance(REUSE_DELAY)
    assert ask("10.0.0.6").inbox[0].datagram[4:] == BODY[::-1][:512]


def test_keptPorts(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports kept for the next transfers are let go of by a reload, not by a file that is refused."""
    case, closed = Case(folder, network, START + TFTP), []
    monkeypatch.setattr(case.server.site.ports, "reconcileStore", lambda: closed.append(1))
    assert len(case.reload(START)) == 1
    assert closed == []
    assert case.reload(START + TFTP) == ()
    assert closed == [1]


def test_refused(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """A bad file is refused whole, with all its lines, and changes nothing: not what is in it that would be right."""
    case = Case(folder, network, START + TFTP)
    early, before, timers = Client(network), dict(network.bound), len(network.getDelayedCalls())
    bad = (
        START.replace("boot", "other")
        + "limits: {casts: 0}\ntransports:\n  tftp: {prot: 1}\n  b: {use: tftp, port: 70}\n"
    )
    faults = case.reload(bad)
    assert faults == (
        f"{folder}/x.yaml:3: limits.casts: 0 is not at least 1",
        f"{folder}/x.yaml:5: transports.tftp.prot: unknown key: did you mean port?",
    )
    said = [each for each in events if each.get("event") == "refused-reload"]
    assert [(each["fault"], each["nth"], each["count"]) for each in said] == [(faults[0], 1, 2), (faults[1], 2, 2)]
    assert (network.bound, len(network.getDelayedCalls())) == (before, timers)
    assert (Client(network).finish(), early.finish()) == (BODY, BODY)


@pytest.mark.slow
def test_manyFaults(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """Of a file that is wrong in thousands of lines the first hundred faults are logged: transfers wait for that."""
    case = Case(folder, network, START + TFTP)
    faults = case.reload(START + TFTP + "".join(f"k{number}: 1\n" for number in range(5000)))
    assert faults[0].endswith("k0: unknown key")
    assert faults[99:] == (faults[99], "4900 more faults: castd check shows all of them")
    assert [each["fault"] for each in events if each.get("event") == "refused-reload"] == list(faults)


def test_missing(folder: Path, network: Network) -> None:
    """A file that is not there, and a directory that has gone, are such faults."""
    case = Case(folder, network, START + TFTP)
    (fault,) = case.reload(START.replace("boot", "nowhere") + TFTP)
    assert f"content[0].directory.path: {folder}/nowhere: " in fault
    (folder / "x.yaml").unlink()
    assert len(result(case.server.reread())) == 1
    assert Client(network).finish() == BODY


def test_taken(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that cannot be had refuses the whole file; those that could are closed again."""
    case = Case(folder, network, START + TFTP)
    RecordingClient(case.host, 71)
    before = dict(network.bound)
    (fault,) = case.reload(START + "transports:\n  a: {use: tftp, port: 70}\n  b: {use: tftp, port: 71}\n")
    assert fault == f"{folder}/x.yaml:5: transports.b: *:71 is taken: another program listens there already"
    assert network.bound == before
    assert case.server.site.requestPorts == {69: 1}
    assert Client(network).finish() == BODY


def test_faultWhilePutInForce(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of a plugin, or one that nobody has foreseen, leaves nothing open of the file that was refused."""
    case = Case(folder, network, START + TFTP)
    before, descriptors = dict(network.bound), Descriptors()
    start, check = Listener.startProtocol, case.server.recorders.check

    def fails(self: Listener) -> None:
        if self.port == 71:
            raise ZeroDivisionError
        start(self)

    monkeypatch.setattr(Listener, "startProtocol", fails)
    more = START + "logging: {json: events, file: log}\nhistory: {path: history}\n"
    for text in ("transports: {tftp: {}, a: {use: tftp, port: 70}, b: {use: tftp, port: 71}}\n", TFTP):
        assert case.reload(more + text) == ("a fault of castd or of a plugin, see the log",)
        gc.collect()
        assert (network.bound, descriptors.left()) == (before, [])
        monkeypatch.setattr(case.server.recorders, "check", lambda _: 1 // 0)
    monkeypatch.setattr(case.server.recorders, "check", check)
    assert case.reload(START + "transports: {tftp: {}, a: {use: tftp, port: 70}}\n") == ()
    assert case.ports() == [69, 70]
    assert Client(network).finish() == BODY


def test_metricsPort(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Events are counted as long as a file is in force that asks for metrics, and by the same counters; what answers at
    a port is made when the port is opened, and for none that stays open.
    """
    AdminEndpoints(monkeypatch)
    case, made = Case(folder, network, START + TFTP), list[int]()
    admin, batch = case.server.admin, case.server.batch
    make = admin._metricsSite
    monkeypatch.setattr(admin, "_metricsSite", lambda: (made.append(1), make())[1])

    def counting() -> list[object]:
        return [each.observer for each in batch._members if isinstance(each.observer, Counters)]

    assert case.reload(START + "metrics: {listen: '127.0.0.1:1'}\n" + TFTP)[0].endswith("Address already in use")
    assert (counting(), admin._counters) == ([], None)
    assert case.reload(START + "metrics: {listen: '127.0.0.1:9147'}\n" + TFTP) == ()
    (first,) = counting()
    for port in (9147, 9147, 9148, 1):
        case.reload(START + f"metrics: {{listen: '127.0.0.1:{port}'}}\n" + TFTP)
        assert counting() == [first]
    assert len(made) == 4
    assert case.reload(START + TFTP) == ()
    assert (counting(), admin._counters) == ([], None)


@pytest.mark.parametrize("refused", ["", "a: {use: tftp, port: 71}", "a: {use: tftp, prot: 71}", "stop", "upgrade"])
def test_historyInTheThread(
    folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]], refused: str
) -> None:
    """
    The history of the new file is opened in the thread, as who writes to that may have to be waited for, and the folder
    of the recorder is looked at there; both are left as they were, if the file does not come into force.
    """
    case, descriptors = Case(folder, network, START + TFTP), Descriptors()
    RecordingClient(case.host, 71)
    inThread, asked = list[bool](), list[tuple[str, bool]]()

    def thread(job: Callable[[], Any]) -> Deferred[Any]:
        inThread.append(True)
        try:
            return maybeDeferred(job)
        finally:
            inThread.pop()
            if asked and refused in ("stop", "upgrade"):
                case.server.draining = True
                case.server.stopping = refused == "stop"

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *of: (asked.append((name, bool(inThread))), function(*of))[1]

    for name, owner in (("prepare", case.server.histories), ("check", case.server.recorders)):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    monkeypatch.setattr(case.server, "thread", thread)
    (folder / "captures").mkdir()
    more = "history: {path: history}\nrecorder: {directory: captures}\n"
    others = refused if ":" in refused else ""
    faults = case.reload(f"{START}{more}transports:\n  tftp: {{}}\n  {others}\n")
    assert bool(faults) == bool(refused)
    assert asked == ([] if "prot" in refused else [("check", True), ("prepare", True)])
    gc.collect()
    if refused:
        assert descriptors.left() == []
        assert case.server.histories.path is None
    else:
        assert case.server.histories.path == str(folder / "history")


def test_allDisks(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """Where neither the history nor the recorder can be used both are told, by a reload and by a start."""
    case, descriptors = Case(folder, network, START + TFTP), Descriptors()
    text = START + "history: {path: none/history}\nrecorder: {directory: none}\n" + TFTP
    reloaded = case.reload(text)
    assert sorted(each.split(": ")[1] for each in reloaded) == ["history.path", "recorder.directory"]
    with pytest.raises(ConfigError) as refused:
        Case(folder, Network(), text)
    assert set(refused.value.faults) == set(reloaded)
    # What could be opened beside what could not is closed.
    with pytest.raises(ConfigError):
        Case(folder, Network(), text.replace("none/history", "history"))
    gc.collect()
    assert (folder / "history").exists()
    assert not [each for each in descriptors.left() if "history" in each]


def test_faultOnceInForce(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault after the new history has come into force does not close it."""
    case, found = Case(folder, network, START + TFTP), list[Any]()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(case.server.recorders, "use", fail)
        faults = case.reload(START + "history: {path: history}\n" + TFTP)
    assert faults == ("a fault of castd or of a plugin, see the log",)
    assert case.server.histories.path == str(folder / "history")
    case.server.histories.find(Query()).addBoth(found.append)
    assert isinstance(found[0], list)


def test_saidOnceInForce(
    folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    """Of a port that a reload opens nothing is said if the reload then fails."""
    case = Case(folder, network, START + TFTP)
    more = START + "transports: {tftp: {}, a: {use: tftp, port: 70}, b: {use: tftp, port: 71}}\n"
    RecordingClient(network.host(SERVER), 71)
    assert len(case.reload(more)) == 1
    assert case.reload(more.replace("71", "72")) == ()
    listening = [each["address"] for each in events if each.get("event") == "listening"]
    assert listening == ["*:69", "*:70", "*:72"]


def test_wider(folder: Path, network: Network) -> None:
    """From one address to all and back: the old port makes room if it is idle, else the file is refused."""
    one = START + "transports:\n  tftp: {interface: 10.0.0.1}\n"
    case = Case(folder, network, one)
    early = Client(network)
    (fault,) = case.reload(START + TFTP)
    assert fault.endswith("transports.tftp: 10.0.0.1:69 is to make room, but transfers are under way there")
    assert early.finish() == BODY
    network.advance(60)
    assert case.reload(START + TFTP) == ()
    assert Client(network).finish() == BODY
    network.advance(60)
    assert case.reload(one) == ()
    assert Client(network).finish() == BODY


def test_anotherAddress(folder: Path, network: Network) -> None:
    """From one address to another one with the same port: a transfer that is under way goes on."""
    network.host(SERVER, "10.0.0.2")
    case = Case(folder, network, START + "transports:\n  tftp: {interface: 10.0.0.1}\n")
    early = Client(network)
    assert case.reload(START + "transports:\n  tftp: {interface: 10.0.0.2}\n") == ()
    assert early.finish() == BODY


def test_widerByIPv6(folder: Path, network: Network) -> None:
    """The same with IPv6."""
    network.host(SERVER, "fd00::1")
    one = START + "transports:\n  tftp: {interface: 'fd00::1'}\n"
    case = Case(folder, network, one)
    client = RecordingClient(network.host("fd00::9"))
    for text in (one.replace("fd00::1", "::"), one):
        assert case.reload(text) == ()
        client.send(b"\0\1file\0octet\0", ("fd00::1", 69))
        assert client.expect().datagram[4:] == BODY[:512]
        network.advance(60)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("::", "fd00::1", True),
        ("fd00::1", "fd00::2", False),
        ("::", "10.0.0.1", False),
        ("", "fd00::1", False),
        ("", "::", False),
    ],
)
def test_whoHasToMakeRoom(one: str, other: str, clash: bool) -> None:
    """Only the wildcard and an address of its family cannot be bound together: no other port has to be given up."""
    assert _clash(one, other) == _clash(other, one) == clash


def test_makesRoomInVain(folder: Path, network: Network) -> None:
    """What has made room for a file that is refused after all is open again."""
    case = Case(folder, network, START + "transports:\n  tftp: {interface: 10.0.0.1}\n")
    RecordingClient(case.host, 71)
    assert len(case.reload(START + "transports: {tftp: , b: {use: tftp, port: 71}}\n")) == 1
    assert Client(network).finish() == BODY


class Loner:
    """A transport that is no listener of ours."""

    interface, port = "", 69

    def __getattr__(self, name: str) -> Callable[..., object]:
        """Whatever else a transport has, it does nothing."""
        return lambda *_: ()


def test_otherMake(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport of another class cannot go on with a port, and says so."""
    case = Case(folder, network, START + TFTP)
    monkeypatch.setattr("castd.config.plugin.TransportMaker.makeTransport", lambda *_: Loner())
    (fault,) = case.reload(START + TFTP)
    assert fault.endswith("transports.tftp: another kind of plugin serves at *:69: restart castd to change that")


def test_events(folder: Path, network: Network) -> None:
    """The file for events is opened anew, as who rotates logs expects, or under its new name, or not at all."""
    logged = START + TFTP + "logging: {json: a.json}\n"
    case = Case(folder, network, logged)
    (folder / "a.json").rename(folder / "a.json.1")
    assert case.reload(logged) == ()
    assert '"event": "reloaded"' in (folder / "a.json").read_text()
    assert case.reload(logged.replace("a.json", "none/b.json"))[0].endswith("none/b.json: No such file or directory")
    assert case.reload(logged.replace("a.json", "b.json")) == ()
    assert '"event": "reloaded"' in (folder / "b.json").read_text()
    assert case.reload(START + TFTP) == ()
    size = (folder / "b.json").stat().st_size
    assert case.reload(START + TFTP) == ()
    assert (folder / "b.json").stat().st_size == size


def test_stopping(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """A server that is stopping does not reload, and says so also to who has asked by a signal."""
    case = Case(folder, network, START + TFTP)
    case.server.stopService()
    assert result(case.server.reread()) == ("castd is stopping",)
    assert refusals(events) == [("castd is stopping", 1, 1)]


def test_upgrading(
    folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    """Nor does one that another process is taking over from, or has; the service manager hears of no reload."""
    case = Case(folder, network, START + TFTP)
    told: list[object] = []
    monkeypatch.setattr(case.server.watch.notifier, "notify", lambda *fields: told.append(fields))
    monkeypatch.setattr(Handover, "busy", True)
    assert result(case.server.reread()) == ("an upgrade is under way",)
    case.server.stopServing()
    assert result(case.server.reread()) == ("another process has taken over",)
    assert refusals(events) == [("an upgrade is under way", 1, 1), ("another process has taken over", 1, 1)]
    assert told == []


def refusals(events: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Return the refused reloads that were logged: why, which of how many lines."""
    return [(each["fault"], each["nth"], each["count"]) for each in events if each.get("event") == "refused-reload"]


def awaited(case: Case, later: Later) -> list[Any]:
    """Ask for a reload whose file is read when C{later} runs.  -> will hold its answer."""
    case.server.thread = later
    answers: list[Any] = []
    case.server.reread().addBoth(answers.append)
    return answers


def test_readBesideTheLoop(folder: Path, network: Network) -> None:
    """While the file is being read the server serves by the old one; it is put in force when all of it is checked."""
    case, later = Case(folder, network, START + TFTP), Later()
    case.write(START.replace("boot", "other") + TFTP)
    answers = awaited(case, later)
    assert Client(network).finish() == BODY
    assert answers == []
    later.run()
    assert answers == [()]
    assert Client(network, host="10.0.0.8").finish() == BODY[::-1]


def test_twoAtOnce(folder: Path, network: Network, events: list[dict[str, Any]]) -> None:
    """
    Who asks while the file is being read may have changed it: it is read once more for all of these, and each is
    answered by what was read for him.
    """
    case, later = Case(folder, network, START + TFTP), Later()
    case.write(START + "limits: {casts: 0}\n" + TFTP)
    first = awaited(case, later)
    others = [awaited(case, later) for _ in range(3)]
    later.run(1)
    assert (len(first), others) == (1, [[]] * 3)
    assert "limits.casts" in first[0][0]
    case.write(START.replace("boot", "other") + TFTP)
    later.run()
    assert others == [[()]] * 3
    assert len(later.jobs) == 0
    assert [each["event"] for each in events if "reload" in str(each.get("event"))] == ["refused-reload", "reloaded"]
    assert Client(network).finish() == BODY[::-1]


def test_stopMeanwhile(folder: Path, network: Network) -> None:
    """A stop does not wait for a file that is being read, which then has no effect."""
    case, later = Case(folder, network, START + TFTP), Later()
    case.write(START + "transports: {tftp: {}, a: {use: tftp, port: 70}}\n")
    answers, waiting = awaited(case, later), awaited(case, later)
    assert case.server.stopService().called
    later.run()
    assert (answers, waiting) == ([("castd is stopping",)], [("castd is stopping",)])
    assert case.ports() == []
    assert network.getDelayedCalls() == []


def test_upgradeMeanwhile(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an upgrade has begun nothing changes, as the next process reads the file; if it fails, all goes on."""
    case, later = Case(folder, network, START + TFTP), Later()
    case.write(START.replace("boot", "other") + TFTP)
    answers = awaited(case, later)
    with monkeypatch.context() as upgrade:
        upgrade.setattr(Handover, "busy", True)
        later.run()
    assert answers == [("an upgrade is under way",)]
    assert Client(network).finish() == BODY
    answers = awaited(case, later)
    later.run()
    assert answers == [()]


@pytest.mark.parametrize(
    ("hanging", "answered", "unable"),
    [
        (Later(), 0, "cannot be read"),
        (LateResults(), 0, "cannot be read"),
        (LateResults(), 1, "history or recorder cannot be used"),
    ],
    ids=["before", "reading", "history"],
)
def test_neverRead(folder: Path, network: Network, hanging: Later, answered: int, unable: str) -> None:
    """A disk that does not answer is given up; what it answers later has no effect, and the next reload is read."""
    case, descriptors = Case(folder, network, START + TFTP), Descriptors()
    case.write(START.replace("boot", "other") + "history: {path: history}\n" + TFTP)
    answers = awaited(case, hanging)
    network.advance(REREAD_TIMEOUT - 1)
    hanging.run(answered)
    assert (answers, (folder / "history").exists()) == ([], answered == 1)
    network.advance(2)
    assert answers == [(f"{folder}/x.yaml: {unable}: it has taken longer than 25 s",)]
    hanging.run()
    gc.collect()
    assert descriptors.left() == []
    assert Client(network).finish() == BODY
    again = Later()
    answers = awaited(case, again)
    again.run()
    assert answers == [()]
    assert REREAD_TIMEOUT < CONNECTION_TIMEOUT < TIMEOUT


@pytest.mark.parametrize(
    ("refused", "aside"),
    [
        ("content: [{directory: {path: none}}]\ntransports: {tftp: {}}", False),
        ("recorder: {directory: none}\ntransports: {tftp: {}}", True),
        ("transports: {tftp: {}, a: {use: tftp, port: 71}}", True),
    ],
    ids=["content", "recorder", "port"],
)
def test_refusedWithAHistory(
    folder: Path, network: Network, events: list[dict[str, Any]], refused: str, aside: bool
) -> None:
    """
    Where what a file names cannot be made, its history is not opened: a damaged one would get another name.  Where that
    comes out afterwards only, the name is told.
    """
    case, kept = Case(folder, network, START + TFTP), folder / "kept"
    RecordingClient(case.host, 71)
    kept.write_bytes(b"this is no database" * 100)
    text = f"{refused}\nhistory: {{path: kept}}\n"
    assert case.reload(("castd: 1\n" if "content" in refused else START) + text) != ()
    assert kept.read_bytes().startswith(b"this is no database") != aside
    told = [each["aside"] for each in events if each.get("event") == "put-aside"]
    assert told == ([f"{kept}.unusable"] if aside else [])
    assert case.server.histories.path is None


def test_neverReadOften(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of reloads that nobody waits for any more only so many wait for the disk; one beyond that is refused at once, the
    service manager is told of its end, and the file is read again once the disk answers.
    """
    case, hanging, told = Case(folder, network, START + TFTP), Later(), list[str]()
    network.advance(1)
    monkeypatch.setattr("castd.files.threads.MOST_AWAITED", 2)
    monkeypatch.setattr(case.server.watch.notifier, "reloading", lambda: told.append("reloading"))
    monkeypatch.setattr(case.server.watch, "ready", lambda: told.append("ready"))
    case.write(START.replace("boot", "other") + TFTP)
    for _ in range(2):
        awaited(case, hanging)
        network.advance(REREAD_TIMEOUT + 1)
    for _ in range(2):
        answers = awaited(case, hanging)
        why = f"2 requests wait for the disk of {folder}/x.yaml"
        assert answers == [(f"{folder}/x.yaml: cannot be read: {why}",)]
    assert told == ["reloading", "ready"] * 4
    hanging.run()
    answers = awaited(case, hanging)
    hanging.run()
    assert answers == [()]
    assert Client(network).finish() == BODY[::-1]


def test_neverBegun(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reloads that were given up before a thread had time for them are not read when the disk answers again."""
    case, hanging, begun = Case(folder, network, START + TFTP), Later(), list[object]()
    prepare = case.server.prepareDisks
    monkeypatch.setattr(case.server, "prepareDisks", lambda config: (begun.append(config), prepare(config))[1])
    for _ in range(10):
        awaited(case, hanging)
        network.advance(REREAD_TIMEOUT + 1)
    answers = awaited(case, hanging)
    hanging.run()
    assert (answers, len(begun), len(hanging.jobs)) == ([()], 1, 0)


@pytest.mark.parametrize("fault", [ValueError, SystemExit, KeyboardInterrupt])
def test_faultWhileReading(
    folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    """What the options of a plugin raise in that thread makes the reload fail, and nothing else."""

    def fail(*_: object, **__: object) -> None:
        raise fault("of a plugin")

    case, later = Case(folder, network, START + TFTP), Later()
    with monkeypatch.context() as broken:
        broken.setattr("castd.service.build.load", fail)
        answers = awaited(case, later)
        later.run()
    assert answers == [("a fault of castd or of a plugin, see the log",)]
    answers = awaited(case, later)
    later.run()
    assert answers == [()]


def test_compiledOnce(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Access rules, of which there may be ten thousand, are compiled once, where the file is read."""
    case, later = Case(folder, network, START + TFTP), Later()
    made: list[object] = []

    class Counted(Rules):
        def __init__(self, rules: Any, places: Any = ()) -> None:
            made.append(None)
            super().__init__(rules, places)

    for module in ("castd.service.build", "castd.server.site", "castd.files.access"):
        monkeypatch.setattr(f"{module}.Rules", Counted)
    case.write(START + "access: [{deny: any}]\n" + TFTP)
    answers = awaited(case, later)
    later.run()
    assert (answers, len(made)) == ([()], 1)
    assert Client(network).code == 2


@pytest.mark.slow
def test_rewritesCompiledOnce(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are the expressions that change names, also of a directory that is new; one that stays the same is kept."""
    case, later = Case(folder, network, START + TFTP), Later()
    case.server.thread = later
    rules = "    rewrite: [{from: ^a, to: b}, {from: (c), to: '\\1'}]\n"
    text = "castd: 1\ncontent:\n- directory:\n    path: other\n" + rules + TFTP
    text += "profiles: {own: [{name: own, match: {names: [x]}, rewrite: [{from: d, to: e}]}]}\n"
    compiled, made = names.linearRegex, list[bytes]()

    def counted(expression: bytes) -> LinearRegex:
        made.append(expression)
        return compiled(expression)

    monkeypatch.setattr(names, "linearRegex", counted)
    sources = []
    for _ in range(2):
        made.clear()
        case.write(text)
        answers = awaited(case, later)
        later.run()
        assert (answers, made) == ([()], [b"^a", b"(c)", b"d"])
        sources.append(case.server.site.content.sources[0])
    assert sources[0] is sources[1]


@pytest.mark.slow
def test_directoriesOpenedBesideTheLoop(
    folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    """Directories that are new are opened while the file is read, not on the loop; those that stay are not opened."""
    case = Case(folder, network, START + TFTP)
    for name in ("late", "in"):
        (folder / name).mkdir()
    opened, openRoot, answers = list[tuple[str, bool]](), root._openRoot, threading.Event()
    reading = False

    def slow(path: str, writable: bool) -> Any:
        opened.append((Path(path).name, reading))
        if path.endswith("late"):
            answers.wait(10)
        return openRoot(path, writable)

    monkeypatch.setattr(root, "_openRoot", slow)
    monkeypatch.setattr("castd.service.build.RELOAD_TIMEOUT", 1.0)
    case.write(
        "castd: 1\ncontent: [{directory: {path: other}}, {directory: {path: boot}}, {directory: {path: late}}]\n"
        "uploads: [{directory: {path: in}}]\naccess: [{allow: any}]\n" + TFTP
    )

    def thread(job: Callable[[], Any]) -> Deferred[Any]:
        nonlocal reading
        reading = True
        done = maybeDeferred(job)
        reading = False
        return done

    case.server.thread = thread
    assert [result(case.server.reread()) for _ in range(2)] == [(), ()]
    answers.set()
    assert opened == [("other", True), ("late", True), ("in", True)]
    assert [event["path"] for event in events if event.get("event") == "slow-disk"] == [str(folder / "late")]


def test_manyDirectories(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload finds those of many directories that stay, in any order, without comparing each with all others."""
    parts = [f"part{at}" for at in range(30)]
    for each in parts:
        (folder / each).mkdir()

    def text(names: list[str]) -> str:
        return "castd: 1\ncontent:\n" + "".join(f"- directory: {{path: {each}}}\n" for each in names) + TFTP

    case = Case(folder, network, text(parts))
    before = case.server.site.content.sources
    compared: list[object] = []
    equal = DirectoryOptions.__eq__

    def counted(one: Any, other: object) -> bool:
        compared.append(other)
        return equal(one, other)

    monkeypatch.setattr(DirectoryOptions, "__eq__", counted)
    assert case.reload(text(parts[::-1])) == ()
    assert [*case.server.site.content.sources] == [*before][::-1]
    assert len(compared) <= 2 * len(parts)


@pytest.mark.slow
def test_often(folder: Path, network: Network) -> None:
    """Ten reloads a second for ten seconds, with transfers all the while: nothing is left open or pending."""
    one = START + "logging: {json: a.json}\ntransports: {tftp: , slam: {file: file}}\n"
    two = (
        START.replace("boot", "other")
        + "logging: {json: b.json}\nuploads: [{directory: {path: boot}}]\n"
        + "transports: {tftp: {windowsize: 8}, b: {use: tftp, port: 70}, slam: {file: file, blksize: 512}}\n"
    )
    case = Case(folder, network, one)
    case.reload(one)
    network.advance(1)
    gc.collect()
    opened = Descriptors()
    before = (case.ports(), len(network.getDelayedCalls()), len(list(case.server)))
    clients = []
    for turn in range(100):
        assert case.reload((two, one)[turn % 2]) == ()
        clients.append(Client(network, host=f"10.0.1.{turn}"))
        network.advance(0.1)
        if turn >= 5:
            assert clients[turn - 5].finish() in (BODY, BODY[::-1])
    assert [client.finish() in (BODY, BODY[::-1]) for client in clients[-5:]] == [True] * 5
    network.advance(60)
    gc.collect()
    after = (case.ports(), len(network.getDelayedCalls()), len(list(case.server)))
    assert after == before
    assert opened.left() == []
    assert case.server.site.admission.casts == 0


def test_compose(folder: Path, network: Network) -> None:
    """A config that is handed over is put in force like one that is read."""
    case = Case(folder, network, START + TFTP)
    text = (START + "transports: {tftp: {port: 70}}\n").encode()

    def put(text: bytes) -> None:
        config = build(yaml.parse(text, "y"), folder / "y", kinds(COLLECTED))
        components, steps = case.server.beginReload(ServiceFileRead.of(config))
        assert all(step is None for step in steps)
        case.server.reload(components)

    put(text)
    assert case.ports() == [70]
    with pytest.raises(ConfigError):
        put(text.replace(b"boot", b"none"))


MANY = "".join(f"  t{number}: {{use: tftp, port: {70 + number}}}\n" for number in range(50))


def beginReload(case: Case, text: str) -> tuple[list[Any], Turns]:
    """Begin a reload while all that is made takes a millisecond.  -> gets the faults; what is to be done in turns."""
    turns: Any = Turns()
    case.server.site.slices = Slices(turns)
    case.write(text)
    answers: list[Any] = []
    case.server.reread().addBoth(answers.append)
    return answers, turns


def test_inSlices(folder: Path, network: Network) -> None:
    """A reload makes what the file names in slices, between which requests are answered; then all holds at once."""
    case = Case(folder, network, START + TFTP)
    answers, turns = beginReload(case, START + "transports:\n" + MANY)
    count = 0
    while not answers:
        assert case.ports() == [69]
        assert Client(network, host=f"10.0.1.{count}").body == BODY[:512]
        turns.calls.pop(0)()
        count += 1
    assert answers == [()]
    assert count > 20
    assert {70 + number for number in range(50)} <= {*case.ports()}


def test_stoppedInSlices(folder: Path, network: Network) -> None:
    """A server that is told to stop while a reload makes what the file names puts nothing in force."""
    case = Case(folder, network, START + TFTP)
    answers, turns = beginReload(case, START + "transports:\n" + MANY)
    case.server.draining = case.server.stopping = True
    turns.calls.pop(0)()
    assert turns.calls == []
    assert answers == [("castd is stopping",)]
    assert case.ports() == [69]


def test_namedFiles(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The files that transports name are looked up in the thread that reads the service file, in the directories in use
    and in new ones; a disk that does not answer is asked once.
    """
    with open(folder / "boot" / "long", "wb") as long:
        long.truncate(65535 * 512 + 1)
    mtftp = "  mtftp: {clients: any, files: {" + ", ".join(
        f"{name}: '239.255.1.{number}:3001'" for number, name in enumerate(("none", "long", "file"), 1)
    )
    case = Case(folder, network, START + TFTP)
    other = START.replace("[", "[{directory: {path: other}}, ")

    def never(*_: object) -> None:
        raise AssertionError("the reactor's thread waits for a disk")

    monkeypatch.setattr(chains, "callWithin", never)
    (fault,) = case.reload(other + TFTP + mtftp + "}}\n")
    assert "files: long is longer than" in fault
    asked: list[str] = []

    def silent(_: float, look: Callable[[], int]) -> int:
        asked.append(str(look.args[0]))  # type: ignore[attr-defined]
        raise TimeoutError

    monkeypatch.setattr("castd.service.build.callWithin", silent)
    assert case.reload(other + TFTP + mtftp + "}}\n") == ()
    assert asked == ["none"]


def test_lookedUpAnew(folder: Path) -> None:
    """What was found of a file while a reload read the service file is forgotten once all is made of it."""
    directory = Directory(DirectoryOptions.model_validate({"path": folder / "boot"}))
    config = build(yaml.parse((START + TFTP).encode(), "y"), folder / "y", kinds(COLLECTED))
    read = replace(ServiceFileRead.of(config), looked={(directory.options, "file"): 9})
    file = ServiceFile(read, SourceChain([directory]), 9.0)
    assert file.size("file") == 9
    file.forgetLooked()
    assert file.size("file") == len(BODY)


COMMANDS = {
    "castd": ("-m", "castd", "serve"),
    "twistd": ("-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=", "castd"),
}


def ask(name: bytes, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(20)
    made.sendto(b"\0\1" + name + b"\0octet\0", ("127.0.0.1", port))
    return made


def finish(client: socket.socket, body: bytes = b"") -> bytes:
    while True:
        block, peer = client.recvfrom(600)
        if block[1] == 5:
            raise ConnectionError(block)
        expected = len(body) // 512 + 1
        if int.from_bytes(block[2:4]) == expected:
            body += block[4:]
        client.sendto(b"\0\4" + block[2:4], peer)
        if len(block) < 516:
            client.close()
            return body


@pytest.mark.slow
@pytest.mark.loopback
@pytest.mark.parametrize("command", slowBut(lambda command: command == "castd", COMMANDS))
def test_hangup(folder: Path, command: str) -> None:
    """SIGHUP in the middle of 64 real transfers breaks none of them, and what is asked for next is what is new."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    transports = f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n"
    limits = "limits: {per-peer: 200, new-per-peer: 1000/s}\n"
    (folder / "x.yaml").write_text(START + limits + transports)
    with running(*COMMANDS[command], "-c", folder / "x.yaml") as process:
        until(process, "listens at")
        clients = [ask(b"file", port) for _ in range(64)]
        bodies = []
        for client in clients:
            block, peer = client.recvfrom(600)
            client.sendto(b"\0\4" + block[2:4], peer)
            bodies.append(block[4:])
        (folder / "x.yaml").write_text(START + "limits: {casts: 0}\n" + transports)
        process.send_signal(signal.SIGHUP)
        until(process, "x.yaml:3: limits.casts: 0 is not at least 1")
        (folder / "x.yaml").write_text(START.replace("boot", "other") + limits + transports)
        process.send_signal(signal.SIGHUP)
        until(process, "x.yaml is in force")
        assert finish(ask(b"file", port)) == BODY[::-1]
        assert [finish(client, body) == BODY for client, body in zip(clients, bodies, strict=True)] == [True] * 64


@pytest.mark.slow
@pytest.mark.loopback
def test_theLoopTurns(folder: Path) -> None:
    """While a service file that hangs is being read, real requests and the health page are answered as always."""
    port, web = free(socket.SOCK_DGRAM, socket.SOCK_STREAM)
    file = folder / "x.yaml"
    more = f"metrics: {{listen: '127.0.0.1:{web}'}}\nlimits: {{per-peer: 200, new-per-peer: 1000/s}}\n"
    file.write_text(START + more + f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n")
    with running(*COMMANDS["castd"], "-c", file) as process:
        until(process, "listens at")
        file.unlink()
        os.mkfifo(file)
        began, worst, answered = time.monotonic(), 0.0, 0
        process.send_signal(signal.SIGHUP)
        # Nothing is ever written to it, so reading takes two seconds (castd.config.yaml.PIPE_TIMEOUT).
        while time.monotonic() - began < 1.5:
            asked = time.monotonic()
            assert finish(ask(b"file", port)) == BODY
            with urllib.request.urlopen(f"http://127.0.0.1:{web}/healthz", timeout=20) as answer:
                assert answer.status == 200
            worst, answered = max(worst, time.monotonic() - asked), answered + 1
            time.sleep(0.02)
        until(process, "nothing has come for 2 s")
        assert time.monotonic() - began >= 1.9
        assert (worst < 1.2, answered > 1) == (True, True)
