"""
Sweep, rule by rule, with numbers and instants only.
"""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from zope.interface.verify import verifyObject

from castd import outcomes
from castd.cast.blockset import BlockBitmap, difference, intersection, merged
from castd.cast.events import (
    Action,
    Announce,
    Leave,
    Left,
    Ranges,
    RequestBlocks,
    SendBlocks,
)
from castd.cast.inflight import MOST_BURSTS, LossEstimator
from castd.cast.members import Member, Members
from castd.cast.policy import AdaptiveTimeout, FixedTimeouts, RetransmitPolicy
from castd.cast.sweep import (
    FIRST_PAUSE,
    FLIGHT_TIME,
    KEEP_ALIVE_LIMIT,
    LINGER,
    LONGEST_BURST,
    MAX_PAUSES,
    MUTE_TIME,
    Sweep,
)
from castd.interfaces import ICast, IPaced
from castd.request import Peer

POLICY = RetransmitPolicy(
    repeat=FixedTimeouts((0.1,)), maxFailedTurns=3, keepAliveInterval=0.5, deafAfterRepeats=3, turnBudget=2.0
)
A, B, C = ("a", 1), ("b", 1), ("c", 1)


def cast(count: int = 100, policy: RetransmitPolicy = POLICY, **more: float) -> Sweep:
    return Sweep(policy, count, **more)  # type: ignore[arg-type]


def drain(sweep: Sweep, now: float) -> list[Action]:
    """Return all that is due at this instant; there is an end to it."""
    actions: list[Action] = []
    while (action := sweep.poll(now)) is not None:
        actions.append(action)
        assert len(actions) < 10_000
    due = sweep.deadline(now)
    assert due is None or due > now, "it would spin"
    return actions


def blocks(actions: list[Action]) -> list[int]:
    return [number for action in actions if isinstance(action, SendBlocks) for number in action.numbers]


def asked(actions: list[Action]) -> list[Peer]:
    return [action.peer for action in actions if isinstance(action, Announce)]


def gone(actions: list[Action]) -> list[tuple[Peer, str]]:
    return [(action.peer, action.outcome) for action in actions if isinstance(action, Left)]


def pass_(sweep: Sweep, start: float, end: float) -> Iterator[tuple[float, Action]]:
    """Let time pass, from deadline to deadline."""
    now, wakes = start, 0
    while now <= end:
        yield from ((now, action) for action in drain(sweep, now))
        due = sweep.deadline(now)
        wakes += 1
        assert wakes < 5_000
        if due is None or due > end:
            return
        now = due


def test_seam() -> None:
    """A Sweep provides what it says, and judges its pace."""
    assert verifyObject(ICast, cast())
    assert verifyObject(IPaced, cast())


def test_oneAscendingSweep() -> None:
    """What several lack goes out once, in ascending order, in bursts that a receiver can take."""
    sweep = cast()
    sweep.join(A, 0.0, (range(40, 60), range(90, 92)))
    sweep.join(B, 0.0, (range(10, 50),))
    actions = drain(sweep, 0.0)
    assert blocks(actions) == [*range(10, 60), 90, 91]
    assert max(len(action.numbers) for action in actions if isinstance(action, SendBlocks)) <= LONGEST_BURST
    assert asked(actions) == [A]


def test_joinsTheSweepInFrontOfTheCursor() -> None:
    """A list that comes during a sweep is served in front of the cursor in this lap, behind it in the next."""
    sweep = cast(flightTime=0.0)
    sweep.join(A, 0.0, (range(64),))
    first = [sweep.poll(0.0), sweep.poll(0.0)]
    assert blocks([each for each in first if each]) == list(range(32))
    sweep.join(B, 0.1, (range(70),))
    assert blocks(drain(sweep, 0.1)) == [*range(32, 70), *range(32)]


