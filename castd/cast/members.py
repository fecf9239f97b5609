"""
Keep the members of a cast, in their order, and the announcements and farewells that are still to be sent to them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
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
    """

    __slots__ = (
        "announceAt",
        "announcements",
        "confirmed",
        "correctedAt",
        "corrections",
        "failedTurns",
        "heard",
        "hearsGroup",
        "highestSentAtJoin",
        "joinedAt",
        "peer",
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
        self.correctedAt = float("-inf")
        self.servedAt = float("inf")
        self.wanted: Ranges = ()
        self.announceAt: float | None = None

    def asksInVain(self, ranges: Ranges, now: float) -> bool:
        """
        Find out whether a request repeats the one before although its blocks were sent, and count it if so.

        It counts only if the blocks were sent after the request before, at least a round-trip time ago.  The count goes
        on from one turn to the next: a slow client repeats its request when its turn is over.
        """
        if ranges != self.wanted:
            self.unchangedRequests = 0
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
    Keeps the members of a cast in order, and the notices (announcements and farewells) that are still to be sent.
    """

    __slots__ = ("_announced", "_byPeer", "_notices")

    def __init__(self) -> None:
        self._byPeer: dict[Peer, M] = {}
        self._notices: deque[Announce | Left] = deque()
        self._announced: set[Peer] = set()  # whose announcement is queued

    def __len__(self) -> int:
        return len(self._byPeer)

    def __iter__(self) -> Iterator[M]:
        return iter(self._byPeer.values())

    def get(self, peer: Peer) -> M | None:
        """Return the member with this address; L{None}: there is none."""
        return self._byPeer.get(peer)

    def add(self, member: M) -> None:
        """Add a member behind all others."""
        self._byPeer[member.peer] = member

    def changePeer(self, member: M, peer: Peer) -> None:
        """Change the address of a member, as its machine uses another port now; the order does not change."""
        self._byPeer = {peer if each is member else known: each for known, each in self._byPeer.items()}
        member.peer = peer

    def moveToEnd(self, member: M) -> None:
        """Put a member behind all others."""
        self._byPeer[member.peer] = self._byPeer.pop(member.peer)

    def announce(self, member: M, master: bool) -> None:
        """Queue an announcement to a member, in place of an earlier one that is still queued."""
        self._dropAnnouncement(member)
        self._notices.append(Announce(member.peer, master, member.heard))
        self._announced.add(member.peer)
        member.confirmed = False

    def remove(self, member: M, outcome: str, wants: Ranges = ()) -> None:
        """Remove a member, and queue its farewell; C{wants} is what it still lacks."""
        del self._byPeer[member.peer]
        self._dropAnnouncement(member)
        self._notices.append(Left(member.peer, outcome, wants, member.heard))

    def _dropAnnouncement(self, member: M) -> None:
        if member.peer in self._announced:
            self._announced.discard(member.peer)
            self._notices = deque(each for each in self._notices if isinstance(each, Left) or each.peer != member.peer)

    @property
    def hasNotices(self) -> bool:
        """Whether an announcement or farewell is queued."""
        return bool(self._notices)

    def nextNotice(self) -> Announce | Left | None:
        """Remove the next announcement or farewell from the queue and return it; L{None}: the queue is empty."""
        if not self._notices:
            return None
        notice = self._notices.popleft()
        if isinstance(notice, Announce):
            self._announced.discard(notice.peer)
        return notice
