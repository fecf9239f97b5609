"""
Serve unicast TFTP: RFC 1350 with the options of RFC 2347, 2348, 2349, 7440, C{blksize2}, C{utimeout} and C{rollover}.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache, partial
from typing import ClassVar

from pydantic import Field, model_validator
from zope.interface import implementer

from castd.cast.events import (
    Leave,
    NewRequest,
    PeerState,
    Ranges,
    RequestBlocks,
)
from castd.cast.policy import AdaptiveTimeout, RetransmitPolicy
from castd.cast.turn import Turn
from castd.dialects import _tftp
from castd.errors import Refused
from castd.group_pool import OpenContext
from castd.interfaces import (
    IContent,
    IEqualHeadersWire,
    IEqualStepsWire,
    IExplainedDialect,
    INegotiatingWire,
    ITransferHalf,
    IWire,
)
from castd.networks import ClientRules
from castd.options import BootPath, Clients, Duration, ListenOptions, Port, PortRange, Settings
from castd.packets import tftp
from castd.packets.options import AgreedOptions, OptionLimits, agree, known, negotiate
from castd.receive.upload import UploadReceiver
from castd.request import Peer, Quirks, Request

#: A range of fewer ports is a weak secret: `castd check` warns.
NARROW_RANGE = 4096
#: Wires that are kept for the next requests with the same options, for files of the same size; and limits, of which
#: there are as many as interfaces have different MTUs.
MOST_WIRES, MOST_LIMITS = 1024, 16


class Without(Settings):
    """Options that some clients ask for and cannot bear."""

    clients: Clients = Field(description="networks of those clients")
    options: tuple[str, ...] = Field(description="names of options that are not granted to them")


class Cap(Settings):
    """Values that are not exceeded for some clients, since larger blocks or windows do not reach them."""

    clients: Clients = Field(description="networks of those clients")
    blksize: int | None = Field(
        None, ge=8, le=65464, description="largest block size granted to them; null: as to all others"
    )
    windowsize: int | None = Field(
        None, ge=1, le=4096, description="largest window granted to them, blocks; null: as to all others"
    )

    @model_validator(mode="after")
    def _capsSomething(self) -> Cap:
        if self.blksize is None and self.windowsize is None:
            raise ValueError("a cap names blksize, windowsize or both")
        return self


class Options(ListenOptions):
    """The options of a transport of kind tftp."""

    takesAll: ClassVar[bool] = True
    profiled: ClassVar[bool] = True

    port: Port = Field(69, description="UDP port that requests come to")
    blksize: int | None = Field(
        None, ge=8, le=65464, description="largest block size granted; null: what fits the interface's MTU unfragmented"
    )
    windowsize: int = Field(64, ge=1, le=4096, description="largest window granted (RFC 7440), blocks")
    timeout: Duration = Field(
        1.0, gt=0, le=255, description="first interval of repetition, until a client's answering time was measured"
    )
    silence: Duration = Field(31.0, gt=0, description="a client that is silent for so long is given up")
    singlePort: bool = Field(False, description="all transfers from this port itself (NAT, containers)")
    ports: PortRange | None = Field(None, description="range that transfer ports are taken from (firewalls); null: any")
    broadcast: bool = Field(
        False,
        description="answer requests sent to a broadcast address, never with an error; only with interface: any",
    )
    without: tuple[Without, ...] = Field((), description="options that are not granted to some clients")
    caps: tuple[Cap, ...] = Field(
        (), description="smaller blocks or windows for some clients; of several caps the least counts"
    )

    def transferPorts(self) -> range | None:
        return range(self.port, self.port + 1) if self.singlePort else self.ports

    def bootPath(self, name: str, host: str) -> BootPath:
        # Firmware has no field for a port: it asks at 69.
        plain = self.port == 69
        return BootPath(name if plain else f"tftp://{host}:{self.port}/{name}", plain)

    def warnings(self) -> Iterator[str]:
        yield from _tftp.idleCaps(self.blksize, self.caps)
        for cap in self.caps:
            if cap.windowsize is not None and cap.windowsize >= self.windowsize:
                yield (
                    f"caps: a windowsize of {cap.windowsize} changes nothing: windowsize is {self.windowsize} for all"
                )
        if self.broadcast and self.interface:
            # Linux delivers a broadcast to sockets of all addresses, and to none that is bound to one.
            why = "IPv6 has no broadcasts" if ":" in self.interface else "a port of one address hears no broadcasts"
            yield f"broadcast: changes nothing at {self.interface}: {why}; interface: any"
        if self.singlePort and self.windowsize > 1:
            yield (
                "single-port: the port of a transfer is no secret then, so an ACK proves no address, and each that is "
                f"forged draws {self.windowsize} blocks; windowsize: 1 where addresses can be forged"
            )
        if self.ports is not None and self.singlePort:
            yield "ports: changes nothing: with single-port transfers have the port of the requests; leave one out"
        elif self.ports is not None and len(self.ports) < NARROW_RANGE:
            yield (
                f"ports: a forger hits the port of a transfer by {(len(self.ports) + 1) // 2} datagrams on average, "
                f"and can end it or draw its windows; {NARROW_RANGE} numbers or more where addresses can be forged"
            )


@implementer(INegotiatingWire, IEqualHeadersWire, IEqualStepsWire)
class Wire:
    """
    Translates for unicast transfers.  It has no state of a transfer, so all with the same terms and size share one.

    @ivar terms: the options that were agreed on.
    """

    group = None
    cast = Turn
    reuseDelay = 0.0
    headerLength = tftp.DATA_HEADER
    farewell = staticmethod(_tftp.farewell)

    def __init__(self, terms: AgreedOptions, size: int, policy: RetransmitPolicy, onRequestPort: bool = False) -> None:
        """@param onRequestPort: the transfer has no port of its own (C{single-port})."""
        self.terms = terms
        self.blocksize = terms.blksize
        self.policy = policy
        self.headerKey: Hashable = ("tftp", terms.rollover)
        self._reader = _tftp.AckReader(size, terms.blksize, terms.windowsize, terms.rollover, onRequestPort)
        self.count = self._reader.count
        self.stride = terms.windowsize
        self.expectedAnswer = self._reader.expectedAnswer
        self.expectedAnswers = self._reader.expectedAnswers
        self._announcement = tftp.buildOack(terms.answer) if terms.answer else None

    def requestedBlocks(self, request: Request) -> Ranges:
        """Return none if there is an OACK, which is acknowledged first; else one, as the address may be forged."""
        return () if self.terms.answer else (range(1),)

    def receive(
        self, datagram: bytes, peer: Peer, peerState: PeerState | None
    ) -> RequestBlocks | Leave | NewRequest | None:
        return self._reader.receive(datagram, peerState)

    def announce(self, request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        if self._announcement is not None:
            yield self._announcement, request.peer

    def grantedOptions(self, request: Request) -> tftp.Options:
        return self.terms.answer

    def header(self, number: int) -> bytes:
        return tftp.dataHeader(tftp.wire(number + 1, self.terms.rollover))

    def headers(self, start: int, stop: int) -> bytes:
        return tftp.dataHeaders(start + 1, stop - start, self.terms.rollover)

    def payload(self, number: int) -> None:
        return None

    def address(self, peer: Peer) -> Peer:
        return peer

    def close(self, now: float) -> None:
        """Do nothing: no group was allocated."""


def _makeWire(
    policy: RetransmitPolicy,
    onRequestPort: bool,
    options: tftp.Options,
    limits: OptionLimits,
    quirks: Quirks | None,
    mode: str,
    size: int,
) -> Wire:
    """Return the wire of transfers for which these options were asked, with these limits, of a file of this size."""
    terms = agree(options, limits if quirks is None else limits.within(quirks), mode, size)
    return Wire(terms, size, policy if terms.timeout is None else policy.withTimeout(terms.timeout), onRequestPort)


@implementer(IExplainedDialect)
class Dialect:
    """Speaks unicast TFTP as configured; it reads every TFTP request, so it must be the last dialect at a port."""

    name = "tftp"

    def __init__(self, options: Options) -> None:
        self.options = options
        self.ownPort = not options.singlePort
        repeat = AdaptiveTimeout(first=options.timeout, ceiling=max(8.0, options.timeout))
        self._policy = RetransmitPolicy(repeat=repeat, progressTimeout=options.silence)
        self._without = ClientRules((rule.clients, rule) for rule in options.without)
        self._capped = _tftp.capsByClient(options.caps)
        # No methods: by the circle of references the caches would outlive a reload.
        self._limits = lru_cache(MOST_LIMITS)(OptionLimits)
        self._wire = lru_cache(MOST_WIRES)(partial(_makeWire, self._policy, options.singlePort))

    request = staticmethod(_tftp.readRequest)

    def key(self, request: Request, content: IContent) -> Hashable:
        return request.peer

    def fits(self, request: Request, wire: IWire) -> bool:
        return False

    def sameMachine(self, request: Request, other: Request) -> bool:
        return False

    def open(self, request: Request, content: IContent, context: OpenContext | None = None) -> Wire:
        return self._wire(known(request.options), self._caps(request), request.quirks, request.mode, content.size)

    def uploadReceiver(self, request: Request) -> ITransferHalf:
        terms = negotiate(request, self._caps(request))
        # Netascii is converted by the sink (ISite.sink).
        return UploadReceiver(terms, self._policy.withTimeout(terms.timeout), request.mode == "octet")

    def refuse(self, request: Request | None, error: Refused) -> bytes:
        return _tftp.refuse(error)

    def _caps(self, request: Request) -> OptionLimits:
        """Return the most that is granted to the client of a request."""
        options = self.options
        blksize = options.blksize or _tftp.unfragmented(request.local)
        if not options.without and not options.caps:
            return self._limits(blksize, options.windowsize)
        return self._capsOf(request.peer[0], blksize)

    def _capsOf(self, host: str, blksize: int) -> OptionLimits:
        """@param blksize: octets granted to all."""
        refused: set[str] = set()
        for _, rule in self._without.of(host):
            refused.update(name.lower() for name in rule.options)
        window, caps = self.options.windowsize, self._capped.of(host)
        for _, cap in caps:
            if cap.windowsize is not None:
                window = min(window, cap.windowsize)
        return OptionLimits(_tftp.cappedBlksize(blksize, caps), window, frozenset(refused))

    def opening(self, name: str) -> None:
        """Return L{None}: a request of TFTP's asks for each file."""

    def bounds(self, request: Request) -> Iterator[str]:
        """As L{IExplainedDialect.bounds}."""
        host, options = request.peer[0], self.options
        caps = self._capped.of(host)
        for number, rule in self._without.of(host):
            yield f"without[{number}]: {', '.join(rule.options)} not granted to this client"
        yield from _tftp.blksizeBounds(request.local, options.blksize, caps)
        yield f"windowsize: at most {options.windowsize} blocks"
        for number, cap in caps:
            if cap.windowsize is not None:
                yield f"caps[{number}]: windows of at most {cap.windowsize} blocks for this client"