def test_repeatsAreTold() -> None:
    """A burst is called a repetition when its blocks went out before, and never half of it."""
    sweep = cast(flightTime=0.0)
    sweep.join(A, 0.0, (range(4, 8),))
    drain(sweep, 0.0)
    sweep.hear(A, RequestBlocks((range(2, 10),)), 0.2)
    bursts = [action for action in drain(sweep, 0.2) if isinstance(action, SendBlocks)]
    assert {burst.numbers: burst.again for burst in bursts} == {
        range(2, 4): False,
        range(4, 8): True,
        range(8, 10): False,
    }


def test_crossingListIsPutOff() -> None:
    """Blocks that went out within the flight time of a list are put off until that is over, and not dropped."""
    sweep = cast()
    sweep.join(A, 0.0, (range(8),))
    drain(sweep, 0.0)
    sweep.join(B, 0.01, (range(12),))
    assert blocks(drain(sweep, 0.01)) == [8, 9, 10, 11]
    assert sweep.deadline(0.01) == 0.01 + FLIGHT_TIME
    assert blocks(drain(sweep, 0.01 + FLIGHT_TIME)) == list(range(8))


def test_newerListTakesThePlaceOfWhatWasPutOff() -> None:
    """What was put off for a receiver is forgotten when it says more: then it knows better."""
    sweep = cast()
    sweep.join(A, 0.0, (range(8),))
    drain(sweep, 0.0)
    sweep.join(B, 0.01, (range(12),))
    drain(sweep, 0.01)
    sweep.hear(B, RequestBlocks((range(12, 14),)), 0.02)
    assert blocks(drain(sweep, 0.02)) == [12, 13]
    assert blocks(drain(sweep, 0.2)) == []


def test_answerIsTrue() -> None:
    """A list that answers a question asked after the block is served at once."""
    sweep = cast()
    sweep.join(A, 0.0, (range(8),))
    assert asked(drain(sweep, 0.0)) == [A]
    sweep.hear(A, RequestBlocks((range(3, 4),)), 0.001)
    actions = drain(sweep, 0.001)
    assert blocks(actions) == [3]
    assert asked(actions) == [A]


def test_copyIsNoAnswer() -> None:
    """A copy of a list that comes while the next question is still under way draws no block; the answer does."""
    sweep = cast()
    sweep.join(A, 0.0, (range(1),))
    drain(sweep, 0.0)
    sweep.hear(A, RequestBlocks((range(1, 9),)), 0.01)
    assert blocks(drain(sweep, 0.01)) == list(range(1, 9))
    sweep.hear(A, RequestBlocks((range(1, 9),)), 0.012)
    assert blocks(drain(sweep, 0.012)) == []
    sweep.hear(A, RequestBlocks((range(3, 4),)), 0.02)
    assert blocks(drain(sweep, 0.02)) == [3]


def test_answersSoonerThanBefore() -> None:
    """Who was slow at first is served at once when it answers sooner; if it has lost all, after one more question."""
    sweep = cast()
    sweep.join(A, 0.0, (range(1),))
    drain(sweep, 0.0)
    sweep.hear(A, RequestBlocks((range(1, 9),)), 0.09)
    drain(sweep, 0.09)
    sweep.hear(A, RequestBlocks((range(1, 9),)), 0.091)
    actions = drain(sweep, 0.091)
    assert (blocks(actions), asked(actions)) == ([], [A])
    for now in (0.092, 0.093):
        sweep.hear(A, RequestBlocks((range(1, 9),)), now)
        assert blocks(drain(sweep, now)) == list(range(1, 9))
    sweep.hear(A, RequestBlocks((range(3, 9),)), 0.0932)
    assert blocks(drain(sweep, 0.0932)) == list(range(3, 9))


def test_lastOneThatAnsweredIsAskedFirst() -> None:
    """The turn stays with the one that answers; when it falls silent the others come, one step apart."""
    sweep = cast()
    for peer in (A, B, C):
        sweep.join(peer, 0.0, (range(4),))
    assert asked(drain(sweep, 0.0)) == [A]
    sweep.hear(A, RequestBlocks((range(4, 8),)), 0.05)
    assert set(asked(drain(sweep, 0.05))) == {A, B}, "who never answered is asked beside those who did"
    assert asked(drain(sweep, 0.061)) == [C], "and soon, since there is somebody who answers"
    assert asked(drain(sweep, 0.14)) == []
    assert set(asked([action for _, action in pass_(sweep, 0.15, 0.6)])) == {A, B, C}


