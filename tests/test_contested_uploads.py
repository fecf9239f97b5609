"""
A new upload takes its name from a dead one of the same machine, once it has shown its address, and from nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from castd.files.file_upload import SILENT_FOR, WRITE_AT_ONCE
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.packets.tftp import Ack, buildData, parse
from castd.request import Peer
from castd.testing import Network, RecordingClient
from tests.support.clients.tftp import isError, wrq
from tests.support.disks import Later
from tests.support.stage import TftpStage

OTHER = "10.0.0.77"
OLD, NEW = b"o" * 512, b"new"


class Case:
    """A server that stores uploads in a directory, and the machines that send them."""

    def __init__(self, place: Path, mode: str = "octet", single: bool = False, **options: object) -> None:
        self.place, self.network, self._mode = place, Network(), mode
        given = UploadDirectoryOptions.model_validate({"path": str(place), "keep-free": 0, **options})
        self.sink = UploadDirectory(given, maybeDeferred, seconds=self.network.seconds)
        self.stage = TftpStage(uploads=self.sink, network=self.network, options={"singlePort": single})

    def ask(self, port: int, host: str = "10.0.0.9") -> tuple[RecordingClient, object, Peer]:
        """Ask to write the file.  -> the client, the answer, and where that came from."""
        return self.stage.ask(wrq("file", mode=self._mode), self.stage.client(port, host))

    def send(self, client: RecordingClient, number: int, block: bytes, there: Peer) -> object:
        """Send a block.  -> the last answer, as an ACK may be repeated unasked; L{None}: there is none."""
        client.take()
        client.send(buildData(number, block), there)
        self.network.advance(0.01)
        told = client.take()
        return parse(told[-1].datagram) if told else None

    def begun(self, port: int = 2000) -> tuple[RecordingClient, Peer]:
        """A client that has sent its first block."""
        client, _, there = self.ask(port)
        assert self.send(client, 1, OLD, there) == Ack(1)
        return client, there

    def stored(self) -> dict[str, bytes]:
        """What lies in the directory, unfinished uploads without their names."""
        return {"part" if path.name.startswith(".") else path.name: path.read_bytes() for path in self.place.iterdir()}

    def ends(self) -> list[object]:
        """How uploads have ended."""
        return [each.get("outcome") or each.get("code") for each in self.stage.events if each.get("write")]


@pytest.fixture(params=["octet", "netascii"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path, request.param)
    with made.stage:
        yield made


def test_theDeadOneLeaves(case: Case) -> None:
    """
    A machine that was started anew sends its file from another port: the answer comes at once, its first block takes
    the name from the upload before it, which is removed, and the file is stored.
    """
    case.begun()
    case.network.advance(SILENT_FOR)
    client, answer, there = case.ask(2001)
    assert answer == Ack(0)
    assert len(case.stage.casts()) == 2
    assert case.ends() == []
    assert case.send(client, 1, NEW, there) == Ack(1)
    assert case.ends()[0] == "replaced"
    assert case.stored() == {"file": NEW}


def test_oneThatGoesOn(case: Case) -> None:
    """Over an upload that has brought a block in these seconds nobody wins: the newer is told "busy" at once."""
    old, there = case.begun()
    case.network.advance(SILENT_FOR - 1)
    assert isError(case.ask(2001)[1], 2)
    assert case.send(old, 2, NEW, there) == Ack(2)
    assert case.stored() == {"file": OLD + NEW}


def test_oneThatSpeaksInTime(case: Case) -> None:
    """If the older one goes on before the newer has sent a block, the older stays and the newer is told "busy"."""
    old, there = case.begun()
    case.network.advance(SILENT_FOR)
    client, _, newer = case.ask(2001)
    assert case.send(old, 2, OLD, there) == Ack(2)
    assert isError(case.send(client, 1, NEW, newer), 2)
    assert case.send(old, 3, NEW, there) == Ack(3)
    assert case.stored() == {"file": OLD + OLD + NEW}


def test_aForgedRequest(case: Case) -> None:
    """A request alone takes nothing: who forges it does not see the port of the answer, and the older one goes on."""
    old, there = case.begun()
    case.network.advance(SILENT_FOR)
    assert case.ask(2001)[1] == Ack(0)
    case.network.advance(SILENT_FOR)
    assert case.send(old, 2, NEW, there) == Ack(2)
    assert case.stored()["file"] == OLD + NEW
    case.network.advance(40)
    assert case.stored() == {"file": OLD + NEW}


def test_anotherMachine(case: Case) -> None:
    """Another machine is told "busy", however long the upload has been silent."""
    case.begun()
    case.network.advance(SILENT_FOR + 10)
    assert isError(case.ask(2001, OTHER)[1], 2)


def test_twoNewOnes(case: Case) -> None:
    """Of two newer ones the first that sends a block has the name, and the other is told "busy"."""
    case.begun()
    case.network.advance(SILENT_FOR)
    first, _, there = case.ask(2001)
    second, _, elsewhere = case.ask(2002)
    assert case.send(second, 1, OLD, elsewhere) == Ack(1)
    assert isError(case.send(first, 1, OLD, there), 2)
    assert case.send(second, 2, NEW, elsewhere) == Ack(2)
    assert case.stored() == {"file": OLD + NEW}


def test_theOldOneEndsFirst(case: Case) -> None:
    """If the older one has been given up by then the newer just goes on; another machine may have come before it."""
    case.begun()
    case.network.advance(25)
    client, _, there = case.ask(2001)
    case.network.advance(12)
    assert case.ends() == ["silent"]
    assert case.send(client, 1, OLD, there) == Ack(1)
    assert isError(case.ask(2001, OTHER)[1], 2)
    assert case.send(client, 2, NEW, there) == Ack(2)
    assert case.stored() == {"file": OLD + NEW}


def test_anotherMachineBetween(case: Case) -> None:
    """Who takes the name when the older one has been given up keeps it."""
    case.begun()
    case.network.advance(25)
    client, _, there = case.ask(2001)
    case.network.advance(12)
    other, _, elsewhere = case.ask(2001, OTHER)
    assert case.send(other, 1, OLD, elsewhere) == Ack(1)
    assert isError(case.send(client, 1, NEW, there), 2)
    assert case.send(other, 2, NEW, elsewhere) == Ack(2)
    assert case.stored() == {"file": OLD + NEW}


def test_anEmptyFile(case: Case) -> None:
    """A file of no octets takes the name, too."""
    case.begun()
    case.network.advance(SILENT_FOR)
    client, _, there = case.ask(2001)
    assert case.send(client, 1, b"", there) == Ack(1)
    assert case.stored() == {"file": b""}


def test_theFormerFileStays(tmp_path: Path) -> None:
    """A file that is to be replaced stays as it is until the newer upload is complete."""
    (tmp_path / "file").write_bytes(b"former")
    case = Case(tmp_path, policy="overwrite")
    with case.stage:
        case.begun()
        case.network.advance(SILENT_FOR)
        client, _, there = case.ask(2001)
        assert case.send(client, 1, OLD, there) == Ack(1)
        assert case.stored()["file"] == b"former"
        assert case.send(client, 2, NEW, there) == Ack(2)
        assert case.stored() == {"file": OLD + NEW}


@pytest.mark.parametrize("mode", ["octet", "netascii"])
def test_aPortThatIsNoSecret(tmp_path: Path, mode: str) -> None:
    """Where uploads come to the request port a block shows no address, and nobody wins over anybody."""
    case = Case(tmp_path, mode, single=True)
    with case.stage:
        old, there = case.begun()
        case.network.advance(SILENT_FOR)
        client, answer, _ = case.ask(2001)
        assert isError(answer, 2)
        assert case.send(client, 1, b"forged", there) is None or case.stage.casts()
        assert case.send(old, 2, NEW, there) == Ack(2)
        assert case.stored() == {"file": OLD + NEW}


def test_aSlowDisk(tmp_path: Path) -> None:
    """Who is silent since the disk takes nothing is not dead."""
    later, now = Later(), [0.0]
    sink = UploadDirectory(UploadDirectoryOptions(path=str(tmp_path), keepFree=0), later, seconds=lambda: now[0])
    begun: list[object] = []
    sink.begin("file", ("10.0.0.9", 2000), None).addBoth(begun.append)
    while not begun:
        later.run()
    (upload,) = begun
    room = None
    while room is None:
        room = upload.write(bytes(WRITE_AT_ONCE))  # type: ignore[attr-defined]
    assert isinstance(room, Deferred)
    now[0] += 2 * SILENT_FOR
    assert not upload.yieldsTo(("10.0.0.9", 2001))  # type: ignore[attr-defined]
    while not room.called:
        later.run()
    assert not upload.yieldsTo(("10.0.0.9", 2001))  # type: ignore[attr-defined]
    now[0] += SILENT_FOR
    assert upload.yieldsTo(("10.0.0.9", 2001))  # type: ignore[attr-defined]
    upload.abort()  # type: ignore[attr-defined]
    for _ in range(10):
        later.run()
