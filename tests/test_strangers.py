"""
Strangers: who has not shown his address gets little, keeps nothing, and displaces nobody who has.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import LogLevel, formatEvent

from castd.files import athand
from castd.files.content import Directory, DirectoryOptions
from castd.files.upload_options import UploadDirectoryOptions
from castd.files.uploads import UploadDirectory
from castd.observe.eventstore import Query, Store
from castd.observe.history import entryOf
from castd.observe.ratelimit import RateLimiter
from castd.options import Limits
from castd.packets.tftp import Ack, Data, Error, Oack, parse
from castd.request import Peer
from castd.server.admission import MIN_STAY, Admission, RequestTime
from castd.server.known import Rank
from castd.service.bootstrap import MIN_CASTS, affordableCasts
from castd.testing import BytesContent, pattern
from tests.support import pxe
from tests.support.clients.tftp import F, ackedTo, data, isError, rrq, wrq
from tests.support.hostile import SERVER, Wilds
from tests.support.stage import TftpStage

#: How long anybody is remembered who has sent nothing but a request (docs/transports/tftp.md).  Seconds.
REMEMBERED = 31.0


def names(count: int) -> Iterator[tuple[str, int]]:
    """Return so many addresses to forge, each with a port."""
    return ((f"10.{1 + number // 65536}.{number // 256 % 256}.{number % 256}", 2000) for number in range(count))


def neighbours(count: int) -> Iterator[tuple[str, int]]:
    """Return so many addresses to forge on the link of the server, each with a port."""
    return ((f"10.0.0.{20 + number % 200}", 1024 + number // 200) for number in range(count))


def flooded(
    stage: TftpStage,
    seconds: float,
    rate: int,
    request: bytes,
    first: int = 0,
    sources: Callable[[int], Iterator[tuple[str, int]]] = names,
) -> None:
    """Forge so many requests a second, each in another name."""
    step = 0.01
    for number, source in enumerate(list(sources(first + round(seconds * rate)))[first:], 1):
        stage.network.forge(request, source, (SERVER, 69))  # type: ignore[attr-defined]
        if number % round(rate * step) == 0:
            stage.network.advance(step)


def wild(**options: Any) -> TftpStage:
    """A server on a network where every address can be forged."""
    return TftpStage({"f": F, "large": pattern(40_000)}, network=Wilds(1, 0.0), **options)


class Session:
    """Has receivers that have to leave, and some that have answered."""

    def __init__(self, *answered: Peer) -> None:
        self.answered, self.displaced = answered, list[Peer]()

    def heard(self, peer: Peer) -> bool:
        return peer in self.answered

    def displace(self, peer: Peer, limit: str) -> None:
        assert limit == "limits.receivers"
        self.displaced.append(peer)


def test_whoIsDisplaced() -> None:
    """Who has answered keeps its place; of the others the first leaves first, and no address of theirs is kept."""
    admission = Admission(Limits(receivers=3))
    real, forged, later = [(f"10.1.0.{number}", 2000) for number in range(3)]
    session = Session(real)
    for peer in (real, forged, later):
        admission.enter(session, peer, 0.0)
    assert admission.reached(("10.1.0.9", 2000), MIN_STAY, ()) is None
    assert admission.crowded(("10.1.0.9", 2000), MIN_STAY) == "limits.receivers"  # those displaced have yet to leave
    assert session.displaced == [forged, later]
    for peer in (real, *session.displaced):
        admission.leave(session, peer)
        admission.leave(session, peer)
    assert not admission.receivers
    assert admission.crowded(("10.1.0.9", 2000), MIN_STAY) is None
    session = Session(real, forged, later)
    for peer in (real, forged, later):
        admission.enter(session, peer, 1.0)
    assert admission.reached(("10.1.0.9", 2000), 2.0, ()) == "limits.receivers"


@pytest.mark.parametrize(
    "asked", [rrq(timeout=255), rrq(utimeout=255_000_000), wrq("new", timeout=255), rrq(), wrq("new")]
)
def test_notAsLongAsItLikes(asked: bytes) -> None:
    """Who has sent nothing but a request is forgotten after 31 s, whatever interval it has named."""
    with TftpStage(uploads=True) as stage:
        stage.ask(asked)
        stage.network.advance(REMEMBERED - 2)
        assert len(stage.casts()) == 1
        # A timer may be a tenth late, so that many do not expire at the same instant.
        stage.network.advance(2 + REMEMBERED / 10)
        assert stage.casts() == []
        assert stage.site.admission.receivers.total() == 0
        stage.over()


def test_sixTimesForWhoAnswers() -> None:
    """Who has answered has six of the intervals that it has named: a machine may compute for minutes."""
    with TftpStage() as stage:
        client, packet, tid = stage.ask(rrq(timeout=60))
        assert isinstance(packet, Oack)
        assert ackedTo(client, 0, tid) == data(1)
        stage.network.advance(330)
        assert len(stage.casts()) == 1
        client.take()
        assert ackedTo(client, 1, tid) == data(2)
        stage.network.advance(400)
        stage.over()


def test_aNameIsNotHeldFor25Minutes() -> None:
    """A forged write keeps its name from others for 31 s, not for six times the interval that it has named."""
    with TftpStage(uploads=True) as stage:
        stage.ask(wrq("new", timeout=255), stage.client(2000, "10.0.0.66"))
        assert isinstance(stage.ask(wrq("new"), stage.client(2001))[1], Error)
        stage.network.advance(REMEMBERED * 1.1)
        assert stage.ask(wrq("new"), stage.client(2002))[1] == Ack(0)


@pytest.mark.slow
def test_aFullHouse() -> None:
    """
    While five thousand requests a second are forged, each in another name, an honest client gets its first answer at
    once, and all of its file.
    """
    with wild(limits=Limits(casts=1000, receivers=1000)) as stage:
        stage.ask(rrq("large", blksize=1000))
        flooded(stage, 0.5, 5000, rrq(timeout=255))
        assert stage.site.admission.casts == 1000
        began = stage.network.seconds()
        client, packet, there = stage.ask(rrq(blksize=512), stage.client(2001), seconds=2.0)
        assert isinstance(packet, Oack)
        assert stage.network.seconds() - began < 0.1
        for number in range(3):
            flooded(stage, 0.1, 5000, rrq(timeout=255), first=2500 + 500 * number)
            assert ackedTo(client, number, there) == data(number + 1)
        assert stage.site.admission.casts == 1000


@pytest.mark.slow
@pytest.mark.parametrize("sources", [names, neighbours])
def test_whoAsksAgain(sources: Callable[[int], Iterator[tuple[str, int]]]) -> None:
    """
    While the server is full, and more requests are forged in others' names than others may leave for, a client is
    answered when it asks a second time, a second later: a flood does not repeat its requests.
    """
    limits = Limits(casts=1000, receivers=1000, perPeer=1000, newPerPeer=100_000)
    with wild(limits=limits) as stage:
        flooded(stage, 1.0, 5000, rrq(), sources=sources)
        client = stage.client(2001, "10.0.0.9" if sources is neighbours else "192.0.2.9")
        asked = 5000
        for _ in range(2):
            # Not the first one of its moment: what there is has been given away.
            flooded(stage, 0.009, 5000, rrq(), asked, sources)
            client.send(rrq(), (SERVER, 69))
            flooded(stage, 1.0, 5000, rrq(), asked + 45, sources)
            asked += 5045
        assert parse(client.take()[0].datagram) == data(1)


@pytest.mark.slow
def test_whoHasAnsweredStays() -> None:
    """Those who have answered are not displaced, however old they are and whoever comes."""
    with wild(limits=Limits(casts=50, receivers=50)) as stage:
        honest = [stage.ask(rrq("large", blksize=1000), stage.client(3000 + number)) for number in range(40)]
        for client, _, tid in honest:
            ackedTo(client, 0, tid)
        flooded(stage, 2.0, 500, rrq())
        assert stage.site.admission.casts == 50
        for client, _, tid in honest:
            client.take()
            assert ackedTo(client, 1, tid) == Data(2, pattern(40_000)[1000:2000])


@pytest.mark.slow
def test_onlyWhenFull() -> None:
    """While there is room nobody leaves before its time."""
    with wild(limits=Limits(casts=1000)) as stage:
        flooded(stage, 1.0, 900, rrq())
        stage.network.advance(20)
        assert stage.site.admission.casts >= 899
        assert "silent" not in [event["outcome"] for event in stage.told("received")]


@pytest.mark.slow
def test_aMomentForAnAnswer() -> None:
    """Even in a full house who has just come has a moment to answer: a faster flood only fills the house faster."""
    with wild(limits=Limits(casts=100)) as stage:
        flooded(stage, 0.1, 50_000, rrq())
        assert stage.site.admission.casts == 100
        assert stage.told("received") == []
        stage.network.advance(MIN_STAY)
        assert isinstance(stage.ask(rrq(blksize=512), stage.client(2001))[1], Oack)
        assert [event["outcome"] for event in stage.told("received")] == ["silent"]


def test_uploadsLeaveToo() -> None:
    """A forged write leaves for whoever comes when the house is full, and its name with it; one with data does not."""
    with wild(limits=Limits(casts=2), uploads=True) as stage:
        writer, _, tid = stage.ask(wrq("mine"))
        writer.send(b"\0\3\0\1" + F[:512], tid)
        stage.network.forge(wrq("yours"), ("10.0.0.66", 2000), (SERVER, 69))  # type: ignore[attr-defined]
        stage.network.advance(MIN_STAY)
        writer.take()
        assert stage.ask(wrq("yours"), stage.client(2001))[1] == Ack(0)
        writer.send(b"\0\3\0\2" + F[512:1000], tid)
        stage.network.advance(0.5)
        assert stage.site.files["mine"] == F[:1000]


def test_storedUploadsDoNotCount() -> None:
    """An upload that is stored and only waits for a lost ACK is no transfer of its address any more."""
    with TftpStage(uploads=True, limits=Limits(perPeer=2)) as stage:
        for number in range(6):
            client, packet, tid = stage.ask(wrq(f"new{number}"), stage.client(2000 + number))
            assert packet == Ack(0)
            client.send(b"\0\3\0\1short", tid)
            stage.network.advance(0.01)
            assert parse(client.take()[0].datagram) == Ack(1)
        assert len(stage.casts()) == 6
        assert stage.site.admission.receivers.total() == 0
        stage.network.advance(10)
        assert stage.casts() == []
        assert stage.site.admission.receivers.total() == 0


def test_rolloverIsToldOnce() -> None:
    """A file that is asked for again and again, and has too many blocks, is warned of once a minute."""
    lines: list[Any] = []
    limiter = RateLimiter(lines.append)
    with TftpStage({"long": bytes(600_000)}) as stage:
        for number in range(30):
            stage.ask(rrq("long", blksize=8), stage.client(2000 + number))
        told = stage.told("rollover")
    for event in told:
        limiter(event)
    assert (len(told), len(lines)) == (30, 1)


@pytest.mark.parametrize("asked", [rrq(), wrq("new")])
def test_noDescriptors(asked: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no descriptor is left a client is not answered, and asks again: told "busy" it would give up."""
    (tmp_path / "f").write_bytes(F)
    content = Directory(DirectoryOptions.model_validate({"path": str(tmp_path)}))
    sink = UploadDirectory(
        UploadDirectoryOptions.model_validate({"path": str(tmp_path), "keep-free": 0}), thread=maybeDeferred
    )
    with TftpStage(source=content, uploads=sink) as stage:
        client = stage.client()
        with monkeypatch.context() as patch:
            failing = Failing(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            patch.setattr(os, "open", failing)
            patch.setattr(athand, "openat2", failing)
            client.send(asked, stage.server)
            stage.network.advance(0.1)
        assert client.take() == []
        assert [event["why"] for event in stage.told("crowded")] == ["Too many open files"]
        assert not isinstance(stage.ask(asked, client)[1], Error)


class Failing:
    """Raises an error in place of a call."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, *args: object, **more: object) -> Any:
        raise self._error


def test_affordable() -> None:
    """As many transfers run at once as there are descriptors for, whatever the service file says."""
    with TftpStage(limits=Limits(casts=100)) as stage:
        stage.site.admission.affordable = 3
        for number in range(5):
            stage.client(2000 + number).send(rrq(), stage.server)
        stage.network.advance(0.1)
        assert stage.site.admission.casts == 3
        crowded = stage.told("crowded")
    assert {(event["why"], event["limit"]) for event in crowded} == {("LimitNOFILE", "LimitNOFILE")}
    assert affordableCasts(resource.RLIM_INFINITY) == float("inf")
    assert affordableCasts(48) == MIN_CASTS
    assert 150 < affordableCasts(1024) < 342


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "affordable", "limit"),
    [
        (Limits(casts=3), 100.0, "limits.casts"),
        (Limits(casts=3), 3.0, "limits.casts"),
        (Limits(casts=100), 3.0, "LimitNOFILE"),
        (Limits(casts=100, receivers=3), 100.0, "limits.receivers"),
    ],
)
def test_namesTheLimitThatIsReached(limits: Limits, affordable: float, limit: str) -> None:
    """A full server names the limit that would have to be raised, also for what it drops unread."""
    with wild(limits=limits) as stage:
        stage.site.admission.affordable = affordable
        flooded(stage, 1.0, 5000, rrq())
        crowded = stage.told("crowded")
    assert {event["limit"] for event in crowded} == {limit}
    assert "the server is full" in {event["why"] for event in crowded}


class Never:
    """A source that never answers."""

    def __init__(self) -> None:
        self.asked: list[Deferred[BytesContent]] = []

    def lookup(self, name: str, peer: object) -> Deferred[BytesContent]:
        self.asked.append(Deferred())
        return self.asked[-1]


def test_lookUpsCount() -> None:
    """Requests whose file is being looked up count as transfers of their address: a slow source lets in no more."""
    source = Never()
    with TftpStage(source=source, limits=Limits(perPeer=10)) as stage:
        for number in range(30):
            stage.client(2000 + number).send(rrq(), stage.server)
            stage.network.advance(0.1)
        assert len(source.asked) == 10
        assert [event["limit"] for event in stage.told("crowded")] == ["limits.per-peer"] * 20
        stage.client(2000, "10.0.0.10").send(rrq(), stage.server)
        stage.network.advance(0.1)
        assert len(source.asked) == 11
        for each in source.asked:
            each.callback(BytesContent("f", F))
        stage.network.advance(0.1)
        assert (stage.site.admission.looking, stage.site.admission.receivers["10.0.0.9"]) == (0, 10)


_ports = count(4000)


def missing(stage: TftpStage, host: str, name: str) -> bool:
    """Ask for a file that is not there.  -> whether the client is told."""
    client = stage.client(next(_ports), host)
    client.send(rrq(name), stage.server)
    stage.network.advance(0.005)
    told = [parse(letter.datagram) for letter in client.take()]
    assert all(isError(packet, 1) for packet in told)
    return bool(told)


def stormed(stage: TftpStage, seconds: float, rate: int, sources: Iterator[Peer]) -> int:
    """Forge requests for missing files, so many a second.  -> how many ERRORs they draw."""
    stage.sightings()
    for number, source in zip(range(round(seconds * rate)), sources, strict=False):
        stage.network.forge(rrq(f"no{number}"), source, (SERVER, 69))  # type: ignore[attr-defined]
        stage.network.advance(1 / rate)
    return sum(each.datagram[:2] == b"\0\5" for each in stage.sightings())


def far() -> Iterator[Peer]:
    """Addresses of all the world."""
    return ((f"{number % 200 + 20}.{number // 200 % 250}.1.1", 2000) for number in count())


def oneNetwork() -> Iterator[Peer]:
    """Addresses of one network far away."""
    return ((f"172.16.5.{number % 250 + 1}", 2000 + number) for number in count())


def onLink() -> Iterator[Peer]:
    """Addresses of the server's own network."""
    return ((f"10.0.0.{number % 200 + 10}", 2000 + number // 200) for number in count())


@pytest.mark.slow
@pytest.mark.parametrize("sources", [far, oneNetwork], ids=["far", "one network"])
def test_honestErrors(sources: Callable[[], Iterator[Peer]]) -> None:
    """While six hundred requests a second for missing files are forged neighbours are told that a file is not there."""
    with recorded() as stage:
        stormed(stage, 2.0, 600, sources())
        told = []
        for number in range(20):
            stormed(stage, 0.1, 600, sources())
            told.append(missing(stage, f"10.0.0.{number + 220}", "pxelinux.cfg/01-52-54-00-12-34-56"))
        assert told == [True] * 20


@pytest.mark.slow
def test_honestErrorsOfWhoWasServed() -> None:
    """Even if the forged addresses are of the same network, whoever was served before is told."""
    with recorded() as stage:
        client, _, tid = stage.ask(rrq(), stage.client(2000, "10.0.0.250"))
        for number in (1, 2, 3):
            ackedTo(client, number, tid) if number < 3 else client.send(b"\0\4\0\3", tid)
        stormed(stage, 3.0, 600, onLink())
        told = []
        for _ in range(20):
            stormed(stage, 0.1, 600, onLink())
            told.append(missing(stage, "10.0.0.250", "grub.cfg"))
        assert told == [True] * 20


@pytest.mark.slow
@pytest.mark.parametrize("sources", [far, oneNetwork, onLink])
def test_errorsInAll(sources: Callable[[], Iterator[Peer]]) -> None:
    """All together still get two hundred ERRORs a second and no more, strangers half of that, one network a quarter."""
    most = {far: 100, oneNetwork: 50, onLink: 150}[sources]
    with recorded() as stage:
        stormed(stage, 1.0, 1000, sources())
        assert 0.9 * most * 3 <= stormed(stage, 3.0, 1000, sources()) <= most * 3 + 2


@pytest.mark.slow
@pytest.mark.parametrize(("errors", "untold"), [(2000.0, set()), (200.0, {"limits.errors"})])
def test_hallOfBootLoaders(errors: float, untold: set[str]) -> None:
    """
    Two hundred machines whose boot loader asks for ten names that do not exist are told at once, each time, where
    C{errors} is what docs/sizing.md asks for; where it is the default the events of those who wait name it.
    """
    with recorded(limits=Limits(errors=errors)) as stage:
        machines = [stage.client(2000, f"10.0.1.{number}") for number in range(1, 201)]
        for machine in machines:
            stage.site.admission.known.add(machine.address[0])
        told = 0
        for turn in range(10):
            for machine in machines:
                machine.send(rrq(f"pxelinux.cfg/{turn}"), (SERVER, 69))
            stage.network.advance(0.01)
            told += sum(isError(parse(each.datagram), 1) for machine in machines for each in machine.take())
        limits = {event["limit"] for event in stage.events if event.get("event") == "refused" and "limit" in event}
        assert limits == untold
        assert (told == 2000) is (not untold)


def test_toldAndUntoldApart() -> None:
    """Refusals that were sent are not counted with those that a limit kept back, in the log and in its history."""
    seen: list[dict[str, Any]] = []
    limiter = RateLimiter(seen.append)
    store = Store(None, 3600.0, 1 << 20)
    for number, limit in enumerate(["", "limits.errors", "limits.errors", "", "limits.errors"]):
        more = {"limit": limit} if limit else {}
        event = {"event": "refused", "transport": "tftp", "peer": "10.0.0.5:2000", "name": "x", "why": "no", **more}
        event |= {"log_format": "{name} {why}", "log_level": LogLevel.info, "log_time": 1.0 + number / 10}
        limiter(event)
        store.add([entryOf(event)], 2.0)
    limiter.flush(100.0)
    assert [(event.get("limit"), event.get("more")) for event in seen] == [
        (None, None),
        ("limits.errors", None),
        (None, 1),
        ("limits.errors", 2),
    ]
    found = store.find(Query(merged=True))
    assert sorted((str(each["fields"].get("limit")), each["times"]) for each in found) == [
        ("None", 2),
        ("limits.errors", 3),
    ]


def test_noErrorIsNoSecret() -> None:
    """Where a limit keeps an ERROR from a machine, the event says so, names it, and says what to do about it."""
    with recorded() as stage:
        client = stage.client(2000)
        for number in range(30):
            client.send(rrq(f"missing{number}"), (SERVER, 69))
        stage.network.advance(0.01)
        told = len([each for each in client.take() if isError(parse(each.datagram), 1)])
        events = [event for event in stage.events if event.get("event") == "refused"]
        untold = [event for event in events if event.get("limit") == "limits.errors-per-peer"]
        assert (told, len(events), len(untold)) == (20, 30, 10)
        assert all(
            str(formatEvent(event)).endswith(" (no ERROR was sent: limits.errors-per-peer is reached)")
            for event in untold
        )
        assert {(event["verdict"], event["cause"]) for event in untold} == {
            ("limit", "limits.errors-per-peer is reached")
        }
        assert not any("limit" in event or "no ERROR" in str(formatEvent(event)) for event in events[:20])


def recorded(**options: Any) -> TftpStage:
    """A server on a network where every address can be forged, and what it sends is seen."""
    network = Wilds(1, 0.0)
    network.capture = []
    return TftpStage(network=network, **options)


# Requests at a port that receivers are served through.


class Costly(RequestTime):
    """Counts five milliseconds for each request, as the time of these tests stands still while one is handled."""

    COST = 0.005

    def spend(self, began: float, now: float) -> None:
        super().spend(now - self.COST, now)


@pytest.mark.slow
@pytest.mark.parametrize("through", [True, False], ids=["request port", "own port"])
def test_timeForReceivers(through: bool) -> None:
    """
    Where receivers are served through the request port requests have half of the time, and strangers half of that: what
    comes beyond is dropped unread, and receivers and neighbours are served.
    """
    with wild(options={"singlePort": through}) as stage:
        stage.listener._shedding.time = Costly()
        reader, _, there = stage.ask(rrq("large", blksize=1000))
        ackedTo(reader, 0, there)
        for number in range(6):
            flooded(stage, 0.5, 1000, rrq("none"), first=500 * number)
            reader.take()
            assert ackedTo(reader, number + 1, there) == Data(number + 2, pattern(40_000)[1000 * (number + 1) :][:1000])
        assert isinstance(stage.ask(rrq(blksize=512), stage.client(2001))[1], Oack)
        handled = len(stage.told("refused"))
        if through:
            assert 0.9 * handled < (RequestTime.SAVED / 2 + 3 * RequestTime.SHARE) / Costly.COST < 1.1 * handled
            assert {event["why"] for event in stage.told("crowded")} == {"requests take more than half of the time"}
        else:
            assert handled == 3000


def test_whatIsDroppedIsTold() -> None:
    """How many requests were dropped unread is told to the last one, a second later at the most; then all is quiet."""
    with wild(options={"singlePort": True}) as stage:
        stage.listener._shedding.time = Costly()
        reader, _, there = stage.ask(rrq("large", blksize=1000))
        ackedTo(reader, 0, there)
        flooded(stage, 0.5, 1000, rrq("none"))
        dropped = 500 - len(stage.told("refused"))
        assert dropped > 100
        assert sum(event["requests"] for event in stage.told("crowded")) < dropped
        stage.network.advance(1)
        told = stage.told("crowded")
        assert sum(event["requests"] for event in told) == dropped
        stage.network.advance(5)
        assert len(stage.told("crowded")) == len(told) == 2


def test_timeOfRanks() -> None:
    """When strangers have used their part neighbours have theirs; who was served before is never held back."""
    time = RequestTime()
    assert all(time.allows(rank, False, 0.0) for rank in Rank)
    time.spend(0.0, RequestTime.SAVED / 2)
    assert [time.allows(rank, False, 0.5) for rank in Rank] == [True, True, False]
    time.spend(0.5, 1.5)
    assert [time.allows(rank, False, 1.5) for rank in Rank] == [True, False, False]
    assert [time.allows(rank, True, 1.5) for rank in Rank] == [True, True, True]
    time.spend(1.5 - RequestTime.ADVANCE, 1.5)
    assert [time.allows(rank, True, 1.5) for rank in Rank] == [True, False, False]
    assert all(time.allows(rank, False, 10.0) for rank in Rank)


# Machines that boot.

X64 = {"arch": "efi-x64", "boot": "snponly.efi"}


def inventing(stage: pxe.ProxyStage, seconds: float, first: int = 0) -> None:
    """Have a thousand machines a second ask that do not exist, in the names of neighbours."""
    for number in range(first, first + round(1000 * seconds)):
        mac = f"52:54:01:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
        stage.send(pxe.ask(mac), (f"10.66.0.{130 + number % 100}", 68), pxe.BOOT)
        stage.network.advance(0.001)


@pytest.mark.slow
def test_machinesThatAskAgain(tmp_path: Path) -> None:
    """While a thousand machines a second are invented, one that asks a second time is answered."""
    with pxe.ProxyStage(tmp_path, X64) as stage:
        inventing(stage, 2.0)
        tries = 0
        for tries in (1, 2, 3):
            if stage.hear(pxe.ask(xid=bytes([0, 0, 1, tries])), (pxe.MACHINE, 68), pxe.BOOT):
                break
            inventing(stage, 1.0, 2000 + 1000 * tries)
        assert tries <= 2


def test_theNameOfAMachine(tmp_path: Path) -> None:
    """Whoever uses the hardware address of a machine, from other addresses, does not use up its answers."""
    with pxe.ProxyStage(tmp_path, X64) as stage:
        for number in range(40):
            stage.send(pxe.ask(xid=bytes([0, 0, 2, number])), (f"10.66.0.{130 + number % 4}", 68), pxe.BOOT)
            stage.network.advance(0.01)
        assert len(stage.said()) == 4 * 8
        stage.send(pxe.ask(xid=b"\0\0\1\1"), ("10.66.0.130", 68), pxe.BOOT)
        assert len(stage.hear(pxe.ask(xid=b"\0\0\1\1"), (pxe.MACHINE, 68), pxe.BOOT)) == 1
