"""
A random linear fountain: a transport for castd, complete in this one file.

A file of n blocks becomes a sequence of numbers without an end.  Number i, for i below n, is block i; every number from
n on is the exclusive or of a random half of the blocks, and which half follows from the number alone.  Whoever has
heard a little more than n numbers, whichever they are, has the file.  So receivers need not say I{which} blocks they
lack, only I{how many}, and a number sent for one repairs whatever the others have lost.

On the wire, big-endian, all from and to UDP:

  - report, receiver to server: C{F R}, transaction (4), numbers lacking (4), one more than the last number heard (4).
    A receiver that has heard nothing says 0, L{ALL}, 0; one that is content says that it lacks 0.
  - question, server to one receiver: C{F S}, transaction (4), octets of the file (8), octets of a block (2).
  - data, server to group: as the question, but C{F D}; then the number (4) and a block.  The last block is filled up
    with zeros.

C{castd get fountain://host[:port]/[group:port] -o FILE} fetches the one file of a port.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable
from hashlib import blake2s, shake_128
from math import ceil

from pydantic import Field
from zope.interface import implementer

from castd import outcomes
from castd.cast.events import (
    Event,
    Leave,
    PeerState,
    Ranges,
    RequestBlocks,
)
from castd.cast.policy import FixedTimeouts, RetransmitPolicy
from castd.cast.sweep import Sweep
from castd.client.schemes import Scheme, registerScheme
from castd.client.urls import Url, UrlError
from castd.config.plugin import TransportMaker
from castd.errors import Declined, Refused, WireError
from castd.group_pool import OpenContext
from castd.interfaces import IContent, IDialect, IGroupTransferHalf, ITransferHalf, IWire
from castd.options import GroupEndpoint, HostPort, ListenOptions, Port, Rate, groupEndpoint
from castd.receive.options import RequestedOptions
from castd.request import Local, Peer, Request

fountain = TransportMaker("fountain", __name__, "Random linear fountain: multicast with repair by count")

#: "I do not know how many there are: all of them."
ALL = 0xFFFFFFFF
#: Where numbers go if nobody says otherwise.
GROUP = HostPort("239.255.9.9", 7777)
#: Every mixture is made of half the blocks, and undoing them takes the square of their number: more would be slow.
MOST_BLOCKS = 4096

_REPORT = struct.Struct("!2sIII")
_HEAD = struct.Struct("!2sIQH")
_NUMBER = struct.Struct("!I")

#: A question is given 100 ms; whoever leaves three unanswered is asked no more.
POLICY = RetransmitPolicy(
    repeat=FixedTimeouts((0.1,)), progressTimeout=0.1, maxFailedTurns=3, keepAliveInterval=0.5, deafAfterRepeats=3
)


def mixture(number: int, count: int) -> int:
    """-> which of C{count} blocks a number is made of, block 0 in the lowest bit; never none of them."""
    if number < count:
        return 1 << number
    octets = shake_128(_NUMBER.pack(number)).digest(-(-count // 8))
    return int.from_bytes(octets, "little") & ((1 << count) - 1) or 1


def report(transaction: int, lacking: int, heard: int) -> bytes:
    """-> what a receiver says; C{heard}: one more than the last number heard."""
    return _REPORT.pack(b"FR", transaction, lacking, heard)


def parseReport(datagram: bytes) -> tuple[int, int, int]:
    """
    -> (transaction, lacking, heard).

    @raise WireError: it is something else.
    """
    if len(datagram) != _REPORT.size or not datagram.startswith(b"FR"):
        raise WireError("no report of a fountain's receiver")
    _, transaction, lacking, heard = _REPORT.unpack(datagram)
    return transaction, lacking, heard


class Options(ListenOptions):
    """The options of a transport of kind fountain."""

    port: Port = Field(default=7777, description="UDP port that reports come to; it stands for the file")
    file: str = Field(min_length=1, description="the one file that this port serves")
    group: GroupEndpoint = Field(default=GROUP, description="group and port that numbers go to")
    rate: Rate | None = Field(default=12e6, gt=0, description="most octets a second; null: no limit")
    blksize: int = Field(default=1400, ge=8, le=65000, description="octets of a block")
    redundancy: float = Field(
        default=0.1, ge=0, le=4, description="numbers sent in vain, perhaps, for each one asked for"
    )


class Spring(Sweep):
    """A sweep whose numbers are worth the same: whoever has enough needs none of those it has asked for."""

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        """As L{Sweep.hear}; to leave before all that was asked for has gone out is not early."""
        if event == Leave(outcomes.DONE):
            super().hear(peer, RequestBlocks(), now)
        super().hear(peer, event, now)


@implementer(IWire)
class Wire:
    """
    The one cast of the port.

    @ivar next: the first number that was never sent.
    """

    cast = Spring
    count = None
    policy = POLICY
    stride = 0
    reuseDelay = 0.0

    def __init__(self, content: IContent, transaction: int, options: Options) -> None:
        self.content = content
        self.blocksize = options.blksize
        self.blocks = max(1, -(-content.size // options.blksize))
        self.group: Peer = (options.group.host, options.group.port)
        self.redundancy = options.redundancy
        self.transaction = transaction
        self.question = _HEAD.pack(b"FS", transaction, content.size, options.blksize)
        self.headerKey: Hashable = self.question
        self.next = 0
        self._read: dict[int, int] = {}

    def requestedBlocks(self, request: Request) -> Ranges:
        """Whoever comes late needs as many as all others, but no number that has gone by already."""
        lacking = min(request.detail, self.blocks) if isinstance(request.detail, int) else self.blocks
        return (range(self.next, self.next + lacking),)

    def receive(self, datagram: bytes, peer: Peer, peerState: PeerState | None) -> RequestBlocks | Leave:
        """
        "I lack k" asks for the k numbers after the last that this receiver has heard, and some more.

        Nearly all of these are new to everybody.  They are counted from what it heard, not from what was sent, so that
        one that hears nothing at all asks for the same ones again, by which the cast knows it.
        """
        transaction, lacking, heard = parseReport(datagram)
        if not lacking:
            return Leave(outcomes.DONE)
        if transaction != self.transaction or lacking > self.blocks or heard > self.next:
            return RequestBlocks((range(self.blocks),))  # it knows nothing yet, or another file
        return RequestBlocks((range(heard, heard + lacking + ceil(lacking * self.redundancy)),))

    def announce(self, request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """A question to where the report came from."""
        if master:
            yield self.question, request.peer

    def farewell(self, request: Request, outcome: str) -> Iterable[tuple[bytes, Peer]]:
        """There is no word for it."""
        return ()

    def header(self, number: int) -> bytes:
        return b"FD" + self.question[2:] + _NUMBER.pack(number)

    def payload(self, number: int) -> bytes:
        """@raise ContentChanged: the file is not what it was."""
        self.next = max(self.next, number + 1)
        mixed, left = 0, mixture(number, self.blocks)
        while left:
            lowest = left & -left
            mixed ^= self._block(lowest.bit_length() - 1)
            left ^= lowest
        return mixed.to_bytes(self.blocksize, "big")

    def _block(self, number: int) -> int:
        """-> a block as one long integer; every mixture needs half of them again."""
        block = self._read.get(number)
        if block is None:
            octets = bytes(self.content.read(number * self.blocksize, self.blocksize))
            block = self._read[number] = int.from_bytes(octets.ljust(self.blocksize, b"\0"), "big")
        return block

    def address(self, peer: Peer) -> Peer:
        return self.group

    def expectedAnswer(self, stop: int) -> None:
        return None

    def close(self, now: float) -> None:
        """The group is the operator's."""


