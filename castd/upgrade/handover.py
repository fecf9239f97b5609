"""
Manages both upgrades of one server: the takeover from its predecessor, and the handover to its successor.

L{castd.upgrade} has the theory of operation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypedDict

from twisted.internet.defer import Deferred, succeed

from castd.upgrade.predecessor import Predecessor
from castd.upgrade.successor import Successor
from castd.upgrade.upgradable import UpgradableServer


class UpgradeAnswer(TypedDict):
    """
    The answer to C{castd upgrade}.

    @ivar rest: how many transfers are left in this process.
    """

    ok: bool
    faults: tuple[str, ...]
    pid: int
    rest: int


class Handover:
    """
    The predecessor and the successor of one server.

    @ivar predecessor: the process that this one takes over from, or has taken over from; L{None}: there was none.
    @ivar successor: the process that takes over from this one; L{None}: none does.
    @ivar makeSuccessor: prepares another attempt; L{None}: this server cannot start another process.
    """

    def __init__(self, server: UpgradableServer) -> None:
        self.predecessor: Predecessor | None = None
        self.successor: Successor | None = None
        self.makeSuccessor: Callable[[], Successor] | None = None
        self._server = server

    @property
    def serving(self) -> bool:
        """Whether this process has taken over, or has no predecessor."""
        return self.predecessor is None or self.predecessor.takenOver

    @property
    def busy(self) -> bool:
        """Whether one process takes over from another, so that nothing else may change."""
        return self.successor is not None or not self.serving

    def occupiedAdminAddresses(self) -> dict[str, str]:
        """Return the addresses of admin ports that the predecessor still has open, by name."""
        return {} if self.predecessor is None or self.serving else self.predecessor.adminAddresses

    def upgrade(self) -> Deferred[tuple[str, ...]]:
        """
        Have a new process take over from this one, with the code that is installed now and the service file as it is.

        @return: fires with the reasons why it has not taken over; an empty tuple: the new process serves, and this one
            exits when its transfers have ended.
        """
        if self._server.draining:
            return _refused("castd is stopping")
        if self.makeSuccessor is None:
            return _refused("this castd cannot start another")
        if self.successor is not None:
            return _refused("an upgrade is under way")
        if (previous := self._server.site.predecessor) is not None:
            return _refused(f"the process before this one ({previous.pid}) has not finished its transfers yet")
        if os.getpid() == 1:
            return _refused("castd is process 1 here, and what is in a container ends with that: replace the container")
        self.successor = self.makeSuccessor()
        return self.successor.begin(self._noSuccessor)

    def _noSuccessor(self) -> None:
        self.successor = None

    def answer(self) -> Deferred[UpgradeAnswer]:
        """Upgrade, and answer the command of the control socket."""
        return self.upgrade().addCallback(self._answer)

    def _answer(self, faults: tuple[str, ...]) -> UpgradeAnswer:
        return {"ok": not faults, "faults": faults, "pid": os.getpid(), "rest": self._server.site.admission.casts}


def _refused(why: str) -> Deferred[tuple[str, ...]]:
    return succeed((why,))
