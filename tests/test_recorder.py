"""The last packets of a transfer that fails are in a capture, and nobody fills memory or disk with them."""

from __future__ import annotations

import errno
import gc
import json
import os
import weakref
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from castd.cli import main
from castd.cli import record as record_
from castd.config.config import RecorderOptions
from castd.errors import ConfigError
from castd.files.threads import RunInThread
from castd.observe import captures as captures_
from castd.observe.captures import MOST_OF_KIND, MOST_OF_MACHINE, PERIOD, CaptureFolder, CaptureRate, captureName
from castd.observe.format import asMessage
from castd.packets.pcapng import Captured
from castd.packets.tftp import TftpRequest, buildData, buildRequest
from castd.request import Local, Request
from castd.server import recorder as recorder_
from castd.server.attempts import SIZE_TIME
from castd.server.cast_protocol import CastProtocol
from castd.server.recorded import RecordedCast
from castd.server.recorder import MOST_ENDED, MOST_HEAD, OVERHEAD, Recorder, Selection
from castd.service import recorders
from castd.testing import Network, RecordingClient
from tests.support.captures import Seen, readCapture, told
from tests.support.disks import Later, result
from tests.support.log import observed
from tests.support.server import CLIENT, SERVER, START, TFTP, Case, Client, statusOf

RECORDER = "recorder: {directory: captures}\n"
UPLOADS = "uploads: [{directory: {path: up}}]\naccess: [{allow: any}]\n"


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("boot", "captures", "up"):
        (tmp_path / name).mkdir()
    (tmp_path / "boot" / "file").write_bytes(b"SECRET" * 2000)
    return tmp_path


def captures(folder: Path) -> list[tuple[str, list[Seen]]]:
    return [readCapture(path.read_bytes()) for path in sorted((folder / "captures").iterdir())]


def asking(network: Network, name: str, *, write: bool = False, host: str = CLIENT, **options: Any) -> RecordingClient:
    box = RecordingClient(network.host(host))
    asked = tuple((key, str(value)) for key, value in options.items())
    box.send(buildRequest(TftpRequest(write, name, "octet", asked)), (SERVER, 69))
    return box


def test_off(folder: Path, network: Network) -> None:
    """Without the section a transfer is of the same classes as ever, and nothing is kept."""
    case = Case(folder, network, START + TFTP)
    Client(network).step()
    ((cast,),) = [list(each.casts()) for each in (case.server.addresses[0].transport,)]
    assert type(cast) is CastProtocol
    network.advance(100)
    assert os.listdir(folder / "captures") == []
    case.server.stopService()


def test_download(folder: Path, network: Network) -> None:
    """A client that falls silent: request, OACK, blocks and ACKs, repetitions, the line of the log; and no content."""
    case = Case(folder, network, START + TFTP + RECORDER)
    box = asking(network, "file", blksize=1000)
    tid = box.expect().source
    box.send(b"\0\4\0\0", tid)
    box.expect()
    box.send(b"\0\4\0\1", tid)
    events: list[Any] = []
    with observed(events.append):
        network.advance(100)
    ((comment, packets),) = captures(folder)
    assert told(packets)[:6] == ["< RRQ", "> OACK", "< ACK 0", "> DATA 1", "< ACK 1", "> DATA 2"]
    assert set(told(packets)[6:]) == {"> DATA 2"}
    assert len(packets) > 7
    assert comment == packets[-1].comment
    assert comment.startswith(f"tftp: {CLIENT}:{box.address[1]} file: the client fell silent")
    (event,) = (each for each in events if each.get("event") == "received")
    assert comment == asMessage(event)
    assert event["cause"] in comment
    first, block = packets[0], packets[3]
    assert (first.source, first.target) == (box.address, (SERVER, 69))
    assert (block.source, block.target, block.octets, block.head) == (tid, box.address, 1004, b"\0\3\0\1")
    assert [each.time for each in packets] == sorted(each.time for each in packets)
    assert not any(b"SECRET" in path.read_bytes() for path in (folder / "captures").iterdir())
    case.server.stopService()


