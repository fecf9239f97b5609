"""
ACKs that say nothing cause no block: a window goes out again only for what was lost, whatever the receiver or the
network does to its ACKs.
"""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from castd.cast.events import Action, RequestBlocks, SendBlocks
from castd.cast.policy import RetransmitPolicy
from castd.cast.rto import LONGEST_RTT, RtoEstimator
from castd.cast.turn import Turn
from castd.cast.window import SendWindow
from castd.options import Limits
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Oack, buildAck, buildError, parse
from castd.receive.blocks import BlockSender
from castd.receive.options import RequestedOptions
from castd.receive.retransmit import RetransmitTimer
from castd.receive.tftp import TftpDownload, TftpUpload
from castd.testing import Network, memorySite, pattern
from castd.testing.recording import RecordingClient
from tests.support.clients.tftp import rrq, say, wrq
from tests.support.clients.windows import Copies, WindowReader
from tests.support.link import Accept, Link, Serve
from tests.support.quick import slowBut
from tests.support.stage import SERVER, TftpStage

#: 3000 blocks of 512 octets, the last one short.
FILE = pattern(3000 * 512 - 100)
#: Seconds from the server to a client.
LATENCY = 0.0005


def read(
    content: bytes, windowsize: int, machines: int = 1, network: Network | None = None, **habits: Any
) -> tuple[float, float, list[WindowReader]]:
    """
    Let machines read a file, each with these habits of a L{WindowReader}.

    @return: octets of blocks sent, as a multiple of the file for each machine; virtual seconds; the machines.
    """
    network = network or Network(1, latency=LATENCY, capture=False)
    with TftpStage({"f": content}, network=network) as stage:
        hosts = [network.host(f"10.0.0.{10 + index}") for index in range(machines)]
        made = [
            WindowReader(
                host,
                SERVER,
                windowsize,
                **{key: value(index) if key == "busy" else value for key, value in habits.items()},
            )
            for index, host in enumerate(hosts)
        ]
        for reader in made:
            reader.begin()
        network.run(lambda: all(reader.done for reader in made), limit=3600, datagrams=1_000_000)
        seconds = network.seconds()
        network.advance(40)
        stage.over()
    assert all(bytes(reader.octets) == content for reader in made)
    octets = sum(event["octets"] for event in stage.told("received"))
    return octets / len(content) / machines, seconds, made


def twice(ordinal: int) -> tuple[float, ...]:
    """Each ACK arrives twice."""
    return 0.0, 0.0


def doubled(number: int, later: float = 0.0) -> Copies:
    """One ACK arrives twice, the second time so many seconds later."""
    return lambda ordinal: (0.0, later) if ordinal == number else (0.0,)


def late(number: int, seconds: float) -> Copies:
    """One ACK is so many seconds late."""
    return lambda ordinal: (seconds if ordinal == number else 0.0,)


def allLateFrom(number: int, seconds: float) -> Copies:
    """From one ACK on, each is so many seconds late."""
    return lambda ordinal: (seconds if ordinal >= number else 0.0,)


def overtaken(ordinal: int) -> tuple[float, ...]:
    """Every fourth ACK comes once more, when the next window has been acknowledged."""
    return (0.0, 3 * LATENCY) if ordinal % 4 == 0 else (0.0,)


