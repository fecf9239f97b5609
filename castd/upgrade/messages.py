"""
Every message between the process that is upgraded and the one that takes over.

A message is an object of JSON; C{say} is its name.  The names and keys are a protocol between two versions of castd:
they stay as they are.  JSON has arrays for tuples: where a type here is a tuple, the message that is received has a
list.  Whoever needs a tuple makes it with L{asAddress} or L{asPeer}.
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


# From the predecessor to the successor.


class SocketsMessage(TypedDict):
    """
    Sockets of request ports; their descriptors come with the message.

    @ivar at: for each descriptor: interface, port, and whether castd has bound the socket itself, not a supervisor.
    """

    say: Literal["sockets"]
    at: Sequence[tuple[str, int, bool]]


class BeginMessage(TypedDict):
    """
    All sockets have come; start.

    @ivar doors: the addresses of the predecessor's admin ports, by name.
    """

    say: Literal["begin"]
    pid: int
    doors: dict[str, str]


class StateMessage(TypedDict):
    """
    A part of the predecessor's state, at the moment when it stops reading.

    @ivar at: the request port of C{guests} and C{groups}.
    @ivar guests: peers that are served on the request port itself.
    @ivar groups: groups that are sent to; one that two casts send to comes twice.
    @ivar resting: addresses of a pool that must not be used yet, each with the seconds that are left.
    @ivar used: fixed groups, what was sent there, and the seconds in which nothing else may be after it.
    """

    say: Literal["state"]
    at: BindAddress | None
    guests: NotRequired[Sequence[Peer]]
    groups: NotRequired[Sequence[Group]]
    resting: NotRequired[Sequence[tuple[Group, float]]]
    used: NotRequired[Sequence[tuple[Group, str, float]]]


class BarMessage(TypedDict):
    """
    A name is refused to a host, as L{ISite.bar<castd.interfaces.ISite.bar>} has it.

    @ivar bar: host, name, seconds, why.
    """

    say: Literal["bar"]
    bar: tuple[str, str, float, str]


class ReadMessage(TypedDict):
    """The predecessor does not read any more: read."""

    say: Literal["read"]


class HereMessage(TypedDict):
    """A peer is served by the predecessor on this request port from now on."""

    say: Literal["here"]
    at: BindAddress
    peer: Peer


class LeftMessage(TypedDict):
    """A peer is not served any more on this request port."""

    say: Literal["left"]
    at: BindAddress
    peer: Peer


class FreedMessage(TypedDict):
    """One cast of the predecessor to this group has ended."""

    say: Literal["freed"]
    group: Group


class BackMessage(TypedDict):
    """A request that the predecessor was given and does not serve; the datagram comes with it."""

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
    """The successor cannot start."""

    say: Literal["refused"]
    faults: Sequence[str]


class ReadyMessage(TypedDict):
    """
    The successor could read now.

    @ivar claimed: the request ports of its service file; others stay with the predecessor until its transfers end.
    """

    say: Literal["ready"]
    claimed: Sequence[BindAddress]


class ServingMessage(TypedDict):
    """The successor reads, and its admin ports are open."""

    say: Literal["serving"]


class GiveMessage(TypedDict):
    """A datagram from a peer that the predecessor serves; it comes with the message."""

    say: Literal["give"]
    at: BindAddress
    peer: Peer
    local: LocalFields


class UnreachableMessage(TypedDict):
    """The host of a peer that the predecessor serves says that its port is closed."""

    say: Literal["unreachable"]
    at: BindAddress
    peer: Peer


class StopMessage(TypedDict):
    """The successor was told to stop; the predecessor is to stop, too."""

    say: Literal["stop"]


FromSuccessor: TypeAlias = (
    RefusedMessage | ReadyMessage | ServingMessage | GiveMessage | UnreachableMessage | StopMessage
)


def asAddress(array: Sequence[str | int]) -> tuple[str, int]:
    """
    -> an address and port, or a group, that was received.

    @raise ValueError: it is none.
    """
    match array:
        case [str(host), int(port)]:
            return host, port
    raise ValueError(f"{array} is no address and port")


def asPeer(array: Sequence[str | int]) -> Peer:
    """
    -> a peer that was received.

    @raise ValueError: it is none.
    """
    match array:
        case [str(host), int(port), int(flow), int(scope)]:
            return host, port, flow, scope
    return asAddress(array)


def localFields(local: Local) -> LocalFields:
    """-> a L{Local}, to be sent."""
    networks = [str(network) for network in local.networks]
    return local.host, local.port, local.interface, local.broadcast, local.mtu, networks


def asLocal(fields: LocalFields) -> Local:
    """-> a L{Local} that was received."""
    host, port, interface, broadcast, mtu, networks = fields
    return Local(host, port, interface, broadcast, mtu, tuple(map(IPv4Network, networks)))
