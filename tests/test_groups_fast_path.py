"""
A group whose master is served by the fast path sends, tells and ends all it would without.
"""

from __future__ import annotations

import errno
import random

import pytest

from castd.dialects import _group, multicast
from castd.group_pool import GroupPool
from castd.packets.options import AgreedOptions
from castd.packets.tftp import buildAck
from castd.server.blockcache import BlockCache
from castd.server.cast_protocol import CLOSED_PORTS, CastProtocol
from castd.server.prepared import preparedSteps
from castd.testing import BytesContent, Network, SentDatagram, pattern
from tests.support.clients.multicast import ATFTP, EDK2, IPXE, UBOOT, Machine
from tests.support.clients.tftp import rrq
from tests.support.quick import slowBut
from tests.support.stage import ASKED, GroupStage, TftpStage

CONTENT = pattern(300_000)


def even(value: object) -> object:
    """Drop the last bits of a time: jitter is added to an instant by the cast, to an interval on the fast path."""
    return round(value, 9) if isinstance(value, float) else value


def hall(seed: int, loss: float, latency: float = 0.0002) -> tuple[list[SentDatagram], list[dict[str, object]], int]:
    """
    Let eight machines of several kinds load one file.

    @return: all datagrams with their instants, the events, and how many blocks the cast was not asked for.
    """
    network = Network(seed, latency=latency, loss=loss)
    stage = GroupStage({"f": CONTENT}, network=network, options={"gather": 0.1}, seed=seed)
    habits = [ATFTP, EDK2, ATFTP, UBOOT, ATFTP, IPXE, ATFTP, EDK2]
    machines = [
        Machine(network.host(f"10.0.0.{10 + index}"), habit, "f", stage.server, CONTENT)
        for index, habit in enumerate(habits)
    ]
    stage.site.random = random.Random(seed)  # with the jitter of timers
    followed = 0
    told = _group.GroupTurn.masterFollowed

    def masterFollowed(self: _group.GroupTurn, numbers: range, now: float) -> None:
        nonlocal followed
        followed += len(numbers)
        told(self, numbers, now)

    with stage, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_group.GroupTurn, "masterFollowed", masterFollowed)
        for index, machine in enumerate(machines):
            network.callLater(index * 0.03, machine.begin)
        network.run(lambda: all(machine.over for machine in machines), limit=200.0)
        network.advance(60)
        assert network.capture is not None
        events = [
            {key: even(value) for key, value in each.items() if not key.startswith("log_")} for each in stage.events
        ]
        sent = [each._replace(time=round(each.time, 9)) for each in network.capture]
        return sent, events, followed


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("seed", slowBut(lambda seed: seed == 1, range(1, 6)))
def test_sameWithout(monkeypatch: pytest.MonkeyPatch, seed: int, loss: float) -> None:
    """The same datagrams at the same instants, and the same events, as if the cast were asked for each block."""
    sent, events, followed = hall(seed, loss)
    assert followed > 50
    monkeypatch.setattr(_group.GroupWire, "stride", 0)
    asked = hall(seed, loss)
    assert asked[2] == 0
    assert sent == asked[0]
    assert events == asked[1]