FAULTS: dict[str, dict[str, Any]] = {
    "each ACK twice": {"copies": twice},
    "one ACK twice": {"copies": doubled(3)},
    "one ACK twice, half a round trip apart": {"copies": doubled(3, LATENCY)},
    "one ACK twice, one and a half round trips apart": {"copies": doubled(3, 3 * LATENCY)},
    "one ACK twice, 30 ms apart": {"copies": doubled(3, 0.03)},
    "the ACK of the OACK twice": {"copies": doubled(0)},
    "one ACK 30 ms late": {"copies": late(5, 0.03)},
    "one ACK 30 ms late, of a stubborn client": {"copies": late(5, 0.03), "stubborn": True},
    "one ACK 30 ms late, of a slow and stubborn client": {
        "copies": late(5, 0.03),
        "stubborn": True,
        "busy": lambda index: 0.0002,
    },
    "ACKs of windows before the last one": {"copies": overtaken},
    "ACKs that become later than the timer": {"copies": allLateFrom(5, 0.05)},
    "every block acknowledged": {"every": 1},
    "every block acknowledged, slowly": {"every": 1, "busy": lambda index: 0.0003},
    "every block acknowledged, each ACK twice": {"every": 1, "copies": twice},
    "every second block acknowledged": {"every": 2},
    "every third block acknowledged, slowly": {"every": 3, "busy": lambda index: 0.0003},
}
#: The fault that changes how long answers take: the fast path does not measure all of them, so the timer learns later.
LEARNED = {"ACKs that become later than the timer"}
WINDOWS = (2, 4, 8, 32, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "windowsize"),
    slowBut(
        lambda fault, windowsize: windowsize == 32,
        [
            (fault, windowsize)
            for fault in FAULTS
            for windowsize in WINDOWS
            # A client that acknowledges less often than agreed on waits for blocks that nobody sends.
            if FAULTS[fault].get("every", 1) < windowsize
        ],
    ),
)
def test_octets(fault: str, windowsize: int) -> None:
    """A fault of the ACKs costs no more than a twentieth of the file, and no timer's second."""
    allowed = 0.05
    if fault in LEARNED:
        # The timer learns the longer time from one that it awaited: until then it repeats a few windows.
        allowed = max(allowed, 8 * windowsize / 3000)
    if fault == "every third block acknowledged, slowly" and windowsize == 4:
        allowed = 0.3  # the last block of every third window is acknowledged, too: it looks like any other client
    factor, seconds, _ = read(FILE, windowsize, **FAULTS[fault])
    assert factor <= 1 + allowed
    clean = FAULTS[fault] | {"copies": lambda ordinal: (0.0,)}
    delays = 0.06 * len(FILE) / 512 / windowsize if fault in LEARNED else 0.05
    assert seconds <= read(FILE, windowsize, **clean)[1] + delays


@pytest.mark.parametrize(("windowsize", "busy"), [(8, 0.002), (16, 0.001)])
def test_slowWithEqualSteps(windowsize: int, busy: float) -> None:
    """
    A machine acknowledges every second block, and is so slow that no ACK comes too soon to answer the copy before: it
    is known by its equal steps.
    """
    factor, _, _ = read(pattern(200 * 512), windowsize, every=2, busy=lambda index: busy)
    assert factor <= 1.2


@pytest.mark.parametrize("later", [0.001, 0.03])
@pytest.mark.parametrize("windowsize", [4, 16])
def test_aLongRoundTrip(windowsize: int, later: float) -> None:
    """Where an answer takes 0.4 s an ACK that comes twice brings no window but the first one again."""
    network = Network(1, latency=0.2, capture=False)
    factor, _, _ = read(pattern(400 * 512), windowsize, network=network, copies=lambda _: (0.0, later))
    assert factor <= 1 + windowsize / 400


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("windowsize", slowBut(lambda windowsize: windowsize == 16, [4, 16, 64]))
def test_aBusyMachine(windowsize: int, stubborn: bool) -> None:
    """Sixteen clients of which each stalls for 20 to 50 ms now and then: a stall costs a window at the most."""

    def stalling(index: int) -> Callable[[int], float]:
        chance = random.Random(index)
        return lambda handled: 0.02 + 0.03 * chance.random() if chance.random() < 0.002 else 0.00002

    factor, _, _ = read(FILE, windowsize, 16, busy=stalling, stubborn=stubborn)
    stalls = 0.002 * windowsize
    assert factor <= 1 + max(0.05, 1.25 * stalls)


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lossCostsWhatFollowsIt(seed: int, stubborn: bool) -> None:
    """
    8 MiB, windows of 16, 1 % lost each way: sent again is what was lost and what follows it in its window; for a lost
    ACK or a lost last block, of which nothing tells, the window.
    """
    content, chance = pattern(8 << 20), random.Random(seed)
    network = Network(seed, latency=LATENCY, capture=False)
    flights: list[tuple[float, list[bool]]] = []
    windows = 0

    def lose(source: object, destination: object, datagram: bytes) -> bool:
        nonlocal windows
        lost = chance.random() < 0.01
        if datagram[1] == 3:
            if not flights or flights[-1][0] != network.rightNow:
                flights.append((network.rightNow, []))
            flights[-1][1].append(lost)
        elif datagram[1] == 4:
            windows += lost
        return lost

    network.losing(lose)
    factor, seconds, _ = read(content, 16, network=network, blksize=1428, stubborn=stubborn)
    due = sum(len(lost) - lost.index(True) for _, lost in flights if True in lost)
    windows += sum(lost.index(True) == len(lost) - 1 for _, lost in flights if True in lost)
    assert factor <= 1 + (due + 16 * windows) * 1428 / len(content)
    assert factor < 1.16
    assert seconds < 1.5


