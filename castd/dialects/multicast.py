"""
Serve multicast TFTP (RFC 2090): one client, the master, acknowledges, and all clients of a group listen.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from typing import ClassVar

from pydantic import Field
from zope.interface import implementer

from castd.dialects import _group, _tftp
from castd.errors import Declined, Refused
from castd.group_pool import GroupPool, GroupRange, OpenContext
from castd.interfaces import (
    IContent,
    IEqualHeadersWire,
    IEqualStepsWire,
    IExplainedDialect,
    IGroupWire,
    INegotiatingWire,
    IWire,
)
from castd.networks import Networks, networksOf
from castd.options import AnyNetwork, BootPath, Clients, Duration, GroupNetwork, ListenOptions, Port
from castd.packets import tftp
from castd.packets.options import AgreedOptions
from castd.request import Local, Peer, Request

OPTION = "multicast"


class Options(ListenOptions):
    """The options of a transport of kind multicast."""

    # Clients that do not ask for a group, or cannot receive it, are served by a tftp transport behind this one.
    fallback: ClassVar[str | None] = "tftp"
    profiled: ClassVar[bool] = True

    port: Port = Field(69, description="UDP port that requests come to")
    groups: GroupNetwork = Field(IPv4Network("239.255.0.0/24"), description="pool of group addresses")
    dataPort: Port = Field(1758, description="UDP port of the groups (IANA tftp-mcast)")
    clients: Clients | None = Field(
        None, description="networks whose clients may join groups; null: those that the interface reaches directly"
    )
    blksize: int = Field(
        1428, ge=8, le=65464, description="largest block size of a group: clients that ask for more share one of this"
    )
    caps: tuple[_tftp.GroupCap, ...] = Field(
        (), description="smaller blocks for some clients, which get a group of their own; of several the least counts"
    )
    gather: Duration = Field(0.2, ge=0, description="the first block waits until nobody has joined for so long")
    gatherLimit: Duration = Field(3.0, ge=0, description="but no longer than this")
    silence: Duration = Field(3.0, gt=0, description="a master that never answered is replaced after so long")
    deafFor: Duration = Field(
        300.0, ge=0, description="a machine that has received nothing of a group is served by unicast for so long"
    )
    loopback: bool = Field(True, description="let receivers on this very machine hear the groups")

    def destinations(self) -> Iterator[IPv4Network]:
        yield self.groups

    def warnings(self) -> Iterator[str]:
        yield from _tftp.idleCaps(self.blksize, self.caps)
        yield from _group.noGroups(self.interface)

    def beside(self, others: Sequence[tuple[str, ListenOptions]]) -> Iterator[str]:
        return _tftp.largerBlocks(self.blksize, self.caps, self.clients, others)

    def groupClients(self) -> Sequence[AnyNetwork]:
        return self.clients or ()

    def bootPath(self, name: str, host: str) -> BootPath:
        port = "" if self.port == 69 else f":{self.port}"
        return BootPath(f"tftm://{host}{port}/{name}")


@implementer(IGroupWire, IEqualStepsWire, INegotiatingWire, IEqualHeadersWire)
class Wire(_group.GroupWire):
    """Translates for one group."""

    headerLength = tftp.DATA_HEADER

    def __init__(
        self, terms: AgreedOptions, size: int, options: Options, group: tuple[str, int], groupPool: GroupPool
    ) -> None:
        policy = _group.groupPolicy(options.gather, options.gatherLimit, options.silence)
        super().__init__(terms, size, policy, group)
        self.headerKey: Hashable = ("tftp", 0)
        self._groupPool = groupPool

    def announce(self, request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """
        Build the whole OACK each time: atftp, Etherboot and U-Boot cannot read the short forms that RFC 2090 allows.
        """
        terms = _group.agreeOptions(request, self.size, self.blocksize)
        value = f"{self.group[0]},{self.group[1]},{int(master)}"
        yield tftp.buildOack(_group.oackOptions(request, terms, OPTION, value)), request.peer

    def header(self, number: int) -> bytes:
        return tftp.dataHeader(number + 1)

    def headers(self, start: int, stop: int) -> bytes:
        return tftp.dataHeaders(start + 1, stop - start)

    def close(self, now: float) -> None:
        self._groupPool.release(self.group, now)


@implementer(IExplainedDialect)
class Dialect:
    """Speaks RFC 2090 as configured.  Plain TFTP behind it at the same port serves what it declines."""

    name = "multicast"
    ownPort = True

    def __init__(self, options: Options) -> None:
        self.options = options
        self._capped = _tftp.capsByClient(options.caps)
        # None: whoever is on the link of the interface that was asked.
        self._clients = None if options.clients is None else Networks(options.clients)

    def request(self, datagram: bytes, peer: Peer, local: Local) -> Request | None:
        return _group.readRequest(datagram, peer, local, OPTION)

    def key(self, request: Request, content: IContent) -> Hashable:
        """Return the version and size of the file, the block size, and the local address and interface."""
        terms = self._agree(request, content)
        return content.version, content.size, terms.blksize, request.local.host, request.local.interface

    def fits(self, request: Request, wire: IWire) -> bool:
        return True

    def sameMachine(self, request: Request, other: Request) -> bool:
        return _group.sameMachine(request, other)

    def _agree(self, request: Request, content: IContent) -> AgreedOptions:
        _group.checkProfiles(request, OPTION)
        allowed = networksOf(request.local.networks) if self._clients is None else self._clients
        if request.peer[0] not in allowed:
            raise Declined("outside")
        largest = min(self.options.blksize, _tftp.unfragmented(request.local))
        cap = _tftp.cappedBlksize(largest, self._capped.of(request.peer[0]))
        return _group.agreeOptions(request, content.size, cap)

    def open(self, request: Request, content: IContent, context: OpenContext) -> Wire:
        terms = self._agree(request, content)
        groups = GroupRange(self.options.groups, self.options.dataPort)
        group = context.groupPool.allocate(groups, context.now)
        if group is None:
            raise Declined("pool-empty")
        return Wire(terms, content.size, self.options, group, context.groupPool)

    def opening(self, name: str) -> None:
        """Return L{None}: a request of TFTP's, with the option, asks for each file."""

    def bounds(self, request: Request) -> Iterator[str]:
        """As L{IExplainedDialect.bounds}."""
        local, caps = request.local, self._capped.of(request.peer[0])
        yield from _tftp.blksizeBounds(local, None, ())
        yield from _tftp.blksizeBounds(local, self.options.blksize, caps)

    def uploadReceiver(self, request: Request) -> None:
        return None

    def refuse(self, request: Request | None, error: Refused) -> bytes:
        return _tftp.refuse(error)
