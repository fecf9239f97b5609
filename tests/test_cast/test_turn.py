"""
Turn, row by row: what each stimulus does in each state, and each rule of its patience by itself.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from zope.interface.verify import verifyObject

from castd import outcomes
from castd.cast.events import (
    Action,
    Announce,
    Leave,
    Left,
    PeerState,
    RequestBlocks,
    SendBlocks,
)
from castd.cast.policy import CLIENT_TIMER, AdaptiveTimeout, FixedTimeouts, MinProgress, RetransmitPolicy, ShortTurn
from castd.cast.turn import Turn
from castd.interfaces import ICast
from castd.request import Peer

A, B, C = ("10.0.0.10", 1), ("10.0.0.11", 1), ("10.0.0.12", 1)
COUNT = 100

#: A cast of a group, without the rules that a single test switches on.
GROUP = RetransmitPolicy(repeat=FixedTimeouts((1.0,)), progressTimeout=5.0, maxRepeatsUnheard=None, maxFailedTurns=3)


def want(start: int, stop: int | None = None) -> RequestBlocks:
    return RequestBlocks((range(start, start + 1 if stop is None else stop),))


def out(turn: Turn, now: float = 0.0) -> list[Action]:
    """Everything that is due now; what those who are gone still lacked is left to the tests that are about it."""
    return [replace(action, wants=()) if isinstance(action, Left) else action for action in polled(turn, now)]


def polled(turn: Turn, now: float) -> list[Action]:
    """Everything that is due now."""
    actions: list[Action] = []
    while (action := turn.poll(now)) is not None:
        actions.append(action)
        assert len(actions) < 100
    return actions


def until(turn: Turn, now: float, end: float) -> list[tuple[float, Action]]:
    """Everything that becomes due up to C{end} while nobody says a word, with its instant."""
    log = [(now, action) for action in out(turn, now)]
    while (next_ := turn.deadline(now)) is not None and next_ <= end:
        assert next_ > now
        now = next_
        log += [(round(now, 3), action) for action in out(turn, now)]
    return log


def burst(start: int, stop: int | None = None, peer: Peer = A, again: bool = False) -> SendBlocks:
    return SendBlocks(range(start, start + 1 if stop is None else stop), peer, again)


# The states, each reached by the shortest way.


def empty(policy: RetransmitPolicy = GROUP) -> Turn:
    return Turn(policy, COUNT)


def announced(policy: RetransmitPolicy = GROUP) -> Turn:
    turn = empty(policy)
    turn.join(A, 0.0)
    out(turn)
    return turn


def sending(policy: RetransmitPolicy = GROUP) -> Turn:
    turn = announced(policy)
    turn.hear(A, want(3, 7), 0.0)
    return turn


def waiting(policy: RetransmitPolicy = GROUP) -> Turn:
    turn = sending(policy)
    out(turn)
    return turn


BUSY = [announced, sending, waiting]


def test_turnIsACast() -> None:
    """Turn provides ICast."""
    assert verifyObject(ICast, empty())


# The table: joining.


def test_theFirstBecomesMaster() -> None:
    """Empty: who joins has the turn, and is greeted so."""
    turn = empty()
    turn.join(A, 0.0)
    assert out(turn) == [Announce(A, True, False)]
    assert turn.peerState(A) == PeerState(True, None, -1)


def test_theFirstMayAlreadyWant() -> None:
    """Empty: a request that says what it lacks is greeted and served at once."""
    turn = empty()
    turn.join(A, 0.0, (range(1),))
    assert out(turn) == [Announce(A, True, False), burst(0)]


@pytest.mark.parametrize("state", BUSY)
def test_laterOnesAreGreetedWithoutTheTurn(state: Callable[[], Turn]) -> None:
    """Greeted, sending, waiting: a newcomer is greeted without the turn, before any more blocks, and the turn stays."""
    turn = state()
    turn.join(B, 0.0)
    actions = out(turn)
    assert actions[0] == Announce(B, False, False)
    assert all(isinstance(action, SendBlocks) for action in actions[1:])
    assert turn.peerState(A).turn
    assert not turn.peerState(B).turn
    assert turn.memberCount() == 2


# The table: a want of the master.


def test_aWantAfterTheGreetingIsServed() -> None:
    """Greeted: the master's want is sent; standing tells what is being served."""
    turn = announced()
    turn.hear(A, want(3, 7), 0.0)
    assert out(turn) == [burst(3, 7)]
    assert turn.peerState(A) == PeerState(True, range(3, 7), 6)


def test_aWantWhileSendingReplacesTheRanges() -> None:
    """Sending: a newer want takes the place of what was still to go out."""
    turn = sending()
    turn.hear(A, want(5, 9), 0.0)
    assert out(turn) == [burst(5, 9)]


def test_aWantAfterAllWentOutIsServed() -> None:
    """Waiting: the next want is sent."""
    turn = waiting()
    turn.hear(A, want(7, 11), 0.1)
    assert out(turn, 0.1) == [burst(7, 11)]


def test_severalRangesGoOutOneAfterTheOther() -> None:
    """A want of several runs is a burst for each of them, in order."""
    turn = announced()
    turn.hear(A, RequestBlocks((range(1, 3), range(5, 6), range(8, 10))), 0.0)
    assert out(turn) == [burst(1, 3), burst(5, 6), burst(8, 10)]


