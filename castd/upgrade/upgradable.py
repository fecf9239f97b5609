"""
Declares what an upgrade needs of its server; L{castd.service.service.Server} provides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from castd.group_pool import Group
from castd.interfaces import IListeningPort, ISuccessor
from castd.request import Local, Peer
from castd.server.site import Site
from castd.upgrade.messages import BindAddress


class UpgradableAddress(Protocol):
    """
    One address that requests come to.

    @ivar port: the open port; L{None}: no port is open.
    """

    @property
    def bindAddress(self) -> BindAddress:
        """Interface and port."""

    @property
    def port(self) -> IListeningPort | None: ...

    def handOver(self, successor: ISuccessor) -> Deferred[None]:
        """Let another process read the port.  -> fires when the transfers under way have ended."""

    def drain(self) -> Deferred[None]:
        """Begin no transfer, at an address where the successor does not listen.  -> as L{handOver}."""

    def requestPortPeers(self) -> Sequence[Peer]:
        """Return the peers that are served on the request port itself."""

    def groups(self) -> Sequence[Group]:
        """Return the groups that are sent to."""

    def deliver(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """Receive a datagram that the other process has read from this port."""

    def deliverUnreachable(self, peer: Peer) -> None:
        """Receive an ICMP error that the other process has read from this port."""


class UpgradableServer(Protocol):
    """
    A server that can take over from another process, and can hand over to one.

    @ivar draining: no new requests are taken: the server is being stopped, or another process has taken over.
    @ivar stopping: the server is being stopped.
    """

    draining: bool
    stopping: bool

    @property
    def site(self) -> Site: ...

    @property
    def addresses(self) -> Sequence[UpgradableAddress]: ...

    def adminAddresses(self) -> dict[str, str]:
        """Return the addresses of the admin ports that are open, by name."""

    def stopServing(self) -> Deferred[None]:
        """Leave new requests to another process.  -> fires when that process can open the admin ports."""

    def startServing(self) -> None:
        """Take over as the process that serves: open the admin ports, and notify the service manager."""

    def resumeServing(self) -> None:
        """Serve as before L{stopServing}: the other process has died."""

    def removeAbandoned(self) -> None:
        """Remove the unfinished uploads of the other process, which has ended."""

    def leaveWatch(self, pid: int) -> None:
        """Tell the service manager that the process to watch is another one."""
