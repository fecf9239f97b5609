"""
What the receivers of MTFTP and SLAM have in common: as long as blocks come, they need not say a word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from castd.cast.policy import RetransmitPolicy
from castd.outcomes import SILENT
from castd.packets.tftp import Error

#: Seconds without a block until one speaks of its own accord, twice as long each time up to the second.
SPEAK, LONGEST_SPEAK = 1.0, 4.0


class PassiveReceiver(ABC):
    """
    A half that speaks when nothing has come for a while, and gives up in the end.

    @ivar outcome, complete, size, error: as L{castd.interfaces.ITransferHalf}.
    @ivar blocks: how many different ones have come.
    @ivar repeats: times that it spoke because nothing had come.
    """

    def __init__(self, policy: RetransmitPolicy) -> None:
        self.outcome: str | None = None
        self.complete = False
        self.size: int | None = None
        self.error: Error | None = None
        self.blocks = self.repeats = 0
        self._silence = policy.progressTimeout
        self._heardAt = self._speakAt = 0.0
        self._pause = SPEAK

    def poll(self, now: float) -> list[bytes]:
        """-> what is to be said after a silence; sets C{outcome} when patience is over."""
        if self.outcome is not None or self.complete:
            return []
        if now >= self._heardAt + self._silence:
            self.outcome = SILENT
            return self._farewell()
        if now < self._speakAt:
            return []
        self.repeats += 1
        self._wait(now, min(self._pause * 2, LONGEST_SPEAK))
        return self._reminder(now)

    def deadline(self, now: float) -> float | None:
        """-> the instant to poll again at; L{None}: nothing is waited for."""
        if self.outcome is not None or self.complete:
            return None
        return min(self._speakAt, self._heardAt + self._silence)

    @abstractmethod
    def _reminder(self, now: float) -> list[bytes]:
        """-> what to say, so that the server goes on."""

    def _farewell(self) -> list[bytes]:
        """-> what to say when it gives up."""
        return []

    def _hear(self, now: float) -> None:
        """The server is there."""
        self._heardAt = now
        self._wait(now, SPEAK)

    def _wait(self, now: float, pause: float) -> None:
        self._pause = pause
        self._speakAt = now + pause
