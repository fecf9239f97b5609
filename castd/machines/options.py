"""
Define what the service file says of machines.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field
from pydantic.functional_validators import AfterValidator

from castd.machines.known import validArchitecture, validUuid
from castd.options import FilePath, Settings

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){0,5}", re.ASCII)


def _macBeginning(text: str) -> str:
    found = text.lower().replace("-", ":")
    if _MAC.fullmatch(found) is None:
        raise ValueError(f"{text!r} is not the beginning of a MAC: write it as 52:54:00")
    return found


def _architecture(text: str) -> str:
    if validArchitecture(text) is None:
        raise ValueError(f"{text!r} is no architecture: write it as efi-x64")
    return text


def _uuid(text: str) -> str:
    found = validUuid(text)
    if found is None:
        raise ValueError(f"{text!r} is no UUID: write it as 00112233-4455-6677-8899-aabbccddeeff")
    return found


#: The first octets of a MAC, or all of them: C{52:54:00}.
MacBeginning = Annotated[str, AfterValidator(_macBeginning)]
#: The word for an architecture: C{efi-x64}.
Architecture = Annotated[str, AfterValidator(_architecture)]
#: A UUID as the firmware shows it.
Uuid = Annotated[str, AfterValidator(_uuid)]


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
    trusted: bool = Field(
        default=False,
        description="access rules may say mac, arch and uuid, although all of them can be forged",
    )
