"""
castd's own MTFTP client: its receiving half, pure, and over the virtual network against the real listener.
"""

from __future__ import annotations

from typing import Any

import pytest

from castd.cast.policy import RetransmitPolicy
from castd.client.client import fetch
from castd.client.report import Report
from castd.client.schemes import mtftpGroup
from castd.client.urls import UrlError, parseUrl
from castd.errors import ContentChanged, WireError
from castd.outcomes import ABORTED, DONE, SILENT, UNHEARD
from castd.packets.mtftp import IPXE_GROUP as GROUP
from castd.packets.tftp import buildAck, buildData, buildError
from castd.receive.mtftp import MtftpDownload
from castd.testing import Network, ReceivedFile, pattern
from tests.support.clients.mtftp import LINUX, SERVER, Atftp, Ipxe, R, ack, block, opened
from tests.support.stage import MtftpStage

SOURCE = ("10.0.0.1", 1759)


def begun(silence: float = 31.0) -> MtftpDownload:
    download = MtftpDownload("linux", RetransmitPolicy(progressTimeout=silence))
    assert download.begin(0.0) == [R]
    return download


def test_master() -> None:
    """A block to it alone makes it the master: from then on it acknowledges what it has without a gap."""
    download = begun()
    assert download.receive(block(1), 0.1) == ((0, LINUX[:512]), [ack(1)])
    assert download.receiveFromGroup(block(1), SOURCE, 0.1) == (None, [])
    assert download.receiveFromGroup(block(2), SOURCE, 0.2) == ((512, LINUX[512:1024]), [ack(2)])
    assert download.receiveFromGroup(block(3), SOURCE, 0.3) == ((1024, LINUX[1024:]), [])
    assert (download.complete, download.size) == (True, 1300)
    assert download.deadline(0.3) is None  # while the last block is being stored
    assert download.stored(0.3) == [ack(3)]
    assert (download.outcome, download.deadline(0.3)) == (None, 0.8)


def test_theLastAckIsLost() -> None:
    """For a moment after the end the last block is acknowledged once more when it comes again."""
    download = begun()
    for number in (1, 2, 3):
        download.receive(block(number), 0.1)
    assert download.stored(0.1) == [ack(3)]
    assert download.receive(block(3), 0.12) == (None, [])  # it has crossed the ACK
    assert download.receive(block(3), 0.3) == (None, [ack(3)])
    assert download.receive(b"\0\5\0\0\0", 0.4) == (None, [])
    assert (download.poll(0.6), download.outcome, download.deadline(0.6)) == ([], DONE, None)


def test_listener() -> None:
    """Without one it keeps what it hears, in any order, and leaves without a word."""
    download = begun()
    for number in (3, 2):
        assert download.receiveFromGroup(block(number), SOURCE, 0.1)[1] == []
    assert not download.complete
    assert download.receiveFromGroup(block(1), SOURCE, 0.2) == ((0, LINUX[:512]), [])
    assert (download.complete, download.stored(0.2), download.blocks) == (True, [], 3)


@pytest.mark.parametrize("number", [1, 2])
def test_aListenerIsMadeTheMaster(number: int) -> None:
    """A listener that has everything says so to a block that comes to it alone, also if that was sent before."""
    download = begun()
    for each in (1, 2, 3):
        download.receiveFromGroup(block(each), SOURCE, 0.1)
    assert (download.stored(0.1), download.group) == ([], None)
    assert download.receive(block(number), 0.1) == (None, [ack(3)])


def test_jump() -> None:
    """What was heard as a listener is not asked for again."""
    download = begun()
    download.receiveFromGroup(block(2), SOURCE, 0.1)
    assert download.receive(block(1), 0.2)[1] == [ack(2)]


def test_lostAck() -> None:
    """A block that comes again, and not right behind the acknowledgement, is acknowledged again."""
    download = begun()
    download.receive(block(1), 0.1)
    assert download.receiveFromGroup(block(1), SOURCE, 0.18) == (None, [ack(1)])


def test_silence() -> None:
    """After a second without a block a listener asks again, a master tells twice what it has and then asks again."""
    download = begun(12.0)
    download.receive(block(1), 0.5)
    said: list[Any] = []
    now = 0.5
    while download.outcome is None:
        due = download.deadline(now)
        assert due is not None
        assert due > now
        now = due
        said += [(now, datagram) for datagram in download.poll(now)]
    assert said == [(1.5, ack(1)), (3.5, ack(1)), (7.5, R), (11.5, R)]
    assert (now, download.outcome, download.repeats) == (12.5, UNHEARD, 4)


def test_masterNoMore() -> None:
    """Who has sent its request again is the master no more: it acknowledges no block before it is made it again."""
    download = begun()
    download.receive(block(1), 0.5)
    assert [download.poll(now) for now in (1.5, 3.5, 7.5)] == [[ack(1)], [ack(1)], [R]]
    assert download.receiveFromGroup(block(2), SOURCE, 8.0) == ((512, LINUX[512:1024]), [])
    assert download.receive(block(1), 8.1) == (None, [ack(2)])


def test_silenceBeginsAnew() -> None:
    """Who hears a block after its reminders has all of them again; a listener asks, as it has nothing to tell."""
    download = begun()
    download.receive(block(1), 0.5)
    assert [download.poll(now) for now in (1.5, 3.5)] == [[ack(1)], [ack(1)]]
    download.receiveFromGroup(block(2), SOURCE, 4.0)
    assert download.poll(5.0) == [ack(2)]
    listener = begun()
    listener.receiveFromGroup(block(2), SOURCE, 0.5)
    assert listener.poll(1.5) == [R]


