"""
A group whose master is served by the fast path sends, tells and ends all it would without.
"""

from __future__ import annotations

import errno

import pytest

from castd.dialects import _group
from castd.server.cast_protocol import CLOSED_PORTS, CastProtocol
from castd.testing import Network, SentDatagram, pattern
from tests.support.clients.multicast import ATFTP, EDK2, IPXE, UBOOT, Machine
from tests.support.clients.tftp import rrq
from tests.support.quick import slowBut
from tests.support.stage import ASKED, GroupStage, TftpStage

CONTENT = pattern(300_000)


def hall(seed: int, loss: float) -> tuple[list[SentDatagram], list[dict[str, object]], int]:
    """
    Let eight machines of several kinds load one file.

    @return: all datagrams with their instants, the events, and how many blocks the cast was not asked for.
    """
    network = Network(seed, latency=0.0002, loss=loss)
    stage = GroupStage({"f": CONTENT}, network=network, options={"gather": 0.1}, seed=seed)
    habits = [ATFTP, EDK2, ATFTP, UBOOT, ATFTP, IPXE, ATFTP, EDK2]
    machines = [
        Machine(network.host(f"10.0.0.{10 + index}"), habit, "f", stage.server, CONTENT)
        for index, habit in enumerate(habits)
    ]
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
        events = [{key: value for key, value in each.items() if not key.startswith("log_")} for each in stage.events]
        return list(network.capture), events, followed


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
