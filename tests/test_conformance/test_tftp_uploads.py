"""
TFTP, writing: into a directory on the disk, with the policy create.  The ids are those of docs/transports/tftp.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from castd.errors import Forbidden, NotFound
from castd.files.access import Rule, Rules
from castd.files.chains import SinkChain
from castd.files.content import Directory, DirectoryOptions
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.observe.format import asMessage
from castd.options import Limits
from castd.packets.tftp import Ack, Oack, buildAck, buildData, buildError, parse
from castd.server.site import Site
from castd.testing import Network, NoJitterRandom, pattern
from tests.support.clients.tftp import F, download, hear, isError, rrq, upload, wrq
from tests.support.disks import result
from tests.support.stage import TftpStage
from tests.support.vectors import vectors


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def stage(place: Path) -> Iterator[TftpStage]:
    """Takes uploads of at most 1000000 octets into C{place}, new names only; no thread waits for the disk."""
    drop = UploadDirectory(UploadDirectoryOptions(path=str(place), maxSize=1_000_000, keepFree=0), thread=maybeDeferred)
    with TftpStage(uploads=drop) as stage:
        yield stage


def left(place: Path) -> list[str]:
    """What lies in the directory, unfinished uploads too."""
    return sorted(path.name for path in place.iterdir())


def test_TC46_writesAreOff() -> None:
    """WRQ where writes are off: ERROR 2, once."""
    with TftpStage() as stage:
        client, packet, _ = stage.ask(wrq())
        assert isError(packet, 2)
        stage.quiet(client, 40)
        stage.over()


@pytest.mark.parametrize("options", [{}, {"blksize": 1000}, {"blksize": 100, "windowsize": 4, "tsize": 1300}])
def test_TC47_aNewFile(stage: TftpStage, place: Path, options: dict[str, int]) -> None:
    """
    ACK 0 (or the OACK); after the last DATA the file stands there complete, and only then the last ACK goes out; twice
    more unasked, for clients that would hardly ask again.
    """
    client, packet, tid = stage.ask(wrq(**options))
    granted = tuple((name, str(value)) for name, value in options.items())
    assert packet == (Oack(granted) if options else Ack(0))
    assert all(name.startswith(".") for name in left(place))
    blksize, window = options.get("blksize", 512), options.get("windowsize", 1)
    last, whole = 1300 // blksize + 1, []

    def look(source: object, destination: object, datagram: bytes) -> bool:
        if datagram == buildAck(last):
            whole.append((place / "up").read_bytes())
        return False

    stage.network.losing(look)
    assert upload(client, tid, F, blksize, window)[-1] == Ack(last)
    assert whole == [F]
    assert left(place) == ["up"]
    stage.network.advance(40)
    assert [parse(letter.datagram) for letter in client.take()] == [Ack(last)] * 2
    stage.over()
    assert [(event["outcome"], event["octets"]) for event in stage.told("received")] == [("done", 1300)]


def test_aStopDoesNotWaitForALastAck(stage: TftpStage, place: Path) -> None:
    """An upload that stands complete does not hold up a stop, however long its last ACK may be asked for."""
    client, _, tid = stage.ask(wrq(timeout=6))
    upload(client, tid, F)
    assert left(place) == ["up"]
    assert stage.listener.drain().called
    assert [event["outcome"] for event in stage.told("received")] == ["done"]


def test_namesThatNoDirectoryIsFor(place: Path) -> None:
    """An upload to a name that no upload directory is meant for is forbidden; else a missing folder is told."""
    drops = SinkChain(
        [UploadDirectory(UploadDirectoryOptions(path=str(place), under="up", keepFree=0), thread=maybeDeferred)]
    )
    with pytest.raises(Forbidden):
        result(drops.begin("elsewhere/x", ("10.0.0.9", 2000), None))
    with pytest.raises(NotFound):
        result(drops.begin("up/missing/x", ("10.0.0.9", 2000), None))


def test_TC48_anExistingFile(stage: TftpStage, place: Path) -> None:
    """WRQ of a name that exists: ERROR 6, and the file is unchanged."""
    (place / "up").write_bytes(b"before")
    _, packet, _ = stage.ask(wrq())
    assert isError(packet, 6)
    assert (place / "up").read_bytes() == b"before"
    assert left(place) == ["up"]
    stage.over()


def test_TC49_tooLarge(stage: TftpStage, place: Path) -> None:
    """A tsize above the limit: ERROR 3 at once; without one, when it is reached.  Nothing is stored."""
    assert isError(stage.ask(wrq(tsize=1_000_001))[1], 3)
    client, packet, tid = stage.ask(wrq(blksize=1468, windowsize=16), stage.client(2001))
    assert isinstance(packet, Oack)
    for number in range(1, 700):
        client.send(buildData(number, bytes(1468)), tid)
        if number % 16 == 0:
            answer = hear(client)
            if isError(answer, 3):
                break
    else:
        raise AssertionError("a million octets, and no end")
    assert left(place) == []
    stage.over()


@pytest.mark.parametrize(("mode", "logged"), [("octet", True), ("netascii", False)])
@pytest.mark.parametrize("size", [1, 788, 1299, 1301, 1811, 1813, 100_000])
def test_otherThanAnnounced(stage: TftpStage, place: Path, mode: str, logged: bool, size: int) -> None:
    """An upload of another size than its tsize is kept, and that is logged; in netascii the size says nothing."""
    client, _, tid = stage.ask(wrq(mode=mode, tsize=size))
    upload(client, tid, bytes(1300))
    assert left(place) == ["up"]
    stage.network.advance(60)
    stage.over()
    (line,) = [asMessage(event) for event in stage.told("received")]
    assert line.endswith(f"; {size} octets were announced, 1300 came") is logged


@pytest.mark.parametrize(("size", "fewer"), [(1812, "1 block"), (2324, "2 blocks")])
def test_wholeBlocksAreMissing(stage: TftpStage, place: Path, size: int, fewer: str) -> None:
    """
    An upload that lacks whole blocks of its tsize is refused, and nothing is stored: so much is missing of a client
    that takes each OACK that comes twice for the first one.
    """
    client, _, tid = stage.ask(wrq(tsize=size))
    said = upload(client, tid, bytes(1300))
    assert isError(said[-1], 0)
    assert left(place) == []
    stage.network.advance(60)
    stage.over()
    assert [event["why"] for event in stage.told("refused")] == [f"1300 octets came of {size}: {fewer} fewer"]


def test_TC50_theLastAckWasLost(stage: TftpStage, place: Path) -> None:
    """The last DATA again: the last ACK again."""
    client, _, tid = stage.ask(wrq())
    assert upload(client, tid, F)[-1] == Ack(3)
    for _ in range(2):
        client.send(buildData(3, F[1024:]), tid)
        assert hear(client) == Ack(3)
    stage.network.advance(60)
    assert [parse(letter.datagram) for letter in client.take()] == [Ack(3)] * 2
    assert (place / "up").read_bytes() == F
    stage.over()


@pytest.mark.parametrize("how", ["error", "silence", "restart"])
def test_TC51_brokenOff(stage: TftpStage, place: Path, how: str) -> None:
    """An upload that is broken off, by an ERROR, by silence or by a restart, leaves no file and no unfinished one."""
    client, _, tid = stage.ask(wrq())
    client.send(buildData(1, F[:512]), tid)
    assert hear(client) == Ack(1)
    if how == "error":
        client.send(buildError(0, "enough"), tid)
    elif how == "restart":
        _, packet, new = stage.ask(wrq(), client)
        assert packet == Ack(0)
        assert new != tid
        client.send(buildError(0, "enough"), new)
    else:
        stage.network.advance(100)
    stage.network.advance(0.1)
    assert left(place) == []
    stage.over()


def test_TC52_aBlockThatIsTooLong(stage: TftpStage, place: Path) -> None:
    """DATA of 513 octets at a block size of 512: ERROR 4, nothing is stored."""
    client, _, tid = stage.ask(wrq())
    client.send(buildData(1, bytes(513)), tid)
    assert isError(hear(client), 4)
    stage.quiet(client, 40)
    assert left(place) == []
    stage.over()


@pytest.mark.slow
def test_TC53_overTheWrap(place: Path) -> None:
    """More than 65535 blocks with options: block 0 after 65535 is acknowledged with ACK 0, not with the OACK."""
    content = pattern(65541 * 8 + 3)
    with TftpStage(uploads=True) as stage:
        client, packet, tid = stage.ask(wrq("up", blksize=8, windowsize=64, tsize=len(content)))
        assert isinstance(packet, Oack)
        answers = upload(client, tid, content, 8, 64)
        assert answers[1022:] == [Ack(65472), Ack(0), Ack(6)]
        assert stage.site.files["up"] == content
        # Once more, and now block 65536 itself is the last that arrives for a while.
        client, _, tid = stage.ask(wrq("again", blksize=8), stage.client(2001))
        for number in range(1, 65537):
            client.send(buildData(number & 0xFFFF, content[(number - 1) * 8 : number * 8]), tid)
            answer = hear(client)
        assert answer == Ack(0)
        stage.network.advance(2)
        assert {letter.datagram for letter in client.take()} == {b"\0\4\0\0"}


@pytest.mark.parametrize("blksize", [8, 512])
@pytest.mark.parametrize("vector", vectors("tftp", "netascii_write"))
def test_TC55_netasciiWrites(vector: dict[str, Any], blksize: int) -> None:
    """CR LF, CR NUL, a lone CR, a CR at the end are stored as the vectors say, wherever the edges of blocks fall."""
    for shift in range(8):
        received = b"." * shift + bytes.fromhex(vector["received_hex"])
        with TftpStage(uploads=True) as stage:
            options = {} if blksize == 512 else {"blksize": blksize}
            client, _, tid = stage.ask(wrq(mode="netascii", **options))
            upload(client, tid, received, blksize)
            assert stage.site.files["up"] == b"." * shift + bytes.fromhex(vector["stored_hex"])


def test_TC55_convertedOnce(place: Path) -> None:
    """With the site of the real server, too, netascii is converted exactly once, either way."""

    def made(network: Network) -> Site:
        site = Site(network, NoJitterRandom(1), network.host("10.0.0.1"), Limits())
        drop = UploadDirectory(UploadDirectoryOptions(path=str(place), keepFree=0), thread=maybeDeferred)
        rules = Rules([Rule(allow="any")])
        site.open([Directory(DirectoryOptions(path=str(place)), maybeDeferred)], [drop], rules)
        return site

    with TftpStage(made=made) as stage:
        client, _, tid = stage.ask(wrq(mode="netascii"))
        wire = b"a\r\0\r\nb\r\n"
        upload(client, tid, wire)
        assert (place / "up").read_bytes() == b"a\r\nb\n"
        assert download(stage, stage.client(2001), rrq("up", mode="netascii"))[0] == wire


@pytest.mark.parametrize(
    "vector", [param for param in vectors("tftp", "negotiation") if param.values[0]["request_hex"].startswith("0002")]
)
def test_writeVectors(place: Path, vector: dict[str, Any]) -> None:
    """The write requests of the vectors are answered as they state, under the policy that they state."""
    context = vector["context"]
    if context.get("exists"):
        (place / "up.bin").write_bytes(b"before")
    uploads: Any = False
    if context["write"] != "none":
        settings = UploadDirectoryOptions(
            path=str(place), policy=context["write"], maxSize=context.get("max_upload"), keepFree=0
        )
        uploads = UploadDirectory(settings, thread=maybeDeferred)
    with TftpStage(uploads=uploads) as stage:
        client = stage.client()
        client.send(bytes.fromhex(vector["request_hex"]), ("10.0.0.1", 69))
        answer, wanted = client.expect().datagram, bytes.fromhex(vector["reply_hex"])
        assert answer[:4] == wanted[:4]
        if vector["reply_kind"] != "ERROR":
            assert answer == wanted


def test_theSameRequestAgain(stage: TftpStage) -> None:
    """A repeated WRQ of one client is answered as before from the same port; another client's is refused as busy."""
    client, first, tid = stage.ask(wrq(blksize=1000))
    assert stage.ask(wrq(blksize=1000), client)[1:] == (first, tid)
    assert isError(stage.ask(wrq(blksize=1000), stage.client(2000, "10.0.0.8"))[1], 2)


def test_aGapInAWindow(stage: TftpStage, place: Path) -> None:
    """A block is missing from a window: the last in order is acknowledged, once; the client goes on after it."""
    client, _, tid = stage.ask(wrq(blksize=100, windowsize=4))
    for number in (1, 2, 4):
        client.send(buildData(number, F[(number - 1) * 100 : number * 100]), tid)
    assert hear(client) == Ack(2)
    for number in (5, 6):
        client.send(buildData(number, F[(number - 1) * 100 : number * 100]), tid)
    stage.quiet(client, 0.001)
    for number in range(3, 15):
        client.send(buildData(number, F[(number - 1) * 100 : number * 100]), tid)
        if number in (6, 10, 14):
            assert hear(client) == Ack(number)
    assert (place / "up").read_bytes() == F
