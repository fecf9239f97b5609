"""
Define the interfaces between the parts of castd, all in one file.

The author of a transport implements L{ITransportMaker}, L{IDialect} and L{IWire}, and reads files through L{IContent}.
A transport that does not fit one listener with its casts also implements L{ICastTransport}, by a C{DatagramProtocol} of
its own.  What sends no files, but answers at ports of its own beside the transports, implements L{IPortService}.

Shapes used throughout: a I{peer} is an address as the socket gives it, C{(host, port)} or C{(host, port, flow, scope)};
an I{instant} is a value of C{reactor.seconds()}, a float of seconds; the I{number} of a block counts from 0; I{ranges}
is a tuple of C{range} with step 1, ascending, without overlap.

They stand in this order: casts, wires and dialects; halves of a transfer; content, machines and uploads; the site;
protocols and ports; what is under way; transports, services, upgrades, and the makers of plugins.

All methods are called in the reactor's thread, but for L{IContent.read} of a file that is asked for in netascii.  An
exception that a method does not document is a fault: castd logs it with its traceback and gives up that datagram,
request or cast, never the server.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from ipaddress import IPv4Network
    from random import Random

    from pydantic import BaseModel
    from twisted.internet.address import IPv4Address, IPv6Address
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

    from castd.cast.blockmap import Holding
    from castd.cast.blockset import RunLog
    from castd.cast.events import Action, Event, Leave, NewRequest, PeerState, Ranges, RequestBlocks
    from castd.cast.policy import RetransmitPolicy
    from castd.errors import Refused
    from castd.group_pool import Group, GroupPool, OpenContext
    from castd.machines.known import KnownMachine
    from castd.net.timers import Timers
    from castd.options import AnyNetwork, Limits
    from castd.pacing import Pacer, RateLimit
    from castd.packets.options import AgreedOptions
    from castd.packets.tftp import Error
    from castd.profiles.table import ProfileHits, Profiles
    from castd.receive.base import OffsetBlock
    from castd.request import Local, Peer, Request
    from castd.server.admission import Admission
    from castd.server.attempts import Attempts
    from castd.server.blockcache import BlockCache
    from castd.server.deaf import DeafMachines
    from castd.server.recorder import Recorder
    from castd.slices import Slices

#: What can be sent, or read from a content, without being copied first.
Octets: TypeAlias = bytes | bytearray | memoryview

T = TypeVar("T")

# mypy-zope reads the method signatures below; zope.interface methods have no self.
# ruff: noqa: N805


# Casts: who gets which block when.


class ICast(Interface):
    """
    Decides which blocks of one content are sent next, and for whom, while receivers join and leave.

    It is pure: it knows block numbers and peers, but no bytes, socket or clock.  castd calls C{join} and C{hear} when
    datagrams arrive; then, and at each C{deadline}, it calls C{poll} until that returns L{None}.
    """

    highestSent: int = Attribute("The highest block number that was ever sent; -1 before the first.")

    def join(peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        """
        Add a receiver that has sent a request, or answer a member that has sent it again.  A farewell of its peer that
        C{poll} has not returned yet is dropped.

        @param wants: the blocks that its request already asks for; C{()} if the receiver asks for them later.
        @param instead: the member that this one replaces: the same machine, asking from a new port.
        """

    def hear(peer: Peer, event: Event, now: float) -> None:
        """
        Handle what a receiver has sent; ignore it if the receiver is no member.

        @param event: L{RequestBlocks<castd.cast.events.RequestBlocks>} or L{Leave<castd.cast.events.Leave>}.
        """

    def peerState(peer: Peer) -> PeerState | None:
        """Return what a wire needs to know of a member to read its datagrams; L{None}: the peer is no member."""

    def poll(now: float) -> Action | None:
        """
        Return the next action that is due; announcements and farewells come before blocks.

        @return: L{Announce<castd.cast.events.Announce>}, L{SendBlocks<castd.cast.events.SendBlocks>},
            L{Left<castd.cast.events.Left>}, L{Bar<castd.cast.events.Bar>}, or L{None} if nothing is due.
        """

    def deadline(now: float) -> float | None:
        """
        Find out when to poll again, if no datagram arrives before.  It is called after C{poll} has returned L{None}.

        A cast without members that still has a deadline is kept open, and may be joined until then.

        @return: an instant; L{None}: only when a datagram arrives.
        """

    def burstDelayed(now: float) -> None:
        """
        Note that the last burst has been sent only now: it waited for the disk, a pacer or a full socket.  It is also
        called for what is heard while the burst waits: none of its blocks has left before this instant.
        """

    def heard(peer: Peer) -> bool:
        """Return whether this member has sent anything since its request."""

    def memberCount() -> int:
        """Return how many receivers there are."""

    def statistics() -> Mapping[str, int]:
        """Return counters by name, to be added as fields to the event C{closed} of a group; C{{}}: none."""


class IPaced(ICast):
    """Adapts how fast it sends to the losses that its receivers report."""

    pace: float = Attribute("The part of the configured rate to send at, above 0, at most 1.  Read before each burst.")


class IMappedCast(ICast):
    """Tells which blocks each of its members has, for a map of the group.  A cast need not provide it."""

    sentRuns: RunLog | None = Attribute("When each block was sent last; None: L{recordSent} was not called.")

    def recordSent() -> None:
        """Record from now on when each block is sent.  It is called for a group, before anything is sent."""

    def holding(peer: Peer) -> Holding | None:
        """Return what is known of the blocks of a member; L{None}: it is no member, or nothing can be known."""


class IBoundedCast(ICast):
    """Has room for a bounded number of members.  A cast need not provide it."""

    def isFull(peer: Peer, now: float) -> bool:
        """Return whether there is no room for a receiver that asks and is no member; nothing changes."""

    def turnAway(peer: Peer, now: float) -> None:
        """
        Note that a receiver has found no room.  It does not join, and gets no answer: that costs a small part of a
        member that joins and is removed.
        """


# Wires: what a cast decides and is told, as datagrams.


class IWire(Interface):
    """
    Translates between one cast and the network: datagrams to events, actions to datagrams.

    It is pure, and keeps nothing about peers.  L{IDialect.open} makes one for each cast.
    """

    blocksize: int = Attribute("Octets of content in a full block, without its header.")
    count: int | None = Attribute("How many blocks the content has; None for an erasure code, whose blocks never end.")
    headerKey: Hashable = Attribute(
        "Identifies the headers, so that casts can share blocks: equal for two wires of one block size only if their "
        "header() returns the same for every number."
    )
    cast: Callable[[RetransmitPolicy, int | None], ICast] = Attribute("Makes the cast, from the policy and the count.")
    group: tuple[str, int] | None = Attribute("Address and port that all data goes to; None: to the receiver itself.")
    policy: RetransmitPolicy = Attribute("When this cast repeats what was not answered, and when it gives up.")
    stride: int = Attribute(
        "Blocks that one answer asks for, from a receiver that loses nothing; 0: expectedAnswer() is never called.  If "
        "it is not 0, a datagram of a receiver is cut to 479 octets, else to 2048."
    )
    reuseDelay: float = Attribute(
        "Seconds after the last cast of a group of the service file before another file may be sent to that group."
    )

    def requestedBlocks(request: Request) -> Ranges:
        """Return the ranges that the request itself asks for; C{()} if the receiver asks for them later."""

    def receive(datagram: bytes, peer: Peer, peerState: PeerState | None) -> RequestBlocks | Leave | NewRequest | None:
        """
        Parse a datagram that arrived at the cast's port.

        @param peerState: of the peer that sent it; L{None}: the peer is no member of the cast.
        @return: the event for the cast, a RequestBlocks or a Leave; a NewRequest if L{IDialect.request} is to read the
            datagram; L{None}: the datagram is ignored.
        @raise WireError: it cannot be parsed; it is counted and ignored.
        @raise UnknownPeer: the peer is no member, and is sent what L{IDialect.refuse} makes of an
            L{UnknownTid<castd.errors.UnknownTid>}: in TFTP an ERROR 5 (RFC 1350 section 4).
        """

    def announce(request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """
        Build the datagrams that tell a receiver that it is a member, such as an OACK.  They are built anew for each
        repetition.

        @param request: the request of that receiver.
        @param master: the receiver has the turn.
        @param heard: the receiver has answered before.
        @return: datagrams, each with its destination.
        """

    def farewell(request: Request, outcome: str) -> Iterable[tuple[bytes, Peer]]:
        """
        Build the datagrams that tell a receiver that its transfer has ended.  Often there is none; in TFTP it is an
        ERROR 0 if the file has changed or the server stops.

        @param request: the request of that receiver.
        @param outcome: one of the words of L{castd.outcomes}.
        @return: datagrams, each with its destination.
        """

    def header(number: int) -> bytes:
        """Return the octets before the payload of this block."""

    def payload(number: int) -> bytes | None:
        """
        Return the payload of this block, for an erasure code; L{None}: blocks are slices of the content, read by castd.
        """

    def address(peer: Peer) -> Peer:
        """Return the address to send blocks for this peer to: the group, or the peer itself."""

    def expectedAnswer(stop: int) -> tuple[bytes, int] | None:
        """
        Predict the answer of a receiver that loses nothing, so that it need not be parsed (L{castd.server.fastpath}).

        The result depends on C{headerKey}, C{stride} and C{count} only, since casts share it.  It must agree with
        C{receive}.  In a group it is the answer of the member that has the turn, and C{stride} is 1.

        @param stop: the receiver has all blocks before this number; 0: an OACK has been sent to it.
        @return: the exact datagram, and the number after the last block that it asks for: C{stride} blocks, fewer at
            the end of the file.  L{None}: the answer must be parsed.
        """

    def close(now: float) -> None:
        """Release what L{IDialect.open} has allocated, such as a group address.  Called once, when the cast ends."""


class INegotiatingWire(IWire):
    """Tells the log which options were granted.  A wire need not provide this."""

    def grantedOptions(request: Request) -> Sequence[tuple[str, str]]:
        """Return name and value of each option that the request was granted."""


class IEqualHeadersWire(IWire):
    """Has headers of one length, and builds those of many blocks at once.  A wire need not provide this."""

    headerLength: int = Attribute("Octets of each header.")

    def headers(start: int, stop: int) -> bytes:
        """Return what C{header} returns for the blocks C{start} to C{stop} - 1, one behind the other."""


class IEqualStepsWire(IWire):
    """
    Has receivers each of whose answers asks for C{stride} blocks, and builds many of their answers at once.  A wire
    need not provide this.
    """

    def expectedAnswers(start: int, stop: int) -> Sequence[bytes]:
        """
        Return the datagrams that C{expectedAnswer} returns for the blocks C{start}, C{start + stride}, ... below
        C{stop}, which is at most C{count}.
        """


class IGroupWire(IWire):
    """Adds what is needed for a group some of whose members may not receive what is sent to it."""

    broadcast: bool = Attribute("The group is a subnet's broadcast address.")
    pacer: RateLimit | None = Attribute(
        "Limits the rate of all groups that share a network, such as one subnet; None: there is no such limit."
    )

    def unicastAddress(peer: Peer) -> Peer:
        """
        Return the address to send data to for a member that does not receive what is sent to the group.  It is
        announced again before, by L{IWire.announce}.
        """


# Dialects: one configured protocol each.


class IDialect(Interface):
    """
    Speaks one protocol as it is configured: reads requests, decides who may share a cast, and begins casts.

    It is pure.  For a new request castd calls C{request}, looks the file up, then calls C{key}; C{fits} for each cast
    with an equal key; and C{open} if no cast fits.
    """

    name: str = Attribute("The kind of transport, as the service file calls it: 'tftp'.")
    ownPort: bool = Attribute(
        "True: each cast sends from a port of its own (a TFTP transfer ID).  False: from the request port."
    )

    def request(datagram: bytes, peer: Peer, local: Local) -> Request | None:
        """
        Parse a datagram that came to the request port.  It may be called more than once for one datagram.

        @param local: the address that the datagram was sent to; C{local.broadcast}: a broadcast or group address.
        @return: the request; L{None}: the datagram is not of this protocol, and the next dialect at the port is asked.
        @raise WireError: it is malformed; it is counted and not answered.
        @raise Refused: it can be read, and is refused: castd sends what L{refuse} builds.
        """

    def key(request: Request, content: IContent) -> Hashable:
        """
        Return what must be equal for two requests to share a cast.

        @raise Declined: this dialect does not serve the request; the next dialect at the port is asked.
        @raise Refused: the request is refused.
        """

    def fits(request: Request, wire: IWire) -> bool:
        """Return whether a request with an equal key may join the cast of this wire."""

    def sameMachine(request: Request, other: Request) -> bool:
        """
        Find out whether two requests are of one machine that asks again from a new port (Etherboot, iPXE).

        @param request: a new request that joins a cast.
        @param other: that of a member which has sent nothing since; C{True}: the new request takes its place.
        """

    def open(request: Request, content: IContent, context: OpenContext) -> IWire:
        """
        Begin a cast: negotiate options, number the blocks, allocate a group address.

        @param context: the instant, the source of randomness, and the group addresses in use.
        @return: the wire of the new cast.
        @raise Declined: this dialect does not serve the request; the next dialect at the port is asked.
        @raise Refused: the request is refused.
        """

    def uploadReceiver(request: Request) -> ITransferHalf | None:
        """
        Make what receives the upload of a write request (C{request.write}).

        @return: L{None}: this dialect takes no uploads; the next dialect at the port is asked.
        """

    def refuse(request: Request | None, error: Refused) -> bytes | None:
        """
        Build the answer to a request that is refused, or to a peer that belongs to no transfer.

        @param request: L{None}: it could not be read, or there is none.
        @param error: why; C{error.code} and C{error.text} are meant for the client.
        @return: the datagram; L{None}: nothing is sent.
        """


class IExplainedDialect(IDialect):
    """Adds what C{castd explain} tells of a dialect."""

    def opening(name: str) -> bytes | None:
        """
        Return the datagram by which a client of this protocol asks for a file, if it is no request of TFTP's.

        @return: L{None}: a request of TFTP's, or none at all, asks for it.
        """

    def bounds(request: Request) -> Iterable[str]:
        """
        Return what bounds the options that this request is granted, each as C{key: what it bounds}; the key is a path
        within the options of the service file: C{caps[0]: blksize at most 1400}.
        """


# Halves: one side of a transfer that is no cast.


class ITransferHalf(Interface):
    """
    Decides for one side of one transfer: an upload to the server, a download or an upload in the client.  It is pure.

    L{castd.server.half_protocol.HalfProtocol} drives it: C{begin}, then C{receive} for each datagram of the
    peer and C{poll} at each C{deadline}, until there is an C{outcome}.
    """

    outcome: str | None = Attribute("None while the transfer runs, then a word of castd.outcomes.")
    complete: bool = Attribute(
        "True once receive() has returned every octet of the file: stored() is to be called when all are stored."
    )
    size: int | None = Attribute("Octets of the file; None: not known.")

    def begin(now: float) -> list[bytes]:
        """
        Return the datagrams that open the transfer: the OACK or ACK 0 of an upload in the server, the request in the
        client.  The server calls it again if the request was repeated.
        """

    def receive(datagram: bytes, now: float) -> tuple[bytes | OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram of the peer.

        @return: (payload to store or L{None}, datagrams to send).  The payloads are C{bytes} that follow each other; in
            a client each may be an L{OffsetBlock<castd.receive.base.OffsetBlock>} instead, in any order.
        @raise WireError: the datagram cannot be read; it is counted, and the transfer goes on.
        @raise Refused: the transfer is over, and the peer is sent an ERROR of TFTP, whatever the protocol is.
        """

    def stored(now: float) -> list[bytes]:
        """
        Note that every octet is stored.  It is called once, after C{complete}.

        @return: datagrams to send: the last ACK.
        """

    def poll(now: float) -> list[bytes]:
        """
        Find out what to repeat.  C{outcome} is set when the peer was silent for too long.

        @return: datagrams to send.
        """

    def deadline(now: float) -> float | None:
        """Return the instant at which C{poll} is to be called; L{None}: no timer is needed."""


