"""
What the TFTP family shares: RRQ asks, ACK n asks for what follows block n, ERROR ends it.

Inside castd blocks count from 0, so TFTP's block n is number n - 1 here, and ACK n asks for number n.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address

from castd import outcomes
from castd.cast.events import Leave, NewRequest, PeerState, Ranges, RequestBlocks
from castd.errors import Refused, UnknownPeer, Unsupported
from castd.packets import tftp
from castd.request import Local, Peer, Request

#: ACK of every number, ready made: a block in lockstep compares with one of these.
_ACKS = [tftp.buildAck(number) for number in range(0x10000)]
#: Names of modes; C{binary} is RFC 783's and RFC 1784's word for octet.
_MODES = {"octet": "octet", "binary": "octet", "netascii": "netascii"}


def readRequest(datagram: bytes, peer: Peer, local: Local) -> Request | None:
    """
    An RRQ or WRQ as a request.

    @return: L{None} for anything else, which is never answered at a request port.
    @raise WireError: shorter than an opcode.
    @raise Unsupported: malformed, or a mode that nobody serves (C{mail} is obsolete since RFC 1350).
    """
    ask = tftp.parseRequest(datagram)
    if ask is None:
        return None
    mode = _MODES.get(ask.mode.lower())
    if mode is None:
        raise Unsupported("Unsupported mode")
    return Request(peer, local, ask.name, mode, ask.write, ask.options)


def refuse(error: Refused) -> bytes:
    """The ERROR for a refusal."""
    return tftp.buildError(error.code, error.text)


def within(host: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """-> whether an address lies in one of these networks."""
    address = ip_address(host.partition("%")[0])
    return any(address in network for network in networks)


def unfragmented(local: Local, header: int = 4) -> int:
    """
    -> octets of the largest block that goes in one piece by the interface that was asked; many boot ROMs cannot put
    pieces together.  C{header} is what stands before a block.
    """
    return max(512, local.mtu - (40 if ":" in local.host else 20) - 8 - header)


def blockCount(size: int, blksize: int) -> int:
    """-> DATA packets of a file: the last one is short, if need be empty (RFC 1350 section 6)."""
    return size // blksize + 1


class AckReader:
    """
    Reads what receivers say: part of every wire of the family.

    @ivar count: blocks of the file.
    @ivar windowsize: blocks that one ACK asks for (RFC 7440).
    @ivar rollover: the number after 65535.
    """

    def __init__(self, count: int, windowsize: int = 1, rollover: int = 0) -> None:
        self.count = count
        self.windowsize = windowsize
        self.rollover = rollover

    def receive(self, datagram: bytes, peerState: PeerState | None) -> RequestBlocks | Leave | NewRequest | None:
        """
        @return: see L{castd.interfaces.IWire.receive}.
        @raise WireError: unreadable.
        @raise UnknownPeer: a stranger's packet that is owed an ERROR 5; a stranger's ERROR is never answered.
        """
        kind = tftp.opcode(datagram)
        if kind in (tftp.RRQ, tftp.WRQ):
            return NewRequest()
        packet = tftp.parse(datagram)
        if peerState is None:
            if isinstance(packet, tftp.Error):
                return None
            raise UnknownPeer(f"opcode {kind} from a foreign transfer id")
        if isinstance(packet, tftp.Error):
            return Leave(self.outcome(packet, peerState))
        if not isinstance(packet, tftp.Ack):
            return None
        return self.want(packet.number, peerState)

    def outcome(self, error: tftp.Error, peerState: PeerState) -> str:
        """An ERROR in answer to the OACK is how a client ends that only wanted the size."""
        probe = peerState.highestSent < 0 and peerState.serving is None and error.code in (0, 8)
        return outcomes.PROBE if probe else outcomes.ABORTED

    def want(self, short: int, peerState: PeerState) -> RequestBlocks | Leave | None:
        """What ACK C{short} asks for, beside what is being served; L{None}: it is about nothing that was sent."""
        near = peerState.serving.start if peerState.serving is not None else 0
        number = tftp.unwrap(short, near, self.rollover)
        if number > peerState.highestSent + 1 or number < 0:
            return None
        if number >= self.count:
            return Leave(outcomes.DONE)
        return RequestBlocks((self.ask(number),))

    def ask(self, number: int) -> range:
        """-> the window that begins with this number."""
        return range(number, min(number + self.windowsize, self.count))

    def ahead(self, stop: int) -> tuple[bytes, int] | None:
        """See L{castd.interfaces.IWire.ahead}."""
        if stop >= self.count:
            return None
        short = stop if stop <= 0xFFFF else tftp.wire(stop, self.rollover)
        return _ACKS[short], min(stop + self.windowsize, self.count)


def farewell(request: Request, outcome: str) -> Iterable[tuple[bytes, Peer]]:
    """ERROR 0 where the server ends a transfer by itself; in all other cases the receiver knows."""
    texts = {
        outcomes.CHANGED: "File changed while it was being sent",
        outcomes.STOPPED: "Server is stopping",
        outcomes.FAILED: "Internal error",
    }
    if outcome in texts:
        yield tftp.buildError(0, texts[outcome]), request.peer


def firstWindow(answered: bool) -> Ranges:
    """
    What a request itself asks for: nothing when it is answered by an OACK, which the client confirms; else one block,
    since nothing has proved the address yet.
    """
    return () if answered else (range(1),)