def test_threeUnansweredQuestions() -> None:
    """Three questions without an answer, a step apart, and a receiver is asked no more; later it is gone."""
    sweep = cast()
    sweep.join(A, 0.0, (range(4),))
    told = list(pass_(sweep, 0.0, 60.0))
    questions = [now for now, action in told if isinstance(action, Announce)]
    assert len(questions) == 3
    assert all(0.1 <= after - before < 0.101 for before, after in itertools.pairwise(questions))
    assert gone([action for _, action in told]) == [(A, outcomes.SILENT)]
    assert LINGER < told[-1][0] < LINGER + 1
    assert sweep.memberCount() == 0


def test_answersAreMeasured() -> None:
    """An answer is waited for no longer than the one before it makes likely, whenever the cast has begun."""
    sweep = cast(policy=replace(POLICY, repeat=AdaptiveTimeout(first=0.1, floor=0.02)))
    sweep.join(A, 1000.0, (range(40),))
    assert asked(drain(sweep, 1000.0)) == [A]
    assert sweep.deadline(1000.0) == pytest.approx(1000.1)
    sweep.hear(A, RequestBlocks((range(20, 40),)), 1000.01)
    assert asked(drain(sweep, 1000.01)) == [A]
    assert sweep.deadline(1000.01) == pytest.approx(1000.04)


def test_lateAnswerBringsItBack() -> None:
    """Who was asked in vain and speaks after all is served and asked like anybody."""
    sweep = cast()
    sweep.join(A, 0.0, (range(4),))
    list(pass_(sweep, 0.0, 2.0))
    sweep.hear(A, RequestBlocks((range(4, 8),)), 3.0)
    actions = drain(sweep, 3.0)
    assert blocks(actions) == [4, 5, 6, 7]
    assert asked(actions) == [A]


def test_leaveGoesOnAtOnce() -> None:
    """When the one that is asked leaves, the next is asked in the same instant."""
    sweep = cast()
    sweep.join(A, 0.0, (range(4),))
    sweep.join(B, 0.0, (range(4),))
    assert asked(drain(sweep, 0.0)) == [A]
    sweep.hear(A, Leave(outcomes.DONE), 0.01)
    actions = drain(sweep, 0.01)
    assert gone(actions) == [(A, outcomes.DONE)]
    assert asked(actions) == [B]


def test_leavesBeforeItWasServed() -> None:
    """Who leaves while what it asked for has not gone out cannot have all of it."""
    sweep = cast()
    sweep.join(A, 0.0, (range(64),))
    sweep.poll(0.0)
    sweep.hear(A, Leave(outcomes.DONE), 0.0)
    actions = drain(sweep, 0.0)
    assert gone(actions) == [(A, outcomes.EARLY)]
    assert blocks(actions) == [], "and nobody else lacks them"


def test_lingers() -> None:
    """When the last one has left, the cast may be joined for a while still, and then it is over."""
    sweep = cast()
    sweep.join(A, 0.0, (range(4),))
    drain(sweep, 0.0)
    sweep.hear(A, Leave(outcomes.DONE), 1.0)
    drain(sweep, 1.0)
    assert sweep.memberCount() == 0
    assert sweep.deadline(1.0) == 1.0 + LINGER
    assert drain(sweep, 1.0 + LINGER) == []
    assert sweep.deadline(1.0 + LINGER) is None


def test_showsLife() -> None:
    """While questions go unanswered a block goes out every half second, until nobody has said anything for long."""
    sweep = cast()
    for number in range(40):
        sweep.join(("x", number), 0.0, (range(4),))
    told = list(pass_(sweep, 0.0, 10.0))
    alive = [now for now, action in told if isinstance(action, SendBlocks)]
    assert len(alive) == 1 + int(KEEP_ALIVE_LIMIT / 0.5) - (KEEP_ALIVE_LIMIT % 0.5 == 0)
    assert all(0.5 <= after - before < 0.7 for before, after in itertools.pairwise(alive))


