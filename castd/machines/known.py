"""
Hold what is known of the machine that a request comes from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv6Address, ip_address

from castd.request import Peer

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5,19}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ARCHITECTURE = re.compile(r"[0-9a-z](?:[0-9a-z-]{0,30}[0-9a-z])?", re.ASCII)
_NOWHERE = frozenset({"0.0.0.0", "::"})


def validMac(text: object) -> str | None:
    """Return a hardware address in small letters with colons; L{None}: it is none, or all zeros."""
    found = text.lower().replace("-", ":") if isinstance(text, str) else ""
    return found if _MAC.fullmatch(found) and found.strip("0:") else None


def validUuid(text: object) -> str | None:
    """Return a UUID in small letters; L{None}: it is none."""
    found = text.lower() if isinstance(text, str) else ""
    return found if _UUID.fullmatch(found) else None


def validArchitecture(text: object) -> str | None:
    """Return the word or number of an architecture; L{None}: it is none."""
    return text if isinstance(text, str) and _ARCHITECTURE.fullmatch(text) else None


def plainAddress(host: object) -> str | None:
    """
    Return an address as the kernel and DHCP servers write it: without the zone, and IPv4 that came through an IPv6
    socket as IPv4.  L{None}: it is no address of one machine.
    """
    try:
        found = ip_address(host.partition("%")[0] if isinstance(host, str) else "")
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return None if str(found) in _NOWHERE or found.is_multicast else str(found)


# No slots: the values are made when they are first asked for.
@dataclass(frozen=True)
class KnownMachine:
    """
    What is known of the machine that a request comes from.  None of it is proof: a MAC and an architecture are what
    somebody on its network has said, an address may be forged.

    @ivar peer: the address of the request.
    @ivar server: the address that the request was sent to; L{None}: not known.
    @ivar mac: its hardware address, C{52:54:00:66:00:10}.
    @ivar uuid: its UUID, as the firmware shows it.
    @ivar arch: the word for its architecture, C{efi-x64}.
    @ivar at: when it asks, in seconds since 1970; L{None}: now.
    @ivar addressed: C{peer} is its address; C{False}: it has none yet.
    """

    peer: Peer
    server: str | None = None
    mac: str | None = None
    uuid: str | None = None
    arch: str | None = None
    at: float | None = None
    addressed: bool = True

    @property
    def ip(self) -> str | None:
        """Its address; L{None}: not known."""
        return plainAddress(self.peer[0]) if self.addressed else None

    def fits(
        self, mac: tuple[str, ...] | None, arch: tuple[str, ...] | None, uuid: tuple[str, ...] | None = None
    ) -> bool:
        """
        Return whether its MAC, architecture and UUID are among those that are given.  One that is not known is among
        none.

        @param mac: beginnings of MACs, in small letters with colons; L{None}: its MAC does not matter.
        @param arch: words for architectures; L{None}: likewise.
        @param uuid: UUIDs, in small letters; L{None}: likewise.
        """
        return (
            (mac is None or (self.mac is not None and self.mac.startswith(mac)))
            and (arch is None or self.arch in arch)
            and (uuid is None or self.uuid in uuid)
        )

    @property
    def moment(self) -> str:
        """When it asks, C{2026-11-26T21-24-00}, in the time of this server."""
        return time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(self.at))

    @cached_property
    def values(self) -> Mapping[str, str]:
        """The values of words in names, as far as they are known: each made of letters, digits, C{-} and C{.}."""
        date, _, clock = self.moment.partition("T")
        ip = self.ip
        found = {
            # Some file systems, and all of Windows', have no colons in names.
            "ip": None if ip is None else _dashes(ip),
            "mac": None if self.mac is None else _dashes(self.mac),
            "uuid": self.uuid,
            "arch": self.arch,
            "date": date,
            "time": clock,
        }
        return {word: value for word, value in found.items() if value is not None}


def _dashes(text: str) -> str:
    """Write an address with dashes for colons; one that begins or ends with a colon gets a zero there, C{0--1}."""
    found = text.replace(":", "-")
    return ("0" if found.startswith("-") else "") + found + ("0" if found.endswith("-") else "")