# One ACK after the other, by hand.


class Talk:
    """
    A client that has agreed on windows of blocks of 8 octets, and sends each ACK by hand.
    """

    def __init__(self, stage: TftpStage, windowsize: int = 4, **more: object) -> None:
        self.stage = stage
        self.client: RecordingClient
        self.client, _, self.tid = stage.ask(rrq(windowsize=windowsize, blksize=8, **more))

    def ack(self, number: int, after: float = 0.0, wait: float = 0.003) -> list[int]:
        """Send an ACK after so many seconds.  -> the numbers of the blocks that come within C{wait} seconds."""
        self.stage.network.advance(after)
        say(self.client, number & 0xFFFF, self.tid)
        self.stage.network.advance(wait)
        return [parse(letter.datagram).number for letter in self.client.take()]


@pytest.fixture
def stage() -> Any:
    """Serves 80 octets; answers take 0.4 ms at least."""
    with TftpStage({"f": pattern(80)}) as made:
        yield made


def test_anAckThatCrossedTheWindow(stage: TftpStage) -> None:
    """A second ACK sooner than any answer can come says nothing; one that comes later brings the window, once."""
    talk = Talk(stage)
    assert talk.ack(0) == [1, 2, 3, 4]
    say(talk.client, 4, talk.tid)
    assert talk.ack(4) == [5, 6, 7, 8]
    assert talk.ack(4) == [5, 6, 7, 8]
    assert talk.ack(4) == []
    assert talk.ack(8) == [9, 10, 11]


def test_theFirstBlockLost(stage: TftpStage) -> None:
    """A client that misses the first block says so as soon as it has the second, and is not left to the timer."""
    talk = Talk(stage)
    assert talk.ack(0) == [1, 2, 3, 4]
    assert talk.ack(4, wait=0.0004) == [5, 6, 7, 8]
    assert talk.ack(4, wait=0.0004) == [5, 6, 7, 8]


def test_aShortLastWindow(stage: TftpStage) -> None:
    """The last window is shorter: it is repeated like any other, and its ACK ends the transfer."""
    talk = Talk(stage)
    for number in (0, 4):
        talk.ack(number)
    assert talk.ack(8) == [9, 10, 11]
    assert talk.ack(8) == [9, 10, 11]
    assert talk.ack(9) == [10, 11]
    assert talk.ack(10) == [11]
    assert talk.ack(10) == []
    assert talk.ack(11) == []
    stage.over()


