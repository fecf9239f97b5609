"""
A port's rooms: one for each dialect that is spoken there, and a desk for each cast that lives on the port itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from castd.interfaces import IDialect
from castd.request import Peer, Request
from castd.server.cast_protocol import CastProtocol


class PortDialect:
    """
    One dialect at the port, with what belongs to it.

    @ivar name: the transport's, as the service file calls it.
    @ivar shared: the casts that may be joined, by key.
    """

    def __init__(self, name: str, options: Any, dialect: IDialect) -> None:
        self.name = name
        self.options = options
        self.dialect: Any = dialect
        self.shared: dict[Any, list[CastProtocol]] = {}

    def beside(self, cast: CastProtocol) -> str:
        """-> in what a group differs from one that lives already and has the same name; empty: there is none."""
        if cast.wire.group is None:
            return ""
        for other in (other for casts in self.shared.values() for other in casts):
            if other.content.name == cast.content.name and other.joinable:
                if other.content.version != cast.content.version:
                    return "version"
                return "block size" if other.wire.blocksize != cast.wire.blocksize else "place"
        return ""


class ListeningTransport:
    """
    The transport of a cast that lives on the listening port: the port itself, answering from the address that was
    asked.
    """

    def __init__(self, port: Any, request: Request) -> None:
        self._port = port
        self._local = request.local
        self._peer = request.peer

    def write(self, datagram: bytes, address: Peer) -> None:
        self._port.writeFrom(datagram, address, self._local)

    def writeBurst(self, image: memoryview, step: int, address: Peer) -> int:
        return self._port.writeBurst(image, step, address, self._local)  # type: ignore[no-any-return]

    def burstWriter(self, step: int, most: int) -> Callable[[memoryview], None]:
        def send(image: memoryview) -> None:
            if self._port.writeBurst(image, step, self._peer, self._local) < len(image):
                raise BlockingIOError

        return send

    def getHost(self) -> Any:
        return self._port.getHost()

    def stopListening(self) -> None:
        """The port is the listener's."""
