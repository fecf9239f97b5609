"""
Turn under whatever may happen, for every protocol's patience.

Receivers come, go, die, restart, repeat themselves and lose what was sent; whatever the order, there is never more than
one master, never a block that nobody wanted, and everybody who keeps asking ends with the whole file.
"""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from castd.cast.events import (
    Leave,
)
from castd.cast.policy import AdaptiveTimeout, FixedTimeouts, MinProgress, RetransmitPolicy, ShortTurn
from castd.cast.turn import Turn
from tests.support.cast_hall import Habits, Hall, Receiver

habits = st.builds(
    Habits,
    window=st.sampled_from([1, 1, 4, 16]),
    deaf=st.sampled_from([False, False, False, True]),
    confirms=st.booleans(),
    leaves=st.booleans(),
    repeats=st.sampled_from([0.25, 1.5, 5.0]),
)


class TurnMachine(RuleBasedStateMachine):
    """What all patiences have in common; the subclasses say which one."""

    policy = RetransmitPolicy()
    group = True
    most = 12

    @initialize(seed=st.integers(0, 1 << 32), blocks=st.sampled_from([1, 2, 9, 40]))
    def begin(self, seed: int, blocks: int) -> None:
        self.hall = Hall(Turn(self.policy, blocks), self.policy, blocks, self.group, random.Random(seed))

    def some(self, pick: int) -> Receiver:
        receivers = list(self.hall.receivers.values())
        return receivers[pick % len(receivers)]

    def full(self) -> bool:
        return len(self.hall.receivers) >= self.most

    def populated(self) -> bool:
        return bool(self.hall.receivers)

    @precondition(lambda self: not self.full())
    @rule(habits=habits)
    def join(self, habits: Habits) -> None:
        """A machine is switched on."""
        self.hall.ask(habits)

    @rule(seconds=st.sampled_from([0.0005, 0.002, 0.01, 0.1, 0.9, 4.0, 15.0]))
    def passTime(self, seconds: float) -> None:
        """Time goes by."""
        self.hall.pass_(seconds)

    @rule(loss=st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]), duplicate=st.sampled_from([0.0, 0.3]))
    def weather(self, loss: float, duplicate: float) -> None:
        """The network becomes better or worse."""
        self.hall.loss, self.hall.duplicate = loss, duplicate
        self.hall.everLossy |= loss > 0

    @precondition(populated)
    @rule(pick=st.integers(0, 99))
    def die(self, pick: int) -> None:
        """Somebody pulls a plug."""
        self.some(pick).dead = True

    @precondition(populated)
    @rule(pick=st.integers(0, 99))
    def restart(self, pick: int) -> None:
        """A machine begins anew from the same port: it has nothing, and sends its request."""
        receiver = self.some(pick)
        receiver.dead, receiver.ended, receiver.master, receiver.restarted = False, None, False, True
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
    @rule(pick=st.integers(0, 99))
    def abort(self, pick: int) -> None:
        """A machine gives up and says so."""
        receiver = self.some(pick)
        if receiver.here:
            self.hall.post(receiver, Leave("aborted"))
            receiver.dead = True

    def teardown(self) -> None:
        if hasattr(self, "hall") and self.hall.sound:
            self.hall.finish()


class UnicastMachine(TurnMachine):
    """TFTP: one receiver."""

    group = False
    most = 1


class PlainUnicastMachine(UnicastMachine):
    """TFTP without options: the request itself asks for the first block."""

    @precondition(lambda self: not self.full())
    @rule(repeats=st.sampled_from([0.25, 5.0]))
    def join(self, repeats: float) -> None:
        """A machine is switched on."""
        self.hall.ask(Habits(repeats=repeats, eager=True))


class MulticastMachine(TurnMachine):
    """RFC 2090 and IBM's subnet broadcast."""

    policy = RetransmitPolicy(
        repeat=AdaptiveTimeout(first=0.25, growth=1.5, ceiling=1.0),
        progressTimeout=3.0,
        measuredProgressTimeout=1.0,
        minRepeats=6,
        loneProgressTimeout=10.0,
        maxRepeatsUnheard=None,
        shortTurn=ShortTurn(3, 0.1),
        maxFailedTurns=3,
        keepAliveInterval=5.0,
        joinDelay=0.2,
        maxJoinDelay=3.0,
        deafAfterRepeats=2,
        maxListenerRepeats=3,
        turnBudget=2.0,
        minTurnProgress=MinProgress(0.01, 10.0),
    )


class MtftpMachine(TurnMachine):
    """PXE MTFTP: short steps, one term, a group that is never silent; nobody is taken aside."""

    policy = RetransmitPolicy(
        repeat=FixedTimeouts((0.08, 0.08, 0.2)),
        progressTimeout=2.0,
        loneProgressTimeout=10.0,
        maxRepeatsUnheard=5,
        shortTurn=ShortTurn(3, 0.08),
        maxFailedTurns=1,
        keepAliveInterval=0.2,
        joinDelay=0.1,
        maxJoinDelay=0.15,
    )


class BareMachine(TurnMachine):
    """TFTP's patience with a group: every rule that can be off is off."""

    policy = RetransmitPolicy(maxRepeatsUnheard=None, maxCorrections=0)


few = settings(settings.default, stateful_step_count=30, report_multiple_bugs=False)
TestUnicast = pytest.mark.slow(UnicastMachine.TestCase)
TestPlainUnicast = pytest.mark.slow(PlainUnicastMachine.TestCase)
TestMulticast = pytest.mark.slow(MulticastMachine.TestCase)
TestMtftp = pytest.mark.slow(MtftpMachine.TestCase)
TestBare = pytest.mark.slow(BareMachine.TestCase)
for machine in (UnicastMachine, PlainUnicastMachine, MulticastMachine, MtftpMachine, BareMachine):
    machine.TestCase.settings = few