@pytest.mark.parametrize("options", [{"windowsize": 4}, {}])
def test_blocksThatWaitForTheRate(options: dict[str, int]) -> None:
    """Blocks that the rate of the site holds back go out once, however often they are asked for meanwhile."""

    def made(network: Network) -> Any:
        return memorySite(network, {"f": pattern(200_000)}, limits=Limits(rate=20_000))

    with TftpStage(made=made, options={"blksize": 1400}) as stage:
        other, packet, tid = stage.ask(rrq(blksize=1400, windowsize=64), stage.client(3000))
        assert isinstance(packet, Oack)
        say(other, 0, tid)
        stage.network.advance(0.01)
        client = stage.client(4000)
        request = rrq(**options)
        client.send(request, SERVER)
        stage.network.advance(0.01)
        heard = client.take()
        for _ in range(3):
            if options:
                say(client, 0, heard[0].source)
            else:
                client.send(request, SERVER)
            stage.network.advance(0.015)
        assert client.inbox == []
        stage.network.advance(0.5)
        numbers = [parse(each.datagram).number for each in client.take()]
        assert numbers == list(range(1, 1 + options.get("windowsize", 1)))


@pytest.mark.parametrize("last", [buildError(0, "stop"), buildAck(256)])
def test_nobodyWaitsForTheRest(last: bytes) -> None:
    """Of a window that the rate holds back nothing more goes to a client that has left, or has it all."""
    content = pattern(256 * 512 - 1)
    with TftpStage({"f": content}, options={"windowsize": 256, "rate": 200_000}) as stage:
        client, _, tid = stage.ask(rrq(blksize=512, windowsize=256))
        say(client, 0, tid)
        stage.network.advance(0.1)
        assert 0 < len(client.take()) < 256
        client.send(last, tid)
        stage.quiet(client, 3.0)
        stage.over()


def test_nobodyWaitsForTheRestAfterARestart() -> None:
    """A client that asks anew from its port would take the rest of the window of before for an answer."""
    with TftpStage({"f": FILE}, options={"windowsize": 256, "rate": 200_000}) as stage:
        client, _, tid = stage.ask(rrq(blksize=512, windowsize=256))
        say(client, 0, tid)
        stage.network.advance(0.1)
        assert 0 < len(client.take()) < 256
        client.send(rrq(blksize=1024, windowsize=256), SERVER)
        stage.network.advance(0.5)
        answers = client.take()
        assert answers
        assert {each.source == tid for each in answers} == {False}
        assert {each.datagram[:2] for each in answers} == {b"\0\6"}


def test_lockstepStaysClosed(stage: TftpStage) -> None:
    """With a window of one block a duplicate ACK never brings a block, however late."""
    talk = Talk(stage, 1)
    assert talk.ack(0) == [1]
    assert talk.ack(1) == [2]
    assert talk.ack(1) == []
    assert talk.ack(1, after=0.01) == []
    assert talk.ack(2) == [3]


def test_aGapInsideTwice(stage: TftpStage) -> None:
    """A gap inside a window brings what follows it, once; its second ACK crosses that."""
    talk = Talk(stage)
    talk.ack(0)
    say(talk.client, 2, talk.tid)
    assert talk.ack(2) == [3, 4, 5, 6]
    assert talk.ack(6) == [7, 8, 9, 10]


def test_theAckThatACopyDraws(stage: TftpStage) -> None:
    """
    A client reports a gap that was none, as a block came twice: it acknowledges the end of the first flight when the
    copy arrives, and only what was never sent follows.
    """
    talk = Talk(stage)
    talk.ack(0)
    assert talk.ack(2) == [3, 4, 5, 6]
    assert talk.ack(4) == [7, 8]
    assert talk.ack(8) == [9, 10, 11]


def test_anOldAck(stage: TftpStage) -> None:
    """An ACK of an earlier window, or of a block inside it, brings nothing."""
    talk = Talk(stage)
    for number in (0, 4):
        talk.ack(number)
    assert [talk.ack(number) for number in (0, 1, 3)] == [[], [], []]
    assert talk.ack(8) == [9, 10, 11]


