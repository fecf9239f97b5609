"""
The operator's ways in: the page of metrics and the control socket, as the service file asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import globalLogPublisher

from castd.config.config import Config
from castd.errors import ConfigError
from castd.service.doors import LONGEST, AdminPort, Answer, ControlFactory, controlSocket, place

if TYPE_CHECKING:
    from castd.service.service import Server


class AdminPorts:
    """
    The doors of one server: opened with it, exchanged by a reload, handed on in an upgrade.

    @ivar runtime: systemd's C{RUNTIME_DIRECTORY}, where the control socket is if the service file names no place.
    """

    def __init__(self, server: Server, answers: Mapping[str, Answer]) -> None:
        """
        @param answers: to what is asked at the control socket, by name.
        """
        self._server = server
        self._answers = answers
        self.runtime: str | None = None
        self._doors: dict[str, AdminPort] = {}
        self._figures: Any = None

    def open(self) -> None:
        """
        Open those that the service file asks for, unless they are.

        @raise ConfigError: one cannot be had.
        """
        if not self._doors:
            self.take(self.opened(self._server.config))

    def opened(self, config: Config) -> dict[str, AdminPort]:
        """
        -> the doors that this service file asks for: those there are that stay, and new ones, open.

        @raise ConfigError: one cannot be had; none of the new ones is open then.
        """
        doors = {}
        # What the process has that we take over from cannot be had before it has let go.
        predecessors = {} if self._server.succession.serving else self._server.succession.predecessor.doors
        for name, door in self._wanted(config).items():
            if predecessors.get(name) == door.where:
                continue
            ours = self._doors.get(name)
            doors[name] = ours if ours is not None and ours.where == door.where else door
        fresh = {name: door for name, door in doors.items() if door is not self._doors.get(name)}
        try:
            for name, door in fresh.items():
                # A socket of a file belongs to who goes on using it; a port may need root.
                with self._server.acting() if name == "control" else nullcontext():
                    door.bind()
        except ConfigError:
            for door in fresh.values():
                door.close()
            raise
        return doors

    def drop(self, doors: dict[str, AdminPort]) -> None:
        """Those of L{opened} that are not to be taken after all."""
        for name, door in doors.items():
            if door is not self._doors.get(name):
                door.close()

    def take(self, doors: dict[str, AdminPort]) -> None:
        """These and no others from now on."""
        for name, door in self._doors.items():
            if doors.get(name) is not door:
                door.close()
                door.disownServiceParent()  # type: ignore[no-untyped-call]
        for name, door in doors.items():
            if self._doors.get(name) is not door:
                door.setServiceParent(self._server)  # type: ignore[no-untyped-call]
        self._doors = doors

    def places(self) -> dict[str, str]:
        """-> where those are that are open."""
        return {name: door.where for name, door in self._doors.items()}

    def shut(self) -> Deferred[Any]:
        """None at all any more.  -> fires when others can have their places: the file of a local socket is removed."""
        closing = [maybeDeferred(door.close) for door in self._doors.values()]
        self.take({})
        shut: Deferred[Any] = DeferredList(closing, consumeErrors=True)
        return shut

    def abandon(self) -> None:
        """The start has failed: no reactor will run that would take away what a local socket leaves in its folder."""
        door = self._doors.pop("control", None)
        if door is not None:
            for left in (door.where, f"{door.where}.lock"):
                with suppress(OSError):
                    os.unlink(left)

    def forget(self) -> None:
        """It is over: nothing is counted any more."""
        if self._figures is not None:
            globalLogPublisher.removeObserver(self._figures)
            self._figures = None

    def ways(self, config: Config) -> dict[str, tuple[str, Any]]:
        """
        -> the operator's ways in by name, C{metrics} and C{control}, each with where it is, and the endpoint.

        @raise ConfigError: one is no address, or something that it needs is not installed.
        """
        reactor, found = self._server.site.reactor, dict[str, tuple[str, Any]]()
        if (listen := config.metrics.listen) is not None:
            complain = config.tree.where(("metrics", "listen"))
            try:
                # Now: where twistd has changed the root of the file system there is nothing to import any more.
                import castd.observe.metrics  # noqa: F401

                found["metrics"] = listen, place(reactor, listen)
            except ImportError as error:
                raise ConfigError(f"{complain}: castd[metrics] is not installed: {error}") from None
            except ValueError as error:
                raise ConfigError(f"{complain}: {listen}: {error}") from None
        path = config.control.path or (Path(self.runtime.partition(":")[0]) / "control" if self.runtime else None)
        if path is not None:
            if len(os.fsencode(path)) > LONGEST:
                raise ConfigError(f"{config.tree.where(('control', 'path'))}: {path}: longer than {LONGEST} octets")
            found["control"] = str(path), controlSocket(reactor, str(path))
        return found

    def _wanted(self, config: Config) -> dict[str, AdminPort]:
        keys = {"metrics": ("metrics", "listen"), "control": ("control", "path")}
        factories = {"metrics": self._page, "control": lambda: ControlFactory(self._server.site.reactor, self._answers)}
        return {
            name: AdminPort(where, config.tree.where(keys[name]), at, factories[name]())  # type: ignore[no-untyped-call]
            for name, (where, at) in self.ways(config).items()
        }

    def _page(self) -> Any:
        # An extra: who wants no metrics need not have it.
        from castd.observe.metrics import Counters, Gauges, MetricsPage, MetricsSite

        if self._figures is None:
            self._figures = Counters()
            Gauges(self._figures, lambda: [each.transport for each in self._server.addresses], self._server.site)
            globalLogPublisher.addObserver(self._figures)
        return MetricsSite(MetricsPage(self._figures, self._server.unready))  # type: ignore[no-untyped-call]