def test_payload(folder: Path, network: Network) -> None:
    """The content of files is in a capture if the service file asks for it."""
    case = Case(folder, network, START + TFTP + "recorder: {directory: captures, payload: true}\n")
    Client(network).step()
    network.advance(100)
    ((_, packets),) = captures(folder)
    assert packets[1].head == b"\0\3\0\1" + (b"SECRET" * 2000)[:512]
    case.server.stopService()


@pytest.mark.parametrize("windowsize", [1, 8])
def test_fastPath(folder: Path, network: Network, windowsize: int) -> None:
    """Of a transfer on the fast path, by blocks or by windows, the last packets are kept, each once and in order."""
    case = Case(folder, network, START + TFTP + "recorder: {directory: captures, packets: 20}\n")
    box = asking(network, "file", blksize=100, windowsize=windowsize)
    tid = box.expect().source
    box.send(b"\0\4\0\0", tid)
    stop = 12 * windowsize
    for number in range(1, stop + 1):
        box.expect()
        if number % windowsize == 0 and number < stop:
            box.send(b"\0\4" + number.to_bytes(2), tid)
    box.send(b"\0\5\0\0stop\0", tid)
    network.advance(1)
    ((comment, packets),) = captures(folder)
    expected = [f"> DATA {number}" for number in range(1, stop + 1)]
    for number in range(stop - windowsize, 0, -windowsize):
        expected.insert(number, f"< ACK {number}")
    assert told(packets) == [*expected, "< ERROR 0"][-20:]
    assert {each.octets for each in packets if each.outgoing} == {104}
    assert "ended by the client's own error" in comment
    case.server.stopService()


def test_upload(folder: Path, network: Network) -> None:
    """An upload that breaks off: request, OACK, blocks without their content, ACKs."""
    case = Case(folder, network, START + TFTP + UPLOADS + RECORDER)
    box = asking(network, "new", write=True, blksize=1000)
    tid = box.expect().source
    for number in (1, 2):
        box.send(buildData(number, b"SECRET" * 166 + b"last"), tid)
        box.expect()
    network.advance(100)
    ((comment, packets),) = captures(folder)
    seen = told(packets)
    assert seen[:6] == ["< WRQ", "> OACK", "< DATA 1", "> ACK 1", "< DATA 2", "> ACK 2"]
    assert (packets[2].octets, packets[2].head) == (1004, b"\0\3\0\1")
    assert "wrote new: the client fell silent" in comment
    case.server.stopService()


def test_refusedUpload(folder: Path, network: Network) -> None:
    """An upload that is refused half-way has a capture with the ERROR; a request that is refused at once has none."""
    case = Case(folder, network, START + TFTP + UPLOADS + RECORDER)
    assert asking(network, "none").expect().datagram[1] == 5
    box = asking(network, "new", write=True, tsize=1034)
    tid = box.expect().source
    box.send(buildData(1, bytes(512)), tid)
    box.expect()
    box.send(buildData(2, bytes(10)), tid)
    assert box.expect().datagram[1] == 5
    network.advance(1)
    ((comment, packets),) = captures(folder)
    assert told(packets)[-2:] == ["< DATA 2", "> ERROR 0"]
    assert "is refused new" in comment
    case.server.stopService()


def test_onePort(folder: Path, network: Network) -> None:
    """With C{single-port} all packets are those of the request port."""
    case = Case(folder, network, START + "transports:\n  tftp: {single-port: true}\n" + RECORDER)
    Client(network).step()
    network.advance(100)
    ((_, packets),) = captures(folder)
    assert told(packets)[:6] == ["< RRQ", "> DATA 1", "< ACK 1", "> DATA 2", "< ACK 2", "> DATA 3"]
    assert {each.source[1] if each.outgoing else each.target[1] for each in packets} == {69}
    case.server.stopService()


def test_group(folder: Path, network: Network) -> None:
    """A member of a group that fails has a capture with its own packets and those of the group, not of others."""
    text = START + "transports:\n  multicast: {groups: 239.1.1.0/24}\n" + RECORDER
    case = Case(folder, network, text)
    first = asking(network, "file", multicast="")
    tid = first.expect().source
    second = asking(network, "file", host="10.0.0.10", multicast="")
    second.expect()
    first.send(b"\0\4\0\0", tid)
    network.advance(0.5)
    first.send(b"\0\5\0\0stop\0", tid)
    network.advance(0.01)
    ((comment, packets),) = captures(folder)
    assert f"{CLIENT}:{first.address[1]}" in comment
    assert list(dict.fromkeys(told(packets))) == ["< RRQ", "> OACK", "< ACK 0", "> DATA 1", "< ERROR 0"]
    assert packets[3].target[0].startswith("239.1.1.")
    assert {each.source[0] if not each.outgoing else each.target[0] for each in packets} == {
        CLIENT,
        packets[3].target[0],
    }
    case.server.stopService()