@pytest.mark.parametrize("after", [0.0, 0.4, 0.6, 0.9], ids=lambda after: f"{after} s")
def test_anAckOfEachOack(stage: TftpStage, after: float) -> None:
    """
    A client that was sent the OACK twice acknowledges each, at once if it was busy, or as long after one another as
    the OACKs were sent: the first window goes out once.
    """
    talk = Talk(stage)
    stage.network.advance(1.5)
    assert len(talk.client.take()) == 1
    assert talk.ack(0) == [1, 2, 3, 4]
    assert talk.ack(0, after=after) == []
    assert talk.ack(4) == [5, 6, 7, 8]


def test_anAckOfEachOackAskedForTwice() -> None:
    """The same for a request that was repeated, where an answer takes longer than the client waits."""
    network = Network(1, latency=0.3, capture=False)
    with TftpStage({"f": pattern(80)}, network=network) as stage:
        client = stage.client()
        for _ in range(2):
            client.send(rrq(windowsize=4, blksize=8), SERVER)
            network.advance(0.5)
        network.advance(0.3)
        tid = client.take()[-1].source
        for _ in range(2):
            say(client, 0, tid)
            network.advance(0.5)
        network.advance(0.3)
        assert [parse(letter.datagram).number for letter in client.take()] == [1, 2, 3, 4]


def test_theFirstBlockLostAfterTwoOacks() -> None:
    """The first OACK was lost, and so is the first block: the client says so, and is not left to the timer."""
    with TftpStage({"f": pattern(80)}) as stage:
        request = rrq(windowsize=4, blksize=8)
        client, _, tid = stage.ask(request)
        stage.network.advance(0.15)
        client.send(request, SERVER)
        stage.network.advance(0.0004)
        assert len(client.take()) == 1
        for _ in range(2):
            say(client, 0, tid)
            stage.network.advance(0.0004)
            assert [parse(letter.datagram).number for letter in client.take()] == [1, 2, 3, 4]


def test_acknowledgingEveryBlock(stage: TftpStage) -> None:
    """
    After ACK k and k+1 of one flight each ACK brings the one block that was never sent; then a second ACK of a number
    is a gap.
    """
    talk = Talk(stage)
    talk.ack(0)
    say(talk.client, 1, talk.tid)
    assert talk.ack(2) == [2, 3, 4, 5, 6]
    # Then come its answers to the three blocks that it had already.
    assert [talk.ack(number) for number in (3, 4, 4, 4, 4)] == [[7], [8], [], [], []]
    assert talk.ack(5) == [9]
    say(talk.client, 6, talk.tid)
    assert talk.ack(6) == [10]
    assert talk.ack(6) == [7, 8, 9, 10]
    assert talk.ack(6) == []


@pytest.mark.slow
@pytest.mark.parametrize("rollover", [0, 1])
def test_acrossTheRollover(rollover: int) -> None:
    """Numbers that wrap change nothing: each ACK twice, over the end of 16 bits."""
    content = pattern(65560 * 8 + 3)
    factor, _, _ = read(content, 16, blksize=8, rollover=rollover, copies=twice)
    assert factor == pytest.approx(1.0, abs=0.001)


# The fast path.

A = ("10.0.0.10", 1)
COUNT = 1000


def want(start: int) -> RequestBlocks:
    return RequestBlocks((range(start, min(start + 4, COUNT)),))


def out(turn: Turn, now: float) -> list[Action]:
    actions = []
    while (action := turn.poll(now)) is not None:
        actions.append(action)
    return actions


def windowed() -> Turn:
    """A cast whose one receiver has answered the OACK and a window within a millisecond, and was sent 4 to 7."""
    turn = Turn(RetransmitPolicy(), COUNT)
    turn.join(A, 0.0)
    out(turn, 0.0)
    for start, now in ((0, 0.001), (4, 0.002)):
        turn.hear(A, want(start), now)
        out(turn, now)
    return turn


