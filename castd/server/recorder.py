"""
Keep the last packets of each transfer in memory: the flight recorder.

What stands between a transfer and its port notes them (L{castd.server.recorded}).

Memory is bounded: each machine of a transfer has one L{Ring}, and there are so many rings at the most.  When all are in
use, a machine that has answered nothing yet gives up its ring for the next one: its request may be forged.
"""

from __future__ import annotations

import fnmatch
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import NamedTuple, TypeAlias

from twisted.internet.interfaces import IReactorTime

from castd.interfaces import IWire, Octets
from castd.packets.pcapng import Captured
from castd.packets.tftp import DATA
from castd.request import Local, Peer, Request, hostPort

#: Host and port.
Endpoint: TypeAlias = tuple[str, int]
#: A packet as it is kept: the instant; whether it was sent; the other end; the address here if it is not that of the
#: transfer; its first octets; how many it had.  A plain tuple, since one is made for every packet.
Kept: TypeAlias = tuple[float, bool, Endpoint, Endpoint | None, bytes, int]

#: Octets that are kept of a datagram that has no content of a file: requests fit, with their options.
MOST_HEAD = 516
#: Octets that are kept of any datagram if the payload is wanted: a frame of Ethernet.
MOST_PAYLOAD = 1472
#: Octets that are kept of a block that arrives: opcode and number (RFC 1350).
BLOCK_HEAD = 4
#: Octets of memory that a kept packet needs beside its own: the tuple, its float, and the head of C{bytes}.
OVERHEAD = 200
#: Packets that are kept of those who take no part in a transfer.
MOST_OTHERS = 16
#: How many are kept of each: transfers that have ended while a C{castd record} waits; ports whose requests have come
#: meanwhile and began no transfer; those of which the log has said why; and machines that have asked for a size only,
#: until the log says that they have not come back.
MOST_ENDED = 256
#: The kind of the event that a machine has asked for a size, and not come back for the file.
SIZE_ONLY = "size-only"
#: Packets that are kept of a machine that has asked for a size only, or of requests from one port.
MOST_OF_REQUEST = 16

_DATA = DATA.to_bytes(2, "big")


class Ring:
    """
    The last packets from and to one machine in one transfer, or those to its group.

    @ivar tape: the transfer.
    @ivar key: the machine, or the group.
    @ivar heard: the machine, or one of the group, has answered something.
    @ivar packets: what is kept, the oldest first.
    """

    __slots__ = ("heard", "key", "packets", "tape")

    def __init__(self, tape: Tape, key: Endpoint, most: int) -> None:
        self.tape, self.key, self.heard = tape, key, False
        self.packets: deque[Kept] = deque(maxlen=most)


