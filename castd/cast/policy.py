"""
When a cast repeats what was not answered, and how long it waits: plain frozen values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class AdaptiveTimeout:
    """
    When to repeat, following the measured answering time: smoothed time plus four deviations (RFC 6298).  Seconds.

    @ivar first: the interval before anything was measured.
    @ivar floor: never sooner than that.
    @ivar growth: factor from one unanswered repetition to the next.
    @ivar ceiling: never later than that.
    """

    first: float = 1.0
    floor: float = 0.02
    growth: float = 2.0
    ceiling: float = 8.0


@dataclass(frozen=True, slots=True)
class FixedTimeouts:
    """When to repeat, by a fixed table: the last step goes on for ever.  Seconds."""

    steps: tuple[float, ...]


#: Where an interval was agreed on, a peer may be silent for so many of them, and for so many seconds at least.
SILENT_INTERVALS, SILENT_SECONDS = 6, 15.0


@dataclass(frozen=True, slots=True)
class RetransmitPolicy:
    """
    How patient a cast is.  Seconds and counts; L{None} switches a rule off.

    @ivar repeat: when to repeat.
    @ivar silence: without progress for so long a receiver loses its turn (while others wait, if it was never measured).
    @ivar measured: the same for a master whose answering time is known, while others wait.
    @ivar tries: ... and at least so many repetitions of the last burst must have gone out by then.
    @ivar alone: the same while nobody else is in the group.
    @ivar unheard: repetitions to a peer that has never sent anything but its request; then silence to the end of its
        time, and a single greeting in any later turn.
    @ivar brief: (tries, seconds between them) of the first turn of a member that has waited, once the last block was
        sent.
    @ivar terms: failed turns until a member is gone.
    @ivar keep: greatest silence towards a group with members.
    @ivar gather: the first block waits until nobody has joined for so long ...
    @ivar gatherLimit: ... but no longer than this.
    @ivar deaf: unchanged wants after the blocks went out until a receiver is taken for deaf.
    @ivar allDeaf: receivers that asked for the first block and did not get it, be they taken for deaf or silent, after
        which all are taken for deaf, as long as nobody has asked for another block.
    @ivar prove: after so long in the middle of a pass, a receiver that is here since its beginning and had no turn gets
        one: one that hears nothing would give up.
    @ivar corrections: answers to wants out of turn, one a second at most.
    @ivar confirm: repetitions of a listener's greeting that it never confirmed, one a second.
    @ivar termBlocks: the blocks one turn may cost, as a multiple of the blocks of the file.
    @ivar termShare: (share of the blocks, seconds): a master that makes less while others wait loses the turn.
    """

    repeat: AdaptiveTimeout | FixedTimeouts = AdaptiveTimeout()
    silence: float = 31.0
    measured: float | None = None
    tries: int = 0
    alone: float | None = None
    unheard: int | None = 3
    brief: tuple[int, float] | None = None
    terms: int = 1
    keep: float | None = None
    gather: float = 0.0
    gatherLimit: float = 0.0
    deaf: int | None = None
    allDeaf: int | None = None
    prove: float | None = None
    corrections: int = 3
    confirm: int = 0
    termBlocks: float | None = None
    termShare: tuple[float, float] | None = None

    def heeding(self, timeout: float | None) -> RetransmitPolicy:
        """
        -> the same with the interval of RFC 2349's C{timeout}: exactly that until something was measured, then never
        longer, since the peer has only said how long it waits itself (docs/transports/tftp.md).

        @param timeout: seconds; L{None}: none was agreed on.
        """
        if timeout is None:
            return self
        known = self.repeat if isinstance(self.repeat, AdaptiveTimeout) else AdaptiveTimeout()
        repeat = replace(known, first=timeout, floor=min(known.floor, timeout), ceiling=timeout)
        return replace(self, repeat=repeat, silence=max(SILENT_INTERVALS * timeout, SILENT_SECONDS))