def test_repeatedRequest(folder: Path, network: Network) -> None:
    """A machine that asks again and again hears no answer: each of its requests is in the capture."""
    case = Case(folder, network, START + TFTP + RECORDER)
    box = asking(network, "file")
    for _ in range(3):
        network.advance(1)
        box.send(buildRequest(TftpRequest(False, "file", "octet", ())), (SERVER, 69))
    network.advance(100)
    ((_, packets),) = captures(folder)
    assert told(packets).count("< RRQ") == 4
    (path,) = (folder / "captures").iterdir()
    assert path.name.endswith("-silent-unheard.pcapng")
    case.server.stopService()


def test_success(folder: Path, network: Network) -> None:
    """A transfer that succeeds leaves nothing behind, on the disk and in memory."""
    case = Case(folder, network, START + TFTP + RECORDER)
    Client(network).finish()
    network.advance(100)
    assert captures(folder) == []
    assert status(case)["rings"] == 0
    case.server.stopService()


def test_notHeard(folder: Path, network: Network) -> None:
    """A member that hears nothing of its group has a capture, though it gets its file in the end."""
    case = Case(folder, network, START + "transports:\n  multicast: {groups: 239.1.1.0/24}\n" + RECORDER)
    member = asking(network, "file", multicast="")
    tid = member.expect().source
    for _ in range(4):
        member.send(b"\0\4\0\0", tid)
        network.advance(1)
    ((comment, packets),) = captures(folder)
    assert "hears no multicast" in comment
    assert "it hears nothing of the group" in comment
    assert set(told(packets)) >= {"< RRQ", "> OACK", "< ACK 0", "> DATA 1"}
    case.server.stopService()


def test_sizeOnly(folder: Path, network: Network) -> None:
    """Who asks for a size and does not come back has a capture of that; who comes back has none."""
    case = Case(folder, network, START + TFTP + RECORDER)
    for host in ("10.0.0.10", "10.0.0.11"):
        box = asking(network, "file", host=host, tsize=0)
        box.send(b"\0\5\0\x08\0", box.expect().source)
        network.advance(1)
    Client(network, host="10.0.0.11").finish()
    network.advance(SIZE_TIME)
    ((comment, packets),) = captures(folder)
    assert comment.startswith("tftp: 10.0.0.10:")
    assert "has asked for the size of file" in comment
    assert told(packets) == ["< RRQ", "> OACK", "< ERROR 8"]
    (path,) = (folder / "captures").iterdir()
    assert path.name.endswith("-size_only-heard.pcapng")
    assert status(case)["rings"] == 0
    case.server.stopService()


def test_sizeThenRefused(folder: Path, network: Network) -> None:
    """What a machine has sent for a size belongs to no other event, though boot ROMs ask from the same port again."""
    case = Case(folder, network, START + TFTP + RECORDER)
    box = asking(network, "file", tsize=0)
    box.send(b"\0\5\0\x08\0", box.expect().source)
    network.advance(1)
    box.send(b"\0\1none\0octet\0", (SERVER, 69))
    assert box.expect().datagram[:2] == b"\0\5"
    network.advance(1)
    assert captures(folder) == []
    network.advance(SIZE_TIME)
    ((comment, packets),) = captures(folder)
    assert "has asked for the size of file" in comment
    assert told(packets) == ["< RRQ", "> OACK", "< ERROR 8"]
    case.server.stopService()