def test_forgedCrowd() -> None:
    """A crowd that never answers is asked faster, so that the one among them that would is found soon."""
    sweep = cast()
    for number in range(1000):
        sweep.join(("x", number), 0.0, (range(1),))
    sweep.join(A, 0.0, (range(1),))
    told = list(pass_(sweep, 0.0, 0.5))
    assert next(action.peer for _, action in told if isinstance(action, Announce)) == A, "of a crowd the newest first"
    assert len(asked([action for _, action in told])) <= 51
    sweep.join(A, 0.5, (range(1),))
    told = list(pass_(sweep, 0.5, 0.6))
    assert next(action.peer for _, action in told if isinstance(action, Announce)) == A, "it has repeated its list"
    sweep.hear(A, RequestBlocks((range(1, 5),)), 0.6)
    actions = drain(sweep, 0.6)
    assert blocks(actions) == [1, 2, 3, 4]
    assert A in asked(actions)


def test_shield() -> None:
    """The same list three times running though all went out: it waits 0.25 s, then twice as long; then for a minute."""
    sweep = cast()
    wants: Ranges = (range(4),)
    sweep.join(A, 0.0, wants)
    now, waits = 0.0, []
    for _ in range(2 + MAX_PAUSES):
        drain(sweep, now)
        said = now = now + 0.2
        sweep.hear(A, RequestBlocks(wants), now)
        while not blocks(drain(sweep, now)):
            due = sweep.deadline(now)
            assert due is not None
            now = due
        waits.append(round(now - said, 3))
    assert waits == [0.0, 0.0, *(FIRST_PAUSE * 2**number for number in range(MAX_PAUSES))]
    said = now
    for seconds in range(1, int(MUTE_TIME) + 1):
        sweep.hear(A, RequestBlocks(wants), said + seconds)
        assert drain(sweep, said + seconds) == [], "neither served nor asked"
    now = said + MUTE_TIME + 1.5
    drain(sweep, now)
    sweep.hear(A, RequestBlocks(wants), now)
    actions = drain(sweep, now)
    assert asked(actions) == [A]
    sweep.hear(A, RequestBlocks(wants), now + 0.001)
    assert sorted(blocks(actions) + blocks(drain(sweep, now + 0.001))) == [0, 1, 2, 3]


def test_shieldHoldsNobodyUp() -> None:
    """While one waits the others are served, and it is not asked."""
    sweep = cast()
    wants: Ranges = (range(4),)
    sweep.join(A, 0.0, wants)
    for now in (0.0, 0.1, 0.2):
        drain(sweep, now)
        sweep.hear(A, RequestBlocks(wants), now + 0.05)
    assert blocks(drain(sweep, 0.3)) == []
    sweep.join(B, 0.31, (range(8, 12),))
    actions = drain(sweep, 0.31)
    assert blocks(actions) == [8, 9, 10, 11]
    assert asked(actions) == [B]


def test_shieldEndsWithAnotherList() -> None:
    """Any other list ends it: who gets on is not deaf."""
    sweep = cast()
    wants: Ranges = (range(4),)
    sweep.join(A, 0.0, wants)
    for now in (0.0, 0.1, 0.2):
        drain(sweep, now)
        sweep.hear(A, RequestBlocks(wants), now + 0.05)
    drain(sweep, 0.3)
    sweep.hear(A, RequestBlocks((range(1, 5),)), 0.31)
    assert asked(drain(sweep, 0.31)) == [A]
    sweep.hear(A, RequestBlocks((range(1, 5),)), 0.32)
    actions = drain(sweep, 0.32)
    assert sorted(blocks(actions)) == [1, 2, 3, 4]
    assert asked(actions) == [A]


