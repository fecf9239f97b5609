"""
What goes out for receivers whose addresses have not been validated.
"""

from castd.cast.allowance import UNVALIDATED_DEPTH
from castd.cast.blockset import firstNumbers
from castd.cast.events import RequestBlocks, SendBlocks
from castd.cast.sweep import Sweep
from castd.dialects.slam import POLICY

COUNT = 100_000


def sent(sweep: Sweep, now: float) -> int:
    """Return how many blocks are due at this instant."""
    numbers = 0
    while (action := sweep.poll(now)) is not None:
        numbers += len(action.numbers) if isinstance(action, SendBlocks) else 0
    return numbers


def test_first() -> None:
    """The first numbers of runs are taken in order, and no run is left empty."""
    assert firstNumbers((range(3, 5), range(7, 20)), 4) == (range(3, 5), range(7, 9))
    assert firstNumbers((range(3, 5), range(7, 20)), 2) == (range(3, 5),)
    assert firstNumbers((range(3, 5),), 0) == ()


def test_whoAnswersGetsAll() -> None:
    """A list draws so many blocks until its sender has answered a question, and the whole of the file afterwards."""
    sweep, peer = Sweep(POLICY, COUNT), ("a", 1)
    sweep.join(peer, 0.0, (range(COUNT),))
    assert sent(sweep, 0.0) == UNVALIDATED_DEPTH
    sweep.hear(peer, RequestBlocks((range(int(UNVALIDATED_DEPTH), COUNT),)), 0.01)
    assert sent(sweep, 0.05) == COUNT - UNVALIDATED_DEPTH
