"""
IBM's subnet broadcast: as RFC 2090, but data goes to the directed broadcast address of the client's subnet.

No client was ever seen by us: the opcode of BDATA and the words of the master flag are educated guesses that the
service file can change.  What is known and what is not: docs/transports/sbroadcast.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from zope.interface import implementer

from castd.dialects import _group, _tftp
from castd.errors import Declined, Refused
from castd.group_pool import OpenContext
from castd.interfaces import IContent, IDialect, IGroupWire, IWire
from castd.options import Duration, Frequency, ListenOptions, Network, Port
from castd.pacing import Pacer
from castd.packets import tftp
from castd.packets.multicast import BDATA, bdataHeader
from castd.packets.options import DEFAULT_BLKSIZE, AgreedOptions, number
from castd.request import Local, Peer, Request

if TYPE_CHECKING:
    from random import Random

OPTION = "sbroadcast"
#: Prefix lengths of subnets that are broadcast to: a larger one is a mistake or an attack, a smaller one has no room.
PREFIXES = range(16, 31)
#: How long an identifier is not used again after its group has ended.  Seconds.
SBID_REUSE_DELAY = 600.0
#: Octets before a block.
HEADER = 8
#: Broadcasts that may go at once after a pause.
BURST = 32


def _subnet(found: object) -> IPv4Network:
    if not isinstance(found, IPv4Network) or found.prefixlen not in PREFIXES:
        raise ValueError(f"{found} is not an IPv4 subnet of /16 to /30")
    if found.is_multicast or found.is_loopback or found.is_link_local or found.is_unspecified:
        raise ValueError(f"{found} is not a subnet that clients could be in")
    return found


#: How an OACK tells who is the master; a bare 1 in the service file is text, too.
Flag = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


class Options(ListenOptions):
    """The options of a transport of kind sbroadcast."""

    # What does not ask for it, or may not have it, is for a plain transport behind this one.
    fallback: ClassVar[str | None] = "tftp"

    port: Port = Field(69, description="UDP port that requests come to")
    subnets: tuple[Annotated[Network, AfterValidator(_subnet)], ...] = Field(
        min_length=1, description="clients' subnets that may be broadcast to, each with its true mask; no others are"
    )
    dataPort: Port = Field(247, description="UDP port that data goes to (IANA subntbcst_tftp)")
    blksize: int | None = Field(
        None, ge=8, le=65464, description="largest block; null: what the MTU carries in one piece, less 36 octets"
    )
    packets: Frequency = Field(2000.0, description="most broadcasts to each subnet, all its groups together")
    gather: Duration = Field(0.2, ge=0, description="the first block waits until nobody has joined for so long")
    gatherLimit: Duration = Field(3.0, ge=0, description="but no longer than this")
    silence: Duration = Field(3.0, gt=0, description="a master that never answered is replaced after so long")
    opcode: int = Field(BDATA, ge=7, le=65535, description="experimental: opcode of data packets, which is a guess")
    masterFlag: Flag = Field(
        "1", pattern="^[!-+.-~-]{1,16}$", description="experimental: how the master is told that it is one, a guess"
    )
    listenerFlag: Flag = Field(
        "0", pattern="^[!-+.-~-]{1,16}$", description="experimental: how the others are told that they are not, a guess"
    )

    @model_validator(mode="after")
    def _flagsDiffer(self) -> Options:
        if self.masterFlag == self.listenerFlag:
            raise ValueError("master-flag and listener-flag must differ")
        return self


def subnetOf(client: str, mask: str) -> IPv4Network:
    """
    Find the subnet of a client, as it says itself.

    @param mask: a dotted quad.
    @raise ValueError: not a contiguous mask of 16 to 30 bits, or the client is the network or its broadcast address.
    """
    if mask.count(".") != 3:
        raise ValueError("not a dotted quad")
    bits = int(IPv4Address(mask))
    length = bits.bit_count()
    if bits != (1 << 32) - (1 << 32 - length) or length not in PREFIXES:
        raise ValueError(f"{mask} is no mask of a subnet")
    found = IPv4Network((client, length), strict=False)
    if IPv4Address(client) in (found.network_address, found.broadcast_address):
        raise ValueError(f"{client} is no machine of {found}")
    return found


class IdentifierPool:
    """
    Allocates the identifiers that tell the groups of one subnet from each other.
    """

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def allocate(self, random: Random, now: float) -> int:
        """-> 32 random bits, never 0, which no group has, nor any that ended within the last ten minutes."""
        self._until = {sbid: until for sbid, until in self._until.items() if until > now}
        while True:
            sbid = random.getrandbits(32)
            if sbid and sbid not in self._until:
                self._until[sbid] = float("inf")
                return sbid

    def release(self, sbid: int, now: float) -> None:
        """Take back an identifier, as its group has ended."""
        self._until[sbid] = now + SBID_REUSE_DELAY


class SubnetPacer:
    """A L{RateLimit<castd.pacing.RateLimit>} of octets, made of that of a subnet, which counts packets."""

    def __init__(self, pacer: Pacer, step: int) -> None:
        """
        @param pacer: of the subnet.
        @param step: octets of a full packet of this group.
        """
        self.next = pacer.next
        self._pacer = pacer
        self._step = step

    @property
    def share(self) -> float:
        """Octets that the group may send before it is the next one's turn."""
        return self._pacer.share * self._step

    def spend(self, octets: float, now: float) -> None:
        """Charge the subnet with the packets of a burst."""
        self._pacer.spend(-(-octets // self._step), now)


@implementer(IGroupWire)
class Wire(_group.GroupWire):
    """The bytes of one group, which has one subnet and an identifier of its own."""

    broadcast = True
    listenersConfirm = earlyFarewell = True

    def __init__(
        self,
        terms: AgreedOptions,
        size: int,
        options: Options,
        subnet: IPv4Network,
        identifiers: IdentifierPool,
        pacer: Pacer,
        context: OpenContext,
    ) -> None:
        policy = replace(
            _group.groupPolicy(options.gather, options.gatherLimit, options.silence),
            keepAliveInterval=3.0,
            maxListenerRepeats=3,
        )
        super().__init__(terms, size, policy, (str(subnet.broadcast_address), options.dataPort))
        self.sbid = identifiers.allocate(context.random, context.now)
        self.headers: Hashable = ("bdata", options.opcode, self.sbid)
        self.pacer = SubnetPacer(pacer, HEADER + terms.blksize)
        self._options = options
        self._identifiers = identifiers

    def announce(self, request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """Send everything that was agreed until the member has answered, later the one option alone, in full."""
        flag = self._options.masterFlag if master else self._options.listenerFlag
        terms = _group.agreeOptions(request, self.size, self.blocksize)
        options = _group.oackOptions(request, terms, OPTION, f"{self._options.dataPort},{self.sbid},{flag}")
        if heard:
            options = tuple(option for option in options if option[0].lower() == OPTION)
        yield tftp.buildOack(options), request.peer

    def header(self, number: int) -> bytes:
        return bdataHeader(number + 1, self.sbid, self._options.opcode)

    def unicastAddress(self, peer: Peer) -> Peer:
        """-> the data port of the member, which is where it expects blocks, whichever way they come."""
        return peer[0], self._options.dataPort

    def close(self, now: float) -> None:
        self._identifiers.release(self.sbid, now)


@implementer(IDialect)
class Dialect:
    """Subnet broadcast as configured; it stands before plain TFTP at the same port, which serves what this declines."""

    name = "sbroadcast"
    ownPort = True

    def __init__(self, options: Options) -> None:
        self.options = options
        self._identifiers = IdentifierPool()
        self._pacers: Mapping[IPv4Network | IPv6Network, Pacer] = {
            subnet: Pacer(options.packets, BURST) for subnet in options.subnets
        }

    def request(self, datagram: bytes, peer: Peer, local: Local) -> Request | None:
        return _group.readRequest(datagram, peer, local, OPTION)

    def key(self, request: Request, content: IContent) -> Hashable:
        """-> what a group is made for: a version of a file, a subnet, one of our interfaces."""
        subnet, _ = self._agree(request, content)
        return content.version, content.size, subnet, request.local.host, request.local.interface

    def fits(self, request: Request, wire: IWire) -> bool:
        """-> whether it asks for blocks at least as large as those of the group; without a size, for 512 octets."""
        asked = request.option("blksize")
        wish = None if asked is None else number(asked)
        if wish is None or wish < 8:
            return bool(wire.blocksize == DEFAULT_BLKSIZE)
        return bool(wish >= wire.blocksize)

    def same(self, request: Request, other: Request) -> bool:
        return _group.sameMachine(request, other)

    def _agree(self, request: Request, content: IContent) -> tuple[IPv4Network, AgreedOptions]:
        """
        Agree on a subnet, and on the options of its group.

        @raise Declined: with the reason.
        """
        if ":" in request.peer[0]:
            raise Declined("ipv6")
        try:
            subnet = subnetOf(request.peer[0], request.option(OPTION) or "")
        except ValueError:
            raise Declined("mask") from None
        if subnet not in self._pacers:
            near = any(IPv4Address(request.peer[0]) in known for known in self.options.subnets)
            raise Declined("other-mask" if near else "outside")
        cap = self.options.blksize or _tftp.unfragmented(request.local, HEADER)
        return subnet, _group.agreeOptions(request, content.size, cap)

    def open(self, request: Request, content: IContent, context: OpenContext) -> Wire:
        subnet, terms = self._agree(request, content)
        return Wire(terms, content.size, self.options, subnet, self._identifiers, self._pacers[subnet], context)

    def uploadReceiver(self, request: Request) -> None:
        return None

    def refuse(self, request: Request | None, error: Refused) -> bytes:
        return _tftp.refuse(error)