# The table: leaving.


@pytest.mark.parametrize("state", BUSY)
def test_whenTheMasterLeavesTheNextHasTheTurn(state: Callable[[], Turn]) -> None:
    """Greeted, sending, waiting: the master is gone, the next oldest is greeted with the turn, no block goes out."""
    turn = state()
    turn.join(B, 0.0)
    turn.join(C, 0.0)
    while not isinstance(turn.poll(0.0), type(None)):
        pass
    turn.hear(A, Leave(outcomes.DONE), 0.1)
    assert out(turn, 0.1) == [Left(A, outcomes.DONE), Announce(B, True, False)]
    assert [turn.peerState(peer) is not None for peer in (A, B, C)] == [False, True, True]


@pytest.mark.parametrize("state", BUSY)
def test_anybodyMayLeaveAtAnyTime(state: Callable[[], Turn]) -> None:
    """Who has heard everything need not wait for a turn: a listener's farewell changes nothing for the master."""
    turn = state()
    turn.join(B, 0.0)
    turn.hear(B, Leave(outcomes.DONE), 0.0)
    actions = out(turn)
    assert actions[0] == Left(B, outcomes.DONE)
    assert Announce(B, False, False) not in actions
    assert turn.peerState(A).turn


def test_theLastLeavesAnEmptyCast() -> None:
    """When nobody is left nothing is due, ever."""
    turn = waiting()
    turn.hear(A, Leave(outcomes.DONE), 0.1)
    assert out(turn, 0.1) == [Left(A, outcomes.DONE)]
    assert turn.deadline(0.1) is None
    assert turn.memberCount() == 0


# The table: the alarm.


def test_aGreetingIsRepeated() -> None:
    """Greeted: at the alarm the master is greeted again."""
    turn = announced()
    assert turn.deadline(0.0) == 1.0
    assert out(turn, 1.0) == [Announce(A, True, False)]


def test_noAlarmWhileSending() -> None:
    """Sending: it is due now, whatever the time."""
    assert sending().deadline(0.5) == 0.5


def test_blocksAreRepeated() -> None:
    """Waiting: at the alarm the same ranges go out again, marked as a repetition."""
    turn = waiting()
    assert out(turn, 0.99) == []
    assert turn.deadline(0.99) == 1.0
    assert out(turn, 1.0) == [burst(3, 7, again=True)]


# Wants that are not answered.


def test_theApprenticeIsNotAnswered() -> None:
    """A want of one block that comes again causes nothing: only the alarm repeats a block."""
    turn = announced()
    turn.hear(A, want(3), 0.0)
    out(turn)
    for _ in range(5):
        turn.hear(A, want(3), 0.1)
    assert out(turn, 0.1) == []
    assert turn.deadline(0.1) == 1.0


def test_aWindowIsSentAgainOnce() -> None:
    """A want of several blocks that comes again is served again once: its first block may be the lost one."""
    turn = waiting()
    turn.hear(A, want(3, 7), 0.1)
    assert out(turn, 0.1) == [burst(3, 7, again=True)]
    for _ in range(5):
        turn.hear(A, want(3, 7), 0.2)
    assert out(turn, 0.2) == []
    # The same of the next window may be the answer to the copy; of the one after that it is not.
    for start, now in ((7, 0.3), (11, 0.5)):
        turn.hear(A, want(start, start + 4), now)
        assert out(turn, now) == [burst(start, start + 4)]
    turn.hear(A, want(11, 15), 0.8)
    assert out(turn, 0.8) == [burst(11, 15, again=True)]


def test_afterARepetitionTheWantIsKnown() -> None:
    """The window that the alarm repeated is not sent once more because of a want that was under way."""
    turn = waiting()
    assert out(turn, 1.0) == [burst(3, 7, again=True)]
    turn.hear(A, want(3, 7), 1.1)
    assert out(turn, 1.1) == []


@pytest.mark.parametrize("state", [sending, waiting])
def test_oldWantsAreIgnored(state: Callable[[], Turn]) -> None:
    """A want that begins before the one being served was overtaken on its way."""
    turn = state()
    turn.hear(A, want(1, 5), 0.0)
    assert [action for action in out(turn) if isinstance(action, SendBlocks)] in ([burst(3, 7)], [])
    assert turn.peerState(A).serving == range(3, 7)


def test_aWantOutOfTurnOnlyShowsLife() -> None:
    """
    A listener's want is never answered with blocks; the first confirms its greeting, a later one is greeted again, at
    most once a second and three times in all.
    """
    turn = waiting()
    turn.join(B, 0.0)
    out(turn)
    announcements = []
    for tenth in range(1, 100):
        turn.hear(B, want(0), tenth / 10)
        turn.hear(A, want(7 + tenth), tenth / 10)
        announcements += [tenth / 10 for action in out(turn, tenth / 10) if action == Announce(B, False, True)]
    assert len(announcements) == 3
    assert all(after - before >= 1.0 for before, after in pairwise(announcements))
    assert turn.highestSent == 106


def test_strangersAreNoConcernOfACast() -> None:
    """A word of somebody who is no member does nothing."""
    turn = waiting()
    turn.hear(B, want(0), 0.0)
    turn.hear(B, Leave(outcomes.DONE), 0.0)
    assert out(turn) == []
    assert turn.peerState(B) is None


# Asking again.


