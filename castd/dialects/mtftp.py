"""
Serve MTFTP, the multicast TFTP of PXE boot ROMs: one client acknowledges, and all listen.  It is not RFC 2090.

A client knows before it asks to which group its file is sent, and nothing in the data names the file.  So each file has
a group and port of its own; the service file names them, and DHCP tells them to the clients.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network
from typing import Annotated, ClassVar, Self, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, field_validator
from zope.interface import implementer

from castd import outcomes
from castd.cast.events import (
    Leave,
    NewRequest,
    PeerState,
    Ranges,
    RequestBlocks,
)
from castd.cast.policy import RetransmitPolicy
from castd.dialects import _tftp
from castd.dialects.mtftp_cast import POLICY, MtftpCast
from castd.errors import Declined, Forbidden, NotFound, Refused, Unsupported
from castd.files import names
from castd.group_pool import OpenContext
from castd.interfaces import IContent, IDialect, IEqualHeadersWire, ITransferHalf, IWire
from castd.networks import Networks, networksOf
from castd.options import (
    AnyNetwork,
    BootPath,
    Clients,
    Duration,
    HostPort,
    ListenOptions,
    Port,
    WrongEntries,
    groupEndpoint,
    onlyIPv4,
)
from castd.packets import tftp
from castd.packets.mtftp import BLKSIZE, IPXE_GROUP, MOST_BLOCKS, PORT
from castd.request import Local, Peer, Request, hostPort

#: Octets of the longest file.
LONGEST = MOST_BLOCKS * BLKSIZE - 1
#: How long a group is silent before a newer version of its file is sent.  By then all clients that have a part of the
#: old version have given up (castd's own after 31 s, and no client is known that takes longer); nothing in a block
#: would tell them that it is of another version.  Seconds.
REUSE_DELAY = 35.0
IPXE = HostPort(*IPXE_GROUP)

Files: TypeAlias = tuple[tuple[str, HostPort], ...]


def readFiles(value: object) -> Files:
    """
    Read the files of a port: a mapping of names to groups, C{vmlinuz: 239.255.1.1:3001}.

    @return: pairs; names without leading slashes, so that C{/vmlinuz} and C{vmlinuz} are the same.
    @raise ValueError: there is no file, a name comes twice, or two files have one group and port;
        L{WrongEntries}: some have none.
    """
    if not isinstance(value, Mapping) or not value:
        raise ValueError("name each file with its group and port, such as vmlinuz: 239.255.1.1:3001")
    _checkGroups(value)
    found: dict[str, HostPort] = {}
    at: dict[HostPort, str] = {}
    for name, place in value.items():
        try:
            known = names.text(names.parts(str(name)))
        except Refused as error:
            raise ValueError(f"{names.printable(str(name))} is no name of a file: {error}") from None
        group = IPXE if place is None else groupEndpoint(place)
        if known in found:
            raise ValueError(f"{known} is named twice")
        if (other := at.setdefault(group, known)) != known:
            raise ValueError(
                f"{known} and {other} are both sent to {hostPort(group)}: receivers could not tell them apart"
            )
        found[known] = group
    return tuple(found.items())


def _checkGroups(files: Mapping[object, object]) -> None:
    """@raise WrongEntries: some files have no group and port."""
    wrong: list[tuple[int | str, str]] = []
    for name, place in files.items():
        try:
            if place is not None:
                groupEndpoint(place)
        except ValueError as error:
            wrong.append((str(name), str(error)))
    if wrong:
        raise WrongEntries(wrong)


def _written(value: Files) -> dict[str, str]:
    return {name: hostPort(place) for name, place in value}


_FILES_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": ["string", "null"], "format": "group:port", "examples": [hostPort(IPXE)]},
    "examples": [{"vmlinuz": hostPort(IPXE)}],
}


class Options(ListenOptions):
    """The options of a transport of kind mtftp."""

    elsewhere: ClassVar[tuple[str, int] | None] = ("tftp", 69)

    port: Port = Field(PORT, description="UDP port that requests come to, and everything is sent from")
    files: Annotated[
        Files,
        PlainValidator(readFiles),
        PlainSerializer(_written, when_used="json"),
        WithJsonSchema(_FILES_SCHEMA),
    ] = Field(description="the files, each with a group and port of its own; iPXE hears 239.255.1.1:3001 only")
    clients: Clients | None = Field(
        None, description="networks that are answered; null: those that the interface reaches directly"
    )
    gather: Duration = Field(0.1, ge=0, le=0.15, description="the first block waits until nobody has asked for so long")
    gatherLimit: Duration = Field(0.15, ge=0, le=0.15, description="but no longer than this: iPXE waits 0.25 s")
    silence: Duration = Field(
        10.0, gt=0, description="a client that acknowledges nothing loses its turn after so long; 2 s if others wait"
    )
    remember: Duration = Field(
        30.0, gt=0, le=600, description="how long one who asked in the middle of a transfer is kept in mind"
    )
    errors: bool = Field(
        False, description="answer what cannot be served with an ERROR, not with silence; iPXE's boot fails then"
    )
    loopback: bool = Field(True, description="let receivers on this very machine hear the groups")

    _onlyIPv4 = field_validator("interface")(onlyIPv4)

    @classmethod
    def clashes(cls, named: Sequence[tuple[str, Self]]) -> Iterator[tuple[str, str]]:
        """Complain about groups and ports to which two transports send."""
        taken: dict[HostPort, tuple[str, str]] = {}
        for name, options in named:
            for file, place in options.files:
                other, otherFile = taken.setdefault(place, (name, file))
                if other != name:
                    yield name, f"files: {hostPort(place)} is already that of {otherFile} in {other}"

    def named(self) -> Iterator[tuple[str, str]]:
        return (("files", name) for name, _ in self.files)

    def unfit(self, size: Callable[[str], int | None]) -> Iterator[str]:
        for name, _ in self.files:
            if (size(name) or 0) > LONGEST:
                yield f"files: {name} is longer than {LONGEST} octets, more than MTFTP has numbers for"

    def destinations(self) -> Iterator[IPv4Network]:
        yield from sorted({IPv4Network(place.host) for _, place in self.files})

    def transferPorts(self) -> range:
        return range(self.port, self.port + 1)

    def groupClients(self) -> Sequence[AnyNetwork]:
        return self.clients or ()

    def bootPath(self, name: str, host: str) -> BootPath:
        place = dict(self.files).get(name)
        if place is None:
            raise ValueError(f"it does not send {name}")
        port = "" if self.port == PORT else f":{self.port}"
        url = f"mtftp://{host}{port}/{name}" if place == IPXE else None
        return BootPath(url, mtftp=(place, self.port))

    def warnings(self) -> Iterator[str]:
        unheard = [name for name, place in self.files if place != IPXE]
        if unheard:
            which = "; the others" if len(unheard) < len(self.files) else "; these clients"
            yield (
                f"iPXE hears {hostPort(IPXE)} only, so it cannot get {', '.join(unheard)}{which} need the DHCP "
                "options of 'castd dhcp43'"
            )


@implementer(IEqualHeadersWire)
class Wire:
    """Translates for the one file of a group."""

    blocksize = BLKSIZE
    stride = 0
    reuseDelay = REUSE_DELAY
    headerKey: Hashable = ("tftp", 0)
    headerLength = tftp.DATA_HEADER

    def __init__(
        self, content: IContent, group: tuple[str, int], policy: RetransmitPolicy, remember: float, local: Local
    ) -> None:
        """
        @param local: the address that the group is sent from.
        @raise ContentChanged: its first block cannot be read.
        """
        self.local = local
        self.count = _tftp.blockCount(content.size, BLKSIZE)
        self.group = group
        self.policy = policy
        self.cast = partial(MtftpCast, remember=remember, clientPort=group[1])
        self._firstBlock = self.header(0) + bytes(content.read(0, BLKSIZE))

    def requestedBlocks(self, request: Request) -> Ranges:
        """Return block 1: it is sent as soon as the client has the turn."""
        return (range(1),)

    def receive(
        self, datagram: bytes, peer: Peer, peerState: PeerState | None
    ) -> RequestBlocks | Leave | NewRequest | None:
        """
        Parse an ACK or ERROR.  ACK k asks for what follows block k; k may jump, as iPXE acknowledges the last block
        that it has without a gap.

        Only the master's ACKs count, and none beyond the last block of the file.
        """
        if tftp.opcode(datagram) in (tftp.RRQ, tftp.WRQ):
            return NewRequest()
        packet = tftp.parse(datagram)
        if peerState is None:
            return None
        if isinstance(packet, tftp.Error):
            return Leave(outcomes.ABORTED, packet.code, packet.text)
        if not isinstance(packet, tftp.Ack) or not peerState.turn or packet.number > self.count:
            return None
        if packet.number == self.count:
            return Leave(outcomes.DONE)
        return RequestBlocks((range(packet.number, packet.number + 1),))

    def announce(self, request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """
        Build block 1 for the master alone, which tells it that it is the master; block 1 to the group follows.  The
        order matters: an atftp that first gets block 1 from the group takes another client for the master.
        """
        if master:
            yield self._firstBlock, request.peer

    def farewell(self, request: Request, outcome: str) -> Iterable[tuple[bytes, Peer]]:
        """Return nothing: iPXE's boot fails at an ERROR, and goes on by plain TFTP without one."""
        return ()

    def header(self, number: int) -> bytes:
        return tftp.dataHeader(number + 1)

    def headers(self, start: int, stop: int) -> bytes:
        return tftp.dataHeaders(start + 1, stop - start)

    def payload(self, number: int) -> None:
        return None

    def address(self, peer: Peer) -> tuple[str, int]:
        """Return the group: nothing but the block 1 of L{announce} is sent to one client alone."""
        return self.group

    def expectedAnswer(self, stop: int) -> None:
        return None

    def close(self, now: float) -> None:
        """Do nothing: the group is fixed in the service file."""


