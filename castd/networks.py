"""
Tests whether the address of a client is in a set of IP networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from castd.options import AnyNetwork

#: The most addresses whose numbers are cached: a machine that boots asks for many files.
_REMEMBERED = 8192


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
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.version, int(address)
