"""
Keep the receivers of a L{Sweep<castd.cast.sweep.Sweep>}, in the order in which they will be asked.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from castd.cast.allowance import REPEATS_DEPTH, REPEATS_RATE, Proof
from castd.cast.events import Left, Ranges
from castd.cast.members import Member, Members
from castd.cast.policy import RetransmitPolicy
from castd.pacing import TokenBucket
from castd.request import Peer

#: So many receivers that have never answered are a crowd.
CROWD = 16


class Question(NamedTuple):
    """
    Holds when a receiver was asked.

    @ivar at: the instant.  Seconds.
    @ivar run: how many runs of blocks had been sent before.
    """

    at: float
    run: int


class PolledMember(Member):
    """
    Holds what a L{Sweep<castd.cast.sweep.Sweep>} knows of one receiver.

    @ivar questions: those that may still be answered, oldest first: a list may be the late answer to one that was given
        up.
    @ivar answerDueAt: the instant until which a list counts as the answer to its last question.
    @ivar listensFrom: how many had been sent when it may have begun to listen: shortly before it joined.
    @ivar listedRun: how many had been sent when its last list came: what is sent later is sent after that list.
    @ivar known: the blocks that it lacked by the last list that was believed.
    @ivar knownRun: blocks that it lacks no more since then were sent after so many runs.
    @ivar repeats: how many lists of it that answer no question are read.
    @ivar proof: how far it has proved that it receives what is sent to the group.
    @ivar grantedAt: the instant at which blocks were last sent for an answer of it.
    @ivar progressed: an answer has shown that it received blocks from the group.
    @ivar vainLists: how many lists have come from it, one after the other, that show no block received although some
        that it lacks were sent.
    @ivar emptyLists: how many lists without a block it has sent, one after the other.
    @ivar deferred: the blocks of its last list that are not sent before C{deferredUntil}.
    @ivar deferredUntil: the instant at which C{deferred} and the member itself are dealt with; L{None}: never.
    @ivar paused: it is neither served nor asked before C{deferredUntil}, unless its list changes.
    @ivar removeAt: the instant at which it is removed, if it is silent and stays so.
    @ivar listedAt: the instant of its last list.
    """

    __slots__ = (
        "answerDueAt",
        "deferred",
        "deferredUntil",
        "emptyLists",
        "grantedAt",
        "known",
        "knownRun",
        "listedAt",
        "listedRun",
        "listensFrom",
        "paused",
        "progressed",
        "proof",
        "questions",
        "removeAt",
        "repeats",
        "vainLists",
    )

    def __init__(self, peer: Peer, policy: RetransmitPolicy, joinedRun: int, listensFrom: int) -> None:
        super().__init__(peer, (), policy.repeat, waited=False)
        self.listensFrom = listensFrom
        self.joinedRun = self.listedRun = joinedRun
        self.questions: list[Question] = []
        self.answerDueAt = self.listedAt = self.grantedAt = float("-inf")
        self.knownRun = 0
        self.known: Ranges = ()
        self.repeats = TokenBucket(REPEATS_RATE, REPEATS_DEPTH)
        self.proof = Proof()
        self.progressed = False
        self.emptyLists = self.vainLists = 0
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
    Keeps the receivers in queues, each in the order in which they will be asked.

    I{Validated} receivers have answered a question, so their addresses are not forged (address validation in the sense
    of RFC 9000, section 8): they are asked first.  I{Unvalidated} receivers have not.  I{New} receivers are not asked,
    since no block was sent after they joined.  I{Silent} receivers have left too many questions unanswered, or lack
    nothing; they are not asked, but a list of theirs brings them back.  I{Asked} receivers have a question open.  A
    receiver in no queue is paused.  The number of all is bounded: silent receivers are evicted first, then those that
    never answered.
    """

    __slots__ = ("_limit", "_members", "asked", "new", "silent", "unvalidated", "validated")

    def __init__(self, limit: int) -> None:
        """
        @param limit: the most receivers that are kept.
        """
        self._members: Members[PolledMember] = Members()
        self._limit = limit
        self.validated: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.unvalidated: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.new: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.silent: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.asked: OrderedDict[Peer, PolledMember] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def get(self, peer: Peer) -> PolledMember | None:
        """Return the receiver with this address; L{None}: there is none."""
        return self._members.get(peer)

    def add(self, receiver: PolledMember) -> None:
        """Add a new receiver."""
        self._members.add(receiver)
        self.new[receiver.peer] = receiver

    def blockSent(self) -> None:
        """Let the new receivers be asked: a block was sent after they joined."""
        if self.new:
            self.unvalidated.update(self.new)
            self.new.clear()

    def toEvict(self) -> PolledMember | None:
        """Return the receiver that must be removed before another one is added; L{None}: the limit is not reached."""
        if len(self._members) < self._limit:
            return None
        queue = self.silent or self.unvalidated or self.new or self.validated
        return next(iter(queue.values()) if queue else iter(self._members))

    def enqueue(self, receiver: PolledMember) -> None:
        """Put a receiver at the end of the validated or unvalidated ones, so that it may be asked."""
        self.dequeue(receiver)
        (self.validated if receiver.heard else self.unvalidated)[receiver.peer] = receiver

    @property
    def crowded(self) -> bool:
        """Whether so many receivers have never answered that most of them are forged."""
        return len(self.unvalidated) >= CROWD

    def prefer(self, receiver: PolledMember) -> None:
        """Ask this unvalidated receiver before all other unvalidated ones."""
        if receiver.peer in self.unvalidated:
            self.unvalidated.move_to_end(receiver.peer, last=self.crowded)

    def neglect(self, receiver: PolledMember) -> None:
        """Ask this unvalidated receiver, which has not answered, after all other unvalidated ones."""
        self.enqueue(receiver)
        if not receiver.heard:
            self.unvalidated.move_to_end(receiver.peer, last=not self.crowded)

    def nextUnvalidated(self) -> PolledMember | None:
        """
        Return the unvalidated receiver to ask next: the one that waits for longest; of a crowd the newest, since most
        of those that have waited are forged.
        """
        if not self.unvalidated:
            return None
        peer = next(reversed(self.unvalidated) if self.crowded else iter(self.unvalidated))
        return self.unvalidated[peer]

    def setAsked(self, receiver: PolledMember) -> None:
        """Note that a question to a receiver is open."""
        self.dequeue(receiver)
        self.asked[receiver.peer] = receiver

    def setSilent(self, receiver: PolledMember, removeAt: float) -> None:
        """Ask a receiver no more; it is to be removed at that instant."""
        self.dequeue(receiver)
        receiver.removeAt = removeAt
        self.silent[receiver.peer] = receiver

    def dequeue(self, receiver: PolledMember) -> None:
        """Take a receiver out of its queue."""
        for queue in (self.validated, self.unvalidated, self.new, self.silent, self.asked):
            queue.pop(receiver.peer, None)

    @property
    def longestSilent(self) -> PolledMember | None:
        """The silent receiver that is to be removed next; L{None}: there is none."""
        return next(iter(self.silent.values()), None)

    def remove(self, receiver: PolledMember, outcome: str) -> None:
        """Remove a receiver, and queue its farewell."""
        self.dequeue(receiver)
        self._members.remove(receiver, outcome)

    @property
    def hasNotices(self) -> bool:
        """Whether a farewell is queued."""
        return self._members.hasNotices

    def nextNotice(self) -> Left | None:
        """Remove the next farewell from the queue and return it; L{None}: the queue is empty."""
        notice = self._members.nextNotice()
        return notice if isinstance(notice, Left) else None
