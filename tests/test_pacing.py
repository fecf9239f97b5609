"""
The token bucket: how much may go, and the pacer: when the next burst may.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castd.pacing import BURST, LATE, TICK, Pacer, TokenBucket
from tests.support.quick import slowBut


def run(pacer: Pacer, seconds: float, burst: int, late: float = 0.0) -> tuple[int, int]:
    """Send as fast as the pacer lets, waking so late each time: octets sent, and times woken."""
    now, sent, wakes = 0.0, 0, 0
    while now < seconds:
        when = pacer.next(now)
        if when > now:
            now, wakes = when + late, wakes + 1
        else:
            pacer.spend(burst, now)
            sent += burst
    return sent, wakes


@pytest.mark.parametrize("rate", slowBut(lambda rate: rate < 5e9, [1e4, 1e6, 1e8, 5e9]))
@pytest.mark.parametrize("burst", [512, BURST])
@pytest.mark.parametrize("late", [0.0, 0.0005, 0.005])
def test_rate(rate: float, burst: int, late: float) -> None:
    """Over time exactly the rate goes out, in small bursts and large, by punctual timers and late ones."""
    seconds = max(0.2, 40 * burst / rate)
    if rate * seconds / burst > 1e6:
        seconds = 1e6 * burst / rate
    pacer = Pacer(rate)
    sent, _ = run(pacer, seconds, burst, late)
    assert sent <= rate * seconds + pacer.depth + burst
    assert sent >= rate * (seconds - late) - burst


def test_neverSooner() -> None:
    """Whoever is told to wait waits a millisecond at least: fast rates do not make the reactor spin."""
    _, wakes = run(Pacer(1e9), 0.1, 1468)
    assert wakes <= 0.1 / TICK + 1


@given(st.floats(1, 1e10), st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100_000)), max_size=30))
def test_answers(rate: float, history: list[tuple[float, int]]) -> None:
    """The answer is now or at least a millisecond off, and who comes back then may send."""
    pacer, now = Pacer(rate), 0.0
    for pause, octets in history:
        now += pause
        pacer.spend(octets, now)
    when = pacer.next(now)
    assert when == now or when >= now + TICK * 0.999
    for _ in range(3):
        # Rounding may leave a hair's breadth; a tick more always does.
        when = pacer.next(when)
    assert pacer.next(when) == when


def test_burstAfterPause() -> None:
    """After a pause one whole burst goes at once, and no pause saves up more than the depth."""
    pacer = Pacer(1e5)
    assert pacer.depth == BURST
    pacer.spend(BURST, 1000.0)
    assert pacer.next(1000.0) >= 1000.0 + TICK
    assert pacer.next(2000.0) == 2000.0
    pacer.spend(BURST, 2000.0)
    assert pacer.next(2000.0) > 2000.0


def test_depthOfFastRates() -> None:
    """A fast rate is not lost to timers that are late: the bucket holds what is due by then."""
    assert Pacer(1e9).depth == pytest.approx(1e9 * LATE)


def test_debt() -> None:
    """A burst that is larger than what is left goes whole; the debt is paid before the next."""
    pacer = Pacer(1000, burst=100)
    pacer.spend(100 - 1, 0.0)
    assert pacer.next(0.0) == 0.0
    pacer.spend(501, 0.0)
    assert pacer.next(0.0) == pytest.approx(0.5)


def test_clockSetBack() -> None:
    """A clock that is set back neither stops the flow until it is there again nor gives more than one depth away."""
    pacer = Pacer(1000, burst=100)
    pacer.spend(600, 3600.0)
    assert pacer.next(5.0) == pytest.approx(5.5)
    assert pacer.next(5.6) == 5.6
    pacer.spend(100, 5.6)
    assert pacer.next(3600.0) == 3600.0
    pacer.spend(100, 3600.0)
    assert pacer.next(3600.0) > 3600.0


def test_aBucket() -> None:
    """So many tokens at once, then so many a second, and no more than at first after a pause."""
    bucket = TokenBucket(64.0, 1024.0)
    assert bucket.available(0.0) == 1024.0
    bucket.spend(1024.0, 0.0)
    assert bucket.available(0.0) == 0.0
    assert bucket.available(0.5) == 32.0
    assert bucket.available(1e6) == 1024.0


@given(st.floats(0.1, 1e4), st.floats(1, 1e4), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100)), max_size=30))
def test_aBucketIsNeverBelowEmpty(rate: float, depth: float, history: list[tuple[float, float]]) -> None:
    """Who asks for tokens gets them if they are all there, to the last bit of the arithmetic of old, else none."""
    bucket, level, since, now = TokenBucket(rate, depth), depth, 0.0, 0.0
    for pause, tokens in history:
        now += pause
        level, since = min(depth, level + (now - since) * rate), now
        allowed = level >= tokens
        level -= tokens if allowed else 0.0
        assert bucket.allow(tokens, now) == allowed
        assert bucket.available(now) == level >= 0.0


@pytest.mark.parametrize("rate", [0, -1.0, float("nan")])
def test_noRate(rate: float) -> None:
    """A rate of nothing is a mistake, not a server that stands still."""
    with pytest.raises(ValueError, match="rate"):
        Pacer(rate)
