"""
SLAM's receivers together: what they cost in time and blocks, how each one's end is told, and what forged lists do.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from itertools import cycle, pairwise
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from castd import outcomes
from castd.cast.allowance import UNPROVED_DEPTH, UNPROVED_RATE, UNVALIDATED_DEPTH, UNVALIDATED_RATE
from castd.cast.events import Announce, RequestBlocks
from castd.cast.policy import RetransmitPolicy
from castd.cast.sweep import Sweep
from castd.client.client import fetch
from castd.client.report import Report, TransferError
from castd.client.urls import parseUrl
from castd.dialects.slam import POLICY
from castd.packets.slam import DISCONNECT, FIRST_LIST, LARGEST_HEADER, pack
from castd.request import Local, Peer
from castd.server.cast_protocol import CastProtocol
from castd.testing import ReceivedFile, RecordingClient, pattern
from tests.support.clients.slam_client import Etherboot, Ipxe
from tests.support.quick import slowBut
from tests.support.slam_hall import floor
from tests.support.stage import HOST, SlamStage

BLOCK = 1451
ALL = bytes.fromhex("209fffffff00")


class Outcomes:
    """Counts how the parts of receivers end, as the listener is told."""

    def __init__(self, stage: SlamStage) -> None:
        self.counts: Counter[str] = Counter()
        told = stage.listener.receiverLeft

        def receiverLeft(cast: Any, request: Any, outcome: str) -> None:
            self.counts[outcome] += 1
            told(cast, request, outcome)

        stage.listener.receiverLeft = receiverLeft  # type: ignore[method-assign]


def get(stage: SlamStage, number: int, path: str = "", **more: Any) -> tuple[Deferred[Report], ReceivedFile]:
    """Let castd's own client begin on the machine of this number."""
    sink = ReceivedFile()
    host = stage.network.host(f"10.0.7.{number}/16")
    return fetch(host, parseUrl(f"slam://{HOST}{path}"), sink, **more), sink


def sixteen(stage: SlamStage, file: bytes) -> tuple[list[Report], CastProtocol]:
    """Let sixteen clients begin at once and get the whole file.  -> their reports, and the cast."""
    reports: list[Report] = []
    gets = [get(stage, number) for number in range(1, 17)]
    for done, _ in gets:
        done.addCallback(reports.append)
    stage.network.run(lambda: len(reports) == 16, limit=60.0)
    assert all(sink.data == file for _, sink in gets)
    return reports, stage.casts()[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed == 1, range(1, 7)))
def test_allAtOnce(seed: int) -> None:
    """Sixteen that begin at once, 5 % lost each way, have the file soon after its blocks were sent, at the floor."""
    file = pattern(1 << 20)
    stage = SlamStage(file, loss=0.05, seed=seed, capture=False)
    told = Outcomes(stage)
    reports, cast = sixteen(stage, file)
    least = floor(16, 0.05)
    assert cast.blocks <= 1.1 * least * cast.wire.count
    assert max(report.seconds for report in reports) <= least * len(file) / 12e6 + 0.6
    stage.network.advance(30.0)
    assert told.counts == {outcomes.DONE: 16}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eightMebibytes(seed: int) -> None:
    """Sixteen that begin at once have 8 MiB at 5 % loss within two seconds, at the floor of blocks and of time."""
    file = pattern(8 << 20)
    reports, cast = sixteen(SlamStage(file, loss=0.05, seed=seed, capture=False), file)
    least = floor(16, 0.05)
    assert cast.blocks <= 1.02 * least * cast.wire.count
    assert max(report.seconds for report in reports) <= least * len(file) / 12e6 + 0.2 < 2.0


