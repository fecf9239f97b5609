"""
Who is removed from a full queue of receivers, and who is asked first of a crowd.
"""

from __future__ import annotations

from castd import outcomes
from castd.cast.pollqueue import CROWD, PolledMember, PollQueue
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


def test_whoIsAskedOfACrowd() -> None:
    """
    Of a crowd, most of which is forged, the newest one is asked: one that has not answered is asked last, and one that
    repeats its list first.  Of few the one that waits for longest is.
    """
    queue = PollQueue(100)
    few = [receiver(queue, f"few {number}") for number in range(3)]
    queue.blockSent()
    assert queue.nextUnvalidated() is few[0]
    queue.neglect(few[0])
    assert queue.nextUnvalidated() is few[1]
    queue.prefer(few[2])
    assert queue.nextUnvalidated() is few[2]
    *_, before, newest = (receiver(queue, f"many {number}") for number in range(CROWD))
    queue.blockSent()
    assert queue.nextUnvalidated() is newest
    queue.neglect(newest)
    assert queue.nextUnvalidated() is before
    queue.prefer(few[1])
    assert queue.nextUnvalidated() is few[1]
