"""
What may be drawn by lists that are perhaps forged: cut at random, so that only who hears the group knows the cut.
"""

from __future__ import annotations

import random
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.cast.allowance import (
    ENOUGH_PROOF,
    FLOOD_MOMENT,
    FLOOD_SILENCE,
    LISTS_DEPTH,
    UNPROVED_DEPTH,
    UNVALIDATED_DEPTH,
    Allowance,
    Proof,
    numbersAt,
)
from castd.cast.blockset import difference, intersection, merged, total
from castd.cast.events import Ranges

COUNT = 6000

runs = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 60)), min_size=1, max_size=40).map(
    lambda pairs: merged(range(start, start + length) for start, length in pairs)
)


def allowance(seed: int = 1) -> Allowance:
    return Allowance(random.Random(seed).random)


def honest(made: Allowance, lacking: Ranges, most: int = 100) -> list[int]:
    """Return how many blocks each answer of a receiver draws that loses nothing, until it has all."""
    proof, drawn = Proof(), []
    while lacking and len(drawn) < most:
        granted = made.forAnswer(proof, lacking, 0.0) or ()
        lacking = difference(lacking, granted)
        proof.answered(total(granted))
        drawn.append(total(granted))
    assert not lacking
    return drawn


@given(runs, st.integers(0, 4000), st.integers(0, 1000))
def test_drawsOnlyWhatIsLacking(lacking: Ranges, credit: int, seed: int) -> None:
    """Whatever is drawn is lacking, and with a stake no more is due than was drawn."""
    proof = Proof()
    proof.credit = credit
    granted = allowance(seed).forAnswer(proof, lacking, 0.0) or ()
    assert intersection(granted, lacking) == granted
    assert proof.due <= total(granted) or not proof.stake


@pytest.mark.slow
@given(runs, st.data())
def test_numbersAt(lacking: Ranges, data: st.DataObject) -> None:
    """The numbers at some places are those that a list of all numbers has there."""
    numbers = list(chain(*lacking))
    places = sorted(data.draw(st.sets(st.integers(0, len(numbers) - 1))))
    assert [run[0] for run in numbersAt(lacking, places)] == [numbers[place] for place in places]


def test_longLists() -> None:
    """A receiver that lists all needs a few answers, and is then believed."""
    drawn = honest(allowance(), (range(COUNT),))
    assert len(drawn) <= 3
    assert drawn[0] <= UNPROVED_DEPTH


@pytest.mark.parametrize("seed", range(5))
def test_emptyBuckets(seed: int) -> None:
    """Also when little is left for those without a proof, a receiver proves itself soon."""
    made = allowance(seed)
    assert made.forAnswer(Proof(), (range(int(UNPROVED_DEPTH) - 20),), 0.0)
    assert len(honest(made, (range(COUNT),))) <= 14


@pytest.mark.parametrize("seed", range(5))
def test_shortLists(seed: int) -> None:
    """A receiver that lists four blocks at a time draws nearly all of them from the first to the last."""
    made, proof, at, answers = allowance(seed), Proof(), 0, 0
    while at < COUNT:
        granted = made.forAnswer(proof, (range(at, min(at + 4, COUNT)),), answers * 0.001)
        at += total(granted or ())
        proof.answered(total(granted or ()))
        answers += 1
    assert answers < 1.1 * COUNT / 4 + 40


@pytest.mark.parametrize("seed", range(20))
def test_guessing(seed: int) -> None:
    """Who guesses which blocks were sent, however often, does not get a proof before he counts as guessing."""
    made, chance, proof, drawn = allowance(seed), random.Random(-seed - 1), Proof(), 0
    made.forAnswer(Proof(), (range(int(UNPROVED_DEPTH) - 200),), 0.0)
    while not proof.guesses:
        granted = made.forAnswer(proof, (range(4),), 0.0)
        if granted is None:
            break
        drawn += total(granted)
        guess = chance.randrange(1, 5)
        if guess > total(granted):
            proof.contradicted()
        else:
            proof.answered(guess)
        assert proof.bits < ENOUGH_PROOF
    assert drawn <= 400


def test_unasked() -> None:
    """Lists that answer nothing draw their first blocks from a bucket of their own."""
    made = allowance()
    assert made.forUnasked((range(COUNT),), 0.0) == (range(int(UNVALIDATED_DEPTH)),)
    assert made.forUnasked((range(COUNT),), 0.0) == ()
    assert total(made.forUnasked((range(COUNT),), 1.0)) == 64
    assert made.forAnswer(Proof(), (range(4),), 1.0) == (range(4),)


def test_flood() -> None:
    """In a flood the blocks of such lists are sent together, and then none for a while, as clients speak in silence."""
    made = allowance()
    for _ in range(int(LISTS_DEPTH) + 50):
        made.listed(0.0)
    assert made.flooded(0.0)
    assert made.forUnasked((range(4),), 0.0) == (range(4),)
    assert made.forUnasked((range(4, 8),), FLOOD_MOMENT / 2) == (range(4, 8),)
    for instant in (FLOOD_MOMENT, 1.0, FLOOD_SILENCE - 0.001):
        made.listed(instant)
        for _ in range(40):
            made.listed(instant)
        assert made.forUnasked((range(4),), instant) == ()
    for _ in range(80):
        made.listed(FLOOD_SILENCE)
    assert made.forUnasked((range(4),), FLOOD_SILENCE) == (range(4),)
    assert not made.flooded(60.0)