def disturbed(kinds: list[type[Etherboot] | type[Ipxe]], count: int, doubled: str, number: int) -> int:
    """
    Let receivers get a file of so many blocks while one datagram arrives twice.

    @param doubled: "list" or "status": the kind of that datagram.
    @param number: which one of these it is, from 1.
    @return: how many blocks were sent.
    """
    stage = SlamStage(pattern((count - 1) * BLOCK + 100), latency=0.0002)
    players = [stage.play(kind(seed)) for seed, kind in enumerate(kinds)]
    found = itertools.count(1)

    def passes(source: Peer, destination: Peer, datagram: bytes) -> bool:
        isList = destination == stage.server
        if (isList if doubled == "list" else not isList and len(datagram) <= LARGEST_HEADER) and next(found) == number:
            stage.network.callLater(0.0002, copy, source, destination, datagram)
        return False

    def copy(source: Peer, destination: Peer, datagram: bytes) -> None:
        if destination == stage.server:
            stage.listener.datagramFrom(datagram, source, Local(HOST, destination[1]))
        else:
            for player in players:
                if destination[0] in player.host.addresses:
                    player.unicast(datagram, source, False)

    stage.network.losing(passes)
    stage.network.run(stage.played, limit=60.0)
    assert all(player.client.done for player in players)
    stage.network.advance(0.5)
    assert next(found) > number, "it was sent, so there was a copy of it"
    capture = stage.network.capture
    assert capture is not None
    return sum(each.destination == stage.group for each in capture)


@pytest.mark.parametrize("count", [5, 20, 60])
@pytest.mark.parametrize(("doubled", "number"), [("list", 1), ("list", 2), ("status", 1)])
@pytest.mark.parametrize("kinds", [[Etherboot], [Etherboot] * 3, [Ipxe]], ids=["etherboot", "three", "ipxe"])
def test_doubled(kinds: list[type[Etherboot] | type[Ipxe]], count: int, doubled: str, number: int) -> None:
    """A list or a status request that arrives twice costs no more than a block."""
    assert disturbed(kinds, count, doubled, number) <= count + 1


def slowMachines(stage: SlamStage, seed: int) -> None:
    """Let each receiver's machine do other things for up to 0.4 s, again and again: what arrives then is read after."""
    draw = random.Random(seed).random
    post = stage.network.post
    busy: dict[str, tuple[float, float]] = {}

    def late(when: float, port: Any, datagram: bytes, source: Peer, local: Local | None) -> None:
        who = port.address[0]
        if who != HOST:
            begin, end = busy.get(who, (0.0, 0.0))
            while end < when:
                begin = end + 0.2 * draw()
                end = begin + 0.4 * draw() ** 2
            busy[who] = begin, end
            when = max(when, end) if begin <= when else when
        post(when, port, datagram, source, local)

    stage.network.losing(lambda *_: False)  # so each one's copy of a datagram is an event of its own
    stage.network.post = late  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed == 1, range(1, 13)))
def test_slowMachines(seed: int) -> None:
    """Receivers that answer later than the server waits are believed, and little is repeated for it."""
    file = pattern(1 << 20)
    stage = SlamStage(file, loss=0.05, seed=seed, capture=False)
    slowMachines(stage, seed)
    told = Outcomes(stage)
    reports, cast = sixteen(stage, file)
    assert cast.blocks <= 1.8 * floor(16, 0.05) * cast.wire.count
    assert max(report.seconds for report in reports) <= 5.0
    stage.network.advance(30.0)
    assert told.counts == {outcomes.DONE: 16}


@pytest.mark.slow
def test_firstListsLost() -> None:
    """A receiver whose first list was lost is not left over until the group is silent: it is asked during the pass."""
    file = pattern(4 << 20)
    stage = SlamStage(file, capture=False)
    lost = Counter[str]()

    def first(source: Peer, destination: Peer, datagram: bytes) -> bool:
        lost[source[0]] += destination == stage.server
        return destination == stage.server and source[0] != "10.0.7.1" and lost[source[0]] == 1

    # The last block of the file is lost for all of them: nobody is complete without having been asked.
    turns = Counter[str]()

    def last(source: Peer, destination: Peer, datagram: bytes) -> bool:
        turns[destination[0]] += len(datagram) > 100
        return len(datagram) > 100 and turns[destination[0]] == 2000

    stage.network.losing(first)
    stage.network.losing(last)
    reports: list[Report] = []
    for number in range(1, 9):
        get(stage, number)[0].addCallback(reports.append)
    stage.network.run(lambda: len(reports) == 8, limit=60.0)
    assert max(report.seconds for report in reports) < len(file) / 12e6 + 0.2


