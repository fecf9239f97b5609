"""
Which clients are meant: a set of networks that is asked for every request.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from castd.options import AnyNetwork

#: Addresses whose numbers are remembered; a hall of machines asks for many files each.
_REMEMBERED = 8192


class Networks:
    """
    Networks of both families; a client's numeric address is C{in} them or not.

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
