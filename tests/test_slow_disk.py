"""
A disk that does not answer is waited for by those who need it, for a bounded time; nobody else waits, on no transport.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.task import Clock, deferLater

from castd.dialects import mtftp
from castd.errors import NotFound, Unavailable
from castd.files import athand
from castd.files.access import Rule, Rules
from castd.files.content import Directory, DirectoryOptions
from castd.files.file_upload import MOST_UNWRITTEN
from castd.files.netascii import PIECE
from castd.files.presence import PATIENCE, Presence, lookAt
from castd.files.root import Root
from castd.files.threads import MOST_AWAITED, DiskThreads, allWithin, callWithin, whenAll
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.net.sockets import HEADERS
from castd.options import Limits
from castd.packets.tftp import Ack, Data, Error, buildAck, buildData, buildError, parse
from castd.request import Local
from castd.server.cast_protocol import READ_TIMEOUT
from castd.server.listener import COPY_WAIT
from castd.server.sessions import LOOKUP_TIMEOUT
from castd.server.site import Site
from castd.server.upload_protocol import MOST_KEPT, STORE_TIMEOUT
from castd.service.service import compose, read
from castd.slices import SLICE, Slices
from castd.testing import Network, NoJitterRandom, RecordingClient, memorySite, pattern
from tests.support.clients.tftp import ackedTo, hear, isError, rrq, say, wrq
from tests.support.descriptors import Descriptors
from tests.support.disks import HereDirectory, Later, nobody, result
from tests.support.jobs import free, running, until
from tests.support.log import observed
from tests.support.needs import lack, run
from tests.support.server import COLLECTED, START, TFTP
from tests.support.stage import HOST, SERVER, Stage, TftpStage

BLOCKS = 256  # of a chunk, as long as there are few casts
CHUNK = BLOCKS * 512
"""Octets that are read at once for blocks of 512."""
FILE = pattern(3 * CHUNK - 100)


class Disk:
    """
    A directory on a disk that is in the test's hand: nothing of it is ever in memory.

    @ivar thread: does what the disk is asked when it is told to.
    """

    def __init__(self, path: Path) -> None:
        self.thread = Later()
        self.source = Directory(DirectoryOptions(path=str(path)), self.thread, self.thread)
        self.sink = UploadDirectory(UploadDirectoryOptions(path=str(path), keepFree=0), self.thread)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(athand, "fromMemory", lambda _: False)
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "f").write_bytes(FILE)
    return Disk(tmp_path / "slow")


@pytest.fixture
def stage(slow: Disk, tmp_path: Path) -> Iterator[TftpStage]:
    """A slow disk, and another under C{quick}; uploads to the slow one."""
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "q").write_bytes(b"quick")
    quick = Directory(DirectoryOptions(path=str(tmp_path / "quick"), under="quick"), maybeDeferred)

    def made(network: Network) -> Site:
        site = Site(network, NoJitterRandom(1), network.host(HOST), Limits())
        site.open([quick, slow.source], [slow.sink], Rules([Rule.model_validate({"allow": "any"})]))
        return site

    with TftpStage(made=made, options={"blksize": 512, "windowsize": 4096}) as stage:
        yield stage


_ports = count(10_000)


def quickly(stage: TftpStage) -> None:
    """Somebody else is served at once."""
    client, packet, tid = stage.ask(rrq("quick/q"), stage.client(next(_ports)), 0.01)
    assert packet == Data(1, b"quick")
    say(client, 1, tid)
    stage.network.advance(0.01)


# Reading.


def test_aFileIsLookedUp(stage: TftpStage, slow: Disk) -> None:
    """While a file is looked up a repeated request changes nothing; once it is found the answer goes out."""
    client = stage.client()
    for _ in range(3):
        client.send(rrq(), SERVER)
        stage.network.advance(1)
    assert len(slow.thread.jobs) == 1
    assert stage.site.admission.looking == 1
    quickly(stage)
    slow.thread.run()
    assert hear(client) == Data(1, FILE[:512])


def test_noFileIsFound(stage: TftpStage, slow: Disk) -> None:
    """That there is no such file is said when the disk has said so."""
    client = stage.client()
    client.send(rrq("none"), SERVER)
    stage.network.advance(1)
    assert client.inbox == []
    slow.thread.run()
    assert isError(hear(client), 1)


def test_aRequestIsLetGo(stage: TftpStage, slow: Disk) -> None:
    """Who has waited for half a minute waits no longer and gets no ERROR; what the disk then finds is closed."""
    client = stage.client()
    client.send(rrq(), SERVER)
    client.send(wrq("new"), SERVER)
    stage.network.advance(LOOKUP_TIMEOUT - 1)
    assert stage.site.admission.looking == 1
    stage.network.advance(2)
    assert stage.site.admission.looking == 0
    opened = Descriptors()
    slow.thread.run()
    assert opened.left() == []
    assert client.inbox == []
    assert [event["event"] for event in stage.events if event.get("event") in ("crowded", "refused")] == ["crowded"]
    assert slow.source._open == {}


@pytest.mark.parametrize("later", [rrq("g"), wrq("new")], ids=["read", "write"])
@pytest.mark.parametrize("first", [rrq(), rrq("none"), wrq("other"), wrq("f")], ids=["read", "none", "write", "exists"])
def test_anotherFileIsAskedFor(stage: TftpStage, slow: Disk, first: bytes, later: bytes) -> None:
    """
    Who asks for another file from the same port, while the first one is looked up, gets no answer to the first request,
    which it would take for that to the second one; and is then served what it has asked for last.
    """
    Path(slow.sink.options.path, "g").write_bytes(b"another")
    opened = Descriptors()
    client = stage.client()
    for request in (first, later, later):
        client.send(request, SERVER)
        stage.network.advance(1)
    assert stage.site.admission.looking == 1
    slow.thread.run()
    letter = client.expect()
    slow.thread.run()
    assert parse(letter.datagram) == (Data(1, b"another") if later == rrq("g") else Ack(0))
    assert client.take() == []
    (session,) = stage.casts()
    assert session.fileName == ("g" if later == rrq("g") else "new")
    assert not stage.listener._askedAnew
    stage.listener.stop()
    slow.thread.run()
    assert opened.left() == []
    assert sorted(os.listdir(slow.sink.options.path)) == ["f", "g"]


def test_theFirstFileIsAskedForAgain(stage: TftpStage, slow: Disk) -> None:
    """What is asked for last counts: if that is the first file again, it is served."""
    client = stage.client()
    for name in ("f", "g", "f"):
        client.send(rrq(name), SERVER)
        stage.network.advance(1)
    slow.thread.run()
    assert hear(client) == Data(1, FILE[:512])
    assert len(stage.casts()) == 1


def test_anUploadIsLetGo(stage: TftpStage, slow: Disk) -> None:
    """The same of one who wants to write: nothing is left of it."""
    client = stage.client()
    client.send(wrq("new"), SERVER)
    stage.network.advance(LOOKUP_TIMEOUT + 1)
    assert stage.site.admission.looking == 0
    slow.thread.run()
    stage.network.advance(1)
    assert client.inbox == []
    assert os.listdir(slow.sink.options.path) == ["f"]
    assert slow.sink.uploads.byKey == {}


@pytest.mark.slow
def test_tooManyWait(stage: TftpStage, slow: Disk) -> None:
    """So many wait for one disk; those beyond get no answer, and ask again."""
    for number in range(MOST_AWAITED + 5):
        stage.client(3000 + number, f"10.0.{number & 127}.9").send(rrq(), SERVER)
    stage.network.advance(0.1)
    assert len(slow.thread.jobs) == MOST_AWAITED
    assert len(stage.told("crowded")) == 5
    quickly(stage)
    late = stage.client(next(_ports))
    slow.thread.run()
    late.send(rrq(), SERVER)
    stage.network.advance(0.1)
    slow.thread.run()
    assert hear(late) == Data(1, FILE[:512])


def test_blocksAreRead(stage: TftpStage, slow: Disk) -> None:
    """
    A transfer whose blocks are being read waits without giving its client up, is not confused by what that repeats, and
    then has read the next blocks before they are asked for.
    """
    client = stage.client()
    client.send(rrq(), SERVER)
    stage.network.advance(0.01)
    slow.thread.run(1)
    for _ in range(8):
        client.send(rrq(), SERVER)
        stage.network.advance(1)
    assert client.inbox == []
    quickly(stage)
    assert len(slow.thread.jobs) == 1
    slow.thread.run(1)
    stage.network.advance(0.01)
    tid = client.inbox[0].source
    assert [parse(each.datagram) for each in client.take()] == [Data(1, FILE[:512])]
    for number in range(1, BLOCKS):
        assert ackedTo(client, number, tid) == Data(number + 1, FILE[number * 512 :][:512])
    # What follows was asked for at once, and is not there yet.
    assert len(slow.thread.jobs) == 1
    say(client, BLOCKS, tid)
    stage.network.advance(3)
    say(client, BLOCKS, tid)
    stage.network.advance(3)
    assert client.inbox == []
    slow.thread.run()
    stage.network.advance(0.01)
    assert [parse(each.datagram) for each in client.take()] == [Data(BLOCKS + 1, FILE[CHUNK:][:512])]
    # The chunk after that was read as well.
    for number in range(BLOCKS + 1, 3 * BLOCKS):
        assert ackedTo(client, number, tid) == Data(number + 1, FILE[number * 512 :][:512])


def test_aWindowIsRead(stage: TftpStage, slow: Disk) -> None:
    """A window that is being read goes out once, however often its client repeats the request for it meanwhile."""
    client = stage.client()
    client.send(rrq(blksize=512, windowsize=4), SERVER)
    stage.network.advance(0.01)
    slow.thread.run(1)
    stage.network.advance(0.01)
    tid = client.take()[0].source
    for acked in range(0, BLOCKS + 1, 4):
        for _ in range(4 if acked in (0, BLOCKS) else 1):
            say(client, acked, tid)
            stage.network.advance(0.1 if acked in (0, BLOCKS) else 0.001)
        if acked in (0, BLOCKS):
            assert client.inbox == []
            slow.thread.run(1)
            stage.network.advance(0.001)
        assert [parse(each.datagram).number for each in client.take()] == [acked + number for number in range(1, 5)]
    # One that is asked for again once it is there has been lost.
    stage.network.advance(0.01)
    say(client, BLOCKS, tid)
    stage.network.advance(0.001)
    assert [parse(each.datagram).number for each in client.take()] == [BLOCKS + number for number in range(1, 5)]


def test_readOnceForAll(stage: TftpStage, slow: Disk) -> None:
    """Those who need the same blocks have them read once; when one has left in the meantime, the others go on."""
    clients = [stage.client(2000 + number) for number in range(3)]
    for client in clients:
        client.send(rrq(), SERVER)
    stage.network.advance(0.01)
    slow.thread.run(3)
    stage.network.advance(0.01)
    assert len(stage.site.blockCache._awaited) == 1
    casts: list[Any] = stage.casts()
    casts[0].end("stopped")
    slow.thread.run()
    stage.network.advance(0.01)
    for client in clients[1:]:
        assert parse(client.take()[0].datagram) == Data(1, FILE[:512])


def test_aReadThatNeverEnds(stage: TftpStage, slow: Disk) -> None:
    """A transfer whose blocks never come ends, and its descriptor is kept until the disk lets go of it."""
    client = stage.client()
    client.send(rrq(), SERVER)
    stage.network.advance(0.01)
    slow.thread.run(1)
    stage.network.advance(READ_TIMEOUT - 1)
    assert len(stage.casts()) == 1
    stage.network.advance(2)
    assert stage.casts() == []
    assert len(slow.source._open) == 1
    slow.thread.run()
    assert slow.source._open == {}


def test_aReadThatFails(stage: TftpStage, slow: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails after a while ends the transfers that wait for it, with an ERROR."""
    client = stage.client()
    client.send(rrq(), SERVER)
    stage.network.advance(0.01)
    slow.thread.run(1)

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    slow.thread.run()
    assert isinstance(hear(client), Error)
    assert stage.casts() == []
    slow.thread.run()
    assert slow.source._open == {}


