"""
Define what the service file says of machines.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from castd.options import FilePath, Settings


class LeaseFileOptions(Settings):
    """The file in which a DHCP server on this machine keeps its leases."""

    path: FilePath = Field(description="the file, such as /var/lib/misc/dnsmasq.leases; read again when it changes")
    format: Literal["dnsmasq", "isc", "kea"] = Field(
        description="dnsmasq: its own; isc: dhcpd.leases; kea: the CSV file of its memfile"
    )


class MachinesOptions(Settings):
    """From where it is known which machine has which address, for {mac}, {uuid} and {arch} in names."""

    neighbours: bool = Field(
        default=True, description="from the kernel's table of neighbours: those on networks of this host"
    )
    leases: tuple[LeaseFileOptions, ...] = Field(default=(), description="from lease files of DHCP servers: all others")
