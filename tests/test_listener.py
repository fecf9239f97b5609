"""
A listener when something fails half-way: nothing is left behind, and the port goes on.
"""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from castd import outcomes
from castd.cast.events import Leave
from castd.dialects import multicast, tftp
from castd.dialects.tftp import Dialect, Wire
from castd.errors import Unsupported, WireError
from castd.group_pool import REUSE_DELAY
from castd.observe.metrics import GAUGES, Readings
from castd.options import Limits
from castd.packets.tftp import Ack, Oack, buildAck, buildError, parse
from castd.request import Local
from castd.server import cast_protocol
from castd.server.listener import Listener
from castd.server.sessions import STALE
from castd.slices import SLICE, Slices
from castd.testing import BytesContent, Network, RecordingClient, memorySite, pattern
from tests.support.clients.tftp import F, ackedTo, data, isError, rrq, say, upload, wrq
from tests.support.stage import ASKED, HOST, GroupStage, Stage, TftpStage


def noPorts(stage: TftpStage, monkeypatch: pytest.MonkeyPatch, why: int = errno.ENETUNREACH) -> None:
    """There is no port to be had, or no way to the peer."""

    def openPort(protocol: Any, local: Any, peer: Any = None, ports: Any = None) -> Any:
        raise CannotListenError(local.host, "any", OSError(why, os.strerror(why)))

    monkeypatch.setattr(stage.site.ports, "openPort", openPort)


@pytest.mark.parametrize(
    ("why", "verdict", "text"),
    [
        (errno.ENETUNREACH, "unsent", "this server could not send to it: Network is unreachable"),
        (errno.EADDRNOTAVAIL, "unsent", "this server could not send to it: Cannot assign requested address"),
        (errno.EADDRINUSE, "unanswered", "no port for it: "),
    ],
)
@pytest.mark.parametrize("request_", [rrq(), wrq()], ids=["read", "write"])
def test_noPortIsToldOf(monkeypatch: pytest.MonkeyPatch, why: int, verdict: str, text: str, request_: bytes) -> None:
    """Where this machine has no way to a client the line says so: more ports or descriptors would not help."""
    with TftpStage(uploads=True) as stage:
        noPorts(stage, monkeypatch, why)
        client = stage.client()
        client.send(request_, ("10.0.0.1", 69))
        stage.quiet(client)
        (event,) = stage.told("crowded")
        assert (event["verdict"], text in event["cause"]) == (verdict, True)


def test_noPortForARead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a port for it a read gets no answer and leaves no file open; the next try is served."""
    with TftpStage() as stage:
        client = stage.client()
        with monkeypatch.context() as patch:
            noPorts(stage, patch)
            client.send(rrq(), ("10.0.0.1", 69))
            stage.quiet(client)
        stage.over()
        assert [event["peer"] for event in stage.told("crowded")] == ["10.0.0.9:2000"]
        assert stage.ask(rrq(), client)[1] == data(1)


def test_noPortForAWrite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a port for it a write gets no answer and leaves no upload; anybody's next try is served."""
    with TftpStage({}, uploads=True) as stage:
        client = stage.client()
        with monkeypatch.context() as patch:
            noPorts(stage, patch)
            client.send(wrq(), ("10.0.0.1", 69))
            stage.quiet(client)
        stage.over()
        other, answer, tid = stage.ask(wrq(), stage.client(2001))
        assert answer == Ack(0)
        upload(other, tid, b"whole")
        assert stage.site.files["up"] == b"whole"


def test_noPortForAGroup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a port for it a group is not kept: after its pause it serves the next one who asks."""
    with GroupStage(options={"groups": "239.255.9.9/32"}) as stage:
        with monkeypatch.context() as patch:
            noPorts(stage, patch)
            client = stage.client()
            client.send(rrq("afile", **ASKED), ("10.0.0.1", 69))
            stage.quiet(client)
        stage.network.advance(REUSE_DELAY)
        stage.join(1)
        (cast,) = stage.casts()
        assert cast.group == ("239.255.9.9", 1758)


class Faulty:
    """A fault of a dialect's: raised where a test wants it."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    def __call__(self, *args: object) -> Any:
        raise self._error()