def test_aMasterNeverHeardIsAnsweredAgain() -> None:
    """Never heard since: its repeated request is answered as before, the greeting and then what it wanted."""
    turn = announced()
    turn.join(A, 0.3)
    assert out(turn, 0.3) == [Announce(A, True, False)]
    plain = empty(RetransmitPolicy())
    plain.join(A, 0.0, (range(1),))
    out(plain)
    plain.join(A, 0.3, (range(1),))
    assert out(plain, 0.3) == [Announce(A, True, False), burst(0, again=True)]


def test_theRepeatedRequestIsTheRepetition() -> None:
    """Its request comes again when the greeting is due again: one answer, as atftp gives up at a second OACK."""
    turn = announced()
    turn.join(A, 1.001)
    assert [(now, action) for now, action in until(turn, 1.001, 2.1)] == [
        (1.001, Announce(A, True, False)),
        (2.001, Announce(A, True, False)),
    ]


def test_aRequestThatCrossedTheRepetition() -> None:
    """The greeting was just repeated by the timer when the request comes again: that has been answered already."""
    turn = announced()
    assert out(turn, 1.0) == [Announce(A, True, False)]
    turn.join(A, 1.001)
    assert out(turn, 1.001) == []
    turn.join(A, 1.1)
    assert out(turn, 1.1) == [Announce(A, True, False)]


def test_anotherPortAsksRightAfterTheRepetition() -> None:
    """The repetition went to the port of before: the machine is greeted at the one that it asks from now."""
    turn = announced()
    assert out(turn, 1.0) == [Announce(A, True, False)]
    turn.join(B, 1.001, instead=A)
    assert out(turn, 1.001) == [Announce(B, True, False)]


def test_aMasterThatWasHeardHasRestarted() -> None:
    """Heard: it begins anew, after those who have waited meanwhile, and is told so, to hear what they are sent."""
    turn = waiting()
    turn.join(B, 0.0)
    out(turn)
    turn.join(A, 2.0)
    assert out(turn, 2.0) == [Announce(B, True, False), Announce(A, False, False)]
    turn.hear(B, Leave(outcomes.DONE), 2.1)
    assert out(turn, 2.1) == [Left(B, outcomes.DONE), Announce(A, True, False)]


def test_aListenerThatAsksAgainIsGreetedAgain() -> None:
    """A listener's repeated request is answered as it stands: without the turn."""
    turn = waiting()
    turn.join(B, 0.0)
    out(turn)
    turn.join(B, 0.5)
    assert out(turn, 0.5) == [Announce(B, False, False)]
    assert turn.memberCount() == 2


def test_aSuspectThatAsksAgain() -> None:
    """Who has lost turns, and asks again, has as many as one that comes now, and its next one before all suspects."""
    turn = waiting()
    turn.join(B, 0.0)
    turn.join(C, 0.0)
    until(turn, 0.0, 10.0)
    assert turn.peerState(C).turn, "A and B have lost one each"
    turn.join(B, 10.5)
    assert out(turn, 10.5) == [Announce(B, False, False)]
    turn.hear(C, Leave(outcomes.DONE), 10.6)
    assert out(turn, 10.6) == [Left(C, outcomes.DONE), Announce(B, True, False)]
    gone = [(now, action.peer) for now, action in until(turn, 10.6, 90.0) if isinstance(action, Left)]
    assert gone == [(25.6, A), (35.6, B)], "A in two turns more, B in three"


def test_theSameMachineFromAnotherPort() -> None:
    """A machine that comes back from a new port takes its own old place."""
    turn = waiting()
    turn.join(B, 0.0)
    turn.join(C, 0.0)
    out(turn)
    moved = ("10.0.0.11", 2)
    turn.join(moved, 0.5, instead=B)
    assert out(turn, 0.5) == [Announce(moved, False, False)]
    assert turn.peerState(B) is None
    turn.hear(A, Leave(outcomes.DONE), 0.6)
    assert out(turn, 0.6) == [Left(A, outcomes.DONE), Announce(moved, True, False)]


# Patience.


def test_anUnansweredFirstBlock() -> None:
    """Repetitions after 1, 2 and 4 s, then silence until 31 s: little for a victim, long for a slow client."""
    turn = empty(RetransmitPolicy())
    turn.join(A, 0.0, (range(1),))
    assert until(turn, 0.0, 100.0) == [
        (0.0, Announce(A, True, False)),
        (0.0, burst(0)),
        (1.0, burst(0, again=True)),
        (3.0, burst(0, again=True)),
        (7.0, burst(0, again=True)),
        (31.0, Left(A, outcomes.SILENT)),
    ]


def test_whatWasNeverAcknowledgedIsTold() -> None:
    """Who falls silent is gone with what it had asked for, which tells a lost last answer from a broken transfer."""
    turn = waiting(RetransmitPolicy(repeat=FixedTimeouts((1.0,)), progressTimeout=5.0))
    turn.hear(A, want(COUNT - 1), 1.0)
    polled(turn, 1.0)
    assert polled(turn, 6.0) == [Left(A, outcomes.SILENT, (range(COUNT - 1, COUNT),))]