def test_lostGoodbye() -> None:
    """A farewell that is lost costs one question more; its receiver counts as complete."""
    stage = SlamStage(pattern(20_000))
    told = Outcomes(stage)
    lost: list[float] = []

    def goodbye(source: Peer, destination: Peer, datagram: bytes) -> bool:
        if datagram == DISCONNECT:
            lost.append(stage.network.seconds())
        return datagram == DISCONNECT and len(lost) == 1

    stage.network.losing(goodbye)
    get(stage, 1)
    stage.network.run(lambda: told.counts, limit=5.0)
    assert told.counts == {outcomes.DONE: 1}
    assert stage.network.seconds() - lost[0] < 0.15


def test_otherGroup() -> None:
    """A receiver at another group than the server's costs little, gives up in time, and is not called complete."""
    file = pattern(2_900_000)
    stage = SlamStage(file, capture=False)
    told = Outcomes(stage)
    failures: list[TransferError] = []
    began = stage.network.seconds()
    done, _ = get(stage, 1, "/239.255.1.9:10000", policy=RetransmitPolicy(progressTimeout=31.0))
    done.addErrback(lambda failure: failures.append(failure.value))
    stage.network.run(lambda: failures, limit=100.0)
    assert stage.network.seconds() - began == pytest.approx(31.0, abs=0.1)
    assert failures[0].outcome == outcomes.UNHEARD
    assert "239.255.1.9" in str(failures[0])
    assert stage.casts()[0].blocks < 2 * len(file) / BLOCK
    stage.network.advance(1.0)
    assert told.counts == {outcomes.UNHEARD: 1}


@pytest.mark.parametrize("answers", [True, False])
def test_deafIsToldApart(answers: bool) -> None:
    """Who says goodbye, or falls silent, without ever having shown a block received has not heard the group."""
    stage = SlamStage(pattern(20_000))
    told = Outcomes(stage)
    who = RecordingClient(stage.network.host("10.0.0.2"))
    for _ in range(5):
        who.send(FIRST_LIST, stage.server)
        stage.network.advance(0.3)
    if answers:
        who.send(DISCONNECT, stage.server)
    stage.network.advance(60.0)
    assert told.counts == {outcomes.UNHEARD: 1}


def test_goneAfterTheLastBlock() -> None:
    """Who is gone after all that it lacked was sent is unconfirmed: neither complete nor lost."""
    stage = SlamStage(pattern(5925))
    told = Outcomes(stage)
    who = RecordingClient(stage.network.host("10.0.0.2"))
    for wire in ("202100", "212400"):
        who.send(bytes.fromhex(wire), stage.server)
        stage.network.advance(0.02)
    who.send(bytes.fromhex("242100"), stage.server)
    stage.network.advance(60.0)
    assert told.counts == {outcomes.UNCONFIRMED: 1}


def test_goneInTheMiddle() -> None:
    """Who is gone in the middle fell silent, although the few blocks of its last list were sent."""
    stage = SlamStage(pattern(100_000))
    told = Outcomes(stage)
    who = RecordingClient(stage.network.host("10.0.0.2"))
    for wire in ("202100", "212400", "252400"):
        who.send(bytes.fromhex(wire), stage.server)
        stage.network.advance(0.02)
    stage.network.advance(60.0)
    assert told.counts == {outcomes.SILENT: 1}


