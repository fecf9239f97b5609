"""
What an upgrade needs of the server that it is about; L{castd.service.service.Server} has it.
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

    @ivar port: open, or L{None}.
    """

    @property
    def bindAddress(self) -> BindAddress:
        """Interface and port."""

    @property
    def port(self) -> IListeningPort | None: ...

    def handOver(self, successor: ISuccessor) -> Deferred[None]:
        """Let another process read the port.  -> fires when the transfers under way have ended."""

    def drain(self) -> Deferred[None]:
        """Begin nothing new, where the successor does not listen.  -> as for L{handOver}."""

    def requestPortPeers(self) -> Sequence[Peer]:
        """-> the peers that are served on the request port itself."""

    def groups(self) -> Sequence[Group]:
        """-> the groups that are sent to."""

    def deliver(self, datagram: bytes, peer: Peer, local: Local) -> None:
        """Take a datagram that the other process has read here."""

    def deliverUnreachable(self, peer: Peer) -> None:
        """Take an ICMP error that the other process has read here."""


class UpgradableServer(Protocol):
    """
    A server that can take over from another process, and be taken over.

    @ivar draining: it takes no new requests: it was told to stop, or another process has taken over.
    @ivar stopping: it was told to stop.
    """

    draining: bool
    stopping: bool

    @property
    def site(self) -> Site: ...

    @property
    def addresses(self) -> Sequence[UpgradableAddress]: ...

    def adminAddresses(self) -> dict[str, str]:
        """-> the addresses of the admin ports that are open, by name."""

    def stopServing(self) -> Deferred[None]:
        """Leave new requests to another process.  -> fires when that can open the admin ports."""

    def startServing(self) -> None:
        """Be the process that serves: open the admin ports, and tell the service manager."""

    def resumeServing(self) -> None:
        """Serve as before L{stopServing}: the other process has died."""

    def leaveWatch(self, pid: int) -> None:
        """Tell the service manager that the process to watch is another one."""