def test_manySizes() -> None:
    """However many ask for sizes only, so many are kept at the most, the latest."""
    made = recorder(room=4)
    for number in range(MOST_ENDED + 3):
        tape = enter(made, number, answers=True)
        made.sizeAsked(tape, (f"10.0.{number >> 8}.{number & 255}", 1000))
        made.ended(tape)
    assert made.rings == 0
    kept = [made.find("tftp", f"10.0.{number >> 8}.{number & 255}:1000") for number in range(MOST_ENDED + 3)]
    assert [each is None for each in kept] == [True] * 3 + [False] * MOST_ENDED
    # Once it was told of it is forgotten.
    assert made.find("tftp", "10.0.0.9:1000") is None


def status(case: Case) -> Any:
    return statusOf(case.server)["recorder"]


# Bounds.


def recorder(room: int, packets: int = 4) -> Recorder:
    made = Recorder(Clock())
    made.adjust(packets, room * packets * (MOST_HEAD + OVERHEAD), False)
    return made


def enter(made: Recorder, number: int, answers: bool) -> Any:
    peer, local = (f"10.0.{number >> 8}.{number & 255}", 1000), Local(SERVER, 69)
    tape = made.tape("tftp", Request(peer, local, f"f{number}"))
    tape.requested(b"request", peer, local)
    if answers:
        tape.arrived(b"\0\4\0\0", peer)
    return tape


