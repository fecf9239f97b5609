"""
Sends files by a random linear fountain code: a transport for castd, complete in this one file.

A file of n blocks becomes an endless sequence of numbered payloads, called I{numbers} here.  Number i, for i below n,
is block i; every number from n on is the exclusive or of a random half of the blocks, and the number alone determines
which half.  A receiver that has any set of a little more than n numbers can compute the file.  So receivers need not
report I{which} blocks they lack, only I{how many} numbers, and one number repairs different losses of many receivers.

On the wire, big-endian, all from and to UDP:

  - report, receiver to server: C{F R}, transaction (4), numbers lacking (4), one more than the last number heard (4).
    A receiver that has heard no number reports 0, L{ALL}, 0; one that has the file reports that it lacks 0.
  - question, server to one receiver: C{F S}, transaction (4), octets of the file (8), octets of a block (2).
  - data, server to group: as the question, but C{F D}; then the number (4) and its payload.  The last block is padded
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

#: The count of lacking numbers in the report of a receiver that does not know the file's size.
ALL = 0xFFFFFFFF
#: The default group of data.
GROUP = HostPort("239.255.9.9", 7777)
#: The most blocks of a file: a mixture has half of the blocks, and decoding takes the square of their number.
MOST_BLOCKS = 4096

_REPORT = struct.Struct("!2sIII")
_HEAD = struct.Struct("!2sIQH")
_NUMBER = struct.Struct("!I")

#: A question is repeated after 100 ms; a receiver that leaves three unanswered is given up.
POLICY = RetransmitPolicy(
    repeat=FixedTimeouts((0.1,)), progressTimeout=0.1, maxFailedTurns=3, keepAliveInterval=0.5, deafAfterRepeats=3
)


def mixture(number: int, count: int) -> int:
    """Return the set of blocks that a number is made of, as bits, block 0 in the lowest of C{count}; never empty."""
    if number < count:
        return 1 << number
    octets = shake_128(_NUMBER.pack(number)).digest(-(-count // 8))
    return int.from_bytes(octets, "little") & ((1 << count) - 1) or 1


def report(transaction: int, lacking: int, heard: int) -> bytes:
    """Build a report; C{heard} is one more than the last number heard."""
    return _REPORT.pack(b"FR", transaction, lacking, heard)


def parseReport(datagram: bytes) -> tuple[int, int, int]:
    """
    Parse a report.

    @return: (transaction, lacking, heard).
    @raise WireError: the datagram is no report.
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

    def transferPorts(self) -> range:
        return range(self.port, self.port + 1)


class Spring(Sweep):
    """A sweep in which a receiver may leave early: once it has enough numbers it needs no others that it asked for."""

    def hear(self, peer: Peer, event: Event, now: float) -> None:
        """Handle an event as L{Sweep.hear}; a member that leaves before all it asked for was sent does not fail."""
        if event == Leave(outcomes.DONE):
            super().hear(peer, RequestBlocks(), now)
        super().hear(peer, event, now)


