"""
Hold what belongs to one dialect at a request port: its options, and the casts that may be joined.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from castd.interfaces import IDialect
from castd.options import HostPort, ListenOptions
from castd.server.deaf import DEAF_FOR

if TYPE_CHECKING:
    from castd.server.cast_protocol import CastProtocol


class PortDialect:
    """
    Holds one dialect that is spoken at a port, with its options and its casts.

    The optional fields C{ports}, C{broadcast}, C{loopback}, C{deafFor} and C{group} of the options are read here: the
    base class L{ListenOptions} cannot declare them, as a pydantic model cannot declare an attribute that a subclass
    makes a field.

    @ivar name: name of the transport, as the service file calls it.
    @ivar options: the options of the transport.
    @ivar dialect: the dialect.
    @ivar ports: the range that ports of casts are taken from; L{None}: any.
    @ivar broadcast: requests sent to a broadcast address are answered.
    @ivar loopback: receivers on this machine hear the group.
    @ivar profiled: its requests are compared with the profiles of clients.
    @ivar deafFor: for how many seconds a machine that hears nothing of a group is remembered.
    @ivar sharesNumber: the group has the number of the request port, so receivers on this machine bind that number too.
    @ivar shared: the casts that may be joined, by key.
    """

    def __init__(self, name: str, options: ListenOptions, dialect: IDialect) -> None:
        self.name = name
        self.options = options
        self.dialect = dialect
        self.ports: range | None = getattr(options, "ports", None)
        self.broadcast: bool = getattr(options, "broadcast", False)
        self.loopback: bool = getattr(options, "loopback", True)
        self.profiled = options.profiled
        self.deafFor: float = getattr(options, "deafFor", DEAF_FOR)
        group: object = getattr(options, "group", None)
        self.sharesNumber = self.loopback and isinstance(group, HostPort) and group.port == options.port
        self.shared: dict[Hashable, list[CastProtocol]] = {}

    def differenceFrom(self, cast: CastProtocol) -> str:
        """Return in what a new group differs from one that already serves the same file name; empty: there is none."""
        for other in (other for casts in self.shared.values() for other in casts):
            if other.fileName == cast.fileName and other.joinable:
                if other.content.version != cast.content.version:
                    return "version"
                return "block size" if other.wire.blocksize != cast.wire.blocksize else "place"
        return ""