@implementer(IDialect)
class Dialect:
    """A fountain as configured: one port, one file, one group."""

    name = "fountain"
    ownPort = False

    def __init__(self, options: Options) -> None:
        self.options = options

    def request(self, datagram: bytes, peer: Peer, local: Local) -> Request | None:
        """A report that lacks something.  What is sent to a group are our own numbers, where the ports are the same."""
        if local.broadcast or not datagram.startswith(b"FR"):
            return None
        _, lacking, _ = parseReport(datagram)
        return Request(peer, local, self.options.file, detail=lacking) if lacking else None

    def key(self, request: Request, content: IContent) -> Hashable:
        """One group; a newer file waits until the running cast has ended."""
        return self.options.group

    def fits(self, request: Request, wire: IWire) -> bool:
        return True

    def sameMachine(self, request: Request, other: Request) -> bool:
        return False

    def open(self, request: Request, content: IContent, context: OpenContext) -> Wire:
        if content.size > MOST_BLOCKS * self.options.blksize:
            raise Declined("too-many-blocks")
        version = repr((content.version, content.size)).encode("utf-8", "surrogateescape")
        return Wire(content, int.from_bytes(blake2s(version, digest_size=4).digest(), "big"), self.options)

    def uploadReceiver(self, request: Request) -> ITransferHalf | None:
        return None

    def refuse(self, request: Request | None, error: Refused) -> bytes | None:
        return None


