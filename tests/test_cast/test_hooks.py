"""
The hooks of Turn: when each is called, what its default is, and that docs/plugins.md names them all.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from castd import outcomes
from castd.cast.events import Leave, Left, Ranges, RequestBlocks, SendBlocks
from castd.cast.members import Member
from castd.cast.policy import FixedTimeouts, RetransmitPolicy
from castd.cast.turn import GenericTurn, Turn, TurnState
from castd.request import Peer

A, B, C = ("a", 1), ("b", 1), ("c", 1)
POLICY = RetransmitPolicy(repeat=FixedTimeouts((1.0,)), progressTimeout=5.0, maxFailedTurns=3)
GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"


class Recorded(Turn):
    """A Turn that tells which hooks were called, and does as its parent."""

    def __init__(self, policy: RetransmitPolicy, count: int) -> None:
        super().__init__(policy, count)
        self.calls: list[tuple[object, ...]] = []

    def newMember(self, peer: Peer, wants: Ranges, now: float) -> Member:
        self.calls.append(("newMember", peer, wants))
        return super().newMember(peer, wants, now)

    def successor(self, now: float) -> Member | None:
        chosen = super().successor(now)
        self.calls.append(("successor", None if chosen is None else chosen.peer))
        return chosen

    def turnGiven(self, member: Member, now: float) -> None:
        self.calls.append(("turnGiven", member.peer, self.master is member))

    def repetition(self) -> list[range]:
        self.calls.append(("repetition", self.state))
        return super().repetition()

    def leaving(self, member: Member, outcome: str, now: float) -> str:
        self.calls.append(("leaving", member.peer, outcome, self.members.get(member.peer) is member))
        return outcome


def drained(turn: Turn, now: float) -> list[object]:
    """Return all that is due."""
    found = []
    while (action := turn.poll(now)) is not None:
        found.append(action)
    return found


def test_whenTheyAreCalled() -> None:
    """A member is made, told of its turn before it has it, repeated to, and asked for its outcome while it is one."""
    turn = Recorded(POLICY, 10)
    turn.join(A, 0.0)
    turn.join(B, 0.0)
    turn.hear(A, RequestBlocks((range(1),)), 0.1)
    drained(turn, 0.1)
    drained(turn, 1.2)
    turn.hear(A, Leave(outcomes.DONE), 1.3)
    assert turn.calls == [
        ("newMember", A, ()),
        ("turnGiven", A, False),
        ("newMember", B, ()),
        ("repetition", TurnState.WAITING),
        ("leaving", A, outcomes.DONE, True),
        ("successor", B),
        ("turnGiven", B, False),
    ]


def test_theOutcomeIsTheHooks() -> None:
    """What the hook returns is what the farewell tells."""

    class Milder(Turn):
        def leaving(self, member: Member, outcome: str, now: float) -> str:
            return outcomes.UNCONFIRMED if outcome == outcomes.ABORTED else outcome

    turn = Milder(POLICY, 10)
    turn.join(A, 0.0)
    turn.hear(A, Leave(outcomes.ABORTED), 0.1)
    assert drained(turn, 0.1) == [Left(A, outcomes.UNCONFIRMED)]


def test_timesAreTheHooks() -> None:
    """What is not answered is repeated after the interval, and the turn is lost at the end, that the hooks say."""

    class Hasty(Turn):
        def interval(self, member: Member) -> float:
            return 0.25

        def turnEndsAt(self, member: Member) -> float:
            return self.progressAt + 0.6

    turn = Hasty(POLICY, 10)
    for peer in (A, B):
        turn.join(peer, 0.0)
    turn.hear(A, RequestBlocks((range(1),)), 0.0)
    drained(turn, 0.0)
    assert turn.deadline(0.0) == 0.25
    assert drained(turn, 0.25) == [SendBlocks(range(1), A, again=True)]
    assert turn.master is not None
    drained(turn, 0.6)
    assert turn.master.peer == B


def test_theSilenceIsTheHooks() -> None:
    """A group that was sent nothing for as long as the hook says is sent the block in flight: no repetition."""

    class Talkative(Turn):
        def longestSilence(self) -> float | None:
            return 0.1

    turn = Talkative(POLICY, 10)
    turn.join(A, 0.0)
    turn.hear(A, RequestBlocks((range(1),)), 0.0)
    drained(turn, 0.0)
    assert turn.deadline(0.0) == 0.1
    assert drained(turn, 0.1) == [SendBlocks(range(1), A, again=True)]
    assert turn.deadline(0.1) == 0.2
    assert turn.master is not None
    assert turn.master.rto.repeats == 0


def test_theNextIsTheHooks() -> None:
    """A turn goes to whom the hook chooses."""

    class Youngest(Turn):
        def successor(self, now: float) -> Member | None:
            return list(self.members)[-1] if len(self.members) else None

    turn = Youngest(POLICY, 10)
    for peer in (A, B, C):
        turn.join(peer, 0.0)
    turn.hear(A, Leave(outcomes.DONE), 0.1)
    assert turn.master is not None
    assert turn.master.peer == C


def test_theGuideNamesThem() -> None:
    """Every hook has a row in docs/plugins.md, and every row is a hook."""
    section = GUIDE.read_text().partition("## The cast\n")[2].partition("\n## ")[0]
    rows = {line.split("`")[1].partition("(")[0] for line in section.splitlines() if line.startswith("| `")}
    hooks = {
        name for name, method in inspect.getmembers(GenericTurn, inspect.isfunction) if "Hook:" in str(method.__doc__)
    }
    assert rows == hooks