class Tape:
    """
    The packets of one transfer.

    @ivar transport: the name of the transport.
    @ivar name: the name of the file, as the first machine has asked for it.
    @ivar local: the address that the transfer sends from.
    @ivar group: the address that all its machines receive; L{None}: it has none.
    @ivar rings: by the other end.
    """

    def __init__(self, recorder: Recorder, transport: str, request: Request, wire: IWire | None) -> None:
        """@param wire: L{None}: it is an upload."""
        self.transport, self.name = transport, request.name
        self.local: Endpoint = request.local.host, request.local.port
        self.group: Endpoint | None = None if wire is None or wire.group is None else wire.group[:2]
        self.rings: dict[Endpoint, Ring] = {}
        self._recorder = recorder
        self._seconds = recorder.clock.seconds
        # Of those who take no part.  No ring: that would refer to this tape, and leave both to the garbage collector.
        self._others: deque[Kept] = deque(maxlen=min(MOST_OTHERS, recorder.most))
        self._head = MOST_PAYLOAD if recorder.payload else MOST_HEAD
        self._arrivedBlock = MOST_PAYLOAD if recorder.payload else BLOCK_HEAD
        self._sentBlock = MOST_PAYLOAD if recorder.payload or wire is None else len(wire.header(0))

    def requested(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """Note a request that has come to the request port."""
        key, recorder = peer[:2], self._recorder
        recorder.takeBack(peer)
        if self.group is not None and self.group not in self.rings:
            recorder.addRing(self, self.group)
        ring = self.rings.get(key) or recorder.addRing(self, key)
        if ring is not None:
            here = local.host, local.port
            ring.packets.append((self._seconds(), False, key, here, datagram[: self._head], len(datagram)))

    def arrived(self, datagram: bytes, peer: Peer) -> None:
        """Note a datagram that has come to the port of the transfer."""
        key = peer[:2]
        ring = self.rings.get(key)
        if ring is None:
            packets = self._others
        else:
            packets = ring.packets
            if not ring.heard:
                self._recorder.heard(ring)
        head = datagram[: self._arrivedBlock if datagram[:2] == _DATA else self._head]
        packets.append((self._seconds(), False, key, None, head, len(datagram)))

    def sent(self, datagram: Octets, address: Endpoint) -> None:
        """Note a datagram that was sent, and is no block."""
        self._packetsTo(address).append(
            (self._seconds(), True, address, None, bytes(datagram[: self._head]), len(datagram))
        )

    def sentBlocks(self, image: Octets, step: int, address: Endpoint) -> None:
        """Note blocks that were sent, one behind the other; of many only as many as are kept."""
        self.blockNoter(address)(image, step)

    def blockNoter(self, address: Endpoint) -> Callable[[Octets, int], None]:
        """Return a function that notes blocks as L{sentBlocks} does: for the fast path, without a look-up."""
        packets, seconds, head = self._packetsTo(address), self._seconds, self._sentBlock
        most = self._recorder.most

        def note(image: Octets, step: int) -> None:
            now, length = seconds(), len(image)
            if length <= step:
                packets.append((now, True, address, None, bytes(image[:head]), length))
                return
            for start in range(max(0, -(-length // step) - most) * step, length, step):
                octets = min(step, length - start)
                packets.append((now, True, address, None, bytes(image[start : start + min(head, octets)]), octets))

        return note

    def _packetsTo(self, address: Endpoint) -> deque[Kept]:
        ring = self.rings.get(address)
        return self._others if ring is None else ring.packets

    def apart(self, key: Endpoint) -> Ring:
        """Return a ring with the last packets of a machine, which does not change when its transfer ends."""
        tape = copy(self)
        ring = Ring(tape, key, MOST_OF_REQUEST)
        ring.packets.extend(self.packets(key))
        ring.heard = self.rings[key].heard
        # Of this tape all packets are those of the machine; it does not refer to the ring, see above.
        tape.rings, tape.group, tape._others = {}, None, ring.packets
        return ring

    def packets(self, key: Endpoint) -> list[Kept]:
        """Return what is kept of a machine, and of its group, in the order of time."""
        return sorted((each for kept in self.keptOf(key) for each in kept), key=_instant)

    def keptOf(self, key: Endpoint) -> list[deque[Kept]]:
        """Return what is kept of a machine: its own packets, those to its group, and those of all others."""
        rings = self.rings.get(key), None if self.group is None else self.rings.get(self.group)
        return [*(ring.packets for ring in rings if ring is not None), self._others]

    def capture(self, kept: Iterable[Kept], offset: float) -> list[Captured]:
        """Return packets as a capture has them; see L{captured}."""
        return captured(kept, self.local, offset)


def captured(kept: Iterable[Kept], local: Endpoint, offset: float) -> list[Captured]:
    """
    Return packets as a capture has them.

    @param local: the address here of those that have none of their own.
    @param offset: seconds from an instant to the time since 1970.
    """
    return [_captured(each, local, offset) for each in kept]


def _captured(kept: Kept, local: Endpoint, offset: float) -> Captured:
    instant, outgoing, remote, here, head, octets = kept
    source, target = (here or local, remote) if outgoing else (remote, here or local)
    return Captured(instant + offset, outgoing, source, target, head, octets)


def _instant(kept: Kept) -> float:
    return kept[0]


class _Unserved(NamedTuple):
    """
    Requests from one port that were not served, with their answers.

    @ivar at: the instant at which the log has said why; C{why} is the line of the log, C{name} the file.
    """

    at: float
    why: str
    name: str
    packets: list[Kept]


class Selection(NamedTuple):
    """
    What C{castd record} asks for.

    @ivar address: of this machine only.
    @ivar name: of files that match this pattern.
    @ivar since: only what is later than this instant.
    """

    address: str | None = None
    name: str | None = None
    since: float = float("-inf")

    def wants(self, machine: Endpoint, name: str) -> bool:
        """Return whether a machine and a file are asked for."""
        asked = self.address in (None, machine[0].partition("%")[0])
        return asked and (self.name is None or fnmatch.fnmatchcase(name, self.name))


class _Part(NamedTuple):
    """
    Packets of one ring, or of requests that were not served, in the order of time.

    @ivar local: the address here of those that have none of their own.
    @ivar since: only what is later than this instant is asked for.
    @ivar comment: of the last packet.
    """

    local: Endpoint
    kept: list[Kept]
    since: float = float("-inf")
    comment: str = ""

    def backwards(self, offset: float) -> Iterator[Captured]:
        """Return the packets as a capture has them, the last one first; C{offset} as for L{Tape.capture}."""
        comment = self.comment
        for each in reversed(self.kept):
            if each[0] <= self.since:
                break
            yield _captured(each, self.local, offset)._replace(comment=comment)
            comment = ""


class Taken(NamedTuple):
    """
    The packets that C{castd record} gets, as they were when it asked.

    There may be a quarter of a million: they are put in order in a thread, and only as many as are wanted.
    """

    parts: list[_Part]

    def latest(self, most: int, offset: float) -> list[Captured]:
        """Return so many packets, each once, in the order of time; C{offset} as for L{Tape.capture}."""
        found: dict[Captured, None] = {}
        # Merged, not sorted: sorting all of them would hold up every thread until it is done.
        backwards = [each.backwards(offset) for each in reversed(self.parts)]
        for each in heapq.merge(*backwards, key=_time, reverse=True):
            found[each] = None
            if len(found) >= most:
                break
        # The oldest first, also of those of one instant.
        packets = [*reversed(found)]
        packets.sort(key=_time)
        return packets


def _time(packet: Captured) -> float:
    return packet.time


class Recorder:
    """
    Keeps the tapes of the transfers under way.

    @ivar most: packets in each ring.
    @ivar payload: the content of files is kept as well.
    @ivar room: the most rings.
    @ivar unkept: how many machines got no ring, or lost it before they had answered, as all were in use.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self.most, self.payload, self.room, self.unkept = 0, False, 0, 0
        self._rings: dict[Ring, None] = {}
        self._unheard: OrderedDict[Ring, None] = OrderedDict()
        self._machines: dict[tuple[str, str], Ring] = {}  # by transport and peer, as in events
        self._waiting = 0  # how many wait for packets, also of transfers that end meanwhile
        self._ended: deque[tuple[Tape, Endpoint, list[Kept]]] = deque(maxlen=MOST_ENDED)
        # While somebody waits: requests, by peer, that are no transfer yet; and those that have become none.
        self._requests: OrderedDict[str, deque[Kept]] = OrderedDict()
        self._unserved: deque[_Unserved] = deque(maxlen=MOST_ENDED)
        self._sizes: OrderedDict[tuple[str, str], Ring] = OrderedDict()  # of those that have asked for a size only

    def adjust(self, packets: int, memory: int, payload: bool) -> None:
        """
        Use other bounds for the transfers that begin from now on.

        @param packets: the most that are kept of each machine.
        @param memory: octets that all packets may need.
        """
        self.most, self.payload = packets, payload
        self.room = max(1, memory // (packets * ((MOST_PAYLOAD if payload else MOST_HEAD) + OVERHEAD)))

    @property
    def rings(self) -> int:
        """How many rings are in use."""
        return len(self._rings)

    def tape(self, transport: str, request: Request, wire: IWire | None = None) -> Tape:
        """Return the tape of a transfer that begins."""
        return Tape(self, transport, request, wire)

    def addRing(self, tape: Tape, key: Endpoint) -> Ring | None:
        """
        Add a ring to a tape, if need be in the place of one whose machine has answered nothing.

        @return: L{None}: there is no room.
        """
        if len(self._rings) >= self.room:
            self.unkept += 1
            if not self._unheard:
                return None
            self._remove(next(iter(self._unheard)))
        ring = tape.rings[key] = Ring(tape, key, self.most)
        self._rings[ring] = self._unheard[ring] = None
        self._machines[tape.transport, hostPort(key)] = ring
        return ring

    def heard(self, ring: Ring) -> None:
        """Note that the machine of a ring has answered; so its group has a receiver."""
        group = None if ring.tape.group is None else ring.tape.rings.get(ring.tape.group)
        for each in (ring, group):
            if each is not None:
                each.heard = True
                self._unheard.pop(each, None)

    def _remove(self, ring: Ring) -> None:
        self._rings.pop(ring, None)
        self._unheard.pop(ring, None)
        ring.tape.rings.pop(ring.key, None)
        machine = ring.tape.transport, hostPort(ring.key)
        if self._machines.get(machine) is ring:
            del self._machines[machine]

    def left(self, tape: Tape, peer: Peer) -> None:
        """Forget a machine, as its part in a transfer has ended."""
        ring = tape.rings.get(peer[:2])
        if ring is not None:
            if self._waiting:
                self._ended.append((tape, ring.key, tape.packets(ring.key)))
            self._remove(ring)

    def ended(self, tape: Tape) -> None:
        """Forget a transfer that has ended."""
        for key in list(tape.rings):
            self.left(tape, key)

    def sizeAsked(self, tape: Tape, peer: Peer) -> None:
        """Keep what a machine that has asked for a size only has sent and got: that may be told of later."""
        if peer[:2] in tape.rings:
            self._sizes[tape.transport, hostPort(peer)] = tape.apart(peer[:2])
            if len(self._sizes) > MOST_ENDED:
                self._sizes.popitem(last=False)

    def find(self, transport: object, peer: object, kind: object = SIZE_ONLY) -> Ring | None:
        """
        Return the ring of the machine that an event is about, by the event's fields.

        @param kind: of the event; only L{SIZE_ONLY} is about what the machine has sent when it asked for a size.
        """
        key = str(transport), str(peer)
        return self._sizes.pop(key, None) if kind == SIZE_ONLY else self._machines.get(key)

    # Requests that are no transfers.

    def requested(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """Note a datagram that has come to the request port, if somebody waits for it."""
        if not self._waiting:
            return
        here = local.host, local.port
        self._noteRequest(peer, (self.clock.seconds(), False, peer[:2], here, datagram[:MOST_HEAD], len(datagram)))

    def answered(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """Note the one answer to a request that is refused, if somebody waits for it."""
        if not self._waiting:
            return
        here = local.host, local.port
        self._noteRequest(peer, (self.clock.seconds(), True, peer[:2], here, datagram[:MOST_HEAD], len(datagram)))

    def _noteRequest(self, peer: Peer, packet: Kept) -> None:
        packets = self._requests.setdefault(hostPort(peer), deque(maxlen=MOST_OF_REQUEST))
        packets.append(packet)
        if len(self._requests) > MOST_ENDED:
            self._requests.popitem(last=False)

    def takeBack(self, peer: Peer) -> None:
        """Forget the last request of a peer: it is noted with its transfer."""
        key = hostPort(peer) if self._requests else ""
        packets = self._requests.get(key)
        if packets:
            packets.pop()
            if not packets:
                del self._requests[key]

    def unserved(self, peer: object, name: object, why: str) -> None:
        """
        Note that the log says why requests were not served; before that they are in no answer.

        @param peer, name: as in the event.
        """
        packets = self._requests.pop(str(peer), None)
        if packets:
            self._unserved.append(_Unserved(self.clock.seconds(), why, str(name), list(packets)))

    def wait(self) -> None:
        """Keep the packets of transfers that end until L{take}."""
        self._waiting += 1

    def stopWaiting(self) -> None:
        """End L{wait}."""
        self._waiting -= 1
        if not self._waiting:
            for each in (self._ended, self._requests, self._unserved):
                each.clear()

    def take(self, selection: Selection) -> Taken:
        """Return the packets that are asked for; transfers go on meanwhile, and are not in it."""
        parts = [
            _Part(tape.local, kept, selection.since)
            for tape, key, kept in self._ended
            if selection.wants(key, tape.name)
        ]
        for ring in self._rings:
            if selection.wants(ring.key, ring.tape.name):
                # What went to a group is with each of its machines.
                kept = [ring.packets] if selection.address is None else ring.tape.keptOf(ring.key)
                parts += (_Part(ring.tape.local, list(each), selection.since) for each in kept)
        for told in self._unserved:
            if told.at > selection.since and selection.wants(told.packets[0][2], told.name):
                parts.append(_Part(("", 0), told.packets, comment=told.why))
        return Taken(parts)