def test_mtftp(slow: Disk, tmp_path: Path) -> None:
    """MTFTP has its first block when it opens a file, so it never waits in the reactor's thread."""
    network = Network(latency=0.0005)
    site = memorySite(network, host=f"{HOST}/16", source=slow.source)
    given = {"files": {"f": "239.255.1.1:3001"}, "gather": 0, "gatherLimit": 0}
    with Stage(network, site, (mtftp, given), port=1759) as stage:
        client = RecordingClient(network.host("10.0.0.2/16"), 2000)
        client.send(rrq(), (HOST, 1759))
        network.advance(0.01)
        slow.thread.run(1)
        network.advance(0.01)
        assert parse(client.inbox[0].datagram) == Data(1, FILE[:512])
        slow.thread.run()
        stage.listener.stop()
        slow.thread.run()


def test_netascii(stage: TftpStage, slow: Disk) -> None:
    """Text is measured and converted off the reactor's thread, too, and comes whole."""
    text = b"one line\n" * 20_000
    Path(slow.sink.options.path, "text").write_bytes(text)
    client = stage.client()
    client.send(rrq("text", "netascii", blksize=512), SERVER)
    got, number, tid = b"", 0, SERVER
    while len(got) < len(text) + 20_000:
        for _ in range(20):
            stage.network.advance(0.01)
            if client.inbox:
                break
            quickly(stage)
            slow.thread.run(1)
        letter = client.take()[-1]
        packet, tid = parse(letter.datagram), letter.source
        if isinstance(packet, Data) and packet.number == number + 1:
            number += 1
            got += packet.payload
        client.send(buildAck(number), tid)
    assert len(text) > 2 * PIECE
    assert got == text.replace(b"\n", b"\r\n")