class IWindowHalf(ITransferHalf):
    """Adds what the server needs to grant an upload no larger windows than its socket holds."""

    terms: AgreedOptions = Attribute("The terms that were agreed on.")

    def limitWindow(blocks: int) -> None:
        """Grant windows of so many blocks.  Called before C{begin}."""


class IPredictingHalf(ITransferHalf):
    """
    Adds a short way for the block that a half waits for, which is nearly every datagram of an upload.  A half need not
    provide this.

    What C{advance} does is what C{receive} would have done with that block, and nobody can tell them apart.
    """

    def expected() -> tuple[bytes, int] | None:
        """
        Return which datagram is the next block, and not the last one.

        @return: (its first octets, before the payload; octets of all of it); L{None}: C{receive} has to find out.  It
            holds until the next call of C{receive}, C{advance}, C{stored} or C{begin}.
        """

    def advance(now: float) -> tuple[list[bytes], float]:
        """
        Receive the datagram that is C{expected}, whose payload is to be stored.

        @return: (datagrams to send, the C{deadline} after that).
        """


class IReportingHalf(ITransferHalf):
    """Adds the ERROR of the peer, for the log.  A half need not provide this."""

    error: Error | None = Attribute("The ERROR of the peer that ended the transfer; None: there was none.")


class IClientTransferHalf(ITransferHalf):
    """Adds what the client reports of its side of a transfer."""

    error: Error | None = Attribute("The ERROR of the server that ended the transfer; None: there was none.")
    terms: AgreedOptions | None = Attribute(
        "The block and window size in use, as castd.packets.options.AgreedOptions; None: not known, or there are none."
    )
    blocks: int = Attribute("Different blocks received, or blocks acknowledged by the server.")
    repeats: int = Attribute("How often it has sent something again because a timer expired.")


