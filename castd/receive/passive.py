"""
Provides the base class of the receivers of MTFTP and SLAM, which send nothing as long as blocks come.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from castd.cast.policy import RetransmitPolicy
from castd.outcomes import DONE, SILENT, UNHEARD
from castd.packets.options import AgreedOptions
from castd.packets.tftp import Error
from castd.request import Peer

#: Seconds without a block until a reminder is sent: the first interval, and the longest.  Each is twice the last.
REMINDER, LONGEST_REMINDER = 1.0, 4.0
#: Seconds for which a half that has everything goes on answering: the server may not know that yet.
DALLY = 0.5


class PassiveReceiver(ABC):
    """
    A half that sends a reminder when the server was silent for a while, and gives up after a longer silence.

    @ivar outcome, complete, size: as L{ITransferHalf<castd.interfaces.ITransferHalf>}.
    @ivar error, terms: as L{IClientTransferHalf<castd.interfaces.IClientTransferHalf>}.
    @ivar group, tid: as L{IGroupTransferHalf<castd.interfaces.IGroupTransferHalf>}.
    @ivar blocks: how many different blocks have come.
    @ivar repeats: how many reminders were sent.
    """

    def __init__(self, policy: RetransmitPolicy, group: tuple[str, int]) -> None:
        self.outcome: str | None = None
        self.complete = False
        self.size: int | None = None
        self.error: Error | None = None
        self.terms: AgreedOptions | None = None
        self.group: tuple[str, int] | None = group
        self.tid: Peer | None = None
        self.blocks = self.repeats = 0
        self._silence = policy.progressTimeout
        self._heardAt = self._reminderAt = 0.0
        self._pause = REMINDER
        self._dallyUntil: float | None = None

    def poll(self, now: float) -> list[bytes]:
        """
        Return the reminder that is due after a silence.  Sets C{outcome} when the server was silent for too long:
        L{UNHEARD} if only its group was.
        """
        if self._dallyUntil is not None:
            self.outcome = DONE if now >= self._dallyUntil else None
            return []
        if self.outcome is not None or self.complete:
            return []
        if now >= self._heardAt + self._silence:
            self.outcome = UNHEARD if self._groupUnheard else SILENT
            return self._farewell()
        if now < self._reminderAt:
            return []
        self.repeats += 1
        self._scheduleReminder(now, min(self._pause * 2, LONGEST_REMINDER))
        return self._reminder(now)

    def deadline(self, now: float) -> float | None:
        """Return the instant at which L{poll} is due; L{None}: no timer runs."""
        if self.outcome is not None:
            return None
        if self._dallyUntil is not None or self.complete:
            return self._dallyUntil
        return min(self._reminderAt, self._heardAt + self._silence)

    def _dally(self, now: float) -> None:
        """Leave the group, as everything is stored, and go on answering for L{DALLY} seconds."""
        self.group = None
        self._dallyUntil = now + DALLY

    @property
    @abstractmethod
    def _groupUnheard(self) -> bool:
        """Whether the server has answered this client alone, and nothing has come from its group."""

    @abstractmethod
    def _reminder(self, now: float) -> list[bytes]:
        """Return the datagrams that ask the server to continue."""

    def _farewell(self) -> list[bytes]:
        """Return the datagrams to send when the server is given up."""
        return []

    def _serverHeard(self, now: float) -> None:
        """Restart the timer of the server's silence: a datagram of the server has come."""
        self._heardAt = now
        self._scheduleReminder(now, REMINDER)

    def _scheduleReminder(self, now: float, pause: float) -> None:
        self._pause = pause
        self._reminderAt = now + pause