def stopAtOnce(stage: TftpStage, slow: Disk) -> None:
    """Stop the listener, which waits for no disk; and let the disk answer afterwards."""
    stage.network.advance(0.01)
    drained = stage.listener.drain()
    stage.listener.stop()
    assert drained.called
    slow.thread.run()
    stage.network.advance(0.01)
    assert stage.casts() == []


def test_aStop(stage: TftpStage, slow: Disk) -> None:
    """A stop ends those who wait for a disk as it ends all others, at once."""
    for number in range(3):
        stage.client(2000 + number).send(rrq(), SERVER)
    stage.client(2010).send(wrq("new"), SERVER)
    stage.network.advance(0.01)
    slow.thread.run(2)
    stopAtOnce(stage, slow)
    assert (slow.source._open, slow.sink.uploads.byKey) == ({}, {})
    assert os.listdir(slow.sink.options.path) == ["f"]


def test_aStopWhileMeasuring(stage: TftpStage, slow: Disk) -> None:
    """A stop waits for no file that is measured for netascii, and leaves none open."""
    for number in range(10):
        Path(slow.sink.options.path, f"text{number}").write_bytes(bytes(4 * PIECE))
        stage.client(2000 + number).send(rrq(f"text{number}", "netascii"), SERVER)
    stage.network.advance(0.01)
    slow.thread.run(10)
    stage.network.advance(0.01)
    assert (stage.site.admission.looking, len(slow.thread.jobs)) == (10, 10)
    stopAtOnce(stage, slow)
    assert (stage.site.admission.looking, slow.source._open) == (0, {})


