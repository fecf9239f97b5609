"""
The limits of a group by themselves: the delay of the first block, the budget of a turn, and that of an address.
"""

from __future__ import annotations

import pytest

from castd.cast.limits import COSTS_LAST, MIN_TURN_BUDGET, MOST_CHARGED, AddressCosts, JoinDelay, TurnBudget
from castd.cast.policy import MIN_RTO, MinProgress, RetransmitPolicy

HOST = "10.0.0.10"
POLICY = RetransmitPolicy(
    joinDelay=0.2, maxJoinDelay=0.5, turnBudget=2.0, minTurnProgress=MinProgress(0.01, 10.0), addressBudget=4.0
)


def test_theDelayHasAnEnd() -> None:
    """Each who joins puts the first block off, but no further than the limit from the first on."""
    delay = JoinDelay(POLICY)
    assert delay.until is None
    for instant, until in ((1.0, 1.2), (1.1, 1.3), (1.25, 1.45), (1.4, 1.5), (1.49, 1.5)):
        delay.extend(instant)
        assert delay.until == pytest.approx(until)


def test_halfOfTheDelay() -> None:
    """An announcement is repeated half of the delay later, where that is before the first block."""
    delay = JoinDelay(POLICY)
    assert delay.halfway(1.0) is None
    delay.extend(1.0)
    assert delay.halfway(1.0) == 1.1
    delay.until = 1.1
    assert delay.halfway(1.0) is None


@pytest.mark.parametrize(("count", "most"), [(1000, 2000), (10, MIN_TURN_BUDGET)])
def test_blocksOfATurn(count: int, most: int) -> None:
    """A turn may take each block of the file twice, and of a short file some more."""
    budget = TurnBudget(POLICY, count, 0.0)
    assert budget.mostBlocks == most
    assert (budget.overspent(most, 5, 1.0), budget.overspent(most + 1, 5, 1.0)) == (False, True)


def test_progressOfATurn() -> None:
    """In each interval a master gets on by a hundredth of the file, from where it was at the end of the one before."""
    budget = TurnBudget(POLICY, 1000, 0.0)
    assert budget.checksAt == 10.0
    assert not budget.overspent(0, None, 20.0), "it is to answer its announcement first"
    assert not budget.overspent(10, 0, 9.9)
    assert not budget.overspent(10, 10, 10.0)
    assert budget.checksAt == 20.0
    assert not budget.overspent(19, 19, 19.9)
    assert budget.overspent(19, 19, 20.0)


def test_noLimits() -> None:
    """Without the rules a turn may take any number of blocks, and any time."""
    budget = TurnBudget(RetransmitPolicy(), 1000, 0.0)
    assert (budget.mostBlocks, budget.checksAt) == (float("inf"), float("inf"))
    assert not budget.overspent(1 << 40, 0, 1e9)


def test_theFirstTurnOfAnAddress() -> None:
    """In its first turn a machine may be as slow as the rules for a turn allow; then its budget counts."""
    costs = AddressCosts(POLICY, 1000)
    costs.turnBegins(HOST, 0.0)
    costs.waited(HOST, 3.0)
    assert (costs.leftOfTurn(HOST), costs.left(HOST)) == (7.0, 1.0)
    costs.turnBegins(HOST, 0.0)
    assert costs.leftOfTurn(HOST) == 1.0
    costs.waited(HOST, 1.0 - MIN_RTO / 2)
    assert (costs.leftOfTurn(HOST), costs.left(HOST)) == (0.0, 0.0)
    assert costs.left("10.0.0.11") == 4.0


@pytest.mark.parametrize(("count", "left"), [(1000, 0.0), (None, 4.0)])
def test_blocksForAnAddress(count: int | None, left: float) -> None:
    """All turns of an address together may take no more blocks than one turn, where it is known how many that are."""
    costs = AddressCosts(POLICY, count)
    costs.turnEnds(HOST, 1500, 1.0)
    costs.turnEnds(HOST, 500, 1.0)
    assert costs.left(HOST) == 4.0
    costs.turnEnds(HOST, 1, 1.0)
    assert costs.left(HOST) == left


def test_whatIsForgotten() -> None:
    """An address is forgotten some time after its last turn has ended, and is not charged for ever for what it cost."""
    costs = AddressCosts(POLICY, 1000)
    costs.turnBegins(HOST, 0.0)
    costs.turnEnds(HOST, 1, 1.0)
    costs.turnBegins("10.0.0.11", 1.0)
    costs.turnEnds("10.0.0.11", 1, 2.0)
    costs.turnBegins(HOST, 2.0)
    costs.waited(HOST, 4.0)
    costs.turnEnds(HOST, 2001, 2.0 + COSTS_LAST)
    costs.turnBegins("10.0.0.12", 2 * COSTS_LAST + 1.5)
    assert (costs.left(HOST), costs.leftOfTurn(HOST)) == (0.0, 0.0)
    costs.turnBegins("10.0.0.12", 2 * COSTS_LAST + 2.0)
    assert (costs.left(HOST), costs.seconds) == (4.0, {})


def test_endlessGroup() -> None:
    """A group that never ends remembers the costs of no more addresses than so many."""
    costs = AddressCosts(POLICY, 1000)
    for number in range(2 * MOST_CHARGED):
        host = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        costs.turnBegins(host, number / 1000)
        costs.waited(host, 1.0)
        costs.turnEnds(host, 9, number / 1000)
    kept = (costs.seconds, costs._blocks, costs._turns)
    assert [len(each) for each in kept] == 3 * [MOST_CHARGED]
    assert costs.left(host) == 3.0
