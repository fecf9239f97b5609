"""
Serve Etherboot's SLAM: one file at one port, multicast to one group; clients send lists of the blocks that they lack.

No packet of a client names a file or a group.  Only the port that a list comes to says which file is meant, so one port
has one file and one group.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2s
from ipaddress import IPv4Network
from typing import Self

from pydantic import Field, field_validator
from zope.interface import implementer

from castd import outcomes
from castd.cast.events import (
    Leave,
    PeerState,
    Ranges,
    RequestBlocks,
)
from castd.cast.policy import AdaptiveTimeout, RetransmitPolicy
from castd.cast.sweep import Sweep
from castd.errors import Declined, Refused
from castd.group_pool import OpenContext
from castd.interfaces import IContent, IExplainedDialect, ITransferHalf, IWire
from castd.options import BootPath, GroupEndpoint, HostPort, ListenOptions, Port, Rate, onlyIPv4
from castd.packets import slam
from castd.packets.pxe import IPXE_FEATURES
from castd.request import Local, Peer, Request, hostPort

#: Octets of IPv4 and UDP before a packet.
OVERHEAD = 20 + 8
#: Octets of the smallest block, however small the MTU of the interface is; fewer only where all blocks would be full.
SMALLEST_BLOCK = 64
#: Octets of the largest block: with the largest header it just fits the largest datagram that Etherboot accepts.
LARGEST_BLOCK = slam.LARGEST_DATAGRAM - slam.LARGEST_HEADER

TOO_LONG = "512 MiB or more: clients built for 32 bits cannot load it (large: true allows it)"

#: A client has 100 ms to answer the first status request; later that is measured.  One that leaves three unanswered is
#: asked no more.  After a second of silence all iPXE clients send lists at once, so a block is sent twice a second at
#: least.
POLICY = RetransmitPolicy(
    repeat=AdaptiveTimeout(first=0.1, ceiling=0.4),
    progressTimeout=0.1,
    maxFailedTurns=3,
    keepAliveInterval=0.5,
    deafAfterRepeats=3,
)

IPXE = HostPort(*slam.IPXE_GROUP)


class Options(ListenOptions):
    """The options of a transport of kind slam."""

    port: Port = Field(slam.PORT, description="UDP port that lists come to; it stands for the file")
    file: str = Field(min_length=1, description="the one file that this port serves")
    group: GroupEndpoint = Field(
        IPXE,
        description="group and port that blocks go to; today's iPXE knows 239.255.1.1 only",
    )
    rate: Rate | None = Field(
        12e6, gt=0, description="most octets a second; down to a tenth of it where receivers lose much; null: no limit"
    )
    blksize: int = Field(
        LARGEST_BLOCK,
        ge=SMALLEST_BLOCK,
        le=LARGEST_BLOCK,
        description="largest block; smaller where the MTU asks for it",
    )
    loopback: bool = Field(True, description="let receivers on this very machine hear the group")
    large: bool = Field(
        False, description="serve files of 512 MiB and more, which clients built for 32 bits cannot load"
    )

    _onlyIPv4 = field_validator("interface")(onlyIPv4)

    def destinations(self) -> Iterator[IPv4Network]:
        yield IPv4Network(self.group.host)

    def transferPorts(self) -> range:
        return range(self.port, self.port + 1)

    def bootPath(self, name: str, host: str) -> BootPath:
        if name != self.file.strip("/"):
            raise ValueError(f"its one file is {self.file}")
        if self.group != IPXE:
            raise ValueError(f"iPXE hears {hostPort(IPXE)} only")
        return BootPath(f"x-slam://{host}:{self.port}", feature=IPXE_FEATURES["slam"])

    @classmethod
    def clashes(cls, named: Sequence[tuple[str, Self]]) -> Iterator[tuple[str, str]]:
        """
        Complain about ports and groups that two transports have in common.  Each is told once, with an earlier one:
        there may be thousands of transports.
        """
        groups: dict[HostPort, str] = {}
        places: dict[tuple[int, str], str] = {}
        ports: dict[int, str] = {}
        for name, options in named:
            other = groups.setdefault(options.group, name)
            if other != name:
                group = hostPort(options.group)
                yield name, f"group: {group} is that of '{other}' already: receivers of both would start over for ever"
            port = options.port
            first = ports.setdefault(port, name)
            there = places.setdefault((port, options.interface), name)
            # The wildcard has a port in common with every interface.
            other = first if options.interface == "" else places.get((port, ""), there) if there == name else there
            if other != name:
                yield name, f"port: {port} is that of '{other}' already, and stands for one file only"

    @property
    def limit(self) -> int:
        """Octets of the longest file."""
        return slam.LARGEST if self.large else slam.LARGEST_32

    def named(self) -> Iterable[tuple[str, str]]:
        return [("file", self.file)]

    def unfit(self, size: Callable[[str], int | None]) -> Iterable[str]:
        if (size(self.file) or 0) > self.limit:
            yield f"file: {self.file} has {TOO_LONG}"


def blockSize(size: int, mtu: int, most: int = LARGEST_BLOCK) -> int:
    """
    Choose the block size, in octets, for a file of C{size} octets.

    The last block must be shorter than the others: Etherboot computes its length as the remainder, and waits for ever
    if that is 0.

    @param mtu: octets of the largest IP packet.
    @param most: octets of the largest block that is configured.
    """
    block = max(min(most, mtu - OVERHEAD - slam.LARGEST_HEADER), SMALLEST_BLOCK)
    while size % block == 0:
        block -= 1
    return block


def transaction(content: IContent) -> int:
    """
    Make the transaction number, 32 bits that identify this version of this file, the same after a restart.

    C{mini-slamd} takes the file's mtime; but a file may change twice a second, and all files of a reproducible build
    have the same mtime.
    """
    version = repr((content.version, content.size)).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2s(version, digest_size=4).digest(), "big")


@implementer(IWire)
class Wire:
    """
    Translates for the one cast of the port in a network.

    @ivar status: a status request, and the beginning of each data packet.
    """

    policy = POLICY
    stride = 0
    reuseDelay = 0.0

    def __init__(
        self, header: slam.Header, group: tuple[str, int], local: Local, chance: Callable[[], float] | None = None
    ) -> None:
        """
        @param local: the address that the group is sent from.
        @param chance: as for L{Sweep}.
        """
        self.local = local
        self.cast = partial(Sweep, chance=chance)
        self.blocksize = header.blocksize
        self.count = header.count
        self.group = group
        self.status = header.build()
        self.headerKey: Hashable = self.status

    def requestedBlocks(self, request: Request) -> Ranges:
        return slam.clip(request.detail, self.count) if isinstance(request.detail, tuple) else ()

    def receive(self, datagram: bytes, peer: Peer, peerState: PeerState | None) -> RequestBlocks | Leave:
        missing = slam.parseList(datagram)
        return Leave(outcomes.DONE) if missing is None else RequestBlocks(slam.clip(missing, self.count))

    def announce(self, request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """
        Build a status request for a member that is to send a list.  It goes to that member alone: Etherboot gives up at
        one that is sent to the group.
        """
        if master:
            yield self.status, request.peer

    def farewell(self, request: Request, outcome: str) -> Iterable[tuple[bytes, Peer]]:
        """Return nothing: the protocol has no packet for it."""
        return ()

    def header(self, number: int) -> bytes:
        return self.status + slam.pack(number)

    def payload(self, number: int) -> None:
        return None

    def address(self, peer: Peer) -> tuple[str, int]:
        return self.group

    def expectedAnswer(self, stop: int) -> None:
        return None

    def close(self, now: float) -> None:
        """Do nothing: the group is fixed in the service file."""


@implementer(IExplainedDialect)
class Dialect:
    """Speaks SLAM as configured."""

    name = "slam"
    ownPort = False

    def __init__(self, options: Options) -> None:
        self.options = options

    def request(self, datagram: bytes, peer: Peer, local: Local) -> Request | None:
        """
        Read a list.

        @return: L{None} for what was sent to a group (castd's own blocks, if both ports are the same), for what was
            sent from this very socket, and for a disconnect, as the client is no member.
        """
        if local.broadcast or peer[:2] == (local.host, local.port):
            return None
        missing = slam.parseList(datagram)
        return None if missing is None else Request(peer, local, self.options.file, detail=missing)

    def key(self, request: Request, content: IContent) -> Hashable:
        """Return the group: a newer version of the file is not sent before the running cast has ended."""
        return self.options.group

    def fits(self, request: Request, wire: IWire) -> bool:
        """Return whether the group is sent to the client's network: it leaves by the interface of the first list."""
        return isinstance(wire, Wire) and wire.local.sharesNetwork(request.local)

    def sameMachine(self, request: Request, other: Request) -> bool:
        return False

    def open(self, request: Request, content: IContent, context: OpenContext | None = None) -> Wire:
        if not content.size:
            raise Declined("empty file: SLAM has no word for it")
        limit = self.options.limit
        if content.size > limit:
            raise Declined(f"file of {TOO_LONG}")
        block = blockSize(content.size, request.local.mtu, self.options.blksize)
        header = slam.Header(transaction(content), content.size, block)
        if context is None:
            return Wire(header, self.options.group, request.local)
        bits = context.random.getrandbits
        return Wire(header, self.options.group, request.local, lambda: bits(32) / (1 << 32))

    def opening(self, name: str) -> bytes | None:
        """Return the first list of a client, if this is the file of the port."""
        return slam.FIRST_LIST if name.strip("/") == self.options.file.strip("/") else None

    def bounds(self, request: Request) -> Iterator[str]:
        """As L{IExplainedDialect.bounds}: a client asks for no options."""
        yield f"blksize: blocks of at most {self.options.blksize} octets, fewer where the MTU asks for it"

    def uploadReceiver(self, request: Request) -> ITransferHalf | None:
        return None

    def refuse(self, request: Request | None, error: Refused) -> bytes | None:
        return None
