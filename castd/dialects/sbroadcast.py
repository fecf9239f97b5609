"""
Serve IBM's subnet broadcast: like RFC 2090, but data goes to the directed broadcast address of the client's subnet.

castd was never tested with a real client: the opcode of BDATA and the values of the master flag are guesses that the
service file can change.  docs/transports/sbroadcast.md says what is known and what is not.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from zope.interface import implementer

from castd.dialects import _group, _tftp
from castd.errors import Declined, Refused
from castd.group_pool import OpenContext
from castd.interfaces import IContent, IExplainedDialect, IGroupWire, INegotiatingWire, IWire
from castd.options import Duration, Frequency, ListenOptions, Network, Port
from castd.pacing import Pacer
from castd.packets import tftp
from castd.packets.multicast import BDATA, SBROADCAST_PORT, bdataHeader
from castd.packets.options import DEFAULT_BLKSIZE, AgreedOptions, number
from castd.request import Local, Peer, Request

if TYPE_CHECKING:
    from random import Random

OPTION = "sbroadcast"
#: Prefix lengths of subnets that are broadcast to.  A larger subnet is a mistake or an attack; a smaller one has no
#: broadcast address besides its hosts.
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


#: A value of the master flag in an OACK.  The service file may have it as text or as an integer.
Flag = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


class Options(ListenOptions):
    """The options of a transport of kind sbroadcast."""

    # Clients that do not ask for it, or may not have it, are served by a tftp transport behind this one.
    fallback: ClassVar[str | None] = "tftp"
    profiled: ClassVar[bool] = True

    port: Port = Field(69, description="UDP port that requests come to")
    subnets: tuple[Annotated[Network, AfterValidator(_subnet)], ...] = Field(
        min_length=1, description="clients' subnets that may be broadcast to, each with its true mask; no others are"
    )
    dataPort: Port = Field(SBROADCAST_PORT, description="UDP port that data goes to (IANA subntbcst_tftp)")
    blksize: int | None = Field(
        None, ge=8, le=65464, description="largest block; null: what the MTU carries in one piece, less 36 octets"
    )
    caps: tuple[_tftp.GroupCap, ...] = Field(
        (), description="smaller blocks for some clients; their group has such blocks if one of them opens it"
    )
    packets: Frequency = Field(2000.0, description="most broadcasts to each subnet, all its groups together")
    gather: Duration = Field(0.2, ge=0, description="the first block waits until nobody has joined for so long")
    gatherLimit: Duration = Field(3.0, ge=0, description="but no longer than this")
    silence: Duration = Field(3.0, gt=0, description="a master that never answered is replaced after so long")
    deafFor: Duration = Field(
        300.0, ge=0, description="a machine that has received nothing of a group is served by unicast for so long"
    )
    opcode: int = Field(BDATA, ge=7, le=65535, description="experimental: opcode of data packets, which is a guess")
    masterFlag: Flag = Field(
        "1", pattern="^[!-+.-~-]{1,16}$", description="experimental: how the master is told that it is one, a guess"
    )
    listenerFlag: Flag = Field(
        "0", pattern="^[!-+.-~-]{1,16}$", description="experimental: how the others are told that they are not, a guess"
    )

    def destinations(self) -> Iterator[IPv4Network]:
        yield from (each for each in self.subnets if isinstance(each, IPv4Network))

    def warnings(self) -> Iterator[str]:
        yield from _tftp.idleCaps(self.blksize, self.caps)
        yield from _group.noGroups(self.interface)

    def beside(self, others: Sequence[tuple[str, ListenOptions]]) -> Iterator[str]:
        return _tftp.largerBlocks(self.blksize, self.caps, self.subnets, others)

    @model_validator(mode="after")
    def _flagsDiffer(self) -> Options:
        if self.masterFlag == self.listenerFlag:
            raise ValueError("master-flag and listener-flag must differ")
        return self


def subnetOf(client: str, mask: str) -> IPv4Network:
    """
    Find the subnet of a client from the mask in its request.

    @param client: IPv4 address of the client.
    @param mask: a dotted quad.
    @raise ValueError: the mask is not a contiguous one of 16 to 30 bits, or the client's address is that of the network
        or its broadcast address.
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
        """
        Return 32 random bits, not 0, that no group has, and none that ended in the last L{SBID_REUSE_DELAY} seconds.
        """
        self._until = {sbid: until for sbid, until in self._until.items() if until > now}
        while True:
            sbid = random.getrandbits(32)
            if sbid and sbid not in self._until:
                self._until[sbid] = float("inf")
                return sbid

    def release(self, sbid: int, now: float) -> None:
        """Release an identifier, as its group has ended."""
        self._until[sbid] = now + SBID_REUSE_DELAY


