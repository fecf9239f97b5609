"""
Keep who is asked next: the receivers of a L{Sweep<castd.cast.sweep.Sweep>}.
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
    A receiver that lists what it lacks.

    @ivar burstsAtJoin: how many bursts had gone out when it came: it is asked only after one that it could hear.
    @ivar askedAt: the instant of the question it has not answered yet, or L{None}.
    @ivar emptyLists: lists that asked for nothing, one after the other.
    @ivar deferred: the blocks of its last list that are put off until C{deferredUntil}.
    @ivar deferredUntil: the instant at which they, or the member itself, are looked at again; L{None}: nothing is.
    @ivar paused: it is neither served nor asked before C{deferredUntil}, unless it lists something new.
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
        """Put off blocks that it lacks until that instant, instead of those that were put off before."""
        self.deferred = blocks
        self.deferredUntil = until


class PollQueue:
    """
    The receivers in three queues, each in the order in which they will be asked.

    I{Validated} receivers have answered a question, so their addresses are not forged (address validation in the sense
    of RFC 9000, section 8): they come first.  I{Unvalidated} ones never have.  I{Silent} ones have left too many
    questions unanswered, or lack nothing; they are asked no more, but a list of theirs brings them back.  Who is in no
    queue is paused.  The number of all is bounded: silent ones make room first, then unvalidated ones.
    """

    __slots__ = ("_limit", "_members", "silent", "unvalidated", "validated")

    def __init__(self, limit: int) -> None:
        """
        @param limit: receivers that are kept at the most.
        """
        self._members: Members[PolledMember] = Members()
        self._limit = limit
        self.validated: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.unvalidated: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.silent: OrderedDict[Peer, PolledMember] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def get(self, peer: Peer) -> PolledMember | None:
        """-> the receiver at this address, if there is one."""
        return self._members.get(peer)

    def add(self, receiver: PolledMember) -> None:
        """Add a new receiver, which is asked after all others that are new."""
        self._members.add(receiver)
        self.unvalidated[receiver.peer] = receiver

    def toEvict(self) -> PolledMember | None:
        """-> the receiver that must make room before another one is added; L{None}: there is room."""
        if len(self._members) < self._limit:
            return None
        queue = self.silent or self.unvalidated or self.validated
        return next(iter(queue.values()) if queue else iter(self._members))

    def enqueue(self, receiver: PolledMember) -> None:
        """Put a receiver at the end of its queue: it may be asked."""
        self.dequeue(receiver)
        (self.validated if receiver.heard else self.unvalidated)[receiver.peer] = receiver

    def enqueueFirst(self, receiver: PolledMember) -> None:
        """Put a receiver that is not validated before all others that are not."""
        self.unvalidated.move_to_end(receiver.peer, last=False)

    def setSilent(self, receiver: PolledMember, removeAt: float) -> None:
        """Ask a receiver no more, and remove it at that instant."""
        self.dequeue(receiver)
        receiver.removeAt = removeAt
        self.silent[receiver.peer] = receiver

    def dequeue(self, receiver: PolledMember) -> None:
        """Take a receiver out of its queue."""
        for queue in (self.validated, self.unvalidated, self.silent):
            queue.pop(receiver.peer, None)

    @property
    def longestSilent(self) -> PolledMember | None:
        """The receiver that is removed next."""
        return next(iter(self.silent.values()), None)

    def candidates(self) -> Iterator[PolledMember]:
        """-> the receivers that may be asked, the next one first."""
        yield from self.validated.values()
        yield from self.unvalidated.values()

    def remove(self, receiver: PolledMember, outcome: str) -> None:
        """
        Remove a receiver, and queue its farewell.

        What it asked for last counts as sent to it, unless it has shown that it does not hear.
        """
        self.dequeue(receiver)
        self._members.remove(receiver, outcome, () if receiver.unchangedRequests else receiver.wanted)

    @property
    def hasNotices(self) -> bool:
        """Is any farewell to be sent?"""
        return self._members.hasNotices

    def nextNotice(self) -> Left | None:
        """-> the next farewell, which is not to be sent again."""
        notice = self._members.nextNotice()
        return notice if isinstance(notice, Left) else None
