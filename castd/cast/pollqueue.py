"""
Who is asked next: what L{Sweep<castd.cast.sweep.Sweep>} keeps of its receivers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from castd.cast.events import (
    Left,
    Ranges,
)
from castd.cast.members import Member, Members
from castd.cast.policy import RetransmitPolicy
from castd.request import Peer


class PolledMember(Member):
    """
    One that lists what it lacks.

    @ivar askedAt: the instant of the question it has not answered yet, or L{None}.
    @ivar late: what its last list names that is put off, until C{lateAt}; a newer list takes its place.
    @ivar joinedAt: how many bursts had gone out when it came: it is asked only after one that it could hear.
    @ivar idle: lists that asked for nothing, one after the other.
    @ivar paused: it is neither served nor asked before C{lateAt}, unless it says something new.
    @ivar goneAt: when it is over, if it stays silent.
    """

    __slots__ = ("askedAt", "goneAt", "idle", "joinedAt", "late", "lateAt", "paused")

    def __init__(self, peer: Peer, policy: RetransmitPolicy, joinedAt: int) -> None:
        super().__init__(peer, (), policy.repeat, waited=False)
        self.askedAt: float | None = None
        self.late: Ranges = ()
        self.lateAt: float | None = None
        self.joinedAt = joinedAt
        self.idle = 0
        self.paused = False
        self.goneAt = 0.0

    def putOff(self, late: Ranges, until: float | None) -> None:
        """What it lacks waits for that instant; what waited before is out of date."""
        self.late = late
        self.lateAt = until


class PollQueue:
    """
    The receivers in three rows, each in the order in which they will be asked.

    I{Proved} have answered a question, and so are no forged addresses: they come first.  I{Fresh} never have.  I{Quiet}
    have left too many questions unanswered; they are asked no more, but a word of theirs brings them back.  Who is in
    no row is being made to wait.  The number of all is bounded: quiet ones make room first, then fresh ones.
    """

    __slots__ = ("_members", "_room", "fresh", "proved", "quiet")

    def __init__(self, room: int) -> None:
        self._members = Members()
        self._room = room
        self.proved: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.fresh: OrderedDict[Peer, PolledMember] = OrderedDict()
        self.quiet: OrderedDict[Peer, PolledMember] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def get(self, peer: Peer) -> PolledMember | None:
        member = self._members.get(peer)
        return member if isinstance(member, PolledMember) else None

    def add(self, receiver: PolledMember) -> None:
        """It is new, and asked after all others that are."""
        self._members.add(receiver)
        self.fresh[receiver.peer] = receiver

    def crowded(self) -> PolledMember | None:
        """-> who must make room before another one comes, or L{None}."""
        if len(self._members) < self._room:
            return None
        row = self.quiet or self.fresh or self.proved
        oldest = next(iter(row.values()) if row else iter(self._members))
        return self.get(oldest.peer)

    def place(self, receiver: PolledMember) -> None:
        """It may be asked again: at the end of its row."""
        self.remove(receiver)
        (self.proved if receiver.heard else self.fresh)[receiver.peer] = receiver

    def hush(self, receiver: PolledMember, goneAt: float) -> None:
        """It is asked no more."""
        self.remove(receiver)
        receiver.goneAt = goneAt
        self.quiet[receiver.peer] = receiver

    def remove(self, receiver: PolledMember) -> None:
        """It is in no row."""
        for row in (self.proved, self.fresh, self.quiet):
            row.pop(receiver.peer, None)

    @property
    def quietest(self) -> PolledMember | None:
        """Who has been quiet for longest."""
        return next(iter(self.quiet.values()), None)

    def candidates(self) -> Iterator[PolledMember]:
        """-> who may be asked, the next one first."""
        yield from self.proved.values()
        yield from self.fresh.values()

    def part(self, receiver: PolledMember, outcome: str) -> None:
        """It is gone.  What it asked for last counts as sent to it, unless it has shown that it does not hear."""
        self.remove(receiver)
        self._members.part(receiver, outcome, () if receiver.repeats else receiver.asked)

    @property
    def owed(self) -> bool:
        """Farewells are due."""
        return self._members.owed

    def pay(self) -> Left | None:
        """-> the next farewell."""
        due = self._members.pay()
        return due if isinstance(due, Left) else None
