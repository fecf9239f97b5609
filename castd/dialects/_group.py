"""
Implement what the two group dialects of the TFTP family share: which requests get a group, which options are agreed on,
and how members are answered.

RFC 2090's C{multicast} and IBM's C{sbroadcast} are options of an RRQ at TFTP's own port.  An option that cannot be
granted is left out, and the client is served by unicast: never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from castd import outcomes
from castd.cast.events import (
    Leave,
    NewRequest,
    PeerState,
    Ranges,
    RequestBlocks,
)
from castd.cast.members import Member
from castd.cast.policy import AdaptiveTimeout, MinProgress, RetransmitPolicy, ShortTurn
from castd.cast.turn import Turn
from castd.dialects import _tftp
from castd.errors import Declined
from castd.pacing import RateLimit
from castd.packets import tftp
from castd.packets.multicast import MOST_BLOCKS
from castd.packets.options import AgreedOptions, OptionLimits, negotiate
from castd.request import Local, Peer, Request

#: Options that a group never grants.  The fixed interval of one client would delay the whole group at every lost block;
#: blocks are sent one at a time, so there is no window; and numbers do not wrap.
REFUSED = frozenset({"timeout", "utimeout", "windowsize", "rollover", "blksize2"})

#: Repetitions without an answer after which the next block is sent, too.
NEXT_BLOCK_AFTER = 4
#: Repetitions with which a master is announced again, and how long it has to answer that before it is told once more.
#: A master that was busy should not find a heap of announcements.  Seconds.
ANNOUNCED_AGAIN_AFTER, ANNOUNCED_AGAIN_EVERY = 2, 0.1

#: What is left of the budget of an address after a first turn in which its member was silent.  Seconds.
SECOND_TURN = 1.0

#: Timeouts and limits of a group; docs/transports/multicast.md has the reasons for each figure.  No group is to be
#: silent for 5 s, and a timer fires late where the server or the machine is busy.
POLICY = RetransmitPolicy(
    repeat=AdaptiveTimeout(first=0.25, growth=1.5, ceiling=1.0, quickRepeats=None),
    progressTimeout=3.0,
    measuredProgressTimeout=1.0,
    minRepeats=6,
    loneProgressTimeout=10.0,
    maxRepeatsUnheard=4,
    shortTurn=ShortTurn(3, 0.1),
    maxFailedTurns=3,
    keepAliveInterval=4.5,
    joinDelay=0.2,
    maxJoinDelay=3.0,
    deafAfterRepeats=2,
    foundPerAssumedDeaf=8,
    reachabilityCheckAfter=5.0,
    maxCorrections=3,
    turnBudget=2.0,
    minTurnProgress=MinProgress(0.01, 10.0),
)


def readRequest(datagram: bytes, peer: Peer, local: Local, option: str) -> Request | None:
    """
    Read an RRQ that has this option.

    @return: L{None} for anything else, which is for another dialect.
    @raise WireError: shorter than an opcode.
    @raise Unsupported: malformed.
    """
    request = _tftp.readRequest(datagram, peer, local)
    if request is None or request.write or request.option(option) is None:
        return None
    host, _, name = request.name.partition("/")
    # Etherboot's x-tftm://server/10.0.0.1/file leaves the address in the name that it asks for.
    return replace(request, name=name) if name and host == local.host else request


def checkProfiles(request: Request, option: str) -> None:
    """
    Check that a request may be granted the option that asks for a group.

    @param option: the name of that option, in lower case.
    @raise Declined: a profile does not grant it to this client.
    """
    if request.quirks is not None and request.quirks.refuses(option):
        raise Declined("profile")


def noGroups(interface: str) -> Iterator[str]:
    """Warn of the address of an interface that has no groups; see L{agreeOptions}."""
    if ":" in interface:
        yield f"interface: {interface} is an address of IPv6, which has none of these groups: all is left to unicast"


def agreeOptions(request: Request, size: int, cap: int) -> AgreedOptions:
    """
    Agree on the options of a request for a group, apart from the one that asks for it.

    @param cap: octets of the largest block that is granted.
    @raise Declined: no group can serve this request.
    """
    if request.mode != "octet":
        raise Declined("netascii")
    if ":" in request.local.host:
        raise Declined("ipv6")
    terms = negotiate(request, OptionLimits(cap, 1, REFUSED), size)
    if _tftp.blockCount(size, terms.blksize) > MOST_BLOCKS:
        raise Declined("too-many-blocks")
    return terms


def oackOptions(request: Request, terms: AgreedOptions, option: str, value: str) -> tftp.Options:
    """
    List the options of an OACK, with the one for the group, in the order of the request but the block size first.

    @param option: the name of the option that asks for a group, in lower case.
    @param value: the value of that option.
    """
    granted = {name.lower(): (name, text) for name, text in terms.answer}
    granted[option] = (next(name for name, _ in request.options if name.lower() == option), value)
    ordered = [granted[name.lower()] for name, _ in request.options if name.lower() in granted]
    return tuple(sorted(ordered, key=lambda pair: pair[0].lower() != "blksize"))


def sameMachine(request: Request, other: Request) -> bool:
    """
    Find out whether two requests are of one machine that asks again from another port: Etherboot takes the next port
    with every repetition.
    """
    return request.peer[0] == other.peer[0] and (request.name, request.options) == (other.name, other.options)


class GroupReader(_tftp.AckReader):
    """
    Parses what the members of a group send.  Block numbers do not wrap, as a group has at most L{MOST_BLOCKS}.

    @ivar listenersConfirm: ACK 0 of a member without the turn only confirms its announcement.
    @ivar earlyFarewell: a member leaves by an ACK of the last block, even if that block has not been sent yet.
    """

    def __init__(self, size: int, blksize: int, listenersConfirm: bool, earlyFarewell: bool) -> None:
        super().__init__(size, blksize)
        self.listenersConfirm = listenersConfirm
        self.earlyFarewell = earlyFarewell

    def acknowledged(self, short: int, peerState: PeerState) -> RequestBlocks | Leave | None:
        if short == self.count:
            # A master may have the blocks from a group of before, such as that of a server that was started anew.
            if peerState.highestSent >= self.count - 1 or (peerState.turn and not self.earlyFarewell):
                return Leave(outcomes.DONE)
            return Leave(outcomes.EARLY) if self.earlyFarewell else None
        if short > self.count:
            return None
        if not (short or peerState.turn) and self.listenersConfirm:
            return RequestBlocks()
        return RequestBlocks((self.window(short),))


class GroupTurn(Turn):
    """
    Serves masters that do not repeat a lost acknowledgement, and finds out soon that one does not hear the group.

    atftp acknowledges one duplicate of a block, and no more until its own timeout of five seconds; if that
    acknowledgement is lost too, atftp answers only to a block that it does not have, and to an announcement.
    """

    _announcedAgainAt = 0.0

    def turnGiven(self, member: Member, now: float) -> None:
        """Note that the first announcement of a turn is no repetition."""
        self._announcedAgainAt = float("-inf")

    def announcesAgain(self, member: Member) -> bool:
        """
        Choose whether a master that does not answer a block is announced again: it says then what it lacks, even if
        it hears nothing of the group (atftp, iPXE, Etherboot and EDK II answer each announcement).

        One that goes on by unicast is, until it has answered: it may not know that it is to acknowledge blocks.  The
        first master of a group is not before it was measured.
        """
        if not member.heard:
            return True
        known = member.rto.smoothedRtt is not None or member.waited or member.turns > 1
        if not known or member.rto.repeats < (ANNOUNCED_AGAIN_AFTER if self.progressed else 1):
            return False
        if not member.confirmed and self.repeatAt < self._announcedAgainAt + ANNOUNCED_AGAIN_EVERY:
            return False
        self._announcedAgainAt = self.repeatAt
        return True

    def repetition(self) -> list[range]:
        """
        Choose the block that was asked for; after L{NEXT_BLOCK_AFTER} repetitions without an answer the next one, too.

        The next block is added only for a master whose answering time was measured.
        """
        again = super().repetition()
        master, count = self.master, self.count
        assert master is not None
        if master.rto.smoothedRtt is None or master.rto.repeats < NEXT_BLOCK_AFTER or count is None:
            return again
        return [range(again[0].start, min(again[0].start + 2, count))]


class GroupWire:
    """
    Translates for one group.  A subclass adds C{announce}, C{header}, C{headerKey} and C{close}.

    @ivar size: octets of the file.
    @cvar listenersConfirm, earlyFarewell: see L{GroupReader}.
    """

    cast = GroupTurn
    stride = 1
    reuseDelay = 0.0
    broadcast = False
    pacer: RateLimit | None = None
    listenersConfirm = earlyFarewell = False

    def __init__(self, terms: AgreedOptions, size: int, policy: RetransmitPolicy, group: tuple[str, int]) -> None:
        self.size = size
        self.blocksize = terms.blksize
        self.policy = policy
        self.group = group
        self._reader = GroupReader(size, terms.blksize, self.listenersConfirm, self.earlyFarewell)
        self.count = self._reader.count
        self.expectedAnswer = self._reader.expectedAnswer
        self.expectedAnswers = self._reader.expectedAnswers

    def requestedBlocks(self, request: Request) -> Ranges:
        return ()

    def receive(
        self, datagram: bytes, peer: Peer, peerState: PeerState | None
    ) -> RequestBlocks | Leave | NewRequest | None:
        return self._reader.receive(datagram, peerState)

    def farewell(self, request: Request, outcome: str) -> Iterable[tuple[bytes, Peer]]:
        """Build the ERROR 0 that ends a transfer, also for a silent member: it may only have been slow."""
        if outcome == outcomes.SILENT:
            yield tftp.buildError(0, "No answer, the group is closed"), request.peer
        yield from _tftp.farewell(request, outcome)

    def grantedOptions(self, request: Request) -> tftp.Options:
        """As L{castd.interfaces.INegotiatingWire.grantedOptions}, apart from the option that asks for the group."""
        return agreeOptions(request, self.size, self.blocksize).answer

    def payload(self, number: int) -> None:
        return None

    def address(self, peer: Peer) -> Peer:
        return self.group

    def unicastAddress(self, peer: Peer) -> Peer:
        return peer


def groupPolicy(joinDelay: float, maxJoinDelay: float, progressTimeout: float) -> RetransmitPolicy:
    """Return the policy of a group, with the values of the service file, in seconds."""
    return replace(
        POLICY,
        joinDelay=joinDelay,
        maxJoinDelay=maxJoinDelay,
        progressTimeout=progressTimeout,
        # Over all its turns a machine may cost as much as one that is silent in its first turn, and gets a second one.
        addressBudget=progressTimeout + SECOND_TURN,
    )