@pytest.mark.slow
@pytest.mark.loopback
def test_measuringHoldsNobodyUp(tmp_path: Path) -> None:
    """
    While ten files are measured for netascii, each for half a minute and more, uploads to the same directory are stored
    at once, and a stop is one: neither waits for a thread that is busy.
    """
    for number in range(10):
        with (tmp_path / f"text{number}").open("wb") as file:
            file.truncate(64 << 30)
    port = free(socket.SOCK_DGRAM)[0]
    service = tmp_path / "x.yaml"
    service.write_text(
        f"castd: 1\ncontent: [{{directory: {{path: {tmp_path}}}}}]\naccess: [{{allow: any}}]\nlimits: {{drain: 60 s}}\n"
        f"uploads: [{{directory: {{path: {tmp_path}, keep-free: 0}}}}]\n"
        f"transports: {{tftp: {{port: {port}, interface: 127.0.0.1}}}}\n"
    )
    with ExitStack() as stack:
        process = stack.enter_context(running("-m", "castd", "serve", "-c", service))
        until(process, "listens at")
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(20)]
        for client in clients:
            client.settimeout(10)
        readers, writers = clients[:10], clients[10:]
        for number, reader in enumerate(readers):
            reader.sendto(rrq(f"text{number}", "netascii"), ("127.0.0.1", port))
        for number, writer in enumerate(writers):
            writer.sendto(wrq(f"new{number}"), ("127.0.0.1", port))
            packet, tid = writer.recvfrom(600)
            assert parse(packet) == Ack(0)
            writer.sendto(buildData(1, b"new"), tid)
            assert parse(writer.recv(600)) == Ack(1)
        assert (tmp_path / "new9").read_bytes() == b"new"
        for reader in readers:
            reader.setblocking(False)
            with pytest.raises(BlockingIOError):
                reader.recv(600)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


# Writing.


def begun(stage: TftpStage, slow: Disk, **options: int) -> Any:
    """Begin an upload.  -> the client, and the address to send to."""
    client = stage.client(next(_ports))
    client.send(wrq("new", **options), SERVER)
    stage.network.advance(0.01)
    slow.thread.run()
    stage.network.advance(0.01)
    return client, client.take()[0].source


def test_anUploadIsHeldBack(stage: TftpStage, slow: Disk) -> None:
    """
    A client that sends faster than the disk takes gets no ACK until there is room; what it repeats meanwhile is not
    acknowledged twice; and every octet is stored.
    """
    client, tid = begun(stage, slow, blksize=512)
    data, number = pattern(2 * MOST_UNWRITTEN), 0
    while True:
        number += 1
        client.send(buildData(number, data[(number - 1) * 512 : number * 512]), tid)
        stage.network.advance(0.01)
        if not client.take():
            break
    assert MOST_UNWRITTEN <= (number - 1) * 512 <= MOST_UNWRITTEN + 2048
    for _ in range(4):
        client.send(buildData(number, data[(number - 1) * 512 : number * 512]), tid)
        stage.network.advance(5)
    assert client.inbox == []
    quickly(stage)
    slow.thread.run()
    stage.network.advance(0.01)
    assert [parse(each.datagram) for each in client.take()] == [Ack(number)]
    while number * 512 <= len(data):
        number += 1
        client.send(buildData(number, data[(number - 1) * 512 : number * 512]), tid)
        stage.network.advance(0.01)
        slow.thread.run()
        assert hear(client) == Ack(number)
    assert Path(slow.sink.options.path, "new").read_bytes() == data
    stage.network.advance(40)
    (event,) = (each for each in stage.told("received") if each.get("write"))
    assert (event["outcome"], event["octets"], event["repeats"]) == ("done", len(data), 0)


def copied(stage: TftpStage, client: RecordingClient, request: bytes) -> None:
    """Have a request read once more, and let the time pass after which it would be served anew."""
    stage.listener.datagramFrom(request, client.address, Local(HOST, 69))
    stage.network.advance(2 * COPY_WAIT)


