"""
Answer each datagram with the same octets (RFC 862): the smallest service that is no transport of files.

It is one file, as a plugin of somebody else may be: the announcement, the options, and the service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from castd.config.plugin import ServiceMaker
from castd.errors import ConfigError
from castd.interfaces import IListeningPort, IPortService, IServiceFile, ISite, ServicePort
from castd.options import Address, Port, Settings
from castd.request import Local, Peer

echo = ServiceMaker("echo", __name__, "RFC 862: sends each datagram back to where it came from")


class Options(Settings):
    """The options of an echo."""

    interface: Address = Field("", description="address to bind to; any: all IPv4 addresses")
    port: Port = Field(7, description="UDP port")
    longest: int = Field(512, ge=0, description="octets of the longest datagram that is sent back")
    after: str | None = Field(None, description="only beside a transport of this name; null: in any case")


@implementer(IPortService)
class Echo:
    """Sends datagrams back, at one port."""

    def __init__(self, name: str, options: Options, site: ISite) -> None:
        self.name, self.options, self._site = name, options, site
        self.ports = (ServicePort(options.interface, options.port, remedy="inetd may have an echo of its own"),)
        self._port: IListeningPort | None = None
        self._answered = 0

    def configure(self, file: IServiceFile) -> None:
        """Look for the transport that the options name."""
        if self.options.after not in (None, *(each.name for each in file.transports)):
            raise ConfigError(f"after: no transport is called {self.options.after}")

    def warnings(self) -> Iterator[str]:
        """Warn of a limit that lets nothing pass."""
        if not self.options.longest:
            yield "longest: only empty datagrams are sent back"

    @property
    def counts(self) -> Mapping[str, int]:
        """How many datagrams were sent back, reloads included."""
        return {"answered": self._answered}

    def opened(self, at: ServicePort, port: IListeningPort) -> None:
        """Send by this port."""
        self._port = port

    def closed(self, at: ServicePort) -> None:
        """Send no more."""
        self._port = None

    def datagramFrom(self, at: ServicePort, datagram: bytes, peer: Peer, local: Local) -> None:
        """Send a datagram back, but never to a port where something else answers by itself."""
        loops = peer[1] == 0 or self._site.requestPorts[peer[1]] or peer[1] == at.port
        if self._port is not None and not loops and not local.broadcast and len(datagram) <= self.options.longest:
            self._port.writeFrom(datagram, peer, local)
            self._answered += 1

    def inherit(self, other: object) -> None:
        """Count on from where the service before has counted."""
        if isinstance(other, Echo):
            self._answered = max(self._answered, other._answered)

    def drain(self) -> Deferred[None]:
        """Nothing is under way: each datagram is answered at once."""
        self._port = None
        return succeed(None)

    def stop(self) -> None:
        """Nothing is left to end."""


def makeService(name: str, options: Options, site: ISite) -> Echo:
    """Make an echo, as the announcement promises."""
    return Echo(name, options, site)
