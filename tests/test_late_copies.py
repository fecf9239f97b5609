"""
A copy of a request that the network delivers in the middle of its transfer ends nothing, as long as the client goes on;
one that has restarted is served anew.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from castd.cast.turn import Turn
from castd.net.timers import MOST_EXPIRED
from castd.packets.tftp import Ack, Oack, buildData, parse
from castd.request import Local, Peer
from castd.testing import Network, RecordingClient, pattern
from tests.support.clients.tftp import HABITS, HPA, PLAIN, Habit, Simulated, ackedTo, data, hear, rrq, say, wrq
from tests.support.log import observed
from tests.support.quick import slowBut
from tests.support.stage import HOST, SERVER, TftpStage

FILE = pattern(400 * 1468 + 100)


class Copies:
    """
    Delivers each client's first request once more when a block goes out to it.

    @ivar made: how many copies were delivered.
    """

    def __init__(self, stage: TftpStage, number: int, later: float = 0.0) -> None:
        """
        @param number: of the block.
        @param later: seconds from there to the copy.
        """
        self.made = 0
        self._stage, self._number, self._later = stage, number, later
        self._requests: dict[Peer, bytes] = {}
        self._copied: set[Peer] = set()
        stage.network.losing(self._passes)

    def _passes(self, source: Peer, destination: Peer, datagram: bytes) -> bool:
        if destination == SERVER:
            self._requests.setdefault(source, datagram)
        elif datagram[:4] == b"\0\3" + self._number.to_bytes(2, "big") and destination not in self._copied:
            self._copied.add(destination)
            self._stage.network.callLater(self._later, self._deliver, destination)
        return False

    def _deliver(self, peer: Peer) -> None:
        self.made += 1
        self._stage.listener.datagramFrom(self._requests[peer], peer, Local(HOST, 69))


def outcomes(stage: TftpStage) -> list[str]:
    """Return how all transfers have ended, but for those that asked for the size only."""
    return [event["outcome"] for event in stage.told("received") if event["outcome"] != "probe"]


@pytest.mark.parametrize("later", [0.0, 0.0003, 0.003])
@pytest.mark.parametrize("number", [1, 2, 30])
@pytest.mark.parametrize("single", [False, True], ids=["own port", "single port"])
@pytest.mark.parametrize(
    "habit", slowBut(lambda habit: habit.name in ("iPXE", "window 4"), HABITS), ids=lambda habit: habit.name
)
def test_whoGoesOn(habit: Habit, number: int, later: float, single: bool) -> None:
    """Each client gets its file from the one port that answered first, and no second transfer begins."""
    network = Network(1, latency=0.002, capture=False)
    with TftpStage({"f": FILE}, network=network, options={"singlePort": single}) as stage:
        copies = Copies(stage, number, later)
        client = Simulated(network.host("10.0.0.20"), habit, "f", SERVER)
        client.begin()
        network.run(lambda: client.over, limit=100)
        network.advance(1)
        assert bytes(client.octets) == FILE
        assert copies.made == 1
        assert outcomes(stage) == ["done"]
        # Without options a copy that comes before the first ACK is answered: it may be the client's own.
        assert stage.site.dropped["copies"] == (number > 1 or habit is not HPA)
        stage.over()


def test_whoGoesOnSlowly() -> None:
    """A rate makes the next answer late: it is waited for as long as blocks are still to be sent."""
    with TftpStage({"f": FILE}, options={"rate": "200 kB/s"}) as stage:
        copies = Copies(stage, 100)
        client = Simulated(stage.network.host("10.0.0.20"), PLAIN, "f", SERVER)
        client.begin()
        stage.network.run(lambda: client.over, limit=100)
        assert copies.made == stage.site.dropped["copies"] == 1
        stage.network.advance(1)
        assert outcomes(stage) == ["done"]


def again(stage: TftpStage, client: RecordingClient, request: bytes) -> None:
    """Let the network deliver a request of a client once more."""
    stage.listener.datagramFrom(request, client.address, Local(HOST, 69))


def begun(
    stage: TftpStage, windowsize: int = 1, client: RecordingClient | None = None
) -> tuple[RecordingClient, bytes, Peer]:
    """Return a client that has acknowledged two windows, its request, and its server's port."""
    request = rrq(blksize=512, windowsize=windowsize)
    client, _, tid = stage.ask(request, client)
    for number in (0, windowsize, 2 * windowsize):
        say(client, number, tid)
        stage.network.advance(0.001)
    client.take()
    return client, request, tid


@pytest.mark.parametrize("windowsize", [1, 4])
def test_whoHasRestarted(windowsize: int) -> None:
    """A client that does not go on has restarted: the answer comes soon, and no block of the old transfer before it."""
    with TftpStage({"f": FILE}) as stage:
        client, request, old = begun(stage, windowsize)
        began = stage.network.seconds()
        _, packet, new = stage.ask(request, client)
        assert isinstance(packet, Oack)
        assert new != old
        assert stage.network.seconds() - began < 0.11
        assert outcomes(stage) == ["replaced"]