@implementer(IDialect)
class Dialect:
    """Speaks MTFTP as configured.  Everything is sent from the request port: EFI's client accepts no other."""

    name = "mtftp"
    ownPort = False

    def __init__(self, options: Options) -> None:
        self.options = options
        self._groups = dict(options.files)
        self._clients = None if options.clients is None else Networks(options.clients)

    def request(self, datagram: bytes, peer: Peer, local: Local) -> Request | None:
        """
        Read an RRQ for one of the files; its options are ignored, since the protocol has none.

        @raise WireError: shorter than an opcode.
        @raise Refused: malformed, an upload, another mode than octet, not one of the files, or from elsewhere.
        """
        if local.broadcast:
            return None
        request = _tftp.readRequest(datagram, peer, local)
        if request is None:
            return None
        if datagram[-1]:
            raise Unsupported(why="a request that does not end with a NUL")
        if request.write or request.mode != "octet":
            raise Unsupported(why="only reading in mode octet is served here")
        if names.text(names.parts(request.name)) not in self._groups:
            raise NotFound(why=f"{names.printable(request.name)} is none of the files of this port")
        # Where the networks of the interface are not known, the access rules decide.
        allowed = self._clients or (networksOf(local.networks) if local.networks else None)
        if allowed is not None and peer[0] not in allowed:
            raise Forbidden(why=f"{peer[0]} is in none of the networks that are answered")
        return Request(peer, local, request.name)

    def _group(self, request: Request) -> HostPort:
        return self._groups[names.text(names.parts(request.name))]

    def key(self, request: Request, content: IContent) -> Hashable:
        """Return the group: a newer version of the file is not sent while the old one is received."""
        return self._group(request)

    def fits(self, request: Request, wire: IWire) -> bool:
        """Return whether the group is sent to the client's network: it leaves by the interface of the first request."""
        return isinstance(wire, Wire) and wire.local.sharesNetwork(request.local)

    def sameMachine(self, request: Request, other: Request) -> bool:
        """Return C{False}: the cast itself recognizes a machine that has restarted."""
        return False

    def open(self, request: Request, content: IContent, context: OpenContext | None = None) -> Wire:
        if content.size > LONGEST:
            raise Declined("too-many-blocks")
        options = self.options
        policy = replace(
            POLICY,
            loneProgressTimeout=options.silence,
            joinDelay=options.gather,
            maxJoinDelay=max(options.gather, options.gatherLimit),
        )
        return Wire(content, self._group(request), policy, options.remember, request.local)

    def uploadReceiver(self, request: Request) -> ITransferHalf | None:
        return None

    def refuse(self, request: Request | None, error: Refused) -> bytes | None:
        return _tftp.refuse(error) if self.options.errors else None
