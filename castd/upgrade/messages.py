"""
Declares every message between the process that is upgraded and the one that takes over.

A message is an object of JSON; C{say} is its name.  The names and keys are a protocol between two versions of castd:
they stay as they are.  JSON has arrays for tuples: where a type here is a tuple, a received message has a list, which
L{asAddress} and L{asPeer} convert to a tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Literal, NotRequired, TypeAlias, TypedDict

from castd.group_pool import Group
from castd.request import Local, Peer

#: Interface and port that a request port is bound to.
BindAddress: TypeAlias = tuple[str, int]

#: A L{Local}: host, port, interface, broadcast, MTU, networks.
LocalFields: TypeAlias = tuple[str, int, int, bool, int, Sequence[str]]


#: What a machine has said of itself: MAC, UUID, architecture, address, and the seconds since then.
MachineFields: TypeAlias = tuple[str, str | None, str | None, str | None, float]


# From the predecessor to the successor.


class SocketsMessage(TypedDict):
    """
    Passes sockets of request ports; their descriptors come with the message.

    @ivar at: for each descriptor: interface, port, and whether castd has bound the socket itself, not a supervisor.
    """

    say: Literal["sockets"]
    at: Sequence[tuple[str, int, bool]]


class BeginMessage(TypedDict):
    """
    Lets the successor start: all sockets have been passed.

    @ivar doors: the addresses of the predecessor's admin ports, by name.
    """

    say: Literal["begin"]
    pid: int
    doors: dict[str, str]


class StateMessage(TypedDict):
    """
    Tells a part of the predecessor's state, at the moment when it stops reading.

    @ivar at: the request port that C{guests} and C{groups} belong to.
    @ivar guests: peers that are served on the request port itself.
    @ivar groups: groups that are sent to; one that two casts send to comes twice.
    @ivar resting: addresses of a pool that must not be used yet, each with the seconds that are left.
    @ivar used: fixed groups, each with the file that was sent there, and the seconds for which no other file may
        follow.
    @ivar machines: what machines have said of themselves, the oldest first.
    """

    say: Literal["state"]
    at: BindAddress | None
    guests: NotRequired[Sequence[Peer]]
    groups: NotRequired[Sequence[Group]]
    resting: NotRequired[Sequence[tuple[Group, float]]]
    used: NotRequired[Sequence[tuple[Group, str, float]]]
    machines: NotRequired[Sequence[MachineFields]]


class BarMessage(TypedDict):
    """
    Refuses a name to a host, as L{ISite.bar<castd.interfaces.ISite.bar>} does.

    @ivar bar: host, name, seconds, why.
    """

    say: Literal["bar"]
    bar: tuple[str, str, float, str]


class ReadMessage(TypedDict):
    """Lets the successor read: the predecessor does not read any more."""

    say: Literal["read"]


class HereMessage(TypedDict):
    """Tells that the predecessor serves this peer on this request port from now on."""

    say: Literal["here"]
    at: BindAddress
    peer: Peer


class LeftMessage(TypedDict):
    """Tells that the predecessor does not serve this peer on this request port any more."""

    say: Literal["left"]
    at: BindAddress
    peer: Peer


class FreedMessage(TypedDict):
    """Tells that one cast of the predecessor to this group has ended."""

    say: Literal["freed"]
    group: Group


class BackMessage(TypedDict):
    """Returns a request that the predecessor was given and does not serve; its datagram comes with the message."""

    say: Literal["back"]
    at: BindAddress
    peer: Peer
    local: LocalFields


FromPredecessor: TypeAlias = (
    SocketsMessage
    | BeginMessage
    | StateMessage
    | BarMessage
    | ReadMessage
    | HereMessage
    | LeftMessage
    | FreedMessage
    | BackMessage
)


# From the successor to the predecessor.


class RefusedMessage(TypedDict):
    """Tells that the successor cannot start, and why."""

    say: Literal["refused"]
    faults: Sequence[str]


class ReadyMessage(TypedDict):
    """
    Tells that the successor is ready to read.

    @ivar claimed: the request ports of the successor's service file; the predecessor keeps all others until its
        transfers have ended.
    """

    say: Literal["ready"]
    claimed: Sequence[BindAddress]


class ServingMessage(TypedDict):
    """Tells that the successor reads, and that its admin ports are open."""

    say: Literal["serving"]


class GiveMessage(TypedDict):
    """Passes on a datagram from a peer that the predecessor serves; the datagram comes with the message."""

    say: Literal["give"]
    at: BindAddress
    peer: Peer
    local: LocalFields


class UnreachableMessage(TypedDict):
    """Passes on an ICMP error: the port of a peer that the predecessor serves is closed."""

    say: Literal["unreachable"]
    at: BindAddress
    peer: Peer


class StopMessage(TypedDict):
    """Stops the predecessor: the successor is being stopped."""

    say: Literal["stop"]


FromSuccessor: TypeAlias = (
    RefusedMessage | ReadyMessage | ServingMessage | GiveMessage | UnreachableMessage | StopMessage
)


def asAddress(array: Sequence[str | int]) -> tuple[str, int]:
    """
    Convert an address and port, or a group, that was received.

    @raise ValueError: the array is no address and port.
    """
    match array:
        case [str(host), int(port)]:
            return host, port
    raise ValueError(f"{array} is no address and port")


def asPeer(array: Sequence[str | int]) -> Peer:
    """
    Convert the address of a peer that was received.

    @raise ValueError: the array is no address of a peer.
    """
    match array:
        case [str(host), int(port), int(flow), int(scope)]:
            return host, port, flow, scope
    return asAddress(array)


def localFields(local: Local) -> LocalFields:
    """Convert a L{Local}, to be sent."""
    networks = [str(network) for network in local.networks]
    return local.host, local.port, local.interface, local.broadcast, local.mtu, networks


def asLocal(fields: LocalFields) -> Local:
    """Convert a L{Local} that was received."""
    host, port, interface, broadcast, mtu, networks = fields
    return Local(host, port, interface, broadcast, mtu, tuple(map(IPv4Network, networks)))