class IGroupTransferHalf(IClientTransferHalf):
    """Adds what a download needs whose blocks may come from a group."""

    group: tuple[str, int] | None = Attribute(
        "Address and port of the group, or None.  It is joined as soon as it is set, and left when it changes.  With "
        "an empty address nothing is joined, and broadcasts to that port are received."
    )
    tid: Peer | None = Attribute("Address and port of the server.  Set from outside, with its first answer.")

    def receiveFromGroup(datagram: bytes, peer: Peer, now: float) -> tuple[bytes | OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram that was sent to the group.

        @param peer: the sender; anybody can send to a group.
        @return: as L{receive}.
        @raise WireError, Refused: as L{receive}.
        """


# Content, and where it comes from.


class IContent(Interface):
    """
    Reads one opened file.
    """

    name: str = Attribute("The name that a client has asked for.")
    size: int = Attribute("Length of the file in octets.  It does not change while the content is open.")
    version: Hashable = Attribute(
        "Identifies the bytes of the file: equal for two contents only if their bytes are the same, whatever their "
        "names.  castd's own has device, inode, size, and mtime and ctime in ns."
    )

    def read(offset: int, length: int) -> bytes | memoryview:
        """
        Read a part of the file.

        A file that is asked for in netascii is first measured by this: in a thread, unless it is small; nothing else
        reads this content meanwhile, but others of its source may be read.

        @return: exactly C{length} octets from C{offset}; fewer only at the end of the file.
        @raise ContentChanged: the file shrank, was written to, or cannot be read any more.
        """

    def readInto(buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """
        Fill these buffers, one after the other, with the octets of the file from C{offset} on.

        @raise ContentChanged: the file has fewer octets than the buffers, was written to, or cannot be read any more.
        """

    def close() -> None:
        """Close the file.  castd calls this once for each content that a source has returned."""


class IAwaitedContent(IContent):
    """
    Reads one opened file that may have to be waited for, as on a slow disk, without making the reactor wait.

    The methods of L{IContent} wait.
    """

    def readAtHand(buffers: Sequence[bytearray | memoryview], offset: int) -> bool:
        """
        Fill these buffers, as L{IContent.readInto}, if that can be done without waiting.

        @return: C{False}: it cannot, L{fetch} can; what is in the buffers is undefined.
        @raise ContentChanged: as L{IContent.readInto}.
        """

    def fetch(buffers: Sequence[bytearray | memoryview], offset: int) -> Deferred[None]:
        """
        Fill these buffers, as L{IContent.readInto}.  C{close} may be called before the Deferred fires.

        @return: fires when the buffers are filled; fails with ContentChanged.
        """

    def inBackground(function: Callable[[], T]) -> Deferred[T]:
        """Run a function that reads the content as a whole, while the reads of transfers go on."""


class IContentSource(Interface):
    """
    Opens files by the names that clients ask for.
    """

    def lookup(name: str, peer: Peer) -> IContent | Deferred[IContent]:
        """
        Open the file of this name.

        @param name: as the client has asked for it (see L{Request<castd.request.Request>}).
        @param peer: the client that asks.
        @return: the content, or a Deferred of it, which may fail with the same errors.  The caller closes the content.
        @raise NotFound: this source does not have the file; the next source is asked.
        @raise Refused: any other, such as Forbidden or Busy: the request is refused, and no other source is asked.
        """


class Near(NamedTuple):
    """
    Names a file that was probably meant by a request that found none.

    @ivar kind: in what it differs: C{case}; C{prefix}, by its leading directories; C{spaces}, or quotes, around the
        name; C{network}, it is for other clients.
    @ivar name: the name to ask for.
    @ivar source: C{file:line} of its source in the service file; C{""}: L{SourceChain<castd.files.chains.SourceChain>}
        adds it.
    """

    kind: str
    name: str
    source: str = ""


class ILocatingSource(IContentSource):
    """Tells the log where a file was looked for.  A source need not provide this."""

    def locate(name: str, machine: KnownMachine) -> str:
        """Return the path that a name leads to, without a look at the disk; C{""}: it leads to none."""

    def findNear(name: str, machine: KnownMachine) -> Deferred[Near | None]:
        """
        Find a file that was probably meant, as there is none of this name.

        @return: L{None}: none was found, or there was no time to look.  It does not fail.
        """


class INetworkSource(IContentSource):
    """Has files for some networks only."""

    networks: Sequence[AnyNetwork] = Attribute(
        "The networks whose clients it tells apart from others: L{ISite.lookupAny} asks for an address of each part."
    )


class IMachineSource(IContentSource):
    """Has files that depend on the machine that asks, and on more of it than its address."""

    byMachine: bool = Attribute("It needs what has to be found out: MAC, UUID or architecture.  It does not change.")

    def lookupFor(name: str, machine: KnownMachine) -> IContent | Deferred[IContent]:
        """
        Open the file of this name for a machine.  It is called in the place of C{lookup} if C{byMachine} is true.

        @param machine: who asks (C{machine.peer}), and what is known of it: of a value that is L{None} nothing is.  It
            says which file is the right one, and is no proof for access.
        @return: as L{IContentSource.lookup}.
        """


class IScopedSource(IMachineSource):
    """Can tell of many names that no machine has such a file, so that it need not be found out who asks."""

    def mayHave(name: str, peer: Peer) -> bool:
        """
        Return whether some machine may have a file of this name.

        @return: C{False}: C{lookupFor} refuses the name to a client of this address, whatever is known of its machine.
        """


# Machines.


class IMachines(Interface):
    """Knows machines: which MAC, UUID and architecture belong to an address."""

    def hear(mac: str, uuid: str | None, arch: str | None, ip: str | None = None) -> None:
        """
        Note what a machine says of itself, such as by DHCP.  What is malformed is ignored.

        @param mac: six octets in hexadecimal, with colons.
        @param ip: its address, if it has used it; L{None}: not known.
        """

    def machineOf(peer: Peer, server: str | None = None) -> KnownMachine | Deferred[KnownMachine]:
        """
        Find out what is known of the machine of a client, without waiting for long.

        @return: or a Deferred, while the kernel or a lease file is being read; it never fails.
        """

    def machineWith(mac: str | None, peer: Peer, server: str | None = None) -> KnownMachine:
        """Return what is known of the machine with this MAC, which has no address yet."""


# Uploads, and where they go.


class IUpload(Interface):
    """
    Writes one file that is being received.  The file does not appear under its name until it is committed.
    """

    def write(data: bytes) -> Deferred[None] | None:
        """
        Append octets to the file.

        @return: L{None}; or a Deferred: nothing more is to be written before it fires, as the disk is slow.
        @raise Full: no space is left, or the file is larger than an upload may be.  This may concern octets that were
            written before.
        @raise Refused: the disk has failed, or the upload is over.
        """

    def commit() -> Deferred[None]:
        """
        Make the file visible under its name.

        @return: fires when the file is complete, on the disk and in its place; fails with Exists, Full or another
            Refused.
        """

    def abort() -> None:
        """Remove what has been written.  It may be called more than once; after C{commit} it does nothing."""


class IContestedUpload(IUpload):
    """
    Writes a file whose name another upload of the same machine may have: one that has been silent for some seconds, as
    of a client that was started anew.  That one keeps the name until the newer client has shown its address.
    """

    contested: bool = Attribute("Another upload has the name, and nothing can be written before C{claim}.")

    def claim() -> None:
        """
        Take the name: the client has sent a block to a port that only its machine knows.

        @raise Forbidden: another upload has the name, and is not silent.
        """

    def whenReplaced(function: Callable[[], object]) -> None:
        """Have a function called when another upload takes the name, after which this one is over."""


class IContentSink(Interface):
    """
    Begins uploads.
    """

    def begin(name: str, peer: Peer, size: int | None) -> IUpload | Deferred[IUpload]:
        """
        Begin an upload.

        @param name: as asked for (see L{Request<castd.request.Request>}).
        @param peer: the client that writes.
        @param size: octets that the client has announced, or L{None}.
        @return: the upload, perhaps an L{IContestedUpload}; or a Deferred of it, which may fail with the same errors.
        @raise Refused: Forbidden (also while another client uploads that name), Exists, Full, NotFound (no such
            directory).
        """


# The site.


class ISite(Interface):
    """Holds what all transports of a server share."""

    reactor: IReactorTime = Attribute("The reactor.")
    random: Random = Attribute("Where all randomness comes from.")
    pacer: Pacer | None = Attribute("Bounds the octets of all casts together; None: no rate is set.")
    limits: Limits = Attribute("The limits of the service file.")
    timers: Timers = Attribute("The timers of all casts and uploads, on one timer of the reactor.")
    slices: Slices = Attribute("Does long work in slices, so that no datagram waits for it.")
    blockCache: BlockCache = Attribute("The blocks that all casts share, laid out as they go to the kernel.")
    admission: Admission = Attribute("Applies the limits on transfers and ERROR datagrams, of each client and of all.")
    groupPool: GroupPool = Attribute("The group addresses in use.")
    deafMachines: DeafMachines = Attribute("The machines that receive nothing of groups, for all transports.")
    predecessor: IPredecessor | None = Attribute(
        "The process that this one takes over from, while it still serves transfers; None: there is none."
    )
    machines: IMachines = Attribute("What is known of machines.")
    byMachine: bool = Attribute("Some source needs to know the machine that asks: it has files of its own for some.")
    requestPorts: Counter[int] = Attribute("The port numbers that requests come to, each with how many listen at it.")
    ports: IPorts = Attribute("Opens ports.")
    attempts: Attempts = Attribute("What machines have done before, as far as it tells why they fail.")
    showsRequests: bool = Attribute("Each request is logged, at debug level.")
    recorder: Recorder | None = Attribute("Notes the packets of transfers that begin; None: nobody does.")
    profiles: Profiles | None = Attribute("What is done differently for some clients; None: nothing.")
    profileHits: ProfileHits = Attribute("How many requests each profile was applied to.")
    dropped: Counter[str] = Attribute("How many datagrams all request ports have dropped, by reason.")
    observers: list[Callable[[Request], object]] = Attribute(
        "Each is called with every request whose file is looked up, before it is."
    )

    def lookup(request: Request) -> IContent | Deferred[IContent]:
        """
        Apply the access rules, then ask the sources in order.

        @return: the content; or, where it has to be waited for, a Deferred of it, which may fail with the same error.
        @raise Refused: it is refused, or there is none.
        """

    def findNear(request: Request) -> Deferred[Near | None] | None:
        """
        Find a file that was probably meant by a request for which there is none, for the log.

        @return: fires with L{None} if none was found, and does not fail; L{None}: there is no time to look.
        """

    def lookupAny(name: str, networks: Iterable[AnyNetwork], mac: str | None = None) -> Deferred[IContent]:
        """
        Find out whether a client could read a file, of which only the networks are known that it is in.

        @param networks: one address of theirs that is given the file is enough.
        @param mac: the MAC of its machine, for sources that depend on it; L{None}: not known.
        @return: fires with the content, to be closed by the caller; fails with NotFound if the file is not there for
            any of them, and with another Refused if it is there or unknown, but none of them may read it.
        """

    def sink(request: Request) -> IContentSink:
        """
        Apply the access rules, then choose where this upload goes.

        @raise Refused: writes are off, here or for this peer.
        """

    def bar(host: str, name: str, seconds: float, why: str) -> None:
        """
        Let all transports refuse this file to this address for so many seconds; 0: let them serve it again.

        Only requests with options are refused: those of a client that has fallen back from a protocol without options
        to TFTP.  An address is refused for ten seconds at most, and then nothing for five minutes, for what makes a
        transport bar it may be forged.

        @param host: numeric address of the client.
        @param why: the reason, for the log.
        """

    def barred(host: str, name: str) -> str | None:
        """
        Return why this name is refused to this address now; L{None}: it is not.

        Call it for a request only: the ten seconds of L{bar} begin when it first returns a reason.
        """


# Protocols: what receives at a port of castd.


class IPortProtocol(Interface):
    """
    Uses a port of castd.  A Twisted C{DatagramProtocol} has all of these methods but C{peerUnreachable}.
    """

    def makeConnection(transport: Any) -> None:
        """
        Begin to use this port, an L{IDatagramPort}.

        Twisted's own classes declare C{IUDPTransport} here, of which a port of castd has not all.
        """

    def doStop() -> None:
        """Note that the port has been closed."""

    def peerUnreachable(peer: Peer) -> None:
        """Note that the host of this peer reports no open socket at its port (ICMP port unreachable)."""


class IListeningProtocol(IPortProtocol):
    """
    Receives datagrams at a request port.
    """

    def datagramFrom(datagram: bytes, peer: Peer, local: Local) -> None:
        """
        Receive a datagram.

        @param local: the address that it was sent to, and the interface that it came in by.
        """


class ITransferProtocol(IPortProtocol):
    """
    Receives datagrams at a port of its own, for a cast or an upload.
    """

    largest: int = Attribute(
        "Octets of the longest datagram that is to be received whole; a longer one is cut to this."
    )

    def datagramReceived(datagram: bytes, addr: Peer) -> None:
        """Receive a datagram of the port's one peer, or of any address if the port has no peer."""

    def strangerReceived(datagram: bytes, addr: Peer) -> None:
        """Receive a datagram that came to a port with one peer, but from another address."""


# Ports.


class IPorts(Interface):
    """
    Opens ports: on the real network, or on a network of a test.
    """

    def listen(port: int, protocol: IListeningProtocol, interface: str = "") -> IListeningPort:
        """
        Open a port that requests come to, and connect the protocol to it.

        @param interface: the numeric address to bind to; C{""}: the IPv4 wildcard.  C{"255.255.255.255%10.0.0.5"}: only
            broadcasts, and only those that come in by the interface with the address behind the C{%}; other programs
            may have the port beside it.  C{"239.255.66.1%10.0.0.5"}: the same for a group, which is joined.
        @raise CannotListenError: Twisted's: the address cannot be bound.
        """

    def reached(address: str) -> tuple[IPv4Network, ...] | None:
        """
        Return the networks that the interface with this address reaches without a router, if they hold the address.

        @return: L{None}: no interface of this machine has this address.
        """

    def isOurs(interface: str) -> bool:
        """
        Return whether this machine has the address of a port now.  A port stays open when its address is taken away,
        and hears nothing.

        @param interface: as for L{listen}; every machine has the wildcard.
        """

    def windowRoom(blocks: int, octets: int) -> int:
        """Return what L{IDatagramPort.holdWindow} would return at a port that L{openPort} opens."""

    def localFor(interface: str, port: int, client: str) -> Local:
        """
        Return the local address that a client's request would come to.

        @param interface: the address that is asked; C{""} or C{"::"}: the one that this machine sends to the client
            from.
        @param client: numeric address of the client.
        """

    def openPort(
        protocol: ITransferProtocol, local: Local, peer: Peer | None = None, ports: range | None = None
    ) -> IDatagramPort:
        """
        Open a port for one cast or one upload, and connect the protocol to it.  The number of the port is random.

        @param local: C{local.host} is the address to bind to.
        @param peer: the one receiver.  L{None}: the port sends to a group, and receives from every address.
        @param ports: the numbers to choose from; L{None}: those that the system has for this.
        @raise CannotListenError: no number is free.
        """

    idle: int = Attribute("How many ports were opened in advance, with two descriptors each.")

    def readArrived() -> None:
        """Read datagrams that have arrived at the ports, for a bounded time."""

    def boundSockets() -> Sequence[tuple[tuple[str, int], socket.socket, bool]]:
        """
        List the sockets of request ports for a process that is to take over.

        @return: interface and port, the socket, and whether castd has bound it itself, not a supervisor.
        """

    storing: bool = Attribute(
        "Sockets of request ports are kept by the service manager for the process after this one."
    )

    def reconcileStore() -> Iterable[tuple[str, int]]:
        """
        Make the service manager's store hold the sockets of the present request ports, and no others.

        The process that serves calls this once its ports are open, and after each reload.  It also closes inherited
        sockets of the previous process that no transport has asked for, and the ports kept for the next transfers.

        @return: interface and port of the inherited sockets that were closed.
        """

    def freezeStore(frozen: bool) -> None:
        """
        Stop or resume changing the service manager's store when ports are closed.

        @param frozen: C{True}: leave the store as it is.  This is set before the process closes ports whose sockets
            another process is to get.
        """


class IDatagramPort(Interface):
    """
    Sends datagrams for a protocol: like Twisted's C{IUDPTransport}, with a choice of source address, and with bursts.
    """

    def write(datagram: Octets, address: Peer | None = None) -> None:
        """
        Send one datagram.

        @param address: the destination; L{None}: the port's one peer.
        @raise BlockingIOError: the socket is full; nothing was sent.
        @raise OSError: with ENOBUFS or ENOMEM the same, else another error of C{sendto}.
        """

    def writeFrom(datagram: Octets, address: Peer, local: Local) -> None:
        """
        Send one datagram, from the address C{local.host} if the port is bound to the wildcard.

        @raise BlockingIOError, OSError: as L{write}.
        """

    def writeBurst(image: Octets, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        """
        Send several datagrams that are one behind the other in one buffer.

        @param image: the datagrams: each has C{step} octets, the last one may have fewer.
        @param local: as for C{writeFrom}.
        @return: the octets sent, all or a multiple of C{step}: fewer than given if the socket is full.
        @raise OSError: as L{write}, if nothing was sent.
        """

    def burstWriter(step: int, most: int, address: Peer | None = None) -> Callable[[Octets], object]:
        """
        Make a function that sends a buffer, as C{writeBurst(image, step, address)} does.  It may be called until
        something else is sent by the port.

        @param most: octets of the largest buffer that the function will be called with.
        @param address: where to; L{None}: to the port's one peer.
        @return: the function.  It raises OSError if it has not sent the whole buffer; it may have sent a part of it.
        @raise OSError: there is no address, and the port has no peer.
        """

    def holdWindow(blocks: int, octets: int) -> int:
        """
        Make the receive buffer large enough for a window of an upload (RFC 7440), as far as the system allows.

        @param blocks: how many datagrams may arrive at once.
        @param octets: octets of the largest of them, with its headers.
        @return: how many the buffer holds.
        @raise OSError: the system does not tell.
        """

    def readArrived() -> None:
        """Pass the datagrams that have arrived to the protocol, a bounded number of them; some of them may close it."""

    def stopListening() -> Deferred[None] | None:
        """Close the port, and call the protocol's C{doStop}."""

    def getHost() -> IPv4Address | IPv6Address:
        """Return the address that the port is bound to."""

    def setGroup(ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """
        Prepare the port for sending to a group.

        @param ttl: hops that its datagrams may go.
        @param interface: address of the interface to send by; C{""}: the system chooses.
        @param loopback: receivers on this machine also receive what is sent to the group.
        @param broadcast: the group is a broadcast address.
        @raise OSError: the system refuses an option, or has no such interface.
        """


class IListeningPort(IDatagramPort):
    """
    Receives requests.  During an upgrade two processes have its socket, and one of them reads it.
    """

    paused: bool = Attribute("True: this process does not read the port; another process has its socket and reads it.")

    inherited: bool = Attribute("True: it was opened with a socket that the process before this one has, too.")

    def pause(shared: bool) -> None:
        """
        Stop reading the port.  Datagrams stay in the socket until a process reads them; sending goes on as before.

        @param shared: another process is going to send through this socket, too.
        """

    def resume(alone: bool) -> None:
        """
        Read the port again, beginning with the datagrams that have arrived since L{pause}.

        @param alone: no other process has the socket any more.
        """

    def chooseGroup(ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """
        Prepare the port for the group of one cast, as L{setGroup}, unless it is prepared so already.  The casts that
        have no port of their own share this one, and each calls it before it sends.

        @raise OSError: as L{setGroup}.
        """

    def admitReceivers(admit: bool) -> None:
        """
        Let receivers on this machine bind the number of this port to a group's address, if the port is bound to the
        wildcard; without this the system refuses it.

        @param admit: C{False}: let nobody do so any more.
        """

    def probe() -> Deferred[None]:
        """
        Send a datagram from the port to itself, to see whether the port is still read.  The protocol never sees it.

        @return: fires when any datagram is read from the port, and when the port is closed or paused.
        @raise OSError: the datagram cannot be sent now, as while the interface is down: this says nothing of the port.
        """


# What is under way, for those who watch.


class LiveReceiver(NamedTuple):
    """
    Describes the progress of one receiver of a cast, or of the one sender of an upload.

    @ivar peer: address of the receiver.
    @ivar name: name of the file, as the receiver has asked for it.
    @ivar sent: blocks that were sent since its request, repetitions included; for an upload, blocks received.
    @ivar needed: blocks that the receiver needs in all; L{None}: not known.
    @ivar since: the instant of its request.
    """

    peer: Peer
    name: str
    sent: int
    needed: int | None
    since: float


class ILiveTransfer(Interface):
    """Describes one cast or upload that is under way, for C{castd status} and the metrics."""

    name: str = Attribute("Name of the transport, as the service file has it.")
    kind: str = Attribute("'group', 'unicast' or 'upload'.")
    fileName: str = Attribute("Name of the file that is sent or received.")
    group: Group | None = Attribute("Address and port of the group; None: there is no group.")
    size: int | None = Attribute("Octets of the file that is sent; None: not known, such as for an upload.")
    opened: float = Attribute("The instant at which it began.")

    def progress() -> tuple[int, int, int]:
        """Return blocks sent or received so far, how many of them were repetitions, octets of file content in them."""

    def liveReceivers() -> Sequence[LiveReceiver]:
        """Return the receivers of a cast, or the one sender of an upload."""


class MemberMap(NamedTuple):
    """
    Tells which blocks one receiver of a group has.

    @ivar peer: address of the receiver.
    @ivar lacking: how many blocks it lacks by what it has said last.
    @ivar cells: the value of a L{CellState<castd.cast.blockmap.CellState>} for each cell of the file, in order.
    """

    peer: Peer
    lacking: int
    cells: str


class IMappedTransfer(ILiveTransfer):
    """Tells which blocks each receiver of a group has.  A transfer need not provide it."""

    def mapMembers(width: int, most: int) -> Iterable[MemberMap | None]:
        """
        Draw the maps of receivers, in pieces: time may pass from one item to the next.

        @param width: the most cells of each map.
        @param most: the most receivers.
        @return: a map for each receiver, and L{None} where the work may pause; nothing where there is no group.
        """


# Transports.


class ICastTransport(IListeningProtocol):
    """
    Serves the requests of one port.  castd's own is L{Listener<castd.server.listener.Listener>}; an object of another
    class must be a C{DatagramProtocol}, too.
    """

    interface: str = Attribute("Address bound to.")
    port: int = Attribute("Port bound to.")

    def share(other: object) -> bool:
        """
        Take over the dialects of another transport that is configured at this address.  It is called before the port is
        opened.

        @return: C{False}: the two cannot share the address; the service file is refused.
        """

    def casts() -> Iterable[ILiveTransfer]:
        """Return the casts and uploads that are under way, for C{castd status} and the metrics."""

    def become(other: Any) -> None:
        """
        Serve what a newly made transport would serve, from the socket that is open; casts under way go on.

        A reload calls this.  It also ends C{drain}.

        @param other: of the same class, for the same address.
        """

    def drain() -> Deferred[None]:
        """
        Take no new requests.

        @return: fires when the last cast and the last upload have ended.
        """

    def stop() -> Deferred[None] | None:
        """
        End all casts and uploads, and tell their peers so; the port is closed afterwards.

        @return: fires when that is done, as the event loop must not wait for thousands; L{None}: it is done.
        """


# Services: plugins that send no files.


class ConfiguredTransport(NamedTuple):
    """
    One transport of the service file, as a L{IPortService} sees it.

    @ivar name: its name in the service file.
    @ivar kind: the kind of transport, such as C{"tftp"}.
    @ivar options: an instance of the model of this kind.
    """

    name: str
    kind: str
    options: BaseModel


class IServiceFile(Interface):
    """Shows an L{IPortService} what the rest of the service file says, and what is served."""

    transports: Sequence[ConfiguredTransport] = Attribute("The transports, in the order of the file.")

    def size(name: str) -> int | None:
        """
        Look a file up as a client without an address would.

        @return: octets; L{None}: it is not there (yet), or its source answers later.
        """

    def isMissing(name: str, networks: Iterable[AnyNetwork]) -> bool:
        """
        Look a file up as clients of these networks would, whatever the access rules say.

        @return: no client of theirs gets it now; C{False}: one does; or that is not known, as it depends on the machine
            that asks, or a source answers later.
        """

    def readable(name: str, networks: Iterable[AnyNetwork]) -> bool:
        """Return whether the access rules let any address of these networks read a file of this name."""


class ServicePort(NamedTuple):
    """
    One port that an L{IPortService} asks for.

    @ivar host: the address to bind to, as L{IPorts.listen} takes it.
    @ivar required: C{False}: the service works without it; if it cannot be bound, a line in the log says so.
    @ivar remedy: what an operator can do if another program has the port, for the fault.
    """

    host: str
    port: int
    required: bool = True
    remedy: str = ""


class IPortService(Interface):
    """
    Answers datagrams at ports of its own, and sends no files: the second kind of plugin that an L{ITransportMaker}
    makes.  castd opens the ports, keeps them over a reload, hands them over in an upgrade, and closes them.

    It should keep nothing that an answer depends on: after an upgrade another process answers the next datagram.
    """

    ports: Sequence[ServicePort] = Attribute("The ports that it needs, fixed when it is made.")
    counts: Mapping[str, int] = Attribute("Numbers for C{castd status --json}, by name.")

    def configure(file: IServiceFile) -> Iterator[object] | None:
        """
        Look at the rest of the service file.  It is called once, before any port is open: at a start, at a reload and
        by C{castd check}.

        @return: what is still to be done, in steps: a generator that has much to look at lets requests be answered in
            between, while a service that is in force is being replaced.  L{None}: all is done.
        @raise ConfigError: also by a step.  The file cannot be put in force.  A fault may begin with a path of keys and
            a colon, such as C{rules[2].by: ...}, and then gets the line of that value.
            L{Unavailable<castd.errors.Unavailable>}: the file is right, and this machine lacks what it asks for,
            perhaps only now.
        """

    def warnings() -> Iterable[str]:
        """
        Return warnings for C{castd check}, after C{configure}: what is allowed, but is probably a mistake.  Each may
        begin with a path of keys, as a fault of C{configure}.
        """

    def opened(at: ServicePort, port: IListeningPort) -> None:
        """Begin to use one of the ports.  Datagrams are sent through it."""

    def closed(at: ServicePort) -> None:
        """Note that one of the ports was closed, also when others that were wanted with it could not be opened."""

    def datagramFrom(at: ServicePort, datagram: bytes, peer: Peer, local: Local) -> None:
        """Receive a datagram.  An exception is logged as a fault, and the port stays open."""

    def inherit(other: object) -> None:
        """
        Take over from a service of the same class, after a reload.  It is called before C{opened} is, once for each
        port that both have; all that arrives from now on comes to this object.
        """

    def drain() -> Deferred[None]:
        """
        Answer no more datagrams.

        @return: fires when what is being looked up has been answered or given up.
        """

    def stop() -> None:
        """End at once, cancel every timer."""


# Upgrades: the process before this one, and the one after it.


class IUpgradable(Interface):
    """
    Lets the transfers of an L{ICastTransport} on its request port outlive a C{castd upgrade}.

    After C{handOver} another process, the successor, reads the request port.  The datagrams of the peers that are
    served on the request port still come by L{IListeningProtocol.datagramFrom}.  A transport that does not provide this
    interface is drained; what its peers send to the request port goes to the successor.
    """

    def requestPortPeers() -> Iterable[Peer]:
        """Return the peers of casts whose datagrams come to the request port itself."""

    def groups() -> Iterable[Group]:
        """Return the groups that casts send to; a group of two casts comes twice."""

    def handOver(successor: ISuccessor) -> Deferred[None]:
        """
        Begin no cast and no upload any more, and report to the successor about those that are under way.

        A new peer may join a group that is under way; every other request goes to the successor by
        L{ISuccessor.returnRequest}.  If the successor dies, C{become(self)} is called and undoes C{handOver}.

        @return: fires when the last cast and the last upload have ended.
        """


class ISuccessor(Interface):
    """Stands for the process that reads a request port now, for an L{IUpgradable} transport that has handed it over."""

    def peerJoined(peer: Peer) -> None:
        """Report that datagrams of this peer to the request port are for a cast here."""

    def peerLeft(peer: Peer) -> None:
        """Report that datagrams of this peer to the request port are for no cast here any more."""

    def groupEnded(group: Group) -> None:
        """Report that a cast to this group has ended."""

    def returnRequest(datagram: bytes, peer: Peer, local: Local) -> None:
        """Pass on a request that is not served here."""


class IPredecessor(Interface):
    """The process before this one, which still serves some peers on the request ports that are read here."""

    pid: int = Attribute("Its process id.")
    groups: Mapping[Group, int] = Attribute("How many of its casts send to each group; no cast of it begins here.")

    def serves(address: tuple[str, int], peer: Peer) -> bool:
        """Return whether what this peer sends to the request port at this address is for the predecessor."""

    def forward(address: tuple[str, int], datagram: bytes, peer: Peer, local: Local) -> None:
        """Pass a datagram on that came to the request port at this address."""

    def forwardUnreachable(address: tuple[str, int], peer: Peer) -> None:
        """Pass on that the host of this peer reports its port as closed."""

    def joinGroup(address: tuple[str, int], group: Group, datagram: bytes, peer: Peer, local: Local) -> None:
        """Have a request served by a group of the predecessor, or here once that group has ended."""

    def ended() -> Deferred[None]:
        """Return a Deferred that fires when the predecessor has ended."""


# Makers of transports, services and content sources.


class ITransportMaker(Interface):
    """
    Makes the transports of one kind.  A plugin announces it in C{castd/plugins/} or by an entry point;
    L{castd.config.plugin.collect} finds it.
    """

    name: str = Attribute("The kind of transport, as the service file calls it.")
    description: str = Attribute("One line for 'castd plugins'.")
    options: type[BaseModel] = Attribute(
        "A frozen model, mostly a subclass of castd.options.ListenOptions, or of Settings for an IPortService."
    )

    def makeTransport(name: str, options: Any, site: ISite) -> ICastTransport | IPortService:
        """
        Make a transport, or a service.  It opens no socket: castd calls L{IPorts.listen} for it later.

        @param name: name of this transport in the service file, for logs and metrics.
        @param options: an instance of the model in the attribute C{options}.
        @raise ConfigError: these options cannot work together.
        """


class IContentSourceMaker(Interface):
    """
    Makes the content sources of one kind.  A plugin announces it in C{castd/plugins/} or by an entry point;
    L{castd.config.plugin.collect} finds it.
    """

    name: str = Attribute("The kind of source, as the service file calls it.")
    description: str = Attribute("One line for 'castd plugins'.")
    options: type[BaseModel] = Attribute("A frozen model, mostly a subclass of castd.options.Settings.")

    def makeSource(options: Any, site: ISite) -> IContentSource:
        """
        Make and open a source.

        @param options: an instance of the model in the attribute C{options}.
        @raise ConfigError: a source cannot be opened with these options.
        """