@pytest.mark.parametrize("error", [RuntimeError, Unsupported], ids=["fault", "refusal"])
def test_aDialectThatCannotOpen(monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]) -> None:
    """Whatever a dialect raises when it should begin, the client is told and the file is closed once."""
    with TftpStage() as stage:
        with monkeypatch.context() as patch:
            patch.setattr(Dialect, "open", Faulty(error))
            assert isError(stage.ask(rrq())[1], error().code if error is Unsupported else 0)  # type: ignore[attr-defined]
        assert [content.closes for content in stage.site.contents] == [1]
        stage.events.clear()
        stage.over()


@pytest.mark.parametrize("method", ["requestedBlocks", "announce"])
def test_aWireThatFails(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A wire that fails when its transfer begins ends that one: no port and no file stays open."""
    with TftpStage() as stage:
        monkeypatch.setattr(Wire, method, Faulty(RuntimeError))
        assert isError(stage.ask(rrq(blksize=512))[1], 0)
        assert [event["outcome"] for event in stage.told("received")] == ["failed"]
        stage.events = [event for event in stage.events if "log_failure" not in event]
        stage.over()


@pytest.mark.parametrize("method", ["farewell", "close"])
def test_aWireThatFailsInTheEnd(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A wire that fails when its transfer ends keeps neither its port nor its file, nor the port of another one."""
    with TftpStage() as stage:
        stage.ask(rrq(), stage.client(2001))
        stage.ask(rrq(), stage.client(2002))
        monkeypatch.setattr(Wire, method, Faulty(RuntimeError))
        stage.listener.stop()
        assert [event["outcome"] for event in stage.told("received")] == ["stopped", "stopped"]
        assert len([event for event in stage.events if "log_failure" in event]) == 2
        stage.events.clear()
        stage.over()


def test_aStopOfMany() -> None:
    """
    A stop ends transfers for one slice, and the others when the event loop has turned; one that fails to end, or has
    ended meanwhile, keeps none of the others.
    """
    clock, few = count(), 8
    with TftpStage() as stage:
        stage.site.slices = Slices(stage.network, lambda: next(clock) * 1.01 * SLICE / few)
        for at in range(3 * few - 1):
            stage.ask(rrq(), stage.client(2000 + at))
        sessions = list(stage.listener.casts())
        sessions[1].end = Faulty(RuntimeError)  # type: ignore[method-assign]
        ended: list[Any] = []
        stage.listener.stop().addCallback(ended.append)
        told: list[int] = []

        def tell() -> None:
            told.append(len(stage.told("received")))
            if not ended:
                stage.network.callLater(0, tell)

        tell()
        sessions[-1].end(outcomes.ABORTED)
        stage.network.advance(0)
        assert told == [few - 2, 2 * few - 1, 3 * few - 2]
        found = Counter(each["outcome"] for each in stage.told("received"))
        assert found == {outcomes.ABORTED: 1, outcomes.STOPPED: 3 * few - 3}
        assert len([event for event in stage.events if "log_failure" in event]) == 1
        stage.events.clear()
        del sessions[1].end
        stage.listener.stop()
        stage.over()


def test_aGroupOfManyEnds() -> None:
    """
    The receivers of a group that ends are dismissed for one slice, and the others when the event loop has turned; one
    that asks again meanwhile begins anew.
    """
    clock, few = count(), 8
    with GroupStage() as stage:
        members = [stage.join(number) for number in range(3 * few)]
        stage.site.slices = Slices(stage.network, lambda: next(clock) * 1.01 * SLICE / few)
        (cast,) = stage.casts()
        ended: list[Any] = []
        closing = cast.end(outcomes.CHANGED)
        closing.addCallback(ended.append)
        assert cast.end(outcomes.STOPPED) is closing
        told: list[int] = []

        def tell() -> None:
            told.append(len(stage.told("received")))
            if told[-1] == few:
                stage.port.receive(rrq("afile", **ASKED), members[-1].client.address, stage.port.locals[HOST])
            if not ended:
                stage.network.callLater(0, tell)

        tell()
        stage.network.advance(0)
        assert told[:4] == [0, few, 2 * few + 1, 3 * few]
        found = Counter(each["outcome"] for each in stage.told("received"))
        assert found == {outcomes.CHANGED: 3 * few - 1, outcomes.REPLACED: 1}
        (other,) = stage.casts()
        assert other is not cast
        assert cast.end(outcomes.STOPPED) is closing
        stage.network.advance(0.01)
        assert members[-1].roles()[-1] == "1"
        stage.listener.stop()
        stage.over()


def test_aStopWaitsForAGroupOfMany() -> None:
    """A stop is over when the last receiver of a group is dismissed; one that cannot be does not keep the others."""
    with GroupStage() as stage:
        for number in range(24):
            stage.join(number)
        receiverLeft = stage.listener.receiverLeft

        def fail(*_: object) -> None:
            stage.listener.receiverLeft = receiverLeft  # type: ignore[method-assign]
            raise RuntimeError

        stage.listener.receiverLeft = fail  # type: ignore[method-assign]
        ended: list[Any] = []
        stage.listener.stop().addCallback(ended.append)
        assert (len(stage.casts()), ended) == (1, [])
        stage.network.advance(0)
        assert (stage.casts(), ended) == ([], [None])
        assert len(stage.told("received")) == 24
        assert len([event for event in stage.events if "log_failure" in event]) == 1
        stage.events.clear()
        stage.over()


def test_aHallLeavesAtOnce() -> None:
    """Of the receivers of a group that leave at one instant a few are dismissed, then others have their share."""
    with GroupStage() as stage:
        for number in range(24):
            stage.join(number)
        (cast,) = stage.casts()
        told: list[int] = []
        for peer in cast.receivers:
            cast.mainCast.hear(peer, Leave(outcomes.SILENT), stage.network.seconds())
        cast.pump()

        def tell() -> None:
            told.append(len(stage.told("received")))
            if stage.casts():
                stage.network.callLater(0, tell)

        tell()
        stage.network.advance(0.001)
        most = cast_protocol.SLICE // cast_protocol.LEAVING
        assert told == list(range(most, 25, most))
        stage.over()


def test_foundWhileDraining() -> None:
    """A file that is found only after the server has begun to stop is closed, and no transfer begins."""
    waiting: Deferred[BytesContent] = Deferred()

    class Slow:
        """A source on a slow disk."""

        def lookup(self, name: str, peer: object) -> Any:
            return waiting

    with TftpStage(source=Slow()) as stage:
        client = stage.client()
        client.send(rrq(), ("10.0.0.1", 69))
        stage.network.advance(0.01)
        drained: list[object] = []
        stage.listener.drain().addCallback(drained.append)
        content = BytesContent("f", F)
        waiting.callback(content)
        stage.quiet(client)
        assert drained == [None]
        assert content.closes == 1
        stage.over()


@pytest.mark.parametrize("singlePort", [False, True])
def test_forgedRepetitions(singlePort: bool) -> None:
    """A request that is repeated without end, as who forges it may do, is answered as often as new ones would be."""
    with TftpStage(options={"singlePort": singlePort}) as stage:
        victim = stage.client()
        for _ in range(1000):
            victim.send(rrq(), ("10.0.0.1", 69))
        stage.network.advance(0.5)
        assert 50 <= len(victim.inbox) <= 80
        assert stage.site.dropped["repetitions"] > 900


def test_droppedMetric() -> None:
    """What a request port drops without a word is counted, by reason; each reason is there from the start."""
    (metric,) = [each for each in GAUGES if each.name == "castd_dropped"]
    with TftpStage() as stage:
        readings = Readings(stage.site, {}, {}, {}, {})
        assert metric.read(readings) == {(reason,): 0.0 for reason in outcomes.DROPPED}
        client = stage.client()
        for datagram in (buildAck(1), b"\0\7\0\1", rrq()):
            client.send(datagram, ("10.0.0.1", 69))
        stage.listener.datagramFrom(rrq(), ("10.0.0.9", 0), Local("10.0.0.1", 69))
        stage.network.advance(0.1)
        stage.listener.drain()
        stage.client(2001).send(rrq(), ("10.0.0.1", 69))
        stage.network.advance(0.1)
        found = metric.read(readings)
        assert {reason: number for (reason,), number in found.items() if number} == {
            "stray": 2,
            "implausible": 1,
            "draining": 1,
        }
        assert set(stage.site.dropped) <= set(outcomes.DROPPED)
    assert metric.kind == "counter"


def test_restartWhileDraining() -> None:
    """A client on the one port that restarts while the server stops gets no new transfer."""
    with TftpStage(options={"singlePort": True}) as stage:
        client, _, tid = stage.ask(rrq())
        assert ackedTo(client, 1, tid) == data(2)
        drained: list[object] = []
        stage.listener.drain().addCallback(drained.append)
        assert drained == []
        client.send(rrq(), tid)
        stage.quiet(client, 0.11)
        assert drained == [None]
        stage.over()


def test_restartWhileABlockWaits() -> None:
    """A machine that restarts in a group whose next block waits for the rate is in the group again, and is told so."""
    with GroupStage({"f": pattern(200_000)}, options={"rate": 5_000}) as stage:
        master = stage.join(1, request=rrq("f", blksize=512, multicast=""))
        other = stage.join(2, request=rrq("f", blksize=512, multicast=""))
        (cast,) = stage.casts()
        # What may go at once goes; then a block waits.
        acked = 0
        while master.ack(acked) == [acked + 1]:
            acked += 1
        assert other.told() == []
        other.client.send(rrq("f", blksize=512, multicast="", tsize=0), stage.server)
        stage.network.advance(1.0)
        assert other.roles() == ["0"]
        assert [(each["peer"], each["outcome"]) for each in stage.told("received")] == [("10.0.0.12:2000", "replaced")]
        assert sorted(cast.receivers) == [("10.0.0.11", 2000), ("10.0.0.12", 2000)]


@pytest.mark.parametrize(("after", "receivers"), [(STALE - 0.01, [2000, 2001]), (STALE, [2001])])
def test_asksFromTheNextPort(after: float, receivers: list[int]) -> None:
    """Two programs of a machine may ask at once; after a second it is one, which takes the next port to ask."""
    with GroupStage() as stage:
        stage.ask(rrq("afile", **ASKED), stage.client(2000))
        stage.network.advance(after)
        stage.ask(rrq("afile", **ASKED), stage.client(2001))
        (cast,) = stage.casts()
        assert [port for _, port in cast.receivers] == receivers


def test_deafMachineAsks() -> None:
    """A machine that has lately received nothing of a group is served by unicast, also while others have the group."""
    with GroupStage() as stage:
        stage.join(1)
        stage.site.deafMachines.remember("10.0.0.12", 60.0, stage.network.seconds())
        client, packet, _ = stage.ask(rrq("afile", **ASKED), stage.client(2000, "10.0.0.12"))
        assert isinstance(packet, Oack)
        assert "multicast" not in dict(packet.options)
        assert [client.address in cast.receivers for cast in stage.casts()] == [False, True]


def test_anotherMachineAsks() -> None:
    """A member that has sent nothing since its request is replaced by its own machine only."""
    with GroupStage() as stage:
        stage.join(1)
        stage.network.advance(STALE)
        stage.join(2)
        (cast,) = stage.casts()
        assert sorted(cast.receivers) == [("10.0.0.11", 2000), ("10.0.0.12", 2000)]


@pytest.mark.parametrize(("spoke", "outcome"), [(False, "silent"), (True, "unconfirmed")])
def test_neverHeard(spoke: bool, outcome: str) -> None:
    """A file of one block that nobody acknowledged counts as sent only if the client ever spoke."""
    with TftpStage({"f": b"tiny"}) as stage:
        client, _, tid = stage.ask(rrq(tsize=0) if spoke else rrq())
        if spoke:
            assert ackedTo(client, 0, tid) == data(1, b"tiny")
        stage.network.advance(60)
        assert [event["outcome"] for event in stage.told("received")] == [outcome]
        stage.over()


@pytest.mark.parametrize(("answers", "left"), [(3, 0), (0, 1)])
def test_aPortThatOpensAnew(answers: int, left: int) -> None:
    """A port that is reported closed twice is, unless its client has answered in between, and be it as predicted."""
    with TftpStage({"f": pattern(20 * 512)}) as stage:
        client, _, tid = stage.ask(rrq())
        say(client, 1, tid)
        client.expect(1.0)
        (cast,) = stage.casts()
        cast.peerUnreachable(client.address)
        for number in range(2, 2 + answers):
            say(client, number, tid)
            client.expect(1.0)
        cast.peerUnreachable(client.address)
        stage.network.advance(0.001)
        assert len(stage.told("received")) == left


def bothAtOnePort(network: Network) -> Any:
    """multicast, for clients that are elsewhere, and tftp behind it.  -> the site."""
    site = memorySite(network, files={"file": pattern(5000)})
    group = multicast.Options.model_validate({"port": 69, "clients": ["10.9.9.0/24"]})
    plain = tftp.Options(port=69)
    listener = Listener(site, "multicast", group, multicast.Dialect(group))
    assert listener.share(Listener(site, "tftp", plain, tftp.Dialect(plain)))
    site.ports.listen(69, listener)
    return site


ASKS = b"\0\1file\0octet\0blksize\x001024\0multicast\0\0"


def test_declinedAsksAgain() -> None:
    """Who is served by the second dialect and asks again is answered from the port that has answered it before."""
    network = Network()
    bothAtOnePort(network)
    client = RecordingClient(network.host("10.0.0.9"))
    client.send(ASKS, ("10.0.0.1", 69))
    client.send(ASKS, ("10.0.0.1", 69))
    network.advance(0.5)
    letters = client.take()
    assert len(letters) >= 2
    assert len({letter.source for letter in letters}) == 1


def test_theNextDialectCannotReadIt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that one dialect has read and declined, and that the next one cannot read, is not answered."""
    network = Network()
    site = memorySite(network, files={"file": pattern(5000)})
    group, plain = {"port": 69, "clients": ["10.9.9.0/24"]}, {"port": 69}

    def unread(*_: object) -> None:
        raise WireError("not of this protocol")

    with Stage(network, site, (multicast, group), (tftp, plain)) as stage:
        monkeypatch.setattr(stage.listener.dialects[1].dialect, "request", unread)
        client = RecordingClient(network.host("10.0.0.9"))
        client.send(ASKS, stage.server)
        network.advance(1)
        assert client.take() == []
        assert [each["why"] for each in stage.told("malformed")] == ["not of this protocol"]


def test_fullSocketGreets() -> None:
    """A greeting that a full socket does not take goes out as soon as it takes more, not when the cast repeats it."""
    network = Network()
    site = bothAtOnePort(network)
    site.ports.room = 0
    client = RecordingClient(network.host("10.0.0.9"))
    client.send(ASKS, ("10.0.0.1", 69))
    network.advance(0.1)
    assert client.take() == []
    site.ports.room = None
    assert client.expect(0.1).datagram[:2] == b"\0\6"


def test_fullSocketAndARestart() -> None:
    """A machine that asks anew while a full socket keeps its greeting gets the new one alone."""
    with TftpStage() as stage:
        stage.site.ports.room = 0
        client = stage.client()
        client.send(rrq(blksize=512), stage.server)
        stage.network.advance(0.01)
        client.send(rrq(blksize=1024), stage.server)
        stage.network.advance(0.01)
        stage.site.ports.room = None
        stage.network.advance(0.1)
        assert [parse(each.datagram) for each in client.take()] == [Oack((("blksize", "1024"),))]


def test_fullSocketKeepsNoPlace() -> None:
    """Who has to leave while a full socket has not taken its greeting leaves at once, and is greeted no more."""
    with TftpStage(limits=Limits(casts=1)) as stage:
        stage.site.ports.room = 0
        first, second = stage.client(), stage.client(3000)
        for client in (first, second):
            client.send(rrq(blksize=512), stage.server)
            stage.network.advance(0.3)
        assert [list(cast.receivers) for cast in stage.casts()] == [[("10.0.0.9", 3000)]]
        stage.site.ports.room = None
        assert isinstance(parse(second.expect(1.0).datagram), Oack)
        assert first.inbox == []
        assert [event["outcome"] for event in stage.told("received")] == ["silent"]


def test_fullSocketKeepsNobody() -> None:
    """A client that gives up while a full socket has not taken its greeting is let go of at once."""
    with TftpStage() as stage:
        client, _, tid = stage.ask(rrq(blksize=512))
        stage.site.ports.room = 0
        client.send(rrq(blksize=512), stage.server)
        stage.network.advance(0.01)
        client.send(buildError(0, "stop"), tid)
        stage.over()
        stage.site.ports.room = None
        stage.quiet(client, 1.0)


def test_nothingIsLeftForTheCollector() -> None:
    """A cast that is over is freed at once: in a storm of small files the collector would be a tenth of the work."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with TftpStage() as stage:
            client, _, tid = stage.ask(rrq(blksize=512))
            (cast,) = (weakref.ref(each) for each in stage.listener.casts())
            for number in range(3):
                ackedTo(client, number, tid)
            say(client, 3, tid)
            stage.over()
            stage.events.clear()
            assert cast() is None
    finally:
        if collecting:
            gc.enable()
