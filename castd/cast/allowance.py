"""
Limit how many blocks the lists of receivers draw that may be forged.

SLAM has no word that only the owner of an address could know, and a few octets can ask for a whole file.  But what is
sent to the group is seen only by who is on it.  So a list that is cut is cut at random: some blocks are I{withheld},
and the answer to the next question must name all of those and lack most of the others.  Who never sees the group cannot
guess that for long.  Each answer that is right adds to the I{proof} of the receiver; with enough of it, nothing is
withheld any more.
"""

from __future__ import annotations

from collections.abc import Callable

from castd.cast.blockset import difference, firstNumbers, total
from castd.cast.events import Ranges
from castd.pacing import TokenBucket

#: Blocks a second for all lists together that answer no question, and how many at once after a pause: more than fit any
#: client's list of single blocks.
UNVALIDATED_RATE, UNVALIDATED_DEPTH = 64.0, 1024.0
#: The same for all answers of receivers that have not proved themselves.
UNPROVED_RATE, UNPROVED_DEPTH = 128.0, 1024.0
#: Lists a second that answer no question, of all receivers together, and how many at once: more are a flood, in which
#: most are forged.
LISTS_RATE, LISTS_DEPTH = 32.0, 128.0
#: The same for one receiver; what it lists more often is ignored.  No client repeats its list more often.
REPEATS_RATE, REPEATS_DEPTH = 2.0, 8.0
#: In a flood blocks for such lists are sent together, in a moment of the first length, and then none for the second
#: length: clients of iPXE and Etherboot speak only when they have heard nothing for a while.  Seconds.
FLOOD_MOMENT, FLOOD_SILENCE = 0.05, 2.5
#: With fewer blocks left for them, short answers have to prove something, too.
LOW_WATER = 256
#: The most blocks that are sent for answers without proof since as many went to receivers that have proved themselves.
MOST_EARNED = 16_384
#: In long lists one block is withheld for each so many that are sent.
PER_HOLE = 15
#: A receiver with so many bits of proof draws what it lacks.  A receiver that proves itself by the shortest lists has
#: to guess as many numbers.
ENOUGH_PROOF = 16
#: After so many mistakes in a row a receiver is ignored for a while.
MOST_MISTAKES = 6


class Proof:
    """
    Holds how far one receiver has proved that it receives what is sent to the group.

    @ivar bits: how unlikely it is, as a power of a half, that its right answers were guessed.
    @ivar credit: blocks that its answers may draw beside those that all may draw.
    @ivar due: how many of the blocks last granted the next answer must not lack any more, if it is to count.
    @ivar stake: bits that it is worth then; 0: nothing was withheld.
    @ivar mistakes: how often, one after the other, an answer did not count; twice for each that cannot be true.
    @ivar exclusions: how often the receiver was excluded for a while for its mistakes.
    """

    __slots__ = ("bits", "credit", "due", "exclusions", "mistakes", "stake")

    def __init__(self) -> None:
        self.bits = self.credit = self.due = self.mistakes = self.exclusions = self.stake = 0

    @property
    def complete(self) -> bool:
        """Whether the receiver draws what it lacks."""
        return self.bits >= ENOUGH_PROOF

    @property
    def guesses(self) -> bool:
        """Whether there are so many mistakes that the answers are guessed: by losses alone that is unlikely."""
        return self.mistakes >= MOST_MISTAKES

    def answered(self, gained: int) -> None:
        """Handle an answer that can be true: the receiver lacks so many blocks no more that it has lacked before."""
        if self.stake and gained >= self.due:
            self.bits += self.stake
            self.credit += gained << min(self.bits, ENOUGH_PROOF)
            self.mistakes = 0
        elif self.stake:
            self.mistakes += 1
        self.stake = 0

    def contradicted(self) -> None:
        """Handle an answer that cannot be true: nothing is proved any more."""
        self.mistakes += 2
        self.reset()

    def reset(self) -> None:
        """Begin anew: the receiver may have restarted."""
        self.bits = self.credit = self.stake = 0


