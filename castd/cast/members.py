"""
Keep the members of a cast, in their order, and the announcements and farewells that are still to be sent to them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

from castd.cast.events import Announce, Left, Ranges
from castd.cast.policy import AdaptiveTimeout, FixedTimeouts
from castd.cast.rto import RtoEstimator
from castd.request import Peer

#: The round-trip time that is assumed for a receiver without a measurement, to find out whether it hears the group.
#: Seconds.
ASSUMED_RTT = 0.02


class Member:
    """
    Holds what a cast knows of one receiver.

    @ivar peer: its address.
    @ivar requested: the blocks that its request itself asked for; empty: it asks for blocks later.
    @ivar rto: the estimator of its retransmission timeout.
    @ivar joinedAt: the instant at which it joined.
    @ivar joinedRun: how many runs of blocks had been sent when it joined, as far as the cast counts them.
    @ivar highestSentAtJoin: the highest number that had been sent when it asked; -1: all blocks were sent after that.
    @ivar heard: it has sent something since its request.
    @ivar hearsGroup: it has asked for a block after the first one, so it receives what is sent to the group.
    @ivar waited: it was a listener before its first turn.
    @ivar turns: how often it had the turn.
    @ivar failedTurns: turns that it has lost since it last made progress.
    @ivar suspect: it lost its last turn and has sent nothing since.
    @ivar confirmed: it has answered its last announcement.
    @ivar announceAt: the instant at which its announcement as a listener is repeated, or L{None}.
    @ivar announcements: how often that was repeated.
    @ivar correctedAt: the instant at which it was last told that it does not have the turn.
    @ivar corrections: how often it was told that.
    @ivar wanted: the blocks that it has asked for last.
    @ivar servedAt: the instant at which the first of these blocks was sent, or sent after the last unchanged request
        that counted; infinite: none was.
    @ivar unchangedRequests: how often it has asked for the same blocks again although they had been sent.
    @ivar repeated: the blocks that it has asked for more than once last, whether or not they were sent meanwhile.
    @ivar repeatedRequests: how often it has repeated that request.
    @ivar duplicates: copies of what it has received already that it may still acknowledge: such a request says nothing.
    """

    __slots__ = (
        "announceAt",
        "announcements",
        "confirmed",
        "correctedAt",
        "corrections",
        "duplicates",
        "failedTurns",
        "heard",
        "hearsGroup",
        "highestSentAtJoin",
        "joinedAt",
        "joinedRun",
        "peer",
        "repeated",
        "repeatedRequests",
        "requested",
        "rto",
        "servedAt",
        "suspect",
        "turns",
        "unchangedRequests",
        "waited",
        "wanted",
    )

    def __init__(
        self,
        peer: Peer,
        requested: Ranges,
        repeat: AdaptiveTimeout | FixedTimeouts,
        waited: bool,
        highestSentAtJoin: int = -1,
        joinedAt: float = 0.0,
    ) -> None:
        self.peer = peer
        self.requested = requested
        self.rto = RtoEstimator(repeat)
        self.waited = waited
        self.highestSentAtJoin = highestSentAtJoin
        self.joinedAt = joinedAt
        self.heard = self.hearsGroup = self.confirmed = self.suspect = False
        self.failedTurns = self.turns = self.corrections = self.unchangedRequests = self.announcements = 0
        self.joinedRun = 0
        self.duplicates = self.repeatedRequests = 0
        self.repeated: Ranges = ()
        self.correctedAt = float("-inf")
        self.servedAt = float("inf")
        self.wanted: Ranges = ()
        self.announceAt: float | None = None

    def asksAgain(self, ranges: Ranges) -> None:
        """Count that it has repeated its request for these blocks."""
        self.repeatedRequests = self.repeatedRequests + 1 if self.repeated == ranges else 1
        self.repeated = ranges

    def repeatedFor(self, ranges: Ranges) -> int:
        """Return how often it has repeated its request for these blocks."""
        return self.repeatedRequests if ranges and self.repeated == ranges else 0

    def asksInVain(self, ranges: Ranges, now: float) -> bool:
        """
        Find out whether a request repeats the one before although its blocks were sent, and count it if so.

        It counts only if the blocks were sent after the request before, at least a round-trip time ago.  The count goes
        on from one turn to the next: a slow client repeats its request when its turn is over.  A client that was busy
        acknowledges all copies of a block one after the other: so many requests are not counted.
        """
        if ranges != self.wanted:
            self.unchangedRequests, self.duplicates = 0, self.rto.repeats
            return False
        if self.duplicates:
            self.duplicates -= 1
            return False
        rtt = self.rto.smoothedRtt or ASSUMED_RTT
        if now - self.servedAt < rtt:
            return False
        self.servedAt = float("inf")
        self.unchangedRequests += 1
        return True


M = TypeVar("M", bound=Member)


class Members(Generic[M]):
    """
    Keeps the members of a cast in order, and the notices (announcements and farewells) that are still to be sent: of
    each peer one at the most, the last.
    """

    __slots__ = ("_byPeer", "_noticed", "_notices", "_places")

    def __init__(self) -> None:
        self._byPeer: dict[Peer, M] = {}
        self._notices: OrderedDict[int, Announce | Left] = OrderedDict()
        self._places: dict[Peer, int] = {}  # of whom a notice is queued, and its place there
        self._noticed = 0  # how many notices there were in all

    def __len__(self) -> int:
        return len(self._byPeer)

    def __iter__(self) -> Iterator[M]:
        return iter(self._byPeer.values())

    def get(self, peer: Peer) -> M | None:
        """Return the member with this address; L{None}: there is none."""
        return self._byPeer.get(peer)

    def add(self, member: M) -> None:
        """Add a member behind all others; if its peer was one before, there is no farewell any more."""
        self._dropNotice(member.peer)
        self._byPeer[member.peer] = member

    def changePeer(self, member: M, peer: Peer) -> None:
        """Change the address of a member, as its machine uses another port now; the order does not change."""
        self._dropNotice(member.peer)
        self._dropNotice(peer)
        self._byPeer = {peer if each is member else known: each for known, each in self._byPeer.items()}
        member.peer = peer

    def moveToEnd(self, member: M) -> None:
        """Put a member behind all others."""
        self._byPeer[member.peer] = self._byPeer.pop(member.peer)

    def announce(self, member: M, master: bool) -> None:
        """Queue an announcement to a member, in place of an earlier one that is still queued."""
        self._queue(Announce(member.peer, master, member.heard))
        member.confirmed = False

    def remove(
        self, member: M, outcome: str, wants: Ranges = (), deaf: bool = False, copies: int = 0, sent: bool = False
    ) -> None:
        """
        Remove a member, and queue its farewell.

        @param wants: the blocks that it still lacks.
        @param deaf: it was shown to receive nothing that is sent to the group.
        @param copies: how often the first of these blocks was sent since it asked for them.
        @param sent: it may have received everything.
        """
        del self._byPeer[member.peer]
        member.announceAt = None
        repeated = member.repeatedFor(wants)
        self._queue(Left(member.peer, outcome, wants, member.heard, deaf, repeated, copies, sent))

    def _queue(self, notice: Announce | Left) -> None:
        """Queue a notice behind all others, in place of an earlier one of its peer."""
        self._dropNotice(notice.peer)
        # No itertools.count: Python 3.14 does not copy it, and casts are copied where their state is compared.
        self._noticed += 1
        self._places[notice.peer] = self._noticed
        self._notices[self._noticed] = notice

    def _dropNotice(self, peer: Peer) -> None:
        place = self._places.pop(peer, None)
        if place is not None:
            del self._notices[place]

    @property
    def hasNotices(self) -> bool:
        """Whether an announcement or farewell is queued."""
        return bool(self._notices)

    def nextNotice(self) -> Announce | Left | None:
        """Remove the next announcement or farewell from the queue and return it; L{None}: the queue is empty."""
        if not self._notices:
            return None
        _, notice = self._notices.popitem(last=False)
        del self._places[notice.peer]
        return notice


class ListenerTimers(Generic[M]):
    """
    Finds the listeners whose announcement is to be repeated, by C{Member.announceAt}, without a look at all members.
    """

    __slots__ = ("_heap", "_pushed")

    def __init__(self) -> None:
        # An entry whose instant is no longer that of its member is out of date.
        self._heap: list[tuple[float, int, M]] = []
        self._pushed = 0  # how many entries there were in all: of one instant the first goes first

    def set(self, member: M, instant: float) -> None:
        """Have the announcement of this member repeated at this instant, in place of an earlier or later one."""
        member.announceAt = instant
        self._pushed += 1
        heappush(self._heap, (instant, self._pushed, member))

    @property
    def next(self) -> float | None:
        """The instant at which the next announcement is due; L{None}: none is."""
        heap = self._heap
        while heap and heap[0][2].announceAt != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> M | None:
        """Return a member whose announcement is due now, and stop its timer; L{None}: there is none."""
        instant = self.next
        if instant is None or now < instant:
            return None
        member = heappop(self._heap)[2]
        member.announceAt = None
        return member