def test_anUnansweredLaterBlock() -> None:
    """A peer that was heard is owed more: 1, 2, 4, 8, 8 s and no word later than 31 s after its last progress."""
    turn = empty(RetransmitPolicy())
    turn.join(A, 0.0)
    out(turn)
    turn.hear(A, want(0), 10.0)
    times = [now for now, _ in until(turn, 10.0, 100.0)]
    assert times == [10.0, 11.0, 13.0, 17.0, 25.0, 33.0, 41.0]


def test_onlyProgressResetsTheClock() -> None:
    """Ignored wants do not put the end off: a client that repeats itself for ever is given up all the same."""
    turn = empty(RetransmitPolicy())
    turn.join(A, 0.0)
    out(turn)
    turn.hear(A, want(5), 0.0)
    gone = []
    for tenth in range(400):
        turn.hear(A, want(tenth % 6), tenth / 10)
        gone += [tenth / 10 for action in out(turn, tenth / 10) if isinstance(action, Left)]
    assert gone == [31.0]


def test_aMeasuredIntervalIsShort() -> None:
    """After answers within a millisecond a lost block comes again after the floor of 20 ms, then ever later."""
    turn = empty(RetransmitPolicy())
    turn.join(A, 0.0)
    out(turn)
    for number in range(20):
        turn.hear(A, want(number), number / 1000)
        out(turn, number / 1000)
    repeats = [now for now, _ in until(turn, 0.019, 2.0)]
    gaps = [round(after - before, 3) for before, after in pairwise([0.019, *repeats])]
    assert gaps == [0.02, 0.04, CLIENT_TIMER, 0.16, 0.32, 0.64]


def test_aLateAnswerIsForgottenSoon() -> None:
    """The first answer was lost and came again after a second: a few prompt ones later nobody waits for seconds."""
    turn = empty(RetransmitPolicy())
    turn.join(A, 0.0)
    out(turn)
    turn.hear(A, want(0), 0.0)
    out(turn, 0.0)
    for number in range(1, 12):
        assert turn.rttConverged == (number > 5)
        turn.hear(A, want(number), 0.999 + number / 1000)
        out(turn, 0.999 + number / 1000)
    assert turn.deadline(1.01) == pytest.approx(1.03)
    assert turn.rttConverged
    assert turn.mayEnterFastPath(12) is not None


def test_repeatedBlocksAreNotMeasured() -> None:
    """An answer to a repetition may answer either copy: no sample is taken of it (Karn)."""
    turn = empty(RetransmitPolicy())
    turn.join(A, 0.0)
    out(turn)
    turn.hear(A, want(0), 0.0)
    assert out(turn, 0.0) == [burst(0)]
    assert out(turn, 1.0) == [burst(0, again=True)]
    turn.hear(A, want(1), 1.001)
    assert out(turn, 1.001) == [burst(1)]
    assert turn.deadline(1.001) > 1.5


def test_theAnswerToAGreetingIsNotMeasured() -> None:
    """PXELINUX answers an OACK when it needs the data: twenty seconds later is no answering time."""
    turn = empty(RetransmitPolicy())
    turn.join(A, 0.0)
    out(turn)
    turn.hear(A, want(0), 20.0)
    out(turn, 20.0)
    assert turn.deadline(20.0) == 21.0


def test_aNegotiatedTimeoutIsFirstAndCeiling() -> None:
    """With a negotiated timeout the interval is that very one until something was measured, and never more then."""
    turn = empty(RetransmitPolicy(repeat=AdaptiveTimeout(first=3.0, ceiling=3.0), progressTimeout=18.0))
    turn.join(A, 0.0)
    assert [now for now, _ in until(turn, 0.0, 100.0)] == [0.0, 3.0, 6.0, 9.0, 18.0]


def test_theRepetitionsOfATable() -> None:
    """Steps repeat by their table, its last step for ever."""
    turn = empty(RetransmitPolicy(repeat=FixedTimeouts((0.08, 0.08, 0.2)), progressTimeout=1.0))
    turn.join(A, 0.0)
    out(turn)
    turn.hear(A, want(0), 0.0)
    times = [now for now, _ in until(turn, 0.0, 0.99)]
    assert times == [0.0, 0.08, 0.16, 0.36, 0.56, 0.76, 0.96]


def test_aSilentMasterBecomesASuspect() -> None:
    """Whoever fails gets further turns when only suspects are left, the oldest first, and is gone after its last."""
    turn = waiting()
    turn.join(B, 0.0)
    turns, gone = [], []
    for start in (0.0, 5.0, 10.0, 15.0, 20.0, 25.0):
        log = until(turn, start, start + 4.99)
        turns += [peer for peer in (A, B) if (peerState := turn.peerState(peer)) is not None and peerState.turn]
        gone += [(now, action.peer, action.outcome) for now, action in log if isinstance(action, Left)]
    assert turns == [A, B, A, A, B, B]
    gone += [(now, action.peer, action.outcome) for now, action in until(turn, 30.0, 60.0)]
    assert gone == [(20.0, A, outcomes.SILENT), (30.0, B, outcomes.SILENT)]


def test_aSuspectThatSpeaksIsNoneAnyMore() -> None:
    """A word of a suspect, in turn or out of it, restores its place by age."""
    turn = waiting()
    turn.join(B, 0.0)
    turn.join(C, 0.0)
    until(turn, 0.0, 5.0)
    assert turn.peerState(B).turn
    turn.hear(A, want(3), 5.5)
    turn.hear(B, Leave(outcomes.DONE), 6.0)
    assert Announce(A, True, True) in out(turn, 6.0)


