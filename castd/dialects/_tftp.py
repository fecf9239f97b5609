"""
Read requests and acknowledgements of the TFTP family: RRQ asks for a file, ACK n for what follows block n; ERROR ends
the transfer.

Inside castd blocks count from 0, so TFTP's block n is number n - 1 here, and ACK n asks for number n.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol, TypeVar, runtime_checkable

from pydantic import Field

from castd import outcomes
from castd.cast.events import Leave, NewRequest, PeerState, RequestBlocks
from castd.errors import Refused, UnknownPeer, Unsupported, WireError
from castd.networks import ClientRules, isWithin
from castd.options import AnyNetwork, Clients, Settings
from castd.packets import tftp
from castd.request import Local, Peer, Request

#: The ACK of every number, built in advance: on the fast path each datagram of a receiver is compared with one of
#: these.
ACKS = [tftp.buildAck(number) for number in range(0x10000)]
#: What the last ACK says.
DONE = Leave(outcomes.DONE)
#: Names of modes; C{binary} is RFC 783's and RFC 1784's word for octet.
_MODES = {"octet": "octet", "binary": "octet", "netascii": "netascii"}


def readRequest(datagram: bytes, peer: Peer, local: Local) -> Request | None:
    """
    Read an RRQ or WRQ.

    @return: the request; L{None} for anything else, which is never answered at a request port.
    @raise WireError: shorter than an opcode.
    @raise Unsupported: malformed, or an unknown mode (C{mail} is obsolete since RFC 1350).
    """
    parsed = tftp.parseRequest(datagram)
    if parsed is None:
        return None
    mode = _MODES.get(parsed.mode.lower())
    if mode is None:
        raise Unsupported("Unsupported mode")
    return Request(peer, local, parsed.name, mode, parsed.write, parsed.options, sentMode=parsed.mode)


def refuse(error: Refused) -> bytes:
    """Return the ERROR with the code and text of a refusal."""
    return tftp.buildError(error.code, error.text)


def unfragmented(local: Local, header: int = 4) -> int:
    """
    Find the size of the largest block whose datagram the interface of the request sends unfragmented, as many boot ROMs
    cannot reassemble fragments.

    @param header: octets before the payload in a DATA packet.
    @return: octets of the block, at least 512.
    """
    return max(512, local.mtu - (40 if ":" in local.host else 20) - 8 - header)


class GroupCap(Settings):
    """A block size that is not exceeded for some clients, since larger blocks do not reach them."""

    clients: Clients = Field(description="networks of those clients")
    blksize: int = Field(ge=8, le=65464, description="largest block size granted to them")


class BlockCap(Protocol):
    """Describes what is read of a cap on the block size; L{None}: there is none."""

    @property
    def clients(self) -> tuple[IPv4Network | IPv6Network, ...]: ...
    @property
    def blksize(self) -> int | None: ...


AnyCap = TypeVar("AnyCap", bound=BlockCap)


def capsByClient(caps: Iterable[AnyCap]) -> ClientRules[AnyCap]:
    """Return the caps so that those of a client are found."""
    return ClientRules((cap.clients, cap) for cap in caps)


def cappedBlksize(largest: int, caps: Iterable[tuple[int, BlockCap]]) -> int:
    """
    Find the largest block size to grant to a client: the least of its caps and of what is granted to all.

    @param largest: octets granted to all.
    @param caps: those of the client, each with its number.
    """
    return min([largest, *(cap.blksize for _, cap in caps if cap.blksize is not None)])


def blksizeBounds(
    local: Local, blksize: int | None, caps: Iterable[tuple[int, BlockCap]], header: int = 4
) -> Iterator[str]:
    """
    Return what bounds the block size of a client, as L{IExplainedDialect.bounds
    <castd.interfaces.IExplainedDialect.bounds>}.

    @param blksize: the option of that name; L{None}: what the interface carries in one piece.
    @param caps: those of the client, each with its number in the service file.
    @param header: as for L{unfragmented}.
    """
    if blksize is None:
        yield f"interface: its MTU of {local.mtu} carries blocks of {unfragmented(local, header)} octets in one piece"
    else:
        yield f"blksize: at most {blksize} octets"
    for number, cap in caps:
        if cap.blksize is not None:
            yield f"caps[{number}]: blocks of at most {cap.blksize} octets for this client"


def idleCaps(largest: int | None, caps: Iterable[BlockCap]) -> Iterator[str]:
    """Return a warning for each cap that changes nothing, as no client is granted more than C{largest} octets."""
    for cap in caps:
        if largest is not None and cap.blksize is not None and cap.blksize >= largest:
            yield f"caps: a blksize of {cap.blksize} changes nothing: blksize is {largest} for all"


@runtime_checkable
class CappedBlocks(Protocol):
    """Describes options that bound the block size; L{None}: the MTU does."""

    @property
    def blksize(self) -> int | None: ...
    @property
    def caps(self) -> Sequence[BlockCap]: ...


def largerBlocks(
    blksize: int | None,
    caps: Sequence[BlockCap],
    clients: Sequence[AnyNetwork] | None,
    others: Iterable[tuple[str, object]],
) -> Iterator[str]:
    """
    Return a warning for each network whose clients get larger blocks by a group than by another transport at the same
    address: what has to be small there by unicast has to be so in a group.

    @param blksize, caps: those of the group transport.
    @param clients: networks whose clients may join groups; L{None}: it is not known.
    @param others: (name, options) of the other transports.
    """
    for name, options in others:
        if not isinstance(options, CappedBlocks):
            continue
        bounds = [(cap.clients, cap.blksize) for cap in options.caps] + [(_EVERYBODY, options.blksize)]
        for networks, most in bounds:
            for network in networks if most is not None else ():
                granted = _mostGranted(network, blksize, caps)
                joins = clients is None or any(
                    each.version == network.version and each.overlaps(network) for each in clients
                )
                if most is not None and joins and (granted is None or granted > most):
                    shown = "what the MTU carries" if granted is None else f"{granted} octets"
                    who = f"clients in {network}" + (" on the interface's link" if clients is None else "")
                    yield f"caps: {who} get blocks of up to {shown} here, and of at most {most} from '{name}'"


#: IPv4's: there are no groups in IPv6.
_EVERYBODY = (IPv4Network("0.0.0.0/0"),)


def _mostGranted(network: AnyNetwork, blksize: int | None, caps: Iterable[BlockCap]) -> int | None:
    """Return the largest block that some client in a network is granted; L{None}: the MTU bounds it."""
    bounds = [cap.blksize for cap in caps if cap.blksize is not None and isWithin(network, cap.clients)]
    return min([*bounds, *([] if blksize is None else [blksize])], default=None)


def blockCount(size: int, blksize: int) -> int:
    """Return how many DATA packets a file has: the last one is shorter than a block, or empty (RFC 1350 section 6)."""
    return size // blksize + 1


class AckReader:
    """
    Parses what the receivers of a transfer send, for all wires of the family.

    @ivar count: blocks of the file.
    @ivar windowsize: blocks that one ACK asks for (RFC 7440).
    @ivar rollover: the number after 65535.
    """

    def __init__(
        self, size: int, blksize: int, windowsize: int = 1, rollover: int = 0, takesRequests: bool = True
    ) -> None:
        """
        @param size: octets of the file.
        @param blksize: octets of a full block.
        @param takesRequests: requests may come to this port: it is the request port, or that of a group.
        """
        self._takesRequests = takesRequests
        self.count = blockCount(size, blksize)
        self.windowsize = windowsize
        self.rollover = rollover

    def receive(self, datagram: bytes, peerState: PeerState | None) -> RequestBlocks | Leave | NewRequest | None:
        """
        Parse a datagram, as L{castd.interfaces.IWire.receive}.

        @raise WireError: it cannot be parsed, or has no place in a read.
        @raise UnknownPeer: the sender is no member, and is to be sent ERROR 5.  An ERROR is never answered.
        """
        kind = tftp.opcode(datagram)
        if kind in (tftp.RRQ, tftp.WRQ):
            if not self._takesRequests:
                raise WireError("a request to the port of a transfer")
            return NewRequest()
        packet = tftp.parse(datagram)
        if peerState is None:
            if isinstance(packet, tftp.Error):
                return None
            raise UnknownPeer(f"opcode {kind} from a foreign transfer id")
        if isinstance(packet, tftp.Error):
            return Leave(self.errorOutcome(packet, peerState), packet.code, packet.text)
        if not isinstance(packet, tftp.Ack):
            raise WireError(f"opcode {kind} from a receiver")
        return self.acknowledged(packet.number, peerState)

    def errorOutcome(self, error: tftp.Error, peerState: PeerState) -> str:
        """
        Find out what an ERROR means.  A client that only wants to know the size answers the OACK with one.

        @return: L{outcomes.PROBE} for such a client, else L{outcomes.ABORTED}.
        """
        probe = peerState.highestSent < 0 and peerState.serving is None and error.code in (0, 8)
        return outcomes.PROBE if probe else outcomes.ABORTED

    def acknowledged(self, short: int, peerState: PeerState) -> RequestBlocks | Leave | None:
        """
        Find out what an ACK asks for.

        @param short: the 16 bits on the wire; they stand for the number nearest to the block that is being served.
        @return: L{None} if the ACK acknowledges a block that was not sent.
        """
        near = peerState.serving.start if peerState.serving is not None else 0
        number = tftp.unwrap(short, near, self.rollover)
        if number > peerState.highestSent + 1 or number < 0:
            return None
        if number >= self.count:
            return DONE
        return RequestBlocks((self.window(number),))

    def window(self, number: int) -> range:
        """Return the numbers of the window that begins with this block."""
        return range(number, min(number + self.windowsize, self.count))

    def expectedAnswer(self, stop: int) -> tuple[bytes, int] | None:
        """Predict the next ACK, as L{castd.interfaces.IWire.expectedAnswer}."""
        if stop >= self.count:
            return None
        short = stop if stop <= 0xFFFF else tftp.wire(stop, self.rollover)
        return ACKS[short], min(stop + self.windowsize, self.count)

    def expectedAnswers(self, start: int, stop: int) -> Sequence[bytes]:
        """Predict the ACKs that ask for windows, as L{castd.interfaces.IEqualStepsWire.expectedAnswers}."""
        if stop <= len(ACKS):
            return ACKS[start : stop : self.windowsize]
        return [ACKS[tftp.wire(number, self.rollover)] for number in range(start, stop, self.windowsize)]


def farewell(request: Request, outcome: str) -> Sequence[tuple[bytes, Peer]]:
    """Build the ERROR 0 that ends a transfer, if the server ends it by itself."""
    text = outcomes.FAREWELLS.get(outcome)
    return () if text is None else ((tftp.buildError(0, text), request.peer),)
