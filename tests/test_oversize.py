"""
A client that answers small datagrams, and no block of the size agreed on, is told apart in the log, with the cure.
"""

from __future__ import annotations

from typing import Any

import pytest

from castd.observe.format import asMessage
from castd.packets.tftp import buildAck, buildError
from castd.testing import Network, RecordingClient, memorySite, pattern
from tests.support.clients.tftp import ackedTo, rrq, say
from tests.support.stage import SERVER, GroupStage, TftpStage

FILE = {"f": pattern(9000), "other": pattern(9000)}


def askedAndConfirmed(stage: TftpStage, client: RecordingClient | None = None, **options: Any) -> RecordingClient:
    """A client asks, and confirms the OACK: from now on blocks are lost on their way to it."""
    client, _, tid = stage.ask(rrq(**{"blksize": 1468, **options}), client)
    say(client, 0, tid)
    return client


@pytest.mark.parametrize("options", [{}, {"windowsize": 4}, {"blksize": 513}, {"timeout": 2}], ids=str)
def test_silent(options: dict[str, Any]) -> None:
    """No answer to the first block, or to the first window, until the client is given up."""
    with TftpStage(FILE) as stage:
        askedAndConfirmed(stage, **options)
        stage.network.advance(40)
        (told,) = stage.told("oversize")
        assert told["peer"] == "10.0.0.9:2000"
        assert told["blksize"] == options.get("blksize", 1468)
        assert told["times"] > 2
        assert [event["outcome"] for event in stage.told("received")] == ["silent"]
        stage.over()


@pytest.mark.parametrize(
    ("host", "blksize", "cure"),
    [("10.0.0.9", 1468, 1368), ("10.0.0.9", 1368, 512), ("fd00::9", 1448, 1228), ("fd00::9", 1228, 512)],
)
def test_theCure(host: str, blksize: int, cure: int) -> None:
    """The message names the client, the size, and what to write into the service file."""
    network = Network(seed=1, latency=0.0002)
    six = ":" in host
    with TftpStage(
        network=network, made=lambda network: memorySite(network, FILE, host="fd00::1" if six else "10.0.0.1")
    ) as stage:
        stage.server = ("fd00::1", 69, 0, 0) if six else SERVER
        askedAndConfirmed(stage, stage.client(2000, host), blksize=blksize)
        network.advance(40)
        (told,) = stage.told("oversize")
        assert f"the first block, of {blksize} octets" in asMessage(told)
        assert asMessage(told).endswith(f"caps: [{{clients: {host}, blksize: {cure}}}]")


def test_theFirstBlockIsTheLastThatItLacked() -> None:
    """A member of a group that closes its port after the first block may have all others, as they had been sent."""
    with GroupStage(FILE) as stage:
        request = rrq(blksize=1024, tsize=0, multicast="")
        first, other = (stage.join(number, request=request) for number in range(1, 3))
        first.ack(0)
        stage.network.advance(2)
        first.ack(*range(1, 10))
        assert other.ack(0) == [1]
        other.client.port.stopListening()
        stage.network.advance(20)
        assert [event["outcome"] for event in stage.told("received")] == ["done", "unconfirmed"]
        assert [event for event in stage.told("received") if "verdict" in event] == []
        assert stage.told("oversize") == []


def test_notCountedOfOthers() -> None:
    """How often a block was sent to one that has joined a group late is not how often the group repeated others."""
    with GroupStage(FILE) as stage:
        request = rrq(blksize=1024, tsize=0, multicast="")
        first = stage.join(1, request=request)
        first.ack(0, 1)
        late = stage.join(2, request=request)
        stage.network.advance(0.5)
        assert sum(cast.repeats for cast in stage.casts()) >= 3
        first.error()
        assert late.ack(0)[-1] == 1
        late.client.send(rrq("other"), stage.server)
        stage.network.advance(0.01)
        assert [event["verdict"] for event in stage.told("received")] == ["client-error", "restarted"]
        assert stage.told("oversize") == []