class Decoder:
    """
    Blocks from numbers, by elimination over GF(2): a row is one long integer, the blocks it is made of in its low bits
    and their exclusive or above them.
    """

    def __init__(self, size: int, blocksize: int) -> None:
        self.size, self.blocksize = size, blocksize
        self.count = max(1, -(-size // blocksize))
        self._mask = (1 << self.count) - 1
        self._rows: dict[int, int] = {}

    @property
    def lacking(self) -> int:
        """How many numbers are still needed, at the least."""
        return self.count - len(self._rows)

    def add(self, number: int, payload: bytes) -> bool:
        """-> whether this number told something new."""
        row = int.from_bytes(payload, "big") << self.count | mixture(number, self.count)
        while made := row & self._mask:
            lowest = (made & -made).bit_length() - 1
            if lowest not in self._rows:
                self._rows[lowest] = row
                return True
            row ^= self._rows[lowest]
        return False

    def content(self) -> bytes:
        """-> the file, once nothing is lacking."""
        solved: dict[int, int] = {}
        for lowest in range(self.count - 1, -1, -1):
            row = self._rows[lowest]
            others = (row & self._mask) ^ (1 << lowest)
            while others:
                other = others & -others
                row ^= solved[other.bit_length() - 1]
                others ^= other
            solved[lowest] = row
        blocks = ((solved[number] >> self.count).to_bytes(self.blocksize, "big") for number in range(self.count))
        return b"".join(blocks)[: self.size]


class Receiver:
    """
    The client's half of the conversation, pure: datagrams in, datagrams out.

    @ivar decoder: L{None} before anything was heard.
    @ivar heard: one more than the last number heard.
    @ivar data: the file, when it is complete.
    """

    def __init__(self) -> None:
        self.decoder: Decoder | None = None
        self.heard = 0
        self.data: bytes | None = None
        self._head = b""

    def say(self) -> bytes:
        """-> the report as it stands: at the start, and whenever nothing was heard for a while."""
        if self.decoder is None:
            return report(0, ALL, 0)
        return report(_NUMBER.unpack_from(self._head)[0], self.decoder.lacking, self.heard)

    def receive(self, datagram: bytes) -> bytes | None:
        """-> what is to be answered to a datagram of the server."""
        if len(datagram) < _HEAD.size or datagram[:2] not in (b"FS", b"FD"):
            return None
        if datagram[2 : _HEAD.size] != self._head:
            self._begin(datagram)
        if self.decoder is None:
            return None
        if datagram.startswith(b"FS"):
            return self.say()
        at = _HEAD.size + _NUMBER.size
        if self.data is not None or len(datagram) != at + self.decoder.blocksize:
            return None
        (number,) = _NUMBER.unpack_from(datagram, _HEAD.size)
        self.heard = max(self.heard, number + 1)
        self.decoder.add(number, datagram[at:])
        if self.decoder.lacking:
            return None
        self.data = self.decoder.content()
        return self.say()

    def _begin(self, datagram: bytes) -> None:
        """Another file than before, or the first; not one that no server would send."""
        _, _, size, blocksize = _HEAD.unpack_from(datagram)
        if blocksize > 0 and size <= MOST_BLOCKS * blocksize:
            self._head, self.decoder = datagram[2 : _HEAD.size], Decoder(size, blocksize)
            self.heard, self.data = 0, None


#: A client that has heard nothing for so long sends its report again.  Seconds.
REMINDER = 1.0


@implementer(IGroupTransferHalf)
class Download:
    """
    A L{DatagramReceiver} with a clock: what C{castd get} drives.

    The file is handed out in one piece, once nothing is lacking.

    @ivar blocks: numbers that told something new.
    @ivar repeats: reports that nobody had asked for.
    """

    error = terms = None

    def __init__(self, group: tuple[str, int], silence: float) -> None:
        """
        @param silence: seconds without a datagram until the server is given up.
        """
        self.group: tuple[str, int] | None = group
        self.tid: Peer | None = None
        self.outcome: str | None = None
        self.complete = False
        self.size: int | None = None
        self.blocks = self.repeats = 0
        self._receiver = Receiver()
        self._silence = silence
        self._heardAt = self._reminderAt = 0.0

    def begin(self, now: float) -> list[bytes]:
        """-> the report of a receiver that knows nothing yet."""
        self._serverHeard(now)
        return [self._receiver.say()]

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """
        Receive a question, or a number.

        @return: (the file if that was the last number it took, a report if one was asked for).
        @raise WireError: it is something else.
        """
        if len(datagram) < _HEAD.size or datagram[:2] not in (b"FS", b"FD"):
            raise WireError("no question and no number of a fountain")
        answer = self._receiver.receive(datagram)
        self._serverHeard(now)
        decoder, data = self._receiver.decoder, self._receiver.data
        if decoder is not None:
            self.size, self.blocks = decoder.size, decoder.count - decoder.lacking
        if data is None or self.complete:
            return None, [] if answer is None else [answer]
        # The answer, that nothing is lacking, has to wait until the file is stored.
        self.complete = True
        return data, []

    def receiveFromGroup(self, datagram: bytes, peer: Peer, now: float) -> tuple[bytes | None, list[bytes]]:
        """As L{receive}: a number is the same to whomever it was sent."""
        return self.receive(datagram, now)

    def stored(self, now: float) -> list[bytes]:
        """End the transfer.  -> the report that nothing is lacking; if it is lost the server asks three times."""
        self.outcome = outcomes.DONE
        return [self._receiver.say()]

    def poll(self, now: float) -> list[bytes]:
        """-> the report again, if the server was silent.  Sets C{outcome} when it was silent for too long."""
        if self.outcome is not None or self.complete or now < self._reminderAt:
            return []
        if now >= self._heardAt + self._silence:
            self.outcome = outcomes.SILENT
            return []
        self.repeats += 1
        self._reminderAt = now + REMINDER
        return [self._receiver.say()]

    def deadline(self, now: float) -> float | None:
        """-> the instant to poll again at."""
        return None if self.outcome is not None or self.complete else self._reminderAt

    def _serverHeard(self, now: float) -> None:
        self._heardAt, self._reminderAt = now, now + REMINDER


def download(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> Download:
    """
    -> the half that fetches a URL; there are no options to request.

    @raise UrlError: something else than a group and a port follows the slash.
    """
    try:
        group = groupEndpoint(url.path) if url.path else GROUP
    except ValueError as error:
        raise UrlError(str(error)) from error
    return Download(group, policy.progressTimeout)


registerScheme("fountain", Scheme(7777, download, named=False))
