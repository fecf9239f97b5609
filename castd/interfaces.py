"""
Every seam of castd, in one file.

The author of a transport meets four of them: L{ITransportMaker}, L{IDialect}, L{IWire} and L{IContent}.  Who needs
another socket life than one listener with its casts returns a C{DatagramProtocol} that provides L{ICastTransport}
himself.

Shapes used throughout: a I{peer} is what the socket says, C{(host, port)} or C{(host, port, flow, scope)}; an
I{instant} is C{reactor.seconds()}, a float of seconds; I{numbers} of blocks count from 0; I{ranges} is a tuple of
C{range} with step 1.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from random import Random

    from pydantic import BaseModel
    from twisted.internet.address import IPv4Address, IPv6Address
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

    from castd.cast.events import Action, Event, Leave, NewRequest, PeerState, Ranges, RequestBlocks
    from castd.cast.policy import RetransmitPolicy
    from castd.errors import Refused
    from castd.group_pool import Group, GroupPool, OpenContext
    from castd.net.timers import Timers
    from castd.options import Limits
    from castd.pacing import Pacer, RateLimit
    from castd.packets.options import AgreedOptions
    from castd.packets.tftp import Error
    from castd.receive.base import OffsetBlock
    from castd.request import Local, Peer, Request
    from castd.server.admission import Admission
    from castd.server.blockcache import BlockCache

#: What can be sent, or read from a content, without being copied first.
Octets: TypeAlias = bytes | bytearray | memoryview

# mypy-zope reads the method signatures below; zope.interface methods have no self.
# ruff: noqa: N805


class ICast(Interface):
    """One delivery of one content to a changing audience: numbers and peers only, never a byte, a socket or a clock."""

    highestSent: int = Attribute("The highest block number that was ever sent; -1 before the first.")

    def join(peer: Peer, now: float, wants: Ranges = (), instead: Peer | None = None) -> None:
        """
        Add a receiver that has sent a request, or answer a member that has sent it again.

        @param wants: the blocks that its request already asks for; C{()} if the receiver will say.
        @param instead: the member it takes the place of: the same machine, asking from a new port.
        """

    def hear(peer: Peer, event: Event, now: float) -> None:
        """
        Take what a receiver has said; ignore it if the receiver is no member.

        @param event: L{RequestBlocks<castd.cast.events.RequestBlocks>} or L{Leave<castd.cast.events.Leave>}.
        """

    def peerState(peer: Peer) -> PeerState | None:
        """-> the L{PeerState<castd.cast.events.PeerState>} of a member, L{None} for a stranger."""

    def poll(now: float) -> Action | None:
        """
        Give out the next action that is due; announcements and farewells come before blocks.

        @return: L{Announce<castd.cast.events.Announce>}, L{SendBlocks<castd.cast.events.SendBlocks>},
            L{Left<castd.cast.events.Left>}, L{Bar<castd.cast.events.Bar>}, or L{None} if nothing is due.
        """

    def deadline(now: float) -> float | None:
        """
        Find out when to poll again, if nothing is heard before.

        A cast without members that still has a deadline lingers: it may be joined until then.

        @return: an instant; L{None}: only when something arrives.
        """

    def burstDelayed(now: float) -> None:
        """Take note that the last burst has left only now: it waited for the pacer or for a full socket."""

    def heard(peer: Peer) -> bool:
        """-> whether this member has said anything since its request."""

    def memberCount() -> int:
        """-> how many receivers there are."""

    def statistics() -> Mapping[str, int]:
        """-> counters of this cast by name, for the event of its end; names of its own choice, or none at all."""


class IPaced(ICast):
    """A cast that judges from what its receivers say how fast they can be sent to."""

    pace: float = Attribute("The part of the configured rate at which it is to send, above 0, at most 1.")


class IWire(Interface):
    """
    Translates between one cast and the network: datagrams to events, actions to datagrams.

    It is pure, and remembers nothing of peers.
    """

    blocksize: int = Attribute("Octets of content in a full block; what a block costs the pacer.")
    count: int | None = Attribute("How many blocks the content has; None for a code, which never ends.")
    headers: Hashable = Attribute("Equal only for wires of one block size whose header() agrees for every number.")
    cast: Callable[[RetransmitPolicy, int | None], ICast] = Attribute("Makes the cast, from the policy and the count.")
    group: tuple[str, int] | None = Attribute("Address and port that all data goes to; None: to the receiver itself.")
    policy: RetransmitPolicy = Attribute("When this cast repeats what was not answered, and when it gives up.")
    stride: int = Attribute("Blocks that one answer of a receiver in step asks for; 0: C{ahead} is not to be asked.")
    reuseDelay: float = Attribute(
        "Seconds after the last cast of a group of the service file before another file may be sent to that group."
    )

    def first(request: Request) -> Ranges:
        """-> the ranges that the request itself asks for; C{()} if the receiver will say."""

    def receive(datagram: bytes, peer: Peer, peerState: PeerState | None) -> RequestBlocks | Leave | NewRequest | None:
        """
        Parse a datagram that arrived at the cast's port.

        @param peerState: of the peer that sent it; L{None}: it is no member of the cast.
        @return: RequestBlocks, Leave or NewRequest (it is a request: read it as one); L{None}: it is to be ignored.
        @raise WireError: it cannot be read.
        @raise UnknownPeer: no member sent it, and is to be told so with an ERROR 5 (RFC 1350 section 4).
        """

    def announce(request: Request, master: bool, heard: bool) -> Iterable[tuple[bytes, Peer]]:
        """
        Tell a receiver that it is in, such as by an OACK.

        @param master: it has the turn.
        @param heard: it has answered before.
        @return: datagrams, each with its address.
        """

    def farewell(request: Request, outcome: str) -> Iterable[tuple[bytes, Peer]]:
        """
        Tell a receiver that its part has ended: mostly nothing; an ERROR 0 if the file changed or the server stops.

        @param outcome: one of L{castd.outcomes}.
        @return: datagrams, each with its address.
        """

    def header(number: int) -> bytes:
        """-> the bytes before the payload of this block."""

    def payload(number: int) -> bytes | None:
        """
        -> the bytes of this block, for a wire whose blocks are not slices of the content (a code); L{None}: they are.
        """

    def address(peer: Peer) -> Peer:
        """-> the address that blocks for this peer go to: the group, or the peer itself."""

    def ahead(stop: int) -> tuple[bytes, int] | None:
        """
        Foresee what a receiver in step will answer, so that its datagram need not be read (L{castd.server.fastpath}).

        It depends on nothing but C{headers}, C{stride} and C{count}.  Only wires with one receiver can tell.

        @param stop: the receiver has all blocks before this number; 0: it has been sent an OACK.
        @return: the exact datagram, and the number after the blocks that it asks for: C{stride} of them, fewer at the
            end of the file.  L{None}: its answer must be read.
        """

    def close(now: float) -> None:
        """Give the group address back, since the cast has ended."""


class IGroupWire(IWire):
    """The wire of a group whose members may turn out not to hear it."""

    broadcast: bool = Attribute("The group is a subnet's broadcast address.")
    pacer: RateLimit | None = Attribute(
        "Bounds all groups that share a way, such as those of one subnet; None: there is no such bound."
    )

    def unicastAddress(peer: Peer) -> Peer:
        """-> the address that data goes to for a member that turned out to hear no group data."""


class IDialect(Interface):
    """
    Speaks one protocol as it is configured: reads requests, decides who may share a cast, and begins casts.

    It is pure.
    """

    name: str = Attribute("The kind, as the service file calls it: 'tftp'.")
    ownPort: bool = Attribute("True: each cast speaks from a port of its own (a TFTP transfer id).")

    def request(datagram: bytes, peer: Peer, local: Local) -> Request | None:
        """
        Read a datagram at the request port.

        @return: the request; L{None}: it is none of this protocol, the next dialect is asked.
        @raise WireError: it is malformed; there is no answer.
        @raise Refused: it is readable, and refused.
        """

    def key(request: Request, content: IContent) -> Hashable:
        """-> what must be equal for two requests to share a cast."""

    def fits(request: Request, wire: IWire) -> bool:
        """-> whether a request with an equal key may join the cast of this wire."""

    def same(request: Request, other: Request) -> bool:
        """-> whether it is the same machine, asking again from a new port (Etherboot, iPXE)."""

    def open(request: Request, content: IContent, context: OpenContext) -> IWire:
        """
        Begin a cast: negotiate options, number the blocks, take a group address.

        @param context: the instant, randomness, and the group addresses in use.
        @raise Declined: not here after all; the next dialect is asked.
        """

    def uploadReceiver(request: Request) -> ITransferHalf | None:
        """
        -> what receives the upload of a write request; L{None}: this dialect has no writes.
        """

    def refuse(request: Request | None, error: Refused) -> bytes | None:
        """
        Build the answer to a request that is refused.

        @param request: L{None}: it could not be read.
        @return: the datagram; L{None}: there is no answer.
        """


class ITransferHalf(Interface):
    """
    One side of one transfer: an upload here, a download or an upload in the client.  Pure.

    L{castd.server.half_protocol.HalfProtocol} drives it: C{begin}, then C{receive} for each datagram of the
    peer and C{poll} at each C{deadline}, until there is an C{outcome}.
    """

    outcome: str | None = Attribute("None while it runs, then a word of castd.outcomes.")
    complete: bool = Attribute(
        "True once every octet has been handed out and what remains is to store them: call stored()."
    )
    size: int | None = Attribute("Octets of the file; None: not known.")

    def begin(now: float) -> list[bytes]:
        """-> datagrams that open it: OACK or ACK 0 of an upload here, the request of a client."""

    def receive(datagram: bytes, now: float) -> tuple[bytes | OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram of the peer.

        @return: (payload to store or L{None}, datagrams to send).  The payloads are C{bytes} that follow each other; in
            a client each may be an L{OffsetBlock<castd.receive.base.OffsetBlock>} instead, in any order.
        @raise WireError: it cannot be read; it is counted, and the transfer goes on.
        @raise Refused: the peer is told so, and the transfer is over.
        """

    def stored(now: float) -> list[bytes]:
        """Note that everything is stored, once it is C{complete}.  -> datagrams to send: the last ACK."""

    def poll(now: float) -> list[bytes]:
        """-> datagrams to repeat now.  Sets C{outcome} when the peer was silent for too long."""

    def deadline(now: float) -> float | None:
        """-> the instant to poll again at, or L{None}: nothing is waited for."""