@pytest.mark.parametrize("windowsize", [1, 4])
def test_whoIsBusy(windowsize: int) -> None:
    """A client that is busy for 80 ms when the copy comes goes on afterwards, and is sent nothing twice."""
    with TftpStage({"f": FILE}) as stage:
        client, request, tid = begun(stage, windowsize)
        again(stage, client, request)
        stage.network.advance(0.08)
        assert client.inbox == []
        assert ackedTo(client, 3 * windowsize, tid) == data(3 * windowsize + 1, FILE)
        stage.network.advance(0.015)
        client.take()
        # From now on what is not answered is repeated again.
        assert ackedTo(client, 4 * windowsize, tid) == data(4 * windowsize + 1, FILE)
        client.take()
        stage.network.advance(0.3)
        assert client.take() != []
        assert outcomes(stage) == []


def test_aCastThatCannotTell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of a cast, when it is asked how far it is, concerns this copy only: who asks later is served."""
    stage = TftpStage({"f": FILE})
    client, request, old = begun(stage)
    with observed(stage.events.append), monkeypatch.context() as patched:
        patched.setattr(Turn, "peerState", lambda *_: 1 // 0)
        again(stage, client, request)
    assert [event["event"] for event in stage.told("fault")] == ["fault"]
    _, packet, new = stage.ask(request, client)
    assert isinstance(packet, Oack)
    assert new != old


def test_severalCopies() -> None:
    """Several copies are judged together, and draw nothing."""
    with TftpStage({"f": FILE}) as stage:
        client, request, tid = begun(stage)
        for _ in range(5):
            again(stage, client, request)
        for number in range(3, 300):
            assert ackedTo(client, number, tid) == data(number + 1, FILE)
        assert stage.site.dropped["copies"] == 1
        assert outcomes(stage) == []


@pytest.mark.parametrize("ahead", [0, 1])
def test_atTheEnd(ahead: int) -> None:
    """
    If more blocks were sent after the request came, and the transfer is over soon, the request was a copy; if only the
    last ACK came after it, that may have been overtaken by a new request for the same file.
    """
    with TftpStage({"f": pattern(5 * 512 + 100)}) as stage:
        client, request, tid = begun(stage)
        for number in range(3, 6 - ahead):
            ackedTo(client, number, tid)
        again(stage, client, request)
        for number in range(6 - ahead, 7):
            say(client, number, tid)
            stage.network.advance(0.001)
        client.take()
        stage.network.advance(0.2)
        assert outcomes(stage) == ["done"]
        assert [letter.source != tid for letter in client.take()] == [True] * (1 - ahead)


def test_anotherFileMeanwhile() -> None:
    """Who asks for another file is served at once, whether a copy is being judged or not."""
    with TftpStage({"f": FILE, "g": FILE}) as stage:
        client, request, _ = begun(stage)
        again(stage, client, request)
        _, packet, tid = stage.ask(rrq("g"), client, 0.001)
        assert packet == data(1, FILE)
        for number in range(1, 300):
            assert ackedTo(client, number, tid) == data(number + 1, FILE)
        assert outcomes(stage) == ["replaced"]
        assert len(stage.casts()) == 1


@pytest.mark.parametrize("single", [False, True], ids=["own port", "single port"])
@pytest.mark.parametrize("windowsize", [1, 4])
def test_anUpload(single: bool, windowsize: int) -> None:
    """A copy of the request in the middle of an upload ends nothing: the file is stored as it was sent."""
    content = FILE[: 40 * 512 + 10]
    with TftpStage({}, uploads=True, options={"singlePort": single}) as stage:
        request = wrq(blksize=512, windowsize=windowsize)
        client, _, tid = stage.ask(request)
        for number in range(1, 42):
            client.send(buildData(number, content[(number - 1) * 512 : number * 512]), tid)
            if number == 9:
                stage.network.advance(0.0003)
                again(stage, client, request)
            if number % windowsize == 0 or number == 41:
                assert hear(client) == Ack(number)
        stage.network.advance(10)
        assert stage.site.files == {"up": content}
        assert outcomes(stage) == ["done"]
        assert stage.site.dropped["copies"] == 1


@pytest.mark.slow
def test_manyCopies() -> None:
    """
    Of many requests that may be copies, as a busy server finds them in its sockets, some are judged in each turn of the
    reactor, and others are read between; in the end all clients are served.
    """
    with TftpStage({"f": FILE}) as stage:
        hosts = [stage.network.host(f"10.0.1.{number}") for number in range(1, 3 * MOST_EXPIRED)]
        clients = [begun(stage, client=RecordingClient(host)) for host in hosts]
        for client, request, _ in clients:
            again(stage, client, request)
        turns: list[int] = []
        stage.site.timers._before = lambda: turns.append(len(outcomes(stage)))
        stage.network.advance(0.15)
        judged = [after - before for before, after in pairwise([*turns, len(outcomes(stage))])]
        assert max(judged) <= MOST_EXPIRED
        assert outcomes(stage) == ["replaced"] * len(clients)
        assert all(isinstance(parse(client.take()[-1].datagram), Oack) for client, *_ in clients)
