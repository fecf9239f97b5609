"""
Of many write requests at once some wait, while what else has come to the request port is read and served.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from castd.dialects import tftp
from castd.files.access import Rule, Rules
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.options import Limits
from castd.packets.tftp import Ack, parse
from castd.request import Local, Peer, Request
from castd.server import waiting_writes
from castd.server.listener import Listener
from castd.server.site import Site
from castd.server.waiting_writes import BEGINNING_WAIT, MOST_BEGINNING, WaitingWrites
from castd.testing import Network, NoJitterRandom, RecordingClient
from tests.support.clients.tftp import F, data, hear, rrq, upload, wrq
from tests.support.disks import Later
from tests.support.stage import HOST, SERVER, TftpStage


@pytest.fixture(autouse=True)
def noTime(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is never time to begin an upload while requests are read: on this network nothing takes any."""
    monkeypatch.setattr(WaitingWrites, "SAVED", 0.0)


@pytest.fixture
def stage() -> Iterator[TftpStage]:
    with TftpStage(uploads=True) as stage:
        yield stage


def asking(stage: TftpStage, requests: int) -> list[RecordingClient]:
    """Let so many clients ask to write at once, each from a machine of its own."""
    clients = [stage.client(host=f"10.0.1.{number}") for number in range(1, requests + 1)]
    for number, client in enumerate(clients):
        client.send(wrq(f"up{number}"), SERVER)
    return clients


def test_readsGoFirst(stage: TftpStage) -> None:
    """A download that is asked for behind many uploads is answered before they are; all uploads are served, too."""
    clients = asking(stage, 100)
    reader = stage.client(host="10.0.0.20")
    reader.send(rrq(), SERVER)
    stage.network.advance(0.01)
    answered = [each.destination for each in stage.sightings() if each.destination != SERVER]
    assert answered[0] == reader.address
    # In the order in which they have asked.
    assert answered[1:] == [client.address for client in clients]
    for client in clients:
        letter = client.expect()
        assert parse(letter.datagram) == Ack(0)
        upload(client, letter.source, F)
    assert stage.site.files == {"f": F, **{f"up{number}": F for number in range(100)}}


def test_whoRepeats(stage: TftpStage) -> None:
    """Who repeats a request that waits is served once, in its place."""
    first, second = asking(stage, 2)
    for number, client in enumerate((first, second) * 3):
        client.send(wrq(f"up{number % 2}"), SERVER)
    stage.network.advance(0.01)
    assert len(stage.casts()) == 2
    assert [parse(each.datagram) for client in (first, second) for each in client.take()] == [Ack(0)] * 2


def again(stage: TftpStage, client: RecordingClient, request: bytes) -> None:
    """Have a request read, in the midst of this instant."""
    stage.listener.datagramFrom(request, client.address, Local(HOST, 69))