def test_nothingIsLeftForTheCollector() -> None:
    """The packets of a transfer that is over are freed at once; so are those of a size that nobody came back for."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        made = recorder(room=4)
        tape = enter(made, 1, answers=True)
        tape.arrived(b"stranger", ("10.0.9.9", 9))
        made.sizeAsked(tape, ("10.0.0.1", 1000))
        before = weakref.ref(tape)
        made.ended(tape)
        del tape
        assert before() is None
        ring = made.find("tftp", "10.0.0.1:1000")
        assert ring is not None
        assert [each[4] for each in ring.tape.packets(ring.key)] == [each[4] for each in ring.packets]
        assert b"stranger" in [each[4] for each in ring.packets]
        apart = weakref.ref(ring.tape)
        del ring
        assert apart() is None
    finally:
        if collecting:
            gc.enable()


def test_memory() -> None:
    """Forged requests displace each other, never a machine that has answered; when all have, the next has no ring."""
    made = recorder(room=10)
    kept = [enter(made, number, True) for number in range(5)]
    for number in range(100, 2000):
        enter(made, number, False)
        assert made.rings <= 10
    assert all(tape.rings for tape in kept)
    for number in range(5, 10):
        enter(made, number, True)
    assert not enter(made, 99, True).rings
    for tape in kept:
        made.ended(tape)
    assert made.rings == 5
    assert enter(made, 99, True).rings


def test_memoryOfGroups() -> None:
    """Groups that nobody has answered in give way as well; the packets to a group that somebody hears are kept."""
    made, local = recorder(room=4), Local(SERVER, 69)

    def begin(number: int) -> Any:
        tape = made.tape("multicast", Request((f"10.0.0.{number}", 1), local, "f"))
        tape.group = f"239.1.1.{number}", 1758
        tape.requested(b"request", (f"10.0.0.{number}", 1), local)
        return tape

    heard = begin(1)
    heard.arrived(b"\0\4\0\0", ("10.0.0.1", 1))
    for number in range(2, 100):
        begin(number)
        assert made.rings <= 4
    assert len(heard.rings) == 2


def test_manyPackets() -> None:
    """Of each machine no more than so many packets are kept, however many come, and of strangers fewer."""
    made = recorder(room=2, packets=32)
    tape = enter(made, 1, True)
    for number in range(1000):
        tape.arrived(bytes(2000), ("10.0.0.1", 1000))
        tape.arrived(bytes(2000), ("10.9.9.9", number))
    kept = tape.packets(("10.0.0.1", 1000))
    assert len(kept) == 32 + 16
    assert max(len(each[4]) for each in kept) == MOST_HEAD


def test_rate() -> None:
    """Of one machine a few captures are written in a minute; forged ones have a bound of their own."""
    rate = CaptureRate()
    assert [rate.allows("a", True, 1.0) for _ in range(5)] == [True] * MOST_OF_MACHINE + [False] * 2
    assert sum(rate.allows(str(each), False, 2.0) for each in range(1000)) == MOST_OF_KIND
    assert rate.allows("b", True, 3.0)
    assert not rate.allows("a", True, 1.0 + PERIOD - 0.1)
    assert rate.allows("a", True, 1.0 + PERIOD)


def write(store: CaptureFolder, number: int, heard: bool, octets: int = 100) -> None:
    store.write(captureName(1e9 + number, "10.0.0.9", number + 1, "silent", heard), bytes(octets))


def kinds(folder: Path) -> tuple[int, int]:
    names = os.listdir(folder)
    return sum("-heard." in each for each in names), sum("-unheard." in each for each in names)


def test_files(tmp_path: Path) -> None:
    """The oldest captures are removed by number and by size, each kind for itself, and no other file."""
    (tmp_path / "20200101T000000000Z-notes.pcapng").write_text("mine")
    (tmp_path / captureName(0.0, "x", 1, "silent", True)).symlink_to(tmp_path / "elsewhere")
    store = CaptureFolder(str(tmp_path), 10, 1 << 16)
    write(store, 0, True)
    for number in range(1, 50):
        write(store, number, False)
    assert kinds(tmp_path) == (2, 5)
    assert captureName(1e9 + 49, "10.0.0.9", 50, "silent", False) in os.listdir(tmp_path)
    write(store, 60, False, 30_000)
    assert kinds(tmp_path) == (2, 5)
    write(store, 61, False, 30_000)
    assert kinds(tmp_path) == (2, 1)
    assert (tmp_path / "20200101T000000000Z-notes.pcapng").exists()


@pytest.mark.parametrize("wrong", [-5e8, 5e8], ids=["behind", "ahead"])
def test_clockIsSet(tmp_path: Path, wrong: float) -> None:
    """A folder that is full of what a wrong clock has dated has room for captures, as has one while it is wrong."""
    store = CaptureFolder(str(tmp_path), 10, 1 << 16)
    for begin in (0.0, wrong, 1000.0):
        times = [begin + number for number in range(7)]
        for time in times:
            write(store, int(time), True)
        found = {name[:19] for name in os.listdir(tmp_path)}
        assert found == {captureName(1e9 + time, "x", 1, "x", True)[:19] for time in times[-5:]}


def test_plantedLink(tmp_path: Path) -> None:
    """A link under the name of a capture is not followed."""
    tmp_path.chmod(0o777)
    name = captureName(1e9, "10.0.0.9", 1, "silent", True)
    (tmp_path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="exists"):
        CaptureFolder(str(tmp_path), 10, 1 << 20).write(name, b"x")
    assert not (tmp_path / "victim").exists()


def test_fullDisk(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk loses captures only: it is counted, said with its reason, and nothing of them is left."""
    case = Case(folder, network, START + TFTP + RECORDER)
    for number in (9, 10):
        Client(network, host=f"10.0.0.{number}")

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("castd.observe.captures.os.write", full)
    events: list[Any] = []
    with observed(events.append):
        network.advance(100)
    monkeypatch.undo()
    told = [each for each in events if each.get("event") == "unrecorded"]
    assert [each["why"] for each in told] == ["No space left on device"] * 2
    assert status(case)["lost"] == 2
    assert os.listdir(folder / "captures") == []
    assert Client(network, host="10.0.0.11").finish() == (folder / "boot" / "file").read_bytes()
    case.server.stopService()


class Hanging:
    """A disk that does not answer before it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, Deferred[Any]]] = []

    def __call__(self, function: Any) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        self.jobs.append((function, waiting))
        return waiting


def test_slowDisk(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures that wait for the disk are bounded; the others are counted, and a stop does not wait for long."""
    monkeypatch.setattr(recorders, "MOST_WAITING", 2)
    case = Case(folder, network, START + TFTP + RECORDER)
    disk = Hanging()
    thread: RunInThread = disk
    case.server.recorders.thread = thread
    for number in range(10, 15):
        Client(network, host=f"10.0.0.{number}").step()
    network.advance(100)
    assert (len(disk.jobs), status(case)["lost"]) == (2, 3)
    function, waiting = disk.jobs[0]
    waiting.callback(function())
    assert status(case)["written"] == 1
    stopped: list[object] = []
    case.server.stopService().addCallback(stopped.append)
    network.advance(recorders.PATIENCE + 1)
    assert stopped