class IClientTransferHalf(ITransferHalf):
    """The client's side of a transfer: what it reports, beside what it decides."""

    error: Error | None = Attribute("The server's ERROR (castd.packets.tftp.Error), if that was the end; or None.")
    terms: AgreedOptions | None = Attribute(
        "The block and window size in use, as castd.packets.options.AgreedOptions; None: not known, or there are none."
    )
    blocks: int = Attribute("Different blocks received, or blocks acknowledged by the server.")
    repeats: int = Attribute("How often a timer made it send something again.")


class IGroupTransferHalf(IClientTransferHalf):
    """The client's side of a read whose blocks may come from a group."""

    group: tuple[str, int] | None = Attribute(
        "Address and port of the group, or None.  It is joined as soon as it is set, and left when it changes.  With "
        "an empty address nothing is joined, and broadcasts to that port are received."
    )
    tid: Peer | None = Attribute("Address and port of the server.  Set from outside, with its first answer.")

    def receiveFromGroup(datagram: bytes, peer: Peer, now: float) -> tuple[bytes | OffsetBlock | None, list[bytes]]:
        """
        Receive a datagram that was sent to the group.

        @param peer: who sent it: anybody can.
        @return: as L{receive}.
        @raise WireError, Refused: as L{receive}.
        """


class IContent(Interface):
    """
    An opened file.
    """

    name: str = Attribute("The name that it was asked for by.")
    size: int = Attribute("Its length in octets.")
    version: Hashable = Attribute(
        "Equal only for the same bytes (device, inode, size, mtime in ns), whatever the name."
    )

    def read(offset: int, length: int) -> bytes | memoryview:
        """
        Read a part of the file.

        @return: exactly C{length} octets from C{offset}; fewer only at the end of the file.
        @raise ContentChanged: the file shrank or cannot be read any more.
        """

    def readInto(buffers: Sequence[bytearray | memoryview], offset: int) -> None:
        """
        Fill these buffers one after the other with what the file has from C{offset} on, by one C{preadv}.

        @raise ContentChanged: fewer octets are there than the buffers hold.
        """

    def close() -> None:
        """Close the file.  Whoever was given it calls this once."""


