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


class MasterSteps:
    """
    Holds how the master of a group is served without the cast, besides what L{StepState} holds.

    @ivar peer: its address: everybody can send to the port of a group.
    @ivar until: an instant from which on Python has to look at whatever comes.
    @ivar longest: an answer that takes more seconds than these is Python's.
    @ivar stop: how many of the prepared steps may be taken; 0: none, Python has to look at whatever comes.
    @ivar draw: returns a random number for each step.
    @ivar drawn: the number for the last step.
    @ivar noted: the seconds that each answer has taken since the cast was told of the last one.
    """

    __slots__ = ("draw", "drawn", "longest", "noted", "peer", "stop", "until")

    peer: Peer
    until: float
    longest: float
    stop: int
    draw: Callable[[], float]
    drawn: float
    noted: list[float]

    def __init__(self, peer: Peer, until: float, longest: float, draw: Callable[[], float]) -> None:
        self.peer = peer
        self.until = until
        self.longest = longest
        self.stop = 0
        self.draw = draw
        self.drawn = 0.0
        self.noted = []


class StepState:
    """
    Holds where a transfer is on the fast path.  A subclass sets all attributes.

    @ivar due: the instant at which an answer is missing, see L{castd.net.timers.TimerTarget}.
    """

    __slots__ = (
        "_expected",
        "_interval",
        "_master",
        "_prepared",
        "_seconds",
        "_sendStep",
        "_steppedAt",
        "_steps",
        "due",
    )

    due: float | None
    _expected: bytes | None  # the next answer; None: Python has to look at whatever comes
    _interval: float  # seconds that an answer may take
    _master: MasterSteps | None  # the master of a group, which C{_expected} says nothing of; None: it is not in step
    _prepared: StepLists
    _seconds: Callable[[], float]
    _sendStep: Callable[[memoryview], object]
    _steppedAt: float  # the instant of the last step
    _steps: int  # how many of the prepared ones were taken

    def stepRefused(self, datagram: bytes, peer: Peer) -> None:
        """Handle the expected answer without taking its step, as the socket has not accepted the datagrams."""