# The service file.


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "recorder: {directory: nowhere}\n",
            "x.yaml:5: recorder.directory: {folder}/nowhere: No such file or directory",
        ),
        ("recorder: {directory: boot/file}\n", "x.yaml:5: recorder.directory: {folder}/boot/file: Not a directory"),
        (
            f"recorder: {{directory: {'x' * 256}}}\n",
            f"x.yaml:5: recorder.directory: {{folder}}/{'x' * 256}: File name too long",
        ),
    ],
)
def test_noFolder(folder: Path, network: Network, text: str, fault: str) -> None:
    """A folder that is not there is a fault with file and line; a reload then changes nothing."""
    case = Case(folder, network, START + TFTP + RECORDER)
    (told,) = case.reload(START + TFTP + text)
    assert told.endswith(fault.format(folder=folder))
    assert case.server.site.recorder is not None
    case.server.stopService()


@pytest.mark.parametrize(
    ("key", "value"), [("packets", "3"), ("files", "1"), ("payload", "often"), ("memory", "1 KiB")]
)
def test_wrongValue(folder: Path, network: Network, key: str, value: str) -> None:
    """A wrong value is a fault with file, line and key."""
    with pytest.raises(ConfigError, match=rf"x.yaml:6: recorder\.{key}: "):
        Case(folder, network, f"{START}{TFTP}recorder:\n  {key}: {value}\n")


def test_reload(folder: Path, network: Network) -> None:
    """A reload turns the recorder on and off for transfers that begin afterwards."""
    case = Case(folder, network, START + TFTP)
    Client(network).step()
    assert case.reload(START + TFTP + RECORDER) == ()
    Client(network, host="10.0.0.10").step()
    (plain, recorded) = case.server.addresses[0].transport.casts()
    assert (type(plain), type(recorded)) == (CastProtocol, RecordedCast)
    network.advance(100)
    assert len(captures(folder)) == 1
    assert case.reload(START + TFTP) == ()
    assert status(case)["directory"] is None
    case.server.stopService()


def test_check(folder: Path) -> None:
    """C{castd check} says that the folder is not there, with file, line and key; one that is there is no fault."""
    file = folder / "x.yaml"
    for directory, code in (("none", 1), ("captures", 0)):
        file.write_text(f"{START}{TFTP}recorder: {{directory: {directory}}}\n")
        done = CliRunner().invoke(main.main, ["check", str(file)])
        assert done.exit_code == code
        assert ("x.yaml:5: recorder.directory: " in done.output) == (directory == "none")


def test_defaults() -> None:
    """Without a folder the recorder is off."""
    assert RecorderOptions().directory is None


# castd record.


def ask(case: Case, **question: object) -> Any:
    return case.server.recorders.answer({"do": "record", **question})


def taken(answer: Any) -> list[Seen]:
    assert json.dumps(answer)
    return readCapture(b64decode(answer["capture"]))[1] if answer["capture"] else []


def test_record(folder: Path, network: Network) -> None:
    """The packets of transfers under way, of one machine, by a pattern of names, since an instant."""
    case = Case(folder, network, START + TFTP + RECORDER)
    (folder / "boot" / "a.efi").write_bytes(bytes(9000))
    Client(network)
    other = Client(network, host="10.0.0.10", name="a.efi")
    everything = result(ask(case))
    assert [each.source[0] for each in taken(everything) if not each.outgoing].count(CLIENT) == 2
    assert {each.source[0] for each in taken(result(ask(case, client="10.0.0.10")))} == {"10.0.0.10", SERVER}
    efi = taken(result(ask(case, name="*.efi")))
    assert {each.head for each in efi} >= {b"\0\1a.efi\0octet\0", b"\0\3\0\1"}
    assert not any(CLIENT in (each.source[0], each.target[0]) for each in efi)
    assert result(ask(case, client="10.0.0.99"))["packets"] == 0
    network.advance(0.001)
    other.step()
    later = taken(result(ask(case, since=everything["until"], client="10.0.0.10")))
    assert "< RRQ" not in told(later)
    assert len(later) < len(taken(result(ask(case, client="10.0.0.10"))))
    case.server.stopService()


