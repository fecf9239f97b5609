"""
A service file becomes a running server: the site, and a service for each address that requests come to.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from castd.config import Config, Entry
from castd.errors import ConfigError
from castd.interfaces import ICastTransport
from castd.maker import Collected
from castd.site import Site

_log = Logger(namespace="castd")

_WHY = {
    errno.EACCES: "not permitted: a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE",
    errno.EADDRINUSE: "taken: another program listens there already",
    errno.EADDRNOTAVAIL: "no interface of this machine has this address",
}


def showAddress(interface: str, port: int) -> str:
    """C{10.0.0.5:69}, C{[::1]:69}, C{*:69} for the IPv4 wildcard."""
    return f"[{interface}]:{port}" if ":" in interface else f"{interface or '*'}:{port}"


class Listening(Service):
    """
    One address that requests come to, with all transports that share it.

    @ivar entries: what the service file says of them.
    """

    def __init__(self, site: Site, transport: Any, entry: Entry) -> None:
        """@param transport: an L{ICastTransport}."""
        self.site = site
        self.transport = transport
        self.entries = [entry]
        self.port: Any = None
        self.setName(showAddress(transport.interface, transport.port))

    def privilegedStartService(self) -> None:
        """
        Bind the port, while that is still permitted.

        @raise ConfigError: it cannot be had; where the service file asks for it, and why.
        """
        super().privilegedStartService()
        interface, number = self.transport.interface, self.transport.port
        try:
            self.port = self.site.ports.listen(number, self.transport, interface=interface)
        except CannotListenError as error:
            entry, why = self.entries[0], error.socketError
            reason = _WHY.get(getattr(why, "errno", 0), str(why))
            raise ConfigError(f"{entry.tree.where(entry.route)}: {self.name} is {reason}") from None
        self.site.requestPorts.add(number)
        for entry in self.entries:
            _log.info("{transport} listens at {address}", event="listening", transport=entry.name, address=self.name)

    def startService(self) -> None:
        """Nobody who starts us without a privileged phase shall find us deaf."""
        super().startService()
        if self.port is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None] | None:
        """Take no more requests, let transfers end for C{limits.drain}, say farewell to the rest, close."""
        super().stopService()
        if self.port is None:
            return None
        draining: Deferred[None] = maybeDeferred(self.transport.drain)
        draining.addTimeout(self.site.limits.drain, self.site.reactor)
        draining.addErrback(self._impatient)
        return draining.addBoth(self._close)

    def _impatient(self, failure: Failure) -> None:
        if failure.check(TimeoutError) is None:
            _log.failure("{address}: draining failed", failure, event="fault", address=self.name)

    def _close(self, _: object) -> Any:
        port, self.port = self.port, None
        self.transport.stop()
        return port.stopListening()


class Server(MultiService):
    """
    Everything that a service file describes.  As long as it has not been started no socket is open.

    @ivar site: what its transports share.
    """

    def __init__(self, config: Config, site: Site) -> None:
        super().__init__()
        self.config = config
        self.site = site

    def listening(self) -> Iterable[Listening]:
        """The addresses, in the order of the service file."""
        return [service for service in self if isinstance(service, Listening)]

    def privilegedStartService(self) -> None:
        """
        Bind all ports, or none.

        @raise ConfigError: with each one that cannot be had.
        """
        faults: list[str] = []
        for service in self:
            try:
                service.privilegedStartService()
            except ConfigError as error:
                faults += error.faults
        if faults:
            for each in self.listening():
                each.stopService()
            raise ConfigError(*faults)


def compose(
    config: Config, collected: Collected, reactor: Any, ports: Any, chance: random.Random | None = None
) -> Server:
    """
    Make all that a service file names, without opening a socket.

    @param ports: an L{IPorts<castd.interfaces.IPorts>}.
    @param chance: the system's, if not given.
    @raise ConfigError: with everything that cannot be made.
    """
    site = Site(reactor, chance or random.SystemRandom(), ports, config.limits)
    site.open(
        _made(config.content, lambda entry: collected.sources[entry.kind].makeSource(entry.options, site)),
        _made(config.uploads, lambda entry: makeSink(entry.options)),
        config.access,
    )
    server = Server(config, site)
    services: dict[tuple[str, int], Listening] = {}
    for entry in config.transports:
        for transport in _made(
            [entry], lambda entry: collected.transports[entry.kind].makeTransport(entry.name, entry.options, site)
        ):
            _place(services, site, transport, entry)
    config.tree.complain()
    for service in services.values():
        service.setServiceParent(server)
    return server


def _made(entries: Iterable[Entry], make: Any) -> list[Any]:
    """Make each; what cannot be made is a complaint at its place in the file."""
    made = []
    for entry in entries:
        try:
            made.append(make(entry))
        except ConfigError as error:
            for fault in error.faults:
                entry.blame(fault)
    return made


def _place(services: dict[tuple[str, int], Listening], site: Site, transport: Any, entry: Entry) -> None:
    """Give a transport its address, or its part of one that others have already."""
    address = (transport.interface, transport.port)
    first = services.get(address)
    if first is None:
        services[address] = Listening(site, ICastTransport(transport), entry)
    elif first.transport.share(transport):
        first.entries.append(entry)
    else:
        entry.blame(f"cannot share {first.name} with '{first.entries[0].name}': give one of them another port")
