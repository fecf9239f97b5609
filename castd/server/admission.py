"""
Limit what unknown clients can make the server do and remember.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Protocol

from castd.options import Limits
from castd.pacing import AddressLimit, TokenBucket, bucketOf
from castd.repetitions import Repetitions
from castd.request import Peer
from castd.server.known import DividedLimit, KnownAddresses, Rank

#: The limit of the process that bounds how many casts there are descriptors for, by the name that systemd has for it.
DESCRIPTORS = "LimitNOFILE"
#: How long a receiver that has sent nothing but its request keeps its place, even if the place is needed.  Seconds.
MIN_STAY = 0.25
#: The most receivers that are displaced for one request: in a group one that leaves makes no room for another cast.
MOST_DISPLACED = 4
#: How often a second receivers are displaced for addresses that were never served.  Each takes a third of a
#: millisecond; requests beyond that are dropped unread, which takes a small part of that.
DISPLACED_RATE = 400.0
#: How often a second, beyond that, for those who ask again after their request was dropped.
AGAIN_RATE = 200.0
#: How long it is known whose request was dropped unread, as no client waits longer until it repeats one: EDK II waits 4
#: s, U-Boot 5 s, ROMs of PXE up to 16 s.  Seconds; and of how many at once, of each rank.
DROPPED, MOST_DROPPED = 30.0, 16384


class Displaceable(Protocol):
    """Describes a cast or upload whose receivers may have to leave."""

    def heard(self, peer: Peer) -> bool:
        """Return whether this receiver has sent anything since its request."""

    def displace(self, peer: Peer, limit: str) -> object:
        """
        Remove a receiver that has sent nothing since its request, and send it nothing more.

        @param limit: the limit that is reached, as L{Admission.crowded}.
        """


class Bars:
    """
    Keeps which files one transport has the others refuse to an address: L{castd.cast.events.Bar}.

    What makes a transport do that may be forged.  So an address is refused for L{REFUSED} seconds at most, counted from
    the first request that is, and then nothing for L{RESPITE} seconds, whatever is barred meanwhile.

    @ivar until: what is barred: by address and name the instant at which that ends, and why; empty: L{refuse} need not
        be asked.
    """

    #: Seconds.
    REFUSED, RESPITE = 10.0, 300.0

    def __init__(self, most: int) -> None:
        """
        @param most: (address, name) pairs, and addresses that were refused one, remembered at once; beyond, the oldest
            is forgotten.
        """
        self._most = most
        self.until: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()
        self._refusedAt: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return max(len(self.until), len(self._refusedAt))

    def bar(self, host: str, name: str, until: float, why: str) -> None:
        """Bar a file from an address until this instant, in place of an earlier one."""
        self.until.pop((host, name), None)
        self.until[host, name] = (until, why)
        if len(self.until) > self._most:
            self.until.popitem(last=False)

    def lift(self, host: str, name: str) -> None:
        """Let the address have the file again."""
        self.until.pop((host, name), None)

    def all(self, now: float) -> Iterator[tuple[str, str, float, str]]:
        """Return all that is refused if it is asked for: address, name, the instant at which that ends, why."""
        for (host, name), (until, why) in self.until.items():
            refusedAt = self._refusedAt.get(host)
            end = until
            if refusedAt is not None and now < refusedAt + self.RESPITE:
                end = min(until, refusedAt + self.REFUSED)
            if now < end:
                yield host, name, end, why

    def refuse(self, host: str, name: str, now: float) -> str | None:
        """
        Find out whether a request is to be refused, and count the seconds from the first one that is.

        @return: why; L{None}: it is not.
        """
        until, why = self.until.get((host, name), (0.0, ""))
        if now >= until:
            self.until.pop((host, name), None)
            return None
        refusedAt = self._refusedAt.get(host)
        if refusedAt is not None and now < refusedAt + self.RESPITE:
            return why if now < refusedAt + self.REFUSED else None
        self._refusedAt.pop(host, None)
        self._refusedAt[host] = now
        if len(self._refusedAt) > self._most:
            self._refusedAt.popitem(last=False)
        return why


def _decrease(counts: Counter[str], host: str) -> None:
    """Count one less for an address, and forget the address at none."""
    left = counts.pop(host, 0) - 1
    if left > 0:
        counts[host] = left


class RequestTime:
    """
    Gives requests half of the time at a port that receivers are served through, so that answers of these need not wait
    behind all that a flood of requests causes.  Where each transfer has a port of its own,
    L{EpollSet<castd.net.epoll.EpollSet>} divides the time.

    Strangers get half of that half, the other is for neighbours; who asks again after that has some in advance.
    Addresses that were served are never held back.
    """

    #: The part of the time; how much of it a pause leaves, in seconds: a crowd that comes at once is no flood; and how
    #: much there is in advance, in seconds.
    SHARE, SAVED, ADVANCE = 0.5, 1.0, 0.25

    def __init__(self) -> None:
        self._bucket = TokenBucket(self.SHARE, self.SAVED)

    def allows(self, rank: Rank, again: bool, now: float) -> bool:
        """
        Return whether there is time for a request.

        @param rank: that of its address.
        @param again: it was turned away before.
        """
        if rank is Rank.SERVED:
            return True
        least = self.SAVED / 2 if rank is Rank.STRANGE else 0.0
        return self._bucket.available(now) > (-self.ADVANCE if again else least)

    def spend(self, began: float, now: float) -> None:
        """Note that a request was handled from one instant to another."""
        self._bucket.spend(max(0.0, now - began), now)


class Admission:
    """
    Applies the limits of one site, for all its transports.

    @ivar casts: how many casts and uploads are under way.
    @ivar looking: how many requests wait for their file to be looked up.
    @ivar receivers: how many receivers there are at each address.
    @ivar affordable: for how many casts there are descriptors.
    @ivar known: the addresses that were served.
    """

    #: ERROR 5 datagrams a second to unknown transfer IDs, in all (docs/transports/tftp.md).
    STRANGERS = 5.0

    def __init__(self, limits: Limits) -> None:
        self.casts = self.looking = 0
        self.receivers: Counter[str] = Counter()
        self._lookups: Counter[str] = Counter()
        self.affordable: float = float("inf")
        self.known = KnownAddresses()
        self._held = 0
        self._entered: set[tuple[Displaceable, Peer]] = set()
        #: Those who had sent nothing but their request when they were last looked at, the oldest first.
        self._unheard: dict[tuple[Displaceable, Peer], float] = {}
        # Strangers cannot make the server forget whom of its neighbours it has turned away.
        self._dropped: dict[Rank, Repetitions[Peer]] = {
            rank: Repetitions(DROPPED, MOST_DROPPED) for rank in (Rank.NEAR, Rank.STRANGE)
        }
        self.adjust(limits)

    def adjust(self, limits: Limits) -> None:
        """Use other limits; the present casts and receivers still count, the rates of all addresses begin anew."""
        self._limits = limits
        self._new = AddressLimit(limits.newPerPeer)
        self._again = AddressLimit(limits.newPerPeer)
        self._errors = DividedLimit(limits.errors)
        self._errorsPerPeer = AddressLimit(limits.errorsPerPeer)
        self._strangers = bucketOf(self.STRANGERS)
        self._mayDisplace = DividedLimit(DISPLACED_RATE)
        self._mayDisplaceAgain = bucketOf(AGAIN_RATE)

    def crowded(self, peer: Peer, now: float, networks: tuple[IPv4Network, ...] = ()) -> str | None:
        """
        Find out whether a new receiver exceeds a limit, and count it against the rate of its address.
        If the server is full, those have to leave who have sent nothing but their request, the oldest first.

        @param networks: those on the link of the interface that was asked.
        @return: the key of that limit in the service file, or L{DESCRIPTORS}; L{None}: there is none.
        """
        host = peer[0]
        if self.used(host) >= self._limits.perPeer:
            return "limits.per-peer"
        full = self._full()
        if full is not None and not self._mayMakeRoom(peer, now, networks):
            return full
        if not self._new.allow(host, now):
            return "limits.new-per-peer"
        for _ in range(MOST_DISPLACED):
            if full is None or not self._displace(full, now):
                break
            full = self._full()
        return full

    def reached(self, peer: Peer, now: float, networks: tuple[IPv4Network, ...]) -> str | None:
        """
        Find out what L{crowded} would return now; nothing is counted, and nobody has to leave.

        @param networks: as for L{crowded}.
        """
        if self.used(peer[0]) >= self._limits.perPeer:
            return "limits.per-peer"
        full = self._full()
        if full is not None and not self._hasRoom(peer, self.known.rank(peer[0], networks), now):
            return full
        if self._new.exhausted(peer[0], now):
            return "limits.new-per-peer"
        return None if full is None or self._mayLeave(now) else full

    def _mayLeave(self, now: float) -> bool:
        """Return whether a receiver can be displaced now, as L{_displace} does."""
        for (session, peer), since in self._unheard.items():
            if now < since + MIN_STAY:
                break
            if not session.heard(peer):
                return True
        return False

    def used(self, host: str) -> int:
        """Return how many transfers and look-ups of this address there are."""
        # Not by [], which a Counter answers in Python where nothing is counted, as for most addresses.
        return self.receivers.get(host, 0) + self._lookups.get(host, 0)

    def sheds(self, peer: Peer, now: float, networks: tuple[IPv4Network, ...]) -> str | None:
        """
        Return the limit for which a request of this peer would only be refused, as the server is full of others: so a
        flood is dropped unread.  It is noted who is turned away, as there is room for more of those who ask again.

        @return: as L{crowded}.
        """
        full = self._full()
        if full is None:
            return None
        rank = self.known.rank(peer[0], networks)
        if self._hasRoom(peer, rank, now):
            return None
        self.turnAway(peer, rank, now)
        return full

    def turnAway(self, peer: Peer, rank: Rank, now: float) -> None:
        """Note that a request of this peer, whose address has this rank, is dropped unread."""
        if rank is not Rank.SERVED:
            self._dropped[rank].add(peer, now)

    def asksAgain(self, peer: Peer, rank: Rank, now: float) -> bool:
        """Return whether this request of a peer repeats one that was dropped unread."""
        return rank is not Rank.SERVED and self._dropped[rank].asksAgain(peer, now)

    def _hasRoom(self, peer: Peer, rank: Rank, now: float) -> bool:
        """Return whether L{_mayMakeRoom} would be true."""
        if rank is Rank.SERVED or not self._mayDisplace.exhausted(rank, now):
            return True
        return self.asksAgain(peer, rank, now) and self._mayDisplaceAgain.available(now) >= 1

    def _mayMakeRoom(self, peer: Peer, now: float, networks: tuple[IPv4Network, ...]) -> bool:
        """Return whether others may be displaced for this peer now: always if its address was served before."""
        rank = self.known.rank(peer[0], networks)
        if rank is Rank.SERVED:
            return True
        if self._mayDisplace.allow(peer[0], rank, now):
            return True
        return self.asksAgain(peer, rank, now) and self._mayDisplaceAgain.allow(1, now)

    def _full(self) -> str | None:
        """Return the limit of all addresses together that is reached, as L{crowded}; L{None}: there is room."""
        begun = self.casts + self.looking
        if begun >= self._limits.casts or begun >= self.affordable:
            # To raise the one that is not reached would change nothing.
            return DESCRIPTORS if self.affordable < self._limits.casts else "limits.casts"
        return "limits.receivers" if self._held >= self._limits.receivers else None

    def _displace(self, limit: str, now: float) -> bool:
        """
        Remove the receiver that has sent nothing but its request for the longest time: its address may be forged.

        @param limit: the limit that is reached.
        @return: whether one was removed.  Nobody is who has answered anything, or has just come.
        """
        while self._unheard:
            (session, peer), since = found = next(iter(self._unheard.items()))
            if now < since + MIN_STAY:
                return False
            del self._unheard[found[0]]
            if not session.heard(peer):
                session.displace(peer, limit)
                return True
        return False

    def mayRepeat(self, host: str, now: float) -> bool:
        """
        Find out whether the repeated request of a receiver may be answered again.

        It may as often as a new one, so that a forged request sent twice draws no more datagrams to its victim.
        """
        return self._again.allow(host, now)

    def beginLookup(self, host: str) -> None:
        """Count a request of this address whose file is being looked up."""
        self.looking += 1
        self._lookups[host] += 1

    def endLookup(self, host: str) -> None:
        """Count that the look-up of a request of this address has ended."""
        self.looking -= 1
        _decrease(self._lookups, host)

    def enter(self, session: Displaceable, peer: Peer, now: float) -> None:
        """Count a receiver that has joined."""
        self._entered.add((session, peer))
        self.receivers[peer[0]] += 1
        self._held += 1
        self._unheard[session, peer] = now

    def leave(self, session: Displaceable, peer: Peer) -> None:
        """Count a receiver that has left; once, also if this is called again."""
        if (session, peer) not in self._entered:
            return
        self._entered.remove((session, peer))
        self._unheard.pop((session, peer), None)
        self._held -= 1
        _decrease(self.receivers, peer[0])

    def errorLimit(self, host: str, now: float, networks: tuple[IPv4Network, ...] = ()) -> str:
        """
        Find out which limit forbids an ERROR to this address, and count one if none does.

        @param networks: those on the link of the interface that was asked.
        @return: the key of that limit in the service file; C{""}: an ERROR may be sent.
        """
        if not self._errorsPerPeer.allow(host, now):
            return "limits.errors-per-peer"
        return "" if self._errors.allow(host, self.known.rank(host, networks), now) else "limits.errors"

    def mayAnswerStranger(self, host: str, now: float) -> bool:
        """Return whether an ERROR 5 may be sent to this address, whose transfer ID is unknown."""
        return self._strangers.allow(1, now) and not self.errorLimit(host, now)