def test_twoServers() -> None:
    """A list forged between two servers draws a block and three questions, and neither answers a question."""
    stage = SlamStage(pattern(5925))
    other = SlamStage(pattern(7000))
    exchanged = 0
    stage.listener.datagramFrom(FIRST_LIST, ("10.0.0.9", 10000), Local(HOST, 10000))
    for _ in range(50):
        stage.network.advance(0.5)
        for where, datagram in stage.sent():
            if where == ("10.0.0.9", 10000):
                exchanged += 1
                other.listener.datagramFrom(datagram, (HOST, 10000), Local("10.0.0.9", 10000))
        other.network.advance(0.5)
        for where, datagram in other.sent():
            if where == (HOST, 10000):
                exchanged += 1
                stage.listener.datagramFrom(datagram, ("10.0.0.9", 10000), Local(HOST, 10000))
    assert exchanged == 3
    assert other.casts() == []


@pytest.mark.parametrize("delay", [0.001, 0.15, 0.7])
@pytest.mark.parametrize("answer", [b"\0\5\0\4Illegal\0", b" !abcdefghijklmnop", b"!\"#$%&'()*+,-./0\0", bytes(48)])
def test_anyServer(answer: bytes, delay: float) -> None:
    """What a server of another protocol, such as chargen, says to questions does not go on for ever."""
    stage = SlamStage(pattern(100_000))
    victim = ("10.0.0.9", 19)
    stage.listener.datagramFrom(FIRST_LIST, victim, Local(HOST, 10000))
    asked = 0

    def answers() -> None:
        stage.listener.datagramFrom(answer, victim, Local(HOST, 10000))

    for _ in range(9000):
        stage.network.advance(0.01)
        for where, _ in stage.sent():
            if where == victim:
                asked += 1
                stage.network.callLater(delay, answers)
    assert 0 < asked <= 60
    before = asked
    stage.network.advance(200.0)
    assert [where for where, _ in stage.sent() if where == victim][before:] == []
    assert stage.casts() == []


def echoed(stage: SlamStage) -> int:
    """Return how many questions an echo server gets, which sends each one back."""
    victim, asked = ("10.0.0.9", 7), 0
    stage.listener.datagramFrom(FIRST_LIST, victim, Local(HOST, 10000))
    for _ in range(3000):
        stage.network.advance(0.01)
        for where, datagram in stage.sent():
            if where == victim:
                asked += 1
                stage.listener.datagramFrom(datagram, victim, Local(HOST, 10000))
    return asked


def test_echo() -> None:
    """An echo server gets three questions, and no more."""
    assert echoed(SlamStage(pattern(5925))) == 3


# Forged lists.