def test_deafForGood() -> None:
    """A receiver that never hears anything and always answers costs a bounded number of blocks in ten minutes."""
    sweep = cast()
    wants: Ranges = (range(4),)
    sweep.join(A, 0.0, wants)
    now, sent, until = 0.0, 0, 600.0
    while now < until:
        actions = drain(sweep, now)
        sent += len(blocks(actions))
        if A in asked(actions):
            sweep.hear(A, RequestBlocks(wants), now + 0.001)
            now += 0.001
            continue
        due = sweep.deadline(now)
        now = min(now + 1.0, due) if due is not None else now + 1.0
        if now == int(now):
            sweep.hear(A, RequestBlocks(wants), now)
            sweep.join(A, now, wants)
    assert sent < 400


def test_askedAfterABlockOnly() -> None:
    """Nobody is asked before a block went out that it could hear, unless it asks for nothing again and again."""
    sweep = cast()
    sweep.join(A, 0.0, ())
    assert drain(sweep, 0.0) == []
    sweep.join(B, 1.0, (range(2),))
    assert set(asked([action for _, action in pass_(sweep, 1.0, 1.3)])) == {A, B}
    lonely = cast()
    lonely.join(A, 0.0, ())
    lonely.hear(A, RequestBlocks(()), 2.0)
    assert asked(drain(lonely, 2.0)) == [A]


def test_strangerWhoLacksNothing() -> None:
    """Who begins by lacking nothing, when no block goes out any more, does not stay for ever."""
    sweep = cast()
    sweep.join(A, 0.0, (range(2),))
    list(pass_(sweep, 0.0, 0.05))
    sweep.hear(A, Leave(outcomes.DONE), 0.05)
    drain(sweep, 0.05)
    sweep.join(B, 1.0, ())
    sweep.join(C, 2.0, ())
    actions = [action for _, action in pass_(sweep, 2.0, 100.0)]
    assert gone(actions) == [(B, outcomes.SILENT), (C, outcomes.SILENT)]
    assert asked(actions) == []
    assert sweep.memberCount() == 0
    assert sweep.deadline(100.0) is None


def test_answersNothing() -> None:
    """Who answers that it lacks nothing is not asked again at once, and again, and again."""
    sweep = cast()
    sweep.join(A, 0.0, (range(4),))
    drain(sweep, 0.0)
    sweep.hear(A, RequestBlocks(()), 0.01)
    assert asked([action for _, action in pass_(sweep, 0.01, 10.0)]) == []


def test_goneAfterItLackedNothing() -> None:
    """Who falls silent after an answer that it lacks nothing has everything, as far as anybody can tell."""
    sweep = cast(count=4)
    sweep.join(A, 0.0, (range(4),))
    drain(sweep, 0.0)
    sweep.hear(A, RequestBlocks((range(2, 4),)), 0.01)
    drain(sweep, 0.01)
    sweep.hear(A, RequestBlocks(()), 0.02)
    assert gone([action for _, action in pass_(sweep, 0.02, 60.0)]) == [(A, outcomes.UNCONFIRMED)]


def test_listsBeforeAnythingIsSent() -> None:
    """Who lists the same blocks again and again while none is sent may hear the group all the same."""
    sweep = cast()
    for number in range(4):
        sweep.join(A, number / 10, (range(64),))
    sweep.hear(A, Leave(outcomes.DONE), 0.4)
    assert gone(drain(sweep, 0.4)) == [(A, outcomes.EARLY)]


def test_room() -> None:
    """Receivers are remembered up to a number: quiet ones make room first, then those that never answered."""
    sweep = cast(maxMembers=3)
    sweep.join(A, 0.0, (range(4),))
    drain(sweep, 0.0)
    sweep.hear(A, RequestBlocks((range(4, 8),)), 0.01)
    for number in range(1000):
        sweep.join(("x", number), 0.02, (range(1),))
        assert sweep.memberCount() <= 3
    assert len(gone(drain(sweep, 0.02))) == 998
    assert sweep.peerState(A) is not None


