"""
What the ACKs of a receiver of windows say, one rule at a time.  Whole transfers are in tests/test_windows.py.
"""

from __future__ import annotations

import pytest

from castd.cast.window import EQUAL_STEPS, SendWindow

#: The shortest time that an answer has taken.
SHORTEST = 0.001


def sent(*bursts: tuple[int, int, float]) -> SendWindow:
    """Return a window of which these blocks, from and to, were sent at these instants."""
    window = SendWindow()
    for start, stop, now in bursts:
        window.sent(range(start, stop), now)
    return window


def test_oneBlockIsTimed() -> None:
    """One block at a time is measured: the first one sent since the last measurement."""
    window = sent((0, 4, 0.0), (4, 8, 0.1))
    assert window.measured(6, 0.15, SHORTEST) == pytest.approx(0.15)
    assert window.measured(7, 0.2, SHORTEST) is None
    window.sent(range(8, 12), 0.3)
    assert window.measured(9, 0.35, SHORTEST) == pytest.approx(0.05)


def test_aBurstLeavesLater() -> None:
    """What has waited for the socket is measured from when it has left; what was timed before it is not."""
    window = sent((0, 4, 0.0))
    window.delayed(0.1)
    assert window.measured(1, 0.15, SHORTEST) == pytest.approx(0.05)
    window = sent((0, 4, 0.0), (4, 8, 0.05))
    window.delayed(0.1)
    assert window.measured(1, 0.15, SHORTEST) == pytest.approx(0.15)


def test_whichBlockIsTimed() -> None:
    """The last block that was sent, if it was sent once, alone, and the first since the last measurement."""
    assert sent((0, 1, 0.0)).timedBlock(0) == 0.0
    assert sent((0, 2, 0.0)).timedBlock(0) is None
    assert sent((0, 1, 0.0), (1, 2, 0.1)).timedBlock(1) is None
    window = sent((0, 1, 0.0))
    window.sentAgain(timer=False)
    window.sent(range(1), 0.1)
    assert window.timedBlock(0) is None


def test_equalSteps() -> None:
    """Who acknowledges equal steps within a window does so often: blocks that were never sent follow, and no copies."""
    window = sent((0, 16, 0.0))
    starts = []
    for step in range(1, EQUAL_STEPS + 2):
        now = step / 10
        starts.append(window.advanced(2 * step - 2, 2 * step, now, SHORTEST))
        window.sent(range(starts[-1], 16 + 2 * step), now, again=True)
    # Until then each looks like a gap.
    assert starts == [2, 4, 20, 22]
    assert window.often


def test_unequalSteps() -> None:
    """ACKs from within a window that move on by other numbers each time tell of losses."""
    window = sent((0, 16, 0.0))
    start = 0
    for number, now in ((2, 0.1), (5, 0.2), (6, 0.3), (8, 0.4)):
        assert window.advanced(start, number, now, SHORTEST) == number
        window.sent(range(number, 16 + number), now, again=True)
        start = number


def test_oftenEnds() -> None:
    """One that acknowledges whole windows again, none of them a copy, has acknowledged often for the last time."""
    window = sent((0, 8, 0.0))
    window.often = True
    assert window.advanced(0, 8, 0.1, SHORTEST) == 8
    assert not window.often


def test_oftenAfterAGap() -> None:
    """One that acknowledges often does so for each block after a gap; a single ACK there ends that."""
    window = sent((0, 8, 0.0))
    window.often = True
    assert window.firstLost(0, 0.1, SHORTEST)
    assert not window.often
    window = sent((0, 8, 0.0))
    window.often = True
    window.firstLost(0, 0.0, SHORTEST)
    assert window.firstLost(0, 0.1, SHORTEST)
    assert window.often
