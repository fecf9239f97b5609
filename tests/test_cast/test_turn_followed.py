"""
A cast that is told what its master was sent by the fast path is in the state of one that was asked for each block.

Two casts hear the same script: receivers that join, leave, die, restart and repeat themselves, strangers, losses,
duplicates and late answers.  One is asked each time.  The other is told afterwards, whenever anything happens that the
fast path does not foresee, and now and then without a reason.  Both do the same at the same instants, and each
attribute of both is the same, to the last bit of each float.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from castd.cast.events import Action, Event, Leave, PeerState, Ranges, RequestBlocks, SendBlocks
from castd.cast.policy import FixedTimeouts, MinProgress, RetransmitPolicy, ShortTurn
from castd.cast.turn import MIN_RTO, MasterTerms, Turn
from castd.dialects._group import POLICY, GroupTurn, groupPolicy
from castd.request import Peer
from tests.support.cast_hall import Habits, Hall, Receiver
from tests.support.turns import state

MULTICAST = groupPolicy(0.2, 3.0, 3.0)
POLICIES = {
    "multicast": MULTICAST,
    "sbroadcast": replace(MULTICAST, keepAliveInterval=3.0, maxListenerRepeats=3),
    "soon checked": replace(MULTICAST, joinDelay=0.0, reachabilityCheckAfter=0.05, foundPerAssumedDeaf=1),
    "little budget": replace(
        POLICY,
        joinDelay=0.0,
        addressBudget=1.2,
        turnBudget=0.5,
        minTurnProgress=MinProgress(0.3, 0.1),
        maxListenerRepeats=5,
    ),
    "lively": replace(POLICY, keepAliveInterval=0.1, joinDelay=0.01, maxJoinDelay=0.02),
    "fixed": RetransmitPolicy(
        repeat=FixedTimeouts((0.08, 0.08, 0.2)),
        progressTimeout=2.0,
        maxRepeatsUnheard=None,
        maxFailedTurns=2,
        deafAfterRepeats=2,
        shortTurn=ShortTurn(3, 0.08),
    ),
    "bare": RetransmitPolicy(maxRepeatsUnheard=None, deafAfterRepeats=2),
}


def tidy(cast: Turn) -> None:
    """Drop what is out of date, as is done whenever anybody looks."""
    cast._listeners.next  # noqa: B018
    if cast._reachability is not None:
        cast._reachability.nextCheckAt(cast.members)


class Followed:
    """
    Asks one cast each time, and tells the other what was sent; both must do the same.

    @ivar steps: blocks that the second was not asked for.
    @ivar late: how many answers of the master the second is told of at once, if nothing else happens.
    """

    def __init__(self, asked: Turn, told: Turn) -> None:
        self.asked, self.told = asked, told
        self.steps = 0
        self.late = 1
        for cast in (asked, told):
            cast.recordSent()
        self._terms: MasterTerms | None = None
        self._numbers = range(0)  # the blocks that the other was not told of
        self._steppedAt = self._interval = self._shortest = 0.0
        self._noted: list[float] = []  # times of answers that the other was not told of
        self._next: SendBlocks | None = None

    def leave(self) -> None:
        """Tell the second cast what was sent, and compare the two."""
        assert self._next is None, "told in the middle of a step"
        if self._terms is not None and self._numbers:
            self._tell()
            self.told.masterFollowed(self._numbers, self._steppedAt)
        self._terms, self._numbers, self._shortest = None, range(0), 0.0
        for cast in (self.asked, self.told):
            tidy(cast)
        assert state(self.asked) == state(self.told)

    def _tell(self) -> float:
        """Tell the second cast of the answers that were noted.  -> the instant at which the next one is missing."""
        before = self._steppedAt + self._shortest
        self._interval, self._shortest = self.told.masterAnswered(self._noted)
        self._noted = []
        due = self._steppedAt + self._interval
        assert due >= before, "earlier than the timer that was set before they were known"
        assert self._interval >= self._shortest > 0.0
        return due

    def _step(self, peer: Peer, event: Event, now: float) -> bool:
        """Take a step, as the fast path would, if this is the answer that it expects."""
        terms = self._terms
        if terms is None:
            return False
        number = terms.start + len(self._numbers)
        expected = RequestBlocks((range(number, number + 1),))
        if peer != terms.peer or event != expected or number >= (self.asked.count or 0):
            return False
        since = now - (self._steppedAt if self._numbers else terms.sentAt)
        if since > MIN_RTO or now >= terms.until or len(self._numbers) >= terms.most:
            return False
        self._noted.append(since)
        self._steppedAt, self._numbers = now, range(terms.start, number + 1)
        if len(self._numbers) == 1 or len(self._noted) >= self.late:
            self._tell()
        self._next = SendBlocks(range(number, number + 1), peer, False)
        self.steps += 1
        return True

    # What Hall calls.

    @property
    def highestSent(self) -> int:
        return self.asked.highestSent

    def join(self, peer: Peer, now: float, wants: Ranges = ()) -> None:
        self.leave()
        for cast in (self.asked, self.told):
            cast.join(peer, now, wants)

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        if self._step(peer, event, now):
            self.asked.hear(peer, event, now)
            return
        self.leave()
        for cast in (self.asked, self.told):
            cast.hear(peer, event, now)
        self.leave()

    def poll(self, now: float) -> Action | None:
        if self._numbers and self._next is None and now >= self._steppedAt + self._shortest and now >= self._tell():
            self.leave()  # the timer
        if self._numbers:
            action, self._next = self._next, None
            assert self.asked.poll(now) == action
            return action
        self.leave()
        action = self.asked.poll(now)
        assert action == self.told.poll(now)
        if action is None:
            self.leave()
            self._terms = self.told.mayFollowMaster()
        return action

    def deadline(self, now: float) -> float | None:
        due = self.asked.deadline(now)
        if self._numbers:
            assert due is not None
            assert due >= self._steppedAt + self._shortest
            if not self._noted:
                assert due == max(self._steppedAt + self._interval, now)
        else:
            assert due == self.told.deadline(now)
        return due

    def peerState(self, peer: Peer) -> PeerState | None:
        return self.asked.peerState(peer)

    def memberCount(self) -> int:
        assert self.asked.memberCount() == self.told.memberCount()
        return self.asked.memberCount()


habits = st.builds(
    Habits,
    deaf=st.sampled_from([False, False, False, True]),
    confirms=st.booleans(),
    leaves=st.booleans(),
    repeats=st.sampled_from([0.25, 1.5, 5.0]),
)


class FollowedMachine(RuleBasedStateMachine):
    """A group under whatever may happen, with a cast that is asked beside one that is told."""

    @initialize(
        seed=st.integers(0, 1 << 32),
        blocks=st.sampled_from([3, 9, 40, 200]),
        name=st.sampled_from(sorted(POLICIES)),
        late=st.sampled_from([1, 3, 32]),
    )
    def begin(self, seed: int, blocks: int, name: str, late: int) -> None:
        policy = POLICIES[name]
        # A group sends two blocks to who does not answer one; where nothing is sent unasked the hall would object.
        kind = Turn if policy.keepAliveInterval is None else GroupTurn
        self.both = Followed(kind(policy, blocks), kind(policy, blocks))
        self.both.late = late
        self.hall = Hall(self.both, policy, blocks, True, random.Random(seed))
        # One that hears everything may be taken for deaf where some are assumed to be: that is not asked here.
        self.hall.everLossy = True

    def some(self, pick: int) -> Receiver:
        receivers = list(self.hall.receivers.values())
        return receivers[pick % len(receivers)]

    def populated(self) -> bool:
        return bool(self.hall.receivers)

    @precondition(lambda self: len(self.hall.receivers) < 9)
    @rule(habits=habits)
    def join(self, habits: Habits) -> None:
        """A machine is switched on."""
        self.hall.ask(habits)

    @rule(seconds=st.sampled_from([0.0005, 0.003, 0.02, 0.1, 0.3, 0.9, 4.0]))
    def passTime(self, seconds: float) -> None:
        """Time goes by."""
        self.hall.pass_(seconds)

    @rule(
        loss=st.sampled_from([0.0, 0.0, 0.02, 0.2, 1.0]),
        duplicate=st.sampled_from([0.0, 0.3]),
        delay=st.sampled_from([0.0, 0.001, 0.02, 0.1]),
    )
    def weather(self, loss: float, duplicate: float, delay: float) -> None:
        """The network becomes better or worse."""
        self.hall.loss, self.hall.duplicate, self.hall.delay = loss, duplicate, delay

    @precondition(populated)
    @rule(pick=st.integers(0, 99))
    def die(self, pick: int) -> None:
        """Somebody pulls a plug."""
        self.some(pick).dead = True

    @precondition(populated)
    @rule(pick=st.integers(0, 99))
    def restart(self, pick: int) -> None:
        """A machine begins anew from the same port."""
        receiver = self.some(pick)
        receiver.dead, receiver.ended, receiver.master = False, None, False
        receiver.lacks = set(range(self.hall.blocks))
        self.hall.post(receiver, None)

    @precondition(populated)
    @rule(pick=st.integers(0, 99), times=st.integers(1, 5))
    def stammer(self, pick: int, times: int) -> None:
        """A machine says again what it last said, whether asked or not."""
        receiver = self.some(pick)
        if receiver.here and not receiver.dead:
            for _ in range(times):
                self.hall.post(receiver, receiver.wish())

    @precondition(populated)
    @rule(pick=st.integers(0, 99), number=st.integers(-2, 2))
    def stray(self, pick: int, number: int) -> None:
        """A member asks for a block near the one that is served, and somebody else for that one."""
        receiver = self.some(pick)
        start = max(0, self.both.highestSent + number)
        if receiver.here and start < self.hall.blocks:
            self.hall.post(receiver, RequestBlocks((range(start, start + 1),)))
        self.both.hear(("10.9.9.9", 9), RequestBlocks((range(start, start + 1),)), self.hall.now)

    @precondition(populated)
    @rule(pick=st.integers(0, 99))
    def abort(self, pick: int) -> None:
        """A machine gives up and says so."""
        receiver = self.some(pick)
        if receiver.here:
            self.hall.post(receiver, Leave("aborted"))
            receiver.dead = True

    @rule()
    def look(self) -> None:
        """Somebody looks at the status: the cast is told without any other reason."""
        self.both.leave()


FollowedMachine.TestCase.settings = settings(
    settings.default, stateful_step_count=40, report_multiple_bugs=False, phases=[Phase.generate]
)
TestFollowed = pytest.mark.slow(FollowedMachine.TestCase)


def hall(policy: RetransmitPolicy, receivers: int, blocks: int = 200, **weather: Any) -> tuple[Hall, Followed]:
    """A hall of receivers that joined at once."""
    both = Followed(GroupTurn(policy, blocks), GroupTurn(policy, blocks))
    made = Hall(both, policy, blocks, True, random.Random(3))
    for _ in range(receivers):
        made.ask(Habits())
    for name, value in weather.items():
        setattr(made, name, value)
    return made, both


@pytest.mark.slow
@pytest.mark.parametrize("receivers", [1, 5])
def test_mostBlocksAreNotAskedFor(receivers: int) -> None:
    """Where nothing is lost the cast is asked for the first two blocks, and where the turn passes on, and no more."""
    made, both = hall(MULTICAST, receivers)
    made.pass_(3.0)
    both.leave()
    assert both.asked.highestSent == 199
    assert both.steps == 198


@pytest.mark.slow
def test_nothingElseIsForeseen() -> None:
    """Who is slow, was sent a block again, has not shown that it hears, or is to be checked is not followed."""
    for policy, weather in ((MULTICAST, {"delay": 0.2}), (POLICIES["soon checked"], {}), (MULTICAST, {"loss": 0.3})):
        made, both = hall(policy, 3, **weather)
        made.everLossy = True
        made.pass_(3.0)
        both.leave()
        assert both.steps < both.asked.highestSent
    silent, both = hall(MULTICAST, 2)
    for receiver in silent.receivers.values():
        receiver.habits.deaf = True
    silent.pass_(3.0)
    assert both.steps == 0