@pytest.mark.parametrize(
    "later",
    [
        [(0.0002, 32)],
        [(0.0011, 32)],
        [(0.0011, 32), (0.003, 32)],
        [(0.0002, 34), (0.0003, 35), (0.0004, 36)],
        [(0.0011, 33), (0.0014, 34), (0.0015, 34), (0.0016, 35)],
        [(0.0011, 36), (0.0012, 36)],
    ],
)
def test_followedIsHearAndPoll(later: list[tuple[float, int]]) -> None:
    """After any steps of the fast path each ACK means what it would have meant without it."""
    slow, fast = windowed(), windowed()
    assert fast.mayEnterFastPath(8) == 0.002
    for step in range(2, 9):
        slow.hear(A, want(4 * step), 0.001 + step / 1000)
        assert out(slow, 0.001 + step / 1000) == [SendBlocks(range(4 * step, 4 * step + 4), A)]
        fast.answerMeasured(0.001)
    fast.fastPathLeft(range(32, 36), 0.009)
    assert slow.mayEnterFastPath(36) == pytest.approx(fast.mayEnterFastPath(36))
    for after, start in later:
        for turn in (slow, fast):
            turn.hear(A, want(start), 0.009 + after)
        assert out(slow, 0.009 + after) == out(fast, 0.009 + after)
        assert slow.deadline(0.009 + after) == pytest.approx(fast.deadline(0.009 + after))
        assert slow.peerState(A) == fast.peerState(A)


