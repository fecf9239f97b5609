"""
Find out what the ACKs of a receiver of windows say (RFC 7440, section 4).

Theory of operation.  A receiver of windows acknowledges the last block of a window, and the last block before a gap.
So an ACK from within the window mostly says that what follows was lost, and an ACK of what was acknowledged already
that the first block of the window was.  But it may say neither:

 - It I{crossed} the window: it was sent before any of the window's blocks arrived.  A network may deliver an ACK twice,
   or late.  No receiver can answer sooner than the shortest time that an answer has taken yet.
 - It answers a I{copy}.  Blocks that are sent again to a receiver that had them draw ACKs as well: one for each copy of
   a window, or from some receivers one for each block of it.  So does an announcement, such as an OACK, that is sent
   again.  There are none any more once a block is acknowledged that was first sent after the copy.
 - The receiver acknowledges I{often}, not only at the end of a window: every block, or every few.

Each of them would make a sender repeat the window that follows, whose copy draws the next such ACK, and so on to the
end of the file (RFC 1123, section 4.2.3.1).  So an ACK from within the window causes a repetition only if it shows
a gap; else only blocks that were never sent follow, and the window moves on.  And an ACK of what was acknowledged
already causes one repetition of the window at the most, and only if nothing else explains it.  If an ACK that showed a
loss is taken for one of the above, the timer repeats what was lost.
"""

from __future__ import annotations

#: Two instants that differ by less may be the same, as they are rounded.  Seconds.
ROUNDING = 1e-6
#: A receiver acknowledges often if it does so within a window so many times in a row, each time for the same number of
#: blocks.  Losses seldom look like that.
EQUAL_STEPS = 3


