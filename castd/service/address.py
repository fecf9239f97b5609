"""
Serves one address that requests come to: binds its port while that is permitted, and drains it on a stop.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from castd.config.config import Entry
from castd.errors import Unavailable
from castd.files.threads import asDeferred
from castd.group_pool import Group
from castd.interfaces import ICastTransport, IListeningPort, IPredecessor, ISuccessor, IUpgradable
from castd.request import Local, Peer, hostPort
from castd.server.site import Site
from castd.upgrade.messages import asAddress, asPeer

_log = Logger(namespace="castd")

T = TypeVar("T")

_REASONS = {
    errno.EACCES: "not permitted: a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE",
    errno.EADDRINUSE: "taken: another program listens there already",
    errno.EADDRNOTAVAIL: "not ours: no interface of this machine has this address",
}


class ListeningAddress(Service):
    """
    One address that requests come to, with all transports that share it.

    @ivar transport: all transports at this address, in one object.
    @ivar entries: the entries of these transports in the service file.
    @ivar port: the open port; L{None}: no port is open.
    @ivar required: the server does not start without this port.
    @ivar remedy: what an operator can do if another program has the port; C{""}: nothing in particular.
    @ivar retiring: requests of new peers are not served any more.
    """

    def __init__(
        self, site: Site, transport: ICastTransport, entry: Entry, required: bool = True, remedy: str = ""
    ) -> None:
        self.required = required
        self.remedy = remedy
        self.site = site
        self.transport = transport
        self.entries = [entry]
        self.port: IListeningPort | None = None
        self.retiring = False
        self._draining: set[Deferred[None]] = set()  # those that fire when the transport is drained
        self._handedOver = False
        self._announced = False
        self._unopened = ""  # why there is no port

    @property
    def address(self) -> str:
        """Interface and port, as text."""
        return hostPort(self.bindAddress)

    @property
    def bindAddress(self) -> tuple[str, int]:
        """Interface and port."""
        return self.transport.interface, self.transport.port

    @property
    def idle(self) -> bool:
        """Whether no transfer is under way."""
        return next(iter(self.transport.casts()), None) is None

    @property
    def heldBy(self) -> IPredecessor | None:
        """The process before this one, if it still runs and has the same socket."""
        return self.site.predecessor if self.port is not None and self.port.inherited else None

    def share(self, transport: ICastTransport, entry: Entry) -> bool:
        """Add a transport that is configured at this address.  -> whether it could be added."""
        shared = self.transport.share(transport)
        if shared:
            self.entries.append(entry)
        return shared

    def privilegedStartService(self) -> None:
        """
        Bind the port, unless it is bound already.

        @raise Unavailable: as L{bind}.
        """
        super().privilegedStartService()
        if self.port is None:
            self.bind()

    def announce(self) -> None:
        """
        Log that the port listens, or why the server goes on without it; once, and once more if that has changed.
        It is called when the whole start has succeeded, or the whole reload: until then the port may be closed again.
        """
        if self._announced:
            return
        self._announced = True
        if self.port is None:
            form, first = "{transport}: {address} is {why}: goes on without it", self.entries[0].name
            _log.warn(form, event="unopened", transport=first, address=self.address, why=self._unopened)
            return
        for entry in self.entries:
            _log.info("{transport} listens at {address}", event="listening", transport=entry.name, address=self.address)

    def bind(self, wanted: ListeningAddress | None = None) -> None:
        """
        Bind the port.

        @param wanted: what a new service file has at this address; L{None}: what is served here.
        @raise Unavailable: the port cannot be bound; the text says where the service file asks for it, and why.
        """
        wanted = wanted or self
        interface, number = self.bindAddress
        before, self._unopened = self._unopened, ""
        try:
            self.port = self.site.ports.listen(number, self.transport, interface=interface)
        except CannotListenError as error:
            entry, why = wanted.entries[0], error.socketError
            reason = _REASONS.get(getattr(why, "errno", 0), f"not to be had: {why}")
            if wanted.remedy and getattr(why, "errno", 0) == errno.EADDRINUSE:
                reason += f"; {wanted.remedy}"
            self._unopened = reason
            if wanted.required:
                raise Unavailable(f"{entry.tree.where(entry.route)}: {self.address} is {reason}") from None
        # What has changed since it was announced is announced again.
        self._announced = self._announced and self._unopened == before

    def unbind(self) -> None:
        """Close the port at once; L{bind} can open it again.  That a plugin fails to hear of its end is logged."""
        self._closePort(None)

    def stopService(self) -> Deferred[None] | None:
        """
        Take no more requests, let transfers end for C{limits.drain}, end the others, and close the port.

        @return: fires when that is done.
        """
        super().stopService()
        if self.port is None:
            return None
        draining = self._drainTransport()
        if self.site.predecessor is None and self.site.ports.storing and not self.requestPortPeers():
            # No transfer lives on this port: datagrams wait in its socket for the next process.
            self.port.pause(False)
        draining.addTimeout(self.site.limits.drain, self.site.reactor)
        draining.addErrback(self._drainFailed)
        return draining.addBoth(self._close)

    # Reload.

    def become(self, other: ListeningAddress) -> None:
        """
        Take over the transports of C{other}, on the port that is open here, also if it was about to be closed.

        A transport that fails to is logged.  The file is in force by now, so the other addresses change all the same.
        """
        self._goOn(other.transport, "taking over")
        self.entries, self.required, self.remedy = other.entries, other.required, other.remedy

    def retire(self) -> Deferred[None]:
        """
        Serve only the peers that are served already.

        @return: fires when their transfers have ended, however long that takes, also those of a process before this
            one, and the port is closed; not if L{become} comes before.
        """
        self.retiring = True
        return self._drainTransport().addErrback(self._drainFailed).addCallback(self._close)

    def _drainTransport(self) -> Deferred[None]:
        """
        Drain the transport, and wait for a process before this one: its transfers on this port need what is read here,
        and its copy of the socket keeps the address bound, so that the port could not be opened once more.

        @return: a Deferred of its own: a stop that gives up must not cancel a L{retire}.
        """
        drained: Deferred[None] = Deferred()
        self._draining.add(drained)
        maybeDeferred(self.transport.drain).addBoth(self._drained, drained)
        return drained

    def _drained(self, result: Failure | None, drained: Deferred[None]) -> None:
        """Fire one of the Deferreds of L{_drainTransport}, unless the transport goes on by now."""
        predecessor = self.heldBy
        if drained not in self._draining:
            if isinstance(result, Failure):
                self._drainFailed(result)
        elif predecessor is None or isinstance(result, Failure):
            self._draining.remove(drained)
            drained.callback(result)
        else:
            predecessor.ended().addCallback(self._drained, drained)

    def _goOn(self, transport: ICastTransport, what: str) -> None:
        """End every drain, and have the transport serve what C{transport} would."""
        self.retiring = False
        self._draining.clear()
        self._attempt(partial(self.transport.become, transport), what)

    def _drainFailed(self, failure: Failure) -> None:
        if failure.check(TimeoutError) is None:
            _log.failure("{address}: draining failed", failure, event="fault", address=self.address)

    def _close(self, _: object) -> Deferred[None]:
        stopped = maybeDeferred(lambda: asDeferred(self.transport.stop()))
        return stopped.addErrback(self._stopFailed).addCallback(self._closePort)

    def _closePort(self, _: object) -> Deferred[None] | None:
        port, self.port = self.port, None
        return None if port is None else self._attempt(port.stopListening, "stopping")

    def _stopFailed(self, failure: Failure) -> None:
        _log.failure("{address}: stopping failed", failure, event="fault", address=self.address)

    def _attempt(self, step: Callable[[], T], what: str) -> T | None:
        """Take a step; if it fails that is logged, and the next one is taken all the same."""
        try:
            return step()
        except BaseException:
            _log.failure("{address}: {what} failed", event="fault", address=self.address, what=what)
            return None

    # Upgrade: what castd.upgrade.upgradable.UpgradableAddress promises.

    def _upgradable(self) -> IUpgradable | None:
        return IUpgradable(self.transport, None)

    def requestPortPeers(self) -> list[Peer]:
        """Return the peers that are served on the request port itself."""
        upgradable = self._upgradable()
        if upgradable is None:
            return []
        return self._attempt(lambda: [*map(asPeer, upgradable.requestPortPeers())], "telling the peers at it") or []

    def groups(self) -> list[Group]:
        """Return the groups that are sent to."""
        upgradable = self._upgradable()
        if upgradable is None:
            return []
        return self._attempt(lambda: [*map(asAddress, upgradable.groups())], "telling its groups") or []

    def handOver(self, successor: ISuccessor) -> Deferred[None]:
        """
        Let another process read the port.  The port stays open here: answers leave through it, and L{resume} may
        follow.

        @return: fires when the transfers under way have ended.
        """
        if self.port is not None:
            self.port.pause(True)
        upgradable = self._upgradable()
        if upgradable is None:
            return self.drain()
        self._retireForNow()
        return maybeDeferred(upgradable.handOver, successor).addErrback(self._drainFailed)

    def drain(self) -> Deferred[None]:
        """Begin no transfer, at an address where the successor does not listen.  -> as L{handOver}."""
        self._retireForNow()
        return self._drainTransport().addErrback(self._drainFailed)

    def _retireForNow(self) -> None:
        if not self.retiring:
            self.retiring = self._handedOver = True

    def resume(self) -> None:
        """Read the port and serve requests again: the successor has died."""
        if self._handedOver:
            self._handedOver = False
            self._goOn(self.transport, "going on")
        if self.port is not None:
            self.port.resume(True)

    def deliver(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """Receive a datagram that another process has read from this port."""
        self.transport.datagramFrom(datagram, peer, local)

    def deliverUnreachable(self, peer: Peer) -> None:
        """Receive an ICMP error that another process has read from this port."""
        self.transport.peerUnreachable(peer)
