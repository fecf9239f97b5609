"""
Who is removed from a full queue of receivers.
"""

from __future__ import annotations

from castd import outcomes
from castd.cast.pollqueue import PolledMember, PollQueue
from castd.dialects.slam import POLICY


def receiver(queue: PollQueue, name: str) -> PolledMember:
    """Add a receiver to the queue, and return it."""
    added = PolledMember((name, 1), POLICY, 0, 0)
    queue.add(added)
    return added


def test_whoIsEvicted() -> None:
    """
    Silent receivers are removed first, then those that never answered, then the new ones, then those that have
    answered; of several the one that is there for longest.  Who is being asked comes last.
    """
    queue = PollQueue(0)  # it is full whatever is removed
    asked, validated, unvalidated, another = (receiver(queue, name) for name in ("a", "b", "c", "d"))
    queue.blockSent()
    new, silent = receiver(queue, "e"), receiver(queue, "f")
    validated.heard = True
    queue.enqueue(validated)
    queue.setAsked(asked)
    queue.setSilent(silent, 10.0)
    evicted = []
    while len(queue):
        gone = queue.toEvict()
        assert gone is not None
        evicted.append(gone)
        queue.remove(gone, outcomes.SILENT)
    assert evicted == [silent, unvalidated, another, new, validated, asked]


def test_roomIsLeft() -> None:
    """Nobody is removed before the limit is reached."""
    queue = PollQueue(2)
    first = receiver(queue, "a")
    assert queue.toEvict() is None
    receiver(queue, "b")
    assert queue.toEvict() is first