class Allowance:
    """Decides how many of the blocks are sent that a list names, and which."""

    __slots__ = ("_answers", "_chance", "_earned", "_lists", "_moment", "_unasked")

    def __init__(self, chance: Callable[[], float] | None) -> None:
        """
        @param chance: returns random numbers, from 0 to less than 1; L{None}: who answers a question is believed, as
            needs no guess where lists name how many blocks are lacking, and not which.
        """
        self._chance = chance
        self._unasked = TokenBucket(UNVALIDATED_RATE, UNVALIDATED_DEPTH)
        self._lists = TokenBucket(LISTS_RATE, LISTS_DEPTH)
        self._moment = float("-inf")  # the instant of the last moment of a flood in which blocks were sent
        self._answers = TokenBucket(UNPROVED_RATE, UNPROVED_DEPTH)
        self._earned = 0  # blocks for the answers of others, as many as went to receivers that have proved themselves

    def listed(self, now: float) -> None:
        """Count a list that answers no question."""
        self._lists.spend(min(1.0, LISTS_DEPTH + self._lists.available(now)), now)

    def flooded(self, now: float) -> bool:
        """Return whether there are so many lists that answer no question that most are forged."""
        return self._lists.available(now) < 0

    def forUnasked(self, lacking: Ranges, now: float) -> Ranges:
        """Return the blocks that are sent for a list that answers no question: as many as are left, in their order."""
        if self.flooded(now):
            if self._moment + FLOOD_MOMENT <= now < self._moment + FLOOD_SILENCE:
                return ()
            self._moment = self._moment if now < self._moment + FLOOD_MOMENT else now
        granted = firstNumbers(lacking, int(self._unasked.available(now)))
        self._unasked.spend(total(granted), now)
        return granted

    def forAnswer(self, proof: Proof, lacking: Ranges, now: float) -> Ranges | None:
        """
        Return the blocks that are sent for an answer, and stake a proof if that may not be all of them.

        @return: L{None}: none are left for it now.
        """
        need = total(lacking)
        if self._chance is None:
            return lacking
        if proof.complete:
            self._earned = min(self._earned + need, MOST_EARNED)
            return lacking
        own = min(need, proof.credit)
        proof.credit -= own
        earned = min(need - own, self._earned)
        self._earned -= earned
        rest = need - own - earned
        if not rest:
            return lacking
        left = int(self._answers.available(now))
        most = own + earned + min(rest, left)
        if most < 1:
            return None
        calm = most == need and left >= LOW_WATER
        granted = lacking if calm else self._cut(self._chance, proof, lacking, most)
        self._answers.spend(max(total(granted) - own - earned, 0), now)
        return granted

    def _cut(self, chance: Callable[[], float], proof: Proof, lacking: Ranges, most: int) -> Ranges:
        """Choose up to C{most} blocks at random, and stake the proof that the receiver knows which."""
        need = total(lacking)
        if most <= PER_HOLE:
            # The first ones: a list of iPXE names no more than a run, and its next one begins after what it received.
            # Of a single block it is sent or not.
            fewest = 0 if need == 1 else 1
            granted = firstNumbers(lacking, fewest + int(chance() * (most + 1 - fewest)))
            proof.due, proof.stake = total(granted), min(total(granted), 1)
            return granted
        holes = max(min(most // PER_HOLE, need - most), 1)
        first = firstNumbers(lacking, min(most + holes, need))
        width = total(first) / holes
        places = [int((number + chance()) * width) for number in range(holes)]
        granted = difference(first, numbersAt(first, places))
        proof.due, proof.stake = total(granted) // 2, holes
        return granted


def numbersAt(runs: Ranges, places: list[int]) -> Ranges:
    """Return the numbers at these places, ascending, each as a run; place 0 is the first number of the first run."""
    found: list[range] = []
    before = index = 0
    for place in places:
        while place >= before + len(runs[index]):
            before += len(runs[index])
            index += 1
        number = runs[index][place - before]
        found.append(range(number, number + 1))
    return tuple(found)
