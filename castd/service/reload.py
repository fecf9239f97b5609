"""
What another service file changes about the addresses that requests come to.
"""

from __future__ import annotations

from collections.abc import Iterable

from castd.errors import ConfigError
from castd.service.address import ListeningAddress
from castd.service.build import Build


class PortChange:
    """
    The ports that another service file needs beside those there are: all of them, or none.
    """

    def __init__(self, addresses: Iterable[ListeningAddress], made: Build) -> None:
        self._here = {each.at: each for each in addresses}
        self._made = made
        self._released: list[ListeningAddress] = []
        self._bound: list[ListeningAddress] = []

    def bind(self) -> None:
        """
        Open what is new.

        @raise ConfigError: something cannot be had; all is as it was.
        """
        faults: list[str] = []
        for at, wanted in self._made.addresses.items():
            try:
                if at in self._here:
                    self._stays(self._here[at], wanted)
                else:
                    self._makeRoom(at, wanted)
                    wanted.bind()
                    self._bound.append(wanted)
            except ConfigError as error:
                faults += error.faults
        if faults:
            for each in self._bound:
                each.release()
            for each in self._released:
                each.bind()
            raise ConfigError(*faults)

    def _stays(self, ours: ListeningAddress, wanted: ListeningAddress) -> None:
        if type(ours.transport) is not type(wanted.transport):
            raise _refusal(wanted, f"what runs at {ours.address} is of another make: restart castd for that")

    def _makeRoom(self, at: tuple[str, int], wanted: ListeningAddress) -> None:
        """The wildcard and an address of its family cannot be open together: the one that goes must go first."""
        for there, ours in self._here.items():
            meet = there[1] == at[1] and "" in (there[0], at[0]) and ":" not in there[0] + at[0]
            if not meet or there in self._made.addresses or ours.port is None:
                continue
            if not ours.idle:
                raise _refusal(wanted, f"{ours.address} is to make room, but transfers are under way there")
            ours.release()
            self._released.append(ours)


def _refusal(wanted: ListeningAddress, why: str) -> ConfigError:
    entry = wanted.entries[0]
    return ConfigError(f"{entry.tree.where(entry.route)}: {why}")