class IContentSource(Interface):
    """
    Opens files by the names that clients ask for.
    """

    def lookup(name: str, peer: Peer) -> IContent | Deferred[IContent]:
        """
        Open the file of this name.

        @param name: as asked for (see L{Request<castd.request.Request>}).
        @param peer: the client that asks.
        @return: L{IContent}, or a Deferred of one.
        @raise NotFound: this source does not have the file; the next source is asked.
        @raise Forbidden: no source shall be asked for it any more.
        """


class IContentSourceMaker(Interface):
    """
    A plugin that makes content sources: announced in C{castd/plugins/} or by an entry point, found by
    L{castd.config.plugin.collect}.
    """

    name: str = Attribute("The kind of source, as the service file calls it.")
    description: str = Attribute("One line for 'castd plugins'.")
    options: type[BaseModel] = Attribute("A frozen model, mostly a subclass of castd.options.Settings.")

    def makeSource(options: Any, site: ISite) -> IContentSource:
        """
        Open a source.

        @param options: an instance of C{options}.
        @raise ConfigError: with these options it cannot be had.
        """


class IUpload(Interface):
    """
    A file that is being received.  Nothing of it can be seen under its name until it is committed.
    """

    def write(data: bytes) -> None:
        """
        Append octets to the file.

        @raise Full: no space is left, or the file is larger than an upload may be.
        """

    def commit() -> Deferred[None]:
        """
        Make the file visible under its name.

        @return: fires when the file is complete, on the disk and in its place; fails with Exists, Full or another
            Refused.
        """

    def abort() -> None:
        """Remove what has been written.  This may be called at any time before C{commit}, more than once."""


