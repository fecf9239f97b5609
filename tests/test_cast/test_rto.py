"""
The timeout of a single block follows the losses: it is short where blocks are lost, and long where answers are late.
"""

from __future__ import annotations

import pytest

from castd.cast.policy import CLIENT_TIMER, GRANULARITY, MIN_RTO, AdaptiveTimeout, FixedTimeouts
from castd.cast.rto import RtoEstimator

#: Seconds in which the receiver of these tests answers.
RTT = 0.0003


#: As for a group, where others wait.
GROUP = AdaptiveTimeout(quickRepeats=None)


def measured(repeat: AdaptiveTimeout = GROUP) -> RtoEstimator:
    """Return the estimator of a receiver that has answered at once each time."""
    rto = RtoEstimator(repeat)
    for _ in range(50):
        rto.sample(RTT)
    return rto


def lost(rto: RtoEstimator, after: float = RTT) -> None:
    """Let a block be answered that was repeated once; and the next one at once."""
    rto.backOff()
    rto.repeatedBlockAnswered(after)
    rto.answered()
    rto.sample(RTT)


def test_nothingIsLost() -> None:
    """Before a repetition was needed a single block waits as long as a window."""
    rto = measured()
    assert rto.interval(single=True) == rto.interval() == MIN_RTO
    assert rto.converged


def test_blocksAreLost() -> None:
    """After two losses a single block waits for the round-trip time and a granularity, then twice that."""
    rto = measured()
    lost(rto)
    lost(rto)
    assert rto.interval(single=True) == pytest.approx(RTT + GRANULARITY, abs=1e-5)
    assert rto.interval() == MIN_RTO
    assert not rto.converged, "the time of each answer counts now"
    rto.backOff()
    rto.backOff()
    assert rto.interval(single=True) == pytest.approx(4 * (RTT + GRANULARITY), abs=1e-4)


@pytest.mark.parametrize("after", [RTT / 10, 0.015])
def test_answersAreLate(after: float) -> None:
    """A machine that is busy more often than blocks are lost gets the floor again."""
    rto = measured()
    for _ in range(3):
        lost(rto)
    for _ in range(5):
        lost(rto, after)
    assert rto.interval(single=True) == MIN_RTO


def test_steadyAnswers() -> None:
    """However steady the answers of a receiver are, more than their time is waited (G of RFC 6298)."""
    rto = RtoEstimator(AdaptiveTimeout())
    for _ in range(200):
        rto.sample(0.06)
    assert rto.interval() == pytest.approx(0.06 + GRANULARITY, abs=1e-6)


def test_aClientWithATimerOfItsOwn() -> None:
    """One that ignores duplicates, as BusyBox does, is sent two at most, then one, until its own timer is over."""
    rto = measured(AdaptiveTimeout())
    lost(rto)
    lost(rto)
    assert rto.interval(single=True) < MIN_RTO
    for _ in range(2):
        rto.backOff()
    assert rto.interval(single=True) == CLIENT_TIMER
    rto.repeatedBlockAnswered(0.1)
    rto.answered()
    rto.sample(RTT)
    rto.backOff()
    assert rto.interval(single=True) == CLIENT_TIMER


def test_fixedTimeouts() -> None:
    """A table of timeouts holds for single blocks, too."""
    rto = RtoEstimator(FixedTimeouts((0.08, 0.2)))
    for _ in range(3):
        lost(rto)
    assert (rto.interval(single=True), rto.converged) == (0.08, True)


def test_fixedTimeoutsMeasure() -> None:
    """Round trips are measured with a table of timeouts as without: what is slow is not taken for quick by them."""
    fixed, adaptive = RtoEstimator(FixedTimeouts((0.08, 0.2))), RtoEstimator(AdaptiveTimeout())
    for seconds in (0.1, 0.1, 0.12, 0.5, 0.02, 0.1):
        for rto in (fixed, adaptive):
            rto.sample(seconds)
    assert fixed.smoothedRtt == adaptive.smoothedRtt
    assert fixed.smoothedRtt is not None
    assert fixed.smoothedRtt > 0.05


def test_aNegotiatedInterval() -> None:
    """A negotiated interval is the ceiling of all timeouts."""
    for repeat in (AdaptiveTimeout(ceiling=0.05), AdaptiveTimeout(ceiling=0.05, quickRepeats=None)):
        rto = measured(repeat)
        lost(rto)
        lost(rto)
        for _ in range(6):
            rto.backOff()
        assert rto.interval(single=True) == 0.05
