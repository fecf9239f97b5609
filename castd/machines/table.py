"""
Remember machines: what they have said of themselves, and which of them an address belongs to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from castd.machines.known import KnownMachine, plainAddress, validArchitecture, validMac, validUuid
from castd.machines.leases import Lease
from castd.request import Peer

#: Machines that are remembered; beyond, the one that has said nothing for the longest time is forgotten.
MOST_MACHINES = 16384
#: Seconds for which an address that a machine has used is taken for its own, where nothing else tells.
ADDRESS_LASTS = 600.0


class HeardMachine(NamedTuple):
    """
    What a machine has said of itself.

    @ivar ip: the address that it had then; L{None}: none yet.
    @ivar at: the instant at which it said so.
    """

    mac: str
    uuid: str | None
    arch: str | None
    ip: str | None
    at: float


class MachineTable:
    """
    Holds what is known of machines.

    An address belongs to the MAC that the kernel has for it; else to that of a DHCP lease; else to the machine that has
    said by DHCP that it has the address.
    """

    def __init__(self, most: int = MOST_MACHINES) -> None:
        """@param most: how many machines are remembered."""
        self._most = most
        self._heard: OrderedDict[str, HeardMachine] = OrderedDict()
        self._addresses: OrderedDict[str, str] = OrderedDict()
        self._neighbours: Mapping[str, str] = {}
        #: By the number of the file, the first one first.
        self._leases: dict[int, Mapping[str, Lease]] = {}

    def onlyHeard(self) -> MachineTable:
        """Return a table with what machines have said, but without neighbours and leases."""
        fresh = MachineTable(self._most)
        fresh.adopt(self.heard())
        return fresh

    def setNeighbours(self, neighbours: Mapping[str, str]) -> None:
        """Use the kernel's table of neighbours: the MAC of each address."""
        self._neighbours = neighbours

    def setLeases(self, number: int, leases: Mapping[str, Lease]) -> None:
        """Use the leases of one file, by their addresses; an address in several is looked for in the first."""
        self._leases = dict(sorted({**self._leases, number: leases}.items()))

    def __len__(self) -> int:
        return len(self._heard)

    def hear(self, mac: object, uuid: object, arch: object, ip: object, at: float) -> None:
        """Note what a machine says of itself; what is malformed counts as not said."""
        known = validMac(mac)
        if known is None:
            return
        last = self._heard.pop(known, None)
        heard = HeardMachine(known, validUuid(uuid), validArchitecture(arch), plainAddress(ip), at)
        if last is not None:
            # By no address it says that it has none yet; what it keeps silent about has not changed.
            heard = heard._replace(uuid=heard.uuid or last.uuid, arch=heard.arch or last.arch)
            self._forgetAddress(last)
        self._heard[known] = heard
        if heard.ip is not None:
            self._addresses[heard.ip] = known
        if len(self._heard) > self._most:
            _, oldest = self._heard.popitem(last=False)
            self._forgetAddress(oldest)

    def _forgetAddress(self, machine: HeardMachine) -> None:
        if machine.ip is not None and self._addresses.get(machine.ip) == machine.mac:
            del self._addresses[machine.ip]

    def heard(self) -> Iterator[HeardMachine]:
        """Return all that machines have said, the oldest first."""
        return iter(tuple(self._heard.values()))

    def adopt(self, heard: Iterable[HeardMachine]) -> None:
        """Add what another process has heard; what was heard here is newer."""
        for each in heard:
            if each.mac not in self._heard:
                self.hear(*each)

    def machineOf(self, peer: Peer, server: str | None, now: float, at: float) -> KnownMachine:
        """
        Return what is known of the machine of a client.

        @param now: this instant.
        @param at: the same in seconds since 1970.
        """
        ip = plainAddress(peer[0])
        return self._describe(None if ip is None else self._macOf(ip, now, at), peer, server, at, True)

    def machineWith(self, mac: object, peer: Peer, server: str | None, at: float) -> KnownMachine:
        """Return what is known of the machine with a MAC, whose address C{peer} is not."""
        return self._describe(validMac(mac), peer, server, at, False)

    def _macOf(self, ip: str, now: float, at: float) -> str | None:
        if ip in self._neighbours:
            return self._neighbours[ip]
        for leases in self._leases.values():
            lease = leases.get(ip)
            if lease is not None and (lease.until is None or at < lease.until):
                return lease.mac
        heard = self._heard.get(self._addresses.get(ip, ""))
        return heard.mac if heard is not None and now < heard.at + ADDRESS_LASTS else None

    def _describe(self, mac: str | None, peer: Peer, server: str | None, at: float, addressed: bool) -> KnownMachine:
        heard = None if mac is None else self._heard.get(mac)
        uuid, arch = (None, None) if heard is None else (heard.uuid, heard.arch)
        return KnownMachine(peer, server, mac, uuid, arch, at, addressed)