class IContentSink(Interface):
    """
    Takes uploads.
    """

    def begin(name: str, peer: Peer, size: int | None) -> IUpload:
        """
        Begin an upload.

        @param name: as asked for (see L{Request<castd.request.Request>}).
        @param peer: the client that writes.
        @param size: octets announced, or L{None}.
        @raise Refused: Forbidden, Exists, Full, NotFound (no such directory), Busy (another upload of that name).
        """


class ISite(Interface):
    """Holds what all transports of a server share."""

    reactor: IReactorTime = Attribute("The reactor.")
    random: Random = Attribute("Where all randomness comes from.")
    pacer: Pacer | None = Attribute("Bounds the octets of all casts together; None: no rate is set.")
    limits: Limits = Attribute("The limits of the service file.")
    timers: Timers = Attribute("One timer of the reactor for all casts.")
    blockCache: BlockCache = Attribute("The blocks that all casts share, laid out as they go to the kernel.")
    admission: Admission = Attribute("Who may have how much.")
    groupPool: GroupPool = Attribute("The group addresses in use.")
    predecessor: IPredecessor | None = Attribute(
        "The process that this one takes over from, while it still serves somebody; None: there is none."
    )
    requestPorts: Counter[int] = Attribute("The port numbers that requests come to, each with how many listen at it.")
    ports: IPorts = Attribute("Where ports come from.")

    def lookup(request: Request) -> Deferred[IContent]:
        """
        Apply the access rules, then ask the sources in order.

        @return: fires with the content; fails with Refused.
        """

    def sink(request: Request) -> IContentSink:
        """
        Apply the access rules, then choose where this upload goes.

        @raise Refused: writes are off, here or for this peer.
        """

    def bar(host: str, name: str, seconds: float, why: str) -> None:
        """
        Let all transports refuse this name to this address for so long; 0 ends that.

        Only requests with options are refused: they are of a client that has given up the protocol that warned.
        """

    def barred(host: str, name: str) -> str | None:
        """-> why this name is refused to this address; L{None}: it is not."""


class IPortProtocol(Interface):
    """
    What a protocol at a port of castd provides.  A Twisted C{DatagramProtocol} has all of it but C{peerUnreachable}.
    """

    def makeConnection(transport: Any) -> None:
        """
        Begin to use this port, an L{IDatagramPort}.

        Twisted's own classes declare C{IUDPTransport} here, of which a port of castd has not all.
        """

    def doStop() -> None:
        """The port has been closed."""

    def peerUnreachable(peer: Peer) -> None:
        """The host of this peer reports that no socket is open there (ICMP port unreachable)."""


class IListeningProtocol(IPortProtocol):
    """
    A protocol at a port that requests come to.
    """

    def datagramFrom(datagram: bytes, peer: Peer, local: Local) -> None:
        """
        A datagram has arrived.

        @param local: the address that it was sent to, and the interface that it came in by.
        """


class ITransferProtocol(IPortProtocol):
    """
    A protocol at a port of its own: a cast or an upload.
    """

    largest: int = Attribute(
        "Octets of the longest datagram that is to be received whole; a longer one is cut to this."
    )

    def datagramReceived(datagram: bytes, addr: Peer) -> None:
        """A datagram has arrived: from the port's one peer, or from anybody if the port has none."""

    def strangerReceived(datagram: bytes, addr: Peer) -> None:
        """A datagram has arrived at a port with one peer, but from another address."""