def test_theClientsError() -> None:
    """The client ends it by an ERROR, which arrives: it is small."""
    with TftpStage(FILE) as stage:
        client, _, tid = stage.ask(rrq(blksize=1468))
        say(client, 0, tid)
        stage.network.advance(5)
        client.send(buildError(0, "timeout"), tid)
        stage.network.advance(0.1)
        assert len(stage.told("oversize")) == 1
        stage.over()


@pytest.mark.parametrize("name", ["f", "other"])
def test_theClientAsksAgain(name: str) -> None:
    """The client asks again from its port, for this file or another: requests and OACKs are small."""
    with TftpStage(FILE) as stage:
        client = askedAndConfirmed(stage)
        stage.network.advance(5)
        client.take()
        stage.ask(rrq(name, blksize=1468), client)
        assert len(stage.told("oversize")) == 1


def attempt(stage: TftpStage, client: RecordingClient) -> None:
    """The client asks, confirms the OACK, and waits no longer than until the first block was sent twice."""
    client.take()
    askedAndConfirmed(stage, client)
    stage.network.advance(1.5)


def test_asksAnewSoon() -> None:
    """A client that does not wait long for the first block, and asks anew, is told by its attempts together."""
    with TftpStage(FILE) as stage:
        client = stage.client()
        for _ in range(2):
            attempt(stage, client)
            assert stage.told("oversize") == []
        attempt(stage, client)
        assert [event["times"] for event in stage.told("oversize")] == [4]
        assert [event.get("verdict") for event in stage.told("received")] == ["restarted", "mtu"]


@pytest.mark.parametrize("fetched", [False, True])
def test_anotherTime(fetched: bool) -> None:
    """Attempts do not count together if there is a minute between them, or a whole transfer."""
    with TftpStage(FILE) as stage:
        client = stage.client()
        for _ in range(4):
            attempt(stage, client)
            client.take()
            client.send(rrq(blksize=512), stage.server)
            tid = client.expect().source
            if fetched:
                for number in range(19):
                    say(client, number, tid)
            else:
                client.send(buildError(0, "enough"), tid)
            stage.network.advance(1 if fetched else 61)
        assert stage.told("oversize") == []


@pytest.mark.parametrize("windowsize", [1, 4])
def test_readsTheBeginningOnly(windowsize: int) -> None:
    """A client that closes its port when it has the first block: that its port is closed says that blocks arrive."""
    with TftpStage(FILE) as stage:
        for number in range(3):
            client = askedAndConfirmed(stage, stage.client(2000 + number), windowsize=windowsize)
            client.port.stopListening()
            stage.network.advance(6)
        assert stage.told("oversize") == []
        assert [(event["outcome"], event["verdict"]) for event in stage.told("received")] == [("closed", "ended")] * 3


def test_beyondAGroup() -> None:
    """A master that no block of the group reaches goes on by unicast; blocks that are too large do not come either."""
    with GroupStage(FILE, options={"blksize": 1428}) as stage:
        member = stage.join(request=rrq(blksize=1428, multicast=""))
        for _ in range(30):
            member.client.send(buildAck(0), member.tid)
            stage.network.advance(1)
        member.client.send(buildError(0, "timeout"), member.tid)
        stage.network.advance(0.1)
        assert len(stage.told("moved")) == 1
        (told,) = stage.told("oversize")
        assert (told["transport"], told["blksize"]) == ("multicast", 1428)


def test_whatIsNot() -> None:
    """Small blocks, a small file, a block that was sent once, one that was acknowledged, a client that never spoke."""
    with TftpStage({**FILE, "small": pattern(300)}) as stage:
        askedAndConfirmed(stage, blksize=512)
        client, _, tid = stage.ask(rrq("small", blksize=1468), stage.client(2001))
        say(client, 0, tid)
        client, _, tid = stage.ask(rrq(blksize=1468), stage.client(2002))
        say(client, 0, tid)
        client.take()
        client.send(buildError(0, "enough"), tid)
        client, _, tid = stage.ask(rrq(blksize=1468), stage.client(2003))
        ackedTo(client, 0, tid)
        ackedTo(client, 1, tid)
        stage.ask(rrq(blksize=1468), stage.client(2004))
        stage.network.advance(100)
        assert len(stage.told("received")) == 5
        assert stage.told("oversize") == []
        stage.over()
