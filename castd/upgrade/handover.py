"""
Succession: how a server takes over from another process, and another from it (C{castd upgrade}).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from castd.errors import ConfigError
from castd.request import hostPort

_log = Logger(namespace="castd")


class Handover:
    """
    What a server has to do with the processes before and after it.

    @ivar predecessor: the process that this one takes over from, a L{castd.upgrade.predecessor.Predecessor}; L{None}:
        there was none.
    @ivar successor: the one that takes over from this one, a L{castd.upgrade.successor.Successor}; C{successors} makes
        it; L{None}: none does.
    """

    def __init__(self, server: Any) -> None:
        """@param server: a L{castd.service.service.Server}."""
        self.predecessor: Any = None
        self.successor: Any = None
        self.successors: Callable[[], Any] | None = None
        self._server = server

    @property
    def serving(self) -> bool:
        """Has this process taken over already, or was there nobody before it?"""
        return self.predecessor is None or bool(self.predecessor.reading)

    @property
    def busy(self) -> bool:
        """Is one of the two processes in the middle of it, so that nothing else may change?"""
        return self.successor is not None or not self.serving

    def upgrade(self) -> Deferred[tuple[str, ...]]:
        """
        Have a new process, with the code and the service file that there are now, take over from this one.

        -> fires with the reasons why it does not; none: it serves, and this one leaves when its transfers are over.
        """
        why = self._hindrance()
        if why is not None:
            return succeed((why,))
        self.successor = self.successors()  # type: ignore[misc]
        begun: Deferred[tuple[str, ...]] = self.successor.begin()
        return begun

    def _hindrance(self) -> str | None:
        if self._server.stopping:
            return "castd is stopping"
        if self.successors is None:
            return "this castd cannot start another"
        if self.successor is not None:
            return "an upgrade is under way"
        if self._server.site.predecessor is not None:
            return f"the process before this one ({self.predecessor.pid}) has not ended its transfers yet"
        if os.getpid() == 1:
            return "castd is process 1 here, and what is in a container ends with that: replace the container"
        return None

    def answer(self) -> Deferred[dict[str, Any]]:
        """L{upgrade} for the control socket."""
        admission = self._server.site.admission
        return self.upgrade().addCallback(
            lambda faults: {"ok": not faults, "faults": faults, "pid": os.getpid(), "rest": admission.casts}
        )

    def handOver(self) -> Deferred[Any]:
        """Another process serves from now on.  -> fires when it can have the operator's ways in."""
        self._server.stopping = True
        self._server.site.ports.freezeStore(True)
        shut: Deferred[Any] = self._server.porch.shut()
        return shut

    def takeBack(self) -> None:
        """The other process is no more."""
        self._server.stopping = False
        self._server.site.ports.freezeStore(False)
        for each in self._server.addresses:
            each.takeBack()
        self.take()

    def take(self) -> None:
        """It is this process that serves, and nobody else is there who could have the operator's ways in."""
        try:
            self._server.porch.open()
        except ConfigError as error:
            for fault in error.faults:
                _log.error("{fault}", event="fault", fault=fault)
        self.begin()

    def begin(self) -> None:
        """This is the process that serves: say so, and let go of what one before has left that nobody wants."""
        self._server.watch.start()
        for host, port in self._server.site.ports.reconcileStore():
            _log.info("{address} is not served any more", event="closed-port", address=hostPort((host, port)))