def test_paceFollowsTheLoss() -> None:
    """More than a fifth of a sweep lost halves the pace, less than a fiftieth raises it by a tenth, within bounds."""
    sweep = cast(1000)
    sweep.join(A, 0.0, (range(1000),))
    drain(sweep, 0.0)
    now, seen = 0.0, []
    for lost in (500, 150, 10, 50, 5):
        now += 0.05
        sweep.hear(A, RequestBlocks((range(lost),)), now)
        drain(sweep, now)
        seen.append(sweep.pace)
    assert seen == [0.5, 0.25, 0.25, 0.25, 0.25]
    sweep = cast(1000)
    sweep.join(A, 0.0, (range(1000),))
    for turn in range(1, 8):
        drain(sweep, turn - 1.0)
        sweep.hear(A, RequestBlocks((range(1000 - turn),)), turn - 0.99)
    assert sweep.pace == 0.1
    drain(sweep, 8.0)
    sweep.hear(A, RequestBlocks((range(1),)), 8.01)
    assert round(sweep.pace, 6) == 0.11


def test_theLossIsThatOfLate() -> None:
    """Of a long sweep only the last bursts count for the pace: what they lost, and not what was lost before."""
    estimator = LossEstimator()
    for burst in range(3 * MOST_BURSTS):
        estimator.sent(range(burst * 16, burst * 16 + 16), burst)
    estimator.asked()
    estimator.answered((range(2 * MOST_BURSTS * 16),), -1)
    assert estimator.pace == 1.0
    for burst in range(3 * MOST_BURSTS):
        estimator.sent(range(burst * 16, burst * 16 + 16), burst)
    estimator.asked()
    estimator.answered((range(2 * MOST_BURSTS * 16, 3 * MOST_BURSTS * 16),), -1)
    assert estimator.pace == 0.5


def test_shortSweepsSayNothing() -> None:
    """A receiver that asks for four blocks at a time paces itself, and lost ones among them slow nobody down."""
    sweep = cast()
    sweep.join(A, 0.0, (range(4),))
    drain(sweep, 0.0)
    sweep.hear(A, RequestBlocks((range(1, 5),)), 0.01)
    assert sweep.pace == 1.0


def test_turnsEnd() -> None:
    """One turn costs at most twice the file while others wait."""
    sweep = cast(10, flightTime=0.0)
    sweep.join(A, 0.0, (range(10),))
    sweep.join(B, 0.0, (range(10),))
    now, order = 0.0, []
    for _ in range(12):
        order += asked(drain(sweep, now))
        now += 0.01
        sweep.hear(order[-1], RequestBlocks((range(3 + len(order) % 2),)), now)
    assert order[0] == A
    assert B in order


def calls(work: Callable[[], object]) -> int:
    """Return how many functions of Python were called, or resumed."""
    count = 0

    def counts(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counts)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def crowd(members: int, validated: bool = True) -> Sweep:
    """Return a sweep with so many members, all of which have answered, or that no block was sent to yet."""
    sweep = cast(100)
    for number in range(members):
        sweep.join(("x", number), 0.0, (range(4),) if validated else ())
    if validated:
        drain(sweep, 0.0)
        sweep._queue.blockSent()
        for receiver in list(sweep._queue.unvalidated.values()) + list(sweep._queue.asked.values()):
            receiver.heard = True
            sweep._queue.enqueue(receiver)
    return sweep


def leaving(members: int) -> int:
    """Return what it costs that all leave before the farewells are sent."""
    sweep = crowd(members)

    def leave() -> None:
        for number in range(members):
            sweep.hear(("x", number), Leave(outcomes.DONE), 0.1)
        assert len(gone(drain(sweep, 0.1))) == members

    return calls(leave)


def joining(members: int, validated: bool) -> int:
    """Return what it costs that one more joins, and is asked or answered."""
    sweep = crowd(members, validated)

    def join() -> None:
        sweep.join(A, 0.2, (range(4),) if validated else ())
        drain(sweep, 0.2)
        sweep.hear(A, RequestBlocks((range(50, 54),)), 0.21)
        drain(sweep, 0.21)

    return calls(join)