@pytest.mark.parametrize(
    "fault", slowBut(lambda fault: fault.startswith("one ACK 30"), sorted(FAULTS.keys() - LEARNED))
)
def test_theFastPathSendsTheSame(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fast path the very same datagrams go out, at the same instants."""

    def captured() -> list[tuple[float, bytes]]:
        network = Network(1, latency=LATENCY)
        read(FILE[: 512 * 400], 8, network=network, **FAULTS[fault])
        assert network.capture is not None
        return [(round(each.time, 6), each.datagram[:4]) for each in network.capture]

    usual = captured()
    monkeypatch.setattr(Turn, "mayEnterFastPath", lambda self, stop: None)
    assert captured() == usual


@pytest.mark.parametrize("windowsize", [16, 64])
def test_windowsStayOnTheFastPath(windowsize: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cast of a receiver that loses nothing is asked at the beginning and at the end, whatever the window."""
    asked: list[object] = []
    hear = Turn.hear
    monkeypatch.setattr(Turn, "hear", lambda self, *heard: (asked.append(heard), hear(self, *heard)))
    read(FILE, windowsize, blksize=1468)
    assert len(asked) <= 3


def test_whoAcknowledgesOftenTakesNoSteps() -> None:
    """The next ACK of a receiver that acknowledges often is not predicted."""
    turn = windowed()
    for start, now in ((5, 0.003), (6, 0.0031)):
        turn.hear(A, want(start), now)
        out(turn, now)
    assert turn.mayEnterFastPath(turn.highestSent + 1) is None


# What the timer learns.


def test_newBlocksEndABackOff() -> None:
    """The last block of each window is lost, so that each needs the timer: the interval stays what was measured."""
    turn, now, waits = windowed(), 0.002, []
    for start in range(4, 400, 3):
        due = turn.deadline(now)
        assert due is not None
        waits.append(due - now)
        assert [action.again for action in out(turn, due) if isinstance(action, SendBlocks)] == [True]
        now = due + 0.001
        turn.hear(A, want(start + 3), now)  # the first block of the copy shows what it has
        out(turn, now)
    assert max(waits) < 0.05


def test_aLongerRoundTripIsLearned() -> None:
    """Whole windows answered after the repetition may answer either copy: the interval grows until one is awaited."""
    turn, now, repeats = windowed(), 0.002, 0
    for start in range(8, 400, 4):
        while (due := turn.deadline(now)) is not None and due < now + 0.05:
            repeats += len(out(turn, due))
            if repeats > 20:
                break
        now += 0.05
        turn.hear(A, want(start), now)
        out(turn, now)
    assert repeats < 12


def test_theShortestAnswer() -> None:
    """
    The shortest answering time only shrinks; a time that may be the client's own timer is none, unless it is a sample.
    """
    rto = RtoEstimator(RetransmitPolicy().repeat)
    rto.answeredWithin(LONGEST_RTT + 0.1)
    assert rto.shortestRtt == 0
    rto.sample(LONGEST_RTT + 0.2)
    assert rto.shortestRtt == LONGEST_RTT + 0.2
    for seconds in (0.02, 0.003, 0.01, 0.0):
        rto.sample(seconds)
    assert rto.shortestRtt == 0.003


def test_aSampleIsOfWhatWasSentOnce() -> None:
    """A block is measured from its one sending to its ACK; none that was repeated, nor by an ACK that crossed it."""
    window = SendWindow()
    window.sent(range(4), 1.0)
    assert window.measured(4, 1.01, 0.0) == pytest.approx(0.01)
    window.sent(range(4, 8), 2.0)
    window.sentAgain(timer=True)
    window.sent(range(4, 8), 2.1, again=True)
    assert window.measured(8, 2.11, 0.01) is None
    window.sent(range(8, 12), 3.0)
    assert window.advanced(8, 9, 3.01, 0.01) == 9
    window.sent(range(9, 13), 3.01)
    assert window.measured(10, 3.012, 0.01) is None
    assert window.measured(12, 3.03, 0.01) == pytest.approx(0.02)


# Uploads and the client's halves.


def gaps(instants: list[float]) -> list[float]:
    return [round(after - before, 4) for before, after in pairwise(instants)]


def test_anUploadThatLosesEachTail() -> None:
    """Window 4, three blocks of four arrive each time: the ACKs come at one pace, and not ever later."""
    with TftpStage({}, uploads=True) as stage:
        client, _, tid = stage.ask(wrq(windowsize=4, blksize=8))
        acked, instants = 0, []
        for _ in range(20):
            for number in range(acked + 1, acked + 4):
                client.send(b"\0\3" + number.to_bytes(2, "big") + bytes(8), tid)
            letter = client.expect(1.5)
            acked += 3
            assert letter.datagram == buildAck(acked)
            instants.append(letter.time)
        assert max(gaps(instants)) < 0.05


def test_anUploadWhoseClientIsSlow() -> None:
    """ACKs that were repeated give no sample, so the interval grows to a round trip of 0.3 s: Karn's rule stands."""
    with TftpStage({}, uploads=True) as stage:
        client, _, tid = stage.ask(wrq(windowsize=2, blksize=8))
        received = 0
        for start in range(1, 41, 2):
            stage.network.advance(0.001 if start < 9 else 0.3)
            received += len(client.take())
            for number in (start, start + 1):
                client.send(b"\0\3" + number.to_bytes(2, "big") + bytes(8), tid)
        assert received < 30


def test_aDownloadThatLosesEachTail() -> None:
    """As for uploads: the last block of each window is lost, and the client's ACKs come at one pace."""
    content = pattern(16 * 500)

    def lost(sender: int, datagram: bytes, ordinal: int) -> bool:
        return bool(sender == 1 and datagram[1] == 3 and len(datagram) == 20 and fresh(datagram))

    seen: set[bytes] = set()

    def fresh(datagram: bytes) -> bool:
        """Whether this is the last block of a window, for the first time."""
        first = datagram[:4] not in seen
        seen.add(datagram[:4])
        return first and (int.from_bytes(datagram[2:4], "big") % 4 == 0)

    client = TftpDownload("f", RequestedOptions(blksize=16, windowsize=4))
    link = Link(client, Serve(content), lost=lost).run(60.0)
    assert link.kept[0] == content
    assert link.now - 100 < 15


def test_puttingThatLosesEachTail() -> None:
    """As for uploads and downloads: the last block of each window is lost, and a client's blocks come at one pace."""
    content, seen = pattern(16 * 200), set[bytes]()

    def lost(sender: int, datagram: bytes, ordinal: int) -> bool:
        first = datagram[:2] == b"\0\3" and datagram[3] % 4 == 0 and datagram[:4] not in seen
        seen.add(datagram[:4])
        return first

    client = TftpUpload(
        "up", len(content), lambda start, length: content[start : start + length], RequestedOptions(16, 4)
    )
    link = Link(client, Accept(), lost=lost).run(60.0)
    assert link.kept[1] == content
    assert link.now - 100 < 15


@pytest.mark.parametrize("windowsize", [2, 8, 64])
def test_puttingWithEachAckTwice(windowsize: int) -> None:
    """A client's upload is no apprentice either: whatever arrives twice, no block is sent twice for it."""
    content = pattern(64 * 1000)
    client = TftpUpload(
        "up", len(content), lambda start, length: content[start : start + length], RequestedOptions(64, windowsize)
    )
    link = Link(client, Accept(), doubles=1.0).run()
    assert link.kept[1] == content
    blocks = sum(1 for sender, datagram in link.sent if sender == 0 and datagram[1] == 3)
    assert blocks < 1.1 * 1001 + windowsize


def test_puttingToAServerThatAcknowledgesEveryBlock() -> None:
    """ACK 1, 2, 3, ... of one flight move the window on, each by a block."""
    content = pattern(8 * 400)
    sender = BlockSender(AgreedOptions(8, 64), len(content), lambda start, length: content[start : start + length])
    timer = RetransmitTimer(RetransmitPolicy())
    timer.start(0.0)
    timer.answered(0.001, 0.001)
    sent = len(sender.window(0.001))
    for number in range(1, 402):
        sent += len(sender.acknowledged(number, 0.002 + number / 1e5, timer))
    assert sender.done
    assert sent <= 401 + 63


# What a socket holds.


def test_aWindowThatTheSocketHolds() -> None:
    """A window that fits the receive buffer is granted as it was asked for, and nothing is logged."""
    with TftpStage({}, uploads=True) as stage:
        stage.network.host(SERVER[0]).buffer = 64 * 2048
        _, packet, _ = stage.ask(wrq(blksize=1024, windowsize=64))
        assert dict(packet.options) == {"blksize": "1024", "windowsize": "64"}
        assert stage.told("window-reduced") == []


@pytest.mark.parametrize(("buffer", "granted"), [(50_000, 46), (1000, 1)])
def test_aWindowThatTheSocketDoesNotHold(buffer: int, granted: int) -> None:
    """
    Of a larger window what fits is granted (RFC 7440, section 3), a block at the least; the log has the cure, and a
    repeated request gets the same answer.
    """
    with TftpStage({}, uploads=True) as stage:
        stage.network.host(SERVER[0]).buffer = buffer
        client, packet, tid = stage.ask(wrq(blksize=1024, windowsize=64))
        answer = {"blksize": "1024", "windowsize": str(granted)}
        assert dict(packet.options) == answer
        assert dict(stage.ask(wrq(blksize=1024, windowsize=64), client)[1].options) == answer
        (event,) = stage.told("window-reduced")
        assert (event["granted"], event["asked"]) == (granted, 64)
        assert "net.core.rmem_max=131072" in event["cure"]
        for number in range(1, granted + 1):
            client.send(b"\0\3" + number.to_bytes(2, "big") + bytes(1024), tid)
        assert client.expect(0.01).datagram == buildAck(granted)


def test_noCureWhereThereIsNone() -> None:
    """A window beyond the largest buffer that castd asks for fits no socket, whatever the system allows."""
    with TftpStage({}, uploads=True, options={"blksize": 65464, "windowsize": 4096}) as stage:
        stage.network.host(SERVER[0]).buffer = 8 << 20
        stage.ask(wrq(blksize=65464, windowsize=4096))
        (event,) = stage.told("window-reduced")
        assert event["cure"] == ""
