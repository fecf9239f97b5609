"""
Manages both upgrades of one server: the takeover from its predecessor, and the handover to its successor.

L{castd.upgrade} has the theory of operation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from twisted.internet.defer import Deferred, succeed

from castd.upgrade.predecessor import Predecessor
from castd.upgrade.successor import Successor, logRefused
from castd.upgrade.upgradable import UpgradableServer

#: Where the name of process 1 is.
_FIRST = Path("/proc/1/comm")
#: Programs that are process 1 of a container, and end with the process that they have started.
_INITS = frozenset({"catatonit", "docker-init", "dumb-init", "podman-init", "tini", "tini-static"})


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
    @ivar whyNever: why another process could not outlive this one; L{None}: it could.
    """

    def __init__(self, server: UpgradableServer) -> None:
        self.predecessor: Predecessor | None = None
        self.successor: Successor | None = None
        self.makeSuccessor: Callable[[], Successor] | None = None
        self.whyNever: str | None = None
        self._server = server

    @property
    def serving(self) -> bool:
        """Whether this process has taken over, or has no predecessor."""
        return self.predecessor is None or self.predecessor.takenOver

    @property
    def busy(self) -> bool:
        """Whether one process takes over from another, so that nothing else may change."""
        return self.successor is not None or not self.serving

    @property
    def refusal(self) -> str | None:
        """Why this process changes nothing now, neither its service file nor itself; L{None}: it may."""
        if self._server.stopping:
            return "castd is stopping"
        if self._server.draining:
            return "another process has taken over"
        return "an upgrade is under way" if self.busy else None

    def occupiedAdminAddresses(self) -> dict[str, str]:
        """Return the addresses of admin ports that the predecessor still has open, by name."""
        return {} if self.predecessor is None or self.serving else self.predecessor.adminAddresses

    def upgrade(self) -> Deferred[tuple[str, ...]]:
        """
        Have a new process take over from this one, with the code that is installed now and the service file as it is.

        @return: fires with the reasons why it has not taken over; an empty tuple: the new process serves, and this one
            exits when its transfers have ended.
        """
        if (why := self.refusal) is not None:
            return _refused(why)
        if self.makeSuccessor is None:
            return _refused("this castd cannot start another")
        if (previous := self._server.site.predecessor) is not None:
            return _refused(f"the process before this one ({previous.pid}) has not finished its transfers yet")
        if self.whyNever is not None:
            return _refused(self.whyNever)
        self.successor = self.makeSuccessor()
        return self.successor.begin(self._noSuccessor)

    def _noSuccessor(self) -> None:
        self.successor = None

    def answer(self) -> Deferred[UpgradeAnswer]:
        """Upgrade, and answer the command of the control socket."""
        return self.upgrade().addCallback(self._answer)

    def _answer(self, faults: tuple[str, ...]) -> UpgradeAnswer:
        return {"ok": not faults, "faults": faults, "pid": os.getpid(), "rest": self._server.site.admission.casts}


def whyNever() -> str | None:
    """
    Return why another process could not outlive this one, by what has started it: so it is asked at the start, as an
    orphan gets process 1 as its parent.  L{None}: it could.
    """
    if os.getpid() == 1:
        return "castd is process 1 here, and what is in a container ends with that: replace the container"
    parent, name = os.getppid(), ""
    if parent == 1:
        with suppress(OSError):
            name = _FIRST.read_text().strip()
    if name in _INITS:
        return "castd is the first process of this container, which ends with it: replace the container"
    # The parent is outside: of the first process of a container that shares the process namespace of others, and of one
    # that "docker exec" has started.
    if parent == 0:
        return "castd was started from outside this container, which may end with it: replace the container"
    return None


def _refused(why: str) -> Deferred[tuple[str, ...]]:
    """Refuse an upgrade; who asks by a signal hears of it by the log alone."""
    logRefused((why,))
    return succeed((why,))
