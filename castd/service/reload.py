"""
Changes the request ports when another service file comes into force.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from castd.errors import ConfigError
from castd.interfaces import ICastTransport
from castd.server.service_port import ServiceListener
from castd.service.address import ListeningAddress


class PortChange:
    """
    Binds the request ports that another service file needs beside those that are open: all of them, or none.
    """

    def __init__(self, current: Iterable[ListeningAddress], wanted: Mapping[tuple[str, int], ListeningAddress]) -> None:
        """
        @param current: the addresses that are served now.
        @param wanted: the addresses of the other service file, by interface and port; none is bound.
        """
        self._current = {each.bindAddress: each for each in current}
        self._wanted = wanted

    def bind(self) -> None:
        """
        Bind the addresses that have no port yet.

        @raise ConfigError: with each address that cannot be bound; all ports are as they were.
        """
        faults: list[str] = []
        with ExitStack() as undo:
            for bindAddress, wanted in self._wanted.items():
                try:
                    self._bindOne(bindAddress, wanted, undo)
                except ConfigError as error:
                    faults += error.faults
            if faults:
                raise ConfigError(*faults)
            undo.pop_all()

    def _bindOne(self, bindAddress: tuple[str, int], wanted: ListeningAddress, undo: ExitStack) -> None:
        address = self._current.get(bindAddress, wanted)
        if address is wanted:
            self._unbindConflicting(bindAddress, wanted, undo)
        else:
            _checkSameType(address, wanted)
        # One that is served now may have no port, as another program had it, and it is not required.
        if address.port is None:
            address.bind(wanted)
            undo.callback(address.unbind)

    def _unbindConflicting(self, bindAddress: tuple[str, int], wanted: ListeningAddress, undo: ExitStack) -> None:
        """Unbind addresses that are to go: the wildcard and an address of its family cannot be bound together."""
        host, port = bindAddress
        for (otherHost, otherPort), other in self._current.items():
            conflict = otherPort == port and _clash(otherHost, host)
            if not conflict or (otherHost, otherPort) in self._wanted or other.port is None:
                continue
            if not other.idle:
                raise _refusal(wanted, f"{other.address} is to make room, but transfers are under way there")
            if other.heldBy is not None:
                # Neither could the new address be bound, nor the old one once more.
                why = f"process {other.heldBy.pid}, which was here before this one, still has it open"
                raise _refusal(wanted, f"{other.address} is to make room, but {why}: try again when it has ended")
            undo.callback(other.bind)
            other.unbind()


def _clash(one: str, other: str) -> bool:
    """Return whether one of two interfaces is the wildcard of the other's family."""
    return (":" in one) == (":" in other) and not {"", "::"}.isdisjoint((one, other))


def _checkSameType(current: ListeningAddress, wanted: ListeningAddress) -> None:
    if _make(current.transport) is not _make(wanted.transport):
        raise _refusal(wanted, f"another kind of plugin serves at {current.address}: restart castd to change that")


def _make(transport: ICastTransport) -> type[object]:
    """Return the class of what serves: that of the service, where a port belongs to one."""
    return type(transport.service if isinstance(transport, ServiceListener) else transport)


def _refusal(wanted: ListeningAddress, why: str) -> ConfigError:
    entry = wanted.entries[0]
    return ConfigError(f"{entry.tree.where(entry.route)}: {why}")