SIZE = 1 << 20
COUNT = -(-SIZE // BLOCK)


def many(number: int) -> Peer:
    return (f"10.9.{number >> 8 & 255}.{number & 255}", 4000)


def ten(number: int) -> Peer:
    return (f"10.9.9.{number % 10}", 4000)


def one(number: int) -> Peer:
    return ("10.9.9.9", 4000)


def walking(number: int) -> bytes:
    """Return the list of a client of iPXE that gets on by four blocks each time."""
    return pack(number * 4 % COUNT) + pack(4) + b"\0"


def jumping(number: int) -> bytes:
    return pack(random.Random(number).randrange(COUNT)) + pack(1 << 20) + b"\0"


LISTS = {"first": lambda number: FIRST_LIST, "all": lambda number: ALL, "walking": walking, "jumping": jumping}
ADDRESSES = {"many": many, "ten": ten, "one": one}


def attacked(lists: str, addresses: str, rate: float, seed: int = 1) -> SlamStage:
    """Return a stage with a forger that sees nothing of the group."""
    stage = SlamStage(pattern(SIZE), capture=False, seed=seed)
    numbers = iter(range(1 << 20))

    def forge() -> None:
        number = next(numbers)
        stage.listener.datagramFrom(LISTS[lists](number), ADDRESSES[addresses](number), Local(HOST, 10000))
        stage.network.callLater(1 / rate, forge)

    forge()
    return stage


@pytest.mark.slow
@pytest.mark.parametrize("addresses", ADDRESSES)
@pytest.mark.parametrize("lists", slowBut(lambda lists: lists == "all", LISTS))
def test_blindForger(lists: str, addresses: str) -> None:
    """A hundred forged lists a second draw a trickle, whatever they say, not the rate of the group."""
    seconds = 20.0
    stage = attacked(lists, addresses, 100.0)
    blocks = 0
    stage.network.advance(1.0)
    (cast,) = stage.casts()
    stage.network.advance(seconds)
    blocks = cast.blocks
    assert blocks <= UNVALIDATED_DEPTH + UNPROVED_DEPTH + (UNVALIDATED_RATE + UNPROVED_RATE) * (seconds + 1)
    assert blocks * BLOCK / seconds < 0.04 * 12e6


@pytest.mark.slow
@pytest.mark.parametrize("addresses", ["many", "ten"])
@pytest.mark.parametrize("lists", slowBut(lambda lists: lists == "all", LISTS))
def test_honestAmongForged(lists: str, addresses: str) -> None:
    """Two hundred forged lists a second: a client of iPXE still has the file in seconds, and castd's soon."""
    stage = attacked(lists, addresses, 200.0)
    stage.network.advance(1.0)
    began = stage.network.seconds()
    player = stage.play(Ipxe(1))
    took: list[float] = []
    done, sink = get(stage, 1)
    done.addCallback(lambda report: took.append(report.seconds))
    stage.network.run(lambda: took and stage.played(), limit=30.0)
    assert player.client.image == sink.data == pattern(SIZE)
    assert took[0] < 4.0
    assert stage.network.seconds() - began < 8.0


@pytest.mark.parametrize("lists", ["all", "first"])
def test_transferUnderWay(lists: str) -> None:
    """A transfer under way hardly gets slower by two hundred forged lists a second, also in its own name."""
    took = {}
    for rate in (0.0, 200.0):
        stage = SlamStage(pattern(SIZE), capture=False, rate=2e6)
        results: list[float] = []
        done, _ = get(stage, 1)
        done.addCallback(lambda report, results=results: results.append(report.seconds))
        stage.network.advance(0.1)
        (peer,) = stage.casts()[0].receivers
        for number in range(int(rate * 0.4)):
            stage.listener.datagramFrom(LISTS[lists](number), peer, Local(HOST, 10000))
            stage.network.advance(1 / rate)
        stage.network.run(lambda results=results: results, limit=30.0)
        took[rate] = results[0]
    assert took[200.0] < 1.3 * took[0.0]


def test_excludedForAWhile() -> None:
    """A receiver whose answers cannot be true is asked again after a while, each time after twice as long."""
    sweep, who = Sweep(POLICY, 100, chance=random.Random(1).random), ("10.0.0.9", 4000)
    lies = cycle([range(50, 100), range(100)])
    sweep.join(who, 0.0, (range(1),))
    asked, answers = list[float](), list[float]()
    for step in range(10_000):
        now = step / 1000
        while answers and answers[0] <= now:
            answers.pop(0)
            sweep.hear(who, RequestBlocks((next(lies),)), now)
        while (action := sweep.poll(now)) is not None:
            if isinstance(action, Announce):
                asked.append(now)
                answers.append(now + 0.001)
    # There are pauses of 0.25 s, too, in which no blocks are left for answers without proof.
    pauses = [later - before for before, later in pairwise(asked) if later - before > 0.3]
    assert pauses == pytest.approx([0.5, 1.0, 2.0], abs=0.05)


def test_excludedEverAgain() -> None:
    """However often that has happened, as to one that stays for days, the next pause is a minute."""
    sweep, who = Sweep(POLICY, 100, chance=random.Random(1).random), ("10.0.0.9", 4000)
    sweep.join(who, 0.0, (range(1),))
    receiver = sweep._queue.get(who)
    assert receiver is not None
    receiver.proof.exclusions = 1100
    sweep._exclude(receiver, 1.0)
    assert receiver.deferredUntil == 61.0
