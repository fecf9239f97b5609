"""
Tests whether the address of a client is in a set of IP networks.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from operator import itemgetter
from socket import AF_INET, inet_pton
from typing import Generic, TypeVar

from castd.options import AnyNetwork

T = TypeVar("T")

#: The most addresses whose numbers are cached: a machine that boots asks for many files.
_REMEMBERED = 8192
#: The addresses of groups, 224.0.0.0/4 and ff00::/8, and of everybody.  Those from 240.0.0.0 on are reserved, but Linux
#: takes them for one machine each, and some clouds give them to machines.
_MANY = re.compile(r"(?:22[4-9]|23[0-9])\.|255\.255\.255\.255$|ff[0-9a-f]{2}:")


def isMany(host: str, broadcasts: Container[str]) -> bool:
    """
    Return whether an address is that of many machines.

    @param broadcasts: the broadcast addresses of the networks that are known; besides, groups and 255.255.255.255.
    """
    plain = host.removeprefix("::ffff:")
    return plain in broadcasts or _MANY.match(plain) is not None


class Networks:
    """
    A set of IPv4 and IPv6 networks; C{in} tests a client's numeric address.

    An IPv4 client at an IPv6 socket (C{::ffff:10.0.0.5}) is tested by its IPv4 address.
    """

    def __init__(self, networks: Iterable[AnyNetwork]) -> None:
        self._networks = tuple(
            (network.version, int(network.network_address), int(network.netmask)) for network in networks
        )

    def __contains__(self, host: str) -> bool:
        version, number = _number(host)
        return any(kind == version and number & mask == net for kind, net, mask in self._networks)


@lru_cache(64)
def networksOf(link: tuple[IPv4Network, ...]) -> Networks:
    """Return the networks on the link of an interface, as requests name them, as a set."""
    return Networks(link)


class NetworkMap(Generic[T]):
    """
    Maps IP networks to values, and finds those of all networks that a client is in: one look for each length of a
    prefix, however many networks there are.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int], dict[int, T]] = {}

    def setdefault(self, network: AnyNetwork, value: T) -> T:
        """Return the value of a network; it gets this one if it has none."""
        table = self._tables.setdefault((network.version, int(network.netmask)), {})
        return table.setdefault(int(network.network_address), value)

    def containing(self, host: str) -> list[T]:
        """Return the values of all networks that this numeric address is in, as by L{Networks}."""
        version, number = _number(host)
        found = []
        for (kind, mask), table in self._tables.items():
            if kind == version and (number & mask) in table:
                found.append(table[number & mask])
        return found


class ClientRules(Generic[T]):
    """
    Finds the rules that are for a client, each of which is for some networks, however many rules there are.
    """

    def __init__(self, rules: Iterable[tuple[Iterable[AnyNetwork], T]]) -> None:
        """@param rules: the networks of each rule, and the rule, in the order of the service file."""
        self._map: NetworkMap[dict[int, T]] = NetworkMap()
        for number, (networks, rule) in enumerate(rules):
            for network in networks:
                self._map.setdefault(network, {})[number] = rule

    def of(self, host: str) -> list[tuple[int, T]]:
        """Return the rules for this numeric address, each with its number in the service file, in that order."""
        found: dict[int, T] = {}
        for rules in self._map.containing(host):
            found.update(rules)
        return sorted(found.items(), key=itemgetter(0))


def isWithin(network: AnyNetwork, others: Iterable[AnyNetwork]) -> bool:
    """Return whether all of a network lies in one of the others."""
    return any(
        (isinstance(network, IPv4Network) and isinstance(other, IPv4Network) and network.subnet_of(other))
        or (isinstance(network, IPv6Network) and isinstance(other, IPv6Network) and network.subnet_of(other))
        for other in others
    )


def viewpoints(networks: Iterable[AnyNetwork], edges: Iterable[AnyNetwork], most: int = 64) -> list[str]:
    """
    Return addresses of some networks, one for each set of addresses that other networks treat alike.

    @param edges: the other networks, such as those of access rules.
    @param most: the most addresses to return.
    """
    others = tuple(edges)
    found: dict[IPv4Address | IPv6Address, None] = {}
    for network in networks:
        begins = [network.network_address]
        for other in others:
            if other.version == network.version and network.overlaps(other):
                begins.append(other.network_address)
                # There is no address behind the last of all.
                if int(other.broadcast_address) < int(network.broadcast_address):
                    begins.append(other.broadcast_address + 1)
        found.update(dict.fromkeys(begin for begin in begins if begin in network))
    return [str(address) for address in found][:most]


@lru_cache(_REMEMBERED)
def _number(host: str) -> tuple[int, int]:
    """Return (IP version, the address as a number).  @raise ValueError: the text is no numeric address."""
    # A flood of forged addresses comes by here: ip_address takes ten times as long.
    with suppress(OSError):
        return 4, int.from_bytes(inet_pton(AF_INET, host), "big")
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.version, int(address)


def networkOf(host: str) -> str:
    """Return what an address has in common with those of its network: 24 bits, or 64 in IPv6."""
    version, number = _number(host)
    return f"{version}:{number >> (8 if version == 4 else 64):x}"
