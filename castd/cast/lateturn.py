"""
Stand in for the cast of a transfer with one receiver until something happens that the cast has to decide.

Theory of operation.  Nearly every transfer goes the same way: the request is answered by an OACK, the client
acknowledges that, then block after block, and at last the whole file.  On the fast path (L{castd.server.fastpath}) the
cast is not asked for any of that; so it need not be made.  L{LateTurn} keeps the little that changes meanwhile: when
the receiver has joined, its round-trip time, and which blocks the first answer has drawn, and when.  For everything
else (a lost block, a request that is repeated, a timer) the L{Turn} is L{made<LateTurn.make>}, by the very calls that
it would have had: so it is in the state that it would be in if it had been there from the beginning.
"""

from __future__ import annotations

from castd.cast.events import PeerState
from castd.cast.policy import RetransmitPolicy
from castd.cast.rto import RtoEstimator
from castd.cast.turn import Turn
from castd.request import Peer


class LateTurn:
    """
    Keeps what a L{Turn} of one member would know that was announced, and has answered as predicted since.

    @ivar peer: the address of the member.
    """

    __slots__ = ("_begun", "_count", "_joinedAt", "_policy", "_rto", "peer")

    def __init__(self, policy: RetransmitPolicy, count: int | None, peer: Peer, now: float) -> None:
        """
        @param policy: one that is L{forOne<RetransmitPolicy.forOne>}.
        @param count: how many blocks the content has.
        @param now: the instant at which the member joins.  Its request asks for no blocks by itself.
        """
        self.peer = peer
        self._policy = policy
        self._count = count
        self._joinedAt = now
        # Of what the first answer has drawn: the blocks, when they were sent, and how soon they are answered.
        self._begun: tuple[range, float] | None = None
        self._rto: RtoEstimator | None = None

    def deadline(self) -> float:
        """Return the instant at which the cast is to be asked what to do, if the announcement is not answered."""
        return self._joinedAt + self._policy.firstDeadline

    def peerState(self, last: range | None) -> PeerState:
        """
        Return what a wire needs to know of the member to parse its datagrams, as C{Turn.peerState}.

        @param last: the blocks that were sent last; L{None}: none was.
        """
        return PeerState(True, last, -1 if last is None else last.stop - 1)

    def mayBeginFastPath(self) -> bool:
        """As C{Turn.mayBeginFastPath}: the announcement was sent, and nothing else has happened."""
        return self._begun is None

    def fastPathBegun(self, numbers: range, now: float) -> float:
        """As C{Turn.fastPathBegun}."""
        self._begun = numbers, now
        self._rto = rto = RtoEstimator(self._policy.repeat)
        rto.answeredWithin(now - self._joinedAt)
        return rto.interval(len(numbers) == 1)

    @property
    def rttConverged(self) -> bool:
        """As C{Turn.rttConverged}."""
        assert self._rto is not None
        return self._rto.converged

    def answerMeasured(self, seconds: float) -> float:
        """As C{Turn.answerMeasured}."""
        assert self._begun is not None
        assert self._rto is not None
        self._rto.sample(seconds)
        return self._rto.interval(len(self._begun[0]) == 1)

    def make(self) -> Turn:
        """
        Make the cast, in the state that it would have.  If the fast path was begun, C{Turn.fastPathLeft} is to follow.
        """
        turn = Turn(self._policy, self._count)
        turn.join(self.peer, self._joinedAt)
        turn.poll(self._joinedAt)  # the announcement, which was sent
        if self._begun is not None and self._rto is not None:
            turn.fastPathBegun(*self._begun)
            member = turn.members.get(self.peer)
            assert member is not None
            member.rto = self._rto
        return turn
