"""
castd's own SLAM client: its receiving half, pure, and over the virtual network against the real listener.
"""

from __future__ import annotations

from typing import Any

import pytest

from castd.cast.policy import RetransmitPolicy
from castd.client.client import fetch
from castd.client.report import TransferError
from castd.client.schemes import slamGroup
from castd.client.urls import UrlError, parseUrl
from castd.errors import ContentChanged, WireError
from castd.outcomes import DONE, SILENT, UNHEARD
from castd.packets import slam
from castd.packets.slam import IPXE_GROUP as GROUP
from castd.receive.passive import DALLY
from castd.receive.slam import SlamDownload
from castd.testing import ReceivedFile, pattern
from tests.support.clients.slam_client import Etherboot, Ipxe
from tests.support.stage import SlamStage

HEADER = slam.Header(7, 10, 4)


def data(number: int, header: slam.Header = HEADER) -> bytes:
    return slam.SlamData(header, number, b"abcdefghij"[number * 4 :][:4]).build()


def begun(silence: float = 31.0) -> SlamDownload:
    download = SlamDownload(RetransmitPolicy(progressTimeout=silence))
    assert download.begin(0.0) == [slam.FIRST_LIST]
    return download


def test_blocksInAnyOrder() -> None:
    """Blocks are kept as they come, each once, and at the last one missing it leaves the group with a farewell."""
    download = begun()
    assert download.receiveFromGroup(data(2), None, 0.1) == ((8, b"ij"), [])
    assert download.size == 10
    assert download.receiveFromGroup(data(2), None, 0.1) == (None, [])
    assert download.receiveFromGroup(data(0), None, 0.1) == ((0, b"abcd"), [])
    assert not download.complete
    assert download.receiveFromGroup(data(1), None, 0.1) == ((4, b"efgh"), [])
    assert download.complete
    assert download.stored(0.1) == [b"\0"]
    assert download.group is None
    assert download.blocks == 3


def test_saysGoodbyeAgain() -> None:
    """Who is complete answers questions by the farewell for a moment, as the first one may be lost; then it ends."""
    download = begun()
    for number in range(3):
        download.receiveFromGroup(data(number), None, 0.1)
    download.stored(0.1)
    assert download.receive(HEADER.build(), 0.15) == (None, [b"\0"])
    assert download.receiveFromGroup(data(1), None, 0.2) == (None, [])
    assert download.receive(HEADER.build(), 0.4) == (None, [b"\0"])
    assert download.poll(0.5) == []
    assert download.outcome is None
    assert download.deadline(0.5) == 0.1 + DALLY
    assert download.poll(0.1 + DALLY) == []
    assert download.outcome == DONE
    assert download.deadline(1.0) is None


def test_answersQuestions() -> None:
    """A question gets the list of what is missing, at once; one with something behind it is none."""
    download = begun()
    assert download.receive(HEADER.build(), 0.1) == (None, [bytes.fromhex("202300")])
    download.receiveFromGroup(data(1), None, 0.2)
    assert download.receive(HEADER.build(), 0.3) == (None, [bytes.fromhex("2021212100")])
    with pytest.raises(WireError):
        download.receive(HEADER.build() + b"\0", 0.4)


def lists(download: SlamDownload, until: float = 60.0) -> list[tuple[float, bytes]]:
    """Return what it says by itself, with the instants."""
    said: list[tuple[float, bytes]] = []
    while (due := download.deadline(0.0)) is not None and due <= until:
        said += [(round(due, 3), datagram) for datagram in download.poll(due)]
        assert download.deadline(due) != due
    return said


def test_speaksUntilItIsAsked() -> None:
    """Until it is asked it lists one block after 0.1, 0.2, 0.4 … 4 s, also while blocks come: its list may be lost."""
    download = begun(12.0)
    times = (0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 10.3)
    assert lists(download) == [*((at, slam.FIRST_LIST) for at in times), (12.0, b"\0")]
    assert download.outcome == SILENT
    busy = begun()
    busy.receiveFromGroup(data(0), None, 0.05)
    assert lists(busy, 0.29) == [(0.1, bytes.fromhex("212100"))]
    busy.receiveFromGroup(data(1), None, 0.29)
    assert lists(busy, 0.5) == [(0.3, bytes.fromhex("222100"))]