def test_theyAreNotCountless(stage: TftpStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many wait the oldest is begun before the next one is read."""
    monkeypatch.setattr(waiting_writes, "MOST_WRITES", 3)
    clients = [stage.client(host=f"10.0.1.{number}") for number in range(1, 6)]
    for number, client in enumerate(clients):
        again(stage, client, wrq(f"up{number}"))
    assert [cast.peer for cast in stage.casts()] == [client.address for client in clients[:2]]
    stage.network.advance(0.01)
    assert len(stage.casts()) == 5


def test_aFault(stage: TftpStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that cannot be admitted by a fault is told, and those behind it are served."""
    clients = [stage.client(host=f"10.0.1.{number}") for number in range(1, 4)]
    admit = Listener._admit

    def fails(self: Listener, index: int, request: Any, datagram: bytes) -> None:
        if request.name == "up1":
            raise SystemExit
        admit(self, index, request, datagram)

    monkeypatch.setattr(Listener, "_admit", fails)
    for number, client in enumerate(clients):
        again(stage, client, wrq(f"up{number}"))
    stage.network.advance(0.01)
    assert [cast.peer for cast in stage.casts()] == [clients[0].address, clients[2].address]
    assert [event["log_failure"].type for event in stage.events if "log_failure" in event] == [SystemExit]
    stage.events.clear()


def test_theServerStops(stage: TftpStage) -> None:
    """A request that still waits when the port drains is not served any more."""
    client = stage.client()
    again(stage, client, wrq())
    drained = stage.listener.drain()
    stage.network.advance(1)
    assert drained.called
    assert client.inbox == []
    assert stage.site.dropped["draining"] == 1


class Successor:
    """Takes what the process before it returns."""

    def __init__(self) -> None:
        self.returned: list[tuple[bytes, Peer]] = []

    def returnRequest(self, datagram: bytes, peer: Peer, local: Local) -> None:
        self.returned.append((datagram, peer))


def test_anotherProcessTakesOver(stage: TftpStage) -> None:
    """A request that waits is returned to the process that takes over, before this one is done."""
    client, successor = stage.client(), Successor()
    again(stage, client, wrq())
    drained = stage.listener.handOver(successor)  # type: ignore[arg-type]
    assert not drained.called
    stage.network.advance(0.01)
    assert successor.returned == [(wrq(), client.address)]
    assert drained.called


def test_aReload(stage: TftpStage) -> None:
    """A request that waits is read by the dialects that a reload has brought."""
    client = stage.client()
    again(stage, client, wrq(blksize=1400))
    options = tftp.Options(port=69, blksize=512)
    stage.listener.become(Listener(stage.site, "tftp", options, tftp.Dialect(options)))
    assert dict(hear(client).options) == {"blksize": "512"}


class _Passing:
    """A clock that goes on by a millisecond at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def seconds(self) -> float:
        self.now += 0.001
        return self.now


def test_aPartOfTheTime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes are begun at once for a part of the time, then they wait; after a pause they are begun at once again."""
    monkeypatch.setattr(WaitingWrites, "SAVED", 0.002)
    clock, begun = _Passing(), list[int]()
    site: Any = SimpleNamespace(reactor=clock, timers=SimpleNamespace(set=lambda *_: None))
    writes = WaitingWrites(site)

    def ask(*numbers: int) -> None:
        for number in numbers:
            peer = f"10.0.1.{number}", 2000
            writes.add(Request(peer, Local("10.0.0.1", 69), "up", write=True), partial(begun.append, number))

    ask(*range(20))
    atOnce = len(begun)
    assert 0 < atOnce < 10
    assert (begun, len(writes.waiting)) == (list(range(atOnce)), 20 - atOnce)
    while writes.waiting:
        before = len(begun)
        writes.timerExpired()
        assert len(begun) > before
    assert begun == list(range(20))
    clock.now += 1.0
    ask(20)
    assert begun[-1] == 20


def test_aFaultOfTheLastOne(stage: TftpStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault while the last write that waits is begun keeps no process that hands its port over."""
    listener = stage.listener
    again(stage, stage.client(), wrq())
    handed = listener.handOver(Successor())  # type: ignore[arg-type]
    assert not handed.called
    monkeypatch.setattr(listener, "_admit", lambda *_: 1 / 0)
    stage.network.advance(0.01)
    assert handed.called
    assert [type(each["log_failure"].value) for each in stage.told("fault")] == [ZeroDivisionError]
    stage.events.clear()


def test_oneDiskDoesNotAnswer(tmp_path: Path) -> None:
    """
    While the places of many uploads are being made no others are begun, but slowly: where a disk does not answer, those
    for another one have not to wait for it.
    """
    (tmp_path / "quick").mkdir()
    thread = Later()
    slow = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), under="slow", keepFree=0), thread)
    options = UploadDirectoryOptions(path=str(tmp_path / "quick"), under="quick", keepFree=0)
    quick = UploadDirectory(options, maybeDeferred)

    def made(network: Network) -> Site:
        site = Site(network, NoJitterRandom(1), network.host(HOST), Limits())
        site.open([], [slow, quick], Rules([Rule.model_validate({"allow": "any"})]))
        return site

    with TftpStage(made=made) as stage:
        for number in range(2 * MOST_BEGINNING):
            stage.client(host=f"10.0.1.{number}").send(wrq(f"slow/up{number}"), SERVER)
        client = stage.client(host="10.0.0.20")
        client.send(wrq("quick/up"), SERVER)
        stage.network.advance(0.001)
        assert len(thread.jobs) == MOST_BEGINNING
        stage.network.advance((MOST_BEGINNING + 1) * BEGINNING_WAIT)
        letter = client.expect()
        assert parse(letter.datagram) == Ack(0)
        upload(client, letter.source, F)
        assert (tmp_path / "quick" / "up").read_bytes() == F
        # The disk answers: those that wait are begun as soon as there is room.
        thread.run()
        stage.network.advance(0.001)
        thread.run()
        assert len(stage.casts()) == 2 * MOST_BEGINNING + 1
        stage.listener.stop()
        thread.run()


def test_aBlockOfADownload(stage: TftpStage) -> None:
    """A download goes on while uploads wait."""
    client, packet, tid = stage.ask(rrq())
    assert packet == data(1)
    asking(stage, 3)
    stage.network.advance(0.01)
    assert len(stage.casts()) == 4
    client.send(b"\0\4\0\1", tid)
    assert hear(client) == data(2)
