"""
Keep what both casts know of their receivers: who is a member, in which order, and which announcements and farewells
are to be sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from castd.cast.events import Announce, Left, Ranges
from castd.cast.policy import AdaptiveTimeout, FixedTimeouts
from castd.cast.rto import RtoEstimator
from castd.request import Peer

#: The answering time assumed of a receiver that was never measured, when it is to be told from a deaf one.  Seconds.
ASSUMED_RTT = 0.02


class Member:
    """
    One receiver.

    @ivar peer: its address.
    @ivar requested: the blocks that its request itself asked for; empty where it says so later.
    @ivar rto: when to repeat to it.
    @ivar joinedAt: the instant when it came.
    @ivar highestSentAtJoin: the highest number that had been sent when it asked; -1: it should have heard everything.
    @ivar heard: it has said something since it asked.
    @ivar hearsGroup: it has asked for something behind the first block, so it hears what is sent to the group.
    @ivar waited: it was here before it got its first turn.
    @ivar turns: how often it had the turn.
    @ivar failedTurns: turns that it has lost since it last made progress.
    @ivar suspect: it lost its last turn and was not heard since.
    @ivar confirmed: it has answered its last announcement.
    @ivar announceAt: the instant at which its announcement as a listener is repeated, or L{None}.
    @ivar announcements: how often that was repeated.
    @ivar correctedAt: the instant when it was last told that it has not the turn.
    @ivar corrections: how often it was told that.
    @ivar wanted: the blocks that it asked for last.
    @ivar servedAt: the instant when blocks first went out for that, or for the last repetition that counted.
    @ivar unchangedRequests: how often it asked for the same blocks again although they had gone out.
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
        Find out whether a request repeats the one before although its blocks went out, and count it if so.

        One counts only if the blocks went out since the one before, at least an answering time ago.  They are counted
        across turns: a slow client repeats when its turn is over.
        """
        if ranges != self.wanted:
            self.unchangedRequests = 0
            return False
        answering = self.rto.smoothedRtt or ASSUMED_RTT
        if now - self.servedAt < answering:
            return False
        self.servedAt = float("inf")
        self.unchangedRequests += 1
        return True


M = TypeVar("M", bound=Member)


class Members(Generic[M]):
    """
    The members of a cast in the order in which they came, and the notices (announcements and farewells) still to send.
    """

    __slots__ = ("_byPeer", "_notices")

    def __init__(self) -> None:
        self._byPeer: dict[Peer, M] = {}
        self._notices: deque[Announce | Left] = deque()

    def __len__(self) -> int:
        return len(self._byPeer)

    def __iter__(self) -> Iterator[M]:
        return iter(self._byPeer.values())

    def get(self, peer: Peer) -> M | None:
        """-> the member at this address, if there is one."""
        return self._byPeer.get(peer)

    def add(self, member: M) -> None:
        """Add a member behind all others."""
        self._byPeer[member.peer] = member

    def changePeer(self, member: M, peer: Peer) -> None:
        """Give a member another address, as its machine speaks from another port now; it keeps its place."""
        self._byPeer = {peer if here is member else known: here for known, here in self._byPeer.items()}
        member.peer = peer

    def moveToEnd(self, member: M) -> None:
        """Put a member behind all others."""
        self._byPeer[member.peer] = self._byPeer.pop(member.peer)

    def announce(self, member: M, master: bool) -> None:
        """Queue an announcement of its place to a member, instead of an earlier one that has not gone out."""
        self._dropAnnouncement(member)
        self._notices.append(Announce(member.peer, master, member.heard))
        member.confirmed = False

    def remove(self, member: M, outcome: str, wants: Ranges = ()) -> None:
        """Remove a member, and queue its farewell; C{wants} is what it still lacks."""
        del self._byPeer[member.peer]
        self._dropAnnouncement(member)
        self._notices.append(Left(member.peer, outcome, wants, member.heard))

    def _dropAnnouncement(self, member: M) -> None:
        if self._notices:
            self._notices = deque(each for each in self._notices if isinstance(each, Left) or each.peer != member.peer)

    @property
    def hasNotices(self) -> bool:
        """Is any announcement or farewell to be sent?"""
        return bool(self._notices)

    def nextNotice(self) -> Announce | Left | None:
        """-> the next announcement or farewell, which is not to be sent again."""
        return self._notices.popleft() if self._notices else None