def test_theLargestFile() -> None:
    """A file may have as many blocks as have numbers."""
    download = begun()
    for number in range(1, 0xFFFF):
        download.receiveFromGroup(buildData(number, bytes(512)), SOURCE, 0.1)
    assert not download.complete
    assert download.receiveFromGroup(buildData(0xFFFF, b"end"), SOURCE, 0.1) == ((0xFFFE * 512, b"end"), [])
    assert (download.complete, download.size) == (True, 0xFFFE * 512 + 3)


def test_onlyTheGroupIsSilent() -> None:
    """A block that comes to it alone again and again does not put off the end of a client that hears no group."""
    download = begun(12.0)
    download.receive(block(1), 0.5)
    now = 0.5
    while download.outcome is None:
        now += 0.5
        download.receive(block(1), now)
        download.poll(now)
    assert (now, download.outcome) == (12.5, UNHEARD)


def test_nothingNew() -> None:
    """Blocks of the group put the end off, though it has them all: its server sends them for others first."""
    download = begun(12.0)
    for now in range(1, 40):
        download.receiveFromGroup(block(2), SOURCE, float(now))
        download.poll(float(now))
    assert download.outcome is None
    assert (download.poll(51.0), download.outcome) == ([], SILENT)


def test_strangers() -> None:
    """Only the first sender of the group is heard; what is no block of MTFTP is none."""
    download = begun()
    download.receiveFromGroup(block(2), SOURCE, 0.1)
    with pytest.raises(WireError):
        download.receiveFromGroup(block(1), ("10.0.0.66", 1759), 0.1)
    for wrong in (buildAck(1), buildError(1, ""), b"\0\3\0\0" + bytes(512), b"\0\3\0\1" + bytes(513), b"\0"):
        with pytest.raises(WireError):
            download.receiveFromGroup(wrong, SOURCE, 0.1)
    assert download.blocks == 1


def test_anotherFile() -> None:
    """Blocks that cannot be of one file end it."""
    for wrong in (b"\0\3\0\4" + bytes(512), b"\0\3\0\2abc", b"\0\3\0\3" + bytes(512)):
        download = begun()
        download.receiveFromGroup(block(3), SOURCE, 0.1)
        with pytest.raises(ContentChanged):
            download.receiveFromGroup(wrong, SOURCE, 0.2)


def test_refused() -> None:
    """The server's ERROR is the end."""
    download = begun()
    assert download.receive(buildError(1, "File not found"), 0.1) == (None, [])
    assert (download.outcome, download.error and download.error.code) == (ABORTED, 1)


@pytest.mark.parametrize(
    ("url", "name", "group"),
    [
        ("mtftp://host/linux", "linux", GROUP),
        ("mtftp://host/boot/linux;group=239.1.2.3:76", "boot/linux", ("239.1.2.3", 76)),
        ("mtftp://host:75//linux", "/linux", GROUP),
    ],
)
def test_url(url: str, name: str, group: tuple[str, int]) -> None:
    """The URL names the file, and where it is sent if that is not where iPXE listens."""
    parsed = parseUrl(url)
    assert (parsed.name, mtftpGroup(parsed)) == (name, group)


@pytest.mark.parametrize("group", ["", "x", "10.0.0.1:76", "239.1.2.3", "239.1.2.3:0", "239.1.2.3:65536"])
def test_badGroup(group: str) -> None:
    """What is no group and port is refused."""
    with pytest.raises(UrlError):
        mtftpGroup(parseUrl(f"mtftp://host/linux;group={group}"))


def get(stage: MtftpStage, number: int) -> tuple[ReceivedFile, Any]:
    kept = ReceivedFile()
    host: Any = stage.network.host(f"10.0.0.{number}/16")
    return kept, fetch(host, parseUrl(f"mtftp://{SERVER[0]}/linux"), kept)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1300, 100_000])
def test_fetches(size: int) -> None:
    """Files of every size arrive."""
    with MtftpStage({"linux": pattern(size)}) as stage:
        kept, done = get(stage, 2)
        report: Report = stage.network.result(done)
        assert (bytes(kept.data), report.octets, report.repeats) == (pattern(size), size, 0)
        stage.network.advance(1)
        assert stage.casts() == []


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_lossy(loss: float, seed: int) -> None:
    """In a crowd, with other clients in it, and whatever is lost, each has the whole file in the end."""
    data = pattern(40_000)
    with MtftpStage({"linux": data}, network=Network(seed, loss, latency=0.0005), jitter=True, gather=0.1) as stage:
        for number, kind in enumerate((Ipxe, Atftp), 20):
            kind(stage.network.host(f"10.0.0.{number}/16"), "linux").begin()
        running = [get(stage, number) for number in range(2, 8)]
        for kept, done in running:
            stage.network.result(done, limit=600)
            assert bytes(kept.data) == data
        stage.network.run(lambda: True)


def test_inTheMiddle() -> None:
    """Who comes in the middle of a pass has the rest from it, and what is missing from its own turn."""
    data = pattern(9 * 512 + 100)
    with MtftpStage({"linux": data}) as stage:
        one = opened(stage, 2, 1, 2, 3)
        kept, done = get(stage, 3)
        stage.network.advance(0.01)
        for number in range(4, 11):
            stage.say(one, ack(number))
        stage.sent()
        stage.network.result(done)
        assert bytes(kept.data) == data
        assert len(stage.sent()) <= 4