def measured() -> Turn:
    """A group whose master A has answered within a millisecond and is silent from now on, while B waits."""
    policy = RetransmitPolicy(
        repeat=AdaptiveTimeout(0.25, growth=1.5, ceiling=1.0),
        progressTimeout=3.0,
        measuredProgressTimeout=1.0,
        minRepeats=3,
        loneProgressTimeout=10.0,
        maxFailedTurns=3,
    )
    turn = empty(policy)
    turn.join(A, 0.0)
    out(turn)
    for number in range(10):
        turn.hear(A, want(number), number / 1000)
        out(turn, number / 1000)
    turn.join(B, 0.01)
    return turn


def test_aMeasuredMasterLosesItsTurnSooner() -> None:
    """While others wait, a master whose answering time is known is given a second, and at least its tries."""
    log = until(measured(), 0.01, 5.0)
    assert next(now for now, action in log if action == Announce(B, True, False)) == pytest.approx(1.009, abs=0.01)


def test_aSuspectThatIsAloneIsGivenLonger() -> None:
    """Nobody waits any more for one that has lost its turn while others did: each turn is as long as for one alone."""
    turn = measured()
    until(turn, 0.01, 2.0)
    turn.hear(B, Leave(outcomes.DONE), 2.0)
    log = until(turn, 2.0, 60.0)
    assert [now for now, action in log if isinstance(action, Left)] == [2.0, 22.0]
    turn = measured()
    until(turn, 0.01, 2.0)
    turn.hear(B, Leave(outcomes.DONE), 2.0)
    until(turn, 2.0, 11.0)
    turn.hear(A, want(10), 11.0)
    assert burst(10) in out(turn, 11.0)


def test_aForgedSuspectThatIsAlone() -> None:
    """One that never answered is given no longer when it is alone."""
    turn = measured()
    until(turn, 0.01, 2.0)
    turn.hear(A, Leave(outcomes.ABORTED), 2.0)
    log = until(turn, 2.0, 60.0)
    (gone,) = (now for now, action in log if isinstance(action, Left) and action.peer == B)
    assert gone == pytest.approx(1.009 + 10.0 + 3.0 + 3.0, abs=0.01)


def test_onlySuspectsWait() -> None:
    """
    Where all have fallen silent, such as behind a switch that restarts, a measured master yields no sooner than others,
    until one of them speaks.
    """
    turn = measured()
    gone = [now for now, action in until(turn, 0.01, 12.0) if isinstance(action, Left) and action.peer == A]
    assert gone == [pytest.approx(1.009 + 3.0 + 3.0 + 3.0, abs=0.01)]
    turn = measured()
    until(turn, 0.01, 5.0)
    turn.hear(B, want(3), 5.0)
    until(turn, 5.0, 5.3)
    assert turn.peerState(B).turn


def test_aMasterAloneIsGivenLonger() -> None:
    """Nobody waits for a master that is alone, so its own limit holds; who joins meanwhile ends that."""
    policy = RetransmitPolicy(repeat=FixedTimeouts((1.0,)), progressTimeout=3.0, loneProgressTimeout=10.0)
    assert until(waiting(policy), 0.0, 60.0)[-1][0] == 10.0
    turn = waiting(policy)
    until(turn, 0.0, 5.0)
    turn.join(B, 5.5)
    assert out(turn, 5.5)[:1] == [Announce(B, False, False)]
    assert turn.peerState(B).turn


def test_aBriefFirstTurnAfterTheEnd() -> None:
    """Listeners often leave without a word: the first turn of one that has waited is short after the last block."""
    turn = waiting(
        RetransmitPolicy(
            repeat=FixedTimeouts((1.0,)),
            progressTimeout=5.0,
            maxFailedTurns=3,
            maxRepeatsUnheard=None,
            shortTurn=ShortTurn(3, 0.1),
        )
    )
    turn.join(B, 0.0)
    turn.join(C, 0.0)
    out(turn)
    turn.hear(A, want(COUNT - 1), 1.0)
    out(turn, 1.0)
    turn.hear(A, Leave(outcomes.DONE), 2.0)
    log = until(turn, 2.0, 2.55)
    first = [now for now, action in log if action == Announce(B, True, False)]
    assert first == [2.0, 2.1, 2.2]
    assert next(now for now, action in log if action == Announce(C, True, False)) == pytest.approx(2.3)


def test_gathering() -> None:
    """
    The first block waits until nobody has joined for a while, but not for ever; greetings do not wait, and one of a
    listener that says nothing comes again after half of the delay, once.
    """
    turn = empty(
        RetransmitPolicy(repeat=FixedTimeouts((1.0,)), joinDelay=0.2, maxJoinDelay=0.5, maxRepeatsUnheard=None)
    )
    turn.join(A, 0.0)
    assert out(turn) == [Announce(A, True, False)]
    turn.hear(A, want(0), 0.01)
    for tenth in range(1, 5):
        turn.join(("10.0.0.20", tenth), tenth / 10)
        told = [action.peer[1] for action in out(turn, tenth / 10 + 0.001) if isinstance(action, Announce)]
        assert told == [tenth, *range(tenth - 1, max(tenth - 2, 0), -1)]
    turn.hear(("10.0.0.20", 4), RequestBlocks(), 0.4)
    assert turn.deadline(0.4) == 0.5
    assert out(turn, 0.499) == []
    assert out(turn, 0.5) == [burst(0)]
    turn.join(B, 0.6)
    turn.hear(A, want(1), 0.6)
    assert out(turn, 0.6) == [Announce(B, False, False), burst(1)]


