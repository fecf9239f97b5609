"""
Serve one port of a L{IPortService<castd.interfaces.IPortService>}: pass its datagrams to the service.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from castd.interfaces import ICastTransport, IListeningPort, ILiveTransfer, IPortService, ServicePort
from castd.request import Local, Peer

_log = Logger(namespace="castd")


@implementer(ICastTransport)
class ServiceListener:
    """
    Receives at one port for a service.  The listener stays with its socket when a reload makes another service.

    @ivar service: the service that receives the datagrams.
    @ivar at: the port, as the service has asked for it.
    """

    def __init__(self, name: str, service: IPortService, at: ServicePort) -> None:
        """@param name: name of the service in the service file, for the log."""
        self.service, self.at = service, at
        self._name = name
        self._port: IListeningPort | None = None

    @property
    def interface(self) -> str:
        """As L{ICastTransport.interface}."""
        return self.at.host

    @property
    def port(self) -> int:
        """As L{ICastTransport.port}."""
        return self.at.port

    def makeConnection(self, transport: IListeningPort) -> None:
        """As L{IPortProtocol.makeConnection<castd.interfaces.IPortProtocol.makeConnection>}."""
        self._port = transport
        self.service.opened(self.at, transport)

    def doStop(self) -> None:
        """As L{IPortProtocol.doStop<castd.interfaces.IPortProtocol.doStop>}."""
        self._port = None
        self.service.closed(self.at)

    def share(self, other: object) -> bool:
        """Return C{False}: a service shares its ports with nobody."""
        return False

    def casts(self) -> Iterable[ILiveTransfer]:
        """Return nothing: a service sends no files."""
        return ()

    def become(self, other: ServiceListener) -> None:
        """
        Pass what comes to this port to another service from now on, which takes over from the present one; or go on,
        after C{drain}, with the present one.
        """
        before = self.service
        self.service, self.at, self._name = other.service, other.at, other._name
        if self.service is not before:
            try:
                self.service.inherit(before)
            except BaseException:
                # It goes on without what it could have taken over, as after a start.
                _log.failure("{transport}: taking over failed", event="fault", transport=self._name)
        if self._port is not None:
            self.service.opened(self.at, self._port)

    def drain(self) -> Deferred[None]:
        """As L{ICastTransport.drain}."""
        return self.service.drain()

    def stop(self) -> None:
        """As L{ICastTransport.stop}."""
        self.service.stop()

    def datagramFrom(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """Pass a datagram to the service; an exception is logged as a fault."""
        try:
            self.service.datagramFrom(self.at, datagram, peer, local)
        except BaseException:
            _log.failure("{transport}: a datagram failed", event="fault", transport=self._name)

    def peerUnreachable(self, peer: Peer) -> None:
        """Ignore that a peer's port is closed: each answer is a single datagram."""
