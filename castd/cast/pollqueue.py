"""
Keep the receivers of a L{Sweep<castd.cast.sweep.Sweep>}, in the order in which they will be asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from castd.cast.events import Left, Ranges
from castd.cast.members import Member, Members
from castd.cast.policy import RetransmitPolicy
from castd.request import Peer


class PolledMember(Member):
    """
    Holds what a L{Sweep<castd.cast.sweep.Sweep>} knows of one receiver.

    @ivar burstsAtJoin: how many bursts had been sent when it joined: it is asked only after a later one.
    @ivar askedAt: the instant of the question that it has not answered yet, or L{None}.
    @ivar emptyLists: how many lists without a block it has sent, one after the other.
    @ivar deferred: the blocks of its last list that are not sent before C{deferredUntil}.
    @ivar deferredUntil: the instant at which C{deferred} and the member itself are dealt with; L{None}: never.
    @ivar paused: it is neither served nor asked before C{deferredUntil}, unless its list changes.
    @ivar removeAt: the instant at which it is removed, if it is silent and stays so.
    """

    __slots__ = ("askedAt", "burstsAtJoin", "deferred", "deferredUntil", "emptyLists", "paused", "removeAt")

    def __init__(self, peer: Peer, policy: RetransmitPolicy, burstsAtJoin: int) -> None:
        super().__init__(peer, (), policy.repeat, waited=False)
        self.burstsAtJoin = burstsAtJoin
        self.askedAt: float | None = None
        self.emptyLists = 0
        self.deferred: Ranges = ()
        self.deferredUntil: float | None = None
        self.paused = False
        self.removeAt = 0.0

    def defer(self, blocks: Ranges, until: float | None) -> None:
        """Defer blocks that it lacks until that instant, in place of those that were deferred before."""
        self.deferred = blocks
        self.deferredUntil = until


class PollQueue:
    """
    Keeps the receivers in three queues, each in the order in which they will be asked.

    I{Validated} receivers have answered a question, so their addresses are not forged (address validation in the sense
    of RFC 9000, section 8): they are asked first.  I{Unvalidated} receivers have not.  I{Silent} receivers have left
    too many questions unanswered, or lack nothing; they are not asked, but a list of theirs brings them back.  A
    receiver in no queue is paused.  The number of all is bounded: silent receivers are evicted first, then unvalidated
    ones.
    """

    __slots__ = ("_limit", "_members", "silent", "unvalidated", "validated")

    def __init__(self, limit: int) -> None:
        """
        @param limit: the most receivers that are kept.
        """
        self._members: Members[PolledMember] = Members()
        self._limit = limit
        self.validated: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.unvalidated: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.silent: OrderedDict[Peer, PolledMember] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def get(self, peer: Peer) -> PolledMember | None:
        """Return the receiver with this address; L{None}: there is none."""
        return self._members.get(peer)

    def add(self, receiver: PolledMember) -> None:
        """Add a new receiver at the end of the unvalidated ones."""
        self._members.add(receiver)
        self.unvalidated[receiver.peer] = receiver

    def toEvict(self) -> PolledMember | None:
        """Return the receiver that must be removed before another one is added; L{None}: the limit is not reached."""
        if len(self._members) < self._limit:
            return None
        queue = self.silent or self.unvalidated or self.validated
        return next(iter(queue.values()) if queue else iter(self._members))

    def enqueue(self, receiver: PolledMember) -> None:
        """Put a receiver at the end of the validated or unvalidated ones, so that it may be asked."""
        self.dequeue(receiver)
        (self.validated if receiver.heard else self.unvalidated)[receiver.peer] = receiver

    def enqueueFirst(self, receiver: PolledMember) -> None:
        """Put an unvalidated receiver before all other unvalidated ones."""
        self.unvalidated.move_to_end(receiver.peer, last=False)

    def setSilent(self, receiver: PolledMember, removeAt: float) -> None:
        """Ask a receiver no more; it is to be removed at that instant."""
        self.dequeue(receiver)
        receiver.removeAt = removeAt
        self.silent[receiver.peer] = receiver

    def dequeue(self, receiver: PolledMember) -> None:
        """Take a receiver out of its queue."""
        for queue in (self.validated, self.unvalidated, self.silent):
            queue.pop(receiver.peer, None)

    @property
    def longestSilent(self) -> PolledMember | None:
        """The silent receiver that is to be removed next; L{None}: there is none."""
        return next(iter(self.silent.values()), None)

    def candidates(self) -> Iterator[PolledMember]:
        """Return the receivers that may be asked, the next one first."""
        yield from self.validated.values()
        yield from self.unvalidated.values()

    def remove(self, receiver: PolledMember, outcome: str) -> None:
        """
        Remove a receiver, and queue its farewell.

        The blocks of its last list count as sent to it, unless it has shown that it does not hear the group.
        """
        self.dequeue(receiver)
        self._members.remove(receiver, outcome, () if receiver.unchangedRequests else receiver.wanted)

    @property
    def hasNotices(self) -> bool:
        """Whether a farewell is queued."""
        return self._members.hasNotices

    def nextNotice(self) -> Left | None:
        """Remove the next farewell from the queue and return it; L{None}: the queue is empty."""
        notice = self._members.nextNotice()
        return notice if isinstance(notice, Left) else None