def test_aCopyOfTheRequestMeanwhile(stage: TftpStage, slow: Disk) -> None:
    """
    Who cannot go on, as his upload waits for the disk, has not restarted: a copy of his request ends nothing while
    there is no room, nor while the file is being stored.
    """
    client, tid = begun(stage, slow, blksize=512)
    request, data, number = wrq("new", blksize=512), pattern(MOST_UNWRITTEN + 5000), 0
    while not number or client.take():
        number += 1
        client.send(buildData(number, data[(number - 1) * 512 : number * 512]), tid)
        stage.network.advance(0.001)
    copied(stage, client, request)
    slow.thread.run()
    assert hear(client) == Ack(number)
    while number * 512 <= len(data):
        number += 1
        client.send(buildData(number, data[(number - 1) * 512 : number * 512]), tid)
        stage.network.advance(0.001)
    client.take()
    copied(stage, client, request)
    assert client.inbox == []
    slow.thread.run()
    assert hear(client) == Ack(number)
    assert Path(slow.sink.options.path, "new").read_bytes() == data
    stage.network.advance(40)
    assert [event["outcome"] for event in stage.told("received") if event.get("write")] == ["done"]


def test_aCopyOfTheRequestWhileItIsRead(stage: TftpStage, slow: Disk) -> None:
    """Nor has a client restarted whose next block is being read, if the copy of its request comes then, or before."""
    client = stage.client()
    client.send(rrq(), SERVER)
    stage.network.advance(0.01)
    slow.thread.run(2)
    stage.network.advance(0.01)
    tid = client.take()[0].source
    for number in range(1, BLOCKS):
        ackedTo(client, number, tid)
    stage.listener.datagramFrom(rrq(), client.address, Local(HOST, 69))
    say(client, BLOCKS, tid)
    stage.network.advance(2 * COPY_WAIT)
    copied(stage, client, rrq())
    slow.thread.run()
    assert hear(client) == Data(BLOCKS + 1, FILE[CHUNK:][:512])
    assert stage.site.dropped["copies"] == 2
    assert len(stage.casts()) == 1


@pytest.mark.parametrize("ending", [buildError(0, "no"), wrq("more")], ids=["ERROR", "restart"])
@pytest.mark.parametrize("fault", [None, errno.ENOSPC], ids=["stored", "failed"])
def test_theEndWhileItIsStored(
    stage: TftpStage, slow: Disk, monkeypatch: pytest.MonkeyPatch, ending: bytes, fault: int | None
) -> None:
    """Of an upload that ends while its file is being stored it is told whether it was stored, when that is known."""
    client, tid = begun(stage, slow)
    client.send(buildData(1, b"all"), tid)
    stage.network.advance(0.01)
    client.send(ending, SERVER if ending == wrq("more") else tid)
    stage.network.advance(0.2)
    assert stage.told("received") == []
    with monkeypatch.context() as patched:
        if fault:
            patched.setattr(os, "fsync", lambda fd: raiseOsError(fault))
        slow.thread.run()
    stage.network.advance(STORE_TIMEOUT + 1)
    ended = {buildError(0, "no"): "aborted", wrq("more"): "replaced"}[ending]
    (event,) = (each for each in stage.told("received") if each["name"] == "new")
    assert (event["outcome"], event["octets"]) == (ended if fault else "done", 3)
    assert Path(slow.sink.options.path, "new").exists() == (fault is None)