@pytest.mark.slow
def test_manyMembers() -> None:
    """Each of two thousand that leave at once costs what each of two hundred does, and so does one that joins them."""
    assert leaving(2000) < 11 * leaving(200)
    for validated in (True, False):
        assert joining(2000, validated) < 1.5 * joining(200, validated) + 20


def test_farewellsAreNotSearched() -> None:
    """Who leaves has no announcement queued, so the farewells of others are not looked through for one."""
    members: Members[Member] = Members()
    for number in range(3):
        members.add(Member(("x", number), (), POLICY.repeat, waited=False))
    notices = members._notices
    for member in list(members):
        members.remove(member, outcomes.DONE)
    assert members._notices is notices
    members.add(one := Member(A, (), POLICY.repeat, waited=False))
    members.announce(one, True)
    members.remove(one, outcomes.DONE)
    assert [members.nextNotice() for _ in range(5)][3:] == [Left(A, outcomes.DONE, (), False), None]


@pytest.mark.slow
def test_memory() -> None:
    """Half a gigabyte in blocks of 1451 and 200 receivers that list 735 runs each take little room and little time."""
    tracemalloc.start()
    sweep = cast(370_001)
    lists = tuple(range(number, number + 1) for number in range(1, 1470, 2))
    for number in range(200):
        sweep.join(("x", number), 0.0, lists)
    assert blocks(drain(sweep, 0.0)) == list(range(1, 1470, 2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_askedForNothing() -> None:
    """Who joins in a flood, when nothing is sent for its list, is removed after a while, though it lists again."""
    sweep = cast(policy=replace(POLICY, keepAliveInterval=None))
    for number in range(300):
        sweep.join((f"x{number}", 1), 0.0, (range(number % 50, 60),))
    drain(sweep, 0.0)
    sweep.join(B, 1.0, (range(60),))
    assert [each for each in drain(sweep, 1.0) if isinstance(each, SendBlocks)] != []
    sweep.join(A, 1.1, (range(5, 60),))
    sweep.hear(A, RequestBlocks((range(6, 60),)), 1.2)
    assert [each for each in drain(sweep, 1.2) if isinstance(each, SendBlocks)] == []
    now, left = 1.2, list[Action]()
    while (due := sweep.deadline(now)) is not None and now < 200.0:
        now = max(due, now)
        left += drain(sweep, now)
    assert A in [each.peer for each in left if isinstance(each, Left)]
    assert sweep.memberCount() == 0


def test_neverBeyondTheEnd() -> None:
    """Whatever a wire lets through, no number goes out that the file does not have."""
    sweep = cast(10)
    sweep.join(A, 0.0, (range(8, 1 << 40), range(1 << 41, 1 << 42)))
    assert blocks(drain(sweep, 0.0)) == [8, 9]


def test_codeWithoutEnd() -> None:
    """Without a count there is no highest number: needs that begin at the same one are served by the greatest."""
    sweep = Sweep(POLICY, None)
    sweep.join(A, 0.0, (range(5),))
    sweep.join(B, 0.0, (range(9),))
    assert blocks(drain(sweep, 0.0)) == list(range(9))
    sweep.hear(A, RequestBlocks((range(1000, 1003),)), 0.2)
    assert blocks(drain(sweep, 0.2)) == [1000, 1001, 1002]


runs = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=8).map(
    lambda pairs: merged(range(start, start + length) for start, length in pairs)
)


class Runs(RuleBasedStateMachine):
    """Arithmetic of runs, and the union, against plain sets."""

    @initialize()
    def begin(self) -> None:
        self.union, self.wanted, self.sent = BlockBitmap(60), set[int](), set[int]()

    @rule(one=runs, other=runs)
    def arithmetic(self, one: Ranges, other: Ranges) -> None:
        left, right = ({number for run in each for number in run} for each in (one, other))
        assert {number for run in intersection(one, other) for number in run} == left & right
        assert {number for run in difference(one, other) for number in run} == left - right
        assert {number for run in merged((*one, *other)) for number in run} == left | right

    @rule(wanted=runs)
    def add(self, wanted: Ranges) -> None:
        for run in wanted:
            self.union.add(run)
            self.wanted.update(run)

    @rule(most=st.integers(1, 20))
    def take(self, most: int) -> None:
        if self.wanted:
            cursor = self.union.cursor
            run, again = self.union.nextRun(most)
            assert run.start == min((number for number in self.wanted if number >= cursor), default=min(self.wanted))
            assert 0 < len(run) <= most
            assert set(run) <= self.wanted
            assert all((number in self.sent) is again for number in run)
            self.wanted -= set(run)
            self.sent |= set(run)

    @rule()
    def clear(self) -> None:
        self.union.clear()
        self.wanted.clear()

    @invariant()
    def counts(self) -> None:
        assert len(self.union) == len(self.wanted)
        assert all(self.union.intersects(range(number, number + 1)) == (number in self.wanted) for number in range(60))


class Crowd(RuleBasedStateMachine):
    """Receivers of every kind: whoever keeps asking ends done, and no block goes out that nobody asked for."""

    COUNT = 40

    @initialize()
    def begin(self) -> None:
        self.sweep = cast(self.COUNT)
        self.now = 0.0
        self.lacks: dict[Peer, set[int]] = {}
        self.deaf: set[Peer] = set()
        self.named: set[int] = set()

    def list(self, peer: Peer, most: int) -> Ranges:
        wanted = merged(range(number, number + 1) for number in sorted(self.lacks[peer])[:most])
        self.named.update(number for run in wanted for number in run)
        return wanted

    def step(self, hears: bool = True) -> None:
        for action in drain(self.sweep, self.now):
            if isinstance(action, SendBlocks):
                assert set(action.numbers) <= self.named
                for peer in set(self.lacks) - self.deaf if hears else ():
                    self.lacks[peer] -= set(action.numbers)
            elif isinstance(action, Announce):
                self.asked = action.peer

    asked: Peer | None = None

    @rule(number=st.integers(0, 5), most=st.sampled_from([4, 40]), deaf=st.booleans())
    def join(self, number: int, most: int, deaf: bool) -> None:
        peer = ("x", number)
        self.lacks.setdefault(peer, set(range(self.COUNT)))
        (self.deaf.add if deaf and number == 5 else self.deaf.discard)(peer)
        if self.lacks[peer]:
            self.sweep.join(peer, self.now, self.list(peer, most))

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.1, 0.6, 3.0]), hears=st.booleans())
    def wait(self, seconds: float, hears: bool) -> None:
        self.now += seconds
        self.step(hears)

    @rule(most=st.sampled_from([4, 40]))
    def answer(self, most: int) -> None:
        if self.asked in self.lacks:
            peer, self.asked = self.asked, None
            self.say(peer, most)

    def say(self, peer: Peer, most: int) -> None:
        if self.lacks[peer]:
            self.sweep.hear(peer, RequestBlocks(self.list(peer, most)), self.now)
        else:
            self.sweep.hear(peer, Leave(outcomes.DONE), self.now)
            del self.lacks[peer]

    @rule()
    def allEndDone(self) -> None:
        """From any state: with nothing lost any more, everybody who asks once a second is done soon."""
        for _ in range(400):
            self.now += 0.25
            self.step()
            for peer in [peer for peer in self.lacks if peer not in self.deaf]:
                if self.sweep.peerState(peer) is None and self.lacks[peer]:
                    self.sweep.join(peer, self.now, self.list(peer, 4))
                else:
                    self.say(peer, 4)
            self.step()
            if not set(self.lacks) - self.deaf:
                return
        raise AssertionError(f"not done: {self.lacks}")


TestRuns = pytest.mark.slow(Runs.TestCase)
TestCrowd = pytest.mark.slow(Crowd.TestCase)
TestCrowd.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