@pytest.mark.slow
@pytest.mark.parametrize("loss", slowBut(lambda loss: loss == 0.05, [0.0, 0.05, 0.2]))
def test_sameIfAnswersTakeLong(monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    """
    Nor does anything differ where the interval is longer than the shortest one: the timer, which rings by that one, is
    set again, and a block is repeated when it would be if the cast were asked.
    """
    again = 0
    stillWaits = CastProtocol._stillWaits

    def counted(self: CastProtocol) -> bool:
        nonlocal again
        waits = stillWaits(self)
        again += waits
        return waits

    monkeypatch.setattr(CastProtocol, "_stillWaits", counted)
    sent, events, followed = hall(2, loss, 0.008)
    assert followed > 50
    assert again > 5 or not loss
    monkeypatch.setattr(_group.GroupWire, "stride", 0)
    asked = hall(2, loss, 0.008)
    assert asked[2] == 0
    assert sent == asked[0]
    assert events == asked[1]


@pytest.mark.parametrize("size", [0, 7, 8, 511, 8 * 130, 8 * 200 + 3])
def test_manyAnswersAtOnce(size: int) -> None:
    """The steps of a group, prepared at once, are those that are prepared one by one from what the wire expects."""
    content = BytesContent("f", CONTENT[:size])
    wire = multicast.Wire(AgreedOptions(blksize=8), size, multicast.Options(port=69), ("239.1.1.1", 1758), GroupPool())
    cache = BlockCache(1 << 20)
    for start in range(wire.count):
        chunk = cache.chunk(wire, content, start)
        made = preparedSteps(wire, chunk, start)
        expected = [wire.expectedAnswer(number) for number in range(start, chunk.stop)]
        assert made.answers == [*(each[0] for each in expected if each is not None), None]
        assert len(made.images) == len(expected) == made.stop - start
        assert [bytes(each) for each in made.images] == [
            wire.header(number) + content.data[number * 8 : number * 8 + 8] for number in range(start, chunk.stop)
        ]
        assert (made.start, made.stop, made.stride, made.gap) == (start, chunk.stop, 1, 4)
    assert wire.expectedAnswer(wire.count) is None


def running(stage: TftpStage) -> CastProtocol:
    (cast,) = stage.listener.casts()
    assert isinstance(cast, CastProtocol)
    return cast


def test_aLateJoiner() -> None:
    """Who joins while the master is on the fast path is counted the blocks from then on, and the map is up to date."""
    with GroupStage({"f": CONTENT}) as stage:
        master = stage.join(1, request=rrq("f", **ASKED))
        for number in range(60):
            stage.network.advance(0.001)
            master.ack(number)
        cast = running(stage)
        stage.network.advance(0.001)
        assert cast.progress()[0] == 60
        assert cast.blocks < 60
        stage.join(2, request=rrq("f", **ASKED))
        found = {receiver.peer[0]: receiver.sent for receiver in cast.liveReceivers()}
        assert sorted(found.values()) == [0, 60]
        master.ack(60)
        master.ack(61)
        stage.network.advance(0.001)
        maps = [each for each in cast.mapMembers(100, 9) if each is not None]
        assert sorted(each.lacking for each in maps if each.lacking is not None) != []
        assert cast.blocks == cast.progress()[0]


@pytest.mark.parametrize("group", [True, False])
def test_portsThatCloseForAMoment(group: bool) -> None:
    """Reports of a closed port, with answers by the fast path between them, do not end a transfer; in a row they do."""
    with GroupStage({"f": CONTENT}) as stage:
        asked = dict(ASKED) if group else {"blksize": 512}
        member = stage.join(1, request=rrq("f", **asked))
        for number in range(40):
            stage.network.advance(0.001)
            member.ack(number)
        cast = running(stage)
        (peer,) = cast.receivers
        for number in range(40, 80):
            stage.network.advance(0.001)
            if number % 10 == 0:
                cast.peerUnreachable(peer)
            member.ack(number)
        stage.network.advance(0.001)
        assert list(cast.receivers) == [peer]
        for _ in range(CLOSED_PORTS):
            cast.peerUnreachable(peer)
        stage.network.advance(0.001)
        assert list(cast.receivers) == []


@pytest.mark.parametrize(
    ("change", "port", "noted"),
    [
        ({}, 2000, True),
        ({}, 2001, False),
        ({"longest": 0.0005}, 2000, False),
        ({"until": 0.0}, 2000, False),
        ({"stop": 0}, 2000, False),
    ],
    ids=["in step", "a stranger", "late", "until", "stop"],
)
def test_whatIsOnlyNoted(change: dict[str, float], port: int, noted: bool) -> None:
    """The predicted answer is only noted if the master sends it, soon enough, and as far as it may be followed."""
    with GroupStage({"f": CONTENT}) as stage:
        member = stage.join(1, request=rrq("f", **ASKED))
        for number in range(40):
            stage.network.advance(0.001)
            member.ack(number)
        stage.network.advance(0.001)
        cast = running(stage)
        steps = cast._master
        assert steps is not None
        told, before = len(steps.noted), cast.progress()[0]
        for name, value in change.items():
            setattr(steps, name, value)
        client = member.client if port == 2000 else stage.client(port, "10.0.0.11")
        client.send(buildAck(40), member.tid)
        stage.network.advance(0.0005)
        assert (len(steps.noted) == told + 1) == noted
        assert cast.progress()[0] == before + (port == 2000)


def test_aFullSocket() -> None:
    """A block that a full socket does not take is sent by the cast, a little later."""
    with GroupStage({"f": CONTENT}) as stage:
        member = stage.join(1, request=rrq("f", **ASKED))
        for number in range(40):
            stage.network.advance(0.001)
            member.ack(number)
        stage.network.advance(0.001)
        stage.blocks()
        host = stage.site.ports
        host.errno = errno.EAGAIN
        member.ack(40)
        stage.network.advance(0.0005)
        assert stage.blocks(0) == []
        host.errno = 0
        assert stage.blocks(0.1)[:1] == [41]