def test_recordForSeconds(folder: Path, network: Network) -> None:
    """A transfer that begins and ends while it is waited is in the answer; afterwards nothing is kept."""
    case = Case(folder, network, START + TFTP + RECORDER)
    answers: list[Any] = []
    ask(case, seconds=5).addCallback(answers.append)
    Client(network).finish()
    network.advance(4)
    assert not answers
    network.advance(2)
    packets = taken(answers[0])
    assert told(packets)[0] == "< RRQ"
    assert told(packets)[-1] == "< ACK 24"
    assert result(ask(case))["packets"] == 0
    case.server.stopService()


def test_recordUnserved(folder: Path, network: Network) -> None:
    """
    While somebody waits, requests that get an ERROR or no answer are in it, each once, with the line of the log as the
    comment of the last packet; those that are served have none; afterwards nothing is kept.
    """
    case = Case(folder, network, START + TFTP + RECORDER + "limits: {per-peer: 1}\n")
    asking(network, "before").expect()
    everything, mine, efi = list[Any](), list[Any](), list[Any]()
    ask(case, seconds=5).addCallback(everything.append)
    ask(case, seconds=5, client=CLIENT).addCallback(mine.append)
    ask(case, seconds=5, name="*.efi").addCallback(efi.append)
    asking(network, "none.efi").expect()
    for name in ("file", "file"):
        asking(network, name, host="10.0.0.10")
        network.advance(1)
    network.advance(5)
    packets = taken(everything[0])
    first = next(each.source for each in packets if each.source[0] == "10.0.0.10")
    unserved = [each for each in packets if first not in (each.source, each.target)]
    assert told(unserved) == ["< RRQ", "> ERROR 1", "< RRQ"]
    assert [each.comment.partition(" is ")[2] for each in unserved] == [
        "",
        "refused none.efi: File not found",
        "not answered: limits.per-peer is reached",
    ]
    assert told([each for each in packets if each.source == first]).count("< RRQ") == 1
    assert {each.comment for each in packets if each not in unserved} == {""}
    for answer in (mine, efi):
        assert [each[1:] for each in taken(answer[0])] == [each[1:] for each in unserved[:2]]
    ask(case, seconds=5).addCallback(everything.append)
    network.advance(6)
    assert "< RRQ" not in told(taken(everything[1]))[1:]
    case.server.stopService()


@pytest.mark.slow
def test_recordUnservedLater(folder: Path, network: Network) -> None:
    """Whoever asks again gets what was told since; and no flood of requests fills the memory."""
    case = Case(folder, network, START + TFTP + RECORDER)
    answers = list[Any]()
    ask(case, seconds=20).addCallback(answers.append)
    ask(case, seconds=5).addCallback(answers.append)
    asking(network, "first").expect()
    network.advance(6)
    for number in range(MOST_ENDED + 50):
        asking(network, "later", host=f"10.0.{number >> 8}.{number & 255}")
        network.advance(0.001)
    ask(case, seconds=1, since=answers[0]["until"]).addCallback(answers.append)
    network.advance(2)
    assert [each.head[2:7] for each in taken(answers[0]) if not each.outgoing] == [b"first"]
    later = [each.head[2:7] for each in taken(answers[1]) if not each.outgoing]
    assert set(later) == {b"later"}
    assert 100 < len(later) <= MOST_ENDED
    case.server.stopService()


@pytest.mark.parametrize(
    "question", [{"client": 5}, {"name": []}, {"since": "x"}, {"seconds": -1}, {"seconds": 21}, {"seconds": None}]
)
def test_wrongQuestion(folder: Path, network: Network, question: dict[str, object]) -> None:
    """A question that cannot be read is refused, and says which part of it."""
    case = Case(folder, network, START + TFTP + RECORDER)
    with pytest.raises(ValueError, match=f"^{next(iter(question))}: "):
        ask(case, **question)
    case.server.stopService()


def test_recordOff(folder: Path, network: Network) -> None:
    """Without the section the answer says what to write into the service file."""
    case = Case(folder, network, START + TFTP)
    with pytest.raises(ValueError, match=r"recorder: \{directory:"):
        ask(case)
    case.server.stopService()


