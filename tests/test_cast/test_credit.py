"""
What goes out for receivers that have proved nothing.
"""

from castd.cast.blockset import first
from castd.cast.credit import DEPTH, RATE, Credit
from castd.cast.events import RequestBlocks, SendBlocks
from castd.cast.sweep import Sweep
from castd.dialects.slam import PATIENCE

COUNT = 100_000


def sent(sweep: Sweep, now: float) -> int:
    """-> how many blocks are due at this instant."""
    numbers = 0
    while (action := sweep.poll(now)) is not None:
        numbers += len(action.numbers) if isinstance(action, SendBlocks) else 0
    return numbers


def test_first() -> None:
    """The first numbers of runs are taken in order, and no run is left empty."""
    assert first((range(3, 5), range(7, 20)), 4) == (range(3, 5), range(7, 9))
    assert first((range(3, 5), range(7, 20)), 2) == (range(3, 5),)
    assert first((range(3, 5),), 0) == ()


def test_aBucket() -> None:
    """So many blocks at once, then so many a second, and no more than at first after a pause."""
    credit, whole = Credit(), (range(COUNT),)
    assert credit.grant(whole, 0.0) == (range(int(DEPTH)),)
    assert credit.grant(whole, 0.0) == ()
    assert credit.grant(whole, 0.5) == (range(int(RATE / 2)),)
    assert credit.grant(whole, 1e6) == (range(int(DEPTH)),)


def test_whoAnswersGetsAll() -> None:
    """A list draws so many blocks until its sender has answered a question, and the whole of the file afterwards."""
    sweep, peer = Sweep(PATIENCE, COUNT), ("a", 1)
    sweep.join(peer, 0.0, (range(COUNT),))
    assert sent(sweep, 0.0) == DEPTH
    sweep.hear(peer, RequestBlocks((range(int(DEPTH), COUNT),)), 0.01)
    assert sent(sweep, 0.05) == COUNT - DEPTH
