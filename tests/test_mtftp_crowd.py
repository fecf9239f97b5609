"""
However many requests are forged at MTFTP in the names of neighbours, who answers gets the group, and keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castd import outcomes
from castd.cast.events import Action, Announce, Leave, Left, RequestBlocks, SendBlocks
from castd.dialects import mtftp_cast
from castd.dialects.mtftp_cast import CROWD, CROWD_COPIES, MOST_REMEMBERED, POLICY, PROMOTED_REPEATS, MtftpCast
from castd.request import Peer
from castd.testing import RecordingClient, pattern
from tests.support.clients.mtftp import GROUP, SERVER, Client, Efi, Ipxe, R, ack, block
from tests.support.hostile import Wilds
from tests.support.quick import slowBut
from tests.support.stage import MtftpStage

DATA = pattern(20_000)
BLOCKS = 40
#: Copies of block 1 that one forged request draws to its address at the most (docs/security.md).
MOST_COPIES = 6


class Flood:
    """Requests in the names of neighbours, so many a second, each of another machine; C{times} each."""

    def __init__(self, stage: MtftpStage, rate: int, times: int = 1) -> None:
        self._stage, self._every, self._times = stage, 0.01, times
        self._each = round(rate * self._every)
        self._number = 0
        self._ask()

    def _ask(self) -> None:
        network: Any = self._stage.network
        for _ in range(self._each):
            name = self._number // self._times
            # So that a name comes again after a second, if it does.
            network.forge(R, (f"10.0.{1 + name // 250 % 250}.{1 + name % 250}", 2000), SERVER)
            self._number += 1
        self._stage.network.callLater(self._every, self._ask)


@pytest.fixture
def stage() -> Iterator[MtftpStage]:
    network = Wilds(1, 0.0)
    network.capture = []
    with MtftpStage({"linux": DATA}, network=network, gather=0.1, gatherLimit=0.15) as stage:
        yield stage


class Patient(Client):
    """A client that asks once a second until it is answered, and then does what it is told."""

    kind = "patient"

    def begin(self) -> None:
        self.box = RecordingClient(self.host, 2000)
        self.box.datagramReceived = self.hear  # type: ignore[method-assign]
        self.ear = RecordingClient(self.host, GROUP[1])
        self.ear.port.joinGroup(GROUP[0])
        self.ear.datagramReceived = self.hear  # type: ignore[method-assign]
        self.ask()

    def ask(self) -> None:
        self.box.send(self.request(), self.server)
        self.after(1.0, self.ask)

    def hear(self, datagram: bytes, addr: Peer) -> None:
        number = int.from_bytes(datagram[2:4], "big")
        self.blocks[number] = datagram[4:]
        if len(datagram) < 516:
            self.last = number
        self.box.send(ack(self.gap), self.server)
        if self.whole:
            self.end()
        else:
            self.after(1.0, self.ask)

    def close(self) -> None:
        self.box.port.stopListening()
        self.ear.port.stopListening()


def machine(stage: MtftpStage, kind: type[Client]) -> Any:
    return kind(stage.network.host("10.0.0.9/16"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "limit", "rate"),
    slowBut(
        lambda _kind, _limit, rate: rate < 1000,
        [(Ipxe, 2.0, 500), (Ipxe, 2.0, 2500), (Patient, 3.0, 500), (Efi, 5.0, 500)],
    ),
)
def test_whoAnswers(stage: MtftpStage, kind: type[Client], limit: float, rate: int) -> None:
    """A client that answers has all of its file soon, however many names are forged: its second request is enough."""
    Flood(stage, rate)
    stage.network.advance(1)
    client = machine(stage, kind)
    began = stage.network.seconds()
    client.begin()
    stage.network.run(lambda: client.over, limit=30)
    assert (client.done, client.octets) == (True, DATA)
    assert client.asked == 2
    assert stage.network.seconds() - began < limit


@pytest.mark.slow
def test_whoComesAfterAPass(stage: MtftpStage) -> None:
    """An iPXE that comes when a pass is just over hears nothing of those who are asked then, and is served."""
    Flood(stage, 2500)
    stage.network.advance(1)
    before, client = Patient(stage.network.host("10.0.0.8/16")), machine(stage, Ipxe)
    before.begin()
    stage.network.run(lambda: before.over, limit=30)
    stage.network.advance(0.05)
    client.begin()
    stage.network.run(lambda: client.over, limit=30)
    assert (before.done, client.done, client.octets) == (True, True, DATA)


@pytest.mark.slow
def test_whoHasTheGroupKeepsIt(stage: MtftpStage) -> None:
    """A master that has answered and is slow is not replaced by names that only ask, before others would have been."""
    client, listener = stage.client(9), stage.client(10, GROUP[1])
    listener.port.joinGroup(GROUP[0])
    stage.say(client, R, seconds=0.2)
    stage.say(client, ack(1))
    Flood(stage, 500)
    for number in range(2, 8):
        stage.network.advance(1.5)
        assert (GROUP, block(number + 1, DATA)) in stage.say(client, ack(number))


@pytest.mark.slow
def test_littleIsDrawn(stage: MtftpStage) -> None:
    """A name that is forged in a flood draws no more than alone, and the whole flood a bounded rate."""
    Flood(stage, 500, times=2)
    stage.network.advance(6)
    sent = [each for each in stage.sightings() if each.source == SERVER]
    names = Counter(each.destination[0] for each in sent if each.destination != GROUP)
    assert 0 < max(names.values()) <= MOST_COPIES
    assert len(sent) <= 2 * 6 / mtftp_cast.MIN_RTO + 20


class Play:
    """
    A cast and time, and a crowd that has asked.

    @ivar log: what came out.
    """

    def __init__(self, count: int = CROWD + 4) -> None:
        self.cast, self.now = MtftpCast(POLICY, BLOCKS), 0.0
        self.log: list[Action] = []
        self.crowd = [self.peer(number) for number in range(count)]
        for each in self.crowd:
            self.join(each)

    @staticmethod
    def peer(number: int) -> Peer:
        return f"10.0.{number >> 8}.{number & 255}", 2000

    def join(self, peer: Peer) -> None:
        self.cast.join(peer, self.now, (range(1),))
        self.poll()

    def poll(self) -> None:
        while (action := self.cast.poll(self.now)) is not None:
            self.log.append(action)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.cast.deadline(self.now)) is not None and due <= end:
            assert due > self.now
            self.now = due
            self.poll()
        self.now = end

    def says(self, peer: Peer, number: int) -> None:
        """Let a client acknowledge: the wire passes it on only if the client has the turn."""
        state = self.cast.peerState(peer)
        if state is not None and state.turn:
            self.cast.hear(peer, RequestBlocks((range(number, number + 1),)), self.now)
        self.poll()

    @property
    def master(self) -> Peer:
        assert self.cast.master is not None
        return self.cast.master.peer


def test_turnsAreShort() -> None:
    """In a crowd nobody who has not answered has the turn for longer than a moment, and each has two."""
    play = Play()
    play.wait(0.1)
    first, turns = play.master, []
    for _ in range(2 * len(play.crowd)):
        play.wait(mtftp_cast.MIN_RTO)
        turns.append(play.master)
    assert turns[0] != first
    assert set(turns[: len(play.crowd)]) == set(play.crowd)


def test_aLateAnswer() -> None:
    """Who answers when its turn is over has it again, if nobody else has answered, and the pass goes on from there."""
    play = Play()
    play.wait(0.2)
    late = play.master
    play.wait(2.5 * mtftp_cast.MIN_RTO)
    assert play.master != late
    play.log.clear()
    play.says(late, 1)
    assert play.master == late
    assert [each.numbers for each in play.log if isinstance(each, SendBlocks)] == [range(2)]
    other = next(peer for peer in play.crowd if peer != late)
    play.says(other, 1)
    assert play.master == late


def test_whoAsksAgainIsNext() -> None:
    """Whoever asks a second time goes before all who have asked once, also if the first request was not kept."""
    play = Play(MOST_REMEMBERED + 40)
    play.wait(0.2)
    here = play.crowd[100]
    gone = play.crowd[-1]
    assert play.cast.peerState(here) is not None
    assert play.cast.peerState(gone) is None
    for peer in (here, gone):
        play.join(peer)
        play.wait(mtftp_cast.MIN_RTO)
        assert play.master == peer


@pytest.mark.parametrize("turnedAwayBefore", [False, True], ids=("once", "again"))
def test_aMachineRestartsWhereThereIsNoRoom(turnedAwayBefore: bool) -> None:
    """A machine that asks from another port has the place of its former request, also if one more would be too many."""
    play = Play(MOST_REMEMBERED)
    master, former, latter = play.master, ("10.0.9.9", 2000), ("10.0.9.9", 2001)
    play.wait(0.2)
    play.says(master, 1)
    if turnedAwayBefore:
        play.cast.turnAway(latter, play.now)
    play.join(former)
    play.wait(0.3)
    # All others have asked twice, so the former request would be the one that is forgotten.
    for peer in play.crowd:
        if peer != master:
            play.join(peer)
    assert play.cast.memberCount() == MOST_REMEMBERED + 1
    assert not play.cast.isFull(latter, play.now)
    play.log.clear()
    play.join(latter)
    assert [each for each in play.log if isinstance(each, Left)] == [Left(former, outcomes.REPLACED)]
    assert play.cast.peerState(latter) is not None


def test_theGroupHearsNothing() -> None:
    """Nothing goes to the group for those who only ask, so who has just come hears nothing, and asks a second time."""
    play = Play()
    play.wait(0.1)
    play.log.clear()
    play.wait(0.3)
    assert {type(each) for each in play.log} == {Announce}


def afterAPass() -> Play:
    """Return a crowd that waits at the end of a pass: its master has the file, and is gone."""
    play = Play()
    play.says(play.master, 1)
    return play


def leaves(play: Play) -> None:
    """Let the master have the file."""
    play.log.clear()
    play.cast.hear(play.master, Leave(outcomes.DONE), play.now)
    play.poll()


def test_whoListenedIsAskedAtOnce() -> None:
    """
    When a pass is over all who were there are asked alone, so soon that no iPXE among them leaves; the group hears
    nothing meanwhile, so who has just come asks a second time.
    """
    play = afterAPass()
    waiting = [each.peer for each in play.cast.members if each.peer != play.master]
    leaves(play)
    assert len(play.log) < 4  # the end of the master, and one question
    play.wait(8 * mtftp_cast.HANDFUL)
    assert Counter(each.peer for each in play.log if isinstance(each, Announce)) == Counter(waiting)
    assert not any(isinstance(each, SendBlocks) for each in play.log)
    assert 8 * mtftp_cast.HANDFUL < mtftp_cast.CROWD_STAYS


def test_oneOfThemAnswers() -> None:
    """Of those who are asked the first who answers has the turn, and goes on from what it lacks."""
    play = afterAPass()
    first, second = play.crowd[40], play.crowd[50]
    leaves(play)
    play.wait(8 * mtftp_cast.HANDFUL)
    play.log.clear()
    play.says(first, 7)
    play.says(second, 3)
    assert play.master == first
    assert [each.numbers for each in play.log if isinstance(each, SendBlocks)] == [range(7, 8)]


def test_whoListenedIsNotLeftInSilence() -> None:
    """While others go before those who were there in a pass, the group is never silent so long that an iPXE leaves."""
    play = afterAPass()
    play.wait(0.3)
    for peer in play.crowd[60:100]:
        play.join(peer)
    silent, longest, steps = 0.0, 0.0, 0
    while any(not each.copies and not each.askedAt for each in play.cast.members if each is not play.cast.master):
        before = len(play.log)
        play.wait(0.01)
        sent = any(isinstance(each, SendBlocks) for each in play.log[before:])
        silent, steps = 0.0 if sent else silent + 0.01, steps + 1
        longest = max(longest, silent)
    assert steps > 200
    assert longest < 0.21


def test_theClientThatNeedsBoth() -> None:
    """EFI's client, which asks from the port of the group, is sent both copies of block 1 when it asks again."""
    play = Play()
    play.cast = MtftpCast(POLICY, BLOCKS, clientPort=2000)
    for each in play.crowd:
        play.join(each)
    play.wait(0.3)
    play.log.clear()
    play.join(play.crowd[90])
    play.wait(mtftp_cast.MIN_RTO)
    asked = [each.peer for each in play.log if isinstance(each, Announce)]
    assert asked[0] == play.crowd[90] or asked[1] == play.crowd[90]
    assert [(each.peer, each.numbers) for each in play.log if isinstance(each, SendBlocks)] == [
        (play.crowd[90], range(1))
    ]


