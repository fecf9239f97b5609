"""
The map of a group: what each member has said, what was sent since, and nothing that a server cannot know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from castd.cast import blockset
from castd.cast.blockmap import GroupMap, Holding, cells
from castd.cast.blockset import RunLog, merged
from castd.cast.events import Announce, Ranges, RequestBlocks, SendBlocks
from castd.cast.policy import FixedTimeouts, RetransmitPolicy
from castd.cast.sweep import Sweep
from castd.cast.turn import Turn
from castd.interfaces import IMappedCast
from castd.request import Peer

A, B = ("10.0.0.10", 1), ("10.0.0.11", 1)
POLICY = RetransmitPolicy(repeat=FixedTimeouts((1.0,)), progressTimeout=5.0, maxRepeatsUnheard=None, maxFailedTurns=3)


def drawn(cast: Turn | Sweep, peer: Peer, width: int = 10) -> str:
    """Return the map of a member."""
    assert cast.sentRuns is not None
    assert cast.count is not None
    group = GroupMap(cast.sentRuns, cast.count, width)
    for _ in group.measure():
        pass
    holding = cast.holding(peer)
    assert holding is not None
    return group.draw(holding)


def drain(cast: Turn | Sweep, now: float) -> list[object]:
    """Return all that is due now."""
    return list(iter(lambda: cast.poll(now), None))


def turn(count: int = 10) -> Turn:
    """Return the cast of a group whose blocks are recorded."""
    made = Turn(POLICY, count)
    made.recordSent()
    return made


def asked(cast: Turn, peer: Peer, blocks: Iterable[int], now: float = 0.0) -> None:
    """Have a member ask for one block after the other, and have them sent."""
    for block in blocks:
        cast.hear(peer, RequestBlocks((range(block, block + 1),)), now)
        drain(cast, now)


@pytest.mark.parametrize("cast", [turn(), Sweep(POLICY, 10)], ids=("turn", "sweep"))
def test_promised(cast: object) -> None:
    """Both casts tell which blocks their members have."""
    assert verifyObject(IMappedCast, cast)


def test_turns() -> None:
    """
    A master has what comes before the block that it asks for; a listener may have what was sent since it joined; and
    what is sent again for the next master, the others may have, too.
    """
    cast = turn()
    cast.join(A, 0.0)
    drain(cast, 0.0)
    assert drawn(cast, A) == ".........."
    asked(cast, A, range(4))
    cast.join(B, 0.0)
    drain(cast, 0.0)
    assert (drawn(cast, A), drawn(cast, B)) == ("###+......", "..........")
    asked(cast, A, range(4, 10))
    assert (drawn(cast, A), drawn(cast, B)) == ("#########+", "....++++++")
    cast.passTurn(0.0)
    drain(cast, 0.0)
    # Neither has said more; B comes last in the order and has had no turn.
    if cast.master is not None and cast.master.peer == A:
        cast.passTurn(0.0)
        drain(cast, 0.0)
    cast.giveTurn(next(each for each in cast.members if each.peer == B), 0.0)
    drain(cast, 0.0)
    asked(cast, B, range(2))
    assert drawn(cast, B) == "#+..++++++"
    assert drawn(cast, A) == "#########+"


def test_again() -> None:
    """A machine that has restarted has nothing, and may have only what is sent from then on."""
    cast = turn()
    cast.join(A, 0.0)
    drain(cast, 0.0)
    asked(cast, A, range(6))
    cast.join(B, 0.0)
    cast.join(B, 0.0)
    drain(cast, 0.0)
    asked(cast, A, range(6, 8))
    assert drawn(cast, B) == "......++.."
    cast.join(B, 0.0)
    asked(cast, A, range(8, 9))
    assert drawn(cast, B) == "........+."


def test_keepAlive() -> None:
    """A block that is sent only to show that the group is alive, one who has come since may have as well."""
    cast = Turn(replace(POLICY, repeat=FixedTimeouts((4.0,)), keepAliveInterval=1.0), 10)
    cast.recordSent()
    cast.join(A, 0.0)
    drain(cast, 0.0)
    asked(cast, A, range(3))
    cast.join(B, 0.5)
    drain(cast, 0.5)
    assert drain(cast, 1.0) == [SendBlocks(range(2, 3), A, again=True)]
    assert drawn(cast, B) == "..+......."


def test_notRecorded() -> None:
    """A transfer by unicast records nothing, since nobody draws a map of it."""
    cast = Turn(POLICY, 10)
    cast.join(A, 0.0)
    drain(cast, 0.0)
    asked(cast, A, range(3))
    assert cast.sentRuns is None


def lists(cast: Sweep, peer: Peer, runs: Ranges, now: float) -> None:
    """Have a receiver list the blocks that it lacks."""
    cast.hear(peer, RequestBlocks(runs), now)


def test_sweep() -> None:
    """A receiver of SLAM has what it does not list; what it lists and was sent since then it may have."""
    cast = Sweep(POLICY, 40)
    cast.join(A, 0.0, (range(40),))
    assert drawn(cast, A) == ".........."
    now, sent = 0.0, 0
    while sent < 40:
        now += 0.1
        for action in drain(cast, now):
            if isinstance(action, SendBlocks):
                sent += len(action.numbers)
            elif isinstance(action, Announce) and sent < 40:
                sent = 0
                lists(cast, A, (range(40),), now)
    assert drawn(cast, A) == "++++++++++"
    lists(cast, A, (range(10, 30),), now + 1)
    assert drawn(cast, A) == "##-....-##"


def test_shortList() -> None:
    """A list that ends early does not say that its sender has what comes after it."""
    cast = Sweep(POLICY, 40)
    cast.join(A, 0.0, (range(8, 10),))
    holding = cast.holding(A)
    assert holding is not None
    assert merged(holding.lacks) == (range(8, 40),)


def test_erasureCode() -> None:
    """Where blocks never end there is no map."""
    cast = Sweep(POLICY, None)
    cast.join(A, 0.0)
    assert cast.holding(A) is None


@given(st.integers(1, 500), st.integers(1, 80))
def test_cells(count: int, width: int) -> None:
    """The cells hold each block once, in order, and differ by one block in size at the most."""
    found = cells(count, width)
    assert [block for cell in found for block in cell] == list(range(count))
    assert len(found) == min(count, width)
    assert max(map(len, found)) - min(map(len, found)) <= 1


RUNS = st.tuples(st.integers(0, 59), st.integers(1, 20)).map(lambda each: range(each[0], min(60, sum(each))))


@given(st.lists(RUNS, max_size=12), st.lists(RUNS, max_size=5).map(merged), st.integers(0, 12), st.integers(1, 80))
def test_drawn(sent: list[range], lacks: Ranges, since: int, width: int) -> None:
    """A cell is what its blocks are, looked at one by one; a cell of one block is never "partly"."""
    log, last = RunLog(60), [0] * 60
    for ordinal, run in enumerate(sent, 1):
        log.noteSent(run)
        for block in run:
            last[block] = ordinal
    group = GroupMap(log, 60, width)
    for _ in group.measure():
        pass
    lacking = {block for run in lacks for block in run}
    for cell, letter in zip(group.cells, group.draw(Holding(lacks, since)), strict=True):
        missing = [block for block in cell if block in lacking]
        sentSince = [last[block] > since for block in missing]
        if letter == "#":
            assert not missing
        elif letter == "+":
            assert all(sentSince)
        elif letter == ".":
            assert len(missing) == len(cell)
            assert not any(sentSince)
        else:
            assert missing
            assert len(cell) > 1
    assert "+" not in group.draw(Holding(lacks, None))


@given(st.lists(RUNS, max_size=12), RUNS, st.integers(0, 12), st.sampled_from([0, 3, 60]))
def test_allSent(sent: list[range], run: range, since: int, few: int) -> None:
    """Of a long run the answer is the same as where each of its numbers is looked at, each time it is asked."""
    log, last = RunLog(60), [0] * 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockset, "FEW", few)
        for ordinal, each in enumerate([range(0), *sent], 0):
            if ordinal:
                log.noteSent(each)
            for block in each:
                last[block] = ordinal
            for after in (since, 0):
                assert log.allSent(run, after) == all(last[block] > after for block in run)
            assert not log.allSent(range(50, 61), 0)


def test_aGroupThatLivesForMonths() -> None:
    """Runs are counted on beyond 32 bits."""
    log = RunLog(8)
    log.noteSent(range(8))
    log.runs = 2**32 - 2
    for run in (range(1), range(1, 2), range(2, 4)):
        log.noteSent(run)
    log.noteEach(range(4, 8))
    assert log.bounds(range(1)) == (2**32 - 1, 2**32 - 1)
    assert log.bounds(range(8)) == (2**32 - 1, log.runs)
    assert log.runs == 2**32 + 5