class SendWindow:
    """
    Keeps what was sent to one receiver, and interprets its ACKs.

    An ACK is given as the number of the block that it asks for, the one after the last that it acknowledges.  Block
    numbers never wrap here.

    @ivar sentStop: the number after the last block that was sent.
    @ivar sentAt: the instant at which the last burst was sent.
    @ivar timedAt: the instant at which the block was sent whose ACK is to be measured.
    @ivar often: the receiver acknowledges more often than once in a window.
    """

    __slots__ = (
        "_askedAgain",
        "_copiedStop",
        "_copyTook",
        "_explained",
        "_repeated",
        "_run",
        "_spacing",
        "_step",
        "_timed",
        "often",
        "sentAt",
        "sentStop",
        "timedAt",
    )

    def __init__(self) -> None:
        self.sentStop = 0
        self.sentAt = self.timedAt = 0.0
        self.often = False
        self._timed: int | None = None  # the block that is timed
        self._copiedStop = -1  # the number after the last block that was sent again
        self._spacing = 0.0  # seconds from those blocks to their copies
        self._copyTook = 0.0  # seconds from the last copy of the announcement to the first answer
        self._repeated = False  # the window was sent again
        self._askedAgain = False  # the first block of the window was asked for again ...
        self._explained = False  # ... and that was the answer to a copy
        self._run = self._step = 0  # how often in a row so many blocks were acknowledged from within the window

    # What is sent.

    def sent(self, numbers: range, now: float, again: bool = False) -> None:
        """
        Note that blocks are sent.

        @param again: they are a repetition that is not timed (Karn).
        """
        if numbers.start < self.sentStop:
            self._spacing = now - self.sentAt
        self.sentAt = now
        if not again and self._timed is None:
            self._timed, self.timedAt = numbers.start, now
        self.sentStop = max(numbers.stop, self.sentStop)

    def sentAgain(self, timer: bool) -> None:
        """
        Note that the window is sent again.

        @param timer: the receiver was silent.  It must show anew that it acknowledges often.
        """
        self._copied()
        self._repeated = True
        if timer:
            self.often, self._run = False, 0

    def _copied(self) -> None:
        self._timed = None
        self._copiedStop, self._copyTook = self.sentStop, 0.0

    def announcedAgain(self, start: int, spacing: float, took: float) -> None:
        """
        Note that the answer to an announcement has come, which was sent more than once: each copy may draw one.

        @param start: the block that the answer asks for.
        @param spacing: seconds from the announcement to its last copy.
        @param took: seconds from there to the answer.
        """
        self._copiedStop, self._spacing, self._copyTook = start, spacing, took

    def delayed(self, now: float) -> None:
        """Note that the last burst has left only now."""
        if self.timedAt == self.sentAt:
            self.timedAt = now
        self.sentAt = now

    def followed(self, numbers: range, now: float) -> None:
        """Note that the receiver has acknowledged whole windows, up to these blocks, which were sent now."""
        self.sentStop, self._timed = numbers.stop, numbers.start
        self.sentAt = self.timedAt = now
        self.often = self._repeated = self._askedAgain = self._explained = False
        self._run = 0

    def timedBlock(self, number: int) -> float | None:
        """
        Return when this block was sent, if it was sent last, and once, and its ACK is to be measured; L{None}: not so.
        """
        once = self._timed == number and self.sentStop == number + 1 and self._copiedStop <= number
        return self.timedAt if once else None

    def sentOneByOne(self, last: range, now: float) -> None:
        """Note that each block up to this last one was acknowledged, and measured, before the next one was sent."""
        self._timed, self.sentStop = last.start, last.stop
        self.sentAt = self.timedAt = now

    # What is acknowledged.

    def measured(self, number: int, now: float, shortest: float) -> float | None:
        """
        Return the seconds from a block to its ACK; L{None}: this ACK gives no sample.

        One block at a time is measured (RFC 6298, section 3).  A block that was sent again since a loss was shown is
        measured from then on: it was not answered before, unless its ACK comes too soon.

        @param number, shortest: as in L{advanced}.
        """
        if self._timed is None or number <= self._timed:
            return None
        if self._timed < self._copiedStop and self._crossed(now, shortest):
            return None
        self._timed = None
        return now - self.timedAt

    def advanced(self, start: int, number: int, now: float, shortest: float) -> int:
        """
        Interpret an ACK that acknowledges blocks of the window.

        @param start: the block that the window begins with.
        @param number: the block that the ACK asks for.
        @param shortest: the shortest time that an answer has taken.  Seconds.
        @return: the block to send from: C{number}, or the first one that was never sent.
        """
        self._repeated = self._askedAgain = self._explained = False
        if number >= self.sentStop:
            self._run = 0
            self.often = self.often and number <= self._copiedStop
            return number
        self._run = self._run + 1 if number - start == self._step else 1
        self._step = number - start
        # If it crossed the copy of what it asks for, that was not lost the first time: why else did it answer?
        if self._run >= EQUAL_STEPS or (number <= self._copiedStop and self._crossed(now, shortest)):
            self.often = True
        if self.often or number == self._copiedStop:
            return self.sentStop
        self._copied()
        return number

    def firstLost(self, start: int, now: float, shortest: float) -> bool:
        """
        Interpret an ACK that acknowledges no block of the window.

        @param start, shortest: as in L{advanced}.
        @return: whether it says that the first block was lost: the window is to be sent again.
        """
        crossed = self._crossed(now, shortest)
        askedAgain, self._askedAgain = self._askedAgain, True
        if start <= self._copiedStop and (crossed or self.often or self._explained or self._answersCopy(now)):
            self._explained = True
            return False
        if self._repeated or crossed:
            return False
        self.often = self.often and askedAgain  # one that acknowledges often does so for each block after a gap
        return True

    def _answersCopy(self, now: float) -> bool:
        """
        Return whether an ACK comes about as long after the one before it as the copy was sent after its window.  Where
        answers have begun to take longer than the timer waits, each window is answered, and then its copy.  A receiver
        that was busy when the announcement and its copy came answers both at once.
        """
        seconds = now - self.sentAt
        return seconds >= self._spacing / 2 or seconds < self._copyTook - ROUNDING

    def _crossed(self, now: float, shortest: float) -> bool:
        """Return whether an ACK comes too soon to answer the last burst; none answers at the instant that it leaves."""
        return now < self.sentAt + max(shortest - ROUNDING, ROUNDING)