def test_aDeafReceiverLeaves() -> None:
    """Who asks again and again for what went out meanwhile hears no multicast: it is gone, with what it lacks."""
    turn = waiting(
        RetransmitPolicy(
            repeat=FixedTimeouts((1.0,)),
            progressTimeout=30.0,
            maxFailedTurns=3,
            deafAfterRepeats=2,
            maxRepeatsUnheard=None,
        )
    )
    turn.join(B, 0.0)
    out(turn)
    turn.hear(A, want(3, 7), 0.5)
    out(turn, 0.5)
    out(turn, 1.5)
    turn.hear(A, want(3, 7), 2.0)
    assert polled(turn, 2.0)[:2] == [Left(A, outcomes.DEAF, (range(3, 7),)), Announce(B, True, False)]


ALL_DEAF = replace(GROUP, deafAfterRepeats=2, foundPerAssumedDeaf=2)


def test_nobodyIsHeldAgainstOthers() -> None:
    """One that asks for the first block in vain, and says so, is alone in that: nobody leaves with it."""
    turn = announced(ALL_DEAF)
    turn.join(B, 0.0)
    out(turn)
    gone: list[Left] = []
    for step in range(12):
        turn.hear(A, want(0), step / 4)
        gone += [action for action in polled(turn, step / 4) if isinstance(action, Left)]
    assert [(action.peer, action.outcome, action.wants, action.deaf) for action in gone] == [
        (A, outcomes.DEAF, (range(1),), True)
    ]
    assert turn.peerState(B) == PeerState(True, None, 0)


def test_assumedToBeDeaf() -> None:
    """For every two that were found another goes with them, while nobody is known to hear; it is not called deaf."""
    turn = announced(ALL_DEAF)
    peers = [A, *(("10.0.1.1", number) for number in range(1, 10))]
    for peer in peers[1:]:
        turn.join(peer, 0.0)
    gone: list[Left] = []
    for step in range(40):
        if turn.master is not None:
            turn.hear(turn.master.peer, want(0), step / 4)
        gone += [action for action in polled(turn, step / 4) if isinstance(action, Left)]
    assert [(peers.index(action.peer), action.deaf) for action in gone] == [
        *((0, True), (2, False), (1, True), (4, False), (3, True), (6, False), (7, False), (5, True)),
        *((9, False), (8, True)),
    ]


def test_theMasterIsAssumedToBeDeaf() -> None:
    """One that is found to be deaf after its turn takes the present master with it: the turn passes on."""
    turn = announced(replace(ALL_DEAF, foundPerAssumedDeaf=1))
    for peer in (B, C):
        turn.join(peer, 0.0)
    for instant in (0.0, 0.5):
        turn.hear(A, want(0), instant)
        out(turn, instant)
    until(turn, 0.5, 5.0)
    turn.hear(A, want(0), 5.1)
    assert out(turn, 5.1) == [Left(B, outcomes.DEAF), Left(A, outcomes.DEAF), Announce(C, True, False)]


def test_whoHasHeardIsNotCalledDeaf() -> None:
    """A master that has received blocks, and then asks for one in vain, goes on by unicast, but was not always deaf."""
    turn = announced(ALL_DEAF)
    turn.join(B, 0.0)
    out(turn)
    for number in (0, 1):
        turn.hear(A, want(number), number / 10)
        out(turn, number / 10)
    gone: list[tuple[float, Left]] = []
    now = 0.1
    for _ in range(60):
        now += 0.25
        gone += [(now, action) for action in polled(turn, now) if isinstance(action, Left)]
        turn.hear(A, want(1), now)
    # In its first turn it is not sent the block seven times.
    ((instant, left),) = gone
    assert (left.peer, left.outcome, left.deaf) == (A, outcomes.DEAF, False)
    assert instant > 5.1


@pytest.mark.parametrize("silent", [A, B])
def test_somebodyHears(silent: Peer) -> None:
    """One that asks for the second block is proof enough: who is silent is a suspect, as always."""
    turn = announced(ALL_DEAF)
    for peer in (B, C):
        turn.join(peer, 0.0)
    now, gone = 0.0, []
    for master in (A, B, C):
        turn.hear(master, want(0), now)
        out(turn, now)
        if master != silent:
            turn.hear(master, want(1), now)
        for _ in range(11):
            gone += [action for action in polled(turn, now) if isinstance(action, Left)]
            now += 0.5
    assert [action.outcome for action in gone if action.outcome == outcomes.DEAF] == []
    assert turn.memberCount() == 3


def test_repetitionsBeforeTheBlocksWentOutAreNotDeafness() -> None:
    """Two copies of one want, or one that crossed the blocks on its way, prove nothing."""
    turn = waiting(
        RetransmitPolicy(
            repeat=FixedTimeouts((1.0,)),
            progressTimeout=30.0,
            maxFailedTurns=3,
            deafAfterRepeats=2,
            maxRepeatsUnheard=None,
        )
    )
    for step in range(10):
        turn.hear(A, want(3, 7), 0.001 * step)
    assert not any(isinstance(action, Left) for action in out(turn, 0.01))