class IPorts(Interface):
    """
    Opens ports: on the real network, or on a network of a test.
    """

    def listen(port: int, protocol: IListeningProtocol, interface: str = "") -> IListeningPort:
        """
        Open a port that requests come to, and connect the protocol to it.

        @param interface: the numeric address to bind to; C{""}: all of them (IPv4).
        @raise CannotListenError: as Twisted's.
        """

    def openPort(
        protocol: ITransferProtocol, local: Local, peer: Peer | None = None, ports: range | None = None
    ) -> IDatagramPort:
        """
        Open a port for one cast or one upload, and connect the protocol to it.  Its number is drawn at random.

        @param local: C{local.host} is the address to bind to.
        @param peer: the one receiver.  L{None}: the port sends to a group, and hears everybody.
        @param ports: the numbers to choose from; L{None}: those that the system has for this.
        @raise CannotListenError: no number is free.
        """

    idle: int = Attribute("How many ports wait for the next transfer, with two descriptors each.")

    def readArrived() -> None:
        """Read what has arrived at the ports, within the bounds of one visit."""

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
        Let the service manager's store hold the sockets of the present request ports, and no others.

        The process that serves calls this once its ports are open, and after each reload.  It also closes what the
        process before has left and nobody has asked for, and the ports that wait for the next transfer.

        @return: interface and port of the sockets that the process before had and that nobody has asked for.
        """

    def freezeStore(frozen: bool) -> None:
        """
        Leave the service manager's store as it is from now on, whatever port is closed; or maintain it again.

        @param frozen: C{True} before this process closes its ports and another one is to have their sockets.
        """


class IDatagramPort(Interface):
    """
    The transport of a protocol: as Twisted's C{IUDPTransport}, with a source address and with bursts.
    """

    def write(datagram: Octets, address: Peer | None = None) -> None:
        """
        Send one datagram.

        @param address: L{None}: the port's one peer.
        @raise BlockingIOError: the socket is full; nothing was sent.  Also OSError with ENOBUFS.
        """

    def writeFrom(datagram: Octets, address: Peer, local: Local) -> None:
        """Send one datagram from C{local.host}, where the port is bound to all addresses of the machine."""

    def writeBurst(image: Octets, step: int, address: Peer | None = None, local: Local | None = None) -> int:
        """
        Send datagrams that lie one behind the other in one buffer, all of C{step} octets but the last.

        @param local: as for C{writeFrom}.
        @return: the octets taken by the socket, a multiple of C{step} or all: fewer than given if it is full.
        """

    def burstWriter(step: int, most: int) -> Callable[[Octets], object]:
        """
        Make a function that sends an image to the port's one peer, as C{writeBurst(image, step)} would, or fails.

        The function raises OSError if not all of the image was sent; a part of it may be on its way then.

        @param most: octets of the largest image that it will be given.
        """

    def stopListening() -> Deferred[None] | None:
        """Close the port."""

    def getHost() -> IPv4Address | IPv6Address:
        """-> the address that the port is bound to."""

    def setGroup(ttl: int, interface: str, loopback: bool, broadcast: bool) -> None:
        """
        Prepare the port for sending to a group.

        @param ttl: hops that its datagrams may go.
        @param interface: address of the interface to send by; C{""}: the system chooses.
        @param loopback: receivers on this machine hear the group, too.
        @param broadcast: the group is a broadcast address.
        """


class IListeningPort(IDatagramPort):
    """
    A port that requests come to.  Two processes may have its socket during an upgrade; one of them reads it.
    """

    paused: bool = Attribute("This process does not read the port: another process has its socket, too, and reads it.")

    def pause(shared: bool) -> None:
        """
        Stop reading.  What arrives waits in the socket for whoever reads next; sending goes on as before.

        @param shared: another process is going to send through this socket, too.
        """

    def resume(alone: bool) -> None:
        """
        Read again, first of all what has been waiting.

        @param alone: no other process has the socket any more.
        """

    def probe() -> Deferred[None]:
        """
        Send a datagram from the port to itself, to see whether the port is still read.  The protocol never sees it.

        @return: fires when anything that was sent to the port is read, and when the port is closed or paused.
        @raise OSError: the datagram cannot be sent now, as while the interface is down: nothing is known of the port.
        """


class LiveReceiver(NamedTuple):
    """
    How far one receiver of a cast has come, or the one sender of an upload.

    @ivar peer: its address.
    @ivar name: the file name as it asked for it.
    @ivar sent: blocks that were sent since it asked, repetitions included; for an upload, blocks received.
    @ivar needed: blocks that it needs in all; L{None}: not known.
    @ivar since: the instant it asked.
    """

    peer: Peer
    name: str
    sent: int
    needed: int | None
    since: float


class ILiveTransfer(Interface):
    """One cast or upload that is under way, as C{castd status} and the metrics show it."""

    name: str = Attribute("Name of the transport, as the service file has it.")
    kind: str = Attribute("'group', 'unicast' or 'upload'.")
    fileName: str = Attribute("Name of the file that is sent or received.")
    group: Group | None = Attribute("Address and port of the group; None: there is no group.")
    size: int | None = Attribute("Octets of the file that is sent; None: not known, such as for an upload.")
    opened: float = Attribute("The instant it began.")

    def progress() -> tuple[int, int, int]:
        """-> blocks sent or received so far, how many of them were repetitions, octets of file content in them."""

    def liveReceivers() -> Sequence[LiveReceiver]:
        """-> the receivers of a cast, or the one sender of an upload."""


class ICastTransport(IListeningProtocol):
    """
    Serves the requests of one port.  castd's own is L{Listener<castd.server.listener.Listener>}; an object of another
    class must be a C{DatagramProtocol}, too.
    """

    interface: str = Attribute("Address bound to.")
    port: int = Attribute("Port bound to.")

    def share(other: object) -> bool:
        """
        Take over the dialects of another transport that is configured at this address.

        @return: False: it cannot be shared with that one.
        """

    def casts() -> Iterable[ILiveTransfer]:
        """-> the casts and uploads that are under way, for C{castd status} and the metrics."""

    def become(other: Any) -> None:
        """
        Serve from now on what the freshly made C{other} would, from this very socket; also while draining.

        @param other: of the same class, for the same address.
        """

    def drain() -> Deferred[None]:
        """Take no new requests.  -> fires when the last cast has ended."""

    def stop() -> None:
        """Tell the receivers, and end all casts."""

    def datagramFrom(datagram: bytes, peer: Peer, local: Local) -> None:
        """Take a datagram that has come to the request port; C{local} is the address that it was sent to."""

    def peerUnreachable(peer: Peer) -> None:
        """Take note that the host of this peer says that its port is closed."""


class IUpgradable(Interface):
    """
    Provided by an L{ICastTransport} whose transfers on the request port outlive a C{castd upgrade}.

    After C{handOver} another process, the successor, reads the request port.  The datagrams of the peers that are
    served on the request port still come by L{ICastTransport.datagramFrom}.  A transport that does not provide this
    interface is drained; what its peers send to the request port goes to the successor.
    """

    def requestPortPeers() -> Iterable[Peer]:
        """-> the peers of casts whose datagrams come to the request port itself."""

    def groups() -> Iterable[Group]:
        """-> the groups that casts send to; a group of two casts comes twice."""

    def handOver(successor: ISuccessor) -> Deferred[None]:
        """
        Begin no cast and no upload any more, and tell the successor about those that are under way.

        A peer that asks may join a group that is under way; every other request goes to the successor by
        L{ISuccessor.returnRequest}.  C{become(self)} revokes all this: the successor has died.

        @return: fires when the last cast has ended.
        """


class ISuccessor(Interface):
    """The process that reads a request port now, as an L{IUpgradable} transport sees it."""

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
        """-> whether what this peer sends to the request port at this address is for the predecessor."""

    def forward(address: tuple[str, int], datagram: bytes, peer: Peer, local: Local) -> None:
        """Pass a datagram on that came to the request port at this address."""

    def forwardUnreachable(address: tuple[str, int], peer: Peer) -> None:
        """Pass on that the host of this peer reports its port as closed."""

    def joinGroup(address: tuple[str, int], group: Group, datagram: bytes, peer: Peer, local: Local) -> None:
        """Have a request served by a group of the predecessor, or here once that group has ended."""

    def ended() -> Deferred[None]:
        """-> fires when the predecessor has ended."""


class ITransportMaker(Interface):
    """
    A plugin that makes transports: announced in C{castd/plugins/} or by an entry point, found by
    L{castd.config.plugin.collect}.
    """

    name: str = Attribute("The kind of transport, as the service file calls it.")
    description: str = Attribute("One line for 'castd plugins'.")
    options: type[BaseModel] = Attribute("A frozen model, mostly a subclass of castd.options.ListenOptions.")

    def makeTransport(name: str, options: Any, site: ISite) -> ICastTransport:
        """
        Make a transport; no socket is opened yet.

        @param name: of this transport in the service file, for logs and metrics.
        @param options: an instance of C{options}.
        @raise ConfigError: these options cannot work together.
        """