@implementer(IWire)
class Wire:
    """
    Translates for the only cast of the port in a network.

    @ivar next: the first number that was not sent yet.
    """

    cast = Spring
    count = None
    policy = POLICY
    stride = 0
    reuseDelay = 0.0

    def __init__(self, content: IContent, transaction: int, options: Options, local: Local) -> None:
        self.content, self.local = content, local
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
        """Return as many numbers as the report lacks, all of them not sent yet, so that they help every receiver."""
        lacking = min(request.detail, self.blocks) if isinstance(request.detail, int) else self.blocks
        return (range(self.next, self.next + lacking),)

    def receive(self, datagram: bytes, peer: Peer, peerState: PeerState | None) -> RequestBlocks | Leave:
        """
        Read a report that lacks k numbers as a request for the k numbers after the last that the receiver has heard,
        and some more.

        Nearly all of these are new to every receiver.  They are counted from the last number heard, not from the last
        one sent, so that a receiver that hears nothing asks for the same numbers again; so the cast detects it.
        """
        transaction, lacking, heard = parseReport(datagram)
        if not lacking:
            return Leave(outcomes.DONE)
        if transaction != self.transaction or lacking > self.blocks or heard > self.next:
            return RequestBlocks((range(self.blocks),))  # the receiver knows no file yet, or another one
        return RequestBlocks((range(heard, heard + lacking + ceil(lacking * self.redundancy)),))

    def announce(self, request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """Send a question to the source of the report."""
        if master:
            yield self.question, request.peer

    def farewell(self, request: Request, outcome: str) -> Iterable[tuple[bytes, Peer]]:
        """Send nothing: the protocol has no such datagram."""
        return ()

    def header(self, number: int) -> bytes:
        return b"FD" + self.question[2:] + _NUMBER.pack(number)

    def payload(self, number: int) -> bytes:
        """@raise ContentChanged: the file has become shorter."""
        self.next = max(self.next, number + 1)
        mixed, left = 0, mixture(number, self.blocks)
        while left:
            lowest = left & -left
            mixed ^= self._block(lowest.bit_length() - 1)
            left ^= lowest
        return mixed.to_bytes(self.blocksize, "big")

    def _block(self, number: int) -> int:
        """Return a block as one long integer, cached, since every mixture needs half of the blocks."""
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
        """Give nothing back: the group is fixed by the service file."""


@implementer(IDialect)
class Dialect:
    """One configured fountain: one port, one file, one group."""

    name = "fountain"
    ownPort = False

    def __init__(self, options: Options) -> None:
        self.options = options

    def request(self, datagram: bytes, peer: Peer, local: Local) -> Request | None:
        """Read a report that lacks numbers; ignore datagrams to a group, which may be our own data."""
        if local.broadcast or not datagram.startswith(b"FR"):
            return None
        _, lacking, _ = parseReport(datagram)
        return Request(peer, local, self.options.file, detail=lacking) if lacking else None

    def key(self, request: Request, content: IContent) -> Hashable:
        """Return the group, so that a newer file waits until the running cast has ended."""
        return self.options.group

    def fits(self, request: Request, wire: IWire) -> bool:
        """Return whether the group is sent to the client's network: it leaves by the interface of the first request."""
        return isinstance(wire, Wire) and wire.local.sharesNetwork(request.local)

    def sameMachine(self, request: Request, other: Request) -> bool:
        return False

    def open(self, request: Request, content: IContent, context: OpenContext) -> Wire:
        if content.size > MOST_BLOCKS * self.options.blksize:
            raise Declined("too-many-blocks")
        version = repr((content.version, content.size)).encode("utf-8", "surrogateescape")
        return Wire(
            content, int.from_bytes(blake2s(version, digest_size=4).digest(), "big"), self.options, request.local
        )

    def uploadReceiver(self, request: Request) -> ITransferHalf | None:
        return None

    def refuse(self, request: Request | None, error: Refused) -> bytes | None:
        return None


class Decoder:
    """
    Computes the blocks from numbers, by elimination over GF(2).  A row is one long integer: the set of its blocks in
    the low bits, and their exclusive or above them.
    """

    def __init__(self, size: int, blocksize: int) -> None:
        self.size, self.blocksize = size, blocksize
        self.count = max(1, -(-size // blocksize))
        self._mask = (1 << self.count) - 1
        self._rows: dict[int, int] = {}

    @property
    def lacking(self) -> int:
        """The least number of numbers that are still needed."""
        return self.count - len(self._rows)

    def add(self, number: int, payload: bytes) -> bool:
        """Add a number.  -> whether it was independent of those before."""
        row = int.from_bytes(payload, "big") << self.count | mixture(number, self.count)
        while made := row & self._mask:
            lowest = (made & -made).bit_length() - 1
            if lowest not in self._rows:
                self._rows[lowest] = row
                return True
            row ^= self._rows[lowest]
        return False

    def content(self) -> bytes:
        """Return the file, once C{lacking} is 0."""
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
    The client's half without a clock, pure: takes datagrams, and returns datagrams.

    @ivar decoder: L{None} before the first number was heard.
    @ivar heard: one more than the last number heard.
    @ivar data: the file, once it is complete.
    """

    def __init__(self) -> None:
        self.decoder: Decoder | None = None
        self.heard = 0
        self.data: bytes | None = None
        self._head = b""

    def buildReport(self) -> bytes:
        """Return the report of the present state, for the start and after a silence."""
        if self.decoder is None:
            return report(0, ALL, 0)
        return report(_NUMBER.unpack_from(self._head)[0], self.decoder.lacking, self.heard)

    def receive(self, datagram: bytes) -> bytes | None:
        """Read a datagram of the server.  -> the report that answers it, or L{None}."""
        if len(datagram) < _HEAD.size or datagram[:2] not in (b"FS", b"FD"):
            return None
        if datagram[2 : _HEAD.size] != self._head:
            self._begin(datagram)
        if self.decoder is None:
            return None
        if datagram.startswith(b"FS"):
            return self.buildReport()
        at = _HEAD.size + _NUMBER.size
        if self.data is not None or len(datagram) != at + self.decoder.blocksize:
            return None
        (number,) = _NUMBER.unpack_from(datagram, _HEAD.size)
        self.heard = max(self.heard, number + 1)
        self.decoder.add(number, datagram[at:])
        if self.decoder.lacking:
            return None
        self.data = self.decoder.content()
        return self.buildReport()

    def _begin(self, datagram: bytes) -> None:
        """Begin a new file, unless its size is one that no server would send."""
        _, _, size, blocksize = _HEAD.unpack_from(datagram)
        if blocksize > 0 and size <= MOST_BLOCKS * blocksize:
            self._head, self.decoder = datagram[2 : _HEAD.size], Decoder(size, blocksize)
            self.heard, self.data = 0, None


#: A client sends its report again after a silence of so long.  Seconds.
REMINDER = 1.0


@implementer(IGroupTransferHalf)
class Download:
    """
    The client's half that C{castd get} drives: a L{Receiver} with timers.

    The file is returned as one payload, once it is complete.

    @ivar blocks: how many independent numbers have come.
    @ivar repeats: how many reports were sent without a question.
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
        """Return the first report, of a receiver that knows no file yet."""
        self._serverHeard(now)
        return [self._receiver.buildReport()]

    def receive(self, datagram: bytes, now: float) -> tuple[bytes | None, list[bytes]]:
        """
        Receive a question or a number.

        @return: (the file if this was the last number that it needed, a report if the server asked for one).
        @raise WireError: the datagram is neither.
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
        # The report that nothing is lacking has to wait until the file is stored.
        self.complete = True
        return data, []

    def receiveFromGroup(self, datagram: bytes, peer: Peer, now: float) -> tuple[bytes | None, list[bytes]]:
        """As L{receive}: a number has the same format whether it was sent to the group or to this client."""
        return self.receive(datagram, now)

    def stored(self, now: float) -> list[bytes]:
        """End the transfer.  -> the report that nothing is lacking; if it is lost the server asks three times."""
        self.outcome = outcomes.DONE
        return [self._receiver.buildReport()]

    def poll(self, now: float) -> list[bytes]:
        """Return the report again, if the server was silent.  Sets C{outcome} when it was silent for too long."""
        if self.outcome is not None or self.complete or now < self._reminderAt:
            return []
        if now >= self._heardAt + self._silence:
            self.outcome = outcomes.SILENT
            return []
        self.repeats += 1
        self._reminderAt = now + REMINDER
        return [self._receiver.buildReport()]

    def deadline(self, now: float) -> float | None:
        """Return the instant at which L{poll} is due."""
        return None if self.outcome is not None or self.complete else self._reminderAt

    def _serverHeard(self, now: float) -> None:
        self._heardAt, self._reminderAt = now, now + REMINDER


def download(url: Url, requested: RequestedOptions, policy: RetransmitPolicy) -> Download:
    """
    Make the half that fetches a URL; the protocol has no options to request.

    @raise UrlError: the text behind the slash is no group and port.
    """
    try:
        group = groupEndpoint(url.path) if url.path else GROUP
    except ValueError as error:
        raise UrlError(str(error)) from error
    return Download(group, policy.progressTimeout)


registerScheme("fountain", Scheme(7777, download, named=False))