class SubnetPacer:
    """Limits the octets of a group by the L{Pacer} of its subnet, which counts packets."""

    def __init__(self, pacer: Pacer, step: int) -> None:
        """
        @param pacer: limits the packets a second that all groups of the subnet send.
        @param step: octets of a full packet of this group.
        """
        self.next = pacer.next
        self._pacer = pacer
        self._step = step

    @property
    def share(self) -> float:
        """Octets that the group may send before another cast sends."""
        return self._pacer.share * self._step

    def spend(self, octets: float, now: float) -> None:
        """Charge the subnet with the packets of a burst."""
        self._pacer.spend(-(-octets // self._step), now)


@implementer(IGroupWire, INegotiatingWire)
class Wire(_group.GroupWire):
    """
    Translates for one group of a subnet.

    @ivar sbid: the identifier of the group, which each of its data packets carries.
    """

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
            keepAliveInterval=2.5,  # no subnet is to be silent for 3 s
            maxListenerRepeats=3,
        )
        super().__init__(terms, size, policy, (str(subnet.broadcast_address), options.dataPort))
        self.sbid = identifiers.allocate(context.random, context.now)
        self.headerKey: Hashable = ("bdata", options.opcode, self.sbid)
        self.pacer = SubnetPacer(pacer, HEADER + terms.blksize)
        self._options = options
        self._identifiers = identifiers

    def announce(self, request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """Build an OACK with all agreed options until the member has answered, later with C{sbroadcast} alone."""
        flag = self._options.masterFlag if master else self._options.listenerFlag
        terms = _group.agreeOptions(request, self.size, self.blocksize)
        options = _group.oackOptions(request, terms, OPTION, f"{self._options.dataPort},{self.sbid},{flag}")
        if heard:
            options = tuple(option for option in options if option[0].lower() == OPTION)
        yield tftp.buildOack(options), request.peer

    def header(self, number: int) -> bytes:
        return bdataHeader(number + 1, self.sbid, self._options.opcode)

    def unicastAddress(self, peer: Peer) -> Peer:
        """Return the data port of the member: it expects blocks there, by broadcast or by unicast."""
        return peer[0], self._options.dataPort

    def close(self, now: float) -> None:
        self._identifiers.release(self.sbid, now)


@implementer(IExplainedDialect)
class Dialect:
    """Speaks subnet broadcast as configured.  Plain TFTP behind it at the same port serves what it declines."""

    name = "sbroadcast"
    ownPort = True

    def __init__(self, options: Options) -> None:
        self.options = options
        self._identifiers = IdentifierPool()
        self._capped = _tftp.capsByClient(options.caps)
        self._pacers: Mapping[IPv4Network | IPv6Network, Pacer] = {
            subnet: Pacer(options.packets, BURST) for subnet in options.subnets
        }

    def request(self, datagram: bytes, peer: Peer, local: Local) -> Request | None:
        return _group.readRequest(datagram, peer, local, OPTION)

    def key(self, request: Request, content: IContent) -> Hashable:
        """Return the version and size of the file, the subnet, and the local address and interface."""
        subnet, _ = self._agree(request, content)
        return content.version, content.size, subnet, request.local.host, request.local.interface

    def fits(self, request: Request, wire: IWire) -> bool:
        """
        Return whether the request may be granted blocks as large as the group's: it asks for no smaller ones, and its
        client is not capped below; or it asks for none and the group's are 512.
        """
        quirks = request.quirks
        asked = None if quirks is not None and quirks.refuses("blksize") else request.option("blksize")
        wish = None if asked is None else number(asked)
        if wish is None or wish < 8:
            return bool(wire.blocksize == DEFAULT_BLKSIZE)
        return bool(min(wish, self._largest(request)) >= wire.blocksize)

    def sameMachine(self, request: Request, other: Request) -> bool:
        return _group.sameMachine(request, other)

    def _agree(self, request: Request, content: IContent) -> tuple[IPv4Network, AgreedOptions]:
        """
        Agree on a subnet, and on the options of its group.

        @raise Declined: the client is not in a subnet of the service file, or no group can serve it.
        """
        _group.checkProfiles(request, OPTION)
        if ":" in request.peer[0]:
            raise Declined("ipv6")
        try:
            subnet = subnetOf(request.peer[0], request.option(OPTION) or "")
        except ValueError:
            raise Declined("mask") from None
        if subnet not in self._pacers:
            near = any(IPv4Address(request.peer[0]) in known for known in self.options.subnets)
            raise Declined("other-mask" if near else "outside")
        return subnet, _group.agreeOptions(request, content.size, self._largest(request))

    def _largest(self, request: Request) -> int:
        """Return octets of the largest block that is granted to the client of a request."""
        largest = self.options.blksize or _tftp.unfragmented(request.local, HEADER)
        if request.quirks is not None and request.quirks.blksize is not None:
            largest = min(largest, request.quirks.blksize)
        return _tftp.cappedBlksize(largest, self._capped.of(request.peer[0]))

    def open(self, request: Request, content: IContent, context: OpenContext) -> Wire:
        subnet, terms = self._agree(request, content)
        return Wire(terms, content.size, self.options, subnet, self._identifiers, self._pacers[subnet], context)

    def opening(self, name: str) -> None:
        """Return L{None}: a request of TFTP's, with the option, asks for each file."""

    def bounds(self, request: Request) -> Iterator[str]:
        """As L{IExplainedDialect.bounds}."""
        caps = self._capped.of(request.peer[0])
        return _tftp.blksizeBounds(request.local, self.options.blksize, caps, HEADER)

    def uploadReceiver(self, request: Request) -> None:
        return None

    def refuse(self, request: Request | None, error: Refused) -> bytes:
        return _tftp.refuse(error)
