"""
One address that requests come to, as a service: bound while that is permitted, drained when it stops.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from castd.config.config import Entry
from castd.errors import Unavailable
from castd.interfaces import IUpgradable
from castd.request import Peer, hostPort
from castd.server.site import Site

_log = Logger(namespace="castd")

_WHY = {
    errno.EACCES: "not permitted: a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE",
    errno.EADDRINUSE: "taken: another program listens there already",
    errno.EADDRNOTAVAIL: "not ours: no interface of this machine has this address",
}


class ListeningAddress(Service):
    """
    One address that requests come to, with all transports that share it.

    @ivar transport: the L{ICastTransport<castd.interfaces.ICastTransport>} that all of them have become.
    @ivar entries: what the service file says of them.
    @ivar retiring: it serves those who are here, and nobody else.
    """

    def __init__(self, site: Site, transport: Any, entry: Entry) -> None:
        self.site = site
        self.transport = transport
        self.entries = [entry]
        self.port: Any = None
        self.retiring = False
        self._handedOver = False

    @property
    def address(self) -> str:
        """Where it listens, for people."""
        return hostPort((self.transport.interface, self.transport.port))

    def share(self, transport: Any, entry: Entry) -> bool:
        """-> whether another transport could be given its part of this address."""
        shared: bool = self.transport.share(transport)
        if shared:
            self.entries.append(entry)
        return shared

    @property
    def at(self) -> tuple[str, int]:
        """Interface and port."""
        return self.transport.interface, self.transport.port

    def privilegedStartService(self) -> None:
        """
        Bind the port.

        @raise Unavailable: it cannot be had; where the service file asks for it, and why.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        if self.port is None:
            self.bind()
        for entry in self.entries:
            _log.info("{transport} listens at {address}", event="listening", transport=entry.name, address=self.address)

    def bind(self) -> None:
        """As L{privilegedStartService}, and nobody is told."""
        interface, number = self.transport.interface, self.transport.port
        try:
            self.port = self.site.ports.listen(number, self.transport, interface=interface)
        except CannotListenError as error:
            entry, why = self.entries[0], error.socketError
            reason = _WHY.get(getattr(why, "errno", 0), f"not to be had: {why}")
            raise Unavailable(f"{entry.tree.where(entry.route)}: {self.address} is {reason}") from None

    def startService(self) -> None:
        """Bind the port now, if there was no privileged phase."""
        super().startService()  # type: ignore[no-untyped-call]
        if self.port is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None] | None:
        """
        Take no more requests, let transfers end for C{limits.drain}, say farewell to the rest, close.

        -> a Deferred that fires when that is done.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        if self.port is None:
            return None
        draining: Deferred[None] = maybeDeferred(self.transport.drain)
        if self.site.predecessor is not None:
            draining.addCallback(self._awaitPredecessor)
        elif self.site.ports.storing and not self.guests():
            # Nothing more is to be heard here: what comes waits in the socket for the process after this one.
            self.port.pause(False)
        draining.addTimeout(self.site.limits.drain, self.site.reactor)
        draining.addErrback(self._undrained)
        return draining.addBoth(self._close)

    def _awaitPredecessor(self, _: None) -> Deferred[None]:
        """-> fires when the process before this one has ended: till then it hears by us."""
        predecessor = self.site.predecessor
        return succeed(None) if predecessor is None else predecessor.gone()

    def become(self, other: ListeningAddress) -> None:
        """Reload: be what C{other} would be, on the port that is open, also if that was about to be closed."""
        self.retiring = False
        self.transport.become(other.transport)
        self.entries = other.entries

    def retire(self) -> Deferred[None]:
        """
        Reload: this address is served no more.  -> fires when the transfers that are under way have ended, however long
        that takes, and the port is closed.
        """
        self.retiring = True
        return maybeDeferred(self.transport.drain).addCallback(self._close)

    # Another process takes over.

    def guests(self) -> list[Peer]:
        """-> the peers whose datagrams come to this very port and are for a cast of ours."""
        return list(self.transport.guests()) if IUpgradable.providedBy(self.transport) else []

    def groups(self) -> list[Peer]:
        """-> the groups that our casts send to."""
        return list(self.transport.groups()) if IUpgradable.providedBy(self.transport) else []

    def handOver(self, successor: Any) -> Deferred[Any]:
        """
        The heir reads the port from now on.  It stays open here, for what is sent and for L{takeBack}.

        @param successor: as for L{IUpgradable.handOver}.
        @return: fires when the transfers that are under way have ended.
        """
        self.port.pause(True)
        if not IUpgradable.providedBy(self.transport):
            return self.drain()
        self._handed()
        return maybeDeferred(self.transport.handOver, successor)

    def drain(self) -> Deferred[Any]:
        """The heir does not serve here: this port is ours to the end.  -> as L{handOver}."""
        self._handed()
        return maybeDeferred(self.transport.drain)

    def _handed(self) -> None:
        if not self.retiring:
            self.retiring = self._handedOver = True

    def takeBack(self) -> None:
        """The heir is no more."""
        if self._handedOver:
            self.retiring = self._handedOver = False
            self.transport.become(self.transport)
        if self.port is not None:
            self.port.resume(True)

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return next(iter(self.transport.casts()), None) is None

    def release(self) -> None:
        """Let go of the port; L{bind} would take it again."""
        port, self.port = self.port, None
        if port is not None:
            port.stopListening()

    def _undrained(self, failure: Failure) -> None:
        if failure.check(TimeoutError) is None:
            _log.failure("{address}: draining failed", failure, event="fault", address=self.address)

    def _close(self, _: object) -> Any:
        self.transport.stop()
        port, self.port = self.port, None
        return None if port is None else port.stopListening()
