"""
Describe the state of a transfer on the fast path: the part of it that a compiled loop can advance as well.
"""

from __future__ import annotations

from collections.abc import Callable

from castd.request import Peer


class StepLists:
    """
    Holds prepared steps.

    @ivar answers: the receiver's datagram before each step, and C{None} behind the last.
    @ivar images: the datagrams that go out at each step, one behind the other.
    """

    __slots__ = ("answers", "images")

    answers: list[bytes | None]
    images: list[memoryview]


class StepState:
    """
    Holds where a transfer is on the fast path.  A subclass sets all attributes.

    @ivar due: the instant at which an answer is missing, see L{castd.net.timers.TimerTarget}.
    """

    __slots__ = ("_expected", "_interval", "_prepared", "_seconds", "_sendStep", "_steppedAt", "_steps", "due")

    due: float | None
    _expected: bytes | None  # the next answer; None: Python has to look at whatever comes
    _interval: float  # seconds that an answer may take
    _prepared: StepLists
    _seconds: Callable[[], float]
    _sendStep: Callable[[memoryview], object]
    _steppedAt: float  # the instant of the last step
    _steps: int  # how many of the prepared ones were taken

    def stepRefused(self, datagram: bytes, peer: Peer) -> None:
        """Handle the expected answer without taking its step, as the socket has not accepted the datagrams."""