def raiseOsError(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_stopWhileItIsStored(stage: TftpStage, slow: Disk) -> None:
    """A drain waits for an upload whose client has left while its file is being stored; a stop tells it as it is."""
    client, tid = begun(stage, slow)
    client.send(buildData(1, b"all"), tid)
    stage.network.advance(0.01)
    client.send(buildError(0, "no"), tid)
    stage.network.advance(0.01)
    drained = stage.listener.drain()
    assert (stage.told("received"), drained.called) == ([], False)
    stage.listener.stop()
    (event,) = stage.told("received")
    assert (event["outcome"], drained.called) == ("aborted", True)
    slow.thread.run()
    stage.network.advance(STORE_TIMEOUT + 1)
    assert len(stage.told("received")) == 1


def test_theEndWhileNothingIsStored(stage: TftpStage, slow: Disk) -> None:
    """If the disk never answers the upload is told as it has ended."""
    client, tid = begun(stage, slow)
    client.send(buildData(1, b"all"), tid)
    stage.network.advance(0.01)
    client.send(buildError(0, "no"), tid)
    stage.network.advance(STORE_TIMEOUT + 1)
    (event,) = stage.told("received")
    assert event["outcome"] == "aborted"
    slow.thread.run()
    assert len(stage.told("received")) == 1


def test_aDiskThatNeverTakesIt(stage: TftpStage, slow: Disk) -> None:
    """An upload that the disk does not take ends with an ERROR, while it is sent and when it is complete."""
    held, tid = begun(stage, slow, blksize=512)
    for number in range(1, 2 * MOST_KEPT + MOST_UNWRITTEN // 512):
        held.send(buildData(number, bytes(512)), tid)
        stage.network.advance(0.001)
    stage.network.advance(STORE_TIMEOUT + 2)
    assert isinstance(parse(held.take()[-1].datagram), Error)
    slow.thread.run()
    whole, tid = begun(stage, slow)
    whole.send(buildData(1, b"all"), tid)
    stage.network.advance(STORE_TIMEOUT - 1)
    assert whole.inbox == []
    stage.network.advance(2)
    assert isinstance(hear(whole), Error)
    assert stage.casts() == []
    slow.thread.run()
    assert slow.sink.uploads.byKey == {}


@pytest.mark.parametrize(("held", "kept"), [(10, MOST_KEPT), (2 * MOST_KEPT, 2 * MOST_KEPT)])
def test_noMoreIsKeptThanIsGranted(stage: TftpStage, slow: Disk, held: int, kept: int) -> None:
    """While the disk is waited for, a client that sends more than the window it was granted fills no memory."""
    stage.site.ports.buffer = held * (HEADERS + 512)
    client, tid = begun(stage, slow, blksize=512, windowsize=4096)
    (upload,) = stage.casts()
    assert upload.half.terms.windowsize == held
    for number in range(1, 4 * MOST_KEPT + MOST_UNWRITTEN // 512):
        client.send(buildData(number, bytes(512)), tid)
    stage.network.advance(0.01)
    assert len(upload._unread) == kept
    stage.network.advance(STORE_TIMEOUT + 2)
    slow.thread.run()


def test_anotherMount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies on another mount below a directory is waited for apart, so that the directory itself still answers."""
    (tmp_path / "mount").mkdir()
    for name in ("mount/f", "f"):
        (tmp_path / name).write_bytes(FILE)
    monkeypatch.setattr(athand, "openat2", lambda *_: None)
    monkeypatch.setattr(athand, "fromMemory", lambda _: False)
    monkeypatch.setattr(athand, "leadsBeyond", lambda path, _: path.startswith(b"mount/"))
    own, other, found = Later(), Later(), list[Any]()
    source = Directory(DirectoryOptions(path=str(tmp_path)), own, own, other)
    for name in ("mount/f", "f"):
        asked: Any = source.lookup(name, ("10.0.0.9", 2000))
        asked.addCallback(found.append)
        own.run()
    assert [each.name for each in found] == ["f"]
    other.run()
    buffer = bytearray(1000)
    found[1].fetch([buffer], 1000).addCallback(found.append)
    found[1].close()
    assert own.jobs == []
    other.run()
    assert (bytes(buffer), found[2]) == (FILE[1000:2000], None)
    found[0].close()
    own.run()
    assert source._open == {}


@pytest.mark.root
def test_leadsBeyond(tmp_path: Path) -> None:
    """Another mount in the way is seen, and is no hindrance."""
    for name in ("root", "root/mount", "other"):
        (tmp_path / name).mkdir()
    for name in ("root/f", "other/f"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "root" / "link").symlink_to("mount/f")
    tried = run("mount", "--bind", tmp_path / "other", tmp_path / "root" / "mount")
    if tried.returncode:
        lack(f"nothing can be mounted here: {tried.stderr}")
    try:
        source = HereDirectory(DirectoryOptions(path=str(tmp_path / "root")), maybeDeferred, beyond=maybeDeferred)
        if not source._root._opened.fromMemory:
            lack("the tests' own disk is none that is opened from memory")
        for name, beyond in {"f": False, "mount/f": True, "link": True, "mount/none": True, "none": False}.items():
            assert source._root.leadsBeyond(tuple(name.encode().split(b"/"))) is beyond
        for name, octets in {"f": b"root/f", "mount/f": b"other/f", "link": b"other/f"}.items():
            found = source.lookup(name, ("10.0.0.9", 2000))
            assert found.read(0, 99) == octets
            found.close()
        with pytest.raises(NotFound):
            source.lookup("mount/none", ("10.0.0.9", 2000))
    finally:
        run("umount", tmp_path / "root" / "mount", check=True)


# Threads.


@pytest_twisted.inlineCallbacks
def test_threads() -> Any:
    """
    Functions run in their order and at once as far as there are threads; what hangs holds up no other directory; who
    has cancelled is not waited for.
    """
    hangs, few, others = threading.Event(), DiskThreads(2), DiskThreads(2)
    ran: list[int] = []
    waiting = [few(hangs.wait) for _ in range(2)]
    cancelled = few(lambda: ran.append(0)).addErrback(lambda failure: None)
    last = few(lambda: ran.append(1))
    assert (yield others(threading.get_ident)) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        yield others(lambda: 1 // 0)
    assert ran == []
    cancelled.cancel()
    hangs.set()
    yield gatherResults([*waiting, last])
    assert ran == [1]


@pytest_twisted.inlineCallbacks
def test_manyResults() -> Any:
    """Of many results at once some are delivered in each turn of the reactor, in their order; a fault stops none."""
    threads, turns, taken, events = DiskThreads(1), [0], list[tuple[int, int]](), list[Any]()

    def take(_: object, number: int) -> None:
        time.sleep(SLICE / 2)
        taken.append((number, turns[0]))

    def turn() -> None:
        turns[0] += 1
        if len(taken) < 20:
            reactor.callLater(0, turn)

    done = threading.Event()
    waiting = [threads(bool).addCallback(take, number) for number in range(20)]
    last = threads(done.set)
    done.wait(10)
    threads._hand(lambda: 1 // 0)
    turn()
    with observed(events.append):
        yield gatherResults([*waiting, last])
        yield threads(bool)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    assert [number for number, _ in taken] == list(range(20))
    assert max(Counter(at for _, at in taken).values()) <= 2


@pytest_twisted.inlineCallbacks
def test_noThreads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """
    Where the system has no thread for a moment (C{TasksMax}, no memory), what waits for a disk waits longer, however
    many come meanwhile: nothing is raised, nor lost, and afterwards there are as many threads as before.
    """
    start, refused, hangs = threading.Thread.start, list[threading.Thread](), threading.Event()

    def cannot(self: threading.Thread) -> None:
        refused.append(self)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("castd.files.threads.START_AGAIN", 0.01)
    none, few, events = DiskThreads(2), DiskThreads(2), list[Any]()
    busy = few(hangs.wait)
    monkeypatch.setattr(threading.Thread, "start", cannot)
    with observed(events.append):
        waiting = [none(threading.get_ident) for _ in range(10)]
    assert [(event["event"], event["log_format"]) for event in events] == [
        ("fault", "no thread can be started for a disk")
    ]
    last = few(bool)
    hangs.set()
    assert (yield gatherResults([busy, last])) == [True, False]
    while len(refused) < 20:
        yield deferLater(reactor, 0.01, bool)
    assert not any(each.called for each in waiting)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert len(set((yield gatherResults(waiting)))) <= 2


@pytest_twisted.inlineCallbacks
def test_threadsAgain(monkeypatch: pytest.MonkeyPatch) -> Any:
    """When the system has threads again, what has waited gets as many as it needs: who hangs keeps one."""
    start, hangs = threading.Thread.start, threading.Event()

    def cannot(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("castd.files.threads.START_AGAIN", 0.01)
    monkeypatch.setattr(threading.Thread, "start", cannot)
    none = DiskThreads(3)
    hanging = [none(hangs.wait) for _ in range(2)]
    others = [none(bool) for _ in range(5)]
    monkeypatch.setattr(threading.Thread, "start", start)
    try:
        assert (yield gatherResults(others).addTimeout(10.0, reactor)) == [False] * 5
    finally:
        hangs.set()
    assert none._threads == 3
    yield gatherResults(hanging)


def test_callWithin() -> None:
    """A function is waited for, but not for long; its error is raised."""
    hangs = threading.Event()
    with pytest.raises(TimeoutError):
        callWithin(0.01, hangs.wait)
    hangs.set()
    assert callWithin(10, lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        callWithin(10, lambda: 1 // 0)


def test_callWithinWithoutThread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, a start or a reload is refused with that reason; it is no fault of castd."""

    def cannot(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    (tmp_path / "boot").mkdir()
    (tmp_path / "x.yaml").write_text(START + TFTP)
    config = read(tmp_path / "x.yaml", COLLECTED)
    host = Network().host("10.0.0.1")
    monkeypatch.setattr(threading.Thread, "start", cannot)
    with pytest.raises(Unavailable, match=r"x.yaml:2: .*boot: no thread can be started for its disk"):
        compose(config, COLLECTED, host, host, random.Random(0))


def test_allWithin() -> None:
    """Several are waited for, but not for long."""
    clock, fired = Clock(), list[Any]()
    never: Deferred[None] = Deferred()
    never.addErrback(lambda _: None)
    allWithin([], 1, clock).addCallback(fired.append)
    assert fired == [None]
    allWithin([never], 1, clock).addCallback(fired.append)
    clock.advance(0.9)
    assert fired == [None]
    clock.advance(0.2)
    assert fired == [None, None]


# A directory that does not answer.


def test_aRootThatDoesNotAnswer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that does not answer at the start does not stop it, and serves as soon as it answers."""
    hangs, stat = threading.Event(), os.open
    (tmp_path / "f").write_bytes(b"found")

    def hanging(path: Any, *rest: Any, **more: Any) -> int:
        if path == str(tmp_path):
            hangs.wait(10)
        return stat(path, *rest, **more)

    monkeypatch.setattr(os, "open", hanging)
    root = Root(str(tmp_path), patience=0.01)
    source = Directory(DirectoryOptions(path=str(tmp_path)), maybeDeferred, patience=0.01)
    assert not root.answers
    assert not source.answers
    hangs.set()
    os.close(root.openFile((b"f",)))
    assert root.answers
    found = result(source.lookup("f", ("10.0.0.9", 2000)))
    assert found.read(0, 9) == b"found"
    found.close()


def test_presence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whether a directory is there is known at once where memory has it, else when the disk has said so, or not; a disk
    that is known to hang is not waited for.
    """
    clock, thread, fired = Clock(), Later(), list[Any]()
    presence = Presence(str(tmp_path), clock, thread)
    lookAt([presence], clock).addCallback(fired.append)
    assert (fired, presence.fault(), thread.jobs) == ([None], None, [])
    monkeypatch.setattr(athand, "openat2", lambda *_: None)
    for _ in range(3):
        lookAt([presence], clock).addCallback(fired.append)
    assert (len(fired), len(thread.jobs)) == (1, 1)
    clock.advance(PATIENCE)
    assert (len(fired), presence.fault()) == (4, "does not answer")
    lookAt([presence], clock).addCallback(fired.append)
    assert (len(fired), presence.fault(), len(thread.jobs)) == (5, "does not answer", 1)
    thread.run()
    assert presence.fault() is None
    tmp_path.rmdir()
    lookAt([presence], clock)
    thread.run()
    assert presence.fault() == "is not there"


def test_presenceOfMany(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many directories are looked for in slices, and those that do not answer are waited for from then on."""
    clock, thread, fired, few, looks = Clock(), Later(), list[Any](), 8, count()
    presences = [Presence(str(tmp_path), clock, thread) for _ in range(5 * few)]
    for each in presences[:-1]:
        monkeypatch.setattr(each, "look", partial(succeed, None))
    slices = Slices(clock, lambda: next(looks) * 1.01 * SLICE / few)
    lookAt(presences, clock, slices).addCallback(fired.append)
    monkeypatch.setattr(athand, "openat2", lambda *_: None)
    turns = list[int]()

    def turn() -> None:
        turns.append(len(thread.jobs))
        if not thread.jobs:
            clock.callLater(0, turn)

    turn()
    clock.advance(0)
    assert turns == [0] * 5 + [1]
    assert fired == []
    clock.advance(PATIENCE)
    assert (fired, presences[-1].fault()) == ([None], "does not answer")


@pytest.mark.slow
def test_aDirectoryThatIsAskedForInVain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a disk hangs whoever asks for its directory is let go of, and that is no fault, then or later."""
    monkeypatch.setattr(athand, "openat2", lambda *_: None)
    clock, thread, events = Clock(), Later(), list[Any]()
    presence = Presence(str(tmp_path), clock, thread)
    with observed(events.append):
        asked = []
        for _ in range(9):
            looked = presence.look()
            asked.append(weakref.ref(looked))
            allWithin([looked], PATIENCE, clock)
            clock.advance(PATIENCE / 10)
        clock.advance(PATIENCE)
        del looked
        gc.collect()
        assert [each() for each in asked] == 9 * [None]
        thread.run()
        gc.collect()
    assert (presence.fault(), events) == (None, [])


@pytest.mark.slow
def test_nobodyWaitsForAllOfThem() -> None:
    """What is waited for together is let go of together, and that is no fault."""
    events, fired = list[Any](), list[Any]()
    with observed(events.append):
        waited = [Deferred[Any]() for _ in range(3)]
        everything = whenAll(waited).addBoth(fired.append)
        waited[0].callback(None)
        everything.cancel()
        assert [each.called for each in waited] == 3 * [True]
        del waited, everything
        gc.collect()
    assert (fired, events) == ([None], [])


@pytest.mark.parametrize("atHand", [True, False])
def test_closedDirectory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atHand: bool) -> None:
    """A directory that castd's user may not search is no better than none: each request is refused."""
    if not atHand:
        monkeypatch.setattr(athand, "_available", False)
    clock = Clock()
    presence = Presence(str(tmp_path), clock, maybeDeferred)
    lookAt([presence], clock)
    assert presence.fault() is None
    tmp_path.chmod(0o600)
    with nobody():
        lookAt([presence], clock)
    assert presence.fault() == "cannot be searched"
    tmp_path.chmod(0o700)
    lookAt([presence], clock)
    assert presence.fault() is None


def test_closedInAThread(slow: Disk, tmp_path: Path) -> None:
    """A file is closed in a thread if its server is told, or if it is deleted, as its space is freed then."""
    found: list[Any] = []
    slow.source.lookup("f", ("10.0.0.9", 1)).addCallback(found.append)
    slow.thread.run()
    found[0].close()
    assert len(slow.thread.jobs) == 1
    slow.thread.run()


def test_closedAtOnce(tmp_path: Path) -> None:
    """A file of a disk that is known to be quick is closed at once, unless it was deleted."""
    thread = Later()
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    source: Any = Directory(DirectoryOptions(path=str(tmp_path)), thread)
    if not source._root._opened.fromMemory:
        lack("the tests' own disk is none that is opened from memory")
    kept, deleted = source.lookup("a", ("10.0.0.9", 1)), source.lookup("b", ("10.0.0.9", 1))
    kept.close()
    assert thread.jobs == []
    (tmp_path / "b").unlink()
    deleted.close()
    assert len(thread.jobs) == 1
    thread.run()
