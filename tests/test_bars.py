"""
The refusal that keeps an iPXE from an image with a hole holds, and a forger can make little of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from castd.packets.tftp import Error, TftpRequest, buildAck, buildRequest, parse
from castd.server.admission import Bars
from castd.testing import RecordingClient, pattern
from tests.support.clients.mtftp import SERVER, R, ack
from tests.support.quick import slowBut
from tests.support.stage import MtftpStage

TEN = pattern(9 * 512 + 100)
TFTP = (SERVER[0], 69)
ASKED = buildRequest(TftpRequest(False, "linux", "octet", (("blksize", "512"), ("tsize", "0"))))
#: Numbers of the machine that is to be shut out, and of one that the forger has.
VICTIM, OWN = 3, 2


class Forger:
    """Sends in the names of two machines that do not answer: C{own} could be its own, C{victim} is somebody else's."""

    def __init__(self, stage: MtftpStage) -> None:
        self.stage = stage
        self.own, self.victim = stage.client(OWN), stage.client(VICTIM)

    def strike(self) -> None:
        """Ask in the victim's name in the middle of a pass, and say that all of it but the last block has arrived."""
        self.stage.say(self.own, R)
        self.stage.say(self.victim, R)
        self.stage.say(self.own, ack(9))


@pytest.fixture
def stage() -> Iterator[MtftpStage]:
    with MtftpStage({"linux": TEN}, plain=True) as stage:
        yield stage


def asks(stage: MtftpStage) -> tuple[RecordingClient, tuple[str, int], bool]:
    """Let the victim ask plain TFTP.  -> it, who has answered, and whether it is refused."""
    box = RecordingClient(stage.network.host(f"10.0.0.{VICTIM}"))
    box.send(ASKED, TFTP)
    letter = box.expect()
    return box, letter.source, isinstance(parse(letter.datagram), Error)


def refused(stage: MtftpStage) -> bool:
    """Return whether plain TFTP refuses the victim; if not, it leaves at once."""
    box, source, refusal = asks(stage)
    if not refusal:
        box.send(bytes.fromhex("0005000000"), source)
        stage.network.advance(0.005)
    box.port.stopListening()
    return refusal


def test_threeDatagrams(stage: MtftpStage) -> None:
    """Three forged datagrams shut a machine out for ten seconds, counted from the request in its name."""
    Forger(stage).strike()
    began = stage.network.seconds()
    seconds = []
    while stage.network.seconds() < began + 30:
        if refused(stage):
            seconds.append(stage.network.seconds() - began)
        stage.network.advance(0.25)
    assert 9 < seconds[-1] <= 10
    assert len(seconds) > 30


def test_later(stage: MtftpStage) -> None:
    """A machine that comes later than that was never shut out."""
    Forger(stage).strike()
    stage.network.advance(10)
    assert not refused(stage)


@pytest.mark.slow
@pytest.mark.parametrize("pause", slowBut(lambda pause: pause > 1, [0.3, 3.0, 40.0]))
def test_forGood(stage: MtftpStage, pause: float) -> None:
    """Whoever forges on and on shuts a machine out for ten seconds in five minutes, and not longer."""
    forger, seconds = Forger(stage), []
    while stage.network.seconds() < 900:
        forger.strike()
        if refused(stage):
            seconds.append(stage.network.seconds())
        stage.network.advance(pause)
    spans = [[at for at in seconds if begin <= at < begin + Bars.RESPITE] for begin in (0, 300, 600)]
    assert all(span[-1] - span[0] <= Bars.REFUSED for span in spans if span)
    assert 0 < len(seconds) <= 3 * (Bars.REFUSED / pause + 1)


def test_whoAcknowledges(stage: MtftpStage) -> None:
    """A machine in whose name all is acknowledged lacks nothing, and is never shut out."""
    victim = stage.client(VICTIM)
    stage.say(victim, R, *map(ack, range(1, 10)))
    for _ in range(10):
        assert not refused(stage)
        stage.network.advance(0.3)


def test_whoIsServed(stage: MtftpStage) -> None:
    """A machine that is being served by plain TFTP, and acknowledges that, may ask for the file once more."""
    box, source, refusal = asks(stage)
    assert not refusal
    box.send(buildAck(0), source)
    stage.network.advance(0.005)
    Forger(stage).strike()
    assert not refused(stage)
    box.send(bytes.fromhex("0005000000"), source)
    stage.network.advance(0.005)
    assert refused(stage)


def test_whoWasOnlyAnswered(stage: MtftpStage) -> None:
    """An unanswered OACK is no such proof: that request may be forged, too, and an image with a hole is worse."""
    asks(stage)
    Forger(stage).strike()
    assert refused(stage)


def test_aLongPass(stage: MtftpStage) -> None:
    """However long a pass takes, who has listened to it and leaves behind its last block is refused."""
    forger = Forger(stage)
    stage.say(forger.own, R)
    stage.say(forger.victim, R)
    for number in range(1, 10):
        stage.say(forger.own, ack(number), seconds=1.9)
    assert stage.network.seconds() > 15
    assert refused(stage)


def test_handedOver() -> None:
    """What another process takes over is what is left of the ten seconds, and nothing for who has had them."""
    bars = Bars(3)
    for host in ("a", "b", "c"):
        bars.bar(host, "linux", 40.0, "why")
    assert bars.refuse("a", "linux", 1.0) == "why"
    assert bars.refuse("b", "linux", 15.0) == "why"
    assert list(bars.all(20.0)) == [("b", "linux", 25.0, "why"), ("c", "linux", 40.0, "why")]


def test_bounded() -> None:
    """No more is kept than is said, of what is barred and of who was refused."""
    bars = Bars(100)
    for number in range(1000):
        bars.bar(f"host {number}", "linux", 40.0, "why")
        bars.refuse(f"host {number}", "linux", 0.0)
        assert len(bars) <= 100
    assert [host for host, *_ in bars.all(0.0)] == [f"host {number}" for number in range(900, 1000)]