def test_groupOnce() -> None:
    """What was sent to a group is in an answer once, however many machines are in it."""
    made = recorder(room=10, packets=8)
    local = Local(SERVER, 69)
    tape = made.tape("multicast", Request(("10.0.0.9", 1), local, "f"))
    tape.group = "239.1.1.1", 1758
    for number in (9, 10):
        tape.requested(b"request", (f"10.0.0.{number}", 1), local)
    tape.sent(b"to all", tape.group)
    assert [each.head for each in made.take(Selection()).latest(99, 0.0)].count(b"to all") == 1
    assert [each.head for each in made.take(Selection("10.0.0.9")).latest(99, 0.0)].count(b"to all") == 1


def test_recordBesideTheLoop(folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many packets are kept, the loop waits for none of them to be read, and only the latest are."""
    made = list[object]()

    def counted(*fields: Any) -> Captured:
        made.append(fields)
        return Captured(*fields)

    monkeypatch.setattr(recorder_, "Captured", counted)
    monkeypatch.setattr(recorders, "MOST_ASKED", 10)
    case = Case(folder, network, START + TFTP + RECORDER)
    clients = [Client(network, host=f"10.0.0.{number}") for number in range(10, 14)]
    for _ in range(8):
        network.advance(0.01)
        for client in clients:
            client.step()
    everything = taken(result(ask(case, client="10.0.0.13")))
    for question in ({}, {"client": "10.0.0.13"}):
        case.server.recorders.thread = thread = Later()
        made.clear()
        asked = ask(case, **question)
        assert (made, len(thread.jobs)) == ([], 1)
        thread.run()
        answer = result(asked)
        assert answer["packets"] == 10
        assert 10 <= len(made) < 24
    # The time since 1970 is taken anew for each answer.
    assert [each[1:] for each in taken(answer)] == [each[1:] for each in everything[-10:]]
    case.server.stopService()


def test_folderClosed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    """A folder whose disk fails while it is read is closed at once, and not when the garbage collector comes."""

    def fail(_: object) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    made = CaptureFolder(str(tmp_path), 10, 1 << 20)
    for number in range(3):
        made.write(captureName(float(number), "10.0.0.9", 2000, "silent", True), b"x")
    monkeypatch.setattr(captures_, "_isFile", fail)
    with pytest.raises(OSError, match="Input/output"):
        made.write(captureName(9.0, "10.0.0.9", 2000, "silent", True), b"x")
    gc.collect()
    assert [str(each.message) for each in recwarn if each.category is ResourceWarning] == []


class Answers:
    """Answers C{castd record} in place of a server, with so many packets at each question."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *packets: int) -> None:
        self.packets = list(packets)
        self.now = 0.0
        monkeypatch.setattr(record_, "ask", self.ask)
        monkeypatch.setattr(record_.time, "monotonic", lambda: self.now)

    def ask(self, path: str, command: str, **about: Any) -> Any:
        if not self.packets:
            raise click.ClickException("no packets are kept")
        self.now += about["seconds"]
        number = self.packets.pop(0)
        return {"capture": b64encode(b"x" * number).decode(), "packets": number, "until": self.now}


@pytest.mark.parametrize(
    ("packets", "seconds", "status", "holds"),
    [((), 0, 1, b"old"), ((), 2, 1, b"old"), ((0,), 0, 1, b"old"), ((3,), 0, 0, b"xxx"), ((1, 0, 2), 3, 0, b"xxx")],
)
def test_recordReplaces(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packets: tuple[int, ...], seconds: int, status: int, holds: bytes
) -> None:
    """A capture that is there is replaced once the server has answered with packets, or will: else it stays."""
    kept, made = tmp_path / "kept", tmp_path / "new"
    kept.write_bytes(b"old")
    for file in (kept, made):
        Answers(monkeypatch, *packets)
        ran = CliRunner().invoke(main.main, ["record", "-o", str(file), "--seconds", str(seconds), "--control", "x"])
        assert ran.exit_code == status, ran.output
    assert kept.read_bytes() == holds
    assert made.exists() is (status == 0)


def test_recordWhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that cannot be written is told at the first answer, however long the packets would be waited for."""
    answers = Answers(monkeypatch, 0)
    ran = CliRunner().invoke(main.main, ["record", "-o", str(tmp_path / "no" / "x"), "--seconds", "99"])
    assert (ran.exit_code, "No such file or directory" in ran.output, answers.packets) == (1, True, [])
