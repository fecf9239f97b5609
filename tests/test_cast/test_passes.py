"""
The cast of MTFTP, whatever its clients do: one master, blocks that exist, no silence, and an end.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from castd import outcomes
from castd.cast.events import Action, Announce, Bar, Leave, Left, RequestBlocks, SendBlocks
from castd.dialects.mtftp_cast import MOST_REMEMBERED, POLICY, MtftpCast
from castd.interfaces import ICast
from castd.request import Peer

COUNT = 6
PEERS: list[Peer] = [(f"10.0.0.{host}", port) for host in (2, 3, 4) for port in (1, 2)]

SAYS = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(PEERS)),
    st.tuples(st.just("ack"), st.sampled_from(PEERS), st.integers(0, COUNT)),
    st.tuples(st.just("error"), st.sampled_from(PEERS)),
    st.tuples(st.just("wait"), st.sampled_from((0.001, 0.05, 0.1, 0.3, 1.0, 3.0))),
)


class Play:
    """
    A cast and time.

    @ivar log: (instant, action) of all that came out.
    """

    def __init__(self, remember: float = 30.0) -> None:
        self.cast = MtftpCast(POLICY, COUNT, remember)
        self.now = 0.0
        self.log: list[tuple[float, Action]] = []
        self.here: set[Peer] = set()

    def poll(self) -> None:
        polls = 0
        while (action := self.cast.poll(self.now)) is not None:
            polls += 1
            assert polls < 3 * MOST_REMEMBERED, "it never comes to rest"
            self.log.append((self.now, action))
            if isinstance(action, Left):
                self.here.remove(action.peer)

    def wait(self, seconds: float) -> None:
        """Ring whenever it wants to be rung."""
        end = self.now + seconds
        while (due := self.cast.deadline(self.now)) is not None and due <= end:
            assert due > self.now, "it wants to be rung at once, and had nothing to do"
            self.now = due
            self.poll()
        self.now = end

    def say(self, word: tuple[object, ...]) -> None:
        peer = word[1]
        if isinstance(peer, float):
            self.wait(peer)
            return
        assert isinstance(peer, tuple)
        if word[0] == "join":
            self.cast.join(peer, self.now, (range(1),))
            self.here.add(peer)
        elif word[0] == "error":
            self.cast.hear(peer, Leave(outcomes.ABORTED), self.now)
        elif (peerState := self.cast.peerState(peer)) is not None and peerState.turn:
            number = word[2]
            assert isinstance(number, int)
            done = Leave(outcomes.DONE) if number == COUNT else RequestBlocks((range(number, number + 1),))
            self.cast.hear(peer, done, self.now)
        self.poll()


def test_whoAcknowledges() -> None:
    """A client that has acknowledged all blocks but the last one lacks none, and is not barred, however it asked."""
    cast, client = MtftpCast(POLICY, 2), PEERS[0]

    def bars(now: float) -> list[float]:
        actions = iter(lambda: cast.poll(now), None)
        return [action.seconds for action in actions if isinstance(action, Bar)]

    cast.join(client, 0.0, (range(1),))
    assert bars(0.0) == [0.0]
    cast.join(client, 0.3, (range(1),))
    assert bars(0.3) == [0.0]
    cast.hear(client, RequestBlocks((range(1, 2),)), 0.32)
    assert bars(0.32) == []
    cast.hear(client, Leave(outcomes.SILENT), 0.4)
    assert bars(0.4) == []


@pytest.mark.parametrize(
    ("joins", "stays", "outcome", "barred"),
    [
        (0.0, False, outcomes.UNCONFIRMED, 9.6),
        (0.1, False, outcomes.SILENT, 9.7),
        (0.0, True, outcomes.UNCONFIRMED, 39.6),
    ],
    ids=["whole pass", "part of it", "others stay"],
)
def test_aListenerLeaves(joins: float, stays: bool, outcome: str, barred: float) -> None:
    """
    A listener that falls silent has everything, as far as anybody can tell, if it has asked before the first block.  It
    is barred until 10 s after its request; and as long as members are remembered, if the group goes on for others.
    """
    cast, (master, listener, other) = MtftpCast(POLICY, 3), PEERS[::2]
    for peer in (master, other):
        cast.join(peer, 0.0, (range(1),))
    for number, now in enumerate((0.0, 0.1, 0.2)):
        if now == joins:
            cast.join(listener, joins, (range(1),))
        list(iter(partial(cast.poll, now), None))
        cast.hear(master, Leave(outcomes.DONE) if number == 2 else RequestBlocks((range(number + 1, number + 2),)), now)
    if not stays:
        cast.hear(other, Leave(outcomes.ABORTED), 0.35)
    list(iter(partial(cast.poll, 0.35), None))
    cast.hear(listener, Leave(outcomes.SILENT), 0.4)
    told = list(iter(partial(cast.poll, 0.4), None))
    assert [each.outcome for each in told if isinstance(each, Left) and each.peer == listener] == [outcome]
    assert [each.seconds for each in told if isinstance(each, Bar)] == [pytest.approx(barred)]


def test_aRequestExpires() -> None:
    """A remembered client is given up when nobody has made progress for so long, and not before."""
    play = Play(remember=1.0)
    master, listener = PEERS[::2][:2]
    for word in (("join", master), ("ack", master, 1), ("join", listener), ("wait", 0.5), ("ack", master, 2)):
        play.say(word)
    play.say(("wait", 0.99))
    assert play.here == {master, listener}
    play.say(("wait", 0.1))
    assert play.here == {master}


def test_passesIsACast() -> None:
    """Passes provides ICast."""
    assert verifyObject(ICast, MtftpCast(POLICY, COUNT))


@settings(deadline=None)
@given(st.lists(SAYS, max_size=60))
def test_anything(words: list[tuple[object, ...]]) -> None:
    """
    Whatever is said, in whatever order.

    Members are those who joined and are not gone, one for each address; one of them at most has the turn; every block
    is one of the file; the first one goes to the master alone right before it goes to the group, or before a repetition
    of one beyond the second; and when all fall silent it ends.
    """
    play = Play()
    for word in words:
        play.say(word)
        assert play.cast.memberCount() == len(play.here)
        assert len({peer[0] for peer in play.here}) == len(play.here)
        turns = [peer for peer in play.here if (peerState := play.cast.peerState(peer)) and peerState.turn]
        assert len(turns) == bool(play.here)
    play.wait(200.0)
    assert play.cast.memberCount() == 0
    assert play.cast.deadline(play.now) is None
    served = [(at, action) for at, action in play.log if isinstance(action, Announce | SendBlocks)]
    for (_, first), (_, then) in pairwise([*served, (0.0, None)]):
        if isinstance(first, Announce):
            assert isinstance(then, SendBlocks)
            assert (first.master, first.peer) == (True, then.peer)
            assert then.numbers.start == 0 or (then.again and then.numbers.start > 1)
    for _, action in served:
        if isinstance(action, SendBlocks):
            assert 0 <= action.numbers.start < action.numbers.stop <= COUNT
            assert len(action.numbers) <= 2


@settings(deadline=None)
@given(st.lists(SAYS, max_size=60))
def test_neverSilent(words: list[tuple[object, ...]]) -> None:
    """From one moment to the next, as long as anybody is here, a block goes out within 0.2 s."""
    play = Play()
    last = 0.0
    for word in [*words, ("wait", 100.0)]:
        before, empty = len(play.log), not play.here
        began = play.now
        play.say(word)
        if empty and play.here:
            last = began
        for at, action in play.log[before:]:
            if isinstance(action, SendBlocks):
                assert at - last <= 0.2 + 1e-9
                last = at
        if not play.here:
            last = play.now


def silent(port: int, others: int) -> list[tuple[float, Action]]:
    """Return what is sent in 1.9 s to a master that was heard and is silent, while so many others wait."""
    play = Play()
    play.cast = MtftpCast(POLICY, COUNT, clientPort=3001)
    master = ("10.0.0.2", port)
    for peer in [master, *PEERS[3 : 3 + others]]:
        play.say(("join", peer))
    for number in (1, 2):
        play.say(("ack", master, number))
    play.log.clear()
    play.wait(1.9)
    return play.log


@pytest.mark.parametrize(
    ("port", "others", "longest"), [(1, 1, 0.08), (1, 0, 0.2), (3001, 1, 0.2)], ids=["others wait", "alone", "EFI"]
)
def test_whileOthersWait(port: int, others: int, longest: float) -> None:
    """
    Who waits for a master that is silent hears a block at least every 80 ms, as one datagram may be lost, or two; not
    if the master is EFI's client, which counts the copies.  The master is reminded no more often for that.
    """
    log = silent(port, others)
    instants = [0.0, *(at for at, action in log if isinstance(action, SendBlocks))]
    assert max(later - at for at, later in pairwise(instants)) == pytest.approx(longest)
    reminders = [at for at, action in log if isinstance(action, Announce)]
    assert reminders == [at for at, action in silent(port, 0) if isinstance(action, Announce)]


@settings(deadline=None)
@given(st.lists(SAYS, max_size=60))
def test_warnings(words: list[tuple[object, ...]]) -> None:
    """Nobody is warned of before the last block has gone out, and who says that it is done never is afterwards."""
    play = Play()
    for word in words:
        play.say(word)
    passed = False
    warned: dict[Peer, float] = {}
    for _, action in play.log:
        if isinstance(action, SendBlocks):
            passed = passed or action.numbers.stop == COUNT
        elif isinstance(action, Bar):
            # A warning goes before the block that it is about.
            warned[action.peer] = action.seconds
        elif isinstance(action, Left) and action.outcome == outcomes.DONE:
            assert warned.get(action.peer, 0.0) == 0.0
    assert passed or not any(warned.values())
