"""
What both casts are made of: who is here and what they are owed, and when to repeat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from castd.cast.events import (
    Announce,
    Left,
    Ranges,
)
from castd.cast.policy import AdaptiveTimeout, FixedTimeouts
from castd.cast.rto import RtoEstimator
from castd.request import Peer

#: The answering time assumed of a receiver that was never measured, when it is to be told from a deaf one.  Seconds.
UNMEASURED = 0.02


class Member:
    """
    One receiver.

    @ivar heard: it has said something since it asked.
    @ivar hears: it has asked for something behind the first block, so it hears what is sent to the group.
    @ivar cameAt: the instant when it came.
    @ivar since: the last number that had been sent when it asked, -1: it should have heard everything.
    @ivar waited: it was here before it got its first turn.
    @ivar confirmed: it has answered its last greeting.
    @ivar failed: turns it has lost; more than none makes it a suspect until it is heard again.
    @ivar turns: how often it had the turn.
    @ivar suspect: it lost its last turn and was not heard since.
    @ivar wants: what its request asked for.
    @ivar asked: what it wanted last.
    @ivar repeats: wants it repeated although the blocks went out.
    @ivar servedAt: the instant when blocks first went out for that want, or for the last repetition that counted.
    """

    __slots__ = (
        "alarm",
        "announceAt",
        "announcements",
        "asked",
        "cameAt",
        "confirmed",
        "corrected",
        "corrections",
        "failed",
        "heard",
        "hears",
        "peer",
        "repeats",
        "servedAt",
        "since",
        "suspect",
        "turns",
        "waited",
        "wants",
    )

    def __init__(
        self,
        peer: Peer,
        wants: Ranges,
        repeat: AdaptiveTimeout | FixedTimeouts,
        waited: bool,
        since: int = -1,
        cameAt: float = 0.0,
    ) -> None:
        self.peer = peer
        self.wants = wants
        self.alarm = RtoEstimator(repeat)
        self.waited = waited
        self.since = since
        self.cameAt = cameAt
        self.heard = self.hears = self.confirmed = self.suspect = False
        self.failed = self.turns = self.corrections = self.repeats = self.announcements = 0
        self.corrected = float("-inf")
        self.servedAt = float("inf")
        self.asked: Ranges = ()
        self.announceAt: float | None = None

    def misses(self, ranges: Ranges, now: float) -> bool:
        """
        It wants these: does it repeat a want although the blocks went out?  Such repetitions are counted.

        One counts only if the blocks went out since the one before, at least an answering time ago.  Counted across
        turns: a slow client repeats when its turn is over.
        """
        if ranges != self.asked:
            self.repeats = 0
            return False
        answering = self.alarm.smoothedRtt or UNMEASURED
        if now - self.servedAt < answering:
            return False
        self.servedAt = float("inf")
        self.repeats += 1
        return True


class Members:
    """
    Who is here, in the order in which they came, and what they are owed: greetings and farewells.
    """

    __slots__ = ("_due", "_here")

    def __init__(self) -> None:
        self._here: dict[Peer, Member] = {}
        self._due: deque[Announce | Left] = deque()

    def __len__(self) -> int:
        return len(self._here)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._here.values())

    def __contains__(self, peer: object) -> bool:
        return peer in self._here

    def get(self, peer: Peer) -> Member | None:
        return self._here.get(peer)

    def add(self, member: Member) -> None:
        self._here[member.peer] = member

    def rename(self, member: Member, peer: Peer) -> None:
        """The same machine speaks from another port now; it keeps its place."""
        self._here = {peer if here is member else known: here for known, here in self._here.items()}
        member.peer = peer

    def last(self, member: Member) -> None:
        """Send it to the end of the row."""
        self._here[member.peer] = self._here.pop(member.peer)

    def announce(self, member: Member, master: bool) -> None:
        """It is to be told its place; what it was to be told before is out of date."""
        self._forget(member)
        self._due.append(Announce(member.peer, master, member.heard))
        member.confirmed = False

    def part(self, member: Member, outcome: str, wants: Ranges = ()) -> None:
        """It is gone, and everybody who counts is to be told."""
        del self._here[member.peer]
        self._forget(member)
        self._due.append(Left(member.peer, outcome, wants, member.heard))

    def _forget(self, member: Member) -> None:
        """Greetings that it was not told yet."""
        if self._due:
            self._due = deque(due for due in self._due if isinstance(due, Left) or due.peer != member.peer)

    @property
    def owed(self) -> bool:
        """Greetings or farewells are due."""
        return bool(self._due)

    def pay(self) -> Announce | Left | None:
        """-> the next greeting or farewell that is due."""
        return self._due.popleft() if self._due else None