def test_aGroupIsNeverSilentForLong() -> None:
    """While there are members something is said every so often, without being asked: some clients give up otherwise."""
    turn = waiting(
        RetransmitPolicy(
            repeat=FixedTimeouts((3.0,)), progressTimeout=30.0, keepAliveInterval=0.5, maxRepeatsUnheard=None
        )
    )
    log = until(turn, 0.0, 2.9)
    assert [now for now, _ in log] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert {action for _, action in log} == {burst(6, again=True)}


def test_aTurnMayCostOnlySoMuch() -> None:
    """A master that has the blocks of the file sent more than twice over loses the turn, unless nobody waits for it."""
    for others in (0, 1):
        turn = announced(
            RetransmitPolicy(
                repeat=FixedTimeouts((1.0,)),
                progressTimeout=1e6,
                turnBudget=2.0,
                maxFailedTurns=3,
                maxRepeatsUnheard=None,
            )
        )
        if others:
            turn.join(B, 0.0)
        lost = 0
        for step in range(2 * COUNT + 20):
            if not turn.peerState(A).turn:
                lost = step
                break
            turn.hear(A, want(1 + step // 3), step * 2.0)
            out(turn, step * 2.0)
            out(turn, step * 2.0 + 1.5)
        assert bool(lost) == bool(others)


def test_aTurnMustGetSomewhere() -> None:
    """A master that moves by less than its share of the blocks loses the turn while others wait."""
    turn = announced(
        RetransmitPolicy(
            repeat=FixedTimeouts((1.0,)),
            progressTimeout=1e6,
            minTurnProgress=MinProgress(0.05, 10.0),
            maxFailedTurns=3,
            maxRepeatsUnheard=None,
        )
    )
    turn.join(B, 0.0)
    for second in range(1, 12):
        turn.hear(A, want(second // 4), float(second))
        out(turn, float(second))
    until(turn, 11.0, 25.0)
    assert turn.peerState(B).turn


def test_listenersConfirmTheirGreeting() -> None:
    """Where the protocol has listeners confirm, a greeting is repeated, once a second, until they have."""
    policy = RetransmitPolicy(
        repeat=FixedTimeouts((10.0,)), progressTimeout=100.0, maxListenerRepeats=3, maxRepeatsUnheard=None
    )
    turn = waiting(policy)
    turn.join(B, 0.0)
    turn.join(C, 0.0)
    out(turn)
    turn.hear(C, want(0), 0.1)
    log = until(turn, 0.1, 9.0)
    assert log == [(1.0, Announce(B, False, False)), (2.0, Announce(B, False, False)), (3.0, Announce(B, False, False))]


# The lane of a receiver in step.


def test_followedIsHearAndPoll() -> None:
    """A receiver that was followed leaves the cast as hear and poll would have, but for what was measured."""
    slow, fast = met(), met()
    assert fast.mayEnterFastPath(2) is not None
    for number in range(2, 30):
        slow.hear(A, want(number), number / 1000)
        assert out(slow, number / 1000) == [burst(number)]
    fast.fastPathLeft(range(29, 30), 0.029)
    assert fast.poll(0.029) is None
    assert slow.peerState(A) == fast.peerState(A)
    assert slow.deadline(0.029) == pytest.approx(fast.deadline(0.029), abs=0.02)
    assert [action for _, action in until(fast, 0.029, 40.0)][:1] == [burst(29, again=True)]


@pytest.mark.parametrize("window", [1, 2, 16])
def test_begunIsHearAndPoll(window: int) -> None:
    """A receiver whose first blocks went out unasked leaves the cast as its answer and a poll would have."""
    slow, fast = announced(RetransmitPolicy()), announced(RetransmitPolicy())
    assert fast.mayBeginFastPath()
    slow.hear(A, RequestBlocks((range(window),)), 0.5)
    assert out(slow, 0.5) == [SendBlocks(range(window), A, False)]
    assert fast.fastPathBegun(range(window), 0.5) == 1.0
    assert fast.poll(0.5) is None
    assert (slow.peerState(A), slow.heard(A)) == (fast.peerState(A), fast.heard(A))
    assert (slow.statistics(), slow.deadline(0.5)) == (fast.statistics(), fast.deadline(0.5))
    assert not fast.rttConverged, "the answer to a greeting comes when the client needs the data"
    assert until(slow, 0.5, 40.0) == until(fast, 0.5, 40.0)


def test_whoIsToAnswerAGreeting() -> None:
    """A greeting is answered without asking only where it is the first, of the only one, and nothing is held back."""
    assert not empty().mayBeginFastPath()
    assert not sending().mayBeginFastPath()
    assert not waiting().mayBeginFastPath()
    assert not announced(RetransmitPolicy(joinDelay=0.2, maxJoinDelay=1.0)).mayBeginFastPath()
    two, owing, again = announced(RetransmitPolicy()), empty(RetransmitPolicy()), met()
    two.join(B, 0.0)
    out(two)
    owing.join(A, 0.0)
    again.join(A, 0.1)
    out(again, 0.1)
    assert (two.mayBeginFastPath(), owing.mayBeginFastPath(), again.mayBeginFastPath()) == (False, False, False)


def test_nobodyIsFollowedBlindly() -> None:
    """Before the first answer, with a greeting due, or while a repetition is unanswered, nobody is in step."""
    assert announced(RetransmitPolicy()).mayEnterFastPath(0) is None
    unheard = empty(RetransmitPolicy())
    unheard.join(A, 0.0, (range(1),))
    out(unheard)
    assert unheard.mayEnterFastPath(1) is None
    never = waiting()
    assert never.mayEnterFastPath(never.highestSent + 1) is not None
    assert never.answerMeasured(0.1) == never.policy.repeat.steps[0]
    owing, repeated, unknown = met(), met(), empty(RetransmitPolicy())
    unknown.join(A, 0.0)
    out(unknown)
    unknown.hear(A, want(0), 0.0)
    out(unknown)
    assert (unknown.mayEnterFastPath(1), unknown.rttConverged) == (0.0, False)
    assert owing.mayEnterFastPath(2) is not None
    assert owing.mayEnterFastPath(1) is None
    owing.join(B, 0.1)
    assert owing.mayEnterFastPath(2) is None
    out(repeated, 1.0)
    assert repeated.mayEnterFastPath(2) is None
    assert sending().mayEnterFastPath(0) is None
    assert empty().mayEnterFastPath(0) is None


def met() -> Turn:
    """A cast whose one receiver has answered within a millisecond, and waits for block 2 of 0, 1, 2."""
    turn = announced(RetransmitPolicy())
    for number in (0, 1):
        turn.hear(A, want(number), number / 1000)
        out(turn, number / 1000)
    return turn


TRIED = replace(ALL_DEAF, shortTurn=ShortTurn(3, 0.1), reachabilityCheckAfter=5.0)


def midway(peers: tuple[Peer, ...], top: int = 20, policy: RetransmitPolicy = TRIED) -> Turn:
    """At 6 s, in the middle of a pass that A leads, with others who were there at its start."""
    turn = announced(policy)
    for peer in peers:
        turn.join(peer, 0.0)
    for number in range(top):
        turn.hear(A, want(number), number / 10)
        out(turn, number / 10)
    assert [action for action in out(turn, 6.0) if not isinstance(action, SendBlocks)] == []
    turn.hear(A, want(top), 6.0)
    return turn


def test_aListenerShowsThatItHears() -> None:
    """In a long pass one that had no turn gets it after five seconds; it hears, and leads until the next is tried."""
    turn = midway((B, C))
    assert out(turn, 6.0) == [Announce(A, False, True), Announce(B, True, False)]
    turn.hear(B, want(20), 6.01)
    assert out(turn, 6.01) == [burst(20, peer=B)]
    turn.hear(B, want(21), 6.02)
    assert out(turn, 6.02) == [Announce(B, False, True), Announce(C, True, False)]
    turn.hear(C, want(21), 6.03)
    turn.hear(C, want(22), 6.04)
    assert out(turn, 6.04) == [burst(22, peer=C)]


@pytest.mark.parametrize(("budget", "following"), [(8.0, Announce(A, True, True)), (6.01, Announce(C, True, False))])
def test_whatAMasterCostsIsCountedOnce(budget: float, following: Announce) -> None:
    """A master whose answer lets another show that it hears has cost the time up to that answer once: 6 s in all."""
    turn = midway((B, C), policy=replace(TRIED, addressBudget=budget))
    assert out(turn, 6.0) == [Announce(A, False, True), Announce(B, True, False)]
    turn.hear(B, Leave(outcomes.DONE), 6.01)
    assert out(turn, 6.01) == [Left(B, outcomes.DONE), following]


def test_aListenerThatHearsNothing() -> None:
    """It asks for the first block, gets it six times in 0.3 s, and goes on by unicast; another leads the group on."""
    turn = midway((B,))
    out(turn, 6.0)
    turn.hear(B, want(0), 6.01)
    instants = (6.01, 6.06, 6.11, 6.16, 6.21, 6.26)
    assert until(turn, 6.01, 6.3) == [(at, burst(0, peer=B, again=at > 6.01)) for at in instants]
    assert polled(turn, 6.311)[:2] == [Left(B, outcomes.DEAF, (range(1),)), Announce(A, True, True)]


def test_aListenerThatIsGone() -> None:
    """One that does not answer costs 0.3 s, and is a suspect."""
    turn = midway((B,))
    log = until(turn, 6.0, 6.31)
    assert log[0] == (6.0, Announce(A, False, True))
    assert log[-2:] == [(6.3, Announce(A, True, True)), (6.3, Announce(B, False, False))]
    assert {action for _, action in log[1:-2]} == {Announce(B, True, False)}
    assert len(log) - 3 in (3, 4)


def test_whoCameLateIsNotTried() -> None:
    """It lacks the beginning whether it hears or not."""
    turn = midway(())
    out(turn, 6.0)
    turn.join(B, 6.0)
    turn.hear(A, want(21), 12.0)
    assert Announce(B, True, False) not in out(turn, 12.0)


def test_whoAskedAgainIsNotTried() -> None:
    """Its first answer was lost, and it asks in the middle of the pass: so it came late, too."""
    turn = announced(TRIED)
    turn.join(B, 0.0)
    for number in range(20):
        turn.hear(A, want(number), number / 10)
        out(turn, number / 10)
    turn.join(B, 3.0)
    turn.hear(A, want(20), 6.0)
    assert Announce(B, True, False) not in out(turn, 6.0)
