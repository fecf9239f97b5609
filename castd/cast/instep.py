"""
In step: a lone receiver that says what was foreseen is served without asking its cast, which is told afterwards (see
L{castd.server.preparedSteps}).
"""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum

from castd.cast.events import Ranges, SendBlocks
from castd.cast.limits import JoinDelay, TurnLimits
from castd.cast.members import Member, Members


class State(Enum):
    """Where the turn is."""

    EMPTY = "empty"
    ANNOUNCED = "greeted"
    SENDING = "sending"
    WAITING = "waiting"


class InStep:
    """
    The half of a L{castd.cast.turn.Turn} that a lane asks and tells.  A base class, since it is the same state that
    both halves keep.
    """

    highestSent: int
    alarmAt: float
    _state: State
    _master: Member | None
    _members: Members
    _gathering: JoinDelay
    _term: TurnLimits
    _want: Ranges
    _again: bool
    _restarted: bool
    _sentAt: float

    @abstractmethod
    def _serve(self, ranges: Ranges, now: float) -> None:
        """The master is to get these."""

    @abstractmethod
    def _send(self, now: float) -> SendBlocks:
        """The next of them goes out."""

    def _alone(self) -> Member | None:
        """-> the one receiver, if nothing but its answer is awaited."""
        return None if self._members.owed or len(self._members) > 1 else self._master

    def announced(self) -> bool:
        """Is everything still to come for the one receiver, once it answers its greeting?"""
        member = self._alone()
        return (
            member is not None
            and self._state is State.ANNOUNCED
            and self.highestSent < 0
            and self._gathering.until is None
            and not member.asked
        )

    def begun(self, numbers: range, now: float) -> float:
        """
        The one receiver has answered its greeting, and these blocks went out for it.  That answer is not measured: it
        comes when the client needs the data.

        @return: seconds after which they are to be repeated if no answer comes.
        """
        assert self._master is not None
        member = self._master
        member.heard = member.confirmed = True
        member.suspect = False
        member.alarm.reset()
        self._serve((numbers,), now)
        self._send(now)
        return member.alarm.interval()

    def inStep(self, stop: int) -> float | None:
        """
        May the one receiver be served without asking, as long as it answers as foreseen?

        @param stop: the number after the last that was sent.
        @return: the instant when that went out; L{None}: no.
        """
        member = self._alone()
        if self._state is not State.WAITING or member is None or not member.heard or self._again:
            return None
        return self._sentAt if stop == self.highestSent + 1 else None

    @property
    def settled(self) -> bool:
        """Is so much known of the answering time of the one in step that its next answers need not be measured?"""
        assert self._master is not None
        return self._master.alarm.converged

    def measured(self, seconds: float) -> float:
        """
        The receiver in step has taken so long to answer.

        @return: seconds after which a step is to be repeated if no answer comes.
        """
        assert self._master is not None
        alarm = self._master.alarm
        alarm.sample(seconds)
        alarm.answered()
        self._master.failed = 0
        return alarm.interval()

    def followed(self, numbers: range, now: float) -> None:
        """The receiver was in step, and these blocks were the last that went out, at this instant."""
        assert self._master is not None
        self._want = self._master.asked = (numbers,)
        self._restarted = False
        self._sentAt = self._term.progressAt = now
        self.alarmAt = now + self._master.alarm.interval()
        self.highestSent = numbers.stop - 1