def test_notForAFew() -> None:
    """Few who wait are no crowd: each is waited for as long as ever."""
    play = Play(CROWD)
    play.wait(0.2)
    first = play.master
    play.wait(0.3)
    assert play.master == first


WORDS = st.one_of(
    st.tuples(st.just("join"), st.integers(0, 3 * CROWD)),
    st.tuples(st.just("restart"), st.integers(0, 3 * CROWD)),
    st.tuples(st.just("ack"), st.integers(0, 3 * CROWD), st.integers(0, BLOCKS - 1)),
    st.tuples(st.just("done"), st.integers(0, 3 * CROWD)),
    st.tuples(st.just("wait"), st.sampled_from((0.001, 0.03, 0.3, 3.0))),
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(WORDS, max_size=80))
def test_anything(words: list[tuple[Any, ...]]) -> None:
    """Whatever is said in a crowd: nobody is sent more copies for a request than alone, and all of it ends."""
    play = Play(2 * CROWD)
    asked = Counter(play.crowd)
    for word in words:
        peer = play.peer(word[1]) if word[0] != "wait" else play.master if play.cast.master else play.crowd[0]
        match word[0]:
            case "join":
                asked[peer] += 1
                play.join(peer)
            case "restart":
                asked[peer[0], 2001] += 1
                play.join((peer[0], 2001))
            case "ack":
                play.says(peer, word[2])
            case "done" if (state := play.cast.peerState(peer)) is not None and state.turn:
                play.cast.hear(peer, Leave(outcomes.DONE), play.now)
                play.poll()
            case "wait":
                play.wait(word[1])
        heard = {each.peer for each in play.cast.members if each.heard}
        assert len([each for each in heard if each == play.master]) <= 1
    play.wait(200.0)
    assert play.cast.memberCount() == 0
    answered = {play.peer(word[1]) for word in words if word[0] == "ack"}
    copies = Counter(each.peer for each in play.log if isinstance(each, Announce))
    assert all(copies[peer] <= MOST_COPIES * asked[peer] for peer in copies if peer not in answered)
    assert sum(isinstance(each, Left) for each in play.log) >= len(play.crowd)


def test_constants() -> None:
    """A crowd is smaller than what is remembered, and in it nobody has more copies than elsewhere."""
    assert CROWD < MOST_REMEMBERED
    assert CROWD_COPIES <= PROMOTED_REPEATS + 1
