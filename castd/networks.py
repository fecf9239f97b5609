"""
Sets of IP networks, to which a client belongs or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from castd.options import AnyNetwork

#: How many addresses are kept as numbers: a machine that boots asks for many files.
_REMEMBERED = 8192


class Networks:
    """
    A set of IPv4 and IPv6 networks; a client's numeric address is C{in} it or not.

    An IPv4 client that comes through an IPv6 socket (C{::ffff:10.0.0.5}) counts as the IPv4 client it is.
    """

    def __init__(self, networks: Iterable[AnyNetwork]) -> None:
        self._networks = tuple(
            (network.version, int(network.network_address), int(network.netmask)) for network in networks
        )

    def __contains__(self, host: str) -> bool:
        version, number = _number(host)
        return any(kind == version and number & mask == net for kind, net, mask in self._networks)


@lru_cache(_REMEMBERED)
def _number(host: str) -> tuple[int, int]:
    """-> (version, the address as a number).  @raise ValueError: a name, not an address."""
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.version, int(address)