def test_speaksAfterSilence() -> None:
    """Once it was asked it is quiet while blocks arrive; without any it lists all after 0.4, 0.8, 1.6, 3.2, 4 … s."""
    download = begun(12.0)
    download.receive(HEADER.build(), 0.0)
    download.receiveFromGroup(data(0), None, 0.0)
    times = (0.4, 1.2, 2.8, 6.0, 10.0)
    assert lists(download) == [*((at, bytes.fromhex("212200")) for at in times), (12.0, b"\0")]
    assert download.outcome == SILENT
    busy = begun()
    busy.receive(HEADER.build(), 0.01)
    busy.receiveFromGroup(data(0), None, 0.9)
    assert busy.poll(1.2) == []
    assert busy.poll(1.3) == [bytes.fromhex("212200")]


def test_askedButNothingHeard() -> None:
    """Questions do not put off the end of a client that hears no block; it says that the group is not heard."""
    download = begun(31.0)
    now = 0.0
    while download.outcome is None:
        now += 0.5
        download.receive(HEADER.build(), now)
        download.poll(now)
    assert now == 31.0
    assert download.outcome == UNHEARD


def test_anotherFile() -> None:
    """A header that changes ends it: two files must not become one."""
    download = begun()
    download.receiveFromGroup(data(0), None, 0.1)
    with pytest.raises(ContentChanged):
        download.receiveFromGroup(data(1, slam.Header(8, 10, 4)), None, 0.2)
    with pytest.raises(ContentChanged):
        download.receive(slam.Header(7, 11, 4).build(), 0.2)


def test_longList() -> None:
    """However much is missing, a list fits a datagram that the server reads."""
    header = slam.Header(1, 10_000, 1)
    download = begun()
    for number in range(0, 10_000, 2):
        download.receiveFromGroup(slam.SlamData(header, number, b"x").build(), None, 0.1)
    listed = download.receive(header.build(), 0.2)[1][0]
    assert len(listed) <= slam.LARGEST_DATAGRAM
    assert slam.parseList(listed) == tuple(range(number, number + 1) for number in range(1, 1471, 2))


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("", GROUP),
        ("239.255.1.1:10001", ("239.255.1.1", 10001)),
        (":10001", ("239.255.1.1", 10001)),
        ("239.1.2.3", ("239.1.2.3", 10000)),
    ],
)
def test_groups(path: str, group: tuple[str, int]) -> None:
    """What follows the slash is a group, a port, both or neither."""
    assert slamGroup(parseUrl(f"slam://host/{path}")) == group
    assert slamGroup(parseUrl("slam://host:10000")) == GROUP


@pytest.mark.parametrize("path", ["vmlinuz", "10.0.0.1:1", "239.255.1.1:0", "239.255.1.1:x", "239.255.1.1:70000"])
def test_wrongGroups(path: str) -> None:
    """Anything else is refused: SLAM knows no names."""
    with pytest.raises(UrlError):
        slamGroup(parseUrl(f"slam://host/{path}"))


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_fetch(loss: float) -> None:
    """The client fetches a file among clients of other kinds, with and without loss."""
    file = pattern(300_000)
    stage = SlamStage(file, loss=loss, seed=5)
    sinks: list[ReceivedFile] = []
    reports: list[Any] = []
    for number in range(3):
        sinks.append(ReceivedFile())
        host = stage.network.host(f"10.0.7.{number + 1}/16")
        fetch(host, parseUrl("slam://10.0.0.1"), sinks[-1]).addBoth(reports.append)
    stage.play(Ipxe(1))
    stage.play(Etherboot(2))
    stage.network.run(lambda: len(reports) == 3 and stage.played(), limit=300.0)
    assert [report.octets for report in reports] == [len(file)] * 3
    assert all(sink.data == file for sink in sinks)
    assert all(player.client.image == file for player in stage.players)
    stage.network.advance(60.0)
    assert stage.casts() == []


def test_nobodyThere() -> None:
    """Without a server it ends after a while, and says so."""
    stage = SlamStage(None)
    failures: list[Any] = []
    host = stage.network.host("10.0.7.1/16")
    fetch(host, parseUrl("slam://10.0.0.1"), ReceivedFile(), policy=RetransmitPolicy(progressTimeout=5.0)).addErrback(
        failures.append
    )
    stage.network.run(lambda: failures, limit=10.0)
    assert failures[0].check(TransferError)
    assert failures[0].value.outcome == SILENT
